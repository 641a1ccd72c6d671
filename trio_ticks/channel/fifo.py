"""The queue of most channels: a deque that knows when its ticks arrived.

Operations wanted:

- Append a batch of ticks that arrived together.
- Take the oldest tick, once for each tick of the pipeline. The hot path.
- Take the oldest ticks that came together, with their arrival. An ingest's hot path.
- Say when the tick that was taken last arrived, and when the oldest one did. A handler
  may ask for the former while it has that tick, and others are removed meanwhile.
- Remove the ticks that match a condition. Rare.

Goals: taking a tick, the length and the truth value run no Python code of ours. Arrival
times cost something for each batch, not for each tick.

Plan: the buffer is a deque of ticks, and ``take`` is its own ``popleft``. Beside it are
the marks: two deques with the number of the last tick of each batch, and the time of
the batch. Ticks are numbered as they are pushed, and they leave at the head only. So
the number of the tick that was taken last is the number of pushed ticks less the
length, and the first mark that does not lie before it has its time. Ticks of another
process arrived there at different times: the mark of their batch has a list of these,
which is looked into only where a time is asked for.

Warning: any other way to change the deque (``append``, ``appendleft``, ``del``) makes
the numbers wrong, and with them all arrival times. Put ticks in by ``push_many`` alone.

Rules: sync; no clock, no policy.
"""

from __future__ import annotations

import itertools
import operator
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["FifoBuffer"]

T = TypeVar("T")


class FifoBuffer(deque[T]):
    """Ticks in the order in which they came. See the module's warning."""

    __slots__ = ("_ends", "_pushed", "_times", "take")

    def __init__(self) -> None:
        super().__init__()
        self._pushed = 0
        """How many ticks were ever pushed: the number of the newest one."""
        self._ends: deque[int] = deque()
        """The number of the last tick of each batch, oldest first."""
        self._times: deque[float | Sequence[float]] = deque()
        """When each batch of ``_ends`` arrived; or when each of its ticks did."""
        self.take: Callable[[], T] = self.popleft
        """Remove and return the oldest tick; raises IndexError if there is none."""

    def push_many(self, items: Sequence[T], now: float) -> None:
        """Append *items*, all of which arrived at *now*."""
        last_taken = self._pushed - len(self)
        self.extend(items)
        self._pushed = pushed = self._pushed + len(items)
        ends = self._ends
        if ends and ends[0] < last_taken:
            self._forget()
        ends.append(pushed)
        self._times.append(now)

    def backdate(self, times: Sequence[float]) -> None:
        """Replace the arrival of the ticks that were pushed last: one time for each.

        *times* must not be changed any more. They are of the last batch, all of it.
        """
        if times:
            self._times[-1] = times

    def take_many(self, limit: int) -> list[T]:
        """Remove and return the oldest ticks, at most *limit*."""
        taken_before = self._last_arrival()
        if limit >= len(self):
            batch = list(self)
            self.clear()
        else:
            take = self.take
            batch = [take() for _ in range(limit)]
        self._remember(taken_before)
        return batch

    def take_run(self, limit: int) -> tuple[list[T], float]:
        """Remove and return the oldest ticks that came together, and when they arrived.

        At least one and at most *limit*.

        Raises:
            IndexError: there is none.
        """
        taken_before = self._last_arrival()
        number = self._pushed - len(self)
        ends, run = self._ends, 0
        # The first marks may be of ticks that have left.
        while ends[run] <= number:
            run += 1
        count = min(limit, ends[run] - number)
        end, time = ends[run], self._times[run]
        arrived = _time_at(time, end, number + 1)
        if not isinstance(time, float):
            begin = len(time) - (end - number)
            alike = itertools.takewhile(arrived.__eq__, time[begin : begin + count])
            count = len(list(alike))
        if count == len(self):
            items = list(self)
            self.clear()
        else:
            take = self.popleft
            items = [take() for _ in range(count)]
        self._remember(taken_before)
        return items, arrived

    def extract(self, wanted: Callable[[T], bool]) -> list[T]:
        """Remove and return the *wanted* ticks; the others keep their arrivals."""
        # Take all out and push the others again, in batches of one arrival time each:
        # ticks may leave at the head only.
        taken_before = self._last_arrival()
        removed: list[T] = []
        kept: list[tuple[T, float]] = []
        while self:
            item = self.take()
            if wanted(item):
                removed.append(item)
            else:
                kept.append((item, self.arrival()))
        for arrived, run in itertools.groupby(kept, key=operator.itemgetter(1)):
            self.push_many([item for item, _ in run], arrived)
        self._remember(taken_before)
        return removed

    def arrival(self) -> float:
        """Return when the tick that ``take`` gave last had arrived.

        Ticks that left in another way since then make no difference.
        """
        last_taken = self._pushed - len(self)
        ends = self._ends
        while ends[0] < last_taken:
            ends.popleft()
            self._times.popleft()
        time = self._times[0]
        return time if isinstance(time, float) else _time_at(time, self._ends[0], last_taken)

    def oldest_arrival(self) -> float:
        """Return when the oldest tick arrived.

        Raises:
            IndexError: there is none.
        """
        number = self._pushed - len(self)
        for end, time in zip(self._ends, self._times, strict=True):
            if end > number:
                return _time_at(time, end, number + 1)
        raise IndexError("the buffer is empty")

    def measure(self) -> int:
        """Count the ticks, for the ledger."""
        return len(self)

    def _last_arrival(self) -> float | None:
        """Return what :meth:`arrival` does; ``None`` if there was no tick yet."""
        return self.arrival() if self._times else None

    def _remember(self, arrived: float | None) -> None:
        """Have :meth:`arrival` return *arrived*, although other ticks have left."""
        self._forget()
        if arrived is not None:
            self._ends.appendleft(self._pushed - len(self))
            self._times.appendleft(arrived)

    def _forget(self) -> None:
        """Drop the marks of batches that have left.

        The batch of the tick that was taken last keeps its mark, for :meth:`arrival`.
        """
        last_taken = self._pushed - len(self)
        ends = self._ends
        while ends and ends[0] < last_taken:
            ends.popleft()
            self._times.popleft()


def _time_at(time: float | Sequence[float], end: int, number: int) -> float:
    """Return when the tick *number* arrived, of a batch that ended with *end*."""
    if isinstance(time, float):
        return time
    # Before any tick was taken its number lies before the batch.
    return time[max(number - end - 1, -len(time))]
