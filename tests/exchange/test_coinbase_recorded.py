"""Recordings of Coinbase: from the file and over a socket they are the same.

Each test of a real recording has a smaller sibling, whose recording is made here: by a
client of the local exchange that writes down what it gets.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

import trio_ticks as tt
from tests.worlds.coinbase_world import CHANNELS, VENUES
from tests.worlds.exchange_client import PATIENCE
from tests.worlds.feed_venues import Collector
from tests.worlds.recordings import COINBASE, KRAKEN, T0, needs_real, write
from trio_ticks.exchange.coinbase import open_coinbase_exchange
from trio_ticks.feeds.captures import recognise
from trio_ticks.feeds.replay import ReplayFeed

ADVANCED = KRAKEN.parent / "coinbase_advanced_l2_sample.jsonl"
ANY_TIME = datetime(2026, 3, 2, tzinfo=UTC)
both = pytest.mark.parametrize("venue", VENUES)


async def record(path: Path, venue: Any, *, limit: int = 1500, **settings: Any) -> Path:
    """Write down all that a client of a local Coinbase gets, until its market ends."""
    lines: list[str] = []
    settings = {"symbols": ["BTC-USD", "ETH-USD"], "rate": 5000, **settings}
    with trio.fail_after(PATIENCE):
        async with (
            open_coinbase_exchange(venue=venue, limit=limit, **settings) as exchange,
            trio.open_nursery() as nursery,
        ):
            stream = await trio.open_tcp_stream("127.0.0.1", exchange.port)
            ws = await wrap_client_stream(nursery, stream, "localhost", "/")
            exchange.pause()
            asked: dict[str, Any] = {"type": "subscribe", "product_ids": exchange.symbols}
            if venue == "coinbase":
                await ws.send_message(json.dumps({**asked, "channels": CHANNELS[venue]}))
            else:
                for channel in CHANNELS[venue]:
                    await ws.send_message(json.dumps({**asked, "channel": channel}))
            exchange.resume()
            try:
                while True:
                    message = await ws.get_message()
                    lines.append(f"{T0 + len(lines) * 1_000_000} {message!s}")
            except ConnectionClosed:
                await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()
    return write(path, *lines)


class Told(Collector):
    """Stands for a channel that is told of gaps: they are among its items."""

    ticks: list[Any]

    def mark_gap(self, gap: tt.Gap, *, book: bool = False) -> None:
        self.ticks.append((gap.symbol, gap.reason, gap.count, book))


async def from_file(path: Path, **options: Any) -> tuple[list[Any], ReplayFeed]:
    feed, send = ReplayFeed(path, math.inf, channels="all", **options), Told()
    await feed.run(send)
    return send.ticks, feed


async def over_a_socket(
    path: Path, venue: Any, symbols: Any, speed: float = math.inf, channels: Any = "all"
) -> tuple[list[Any], tt.WebSocketFeed]:
    async with open_coinbase_exchange(venue=venue, capture=path, speed=speed) as exchange:
        assert set(exchange.symbols) == set(symbols)
        feed = tt.WebSocketFeed(
            exchange.url, symbols, venue=venue, channels=channels, reconnect=False
        )
        send = Told()
        with trio.fail_after(60):
            await feed.run(send)
        await exchange.finished.wait()
    return send.ticks, feed


def without_arrival(items: list[Any]) -> list[Any]:
    """Return *items* without gaps, and snapshots without their time.

    Those of Exchange have none but that of their arrival.
    """
    return [
        attrs.evolve(item, timestamp=ANY_TIME)
        if isinstance(item, tt.BookUpdate) and item.snapshot
        else item
        for item in items
        if not isinstance(item, tuple)
    ]


def kinds(items: list[Any]) -> Counter[str]:
    return Counter(
        "snapshot" if getattr(item, "snapshot", False) else type(item).__name__ for item in items
    )


async def compare(path: Path, venue: str, channels: Any = "all") -> Counter[str]:
    """Play *path* from the file and over a socket; both must make the same items."""
    assert recognise(path).name == venue
    recorded, replay = await from_file(path)
    symbols = sorted({item.symbol for item in recorded})
    live, feed = await over_a_socket(path, venue, symbols, channels=channels)
    assert without_arrival(live) == without_arrival(recorded)
    assert (replay.stats.malformed, feed.stats.malformed) == (0, 0)
    assert (replay.stats.refused, feed.stats.refused) == (0, 0)
    return kinds(recorded)


@both
async def test_a_recording_and_a_socket_make_the_same(tmp_path: Path, venue: str) -> None:
    path = await record(tmp_path / "recording", venue)
    found = await compare(path, venue)
    assert found["BookUpdate"] == 1500
    assert found["snapshot"] == 2
    assert found["Trade"] > 50
    assert found["Tick"] == found["Trade"] + 2


@both
async def test_a_recording_has_its_own_pace(tmp_path: Path, venue: str) -> None:
    path = await record(tmp_path / "recording", venue, limit=200)
    recorded, _ = await from_file(path)
    live, _ = await over_a_socket(path, venue, ["BTC-USD", "ETH-USD"], speed=2)
    assert without_arrival(live) == without_arrival(recorded)


async def test_what_a_client_did_not_ask_for_is_not_played(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording", "coinbase", limit=300)
    async with open_coinbase_exchange(capture=path, speed=math.inf) as exchange:
        feed = tt.WebSocketFeed(
            exchange.url, ["ETH-USD"], venue="coinbase", channels=["matches"], reconnect=False
        )
        send = Told()
        with trio.fail_after(PATIENCE):
            await feed.run(send)
    assert kinds(send.ticks).keys() == {"Trade"}
    assert {trade.symbol for trade in send.ticks} == {"ETH-USD"}


async def test_a_gap_in_a_recording_is_told_in_its_place(tmp_path: Path) -> None:
    settings: Any = {"faults": ["dropped-message"], "fault_every": 10}
    path = await record(tmp_path / "recording", "coinbase", limit=600, **settings)
    recorded, _ = await from_file(path)
    live, _ = await over_a_socket(path, "coinbase", ["BTC-USD", "ETH-USD"])
    gaps = [item for item in recorded if isinstance(item, tuple)]
    assert gaps
    assert {(reason, book) for _, reason, _, book in gaps} == {("sequence", False)}
    # On a socket a gap is told before all that came with it.
    assert [item for item in live if isinstance(item, tuple)] == gaps
    assert without_arrival(live) == without_arrival(recorded)


async def test_junk_in_a_recording_is_left_out(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording", "coinbase", limit=100)
    lines = path.read_text().splitlines()
    junk = [f"{T0} junk", "5x junk", "[]", f"{T0} []", f'{T0} {{"type":5}}', '{"type":"error"}']
    write(path, *lines[:20], *junk, *lines[20:])
    live, feed = await over_a_socket(path, "coinbase", ["BTC-USD", "ETH-USD"])
    assert kinds(live)["BookUpdate"] == 100
    assert feed.stats.malformed == 0


async def test_a_recording_waits_for_its_slowest_client(tmp_path: Path) -> None:
    path = await record(tmp_path / "recording", "coinbase", limit=3000)
    seen: list[Any] = []

    async def slow(item: Any) -> None:
        seen.append(item)
        if len(seen) % 500 == 0:
            await trio.sleep(0.05)

    async with open_coinbase_exchange(capture=path, speed=math.inf) as exchange:
        feed = tt.WebSocketFeed(
            exchange.url, exchange.symbols, venue="coinbase", channels="all", reconnect=False
        )
        with trio.fail_after(PATIENCE):
            report = await tt.run_pipeline(feed, slow, maxsize=50, overflow=tt.Block())
    assert kinds(seen)["BookUpdate"] == 3000
    assert report.ledger.unaccounted == report.ledger.dropped == 0


@both
async def test_a_recording_plays_for_a_strategy(tmp_path: Path, venue: str) -> None:
    path = await record(tmp_path / "recording", venue)
    books: dict[str, tt.Book] = {}

    async def handler(item: Any) -> None:
        if isinstance(item, tt.BookUpdate):
            books.setdefault(item.symbol, tt.Book(item.symbol)).apply(item)

    await tt.run_pipeline(ReplayFeed(path, math.inf, channels="all"), handler)
    assert {symbol: book.state for symbol, book in books.items()} == {
        "BTC-USD": "valid",
        "ETH-USD": "valid",
    }
    assert sum(book.applied for book in books.values()) == 1502


@needs_real
async def test_the_real_recording_of_exchange() -> None:
    found = await compare(COINBASE, "coinbase")
    assert found == {"BookUpdate": 9_719, "snapshot": 10, "Tick": 107, "Trade": 97}
    items, feed = await from_file(COINBASE)
    assert feed.stats.ignored == 19
    quotes = [item for item in items if isinstance(item, tt.Tick)]
    assert all(math.isnan(quote.bid_size) and quote.volume > 0 for quote in quotes)
    # A trade at the ask is a buyer's, whose maker was the seller.
    first = next(item for item in items if isinstance(item, tt.Trade))
    assert (first.symbol, first.side, first.price) == ("SKL-BTC", "buy", 0.00001305)


@needs_real
async def test_books_of_the_real_recording_never_cross() -> None:
    items, _ = await from_file(COINBASE)
    books: dict[str, tt.Book] = {}
    for item in items:
        if isinstance(item, tt.BookUpdate):
            book = books.setdefault(item.symbol, tt.Book(item.symbol))
            assert book.apply(item) == "applied"
    assert len(books) == 10
    assert all(book.best is not None for book in books.values())


@needs_real
async def test_the_real_sample_of_advanced_trade() -> None:
    found = await compare(ADVANCED, "coinbase-advanced", channels=["level2"])
    assert found == {"BookUpdate": 3}
    items, _ = await from_file(ADVANCED)
    assert items[0].asks[-1] == (80496.32, 0.0)
    assert items[2].timestamp.microsecond == 633_738


@both
async def test_a_recording_is_recognised(tmp_path: Path, venue: str) -> None:
    path = await record(tmp_path / "recording", venue, limit=20)
    assert recognise(path).name == venue
