"""The local Coinbase as any client sees it: words, limits, refusals."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import attrs
import msgspec
import pytest
import trio
from click.testing import CliRunner
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

import trio_ticks as tt
from tests.worlds.coinbase_world import VENUES
from tests.worlds.exchange_client import PATIENCE, handshake, until
from tests.worlds.feed_venues import Collector, running
from trio_ticks.cli.exchange import exchange
from trio_ticks.exchange import ClientLimits
from trio_ticks.exchange.coinbase import (
    FAULTS,
    CoinbaseConfig,
    CoinbaseExchange,
    CoinbaseSettings,
    open_coinbase_exchange,
)
from trio_ticks.exchange.coinbase.market import Product
from trio_ticks.exchange.coinbase.stage import BIG_LEVELS
from trio_ticks.exchange.coinbase.words import AdvancedTongue, ExchangeTongue

both = pytest.mark.parametrize("venue", VENUES)
ZEROS = {"0", "0.0", "0.00", "0.000000", "0.00000000"}


@asynccontextmanager
async def client(served: CoinbaseExchange) -> AsyncIterator[WebSocketConnection]:
    """Connect, with room for large messages."""
    with trio.fail_after(PATIENCE):
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        try:
            async with trio.open_nursery() as nursery:
                yield await wrap_client_stream(
                    nursery, stream, "localhost", "/", max_message_size=1 << 24
                )
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)


async def subscribe(
    ws: WebSocketConnection, venue: str, *channels: str, products: Any = ("BTC-USD",)
) -> None:
    if venue == "coinbase":
        requests = [{"channels": channels, "product_ids": products}]
    else:
        requests = [{"channel": channel, "product_ids": products} for channel in channels]
    for request in requests:
        await ws.send_message(json.dumps({"type": "subscribe", **request}))


async def read(ws: WebSocketConnection, count: float = math.inf) -> list[dict[str, Any]]:
    """Return the next *count* messages, or all up to the end."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        try:
            found.append(json.loads(await ws.get_message()))
        except ConnectionClosed:
            break
    return found


