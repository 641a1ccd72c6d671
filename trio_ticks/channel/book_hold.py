"""Which updates of an order book are held back: those between a loss and a snapshot.

Rules: a hold begins at the head or at the tail of what is queued of its symbol, as the
loss does, so that updates before the loss are still handled. Whoever asks drops what is
held back, with the reason ``held``. Sync; no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from ..ticks import BookUpdate, MarketData
from .marked import plain

__all__ = ["BookHold"]

T = TypeVar("T", bound=MarketData)


class _Symbols(dict[str, None]):
    """An ordered set of at most *most* symbols; the oldest is removed for a new one.

    A dict, so that asking whether it is empty costs no Python call.
    """

    most = 100_000

    def add(self, symbol: str) -> bool:
        """Add *symbol*; return whether another one was removed for it."""
        is_full = symbol not in self and len(self) >= self.most
        if is_full:
            del self[next(iter(self))]
        self[symbol] = None
        return is_full

    def discard(self, symbol: str) -> None:
        """Remove *symbol*, if it is there."""
        self.pop(symbol, None)


class BookHold:
    """Symbols whose book updates are held back until a fresh snapshot comes.

    An update was lost, so those behind it would be applied to a wrong book.
    """

    __slots__ = ("forgotten", "head", "tail", "wanted")

    def __init__(self) -> None:
        self.forgotten = 0
        """Symbols that are held back no longer, because too many others are."""
        self.head = _Symbols()
        """An update was lost before the queued items of the symbol."""
        self.tail = _Symbols()
        """An update was lost behind the queued items of the symbol."""
        self.wanted = _Symbols()
        """The symbols whose fresh snapshot has not come yet."""

    def lost(self, items: Iterable[Any], *, at_head: bool) -> bool:
        """Hold the books of *items*, which were lost; return whether there are any."""
        symbols = {item.symbol for item in items if isinstance(item, BookUpdate)}
        for symbol in symbols:
            self.hold(symbol, at_head=at_head)
        return bool(symbols)

    def hold(self, symbol: str, *, at_head: bool) -> None:
        """Hold the book of *symbol* until its next snapshot."""
        self.forgotten += (self.head if at_head else self.tail).add(symbol)
        self.wanted.add(symbol)

    def let_in(self, items: Sequence[T]) -> tuple[Sequence[T], list[T]]:
        """Split *items*, maybe marked, into those to let in and those to hold back."""
        kept: list[T] = []
        held: list[T] = []
        for item in items:
            update = plain(item)
            if isinstance(update, BookUpdate) and update.symbol in self.tail:
                if not update.snapshot:
                    held.append(item)
                    continue
                self.tail.discard(update.symbol)
                self.wanted.discard(update.symbol)
            kept.append(item)
        return kept, held

    def holds(self, item: object) -> bool:
        """Tell whether *item*, just taken, is held back; a snapshot ends the hold."""
        if not isinstance(item, BookUpdate) or item.symbol not in self.head:
            return False
        if not item.snapshot:
            return True
        self.head.discard(item.symbol)
        if item.symbol not in self.tail:
            self.wanted.discard(item.symbol)
        return False
