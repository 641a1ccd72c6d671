"""Ctrl-C comes between the steps of a pipeline, never within one.

Where nobody else handles SIGINT, trio raises ``KeyboardInterrupt`` in whatever task
runs just then. In the midst of a step of ours it would leave half of it: a tick that is
counted as taken and is nowhere, a task that waits and will be woken twice. So our steps
are marked: an interrupt that comes during them is raised in the main task, at its next
checkpoint.

A handler is not a step of ours: one that never returns can be interrupted, wherever in
its life, and so can ``on_error``, ``on_gap``, ``on_feed``, ``results`` and a feed. A
``merge`` of ``Conflate`` is called within a step, and is part of it; so are a sink and
a source of a user's own, since what they hold is counted.

Source: trio's reference of the low-level API, ``trio.lowlevel.enable_ki_protection``.
A mark belongs to the code of a function, however often that is made, and costs a call
nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, Final, TypeVar

import trio

__all__ = ["await_theirs", "call_theirs", "interruptible", "is_ours", "uninterrupted"]

R = TypeVar("R")
C = TypeVar("C", bound=Callable[..., Any])

_OURS: Final = f"{__package__}."
"""How the names of our modules begin."""
_NOT_THEIRS: Final = (_OURS, "trio.")
"""How the names of modules begin whose functions no user has written."""
_MOST_LAYERS: Final = 100
"""How many partials are followed; a user may have made a circle of them."""


def uninterrupted(steps: C) -> C:
    """Mark a function, or all functions of a class, as steps of ours. A decorator."""
    found = list(vars(steps).values()) if isinstance(steps, type) else [steps]
    for each in found:
        if isinstance(each, property):
            found += [each.fget, each.fset]
            continue
        # A decorator's own function has one code for all that it decorates anywhere.
        function = inspect.unwrap(getattr(each, "__func__", each))
        if isinstance(function, FunctionType) and _is_ours(function):
            trio.lowlevel.enable_ki_protection(function)
    return steps


def _is_ours(function: FunctionType) -> bool:
    """Tell whether the code of *function*, not only its name, is of this package."""
    return f"{function.__globals__.get('__name__')}.".startswith(_OURS)


def is_ours(function: object) -> bool:
    """Tell whether what runs when *function* is called is a step of ours."""
    found = _behind(function)
    return found is not None and _is_ours(found)


def interruptible(function: object) -> None:
    """Let Ctrl-C interrupt a user's *function*, also where a step of ours calls it.

    What has no code of its own in Python, and functions of ours, are left as they are.
    So are trio's: a handler may be the ``send`` of a memory channel, and its mark holds
    for each such channel of the program.
    """
    found = _behind(function)
    if found is not None and not f"{found.__globals__.get('__name__')}.".startswith(_NOT_THEIRS):
        trio.lowlevel.disable_ki_protection(found)


def _behind(function: object) -> FunctionType | None:
    """Return what runs when *function* is called; ``None``: nothing in Python."""
    for _ in range(_MOST_LAYERS):
        if isinstance(function, FunctionType):
            return function
        if isinstance(function, functools.partial | functools.partialmethod):
            function = function.func
        elif isinstance(function, MethodType | staticmethod | classmethod):
            function = function.__func__
        elif inspect.isroutine(function):
            # What functools.cache makes has no code in Python, but knows the function.
            function = inspect.getattr_static(function, "__wrapped__", None)
        else:
            # A class of handlers, or an object that can be called.
            kind = function if isinstance(function, type) else type(function)
            function = inspect.getattr_static(kind, "__call__", None)
    return None


@trio.lowlevel.disable_ki_protection
def call_theirs(function: Callable[..., R], /, *args: Any) -> R:
    """Call a user's *function* from a step of ours; Ctrl-C may interrupt it.

    Raises:
        BaseException: what *function* raised.
    """
    return function(*args)


@trio.lowlevel.disable_ki_protection
async def await_theirs(function: Callable[..., Any], /, *args: Any) -> Any:
    """Call a user's *function*, and await what it returns if need be.

    Ctrl-C may interrupt it.

    Raises:
        BaseException: what *function* raised.

    Cancellation: passed on to *function*. No checkpoint of its own.
    """
    result = function(*args)
    return await result if inspect.isawaitable(result) else result
