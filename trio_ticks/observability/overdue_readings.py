"""The readings of ticks whose handler does not return."""

from __future__ import annotations

from ..metrics.snapshots import Overdue
from .shown import shown
from .sink import Sink

__all__ = ["read_overdue"]


def read_overdue(sink: Sink, overdue: Overdue | None) -> None:
    """Read *overdue*; ``None``: there are no such ticks."""
    sink.gauge(
        "handler_overdue_workers",
        "Workers whose handler has not returned for a second at least, and for three times "
        "as long as the slowest handling of the last minute.",
        0 if overdue is None else overdue.workers,
    )
    if overdue is not None:
        sink.gauge(
            "handler_overdue_seconds",
            "For how long the first of these handlers has not returned; its tick's symbol.",
            overdue.for_s,
            symbol=shown(overdue.symbol),
        )
