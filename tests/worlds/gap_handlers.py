"""Handlers that take ticks and gaps, for every place where a handler may run.

They tell what they did by lines in a file; worker processes import them by their names.
Each stops at the item 0 until another file is there, and raises at gaps if told to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

import trio_ticks as tt
from tests.worlds.process_handlers import Teller, number_of, read

__all__ = [
    "PATIENCE_S",
    "PLACES",
    "GapError",
    "Place",
    "SlowAt",
    "all_handled",
    "lines_of",
    "tell_of_error",
    "tell_of_gap",
]

Item = tt.Tick | tt.BookUpdate | tt.Gap
PATIENCE_S = 30.0


class GapError(Exception):
    """Raised by handlers at a gap."""


@attrs.define
class _Stops(Teller):
    """Base: what a handler does with an item, except the wait at the item 0."""

    gate: str
    raises: bool

    def is_to_wait(self, item: Item) -> bool:
        return not isinstance(item, tt.Gap) and number_of(item) == 0 and not self.is_open()

    def is_open(self) -> bool:
        return Path(self.gate).exists()

    def wait(self) -> None:
        """Wait until the gate is there, in a thread or a process."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_open():
            time.sleep(0.002)
            if time.monotonic() > deadline:
                raise TimeoutError("nobody opened the gate")

    async def wait_in_loop(self) -> None:
        """Wait until the gate is there, in the event loop."""
        with trio.fail_after(PATIENCE_S):
            while not self.is_open():  # noqa: ASYNC110 - a file sets no trio.Event
                await trio.sleep(0.002)

    def take(self, item: Item) -> None:
        if isinstance(item, tt.Gap):
            self.record(f"gap: {item.reason}", item)
            if self.raises:
                raise GapError(item.symbol)
        else:
            self.record("item", item)


@attrs.define
class Plain(_Stops):
    """For threads and processes."""

    def __call__(self, item: Item) -> None:
        self.take(item)
        if self.is_to_wait(item):
            self.wait()


@attrs.define
class PlainBatches(_Stops):
    """For threads and processes, several items at a time."""

    @tt.batch_handler(max_size=8)
    def __call__(self, items: Sequence[Item]) -> None:
        for item in items:
            self.take(item)
            if self.is_to_wait(item):
                self.wait()


@attrs.define
class InLoop(_Stops):
    """For the event loop."""

    async def __call__(self, item: Item) -> None:
        self.take(item)
        if self.is_to_wait(item):
            await self.wait_in_loop()


@attrs.define
class InLoopBatches(_Stops):
    """For the event loop, several items at a time."""

    @tt.batch_handler(max_size=8)
    async def __call__(self, items: Sequence[Item]) -> None:
        for item in items:
            self.take(item)
            if self.is_to_wait(item):
                await self.wait_in_loop()


@attrs.frozen
class Place:
    """An executor for the handler, and how many items it takes at once."""

    name: str
    executor: str
    make: Callable[[str, str, bool], Any]

    def handler(self, path: Path, *, raises: bool = False) -> Any:
        """Return a handler that tells into *path* and waits for :meth:`gate`."""
        return self.make(str(path), str(self.gate(path)), raises)

    def gate(self, path: Path) -> Path:
        """Return the file that the item 0 waits for."""
        return path.with_name("gate")


PLACES = (
    Place("loop", "loop", InLoop),
    Place("batches in loop", "loop", InLoopBatches),
    Place("threads", "thread", Plain),
    Place("batches in threads", "thread", PlainBatches),
    Place("processes", "process", Plain),
    Place("batches in processes", "process", PlainBatches),
)


def lines_of(path: Path, symbol: str) -> list[Any]:
    """Return the record of *symbol*: numbers; of gaps and errors, names too."""
    lines = [line for line in read(path) if line.symbol == symbol]
    return [line.number if line.event == "item" else (line.event, line.number) for line in lines]


def tell_of_gap(path: Path) -> Callable[[tt.Gap], None]:
    """Return an ``on_gap`` that tells into *path*, as the handlers do in-band."""
    teller = Teller(str(path))
    return lambda gap: teller.record(f"gap: {gap.reason}", gap)


def tell_of_error(path: Path) -> Callable[[Any, Exception], None]:
    """Return an ``on_error`` that tells into *path* what failed, and by what."""
    teller = Teller(str(path))
    return lambda item, error: teller.record(f"{type(item).__name__}: {type(error).__name__}", item)


# In threads, at a clock that stands still


@attrs.define
class SlowAt:
    """A plain handler that waits at one item until let go; it keeps what it is told."""

    slow: int
    log: list[Any] = attrs.field(factory=list)
    entered: threading.Event = attrs.field(factory=threading.Event)
    opened: threading.Event = attrs.field(factory=threading.Event)

    def __call__(self, item: Any) -> None:
        self.log.append(number_of(item))
        if number_of(item) == self.slow:
            self.entered.set()
            assert self.opened.wait(PATIENCE_S)

    def on_gap(self, gap: tt.Gap) -> None:
        self.log.append((gap.reason, gap.count))


async def all_handled(pipeline: tt.Pipeline[Any]) -> None:
    """Wait until nothing is under way; time does not pass meanwhile."""
    while pipeline.ledger.queued or pipeline.ledger.in_flight:
        await trio.lowlevel.checkpoint()
