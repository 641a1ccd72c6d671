"""When to come back after a connection has ended, and when to give up.

Plan: after each end of a connection the feed asks :meth:`Comeback.after`. The answer is
a wait in seconds, or the reason for which the feed ends.

- A connection was good if it lived as long as the longest wait, or if this side wished
  it to end. After a good one the waits start anew. Data alone proves nothing: a venue
  may send one snapshot to each connection and hang up.
- Before any data a refusal that looks permanent is taken at its word. Once data has
  come, the set-up is known to be right, and the same refusal is an outage.
- A silent connection whose pings are answered is no failure: the next one is made at
  once, and the schedule stays where it is.

Rules: sans-I/O, no clock and no trio; times come in as arguments, in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from typing import Final, Protocol, final

import attrs

from .websocket.backoff import Backoff, BackoffPolicy

__all__ = ["Comeback", "End", "Failure", "GiveUp"]

_AUTH_STATUS: Final = (401, 403)
_AUTH_FOR_S: Final = 60.0
"""Credentials that worked before are given up when they are refused for this long."""
_WISH_AFTER_S: Final = 5.0
"""A wish for another connection is followed at once if this one has lived so long.

Otherwise a venue that wishes it at the beginning of each connection would be asked
again and again without a pause.
"""


class Failure(Protocol):
    """Why a connection was never opened, or a request never answered."""

    @property
    def status(self) -> int | None:
        """The HTTP status, if there was an answer."""
        ...

    @property
    def permanent(self) -> bool:
        """Whether the same would fail again."""
        ...

    @property
    def final(self) -> bool:
        """Whether the user has said that trying again makes no sense."""
        ...


class End(Protocol):
    """How a connection ended, or a request failed."""

    @property
    def reason(self) -> str: ...
    @property
    def failure(self) -> Failure | None:
        """``None``: the connection was open, and has ended since."""
        ...

    @property
    def code(self) -> int | None:
        """The WebSocket close code."""
        ...

    @property
    def violation(self) -> bool:
        """Whether the code is our own."""
        ...

    @property
    def stale(self) -> bool: ...
    @property
    def pings_answered(self) -> bool: ...
    @property
    def wished(self) -> bool: ...


@attrs.frozen
class GiveUp:
    """Why the feed ends."""

    reason: str
    attempts: int
    failure: Failure | None = None
    auth: bool = False
    """Whether the venue refused the credentials."""


@final
class Comeback:
    """Decides for one connection of a feed, over all the times that it is made anew.

    Args:
        policy: the waits.
        uniform: returns a random number in [0, 1); see :class:`Backoff`.
        give_up_after: the longest outage, in seconds.
        final_close_codes: codes of a Close frame after which the feed ends.
        now: the time.
    """

    def __init__(
        self,
        policy: BackoffPolicy,
        uniform: Callable[[], float],
        *,
        give_up_after: float,
        final_close_codes: Set[int],
        now: float,
    ) -> None:
        self._backoff = Backoff(policy, uniform)
        self._good_after_s = policy.maximum_s
        self._give_up_after = give_up_after
        self._final_close_codes = final_close_codes
        self._outage_since = now
        self._auth_since = math.inf
        self.attempts = 0
        """Connections since the last good one that failed or were not good."""

    def after(
        self, ended: End, *, now: float, lived_s: float, had_data: bool, retry_after: float | None
    ) -> float | GiveUp:
        """Return how many seconds to wait, or why to give up.

        Args:
            ended: how the connection ended.
            now: the time.
            lived_s: how long it was open.
            had_data: whether any market data has come in this run of the feed.
            retry_after: the seconds that the server asked to wait.
        """
        failure = ended.failure
        quiet = ended.stale and ended.pings_answered
        if quiet or (ended.wished and lived_s >= _WISH_AFTER_S):
            self._outage_since = now
            self._auth_since = math.inf
            self.attempts = 0
            if not quiet:
                self._backoff.reset()
            return 0.0
        if failure is None and lived_s >= self._good_after_s:
            self._outage_since = now
            self._backoff.reset()
            self.attempts = 0
        self.attempts += 1
        give_up = self._give_up(ended, now, had_data, retry_after)
        if give_up is not None:
            return give_up
        left = self._outage_since + self._give_up_after - now
        delay = self._backoff.next_delay(retry_after)
        # The last try is made when the time is up, not one wait later.
        return min(delay, left)

    def answered(self, now: float) -> None:
        """Notice a good answer at *now*, for a feed that asks instead of listening.

        The outage, if there was one, is over, and the waits start anew.
        """
        self._outage_since = now
        self._auth_since = math.inf
        self.attempts = 0
        self._backoff.reset()

    def rested(self, seconds: float) -> None:
        """Notice that nothing was tried for *seconds*: no outage counts them."""
        self._outage_since += seconds
        self._auth_since += seconds

    def _give_up(
        self, ended: End, now: float, had_data: bool, retry_after: float | None
    ) -> GiveUp | None:
        failure = ended.failure
        refused = failure is not None and failure.status in _AUTH_STATUS
        self._auth_since = min(self._auth_since, now) if refused else math.inf
        # After a violation the code is our own, not the venue's.
        if ended.code in self._final_close_codes and not ended.violation:
            reason = f"the venue closed with the final code {ended.code}: {ended.reason}"
            return GiveUp(reason, self.attempts)
        if failure is not None and failure.final:
            return GiveUp(str(failure), self.attempts, failure, auth=True)
        if failure is not None and failure.permanent and not had_data and retry_after is None:
            return GiveUp(str(failure), 1, failure, auth=refused)
        if now - self._auth_since >= _AUTH_FOR_S:
            return GiveUp(str(failure), self.attempts, failure, auth=True)
        if now - self._outage_since >= self._give_up_after:
            what = str(failure) if failure is not None else ended.reason
            return GiveUp(f"no good connection; at last: {what}", self.attempts, failure)
        return None
