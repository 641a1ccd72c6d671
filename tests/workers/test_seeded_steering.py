"""Random runs that are paused, resumed and resized at random moments, in each executor.

By tick: each has one outcome, in its turn, and none is begun while nothing may be. A
seed is repeated as in ``test_seeded_runs.py``.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.process_world import PATIENCE_S, path, quick_main
from tests.worlds.seeded_handlers import Event, Log
from tests.worlds.seeded_world import UNIT_S, Load, Outcome, Place, Steer, play, seeds

__all__ = ["path", "quick_main"]


def drawn_steer(place: Place, seed: int) -> Steer:
    """Return what tells a pipeline, made from *seed*: in the loop and from threads."""
    rng = random.Random(f"steer {place} {seed}")
    steps: list[tuple[float, str, int, bool]] = [
        (
            UNIT_S[place] * rng.choice([0, 0.1, 1, 3, 8]),
            rng.choice(["pause", "pause", "resume", "resume", "resize"]),
            rng.randint(1, 3 if place == "process" else 6),
            place != "loop" and rng.random() < 0.3,
        )
        for _ in range(rng.randint(2, 25))
    ]
    ends_paused = rng.random() < 0.2

    async def steer(pipeline: tt.Pipeline[Any], log: Log) -> None:
        async def do(what: str, size: int, in_thread: bool) -> None:
            call: Callable[[], None] = getattr(pipeline, what)
            if what == "resize":
                call = lambda: pipeline.resize(workers=size)  # noqa: E731
            if what == "resume":
                log.write("resumed", [])
            await trio.to_thread.run_sync(call) if in_thread else call()
            if what == "pause" and not in_thread:
                log.write("paused", [])

        for wait_s, what, size, in_thread in steps:
            await trio.sleep(wait_s)
            await do(what, size, in_thread)
        if ends_paused:
            await do("pause", 1, False)
            await trio.sleep(10 * UNIT_S[place])
            log.write("resumed", [])
            log.stopped = True
            pipeline.shutdown()
        else:
            await do("resume", 1, False)

    return steer


def begun_while_paused(events: list[Event]) -> int:
    """Return how many handlings began, at most, between a pause and its end."""
    most = count = 0
    paused, begun = False, set[int]()
    for event in events:
        if event.what == "paused":
            paused, count = True, count if paused else 0
        elif event.what == "resumed":
            paused = False
        elif event.what == "begin":
            # Another try belongs to a handling that had begun.
            count += paused and not begun.issuperset(event.numbers)
            begun.update(event.numbers)
        most = max(most, count if paused else 0)
    return most


def check(outcome: Outcome) -> None:
    outcome.check()
    pipeline, load = outcome.pipeline, outcome.load
    assert pipeline is not None
    assert (pipeline.phase, pipeline.paused) == ("stopped", None)
    if load.end[0] in ("shutdown", "cancel", "scope"):
        return  # a shutdown ends a pause
    if load.place == "loop":
        assert begun_while_paused(outcome.events) == 0
    elif load.place == "thread":
        # One that its thread had just taken.
        assert begun_while_paused(outcome.events) <= 6


@pytest.mark.parametrize("seed", seeds("loop"))
def test_in_the_loop(seed: int) -> None:
    async def main() -> Outcome:
        with trio.fail_after(86_400):
            return await play(Load.drawn("loop", seed), None, drawn_steer("loop", seed))

    check(trio.run(main, clock=MockClock(autojump_threshold=0)))


@pytest.mark.parametrize("seed", seeds("thread"))
async def test_in_threads(seed: int) -> None:
    with trio.fail_after(PATIENCE_S):
        check(await play(Load.drawn("thread", seed), None, drawn_steer("thread", seed)))


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")
@pytest.mark.parametrize("seed", seeds("process"))
async def test_in_processes(seed: int, path: Path) -> None:
    with trio.fail_after(PATIENCE_S):
        check(await play(Load.drawn("process", seed), path, drawn_steer("process", seed)))
    assert multiprocessing.active_children() == []
