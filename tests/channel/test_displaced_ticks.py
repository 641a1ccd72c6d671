"""The newest of a long lane gives its place to a symbol that has none.

What it carried is not lost with it: the gap is told, a book waits for a snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.channel_helpers import Ends
from tests.worlds.helpers import EPOCH, make_book, make_tick, make_ticks, number
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted

DROP = tt.DropNewest(0)
both_buffers = pytest.mark.parametrize(
    "overflow", [DROP, {tt.Tick: DROP, tt.BookUpdate: DROP}], ids=["fifo", "keyed"]
)


def loss(count: int, reason: Any = "sequence", *, ms: int = 0) -> tt.Gap:
    stamp = EPOCH + timedelta(milliseconds=ms)
    return tt.Gap("A", stamp, reason, count, stamp)


def shown(log: Sequence[Any], symbol: str = "A") -> list[Any]:
    """Return what came of *symbol*: numbers of items, reasons and counts of gaps."""
    return [
        (item.reason, item.count) if isinstance(item, tt.Gap) else number(item)
        for item in log
        if item.symbol == symbol
    ]


@attrs.define
class World:
    """Two workers with room for three; their handler stops at A until it is opened."""

    send: Send
    log: list[Any]
    opened: trio.Event

    async def step(self, *items: Any) -> None:
        """Send *items*, or note those that are gaps, and see them handled or parked."""
        for item in items:
            if isinstance(item, tt.Gap):
                self.send.mark_gap(item)
            else:
                await self.send.send(item)
            await wait_all_tasks_blocked()

    async def drain(self) -> None:
        """Let the handler go on, and see all handled that there is."""
        self.opened.set()
        await wait_all_tasks_blocked()


async def play(story: Any, **settings: Any) -> tuple[list[Any], tt.PipelineReport]:
    """Run *story* in a :class:`World`; return items and gaps in order, and a report."""
    log: list[Any] = []
    opened = trio.Event()

    async def handler(item: Any) -> None:
        log.append(item)
        if item.symbol == "A":
            await opened.wait()

    async def script(send: Send) -> None:
        await story(World(send, log, opened))
        opened.set()

    report = await tt.run_pipeline(
        ScriptFeed(script), handler, maxsize=3, workers=2, on_gap=log.append, **settings
    )
    return log, report


# Ticks


@both_buffers
async def test_the_gap_that_a_displaced_tick_was_marked_with_is_told_with_it(
    overflow: Any, autojump_clock: MockClock
) -> None:
    ticks = make_ticks(6)

    async def story(world: World) -> None:
        await world.step(*ticks[:3], loss(2), ticks[3], make_tick("B", 100))
        await world.drain()
        await world.step(ticks[4], ticks[5])

    log, report = await play(story, overflow=overflow)
    assert shown(log) == [0, 1, 2, ("sequence", 3), 4, 5]
    assert shown(log, "B") == [100]
    assert_accounted(report, consumed=6, overflow=1)
    gap = next(item for item in log if isinstance(item, tt.Gap))
    assert (gap.first_timestamp, gap.timestamp) == (EPOCH, ticks[3].timestamp)


@both_buffers
async def test_the_gap_of_a_displaced_tick_joins_that_of_the_next_one_let_in(
    overflow: Any, autojump_clock: MockClock
) -> None:
    """A3 is displaced with its gap, A4 finds no room, more is lost: A5 has it all."""
    ticks = make_ticks(6)

    async def story(world: World) -> None:
        await world.step(*ticks[:3], loss(2), ticks[3])
        await world.send.send_many([ticks[4], make_tick("B", 100)])
        await wait_all_tasks_blocked()
        await world.step(loss(10, "reconnect", ms=4), ticks[5])
        assert shown(world.log) == [0]

    log, report = await play(story, overflow=overflow)
    assert shown(log) == [0, 1, 2, ("sequence", 14), 5]
    assert_accounted(report, consumed=5, overflow=2)


@both_buffers
async def test_two_displaced_ticks_with_gaps_between_them_are_one_gap(
    overflow: Any, autojump_clock: MockClock
) -> None:
    ticks = make_ticks(6)

    async def story(world: World) -> None:
        await world.step(ticks[0], ticks[1], loss(2, "reconnect", ms=1), ticks[2])
        await world.step(loss(4, ms=2), ticks[3])
        # They displace A3 and then A2, each with what lies before it.
        await world.send.send_many([make_tick("B", 100), make_tick("C", 101)])
        await world.drain()
        await world.step(ticks[4])

    log, report = await play(story, overflow=overflow)
    assert shown(log) == [0, 1, ("reconnect", 8), 4]
    assert_accounted(report, consumed=5, overflow=2)
    gap = next(item for item in log if isinstance(item, tt.Gap))
    assert (gap.first_timestamp, gap.timestamp) == (ticks[1].timestamp, ticks[3].timestamp)


async def test_the_gap_of_two_displaced_ticks_runs_forward(autojump_clock: MockClock) -> None:
    ticks = make_ticks(5)

    async def story(world: World) -> None:
        await world.step(*ticks[:4])
        # They displace A3, then A2.
        await world.send.send_many([make_tick("B", 100), make_tick("C", 101)])
        await world.drain()
        await world.step(ticks[4])

    log, _ = await play(story, overflow=DROP)
    (gap,) = [item for item in log if isinstance(item, tt.Gap)]
    assert (gap.count, gap.first_timestamp, gap.timestamp) == (
        2,
        ticks[2].timestamp,
        ticks[3].timestamp,
    )


async def test_a_gap_that_nobody_listens_for_is_lost_with_its_tick_and_does_no_harm(
    autojump_clock: MockClock,
) -> None:
    """Books are held also if there is no ``on_gap``."""
    seen: list[Any] = []
    opened = trio.Event()

    async def handler(item: Any) -> None:
        seen.append(item)
        await opened.wait()

    async def script(send: Send) -> None:
        for n in range(4):
            await send.send(make_book("A", n))
            await wait_all_tasks_blocked()
        await send.send(make_tick("B", 100))
        await wait_all_tasks_blocked()
        opened.set()
        await send.send(make_book("A", 4))
        await wait_all_tasks_blocked()
        await send.send_many([make_book("A", 5, snapshot=True), make_book("A", 6)])

    report = await tt.run_pipeline(ScriptFeed(script), handler, maxsize=3, workers=2, overflow=DROP)
    assert behind_lost_book(shown(seen), lost=3) == [5, 6]
    assert_accounted(report, overflow=1, held=7 - report.consumed)


async def test_a_displaced_tick_that_was_marked_leaves_nothing_to_look_for() -> None:
    """Else every tick from then on would be looked at for gaps that are not there."""
    ends: Ends = tt.open_tick_channel(2, DROP)
    send, receive = ends
    state = receive.state
    state.losses.tells_gaps = True
    state.lanes.lines["A"] = None
    ticks = make_ticks(3)
    for n in range(2):
        assert send.deliver([ticks[n]]) is None
        state.lanes.park("A", state.buffer.take(), 0.0)
        if n == 0:
            send.mark_gap(loss(2))
    assert send.deliver([make_tick("B")]) is None
    assert state.taking.from_buffer().symbol == "B"
    assert state.losses.unannounced
    assert send.deliver([ticks[2]]) is None
    plain, gap = state.taking.inspect(state.taking.from_buffer())
    assert plain is ticks[2]
    assert gap is not None
    assert (gap.reason, gap.count) == ("sequence", 3)
    assert state.lanes.take_next("A") == (ticks[0], 0.0)
    assert not state.losses.unannounced
    assert not state.losses.attention


# Books


def behind_lost_book(entries: list[Any], *, lost: int) -> list[Any]:
    """Return what followed the updates before the one that was *lost*.

    Updates queued before it may be handled, or held back with those behind it. Both do
    no harm, and these tests do not tell them apart.
    """
    count = next((n for n, entry in enumerate(entries) if entry != n), len(entries))
    assert 1 <= count <= lost
    return entries[count:]


@both_buffers
async def test_what_follows_a_displaced_book_update_is_held_until_a_snapshot(
    overflow: Any, autojump_clock: MockClock
) -> None:
    async def story(world: World) -> None:
        await world.step(*(make_book("A", n) for n in range(4)), make_tick("B", 100))
        await world.drain()
        await world.step(make_book("A", 4), make_book("A", 5))
        await world.step(make_book("A", 6, snapshot=True), make_book("A", 7))

    log, report = await play(story, overflow=overflow)
    (_reason, count), *rest = behind_lost_book(shown(log), lost=3)
    assert rest == [6, 7]
    assert count == 9 - report.consumed
    assert_accounted(report, overflow=1, held=count - 1)


@both_buffers
async def test_what_came_in_the_same_delivery_as_what_displaced_a_book_update_is_held(
    overflow: Any, autojump_clock: MockClock
) -> None:
    """A4 finds the room that is left; B then takes the place of A3."""
    seen: list[Any] = []
    opened = trio.Event()

    async def handler(item: Any) -> None:
        seen.append(item)
        await opened.wait()

    async def script(send: Send) -> None:
        for n in range(4):
            await send.send(make_book("A", n))
            await wait_all_tasks_blocked()
        assert send.deliver([make_book("A", 4), make_tick("B", 100)]) is None
        await wait_all_tasks_blocked()
        opened.set()

    report = await tt.run_pipeline(
        ScriptFeed(script), handler, workers=2, maxsize=4, overflow=overflow
    )
    assert behind_lost_book(shown(seen), lost=3) == []
    assert_accounted(report, overflow=1, held=5 - report.consumed)


@both_buffers
async def test_a_displaced_book_update_that_was_marked_is_told_once_and_held_for(
    overflow: Any, autojump_clock: MockClock
) -> None:
    async def story(world: World) -> None:
        await world.step(*(make_book("A", n) for n in range(3)), loss(2), make_book("A", 3))
        await world.step(make_tick("B", 100))
        await world.drain()
        await world.step(make_book("A", 4), make_book("A", 5, snapshot=True), make_book("A", 6))

    log, report = await play(story, overflow=overflow)
    (_reason, count), *rest = behind_lost_book(shown(log), lost=3)
    assert rest == [5, 6]
    assert_accounted(report, overflow=1, held=7 - report.consumed)
    assert count == 8 - report.consumed + 2


@both_buffers
async def test_a_displaced_book_update_has_a_snapshot_asked_for(
    overflow: Any, autojump_clock: MockClock
) -> None:
    asked: list[str] = []

    class Asked(ScriptFeed):
        def request_snapshot(self, symbol: str) -> None:
            asked.append(symbol)

    opened = trio.Event()

    async def handler(item: Any) -> None:
        await opened.wait()

    async def script(send: Send) -> None:
        for n in range(4):
            await send.send(make_book("A", n))
            await wait_all_tasks_blocked()
        assert asked == []
        await send.send(make_tick("B", 100))
        await wait_all_tasks_blocked()
        assert asked == ["A"]
        opened.set()

    await tt.run_pipeline(Asked(script), handler, maxsize=3, workers=2, overflow=overflow)
