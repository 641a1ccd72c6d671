"""Losses, told to the strategy in the symbol's order; and book updates that are worthless until the next snapshot. Sync, no clock.

Rules: a loss at the head of a symbol's line is told before the next item taken; a loss at its tail before the next item let in, which
is marked for that. A gap is told exactly once. What is lost in the channel is the ledger's to count, what was lost before it ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import attrs

from .ticks import BookUpdate, MarketData

__all__ = ["BookHold", "Gap", "GapBook", "GapReason", "Marked", "SequenceTracker"]

T = TypeVar("T", bound=MarketData)
GapReason = Literal["overflow", "evicted", "stale", "held", "sequence", "reconnect", "malformed", "breaker", "throttle"]


@attrs.frozen(slots=True)
class Gap:
    """Something of a symbol that the strategy will not see. It has a symbol and a timestamp, as ticks do."""

    symbol: str
    timestamp: datetime
    """Of the last item lost, as far as it is known."""
    reason: GapReason
    """Why; of the first loss, where several fell together."""
    count: int
    """How many items were lost; 0 where nobody can know (a reconnect)."""
    first_timestamp: datetime
    """Of the first item lost, as far as it is known."""

    def joined(self, later: Gap) -> Gap:
        """Return this gap and *later* as one."""
        return Gap(self.symbol, later.timestamp, self.reason, self.count + later.count, self.first_timestamp)


class Marked(Generic[T]):
    """An item with the gap that lies right before it."""

    __slots__ = ("gap", "item")

    def __init__(self, item: T, gap: Gap) -> None:
        self.item = item
        self.gap = gap

    @property
    def symbol(self) -> str:
        return self.item.symbol

    @property
    def timestamp(self) -> datetime:
        return self.item.timestamp


class GapBook:
    """The gaps that have not been told yet, by symbol."""

    __slots__ = ("found", "head", "lanes", "missed", "tail")

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        """How many gaps lay before the channel, by reason."""
        self.missed: dict[str, int] = {}
        """How many items they held, as far as it was known, by reason."""
        self.head: dict[str, Gap] = {}
        """To be told before the next item taken."""
        self.lanes: dict[str, Gap] = {}
        """At the end of a lane: to be told before the next item that leaves the buffer."""
        self.tail: dict[str, Gap] = {}
        """To be told before the next item let in."""

    def note(self, gap: Gap) -> None:
        """Count a gap that lay before the channel, whether or not anybody wants to be told."""
        self.found[gap.reason] = self.found.get(gap.reason, 0) + 1
        self.missed[gap.reason] = self.missed.get(gap.reason, 0) + gap.count

    def add(self, gap: Gap, *, at_head: bool) -> None:
        gaps = self.head if at_head else self.tail
        known = gaps.get(gap.symbol)
        gaps[gap.symbol] = gap if known is None else known.joined(gap)

    def lost(self, items: Iterable[MarketData], reason: GapReason, *, at_head: bool) -> None:
        """Note that *items* will not be seen."""
        for item in items:
            self.add(Gap(item.symbol, item.timestamp, reason, 1, item.timestamp), at_head=at_head)

    def lost_in_lane(self, item: MarketData, before: Gap | None) -> None:
        """Note that *item*, the last one of its lane, will not be seen; nor what *before*, the gap that it was marked with, tells of."""
        gap = Gap(item.symbol, item.timestamp, "overflow", 1, item.timestamp)
        gap = gap if before is None else before.joined(gap)
        known = self.lanes.get(item.symbol)
        self.lanes[item.symbol] = gap if known is None else gap.joined(known)

    def leave_buffer(self, item: T | Marked[T]) -> tuple[T | Marked[T], bool]:
        """Return *item*, which leaves the buffer, with the gap that its symbol's lane ends with; and whether that made it a marked one."""
        gap = self.lanes.pop(item.symbol, None)
        if gap is None:
            return item, False
        if isinstance(item, Marked):
            item.gap = gap.joined(item.gap)
            return item, False
        return Marked(item, gap), True

    def mark(self, items: Sequence[T]) -> tuple[list[T | Marked[T]], int]:
        """Return *items* with the first of each symbol that has a loss at its tail marked, and how many were."""
        tail = self.tail
        marked: list[T | Marked[T]] = list(items)
        count = 0
        for index, item in enumerate(items):
            if not tail:
                break
            gap = tail.pop(item.symbol, None)
            if gap is not None:
                marked[index] = Marked(item, gap)
                count += 1
        return marked, count


class BookHold:
    """Symbols whose book updates are worthless until a fresh snapshot, since one before was lost."""

    __slots__ = ("head", "tail", "wanted")

    def __init__(self) -> None:
        self.head: set[str] = set()
        """Something was lost before what is queued."""
        self.tail: set[str] = set()
        """Something was lost after what is queued."""
        self.wanted: set[str] = set()
        """Snapshots that have not come yet."""

    def lost(self, items: Iterable[Any], *, at_head: bool) -> bool:
        """Note lost items; True where a book update was among them."""
        symbols = {item.symbol for item in items if isinstance(item, BookUpdate)}
        (self.head if at_head else self.tail).update(symbols)
        self.wanted |= symbols
        return bool(symbols)

    def let_in(self, items: Sequence[T]) -> tuple[Sequence[T], list[T]]:
        """Split *items* at the tail into those to let in, and those to hold back."""
        kept: list[T] = []
        held: list[T] = []
        for item in items:
            if isinstance(item, BookUpdate) and item.symbol in self.tail:
                if not item.snapshot:
                    held.append(item)
                    continue
                self.tail.discard(item.symbol)
                self.wanted.discard(item.symbol)
            kept.append(item)
        return kept, held

    def holds(self, item: object) -> bool:
        """Tell whether *item*, just taken, must be held back."""
        if not isinstance(item, BookUpdate) or item.symbol not in self.head:
            return False
        if not item.snapshot:
            return True
        self.head.discard(item.symbol)
        if item.symbol not in self.tail:
            self.wanted.discard(item.symbol)
        return False


class SequenceTracker:
    """Finds gaps and duplicates in numbered messages, per symbol.

    For codecs of venues that number their messages without holes (Binance ``U``/``u``, Kraken and Coinbase sequences).
    """

    __slots__ = ("_last", "duplicates", "missed")

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self.missed = 0
        """Messages that never came, over all symbols."""
        self.duplicates = 0
        """Messages that had come before."""

    def check(self, symbol: str, first: int, last: int | None = None) -> int:
        """Look at the message of *symbol* that covers the numbers *first* to *last*.

        Returns:
            int: how many numbers are missing before it; 0 where it continues (or begins) the sequence, -1 where all of it has come before.

        Raises:
            ValueError: *last* lies before *first*.
        """
        last = first if last is None else last
        if last < first:
            raise ValueError(f"a message cannot cover {first} to {last}")
        known = self._last.get(symbol)
        if known is not None and last <= known:
            self.duplicates += 1
            return -1
        self._last[symbol] = last
        missing = 0 if known is None else max(0, first - known - 1)
        self.missed += missing
        return missing

    def reset(self, symbol: str | None = None) -> None:
        """Forget *symbol*, or all of them: after a snapshot or a reconnect numbering may begin anew."""
        if symbol is None:
            self._last.clear()
        else:
            self._last.pop(symbol, None)
