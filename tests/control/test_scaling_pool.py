"""A pool that grows and shrinks while it works: law, order, no worker idle beside work.

Random sizes at random moments: in the loop on a virtual clock with hypothesis's
schedules, in threads on the real one.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.helpers import make_ticks, number, numbers
from tests.worlds.pipeline_world import (
    Gate,
    Recorder,
    ScriptFeed,
    Send,
    assert_accounted,
    sleepy_feed,
)
from tests.worlds.pool_world import open_with_pool
from trio_ticks.workers.pool import WorkerPool

SYMBOLS = [f"S{index}" for index in range(12)]
PATIENCE_S = 60.0


@attrs.frozen
class Change:
    """*by* workers more (or fewer), *after_s* seconds after the last change."""

    after_s: float
    by: int


@attrs.frozen
class Load:
    workers: int
    maxsize: int
    ordering: Literal["symbol", "none"]
    overflow: Any
    batches: tuple[tuple[float, int], ...]
    """Pauses, and how many ticks come after each."""
    takes_s: tuple[float, ...]
    """How long each handling takes, in turn; 0: no wait, negative: it raises."""
    changes: tuple[Change, ...]
    batch_size: int | None
    cancelled: bool


TIMES = st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.2])
LOADS = st.builds(
    Load,
    st.integers(1, 6),
    st.integers(1, 40),
    st.sampled_from(["symbol", "symbol", "none"]),
    st.sampled_from([tt.Block(), tt.Block(), tt.DropNewest(0.05), tt.DropOldest(), tt.Conflate()]),
    st.lists(st.tuples(TIMES, st.integers(1, 30)), min_size=1, max_size=10).map(tuple),
    st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.1, 0.3, -1.0]), min_size=1, max_size=5).map(tuple),
    st.lists(st.builds(Change, TIMES, st.integers(-6, 6)), min_size=1, max_size=12).map(tuple),
    st.sampled_from([None, None, None, 3]),
    st.sampled_from([False, False, False, True]),
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Thousands of drops a second are the point here; no log of them is."""
    logger = logging.getLogger("trio_ticks")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


