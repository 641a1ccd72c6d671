"""The WebSocket feed against scripted venues in memory, on a virtual clock.

What it does about everything that can go wrong.
"""

from __future__ import annotations

import logging
import socket
from datetime import timedelta
from email.utils import format_datetime
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from trio_websocket import WebSocketConnection
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, TextMessage
from wsproto.utilities import LocalProtocolError

from tests.worlds.feed_venues import (
    NO_JITTER,
    WHEN,
    Collector,
    Log,
    answers,
    leave,
    memory_feed,
    quote,
    running,
    says,
    stay,
    tick,
    websocket,
)
from trio_ticks.channel.ends import TickReceiveChannel, TickSendChannel, open_tick_channel
from trio_ticks.clock import Clock
from trio_ticks.errors import ConfigError, FeedAuthError, FeedBrokenError, QueueFullError
from trio_ticks.feeds.base import Feed, stats_of
from trio_ticks.feeds.websocket.backoff import BackoffPolicy
from trio_ticks.feeds.websocket.feed import WebSocketFeed
from trio_ticks.feeds.websocket.options import WebSocketOptions
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


# Without faults


async def test_subscribes_and_delivers(autojump_clock: MockClock) -> None:
    log, send = Log(), Collector()
    script = websocket(says(ACK, quote("SPY", 1), quote("QQQ", 2).encode(), quote("SPY", 3)), log)
    async with memory_feed(script, url="ws://venue.test/v1/feed?depth=1&x=%20y", api_key="k3y") as (
        feed,
        venue,
    ):
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


async def test_bad_messages_cost_no_good_ones(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    send = Collector()
    junk: list[str | bytes] = [
        "{",
        b"\xff\x00",
        '{"symbol":null}',
        quote().replace('"bid": 1', '"bid": NaN'),
        "[" * 100_000,
    ]
    mixed = [message for bad in junk for message in (bad, quote())]
    async with memory_feed(websocket(says(*mixed))) as (feed, _), running(feed, send):
        await send.wait_for(5)
    assert (feed.malformed, feed.ignored, feed.stats.messages) == (5, 0, 10)
    warnings = [
        record for record in caplog.records if record.getMessage().startswith("feed.malformed")
    ]
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


async def test_reconnects_and_subscribes_again(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "trio_ticks")
    log, send = Log(), Collector()
    scripts = [websocket(says(quote(volume=n), then=leave), log) for n in range(3)]
    async with (
        memory_feed(*scripts, websocket(says(quote(volume=3)), log)) as (feed, venue),
        running(feed, send),
    ):
        await send.wait_for(4)
        assert feed.connected
        assert feed.reconnects == 3
    assert [item.volume for item in send.ticks] == [0, 1, 2, 3]
    assert [request["params"]["symbols"] for request in log.requests] == [["SPY", "QQQ"]] * 4
    # Data has flowed each time, but no connection has lived.
    assert venue.gaps == [1, 2, 4]
    events = [message.split()[0] for message in caplog.messages]
    assert events == ["feed.connected", "feed.disconnected"] * 3 + ["feed.connected"]


async def test_a_server_that_drops_every_connection_does_not_reset_the_backoff(
    autojump_clock: MockClock,
) -> None:
    async with memory_feed(websocket(leave)) as (feed, venue):
        await forever(feed, Collector(), seconds=400)
    assert venue.gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]
    assert feed.reconnects == len(venue.gaps)
    assert not feed.connected


@pytest.mark.parametrize("message", [ACK, "junk", '{"type":"heartbeat"}', quote()])
async def test_no_message_resets_the_backoff(message: str, autojump_clock: MockClock) -> None:
    async with memory_feed(websocket(says(message, then=leave))) as (feed, venue):
        await forever(feed, Collector(), seconds=40)
    assert venue.gaps == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(("lived_s", "gaps"), [(59.0, [1, 2, 63, 8]), (60.0, [1, 2, 61, 2])])
async def test_the_backoff_begins_anew_after_a_connection_that_lived(
    lived_s: float, gaps: list[float], autojump_clock: MockClock
) -> None:
    async def live(_ws: WebSocketConnection) -> None:
        await trio.sleep(lived_s)

    drop = websocket(leave)
    async with memory_feed(
        drop, drop, websocket(live), drop, stale_after=None, ping_interval=None
    ) as (feed, venue):
        await forever(feed, Collector(), seconds=sum(gaps) + 3)
    assert venue.gaps[:4] == gaps


