"""Snapshots and the report of a pipeline, made from what may be observed of it."""

from __future__ import annotations

from typing import Any

from .advice import advice_text
from .observed import Observed, WorkerStatistics
from .rates import Rates
from .snapshots import (
    FeedMetrics,
    IngestMetrics,
    PipelineMetrics,
    PipelineReport,
    RecorderMetrics,
)

__all__ = ["feed_rows", "is_connected", "make_metrics", "make_report", "recorder_of"]


def is_connected(pipeline: Observed) -> bool:
    """Return whether the feed is connected, and neither ended nor stopped."""
    return pipeline.feed_stats.connected and pipeline.phase in ("running", "paused")


def feed_rows(pipeline: Observed) -> tuple[FeedMetrics, ...]:
    """Return a row for each feed of *pipeline* or its ingest, if there are several."""
    bringing = pipeline.ingest or pipeline
    feeds = bringing.feed_statistics
    if len(feeds) < 2:
        return ()
    running = bringing.phase in ("running", "paused")
    return tuple(
        FeedMetrics(
            name=name,
            connected=counts.connected and running,
            messages=counts.messages,
            malformed=counts.malformed,
            ignored=counts.ignored,
            reconnects=counts.reconnects,
            connect_failures=counts.connect_failures,
            silent_symbols=counts.silent_symbols,
            market_open=counts.expects_data,
        )
        for name, counts in feeds.items()
    )


def _make_ingest(pipeline: Observed) -> IngestMetrics | None:
    """Return the half of the ingest that runs beside *pipeline*, if any does."""
    ingest = pipeline.ingest
    buffer = None if ingest is None else ingest.buffer_statistics
    if ingest is None or buffer is None:
        return None
    ledger, channel, throttle = ingest.ledger.snapshot(), ingest.statistics(), ingest.throttle
    return IngestMetrics(
        connected=is_connected(ingest),
        pressure=ingest.pressure.state,
        queue_size=channel.current_buffer_used,
        queue_capacity=channel.max_buffer_size,
        waiting_for_room=channel.waiting_for_room,
        items_produced=ledger.produced,
        items_appended=ledger.consumed,
        items_failed=ledger.failed,
        items_dropped=ledger.dropped,
        dropped_by_reason=ledger.dropped_by_reason,
        in_doubt=ledger.in_flight,
        unaccounted=ledger.unaccounted,
        throttle_rate=None if throttle is None else throttle.rate,
        buffer=buffer,
    )


def _results(workers: WorkerStatistics) -> dict[str, Any]:
    """Return the fields of a snapshot that tell of results."""
    return {
        "results_written": workers.results_written,
        "results_failed": workers.results_failed,
        "results_waiting": workers.results_waiting,
        "results_waiting_s": workers.results_waiting_s,
    }


def recorder_of(pipeline: Observed) -> RecorderMetrics | None:
    """Return what is recorded of the feeds of *pipeline*, or of its ingest."""
    recording = (pipeline.ingest or pipeline).recording
    return None if recording is None else recording()


def _around(pipeline: Observed) -> dict[str, Any]:
    """Return the fields of a snapshot that tell of feeds, buffer and recorder."""
    return {
        "half": pipeline.half,
        "buffer": pipeline.buffer_statistics,
        "ingest": _make_ingest(pipeline),
        "feeds": feed_rows(pipeline),
        "recorder": recorder_of(pipeline),
    }


def _steering(pipeline: Observed) -> dict[str, Any]:
    return {"state": pipeline.phase, "paused": pipeline.paused}


