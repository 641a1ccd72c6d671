"""The WebSocket feed against scripted venues in memory, on a virtual clock: what it does about everything that can go wrong."""

from __future__ import annotations

import logging
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from trio_websocket import WebSocketConnection
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, TextMessage
from wsproto.utilities import LocalProtocolError

from tests.feed_venues import NO_JITTER, Collector, Log, answers, leave, memory_feed, quote, running, says, stay, tick, websocket
from trio_ticks.channel import TickReceiveChannel, TickSendChannel, open_tick_channel
from trio_ticks.errors import ConfigError, FeedAuthError, FeedBrokenError, QueueFullError
from trio_ticks.feeds.base import Feed, stats_of
from trio_ticks.feeds.options import WebSocketOptions
from trio_ticks.feeds.websocket import WebSocketFeed
from trio_ticks.overflow import Block, DropNewest, DropOldest
from trio_ticks.ticks import Tick

ACK = '{"id":1,"result":{"symbols":["SPY","QQQ"]}}'
REFUSED = OSError(111, "Connection refused")
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
NO_RESOLVER = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


async def forever(feed: WebSocketFeed, send: Collector, *, seconds: float) -> None:
    """Run *feed* for so long, and see that it does not end by itself."""
    with trio.move_on_after(seconds) as scope:
        await feed.run(send)
    assert scope.cancelled_caught


# What it does when all is well.


async def test_subscribes_and_delivers(autojump_clock: MockClock) -> None:
    log, send = Log(), Collector()
    script = websocket(says(ACK, quote("SPY", 1), quote("QQQ", 2).encode(), quote("SPY", 3)), log)
    async with memory_feed(script, url="ws://venue.test/v1/feed?depth=1&x=%20y", api_key="k3y") as (feed, venue):
        async with running(feed, send):
            await send.wait_for(3)
            assert feed.connected
        assert not feed.connected
    assert send.ticks == [tick("SPY", 1), tick("QQQ", 2), tick("SPY", 3)]
    assert log.requests == [{"method": "subscribe", "params": {"symbols": ["SPY", "QQQ"]}, "id": 1}]
    assert log.paths == ["/v1/feed?depth=1&x=%20y"]
    assert log.keys == [b"k3y"]
    assert (feed.stats.messages, feed.ignored, feed.malformed, feed.reconnects) == (4, 1, 0, 0)
    assert stats_of(feed) is feed.stats
    assert isinstance(feed, Feed)
    assert len(venue.dialled_at) == 1


async def test_no_key_no_header(autojump_clock: MockClock) -> None:
    log, send = Log(), Collector()
    async with memory_feed(websocket(says(quote()), log)) as (feed, _), running(feed, send):
        await send.wait_for(1)
    assert log.keys == [None]


async def test_says_goodbye_when_cancelled(autojump_clock: MockClock) -> None:
    log, send = Log(), Collector()
    async with memory_feed(websocket(says(quote()), log)) as (feed, _):
        async with running(feed, send):
            await send.wait_for(1)
            cancelled_at = trio.current_time()
        assert trio.current_time() == cancelled_at
        await trio.testing.wait_all_tasks_blocked()
    assert log.close_codes == [1000]


