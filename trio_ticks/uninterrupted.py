"""Ctrl-C comes between the steps of a pipeline, never within one.

Where nobody else handles SIGINT, trio raises ``KeyboardInterrupt`` in whatever task
runs just then. In the midst of a step of ours it would leave half of it: a tick that is
counted as taken and is nowhere, a task that waits and will be woken twice. So our steps
are marked: an interrupt that comes during them is raised in the main task, at its next
checkpoint.

A handler is not a step of ours: one that never returns can be interrupted, and so can
``on_error``, ``on_gap``, ``on_feed`` and ``results``. A ``merge`` of ``Conflate`` is
called within a step, and is part of it.

Source: trio's reference of the low-level API, ``trio.lowlevel.enable_ki_protection``.
A mark belongs to the code of a function, however often that is made, and costs a call
nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final, TypeVar

import trio

__all__ = ["interruptible", "uninterrupted"]

C = TypeVar("C", bound=Callable[..., Any])

_OURS: Final = f"{__package__}."
"""How the names of our modules begin."""
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


def interruptible(function: object) -> None:
    """Let Ctrl-C interrupt a user's *function*, also where a step of ours calls it.

    What has no code of its own in Python, and functions of ours, are left as they are.
    """
    for _ in range(_MOST_LAYERS):
        if not isinstance(function, functools.partial):
            break
        function = function.func
    if not inspect.isroutine(function):
        # A class of handlers, or an object that can be called.
        kind = function if isinstance(function, type) else type(function)
        function = getattr(kind, "__call__", None)  # noqa: B004 - it is wanted itself
    function = getattr(function, "__func__", function)
    if isinstance(function, FunctionType) and not _is_ours(function):
        trio.lowlevel.disable_ki_protection(function)
