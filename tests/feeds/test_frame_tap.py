"""The tap between the stream and trio-websocket: what it delivers and lets through.

And how a connection ends.
"""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

from tests.worlds.frame_wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    LIMIT,
    PATIENCE_S,
    PING,
    PONG,
    TEXT,
    VIOLATIONS,
    Client,
    ClientFrame,
    Inbox,
    Peer,
    Tls,
    client,
    close_of,
    frame,
    handshake_answer,
    socket_peer,
)
from trio_ticks.errors import VenueProtocolError
from trio_ticks.feeds.websocket.frame_tap import FrameTap, fail_connection
from trio_ticks.feeds.websocket.frames import CloseReason
from trio_ticks.feeds.websocket.tls_stream import TlsStream


@asynccontextmanager
async def connected(
    inbox: Inbox, *, behind: bytes = b"", linger: float = 1.0
) -> AsyncIterator[tuple[Client, Peer]]:
    """A client and the server's end of its connection, in memory."""
    near, far = memory_stream_pair()
    peer = Peer(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.accept, behind)
        async with client(near, inbox, linger=linger) as found:
            yield found, peer


# --- delivering


async def test_frames_right_behind_the_handshake() -> None:
    inbox = Inbox()
    async with connected(
        inbox, behind=frame(TEXT, b"one") + frame(BINARY, b"two") + b"\x81\x05th"
    ) as (found, peer):
        await inbox.wait_for(2)
        await peer.send(b"ree")
        await inbox.wait_for(3)
        assert found.tap.messages == 3
    assert inbox.messages == [b"one", b"two", b"three"]


async def test_handshake_in_single_bytes() -> None:
    inbox = Inbox()
    near, far = memory_stream_pair()
    peer = Peer(far)

    async def dribble() -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await far.receive_some()
        key = next(
            line.partition(b": ")[2]
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key")
        )
        for byte in handshake_answer(key) + frame(TEXT, b"m") + close_of(1000):
            await far.send_all(bytes((byte,)))
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dribble)
        async with client(near, inbox) as found:
            assert await found.ended() == 1000
            await far.send_eof()
    assert inbox.messages == [b"m"]
    assert await peer.receive() == ClientFrame(CLOSE, b"\x03\xe8")


async def test_payloads_are_bytes_whatever_the_stream_gives() -> None:
    near, far = memory_stream_pair()  # gives bytearrays
    inbox = Inbox()
    tap = FrameTap(near, inbox.deliver, max_message_size=LIMIT)
    await far.send_all(b"HTTP/1.1 101 S\r\n\r\n" + frame(TEXT, b"behind"))
    received = await tap.receive_some()
    await far.send_all(frame(TEXT, b"m") + frame(PING))
    ping = await tap.receive_some()
    assert (inbox.messages, ping) == ([b"behind"], frame(PING))
    await far.send_eof()
    assert await tap.receive_some() == b""
    assert [type(data) for data in (received, ping, *inbox.messages)] == [bytes] * 4
    await tap.aclose()


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
async def test_handshake_ends_where_h11_thinks_it_does(line_end: bytes) -> None:
    near, far = memory_stream_pair()
    inbox = Inbox()
    tap = FrameTap(near, inbox.deliver, max_message_size=LIMIT)
    head = line_end.join([b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"", b""])
    await far.send_all(head + frame(TEXT, b"m") + frame(PING, b"p"))
    assert await tap.receive_some() == head
    assert await tap.receive_some() == frame(PING, b"p")
    await far.send_eof()
    assert await tap.receive_some() == b""
    assert inbox.messages == [b"m"]
    await tap.aclose()


async def test_a_refusal_passes_whole() -> None:
    near, far = memory_stream_pair()
    inbox = Inbox()
    tap = FrameTap(near, inbox.deliver, max_message_size=LIMIT)
    # A body that would be frames, were this a WebSocket.
    pieces = [
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 10\r\n",
        b"\r\n\x81\x03",
        b"\x88\x02abcdef",
        frame(TEXT, b"no"),
    ]
    for piece in pieces:
        await far.send_all(piece)
        assert await tap.receive_some() == piece
    await far.send_eof()
    assert await tap.receive_some() == b""
    assert (inbox.messages, tap.violation) == ([], None)
    await tap.aclose()


