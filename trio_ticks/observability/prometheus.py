"""The pipelines' counters for Prometheus: a collector that reads plain numbers when it is scraped, and adds nothing to the hot path.

Rules: names as Prometheus has them (base units, ``_total``); labels come from bounded sets, and a symbol is never one. A counter never
falls, not even by a rounding error, which would look like a restart. Whoever scrapes, a pipeline is read in its own event loop, at one
checkpoint, so that its sums agree.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..errors import ConfigError
from ..ledger import INTENTIONAL
from ..metrics import LatencyWindow
from .health import Health

if TYPE_CHECKING:
    from ..pipeline import Pipeline

__all__ = ["BUCKETS_S", "Exported", "export_metrics"]

BUCKETS_S: Final = tuple(step * 10.0**exponent for exponent in range(-5, 2) for step in (1.0, 2.5, 5.0))[:-1]
"""The upper bounds of the histograms, in seconds: from 10 microseconds to 25 seconds."""

_PREFIX: Final = "trio_ticks_"
_SAMPLED: Final = "Where quick handlers follow each other densely it is sampled: its count is of samples, not of ticks."


class _Scrape:
    """The metric families of one scrape, filled pipeline by pipeline."""

    def __init__(self) -> None:
        self.families: dict[str, Metric] = {}
        self.pipeline = ""

    def gauge(self, name: str, help: str, value: float, **labels: str) -> None:
        family = self._family(GaugeMetricFamily, name, help, labels)
        family.add_metric([self.pipeline, *labels.values()], value)

    def counter(self, name: str, help: str, value: float, **labels: str) -> None:
        family = self._family(CounterMetricFamily, name, help, labels)
        family.add_metric([self.pipeline, *labels.values()], value)

    def histogram(self, name: str, help: str, counts: list[int], total: float) -> None:
        family = self._family(HistogramMetricFamily, name, help, {})
        bounds = [*(str(bound) for bound in BUCKETS_S), "+Inf"]
        family.add_metric([self.pipeline], list(zip(bounds, counts, strict=True)), total)

    def states(self, name: str, help: str, state: str, states: Sequence[str]) -> None:
        """Add a state as a gauge for each of *states*, of which one is 1."""
        for each in states:
            self.gauge(name, help, each == state, state=each)

    def _family(self, kind: type[Any], name: str, help: str, labels: dict[str, str]) -> Any:
        family = self.families.get(name)
        if family is None:
            family = self.families[name] = kind(_PREFIX + name, help, labels=["pipeline", *labels])
        return family


class Exported:
    """One pipeline as Prometheus sees it. Made by :func:`export_metrics`, in the pipeline's event loop."""

    def __init__(self, pipeline: Pipeline[Any], name: str, health: Health) -> None:
        self.name = name
        self.health = health
        self.loop_delay = LatencyWindow()
        """How late the event loop was, as far as somebody measures it."""
        self._pipeline = pipeline
        self._state = pipeline._state
        self._pool = pipeline._pool
        self._wall_offset = time.time() - self._state.now()
        self._thread = threading.get_ident()
        self._token = trio.lowlevel.current_trio_token()
        self._highest: dict[str, float] = {}

    def add_to(self, scrape: _Scrape) -> None:
        """Add everything to *scrape*, from whichever thread."""
        if threading.get_ident() == self._thread or trio.lowlevel.in_trio_run():
            self._add_to(scrape)
            return
        with suppress(trio.RunFinishedError):  # It is as good as removed.
            trio.from_thread.run_sync(self._add_to, scrape, trio_token=self._token)

    def _add_to(self, scrape: _Scrape) -> None:
        scrape.pipeline = self.name
        now = self._state.now()
        self.health.look(now)
        self._add_feed(scrape, now)
        self._add_queue(scrape, now)
        self._add_outcomes(scrape)
        self._add_workers(scrape, now)
        self._add_latencies(scrape)
        self._add_pipeline(scrape)

    def _rising(self, key: str, value: float) -> float:
        """Return the highest *value* so far: sums of floats may fall by a rounding error, and counters must not."""
        highest = self._highest[key] = max(value, self._highest.get(key, value))
        return highest

    def _add_feed(self, scrape: _Scrape, now: float) -> None:
        stats, meters = self._pipeline.feed_stats, self._pool.meters
        scrape.gauge("feed_connected", "Whether the feed is connected (1) or not (0).", self.health.connected)
        scrape.counter("feed_messages", "Complete data messages received, whatever became of them.", stats.messages)
        scrape.counter("feed_malformed_messages", "Messages that made no tick since they were bad.", stats.malformed)
        scrape.counter("feed_ignored_messages", "Messages that made no tick and need not: heartbeats, unknown kinds.", stats.ignored)
        text = "Attempts to connect, the first successful one not counted, by result."
        scrape.counter("feed_reconnects", text, stats.reconnects, result="success")
        scrape.counter("feed_reconnects", text, stats.connect_failures, result="failure")
        scrape.counter("feed_watchdog_trips", "Connections given up since nothing had arrived for too long.", stats.watchdog_trips)
        if self.health.last_message_at is not None:
            scrape.gauge(
                "feed_last_message_timestamp_seconds",
                "When the feed's last message was noticed, in seconds since the epoch; looked at once a second.",
                self.health.last_message_at + self._wall_offset,
            )
        scrape.gauge(
            "feed_lag_seconds",
            "Mean over the last minute from a tick's own timestamp to its arrival here; negative where the venue's clock is ahead.",
            (meters.lag.stats(now).mean - meters.wait.stats(now).mean) / 1e3,
        )
        if self._pipeline.throttle is not None and self._pipeline.throttle.rate is not None:
            scrape.gauge("feed_throttle_ticks_per_second", "What the feed is asked to keep to.", self._pipeline.throttle.rate)

    def _add_queue(self, scrape: _Scrape, now: float) -> None:
        state = self._state
        arrivals = [state.buffer.oldest_arrival()] if state.buffer else []
        parked = state.lanes.oldest_arrival()
        if parked is not None:
            arrivals.append(parked)
        scrape.gauge("queue_items", "Ticks that wait now.", state.queued)
        scrape.gauge("queue_capacity_items", "Ticks that may wait at most.", state.maxsize)
        scrape.gauge("queue_peak_items", "Most ticks that ever waited at once.", state.peak)
        scrape.gauge("queue_oldest_item_age_seconds", "How long the oldest tick has waited.", now - min(arrivals, default=now))
        scrape.counter("queue_blocked_seconds", "Time for which a sender waited for room.", self._rising("blocked", state.blocked_s))
        scrape.states(
            "pressure", "How full the queue is: 1 for the state that it is in.", self._pipeline.pressure.state, ("ok", "warn", "shed")
        )
        scrape.counter("pressure_changes", "How often the pressure's state has changed.", self._pipeline.pressure.changes)

    def _add_outcomes(self, scrape: _Scrape) -> None:
        ledger = self._pipeline.ledger
        scrape.counter("ticks_received", "Ticks that were handed to the queue.", ledger.produced)
        scrape.counter("ticks_delivered", "Ticks that left the queue towards a worker.", ledger.delivered)
        text = "Ticks discarded, by reason; intentional where a tick did its duty by it."
        for reason, count in ledger.dropped_by_reason.items():
            scrape.counter("ticks_discarded", text, count, reason=reason, intentional="true" if reason in INTENTIONAL else "false")
        text = "Ticks whose handler returned (success) or raised (failure)."
        scrape.counter("ticks_handled", text, ledger.consumed, result="success")
        scrape.counter("ticks_handled", text, ledger.failed, result="failure")
        scrape.gauge("in_flight_ticks", "Ticks that workers hold now.", ledger.in_flight)
        scrape.gauge("pipeline_unaccounted_items", "Ticks without an outcome: 0, or there is a bug.", ledger.unaccounted)

    def _add_workers(self, scrape: _Scrape, now: float) -> None:
        counts, busy_s, life_s = dict.fromkeys(("idle", "busy", "ended"), 0), 0.0, 0.0
        for worker in self._pool.workers:
            metrics = worker.metrics(now)
            counts[metrics.state] += 1
            life = min(now, worker._ended_at) - worker._born
            busy_s += metrics.busy_ratio * life
            life_s += life
        for state, count in counts.items():
            scrape.gauge("workers", "Workers, by what they do now.", count, state=state)
        text = "Time that workers spent otherwise than waiting for ticks, summed over workers; its rate over their number is the load."
        scrape.counter("workers_busy_seconds", text, self._rising("busy", busy_s))
        text = "Share of their life that the workers did not wait for ticks, from 0 to 1."
        scrape.gauge("workers_busy_ratio", text, busy_s / life_s if life_s else 0.0)

    def _add_latencies(self, scrape: _Scrape) -> None:
        meters = self._pool.meters
        for name, help, window in (
            ("queue_wait_seconds", f"From a tick's arrival in the queue to its handling. {_SAMPLED}", meters.wait),
            ("handler_seconds", f"How long the handler took. {_SAMPLED}", meters.handler),
            (
                "tick_lag_seconds",
                f"From a tick's own timestamp to its handling, clocks' difference included. {_SAMPLED}",
                meters.lag,
            ),
            ("event_loop_delay_seconds", "How late the event loop wakes a task that sleeps; measured once a second.", self.loop_delay),
        ):
            counts, total = window.cumulative(BUCKETS_S)
            scrape.histogram(name, help, counts, self._rising(name, total))

    def _add_pipeline(self, scrape: _Scrape) -> None:
        pipeline = self._pipeline
        scrape.states("pipeline_state", "1 for the state that the pipeline is in.", pipeline._phase, ("running", "draining", "stopped"))
        text = "When the pipeline was started, in seconds since the epoch."
        scrape.gauge("pipeline_start_time_seconds", text, pipeline._began + self._wall_offset)
        if threading.get_ident() == self._thread:
            trio_now = trio.lowlevel.current_statistics()
            scrape.gauge("event_loop_tasks", "Tasks in the event loop, trio's own included.", trio_now.tasks_living)
            scrape.gauge("event_loop_runnable_tasks", "Tasks that could run at once.", trio_now.tasks_runnable)


