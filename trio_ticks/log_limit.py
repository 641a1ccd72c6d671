"""Keeps a log from being flooded: at most one line a second of each kind, which then says how many there would have been. No trio.

Rules: kinds are few and known in the code; what comes from outside (a symbol, an address) is never one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, final

__all__ = ["LogLimit"]


@final
class LogLimit:
    """Tells when a line is due.

    Args:
        clock: monotonic seconds.
    """

    __slots__ = ("_clock", "_next", "_silent")

    interval_s: Final = 1.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    def due(self, kind: str) -> int:
        """Note one more of *kind*; return how many a line written now stands for, or 0 where it is too soon for another."""
        now = self._clock()
        times = self._silent.pop(kind, 0) + 1
        if now < self._next.get(kind, now):
            self._silent[kind] = times
            return 0
        self._next[kind] = now + self.interval_s
        return times
