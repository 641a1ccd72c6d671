"""How old an item is when its turn comes: since it arrived here, or since it happened at the venue. Sync; times are given in.

A venue's clock is not ours. Its offset is measured as the smallest difference seen between arrival and timestamp: the quickest
delivery counts as no delay at all, as NTP's minimum filter does.
"""

from __future__ import annotations

import math
import time
from typing import Literal

import attrs

from .errors import ConfigError
from .ticks import MarketData

__all__ = ["AgeMeter", "MaxAge", "check_max_age"]


def _positive(_instance: object, field: attrs.Attribute[float], value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"{field.name} must be a positive number of seconds, got {value!r}")


def _since(_instance: object, field: attrs.Attribute[str], value: str) -> None:
    if value not in ("arrival", "timestamp"):
        raise ConfigError(f'{field.name} must be "arrival" or "timestamp", got {value!r}')


@attrs.frozen(slots=True)
class MaxAge:
    """Items older than *seconds* when their turn comes are counted as ``stale`` and not handled.

    Raises:
        ConfigError: a setting is out of range.
    """

    seconds: float = attrs.field(validator=_positive)
    since: Literal["arrival", "timestamp"] = attrs.field(default="arrival", validator=_since)
    """``"arrival"``: the wait in the channel alone. ``"timestamp"``: also the way here, by the item's own timestamp, corrected by
    the measured offset between the venue's clock and ours."""


def check_max_age(value: MaxAge | float | None) -> MaxAge | None:
    """Return *value* as a :class:`MaxAge`, a plain number meaning seconds since arrival.

    Raises:
        ConfigError: *value* is not positive.
    """
    if value is None or isinstance(value, MaxAge):
        return value
    try:
        return MaxAge(value)
    except ConfigError:
        raise ConfigError(f"max_age must be a positive number of seconds, a MaxAge or None, got {value!r}") from None


class AgeMeter:
    """Tells which items are too old."""

    _WINDOW_S = 60.0

    def __init__(self, limit: MaxAge) -> None:
        self._limit = limit.seconds
        self._by_timestamp = limit.since == "timestamp"
        self._wall_offset = math.nan
        self._turn = -math.inf
        self._recent = self._before = math.inf

    def arrived(self, item: MarketData, now: float) -> None:
        """Learn from *item*, the last of a batch that arrived *now*, how far the venue's clock is off."""
        if not self._by_timestamp:
            return
        if math.isnan(self._wall_offset):
            # The wall clock is read once, so that a virtual clock rules here too, and a step of the wall clock does not.
            self._wall_offset = time.time() - now
        if now >= self._turn:
            # The smallest difference of the last one to two windows: clocks drift.
            self._turn, self._before, self._recent = now + self._WINDOW_S, self._recent, math.inf
        self._recent = min(self._recent, now + self._wall_offset - item.timestamp.timestamp())

    @property
    def offset_s(self) -> float:
        """Our clock less the venue's, in seconds, with the quickest delivery seen counted as none."""
        offset = min(self._recent, self._before)
        return offset if math.isfinite(offset) else 0.0

    def is_stale(self, item: MarketData, arrived: float, now: float) -> bool:
        return self.life_s(item, arrived, now) < 0 if self._by_timestamp else now - arrived > self._limit

    def life_s(self, item: MarketData, arrived: float, now: float) -> float:
        """Return for how much longer *item* is fresh, in seconds; less than 0 where it is stale."""
        if self._by_timestamp:
            return self._limit - (now + self._wall_offset - item.timestamp.timestamp() - self.offset_s)
        return self._limit - (now - arrived)
