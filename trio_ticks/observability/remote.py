"""A pipeline elsewhere as its own snapshots, made from the metrics that it serves.

Rules: what is served is believed, but never trusted to be well-formed: a missing or senseless number is 0. Rates are differences between
looks, as a pipeline's own are; the clock is ours, so that the two machines' clocks need not agree but for the first look.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import trio

from ..ledger import REASONS
from ..metrics import LatencyStats, PipelineMetrics, WorkerMetrics
from ..rates import Rates
from .fetch import FetchError, HttpAddress, fetch
from .history import History

__all__ = ["RemotePipeline", "Samples", "Watch", "parse_metrics"]

_PREFIX: Final = "trio_ticks_"
_ACCEPT: Final = "text/plain; version=0.0.4"


class Samples:
    """The numbers of one pipeline in one answer."""

    def __init__(self) -> None:
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}

    def add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        self._samples.setdefault(name, []).append((labels, value if math.isfinite(value) else 0.0))

    def has(self, name: str) -> bool:
        return name in self._samples

    def number(self, name: str, **labels: str) -> float:
        """Return the sum of what fits: 0 where nothing does."""
        wanted = labels.items()
        return sum(value for own, value in self._samples.get(name, ()) if wanted <= own.items())

    def count(self, name: str, **labels: str) -> int:
        return int(self.number(name, **labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Return the values by one label, in the order in which they came."""
        wanted = labels.items()
        return {own[label]: value for own, value in self._samples.get(name, ()) if label in own and wanted <= own.items()}

    def state(self, name: str, **labels: str) -> str:
        """Return which of a metric's states is 1."""
        return next((state for state, value in self.by(name, "state", **labels).items() if value), "")


def parse_metrics(text: str) -> dict[str, Samples]:
    """Return the pipelines that *text*, in Prometheus' format, tells of.

    Raises:
        FetchError: there is none, or it is no such text.
    """
    # Imported when it is needed: the other commands need not wait for it.
    from prometheus_client.parser import text_string_to_metric_families

    # Only ours: whatever else is served there may be large, and need not make sense to us.
    ours = "\n".join(line for line in text.splitlines() if line.startswith(_PREFIX))
    pipelines: dict[str, Samples] = {}
    try:
        for family in text_string_to_metric_families(ours + "\n"):
            for sample in family.samples:
                if "pipeline" in sample.labels:
                    samples = pipelines.setdefault(sample.labels["pipeline"], Samples())
                    samples.add(sample.name.removeprefix(_PREFIX), sample.labels, sample.value)
    except (ValueError, KeyError, IndexError) as error:
        raise FetchError(f"it serves metrics that cannot be read: {error}") from error
    if not pipelines:
        raise FetchError("it answers, but not with the metrics of a trio_ticks pipeline")
    return pipelines


