"""The wire as a WebSocket server sees it, made by hand.

It sends frames that no library would send, and decodes what the client answers.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import trio
import trustme
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from trio_ticks.feeds.websocket.frame_tap import FrameTap
from trio_ticks.feeds.websocket.tls_stream import TlsStream

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "reserved bit 1": (b"\xc1\x00", 1002),
    "reserved bit 2": (b"\xa1\x00", 1002),
    "reserved bit 3 on a ping": (b"\x99\x00", 1002),
    "data opcode 3": (b"\x83\x00", 1002),
    "data opcode 7, not final": (b"\x07\x00", 1002),
    "control opcode 11": (b"\x8b\x00", 1002),
    "control opcode 15": (b"\x8f\x00", 1002),
    "masked": (b"\x81\x81\x00\x00\x00\x00a", 1002),
    "masked, empty": (b"\x82\x80\x00\x00\x00\x00", 1002),
    "masked ping": (b"\x89\x80\x00\x00\x00\x00", 1002),
    "fragmented ping": (b"\x09\x00", 1002),
    "ping of 126 bytes": (b"\x89\x7e\x00\x7e" + bytes(126), 1002),
    "ping of 64 bits": (b"\x89\x7f" + bytes(8), 1002),
    "continuation of nothing": (b"\x80\x00", 1002),
    "continuation of nothing, not final": (b"\x00\x01x", 1002),
    "text inside a message": (b"\x01\x01a\x81\x01b", 1002),
    "binary begun inside a message": (b"\x02\x01a\x02\x01b", 1002),
    "125 in 16 bits": (b"\x81\x7e\x00\x7d" + bytes(125), 1002),
    "0 in 16 bits": (b"\x82\x7e\x00\x00", 1002),
    "65535 in 64 bits": (b"\x81\x7f" + (65535).to_bytes(8, "big") + bytes(65535), 1002),
    "most significant bit": (b"\x81\x7f\x80" + bytes(7), 1002),
    "close of one byte": (b"\x88\x01\x03", 1002),
    "close code 0": (b"\x88\x02\x00\x00", 1002),
    "close code 999": (b"\x88\x02\x03\xe7", 1002),
    "close code 1004": (b"\x88\x02\x03\xec", 1002),
    "close code 1005": (b"\x88\x02\x03\xed", 1002),
    "close code 1006": (b"\x88\x02\x03\xee", 1002),
    "close code 1015": (b"\x88\x02\x03\xf7", 1002),
    "close code 2999": (b"\x88\x02\x0b\xb7", 1002),
    "close code 5000": (b"\x88\x02\x13\x88", 1002),
    "close reason that is not UTF-8": (b"\x88\x03\x03\xe8\xff", 1007),
    "too big": (b"\x81\x7f" + (2**40).to_bytes(8, "big"), 1009),
    "too big by fragments": (
        (b"\x02" + b"\x7e\xff\xff" + bytes(65535))
        + (b"\x00" + b"\x7e\xff\xff" + bytes(65535)) * 16,
        1009,
    ),
}
"""What a server must not send, by name, and the close code that has to answer it.

