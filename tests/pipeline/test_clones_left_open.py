"""A feed that has returned ends the pipeline, whatever handles it has left open."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.channel_helpers import within
from tests.worlds.helpers import make_tick, make_ticks, numbers
from tests.worlds.pipeline_world import Recorder, ScriptFeed, Send, assert_accounted
from trio_ticks import open_pipeline, run_pipeline


class Leaky:
    """A feed that sends five ticks by clones, and leaves the clones open."""

    def __init__(self, clones: int = 2, *, then_waits: bool = False) -> None:
        self.handles: list[Send] = []
        self._clones = clones
        self._then_waits = then_waits

    async def run(self, send: Send) -> None:
        self.handles += [send.clone() for _ in range(self._clones)]
        for tick in make_ticks(5):
            await self.handles[0].send(tick)
        if self._then_waits:
            await trio.sleep_forever()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith("feed.left_open")]


@within(100)
async def test_a_run_ends_when_the_feed_has_returned(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    feed, handler = Leaky(2), Recorder(seconds=1.0)
    report = await run_pipeline(feed, handler, workers=1, signals=False)
    assert trio.current_time() == 5
    assert numbers(handler.ticks) == [0, 1, 2, 3, 4]
    assert_accounted(report, produced=5, consumed=5)
    assert warnings(caplog) == [
        "feed.left_open: Leaky has ended with clones of its send handle open (2); they are closed"
    ]
    for handle in feed.handles:
        with pytest.raises(trio.ClosedResourceError):
            handle.deliver([make_tick("A", 5)])


@pytest.mark.parametrize("then_waits", [False, True], ids=["returned", "cancelled"])
@within(100)
async def test_leaving_a_drained_block_takes_no_time(
    then_waits: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    feed = Leaky(then_waits=then_waits)
    async with open_pipeline(feed, Recorder(), shutdown_timeout=50) as pipeline:
        await trio.sleep(1)
    assert trio.current_time() == 1
    assert_accounted(pipeline.report, produced=5, consumed=5)
    assert len(warnings(caplog)) == 1


@within(100)
async def test_a_task_that_waits_by_a_clone_is_told_and_its_tick_is_counted(
    autojump_clock: MockClock,
) -> None:
    told: list[str] = []

    async def wait(handle: Send) -> None:
        try:
            await handle.send_many(make_ticks(4, first=5))
        except trio.ClosedResourceError:
            told.append("closed")

    async with trio.open_nursery() as outer:

        async def script(send: Send) -> None:
            outer.start_soon(wait, send.clone())
            await trio.sleep(0.5)

        report = await run_pipeline(
            ScriptFeed(script),
            Recorder(seconds=1.0),
            workers=1,
            maxsize=2,
            overflow=tt.Block(),
            signals=False,
        )
    assert told == ["closed"]
    assert_accounted(report, produced=4, consumed=3, shutdown=1)
