"""Rebuild the snapshots of a pipeline in another process from the metrics it serves.

Where both halves of a pipeline with a buffer are served under one name, the snapshot is
the workers' half, with the ingest beside it, as in the pipeline itself.

Rules: :mod:`.samples` reads what is served, and trusts none of it. Rates are
differences between polls, as a pipeline's own are between its samples. Times are those
of our clock, so the clocks of the two machines need to agree only at the first poll.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any, Final

import attrs
import trio

from ..buffer import BufferStatistics
from ..clock import Clock
from ..ledger import REASONS
from ..metrics.advice import advice_text
from ..metrics.latency import LatencyStats
from ..metrics.rates import Rates
from ..metrics.snapshots import (
    FeedMetrics,
    IngestMetrics,
    LastFailure,
    Overdue,
    PipelineMetrics,
    WorkerMetrics,
)
from .fetch import FetchError, HttpAddress, fetch
from .readings import MOST_WORKERS
from .recorder_readings import recorder_from
from .samples import MOST_LABEL, MOST_PIPELINES, Answer, Samples, parse_metrics, read_answer
from .terminal.history import History

__all__ = [
    "MOST_LABEL",
    "MOST_PIPELINES",
    "Answer",
    "RemotePipeline",
    "Samples",
    "Watch",
    "parse_metrics",
    "read_answer",
]

_ACCEPT: Final = "text/plain; version=0.0.4"
_MOST_CHANGES: Final = 6
"""How many advised changes are shown."""
_LAST_FAILURE: Final = "handler_last_failure_timestamp_seconds"
_MOST_FEEDS: Final = 200
_MOST_SILENT: Final = 20


class RemotePipeline:
    """One pipeline in another process, from poll to poll.

    Args:
        samples: the first poll's; rates are counted from it.
        clock: the clock of the polls; its wall time tells how old the pipeline is.
    """

    def __init__(self, samples: Samples, clock: Clock) -> None:
        self._clock = clock
        now = clock.now()
        self.started_at = samples.number("pipeline_start_time_seconds")
        self._began = now - max(0.0, clock.wall() - self.started_at if self.started_at else 0.0)
        self._rates = Rates(now, *_totals(samples))
        self.history = History()
        self.workers = 0
        """How many workers there are, with or without a row of their own."""
        self.metrics = self._metrics_from(samples)
        self.history.begin(self.metrics)

    def update(self, samples: Samples) -> None:
        """Take in the samples of another poll."""
        self.metrics = self._metrics_from(samples)
        self.history.add(self.metrics)

    def _metrics_from(self, samples: Samples) -> PipelineMetrics:
        now = self._clock.now()
        produced, handled, dropped, failed = _totals(samples)
        recent = self._rates.read(now, produced, handled, dropped, failed)
        size, capacity = samples.count("queue_items"), samples.count("queue_capacity_items")
        handler, reasons = _latency(samples, "handler"), _by_reason(samples)
        self.workers = samples.count("workers")
        return PipelineMetrics(
            timestamp=self._clock.utc(),
            uptime_s=now - self._began,
            state=samples.state("pipeline_state"),
            queue_size=size,
            queue_capacity=capacity,
            queue_peak=samples.count("queue_peak_items"),
            waiting_for_room=samples.count("queue_waiting_for_room_items"),
            queue_utilization_pct=100 * size / capacity if capacity else 0.0,
            items_produced=produced,
            items_consumed=handled,
            items_failed=failed,
            items_dropped=dropped,
            dropped_by_reason=reasons,
            in_flight=samples.count("in_flight_ticks"),
            unaccounted=samples.count("pipeline_unaccounted_items"),
            malformed=samples.count("feed_malformed_messages_total"),
            ignored=samples.count("feed_ignored_messages_total"),
            produced_per_s=recent.produced_per_s,
            consumed_per_s=recent.consumed_per_s,
            dropped_per_s=recent.dropped_per_s,
            failed_per_s=recent.failed_per_s,
            last_failure=_last_failure(samples),
            overdue=_overdue(samples),
            drop_rate_per_min=recent.drops_per_min,
            processing_lag_ms=_latency(samples, "tick_lag"),
            queue_wait_ms=_latency(samples, "queue_wait"),
            handler_latency_ms=handler,
            avg_processing_latency_ms=handler.mean,
            producer_connected=_connected(samples),
            reconnects=samples.count("feed_reconnects_total", result="success"),
            silent_symbols=samples.count("feed_silent_symbols"),
            silent_names=tuple(islice(samples.by("feed_silent_symbol", "symbol"), _MOST_SILENT)),
            market_open=_market_open(samples),
            blocked_s=samples.number("queue_blocked_seconds_total"),
            pressure=samples.state("pressure"),
            # A program of an older version does not say.
            sheds=not samples.has("queue_sheds") or bool(samples.number("queue_sheds")),
            handler_timeouts=samples.count("handler_timeouts_total"),
            handler_retries=samples.count("handler_retries_total"),
            symbols_set_aside=samples.count("breaker_open_symbols"),
            hand_over_ms=_latency(samples, "hand_over"),
            worker_restarts=samples.count("worker_restarts_total"),
            loop_delay_ms=1e3 * samples.number("event_loop_longest_delay_seconds"),
            loop_blocks=samples.count("event_loop_blocks_total"),
            throttle_rate=samples.number("feed_throttle_ticks_per_second") or None,
            advice=_advice(samples),
            **_of_workers(samples),
            **_of_halves(samples),
        )


def _overdue(samples: Samples) -> Overdue | None:
    workers = samples.count("handler_overdue_workers")
    if not workers:
        return None
    symbol = next(iter(samples.by("handler_overdue_seconds", "symbol")), "?")
    return Overdue(workers=workers, for_s=samples.number("handler_overdue_seconds"), symbol=symbol)


def _last_failure(samples: Samples) -> LastFailure | None:
    """Return what the handler raised last; there is one series at a time."""
    for error, at in samples.by(_LAST_FAILURE, "error").items():
        symbol = next(iter(samples.by(_LAST_FAILURE, "symbol")), "?")
        with suppress(ValueError, OverflowError, OSError):
            return LastFailure(error=error, symbol=symbol, at=datetime.fromtimestamp(at, UTC))
    return None


def _advice(samples: Samples) -> str | None:
    shares = samples.by("advised_drop_ratio", "change").items()
    return advice_text(dict(islice(shares, _MOST_CHANGES)))


def _totals(samples: Samples) -> tuple[int, int, int, int]:
    return (
        samples.count("ticks_received_total"),
        samples.count("ticks_handled_total", result="success"),
        samples.count("ticks_discarded_total"),
        samples.count("ticks_handled_total", result="failure"),
    )


def _connected(samples: Samples) -> bool:
    """Return whether the feed is connected; of several, all of them."""
    feeds = samples.by("feed_connected", "feed")
    return all(feeds.values()) if feeds else bool(samples.number("feed_connected"))


def _of_workers(samples: Samples) -> dict[str, Any]:
    """Return the fields of a snapshot that tell of workers, and what they wish for."""
    limits = samples.by("workers_limit", "limit").items()
    names = islice(samples.by("worker_busy_ratio", "worker"), MOST_WORKERS)
    return {
        "workers_wanted": samples.count("workers_wanted")
        if samples.has("workers_wanted")
        else None,
        "workers_limit": next((limit for limit, value in limits if value), None),
        "workers": tuple(_worker(samples, name) for name in names),
    }


def _of_halves(samples: Samples) -> dict[str, Any]:
    """Return the fields of a snapshot that tell of halves, of feeds and of results."""
    return {
        "items_given_back": samples.count("ticks_given_back_total"),
        "half": samples.half,
        "buffer": _buffer(samples),
        "ingest": _ingest(samples.ingest),
        "feeds": _feeds(samples.ingest or samples),
        "recorder": recorder_from(samples.ingest or samples),
        **_of_results(samples),
    }


def _of_results(samples: Samples) -> dict[str, Any]:
    """Return the fields of a snapshot that tell of results; none without a store."""
    if not samples.has("results_waiting"):
        return {}
    return {
        "results_written": samples.count("results_written_total"),
        "results_failed": samples.count("results_failed_total"),
        "results_waiting": samples.count("results_waiting"),
        "results_waiting_s": samples.number("results_waiting_seconds_total"),
    }


_BUFFER: Final = {
    "connected": "buffer_connected",
    "reconnects": "buffer_reconnects_total",
    "round_trip_s": "buffer_round_trip_seconds",
    "maxsize": "buffer_capacity_items",
    "used": "buffer_items",
    "in_doubt": "buffer_in_doubt_ticks",
    "duplicates": "buffer_duplicate_ticks_total",
    "full_s": "buffer_full_seconds_total",
    "redelivered": "buffer_redelivered_ticks_total",
    "acknowledged": "buffer_acknowledged_ticks_total",
    "given_back": "buffer_given_back_ticks_total",
    "unacknowledged": "buffer_unacknowledged_ticks",
    "fenced": "buffer_fenced_total",
    "dead": "buffer_dead_letter_ticks_total",
    "junk": "buffer_junk_entries_total",
    "lag": "buffer_lag_ticks",
    "lag_s": "buffer_lag_seconds",
    "shards": "buffer_shards",
    "takeovers": "buffer_takeovers_total",
    "clock_difference_s": "buffer_clock_difference_seconds",
    "clock_error_s": "buffer_clock_error_seconds",
}
"""The metric of each field of the statistics of a buffer."""


def _buffer(samples: Samples) -> BufferStatistics | None:
    """Return what a half knows of the buffer; ``None`` without one."""
    if samples.half is None:
        return None
    values: dict[str, Any] = {
        field: (samples.number if "seconds" in name else samples.count)(name)
        for field, name in _BUFFER.items()
        if samples.has(name)
    }
    values["connected"] = bool(values.get("connected"))
    if samples.half == "ingest":
        values["appended"] = samples.count("ticks_handled_total", result="success")
        values["failed"] = samples.count("ticks_handled_total", result="failure")
    else:
        values["received"] = samples.count("ticks_received_total")
    return attrs.evolve(BufferStatistics(), **values)


def _ingest(samples: Samples | None) -> IngestMetrics | None:
    buffer = None if samples is None else _buffer(samples)
    if samples is None or buffer is None:
        return None
    return IngestMetrics(
        connected=_connected(samples),
        pressure=samples.state("pressure"),
        queue_size=samples.count("queue_items"),
        queue_capacity=samples.count("queue_capacity_items"),
        waiting_for_room=samples.count("queue_waiting_for_room_items"),
        items_produced=samples.count("ticks_received_total"),
        items_appended=buffer.appended,
        items_failed=buffer.failed,
        items_dropped=samples.count("ticks_discarded_total"),
        dropped_by_reason=_by_reason(samples),
        in_doubt=samples.count("in_flight_ticks"),
        unaccounted=samples.count("pipeline_unaccounted_items"),
        throttle_rate=samples.number("feed_throttle_ticks_per_second") or None,
        buffer=buffer,
    )


def _feeds(samples: Samples) -> tuple[FeedMetrics, ...]:
    """Return a row for each feed, if there are several."""
    return tuple(
        FeedMetrics(
            name=name,
            connected=bool(connected),
            messages=samples.count("feed_messages_total", feed=name),
            malformed=samples.count("feed_malformed_messages_total", feed=name),
            ignored=samples.count("feed_ignored_messages_total", feed=name),
            reconnects=samples.count("feed_reconnects_total", feed=name, result="success"),
            connect_failures=samples.count("feed_reconnects_total", feed=name, result="failure"),
            silent_symbols=samples.count("feed_silent_symbols", feed=name),
            market_open=bool(samples.number("feed_market_open", feed=name)),
        )
        for name, connected in islice(samples.by("feed_connected", "feed").items(), _MOST_FEEDS)
    )


def _by_reason(samples: Samples) -> dict[str, int]:
    return {reason: samples.count("ticks_discarded_total", reason=reason) for reason in REASONS}


def _market_open(samples: Samples) -> bool:
    # A program of an older version does not say.
    return not samples.has("feed_market_open") or bool(samples.number("feed_market_open"))


def _latency(samples: Samples, name: str) -> LatencyStats:
    """Return the last minute's distribution.

    Its ``count`` is that of the whole run: the metrics have none for the minute.
    """
    recent = samples.by(f"{name}_recent_seconds", "statistic")
    if not recent:
        return LatencyStats()
    named = {
        statistic: recent.get(statistic, 0.0) * 1e3
        for statistic in ("mean", "p50", "p99", "p999", "max")
    }
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
    """The pipelines that one address serves, as they were when it last answered.

    Args:
        address: of the metrics.
        only: the name of the pipeline that is watched; ``None``: the first 200.
    """

    def __init__(self, address: HttpAddress, only: str | None = None) -> None:
        self.address = address
        self.pipelines: dict[str, RemotePipeline] = {}
        self.gone: set[str] = set()
        """Pipelines that the last answer no longer had."""
        self.more = 0
        """How many pipelines it has besides those that are watched."""
        self.failure: FetchError | None = None
        """Why the last poll had no answer; ``None`` if it had one."""
        self.answered_at = -math.inf
        self._only = only
        self._clock = Clock()

    async def poll(self, keep: Collection[str] = ()) -> None:
        """Ask once, and keep the result: the pipelines, or the failure.

        Args:
            keep: names of pipelines that are kept though they are gone.

        Cancellation: changes nothing; a thread that still reads the answer is left.
        """
        try:
            body = await fetch(self.address, accept=_ACCEPT)
            # In a thread: a large answer takes seconds, and keys are to be heard.
            answer = await trio.to_thread.run_sync(
                partial(_read, body, self._only), abandon_on_cancel=True
            )
        except FetchError as error:
            self.failure = error
            return
        self.failure, self.answered_at = None, trio.current_time()
        self.more = answer.more
        for name, samples in answer.pipelines.items():
            known = self.pipelines.get(name)
            if known is not None and known.started_at == samples.number(
                "pipeline_start_time_seconds"
            ):
                known.update(samples)
            else:
                self.pipelines[name] = RemotePipeline(samples, self._clock)
        self.gone = self.pipelines.keys() - answer.pipelines.keys()
        # Those that are gone are kept while they are few, in case that they come again.
        for name in [name for name in self.pipelines if name in self.gone and name not in keep]:
            if len(self.pipelines) <= MOST_PIPELINES:
                break
            del self.pipelines[name]
            self.gone.discard(name)


def _read(body: bytes, only: str | None) -> Answer:
    return read_answer(body.decode("utf-8", "replace"), only=only)
