"""Blocking handlers in worker threads: the loop stays free, and no tick is lost.

A thread that was left behind changes nothing any more. The clock is real here, so
nothing is asserted about time: events hold and release the threads. To see that
something does not happen, a test waits for something else that must.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_book, make_tick, make_ticks, number, numbers
from tests.worlds.pipeline_world import (
    ScriptFeed,
    Send,
    assert_accounted,
    listed,
    raises_as_itself,
    sleepy_feed,
)
from trio_ticks import open_pipeline, run_pipeline

PATIENCE_S = 30.0
"""How long anything may take before a test gives up; none takes nearly as long."""


@attrs.define
class Door:
    """A plain handler that stops at the ticks *shut* names until it is opened.

    It leaves no thread behind if a test fails.
    """

    shut: Callable[[tt.Tick], bool] = lambda tick: True
    opened: threading.Event = attrs.field(factory=threading.Event)
    entered: list[tt.Tick] = attrs.field(factory=list)
    left: list[tt.Tick] = attrs.field(factory=list)
    at_once: int = 0
    most_at_once: int = 0
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def __call__(self, tick: tt.Tick) -> None:
        with self._lock:
            self.entered.append(tick)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        if self.shut(tick):
            assert self.opened.wait(PATIENCE_S)
        with self._lock:
            self.left.append(tick)
            self.at_once -= 1


@contextmanager
def shutting(door: Door) -> Generator[Door]:
    try:
        yield door
    finally:
        door.opened.set()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until *condition* holds."""
    last = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < last
        await trio.to_thread.run_sync(time.sleep, 0.001)  # whatever clock trio has


@pytest.fixture(autouse=True)
async def guard() -> AsyncIterator[None]:
    """End what hangs."""
    with trio.fail_after(2 * PATIENCE_S):
        yield


# The loop stays free


async def test_blocking_handlers_leave_the_loop_free() -> None:
    with shutting(Door()) as door:
        async with open_pipeline(sleepy_feed(make_ticks(4, "ABCD")), door, workers=4) as pipeline:
            await until(lambda: len(door.entered) == 4)
            # Every thread is blocked; the feed, the metrics and this block go on.
            for _ in range(100):
                await trio.lowlevel.checkpoint()
                pipeline.ledger.check()
            assert pipeline.ledger.in_flight == 4
            assert {row.state for row in pipeline.metrics().workers} == {"busy"}
            assert {row.symbol for row in pipeline.metrics().workers} == set("ABCD")
            door.opened.set()
    assert_accounted(pipeline.report, consumed=4)


async def test_the_handler_runs_in_other_threads_than_the_loop() -> None:
    threads: set[int] = set()
    report = await run_pipeline(
        listed(make_ticks(50, "AB")), lambda _tick: threads.add(threading.get_ident())
    )
    assert threads
    assert threading.get_ident() not in threads
    assert_accounted(report, consumed=50)


async def test_trios_own_ways_back_into_the_loop_work() -> None:
    loop, seen = threading.get_ident(), list[tuple[int, int]]()

    def handler(tick: tt.Tick) -> None:
        trio.from_thread.run_sync(lambda: seen.append((number(tick), threading.get_ident())))
        trio.from_thread.run(trio.sleep, 0)
        if number(tick) == 5:
            trio.from_thread.run_sync(pipeline.shutdown)

    async with open_pipeline(sleepy_feed(make_ticks(10)), handler, workers=1) as pipeline:
        await pipeline.wait()
    assert seen == [(n, loop) for n in range(10)]
    assert_accounted(pipeline.report, consumed=10)


@pytest.mark.parametrize("workers", [1, 3])
async def test_never_more_threads_than_workers(workers: int) -> None:
    with shutting(Door()) as door:
        async with open_pipeline(
            sleepy_feed(make_ticks(100, [f"S{n}" for n in range(20)])), door, workers=workers
        ) as pipeline:
            await until(lambda: len(door.entered) == workers)
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert len(door.entered) == workers
            door.opened.set()
            pipeline.shutdown()
            await pipeline.wait()
    assert door.most_at_once <= workers
    assert_accounted(pipeline.report, consumed=100)


