"""The workers of a pool, and the sums over all workers that it ever had.

Rules: a worker that has left is in no list any more, but its counts stay in the sums.
So no counter ever goes back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Generic, TypeVar, final

from ..ticks import MarketData
from .worker import Worker

__all__ = ["Roster"]

T = TypeVar("T", bound=MarketData)


@final
class Roster(Generic[T]):
    """The workers of one pool, and the counts of workers that have left.

    Args:
        place: where the workers run; the first part of their names.
        now: the pipeline's time.
    """

    def __init__(self, place: str, now: Callable[[], float]) -> None:
        self._place = place
        self._now = now
        self.workers: list[Worker[T]] = []
        """All workers that have not left. The list is changed, never replaced."""
        self._consumed = self._failed = self._retries = 0
        self.failed_unseen = 0
        """Ticks that count as failed though no worker was given them."""
        self._busy_s = self._life_s = 0.0

    @property
    def size(self) -> int:
        """How many workers there are, without those that are to leave."""
        return sum(not (worker.leaving or worker.ended) for worker in self.workers)

    def add(self) -> Worker[T]:
        """Add a worker, named by the lowest free number.

        If numbers were not used again, a pool that shrinks and grows would make new
        names without end, and a row in the metrics for each.
        """
        taken = {worker.name for worker in self.workers}
        names = (f"{self._place}-{number}" for number in itertools.count(1))
        name = next(name for name in names if name not in taken)
        worker: Worker[T] = Worker(name, self._now)
        self.workers.append(worker)
        return worker

    def take_back(self, count: int) -> int:
        """Let up to *count* workers stay that were to leave; return how many do.

        The oldest first: their handlers are ready, or will be before those of others.
        """
        staying = [worker for worker in self.workers if worker.leaving and not worker.parting]
        for worker in staying[:count]:
            worker.leaving = False
        return len(staying[:count])

    def is_last(self, worker: Worker[T]) -> bool:
        """Tell whether all others have ended, or are to leave."""
        return all(each is worker or each.leaving or each.ended for each in self.workers)

    def remove(self, worker: Worker[T]) -> None:
        """Remove *worker*, which has ended, and add its counts to the sums."""
        self.workers.remove(worker)
        self._consumed += worker.consumed
        self._failed += worker.failed
        self._retries += worker.retries
        self._busy_s += worker.busy_s(math.inf)
        self._life_s += worker.life_s(math.inf)

    def consumed(self) -> int:
        """Return how many ticks were handled."""
        return self._consumed + sum(worker.consumed for worker in self.workers)

    def failed(self) -> int:
        """Return how many ticks failed."""
        unseen = self._failed + self.failed_unseen
        return unseen + sum(worker.failed for worker in self.workers)

    def in_flight(self) -> int:
        """Return how many ticks workers hold now."""
        return sum(worker.in_flight for worker in self.workers)

    def retries(self) -> int:
        """Return how many further tries of handlers there were."""
        return self._retries + sum(worker.retries for worker in self.workers)

    def busy_s(self, now: float) -> float:
        """Return the seconds in which workers did not wait for ticks, up to *now*."""
        return self._busy_s + sum(worker.busy_s(now) for worker in self.workers)

    def life_s(self, now: float) -> float:
        """Return the seconds in which workers existed, up to *now*."""
        return self._life_s + sum(worker.life_s(now) for worker in self.workers)
