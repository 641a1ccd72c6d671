"""How far our clock is from the server's: both ends of a buffer compare by that.

Plan: each round trip gives a sample. The server read its clock between our sending and
our receiving, so the error is at most half of the round trip. The best sample is kept;
its error grows with its age, since clocks drift, so that a later one replaces it. A
sample that contradicts it replaces it, too: a clock was set.

Rules: sans-I/O, times are given in.
"""

from __future__ import annotations

from typing import Final, final

__all__ = ["ServerClock"]

_DRIFT: Final = 1e-4
"""By how much a clock may go wrong, in seconds a second."""
_SLACK_S: Final = 0.001
"""Samples that differ by less do not contradict each other, in seconds."""


@final
class ServerClock:
    """An estimate of our wall time less the server's."""

    __slots__ = ("_at", "_error_s", "difference_s")

    def __init__(self) -> None:
        self.difference_s: float | None = None
        """Ours less the server's, in seconds; ``None`` before the first sample."""
        self._error_s = 0.0
        self._at = 0.0

    def observe(self, sent: float, received: float, server: float) -> None:
        """Add a sample.

        Args:
            sent: when the question left us, in seconds since 1970 by our clock.
            received: when the answer came, likewise.
            server: what the server's clock said, in seconds since 1970.
        """
        difference = (sent + received) / 2 - server
        error = (received - sent) / 2
        if self.difference_s is not None:
            known = self.error_s(received) or 0.0
            apart = abs(difference - self.difference_s)
            if error > known and apart <= error + known + _SLACK_S:
                return
        self.difference_s, self._error_s, self._at = difference, error, received

    def error_s(self, now: float) -> float | None:
        """Return how wrong the estimate may be at *now* (our wall time), in seconds."""
        if self.difference_s is None:
            return None
        return self._error_s + _DRIFT * max(0.0, now - self._at)

    def server_time(self, ours: float) -> float:
        """Return the server's time at *ours*, both in seconds since 1970."""
        return ours - (self.difference_s or 0.0)

    def our_time(self, server: float) -> float:
        """Return our time at the server's time *server*, in seconds since 1970."""
        return server + (self.difference_s or 0.0)
