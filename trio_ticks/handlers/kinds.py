"""What a handler is, and where it runs: found out before anything runs.

Rules: the API and the command line ask the same check. Only a handler that is certain
to fail is refused. The function that a decorator wraps decides only where the handler
runs, and only if the user does not.
"""

from __future__ import annotations

import functools
import inspect
import reprlib
import sys
import typing
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, TypeVar

from ..checks import check_word
from ..errors import ConfigError
from ..events import FeedEvent
from ..gaps import Gap
from .batches import batch_options
from .signatures import misfit

__all__ = [
    "Executor",
    "Handler",
    "Place",
    "is_async",
    "is_coroutine_function",
    "refuse_awaitable",
    "resolve_executor",
    "takes_events",
    "takes_gaps",
]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


_MOST_LAYERS = 100
"""How many partials and decorators are followed; an object may have any attribute."""


def is_async(handler: Callable[..., Any]) -> bool:
    """Tell whether *handler* is to run in an event loop.

    That is an ``async def``, also behind ``partial`` or ``__call__``; and a plain
    function that wraps an ``async def`` by ``functools.wraps``, and so returns an
    awaitable.
    """
    for _ in range(_MOST_LAYERS):
        if is_coroutine_function(handler):
            return True
        if isinstance(handler, functools.partial):
            handler = handler.func
            continue
        wrapped = None if inspect.isclass(handler) else getattr(handler, "__wrapped__", None)
        if wrapped is None:
            wrapped = getattr(getattr(handler, "__call__", None), "__wrapped__", None)  # noqa: B004
        if not callable(wrapped):
            return False
        handler = wrapped
    return False


