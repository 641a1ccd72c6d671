"""Workers measure on the pipeline's clock alone, whatever trio's clock shows."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import listed
from trio_ticks.clock import Clock
from trio_ticks.pipeline import halves, opening
from trio_ticks.pipeline.running import Pipeline


def ahead() -> float:
    """Return the time of a clock that goes half as fast as trio's, and is ahead."""
    return 1000.0 + trio.current_time() / 2


async def one_by_one(tick: tt.Tick) -> None:
    await trio.sleep(1)


@tt.batch_handler(max_size=5)
async def in_batches(ticks: list[tt.Tick]) -> None:
    await trio.sleep(5)


@pytest.mark.parametrize("handler", [one_by_one, in_batches])
@pytest.mark.parametrize("workers", [1, tt.AutoWorkers(1, 1)], ids=["fixed", "auto"])
async def test_times_are_on_the_injected_clock(
    handler: Any, workers: Any, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocked = functools.partial(Pipeline, clock=Clock(now=ahead))
    monkeypatch.setattr(halves, "Pipeline", clocked)
    async with opening.open_pipeline(
        listed(make_ticks(5), then=trio.sleep_forever), handler, workers=workers
    ) as pipeline:
        await trio.sleep(10)
        numbers = pipeline.worker_statistics()
        handled = pipeline.report.handler_latency_ms
    assert numbers.life_s == pytest.approx(5.0)
    assert numbers.busy_s == pytest.approx(2.5)
    assert handled.p99 == pytest.approx(500 if handler is one_by_one else 2500, rel=0.05)
