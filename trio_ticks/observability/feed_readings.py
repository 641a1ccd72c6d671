"""Read the numbers of a pipeline's feeds into a sink.

Rules: those of :mod:`.readings`. Where a pipeline has several feeds, each of them has
series of its own, with the label ``feed``; one feed alone has none. The sum over
``feed`` is the pipeline's.
"""

from __future__ import annotations

from typing import Final

from ..metrics.observed import FeedCounts, Observed
from .shown import shown
from .sink import Sink

__all__ = ["read_feeds"]


_COUNTERS: Final = (
    (
        "feed_messages",
        "Complete data messages received, whatever became of them.",
        "messages",
    ),
    (
        "feed_malformed_messages",
        "Messages that made no tick since they were bad.",
        "malformed",
    ),
    (
        "feed_ignored_messages",
        "Messages that made no tick and need not: heartbeats, unknown kinds.",
        "ignored",
    ),
    (
        "feed_watchdog_trips",
        "Connections given up since nothing had arrived for too long.",
        "watchdog_trips",
    ),
    (
        "feed_refused_subscriptions",
        "Subscriptions that the venue has refused.",
        "refused",
    ),
    (
        "feed_unasked_items",
        "Items of symbols that were not asked for; they are left out.",
        "unasked",
    ),
    (
        "feed_duplicate_items",
        "Items that the venue had sent before; left out where newer_only is set.",
        "duplicates",
    ),
    (
        "feed_skipped_polls",
        "Moments at which a feed that polls did not ask: the answer before was late.",
        "skipped_polls",
    ),
    (
        "feed_booked_updates",
        "Book updates that stay in the feed, which keeps the books itself.",
        "booked",
    ),
    (
        "feed_book_errors",
        "How often a book that the feed keeps was found to be wrong.",
        "book_errors",
    ),
)
"""Name, help, and the field of the counts."""


def read_feeds(pipeline: Observed, sink: Sink) -> None:
    """Pass the counts of each feed of *pipeline* to *sink*."""
    feeds = pipeline.feed_statistics
    if len(feeds) < 2:
        _read_counts(pipeline, pipeline.feed_stats, sink, {})
        return
    for name, counts in feeds.items():
        _read_counts(pipeline, counts, sink, {"feed": name})


def _read_counts(pipeline: Observed, counts: FeedCounts, sink: Sink, label: dict[str, str]) -> None:
    sink.gauge(
        "feed_connected",
        "Whether the feed is connected (1) or not (0); in a half without a feed, the broker.",
        counts.connected and pipeline.phase in ("running", "paused"),
        **label,
    )
    text = "Attempts to connect, the first successful one not counted, by result."
    sink.counter("feed_reconnects", text, counts.reconnects, **label, result="success")
    sink.counter("feed_reconnects", text, counts.connect_failures, **label, result="failure")
    for name, text, field in _COUNTERS:
        sink.counter(name, text, getattr(counts, field), **label)
    sink.gauge(
        "feed_silent_symbols",
        "Symbols of which nothing has come for longer than usual.",
        counts.silent_symbols,
        **label,
    )
    for symbol in dict.fromkeys(map(shown, counts.silent_names)):
        text = "The silent symbols by name, at most 20 of them; 1 each."
        sink.gauge("feed_silent_symbol", text, 1, **label, symbol=symbol)
    sink.gauge(
        "feed_market_open",
        "Whether market data is expected (1) or the market is closed (0).",
        counts.expects_data,
        **label,
    )
