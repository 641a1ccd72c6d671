"""What workers did that are gone still counts."""

from __future__ import annotations

from collections import Counter

import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks, number
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
