"""One worker: its counters, what it holds, and the latencies that a pool's workers share. No policy: the pool decides.

Rules: a tick that a worker holds is in ``current`` or ``held``, and leaves it in the same step in which it is counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from .metrics import LatencyWindow, WorkerMetrics
from .ticks import MarketData

if TYPE_CHECKING:
    from .executors import Batch

__all__ = ["Meters", "Worker"]

T = TypeVar("T", bound=MarketData)


class Meters:
    """The latencies of a pool. Every tick is timed, but where quick ones follow each other densely: then one in 256, on average,
    and at least two hundred a second.
    """

    def __init__(self) -> None:
        self.lag = LatencyWindow()
        self.wait = LatencyWindow()
        self.handler = LatencyWindow()
        self.hand_over = LatencyWindow()
        """What a batch costs beside its handler: until a thread or a process has begun it, and until its end is known here."""
        self.end_to_end = LatencyWindow()
        """From a tick's own timestamp to the end of its handling."""
        self._wall_offset = time.time() - trio.current_time()

    def taken(self, item: MarketData, arrived: float, now: float) -> None:
        """Record how old *item* is and how long it waited. The wall clock is read once a run, so that a virtual clock rules here too."""
        self.wait.record(now - arrived, now)
        self.lag.record(now + self._wall_offset - item.timestamp.timestamp(), now)

    def handled(self, item: MarketData, arrived: float, began: float, ended: float) -> None:
        """Record all of one handling, when it is over: the handler need not wait for that."""
        self.wait.record(began - arrived, ended)
        self.lag.record(began + self._wall_offset - item.timestamp.timestamp(), ended)
        self.handler.record(ended - began, ended)
        self.end_to_end.record(ended + self._wall_offset - item.timestamp.timestamp(), ended)


class Worker(Generic[T]):
    """One worker's counters, and what it holds now."""

    __slots__ = (
        "_born",
        "_clock",
        "_ended_at",
        "_idle_s",
        "_idle_since",
        "away",
        "batch",
        "burst_began",
        "consumed",
        "current",
        "ended",
        "failed",
        "handler",
        "held",
        "leaving",
        "name",
        "pausing",
        "retries",
        "timed_at",
        "untimed",
        "wary",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.handler: Callable[[Any], Any]
        """What it calls with a tick, or with a batch of them; ready once it runs."""
        self.leaving = False
        """Whether it was told to end as soon as it has done what it holds: the pool shrinks."""
        self.away = False
        """Whether it waits for ``on_error`` or ``on_gap``."""
        self.current: T | None = None
        self.held: list[T] = []
        self.batch: Batch[T] | None = None
        self.consumed = 0
        self.failed = 0
        self.retries = 0
        """Further tries of its handler. Written where the handler runs, which may be a thread."""
        self.pausing = False
        """Whether its thread waits between two tries."""
        self.ended = False
        self._clock = trio.lowlevel.current_clock().current_time
        self._born = self.burst_began = self._clock()
        self.timed_at = self._born
        self.untimed = 0
        """Ticks that it may handle without timing them."""
        self.wary = 0
        self._idle_s = 0.0
        self._idle_since: float | None = None
        self._ended_at = math.inf

    @property
    def in_flight(self) -> int:
        return (self.current is not None) + len(self.held)

    @property
    def out_of_queue(self) -> int:
        """How many ticks it holds that may go back into the queue, and have a claim on their room."""
        return 0 if self.batch is None else len(self.batch.todo)

    @property
    def free(self) -> bool:
        """Whether it is awake and will come for ticks by itself."""
        return not (self.current is not None or self.idle or self.held or self.away or self.leaving or self.ended)

    @property
    def idle(self) -> bool:
        """Whether it waits for ticks, or its handler is not ready yet."""
        return self._idle_since is not None

    def retried(self) -> None:
        """Note another try."""
        self.retries += 1

    def rest(self) -> None:
        self._idle_since = self._clock()

    def resume(self) -> None:
        now = self.burst_began = self._clock()
        if self._idle_since is not None:
            self._idle_s += now - self._idle_since
            self._idle_since = None

    def end(self) -> None:
        self.ended = True
        self._ended_at = self._clock()

    def busy_s(self, now: float) -> float:
        """How long it did not wait for ticks, up to *now*, in seconds."""
        now = min(now, self._ended_at)
        idle = self._idle_s + (now - self._idle_since if self._idle_since is not None else 0.0)
        return max(0.0, now - self._born - idle)

    def life_s(self, now: float) -> float:
        """How long it has been there up to *now*, in seconds."""
        return min(now, self._ended_at) - self._born

    def metrics(self, now: float) -> WorkerMetrics:
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