async def test_bad_messages_cost_no_good_ones(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    send = Collector()
    junk: list[str | bytes] = ["{", b"\xff\x00", '{"symbol":null}', quote().replace('"bid": 1', '"bid": NaN'), "[" * 100_000]
    mixed = [message for bad in junk for message in (bad, quote())]
    async with memory_feed(websocket(says(*mixed))) as (feed, _), running(feed, send):
        await send.wait_for(5)
    assert (feed.malformed, feed.ignored, feed.stats.messages) == (5, 0, 10)
    warnings = [record for record in caplog.records if record.getMessage().startswith("feed.malformed")]
    assert 1 <= len(warnings) <= 2
    assert sum(record.count for record in warnings) == 5  # type: ignore[attr-defined]


async def test_one_run_at_a_time_but_any_number_in_turn(autojump_clock: MockClock) -> None:
    log = Log()
    async with memory_feed(websocket(says(quote()), log)) as (feed, _):
        for _number in range(2):
            send = Collector()
            async with running(feed, send):
                await send.wait_for(1)
                with pytest.raises(trio.BusyResourceError):
                    await feed.run(send)
                assert feed.connected
    assert len(log.requests) == 2


# Coming back.


async def test_reconnects_and_subscribes_again(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    caplog.set_level(logging.INFO, "trio_ticks")
    log, send = Log(), Collector()
    scripts = [websocket(says(quote(volume=n), then=leave), log) for n in range(3)]
    async with memory_feed(*scripts, websocket(says(quote(volume=3)), log)) as (feed, venue), running(feed, send):
        await send.wait_for(4)
        assert feed.connected
        assert feed.reconnects == 3
    assert [item.volume for item in send.ticks] == [0, 1, 2, 3]
    assert [request["params"]["symbols"] for request in log.requests] == [["SPY", "QQQ"]] * 4
    # Data has flowed each time, so each wait is the first of the schedule.
    assert venue.gaps == [1, 1, 1]
    events = [message.split()[0] for message in caplog.messages]
    assert events == ["feed.connected", "feed.disconnected"] * 3 + ["feed.connected"]


async def test_a_server_that_drops_every_connection_does_not_reset_the_backoff(autojump_clock: MockClock) -> None:
    async with memory_feed(websocket(leave)) as (feed, venue):
        await forever(feed, Collector(), seconds=400)
    assert venue.gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]
    assert feed.reconnects == len(venue.gaps)
    assert not feed.connected


@pytest.mark.parametrize("message", [ACK, "junk", '{"type":"heartbeat"}'])
async def test_only_ticks_reset_the_backoff(message: str, autojump_clock: MockClock) -> None:
    async with memory_feed(websocket(says(message, then=leave))) as (feed, venue):
        await forever(feed, Collector(), seconds=40)
    assert venue.gaps == [1, 2, 4, 8, 16]


async def test_the_backoff_begins_anew_after_data(autojump_clock: MockClock) -> None:
    drop, data = websocket(leave), websocket(says(quote(), then=leave))
    async with memory_feed(drop, drop, drop, data, drop, drop) as (feed, venue):
        await forever(feed, Collector(), seconds=12)
    assert venue.gaps == [1, 2, 4, 1, 2]


async def test_full_jitter(autojump_clock: MockClock) -> None:
    draws = iter([0.5, 0.25, 0.0])
    async with memory_feed(REFUSED, backoff=type(NO_JITTER)(uniform=lambda: next(draws, 1.0))) as (feed, venue):
        await forever(feed, Collector(), seconds=8)
    assert venue.gaps == [0.5, 0.5, 0]


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(REFUSED, id="connection refused"),
        pytest.param(OSError("all attempts failed"), id="all attempts failed"),
        pytest.param(TimeoutError(110, "timed out"), id="timed out"),
        pytest.param(ConnectionResetError(104, "reset"), id="reset"),
        pytest.param(answers(""), id="closed in the handshake"),
        pytest.param(answers("HTTP/1.1 1"), id="closed in the status line"),
        pytest.param(answers("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"), id="closed in the headers"),
        pytest.param(answers("SSH-2.0-OpenSSH_9.2\r\n", stays=True), id="not HTTP"),
        pytest.param(answers("\x16\x03\x01", stays=True), id="TLS"),
        pytest.param(answers("HTTP/1.1 101 Switching Protocols\r\n\r\n", stays=True), id="101 and no more"),
        pytest.param(
            answers("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"),
            id="wrong accept",
        ),
        pytest.param(answers("HTTP/1.1 101 S\r\nbad header\r\n\r\n"), id="bad header"),
        pytest.param(answers("HTTP/1.1 103 Early Hints\r\n\r\n"), id="another 1xx"),
        pytest.param(answers("HTTP/1.1 999 ?\r\n\r\n"), id="no such status"),
        pytest.param(answers("HTTP/1.1 200" + "x" * 20_000, stays=True), id="endless head"),
        *(
            pytest.param(answers(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"), id=str(status))
            for status in (408, 425, 429, 500, 502, 503, 504)
        ),
    ],
)
async def test_what_may_pass_is_retried(failure: Any, autojump_clock: MockClock) -> None:
    send = Collector()
    async with memory_feed(failure, failure, failure, websocket(says(quote()))) as (feed, venue), running(feed, send):
        await send.wait_for(1)
    assert feed.stats.connect_failures == 3
    assert feed.reconnects == 0
    # None of them was noticed by a timeout.
    assert venue.gaps == [1, 2, 4]


@pytest.mark.parametrize("text", ["", "HTTP/1.1 ", "HTTP/1.1 101 Switching"])
async def test_a_server_that_does_not_answer(text: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async with memory_feed(answers(text, stays=True), connect_timeout=7) as (feed, venue):
        await forever(feed, Collector(), seconds=18)
    assert venue.gaps == [8, 9]
    assert "no answer within 7 s" in caplog.text


async def test_a_transport_that_does_not_open(autojump_clock: MockClock) -> None:
    dials = []

    async def hang(host: str, port: int) -> trio.abc.Stream:
        dials.append((host, port, trio.current_time()))
        await trio.sleep_forever()
        raise AssertionError

    feed = WebSocketFeed("ws://venue.test:81", ["SPY"], open_stream=hang, connect_timeout=4, backoff=NO_JITTER)
    start = trio.current_time()
    await forever(feed, Collector(), seconds=10)
    assert [(host, port, at - start) for host, port, at in dials] == [("venue.test", 81, 0), ("venue.test", 81, 5)]


async def test_a_server_that_takes_no_subscription(autojump_clock: MockClock) -> None:
    symbols = [f"SYMBOL{number}" for number in range(1000)]

    class Stuck(trio.abc.Stream):
        """Takes the handshake's request, and then nothing more."""

        def __init__(self, stream: trio.abc.Stream) -> None:
            self.stream, self.sent = stream, 0

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            self.sent += 1
            if self.sent > 1:
                await trio.sleep_forever()
            await self.stream.send_all(data)

        async def wait_send_all_might_not_block(self) -> None:
            await self.stream.wait_send_all_might_not_block()

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            return await self.stream.receive_some(max_bytes)

        async def aclose(self) -> None:
            await self.stream.aclose()

    async with memory_feed(websocket(stay)) as (_, venue):

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            return Stuck(await venue.open_stream(host, port))

        feed = WebSocketFeed("ws://x", symbols, open_stream=open_stream, connect_timeout=5, backoff=NO_JITTER)
        await forever(feed, Collector(), seconds=20)
    # 5 s until it is given up, at most 1 for closing, and the wait.
    assert len(venue.dialled_at) >= 2
    assert 6 <= venue.gaps[0] <= 7


async def test_refused_for_ever_is_retried_for_ever(autojump_clock: MockClock) -> None:
    async with memory_feed(REFUSED) as (feed, venue):
        await forever(feed, Collector(), seconds=24 * 3600)
    assert len(venue.dialled_at) > 1400
    assert feed.stats.connect_failures == len(venue.dialled_at)


@pytest.mark.parametrize("script", [REFUSED, websocket(leave)], ids=["refused", "dropped"])
async def test_a_bound_on_the_tries(script: Any, autojump_clock: MockClock) -> None:
    async with memory_feed(script, max_tries=4) as (feed, venue):
        with pytest.raises(FeedBrokenError, match="tried 4 times") as caught:
            await feed.run(Collector())
    assert len(venue.dialled_at) == caught.value.attempts == 4
    assert (caught.value.url, caught.value.status) == ("ws://venue.test/feed", None)


async def test_data_begins_the_tries_anew(autojump_clock: MockClock) -> None:
    drop, data = websocket(leave), websocket(says(quote(), then=leave))
    async with memory_feed(drop, data, drop, data, drop, drop, drop, max_tries=3) as (feed, venue):
        with pytest.raises(FeedBrokenError):
            await feed.run(Collector())
    assert len(venue.dialled_at) == 7


# What ends it.


def closes(code: int) -> Any:
    async def close(ws: WebSocketConnection) -> None:
        await ws.aclose(code, "so long")

    return close


@pytest.mark.parametrize("code", [1000, 1001])
async def test_an_orderly_close_can_be_the_end(code: int, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    send = Collector()
    caplog.set_level(logging.INFO)
    async with memory_feed(websocket(says(quote(volume=1), quote(volume=2), then=closes(code))), reconnect=False) as (feed, venue):
        await feed.run(send)
    assert [tick.volume for tick in send.ticks] == [1, 2]
    assert len(venue.dialled_at) == 1
    assert not feed.connected
    (line,) = [record for record in caplog.records if "feed.ended" in record.getMessage()]
    assert (line.levelname, line.__dict__["code"], line.__dict__["reason"]) == ("INFO", code, "so long")
    assert not any(record.levelno >= logging.WARNING for record in caplog.records)


async def test_another_end_than_an_orderly_close_is_no_end(autojump_clock: MockClock) -> None:
    send = Collector()

    async def cut(ws: WebSocketConnection) -> None:
        await trio.aclose_forcefully(ws._stream)

    scripts = [websocket(says(quote(volume=n), then=then)) for n, then in enumerate([cut, closes(1011), closes(4000), closes(1000)])]
    async with memory_feed(*scripts, reconnect=False) as (feed, venue):
        await feed.run(send)
    assert [tick.volume for tick in send.ticks] == [0, 1, 2, 3]
    assert len(venue.dialled_at) == 4


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("key", ["k3y", None])
async def test_refused_credentials(status: int, key: str | None, autojump_clock: MockClock) -> None:
    refusal = answers(f"HTTP/1.1 {status} No\r\nContent-Type: text/plain\r\n\r\nno such key: k3y", stays=True)
    async with memory_feed(refusal, api_key=key) as (feed, venue):
        with pytest.raises(FeedAuthError) as caught:
            await feed.run(Collector())
    assert len(venue.dialled_at) == 1
    assert (caught.value.status, caught.value.url, caught.value.attempts) == (status, "ws://venue.test/feed", 1)
    assert "k3y" not in str(caught.value)
    assert ("check the api_key" if key else "no api_key was given") in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert not feed.connected
    assert feed.stats.connect_failures == 1


@pytest.mark.parametrize("status", [200, 204, 301, 302, 400, 404, 405, 407, 410, 426, 451, 499])
@pytest.mark.parametrize("stays", [False, True], ids=["closes", "stays"])
async def test_statuses_that_end_it(status: int, stays: bool, autojump_clock: MockClock) -> None:
    # Without a length, and kept open: nothing says where the body ends.
    async with memory_feed(answers(f"HTTP/1.1 {status} X\r\nLocation: /x\r\n\r\n<html>", stays=stays)) as (feed, venue):
        start = trio.current_time()
        with pytest.raises(FeedBrokenError, match=f"answered {status}") as caught:
            await feed.run(Collector())
        assert trio.current_time() == start
    assert not isinstance(caught.value, FeedAuthError)
    assert (caught.value.status, len(venue.dialled_at)) == (status, 1)


async def test_a_refusal_in_pieces(autojump_clock: MockClock) -> None:
    async def script(stream: trio.abc.Stream) -> None:
        for byte in b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\n":
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.1)

    async with memory_feed(script) as (feed, _):
        with pytest.raises(FeedBrokenError, match=r"answered 404 Not Found$"):
            await feed.run(Collector())


async def test_a_refusal_whose_headers_never_end(autojump_clock: MockClock) -> None:
    async with memory_feed(answers("HTTP/1.1 403 Forbidden\r\nA: b\r\n", stays=True), connect_timeout=3) as (feed, venue):
        with pytest.raises(FeedAuthError):
            await feed.run(Collector())
    assert len(venue.dialled_at) == 1


async def test_unknown_host(autojump_clock: MockClock) -> None:
    async with memory_feed(UNKNOWN) as (feed, venue):
        with pytest.raises(FeedBrokenError, match=r"cannot look up the host 'venue\.test'.*tried 5 times") as caught:
            await feed.run(Collector())
    assert venue.gaps == [1, 2, 4, 8]
    assert isinstance(caught.value.__cause__, socket.gaierror)
    assert caught.value.attempts == 5


async def test_unknown_host_tries_can_be_set(autojump_clock: MockClock) -> None:
    async with memory_feed(UNKNOWN, max_unknown_host_tries=2) as (feed, venue):
        with pytest.raises(FeedBrokenError):
            await feed.run(Collector())
    assert len(venue.dialled_at) == 2


async def test_unknown_host_must_be_so_in_a_row(autojump_clock: MockClock) -> None:
    async with memory_feed(UNKNOWN, UNKNOWN, REFUSED, UNKNOWN, UNKNOWN, websocket(leave), UNKNOWN, max_unknown_host_tries=3) as (
        feed,
        venue,
    ):
        with pytest.raises(FeedBrokenError):
            await feed.run(Collector())
    assert len(venue.dialled_at) == 9


async def test_no_resolver_ends_it_only_where_nothing_ever_worked(autojump_clock: MockClock) -> None:
    async with memory_feed(NO_RESOLVER) as (feed, venue):
        with pytest.raises(FeedBrokenError):
            await feed.run(Collector())
    assert len(venue.dialled_at) == 5
    send = Collector()
    script = websocket(says(quote(), then=leave))
    async with memory_feed(script, *[NO_RESOLVER] * 20, script) as (feed, venue), running(feed, send):
        await send.wait_for(2)


async def test_an_error_of_the_channel_comes_out_as_itself(autojump_clock: MockClock) -> None:
    async def full(_number: int) -> None:
        raise QueueFullError("full", maxsize=1)

    async def broken(_number: int) -> None:
        raise trio.BrokenResourceError("nobody listens")

    async def bug(_number: int) -> None:
        raise RuntimeError("bug")

    for behave, kind in ((full, QueueFullError), (broken, trio.BrokenResourceError), (bug, RuntimeError)):
        log = Log()
        async with memory_feed(websocket(says(quote()), log)) as (feed, venue):
            with trio.fail_after(60), pytest.raises(kind) as caught:
                await feed.run(Collector(behave))
            assert type(caught.value) is kind
            assert len(venue.dialled_at) == 1
            await trio.testing.wait_all_tasks_blocked()
        assert log.close_codes == [1001]
        assert not feed.connected


# Retry-After.


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_seconds(status: int, autojump_clock: MockClock) -> None:
    busy = answers(f"HTTP/1.1 {status} Busy\r\nretry-AFTER:  17 \r\n\r\n")
    send = Collector()
    async with memory_feed(busy, busy, websocket(says(quote()))) as (feed, venue), running(feed, send):
        await send.wait_for(1)
    assert venue.gaps == [17, 17]


async def test_retry_after_is_bounded_and_does_not_shorten(autojump_clock: MockClock) -> None:
    scripts = [answers(f"HTTP/1.1 429 X\r\nRetry-After: {value}\r\n\r\n") for value in ("86400", "0", "soon")]
    async with memory_feed(*scripts) as (feed, venue):
        await forever(feed, Collector(), seconds=307)
    assert venue.gaps == [300, 2, 4]


async def test_retry_after_date(autojump_clock: MockClock) -> None:
    def later(seconds: float) -> str:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)

    scripts = [answers(f"HTTP/1.1 503 X\r\nRetry-After: {value}\r\n\r\n") for value in (later(3600), later(-3600), later(100))]
    async with memory_feed(*scripts, backoff=NO_JITTER) as (feed, venue):
        await forever(feed, Collector(), seconds=500)
    first, second, third = venue.gaps[:3]
    assert (first, second) == (300, 2)
    assert 90 < third <= 100


# Dead and stale connections.


async def test_a_silent_server_trips_the_watchdog(autojump_clock: MockClock) -> None:
    # trio-websocket answers pings for it: what is silent is the venue, not the connection.
    log = Log()
    async with memory_feed(websocket(says(ACK), log)) as (feed, venue):
        await forever(feed, Collector(), seconds=125)
    assert venue.gaps == [61, 62]
    assert feed.stats.watchdog_trips == 2
    assert feed.reconnects == 2
    assert log.close_codes[:2] == [1001, 1001]
    assert len(log.requests) == 3


async def test_the_watchdog_counts_from_the_last_message(autojump_clock: MockClock) -> None:
    async def heartbeats(ws: WebSocketConnection) -> None:
        for _ in range(5):
            await trio.sleep(9)
            await ws.send_message('{"type":"heartbeat"}')
        await stay(ws)

    async with memory_feed(websocket(heartbeats), stale_after=10) as (feed, venue):
        await forever(feed, Collector(), seconds=57)
    assert venue.gaps == [56]


async def test_the_watchdog_can_be_switched_off(autojump_clock: MockClock) -> None:
    async with memory_feed(websocket(stay), stale_after=None) as (feed, venue):
        await forever(feed, Collector(), seconds=24 * 3600)
    assert len(venue.dialled_at) == 1


def deaf(accept_then: bytes = b"") -> Any:
    """Make a script that shakes hands, and then neither reads nor answers, but may go on sending."""

    async def script(stream: trio.abc.Stream) -> None:
        server = WSConnection(ConnectionType.SERVER)
        while not list(server.events()):
            server.receive_data(bytes(await stream.receive_some(4096)))
        await stream.send_all(server.send(AcceptConnection()))
        while accept_then:
            try:
                await stream.send_all(server.send(TextMessage(accept_then.decode())))
            except trio.BrokenResourceError:
                return
            await trio.sleep(1)
        await trio.sleep_forever()

    return script


async def test_no_pong_means_dead(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    async with memory_feed(deaf()) as (feed, venue):
        await forever(feed, Collector(), seconds=33)
    # 20 s to the ping, 10 s for the pong, at most 1 s for a goodbye that nobody hears, 1 s of backoff.
    assert len(venue.gaps) == 1
    assert 31 <= venue.gaps[0] <= 32
    assert feed.stats.watchdog_trips == 0
    assert "no pong within 10 s" in caplog.text


async def test_data_is_no_pong(autojump_clock: MockClock) -> None:
    async with memory_feed(deaf(quote().encode()), ping_interval=3, pong_timeout=2) as (feed, venue):
        send = Collector()
        await forever(feed, send, seconds=7.5)
    assert len(venue.dialled_at) == 2
    assert len(send.ticks) >= 5


async def test_pings_can_be_switched_off(autojump_clock: MockClock) -> None:
    async with memory_feed(deaf(quote().encode()), ping_interval=None) as (feed, venue):
        await forever(feed, Collector(), seconds=3600)
    assert len(venue.dialled_at) == 1


async def test_a_server_that_answers_pings_is_alive(autojump_clock: MockClock) -> None:
    async with memory_feed(websocket(stay), stale_after=None, ping_interval=1, pong_timeout=0.5) as (feed, venue):
        await forever(feed, Collector(), seconds=1000)
    assert len(venue.dialled_at) == 1


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_channel_that_blocks_is_not_the_venues_fault(number: int, autojump_clock: MockClock) -> None:
    """Neither pong nor message can be seen while the channel holds the reader: ten minutes of that kill no connection."""

    async def block(_number: int) -> None:
        await trio.sleep(600)

    async def talk(ws: WebSocketConnection) -> None:
        for volume in range(number):
            await ws.send_message(quote(volume=volume))
            await trio.sleep(5)
        await stay(ws)

    send = Collector(block)
    async with memory_feed(websocket(talk)) as (feed, venue):
        await forever(feed, send, seconds=600 * min(number, 2) + 50)  # what came meanwhile is one batch
    assert len(send.ticks) == number
    assert len(venue.dialled_at) == 1
    assert feed.stats.watchdog_trips == 0


async def test_a_channel_that_hardly_lets_us_read_is_not_the_venues_fault_either(autojump_clock: MockClock) -> None:
    async def block(_number: int) -> None:
        await trio.sleep(100)

    # There is always a batch waiting, so no time at all is spent in listening: that there is no pong means nothing.
    async with memory_feed(deaf(quote().encode()), stale_after=None) as (feed, venue):
        await forever(feed, Collector(block), seconds=2000)
        assert len(venue.dialled_at) == 1


# Broken protocol.


async def test_a_message_over_the_limit(autojump_clock: MockClock) -> None:
    log, send = Log(), Collector()
    scripts = [websocket(says(quote(volume=1), "x" * 1001, quote(volume=2)), log), websocket(says(quote(volume=3)), log)]
    async with memory_feed(*scripts, max_message_size=1000) as (feed, _), running(feed, send):
        await send.wait_for(2)
        assert feed.malformed == 1
        assert feed.reconnects == 1
    assert [item.volume for item in send.ticks] == [1, 3]
    assert log.close_codes[0] == 1009


async def test_a_message_at_the_limit(autojump_clock: MockClock) -> None:
    send = Collector()
    exact = quote() + " " * (1000 - len(quote()))
    async with memory_feed(websocket(says(exact)), max_message_size=1000) as (feed, _), running(feed, send):
        await send.wait_for(1)
    assert feed.malformed == 0


async def test_broken_frames_are_answered_and_retried(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    send = Collector()
    replies: list[int] = []

    async def script(stream: trio.abc.Stream) -> None:
        server = WSConnection(ConnectionType.SERVER)
        while not list(server.events()):
            server.receive_data(bytes(await stream.receive_some(4096)))
        await stream.send_all(server.send(AcceptConnection()))
        await stream.send_all(b"\xf1\x00")
        while data := await stream.receive_some(4096):
            server.receive_data(bytes(data))
            replies.extend(event.code for event in server.events() if isinstance(event, CloseConnection))
        await stream.aclose()

    async with memory_feed(script, websocket(says(quote()))) as (feed, _), running(feed, send):
        await send.wait_for(1)
    assert replies == [1002]
    assert feed.malformed == 0
    assert "code=1002" in caplog.text


class Crashing(trio.abc.Stream):
    """Fails in a way that streams do not, when the handshake is over."""

    def __init__(self, stream: trio.abc.Stream, error: BaseException) -> None:
        self.stream, self.errors = stream, [error]

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.stream.receive_some(max_bytes)
        if self.errors and not data.startswith(b"HTTP"):
            raise self.errors.pop()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


class Emergency(BaseException):
    pass


@pytest.mark.parametrize("error", [RuntimeError("bug"), Emergency("stop"), ExceptionGroup("two", [ValueError(), KeyError()])], ids=repr)
async def test_what_nobody_expects_comes_out_as_itself(error: BaseException, autojump_clock: MockClock) -> None:
    async with memory_feed(websocket(says(quote()))) as (_, venue):

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            return Crashing(await venue.open_stream(host, port), error)

        feed = WebSocketFeed("ws://x", ["SPY"], open_stream=open_stream)
        with pytest.raises(type(error)) as caught:
            await feed.run(Collector())
    # A group has been through nurseries, which make new ones of its parts.
    assert caught.value is error or isinstance(error, ExceptionGroup)


async def test_a_protocol_error_inside_trio_websocket_is_retried(autojump_clock: MockClock) -> None:
    async with memory_feed(websocket(says(quote()))) as (_, venue):

        async def open_stream(host: str, port: int) -> trio.abc.Stream:
            return Crashing(await venue.open_stream(host, port), LocalProtocolError("pong after close"))

        feed = WebSocketFeed("ws://x", ["SPY"], open_stream=open_stream, max_tries=3)
        with pytest.raises(FeedBrokenError, match="tried 3 times"):
            await feed.run(Collector())
    assert feed.reconnects == 2


names = st.sampled_from(
    [b"Upgrade", b"Connection", b"Sec-WebSocket-Accept", b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"X", b""]
)
values = st.sampled_from([b"websocket", b"Upgrade", b"permessage-deflate", b",;=\x00", b"\xff\xfe", b""]) | st.binary(max_size=10)
heads = st.lists(st.tuples(names, values), max_size=6).map(lambda pairs: b"".join(name + b": " + value + b"\r\n" for name, value in pairs))


@given(heads | st.binary(max_size=60), st.binary(max_size=60))
@settings(deadline=None)
def test_no_handshake_can_do_harm(head: bytes, rest: bytes) -> None:
    async def main() -> None:
        script = answers(b"HTTP/1.1 101 Switching Protocols\r\n" + head + b"\r\n" + rest)
        async with memory_feed(script, max_tries=2) as (feed, _):
            with pytest.raises(FeedBrokenError, match="tried 2 times"):
                await feed.run(Collector())

    trio.run(main, clock=MockClock(autojump_threshold=0))


# Cancellation.


@pytest.mark.parametrize(
    "script", [answers("", stays=True), deaf(), websocket(says(quote())), REFUSED], ids=["mute", "deaf", "data", "refused"]
)
async def test_cancelled_at_any_moment(script: Any, autojump_clock: MockClock) -> None:
    for steps in range(120):
        async with memory_feed(script) as (feed, venue):
            send = Collector()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(feed.run, send)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                cancelled_at = trio.current_time()
                nursery.cancel_scope.cancel()
            assert trio.current_time() - cancelled_at <= 1
            assert not feed.connected
            assert len(send.ticks) == feed.stats.messages
            for stream in venue.streams:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.send_all(b"x")


async def test_cancelled_while_the_channel_holds_ticks(autojump_clock: MockClock) -> None:
    async def block(_number: int) -> None:
        await trio.sleep_forever()

    log, send = Log(), Collector(block)
    async with memory_feed(websocket(says(quote(), quote()), log)) as (feed, _):
        async with running(feed, send):
            await send.wait_for(1)
            cancelled_at = trio.current_time()
        assert trio.current_time() - cancelled_at <= 1
        await trio.testing.wait_all_tasks_blocked()
    assert log.close_codes == [1000]


@pytest.mark.parametrize("overflow", [Block(), DropNewest(1.0), DropOldest()], ids=repr)
async def test_the_law_holds_when_cancelled(overflow: Any, autojump_clock: MockClock) -> None:
    async with memory_feed(websocket(says(*(quote(volume=n) for n in range(100))))) as (feed, _):
        send: TickSendChannel[Tick]
        receive: TickReceiveChannel[Tick]
        send, receive = open_tick_channel(maxsize=10, overflow=overflow)
        async with send, receive:
            with trio.move_on_after(0.5):
                await feed.run(send)
            send.ledger.check()
            assert send.ledger.produced == feed.stats.messages > 10
            assert send.ledger.queued == 10


async def test_cancelled_with_a_peer_that_is_deaf(autojump_clock: MockClock) -> None:
    async with memory_feed(deaf()) as (feed, _):
        start = trio.current_time()
        with trio.move_on_after(5):
            await feed.run(Collector())
        assert trio.current_time() - start <= 6


# Settings.


@pytest.mark.parametrize("symbols", ["SPY", b"SPY", [], (), ["SPY", ""], ["SPY", 5], [None], 5, None])
def test_bad_symbols(symbols: Any) -> None:
    with pytest.raises(ConfigError, match="symbols"):
        WebSocketFeed("ws://x", symbols)


def test_symbols_may_be_anything_iterable() -> None:
    assert WebSocketFeed("ws://x", (symbol for symbol in ["B", "A", "B"])).symbols == ("B", "A")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("stale_after", "ping_interval") for value in (0, -1, float("nan"), float("inf"), True, "1")),
        *((name, value) for name in ("pong_timeout", "connect_timeout") for value in (0, -1, float("nan"), float("inf"), True, "1", None)),
        *((name, value) for name in ("max_message_size", "max_unknown_host_tries") for value in (0, -1, 1.5, True, "1", None)),
        *(("reconnect", value) for value in (None, 0, 1, "no")),
        *(("max_tries", value) for value in (0, -1, 1.5, True, "1")),
        ("backoff", 5),
        ("open_stream", None),
        ("open_stream", "tcp"),
    ],
)
def test_bad_options(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        WebSocketFeed("ws://x", ["SPY"], **{name: value})
    with pytest.raises(ConfigError, match=name):
        WebSocketOptions(**{name: value})


def test_unknown_options() -> None:
    with pytest.raises(TypeError, match="stale"):
        WebSocketFeed("ws://x", ["SPY"], stale=5)  # type: ignore[call-arg]


@pytest.mark.parametrize("key", ["", " k", "k ", "k\n", "k\r\nX: y", "ké", "\x00", 5, b"k"])
def test_bad_keys_are_not_repeated(key: Any) -> None:
    with pytest.raises(ConfigError, match="api_key") as caught:
        WebSocketFeed("ws://x", ["SPY"], api_key=key)
    assert repr(key)[1:-1] not in str(caught.value) or key in ("", 5)


def test_unknown_venue() -> None:
    with pytest.raises(ConfigError, match="unknown venue"):
        WebSocketFeed("ws://x", ["SPY"], venue="nyse")


def test_repr() -> None:
    feed = WebSocketFeed("wss://venue.test/v1?api_key=s3cret", ["SPY", "QQQ"], api_key="k3y")
    assert repr(feed) == "<WebSocketFeed wss://venue.test/v1 venue='flat' symbols=2 connected=False>"
    assert feed.url == "wss://venue.test/v1"


async def test_a_virtual_day_of_trouble(autojump_clock: MockClock) -> None:
    """Everything at once: nothing is lost, doubled or out of order, and the counters add up."""
    scripts: list[Any] = []
    volumes = iter(range(10_000))
    for number in range(40):
        messages: list[str | bytes] = [quote(volume=next(volumes)) for _ in range(number % 7)]
        scripts.append(websocket(says(ACK, *messages, "junk", then=(leave, stay)[number % 5 == 0])))
        scripts.append((REFUSED, answers("HTTP/1.1 503 X\r\n\r\n"), answers(""))[number % 3])
    expected = next(volumes)
    send = Collector()
    async with memory_feed(*scripts, websocket(says(quote(volume=expected)))) as (feed, _), running(feed, send):
        await send.wait_for(expected + 1)
    assert [item.volume for item in send.ticks] == list(range(expected + 1))
    stats = feed.stats
    assert (stats.connect_failures, stats.reconnects, stats.watchdog_trips) == (40, 40, 8)
    assert stats.messages == len(send.ticks) + stats.malformed + stats.ignored
    assert (stats.malformed, stats.ignored) == (40, 40)
