"""How old items are by their timestamps, on a channel's wall time from any start."""

from __future__ import annotations

import pytest

from tests.worlds.helpers import EPOCH, make_tick
from trio_ticks.channel.freshness import AgeMeter, MaxAge
from trio_ticks.clock import Clock


def test_ages_follow_a_recording_that_moves_the_wall_time() -> None:
    clock = Clock(lambda: 100.0, wall_s=0.0)
    ages = AgeMeter(MaxAge(1.0, since="timestamp"), clock)
    clock.begin_at(EPOCH.timestamp())
    tick = make_tick(now=EPOCH)
    ages.arrived(tick, 100.0)
    assert ages.offset_s == 0.0
    assert ages.life_s(tick, 100.0, 100.75) == pytest.approx(0.25, abs=1e-6)
    assert not ages.is_stale(tick, 100.0, 100.9)
    assert ages.is_stale(tick, 100.0, 101.1)


def test_a_venues_clock_that_is_off_is_made_up_for() -> None:
    clock = Clock(lambda: 100.0, wall_s=EPOCH.timestamp())
    ages = AgeMeter(MaxAge(1.0, since="timestamp"), clock)
    tick = make_tick(now=EPOCH, age_s=30.0)
    ages.arrived(tick, 100.0)
    assert ages.offset_s == pytest.approx(30.0)
    assert ages.life_s(tick, 100.0, 100.0) == pytest.approx(1.0, abs=1e-6)
