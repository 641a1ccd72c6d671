"""Books that a feed keeps: ticks come out, wrong ones are told, snapshots asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from trio_websocket import ConnectionClosed, WebSocketConnection

import trio_ticks as tt
from tests.worlds.feed_venues import Collector, leave, memory_feed, running, says, websocket
from tests.worlds.recordings import KRAKEN, needs_real, write
from trio_ticks.exchange.kraken import KrakenVenue
from trio_ticks.exchange.market import Market
from trio_ticks.feeds.book_sync import BookSync
from trio_ticks.feeds.books import KeptBooks, most_waiting

WHEN = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def update(
    bids: Any = (), asks: Any = (), number: int | None = None, *, symbol: str = "A", **more: Any
) -> tt.BookUpdate:
    return tt.BookUpdate(
        symbol, WHEN, bids, asks, first_sequence=number, last_sequence=number, **more
    )


START = update([(10, 1), (9, 2)], [(11, 3)], 100, snapshot=True)


def best(symbol: str, bid: float, bid_size: float, ask: float, ask_size: float) -> tt.Tick:
    return tt.Tick(symbol, WHEN, bid, ask, bid_size, ask_size, math.nan)


# The stage


def kept(checksum: Any = None) -> tuple[KeptBooks, tt.FeedStats]:
    stats = tt.FeedStats()
    return KeptBooks(stats, checksum), stats


def test_a_tick_comes_out_when_the_best_level_changes() -> None:
    books, stats = kept()
    trade = tt.Trade("A", WHEN, 10, 1)
    items = books.keep(
        [
            START,
            update([(9, 5)], (), 101),
            trade,
            update([(10, 4)], (), 102),
            update((), [(10.5, 1)], 103),
            update((), [(10.5, 1)], 104),
        ]
    )
    assert items == [
        best("A", 10, 1, 11, 3),
        trade,
        best("A", 10, 4, 11, 3),
        best("A", 10, 4, 10.5, 1),
    ]
    assert (stats.booked, stats.book_errors, books.faults) == (5, 0, [])
    assert books.books["A"].bids() == ((10, 4), (9, 5))
    assert not books.wanted


def test_a_wrong_book_makes_no_tick_until_a_snapshot_has_come() -> None:
    books, stats = kept()
    books.keep([START])
    assert books.keep([update([(10, 2)], (), 102), update([(10, 3)], (), 103)]) == []
    (fault,) = books.take_faults()
    assert (fault.symbol, fault.wrong) == ("A", True)
    assert fault.reason == "the changes 101 to 101 are missing"
    assert books.take_faults() == []
    assert (list(books.wanted), stats.book_errors) == (["A"], 1)
    # The same quote as before the loss is told again.
    again = update([(10, 1)], [(11, 3)], 103, snapshot=True)
    assert books.keep([again]) == [best("A", 10, 1, 11, 3)]
    assert not books.wanted
    assert stats.booked == 4


def test_a_withdrawn_quote_is_a_fault_but_no_wrong_book() -> None:
    books, stats = kept()
    books.keep([START])
    assert books.keep([update((), [(11, 0)], 101)]) == []
    (fault,) = books.take_faults()
    assert (fault.wrong, stats.book_errors, len(books.wanted)) == (False, 0, 0)
    assert books.keep([update([(10, 5)], (), 102)]) == []
    assert books.take_faults() == []
    assert books.keep([update((), [(11, 3)], 103)]) == [best("A", 10, 5, 11, 3)]


def test_each_book_has_a_checksum_of_its_own() -> None:
    def new_checksum() -> Any:
        seen = []

        def check(_book: tt.Book, change: tt.BookUpdate) -> bool:
            seen.append(change)
            return change.checksum in (None, len(seen))

        return check

    books, stats = kept(new_checksum)
    for symbol in "AB":
        books.keep([update([(1, 1)], (), symbol=symbol, snapshot=True, checksum=1)])
        books.keep([update([(1, 2)], (), symbol=symbol, checksum=2)])
    assert stats.book_errors == 0
    books.keep([update([(1, 3)], (), checksum=2)])
    assert stats.book_errors == 1
    assert [book.state for book in books.books.values()] == ["stale", "valid"]


@pytest.mark.parametrize(
    ("reason", "book", "state"),
    [
        ("reconnect", False, "stale"),
        ("malformed", False, "stale"),
        ("throttle", False, "stale"),
        ("sequence", False, "valid"),
        ("sequence", True, "stale"),
    ],
)
def test_a_gap_before_the_book_makes_it_stale_unless_it_lies_elsewhere(
    reason: Any, book: bool, state: str
) -> None:
    books, _ = kept()
    books.keep([START])
    books.gap("A", reason, book=book)
    books.gap("never seen", reason, book=book)
    assert books.books["A"].state == state
    assert books.take_faults() == []


def test_of_many_books_fewer_updates_wait_for_each() -> None:
    """A thousand updates of each of a thousand books would be gigabytes."""
    books = KeptBooks(tt.FeedStats(), None, over_rest=True)
    sync = BookSync(tt.FeedStats())
    for n in range(2000):
        updates = [
            tt.BookUpdate(f"S{n}", WHEN, first_sequence=k, last_sequence=k) for k in range(60)
        ]
        books.keep(updates)
        sync.keep(updates)
    waiting = [book.buffered for book in books.books.values()]
    assert sum(waiting) == sync.waiting
    assert (waiting[0], min(waiting)) == (60, 25)
    assert [most_waiting(n) for n in (0, 49, 99, 10_000)] == [1000, 1000, 500, 20]


def test_books_are_bounded_and_the_oldest_is_forgotten() -> None:
    books, _ = kept()
    books.most = 2
    for symbol in "ABC":
        books.keep([update([(1, 1)], (), 1, symbol=symbol)])
    assert list(books.books) == list(books.wanted) == ["B", "C"]


# In a WebSocket feed


class Numbered(tt.Codec):
    """A venue whose books have numbers, and whose snapshots can be asked for."""

    def subscribe(self, symbols: Sequence[str]) -> list[str]:
        return [json.dumps({"subscribe": list(symbols)})]

    def unsubscribe(self, symbols: Sequence[str]) -> list[str]:
        return [json.dumps({"unsubscribe": list(symbols)})]

    def request_snapshot(self, symbol: str) -> list[str]:
        return [json.dumps({"snapshot": symbol})]

    def decode_one(self, payload: bytes) -> Any:
        fields = json.loads(payload)
        if "need" in fields:
            self.context.need_snapshot(fields["need"])
            return None
        if "broken" in fields:
            raise tt.MalformedMessage("broken", fields["broken"])
        number = fields["n"]
        return tt.BookUpdate(
            fields["s"],
            WHEN,
            fields.get("b", ()),
            fields.get("a", ()),
            fields.get("whole", False),
            number,
            number,
        )


class Unasked(tt.Codec):
    """The same, but its snapshots come with the subscription only."""

    subscribe = Numbered.subscribe
    decode_one = Numbered.decode_one


def whole(number: int, size: float = 1.0, symbol: str = "A") -> str:
    fields = {"s": symbol, "n": number, "b": [[10, size]], "a": [[11, 1]], "whole": True}
    return json.dumps(fields)


def bid(number: int, size: float, symbol: str = "A") -> str:
    return json.dumps({"s": symbol, "n": number, "b": [[10, size]]})


class Venue:
    """Sends what it is told, and writes down when it is asked for what."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, Any]] = []
        self._to_send, self._sent = trio.open_memory_channel[str](math.inf)

    def say(self, *messages: str) -> None:
        for message in messages:
            self._to_send.send_nowait(message)

    async def __call__(self, ws: WebSocketConnection) -> None:
        async def listen() -> None:
            try:
                while True:
                    request = json.loads(await ws.get_message())
                    self.asked.append((trio.current_time(), request))
            except ConnectionClosed:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            async for message in self._sent:
                if message == "bye":
                    nursery.cancel_scope.cancel()
                    break
                await ws.send_message(message)


