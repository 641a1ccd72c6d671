"""The live page's past: bounded after a day, and exact in every resolution.

Also the connection's events, and the counts by symbol.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.worlds.helpers import make_ticks
from trio_ticks.feeds.base import FeedStats
from trio_ticks.ledger import REASONS
from trio_ticks.metrics.latency import LatencyWindow
from trio_ticks.observability.dashboard.history import (
    TIERS,
    ConnectionLog,
    Gauges,
    History,
    Reading,
    quantiles_ms,
)
from trio_ticks.observability.dashboard.symbols import MOST_PER_S, SymbolTable
from trio_ticks.ticks import Tick

CALM = Gauges(queued=0, pressure="ok", connected=True, throttle_rate=None)


class World:
    """A pipeline's counters that grow as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.received = 0
        self.window = LatencyWindow()
        self.counts: Sequence[int] | None = None
        """Counts of latencies to read instead of the window's."""
        self.history = History(self.read(), self.read)

    def read(self) -> Reading:
        counts = self.window.counts() if self.counts is None else self.counts
        dropped = (self.received // 2, *(0 for _ in REASONS[1:]))
        return Reading(
            at=self.now,
            received=self.received,
            dropped=dropped,
            wait=counts,
            handler=counts,
            lag=counts,
        )

    def step(self, seconds: float, received: int = 0, gauges: Gauges = CALM) -> None:
        self.now += seconds
        self.received += received
        self.history.sample(self.now, round(self.now * 1e3), gauges)


def test_a_day_and_a_half_is_bounded_and_whole() -> None:
    world = World()
    world.counts = ()
    seconds = 86_400 + 3_600
    for second in range(seconds):
        world.step(1.0, received=second % 7)
    fine, middle, coarse = world.history.tiers
    assert (
        [len(tier.points) for tier in (fine, middle, coarse)]
        == [most for _step, most in TIERS]
        == [300, 360, 288]
    )
    # A point of five minutes says the sum of its seconds.
    expected = sum(second % 7 for second in range(seconds - 300, seconds)) / 300
    assert coarse.points[-1].received == pytest.approx(expected, abs=0.005)
    assert sum(point.received for point in fine.points) / 300 == pytest.approx(expected, abs=0.005)
    assert coarse.points[-1].t - coarse.points[0].t == 287 * 300_000


def test_percentiles_of_a_stretch_are_those_of_its_samples() -> None:
    world = World()
    # One second in ten is slow. In a point of ten seconds that is the tail, which an
    # average of percentiles would hide.
    for second in range(20):
        for _ in range(100):
            world.window.record(0.5 if second % 10 == 3 else 0.001, world.now)
        world.step(1.0)
    fine, middle, _coarse = world.history.tiers
    assert [point.wait_p50 for point in fine.points][2:5] == pytest.approx([1, 500, 1], rel=0.05)
    for point in middle.points:
        assert point.wait_p50 == pytest.approx(1, rel=0.05)
        assert point.wait_p99 == pytest.approx(500, rel=0.05)


def test_a_stretch_without_samples_has_no_percentile() -> None:
    world = World()
    world.window.record(0.1, world.now)
    world.step(1.0)
    world.step(1.0)
    assert [point.lag_p99 is None for point in world.history.tiers[0].points] == [False, True]


def test_quantiles_at_the_bounds() -> None:
    window = LatencyWindow()
    assert quantiles_ms([], window.counts(), [0.5]) == (None,)
    window.record(-3, 0)
    assert quantiles_ms([], window.counts(), [0.5])[0] == pytest.approx(0, abs=1e-4)
    before = window.counts()
    window.record(1e9, 0)
    after = quantiles_ms(before, window.counts(), [0.5])[0]
    assert after is not None
    assert after >= 1e5 * 1e3 * 0.9


def test_the_worst_between_two_points_is_kept() -> None:
    world = World()
    for queued, pressure, connected in (
        (5, "warn", True),
        (90, "shed", True),
        (40, "warn", False),
        (1, "ok", True),
    ):
        world.step(
            0.25,
            gauges=Gauges(
                queued=queued, pressure=pressure, connected=connected, throttle_rate=12.5
            ),
        )
    for _ in range(4):
        world.step(0.25)
    first, second = world.history.tiers[0].points
    assert (
        first.queue_max,
        first.queue_mean,
        first.pressure,
        first.connected,
        first.throttle_rate,
    ) == (90, 34, "shed", False, 12.5)
    assert (
        second.queue_max,
        second.queue_mean,
        second.pressure,
        second.connected,
        second.throttle_rate,
    ) == (0, 0, "ok", True, None)


def test_a_late_look_stands_for_all_the_time_it_covers() -> None:
    world = World()
    world.step(1.0, received=100)
    world.step(4.6, received=460)
    world.step(0.4, received=40)
    points = list(world.history.tiers[0].points)
    assert [point.span_s for point in points] == [1, 4.6, 0.4]
    assert [point.received for point in points] == [100, 100, 100]
    assert points[0].to_dict()["dropped_overflow"] == 50


def test_points_since_a_time() -> None:
    world = World()
    for _ in range(5):
        world.step(1.0)
    tier = world.history.tiers[0]
    assert [point.t for point in tier.since(1_003_000)] == [1_004_000, 1_005_000]
    assert len(tier.since(0)) == 5
    assert tier.since(1_005_000) == []


# The connection


def kinds(log: ConnectionLog) -> list[tuple[str, int]]:
    return [(moment.kind, moment.count) for moment in log.moments]


def test_the_connections_story() -> None:
    log, stats = ConnectionLog(), FeedStats()
    log.poll(stats, False, 0)
    assert kinds(log) == []
    stats.connect_failures = 2
    log.poll(stats, False, 250)
    stats.connected = True
    log.poll(stats, False, 20_000)
    log.poll(stats, False, 20_250)
    stats.connected, stats.watchdog_trips = False, 1
    log.poll(stats, False, 40_000)
    stats.connect_failures = 3
    log.poll(stats, False, 40_250)
    stats.connect_failures = 5
    log.poll(stats, False, 41_000)
    stats.connected, stats.reconnects = True, 1
    log.poll(stats, False, 42_000)
    stats.connected = False
    log.poll(stats, True, 60_000)
    log.poll(stats, True, 60_250)
    told = [
        ("failed", 2),
        ("connected", 1),
        ("silent", 1),
        ("lost", 1),
        ("failed", 3),
        ("reconnected", 1),
        ("ended", 1),
    ]
    assert kinds(log) == told
    assert [moment.t for moment in log.moments if moment.kind == "failed"] == [250, 41_000]


def test_losses_between_two_looks_are_told() -> None:
    log, stats = ConnectionLog(), FeedStats(connected=True)
    log.poll(stats, False, 0)
    stats.reconnects = 3
    log.poll(stats, False, 250)
    assert kinds(log) == [("connected", 1), ("lost", 3), ("reconnected", 3)]
    stats.reconnects, stats.connected = 4, False
    log.poll(stats, False, 20_000)
    assert kinds(log)[3:] == [("lost", 2), ("reconnected", 1)]


def test_what_was_before_the_first_look_has_no_time() -> None:
    log = ConnectionLog()
    log.poll(
        FeedStats(connected=True, reconnects=7, connect_failures=9, watchdog_trips=2), False, 0
    )
    assert kinds(log) == [("connected", 1)]


def test_a_storm_of_reconnects_is_bounded() -> None:
    log, stats = ConnectionLog(), FeedStats(connected=True)
    for number in range(10_000):
        stats.reconnects = number
        log.poll(stats, False, number * 60_000)
    assert len(log.moments) == 200


# Symbols


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["symbol"] for row in rows]


