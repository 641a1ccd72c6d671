"""How a user's handler is made ready: one tick or many, a limit on its time, another try. The workers see one callable.

Rules: a wrapped handler still handles one tick at a time and raises what the user raised; a try that is to be followed by another is
part of the same handling, so the symbol's next tick waits. Its life cycle is in lives.py.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, overload

import attrs
import trio

from .errors import ConfigError, HandlerTimeoutError
from .lives import open_handler

__all__ = [
    "BatchError",
    "BatchOptions",
    "Hooks",
    "Retry",
    "batch_handler",
    "batch_options",
    "checked_failures",
    "is_async",
    "open_handler",
    "prepared",
]

F = TypeVar("F", bound=Callable[..., Any])


def _kinds(value: type[Exception] | Iterable[type[Exception]]) -> tuple[type[Exception], ...]:
    if isinstance(value, type):
        return (value,)
    # What is none at all is left to the validator, and a text is not several of them.
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)


def _check_kinds(_instance: object, field: attrs.Attribute[Any], value: tuple[Any, ...]) -> None:
    if not value or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in value):
        shown = value[0] if len(value) == 1 else value
        raise ConfigError(
            f"{field.name} must name the classes of exceptions that another try may cure, such as (TimeoutError, OSError), got {shown!r}"
        )


def _check_attempts(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise ConfigError(f"{field.name} must be a whole number, 2 or more, the first try included, got {value!r}")


def _check_seconds(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigError(f"{field.name} must be a number of seconds, 0 or more, got {value!r}")


@attrs.frozen(slots=True)
class Retry:
    """Try a tick again where its handler raised something that another try may cure.

    The symbol's next ticks wait meanwhile, other symbols do not. After the last try the tick has failed, by what that one raised. An
    exception group is worth another try where all that it holds is.

    A batch handler is tried again with the whole batch, unless it raised a :class:`BatchError`: then the rest of the batch has been
    handled, and to go back to what failed would change the order.

    Raises:
        ConfigError: a setting is out of range.
    """

    on: tuple[type[Exception], ...] = attrs.field(converter=_kinds, validator=_check_kinds)
    """Which exceptions: a class, or several; named, since most mean a bug that the next try meets again."""
    attempts: int = attrs.field(default=3, validator=_check_attempts, kw_only=True)
    """Tries in all, the first included."""
    initial_s: float = attrs.field(default=0.05, validator=_check_seconds, kw_only=True)
    """The bound of the first wait between two tries, in seconds; of each wait a uniformly random part is waited ("full jitter")."""
    maximum_s: float = attrs.field(default=1.0, validator=_check_seconds, kw_only=True)
    """The bound doubles with every try, up to this."""

    def __attrs_post_init__(self) -> None:
        if self.initial_s > self.maximum_s:
            raise ConfigError(f"initial_s ({self.initial_s!r}) must not exceed maximum_s ({self.maximum_s!r})")

    def cures(self, error: Exception) -> bool:
        """Tell whether another try may cure *error*."""
        if isinstance(error, BatchError):
            return False
        return isinstance(error, self.on) or (isinstance(error, ExceptionGroup) and error.split(self.on)[1] is None)

    def waits(self) -> Iterator[float]:
        """Return how long to wait before each further try, in seconds."""
        bound = self.initial_s
        for _ in range(self.attempts - 1):
            yield bound * random.random()
            bound = min(2 * bound, self.maximum_s)


class BatchError(Exception):
    """Raise it from a batch handler to say which ticks of the batch failed; the others count as consumed.

    Args:
        failures: the exception for each tick that failed, by its index in the batch.

    Raises:
        TypeError: *failures* is something else.
    """

    def __init__(self, failures: Mapping[int, Exception]) -> None:
        self.failures = checked_failures(failures)
        super().__init__(f"{len(self.failures)} ticks of a batch failed")


def checked_failures(failures: object) -> dict[int, Exception]:
    """Return *failures* as a dictionary of its own, with whole numbers (NumPy's too) as ints.

    Raises:
        TypeError: they are no mapping from indexes to exceptions.
    """
    hint = 'BatchError takes the exception of each tick that failed, by its index in the batch, such as {0: ValueError("no bid")}'
    if not isinstance(failures, Mapping):
        raise TypeError(f"{hint}; got {failures!r}")
    checked: dict[int, Exception] = {}
    for index, error in failures.items():
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise TypeError(f"{hint}; the index {index!r} is no whole number")
        if not isinstance(error, Exception):
            raise TypeError(f"{hint}; for the index {index!r} it got {error!r}, which is no exception")
        checked[operator.index(index)] = error
    return checked


class HandlerSettings(Protocol):
    """What a pipeline's settings say about its handler."""

    @property
    def handler_timeout(self) -> float | None: ...

    @property
    def retry(self) -> Retry | None: ...


@attrs.frozen(slots=True)
class BatchOptions:
    """How a batch handler wants its batches."""

    max_size: int
    max_wait: float


@overload
def batch_handler(handler: F, /, *, max_size: int = 256, max_wait: float = 0.0) -> F: ...


@overload
def batch_handler(*, max_size: int = 256, max_wait: float = 0.0) -> Callable[[F], F]: ...


def batch_handler(*handler: Any, max_size: int = 256, max_wait: float = 0.0) -> Any:
    """Say that the decorated handler takes a list of ticks at a time, for strategies on arrays; with parentheses or without.

    The ticks of a batch are in order; with ``ordering="symbol"`` no other batch holds a tick of the same symbols meanwhile. An
    exception fails all the ticks of the batch, unless it is a :class:`BatchError`, which says which.

    Args:
        handler: what is decorated, where there are no parentheses.
        max_size: how many ticks a batch holds at most.
        max_wait: how long a batch may wait to be filled, in seconds; 0: it takes what is there.

    Raises:
        ConfigError: a setting is out of range, or what is decorated is no handler.
    """
    if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
        raise ConfigError(f"max_size must be a whole number of ticks, 1 or more, got {max_size!r}")
    if isinstance(max_wait, bool) or not isinstance(max_wait, int | float) or not 0 <= max_wait < math.inf:
        raise ConfigError(f"max_wait must be a number of seconds, 0 or more, got {max_wait!r}")

    mark = functools.partial(_marked, BatchOptions(max_size, max_wait))
    return mark(*handler) if handler else mark


def _marked(options: BatchOptions, *decorated: Any) -> Any:
    """Leave a note of *options* on a handler, or on what stands for it."""
    handler = decorated[0]
    if len(decorated) > 1 or not callable(handler):
        shown = ", ".join(map(repr, decorated))
        raise ConfigError(
            f"batch_handler decorates one handler, and its settings go by name, as in batch_handler(max_size=256); got {shown}"
        )
    if inspect.isroutine(handler) and not inspect.isfunction(handler):
        # A bound method, or what is written in C: there is no place for a note.
        handler = functools.partial(handler)
    try:
        handler.__trio_ticks_batch__ = options
    except AttributeError:
        raise ConfigError(
            f"batch_handler cannot mark an object with __slots__: decorate the __call__ of its class, got {handler!r}"
        ) from None
    return handler


def batch_options(handler: object) -> BatchOptions | None:
    """Return how *handler* wants its batches, or ``None`` where it takes one tick at a time."""
    options = getattr(handler, "__trio_ticks_batch__", None)
    while options is None and isinstance(handler, functools.partial):
        handler = handler.func
        options = getattr(handler, "__trio_ticks_batch__", None)
    if options is None and not inspect.isroutine(handler):
        options = getattr(getattr(handler, "__call__", None), "__trio_ticks_batch__", None)  # noqa: B004
    return options if isinstance(options, BatchOptions) else None


def is_async(handler: Callable[..., Any]) -> bool:
    """Tell whether calling *handler* gives something to await: ``async def``, also behind ``partial`` or ``__call__``."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return True


@attrs.frozen(slots=True)
class Hooks:
    """What a prepared handler tells its worker, and asks of it."""

    on_timeout: Callable[[Any, bool], None] = lambda _item, _cut_off: None
    """Called with what took too long, and whether it was cut off: False where it ended by itself, too late."""
    on_retry: Callable[[], None] = lambda: None
    """Called before each further try, in whatever thread the handler runs."""
    pause: Callable[[float], bool] = _pause
    """How a plain handler's thread waits between two tries: until the end (True), or until nobody is interested any more (False)."""


def prepared(handler: Callable[..., Any], settings: HandlerSettings, *, in_loop: bool, hooks: Hooks = Hooks()) -> Callable[..., Any]:
    """Return *handler* as the workers call it: with its time limit (in the loop) around each try, and its further tries."""
    if in_loop and not is_async(handler):
        handler = _as_async(handler)
    if in_loop and settings.handler_timeout is not None:
        handler = _with_timeout(handler, settings.handler_timeout, hooks)
    if settings.retry is not None:
        handler = (_with_retry if in_loop else _with_retry_in_thread)(handler, settings.retry, hooks)
    return handler


def _as_async(handler: Callable[[Any], Any]) -> Callable[[Any], Awaitable[Any]]:
    async def call(item: Any) -> Any:
        result = handler(item)
        return await result if inspect.isawaitable(result) else result

    return call


def _with_timeout(handler: Callable[[Any], Awaitable[Any]], timeout_s: float, hooks: Hooks) -> Callable[[Any], Awaitable[None]]:
    """Limit *handler*'s time: then it is cancelled, and the tick has failed by HandlerTimeoutError.

    As with ``trio.fail_after``, one that ends by itself all the same (in a shield, without a checkpoint, or since it swallowed the
    cancellation) has done what it did; that it took too long is counted and logged.
    """

    async def limited(item: Any) -> None:
        deadline = trio.current_time() + timeout_s
        scope = trio.CancelScope(deadline=deadline)
        try:
            with scope:
                await handler(item)
        finally:
            if scope.cancelled_caught or trio.current_time() >= deadline:
                hooks.on_timeout(item, scope.cancelled_caught)
        if scope.cancelled_caught:
            raise HandlerTimeoutError(f"the handler took longer than {timeout_s:g} s", timeout_s=timeout_s)

    return limited


def _with_retry(handler: Callable[[Any], Awaitable[Any]], retry: Retry, hooks: Hooks) -> Callable[[Any], Awaitable[None]]:
    async def retried(item: Any) -> None:
        for wait in retry.waits():
            try:
                await handler(item)
            except Exception as error:
                if not retry.cures(error):
                    raise
            else:
                return
            await trio.sleep(wait)
            hooks.on_retry()
        await handler(item)

    return retried


def _with_retry_in_thread(handler: Callable[[Any], Any], retry: Retry, hooks: Hooks) -> Callable[[Any], Any]:
    def retried(item: Any) -> Any:
        for wait in retry.waits():
            try:
                return handler(item)
            except Exception as error:
                if not retry.cures(error) or not hooks.pause(wait):
                    raise
            hooks.on_retry()
        return handler(item)

    return retried
