"""Random runs over all executors: they keep order and law, and they end.

Sleeps, failures, tries, timeouts, cancellations and kills. ``TRIO_TICKS_SEEDS=1000``
makes 1000 runs; ``TRIO_TICKS_FIRST_SEED=57 pytest -k "loop and 57"`` repeats one.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.worlds.chance import seeded_chance
from tests.worlds.process_world import PATIENCE_S, path, quick_main
from tests.worlds.seeded_handlers import Event
from tests.worlds.seeded_world import Load, Outcome, play, seeds

__all__ = ["path", "quick_main"]


@pytest.fixture(autouse=True)
def seeded_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed trio's choice of the next task, which trio seeds only for hypothesis."""
    monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)


def played_in_loop(seed: int) -> Outcome:
    dice = trio._core._run._r
    before = dice.getstate()
    try:
        dice.seed(seed)
        with seeded_chance(seed):
            return trio.run(
                play_within_a_day, Load.drawn("loop", seed), clock=MockClock(autojump_threshold=0)
            )
    finally:
        dice.setstate(before)


async def play_within_a_day(load: Load) -> Outcome:
    with trio.fail_after(86_400):
        return await play(load)


@pytest.mark.parametrize("seed", seeds("loop"))
def test_in_the_loop(seed: int) -> None:
    played_in_loop(seed).check()


@pytest.mark.parametrize("seed", seeds("thread"))
async def test_in_threads(seed: int) -> None:
    with trio.fail_after(PATIENCE_S):
        outcome = await play(Load.drawn("thread", seed))
    outcome.check()


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")
@pytest.mark.parametrize("seed", seeds("process"))
async def test_in_processes(seed: int, path: Path) -> None:
    with trio.fail_after(PATIENCE_S):
        outcome = await play(Load.drawn("process", seed), path)
    outcome.check()
    assert multiprocessing.active_children() == []


def ordered(events: Sequence[Event]) -> list[Event]:
    """Return *events*, with those that a cancellation cuts off together by number.

    Trio cancels tasks in the order of a set, which no seed decides.
    """
    result: list[Event] = []
    for what, together in groupby(events, key=lambda event: event.what):
        group = list(together)
        result += sorted(group, key=lambda event: event.numbers) if what == "cut" else group
    return result


def test_a_seed_makes_the_same_run_again() -> None:
    for seed in range(10):
        one, other = played_in_loop(seed), played_in_loop(seed)
        assert ordered(one.events) == ordered(other.events)
        assert (one.received, one.dropped, one.failed) == (
            other.received,
            other.dropped,
            other.failed,
        )
