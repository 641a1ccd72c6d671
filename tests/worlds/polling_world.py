"""What the tests of polling feeds share: a function to ask, by a script."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import trio

import trio_ticks as tt
from tests.worlds.feed_venues import NO_JITTER, Collector

__all__ = ["BEGIN", "Script", "polled", "quote_at"]

BEGIN = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def quote_at(second: float, symbol: str = "SPY", bid: float = 1.0) -> tt.Tick:
    """Make a quote with the venue's time: so many seconds after the beginning."""
    return tt.Tick(symbol, BEGIN + timedelta(seconds=second), bid, bid + 1, 3, 4, 5)


class Script:
    """The function that a feed asks: each answer by the number of the call.

    An exception is raised; a number is a sleep of so many seconds before the next part;
    what can be called is called, and awaited.
    """

    def __init__(self, answer: Callable[[int], Any]) -> None:
        self._answer = answer
        self._began = trio.current_time()
        self._running = 0
        self.most_at_once = 0
        self.calls: list[float] = []
        """When it was called, in seconds since the beginning."""

    async def __call__(self) -> Any:
        number = len(self.calls)
        self.calls.append(round(trio.current_time() - self._began, 6))
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            return await self._say(self._answer(number))
        finally:
            self._running -= 1

    async def _say(self, answer: Any) -> Any:
        if isinstance(answer, tuple):
            seconds, answer = answer
            await trio.sleep(seconds)
        if isinstance(answer, Exception):
            raise answer
        return answer


def polled(
    script: Callable[[], Awaitable[Any]], interval: float = 1.0, **options: Any
) -> AbstractAsyncContextManager[tuple[tt.PollingFeed, Collector]]:
    """Run a feed of *script* during the block."""

    @asynccontextmanager
    async def running() -> Any:
        feed = tt.PollingFeed(script, interval, **{"backoff": NO_JITTER, **options})
        send = Collector()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed.run, send)
            yield feed, send
            nursery.cancel_scope.cancel()

    return running()
