"""In threads, too, only failures in a row set a symbol aside."""

from __future__ import annotations

import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_tick, number
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted


async def test_in_threads_successes_between_failures_count_too(mock_clock: MockClock) -> None:
    def handler(tick: tt.Tick) -> None:
        if number(tick) % 3:
            raise ArithmeticError  # two in a row, then a success

    async def script(send: Send) -> None:
        for n in range(12):
            await send.send(make_tick("A", n))
            while pipeline.ledger.queued or pipeline.ledger.in_flight:
                await trio.lowlevel.checkpoint()

    breaker = tt.Breaker(3, 3600.0)
    async with tt.open_pipeline(ScriptFeed(script), handler, breaker=breaker) as pipeline:
        await pipeline.wait()
    assert_accounted(pipeline.report, held=0, consumed=4, failed=8)
