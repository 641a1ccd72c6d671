"""Where a handler runs: in the event loop, or in worker threads.

An executor only runs ticks that a worker leased; order, counting and error reports are the worker's. A runner says how far it came,
also when it was cancelled, so that no tick of a batch is without an outcome.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Literal, TypeVar

import trio

from .errors import ConfigError
from .gaps import Gap

__all__ = ["Batch", "Executor", "Handler", "ThreadRunner", "resolve_executor", "returns_awaitable", "takes_gaps"]

T = TypeVar("T")
Handler = Callable[[T], Awaitable[Any]] | Callable[[T], Any]
Executor = Literal["auto", "loop", "thread"]


def returns_awaitable(handler: Callable[..., Any]) -> bool:
    """Tell whether calling *handler* gives something to await: ``async def``, also behind ``partial`` or ``__call__``."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def takes_gaps(handler: Callable[..., Any]) -> bool:
    """Tell whether *handler*'s annotation says that its first argument may be a :class:`~trio_ticks.Gap`."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    function = handler if inspect.isroutine(handler) else getattr(handler, "__call__", handler)  # noqa: B004
    try:
        hints = typing.get_type_hints(function)
        first = next(iter(inspect.signature(function).parameters), None)
    except (NameError, TypeError, ValueError):
        # Annotations that cannot be read (names of a type-checking block) say nothing.
        return False
    hint = hints.get(first or "")
    return hint is Gap or Gap in typing.get_args(hint)


def _yields(handler: Callable[..., Any]) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    functions = (handler, getattr(handler, "__call__", None))  # noqa: B004
    return any(inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function) for function in functions)


def resolve_executor(executor: str, handler: object) -> Literal["loop", "thread"]:
    """Return where *handler* runs.

    Raises:
        ConfigError: *handler* is not callable, or cannot run where it was asked to.
    """
    if not callable(handler):
        raise ConfigError(f"handler must be a function or another callable that takes one tick, got {handler!r}")
    if _yields(handler):
        raise ConfigError(f"handler must not have a yield: to call it would run not one line of it, got {handler!r}")
    is_async = returns_awaitable(handler)
    if executor == "auto":
        return "loop" if is_async else "thread"
    if executor == "thread" and is_async:
        raise ConfigError('an async handler runs in the event loop: leave executor="auto", or make the handler a plain def')
    if executor == "loop":
        return "loop"
    if executor == "thread":
        return "thread"
    raise ConfigError(f'executor must be "auto", "loop" or "thread", got {executor!r}')


class Batch(Generic[T]):
    """Ticks on their way through a thread, and how far they came.

    The first ``done`` of ``items`` have an outcome; what is still in ``todo`` has not been begun, and can be called back. A failure ends
    the batch, so that it can be reported before the symbol's next tick is begun. There is no lock: thread and loop share ``todo``,
    whose two ends are popped atomically, and else each attribute has one writer.
    """

    def __init__(self, items: list[T], arrivals: list[float], symbols: set[str]) -> None:
        self.items = items
        self.arrivals = arrivals
        self.symbols = symbols
        """The symbols that are leased for it."""
        self.todo = deque(zip(items, arrivals, strict=True))
        self.telling: set[str] = set()
        """Symbols whose gap or failure is being told: their next ticks must not begin, wherever they are."""
        self.done = 0
        self.stale: list[int] = []
        self.failure: tuple[int, Exception] | None = None
        self.began_at: list[float] = []
        """When each tick's turn came, and in the end when the last one's was over; on trio's clock."""

    def call_back(self) -> list[tuple[T, float]]:
        """Remove and return what has not been begun, with its arrivals, the last first."""
        rest: list[tuple[T, float]] = []
        with contextlib.suppress(IndexError):
            while True:
                rest.append(self.todo.pop())
        keep = len(self.items) - len(rest)
        del self.items[keep:], self.arrivals[keep:]
        return rest

    def settle(self) -> None:
        """Forget what has an outcome, so that what is left can be run."""
        del self.items[: self.done], self.arrivals[: self.done]
        self.done = 0
        self.stale = []
        self.failure = None
        self.began_at = []


IsStale = Callable[[Any, float], bool]


def _run_batch(handler: Callable[[T], Any], batch: Batch[T], now: Callable[[], float], is_stale: IsStale | None) -> None:
    take, began = batch.todo.popleft, batch.began_at.append
    while batch.failure is None:
        try:
            item, arrived = take()
        except IndexError:
            break
        began(now())
        if is_stale is not None and is_stale(item, arrived):
            batch.stale.append(batch.done)
            batch.done += 1
            continue
        try:
            result = handler(item)
            if result is not None and inspect.iscoroutine(result):
                result.close()
                raise TypeError("the handler is a plain callable that returned a coroutine: make it an async def")
        except Exception as error:
            batch.failure = (batch.done, error)
        batch.done += 1
    began(now())


class ThreadRunner(Generic[T]):
    """Runs batches in trio's worker threads, which are kept and used again; at most *limit* at once."""

    def __init__(self, handler: Callable[[T], Any], limit: int, is_stale: IsStale | None) -> None:
        self._handler = handler
        self._is_stale = is_stale
        self._now = trio.lowlevel.current_clock().current_time
        self._limiter = trio.CapacityLimiter(limit)

    async def run(self, batch: Batch[T]) -> None:
        """Run the handler over *batch* in one thread.

        Cancellation: the thread is abandoned at once; it finishes the tick that it is in, which then has no say any more, and begins no
        further one. *batch* holds what was done until then.
        """
        try:
            await trio.to_thread.run_sync(
                _run_batch, self._handler, batch, self._now, self._is_stale, limiter=self._limiter, abandon_on_cancel=True
            )
        except BaseException:
            batch.todo.clear()
            raise
