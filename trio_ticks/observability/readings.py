"""All that can be told of a pipeline in numbers, read into a sink: Prometheus is one, OpenTelemetry another. Nothing on the hot path.

Rules: names are as Prometheus has them (base units), without its prefix and ``_total``; labels come from bounded sets. A counter never
falls, not even by a rounding error, which would look like a restart. Whoever reads, a pipeline is read in its own event loop, at one
checkpoint, so that its sums agree.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol, get_args

import trio

from ..gaps import GapReason
from ..ledger import INTENTIONAL
from ..metrics import LatencyWindow
from ..scaling import Limit
from .health import Health
from .symbols import SymbolCounts

if TYPE_CHECKING:
    from ..pipeline import Pipeline

__all__ = ["BUCKETS_S", "MOST_WORKERS", "Readings", "Sink"]

BUCKETS_S: Final = tuple(step * 10.0**exponent for exponent in range(-5, 2) for step in (1.0, 2.5, 5.0))[:-1]
"""The upper bounds of the histograms, in seconds: from 10 microseconds to 25 seconds."""

_PATIENCE_S: Final = 1.0
"""How long another thread waits for the event loop."""
MOST_WORKERS: Final = 64
"""So many workers have series of their own; the sums are of all."""

_SAMPLED: Final = "Where quick handlers follow each other densely it is sampled: its count is of samples, not of ticks."
_NO_LOOP: Final = "One sample a batch; none where handlers run in the event loop."
_RECENT: Final = ("mean", "p50", "p99", "p999", "max")
_FEED_GAPS: Final = ("sequence", "reconnect", "malformed", "breaker", "throttle")
_STATES: Final = ("idle", "busy", "ended")


class Sink(Protocol):
    """Takes the numbers of one pipeline. It is told every name each time; a value of ``None`` says that there is nothing to tell now."""

    def gauge(self, name: str, help: str, value: float | None, **labels: str) -> None: ...

    def counter(self, name: str, help: str, value: float | None, **labels: str) -> None: ...

    def histogram(self, name: str, help: str, counts: list[int], total: float) -> None:
        """Take how many samples were at most each of ``BUCKETS_S``, then all of them; and their sum in seconds."""


class Readings:
    """What there is to read of one pipeline. Made in the pipeline's event loop."""

    def __init__(self, pipeline: Pipeline[Any], health: Health, symbols: SymbolCounts | None = None) -> None:
        self.health = health
        self.loop_delay = LatencyWindow()
        """How late the event loop was, as far as somebody measures it."""
        self._pipeline = pipeline
        self._state = pipeline._state
        self._pool = pipeline._pool
        self._symbols = symbols
        self._wall_offset = time.time() - self._state.now()
        self._thread = threading.get_ident()
        self._token = trio.lowlevel.current_trio_token()
        self._highest: dict[str, float] = {}

    def read_into(self, sink: Sink) -> bool:
        """Tell *sink* everything, from whichever thread; False, and nothing told, where the event loop has ended or does not answer."""
        if threading.get_ident() == self._thread or trio.lowlevel.in_trio_run():
            self._read_into(sink)
            return True
        return self._read_in_loop(sink)

    def _read_in_loop(self, sink: Sink) -> bool:
        """Have the pipeline's event loop do it, and wait for that, but not for ever: the loop may be waiting for a lock of our caller's."""
        reading, done = threading.Lock(), threading.Event()
        given_up, failures = False, list[Exception]()

        def read() -> None:
            with reading:
                if given_up:
                    return
                try:
                    self._read_into(sink)
                except Exception as error:  # It is our caller's, and would end the event loop.
                    failures.append(error)
                done.set()

        try:
            self._token.run_sync_soon(read)
        except trio.RunFinishedError:
            return False
        if not done.wait(_PATIENCE_S):
            with reading:
                given_up = True
        if failures:
            raise failures[0]
        return done.is_set()

    def _read_into(self, sink: Sink) -> None:
        now = self._state.now()
        self.health.look(now)
        self._read_feed(sink, now)
        self._read_queue(sink, now)
        self._read_outcomes(sink)
        self._read_symbols(sink)
        self._read_workers(sink, now)
        self._read_latencies(sink, now)
        self._read_pipeline(sink)

    def _rising(self, key: str, value: float) -> float:
        """Return the highest *value* so far: sums of floats may fall by a rounding error, and counters must not."""
        highest = self._highest[key] = max(value, self._highest.get(key, value))
        return highest

    def _read_feed(self, sink: Sink, now: float) -> None:
        stats, gaps = self._pipeline.feed_stats, self._state.gaps
        sink.gauge("feed_connected", "Whether the feed is connected (1) or not (0).", self.health.connected)
        sink.counter("feed_messages", "Complete data messages received, whatever became of them.", stats.messages)
        sink.counter("feed_malformed_messages", "Messages that made no tick since they were bad.", stats.malformed)
        sink.counter("feed_ignored_messages", "Messages that made no tick and need not: heartbeats, unknown kinds.", stats.ignored)
        text = "Attempts to connect, the first successful one not counted, by result."
        sink.counter("feed_reconnects", text, stats.reconnects, result="success")
        sink.counter("feed_reconnects", text, stats.connect_failures, result="failure")
        sink.counter("feed_watchdog_trips", "Connections given up since nothing had arrived for too long.", stats.watchdog_trips)
        for name, text, counts in (
            ("feed_gaps", "Losses before the queue that the feed noticed, one for each symbol, by reason.", gaps.found),
            ("feed_missed_items", "Items known to be missing in such gaps, by reason; of a reconnect nobody can know.", gaps.missed),
        ):
            for reason, count in _by_reason(counts):
                sink.counter(name, text, count, reason=reason)
        last, throttle = self.health.last_message_at, self._pipeline.throttle
        text = "When the feed's last message was noticed, in seconds since the epoch; looked at once a second."
        sink.gauge("feed_last_message_timestamp_seconds", text, None if last is None else last + self._wall_offset)
        text = "What the feed is asked to keep to; absent without a limit."
        sink.gauge("feed_throttle_ticks_per_second", text, None if throttle is None else throttle.rate)

    def _read_queue(self, sink: Sink, now: float) -> None:
        state = self._state
        arrivals = [state.buffer.oldest_arrival()] if state.buffer else []
        parked = state.lanes.oldest_arrival()
        if parked is not None:
            arrivals.append(parked)
        sink.gauge("queue_items", "Ticks that wait now.", state.queued)
        sink.gauge("queue_capacity_items", "Ticks that may wait at most.", state.maxsize)
        sink.gauge("queue_peak_items", "Most ticks that ever waited at once.", state.peak)
        sink.gauge("queue_oldest_item_age_seconds", "How long the oldest tick has waited.", now - min(arrivals, default=now))
        sink.counter("queue_blocked_seconds", "Time for which a sender waited for room.", self._rising("blocked", state.blocked_s))
        pressure = self._pipeline.pressure
        text = "How full the queue is: 1 for the state that it is in."
        for each in ("ok", "warn", "shed"):
            sink.gauge("pressure", text, each == pressure.state, state=each)
        sink.counter("pressure_changes", "How often the pressure's state has changed.", pressure.changes)

    def _read_outcomes(self, sink: Sink) -> None:
        ledger = self._pipeline.ledger
        sink.counter("ticks_received", "Ticks that were handed to the queue.", ledger.produced)
        sink.counter("ticks_delivered", "Ticks that left the queue towards a worker.", ledger.delivered)
        text = "Ticks discarded, by reason; intentional where a tick did its duty by it."
        for reason, count in ledger.dropped_by_reason.items():
            sink.counter("ticks_discarded", text, count, reason=reason, intentional="true" if reason in INTENTIONAL else "false")
        text = "Ticks whose handler returned (success) or raised (failure)."
        sink.counter("ticks_handled", text, ledger.consumed, result="success")
        sink.counter("ticks_handled", text, ledger.failed, result="failure")
        sink.gauge("in_flight_ticks", "Ticks that workers hold now.", ledger.in_flight)
        sink.gauge("pipeline_unaccounted_items", "Ticks without an outcome: 0, or there is a bug.", ledger.unaccounted)

    def _read_symbols(self, sink: Sink) -> None:
        received = "As ticks_received, for the symbols that have a label; none unless asked for."
        text = "Ticks that the queue discarded, for the symbols that have a label; none unless asked for."
        sink.counter("symbol_ticks_received", received, None)
        sink.counter("symbol_ticks_discarded", text, None)
        symbols = self._symbols
        if symbols is None:
            return
        for symbol, count in symbols.received.items():
            sink.counter("symbol_ticks_received", received, count, symbol=symbol)
        for intentional, counts in (("false", symbols.lost), ("true", symbols.intentional)):
            for symbol, count in counts.items():
                sink.counter("symbol_ticks_discarded", text, count, symbol=symbol, intentional=intentional)

    def _read_workers(self, sink: Sink, now: float) -> None:
        pool = self._pool
        rows = [worker.metrics(now) for worker in pool.workers]
        for state in _STATES:
            sink.gauge("workers", "Workers, by what they do now.", sum(row.state == state for row in rows), state=state)
        wanted, limit = (None, None) if pool.scaling is None else (pool.scaling.wanted, pool.scaling.limit)
        sink.gauge("workers_wanted", "Workers that the load asks for; absent where the pool does not size itself.", wanted)
        text = "1 for what keeps a pool that sizes itself from growing, if anything does."
        for each in get_args(Limit) if pool.scaling is not None else ():
            sink.gauge("workers_limit", text, each == limit, limit=each)
        if pool.scaling is None:
            sink.gauge("workers_limit", text, None)
        busy_s, life_s = pool.busy_s(now), pool.life_s(now)
        text = "Time that workers spent otherwise than waiting for ticks, summed over workers; its rate over their number is the load."
        sink.counter("workers_busy_seconds", text, self._rising("busy", busy_s))
        text = "Share of their life that the workers did not wait for ticks, from 0 to 1."
        sink.gauge("workers_busy_ratio", text, busy_s / life_s if life_s else 0.0)
        sink.counter("worker_restarts", "Workers that were replaced since their process had ended.", pool.restarts)
        sink.counter("handler_timeouts", "Handlings that took longer than their time limit.", pool.timeouts)
        sink.counter("handler_retries", "Further tries of handlers that raised.", pool.retries)
        sink.gauge("breaker_open_symbols", "Symbols set aside since their handler kept failing.", pool.symbols_set_aside)
        for row in rows[:MOST_WORKERS]:
            for state in _STATES:
                text = f"1 for what each worker does now, of the first {MOST_WORKERS}."
                sink.gauge("worker_state", text, row.state == state, worker=row.name, state=state)
            sink.gauge("worker_busy_ratio", "As workers_busy_ratio, for each worker.", row.busy_ratio, worker=row.name)
            sink.gauge("worker_in_flight_ticks", "Ticks that each worker holds now.", row.in_flight, worker=row.name)
            text = "As ticks_handled, for each worker."
            sink.counter("worker_ticks_handled", text, row.consumed, worker=row.name, result="success")
            sink.counter("worker_ticks_handled", text, row.failed, worker=row.name, result="failure")

    def _read_latencies(self, sink: Sink, now: float) -> None:
        meters = self._pool.meters
        timed = (
            ("queue_wait", "From a tick's arrival in the queue to its handling.", meters.wait),
            ("handler", "How long the handler took.", meters.handler),
            ("tick_lag", "From a tick's own timestamp to its handling, clocks' difference included.", meters.lag),
            ("end_to_end", "From a tick's own timestamp to the end of its handling, clocks' difference included.", meters.end_to_end),
            ("hand_over", "What a batch costs beside its handler, to and from a thread or a process.", meters.hand_over),
        )
        recent = {}
        for name, help, window in timed:
            note = _NO_LOOP if name == "hand_over" else _SAMPLED
            self._read_histogram(sink, f"{name}_seconds", f"{help} {note}", window)
            stats = recent[name] = window.stats(now)
            for statistic in _RECENT:
                value = getattr(stats, statistic) / 1e3 if stats.count else None
                sink.gauge(f"{name}_recent_seconds", f"{help} Over the last minute.", value, statistic=statistic)
        sink.gauge(
            "feed_lag_seconds",
            "Mean over the last minute from a tick's own timestamp to its arrival here; negative where the venue's clock is ahead.",
            (recent["tick_lag"].mean - recent["queue_wait"].mean) / 1e3,
        )
        text = "How late the event loop wakes a task that sleeps; measured once a second."
        self._read_histogram(sink, "event_loop_delay_seconds", text, self.loop_delay)

    def _read_histogram(self, sink: Sink, name: str, help: str, window: LatencyWindow) -> None:
        counts, total = window.cumulative(BUCKETS_S)
        sink.histogram(name, help, counts, self._rising(name, total))

    def _read_pipeline(self, sink: Sink) -> None:
        pipeline = self._pipeline
        for state in ("running", "draining", "stopped"):
            sink.gauge("pipeline_state", "1 for the state that the pipeline is in.", pipeline._phase == state, state=state)
        text = "When the pipeline was started, in seconds since the epoch."
        sink.gauge("pipeline_start_time_seconds", text, pipeline._began + self._wall_offset)
        # Another event loop's are not this pipeline's.
        now = trio.lowlevel.current_statistics() if threading.get_ident() == self._thread else None
        sink.gauge("event_loop_tasks", "Tasks in the event loop, trio's own included.", None if now is None else now.tasks_living)
        sink.gauge("event_loop_runnable_tasks", "Tasks that could run at once.", None if now is None else now.tasks_runnable)


def _by_reason(counts: dict[str, int]) -> Iterable[tuple[str, int]]:
    """Return *counts* for each reason that a feed may have; what a feed of the user's made up is ``other``."""
    reasons = dict.fromkeys(_FEED_GAPS, 0)
    for reason, count in list(counts.items()):
        known = reason if reason in get_args(GapReason) else "other"
        reasons[known] = reasons.get(known, 0) + count
    return reasons.items()
