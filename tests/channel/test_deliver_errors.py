"""What ``deliver`` raises, and what has become of each tick then.

Only a closed handle raises at once. A full channel and one without receivers raise when
the rest is awaited; until then the rest belongs to the sender.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.channel_helpers import Ends, dropped
from tests.worlds.helpers import make_tick, make_ticks, number, numbers
from tests.worlds.pipeline_world import Gate, ScriptFeed, Send, assert_accounted
from trio_ticks.ledger import DropReason
from trio_ticks.overflow import OverflowStrategy

full_by_fail = pytest.mark.parametrize(
    "overflow", [tt.Fail(), {tt.Tick: tt.Fail()}], ids=["fifo", "keyed"]
)


class ByTick:
    """The ticks that were delivered, and why others were dropped, by their numbers."""

    def __init__(self, receive: tt.TickReceiveChannel[tt.Tick]) -> None:
        self.brought: list[int] = []
        self.dropped: dict[int, DropReason] = {}
        receive.state.drops.item_listeners += (self.record,)

    def record(self, items: Any, reason: DropReason | None) -> None:
        if reason is None:
            self.brought += numbers(items)
        else:
            self.dropped |= {number(item): reason for item in items}


async def raises(error: type[Exception], left: Awaitable[None]) -> None:
    with pytest.raises(error):
        await left


@full_by_fail
async def test_under_fail_what_found_no_room_is_dropped_and_the_rest_is_in_order(
    overflow: Any,
) -> None:
    ends: Ends = tt.open_tick_channel(4, overflow)
    send, receive = ends
    fate = ByTick(receive)
    with pytest.raises(tt.QueueFullError) as caught:
        send.deliver(make_ticks(6))
    assert caught.value.maxsize == 4
    assert (send.ledger.produced, dropped(send)) == (6, {"overflow": 2})
    assert fate.dropped == {4: "overflow", 5: "overflow"}
    assert fate.brought == [0, 1, 2, 3, 4, 5]
    assert numbers(await receive.receive_many()) == [0, 1, 2, 3]
    assert send.deliver([make_tick("A", 6)]) is None
    assert numbers(await receive.receive_many()) == [6]
    assert dropped(send) == {"overflow": 2}


@full_by_fail
async def test_under_fail_a_full_channel_takes_nothing_and_keeps_what_it_has(
    overflow: Any,
) -> None:
    ends: Ends = tt.open_tick_channel(2, overflow)
    send, receive = ends
    fate = ByTick(receive)
    assert send.deliver(make_ticks(2)) is None
    with pytest.raises(tt.QueueFullError):
        send.deliver(make_ticks(2, first=2))
    assert fate.dropped == {2: "overflow", 3: "overflow"}
    assert numbers(await receive.receive_many()) == [0, 1]
    assert (send.ledger.produced, send.ledger.dropped) == (4, 2)


@full_by_fail
@pytest.mark.parametrize("call", ["send", "send_many", "send_nowait"])
async def test_under_fail_every_way_to_send_raises_at_once(overflow: Any, call: str) -> None:
    ends: Ends = tt.open_tick_channel(2, overflow)
    send, receive = ends
    fate = ByTick(receive)
    assert send.deliver(make_ticks(2)) is None

    async def bring(tick: tt.Tick) -> None:
        if call == "send_nowait":
            send.send_nowait(tick)
        elif call == "send":
            await send.send(tick)
        else:
            await send.send_many([tick])

    with pytest.raises(tt.QueueFullError):
        await bring(make_tick("A", 2))
    assert fate.dropped == {2: "overflow"}
    assert (send.ledger.produced, dropped(send)) == (3, {"overflow": 1})


@full_by_fail
async def test_under_fail_the_loss_is_told_before_the_next_tick_of_its_symbol(
    overflow: Any,
) -> None:
    handler, gaps = Gate(), list[tt.Gap]()
    ticks = make_ticks(6)

    async def script(send: Send) -> None:
        await send.send(ticks[0])
        await wait_all_tasks_blocked()
        with pytest.raises(tt.QueueFullError):
            send.deliver(ticks[1:5])
        handler.opened.set()
        await wait_all_tasks_blocked()
        assert send.deliver(ticks[5:]) is None

    report = await tt.run_pipeline(
        ScriptFeed(script), handler, workers=1, maxsize=2, overflow=overflow, on_gap=gaps.append
    )
    assert numbers(handler.entered) == [0, 1, 2, 5]
    (gap,) = gaps
    assert (gap.reason, gap.count) == ("overflow", 2)
    assert (gap.first_timestamp, gap.timestamp) == (ticks[3].timestamp, ticks[4].timestamp)
    assert_accounted(report, produced=6, consumed=4, overflow=2)


async def test_an_error_under_fail_that_the_feed_lets_go_ends_the_pipeline_and_all_is_counted() -> (
    None
):
    handler = Gate()

    async def script(send: Send) -> None:
        await send.send(make_tick("A", 0))
        await wait_all_tasks_blocked()
        send.deliver(make_ticks(4, first=1))

    with pytest.raises(tt.QueueFullError):
        async with tt.open_pipeline(
            ScriptFeed(script), handler, workers=1, maxsize=2, overflow=tt.Fail()
        ) as pipeline:
            await pipeline.wait()
    assert_accounted(pipeline.report, produced=5, consumed=0, overflow=2, shutdown=3)


@pytest.mark.parametrize("others", [0, 1], ids=["the last", "a clone is open"])
async def test_a_closed_handle_leaves_its_ticks_with_the_caller(others: int) -> None:
    ends: Ends = tt.open_tick_channel(4)
    send, receive = ends
    fate = ByTick(receive)
    clones = [send.clone() for _ in range(others)]
    assert send.deliver(make_ticks(2)) is None
    send.close()
    with pytest.raises(trio.ClosedResourceError):
        send.deliver(make_ticks(2, first=2))
    assert fate.brought == [0, 1]
    assert (send.ledger.produced, len(receive), dropped(send)) == (2, 2, {})
    for clone in clones:
        assert clone.deliver(make_ticks(2, first=4)) is None
    expected = [0, 1, 4, 5] if others else [0, 1]
    assert numbers(await receive.receive_many()) == expected


async def test_without_a_receiver_all_is_dropped_at_shutdown_at_once() -> None:
    ends: Ends = tt.open_tick_channel(4)
    send, receive = ends
    fate = ByTick(receive)
    assert send.deliver(make_ticks(2)) is None
    receive.close()
    assert fate.dropped == {0: "shutdown", 1: "shutdown"}
    with pytest.raises(trio.BrokenResourceError):
        send.deliver(make_ticks(3, first=2))
    assert fate.dropped == dict.fromkeys(range(5), "shutdown")
    assert (send.ledger.produced, len(receive), dropped(send)) == (5, 0, {"shutdown": 5})


@pytest.mark.parametrize("overflow", [tt.Block(), tt.DropNewest(1000)], ids=repr)
async def test_a_receiver_that_leaves_before_the_rest_is_awaited_breaks_it(
    overflow: OverflowStrategy,
) -> None:
    """Ticks let in are dropped, and so is the rest once awaited: each tick once."""
    ends: Ends = tt.open_tick_channel(2, overflow)
    send, receive = ends
    fate = ByTick(receive)
    left = send.deliver(make_ticks(5))
    assert left is not None
    receive.close()
    with pytest.raises(trio.BrokenResourceError):
        await left
    assert fate.dropped == dict.fromkeys(range(5), "shutdown")
    assert (send.ledger.produced, dropped(send)) == (5, {"shutdown": 5})


async def test_a_receiver_that_leaves_while_the_rest_waits_breaks_it() -> None:
    ends: Ends = tt.open_tick_channel(2, tt.Block())
    send, receive = ends
    fate = ByTick(receive)
    got: list[tt.Tick] = []
    left = send.deliver(make_ticks(5))
    assert left is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises, trio.BrokenResourceError, left)
        await wait_all_tasks_blocked()
        got += await receive.receive_many(1)
        await wait_all_tasks_blocked()
        receive.close()
    assert numbers(got) == [0]
    assert fate.dropped == dict.fromkeys(range(1, 5), "shutdown")
    assert (send.ledger.produced, dropped(send)) == (5, {"shutdown": 4})


async def test_a_handle_that_is_closed_leaves_what_it_delivered_to_the_channel() -> None:
    ends: Ends = tt.open_tick_channel(2, tt.Block())
    send, receive = ends
    fate = ByTick(receive)
    left = send.deliver(make_ticks(4))
    assert left is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises, trio.ClosedResourceError, left)
        await wait_all_tasks_blocked()
        send.close()
    assert [number(tick) async for tick in receive] == [0, 1, 2, 3]
    assert fate.dropped == {}
    assert (send.ledger.produced, dropped(send)) == (4, {})


WAITING = pytest.mark.parametrize(
    "overflow",
    [
        tt.Block(),
        tt.Block(1000),
        tt.DropNewest(1000),
        tt.DropNewest(1000, max_per_symbol=100),
        {tt.Tick: tt.Block()},
        {tt.Tick: tt.Conflate(), tt.Trade: tt.Block()},
    ],
    ids=repr,
)


@WAITING
async def test_a_delivery_whose_result_is_forgotten_enters_as_room_comes(overflow: Any) -> None:
    ends: Ends = tt.open_tick_channel(2, overflow)
    send, receive = ends
    ticks = make_ticks(7, "ABCDEFG")
    assert send.deliver(ticks) is not None  # and nobody keeps it
    gc.collect()
    assert (len(receive), send.ledger.produced, send.ledger.queued) == (2, 7, 7)
    send.ledger.check()
    send.close()
    assert [tick async for tick in receive] == ticks
    assert dropped(send) == {}


@WAITING
async def test_a_second_delivery_takes_nothing_before_the_first_is_in(
    overflow: Any, autojump_clock: MockClock
) -> None:
    ends: Ends = tt.open_tick_channel(2, overflow)
    send, receive = ends
    ticks = make_ticks(9, "ABCDEFGHI")
    first, second = send.deliver(ticks[:5]), send.deliver(ticks[5:])
    assert first is not None
    assert second is not None
    assert send.ledger.produced == 5  # the rest is bounded: one delivery a sender

    async def wait() -> None:
        await second
        send.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        assert [tick async for tick in receive] == ticks
    assert dropped(send) == {}


async def test_a_second_delivery_that_is_thrown_away_is_counted() -> None:
    ends: Ends = tt.open_tick_channel(2, tt.Block())
    send, receive = ends
    fate = ByTick(receive)
    assert send.deliver(make_ticks(4)) is not None
    assert send.deliver(make_ticks(3, first=4)) is not None
    gc.collect()
    assert fate.dropped == dict.fromkeys([4, 5, 6], "shutdown")
    send.close()
    assert [number(tick) async for tick in receive] == [0, 1, 2, 3]
    assert (send.ledger.produced, dropped(send)) == (7, {"shutdown": 3})


async def test_a_second_delivery_that_is_cancelled_is_counted(autojump_clock: MockClock) -> None:
    ends: Ends = tt.open_tick_channel(2, tt.Block())
    send, receive = ends
    fate = ByTick(receive)
    assert send.deliver(make_ticks(4)) is not None
    second = send.deliver(make_ticks(3, first=4))
    assert second is not None
    with trio.move_on_after(1):
        await second
    assert fate.dropped == dict.fromkeys([4, 5, 6], "shutdown")
    send.close()
    assert [number(tick) async for tick in receive] == [0, 1, 2, 3]
