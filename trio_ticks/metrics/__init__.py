"""The numbers of a pipeline, computed when they are asked for."""

from .latency import LatencyStats, LatencyWindow
from .snapshots import (
    FeedMetrics,
    IngestMetrics,
    LastFailure,
    PipelineMetrics,
    PipelineReport,
    WorkerMetrics,
)

__all__ = [
    "FeedMetrics",
    "IngestMetrics",
    "LastFailure",
    "LatencyStats",
    "LatencyWindow",
    "PipelineMetrics",
    "PipelineReport",
    "WorkerMetrics",
]
