"""The channel, one documented behaviour at a time.

What must hold under any schedule is in ``test_channel_laws.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.worlds.channel_helpers import Ends, dropped, in_background
from tests.worlds.helpers import make_tick, make_ticks, numbers
from trio_ticks.channel.ends import TickReceiveChannel, open_tick_channel
from trio_ticks.overflow import Block, DropNewest, OverflowStrategy
from trio_ticks.ticks import Tick

# Sending and receiving


async def test_ticks_come_out_as_they_went_in() -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    async with send, receive:
        sent = make_ticks(5, symbols="AB")
        await send.send(sent[0])
        await send.send_many(sent[1:])
        assert len(send) == len(receive) == 5
        assert await receive.receive() is sent[0]
        assert await receive.receive_many(2) == sent[1:3]
        assert await receive.receive_many() == sent[3:]
        assert dropped(send) == {}
        assert send.ledger is receive.ledger
        assert (send.ledger.produced, send.ledger.delivered, send.ledger.queued) == (5, 5, 0)


async def test_any_iterable_can_be_sent_and_an_empty_one_changes_nothing() -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    await send.send_many(tick for tick in make_ticks(3))
    await send.send_many(())
    await send.send_many(iter([]))
    assert numbers(await receive.receive_many()) == [0, 1, 2]
    assert send.ledger.produced == 3


async def test_an_iterable_that_raises_sends_nothing() -> None:
    def breaks() -> Iterator[Tick]:
        yield make_tick()
        raise RuntimeError("no more")

    ends: Ends = open_tick_channel(10)
    send, receive = ends
    with pytest.raises(RuntimeError, match="no more"):
        await send.send_many(breaks())
    assert len(receive) == send.ledger.produced == 0


@pytest.mark.parametrize("max_", [0, -1])
async def test_receiving_less_than_one_is_refused(max_: int) -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    await send.send(make_tick())
    with pytest.raises(ValueError, match="max must be at least 1"):
        await receive.receive_many(max_)
    assert len(receive) == 1


async def test_a_receiver_that_waits_gets_what_comes() -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    async with in_background(receive.receive_many) as ended:
        await send.send_many(make_ticks(3))
        await wait_all_tasks_blocked()
        assert [numbers(batch) for batch in ended] == [[0, 1, 2]]  # type: ignore[arg-type]  # they are batches


async def test_every_call_is_a_checkpoint() -> None:
    ends: Ends = open_tick_channel(2, DropNewest(0))
    send, receive = ends
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: send.send(make_tick()),
        lambda: send.send_many([]),
        lambda: send.send_many(make_ticks(5)),
        receive.receive,
        receive.receive_many,
        receive.aclose,
        send.aclose,
    ]
    for call in calls:
        with assert_checkpoints():
            await call()
    ends = open_tick_channel()
    for end in ends:
        with assert_checkpoints():
            await end.__aexit__(None, None, None)


class Steps(trio.abc.Instrument):
    """Counts how often the current task has yielded."""

    def __init__(self) -> None:
        self.count = 0
        self._task = trio.lowlevel.current_task()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self._task


async def test_a_batch_costs_one_checkpoint() -> None:
    ends: Ends = open_tick_channel(1000)
    send, receive = ends
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    await send.send_many(make_ticks(1000))
    assert steps.count == 1
    assert len(await receive.receive_many()) == 1000
    assert steps.count == 2
    trio.lowlevel.remove_instrument(steps)


# Cancellation


async def test_delivering_is_done_at_once_where_there_is_room(autojump_clock: MockClock) -> None:
    """And is all that sending is where there is none."""
    ends: Ends = open_tick_channel(4, overflow=Block())
    send, receive = ends
    assert send.deliver(make_ticks(3)) is None
    rest = send.deliver(make_ticks(3, first=3))
    assert rest is not None
    with trio.move_on_after(1) as scope:
        await rest
    assert scope.cancelled_caught
    assert (len(receive), send.ledger.queued) == (4, 6)
    assert numbers(await receive.receive_many()) == [0, 1, 2, 3]
    # To be cancelled takes nothing back: the rest belongs to the channel.
    assert numbers(await receive.receive_many()) == [4, 5]
    assert dropped(send) == {}
    send.close()
    with pytest.raises(trio.ClosedResourceError):
        send.deliver(make_ticks(1))
    assert send.ledger.produced == 6


async def test_the_rest_of_a_delivery_finds_room_that_was_made_before_anybody_waited(
    autojump_clock: MockClock,
) -> None:
    """The receiver that waits for a delivery need not be the one that began it.

    By the time it runs all may be taken, with no receiver left to wake a sender.
    """
    ends: Ends = open_tick_channel(2, overflow=Block())
    send, receive = ends
    rest = send.deliver(make_ticks(4))
    assert rest is not None
    assert numbers(await receive.receive_many()) == [0, 1]
    with trio.fail_after(20):
        await rest
    assert numbers(await receive.receive_many()) == [2, 3]
    assert send.ledger.unaccounted == 0


async def test_after_many_ticks_others_run_before_there_are_more(autojump_clock: MockClock) -> None:
    ends: Ends = open_tick_channel(600)
    send, receive = ends
    got: list[int] = []

    async def work() -> None:
        got.append(len(await receive.receive_many()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await trio.sleep(1)
        assert send.deliver(make_ticks(256)) is None
        rest = send.deliver(make_ticks(257, first=256))
        assert rest is not None
        assert not got
        await rest
        await trio.lowlevel.checkpoint()
        assert got == [513]
    with trio.CancelScope() as scope:
        scope.cancel()
        rest = send.deliver(make_ticks(257))
        assert rest is not None
        await rest
    assert scope.cancelled_caught
    assert len(receive) == 257  # they were in before
    assert send.ledger.unaccounted == 0


async def test_a_cancelled_receive_takes_nothing() -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    await send.send_many(make_ticks(2))
    for call in (receive.receive, receive.receive_many):
        with trio.CancelScope() as scope:
            scope.cancel()
            await call()
        assert scope.cancelled_caught
    assert len(receive) == 2
    assert receive.ledger.delivered == 0


async def test_a_woken_receive_keeps_its_tick_though_cancelled_in_the_same_step() -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    got: list[Tick] = []
    scope = trio.CancelScope()

    async def take() -> None:
        with scope:
            got.append(await receive.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        send.send_nowait(make_tick(n=7))
        scope.cancel()
    assert numbers(got) == [7]
    assert len(receive) == 0
    receive.ledger.check()


async def test_a_send_that_is_cancelled_before_it_begins_is_counted_and_not_sent() -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    with trio.CancelScope() as scope:
        scope.cancel()
        await send.send_many(make_ticks(3))
    assert scope.cancelled_caught
    assert len(receive) == 0
    assert dropped(send) == {"shutdown": 3}


async def test_a_send_cancelled_while_it_waits_is_counted(autojump_clock: MockClock) -> None:
    ends: Ends = open_tick_channel(2, Block())
    send, receive = ends
    with trio.move_on_after(1) as scope:
        await send.send_many(make_ticks(5))
    assert scope.cancelled_caught
    assert dropped(send) == {"shutdown": 3}
    assert numbers(await receive.receive_many()) == [0, 1]


# Closing and cloning


async def test_receivers_get_what_is_queued_and_then_the_end() -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    async with send:
        await send.send_many(make_ticks(3))
    got = [tick async for tick in receive]
    assert numbers(got) == [0, 1, 2]
    for call in (receive.receive, receive.receive_many):
        with pytest.raises(trio.EndOfChannel):
            await call()


async def test_the_end_comes_with_the_last_clone() -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    clone = send.clone()
    send.close()
    send.close()
    async with in_background(receive.receive) as ended:
        await clone.aclose()
        await wait_all_tasks_blocked()
        assert isinstance(ended[0], trio.EndOfChannel)


@pytest.mark.parametrize("_run", range(25))
async def test_no_receiver_sees_the_end_before_the_last_tick(_run: int) -> None:
    """Some receivers are woken for ticks and others by the end, all in one step.

    trio chooses which of them runs first.
    """
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    got: list[int] = []
    left_at_end: list[int] = []

    async def receive_all(handle: TickReceiveChannel[Tick]) -> None:
        with handle:
            async for tick in handle:
                got.extend(numbers([tick]))
            left_at_end.append(len(handle))

    async with receive, trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(receive_all, receive.clone())
        await wait_all_tasks_blocked()
        # Closed in the very step of the send, before a woken receiver has run.
        assert send.deliver(make_ticks(3)) is None
        send.close()
    assert sorted(got) == [0, 1, 2]
    assert left_at_end == [0] * 6


async def test_a_tick_goes_to_one_clone_only() -> None:
    ends: Ends = open_tick_channel(100)
    send, receive = ends
    got: list[Tick] = []

    async def drain(handle: TickReceiveChannel[Tick]) -> None:
        async with handle:
            got.extend([tick async for tick in handle])

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(drain, receive.clone())
        receive.close()
        async with send:
            for first in range(0, 200, 10):
                await send.send_many(make_ticks(10, first=first))
    assert sorted(numbers(got)) == list(range(200))


async def test_a_closed_handle_refuses_and_its_clones_do_not() -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    other_send, other_receive = send.clone(), receive.clone()
    send.close()
    receive.close()
    for call in (
        lambda: send.send(make_tick()),
        lambda: send.send_many([]),
        receive.receive,
        receive.receive_many,
        receive.wait,
    ):
        with pytest.raises(trio.ClosedResourceError):
            await call()
    for closed in (send, receive):
        with pytest.raises(trio.ClosedResourceError):
            closed.clone()
    assert send.ledger.produced == 0
    await other_send.send(make_tick(n=3))
    assert numbers([await other_receive.receive()]) == [3]


async def test_closing_the_last_receiver_counts_what_is_queued_and_breaks_senders() -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    clone = receive.clone()
    await send.send_many(make_ticks(4))
    receive.close()
    assert dropped(send) == {}
    clone.close()
    assert dropped(send) == {"shutdown": 4}
    assert len(send) == 0
    with pytest.raises(trio.BrokenResourceError):
        await send.send_many(make_ticks(3))
    with pytest.raises(trio.BrokenResourceError):
        await send.send(make_tick())
    assert dropped(send) == {"shutdown": 8}
    assert send.ledger.produced == 8


@pytest.mark.parametrize("overflow", [Block(), DropNewest(100.0)])
async def test_a_sender_that_waits_breaks_when_the_last_receiver_closes(
    overflow: OverflowStrategy,
) -> None:
    ends: Ends = open_tick_channel(2, overflow)
    send, receive = ends
    async with in_background(lambda: send.send_many(make_ticks(5))) as ended:
        receive.close()
        await wait_all_tasks_blocked()
        assert isinstance(ended[0], trio.BrokenResourceError)
    assert dropped(send) == {"shutdown": 5}


async def test_a_sender_that_waits_ends_when_its_handle_is_closed() -> None:
    ends: Ends = open_tick_channel(2, Block())
    send, receive = ends
    other = send.clone()
    async with in_background(lambda: send.send_many(make_ticks(5))) as ended:
        send.close()
        await wait_all_tasks_blocked()
        assert isinstance(ended[0], trio.ClosedResourceError)
    assert dropped(other) == {"shutdown": 3}
    assert numbers(await receive.receive_many()) == [0, 1]


async def test_a_receiver_that_makes_room_for_a_sender_closed_in_the_same_step_gets_its_ticks() -> (
    None
):
    ends: Ends = open_tick_channel(2, Block())
    send, receive = ends
    async with in_background(lambda: send.send_many(make_ticks(5))):
        send.close()
        # The sender sleeps still, as far as the channel can know.
        assert numbers(receive.state.taking.take(10)) == [0, 1]


async def test_a_receiver_that_waits_ends_when_its_handle_is_closed() -> None:
    ends: Ends = open_tick_channel(2)
    send, receive = ends
    other = receive.clone()
    async with in_background(receive.receive) as ended:
        receive.close()
        await wait_all_tasks_blocked()
        assert isinstance(ended[0], trio.ClosedResourceError)
    await send.send(make_tick(n=1))
    assert numbers([await other.receive()]) == [1]


async def test_handles_are_true_however_empty_and_close_as_plain_context_managers() -> None:
    ends: Ends = open_tick_channel(2)
    send, receive = ends
    assert send
    assert receive
    assert send.maxsize == receive.maxsize == 2
    with send, receive:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await send.send(make_tick())
