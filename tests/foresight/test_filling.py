"""The feed that a handler is measured with: it fills the queue, and wakes the loop."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.foresight.test_bell import ringers
from tests.worlds.command_line import PATIENCE_S
from tests.worlds.helpers import make_ticks
from trio_ticks.foresight.filling import FillingFeed, busiest_arrivals
from trio_ticks.foresight.measuring import measure
from trio_ticks.simulation.loads import Load


class Wakes(trio.abc.Instrument):
    """Counts how often the feed wakes."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.endswith("FillingFeed._wake")


class Full:
    """A channel that has no room."""

    async def send_many(self, _items: Any) -> None:
        await trio.sleep_forever()


def moments(arrivals: Sequence[float], count: int) -> list[float]:
    """Return the first *count* moments at which a feed wakes that begins at 100."""
    feed = FillingFeed(make_ticks(1), arrivals)
    return list(itertools.islice(feed.moments(100.0), count))


def test_it_wakes_when_ticks_come_again_and_again() -> None:
    found = moments(array("d", [50.0, 51.0, 53.0]), 6)
    assert found == [100.0, 101.0, 103.0, 103.0, 104.0, 106.0]


def test_ticks_that_come_together_wake_once() -> None:
    """Nor may a stretch that is too short keep its thread busy with nothing else."""
    assert moments([0.0, 1e-9, 1.0, 1.0, 1.0 + 1e-6], 3) == [100.0, 101.0, 101.0]


@pytest.mark.parametrize("arrivals", [[], [5.0], [5.0, 5.0, 5.0 + 1e-9]])
async def test_it_need_not_wake(autojump_clock: MockClock, arrivals: list[float]) -> None:
    feed = FillingFeed(make_ticks(1), arrivals)
    with trio.move_on_after(1.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run, Full())
            await trio.sleep(0.5)
            assert ringers() == []


async def test_it_ends_when_it_is_stopped() -> None:
    ends: tuple[tt.TickSendChannel[tt.Tick], tt.TickReceiveChannel[tt.Tick]]
    ends = tt.open_tick_channel(100, tt.Block())
    send, receive = ends
    feed = FillingFeed(make_ticks(3), [0.0, 0.01])
    with trio.fail_after(PATIENCE_S):
        async with receive, trio.open_nursery() as nursery:
            nursery.start_soon(feed.run, send)
            got = [(await receive.receive()).volume for _ in range(7)]
            assert len(ringers()) == 1
            feed.stopped = True
            while nursery.child_tasks:
                await receive.receive()
    assert got[:3] == got[3:6]
    assert ringers() == []


@pytest.mark.parametrize("arrivals", [(), (0.0, 0.002, 0.01)])
async def test_a_handler_is_measured_beside_it(arrivals: tuple[float, ...]) -> None:
    async def handler(_tick: tt.Tick) -> None:
        await trio.sleep(0.001)

    wakes = Wakes()
    trio.lowlevel.add_instrument(wakes)
    await measure(
        handler, make_ticks(100), [0] * 100, executor="loop", workers=2, limit_s=0.5,
        arrivals=arrivals,
    )  # fmt: skip
    trio.lowlevel.remove_instrument(wakes)
    assert (wakes.count > 10) == bool(arrivals)


def test_the_busiest_part_of_a_load() -> None:
    times = array("d", [0.0, 1.0, 2.0, 10.0, 10.1, 10.2, 10.3, 20.0])
    load = Load(times, array("I", [0] * len(times)), ("A",))
    assert list(busiest_arrivals(load, 0.25)) == [10.0, 10.1, 10.2]
    assert list(busiest_arrivals(load, 100.0)) == list(times)
