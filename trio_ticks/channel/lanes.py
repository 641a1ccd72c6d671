"""The symbols that are being handled, and the ticks that wait behind them.

Goal: ticks of one symbol are handled one at a time and in order, by whichever worker is
free, while other symbols go on.

Plan: a worker that takes a tick leases its symbol: it puts the symbol into ``lines``.
Ticks that come meanwhile are parked in the symbol's lane. When the worker releases the
symbol, a lane with ticks goes to the end of ``ready``, for any worker; an empty one is
removed. A lane is thus in one of three states:

- not in ``lines``: no worker handles the symbol, and no tick of it is parked;
- in ``lines`` and not in ``ready``: a worker handles the symbol;
- in ``lines`` and in ``ready``: its ticks wait for a worker.

Warnings:

- A lane in ``ready`` may be empty, since ticks can be evicted or extracted from it. Ask
  :meth:`Lanes.is_ready`, which removes such lanes, or the symbol would stay leased for
  ever.
- Each method that adds or removes ticks keeps ``parked`` up to date: the channel's
  bound depends on it. The ledger counts the lanes themselves, to find a difference.

Rules: sync; no clock, no policy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Lanes"]

T = TypeVar("T")


class Lanes(Generic[T]):
    """The leased symbols of one channel, and a lane of parked ticks for each."""

    __slots__ = ("lines", "parked", "ready")

    def __init__(self) -> None:
        self.lines: dict[str, deque[tuple[T, float]] | None] = {}
        """Each leased or ready symbol with its lane: ticks and their arrivals.

        ``None`` instead of a lane if no tick was ever parked: most leases need no
        deque."""
        self.ready: deque[str] = deque()
        """The symbols whose lanes wait for a worker, in the order of waiting."""
        self.parked = 0
        """How many ticks are parked."""

    def __len__(self) -> int:
        return sum(len(lane) for lane in self.lines.values() if lane)

    def park(self, symbol: str, item: T, arrived: float) -> None:
        """Put *item* at the end of the lane of *symbol*, which is in ``lines``."""
        lane = self.lines[symbol]
        if lane is None:
            self.lines[symbol] = lane = deque()
        lane.append((item, arrived))
        self.parked += 1

    def release(self, symbol: str) -> None:
        """End the lease of *symbol*; if ticks are parked behind it, it is ready."""
        if self.lines[symbol]:
            self.ready.append(symbol)
        else:
            del self.lines[symbol]

    def take(self) -> tuple[str, T, float]:
        """Remove and return the first tick of the lane that has been ready longest.

        The caller has leased its symbol then.

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
        """Tell whether a lane is ready.

        Lanes whose ticks were all evicted while they were ready are removed.
        """
        while self.ready and not self.lines[self.ready[0]]:
            del self.lines[self.ready.popleft()]
        return bool(self.ready)

    def park_first(self, symbol: str, item: T, arrived: float) -> None:
        """Put *item* back at the head of the lane of *symbol*."""
        lane = self.lines[symbol]
        if lane is None:
            self.lines[symbol] = lane = deque()
        lane.appendleft((item, arrived))
        self.parked += 1

    def take_next(self, symbol: str) -> tuple[T, float] | None:
        """Remove and return the next tick of *symbol*, which the caller has leased."""
        lane = self.lines[symbol]
        if not lane:
            return None
        self.parked -= 1
        return lane.popleft()

    def evict(self, limit: int) -> list[T]:
        """Remove up to *limit* ticks from the heads of the lanes opened first."""
        evicted: list[T] = []
        for lane in self.lines.values():
            while lane and len(evicted) < limit:
                evicted.append(lane.popleft()[0])
        self.parked -= len(evicted)
        return evicted

    def evict_first(self, wanted: Callable[[T], bool], symbol: str | None = None) -> T | None:
        """Remove and return the first parked tick that is *wanted*.

        Args:
            wanted: tells which ticks may be evicted.
            symbol: whose lane to search; else all, the lane opened first first.
        """
        lanes = self.lines.values() if symbol is None else (self.lines.get(symbol),)
        for lane in lanes:
            for index, (item, _arrived) in enumerate(lane or ()):
                if wanted(item):
                    del lane[index]  # type: ignore[union-attr]  # there was something in it
                    self.parked -= 1
                    return item
        return None

    def take_newest(self, wanted: Callable[[T], bool]) -> T | None:
        """Remove and return the last tick of the longest lane that ends *wanted*."""
        longest: deque[tuple[T, float]] | None = None
        for lane in self.lines.values():
            if lane and (longest is None or len(lane) > len(longest)) and wanted(lane[-1][0]):
                longest = lane
        if longest is None:
            return None
        self.parked -= 1
        return longest.pop()[0]

    def extract(self, wanted: Callable[[T], bool]) -> list[T]:
        """Remove and return the parked ticks that are *wanted*; their lanes stay."""
        removed: list[T] = []
        for symbol, lane in self.lines.items():
            if lane and any(wanted(item) for item, _arrived in lane):
                removed += [item for item, _arrived in lane if wanted(item)]
                self.lines[symbol] = deque(pair for pair in lane if not wanted(pair[0]))
        self.parked -= len(removed)
        return removed

    def oldest_arrival(self) -> float | None:
        """Return when the oldest parked tick arrived; ``None`` if none is parked."""
        return min((lane[0][1] for lane in self.lines.values() if lane), default=None)
