"""What the live page's tests share: an HTTP client that reads its event stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import h11
import trio

__all__ = ["Answer", "Events", "ask", "open_events"]

Answer = tuple[int, dict[str, str], bytes]


def _port(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


async def ask(url: str, path: str = "/", *, host: str = "127.0.0.1", method: str = "GET") -> Answer:
    """Ask for *path*, in a connection of its own."""
    connection = h11.Connection(h11.CLIENT)
    status, headers, body = 0, {}, b""
    async with await trio.open_tcp_stream("127.0.0.1", _port(url)) as stream:
        request = h11.Request(
            method=method, target=path, headers=[("Host", host), ("Connection", "close")]
        )
        await stream.send_all(
            (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
        )
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Response):
                status, headers = (
                    event.status_code,
                    {name.decode(): value.decode() for name, value in event.headers},
                )
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                return status, headers, body


class Events:
    """The stream of events of one viewer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT)
        self._text = ""

    async def begin(self) -> None:
        request = h11.Request(method="GET", target="/api/stream", headers=[("Host", "localhost")])
        await self.stream.send_all(
            (self._h11.send(request) or b"") + (self._h11.send(h11.EndOfMessage()) or b"")
        )

    async def next(self) -> tuple[str, Any]:
        """Return the next event's name and data."""
        while True:
            block, end, rest = self._text.partition("\n\n")
            if end:
                self._text = rest
                fields = dict(line.split(": ", 1) for line in block.splitlines())
                if "data" in fields:
                    return fields["event"], json.loads(fields["data"])
                continue
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self.stream.receive_some())
            elif isinstance(event, h11.Data):
                self._text += bytes(event.data).decode()
            elif not isinstance(event, h11.Response):
                raise EOFError

    async def next_snapshot(self) -> Any:
        """Return the next snapshot's data."""
        while True:
            name, data = await self.next()
            if name == "snapshot":
                return data

    async def drain(self) -> None:
        """Read until the server cuts the stream off, which has no end of its own."""
        with suppress(EOFError, trio.BrokenResourceError, h11.RemoteProtocolError):
            while True:
                await self.next()


@asynccontextmanager
async def open_events(url: str) -> AsyncIterator[Events]:
    """Open the stream of events."""
    async with await trio.open_tcp_stream("127.0.0.1", _port(url)) as stream:
        events = Events(stream)
        await events.begin()
        yield events
