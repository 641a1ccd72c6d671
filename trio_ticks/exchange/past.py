"""The past of a synthetic market: bars of any length, for any time since 2020.

The price of a symbol is a sum of waves whose lengths and phases come from the seed, so
that each bar can be computed by itself, and bars of all lengths agree: an hour opens
where its first minute does and closes where its last does. At the time when the market
opened, the price is that of its first quote.

Shares are traded from Monday to Friday, 13:30 to 20:00 UTC; other symbols always.

Rules: sans-I/O and deterministic. Times are milliseconds since 1970.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, final

import attrs

__all__ = ["BEGIN_MS", "LENGTHS", "Past", "PastBar", "Range"]

_MINUTE: Final = 60_000
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
BEGIN_MS: Final = 1_577_836_800_000
"""2020-01-01: there are no bars before it."""
LENGTHS: Final = {
    "1s": 1000,
    **{f"{n}m": n * _MINUTE for n in (1, 3, 5, 15, 30)},
    **{f"{n}h": n * _HOUR for n in (1, 2, 4, 6, 8, 12)},
    "1d": _DAY,
    "3d": 3 * _DAY,
    "1w": 7 * _DAY,
    "1M": 0,
}
"""By the name of an interval, the length of a bar; months have several."""
_MONDAY: Final = 4 * _DAY
"""1970-01-05."""
_OPENS: Final = 13 * _HOUR + 30 * _MINUTE
_CLOSES: Final = 20 * _HOUR
_WAVES: Final = ((400 * _DAY, 0.25), (17 * _DAY, 0.05), (9 * _HOUR, 0.008), (23 * _MINUTE, 0.001))
"""Usual lengths and heights of the waves."""


@final
@attrs.frozen
class PastBar:
    """One bar."""

    open_ms: int
    end_ms: int
    """The open of the next bar."""
    open: float
    high: float
    low: float
    close: float
    volume: int
    trades: int


@final
@attrs.frozen(kw_only=True)
class Range:
    """Which bars are asked for."""

    interval: str
    first_ms: int | None
    """The earliest open."""
    last_ms: int | None
    """The latest open."""
    limit: int
    newest: bool
    """Whether the newest bars are kept if there are too many."""
    now_ms: int
    forming: bool
    """Whether the last bar may be one that is not over yet."""


@final
class Past:
    """The past of one symbol.

    Args:
        symbol: its name.
        seed: of the market.
        price: at the time *at_ms*.
        at_ms: when the market opened.
        sessions: whether it is traded in sessions only.
    """

    def __init__(
        self, symbol: str, seed: object, price: float, at_ms: int, *, sessions: bool
    ) -> None:
        rng = random.Random(f"{seed}/{symbol}/past")
        self._waves = [
            (2 * math.pi / (length * rng.uniform(0.7, 1.4)), rng.uniform(0, 6.28), height)
            for length, height in _WAVES
        ]
        self._salt = rng.getrandbits(32)
        self._sessions = sessions
        self._scale = 1.0
        self._scale = price / self.price(at_ms)

    def price(self, moment_ms: int) -> float:
        """Return the price at one moment."""
        total = 0.0
        for pace, at, height in self._waves:
            total += height * math.sin(pace * moment_ms + at)
        return self._scale * math.exp(total)

    def bars(self, wanted: Range) -> list[PastBar]:
        """Return the bars that are *wanted*, oldest first."""
        found: list[PastBar] = []
        earliest = max(BEGIN_MS, BEGIN_MS if wanted.first_ms is None else wanted.first_ms)
        latest = wanted.now_ms if wanted.last_ms is None else min(wanted.last_ms, wanted.now_ms)
        backwards = wanted.newest or wanted.first_ms is None
        for begin, end in self._slots(wanted.interval, earliest, latest, backwards=backwards):
            if len(found) == wanted.limit:
                break
            if end <= wanted.now_ms or wanted.forming:
                found.append(self._bar(begin, end))
        return found[::-1] if backwards else found

    def _slots(
        self, interval: str, earliest: int, latest: int, *, backwards: bool
    ) -> Iterator[tuple[int, int]]:
        """Yield begin and end of the bars that open in a range, bounds included."""
        begin, end = slot_of(interval, latest if backwards else earliest)
        while earliest <= latest:
            if earliest <= begin <= latest and self._traded(interval, begin):
                yield begin, end
            elif begin > latest or (backwards and begin < earliest):
                return
            begin, end = slot_of(interval, begin - 1 if backwards else end)

    def _traded(self, interval: str, begin: int) -> bool:
        if not self._sessions or interval in ("3d", "1w", "1M"):
            return True
        weekday = (begin - _MONDAY) // _DAY % 7
        return weekday < 5 and (interval == "1d" or _OPENS <= begin % _DAY < _CLOSES)

    def _bar(self, begin: int, end: int) -> PastBar:
        opened, closed = (round(self.price(moment), 2) for moment in (begin, end))
        middle = [round(self.price(begin + (end - begin) * n // 3), 2) for n in (1, 2)]
        draw = (begin // 1000 * 2_654_435_761 ^ self._salt) % 9973
        seconds = (end - begin) // 1000
        high, low = max(opened, closed, *middle), min(opened, closed, *middle)
        trades = 1 + draw % (2 * seconds)
        return PastBar(begin, end, opened, high, low, closed, 100 * trades, trades)


def slot_of(interval: str, moment_ms: int) -> tuple[int, int]:
    """Return begin and end of the bar in which a moment lies."""
    length = LENGTHS[interval]
    if length:
        origin = _MONDAY if interval == "1w" else 0
        begin = moment_ms - (moment_ms - origin) % length
        return begin, begin + length
    moment = datetime.fromtimestamp(moment_ms / 1000, UTC)
    first = datetime(moment.year, moment.month, 1, tzinfo=UTC)
    after = (first + timedelta(days=32)).replace(day=1)
    return round(first.timestamp() * 1000), round(after.timestamp() * 1000)
