"""Order per symbol, whatever the handlers do.

A symbol's ticks are handled in order and never two at once, and other symbols do not
wait. hypothesis makes the schedules: it chooses the load, what each handling does, when
the pipeline stops, and, through trio, which task runs next. With threads the clock is
real and the machine decides the timing; the checks are the same.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import attrs
import pytest
import trio
import trio.lowlevel
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks, number, numbers
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted, listed, sleepy_feed
from trio_ticks import open_pipeline, run_pipeline

Act = Literal["return", "checkpoint", "nap", "sleep", "raise", "nap and raise"]
ACTS: tuple[Act, ...] = ("return", "checkpoint", "nap", "sleep", "raise", "nap and raise")
NAP_S, SLEEP_S = 0.01, 0.1


class HandlerError(Exception):
    """Raised by the handlers here on purpose."""


@attrs.define
class Watch:
    """Sees every handling begin and end.

    It complains at once if two of a symbol overlap or come out of order.
    """

    ordered: bool = True
    handled: dict[str, list[int]] = attrs.field(factory=lambda: defaultdict(list))
    busy: set[str] = attrs.field(factory=set)
    most_at_once: int = 0
    faults: list[str] = attrs.field(factory=list)
    _at_once: int = 0
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def begin(self, tick: tt.Tick) -> None:
        with self._lock:
            if self.ordered and tick.symbol in self.busy:
                self.faults.append(
                    f"{number(tick)} of {tick.symbol} began while another was being handled"
                )
            if (
                self.ordered
                and self.handled[tick.symbol]
                and self.handled[tick.symbol][-1] >= number(tick)
            ):
                self.faults.append(
                    f"{number(tick)} of {tick.symbol} came after {self.handled[tick.symbol][-1]}"
                )
            self.busy.add(tick.symbol)
            self.handled[tick.symbol].append(number(tick))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def end(self, tick: tt.Tick) -> None:
        with self._lock:
            self.busy.discard(tick.symbol)
            self._at_once -= 1

    @property
    def count(self) -> int:
        return sum(map(len, self.handled.values()))


@attrs.frozen
class Load:
    """The ticks, what each handling does, and how the run ends."""

    batches: list[tuple[list[int], int]]
    """Symbols of the ticks of each batch, and the naps before the next."""
    acts: list[Act]
    workers: int
    maxsize: int
    overflow: Any
    end: Literal["drain", "shutdown", "cancel", "scope"]
    end_at: int
    on_error_naps: bool

    def ticks(self) -> list[tuple[list[tt.Tick], int]]:
        first = 0
        result = []
        for symbols, naps in self.batches:
            result.append(
                (
                    [
                        make_tick(f"S{symbol}", first + index)
                        for index, symbol in enumerate(symbols)
                    ],
                    naps,
                )
            )
            first += len(symbols)
        return result


LOADS = st.builds(
    Load,
    batches=st.lists(
        st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(0, 3)),
        min_size=1,
        max_size=12,
    ),
    acts=st.lists(st.sampled_from(ACTS), min_size=1, max_size=20),
    workers=st.integers(1, 8),
    maxsize=st.integers(1, 20),
    overflow=st.sampled_from(
        [tt.Block(), tt.DropNewest(timeout=0), tt.DropNewest(timeout=0.05), tt.DropOldest()]
    ),
    end=st.sampled_from(["drain", "drain", "shutdown", "cancel", "scope"]),
    end_at=st.integers(0, 60),
    on_error_naps=st.booleans(),
)


async def play(load: Load, watch: Watch, ordering: Literal["symbol", "none"]) -> tt.PipelineReport:
    """Run *load* on a virtual clock; return the report."""

    async def script(send: Send) -> None:
        for batch, naps in load.ticks():
            await send.send_many(batch)
            for _ in range(naps):
                await trio.sleep(NAP_S / 2)

    async def handler(tick: tt.Tick) -> None:
        watch.begin(tick)
        # Lanes count: what waits behind a symbol takes room like everything else.
        assert pipeline.statistics().current_buffer_used <= load.maxsize
        pipeline.ledger.check()
        try:
            act = load.acts[number(tick) % len(load.acts)]
            match act:
                case "checkpoint":
                    await trio.lowlevel.checkpoint()
                case "nap" | "nap and raise":
                    await trio.sleep(NAP_S)
                case "sleep":
                    await trio.sleep(SLEEP_S)
            if "raise" in act:
                raise HandlerError
        finally:
            watch.end(tick)

    async def on_error(tick: tt.Tick, error: Exception) -> None:
        assert isinstance(error, HandlerError), error
        if not watch.ordered:
            return
        # The symbol is still taken: its next tick may come only after this.
        watch.begin(attrs.evolve(tick, symbol=f"error of {tick.symbol}"))
        if tick.symbol in watch.busy:
            watch.faults.append(
                f"{number(tick)} of {tick.symbol} was reported while another was being handled"
            )
        if load.on_error_naps:
            await trio.sleep(NAP_S)
        if watch.handled[tick.symbol][-1] != number(tick):
            watch.faults.append(
                f"{number(tick)} of {tick.symbol} was reported after the next one began"
            )
        watch.end(attrs.evolve(tick, symbol=f"error of {tick.symbol}"))

    with trio.CancelScope() as scope:
        async with open_pipeline(
            ScriptFeed(script),
            handler,
            workers=load.workers,
            maxsize=load.maxsize,
            overflow=load.overflow,
            ordering=ordering,
            shutdown_timeout=0.05,
            on_error=on_error,
        ) as pipeline:
            if load.end != "drain":
                with trio.move_on_after(load.end_at * NAP_S / 2):
                    await pipeline.wait()
                if load.end == "scope":
                    scope.cancel()
                else:
                    getattr(pipeline, load.end)()
            await pipeline.wait()
    return pipeline.report


@given(LOADS)
def test_order_in_the_loop(load: Load) -> None:
    watch = Watch()
    report = trio.run(play, load, watch, "symbol", clock=MockClock(autojump_threshold=0))
    assert watch.faults == []
    assert_accounted(report)
    handled = sum(
        len(ticks) for symbol, ticks in watch.handled.items() if not symbol.startswith("error")
    )
    assert handled >= report.consumed + report.failed
    if load.end == "drain":
        assert handled == report.consumed + report.failed
        assert report.dropped_by_reason["shutdown"] == 0
        if isinstance(load.overflow, tt.Block):
            assert report.dropped == 0


@given(LOADS)
def test_without_order_every_tick_is_still_handled_once(load: Load) -> None:
    watch = Watch(ordered=False)
    report = trio.run(play, load, watch, "none", clock=MockClock(autojump_threshold=0))
    assert_accounted(report)
    every = [one for ticks in watch.handled.values() for one in ticks]
    assert len(every) == len(set(every))
    if load.end == "drain":
        assert len(every) == report.consumed + report.failed


THREAD_RUNS = int(os.environ.get("TRIO_TICKS_THREAD_RUNS", "40"))


def _random_handler(watch: Watch, rng: random.Random) -> Callable[[tt.Tick], None]:
    def handler(tick: tt.Tick) -> None:
        watch.begin(tick)
        try:
            act = rng.random()
            if act < 0.2:
                time.sleep(act / 200)
            elif act < 0.3:
                raise HandlerError
        finally:
            watch.end(tick)

    return handler


@pytest.mark.parametrize("seed", range(THREAD_RUNS))
async def test_order_in_threads(seed: int) -> None:
    rng = random.Random(seed)
    watch = Watch()
    ticks = [make_tick(f"S{rng.randrange(5)}", n) for n in range(rng.randrange(1, 200))]

    async def script(send: Send) -> None:
        rest = ticks
        while rest:
            size = rng.randrange(1, 20)
            batch, rest = rest[:size], rest[size:]
            await send.send_many(batch)

    told: dict[str, list[int]] = defaultdict(list)
    settings: dict[str, Any] = {
        "workers": rng.randrange(1, 9),
        "maxsize": rng.randrange(1, 50),
        "overflow": tt.Block(),
        "on_error": lambda tick, _error: told[tick.symbol].append(number(tick)),
    }
    report = await run_pipeline(
        ScriptFeed(script), _random_handler(watch, rng), executor="thread", **settings
    )
    assert watch.faults == []
    assert_accounted(report, produced=len(ticks), dropped=0)
    assert watch.count == len(ticks)
    assert sum(map(len, told.values())) == report.failed
    assert all(list_ == sorted(list_) for list_ in told.values())


@pytest.mark.parametrize("ordering", ["symbol", "none"])
@pytest.mark.parametrize("seed", range(THREAD_RUNS // 4))
async def test_batches_whose_ticks_turn_out_slow(
    ordering: Literal["symbol", "none"], seed: int
) -> None:
    """Mostly quick handlings, so that batches are large, and now and then a slow one.

    What is left of a batch behind a slow one is called back for other workers.
    """
    rng = random.Random(seed)
    watch = Watch(ordered=ordering == "symbol")

    def handler(tick: tt.Tick) -> None:
        watch.begin(tick)
        try:
            chance = rng.random()
            if chance < 0.003:
                time.sleep(0.03)
            elif chance < 0.01:
                raise HandlerError
        finally:
            watch.end(tick)

    async def on_error(tick: tt.Tick, error: Exception) -> None:
        if watch.ordered and watch.handled[tick.symbol][-1] != number(tick):
            watch.faults.append(
                f"{number(tick)} of {tick.symbol} was reported after the next one began"
            )
        await trio.sleep(rng.choice([0, 0, 0.02]))
        if watch.ordered and watch.handled[tick.symbol][-1] != number(tick):
            watch.faults.append(
                f"the next one after {number(tick)} of {tick.symbol} did not wait for its report"
            )

    async def script(send: Send) -> None:
        rest = [make_tick(f"S{rng.randrange(4)}", n) for n in range(1500)]
        while rest:
            size = rng.randrange(1, 300)
            batch, rest = rest[:size], rest[size:]
            await send.send_many(batch)
            await trio.sleep(rng.choice([0, 0, 0.005]))

    settings: dict[str, Any] = {
        "workers": rng.randrange(1, 6),
        "maxsize": rng.randrange(100, 1000),
        "overflow": tt.Block(),
    }
    report = await run_pipeline(
        ScriptFeed(script),
        handler,
        executor="thread",
        ordering=ordering,
        on_error=on_error,
        **settings,
    )
    assert watch.faults == []
    assert_accounted(report, produced=1500, dropped=0)
    assert watch.count == 1500


@pytest.mark.parametrize("seed", range(THREAD_RUNS // 2))
async def test_order_in_threads_that_are_stopped_at_any_moment(seed: int) -> None:
    rng = random.Random(seed)
    watch = Watch()
    ticks = [make_tick(f"S{rng.randrange(5)}", n) for n in range(400)]
    enough = rng.randrange(400)
    settings: dict[str, Any] = {
        "workers": rng.randrange(1, 9),
        "maxsize": rng.randrange(1, 400),
        "overflow": rng.choice([tt.Block(), tt.DropNewest(0), tt.DropOldest()]),
        "shutdown_timeout": rng.choice([0.0, 0.001, 5.0]),
        "on_error": lambda _tick, _error: None,
    }
    async with open_pipeline(
        sleepy_feed(ticks), _random_handler(watch, rng), executor="thread", **settings
    ) as pipeline:
        while watch.count < enough and pipeline.ledger.queued:
            await trio.lowlevel.checkpoint()
        pipeline.ledger.check()
        if rng.random() < 0.3:
            pipeline.cancel()
    assert_accounted(pipeline.report)
    # A thread that was in the middle of a tick may still be; it starts no other.
    assert watch.faults == []


# Different symbols


@pytest.mark.parametrize("workers", [2, 3, 8])
async def test_different_symbols_run_in_parallel(workers: int, autojump_clock: MockClock) -> None:
    """Each handler waits for all the others: the run ends only if all work at once."""
    meeting = trio.Event()
    present: set[str] = set()

    async def handler(tick: tt.Tick) -> None:
        present.add(tick.symbol)
        if len(present) == workers:
            meeting.set()
        await meeting.wait()

    symbols = [f"S{n}" for n in range(workers)]
    with trio.fail_after(60):
        # Three of each symbol in a row: the parked ticks must not keep the other
        # symbols from their workers.
        report = await run_pipeline(
            listed(make_tick(symbol, n) for symbol in symbols for n in range(3)),
            handler,
            workers=workers,
        )
    assert_accounted(report, consumed=3 * workers)


def test_different_symbols_run_in_parallel_in_threads() -> None:
    meeting = threading.Barrier(4, timeout=30)

    def handler(tick: tt.Tick) -> None:
        if number(tick) == 0:
            meeting.wait()

    async def main() -> tt.PipelineReport:
        ticks = [make_tick(symbol, n) for symbol in "ABCD" for n in range(3)]
        return await run_pipeline(listed(ticks), handler, workers=4, executor="thread")

    assert_accounted(trio.run(main), consumed=12, failed=0)


async def test_a_slow_symbol_holds_up_nobody_else(autojump_clock: MockClock) -> None:
    """One symbol's handler does not come back; the others go on.

    One more worker is enough, in whatever mixture their ticks come.
    """
    back, handled = trio.Event(), defaultdict[str, list[int]](list)

    async def handler(tick: tt.Tick) -> None:
        if tick.symbol == "SLOW":
            await back.wait()
        await trio.sleep(0.001)
        handled[tick.symbol].append(number(tick))

    others = [f"S{n}" for n in range(10)]
    ticks = make_ticks(990, ["SLOW", *others])
    async with open_pipeline(sleepy_feed(ticks), handler, workers=2) as pipeline:
        await trio.sleep(10)
        assert "SLOW" not in handled
        assert {symbol: len(handled[symbol]) for symbol in others} == dict.fromkeys(others, 90)
        # It is one in flight, and the others of it queued behind: they count as such.
        assert (pipeline.ledger.in_flight, pipeline.ledger.queued) == (1, 89)
        back.set()
    assert handled["SLOW"] == numbers(tick for tick in ticks if tick.symbol == "SLOW")
    assert_accounted(pipeline.report, consumed=990)


async def test_the_lane_of_a_slow_symbol_goes_to_whichever_worker_is_free() -> None:
    """No symbol belongs to a worker: another one may handle its next tick."""
    by_number: dict[int, str] = {}
    done = [trio.Event() for _ in range(4)]

    async def handler(tick: tt.Tick) -> None:
        by_number[number(tick)] = trio.lowlevel.current_task().name
        await done[number(tick)].wait()

    async def script(send: Send) -> None:
        # A0 and B1 keep both workers; the worker that has finished A0 goes on with C2,
        # so that A3 is for the other.
        await send.send_many([make_tick("A", 0), make_tick("B", 1), make_tick("C", 2)])
        await wait_all_tasks_blocked()
        done[0].set()
        await wait_all_tasks_blocked()
        await send.send(make_tick("A", 3))
        await wait_all_tasks_blocked()
        done[1].set()
        await wait_all_tasks_blocked()
        done[3].set()
        done[2].set()

    report = await run_pipeline(ScriptFeed(script), handler, workers=2)
    assert by_number[0] == by_number[2] != by_number[1] == by_number[3]
    assert_accounted(report, consumed=4)


async def test_lanes_count_in_maxsize(autojump_clock: MockClock) -> None:
    """Ticks that wait behind a slow symbol take room.

    They cannot outgrow the channel's size, nor escape its overflow strategy.
    """
    back = trio.Event()
    sent: list[int] = []

    async def handler(tick: tt.Tick) -> None:
        await back.wait()

    async def script(send: Send) -> None:
        for tick in make_ticks(20):
            await send.send(tick)
            sent.append(number(tick))

    async with open_pipeline(
        ScriptFeed(script), handler, workers=3, maxsize=5, overflow=tt.Block()
    ) as pipeline:
        await wait_all_tasks_blocked()
        # One in flight; five parked in its lane by workers that have nothing else to
        # do; the next with the sender.
        assert pipeline.ledger.in_flight == 1
        assert pipeline.metrics().queue_size == 5
        assert sent == [0, 1, 2, 3, 4, 5]
        back.set()
        await pipeline.wait()
    assert pipeline.report.queue_peak == 5
    assert_accounted(pipeline.report, consumed=20)


@pytest.mark.parametrize(
    ("overflow", "handled", "reason"),
    [
        (tt.DropNewest(timeout=0), [0, 1, 2, 3, 4, 5], "overflow"),
        (tt.DropOldest(), [0, 15, 16, 17, 18, 19], "evicted"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_overflow_strategies_see_the_lanes(
    overflow: Any, handled: list[int], reason: str, autojump_clock: MockClock
) -> None:
    back = trio.Event()
    seen: list[int] = []

    async def handler(tick: tt.Tick) -> None:
        seen.append(number(tick))
        await back.wait()

    async def script(send: Send) -> None:
        for tick in make_ticks(20):
            await send.send(tick)
            await wait_all_tasks_blocked()
        back.set()

    report = await run_pipeline(
        ScriptFeed(script), handler, workers=3, maxsize=5, overflow=overflow
    )
    assert seen == handled
    assert_accounted(report, produced=20, consumed=6, **{reason: 14})


async def test_an_evicted_lane_leaves_its_symbol_free(autojump_clock: MockClock) -> None:
    """Drop-oldest has emptied a lane that waited for a worker.

    Its symbol goes on with what comes next.
    """
    gates = defaultdict[str, trio.Event](trio.Event)
    seen: list[str] = []

    async def handler(tick: tt.Tick) -> None:
        seen.append(f"{tick.symbol}{number(tick)}")
        await gates[f"{tick.symbol}{number(tick)}"].wait()

    async def script(send: Send) -> None:
        for names in (
            ["A0"],
            ["B0"],
            ["A1", "A2"],
            ["B1", "B2"],
            ["C0", "C1"],
            ["A3", "A4"],
            ["B3", "C2"],
        ):
            await send.send_many([make_tick(name[0], int(name[1:])) for name in names])
            await wait_all_tasks_blocked()
        for name in ("A0", "A1", "A2", "A3", "A4", "B0", "B1", "B2", "B3", "C0", "C1", "C2"):
            gates[name].set()
            await wait_all_tasks_blocked()

    report = await run_pipeline(
        ScriptFeed(script), handler, workers=2, maxsize=4, overflow=tt.DropOldest()
    )
    assert_accounted(report, produced=12, evicted=6, consumed=6)
    for symbol in "ABC":
        mine = [int(name[1:]) for name in seen if name[0] == symbol]
        assert mine == sorted(mine)
    assert seen[:2] == ["A0", "B0"]


async def _consumed_of_a_hot_feed(overflow: Any) -> float:
    """Return the share of the workers' capacity that was used.

    The feed is ten times too fast, and one symbol is four fifths of it.
    """
    rng = random.Random(1)
    symbols = [f"S{n}" for n in range(8)]

    async def script(send: Send) -> None:
        began, first = trio.current_time(), 0
        while True:
            names = rng.choices(symbols, [28, 1, 1, 1, 1, 1, 1, 1], k=20)
            await send.send_many([make_tick(name, first + n) for n, name in enumerate(names)])
            first += 20
            await trio.sleep_until(began + first / 2000)

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(0.02)

    async with open_pipeline(
        ScriptFeed(script),
        handler,
        workers=4,
        maxsize=200,
        overflow=overflow,
        write_timeout=0.2,
        shutdown_timeout=0,
    ) as pipeline:
        await trio.sleep(5)
        return pipeline.ledger.consumed / (5 * 4 / 0.02)


@pytest.mark.parametrize(
    "overflow",
    [tt.DropNewest(0.2, max_per_symbol=50), tt.DropOldest(), tt.DropOldest(longest_line=True)],
    ids=["cap", "oldest", "longest"],
)
async def test_a_hot_symbol_leaves_room_for_others(
    overflow: Any, autojump_clock: MockClock
) -> None:
    assert await _consumed_of_a_hot_feed(overflow) > 0.95


async def test_a_hot_symbol_leaves_room_for_others_by_default(autojump_clock: MockClock) -> None:
    assert await _consumed_of_a_hot_feed(None) > 0.95
