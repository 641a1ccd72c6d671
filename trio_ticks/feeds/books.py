"""Books that a feed keeps itself: updates go in, ticks come out when the best changes.

A stage between the items that a feed has decoded and the channel, the same for every
feed. What is no book update passes through.

Rules: an update that is taken in is counted as ``booked``, whatever becomes of it. A
book that is not valid makes no tick. Nothing is asked of the venue here: the stage says
which snapshots are wanted. Sync, no trio, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol, final

import attrs

from ..book import Book, Checksum
from ..gaps import GapReason
from ..ticks import BookUpdate, Level, Tick, unchecked_tick
from .base import FeedStats

__all__ = ["UNTOUCHED", "BookFault", "BookStage", "KeptBooks", "most_waiting"]

_MOST_WAITING: Final = 50_000
"""Updates that wait for snapshots, of the first 50 books together."""
_FEWEST: Final = 20
UNTOUCHED: Final = frozenset({"sequence", "breaker"})
"""Reasons of gaps that concern other items of a symbol, unless they name its book."""


@final
@attrs.frozen
class BookFault:
    """What a strategy has to be told of a book: from now on it has no best quote."""

    symbol: str
    reason: str
    """For people to read."""
    wrong: bool
    """Whether the book was found wrong; if not, one of its sides is empty."""


class BookStage(Protocol):
    """A stage between the items that a feed has decoded and the channel."""

    @property
    def keeps_updates(self) -> bool: ...
    @property
    def over_rest(self) -> bool: ...
    @property
    def faults(self) -> list[BookFault]: ...

    on_wanted: Callable[[], object]

    def keep(self, items: Sequence[Any]) -> Sequence[Any]: ...
    def gap(self, symbol: str, reason: GapReason, *, book: bool) -> None: ...
    def expect(self, symbols: Iterable[str], until: float) -> None: ...
    def missing(self, now: float) -> list[str]: ...
    def next_missing_at(self, now: float) -> float: ...
    def begin(self) -> None: ...
    def forget(self, symbols: Iterable[str]) -> None: ...
    def restart(self, symbol: str) -> None: ...
    def names(self) -> list[str]: ...
    def take_faults(self) -> list[BookFault]: ...


def most_waiting(books: int) -> int:
    """Return how many updates may wait for the snapshot of one more book.

    A thousand of each of a thousand symbols would take gigabytes, and snapshots are had
    one after another. An update is waited with only while its snapshot is on the way.

    Args:
        books: that there are.
    """
    return min(1000, max(_FEWEST, _MOST_WAITING // (books + 1)))


@final
class KeptBooks:
    """The books of one feed, by symbol, under the user's names.

    Args:
        stats: of the feed.
        new_checksum: makes the check of a new book; ``None``: the venue has none.
        over_rest: whether snapshots are had over REST, and do not come by themselves.
    """

    most = 10_000
    """Books that are kept. The oldest is forgotten for a new one."""
    keeps_updates: Final = True
    """Whether book updates stay here."""

    def __init__(
        self,
        stats: FeedStats,
        new_checksum: Callable[[], Checksum] | None,
        *,
        over_rest: bool = False,
    ) -> None:
        self.over_rest: Final = over_rest
        """Whether a snapshot is asked for only when an update waits for it."""
        self._stats = stats
        self._new_checksum = new_checksum
        self._books: dict[str, Book] = {}
        self._best: dict[str, tuple[Level, Level]] = {}
        """The quotes that the strategy was told last."""
        self.books: Final[Mapping[str, Book]] = MappingProxyType(self._books)
        self.wanted: Final[dict[str, None]] = {}
        """The symbols whose book needs a snapshot."""
        self._expected: dict[str, float] = {}
        """Until when the snapshots that come by themselves are waited for."""
        self.faults: list[BookFault] = []
        """What is to be told; the caller takes it out."""
        self.on_wanted: Callable[[], object] = lambda: None
        """Called when another snapshot is wanted or expected."""

    def keep(self, items: Sequence[Any]) -> Sequence[Any]:
        """Take in the book updates among *items*; return the others, and new quotes.

        Look at :attr:`faults` afterwards.
        """
        kept: list[Any] = []
        for item in items:
            if isinstance(item, BookUpdate):
                self._stats.booked += 1
                tick = self._take_in(item)
                if tick is not None:
                    kept.append(tick)
            else:
                kept.append(item)
        return kept

    def _take_in(self, update: BookUpdate) -> Tick | None:
        symbol = update.symbol
        book = self._books.get(symbol) or self._open(symbol)
        outcome = book.apply(update)
        if outcome != "applied":
            if outcome == "buffered" and self.over_rest and book.buffered == 1:
                self.on_wanted()
            if outcome == "wrong":
                self._stats.book_errors += 1
                self._lose(symbol, book.reason or "", wrong=True)
            return None
        if symbol in self.wanted:
            del self.wanted[symbol]
            self._expected.pop(symbol, None)
        best = book.best
        if best is None:
            if symbol in self._best:
                self._lose(symbol, "nothing is bid, or nothing is asked", wrong=False)
            return None
        if best == self._best.get(symbol):
            return None
        self._best[symbol] = best
        (bid, bid_size), (ask, ask_size) = best
        return unchecked_tick(symbol, update.timestamp, bid, ask, bid_size, ask_size, math.nan)

    def _open(self, symbol: str) -> Book:
        """Return a new book, without a snapshot yet."""
        if len(self._books) >= self.most:
            self.forget((next(iter(self._books)),))
        checksum = None if self._new_checksum is None else self._new_checksum()
        book = self._books[symbol] = Book(
            symbol, checksum=checksum, most_buffered=most_waiting(len(self._books))
        )
        self._want(symbol)
        return book

    def _want(self, symbol: str) -> None:
        self.wanted[symbol] = None
        self.on_wanted()

    def _lose(self, symbol: str, reason: str, *, wrong: bool) -> None:
        if wrong:
            self._want(symbol)
        self._best.pop(symbol, None)
        self.faults.append(BookFault(symbol, reason, wrong))

    def gap(self, symbol: str, reason: GapReason, *, book: bool) -> None:
        """Notice that items of *symbol* were lost before they came here.

        Its book is stale then, except where the gap is known to lie elsewhere. Nothing
        is told: the strategy has been told of the gap.

        Args:
            symbol: whose items.
            reason: of the gap.
            book: whether the gap is known to concern the book.
        """
        if not book and reason in UNTOUCHED:
            return
        kept = self._books.get(symbol)
        if kept is None:
            return
        kept.mark_stale(f"a gap ({reason})")
        self._want(symbol)
        self._best.pop(symbol, None)

    def expect(self, symbols: Iterable[str], until: float) -> None:
        """Notice that the venue sends snapshots of *symbols* by itself.

        It does so after a subscription. They need not be asked for before the time
        *until*. Over REST none comes by itself.
        """
        if self.over_rest:
            return
        self._expected.update((symbol, until) for symbol in symbols)
        self.on_wanted()

    def missing(self, now: float) -> list[str]:
        """Return the symbols whose snapshot is to be asked for at *now*.

        Over REST those whose updates wait: a snapshot from before the first of them
        would be of no use.
        """
        if self.over_rest:
            books = self._books
            return [symbol for symbol in self.wanted if books[symbol].buffered]
        expected = self._expected
        return [symbol for symbol in self.wanted if expected.get(symbol, now) <= now]

    def next_missing_at(self, now: float) -> float:
        """Return when the next snapshot is missing that is only expected at *now*."""
        expected = self._expected
        times = [expected[symbol] for symbol in self.wanted if symbol in expected]
        return min((at for at in times if at > now), default=math.inf)

    def begin(self) -> None:
        """Notice that the feed begins anew: what its books hold is from long ago."""
        for symbol, book in self._books.items():
            book.mark_stale("the feed has begun anew")
            self.wanted[symbol] = None
        self._best.clear()
        self.faults.clear()

    def forget(self, symbols: Iterable[str]) -> None:
        """Keep no books of *symbols* any more."""
        for symbol in symbols:
            self._books.pop(symbol, None)
            self._best.pop(symbol, None)
            self.wanted.pop(symbol, None)
            self._expected.pop(symbol, None)

    def restart(self, symbol: str) -> None:
        """Do nothing: a book says itself when it needs a snapshot."""

    def names(self) -> list[str]:
        """Return the symbols that have a book."""
        return list(self._books)

    def take_faults(self) -> list[BookFault]:
        """Return what is to be told, and forget it."""
        faults, self.faults = self.faults, []
        return faults
