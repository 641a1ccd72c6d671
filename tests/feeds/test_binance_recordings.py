"""Recordings of Binance's books, against a book that each test computes by itself."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import trio_ticks as tt
from tests.worlds.recordings import REAL, needs_real, write
from trio_ticks.exchange.binance import BinanceVenue
from trio_ticks.exchange.market import Market

WHEN = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def levels_of(messages: Iterable[dict[str, Any]]) -> tuple[dict[float, float], dict[float, float]]:
    """Keep a book of *messages* with two dicts, by the venue's rules alone."""
    bids: dict[float, float] = {}
    asks: dict[float, float] = {}
    known: int | None = None
    early: list[dict[str, Any]] = []

    def apply(event: dict[str, Any]) -> None:
        nonlocal known
        assert known is not None
        if event["u"] <= known:
            return
        assert event["U"] <= known + 1
        for side, changes in ((bids, event["b"]), (asks, event["a"])):
            for price, quantity in changes:
                side[float(price)] = float(quantity)
                if not float(quantity):
                    del side[float(price)]
        known = event["u"]

    for message in messages:
        data = message.get("data", message)
        if "lastUpdateId" in data:
            bids = {float(price): float(quantity) for price, quantity in data["bids"]}
            asks = {float(price): float(quantity) for price, quantity in data["asks"]}
            known = data["lastUpdateId"]
            for event in early:
                apply(event)
        elif data.get("e") == "depthUpdate" and known is None:
            early.append(data)
        elif data.get("e") == "depthUpdate":
            apply(data)
    return bids, asks


async def replay(path: Path, **options: Any) -> tuple[list[Any], list[tt.Gap], tt.ReplayFeed]:
    items: list[Any] = []
    gaps: list[tt.Gap] = []

    async def handle(item: Any) -> None:
        items.append(item)

    feed = tt.ReplayFeed(path, speed=math.inf, **options)
    async with tt.open_pipeline(feed, handle, on_gap=gaps.append) as pipeline:
        await pipeline.wait()
    return items, gaps, feed


def messages_in(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line.partition(b" ")[2]) for line in lines]


@needs_real
async def test_the_real_recording_keeps_its_book() -> None:
    with gzip.open(REAL) as lines:
        messages = messages_in(lines)
    bids, asks = levels_of(messages)
    items, gaps, feed = await replay(REAL, books=True, channels="depth@100ms")
    assert (feed.stats.booked, feed.stats.book_errors, feed.stats.malformed) == (3_452, 0, 0)
    assert gaps == []
    book = feed.books["BTCUSDT"]
    assert book.bids() == tuple(sorted(bids.items(), reverse=True))
    assert book.asks() == tuple(sorted(asks.items()))
    assert len(bids) > 1000
    assert items[-1].bid == max(bids)
    assert items[-1].ask == min(asks)
    # Three updates came before the snapshot, of which two are in it.
    assert (book.applied, book.old) == (3_450, 2)


@needs_real
async def test_the_real_recording_plays_all_of_its_channels() -> None:
    items, gaps, feed = await replay(REAL, channels="all")
    kinds = [type(item) for item in items]
    assert kinds.count(tt.Tick) == 28_040
    assert kinds.count(tt.Trade) == 9_757
    assert kinds.count(tt.BookUpdate) == 3_452
    assert (feed.stats.malformed, feed.stats.ignored, gaps) == (0, 0, [])


def record(path: Path, *, without: tuple[int, ...] = (), snapshots: tuple[int, ...]) -> Path:
    """Record 200 updates of the local Binance's book.

    Args:
        path: of the file.
        without: which updates are left out.
        snapshots: before which updates a snapshot of an earlier moment is recorded.
    """
    venue = BinanceVenue(["BTCUSDT"], 1)
    session = venue.new_session("/stream?streams=btcusdt@depth@100ms")
    market = Market(["BTCUSDT"], rate=math.inf, seed=1)
    lines: list[str] = []
    waiting: list[bytes] = []
    for number, tick in enumerate(market.take(math.inf, 200, "")):
        if number in snapshots:
            lines += [each.decode() for each in waiting]
        (update,) = session.offer(venue.take(tick, WHEN))
        if number + 4 in snapshots:
            answer = venue.answer("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "5000"}, WHEN)
            assert answer is not None
            waiting = [answer.body]
        if number not in without:
            lines.append(update.decode())
    start = 1_772_461_800_000_000_000
    return write(path, *(f"{start + n * 1_000_000} {line}" for n, line in enumerate(lines)))


async def test_a_made_recording_keeps_its_book(tmp_path: Path) -> None:
    path = record(tmp_path / "made", snapshots=(6,))
    bids, asks = levels_of(messages_in(path.read_bytes().splitlines()))
    items, gaps, feed = await replay(path, books=True, channels="depth")
    assert (feed.stats.booked, feed.stats.book_errors, gaps) == (201, 0, [])
    book = feed.books["BTCUSDT"]
    assert dict(book.bids()) == bids
    assert dict(book.asks()) == asks
    assert (book.old, book.applied) == (3, 198)
    assert (items[-1].bid, items[-1].ask) == (max(bids), min(asks))


@pytest.mark.parametrize("books", [True, False])
async def test_an_update_that_is_missing_in_a_recording_is_told(
    tmp_path: Path, books: bool
) -> None:
    path = record(tmp_path / "made", snapshots=(6, 120), without=(100,))
    items, gaps, feed = await replay(path, books=books, channels="depth")
    if books:
        assert [gap.reason for gap in gaps] == ["sequence"]
        assert feed.books["BTCUSDT"].state == "valid"
    else:
        # A handler keeps its book, which finds the gap itself.
        assert sum(item.snapshot for item in items) == 2
        own = tt.Book("BTCUSDT")
        outcomes = [own.apply(item) for item in items]
        assert outcomes.count("wrong") == 1
        assert own.state == "valid"
