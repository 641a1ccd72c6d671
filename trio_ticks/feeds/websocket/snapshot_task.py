"""The task that gets the snapshots of order books over REST.

Rules: one request at a time, at the venue's pace, and after a failure with growing
waits. A symbol is asked for once at a time. A snapshot that nothing waits for any more
is left out: the connection was lost meanwhile, for example.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, final

import msgspec
import trio

from ...clock import Clock
from ...errors import FeedError, RestError
from ...logs import LogLimit, log_event
from ...rest import RestClient
from ...ticks import BookUpdate
from ..sieve import Sieve
from ..venues import RestSnapshots
from ..venues.base import BAD_MESSAGE
from .backoff import Backoff, BackoffPolicy
from .book_task import BookTask
from .core import WebSocketCore

__all__ = ["SnapshotTask"]

logger = logging.getLogger("trio_ticks.feeds.websocket")

_WAITS: Final = BackoffPolicy(initial_s=1.0, maximum_s=30.0)
_FAILURES: Final[tuple[type[Exception], ...]] = (FeedError, *BAD_MESSAGE)
_REFUSED_FOR_S: Final = 60.0
"""How long a symbol is left alone of which the venue says that it has no book."""


@final
class SnapshotTask:
    """Gets snapshots for one run of a feed, and puts them among its items.

    Args:
        core: of the feed.
        how: the venue's interface.
        new_client: makes the client of a run.
        clock: of the pipeline.
        log_limit: of the run's log lines.
        uniform: returns a random number in [0, 1), for the waits.
    """

    def __init__(
        self,
        core: WebSocketCore,
        how: RestSnapshots,
        new_client: Callable[[], RestClient],
        clock: Clock,
        log_limit: LogLimit,
        uniform: Callable[[], float],
    ) -> None:
        self._core = core
        self._how = how
        self._new_client = new_client
        self._clock = clock
        self._log_limit = log_limit
        self._backoff = Backoff(_WAITS, uniform)
        self._asked: dict[str, None] = {}
        self._refused: dict[str, float] = {}
        """Until when symbols are left alone, by name; only of symbols of the feed."""
        self._wake = trio.Event()

    def ask(self, name: str) -> None:
        """Have the snapshot of *name* fetched, unless that is so already."""
        if self._refused.get(name, 0.0) <= trio.current_time():
            self._refused.pop(name, None)
            self._asked[name] = None
            self._wake.set()

    async def run(
        self,
        books: BookTask,
        sieve: Sieve,
        hand_over: Callable[[Sequence[Any]], Awaitable[None] | None],
    ) -> None:
        """Fetch what is asked for, until cancelled.

        Args:
            books: knows what is still wanted, and puts a snapshot in its place.
            sieve: names it as the user does.
            hand_over: takes the items that come of it.

        Cancellation: gives up the request that is under way.
        """
        async with self._new_client() as client:
            while True:
                while not self._asked:
                    self._wake = trio.Event()
                    await self._wake.wait()
                name = next(iter(self._asked))
                try:
                    snapshot = await self._fetch(client, name)
                finally:
                    self._asked.pop(name, None)
                if snapshot is None or not books.waits_for(name):
                    continue
                found = sieve.sift([snapshot], trio.current_time())
                if found and self._core.tap is not None:
                    self._core.tap.items(found)  # the stream does not bring it
                items = books.keep(found)
                rest = hand_over(items) if items else None
                if rest is not None:
                    await rest

    async def _fetch(self, client: RestClient, name: str) -> BookUpdate | None:
        """Return the snapshot of *name*; after a failure wait, and return ``None``."""
        names = self._core.names
        symbol = next((symbol for symbol, each in names.items() if each == name), None)
        if symbol is None:
            return None
        try:
            body = await client.get(self._how.path, self._how.parameters(symbol), type=msgspec.Raw)
            snapshot = self._how.parse(symbol, bytes(body), self._clock.utc())
        except _FAILURES as error:
            if isinstance(error, RestError) and error.permanent and _is_refusal(error.status):
                if len(self._refused) > len(names):
                    self._refused.clear()
                self._refused[name] = trio.current_time() + _REFUSED_FOR_S
                self._report(name, error, _REFUSED_FOR_S)
                return None
            wait_s = self._backoff.next_delay()
            self._report(name, error, wait_s)
            await trio.sleep(wait_s)
            return None
        self._backoff.reset()
        return snapshot

    def _report(self, name: str, error: Exception, wait_s: float) -> None:
        if times := self._log_limit.due("snapshot_failed"):
            reason = self._core.redactor.excerpt(f"{type(error).__name__}: {error}")
            log_event(
                logger,
                logging.WARNING,
                "feed.snapshot_failed",
                "no snapshot of the book of %s: %s",
                name,
                reason,
                symbol=name,
                reason=reason,
                retry_in_s=round(wait_s, 3),
                times=times,
            )


def _is_refusal(status: int | None) -> bool:
    """Return whether the venue says no; a page that is no JSON may be gone soon."""
    return status is not None and not 200 <= status < 300
