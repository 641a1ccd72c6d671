"""What to do when the channel is full: the strategies, as small frozen values.

A strategy holds only its settings. How long the current pressure has lasted, and whose turn it is, are the channel's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from .errors import ConfigError

__all__ = ["Block", "Conflate", "DropNewest", "DropOldest", "Fail", "OverflowStrategy", "Policy", "check_policy"]


def _seconds(_instance: object, field: attrs.Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise ConfigError(f"{field.name} must be a number of seconds, 0 or more, got {value!r}")


def _seconds_or_none(instance: object, field: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None:
        _seconds(instance, field, value)


def _count_or_none(_instance: object, field: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigError(f"{field.name} must be a whole number of ticks, 1 or more, or None, got {value!r}")


def _callable_or_none(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        raise ConfigError(f"{field.name} must be a function of the older and the newer item, got {value!r}")


@attrs.frozen(slots=True)
class Block:
    """Wait for room, for as long as it takes. Nothing is dropped.

    The price: the socket is not read meanwhile. TCP's own backpressure reaches the exchange, what the workers get is as old as the
    sockets' buffers are deep, pings are answered late, and exchanges disconnect slow readers. Right for replays and
    back-tests; for a live feed only for what is rare and must not be lost, such as trades beside conflated quotes. The time
    spent waiting is reported as ``blocked_s``.

    With a *timeout* it waits so long for each tick, then drops it (reason ``overflow``). Under a sustained overload the
    waits add up; :class:`DropNewest` counts its patience for the whole of it.

    Raises:
        ConfigError: *timeout* is negative or not a number.
    """

    timeout: float | None = attrs.field(default=None, validator=_seconds_or_none)
    """Patience for each tick, in seconds; ``None``: no limit."""


@attrs.frozen(slots=True)
class DropNewest:
    """Wait up to *timeout* seconds an episode of pressure, then drop what finds no room (reason ``overflow``). The default.

    The patience is counted per *episode*, not per tick: it begins when the channel is found full, all the waiting in it is charged to it,
    and it ends when the channel has drained below its low watermark (half of ``maxsize``). So the reader is never more than *timeout*
    behind the wire, however long the overload lasts. 0 never waits.

    Raises:
        ConfigError: a setting is out of range.
    """

    timeout: float = attrs.field(default=1.0, validator=_seconds)
    """Patience for an episode, in seconds."""
    max_per_symbol: int | None = attrs.field(default=None, validator=_count_or_none, kw_only=True)
    """How many ticks of one symbol may wait; one more is dropped at once (``overflow``), so that a hot symbol leaves room for the rest."""


@attrs.frozen(slots=True)
class DropOldest:
    """Push out the oldest queued tick (reason ``evicted``) to make room for the new one. Never waits.

    Raises:
        ConfigError: a setting is out of range.
    """

    max_per_symbol: int | None = attrs.field(default=None, validator=_count_or_none, kw_only=True)
    """How many ticks of one symbol may wait; one more pushes out the oldest of its own symbol."""
    longest_line: bool = attrs.field(default=False, kw_only=True)
    """Push out the oldest tick of the symbol with the longest line, so that one hot symbol cannot push out the rest."""


@attrs.frozen(slots=True)
class Conflate:
    """Keep one pending tick a symbol: a newer one takes the place of the one that nobody has read yet (reason ``conflated``). Never waits.

    The symbol keeps its place in line, so every symbol's turn comes, with the newest there is. What a conflated tick stands for is
    told by :func:`~trio_ticks.conflation_of`. A pending tick is not replaced across an item of another kind of the same symbol that has
    come since (a trade), so that the two are handled in the order in which they came.

    Bounded by the number of symbols and by ``maxsize``: where that many symbols wait, a further symbol pushes out the one that has waited
    longest (reason ``evicted``), so give ``maxsize`` at least one place a symbol.

    Raises:
        ConfigError: *merge* is not callable.
    """

    merge: Callable[[Any, Any], Any] | None = attrs.field(default=None, validator=_callable_or_none)
    """What to make of the older and the newer tick (last price, summed volume); the newer one unless given. Runs in the sender;
    where it raises, the newer tick is kept, and the error is logged."""


@attrs.frozen(slots=True)
class Fail:
    """Raise :class:`~trio_ticks.QueueFullError` at the sender: for feeds where an overload is a bug.

    What found no room is counted as ``overflow``.
    """


OverflowStrategy = Block | DropNewest | DropOldest | Conflate | Fail
Policy = OverflowStrategy | Mapping[type, OverflowStrategy]
"""One strategy for all, or one for each kind of item; a kind that is not listed follows its base class, or else the default."""


def check_policy(overflow: object) -> Policy:
    """Return *overflow* as it is, or as a plain dict of its own.

    Raises:
        ConfigError: it is neither a strategy nor a mapping from classes to strategies.
    """
    if isinstance(overflow, OverflowStrategy):
        return overflow
    if not isinstance(overflow, Mapping):
        raise ConfigError(f"overflow must be a strategy such as DropNewest(timeout=1.0), or a mapping from kinds to them, got {overflow!r}")
    if not overflow:
        raise ConfigError("overflow is an empty mapping; leave it out for the default, DropNewest(timeout=1.0)")
    for kind, strategy in overflow.items():
        if not isinstance(kind, type) or not isinstance(strategy, OverflowStrategy):
            raise ConfigError(f"overflow must map classes to strategies, such as {{Tick: Conflate()}}, got {kind!r}: {strategy!r}")
    return dict(overflow)
