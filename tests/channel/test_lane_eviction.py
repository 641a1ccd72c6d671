"""What waits in a lane counts with the buffer, and is evicted before it."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.channel_helpers import Ends
from tests.worlds.helpers import make_tick, make_ticks, numbers
from tests.worlds.pipeline_world import Gate, ScriptFeed, Send, assert_accounted


async def one_by_one(send: Send, ticks: list[tt.Tick]) -> None:
    """Send *ticks* so that each is handled, or in its lane, before the next comes."""
    for tick in ticks:
        await send.send(tick)
        await wait_all_tasks_blocked()


async def test_a_cap_counts_lane_and_buffer_together(autojump_clock: MockClock) -> None:
    handler = Gate()

    async def script(send: Send) -> None:
        await one_by_one(send, make_ticks(3))
        # Two are parked: one more finds room under the cap of three.
        await send.send_many(make_ticks(3, first=3))
        handler.opened.set()

    overflow = tt.DropNewest(0, max_per_symbol=3)
    report = await tt.run_pipeline(ScriptFeed(script), handler, workers=2, overflow=overflow)
    assert numbers(handler.entered) == [0, 1, 2, 3]
    assert_accounted(report, consumed=4, overflow=2)


async def test_drop_oldest_evicts_the_lane_before_the_buffer(autojump_clock: MockClock) -> None:
    handler = Gate()

    async def script(send: Send) -> None:
        await one_by_one(send, make_ticks(3))
        assert send.deliver(make_ticks(2, first=3)) is None
        assert send.deliver(make_ticks(1, first=5)) is None
        handler.opened.set()

    report = await tt.run_pipeline(
        ScriptFeed(script), handler, workers=2, maxsize=4, overflow=tt.DropOldest()
    )
    assert numbers(handler.entered) == [0, 2, 3, 4, 5]
    assert_accounted(report, consumed=5, evicted=1)


async def test_a_lane_that_becomes_ready_asks_for_attention() -> None:
    ends: Ends = tt.open_tick_channel(10)
    _send, receive = ends
    state = receive.state
    state.lanes.lines["A"] = None
    state.lanes.park("A", make_tick("A", 1), 0.0)
    assert not state.losses.attention
    state.losses.release("A")
    assert state.losses.attention


async def test_a_symbol_without_a_lane_that_is_released_asks_for_nothing() -> None:
    ends: Ends = tt.open_tick_channel(10)
    _send, receive = ends
    state = receive.state
    state.lanes.lines["A"] = None
    state.losses.release("A")
    assert not state.losses.attention
    assert "A" not in state.lanes.lines


async def test_a_parked_tick_that_was_conflated_is_as_fresh_as_the_newer_one(
    autojump_clock: MockClock,
) -> None:
    seen: list[tt.Tick] = []

    async def handler(tick: tt.Tick) -> None:
        seen.append(tick)
        await trio.sleep(1.2)

    async def script(send: Send) -> None:
        await send.send(make_tick("A", 0))
        await trio.sleep(0.1)
        await send.send(make_tick("A", 1))  # parked by the second worker
        await trio.sleep(0.9)
        await send.send(make_tick("A", 2))  # takes its place; its turn comes 0.2 s later

    report = await tt.run_pipeline(
        ScriptFeed(script), handler, workers=2, overflow=tt.Conflate(), max_age=0.5
    )
    assert numbers(seen) == [0, 2]
    assert_accounted(report, stale=0, conflated=1)
