"""Binance on real sockets, with the local exchange: books, snapshots, replacements."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import product
from typing import Any

import pytest
import trio

import trio_ticks as tt
from tests.worlds.exchange_client import PATIENCE, until
from trio_ticks.exchange import Exchange, open_exchange
from trio_ticks.rest import RestClient

SYMBOLS = ("BTCUSDT", "ETHUSDT")
PATHS = {"binance": "/api/v3/depth", "binance-usdm": "/fapi/v1/depth"}
QUICKLY = tt.BackoffPolicy(initial_s=0.01, maximum_s=0.02)


class World:
    """A feed at an exchange, and all that comes of it."""

    def __init__(self, exchange: Exchange, feed: tt.WebSocketFeed, venue: str) -> None:
        self.exchange = exchange
        self.feed = feed
        self.venue = venue
        self.items: list[Any] = []
        self.gaps: list[tt.Gap] = []
        self.events: list[tt.FeedEvent] = []
        self.own: dict[str, tt.Book] = {}
        """The books of a handler that takes the updates itself."""
        self.outcomes: Counter[str] = Counter()
        """What became of the updates in these."""

    async def handle(self, item: Any) -> None:
        self.items.append(item)
        if isinstance(item, tt.BookUpdate):
            book = self.own.setdefault(item.symbol, tt.Book(item.symbol))
            self.outcomes[book.apply(item)] += 1

    def of(self, kind: type[Any], symbol: str = "BTCUSDT") -> list[Any]:
        return [item for item in self.items if type(item) is kind and item.symbol == symbol]

    @property
    def books(self) -> dict[str, tt.Book]:
        return dict(self.feed.books) or self.own

    def are_valid(self) -> bool:
        books = self.books
        return len(books) == len(SYMBOLS) and all(b.state == "valid" for b in books.values())

    async def check_books(self) -> None:
        """Check that the books equal those of the venue, level by level.

        The market stands still for that. A fault may come just before: then it goes on
        until the books are right again.
        """
        with trio.fail_after(PATIENCE):
            while True:
                await until(self.are_valid)
                self.exchange.pause()
                wanted = {symbol: await self._whole(symbol) for symbol in SYMBOLS}
                with trio.move_on_after(1):
                    await until(partial(self._are_at, wanted))
                    break
                self.exchange.resume()
                # The market goes on for a while before it stands still again.
                count = self.feed.stats.messages
                await until(partial(self._has_more_than, count + 20))
        for symbol, whole in wanted.items():
            for side, levels in (("bids", whole["bids"]), ("asks", whole["asks"])):
                found = getattr(self.books[symbol], side)()
                assert len(levels) > 900
                # Beyond the levels of its snapshot a book knows what has changed only.
                assert found[:900] == tuple((float(p), float(q)) for p, q in levels)[:900]
        self.exchange.resume()

    def _are_at(self, wanted: dict[str, Any]) -> bool:
        books = self.books
        return all(books[each].sequence == wanted[each]["lastUpdateId"] for each in SYMBOLS)

    def _has_more_than(self, messages: int) -> bool:
        return self.feed.stats.messages > messages

    async def _whole(self, symbol: str) -> Any:
        async with RestClient(f"http://127.0.0.1:{self.exchange.port}") as client:
            return await client.get(PATHS[self.venue], {"symbol": symbol, "limit": 5000})


@asynccontextmanager
async def world(
    *faults: str,
    venue: str = "binance",
    channels: Any = "depth",
    rate: float = 200,
    fault_every: int = 100,
    max_age: float | None = None,
    **options: Any,
) -> AsyncIterator[World]:
    async with open_exchange(
        venue=venue,
        symbols=SYMBOLS,
        rate=rate,
        burst=0,
        faults=faults,
        fault_every=fault_every,
        max_age=max_age,
    ) as exchange:
        feed = tt.WebSocketFeed(
            exchange.url, SYMBOLS, venue=venue, channels=channels, backoff=QUICKLY, **options
        )
        one = World(exchange, feed, venue)
        async with tt.open_pipeline(
            feed, one.handle, on_gap=one.gaps.append, on_feed=one.events.append
        ):
            with trio.fail_after(2 * PATIENCE):
                yield one


# Channels


async def test_every_channel_of_spot_becomes_items() -> None:
    channels = ("bookTicker", "trade", "depth", "kline_1s", "kline_1M")
    async with world(channels=channels) as one:
        kinds = (tt.Tick, tt.Trade, tt.BookUpdate, tt.Bar)
        await until(lambda: all(one.of(kind, s) for kind in kinds for s in SYMBOLS))
        await until(lambda: any(bar.closed for bar in one.of(tt.Bar)))
    assert one.feed.stats.malformed == 0
    assert {bar.interval_s for bar in one.of(tt.Bar)} >= {1.0}
    closed = [bar for bar in one.of(tt.Bar) if bar.closed]
    assert len({bar.timestamp for bar in closed}) == len(closed)
    assert one.of(tt.BookUpdate)[0].snapshot
    assert one.gaps == []


async def test_aggregated_trades_and_best_levels() -> None:
    async with world(channels=("aggTrade", "depth5@100ms")) as one:
        await until(lambda: len(one.of(tt.Trade)) > 20 and len(one.of(tt.BookUpdate)) > 20)
    numbers = [int(trade.trade_id) for trade in one.of(tt.Trade)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    updates = one.of(tt.BookUpdate)
    assert all(u.snapshot and u.depth == len(u.bids) == len(u.asks) == 5 for u in updates)
    assert set(one.outcomes) == {"applied"}


@pytest.mark.parametrize(
    ("venue", "channels"),
    [("binance-usdm", ("bookTicker", "depth10")), ("binance-usdm-market", "all")],
)
async def test_every_channel_of_futures_becomes_items(venue: str, channels: Any) -> None:
    wanted = (tt.Tick, tt.BookUpdate) if venue == "binance-usdm" else (tt.Trade, tt.Bar)
    async with world(venue=venue, channels=channels) as one:
        await until(lambda: all(one.of(kind, s) for kind in wanted for s in SYMBOLS))
    assert one.feed.stats.malformed == 0


@pytest.mark.parametrize("path", ["/ws", "/stream"])
async def test_raw_streams_and_combined_ones(path: str) -> None:
    async with open_exchange(venue="binance", symbols=SYMBOLS, rate=200) as exchange:
        url = f"ws://127.0.0.1:{exchange.port}{path}"
        feed = tt.WebSocketFeed(
            url, SYMBOLS, venue="binance", channels=("bookTicker", "trade", "depth", "kline_1m")
        )
        one = World(exchange, feed, "binance")
        async with tt.open_pipeline(feed, one.handle):
            kinds = (tt.Tick, tt.Trade, tt.BookUpdate, tt.Bar)
            await until(lambda: all(one.of(kind) for kind in kinds))
    assert feed.stats.malformed == 0


# Books


async def test_the_book_is_the_venues() -> None:
    cases = product(("binance", "binance-usdm"), (True, False))
    await together(*(partial(check_book, venue, books) for venue, books in cases))


async def check_book(venue: str, books: bool) -> None:
    async with world(venue=venue, books=books) as one:
        await until(lambda: len(one.items) > 100)
        await one.check_books()
    assert one.gaps == []
    assert one.feed.stats.book_errors == 0
    if books:
        assert {type(item) for item in one.items} == {tt.Tick}
        assert one.feed.stats.booked >= 100
    else:
        # Each book begins with its snapshot, and nothing of it comes twice.
        assert set(one.outcomes) == {"applied"}
        for symbol in SYMBOLS:
            first, *rest = one.of(tt.BookUpdate, symbol)
            assert first.snapshot
            assert not any(update.snapshot for update in rest)


FAULTS = [
    ("cut", "reconnect"),
    ("missed-update", "sequence"),
    ("broken-update", "malformed"),
    ("snapshot-too-old", None),
    ("slow-snapshot", None),
    ("repeated-update", None),
    ("unknown-message", None),
    ("data-before-ack", None),
    ("clock-ahead", None),
]
"""Each fault, and the reason of the gaps that it causes."""


async def together(*runs: Callable[[], Awaitable[None]]) -> None:
    """Run all at once, since each of them waits most of its time."""

    async def run_named(run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except Exception as error:
            error.add_note(f"in {run}")
            raise

    async with trio.open_nursery() as nursery:
        for run in runs:
            nursery.start_soon(run_named, run)


@pytest.mark.parametrize("books", [True, False])
async def test_a_fault_ends_in_a_right_book_with_its_gap_told(books: bool) -> None:
    faults = FAULTS if books else FAULTS[:6]
    await together(*(partial(check_fault, fault, reason, books) for fault, reason in faults))


async def check_fault(fault: str, reason: str | None, books: bool) -> None:
    async with world(fault, books=books, fault_every=250) as one:
        if reason is not None:
            await until(lambda: one.gaps)
        else:
            await until(lambda: one.feed.stats.messages > 300)
        await one.check_books()
    assert {gap.reason for gap in one.gaps} == ({reason} if reason else set())
    if not books:
        # What came between a loss and its snapshot was held back.
        assert set(one.outcomes) <= {"applied"}
    if fault == "repeated-update" and not books:
        assert one.feed.stats.duplicates > 0
    if fault == "broken-update":
        assert one.feed.stats.malformed > 0


async def test_a_missed_update_of_futures_is_found_by_the_number_before() -> None:
    async with world("missed-update", venue="binance-usdm", books=True, fault_every=250) as one:
        await until(lambda: one.gaps)
        await one.check_books()
    assert {gap.reason for gap in one.gaps} == {"sequence"}


async def test_a_book_that_the_channel_has_lost_gets_a_snapshot_in_its_place() -> None:
    async with world() as one:
        await until(one.are_valid)
        request: Any = one.feed.request_snapshot
        request("BTCUSDT")
        await until(lambda: sum(update.snapshot for update in one.of(tt.BookUpdate)) == 2)
        await one.check_books()
    assert set(one.outcomes) == {"applied"}
    assert one.gaps == []


async def test_symbols_that_come_and_go_have_their_books() -> None:
    async with world(books=True) as one:
        await until(one.are_valid)
        one.feed.unsubscribe(["ETHUSDT"])
        assert list(one.feed.books) == ["BTCUSDT"]
        await until(lambda: len(one.items) > 50)
        one.feed.subscribe(["ETHUSDT"])
        await one.check_books()


async def test_where_the_snapshots_are_can_be_said(caplog: pytest.LogCaptureFixture) -> None:
    async with open_exchange(venue="binance", symbols=["XRPUSDT"]) as other:
        url = f"http://127.0.0.1:{other.port}"
        async with world(books=True, rest_url=url) as one:
            await until(lambda: "no snapshot of the book of" in caplog.text)
            assert "400" in caplog.text
            # The venue says that there is no such symbol: it is not asked again soon.
            await until(lambda: one.feed.stats.booked > 100)
            assert [book.state for book in one.books.values()] == ["empty", "empty"]


async def test_an_address_without_rest_is_told_and_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world(books=True, rest_url="http://127.0.0.1:9") as one:
        await until(lambda: "feed.snapshot_failed" in caplog.text)
        assert not one.are_valid()
        await until(lambda: one.feed.stats.booked > 50)


# Replacements


def contiguous(items: list[Any], number: Callable[[Any], int]) -> bool:
    numbers = [number(item) for item in items]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def check_nothing_is_missing(one: World) -> None:
    """Check that each trade, quote and change has come, and none of them twice."""
    assert one.gaps == []
    assert one.events == []
    for symbol in SYMBOLS:
        assert contiguous(one.of(tt.Trade, symbol), lambda trade: int(trade.trade_id))
        last = None
        for update in one.of(tt.BookUpdate, symbol):
            if last is not None:
                assert update.first_sequence == last + 1
            last = update.last_sequence
        # The venue sends a quote with each trade, and before it.
        kinds = [type(i) for i in one.items if i.symbol == symbol and type(i) is not tt.BookUpdate]
        pairs = list(zip(kinds[::2], kinds[1::2], strict=False))
        assert len(set(pairs)) == 1


async def test_connections_are_replaced_without_a_gap_and_without_a_double() -> None:
    await together(check_age, check_shutdown, check_books_of_the_feed)


async def check_age() -> None:
    """A connection that is old is replaced."""
    channels = ("bookTicker", "trade", "depth")
    async with world(channels=channels, max_age=8.0, max_connection_age=0.3) as one:
        await until(lambda: one.feed.reconnects >= 2)
        count = len(one.items)
        await until(lambda: len(one.items) > count + 300)
        assert one.feed.connected
        await one.check_books()
        assert one.exchange.disconnects.keys() == {"client"}
    check_nothing_is_missing(one)
    assert set(one.outcomes) == {"applied"}
    assert one.feed.stats.duplicates > 0


async def check_shutdown() -> None:
    """An announced shutdown is met by another connection."""
    channels = ("bookTicker", "trade", "depth")
    async with world("server-shutdown", channels=channels, fault_every=300) as one:
        await until(lambda: one.feed.reconnects >= 1)
        await until(lambda: one.exchange.disconnects["client"] >= 1)
        count = len(one.items)
        await until(lambda: len(one.items) > count + 100)
        assert not one.exchange.disconnects["server_shutdown"]
    check_nothing_is_missing(one)


async def check_books_of_the_feed() -> None:
    """The books that the feed keeps stay right."""
    async with world(books=True, max_connection_age=0.3) as one:
        await until(one.are_valid)
        await until(lambda: one.feed.reconnects >= 1)
        await one.check_books()
    assert (one.gaps, one.events, one.feed.stats.book_errors) == ([], [], 0)
