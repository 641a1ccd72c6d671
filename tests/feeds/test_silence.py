"""Which symbols are silent: by their own usual interval, or by one limit for all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ticks.feeds.silence import SymbolWatch

Told = list[tuple[str, bool, float]]


def new_watch(**options: Any) -> tuple[SymbolWatch, Told]:
    told: Told = []
    return SymbolWatch(lambda *each: told.append(each), **options), told


def bring(watch: SymbolWatch, symbol: str, *, every_s: float, times: int, since: float) -> float:
    """Let *symbol* come regularly; return when it came last."""
    for number in range(times):
        watch.arrived([symbol], since + number * every_s)
    return since + (times - 1) * every_s


@pytest.mark.parametrize(
    ("every_s", "silent_after_s"),
    # 20 intervals, which are known to a factor of two, and at least 10 s.
    [(0.001, 10), (0.1, 10), (0.4, 10), (1, 20), (4, 80), (30, 640)],
)
def test_silent_after_twenty_of_its_own_intervals(every_s: float, silent_after_s: float) -> None:
    watch, told = new_watch()
    watch.watch(["A"], 0.0)
    last = bring(watch, "A", every_s=every_s, times=100, since=1000.0)
    due = watch.check(last)
    assert due - last == pytest.approx(silent_after_s, abs=0.6)
    watch.check(due - 0.001)
    assert told == []
    watch.check(due)
    assert [(symbol, is_silent) for symbol, is_silent, _ in told] == [("A", True)]


def test_what_never_came_is_silent_after_a_while() -> None:
    watch, told = new_watch(never_after_s=60.0)
    watch.watch(["A", "B"], 0.0)
    for second in range(70):
        watch.arrived(["B"], float(second))
        watch.check(float(second))
    assert told == [("A", True, 60.0)]
    assert list(watch.silent) == ["A"]


def test_it_is_told_once_and_its_return_too() -> None:
    watch, told = new_watch(after_s=5.0)
    watch.watch(["A"], 0.0)
    for second in range(20):
        watch.check(float(second))
    watch.arrived(["A"], 20.0)
    watch.check(21.0)
    assert told == [("A", True, 5.0), ("A", False, 20.0)]
    assert watch.silent == {}


def test_a_pause_is_no_usual_interval() -> None:
    watch, told = new_watch()
    watch.watch(["A"], 0.0)
    last = bring(watch, "A", every_s=1.0, times=50, since=0.0)
    watch.check(last + 3600)
    last = bring(watch, "A", every_s=1.0, times=5, since=last + 3600)
    assert watch.check(last) - last == pytest.approx(20, abs=0.6)
    assert len(told) == 2


def test_an_old_habit_is_forgotten_within_the_hour() -> None:
    watch, _ = new_watch()
    watch.watch(["A"], 0.0)
    last = bring(watch, "A", every_s=1.0, times=3000, since=0.0)
    # Now once in 16 s: an hour later only that is known.
    last = bring(watch, "A", every_s=16.0, times=280, since=last + 16)
    assert watch.check(last) - last == pytest.approx(320, abs=1)


def test_an_outage_and_a_pause_are_not_held_against_a_symbol() -> None:
    watch, told = new_watch(after_s=10.0)
    watch.watch(["A", "B"], 0.0)
    watch.restart(100.0)
    watch.check(105.0)
    assert told == []
    watch.restart(109.0, ["A"])
    watch.check(115.0)
    assert [symbol for symbol, _, _ in told] == ["B"]


def test_it_is_bounded_and_forgets() -> None:
    watch, told = new_watch(after_s=1.0, most=3)
    watch.watch([str(number) for number in range(10)], 0.0)
    watch.arrived(["not watched"], 1.0)
    watch.check(5.0)
    assert len(told) == 3
    watch.forget(["0", "1", "2"])
    assert watch.silent == {}
    assert watch.check(9.0) == float("inf")


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.floats(0, 50)), max_size=100))
def test_told_in_turns(moves: list[tuple[str, float]]) -> None:
    watch, told = new_watch(never_after_s=20.0)
    watch.watch("ABC", 0.0)
    now = 0.0
    for symbol, passed in moves:
        now += passed
        assert watch.check(now) > now
        watch.arrived([symbol], now)
    for symbol in "ABC":
        turns = [is_silent for each, is_silent, _ in told if each == symbol]
        assert turns == [number % 2 == 0 for number in range(len(turns))]
        assert (symbol in watch.silent) == (len(turns) % 2 == 1)
