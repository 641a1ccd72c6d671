"""Losses that are still to be announced: gaps, and order books that lack a snapshot.

Goal: a strategy learns of each loss exactly once, in the symbol's order: after the
items before the loss, and before the items behind it.

Plan: items wait in a buffer, then in a lane. A loss lies in one of three places, and
each symbol has at most one gap in each; losses at the same place are joined.

- ``head``: the lost items were the symbol's oldest. The gap is announced before the
  item of the symbol that is taken next.
- ``lanes``: the lost item was the last one of a lane. The gap is put before the next
  item that leaves the buffer.
- ``tail``: the lost items were the symbol's newest. The next item that is let in is
  marked with the gap (:class:`~trio_ticks.channel.marked.Marked`), and carries it
  through buffer and lane.

Which updates of an order book are held back until a snapshot comes is decided in
book_hold.py.

Warning: a marked item is no item. Code that handles one unwraps it by
:func:`~trio_ticks.channel.marked.plain`, or by :meth:`Losses.unmark`, which keeps the
gap and the count of marks.

Rules: a worker reads only the flag ``attention``, so each method of :class:`Losses`
that changes what it stands for sets it. Losses within the channel are counted by the
ledger, losses before it here. Sync; no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, TypeVar

from ..gaps import Gap, GapReason
from ..handlers.breaker import BreakerState
from ..ticks import MarketData
from .book_hold import BookHold
from .lanes import Lanes
from .marked import Marked

__all__ = ["GapBook", "Losses"]

T = TypeVar("T", bound=MarketData)


class GapBook:
    """The gaps that have not been announced yet, by symbol."""

    __slots__ = ("forgotten", "found", "head", "lanes", "missed", "tail")

    most = 10_000
    """Gaps that are kept at each of the three places. Beyond that the oldest one is
    forgotten: a symbol that never comes again would keep its gap for ever."""

    def __init__(self) -> None:
        self.forgotten = 0
        """Gaps that were forgotten before they could be announced."""
        self.found: dict[str, int] = {}
        """How many gaps lay before the channel, by reason."""
        self.missed: dict[str, int] = {}
        """How many items they held, as far as it was known, by reason."""
        self.head: dict[str, Gap] = {}
        """Announced before the next item that is taken."""
        self.lanes: dict[str, Gap] = {}
        """At the end of a lane: put before the next item that leaves the buffer."""
        self.tail: dict[str, Gap] = {}
        """Put before the next item that is let in."""

    def count(self, gap: Gap) -> None:
        """Count *gap*, found before the channel, even if no strategy wants gaps."""
        self.found[gap.reason] = self.found.get(gap.reason, 0) + 1
        self.missed[gap.reason] = self.missed.get(gap.reason, 0) + gap.count

    def add(self, gap: Gap, *, at_head: bool) -> None:
        """Add *gap* to the one at the head or tail of its symbol."""
        gaps = self.head if at_head else self.tail
        known = gaps.get(gap.symbol)
        if known is None:
            self._keep(gaps, gap)
        else:
            gaps[gap.symbol] = known.joined(gap)

    def _keep(self, gaps: dict[str, Gap], gap: Gap) -> None:
        if len(gaps) >= self.most:
            del gaps[next(iter(gaps))]
            self.forgotten += 1
        gaps[gap.symbol] = gap

    def lost(self, items: Iterable[MarketData], reason: GapReason, *, at_head: bool) -> None:
        """Add a gap for each of *items*, which no handler will see."""
        for item in items:
            self.add(Gap(item.symbol, item.timestamp, reason, 1, item.timestamp), at_head=at_head)

    def lost_in_lane(self, item: MarketData, before: Gap | None) -> None:
        """Add a gap for *item*, the last one of its lane, which no handler will see.

        Args:
            item: without its mark.
            before: the gap that it was marked with; it lies before *item*.
        """
        gap = Gap(item.symbol, item.timestamp, "overflow", 1, item.timestamp)
        gap = gap if before is None else before.joined(gap)
        self.add_in_lane(gap)

    def add_in_lane(self, gap: Gap) -> None:
        """Add *gap* at the end of its symbol's lane, before a gap that lies there."""
        known = self.lanes.get(gap.symbol)
        if known is None:
            self._keep(self.lanes, gap)
        else:
            self.lanes[gap.symbol] = gap.joined(known)

    def leave_buffer(self, item: T | Marked[T]) -> tuple[T | Marked[T], bool]:
        """Put the gap at the end of its symbol's lane before *item*.

        The item leaves the buffer.

        Returns:
            The item, marked if there is a gap, and whether a mark was added.
        """
        gap = self.lanes.pop(item.symbol, None)
        if gap is None:
            return item, False
        if isinstance(item, Marked):
            item.gap = gap.joined(item.gap)
            return item, False
        return Marked(item, gap), True

    def mark(self, items: Sequence[T]) -> tuple[list[T | Marked[T]], int]:
        """Mark the first of *items* of each symbol that has a gap at its tail.

        Returns:
            The items, and how many marks were added.
        """
        tail = self.tail
        marked: list[T | Marked[T]] = list(items)
        count = 0
        for index, item in enumerate(items):
            if not tail:
                break
            gap = tail.pop(item.symbol, None)
            if gap is None:
                continue
            if isinstance(item, Marked):
                item.gap = item.gap.joined(gap)
            else:
                marked[index] = Marked(item, gap)
                count += 1
        return marked, count


Held = Literal["book", "breaker"]
"""What holds an item back: a book without a snapshot, or the breaker."""


