"""Tells the strategy what happens to its feeds: one event at a time, in their order.

Rules: a feed never waits for the strategy. The events that wait are bounded; beyond
that the oldest are left out, counted and logged.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, final

import trio

from ..events import FeedEvent
from ..handlers.contexts import call_apart
from ..logs import LogLimit, log_event

__all__ = ["FeedEvents"]

logger = logging.getLogger("trio_ticks.pipeline")


@final
class FeedEvents:
    """Calls ``on_feed`` with each event.

    Args:
        on_feed: of the user's, sync or async.
        timeout_s: how long it may take for one event, in seconds.
    """

    most: Final = 10_000
    """Events that may wait."""

    def __init__(self, on_feed: Callable[[FeedEvent], Any] | None, timeout_s: float) -> None:
        self._on_feed = on_feed
        self._timeout_s = timeout_s
        self._waiting: deque[FeedEvent] = deque(maxlen=self.most)
        self._arrived = trio.Event()
        self._log_limit = LogLimit(trio.current_time)
        self.left_out = 0
        """Events that were never told, because too many waited."""

    def put(self, event: FeedEvent) -> None:
        """Have *event* told."""
        if self._on_feed is None:
            return
        if len(self._waiting) == self.most:
            self.left_out += 1
            if times := self._log_limit.due("left out"):
                log_event(logger, logging.ERROR, "feed.events_left_out", count=times)
        self._waiting.append(event)
        self._arrived.set()

    async def run(self) -> None:
        """Tell the events as they come.

        Raises:
            Exception: what ``on_feed`` raised, as it is.

        Cancellation: a call of ``on_feed`` is cancelled; events that wait are not told.
        """
        while self._on_feed is not None:
            while self._waiting:
                await self._tell(self._on_feed, self._waiting.popleft())
            self._arrived = trio.Event()
            await self._arrived.wait()

    async def _tell(self, on_feed: Callable[[FeedEvent], Any], event: FeedEvent) -> None:
        with trio.move_on_after(self._timeout_s) as scope:
            await call_apart(on_feed, event)
        if scope.cancelled_caught:
            log_event(
                logger,
                logging.ERROR,
                "feed.event_timeout",
                "on_feed took longer than %g s for %s, and was cancelled",
                self._timeout_s,
                event.kind,
                feed=event.feed,
                kind=event.kind,
                timeout_s=self._timeout_s,
            )