async def test_ping_between_fragments_is_answered() -> None:
    inbox = Inbox()
    async with connected(inbox) as (_, peer):
        await peer.send(frame(TEXT, b"a", final=False), frame(PING, b"now"))
        assert await peer.receive() == ClientFrame(PONG, b"now")
        assert inbox.messages == []
        await peer.send(
            frame(CONTINUATION, b"b", final=False), frame(PING, b"again"), frame(CONTINUATION, b"c")
        )
        assert await peer.receive() == ClientFrame(PONG, b"again")
        await inbox.wait_for(1)
    assert inbox.messages == [b"abc"]


async def test_ping_is_answered_before_the_messages_it_came_with_are_delivered() -> None:
    inbox = Inbox()
    inbox.gate = trio.Event()
    async with connected(inbox) as (_, peer):
        await peer.send(frame(TEXT, b"before"), frame(PING, b"?"), frame(TEXT, b"after"))
        await inbox.entered.wait()  # and stays in there
        assert await peer.receive() == ClientFrame(PONG, b"?")
        inbox.gate.set()
        await inbox.wait_for(2)
        assert inbox.messages == [b"before", b"after"]
        assert inbox.batches == 1


async def test_pong_reaches_trio_websocket() -> None:
    inbox = Inbox()
    async with connected(inbox) as (found, peer), trio.open_nursery() as nursery:

        async def answer() -> None:
            ping = await peer.receive()
            assert ping is not None
            await peer.send(frame(TEXT, b"m"), frame(PONG, ping.payload))

        nursery.start_soon(answer)
        await found.ws.ping(b"hello")
        await inbox.wait_for(1)


async def test_one_batch_per_read_and_no_reading_while_it_is_delivered() -> None:
    inbox = Inbox()
    inbox.gate = trio.Event()
    async with connected(inbox) as (found, peer):
        await peer.send(frame(TEXT, b"1"), frame(TEXT, b"2"))
        await inbox.entered.wait()
        received = found.tap.bytes_received
        await peer.send(frame(TEXT, b"3"))
        await peer.send(frame(TEXT, b"4"))
        await wait_all_tasks_blocked()
        assert found.tap.bytes_received == received
        inbox.gate.set()
        await inbox.wait_for(4)
        assert inbox.batches == 2


# --- the peer breaks the protocol


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_violation_is_answered_with_its_code(name: str) -> None:
    wire, code = VIOLATIONS[name]
    inbox = Inbox()
    received: list[ClientFrame] = []

    async def violate(peer: Peer) -> None:
        await peer.send(
            frame(TEXT, b"good"), wire, frame(TEXT, b"late"), frame(PING), close_of(1000)
        )
        received.extend(await peer.receive_all())
        await peer.stream.aclose()

    async with connected(inbox) as (found, peer), trio.open_nursery() as nursery:
        nursery.start_soon(violate, peer)
        assert await found.ended() == code
        await found.tap.aclose()
    assert [answer.code for answer in received] == [code]
    assert received[0].payload[2:].decode()
    assert inbox.messages == [b"good"]
    assert found.tap.violation is not None
    assert found.tap.violation.code == code
    assert found.tap.close_reason == found.tap.violation


async def test_messages_come_before_the_close_they_arrived_with() -> None:
    inbox = Inbox()
    inbox.gate = trio.Event()
    async with connected(inbox) as (found, peer), trio.open_nursery() as nursery:
        await peer.send(frame(TEXT, b"last"), close_of(1012, "restart"))
        await inbox.entered.wait()
        await wait_all_tasks_blocked()
        assert found.ws.closed is None
        inbox.gate.set()
        assert await found.ended() == 1012
        assert inbox.messages == [b"last"]
        assert await peer.receive() == ClientFrame(CLOSE, b"\x03\xf4restart")
        nursery.start_soon(found.tap.aclose)
        assert await peer.receive() is None
        await peer.stream.aclose()
    assert found.tap.close_reason == CloseReason(1012, "restart")


async def test_close_without_a_code() -> None:
    inbox = Inbox()
    async with connected(inbox) as (found, peer):
        await peer.send(frame(CLOSE))
        assert await found.ended() == 1005
        assert await peer.receive() == ClientFrame(CLOSE, b"")
        await peer.stream.aclose()
    assert found.tap.close_reason == CloseReason(1005, "")


