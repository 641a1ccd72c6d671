"""The venue's clock as an operator sees it: its offset, its jumps, odd timestamps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

import trio_ticks as tt
from tests.observability.test_prometheus import scrape, value
from tests.worlds.helpers import make_tick
from tests.worlds.pipeline_world import Recorder, ScriptFeed, Send
from trio_ticks.clock import Clock
from trio_ticks.observability.prometheus import export_metrics

YEAR_9999 = datetime(9999, 12, 31, tzinfo=UTC)


async def quotes(send: Send, clock: Clock, count: int, ahead_s: float = 0.0) -> None:
    for n in range(count):
        await send.send(make_tick(n=n, now=clock.utc() + timedelta(seconds=ahead_s)))
        await trio.sleep(0.02)


async def test_a_jump_is_shown_and_a_single_timestamp_is_none(autojump_clock: MockClock) -> None:
    registry = CollectorRegistry()
    checked, opened = trio.Event(), trio.Event()

    async def script(send: Send) -> None:
        await opened.wait()
        clock = pipeline.clock
        await quotes(send, clock, 100)
        await send.send(make_tick("GLITCH", now=YEAR_9999))
        await send.send(make_tick("A", now=YEAR_9999))
        await quotes(send, clock, 400)
        assert send.ledger.dropped == 0
        await quotes(send, clock, 200, ahead_s=-10.0)
        await checked.wait()

    max_age = tt.MaxAge(1.0, since="timestamp")
    async with tt.open_pipeline(ScriptFeed(script), Recorder(), max_age=max_age) as pipeline:
        opened.set()
        with export_metrics(pipeline, registry):
            await trio.sleep(9.0)
            samples = scrape(registry)
            assert value(samples, "clock_offset_seconds") == pytest.approx(0.0, abs=0.05)
            assert value(samples, "clock_jumps_total") == 0
            assert value(samples, "tick_lag_from_future_total") == 2
            assert abs(value(samples, "tick_lag_recent_seconds", statistic="mean")) < 0.05
            assert value(samples, "tick_lag_seconds_sum") < 10.0
            await trio.sleep(8.0)
            samples = scrape(registry)
            assert value(samples, "clock_offset_seconds") == pytest.approx(10.0, abs=0.05)
            assert value(samples, "clock_jumps_total") == 1
            # The lag's sum goes on.
            assert value(samples, "tick_lag_seconds_sum") > 1000.0
        checked.set()
    assert pipeline.report.dropped_by_reason["stale"] <= 8
    assert pipeline.report.dropped == pipeline.report.dropped_by_reason["stale"]


async def test_without_ages_by_timestamp_no_offset_is_exported() -> None:
    registry = CollectorRegistry()

    async def script(send: Send) -> None:
        await send.send(make_tick())
        await trio.sleep_forever()

    async with tt.open_pipeline(ScriptFeed(script), Recorder(), shutdown_timeout=0) as pipeline:
        with export_metrics(pipeline, registry):
            names = {name for name, _labels in scrape(registry)}
        pipeline.shutdown()
    assert "trio_ticks_clock_offset_seconds" not in names
    assert "trio_ticks_clock_jumps_total" not in names
    assert "trio_ticks_tick_lag_from_future_total" in names
