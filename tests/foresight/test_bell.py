"""What wakes a loop at given moments, from a thread."""

from __future__ import annotations

import math
import threading

import pytest
import trio
from trio.testing import MockClock

from tests.worlds.command_line import PATIENCE_S
from trio_ticks.foresight.bell import APART_S, Bell


def ringers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "trio_ticks bell"]


async def rings_of(moments: list[float]) -> list[float]:
    """Return when a bell rang for *moments*."""
    found: list[float] = []
    last = moments[-1]
    bell = Bell(moments)
    with bell.ringing(), trio.fail_after(PATIENCE_S):
        while not found or found[-1] < last:
            await bell.wait(math.inf)
            found.append(trio.current_time())
    return found


async def test_it_rings_at_its_moments_and_not_before() -> None:
    begin = trio.current_time()
    moments = [begin + 0.01 * number for number in range(1, 6)]
    found = await rings_of(moments)
    assert 1 <= len(found) <= 5
    assert found[0] >= moments[0]
    assert found[-1] >= moments[-1]


async def test_moments_that_have_passed_are_one() -> None:
    begin = trio.current_time()
    assert len(await rings_of([begin - 1000 + number for number in range(1001)])) == 1


async def test_moments_that_are_close_together_are_one() -> None:
    begin, span_s = trio.current_time() + 0.01, 0.05
    found = await rings_of([begin + number / 1e5 for number in range(int(span_s * 1e5))])
    assert len(found) <= span_s / APART_S + 1


async def test_who_waits_for_a_time_need_not_wait_for_a_ring(autojump_clock: MockClock) -> None:
    bell = Bell([trio.current_time() + 1000.0])
    with bell.ringing():
        assert len(ringers()) == 1
        await bell.wait(trio.current_time() + 7.0)
        assert trio.current_time() == pytest.approx(7.0)
    assert ringers() == []
