"""How far the ingest's clock is from ours, by round trips, with the error of that.

A round trip has four times: we ask, the ingest receives, it answers, we receive. If
both ways took as long, the difference is exact; if all of the time was one way, it is
wrong by half of what the trip took. The best of the recent round trips is taken: old
ones are forgotten, since clocks drift.

Rules: sans-I/O.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, final

__all__ = ["ClockDifference"]

_RECENT: Final = 30
"""How many round trips are remembered."""


@final
class ClockDifference:
    """Our clock less the other's."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self.difference_s: float | None = None
        """Our clock less the other's, in seconds."""
        self.error_s: float | None = None
        """How wrong that may be, in seconds."""
        self.round_trip_s: float | None = None
        """How long the last round trip took, in seconds."""
        self.shift_s = 0.0
        """What to add to the other's times to have ours; 0 if the clocks agree within
        the error, so that the same machine's times stay as they are."""

    def add(self, asked: float, received: float, answered: float, now: float) -> None:
        """Take one round trip: our two times around the other's two.

        One that cannot be (a clock was set in the middle, a peer that makes times up)
        is left out.
        """
        trip = (now - asked) - (answered - received)
        difference = ((asked - received) + (now - answered)) / 2
        if not math.isfinite(difference) or trip < 0 or answered < received:
            return
        self.round_trip_s = trip
        self._samples.append((trip / 2, difference))
        self.error_s, self.difference_s = min(self._samples)
        far = abs(self.difference_s) > self.error_s
        self.shift_s = self.difference_s if far else 0.0
