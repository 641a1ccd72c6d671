"""Whether it helped that a pool has grown: what is short may be somewhere else, at a database, or at a core that others use.

Rules: no clock, no trio. It judges only while ticks wait all the time: then the ticks handled say what the workers can do, not what came.
"""

from __future__ import annotations

import math
from typing import Final, final

__all__ = ["Gain"]

_GROWN: Final = 1.5
"""How much a pool must have grown for its gain to show above the noise."""
_LEAST: Final = 0.5
"""Which share of its growth in size a pool must have gained in ticks handled."""
_SETTLE_S: Final = 0.25
_LOOK_S: Final = 0.75
_ENOUGH: Final = 20
_CEILING_S: Final = 60.0
"""How long a size that was enough is kept to; twice as long each time that it shows again."""
_CEILING_MOST_S: Final = 960.0


@final
class Gain:
    """Compares what a pool handles with what it handled before it grew."""

    def __init__(self) -> None:
        self.handling_s = 0.0
        """How long a tick took before the pool grew, until it has shown what that brings; else 0."""
        self._size = 0
        self._rate = 0.0
        self._from_s = 0.0
        self._since: tuple[float, int] | None = None
        self._ceiling = math.inf
        self._ceiling_until = -math.inf
        self._ceiling_s = _CEILING_S

    def ceiling(self, now: float) -> float:
        """Return the size above which more workers did not help."""
        return self._ceiling if now < self._ceiling_until else math.inf

    def grown(self, now: float, size: int, rate: float, handling_s: float) -> None:
        """Note that a pool of *size*, which handled *rate* ticks a second and no more, is about to grow."""
        if not rate:
            return
        if not self._size:
            self._size, self._rate = size, rate
        if not self.handling_s:
            self.handling_s = handling_s
        # The newcomers' first ticks take their time, too.
        self._from_s = now + _SETTLE_S + 2 * handling_s
        self._since = None

    def look(self, now: float, size: int, handled: int, handling_s: float, *, saturated: bool) -> None:
        """Look at the pool again; *handled* is how many ticks it has handled so far."""
        if not self._size:
            return
        if not saturated:
            # It has enough, so it has helped.
            self._forget()
        elif now < self._from_s:
            return
        elif self._since is None:
            self._since = (now, handled)
        elif now - self._since[0] >= max(_LOOK_S, handling_s) and handled - self._since[1] >= _ENOUGH:
            self.handling_s = 0.0
            grown = size / self._size - 1
            if grown < _GROWN - 1:
                return
            gain = (handled - self._since[1]) / (now - self._since[0]) / self._rate - 1
            if gain < _LEAST * grown:
                # As many as would have done it, had each new one handled as much as the old ones.
                self._ceiling = max(self._size, math.ceil(self._size * (1 + gain)))
                self._ceiling_until = now + self._ceiling_s
                self._ceiling_s = min(2 * self._ceiling_s, _CEILING_MOST_S)
            else:
                self._ceiling_s = _CEILING_S
            self._forget()

    def _forget(self) -> None:
        self._size, self.handling_s, self._since = 0, 0.0, None
