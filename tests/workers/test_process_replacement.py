"""Processes that were of use are replaced at once; only those that never are wait."""

from __future__ import annotations

import os

import pytest

import trio_ticks as tt
from tests.worlds.helpers import make_ticks, number
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted
from tests.worlds.process_world import guarded, quick_main, until

__all__ = ["guarded", "quick_main"]


def ends_at_odd_numbers(tick: tt.Tick) -> None:
    """End the process at each odd number from 200 on."""
    if number(tick) >= 200 and number(tick) % 2:
        os._exit(3)


async def test_processes_that_were_of_use_are_replaced_without_a_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trio_ticks.workers.processes.parent._BACKOFF_S", (1000.0, 1000.0))

    async def script(send: Send) -> None:
        await send.send_many(make_ticks(200))
        await until(lambda: not (pipeline.ledger.queued or pipeline.ledger.in_flight))
        await send.send_many(make_ticks(8, first=200))

    async with tt.open_pipeline(
        ScriptFeed(script), ends_at_odd_numbers, workers=1, executor="process"
    ) as pipeline:
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=204, failed=4)
