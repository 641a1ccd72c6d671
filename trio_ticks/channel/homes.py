"""Lanes for workers that keep state: one worker gets all ticks of a symbol.

Goal: a handler in a worker process may keep state for each symbol, so the process of a
symbol must not change.

Plan: the home is chosen when a symbol's first tick comes: the worker with the fewest
symbols. All ticks of a symbol wait in its lane. A lane that is ready goes to its home's
own ``ready``, and the home's bell wakes its worker; the common ``ready`` of
:class:`Lanes` stays empty.

Rules: a home is kept until its worker leaves, or until so many other symbols have come
that the oldest home is forgotten. Ticks in a lane count as queued. Sync, except
:meth:`Home.wait`.

Warning: since every tick goes through a lane here, ``evict`` and ``evict_first`` choose
by arrival over all lanes. In :class:`Lanes` they need not: the oldest ticks are in the
lanes that were opened first.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from ..ticks import MarketData
from .fifo import FifoBuffer
from .keyed import KeyedBuffer
from .lanes import Lanes
from .taking import Taking

__all__ = ["Home", "HomedLanes"]

T = TypeVar("T", bound=MarketData)


class Home:
    """The lanes that wait for one worker, and the bell that wakes it."""

    __slots__ = ("_bell", "ready", "symbols")

    def __init__(self) -> None:
        self.ready: deque[str] = deque()
        """The symbols whose lanes are ready, the one that waits longest first."""
        self.symbols = 0
        """How many symbols have this home."""
        self._bell = trio.Event()

    def ring(self) -> None:
        """Wake the worker, if it sleeps."""
        if not self._bell.is_set():
            self._bell.set()

    async def wait(self) -> None:
        """Wait until the bell rings.

        Cancellation: a ring that was not received wakes the next wait. Always a
        checkpoint.
        """
        await self._bell.wait()
        self._bell = trio.Event()


class HomedLanes(Lanes[T], Generic[T]):
    """Lanes that are ready for one worker each; see the module's plan."""

    __slots__ = ("_homes", "forgotten", "homes")

    most = 100_000
    """Symbols whose home is kept. Most venues have fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.homes: list[Home] = []
        """The homes of all workers that have not left."""
        self._homes: dict[str, Home] = {}
        """The home of each symbol that was seen, the first one first."""
        self.forgotten = 0
        """Symbols whose home was forgotten; they get another one if they come again."""

    def home_of(self, symbol: str) -> Home:
        """Return the home of *symbol*; choose the emptiest one if it has none."""
        home = self._homes.get(symbol)
        if home is None:
            home = self._homes[symbol] = min(self.homes, key=lambda home: home.symbols)
            home.symbols += 1
            if len(self._homes) > self.most:
                self._forget_oldest()
        return home

    def _forget_oldest(self) -> None:
        """Forget the oldest home of a symbol that has no lane now.

        The symbols with a lane are as few as the ticks that may be queued; they become
        the newest.
        """
        for _ in range(len(self._homes)):
            symbol = next(iter(self._homes))
            home = self._homes.pop(symbol)
            if symbol not in self.lines:
                home.symbols -= 1
                self.forgotten += 1
                return
            self._homes[symbol] = home

    def take_in(self, buffer: FifoBuffer[T] | KeyedBuffer[T], taking: Taking[T]) -> None:
        """Put each tick of *buffer* into its lane."""
        while buffer:
            item = taking.from_buffer()
            self.put(item.symbol, item, buffer.arrival())

    def put(self, symbol: str, item: T, arrived: float) -> None:
        """Put *item* at the end of its lane; if the lane is ready, wake its home."""
        if symbol in self.lines:
            self.park(symbol, item, arrived)
            return
        self.lines[symbol] = None
        self.park(symbol, item, arrived)
        self.release(symbol)

    def release(self, symbol: str) -> None:
        """End the lease of *symbol*; if ticks wait behind it, wake its home."""
        if self.lines[symbol]:
            home = self.home_of(symbol)
            home.ready.append(symbol)
            home.ring()
        else:
            del self.lines[symbol]

    def is_only(self, home: Home) -> bool:
        """Tell whether there is no home but *home*."""
        return self.homes == [home]

    def is_ready_at(self, home: Home) -> bool:
        """Tell whether a lane is ready at *home*.

        Lanes whose ticks were all evicted meanwhile are removed.
        """
        while home.ready and not self.lines[home.ready[0]]:
            del self.lines[home.ready.popleft()]
        return bool(home.ready)

    def take_at(self, home: Home) -> tuple[str, T, float] | None:
        """Remove and return the first tick of the lane ready longest at *home*.

        The caller has leased its symbol then. ``None`` if no lane is ready there.
        """
        if not self.is_ready_at(home):
            return None
        symbol = home.ready.popleft()
        found = self.take_next(symbol)
        assert found is not None
        return symbol, *found

    def next_tick(
        self, home: Home, held: dict[str, None], lane: str | None
    ) -> tuple[str, T, float] | None:
        """Take the next tick for the worker of *home*; see :meth:`Taking.next_tick`."""
        if lane is not None and (parked := self.take_next(lane)) is not None:
            return lane, *parked
        found = self.take_at(home)
        if found is not None:
            held[found[0]] = None
        return found

    def evict(self, limit: int) -> list[T]:
        """Remove the *limit* ticks that arrived first.

        From lanes whose ticks arrived together, one is removed from each in turn.
        """
        # A heap of the lanes by the arrival of their first tick, then by how many were
        # removed from each. The place makes the order of equal lanes definite.
        heads = [
            (lane[0][1], 0, place, lane) for place, lane in enumerate(self.lines.values()) if lane
        ]
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
        """Remove and return the first *wanted* tick by arrival, of *symbol* or all."""
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
        """Give the symbols of *home*, whose worker has left, to other homes.

        No worker may be handling any of them. If there is no other home, they stay.
        """
        if len(self.homes) == 1:
            return
        self.homes.remove(home)
        self._homes = {symbol: other for symbol, other in self._homes.items() if other is not home}
        for symbol in home.ready:
            self.release(symbol)
