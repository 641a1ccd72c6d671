"""Read what a half of a pipeline knows of the buffer between processes into a sink.

Rules: those of :mod:`.readings`. Each name is passed, also without a buffer, since some
sinks need all names at the beginning. What the broker does not tell has no value. An
ingest's numbers have none at the workers' half, and the reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..buffer import BufferStatistics
from ..metrics.observed import Half
from .sink import Sink

__all__ = ["read_buffer"]

_GAUGES: Final[tuple[tuple[str, str, str, Half], ...]] = (
    ("buffer_connected", "connected", "Whether the broker answers (1) or not (0).", None),
    (
        "buffer_round_trip_seconds",
        "round_trip_s",
        "How long the broker took for its last answer.",
        None,
    ),
    (
        "buffer_items",
        "used",
        "Ticks in the buffer, of all producers, as the broker said last.",
        None,
    ),
    ("buffer_capacity_items", "maxsize", "Ticks the buffer may hold, of all producers.", None),
    (
        "buffer_lag_ticks",
        "lag",
        "Ticks in the broker that nobody has acknowledged, as far as it is known.",
        None,
    ),
    (
        "buffer_lag_seconds",
        "lag_s",
        "How long the oldest tick that nobody has acknowledged has been in the broker.",
        None,
    ),
    (
        "buffer_clock_difference_seconds",
        "clock_difference_s",
        "Our clock less that of the ingest, or of the broker, by which both are compared.",
        None,
    ),
    (
        "buffer_clock_error_seconds",
        "clock_error_s",
        "How wrong buffer_clock_difference_seconds may be.",
        None,
    ),
    (
        "buffer_in_doubt_ticks",
        "in_doubt",
        "Ticks that were sent to the broker and are not confirmed yet.",
        "ingest",
    ),
    (
        "buffer_unacknowledged_ticks",
        "unacknowledged",
        "Ticks that were received and neither acknowledged nor given back.",
        "work",
    ),
    ("buffer_shards", "shards", "Shards of the buffer that this process holds.", "work"),
)
_COUNTERS: Final[tuple[tuple[str, str, str, Half], ...]] = (
    ("buffer_reconnects", "reconnects", "Connections to the broker after the first one.", None),
    (
        "buffer_duplicate_ticks",
        "duplicates",
        "Ticks that were sent again after a lost answer, and recognised by the broker.",
        "ingest",
    ),
    ("buffer_full_seconds", "full_s", "Time for which the broker was full.", "ingest"),
    (
        "buffer_redelivered_ticks",
        "redelivered",
        "Ticks received that may have been handled before: after a crash, for example.",
        "work",
    ),
    (
        "buffer_acknowledged_ticks",
        "acknowledged",
        "Ticks that the broker need not keep any more for this process.",
        "work",
    ),
    (
        "buffer_given_back_ticks",
        "given_back",
        "Ticks that the broker got back unhandled, also those that never came to the queue.",
        "work",
    ),
    (
        "buffer_fenced",
        "fenced",
        "Times at which the broker refused us a shard that had become another's.",
        "work",
    ),
    ("buffer_takeovers", "takeovers", "Shards that came from others, or first.", "work"),
    (
        "buffer_dead_letter_ticks",
        "dead",
        "Ticks in the dead letters, since their process died again and again.",
        "work",
    ),
    (
        "buffer_junk_entries",
        "junk",
        "Entries that could not be read: dead letters. Over ZeroMQ, which keeps none, their "
        "ticks have failed.",
        "work",
    ),
)


def read_buffer(
    buffer: BufferStatistics | None,
    half: Half,
    sink: Sink,
    rising: Callable[[str, float], float],
) -> None:
    """Pass what *half* knows of *buffer* to *sink*.

    Args:
        buffer: the statistics; ``None`` without a buffer.
        half: which half it is.
        sink: takes the numbers.
        rising: returns the highest value of a counter so far, by its name.
    """
    for name, field, text, of in _GAUGES:
        sink.gauge(name, text, _value(buffer, field, of, half))
    for name, field, text, of in _COUNTERS:
        value = _value(buffer, field, of, half)
        sink.counter(name, text, None if value is None else rising(name, value))


def _value(buffer: BufferStatistics | None, field: str, of: Half, half: Half) -> float | None:
    if buffer is None or of not in (None, half):
        return None
    value: float | None = getattr(buffer, field)
    return value
