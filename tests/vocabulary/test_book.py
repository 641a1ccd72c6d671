"""The order book, against a dict that is sorted anew each time, and on recordings."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_ticks as tt
from tests.worlds.recordings import REAL, needs_real

WHEN = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def update(
    bids: Any = (), asks: Any = (), first: int | None = None, last: int | None = None, **more: Any
) -> tt.BookUpdate:
    last = first if last is None else last
    return tt.BookUpdate("A", WHEN, bids, asks, first_sequence=first, last_sequence=last, **more)


def snapshot(bids: Any = (), asks: Any = (), last: int | None = None, **more: Any) -> tt.BookUpdate:
    return update(bids, asks, last, snapshot=True, **more)


START = snapshot([(10, 1), (9, 2), (8, 3)], [(11, 4), (12, 5), (13, 6)], 100)


def started(**options: Any) -> tt.Book:
    book = tt.Book("A", **options)
    assert book.apply(START) == "applied"
    return book


# Levels


def test_a_new_book_is_empty_and_says_so() -> None:
    book = tt.Book("A")
    assert (book.state, book.best, book.bid, book.ask) == ("empty", None, None, None)
    assert book.bids() == book.asks(3) == ()


def test_best_and_levels() -> None:
    book = started()
    assert book.state == "valid"
    assert book.reason is None
    assert book.best == ((10, 1), (11, 4))
    assert (book.bid, book.ask) == book.best
    assert book.bids(2) == ((10, 1), (9, 2))
    assert book.asks(2) == ((11, 4), (12, 5))
    assert book.bids(0) == ()
    assert book.bids(99) == book.bids() == ((10, 1), (9, 2), (8, 3))
    assert book.timestamp == WHEN


def test_sizes_are_absolute_and_zero_removes() -> None:
    book = started()
    assert book.apply(update([(10, 0), (9, 7)], [(11.5, 1), (99, 0)], 101)) == "applied"
    assert book.bids() == ((9, 7), (8, 3))
    assert book.asks() == ((11, 4), (11.5, 1), (12, 5), (13, 6))
    assert book.sequence == 101


def test_a_price_may_come_twice_in_an_update_and_the_last_size_holds() -> None:
    book = started()
    book.apply(update([(10, 0), (10, 5), (9, 5), (9, 0)], (), 101))
    assert book.bids() == ((10, 5), (8, 3))


def test_prices_may_be_negative_or_zero() -> None:
    book = tt.Book("A")
    book.apply(snapshot([(-1, 1), (-2, 2)], [(0, 3), (1, 4)]))
    assert book.best == ((-1, 1), (0, 3))
    book.apply(update([(-1, 0)], [(0, 0), (-0.5, 1)]))
    assert book.best == ((-2, 2), (-0.5, 1))


def test_an_empty_side_has_no_best() -> None:
    book = started()
    book.apply(update((), [(11, 0), (12, 0), (13, 0)], 101))
    assert book.state == "valid"
    assert (book.bid, book.ask, book.best) == ((10, 1), None, None)


def test_a_level_that_is_pushed_out_of_the_depth_is_left_out() -> None:
    book = started(depth=3)
    book.apply(update([(10.5, 9)], [(10.75, 9)], 101))
    assert book.bids() == ((10.5, 9), (10, 1), (9, 2))
    assert book.asks() == ((10.75, 9), (11, 4), (12, 5))


def test_the_depth_is_taken_from_the_snapshot_where_it_says_it() -> None:
    book = tt.Book("A")
    book.apply(snapshot([(10, 1), (9, 1)], [(11, 1)], depth=2))
    book.apply(update([(10.5, 1)]))
    assert book.depth == 2
    assert book.bids() == ((10.5, 1), (10, 1))


def test_a_snapshot_deeper_than_the_depth_is_wrong() -> None:
    book = tt.Book("A", depth=2)
    assert book.apply(START) == "wrong"
    assert book.state == "stale"
    assert book.reason == "a snapshot of 3 levels, not of 2"
    assert book.bids() == ()


def test_a_book_without_depth_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_ticks.book.MOST_LEVELS", 4)
    book = started()
    book.apply(update([(n / 10, 1) for n in range(50)], (), 101))
    assert book.bids() == ((10, 1), (9, 2), (8, 3), (4.9, 1))


@pytest.mark.parametrize(
    "arguments",
    [
        {"symbol": ""},
        {"symbol": 1},
        {"symbol": "A", "depth": 0},
        {"symbol": "A", "depth": 1.5},
        {"symbol": "A", "most_buffered": 0},
        {"symbol": "A", "checksum": 7},
    ],
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(tt.ConfigError):
        tt.Book(**arguments)


def test_an_update_of_another_symbol_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="'B' for the book of 'A'"):
        tt.Book("A").apply(tt.BookUpdate("B", WHEN))


# Wrong books


def test_a_missing_update_makes_the_book_stale_until_a_snapshot() -> None:
    book = started()
    assert book.apply(update([(10, 5)], (), 102, 103)) == "wrong"
    assert book.state == "stale"
    assert book.reason == "the changes 101 to 101 are missing"
    assert book.best is None
    assert book.bids() == book.asks() == ()
    assert book.apply(update([(9, 9)], (), 104)) == "buffered"
    assert book.apply(snapshot([(10, 4)], [(11, 4)], 102)) == "applied"
    # The update that showed the gap was kept, since the snapshot may end before it.
    assert book.bids() == ((10, 5), (9, 9))
    assert str(book.state) == "valid"
    assert (book.sequence, book.errors) == (104, 1)


def test_an_update_that_was_applied_before_is_old() -> None:
    book = started()
    assert book.apply(update([(10, 77)], (), 99, 100)) == "old"
    assert book.bid == (10, 1)
    # One that overlaps with the book is applied: sizes are absolute.
    assert book.apply(update([(10, 78)], (), 99, 101)) == "applied"
    assert book.bid == (10, 78)


@pytest.mark.parametrize("ask", [10, 9.5])
def test_a_crossed_book_is_wrong(ask: float) -> None:
    book = started()
    assert book.apply(update((), [(ask, 1)], 101)) == "wrong"
    assert book.reason == f"the bid 10.0 is not below the ask {float(ask)}"
    assert book.best is None


def test_a_crossed_snapshot_is_wrong_too() -> None:
    book = tt.Book("A")
    assert book.apply(snapshot([(10, 1)], [(9, 1)])) == "wrong"
    assert book.state == "stale"


def test_a_wrong_checksum_makes_the_book_stale() -> None:
    seen = []

    def check(book: tt.Book, change: tt.BookUpdate) -> bool:
        seen.append(book.bid)
        return change.checksum != 13

    book = started(checksum=check)
    assert book.apply(update([(10, 2)], (), checksum=12)) == "applied"
    assert book.apply(update([(10, 3)], (), checksum=13)) == "wrong"
    assert seen == [(10, 1), (10, 2), (10, 3)]
    assert book.reason == "the venue's checksum 13 is another one"
    assert book.apply(update([(10, 4)], (), checksum=12)) == "held"
    assert book.apply(snapshot([(10, 4)], [(11, 4)], checksum=13)) == "wrong"
    assert book.apply(snapshot([(10, 4)], [(11, 4)], checksum=12)) == "applied"
    assert (book.bid, book.errors, book.held) == ((10, 4), 2, 2)


def test_mark_stale_empties_the_book_and_forgets_what_was_buffered() -> None:
    book = started()
    book.mark_stale("connected again")
    assert (book.state, book.reason, book.best) == ("stale", "connected again", None)
    assert book.apply(update([(10, 5)], (), 200)) == "buffered"
    book.mark_stale("once more")
    assert book.buffered == 0
    # Numbers may begin anew.
    assert book.apply(snapshot([(1, 1)], [(2, 2)], 3)) == "applied"


def test_a_book_that_never_had_a_snapshot_stays_empty() -> None:
    book = tt.Book("A")
    book.mark_stale("connected again")
    assert book.state == "empty"


# Snapshots and what comes before them


def test_updates_before_the_snapshot_are_applied_after_it() -> None:
    book = tt.Book("A")
    for number in range(98, 104):
        assert book.apply(update([(10, number)], (), number)) == "buffered"
    assert book.state == "empty"
    assert book.apply(START) == "applied"
    assert (book.bid, book.sequence, book.buffered) == ((10, 103), 103, 0)
    assert (book.old, book.applied) == (3, 4)


def test_a_snapshot_from_before_the_buffered_updates_is_not_enough() -> None:
    book = tt.Book("A")
    book.apply(update([(10, 7)], (), 102))
    assert book.apply(START) == "old"
    assert (book.state, book.best, book.buffered) == ("empty", None, 1)
    assert book.reason == "the snapshot ends with 100, and updates begin with 102"
    assert book.apply(snapshot([(10, 1)], [(11, 4)], 101)) == "applied"
    assert book.bid == (10, 7)


def test_a_gap_among_the_buffered_updates_is_found() -> None:
    book = tt.Book("A")
    for number in (100, 101, 103, 104):
        book.apply(update([(10, number)], (), number))
    assert book.apply(START) == "wrong"
    assert (book.state, book.buffered) == ("stale", 2)
    assert book.apply(snapshot([(10, 1)], [(11, 1)], 103)) == "applied"
    assert book.bid == (10, 104)


def test_the_buffer_is_bounded_and_the_oldest_update_is_left_out() -> None:
    book = tt.Book("A", most_buffered=3)
    for number in range(101, 106):
        book.apply(update([(10, number)], (), number))
    assert (book.buffered, book.held) == (3, 2)
    assert book.apply(START) == "old"
    assert book.apply(snapshot([(10, 1)], [(11, 1)], 102)) == "applied"
    assert book.bid == (10, 105)


def test_updates_without_numbers_before_the_snapshot_are_left_out() -> None:
    book = tt.Book("A")
    assert book.apply(update([(10, 7)])) == "held"
    assert book.apply(snapshot([(10, 1)], [(11, 1)])) == "applied"
    assert (book.bid, book.held) == ((10, 1), 1)


def test_an_old_snapshot_in_mid_stream_changes_nothing() -> None:
    book = started()
    book.apply(update([(10, 5)], (), 101))
    assert book.apply(START) == "old"
    assert (book.bid, book.sequence) == ((10, 5), 101)


def test_a_newer_snapshot_in_mid_stream_replaces_the_book() -> None:
    book = started()
    assert book.apply(snapshot([(5, 1)], [(6, 1)], 200)) == "applied"
    assert (book.bids(), book.sequence) == (((5, 1),), 200)
    assert book.apply(update([(5, 2)], (), 150)) == "old"


# Numbers that are wrong, or begin anew


def later(number: int, seconds: float, **more: Any) -> tt.BookUpdate:
    when = WHEN + timedelta(seconds=seconds)
    return attrs.evolve(update([(10, number)], (), number, **more), timestamp=when)


@pytest.mark.parametrize("whole", [False, True])
def test_a_book_whose_numbers_begin_anew_does_not_stand_still_for_ever(whole: bool) -> None:
    """Snapshots are all that comes where a venue sends the best levels each time."""
    book = started()
    found = [book.apply(later(n, n, snapshot=whole)) for n in range(1, 12)]
    assert found == ["old"] * 11
    assert book.apply(later(12, 12, snapshot=whole)) == "wrong"
    assert (book.state, book.best) == ("stale", None)
    assert book.reason == "updates end with 12, and the book with 100"
    assert (book.old, book.errors) == (11, 1)
    assert book.apply(snapshot([(10, 1)], [(11, 1)], 12)) == "applied"
    assert book.apply(later(13, 13)) == "applied"
    assert book.bid == (10, 13)


def test_many_old_updates_without_a_time_of_their_own_make_a_book_wrong_too() -> None:
    book = started()
    found = [book.apply(update([(10, 1)], (), 50)) for _ in range(1001)]
    assert found == ["old"] * 1000 + ["wrong"]


def test_old_updates_now_and_then_and_the_last_one_again_do_not() -> None:
    book = started()
    for second in range(0, 100, 5):
        assert book.apply(later(50, second)) == "old"
        assert book.apply(later(101 + second // 5, second)) == "applied"
    for second in range(100, 2000):
        assert book.apply(later(120, second)) == "old"
    assert book.state == "valid"


def test_one_wrong_number_keeps_no_snapshot_out() -> None:
    """An update with a number far ahead would wait before all snapshots to come."""
    book = started()
    assert book.apply(update([(10, 7)], (), 2**62)) == "wrong"
    for number in range(101, 104):
        assert book.apply(update([(10, number)], (), number)) == "buffered"
    assert (book.buffered, book.held) == (3, 1)
    assert book.apply(snapshot([(10, 1)], [(11, 1)], 102)) == "applied"
    assert (book.bid, book.sequence) == ((10, 103), 103)


# Against a dict that is sorted anew each time


class Plain:
    """The obvious book: two dicts."""

    def __init__(self, depth: int | None) -> None:
        self.bids: dict[float, float] = {}
        self.asks: dict[float, float] = {}
        self.depth = depth

    def apply(self, change: tt.BookUpdate) -> None:
        if change.snapshot:
            self.bids, self.asks = {}, {}
        for side, levels in ((self.bids, change.bids), (self.asks, change.asks)):
            for price, size in levels:
                side[price] = size
                if not size:
                    del side[price]
        self.bids = dict(self.sorted_bids()[: self.depth])
        self.asks = dict(self.sorted_asks()[: self.depth])

    def sorted_bids(self) -> list[tuple[float, float]]:
        return sorted(self.bids.items(), reverse=True)

    def sorted_asks(self) -> list[tuple[float, float]]:
        return sorted(self.asks.items())


def same(book: tt.Book, plain: Plain) -> None:
    assert list(book.bids()) == plain.sorted_bids()
    assert list(book.asks()) == plain.sorted_asks()
    assert book.bid == next(iter(plain.sorted_bids()), None)
    assert book.ask == next(iter(plain.sorted_asks()), None)


SIZES = st.sampled_from([0.0, 0.0, 1.0, 2.5])
BIDS = st.lists(st.tuples(st.integers(-20, 0).map(float), SIZES), max_size=12)
ASKS = st.lists(st.tuples(st.integers(1, 20).map(float), SIZES), max_size=12)


@given(
    st.lists(st.tuples(BIDS, ASKS, st.sampled_from([False] * 5 + [True])), max_size=30),
    st.sampled_from([None, 1, 3, 10]),
)
def test_the_book_equals_a_dict_that_is_sorted(changes: list[Any], depth: int | None) -> None:
    book, plain = tt.Book("A", depth), Plain(depth)
    book.apply(snapshot())
    for bids, asks, whole in changes:
        if whole and depth is not None:
            bids = bids[:depth]
            asks = asks[:depth]
        change = update(bids, asks, snapshot=whole)
        assert book.apply(change) == "applied"
        plain.apply(change)
        same(book, plain)


@pytest.mark.parametrize("depth", [None, 500])
def test_an_update_of_very_many_levels_equals_a_dict_too(depth: int | None) -> None:
    book, plain = tt.Book("A", depth), Plain(depth)
    book.apply(snapshot())
    for turn in range(4):
        sizes = [float((n + turn) % 3) for n in range(3000)]
        bids = [(-float(n * 7 % 2000), size) for n, size in enumerate(sizes)]
        asks = [(1 + float(n * 11 % 2500), size) for n, size in enumerate(sizes)]
        change = update(bids, asks)
        assert book.apply(change) == "applied"
        plain.apply(change)
        same(book, plain)


@given(st.lists(st.integers(1, 40), max_size=40), st.integers(1, 40))
def test_whatever_order_numbered_updates_come_in_a_valid_book_is_right(
    numbers: list[int], snapshot_at: int
) -> None:
    """Update n sets the level n, so that a book up to n has exactly the levels to n."""
    book = tt.Book("A", most_buffered=5)
    for index, number in enumerate([*numbers, 41, 42]):
        if index == len(numbers) // 2:
            whole = snapshot([(n, 1) for n in range(1, snapshot_at + 1)], (), snapshot_at)
            book.apply(whole)
        book.apply(update([(number, 1)], (), number))
        if book.state == "valid":
            assert book.sequence is not None
            assert [price for price, _ in book.bids()] == list(range(book.sequence, 0, -1))
        else:
            assert book.bids() == ()


# Recordings


def depth_updates(path: Path) -> Iterator[tt.BookUpdate]:
    """Give the book updates and the snapshot of a recording of Binance."""

    def levels(rows: Any) -> tuple[tuple[float, float], ...]:
        return tuple((float(price), float(size)) for price, size in rows)

    with gzip.open(path, "rt") as lines:
        for line in lines:
            _, _, text = line.partition(" ")
            message = json.loads(text)
            if "lastUpdateId" in message:
                yield tt.BookUpdate(
                    "BTCUSDT",
                    WHEN,
                    levels(message["bids"]),
                    levels(message["asks"]),
                    snapshot=True,
                    last_sequence=message["lastUpdateId"],
                )
            elif message["stream"].endswith("@depth@100ms"):
                data = message["data"]
                yield tt.BookUpdate(
                    "BTCUSDT",
                    WHEN,
                    levels(data["b"]),
                    levels(data["a"]),
                    first_sequence=data["U"],
                    last_sequence=data["u"],
                )


def check_recorded(path: Path) -> tuple[tt.Book, int]:
    """Keep a book of a recording, and another in the plainest way; compare them."""
    book = tt.Book("BTCUSDT")
    changes = list(depth_updates(path))
    (whole,) = [change for change in changes if change.snapshot]
    assert whole.last_sequence is not None
    later = [
        change
        for change in changes
        if not change.snapshot and (change.last_sequence or 0) > whole.last_sequence
    ]
    plain = Plain(None)
    plain_bids, plain_asks = plain.bids, plain.asks
    plain_bids.update(whole.bids)
    plain_asks.update(whole.asks)
    done = iter(later)
    behind = 0
    for number, change in enumerate(changes):
        outcome = book.apply(change)
        assert outcome in ("applied", "old", "buffered")
        if book.state != "valid":
            continue
        while behind < (book.sequence or 0) and (step := next(done, None)) is not None:
            for side, levels in ((plain_bids, step.bids), (plain_asks, step.asks)):
                for price, size in levels:
                    if size == 0:
                        side.pop(price, None)
                    else:
                        side[price] = size
            behind = step.last_sequence or 0
            if behind == book.sequence:
                break
        assert book.bid == max(plain_bids.items())
        assert book.ask == min(plain_asks.items())
        if number % 100 == 0 or change is changes[-1]:
            same(book, plain)
    assert next(done, None) is None
    return book, len(changes)


@needs_real
def test_the_recorded_depth_of_binance_keeps_a_right_book() -> None:
    book, changes = check_recorded(REAL)
    assert changes == 3451 + 1
    assert book.errors == 0
    assert len(book.bids()) > 1000


def test_a_made_recording_of_depth_keeps_a_right_book(tmp_path: Path) -> None:
    lines = []
    for number in range(1, 400):
        data = {
            "e": "depthUpdate",
            "U": 10 * number - 9,
            "u": 10 * number,
            "b": [[f"{100 - number % 7}.00", f"{number % 3}.00"]],
            "a": [[f"{101 + number % 11}.00", f"{number % 4}.0000"]],
        }
        lines.append(json.dumps({"stream": "btcusdt@depth@100ms", "data": data}))
        if number == 5:
            whole = {"lastUpdateId": 25, "bids": [["90.0", "1"]], "asks": [["200.0", "1"]]}
            lines.append(json.dumps(whole))
    path = tmp_path / "made.gz"
    path.write_bytes(gzip.compress("".join(f"1 {line}\n" for line in lines).encode()))
    book, changes = check_recorded(path)
    assert (changes, book.errors, book.sequence) == (400, 0, 3990)
