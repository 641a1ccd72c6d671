"""Lag is counted on the pipeline's wall time, wherever that begins.

Timestamps from the future are counted apart.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.worlds.helpers import EPOCH, make_tick
from trio_ticks.clock import Clock
from trio_ticks.metrics.meters import Meters


def test_lag_follows_a_recording_that_moves_the_wall_time() -> None:
    clock = Clock(lambda: 100.0, wall_s=0.0)
    meters = Meters(clock)
    clock.begin_at(EPOCH.timestamp() + 2.0)
    meters.taken(make_tick(now=EPOCH), arrived=99.5, now=100.0)
    assert meters.lag.total().max == pytest.approx(2000.0)
    assert meters.wait.total().max == pytest.approx(500.0)
    meters.handled(make_tick(now=EPOCH), arrived=100.0, began=101.0, ended=104.0)
    assert meters.lag.total().max == pytest.approx(3000.0)
    assert meters.handler.total().max == pytest.approx(3000.0)
    assert meters.end_to_end.total().max == pytest.approx(6000.0)


FUTURE = [5.0, 3600.0, (datetime(9999, 12, 31, tzinfo=UTC) - EPOCH).total_seconds()]


def timed(ahead_s: list[float], arrival_s: float = 0.02) -> Meters:
    """Return the meters of ticks 10 ms apart; each is *arrival_s* on its way."""
    meters = Meters(Clock(lambda: 0.0, wall_s=EPOCH.timestamp()))
    for n, ahead in enumerate(ahead_s):
        now = n * 0.01
        tick = make_tick(now=EPOCH, age_s=arrival_s - ahead - now)
        if n % 2:
            meters.handled(tick, now, now, now)
        else:
            meters.taken(tick, now, now)
    return meters


@pytest.mark.parametrize(
    ("ahead_s", "positions"),
    [
        *((ahead_s, where) for ahead_s in FUTURE[1:] for where in ([1], [150], [299])),
        *((ahead_s, range(5, 300, 100)) for ahead_s in FUTURE[1:]),
        (FUTURE[-1], [0]),
        (FUTURE[-1], [0, 1]),
    ],
)
def test_timestamps_from_the_future_freeze_no_lag(ahead_s: float, positions: list[int]) -> None:
    meters = timed([ahead_s if n in positions else 0.0 for n in range(300)])
    for stats in (meters.lag.total(), meters.lag.stats(3.0), meters.end_to_end.total()):
        assert stats.mean == pytest.approx(20.0, abs=0.01)
        assert stats.p50 == pytest.approx(20.0, rel=0.05)
        assert stats.p99 == pytest.approx(20.0, rel=0.05)
    assert meters.from_future == len(positions)
    assert meters.lag.total().count == 300 - len(positions)
    assert meters.wait.total().count == 300


@pytest.mark.parametrize("positions", [[0], [0, 1]])
def test_first_timestamps_an_hour_ahead_are_the_venues_clock_until_it_is_known(
    positions: list[int],
) -> None:
    meters = timed([3600.0 if n in positions else 0.0 for n in range(300)])
    assert meters.lag.total().p50 == pytest.approx(20.0, rel=0.05)
    assert meters.lag.total().p99 == pytest.approx(20.0, rel=0.05)
    assert meters.lag.total().count == 300


def test_a_few_seconds_ahead_are_from_the_future_too() -> None:
    meters = timed([5.0 if n % 100 == 50 else 0.0 for n in range(300)])
    assert meters.from_future == 3
    assert meters.lag.total().mean == pytest.approx(20.0, abs=0.01)


@pytest.mark.parametrize("ahead_s", [1.27, 40.0])
def test_a_venue_that_is_always_ahead_has_a_negative_lag(ahead_s: float) -> None:
    meters = timed([ahead_s] * 300)
    assert meters.from_future == 0
    assert meters.lag.total().count == 300
    assert meters.lag.total().mean == pytest.approx(20.0 - ahead_s * 1e3, abs=0.01)


def test_a_clock_that_jumps_ahead_is_followed() -> None:
    meters = timed([0.0] * 100 + [10.0] * 200)
    assert meters.from_future <= 64
    assert meters.lag.total().count == 300 - meters.from_future


def test_the_sum_of_a_histogram_never_falls() -> None:
    """An exporter must not let it fall, and would hold it where it was for ever."""
    meters = timed([0.0] * 50)
    before = meters.lag.cumulative((1.0,))[1]
    meters.lag.record(-1.27, 1.0)
    counts, total = meters.lag.cumulative((1.0,))
    assert counts == [51, 51]
    assert total == pytest.approx(before)
    meters.lag.record(0.5, 70.0)
    meters.lag.record(0.5, 200.0)
    counts, total = meters.lag.cumulative((1.0,))
    assert counts == [53, 53]
    assert total == pytest.approx(before + 1.0)
