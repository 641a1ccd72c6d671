"""What the end of a connection is to its feed: counts, words, and the final error."""

from __future__ import annotations

from datetime import datetime
from typing import Final, final

from ...errors import FeedAuthError, FeedBrokenError
from ..comeback import GiveUp
from .backoff import parse_retry_after
from .core import WebSocketCore
from .session import Ended

__all__ = ["Endings"]

_TOO_BIG: Final = 1009


@final
class Endings:
    """Says how connections of a feed have ended.

    Args:
        core: of the feed.
        max_message_size: the largest message that is taken, in bytes.
    """

    def __init__(self, core: WebSocketCore, max_message_size: int) -> None:
        self._core = core
        self._max_message_size = max_message_size

    def count(self, ended: Ended) -> None:
        """Count *ended* in the statistics of the feed."""
        stats = self._core.stats
        stats.connect_failures += ended.failure is not None
        stats.watchdog_trips += ended.stale
        stats.malformed += ended.violation and ended.code == _TOO_BIG

    def retry_after_s(self, ended: Ended, now: datetime) -> float | None:
        """Return the seconds that the server asked to wait, if it did."""
        failure = ended.failure
        if failure is None or failure.retry_after is None:
            return None
        return parse_retry_after(failure.retry_after, now)

    def shown(self, ended: Ended) -> str:
        """Return the reason, for people."""
        return self._core.redactor.excerpt(ended.reason) + self._remedy(ended)

    def _remedy(self, ended: Ended) -> str:
        """Return the setting that would help, as the end of a sentence."""
        # Where the venue closed with 1009, a message of ours was too big.
        if ended.code != _TOO_BIG or not ended.violation:
            return ""
        return f" (max_message_size is {self._max_message_size:,} bytes)"

    def broken(self, given_up: GiveUp, ended: Ended) -> FeedBrokenError:
        """Return the error with which the feed ends."""
        core, failure = self._core, ended.failure
        if failure is not None and isinstance(failure.__cause__, FeedAuthError):
            return failure.__cause__
        reason = core.redactor.excerpt(given_up.reason) + self._remedy(ended)
        if given_up.auth:
            reason += f"; {core.auth_advice}"
        times = f" (tried {given_up.attempts} times)" if given_up.attempts > 1 else ""
        error = (FeedAuthError if given_up.auth else FeedBrokenError)(
            f"{core.url}: {reason}{times}",
            url=core.url,
            status=failure.status if failure is not None else None,
            attempts=given_up.attempts,
        )
        error.__cause__ = failure.__cause__ if failure is not None else None
        return error
