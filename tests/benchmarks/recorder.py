"""The handler that every contender runs, and the account that it gives.

The account: how many ticks came, which, when, and at what cost. The same few
instructions for all: count, add up the numbers in ``volume``, and compare once. A loss
and a double of the same size still show in the sum. Time and CPU time run from the
first tick handled to the last.
"""

from __future__ import annotations

import gc
import resource
import sys
import threading
import time
from array import array
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import attrs

__all__ = ["Account", "Handler", "Recorder"]

Handler = Callable[[Any], Awaitable[None]]


@attrs.define
class Account:
    """What one contender did with one stream."""

    expected: int
    handled: int
    dropped: int
    """What the contender itself says that it dropped."""
    lost: int
    """Neither handled nor dropped: 0, or something is wrong."""
    intact: bool
    """Nothing dropped, nothing lost, nothing twice: the right ticks and each once."""
    wall_s: float
    cpu_s: float
    peak_rss_mb: float
    finished: bool
    """False if it stalled and was given up."""
    detail: dict[str, Any] = attrs.field(factory=dict)

    @property
    def us_per_tick(self) -> float:
        """Microseconds for each tick that got an outcome, handled or dropped."""
        return self.wall_s / max(1, self.handled + self.dropped - 1) * 1e6

    @property
    def cpu_us_per_tick(self) -> float:
        """The same in CPU time, the kernel's share on our side included."""
        return self.cpu_s / max(1, self.handled + self.dropped - 1) * 1e6


class Recorder:
    """Counts one stream of *expected* ticks.

    Args:
        expected: How many ticks there are to come.
        timed: Record when each was handled (``handled_ns``, by number); for latencies.
    """

    def __init__(self, expected: int, *, timed: bool = False) -> None:
        self.expected = expected
        self.on_done: Callable[[], object] = bool
        """Called when every tick has been handled or dropped, by who handled the last.
        """
        self.handled_ns: array[int] = array("q", bytes(8 * expected)) if timed else array("q")
        self.handler, self.drop, self._state = self._timed() if timed else self._counting()
        self._first = self._last = (0.0, 0.0)

    def _mark(self) -> None:
        self._last = (time.perf_counter(), time.process_time())
        if not self._first[0]:
            self._first = self._last

    def _counting(self) -> tuple[Handler, Callable[[], None], Callable[[], tuple[int, float, int]]]:
        count, total, dropped, edge, target = 0, 0.0, 0, 1, self.expected

        async def handler(tick: Any) -> None:
            nonlocal count, total
            count += 1
            total += tick.volume
            if count == edge:
                reached()

        def reached() -> None:
            nonlocal edge
            self._mark()
            edge = target
            if count >= target:
                self.on_done()

        def drop() -> None:
            nonlocal dropped, target, edge
            dropped += 1
            target -= 1
            if edge != 1:
                edge = target
                if count >= target:
                    reached()

        return handler, drop, lambda: (count, total, dropped)

    def _timed(self) -> tuple[Handler, Callable[[], None], Callable[[], tuple[int, float, int]]]:
        handle, drop, state = self._counting()
        times, clock = self.handled_ns, time.monotonic_ns

        async def handler(tick: Any) -> None:
            times[int(tick.volume)] = clock()
            await handle(tick)

        return handler, drop, state

    def in_threads(self) -> Callable[[Any], None]:
        """Return the handler as a function that several threads may call at once."""
        handler, lock = self.handler, threading.Lock()

        def handle(tick: Any) -> None:
            # It never awaits, so its first step is its last.
            with lock, suppress(StopIteration):
                handler(tick).__await__().__next__()

        return handle

    @property
    def progress(self) -> int:
        """Ticks that have an outcome by now."""
        count, _, dropped = self._state()
        return count + dropped

    def account(self, detail: dict[str, Any] | None = None) -> Account:
        """Close the books."""
        count, total, dropped = self._state()
        finished = count + dropped >= self.expected
        if not finished:
            self._mark()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Account(
            expected=self.expected,
            handled=count,
            dropped=dropped,
            lost=self.expected - count - dropped,
            intact=count == self.expected and total == self.expected * (self.expected - 1) / 2,
            wall_s=self._last[0] - self._first[0],
            cpu_s=self._last[1] - self._first[1],
            peak_rss_mb=peak / (1 << 20 if sys.platform == "darwin" else 1 << 10),
            finished=finished,
            detail={**(detail or {}), "gc": list(gc.get_threshold())},
        )
