"""What a venue is for the exchange, beside the flat protocol: its words and its faults.

A :class:`Venue` turns each tick of the synthetic market into what happened at it, and
has a :class:`Session` for each client, which says what that client gets.

Rules: sans-I/O. What a client gets are the payloads of text messages, in their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Protocol, final

from .http import RestAnswer

__all__ = ["Ended", "Faults", "NewVenue", "Session", "Venue"]


@final
class Ended(Exception):
    """The connection of the client is to end, without a Close, for this reason."""


class Session(Protocol):
    """What one client gets."""

    refusals: int
    """Requests that made no sense, or were refused."""

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols of which it has subscribed to anything."""
        ...

    def greet(self, now: datetime) -> list[bytes]:
        """Return what a client gets before it has said anything."""
        ...

    def receive(self, message: str | bytes, now: datetime, clock: float) -> list[bytes]:
        """Return the answer to a message of the client, and what it gets first.

        Args:
            message: of the client.
            now: the wall time.
            clock: the time of the event loop, in seconds.

        Raises:
            Ended: the client has done what the venue does not allow.
        """
        ...

    def offer(self, step: Any) -> list[bytes]:
        """Return what the client gets of what happened.

        Raises:
            Ended: the connection is cut.
        """
        ...

    def beat(self, now: datetime) -> list[bytes]:
        """Return the heartbeat for a client that got nothing for a second."""
        ...


class Venue(Protocol):
    """A venue of the local exchange."""

    def take(self, tick: Any, now: datetime) -> Any:
        """Return what happened at the venue with this tick or recorded message."""
        ...

    @property
    def path(self) -> str:
        """Where clients should connect to."""
        ...

    def new_session(self, target: str) -> Session:
        """Return the session of a client that has just connected.

        Args:
            target: path and query string of its request.
        """
        ...

    def answer(self, path: str, parameters: Mapping[str, str], now: datetime) -> RestAnswer | None:
        """Return the answer to a plain HTTP request (GET); ``None``: there is no REST.

        Args:
            path: of the request.
            parameters: of its query string.
            now: the wall time.
        """
        ...


NewVenue = Callable[[Collection[str], object, frozenset[str], int], Venue]
"""Makes a venue of its symbols, a seed, names of faults, and after how many messages
one that happens now and then happens again."""


class Faults:
    """The faults of one connection.

    Args:
        names: of those that the venue knows.
        every: at how many messages that a fault can happen to it happens once.
    """

    def __init__(self, names: frozenset[str], every: int) -> None:
        self.names = names
        self._every = every
        self._counts: Counter[str] = Counter()

    def due(self, fault: str) -> bool:
        """Return whether *fault* happens now. Call it where it could."""
        if fault not in self.names:
            return False
        self._counts[fault] += 1
        return self._counts[fault] % self._every == 0