def is_coroutine_function(handler: Callable[..., Any]) -> bool:
    """Tell whether calling *handler* (or its instances) always returns a coroutine."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    call = getattr(handler, "__call__", None)  # noqa: B004
    # inspect looks for the function of a bound method. A mock of one has a function
    # that is a mock too and tells nothing; the flags of its code are set on the mock
    # itself.
    flags = getattr(getattr(handler, "__code__", None), "co_flags", None)
    return (
        inspect.iscoroutinefunction(handler)
        or inspect.iscoroutinefunction(call)
        or (isinstance(flags, int) and bool(flags & inspect.CO_COROUTINE))
        or _is_marked(handler)
    )


def _is_marked(handler: object) -> bool:
    """Tell whether *handler* is marked as an ``async def`` as asyncio marks it.

    Before Python 3.12 that is the only mark for a plain function, and before 3.13 the
    only one of ``create_autospec(async_def)``.
    """
    # Whoever sets the mark has imported asyncio; for others it would cost 50 ms.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or sys.version_info >= (3, 14):  # where it is deprecated
        return False
    return bool(asyncio.iscoroutinefunction(handler))


def refuse_awaitable(result: object, where: str, instead: str = "") -> None:
    """Fail a tick whose plain handler returned an awaitable.

    The caller need not ask for ``None``.

    Args:
        result: what the handler returned.
        where: where it ran, "a thread" for example.
        instead: what the message offers besides making the handler an ``async def``.

    Raises:
        TypeError: *result* is awaitable, and nothing would await it.
    """
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # or Python would warn that it was never awaited
        raise TypeError(
            f"the handler is a plain callable in {where}, and returned a "
            f"{type(result).__name__}, which nobody awaits there: make it an async def{instead}"
        )


class _Takes(Protocol[T_contra]):
    def __call__(self, tick: T_contra, /) -> Any: ...


Handler = Callable[[T], Awaitable[Any]] | Callable[[T], Any] | type[_Takes[T]]


Executor = Literal["auto", "loop", "thread", "process"]


Place = Literal["loop", "thread", "process"]


def takes_gaps(handler: Callable[..., Any]) -> bool:
    """Tell whether *handler*'s annotation lets its first argument be a Gap.

    For a batch handler: whether the list may hold a :class:`~trio_ticks.Gap`.
    """
    return _takes(handler, Gap)


def takes_events(handler: Callable[..., Any]) -> bool:
    """Tell whether *handler*'s annotation lets its first argument be a FeedEvent.

    For a batch handler: whether the list may hold one.
    """
    return _takes(handler, FeedEvent)


def _takes(handler: Callable[..., Any], kind: type) -> bool:
    batched = batch_options(handler) is not None
    while isinstance(handler, functools.partial):
        handler = handler.func
    function = handler if inspect.isroutine(handler) else getattr(handler, "__call__", handler)  # noqa: B004
    try:
        hints = typing.get_type_hints(function)
        names = list(inspect.signature(function).parameters)
        # The __call__ of a class is a plain function: its first parameter is self.
        first = names[inspect.isclass(handler)] if names else ""
    except (IndexError, NameError, TypeError, ValueError):
        # Annotations that cannot be read (names of a type-checking block) say nothing.
        return False
    hint = hints.get(first)
    inner = typing.get_args(hint)
    return (
        hint is kind
        or kind in inner
        or (batched and any(kind in typing.get_args(member) for member in inner))
    )


def _yields(handler: Callable[..., Any]) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    functions = (handler, getattr(handler, "__call__", None))  # noqa: B004
    return any(
        inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        for function in functions
    )


def resolve_executor(executor: str, handler: object) -> Place:
    """Return where *handler* runs.

    Raises:
        ConfigError: *handler* is not callable, or cannot run where it was asked to.
    """
    if inspect.iscoroutine(handler):
        handler.close()  # or Python would warn that it was never awaited
        name = handler.__qualname__
        raise ConfigError(
            f"handler is the coroutine that {name}(...) returned: leave out the parentheses, "
            f"so that each tick is given to {name}"
        )
    if not callable(handler):
        raise ConfigError(
            "handler must be a function or another callable that takes one tick, "
            f"got {reprlib.repr(handler)}"
        )
    if inspect.isclass(handler):
        _check_class(handler)
    elif isinstance(handler, functools.partial):
        _check_partial(handler)
    if _yields(handler):
        raise ConfigError(
            "handler must not have a yield: to call it would run not one line of it, "
            f"got {handler!r}"
        )
    if why := misfit(handler, 1):
        given = "one tick" if batch_options(handler) is None else "a list of ticks"
        raise ConfigError(
            f"handler is called with {given}, which it cannot take: {why}; got {handler!r}"
        )
    awaits = is_async(handler)
    if executor == "auto":
        return "loop" if awaits else "thread"
    if executor == "thread" and is_coroutine_function(handler):
        raise ConfigError(
            'an async handler runs in the event loop, or with executor="process" in processes: '
            'leave executor="auto", or make the handler a plain def'
        )
    if executor == "loop" and batch_options(handler) is not None and not awaits:
        raise ConfigError(
            "a batch handler that is a plain def would stop the event loop: "
            'leave executor="auto", or make it async'
        )
    check_word("executor", executor, ("auto", "loop", "thread", "process"))
    return typing.cast(Place, executor)


def _check_class(handler: type) -> None:
    if not any("__call__" in vars(base) for base in handler.__mro__):
        raise ConfigError(
            "a handler that is a class makes a handler per worker, "
            f"and needs a method __call__(self, tick), got {handler!r}"
        )
    try:
        inspect.signature(handler).bind()
    except TypeError as error:
        raise ConfigError(
            "a handler that is a class is called without arguments, once per worker; "
            f"{handler!r}: {error}"
        ) from None
    except ValueError:
        pass  # Classes written in C may have no signature to read.


def _check_partial(handler: functools.partial[Any]) -> None:
    inner: object = handler
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.isclass(inner):
        name = inner.__name__
        raise ConfigError(
            f"a partial of the class {name} as the handler would only make an object of each "
            f"tick: give handler={name}, made without arguments once per worker; or a subclass "
            f"of it that fills them in; or {name}(...), one object that all share"
        )
