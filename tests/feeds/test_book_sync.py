"""Updates that wait for their snapshot, and go on behind it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

import trio_ticks as tt
from trio_ticks.feeds.book_sync import BookSync
from trio_ticks.feeds.books import BookFault, KeptBooks

WHEN = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def update(first: int, last: int | None = None, symbol: str = "A") -> tt.BookUpdate:
    number = first if last is None else last
    return tt.BookUpdate(symbol, WHEN, [(10, 1)], first_sequence=first, last_sequence=number)


def whole(last: int, symbol: str = "A") -> tt.BookUpdate:
    return tt.BookUpdate(symbol, WHEN, [(10, 1)], [(11, 1)], snapshot=True, last_sequence=last)


class World:
    def __init__(self, most_waiting: int = 1000) -> None:
        self.stats = tt.FeedStats()
        self.sync = BookSync(self.stats, most_waiting)
        self.calls = 0
        self.sync.on_wanted = self.call

    def call(self) -> None:
        self.calls += 1


def test_updates_go_on_behind_their_snapshot() -> None:
    world = World()
    sync = world.sync
    trade = tt.Trade("A", WHEN, 1, 1)
    assert sync.keep([update(5), trade, update(6, 8), update(9)]) == [trade]
    assert (sync.waiting, world.calls, sync.missing(0)) == (3, 1, ["A"])
    assert sync.keep([whole(7)]) == [whole(7), update(6, 8), update(9)]
    assert (sync.waiting, sync.missing(0)) == (0, [])
    assert sync.keep([update(10), update(10), update(9, 11)]) == [update(10), update(9, 11)]
    assert sync.take_faults() == []
    # The one in the snapshot, and the one that came twice.
    assert world.stats.duplicates == 2


def test_a_snapshot_from_before_the_first_update_is_too_old() -> None:
    world = World()
    world.sync.keep([update(5)])
    assert world.sync.keep([whole(3)]) == []
    assert world.sync.missing(0) == ["A"]
    assert world.sync.keep([whole(4)]) == [whole(4), update(5)]


def test_a_missed_update_is_told_and_the_others_wait_for_another_snapshot() -> None:
    world = World()
    sync = world.sync
    sync.keep([update(5), whole(5)])
    assert sync.keep([update(7), update(8)]) == []
    assert sync.take_faults() == [BookFault("A", "the changes 6 to 6 are missing", wrong=True)]
    assert (world.stats.book_errors, sync.missing(0), world.calls) == (1, ["A"], 2)
    assert sync.keep([whole(6)]) == [whole(6), update(7), update(8)]
    assert sync.take_faults() == []


def test_updates_that_do_not_fit_together_are_found_when_the_snapshot_comes() -> None:
    world = World()
    world.sync.keep([update(5), update(8)])
    assert world.sync.keep([whole(4)]) == [whole(4), update(5)]
    assert len(world.sync.take_faults()) == 1
    assert world.sync.keep([whole(7)]) == [whole(7), update(8)]


def test_what_waits_is_bounded_and_a_newer_snapshot_is_needed_then() -> None:
    world = World(most_waiting=2)
    world.sync.keep([update(5), update(6), update(7)])
    assert (world.sync.waiting, world.stats.duplicates) == (2, 1)
    assert world.sync.keep([whole(4)]) == []
    assert world.sync.keep([whole(5)]) == [whole(5), update(6), update(7)]


def test_numbers_that_begin_anew_need_another_snapshot() -> None:
    world = World()
    sync = world.sync
    sync.keep([update(100), whole(100)])
    old = [attrs.evolve(update(n), timestamp=WHEN + timedelta(seconds=n)) for n in range(1, 13)]
    assert sync.keep(old) == []
    reason = "updates end with 12, and the book with 100"
    assert sync.take_faults() == [BookFault("A", reason, wrong=True)]
    assert (sync.missing(0), sync.waiting) == (["A"], 1)
    assert sync.keep([whole(12), update(13)]) == [whole(12), update(13)]


def test_the_last_update_again_shows_nothing() -> None:
    world = World()
    world.sync.keep([update(100), whole(100)])
    assert world.sync.keep([update(100)] * 2000) == []
    assert world.sync.take_faults() == []


def test_one_wrong_number_keeps_no_snapshot_out() -> None:
    world = World()
    sync = world.sync
    sync.keep([update(5), whole(5), update(2**62), update(6), update(7)])
    assert sync.waiting == 2
    assert sync.keep([whole(6)]) == [whole(6), update(7)]


def test_symbols_are_bounded() -> None:
    world = World()
    world.sync.most = 2
    for symbol in "ABC":
        world.sync.keep([update(1, symbol=symbol)])
    assert world.sync.names() == ["B", "C"]
    assert world.stats.duplicates == 1


@pytest.mark.parametrize(
    ("reason", "book", "again"),
    [
        ("reconnect", False, True),
        ("malformed", False, True),
        ("sequence", True, True),
        ("sequence", False, False),
    ],
)
def test_after_a_gap_updates_wait_again(reason: Any, book: bool, again: bool) -> None:
    world = World()
    sync = world.sync
    sync.keep([update(5), whole(5)])
    sync.gap("A", reason, book=book)
    sync.gap("never seen", reason, book=book)
    # No snapshot is asked for before an update has come.
    assert sync.missing(0) == []
    assert sync.keep([update(6)]) == ([] if again else [update(6)])
    assert sync.missing(0) == (["A"] if again else [])


def test_what_waited_at_a_gap_is_left_out() -> None:
    world = World()
    world.sync.keep([update(5)])
    world.sync.gap("A", "reconnect", book=True)
    assert (world.sync.waiting, world.stats.duplicates) == (0, 1)


def test_a_snapshot_can_be_had_again() -> None:
    world = World()
    sync = world.sync
    sync.keep([update(5), whole(5)])
    sync.restart("A")
    sync.restart("A")
    sync.restart("never seen")
    assert sync.keep([update(6)]) == []
    assert sync.missing(0) == ["A"]
    assert sync.keep([whole(6)]) == [whole(6)]
    assert sync.keep([whole(5)]) == []


def test_what_has_no_number_or_is_always_whole_goes_on() -> None:
    plain = tt.BookUpdate("A", WHEN, [(10, 1)])
    world = World()
    assert world.sync.keep([plain, whole(3, "B"), whole(4, "B")]) == [
        plain,
        whole(3, "B"),
        whole(4, "B"),
    ]
    assert world.sync.wanted == {}


def test_another_run_begins_with_nothing() -> None:
    world = World()
    world.sync.keep([update(5)])
    world.sync.begin()
    assert (world.sync.names(), world.sync.waiting, world.sync.missing(0)) == ([], 0, [])
    world.sync.forget(["A"])
    assert world.sync.next_missing_at(0) == math.inf


def test_kept_books_ask_over_rest_once_an_update_waits() -> None:
    stats, calls = tt.FeedStats(), []
    books = KeptBooks(stats, None, over_rest=True)
    books.on_wanted = lambda: calls.append(1)
    books.expect(["A"], 100.0)
    books.keep([update(5)])
    assert books.missing(0.0) == ["A"]
    (tick,) = books.keep([whole(5)])
    assert (tick.bid, books.missing(0.0)) == (10, [])
    books.gap("A", "reconnect", book=True)
    # There is nothing yet that the snapshot could be compared with.
    assert (list(books.wanted), books.missing(0.0)) == (["A"], [])
    before = len(calls)
    books.keep([update(8), update(9)])
    assert (len(calls), books.missing(0.0)) == (before + 1, ["A"])
