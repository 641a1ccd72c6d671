"""Several tasks that wait for what one send handle has delivered."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.channel_helpers import Ends, dropped, within
from tests.worlds.helpers import make_tick, make_ticks, numbers
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted

policies = pytest.mark.parametrize(
    "overflow", [tt.Block(), tt.DropNewest(1000), {tt.Tick: tt.Block()}], ids=repr
)


@policies
@within(100)
async def test_tasks_that_deliver_through_one_handle_all_wake_in_turn(
    overflow: Any, autojump_clock: MockClock
) -> None:
    ends: Ends = tt.open_tick_channel(1, overflow)
    send, receive = ends
    ended: list[int] = []

    async def bring(first: int) -> None:
        left = send.deliver(make_ticks(2, first=first))
        assert left is not None
        await left
        ended.append(first)

    async with trio.open_nursery() as nursery:
        for first in (0, 2, 4, 6):
            nursery.start_soon(bring, first)
            await wait_all_tasks_blocked()
        got = [numbers([await receive.receive()])[0] for _ in range(8)]
    assert got == [*range(8)]
    assert sorted(ended) == [0, 2, 4, 6]
    assert dropped(send) == {}


@policies
@pytest.mark.parametrize("cancelled", [0, 1, 2])
@within(100)
async def test_tasks_that_await_one_result_all_wake_though_one_is_cancelled(
    overflow: Any, cancelled: int, autojump_clock: MockClock
) -> None:
    ends: Ends = tt.open_tick_channel(1, overflow)
    send, receive = ends
    left = send.deliver(make_ticks(3))
    assert left is not None
    scopes = [trio.CancelScope() for _ in range(3)]
    ended: list[int] = []

    async def wait(index: int) -> None:
        with scopes[index]:
            await left
            ended.append(index)

    async with trio.open_nursery() as nursery:
        for index in range(3):
            nursery.start_soon(wait, index)
        await wait_all_tasks_blocked()
        assert send.statistics().tasks_waiting_send == 3
        scopes[cancelled].cancel()
        await wait_all_tasks_blocked()
        assert send.statistics().tasks_waiting_send == 2
        for _ in range(3):
            await receive.receive()
    assert sorted(ended) == sorted({0, 1, 2} - {cancelled})
    assert dropped(send) == {}


@within(100)
async def test_a_verdict_ends_the_wait_of_all_tasks(autojump_clock: MockClock) -> None:
    ends: Ends = tt.open_tick_channel(1, tt.DropNewest(5))
    send, receive = ends
    left = send.deliver(make_ticks(3))
    assert left is not None

    async def wait() -> None:
        await left

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
    assert trio.current_time() == 5
    assert dropped(send) == {"overflow": 2}
    assert len(receive) == 1


@pytest.mark.parametrize("end", ["sender", "receiver"])
@within(100)
async def test_closing_an_end_wakes_all_tasks(end: str, autojump_clock: MockClock) -> None:
    ends: Ends = tt.open_tick_channel(1, tt.Block())
    send, receive = ends
    first = send.deliver(make_ticks(3))
    turns = [send.deliver([make_tick("A", number)]) for number in (3, 4)]
    raised: list[type[Exception]] = []

    async def wait(left: Any) -> None:
        try:
            await left
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raised.append(type(error))

    async with trio.open_nursery() as nursery:
        for left in (first, first, *turns):
            nursery.start_soon(wait, left)
        await wait_all_tasks_blocked()
        send.close() if end == "sender" else receive.close()
    error = trio.ClosedResourceError if end == "sender" else trio.BrokenResourceError
    assert raised == [error] * 4
    if end == "sender":
        with pytest.raises(trio.ClosedResourceError):
            await first  # type: ignore[misc]  # it had something to await
        assert dropped(send) == {"shutdown": 2}
    else:
        assert dropped(send) == {"shutdown": 5}


@pytest.mark.parametrize("cancel", [False, True])
@within(100)
async def test_ticks_whose_turn_was_awaited_are_never_brought_again(
    cancel: bool, autojump_clock: MockClock
) -> None:
    ends: Ends = tt.open_tick_channel(1, tt.Block())
    send, receive = ends
    assert send.deliver(make_ticks(2)) is not None
    turn = send.deliver([make_tick("A", 2)])
    assert turn is not None
    if not cancel:
        await receive.receive()
        await receive.receive()
    with trio.move_on_after(1):
        await turn
    with pytest.raises(RuntimeError, match="awaited already"):
        await turn
    assert send.ledger.produced == 3
    assert dropped(send) == ({"shutdown": 1} if cancel else {})


@within(100)
async def test_under_fail_a_graceful_shutdown_raises_only_what_cannot_wait(
    autojump_clock: MockClock,
) -> None:
    handled: list[tt.Tick] = []
    raised: list[str] = []

    async def script(send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await send.send_many(make_ticks(5))
                try:
                    for number in (5, 6, 7):
                        send.send_nowait(make_tick("A", number))
                except tt.QueueFullError:
                    raised.append("full")

    async def handle(tick: tt.Tick) -> None:
        handled.append(tick)
        await trio.sleep(0.1)

    async with tt.open_pipeline(
        ScriptFeed(script), handle, workers=1, maxsize=2, overflow=tt.Fail()
    ) as pipeline:
        await trio.sleep(1)
    assert numbers(handled) == [0, 1, 2, 3, 4]
    assert raised == ["full"]
    assert_accounted(pipeline.report, produced=6, consumed=5, overflow=1)


async def test_what_is_left_of_a_delivery_has_its_own_patience(autojump_clock: MockClock) -> None:
    """A trade waits for ever, the tick behind it does not; the trade is taken away."""
    ends: tuple[Any, Any] = tt.open_tick_channel(
        1, {tt.Trade: tt.Block(), tt.Tick: tt.DropNewest(1.0)}
    )
    send, receive = ends
    trade = tt.Trade("T", make_tick("A", 0).timestamp, 1.0, 1.0)
    await send.send(make_tick("A", 0))
    state = receive.state
    delivery = state.offer([trade, make_tick("A", 1)], send, kept=True)
    assert delivery is not None
    assert state.give_back({"T"}) == 1
    await trio.sleep(0.9)
    state.deliveries.advance(trio.current_time())
    assert delivery.waits
    await trio.sleep(0.2)
    state.deliveries.advance(trio.current_time())
    assert not delivery.waits
    assert dropped(receive) == {"overflow": 1}
