"""A made-up market as Binance shows it: numbered changes of books, and candles.

Each tick of the synthetic market changes one book, of which each changed level gets a
number. For USD-M futures the numbers have holes, and each event names the one before.

Rules: sans-I/O and deterministic for a seed; prices are whole cents, quantities whole
units of 1e-8.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, final

import attrs

from .kraken_market import Candle, Levels, Pair
from .wire import FlatTick

__all__ = ["INTERVALS", "Event", "NumberedPair"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MONDAY: Final = datetime(1969, 12, 29, tzinfo=UTC)
_MINUTE: Final = 60

INTERVALS: Final[dict[str, int]] = {
    "1s": 1,
    **{f"{n}m": n * _MINUTE for n in (1, 3, 5, 15, 30)},
    **{f"{n}h": n * 3600 for n in (1, 2, 4, 6, 8, 12)},
    **{f"{n}d": n * 86_400 for n in (1, 3)},
    "1w": 7 * 86_400,
    "1M": 0,
}
"""The lengths of candles in seconds, by their names; 0: a month."""
_HOLE: Final = 5
"""How many numbers lie between two events of a USD-M symbol."""


def begin_of(interval: str, now: datetime) -> datetime:
    """Return when the candle of *now* began."""
    if interval == "1M":
        return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    since = _MONDAY if interval == "1w" else _EPOCH
    return now - (now - since) % timedelta(seconds=INTERVALS[interval])


def end_of(interval: str, begin: datetime) -> datetime:
    """Return when the candle ends that begins at *begin*."""
    if interval != "1M":
        return begin + timedelta(seconds=INTERVALS[interval])
    return (begin + timedelta(days=32)).replace(day=1)


@attrs.frozen(slots=True)
class Event:
    """What happened to a pair with one tick."""

    pair: NumberedPair
    now: datetime
    first: int
    last: int
    previous: int
    """The number of the last change before it."""
    bids: Levels
    """The levels that changed; a quantity of 0: the level is gone."""
    asks: Levels
    price: int
    quantity: int
    trade_id: int
    ended: dict[str, Candle]
    """The candles that ended with the trade before, by their intervals."""


@final
class NumberedPair:
    """One symbol: its book, whose changes have numbers, and its candles.

    Args:
        symbol: in upper case.
        seed: the same seed makes the same pair.
        futures: whether it is one of USD-M.
    """

    def __init__(self, symbol: str, seed: object, *, futures: bool) -> None:
        self.symbol = symbol
        self.futures = futures
        self.last = 1_000
        """The number of the last change of the book."""
        self.candles: dict[str, Candle] = {}
        self._pair = Pair(symbol, seed)

    @property
    def is_open(self) -> bool:
        """Whether there has been a tick."""
        return self._pair.bids is not None

    def top(self, depth: int) -> tuple[Levels, Levels]:
        """Return the best *depth* bids and asks."""
        bids, asks = self._pair.bids, self._pair.asks
        if bids is None or asks is None:
            return [], []
        return bids.top(depth), asks.top(depth)

    def take(self, tick: FlatTick, now: datetime) -> Event:
        """Move on by one tick of the synthetic market."""
        step = self._pair.take(tick, now)
        bids, asks = step.all_changes()
        previous = self.last
        first = previous + 1 + (_HOLE if self.futures else 0)
        self.last = first + max(0, len(bids) + len(asks) - 1)
        ended = self._trade(now, step.price, step.quantity)
        return Event(
            self,
            now,
            first,
            self.last,
            previous,
            bids,
            asks,
            step.price,
            step.quantity,
            self._pair.trade_id,
            ended,
        )

    def _trade(self, now: datetime, price: int, quantity: int) -> dict[str, Candle]:
        """Add a trade to the candles; return those that had ended before."""
        ended = {}
        for interval in INTERVALS:
            begin = begin_of(interval, now)
            candle = self.candles.get(interval)
            if candle is None or candle.begin != begin:
                if candle is not None:
                    ended[interval] = candle
                candle = Candle(begin, price, price, price, price, 0, 0)
            self.candles[interval] = candle.traded(price, quantity)
        return ended
