"""When a sink takes more ticks, while its window is nearly full.

A stretch is packed by shard: the more ticks it has, the less each of them costs both
ends. So the window is left to drain to the half before a stretch is taken. But a slow
handler must not keep others from the room that there is, so that this is bounded.

Rules: sans-I/O; times are arguments.
"""

from __future__ import annotations

from typing import Final, final

__all__ = ["Filling"]

_MORE_ROOM_S: Final = 0.02
"""How long a nearly full window is left to drain before a small stretch is taken."""
_MOST_ROOM_S: Final = 0.1
"""The same while it drains quickly, from when there was room."""
_QUICKLY: Final = 8
"""It does if one in so many of the ticks that are wanted found room in
``_MORE_ROOM_S``: then those in the window wait about as long for their handler."""
_LEAST: Final = 64
"""And if so many did: to wait for fewer would spare no entry."""


@final
class Filling:
    """One wait for room in a window.

    Args:
        window: how many ticks it holds.
        room: how many fit into it now.
        now: when the wait begins.
    """

    def __init__(self, window: int, room: int, now: float) -> None:
        self.enough = max(1, window // 2)
        """With so much room nothing is waited for."""
        self._quick = max(self.enough / _QUICKLY, _LEAST)
        self._before = room
        self._until = now + _MORE_ROOM_S
        self._last = now + _MOST_ROOM_S

    def wait_s(self, room: int, now: float) -> float:
        """Return how long to wait for more than *room*; 0: take what fits in.

        Only for a window that is not full; for one that is say :meth:`full`.
        """
        if room >= self.enough:
            return 0.0
        if self._until <= now < self._last and room - self._before >= self._quick:
            # Where the machine is busy the half takes longer, and the small entries of
            # small stretches would make it busier.
            self._until, self._before = min(now + _MORE_ROOM_S, self._last), room
        return max(0.0, self._until - now)

    def full(self, now: float) -> None:
        """Take note that there was no room until *now*."""
        self._last = now + _MOST_ROOM_S
