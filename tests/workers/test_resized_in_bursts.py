"""A pool that is resized faster than its workers begin and end stays small.

Workers that were dismissed are taken back before others are hired, and of many
processes that are wanted at once only few are being started.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import trio_ticks as tt
from tests.worlds.helpers import make_tick
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted, sleepy_feed
from tests.worlds.pool_world import open_with_pool
from tests.worlds.process_handlers import TellReady, read
from tests.worlds.process_world import (
    guarded,
    numbers_of,
    path,
    quick_main,
    until,
    workers_now,
)

__all__ = ["guarded", "path", "quick_main"]

MOST = 4
"""The largest size that the bursts ask for."""
SYMBOLS = "ABCDEFG"


def sizes(seed: int) -> Iterator[int]:
    rng = random.Random(seed)
    return iter(lambda: rng.randint(1, MOST), None)


def ticking() -> ScriptFeed:
    """Return a feed of a tick a millisecond, of some symbols in turn."""

    async def script(send: Send) -> None:
        for n in count():
            await send.send(make_tick(SYMBOLS[n % len(SYMBOLS)], n))
            await trio.sleep(0.001)

    return ScriptFeed(script)


def size_of(pipeline: tt.Pipeline[Any]) -> int:
    return len(pipeline.metrics().workers)


# Processes


@pytest.mark.parametrize("ordering", ["symbol", "none"])
async def test_a_burst_of_sizes_leaves_few_processes(path: Path, ordering: str) -> None:
    settings: dict[str, Any] = {"workers": 2, "executor": "process", "ordering": ordering}
    async with tt.open_pipeline(
        ticking(), TellReady(str(path)), overflow=tt.Block(), **settings
    ) as pipeline:
        await until(lambda: pipeline.ledger.consumed)
        for size, _ in zip(sizes(1), range(150), strict=False):
            pipeline.resize(size)
            await trio.sleep(0.01)
            pipeline.ledger.check()
            # Those beyond MOST end; a burst of as many calls had made as many more.
            assert size_of(pipeline) <= 3 * MOST
            assert len(workers_now()) <= 3 * MOST
        pipeline.resize(2)
        await until(lambda: size_of(pipeline) == 2 and len(workers_now()) == 2)
        handled = pipeline.ledger.consumed
        await until(lambda: pipeline.ledger.consumed > handled + 20)
        pipeline.shutdown()
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=pipeline.ledger.produced)
    told = numbers_of(path)
    assert sum(map(len, told.values())) == pipeline.ledger.produced
    if ordering == "symbol":
        assert all(numbers == sorted(numbers) for numbers in told.values())


async def test_who_is_dismissed_before_its_turn_leaves_no_process(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_ticks.workers.processes.work.usable_cores", lambda: 1.0)
    seen: set[int] = set()

    def fewer_than(number: int) -> bool:
        seen.update(workers_now())
        return size_of(pipeline) < number

    async with tt.open_pipeline(
        ticking(), TellReady(str(path)), workers=1, executor="process", overflow=tt.Block()
    ) as pipeline:
        await until(lambda: pipeline.ledger.consumed)
        pipeline.resize(20)
        assert size_of(pipeline) == 20
        await until(lambda: len(workers_now()) > 1)
        pipeline.resize(1)
        await until(lambda: fewer_than(2))
        pipeline.shutdown()
        await pipeline.wait()
    assert len(seen) <= 5  # the first one, two that were being started, and no more
    assert sum(line.event == "ready" for line in read(path)) <= 5
    assert_accounted(pipeline.report, consumed=pipeline.ledger.produced)


async def test_who_waits_for_its_turn_may_be_dismissed_and_taken_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_ticks.workers.processes.work.usable_cores", lambda: 1.0)
    async with tt.open_pipeline(
        ticking(), TellReady(str(path)), workers=1, executor="process", overflow=tt.Block()
    ) as pipeline:
        await until(lambda: pipeline.ledger.consumed)
        pipeline.resize(5)
        await until(lambda: len(workers_now()) > 1)
        pipeline.resize(1)  # calls off the wait of two, which have not seen it yet
        pipeline.resize(5)
        await until(lambda: len({line.pid for line in read(path) if line.event == "ready"}) == 5)
        assert size_of(pipeline) == 5
        pipeline.shutdown()
        await pipeline.wait()
    assert sum(line.event == "ready" for line in read(path)) == 5


@pytest.mark.parametrize("end", ["shutdown", "cancel"])
@pytest.mark.parametrize("seed", range(3))
async def test_the_end_amid_a_burst(path: Path, end: str, seed: int) -> None:
    """No process is left (``guarded``), and each tick is accounted for."""
    async with tt.open_pipeline(
        ticking(), TellReady(str(path)), workers=2, executor="process", overflow=tt.Block()
    ) as pipeline:
        for size, _ in zip(sizes(seed), range(10 + 60 * seed), strict=False):
            pipeline.resize(size)
            await trio.sleep(0.005)
        pipeline.resize(20)
        await trio.sleep(0.01 * seed)
        getattr(pipeline, end)()
        pipeline.resize(3)
        await pipeline.wait()
    pipeline.ledger.check()
    ledger = pipeline.report.ledger
    assert (ledger.queued, ledger.in_flight) == (0, 0)
    assert end == "cancel" or ledger.consumed == ledger.produced


async def test_the_home_of_the_last_process_is_kept_though_it_is_to_leave(path: Path) -> None:
    """At the end of the feed all others end: what is left waits behind its tick."""
    ticks = [attrs.evolve(make_tick("A", 0), bid=15.0, ask_size=0.5)]
    ticks += [attrs.evolve(make_tick("B", 1), bid=15.0, ask_size=3.0)]
    ticks += [make_tick("B", n) for n in range(2, 6)]
    async with tt.open_pipeline(
        tt.IterableFeed(ticks), TellReady(str(path)), workers=2, executor="process"
    ) as pipeline:
        await until(lambda: {"A", "B"} <= {line.symbol for line in read(path)})
        pipeline.resize(1)
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=6)


# The loop and threads


class SlowToEnter:
    """Becomes ready, and leaves, when the test says so."""

    made = 0
    ready = leave = trio.Event()
    in_exit = at_once = most_at_once = 0

    def __init__(self) -> None:
        type(self).made += 1

    async def __aenter__(self) -> SlowToEnter:
        await self.ready.wait()
        return self

    async def __aexit__(self, *_reason: object) -> None:
        SlowToEnter.in_exit += 1
        await self.leave.wait()

    async def __call__(self, tick: tt.Tick) -> None:
        SlowToEnter.at_once += 1
        SlowToEnter.most_at_once = max(self.at_once, self.most_at_once)
        await trio.sleep(1)
        SlowToEnter.at_once -= 1


class SlowToEnterInThread:
    """Becomes ready when the test says so."""

    made = 0
    ready = threading.Event()

    def __init__(self) -> None:
        type(self).made += 1

    def __enter__(self) -> SlowToEnterInThread:
        self.ready.wait(30)
        return self

    def __exit__(self, *_reason: object) -> None:
        pass

    def __call__(self, tick: tt.Tick) -> None:
        pass


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the classes begin anew in each test."""
    for kind, event in ((SlowToEnter, trio.Event), (SlowToEnterInThread, threading.Event)):
        for name in ("made", "in_exit", "at_once", "most_at_once"):
            if hasattr(kind, name):
                monkeypatch.setattr(kind, name, 0)
        monkeypatch.setattr(kind, "ready", event())
    monkeypatch.setattr(SlowToEnter, "leave", trio.Event())


