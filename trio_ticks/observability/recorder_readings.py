"""Read what a recorder has done into a sink, and out of one again.

Rules: those of :mod:`.readings`. Each name is passed, also without a recorder, since
some sinks need all names at the beginning; then it has no value.
"""

from __future__ import annotations

from typing import Any, Final

from ..metrics.snapshots import RecorderMetrics
from .samples import Samples
from .sink import Sink

__all__ = ["read_recorder", "recorder_from"]

_COUNTERS: Final = (
    ("recorder_messages", "messages", "Messages of the feed that were recorded."),
    ("recorder_bytes", "bytes", "Their lines in bytes, before they were compressed."),
    ("recorder_written_bytes", "written_bytes", "Bytes of the recorder's files."),
    (
        "recorder_dropped_messages",
        "dropped",
        "Messages that could not be recorded, since the disk was too slow or full.",
    ),
    ("recorder_files", "files", "Files that the recorder has begun."),
    ("recorder_errors", "errors", "Times that the recorder's disk has failed."),
)
"""Name, field and help."""
_WAITING: Final = "recorder_waiting_bytes"
_FAILING: Final = "recorder_failing"


def read_recorder(recorder: RecorderMetrics | None, sink: Sink) -> None:
    """Pass the numbers of *recorder* to *sink*."""
    for name, field, text in _COUNTERS:
        value = None if recorder is None else getattr(recorder, field)
        sink.counter(name, f"{text} Absent without record=.", value)
    text = "Bytes that the recorder has not written yet; absent without record=."
    sink.gauge(_WAITING, text, None if recorder is None else recorder.waiting_bytes)
    text = "Whether the recorder's disk takes nothing now (1) or does (0); absent without record=."
    sink.gauge(_FAILING, text, None if recorder is None else recorder.failing)


def recorder_from(samples: Samples) -> RecorderMetrics | None:
    """Return what another process says of its recorder; ``None``: it has none."""
    if not samples.has(_WAITING):
        return None
    counters: dict[str, Any] = {
        field: samples.count(f"{name}_total") for name, field, _ in _COUNTERS
    }
    return RecorderMetrics(
        **counters,
        waiting_bytes=samples.count(_WAITING),
        failing=bool(samples.count(_FAILING)),
    )
