"""What comes of ticks that are played when they are due, on a virtual clock."""

from __future__ import annotations

from array import array
from types import TracebackType

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.foresight.test_bell import ringers
from tests.worlds.helpers import make_ticks
from trio_ticks.foresight.verifying import play
from trio_ticks.simulation.loads import Load

SERVICE_S = 0.004


class Strategy:
    """Takes five seconds to be ready, as a process may."""

    async def __aenter__(self) -> None:
        await trio.sleep(5.0)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    async def __call__(self, tick: tt.Tick) -> None:
        if tick.symbol == "B":
            raise ValueError("no")
        await trio.sleep(SERVICE_S)


@pytest.mark.parametrize("maxsize", [1, 500])
async def test_a_lag_does_not_hold_what_workers_need_to_begin(
    autojump_clock: MockClock, maxsize: int
) -> None:
    symbols = ["A", "B", "C"]
    load = Load(
        array("d", (n * 0.01 for n in range(300))),
        array("I", (n % 3 for n in range(300))),
        tuple(symbols),
    )
    overflow = tt.DropOldest()
    found = await play(
        load, make_ticks(300, symbols), Strategy, workers=2, maxsize=maxsize, overflow=overflow
    )
    # One of each of two symbols was handled before.
    assert found.ticks == 298
    assert found.drop_rate == found.conflated_rate == 0.0
    assert found.p99_lag_s == pytest.approx(0.0, abs=1e-6)


async def test_what_is_lost_is_a_share_of_what_was_due(autojump_clock: MockClock) -> None:
    """Three times as many come as one worker can handle, with no room to wait."""
    load = Load(array("d", (n * SERVICE_S / 3 for n in range(901))), array("I", [0] * 901), ("A",))
    found = await play(
        load,
        make_ticks(901, ["A"]),
        Strategy,
        workers=1,
        maxsize=1,
        overflow=tt.Conflate(),
    )
    assert found.ticks == 900
    assert found.drop_rate == 0.0
    assert found.conflated_rate == pytest.approx(2 / 3, abs=0.01)
    # Each of them stands for three, and counts from when the last of these was due.
    assert 0.0 < found.p99_lag_s <= SERVICE_S / 3


async def test_what_stands_for_several_is_due_when_the_last_of_them_was(
    autojump_clock: MockClock,
) -> None:
    """A task that computes for 50 ms keeps the feed from bringing what is due."""
    load = Load(array("d", (n * 0.01 for n in range(1000))), array("I", [0] * 1000), ("A",))

    async def handler(_tick: tt.Tick) -> None:
        autojump_clock.jump(0.05)
        await trio.sleep(0.001)

    ticks = make_ticks(1000, ["A"])
    found = await play(load, ticks, handler, workers=1, maxsize=9, overflow=tt.Conflate())
    assert found.conflated_rate > 0.5
    # Ticks are brought up to 10 ms after the last of them was due, and handled then.
    assert 0.008 < found.p99_lag_s < 0.011


async def test_what_is_due_wakes_the_loop_as_a_message_would() -> None:
    """By a thread, since timers of the loop come up to a millisecond late."""
    load = Load(array("d", (n * 0.005 for n in range(30))), array("I", [0] * 30), ("A",))
    seen: list[int] = []

    async def handler(_tick: tt.Tick) -> None:
        seen.append(len(ringers()))

    ticks = make_ticks(30, ["A"])
    await play(load, ticks, handler, workers=1, maxsize=9, overflow=tt.Block())
    # One tick is handled before the others come; the last ones when all have come.
    assert seen[:2] == [0, 1]
    assert ringers() == []
