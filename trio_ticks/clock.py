"""The time of one pipeline: trio's time, the wall time that belongs to it, and chance.

Rules: no other module reads the system's clocks or the global ``random``. The wall
clock is read once, when a :class:`Clock` begins; from then on wall time is trio's time
plus that offset, so that a virtual clock rules wall time too, and a step of the
system's clock does not. A :class:`random.Random` is made here and handed on.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple, final

import trio

__all__ = [
    "Clock",
    "ClockFacts",
    "monotonic",
    "new_random",
    "seeded_random",
    "system_clock",
    "system_utc",
    "thread_cpu",
    "time_is_virtual",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

monotonic: Callable[[], float] = time.perf_counter
"""Seconds that only go forward, outside trio: for worker processes and threads.

It reads the clock that trio's own clock reads.
"""

thread_cpu: Callable[[], float] = time.thread_time
"""Seconds of processor time that this thread has used."""


def system_utc() -> datetime:
    """Return the system's wall time, in UTC, for code without a pipeline's clock."""
    return datetime.now(UTC)


class ClockFacts(NamedTuple):
    """What the clock is like that :data:`monotonic` reads."""

    implementation: str
    """The function of the operating system that is asked."""
    resolution_s: float
    """The smallest step that it promises, in seconds."""
    reading_s: float
    """How long one reading takes here, in seconds."""


def system_clock() -> ClockFacts:
    """Return what the clock is like, after reading it a few thousand times."""
    readings, reading_s = 100, math.inf
    for _ in range(30):
        # The quickest of many short runs: in the others another program had the core.
        began = monotonic()
        for _ in range(readings):
            monotonic()
        reading_s = min(reading_s, (monotonic() - began) / readings)
    info = time.get_clock_info("perf_counter")
    return ClockFacts(info.implementation, info.resolution, reading_s)


def new_random() -> Random:
    """Return a source of chance, seeded by the system: one a pipeline or process."""
    return Random()


@contextmanager
def seeded_random(seed: int) -> Iterator[None]:
    """Seed the module ``random`` in the block; afterwards it is as it was.

    For handlers that use it. We do not.
    """
    before = random.getstate()
    try:
        random.seed(seed)  # within the try: Ctrl-C may come as soon as it is done
        yield
    finally:
        random.setstate(before)


def time_is_virtual() -> bool:
    """Return whether trio runs on another clock than the system's; call it in trio."""
    # trio does not export the class of its default clock.
    return type(trio.lowlevel.current_clock()).__name__ != "SystemClock"


@final
class Clock:
    """The time of one pipeline, on whatever clock trio runs with.

    A clock that is made before trio runs begins when it is first read inside trio.

    Args:
        now: seconds that only go forward; trio's current clock unless given. It must be
            safe to call in any thread, as the ``current_time`` of trio's own clocks is.
        wall_s: the wall time at the beginning, in seconds since 1970; the system's
            unless given.
    """

    __slots__ = ("_is_virtual", "_offset_s", "_played", "_wall_s", "now")

    def __init__(self, now: Callable[[], float] | None = None, wall_s: float | None = None) -> None:
        in_trio = trio.lowlevel.in_trio_run()
        if now is None:
            # trio.current_time raises in threads; the method of its clock does not.
            now = trio.lowlevel.current_clock().current_time if in_trio else trio.current_time
            self._is_virtual: bool | None = None
        else:
            self._is_virtual = True
        self.now: Callable[[], float] = now
        """Return seconds on trio's clock.

        Safe in any thread if the clock was made inside trio.
        """
        self._wall_s = wall_s
        self._offset_s = math.nan
        self._played: tuple[float, float, float] | None = None
        if in_trio or self._is_virtual:
            self._begin()

    def _begin(self) -> None:
        if self._is_virtual is None:
            self._is_virtual = time_is_virtual()
        self._offset_s = (time.time() if self._wall_s is None else self._wall_s) - self.now()

    @property
    def is_virtual(self) -> bool:
        """Whether time is virtual: then wall time may begin where a recording does."""
        if self._is_virtual is None:
            self._begin()
        return bool(self._is_virtual)

    @property
    def offset_s(self) -> float:
        """Wall time (seconds since 1970) less trio's time.

        Read it anew each time, since :meth:`begin_at` changes it.
        """
        if math.isnan(self._offset_s):
            self._begin()
        return self._offset_s

    def wall(self) -> float:
        """Return the wall time, in seconds since 1970."""
        return self.now() + self.offset_s

    def utc(self) -> datetime:
        """Return the wall time as an aware datetime in UTC."""
        return self.utc_at(self.now())

    def utc_at(self, moment: float) -> datetime:
        """Return the wall time that belongs to *moment* on trio's clock, in UTC."""
        return _EPOCH + timedelta(seconds=moment + self.offset_s)

    def step_s(self) -> float:
        """Return the system's wall clock less this one's wall time, in seconds.

        It changes only when the system's clock is set, or the machine has slept. Safe
        in any thread. On a virtual clock it is 0.
        """
        return 0.0 if self.is_virtual else time.time() - self.wall()

    def begin_at(self, wall_s: float) -> None:
        """Let the wall time be *wall_s* (seconds since 1970) now, if time is virtual.

        A feed that plays a recording calls this with the time of the first message, so
        that lags and ages are exact. On the system's clock nothing changes.
        """
        if self.is_virtual:
            self._offset_s = wall_s - self.now()

    def play(self, wall_s: float | None, speed: float = 1.0) -> None:
        """Let items' timestamps be of a recording that is played from now on.

        So :meth:`happened` goes by the recording's own clock, and not by ours. The wall
        time stays as it is.

        Args:
            wall_s: the recording's time now, in seconds since 1970; ``None``: no
                recording is played, items are stamped with the wall time again.
            speed: how much faster than ours the recording's clock runs; with
                ``math.inf`` it has no pace, so nobody can say when an item was due.
        """
        self._played = None if wall_s is None else (self.now(), wall_s, speed)

    def happened(self, stamp_s: float) -> float:
        """Return the moment on trio's clock that the timestamp of an item stands for.

        NaN for an item of a recording that is played without a pace.

        Args:
            stamp_s: the item's timestamp, in seconds since 1970.
        """
        if self._played is None:
            return stamp_s - self.offset_s
        at, wall_s, speed = self._played
        return at + (stamp_s - wall_s) / speed if speed < math.inf else math.nan

    def age_s(self, moment: float, stamp_s: float) -> float:
        """Return how long before *moment* an item with that timestamp happened.

        In seconds; NaN where :meth:`happened` returns it. What is subtracted last is
        the larger, so that a difference of seconds is exact to a microsecond.

        Args:
            moment: on trio's clock.
            stamp_s: the item's timestamp, in seconds since 1970.
        """
        if self._played is None:
            return moment + self.offset_s - stamp_s
        return moment - self.happened(stamp_s)
