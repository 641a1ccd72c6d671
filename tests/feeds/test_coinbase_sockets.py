"""Coinbase on real sockets: all messages, all faults, and right books after them."""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

import trio_ticks as tt
from tests.worlds.coinbase_world import CHANNELS, VENUES, Follower, follow
from tests.worlds.exchange_client import until
from tests.worlds.feed_venues import Collector, running
from trio_ticks.exchange.coinbase import open_coinbase_exchange

both = pytest.mark.parametrize("venue", VENUES)
BEATS: dict[str, Any] = {"heartbeat_interval": 0.05}


async def busy(follower: Follower, updates: int = 500) -> None:
    """Wait until so many updates have been applied, and some trades have come."""
    await until(lambda: follower.outcomes["applied"] >= updates and len(follower.trades) >= 5)


def trade_ids(follower: Follower, symbol: str) -> list[int]:
    return [int(trade.trade_id or 0) for trade in follower.trades if trade.symbol == symbol]


@both
async def test_all_kinds_of_messages_and_right_books(venue: str) -> None:
    async with follow(venue, **BEATS) as follower:
        await busy(follower, 2000)
        await follower.settle()
        stats = follower.feed.stats
    assert (stats.malformed, stats.refused, stats.reconnects, stats.unasked) == (0, 0, 0, 0)
    assert stats.ignored >= 2  # The acknowledgement and heartbeats.
    assert follower.gaps == []
    assert follower.outcomes["snapshot"] == 2
    assert follower.outcomes["wrong"] == 0
    for symbol in follower.exchange.symbols:
        numbers = trade_ids(follower, symbol)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert {trade.side for trade in follower.trades} == {"buy", "sell"}
    now = datetime.now(UTC)
    items: list[Any] = [*follower.quotes, *follower.trades]
    for item in items:
        assert timedelta() <= now - item.timestamp < timedelta(seconds=60)
    assert all(0 < quote.bid < quote.ask and quote.bid_size > 0 for quote in follower.quotes)


