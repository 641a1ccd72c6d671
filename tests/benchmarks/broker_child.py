"""What every process of the section ``brokers`` has: its task, its ticks, its account.

A process prints a line ``ready`` when the other end may begin. Who brings the ticks
begins when a line comes on its standard input. At the end each prints its account as a
line of JSON.

Rules: the handler of all of them does the same: count, add, compare once. Times are
``time.monotonic_ns``, which all processes of a machine share; CPU time is the whole
process's, the kernel's share and other threads included.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import attrs

import trio_ticks as tt

__all__ = ["DISTINCT", "Tally", "Task", "account", "await_go", "make_ticks", "ready"]

DISTINCT = 50_000
"""Ticks that are made; longer runs bring these again and again."""


@attrs.frozen(kw_only=True)
class Task:
    """What one process is to do."""

    role: str
    """``"ingest"``, ``"work"``, ``"bare-ingest"``, ``"bare-work"``; or the name of a
    loop and ``-produce`` or ``-consume``."""
    place: str
    """The URL of the buffer; for a loop, where the broker listens."""
    ticks: int
    """How many ticks there are in all."""
    symbols: int = 200
    rate: float = 0.0
    """Ticks a second; 0: as fast as they are taken."""
    sleep_us: float = 0.0
    """How long the handler waits, in microseconds, with ``time.sleep``."""
    workers: int = 1
    """How many processes work. With several, each ends when nothing comes any more."""
    timed: bool = False
    """Whether to tell when each tick was sent, or handled."""
    client: str = "own"
    """``"redis-py"``: our buffer, with redis-py in threads for its connections."""
    options: dict[str, Any] = attrs.field(factory=dict)
    """Further settings of the buffer, or of the loop's client."""


def make_ticks(count: int, symbols: int) -> list[tt.Tick]:
    """Return *count* ticks of *symbols* symbols; beyond ``DISTINCT`` they repeat.

    Each of those has its number in ``volume``.
    """
    chance, now = random.Random(1), datetime.now(UTC)
    names = [f"SYM{number:04d}" for number in range(symbols)]
    made: list[tt.Tick] = []
    for number in range(min(count, DISTINCT)):
        bid = round(100 + chance.random() * 50, 2)
        sizes = (chance.randrange(1, 1000) * 100.0, chance.randrange(1, 1000) * 100.0)
        name = names[chance.randrange(symbols)]
        made.append(tt.Tick(name, now, bid, bid + 0.01, *sizes, float(number)))
    return (made * (count // max(1, len(made)) + 1))[:count]


class Tally:
    """Counts what is handled, and when the last came.

    Args:
        expected: how many ticks there are to come.
        timed: whether to keep when each came.
        sleep_us: how long the handler waits.
    """

    def __init__(self, expected: int, *, timed: bool = False, sleep_us: float = 0.0) -> None:
        self.on_done: Callable[[], object] = bool
        """Called when all have come."""
        self.times: list[tuple[int, int]] = []
        self._cpu = time.process_time()
        self._last = (0, self._cpu)
        self.handle, self.handle_async, self._state = self._counting(expected)
        """The handler, as a function and as a coroutine function."""
        if timed:
            self.handle = self._timed(self.handle)
        if sleep_us:
            self.handle = self._waiting(self.handle, sleep_us / 1e6)
        if timed or sleep_us:
            self.handle_async = self._awaited(self.handle)

    def _counting(
        self, expected: int
    ) -> tuple[
        Callable[[Any], None],
        Callable[[Any], Awaitable[None]],
        Callable[[], tuple[int, float]],
    ]:
        count, total = 0, 0.0

        def handle(tick: Any) -> None:
            nonlocal count, total
            count += 1
            total += tick.volume
            if count == expected:
                self.mark()
                self.on_done()

        # Written twice: a loop need not pay for a call more than another.
        async def handle_async(tick: Any) -> None:
            nonlocal count, total
            count += 1
            total += tick.volume
            if count == expected:
                self.mark()
                self.on_done()

        return handle, handle_async, lambda: (count, total)

    def _awaited(self, handle: Callable[[Any], None]) -> Callable[[Any], Awaitable[None]]:
        async def awaited(tick: Any) -> None:
            handle(tick)

        return awaited

    def _timed(self, handle: Callable[[Any], None]) -> Callable[[Any], None]:
        times, clock = self.times, time.monotonic_ns

        def timed(tick: Any) -> None:
            times.append((int(tick.volume), clock()))
            handle(tick)

        return timed

    def _waiting(self, handle: Callable[[Any], None], sleep_s: float) -> Callable[[Any], None]:
        def waiting(tick: Any) -> None:
            time.sleep(sleep_s)
            handle(tick)

        return waiting

    @property
    def count(self) -> int:
        """How many have come."""
        return self._state()[0]

    def begin(self) -> None:
        """Count CPU time from now on."""
        self._cpu = time.process_time()

    def mark(self) -> None:
        """Say that the last tick has just been handled."""
        self._last = (time.monotonic_ns(), time.process_time())

    def account(self, **more: Any) -> dict[str, Any]:
        """Return what was handled, until when, and the CPU time for it."""
        count, total = self._state()
        found = {"handled": count, "total": total, "last_ns": self._last[0]}
        return {**found, "cpu_s": self._last[1] - self._cpu, "times": self.times, **more}


def ready(tally: Tally | None = None, **facts: Any) -> None:
    """Say that the other end may begin.

    What was made so far stays out of the garbage collector's rounds.
    """
    gc.collect()
    gc.freeze()
    print(json.dumps({"ready": True, **facts}), flush=True)
    if tally is not None:
        tally.begin()


def await_go() -> None:
    """Wait until the other end is ready, too."""
    sys.stdin.readline()


def account(**found: Any) -> None:
    """Print the account."""
    print(json.dumps(found), flush=True)
