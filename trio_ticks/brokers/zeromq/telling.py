"""What the log says of the other end: there, away, back, restarted, ended.

Rules: one line a change; what stays away is told again every minute.
"""

from __future__ import annotations

import logging
from typing import Final, final

from ...logs import LogLimit, log_event
from .link import Link

__all__ = ["Telling", "TellingOfWorkers"]

_PATIENCE_S: Final = 3.0
"""How long the other end may be away before the log says so, in seconds."""
_AGAIN_S: Final = 60.0

_logger = logging.getLogger("trio_ticks.brokers")


@final
class _Absence:
    """How long the other end has been away, whenever the log is to say so."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._next_s = 0.0

    def end(self) -> None:
        """Note that it is there."""
        self._since = None

    def due_s(self, now: float) -> float | None:
        """Return how long it has been away, in seconds; ``None``: say nothing now."""
        if self._since is None:
            self._since = now
            self._next_s = now + _PATIENCE_S
        if now < self._next_s:
            return None
        self._next_s = now + _AGAIN_S
        return now - self._since


@final
class TellingOfWorkers:
    """Writes a line where an ingest has no worker.

    Each worker that comes has a line of the hub's.

    Args:
        address: where the ingest listens.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._absence = _Absence()

    def look(self, now: float, workers: int) -> None:
        """Write what has changed; *now* by trio's clock."""
        if workers:
            self._absence.end()
        elif (away_s := self._absence.due_s(now)) is not None:
            log_event(
                _logger,
                logging.WARNING,
                "broker.no_worker",
                "no worker has been connected to %s for %.0f s. Is one running, with this "
                "address and the same CURVE keys? Ticks wait in the queue until it is full",
                self._address,
                away_s,
                ingest=self._address,
            )


@final
class Telling:
    """Writes the lines about one ingest.

    Attributes:
        address: of the ingest.
    """

    def __init__(self, link: Link, address: str, limit: LogLimit) -> None:
        self.address = address
        self._link = link
        self._limit = limit
        self._joined = False
        self._absence = _Absence()
        self._restarts = 0
        self._ended = False
        self._junk = 0

    def look(self, now: float) -> None:
        """Write what has changed; *now* by trio's clock."""
        link = self._link
        if link.restarts != self._restarts:
            self._restarts = link.restarts
            log_event(
                _logger,
                logging.WARNING,
                "broker.ingest_restarted",
                "%s was restarted; of the ticks that it had not got acknowledged at least %d and "
                "at most %d are lost (all restarts)",
                self.address,
                link.known_lost,
                link.at_most_lost,
                lost=link.known_lost,
                at_most_lost=link.at_most_lost,
            )
        if link.ended != self._ended:
            self._ended = link.ended
            if link.ended:
                log_event(_logger, logging.INFO, "broker.ingest_ended", ingest=self.address)
        if link.junk != self._junk and (count := self._limit.due("junk", link.junk - self._junk)):
            self._junk = link.junk
            log_event(_logger, logging.WARNING, "broker.junk", ingest=self.address, count=count)
        self._look_at_connection(now)

    def _look_at_connection(self, now: float) -> None:
        link = self._link
        joined = link.state == "joined"
        if joined and not self._joined:
            log_event(
                _logger,
                logging.INFO,
                "broker.connected",
                ingest=self.address,
                clock_difference_s=link.clock.difference_s,
                clock_error_s=link.clock.error_s,
            )
        self._joined = joined
        if joined or link.state == "left":
            self._absence.end()
        elif (away_s := self._absence.due_s(now)) is not None:
            log_event(
                _logger,
                logging.WARNING,
                "broker.ingest_away",
                "nobody answers at %s for %.0f s. Is the ingest running there, with the same "
                "CURVE keys? Waiting for it",
                self.address,
                away_s,
                ingest=self.address,
            )
