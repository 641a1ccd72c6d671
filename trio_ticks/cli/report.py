"""Reports and progress as plain text: no colours, no control codes, nothing that is not a fact of a snapshot."""

from __future__ import annotations

from ..ledger import INTENTIONAL, REASONS
from ..metrics import LatencyStats, PipelineMetrics, PipelineReport

__all__ = ["progress_line", "report_text"]


def progress_line(metrics: PipelineMetrics) -> str:
    """Return one line about a running pipeline."""
    connection = "connected" if metrics.producer_connected else "feed stopped" if metrics.state != "running" else "NOT CONNECTED"
    return (
        f"{metrics.uptime_s:6.1f} s  {connection}  in {metrics.produced_per_s:,.0f}/s  out {metrics.consumed_per_s:,.0f}/s  "
        f"queue {metrics.queue_size:,}/{metrics.queue_capacity:,} ({metrics.queue_utilization_pct:.0f} %, {metrics.pressure})  "
        f"dropped {metrics.items_dropped:,}  failed {metrics.items_failed:,}  wait p99 {_ms(metrics.queue_wait_ms.p99)}"
    )


def _ms(value: float) -> str:
    return f"{value:,.2f} ms" if abs(value) < 10 else f"{value:,.0f} ms"


def _drops(report: PipelineReport, *, intentional: bool) -> str:
    counts = {reason: report.dropped_by_reason.get(reason, 0) for reason in REASONS if (reason in INTENTIONAL) is intentional}
    return ", ".join(f"{reason} {number:,}" for reason, number in counts.items() if number)


def report_text(report: PipelineReport) -> str:
    """Return the report: the ledger as a sum, then rates and latencies."""
    ledger = report.ledger
    parts = {
        "consumed": ledger.consumed,
        "failed": ledger.failed,
        "dropped": ledger.dropped,
        "queued": ledger.queued,
        "in flight": ledger.in_flight,
    }
    width = max(9, *(len(f"{number:,}") for number in (ledger.produced, *parts.values())))
    notes = {"failed": "the strategy raised" if ledger.failed else ""}
    notes["dropped"] = "; ".join(
        f"{kind}: {drops}"
        for kind, drops in (("lost", _drops(report, intentional=False)), ("by design", _drops(report, intentional=True)))
        if drops
    )
    lines = [f"  produced   {ledger.produced:>{width},}"]
    for sign, (name, number) in zip("=++++", parts.items(), strict=True):
        share = f"{number / ledger.produced:7.1%}" if ledger.produced else ""
        lines.append(f"{sign} {name:10} {number:>{width},} {share}  {notes.get(name, '')}".rstrip())
    sum_ = " + ".join(f"{number:,}" for number in parts.values())
    lines.append(
        f"  {ledger.produced:,} = {sum_}: "
        + ("every tick is accounted for" if not ledger.unaccounted else f"{ledger.unaccounted:,} UNACCOUNTED")
    )
    lines += [
        "",
        f"  ran {report.duration_s:.1f} s, {report.produced_per_s:,.0f} ticks/s in, {report.consumed_per_s:,.0f} ticks/s handled",
        f"  queue peak {report.queue_peak:,} ticks, senders waited {report.blocked_s:.2f} s",
        f"  {report.malformed:,} malformed and {report.ignored:,} ignored messages, {report.reconnects:,} reconnects",
        "",
        f"  {'':18}{'p50':>11}{'p99':>11}{'max':>11}",
    ]
    rows: tuple[tuple[str, LatencyStats], ...] = (
        ("wait in the queue", report.queue_wait_ms),
        ("handler", report.handler_latency_ms),
        ("lag to the venue", report.processing_lag_ms),
    )
    lines += [
        f"  {name:18}" + "".join(f"{_ms(value) if stats.count else '-':>11}" for value in (stats.p50, stats.p99, stats.max))
        for name, stats in rows
    ]
    return "\n".join(lines)