def sizes(send: Collector) -> list[float]:
    return [tick.bid_size for tick in send.ticks]


async def test_a_missed_update_is_told_and_a_snapshot_asked_for(autojump_clock: MockClock) -> None:
    venue, send = Venue(), Collector()
    script = websocket(venue)
    async with (
        memory_feed(script, venue=Numbered, symbols=["A"], books=True) as (feed, _),
        running(feed, send),
    ):
        venue.say(whole(1), bid(2, 2), bid(4, 4), bid(5, 5))
        await trio.sleep(1)
        assert sizes(send) == [1, 2]
        assert [(gap.symbol, gap.reason) for gap in send.gaps] == [("A", "sequence")]
        assert [request for _, request in venue.asked] == [{"snapshot": "A"}]
        assert feed.books["A"].state == "stale"
        # The first snapshot is from before the updates that were buffered.
        venue.say(whole(2))
        await trio.sleep(1)
        assert feed.books["A"].state == "stale"
        await trio.sleep(4)
        # So it was asked for again, five seconds after the first time.
        assert [request for _, request in venue.asked] == [{"snapshot": "A"}] * 2
        assert venue.asked[1][0] - venue.asked[0][0] == pytest.approx(5)
        venue.say(whole(3, 3))
        await trio.sleep(60)
    assert sizes(send) == [1, 2, 5]
    assert len(venue.asked) == 2
    assert (feed.stats.booked, feed.stats.book_errors) == (6, 1)
    assert len(send.gaps) == 1


