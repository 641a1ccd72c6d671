"""A tick that becomes too old in the middle of a thread's batch is lost in its place.

What is behind it in the batch waits until the gap is told, a book for a snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.gap_handlers import PATIENCE_S, SlowAt, all_handled
from tests.worlds.helpers import make_book, make_tick
from tests.worlds.pipeline_world import ScriptFeed, Send


async def told(make: Callable[[str, int], Any], clock: MockClock) -> list[Any]:
    """Return what was handled and told, in order, of 7 to 11.

    A thread has 7 to 10 in a batch. It is slow at 7, until 8 is too old; 9 and 10 are
    not, for they came later. The loop is busy, so that nothing is called back.
    """
    handler = SlowAt(7)

    def items(first: int, last: int) -> list[Any]:
        return [make("A", n) for n in range(first, last)]

    async def script(send: Send) -> None:
        # At a clock that stands still, batches double: of one, of two, of four.
        for first, last in ((0, 1), (1, 3), (3, 7)):
            assert send.deliver(items(first, last)) is None
            await all_handled(pipeline)
        assert send.deliver(items(7, 9)) is None
        clock.jump(0.4)
        assert send.deliver(items(9, 11)) is None
        assert await trio.to_thread.run_sync(handler.entered.wait, PATIENCE_S)
        clock.jump(0.2)
        handler.opened.set()
        deadline = time.monotonic() + 2.0
        while handler.log[-1] != 10 and time.monotonic() < deadline:
            time.sleep(0.001)  # noqa: ASYNC251 - the loop is busy, on purpose
        await all_handled(pipeline)
        assert send.deliver(items(11, 12)) is None

    async with tt.open_pipeline(
        ScriptFeed(script),
        handler,
        workers=1,
        executor="thread",
        max_age=0.5,
        on_gap=handler.on_gap,
    ) as pipeline:
        await pipeline.wait()
    assert pipeline.report.dropped_by_reason["stale"] == 1
    return handler.log[7:]


async def test_a_tick_that_becomes_stale_in_a_batch_is_told_before_those_behind_it(
    mock_clock: MockClock,
) -> None:
    assert await told(make_tick, mock_clock) == [7, ("stale", 1), 9, 10, 11]


async def test_a_book_update_that_becomes_stale_in_a_batch_has_those_behind_it_held(
    mock_clock: MockClock,
) -> None:
    assert await told(make_book, mock_clock) == [7]
