"""How many ticks of the topic the group has not acknowledged, as an ingest knows.

Its own records are known exactly: each confirmed record's offset and number of ticks is
kept until the group has committed it. Of others' records only the number is known; they
are taken to be as large as its own are on average (or full, before it has sent any).
Between two looks at the broker the group can only have acknowledged more, so with one
ingest the figure is never too low.

Rules: sync, no I/O, no clock. At most ``maxsize`` own records are kept, since no more
are sent while that many ticks are known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import final

__all__ = ["Backlog"]


@final
class Backlog:
    """The ticks of one topic that its group has not acknowledged.

    Args:
        partitions: how many there are.
        pack: how many ticks a record holds at most.
    """

    def __init__(self, partitions: int, pack: int) -> None:
        self._own: list[deque[tuple[int, int]]] = [deque() for _ in range(partitions)]
        self._next = [0] * partitions
        self._committed = [0] * partitions
        self._own_ticks = 0
        self._others = 0
        self._sent = 0
        self._sent_records = 0
        self._pack = pack

    def append(self, partition: int, offset: int, ticks: int) -> None:
        """Note that a record of *ticks* is in the topic at *offset*."""
        self._sent += ticks
        self._sent_records += 1
        if offset < self._committed[partition]:
            return
        self._own[partition].append((offset, ticks))
        self._own_ticks += ticks
        self._next[partition] = max(self._next[partition], offset + 1)

    def update(self, ends: Mapping[int, int], committed: Mapping[int, int]) -> None:
        """Note what the broker said: where the partitions end, how far the group is."""
        others = 0
        for partition, own in enumerate(self._own):
            done = self._committed[partition] = committed.get(partition, 0)
            while own and own[0][0] < done:
                self._own_ticks -= own.popleft()[1]
            # A broker may be behind in what it says of the end.
            end = max(ends.get(partition, 0), self._next[partition])
            others += max(0, end - done - len(own))
        self._others = others

    def restart(self) -> None:
        """Forget all: the broker has lost the topic."""
        for number, own in enumerate(self._own):
            own.clear()
            self._next[number] = self._committed[number] = 0
        self._own_ticks = self._others = 0

    @property
    def ticks(self) -> int:
        """How many ticks there are, as far as it is known."""
        if not self._others:
            return self._own_ticks
        mean = self._sent / self._sent_records if self._sent_records else self._pack
        return self._own_ticks + round(self._others * mean)