async def test_a_missing_first_snapshot_is_asked_for_after_five_seconds(
    autojump_clock: MockClock,
) -> None:
    venue, send = Venue(), Collector()
    async with (
        memory_feed(websocket(venue), venue=Numbered, symbols=["A"], books=True) as (feed, _),
        running(feed, send),
    ):
        await trio.sleep(0.001)
        venue.say(bid(7, 1))
        await trio.sleep(4.9)
        assert venue.asked == []
        await trio.sleep(0.2)
        assert [request for _, request in venue.asked] == [{"snapshot": "A"}]
        venue.say(whole(6))
        await trio.sleep(1)
        assert sizes(send) == [1]
        assert feed.books["A"].sequence == 7


async def test_after_a_cut_the_book_is_stale_until_the_next_connections_snapshot(
    autojump_clock: MockClock,
) -> None:
    venue, send = Venue(), Collector()
    async with (
        memory_feed(
            websocket(venue, cut=True), venue=Numbered, symbols={"A": "mine"}, books=True
        ) as (feed, _),
        running(feed, send),
    ):
        venue.say(whole(100, 1), bid(101, 2), "bye")
        await trio.sleep(0.5)
        assert feed.books["mine"].state == "stale"
        assert send.gaps == []
        venue.say(bid(7, 7), whole(6, 6))
        await trio.sleep(2)
        assert [(gap.symbol, gap.reason) for gap in send.gaps] == [("mine", "reconnect")]
        assert [(tick.symbol, tick.bid_size) for tick in send.ticks] == [
            ("mine", 1),
            ("mine", 2),
            ("mine", 7),
        ]
        await trio.sleep(20)
    # The snapshot came by itself.
    assert venue.asked == []


async def test_a_venue_without_snapshots_on_request_is_connected_to_anew(
    autojump_clock: MockClock,
) -> None:
    send = Collector()
    scripts = [
        websocket(says(whole(1), bid(3, 3))),
        websocket(says(whole(8, 8), bid(9, 9))),
    ]
    async with memory_feed(*scripts, venue=Unasked, symbols=["A"], books=True) as (feed, world):
        assert feed.request_snapshot is None
        async with running(feed, send):
            await trio.sleep(30)
            assert len(world.dialled_at) == 2
    assert sizes(send) == [1, 8, 9]
    assert [gap.reason for gap in send.gaps] == ["sequence", "reconnect"]
    lost = [event.reason for event in send.events if event.kind == "lost"]
    assert lost == ["the book of A is wrong, and the venue sends one only at the start"]


@pytest.mark.parametrize("message", ['{"need":"A"}', '{"broken":"A"}'])
async def test_what_the_codec_reports_makes_the_book_stale(
    autojump_clock: MockClock, message: str
) -> None:
    venue, send = Venue(), Collector()
    async with (
        memory_feed(websocket(venue), venue=Numbered, symbols=["A"], books=True) as (
            feed,
            _,
        ),
        running(feed, send),
    ):
        venue.say(whole(1), message, bid(2, 2), whole(2, 3))
        await trio.sleep(1)
        assert sizes(send) == [1, 3]
        assert len(send.gaps) == 1