def test_settings_and_config_have_the_same_names() -> None:
    fields = [field.name for field in attrs.fields(CoinbaseConfig)]
    assert fields == list(CoinbaseSettings.__annotations__)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"faults": ["rain"]}, "there is no fault 'rain': there are big-snapshot"),
        ({"venue": "kraken"}, "venue"),
        ({"symbols": "BTC-USD"}, "symbols must be a list of names"),
        ({"symbols": []}, "symbols must be a list of names"),
        ({"rate": 0}, "rate"),
        ({"levels": 1}, "levels"),
        ({"fault_every": 1}, "fault_every"),
        ({"capture": "/nowhere/at/all"}, "cannot open the recording"),
    ],
)
async def test_settings_that_make_no_sense(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(tt.ConfigError, match=words):
        async with open_coinbase_exchange(**settings):
            pytest.fail("opened")


def test_every_fault_says_what_it_does() -> None:
    assert list(FAULTS) == sorted(FAULTS)
    assert all(text.endswith(".") for text in FAULTS.values())


# Words


async def test_the_acknowledgement_of_exchange_lists_all_and_renames() -> None:
    async with open_coinbase_exchange(rate=0.001) as served, client(served) as ws:
        await subscribe(ws, "coinbase", "level2_batch", products=["BTC-USD", "ETH-USD"])
        ack, *snapshots = await read(ws, 3)
        assert ack == {
            "type": "subscriptions",
            "channels": [
                {"name": "level2_50", "product_ids": ["BTC-USD", "ETH-USD"], "account_ids": None}
            ],
        }
        assert [s["product_id"] for s in snapshots] == ["BTC-USD", "ETH-USD"]
        bids = [float(price) for price, _ in snapshots[0]["bids"]]
        asks = [float(price) for price, _ in snapshots[0]["asks"]]
        assert bids == sorted(bids, reverse=True)
        assert asks == sorted(asks)
        assert bids[0] < asks[0]
        request = {
            "type": "subscribe",
            "channels": [{"name": "ticker", "product_ids": ["SOL-USD"]}],
        }
        await ws.send_message(json.dumps(request))
        ack, ticker = await read(ws, 2)
        assert [channel["name"] for channel in ack["channels"]] == ["level2_50", "ticker"]
        assert (ticker["type"], ticker["product_id"]) == ("ticker", "SOL-USD")
        request = {"type": "unsubscribe", "product_ids": ["BTC-USD"], "channels": ["level2_batch"]}
        await ws.send_message(json.dumps(request))
        (ack,) = await read(ws, 1)
        assert ack["channels"][0]["product_ids"] == ["ETH-USD"]


async def test_advanced_trade_numbers_all_messages_of_a_connection() -> None:
    async with (
        open_coinbase_exchange(
            venue="coinbase-advanced", rate=500, limit=200, heartbeat_interval=0.05
        ) as served,
        client(served) as ws,
    ):
        await ws.send_message('{"type":"subscribe","channel":"heartbeats"}')
        await subscribe(ws, "coinbase-advanced", *CHANNELS_OF_DATA)
        seen = await read(ws)
    assert [message["sequence_num"] for message in seen] == list(range(len(seen)))
    assert {message["channel"] for message in seen} == {
        "subscriptions",
        "heartbeats",
        "ticker",
        "l2_data",
        "market_trades",
    }
    acks = [m["events"][0]["subscriptions"] for m in seen if m["channel"] == "subscriptions"]
    assert acks[-1] == {
        "heartbeats": ["heartbeats"],
        **{channel: ["BTC-USD"] for channel in CHANNELS_OF_DATA},
    }
    sides = {
        level["side"]
        for message in seen
        if message["channel"] == "l2_data"
        for level in message["events"][0]["updates"]
    }
    assert sides == {"bid", "offer"}
    assert len({len(message["timestamp"]) for message in seen}) > 1


CHANNELS_OF_DATA = ("ticker", "level2", "market_trades")


async def test_a_zero_is_spelt_in_all_ways() -> None:
    async with (
        open_coinbase_exchange(symbols=["BTC-USD"], rate=5000, limit=500) as served,
        client(served) as ws,
    ):
        await subscribe(ws, "coinbase", "level2_batch")
        seen = await read(ws)
    updates = [message for message in seen if message["type"] == "l2update"]
    sizes = {size for update in updates for _, _, size in update["changes"] if float(size) == 0}
    assert sizes == ZEROS
    assert served.disconnects == {"finished": 1}


async def test_the_first_match_is_history() -> None:
    async with (
        open_coinbase_exchange(symbols=["BTC-USD"], rate=2000) as served,
        client(served) as ws,
        client(served) as late,
    ):
        await subscribe(ws, "coinbase", "matches")
        match = (await read(ws, 3))[-1]
        assert match["type"] == "match"
        await subscribe(late, "coinbase", "matches")
        ack, last, new = await read(late, 3)
    assert (ack["type"], last["type"], new["type"]) == ("subscriptions", "last_match", "match")
    assert new["trade_id"] == last["trade_id"] + 1


async def test_a_ticker_comes_with_each_match() -> None:
    async with (
        open_coinbase_exchange(symbols=["BTC-USD"], rate=2000, limit=400) as served,
        client(served) as ws,
    ):
        await subscribe(ws, "coinbase", "matches", "ticker")
        seen = await read(ws)
    matches = [m for m in seen if m["type"] == "match"]
    tickers = [m for m in seen if m["type"] == "ticker"][1:]
    assert [m["trade_id"] for m in matches] == [m["trade_id"] for m in tickers]
    assert [m["side"] for m in matches] != [m["side"] for m in tickers]
    assert all(
        {m["side"], t["side"]} == {"buy", "sell"} for m, t in zip(matches, tickers, strict=True)
    )


@both
def test_the_big_snapshot_is_larger_than_5_mb(venue: str) -> None:
    tongue = ExchangeTongue() if venue == "coinbase" else AdvancedTongue()
    product = Product("BTC-USD", 0, BIG_LEVELS[venue])
    (snapshot,) = tongue.open(tongue.book, product, datetime(2026, 3, 2, tzinfo=UTC))
    assert len(msgspec.json.encode(snapshot)) > 5_000_000


@both
async def test_the_same_seed_makes_the_same_market(venue: Any) -> None:
    books = []
    for seed in (1, 1, 2):
        async with (
            open_coinbase_exchange(venue=venue, seed=seed, rate=3000, limit=300) as served,
            client(served) as ws,
        ):
            await subscribe(ws, venue, "ticker")
            await read(ws)
        books.append({name: product.bids for name, product in served.market.products.items()})
    assert books[0] == books[1] != books[2]


# Refusals and limits


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"channels": ["ticker"], "product_ids": ["X-USD"]}, "X-USD is not a valid product"),
        ({"channels": ["gossip"], "product_ids": ["BTC-USD"]}, "gossip is not a valid channel"),
        ({"channels": ["level2"], "product_ids": ["BTC-USD"]}, "level2 channel requires auth"),
        ({"channels": ["ticker"]}, "no product ids"),
        ({"type": "shout", "channels": ["ticker"]}, "either subscribe or unsubscribe"),
        ({"channels": 5}, "Malformed JSON"),
    ],
)
async def test_refusals_of_exchange(request_: dict[str, Any], words: str) -> None:
    async with open_coinbase_exchange() as served, client(served) as ws:
        await ws.send_message(json.dumps({"type": "subscribe", **request_}))
        (error,) = await read(ws, 1)
    assert error["type"] == "error"
    assert words in f"{error['message']} {error['reason']}"
    await until(lambda: served.bad_requests == 1)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"channel": "ticker", "product_ids": ["X-USD"]}, "X-USD is not a valid product"),
        ({"channel": "gossip", "product_ids": ["BTC-USD"]}, "no channel gossip"),
        ({"channel": "ticker"}, "no product_ids"),
        ({"channels": ["ticker"]}, "cannot unmarshal"),
        ({"type": "shout", "channel": "ticker"}, "must be subscribe"),
    ],
)
async def test_refusals_of_advanced_trade(request_: dict[str, Any], words: str) -> None:
    async with (
        open_coinbase_exchange(venue="coinbase-advanced") as served,
        client(served) as ws,
    ):
        await ws.send_message(json.dumps({"type": "subscribe", **request_}))
        (error,) = await read(ws, 1)
    assert error["type"] == "error"
    assert words in error["message"]


