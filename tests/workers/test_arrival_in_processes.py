"""When the tick in hand arrived, for handlers in worker processes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import trio_ticks as tt
from tests.worlds import process_handlers as handlers
from tests.worlds.arrival_world import CLOSE, TimedFeed
from tests.worlds.process_world import guarded, path, quick_main

__all__ = ["guarded", "path", "quick_main"]


def arrivals_in(path: Path) -> dict[int, datetime]:
    """Return what handlers were told, by the number of the tick."""
    return {
        line.number: datetime.fromtimestamp(int(line.event) / 1e6, UTC)
        for line in handlers.read(path)
    }


@pytest.mark.parametrize("kind", [handlers.TellArrivals, handlers.TellArrivalsAsync])
async def test_a_handler_and_on_error_are_told_the_same(path: Path, kind: Any) -> None:
    failed: dict[int, datetime] = {}

    def on_error(tick: tt.Tick, _error: Exception) -> None:
        failed[int(tick.volume)] = tt.arrival()

    feed = TimedFeed([20, 20, 20], 0.01, lambda number: number % 7 == 0)
    settings: Any = {"workers": 1, "executor": "process", "signals": False}
    await tt.run_pipeline(feed, kind(str(path)), on_error=on_error, **settings)
    told = arrivals_in(path)
    assert len(told) == 60
    feed.check(told)
    assert sorted(failed) == list(range(0, 60, 7))
    assert all(abs(told[number] - failed[number]) <= CLOSE for number in failed)


async def test_a_batch_handler_is_told_of_the_first(path: Path) -> None:
    feed = TimedFeed([20, 20, 20], 0.01)
    settings: Any = {"workers": 1, "executor": "process", "signals": False}
    await tt.run_pipeline(feed, handlers.TellArrivalsOfBatches(str(path)), **settings)
    told = arrivals_in(path)
    assert len(told) == 60
    # Of the ticks with one arrival, the first was sent then.
    feed.check({min(n for n in told if told[n] == each): each for each in set(told.values())})
