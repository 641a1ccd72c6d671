"""Where a handler runs: in the event loop, or in worker threads.

An executor only runs ticks that a worker leased; order, counting and error reports are the worker's. A runner says how far it came,
also when it was cancelled, so that no tick of a batch is without an outcome.
"""

from __future__ import annotations

import functools
import inspect
import time
import typing
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Literal, TypeVar

import attrs
import trio

from .errors import ConfigError
from .gaps import Gap

__all__ = ["BatchOutcome", "Executor", "Handler", "ThreadRunner", "resolve_executor", "returns_awaitable", "takes_gaps"]

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


@attrs.define(slots=True)
class BatchOutcome(Generic[T]):
    """How far a batch came: the first ``done`` of ``items`` have an outcome, ``failures`` says which of them raised."""

    items: Sequence[T]
    done: int = 0
    failures: list[tuple[int, Exception]] = attrs.field(factory=list)
    durations_s: list[float] = attrs.field(factory=list)
    abandoned: bool = False


def _run_batch(handler: Callable[[T], Any], outcome: BatchOutcome[T]) -> None:
    clock = time.perf_counter
    began = clock()
    for index, item in enumerate(outcome.items):
        if outcome.abandoned:
            return
        try:
            result = handler(item)
            if result is not None and inspect.iscoroutine(result):
                result.close()
                raise TypeError("the handler is a plain callable that returned a coroutine: make it an async def")
        except Exception as error:
            if outcome.abandoned:
                return
            outcome.failures.append((index, error))
        ended = clock()
        outcome.durations_s.append(ended - began)
        began = ended
        outcome.done = index + 1


class ThreadRunner(Generic[T]):
    """Runs batches in trio's worker threads, which are kept and used again; at most *limit* at once."""

    def __init__(self, handler: Callable[[T], Any], limit: int) -> None:
        self._handler = handler
        self._limiter = trio.CapacityLimiter(limit)

    async def run(self, outcome: BatchOutcome[T]) -> None:
        """Run the handler over ``outcome.items`` in one thread, filling in *outcome*.

        Cancellation: the thread is abandoned at once; it finishes the tick that it is in, which then has no say any more, and starts no
        further one. *outcome* holds what was done until then.
        """
        try:
            await trio.to_thread.run_sync(_run_batch, self._handler, outcome, limiter=self._limiter, abandon_on_cancel=True)
        except BaseException:
            outcome.abandoned = True
            raise
