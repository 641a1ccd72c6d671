"""How sockets are read, by the reader or a stand-in: real ones, on loopback."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

import trio_ticks as tt
from tests.feeds.test_tls_stream import AUTHORITY, contexts
from tests.feeds.test_tls_stream import connected as connected_by_tls
from tests.worlds.feed_venues import quote
from tests.worlds.frame_wire import Tls
from tests.worlds.helpers import make_tick, make_ticks, numbers
from tests.worlds.pipeline_world import ScriptFeed
from tests.worlds.pool_world import open_with_pool
from trio_ticks.channel.ends import TickReceiveChannel, TickSendChannel
from trio_ticks.feeds.websocket.frame_tap import FrameTap
from trio_ticks.feeds.websocket.socket_watch import SocketWatch, readable
from trio_ticks.feeds.websocket.tls_stream import TlsStream

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="on Windows a socket is read by trio's own way"
)


PATIENCE_S = 20.0


def watch_of(
    near: trio.SocketStream, *, receive_size: int = 65_536, done: bool = True
) -> tuple[SocketWatch, list[bytes]]:
    """A watch, and what its stand-ins have read.

    *done*: whether that leaves nothing to the reader.
    """
    dealt: list[bytes] = []

    def deal(data: bytes) -> bool:
        dealt.append(data)
        return done

    found = readable(near)
    assert found is not None
    return SocketWatch(*found, deal, receive_size=receive_size), dealt


def reader(near: trio.SocketStream, receive_size: int = 4) -> Callable[[], Awaitable[bytes | None]]:
    return watch_of(near, receive_size=receive_size)[0].read


@pytest.fixture
async def pair() -> AsyncIterator[tuple[trio.SocketStream, socket.socket]]:
    """A stream, and the plain socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = await trio.open_tcp_stream(*server.getsockname())
        far, _ = server.accept()
        async with near:
            with far:
                yield near, far


async def test_what_comes_is_read_up_to_the_end(
    pair: tuple[trio.SocketStream, socket.socket],
) -> None:
    near, far = pair
    read = reader(near)
    far.sendall(b"abcdef")
    assert await read() == b"abcd"
    assert await read() == b"ef"
    far.close()
    assert await read() == b""
    assert await read() == b""


async def test_a_cancelled_read_has_read_nothing(
    pair: tuple[trio.SocketStream, socket.socket],
) -> None:
    near, far = pair
    read = reader(near)
    far.sendall(b"abc")
    with trio.CancelScope() as scope:
        scope.cancel()
        await read()
    assert scope.cancelled_caught
    assert await read() == b"abc"


async def test_a_reset_is_a_broken_stream(pair: tuple[trio.SocketStream, socket.socket]) -> None:
    near, far = pair
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await reader(near)()


async def test_a_closed_socket_is_not_read(pair: tuple[trio.SocketStream, socket.socket]) -> None:
    near, _far = pair
    await near.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await reader(near)()


async def test_closing_ends_a_read_that_waits(
    pair: tuple[trio.SocketStream, socket.socket],
) -> None:
    near, _far = pair

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await reader(near)()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await near.aclose()