async def test_full_jitter(autojump_clock: MockClock) -> None:
    draws = iter([0.5, 0.25, 0.0])
    async with memory_feed(REFUSED, backoff=type(NO_JITTER)(uniform=lambda: next(draws, 1.0))) as (
        feed,
        venue,
    ):
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
        pytest.param(
            answers("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"),
            id="closed in the headers",
        ),
        pytest.param(answers("SSH-2.0-OpenSSH_9.2\r\n", stays=True), id="not HTTP"),
        pytest.param(answers("\x16\x03\x01", stays=True), id="TLS"),
        pytest.param(
            answers("HTTP/1.1 101 Switching Protocols\r\n\r\n", stays=True), id="101 and no more"
        ),
        pytest.param(
            answers(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
            ),
            id="wrong accept",
        ),
        pytest.param(answers("HTTP/1.1 101 S\r\nbad header\r\n\r\n"), id="bad header"),
        pytest.param(answers("HTTP/1.1 103 Early Hints\r\n\r\n"), id="another 1xx"),
        pytest.param(answers("HTTP/1.1 999 ?\r\n\r\n"), id="no such status"),
        pytest.param(answers("HTTP/1.1 200" + "x" * 20_000, stays=True), id="endless head"),
        *(
            pytest.param(
                answers(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"), id=str(status)
            )
            for status in (408, 425, 429, 500, 502, 503, 504)
        ),
    ],
)
async def test_what_may_pass_is_retried(failure: Any, autojump_clock: MockClock) -> None:
    send = Collector()
    async with (
        memory_feed(failure, failure, failure, websocket(says(quote()))) as (feed, venue),
        running(feed, send),
    ):
        await send.wait_for(1)
    assert feed.stats.connect_failures == 3
    assert feed.reconnects == 0
    # None of them was noticed by a timeout.
    assert venue.gaps == [1, 2, 4]


