"""Lone ticks in threads: a thread lingers, and its outcome is not told at once.

Nothing is to wait for that. So in most tests here a thread lingers for as long as the
test may take: what needs it told comes at once, or not at all.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import trio

import trio_ticks as tt
from tests.worlds.helpers import make_tick, number, numbers
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted
from tests.worlds.pool_world import open_with_pool
from trio_ticks import open_pipeline
from trio_ticks.clock import Clock
from trio_ticks.pipeline import halves, opening
from trio_ticks.pipeline.running import Pipeline
from trio_ticks.workers import threads

PATIENCE_S = 30.0


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let threads linger for longer than a test may take."""
    monkeypatch.setattr(threads, "LINGER_S", 10 * PATIENCE_S)


class Handler:
    """Keeps the ticks that came, and their threads; fails the ticks that it is told."""

    def __init__(self, *fails: int) -> None:
        self.ticks: list[tt.Tick] = []
        self.threads: set[threading.Thread] = set()
        self._fails = fails

    def __call__(self, tick: tt.Tick) -> None:
        self.threads.add(threading.current_thread())
        self.ticks.append(tick)
        if number(tick) in self._fails:
            raise ValueError("as it was told")

    async def has(self, count: int) -> None:
        with trio.fail_after(PATIENCE_S):
            while len(self.ticks) < count:  # noqa: ASYNC110 - a thread sets no trio event
                await trio.sleep(0.001)
        # Let its thread go on, until it waits for the next.
        await trio.sleep(0.02)


def one_by_one(handler: Handler, *ticks: tt.Tick) -> ScriptFeed:
    """Send each tick when the thread of the one before lingers."""

    async def script(send: Send) -> None:
        for count, tick in enumerate(ticks, 1):
            await send.send(tick)
            await handler.has(count)

    return ScriptFeed(script)


@pytest.mark.parametrize("symbols", ["A", "ABC"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.usefixtures("endless")
async def test_the_next_tick_and_the_end_call_a_worker_whose_thread_lingers(
    symbols: str, workers: int
) -> None:
    handler = Handler()
    ticks = [make_tick(symbols[n % len(symbols)], n) for n in range(9)]
    with trio.fail_after(PATIENCE_S):
        report = await tt.run_pipeline(one_by_one(handler, *ticks), handler, workers=workers)
    assert numbers(handler.ticks) == list(range(9))
    assert_accounted(report, consumed=9)
    # Each tick found the thread of the one before.
    assert len(handler.threads) == 1


async def test_without_a_next_tick_the_outcome_is_told_all_the_same() -> None:
    handler, done = Handler(), trio.Event()

    async def script(send: Send) -> None:
        await send.send(make_tick("A", 0))
        await done.wait()

    async with open_pipeline(ScriptFeed(script), handler) as pipeline:
        with trio.fail_after(PATIENCE_S):
            while pipeline.ledger.consumed < 1:  # noqa: ASYNC110
                await trio.sleep(0.001)
        done.set()
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=1)


@pytest.mark.usefixtures("endless")
async def test_a_failure_is_told_at_once() -> None:
    handler, failed = Handler(0), trio.Event()

    async def on_error(_tick: tt.Tick, _error: BaseException) -> None:
        failed.set()

    async def script(send: Send) -> None:
        await send.send(make_tick("A", 0))
        await failed.wait()

    with trio.fail_after(PATIENCE_S):
        report = await tt.run_pipeline(ScriptFeed(script), handler, on_error=on_error)
    assert_accounted(report, failed=1)


@pytest.mark.usefixtures("endless")
async def test_a_result_is_written_at_once() -> None:
    written = trio.Event()

    async def results(_result: tt.Result) -> None:
        written.set()

    async def script(send: Send) -> None:
        await send.send(make_tick("A", 0))
        await written.wait()

    with trio.fail_after(PATIENCE_S):
        report = await tt.run_pipeline(
            ScriptFeed(script), lambda _tick: "a result", executor="thread", results=results
        )
    assert_accounted(report, consumed=1)


@pytest.mark.usefixtures("endless")
async def test_a_worker_that_is_to_leave_is_called() -> None:
    handler, left = Handler(), trio.Event()

    async def script(send: Send) -> None:
        for n, symbol in enumerate("AB"):
            await send.send(make_tick(symbol, n))
            await handler.has(n + 1)
        await left.wait()

    async with open_pipeline(ScriptFeed(script), handler, workers=2) as pipeline:
        await handler.has(2)
        pipeline.resize(workers=1)
        with trio.fail_after(PATIENCE_S):
            while len(pipeline.metrics().workers) > 1 or pipeline.ledger.consumed < 2:  # noqa: ASYNC110
                await trio.sleep(0.001)
        left.set()
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=2)


@pytest.mark.usefixtures("endless")
async def test_a_tick_that_has_been_handled_when_the_pipeline_is_cancelled_is_consumed() -> None:
    handler = Handler()

    async def script(send: Send) -> None:
        await send.send(make_tick("A", 0))
        await trio.sleep_forever()

    async with open_pipeline(ScriptFeed(script), handler) as pipeline:
        await handler.has(1)
        pipeline.cancel()
    assert_accounted(pipeline.report, consumed=1)


