"""The books of one run of a feed: tells what is wrong, and asks for snapshots.

Rules: a symbol is asked for when its book is found wrong, and again after five seconds
(over REST after one), until its snapshot has come. The messages wait for the venue's
limit in the outbox, as all others do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, final

import trio

from ...gaps import GapReason
from ...logs import LogLimit, log_event
from ..books import BookStage
from ..snapshots import SnapshotRequests
from ..telling import Telling

__all__ = ["BookTask"]

logger = logging.getLogger("trio_ticks.feeds.websocket")

_PATIENCE_S: Final = 5.0
"""Seconds that a venue may take to send the snapshots that belong to a subscription."""
_AGAIN_AFTER_S: Final = 5.0
_AGAIN_OVER_REST_S: Final = 1.0
"""A snapshot over REST may lag behind the stream, so that the next one is needed."""


@final
class BookTask:
    """Keeps the books of one run of a feed.

    Args:
        books: of the feed.
        telling: tells the strategy.
        log_limit: of the run's log lines.
        ask: asks the venue for the snapshot of a symbol, by the user's name.
    """

    def __init__(
        self,
        books: BookStage,
        telling: Telling,
        log_limit: LogLimit,
        ask: Callable[[str], object],
    ) -> None:
        self._books = books
        self._telling = telling
        self._log_limit = log_limit
        self._ask = ask
        self._changed = trio.Event()
        books.on_wanted = self._notice
        books.begin()

    def _notice(self) -> None:
        self._changed.set()

    def keep(self, items: Sequence[Any]) -> Sequence[Any]:
        """Take in the book updates among *items*; return the others, and new quotes."""
        items = self._books.keep(items)
        if self._books.faults:
            self._tell()
        return items

    def expect(self, symbols: Iterable[str]) -> None:
        """Notice that the venue is about to send snapshots of *symbols* by itself."""
        self._books.expect(symbols, trio.current_time() + _PATIENCE_S)

    def interrupt(self, symbols: Iterable[str], reason: GapReason) -> None:
        """Notice that nothing comes of *symbols* from now on; a gap is told later."""
        for symbol in symbols:
            self._books.gap(symbol, reason, book=True)

    def forget(self, symbols: Iterable[str]) -> None:
        """Keep no books of *symbols* any more."""
        self._books.forget(symbols)

    def waits_for(self, name: str) -> bool:
        """Return whether a snapshot of *name* is to be asked for now."""
        return name in self._books.missing(trio.current_time())

    def restart(self, name: str) -> None:
        """Have the updates of *name* wait for another snapshot."""
        self._books.restart(name)

    def _tell(self) -> None:
        for fault in self._books.take_faults():
            lost = [(fault.symbol, trio.current_time())]
            self._telling.mark_gaps(lost, "sequence", book=fault.wrong, found_here=True)
            if fault.wrong and (times := self._log_limit.due("book_wrong")):
                log_event(
                    logger,
                    logging.WARNING,
                    "feed.book_wrong",
                    "the book of %s is wrong: %s",
                    fault.symbol,
                    fault.reason,
                    symbol=fault.symbol,
                    reason=fault.reason,
                    times=times,
                )

    async def run(self) -> None:
        """Ask for the snapshots that are wanted, until cancelled.

        Cancellation: nothing more is asked for.
        """
        books = self._books
        requests = SnapshotRequests(_AGAIN_OVER_REST_S if books.over_rest else _AGAIN_AFTER_S)
        while True:
            now = trio.current_time()
            missing = books.missing(now)
            for symbol in requests.take_due(missing, now):
                self._ask(symbol)
            self._changed = trio.Event()
            with trio.move_on_at(min(requests.next_at(missing), books.next_missing_at(now))):
                await self._changed.wait()
