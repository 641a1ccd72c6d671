"""What came of a simulation: counts, lags, and which ticks were lost. Sans-I/O."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import final

import attrs

from .loads import Load

__all__ = ["NEVER", "Outcome", "quantile"]

NEVER = -1.0
"""Stands in the place of a lag where the tick was never handled."""


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Return a quantile of values in ascending order; NaN if there are none."""
    if not ordered:
        return math.nan
    rank = fraction * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


@final
@attrs.frozen(slots=True, kw_only=True)
class Outcome:
    """The ledger of a simulated run, and the lag of each tick."""

    load: Load = attrs.field(repr=False)
    produced: int
    handled: int
    dropped_by_reason: Mapping[str, int]
    lags: array[float] = attrs.field(repr=False)
    """How long after its arrival each tick's handling began, in seconds; ``NEVER``."""
    peak: int
    """Most ticks that were ever queued at once, in buffer and lanes."""
    blocked_s: float
    """How long the feed waited for room, in seconds."""
    ended_s: float
    """When the last tick was handled, in seconds from the beginning of the load."""
    busy_s: float
    """How long workers were occupied, in seconds, summed over workers."""

    @property
    def dropped(self) -> int:
        """How many ticks were never handled."""
        return self.produced - self.handled

    @property
    def drop_rate(self) -> float:
        """The share of the ticks that were never handled, from 0 to 1."""
        return self.dropped / self.produced if self.produced else 0.0

    def dropped_in(self, begin: int, end: int) -> float:
        """Return the share of ticks *begin* to before *end* that were not handled."""
        lags = self.lags[begin:end]
        return lags.count(NEVER) / len(lags) if lags else 0.0

    def lag_s(self, fraction: float = 0.99, begin: int = 0, end: int | None = None) -> float:
        """Return a quantile of the lags of the handled ticks, in seconds.

        Args:
            fraction: which.
            begin: the first tick that counts.
            end: the tick behind the last one that counts; ``None``: all.

        Returns:
            NaN where none of them was handled.
        """
        return quantile(sorted(lag for lag in self.lags[begin:end] if lag >= 0), fraction)

    def lag_quantiles_s(self, fractions: Sequence[float]) -> tuple[float, ...]:
        """Return several quantiles of the lags of all handled ticks, in seconds."""
        ordered = sorted(lag for lag in self.lags if lag >= 0)
        return tuple(quantile(ordered, fraction) for fraction in fractions)

    def lost_by_symbol(self) -> dict[str, int]:
        """Return how many ticks of each symbol were never handled, the most first."""
        lost = Counter(compress(self.load.symbols, map(NEVER.__eq__, self.lags)))
        return {self.load.names[place]: count for place, count in lost.most_common()}
