"""Where a handler runs: in the event loop, in worker threads, in worker processes. What a batch is, and who can run one.

An executor only runs ticks that a worker leased; order, counting and error reports are the worker's. A runner says how far it came,
also when it was cancelled, so that no tick of a batch is without an outcome.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import typing
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

import trio

from .errors import ConfigError
from .gaps import Gap
from .handling import BatchError, batch_options, checked_failures, is_async
from .signatures import misfit

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["Batch", "Executor", "Handler", "LoopRunner", "Place", "Runner", "ThreadRunner", "failures_of", "resolve_executor", "takes_gaps"]

_COROUTINE = "the handler is a plain callable in a thread, and returned a coroutine, which nobody awaits there: make it an async def"

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class _Takes(Protocol[T_contra]):
    def __call__(self, tick: T_contra, /) -> Any: ...


Handler = Callable[[T], Awaitable[Any]] | Callable[[T], Any] | type[_Takes[T]]
Executor = Literal["auto", "loop", "thread", "process"]
Place = Literal["loop", "thread", "process"]


def takes_gaps(handler: Callable[..., Any]) -> bool:
    """Tell whether *handler*'s annotation says that its first argument may be a :class:`~trio_ticks.Gap`, or a batch of them."""
    batched = batch_options(handler) is not None
    while isinstance(handler, functools.partial):
        handler = handler.func
    function = handler if inspect.isroutine(handler) else getattr(handler, "__call__", handler)  # noqa: B004
    try:
        hints = typing.get_type_hints(function)
        names = list(inspect.signature(function).parameters)
        # Of a class it is a function still, with a self.
        first = names[inspect.isclass(handler)] if names else ""
    except (IndexError, NameError, TypeError, ValueError):
        # Annotations that cannot be read (names of a type-checking block) say nothing.
        return False
    hint = hints.get(first)
    inner = typing.get_args(hint)
    return hint is Gap or Gap in inner or (batched and any(Gap in typing.get_args(member) for member in inner))


def _yields(handler: Callable[..., Any]) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    functions = (handler, getattr(handler, "__call__", None))  # noqa: B004
    return any(inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function) for function in functions)


def resolve_executor(executor: str, handler: object) -> Place:
    """Return where *handler* runs.

    Raises:
        ConfigError: *handler* is not callable, or cannot run where it was asked to.
    """
    if not callable(handler):
        raise ConfigError(f"handler must be a function or another callable that takes one tick, got {handler!r}")
    if inspect.isclass(handler):
        _check_class(handler)
    elif isinstance(handler, functools.partial):
        _check_partial(handler)
    if _yields(handler):
        raise ConfigError(f"handler must not have a yield: to call it would run not one line of it, got {handler!r}")
    if why := misfit(handler, 1):
        given = "one tick" if batch_options(handler) is None else "a list of ticks"
        raise ConfigError(f"handler is called with {given}, which it cannot take: {why}; got {handler!r}")
    awaits = is_async(handler)
    if executor == "auto":
        return "loop" if awaits else "thread"
    if executor == "thread" and awaits:
        raise ConfigError('an async handler runs in the event loop: leave executor="auto", or make the handler a plain def')
    if executor == "loop" and batch_options(handler) is not None and not awaits:
        raise ConfigError('a batch handler that is a plain def would stop the event loop: leave executor="auto", or make it async')
    if executor in ("loop", "thread", "process"):
        return typing.cast(Place, executor)
    raise ConfigError(f'executor must be "auto", "loop", "thread" or "process", got {executor!r}')


def _check_class(handler: type) -> None:
    if not any("__call__" in vars(base) for base in handler.__mro__):
        raise ConfigError(f"a handler that is a class makes a handler per worker, and needs a method __call__(self, tick), got {handler!r}")
    try:
        inspect.signature(handler).bind()
    except TypeError as error:
        raise ConfigError(f"a handler that is a class is called without arguments, once per worker; {handler!r}: {error}") from None
    except ValueError:
        pass  # it has no signature to read


def _check_partial(handler: functools.partial[Any]) -> None:
    inner: object = handler
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.isclass(inner):
        name = inner.__name__
        raise ConfigError(
            f"a partial of the class {name} as the handler would only make an object of each tick: give handler={name}, made "
            f"without arguments once per worker; or a subclass of it that fills them in; or {name}(...), one object that all share"
        )


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
        self.failures: list[tuple[int, Exception]] = []
        """Which ticks failed, by their index in ``items``, and how."""
        self.thread: int | None = None
        """The thread that runs it now."""
        self.sent_at = 0.0
        """When it was handed to its runner; on trio's clock."""
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
        self.failures = []
        self.began_at = []


