"""What to do when the channel is full: the strategies, as small frozen values.

Rules: a strategy holds only its settings. How long the present pressure has lasted, and
which symbol's turn it is, are kept by the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from .checks import (
    check_callable,
    check_count,
    check_fraction,
    check_number,
    check_seconds,
    checked,
    is_number,
)
from .errors import ConfigError

__all__ = [
    "Block",
    "Conflate",
    "DropNewest",
    "DropOldest",
    "Fail",
    "Overflow",
    "OverflowStrategy",
    "Policy",
    "Throttle",
    "check_policy",
    "sheds",
]


@attrs.frozen(slots=True)
class Block:
    """Wait for room, for as long as it takes. Nothing is dropped.

    The price is that the socket is not read meanwhile: TCP's own backpressure reaches
    the exchange, ticks grow as old as the sockets' buffers are deep, pings are answered
    late, and exchanges disconnect slow readers. It is right for replays and back-tests;
    for a live feed only for items that are rare and must not be lost, such as trades
    beside conflated quotes. The time spent waiting is reported as ``blocked_s``.

    With a *timeout*, each tick waits for up to that time and is then dropped (reason
    ``overflow``). Under a sustained overload these waits add up; :class:`DropNewest`
    counts its patience for the overload as a whole.

    Raises:
        ConfigError: *timeout* is negative or not a number.
    """

    timeout: float | None = attrs.field(
        default=None, validator=checked(check_seconds, infinite=True, or_none=True)
    )
    """Patience for each tick, in seconds; ``None``: no limit."""


@attrs.frozen(slots=True)
class DropNewest:
    """Wait for room for a limited time, then drop what finds none. The default.

    What is dropped is counted as ``overflow``. The patience of *timeout* seconds is
    counted per *episode* of pressure, not per tick: an episode begins when the channel
    is found full, all the waiting in it is charged to it, and it ends when the channel
    has drained below its low watermark (half of ``maxsize``). So the reader is never
    more than *timeout* behind the wire, however long the overload lasts. With 0 it
    never waits.

    In a pipeline with order, the ticks of a symbol whose handler is slow line up behind
    it. Once such lines hold more than half of the room, a tick of a symbol without a
    line takes the place of the newest tick in the longest line, so that one hot symbol
    does not keep the workers idle.

    Raises:
        ConfigError: a setting is out of range.
    """

    timeout: float = attrs.field(default=1.0, validator=checked(check_seconds, infinite=True))
    """Patience for an episode, in seconds."""
    max_per_symbol: int | None = attrs.field(
        default=None, validator=checked(check_count, of="ticks", or_none=True), kw_only=True
    )
    """How many ticks of one symbol may wait; ``None``: no limit.

    One more is dropped at once (``overflow``): a hot symbol leaves room for the others.
    """


@attrs.frozen(slots=True)
class DropOldest:
    """Drop the oldest queued tick (reason ``evicted``) to make room. Never waits.

    Raises:
        ConfigError: a setting is out of range.
    """

    max_per_symbol: int | None = attrs.field(
        default=None, validator=checked(check_count, of="ticks", or_none=True), kw_only=True
    )
    """How many ticks of one symbol may wait; ``None``: no limit.

    One more evicts the oldest tick of the same symbol.
    """
    longest_line: bool = attrs.field(default=False, kw_only=True)
    """Evict the oldest tick of the symbol with the longest line.

    One hot symbol then cannot push out the others.
    """


@attrs.frozen(slots=True)
class Conflate:
    """Keep one pending tick a symbol: a newer one replaces it. Never waits.

    A tick that no worker has taken yet is replaced (reason ``conflated``). The symbol
    keeps its place in line, so that every symbol's turn comes, with its newest tick.
    :func:`~trio_ticks.conflation_of` returns what a conflated tick stands for. A
    pending tick is not replaced if an item of another kind of the same symbol (a trade)
    has come after it, so that the two are handled in the order in which they came.

    The queue is bounded by the number of symbols and by ``maxsize``: where ``maxsize``
    symbols wait, a further symbol evicts the tick that has waited longest (reason
    ``evicted``), so give ``maxsize`` at least one place a symbol. In a policy with a
    kind that blocks, the further symbol waits for room with that kind instead, and the
    last tick of every symbol is delivered.

    Raises:
        ConfigError: *merge* is not callable.
    """

    merge: Callable[[Any, Any], Any] | None = attrs.field(
        default=None,
        validator=checked(
            check_callable, shown="a function of the older and the newer item", or_none=True
        ),
    )
    """Makes one tick of the older and the newer one (last price, summed volume).

    Without it the newer tick is kept. It runs in the sender; if it raises, or
    returns anything but an item of the same kind and symbol, the newer tick is kept,
    and the error is logged.
    """


@attrs.frozen(slots=True)
class Fail:
    """Raise :class:`~trio_ticks.QueueFullError` at the sender.

    For feeds where an overload is a bug. What found no room is counted as ``overflow``.

    In a graceful shutdown nothing is raised for ticks that can wait: they wait for
    room while the queue drains, since an error would cut the draining short. Only
    ``send_nowait``, which never waits, raises then too.
    """


OverflowStrategy = Block | DropNewest | DropOldest | Conflate | Fail
Policy = OverflowStrategy | Mapping[type, OverflowStrategy]
"""One strategy for all items, or one for each kind of item.

