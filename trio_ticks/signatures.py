"""Whether what the user gave can be called as it will be, looked at before anything runs: a handler, ``on_error``, ``on_gap``.

Rules: only what is certain is refused. Where a signature cannot be read, the first call tells; what a decorator wraps is not looked at.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .errors import ConfigError

__all__ = ["check_callback", "misfit"]


def misfit(function: Callable[..., Any], count: int) -> str | None:
    """Return why *function* cannot be called with *count* positional arguments, or ``None`` where it can, or nobody knows."""
    if inspect.isclass(function):
        return _misfit_of_instances(function, count)
    try:
        # A decorator's function may take other arguments than what it wraps.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        return str(error)
    return None


def _misfit_of_instances(kind: type, count: int) -> str | None:
    call = inspect.getattr_static(kind, "__call__", None)
    if isinstance(call, staticmethod):
        return misfit(call.__func__, count)
    return misfit(call, count + 1) if inspect.isfunction(call) else None  # of a class it has a self


def check_callback(name: str, function: object, takes: tuple[str, ...]) -> None:
    """Refuse *function* as the setting *name* where it is certain that it cannot be called with what *takes* names.

    Raises:
        ConfigError: it cannot be called so.
    """
    what = " and ".join(takes)
    if not callable(function):
        raise ConfigError(f"{name} must be a callable that takes {what}, got {function!r}")
    if inspect.isclass(function):
        raise ConfigError(
            f"{name} must be a function or an object that can be called with {what}; a class would only make an object each time: "
            f"make one beforehand, {name}={function.__name__}(...)"
        )
    if why := misfit(function, len(takes)):
        raise ConfigError(f"{name} is called with {what}, which it cannot take: {why}; got {function!r}")