The codes hold if messages may be 2**20 bytes long.
"""

LIMIT = 2**20

PATIENCE_S = 60
"""Nothing waits for this; it keeps a broken test from hanging."""


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """Return a frame as a server sends it."""
    head = bytes((opcode | (0x80 if final else 0),))
    size = len(payload)
    if size < 126:
        return head + bytes((size,)) + payload
    if size < 65536:
        return head + b"\x7e" + size.to_bytes(2, "big") + payload
    return head + b"\x7f" + size.to_bytes(8, "big") + payload


def close_of(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


class ClientFrame(NamedTuple):
    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        assert self.opcode == CLOSE
        return int.from_bytes(self.payload[:2], "big")


class Peer:
    """The server's end of a connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""

    async def accept(self, behind: bytes = b"", *, headers: bytes = b"") -> None:
        """Answer the handshake, with *behind* right after it in one piece.

        *headers* are whole lines.
        """
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += await self._some()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        key = next(
            line.partition(b": ")[2]
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key")
        )
        await self.stream.send_all(handshake_answer(key, headers) + behind)

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def receive(self) -> ClientFrame | None:
        """Return the client's next frame, or ``None`` at the end of the stream."""
        while (found := self._take()) is None:
            data = await self._some()
            if not data:
                assert not self._buffer, "the client stopped in the middle of a frame"
                return None
            self._buffer += data
        return found

    async def receive_all(self) -> list[ClientFrame]:
        """Return all that the client sends until it closes."""
        frames = []
        while (received := await self.receive()) is not None:
            frames.append(received)
        return frames

    async def _some(self) -> bytes:
        return bytes(await self.stream.receive_some())

    def _take(self) -> ClientFrame | None:
        buffer = self._buffer
        if len(buffer) < 6:
            return None
        size, begin = buffer[1] & 0x7F, 2
        assert buffer[1] & 0x80, "a client has to mask"
        if size == 126:
            size, begin = int.from_bytes(buffer[2:4], "big"), 4
        mask = buffer[begin : begin + 4]
        end = begin + 4 + size
        if len(buffer) < end:
            return None
        self._buffer = buffer[end:]
        return ClientFrame(
            buffer[0] & 15,
            bytes(byte ^ mask[n % 4] for n, byte in enumerate(buffer[begin + 4 : end])),
        )


def handshake_answer(key: bytes, headers: bytes = b"") -> bytes:
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n" + headers + b"\r\n"
    )


class Inbox:
    """A *deliver* that keeps what it gets, and waits when a test says so."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.batches = 0
        self.entered = trio.Event()
        self.gate = trio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self._news = trio.Event()

    async def deliver(self, batch: list[bytes]) -> None:
        self.entered.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.batches += 1
        self.messages += batch
        self._news.set()
        self._news = trio.Event()

    async def wait_for(self, count: int) -> None:
        while len(self.messages) < count:
            await self._news.wait()


Script = Callable[[Peer], Awaitable[None]]


class Tls(NamedTuple):
    server: ssl.SSLContext
    client: ssl.SSLContext

    @classmethod
    def make(cls) -> Tls:
        authority = trustme.CA()
        server, client = (
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
            ssl.create_default_context(),
        )
        authority.issue_cert("localhost").configure_cert(server)
        authority.configure_trust(client)
        return cls(server, client)


@asynccontextmanager
async def socket_peer(
    script: Script, tls: Tls | None = None
) -> AsyncIterator[Callable[[], Awaitable[trio.abc.Stream]]]:
    """Play *script* to each connection on a loopback socket; gives its connector."""

    async def play(stream: trio.SocketStream) -> None:
        async with (
            stream
            if tls is None
            else trio.SSLStream(
                stream, tls.server, server_side=True, https_compatible=True
            ) as transport
        ):
            await script(Peer(transport))

    async def connect() -> trio.abc.Stream:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        if tls is None:
            return stream
        secured = TlsStream(stream, tls.client, "localhost")
        await secured.do_handshake()
        return secured

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listeners[0].socket.getsockname()[1]
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, play, listeners)
            yield connect
            nursery.cancel_scope.cancel()


class Client(NamedTuple):
    ws: WebSocketConnection
    tap: FrameTap
    nursery: trio.Nursery
    """trio-websocket's reader runs in it."""

    async def ended(self) -> int:
        """Wait until trio-websocket sees the end; returns its close code."""
        while True:
            try:
                await self.ws.get_message()
            except ConnectionClosed as closed:
                reason = closed.reason
                return 0 if reason is None else int(reason.code)


@asynccontextmanager
async def client(
    stream: trio.abc.Stream, inbox: Inbox, *, linger: float = 1.0, max_message_size: int = LIMIT
) -> AsyncIterator[Client]:
    """Open a WebSocket over a tap on *stream*.

    At the end of the block the tap is closed, and the reader ended.
    """
    tap = FrameTap(stream, inbox.deliver, max_message_size=max_message_size, linger=linger)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            ws = await wrap_client_stream(
                nursery, cast(Any, tap), "localhost", "/"
            )  # it says it wants a socket, and takes any stream
            yield Client(ws, tap, nursery)
            await tap.aclose()
            nursery.cancel_scope.cancel()
