"""Settings and calls that cannot work, and a feed that runs twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection, wrap_server_stream

import trio_ticks as tt
from tests.worlds.feed_venues import (
    NO_JITTER,
    Collector,
    Handler,
    Log,
    MemoryVenue,
    leave,
    memory_feed,
    quote,
    running,
    says,
    stay,
    tick,
    until_closed,
    websocket,
)
from trio_ticks.feeds.websocket.throttling import SourceThrottle


@pytest.mark.parametrize("symbol", ["a\nb", "\x00", "\x1b[2J", "\ud800", "x" * 257, "\u202eabc"])
def test_symbols_that_cannot_be_shown(symbol: str) -> None:
    for symbols in ([symbol], {symbol: "fine"}, {"fine": symbol}):
        with pytest.raises(tt.ConfigError, match="printable and of at most 256 characters"):
            tt.WebSocketFeed("ws://venue.test", symbols)
    feed = tt.WebSocketFeed("ws://venue.test", ["SPY"])
    with pytest.raises(tt.ConfigError, match="printable"):
        feed.subscribe([symbol])
    assert feed.symbols == ("SPY",)


@pytest.mark.parametrize("symbol", ["BTC/USD", "SPX US", "700.HK", "x" * 256, "Ä€"])
def test_symbols_that_can(symbol: str) -> None:
    assert tt.WebSocketFeed("ws://venue.test", [symbol]).symbols == (symbol,)


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".com", "a" * 300])
def test_a_host_that_cannot_exist(host: str) -> None:
    with pytest.raises(tt.ConfigError, match="url has a host name that cannot exist"):
        tt.WebSocketFeed(f"wss://{host}/feed", ["SPY"])
    with pytest.raises(tt.ConfigError, match="proxy has a host name that cannot exist"):
        tt.WebSocketFeed("wss://venue.test", ["SPY"], proxy=f"http://{host}:3128")


@pytest.mark.parametrize("host", ["venue.test.", "[::1]", "[fe80::1%25eth0]", "under_score.test"])
def test_a_host_that_may(host: str) -> None:
    tt.WebSocketFeed(f"wss://{host}/feed", ["SPY"])


async def test_expect_data_that_raises_ends_the_feed_by_its_own_error(
    autojump_clock: MockClock,
) -> None:
    class Closed(Exception):
        pass

    calls = 0

    def calendar(now: datetime) -> bool:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise Closed
        return True

    async with memory_feed(websocket(says(quote())), expect_data=calendar) as (feed, _):
        with pytest.raises(Closed):
            await feed.run(Collector())
    assert not feed.connected


async def _answers_later(now: datetime) -> bool:
    return True


class _Calendar:
    async def __call__(self, now: datetime) -> bool:
        return True


@pytest.mark.parametrize("expect_data", [_answers_later, _Calendar()])
def test_expect_data_does_not_wait(expect_data: Any) -> None:
    with pytest.raises(tt.ConfigError, match="expect_data must be a plain function"):
        tt.WebSocketFeed("ws://venue.test", ["SPY"], expect_data=expect_data)


def test_hours_are_text() -> None:
    with pytest.raises(tt.ConfigError, match="hours must be a str such as"):
        tt.MarketHours("UTC", 5)  # type: ignore[arg-type]


async def test_a_limit_from_another_thread_changes_nothing() -> None:
    collector = Collector()
    async with memory_feed(websocket(says(quote()))) as (feed, _), running(feed, collector):
        await collector.wait_for(1)
        with pytest.raises(RuntimeError, match=r"call feed\.throttle in the event loop"):
            await trio.to_thread.run_sync(feed.throttle, 5)

        def in_another_loop() -> None:
            async def main() -> None:
                feed.throttle(5)

            trio.run(main)

        with pytest.raises(RuntimeError, match=r"call feed\.throttle in the event loop"):
            await trio.to_thread.run_sync(in_another_loop)
        await trio.to_thread.run_sync(lambda: trio.from_thread.run_sync(feed.throttle, 5))


class Bad(tt.Codec):
    """Reads nothing."""

    def subscribe(self, symbols: Sequence[str], /) -> list[str]:
        return ["[]"]

    def decode_one(self, payload: bytes, /) -> None:
        raise ValueError("bad")


def test_a_feed_that_runs_again_on_an_earlier_clock_is_not_mute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each loop of trio has a clock that begins anywhere."""
    venue: MemoryVenue

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        return await venue.open_stream(host, port)

    feed = tt.WebSocketFeed(
        "ws://venue.test", ["SPY"], venue=Bad, open_stream=open_stream, backoff=NO_JITTER
    )

    async def talk(ws: Any) -> None:
        for _ in range(3):
            await ws.send_message("junk")
            await trio.sleep(2)

    async def main() -> None:
        nonlocal venue
        async with trio.open_nursery() as nursery:
            venue = MemoryVenue(nursery, websocket(talk))
            with trio.move_on_after(5):
                await feed.run(Collector())
            nursery.cancel_scope.cancel()

    for start in (1e6, 5.0):
        caplog.clear()
        clock = MockClock(autojump_threshold=0)
        clock.jump(start)
        trio.run(main, clock=clock)
        lines = [r for r in caplog.records if getattr(r, "event", None) == "feed.malformed"]
        assert len(lines) == 3