async def test_a_file_that_got_the_number_of_a_socket_is_not_read(
    pair: tuple[trio.SocketStream, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is closed when it has become readable, before its reader runs.

    The next file that is opened gets its number.
    """
    near, far = pair
    wait_readable = trio.lowlevel.wait_readable
    others: list[int] = []

    async def wait_and_be_late(number: int) -> None:
        await wait_readable(number)
        near.socket.close()
        there, here = os.pipe()
        os.write(here, b"not yours")
        others.extend((there, here))

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_and_be_late)
    number = near.socket.fileno()
    far.sendall(b"abc")
    try:
        with pytest.raises(trio.ClosedResourceError):
            await reader(near, 64)()
        assert number in others
    finally:
        for other in others:
            os.close(other)


async def test_other_streams_are_not_watched(pair: tuple[trio.SocketStream, socket.socket]) -> None:
    assert readable(pair[0])
    assert not readable(memory_stream_pair()[0])
    context = ssl.create_default_context()
    assert readable(TlsStream(pair[0], context, "host"))
    assert not readable(TlsStream(memory_stream_pair()[0], context, "host"))
    assert not readable(trio.SSLStream(pair[0], context, server_hostname="host"))


class Reading:
    """A reader in a task of its own, which keeps what it was given and how it ended."""

    def __init__(self, watch: SocketWatch) -> None:
        self.watch = watch
        self.got: list[bytes | None] = []
        self.error: Exception | None = None
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        try:
            with self.scope:
                while True:
                    self.got.append(await self.watch.read())
                    if self.got[-1] == b"":
                        return
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.error = error


class StandingIn:
    """A stand-in in a task of its own."""

    def __init__(self, watch: SocketWatch) -> None:
        self.watch = watch
        self.readable: bool | None = None
        self.task: trio.lowlevel.Task | None = None
        self.scope = trio.CancelScope()
        self.around = trio.CancelScope()

    async def run(self) -> None:
        self.task = trio.lowlevel.current_task()
        with self.around, self.scope:
            self.readable = await self.watch.stand_in(self.scope)
            if self.readable:
                self.watch.pump()

    @property
    def called_off(self) -> bool:
        return self.scope.cancelled_caught


@pytest.fixture
async def stood_in(
    pair: tuple[trio.SocketStream, socket.socket], nursery: trio.Nursery
) -> tuple[Reading, StandingIn, list[bytes]]:
    """A reader that has read a little, and a stand-in for it."""
    watch, dealt = watch_of(pair[0])
    reading, standing_in = Reading(watch), StandingIn(watch)
    assert not watch.free
    nursery.start_soon(reading.run)
    pair[1].sendall(b"a")
    await wait_all_tasks_blocked(0.01)
    assert reading.got == [b"a"]
    assert watch.free
    nursery.start_soon(standing_in.run)
    await wait_all_tasks_blocked()
    assert not watch.free
    return reading, standing_in, dealt


async def test_a_stand_in_reads_in_the_reader_s_place(
    stood_in: tuple[Reading, StandingIn, list[bytes]], pair: tuple[trio.SocketStream, socket.socket]
) -> None:
    reading, standing_in, dealt = stood_in
    pair[1].sendall(b"b")
    await wait_all_tasks_blocked(0.01)
    assert standing_in.readable
    assert dealt == [b"b"]
    assert reading.got == [b"a"]
    pair[1].sendall(b"c")  # nobody stands in now
    await wait_all_tasks_blocked(0.01)
    assert dealt == [b"b"]
    assert reading.got == [b"a", b"c"]


@pytest.mark.parametrize("how", ["called off", "cancelled"])
async def test_the_reader_is_back_when_its_stand_in_leaves(
    stood_in: tuple[Reading, StandingIn, list[bytes]],
    pair: tuple[trio.SocketStream, socket.socket],
    how: str,
) -> None:
    reading, standing_in, dealt = stood_in
    if how == "called off":
        reading.watch.call_off()
    else:
        standing_in.around.cancel()
    await wait_all_tasks_blocked()
    assert standing_in.readable is None
    assert standing_in.called_off is (how == "called off")
    pair[1].sendall(b"b")
    await wait_all_tasks_blocked(0.01)
    assert reading.got == [b"a", b"b"]
    assert not dealt


async def test_a_stand_in_that_has_gone_before_the_reader_rests_is_noticed(
    pair: tuple[trio.SocketStream, socket.socket], nursery: trio.Nursery
) -> None:
    """Chance decides which of the two runs first; what it has read must not be lost."""
    watch, dealt = watch_of(pair[0], done=False)
    reading = Reading(watch)
    nursery.start_soon(reading.run)
    for _ in range(20):
        pair[1].sendall(b"a")
        await wait_all_tasks_blocked(0.005)
        reading.got.clear()
        pair[1].sendall(b"b")  # and before anybody has been told:
        scope = trio.CancelScope()
        with scope:
            if await watch.stand_in(scope):
                watch.pump()
        await wait_all_tasks_blocked(0.005)
        assert reading.got == [None]
        assert dealt == [b"b"]
        dealt.clear()


class Before(trio.abc.Instrument):
    """Calls off a stand-in whose socket was found readable, just before it runs."""

    def __init__(self, standing_in: StandingIn) -> None:
        self.standing_in = standing_in
        self.did = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.standing_in.task and not self.did:
            self.did = True
            self.standing_in.watch.call_off()


async def test_a_stand_in_called_off_in_the_last_moment_leaves_the_socket_to_the_reader(
    stood_in: tuple[Reading, StandingIn, list[bytes]], pair: tuple[trio.SocketStream, socket.socket]
) -> None:
    """It was to run anyway, but whatever it did would be done in a cancelled scope."""
    reading, standing_in, dealt = stood_in
    before = Before(standing_in)
    trio.lowlevel.add_instrument(before)
    try:
        pair[1].sendall(b"b")
        await wait_all_tasks_blocked(0.01)
    finally:
        trio.lowlevel.remove_instrument(before)
    assert before.did
    assert standing_in.called_off
    assert reading.got == [b"a", b"b"]
    assert not dealt


async def test_a_scope_serves_for_many_waits(
    stood_in: tuple[Reading, StandingIn, list[bytes]],
    pair: tuple[trio.SocketStream, socket.socket],
    nursery: trio.Nursery,
) -> None:
    """Only a stand-in that waits is called off, not one that has waited."""
    reading, standing_in, dealt = stood_in
    pair[1].sendall(b"b")
    await wait_all_tasks_blocked(0.01)
    reading.watch.call_off()
    assert not standing_in.scope.cancel_called
    assert dealt == [b"b"]


async def test_without_a_reader_nobody_stands_in(
    stood_in: tuple[Reading, StandingIn, list[bytes]], pair: tuple[trio.SocketStream, socket.socket]
) -> None:
    reading, standing_in, dealt = stood_in
    reading.scope.cancel()
    await wait_all_tasks_blocked()
    assert standing_in.called_off
    assert not reading.watch.free
    pair[1].sendall(b"b")
    reading.watch.pump()  # as if it had been woken in the same step
    assert not dealt
    assert await reading.watch.read() == b"b"


async def test_nobody_stands_in_for_a_reader_that_has_yet_to_hear_that_its_socket_is_closed(
    pair: tuple[trio.SocketStream, socket.socket], nursery: trio.Nursery
) -> None:
    watch, _ = watch_of(pair[0])
    reading = Reading(watch)
    nursery.start_soon(reading.run)
    pair[1].sendall(b"a")
    await wait_all_tasks_blocked(0.01)
    assert watch.free
    pair[0].socket.close()
    assert not watch.free
    await wait_all_tasks_blocked()
    assert isinstance(reading.error, trio.ClosedResourceError)


class Settling:
    """What a socket brings, with something to settle whose end the test decides."""

    def __init__(self) -> None:
        self.unsettled = False
        self.may_end = trio.Event()

    read_now = staticmethod(os.read)

    async def settle(self) -> bytes | None:
        await self.may_end.wait()
        self.unsettled = False
        return None


async def test_while_the_reader_settles_nobody_stands_in(
    pair: tuple[trio.SocketStream, socket.socket], nursery: trio.Nursery
) -> None:
    """A stand-in could leave work, and the reader find the end of the data first."""
    source = Settling()
    watch = SocketWatch(pair[0], source, lambda _data: True, receive_size=64)
    reading = Reading(watch)
    nursery.start_soon(reading.run)
    pair[1].sendall(b"a")
    await wait_all_tasks_blocked(0.01)
    assert watch.free
    source.unsettled = True
    pair[1].sendall(b"b")
    await wait_all_tasks_blocked(0.01)
    assert reading.got == [b"a", b"b"]
    assert not watch.free
    source.may_end.set()
    await wait_all_tasks_blocked(0.01)
    pair[1].sendall(b"c")
    await wait_all_tasks_blocked(0.01)
    assert reading.got == [b"a", b"b", b"c"]
    assert watch.free


async def test_where_much_comes_at_once_nobody_stands_in(
    pair: tuple[trio.SocketStream, socket.socket], nursery: trio.Nursery
) -> None:
    watch, _ = watch_of(pair[0])
    reading = Reading(watch)
    nursery.start_soon(reading.run)
    pair[1].sendall(bytes(5000))
    await wait_all_tasks_blocked(0.01)
    assert not watch.free
    pair[1].sendall(b"a")
    await wait_all_tasks_blocked(0.01)
    assert watch.free


async def test_what_a_stand_in_cannot_finish_is_left_to_the_reader(
    pair: tuple[trio.SocketStream, socket.socket], nursery: trio.Nursery
) -> None:
    watch, dealt = watch_of(pair[0], done=False)
    reading = Reading(watch)
    nursery.start_soon(reading.run)
    for byte in (b"a", b"c"):
        pair[1].sendall(byte)
        await wait_all_tasks_blocked(0.01)
        nursery.start_soon(StandingIn(watch).run)
        await wait_all_tasks_blocked()
        pair[1].sendall(b"b")
        await wait_all_tasks_blocked(0.01)
        assert not watch.free  # the reader has to read something itself first
    assert reading.got == [b"a", None, b"c", None]
    assert dealt == [b"b", b"b"]


@pytest.mark.parametrize("how", ["closed there", "reset", "closed here"])
async def test_the_end_is_the_reader_s(
    stood_in: tuple[Reading, StandingIn, list[bytes]],
    pair: tuple[trio.SocketStream, socket.socket],
    how: str,
) -> None:
    reading, standing_in, dealt = stood_in
    near, far = pair
    if how == "closed there":
        far.close()
    elif how == "reset":
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
    else:
        await near.aclose()
    await wait_all_tasks_blocked(0.01)
    assert standing_in.readable is (how != "closed here")
    assert not reading.watch.free
    assert not dealt
    if how == "closed there":
        assert reading.got == [b"a", None, b""]
    else:
        assert reading.got == ([b"a"] if how == "reset" else [b"a", None])
        assert isinstance(
            reading.error, trio.BrokenResourceError if how == "reset" else trio.ClosedResourceError
        )


async def test_what_a_stand_in_began_is_ended_by_a_reader_that_is_cancelled(
    pair: tuple[trio.SocketStream, socket.socket], nursery: trio.Nursery
) -> None:
    """Ticks without room are in an awaitable: unless it is awaited, none counts."""
    near, far = pair
    ended: list[str] = []

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("counted")

    full = False
    tap = FrameTap(near, lambda _batch: wait() if full else None, max_message_size=1000)
    scope = trio.CancelScope()

    async def read() -> None:
        with scope:
            await tap.receive_some()

    far.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    await tap.receive_some()
    nursery.start_soon(read)
    far.sendall(b"\x82\x01a")
    await wait_all_tasks_blocked(0.01)
    assert tap.watch is not None
    standing_in = StandingIn(tap.watch)
    nursery.start_soon(standing_in.run)
    await wait_all_tasks_blocked()
    full = True
    tap.watch.call_off()
    scope.cancel()
    far.sendall(b"\x82\x01b")
    # In one step: the stand-in has read, and the reader is cancelled before it has run.
    tap.watch.pump()
    await wait_all_tasks_blocked()
    assert tap.messages == 2
    assert ended == ["counted"]


@pytest.mark.parametrize("text", [b"", b"tick"])
async def test_a_stand_in_leaves_to_the_reader_what_tls_wants_to_say(
    nursery: trio.Nursery, text: bytes
) -> None:
    server, client = contexts()
    client.post_handshake_auth = server.post_handshake_auth = True
    server.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.configure_trust(server)
    AUTHORITY.issue_cert("client.test").configure_cert(client)
    async with connected_by_tls(server, client) as pair:
        await pair.far.send_all(b"first")
        assert await pair.read_text() == b"first"
        found, dealt = readable(pair.near), list[bytes]()
        assert found is not None

        def deal(data: bytes) -> bool:
            dealt.append(data)
            return True

        watch = SocketWatch(*found, deal, receive_size=4096)
        reading, standing_in = Reading(watch), StandingIn(watch)
        nursery.start_soon(reading.run)
        await wait_all_tasks_blocked()
        nursery.start_soon(standing_in.run)
        await wait_all_tasks_blocked()
        pair.far.ask_for_certificate()
        if text:
            pair.far.tls.write(text)
        await pair.far.stream.send_all(pair.far.records())

        def has_answer() -> bool:
            # It answers while nobody here sends anything.
            try:
                return pair.far.tls.getpeercert() is not None
            except ValueError:
                return False  # as long as the server waits for it

        async with trio.open_nursery() as answering:
            answering.start_soon(pair.far.receive_some)
            await until(has_answer)
            answering.cancel_scope.cancel()
        assert (standing_in.readable, dealt) == (True, [text] if text else [])
        assert reading.got == [None]
        reading.scope.cancel()


class Venue:
    """A WebSocket server that sends what it is told to, to its latest client."""

    def __init__(self) -> None:
        self.ws: WebSocketConnection | None = None

    async def serve(self, request: WebSocketRequest) -> None:
        self.ws = ws = await request.accept()
        try:
            while True:
                await ws.get_message()
        except ConnectionClosed:
            pass

    async def say(self, *volumes: int) -> None:
        assert self.ws is not None
        for volume in volumes:
            await self.ws.send_message(quote(volume=volume))


TLS = Tls.make()


async def serving(nursery: trio.Nursery, tls: ssl.SSLContext | None = None) -> tuple[Venue, str]:
    venue = Venue()
    server = await nursery.start(
        lambda task_status: serve_websocket(
            venue.serve, "127.0.0.1", 0, tls, task_status=task_status
        )
    )
    return (
        venue,
        f"ws://127.0.0.1:{server.port}" if tls is None else f"wss://localhost:{server.port}",
    )


@pytest.fixture
async def venue(nursery: trio.Nursery) -> tuple[Venue, str]:
    return await serving(nursery)


@pytest.fixture
def pumps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that have read in a reader's place."""
    tasks: list[str] = []
    pump = SocketWatch.pump

    def spy(self: SocketWatch) -> None:
        tasks.append(trio.lowlevel.current_task().name)
        pump(self)

    monkeypatch.setattr(SocketWatch, "pump", spy)
    return tasks


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while True:
            if condition():
                return
            await trio.sleep(0.001)


async def connected(venue: Venue) -> None:
    await until(lambda: venue.ws is not None)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_lone_ticks_are_read_by_workers(
    nursery: trio.Nursery, pumps: list[str], workers: int, secure: bool
) -> None:
    there, url = await serving(nursery, TLS.server if secure else None)
    seen: list[int] = []

    async def handler(tick: tt.Tick) -> None:
        seen.append(int(tick.volume))

    async with tt.open_pipeline(
        tt.WebSocketFeed(url, ["SPY"], ssl_context=TLS.client if secure else None),
        handler,
        workers=workers,
        overflow=tt.Block(),
    ) as pipeline:
        await connected(there)
        for volume in range(50):
            await there.say(volume)
            await until(lambda: len(seen) > volume)  # noqa: B023
            pipeline.ledger.check()
        assert there.ws is not None
        with trio.fail_after(PATIENCE_S):
            await there.ws.ping()  # the reader answers, whoever has read it
        await there.say(50, 51, 52)
        await until(lambda: len(seen) == 53)
        pipeline.cancel()
    assert seen == list(range(53))
    assert len(pumps) > 40
    assert all(name.startswith("trio_ticks loop-") for name in pumps)
    pipeline.ledger.check()


@pytest.mark.parametrize("how", ["in threads", "in batches"])
async def test_only_workers_that_begin_at_once_read(
    venue: tuple[Venue, str], pumps: list[str], how: str
) -> None:
    there, url = venue
    seen: list[int] = []

    def in_thread(tick: tt.Tick) -> None:
        seen.append(int(tick.volume))

    @tt.batch_handler(max_size=10)
    async def in_batch(ticks: Sequence[tt.Tick]) -> None:
        seen.extend(int(tick.volume) for tick in ticks)

    handler: Any = in_thread if how == "in threads" else in_batch
    async with tt.open_pipeline(
        tt.WebSocketFeed(url, ["SPY"]), handler, workers=2, overflow=tt.Block()
    ) as pipeline:
        await connected(there)
        for volume in range(20):
            await there.say(volume)
            await until(lambda: len(seen) > volume)  # noqa: B023
        pipeline.cancel()
    assert seen == list(range(20))
    assert not pumps


async def test_while_a_worker_waits_in_its_handler_others_get_what_comes(
    venue: tuple[Venue, str], pumps: list[str]
) -> None:
    there, url = venue
    seen: list[int] = []
    go_on = trio.Event()

    async def handler(tick: tt.Tick) -> None:
        seen.append(int(tick.volume))
        if tick.volume == 9:
            await go_on.wait()

    async with tt.open_pipeline(
        tt.WebSocketFeed(url, ["SPY"]), handler, workers=2, ordering="none", overflow=tt.Block()
    ) as pipeline:
        await connected(there)
        for volume in range(20):
            await there.say(volume)
            await until(lambda: len(seen) > volume)  # noqa: B023
        assert seen == list(range(20))
        pipeline.ledger.check()
        assert pipeline.ledger.in_flight == 1
        go_on.set()
        pipeline.cancel()
    pipeline.ledger.check()
    assert pumps


async def test_a_full_queue_waits_though_a_worker_has_read(
    venue: tuple[Venue, str], pumps: list[str]
) -> None:
    """The worker brings in more than there is room for.

    It cannot wait for room, since only the worker itself can make room.
    """
    there, url = venue
    seen: list[int] = []

    async def handler(tick: tt.Tick) -> None:
        seen.append(int(tick.volume))

    async with tt.open_pipeline(
        tt.WebSocketFeed(url, ["SPY"]), handler, workers=1, maxsize=1, overflow=tt.Block()
    ) as pipeline:
        await connected(there)
        for first in range(0, 300, 3):
            await there.say(first, first + 1, first + 2)
            if first % 9 == 0:
                await until(lambda: len(seen) == first + 3)  # noqa: B023
            pipeline.ledger.check()
        await until(lambda: len(seen) == 300)
        pipeline.cancel()
    assert seen == list(range(300))
    assert pumps
    assert pipeline.ledger.dropped == 0


async def test_a_pool_shrinks_though_its_workers_stand_in(
    venue: tuple[Venue, str], pumps: list[str]
) -> None:
    there, url = venue
    seen: list[int] = []

    async def handler(tick: tt.Tick) -> None:
        seen.append(int(tick.volume))

    async with open_with_pool(
        tt.WebSocketFeed(url, ["SPY"]), handler, workers=3, overflow=tt.Block()
    ) as (pipeline, pool):
        await connected(there)
        for volume in range(10):
            await there.say(volume)
            await until(lambda: len(seen) > volume)  # noqa: B023
        assert pumps
        pool.shrink(2)
        await until(lambda: len(pool.crew.workers) == 1)
        assert pool.crew.state.sleepers.sleeping + pool.crew.state.sleepers.coming <= 1
        for volume in range(10, 20):
            await there.say(volume)
            await until(lambda: len(seen) > volume)  # noqa: B023
        pipeline.cancel()
    assert seen == list(range(20))
    pipeline.ledger.check()


@pytest.mark.parametrize("workers", [1, 3])
async def test_workers_that_stand_in_for_one_feed_are_there_for_another(
    venue: tuple[Venue, str], pumps: list[str], workers: int
) -> None:
    """They are called off for its ticks, handle and time them all, and go back."""
    there, url = venue
    seen: list[int] = []

    async def handler(tick: tt.Tick) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(int(tick.volume))

    feed = tt.WebSocketFeed(url, ["SPY"])
    others: list[TickSendChannel[tt.Tick]] = []

    async def script(send: TickSendChannel[tt.Tick]) -> None:
        others.append(send.clone())
        await feed.run(send)

    async with open_with_pool(
        ScriptFeed(script), handler, workers=workers, overflow=tt.Block()
    ) as (pipeline, pool):
        state = pool.crew.state
        await connected(there)
        (other,) = others
        for volume in range(0, 40, 2):
            await there.say(volume)
            await until(lambda: len(seen) > volume)  # noqa: B023
            await until(
                lambda: (
                    state.sleepers.sleeping == workers
                    and (volume == 0 or bool(state.sleepers.standing_in))  # noqa: B023
                )
            )
            for worker in pool.crew.workers:
                worker.untimed = 9  # as if it had been the first of many
            timed = max(worker.timed_at for worker in pool.crew.workers)
            await other.send(make_tick("SPY", volume + 1))
            await until(lambda: len(seen) > volume + 1)  # noqa: B023
            if workers == 1:
                assert pool.crew.workers[0].timed_at > timed
            pipeline.ledger.check()
        other.close()
        pipeline.cancel()
    assert seen == list(range(40))
    assert pumps


@pytest.fixture
async def listening(
    pair: tuple[trio.SocketStream, socket.socket], nursery: trio.Nursery
) -> tuple[TickSendChannel[tt.Tick], TickReceiveChannel[tt.Tick], list[str]]:
    """Give a channel whose only receiver stands in for a reader, and what it did."""
    send: TickSendChannel[tt.Tick]
    receive: TickReceiveChannel[tt.Tick]
    send, receive = tt.open_tick_channel(10)
    watch, _ = watch_of(pair[0])
    nursery.start_soon(Reading(watch).run)
    pair[1].sendall(b"a")
    await wait_all_tasks_blocked(0.01)
    send.watches.append(watch)
    news: list[str] = []

    async def run() -> None:
        with trio.CancelScope() as scope:
            await receive.wait_or_read(scope)
        news.append("called off" if scope.cancelled_caught else "read")

    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    assert receive.state.sleepers.standing_in == [watch]
    assert receive.state.sleepers.sleeping == 1
    return send, receive, news


@pytest.mark.parametrize("how", ["sent", "ended", "read"])
async def test_who_stands_in_is_there_for_the_channel_too(
    listening: tuple[TickSendChannel[tt.Tick], TickReceiveChannel[tt.Tick], list[str]],
    pair: tuple[trio.SocketStream, socket.socket],
    how: str,
) -> None:
    send, receive, news = listening
    if how == "sent":
        await send.send_many(make_ticks(2))
    elif how == "ended":
        send.close()
    else:
        pair[1].sendall(b"b")
    await wait_all_tasks_blocked(0.01)
    assert news == ["read" if how == "read" else "called off"]
    state = receive.state
    sleepers = state.sleepers
    assert (sleepers.sleeping, sleepers.coming, sleepers.standing_in) == (0, 0, [])
    if how == "sent":
        assert numbers(await receive.receive_many()) == [0, 1]
    elif how == "ended":
        with pytest.raises(trio.EndOfChannel):
            await receive.wait_or_read(trio.CancelScope())


async def rattle(ws: WebSocketConnection, count: int, random: Random) -> None:
    """Send *count* quotes, one by one and in heaps, with pings between.

    Some follow after a pause, some without.
    """
    sent = 0
    while sent < count:
        for _ in range(min(random.choice([1, 1, 1, 1, 2, 5, 40]), count - sent)):
            await ws.send_message(quote(random.choice(["SPY", "QQQ"]), volume=sent))
            sent += 1
        if random.random() < 0.1:
            await ws.ping()  # and wait for the answer
        if random.random() < 0.6:
            await trio.sleep(random.random() * 0.002)


@pytest.mark.parametrize("seed", range(24))
async def test_whatever_the_rhythm_all_of_it_is_handled_once(
    venue: tuple[Venue, str], pumps: list[str], seed: int
) -> None:
    """Small queues, handlers that wait at times, pings.

    Reader and workers change places at every possible moment.
    """
    there, url = venue
    random = Random(seed)
    count, workers = random.choice([200, 400]), random.choice([1, 2, 4])
    seen: list[tuple[str, int]] = []

    async def handler(tick: tt.Tick) -> None:
        seen.append((tick.symbol, int(tick.volume)))
        if random.random() < 0.1:
            await trio.sleep(random.random() * 0.003)
        elif random.random() < 0.1:
            await trio.lowlevel.checkpoint()

    async with tt.open_pipeline(
        tt.WebSocketFeed(url, ["SPY", "QQQ"]),
        handler,
        workers=workers,
        maxsize=random.choice([1, 3, 100]),
        overflow=tt.Block(),
    ) as pipeline:
        await connected(there)
        assert there.ws is not None
        with trio.fail_after(PATIENCE_S):
            await rattle(there.ws, count, random)
        await until(lambda: len(seen) == count)
        pipeline.ledger.check()
        pipeline.cancel()
    pipeline.ledger.check()
    assert sorted(number for _, number in seen) == list(range(count))
    for symbol in ("SPY", "QQQ"):
        numbers_seen = [number for of, number in seen if of == symbol]
        assert numbers_seen == sorted(numbers_seen)
    assert pumps
