"""One worker: its counters, and the ticks that it holds. It decides nothing.

Rules: a tick that a worker holds is in ``current`` or ``held``, and leaves it in the
same step in which it is counted. Otherwise the ledger would count it twice, or not at
all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from ..handlers.contexts import CleanContext
from ..metrics.snapshots import WorkerMetrics
from ..ticks import MarketData
from .batch import Batch

__all__ = ["Worker"]

T = TypeVar("T", bound=MarketData)


class Worker(Generic[T]):
    """One worker's counters, and the ticks that it holds now."""

    __slots__ = (
        "_born",
        "_busy_s",
        "_ended_at",
        "_idle_s",
        "_idle_since",
        "_now",
        "arrived",
        "batch",
        "batch_ended",
        "burst_began",
        "clean",
        "consumed",
        "current",
        "ended",
        "failed",
        "handler",
        "held",
        "leaving",
        "name",
        "parting",
        "pausing",
        "reporting",
        "reports",
        "retries",
        "timed_at",
        "untimed",
        "wary",
        "working",
    )

    def __init__(self, name: str, now: Callable[[], float]) -> None:
        self.name = name
        self.handler: Callable[[Any], Any]
        """Takes a tick, or a batch; set before the worker takes its first tick."""
        self.clean: CleanContext
        """The context in which each of its handlings begins; set like ``handler``."""
        self.working: Coroutine[Any, Any, None] | None = None
        """What its task runs, to see where that waits."""
        self.leaving = False
        """Whether it ends after the ticks that it holds, since the pool shrinks."""
        self.parting = False
        """Whether it has seen that it is to leave, so that it cannot be taken back."""
        self.reporting: list[Any] = []
        """Ticks whose failures are being reported to ``on_error``.

        They are counted as failed, but unfinished until their dead letters are
        written."""
        self.reports = 0
        """How often ``on_error`` has returned."""
        self.arrived: float | None = None
        """When the tick that it handles, or whose failure it reports, had arrived.

        Its work says when this holds."""
        self.current: T | None = None
        """The tick in its handler, if it takes ticks one at a time."""
        self.held: list[T] = []
        """The ticks of its batch that have no outcome yet."""
        self.batch: Batch[T] | None = None
        """The batch that it runs, or will run as soon as its gaps are announced."""
        self.consumed = 0
        self.failed = 0
        self.retries = 0
        """Further tries of its handler. Written where that runs: maybe in a thread."""
        self.pausing = False
        """Whether its thread waits between two tries."""
        self.ended = False
        """Whether it takes no more ticks."""
        self._now = now
        self._born = self.burst_began = now()
        # The next three are loop_work.py's; batch_work.py has ``untimed``, too.
        self.timed_at = self._born
        """When the handling of the last timed tick ended."""
        self.untimed = 0
        """How many ticks it may handle without timing them."""
        self.wary = 0
        """How many ticks it has still to time one by one, after a slow sprint."""
        self.batch_ended = -math.inf
        """When its last batch ended; batch_work.py's."""
        self._busy_s = 0.0
        self._idle_s = 0.0
        self._idle_since: float | None = None
        self._ended_at = math.inf

    @property
    def in_flight(self) -> int:
        """How many ticks it holds."""
        return (self.current is not None) + len(self.held)

    @property
    def out_of_queue(self) -> int:
        """How many of its ticks may go back into the queue: they keep their room."""
        return 0 if self.batch is None else len(self.batch.todo)

    @property
    def free(self) -> bool:
        """Whether it is awake and will take ticks without being woken."""
        return not (
            self.current is not None
            or self.idle
            or self.held
            or self.reporting
            or self.leaving
            or self.ended
        )

    @property
    def idle(self) -> bool:
        """Whether it waits for ticks, or its handler is not ready yet."""
        return self._idle_since is not None

    def reported(self, item: object) -> None:
        """Remove *item* from ``reporting``: ``on_error`` has returned."""
        for index, each in enumerate(self.reporting):
            if each is item:
                del self.reporting[index]
                return

    def retried(self) -> None:
        """Count another try."""
        self.retries += 1

    def rest(self) -> None:
        """Begin to count as idle."""
        self._idle_since = self._now()

    def resume(self) -> None:
        """Count as busy again, at the beginning of a new burst."""
        now = self.burst_began = self._now()
        if self._idle_since is not None:
            self._idle_s += now - self._idle_since
            self._idle_since = None

    def idled(self, seconds: float) -> None:
        """Count *seconds* as idle that have counted as busy so far."""
        self._idle_s += seconds

    def end(self) -> None:
        """Take no more ticks; the times stop here."""
        self.ended = True
        self._ended_at = self._now()

    def busy_s(self, now: float) -> float:
        """Return how long it did not wait for ticks, up to *now*, in seconds.

        Never less than before.
        """
        now = min(now, self._ended_at)
        idle = self._idle_s + (now - self._idle_since if self._idle_since is not None else 0.0)
        self._busy_s = max(self._busy_s, now - self._born - idle)
        return self._busy_s

    def life_s(self, now: float) -> float:
        """Return how long it has existed up to *now*, in seconds."""
        return min(now, self._ended_at) - self._born

    def metrics(self, now: float) -> WorkerMetrics:
        """Return its row in the metrics."""
        life = self.life_s(now)
        holds = self.current if self.current is not None else (self.held[0] if self.held else None)
        return WorkerMetrics(
            name=self.name,
            state="ended" if self.ended else ("idle" if self._idle_since is not None else "busy"),
            consumed=self.consumed,
            failed=self.failed,
            in_flight=self.in_flight,
            busy_ratio=self.busy_s(now) / life if life > 0 else 0.0,
            symbol=None if holds is None else holds.symbol,
        )
