"""A made-up market as Coinbase has it: order books, trades, and their numbers.

Each step changes one book: a level appears, changes or goes, or a trade takes from the
best level. Prices are whole cents, sizes whole units of 1e-8, so nothing is rounded.

Rules: sans-I/O and deterministic for a seed. A book never crosses, and a side is never
empty. Memory is bounded by the number of levels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal, final

import attrs

__all__ = ["ONE", "Change", "Match", "Product", "ProductMarket"]

ONE: Final = 10**8
"""Units of size in one coin."""

_NEAR: Final = 30
"""How many cents from the best price a new level may be."""


@attrs.frozen(slots=True)
class Change:
    """Levels of one book that changed; a size of 0 is a level that is gone."""

    product: Product
    at: datetime
    levels: tuple[tuple[Literal["buy", "sell"], int, int], ...]
    """Side, price and size of each."""


@attrs.frozen(slots=True)
class Match:
    """A trade; the product's quote is the one after it."""

    product: Product
    at: datetime
    trade_id: int
    sequence: int
    maker: Literal["buy", "sell"]
    price: int
    size: int


@final
class Product:
    """One product: its book, and the numbers of its changes and trades.

    Args:
        name: such as ``BTC-USD``.
        seed: the same seed makes the same product.
        levels: how many levels each side has at first; it may have twice as many.
    """

    def __init__(self, name: str, seed: object, levels: int) -> None:
        self.name = name
        self._random = random.Random(f"{seed}/{name}")
        self._most = 2 * levels
        middle = self._random.randrange(10_000, 9_000_000) + levels
        self.bids = {middle - n: self._size() for n in range(1, levels + 1)}
        self.asks = {middle + n: self._size() for n in range(1, levels + 1)}
        self.best_bid = middle - 1
        self.best_ask = middle + 1
        self.sequence = self._random.randrange(10**6, 10**9)
        """Of the last change or trade."""
        self.trade_id = self._random.randrange(1000, 10**6)
        """Of the last trade."""
        self.volume = ONE * self._random.randrange(100, 10_000)
        self.last: Match | None = None

    def _size(self) -> int:
        return self._random.randrange(1, 3 * ONE)

    def step(self, at: datetime) -> tuple[Change | Match, ...]:
        """Make the next thing happen, at the time *at*."""
        draw = self._random.randrange(10)
        if draw == 0:
            return self._trade(at)
        side: Literal["buy", "sell"] = "buy" if self._random.randrange(2) else "sell"
        book = self.bids if side == "buy" else self.asks
        price = self._price_for(side)
        if price not in book and len(book) >= self._most:
            price = self.best_bid if side == "buy" else self.best_ask
        goes = draw < 4 and price in book and len(book) > 1
        return (self._set(at, side, price, 0 if goes else self._size()),)

    def _price_for(self, side: Literal["buy", "sell"]) -> int:
        """Return a price near the best one, on its own side of the other."""
        off = self._random.randrange(_NEAR)
        if side == "buy":
            return max(1, self.best_ask - 1 - off)
        return self.best_bid + 1 + off

    def _set(self, at: datetime, side: Literal["buy", "sell"], price: int, size: int) -> Change:
        book = self.bids if side == "buy" else self.asks
        if size:
            book[price] = size
        else:
            del book[price]
        if side == "buy":
            self.best_bid = max(self.best_bid, price)
            while self.best_bid not in book:
                self.best_bid -= 1
        else:
            self.best_ask = min(self.best_ask, price)
            while self.best_ask not in book:
                self.best_ask += 1
        self.sequence += 1
        return Change(self, at, ((side, price, size),))

    def _trade(self, at: datetime) -> tuple[Change | Match, ...]:
        maker: Literal["buy", "sell"] = "buy" if self._random.randrange(2) else "sell"
        book, price = (self.bids, self.best_bid) if maker == "buy" else (self.asks, self.best_ask)
        there = book[price]
        # The last level of a side is never taken as a whole.
        takes_all = len(book) > 1 and not self._random.randrange(3)
        size = there if takes_all else self._random.randrange(1, there) if there > 1 else 0
        if not size:
            return (self._set(at, maker, price, self._size()),)
        change = self._set(at, maker, price, there - size)
        self.trade_id += 1
        self.volume += size
        self.last = Match(self, at, self.trade_id, self.sequence, maker, price, size)
        return (self.last, change)


@final
class ProductMarket:
    """Several products; at each :meth:`step` something happens to one of them.

    Args:
        names: of the products.
        seed: the same seed makes the same market.
        levels: how many levels each side of a book has at first.
    """

    def __init__(self, names: Sequence[str], *, seed: int = 0, levels: int = 50) -> None:
        self.products = {name: Product(name, seed, levels) for name in names}
        self._all = list(self.products.values())
        self._choose = random.Random(f"{seed}/products").choice

    def step(self, at: datetime) -> tuple[Change | Match, ...]:
        """Return what happens next, at the time *at*."""
        return self._choose(self._all).step(at)
