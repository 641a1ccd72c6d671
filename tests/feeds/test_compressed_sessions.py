"""Connections whose messages are compressed, with real servers on real sockets.

The groups 12 and 13 of the Autobahn test suite are about permessage-deflate. Their
cases run here against the server of the websockets library, in their sizes and with
their parameters, but with a few messages each instead of a thousand. Our side reads the
messages and does not echo them, since a feed never compresses.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import pytest
import trio
from trio.testing import memory_stream_pair

from tests.worlds.deflating import Deflater, bomb, packed_frames
from tests.worlds.feed_venues import Collector, quote, running
from tests.worlds.frame_wire import (
    LIMIT,
    PATIENCE_S,
    PING,
    TEXT,
    Inbox,
    Peer,
    close_of,
    frame,
    socket_peer,
)
from trio_ticks.errors import ConfigError, FeedBrokenError
from trio_ticks.feeds.venues.flat import FlatCodec
from trio_ticks.feeds.websocket.connect import Target
from trio_ticks.feeds.websocket.extensions import Compression
from trio_ticks.feeds.websocket.feed import WebSocketFeed
from trio_ticks.feeds.websocket.frame_tap import FrameTap
from trio_ticks.feeds.websocket.options import WebSocketOptions
from trio_ticks.feeds.websocket.session import Ended, Session, SessionSettings

Handler = Callable[[Any], None]
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"


@contextmanager
def server(handler: Handler, **parameters: Any) -> Iterator[int]:
    """Serve with the websockets library and permessage-deflate; gives the port."""
    server_module = pytest.importorskip("websockets.sync.server")
    deflate = pytest.importorskip("websockets.extensions.permessage_deflate")
    extensions = [deflate.ServerPerMessageDeflateFactory(**parameters)]
    with server_module.serve(
        handler, "127.0.0.1", 0, compression=None, extensions=extensions
    ) as running_server:
        thread = threading.Thread(target=running_server.serve_forever)
        thread.start()
        try:
            yield running_server.socket.getsockname()[1]
        finally:
            running_server.shutdown()
            thread.join()


async def run_session(
    inbox: Inbox,
    port: int = 80,
    *,
    open_stream: Callable[[str, int], Awaitable[trio.abc.Stream]] = trio.open_tcp_stream,
    compression: Compression | None = "permessage-deflate",
    needs_compression: bool = False,
) -> Ended:
    settings = SessionSettings(
        target=Target.parse(f"ws://127.0.0.1:{port}"),
        headers=(),
        ssl_context=None,
        open_stream=open_stream,
        max_message_size=LIMIT,
        ping_interval=None,
        pong_timeout=10.0,
        stale_after=None,
        connect_timeout=PATIENCE_S,
        compression=compression,
        needs_compression=needs_compression,
    )
    with trio.fail_after(PATIENCE_S):
        return await Session(settings, inbox.deliver, lambda: None).run([])


# --- Autobahn's groups 12 and 13

SIZES = [16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072]
FRAGMENTED = [
    (8192, 256),
    (16384, 256),
    (32768, 256),
    (65536, 256),
    (131072, 256),
    (131072, 1024),
    (131072, 4096),
    (131072, 32768),
]
"""The cases 11 to 18 of each group: sizes of messages and of their fragments."""

Kind = Literal["json", "bitmap", "text", "html", "random"]


def data_of(kind: Kind) -> bytes:
    rng = random.Random(12)
    if kind == "random":
        return rng.randbytes(200_000)
    if kind == "bitmap":
        return bytes((n * n // 700 + rng.randrange(3)) % 256 for n in range(200_000))
    words = [f"w{rng.randrange(10_000)}ß" for _ in range(500)]
    form = {"json": '{{"id": {}, "text": "{}"}},', "text": "{} {}. ", "html": "<p id={}>{}</p>"}
    text = "".join(form[kind].format(rng.randrange(999), rng.choice(words)) for _ in range(20_000))
    return text.encode()[:200_000]


def cases(data: bytes, count: int) -> list[tuple[list[bytes], int | None]]:
    """Return the messages of each of the 18 cases, and the size of their fragments."""
    sizes: list[tuple[int, int | None]] = [*((size, None) for size in SIZES), *FRAGMENTED]
    return [
        (
            [
                data[at : at + size]
                for at in (n * 1000 % (len(data) - size + 1) for n in range(count))
            ],
            piece,
        )
        for size, piece in sizes
    ]


async def check_group(kind: Kind, count: int, **parameters: Any) -> None:
    """Run the 18 cases of a group, on one connection."""
    group = cases(data_of(kind), count)
    agreed: list[str] = []

    def handler(ws: Any) -> None:
        agreed.extend(extension.name for extension in ws.protocol.extensions)
        for messages, piece in group:
            for message in messages:
                if piece is None:
                    ws.send(message)
                else:
                    ws.send(message[at : at + piece] for at in range(0, len(message), piece))

    inbox = Inbox()
    with server(handler, **parameters) as port:
        ended = await run_session(inbox, port, needs_compression=True)
    assert inbox.messages == [message for messages, _ in group for message in messages]
    assert (ended.code, ended.violation) == (1000, False)
    assert agreed == ["permessage-deflate"]


@pytest.mark.parametrize("kind", ["json", "bitmap", "text", "html", "random"])
async def test_autobahn_group_12(kind: Kind) -> None:
    await check_group(kind, 2)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"server_no_context_takeover": True},
        {"server_max_window_bits": 9},
        {"server_max_window_bits": 15},
        {"server_no_context_takeover": True, "server_max_window_bits": 9},
        {"server_no_context_takeover": True, "server_max_window_bits": 15},
        {
            "server_no_context_takeover": True,
            "server_max_window_bits": 9,
            "client_no_context_takeover": True,
            "client_max_window_bits": 9,
        },
    ],
    ids=["13.1", "13.2", "13.3", "13.4", "13.5", "13.6", "13.7"],
)
async def test_autobahn_group_13(parameters: dict[str, Any]) -> None:
    await check_group("json", 2, **parameters)


# --- violations


@pytest.mark.parametrize(
    ("payload", "code"),
    [(bomb("deflate", wrapped=False)[:LIMIT], 1009), (b"\xff\xff\xff", 1007)],
    ids=["bomb", "damaged"],
)
@pytest.mark.parametrize("places", [(), range(0, LIMIT, 10_000)], ids=["whole", "fragments"])
async def test_the_peer_gets_our_close_frame(
    payload: bytes, code: int, places: Sequence[int]
) -> None:
    codes: list[int] = []

    async def script(peer: Peer) -> None:
        good = Deflater().frames(TEXT, b"good")
        await peer.accept(b"".join(good), headers=DEFLATE)
        with suppress(trio.BrokenResourceError):
            await peer.send(*packed_frames(TEXT, payload, places), frame(TEXT, b"late") * 1000)
        codes.extend([answer.code for answer in await peer.receive_all()])

    inbox = Inbox()
    async with socket_peer(script) as connect:
        ended = await run_session(inbox, open_stream=lambda _host, _port: connect())
    assert codes == [code]
    assert inbox.messages == [b"good"]
    assert (ended.code, ended.violation) == (code, True)


async def test_control_frames_between_the_fragments() -> None:
    pings: list[bytes] = []

    async def script(peer: Peer) -> None:
        first, second = Deflater().frames(TEXT, b"a message", [4])
        await peer.accept(first, headers=DEFLATE)
        await peer.send(frame(PING, b"?"))
        answer = await peer.receive()
        assert answer is not None
        pings.append(answer.payload)
        await peer.send(second, close_of(1000))
        await peer.receive_all()

    inbox = Inbox()
    async with socket_peer(script) as connect:
        ended = await run_session(inbox, open_stream=lambda _host, _port: connect())
    assert (inbox.messages, pings, ended.code) == ([b"a message"], [b"?"], 1000)


# --- the handshake


async def end_of_handshake(headers: bytes, *, needs: bool = False) -> Ended:
    async def script(peer: Peer) -> None:
        await peer.accept(close_of(1000), headers=headers)
        await peer.receive_all()

    async with socket_peer(script) as connect:
        return await run_session(
            Inbox(), open_stream=lambda _host, _port: connect(), needs_compression=needs
        )


async def test_a_server_that_does_not_accept() -> None:
    assert (await end_of_handshake(b"")).code == 1000
    failed = (await end_of_handshake(b"", needs=True)).failure
    assert failed is not None
    assert failed.permanent
    assert "does not accept" in str(failed)


async def test_a_server_that_accepts_something_else() -> None:
    ended = await end_of_handshake(DEFLATE.replace(b"permessage", b"perframe"))
    assert ended.failure is not None
    assert "'perframe-deflate', which was not offered" in ended.reason


# --- workers that read in the reader's place


async def tap_with_deflate() -> tuple[FrameTap, list[bytes], trio.abc.Stream]:
    got: list[bytes] = []
    near, far = memory_stream_pair()
    tap = FrameTap(
        near, lambda batch: got.extend(batch), max_message_size=1000, offers_deflate=True
    )
    await far.send_all(b"HTTP/1.1 101 S\r\n" + DEFLATE + b"\r\n")
    await tap.receive_some()
    return tap, got, far


async def test_a_stand_in_unpacks() -> None:
    tap, got, _far = await tap_with_deflate()
    deflater = Deflater()
    wire = b"".join(deflater.frames(TEXT, b"one") + deflater.frames(TEXT, b"one two", [3]))
    assert tap.deal(wire[:5])
    assert tap.deal(wire[5:])
    assert got == [b"one", b"one two"]


async def test_a_stand_in_leaves_a_violation_to_the_reader() -> None:
    tap, got, _far = await tap_with_deflate()
    deflater = Deflater()
    wire = deflater.frames(TEXT, b"good") + deflater.frames(TEXT, bytes(1001))
    assert not tap.deal(b"".join(wire))
    answer = await tap.receive_some()
    assert answer[2:4] == (1009).to_bytes(2, "big")
    assert got == [b"good"]
    assert await tap.receive_some() == b""


# --- the feed


def venue(extensions: list[str]) -> Handler:
    """Make a venue of 300 quotes, which notes what was agreed with each client."""

    def handler(ws: Any) -> None:
        extensions.append(", ".join(extension.name for extension in ws.protocol.extensions))
        ws.recv()
        for n in range(300):
            ws.send(quote(volume=n))
        ws.recv()

    return handler


@pytest.mark.parametrize(
    ("options", "agreed"),
    [({}, ""), ({"compression": "permessage-deflate"}, "permessage-deflate")],
)
async def test_a_feed(options: dict[str, Any], agreed: str) -> None:
    extensions: list[str] = []
    send = Collector()
    with trio.fail_after(PATIENCE_S), server(venue(extensions)) as port:
        feed = WebSocketFeed(f"ws://127.0.0.1:{port}", ["SPY"], **options)
        async with running(feed, send):
            await send.wait_for(300)
    assert [tick.volume for tick in send.ticks] == list(range(300))
    assert feed.malformed == 0
    assert extensions == [agreed]


async def test_a_venue_that_demands_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlatCodec, "compression", "permessage-deflate", raising=False)
    extensions: list[str] = []
    send = Collector()
    with trio.fail_after(PATIENCE_S), server(venue(extensions)) as port:
        async with running(WebSocketFeed(f"ws://127.0.0.1:{port}", ["SPY"]), send):
            await send.wait_for(300)
    assert extensions == ["permessage-deflate"]

    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.receive_all()

    async with socket_peer(script) as connect:
        feed = WebSocketFeed("ws://x", ["SPY"], open_stream=lambda _host, _port: connect())
        with pytest.raises(FeedBrokenError, match="demands the compression permessage-deflate"):
            await feed.run(Collector())


def test_options() -> None:
    assert WebSocketOptions().compression is None
    with pytest.raises(ConfigError, match=r"compression must be .permessage-deflate., got 'gzip'"):
        WebSocketOptions(compression="gzip")  # type: ignore[arg-type]
