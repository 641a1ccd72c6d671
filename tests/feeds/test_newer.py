"""What is left out as a duplicate, and what never is."""

from __future__ import annotations

from datetime import timedelta

from tests.worlds.helpers import EPOCH, make_book, make_tick, make_trade, numbers
from trio_ticks.feeds.newer import NewerOnly
from trio_ticks.ticks import Tick, Trade

NOW = EPOCH + timedelta(hours=1)


def at(seconds: float, n: int) -> Tick:
    return make_tick(n=n, now=NOW + timedelta(seconds=seconds))


def test_what_is_older_or_equal_is_left_out() -> None:
    newer = NewerOnly()
    items = [at(0, 1), at(1, 2), at(1, 2), at(0, 1), at(1, 3)]
    assert numbers(newer.keep(items, NOW)) == [1, 2, 3]
    assert newer.duplicates == 2


def test_an_item_that_cannot_be_compared_is_news() -> None:
    """Items may be of any class, and arrays, for example, cannot be compared."""

    class Own:
        symbol, timestamp = "A", NOW

        def __eq__(self, other: object) -> bool:
            raise ValueError("the truth value of an array is ambiguous")

        __hash__ = None  # type: ignore[assignment]

    items = [Own(), Own()]
    assert [id(item) for item in NewerOnly().keep(items, NOW)] == [id(item) for item in items]


def test_a_quote_without_sizes_that_comes_again_is_left_out() -> None:
    newer = NewerOnly()
    first, again = (Tick("A", NOW, 1.0, 2.0, float("nan"), 1.0, float("nan")) for _ in "12")
    with_size = Tick("A", NOW, 1.0, 2.0, 5.0, 1.0, float("nan"))
    assert newer.keep([first, again, with_size], NOW) == [first, with_size]
    assert newer.duplicates == 1


def test_a_stamp_from_the_future_makes_no_duplicates() -> None:
    newer = NewerOnly()
    year_9999 = make_tick(n=0, now=EPOCH.replace(year=9999))
    items = [year_9999, at(0, 1), at(5, 2), at(1, 3), year_9999, at(2, 4)]
    assert numbers(newer.keep(items, NOW)) == [0, 1, 2, 3, 0, 4]


def test_a_venue_may_count_from_1_again() -> None:
    newer = NewerOnly()

    def trade(second: int, number: str) -> Trade:
        return Trade("A", EPOCH + timedelta(seconds=second), 1.0, 1.0, "buy", number)

    kept = [trade(0, "7"), trade(0, "8"), trade(1, "1"), trade(2, "2")]
    sent = [*kept[:2], trade(0, "7"), *kept[2:], trade(1, "1")]
    assert newer.keep(sent, NOW) == kept


def test_a_number_too_long_to_be_one_is_none() -> None:
    newer = NewerOnly()
    trades = [Trade("A", EPOCH, 1.0, 1.0, "buy", digit * 5000) for digit in "12"]
    assert newer.keep(trades, NOW) == trades


def test_numbers_are_compared_first() -> None:
    newer = NewerOnly()
    trades = [make_trade(n=2), make_trade(n=1), make_trade(n=3)]
    assert numbers(newer.keep(trades, NOW)) == [2, 3]


def test_a_snapshot_is_always_kept() -> None:
    newer = NewerOnly()
    books = [make_book(n=5), make_book(n=5, snapshot=True), make_book(n=5)]
    assert newer.keep(books, NOW) == books[:2]
