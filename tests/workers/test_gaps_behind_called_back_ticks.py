"""Ticks that are called back from a thread are before all that lies behind its batch.

So a gap behind them is not to be told before them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.gap_handlers import PATIENCE_S, SlowAt, all_handled
from tests.worlds.helpers import EPOCH, make_ticks
from tests.worlds.pipeline_world import ScriptFeed, Send


async def told(
    clock: MockClock, behind: Callable[[Send], None], then: Callable[[Send], None], **settings: Any
) -> tuple[list[Any], tt.PipelineReport]:
    """Return what was handled and told, in order.

    A thread has 7, 8 and 9 in a batch and is slow at 7; *behind* says what comes behind
    them at once, *then* what comes while 7 is handled. Then 8 and 9 are called back.
    """
    handler = SlowAt(7)

    async def script(send: Send) -> None:
        # At a clock that stands still, batches double: of one, of two, of four.
        for first, last in ((0, 1), (1, 3), (3, 7)):
            assert send.deliver(make_ticks(last - first, first=first)) is None
            await all_handled(pipeline)
        assert send.deliver(make_ticks(3, first=7)) is None
        behind(send)
        assert await trio.to_thread.run_sync(handler.entered.wait, PATIENCE_S)
        then(send)
        for _ in range(4):
            await wait_all_tasks_blocked()
            clock.jump(0.1)
        await wait_all_tasks_blocked()
        assert pipeline.ledger.in_flight == 1, "nothing was called back"
        handler.opened.set()
        await all_handled(pipeline)

    async with tt.open_pipeline(
        ScriptFeed(script), handler, workers=1, executor="thread", on_gap=handler.on_gap, **settings
    ) as pipeline:
        await pipeline.wait()
    assert handler.log[:7] == list(range(7))
    return handler.log[7:], pipeline.report


def nothing(send: Send) -> None:
    """Send nothing."""


async def test_called_back_ticks_keep_their_order(mock_clock: MockClock) -> None:
    def behind(send: Send) -> None:
        assert send.deliver(make_ticks(3, first=10)) is None

    log, _ = await told(mock_clock, behind, nothing)
    assert log == [7, 8, 9, 10, 11, 12]


async def test_a_gap_that_comes_while_they_are_in_the_batch_is_told_behind_them(
    mock_clock: MockClock,
) -> None:
    def then(send: Send) -> None:
        send.mark_gap(tt.Gap("A", EPOCH, "sequence", 5, EPOCH))
        assert send.deliver(make_ticks(3, first=10)) is None

    log, _ = await told(mock_clock, nothing, then)
    assert log == [7, 8, 9, ("sequence", 5), 10, 11, 12]


async def test_a_gap_that_their_batch_ended_at_is_told_behind_them(mock_clock: MockClock) -> None:
    def behind(send: Send) -> None:
        send.mark_gap(tt.Gap("A", EPOCH, "sequence", 5, EPOCH))
        assert send.deliver(make_ticks(3, first=10)) is None

    log, _ = await told(mock_clock, behind, nothing)
    assert log == [7, 8, 9, ("sequence", 5), 10, 11, 12]


async def test_an_eviction_behind_their_batch_is_told_behind_them(mock_clock: MockClock) -> None:
    """There is room for 8 and 9, which may come back, and for two more: 10 must go."""

    def then(send: Send) -> None:
        assert send.deliver(make_ticks(2, first=10)) is None
        assert send.deliver(make_ticks(1, first=12)) is None

    log, report = await told(mock_clock, nothing, then, maxsize=4, overflow=tt.DropOldest())
    assert report.dropped_by_reason["evicted"] == 1
    assert log == [7, 8, 9, ("evicted", 1), 11, 12]
