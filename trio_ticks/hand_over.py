"""Whether threads or processes are worth what they cost: the handing over against the handling, told once. Sync; times are given in.

Rules: nothing is said before there is enough to stand on; nothing is said twice.
"""

from __future__ import annotations

import logging

from .executors import Place

__all__ = ["HandOver"]

logger = logging.getLogger("trio_ticks.workers")

_WATCH_S = 3.0
"""For how long it is measured before anything is said, in seconds,"""
_LEAST = 50
"""and over how many batches at least."""
_ADVICE = {
    "thread": "the event loop would be faster: make the handler an async def, unless it blocks",
    "process": 'executor="thread", or an async def in the event loop, would be faster',
}


class HandOver:
    """Adds up, over the first seconds of a pool."""

    def __init__(self, place: Place) -> None:
        self._advice = _ADVICE.get(place)
        self._until: float | None = None
        self._batches = 0
        self._handed_s = self._handled_s = 0.0

    def note(self, handed_s: float, handled_s: float, now: float) -> None:
        """Note a batch: what handing it over and getting it back took, and what handling it took."""
        if self._advice is None:
            return
        if self._until is None:
            self._until = now + _WATCH_S
        self._batches += 1
        self._handed_s += handed_s
        self._handled_s += handled_s
        if now < self._until or self._batches < _LEAST:
            return
        if self._handed_s > self._handled_s:
            each_ms = 1e3 / self._batches
            logger.warning(
                "executor.hand_over: %.2f ms a batch, more than the %.2f ms of handling: %s",
                self._handed_s * each_ms,
                self._handled_s * each_ms,
                self._advice,
                extra={"hand_over_s": self._handed_s, "handling_s": self._handled_s, "batches": self._batches},
            )
        self._advice = None