class RemotePipeline:
    """One pipeline elsewhere, from look to look.

    Args:
        samples: the first look, from which rates are counted.
        now: when it was, on a clock that does not jump, in seconds.
    """

    def __init__(self, samples: Samples, now: float) -> None:
        self.started_at = samples.number("pipeline_start_time_seconds")
        self._began = now - max(0.0, time.time() - self.started_at if self.started_at else 0.0)
        self._rates = Rates(now, *_totals(samples))
        self.history = History()
        self.workers = 0
        """How many there are, with or without a row of their own."""
        self.metrics = self._look(samples, now)
        self.history.begin(self.metrics)

    def update(self, samples: Samples, now: float) -> None:
        """Take another look."""
        self.metrics = self._look(samples, now)
        self.history.add(self.metrics)

    def _look(self, samples: Samples, now: float) -> PipelineMetrics:
        produced, handled, dropped = _totals(samples)
        failed = samples.count("ticks_handled_total", result="failure")
        produced_per_s, consumed_per_s, drops_per_min = self._rates.read(now, produced, handled, dropped)
        size, capacity = samples.count("queue_items"), samples.count("queue_capacity_items")
        handler = _latency(samples, "handler")
        self.workers = samples.count("workers")
        return PipelineMetrics(
            timestamp=datetime.now(UTC),
            uptime_s=now - self._began,
            state=samples.state("pipeline_state"),
            queue_size=size,
            queue_capacity=capacity,
            queue_peak=samples.count("queue_peak_items"),
            queue_utilization_pct=100 * size / capacity if capacity else 0.0,
            items_produced=produced,
            items_consumed=handled,
            items_failed=failed,
            items_dropped=dropped,
            dropped_by_reason={reason: samples.count("ticks_discarded_total", reason=reason) for reason in REASONS},
            in_flight=samples.count("in_flight_ticks"),
            unaccounted=samples.count("pipeline_unaccounted_items"),
            malformed=samples.count("feed_malformed_messages_total"),
            ignored=samples.count("feed_ignored_messages_total"),
            produced_per_s=produced_per_s,
            consumed_per_s=consumed_per_s,
            drop_rate_per_min=drops_per_min,
            processing_lag_ms=_latency(samples, "tick_lag"),
            queue_wait_ms=_latency(samples, "queue_wait"),
            handler_latency_ms=handler,
            avg_processing_latency_ms=handler.mean,
            producer_connected=bool(samples.number("feed_connected")),
            reconnects=samples.count("feed_reconnects_total", result="success"),
            blocked_s=samples.number("queue_blocked_seconds_total"),
            pressure=samples.state("pressure"),
            workers_wanted=samples.count("workers_wanted") if samples.has("workers_wanted") else None,
            workers_limit=next((limit for limit, value in samples.by("workers_limit", "limit").items() if value), None),
            handler_timeouts=samples.count("handler_timeouts_total"),
            handler_retries=samples.count("handler_retries_total"),
            symbols_set_aside=samples.count("breaker_open_symbols"),
            hand_over_ms=_latency(samples, "hand_over"),
            throttle_rate=samples.number("feed_throttle_ticks_per_second") or None,
            workers=tuple(_worker(samples, name) for name in samples.by("worker_busy_ratio", "worker")),
        )


def _totals(samples: Samples) -> tuple[int, int, int]:
    return (
        samples.count("ticks_received_total"),
        samples.count("ticks_handled_total", result="success"),
        samples.count("ticks_discarded_total"),
    )


def _latency(samples: Samples, name: str) -> LatencyStats:
    """Return the last minute's distribution; how many samples it stands on is only known of the whole run."""
    recent = samples.by(f"{name}_recent_seconds", "statistic")
    if not recent:
        return LatencyStats()
    named = {statistic: recent.get(statistic, 0.0) * 1e3 for statistic in ("mean", "p50", "p99", "p999", "max")}
    return LatencyStats(count=samples.count(f"{name}_seconds_count"), **named)


def _worker(samples: Samples, name: str) -> WorkerMetrics:
    return WorkerMetrics(
        name=name,
        state=samples.state("worker_state", worker=name),
        consumed=samples.count("worker_ticks_handled_total", worker=name, result="success"),
        failed=samples.count("worker_ticks_handled_total", worker=name, result="failure"),
        in_flight=samples.count("worker_in_flight_ticks", worker=name),
        busy_ratio=samples.number("worker_busy_ratio", worker=name),
    )


class Watch:
    """All the pipelines that one address tells of, as they were when it answered last."""

    def __init__(self, address: HttpAddress) -> None:
        self.address = address
        self.pipelines: dict[str, RemotePipeline] = {}
        self.gone: set[str] = set()
        """Those of which the last answer told nothing any more."""
        self.failure: FetchError | None = None
        """Why there was no answer; ``None`` while there is."""
        self.answered_at = -math.inf

    async def look(self) -> None:
        """Ask once, and keep what comes: the pipelines, or the failure.

        Cancellation: as if it had not been called.
        """
        try:
            body = await fetch(self.address, accept=_ACCEPT)
            answer = parse_metrics(body.decode("utf-8", "replace"))
        except FetchError as error:
            self.failure = error
            return
        now = trio.current_time()
        self.failure, self.answered_at = None, now
        for name, samples in answer.items():
            known = self.pipelines.get(name)
            if known is not None and known.started_at == samples.number("pipeline_start_time_seconds"):
                known.update(samples, now)
            else:
                self.pipelines[name] = RemotePipeline(samples, now)
        self.gone = self.pipelines.keys() - answer.keys()