def stay_and_log(log: Log) -> Handler:
    async def handler(ws: WebSocketConnection) -> None:
        while True:
            log.requests.append(json.loads(await ws.get_message()))

    return handler


def test_a_throttle_begins_anew_on_an_earlier_clock() -> None:
    class Requests:
        def subscribe(self, symbols: Sequence[str], /) -> list[str]:
            return [f"+{symbol}" for symbol in symbols]

        def unsubscribe(self, symbols: Sequence[str], /) -> list[str]:
            return [f"-{symbol}" for symbol in symbols]

    throttle = SourceThrottle(Requests(), ["SPY", "QQQ"])

    def load(start: float) -> list[Any]:
        """Let both symbols come ten times as often as allowed; return the requests."""
        throttle.restart(start)
        throttle.opening(start)
        throttle.limit(10)
        found = []
        for step in range(100):
            now = start + step / 10
            for symbol in ("SPY", "QQQ"):
                throttle.delivered(now, now, [tick(symbol)] * 5, 0.0)
            found += throttle.due(now)
        return found

    assert load(1e6) == ["-QQQ"]
    throttle.limit(None)
    throttle.due(1e6 + 100)
    assert load(5.0) == ["-QQQ"]
    assert throttle.paused["QQQ"] < 100


@pytest.mark.parametrize("steps", range(1, 40, 13))
async def test_pings_do_not_hide_why_a_connection_was_given_up(
    steps: int, autojump_clock: MockClock
) -> None:
    """trio-websocket would answer those that were read before the end, and fails."""
    codecs: list[tt.Codec] = []

    class Kept(Bad):
        def __init__(self, context: tt.CodecContext) -> None:
            super().__init__(context)
            codecs.append(self)

    async def script(stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            ws = await (await wrap_server_stream(nursery, stream)).accept()
            await ws.get_message()
            # All in one piece, as a venue may send them.
            await stream.send_all(b"\x89\x00" * 500)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            codecs[0].context.reconnect("enough")
            await until_closed(stay, ws)
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)

    collector = Collector()
    async with memory_feed(script, venue=Kept) as (feed, _), running(feed, collector):
        await trio.sleep(1.5)
    assert [(event.kind, event.reason) for event in collector.events[:1]] == [("lost", "enough")]


async def test_subscribing_while_the_last_connection_ends(autojump_clock: MockClock) -> None:
    """There is nobody left to connect; the symbol stays for the next run."""

    class One(Bad):
        limits = tt.Limits(subscriptions=1)

    class Subscribes(Collector):
        def report_event(self, event: tt.FeedEvent) -> None:
            if event.kind == "lost":
                trio.lowlevel.spawn_system_task(later)

    async def later() -> None:
        # In each step from the loss on until the feed has ended.
        while not ended:
            feed.subscribe([f"S{len(feed.symbols)}"])
            await trio.lowlevel.checkpoint()

    ended = False
    script = websocket(leave)
    async with memory_feed(script, venue=One, symbols=["SPY"], reconnect=False) as (feed, venue):
        await feed.run(Subscribes())
        ended = True
        assert len(venue.dialled_at) < len(feed.symbols)


async def test_symbols_fill_the_connections_there_are(autojump_clock: MockClock) -> None:
    """Requests find their connection, however many there are of both."""

    class One(tt.Codec):
        limits = tt.Limits(subscriptions=2)

        def subscribe(self, symbols: Sequence[str], /) -> list[str]:
            return [json.dumps(["+", *symbols])]

        def unsubscribe(self, symbols: Sequence[str], /) -> list[str]:
            return [json.dumps(["-", *symbols])]

        def decode_one(self, payload: bytes, /) -> None:
            return None

    log = Log()
    async with (
        memory_feed(websocket(stay_and_log(log), log), venue=One, symbols=["A1", "A2", "B1"]) as (
            feed,
            venue,
        ),
        running(feed, Collector()),
    ):
        await trio.sleep(1)
        feed.subscribe(["B2", "C1"])
        await trio.sleep(1)
        feed.unsubscribe(["A1", "C1"])
        feed.subscribe(["D1", "D2", "D3"])
        await trio.sleep(1)
    assert len(venue.dialled_at) == 3
    assert sorted(map(tuple, log.requests)) == sorted(
        [
            ("+", "A1", "A2"),
            ("+", "B1"),
            ("+", "B2"),
            ("+", "C1"),
            ("-", "A1"),
            ("-", "C1"),
            ("+", "D1"),
            ("+", "D2", "D3"),
        ]
    )
