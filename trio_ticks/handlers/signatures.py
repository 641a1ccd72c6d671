"""Whether a handler or a callback takes the arguments that it will be called with.

It is checked before anything runs.

Rules: only a call that is certain to fail is refused. Where a signature cannot be read,
the first call shows it. The function that a decorator wraps is not looked at, since the
decorator may take other arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError

__all__ = ["check_callback", "misfit"]


def misfit(function: Callable[..., Any], count: int) -> str | None:
    """Return why *function* cannot be called with *count* positional arguments.

    ``None`` where it can be, and where its signature cannot be read.
    """
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
    # The function of a class takes self besides.
    return misfit(call, count + 1) if inspect.isfunction(call) else None


def check_callback(name: str, function: object, takes: tuple[str, ...]) -> None:
    """Refuse *function* as the setting *name* if it certainly cannot be called.

    Args:
        name: of the setting.
        function: what was given.
        takes: what each of its positional arguments is, for the message.

    Raises:
        ConfigError: it cannot be called with these arguments, or it is a class.
    """
    what = " and ".join(takes)
    if not callable(function):
        raise ConfigError(f"{name} must be a callable that takes {what}, got {function!r}")
    if inspect.isclass(function):
        raise ConfigError(
            f"{name} must be a function or an object that can be called with {what}; a class "
            "would only make an object each time: "
            f"make one beforehand, {name}={function.__name__}(...)"
        )
    if why := misfit(function, len(takes)):
        raise ConfigError(
            f"{name} is called with {what}, which it cannot take: {why}; got {function!r}"
        )
