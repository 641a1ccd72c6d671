"""TickDB over real sockets: the feed, and the exchange with each of its faults."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio_websocket import WebSocketConnection, open_websocket_url

import trio_ticks as tt
from tests.worlds.exchange_client import until
from tests.worlds.feed_venues import Collector, running
from tests.worlds.pipeline_world import assert_accounted
from trio_ticks.exchange import Exchange, open_exchange
from trio_ticks.exchange.registry import SPOKEN, fault_list
from trio_ticks.exchange.tickdb_desk import TICKDB_REST_FAULTS
from trio_ticks.feeds.venues import KeepAlive
from trio_ticks.feeds.venues.tickdb import TickDBCodec
from trio_ticks.feeds.websocket.backoff import BackoffPolicy
from trio_ticks.feeds.websocket.feed import WebSocketFeed

SYMBOLS = ["AAPL.US", "EURUSD", "BTCUSDT", "600519.SH"]
SOON = BackoffPolicy(initial_s=0.001, maximum_s=0.01)
KEY = "a-very-secret/key"


class QuickCodec(TickDBCodec):
    keep_alive = KeepAlive('{"cmd":"ping"}', every_s=0.01, within_s=0.2)


# Nothing here waits for it; it keeps a broken test from hanging.
PATIENCE_S = 20


@asynccontextmanager
async def tickdb(*faults: str, **settings: Any) -> AsyncIterator[Exchange]:
    settings = {"symbols": SYMBOLS, "rate": 2000, "seed": 3, "venue": "tickdb", **settings}
    with trio.fail_after(PATIENCE_S):
        async with open_exchange(faults=faults, **settings) as exchange:
            yield exchange


@asynccontextmanager
async def fed(
    exchange: Exchange, symbols: list[str] | None = None, **options: Any
) -> AsyncIterator[tuple[WebSocketFeed, Collector]]:
    options = {"venue": "tickdb", "backoff": SOON, **options}
    feed = WebSocketFeed(exchange.url, SYMBOLS if symbols is None else symbols, **options)
    send = Collector()
    async with running(feed, send):
        yield feed, send


def kinds(send: Collector) -> dict[str, set[str]]:
    """Return the kinds of items that came, by symbol."""
    found: dict[str, set[str]] = {}
    for item in send.ticks:
        found.setdefault(item.symbol, set()).add(type(item).__name__)
    return found


# What is documented


async def test_by_default_each_symbol_brings_ticks() -> None:
    async with tickdb() as exchange, fed(exchange) as (feed, send):
        assert exchange.url.endswith("/v1/realtime")
        await until(lambda: len(kinds(send)) == len(SYMBOLS))
    assert kinds(send) == {symbol: {"Tick"} for symbol in SYMBOLS}
    for tick in send.ticks:
        assert tick.bid < tick.ask
        # Depth says the sizes, and the ticker, of which forex has to live, does not.
        assert math.isnan(tick.bid_size) == (tick.symbol == "EURUSD")
        assert math.isnan(tick.pressure_ratio) == (tick.symbol == "EURUSD")
    assert feed.malformed == 0
    assert feed.ignored == 2  # The two acknowledgements.
    assert exchange.bad_requests == 0


async def test_all_channels_in_all_their_forms() -> None:
    async with tickdb() as exchange, fed(exchange, channels="all") as (feed, send):
        await until(lambda: len(kinds(send)) == len(SYMBOLS) and len(send.ticks) > 1000)
    assert kinds(send) == {
        "AAPL.US": {"Tick", "Trade", "BookUpdate"},
        "BTCUSDT": {"Tick", "Trade", "BookUpdate"},
        "600519.SH": {"Tick", "Trade", "BookUpdate"},
        "EURUSD": {"Tick"},
    }
    numbered = {item.symbol for item in send.ticks if getattr(item, "trade_id", None)}
    assert numbered == {"AAPL.US", "BTCUSDT"}  # The flat form has no numbers.
    assert feed.malformed == 0


async def test_a_pipeline_accounts_for_every_item() -> None:
    seen: Counter[str] = Counter()

    async def handler(item: tt.Tick) -> None:
        seen[item.symbol] += 1

    async with tickdb(limit=3000, rate=math.inf) as exchange:
        feed = WebSocketFeed(exchange.url, SYMBOLS, venue="tickdb", reconnect=False)
        report = await tt.run_pipeline(feed, handler, overflow=tt.Block(), signals=False)
    assert_accounted(report, consumed=seen.total())
    assert seen.total() > 1000
    assert seen == {key.partition(":")[2]: count for key, count in exchange.sent_by_symbol.items()}


async def test_symbols_come_and_go_on_a_running_connection() -> None:
    async with tickdb() as exchange, fed(exchange, ["AAPL.US"]) as (feed, send):
        await until(lambda: "AAPL.US" in kinds(send))
        feed.subscribe(["EURUSD"])
        await until(lambda: "EURUSD" in kinds(send))
        feed.unsubscribe(["AAPL.US"])
        ignored = feed.ignored
        await until(lambda: feed.ignored > ignored)  # The venue has acknowledged it.
        sent = exchange.sent_by_symbol
        await until(lambda: exchange.sent_by_symbol["ticker:EURUSD"] > sent["ticker:EURUSD"] + 20)
        assert exchange.sent_by_symbol["depth:AAPL.US"] == sent["depth:AAPL.US"]
    assert feed.reconnects == 0
    assert exchange.bad_requests == 0


async def test_a_lost_connection_is_made_again_and_all_subscribed_to_anew() -> None:
    async with tickdb() as exchange, fed(exchange) as (feed, send):
        await until(lambda: len(kinds(send)) == len(SYMBOLS))
        await exchange.drop_clients()
        send.ticks.clear()
        await until(lambda: len(kinds(send)) == len(SYMBOLS))
    assert feed.reconnects == 1
    assert {gap.symbol for gap in send.gaps} == set(SYMBOLS)
    assert [event.kind for event in send.events] == ["lost", "back"]


async def test_the_whole_market_comes_compressed_in_arrays() -> None:
    symbols = [f"S{n}.US" for n in range(600)]
    async with tickdb(symbols=symbols, rate=math.inf, limit=20_000) as exchange:
        feed = WebSocketFeed(exchange.url, venue="tickdb-market", reconnect=False)
        send = Collector()
        await feed.run(send)
    assert set(kinds(send)) == set(symbols)
    assert set().union(*kinds(send).values()) == {"Trade"}
    assert all(math.isnan(item.size) for item in send.ticks)  # type: ignore[attr-defined]  # trades
    assert feed.malformed == 0
    assert feed.stats.messages < len(send.ticks)


async def test_the_whole_market_is_refused_without_compression() -> None:
    async with tickdb() as exchange, talk(exchange) as ask:
        data = {"universes": ["US_Stock"], "channels": ["ticker"]}
        assert (await ask("subscribe", data))["code"] == 2008
    assert exchange.bad_requests == 1


async def test_the_flat_form_at_its_own_path() -> None:
    async with tickdb(api_key=KEY) as exchange:
        url = f"ws://127.0.0.1:{exchange.port}/v1/market/ws"
        feed = WebSocketFeed(url, SYMBOLS, KEY, venue="tickdb-flat", backoff=SOON)
        send = Collector()
        async with running(feed, send):
            await until(lambda: len(kinds(send)) == len(SYMBOLS))
    assert kinds(send) == {symbol: {"Tick"} for symbol in SYMBOLS}
    assert not any(math.isnan(tick.bid_size) for tick in send.ticks)


# Commands


@asynccontextmanager
async def talk(exchange: Exchange) -> AsyncIterator[Callable[..., Any]]:
    """Connect a client that sends single commands, and gets their answers."""
    ws: WebSocketConnection
    async with open_websocket_url(exchange.url) as ws:

        async def ask(cmd: str, data: Any = None) -> Any:
            await ws.send_message(json.dumps({"cmd": cmd, "data": data}))
            while True:
                message = json.loads(await ws.get_message())
                if message["cmd"] not in ("ticker", "depth", "trade"):
                    return message

        yield ask


@pytest.mark.parametrize(
    ("cmd", "data", "code"),
    [
        ("ping", None, 0),
        ("subscribe", {"channel": "ticker", "symbols": ["EURUSD"]}, 0),
        ("subscribe", {"channel": "ticker", "symbols": ["NONE.US"]}, 2002),
        ("subscribe", {"channel": "ticker", "symbols": ["EURUSD", "NONE.US"]}, 5004),
        ("subscribe", {"channel": "depth", "symbols": ["EURUSD"]}, 4005),
        ("subscribe", {"channel": "books", "symbols": ["EURUSD"]}, 2001),
        ("subscribe", {"channel": "ticker"}, 2001),
        ("subscribe", {"channel": "ticker", "symbols": [7]}, 2001),
        ("subscribe", None, 2001),
        ("login", None, 2001),
        ("unsubscribe", {"channel": "ticker", "symbols": ["EURUSD"]}, 0),
    ],
)
async def test_commands_and_their_codes(cmd: str, data: Any, code: int) -> None:
    async with tickdb() as exchange, talk(exchange) as ask:
        reply = await ask(cmd, data)
        assert reply["code"] == code
        assert (await ask("ping"))["cmd"] == "pong"
    assert exchange.bad_requests == (code != 0)


async def test_text_codes_are_text() -> None:
    async with tickdb("text-codes") as exchange, talk(exchange) as ask:
        assert (await ask("ping"))["code"] == "0"
        assert (await ask("login"))["code"] == "2001"


# The key


async def test_the_key_goes_into_the_query_and_into_no_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with tickdb(api_key=KEY) as exchange, fed(exchange, api_key=KEY) as (feed, send):
        await send.wait_for(1)
        await exchange.drop_clients()
        await until(lambda: feed.reconnects)
        shown = repr(feed) + feed.url + str(send.events)
    assert "secret" not in caplog.text + shown
    assert "api_key" not in caplog.text + shown
    assert exchange.rejected == {}


@pytest.mark.parametrize("key", [None, "wrong-secret-key"])
async def test_a_wrong_key_or_none_ends_the_feed_at_once(
    key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with tickdb(api_key=KEY) as exchange:
        feed = WebSocketFeed(exchange.url, SYMBOLS, key, venue="tickdb")
        with pytest.raises(tt.FeedAuthError) as caught:
            await feed.run(Collector())
        assert exchange.rejected == {401: 1}
    assert caught.value.status == 401
    assert "secret" not in caplog.text + str(caught.value)


async def test_a_key_that_is_not_allowed_ends_the_feed_at_once() -> None:
    async with tickdb("forbidden") as exchange:
        with pytest.raises(tt.FeedAuthError):
            await WebSocketFeed(exchange.url, SYMBOLS, KEY, venue="tickdb").run(Collector())
        assert exchange.rejected == {403: 1}


async def test_too_many_connections_are_tried_again() -> None:
    async with tickdb("too-many") as exchange, fed(exchange, give_up_after=60) as (feed, _):
        await until(lambda: feed.stats.connect_failures)
        assert exchange.rejected[429] >= 1


# The other faults


async def test_after_a_partial_refusal_the_rest_comes_and_what_failed_is_asked_for_again() -> None:
    symbols = ["AAPL.US", "BTCUSDT", "NONE.US"]
    async with tickdb("partial") as exchange, fed(exchange, symbols) as (feed, send):
        await until(lambda: set(kinds(send)) == {"AAPL.US", "BTCUSDT"})
        events = [event for event in send.events if event.symbol is not None]
    assert feed.reconnects == 0
    refused = [event.symbol for event in events if event.kind == "symbol-refused"]
    assert sorted(refused, key=str) == ["BTCUSDT", "NONE.US"]
    assert all("5004" in event.reason for event in events if event.kind == "symbol-refused")


async def test_a_busy_venue_is_asked_again() -> None:
    async with tickdb("busy") as exchange, fed(exchange, ["AAPL.US", "EURUSD"]) as (feed, send):
        await until(lambda: len(kinds(send)) == 2)
    assert "3001" in send.events[0].reason
    assert feed.reconnects == 0


async def test_an_unknown_symbol_is_told_and_costs_no_other() -> None:
    async with tickdb() as exchange, fed(exchange, ["NONE.US", "EURUSD"]) as (feed, send):
        await until(lambda: send.events and send.ticks)
        await exchange.drop_clients()
        send.ticks.clear()
        await send.wait_for(1)
    event = send.events[0]
    assert (event.kind, event.symbol) == ("symbol-refused", "NONE.US")
    # The refusal is final: it was not asked for again.
    assert feed.stats.refused == 1


async def test_a_venue_that_does_not_answer_the_keep_alive_is_given_up() -> None:
    async with tickdb("no-pong") as exchange, fed(exchange, venue=QuickCodec) as (_feed, send):
        await until(lambda: [event.kind for event in send.events] == ["lost", "back"])
        assert "keep-alive" in send.events[0].reason


async def test_a_keep_alive_that_is_answered_costs_nothing() -> None:
    async with tickdb() as exchange, fed(exchange, venue=QuickCodec) as (feed, send):
        # Two acknowledgements, and then pongs.
        await until(lambda: feed.ignored > 10)
    assert send.events == []


async def test_a_silent_venue_trips_the_watchdog() -> None:
    async with tickdb("silent") as exchange, fed(exchange, stale_after=0.1) as (feed, _send):
        await until(lambda: feed.stats.watchdog_trips)


async def test_what_comes_before_the_acknowledgement_is_no_harm() -> None:
    async with tickdb("early-data") as exchange, fed(exchange, channels="ticker") as (feed, send):
        await until(lambda: len(kinds(send)) == len(SYMBOLS))
    assert feed.stats.unasked == 1
    assert feed.malformed == 0
    assert "EARLY" not in kinds(send)


@pytest.mark.parametrize("fault", ["text-codes", "bare-symbols", "arrays", "clock-ahead"])
async def test_spellings_change_nothing(fault: str) -> None:
    async with tickdb(fault) as exchange, fed(exchange, channels="all") as (feed, send):
        await until(lambda: len(kinds(send)) == len(SYMBOLS))
    assert feed.malformed == feed.stats.unasked == 0
    assert feed.stats.refused == 0


async def test_a_quote_of_zeros_makes_no_tick() -> None:
    async with tickdb("zero-quotes") as exchange, fed(exchange, channels="ticker") as (_, send):
        await until(lambda: len(kinds(send)) == len(SYMBOLS))
    assert kinds(send)["AAPL.US"] == {"Trade"}
    assert kinds(send)["EURUSD"] == {"Tick"}


async def test_a_withdrawn_quote_is_a_gap() -> None:
    async with tickdb("withdrawn") as exchange, fed(exchange) as (feed, send):
        await until(lambda: {gap.symbol for gap in send.gaps} == set(SYMBOLS))
    assert {gap.reason for gap in send.gaps} == {"sequence"}
    assert feed.malformed == 0


async def test_what_comes_twice_is_left_out_where_that_is_wished() -> None:
    async with tickdb("repeats") as exchange, fed(exchange, newer_only=True) as (feed, send):
        await until(lambda: feed.stats.duplicates > 100)
    # Sizes that are absent equal each other too. The last repetition may be on its way.
    assert feed.stats.duplicates >= len(send.ticks) - 1
    for symbol in SYMBOLS:
        mine = [tick for tick in send.ticks if tick.symbol == symbol]
        assert all(before != after for before, after in pairwise(mine))


async def test_whole_seconds_make_no_duplicates() -> None:
    async with tickdb("whole-seconds") as exchange, fed(exchange, newer_only=True) as (_, send):
        await send.wait_for(200)
    assert len({(tick.symbol, tick.timestamp) for tick in send.ticks}) < 100
    assert all(tick.timestamp.microsecond == 0 for tick in send.ticks)


async def test_junk_is_counted() -> None:
    async with tickdb("junk") as exchange, fed(exchange) as (feed, send):
        await until(lambda: feed.malformed > 20)
    assert send.ticks
    assert feed.reconnects == 0


# Choosing


def test_every_fault_is_tested_here_and_listed() -> None:
    with open(__file__, encoding="utf-8") as file:
        text = file.read()
    listed = [line.split()[:2] for line in fault_list().splitlines()]
    for name in SPOKEN["tickdb"].faults:
        # Those of REST are tested in test_exchange_rest.py and in tests/history.
        assert f'"{name}"' in text or name in TICKDB_REST_FAULTS
        assert ["tickdb", name] in listed


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"venue": "tickdb", "faults": ["deaf"]}, "'tickdb' has no fault 'deaf': it has forbidden"),
        ({"faults": ["deaf"]}, "'flat' has no fault 'deaf': it has none"),
        ({"venue": "coinbase"}, "'coinbase' is opened by .*open_coinbase_exchange"),
    ],
)
async def test_what_it_does_not_speak_is_one_clear_error(
    settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(tt.ConfigError, match=told):
        async with open_exchange(**settings):
            pytest.fail("opened")
