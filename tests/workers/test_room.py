"""What waits for room enters as soon as there is room, wherever handlers run.

No handler here ends by itself. A sender that were told of room only when a handler ends
would wait for ever, and :func:`guarded` would end the test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.workers.test_threads import Door, shutting
from tests.worlds.helpers import make_ticks, number
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted, sleepy_feed
from tests.worlds.process_handlers import Tell
from tests.worlds.process_world import guarded, path, quick_main, tick, until
from trio_ticks import open_pipeline

__all__ = ["guarded", "path", "quick_main"]


def one_by_one(ticks: list[tt.Tick], sent: trio.Event) -> ScriptFeed:
    async def script(send: Send) -> None:
        for each in ticks:
            await send.send(each)
        sent.set()
        await trio.sleep_forever()

    return ScriptFeed(script)


async def for_ever(_item: Any) -> None:
    await trio.sleep_forever()


@tt.batch_handler(max_size=4)
async def batches_for_ever(_items: Any) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("ordering", ["symbol", "none"])
@pytest.mark.parametrize("place", ["loop", "loop, batches", "thread", "process"])
async def test_each_worker_begins_a_tick_though_no_handler_ends(
    place: str, ordering: Any, path: Path
) -> None:
    """Two workers begin a tick each, and the third tick has the queue's only place."""
    sent = trio.Event()
    with shutting(Door()) as door:
        handlers: dict[str, Any] = {
            "loop": for_ever,
            "loop, batches": batches_for_ever,
            "thread": door,
            "process": Tell(str(path)),
        }
        async with open_pipeline(
            one_by_one([tick(symbol, bid=14) for symbol in "ABC"], sent),
            handlers[place],
            executor=place.split(",")[0],
            workers=2,
            maxsize=1,
            overflow=tt.Block(),
            ordering=ordering,
        ) as pipeline:
            await sent.wait()
            await until(lambda: pipeline.ledger.in_flight == 2)
            assert pipeline.ledger.queued == 1
            pipeline.cancel()
            await pipeline.wait()
    assert_accounted(pipeline.report, shutdown=3)


@pytest.mark.parametrize("slow", [1, 2, 5, 20, 40])
async def test_room_that_quick_ticks_made_is_given_while_a_slow_one_is_handled(
    slow: int, autojump_clock: MockClock
) -> None:
    """The worker handles quick ticks in a sprint, which the slow one interrupts."""

    async def handler(item: tt.Tick) -> None:
        if number(item) == slow:
            await trio.sleep_forever()

    async with open_pipeline(
        sleepy_feed(make_ticks(60)), handler, workers=1, maxsize=4, overflow=tt.Block()
    ) as pipeline:
        await trio.sleep(1)
        assert pipeline.ledger.consumed == slow
        assert pipeline.statistics().current_buffer_used == 4
        pipeline.cancel()
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=slow, shutdown=60 - slow)


async def test_a_sender_that_comes_during_a_sprint_gets_the_room_of_the_next_tick(
    autojump_clock: MockClock,
) -> None:
    """Nothing waited when the sprint began; its ticks come while a handler waits."""

    async def script(send: Send) -> None:
        await send.send_many(make_ticks(3))
        await trio.sleep(0.5)
        await send.send_many(make_ticks(5, first=3))
        await trio.sleep_forever()

    async def handler(item: tt.Tick) -> None:
        if number(item) in {1, 2}:
            await trio.sleep({1: 1.0, 2: 100.0}[number(item)])

    async with open_pipeline(
        ScriptFeed(script), handler, workers=1, maxsize=4, overflow=tt.Block()
    ) as pipeline:
        await trio.sleep(2)
        assert pipeline.ledger.consumed == 2
        assert pipeline.statistics().current_buffer_used == 4
        pipeline.cancel()
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=2, shutdown=6)


async def test_a_thread_that_has_begun_ticks_of_a_batch_makes_room() -> None:
    """It took several ticks at once; of these the last that it began is slow."""
    with shutting(Door(lambda item: number(item) == 40)) as door:
        async with open_pipeline(
            sleepy_feed(make_ticks(60)),
            door,
            executor="thread",
            workers=1,
            maxsize=6,
            overflow=tt.Block(),
        ) as pipeline:
            await until(lambda: pipeline.statistics().current_buffer_used == 6)
            await until(lambda: len(door.entered) == 41)
            await until(lambda: pipeline.statistics().current_buffer_used == 6)
            pipeline.ledger.check()
            door.opened.set()
            pipeline.shutdown()
            await pipeline.wait()
    assert_accounted(pipeline.report, consumed=60)