def test_the_top_of_ten_thousand_symbols_is_exact() -> None:
    clock = Clock()
    table = SymbolTable(clock)
    for second in range(5):
        clock.now = float(second)
        table.count(
            [tick for number in range(10_000) for tick in make_ticks(1, [f"S{number:05}"])], None
        )
        for number in range(20):
            table.count(make_ticks(100 + number, [f"S{number:05}"]), None)
        table.count(make_ticks(7, ["S09999"]), "overflow")
        table.count(make_ticks(3, ["S00003"]), "conflated")
    clock.now = 5.0
    read = table.read()
    assert (read["distinct"], read["exact"], read["window_s"]) == (10_000, True, 5.0)
    assert names(read["by_rate"]) == [f"S{number:05}" for number in range(19, 7, -1)]
    assert read["by_rate"][0] == {
        "symbol": "S00019",
        "received_per_s": 120.0,
        "lost_per_s": 0.0,
        "intentional_per_s": 0.0,
    }
    assert read["by_loss"] == [
        {"symbol": "S09999", "received_per_s": 1.0, "lost_per_s": 7.0, "intentional_per_s": 0.0}
    ]


def test_more_symbols_than_fit_are_a_sample_of_a_shorter_time() -> None:
    clock = Clock()
    table = SymbolTable(clock, most=50)
    for number in range(100):
        clock.now += 0.01
        table.count([*make_ticks(9, ["HOT"]), *make_ticks(1, [f"S{number}"])], None)
    read = table.read()
    assert (read["exact"], read["distinct"]) == (False, 51)
    assert read["window_s"] == 0.5
    assert read["by_rate"][0] == {
        "symbol": "HOT",
        "received_per_s": 900.0,
        "lost_per_s": 0.0,
        "intentional_per_s": 0.0,
    }


