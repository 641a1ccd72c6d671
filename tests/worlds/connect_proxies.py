"""A small HTTP proxy on the loopback interface, for ``CONNECT``."""

from __future__ import annotations

import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

__all__ = ["ConnectProxy", "serving_proxy"]


@attrs.define
class ConnectProxy:
    """What the proxy does, and what it has seen.

    Its ways are those of squid: 407 without the right password, 502 where it cannot
    connect.
    """

    password: str | None = None
    """User name and password with a colon between, if it wants any."""
    answer: bytes | None = None
    """Answers this in place of connecting, and closes."""
    hangs: bool = False
    """Never answers."""
    routes: Mapping[str, int] = attrs.Factory(dict)
    """For hosts that no resolver knows: the port of the loopback interface."""
    port: int = 0
    requests: list[str] = attrs.Factory(list)
    """The request lines."""
    headers: list[dict[str, str]] = attrs.Factory(list)
    """By their lower-case names, those of each request."""

    @property
    def url(self) -> str:
        """The address, without a password."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, client: trio.abc.Stream) -> None:
        """Serve one connection."""
        try:
            await self._serve(client)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(client)

    async def _serve(self, client: trio.abc.Stream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = await client.receive_some(1)
            if not data:
                return
            head += bytes(data)
        first, *lines = head.decode("ascii").rstrip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        self.requests.append(first)
        self.headers.append({name.lower(): value.strip() for name, _, value in pairs})
        if self.hangs:
            await trio.sleep_forever()
        await client.send_all(self.answer or await self._connect(client, first.split()[1]))

    async def _connect(self, client: trio.abc.Stream, authority: str) -> bytes:
        """Connect to *authority* until a side closes; return what to refuse with."""
        _, _, encoded = self.headers[-1].get("proxy-authorization", "").partition(" ")
        if self.password is not None and b64decode(encoded).decode() != self.password:
            return (
                b"HTTP/1.1 407 Password please\r\n"
                b'Proxy-Authenticate: Basic realm="test"\r\nContent-Length: 0\r\n\r\n'
            )
        name, _, port = authority.rpartition(":")
        host = "127.0.0.1" if name in self.routes else name.strip("[]")
        try:
            venue = await trio.open_tcp_stream(host, self.routes.get(name, int(port)))
        except OSError:
            return b"HTTP/1.1 502 No luck\r\nContent-Length: 0\r\n\r\n"
        async with venue, trio.open_nursery() as nursery:
            await client.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            nursery.start_soon(_pump, client, venue, nursery.cancel_scope)
            nursery.start_soon(_pump, venue, client, nursery.cancel_scope)
        raise trio.ClosedResourceError


async def _pump(source: Any, sink: Any, done: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some(65_536):
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    done.cancel()


@asynccontextmanager
async def serving_proxy(
    proxy: ConnectProxy | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ConnectProxy]:
    """Run *proxy* on a port of its own during the block."""
    proxy = ConnectProxy() if proxy is None else proxy

    async def serve(stream: trio.SocketStream) -> None:
        if tls is None:
            await proxy.serve(stream)
        else:
            await proxy.serve(trio.SSLStream(stream, tls, server_side=True))

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()