@pytest.mark.usefixtures("endless")
async def test_a_worker_whose_thread_lingered_was_idle_meanwhile() -> None:
    handler, lingered_s = Handler(), 2.0

    async def script(send: Send) -> None:
        for n in range(2):
            await send.send(make_tick("A", n))
            await handler.has(n + 1)
            await trio.sleep(lingered_s)

    async with open_pipeline(ScriptFeed(script), handler, workers=1) as pipeline:
        with trio.fail_after(PATIENCE_S):
            await pipeline.wait()
        (row,) = pipeline.metrics().workers
    # As busy it would have been for all of its life.
    assert row.busy_ratio < 0.8
    # The way to the thread and back would have taken all that time.
    assert pipeline.report.hand_over_ms.max < lingered_s * 1e3


@pytest.mark.parametrize(("step_s", "at_least", "at_most"), [(1e-6, 1, 100), (1e-3, 200, 200)])
async def test_quick_lone_ticks_are_timed_now_and_then_and_others_always(
    step_s: float, at_least: int, at_most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 16 is recorded on average; *step_s* passes at each look at the clock."""
    looks = itertools.count()
    clock = Clock(now=lambda: next(looks) * step_s)
    monkeypatch.setattr(halves, "Pipeline", functools.partial(Pipeline, clock=clock))
    handler = Handler()

    async def script(send: Send) -> None:
        for n in range(200):
            await send.send(make_tick("A", n))
            while len(handler.ticks) <= n:
                await trio.lowlevel.checkpoint()

    async with opening.open_pipeline(ScriptFeed(script), handler, workers=1) as pipeline:
        with trio.fail_after(PATIENCE_S):
            await pipeline.wait()
        count = pipeline.report.handler_latency_ms.count
    assert_accounted(pipeline.report, consumed=200)
    assert at_least <= count <= at_most


@pytest.mark.usefixtures("endless")
async def test_a_tick_that_comes_just_before_a_thread_lingers_is_seen() -> None:
    """It finds no thread that lingers, and the thread has looked for ticks already."""
    handler, later = Handler(), [make_tick("A", 1)]
    sends: list[Send] = []

    class Between(dict[Any, None]):
        def __setitem__(self, thread: Any, nothing: None) -> None:
            if later:
                trio.from_thread.run_sync(sends[0].send_nowait, later.pop())
            super().__setitem__(thread, nothing)

    async def script(send: Send) -> None:
        sends.append(send)
        await send.send(make_tick("A", 0))
        await handler.has(2)

    async with open_with_pool(ScriptFeed(script), handler, workers=1) as (pipeline, pool):
        pool.crew.state.sleepers.lingering = Between()
        with trio.fail_after(PATIENCE_S):
            await pipeline.wait()
    assert_accounted(pipeline.report, consumed=2)


@pytest.mark.usefixtures("endless")
async def test_ticks_that_come_at_once_call_as_many_workers_whose_threads_linger() -> None:
    """The first one's handler may take long: the second one must not wait for it."""
    handler, both = Handler(), threading.Barrier(2)

    def work(tick: tt.Tick) -> None:
        handler(tick)
        if number(tick) >= 2:
            both.wait(PATIENCE_S)

    async def script(send: Send) -> None:
        for n, symbol in enumerate("AB"):
            await send.send(make_tick(symbol, n))
            await handler.has(n + 1)
        await send.send_many([make_tick("A", 2), make_tick("B", 3)])
        await handler.has(4)

    async with open_with_pool(ScriptFeed(script), work, workers=2) as (pipeline, _pool):
        with trio.fail_after(2 * PATIENCE_S):
            await pipeline.wait()
    assert_accounted(pipeline.report, consumed=4)


@pytest.mark.parametrize("refused", [[0], [1], [2], range(1_000)], ids=["1st", "2nd", "3rd", "all"])
async def test_the_law_holds_where_the_system_starts_no_thread(
    refused: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, begun, run_sync = Handler(), itertools.count(), trio.to_thread.run_sync

    async def lend(sync_fn: Any, *args: Any, thread_name: str | None = None, **more: Any) -> Any:
        if "trio_ticks" in (thread_name or "") and next(begun) in refused:
            await trio.lowlevel.checkpoint()
            raise RuntimeError("can't start new thread")
        return await run_sync(sync_fn, *args, thread_name=thread_name, **more)

    monkeypatch.setattr(trio.to_thread, "run_sync", lend)

    async def script(send: Send) -> None:
        for n in range(60):
            await send.send(make_tick("ABC"[n % 3], n))
            await trio.sleep(0.001 * (n % 3))

    pipelines: list[tt.Pipeline[Any]] = []

    async def run() -> None:
        with trio.fail_after(PATIENCE_S):
            async with open_pipeline(ScriptFeed(script), handler, workers=3) as pipeline:
                pipelines.append(pipeline)
                await pipeline.wait()

    with pytest.raises(RuntimeError, match="can't start new thread"):
        await run()
    report = pipelines[0].report
    assert_accounted(report)
    assert report.consumed <= len(handler.ticks)
    assert report.produced > report.consumed


async def test_the_threads_end_with_their_workers() -> None:
    handler = Handler()
    ticks = [make_tick("A", n) for n in range(3)]
    async with open_pipeline(one_by_one(handler, *ticks), handler, workers=2) as pipeline:
        await pipeline.wait()
    # trio keeps a thread for others, under another name.
    with trio.fail_after(PATIENCE_S):
        while any("trio_ticks" in thread.name for thread in handler.threads):  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert_accounted(pipeline.report, consumed=3)
