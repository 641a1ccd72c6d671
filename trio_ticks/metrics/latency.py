"""Latencies: moving windows of logarithmic histograms.

Rules: no I/O and no clock; times are arguments.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

import attrs

__all__ = ["BOUNDS_S", "LatencyStats", "LatencyWindow", "quantiles_s"]


_RATIO = 1.05


_FLOOR_S = 1e-7


BOUNDS_S = tuple(
    _FLOOR_S * _RATIO**exponent
    for exponent in range(math.ceil(math.log(1e5 / _FLOOR_S, _RATIO)) + 1)
)
"""The upper bounds of a window's buckets, in seconds; one bucket lies above them."""


@attrs.frozen(slots=True)
class LatencyStats:
    """A distribution of durations, in milliseconds.

    All fields are zero where nothing was measured (``count`` is 0).
    """

    count: int = 0
    """How many samples were measured."""
    mean: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0
    p999: float = 0.0


def quantiles_s(
    counts: Sequence[int],
    fractions: Iterable[float],
    minimum: float = 0.0,
    maximum: float = BOUNDS_S[-1],
) -> tuple[float, ...]:
    """Return quantiles, in seconds, of samples that were counted by bucket.

    Samples are taken to lie evenly in their bucket.

    Args:
        counts: how many samples are in each bucket of ``BOUNDS_S``, and in the one
            above.
        fractions: which quantiles, from 0 to 1.
        minimum: the smallest sample, as far as it is known.
        maximum: the largest sample, as far as it is known.

    Raises:
        ValueError: there are no samples.
    """
    seen = list(accumulate(counts))
    if not seen or not seen[-1]:
        raise ValueError("there are no samples")
    result = []
    for fraction in fractions:
        rank = fraction * seen[-1]
        # The first bucket in or below which *rank* samples lie; it holds a sample.
        index = bisect_left(seen, rank) if rank else bisect_right(seen, 0)
        low = BOUNDS_S[index - 1] if index else min(minimum, 0.0)
        high = BOUNDS_S[index] if index < len(BOUNDS_S) else max(maximum, low)
        inside = 1 - (seen[index] - rank) / counts[index]
        result.append(min(max(low + (high - low) * inside, minimum), maximum))
    return tuple(result)


class _Slot:
    """The samples of one stretch of time.

    Negative samples (a venue's clock is ahead of ours) share the lowest bucket.
    """

    __slots__ = ("below_zero", "counts", "maximum", "minimum", "number", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.clear()

    def clear(self) -> None:
        self.counts[:] = [0] * len(self.counts)
        self.number = 0
        self.total = 0.0
        # The sum of the negative samples.
        self.below_zero = 0.0
        self.maximum = -math.inf
        self.minimum = math.inf

    def add(self, other: _Slot) -> None:
        self.counts = [
            mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)
        ]
        self.number += other.number
        self.total += other.total
        self.below_zero += other.below_zero
        self.maximum = max(self.maximum, other.maximum)
        self.minimum = min(self.minimum, other.minimum)

    def stats(self) -> LatencyStats:
        if not self.number:
            return LatencyStats()
        p50, p99, p999 = quantiles_s(self.counts, (0.50, 0.99, 0.999), self.minimum, self.maximum)
        return LatencyStats(
            count=self.number,
            mean=self.total / self.number * 1e3,
            p50=p50 * 1e3,
            p99=p99 * 1e3,
            p999=p999 * 1e3,
            max=self.maximum * 1e3,
        )


class LatencyWindow:
    """Durations of the last *span_s* seconds, and of the whole run.

    It is a ring of *slots* logarithmic histograms. Their buckets are 5 % wide, from 100
    ns to a day, and quantiles are interpolated in them. The window is the sum of the
    slots that are not too old, so it forgets in steps of ``span_s / slots``.
    Percentiles are within 5 % of the exact ones; mean and maximum are exact.
    """

    __slots__ = ("_current", "_ends", "_expired", "_slot_s", "_slots", "_stamps")

    def __init__(self, span_s: float = 60.0, slots: int = 12) -> None:
        self._slot_s = span_s / slots
        self._slots = [_Slot() for _ in range(slots)]
        self._stamps = [-math.inf] * slots
        self._expired = _Slot()
        self._current = self._slots[0]
        self._ends = -math.inf

    def record(self, seconds: float, now: float) -> None:
        """Add one sample, taken at the clock's *now* (seconds)."""
        if now >= self._ends:
            self._turn(now)
        slot = self._current
        slot.counts[bisect_right(BOUNDS_S, seconds)] += 1
        slot.number += 1
        slot.total += seconds
        if seconds > slot.maximum:
            slot.maximum = seconds
        if seconds < slot.minimum:
            slot.minimum = seconds
        if seconds < 0:
            slot.below_zero += seconds

    def _turn(self, now: float) -> None:
        period = math.floor(now / self._slot_s)
        index = period % len(self._slots)
        self._current = self._slots[index]
        self._ends = (period + 1) * self._slot_s
        if self._stamps[index] != period:
            if self._current.number:
                self._expired.add(self._current)
                self._current.clear()
            self._stamps[index] = period

    def stats(self, now: float) -> LatencyStats:
        """Return the distribution over the moving window that ends at *now*."""
        newest = math.floor(now / self._slot_s)
        window = _Slot()
        for slot, stamp in zip(self._slots, self._stamps, strict=True):
            if slot.number and stamp > newest - len(self._slots):
                window.add(slot)
        return window.stats()

    def _whole(self) -> _Slot:
        whole = _Slot()
        for slot in (self._expired, *self._slots):
            if slot.number:
                whole.add(slot)
        return whole

    def total(self) -> LatencyStats:
        """Return the distribution over the whole run."""
        return self._whole().stats()

    def counts(self) -> list[int]:
        """Return how many samples of the whole run are in each bucket.

        The difference of two calls counts the samples that were added between them.
        """
        return self._whole().counts

    def cumulative(self, bounds_s: tuple[float, ...]) -> tuple[list[int], float]:
        """Return the whole run as a histogram with *bounds_s*, and its sum.

        Returns:
            How many samples were at most each of the bounds (seconds), and the number
            of all samples; and the sum of all samples, in seconds.

        Negative samples count as zero in the sum: it must not fall, or an exporter
        would have to hold it where it was.
        """
        whole = self._whole()
        return [
            *(sum(whole.counts[: bisect_right(BOUNDS_S, bound)]) for bound in bounds_s),
            whole.number,
        ], whole.total - whole.below_zero
