"""What a feed tells the strategy besides market data: gaps and events.

Rules: symbols come in the venue's spelling or under the user's names, as each method
says; the strategy hears the user's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, final

import trio

from ..clock import Clock
from ..events import FeedEvent, FeedEventKind
from ..gaps import Gap, GapReason
from .base import SendCapabilities
from .core import FeedCore
from .sieve import is_symbol

__all__ = ["Telling"]


@final
class Telling:
    """Tells the strategy of gaps and events of one feed.

    Args:
        core: of the feed.
        to: where they go.
        clock: of the pipeline.
    """

    def __init__(self, core: FeedCore, to: SendCapabilities, clock: Clock) -> None:
        self._core = core
        self._to = to
        self._clock = clock
        self.refused: Final[set[str]] = set()
        """Symbols that the venue has refused, by name: nothing is expected of them."""

    def mark_gap(self, symbol: str, reason: GapReason, count: int, *, book: bool = False) -> None:
        """Report a gap of *symbol*, in the venue's spelling, at this moment.

        With *book* its order book is wrong until the next snapshot.
        """
        name = self._core.names.get(symbol)
        if name is None:
            if not (self._core.takes_all and is_symbol(symbol)):
                return
            name = symbol
        self.mark_gaps([(name, trio.current_time())], reason, count, book=book)

    def mark_gaps(
        self,
        lost: Iterable[tuple[str, float]],
        reason: GapReason,
        count: int = 0,
        *,
        book: bool = False,
        found_here: bool = False,
    ) -> None:
        """Report a gap for each symbol in *lost*.

        *lost* pairs each name with the beginning of its gap, on trio's clock; *count*
        is how many items are known to be missing. *found_here*: the books of the feed
        have found it, and know of it.
        """
        lost = list(lost)
        books = self._core.books
        if books is not None:
            for name, _ in () if found_here else lost:
                books.gap(name, reason, book=book)
            # Where no book update comes to the channel, it has none to hold back.
            book = book and not books.keeps_updates
        mark_gap = self._to.mark_gap
        if mark_gap is not None:
            now = self._clock.utc()
            for name, since in lost:
                gap = Gap(name, now, reason, count, self._clock.utc_at(since))
                mark_gap(gap, book=True) if book else mark_gap(gap)

    def report(self, kind: FeedEventKind, symbol: str | None, reason: str) -> None:
        """Tell the strategy of an event; *symbol* is the user's name."""
        event = FeedEvent(self._core.name, kind, symbol, reason, self._clock.utc())
        if self._to.report_event is not None:
            self._to.report_event(event)
        if symbol is not None and self._to.takes_events:
            # An item like any other. If there is no room, the channel keeps it waiting.
            self._to.deliver([event])

    def symbol_refused(self, symbol: str | None, reason: str) -> None:
        """Tell the strategy that the venue refuses *symbol*, in its own spelling."""
        if symbol is None:
            self.report("symbol-refused", None, reason)
            return
        name = self._core.names.get(symbol)
        if name is not None:
            self.refused.add(name)
            self.report("symbol-refused", name, reason)