A kind that is not listed follows its base class, or else the default.
"""


def _a_policy(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if isinstance(value, Throttle):
        raise ConfigError(
            f"{field.name} must be what the channel does when throttling does not help, "
            "not another Throttle"
        )
    check_policy(value)


def _priorities(_instance: object, field: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{field.name} must map symbols to numbers, "
            f"the greater the more important, got {value!r}"
        )
    for symbol, priority in value.items():
        if not isinstance(symbol, str) or not is_number(priority):
            raise ConfigError(
                f"{field.name} must map symbols to numbers, got {symbol!r}: {priority!r}"
            )


@attrs.frozen(slots=True)
class Throttle:
    """Ask the source for no more than the workers can take, so that nothing is dropped.

    A controller watches how full the queue is, how long ticks wait in it, and how fast
    the workers really are. While the queue is above its target, the feed is asked for
    less than the workers take (multiplicative decrease); below it, for steadily more
    (additive increase); and for everything once no limit is needed any more. *fallback*
    rules where this does not help.

    The feed follows as well as its venue allows: see
    :meth:`WebSocketFeed.throttle <trio_ticks.WebSocketFeed.throttle>`. A feed of your
    own has a method ``throttle(max_rate)``, sync or async. It is called with ticks a
    second or ``None`` (no limit), at times with the same value again; and, where
    *priorities* are given, with the keyword ``priorities``. A feed without that method
    is not throttled, and the log says so.

    The queue needs room for the ticks that are under way before the feed reacts: give
    ``maxsize`` what the workers take in half a second, or more. Given to
    :func:`~trio_ticks.open_tick_channel` alone, where there is no feed, a throttle
    means its *fallback*.

    Raises:
        ConfigError: a setting is out of range.
    """

    fallback: Policy = attrs.field(factory=DropNewest, validator=_a_policy)
    """What the channel does if it is full all the same."""
    floor: float = attrs.field(
        default=1.0, validator=checked(check_number, above=0.0), kw_only=True
    )
    """The lowest rate to ask for, in ticks a second."""
    ceiling: float | None = attrs.field(
        default=None, validator=checked(check_number, above=0.0, or_none=True), kw_only=True
    )
    """The highest rate, in ticks a second, asked for from the beginning.

    ``None``: there is no limit while none is needed.
    """
    target_fill: float = attrs.field(default=0.5, validator=checked(check_fraction), kw_only=True)
    """How full the queue may be, as a share of ``maxsize``."""
    target_wait: float = attrs.field(
        default=1.0, validator=checked(check_seconds, positive=True), kw_only=True
    )
    """How long ticks may wait in the queue, in seconds.

    The queue is above its target when it exceeds *target_fill* or *target_wait*.
    """
    increase: float = attrs.field(
        default=0.05, validator=checked(check_number, above=0.0), kw_only=True
    )
    """What is added to the rate each second, as a share of what the workers take."""
    decrease: float = attrs.field(default=0.9, validator=checked(check_fraction), kw_only=True)
    """The rate above the queue's target, as a share of what the workers take."""
    interval: float = attrs.field(
        default=0.25, validator=checked(check_seconds, positive=True), kw_only=True
    )
    """Seconds from one step of the controller to the next."""
    priorities: Mapping[str, float] | None = attrs.field(
        default=None, validator=_priorities, kw_only=True
    )
    """Where symbols have to be paused, those with the lowest priority go first.

    A symbol that is not listed has priority 0. Among equals, and without priorities,
    the last of the feed's ``symbols`` goes first.
    """

    def __attrs_post_init__(self) -> None:
        if self.ceiling is not None and self.ceiling < self.floor:
            raise ConfigError(
                f"ceiling must be at least floor ({self.floor:g}), got {self.ceiling!r}"
            )


Overflow = Policy | Throttle
"""What ``open_pipeline`` takes: a policy, or a :class:`Throttle` over one."""


def check_policy(overflow: object) -> Policy:
    """Return the policy in *overflow*; a mapping becomes a dict of its own.

    Of a :class:`Throttle` it is the fallback.

    Raises:
        ConfigError: it is neither a strategy nor a mapping from classes to strategies.
    """
    if isinstance(overflow, Throttle):
        return check_policy(overflow.fallback)
    if isinstance(overflow, OverflowStrategy):
        return overflow
    _refuse_class("overflow", overflow)
    if not isinstance(overflow, Mapping):
        raise ConfigError(
            "overflow must be a strategy such as DropNewest(timeout=1.0), "
            f"or a mapping from kinds to them, got {overflow!r}"
        )
    if not overflow:
        raise ConfigError(
            "overflow is an empty mapping; leave it out for the default, DropNewest(timeout=1.0)"
        )
    for kind, strategy in overflow.items():
        _refuse_class(f"overflow for {getattr(kind, '__name__', kind)}", strategy)
        if not isinstance(kind, type) or not isinstance(strategy, OverflowStrategy):
            raise ConfigError(
                "overflow must map classes to strategies, such as {Tick: Conflate()}, "
                f"got {kind!r}: {strategy!r}"
            )
    return dict(overflow)


def sheds(overflow: Overflow | None, default: OverflowStrategy) -> bool:
    """Return whether a full channel may discard ticks, rather than let the feed wait.

    Args:
        overflow: what a pipeline was given.
        default: the strategy of kinds that it does not name.
    """
    policy = default if overflow is None else check_policy(overflow)
    each = [*policy.values(), default] if isinstance(policy, Mapping) else [policy]
    # Fail discards nothing: it ends the run.
    return not all(
        isinstance(one, Fail) or (isinstance(one, Block) and one.timeout is None) for one in each
    )


def _refuse_class(name: str, strategy: object) -> None:
    """Raise where *strategy* is the class of a strategy, without its parentheses.

    Raises:
        ConfigError: it is.
    """
    if isinstance(strategy, type) and issubclass(strategy, OverflowStrategy | Throttle):
        raise ConfigError(
            f"{name} must be a strategy, and {strategy.__name__} is its class: write "
            f"{strategy.__name__}()"
        )
