"""Putting a newer item in the place of one that nobody has read yet, with evidence of what it stands for. Pure functions.

The evidence rides on the item: a conflated tick is an instance of a subclass of its own class with one more attribute, ``conflation``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar, cast

import attrs

__all__ = ["Conflation", "base_of", "conflation_of", "replace_pending", "with_evidence", "without_evidence"]

T = TypeVar("T")


@attrs.frozen(slots=True)
class Conflation:
    """What a conflated item stands for."""

    count: int
    """How many items, itself included."""
    first_timestamp: datetime
    """Timestamp of the first of them."""
    first_arrival: float
    """When the first of them arrived in the channel, on trio's clock (seconds)."""


def conflation_of(item: object) -> Conflation | None:
    """Return what *item* stands for, or ``None`` where it stands for itself alone.

    Items of attrs classes carry the evidence; others are conflated and counted, but do not show it.
    """
    evidence = getattr(item, "conflation", None)
    return evidence if isinstance(evidence, Conflation) else None


@functools.cache
def _subclass_of(cls: type) -> tuple[type, tuple[str, ...]] | None:
    if not attrs.has(cls):
        return None
    names = tuple(field.name for field in attrs.fields(cls))
    subclass = type(f"Conflated{cls.__name__}", (cls,), {"__slots__": ("conflation",), "__module__": cls.__module__})
    return subclass, names


def replace_pending(old: Any, new: T, arrived: float, merge: Callable[[Any, T], T] | None) -> T:
    """Return what stands in for *old* (which arrived at *arrived*) and *new*: *new*, or what *merge* makes of both, with the evidence."""
    before = conflation_of(old)
    if before is None:
        evidence = Conflation(2, old.timestamp, arrived)
    else:
        evidence = Conflation(before.count + 1, before.first_timestamp, before.first_arrival)
    return with_evidence(new if merge is None else merge(old, new), evidence)


def with_evidence(item: T, evidence: Conflation) -> T:
    """Return *item* as one that stands for what *evidence* says; itself, where its class cannot carry that."""
    made = _subclass_of(base_of(item))
    if made is None:
        return item
    subclass, names = made
    result = _copied(item, subclass, names)
    object.__setattr__(result, "conflation", evidence)
    return result


def without_evidence(item: T) -> T:
    """Return *item* as one of its own class, which stands for itself alone."""
    made = _subclass_of(base_of(item))
    return item if made is None or conflation_of(item) is None else _copied(item, base_of(item), made[1])


def base_of(item: object) -> type:
    """Return the class of *item* that the user knows: not the one made on the spot for its evidence."""
    return type(item) if conflation_of(item) is None else type(item).__mro__[1]


def _copied(item: T, into: type, names: tuple[str, ...]) -> T:
    result: Any = object.__new__(into)
    # The class is frozen; this is how attrs itself fills a frozen instance.
    fill = object.__setattr__
    for name in names:
        fill(result, name, getattr(item, name))
    return cast(T, result)
