"""Clients for the tests of the local exchange.

They do not use trio-websocket's own opening: it leaves the socket open if the server
closes first, and waits for ever if a TLS handshake fails.
"""

from __future__ import annotations

import json
import math
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream
from wsproto.utilities import LocalProtocolError

from trio_ticks.exchange import Exchange

PATIENCE = 20
"""A hang, not a slow machine, takes so long."""

Headers = Iterable[tuple[bytes, bytes]]
Transport = trio.SocketStream | trio.SSLStream[trio.SocketStream]


async def connect(exchange: Exchange, context: ssl.SSLContext | None = None) -> Transport:
    """Connect without speaking WebSocket yet; with *context*, after TLS's handshake."""
    stream = await trio.open_tcp_stream("127.0.0.1", exchange.port)
    if context is None:
        return stream
    secured = trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured


@asynccontextmanager
async def websocket(
    exchange: Exchange,
    *,
    path: str = "/",
    headers: Headers = (),
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[WebSocketConnection]:
    with trio.fail_after(PATIENCE):
        stream = await connect(exchange, context)
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(PATIENCE):
                ws = await wrap_client_stream(
                    nursery, stream, "localhost", path, extra_headers=list(headers)
                )
            yield ws
            with trio.fail_after(PATIENCE):
                await ws.aclose()
            nursery.cancel_scope.cancel()
    except* LocalProtocolError:
        # A ping that meets the client's own Close makes trio-websocket fail; the
        # connection is closed by then.
        assert ws.closed is not None
    finally:
        await trio.aclose_forcefully(stream)


async def handshake(
    stream: Transport, headers: Headers = ()
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Ask for an upgrade; return the answer's status and headers.

    With them its body, unless the status is 101.
    """
    request = [
        b"GET / HTTP/1.1",
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: MDAwMDAwMDAwMDAwMDAwMA==",
        b"Sec-WebSocket-Version: 13",
        *(name + b": " + value for name, value in headers),
    ]
    answer = b""
    with trio.fail_after(PATIENCE):
        await stream.send_all(b"\r\n".join(request) + b"\r\n\r\n")
        while not answer.endswith(b"\r\n\r\n"):
            answer += await stream.receive_some(1)
        status, *lines = answer[:-4].split(b"\r\n")
        found = {
            name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)
        }
        body = b""
        while len(body) < int(found.get(b"content-length", 0)):
            body += await stream.receive_some()
    return int(status.split()[1]), found, body


async def refused(exchange: Exchange, headers: Headers = ()) -> tuple[int, dict[bytes, bytes], Any]:
    """Ask for an upgrade that will be refused; return status, headers and JSON body."""
    async with await connect(exchange) as stream:
        status, found, body = await handshake(stream, headers)
        assert status != 101
        return status, found, json.loads(body)


async def deaf_client(exchange: Exchange, *symbols: str, small: bool = True) -> trio.SocketStream:
    """Subscribe over a bare socket that answers nothing, not even pings.

    The test reads it explicitly or not at all; *small* gives it a small buffer.
    """
    stream = await connect(exchange)
    assert isinstance(stream, trio.SocketStream)
    if small:
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
    status, _, _ = await handshake(stream)
    assert status == 101
    if symbols:
        request = json.dumps(
            {"method": "subscribe", "params": {"symbols": symbols}, "id": 1}
        ).encode()
        assert len(request) < 126
        await stream.send_all(bytes((0x81, 0x80 | len(request), 0, 0, 0, 0)) + request)
    return stream


async def ask(ws: WebSocketConnection, method: str, *symbols: str, number: int = 1) -> Any:
    """Send a request, and return its answer; the ticks before it are passed over."""
    with trio.fail_after(PATIENCE):
        await ws.send_message(
            json.dumps({"method": method, "params": {"symbols": symbols}, "id": number})
        )
        while True:
            message = json.loads(await ws.get_message())
            if "id" in message:
                return message


@asynccontextmanager
async def subscribed(
    exchange: Exchange, *symbols: str, **options: Any
) -> AsyncIterator[WebSocketConnection]:
    """Connect, and subscribe to *symbols*, or to all."""
    async with websocket(exchange, **options) as ws:
        answer = await ask(ws, "subscribe", *(symbols or exchange.symbols))
        assert "error" not in answer
        yield ws


async def ticks(ws: WebSocketConnection, count: float = math.inf) -> list[dict[str, Any]]:
    """Return the next *count* ticks, or all up to the end."""
    found: list[dict[str, Any]] = []
    with trio.fail_after(PATIENCE):
        while len(found) < count:
            try:
                found.append(json.loads(await ws.get_message()))
            except ConnectionClosed:
                break
    return found


async def until(condition: Callable[[], object]) -> None:
    """Look again and again."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for are plain counters
            await trio.sleep(0.002)
