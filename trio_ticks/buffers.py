"""Where ticks wait: the sync containers behind a channel. No I/O, no clock of their own, no policy.

A buffer knows the order, and when what it gives out had arrived. Its length is the real number of ticks in it: nothing is cached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["FifoBuffer", "Lanes"]

T = TypeVar("T")


class FifoBuffer(deque[T]):
    """Ticks in the order in which they came. A deque itself, so that its length and its truth cost no Python frame.

    Put ticks in by :meth:`push_many` alone. Arrival times are kept per batch, not per tick: ticks leave at the head only, so a tick's
    number is the count of those pushed less those still here, and the batch that it came with is found from its number.
    """

    __slots__ = ("_ends", "_pushed", "_times", "take")

    def __init__(self) -> None:
        super().__init__()
        self._pushed = 0
        self._ends: deque[int] = deque()
        self._times: deque[float] = deque()
        self.take: Callable[[], T] = self.popleft
        """Remove and return the oldest tick; IndexError where there is none. The deque's own method: no Python frame a tick."""

    def push_many(self, items: Sequence[T], now: float) -> None:
        """Append *items*, all of which arrived at *now*."""
        self.extend(items)
        self._pushed += len(items)
        self._forget()
        self._ends.append(self._pushed)
        self._times.append(now)

    def take_many(self, limit: int) -> list[T]:
        """Remove and return the oldest ticks, at most *limit*."""
        if limit >= len(self):
            batch = list(self)
            self.clear()
            return batch
        take = self.take
        return [take() for _ in range(limit)]

    def arrival(self) -> float:
        """Return when the tick that was taken last had arrived."""
        self._forget()
        return self._times[0]

    def oldest_arrival(self) -> float:
        """Return when the tick at the head arrived; only where there is one."""
        number = self._pushed - len(self)
        for end, time in zip(self._ends, self._times, strict=True):
            if end > number:
                return time
        raise IndexError("the buffer is empty")

    def measure(self) -> int:
        """Count what is really there, for the ledger."""
        return len(self)

    def _forget(self) -> None:
        """Drop the marks of batches that have left, but for the one that the last tick taken belongs to."""
        last_taken = self._pushed - len(self)
        ends = self._ends
        while ends and ends[0] < last_taken:
            ends.popleft()
            self._times.popleft()


class Lanes(Generic[T]):
    """Which symbols are being handled, and the ticks that wait behind them.

    A symbol is in ``lines`` while a worker handles it or while its lane waits in ``ready`` for one; its value is the lane, or ``None``
    where nothing waits. Ticks of such a symbol may not overtake its lane, so they are parked at its end.
    """

    __slots__ = ("lines", "parked", "ready")

    def __init__(self) -> None:
        self.lines: dict[str, deque[tuple[T, float]] | None] = {}
        self.ready: deque[str] = deque()
        self.parked = 0
        """How many ticks are parked, kept along for the room check; the ledger counts the lanes themselves."""

    def __len__(self) -> int:
        return sum(len(lane) for lane in self.lines.values() if lane)

    def park(self, symbol: str, item: T, arrived: float) -> None:
        """Put *item* at the end of its symbol's lane."""
        lane = self.lines[symbol]
        if lane is None:
            self.lines[symbol] = lane = deque()
        lane.append((item, arrived))
        self.parked += 1

    def release(self, symbol: str) -> None:
        """Say that *symbol* is no longer being handled; what waits behind it becomes ready."""
        if self.lines[symbol]:
            self.ready.append(symbol)
        else:
            del self.lines[symbol]

    def take(self) -> tuple[str, T, float]:
        """Remove and return the first tick of the lane that has been ready longest; its symbol is then being handled.

        Raises:
            IndexError: no lane is ready.
        """
        while True:
            symbol = self.ready.popleft()
            lane = self.lines[symbol]
            if lane:
                item, arrived = lane.popleft()
                self.parked -= 1
                return symbol, item, arrived
            del self.lines[symbol]

    def is_ready(self) -> bool:
        """Tell whether a lane is ready; lanes whose ticks were all evicted while they were ready are forgotten."""
        while self.ready and not self.lines[self.ready[0]]:
            del self.lines[self.ready.popleft()]
        return bool(self.ready)

    def park_first(self, symbol: str, item: T, arrived: float) -> None:
        """Put *item* back at the head of its symbol's lane."""
        lane = self.lines[symbol]
        if lane is None:
            self.lines[symbol] = lane = deque()
        lane.appendleft((item, arrived))
        self.parked += 1

    def take_next(self, symbol: str) -> tuple[T, float] | None:
        """Remove and return the next tick behind *symbol*, which the caller is handling."""
        lane = self.lines[symbol]
        if not lane:
            return None
        self.parked -= 1
        return lane.popleft()

    def evict(self, limit: int) -> list[T]:
        """Remove up to *limit* ticks from the heads of the lanes that were opened first."""
        evicted: list[T] = []
        for lane in self.lines.values():
            while lane and len(evicted) < limit:
                evicted.append(lane.popleft()[0])
        self.parked -= len(evicted)
        return evicted

    def evict_first(self, wanted: Callable[[T], bool], symbol: str | None = None) -> T | None:
        """Remove and return the first parked tick that is *wanted*, of *symbol* or of the lane that was opened first."""
        lanes = self.lines.values() if symbol is None else (self.lines.get(symbol),)
        for lane in lanes:
            for index, (item, _arrived) in enumerate(lane or ()):
                if wanted(item):
                    del lane[index]  # type: ignore[union-attr]  # there was something in it
                    self.parked -= 1
                    return item
        return None

    def take_newest(self, wanted: Callable[[T], bool]) -> T | None:
        """Remove and return the newest tick of the longest lane that ends with one that is *wanted*."""
        longest: deque[tuple[T, float]] | None = None
        for lane in self.lines.values():
            if lane and (longest is None or len(lane) > len(longest)) and wanted(lane[-1][0]):
                longest = lane
        if longest is None:
            return None
        self.parked -= 1
        return longest.pop()[0]

    def oldest_arrival(self) -> float | None:
        """Return when the oldest parked tick arrived."""
        return min((lane[0][1] for lane in self.lines.values() if lane), default=None)
