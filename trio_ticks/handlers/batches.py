"""Handlers that take several ticks at a time, and how they say which ticks failed.

Rules: nothing here knows trio.
"""

from __future__ import annotations

import functools
import inspect
import operator
import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, overload

import attrs

from ..checks import check_count, check_seconds, is_index
from ..errors import ConfigError

__all__ = [
    "BatchError",
    "BatchOptions",
    "batch_handler",
    "batch_options",
    "checked_failures",
    "failures_of",
    "values_of",
]

F = TypeVar("F", bound=Callable[..., Any])


class BatchError(Exception):
    """Raise it from a batch handler to say which ticks of the batch failed.

    The other ticks of the batch count as consumed.

    Args:
        failures: the exception for each tick that failed, by its index in the batch.

    Raises:
        TypeError: *failures* is no mapping from indexes to exceptions.
    """

    def __init__(self, failures: Mapping[int, Exception]) -> None:
        self.failures = checked_failures(failures)
        super().__init__(f"{len(self.failures)} ticks of a batch failed")


def checked_failures(failures: object) -> dict[int, Exception]:
    """Return *failures* as a new dictionary, with whole numbers (NumPy's too) as ints.

    Raises:
        TypeError: they are no mapping from indexes to exceptions.
    """
    hint = (
        "BatchError takes the exception of each tick that failed, by its index in the batch, "
        'such as {0: ValueError("no bid")}'
    )
    if not isinstance(failures, Mapping):
        raise TypeError(f"{hint}; got {failures!r}")
    checked: dict[int, Exception] = {}
    for index, error in failures.items():
        if not is_index(index):
            raise TypeError(f"{hint}; the index {index!r} is no whole number")
        if not isinstance(error, Exception):
            raise TypeError(
                f"{hint}; for the index {index!r} it got {error!r}, which is no exception"
            )
        checked[operator.index(index)] = error
    return checked


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
    """Mark a handler that takes a list of ticks at a time, for strategies on arrays.

    A decorator, with parentheses or without. The ticks of a batch are in order; with
    ``ordering="symbol"`` no other batch holds a tick of the same symbols meanwhile. An
    exception fails all the ticks of the batch, unless it is a :class:`BatchError`,
    which names those that failed.

    Args:
        handler: the handler, where the decorator has no parentheses.
        max_size: how many ticks a batch holds at most.
        max_wait: how long a batch may wait to be filled, in seconds; 0: a batch takes
            the ticks that are queued.

    Raises:
        ConfigError: a setting is out of range, or the decorated object is no handler.
    """
    check_count("max_size", max_size, of="ticks")
    check_seconds("max_wait", max_wait)

    mark = functools.partial(_marked, BatchOptions(max_size, max_wait))
    return mark(*handler) if handler else mark


def _marked(options: BatchOptions, *decorated: Any) -> Any:
    """Store *options* as an attribute of the handler, or of a partial that calls it."""
    handler = decorated[0]
    if len(decorated) > 1 or not callable(handler):
        shown = ", ".join(map(repr, decorated))
        raise ConfigError(
            "batch_handler decorates one handler, and its settings go by name, "
            f"as in batch_handler(max_size=256); got {shown}"
        )
    if inspect.isroutine(handler) and not inspect.isfunction(handler):
        # A bound method, or a function written in C: it takes no attributes.
        handler = functools.partial(handler)
    try:
        handler.__trio_ticks_batch__ = options
    except AttributeError:
        raise ConfigError(
            "batch_handler cannot mark an object with __slots__: "
            f"decorate the __call__ of its class, got {handler!r}"
        ) from None
    return handler


def batch_options(handler: object) -> BatchOptions | None:
    """Return the options of a batch handler; ``None``: it takes one tick at a time."""
    options = getattr(handler, "__trio_ticks_batch__", None)
    while options is None and isinstance(handler, functools.partial):
        handler = handler.func
        options = getattr(handler, "__trio_ticks_batch__", None)
    if options is None and not inspect.isroutine(handler):
        options = getattr(getattr(handler, "__call__", None), "__trio_ticks_batch__", None)  # noqa: B004
    return options if isinstance(options, BatchOptions) else None


def failures_of(error: Exception, count: int) -> list[tuple[int, Exception]]:
    """Return which of *count* ticks failed: those in a BatchError, else all."""
    if isinstance(error, BatchError):
        try:
            failures = checked_failures(error.failures)
        except (AttributeError, TypeError) as wrong:
            # A subclass whose __init__ sets no failures, or failures changed since.
            return [(index, wrong) for index in range(count)]
        outside = sorted(index for index in failures if not 0 <= index < count)
        if not outside:
            return sorted(failures.items(), key=lambda failure: failure[0])
        error.args = (
            f"a BatchError names {outside}, but the batch has the indexes 0 to {count - 1}: "
            "all of it counts as failed",
        )
    return [(index, error) for index in range(count)]


def values_of(value: object, count: int) -> list[Any]:
    """Return what a batch handler found out about each of its *count* ticks.

    Args:
        value: what it returned: a list, or another sequence, with a member for each
            tick, in their order.
        count: how many ticks it was given.

    Raises:
        TypeError: it is none, or has another length.
    """
    hint = f"a batch handler returns None, or a list with a result for each of its {count} ticks"
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection):
        raise TypeError(f"{hint} (None for a tick without one); got {reprlib.repr(value)}")
    if len(value) != count:
        raise TypeError(f"{hint} (None for a tick without one); got {len(value)} results")
    return list(value)
