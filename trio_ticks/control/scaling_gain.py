"""Whether it helped that a pool has grown.

If not, the bottleneck is somewhere else: a database, or a core that others use, too.

Rules: no clock, no trio. A pool is judged only while ticks wait all the time: then the
rate of handled ticks shows what the workers can do, and not how many ticks came.
"""

from __future__ import annotations

import math
from typing import Final, final

__all__ = ["Gain"]

_GROWN: Final = 1.5
"""A pool must have grown by this factor for its gain to stand out from the noise."""
_LEAST: Final = 0.5
"""The share of its growth in size that a pool must have gained in ticks handled."""
_SETTLE_S: Final = 0.25
"""How long after a growth nothing is measured, besides the time of two ticks."""
_MEASURE_S: Final = 0.75
_ENOUGH: Final = 20
"""The gain is measured for this time at least, and over this many ticks at least."""
_CEILING_S: Final = 60.0
"""How long no larger size is tried; doubled each time growing does not help."""
_CEILING_MOST_S: Final = 960.0


@final
class Gain:
    """Compares what a pool handles with what it handled before it grew."""

    def __init__(self) -> None:
        self.handling_s = 0.0
        """How long one tick took before the pool grew; 0 if no growth is judged."""
        self._size = 0
        self._rate = 0.0
        self._from_s = 0.0
        self._since: tuple[float, int] | None = None
        self._ceiling = math.inf
        self._ceiling_until = -math.inf
        self._ceiling_s = _CEILING_S

    def ceiling(self, now: float) -> float:
        """Return the size above which more workers did not help, or infinity."""
        return self._ceiling if now < self._ceiling_until else math.inf

    def grown(self, now: float, size: int, rate: float, handling_s: float) -> None:
        """Record that a saturated pool is about to grow.

        Args:
            now: seconds, on the clock of the readings.
            size: how many workers there are.
            rate: how many ticks a second they handle.
            handling_s: how long one tick takes, in seconds.
        """
        if not rate:
            return
        if not self._size:
            self._size, self._rate = size, rate
        if not self.handling_s:
            self.handling_s = handling_s
        # The new workers' first ticks take their time before they count as handled.
        self._from_s = now + _SETTLE_S + 2 * handling_s
        self._since = None

    def judge(
        self, now: float, size: int, handled: int, handling_s: float, *, saturated: bool
    ) -> None:
        """Compare the pool with what it was before it grew, once enough was measured.

        Args:
            now: seconds, on the clock of the readings.
            size: how many workers there are.
            handled: how many ticks the pool has handled so far.
            handling_s: how long one tick takes, in seconds.
            saturated: whether ticks wait while all workers are busy.
        """
        if not self._size:
            return
        if not saturated:
            # No tick waits any more, so growing has helped.
            self._forget()
        elif now < self._from_s:
            return
        elif self._since is None:
            self._since = (now, handled)
        elif (
            now - self._since[0] >= max(_MEASURE_S, handling_s)
            and handled - self._since[1] >= _ENOUGH
        ):
            self.handling_s = 0.0
            grown = size / self._size - 1
            if grown < _GROWN - 1:
                return
            gain = (handled - self._since[1]) / (now - self._since[0]) / self._rate - 1
            if gain < _LEAST * grown:
                # The size that would have handled as much if each new worker had
                # handled as much as each old one.
                self._ceiling = max(self._size, math.ceil(self._size * (1 + gain)))
                self._ceiling_until = now + self._ceiling_s
                self._ceiling_s = min(2 * self._ceiling_s, _CEILING_MOST_S)
            else:
                self._ceiling_s = _CEILING_S
            self._forget()

    def _forget(self) -> None:
        self._size, self.handling_s, self._since = 0, 0.0, None