async def spam(peer: Peer, violation: bytes) -> int | None:
    """Violate the protocol, go on sending, and only then read the client's answer.

    Returns the close code that it gave.
    """
    await peer.accept(frame(TEXT, b"good"))
    try:
        await peer.send(violation)
        for _ in range(8):
            await peer.send(frame(TEXT, bytes(1000)) * 64)
        received = await peer.receive()
    except trio.BrokenResourceError:
        return None  # a reset: what the client said is lost
    return None if received is None else received.code


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("name", ["reserved bit 1", "close reason that is not UTF-8", "too big"])
async def test_the_peer_gets_our_close_frame_every_time(name: str, secure: bool) -> None:
    violation, code = VIOLATIONS[name]
    codes: list[int | None] = []
    played = trio.Event()

    async def script(peer: Peer) -> None:
        codes.append(await spam(peer, violation))
        played.set()

    async with socket_peer(script, Tls.make() if secure else None) as connect:
        for _ in range(60):
            inbox, played = Inbox(), trio.Event()
            async with client(await connect(), inbox) as found:
                await found.ended()
            await played.wait()
            assert inbox.messages == [b"good"]
    assert codes == [code] * 60


async def test_clean_closure_over_tcp() -> None:
    # Section 7.1.1: after the Close frame, the end of the stream; without that, this
    # server and the client would wait for each other.
    rest: list[ClientFrame] = []

    async def script(peer: Peer) -> None:
        await peer.accept(VIOLATIONS["masked"][0])
        rest.extend(await peer.receive_all())

    async with (
        socket_peer(script) as connect,
        client(await connect(), Inbox(), linger=math.inf) as found,
    ):
        assert await found.ended() == 1002
    assert [received.code for received in rest] == [1002]


async def test_a_violator_that_never_closes_is_left_in_time(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    async with connected(inbox, linger=5.0) as (found, peer):
        await peer.send(VIOLATIONS["masked"][0])
        await found.ended()
        begin = trio.current_time()
        await found.tap.aclose()
        assert trio.current_time() - begin == pytest.approx(5.0)
    assert [answer.code for answer in await peer.receive_all()] == [1002]


async def test_a_violator_that_does_not_read_is_left_in_time(autojump_clock: MockClock) -> None:
    near, far = lockstep_stream_pair()  # sending waits for the peer to receive
    peer, inbox = Peer(far), Inbox()

    async def violate() -> None:
        await peer.accept()
        await peer.send(frame(TEXT, b"m"), VIOLATIONS["masked"][0])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(violate)
        begin = trio.current_time()
        async with client(near, inbox, linger=5.0) as found:
            await found.ended()
        assert trio.current_time() - begin == pytest.approx(5.0)
    assert inbox.messages == [b"m"]


async def test_aclose_waits_for_the_close_frame_that_is_about_to_be_sent() -> None:
    # trio-websocket marks itself closed before it sends the frame, and a caller that
    # sees the mark may be quick to close.
    near, far = memory_stream_pair()
    tap = FrameTap(near, Inbox().deliver, max_message_size=LIMIT)
    await far.send_all(b"HTTP/1.1 101 S\r\n\r\n" + VIOLATIONS["masked"][0])
    await tap.receive_some()
    assert (await tap.receive_some())[:4] == b"\x88\x1c\x03\xea"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tap.aclose)
        await wait_all_tasks_blocked()
        await tap.send_all(b"\x88\x80mask")
        assert await far.receive_some() == b"\x88\x80mask"
        assert await far.receive_some() == b""
        await far.aclose()


# --- deliver() fails


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (VenueProtocolError("no such schema", code=1003), 1003, b"no such schema"),
        (trio.BrokenResourceError("the pipeline is gone"), 1001, b""),
        (trio.ClosedResourceError("channel closed"), 1001, b""),
        (RuntimeError("secret detail"), 1001, b""),
    ],
)
async def test_what_deliver_raises_is_kept_and_ends_the_connection(
    error: Exception, code: int, reason: bytes
) -> None:
    inbox = Inbox()
    inbox.error = error
    async with connected(inbox) as (found, peer), trio.open_nursery() as nursery:
        await peer.send(frame(TEXT, b"m"), frame(PING, b"?"), frame(TEXT, b"n"))
        await found.ended()
        nursery.start_soon(found.tap.aclose)
        assert await peer.receive_all() == [
            ClientFrame(PONG, b"?"),
            ClientFrame(CLOSE, code.to_bytes(2, "big") + reason),
        ]
        await peer.stream.aclose()
    assert found.tap.error is error
    assert found.tap.violation is None


