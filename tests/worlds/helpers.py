"""Makers shared by the tests: ticks that carry a number, so that each is unique.

The number travels in ``volume``, which may be any whole number and which no part of the
library reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from trio_ticks.ticks import BookUpdate, Tick, Trade

__all__ = ["EPOCH", "make_book", "make_tick", "make_ticks", "make_trade", "number", "numbers"]

EPOCH = datetime(2024, 8, 8, 12, tzinfo=UTC)
"""A fixed moment, so that no test depends on when it runs."""


def make_tick(
    symbol: str = "A", n: int = 0, age_s: float = 0.0, *, now: datetime | None = None
) -> Tick:
    """Return tick number *n*, stamped *age_s* seconds before *now*.

    *now* is the wall clock's, unless given.
    """
    stamp = (datetime.now(UTC) if now is None else now) - timedelta(seconds=age_s)
    return Tick(symbol, stamp, 100.0, 100.5, 2.0, 1.0, n)


def make_ticks(count: int, symbols: Sequence[str] = ("A",), first: int = 0) -> list[Tick]:
    """Return *count* ticks numbered from *first* on, of *symbols* in turn.

    They are a millisecond apart, from :data:`EPOCH` on.
    """
    return [
        make_tick(symbols[n % len(symbols)], n, now=EPOCH + timedelta(milliseconds=n))
        for n in range(first, first + count)
    ]


def make_trade(symbol: str = "A", n: int = 0, *, price: float = 100.0) -> Trade:
    """Return a trade with the number *n* (in ``size`` and ``trade_id``)."""
    return Trade(symbol, EPOCH + timedelta(milliseconds=n), price, n, "buy", str(n))


def make_book(symbol: str = "A", n: int = 0, *, snapshot: bool = False) -> BookUpdate:
    """Return a book update whose sequence numbers are both *n*."""
    return BookUpdate(
        symbol,
        EPOCH + timedelta(milliseconds=n),
        ((100.0, float(n)),),
        ((101.0, 1.0),),
        snapshot,
        n,
        n,
    )


def number(item: Tick | Trade | BookUpdate) -> int:
    """Return the number that the makers gave *item*."""
    if isinstance(item, Tick):
        return int(item.volume)
    if isinstance(item, Trade):
        return int(item.size)
    assert item.last_sequence is not None
    return item.last_sequence


def numbers(items: Iterable[Tick | Trade | BookUpdate]) -> list[int]:
    """Return the numbers of *items*, in order."""
    return [number(item) for item in items]
