"""What an operator reads: frozen snapshots of a pipeline, and the moving windows behind their percentiles.

Snapshots are made when somebody asks; nothing here runs per tick except :meth:`LatencyWindow.record`, and that on samples.
Memory is bounded: a window is a fixed number of slots, each a fixed number of logarithmic buckets.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from .ledger import LedgerSnapshot

__all__ = ["LatencyStats", "LatencyWindow", "PipelineMetrics", "PipelineReport", "WorkerMetrics"]

_RATIO = 1.05
_FLOOR_S = 1e-7
BOUNDS_S = tuple(_FLOOR_S * _RATIO**exponent for exponent in range(math.ceil(math.log(1e5 / _FLOOR_S, _RATIO)) + 1))
"""The upper bounds of a window's buckets, in seconds; one more bucket is above them all."""


@attrs.frozen(slots=True)
class LatencyStats:
    """A distribution of durations, in milliseconds. All zero where nothing was measured (``count`` is 0)."""

    count: int = 0
    """How many samples it stands on."""
    mean: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0
    p999: float = 0.0


class _Slot:
    """The samples of one stretch of time; negative values (a venue's clock ahead of ours) share the lowest bucket."""

    __slots__ = ("counts", "maximum", "minimum", "number", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.clear()

    def clear(self) -> None:
        self.counts[:] = [0] * len(self.counts)
        self.number = 0
        self.total = 0.0
        self.maximum = -math.inf
        self.minimum = math.inf

    def add(self, other: _Slot) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.number += other.number
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)
        self.minimum = min(self.minimum, other.minimum)

    def quantile(self, fraction: float) -> float:
        rank = fraction * self.number
        seen = 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                low = BOUNDS_S[index - 1] if index else min(self.minimum, 0.0)
                high = BOUNDS_S[index] if index < len(BOUNDS_S) else self.maximum
                inside = 1 - (seen - rank) / count
                return min(max(low + (high - low) * inside, self.minimum), self.maximum)
        return self.maximum

    def stats(self) -> LatencyStats:
        if not self.number:
            return LatencyStats()
        return LatencyStats(
            count=self.number,
            mean=self.total / self.number * 1e3,
            p50=self.quantile(0.50) * 1e3,
            p99=self.quantile(0.99) * 1e3,
            p999=self.quantile(0.999) * 1e3,
            max=self.maximum * 1e3,
        )


class LatencyWindow:
    """Durations of the last *span_s* seconds, and of the whole run.

    Algorithm: logarithmic histograms (buckets 5 % wide, from 100 ns to a day, interpolated) in a ring of *slots*; the
    window is the sum of the slots that are not too old, so it forgets in steps of ``span_s / slots``. Percentiles are within 5 % of
    the exact ones; mean and maximum are exact.
    """

    __slots__ = ("_current", "_ends", "_expired", "_slot_s", "_slots", "_stamps")

    def __init__(self, span_s: float = 60.0, slots: int = 12) -> None:
        self._slot_s = span_s / slots
        self._slots = [_Slot() for _ in range(slots)]
        self._stamps = [-math.inf] * slots
        self._expired = _Slot()
        self._current = self._slots[0]
        self._ends = -math.inf

    def record(self, seconds: float, now: float) -> None:
        """Add one sample, taken at the clock's *now* (seconds)."""
        if now >= self._ends:
            self._turn(now)
        slot = self._current
        slot.counts[bisect_right(BOUNDS_S, seconds)] += 1
        slot.number += 1
        slot.total += seconds
        if seconds > slot.maximum:
            slot.maximum = seconds
        if seconds < slot.minimum:
            slot.minimum = seconds

    def _turn(self, now: float) -> None:
        period = math.floor(now / self._slot_s)
        index = period % len(self._slots)
        self._current = self._slots[index]
        self._ends = (period + 1) * self._slot_s
        if self._stamps[index] != period:
            if self._current.number:
                self._expired.add(self._current)
                self._current.clear()
            self._stamps[index] = period

    def stats(self, now: float) -> LatencyStats:
        """Return the distribution over the moving window that ends at *now*."""
        newest = math.floor(now / self._slot_s)
        window = _Slot()
        for slot, stamp in zip(self._slots, self._stamps, strict=True):
            if slot.number and stamp > newest - len(self._slots):
                window.add(slot)
        return window.stats()

    def _whole(self) -> _Slot:
        whole = _Slot()
        for slot in (self._expired, *self._slots):
            if slot.number:
                whole.add(slot)
        return whole

    def total(self) -> LatencyStats:
        """Return the distribution over the whole run."""
        return self._whole().stats()

    def counts(self) -> list[int]:
        """Return how many samples of the whole run are in each bucket; what came between two calls is their difference."""
        return self._whole().counts

    def cumulative(self, bounds_s: tuple[float, ...]) -> tuple[list[int], float]:
        """Return how many samples of the whole run were at most each of *bounds_s* (seconds), then all of them; and their sum (seconds)."""
        whole = self._whole()
        return [*(sum(whole.counts[: bisect_right(BOUNDS_S, bound)]) for bound in bounds_s), whole.number], whole.total


@attrs.frozen(slots=True, kw_only=True)
class WorkerMetrics:
    """One worker's row."""

    name: str
    state: str
    """``"idle"`` (waits for ticks), ``"busy"`` or ``"ended"``."""
    consumed: int
    failed: int
    in_flight: int
    busy_ratio: float
    """Share of its life that it did not wait for ticks, 0 to 1."""
    symbol: str | None = None
    """What it handles now."""