@pytest.mark.parametrize("kind", [SlowToEnter, SlowToEnterInThread])
async def test_who_is_dismissed_while_its_handler_is_entered_is_taken_back(kind: Any) -> None:
    SlowToEnter.leave.set()
    async with tt.open_pipeline(sleepy_feed(), kind, workers=2) as pipeline:
        for size, _ in zip(sizes(2), range(200), strict=False):
            pipeline.resize(size)
            await trio.sleep(0.001)
            assert size_of(pipeline) <= MOST
        assert kind.made <= MOST
        pipeline.resize(3)
        kind.ready.set()
        await until(lambda: size_of(pipeline) == 3)
        assert kind.made <= MOST
        pipeline.shutdown()
        await pipeline.wait()


async def test_no_more_ticks_are_handled_at_once_than_was_ever_wanted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for event in (SlowToEnter.ready, SlowToEnter.leave):
        event.set()
    async with tt.open_pipeline(
        ticking(), SlowToEnter, workers=2, overflow=tt.DropOldest(), ordering="none"
    ) as pipeline:
        for size, _ in zip(sizes(3), range(500), strict=False):
            pipeline.resize(size)
            await trio.sleep(0.02)
            pipeline.ledger.check()
            assert size_of(pipeline) <= MOST
        assert SlowToEnter.most_at_once == MOST
        pipeline.resize(2)
        await trio.sleep(2)
        assert size_of(pipeline) == 2
        pipeline.cancel()


async def test_a_pool_that_sizes_itself_takes_back_too() -> None:
    SlowToEnter.leave.set()
    async with open_with_pool(
        sleepy_feed(), SlowToEnter, workers=tt.AutoWorkers(minimum=1, maximum=8)
    ) as (pipeline, pool):
        before = pool.size
        for _ in range(50):
            pool.grow(3)
            await trio.sleep(0.001)
            pool.shrink(3)
            await trio.sleep(0.001)
        assert SlowToEnter.made == before + 3
        pipeline.cancel()


async def test_who_is_leaving_its_handler_is_not_taken_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    SlowToEnter.ready.set()
    async with open_with_pool(ticking(), SlowToEnter, workers=3, ordering="none") as (
        pipeline,
        pool,
    ):
        await trio.sleep(0.25)
        pipeline.resize(1)
        await trio.sleep(5)
        assert SlowToEnter.in_exit == 2
        pipeline.resize(3)
        await trio.sleep(0.25)
        assert (pool.size, size_of(pipeline), SlowToEnter.at_once) == (3, 5, 3)
        SlowToEnter.leave.set()
        await trio.sleep(5)
        assert (pool.size, size_of(pipeline), SlowToEnter.at_once) == (3, 3, 3)
        assert SlowToEnter.made == 5
        pipeline.cancel()