@both
async def test_who_does_not_subscribe_in_time_is_sent_away(venue: Any) -> None:
    async with (
        open_coinbase_exchange(venue=venue, subscribe_within=0.05) as served,
        client(served) as ws,
    ):
        assert await read(ws) == []
        assert ws.closed is not None
        assert ws.closed.reason == "no subscription"
    assert served.disconnects == {"no_subscription": 1}


@both
async def test_who_sends_too_much_is_cut_off(venue: str) -> None:
    most = 100 if venue == "coinbase" else 8
    settings: Any = {"venue": venue, "rate": 0.001}
    async with open_coinbase_exchange(**settings) as served, client(served) as ws:
        for _ in range(most + 1):
            await ws.send_message("{}")
        assert 0 < len(await read(ws)) <= most
        await until(lambda: served.clients == 0)
    assert served.disconnects == {"rate": 1}


async def test_ten_subscriptions_to_a_product_in_a_channel() -> None:
    async with open_coinbase_exchange(rate=0.001) as served, client(served) as ws:
        for _ in range(11):
            await subscribe(ws, "coinbase", "heartbeat")
        kinds = [message["type"] for message in await read(ws, 11)]
    assert kinds == ["subscriptions"] * 10 + ["error"]


async def test_who_connects_too_often_is_refused() -> None:
    async with open_coinbase_exchange() as served:
        statuses = []
        for _ in range(300):
            stream = await trio.open_tcp_stream("127.0.0.1", served.port)
            async with stream:
                statuses.append((await handshake(stream))[0])
            if statuses[-1] == 429:
                break
    assert statuses[:20] == [101] * 20
    assert served.rejected == {429: 1}


