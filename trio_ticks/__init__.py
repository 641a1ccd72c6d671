"""trio_ticks: what stands between a market-data feed and a slow strategy.

Memory stays bounded whatever the feed does, and every single tick is accounted for.
"""

from __future__ import annotations

from . import exchange
from .channel import TickReceiveChannel, TickSendChannel, open_tick_channel
from .conflation import Conflation, conflation_of
from .errors import (
    ConfigError,
    FeedAuthError,
    FeedBrokenError,
    FeedClosedError,
    FeedError,
    LedgerError,
    QueueFullError,
    TickError,
    VenueProtocolError,
)
from .feeds.backoff import BackoffPolicy
from .feeds.base import Feed, FeedStats
from .feeds.iterable import IterableFeed
from .feeds.options import WebSocketOptions
from .feeds.replay import ReplayFeed
from .feeds.websocket import WebSocketFeed
from .freshness import MaxAge
from .gaps import Gap, SequenceTracker
from .ledger import DropReason, Ledger, LedgerSnapshot
from .metrics import LatencyStats, PipelineMetrics, PipelineReport, WorkerMetrics
from .overflow import Block, Conflate, DropNewest, DropOldest, Fail, OverflowStrategy, Throttle
from .pipeline import Pipeline, open_pipeline, run_pipeline
from .pressure import Pressure
from .ticks import Bar, BookUpdate, Level, MarketData, Tick, Trade

__all__ = [
    "BackoffPolicy",
    "Bar",
    "Block",
    "BookUpdate",
    "ConfigError",
    "Conflate",
    "Conflation",
    "DropNewest",
    "DropOldest",
    "DropReason",
    "Fail",
    "Feed",
    "FeedAuthError",
    "FeedBrokenError",
    "FeedClosedError",
    "FeedError",
    "FeedStats",
    "Gap",
    "IterableFeed",
    "LatencyStats",
    "Ledger",
    "LedgerError",
    "LedgerSnapshot",
    "Level",
    "MarketData",
    "MaxAge",
    "OverflowStrategy",
    "Pipeline",
    "PipelineMetrics",
    "PipelineReport",
    "Pressure",
    "QueueFullError",
    "ReplayFeed",
    "SequenceTracker",
    "Throttle",
    "Tick",
    "TickError",
    "TickReceiveChannel",
    "TickSendChannel",
    "Trade",
    "VenueProtocolError",
    "WebSocketFeed",
    "WebSocketOptions",
    "WorkerMetrics",
    "conflation_of",
    "exchange",
    "open_pipeline",
    "open_tick_channel",
    "run_pipeline",
]

__version__ = "0.1.0"
