"""How long a handler is measured: until its mean is known, on a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from trio_ticks.foresight.measuring import Measured, measure

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