class Losses:
    """The gaps and books of one channel, and the flag that workers read.

    ``attention`` is true if a worker must check anything before its next tick: gaps,
    held books, failing symbols, ready lanes. It is one flag, so that the hot path reads
    one thing. It does no harm if it is true too often. Only the methods here set it.
    """

    __slots__ = ("_marked", "attention", "books", "breaker", "gaps", "lanes", "tells_gaps")

    def __init__(self, lanes: Lanes[Any]) -> None:
        self.lanes = lanes
        self.gaps = GapBook()
        self.books = BookHold()
        self.breaker: BreakerState | None = None
        """The symbols whose handler fails; ``None`` without a pool or a breaker."""
        self.tells_gaps = False
        """Whether a strategy wants gaps; if not, none is kept."""
        self.attention = False
        self._marked = 0
        """How many marked items there are in the buffer and the lanes."""

    @property
    def unannounced(self) -> bool:
        """Whether a gap is to be announced, a book is held, or a symbol is failing."""
        gaps = self.gaps
        return bool(self._marked or gaps.head or gaps.lanes or self.books.head or self.breaker)

    @property
    def forgotten(self) -> int:
        """How many gaps and held books were forgotten, because others came."""
        return self.gaps.forgotten + self.books.forgotten

    def refresh_attention(self) -> None:
        """Set ``attention`` anew, after a change of anything that it stands for."""
        self.attention = bool(self.lanes.ready or self.unannounced)

    def release(self, symbol: str) -> None:
        """End the lease of *symbol*; if ticks wait behind it, set ``attention``."""
        self.lanes.release(symbol)
        if self.lanes.ready:
            self.attention = True

    def mark(self, items: Sequence[T]) -> Sequence[Any]:
        """Return *items*, about to be let in, with the gaps at their symbols' tails."""
        marked, count = self.gaps.mark(items)
        self._marked += count
        self.refresh_attention()
        return marked

    def unmark(self, item: T | Marked[T], *, at_head: bool) -> T:
        """Return *item* without its mark; its gap moves to the head or the tail."""
        if not isinstance(item, Marked):
            return item
        self._marked -= 1
        self.gaps.add(item.gap, at_head=at_head)
        return item.item

    def marked_again(self, item: T, gap: Gap) -> Marked[T]:
        """Return *item*, inspected but not handled, marked with *gap* again."""
        self._marked += 1
        self.attention = True
        return Marked(item, gap)

    def defer_gap(self, symbol: str) -> None:
        """Move the gap at the head of *symbol* behind ticks that will come back.

        These ticks were taken before the loss; they are put at the head after this
        call. The gap goes to the first item of the lane, or to the lane's end if that
        is empty.
        """
        gap = self.gaps.head.pop(symbol, None)
        if gap is None:
            return
        lane = self.lanes.lines.get(symbol)
        if not lane:
            self.gaps.add_in_lane(gap)
            return
        item, arrived = lane[0]
        if isinstance(item, Marked):
            item.gap = gap.joined(item.gap)
        else:
            lane[0] = (self.marked_again(item, gap), arrived)

    def forget(self, symbols: Collection[str]) -> None:
        """Remove all gaps and held books of *symbols*.

        Another process receives the ticks of these symbols now.
        """
        for kept in (self.gaps.head, self.gaps.lanes, self.gaps.tail):
            for symbol in symbols:
                kept.pop(symbol, None)
        for held in (self.books.head, self.books.tail, self.books.wanted):
            for symbol in symbols:
                held.discard(symbol)
        self.refresh_attention()

    def forget_marks(self, count: int) -> None:
        """Count *count* marks less: their items were merged into other marked items."""
        self._marked -= count

    def leave_buffer(self, item: Any) -> Any:
        """Return *item*, just taken from the buffer, with the gap at its lane's end."""
        marked, more = self.gaps.leave_buffer(item)
        self._marked += more
        return marked

    def lost(self, items: Sequence[Any], reason: GapReason, *, at_head: bool, books: bool) -> bool:
        """Add gaps for *items*, which no handler will see, and hold their books.

        Args:
            items: without marks.
            reason: why they were lost.
            at_head: whether they were the first of their symbols; else the last.
            books: whether to hold the books of updates among them.

        Returns:
            Whether a book needs a snapshot now.
        """
        if self.tells_gaps:
            self.gaps.lost(items, reason, at_head=at_head)
        needed = books and self.books.lost(items, at_head=at_head)
        self.refresh_attention()
        return needed

    def lost_in_lane(self, item: Any) -> bool:
        """Add a gap for *item*, the last of its lane; return as :meth:`lost` does."""
        gap = None
        if isinstance(item, Marked):
            self._marked -= 1
            item, gap = item.item, item.gap
        if self.tells_gaps:
            self.gaps.lost_in_lane(item, gap)
        needed = self.books.lost((item,), at_head=True)
        self.refresh_attention()
        return needed

    def lost_before(self, gap: Gap, *, book: bool) -> None:
        """Count and add *gap*, which lies before the channel.

        Args:
            gap: found by the feed.
            book: whether the symbol's book needs a snapshot.
        """
        self.gaps.count(gap)
        if self.tells_gaps:
            self.gaps.add(gap, at_head=False)
        if book:
            self.books.hold(gap.symbol, at_head=False)

    def inspect(self, item: Any, now: float) -> tuple[Any, Gap | None, Held | None]:
        """Unwrap *item*, just taken at the time *now*, before it is handled.

        Returns:
            The item without its mark, the gap to announce before it, and what holds it
            back: then the caller has to drop it.
        """
        if not self.unannounced:
            return item, None, None
        unmarked: Any = self.unmark(item, at_head=True)
        if self.books.holds(unmarked):
            return unmarked, None, "book"
        if self.breaker and self.breaker.holds(unmarked.symbol, now):
            return unmarked, None, "breaker"
        gap = self.gaps.head.pop(unmarked.symbol, None)
        self.refresh_attention()
        return unmarked, gap, None
