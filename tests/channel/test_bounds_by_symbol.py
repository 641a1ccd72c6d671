"""What is kept by symbol has a bound, however many symbols come."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worlds.helpers import make_tick
from trio_ticks.channel.homes import Home, HomedLanes
from trio_ticks.channel.losses import GapBook
from trio_ticks.feeds.sequence import SequenceTracker
from trio_ticks.handlers.breaker import Breaker, BreakerState


def test_homes_of_old_symbols_are_forgotten_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HomedLanes, "most", 10)
    lanes: HomedLanes[Any] = HomedLanes()
    lanes.homes = [Home(), Home()]
    lanes.put("KEPT", "tick", 0.0)
    home = lanes.home_of("KEPT")
    for number in range(1000):
        lanes.home_of(f"S{number}")
    assert sum(each.symbols for each in lanes.homes) == 10
    assert lanes.forgotten == 991
    # A symbol whose ticks wait keeps its home: its order depends on that.
    assert lanes.home_of("KEPT") is home


def test_a_breaker_forgets_the_failure_longest_past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BreakerState, "most", 3)
    state = BreakerState(Breaker(failures=1, pause_s=60.0))
    for number in range(5):
        assert state.failed(f"S{number}", float(number))
    assert state.set_aside == ("S2", "S3", "S4")
    assert state.forgotten == 2
    assert not state.holds("S0", 5.0)
    assert state.holds("S4", 5.0)


def test_a_sequence_tracker_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SequenceTracker, "most", 2)
    tracker = SequenceTracker()
    for symbol in "ABC":
        assert tracker.check(symbol, 1) == 0
    assert tracker.check("C", 4) == 2
    assert tracker.check("A", 9) == 0


def test_gaps_of_symbols_that_never_come_again_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(GapBook, "most", 100)
    gaps = GapBook()
    for number in range(1000):
        for at_head in (True, False):
            gaps.lost([make_tick(f"S{number}")], "overflow", at_head=at_head)
        gaps.lost_in_lane(make_tick(f"S{number}"), None)
    assert len(gaps.head) == len(gaps.tail) == len(gaps.lanes) == 100
    assert gaps.forgotten == 3 * 900
    # A symbol whose gap is kept goes on adding to it.
    gaps.lost([make_tick("S999")], "overflow", at_head=True)
    assert gaps.head["S999"].count == 2
