"""A made-up market as Kraken shows it: order books, trades and candles, all exact.

Each tick of the synthetic market becomes one :class:`Step` of its pair: the best levels
move as the tick says, a level farther away changes, and a trade takes place. A book is
shown to a depth; :meth:`Step.changes` is what a subscriber to that depth has to hear.

Rules: sans-I/O and deterministic for a seed. Prices are whole cents, quantities whole
units of 1e-8, so nothing is rounded. A book never crosses, and each side always has
more levels than the deepest subscription.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, final
from zlib import crc32

import attrs

from .wire import FlatTick

__all__ = [
    "BASE",
    "DEPTHS",
    "FIRST_TRADE",
    "MINUTES",
    "UNITS",
    "Candle",
    "Levels",
    "Pair",
    "Step",
    "checksum",
]

DEPTHS: Final = (10, 25, 100, 500, 1000)
"""The depths of a book that can be subscribed to."""
MINUTES: Final = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
"""The lengths of candles that can be subscribed to."""

UNITS: Final = 10**5
"""Units of 1e-8 in one share of the synthetic market."""
BASE: Final = 10**6
"""Cents that are added to each price of the synthetic market.

The deepest bid of a cheap share would be negative otherwise."""
FIRST_TRADE: Final = 1_000
"""The trades of a pair have the numbers after this one."""
_LEAST: Final = DEPTHS[-1] + 50
_MOST: Final = DEPTHS[-1] + 300
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Levels = list[tuple[int, int]]
"""Prices and quantities."""


@final
class Side:
    """One side of a book: quantities by price, and the prices, the best one last.

    The prices of asks are negated: then the best one is the largest on both sides.
    """

    def __init__(self, sign: int, best: int, rng: random.Random) -> None:
        self.sign = sign
        self._rng = rng
        self.quantities: dict[int, int] = {}
        self.keys = [sign * best - away for away in range(_LEAST, -1, -1)]
        for key in self.keys:
            self.quantities[key] = self.draw()

    def draw(self) -> int:
        """Return a quantity, with zeros at its end and its beginning at times."""
        most = self._rng.choice((10**3, 10**6, 10**9))
        return self._rng.randint(1, most) * self._rng.choice((1, 10, 1000))

    def put(self, key: int, quantity: int) -> None:
        """Set the quantity at *key*; 0 removes the level."""
        known = key in self.quantities
        if quantity:
            if not known:
                self.keys.insert(bisect_left(self.keys, key), key)
            self.quantities[key] = quantity
        elif known:
            del self.quantities[key]
            del self.keys[bisect_left(self.keys, key)]

    def move(self, best: int, quantity: int) -> set[int]:
        """Make *best* the best price; return the keys that changed."""
        key = self.sign * best
        changed = {key}
        while self.keys and self.keys[-1] > key:
            changed.add(self.keys[-1])
            del self.quantities[self.keys.pop()]
        self.put(key, quantity)
        away = key - self._rng.randint(1, 30)
        there = away in self.quantities
        self.put(away, 0 if there and self._rng.random() < 0.6 else self.draw())
        changed.add(away)
        while len(self.keys) < _LEAST:
            self.keys.insert(0, self.keys[0] - 1)
            self.quantities[self.keys[0]] = self.draw()
        for far in self.keys[: max(0, len(self.keys) - _MOST)]:
            self.put(far, 0)
            changed.add(far)
        return changed

    def top(self, depth: int) -> Levels:
        """Return the best *depth* levels, the best one first."""
        return [(self.sign * k, self.quantities[k]) for k in reversed(self.keys[-depth:])]


def checksum(asks: Levels, bids: Levels) -> int:
    """Return Kraken's checksum of a book, whose numbers are whole units."""
    digits = "".join(f"{price}{quantity}" for price, quantity in (*asks[:10], *bids[:10]))
    return crc32(digits.encode())


@attrs.frozen(slots=True)
class Candle:
    """Open, high, low and close in cents, volume in units."""

    begin: datetime
    open: int
    high: int
    low: int
    close: int
    volume: int
    trades: int

    def traded(self, price: int, quantity: int) -> Candle:
        """Return this candle with another trade in it."""
        return Candle(
            self.begin,
            self.open,
            max(self.high, price),
            min(self.low, price),
            price,
            self.volume + quantity,
            self.trades + 1,
        )


