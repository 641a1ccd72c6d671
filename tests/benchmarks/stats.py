"""Medians, quantiles and ratios, as plain functions on lists.

Not a library's: the benchmarks must say exactly what they took the median of.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

__all__ = ["median", "quantile", "ratios"]


def median(values: Iterable[float]) -> float:
    """Return the median; 0 of nothing."""
    numbers = list(values)
    return statistics.median(numbers) if numbers else 0.0


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Return the smallest value that at least *fraction* of *ordered* do not exceed.

    *ordered* is ascending; of an empty list the answer is 0.
    """
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, -int(-fraction * len(ordered) // 1) - 1))]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Divide round by round: what ran next to each other had the same machine."""
    return [one / other for one, other in zip(above, below, strict=True) if other]
