"""Replacing an item that no worker has taken yet by a newer one, with evidence of it.

A conflated item carries its evidence: it is an instance of a subclass of its own class
that has one more attribute, ``conflation``. The subclass is made when it is first
needed.

Rules: pure functions; no item is changed, each result is a new one.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar, cast

import attrs

__all__ = [
    "Conflation",
    "base_of",
    "conflation_of",
    "replace_pending",
    "with_evidence",
    "without_evidence",
]

T = TypeVar("T")


@attrs.frozen(slots=True)
class Conflation:
    """How many items a conflated item stands for, and since when."""

    count: int
    """How many items the item stands for, itself included."""
    first_timestamp: datetime
    """Timestamp of the first of these items."""
    first_arrival: float
    """When the first of them arrived in the channel, in seconds on trio's clock."""


def conflation_of(item: object) -> Conflation | None:
    """Return what *item* stands for, or ``None`` where it stands for itself alone.

    Items of attrs classes carry the evidence. Items of other classes are conflated and
    counted too, but carry none.
    """
    evidence = getattr(item, "conflation", None)
    return evidence if isinstance(evidence, Conflation) else None


@functools.cache
def _subclass_of(cls: type) -> tuple[type, tuple[str, ...]] | None:
    if not attrs.has(cls):
        return None
    names = tuple(field.name for field in attrs.fields(cls))
    subclass = type(
        f"Conflated{cls.__name__}",
        (cls,),
        {"__slots__": ("conflation",), "__module__": cls.__module__},
    )
    return subclass, names


def replace_pending(old: Any, new: T, arrived: float, merge: Callable[[Any, T], T] | None) -> T:
    """Return the item that replaces *old* and *new*, with the evidence for both.

    Args:
        old: the item that waits.
        new: the item that replaces it.
        arrived: when *old* arrived in the channel, in seconds on trio's clock.
        merge: makes one item of both; *new* replaces *old* as it is if this is
            ``None``.

    Raises:
        TypeError: *merge* returned no item of the kind of *new*.
        ValueError: *merge* returned an item of another symbol.
    """
    made = None
    if merge is None:
        made = _subclass_of(base_of(new))
        if made is None:
            return new  # it can carry no evidence, so none is made
    before = conflation_of(old)
    if before is None:
        evidence = Conflation(2, old.timestamp, arrived)
    else:
        evidence = Conflation(before.count + 1, before.first_timestamp, before.first_arrival)
    if made is not None:
        return _carrying(new, made, evidence)
    assert merge is not None
    return with_evidence(_merged(old, new, merge), evidence)


def _merged(old: Any, new: T, merge: Callable[[Any, T], T]) -> T:
    """Return what the user's *merge* makes of *old* and *new*.

    Raises:
        TypeError: that is no item of the kind of *new*.
        ValueError: that is an item of another symbol.
    """
    result: T = merge(old, new)
    kind: Any = base_of(new)
    symbol = cast(Any, new).symbol
    if not isinstance(result, kind):
        raise TypeError(
            f"merge must make a {kind.__name__} of two items of {symbol!r}, got "
            f"{reprlib.repr(result)}"
        )
    if cast(Any, result).symbol != symbol:
        raise ValueError(
            f"merge must make an item of the same symbol of two items of {symbol!r}, got one "
            f"of {result.symbol!r}"
        )
    return cast(T, result)


def with_evidence(item: T, evidence: Conflation) -> T:
    """Return a copy of *item* that carries *evidence*.

    An item whose class is no attrs class cannot carry it, and is returned itself.
    """
    made = _subclass_of(base_of(item))
    return item if made is None else _carrying(item, made, evidence)


def _carrying(item: T, made: tuple[type, tuple[str, ...]], evidence: Conflation) -> T:
    """Return a copy of *item* of the subclass *made*, with *evidence*."""
    subclass, names = made
    result = _copied(item, subclass, names)
    object.__setattr__(result, "conflation", evidence)
    return result


def without_evidence(item: T) -> T:
    """Return *item* as an instance of its own class, without evidence."""
    made = _subclass_of(base_of(item))
    return (
        item
        if made is None or conflation_of(item) is None
        else _copied(item, base_of(item), made[1])
    )


def base_of(item: object) -> type:
    """Return the class of *item* as the user knows it, not its subclass."""
    return type(item) if conflation_of(item) is None else type(item).__mro__[1]


def _copied(item: T, into: type, names: tuple[str, ...]) -> T:
    result: Any = object.__new__(into)
    # The class is frozen; attrs itself fills frozen instances in this way.
    fill = object.__setattr__
    for name in names:
        fill(result, name, getattr(item, name))
    return cast(T, result)
