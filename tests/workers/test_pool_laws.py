"""The worker pool on a channel, under random loads on a virtual clock.

Both halves of the law hold, and no worker is idle beside work.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.worlds.helpers import EPOCH, make_tick, number
from trio_ticks.channel.ends import TickReceiveChannel, TickSendChannel, open_tick_channel
from trio_ticks.errors import LedgerError
from trio_ticks.overflow import Block, Conflate, DropNewest, DropOldest, Policy
from trio_ticks.settings import Ordering, Settings
from trio_ticks.ticks import Tick
from trio_ticks.workers.pool import WorkerPool

Ends = tuple[TickSendChannel[Tick], TickReceiveChannel[Tick]]


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    """Thousands of drops a second are the point here; no log of them is."""
    logger = logging.getLogger("trio_ticks.channel")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@attrs.frozen
class Send:
    sleep_s: float
    symbols: str
    """A tick for each letter."""
    cancel_after_s: float = math.inf


@attrs.frozen
class Load:
    maxsize: int
    overflow: Policy
    max_age: float | None
    workers: int
    ordering: Ordering
    feeds: tuple[tuple[Send, ...], ...]
    takes_s: tuple[float, ...]
    """How long each handling takes, in turn; 0: no wait, negative: it raises."""
    stopped_after_s: float = math.inf


TIMES = st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.5])
SENDS = st.builds(
    Send, TIMES, st.text("ABCD", max_size=7), st.one_of(st.just(math.inf), st.just(math.inf), TIMES)
)
OVERFLOWS: st.SearchStrategy[Policy] = st.sampled_from(
    [
        Block(),
        DropNewest(0),
        DropNewest(0.5),
        DropNewest(0, max_per_symbol=2),
        DropOldest(),
        DropOldest(longest_line=True),
        DropOldest(max_per_symbol=2),
        Conflate(),
    ]
)
LOADS = st.builds(
    Load,
    st.integers(1, 6),
    OVERFLOWS,
    st.sampled_from([None, None, 0.4, 1.0]),
    st.integers(1, 4),
    st.sampled_from(["symbol", "symbol", "none"]),
    st.lists(st.lists(SENDS, max_size=10).map(tuple), min_size=1, max_size=2).map(tuple),
    st.lists(st.sampled_from([0.0, 0.0, 0.1, 0.25, 1.0, 2.0, -1.0]), min_size=1, max_size=7).map(
        tuple
    ),
    st.one_of(st.just(math.inf), st.just(math.inf), st.floats(0, 5)),
)


class Watch(trio.abc.Instrument):
    """Looks after every step of every task, and takes notes of what must not be."""

    def __init__(self, load: Load, receive: TickReceiveChannel[Tick]) -> None:
        self.load = load
        self.receive = receive
        self.begun: list[Tick] = []
        self.ended: list[Tick] = []
        self.handling: dict[str, int] = defaultdict(int)
        self.sending = 0
        self.failures = 0
        self.wrongs: list[str] = []

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        ledger, queued = self.receive.ledger, len(self.receive)
        try:
            ledger.check()
        except LedgerError as error:
            self.wrongs.append(f"law: {error}")
        waiting = self.receive.statistics().waiting_for_room
        if queued > self.load.maxsize or queued + waiting != ledger.queued:
            self.wrongs.append(
                f"bound: {queued} by count, {waiting} wait, {ledger.queued} measured"
            )
        if ledger.in_flight > self.load.workers:
            self.wrongs.append(f"in flight: {ledger.in_flight}")
        if self.load.ordering == "symbol" and max(self.handling.values(), default=0) > 1:
            self.wrongs.append(f"order: two at once of one symbol, {dict(self.handling)}")

    async def check_when_idle(self, pool: WorkerPool[Tick]) -> None:
        """Check, whenever every task is blocked, that no worker is idle beside work."""
        state = self.receive.state
        while True:
            await wait_all_tasks_blocked()
            idle = [
                row.name
                for row in (worker.metrics(trio.current_time()) for worker in pool.crew.workers)
                if row.state == "idle"
            ]
            ready = [symbol for symbol in state.lanes.ready if state.lanes.lines[symbol]]
            if idle and (len(state.buffer) or ready):
                self.wrongs.append(
                    f"lost wake-up: {idle} idle, {len(state.buffer)} in the buffer, {ready} ready"
                )
            if self.sending and len(self.receive) < self.load.maxsize:
                self.wrongs.append(
                    f"lost wake-up: a sender waits, "
                    f"{len(self.receive)} of {self.load.maxsize} queued"
                )
            await trio.sleep(0.05)

    async def handle(self, tick: Tick) -> None:
        takes_s = self.load.takes_s[number(tick) % len(self.load.takes_s)]
        self.begun.append(tick)
        self.handling[tick.symbol] += 1
        try:
            if takes_s > 0:
                await trio.sleep(takes_s)
        finally:
            self.handling[tick.symbol] -= 1
        if takes_s < 0:
            raise ArithmeticError("the handler's own")
        self.ended.append(tick)

    def failed(self, tick: Any, error: Exception) -> None:
        assert isinstance(error, ArithmeticError)
        self.failures += 1


async def feed(
    watch: Watch, sends: tuple[Send, ...], handle: TickSendChannel[Tick], first: int
) -> None:
    with handle:
        for send in sends:
            await trio.sleep(send.sleep_s)
            batch = [
                make_tick(symbol, first + n, now=EPOCH) for n, symbol in enumerate(send.symbols)
            ]
            first += len(batch)
            watch.sending += 1
            try:
                with trio.move_on_after(send.cancel_after_s):
                    await handle.send_many(batch)
            except trio.BrokenResourceError:
                return
            finally:
                watch.sending -= 1


async def run(load: Load) -> Watch:
    ends: Ends = open_tick_channel(load.maxsize, load.overflow, load.max_age)
    send, receive = ends
    watch = Watch(load, receive)
    pool = WorkerPool(
        receive,
        watch.handle,
        Settings(workers=load.workers, ordering=load.ordering, on_error=watch.failed),
    )
    trio.lowlevel.add_instrument(watch)
    with trio.fail_after(1000):
        async with trio.open_nursery() as outer:
            outer.start_soon(watch.check_when_idle, pool)
            with trio.move_on_after(load.stopped_after_s):
                async with trio.open_nursery() as nursery:
                    for name, sends in enumerate(load.feeds):
                        nursery.start_soon(feed, watch, sends, send.clone(), name * 1_000_000)
                    send.close()
                    await pool.run()
            outer.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(watch)
    return watch


QUICK_THEN_SLOW = Load(
    maxsize=1,
    overflow=Block(),
    max_age=None,
    workers=1,
    ordering="symbol",
    feeds=((Send(0.0, "AAA"),),),
    takes_s=(0.0, 0.1),
)
"""The second tick is handled in a sprint, and waits there, while the third has room."""


@given(LOADS)
@example(QUICK_THEN_SLOW)
def test_law_order_bounds_and_nobody_idle_beside_work(load: Load) -> None:
    watch = trio.run(run, load, clock=MockClock(autojump_threshold=0))
    ledger = watch.receive.ledger
    assert watch.wrongs == []
    ledger.check()
    assert ledger.queued == ledger.in_flight == 0
    assert ledger.produced == ledger.consumed + ledger.failed + ledger.dropped
    assert (ledger.consumed, ledger.failed) == (len(watch.ended), watch.failures)
    handled = [number(tick) for tick in watch.begun]
    assert len(set(handled)) == len(handled), "a tick was handled twice"
    if load.ordering == "symbol":
        lines: dict[tuple[int, str], list[int]] = defaultdict(list)
        for tick in watch.begun:
            lines[number(tick) // 1_000_000, tick.symbol].append(number(tick))
        for line in lines.values():
            assert line == sorted(line), "ticks of one symbol changed places"


async def test_no_worker_sleeps_behind_a_lane_that_was_evicted() -> None:
    """A worker has released a symbol whose lane waits, and yields.

    In that moment the feed evicts the whole lane.
    """
    ends: Ends = open_tick_channel(4, DropOldest())
    send, receive = ends
    state = receive.state
    begun: list[int] = []

    async def handler(tick: Tick) -> None:
        begun.append(number(tick))
        await trio.sleep_forever()

    pool = WorkerPool(receive, handler, Settings(workers=1, executor="loop"))
    # As it looks after another worker has released "A" with one tick behind it.
    state.lanes.lines["A"] = None
    state.lanes.park("A", make_tick("A", 0), 0.0)
    state.ledger.produced += 1
    state.losses.release("A")
    await send.send_many([make_tick(symbol, n) for n, symbol in enumerate("BCDE", 1)])
    assert send.ledger.dropped_by_reason["evicted"] == 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        await wait_all_tasks_blocked()
        assert begun == [1]
        nursery.cancel_scope.cancel()
