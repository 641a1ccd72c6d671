"""A bounded share of the event loop for what others ask of it.

Whoever may ask a port as often as they like must not be able to take the event loop
from the pipeline. So the time that answers take is measured, and paid from a credit
that grows by a small share of the time that passes: once it is used up, requests wait.

Rules: only time in which the event loop did nothing else is spent here.
"""

from __future__ import annotations

from typing import Final, final

import trio

__all__ = ["LoopShare"]

_MOST_DEBT_S: Final = 5.0
"""The longest wait that one piece of work can cause, in seconds."""


@final
class LoopShare:
    """A credit of seconds of the event loop, for one kind of work.

    Args:
        share: how many seconds of it are earned in a second.
        burst_s: the most that is saved up, in seconds of work.
    """

    def __init__(self, share: float, burst_s: float) -> None:
        self._share = share
        self._burst_s = self._credit_s = burst_s
        self._at = trio.current_time()
        self._line = trio.Lock()
        """Those who wait; the lock lets them in in their order."""

    @property
    def has_credit(self) -> bool:
        """Whether work may be done at once."""
        self._earn()
        return self._credit_s > 0

    def _earn(self) -> None:
        now = trio.current_time()
        self._credit_s = min(self._burst_s, self._credit_s + (now - self._at) * self._share)
        self._at = now

    def spend(self, seconds: float) -> None:
        """Take the *seconds* that a piece of work took from the credit."""
        self._earn()
        self._credit_s = max(self._credit_s - seconds, -_MOST_DEBT_S * self._share)

    async def turn(self, least_s: float) -> None:
        """Wait until there is credit, and spend *least_s* seconds of it.

        They are spent here, or those who wait behind would still see the credit when
        this task goes on. The first to come is the first to go.

        Cancellation: nothing is spent. Always a checkpoint.
        """
        async with self._line:
            while not self.has_credit:  # noqa: ASYNC110  # nobody tells: time brings it
                # A little more, or a rounding error might leave nothing.
                await trio.sleep(-self._credit_s / self._share + 1e-6)
            self.spend(least_s)
