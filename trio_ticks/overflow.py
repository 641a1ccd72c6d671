"""What to do when the channel is full: the strategies, as small frozen values.

A strategy holds only its settings. How long the current pressure has lasted, and whose turn it is, are the channel's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from .errors import ConfigError

__all__ = ["Block", "Conflate", "DropNewest", "DropOldest", "Fail", "Overflow", "OverflowStrategy", "Policy", "Throttle", "check_policy"]


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

    In a pipeline with order, the ticks of a symbol whose handler is slow line up behind it. Once such lines hold more than half of the
    room, a tick of a symbol that has none takes the place of the newest in the longest: one hot symbol does not keep the workers idle.

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
    longest (reason ``evicted``), so give ``maxsize`` at least one place a symbol. In a policy with a kind that blocks, it waits for room
    with that kind instead: the last tick of every symbol is delivered.

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


def _a_policy(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, Throttle):
        raise ConfigError(f"{field.name} must be what the channel does when throttling does not help, not another Throttle")
    check_policy(value)


def _positive(*, below: float = math.inf) -> Any:
    def check(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < below:
            bound = "more than 0" if below == math.inf else f"more than 0 and less than {below:g}"
            raise ConfigError(f"{field.name} must be a finite number, {bound}, got {value!r}")

    return check


def _priorities(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigError(f"{field.name} must map symbols to numbers, the greater the more important, got {value!r}")
    for symbol, priority in value.items():
        if not isinstance(symbol, str) or isinstance(priority, bool) or not isinstance(priority, int | float) or math.isnan(priority):
            raise ConfigError(f"{field.name} must map symbols to numbers, got {symbol!r}: {priority!r}")


@attrs.frozen(slots=True)
class Throttle:
    """Tell the source how much the workers can take, so that nothing need be dropped; *fallback* rules where that does not help.

    A controller watches how full the queue is, how long ticks wait in it, and how fast the workers really are. Where the queue passes its
    target it asks the feed for less than the workers take (multiplicative decrease), below it for a little more all the time (additive
    increase), and for all there is once nobody needs a limit any more. The feed passes it on as well as its venue knows: see
    :meth:`WebSocketFeed.throttle <trio_ticks.WebSocketFeed.throttle>`. A feed of your own has a method ``throttle(max_rate)``, sync or
    async, which is called with ticks a second or ``None`` (no limit), at times with the same value again; and, where *priorities* are
    given, with the keyword ``priorities``. A feed without that method is not throttled; the log says so.

    The queue needs room for what is under way before the feed reacts: give ``maxsize`` what the workers take in half a second, or more.
    Given to :func:`~trio_ticks.open_tick_channel` alone, where there is no feed, it is just its *fallback*.

    Raises:
        ConfigError: a setting is out of range.
    """

    fallback: Policy = attrs.field(factory=DropNewest, validator=_a_policy)
    """What the channel does when it is full all the same."""
    floor: float = attrs.field(default=1.0, validator=_positive(), kw_only=True)
    """The least rate to ask for, in ticks a second."""
    ceiling: float | None = attrs.field(default=None, validator=attrs.validators.optional(_positive()), kw_only=True)
    """The greatest rate, which then is asked for from the beginning; ``None``: without need there is no limit."""
    target_fill: float = attrs.field(default=0.5, validator=_positive(below=1.0), kw_only=True)
    """How full the queue may be, as a share of ``maxsize``."""
    target_wait: float = attrs.field(default=1.0, validator=_positive(), kw_only=True)
    """How long ticks may wait in the queue, in seconds; what comes first of the two counts."""
    increase: float = attrs.field(default=0.05, validator=_positive(), kw_only=True)
    """What is added each second, as a share of what the workers take."""
    decrease: float = attrs.field(default=0.9, validator=_positive(below=1.0), kw_only=True)
    """What is asked for when the queue passes its target, as a share of what the workers take."""
    interval: float = attrs.field(default=0.25, validator=_positive(), kw_only=True)
    """Seconds from one step to the next."""
    priorities: Mapping[str, float] | None = attrs.field(default=None, validator=_priorities, kw_only=True)
    """Where symbols have to be paused, the least go first; a symbol that is not listed has 0. Among equals, and without
    priorities, the last of the feed's ``symbols`` goes first."""

    def __attrs_post_init__(self) -> None:
        if self.ceiling is not None and self.ceiling < self.floor:
            raise ConfigError(f"ceiling must be at least floor ({self.floor:g}), got {self.ceiling!r}")


Overflow = Policy | Throttle
"""What ``open_pipeline`` takes: a policy, or a :class:`Throttle` over one."""


def check_policy(overflow: object) -> Policy:
    """Return *overflow* as it is, or as a plain dict of its own; of a :class:`Throttle` its fallback.

    Raises:
        ConfigError: it is neither a strategy nor a mapping from classes to strategies.
    """
    if isinstance(overflow, Throttle):
        return check_policy(overflow.fallback)
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
