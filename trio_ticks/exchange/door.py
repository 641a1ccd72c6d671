"""Who may come in to a local exchange: no page of another site, and not too many.

A browser lets any page open a WebSocket to this machine, and says where the page came
from. A client that is no browser says nothing of that, or names this machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, final

from ..hosts import Hosts

__all__ = ["Door"]

_HANDSHAKES: Final = 64
"""Connections beyond the limit of clients, while their handshake is under way."""


@final
class Door:
    """Counts the connections of one exchange, and looks at where they come from.

    Args:
        most: how many clients may be connected at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._hosts = Hosts()
        self._connections = 0

    @contextmanager
    def connection(self) -> Iterator[bool]:
        """Count a connection for as long as the block lasts.

        The block gets whether there is room for it, even for its handshake.
        """
        self._connections += 1
        try:
            yield self._connections <= self._most + _HANDSHAKES
        finally:
            self._connections -= 1

    def admit(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Return whether a plain request with *headers* is to be answered.

        No page of another site can read the answer, unless a name of its own leads
        here: so its ``Origin`` does not matter.
        """
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        return self._hosts.admit(hosts[0] if hosts else None)

    def refuses(self, handshake: bytes, clients: int) -> tuple[int, str] | None:
        """Return the HTTP status and the code by which a client is not let in.

        Args:
            handshake: its request.
            clients: how many clients there are.
        """
        headers = _headers(handshake)
        if not self._hosts.admit(headers.get("host")):
            return 403, "FORBIDDEN_HOST"
        if not self._hosts.admit_origin(headers.get("origin")):
            return 403, "FORBIDDEN_ORIGIN"
        return (503, "TOO_MANY_CLIENTS") if clients >= self._most else None


def _headers(handshake: bytes) -> dict[str, str]:
    """Return the headers of a request that has been found to be one."""
    head = handshake.partition(b"\r\n\r\n")[0].decode("latin-1")
    pairs = (line.partition(":") for line in head.split("\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
