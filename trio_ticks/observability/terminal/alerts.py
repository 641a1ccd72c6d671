"""Draw the line about what goes wrong in the strategy itself.

Rules: there is no line while nothing does. Colour never carries a meaning alone. Needs
rich: ``pip install 'trio-ticks[cli]'``.
"""

from __future__ import annotations

from typing import Final

from rich.text import Text

from ...metrics.snapshots import PipelineMetrics
from ..shown import overdue_words
from .panels import Pen, count, duration

__all__ = ["alert"]

_BLOCKED_MS: Final = 200.0
"""An event loop that took so long to answer stands still, or did a moment ago."""


def alert(metrics: PipelineMetrics, pen: Pen) -> Text | None:
    """Return a line about what goes wrong in the strategy; ``None``: nothing does.

    Failures come first, then handlers that do not return, then an event loop that
    stands still. What does not fit is cut
    at the right.
    """
    text = Text(no_wrap=True, overflow="crop")
    if metrics.failed_per_s:
        share = f"{metrics.failed_share:.0%}" if metrics.failed_share >= 0.01 else "<1%"
        rate = count(metrics.failed_per_s) if metrics.failed_per_s >= 1 else "<1"
        words = f" {pen.glyph('✗', '!!')} FAILING {rate}/s, {share} of the handled "
        text.append(words, "bold white on red")
        if (last := metrics.last_failure) is not None:
            text.append(f" last {last.error} of {last.symbol}", "red")
    if (late := metrics.overdue) is not None:
        text.append("  " if text else "")
        text.append(
            f" {pen.glyph('✗', '!!')} {overdue_words(late)} ",
            "bold black on yellow",
        )
    if metrics.loop_delay_ms >= _BLOCKED_MS:
        delay = duration(metrics.loop_delay_ms, plain=pen.plain)
        text.append("  " if text else "")
        text.append(
            f" {pen.glyph('✗', '!!')} LOOP BLOCKED for {delay}, {metrics.loop_blocks:,} in all ",
            "bold black on yellow",
        )
    return text if text else None
