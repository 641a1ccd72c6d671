"""How many ticks of the topic the group has not acknowledged, as an ingest knows.

Its own records are known exactly: each confirmed record's offset and number of ticks is
kept until the group has committed it. Of others' records, which are those of another
ingest and of this one before it was started anew, the broker says only how many there
are. A record may hold one tick (a slow feed) or ``pack`` of them, so their number says
little: to take each for full would have an ingest find a topic full that holds some
hundred ticks, and to take each for one tick would let the bound be exceeded
``pack``-fold. So the ingest reads some of them, spread evenly over all, and takes the
others to be as large as these are on average (:mod:`.sampling`).

The estimate is right on average. It is good if records are of about one size, and poor
where a few full ones lie among very many small ones; each lasts for a second only. It
is not smoothed: that would miss a burst for longer than it would help.

Other ways were weighed. A sum that each record carries would have to be one sum for
all producers, which have nowhere to agree on it; the metadata of commits are not kept
by every broker, and say what was handled, not what waits; the broker does not say the
bytes that wait; and the own mean says nothing of what a busier ingest, or a busier
hour, has left. Reading needs no other form of records, joins no group, commits
nothing, and costs an ingest that is alone in its topic nothing.

Where others' records cannot be read, they are taken to be as large as our own are on
average, and before any was sent as one tick: never to be more than there are, since a
bound that is exceeded for a moment costs less than a feed that is shut out.

Rules: sync, no I/O, no clock. At most ``maxsize`` own records are kept, since no more
are sent while that many ticks are known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from typing import final

__all__ = ["Backlog"]


@final
class Backlog:
    """The ticks of one topic that its group has not acknowledged.

    Args:
        partitions: how many there are.
    """

    def __init__(self, partitions: int) -> None:
        self._own: list[deque[tuple[int, int]]] = [deque() for _ in range(partitions)]
        self._ends = [0] * partitions
        """The offset that is next, by what the broker said and by our own records."""
        self._committed = [0] * partitions
        self._own_ticks = 0
        self.others = 0
        """How many records there are of others. Own ones whose report is on its way are
        among them until it comes."""
        self._others_mean: float | None = None
        self._sent = 0
        self._sent_records = 0

    def append(self, partition: int, offset: int, ticks: int) -> None:
        """Note that a record of *ticks* is in the topic at *offset*."""
        self._sent += ticks
        self._sent_records += 1
        if offset < self._committed[partition]:
            return
        self._own[partition].append((offset, ticks))
        self._own_ticks += ticks
        if offset < self._ends[partition]:
            # The broker's last answer counted it already, as another's.
            self.others -= 1
        else:
            self._ends[partition] = offset + 1

    def update(self, ends: Mapping[int, int], committed: Mapping[int, int]) -> None:
        """Note what the broker said: where the partitions end, how far the group is."""
        for partition, own in enumerate(self._own):
            done = self._committed[partition] = committed.get(partition, 0)
            while own and own[0][0] < done:
                self._own_ticks -= own.popleft()[1]
            # A broker may be behind in what it says of the end.
            self._ends[partition] = max(ends.get(partition, 0), own[-1][0] + 1 if own else 0)
        self.others = sum(map(self._others_in, range(len(self._own))))

    def _others_in(self, partition: int) -> int:
        own, done = self._own[partition], self._committed[partition]
        return max(0, self._ends[partition] - done - len(own))

    def spread(self, most: int, start: float = 0.5) -> dict[int, list[int]]:
        """Return offsets of others' records, evenly spread over all of them.

        Args:
            most: how many; all, if there are fewer.
            start: where the first one lies within the first part, from 0 to 1.
        """
        found: dict[int, list[int]] = {}
        total = self.others
        count, shift = min(most, total), int(start * total)
        # Among all of others' records, partition after partition. In whole numbers, so
        # that no rounding makes two of one.
        places = deque((part * total + shift) // count for part in range(count))
        first = 0
        for partition, own in enumerate(self._own):
            done = self._committed[partition]
            behind = first + self._others_in(partition)
            while places and places[0] < behind:
                rank = places.popleft() - first
                # So many of our own records come before it.
                before = bisect_right(range(len(own)), rank, key=lambda at: own[at][0] - done - at)
                found.setdefault(partition, []).append(done + rank + before)
            first = behind
        return found

    def learn(self, mean: float | None) -> None:
        """Note how many ticks others' records hold on average; ``None``: not known."""
        self._others_mean = mean

    def restart(self) -> None:
        """Forget all: the broker has lost the topic."""
        for number, own in enumerate(self._own):
            own.clear()
            self._ends[number] = self._committed[number] = 0
        self._own_ticks = self.others = 0
        self._others_mean = None

    @property
    def ticks(self) -> int:
        """How many ticks there are, as far as it is known."""
        if not self.others:
            return self._own_ticks
        mean = self._others_mean
        if mean is None:
            mean = self._sent / self._sent_records if self._sent_records else 1.0
        return self._own_ticks + round(self.others * mean)
