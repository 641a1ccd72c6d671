"""``workers="auto"``: the controller on plain numbers and under a simulated load.

And all of it in real pipelines on a virtual clock.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_ticks as tt
from tests.benchmarks.scaling_simulation import CASES, LIMITED, Case, changes, simulate
from tests.worlds.helpers import make_tick
from tests.worlds.pipeline_world import Recorder, ScriptFeed, Send, assert_accounted, sleepy_feed
from tests.worlds.pool_world import open_with_pool
from trio_ticks.cli.pipeline_options import WorkerCount
from trio_ticks.control import scaling_cpu, scaling_task
from trio_ticks.control.scaling import AutoWorkers, Reading, SizeController
from trio_ticks.control.scaling_cpu import CpuMeter
from trio_ticks.control.scaling_gain import Gain
from trio_ticks.workers.pool import WorkerPool

# Settings


@pytest.mark.parametrize(
    "settings",
    [
        {"minimum": 0},
        {"minimum": 1.0},
        {"minimum": True},
        {"maximum": 0},
        {"minimum": 5, "maximum": 4},
        {"target_utilization": 0},
        {"target_utilization": 1},
        {"target_utilization": True},
        {"target_wait": 0},
        {"target_wait": math.inf},
        {"target_wait": "short"},
        {"cool_down": 0},
        {"cool_down": math.nan},
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any]) -> None:
    with pytest.raises(tt.ConfigError):
        AutoWorkers(**settings)


def test_auto_is_auto_workers_with_its_defaults() -> None:
    assert tt.AutoWorkers() == AutoWorkers(1, 64)
    assert WorkerCount().convert("auto", None, None) == "auto"
    assert WorkerCount().convert("12", None, None) == 12


# The controller against a simulated load


@pytest.mark.parametrize("late_s", [0.0, 0.01, 0.03, 0.09, 0.15, 0.21, 0.24])
def test_a_step_is_followed_at_once_and_left_slowly(late_s: float) -> None:
    """However long after a look it comes."""
    case = attrs.evolve(
        CASES["step"], load=lambda now: 4000.0 if 10 + late_s <= now < 40 else 100.0
    )
    points = simulate(case, AutoWorkers())
    steps = changes(points)
    ups, downs = (
        [step for step in steps if step[2] > step[1]],
        [step for step in steps if step[2] < step[1]],
    )
    # The load goes from half a worker to twenty: enough workers within a second, and
    # back at one within two and a half cool-downs.
    assert next(point.at_s for point in points if point.size >= 20) < 11.0
    assert len(ups) <= 5
    assert len(downs) <= 3
    assert points[-1].size == 1
    assert sum(point.dropped for point in points) == 0
    # While it lasts nothing moves, except that surplus workers taken for the backlog
    # go, if they are a fifth of the pool or more.
    assert all(
        20 / 0.7 <= point.size < math.ceil(20 / 0.7) / 0.8
        for point in points
        if 30 < point.at_s < 40
    )
    assert all(point.wait_s < 0.1 for point in points if point.at_s > 12)


def test_a_ramp_is_climbed_in_few_steps() -> None:
    points = simulate(CASES["ramp"], AutoWorkers())
    assert len(changes(points)) <= 14
    assert max(point.size for point in points) <= 20 / 0.7 * 1.25
    assert max(point.wait_s for point in points) < 0.1


@pytest.mark.parametrize("half_s", [0.25, 0.5, 1, 2, 5, 10, 14, 20, 40])
def test_a_square_wave_makes_no_pool_flap(half_s: float) -> None:
    case = Case(
        "wave", lambda now: 4000.0 if now % (2 * half_s) >= half_s else 100.0, seconds=400.0
    )
    points = simulate(case, AutoWorkers())
    steps = changes(points)
    # The cool-down grows with each relapse: however long it lasts, the pool soon keeps
    # its size until the next wave.
    assert len(steps) <= 16
    assert len([at for at, _before, _after in steps if at > 200]) <= (4 if half_s > 20 else 0)
    downs = [at for at, before, after in steps if after < before]
    assert all(later - earlier >= AutoWorkers().cool_down for earlier, later in pairwise(downs))
    late = [point for point in points if point.at_s > 200]
    assert max(point.wait_s for point in late) < 0.5
    # For waves shorter than the controller's interval the mean counts: the queue evens
    # them out.
    assert (
        all(point.size >= (20 if half_s > 0.25 else 10) for point in late if point.load > 1)
        or half_s > 20
    )


@pytest.mark.parametrize(
    ("name", "most", "at_end", "limits"),
    [
        ("loop", 1, 1, {"loop"}),
        ("gil", 2, 1, {"gil", "gain"}),
        ("released", 4, 4, {"cores"}),
        ("free", 4, 4, {"cores"}),
        ("processes", 4, 4, {"cores"}),
        ("half", 2, 2, {"loop"}),
        ("elsewhere", 15, 4, {"gain"}),
    ],
)
def test_more_workers_than_can_help_are_not_hired(
    name: str, most: int, at_end: int, limits: set[str]
) -> None:
    points = simulate(LIMITED[name], AutoWorkers())
    assert max(point.size for point in points) <= most
    assert points[-1].size == at_end
    assert points[-1].limit in limits
    assert len(changes(points)) <= 8


def test_the_bounds_hold_whatever_limits() -> None:
    points = simulate(LIMITED["loop"], AutoWorkers(3, 5))
    assert {point.size for point in points} == {3}
    points = simulate(CASES["step"], AutoWorkers(2, 7))
    assert {point.size for point in points} == {2, 7}
    assert next(point for point in points if point.at_s > 20).limit == "maximum"


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.5, 3.0, 20.0]), st.sampled_from([0.0, 5.0, 100.0, 1000.0, 5000.0])
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([0.0005, 0.005, 0.1, 1.0]),
    st.integers(1, 5),
    st.integers(0, 60),
)
def test_whatever_comes_bounds_hold_and_a_steady_load_ends_all_change(
    stretches: list[tuple[float, float]], handling_s: float, minimum: int, more: int
) -> None:
    auto = AutoWorkers(minimum, minimum + more)
    ends = list(itertools.accumulate(length for length, _rate in stretches))

    def load(now: float) -> float:
        return next(
            (rate for end, (_length, rate) in zip(ends, stretches, strict=True) if now < end), 200.0
        )

    points = simulate(Case("random", load, lambda _now: handling_s, seconds=ends[-1] + 300), auto)
    assert all(minimum <= point.size <= auto.maximum for point in points)
    steps = changes(points)
    downs = [at for at, before, after in steps if after < before]
    assert all(later - earlier >= auto.cool_down for earlier, later in pairwise(downs))
    assert [step for step in steps if step[0] > ends[-1] + 260] == []
    # The workers that are left are as many as Little's law asks for, or the bounds.
    needed = 200 * handling_s / 0.7
    assert points[-1].size >= min(auto.maximum, needed * 0.7)
    assert points[-1].size <= max(minimum, math.ceil(needed * 1.3) + 1)


# The controller, number by number


@attrs.define
class Pool:
    """Counters that rise by what a test says."""

    controller: SizeController
    size: int = 1
    reading: Reading = attrs.field(
        factory=lambda: Reading(0.0, 0.0, 0.0, 0, 0, 0.0, 0.0, 0.0, 1, 0, 0, 0)
    )

    def __attrs_post_init__(self) -> None:
        self.controller.update(self.reading)

    def sample(
        self,
        *,
        busy: float,
        came: int,
        handled: int,
        waiting: int = 0,
        wait_s: float = 0.0,
        queued: int = 0,
        loop: tuple[float, float] = (0.0, 0.0),
        cpu: float = 0.0,
        seconds: float = 0.25,
    ) -> int:
        """Let time pass with *busy* workers at work, and let the controller decide."""
        last = self.reading
        self.reading = Reading(
            now=last.now + seconds,
            busy_s=last.busy_s + busy * seconds,
            life_s=last.life_s + self.size * seconds,
            came=last.came + came,
            handled=last.handled + handled,
            loop_busy_s=last.loop_busy_s + loop[0] * seconds,
            loop_cpu_s=last.loop_cpu_s + loop[1] * seconds,
            cpu_s=last.cpu_s + cpu * seconds,
            size=self.size,
            in_flight=round(busy),
            waiting=waiting,
            queued=max(waiting, queued),
            wait_s=wait_s,
        )
        self.size = self.controller.update(self.reading)
        return self.size


def make(place: Any = "loop", cores: float = 8.0, *, gil: bool = True, **settings: Any) -> Pool:
    return Pool(SizeController(AutoWorkers(**settings), place, cores, gil=gil))


def test_while_they_keep_up_the_busy_ones_are_the_load() -> None:
    pool = make(minimum=10, maximum=64)
    pool.size = 10
    for _ in range(20):
        pool.sample(busy=8.0, came=100, handled=100)
    assert pool.size == 10  # 80 % busy is more than wanted, and too little to act upon.
    for _ in range(20):
        pool.sample(busy=9.5, came=120, handled=120)
    assert 9.5 / 0.85 < pool.size <= math.ceil(9.5 / 0.7)
    assert pool.controller.arrival_rate == pytest.approx(480)


def test_slow_handlers_get_a_worker_each_before_one_has_returned() -> None:
    pool = make(minimum=2)
    pool.size = 2
    pool.sample(busy=1.0, came=32, handled=0, waiting=30)
    assert pool.sample(busy=2.0, came=0, handled=0, waiting=30, wait_s=0.25) == math.ceil(
        31.5 / 0.7
    )


def test_what_waits_behind_its_symbol_asks_for_nobody() -> None:
    pool = make(minimum=4, maximum=64)
    pool.size = 4
    for _ in range(20):
        pool.sample(busy=1.0, came=50, handled=50, waiting=0, queued=500, wait_s=2.5)
    assert pool.size == 4
    assert pool.controller.limit == "order"


def test_a_reading_out_of_time_changes_nothing() -> None:
    pool = make()
    pool.sample(busy=0.5, came=31, handled=0, waiting=30)
    assert pool.sample(busy=1.0, came=1000, handled=0, waiting=1000, seconds=0.0) == 1


@pytest.mark.parametrize(("gets", "cpu"), [(1.0, 1.0), (0.5, 0.5), (0.25, 0.25)])
def test_threads_that_compute_are_known_where_others_use_the_cores(gets: float, cpu: float) -> None:
    """They get less of a core then, and so does the loop's thread, which shows it."""
    pool = make("thread", 8.0)
    for _ in range(40):
        pool.sample(
            busy=pool.size,
            came=500,
            handled=int(100 * cpu),
            waiting=900,
            wait_s=1.0,
            loop=(0.1, 0.1 * gets),
            cpu=cpu,
        )
    assert pool.size <= 2
    assert pool.controller.limit in ("gil", "gain")


