"""How long a handler is measured: until its mean is known, on a virtual clock."""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections.abc import Callable
from typing import Literal

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from trio_ticks.foresight.measuring import Measured, measure
from trio_ticks.simulation.loads import Load

DICE = random.Random(3)
HEAVY = [min(0.002 * DICE.paretovariate(1.5), 1.0) for _ in range(10_000)]


def even(_number: int) -> float:
    return 0.006


def heavy(number: int) -> float:
    return HEAVY[number]


async def measured(law: Callable[[int], float], limit_s: float) -> Measured:
    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(law(int(tick.volume)))

    ticks = make_ticks(len(HEAVY), [f"S{n}" for n in range(16)])
    symbols = [n % 16 for n in range(len(ticks))]
    return await measure(handler, ticks, symbols, executor="loop", workers=8, limit_s=limit_s)


async def test_what_takes_always_the_same_is_soon_known(autojump_clock: MockClock) -> None:
    found = await measured(even, limit_s=1000.0)
    assert 5000 <= found.timed < 5200
    assert found.mean_s == pytest.approx(0.006, rel=1e-3)
    assert found.error < 1e-3


async def test_where_a_few_ticks_take_most_of_the_time_more_are_measured(
    autojump_clock: MockClock,
) -> None:
    found = await measured(heavy, limit_s=1000.0)
    assert found.timed > 50_000
    assert found.error < 0.012
    assert found.mean_s == pytest.approx(sum(HEAVY) / len(HEAVY), rel=0.02)


async def test_the_limit_holds_also_if_the_mean_is_not_known(autojump_clock: MockClock) -> None:
    found = await measured(heavy, limit_s=3.0)
    assert 3.0 <= found.seconds < 3.1
    assert found.error > 0.01


@pytest.mark.parametrize("limit_s", [0.6, 1.0, 3.0])
async def test_what_is_in_hand_at_either_end_makes_no_difference(
    autojump_clock: MockClock, limit_s: float
) -> None:
    """Workers need no time between two ticks here: all of it is that of the ticks."""
    found = await measured(heavy, limit_s)
    assert found.turnaround_s == pytest.approx(0.0, abs=1e-9)
    assert found.rate * found.mean_s == pytest.approx(8.0, rel=1e-9)


async def test_what_takes_longer_than_is_measured(autojump_clock: MockClock) -> None:
    """A tick keeps one of two workers busy before, meanwhile and after."""

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(10.0 if tick.volume == 1 else 0.001)

    ticks = make_ticks(100_000, ["A", "B"])
    symbols = [n % 2 for n in range(len(ticks))]
    found = await measure(
        handler, ticks, symbols, executor="loop", workers=2, limit_s=1.0, ordering="none"
    )
    assert found.mean_s == pytest.approx(0.001)
    assert found.turnaround_s == pytest.approx(0.0, abs=1e-9)
    assert found.rate == pytest.approx(2000.0)


async def test_what_a_batch_costs_is_measured_apart_from_its_ticks() -> None:
    def handler(_tick: tt.Tick) -> None:
        time.sleep(0.002)

    ticks = make_ticks(1000, ["A", "B"])
    symbols = [n % 2 for n in range(1000)]
    found = await measure(handler, ticks, symbols, executor="thread", workers=4, limit_s=0.5)
    assert not found.computes
    assert found.per_batch > 1
    assert found.batch_s == pytest.approx(found.turnaround_s * found.per_batch)
    load = Load(array("d", range(10)), array("I", [0] * 10), ("A", "B"))
    services = found.services(load, random.Random(1))
    assert services.executor == "thread"
    assert services.hand_over_s == found.batch_s
    whole_s = sum(found.busy) + sum(found.waits)
    assert whole_s / found.timed == pytest.approx(found.mean_s)


@pytest.mark.parametrize(("executor", "rings"), [("loop", True), ("thread", False)])
async def test_a_bell_rings_only_for_handlers_that_wait_in_the_loop(
    executor: Literal["loop", "thread"], rings: bool
) -> None:
    names = set[str]()

    async def waits(_tick: tt.Tick) -> None:
        names.update(thread.name for thread in threading.enumerate())
        await trio.lowlevel.checkpoint()

    def works(_tick: tt.Tick) -> None:
        names.update(thread.name for thread in threading.enumerate())

    await measure(
        waits if executor == "loop" else works,
        make_ticks(100, ["S"]),
        [0] * 100,
        executor=executor,
        workers=2,
        limit_s=0.1,
        arrivals=[n / 1000 for n in range(1000)],
    )
    assert ("trio_ticks bell" in names) is rings


@pytest.mark.parametrize("symbols", [("S3",), tuple(f"S{n}" for n in range(16))], ids=len)
async def test_a_handler_that_stops_to_return_is_one_clear_error(
    autojump_clock: MockClock, symbols: tuple[str, ...]
) -> None:
    """So it is after it has warmed up, and if only one symbol is concerned."""

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(0.001)
        if tick.volume > 5000 and tick.symbol in symbols:
            await trio.sleep_forever()

    ticks = make_ticks(len(HEAVY), [f"S{n}" for n in range(16)])
    places = [n % 16 for n in range(len(ticks))]
    with pytest.raises(tt.ConfigError, match="not returned after 60 s for some ticks"):
        await measure(handler, ticks, places, executor="loop", workers=8, limit_s=10.0)
    assert trio.current_time() < 200.0
