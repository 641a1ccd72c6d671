"""How a handler is made ready for the workers: with a time limit and further tries.

Rules: a prepared handler takes what the user's takes (one tick, or a batch) and raises
what the user's raises. All tries belong to one handling, so that the symbol's next tick
waits for the last of them. A handler's life cycle is in lives.py.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Protocol

import attrs
import trio

from ..errors import HandlerTimeoutError
from .kinds import is_coroutine_function
from .retry import Retry

__all__ = ["Around", "Hooks", "prepared"]


Around = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Returns what is called in the place of a handler, which it calls itself."""


class HandlerSettings(Protocol):
    """What a pipeline's settings say about its handler."""

    @property
    def handler_timeout(self) -> float | None: ...

    @property
    def retry(self) -> Retry | None: ...

    @property
    def around(self) -> Around | None: ...


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return True


@attrs.frozen(slots=True)
class Hooks:
    """What a prepared handler reports to its worker, and needs from it."""

    on_timeout: Callable[[Any, bool], None] = lambda _item, _cut_off: None
    """Called with an item that took too long, and whether its handler was cancelled.

    False: the handler ended by itself, too late.
    """
    on_retry: Callable[[], None] = lambda: None
    """Called before each further try, in the thread in which the handler runs."""
    pause: Callable[[float], bool] = _pause
    """Waits between two tries of a plain handler, in its thread.

    It returns True at the end of the wait, and False before it if the result of another
    try would not be used any more.
    """
    random: Random = attrs.field(kw_only=True)
    """The source of chance for the waits between tries."""


def prepared(
    handler: Callable[..., Any], settings: HandlerSettings, *, in_loop: bool, hooks: Hooks
) -> Callable[..., Any]:
    """Return *handler* as the workers call it.

    In the event loop a time limit is put around each try; further tries come around
    that.
    """
    if settings.around is not None:
        handler = settings.around(handler)
    if in_loop and not is_coroutine_function(handler):
        handler = _as_async(handler)
    if in_loop and settings.handler_timeout is not None:
        handler = _with_timeout(handler, settings.handler_timeout, hooks)
    if settings.retry is not None:
        handler = (_with_retry if in_loop else _with_retry_in_thread)(
            handler, settings.retry, hooks
        )
    return handler


def _as_async(handler: Callable[[Any], Any]) -> Callable[[Any], Awaitable[Any]]:
    @trio.lowlevel.disable_ki_protection
    async def call(item: Any) -> Any:
        # As await_theirs, and written out: to call that costs each tick a sixth more.
        result = handler(item)
        return await result if inspect.isawaitable(result) else result

    return call


def _with_timeout(
    handler: Callable[[Any], Awaitable[Any]], timeout_s: float, hooks: Hooks
) -> Callable[[Any], Awaitable[Any]]:
    """Limit the time of *handler*, as ``trio.fail_after`` does.

    A handler that reaches the limit is cancelled, and its tick has failed with
    HandlerTimeoutError. If it ends by itself all the same (in a shield, without a
    checkpoint, or because it swallowed the cancellation), its result stands, and the
    overrun is only counted and logged.
    """

    async def limited(item: Any) -> Any:
        value = None
        deadline = trio.current_time() + timeout_s
        scope = trio.CancelScope(deadline=deadline)
        try:
            with scope:
                value = await handler(item)
        finally:
            if scope.cancelled_caught or trio.current_time() >= deadline:
                hooks.on_timeout(item, scope.cancelled_caught)
        if scope.cancelled_caught:
            raise HandlerTimeoutError(
                f"the handler took longer than {timeout_s:g} s", timeout_s=timeout_s
            )
        return value

    return limited


def _with_retry(
    handler: Callable[[Any], Awaitable[Any]], retry: Retry, hooks: Hooks
) -> Callable[[Any], Awaitable[Any]]:
    async def retried(item: Any) -> Any:
        for wait in retry.waits(hooks.random):
            try:
                return await handler(item)
            except Exception as error:
                if not retry.cures(error):
                    raise
            await trio.sleep(wait)
            hooks.on_retry()
        return await handler(item)

    return retried


def _with_retry_in_thread(
    handler: Callable[[Any], Any], retry: Retry, hooks: Hooks
) -> Callable[[Any], Any]:
    def retried(item: Any) -> Any:
        for wait in retry.waits(hooks.random):
            try:
                return handler(item)
            except Exception as error:
                if not retry.cures(error) or not hooks.pause(wait):
                    raise
            hooks.on_retry()
        return handler(item)

    return retried
