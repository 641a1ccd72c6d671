"""One check for each kind of setting: a count, seconds, a number, a word, a class, ...

Each check takes the name of the setting and its value, returns nothing, and raises a
:class:`~trio_ticks.ConfigError` that says what the setting must be. For a field of an
attrs class, ``checked(check_count, least=4096)`` makes a validator of a check.

Rules: no other module tells numbers from bools. Whether two settings go together is
checked by the class that has both. Nothing here knows trio or what a setting is for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import UnionType
from typing import Any, TypeGuard

import attrs

from .errors import ConfigError

__all__ = [
    "check_callable",
    "check_count",
    "check_exceptions",
    "check_flag",
    "check_fraction",
    "check_instance",
    "check_number",
    "check_seconds",
    "check_text",
    "check_word",
    "checked",
    "is_index",
    "is_number",
    "is_whole",
]

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def checked(check: Callable[..., None], /, **limits: Any) -> Validator:
    """Return the attrs validator that calls *check* with the field's name and value."""

    def validate(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
        check(field.name, value, **limits)

    return validate


def is_whole(value: object) -> TypeGuard[int]:
    """Tell whether *value* is an ``int`` and no ``bool``."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether *value* is a number, maybe infinite, but no bool and not NaN."""
    # Not math.isnan(), which raises for an int too large to be a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def is_index(value: object) -> bool:
    """Tell whether *value* can be an index, as NumPy's whole numbers; bools cannot."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def check_count(
    name: str,
    value: object,
    least: int = 1,
    also: str = "",
    *,
    of: str = "",
    below: float = math.inf,
    or_none: bool = False,
) -> None:
    """Raise if *value* is not a whole number from *least* to less than *below*.

    Args:
        name: of the setting.
        value: what it was given.
        least: the smallest number that it may be.
        also: what the message adds about further values that the caller accepts.
        of: what is counted, for the message.
        below: the number that it must be less than.
        or_none: whether it may be ``None``.

    Raises:
        ConfigError: it is not.
    """
    if or_none and value is None:
        return
    if not is_whole(value) or not least <= value < below:
        unit = f" of {of}" if of else ""
        bounds = _bounds(f"{least} or more", below)
        raise ConfigError(
            f"{name} must be a whole number{unit}, {bounds}{_also(also, or_none)}, got {value!r}"
        )


def check_number(
    name: str,
    value: object,
    *,
    least: float = 0.0,
    above: float | None = None,
    below: float = math.inf,
    infinite: bool = False,
    also: str = "",
    or_none: bool = False,
) -> None:
    """Raise if *value* is not a number within the bounds.

    Args:
        name: of the setting.
        value: what it was given.
        least: the smallest number that it may be.
        above: the number that it must be more than; then *least* does not count.
        below: the number that it must be less than.
        infinite: whether it may be infinite.
        also: what the message adds about further values that the caller accepts.
        or_none: whether it may be ``None``.

    Raises:
        ConfigError: it is not.
    """
    if or_none and value is None:
        return
    if not _fits(value, least, above, below, infinite=infinite):
        kind = "number" if infinite or below < math.inf else "finite number"
        bounds = _bounds(f"{least:g} or more" if above is None else f"more than {above:g}", below)
        raise ConfigError(f"{name} must be a {kind}, {bounds}{_also(also, or_none)}, got {value!r}")


def check_seconds(
    name: str,
    value: object,
    *,
    positive: bool = False,
    infinite: bool = False,
    also: str = "",
    or_none: bool = False,
) -> None:
    """Raise if *value* is not a duration: a number of seconds, 0 or more.

    Args:
        name: of the setting.
        value: what it was given.
        positive: whether it must be more than 0.
        infinite: whether it may be infinite.
        also: what the message adds about further values that the caller accepts.
        or_none: whether it may be ``None``.

    Raises:
        ConfigError: it is not.
    """
    if or_none and value is None:
        return
    if not _fits(value, 0.0, 0.0 if positive else None, math.inf, infinite=infinite):
        adjectives = ("positive",) * positive + ("finite",) * (not infinite)
        kind = " ".join((", ".join(adjectives), "number of seconds")).strip()
        bounds = "" if positive else ", 0 or more"
        raise ConfigError(f"{name} must be a {kind}{bounds}{_also(also, or_none)}, got {value!r}")


def check_fraction(name: str, value: object) -> None:
    """Raise if *value* is not between 0 and 1, both excluded.

    Raises:
        ConfigError: it is not.
    """
    check_number(name, value, above=0.0, below=1.0)


def check_word(name: str, value: object, words: tuple[str, ...]) -> None:
    """Raise if *value* is none of *words*.

    Raises:
        ConfigError: it is none of them.
    """
    if not isinstance(value, str) or value not in words:
        *others, last = (f'"{word}"' for word in words)
        shown = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(f"{name} must be {shown}, got {value!r}")


def check_text(name: str, value: object, also: str = "") -> None:
    """Raise if *value* is not a text, or an empty one.

    Raises:
        ConfigError: it is.
    """
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} must be a text, and not empty{also}, got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise if *value* is neither ``True`` nor ``False``.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}")


def check_instance(
    name: str, value: object, kind: type | UnionType, shown: str, *, or_none: bool = False
) -> None:
    """Raise if *value* is not an instance of *kind*.

    Args:
        name: of the setting.
        value: what it was given.
        kind: the class, or a union of classes.
        shown: how the message writes an instance of it.
        or_none: whether it may be ``None``.

    Raises:
        ConfigError: it is not.
    """
    if or_none and value is None:
        return
    if not isinstance(value, kind):
        # Other checks write ", or None" since their messages name bounds before it.
        also = " or None" if or_none else ""
        raise ConfigError(f"{name} must be {shown}{also}, got {value!r}")


def check_callable(name: str, value: object, shown: str, *, or_none: bool = False) -> None:
    """Raise if *value* cannot be called.

    Args:
        name: of the setting.
        value: what it was given.
        shown: what the message says that the setting must be.
        or_none: whether it may be ``None``.

    Raises:
        ConfigError: it cannot.
    """
    if not callable(value) and not (or_none and value is None):
        raise ConfigError(f"{name} must be {shown}, got {value!r}")


def check_exceptions(name: str, value: tuple[object, ...], shown: str) -> None:
    """Raise if *value* holds anything but classes of exceptions, or nothing.

    ``BaseException`` is not accepted, nor are its subclasses that end a program or a
    task.

    Args:
        name: of the setting.
        value: what it was given.
        shown: what the message says that the setting must name.

    Raises:
        ConfigError: it does, or it is empty.
    """
    if not value or not all(
        isinstance(kind, type) and issubclass(kind, Exception) for kind in value
    ):
        given = value[0] if len(value) == 1 else value
        raise ConfigError(f"{name} must name {shown}, got {given!r}")


def _fits(
    value: object, least: float, above: float | None, below: float, *, infinite: bool
) -> bool:
    if not is_number(value) or (value < least if above is None else value <= above):
        return False
    return infinite if value == math.inf else value < below


def _bounds(lower: str, below: float) -> str:
    return lower if below == math.inf else f"{lower} and less than {_plain(below)}"


def _also(also: str, or_none: bool) -> str:
    return f"{also}, or None" if or_none else also


def _plain(number: float) -> str:
    """Return *number* with all its digits, as far as a person would write them."""
    return f"{number:.0f}" if number == round(number) else f"{number:g}"
