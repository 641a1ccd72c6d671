"""Write reports and progress as plain text.

Rules: no colours, no control codes, and nothing but the facts of a snapshot.
"""

from __future__ import annotations

import json
from typing import Any

from ..ledger import INTENTIONAL, REASONS
from ..metrics.latency import LatencyStats
from ..metrics.observed import Half
from ..metrics.snapshots import (
    LastFailure,
    Overdue,
    PipelineMetrics,
    PipelineReport,
    RecorderMetrics,
)
from ..observability.shown import overdue_words, shown

__all__ = ["json_line", "progress_line", "report_text", "size_text"]


def json_line(value: Any) -> str:
    """Return *value* as JSON on one line, of printable ASCII alone."""
    # The one control character that JSON does not escape.
    return json.dumps(value).replace("\x7f", "\\u007f")


def progress_line(metrics: PipelineMetrics) -> str:
    """Return one line about a running pipeline."""
    connection = (
        "connected"
        if metrics.producer_connected
        else "feed stopped"
        if metrics.state not in ("running", "paused")
        else "NOT CONNECTED"
    )
    if metrics.half is not None:
        connection = _two_connections(metrics, connection)
    if metrics.state == "paused":
        connection += ", PAUSED"
    # What came in before the feed's end is no rate of now.
    came = (
        f"{metrics.produced_per_s:,.0f}/s"
        if metrics.state in ("running", "paused")
        else f"{metrics.items_produced:,}"
    )
    return (
        f"{metrics.uptime_s:6.1f} s  {connection}  in {came}  "
        f"out {metrics.consumed_per_s:,.0f}/s  "
        f"queue {metrics.queue_size:,}/{metrics.queue_capacity:,} "
        f"({metrics.queue_utilization_pct:.0f} %, {metrics.pressure_word})  "
        f"dropped {metrics.items_dropped:,}  failed {metrics.items_failed:,}{_failing(metrics)}  "
        f"wait p99 {_ms(metrics.queue_wait_ms.p99)}{_recording(metrics.recorder)}"
        f"{_overdue(metrics.overdue)}{_blocks(metrics.loop_blocks)}"
    )


def _two_connections(metrics: PipelineMetrics, connection: str) -> str:
    """Say of the broker, too, whether it is there; *connection* is the feed's."""
    broker = metrics.buffer is not None and metrics.buffer.connected
    if metrics.state not in ("running", "paused"):
        return connection
    # A work that is paused has given its shards back.
    left = metrics.half == "work" and metrics.state == "paused"
    words = f"broker {'connected' if broker else 'left' if left else 'AWAY'}"
    if metrics.half == "ingest":
        return f"feed {connection}, {words}"
    if metrics.ingest is not None and not metrics.ingest.connected:
        return f"feed NOT CONNECTED, {words}"
    return words


def _failing(metrics: PipelineMetrics) -> str:
    if not metrics.failed_per_s:
        return ""
    return f" ({metrics.failed_per_s:,.0f}/s{_last(metrics.last_failure)})"


def _last(failure: LastFailure | None) -> str:
    return f", last {shown(failure.error)} of {shown(failure.symbol)}" if failure else ""


def _overdue(overdue: Overdue | None) -> str:
    return f"  {overdue_words(overdue)}" if overdue else ""


def _blocks(count: int) -> str:
    return f"  LOOP BLOCKED {count:,}x" if count else ""


def _ms(value: float) -> str:
    return f"{value:,.2f} ms" if abs(value) < 10 else f"{value:,.0f} ms"


def _drops(report: PipelineReport, *, intentional: bool) -> str:
    counts = {
        reason: report.dropped_by_reason.get(reason, 0)
        for reason in REASONS
        if (reason in INTENTIONAL) is intentional
    }
    return ", ".join(f"{reason} {number:,}" for reason, number in counts.items() if number)


def _results(report: PipelineReport) -> list[str]:
    if not (report.results_written or report.results_failed):
        return []
    return [
        f"  {report.results_written:,} results written, {report.results_failed:,} failed, "
        f"workers waited {report.results_waiting_s:.2f} s for them"
    ]


def _recorded(recorder: RecorderMetrics | None) -> list[str]:
    """Say what was recorded, and what could not be."""
    if recorder is None:
        return []
    files = f"{recorder.files:,} file{'s' * (recorder.files != 1)}"
    last = "" if recorder.file is None else f", the last is {shown(recorder.file)}"
    lines = [
        f"  recorded {recorder.messages:,} messages, {size_text(recorder.bytes)} in "
        f"{size_text(recorder.written_bytes)}, {files}{last}"
    ]
    if recorder.dropped:
        lines.append(f"  {recorder.dropped:,} messages COULD NOT BE RECORDED")
    if recorder.errors:
        times = "once" if recorder.errors == 1 else f"{recorder.errors:,} times"
        lines.append(f"  the disk failed {times}: {shown(recorder.last_error or '?')}")
    return lines


