"""Bad messages in the log: at most one line a second, with an example and no secret.

Rules: no trio here; all text from outside passes a :class:`Redactor` before it is
logged or put into an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import final

from ..clock import monotonic
from ..logs import LogLimit, Redactor, log_event

__all__ = ["BadMessages"]


@final
class BadMessages:
    """Warns of malformed messages, at most once a second, with their number.

    Args:
        logger: gets the warnings.
        redactor: removes the secrets from the excerpts.
        clock: returns a time in seconds that never runs backwards.
    """

    __slots__ = ("_example", "_limit", "_logger", "_redactor")

    def __init__(
        self,
        logger: logging.Logger,
        redactor: Redactor | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._logger = logger
        self._redactor = redactor or Redactor()
        self._limit = LogLimit(clock)
        self._example: tuple[str, str] | None = None
        """Reason and excerpt of the first message that is not reported yet."""

    def record(self, payload: bytes, reason: str) -> None:
        """Count one bad message.

        The first in a second is reported at once, the others with the next report.
        """
        count = self._limit.due("malformed")
        if count or self._example is None:
            self._example = self._redactor.text(reason), self._redactor.excerpt(payload)
        if count:
            self._report(count)

    def restart(self) -> None:
        """Begin anew; call it before a run, whose clock may be another one."""
        self._limit.restart()
        self._example = None

    def poll(self) -> None:
        """Report the messages not reported yet, if a line is due by now."""
        if self._example is not None and (count := self._limit.due("malformed", 0)):
            self._report(count)

    def flush(self) -> None:
        """Report the messages not reported yet; call it when no more will arrive."""
        if count := self._limit.flush("malformed"):
            self._report(count)

    def _report(self, count: int) -> None:
        assert self._example is not None
        (reason, excerpt), self._example = self._example, None
        log_event(
            self._logger,
            logging.WARNING,
            "feed.malformed",
            count=count,
            reason=reason,
            excerpt=excerpt,
        )
