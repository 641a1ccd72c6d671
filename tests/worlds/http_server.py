"""An HTTP server on a real socket that gives the answers of a script.

A request is answered by the next line of the script; the last line is repeated.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlsplit

import attrs
import h11
import trio

__all__ = ["Answer", "Asked", "HttpServer", "http_server"]


@attrs.frozen
class Answer:
    """What the server does with one request."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = attrs.field(factory=dict)
    hangs: bool = False
    """Whether no answer ever comes."""
    breaks: bool = False
    """Whether the connection is closed in the middle of the body."""


@attrs.frozen
class Asked:
    """One request as it came."""

    path: str
    params: dict[str, str]
    headers: dict[str, str]


@attrs.define
class HttpServer:
    """A server that runs."""

    script: Sequence[Answer]
    port: int = 0
    secure: bool = False
    host: str = "127.0.0.1"
    asked: list[Asked] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}"

    async def serve(self, stream: trio.abc.Stream) -> None:
        http = h11.Connection(h11.SERVER)
        try:
            while await self._one(http, stream):
                http.start_next_cycle()
        except (trio.BrokenResourceError, h11.RemoteProtocolError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _one(self, http: h11.Connection, stream: trio.abc.Stream) -> bool:
        request = None
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(4096)))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                return False
        assert request is not None
        parts = urlsplit(request.target.decode())
        headers = {name.decode(): value.decode() for name, value in request.headers}
        self.asked.append(Asked(parts.path, dict(parse_qsl(parts.query)), headers))
        answer = self.script[min(len(self.asked), len(self.script)) - 1]
        if answer.hangs:
            await trio.sleep_forever()
        length = str(len(answer.body))
        fields = [("Content-Length", length), *answer.headers.items()]
        head = h11.Response(status_code=answer.status, headers=fields)
        out = http.send(head) or b""
        if answer.breaks:
            await stream.send_all(out + answer.body[: len(answer.body) // 2])
            return False
        out += http.send(h11.Data(data=answer.body)) or b""
        await stream.send_all(out + (http.send(h11.EndOfMessage()) or b""))
        return http.our_state is h11.DONE and http.their_state is h11.DONE


@asynccontextmanager
async def http_server(
    *script: Answer, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[HttpServer]:
    """Serve *script* on a free port until the block ends."""
    server = HttpServer(script)
    if ssl_context is not None:
        server.secure, server.host = True, "localhost"

    async def serve(stream: trio.SocketStream) -> None:
        secured = ssl_context and trio.SSLStream(stream, ssl_context, server_side=True)
        await server.serve(secured or stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield server
        nursery.cancel_scope.cancel()
