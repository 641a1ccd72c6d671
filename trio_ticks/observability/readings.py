"""Read all numbers of a pipeline into a sink: Prometheus is one, OpenTelemetry another.

Rules: nothing here runs per tick. Names follow Prometheus (base units), without its
prefix and ``_total``; labels come from bounded sets. A counter never falls, not even by
a rounding error, which would look like a restart. A pipeline is read in its own event
loop, at one checkpoint, so that its sums agree; this holds for every reader.

The halves of a pipeline with a buffer between processes have the same names, told apart
by the label ``half``; without a buffer there is no such label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final, get_args

import trio

from ..control.scaling import Limit
from ..gaps import GapReason
from ..ledger import INTENTIONAL
from ..loop import LoopHandle
from ..metrics.latency import LatencyWindow
from ..metrics.observed import Half, Observed, Phase, WorkerStatistics
from ..metrics.snapshots import WorkerMetrics
from .advice_readings import read_advice
from .buffer_readings import read_buffer
from .failure_labels import FailureLabels
from .feed_readings import read_feeds
from .health import Health
from .recorder_readings import read_recorder
from .shown import merged
from .sink import Sink
from .symbols import SymbolCounts

__all__ = ["BUCKETS_S", "MOST_WORKERS", "Readings", "Sink"]

BUCKETS_S: Final = tuple(
    step * 10.0**exponent for exponent in range(-5, 2) for step in (1.0, 2.5, 5.0)
)[:-1]
"""The upper bounds of the histograms, in seconds: from 1e-5 to 25."""

MOST_WORKERS: Final = 64
"""How many workers have series of their own; the sums are of all workers."""

_SAMPLED: Final = (
    "Where quick handlers follow each other densely it is sampled: "
    "its count is of samples, not of ticks."
)
_NO_LOOP: Final = (
    "One sample a batch, of lone ticks one in 16; none where handlers run in the event loop."
)
_RECENT: Final = ("mean", "p50", "p99", "p999", "max")
_FEED_GAPS: Final = ("sequence", "reconnect", "malformed", "breaker", "throttle", "unsubscribed")
_STATES: Final = ("idle", "busy", "ended")


class _OfHalf:
    """Passes all on to a sink, with the label of a half."""

    def __init__(self, sink: Sink, half: str) -> None:
        self._sink = sink
        self._half = half

    def gauge(self, name: str, help: str, value: float | None, **labels: str) -> None:
        self._sink.gauge(name, help, value, half=self._half, **labels)

    def counter(self, name: str, help: str, value: float | None, **labels: str) -> None:
        self._sink.counter(name, help, value, half=self._half, **labels)

    def histogram(
        self, name: str, help: str, counts: list[int], total: float, **labels: str
    ) -> None:
        self._sink.histogram(name, help, counts, total, half=self._half, **labels)


class Readings:
    """Reads one pipeline's numbers. Must be created in the pipeline's event loop.

    Args:
        pipeline: the pipeline to read, with the ingest that runs beside it.
        health: the health of *pipeline*.
        symbols: the counts by symbol, if they are wanted.
        ingest_symbols: the same of the ingest beside it.
    """

    def __init__(
        self,
        pipeline: Observed,
        health: Health,
        symbols: SymbolCounts | None = None,
        ingest_symbols: SymbolCounts | None = None,
    ) -> None:
        self.health = health
        self._ingest: Readings | None = None
        if pipeline.ingest is not None and health.ingest is not None:
            self._ingest = Readings(pipeline.ingest, health.ingest, ingest_symbols)
        self._pipeline = pipeline
        self._symbols = symbols
        self._loop = LoopHandle()
        self._highest: dict[str, float] = {}
        self._failures = FailureLabels()

    def read_into(self, sink: Sink) -> bool:
        """Pass all numbers to *sink*; may be called from any thread.

        Returns:
            False if the event loop has ended or does not answer; *sink* has then got
                nothing.
        """
        if self._loop.is_here or trio.lowlevel.in_trio_run():
            # Another event loop must not wait for this one.
            self._read_into(sink)
            return True
        try:
            self._loop.ask(partial(self._read_into, sink))
        except (trio.RunFinishedError, trio.TooSlowError):
            return False
        return True

    def _read_into(self, sink: Sink) -> None:
        # Both halves at one checkpoint, so that their sums belong together.
        half: Half = self._pipeline.half
        self._read_half(sink if half is None else _OfHalf(sink, half))
        if self._ingest is not None:
            self._ingest._read_into(sink)

    def _read_half(self, sink: Sink) -> None:
        now = self._pipeline.clock.now()
        self.health.refresh(now)
        self._read_feed(sink)
        self._read_queue(sink)
        self._read_outcomes(sink)
        read_buffer(self._pipeline.buffer_statistics, self._pipeline.half, sink, self._rising)
        recording = self._pipeline.recording
        read_recorder(None if recording is None else recording(), sink)
        self._read_symbols(sink)
        self._read_workers(sink)
        self._read_latencies(sink, now)
        self._read_pipeline(sink)

    def _rising(self, key: str, value: float) -> float:
        """Return the highest *value* so far, for a counter.

        Sums of floats may fall by a rounding error, and counters must not fall.
        """
        highest = self._highest[key] = max(value, self._highest.get(key, value))
        return highest

    def _read_feed(self, sink: Sink) -> None:
        read_feeds(self._pipeline, sink)
        gaps = self._pipeline.gap_counts
        for name, text, counts in (
            (
                "feed_gaps",
                "Losses before the queue that the feed noticed, one for each symbol, by reason.",
                gaps.found,
            ),
            (
                "feed_missed_items",
                "Items known to be missing in such gaps, by reason; "
                "of a reconnect nobody can know.",
                gaps.missed,
            ),
        ):
            for reason, count in _by_reason(counts):
                sink.counter(name, text, count, reason=reason)
        last, throttle = self.health.last_data_at, self._pipeline.throttle
        text = (
            "When the feed's last message with market data was noticed, in seconds since "
            "the epoch; looked at once a second."
        )
        sink.gauge(
            "feed_last_message_timestamp_seconds",
            text,
            None if last is None else last + self._pipeline.clock.offset_s,
        )
        text = "What the feed is asked to keep to; absent without a limit."
        sink.gauge(
            "feed_throttle_ticks_per_second", text, None if throttle is None else throttle.rate
        )

    def _read_queue(self, sink: Sink) -> None:
        channel = self._pipeline.statistics()
        sink.gauge("queue_items", "Ticks in the queue now.", channel.current_buffer_used)
        sink.gauge("queue_capacity_items", "Ticks the queue may hold.", channel.max_buffer_size)
        sink.gauge(
            "queue_peak_items",
            "Most ticks that were ever in the queue at once.",
            channel.peak_buffer_used,
        )
        sink.gauge(
            "queue_waiting_for_room_items",
            "Ticks that were brought and wait for room in the queue; they are not in queue_items.",
            channel.waiting_for_room,
        )
        sink.gauge(
            "queue_oldest_item_age_seconds",
            "How long the oldest tick has waited.",
            channel.oldest_age_s,
        )
        sink.counter(
            "queue_blocked_seconds",
            "Time for which a sender waited for room.",
            self._rising("blocked", channel.blocked_s),
        )
        sink.gauge(
            "clock_offset_seconds",
            "Our clock less the venue's plus the quickest delivery's delay, as estimated; "
            "absent unless max_age counts from the timestamp.",
            channel.clock_offset_s,
        )
        sink.counter(
            "clock_jumps",
            "How often the venue's clock, or ours, has jumped; "
            "absent unless max_age counts from the timestamp.",
            channel.clock_jumps,
        )
        pressure = self._pipeline.pressure
        text = "How full the queue is: 1 for the state that it is in."
        for each in ("ok", "warn", "shed"):
            sink.gauge("pressure", text, each == pressure.state, state=each)
        sink.gauge(
            "queue_sheds",
            "Whether a full queue discards ticks (1) or lets the feed wait (0).",
            pressure.sheds,
        )
        sink.counter(
            "pressure_changes", "How often the pressure's state has changed.", pressure.changes
        )

    def _read_outcomes(self, sink: Sink) -> None:
        ledger = self._pipeline.ledger
        sink.counter("ticks_received", "Ticks that were handed to the queue.", ledger.produced)
        sink.counter(
            "ticks_delivered", "Ticks that left the queue towards a worker.", ledger.delivered
        )
        text = "Ticks discarded, by reason; intentional where a tick did its duty by it."
        for reason, count in ledger.dropped_by_reason.items():
            sink.counter(
                "ticks_discarded",
                text,
                count,
                reason=reason,
                intentional="true" if reason in INTENTIONAL else "false",
            )
        text = (
            "Ticks whose handler returned (success) or raised (failure); at an ingest, ticks "
            "that the broker has taken for good, or that could not be written."
        )
        sink.counter("ticks_handled", text, ledger.consumed, result="success")
        sink.counter("ticks_handled", text, ledger.failed, result="failure")
        sink.counter(
            "ticks_given_back",
            "Ticks of the queue that went back to the buffer unhandled; "
            "absent without a buffer between processes.",
            None if self._pipeline.half is None else ledger.given_back,
        )
        sink.gauge(
            "in_flight_ticks",
            "Ticks that workers hold now; at an ingest, those in doubt.",
            ledger.in_flight,
        )
        sink.gauge(
            "pipeline_unaccounted_items",
            "Ticks without an outcome: 0, or there is a bug.",
            ledger.unaccounted,
        )

    def _read_symbols(self, sink: Sink) -> None:
        received = "As ticks_received, for the symbols that have a label; none unless asked for."
        text = (
            "Ticks that the queue discarded, for the symbols that have a label; "
            "none unless asked for."
        )
        sink.counter("symbol_ticks_received", received, None)
        sink.counter("symbol_ticks_discarded", text, None)
        symbols = self._symbols
        if symbols is None:
            return
        for symbol, count in merged(symbols.received).items():
            sink.counter("symbol_ticks_received", received, count, symbol=symbol)
        for intentional, counts in (("false", symbols.lost), ("true", symbols.intentional)):
            for symbol, count in merged(counts).items():
                sink.counter(
                    "symbol_ticks_discarded", text, count, symbol=symbol, intentional=intentional
                )

    def _read_workers(self, sink: Sink) -> None:
        workers = self._pipeline.worker_statistics()
        rows = [row.metrics for row in workers.rows]
        for state in _STATES:
            sink.gauge(
                "workers",
                "Workers, by what they do now.",
                sum(row.state == state for row in rows),
                state=state,
            )
        sink.gauge(
            "workers_wanted",
            "Workers that the load asks for; absent where the pool does not size itself.",
            workers.wanted,
        )
        text = "1 for what keeps a pool that sizes itself from growing, if anything does."
        for each in get_args(Limit) if workers.sizes_itself else ():
            sink.gauge("workers_limit", text, each == workers.limit, limit=each)
        if not workers.sizes_itself:
            sink.gauge("workers_limit", text, None)
        text = (
            "Time that workers spent otherwise than waiting for ticks, summed over workers; "
            "its rate over their number is the load."
        )
        sink.counter("workers_busy_seconds", text, self._rising("busy", workers.busy_s))
        text = "Share of their life that the workers did not wait for ticks, from 0 to 1."
        ratio = workers.busy_s / workers.life_s if workers.life_s else 0.0
        sink.gauge("workers_busy_ratio", text, ratio)
        sink.counter(
            "worker_restarts",
            "Workers that were replaced since their process had ended.",
            workers.restarts,
        )
        sink.counter(
            "handler_timeouts",
            "Handlings that took longer than their time limit.",
            workers.timeouts,
        )
        sink.counter("handler_retries", "Further tries of handlers that raised.", workers.retries)
        sink.gauge(
            "breaker_open_symbols",
            "Symbols set aside since their handler kept failing.",
            workers.symbols_set_aside,
        )
        sink.counter(
            "symbols_forgotten",
            "Symbols whose gap, home or failures were forgotten, since others came.",
            workers.symbols_forgotten,
        )
        self._failures.read(sink, workers.last_failure)
        self._failures.read_overdue(sink, workers.overdue)
        self._read_results(sink, workers)
        self._read_each_worker(sink, rows[:MOST_WORKERS])

    def _read_results(self, sink: Sink, workers: WorkerStatistics) -> None:
        known = workers.results_waiting is not None
        sink.counter(
            "results_written",
            "Results of handlers that were written; absent without results=.",
            workers.results_written if known else None,
        )
        sink.counter(
            "results_failed",
            "Results that could not be written, so that their ticks failed; "
            "absent without results=.",
            workers.results_failed if known else None,
        )
        sink.gauge(
            "results_waiting",
            "Results that are being written, or wait for a store that is away; their workers "
            "wait, too. Absent without results=.",
            workers.results_waiting,
        )
        sink.counter(
            "results_waiting_seconds",
            "Time that workers waited for results to be written, summed over workers; "
            "absent without results=.",
            self._rising("results", workers.results_waiting_s) if known else None,
        )

    def _read_each_worker(self, sink: Sink, rows: Iterable[WorkerMetrics]) -> None:
        for row in rows:
            for state in _STATES:
                text = f"1 for what each worker does now, of the first {MOST_WORKERS}."
                sink.gauge("worker_state", text, row.state == state, worker=row.name, state=state)
            sink.gauge(
                "worker_busy_ratio",
                "As workers_busy_ratio, for each worker.",
                row.busy_ratio,
                worker=row.name,
            )
            sink.gauge(
                "worker_in_flight_ticks",
                "Ticks that each worker holds now.",
                row.in_flight,
                worker=row.name,
            )
            text = "As ticks_handled, for each worker."
            sink.counter(
                "worker_ticks_handled", text, row.consumed, worker=row.name, result="success"
            )
            sink.counter(
                "worker_ticks_handled", text, row.failed, worker=row.name, result="failure"
            )

    def _read_latencies(self, sink: Sink, now: float) -> None:
        meters = self._pipeline.meters
        timed = (
            ("queue_wait", "From a tick's arrival in the queue to its handling.", meters.wait),
            ("handler", "How long the handler took.", meters.handler),
            (
                "tick_lag",
                "From a tick's own timestamp to its handling, clocks' difference included.",
                meters.lag,
            ),
            (
                "end_to_end",
                "From a tick's own timestamp to the end of its handling, "
                "clocks' difference included.",
                meters.end_to_end,
            ),
            (
                "hand_over",
                "What a batch costs beside its handler, to and from a thread or a process.",
                meters.hand_over,
            ),
        )
        sink.counter(
            "tick_lag_from_future",
            "Timed ticks whose timestamp was ahead of the venue's clock by more than 3 s; "
            "tick_lag and end_to_end do not hold them.",
            meters.from_future,
        )
        recent = {}
        for name, help, window in timed:
            remark = _NO_LOOP if name == "hand_over" else _SAMPLED
            self._read_histogram(sink, f"{name}_seconds", f"{help} {remark}", window)
            stats = recent[name] = window.stats(now)
            for statistic in _RECENT:
                value = getattr(stats, statistic) / 1e3 if stats.count else None
                sink.gauge(
                    f"{name}_recent_seconds",
                    f"{help} Over the last minute.",
                    value,
                    statistic=statistic,
                )
        sink.gauge(
            "feed_lag_seconds",
            "Mean over the last minute from a tick's own timestamp to its arrival here; "
            "negative where the venue's clock is ahead.",
            (recent["tick_lag"].mean - recent["queue_wait"].mean) / 1e3,
        )
        self._read_loop(sink)

    def _read_loop(self, sink: Sink) -> None:
        read_advice(sink, self._pipeline.meters.advice)
        watch = self._pipeline.loop_watch
        if watch is None:
            return
        text = "How late the event loop was for a turn that it owes ten times a second."
        self._read_histogram(sink, "event_loop_delay_seconds", text, watch.delays)
        text = "The longest that it took in the last 10 s; what goes on now counts."
        sink.gauge("event_loop_longest_delay_seconds", text, watch.delay_s())
        text = (
            "How often the event loop stood still for 0.2 s or longer, since a handler or a "
            "feed blocked it."
        )
        sink.counter("event_loop_blocks", text, watch.blocks)

    def _read_histogram(self, sink: Sink, name: str, help: str, window: LatencyWindow) -> None:
        counts, total = window.cumulative(BUCKETS_S)
        sink.histogram(name, help, counts, self._rising(name, total))

    def _read_pipeline(self, sink: Sink) -> None:
        pipeline = self._pipeline
        for state in get_args(Phase):
            sink.gauge(
                "pipeline_state",
                "1 for the state that the pipeline is in.",
                pipeline.phase == state,
                state=state,
            )
        text = "When the pipeline was started, in seconds since the epoch."
        began = pipeline.began_at + pipeline.clock.offset_s
        sink.gauge("pipeline_start_time_seconds", text, began)
        # In another event loop, the statistics would be those of that loop.
        now = trio.lowlevel.current_statistics() if self._loop.is_here else None
        sink.gauge(
            "event_loop_tasks",
            "Tasks in the event loop, trio's own included.",
            None if now is None else now.tasks_living,
        )
        sink.gauge(
            "event_loop_runnable_tasks",
            "Tasks that could run at once.",
            None if now is None else now.tasks_runnable,
        )


def _by_reason(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    """Return *counts* for each reason that a feed may have.

    Reasons that a feed of the user's has invented are counted as ``other``.
    """
    reasons = dict.fromkeys(_FEED_GAPS, 0)
    for reason, count in list(counts.items()):
        known = reason if reason in get_args(GapReason) else "other"
        reasons[known] = reasons.get(known, 0) + count
    return reasons.items()
