"""Puts snapshots of order books in their place among the updates of a stream.

For venues whose snapshots are had over REST, where the strategy takes the book updates
itself. Of each symbol the updates wait until its snapshot has come; then the snapshot
goes on, and behind it those updates that it lacks. From then on updates go on as they
come, as long as none is missing.

Rules: an update that a snapshot has in it, or that came before, is left out and counted
as a duplicate. What waits is bounded: if too many updates wait, the oldest is left out
and a newer snapshot is needed. Sync, no trio, no clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, final

from ..book import Behind, first_number
from ..gaps import GapReason
from ..ticks import BookUpdate
from .base import FeedStats
from .books import UNTOUCHED, BookFault, most_waiting

__all__ = ["BookSync"]


@final
class _Line:
    """The updates of one symbol."""

    __slots__ = ("behind", "last", "waiting")

    def __init__(self, most: int) -> None:
        self.last: int | None = None
        """The number of the last change that has gone on; ``None``: updates wait."""
        self.waiting: deque[BookUpdate] = deque(maxlen=most)
        self.behind = Behind()


@final
class BookSync:
    """The books of one feed, by symbol, as far as their numbers go.

    Args:
        stats: of the feed.
        most_waiting_each: updates of a symbol that wait for its snapshot; fewer if
            there are many symbols.
    """

    most = 10_000
    """Symbols that are kept. The oldest is forgotten for a new one."""
    keeps_updates: Final = False
    """Whether book updates stay here."""
    over_rest: Final = True
    """Whether a snapshot is asked for only when an update waits for it."""

    def __init__(self, stats: FeedStats, most_waiting_each: int = 1000) -> None:
        self._stats = stats
        self._most_waiting = most_waiting_each
        self._lines: dict[str, _Line] = {}
        self.wanted: Final[dict[str, None]] = {}
        """The symbols that need a snapshot."""
        self.faults: list[BookFault] = []
        """What is to be told; the caller takes it out."""
        self.on_wanted: Callable[[], object] = lambda: None
        """Called when another snapshot is to be asked for."""

    @property
    def waiting(self) -> int:
        """How many updates wait for their snapshots."""
        return sum(len(line.waiting) for line in self._lines.values())

    def keep(self, items: Sequence[Any]) -> Sequence[Any]:
        """Return *items* with each update after its snapshot, or without it.

        Look at :attr:`faults` afterwards.
        """
        found: list[Any] = []
        for item in items:
            if not isinstance(item, BookUpdate) or item.last_sequence is None:
                found.append(item)
            elif item.snapshot:
                found += self._start(item, item.last_sequence)
            else:
                found += self._follow(item, item.last_sequence)
        return found

    def _follow(self, update: BookUpdate, last: int) -> Sequence[BookUpdate]:
        """Return *update* if it is the next one of its symbol."""
        line = self._lines.get(update.symbol) or self._open(update.symbol)
        if line.last is not None:
            if last <= line.last:
                if last == line.last or not line.behind.is_too_long(update.timestamp):
                    self._stats.duplicates += 1
                    return ()
                reason = f"updates end with {last}, and the book with {line.last}"
            else:
                first = first_number(update)
                if first <= line.last + 1:
                    line.last = last
                    line.behind.end()
                    return (update,)
                reason = f"the changes {line.last + 1} to {first - 1} are missing"
            self.faults.append(BookFault(update.symbol, reason, wrong=True))
            self._stats.book_errors += 1
            line.last = None
            line.behind.end()
            self.wanted[update.symbol] = None
        if line.waiting and last < first_number(line.waiting[0]):
            # The numbers go back behind all that waits: no snapshot could fit.
            self._stats.duplicates += len(line.waiting)
            line.waiting.clear()
        self._stats.duplicates += len(line.waiting) == line.waiting.maxlen
        line.waiting.append(update)
        if len(line.waiting) == 1:
            self.on_wanted()
        return ()

    def _start(self, snapshot: BookUpdate, last: int) -> Sequence[BookUpdate]:
        """Return *snapshot* with the updates behind it; nothing if it is too old."""
        symbol = snapshot.symbol
        line = self._lines.get(symbol)
        if line is None:
            # Of the best levels of a book each update is a snapshot.
            return (snapshot,)
        if line.last is not None and last < line.last:
            self._stats.duplicates += 1
            return ()
        waiting = line.waiting
        while waiting and (waiting[0].last_sequence or 0) <= last:
            waiting.popleft()
            self._stats.duplicates += 1
        if waiting and first_number(waiting[0]) > last + 1:
            return ()
        self.wanted.pop(symbol, None)
        later, line.waiting = waiting, deque(maxlen=waiting.maxlen)
        line.last = last
        line.behind.end()
        found = [snapshot]
        for update in later:
            found += self._follow(update, update.last_sequence or 0)
        return found

    def _open(self, symbol: str) -> _Line:
        if len(self._lines) >= self.most:
            self.forget((next(iter(self._lines)),))
        most = min(self._most_waiting, most_waiting(len(self._lines)))
        line = self._lines[symbol] = _Line(most)
        self.wanted[symbol] = None
        return line

    def restart(self, symbol: str) -> None:
        """Have the updates of *symbol* wait for another snapshot.

        Nothing changes if they wait already.
        """
        line = self._lines.get(symbol)
        if line is not None and line.last is not None:
            line.last = None
            line.behind.end()
            self.wanted[symbol] = None

    def gap(self, symbol: str, reason: GapReason, *, book: bool) -> None:
        """Notice that items of *symbol* were lost before they came here.

        Args:
            symbol: whose items.
            reason: of the gap.
            book: whether the gap is known to concern the book.
        """
        line = self._lines.get(symbol)
        if line is None or (not book and reason in UNTOUCHED):
            return
        self._stats.duplicates += len(line.waiting)
        line.waiting.clear()
        self.restart(symbol)

    def expect(self, symbols: Iterable[str], until: float) -> None:
        """Do nothing: no snapshot comes by itself."""

    def missing(self, now: float) -> list[str]:
        """Return the symbols whose snapshot is to be asked for at *now*.

        Those whose updates wait: a snapshot from before the first of them would be of
        no use.
        """
        lines = self._lines
        return [symbol for symbol in self.wanted if lines[symbol].waiting]

    def next_missing_at(self, now: float) -> float:
        """Return ``math.inf``: whether one is missing does not depend on the time."""
        return math.inf

    def begin(self) -> None:
        """Notice that the feed begins anew: nothing is known any more."""
        self._lines.clear()
        self.wanted.clear()
        self.faults.clear()

    def forget(self, symbols: Iterable[str]) -> None:
        """Keep nothing of *symbols* any more."""
        for symbol in symbols:
            line = self._lines.pop(symbol, None)
            self.wanted.pop(symbol, None)
            self._stats.duplicates += 0 if line is None else len(line.waiting)

    def names(self) -> list[str]:
        """Return the symbols of which updates have come."""
        return list(self._lines)

    def take_faults(self) -> list[BookFault]:
        """Return what is to be told, and forget it."""
        faults, self.faults = self.faults, []
        return faults
