"""Advises once if handing batches to threads or processes costs more than handling.

Rules: no advice before enough was measured, and never twice. Sync; times are given in.
"""

from __future__ import annotations

import logging

from ..handlers.kinds import Place
from ..logs import log_event

__all__ = ["HandOver"]

logger = logging.getLogger("trio_ticks.workers")

_WATCH_S = 3.0
"""Advise no sooner than this many seconds after the first batch."""
_LEAST = 50
"""Advise only if this many batches were measured."""
_ADVICE = {
    "thread": "the event loop would be faster: make the handler an async def, unless it blocks",
    "process": 'executor="thread", or an async def in the event loop, would be faster',
}


class HandOver:
    """Adds up what handing over and handling took, over the first seconds of a pool."""

    def __init__(self, place: Place) -> None:
        self._advice = _ADVICE.get(place)
        """What to advise; ``None`` if there is no advice to give, or it was decided."""
        self._until: float | None = None
        self._batches = 0
        self._handed_s = self._handled_s = 0.0

    def record(self, handed_s: float, handled_s: float, now: float) -> None:
        """Record a batch that was back at *now*.

        Args:
            handed_s: how long handing it over and getting it back took, in seconds.
            handled_s: how long handling it took, in seconds.
            now: the time.
        """
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
            log_event(
                logger,
                logging.WARNING,
                "executor.hand_over",
                "%.2f ms a batch, more than the %.2f ms of handling: %s",
                self._handed_s * each_ms,
                self._handled_s * each_ms,
                self._advice,
                hand_over_s=self._handed_s,
                handling_s=self._handled_s,
                batches=self._batches,
            )
        self._advice = None