def _recording(recorder: RecorderMetrics | None) -> str:
    """Return what a line of progress says of the recorder."""
    if recorder is None:
        return ""
    text = f"  recorded {recorder.messages:,} ({size_text(recorder.written_bytes)})"
    if recorder.dropped:
        text += f", {recorder.dropped:,} LOST"
    if recorder.failing:
        text += f", DISK FAILS: {shown(recorder.last_error or '?')}"
    return text


def size_text(count: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def _ignored(count: int) -> list[str]:
    """Say what messages made no tick and need not: a bare number would alarm."""
    what = "message held no tick, and needs" if count == 1 else "messages held no tick, and need"
    return [f"  {count:,} {what} none: answers, heartbeats and the like"] if count else []


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _in_vain(report: PipelineReport) -> list[str]:
    """Say why few ticks may have come, or none."""
    tries, refused = report.connect_failures, report.refused
    lines = []
    if tries:
        lines.append(f"  {tries:,} attempt{'s' * (tries != 1)} to connect failed: the log says why")
    if refused:
        were = "subscription was" if refused == 1 else "subscriptions were"
        lines.append(f"  {refused:,} {were} refused: the log says why")
    return lines


def _stood_still(blocks: int) -> list[str]:
    if not blocks:
        return []
    times = "once" if blocks == 1 else f"{blocks:,} times"
    return [f"  the event loop stood still {times}, for 0.2 s or longer: the log says where"]


def _not_returned(overdue: Overdue | None) -> list[str]:
    return [f"  {overdue_words(overdue)}: the log says where it waited"] if overdue else []


def _latencies(report: PipelineReport) -> list[str]:
    rows: tuple[tuple[str, LatencyStats], ...] = (
        ("wait in the queue", report.queue_wait_ms),
        ("handler", report.handler_latency_ms),
        ("lag to the venue", report.processing_lag_ms),
    )
    return [
        f"  {'':18}{'p50':>11}{'p99':>11}{'max':>11}",
        *(
            f"  {name:18}"
            + "".join(
                f"{_ms(value) if stats.count else '-':>11}"
                for value in (stats.p50, stats.p99, stats.max)
            )
            for name, stats in rows
        ),
    ]


def report_text(report: PipelineReport, half: Half = None) -> str:
    """Return the report: the ledger as a sum, then rates and latencies.

    Args:
        report: of a pipeline.
        half: which half of a pipeline with a buffer it was.
    """
    ledger = report.ledger
    parts = {
        "appended" if half == "ingest" else "consumed": ledger.consumed,
        "failed": ledger.failed,
        "dropped": ledger.dropped,
        "queued": ledger.queued,
        "in doubt" if half == "ingest" else "in flight": ledger.in_flight,
    }
    if half == "work" or ledger.given_back:
        parts["given back"] = ledger.given_back
    width = max(9, *(len(f"{number:,}") for number in (ledger.produced, *parts.values())))
    raised = f"the strategy raised{_last(report.last_failure)}"
    failed = "could not be written" if half == "ingest" else raised
    notes = {"failed": failed if ledger.failed else ""}
    notes["dropped"] = "; ".join(
        f"{kind}: {drops}"
        for kind, drops in (
            ("lost", _drops(report, intentional=False)),
            ("by design", _drops(report, intentional=True)),
        )
        if drops
    )
    lines = [f"  {'received' if half == 'work' else 'produced':10} {ledger.produced:>{width},}"]
    for sign, (name, number) in zip("=" + "+" * (len(parts) - 1), parts.items(), strict=True):
        share = f"{number / ledger.produced:7.1%}" if ledger.produced else ""
        lines.append(f"{sign} {name:10} {number:>{width},} {share}  {notes.get(name, '')}".rstrip())
    sum_ = " + ".join(f"{number:,}" for number in parts.values())
    lines.append(
        f"  {ledger.produced:,} = {sum_}: "
        + (
            "every tick is accounted for"
            if not ledger.unaccounted
            else f"{ledger.unaccounted:,} UNACCOUNTED"
        )
    )
    lines += [
        "",
        f"  ran {report.duration_s:.1f} s, {report.produced_per_s:,.0f} ticks/s in, "
        f"{report.consumed_per_s:,.0f} ticks/s {'appended' if half == 'ingest' else 'handled'}",
        f"  queue peak {report.queue_peak:,} ticks, senders waited {report.blocked_s:.2f} s",
        f"  {_counted(report.malformed, 'malformed message')}, "
        f"{_counted(report.reconnects, 'reconnect')}",
        *_in_vain(report),
        *_ignored(report.ignored),
        *_not_returned(report.overdue),
        *_stood_still(report.loop_blocks),
        *_results(report),
        *_recorded(report.recorder),
        *([f"  {report.advice}"] if report.advice else []),
        "",
        *_latencies(report),
    ]
    return "\n".join(lines)