def test_threads_that_wait_are_not_taken_for_threads_that_compute() -> None:
    pool = make("thread", 8.0)
    for _ in range(8):
        pool.sample(
            busy=pool.size,
            came=500,
            handled=50 * pool.size,
            waiting=900,
            wait_s=1.0,
            loop=(0.1, 0.1),
            cpu=0.05,
        )
    assert pool.size > 8


def test_without_any_use_of_cores_there_is_no_limit_by_them() -> None:
    pool = make("loop", 1.0)
    for _ in range(8):
        pool.sample(busy=pool.size, came=500, handled=50 * pool.size, waiting=900, wait_s=1.0)
    assert pool.size > 8


# Whether growing has helped


def test_a_gain_is_judged_when_the_newcomers_have_had_their_time() -> None:
    gain = Gain()
    gain.grown(10.0, 4, 100.0, 1.0)
    assert gain.handling_s == 1.0
    for now, handled in ((11.0, 1000), (12.5, 1100), (13.0, 1150)):
        gain.judge(now, 8, handled, 2.0, saturated=True)
        assert gain.handling_s == 1.0
    gain.judge(14.5, 8, 1300, 2.0, saturated=True)
    # As much as before, with twice as many.
    assert gain.handling_s == 0.0
    assert gain.ceiling(14.6) == 4
    assert gain.ceiling(14.5 + 61) == math.inf


