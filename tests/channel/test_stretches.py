"""Stretches: ticks leave and enter a channel with their gaps and their arrivals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_ticks as tt
from trio_ticks.buffer import Stretch
from trio_ticks.channel.fifo import FifoBuffer
from trio_ticks.channel.lanes import Lanes
from trio_ticks.channel.stretches import Bringing, leave_all, take_stretch
from trio_ticks.handlers.breaker import BreakerState

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def tick(symbol: str, number: int) -> tt.Tick:
    return tt.Tick(symbol, NOON, 1.5, 1.6, 1.0, 2.0, float(number))


def gap(symbol: str, count: int) -> tt.Gap:
    return tt.Gap(symbol, NOON, "sequence", count, NOON)


def opened(maxsize: int) -> tuple[tt.TickSendChannel[tt.Tick], tt.TickReceiveChannel[tt.Tick]]:
    return tt.open_tick_channel(maxsize, tt.Block())


class End:
    """A receiver that is told of gaps, as a sink's is."""

    def __init__(self) -> None:
        self.lanes: Lanes[Any] = Lanes()
        self.breaker: BreakerState | None = None
        self.tells_gaps = True
        self.reserved: Callable[[], int] = int

    def anyone_free(self) -> bool:
        return False

    def room_wanted(self) -> None: ...


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=12), st.data())
def test_backdated_ticks_have_their_own_arrivals(
    pushes: list[tuple[int, bool]], data: st.DataObject
) -> None:
    buffer: FifoBuffer[int] = FifoBuffer()
    expected: list[tuple[int, float]] = []
    number = 0
    for turn, (count, backdate) in enumerate(pushes):
        items = list(range(number, number + count))
        number += count
        buffer.push_many(items, float(turn))
        times = [float(turn)] * count
        if backdate:
            times = [data.draw(st.sampled_from([-1.0, -2.0, -3.0])) for _ in items]
            buffer.backdate(times)
        expected += zip(items, times, strict=True)
        for _ in range(data.draw(st.integers(0, len(buffer)))):
            assert (buffer.take(), buffer.arrival()) == expected.pop(0)
        if buffer:
            assert buffer.oldest_arrival() == expected[0][1]
    while buffer:
        assert (buffer.take(), buffer.arrival()) == expected.pop(0)
    assert not expected


@given(
    st.lists(st.lists(st.sampled_from([-1.0, -2.0]), min_size=1, max_size=5), max_size=8),
    st.data(),
)
def test_backdated_ticks_are_taken_in_runs_of_one_arrival(
    pushes: list[list[float]], data: st.DataObject
) -> None:
    buffer: FifoBuffer[int] = FifoBuffer()
    expected: list[tuple[int, float]] = []
    for times in pushes:
        items = list(range(len(expected), len(expected) + len(times)))
        buffer.push_many(items, 0.0)
        buffer.backdate(times)
        expected += zip(items, times, strict=True)
    while buffer:
        limit = data.draw(st.integers(1, 6))
        taken, arrived = buffer.take_run(limit)
        assert [(item, arrived) for item in taken] == expected[: len(taken)]
        batch = next(times for times in pushes if times)
        alike = next((at for at, time in enumerate(batch) if time != arrived), len(batch))
        assert len(taken) == min(limit, alike)
        del expected[: len(taken)], batch[: len(taken)]
    assert not expected


async def test_what_is_taken_comes_in_again_as_it_was() -> None:
    send, receive = opened(100)
    receive.state.attach(End())
    await send.send_many([tick("A", 1), tick("B", 1)])
    send.mark_gap(gap("A", 3))
    await send.send(tick("A", 2))
    stretch = take_stretch(receive.state, 100)
    assert stretch.items == [tick("A", 1), tick("B", 1), tick("A", 2)]
    assert stretch.gaps == [(2, gap("A", 3))]
    send.ledger.check()
    send2, receive2 = opened(100)
    receive2.state.attach(End())
    await Bringing(send2, stretch).run()
    again = take_stretch(receive2.state, 100)
    assert (again.items, again.gaps) == (stretch.items, stretch.gaps)
    assert again.arrived == pytest.approx(stretch.arrived, abs=0.1)


async def test_arrivals_survive_a_wait_for_room() -> None:
    send, receive = opened(2)
    receive.state.attach(End())
    now = send.clock.wall()
    arrived = [now - 60 - number for number in range(7)]
    stretch = Stretch([tick("A", number) for number in range(7)], arrived)
    found: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Bringing(send, stretch).run)
        while len(found) < 7:
            await trio.testing.wait_all_tasks_blocked()
            assert len(send) <= 2
            found += take_stretch(receive.state, 1).arrived
            send.ledger.check()
    assert found == pytest.approx(arrived, abs=1e-6)


async def test_what_is_not_in_yet_can_be_withdrawn() -> None:
    send, receive = opened(2)
    receive.state.attach(End())
    items = [tick("AB"[number % 2], number) for number in range(8)]
    # The gap divides it: what lies behind is brought only when all before is in.
    bringing = Bringing(send, Stretch(items, [0.0] * 8, [(4, gap("A", 1)), (5, gap("B", 2))]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bringing.run)
        await trio.testing.wait_all_tasks_blocked()
        assert [item.volume for item in bringing.rest()] == [4, 5, 6, 7]
        assert bringing.withdraw({"A"}) == 2
        assert send.ledger.given_back == 2
        taken = Stretch()
        while len(taken.items) < 6:
            await trio.testing.wait_all_tasks_blocked()
            part = take_stretch(receive.state, 10)
            taken.gaps += [(len(taken.items) + place, each) for place, each in part.gaps]
            taken.items += part.items
            send.ledger.check()
    assert [item.volume for item in taken.items] == [0, 1, 2, 3, 5, 7]
    assert taken.gaps == [(4, gap("B", 2))]


async def test_a_cancelled_bringing_gives_back_what_was_not_brought() -> None:
    send, receive = opened(2)
    receive.state.attach(End())
    stretch = Stretch([tick("A", n) for n in range(9)], [0.0] * 9, [(6, gap("A", 1))])
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Bringing(send, stretch).run)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert send.ledger.given_back == 3
    send.ledger.check()
    # What was brought stays, as what a feed delivers does.
    assert send.ledger.queued == 6


async def test_a_closed_handle_gives_all_back() -> None:
    send, receive = opened(2)
    receive.state.attach(End())
    send.close()
    with pytest.raises(trio.ClosedResourceError):
        await Bringing(send, Stretch([tick("A", 1), tick("A", 2)], [0.0, 0.0])).run()
    assert send.ledger.given_back == 2 == send.ledger.produced
    send.ledger.check()


async def test_what_is_left_at_the_end_is_kept_for_the_source_and_given_back() -> None:
    send, receive = opened(3)
    state = receive.state
    state.attach(End())
    state.drops.gives_back = True
    send.deliver([tick("A", number) for number in range(5)])
    leave_all(state)
    assert [item.volume for item in state.drops.left] == [0, 1, 2, 3, 4]
    assert (send.ledger.given_back, send.ledger.dropped, send.ledger.queued) == (5, 0, 0)
    send.ledger.check()
