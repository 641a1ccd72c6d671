"""Handlers of seeded runs, which other processes can import.

They know what is to become of each tick, and write down what they did. Rules: an event
is one write, so that events of several processes do not mix, and a process that is
killed leaves only whole events behind.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import msgspec
import trio

import trio_ticks as tt
from tests.worlds.helpers import number

__all__ = ["Async", "CurableError", "Event", "Fate", "Log", "Plain"]


class CurableError(Exception):
    """Another try may help."""


class HopelessError(Exception):
    """No try will."""


@attrs.frozen
class Fate:
    """What a handler does with a tick."""

    seconds: float
    """How long its handling takes; negative: in the loop, not even a checkpoint."""
    fails: int = 0
    """How many tries fail in a way that may be cured."""
    hopeless: bool = False


class Event(msgspec.Struct, frozen=True, array_like=True):
    """One recorded step. A handling has one tick, or those of a batch."""

    what: Literal["begin", "end", "cut", "telling", "told", "paused", "resumed"]
    """``cut``: cancelled; ``telling`` and ``told``: ``on_error`` begins and ends."""
    pid: int
    symbols: tuple[str, ...]
    numbers: tuple[int, ...]
    failed: tuple[int, ...] = ()


@attrs.define
class Log:
    """Events in their order, in memory or in a file.

    A file is needed if processes that may be killed write the events, each with one
    write.
    """

    path: str | None
    stopped: bool = False
    """Whether whoever steers the pipeline has shut it down."""
    _events: list[Event] = attrs.field(factory=list)

    def write(self, what: Any, ticks: Sequence[tt.Tick], failed: Sequence[int] = ()) -> None:
        event = Event(
            what,
            os.getpid(),
            tuple(tick.symbol for tick in ticks),
            tuple(map(number, ticks)),
            tuple(failed),
        )
        if self.path is None:
            self._events.append(event)
            return
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, msgspec.json.encode(event) + b"\n")
        finally:
            os.close(descriptor)

    def read(self) -> list[Event]:
        if self.path is None:
            return list(self._events)
        lines = Path(self.path).read_bytes().splitlines() if Path(self.path).exists() else []
        return [msgspec.json.decode(line, type=Event) for line in lines]


@attrs.define(slots=False)  # a decorator leaves its note
class Handler:
    """Does with its ticks what the seed says, and records it."""

    log: Log
    fates: dict[int, Fate]
    names_failures: bool
    tries: Counter[int] = attrs.field(factory=Counter)

    def judge(self, ticks: Sequence[tt.Tick]) -> dict[int, Exception]:
        """Return which of *ticks* fail this time, by their index."""
        failures: dict[int, Exception] = {}
        for index, tick in enumerate(ticks):
            fate = self.fates[number(tick)]
            self.tries[number(tick)] += 1
            if fate.hopeless:
                failures[index] = HopelessError(str(number(tick)))
            elif self.tries[number(tick)] <= fate.fails:
                failures[index] = CurableError(str(number(tick)))
        return failures

    def seconds(self, ticks: Sequence[tt.Tick]) -> float:
        return max(self.fates[number(tick)].seconds for tick in ticks)

    def end(self, ticks: Sequence[tt.Tick]) -> None:
        """Write the end down, and raise what there is to raise."""
        failures = self.judge(ticks)
        named = self.names_failures and len(ticks) > 1
        failed = (
            [number(ticks[index]) for index in failures]
            if named
            else map(number, ticks)
            if failures
            else ()
        )
        self.log.write("end", ticks, tuple(failed))
        if named and failures:
            raise tt.BatchError(failures)
        # The batch raises the error that no retry can cure, if there is one.
        for kind in (HopelessError, CurableError):
            for error in failures.values():
                if isinstance(error, kind):
                    raise error


class Plain(Handler):
    """For threads and processes."""

    def __call__(self, given: Any) -> None:
        ticks = given if isinstance(given, list) else [given]
        self.log.write("begin", ticks)
        if self.seconds(ticks) > 0:
            time.sleep(self.seconds(ticks))
        self.end(ticks)


class Async(Handler):
    """For the loop, and processes."""

    async def __call__(self, given: Any) -> None:
        ticks = given if isinstance(given, list) else [given]
        self.log.write("begin", ticks)
        try:
            if self.seconds(ticks) >= 0:
                await trio.sleep(self.seconds(ticks))
        except trio.Cancelled:
            self.log.write("cut", ticks)
            raise
        self.end(ticks)