async def test_threads_are_used_again() -> None:
    threads: set[threading.Thread] = set()

    async def script(send: Send) -> None:
        for tick in make_ticks(200, "AB"):
            await send.send(tick)
            await trio.lowlevel.checkpoint()

    await run_pipeline(
        ScriptFeed(script), lambda _tick: threads.add(threading.current_thread()), workers=2
    )
    # Not one a tick. (One may be left behind now and then: trio keeps the idle ones in
    # a stack, and lets them end after 10 s.)
    assert len(threads) < 20


# Kinds of handlers


class Strategy:
    """Something with a plain method, a plain call, and settings."""

    def __init__(self) -> None:
        self.handled: list[tt.Tick] = []

    def method(self, tick: tt.Tick) -> None:
        self.handled.append(tick)

    def __call__(self, tick: tt.Tick) -> str:
        self.handled.append(tick)
        return "what it returns is of no interest"

    def with_settings(self, factor: int, tick: tt.Tick, *, name: str) -> None:
        assert (factor, name) == (2, "x")
        self.handled.append(tick)

    async def coroutine(self, tick: tt.Tick) -> None:
        self.handled.append(tick)


_KINDS: dict[str, Callable[[Strategy], Callable[[tt.Tick], Any]]] = {
    "method": lambda strategy: strategy.method,
    "object": lambda strategy: strategy,
    "partial": lambda strategy: functools.partial(strategy.with_settings, 2, name="x"),
    "builtin": lambda strategy: strategy.handled.append,
    "lambda": lambda strategy: lambda tick: strategy.method(tick),
}


@pytest.mark.parametrize("executor", ["auto", "thread"])
@pytest.mark.parametrize("kind", list(_KINDS))
async def test_kinds_of_plain_handlers_run_in_threads(kind: str, executor: str) -> None:
    strategy = Strategy()
    async with open_pipeline(
        listed(make_ticks(3)), _KINDS[kind](strategy), executor=executor
    ) as pipeline:
        await pipeline.wait()
        assert {row.name.split("-")[0] for row in pipeline.metrics().workers} == {"thread"}
    assert numbers(strategy.handled) == [0, 1, 2]
    assert_accounted(pipeline.report, consumed=3)


async def test_a_plain_handler_that_returns_a_coroutine_is_told_so() -> None:
    # A decorator that forgot to be async makes this of an async handler. Warnings are
    # errors here: no coroutine is left unawaited.
    strategy, told = Strategy(), list[Exception]()
    report = await run_pipeline(
        listed(make_ticks(3)),
        lambda tick: strategy.coroutine(tick),
        on_error=lambda _tick, error: told.append(error),
    )
    assert strategy.handled == []
    assert [type(error) for error in told] == [TypeError] * 3
    assert "async def" in str(told[0])
    assert_accounted(report, failed=3)


def _generator(tick: tt.Tick) -> Generator[int]:
    yield number(tick)


async def _async_generator(tick: tt.Tick) -> AsyncIterator[int]:
    yield number(tick)


@pytest.mark.parametrize("executor", ["auto", "loop", "thread"])
@pytest.mark.parametrize(
    "handler",
    [_generator, _async_generator, functools.partial(_generator)],
    ids=["def", "async def", "partial"],
)
async def test_a_handler_with_a_yield_is_refused(handler: Any, executor: str) -> None:
    # To call it runs none of its lines: every tick would count as consumed, and none
    # would be handled.
    with pytest.raises(tt.ConfigError, match="yield"):
        await run_pipeline(listed(make_ticks(3)), handler, executor=executor)


# Failures


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), ExceptionGroup("g", [OSError()]), StopIteration(3), RecursionError()],
    ids=repr,
)
async def test_a_handler_that_raises_fails_its_tick_alone(error: Exception) -> None:
    handled: list[int] = []
    told: list[tuple[int, Exception]] = []

    def handler(tick: tt.Tick) -> None:
        if number(tick) % 10 == 3:
            raise error
        handled.append(number(tick))

    report = await run_pipeline(
        listed(make_ticks(500)),
        handler,
        workers=2,
        on_error=lambda tick, raised: told.append((number(tick), raised)),
    )
    # One symbol: in order, however the ticks were put into batches.
    assert handled == [n for n in range(500) if n % 10 != 3]
    assert told == [(n, error) for n in range(500) if n % 10 == 3]
    assert_accounted(report, consumed=450, failed=50)


