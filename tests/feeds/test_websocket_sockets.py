"""The WebSocket feed over real sockets and TLS, and what it keeps to itself."""

from __future__ import annotations

import logging
import ssl
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trustme
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from tests.worlds.feed_venues import (
    Collector,
    Handler,
    Log,
    answers,
    leave,
    memory_feed,
    quote,
    running,
    says,
    stay,
    websocket,
)
from trio_ticks.errors import ConfigError, FeedAuthError, FeedBrokenError
from trio_ticks.feeds.websocket.backoff import BackoffPolicy
from trio_ticks.feeds.websocket.feed import WebSocketFeed

SOON = BackoffPolicy(initial_s=0.001, maximum_s=0.01)

# Nothing here waits for these; they keep a broken test from hanging.
PATIENCE_S = 20


class Running(NamedTuple):
    port: int
    kill: Callable[[], None]


@asynccontextmanager
async def serving(
    handler: Handler, log: Log, *, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Running]:
    """Serve WebSockets with trio-websocket on the loopback interface."""

    async def accept(request: WebSocketRequest) -> None:
        log.keys.append(dict(request.headers).get(b"x-api-key"))
        if log.keys[-1] == b"wrong":
            await request.reject(401, body=b'{"code":"INVALID_TOKEN"}')
            return
        ws = await request.accept()
        with suppress(ConnectionClosed):
            log.requests.append(await ws.get_message())
            await handler(ws)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            lambda task_status: serve_websocket(
                accept, "127.0.0.1", port, tls, task_status=task_status
            )
        )
        yield Running(server.port, nursery.cancel_scope.cancel)
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await trio.sleep(0.001)


async def test_plain() -> None:
    log, send = Log(), Collector()
    with trio.fail_after(PATIENCE_S):
        async with serving(says(*(quote(volume=n) for n in range(2000))), log) as server:
            feed = WebSocketFeed(f"ws://127.0.0.1:{server.port}", ["SPY"], api_key="k3y")
            async with running(feed, send):
                await send.wait_for(2000)
    assert [tick.volume for tick in send.ticks] == list(range(2000))
    assert log.keys == [b"k3y"]


async def test_killed_and_started_again_on_the_same_port() -> None:
    log, send = Log(), Collector()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            async with serving(says(quote(volume=1)), log) as server:
                feed = WebSocketFeed(f"ws://127.0.0.1:{server.port}", ["SPY", "QQQ"], backoff=SOON)
                nursery.start_soon(feed.run, send)
                await send.wait_for(1)
                server.kill()
            await until(lambda: feed.stats.connect_failures >= 3)
            assert not feed.connected
            async with serving(says(quote(volume=2)), log, port=server.port):
                await send.wait_for(2)
                assert feed.connected
                assert feed.reconnects == 1
                nursery.cancel_scope.cancel()
    assert [tick.volume for tick in send.ticks] == [1, 2]
    assert len(log.requests) == 2
    assert log.requests[0] == log.requests[1]


async def test_a_connection_that_is_reset() -> None:
    send = Collector()
    venue = websocket(says(quote(), then=leave), cut=True)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, venue, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            feed = WebSocketFeed(f"ws://127.0.0.1:{port}", ["SPY"], backoff=SOON)
            async with running(feed, send):
                await send.wait_for(3)
            nursery.cancel_scope.cancel()
    assert feed.reconnects >= 2


async def test_401() -> None:
    log = Log()
    with trio.fail_after(PATIENCE_S):
        async with serving(stay, log) as server:
            feed = WebSocketFeed(f"ws://127.0.0.1:{server.port}", ["SPY"], api_key="wrong")
            with pytest.raises(FeedAuthError) as caught:
                await feed.run(Collector())
    assert caught.value.status == 401
    assert len(log.keys) == 1


async def free_port() -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


async def test_refused() -> None:
    feed = WebSocketFeed(
        f"ws://127.0.0.1:{await free_port()}", ["SPY"], backoff=SOON, give_up_after=0.05
    )
    with (
        trio.fail_after(PATIENCE_S),
        pytest.raises(FeedBrokenError, match=r"[Rr]efused.*tried \d+ times"),
    ):
        await feed.run(Collector())


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


