"""The feed protocol: one method, and the facts that an operator may ask a feed about.

A feed takes a send channel and pushes ticks into it until it ends, is cancelled, or breaks. It never closes the channel: the pipeline does.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import attrs

__all__ = ["Feed", "FeedStats", "stats_of"]


@attrs.define(slots=True)
class FeedStats:
    """What a feed counts. Plain ints with one owner, the feed; exporters read them."""

    connected: bool = False
    reconnects: int = 0
    """Connections made after the first one."""
    connect_failures: int = 0
    watchdog_trips: int = 0
    """How often the connection was given up since nothing had arrived for too long."""
    messages: int = 0
    """Complete data messages, whatever became of them."""
    malformed: int = 0
    """Messages that made no tick since they were bad."""
    ignored: int = 0
    """Messages that made no tick and need not: acknowledgements, heartbeats, unknown kinds."""


@runtime_checkable
class Feed(Protocol):
    """Where ticks come from. It may also have a ``stats`` attribute, a :class:`FeedStats`."""

    async def run(self, send: Any, /) -> None:
        """Push ticks into *send* (a :class:`~trio_ticks.TickSendChannel`) until the feed ends.

        Cancellation: the pipeline cancels this call to stop the feed; clean up and let the cancellation through.
        """
        ...


def stats_of(feed: object) -> FeedStats:
    """Return the feed's own statistics, or empty ones for a feed that keeps none."""
    stats = getattr(feed, "stats", None)
    return stats if isinstance(stats, FeedStats) else FeedStats(connected=True)
