"""Where a handler runs: in the event loop, or in worker threads.

An executor only runs ticks that a worker leased; order, counting and error reports are the worker's. A runner says how far it came,
also when it was cancelled, so that no tick of a batch is without an outcome.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
import typing
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

    The first ``done`` have an outcome, the first ``begun`` are out of reach; what lies behind can be called back at any time. A
    failure ends the batch, so that it can be reported before the symbol's next tick is begun.
    """

    def __init__(self, items: list[T], arrivals: list[float], symbols: set[str], now: Callable[[], float]) -> None:
        self.items = items
        self.arrivals = arrivals
        self.symbols = symbols
        """The symbols that are leased for it."""
        self.done = 0
        self.begun = 0
        self.stale = 0
        self.failure: tuple[T, Exception] | None = None
        self.durations_s: list[float] = []
        self.began_at: list[float] = []
        """When each tick's turn came, on the clock given by *now*."""
        self.changed_at = now()
        """When the batch, or the last tick, was begun."""
        self._now = now
        self._lock = threading.Lock()
        self._abandoned = False

    def begin(self) -> int | None:
        """Return the index of the next tick to handle, which is now out of reach; ``None`` where there is none left."""
        with self._lock:
            if self._abandoned or self.failure is not None or self.begun >= len(self.items):
                return None
            self.begun += 1
            self.changed_at = self._now()
            return self.begun - 1

    def call_back(self) -> list[tuple[T, float]]:
        """Remove and return what has not been begun, with its arrivals."""
        with self._lock:
            rest = list(zip(self.items[self.begun :], self.arrivals[self.begun :], strict=True))
            del self.items[self.begun :], self.arrivals[self.begun :]
        return rest

    def settle(self) -> None:
        """Forget what has an outcome, so that what is left can be run."""
        with self._lock:
            del self.items[: self.done], self.arrivals[: self.done]
            self.begun -= self.done
            self.done = self.stale = 0
            self.failure = None
            self.durations_s, self.began_at = [], []

    def abandon(self) -> None:
        """Begin no further tick, and give the one under way no say any more."""
        with self._lock:
            self._abandoned = True

    def end(self, error: Exception | None, duration_s: float, *, stale: bool = False) -> None:
        """Take note of a tick's outcome, unless the batch was abandoned meanwhile."""
        with self._lock:
            if self._abandoned:
                return
            if error is not None:
                self.failure = (self.items[self.done], error)
            self.stale += stale
            if not stale:
                self.durations_s.append(duration_s)
                self.began_at.append(self.changed_at)
            self.done += 1


IsStale = Callable[[Any, float], bool]


def _run_batch(handler: Callable[[T], Any], batch: Batch[T], is_stale: IsStale) -> None:
    clock = time.perf_counter
    while (index := batch.begin()) is not None:
        item, error = batch.items[index], None
        if is_stale(item, batch.arrivals[index]):
            batch.end(None, 0.0, stale=True)
            continue
        began = clock()
        try:
            result = handler(item)
            if result is not None and inspect.iscoroutine(result):
                result.close()
                raise TypeError("the handler is a plain callable that returned a coroutine: make it an async def")
        except Exception as raised:
            error = raised
        batch.end(error, clock() - began)


class ThreadRunner(Generic[T]):
    """Runs batches in trio's worker threads, which are kept and used again; at most *limit* at once."""

    def __init__(self, handler: Callable[[T], Any], limit: int, is_stale: IsStale) -> None:
        self._handler = handler
        self._is_stale = is_stale
        self._limiter = trio.CapacityLimiter(limit)

    async def run(self, batch: Batch[T]) -> None:
        """Run the handler over *batch* in one thread.

        Cancellation: the thread is abandoned at once; it finishes the tick that it is in, which then has no say any more, and begins no
        further one. *batch* holds what was done until then.
        """
        try:
            await trio.to_thread.run_sync(_run_batch, self._handler, batch, self._is_stale, limiter=self._limiter, abandon_on_cancel=True)
        except BaseException:
            batch.abandon()
            raise