async def test_what_is_unsubscribed_from_has_no_book(autojump_clock: MockClock) -> None:
    venue, send = Venue(), Collector()
    async with (
        memory_feed(websocket(venue), venue=Numbered, symbols=["A", "B"], books=True) as (feed, _),
        running(feed, send),
    ):
        venue.say(whole(1), whole(1, symbol="B"))
        await trio.sleep(1)
        assert list(feed.books) == ["A", "B"]
        feed.unsubscribe(["A"])
        venue.say(bid(5, 5))
        await trio.sleep(10)
        assert list(feed.books) == ["B"]
        feed.subscribe(["A"])
        venue.say(whole(1))
        await trio.sleep(1)
        assert feed.books["A"].state == "valid"
    assert [request for _, request in venue.asked] == [{"unsubscribe": ["A"]}, {"subscribe": ["A"]}]


async def test_a_second_run_begins_with_stale_books(autojump_clock: MockClock) -> None:
    send = Collector()
    scripts = [websocket(says(whole(50), then=leave)), websocket(says(bid(3, 3), whole(2, 2)))]
    async with memory_feed(
        *scripts, venue=Numbered, symbols=["A"], books=True, reconnect=False
    ) as (feed, _):
        await feed.run(send)
        assert feed.books["A"].state == "stale"
        async with running(feed, send):
            await trio.sleep(1)
            assert feed.books["A"].sequence == 3
    assert sizes(send) == [1, 3]


async def test_without_books_a_handlers_snapshot_is_asked_of_the_codec(
    autojump_clock: MockClock,
) -> None:
    venue = Venue()
    async with memory_feed(websocket(venue), venue=Numbered, symbols=["A"]) as (feed, _):
        items: list[Any] = []

        async def handler(item: tt.BookUpdate) -> None:
            items.append(item)

        async with tt.open_pipeline(feed, handler) as pipeline:
            venue.say(whole(1), '{"need":"A"}', bid(4, 4))
            await trio.sleep(1)
            assert [item.last_sequence for item in items] == [1]
            assert [request for _, request in venue.asked] == [{"snapshot": "A"}]
            venue.say(whole(5), bid(6, 6))
            await trio.sleep(1)
            assert [item.last_sequence for item in items] == [1, 5, 6]
        pipeline.ledger.check()
        assert pipeline.report.ledger.dropped_by_reason["held"] == 1
    assert feed.books == {}
    assert feed.stats.booked == 0


async def test_with_books_only_ticks_are_produced(autojump_clock: MockClock) -> None:
    venue, gaps = Venue(), list[tt.Gap]()
    async with memory_feed(websocket(venue), venue=Numbered, symbols=["A"], books=True) as (
        feed,
        _,
    ):
        items: list[Any] = []

        async def handler(item: tt.Tick) -> None:
            items.append(item)

        async with tt.open_pipeline(feed, handler, on_gap=gaps.append) as pipeline:
            venue.say(whole(1), bid(2, 2), bid(2, 2), bid(3, 2), bid(9, 9))
            await trio.sleep(1)
            venue.say(whole(9, 8))
            await trio.sleep(30)
        pipeline.ledger.check()
        assert pipeline.ledger.produced == pipeline.ledger.consumed == 3
    assert [item.bid_size for item in items] == [1, 2, 8]
    assert [gap.reason for gap in gaps] == ["sequence"]
    assert feed.stats.booked == 6
    # The hold of the channel is for updates: it asks for nothing here.
    assert [request for _, request in venue.asked] == [{"snapshot": "A"}]


# In a replay


async def replay(path: Path, **options: Any) -> tuple[list[tt.Tick], list[Any], tt.ReplayFeed]:
    feed = tt.ReplayFeed(path, venue="kraken", channels="book", books=True, **options)
    told: list[Any] = []

    async def handler(tick: tt.Tick) -> None:
        told.append(tick)

    async with tt.open_pipeline(feed, handler, on_gap=told.append) as pipeline:
        await pipeline.wait()
    pipeline.ledger.check()
    assert pipeline.ledger.produced == pipeline.ledger.consumed
    return [item for item in told if isinstance(item, tt.Tick)], told, feed


