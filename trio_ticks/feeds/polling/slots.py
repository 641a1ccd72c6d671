"""The moments at which a feed polls: the beginning plus n times the interval.

Rules: sans-I/O, times in seconds come in as arguments. A late answer moves no later
moment; those that have passed are left out, and counted.
"""

from __future__ import annotations

import math
from typing import Final, final

__all__ = ["Slots"]

_ROUNDING: Final = 1e-6
"""Of an interval: so much after a moment is still that moment."""


@final
class Slots:
    """The moments *began*, *began* + *interval* and so on, each of them once."""

    __slots__ = ("_began", "_interval", "_next", "skipped")

    def __init__(self, began: float, interval: float) -> None:
        self._began = began
        self._interval = interval
        self._next = 0
        self.skipped = 0
        """Moments that had passed before they were asked for."""

    def take(self, now: float, not_before: float = -math.inf) -> float:
        """Return the next moment, and use it up.

        Args:
            now: the present time; moments before it are skipped.
            not_before: the moment is not earlier; what lies between is left out on
                purpose, and is not counted as skipped.
        """
        first = max(self._next, self._number(now))
        self.skipped += first - self._next
        number = max(first, self._number(not_before))
        self._next = number + 1
        return self._began + number * self._interval

    def _number(self, moment: float) -> int:
        """Return the number of the first moment that is not before *moment*."""
        if moment <= self._began:
            return 0
        return math.ceil((moment - self._began) / self._interval - _ROUNDING)
