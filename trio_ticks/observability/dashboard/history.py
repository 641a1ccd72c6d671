"""Keep the live page's history: points in three resolutions, connection events. Sync.

Rules: the caller brings the time. All is bounded, whatever happens. Each resolution
takes the differences of counters and of histograms itself, so that no point is an
average of averages: a percentile over five minutes is that of their samples.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from operator import sub
from typing import Any, Final

import attrs

from ...ledger import REASONS
from ...metrics.latency import quantiles_s
from ...metrics.observed import FeedCounts

__all__ = [
    "TIERS",
    "ConnectionLog",
    "FeedTotals",
    "Gauges",
    "History",
    "Moment",
    "Point",
    "Reading",
    "Tier",
    "quantiles_ms",
]

TIERS: Final = ((1.0, 300), (10.0, 360), (300.0, 288))
"""The seconds of a point and the number of points: 5 minutes, an hour, a day."""
RECENT: Final = 2
"""How many points of the finest tier the figures at the top of the page cover."""
_PRESSURES: Final = ("ok", "warn", "shed")
_FRACTIONS: Final = (0.5, 0.99)
_MOST_MOMENTS: Final = 200
_SAME_S: Final = 10.0
"""Events of one kind within these seconds of each other are one, with a count."""


@attrs.frozen(slots=True, kw_only=True)
class Gauges:
    """The values of one moment that no counter keeps."""

    queued: int
    pressure: str
    connected: bool
    throttle_rate: float | None


@attrs.frozen(slots=True, kw_only=True)
class Reading:
    """The counters at one moment.

    The latencies are numbers of samples by bucket of ``latency.BOUNDS_S``.
    """

    at: float
    """Seconds on the pipeline's clock."""
    received: int = 0
    handled: int = 0
    failed: int = 0
    dropped: tuple[int, ...] = (0,) * len(REASONS)
    """In the order of ``REASONS``."""
    wait: Sequence[int] = ()
    handler: Sequence[int] = ()
    lag: Sequence[int] = ()


@attrs.frozen(slots=True, kw_only=True)
class Point:
    """One stretch of time.

    Rates are in ticks a second, durations in milliseconds; ``None`` where nothing was
    measured.
    """

    t: int
    """Its end, in milliseconds since the epoch."""
    span_s: float
    received: float
    handled: float
    failed: float
    dropped: tuple[float, ...]
    """In the order of ``REASONS``."""
    queue_mean: float
    queue_max: int
    wait_p50: float | None
    wait_p99: float | None
    handler_p50: float | None
    handler_p99: float | None
    lag_p50: float | None
    lag_p99: float | None
    pressure: str
    """The worst pressure of all samples."""
    connected: bool
    """Whether the feed was connected at every sample."""
    throttle_rate: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, the drops as ``dropped_<reason>``."""
        result = attrs.asdict(self, recurse=False)
        rates = result.pop("dropped")
        return {
            **result,
            **{f"dropped_{reason}": rate for reason, rate in zip(REASONS, rates, strict=True)},
        }


def quantiles_ms(
    before: Sequence[int], after: Sequence[int], fractions: Sequence[float]
) -> tuple[float | None, ...]:
    """Return quantiles of the samples between two readings of a histogram.

    They have three digits; ``None`` if there were no samples.
    """
    if before == after:
        return (None,) * len(fractions)
    counts = list(map(sub, after, before)) if before else after
    if not any(counts):
        return (None,) * len(fractions)
    return tuple(float(f"{each * 1e3:.3g}") for each in quantiles_s(counts, fractions))


class Tier:
    """The points of one resolution."""

    def __init__(self, step_s: float, most: int, first: Reading) -> None:
        self.step_s = step_s
        self.points: deque[Point] = deque(maxlen=most)
        self._last = first
        self._ends = first.at + step_s
        self._begin()

    def _begin(self) -> None:
        self._samples = self._sum = self._max = self._pressure = 0
        self._connected = True
        self._throttle_rate: float | None = None

    def sample(self, gauges: Gauges) -> None:
        """Add the values of one moment to the point that is being made."""
        self._samples += 1
        self._sum += gauges.queued
        self._max = max(self._max, gauges.queued)
        self._pressure = max(self._pressure, _PRESSURES.index(gauges.pressure))
        self._connected = self._connected and gauges.connected
        self._throttle_rate = gauges.throttle_rate

    def is_due(self, now: float) -> bool:
        """Return whether the point that is being made has reached its end."""
        return now >= self._ends

    def close(self, now: Reading, t: int) -> None:
        """Make a point of all since the last one.

        A point that is made late covers all the time until then.
        """
        last, span = self._last, now.at - self._last.at

        def rate(new: int, old: int) -> float:
            return round((new - old) / span, 2)

        wait_p50, wait_p99 = quantiles_ms(last.wait, now.wait, _FRACTIONS)
        handler_p50, handler_p99 = quantiles_ms(last.handler, now.handler, _FRACTIONS)
        lag_p50, lag_p99 = quantiles_ms(last.lag, now.lag, _FRACTIONS)
        self.points.append(
            Point(
                t=t,
                span_s=round(span, 3),
                received=rate(now.received, last.received),
                handled=rate(now.handled, last.handled),
                failed=rate(now.failed, last.failed),
                dropped=tuple(
                    rate(new, old) for new, old in zip(now.dropped, last.dropped, strict=True)
                ),
                queue_mean=round(self._sum / max(1, self._samples), 1),
                queue_max=self._max,
                wait_p50=wait_p50,
                wait_p99=wait_p99,
                handler_p50=handler_p50,
                handler_p99=handler_p99,
                lag_p50=lag_p50,
                lag_p99=lag_p99,
                pressure=_PRESSURES[self._pressure],
                connected=self._connected,
                throttle_rate=self._throttle_rate,
            )
        )
        self._last = now
        # Ends stay on the grid of steps: a late point does not shift the later ones.
        self._ends += self.step_s * (math.floor((now.at - self._ends) / self.step_s) + 1)
        self._begin()

    def since(self, t: int) -> list[Point]:
        """Return the points that ended after *t*, oldest first."""
        newer: list[Point] = []
        for point in reversed(self.points):
            if point.t <= t:
                break
            newer.append(point)
        return newer[::-1]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: a column for each of a point's fields."""
        rows = [point.to_dict() for point in self.points]
        names = rows[0] if rows else ()
        return {
            "step_s": self.step_s,
            "most": self.points.maxlen,
            "columns": {name: [row[name] for row in rows] for name in names},
        }