@final
class Pair:
    """One pair: its book, its quote, its trades and its candles."""

    def __init__(self, symbol: str, seed: object) -> None:
        self.symbol = symbol
        self._seed = f"{seed}/{symbol}/book"
        self.bids: Side | None = None
        self.asks: Side | None = None
        self.trade_id = FIRST_TRADE
        self.volume = 0
        """Traded so far, in units."""
        self.candles: dict[int, Candle] = {}

    def open(self, bid: int, ask: int) -> tuple[Side, Side]:
        """Return both sides of the book; it begins with this quote."""
        if self.bids is None or self.asks is None:
            self.bids = Side(1, bid, random.Random(f"{self._seed}/bids"))
            self.asks = Side(-1, ask, random.Random(f"{self._seed}/asks"))
        return self.bids, self.asks

    def take(self, tick: FlatTick, now: datetime) -> Step:
        """Move on by one tick of the synthetic market."""
        bid, ask = (BASE + round(price * 100) for price in (tick.bid, tick.ask))
        bids, asks = self.open(bid, ask)
        before = [*bids.keys], [*asks.keys]
        # A level that the other side moves over is gone first, so that nothing crosses.
        changed = (
            bids.move(bid, round(_number(tick.bid_size)) * UNITS),
            asks.move(ask, round(_number(tick.ask_size)) * UNITS),
        )
        volume = round(_number(tick.volume)) * UNITS
        quantity = volume - self.volume if self.volume else UNITS
        self.volume = volume
        self.trade_id += 1
        price = bid if self.trade_id % 2 else ask
        for minutes in MINUTES:
            self._trade_in(minutes, now, price, quantity)
        return Step(self, now, price, quantity, before, changed)

    def _trade_in(self, minutes: int, now: datetime, price: int, quantity: int) -> None:
        length = timedelta(minutes=minutes)
        begin = now - (now - _EPOCH) % length
        candle = self.candles.get(minutes)
        if candle is None or candle.begin != begin:
            candle = Candle(begin, price, price, price, price, 0, 0)
        self.candles[minutes] = candle.traded(price, quantity)


def _number(quantity: object) -> float:
    return quantity if isinstance(quantity, int | float) else 0.0


@final
class Step:
    """What happened to a pair with one tick.

    Args:
        pair: as it is afterwards; to be read before its next step.
        now: when.
        price: of the trade, in cents.
        quantity: of the trade, in units.
        before: the keys of bids and asks before.
        changed: the keys of bids and asks that changed.
    """

    def __init__(
        self,
        pair: Pair,
        now: datetime,
        price: int,
        quantity: int,
        before: tuple[list[int], list[int]],
        changed: tuple[set[int], set[int]],
    ) -> None:
        self.pair = pair
        self.now = now
        self.price = price
        self.quantity = quantity
        self._before = before
        self._changed = changed

    def all_changes(self) -> tuple[Levels, Levels]:
        """Return the bids and asks to send to who sees the whole book."""
        return self.changes(_MOST + _LEAST)

    def changes(self, depth: int) -> tuple[Levels, Levels]:
        """Return the bids and asks to send to who sees *depth* levels of a side.

        A level that is gone has the quantity 0. One that is pushed out of the depth is
        not sent, and one that comes into it, since another is gone, is.
        """
        assert self.pair.bids is not None
        assert self.pair.asks is not None
        sides = (self.pair.bids, self.pair.asks)
        found = [
            _side_changes(side, before[-depth:], changed, depth)
            for side, before, changed in zip(sides, self._before, self._changed, strict=True)
        ]
        return found[0], found[1]


def _side_changes(side: Side, before: Sequence[int], changed: set[int], depth: int) -> Levels:
    after = side.keys[-depth:]
    gone = [k for k in changed if k not in side.quantities and k >= before[0]]
    new = {k for k in changed if k in side.quantities and k >= after[0]}
    for key in after:
        if key >= before[0]:
            break
        new.add(key)
    return [
        *((side.sign * key, 0) for key in sorted(gone)),
        *((side.sign * key, side.quantities[key]) for key in sorted(new)),
    ]
