"""Rates of a pipeline's counters over its last seconds and its last minute.

Rules: no clock; the caller brings the time. Readings are kept four times a second at
most, and no longer than the longest window needs them.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Rates"]

_RATE_WINDOW_S = 5.0
_DROP_WINDOW_S = 60.0
_RATE_SAMPLE_S = 0.25


class Rates:
    """Readings of counters from the last minute, to compute rates from.

    It is read and written a few times a second, by each observer of the pipeline.
    """

    def __init__(
        self, began: float, produced: int = 0, consumed: int = 0, dropped: int = 0
    ) -> None:
        first = (began, produced, consumed, dropped)
        self._readings: deque[tuple[float, int, int, int]] = deque(
            [first], maxlen=int(_DROP_WINDOW_S / _RATE_SAMPLE_S) + 2
        )

    def read(
        self, now: float, produced: int, consumed: int, dropped: int
    ) -> tuple[float, float, float, float]:
        """Return the rates, and keep the reading.

        Returns:
            Produced, consumed and dropped a second, all three over the same time; and
            dropped a minute.
        """
        current = (now, produced, consumed, dropped)
        recent = self._before(now - _RATE_WINDOW_S)
        minute = self._before(now - _DROP_WINDOW_S)
        if now - self._readings[-1][0] >= _RATE_SAMPLE_S:
            self._readings.append(current)
        span = now - recent[0]
        if span <= 0:
            return 0.0, 0.0, 0.0, 0.0
        return (
            (produced - recent[1]) / span,
            (consumed - recent[2]) / span,
            (dropped - recent[3]) / span,
            (dropped - minute[3]) / max(now - minute[0], 1e-9) * 60,
        )

    def _before(self, moment: float) -> tuple[float, int, int, int]:
        """Return the last reading at or before *moment*.

        No span is then shorter than its window, however often the rates are read.
        """
        return next(
            (reading for reading in reversed(self._readings) if reading[0] <= moment),
            self._readings[0],
        )
