"""The life of a handler: it is made, entered before its first tick, and left after its last.

Rules: a class makes one handler per worker, anything else is shared; who was entered is left, whatever happened in between, and that
a handler's exit returns true hides no error of ours. A plain handler of worker threads has its life in threads: it may block.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from .failures import log_second, split

__all__ = ["Lives", "open_handler"]

logger = logging.getLogger("trio_ticks.workers")

_LEAVE_S = 5.0
"""How long a plain handler's ``__exit__`` may take in its thread before it is left behind, in seconds."""


@asynccontextmanager
async def open_handler(handler: Any, *, in_thread: bool = False) -> AsyncIterator[Callable[..., Any]]:
    """Make *handler* ready: a class is instantiated, and what has ``__aenter__`` or ``__enter__`` is entered, and left at the end.

    What entering returns is the handler, if it can be called. With *in_thread*, what is not async runs in a worker thread.

    Cancellation: the handler is left as by any exception; the set-up in a thread is not waited for, but should it succeed, it is left
    again in its thread.
    """
    instance, entered = await (_enter_in_thread if in_thread else _enter)(handler)
    try:
        yield entered if callable(entered) else instance
    except BaseException as error:
        swallowed = await _leave(instance, error, in_thread=in_thread)  # noqa: ASYNC102  # it is the handler's own, and has its say
        # A scope that an asynchronous handler entered may have been meant by a cancellation; errors are not a handler's to swallow.
        if not swallowed or split(error)[0] is None:
            raise
    else:
        await _leave(instance, None, in_thread=in_thread)


def _make(handler: Any) -> Any:
    return handler() if inspect.isclass(handler) else handler


def _has(instance: Any, method: str) -> bool:
    return hasattr(type(instance), method) and not inspect.isroutine(instance) and not isinstance(instance, functools.partial)


async def _enter(handler: Any) -> tuple[Any, Any]:
    instance = _make(handler)
    if _has(instance, "__aenter__"):
        return instance, await type(instance).__aenter__(instance)
    return instance, type(instance).__enter__(instance) if _has(instance, "__enter__") else None


async def _enter_in_thread(handler: Any) -> tuple[Any, Any]:
    lock = threading.Lock()
    entered: list[Any] = []
    abandoned = threading.Event()

    def enter() -> tuple[Any, Any]:
        instance = _make(handler)
        life = not _has(instance, "__aenter__") and _has(instance, "__enter__")
        result = instance, type(instance).__enter__(instance) if life else None
        if life:
            with lock:
                late = abandoned.is_set()
                if not late:
                    entered.append(instance)
            if late:
                type(instance).__exit__(instance, None, None, None)
        return result

    try:
        instance, result = await trio.to_thread.run_sync(enter, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)
    except trio.Cancelled as cancelled:
        with lock:
            abandoned.set()
        if entered:
            await _leave(entered[0], cancelled, in_thread=True)  # noqa: ASYNC102  # shielded in there
        raise
    return instance, await type(instance).__aenter__(instance) if _has(instance, "__aenter__") else result


async def _leave(instance: Any, error: BaseException | None, *, in_thread: bool) -> bool:
    """Leave *instance*, which was entered; True where it is asynchronous and says that *error* is dealt with."""
    reason = (type(error), error, error.__traceback__) if error is not None else (None, None, None)
    if _has(instance, "__aenter__"):
        return bool(await type(instance).__aexit__(instance, *reason))
    if _has(instance, "__enter__"):
        leave = functools.partial(type(instance).__exit__, instance, *reason)
        if not in_thread:
            leave()
            return False
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _LEAVE_S) as scope:
            await trio.to_thread.run_sync(leave, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)
        if scope.cancelled_caught:
            facts = {"handler": repr(instance), "waited_s": _LEAVE_S}
            logger.error("handler.exit_hangs: %r was left behind after %g s in its __exit__", instance, _LEAVE_S, extra=facts)
    return False


class Lives:
    """Opens the handlers of a pool's workers. Of what several raise on their way in or out, the first is raised, the rest logged.

    Args:
        handler: a class makes one per worker; anything else is to be opened once.
        in_thread: whether what is not async has its life in worker threads.
    """

    def __init__(self, handler: Any, *, in_thread: bool) -> None:
        self.per_worker = inspect.isclass(handler)
        self._handler = handler
        self._in_thread = in_thread
        self.error: BaseException | None = None
        """What the first to fail on its way in or out raised."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Callable[..., Any]]:
        """Open a handler; see :func:`open_handler`.

        Cancellation: as there.
        """
        body: BaseException | None = None
        try:
            async with open_handler(self._handler, in_thread=self._in_thread) as handler:
                try:
                    yield handler
                except BaseException as error:
                    body = error
                    raise
        except BaseException as error:
            if error is not body and split(error)[0] is None:
                if self.error is not None:
                    log_second(error)
                    # The first one is about to cancel all of us; an error more would make a group of both.
                    await trio.sleep_forever()  # noqa: ASYNC102  # until it is cancelled, at once
                self.error = error
            raise
