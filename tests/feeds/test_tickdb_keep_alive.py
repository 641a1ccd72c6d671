"""TickDB's keep-alives and retries, to the second, on the virtual clock."""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

from tests.worlds.feed_venues import Collector, memory_feed, running, until_closed, websocket
from trio_ticks.feeds.websocket.feed import WebSocketFeed

PONG = '{"cmd":"pong","code":0,"message":"pong","data":{"timestamp":1768976158541}}'


class Venue:
    """Answers pings until it is told not to, and writes down when each came."""

    def __init__(self, *, pongs: float = float("inf")) -> None:
        self.pongs = pongs
        self.pings_at: list[float] = []
        self.began = trio.current_time()
        self.requests: list[tuple[float, str | bytes]] = []

    async def talk(self, ws: WebSocketConnection) -> None:
        while True:
            message = await ws.get_message()
            at = trio.current_time() - self.began
            if json.loads(message)["cmd"] != "ping":
                self.requests.append((at, message))
                continue
            self.pings_at.append(at)
            if self.pongs > 0:
                self.pongs -= 1
                await ws.send_message(PONG)

    async def run(self, ws: WebSocketConnection) -> None:
        await until_closed(self.talk, ws)


async def run_for(seconds: float, venue: Venue, name: str) -> tuple[WebSocketFeed, Collector]:
    send = Collector()
    options = {"venue": name, "symbols": ["EURUSD"], "stale_after": None, "ping_interval": None}
    async with memory_feed(websocket(venue.run), **options) as (feed, _), running(feed, send):
        await trio.sleep(seconds)
    return feed, send


@pytest.mark.parametrize(("venue_name", "every"), [("tickdb", 60), ("tickdb-old", 1)])
async def test_pings_come_at_their_pace(
    venue_name: str, every: int, autojump_clock: MockClock
) -> None:
    venue = Venue()
    feed, send = await run_for(10.5 * every, venue, venue_name)
    assert venue.pings_at == pytest.approx([every * n for n in range(1, 11)], abs=0.01)
    assert feed.ignored == 10
    assert send.events == []


@pytest.mark.parametrize(("venue_name", "every"), [("tickdb", 60), ("tickdb-old", 1)])
async def test_a_pong_may_take_20_seconds(
    venue_name: str, every: int, autojump_clock: MockClock
) -> None:
    venue = Venue(pongs=2)
    # The third ping is not answered.
    end = 3 * every + 20
    feed, send = await run_for(end - 0.5, venue, venue_name)
    assert send.events == []
    venue = Venue(pongs=2)
    feed, send = await run_for(end + 2.5, venue, venue_name)
    assert [event.kind for event in send.events] == ["lost", "back"]
    assert "no answer to a keep-alive in 20 s" in send.events[0].reason
    assert feed.reconnects == 1


async def test_what_failed_is_asked_for_again_at_the_next_pong(autojump_clock: MockClock) -> None:
    failed = (
        '{"cmd":"subscribe","code":"5004","message":"no","data":{"channel":"ticker","symbols":[],'
        '"failed_symbols":["EURUSD"],"retryable_symbols":["EURUSD"],"retryable":true}}'
    )
    venue = Venue()

    async def refuse_once(ws: WebSocketConnection) -> None:
        await ws.send_message(failed)
        await venue.run(ws)

    send = Collector()
    options = {"venue": "tickdb", "symbols": ["EURUSD"], "stale_after": None}
    async with memory_feed(websocket(refuse_once), **options) as (feed, _), running(feed, send):
        await trio.sleep(61)
    ((at, request),) = venue.requests
    assert at == pytest.approx(60, abs=0.01)
    assert json.loads(request)["data"] == {"channel": "ticker", "symbols": ["EURUSD"]}
    assert [(event.kind, event.symbol) for event in send.events] == [("symbol-refused", "EURUSD")]
    assert feed.stats.refused == 1