def test_a_window_forgets() -> None:
    clock = Clock()
    table = SymbolTable(clock)
    table.count(make_ticks(10, ["OLD"]), None)
    for second in range(1, 12):
        clock.now = float(second)
        read = table.read()
        table.count(make_ticks(1, ["NEW"]), None)
        assert ("OLD" in names(read["by_rate"])) == (second <= 10)
        assert read["window_s"] <= 10
    assert names(read["by_rate"]) == ["NEW"]
    assert read["by_rate"][0]["received_per_s"] == 1.0
    table.start()
    assert table.read() == {
        "window_s": 0.0,
        "distinct": 0,
        "exact": True,
        "by_rate": [],
        "by_loss": [],
    }


def test_the_order_among_equals_does_not_depend_on_who_came_first() -> None:
    clock = Clock()
    table = SymbolTable(clock)
    table.count(make_ticks(4, ["D", "C", "B", "A"]), None)
    clock.now = 1.0
    assert names(table.read()["by_rate"]) == ["A", "B", "C", "D"]


class Batch(list[Tick]):
    """Knows how many of its ticks were read."""

    counted = 0

    def __iter__(self) -> Iterator[Tick]:
        self.counted += len(self)
        return super().__iter__()


def test_more_ticks_than_can_be_counted_are_a_scaled_sample() -> None:
    clock = Clock()
    table = SymbolTable(clock, chance=random.Random(0).random)
    batch = Batch([*make_ticks(300, ["HOT"]), *make_ticks(100, ["COLD"])])
    cold_batch = Batch(batch[300:])

    def second() -> dict[str, Any]:
        for _ in range(2_500):
            table.count(batch, None)
            table.count(cold_batch, "overflow")
        clock.now += 1.0
        return table.read()

    assert second()["exact"]
    for _ in range(7):
        second()
    before = batch.counted + cold_batch.counted
    read = second()
    counted = batch.counted + cold_batch.counted - before
    assert not read["exact"]
    hot, cold = read["by_rate"]
    assert (hot["symbol"], cold["symbol"]) == ("HOT", "COLD")
    assert hot["received_per_s"] == pytest.approx(750_000, rel=0.02)
    assert cold["lost_per_s"] == pytest.approx(250_000, rel=0.02)
    # Most was left out, and once it calms down everything is counted again.
    assert 0.9 * MOST_PER_S < counted < 1.1 * MOST_PER_S
    for _ in range(11):
        table.count(batch, None)
        clock.now += 1.0
        read = table.read()
    assert read["exact"]
    assert read["by_rate"][0]["received_per_s"] == 300.0
