"""What the strategy is told of its feeds: apart from the ticks, and in their line."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import WebSocketConnection

import trio_ticks as tt
from tests.worlds.feed_venues import leave, memory_feed, quote, says, stay, websocket

TICKS: Any = tt.Tick


def told(events: list[tt.FeedEvent]) -> list[tuple[str, str | None]]:
    return [(event.kind, event.symbol) for event in events]


async def ignore(_tick: tt.Tick) -> None:
    pass


async def test_a_loss_is_told_at_once_ahead_of_what_is_queued(autojump_clock: MockClock) -> None:
    seen: list[Any] = []

    async def slow(tick: tt.Tick) -> None:
        await trio.sleep(10)
        seen.append(tick.volume)

    def on_feed(event: tt.FeedEvent) -> None:
        seen.append((event.kind, round(trio.current_time() - start, 3)))

    start = trio.current_time()
    many = says(*[quote(volume=n) for n in range(3)], then=leave)
    async with (
        memory_feed(websocket(many), websocket(stay)) as (feed, _),
        tt.open_pipeline(feed, slow, workers=1, on_feed=on_feed, shutdown_timeout=60),
    ):
        await trio.sleep(15)
    assert seen[:2] == [("lost", 0.0), ("back", 1.0)]
    assert [each for each in seen if not isinstance(each, tuple)] == [0, 1, 2]


async def test_an_async_on_feed_is_called_with_one_event_at_a_time_in_order(
    autojump_clock: MockClock,
) -> None:
    running = most = 0
    events: list[tt.FeedEvent] = []

    async def on_feed(event: tt.FeedEvent) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.7)
        events.append(event)
        running -= 1

    drop = websocket(says(quote(), then=leave))
    async with (
        memory_feed(drop, drop, drop, websocket(says(quote()))) as (feed, _),
        tt.open_pipeline(feed, ignore, on_feed=on_feed),
    ):
        await trio.sleep(30)
    assert told(events) == [("lost", None), ("back", None)] * 3
    assert most == 1
    assert {event.feed for event in events} == {"flat"}


async def test_an_on_feed_that_hangs_is_cancelled_and_the_socket_is_read_meanwhile(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[float] = []

    async def on_feed(event: tt.FeedEvent) -> None:
        if event.kind == "lost":
            await trio.sleep_forever()

    async def handler(tick: tt.Tick) -> None:
        handled.append(tick.volume)

    drop = websocket(says(quote(volume=1), then=leave))
    async with (
        memory_feed(drop, websocket(says(quote(volume=2)))) as (feed, _),
        tt.open_pipeline(feed, handler, on_feed=on_feed, on_feed_timeout=3.0) as running,
    ):
        await trio.sleep(2)
        assert handled == [1, 2]
        await trio.sleep(8)
        assert running.failure is None
    assert "on_feed took longer than 3 s for lost" in caplog.text


async def test_an_on_feed_that_raises_ends_the_pipeline(autojump_clock: MockClock) -> None:
    def on_feed(event: tt.FeedEvent) -> None:
        raise RuntimeError(event.kind)

    async with memory_feed(websocket(says(quote(), then=leave))) as (feed, _):
        with pytest.raises(RuntimeError, match="lost"):
            await tt.run_pipeline(feed, ignore, on_feed=on_feed, signals=False)


async def test_a_refused_symbol_is_told_in_the_venues_words_and_the_others_go_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[tt.FeedEvent] = []
    refusal = json.dumps({"id": 1, "error": "no such symbol", "symbol": "QQQ"})
    async with (
        memory_feed(websocket(says(refusal, quote()))) as (feed, _),
        tt.open_pipeline(feed, ignore, on_feed=events.append) as pipeline,
    ):
        await trio.sleep(5)
        assert pipeline.ledger.consumed == 1
    assert told(events) == [("symbol-refused", "QQQ")]
    assert events[0].reason == "no such symbol"
    assert feed.stats.refused == 1
    assert "symbol=QQQ" in caplog.text


async def test_a_symbol_that_goes_silent_and_comes_back(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_ticks")

    async def script(ws: WebSocketConnection) -> None:
        for second in range(200):
            await ws.send_message(quote())
            if not 40 <= second < 120:
                await ws.send_message(quote("QQQ"))
            await trio.sleep(1)

    events: list[tt.FeedEvent] = []
    async with (
        memory_feed(websocket(script), stale_after=None) as (feed, _),
        tt.open_pipeline(feed, ignore, on_feed=events.append) as pipeline,
    ):
        await trio.sleep(100)
        assert pipeline.metrics().silent_names == ("QQQ",)
        await trio.sleep(95)
        assert pipeline.metrics().silent_symbols == 0
    assert told(events) == [("symbol-silent", "QQQ"), ("symbol-back", "QQQ")]
    # One item a second: silent after 20 of these intervals.
    silent, back = (event.at for event in events)
    assert 55 <= (back - silent).total_seconds() <= 61
    assert "feed.symbol_silent" in caplog.text


async def test_symbols_are_not_silent_while_the_market_is_closed(
    autojump_clock: MockClock,
) -> None:
    events: list[tt.FeedEvent] = []
    is_open = True
    options: Any = {"expect_data": lambda _now: is_open, "stale_after": 30}
    async with (
        memory_feed(websocket(says(quote())), **options) as (feed, venue),
        tt.open_pipeline(feed, ignore, on_feed=events.append) as pipeline,
    ):
        await trio.sleep(1)
        is_open = False
        await trio.sleep(3600)
        assert (events, len(venue.dialled_at)) == ([], 1)
        assert not pipeline.metrics().market_open
        is_open = True
        await trio.sleep(100)
    assert {("symbol-silent", "SPY"), ("symbol-silent", "QQQ"), ("lost", None)} <= set(told(events))


async def test_a_handler_may_take_the_events_of_symbols_in_their_line(
    autojump_clock: MockClock,
) -> None:
    seen: list[tuple[Any, Any]] = []

    async def handler(item: tt.Tick | tt.FeedEvent) -> None:
        await trio.sleep(0.5)
        kind = item.kind if isinstance(item, tt.FeedEvent) else item.volume
        seen.append((item.symbol, kind))

    async def script(ws: WebSocketConnection) -> None:
        for volume in range(3):
            await ws.send_message(quote(volume=volume))
        await ws.send_message(json.dumps({"id": 1, "error": "halted", "symbol": "SPY"}))
        await stay(ws)

    async with (
        memory_feed(websocket(script)) as (feed, _),
        tt.open_pipeline(feed, handler) as pipeline,
    ):
        await trio.sleep(10)
        pipeline.ledger.check()
        assert pipeline.ledger.consumed == 4
    assert seen == [("SPY", 0), ("SPY", 1), ("SPY", 2), ("SPY", "symbol-refused")]


@pytest.mark.parametrize("on_feed", [3, lambda: None])
async def test_a_wrong_on_feed(on_feed: Any) -> None:
    with pytest.raises(tt.ConfigError, match="on_feed"):
        async with tt.open_pipeline(tt.IterableFeed([]), ignore, on_feed=on_feed):
            pass
