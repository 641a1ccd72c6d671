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