@attrs.frozen(slots=True, kw_only=True)
class PipelineMetrics:
    """A pipeline at one moment. Durations are in milliseconds, rates in ticks a second unless their name says otherwise."""

    timestamp: datetime
    """When it was taken, in UTC."""
    uptime_s: float
    state: str
    """``"running"``, ``"draining"`` (the feed has ended or was stopped) or ``"stopped"``."""
    queue_size: int
    queue_capacity: int
    queue_peak: int
    queue_utilization_pct: float
    items_produced: int
    items_consumed: int
    items_failed: int
    items_dropped: int
    dropped_by_reason: Mapping[str, int]
    in_flight: int
    unaccounted: int
    """Ticks without an outcome: 0, or there is a bug."""
    malformed: int
    ignored: int
    produced_per_s: float
    """Over the last 5 s, or over the run where it is shorter; over more where nobody has looked for longer."""
    consumed_per_s: float
    drop_rate_per_min: float
    """Drops a minute over the last minute, or over the run where it is shorter."""
    processing_lag_ms: LatencyStats
    """From a tick's own timestamp to its handling: the feed's delay, the wait here, and the difference between the clocks."""
    queue_wait_ms: LatencyStats
    """From a tick's arrival in the channel to its handling."""
    handler_latency_ms: LatencyStats
    """How long the handler took."""
    avg_processing_latency_ms: float
    """Mean of ``handler_latency_ms``."""
    producer_connected: bool
    reconnects: int
    blocked_s: float
    """How long senders have waited for room, in seconds."""
    pressure: str
    """``"ok"``, ``"warn"`` or ``"shed"``."""
    workers: tuple[WorkerMetrics, ...]
    workers_wanted: int | None = None
    """How many workers the load asks for, where the pool sizes itself."""
    workers_limit: str | None = None
    """What keeps that pool from growing: ``"maximum"``, ``"loop"``, ``"gil"``, ``"cores"``, ``"gain"`` or ``"order"``."""
    handler_timeouts: int = 0
    """Handlings that took longer than ``handler_timeout``, whatever came of them."""
    handler_retries: int = 0
    """Further tries of handlers that raised; see :class:`~trio_ticks.Retry`."""
    hand_over_ms: LatencyStats = LatencyStats()
    """What it took to hand a batch to its thread or process and to get its outcome back, beside its handling."""
    worker_restarts: int = 0
    """Worker processes that took the place of one that had ended."""
    symbols_set_aside: int = 0
    """Symbols that the breaker has set aside now, or that wait for their trial."""
    throttle_rate: float | None = None
    """What the feed was asked to keep to; ``None``: no limit, or no :class:`~trio_ticks.Throttle`."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        result = attrs.asdict(self)
        result["timestamp"] = self.timestamp.isoformat()
        result["dropped_by_reason"] = dict(self.dropped_by_reason)
        return result


@attrs.frozen(slots=True, kw_only=True)
class PipelineReport:
    """What a pipeline did, from start to end."""

    ledger: LedgerSnapshot
    malformed: int
    ignored: int
    duration_s: float
    produced_per_s: float
    consumed_per_s: float
    processing_lag_ms: LatencyStats
    queue_wait_ms: LatencyStats
    handler_latency_ms: LatencyStats
    queue_peak: int
    reconnects: int
    blocked_s: float
    handler_timeouts: int = 0
    handler_retries: int = 0
    hand_over_ms: LatencyStats = LatencyStats()
    worker_restarts: int = 0

    @property
    def produced(self) -> int:
        return self.ledger.produced

    @property
    def consumed(self) -> int:
        return self.ledger.consumed

    @property
    def failed(self) -> int:
        return self.ledger.failed

    @property
    def dropped(self) -> int:
        return self.ledger.dropped

    @property
    def queued(self) -> int:
        return self.ledger.queued

    @property
    def in_flight(self) -> int:
        return self.ledger.in_flight

    @property
    def dropped_by_reason(self) -> Mapping[str, int]:
        return self.ledger.dropped_by_reason

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON: the ledger's counters at the top level."""
        result: dict[str, Any] = self.ledger.to_dict()
        result.update(attrs.asdict(self, filter=lambda field, _value: field.name != "ledger"))
        return result

    def __str__(self) -> str:
        ledger = self.ledger
        drops = ", ".join(f"{reason} {count:,}" for reason, count in ledger.dropped_by_reason.items() if count) or "none"
        law = f"{ledger.unaccounted:,} UNACCOUNTED" if ledger.unaccounted else "the law holds"
        return (
            f"produced {ledger.produced:,} = consumed {ledger.consumed:,} + failed {ledger.failed:,} + dropped {ledger.dropped:,}"
            f" + queued {ledger.queued:,} + in flight {ledger.in_flight:,}  ({law})\n"
            f"dropped: {drops}; malformed: {self.malformed:,}\n"
            f"{self.duration_s:.1f} s, {self.consumed_per_s:,.0f} handled/s, "
            f"handler p50 {self.handler_latency_ms.p50:.2f} ms p99 {self.handler_latency_ms.p99:.2f} ms, "
            f"queue wait p50 {self.queue_wait_ms.p50:.2f} ms p99 {self.queue_wait_ms.p99:.2f} ms, "
            f"lag p50 {self.processing_lag_ms.p50:.1f} ms p99 {self.processing_lag_ms.p99:.1f} ms"
        )