@both
async def test_the_default_channel_brings_quotes_and_says_when(
    venue: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_ticks.feeds.websocket")
    async with follow(venue, channels=None) as follower:
        await until(lambda: len(follower.quotes) > 20)
    assert follower.trades == []
    assert follower.books == {}
    notice = "feed.notice: quotes of the channel ticker come with trades only"
    assert sum(notice in record.getMessage() for record in caplog.records) == 1


@both
async def test_symbols_come_and_go(venue: str) -> None:
    async with follow(venue, symbols=["BTC-USD"]) as follower:
        await until(lambda: "BTC-USD" in follower.books)
        assert {quote.symbol for quote in follower.quotes} <= {"BTC-USD"}
        follower.feed.subscribe(["ETH-USD"])
        await follower.settle()
        follower.exchange.resume()
        follower.feed.unsubscribe(["BTC-USD"])
        await until(lambda: follower.exchange.played > 2000)
        before = follower.books["BTC-USD"].applied
        applied = follower.books["ETH-USD"].applied
        await until(lambda: follower.books["ETH-USD"].applied > applied + 500)
        assert follower.books["BTC-USD"].applied == before
    assert follower.exchange.bad_requests == 0


# Losses


@both
async def test_a_cut_ends_in_right_books_and_its_gap_is_told(venue: str) -> None:
    async with follow(venue, faults=["cut"], fault_every=400) as follower:
        await until(lambda: follower.exchange.disconnects["cut"] >= 3)
        await follower.settle()
        await until(lambda: follower.reasons() == {"reconnect"})
    assert {gap.symbol for gap in follower.gaps} == {"BTC-USD", "ETH-USD"}
    assert follower.feed.stats.reconnects >= 3


async def test_a_missed_message_of_advanced_trade_ends_in_right_books() -> None:
    follows: Any = follow("coinbase-advanced", faults=["dropped-message"], fault_every=300, **BEATS)
    async with follows as follower:
        await until(lambda: follower.feed.stats.reconnects >= 2)
        await follower.settle()
    assert "sequence" in follower.reasons()
    assert {gap.symbol for gap in follower.gaps} == {"BTC-USD", "ETH-USD"}
    wished = [event.reason for event in follower.events if event.kind == "lost"]
    assert "sequence_num: 1 messages are missing" in wished
    assert follower.outcomes["wrong"] == 0


async def test_a_missed_trade_of_exchange_is_a_gap_with_its_count() -> None:
    async with follow("coinbase", faults=["dropped-message"], fault_every=5, **BEATS) as follower:
        await until(lambda: len(follower.gaps) >= 3 and len(follower.trades) >= 20)
        await follower.settle()
    assert follower.reasons() == {"sequence"}
    holes = sum(
        later - earlier - 1
        for symbol in follower.exchange.symbols
        for earlier, later in pairwise(trade_ids(follower, symbol))
    )
    # The last trade of all may be missing too, which the heartbeats show.
    told = sum(gap.count for gap in follower.gaps)
    assert holes <= told <= holes + 2
    assert follower.feed.stats.reconnects == 0


async def test_heartbeats_show_that_the_last_trade_is_missing() -> None:
    """Every second trade is left out, and then there are no more."""
    settings: dict[str, Any] = {"faults": ["dropped-message"], "fault_every": 2, **BEATS}
    async with open_coinbase_exchange(symbols=["BTC-USD"], rate=300, **settings) as exchange:
        channels = ["matches", "heartbeat"]
        feed = tt.WebSocketFeed(exchange.url, ["BTC-USD"], venue="coinbase", channels=channels)
        product, send = exchange.market.products["BTC-USD"], Collector()
        async with running(feed, send):
            await until(lambda: len(send.ticks) > 3)
            first: Any = send.ticks[0]

            def stopped_at_a_missing_one() -> bool:
                missing = (product.trade_id - int(first.trade_id)) % 2 == 1
                if missing:
                    exchange.pause()
                return missing

            await until(stopped_at_a_missing_one)
            half = (product.trade_id - int(first.trade_id) + 1) // 2
            await until(lambda: len(send.ticks) == half)
            await until(lambda: sum(gap.count for gap in send.gaps) == half)


@both
async def test_updates_before_a_late_snapshot_come_after_a_gap(venue: str) -> None:
    async with follow(venue, faults=["late-snapshot"], **BEATS) as follower:
        await until(
            lambda: (
                len(follower.books) == 2
                and all(book.state == "valid" for book in follower.books.values())
            )
        )
        await follower.settle()
    assert follower.reasons() == {"sequence"}
    assert {gap.symbol for gap in follower.gaps} == {"BTC-USD", "ETH-USD"}
    assert follower.outcomes["held"] >= 10  # The books know that they lack a snapshot.
    assert follower.outcomes["snapshot"] == 2


@both
async def test_a_broken_update_has_the_snapshot_sent_again(venue: str) -> None:
    settings: dict[str, Any] = {"faults": ["broken-update"], "fault_every": 200, "rate": 600}
    async with follow(venue, **settings, **BEATS) as follower:
        await until(lambda: follower.feed.stats.malformed >= 1)
        await follower.settle()
    assert "malformed" in follower.reasons()
    assert follower.outcomes["snapshot"] > 2
    assert follower.feed.stats.reconnects == 0
    assert follower.exchange.bad_requests == 0


# Faults that cost nothing


@both
@pytest.mark.parametrize(
    "fault",
    [
        "data-before-ack",
        "lower-sequence",
        "no-heartbeat",
        "repeated-message",
        "snapshot-in-mid-stream",
        "unknown-message",
    ],
)
async def test_no_gap_and_right_books_in_spite_of(venue: str, fault: str) -> None:
    async with follow(venue, faults=[fault], fault_every=20, **BEATS) as follower:
        await busy(follower, 1500)
        await follower.settle()
        stats = follower.feed.stats
    assert follower.gaps == []
    assert (stats.malformed, stats.reconnects) == (0, 0)
    for symbol in follower.exchange.symbols:
        times = [quote.timestamp for quote in follower.quotes if quote.symbol == symbol]
        assert times == sorted(times)
    if fault == "snapshot-in-mid-stream":
        assert follower.outcomes["snapshot"] > 20
    if fault in ("lower-sequence", "unknown-message"):
        assert stats.ignored > 5


# Values


@both
async def test_quotes_without_sizes_say_nothing_of_them(venue: str) -> None:
    async with follow(venue, faults=["no-sizes"], channels=["ticker"]) as follower:
        await until(lambda: len(follower.quotes) > 10)
    assert all(math.isnan(quote.bid_size + quote.ask_size) for quote in follower.quotes)
    assert all(math.isnan(quote.pressure_ratio) for quote in follower.quotes)
    assert all(quote.volume > 0 for quote in follower.quotes)


@both
async def test_a_withdrawn_quote_is_a_gap(venue: str) -> None:
    settings: dict[str, Any] = {"faults": ["withdrawn-quote"], "fault_every": 5}
    async with follow(venue, channels=["ticker"], **settings) as follower:
        await until(lambda: len(follower.gaps) > 5)
    assert all(quote.bid > 0 for quote in follower.quotes)
    assert {(gap.reason, gap.count) for gap in follower.gaps} == {("sequence", 0)}
    assert follower.feed.stats.malformed == 0


@both
async def test_a_clock_that_is_ahead(venue: str) -> None:
    async with follow(venue, faults=["clock-ahead"], channels=["ticker"]) as follower:
        await until(lambda: len(follower.quotes) > 10)
        now = datetime.now(UTC)
        assert follower.quotes[-1].timestamp > now
        assert follower.quotes[-1].timestamp - now < timedelta(seconds=1.27)


@both
async def test_a_snapshot_of_more_than_5_mb(venue: str) -> None:
    symbols, levels = ["BTC-USD"], CHANNELS[venue][2 if venue == "coinbase" else 1]
    settings: dict[str, Any] = {"faults": ["big-snapshot"], "symbols": symbols, "rate": 500}
    seen: list[tt.BookUpdate] = []
    async with follow(venue, channels=[levels], **settings) as follower:
        handle = follower.handle

        async def note(item: Any) -> None:
            seen.append(item)
            await handle(item)

        follower.handle = note  # type: ignore[method-assign]
        await until(lambda: follower.outcomes["applied"] > 10)
        product = follower.exchange.market.products["BTC-USD"]
        most = min(99_000, len(product.bids) - 50)
        assert len(follower.books["BTC-USD"].bids()) >= most
        assert len(follower.books["BTC-USD"].asks()) >= most
    stats = follower.feed.stats
    assert (stats.malformed, stats.reconnects) == (0, 0)


# Keeping the connection


async def test_heartbeats_are_no_sign_of_life() -> None:
    settings: dict[str, Any] = {"faults": ["silence"], "fault_every": 100, **BEATS}
    options = {"stale_after": 0.3}
    async with follow("coinbase-advanced", options=options, **settings) as follower:
        await until(lambda: follower.feed.stats.watchdog_trips >= 2)
    assert "reconnect" in follower.reasons()


@both
async def test_a_venue_that_answers_no_pings_is_given_up(venue: str) -> None:
    options = {"ping_interval": 0.05, "pong_timeout": 0.1}
    async with follow(venue, faults=["no-pong"], options=options) as follower:
        await until(lambda: follower.feed.stats.reconnects >= 1)
    lost = [event.reason for event in follower.events if event.kind == "lost"]
    assert lost[0] == "no pong within 0.1 s"


@both
async def test_the_venue_closes_what_is_too_old(venue: str) -> None:
    async with follow(venue, max_age=0.4, subscribe_within=0.2) as follower:
        await until(lambda: follower.exchange.disconnects["max_age"] >= 1)
        await until(lambda: follower.reasons())
    assert follower.reasons() == {"reconnect"}


@both
async def test_a_wrong_product_is_told_and_the_others_come(venue: str) -> None:
    symbols = ["BTC-USD", "GIBBERISH-USD", "ETH-USD", "NONSENSE-USD"]
    async with follow(venue, symbols=symbols) as follower:
        await until(lambda: len(follower.books) == 2)
        await follower.settle()
    refused = {event.symbol: event.reason for event in follower.events if event.symbol}
    assert refused.keys() == {"GIBBERISH-USD", "NONSENSE-USD"}
    assert "GIBBERISH-USD is not a valid product" in refused["GIBBERISH-USD"]
    assert follower.feed.stats.reconnects == 0


async def test_an_alias_in_the_users_words() -> None:
    names = {"BTC-USD": "bitcoin", "ETH-USD": "ether"}
    async with follow("coinbase", symbols=names, faults=["cut"], fault_every=300) as follower:
        await until(lambda: "reconnect" in follower.reasons() and len(follower.books) == 2)
    assert set(follower.books) == {"bitcoin", "ether"}
    assert {gap.symbol for gap in follower.gaps} <= {"bitcoin", "ether"}


async def test_the_feed_keeps_the_books_itself() -> None:
    options = {"books": True}
    channels = ["level2"]
    settings: dict[str, Any] = {"faults": ["dropped-message"], "fault_every": 300, **BEATS}
    async with follow("coinbase-advanced", channels=channels, options=options, **settings) as one:
        await until(lambda: one.feed.stats.reconnects >= 2 and len(one.feed.books) == 2)
        one.books = dict(one.feed.books)
        await one.settle()
    assert one.outcomes["applied"] == 0
    assert all(quote.bid < quote.ask for quote in one.quotes)
    assert "sequence" in one.reasons()