@needs_real
async def test_the_real_recording_of_kraken_keeps_its_book() -> None:
    ticks, told, feed = await replay(KRAKEN, speed=math.inf)
    book = feed.books["BTC/USD"]
    assert (book.applied, book.errors, book.state) == (43, 0, "valid")
    assert (feed.stats.booked, feed.stats.malformed) == (43, 0)
    assert len(ticks) == len(told) == 9
    assert (ticks[-1].bid, ticks[-1].bid_size) == (78500.6, 0.11565097)


def record(path: Path, fault: str | None = None) -> Path:
    """Record a book of the local Kraken's, with a fault at every 20th update.

    The recorder subscribes anew two times.
    """
    faults = frozenset([fault] if fault else [])
    venue = KrakenVenue(["BTC/USD"], 1, faults, 20)
    session = venue.new_session()
    market = Market(["BTC/USD"], rate=math.inf, seed=1)
    lines = []
    first, *rest = market.take(math.inf, 78, "")
    venue.take(first, WHEN)
    params = {"channel": "book", "symbol": ["BTC/USD"], "depth": 10}
    request = json.dumps({"method": "subscribe", "params": params})
    messages = session.receive(request, WHEN, 0.0)
    for number, tick in enumerate(rest):
        messages += session.offer(venue.take(tick, WHEN))
        if number in (30, 70):
            messages += session.receive(request.replace("subscribe", "unsubscribe"), WHEN, 0.0)
            messages += session.receive(request, WHEN, 0.0)
    for number, message in enumerate(messages):
        lines.append(f"{1_772_461_800_000_000_000 + number * 1_000_000} {message.decode()}")
    return write(path, *lines)


@pytest.mark.parametrize("timestamps", ["original", "now"])
async def test_a_made_recording_keeps_its_book(tmp_path: Path, timestamps: Any) -> None:
    path = record(tmp_path / "made")
    ticks, told, feed = await replay(path, speed=math.inf, timestamps=timestamps)
    book = feed.books["BTC/USD"]
    assert book.errors == 0
    assert (book.state, book.depth) == ("valid", 10)
    assert feed.stats.booked == book.applied > 60
    assert book.best == ((ticks[-1].bid, ticks[-1].bid_size), (ticks[-1].ask, ticks[-1].ask_size))
    assert len(ticks) == len(told) > 50


@pytest.mark.parametrize("fault", ["wrong-checksum", "missed-update"])
async def test_a_wrong_book_in_a_recording_is_told_where_it_is(tmp_path: Path, fault: str) -> None:
    _, told, feed = await replay(record(tmp_path / "made", fault), speed=math.inf)
    book = feed.books["BTC/USD"]
    gaps = [index for index, item in enumerate(told) if isinstance(item, tt.Gap)]
    assert [told[index].reason for index in gaps] == ["sequence"] * book.errors
    # Each snapshot makes the book right, until the next fault.
    assert book.errors == 2
    assert 5 < gaps[0] < gaps[1] - 5
    assert gaps[1] < len(told) - 2
    assert book.state == "valid"
    assert book.held > 10


async def test_a_replay_can_be_run_again(tmp_path: Path) -> None:
    feed = tt.ReplayFeed(
        record(tmp_path / "made"), math.inf, venue="kraken", channels="book", books=True
    )
    assert feed.books == {}
    counts = []
    for _ in range(2):
        send = Collector()
        await feed.run(send)
        counts.append(len(send.ticks))
    assert counts[0] == counts[1] > 50


def test_books_must_be_a_flag(tmp_path: Path) -> None:
    with pytest.raises(tt.ConfigError):
        tt.ReplayFeed(record(tmp_path / "made"), books=7)  # type: ignore[arg-type]
    with pytest.raises(tt.ConfigError):
        tt.WebSocketFeed("ws://a", ["A"], books="yes")  # type: ignore[arg-type]
