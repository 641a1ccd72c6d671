"""The channel's strategies one at a time, and age, peak and log lines.

Conflation, caps and policies are in ``test_policies.py``.
"""

from __future__ import annotations

import logging
import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.worlds.channel_helpers import Ends, dropped, in_background, within
from tests.worlds.helpers import make_tick, make_ticks, numbers
from trio_ticks.channel.ends import open_tick_channel
from trio_ticks.errors import ConfigError, QueueFullError
from trio_ticks.overflow import Block, DropNewest, DropOldest, Fail, OverflowStrategy
from trio_ticks.ticks import Tick


@within(10_000)
async def test_block_waits_for_ever_and_says_how_long(autojump_clock: MockClock) -> None:
    ends: Ends = open_tick_channel(2, Block())
    send, receive = ends
    got: list[Tick] = []

    async def read() -> None:
        for pause in (1000.0, 5.0, 5.0, 0.0, 0.0):
            await trio.sleep(pause)
            got.append(await receive.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await send.send_many(make_ticks(5))
        assert trio.current_time() == 1010
        assert receive.statistics().blocked_s == 1010
    assert numbers(got) == [0, 1, 2, 3, 4]
    assert dropped(send) == {}


@within(10_000)
async def test_drop_newest_waits_once_an_episode(autojump_clock: MockClock) -> None:
    ends: Ends = open_tick_channel(4, DropNewest(2.0))
    send, receive = ends
    await send.send_many(make_ticks(4))

    await send.send(make_tick(n=10))
    assert trio.current_time() == 2
    await send.send_many(make_ticks(3, first=11))
    assert trio.current_time() == 2, "the patience was spent, and yet it waited"
    assert dropped(send) == {"overflow": 4}

    # One leaves: not enough to end the episode, but there is room for one.
    await receive.receive()
    await send.send_many(make_ticks(2, first=20))
    assert trio.current_time() == 2
    assert dropped(send) == {"overflow": 5}

    # Half of it leaves: the next episode has a patience of its own.
    assert numbers(await receive.receive_many(2)) == [1, 2]
    await send.send_many(make_ticks(3, first=30))
    assert trio.current_time() == 4
    assert dropped(send) == {"overflow": 6}
    assert receive.statistics().blocked_s == 4
    assert numbers(await receive.receive_many()) == [3, 20, 30, 31]


@within(10_000)
@pytest.mark.parametrize("overflow", [DropNewest(0.1), Block(timeout=0.1)], ids=repr)
@pytest.mark.parametrize("start", [0.7, 5.3, 0.3, 1e4 / 3])
async def test_a_patience_that_rounding_leaves_a_trace_of_is_spent(
    start: float, overflow: OverflowStrategy, autojump_clock: MockClock
) -> None:
    """(0.7 + 0.1) - 0.7 is less than 0.1: no virtual clock can wait for the rest."""
    ends: Ends = open_tick_channel(2, overflow)
    send, _receive = ends
    await trio.sleep(start)
    await send.send_many(make_ticks(3))
    assert trio.current_time() == pytest.approx(start + 0.1)
    assert dropped(send) == {"overflow": 1}


@within(10_000)
async def test_a_sustained_overload_is_shed_though_a_place_comes_free_in_time_for_every_tick(
    autojump_clock: MockClock,
) -> None:
    """The classic pipeline waits for each tick: it never drops, and lags ever more."""
    ends: Ends = open_tick_channel(10, DropNewest(1.0))
    send, receive = ends

    async def read() -> None:
        async for _ in receive:
            await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async with send:
            for n in range(1000):
                due = n / 20
                await trio.sleep(max(0.0, due - trio.current_time()))
                await send.send(make_tick(n=n))
                assert trio.current_time() - due <= 1.0 + 1e-9, (
                    "the reader is behind by more than its patience"
                )
        assert dropped(send)["overflow"] > 800


@within(10_000)
async def test_senders_that_wait_still_are_not_charged_for_the_episode_before(
    autojump_clock: MockClock,
) -> None:
    ends: Ends = open_tick_channel(2, DropNewest(3.0))
    send, receive = ends
    await send.send_many(make_ticks(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send.send_many, make_ticks(2, first=10))
        nursery.start_soon(send.clone().send_many, make_ticks(2, first=20))
        await trio.sleep(2)
        # All leave, one of the two fills the channel again; the other still waits, in a
        # new episode.
        assert len(await receive.receive_many()) == 2
        await wait_all_tasks_blocked()
        assert len(receive) == 2
        await trio.sleep(2)
        assert dropped(send) == {}, "the wait before the episode was charged to it"
        assert len(await receive.receive_many()) == 2
    assert dropped(send) == {}
    assert len(receive) == 2


@within(10_000)
async def test_senders_wait_in_line(autojump_clock: MockClock) -> None:
    ends: Ends = open_tick_channel(1, Block())
    send, receive = ends
    await send.send(make_tick(n=0))
    async with trio.open_nursery() as nursery:
        for n in (1, 2, 3):
            nursery.start_soon(send.send, make_tick(n=n))
            await wait_all_tasks_blocked()
        got = []
        for n in (4, 5):
            got += await receive.receive_many()
            # A newcomer, at the very moment when there is room, does not push in.
            nursery.start_soon(send.send, make_tick(n=n))
            await wait_all_tasks_blocked()
        for _ in range(4):
            got += await receive.receive_many()
            await wait_all_tasks_blocked()
    assert numbers(got) == [0, 1, 2, 3, 4, 5]


async def test_room_for_many_lets_many_senders_in() -> None:
    ends: Ends = open_tick_channel(4, Block())
    send, receive = ends
    await send.send_many(make_ticks(4))
    async with trio.open_nursery() as nursery:
        for n in range(4):
            nursery.start_soon(send.send, make_tick(n=10 + n))
        await wait_all_tasks_blocked()
        await receive.receive_many()
        await wait_all_tasks_blocked()
        assert len(receive) == 4
        assert not nursery.child_tasks


@pytest.mark.parametrize(
    ("queued", "sent", "kept"),
    [
        (3, 1, [0, 1, 2, 10]),
        (4, 2, [2, 3, 10, 11]),
        (4, 9, [15, 16, 17, 18]),
        (0, 5, [11, 12, 13, 14]),
    ],
)
async def test_drop_oldest_keeps_the_newest(queued: int, sent: int, kept: list[int]) -> None:
    ends: Ends = open_tick_channel(4, DropOldest())
    send, receive = ends
    await send.send_many(make_ticks(queued))
    await send.send_many(make_ticks(sent, first=10))
    assert numbers(await receive.receive_many()) == kept
    assert dropped(send) == ({"evicted": queued + sent - 4} if queued + sent > 4 else {})


async def test_fail_takes_what_fits_and_raises_for_the_rest() -> None:
    ends: Ends = open_tick_channel(4, Fail())
    send, receive = ends
    with pytest.raises(QueueFullError, match="the channel is full") as info:
        await send.send_many(make_ticks(6))
    assert info.value.maxsize == 4
    with pytest.raises(QueueFullError):
        await send.send(make_tick(n=7))
    assert dropped(send) == {"overflow": 3}
    assert numbers(await receive.receive_many()) == [0, 1, 2, 3]
    await send.send(make_tick(n=8))


# Age, peak, logs


@within(10_000)
async def test_ticks_older_than_max_age_are_stale(autojump_clock: MockClock) -> None:
    ends: Ends = open_tick_channel(10, max_age=2.0)
    send, receive = ends
    await send.send_many(make_ticks(2))
    await trio.sleep(1)
    await send.send_many(make_ticks(2, first=2))
    await trio.sleep(1)
    # Exactly as old as allowed.
    assert numbers(await receive.receive_many(1)) == [0]
    await trio.sleep(0.5)
    assert numbers(await receive.receive_many()) == [2, 3]
    assert dropped(send) == {"stale": 1}
    await send.send_many(make_ticks(3, first=4))
    await trio.sleep(3)
    async with in_background(receive.receive) as ended:
        assert dropped(send) == {"stale": 4}
        await send.send(make_tick(n=9))
        await wait_all_tasks_blocked()
        assert numbers(ended) == [9]  # type: ignore[arg-type]  # it is a tick


async def test_the_peak_is_remembered() -> None:
    ends: Ends = open_tick_channel(10)
    send, receive = ends
    await send.send_many(make_ticks(7))
    await receive.receive_many()
    await send.send_many(make_ticks(3))
    assert receive.state.peak == 7


@within(10_000)
async def test_drops_are_logged_once_a_second_with_the_count(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ends: Ends = open_tick_channel(1, DropNewest(0))
    send, receive = ends
    caplog.set_level(logging.WARNING, "trio_ticks")

    def lines() -> list[tuple[str, int]]:
        return [(record.reason, record.dropped) for record in caplog.records]  # type: ignore[attr-defined]  # given as extra

    await send.send_many(make_ticks(4))
    assert lines() == [("overflow", 3)]
    for _ in range(9):
        await trio.sleep(0.1)
        await send.send_many(make_ticks(5))
    assert lines() == [("overflow", 3)]
    await trio.sleep(0.11)
    await send.send(make_tick())
    assert lines() == [("overflow", 3), ("overflow", 46)]
    # Each reason has a second of its own.
    receive.close()
    assert lines() == [("overflow", 3), ("overflow", 46), ("shutdown", 1)]
    assert "DropNewest(timeout=0" in caplog.text


async def test_no_drop_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_ticks")
    ends: Ends = open_tick_channel(10, Block())
    send, receive = ends
    await send.send_many(make_ticks(10))
    await receive.receive_many()
    send.close()
    receive.close()
    assert not caplog.records


def test_a_channel_can_be_opened_outside_of_trio() -> None:
    ends: Ends = open_tick_channel(3, DropOldest())

    async def main() -> list[Tick]:
        send, receive = ends
        await send.send_many(make_ticks(5))
        return await receive.receive_many()

    assert numbers(trio.run(main)) == [2, 3, 4]


def test_the_settings_are_looked_at() -> None:
    for kwargs in ({"maxsize": 0}, {"overflow": "block"}, {"max_age": math.nan}):
        with pytest.raises(ConfigError):
            open_tick_channel(**kwargs)
