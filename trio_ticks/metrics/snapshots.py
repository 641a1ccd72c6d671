"""What an operator reads: frozen snapshots of a pipeline, and its report.

Rules: a snapshot is made when somebody asks; nothing here runs per tick. All its
numbers are read between two checkpoints of the pipeline's event loop, so that its sums
agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from ..buffer import BufferStatistics
from ..ledger import LedgerSnapshot
from .latency import LatencyStats

__all__ = [
    "FeedMetrics",
    "IngestMetrics",
    "LastFailure",
    "PipelineMetrics",
    "PipelineReport",
    "RecorderMetrics",
    "WorkerMetrics",
    "plain",
]


def plain(value: Any) -> Any:
    """Return the fields of an attrs object as plain values, ready for JSON."""
    return attrs.asdict(value, value_serializer=_plain_value)


def _plain_value(_object: Any, _field: Any, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return dict(value) if isinstance(value, Mapping) else value


@attrs.frozen(slots=True, kw_only=True)
class LastFailure:
    """What the handler raised last."""

    error: str
    """The name of the exception's class; in a worker process, of the class there."""
    symbol: str
    """The symbol of the tick that failed by it."""
    at: datetime
    """When, in UTC."""


@attrs.frozen(slots=True, kw_only=True)
class Overdue:
    """Ticks whose handler does not return, or whose ``on_error`` does not."""

    workers: int
    """How many workers have had the same tick in hand for at least a second, and for
    three times as long as the slowest handling of the last minute; or for five seconds
    in ``on_error``."""
    for_s: float
    """For how long the first of them has, in seconds."""
    symbol: str
    """The symbol of its tick."""


@attrs.frozen(slots=True, kw_only=True)
class FeedMetrics:
    """One feed's row, where a pipeline has several."""

    name: str
    connected: bool
    """Whether it is connected, and the pipeline runs."""
    messages: int = 0
    malformed: int = 0
    ignored: int = 0
    reconnects: int = 0
    connect_failures: int = 0
    silent_symbols: int = 0
    """Symbols of which nothing has come for longer than usual."""
    market_open: bool = True


@attrs.frozen(slots=True, kw_only=True)
class IngestMetrics:
    """The ingest's half beside the workers' half of the same program."""

    connected: bool
    """Whether the feed is connected."""
    pressure: str
    queue_size: int
    queue_capacity: int
    waiting_for_room: int
    items_produced: int
    items_appended: int
    items_failed: int
    items_dropped: int
    dropped_by_reason: Mapping[str, int]
    in_doubt: int
    """Ticks that were sent to the broker and are not confirmed."""
    unaccounted: int
    throttle_rate: float | None = None
    """The rate that the feed was asked for, in ticks a second; ``None``: no limit."""
    buffer: BufferStatistics
    """What this half knows of the buffer."""


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
    """The share of its life that the worker did not wait for ticks, from 0 to 1."""
    symbol: str | None = None
    """The symbol that the worker handles now."""


@attrs.frozen(slots=True, kw_only=True)
class RecorderMetrics:
    """What a :class:`~trio_ticks.Recorder` has done, over all its feeds."""

    messages: int
    """Messages in the files."""
    bytes: int
    """Their lines, before they were compressed."""
    written_bytes: int
    """Bytes in the files."""
    dropped: int
    """Messages that could not be recorded."""
    waiting_bytes: int
    """Bytes that wait for the disk."""
    files: int
    """Files that were begun."""
    file: str | None = None
    """The file that was begun last."""
    errors: int = 0
    """Times that the disk failed."""
    last_error: str | None = None
    """How it failed last."""
    failing: bool = False
    """Whether the disk takes nothing at the moment."""