def make_metrics(pipeline: Observed, rates: Rates) -> PipelineMetrics:
    """Return *pipeline* at this moment; the reading is added to *rates*."""
    now = pipeline.clock.now()
    ledger, meters, feed = pipeline.ledger.snapshot(), pipeline.meters, pipeline.feed_stats
    channel, workers = pipeline.statistics(), pipeline.worker_statistics()
    recent = rates.read(now, ledger.produced, ledger.consumed, ledger.dropped, ledger.failed)
    handler, watch = meters.handler.stats(now), pipeline.loop_watch
    return PipelineMetrics(
        timestamp=pipeline.clock.utc(),
        uptime_s=now - pipeline.began_at,
        **_steering(pipeline),
        queue_size=channel.current_buffer_used,
        queue_capacity=channel.max_buffer_size,
        waiting_for_room=channel.waiting_for_room,
        queue_peak=channel.peak_buffer_used,
        queue_utilization_pct=100 * channel.current_buffer_used / channel.max_buffer_size,
        items_produced=ledger.produced,
        items_consumed=ledger.consumed,
        items_failed=ledger.failed,
        items_dropped=ledger.dropped,
        dropped_by_reason=ledger.dropped_by_reason,
        in_flight=ledger.in_flight,
        unaccounted=ledger.unaccounted,
        malformed=feed.malformed,
        ignored=feed.ignored,
        produced_per_s=recent.produced_per_s,
        consumed_per_s=recent.consumed_per_s,
        dropped_per_s=recent.dropped_per_s,
        failed_per_s=recent.failed_per_s,
        last_failure=workers.last_failure,
        overdue=workers.overdue,
        drop_rate_per_min=recent.drops_per_min,
        processing_lag_ms=meters.lag.stats(now),
        queue_wait_ms=meters.wait.stats(now),
        handler_latency_ms=handler,
        avg_processing_latency_ms=handler.mean,
        producer_connected=is_connected(pipeline),
        reconnects=feed.reconnects,
        blocked_s=channel.blocked_s,
        pressure=pipeline.pressure.state,
        sheds=pipeline.pressure.sheds,
        workers=tuple(row.metrics for row in workers.rows),
        workers_wanted=workers.wanted,
        workers_limit=workers.limit,
        handler_timeouts=workers.timeouts,
        handler_retries=workers.retries,
        hand_over_ms=meters.hand_over.stats(now),
        worker_restarts=workers.restarts,
        symbols_set_aside=workers.symbols_set_aside,
        throttle_rate=None if pipeline.throttle is None else pipeline.throttle.rate,
        silent_symbols=feed.silent_symbols,
        silent_names=feed.silent_names,
        market_open=feed.expects_data,
        loop_delay_ms=1e3 * watch.delay_s() if watch else 0.0,
        loop_blocks=watch.blocks if watch else 0,
        items_given_back=ledger.given_back,
        **_around(pipeline),
        advice=advice_text(pipeline.meters.advice),
        **_results(workers),
    )


def make_report(pipeline: Observed) -> PipelineReport:
    """Return what *pipeline* has done from its start until now."""
    duration = pipeline.clock.now() - pipeline.began_at
    ledger, meters, feed = pipeline.ledger.snapshot(), pipeline.meters, pipeline.feed_stats
    channel, workers = pipeline.statistics(), pipeline.worker_statistics()
    return PipelineReport(
        ledger=ledger,
        malformed=feed.malformed,
        ignored=feed.ignored,
        duration_s=duration,
        produced_per_s=ledger.produced / duration if duration else 0.0,
        consumed_per_s=ledger.consumed / duration if duration else 0.0,
        failed_per_s=ledger.failed / duration if duration else 0.0,
        last_failure=workers.last_failure,
        overdue=workers.overdue,
        loop_blocks=pipeline.loop_watch.blocks if pipeline.loop_watch else 0,
        advice=advice_text(pipeline.meters.advice),
        processing_lag_ms=meters.lag.total(),
        queue_wait_ms=meters.wait.total(),
        handler_latency_ms=meters.handler.total(),
        queue_peak=channel.peak_buffer_used,
        reconnects=feed.reconnects,
        connect_failures=feed.connect_failures,
        refused=feed.refused,
        half=pipeline.half,
        blocked_s=channel.blocked_s,
        handler_timeouts=workers.timeouts,
        handler_retries=workers.retries,
        hand_over_ms=meters.hand_over.total(),
        worker_restarts=workers.restarts,
        results_written=workers.results_written,
        results_failed=workers.results_failed,
        results_waiting_s=workers.results_waiting_s,
        recorder=recorder_of(pipeline),
    )