@pytest.mark.parametrize(
    ("handled", "ceiling"), [(400, math.inf), (310, math.inf), (280, 6), (200, 4), (100, 4)]
)
def test_how_much_is_a_gain(handled: int, ceiling: float) -> None:
    gain = Gain()
    gain.grown(0.0, 4, 100.0, 0.1)
    gain.judge(1.0, 8, 0, 0.2, saturated=True)
    gain.judge(3.0, 8, handled, 0.2, saturated=True)
    assert gain.ceiling(3.0) == ceiling


def test_who_has_enough_has_gained() -> None:
    gain = Gain()
    gain.grown(0.0, 4, 100.0, 0.1)
    gain.judge(1.0, 8, 0, 0.2, saturated=True)
    gain.judge(1.5, 8, 10, 0.2, saturated=False)
    gain.judge(3.0, 8, 20, 0.2, saturated=True)
    assert gain.ceiling(3.0) == math.inf
    assert gain.handling_s == 0.0


def test_each_time_that_it_does_not_help_it_is_tried_later() -> None:
    gain, now, holds = Gain(), 0.0, []
    for _ in range(6):
        gain.grown(now, 4, 100.0, 0.1)
        gain.judge(now + 1, 8, 0, 0.2, saturated=True)
        gain.judge(now + 3, 8, 200, 0.2, saturated=True)
        began = now + 3
        while gain.ceiling(now) < math.inf or now < began:
            now += 1
        holds.append(now - began)
    assert holds == [60, 120, 240, 480, 960, 960]


