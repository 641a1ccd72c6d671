"""The clients of an exchange: those connected, and sums over all that ever were.

Rules: a client is registered from its handshake until it has gone; what it was sent
stays in the sums. No I/O.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import trio

from ..logs import LogLimit, log_event
from .client import Client

__all__ = ["Clients"]

logger = logging.getLogger("trio_ticks.exchange.server")


@final
class Clients:
    """Who is connected, and what all clients were sent."""

    def __init__(self) -> None:
        self.connected: set[Client] = set()
        self.let_in = 0
        """Clients that were let in so far."""
        self.disconnects: Counter[str] = Counter()
        """Clients that have gone, by reason."""
        self._sent = self._skipped = self._throttled = 0
        self._queued: Counter[str] = Counter()
        self._log_limit = LogLimit(trio.current_time)

    @property
    def messages_sent(self) -> int:
        """Messages handed to the system, acknowledgements not counted."""
        return self._sent + sum(client.messages_sent for client in self.connected)

    @property
    def skipped(self) -> int:
        """Ticks that found no room in a client's buffer."""
        return self._skipped + sum(client.skipped for client in self.connected)

    @property
    def throttled(self) -> int:
        """Ticks that were left out since a client had asked for no more."""
        return self._throttled + sum(client.throttled for client in self.connected)

    @property
    def max_rates(self) -> list[float]:
        """What the clients that are connected now have asked to be throttled to."""
        return [client.max_rate for client in self.connected if client.max_rate is not None]

    @property
    def sent_by_symbol(self) -> dict[str, int]:
        """Ticks that were put into clients' buffers, by symbol."""
        return dict(sum((client.queued for client in self.connected), self._queued))

    @contextmanager
    def registered(self, client: Client) -> Iterator[None]:
        """Count *client* as connected while the block lasts."""
        self.connected.add(client)
        self.let_in += 1
        try:
            yield
        finally:
            self.connected.discard(client)
            self.disconnects[client.close_reason()] += 1
            self._sent += client.messages_sent
            self._skipped += client.skipped
            if client.skipped and (times := self._log_limit.due("skipped")):
                log_event(
                    logger,
                    logging.WARNING,
                    "exchange.skipped",
                    "a client had no room for %d ticks (%s)",
                    client.skipped,
                    client.close_reason(),
                    ticks=client.skipped,
                    reason=client.close_reason(),
                    times=times,
                )
            self._throttled += client.throttled
            self._queued += client.queued
            client.gone.set()
