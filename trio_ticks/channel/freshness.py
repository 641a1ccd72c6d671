"""Measures how old an item is when its turn comes: by arrival or by timestamp.

A venue's clock is not ours; :mod:`trio_ticks.offsets` estimates the difference.

Rules: sync; times are arguments.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Literal

import attrs

from ..checks import check_seconds, check_word, checked
from ..clock import Clock
from ..errors import ConfigError
from ..logs import LogLimit, log_event
from ..offsets import ClockOffsets
from ..ticks import MarketData

__all__ = ["AgeMeter", "MaxAge", "check_max_age"]

logger = logging.getLogger("trio_ticks.channel")


@attrs.frozen(slots=True)
class MaxAge:
    """Items older than *seconds* when their turn comes are ``stale``: not handled.

    Raises:
        ConfigError: a setting is out of range.
    """

    seconds: float = attrs.field(validator=checked(check_seconds, positive=True, infinite=True))
    since: Literal["arrival", "timestamp"] = attrs.field(
        default="arrival", validator=checked(check_word, words=("arrival", "timestamp"))
    )
    """What the age counts from.

    ``"arrival"``: the age is the wait in the channel. ``"timestamp"``: it includes the
    way here, by the item's own timestamp, corrected by the measured offset between the
    venue's clock and ours."""


def check_max_age(value: MaxAge | float | None) -> MaxAge | None:
    """Return *value* as a :class:`MaxAge`; a plain number is seconds since arrival.

    Raises:
        ConfigError: *value* is not positive.
    """
    if value is None or isinstance(value, MaxAge):
        return value
    try:
        return MaxAge(value)
    except ConfigError:
        raise ConfigError(
            f"max_age must be a positive number of seconds, a MaxAge or None, got {value!r}"
        ) from None


class AgeMeter:
    """Tells which items are too old.

    An age by timestamp is never less than the wait in the channel. It is that wait
    while the clocks' difference is unknown or in doubt, and for what had arrived before
    a jump of a clock was followed: no item is stale because of a clock.

    Args:
        limit: the greatest age, and what it counts from.
        clock: the channel's, for the wall time that timestamps are compared with.
    """

    _SAMPLES = 4
    """Of a batch of eight or more, at most so many items are observed.

    They lie evenly in it."""

    def __init__(self, limit: MaxAge, clock: Clock) -> None:
        self._limit = limit.seconds
        self._offsets = ClockOffsets() if limit.since == "timestamp" else None
        self._clock = clock
        self._log_limit = LogLimit(clock.now)
        self._turn = 0

    def observe(
        self, items: Sequence[MarketData], now: float, arrived: Sequence[float] | None = None
    ) -> None:
        """Update the offsets with some of *items*, a batch that was brought at *now*.

        Args:
            items: of the batch.
            now: a time that only goes forward.
            arrived: when each of them had arrived elsewhere; now, unless given.
        """
        if self._offsets is None:
            return
        if arrived is not None:
            # A source brings the items of many arrivals at once: one of them is enough.
            self.arrived(items[-1], now, arrived[-1])
            return
        # An odd step: symbols may take turns.
        step = len(items) // self._SAMPLES | 1
        if step > 1:
            # Begin elsewhere each time: batches may all have the same order of symbols.
            self._turn += 1
            items = items[self._turn % step :: step][: self._SAMPLES]
        for item in items:
            self.arrived(item, now)

    def arrived(self, item: MarketData, now: float, at: float | None = None) -> None:
        """Update the offsets at *now* with *item*, which arrived at the time *at*."""
        if self._offsets is None:
            return
        difference_s = self._clock.age_s(now if at is None else at, item.timestamp.timestamp())
        if difference_s != difference_s:
            return  # of a recording that is played without a pace
        jumped_s = self._offsets.observe(item.symbol, difference_s, now)
        if jumped_s and (jumps := self._log_limit.due("jump")):
            # A greater offset means that the venue's clock shows less.
            log_event(
                logger,
                logging.WARNING,
                "clock.jumped",
                "the clock of the venue of %r has jumped by %+.3f s, or ours the other way; "
                "ages follow it (jumps since the last such line: %d)",
                item.symbol,
                -jumped_s,
                jumps,
                symbol=item.symbol,
                seconds=-jumped_s,
                jumps=jumps,
            )

    @property
    def offset_s(self) -> float | None:
        """Our clock less the venue's plus the quickest delivery's delay, in seconds.

        Of all symbols together; ``None`` before the first estimate, and where ages
        count from arrival.
        """
        if self._offsets is None or self._offsets.shared.offset_s == math.inf:
            return None
        return self._offsets.shared.offset_s

    @property
    def jumps(self) -> int | None:
        """How often a clock has jumped; ``None`` where ages count from arrival."""
        return None if self._offsets is None else self._offsets.jumps

    def is_stale(self, item: MarketData, arrived: float, now: float) -> bool:
        """Tell whether *item*, which arrived at *arrived*, is too old at *now*."""
        return (
            now - arrived > self._limit
            if self._offsets is None
            else self.life_s(item, arrived, now) < 0
        )

    def life_s(self, item: MarketData, arrived: float, now: float) -> float:
        """Return for how long *item* is still fresh, in seconds; negative: stale."""
        life = self._limit - (now - arrived)
        if self._offsets is not None:
            offset = self._offsets.offset_s(item.symbol, arrived)
            if offset is not None:
                way = self._clock.age_s(arrived, item.timestamp.timestamp()) - offset
                if way > 0:
                    return life - way
        return life
