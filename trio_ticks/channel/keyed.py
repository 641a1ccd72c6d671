"""The queue of a channel whose strategy replaces, caps or evicts ticks by their symbol.

Operations wanted:

- Append a tick; take the oldest one.
- Reach all ticks of one symbol, to replace one in its place or to count them.
- Remove the oldest tick that may be evicted, of all or of one symbol.
- Find the symbol with the most ticks.
- Say when the tick taken last arrived, and when the oldest one did.

Goals: the cost of these does not grow with the number of waiting ticks and symbols. (To
evict from a symbol that mixes kinds, its ticks that may not be evicted are passed
over.) Memory is bounded by the number of ticks that wait.

Plan: each tick is in an entry, and the entry is in up to three deques: ``_order`` with
all ticks, ``_evictable`` with those that may be evicted, and the line of its symbol. An
entry that leaves through one of them cannot be removed from the middle of the others
cheaply. It is marked dead instead, and skipped when it reaches the head. When dead
entries are the majority of a deque, it is built anew (``_remove``), so they are at most
as many as live ones, and 64. Lines have no dead entries: their lengths count.

:class:`_Ranks` groups the symbols by the length of their line, in the order in which
they reached it, so that the longest line is found without a search. Only a strategy
that asks for that line pays for it: a buffer without ranks does not keep them.

Warning: an entry's item may be replaced by another one of the same symbol only;
``_remove`` finds the line by the item's symbol.

Rules: sync; no clock, no policy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from ..ticks import MarketData

__all__ = ["Entry", "KeyedBuffer"]

T = TypeVar("T", bound=MarketData)


class Entry(Generic[T]):
    """A tick in its place in the queue, with its arrival.

    ``live`` is False once the tick has left. Conflation replaces ``item`` and
    ``arrived``.
    """

    __slots__ = ("arrived", "evictable", "item", "live")

    def __init__(self, item: T, arrived: float, evictable: bool) -> None:
        self.item = item
        self.arrived = arrived
        self.evictable = evictable
        self.live = True


class _Ranks:
    """The symbols with lines of each length."""

    __slots__ = ("_by_length", "longest")

    def __init__(self) -> None:
        self._by_length: dict[int, dict[str, None]] = {}
        """The symbols with lines of each length; no length without any."""
        self.longest = 0
        """The length of the longest line."""

    def first_of_longest(self) -> str:
        """Return the symbol with the longest line: of several, the first one."""
        return next(iter(self._by_length[self.longest]))

    def moved(self, symbol: str, old: int, new: int) -> None:
        """Note that the line of *symbol* had the length *old*, and has *new* now."""
        if old:
            del self._by_length[old][symbol]
        if new:
            self._by_length.setdefault(new, {})[symbol] = None
        if new > self.longest:
            self.longest = new
        elif old == self.longest and not self._by_length[old]:
            self.longest = (
                new
                if new
                else max(
                    (length for length, symbols in self._by_length.items() if symbols), default=0
                )
            )
        if old and not self._by_length[old]:
            del self._by_length[old]


class KeyedBuffer(Generic[T]):
    """Ticks in the order in which they came, reachable by symbol.

    Args:
        ranked: whether anybody will ask for the longest line.
    """

    def __init__(self, *, ranked: bool = True) -> None:
        self._order: deque[Entry[T]] = deque()
        """All entries, oldest first; dead ones among them."""
        self._evictable: deque[Entry[T]] = deque()
        """Entries that may be evicted, oldest first; dead ones among them."""
        self.lines: Final[dict[str, deque[Entry[T]]]] = {}
        """The live entries of each symbol, oldest first; no symbol without any.

        For others to read: a strategy looks into it for each tick."""
        self._ranks = _Ranks() if ranked else None
        self._count = 0
        """How many live entries there are."""
        self._arrival = 0.0
        """When the tick that was taken last arrived."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return (entry.item for entry in self._order if entry.live)

    def measure(self) -> int:
        """Count the ticks in the lines, for the ledger."""
        return sum(map(len, self.lines.values()))

    def line(self, symbol: str) -> deque[Entry[T]] | None:
        """Return the entries of *symbol*, oldest first, or ``None`` if it has none."""
        return self.lines.get(symbol)

    def push(self, item: T, now: float, *, evictable: bool) -> None:
        """Append *item*, which arrived at *now*."""
        entry = Entry(item, now, evictable)
        self._order.append(entry)
        if evictable:
            self._evictable.append(entry)
        symbol = item.symbol
        line = self.lines.get(symbol)
        if line is None:
            line = self.lines[symbol] = deque()
        line.append(entry)
        self._count += 1
        if self._ranks is not None:
            self._ranks.moved(symbol, len(line) - 1, len(line))

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
        taken_before = self._arrival
        taken = [self.take() for _ in range(min(limit, self._count))]
        self._arrival = taken_before
        return taken

    def take_run(self, limit: int) -> tuple[list[T], float]:
        """Remove and return the oldest tick, and when it arrived.

        Raises:
            IndexError: there is none.
        """
        return [self.take()], self._arrival

    def arrival(self) -> float:
        """Return when the tick that :meth:`take` gave last had arrived."""
        return self._arrival

    def oldest_arrival(self) -> float:
        """Return when the oldest tick arrived.

        Raises:
            IndexError: there is none.
        """
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
        for entry in self.lines.get(symbol, ()):
            if entry.evictable:
                return self._remove(entry)
        return None

    def extract(self, wanted: Callable[[T], bool]) -> list[T]:
        """Remove and return the ticks that are *wanted*, in order."""
        entries = [entry for entry in self._order if entry.live and wanted(entry.item)]
        return [self._remove(entry) for entry in entries]

    def longest_line(self) -> tuple[str, int] | None:
        """Return the symbol with the longest line, and its length.

        Of several, the symbol that reached this length first.
        """
        assert self._ranks is not None, "this buffer was made without ranks"
        if not self._count:
            return None
        return self._ranks.first_of_longest(), self._ranks.longest

    def _remove(self, entry: Entry[T]) -> T:
        """Remove *entry* from its line, mark it dead, and return its item."""
        item = entry.item
        symbol = item.symbol
        line = self.lines[symbol]
        if line[0] is entry:
            line.popleft()
        else:
            line.remove(entry)
        entry.live = False
        self._count -= 1
        if self._ranks is not None:
            self._ranks.moved(symbol, len(line) + 1, len(line))
        if not line:
            del self.lines[symbol]
        # Sweep dead entries only when they are the majority: a sweep visits every
        # entry, so that is a constant cost for each removal.
        most = 2 * self._count + 64
        if len(self._order) > most:
            self._order = deque(entry for entry in self._order if entry.live)
        if len(self._evictable) > most:
            self._evictable = deque(entry for entry in self._evictable if entry.live)
        return item
