"""Recordings of Kraken and TickDB, played by the exchange in their own words.

From the file and over a socket they make the same items. The test of a real recording
has siblings whose recordings are made here: by a client of the local exchange that
writes down what it gets.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

import trio_ticks as tt
from tests.worlds.exchange_client import PATIENCE
from tests.worlds.feed_venues import Collector
from tests.worlds.recordings import KRAKEN, T0, needs_real, write
from trio_ticks.exchange import Exchange, open_exchange
from trio_ticks.feeds.captures import recognise
from trio_ticks.feeds.replay import ReplayFeed

VENUES = ("kraken", "tickdb")
SYMBOLS = {"kraken": ["BTC/USD", "ETH/USD"], "tickdb": ["NVDA.US", "EURUSD", "600519.SH"]}
CHANNELS: dict[str, Any] = {
    "kraken": ["ticker", "book-25", "trade", "ohlc", "ohlc-5", "instrument"],
    "tickdb": ["ticker", "depth", "trade"],
}
LAST = {"kraken": '"channel":"instrument"', "tickdb": '"channel":"trade","symbols":["600519.SH"]'}
"""What the answer to the last request holds."""
both = pytest.mark.parametrize("venue", VENUES)


class Told(Collector):
    """Stands for a channel that is told of gaps: they are among its items."""

    ticks: list[Any]

    def mark_gap(self, gap: tt.Gap, *, book: bool = False) -> None:
        self.ticks.append((gap.symbol, gap.reason, gap.count, book))


def requests(venue: str) -> list[dict[str, Any]]:
    """Return what a recorder asks for."""
    symbols = SYMBOLS[venue]
    if venue == "tickdb":
        return [
            {"cmd": "subscribe", "data": {"channel": channel, "symbols": [symbol]}}
            for channel in CHANNELS[venue]
            for symbol in symbols
            if (channel, symbol) != ("depth", "EURUSD")  # There is none.
        ]
    asked: list[dict[str, Any]] = [
        {"channel": "ticker", "event_trigger": "bbo"},
        {"channel": "book", "depth": 25},
        {"channel": "trade"},
        {"channel": "ohlc", "interval": 1},
        {"channel": "ohlc", "interval": 5},
    ]
    params = [{**each, "symbol": symbols} for each in asked] + [{"channel": "instrument"}]
    return [{"method": "subscribe", "params": each} for each in params]


async def listen(exchange: Exchange, venue: str) -> list[str]:
    """Return all that a client gets, until the market ends."""
    lines: list[str] = []
    async with trio.open_nursery() as nursery:
        stream = await trio.open_tcp_stream("127.0.0.1", exchange.port)
        path = "/v1/realtime" if venue == "tickdb" else "/"
        ws: WebSocketConnection = await wrap_client_stream(nursery, stream, "localhost", path)
        exchange.pause()
        for request in requests(venue):
            await ws.send_message(json.dumps(request))
        # Once the last request is answered, all of them are.
        while not any(LAST[venue] in line for line in lines):
            lines.append(str(await ws.get_message()))
        exchange.resume()
        try:
            while True:
                lines.append(str(await ws.get_message()))
        except ConnectionClosed:
            await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()
    return lines


async def record(path: Path, venue: str, limit: int = 200, **settings: Any) -> Path:
    """Write down all that a client of a made-up market gets, until its end."""
    settings = {"symbols": SYMBOLS[venue], "rate": 2000, "limit": limit, **settings}
    with trio.fail_after(PATIENCE):
        async with open_exchange(venue=venue, **settings) as exchange:
            lines = await listen(exchange, venue)
    return write(path, *(f"{T0 + n * 1_000_000} {line}" for n, line in enumerate(lines)))


async def from_file(path: Path, **options: Any) -> tuple[list[Any], ReplayFeed]:
    feed, send = ReplayFeed(path, math.inf, **options), Told()
    await feed.run(send)
    return send.ticks, feed


async def over_a_socket(
    path: Path, venue: str, symbols: Any, channels: Any, speed: float = math.inf, **settings: Any
) -> tuple[list[Any], tt.WebSocketFeed]:
    async with open_exchange(venue=venue, capture=path, speed=speed, **settings) as exchange:
        feed = tt.WebSocketFeed(
            exchange.url, symbols, venue=venue, channels=channels, reconnect=False
        )
        send = Told()
        with trio.fail_after(PATIENCE):
            await feed.run(send)
        assert exchange.skipped == 0
    return send.ticks, feed


def kinds(items: list[Any]) -> Counter[str]:
    return Counter(
        "snapshot" if getattr(item, "snapshot", False) else type(item).__name__ for item in items
    )


async def compare(path: Path, venue: str, channels: Any, **settings: Any) -> Counter[str]:
    """Play *path* from the file and over a socket; both must make the same items."""
    assert recognise(path).name == venue
    recorded, replay = await from_file(path, channels=channels)
    symbols = sorted({item.symbol for item in recorded if not isinstance(item, tuple)})
    live, feed = await over_a_socket(path, venue, symbols, channels, **settings)
    assert live == recorded
    assert (replay.stats.malformed, feed.stats.malformed) == (0, 0)
    assert (replay.stats.refused, feed.stats.refused) == (0, 0)
    return kinds(recorded)


@both
async def test_a_recording_and_a_socket_make_the_same(tmp_path: Path, venue: str) -> None:
    path = await record(tmp_path / "recording", venue)
    found = await compare(path, venue, CHANNELS[venue])
    if venue == "kraken":
        assert found.keys() == {"Tick", "Trade", "Bar", "BookUpdate", "snapshot"}
        assert found["snapshot"] == 2
        assert found["Trade"] == 200
    else:
        # A ticker makes a tick where it has a quote, as that of forex has.
        assert found.keys() == {"Tick", "Trade", "snapshot"}
        assert sum(found.values()) > 250


@both
async def test_a_recording_has_its_own_pace(tmp_path: Path, venue: str) -> None:
    path = await record(tmp_path / "recording", venue, limit=60)
    await compare(path, venue, CHANNELS[venue], speed=5)


async def test_what_a_client_did_not_ask_for_is_not_played(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording", "kraken")
    live, _ = await over_a_socket(path, "kraken", ["ETH/USD"], ["trade"])
    assert kinds(live).keys() == {"Trade"}
    assert {trade.symbol for trade in live} == {"ETH/USD"}
    path = await record(tmp_path / "other", "tickdb")
    live, _ = await over_a_socket(path, "tickdb", ["EURUSD"], ["ticker"])
    assert kinds(live).keys() == {"Tick"}
    assert {tick.symbol for tick in live} == {"EURUSD"}


async def test_a_symbol_that_is_not_in_the_recording_is_refused(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording", "kraken", limit=50)
    _, feed = await over_a_socket(path, "kraken", ["BTC/USD", "SOL/USD"], ["ticker"])
    assert feed.stats.refused == 1
    with pytest.raises(tt.ConfigError, match="no symbol 'SOL/USD': it has "):
        async with open_exchange(venue="kraken", capture=path, symbols=["SOL/USD"]):
            pytest.fail("opened")


async def test_arrays_of_tickdb_reach_who_asked_for_some_symbols(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording", "tickdb", limit=80, faults=["arrays"])
    assert any(" [{" in line for line in path.read_text().splitlines())
    await compare(path, "tickdb", ["ticker", "depth"])


async def test_a_whole_market_of_tickdb_is_played(tmp_path: Path) -> None:
    rows = [
        [
            {
                "cmd": "ticker",
                "data": {
                    "symbol": f"S{n}.US",
                    "last_price": f"{n + 1}",
                    "timestamp": 10**12,
                },
            }
            for n in range(first, first + 500)
        ]
        for first in (0, 500)
    ]
    path = write(
        tmp_path / "recording", *(f"{T0 + n} {json.dumps(each)}" for n, each in enumerate(rows))
    )
    recorded, _ = await from_file(path, venue="tickdb", channels="ticker")
    async with open_exchange(venue="tickdb", capture=path, speed=math.inf) as exchange:
        feed = tt.WebSocketFeed(exchange.url, venue="tickdb-market", reconnect=False)
        send = Told()
        with trio.fail_after(PATIENCE):
            await feed.run(send)
    assert len(recorded) == 1000
    assert send.ticks == recorded


async def test_books_stay_right_in_the_feed(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording", "kraken")
    async with open_exchange(venue="kraken", capture=path, speed=math.inf) as exchange:
        feed = tt.WebSocketFeed(
            exchange.url,
            SYMBOLS["kraken"],
            venue="kraken",
            channels=["book-25"],
            books=True,
            reconnect=False,
        )
        send = Told()
        with trio.fail_after(PATIENCE):
            await feed.run(send)
        assert all(book.applied > 20 for book in feed.books.values())
    assert feed.stats.book_errors == 0
    assert kinds(send.ticks).keys() == {"Tick"}


async def test_junk_and_answers_in_a_recording_are_left_out(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording", "kraken", limit=50)
    lines = path.read_text().splitlines()
    junk = [
        f"{T0} junk",
        "5x junk",
        f"{T0} []",
        f"{T0} 5",
        f'{T0} {{"channel":"book","data":5}}',
        f'{T0} {{"channel":"book","data":[5,{{"symbol":5}}]}}',
        f'{T0} {{"channel":"executions","data":[]}}',
        f"{T0} " + "[" * 100_000,
    ]
    write(path, *lines[:20], *junk, *lines[20:])
    live, feed = await over_a_socket(path, "kraken", SYMBOLS["kraken"], ["trade"])
    assert kinds(live) == {"Trade": 50}
    assert feed.stats.malformed == 0


async def test_a_recording_waits_for_its_slowest_client(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording", "kraken", limit=300)
    seen: list[Any] = []

    async def slow(item: Any) -> None:
        seen.append(item)
        if len(seen) % 300 == 0:
            await trio.sleep(0.05)

    async with open_exchange(venue="kraken", capture=path, speed=math.inf) as exchange:
        feed = tt.WebSocketFeed(
            exchange.url,
            SYMBOLS["kraken"],
            venue="kraken",
            channels=CHANNELS["kraken"],
            reconnect=False,
        )
        with trio.fail_after(PATIENCE):
            report = await tt.run_pipeline(feed, slow, maxsize=50, overflow=tt.Block())
    assert kinds(seen)["Trade"] == 300
    assert report.ledger.unaccounted == report.ledger.dropped == 0


async def test_a_recording_can_be_played_for_ever(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording", "kraken", limit=30)
    with trio.fail_after(PATIENCE):
        async with open_exchange(
            venue="kraken", capture=path, speed=math.inf, loop=True, limit=500
        ) as exchange:
            lines = await listen(exchange, "kraken")
    assert exchange.generated == 500
    assert sum('"channel":"instrument","type":"snapshot"' in line for line in lines) > 1


async def test_without_own_words_it_is_played_in_the_flat_protocol(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording", "kraken", limit=50)
    async with open_exchange(
        venue="kraken", capture=path, speed=math.inf, own_words=False
    ) as exchange:
        feed = tt.WebSocketFeed(exchange.url, exchange.symbols, reconnect=False)
        send = Told()
        with trio.fail_after(PATIENCE):
            await feed.run(send)
    assert kinds(send.ticks).keys() == {"Tick"}


async def test_a_recording_has_no_faults(tmp_path: Path) -> None:
    with pytest.raises(tt.ConfigError, match="played as it is"):
        async with open_exchange(venue="kraken", capture=tmp_path, faults=["cut"]):
            pytest.fail("opened")


@needs_real
async def test_the_real_recording_of_kraken() -> None:
    for channels in (["book-25"], ["book-25", "trade", "instrument"]):
        found = await compare(KRAKEN, "kraken", channels)
        assert found == {"BookUpdate": 42, "snapshot": 1}


@needs_real
async def test_the_checksums_of_the_real_recording_of_kraken_hold_over_a_socket() -> None:
    async with open_exchange(venue="kraken", capture=KRAKEN, speed=math.inf) as exchange:
        feed = tt.WebSocketFeed(
            exchange.url,
            ["BTC/USD"],
            venue="kraken",
            channels=["book-25"],
            books=True,
            reconnect=False,
        )
        with trio.fail_after(PATIENCE):
            await feed.run(Told())
        book = feed.books["BTC/USD"]
        assert book.applied == 43
    assert (feed.stats.booked, feed.stats.book_errors) == (43, 0)