class History:
    """A pipeline's past in all resolutions.

    Args:
        first: the counters at the beginning.
        read: returns the current counters; called once for a point of the finest tier.
    """

    def __init__(
        self,
        first: Reading,
        read: Callable[[], Reading],
        tiers: Sequence[tuple[float, int]] = TIERS,
    ) -> None:
        self._read = read
        self.readings = deque([first], maxlen=RECENT + 1)
        """The last readings of the finest tier, the newest last."""
        self.tiers = tuple(Tier(step_s, most, first) for step_s, most in tiers)

    def sample(self, now: float, t: int, gauges: Gauges) -> bool:
        """Add the values of one moment to all tiers.

        Args:
            now: the moment on the pipeline's clock, in seconds.
            t: the same on the wall clock, in milliseconds since the epoch.
            gauges: the values.

        Returns:
            Whether a point of the finest tier was made.
        """
        for tier in self.tiers:
            tier.sample(gauges)
        if not self.tiers[0].is_due(now):
            return False
        reading = self._read()
        self.readings.append(reading)
        for tier in self.tiers:
            if tier.is_due(now):
                tier.close(reading, t)
        return True


@attrs.frozen(slots=True)
class FeedTotals:
    """The counters of a feed at one moment."""

    connected: bool
    reconnects: int
    connect_failures: int
    watchdog_trips: int
    messages: int
    malformed: int
    ignored: int
    refused: int
    silent_symbols: int
    silent_names: tuple[str, ...]
    expects_data: bool

    @classmethod
    def of(cls, counts: FeedCounts) -> FeedTotals:
        """Return *counts* as they are now."""
        return cls(*(getattr(counts, field.name) for field in attrs.fields(cls)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return attrs.asdict(self)


@attrs.frozen(slots=True)
class Moment:
    """An event of the connection, or several of one kind in a row."""

    id: int
    """Rises from one event to the next; an event that is counted again keeps it."""
    t: int
    """When it was noticed, in milliseconds since the epoch; of several, the last."""
    kind: str
    """How the connection changed.

    ``connected``, ``lost``, ``silent`` (nothing had arrived for too long), ``failed``
    (to connect), ``reconnected`` or ``ended``.
    """
    count: int = 1


class ConnectionLog:
    """The events of the connection, derived from the feed's counters.

    No event is missed, but its time is that of the poll that noticed it.
    """

    def __init__(self) -> None:
        self.moments: deque[Moment] = deque(maxlen=_MOST_MOMENTS)
        self._last: FeedTotals | None = None
        self._ended = False

    def poll(self, stats: FeedCounts, ended: bool, t: int) -> None:
        """Compare the counters with those of the last poll, and add events."""
        if self._ended:
            return
        last = self._last
        self._last = now = FeedTotals.of(stats)
        if last is None:
            # It is not known when the events before the first poll happened.
            last = attrs.evolve(now, connected=False)
        self._ended = ended
        back = now.reconnects - last.reconnects
        self._add("silent", now.watchdog_trips - last.watchdog_trips, t)
        # A loss and a return between two polls counts too; the feed's end is no loss.
        self._add("lost", last.connected + back - (now.connected or ended), t)
        self._add("failed", now.connect_failures - last.connect_failures, t)
        self._add("reconnected", back, t)
        self._add("connected", now.connected and not last.connected and not back, t)
        self._add("ended", ended, t)

    def _add(self, kind: str, number: int, t: int) -> None:
        count = int(number)
        if count <= 0:
            return
        newest = self.moments[-1] if self.moments else None
        if newest is not None and newest.kind == kind and t - newest.t <= _SAME_S * 1e3:
            self.moments[-1] = Moment(newest.id, t, kind, newest.count + count)
        else:
            self.moments.append(Moment(1 if newest is None else newest.id + 1, t, kind, count))