def server_context(ca: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(name).configure_cert(context)
    return context


def client_context(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@pytest.mark.parametrize("how", ["ca", "ssl_context"])
async def test_tls(ca: trustme.CA, ca_file: Path, how: str) -> None:
    log, send = Log(), Collector()
    trust: dict[str, Any] = {"ca": ca_file} if how == "ca" else {"ssl_context": client_context(ca)}
    with trio.fail_after(PATIENCE_S):
        async with serving(
            says(*(quote(volume=n) for n in range(500))), log, tls=server_context(ca, "127.0.0.1")
        ) as server:
            feed = WebSocketFeed(f"wss://127.0.0.1:{server.port}", ["SPY"], api_key="k3y", **trust)
            async with running(feed, send):
                await send.wait_for(500)
    assert [tick.volume for tick in send.ticks] == list(range(500))
    assert log.keys == [b"k3y"]


@pytest.mark.parametrize(
    ("name", "trusted", "reason"),
    [
        ("127.0.0.1", False, "unable to get local issuer certificate"),
        ("example.org", True, "IP address mismatch"),
        ("127.0.0.2", True, "IP address mismatch"),
    ],
)
async def test_bad_certificates(
    ca: trustme.CA, ca_file: Path, name: str, trusted: bool, reason: str
) -> None:
    log = Log()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_ssl_over_tcp_listeners(
                0, server_context(ca, name), host="127.0.0.1"
            )

            async def shake_hands(stream: trio.SSLStream[trio.SocketStream]) -> None:
                log.paths.append("connected")
                with pytest.raises(trio.BrokenResourceError):
                    await stream.do_handshake()
                await trio.aclose_forcefully(stream)

            nursery.start_soon(trio.serve_listeners, shake_hands, [listener])
            tcp = listener.transport_listener
            assert isinstance(tcp, trio.SocketListener)
            port = tcp.socket.getsockname()[1]
            feed = WebSocketFeed(
                f"wss://127.0.0.1:{port}/?key=abcdef",
                ["SPY"],
                api_key="k3y",
                ca=ca_file if trusted else None,
            )
            with pytest.raises(FeedBrokenError, match=reason) as caught:
                await feed.run(Collector())
            nursery.cancel_scope.cancel()
    assert log.paths == ["connected"]
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert (caught.value.status, caught.value.attempts) == (None, 1)


async def test_wrong_host_name(ca: trustme.CA) -> None:
    with trio.fail_after(PATIENCE_S):
        async with serving(stay, Log(), tls=server_context(ca, "example.org")) as server:

            async def open_stream(_host: str, _port: int) -> trio.abc.Stream:
                return await trio.open_tcp_stream("127.0.0.1", server.port)

            def new_feed(host: str) -> WebSocketFeed:
                return WebSocketFeed(
                    f"wss://{host}",
                    ["SPY"],
                    ssl_context=client_context(ca),
                    open_stream=open_stream,
                )

            good = new_feed("example.org")
            async with running(good, Collector()):
                await until(lambda: good.connected)
            with pytest.raises(FeedBrokenError, match="Hostname mismatch"):
                await new_feed("example.com").run(Collector())
            # The server's nursery saw a handshake fail, which this test does not
            # examine.
            server.kill()


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"no TLS here\r\n", "WRONG_VERSION_NUMBER"), (b"", "EOF"), (None, "no answer within")],
)
async def test_tls_to_a_server_without(text: bytes | None, reason: str, ca_file: Path) -> None:
    async def speak(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if text is None:
            await trio.sleep_forever()
        elif text:
            await stream.send_all(text)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, speak, 0, host="127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            patience = 0.05 if text is None else PATIENCE_S
            feed = WebSocketFeed(
                f"wss://127.0.0.1:{port}",
                ["SPY"],
                ca=ca_file,
                backoff=SOON,
                give_up_after=0,
                connect_timeout=patience,
            )
            with pytest.raises(FeedBrokenError, match=reason):
                await feed.run(Collector())
            nursery.cancel_scope.cancel()


def test_trust_is_for_tls(ca: trustme.CA, ca_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wss://"):
        WebSocketFeed("ws://x", ["SPY"], ca=ca_file)
    with pytest.raises(ConfigError, match="wss://"):
        WebSocketFeed("ws://x", ["SPY"], ssl_context=client_context(ca))
    with pytest.raises(ConfigError, match="either ca or ssl_context"):
        WebSocketFeed("wss://x", ["SPY"], ca=ca_file, ssl_context=client_context(ca))
    with pytest.raises(ConfigError, match="ssl_context"):
        WebSocketFeed("wss://x", ["SPY"], ssl_context=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="PEM"):
        WebSocketFeed("wss://x", ["SPY"], ca=tmp_path / "none.pem")


# Secrets.

KEY = 'k3y/"0123+456789'
IN_QUERY = "qu3ry-s3cret"
PARTS = (KEY, "k3y/", "0123+456789", IN_QUERY, "?token")


def every_text(error: BaseException | None) -> str:
    """Return everything that Python might ever print about *error*."""
    texts = []
    while error is not None:
        texts += [
            "".join(traceback.format_exception(error)),
            str(error),
            repr(error),
            repr(error.args),
            repr(vars(error)),
        ]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


async def telltale(ws: WebSocketConnection) -> None:
    """Repeat the key in every way in which a venue might."""
    escaped = KEY.replace('"', '\\"')
    await ws.send_message(f'{{"id":1,"error":"bad key {escaped} in token={IN_QUERY}"}}')
    await ws.send_message(f"bad key {KEY}, token={IN_QUERY}")
    await ws.send_message(f"{'.' * 105}{KEY}{IN_QUERY}")
    await ws.send_message(f'{{"symbol":"{escaped}"}}')
    await ws.send_message(f"bad key {KEY}".encode())
    await ws.send_message(quote())
    await ws.aclose(4001, f"bad key {KEY} in token={IN_QUERY}")


SCRIPTS = [
    pytest.param(websocket(telltale), id="messages"),
    pytest.param(websocket(says("x" * 5000)), id="too big"),
    pytest.param(websocket(leave), id="drops"),
    pytest.param(websocket(stay), id="silent"),
    *(
        pytest.param(
            answers(
                f"HTTP/1.1 {status} bad key {KEY}\r\nX: {KEY}\r\n"
                f"Retry-After: {KEY}\r\nY: {IN_QUERY}\r\n\r\n{KEY}"
            ),
            id=str(status),
        )
        for status in (200, 301, 401, 403, 404, 429, 500)
    ),
    pytest.param(answers(f"{KEY} token={IN_QUERY}\r\n"), id="not HTTP"),
    pytest.param(
        answers(
            f"HTTP/1.1 101 {KEY}\r\nUpgrade: {KEY}\r\nSec-WebSocket-Protocol: {IN_QUERY}\r\n\r\n"
        ),
        id="bad handshake",
    ),
    pytest.param(OSError(111, "Connection refused"), id="refused"),
]


@pytest.mark.parametrize("script", SCRIPTS)
async def test_secrets_are_kept(
    script: Any, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"ws://venue.test/feed?token={IN_QUERY}&v=1"
    log = Log()
    async with memory_feed(
        script, url=url, api_key=KEY, give_up_after=3, max_message_size=1000, stale_after=5
    ) as (feed, _):
        texts = [
            repr(feed),
            str(feed),
            feed.url,
            repr(feed.options),
            repr(feed.stats),
            *(f"{part!r} {part!s}" for part in vars(feed).values()),
        ]
        error: BaseException | None = None
        with trio.move_on_after(60):
            try:
                await feed.run(Collector())
            except FeedBrokenError as caught:
                error = caught
        texts += [every_text(error), repr(feed), repr(feed.stats)]
    texts += [caplog.text, *(repr(vars(record)) for record in caplog.records)]
    everything = "\n".join(texts)
    for part in PARTS:
        assert part not in everything
    assert "trio_ticks" in caplog.text or error is not None
    assert log.keys == []


async def test_the_secrets_are_really_sent(autojump_clock: MockClock) -> None:
    log = Log()
    async with memory_feed(
        websocket(telltale, log), url=f"ws://venue.test/feed?token={IN_QUERY}", api_key=KEY
    ) as (feed, _):
        with trio.move_on_after(1):
            await feed.run(Collector())
    assert log.keys[0] == KEY.encode()
    assert IN_QUERY in log.paths[0]
    assert feed.malformed >= 4
