"""Says which ticks of a pool are unfinished, for a buffer: see trio_ticks/buffer.py."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Generic, TypeVar, final

from ..channel.stretches import leave_all
from ..ticks import MarketData
from ..uninterrupted import uninterrupted
from .crew import Crew

__all__ = ["PoolOutcomes"]

T = TypeVar("T", bound=MarketData)


@uninterrupted
@final
class PoolOutcomes(Generic[T]):
    """Answers for one pool.

    Each call visits every queued tick, so a source should call once a turn, not once a
    tick.
    """

    def __init__(self, crew: Crew[T]) -> None:
        self._crew = crew

    def unfinished(self) -> list[Any]:
        """Return the ticks that have no outcome yet.

        They are queued, wait for room, are held by a worker, or failed and are being
        reported to ``on_error``; or they were left when the time of a shutdown was up.
        """
        found = self._crew.state.queued() + self._crew.state.drops.left
        for worker in self._crew.workers:
            if worker.current is not None:
                found.append(worker.current)
            found += worker.held
            found += worker.reporting
        # A failed tick of a batch may be on the list twice while it is reported.
        return list({id(item): item for item in found}.values())

    @property
    def busy(self) -> bool:
        """Whether any tick may still get an outcome."""
        workers = self._crew.workers
        return bool(
            self._crew.state.ledger.queued
            or any(worker.in_flight or worker.reporting for worker in workers)
        )

    def leave_all(self) -> None:
        """Give back all that no worker has begun; it stays unfinished."""
        self._crew.work.take_all_back()
        leave_all(self._crew.state)

    def bury(self, count: int) -> None:
        """Count *count* ticks as failed that no worker was given."""
        ledger = self._crew.state.ledger
        ledger.produced += count
        ledger.delivered += count
        self._crew.roster.failed_unseen += count

    def withdraw(self, symbols: Collection[str]) -> int:
        """Remove the queued ticks of *symbols* in one step; return how many they were.

        Ticks of a thread's batch that were not begun are queued again first, so they
        are removed too. Ticks that a worker has begun, and all that a process was
        given, go on. What was left at the end of a shutdown was counted then.
        """
        wanted = frozenset(symbols)
        self._crew.work.take_all_back()
        drops = self._crew.state.drops
        before = len(drops.left)
        drops.left[:] = [item for item in drops.left if item.symbol not in wanted]
        return before - len(drops.left) + self._crew.state.give_back(wanted)
