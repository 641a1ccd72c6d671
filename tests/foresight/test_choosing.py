"""Which settings are tried and which are advised, of rows that are made up."""

from __future__ import annotations

import math
from array import array

import pytest

from trio_ticks.foresight.choosing import (
    best,
    hot_symbol,
    knee_of,
    lowest,
    patience_s,
    room_for,
    rounded,
    sizes_around,
    workers_around,
)
from trio_ticks.foresight.plans import Row, Target
from trio_ticks.simulation.loads import Load

TARGET = Target(max_drop_rate=0.0, p99_lag_s=0.05, factor=1.0)


def row(workers: int, maxsize: int, drop_rate: float, lag_s: float) -> Row:
    return Row(
        workers=workers,
        maxsize=maxsize,
        overflow="DropNewest()",
        factor=1.0,
        drop_rate=drop_rate,
        conflated_rate=0.0,
        p50_lag_s=lag_s / 2,
        p99_lag_s=lag_s,
        max_lag_s=lag_s,
        peak=maxsize,
        utilisation=0.5,
    )


def even(rate: float, seconds: float, symbols: int = 1) -> Load:
    count = int(rate * seconds)
    return Load(
        array("d", (n / rate for n in range(count))),
        array("I", (n % symbols for n in range(count))),
        tuple(f"S{n}" for n in range(symbols)),
    )


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0.2, 1),
        (3, 3),
        (9.1, 10),
        (11, 11),
        (101, 110),
        (1234, 1300),
        (1300, 1300),
        (99_001, 100_000),
    ],
)
def test_sizes_are_rounded_up_to_two_digits(number: float, expected: int) -> None:
    assert rounded(number) == expected


def test_a_queue_gets_room_to_spare_and_is_never_tiny() -> None:
    assert room_for(1) == 10
    assert room_for(800) == 1200


def test_the_workers_that_are_tried_enclose_what_the_load_needs() -> None:
    numbers = workers_around(even(1000, 10), 0.004, 1.0, 256)
    assert numbers[0] == 4
    assert numbers[-1] >= 6
    assert numbers == tuple(sorted(set(numbers)))
    assert workers_around(even(1000, 10), 0.004, 10.0, 256)[0] == 40
    assert max(workers_around(even(1000, 10), 1.0, 10.0, 256)) == 256
    assert workers_around(even(10, 10), 0.000_1, 1.0, 256) == (1, 2, 3, 4)


def test_the_sizes_that_are_tried_enclose_the_peak() -> None:
    sizes = sizes_around(400, 200)
    assert sizes[0] < 100
    assert sizes[-1] >= 800
    # A queue that cannot be drained in time is not tried.
    assert sizes_around(1_000_000, 50)[-1] == 1000


def test_the_fewest_workers_win_and_then_the_shortest_queue() -> None:
    rows = [row(8, 10, 0, 0.01), row(4, 100, 0, 0.04), row(4, 50, 0, 0.03), row(2, 10, 0, 0.06)]
    assert lowest(rows, TARGET) == rows[2]
    assert lowest(rows[3:], TARGET) is None


def test_where_nothing_will_do_the_target_is_missed_by_the_least() -> None:
    quick_but_lossy, balanced = row(1, 8, 0.38, 0.07), row(1, 390, 0.06, 0.4)
    slow = row(1, 10_000, 0.0, 6.0)
    assert best([quick_but_lossy, balanced, slow], TARGET) == balanced
    assert best([row(4, 390, 0.06, 0.39), balanced], TARGET) == balanced
    handles_nothing = row(1, 1, 1.0, math.nan)
    assert best([handles_nothing, slow], TARGET) == slow


def test_the_knee_is_where_more_helps_no_more() -> None:
    assert knee_of([(1, 8.0), (2, 2.0), (4, 1.9), (8, 1.85)], 0.0) == 2
    assert knee_of([(1, 8.0), (2, 4.0), (4, 2.0)], 0.0) is None
    assert knee_of([(1, 0.5), (2, 0.0)], 0.001) == 2
    assert knee_of([], 0.0) is None


def test_the_patience_is_what_may_be_late_within_bounds() -> None:
    assert patience_s(0.05) == 0.05
    assert patience_s(20.0) == 1.0
    assert patience_s(0.0001) == 0.01


def test_a_symbol_that_keeps_a_worker_busy_alone_is_named() -> None:
    assert hot_symbol(even(1000, 10), 0.001, 1.0) == "S0"
    assert hot_symbol(even(1000, 10, symbols=4), 0.001, 1.0) is None
    assert hot_symbol(even(1000, 10, symbols=4), 0.001, 4.0) == "S0"
