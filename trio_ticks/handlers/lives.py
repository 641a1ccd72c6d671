"""The life of a handler: made, entered before its first tick, left after its last.

Rules: a class makes one handler per worker, unless it is to be shared; any other
handler is shared by all. Every handler that was entered is left, whatever
happens in between. An ``__exit__`` that returns true hides no error of ours. A plain
handler of worker threads is entered and left in threads, where it may block.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from ..failures import log_second, split
from ..logs import log_event
from ..uninterrupted import await_theirs, call_theirs, interruptible

__all__ = ["Lives", "open_handler"]

logger = logging.getLogger("trio_ticks.workers")

_LEAVE_S = 5.0
"""How long the ``__exit__`` of a plain handler may take in its thread, in seconds.

After that the thread is abandoned.
"""


@asynccontextmanager
async def open_handler(
    handler: Any, *, in_thread: bool = False
) -> AsyncIterator[Callable[..., Any]]:
    """Make *handler* ready: instantiate a class, enter a context manager.

    It is entered by its ``__aenter__`` or its ``__enter__``, and left at the end. If
    entering returns something that can be called, that is the handler. With
    *in_thread*, whatever is not async runs in a worker thread.

    Cancellation: the handler is left, as by any exception. Entering in a thread is not
    waited for; if it succeeds later, the handler is left again in that thread.
    """
    instance, entered = await (_enter_in_thread if in_thread else _enter)(handler)
    ready = entered if callable(entered) else instance
    interruptible(ready)
    try:
        yield ready
    except BaseException as error:
        swallowed = await _leave(instance, error, in_thread=in_thread)  # noqa: ASYNC102  # the handler's own checkpoints
        # An async handler may have entered a cancel scope that this cancellation
        # belongs to: then it may swallow it. An error is not a handler's to swallow.
        if not swallowed or split(error)[0] is None:
            raise
    else:
        await _leave(instance, None, in_thread=in_thread)


def _make(handler: Any) -> Any:
    return call_theirs(handler) if inspect.isclass(handler) else handler


def _has(instance: Any, method: str) -> bool:
    return (
        hasattr(type(instance), method)
        and not inspect.isroutine(instance)
        and not isinstance(instance, functools.partial)
        and not _is_mock(instance)
    )


def _is_mock(instance: Any) -> bool:
    """Tell whether *instance* is a mock of ``unittest.mock``.

    A mock has every method. Entering it would return another mock, which then would
    handle the ticks, so mocks are not entered.
    """
    mock = sys.modules.get("unittest.mock")
    return mock is not None and isinstance(instance, mock.NonCallableMock)


async def _enter(handler: Any) -> tuple[Any, Any]:
    instance = _make(handler)
    if _has(instance, "__aenter__"):
        return instance, await await_theirs(type(instance).__aenter__, instance)
    if _has(instance, "__enter__"):
        return instance, call_theirs(type(instance).__enter__, instance)
    return instance, None


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
        instance, result = await trio.to_thread.run_sync(
            enter, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
        )
    except trio.Cancelled as cancelled:
        with lock:
            abandoned.set()
        if entered:
            await _leave(entered[0], cancelled, in_thread=True)  # noqa: ASYNC102  # shielded in there
        raise
    if _has(instance, "__aenter__"):
        result = await await_theirs(type(instance).__aenter__, instance)
    return instance, result


async def _leave(instance: Any, error: BaseException | None, *, in_thread: bool) -> bool:
    """Leave *instance*; return whether it is async and swallows *error*."""
    reason = (type(error), error, error.__traceback__) if error is not None else (None, None, None)
    if _has(instance, "__aenter__"):
        return bool(await await_theirs(type(instance).__aexit__, instance, *reason))
    if _has(instance, "__enter__"):
        leave = functools.partial(type(instance).__exit__, instance, *reason)
        if not in_thread:
            call_theirs(leave)
            return False
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _LEAVE_S) as scope:
            await trio.to_thread.run_sync(
                leave, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
            )
        if scope.cancelled_caught:
            log_event(
                logger,
                logging.ERROR,
                "handler.exit_hangs",
                "%r was left behind after %g s in its __exit__",
                instance,
                _LEAVE_S,
                handler=repr(instance),
                waited_s=_LEAVE_S,
            )
    return False


class Lives:
    """Open the handlers of a pool's workers.

    If several of them raise on their way in or out, the first error is raised, and the
    others are logged.

    Args:
        handler: a class makes one handler per worker; any other is opened once.
        in_thread: whether a handler that is not async is entered and left in threads.
        shared: whether a class makes one handler for all workers, too.
    """

    def __init__(self, handler: Any, *, in_thread: bool, shared: bool = False) -> None:
        self.per_worker = inspect.isclass(handler) and not shared
        self._handler = handler
        self._in_thread = in_thread
        self.error: BaseException | None = None
        """The first error that a handler raised on its way in or out."""

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
                    # The first error is about to cancel every worker. Raising this one
                    # too would make a group of both.
                    await trio.sleep_forever()  # noqa: ASYNC102  # until it is cancelled, at once
                self.error = error
            raise