async def test_cancelling_deliver_is_no_error() -> None:
    inbox = Inbox()
    inbox.gate = trio.Event()
    async with connected(inbox) as (found, peer):
        await peer.send(frame(TEXT, b"m"))
        await inbox.entered.wait()
        found.nursery.cancel_scope.cancel()
    assert found.tap.error is None
    assert found.tap.close_reason is None


# --- we close


async def test_fail_connection_tells_the_peer_and_waits_for_its_close() -> None:
    inbox = Inbox()

    async def answer(peer: Peer) -> None:
        received = await peer.receive()
        assert received == ClientFrame(CLOSE, b"\x0f\xa0stale")
        # Data in flight, and a ping, which trio-websocket would choke on now.
        await peer.send(frame(TEXT, b"late"), frame(PING, b"?"), frame(CLOSE, received.payload))
        assert await peer.receive() is None
        await peer.stream.aclose()

    async with connected(inbox) as (found, peer), trio.open_nursery() as nursery:
        nursery.start_soon(answer, peer)
        await fail_connection(found.ws, found.tap, 4000, "stale")
    assert (found.tap.messages, found.tap.discarded) == (0, 1)
    assert inbox.messages == []
    assert found.tap.close_reason is None  # it was us


async def test_what_is_thrown_away_is_still_parsed() -> None:
    # The closing task and trio-websocket's reader take turns in reading; bytes that are
    # cut into frames at the wrong place look like a violation.
    near, far = memory_stream_pair()
    peer, inbox = Peer(far), Inbox()
    data = (
        b"".join(frame(TEXT, bytes((255,)) * size) for size in range(60))
        + frame(PING, b"p" * 100)
        + close_of(1000)
    )

    async def answer() -> None:
        assert await peer.receive() == ClientFrame(CLOSE, b"\x03\xe8")
        for n in range(0, len(data), 7):
            await peer.send(data[n : n + 7])
            await wait_all_tasks_blocked()
        await peer.stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.accept)
        async with client(near, inbox, linger=math.inf) as found:
            nursery.start_soon(answer)
            await fail_connection(found.ws, found.tap, 1000)
    assert (found.tap.discarded, found.tap.violation) == (60, None)
    assert inbox.messages == []


async def test_the_peers_close_frame_is_for_trio_websocket_whoever_has_read_it() -> None:
    # Here the closing task reads first, and gets the Close frame; the reader reaches
    # the end of the stream.
    near, far = memory_stream_pair()
    inbox = Inbox()
    tap = FrameTap(near, inbox.deliver, max_message_size=LIMIT, linger=math.inf)
    await far.send_all(b"HTTP/1.1 101 S\r\n\r\n")
    await tap.receive_some()
    await tap.send_all(close_of(1000))
    seen: list[bytes] = []

    async def read() -> None:
        seen.append(await tap.receive_some())
        seen.append(await tap.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tap.aclose)
        await wait_all_tasks_blocked()
        nursery.start_soon(read)
        for data in (frame(TEXT, b"late"), close_of(1000)):
            await wait_all_tasks_blocked()
            await far.send_all(data)
        await wait_all_tasks_blocked()
        assert seen == []
        await far.aclose()
    assert seen == [close_of(1000), b""]
    assert (tap.discarded, inbox.messages) == (1, [])


async def test_what_was_read_behind_a_ping_is_counted_when_we_close() -> None:
    near, far = memory_stream_pair()
    inbox = Inbox()
    tap = FrameTap(near, inbox.deliver, max_message_size=LIMIT, linger=math.inf)
    await far.send_all(b"HTTP/1.1 101 S\r\n\r\n")
    await tap.receive_some()
    await far.send_all(frame(PING, b"?") + frame(TEXT, b"m"))
    assert await tap.receive_some() == frame(PING, b"?")
    await tap.send_all(close_of(1000))
    await far.aclose()
    await tap.aclose()
    assert (tap.messages, tap.discarded, inbox.messages) == (0, 1, [])


