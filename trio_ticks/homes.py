"""Where a symbol is at home, for workers that keep state: one worker has all of its ticks, for ever. Sync, but for the bell.

Rules: a home is chosen when a symbol is first seen, and kept; whatever waits of a symbol waits in its lane, where it counts as queued; a
lane that is ready is known to its home alone.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from .buffers import Lanes
from .ticks import MarketData

__all__ = ["Home", "HomedLanes"]

T = TypeVar("T", bound=MarketData)


class Home:
    """What waits for one worker."""

    __slots__ = ("_bell", "ready", "symbols")

    def __init__(self) -> None:
        self.ready: deque[str] = deque()
        """Symbols whose lanes are ready, the one that has been for longest first."""
        self.symbols = 0
        """How many symbols live here."""
        self._bell = trio.Event()

    def ring(self) -> None:
        """Wake the worker, if it sleeps."""
        if not self._bell.is_set():
            self._bell.set()

    async def wait(self) -> None:
        """Wait until the bell rings. Always a checkpoint."""
        await self._bell.wait()
        self._bell = trio.Event()


class HomedLanes(Lanes[T], Generic[T]):
    """Lanes that know their workers; the common line of ready lanes stays empty."""

    __slots__ = ("_homes", "homes")

    def __init__(self) -> None:
        super().__init__()
        self.homes: list[Home] = []
        """Of the workers that there are."""
        self._homes: dict[str, Home] = {}

    def home_of(self, symbol: str) -> Home:
        """Return the home of *symbol*: where the fewest live, if it has none yet."""
        home = self._homes.get(symbol)
        if home is None:
            home = self._homes[symbol] = min(self.homes, key=lambda home: home.symbols)
            home.symbols += 1
        return home

    def put(self, symbol: str, item: T, arrived: float) -> None:
        """Put *item* at the end of its symbol's lane, and wake whoever is to come for it."""
        if symbol in self.lines:
            self.park(symbol, item, arrived)
            return
        self.lines[symbol] = None
        self.park(symbol, item, arrived)
        self.release(symbol)

    def release(self, symbol: str) -> None:
        """Say that *symbol* is no longer being handled; what waits behind it becomes ready for its home."""
        if self.lines[symbol]:
            home = self.home_of(symbol)
            home.ready.append(symbol)
            home.ring()
        else:
            del self.lines[symbol]

    def is_ready_at(self, home: Home) -> bool:
        """Tell whether a lane is ready at *home*; lanes whose ticks were all evicted meanwhile are forgotten."""
        while home.ready and not self.lines[home.ready[0]]:
            del self.lines[home.ready.popleft()]
        return bool(home.ready)

    def take_at(self, home: Home) -> tuple[str, T, float] | None:
        """Remove and return the first tick of the lane that has been ready longest at *home*; its symbol is then being handled."""
        if not self.is_ready_at(home):
            return None
        symbol = home.ready.popleft()
        found = self.take_next(symbol)
        assert found is not None
        return symbol, *found

    def evict(self, limit: int) -> list[T]:
        """Remove the *limit* ticks that arrived first; of lanes whose ticks arrived together, one from each in turn."""
        heads = [(lane[0][1], 0, place, lane) for place, lane in enumerate(self.lines.values()) if lane]
        heapq.heapify(heads)
        evicted: list[T] = []
        while heads and len(evicted) < limit:
            _arrived, count, place, lane = heads[0]
            evicted.append(lane.popleft()[0])
            if lane:
                heapq.heapreplace(heads, (lane[0][1], count + 1, place, lane))
            else:
                heapq.heappop(heads)
        self.parked -= len(evicted)
        return evicted

    def evict_first(self, wanted: Callable[[T], bool], symbol: str | None = None) -> T | None:
        """Remove and return the tick that arrived first of those that are *wanted*, of *symbol* or of all."""
        if symbol is None:
            firsts = []
            for name, lane in self.lines.items():
                arrival = next((arrived for item, arrived in lane or () if wanted(item)), None)
                if arrival is not None:
                    firsts.append((arrival, name))
            if not firsts:
                return None
            symbol = min(firsts)[1]
        return super().evict_first(wanted, symbol)

    def leave(self, home: Home) -> None:
        """Give the symbols of *home*, whose worker has gone, to others, if there are any; nobody handles any of them."""
        if len(self.homes) == 1:
            return
        self.homes.remove(home)
        self._homes = {symbol: other for symbol, other in self._homes.items() if other is not home}
        for symbol in home.ready:
            self.release(symbol)
