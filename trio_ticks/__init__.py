"""trio_ticks: what stands between a market-data feed and a slow strategy.

Memory stays bounded whatever the feed does, and every single tick is accounted for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from . import brokers, exchange, history, rest
    from .book import Book
    from .channel.ends import TickReceiveChannel, TickSendChannel, open_tick_channel
    from .channel.freshness import MaxAge
    from .conflation import Conflation, conflation_of
    from .control.pressure import Pressure
    from .control.scaling import AutoWorkers
    from .errors import (
        BrokerError,
        ConfigError,
        FeedAuthError,
        FeedBrokenError,
        FeedClosedError,
        FeedError,
        HandlerTimeoutError,
        KilledProcessError,
        LedgerError,
        QueueFullError,
        RemoteHandlerError,
        RestError,
        TickError,
        UnknownSymbolError,
        VenueProtocolError,
        WorkerCrashedError,
    )
    from .events import FeedEvent
    from .feeds.base import Feed, FeedStats
    from .feeds.hours import MarketHours
    from .feeds.iterable import IterableFeed
    from .feeds.polling.feed import PollingFeed
    from .feeds.polling.options import PollingOptions
    from .feeds.replay import ReplayFeed
    from .feeds.sequence import SequenceTracker
    from .feeds.venues.base import Codec, CodecContext, KeepAlive, Limits, MalformedMessage
    from .feeds.venues.rest_snapshots import RestSnapshots
    from .feeds.websocket.backoff import BackoffPolicy
    from .feeds.websocket.endpoint import Endpoint
    from .feeds.websocket.feed import WebSocketFeed
    from .feeds.websocket.options import WebSocketOptions
    from .foresight.plan import Plan
    from .foresight.planning import plan
    from .foresight.virtual import replay_virtual
    from .gaps import Gap
    from .handlers.arrivals import arrival
    from .handlers.batches import BatchError, batch_handler
    from .handlers.breaker import Breaker
    from .handlers.dead_letters import DeadLetter, DeadLetterFile, read_dead_letters
    from .handlers.replays import replaying
    from .handlers.retry import Retry
    from .ledger import DropReason, Ledger, LedgerSnapshot
    from .metrics.latency import LatencyStats
    from .metrics.snapshots import (
        PipelineMetrics,
        PipelineReport,
        RecorderMetrics,
        WorkerMetrics,
    )
    from .overflow import Block, Conflate, DropNewest, DropOldest, Fail, OverflowStrategy, Throttle
    from .pipeline.opening import open_pipeline, run_pipeline
    from .pipeline.running import Pipeline
    from .recordings.recorder import Recorder
    from .results import Place, Result
    from .ticks import Bar, BookUpdate, Level, MarketData, Tick, Trade

__all__ = [
    "AutoWorkers",
    "BackoffPolicy",
    "Bar",
    "BatchError",
    "Block",
    "Book",
    "BookUpdate",
    "Breaker",
    "BrokerError",
    "Codec",
    "CodecContext",
    "ConfigError",
    "Conflate",
    "Conflation",
    "DeadLetter",
    "DeadLetterFile",
    "DropNewest",
    "DropOldest",
    "DropReason",
    "Endpoint",
    "Fail",
    "Feed",
    "FeedAuthError",
    "FeedBrokenError",
    "FeedClosedError",
    "FeedError",
    "FeedEvent",
    "FeedStats",
    "Gap",
    "HandlerTimeoutError",
    "IterableFeed",
    "KeepAlive",
    "KilledProcessError",
    "LatencyStats",
    "Ledger",
    "LedgerError",
    "LedgerSnapshot",
    "Level",
    "Limits",
    "MalformedMessage",
    "MarketData",
    "MarketHours",
    "MaxAge",
    "OverflowStrategy",
    "Pipeline",
    "PipelineMetrics",
    "PipelineReport",
    "Place",
    "Plan",
    "PollingFeed",
    "PollingOptions",
    "Pressure",
    "QueueFullError",
    "Recorder",
    "RecorderMetrics",
    "RemoteHandlerError",
    "ReplayFeed",
    "RestError",
    "RestSnapshots",
    "Result",
    "Retry",
    "SequenceTracker",
    "Throttle",
    "Tick",
    "TickError",
    "TickReceiveChannel",
    "TickSendChannel",
    "Trade",
    "UnknownSymbolError",
    "VenueProtocolError",
    "WebSocketFeed",
    "WebSocketOptions",
    "WorkerCrashedError",
    "WorkerMetrics",
    "arrival",
    "batch_handler",
    "brokers",
    "conflation_of",
    "exchange",
    "history",
    "open_pipeline",
    "open_tick_channel",
    "plan",
    "read_dead_letters",
    "replay_virtual",
    "replaying",
    "rest",
    "run_pipeline",
]

_NAMES: dict[str, tuple[str, ...]] = {
    "book": ("Book",),
    "channel.ends": ("TickReceiveChannel", "TickSendChannel", "open_tick_channel"),
    "channel.freshness": ("MaxAge",),
    "conflation": ("Conflation", "conflation_of"),
    "control.pressure": ("Pressure",),
    "control.scaling": ("AutoWorkers",),
    "errors": (
        "BrokerError",
        "ConfigError",
        "FeedAuthError",
        "FeedBrokenError",
        "FeedClosedError",
        "FeedError",
        "HandlerTimeoutError",
        "KilledProcessError",
        "LedgerError",
        "QueueFullError",
        "RemoteHandlerError",
        "RestError",
        "TickError",
        "UnknownSymbolError",
        "VenueProtocolError",
        "WorkerCrashedError",
    ),
    "events": ("FeedEvent",),
    "feeds.base": ("Feed", "FeedStats"),
    "feeds.hours": ("MarketHours",),
    "feeds.iterable": ("IterableFeed",),
    "feeds.polling.feed": ("PollingFeed",),
    "feeds.polling.options": ("PollingOptions",),
    "feeds.replay": ("ReplayFeed",),
    "feeds.sequence": ("SequenceTracker",),
    "feeds.venues.base": ("Codec", "CodecContext", "KeepAlive", "Limits", "MalformedMessage"),
    "feeds.venues.rest_snapshots": ("RestSnapshots",),
    "feeds.websocket.backoff": ("BackoffPolicy",),
    "feeds.websocket.endpoint": ("Endpoint",),
    "feeds.websocket.feed": ("WebSocketFeed",),
    "feeds.websocket.options": ("WebSocketOptions",),
    "foresight.plan": ("Plan",),
    "foresight.planning": ("plan",),
    "foresight.virtual": ("replay_virtual",),
    "gaps": ("Gap",),
    "handlers.arrivals": ("arrival",),
    "handlers.batches": ("BatchError", "batch_handler"),
    "handlers.breaker": ("Breaker",),
    "handlers.dead_letters": ("DeadLetter", "DeadLetterFile", "read_dead_letters"),
    "handlers.replays": ("replaying",),
    "handlers.retry": ("Retry",),
    "ledger": ("DropReason", "Ledger", "LedgerSnapshot"),
    "metrics.latency": ("LatencyStats",),
    "metrics.snapshots": ("PipelineMetrics", "PipelineReport", "RecorderMetrics", "WorkerMetrics"),
    "overflow": (
        "Block",
        "Conflate",
        "DropNewest",
        "DropOldest",
        "Fail",
        "OverflowStrategy",
        "Throttle",
    ),
    "pipeline.opening": ("open_pipeline", "run_pipeline"),
    "pipeline.running": ("Pipeline",),
    "recordings.recorder": ("Recorder",),
    "results": ("Place", "Result"),
    "ticks": ("Bar", "BookUpdate", "Level", "MarketData", "Tick", "Trade"),
}
"""What each module has; it is imported when one of its names is first used.

So ``import trio_ticks`` takes no longer than it has to, nor does a part of it alone, as
the command line and worker processes import it.
"""
_MODULES = frozenset(("brokers", "exchange", "history", "rest"))
_PLACES = {name: module for module, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:  # With a __getattr__ a type checker would accept any name.

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(f".{name}", __name__)
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f".{_PLACES[name]}", __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