class Watch:
    """Sees every handling, and takes notes of what must not be."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.handled: list[tt.Tick] = []
        self.wrongs: list[str] = []
        self.failed = 0
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def begin(self, tick: tt.Tick) -> float:
        with self._lock:
            if self.load.ordering == "symbol" and tick.symbol in self._busy:
                self.wrongs.append(f"two of {tick.symbol} at once")
            self._busy.add(tick.symbol)
            self.handled.append(tick)
        return self.load.takes_s[number(tick) % len(self.load.takes_s)]

    def end(self, tick: tt.Tick, takes_s: float) -> None:
        with self._lock:
            self._busy.discard(tick.symbol)
            self.failed += takes_s < 0
        if takes_s < 0:
            raise ArithmeticError("the handler's own")

    async def handle(self, tick: tt.Tick) -> None:
        takes_s = self.begin(tick)
        if takes_s > 0:
            try:
                await trio.sleep(takes_s)
            except trio.Cancelled:
                self.end(tick, 0.0)
                raise
        self.end(tick, takes_s)

    def handle_in_thread(self, tick: tt.Tick) -> None:
        takes_s = self.begin(tick)
        if takes_s > 0:
            time.sleep(takes_s / 100)
        self.end(tick, takes_s)

    async def handle_batch(self, ticks: list[tt.Tick]) -> None:
        for tick in ticks:
            self.begin(tick)
        await trio.sleep(self.load.takes_s[0] if self.load.takes_s[0] > 0 else 0)
        for tick in ticks:
            self.end(tick, 0.0)

    def check(self, report: tt.PipelineReport) -> None:
        assert self.wrongs == []
        assert_accounted(report)
        assert len({number(tick) for tick in self.handled}) == len(self.handled), (
            "a tick was handled twice"
        )
        lines: dict[str, list[int]] = defaultdict(list)
        for tick in self.handled:
            lines[tick.symbol].append(number(tick))
        if self.load.ordering == "symbol":
            assert all(line == sorted(line) for line in lines.values()), (
                "ticks of one symbol changed places"
            )
        if isinstance(self.load.overflow, tt.Block) and not self.load.cancelled:
            assert report.consumed + report.failed == report.produced
        if not self.load.cancelled:
            assert (report.consumed, report.failed) == (
                len(self.handled) - self.failed,
                self.failed,
            )


def quietly(_tick: Any, _error: Exception) -> None:
    pass


async def watch_workers(pipeline: tt.Pipeline[Any], pool: WorkerPool[Any], watch: Watch) -> None:
    """Check, whenever every task is blocked, that no worker is idle beside work."""
    state = pool.crew.state
    while True:
        await wait_all_tasks_blocked()
        pipeline.ledger.check()
        ready = [symbol for symbol in state.lanes.ready if state.lanes.lines[symbol]]
        if (
            any(worker.idle for worker in pool.crew.workers)
            and (len(state.buffer) or ready)
            and watch.load.batch_size is None
        ):
            watch.wrongs.append(
                f"lost wake-up: {len(state.buffer)} in the buffer, {ready} ready, "
                f"{pool.size} workers"
            )
        if any(worker.idle and worker.leaving for worker in pool.crew.workers):
            watch.wrongs.append("a worker sleeps that is to leave")
        await trio.sleep(0.013)


async def change(pool: WorkerPool[Any], load: Load, *, slower: float = 1.0) -> None:
    has_grown = False
    for step in load.changes:
        await trio.sleep(step.after_s * slower)
        before = pool.size
        if step.by > 0:
            pool.grow(step.by)
        else:
            pool.shrink(-step.by)
        if before:
            changed = pool.size == max(1, before + step.by)
            # A pool that has not begun hires no worker.
            assert changed or (step.by > 0 and not has_grown and pool.size == before)
            has_grown = has_grown or (changed and step.by > 0)


def feed_of(load: Load, *, slower: float = 1.0) -> ScriptFeed:
    async def script(send: Send) -> None:
        first = 0
        for pause_s, count in load.batches:
            await trio.sleep(pause_s * slower)
            await send.send_many(make_ticks(count, SYMBOLS, first))
            first += count

    return ScriptFeed(script)


async def play(load: Load) -> None:
    watch = Watch(load)
    handler: Any = watch.handle
    if load.batch_size is not None:

        @tt.batch_handler(max_size=load.batch_size, max_wait=0.02)
        async def in_batches(ticks: list[tt.Tick]) -> None:
            await watch.handle_batch(ticks)

        handler = in_batches
    settings: dict[str, Any] = {
        "workers": load.workers,
        "maxsize": load.maxsize,
        "ordering": load.ordering,
        "overflow": load.overflow,
    }
    with trio.fail_after(1000):
        async with trio.open_nursery() as outer:
            async with open_with_pool(feed_of(load), handler, on_error=quietly, **settings) as (
                pipeline,
                pool,
            ):
                outer.start_soon(watch_workers, pipeline, pool, watch)
                await change(pool, load)
                if load.cancelled:
                    pipeline.cancel()
                await pipeline.wait()
            outer.cancel_scope.cancel()
    watch.check(pipeline.report)


@given(LOADS)
def test_law_and_order_while_workers_come_and_go(load: Load) -> None:
    trio.run(play, load, clock=MockClock(autojump_threshold=0))


def random_load(chance: random.Random) -> Load:
    return Load(
        workers=chance.randint(1, 4),
        maxsize=chance.choice([5, 40, 400]),
        ordering=chance.choice(["symbol", "symbol", "none"]),
        overflow=tt.Block(),
        batches=tuple((chance.choice([0.0, 0.0, 0.01]), chance.randint(1, 60)) for _ in range(12)),
        takes_s=tuple(chance.choice([0.0, 0.0, 0.01, 0.1, 0.5, -1.0]) for _ in range(5)),
        changes=tuple(
            Change(chance.choice([0.0, 0.002, 0.01]), chance.randint(-6, 6)) for _ in range(20)
        ),
        batch_size=None,
        cancelled=chance.random() < 0.2,
    )


@pytest.mark.parametrize("seed", range(24))
async def test_law_and_order_in_threads_while_workers_come_and_go(seed: int) -> None:
    load = random_load(random.Random(seed))
    watch = Watch(load)
    settings: dict[str, Any] = {
        "workers": load.workers,
        "maxsize": load.maxsize,
        "ordering": load.ordering,
        "overflow": load.overflow,
    }
    with trio.fail_after(PATIENCE_S):
        async with open_with_pool(
            feed_of(load), watch.handle_in_thread, on_error=quietly, **settings
        ) as (pipeline, pool):
            await change(pool, load)
            if load.cancelled:
                pipeline.cancel()
            await pipeline.wait()
    if load.cancelled:
        # A thread that was left behind may be in the middle of a tick that counts as
        # dropped.
        assert_accounted(pipeline.report)
        assert watch.wrongs == []
    else:
        watch.check(pipeline.report)


# Coming and going, one by one


async def test_a_worker_that_leaves_finishes_what_it_holds(autojump_clock: MockClock) -> None:
    gate = Gate()
    async with open_with_pool(sleepy_feed(make_ticks(4, SYMBOLS)), gate, workers=3) as (
        pipeline,
        pool,
    ):
        await wait_all_tasks_blocked()
        pool.shrink(2)
        await wait_all_tasks_blocked()
        assert pool.size == 1
        assert len(pool.crew.workers) == len(pipeline.metrics().workers) == 3
        assert pipeline.ledger.in_flight == 3
        gate.opened.set()
        await wait_all_tasks_blocked()
        assert [worker.name for worker in pool.crew.workers] == ["loop-1"]
        assert numbers(gate.entered) == [0, 1, 2, 3]
        assert pipeline.ledger.consumed == 4
    assert_accounted(pipeline.report, consumed=4)


async def test_the_idle_go_first_and_the_last_stays(autojump_clock: MockClock) -> None:
    gate = Gate()
    async with open_with_pool(sleepy_feed(make_ticks(1)), gate, workers=4) as (_, pool):
        await wait_all_tasks_blocked()
        (busy,) = (worker for worker in pool.crew.workers if not worker.idle)
        pool.shrink(2)
        await wait_all_tasks_blocked()
        assert len(pool.crew.workers) == 2
        assert busy in pool.crew.workers
        pool.shrink(100)
        await wait_all_tasks_blocked()
        assert pool.crew.workers == [busy]
        gate.opened.set()
        await wait_all_tasks_blocked()
        assert pool.size == 1


async def test_whoever_comes_later_shares_the_handler_and_takes_a_free_name(
    autojump_clock: MockClock,
) -> None:
    entered: list[str] = []

    class Strategy:
        def __enter__(self) -> Strategy:
            entered.append("enter")
            return self

        def __exit__(self, *_exception: object) -> None:
            entered.append("exit")

        async def __call__(self, tick: tt.Tick) -> None:
            entered.append("tick")
            await trio.sleep(1)

    async with open_with_pool(sleepy_feed(make_ticks(4, SYMBOLS)), Strategy(), workers=2) as (
        pipeline,
        pool,
    ):
        await wait_all_tasks_blocked()
        pool.grow(2)
        names = [worker.name for worker in pool.crew.workers]
        assert names == ["loop-1", "loop-2", "loop-3", "loop-4"]
        assert pool.crew.workers[-1].idle
        await wait_all_tasks_blocked()
        assert entered == ["enter", *["tick"] * 4]
        await trio.sleep(2)
        pool.shrink(3)
        await wait_all_tasks_blocked()
        pool.grow(1)
        assert [worker.name for worker in pool.crew.workers] == ["loop-1", "loop-2"]
    assert entered == ["enter", *["tick"] * 4, "exit"]
    assert_accounted(pipeline.report, consumed=4)


async def test_a_class_is_made_anew_for_each_and_left_when_its_worker_leaves(
    autojump_clock: MockClock,
) -> None:
    alive: list[object] = []

    class Strategy:
        async def __aenter__(self) -> Strategy:
            await trio.sleep(
                1
            )  # A worker whose handler is not ready yet keeps nobody else from work.
            alive.append(self)
            return self

        async def __aexit__(self, *_exception: object) -> None:
            alive.remove(self)

        async def __call__(self, tick: tt.Tick) -> None:
            await trio.sleep(0.01)

    factory: Any = Strategy
    async with open_with_pool(sleepy_feed(), factory, workers=1) as (_, pool):
        await trio.sleep(2)
        pool.grow(3)
        assert [worker.idle for worker in pool.crew.workers] == [True] * 4
        await trio.sleep(2)
        assert len(set(map(id, alive))) == 4
        pool.shrink(2)
        await wait_all_tasks_blocked()
        assert len(alive) == len(pool.crew.workers) == 2
    assert alive == []


async def test_a_worker_that_is_not_ready_yet_is_not_waited_for(autojump_clock: MockClock) -> None:
    made: list[float] = []

    class Slow:
        async def __aenter__(self) -> None:
            made.append(trio.current_time())
            await trio.sleep(0 if len(made) < 3 else 3600)

        async def __aexit__(self, *_exception: object) -> None:
            pass

        async def __call__(self, tick: tt.Tick) -> None:
            await trio.sleep(1)

    sends: list[Send] = []

    async def script(send: Send) -> None:
        sends.append(send)
        await trio.sleep_forever()

    factory: Any = Slow
    async with open_with_pool(ScriptFeed(script), factory, workers=2) as (pipeline, pool):
        await wait_all_tasks_blocked()
        pool.grow(1)
        await wait_all_tasks_blocked()
        await sends[0].send_many(make_ticks(2, SYMBOLS))
        await trio.sleep(1.5)
        assert pipeline.ledger.consumed == 2
        pipeline.cancel()
    assert_accounted(pipeline.report, consumed=2)


async def test_the_time_of_those_who_left_is_not_forgotten(autojump_clock: MockClock) -> None:
    async with open_with_pool(
        sleepy_feed(make_ticks(4, SYMBOLS)), Recorder(seconds=1.0), workers=4
    ) as (pipeline, pool):
        await trio.sleep(2)
        pool.shrink(3)
        await trio.sleep(2)
        now = trio.current_time()
        assert (pool.busy_s(now), pool.life_s(now)) == (4.0, 10.0)
        assert pipeline.ledger.consumed == 4


async def test_after_the_end_nobody_is_hired(autojump_clock: MockClock) -> None:
    async with open_with_pool(sleepy_feed(), Recorder(), workers=2) as (pipeline, pool):
        pool.grow(1)  # It has not begun; the third begins with the others.
        assert len(pool.crew.workers) == 3
        pipeline.shutdown()
        await pipeline.wait()
        pool.grow(1)
        pool.shrink(1)
        assert len(pool.crew.workers) == 3
