"""Draw the panel of a buffer between processes, by a pure function from a snapshot.

Rules: those of :mod:`.panels`. Whatever does not fit into the width is left out, the
least important facts first. Needs rich: ``pip install 'trio-ticks[cli]'``.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from ...buffer import BufferStatistics
from ...ledger import INTENTIONAL
from ...metrics.snapshots import PipelineMetrics
from .history import bar
from .panels import Pen, duration, level

__all__ = ["buffer"]


def buffer(metrics: PipelineMetrics, pen: Pen, width: int) -> Panel:
    """Return the buffer between processes: its filling, and what this half knows of it.

    Whatever does not fit into the width is left out, the least important first.
    """
    now = metrics.buffer or BufferStatistics()
    inside = width - 4
    fill = Text(no_wrap=True, overflow="crop")
    fraction, word, style = level(now.used or 0, now.maxsize or 0)
    used = "?" if now.used is None else f"{now.used:,}"
    numbers = f"{used} of {'?' if now.maxsize is None else f'{now.maxsize:,}'}"
    if now.used is not None and now.maxsize is not None:
        numbers += f"  {100 * fraction:5.1f} %  {word:4}"
    if not now.connected:
        numbers, style = f"{pen.glyph('✗', '!!')} AWAY  {numbers}", "bold red"
        if metrics.half == "work" and metrics.state == "paused":
            # It has left, so nobody knows whether the broker is there.
            numbers, style = "paused: its shards are given back", "yellow"
    fill.append(bar(fraction, max(4, inside - 2 - len(numbers)), plain=pen.plain), style)
    fill.append(f"  {numbers}", style)
    lines = [
        Text("  ", no_wrap=True, overflow="crop").join(_fitting(facts, inside))
        for facts in _buffer_facts(metrics, now, pen)
    ]
    return pen.panel(Group(fill, *lines), "buffer", _beside_work(metrics, inside), height=5)


def _fitting(facts: Sequence[tuple[str, str, str]], room: int) -> list[Text]:
    """Return those of *facts* that fit into *room*, in their order."""
    shown: list[Text] = []
    for name, value, style in facts:
        text = Text.assemble((f"{name} ", "bright_black"), (value, style))
        room -= text.cell_len
        if room < 0:
            break
        room -= 2
        shown.append(text)
    return shown


def _buffer_facts(
    metrics: PipelineMetrics, now: BufferStatistics, pen: Pen
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Return two lines of name, value and style, the most important first."""

    def time(seconds: float | None) -> str:
        return "-" if seconds is None else duration(seconds * 1e3, plain=pen.plain)

    trip = ("round trip", time(now.round_trip_s), "")
    again = ("reconnects", f"{now.reconnects:,}", "yellow" if now.reconnects else "")
    lag = "-" if now.lag is None else f"{now.lag:,} ticks"
    waits = ("lag", lag if now.lag_s is None else f"{lag}, {time(now.lag_s)}", "bold")
    if metrics.half == "ingest":
        first = [
            ("in doubt", f"{now.in_doubt:,}", "" if now.connected else "yellow"),
            ("duplicates", f"{now.duplicates:,}", ""),
            ("full for", time(now.full_s), "yellow" if now.full_s else ""),
        ]
        return first, [trip, again, waits]
    lost = now.dead + now.junk
    first = [
        waits,
        ("unacknowledged", f"{now.unacknowledged:,}", ""),
        ("redelivered", f"{now.redelivered:,}", "yellow" if now.redelivered else ""),
    ]
    second = [
        (
            "shards",
            f"{now.shards:,} ({now.takeovers:,} taken over)",
            "" if now.shards else "yellow",
        ),
        trip,
        ("dead letters", f"{lost:,}", "bold red" if lost else ""),
        again,
    ]
    return first, second


def _beside_work(metrics: PipelineMetrics, room: int) -> Text | str:
    """Return what there is to say of an ingest in the same program."""
    ingest = metrics.ingest
    if ingest is None:
        return ""
    lost = sum(
        number for reason, number in ingest.dropped_by_reason.items() if reason not in INTENTIONAL
    )
    facts = [
        ("queue", f"{ingest.queue_size:,} of {ingest.queue_capacity:,}", ""),
        ("lost", f"{lost:,}", "red" if lost else ""),
        ("in doubt", f"{ingest.in_doubt:,}", ""),
        ("skipped", f"{ingest.items_dropped - lost:,}", ""),
    ]
    feed = ("ingest:", "FEED NOT CONNECTED", "red")
    shown = _fitting([*([] if ingest.connected else [feed]), *facts], room - 11)
    return Text("  ").join(
        [*([Text("ingest", "bright_black")] if ingest.connected else []), *shown]
    )
