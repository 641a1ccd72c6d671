"""What is received and waits to be delivered, by arrival.

Rules: sync. A tick counts as not delivered until its delivery has ended. Ticks that a
worker still handles although their shard was given up linger here; the shard's ticks
are not delivered again before those have an outcome.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, final

from ...buffer import Stretch

__all__ = ["Ready"]

_JOINED: Final = 256
"""Ticks of one delivery, about."""


@final
class Ready:
    """The stretches that wait, and which ticks are not delivered."""

    def __init__(self) -> None:
        self._queue: deque[tuple[int, Stretch]] = deque()
        self._lingering: dict[int, list[Any]] = {}
        self.undelivered: set[int] = set()
        """The identities of all ticks that are received and not delivered."""

    def add(self, shard: int, stretch: Stretch) -> None:
        """Have *stretch* delivered after all of its shard that wait."""
        self._queue.append((shard, stretch))

    def next(self, may: Callable[[int], bool]) -> tuple[int, Stretch] | None:
        """Return what is to be delivered next of a shard that *may* be delivered."""
        for place, (shard, stretch) in enumerate(self._queue):
            if shard not in self._lingering and may(shard):
                del self._queue[place]
                return shard, self._joined(place, shard, stretch)
        return None

    def _joined(self, place: int, shard: int, stretch: Stretch) -> Stretch:
        """Join to *stretch* what follows of its shard: a delivery costs by the call."""
        queue = self._queue
        if place >= len(queue) or queue[place][0] != shard:
            return stretch
        items, arrived, gaps = list(stretch.items), list(stretch.arrived), list(stretch.gaps)
        while place < len(queue) and queue[place][0] == shard and len(items) < _JOINED:
            more = queue[place][1]
            gaps += [(len(items) + at, gap) for at, gap in more.gaps]
            items += more.items
            arrived += more.arrived
            del queue[place]
        return Stretch(items, arrived, gaps)

    def delivered(self, items: Iterable[Any]) -> None:
        """Note that *items* are delivered, or are nobody's business any more."""
        self.undelivered.difference_update(map(id, items))

    def recall(self, shards: Collection[int]) -> None:
        """Deliver nothing of *shards*; its ticks stay undelivered."""
        self._queue = deque(each for each in self._queue if each[0] not in shards)

    def linger(self, shard: int, items: list[Any]) -> None:
        """Deliver nothing of *shard* until *items* have an outcome."""
        if items:
            self._lingering.setdefault(shard, []).extend(items)

    def settle(self, unfinished: frozenset[int]) -> None:
        """Note which ticks have no outcome yet."""
        for shard, items in list(self._lingering.items()):
            items[:] = [item for item in items if id(item) in unfinished]
            if not items:
                del self._lingering[shard]
