"""The worker pool in the event loop: wake-ups, concurrency, a worker's row.

Order per symbol is in test_order.py, worker threads in test_threads.py. Time is
virtual.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.chance import seeded_chance
from tests.worlds.helpers import make_tick, make_ticks, numbers
from tests.worlds.pipeline_world import (
    Gate,
    Recorder,
    ScriptFeed,
    Send,
    assert_accounted,
    listed,
    sleepy_feed,
)
from trio_ticks import open_pipeline, run_pipeline

SYMBOLS = [f"S{number}" for number in range(64)]


class Loop:
    """Plays ticks into a pipeline by hand: the feed sends at once what a test gives."""

    def __init__(self) -> None:
        self._send: Send | None = None
        self.feed = ScriptFeed(self._keep)

    async def _keep(self, send: Send) -> None:
        self._send = send
        await trio.sleep_forever()

    async def play(self, *batches: list[tt.Tick]) -> None:
        """Send each batch on its own, and wait until everything has come to rest."""
        await wait_all_tasks_blocked()
        assert self._send is not None
        for batch in batches:
            await self._send.send_many(batch)
        await wait_all_tasks_blocked()


# How much runs at once


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("ordering", ["symbol", "none"])
@pytest.mark.parametrize("one_by_one", [False, True], ids=["one batch", "one by one"])
async def test_as_many_at_once_as_there_are_workers(
    workers: int, ordering: str, one_by_one: bool, autojump_clock: MockClock
) -> None:
    """No worker sleeps while a tick waits that it could handle.

    However the ticks come, a missed wake-up never loses one.
    """
    gate, loop = Gate(), Loop()
    ticks = make_ticks(64, SYMBOLS)
    async with open_pipeline(loop.feed, gate, workers=workers, ordering=ordering) as pipeline:  # type: ignore[arg-type]  # parametrised
        await loop.play(*([tick] for tick in ticks) if one_by_one else (ticks,))
        assert numbers(gate.entered) == list(range(workers))
        assert pipeline.ledger.in_flight == workers
        assert pipeline.ledger.queued == 64 - workers
        gate.opened.set()
        await wait_all_tasks_blocked()
        assert numbers(gate.entered) == list(range(64))
    assert_accounted(pipeline.report, consumed=64)


async def test_without_order_one_symbol_keeps_all_workers_busy(autojump_clock: MockClock) -> None:
    report = await run_pipeline(
        listed(make_ticks(100)), Recorder(seconds=1.0), workers=10, ordering="none"
    )
    assert report.duration_s == 10.0
    assert_accounted(report, consumed=100)


async def test_with_order_one_symbol_keeps_one_worker_busy(autojump_clock: MockClock) -> None:
    report = await run_pipeline(listed(make_ticks(100)), Recorder(seconds=1.0), workers=10)
    assert report.duration_s == 100.0


async def test_work_is_shared_out_without_waste(autojump_clock: MockClock) -> None:
    # 64 symbols, 10 ticks each, a second each, 8 workers: no schedule takes less than
    # 80 s, and none should take more.
    report = await run_pipeline(listed(make_ticks(640, SYMBOLS)), Recorder(seconds=1.0), workers=8)
    assert report.duration_s == 80.0
    assert_accounted(report, consumed=640)


async def test_ticks_that_come_while_a_worker_is_between_two_are_not_missed(
    autojump_clock: MockClock,
) -> None:
    """Ticks arrive at each step of busy workers.

    The handlers return at once, at a checkpoint, or late.
    """

    async def handler(tick: tt.Tick) -> None:
        match tick.volume % 7:
            case 0:
                await trio.sleep(0.01)
            case 1 | 2:
                await trio.lowlevel.checkpoint()

    for gap in (0, 1, 2, 5):

        async def script(send: Send, gap: int = gap) -> None:
            for first in range(0, 600, 3):
                await send.send_many(make_ticks(3, SYMBOLS[:5], first))
                for _ in range(gap):
                    await trio.lowlevel.checkpoint()

        with trio.fail_after(100):
            report = await run_pipeline(
                ScriptFeed(script), handler, workers=3, overflow=tt.Block(), maxsize=7
            )
        assert_accounted(report, produced=600, consumed=600)


async def test_a_quick_handler_leaves_other_tasks_their_turn(autojump_clock: MockClock) -> None:
    """A handler that never waits must not occupy the loop, however many ticks wait."""
    turns: list[int] = []

    async def other(pipeline: tt.Pipeline[tt.Tick]) -> None:
        while pipeline.ledger.consumed < 20_000:
            turns.append(pipeline.ledger.consumed)
            await trio.lowlevel.checkpoint()

    async def handler(tick: tt.Tick) -> None:
        # Virtual time stands still while a task runs, so the jump stands for a handler
        # that takes 10 µs.
        autojump_clock.jump(10e-6)

    async with open_pipeline(
        sleepy_feed(make_ticks(20_000, SYMBOLS)), handler, maxsize=20_000
    ) as pipeline:
        await other(pipeline)
    longest = max(after - before for before, after in pairwise(turns))
    # Four workers in turn, each for a millisecond and what is left until it reads the
    # clock again.
    assert longest <= 4 * 300
    assert_accounted(pipeline.report, consumed=20_000)


# What a worker's row says


async def test_a_row_a_worker(autojump_clock: MockClock) -> None:
    gate, loop = Gate(), Loop()
    async with open_pipeline(loop.feed, gate, workers=3) as pipeline:
        await loop.play([make_tick("SPY"), make_tick("QQQ")])
        rows = pipeline.metrics().workers
        assert len({row.name for row in rows}) == 3
        assert Counter(row.state for row in rows) == {"busy": 2, "idle": 1}
        assert sorted(row.symbol or "-" for row in rows) == ["-", "QQQ", "SPY"]
        assert sum(row.in_flight for row in rows) == 2
        gate.opened.set()
        await wait_all_tasks_blocked()
        rows = pipeline.metrics().workers
        assert {row.state for row in rows} == {"idle"}
        assert {row.symbol for row in rows} == {None}
        assert sorted(row.consumed for row in rows) == [0, 1, 1]
    assert {row.state for row in pipeline.metrics().workers} == {"ended"}


async def test_failures_are_counted_by_worker(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        if tick.volume % 2:
            raise ValueError

    async with open_pipeline(listed(make_ticks(10)), handler, workers=1) as pipeline:
        await pipeline.wait()
        (row,) = pipeline.metrics().workers
        assert (row.consumed, row.failed, row.in_flight) == (5, 5, 0)


async def test_busy_ratio(autojump_clock: MockClock) -> None:
    loop = Loop()
    async with open_pipeline(loop.feed, Recorder(seconds=3.0), workers=1) as pipeline:

        def busy() -> float:
            return pipeline.metrics().workers[0].busy_ratio

        await loop.play()
        await trio.sleep(1.0)
        assert busy() == pytest.approx(0.0)
        await loop.play([make_tick()])
        await trio.sleep(1.0)
        # One second idle, one at work, as it stands in the middle of a tick.
        assert busy() == pytest.approx(0.5)
        await trio.sleep(2.0)
        assert busy() == pytest.approx(0.75)
        await trio.sleep(2.0)
        assert busy() == pytest.approx(0.5)
        pipeline.shutdown()
        await pipeline.wait()
        await trio.sleep(1000)
        # Its life is over; it is no busier for that.
        assert busy() == pytest.approx(0.5)


async def test_waiting_for_on_error_is_work(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        raise ValueError

    async def on_error(tick: tt.Tick, error: Exception) -> None:
        await trio.sleep(4.0)

    loop = Loop()
    async with open_pipeline(loop.feed, handler, workers=2, on_error=on_error) as pipeline:
        await loop.play([make_tick("A", 1), make_tick("A", 2)])
        # The tick has its outcome, and its symbol is still taken: the symbol's next
        # tick waits, and no other worker may have it.
        assert (pipeline.ledger.failed, pipeline.ledger.in_flight, pipeline.ledger.queued) == (
            1,
            0,
            1,
        )
        await loop.play([make_tick("B", 3)])
        assert pipeline.ledger.failed == 2
        await trio.sleep(4.5)
        assert pipeline.ledger.failed == 3
        await trio.sleep(4.5)
        assert sum(row.busy_ratio * 9 for row in pipeline.metrics().workers) == pytest.approx(12.0)
    assert_accounted(pipeline.report, failed=3)


# Senders that wait


async def test_a_sender_gets_each_place_as_it_comes_free(autojump_clock: MockClock) -> None:
    sent: list[float] = []

    async def script(send: Send) -> None:
        for tick in make_ticks(10):
            await send.send(tick)
            sent.append(trio.current_time())

    await run_pipeline(
        ScriptFeed(script), Recorder(seconds=1.0), workers=1, maxsize=2, overflow=tt.Block()
    )
    assert sent == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]


async def test_a_sender_gets_the_place_of_a_tick_that_was_stale(autojump_clock: MockClock) -> None:
    # A tick dropped for its age leaves room as well: no sender waits for ever behind
    # ticks that no handler will see.
    with trio.fail_after(1000):
        report = await run_pipeline(
            listed(make_ticks(30)),
            Recorder(seconds=10.0),
            workers=1,
            maxsize=3,
            overflow=tt.Block(),
            max_age=1.0,
        )
    assert_accounted(report, produced=30)
    assert report.dropped_by_reason["stale"] > 0


async def test_several_senders_all_get_their_turn(autojump_clock: MockClock) -> None:
    finished: list[str] = []

    async def producer(send: Send, symbol: str) -> None:
        async with send:
            for tick in make_ticks(20, [symbol]):
                await send.send(tick)
        finished.append(symbol)

    async def script(send: Send) -> None:
        async with trio.open_nursery() as nursery:
            for symbol in "ABCDE":
                nursery.start_soon(producer, send.clone(), symbol)

    handler = Recorder(seconds=1.0)
    report = await run_pipeline(
        ScriptFeed(script), handler, workers=2, maxsize=3, overflow=tt.Block()
    )
    assert sorted(finished) == list("ABCDE")
    assert_accounted(report, consumed=100)
    for symbol in "ABCDE":
        assert numbers(tick for tick in handler.ticks if tick.symbol == symbol) == list(range(20))


# Samples


@pytest.mark.parametrize("period", [2, 3, 4, 5, 8, 17, 63, 64, 65, 100, 127, 128])
@pytest.mark.parametrize("phase", [0, -1])
async def test_samples_do_not_fall_into_step_with_the_feed(
    period: int, phase: int, autojump_clock: MockClock
) -> None:
    """One in *period* ticks is slow, as if one symbol has the costly strategy.

    Not every tick is timed, but the slow ones show.
    """

    async def handler(tick: tt.Tick) -> None:
        if tick.volume % period == phase % period:
            await trio.sleep(0.05)

    ticks = make_ticks(200 * period, SYMBOLS)
    with seeded_chance((period, phase)):  # the samples are taken at random
        report = await run_pipeline(listed(ticks), handler, workers=1, maxsize=len(ticks))
    assert report.handler_latency_ms.max == pytest.approx(50.0)
    assert report.handler_latency_ms.p50 < 50.0 or period == 2
    # If there are slow ticks, a good part is timed. The mean errs low: the ticks after
    # slow ones are timed too, and are quick.
    assert report.handler_latency_ms.count > 0.3 * len(ticks)
    assert 0.4 < report.handler_latency_ms.mean * period / 50.0 < 1.2


@pytest.mark.parametrize(("slow", "least", "most"), [((1000,), 128, 300), ((1000, 1100), 510, 900)])
async def test_few_are_timed_one_by_one_after_an_interruption_and_many_after_slow_ticks(
    slow: tuple[int, ...], least: int, most: int, autojump_clock: MockClock
) -> None:
    """Who had the processor meanwhile, a tick or another program, shows soon after."""

    async def handler(tick: tt.Tick) -> None:
        if tick.volume in slow:
            autojump_clock.jump(0.004)

    ticks = make_ticks(4000, SYMBOLS)
    with seeded_chance(7):  # the samples are taken at random
        report = await run_pipeline(listed(ticks), handler, workers=1, maxsize=len(ticks))
    assert least <= report.handler_latency_ms.count < most


async def test_some_are_timed_also_where_they_come_one_by_one_but_often(
    autojump_clock: MockClock,
) -> None:
    """A worker leaves ticks untimed for 5 ms at most.

    Timing one in 256 would give 20 here.
    """

    async def script(send: Send) -> None:
        for tick in make_ticks(5000):
            await send.send(tick)
            await trio.sleep(0.0005)

    report = await run_pipeline(ScriptFeed(script), Recorder(), workers=1)
    assert report.consumed == 5000
    assert 2.5 * 180 <= report.handler_latency_ms.count < 4000


async def test_ticks_that_fail_are_as_seldom_timed_as_others(autojump_clock: MockClock) -> None:
    """With a bug in every tick, timing each would cost more than telling of it."""
    seen: list[str] = []

    def keep(tick: tt.Tick, _error: Exception) -> None:
        seen.append(tick.symbol)

    async def fails(_tick: tt.Tick) -> None:
        raise RuntimeError("no bid")

    ticks = make_ticks(5000, ["A", "B", "C"])
    report = await run_pipeline(listed(ticks), fails, workers=2, maxsize=5000, on_error=keep)
    assert report.failed == 5000
    assert seen == [tick.symbol for tick in ticks]
    assert 0 < report.handler_latency_ms.count < 500


async def test_a_worker_that_waits_while_it_reports_leaves_the_others_their_symbols(
    autojump_clock: MockClock,
) -> None:
    """Its sprint is over then: others have taken ticks, and hold their symbols."""
    running: set[str] = set()
    most = 0

    async def wait(tick: tt.Tick, _error: Exception) -> None:
        nonlocal most
        assert tick.symbol not in running
        running.add(tick.symbol)
        most = max(most, len(running))
        await trio.sleep(0.01)
        running.remove(tick.symbol)

    async def fails_at_times(tick: tt.Tick) -> None:
        assert tick.symbol not in running
        if tick.volume % 2:
            raise RuntimeError("no bid")

    report = await run_pipeline(
        listed(make_ticks(600, ["A", "B", "C"])),
        fails_at_times,
        workers=3,
        maxsize=600,
        on_error=wait,
    )
    assert (report.failed, report.consumed) == (300, 300)
    assert most == 3


async def test_every_tick_is_timed_where_they_are_few(autojump_clock: MockClock) -> None:
    async def script(send: Send) -> None:
        for tick in make_ticks(100):
            await send.send(tick)
            await trio.sleep(0.01)

    report = await run_pipeline(ScriptFeed(script), Recorder())
    assert (
        report.handler_latency_ms.count
        == report.queue_wait_ms.count
        == report.processing_lag_ms.count
        == 100
    )