IsStale = Callable[[Any, float], bool]


class Runner(Protocol[T]):
    """Runs the batches of a pool's workers."""

    calls_back: bool
    """Whether what a batch has not begun can be called back while it runs."""

    async def run(self, worker: Worker[Any], batch: Batch[T]) -> None:
        """Run *worker*'s handler over *batch*, until its end or its first failure; whatever raises, *batch* says how far it came."""


def _run_batch(handler: Callable[[T], Any], batch: Batch[T], now: Callable[[], float], is_stale: IsStale | None) -> None:
    batch.thread = threading.get_ident()
    take, began = batch.todo.popleft, batch.began_at.append
    while not batch.failures:
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
                raise TypeError(f'{_COROUTINE}, or give executor="loop", where it is awaited')
        except Exception as error:
            batch.failures.append((batch.done, error))
        batch.done += 1
    began(now())
    batch.thread = None


def failures_of(error: Exception, count: int) -> list[tuple[int, Exception]]:
    """Return which of *count* ticks of a batch failed: those that a BatchError names, else all."""
    if isinstance(error, BatchError):
        try:
            failures = checked_failures(error.failures)
        except (AttributeError, TypeError) as wrong:
            # A subclass with an __init__ of its own, or changed since.
            return [(index, wrong) for index in range(count)]
        outside = sorted(index for index in failures if not 0 <= index < count)
        if not outside:
            return sorted(failures.items(), key=lambda failure: failure[0])
        error.args = (f"a BatchError names {outside}, but the batch has the indexes 0 to {count - 1}: all of it counts as failed",)
    return [(index, error) for index in range(count)]


def _run_whole(handler: Callable[[list[T]], Any], batch: Batch[T], now: Callable[[], float]) -> None:
    """Hand all of *batch* to *handler* at once: for batch handlers."""
    batch.thread = threading.get_ident()
    batch.todo.clear()
    batch.began_at.append(now())
    try:
        result = handler(list(batch.items))
        if result is not None and inspect.iscoroutine(result):
            result.close()
            raise TypeError(_COROUTINE)
    except Exception as error:
        batch.failures = failures_of(error, len(batch.items))
    batch.began_at.append(now())
    batch.done = len(batch.items)
    batch.thread = None


class ThreadRunner(Generic[T]):
    """Runs batches in trio's worker threads, which are kept and used again; at most *limit* at once."""

    def __init__(self, limit: int, is_stale: IsStale | None, *, whole: bool) -> None:
        self._is_stale = is_stale
        self._whole = whole
        # A batch handler gets all its ticks at once: called back before its thread has begun, they would leave it an empty batch.
        self.calls_back = not whole
        self._now = trio.lowlevel.current_clock().current_time
        self.limiter = trio.CapacityLimiter(limit)
        self._left = threading.Event()
        """Set when threads were left behind: all of a pool's are at once."""

    def pause(self, worker: Worker[Any], seconds: float) -> bool:
        """Have *worker*'s thread wait between two tries; False where nobody is interested in the next one any more."""
        worker.pausing = True
        try:
            return not self._left.wait(seconds)
        finally:
            worker.pausing = False

    async def run(self, worker: Worker[Any], batch: Batch[T]) -> None:
        """Run *worker*'s handler over *batch* in one thread.

        Cancellation: the thread is abandoned at once; it finishes the tick that it is in, which then has no say any more, and begins no
        further one. *batch* holds what was done until then.
        """
        try:
            if self._whole:
                await trio.to_thread.run_sync(_run_whole, worker.handler, batch, self._now, limiter=self.limiter, abandon_on_cancel=True)
            else:
                await trio.to_thread.run_sync(
                    _run_batch, worker.handler, batch, self._now, self._is_stale, limiter=self.limiter, abandon_on_cancel=True
                )
        except BaseException:
            self._left.set()
            batch.todo.clear()
            raise


class LoopRunner(Generic[T]):
    """Runs async batch handlers in the event loop."""

    calls_back = False

    def __init__(self) -> None:
        self._now = trio.lowlevel.current_clock().current_time

    async def run(self, worker: Worker[Any], batch: Batch[T]) -> None:
        """Await *worker*'s handler with all of *batch*.

        Cancellation: passed on to the handler; none of the batch has an outcome then.
        """
        batch.todo.clear()
        batch.began_at.append(self._now())
        try:
            await worker.handler(list(batch.items))
        except Exception as error:
            batch.failures = failures_of(error, len(batch.items))
        batch.began_at.append(self._now())
        batch.done = len(batch.items)
        await trio.lowlevel.checkpoint()  # the handler may have had none, and there may be no end of batches
