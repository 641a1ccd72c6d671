"""A venue over HTTP, on a real socket: each request is answered by a function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import attrs
import h11
import msgspec
import trio

__all__ = ["HTTPVenue", "Request", "Response", "open_http_venue"]


@attrs.frozen
class Request:
    """What a client has asked for."""

    path: str
    params: dict[str, str]
    headers: dict[str, str]


@attrs.frozen
class Response:
    """What the venue says; a body that is no bytes is sent as JSON."""

    body: Any
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    after_s: float = 0.0


class HTTPVenue:
    """The requests that have come, and the address."""

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.url = ""

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer the requests of one connection."""
        connection = h11.Connection(h11.SERVER)
        with suppress(trio.BrokenResourceError, h11.RemoteProtocolError):
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Request):
                    request = _request(event)
                elif isinstance(event, h11.EndOfMessage):
                    self.requests.append(request)
                    await stream.send_all(await self._say(connection, self.answer(request)))
                    if connection.our_state is h11.MUST_CLOSE:
                        return
                    connection.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    return

    async def _say(self, connection: h11.Connection, response: Response) -> bytes:
        if response.after_s:
            await trio.sleep(response.after_s)
        body = response.body
        if not isinstance(body, bytes):
            body = msgspec.json.encode(body)
        headers = [("content-length", str(len(body))), *response.headers]
        parts = [
            connection.send(h11.Response(status_code=response.status, headers=headers)),
            connection.send(h11.Data(data=body)),
            connection.send(h11.EndOfMessage()),
        ]
        return b"".join(part for part in parts if part)


def _request(event: h11.Request) -> Request:
    target = urlsplit(event.target.decode())
    headers = {name.decode(): value.decode() for name, value in event.headers}
    return Request(target.path, dict(parse_qsl(target.query)), headers)


@asynccontextmanager
async def open_http_venue(answer: Callable[[Request], Response]) -> AsyncIterator[HTTPVenue]:
    """Serve *answer* during the block."""
    venue = HTTPVenue(answer)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, venue.serve, 0, host="127.0.0.1"))
        venue.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield venue
        nursery.cancel_scope.cancel()
