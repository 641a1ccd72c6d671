"""Rates of a pipeline's counters over its last seconds and its last minute.

Rules: no clock; the caller brings the time. Readings are kept four times a second at
most, and no longer than the longest window needs them.
"""

from __future__ import annotations

from collections import deque

import attrs

__all__ = ["Rates", "RecentRates"]

_RATE_WINDOW_S = 5.0
_DROP_WINDOW_S = 60.0
_RATE_SAMPLE_S = 0.25


@attrs.frozen(slots=True, kw_only=True)
class RecentRates:
    """Rates a second, all over the same time, and the drops a minute."""

    produced_per_s: float = 0.0
    consumed_per_s: float = 0.0
    dropped_per_s: float = 0.0
    failed_per_s: float = 0.0
    drops_per_min: float = 0.0

    @property
    def failed_share(self) -> float:
        """The share of the handled ticks that failed, from 0 to 1; 0 if none was."""
        handled = self.consumed_per_s + self.failed_per_s
        return self.failed_per_s / handled if handled > 0 else 0.0


@attrs.frozen(slots=True)
class _Reading:
    at: float
    produced: int
    consumed: int
    dropped: int
    failed: int


class Rates:
    """Readings of counters from the last minute, to compute rates from.

    It is read and written a few times a second, by each observer of the pipeline.
    """

    def __init__(
        self,
        began: float,
        produced: int = 0,
        consumed: int = 0,
        dropped: int = 0,
        failed: int = 0,
    ) -> None:
        first = _Reading(began, produced, consumed, dropped, failed)
        self._readings: deque[_Reading] = deque(
            [first], maxlen=int(_DROP_WINDOW_S / _RATE_SAMPLE_S) + 2
        )

    def read(
        self, now: float, produced: int, consumed: int, dropped: int, failed: int
    ) -> RecentRates:
        """Return the rates, and keep the reading."""
        recent = self._before(now - _RATE_WINDOW_S)
        minute = self._before(now - _DROP_WINDOW_S)
        if now - self._readings[-1].at >= _RATE_SAMPLE_S:
            self._readings.append(_Reading(now, produced, consumed, dropped, failed))
        span = now - recent.at
        if span <= 0:
            return RecentRates()
        return RecentRates(
            produced_per_s=(produced - recent.produced) / span,
            consumed_per_s=(consumed - recent.consumed) / span,
            dropped_per_s=(dropped - recent.dropped) / span,
            failed_per_s=(failed - recent.failed) / span,
            drops_per_min=(dropped - minute.dropped) / max(now - minute.at, 1e-9) * 60,
        )

    def _before(self, moment: float) -> _Reading:
        """Return the last reading at or before *moment*.

        No span is then shorter than its window, however often the rates are read.
        """
        return next(
            (reading for reading in reversed(self._readings) if reading.at <= moment),
            self._readings[0],
        )