@pytest.mark.parametrize("text", ["", "HTTP/1.1 ", "HTTP/1.1 101 Switching"])
async def test_a_server_that_does_not_answer(
    text: str, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
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

    feed = WebSocketFeed(
        "ws://venue.test:81", ["SPY"], open_stream=hang, connect_timeout=4, backoff=NO_JITTER
    )
    start = trio.current_time()
    await forever(feed, Collector(), seconds=10)
    assert [(host, port, at - start) for host, port, at in dials] == [
        ("venue.test", 81, 0),
        ("venue.test", 81, 5),
    ]


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

        feed = WebSocketFeed(
            "ws://x", symbols, open_stream=open_stream, connect_timeout=5, backoff=NO_JITTER
        )
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
async def test_a_bound_on_the_outage(script: Any, autojump_clock: MockClock) -> None:
    async with memory_feed(script, give_up_after=10) as (feed, venue):
        with pytest.raises(FeedBrokenError, match="tried 5 times") as caught:
            await feed.run(Collector())
    # The last try is made when the time is up.
    assert venue.gaps == [1, 2, 4, 3]
    assert caught.value.attempts == 5
    assert (caught.value.url, caught.value.status) == ("ws://venue.test/feed", None)


@pytest.mark.parametrize("script", [REFUSED, websocket(leave)], ids=["refused", "dropped"])
async def test_no_outage_is_accepted(script: Any, autojump_clock: MockClock) -> None:
    async with memory_feed(script, give_up_after=0) as (feed, venue):
        with pytest.raises(FeedBrokenError) as caught:
            await feed.run(Collector())
    assert len(venue.dialled_at) == caught.value.attempts == 1
    assert "tried" not in str(caught.value)


async def test_an_outage_ends_with_a_connection_that_lives(autojump_clock: MockClock) -> None:
    async def live(ws: WebSocketConnection) -> None:
        await ws.send_message(quote())
        await trio.sleep(70)

    drop = websocket(says(quote(), then=leave))
    async with memory_feed(
        REFUSED, REFUSED, websocket(live), drop, stale_after=None, give_up_after=10
    ) as (feed, venue):
        with pytest.raises(FeedBrokenError):
            await feed.run(Collector())
    assert venue.gaps == [1, 2, 71, 2, 4, 3]


# Faults that end the feed


def closes(code: int) -> Any:
    async def close(ws: WebSocketConnection) -> None:
        await ws.aclose(code, "so long")

    return close


@pytest.mark.parametrize("code", [1000, 1001])
async def test_an_orderly_close_can_be_the_end(
    code: int, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    send = Collector()
    caplog.set_level(logging.INFO)
    async with memory_feed(
        websocket(says(quote(volume=1), quote(volume=2), then=closes(code))), reconnect=False
    ) as (feed, venue):
        await feed.run(send)
    assert [tick.volume for tick in send.ticks] == [1, 2]
    assert len(venue.dialled_at) == 1
    assert not feed.connected
    (line,) = [record for record in caplog.records if "feed.ended" in record.getMessage()]
    assert (line.levelname, line.__dict__["code"], line.__dict__["reason"]) == (
        "INFO",
        code,
        "so long",
    )
    assert not any(record.levelno >= logging.WARNING for record in caplog.records)


async def test_another_end_than_an_orderly_close_is_no_end(autojump_clock: MockClock) -> None:
    send = Collector()
    scripts = [
        websocket(says(quote(volume=0), then=leave), cut=True),
        *(
            websocket(says(quote(volume=n), then=closes(code)))
            for n, code in enumerate([1011, 4000, 1000], 1)
        ),
    ]
    async with memory_feed(*scripts, reconnect=False) as (feed, venue):
        await feed.run(send)
    assert [tick.volume for tick in send.ticks] == [0, 1, 2, 3]
    assert len(venue.dialled_at) == 4


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("key", ["k3y", None])
async def test_refused_credentials(status: int, key: str | None, autojump_clock: MockClock) -> None:
    refusal = answers(
        f"HTTP/1.1 {status} No\r\nContent-Type: text/plain\r\n\r\nno such key: k3y", stays=True
    )
    async with memory_feed(refusal, api_key=key) as (feed, venue):
        with pytest.raises(FeedAuthError) as caught:
            await feed.run(Collector())
    assert len(venue.dialled_at) == 1
    assert (caught.value.status, caught.value.url, caught.value.attempts) == (
        status,
        "ws://venue.test/feed",
        1,
    )
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
    async with memory_feed(
        answers(f"HTTP/1.1 {status} X\r\nLocation: /x\r\n\r\n<html>", stays=stays)
    ) as (feed, venue):
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
    async with memory_feed(
        answers("HTTP/1.1 403 Forbidden\r\nA: b\r\n", stays=True), connect_timeout=3
    ) as (feed, venue):
        with pytest.raises(FeedAuthError):
            await feed.run(Collector())
    assert len(venue.dialled_at) == 1


async def test_unknown_host(autojump_clock: MockClock) -> None:
    async with memory_feed(UNKNOWN) as (feed, venue):
        with pytest.raises(
            FeedBrokenError, match=r"cannot look up the host 'venue\.test'"
        ) as caught:
            await feed.run(Collector())
    assert len(venue.dialled_at) == 1
    assert isinstance(caught.value.__cause__, socket.gaierror)
    assert caught.value.attempts == 1


async def test_a_resolver_that_cannot_answer_is_always_an_outage(
    autojump_clock: MockClock,
) -> None:
    async with memory_feed(NO_RESOLVER) as (feed, venue):
        await forever(feed, Collector(), seconds=3600)
    assert len(venue.dialled_at) > 50


PERMANENT = [
    pytest.param(UNKNOWN, id="unknown host"),
    *(
        pytest.param(answers(f"HTTP/1.1 {status} X\r\n\r\n"), id=str(status))
        for status in (301, 400, 401, 403, 404)
    ),
]


@pytest.mark.parametrize("failure", PERMANENT)
async def test_what_looks_permanent_is_an_outage_after_data(
    failure: Any, autojump_clock: MockClock
) -> None:
    send = Collector()
    script = websocket(says(quote(), then=leave))
    # Five tries are made within a minute.
    async with (
        memory_feed(script, *[failure] * 5, script) as (feed, venue),
        running(feed, send),
    ):
        await send.wait_for(2)
    assert venue.gaps == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("failure", PERMANENT)
async def test_but_not_after_a_connection_without_data(
    failure: Any, autojump_clock: MockClock
) -> None:
    async with memory_feed(websocket(says(ACK, then=leave)), failure) as (feed, venue):
        with pytest.raises(FeedBrokenError):
            await feed.run(Collector())
    assert len(venue.dialled_at) == 2


async def test_nor_in_another_run(autojump_clock: MockClock) -> None:
    async with memory_feed(websocket(says(quote())), UNKNOWN) as (feed, _):
        send = Collector()
        async with running(feed, send):
            await send.wait_for(1)
        with pytest.raises(FeedBrokenError):
            await feed.run(Collector())


@pytest.mark.parametrize("status", [401, 403])
async def test_credentials_that_are_no_longer_good(status: int, autojump_clock: MockClock) -> None:
    refusal = answers(f"HTTP/1.1 {status} X\r\n\r\n")
    send = Collector()
    async with memory_feed(websocket(says(quote(), then=leave)), refusal, api_key="k3y") as (
        feed,
        venue,
    ):
        with pytest.raises(FeedAuthError, match="check the api_key") as caught:
            await feed.run(send)
    # Refused at 1, 3, 7, 15, 31, 63: for 62 s.
    assert venue.gaps == [1, 2, 4, 8, 16, 32]
    assert caught.value.status == status


@pytest.mark.parametrize("status", [401, 403, 404, 301])
async def test_a_refusal_with_retry_after_is_no_permanent_one(
    status: int, autojump_clock: MockClock
) -> None:
    busy = answers(f"HTTP/1.1 {status} X\r\nRetry-After: 7\r\n\r\n")
    send = Collector()
    async with (
        memory_feed(busy, busy, websocket(says(quote()))) as (feed, venue),
        running(feed, send),
    ):
        await send.wait_for(1)
    assert venue.gaps == [7, 7]


async def test_an_error_of_the_channel_comes_out_as_itself(autojump_clock: MockClock) -> None:
    async def full(_number: int) -> None:
        raise QueueFullError("full", maxsize=1)

    async def broken(_number: int) -> None:
        raise trio.BrokenResourceError("nobody listens")

    async def bug(_number: int) -> None:
        raise RuntimeError("bug")

    for behave, kind in (
        (full, QueueFullError),
        (broken, trio.BrokenResourceError),
        (bug, RuntimeError),
    ):
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
    async with (
        memory_feed(busy, busy, websocket(says(quote()))) as (feed, venue),
        running(feed, send),
    ):
        await send.wait_for(1)
    assert venue.gaps == [17, 17]


async def test_retry_after_is_bounded_and_does_not_shorten(autojump_clock: MockClock) -> None:
    scripts = [
        answers(f"HTTP/1.1 429 X\r\nRetry-After: {value}\r\n\r\n")
        for value in ("86400", "0", "soon")
    ]
    async with memory_feed(*scripts) as (feed, venue):
        await forever(feed, Collector(), seconds=307)
    assert venue.gaps == [300, 2, 4]


async def test_retry_after_date(autojump_clock: MockClock) -> None:
    clock = Clock()

    def later(seconds: float) -> str:
        return format_datetime(clock.utc() + timedelta(seconds=seconds), usegmt=True)

    scripts = [
        answers(f"HTTP/1.1 503 X\r\nRetry-After: {value}\r\n\r\n")
        # The third comes after 302 s: dates, too, are read on the virtual clock.
        for value in (later(3600), later(-3600), later(402))
    ]
    async with memory_feed(*scripts, backoff=NO_JITTER) as (feed, venue):
        await forever(feed, Collector(), seconds=500)
    first, second, third = venue.gaps[:3]
    assert (first, second) == (300, 2)
    assert 90 < third <= 100


class Marked(Collector):
    """Stands for a pipeline's send channel, with its clock, its chance, its reports."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.clock.begin_at(WHEN.timestamp())
        self.random = Random(7)


async def test_time_and_chance_are_the_pipelines(autojump_clock: MockClock) -> None:
    twin, send = Random(7), Marked()
    policy = BackoffPolicy(initial_s=8.0, maximum_s=8.0)
    async with memory_feed(websocket(leave), websocket(leave), backoff=policy) as (feed, venue):
        await forever(feed, send, seconds=9)
    waits = [round(8.0 * twin.random(), 6) for _ in venue.gaps]
    assert waits
    assert venue.gaps == waits
    first = send.gaps[0]
    assert (first.symbol, first.reason, first.first_timestamp) == ("SPY", "reconnect", WHEN)
    assert first.timestamp == WHEN + timedelta(seconds=waits[0])


# Dead and stale connections.


async def test_a_silent_server_trips_the_watchdog(autojump_clock: MockClock) -> None:
    # trio-websocket answers pings for the venue, so the venue is silent, not the
    # connection: another one is made at once.
    log = Log()
    async with memory_feed(websocket(says(ACK), log), give_up_after=100) as (feed, venue):
        await forever(feed, Collector(), seconds=245)
    assert venue.gaps == [60, 60, 60, 60]
    assert feed.stats.watchdog_trips == 4
    assert feed.reconnects == 4
    assert log.close_codes[:2] == [1001, 1001]
    assert len(log.requests) == 5


async def test_silence_leaves_the_backoff_where_it_is(autojump_clock: MockClock) -> None:
    drop = websocket(leave)
    async with memory_feed(drop, drop, websocket(stay), drop, stale_after=10) as (feed, venue):
        await forever(feed, Collector(), seconds=20)
    assert venue.gaps == [1, 2, 10, 4]


async def test_silence_without_pings_is_a_failure(autojump_clock: MockClock) -> None:
    async with memory_feed(websocket(stay), stale_after=10, ping_interval=None) as (feed, venue):
        await forever(feed, Collector(), seconds=36)
    assert venue.gaps == [11, 12]
    assert feed.stats.watchdog_trips == 3


async def test_silence_of_a_dead_venue_is_a_failure(autojump_clock: MockClock) -> None:
    # The watchdog's ping at 10 s is not answered; closing takes 1 s.
    async with memory_feed(deaf(), stale_after=10, ping_interval=1000) as (feed, venue):
        await forever(feed, Collector(), seconds=45)
    assert venue.gaps == [22]


async def test_a_close_during_the_watchdogs_ping_is_the_venues_close(
    autojump_clock: MockClock,
) -> None:
    async def script(stream: trio.abc.Stream) -> None:
        server = WSConnection(ConnectionType.SERVER)
        while not list(server.events()):
            server.receive_data(bytes(await stream.receive_some(4096)))
        await stream.send_all(server.send(AcceptConnection()))
        while True:
            server.receive_data(bytes(await stream.receive_some(4096)))
            if any(isinstance(event, Ping) for event in server.events()):
                await stream.send_all(server.send(CloseConnection(4001, "enough")))
                return

    async with memory_feed(script, stale_after=10, final_close_codes=[4001]) as (feed, _):
        with pytest.raises(FeedBrokenError, match="4001"):
            await feed.run(Collector())
    assert feed.stats.watchdog_trips == 0


async def test_the_watchdog_counts_from_the_last_market_data(autojump_clock: MockClock) -> None:
    def talks(message: str) -> Any:
        async def talk(ws: WebSocketConnection) -> None:
            for _ in range(5):
                await trio.sleep(9)
                await ws.send_message(message)
            await stay(ws)

        return websocket(talk)

    heartbeat, unasked = '{"type":"heartbeat"}', quote("IWM")
    async with memory_feed(talks(quote()), talks(heartbeat), talks(unasked), stale_after=10) as (
        feed,
        venue,
    ):
        await forever(feed, Collector(), seconds=76)
    assert venue.gaps == [55, 10, 10]
    assert feed.stats.unasked == 1


async def test_the_watchdog_can_be_switched_off(autojump_clock: MockClock) -> None:
    async with memory_feed(websocket(stay), stale_after=None) as (feed, venue):
        await forever(feed, Collector(), seconds=24 * 3600)
    assert len(venue.dialled_at) == 1


def deaf(accept_then: bytes = b"") -> Any:
    """Make a script that shakes hands, and then neither reads nor answers.

    It may go on sending.
    """

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


async def test_no_pong_means_dead(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with memory_feed(deaf()) as (feed, venue):
        await forever(feed, Collector(), seconds=33)
    # 20 s to the ping, 10 s for the pong, at most 1 s for a Close that is not read, 1 s
    # of backoff.
    assert len(venue.gaps) == 1
    assert 31 <= venue.gaps[0] <= 32
    assert feed.stats.watchdog_trips == 0
    assert "no pong within 10 s" in caplog.text


async def test_data_is_no_pong(autojump_clock: MockClock) -> None:
    async with memory_feed(deaf(quote().encode()), ping_interval=3, pong_timeout=2) as (
        feed,
        venue,
    ):
        send = Collector()
        await forever(feed, send, seconds=7.5)
    assert len(venue.dialled_at) == 2
    assert len(send.ticks) >= 5


async def test_pings_can_be_switched_off(autojump_clock: MockClock) -> None:
    async with memory_feed(deaf(quote().encode()), ping_interval=None) as (feed, venue):
        await forever(feed, Collector(), seconds=3600)
    assert len(venue.dialled_at) == 1


async def test_a_server_that_answers_pings_is_alive(autojump_clock: MockClock) -> None:
    async with memory_feed(
        websocket(stay), stale_after=None, ping_interval=1, pong_timeout=0.5
    ) as (feed, venue):
        await forever(feed, Collector(), seconds=1000)
    assert len(venue.dialled_at) == 1


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_channel_that_blocks_is_not_the_venues_fault(
    number: int, autojump_clock: MockClock
) -> None:
    """While the channel holds the reader, it can see neither pong nor message.

    Ten minutes of that kill no connection.
    """

    async def block(_number: int) -> None:
        await trio.sleep(600)

    async def talk(ws: WebSocketConnection) -> None:
        for volume in range(number):
            await ws.send_message(quote(volume=volume))
            await trio.sleep(5)
        await stay(ws)

    send = Collector(block)
    async with memory_feed(websocket(talk)) as (feed, venue):
        await forever(
            feed, send, seconds=600 * min(number, 2) + 50
        )  # what came meanwhile is one batch
    assert len(send.ticks) == number
    assert len(venue.dialled_at) == 1
    assert feed.stats.watchdog_trips == 0


async def test_a_channel_that_hardly_lets_us_read_is_not_the_venues_fault_either(
    autojump_clock: MockClock,
) -> None:
    async def block(_number: int) -> None:
        await trio.sleep(100)

    # A batch always waits, so the reader spends no time listening: a missing pong means
    # nothing.
    async with memory_feed(deaf(quote().encode()), stale_after=None) as (feed, venue):
        await forever(feed, Collector(block), seconds=2000)
        assert len(venue.dialled_at) == 1


# Broken protocol.


async def test_a_message_over_the_limit(autojump_clock: MockClock) -> None:
    log, send = Log(), Collector()
    scripts = [
        websocket(says(quote(volume=1), "x" * 1001, quote(volume=2)), log),
        websocket(says(quote(volume=3)), log),
    ]
    async with memory_feed(*scripts, max_message_size=1000) as (feed, _), running(feed, send):
        await send.wait_for(2)
        assert feed.malformed == 1
        assert feed.reconnects == 1
    assert [item.volume for item in send.ticks] == [1, 3]
    assert log.close_codes[0] == 1009


async def test_a_message_at_the_limit(autojump_clock: MockClock) -> None:
    send = Collector()
    exact = quote() + " " * (1000 - len(quote()))
    async with (
        memory_feed(websocket(says(exact)), max_message_size=1000) as (feed, _),
        running(feed, send),
    ):
        await send.wait_for(1)
    assert feed.malformed == 0


async def test_broken_frames_are_answered_and_retried(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
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
            replies.extend(
                event.code for event in server.events() if isinstance(event, CloseConnection)
            )
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


@pytest.mark.parametrize(
    "error",
    [RuntimeError("bug"), Emergency("stop"), ExceptionGroup("two", [ValueError(), KeyError()])],
    ids=repr,
)
async def test_what_nobody_expects_comes_out_as_itself(
    error: BaseException, autojump_clock: MockClock
) -> None:
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
            return Crashing(
                await venue.open_stream(host, port), LocalProtocolError("pong after close")
            )

        feed = WebSocketFeed(
            "ws://x", ["SPY"], open_stream=open_stream, backoff=NO_JITTER, give_up_after=3
        )
        with pytest.raises(FeedBrokenError, match="tried 3 times"):
            await feed.run(Collector())
    assert feed.reconnects == 2


names = st.sampled_from(
    [
        b"Upgrade",
        b"Connection",
        b"Sec-WebSocket-Accept",
        b"Sec-WebSocket-Protocol",
        b"Sec-WebSocket-Extensions",
        b"X",
        b"",
    ]
)
values = st.sampled_from(
    [b"websocket", b"Upgrade", b"permessage-deflate", b",;=\x00", b"\xff\xfe", b""]
) | st.binary(max_size=10)
heads = st.lists(st.tuples(names, values), max_size=6).map(
    lambda pairs: b"".join(name + b": " + value + b"\r\n" for name, value in pairs)
)


@given(heads | st.binary(max_size=60), st.binary(max_size=60))
@settings(deadline=None)
def test_no_handshake_can_do_harm(head: bytes, rest: bytes) -> None:
    async def main() -> None:
        script = answers(b"HTTP/1.1 101 Switching Protocols\r\n" + head + b"\r\n" + rest)
        async with memory_feed(script, give_up_after=1) as (feed, _):
            with pytest.raises(FeedBrokenError, match="tried 2 times"):
                await feed.run(Collector())

    trio.run(main, clock=MockClock(autojump_threshold=0))


# Cancellation.


@pytest.mark.parametrize(
    "script",
    [answers("", stays=True), deaf(), websocket(says(quote())), REFUSED],
    ids=["mute", "deaf", "data", "refused"],
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
            channel = send.statistics()
            assert channel.current_buffer_used == 10
            # The delivery that the feed was cancelled in belongs to the channel, and
            # stays.
            assert channel.waiting_for_room == (0 if overflow == DropOldest() else 1)
            assert send.ledger.queued == 10 + channel.waiting_for_room


async def test_cancelled_with_a_peer_that_is_deaf(autojump_clock: MockClock) -> None:
    async with memory_feed(deaf()) as (feed, _):
        start = trio.current_time()
        with trio.move_on_after(5):
            await feed.run(Collector())
        assert trio.current_time() - start <= 6


# Settings.


@pytest.mark.parametrize(
    "symbols", ["SPY", b"SPY", [], (), ["SPY", ""], ["SPY", 5], [None], 5, None]
)
def test_bad_symbols(symbols: Any) -> None:
    with pytest.raises(ConfigError, match="symbols"):
        WebSocketFeed("ws://x", symbols)


def test_symbols_may_be_anything_iterable() -> None:
    assert WebSocketFeed("ws://x", (symbol for symbol in ["B", "A", "B"])).symbols == ("B", "A")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("stale_after", "ping_interval")
            for value in (0, -1, float("nan"), float("inf"), True, "1")
        ),
        *(
            (name, value)
            for name in ("pong_timeout", "connect_timeout")
            for value in (0, -1, float("nan"), float("inf"), True, "1", None)
        ),
        *(
            (name, value)
            for name in ("max_message_size",)
            for value in (0, -1, 1.5, True, "1", None)
        ),
        *(("give_up_after", value) for value in (-1, float("nan"), True, "1", None)),
        *(
            ("final_close_codes", value)
            for value in (1000, "1000", ["1000"], [999], [5000], [1000.5], [True], None)
        ),
        *(("reconnect", value) for value in (None, 0, 1, "no")),
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
    assert (
        repr(feed) == "<WebSocketFeed wss://venue.test/v1 venue='flat' symbols=2 connected=False>"
    )
    assert feed.url == "wss://venue.test/v1"


async def test_a_virtual_day_of_trouble(autojump_clock: MockClock) -> None:
    """Everything at once: nothing is lost, doubled or disordered; the sums agree."""
    scripts: list[Any] = []
    volumes = iter(range(10_000))
    for number in range(40):
        messages: list[str | bytes] = [quote(volume=next(volumes)) for _ in range(number % 7)]
        scripts.append(websocket(says(ACK, *messages, "junk", then=(leave, stay)[number % 5 == 0])))
        scripts.append((REFUSED, answers("HTTP/1.1 503 X\r\n\r\n"), answers(""))[number % 3])
    expected = next(volumes)
    send = Collector()
    async with (
        memory_feed(*scripts, websocket(says(quote(volume=expected)))) as (feed, _),
        running(feed, send),
    ):
        await send.wait_for(expected + 1)
    assert [item.volume for item in send.ticks] == list(range(expected + 1))
    stats = feed.stats
    assert (stats.connect_failures, stats.reconnects, stats.watchdog_trips) == (40, 40, 8)
    assert stats.messages == len(send.ticks) + stats.malformed + stats.ignored
    assert (stats.malformed, stats.ignored) == (40, 40)
