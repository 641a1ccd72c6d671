"""What an order book costs, against the obvious one: a dict that is sorted when asked.

    TRIO_TICKS_RECORDINGS=/path python -m tests.benchmarks.book

prints updates a second on Binance's recorded depth (100 ms, 24 levels an update on
average), where the best quote is asked for after each update; the bytes that a book of
5,000 levels takes; and what Kraken's codec adds to msgspec for the same messages.
Without recordings it makes updates up: 24 levels each, the most of them near the best.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec

import trio_ticks as tt
from trio_ticks.feeds.venues.kraken import KrakenCodec
from trio_ticks.feeds.venues.kraken_checksum import KrakenChecksum
from trio_ticks.testing import CodecProbe

from .stats import median

__all__ = ["SortedDicts", "main", "recorded", "synthetic"]

WHEN = datetime(2024, 8, 8, tzinfo=UTC)
LEVELS = 5000


class _Level(msgspec.Struct, gc=False):
    price: float
    qty: float


class _Entry(msgspec.Struct, gc=False):
    symbol: str
    bids: list[_Level]
    asks: list[_Level]
    checksum: int
    timestamp: datetime


class _Frame(msgspec.Struct, gc=False):
    channel: str
    type: str
    data: list[_Entry]


bare_frame = msgspec.json.Decoder(_Frame).decode
"""What msgspec alone does with a book message of Kraken's."""


class SortedDicts:
    """The obvious book: two dicts, sorted when the best quote is asked for."""

    def __init__(self) -> None:
        self.bids: dict[float, float] = {}
        self.asks: dict[float, float] = {}

    def apply(self, update: tt.BookUpdate) -> None:
        """Take in *update*; nothing is checked."""
        if update.snapshot:
            self.bids, self.asks = {}, {}
        for side, levels in ((self.bids, update.bids), (self.asks, update.asks)):
            for price, size in levels:
                if size:
                    side[price] = size
                else:
                    side.pop(price, None)

    @property
    def best(self) -> Any:
        """Best bid and best ask."""
        bids = sorted(self.bids.items(), reverse=True)
        asks = sorted(self.asks.items())
        return (bids[0], asks[0]) if bids and asks else None


class ExtremesOfDicts(SortedDicts):
    """The same, but the largest and the smallest price are looked for."""

    @property
    def best(self) -> Any:
        """Best bid and best ask."""
        return (max(self.bids.items()), min(self.asks.items())) if self.bids and self.asks else None


def recorded(path: Path) -> list[tt.BookUpdate]:
    """Return the snapshot of a recording of Binance, and the updates behind it."""

    def levels(rows: Any) -> tuple[tuple[float, float], ...]:
        return tuple((float(price), float(size)) for price, size in rows)

    found: list[tt.BookUpdate] = []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            message = json.loads(line.partition(" ")[2])
            if "lastUpdateId" in message:
                last = message["lastUpdateId"]
                bids, asks = levels(message["bids"]), levels(message["asks"])
                found.insert(
                    0,
                    tt.BookUpdate("BTCUSDT", WHEN, bids, asks, snapshot=True, last_sequence=last),
                )
            elif "@depth" in message["stream"]:
                data = message["data"]
                bids, asks = levels(data["b"]), levels(data["a"])
                found.append(
                    tt.BookUpdate(
                        "BTCUSDT",
                        WHEN,
                        bids,
                        asks,
                        first_sequence=data["U"],
                        last_sequence=data["u"],
                    )
                )
    return found


