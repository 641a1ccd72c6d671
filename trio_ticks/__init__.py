"""trio_ticks: what stands between a market-data feed and a slow strategy.

Memory stays bounded whatever the feed does, and every single tick is accounted for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .breaker import Breaker
from .channel import TickReceiveChannel, TickSendChannel, open_tick_channel
from .conflation import Conflation, conflation_of
from .dead_letters import DeadLetter, DeadLetterFile, read_dead_letters
from .errors import (
    ConfigError,
    FeedAuthError,
    FeedBrokenError,
    FeedClosedError,
    FeedError,
    HandlerTimeoutError,
    LedgerError,
    QueueFullError,
    RemoteHandlerError,
    TickError,
    VenueProtocolError,
    WorkerCrashedError,
)
from .feeds.backoff import BackoffPolicy
from .feeds.base import Feed, FeedStats
from .feeds.iterable import IterableFeed
from .feeds.options import WebSocketOptions
from .freshness import MaxAge
from .gaps import Gap, SequenceTracker
from .handling import BatchError, Retry, batch_handler
from .ledger import DropReason, Ledger, LedgerSnapshot
from .metrics import LatencyStats, PipelineMetrics, PipelineReport, WorkerMetrics
from .overflow import Block, Conflate, DropNewest, DropOldest, Fail, OverflowStrategy, Throttle
from .pipeline import Pipeline, open_pipeline, run_pipeline
from .pressure import Pressure
from .scaling import AutoWorkers
from .ticks import Bar, BookUpdate, Level, MarketData, Tick, Trade

if TYPE_CHECKING:
    from . import exchange
    from .feeds.replay import ReplayFeed
    from .feeds.websocket import WebSocketFeed

__all__ = [
    "AutoWorkers",
    "BackoffPolicy",
    "Bar",
    "BatchError",
    "Block",
    "BookUpdate",
    "Breaker",
    "ConfigError",
    "Conflate",
    "Conflation",
    "DeadLetter",
    "DeadLetterFile",
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
    "HandlerTimeoutError",
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
    "RemoteHandlerError",
    "ReplayFeed",
    "Retry",
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
    "WorkerCrashedError",
    "WorkerMetrics",
    "batch_handler",
    "conflation_of",
    "exchange",
    "open_pipeline",
    "open_tick_channel",
    "read_dead_letters",
    "run_pipeline",
]

__version__ = "0.1.0"

_LATER = {"ReplayFeed": "feeds.replay", "WebSocketFeed": "feeds.websocket", "exchange": "exchange"}
"""What is imported when it is first asked for, and from where: more than a third of the time that everything together takes."""

if not TYPE_CHECKING:  # or a type checker would believe that there is every name

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f".{_LATER[name]}", __name__)
        value = globals()[name] = module if name == _LATER[name] else getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
