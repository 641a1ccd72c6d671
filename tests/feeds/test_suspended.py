"""Symbols that come and go from any thread, and a feed that is silent for a while."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.feeds.test_links import REFUSED, Unlimited, Wires, WordCodec, started
from tests.worlds.feed_venues import memory_feed
from tests.worlds.pipeline_world import Recorder
from trio_ticks.feeds.venues import Codec


async def in_thread(call: Any, *args: Any) -> None:
    """Make *call* in a thread that trio does not know, and let the loop act on it."""
    await trio.to_thread.run_sync(call, *args)
    await wait_all_tasks_blocked()


async def test_symbols_from_a_thread() -> None:
    async with started(["A"], Unlimited) as s:
        (wire,) = s.wires.all
        await in_thread(s.feed.subscribe, ["B", "C"])
        assert wire.got == ["+A", "+B,C"]
        await in_thread(s.feed.unsubscribe, ["B"])
        assert wire.got == ["+A", "+B,C", "-B"]
        assert s.feed.symbols == ("A", "C")
        with pytest.raises(tt.ConfigError, match="the name 'C' belongs to another symbol"):
            await in_thread(s.feed.subscribe, {"X": "C"})
        await wire.say("A 1", "B 2", "C 3")
        assert [item.symbol for item in s.send.ticks] == ["A", "C"]


async def test_threads_at_once_lose_nothing() -> None:
    async with started(["S"], Unlimited) as s:

        def come_and_go(name: str) -> None:
            for n in range(20):
                s.feed.subscribe([f"{name}{n}"])
                if n % 2:
                    s.feed.unsubscribe([f"{name}{n}"])

        async with trio.open_nursery() as nursery:
            for name in "ABCD":
                nursery.start_soon(trio.to_thread.run_sync, come_and_go, name)
        await wait_all_tasks_blocked()
        wanted = {"S"} | {f"{name}{n}" for name in "ABCD" for n in range(0, 20, 2)}
        assert set(s.feed.symbols) == wanted
        asked = set[str]()
        for message in map(str, s.wires[0].got):
            names = message[1:].split(",")
            (asked.update if message[0] == "+" else asked.difference_update)(names)
        assert asked == wanted


async def test_from_a_thread_while_it_is_not_connected(mock_clock: MockClock) -> None:
    async with started(["A"], Unlimited, REFUSED) as s:
        # The clock stands still, so that no thread is late for the next attempt.
        await in_thread(s.feed.subscribe, ["B"])
        await in_thread(s.feed.unsubscribe, ["A"])
        assert s.wires.all == []
        mock_clock.jump(5)
        await wait_all_tasks_blocked()
        assert s.wires[0].got == ["+B"]


async def test_a_suspended_feed_is_silent_and_not_given_up(autojump_clock: MockClock) -> None:
    async with started(["A", "B"], Unlimited, stale_after=5) as s:
        (wire,) = s.wires.all
        await wire.say("A 1", "B 2")
        assert s.feed.suspend is not None
        s.feed.suspend()
        s.feed.suspend()
        left_at = trio.current_time()
        await wire.say("A 3")
        assert wire.got == ["+A,B", "-A,B"]
        assert (s.feed.symbols, s.feed.stats.unasked) == (("A", "B"), 1)
        # What comes and goes meanwhile is kept.
        s.feed.subscribe(["C"])
        s.feed.unsubscribe(["B"])
        await trio.sleep(64.9)
        assert (s.feed.connected, s.feed.stats.watchdog_trips) == (True, 0)
        assert (s.feed.stats.silent_symbols, s.events, s.gaps) == (0, [], [])
        s.feed.resume()
        s.feed.resume()
        await trio.sleep(4)
        assert s.feed.stats.watchdog_trips == 0
        await wire.say("A 4", "C 5")
        assert wire.got == ["+A,B", "-A,B", "+A,C"]
        assert s.gaps == [("A", "unsubscribed", 0)]
        (gap,) = s.send.gaps
        gone_s = (gap.timestamp - gap.first_timestamp).total_seconds()
        assert gone_s == pytest.approx(trio.current_time() - left_at - 4)
        # The watchdog is back. Its time counts from the return.
        await trio.sleep(4)
        assert s.feed.stats.watchdog_trips == 0
        await trio.sleep(2)
        assert s.feed.stats.watchdog_trips == 1
        assert [item.volume for item in s.send.ticks] == [1, 2, 4, 5]


async def test_a_connection_that_is_lost_meanwhile_subscribes_to_nothing(
    autojump_clock: MockClock,
) -> None:
    async with started(["A"], Unlimited) as s:
        assert s.feed.suspend is not None
        s.feed.suspend()
        await s.wires[0].close()
        await trio.sleep(5)
        assert s.wires[1].got == []
        s.feed.resume()
        await wait_all_tasks_blocked()
        assert s.wires[1].got == ["+A"]
        assert s.gaps == [("A", "unsubscribed", 0)]


async def test_who_cannot_be_silent() -> None:
    class Forgetful(WordCodec):
        unsubscribe = Codec.unsubscribe

    class Everything(WordCodec):
        wildcard = "*"

    assert tt.WebSocketFeed("ws://venue.test", ["A"], venue=Forgetful).suspend is None
    assert tt.WebSocketFeed("ws://venue.test", venue=Everything).suspend is None
    assert tt.WebSocketFeed("ws://venue.test", ["A"], venue=Everything).suspend is not None


async def test_a_paused_pipeline_tells_of_the_gap_on_return(autojump_clock: MockClock) -> None:
    wires, handler, gaps = Wires(), Recorder(), list[tt.Gap]()
    async with (
        memory_feed(
            wires.script, symbols=["A"], venue=Unlimited, stale_after=5, ping_interval=None
        ) as (feed, _),
        tt.open_pipeline(feed, handler, on_gap=gaps.append) as pipeline,
    ):
        await wait_all_tasks_blocked()
        await wires[0].say("A 1")
        pipeline.pause(feed="unsubscribe")
        assert pipeline.metrics().paused == "unsubscribe"
        assert pipeline.metrics().producer_connected
        await trio.sleep(64.9)
        assert wires[0].got == ["+A", "-A"]
        pipeline.resume()
        await wires[0].say("A 2")
        assert [tick.volume for tick in handler.ticks] == [1, 2]
        assert [(gap.symbol, gap.reason) for gap in gaps] == [("A", "unsubscribed")]
        assert len(wires.all) == 1
