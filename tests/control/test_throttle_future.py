"""Timestamps from the future do not disturb the delays of a throttled feed's reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import trio_ticks as tt
from trio_ticks.feeds.websocket.throttling import SourceThrottle

WHEN = datetime(2026, 3, 2, tzinfo=UTC)
YEAR_9999 = (datetime(9999, 12, 1, tzinfo=UTC) - WHEN).total_seconds()


class Codec:
    def subscribe(self, symbols: object) -> list[str | bytes]:
        return []

    unsubscribe = subscribe


def delays(ahead_s: dict[int, float], count: int = 300, late_s: float = 0.0) -> list[float]:
    """Return the delays of *count* reads of 50 ticks, 20 ms apart, at most 1000/s.

    *ahead_s* has, by read, how far the last timestamp is ahead of the venue's clock.
    """
    throttle = SourceThrottle(Codec(), "A")
    throttle.limit(1000.0)
    now, result = 0.0, []
    for n in range(count):
        stamp = WHEN + timedelta(seconds=now + ahead_s.get(n, -late_s))
        tick = tt.Tick("A", stamp, 1, 2, 3, 4, 5)
        result.append(throttle.delivered(now, WHEN.timestamp() + now, [tick] * 50, 0.0))
        now += 0.02 + result[-1]
    return result


@pytest.mark.parametrize("ahead_s", [5.0, 3600.0, YEAR_9999])
@pytest.mark.parametrize("reads", [[0], [1], [2], [100], [299], range(0, 300, 100)])
def test_timestamps_from_the_future_change_no_delay(ahead_s: float, reads: list[int]) -> None:
    expected = delays({})
    assert sum(expected) > 5
    assert delays(dict.fromkeys(reads, ahead_s)) == pytest.approx(expected)


def test_a_venue_whose_clock_is_ahead_or_behind_is_throttled_alike() -> None:
    for late_s in (-1.27, 1.27, 30.0):
        assert delays({}, late_s=late_s) == pytest.approx(delays({}))


def test_a_lasting_backlog_never_counts_as_none() -> None:
    """Reading that is behind for minutes is not delayed further.

    Else a ping would be answered later and later.
    """
    throttle = SourceThrottle(Codec(), "A")
    throttle.limit(10.0)
    waited = 0.0
    for n in range(10_000):
        late_s = min(n * 0.01, 20.0)
        tick = tt.Tick("A", WHEN + timedelta(seconds=n * 0.1 - late_s), 1, 2, 3, 4, 5)
        waited += throttle.delivered(n * 0.1, WHEN.timestamp() + n * 0.1, [tick] * 50, 0.0)
        if n == 100:
            at_first = waited
    assert waited - at_first <= 0.5


@pytest.mark.parametrize("ahead_s", [5.0, 3600.0, YEAR_9999])
@pytest.mark.parametrize("position", [0, 1, 24])
def test_rates_are_not_measured_by_timestamps_from_the_future(
    ahead_s: float, position: int
) -> None:
    """Else the limit would seem to be kept, and no symbol would be paused."""

    class PausingCodec(Codec):
        def unsubscribe(self, symbols: Any) -> list[str | bytes]:
            return [",".join(symbols)]

    throttle = SourceThrottle(PausingCodec(), "AB")
    throttle.opening(0.0)
    throttle.limit(500.0)
    throttle.due(2.0)
    for n in range(25):
        now = 2.0 + 0.02 * (n + 1)
        stamp = WHEN + timedelta(seconds=now + (ahead_s if n == position else 0.0))
        ticks = [tt.Tick(symbol, stamp, 1, 2, 3, 4, 5) for symbol in "AB" * 8]
        throttle.delivered(now, WHEN.timestamp() + now, ticks, 0.0)
    assert throttle.due(2.5) == ["B"]
