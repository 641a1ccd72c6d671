"""Worker processes under random loads: the law, the order, and state in its place.

The loads: sleeps, failures, ends, hangs, kills, cancellations. Each seed is a run.
``TRIO_TICKS_SEEDS=500`` runs 50; ``TRIO_TICKS_FIRST_SEED`` says where to begin.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import trio_ticks as tt
from tests.worlds.helpers import number
from tests.worlds.pipeline_world import ScriptFeed, Send
from tests.worlds.process_handlers import Tell, read
from tests.worlds.process_world import by_symbol, guarded, path, quick_main, tick, workers_now
from tests.worlds.seeded_world import seeds
from trio_ticks import open_pipeline
from trio_ticks.errors import LedgerError

__all__ = ["guarded", "path", "quick_main"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")

TIMEOUT_S = 0.3


@attrs.frozen
class Load:
    ordering: str
    workers: int
    maxsize: int
    overflow: Any
    max_age: float | None
    on_crash: str
    sends: list[tuple[float, list[tt.Tick]]]
    """How long to wait, and what to send then."""
    kills_s: list[float]
    """How long to wait before each kill of some process."""
    stop: tuple[str, float] | None
    """How and when the run is ended before its feed ends."""

    @classmethod
    def drawn(cls, rng: random.Random) -> Load:
        counter = iter(range(10_000))

        def one() -> tt.Tick:
            # Most do nothing, a few sleep or fail, some end their process, hardly any
            # hangs.
            (bid,) = rng.choices([100.0, 15.0, -1.0, 13.0, 14.0], [80, 12, 6, 1.5, 0.5])
            return tick(
                rng.choice("ABCDEF"), next(counter), bid=bid, seconds=rng.choice([0.0, 0.001, 0.02])
            )

        return cls(
            ordering=rng.choice(["symbol", "symbol", "none"]),
            workers=rng.randint(1, 3),
            maxsize=rng.choice([3, 20, 1000]),
            overflow=rng.choice(
                [tt.Block(), tt.DropNewest(0), tt.DropNewest(0.05), tt.DropOldest(), tt.Conflate()]
            ),
            max_age=rng.choice([None, None, 0.05]),
            on_crash=rng.choice(["fail", "retry"]),
            sends=[
                (rng.choice([0.0, 0.0, 0.01, 0.05]), [one() for _ in range(rng.randint(1, 30))])
                for _ in range(rng.randint(1, 12))
            ],
            kills_s=[rng.uniform(0.0, 0.6) for _ in range(rng.choice([0, 0, 1, 2, 4]))],
            stop=rng.choice(
                [None, None, ("cancel", rng.uniform(0.0, 1.5)), ("shutdown", rng.uniform(0.0, 1.5))]
            ),
        )


class Watch(trio.abc.Instrument):
    """Looks after every step of every task."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.pipeline: tt.Pipeline[Any] | None = None
        self.wrongs: list[str] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.pipeline is None:
            return
        try:
            self.pipeline.ledger.check()
        except LedgerError as error:
            self.wrongs.append(f"law: {error}")
        used = self.pipeline.statistics().current_buffer_used
        if used > self.load.maxsize:
            self.wrongs.append(f"bound: {used} used")


async def run(
    load: Load, rng: random.Random, path: Path
) -> tuple[tt.PipelineReport, Counter[int], set[int]]:
    failed: Counter[int] = Counter()
    sent: set[int] = set()

    async def script(send: Send) -> None:
        for wait_s, ticks in load.sends:
            await trio.sleep(wait_s)
            sent.update(map(number, ticks))
            await send.send_many(ticks)

    async def kill() -> None:
        for wait_s in load.kills_s:
            await trio.sleep(wait_s)
            if pids := sorted(workers_now()):
                os.kill(rng.choice(pids), signal.SIGKILL)

    watch = Watch(load)
    trio.lowlevel.add_instrument(watch)
    async with open_pipeline(
        ScriptFeed(script),
        Tell(str(path)),
        executor="process",
        ordering=load.ordering,  # type: ignore[arg-type]  # drawn from what it may be
        workers=load.workers,
        maxsize=load.maxsize,
        overflow=load.overflow,
        max_age=load.max_age,
        on_crash=load.on_crash,  # type: ignore[arg-type]  # likewise
        handler_timeout=TIMEOUT_S,
        on_error=lambda item, _error: failed.update([number(item)]),
    ) as pipeline:
        watch.pipeline = pipeline
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            if load.stop is not None:
                how, after_s = load.stop
                with trio.move_on_after(after_s):
                    await pipeline.wait()
                getattr(pipeline, how)()
            await pipeline.wait()
            nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(watch)
    assert watch.wrongs == []
    return pipeline.report, failed, sent


@pytest.mark.parametrize("seed", seeds("process"))
async def test_law_order_and_state(seed: int, path: Path) -> None:
    rng = random.Random(seed)
    load = Load.drawn(rng)
    report, failed, sent = await run(load, rng, path)
    told = [line for line in read(path) if line.symbol]
    assert report.ledger.unaccounted == report.queued == report.in_flight == 0
    assert report.produced == report.consumed + report.failed + report.dropped
    assert report.failed == failed.total()
    numbers = Counter(line.number for line in told)
    assert numbers.keys() <= sent
    assert set(failed.values()) <= {1}
    # A tick is recorded before it is handled. A recorded tick was handled, has failed,
    # or was in hand when all was cancelled.
    assert report.consumed + report.failed - _never_begun(report, failed, numbers) <= len(numbers)
    in_hand = load.workers if report.dropped_by_reason["shutdown"] else 0
    # A tick to be tried again may have become stale before the new process was there.
    too_late = (
        min(report.worker_restarts, report.dropped_by_reason["stale"])
        if load.on_crash == "retry"
        else 0
    )
    assert len(numbers) <= report.consumed + report.failed + in_hand + too_late
    # Once each; twice what its process's end gave back.
    assert max(numbers.values(), default=1) <= (2 if load.on_crash == "retry" else 1)
    if load.ordering == "symbol":
        _check_order(told)
    counts: dict[tuple[int, str], list[int]] = defaultdict(list)
    for line in told:
        counts[line.pid, line.symbol].append(int(line.event))
    for events in counts.values():
        assert events == list(range(1, len(events) + 1))


def _never_begun(report: tt.PipelineReport, failed: Counter[int], numbers: Counter[int]) -> int:
    """Return how many ticks failed unrecorded: their process ended before it could."""
    return sum(count for tick_number, count in failed.items() if tick_number not in numbers)


def _check_order(told: list[Any]) -> None:
    for lines in by_symbol(told).values():
        # One process writes its lines in the order of its ticks; a symbol has one
        # process and its successors.
        numbers = [line.number for line in lines]
        assert numbers == sorted(numbers)
        pids = [line.pid for line in lines]
        assert len(dict.fromkeys(pids)) == 1 + sum(
            one != other for one, other in itertools.pairwise(pids)
        )
