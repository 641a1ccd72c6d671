"""Draw the line of a recorder, by a pure function from a snapshot.

Rules: those of :mod:`.panels`. Needs rich: ``pip install 'trio-ticks[cli]'``.
"""

from __future__ import annotations

from rich.text import Text

from ...metrics.snapshots import RecorderMetrics
from .panels import Pen, count

__all__ = ["recorder_line"]


def recorder_line(recorder: RecorderMetrics, pen: Pen) -> Text:
    """Return a line on what is recorded, and what could not be."""
    line = Text("  recorder  ", "bright_black", no_wrap=True, overflow="crop")
    if recorder.failing:
        line.append(f"{pen.glyph('✗', '!!')} THE DISK FAILS  ", "bold red")
    line.append(f"{count(recorder.messages)} recorded", "bold")
    lost = recorder.dropped
    line.append(f"  {count(lost)} lost", "bold red" if lost else "bright_black")
    line.append(f"  {count(recorder.written_bytes / 1e6)} MB", "bright_black")
    line.append(f"  {count(recorder.files)} files", "bright_black")
    waiting = recorder.waiting_bytes / 1e6
    line.append(f"  {waiting:,.1f} MB waiting", "yellow" if waiting > 8 else "bright_black")
    if recorder.errors:
        line.append(f"  {count(recorder.errors)} errors", "yellow")
    return line