async def test_who_reads_too_slowly_is_sent_away() -> None:
    limits = ClientLimits(buffer_bytes=20_000, socket_buffer_bytes=4096)
    async with open_coinbase_exchange(rate=20_000, limits=limits) as served:
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with stream:
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
            assert (await handshake(stream))[0] == 101
            text = b'{"type":"subscribe","channels":["level2_batch"],"product_ids":["BTC-USD"]}'
            assert len(text) < 126
            await stream.send_all(bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text)
            await until(lambda: served.disconnects["slow_consumer"] == 1)


async def test_after_the_end_nobody_is_let_in() -> None:
    async with open_coinbase_exchange(rate=1000, limit=5) as served:
        async with client(served) as ws:
            await subscribe(ws, "coinbase", "ticker")
            await read(ws)
        await served.finished.wait()
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with stream:
            assert (await handshake(stream))[0] == 503
    assert served.rejected == {503: 1}


async def test_the_block_ends_while_clients_are_connected() -> None:
    with trio.fail_after(PATIENCE):
        async with open_coinbase_exchange() as served:
            stream = await trio.open_tcp_stream("127.0.0.1", served.port)
            await handshake(stream)
        assert served.finished.is_set()
        await trio.aclose_forcefully(stream)


async def test_an_error_of_the_user_is_raised_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_coinbase_exchange():
            raise KeyError("mine")


async def test_a_pause_stops_the_market_and_not_the_heartbeats() -> None:
    async with (
        open_coinbase_exchange(rate=2000, heartbeat_interval=0.02) as served,
        client(served) as ws,
    ):
        await subscribe(ws, "coinbase", "level2_batch", "heartbeat")
        await until(lambda: served.played > 50)
        served.pause()
        played = served.played
        beats = 0
        while beats < 6:
            beats += (await read(ws, 1))[0]["type"] == "heartbeat"
        assert served.played == played
        served.resume()
        await until(lambda: served.played > played + 100)


async def test_clients_are_dropped() -> None:
    async with open_coinbase_exchange() as served, client(served) as ws:
        await until(lambda: served.clients == 1)
        served.drop_clients()
        assert await read(ws) == []
        await until(lambda: served.clients == 0)
    assert served.disconnects == {"dropped": 1}


# The command


@both
def test_the_command_serves_until_it_is_told_to_stop(venue: str) -> None:
    words = ["exchange", "--venue", venue, "--symbols", "BTC-USD", "--fault", "no-sizes"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_ticks", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        quotes: list[tt.Tick] = []

        async def main() -> None:
            feed = tt.WebSocketFeed(url, ["BTC-USD"], venue=venue)
            send = Collector()
            with trio.fail_after(PATIENCE):
                async with running(feed, send):
                    await send.wait_for(3)
            quotes.extend(send.ticks)

        trio.run(main)
        assert all(math.isnan(quote.bid_size) and quote.bid > 0 for quote in quotes)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fault", "cut"], "the venue 'flat' has no fault 'cut'"),
        (["--venue", "coinbase", "--fault", "rain"], "there is no fault 'rain'"),
        (["--venue", "coinbase", "--loop"], "--loop is not for --venue coinbase"),
    ],
)
def test_the_command_refuses(words: list[str], told: str) -> None:
    done = CliRunner().invoke(exchange, words)
    assert isinstance(done.exception, tt.ConfigError)
    assert told in str(done.exception)


def test_the_command_lists_the_faults() -> None:
    done = CliRunner().invoke(exchange, ["--fault", "list"])
    assert done.exit_code == 0
    listed = [line.split()[:2] for line in done.output.splitlines()]
    venues = list(dict.fromkeys(venue for venue, _ in listed))
    assert {"coinbase", "coinbase-advanced", "kraken", "tickdb"} < set(venues)
    for venue in ("coinbase", "coinbase-advanced"):
        assert [fault for name, fault in listed if name == venue] == list(FAULTS)