async def test_on_error_runs_in_the_loop_and_may_be_async() -> None:
    loop, told = threading.get_ident(), list[int]()

    def handler(tick: tt.Tick) -> None:
        raise ValueError

    async def on_error(tick: tt.Tick, error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        told.append(threading.get_ident())

    assert_accounted(
        await run_pipeline(listed(make_ticks(5)), handler, on_error=on_error), failed=5
    )
    assert told == [loop] * 5


async def test_an_error_of_on_error_comes_out_as_itself() -> None:
    error = OSError("on_error's own")

    def handler(tick: tt.Tick) -> None:
        raise ValueError

    def on_error(tick: tt.Tick, _error: Exception) -> None:
        raise error

    with raises_as_itself(error):
        async with open_pipeline(
            sleepy_feed(make_ticks(100)), handler, on_error=on_error
        ) as pipeline:
            await trio.sleep_forever()
    assert_accounted(pipeline.report, produced=100, consumed=0, failed=1, shutdown=99)


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), BaseException("odd")],
    ids=lambda error: type(error).__name__,
)
async def test_what_is_no_exception_ends_the_pipeline_as_itself(error: BaseException) -> None:
    def handler(tick: tt.Tick) -> None:
        if number(tick) == 2:
            raise error

    with raises_as_itself(error):
        async with open_pipeline(sleepy_feed(make_ticks(5)), handler, workers=1) as pipeline:
            await trio.sleep_forever()
    # A request to end is no failure of its tick.
    failed = int(type(error) is BaseException)
    assert_accounted(pipeline.report, produced=5, consumed=2, failed=failed, shutdown=3 - failed)


# Shutdown


async def test_what_is_queued_is_drained() -> None:
    with shutting(Door()) as door:
        async with open_pipeline(
            sleepy_feed(make_ticks(100, "ABC")), door, workers=2, shutdown_timeout=PATIENCE_S
        ) as pipeline:
            await until(lambda: len(door.entered) == 2)
            pipeline.shutdown()
            await until(lambda: pipeline.metrics().state == "draining")
            door.opened.set()
            await pipeline.wait()
    assert_accounted(pipeline.report, consumed=100)


@pytest.mark.parametrize("way", ["leave", "cancel", "raise"])
async def test_a_thread_that_hangs_is_left_behind(way: str) -> None:
    """It cannot be stopped: the pipeline waits for it no longer than the bound.

    What the thread does afterwards changes nothing.
    """
    with shutting(Door()) as door:
        with trio.CancelScope() as scope:
            async with open_pipeline(
                sleepy_feed(make_ticks(10, "ABCDE")), door, workers=2, shutdown_timeout=0.05
            ) as pipeline:
                await until(lambda: len(door.entered) == 2)
                if way == "cancel":
                    pipeline.cancel()
                elif way == "raise":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
        assert door.left == []
        report = pipeline.report
        assert_accounted(report, produced=10, consumed=0, failed=0, shutdown=10)
        door.opened.set()
        await until(lambda: len(door.left) == 2)
        # They finished the tick that they were in, and began no other.
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert len(door.entered) == 2
        pipeline.ledger.check()
        assert pipeline.ledger.consumed == 0
        assert pipeline.report is report


async def test_an_error_of_a_thread_left_behind_is_of_no_interest() -> None:
    begun, raised, told = threading.Event(), threading.Event(), list[Exception]()
    opened = threading.Event()

    def handler(tick: tt.Tick) -> None:
        begun.set()
        assert opened.wait(PATIENCE_S)
        raised.set()
        raise ValueError

    try:
        async with open_pipeline(
            sleepy_feed(make_ticks(3)),
            handler,
            workers=1,
            on_error=lambda _tick, error: told.append(error),
        ) as pipeline:
            await until(begun.is_set)
            pipeline.cancel()
    finally:
        opened.set()
    await until(raised.is_set)
    await trio.lowlevel.checkpoint()
    assert told == []
    assert_accounted(pipeline.report, failed=0, shutdown=3)


