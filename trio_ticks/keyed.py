"""A buffer that knows its symbols: for strategies that replace, cap or evict per symbol. Sync, no clock, no policy.

Ticks leave in the order in which they came. A tick that is evicted from the middle leaves a dead entry in the order, which is passed over
and swept; the buffer's length counts live ones only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from .ticks import MarketData

__all__ = ["Entry", "KeyedBuffer"]

T = TypeVar("T", bound=MarketData)


class Entry(Generic[T]):
    """An item in its place in line."""

    __slots__ = ("arrived", "evictable", "item", "live")

    def __init__(self, item: T, arrived: float, evictable: bool) -> None:
        self.item = item
        self.arrived = arrived
        self.evictable = evictable
        self.live = True


class KeyedBuffer(Generic[T]):
    """Ticks in the order in which they came, reachable by symbol."""

    def __init__(self) -> None:
        self._order: deque[Entry[T]] = deque()
        self._evictable: deque[Entry[T]] = deque()
        self._lines: dict[str, deque[Entry[T]]] = {}
        self._by_length: dict[int, dict[str, None]] = {}
        self._longest = 0
        self._count = 0
        self._arrival = 0.0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return (entry.item for entry in self._order if entry.live)

    def measure(self) -> int:
        """Count what is really there, for the ledger."""
        return sum(map(len, self._lines.values()))

    def line(self, symbol: str) -> deque[Entry[T]] | None:
        """Return the entries of *symbol*, oldest first, or ``None`` where there is none."""
        return self._lines.get(symbol)

    def push(self, item: T, now: float, *, evictable: bool) -> None:
        """Put *item* at the end of the line."""
        entry = Entry(item, now, evictable)
        self._order.append(entry)
        if evictable:
            self._evictable.append(entry)
        line = self._lines.get(item.symbol)
        if line is None:
            line = self._lines[item.symbol] = deque()
        line.append(entry)
        self._count += 1
        self._moved(item.symbol, len(line) - 1, len(line))

    def take(self) -> T:
        """Remove and return the oldest tick.

        Raises:
            IndexError: there is none.
        """
        while True:
            entry = self._order.popleft()
            if entry.live:
                self._arrival = entry.arrived
                return self._remove(entry)

    def take_many(self, limit: int) -> list[T]:
        """Remove and return the oldest ticks, at most *limit*."""
        return [self.take() for _ in range(min(limit, self._count))]

    def arrival(self) -> float:
        """Return when the tick that was taken last had arrived."""
        return self._arrival

    def oldest_arrival(self) -> float:
        """Return when the tick at the head arrived; only where there is one."""
        for entry in self._order:
            if entry.live:
                return entry.arrived
        raise IndexError("the buffer is empty")

    def evict_oldest(self) -> T | None:
        """Remove and return the oldest tick that may be evicted."""
        queue = self._evictable
        while queue:
            entry = queue.popleft()
            if entry.live:
                return self._remove(entry)
        return None

    def evict_from(self, symbol: str) -> T | None:
        """Remove and return the oldest tick of *symbol* that may be evicted."""
        for entry in self._lines.get(symbol, ()):
            if entry.evictable:
                return self._remove(entry)
        return None

    def longest_line(self) -> tuple[str, int] | None:
        """Return the symbol with the longest line (the one that has been so long for longest), and its length."""
        if not self._count:
            return None
        return next(iter(self._by_length[self._longest])), self._longest

    def _remove(self, entry: Entry[T]) -> T:
        symbol = entry.item.symbol
        line = self._lines[symbol]
        if line[0] is entry:
            line.popleft()
        else:
            line.remove(entry)
        entry.live = False
        self._count -= 1
        self._moved(symbol, len(line) + 1, len(line))
        if not line:
            del self._lines[symbol]
        if len(self._order) > 2 * self._count + 64:
            self._order = deque(entry for entry in self._order if entry.live)
        if len(self._evictable) > 2 * self._count + 64:
            self._evictable = deque(entry for entry in self._evictable if entry.live)
        return entry.item

    def _moved(self, symbol: str, old: int, new: int) -> None:
        if old:
            del self._by_length[old][symbol]
        if new:
            self._by_length.setdefault(new, {})[symbol] = None
        if new > self._longest:
            self._longest = new
        elif old == self._longest and not self._by_length[old]:
            self._longest = new if new else max((length for length, symbols in self._by_length.items() if symbols), default=0)
        if old and not self._by_length[old]:
            del self._by_length[old]
