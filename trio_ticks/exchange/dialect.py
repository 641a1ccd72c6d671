"""A venue's protocol for the local exchange: what is asked, and what is answered.

Plan: the market makes quotes; a :class:`Dialect` turns a batch of them into messages,
each under a key. A client gets the messages under the keys that it has subscribed to.
Each connection has a :class:`Conversation`, which answers what the client says.

A dialect declares by name the faults that it can have on purpose. To add a venue, write
a dialect in a module of its own, and enter it in ``registry.py``.

Rules: sans-I/O, no trio. What a client says never raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import attrs

__all__ = ["Answer", "Conversation", "Dialect", "Refusal"]


@attrs.frozen(slots=True)
class Refusal:
    """A client is not let in: the HTTP status, and the code in the JSON body."""

    status: int
    code: str | int
    headers: Sequence[tuple[str, str]] = ()


@attrs.frozen(slots=True)
class Answer:
    """What a client gets for a message of its own."""

    messages: Sequence[bytes]
    """The answers, as JSON, in their order; none where the exchange keeps silent."""
    subscription: frozenset[str]
    """The keys whose messages the client gets from now on."""
    bad: bool = False
    """Whether the request was refused, in part or as a whole."""
    max_rate: float | None = None
    """The most ticks a second that it gets; ``None``: all that it subscribed to."""


class Conversation(Protocol):
    """What is between the exchange and one client."""

    def opening(self) -> Sequence[bytes]:
        """Return what the exchange says before the client has said anything."""
        ...

    def answer(
        self,
        message: str | bytes,
        *,
        symbols: Sequence[str],
        subscription: frozenset[str],
        max_rate: float | None,
    ) -> Answer:
        """Answer *message*.

        Args:
            message: what the client said.
            symbols: what can be subscribed to.
            subscription: the keys that the client has so far.
            max_rate: the most ticks a second that it gets so far.
        """
        ...


class Dialect(Protocol):
    """One venue's protocol, for all clients of one exchange.

    It is constructed with the exchange's key and the names of the faults to have.
    """

    path: ClassVar[str]
    """Where the exchange says that clients should connect to."""
    compresses: ClassVar[bool]
    """Whether clients that offer permessage-deflate may get compressed messages.

    Such a client must not compress its own messages: those the exchange cannot read.
    """
    faults: ClassVar[Mapping[str, str]]
    """All faults that it can have: their names, and what goes wrong."""

    def __init__(self, api_key: str | None, faults: frozenset[str]) -> None: ...

    def at(self, path: str) -> Dialect:
        """Return what is spoken at *path*: itself, or another form of the protocol."""
        ...

    def refuses(self, target: str, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
        """Return why a client is not let in; ``None``: it is.

        Args:
            target: path and query string of its request.
            headers: of its request.
        """
        ...

    def converse(self, *, deflates: bool) -> Conversation:
        """Return the conversation with a new client.

        Args:
            deflates: whether the client takes compressed messages.
        """
        ...

    def keys(self, symbols: Sequence[str]) -> frozenset[str]:
        """Return all keys that there can be with *symbols*."""
        ...

    def frames(self, ticks: Sequence[Any], /) -> tuple[Sequence[str], Sequence[bytes]]:
        """Return the frames that say *ticks*, in their order, and the key of each.

        Of a recording in its own words they are messages.
        """
        ...