async def test_a_thread_in_the_middle_of_a_batch_begins_no_further_tick() -> None:
    with shutting(Door(shut=lambda tick: number(tick) == 1500)) as door:
        async with open_pipeline(
            sleepy_feed(make_ticks(2000)), door, workers=1, maxsize=2000, shutdown_timeout=0
        ) as pipeline:
            await until(lambda: len(door.entered) == 1501)
        door.opened.set()
        await until(lambda: len(door.left) == 1501)
        for _ in range(100):
            await trio.lowlevel.checkpoint()
    assert numbers(door.entered) == list(range(1501))
    # The ticks before it had an outcome, those of its batch too; it and those after it
    # were dropped at the shutdown.
    assert_accounted(pipeline.report, produced=2000, consumed=1500, shutdown=500)


async def test_the_interpreter_does_not_wait_for_a_thread_left_behind() -> None:
    program = (
        "import threading, trio, trio_ticks as tt\n"
        "from datetime import UTC, datetime\n"
        "class Feed:\n"
        "    async def run(self, send):\n"
        "        await send.send(tt.Tick('A', datetime.now(UTC), 1, 2, 3, 4, 5))\n"
        "def handler(tick):\n"
        "    inside.set()\n"
        "    threading.Event().wait()\n"
        "inside = threading.Event()\n"
        "async def main():\n"
        "    async with tt.open_pipeline(Feed(), handler, shutdown_timeout=0) as pipeline:\n"
        "        await trio.to_thread.run_sync(inside.wait)\n"
        "    print(pipeline.report.dropped_by_reason['shutdown'])\n"
        "trio.run(main)\n"
    )
    done = await trio.to_thread.run_sync(
        functools.partial(
            subprocess.run,
            [sys.executable, "-W", "error", "-c", program],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n"


# Metrics


async def test_metrics_of_handlers_in_threads() -> None:
    def handler(tick: tt.Tick) -> None:
        time.sleep(0.01)

    async with open_pipeline(
        listed([make_tick("AB"[n % 2], n, age_s=5.0) for n in range(10)]), handler, workers=2
    ) as pipeline:
        await pipeline.wait()
        now = pipeline.metrics()
    assert now.handler_latency_ms.count == 10
    assert now.handler_latency_ms.p50 >= 9.0
    assert now.processing_lag_ms.count > 0
    assert now.processing_lag_ms.mean >= 5000
    assert now.queue_wait_ms.count > 0
    assert now.avg_processing_latency_ms == now.handler_latency_ms.mean
    assert all(0 < row.busy_ratio <= 1 for row in now.workers)
    assert sum(row.consumed for row in now.workers) == 10


# Batches: quick handlings are given to a thread many at a time, and that must not show


WARM_UP = make_ticks(5000, ["WARM-UP"])


def warm_feed() -> tuple[ScriptFeed, list[Send]]:
    """Return a feed that hands its channel to the test, after a warm-up.

    The warm-up is enough quick ticks to bring batches to their largest size.
    """
    sends: list[Send] = []

    async def script(send: Send) -> None:
        await send.send_many(WARM_UP)
        sends.append(send)
        await trio.sleep_forever()

    return ScriptFeed(script), sends


async def warm(pipeline: tt.Pipeline[tt.Tick], sends: list[Send]) -> Send:
    await until(lambda: bool(sends) and pipeline.ledger.consumed == len(WARM_UP))
    return sends[0]


def quick_then(handler: Callable[[tt.Tick], None]) -> Callable[[tt.Tick], None]:
    return lambda tick: None if tick.symbol == "WARM-UP" else handler(tick)


async def test_a_slow_symbol_in_a_batch_holds_up_nobody_else() -> None:
    with shutting(Door(shut=lambda tick: tick.symbol == "SLOW")) as door:
        feed, sends = warm_feed()
        async with open_pipeline(
            feed, quick_then(door), workers=3, maxsize=5000, shutdown_timeout=PATIENCE_S
        ) as pipeline:
            send = await warm(pipeline, sends)
            await send.send_many(
                [make_tick("SLOW", 0), make_tick("A", 1), make_tick("B", 2), make_tick("SLOW", 3)]
            )
            # Which thread enters first is the system's choice.
            await until(lambda: {0, 1, 2} <= set(numbers(door.entered)))
            await until(lambda: set(numbers(door.left)) == {1, 2})
            assert 3 not in numbers(door.entered)
            door.opened.set()
    assert_accounted(pipeline.report, dropped=0, failed=0)


async def test_a_slow_symbol_in_a_batch_holds_up_nobody_else_at_the_end() -> None:
    """The feed has ended and the other workers have nothing to do.

    They must still be there for what is called back to them.
    """
    with shutting(Door(shut=lambda tick: tick.symbol == "SLOW")) as door:
        feed, sends = warm_feed()
        async with open_pipeline(
            feed, quick_then(door), workers=3, maxsize=5000, shutdown_timeout=PATIENCE_S
        ) as pipeline:
            send = await warm(pipeline, sends)
            await send.send_many(
                [make_tick("SLOW", 0), make_tick("A", 1), make_tick("B", 2), make_tick("SLOW", 3)]
            )
            pipeline.shutdown()
            await until(lambda: set(numbers(door.left)) == {1, 2})
            door.opened.set()
    assert_accounted(pipeline.report, dropped=0, failed=0)


async def test_what_is_called_back_takes_no_more_room_than_there_is(mock_clock: MockClock) -> None:
    """An evicting strategy fills the room that a worker's batch had.

    If that batch is called back, the oldest ticks go.
    """
    sends: list[Send] = []

    async def script(send: Send) -> None:
        sends.append(send)
        await trio.sleep_forever()

    with shutting(Door(shut=lambda tick: tick.symbol == "SLOW")) as door:
        async with open_pipeline(
            ScriptFeed(script), quick_then(door), workers=1, maxsize=100, overflow=tt.DropOldest()
        ) as pipeline:
            await until(lambda: bool(sends))
            for round_ in range(1, 9):
                await sends[0].send_many(make_ticks(100, ["WARM-UP"]))
                await until(lambda count=100 * round_: pipeline.ledger.consumed == count)  # type: ignore[misc]  # bound early
            await sends[0].send_many([make_tick("SLOW", 0), *make_ticks(60, "A", 1)])
            await until(lambda: 0 in numbers(door.entered))
            assert pipeline.ledger.in_flight == 61
            await sends[0].send_many(make_ticks(100, "B", 100))
            while pipeline.ledger.in_flight > 1:
                mock_clock.jump(0.02)
                await trio.lowlevel.checkpoint()
            assert pipeline.ledger.queued == 100
            door.opened.set()
    assert numbers(door.left) == [0, *range(100, 200)]
    assert_accounted(pipeline.report, evicted=60, consumed=901)


async def test_on_error_comes_before_the_symbols_next_tick() -> None:
    events: list[str] = []

    def handler(tick: tt.Tick) -> None:
        events.append(f"handle {number(tick)}")
        raise ValueError

    feed, sends = warm_feed()
    async with open_pipeline(
        feed,
        quick_then(handler),
        workers=1,
        maxsize=5000,
        on_error=lambda tick, _error: events.append(f"told {number(tick)}"),
    ) as pipeline:
        await (await warm(pipeline, sends)).send_many(make_ticks(2))
    assert events == ["handle 0", "told 0", "handle 1", "told 1"]


@attrs.define
class HeldClock(trio.abc.Clock):
    """The real time; a thread that asks for it may be held up."""

    loop: int = attrs.field(factory=threading.get_ident)
    hold: Callable[[], bool] = lambda: False
    opened: threading.Event = attrs.field(factory=threading.Event)

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        if threading.get_ident() != self.loop and self.hold():
            assert self.opened.wait(PATIENCE_S)
        return time.perf_counter()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


@pytest.fixture
def held_clock() -> Generator[HeldClock]:
    clock = HeldClock()
    try:
        yield clock
    finally:
        clock.opened.set()


async def test_a_batch_that_is_late_after_a_failure_keeps_the_symbol_until_that_is_told(
    held_clock: HeldClock,
) -> None:
    """The thread is stopped between the failure and its return.

    Its waiting ticks are called back, except those behind the failure.
    """
    events: list[str] = []

    def handler(tick: tt.Tick) -> None:
        events.append(f"handle {tick.symbol}{number(tick)}")
        if number(tick) == 0:
            mine = threading.get_ident()
            held_clock.hold = lambda: threading.get_ident() == mine
            raise ValueError

    def on_error(tick: tt.Tick, _error: Exception) -> None:
        events.append(f"told {tick.symbol}{number(tick)}")

    feed, sends = warm_feed()
    async with open_pipeline(
        feed, quick_then(handler), workers=3, maxsize=5000, on_error=on_error
    ) as pipeline:
        await (await warm(pipeline, sends)).send_many(
            [make_tick("A", 0), make_tick("A", 1), make_tick("B", 2)]
        )
        await until(lambda: "handle B2" in events)
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert "handle A1" not in events
        held_clock.opened.set()
    assert events.index("told A0") < events.index("handle A1")


@pytest.mark.parametrize("seconds", [0.05, 0.7])
async def test_on_error_that_takes_its_time_keeps_its_symbol_and_nobody_else(
    seconds: float,
) -> None:
    """It lasts longer than a batch may be late, or a shutdown would wait.

    It goes on undisturbed, and other workers take the other symbols.
    """
    events: list[str] = []

    def handler(tick: tt.Tick) -> None:
        events.append(f"handle {tick.symbol}{number(tick)}")
        if number(tick) == 0:
            raise ValueError

    async def on_error(tick: tt.Tick, error: Exception) -> None:
        await until(lambda: "handle B2" in events)
        await trio.sleep(seconds)
        events.append(f"told {tick.symbol}{number(tick)}")

    feed, sends = warm_feed()
    async with open_pipeline(
        feed, quick_then(handler), workers=3, maxsize=5000, on_error=on_error
    ) as pipeline:
        await (await warm(pipeline, sends)).send_many(
            [make_tick("A", 0), make_tick("A", 1), make_tick("B", 2)]
        )
        await until(lambda: "handle A1" in events)
    # The threads decide whether A0 or B2 comes first; the point is that B2 did not wait
    # for the report of A0's error.
    assert sorted(events[:2]) == ["handle A0", "handle B2"]
    assert events[2:] == ["told A0", "handle A1"]
    assert_accounted(pipeline.report, failed=1, dropped=0)


async def test_on_gap_that_takes_its_time_comes_before_the_symbols_next_tick() -> None:
    events: list[str] = []

    async def on_gap(gap: tt.Gap) -> None:
        await trio.sleep(0.05)
        events.append(f"gap in {gap.symbol}")

    feed, sends = warm_feed()
    async with open_pipeline(
        feed,
        quick_then(lambda tick: events.append(f"handle {number(tick)}")),
        workers=3,
        maxsize=5000,
        on_gap=on_gap,
    ) as pipeline:
        send = await warm(pipeline, sends)
        now = make_tick().timestamp
        send.mark_gap(tt.Gap("A", now, "sequence", 3, now))
        await send.send_many(make_ticks(3))
        await until(lambda: len(events) == 4)
    assert events == ["gap in A", "handle 0", "handle 1", "handle 2"]


async def test_a_book_update_that_grows_stale_in_a_batch_makes_its_book_wait_for_a_snapshot(
    mock_clock: MockClock,
) -> None:
    handled: list[int] = []

    def handler(item: Any) -> None:
        if isinstance(item, tt.BookUpdate):
            handled.append(number(item))
            if len(handled) == 1:
                mock_clock.jump(0.3)

    feed, sends = warm_feed()
    async with open_pipeline(feed, handler, workers=1, maxsize=5000, max_age=0.2) as pipeline:

        async def idle() -> Send:
            await until(
                lambda: bool(sends) and not pipeline.ledger.queued and not pipeline.ledger.in_flight
            )
            return sends[0]

        await (await idle()).send_many([make_book("A", n) for n in range(3)])
        # Fresh, but useless without the lost updates; a snapshot makes the rest useful.
        await (await idle()).send_many([make_book("A", 3), make_book("A", 4)])
        await (await idle()).send_many([make_book("A", 5, snapshot=True), make_book("A", 6)])
    assert handled == [0, 5, 6]
    assert pipeline.report.dropped_by_reason["stale"] == 2
    assert pipeline.report.dropped_by_reason["held"] == 2
    assert_accounted(pipeline.report)


async def test_ticks_that_grow_stale_in_a_batch_are_not_handled(mock_clock: MockClock) -> None:
    handled: list[int] = []

    def handler(tick: tt.Tick) -> None:
        handled.append(number(tick))
        mock_clock.jump(0.15)

    feed, sends = warm_feed()
    async with open_pipeline(
        feed, quick_then(handler), workers=1, maxsize=5000, max_age=0.1
    ) as pipeline:
        await (await warm(pipeline, sends)).send_many(make_ticks(5))
    assert handled == [0]
    assert_accounted(pipeline.report, consumed=len(WARM_UP) + 1, stale=4)


async def test_failures_of_a_batch_that_is_cut_off_are_told() -> None:
    told: list[int] = []
    with shutting(Door(shut=lambda tick: number(tick) == 1)) as door:

        def handler(tick: tt.Tick) -> None:
            door(tick)
            raise ValueError

        feed, sends = warm_feed()
        async with open_pipeline(
            feed,
            quick_then(handler),
            workers=1,
            maxsize=5000,
            shutdown_timeout=0,
            on_error=lambda tick, _error: told.append(number(tick)),
        ) as pipeline:
            await (await warm(pipeline, sends)).send_many(make_ticks(3))
            await until(lambda: len(door.entered) == 2)
    assert len(told) == pipeline.report.failed


async def test_the_wait_in_a_batch_is_a_wait() -> None:
    def handler(tick: tt.Tick) -> None:
        time.sleep(0.1)

    feed, sends = warm_feed()
    async with open_pipeline(
        feed, quick_then(handler), workers=1, maxsize=5000, shutdown_timeout=PATIENCE_S
    ) as pipeline:
        await (await warm(pipeline, sends)).send_many(make_ticks(4))
    assert pipeline.report.queue_wait_ms.max >= 300


async def test_the_counts_of_many_batches() -> None:
    by_symbol: dict[str, list[int]] = defaultdict(list)
    ticks = make_ticks(20_000, [f"S{n}" for n in range(7)])
    report = await run_pipeline(
        listed(ticks),
        lambda tick: by_symbol[tick.symbol].append(number(tick)),
        workers=3,
        maxsize=len(ticks),
    )
    assert {symbol: sorted(mine) == mine for symbol, mine in by_symbol.items()} == {
        f"S{n}": True for n in range(7)
    }
    assert sum(map(len, by_symbol.values())) == 20_000
    assert_accounted(report, consumed=20_000)


# On a virtual clock


def virtual_clock_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if getattr(record, "event", None) == "clock.virtual"
    ]


async def test_the_log_warns_once_of_threads_on_a_virtual_clock(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(_tick: tt.Tick) -> None: ...

    async def in_loop(_tick: tt.Tick) -> None: ...

    assert_accounted(await run_pipeline(listed(make_ticks(9)), in_loop), consumed=9)
    assert virtual_clock_lines(caplog) == []
    assert_accounted(await run_pipeline(listed(make_ticks(9)), plain, executor="loop"), consumed=9)
    assert virtual_clock_lines(caplog) == []
    assert_accounted(await run_pipeline(listed(make_ticks(9)), plain), consumed=9)
    (line,) = virtual_clock_lines(caplog)
    assert "runs in threads" in line
    assert "async def" in line


async def test_the_log_says_nothing_of_threads_on_the_systems_clock(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def plain(_tick: tt.Tick) -> None: ...

    assert_accounted(await run_pipeline(listed(make_ticks(9)), plain), consumed=9)
    assert virtual_clock_lines(caplog) == []
