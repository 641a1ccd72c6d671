"""How long a sender waits for room: per episode of pressure, or per tick.

Rules: sync; times are arguments. An episode begins when something has to wait for room,
and ends when the channel has drained to its low watermark. All the waiting in it is
charged to it, whoever waits, so that a reader is never more than its patience behind
the wire.
"""

from __future__ import annotations

import math
from typing import final

from .overflow import Block, DropNewest, OverflowStrategy

__all__ = ["Episode", "patience_left"]

_SHORTEST_WAIT_S = 1e-9


@final
class Episode:
    """One stretch of pressure after the other, and what was waited in them.

    Args:
        low: the low watermark, in ticks: an episode ends when so many or fewer are
            queued.
    """

    __slots__ = ("_before_s", "_low", "_since", "_waited_s", "is_over")

    def __init__(self, low: int) -> None:
        self._low = low
        self._since: float | None = None
        self._waited_s = 0.0
        self._before_s = 0.0
        self.is_over = True
        """Whether nothing has waited since the channel was last drained."""

    def wait_begins(self, now: float) -> None:
        """Note that something waits for room. Harmless where something did already."""
        self.is_over = False
        if self._since is None:
            self._since = now

    def wait_ends(self, now: float) -> None:
        """Note that nothing waits for room any more."""
        if self._since is not None:
            self._waited_s += now - self._since
            self._since = None

    def observe(self, used: int, now: float) -> None:
        """End the episode if *used* ticks are few; a wait goes on in the next one."""
        if used <= self._low and not self.is_over:
            self._before_s += self.waited_s(now)
            self._waited_s = 0.0
            if self._since is not None:
                self._since = now
            else:
                self.is_over = True

    def waited_s(self, now: float) -> float:
        """Return how long something has waited for room in this episode, in seconds."""
        return self._waited_s + (0.0 if self._since is None else now - self._since)

    def total_s(self, now: float) -> float:
        """Return how long something has waited for room in all episodes, in seconds."""
        return self._before_s + self.waited_s(now)


def patience_left(strategy: OverflowStrategy, in_episode_s: float, for_this_s: float) -> float:
    """Return how much longer to wait for room, in seconds; 0: *strategy* waits no more.

    Args:
        strategy: what the channel does when it is full.
        in_episode_s: how long something has waited in this episode.
        for_this_s: how long the tick that is first in line has waited.
    """
    match strategy:
        case DropNewest(timeout=timeout):
            left = timeout - in_episode_s
        case Block(timeout=None):
            return math.inf
        case Block(timeout=float() | int() as timeout):
            left = timeout - for_this_s
        case _:
            return 0.0
    # Rounding may leave a wait that is too short to move the clock: a virtual clock
    # would then stand still for ever.
    return left if left > _SHORTEST_WAIT_S else 0.0
