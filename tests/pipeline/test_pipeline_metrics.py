"""Every field of the metrics and of the report changes with what it stands for.

And only with that. On a virtual clock, so that a second is a second; the tests read
only what an operator can.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.pipeline_world import Gate, Recorder, ScriptFeed, Send, listed, sleepy_feed
from trio_ticks import open_pipeline, run_pipeline
from trio_ticks.ledger import REASONS


async def test_before_anything_happened(autojump_clock: MockClock) -> None:
    async with open_pipeline(sleepy_feed(), Recorder(), workers=3, maxsize=77) as pipeline:
        await trio.sleep(10)
        now = pipeline.metrics()
    assert now.uptime_s == 10
    assert now.state == "running"
    assert (now.queue_size, now.queue_capacity, now.queue_peak, now.queue_utilization_pct) == (
        0,
        77,
        0,
        0.0,
    )
    assert (
        now.items_produced,
        now.items_consumed,
        now.items_failed,
        now.items_dropped,
        now.in_flight,
    ) == (0, 0, 0, 0, 0)
    assert now.dropped_by_reason == dict.fromkeys(REASONS, 0)
    assert (now.produced_per_s, now.consumed_per_s, now.drop_rate_per_min) == (0.0, 0.0, 0.0)
    assert now.processing_lag_ms == now.queue_wait_ms == now.handler_latency_ms == tt.LatencyStats()
    assert (now.blocked_s, now.pressure, now.reconnects, now.malformed, now.ignored) == (
        0.0,
        "ok",
        0,
        0,
        0,
    )
    assert len(now.workers) == 3


async def test_timestamp_is_the_wall_clocks_and_aware() -> None:
    async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        before = datetime.now(UTC)
        timestamp = pipeline.metrics().timestamp
        assert before <= timestamp <= datetime.now(UTC)
        assert timestamp.utcoffset() == timedelta(0)


# Counters


async def test_the_queue_and_what_is_in_flight(autojump_clock: MockClock) -> None:
    gate = Gate()
    async with open_pipeline(
        sleepy_feed(make_ticks(10, "AB")), gate, workers=2, maxsize=40
    ) as pipeline:
        await wait_all_tasks_blocked()
        now = pipeline.metrics()
        # Eight of them wait, whether in the buffer or behind their symbol.
        assert (now.in_flight, now.queue_size, now.queue_utilization_pct) == (2, 8, 20.0)
        assert now.queue_peak == 10
        gate.opened.set()
        await wait_all_tasks_blocked()
        now = pipeline.metrics()
        assert (now.in_flight, now.queue_size, now.queue_utilization_pct) == (0, 0, 0.0)
        # The peak stays.
        assert now.queue_peak == 10
    assert pipeline.report.queue_peak == 10


async def test_outcomes(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(1.0)
        if tick.volume % 2:
            raise ValueError

    async with open_pipeline(
        sleepy_feed(make_ticks(20)),
        handler,
        workers=1,
        maxsize=15,
        write_timeout=0,
        max_age=9.5,
        shutdown_timeout=0,
    ) as pipeline:
        await trio.sleep(12.5)
        now = pipeline.metrics()
        assert (now.items_produced, now.items_consumed, now.items_failed, now.items_dropped) == (
            20,
            5,
            5,
            10,
        )
        assert {reason: count for reason, count in now.dropped_by_reason.items() if count} == {
            "overflow": 5,
            "stale": 5,
        }
        assert now.unaccounted == 0
    assert pipeline.report.dropped_by_reason == now.dropped_by_reason


async def test_what_the_feed_counts(autojump_clock: MockClock) -> None:
    feed = sleepy_feed()
    async with open_pipeline(feed, Recorder()) as pipeline:
        await wait_all_tasks_blocked()
        feed.stats.malformed, feed.stats.ignored, feed.stats.reconnects = 3, 4, 5
        now = pipeline.metrics()
        assert (now.malformed, now.ignored, now.reconnects) == (3, 4, 5)
    report = pipeline.report
    assert (report.malformed, report.ignored, report.reconnects) == (3, 4, 5)
    assert pipeline.feed_stats is feed.stats


async def test_connected_is_what_the_feed_says_until_it_ends(autojump_clock: MockClock) -> None:
    ends = trio.Event()
    feed = listed([], then=ends.wait)
    feed.stats.connected = False
    async with open_pipeline(feed, Recorder()) as pipeline:
        await wait_all_tasks_blocked()
        for connected in (False, True, False, True):
            feed.stats.connected = connected
            assert pipeline.metrics().producer_connected is connected
        ends.set()
        await wait_all_tasks_blocked()
        # A feed that has ended is not connected, also if it forgot to say so.
        assert not pipeline.metrics().producer_connected


async def test_a_feed_without_statistics_is_connected_while_it_runs(
    autojump_clock: MockClock,
) -> None:
    class Plain:
        async def run(self, send: Send) -> None:
            await trio.sleep(1.0)

    async with open_pipeline(Plain(), Recorder()) as pipeline:
        await trio.sleep(0.5)
        assert pipeline.metrics().producer_connected
        assert pipeline.metrics().reconnects == 0
        await trio.sleep(1.0)
        assert not pipeline.metrics().producer_connected


async def test_blocked_seconds(autojump_clock: MockClock) -> None:
    async with open_pipeline(
        sleepy_feed(make_ticks(13)),
        Recorder(seconds=1.0),
        workers=1,
        maxsize=10,
        overflow=tt.Block(),
    ) as pipeline:
        await trio.sleep(0.25)
        # It counts while it lasts, and stops when the last tick has found room.
        assert pipeline.metrics().blocked_s == 0.25
        await trio.sleep(1.0)
        assert pipeline.metrics().blocked_s == 1.25
        await trio.sleep(3.0)
        assert pipeline.metrics().blocked_s == 2.0
    assert pipeline.report.blocked_s == 2.0


# Rates


def steady(per_second: int) -> ScriptFeed:
    """Return a feed of *per_second* ticks a second, in batches of 0.1 s."""

    async def script(send: Send) -> None:
        began, first = trio.current_time(), 0
        while True:
            await send.send_many(make_ticks(per_second // 10, first=first))
            first += per_second // 10
            await trio.sleep_until(began + 0.1 * (first // (per_second // 10)))

    return ScriptFeed(script)


async def test_rates_of_a_steady_flow(autojump_clock: MockClock) -> None:
    async with open_pipeline(steady(100), Recorder()) as pipeline:
        await trio.sleep(0.05)
        for _ in range(100):
            await trio.sleep(0.25)
            now = pipeline.metrics()
        assert now.produced_per_s == pytest.approx(100, rel=0.03)
        assert now.consumed_per_s == pytest.approx(100, rel=0.03)
    assert pipeline.report.produced_per_s == pytest.approx(100, rel=0.03)
    assert pipeline.report.consumed_per_s == pytest.approx(100, rel=0.03)


async def test_rates_forget_what_is_long_past(autojump_clock: MockClock) -> None:
    async with open_pipeline(sleepy_feed(make_ticks(1000)), Recorder(), workers=2) as pipeline:
        await trio.sleep(1.0)
        now = pipeline.metrics()
        assert (now.produced_per_s, now.consumed_per_s) == (1000.0, 1000.0)
        for _ in range(40):
            await trio.sleep(0.25)
            now = pipeline.metrics()
        assert (now.produced_per_s, now.consumed_per_s) == (0.0, 0.0)


async def test_produced_and_consumed_are_rates_of_their_own(autojump_clock: MockClock) -> None:
    async with open_pipeline(
        steady(100), Recorder(seconds=0.1), workers=1, maxsize=50, write_timeout=0
    ) as pipeline:
        for _ in range(80):
            await trio.sleep(0.25)
            now = pipeline.metrics()
        assert now.produced_per_s == pytest.approx(100, rel=0.05)
        assert now.consumed_per_s == pytest.approx(10, rel=0.1)
        assert now.drop_rate_per_min == pytest.approx(90 * 60, rel=0.1)
        # A minute without a drop, and the rate says so.
        pipeline.shutdown()
        await pipeline.wait()
        drops = []
        for _ in range(300):
            await trio.sleep(0.25)
            drops.append(pipeline.metrics().drop_rate_per_min)
        assert drops[-1] == 0.0
        assert all(after <= before for before, after in pairwise(drops))


@pytest.mark.parametrize("pause", [0.001, 0.1, 1.0])
async def test_two_who_look_shortly_after_each_other_see_the_same_rates(
    pause: float, autojump_clock: MockClock
) -> None:
    # For example a scraper and a terminal view: a rate over the moment between the two
    # would be 0 or enormous.
    async with open_pipeline(
        steady(100), Recorder(seconds=0.1), workers=1, maxsize=50, write_timeout=0
    ) as pipeline:
        for _ in range(3):
            await trio.sleep(90.05)
            first = pipeline.metrics()
            await trio.sleep(pause)
            second = pipeline.metrics()
            assert second.produced_per_s == pytest.approx(first.produced_per_s, rel=0.05)
            assert second.consumed_per_s == pytest.approx(first.consumed_per_s, rel=0.05)
            assert second.drop_rate_per_min == pytest.approx(first.drop_rate_per_min, rel=0.05)


# Latencies


async def test_handler_latency(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(0.3 if tick.volume == 99 else 0.02)

    async with open_pipeline(listed(make_ticks(100)), handler, workers=1) as pipeline:
        await pipeline.wait()
        now = pipeline.metrics()
    stats = now.handler_latency_ms
    assert stats.count == 100
    assert stats.mean == pytest.approx(0.99 * 20 + 0.01 * 300)
    assert stats.p50 == pytest.approx(20, rel=0.06)
    assert stats.max == pytest.approx(300)
    assert stats.p999 == pytest.approx(300, rel=0.06)
    assert now.avg_processing_latency_ms == stats.mean
    assert pipeline.report.handler_latency_ms == stats


async def test_a_handler_that_raises_is_timed_as_well(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(0.5)
        raise ValueError

    report = await run_pipeline(listed(make_ticks(4)), handler, on_error=lambda _tick, _error: None)
    assert report.handler_latency_ms.count == 4
    assert report.handler_latency_ms.max == pytest.approx(500)


async def test_waiting_for_on_error_is_no_handler_latency(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        raise ValueError

    async def on_error(tick: tt.Tick, error: Exception) -> None:
        await trio.sleep(1.0)

    report = await run_pipeline(listed(make_ticks(3)), handler, on_error=on_error)
    assert report.handler_latency_ms.max == 0.0


@pytest.mark.parametrize("workers", [1, 2], ids=["in the buffer", "in a lane"])
async def test_queue_wait(workers: int, autojump_clock: MockClock) -> None:
    # One symbol, a second each: the ticks wait 0, 1, 2, ... 10 seconds, in the queue or
    # in a lane.
    report = await run_pipeline(listed(make_ticks(11)), Recorder(seconds=1.0), workers=workers)
    stats = report.queue_wait_ms
    assert stats.count == 11
    assert stats.mean == pytest.approx(5000)
    assert stats.max == pytest.approx(10_000)
    assert stats.p50 == pytest.approx(5000, rel=0.06)


async def test_the_time_with_a_patient_sender_is_not_queue_wait(autojump_clock: MockClock) -> None:
    # The queue's own wait begins when the tick is in it; the rest is in blocked_s, and
    # in the lag.
    report = await run_pipeline(
        listed(make_ticks(11)), Recorder(seconds=1.0), workers=1, maxsize=2, overflow=tt.Block()
    )
    assert report.queue_wait_ms.max == pytest.approx(2000)
    assert report.processing_lag_ms.max - report.processing_lag_ms.mean > 4000


async def test_lag_is_the_age_of_a_tick_when_it_is_handled(autojump_clock: MockClock) -> None:
    # Two seconds a tick: the first is 30 s old when its turn comes, the last one 38.
    ticks = [make_tick(n=n, age_s=30.0) for n in range(5)]
    report = await run_pipeline(listed(ticks), Recorder(seconds=2.0), workers=1)
    stats = report.processing_lag_ms
    # The ticks were made by the real clock, a moment before.
    assert stats.count == 5
    assert 38_000 <= stats.max < 39_500
    assert 34_000 <= stats.mean < 35_500
    assert report.queue_wait_ms.max == pytest.approx(8000)


async def test_a_venue_whose_clock_is_ahead_has_a_negative_lag(autojump_clock: MockClock) -> None:
    report = await run_pipeline(listed([make_tick(age_s=-3600.0)]), Recorder())
    assert -3_600_000 <= report.processing_lag_ms.mean < -3_598_000


async def test_latencies_are_of_the_last_minute_and_the_reports_of_the_whole_run(
    autojump_clock: MockClock,
) -> None:
    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(tick.volume)

    async def script(send: Send) -> None:
        await send.send(make_tick(n=10))
        await trio.sleep(100)
        await send.send(make_tick(n=2))
        await trio.sleep_forever()

    async with open_pipeline(ScriptFeed(script), handler) as pipeline:
        await trio.sleep(30)
        assert pipeline.metrics().handler_latency_ms.max == pytest.approx(10_000)
        await trio.sleep(80)
        stats = pipeline.metrics().handler_latency_ms
        assert stats.count == 1
        assert stats.max == pytest.approx(2000)
        assert pipeline.metrics().queue_wait_ms.count == 1
        await trio.sleep(100)
        now = pipeline.metrics()
        assert (
            now.handler_latency_ms
            == now.queue_wait_ms
            == now.processing_lag_ms
            == tt.LatencyStats()
        )
        assert now.avg_processing_latency_ms == 0.0
    assert pipeline.report.handler_latency_ms.count == 2
    assert pipeline.report.handler_latency_ms.max == pytest.approx(10_000)


# Pressure


async def test_pressure_rises_and_falls_with_the_queue(autojump_clock: MockClock) -> None:
    states: list[tuple[int, str]] = []
    async with open_pipeline(
        sleepy_feed(make_ticks(100)),
        Recorder(seconds=1.0),
        workers=1,
        maxsize=100,
        lag_threshold=50,
        write_timeout=0,
    ) as pipeline:
        assert pipeline.metrics().pressure == "ok"
        await trio.sleep(0.5)
        while pipeline.ledger.queued:
            now = pipeline.metrics()
            if not states or states[-1][1] != now.pressure:
                states.append((now.queue_size, now.pressure))
            assert now.pressure == pipeline.pressure.state
            await trio.sleep(1.0)
    assert [state for _size, state in states] == ["shed", "warn", "ok"]
    # Full; relieved at three quarters; calm at half the threshold. A worker checks
    # before it takes its next tick, not after.
    assert states[0][0] == 99
    assert states[1][0] in (74, 75)
    assert states[2][0] in (24, 25)


async def test_pressure_can_be_waited_for(autojump_clock: MockClock) -> None:
    seen: list[tuple[float, str]] = []
    async with open_pipeline(
        sleepy_feed(make_ticks(10)), Recorder(seconds=1.0), workers=1, maxsize=10, lag_threshold=5
    ) as pipeline:
        for state in ("shed", "warn", "ok"):
            await pipeline.pressure.wait_for(state)
            seen.append((trio.current_time(), state))
    assert [state for _time, state in seen] == ["shed", "warn", "ok"]
    assert seen[0][0] == 0.0
    assert seen[1][0] < seen[2][0] <= 9.0


@pytest.mark.parametrize("way", ["leave", "cancel", "raise"])
async def test_no_pressure_is_left_at_the_end(way: str, autojump_clock: MockClock) -> None:
    with trio.CancelScope() as scope:
        async with open_pipeline(
            sleepy_feed(make_ticks(10)), Gate(), maxsize=10, write_timeout=0, shutdown_timeout=1
        ) as pipeline:
            await wait_all_tasks_blocked()
            assert pipeline.pressure.state == "shed"
            if way == "cancel":
                pipeline.cancel()
            elif way == "raise":
                scope.cancel()
                await trio.lowlevel.checkpoint()
    now = pipeline.metrics()
    assert (now.queue_size, now.pressure) == (0, "ok")


# As plain values


async def test_metrics_and_report_as_json(autojump_clock: MockClock) -> None:
    async with open_pipeline(
        sleepy_feed(make_ticks(10)), Recorder(seconds=1.0), workers=2
    ) as pipeline:
        await trio.sleep(3.5)
        metrics = pipeline.metrics()
    plain: dict[str, Any] = json.loads(json.dumps(metrics.to_dict()))
    assert set(plain) == {field.name for field in attrs.fields(tt.PipelineMetrics)}
    assert datetime.fromisoformat(plain["timestamp"]) == metrics.timestamp
    assert plain["handler_latency_ms"]["count"] == metrics.handler_latency_ms.count == 3
    assert [row["name"] for row in plain["workers"]] == [row.name for row in metrics.workers]
    report = json.loads(json.dumps(pipeline.report.to_dict()))
    names = [
        "produced",
        "consumed",
        "failed",
        "dropped",
        "queued",
        "in_flight",
        "dropped_by_reason",
        "malformed",
        "duration_s",
    ]
    assert {name: report[name] for name in names} == {
        name: getattr(pipeline.report, name) for name in names
    }


async def test_the_report_in_words(autojump_clock: MockClock) -> None:
    report = await run_pipeline(
        listed(make_ticks(2000)), Recorder(seconds=0.01), workers=1, maxsize=1000, write_timeout=0
    )
    text = str(report)
    assert (
        "produced 2,000 = consumed 1,000 + failed 0 + dropped 1,000 + queued 0 + in flight 0"
        in text
    )
    assert "the law holds" in text
    assert "overflow 1,000" in text
    # A broken law would show.
    broken = attrs.evolve(report, ledger=attrs.evolve(report.ledger, consumed=999, unaccounted=1))
    assert "1 UNACCOUNTED" in str(broken)
