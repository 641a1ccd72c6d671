"""Several feeds into one pipeline: names, symbols, counts, errors, shutdown."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.feed_venues import memory_feed, quote, says, websocket
from tests.worlds.helpers import make_tick
from trio_ticks.feeds.merged import MergedFeed


class Named:
    """A feed of the user's, with symbols and a throttle."""

    def __init__(self, name: str, *symbols: str, fails: Exception | None = None) -> None:
        self.name = name
        self.symbols = symbols
        self.stats = tt.FeedStats(connected=True)
        self.asked: list[float | None] = []
        self.snapshots: list[str] = []
        self._fails = fails

    def throttle(self, max_rate: float | None) -> None:
        self.asked.append(max_rate)

    async def request_snapshot(self, symbol: str) -> None:
        self.snapshots.append(symbol)

    async def run(self, send: Any) -> None:
        for n in range(100):
            self.stats.messages += 1
            await send.send(make_tick(self.symbols[0], n))
        if self._fails is not None:
            await trio.sleep(1)
            raise self._fails
        await trio.sleep(5)


async def nothing(_tick: tt.Tick) -> None:
    await trio.sleep(0.001)


async def test_all_that_comes_is_handled_and_the_last_feed_ends_it(
    autojump_clock: MockClock,
) -> None:
    feeds: list[tt.Feed] = [Named("a", "A"), Named("b", "B"), tt.IterableFeed([make_tick("C", 1)])]
    seen: dict[str, list[float]] = {}

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(0.01)
        seen.setdefault(tick.symbol, []).append(tick.volume)

    report = await tt.run_pipeline(feeds, handler, maxsize=3, overflow=tt.Block(), signals=False)
    assert report.consumed == 201
    # Each feed has waited for room by itself, and the order of a symbol was kept.
    assert seen == {"A": list(range(100)), "B": list(range(100)), "C": [1]}


async def test_the_first_error_ends_all_and_comes_out_as_itself(
    autojump_clock: MockClock,
) -> None:
    feeds = [Named("a", "A", fails=tt.FeedBrokenError("gone")), Named("b", "B")]
    start = trio.current_time()
    with pytest.raises(tt.FeedBrokenError, match="gone"):
        await tt.run_pipeline(feeds, nothing, signals=False)
    assert trio.current_time() - start < 2


async def test_counts_are_sums_and_connected_means_all(autojump_clock: MockClock) -> None:
    one, two = Named("a", "A"), Named("b", "B")
    async with tt.open_pipeline([one, two], nothing) as pipeline:
        await trio.sleep(1)
        assert pipeline.metrics().producer_connected
        two.stats.connected = False
        two.stats.reconnects, two.stats.silent_names = 3, ("B",)
        metrics = pipeline.metrics()
        assert not metrics.producer_connected
        assert (metrics.reconnects, metrics.silent_names) == (3, ("B",))
        assert pipeline.feed_stats.messages == 200


async def test_a_limit_is_shared_out_by_the_messages_so_far() -> None:
    one, two = Named("a", "A"), Named("b", "B")
    one.stats.messages, two.stats.messages = 299, 99
    feed = MergedFeed([one, two])
    await feed.throttle(100.0)
    await feed.throttle(None)
    assert (one.asked, two.asked) == ([75.0, None], [25.0, None])


async def test_a_snapshot_is_asked_of_the_feed_that_has_the_symbol() -> None:
    one, two = Named("a", "A"), Named("b", "B")
    await MergedFeed([one, two]).request_snapshot("B")
    assert (one.snapshots, two.snapshots) == ([], ["B"])


async def test_feeds_of_one_venue_get_names_of_their_own(autojump_clock: MockClock) -> None:
    events: list[tt.FeedEvent] = []
    soon = {"symbol_stale_after": 20.0}
    async with (
        memory_feed(websocket(says(quote())), symbols={"SPY": "spy.one"}, **soon) as (one, _),
        memory_feed(websocket(says(quote())), symbols={"SPY": "spy.two"}, **soon) as (two, _),
        tt.open_pipeline([one, two], nothing, on_feed=events.append) as pipeline,
    ):
        await trio.sleep(100)
        assert pipeline.ledger.consumed >= 2
    assert (one.name, two.name) == ("flat", "flat-2")
    assert {(event.feed, event.symbol) for event in events if event.symbol} == {
        ("flat", "spy.one"),
        ("flat-2", "spy.two"),
    }


def test_a_symbol_may_come_from_one_feed_only_unless_it_is_allowed() -> None:
    feeds = [Named("a", "A", "X"), Named("b", "B", "X")]
    with pytest.raises(tt.ConfigError, match=r"'a' and 'b' would both bring the symbol 'X'"):
        MergedFeed(feeds)
    assert MergedFeed(feeds, shared_symbols=True).names == ("a", "b")


def test_names_given_twice_and_feeds_given_twice() -> None:
    options: Any = {"url": "ws://x", "name": "desk"}
    one = tt.WebSocketFeed(symbols=["A"], **options)
    two = tt.WebSocketFeed(symbols=["B"], **options)
    with pytest.raises(tt.ConfigError, match="same name 'desk'"):
        MergedFeed([one, two])
    with pytest.raises(tt.ConfigError, match="twice"):
        MergedFeed([one, one])
    with pytest.raises(tt.ConfigError, match="at least one"):
        MergedFeed([])


async def test_a_list_with_something_that_is_no_feed() -> None:
    with pytest.raises(tt.ConfigError, match="feed must"):
        async with tt.open_pipeline([Named("a", "A"), 3], nothing):  # type: ignore[list-item]
            pass


async def test_a_feed_that_has_ended_leaves_no_handle_open(autojump_clock: MockClock) -> None:
    feeds: list[tt.Feed] = [tt.IterableFeed([make_tick("A", 1)]), Named("b", "B")]
    async with tt.open_pipeline(feeds, nothing) as pipeline:
        await trio.sleep(1)
        # The pipeline's own, and that of the feed that goes on.
        assert pipeline.statistics().open_send_channels == 2
