"""Opening a stream with TLS: no failure and no cancellation leaves one open."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, Final

import pytest
import trio
import trustme
from trio.testing import memory_stream_pair

from trio_ticks.feeds.websocket.connect import ConnectFailed, Target
from trio_ticks.feeds.websocket.dial import dial
from trio_ticks.feeds.websocket.proxy import Proxy

HOST: Final = "venue.test"
AUTHORITY: Final = trustme.CA()
TARGET: Final = Target.parse(f"wss://{HOST}")
PATIENCE_S: Final = 20.0
PROXY_ANSWER: Final = b"HTTP/1.1 200 Connected\r\n\r\n"


def server_context(name: str = HOST, **issued: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(name, **issued).configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


class Closable(trio.abc.Stream):
    """A stream that knows whether it was closed."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.is_closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.is_closed = True
        await self.stream.aclose()


async def shake_hands(
    stream: trio.abc.Stream, context: ssl.SSLContext, *, through_proxy: bool = False
) -> None:
    """Be the server, and then wait; whatever goes wrong is for the client to tell."""
    try:
        if through_proxy:
            await stream.receive_some()
            await stream.send_all(PROXY_ANSWER)
        await trio.SSLStream(stream, context, server_side=True).do_handshake()
        await trio.sleep_forever()
    except trio.BrokenResourceError:
        return


@pytest.mark.parametrize("context", ["of a server", "of a host"])
async def test_what_cannot_begin_is_told_and_closed(context: str) -> None:
    stream = Closable(memory_stream_pair()[0])

    async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
        return stream

    if context == "of a server":
        wrong, target = server_context(), TARGET
    else:
        # Such a name comes from an endpoint that made its target by itself.
        wrong = client_context()
        target = Target(secure=True, host=".venue.test", port=443, path="/", query="")
    with pytest.raises(ConnectFailed, match="TLS with the server cannot begin") as caught:
        await dial(target, wrong, open_stream)
    assert caught.value.permanent
    assert stream.is_closed


async def test_an_expired_certificate_is_told_and_closed() -> None:
    near, far = memory_stream_pair()
    stream = Closable(near)
    old = server_context(not_after=datetime(2020, 1, 1, tzinfo=UTC))

    async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
        return stream

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake_hands, far, old)
            with pytest.raises(ConnectFailed, match="certificate has expired") as caught:
                await dial(TARGET, client_context(), open_stream)
            nursery.cancel_scope.cancel()
    assert caught.value.permanent
    assert stream.is_closed


async def meet(data: bytes) -> str:
    """Return why a server that sends *data* at once is no good."""
    near, far = memory_stream_pair()
    stream = Closable(near)

    async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
        return stream

    await far.send_all(data)
    await far.send_eof()
    with trio.fail_after(PATIENCE_S), pytest.raises(ConnectFailed) as caught:
        await dial(TARGET, client_context(), open_stream)
    assert stream.is_closed
    assert not caught.value.permanent
    return str(caught.value)


ALERT: Final = b"\x15\x03\x03\x00\x02\x02"
"""A fatal alert without its number: RFC 8446, section 6."""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x16\x03\x03",
        b"\x16\x03\x03\x40\x00" + bytes(100),
        b"\x16\x03\x03\x40\x00" + bytes(16_384),
        b"\x17\x03\x03\x00\x01x",
        ALERT + b"\x28",
        ALERT + b"\x70",
        ALERT + b"\xff",
        ALERT[:5] + b"\x01\x00",
        bytes(300_000),
    ],
)
async def test_a_server_that_speaks_no_tls(data: bytes) -> None:
    assert (await meet(data)).startswith("the TLS handshake failed: ")


@pytest.mark.parametrize("through_proxy", [False, True])
async def test_cancelled_at_any_checkpoint(through_proxy: bool) -> None:
    for steps in count():
        near, far = memory_stream_pair()
        stream, opened = Closable(near), list[trio.abc.Stream]()

        async def open_stream(
            _host: str, _port: int, stream: trio.abc.Stream = stream
        ) -> trio.abc.Stream:
            return stream

        async def client(
            scope: trio.CancelScope,
            opened: list[trio.abc.Stream] = opened,
            open_stream: Any = open_stream,
        ) -> None:
            with scope:
                proxy = Proxy.parse("http://proxy.test:8080") if through_proxy else None
                opened.append(await dial(TARGET, client_context(), open_stream, proxy))
            nursery.cancel_scope.cancel()

        scope = trio.CancelScope()
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    partial(shake_hands, far, server_context(), through_proxy=through_proxy)
                )
                nursery.start_soon(client, scope)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert stream.is_closed is not bool(opened)
        if opened:
            break
    assert steps > 3