class _PipelinesCollector(Collector):
    """All pipelines of one registry: two collectors would write each family twice, which no scraper accepts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exported: dict[str, Exported] = {}

    def add(self, exported: Exported) -> None:
        with self._lock:
            if exported.name in self._exported:
                raise ConfigError(f"the registry has a pipeline named {exported.name!r} already; give this one another name")
            self._exported[exported.name] = exported

    def remove(self, exported: Exported) -> bool:
        """Forget *exported*; return whether no pipeline is left."""
        with self._lock:
            del self._exported[exported.name]
            return not self._exported

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            all_exported = list(self._exported.values())
        scrape = _Scrape()
        for exported in all_exported:
            exported.add_to(scrape)
        yield _build_info()
        yield from scrape.families.values()

    def describe(self) -> Iterator[Metric]:
        """Nothing is scraped in order to register."""
        yield _build_info()


def _build_info() -> Metric:
    from .. import __version__

    info = GaugeMetricFamily(_PREFIX + "build_info", "What runs: always 1.", labels=["version", "python", "trio"])
    info.add_metric([__version__, platform.python_version(), trio.__version__], 1)
    return info


_collectors: WeakKeyDictionary[CollectorRegistry, _PipelinesCollector] = WeakKeyDictionary()
"""Which registry has a collector of ours: registries do not tell."""
_collectors_lock = threading.Lock()


@contextmanager
def export_metrics(
    pipeline: Pipeline[Any], registry: CollectorRegistry, *, name: str = "main", health: Health | None = None
) -> Iterator[Exported]:
    """Export *pipeline* in *registry* for as long as the block lasts; several pipelines may share a registry.

    Args:
        pipeline: whose numbers.
        registry: where; ``prometheus_client.REGISTRY`` is the default one of the process.
        name: the value of the label ``pipeline``, unique in the registry.
        health: what knows how fresh the feed is, where somebody has it.

    Raises:
        ConfigError: the name is empty or taken.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"name must be a text, and not empty, got {name!r}")
    exported = Exported(pipeline, name, health or Health(pipeline))
    with _collectors_lock:
        collector = _collectors.get(registry)
        if collector is None:
            collector = _PipelinesCollector()
            registry.register(collector)
            _collectors[registry] = collector
        collector.add(exported)
    try:
        yield exported
    finally:
        with _collectors_lock:
            if collector.remove(exported):
                registry.unregister(collector)
                del _collectors[registry]
