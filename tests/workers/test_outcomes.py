"""What a source of a buffer asks of the workers: what is unfinished, and to withdraw
ticks.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.helpers import make_book, make_tick, make_ticks, number, numbers
from tests.worlds.pipeline_world import Gate, ScriptFeed, Send, sleepy_feed
from tests.worlds.pool_world import open_with_pool
from tests.worlds.process_world import until
from trio_ticks.buffer import Buffer, BufferStatistics, Outcomes, Sink, Source
from trio_ticks.channel.fifo import FifoBuffer
from trio_ticks.channel.keyed import KeyedBuffer

KEYED = tt.DropNewest(1000, max_per_symbol=100)
everywhere = pytest.mark.parametrize(
    "overflow", [tt.Block(), KEYED, {tt.Tick: tt.Block()}], ids=["fifo", "cap", "keyed"]
)


def found(items: list[Any]) -> list[int]:
    return sorted(numbers(items))


@everywhere
async def test_what_is_queued_parked_waiting_or_held_is_unfinished(
    overflow: Any, autojump_clock: MockClock
) -> None:
    gate, ticks = Gate(), make_ticks(9, "AAB")
    async with open_with_pool(
        sleepy_feed(ticks), gate, workers=2, maxsize=4, overflow=overflow, shutdown_timeout=0
    ) as (pipeline, pool):
        await trio.sleep(1)
        outcomes: Outcomes = pool.outcomes
        assert len(gate.entered) == 2
        assert pipeline.statistics().waiting_for_room > 0
        assert pipeline.statistics().parked > 0
        assert found(outcomes.unfinished()) == [*range(9)]
        assert {id(item) for item in outcomes.unfinished()} == {id(tick) for tick in ticks}
        gate.opened.set()
        await trio.sleep(1)
        assert outcomes.unfinished() == []


async def test_a_conflated_copy_is_unfinished_with_its_evidence(autojump_clock: MockClock) -> None:
    gate = Gate()
    async with open_with_pool(
        sleepy_feed(make_ticks(3)), gate, workers=1, overflow=tt.Conflate(), shutdown_timeout=0
    ) as (_pipeline, pool):
        await trio.sleep(1)
        (conflated,) = pool.outcomes.unfinished()
        evidence = tt.conflation_of(conflated)
        assert evidence is not None
        assert (number(conflated), evidence.count) == (2, 3)


@pytest.mark.parametrize("place", ["loop", "thread", "batch"])
async def test_a_tick_is_unfinished_until_its_failure_was_told(place: str) -> None:
    told, go_on = trio.Event(), trio.Event()

    async def on_error(_item: Any, _error: Exception) -> None:
        told.set()
        await go_on.wait()

    async def in_loop(_tick: tt.Tick) -> None:
        raise ValueError

    def in_thread(_tick: tt.Tick) -> None:
        raise ValueError

    @tt.batch_handler
    async def in_batch(ticks: list[tt.Tick]) -> None:
        raise tt.BatchError({index: ValueError() for index in range(len(ticks))})

    handler: Any = {"loop": in_loop, "thread": in_thread, "batch": in_batch}[place]
    feed = sleepy_feed(make_ticks(2))
    async with open_with_pool(feed, handler, workers=1, on_error=on_error) as (pipeline, pool):
        await told.wait()
        await wait_all_tasks_blocked()
        assert pipeline.ledger.failed >= 1
        assert found(pool.outcomes.unfinished()) == [0, 1]
        go_on.set()
        await until(lambda: pipeline.ledger.failed == 2 and not pool.outcomes.unfinished())


@everywhere
async def test_what_is_queued_of_a_symbol_is_withdrawn_in_one_step(
    overflow: Any, autojump_clock: MockClock
) -> None:
    gate, ticks = Gate(), make_ticks(12, "AABC")
    async with open_with_pool(
        sleepy_feed(ticks), gate, workers=2, maxsize=5, overflow=overflow
    ) as (pipeline, pool):
        await trio.sleep(1)
        begun = numbers(gate.entered)
        left = [n for n, tick in enumerate(ticks) if tick.symbol == "A" and n not in begun]
        assert pool.outcomes.withdraw(["A"]) == len(left)
        pipeline.ledger.check()
        assert pipeline.ledger.given_back == len(left)
        assert not {*left} & {*found(pool.outcomes.unfinished())}
        gate.opened.set()
        await trio.sleep(1)
    assert numbers(gate.entered).count(1) == (1 in begun)
    assert sorted(numbers(gate.entered)) == sorted({*range(12)} - {*left})
    ledger = pipeline.report.ledger
    assert (ledger.unaccounted, ledger.given_back, ledger.dropped) == (0, len(left), 0)


async def test_what_a_thread_has_not_begun_is_withdrawn() -> None:
    begun, go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def handler(tick: tt.Tick) -> None:
        seen.append(number(tick))
        begun.set()
        assert go_on.wait(20)

    feed = sleepy_feed(make_ticks(50, "AB"))
    try:
        async with open_with_pool(feed, handler, workers=1) as (pipeline, pool):
            await until(begun.is_set)
            await until(lambda: pipeline.ledger.produced == 50)
            assert pool.outcomes.withdraw("AB") == 49
            pipeline.ledger.check()
            go_on.set()
            await until(lambda: pipeline.ledger.consumed == 1)
    finally:
        go_on.set()
    assert seen == [0]
    assert (pipeline.report.consumed, pipeline.report.ledger.given_back) == (1, 49)


async def test_what_is_to_be_told_of_a_withdrawn_symbol_is_forgotten(
    autojump_clock: MockClock,
) -> None:
    gate, gaps = Gate(), list[tt.Gap]()

    async def script(send: Send) -> None:
        await send.send(make_tick("B", 0))
        await trio.sleep(1)
        await send.send_many([make_book("A", n) for n in range(1, 4)])  # the first is evicted
        await send.send_many(make_ticks(2, "B", 10))
        assert pool.outcomes.withdraw({"A"}) > 0
        gate.opened.set()
        await trio.sleep(1)
        await send.send(make_book("A", 9))

    async with open_with_pool(
        ScriptFeed(script), gate, workers=1, maxsize=4, overflow=tt.DropOldest(), on_gap=gaps.append
    ) as (pipeline, pool):
        await pipeline.wait()
    assert gaps == []
    assert [item.symbol for item in gate.entered][-1] == "A"
    assert pipeline.report.dropped_by_reason["held"] == 0


def test_what_a_buffer_keeps_keeps_its_arrival() -> None:
    fifo, keyed = FifoBuffer[tt.Tick](), KeyedBuffer[tt.Tick]()
    for n, tick in enumerate(make_ticks(6, "AB")):
        fifo.push_many([tick], float(n // 2))
        keyed.push(tick, float(n // 2), evictable=False)
    for buffer in (fifo, keyed):
        removed = buffer.extract(lambda tick: tick.symbol == "A")
        assert numbers(removed) == [0, 2, 4]
        left = []
        while buffer:
            left.append((number(buffer.take()), buffer.arrival()))
        assert left == [(1, 0.0), (3, 1.0), (5, 2.0)]


class Shelf:
    """A buffer that does nothing, as its author would write it."""

    async def run(self, *_ends: Any) -> None:
        await trio.lowlevel.checkpoint()

    async def drain(self) -> None:
        await trio.lowlevel.checkpoint()

    def statistics(self) -> BufferStatistics:
        return BufferStatistics()

    def sink(self) -> Shelf:
        return self

    def source(self) -> Shelf:
        return self


def test_a_class_with_the_methods_is_a_buffer() -> None:
    shelf = Shelf()
    assert isinstance(shelf, Buffer)
    assert isinstance(shelf.sink(), Sink)
    assert isinstance(shelf.source(), Source)
    assert not isinstance(object(), Buffer)
    assert shelf.statistics().appended == 0