def snapshot(levels: int) -> tt.BookUpdate:
    """Return a snapshot with so many levels, half of them on each side."""
    bids = [(60_000 - n / 100, 1.0 + n) for n in range(levels // 2)]
    asks = [(60_000.01 + n / 100, 1.0 + n) for n in range(levels - levels // 2)]
    return tt.BookUpdate("A", WHEN, bids, asks, snapshot=True, last_sequence=0)


def synthetic(count: int, levels: int = LEVELS) -> list[tt.BookUpdate]:
    """Make a snapshot and *count* updates of 24 levels."""
    random = Random(1)
    found = [snapshot(levels)]
    for number in range(1, count + 1):
        away = [int(random.expovariate(1 / 200)) for _ in range(24)]
        sizes = [random.choice((0.0, 1.0, 2.0)) for _ in range(24)]
        bids = [(60_000 - (1 + n) / 100, size) for n, size in zip(away[:12], sizes, strict=False)]
        asks = [
            (60_000.01 + (1 + n) / 100, size) for n, size in zip(away[12:], sizes, strict=False)
        ]
        found.append(
            tt.BookUpdate("A", WHEN, bids, asks, first_sequence=number, last_sequence=number)
        )
    return found


def updates_per_s(new_book: Callable[[], Any], updates: Sequence[tt.BookUpdate]) -> float:
    """Return how many of *updates* a second a book takes and answers."""
    book = new_book()
    began = time.process_time()
    for update in updates:
        book.apply(update)
        if book.best is None:
            raise SystemExit("the book is wrong")
    return len(updates) / (time.process_time() - began)


def bytes_of(new_book: Callable[[], Any]) -> int:
    """Return what a book of 5,000 levels takes, the numbers in it included."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    book = new_book()
    book.apply(snapshot(LEVELS))
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert book.best is not None
    return taken


def us_per_message(decode: Callable[[], object], messages: int, rounds: int) -> float:
    """Return the microseconds that a call of *decode* takes for each message."""
    found = []
    for _ in range(rounds):
        began = time.process_time()
        decode()
        found.append((time.process_time() - began) / messages * 1e6)
    return min(found)


def _kraken(path: Path, rounds: int) -> None:
    payloads = [json.loads(line)["payload"].encode() for line in path.read_text().splitlines()]
    books = [payload for payload in payloads if payload.startswith(b'{"channel":"book"')] * 20
    probe = CodecProbe(("book-25",))
    codec = KrakenCodec(probe)
    codec.subscribe(["BTC/USD"])
    items = codec.decode(books)
    levels = sum(len(item.bids) + len(item.asks) for item in items)
    alone = us_per_message(lambda: [bare_frame(each) for each in books], len(books), rounds)
    ours = us_per_message(lambda: codec.decode(books), len(books), rounds)
    print(f"kraken book, {levels / len(books):.1f} levels a message:")
    print(f"  msgspec alone {alone:.2f} us  codec {ours:.2f} us  ratio {ours / alone:.2f}")

    def keep(checksum: bool) -> None:
        book = tt.Book("BTC/USD", checksum=KrakenChecksum() if checksum else None)
        for item in items:
            book.apply(item)

    for checksum in (False, True):
        cost = us_per_message(partial(keep, checksum), len(books), rounds)
        print(f"  kept, checksum {'checked' if checksum else 'not checked'}: {cost:.2f} us")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=3000, help="made-up ones")
    options = parser.parse_args(arguments)
    folder = os.environ.get("TRIO_TICKS_RECORDINGS")
    sets = {f"made up, {LEVELS:,} levels": synthetic(options.updates)}
    if folder:
        path = Path(folder) / "binance/binance_spot_btcusdt_20240808.gz"
        sets["recorded by Binance"] = recorded(path)
    contenders: dict[str, Callable[[], Any]] = {
        "tt.Book": partial(tt.Book, "A"),
        "dicts, sorted": SortedDicts,
        "dicts, max and min": ExtremesOfDicts,
    }
    for name, updates in sets.items():
        levels = sum(len(each.bids) + len(each.asks) for each in updates[1:]) / len(updates)
        print(f"{name}: {len(updates):,} updates, {levels:.1f} levels each")
        contenders["tt.Book"] = partial(tt.Book, updates[0].symbol)
        for title, new_book in contenders.items():
            rates = [updates_per_s(new_book, updates) for _ in range(options.rounds)]
            print(f"  {title:20} {median(rates):>10,.0f} updates/s")
    contenders["tt.Book"] = partial(tt.Book, "A")
    for title, new_book in contenders.items():
        print(f"{LEVELS:,} levels, {title:20} {bytes_of(new_book):>10,} bytes")
    if folder:
        _kraken(Path(folder) / "kraken/kraken_v2_book_btcusd_sample.jsonl", options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