# The meter


class FakeTime:
    """Clocks that stand still until a test moves them."""

    def __init__(self) -> None:
        self.wall = self.thread = self.process = 0.0

    def perf_counter(self) -> float:
        return self.wall

    def thread_time(self) -> float:
        return self.thread

    def process_time(self) -> float:
        return self.process


async def test_the_meter_tells_waiting_from_work(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTime()
    monkeypatch.setattr(scaling_cpu, "time", fake)
    meter = CpuMeter()
    assert meter.read() == (0.0, 0.0, 0.0)
    fake.wall, fake.thread, fake.process = 3.0, 2.0, 5.0
    meter.before_io_wait(1.0)
    fake.wall = 4.0
    meter.after_io_wait(1.0)
    assert meter.read() == (3.0, 2.0, 5.0)
    # It looks for news without waiting: that is work.
    meter.before_io_wait(0)
    fake.wall = 5.0
    meter.after_io_wait(0)
    assert meter.read() == (4.0, 2.0, 5.0)


async def test_the_meter_watches_the_loop_it_is_in() -> None:
    with CpuMeter() as meter:
        await trio.sleep(0.01)
        busy_s, loop_cpu_s, cpu_s = meter.read()
        assert busy_s > 0
        assert cpu_s >= loop_cpu_s > 0
        assert meter.read()[0] >= busy_s


class CountingTime(FakeTime):
    """A clock that goes on by one second each time that it is read."""

    def perf_counter(self) -> float:
        self.wall += 1.0
        return self.wall


class Waits(trio.abc.Instrument):
    """Counts how often the loop waits for longer than nothing."""

    count = 0

    def after_io_wait(self, timeout: float) -> None:
        self.count += timeout > 0


async def test_the_meter_counts_each_wait_until_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, waits = CountingTime(), Waits()
    monkeypatch.setattr(scaling_cpu, "time", fake)
    with CpuMeter() as meter:
        began = fake.wall
        trio.lowlevel.add_instrument(waits)
        while not waits.count:  # noqa: ASYNC110 - a wait is what is counted
            await trio.sleep(0.01)
        trio.lowlevel.remove_instrument(waits)
        # Each wait takes a second of that clock, between two readings of it.
        assert meter.read()[0] == fake.wall - began - waits.count
    left = fake.wall
    await trio.sleep(0.01)
    assert fake.wall == left


async def test_on_a_virtual_clock_nothing_takes_time_but_sleep(autojump_clock: MockClock) -> None:
    with CpuMeter() as meter:
        await trio.sleep(10)
        assert meter.read() == (0.0, 0.0, 0.0)


# Real pipelines, on a virtual clock

SYMBOLS = [f"S{index}" for index in range(400)]


def loaded(
    rate: Callable[[float], float], seconds: float, symbols: list[str] = SYMBOLS
) -> ScriptFeed:
    """Return a feed of *rate* ticks a second, by the time since it began."""

    async def script(send: Send) -> None:
        chance, began, owed, first = random.Random(1), trio.current_time(), 0.0, 0
        while (now := trio.current_time() - began) < seconds:
            owed += rate(now) * 0.05
            ticks = [make_tick(chance.choice(symbols), first + n) for n in range(int(owed))]
            first, owed = first + len(ticks), owed - len(ticks)
            await send.send_many(ticks)
            await trio.sleep(0.05)

    return ScriptFeed(script)


class Waiting:
    """A handler that waits for about the given time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._chance = random.Random(2)

    async def __call__(self, tick: tt.Tick) -> None:
        await trio.sleep(self._seconds * self._chance.uniform(0.5, 1.5))


async def sizes(
    feed: ScriptFeed, handler: Any, **settings: Any
) -> tuple[list[tuple[float, int]], tt.PipelineReport]:
    """Run *feed* to its end; return the pool's sizes while it ran, and the report.

    Each size has the time from which the pool had it.
    """
    seen: list[tuple[float, int]] = []

    async def sample(pool: WorkerPool[Any]) -> None:
        began = trio.current_time()
        while pool.crew.state.senders:
            if not seen or seen[-1][1] != pool.size:
                seen.append((trio.current_time() - began, pool.size))
            await trio.sleep(0.05)

    async with (
        open_with_pool(feed, handler, **{"workers": "auto", **settings}) as (pipeline, pool),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(sample, pool)
        await pipeline.wait()
    return seen, pipeline.report


async def test_a_step_of_load(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_ticks.scaling")
    seen, report = await sizes(
        loaded(lambda now: 400.0 if 10 <= now < 40 else 10.0, 90), Waiting(0.05)
    )
    assert_accounted(report, consumed=report.produced)
    assert len(seen) - 1 <= 8
    assert seen[0][1] == seen[-1][1] == 1
    grown = next(at for at, size in seen if size >= 20)
    assert grown < 12
    assert all(size >= 20 for at, size in seen if grown <= at < 40)
    assert max(size for _at, size in seen) <= 64
    assert report.queue_wait_ms.p99 < 1000
    lines = [
        record
        for record in caplog.records
        if record.getMessage().startswith(("workers.grown", "workers.shrunk"))
    ]
    # Steps that follow each other within a second share one log line; none is left out
    # of the sum.
    told = [(line.__dict__["was"], line.__dict__["workers"]) for line in lines]
    assert 3 <= len(told) <= len(seen) - 1
    assert [1, *(after for _before, after in told)] == [*(before for before, _after in told), 1]
    assert {after for _before, after in told} <= {size for _at, size in seen}
    first = lines[0].__dict__
    assert first["wanted"] >= first["workers"] > first["was"]
    assert 10 < first["arrival_rate"] <= 420
    assert 20 < first["handling_ms"] < 100
    assert first["utilization"] > 0.5
    assert "ms each" in lines[0].getMessage()


async def test_a_square_wave_of_load(autojump_clock: MockClock) -> None:
    seen, report = await sizes(
        loaded(lambda now: 400.0 if now % 20 >= 10 else 10.0, 160), Waiting(0.05)
    )
    assert_accounted(report, consumed=report.produced)
    assert len(seen) - 1 <= 8
    assert all(size >= 20 for at, size in seen if at > 13)
    assert [at for at, _size in seen if at > 60] == []


async def test_a_steady_load_is_not_answered_by_unrest(autojump_clock: MockClock) -> None:
    seen, report = await sizes(loaded(lambda _now: 200.0, 120), Waiting(0.05))
    assert_accounted(report, consumed=report.produced)
    assert len(seen) - 1 <= 6
    assert [at for at, _size in seen if at > 60] == []
    # Ten are busy on average.
    assert 10 / 0.85 <= seen[-1][1] <= 22


async def test_one_hot_symbol_is_no_reason_to_hire(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_ticks.scaling")
    seen, report = await sizes(
        loaded(lambda _now: 100.0, 20, ["A"]), Waiting(0.05), overflow=tt.DropOldest()
    )
    assert_accounted(report)
    assert max(size for _at, size in seen[1:]) <= 21
    assert len(seen) <= 4
    assert seen[-1][1] <= 3
    (limited,) = [
        record
        for record in caplog.records
        if "workers.limited" in record.getMessage() and record.__dict__["limit"] == "order"
    ]
    assert "more would not help" in limited.getMessage()


async def test_handlers_that_compute_leave_a_pool_in_the_loop_as_it_is(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "trio_ticks.scaling")

    class VirtualMeter:
        """The figures that the loop would show if computing took virtual time."""

        busy_s = 0.0

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_exception: object) -> None:
            pass

        def read(self) -> tuple[float, float, float]:
            return self.busy_s, self.busy_s, self.busy_s

    meter = VirtualMeter()

    async def handler(tick: tt.Tick) -> None:
        autojump_clock.jump(0.005)
        meter.busy_s += 0.005

    feed = loaded(lambda _now: 400.0, 20)
    monkeypatch.setattr(scaling_task, "CpuMeter", lambda: meter)
    async with tt.open_pipeline(
        feed, handler, workers="auto", overflow=tt.DropOldest(), maxsize=200
    ) as pipeline:
        await trio.sleep(10)
        now = pipeline.metrics()
        assert len(now.workers) == 1
        assert now.workers_limit == "loop"
        assert now.workers_wanted is not None
        assert now.workers_wanted > 1
        pipeline.cancel()
    assert [
        record.__dict__["limit"]
        for record in caplog.records
        if "workers.limited" in record.getMessage()
    ] == ["loop"]


async def test_in_the_metrics_it_shows_what_is_wanted(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(sleepy_feed(), Recorder(), workers=AutoWorkers(3, 5)) as pipeline:
        await trio.sleep(1)
        metrics = pipeline.metrics()
        assert (len(metrics.workers), metrics.workers_wanted, metrics.workers_limit) == (3, 1, None)
    async with tt.open_pipeline(sleepy_feed(), Recorder(), workers=2) as pipeline:
        assert (pipeline.metrics().workers_wanted, pipeline.metrics().workers_limit) == (None, None)


async def test_it_ends_with_the_feed(autojump_clock: MockClock) -> None:
    """The workers that are there drain the queue.

    The pool does not wait for the task that would size it.
    """
    report = await tt.run_pipeline(loaded(lambda _now: 400.0, 0.1), Waiting(0.05), workers="auto")
    assert report.duration_s < 3.0
    assert_accounted(report, consumed=40)