async def test_ping_after_the_close_of_trio_websocket_itself() -> None:
    inbox = Inbox()

    async def answer(peer: Peer) -> None:
        received = await peer.receive()
        assert received is not None
        await peer.send(frame(PING, b"?"))
        await wait_all_tasks_blocked()
        await peer.send(frame(CLOSE, received.payload))
        await peer.stream.aclose()

    async with connected(inbox) as (found, peer), trio.open_nursery() as nursery:
        nursery.start_soon(answer, peer)
        await found.ws.aclose(1000)


@pytest.mark.parametrize("silent", [True, False])
async def test_fail_connection_while_deliver_waits(silent: bool, autojump_clock: MockClock) -> None:
    inbox = Inbox()
    inbox.gate = trio.Event()
    async with connected(inbox, linger=5.0) as (found, peer), trio.open_nursery() as nursery:
        await peer.send(frame(TEXT, b"m"))
        await inbox.entered.wait()

        async def answer() -> None:
            received = await peer.receive()
            assert received == ClientFrame(CLOSE, b"\x03\xe9")
            if not silent:
                await peer.send(frame(CLOSE, received.payload))
                await peer.stream.aclose()

        nursery.start_soon(answer)
        begin = trio.current_time()
        await fail_connection(found.ws, found.tap, 1001)
        assert trio.current_time() - begin == pytest.approx(5.0 if silent else 0.0)
        inbox.gate.set()
    assert found.tap.close_reason is None  # it was us


async def test_fail_connection_after_the_reader_has_died(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    peer, inbox = Peer(far), Inbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.accept)
        async with client(near, inbox) as found:
            found.nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
                nursery.start_soon(expect_close, peer, 1001)
                begin = trio.current_time()
                await fail_connection(found.ws, found.tap, 1001)
                assert trio.current_time() == begin


async def expect_close(peer: Peer, code: int) -> None:
    """Answer a Close frame, and close when the client has."""
    received = await peer.receive()
    assert received is not None
    assert received.code == code
    await peer.send(frame(CLOSE, received.payload))
    assert await peer.receive() is None
    await peer.stream.aclose()


async def test_fail_connection_with_a_peer_that_does_not_read(autojump_clock: MockClock) -> None:
    near, far = lockstep_stream_pair()
    peer, inbox = Peer(far), Inbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.accept)
        async with client(near, inbox, linger=5.0) as found:
            begin = trio.current_time()
            await fail_connection(found.ws, found.tap, 1000)
            assert trio.current_time() - begin == pytest.approx(5.0)


async def test_cancelled_fail_connection_closes_at_once(autojump_clock: MockClock) -> None:
    inbox = Inbox()
    async with connected(inbox, linger=5.0) as (found, peer):
        begin = trio.current_time()
        with trio.move_on_after(2):
            await fail_connection(found.ws, found.tap, 1000)
        assert trio.current_time() - begin == pytest.approx(2.0)
        assert [answer.code for answer in await peer.receive_all()] == [1000]


async def test_fail_connection_twice_and_after_the_end() -> None:
    inbox = Inbox()
    async with connected(inbox) as (found, peer), trio.open_nursery() as nursery:
        nursery.start_soon(expect_close, peer, 1000)
        await fail_connection(found.ws, found.tap, 1000)
        await fail_connection(found.ws, found.tap, 1002)
        await found.tap.aclose()


async def test_fail_connection_after_the_connection_was_lost(autojump_clock: MockClock) -> None:
    async with connected(Inbox()) as (found, peer):
        await peer.stream.aclose()
        assert await found.ended() == 1006
        begin = trio.current_time()
        await fail_connection(found.ws, found.tap, 1000)
        assert trio.current_time() == begin
    assert found.tap.close_reason == CloseReason(1006, "connection lost")


