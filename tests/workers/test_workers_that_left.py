"""What workers did that are gone still counts, and nothing is left behind by them."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks, number
from tests.worlds.pipeline_world import ScriptFeed, Send
from tests.worlds.pool_world import open_with_pool


async def test_retries_of_workers_that_left_are_counted(autojump_clock: MockClock) -> None:
    tries: Counter[int] = Counter()

    async def handler(tick: tt.Tick) -> None:
        tries[number(tick)] += 1
        await trio.sleep(0.1)
        if tries[number(tick)] == 1:
            raise TimeoutError

    async def script(send: Send) -> None:
        await send.send_many(make_ticks(8, symbols=[*"ABCDEFGH"]))
        await trio.sleep(5)
        pool.shrink(7)
        await trio.sleep(1)

    retry = tt.Retry(TimeoutError, initial_s=0)
    feed = ScriptFeed(script)
    async with open_with_pool(feed, handler, workers=8, retry=retry) as (pipeline, pool):
        await pipeline.wait()
    assert pipeline.report.handler_retries == 8


SECONDS = {"A": 0.02, "B": 0.02, "C": 0.2}


async def takes_its_time(tick: tt.Tick) -> None:
    await trio.sleep(SECONDS[tick.symbol])


def takes_its_time_in_a_thread(tick: tt.Tick) -> None:
    time.sleep(SECONDS[tick.symbol])


@pytest.mark.parametrize("handler", [takes_its_time, takes_its_time_in_a_thread])
async def test_a_worker_that_is_to_leave_takes_what_nobody_else_would(
    handler: Any,
) -> None:
    """At the end of the feed all others end: what is left waits behind its tick."""
    ticks = [make_tick(symbol, n) for n, symbol in enumerate("ABCCC")]
    async with tt.open_pipeline(tt.IterableFeed(ticks), handler, workers=3) as pipeline:
        with trio.fail_after(20):
            while pipeline.ledger.in_flight < 3:  # noqa: ASYNC110 - the ledger has no event
                await trio.sleep(0.001)
        pipeline.resize(workers=2)
        await pipeline.wait()
    assert (pipeline.ledger.consumed, pipeline.ledger.dropped) == (5, 0)
