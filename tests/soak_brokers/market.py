"""The ticks of a run: numbered by symbol, and the same for the same seed.

Whoever judges a run makes them once more instead of being told what was sent.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import trio_ticks as tt

__all__ = ["SYMBOLS", "counts", "tick", "walk"]

SYMBOLS = 100
_NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def walk(seed: int, count: int, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield *count* pairs of a symbol and its next number, which begin at 1.

    Args:
        seed: which symbol comes when depends on it alone.
        count: how many there are.
        prefix: of the symbols, so that each ingest has its own.
    """
    chance = random.Random(seed)
    numbers: Counter[str] = Counter()
    for _ in range(count):
        symbol = f"{prefix}{chance.randrange(SYMBOLS)}"
        numbers[symbol] += 1
        yield symbol, numbers[symbol]


def counts(seed: int, count: int, prefix: str) -> Counter[str]:
    """Return how many ticks each symbol has."""
    return Counter(symbol for symbol, _number in walk(seed, count, prefix))


def tick(symbol: str, number: int) -> tt.Tick:
    """Return a tick that carries its number as its volume."""
    stamp = _NOON + timedelta(microseconds=number)
    return tt.Tick(symbol, stamp, 1.5, 1.6, 1.0, 2.0, float(number))