class ClingingStream(trio.abc.Stream):
    """Takes what it is given, as TLS may, and never finishes closing."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        await trio.sleep_forever()


async def test_a_stream_that_will_not_close_is_left_in_time(autojump_clock: MockClock) -> None:
    tap = FrameTap(ClingingStream(), Inbox().deliver, max_message_size=LIMIT, linger=5.0)
    begin = trio.current_time()
    await tap.aclose()
    assert trio.current_time() - begin == pytest.approx(5.0)


async def test_aclose_before_the_handshake_does_not_wait(autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    tap = FrameTap(near, Inbox().deliver, max_message_size=LIMIT)
    tap.start_closing()
    begin = trio.current_time()
    await tap.aclose()
    assert trio.current_time() == begin
    assert await far.receive_some() == b""


# --- the connection is lost


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"", "connection lost"),
        (b"\x81\x05abc", "connection lost in the middle of a message"),
        (b"\x01\x01a", None),
        (b"\x81", None),
    ],
)
async def test_end_of_stream(rest: bytes, reason: str | None) -> None:
    inbox = Inbox()
    async with connected(inbox) as (found, peer):
        await peer.send(frame(TEXT, b"m"), rest)
        await peer.stream.aclose()
        assert await found.ended() == 1006
    assert inbox.messages == [b"m"]
    assert found.tap.close_reason == CloseReason(
        1006, reason or "connection lost in the middle of a message"
    )
    assert found.tap.violation is None


async def test_reset() -> None:
    inbox = Inbox()

    async def script(peer: Peer) -> None:
        await peer.accept(frame(TEXT, b"m"))
        await inbox.wait_for(1)
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.setsockopt(
            trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
        )  # closing resets

    async with socket_peer(script) as connect, client(await connect(), inbox) as found:
        assert await found.ended() == 1006
    assert found.tap.close_reason == CloseReason(1006, "connection lost")


# --- real servers


@contextmanager
def websockets_server(handler: Callable[[object], None]) -> Iterator[int]:
    """Serve with the websockets library, in threads; gives the port."""
    server_module = pytest.importorskip("websockets.sync.server")
    with server_module.serve(handler, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


MESSAGES = [b"", b"x" * 125, b"y" * 126, b"z" * 65535, b"w" * 65536, "Grüße".encode(), b"v" * LIMIT]


async def test_websockets_server() -> None:
    pongs: list[bool] = []

    def handler(connection: object) -> None:
        ws: Any = connection
        for n, message in enumerate(MESSAGES):
            ws.send(message, text=n % 2 == 0)
            pongs.append(ws.ping().wait(PATIENCE_S))

        def fragments() -> Iterator[bytes]:
            for n in range(5):
                yield bytes((n,)) * 1000
                pongs.append(ws.ping().wait(PATIENCE_S))  # while a message is under way

        ws.send(fragments())
        assert ws.recv() == "done"

    inbox = Inbox()
    with websockets_server(handler) as port:
        async with client(await trio.open_tcp_stream("127.0.0.1", port), inbox) as found:
            await inbox.wait_for(len(MESSAGES) + 1)
            await found.ws.send_message("done")
            assert await found.ended() == 1000
    assert inbox.messages == [*MESSAGES, b"".join(bytes((n,)) * 1000 for n in range(5))]
    assert pongs == [True] * (len(MESSAGES) + 5)


async def test_websockets_server_takes_part_in_our_close() -> None:
    codes: list[object] = []

    def handler(connection: object) -> None:
        ws: Any = connection
        for _ in ws:
            pass
        codes.append((ws.close_code, ws.close_reason))

    with websockets_server(handler) as port:
        async with client(
            await trio.open_tcp_stream("127.0.0.1", port), Inbox(), linger=math.inf
        ) as found:
            await fail_connection(found.ws, found.tap, 1000, "bye")
    assert codes == [(1000, "bye")]


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
async def test_trio_websocket_server(secure: bool) -> None:
    codes: list[int] = []

    async def handler(request: WebSocketRequest) -> None:
        ws = await request.accept()
        for message in MESSAGES:
            await ws.send_message(message)
            await ws.ping()
        await ws.send_message(
            b"end"
        )  # it does not say when a ping is lost to the end of the connection: none may be under way
        try:
            await ws.get_message()
        except ConnectionClosed as closed:
            codes.append(int(closed.reason.code if closed.reason else 0))
            handled.set()

    handled = trio.Event()
    inbox, tls = Inbox(), Tls.make() if secure else None
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            lambda task_status: serve_websocket(
                handler, "127.0.0.1", 0, tls and tls.server, task_status=task_status
            )
        )
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        if tls is not None:
            stream = TlsStream(stream, tls.client, "localhost")
            await stream.do_handshake()
        async with client(stream, inbox, linger=math.inf) as found:
            await inbox.wait_for(len(MESSAGES) + 1)
            await fail_connection(found.ws, found.tap, 1000)
        await handled.wait()
        nursery.cancel_scope.cancel()
    assert inbox.messages == [*MESSAGES, b"end"]
    assert codes == [1000]