@attrs.frozen(slots=True, kw_only=True)
class PipelineMetrics:
    """A pipeline at one moment.

    Durations are in milliseconds and rates in ticks a second, unless their name says
    otherwise.
    """

    timestamp: datetime
    """When it was taken, in UTC."""
    uptime_s: float
    state: str
    """``"running"``, ``"paused"``, ``"draining"`` (the feed ended or was stopped) or
    ``"stopped"``."""
    paused: str | None = None
    """How it is paused, as ``Pipeline.pause`` was told; ``None``: it is not."""
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
    """Ticks without an outcome: 0 unless there is a bug."""
    malformed: int
    ignored: int
    produced_per_s: float
    """Over the last 5 s, or the run if it is shorter.

    Over a longer time if snapshots are taken less often than that.
    """
    consumed_per_s: float
    """Over the same time as ``produced_per_s``."""
    drop_rate_per_min: float
    """Drops a minute over the last minute, or over the run if it is shorter."""
    processing_lag_ms: LatencyStats
    """From a tick's own timestamp to its handling.

    It includes the feed's delay, the wait in the queue, and the difference of the
    clocks.
    """
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
    """``"ok"``, ``"warn"`` or ``"shed"``: the queue is full."""
    workers: tuple[WorkerMetrics, ...]
    workers_wanted: int | None = None
    """How many workers the load asks for; ``None`` unless the pool sizes itself."""
    workers_limit: str | None = None
    """What keeps that pool from growing.

    One of ``"maximum"``, ``"loop"``, ``"gil"``, ``"cores"``, ``"gain"``, ``"order"``.
    """
    handler_timeouts: int = 0
    """Handlings that took longer than ``handler_timeout``, whatever their outcome."""
    handler_retries: int = 0
    """Further tries of handlers that raised; see :class:`~trio_ticks.Retry`."""
    hand_over_ms: LatencyStats = LatencyStats()  # noqa: RUF009  # frozen
    """The time to hand a batch to a thread or process and to get its outcome back."""
    worker_restarts: int = 0
    """Worker processes that replaced one that had ended."""
    symbols_set_aside: int = 0
    """Symbols that the breaker has set aside, or that wait for their trial."""
    waiting_for_room: int = 0
    """Ticks that found no room yet and wait for it.

    The ledger's ``queued`` is ``queue_size`` and these.
    """
    throttle_rate: float | None = None
    """The rate that the feed was asked for, in ticks a second; ``None``: no limit."""
    silent_symbols: int = 0
    """Symbols of which nothing has come for longer than usual."""
    silent_names: tuple[str, ...] = ()
    """Some of them by name: at most 20."""
    market_open: bool = True
    """Whether market data is expected, as far as the feed was told."""
    overdue: Overdue | None = None
    """Ticks whose handler does not return; ``None``: there are none."""
    loop_delay_ms: float = 0.0
    """How late the event loop was at most in the last 10 s."""
    loop_blocks: int = 0
    """How often the event loop has stood still for 0.2 s or longer.

    A handler or a feed blocked it.
    """
    dropped_per_s: float = 0.0
    """Over the same time as ``produced_per_s``."""
    failed_per_s: float = 0.0
    """Over the same time; ``consumed_per_s`` has none of these."""
    last_failure: LastFailure | None = None
    """What the handler raised last; ``None``: nothing yet."""
    sheds: bool = True
    """Whether a full queue discards ticks; under ``Block()`` the feed waits instead."""
    items_given_back: int = 0
    """Ticks that went back to the buffer unhandled."""
    half: str | None = None
    """``"ingest"`` or ``"work"``; ``None`` without a buffer between processes.

    At the ingest ``items_consumed`` is what the broker has taken for good, and
    ``in_flight`` what was sent and is not confirmed.
    """
    buffer: BufferStatistics | None = None
    """What this half knows of the buffer; ``None`` without one."""
    ingest: IngestMetrics | None = None
    """The other half, if both run in one program; this is then the workers' half."""
    feeds: tuple[FeedMetrics, ...] = ()
    """A row for each feed, if there are several; also those of ``ingest``."""
    recorder: RecorderMetrics | None = None
    """What is recorded, also by ``ingest``; ``None`` without ``record``."""
    results_written: int = 0
    """Results of handlers that were written; see ``results`` of
    :func:`~trio_ticks.open_pipeline`."""
    results_failed: int = 0
    """Results that could not be written, so that their ticks failed."""
    results_waiting: int | None = None
    """Results that are being written, or wait for a store that is away; ``None``
    without ``results``."""
    results_waiting_s: float = 0.0
    """How long workers have waited for results to be written, in seconds, summed over
    workers."""
    advice: str | None = None
    """Which settings would have avoided what was lost last, or would do as well.

    By a simulation of the last losses; ``None`` while there is nothing to advise.
    """

    @property
    def failed_share(self) -> float:
        """The share of the ticks handled lately that failed, from 0 to 1.

        Over the same time as ``produced_per_s``; 0 if none was handled.
        """
        handled = self.consumed_per_s + self.failed_per_s
        return self.failed_per_s / handled if handled > 0 else 0.0

    @property
    def pressure_word(self) -> str:
        """The pressure in a word for people: ``"full"`` where nothing is shed."""
        return "full" if self.pressure == "shed" and not self.sheds else self.pressure

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        result: dict[str, Any] = plain(self)
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
    hand_over_ms: LatencyStats = LatencyStats()  # noqa: RUF009  # frozen
    worker_restarts: int = 0
    results_written: int = 0
    results_failed: int = 0
    results_waiting_s: float = 0.0
    failed_per_s: float = 0.0
    """Over the whole run."""
    last_failure: LastFailure | None = None
    """What the handler raised last; ``None``: nothing."""
    overdue: Overdue | None = None
    """Handlers that had not returned when the last worker ended; ``None``: all had."""
    loop_blocks: int = 0
    """How often the event loop has stood still for 0.2 s or longer."""
    recorder: RecorderMetrics | None = None
    """What was recorded; ``None`` without ``record``."""
    fingerprint: str | None = None
    """Of a replay on a virtual clock: the same for two runs in which the same ticks
    came, were dropped and were handled, in the same order at the same times."""
    advice: str | None = None
    """Which settings would have avoided what was lost last, or would do as well."""
    connect_failures: int = 0
    """Attempts to connect that have failed."""
    refused: int = 0
    """Subscriptions that the venue has refused."""
    half: str | None = None
    """Which half of a pipeline with a buffer between processes; ``None`` without one.

    An ingest's ``consumed`` is what was appended, and its ``in_flight`` what is in
    doubt; a work's ``produced`` is what it received."""

    @property
    def failed_share(self) -> float:
        """The share of the handled ticks that failed, from 0 to 1; 0 if none was."""
        handled = self.ledger.consumed + self.ledger.failed
        return self.ledger.failed / handled if handled else 0.0

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
        """Return plain values for JSON, with the ledger's counters at the top level."""
        result: dict[str, Any] = self.ledger.to_dict()
        result.update(
            attrs.asdict(
                self,
                filter=lambda field, _value: field.name != "ledger",
                value_serializer=_plain_value,
            )
        )
        return result

    def __str__(self) -> str:
        ledger = self.ledger
        drops = (
            ", ".join(
                f"{reason} {count:,}" for reason, count in ledger.dropped_by_reason.items() if count
            )
            or "none"
        )
        back = f" + given back {ledger.given_back:,}" if ledger.given_back else ""
        law = f"{ledger.unaccounted:,} UNACCOUNTED" if ledger.unaccounted else "the law holds"
        came = "received" if self.half == "work" else "produced"
        done, held = "consumed", "in flight"
        if self.half == "ingest":
            done, held = "appended", "in doubt"
        return (
            f"{came} {ledger.produced:,} = {done} {ledger.consumed:,}"
            f" + failed {ledger.failed:,} + dropped {ledger.dropped:,}"
            f" + queued {ledger.queued:,} + {held} {ledger.in_flight:,}{back}  ({law})\n"
            f"dropped: {drops}; malformed: {self.malformed:,}\n"
            f"{self.duration_s:.1f} s, {self.consumed_per_s:,.0f} handled/s, "
            f"handler p50 {self.handler_latency_ms.p50:.2f} ms "
            f"p99 {self.handler_latency_ms.p99:.2f} ms, "
            f"queue wait p50 {self.queue_wait_ms.p50:.2f} ms p99 {self.queue_wait_ms.p99:.2f} ms, "
            f"lag p50 {self.processing_lag_ms.p50:.1f} ms p99 {self.processing_lag_ms.p99:.1f} ms"
        )
