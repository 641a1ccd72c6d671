"""Handlers for worker processes, which import them by their names.

They record what they did as lines in files, since the record must outlive the process.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import attrs
import msgspec
import trio
import trio.lowlevel

import trio_ticks as tt

__all__ = ["Line", "Quote", "read"]


class Line(msgspec.Struct, frozen=True, array_like=True):
    """A handler's record: its process, what it did, and with which item."""

    pid: int
    event: str
    symbol: str = ""
    number: int = 0


@attrs.frozen
class Quote:
    """A kind of a user's own."""

    symbol: str
    timestamp: Any
    number: int


def read(path: Path) -> list[Line]:
    """Return what was recorded in *path*, in order.

    A line that was cut off by the end of a process is left out.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [msgspec.json.decode(line, type=Line) for line in lines]


def number_of(item: Any) -> int:
    """Return the number that tests give their items."""
    for name in ("number", "volume", "size", "last_sequence", "count"):
        if hasattr(item, name):
            return int(getattr(item, name))
    raise TypeError(item)


@attrs.define
class Teller:
    """Base of handlers that record what they do."""

    path: str

    def record(self, event: str, item: Any = None) -> None:
        """Append a line, in one write: lines of several processes do not mix."""
        line = Line(
            os.getpid(),
            event,
            "" if item is None else item.symbol,
            0 if item is None else number_of(item),
        )
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, msgspec.json.encode(line) + b"\n")
        finally:
            os.close(descriptor)


@attrs.define
class Tell(Teller):
    """Records each item, and misbehaves as the item's numbers say.

    It raises at negative prices, ends its process at a bid of 13, hangs at 14, and
    sleeps for ``ask_size`` seconds.
    """

    held: Counter[str] = attrs.field(factory=Counter)
    """State: how many items of each symbol came; told as the event."""

    def __call__(self, item: Any) -> None:
        self.held[item.symbol] += 1
        self.record(str(self.held[item.symbol]), item)
        bid = getattr(item, "bid", 0.0)
        if bid < 0:
            raise ArithmeticError(f"bid {bid}")
        if bid == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if bid == 14:
            time.sleep(3600)
        if bid == 15:
            time.sleep(item.ask_size)


@attrs.define
class TellReady(Tell):
    """Tells also when its process is ready."""

    def __enter__(self) -> TellReady:
        self.record("ready")
        return self

    def __exit__(self, *_reason: Any) -> None:
        pass


@attrs.define
class TellKinds(Teller):
    """Records the kind of each item, gaps too, and what a conflated one stands for."""

    def __call__(self, item: tt.Tick | tt.Trade | tt.BookUpdate | tt.Bar | Quote | tt.Gap) -> None:
        evidence = tt.conflation_of(item)
        self.record(
            type(item).__name__
            if evidence is None
            else f"{type(item).__name__} of {evidence.count}",
            item,
        )


@attrs.define
class TellBatches(Teller):
    """A batch handler that records the size of its batches; negative prices fail."""

    @tt.batch_handler(max_size=8)
    def __call__(self, ticks: Sequence[tt.Tick]) -> None:
        for tick in ticks:
            self.record(str(len(ticks)), tick)
        failures: dict[int, Exception] = {
            n: ArithmeticError("bid") for n, tick in enumerate(ticks) if tick.bid < 0
        }
        if failures:
            raise tt.BatchError(failures)


@attrs.define
class TellBatchesAndGaps(Teller):
    """A batch handler that takes gaps too."""

    @tt.batch_handler(max_size=8, max_wait=0.05)
    def __call__(self, items: Sequence[tt.Tick | tt.Gap]) -> None:
        for item in items:
            self.record(type(item).__name__, item)


@attrs.define
class DiesWithBatches(Teller):
    """A batch handler that ends its process the first time."""

    @tt.batch_handler(max_size=4)
    def __call__(self, ticks: Sequence[tt.Tick]) -> None:
        if not Path(self.path).exists():
            self.record("end")
            os._exit(7)


@attrs.define
class SlowFlaky(Teller):
    """Sleeps for ``ask_size`` seconds at each try; the first try fails."""

    tried: set[int] = attrs.field(factory=set)

    def __call__(self, tick: tt.Tick) -> None:
        time.sleep(tick.ask_size)
        if number_of(tick) not in self.tried:
            self.tried.add(number_of(tick))
            raise ConnectionError("again")


@attrs.define
class TellsLittle(Teller):
    """Tells of each tick, and computes for about 0.2 ms."""

    def __call__(self, tick: tt.Tick) -> None:
        end = time.perf_counter() + 200e-6
        while time.perf_counter() < end:
            pass
        self.record("tick", tick)


@attrs.define
class TellAsync(Teller):
    """An async handler with an async life, of one trio loop."""

    nursery: Any = None
    manager: Any = None

    async def __aenter__(self) -> TellAsync:
        self.manager = trio.open_nursery()
        self.nursery = await self.manager.__aenter__()
        self.nursery.start_soon(trio.sleep_forever)
        self.record("enter")
        return self

    async def __aexit__(self, *reason: Any) -> None:
        self.record("exit")
        self.nursery.cancel_scope.cancel()
        await self.manager.__aexit__(None, None, None)

    async def __call__(self, tick: tt.Tick) -> None:
        self.record("begin", tick)
        if tick.bid == 14:
            await trio.sleep_forever()
        if tick.bid == 15:
            time.sleep(3600)  # noqa: ASYNC251 - it blocks the loop, on purpose
        await trio.lowlevel.checkpoint()
        if tick.bid < 0:
            raise ArithmeticError("bid")
        self.record("end", tick)


class Lived:
    """A class with one instance in each process.

    The path of its record comes from the environment, as a user's settings may.
    """

    def __init__(self) -> None:
        self.teller = Teller(os.environ["TELL_TO"])
        self.teller.record("init")

    def __enter__(self) -> Lived:
        self.teller.record("enter")
        if os.environ.get("TELL_FAILS") == "enter":
            raise ArithmeticError("no set-up")
        return self

    def __exit__(self, *reason: Any) -> None:
        self.teller.record("exit")
        if os.environ.get("TELL_FAILS") == "exit":
            raise ArithmeticError("no way out")

    def __call__(self, tick: tt.Tick) -> None:
        self.teller.record("tick", tick)


class EndsAtOnce:
    """A class whose processes end before they are ready."""

    def __init__(self) -> None:
        os._exit(3)

    def __call__(self, tick: tt.Tick) -> None:
        """Never called."""


class StrangeError(Exception):
    """Cannot be pickled: it takes two arguments, and keeps one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


@attrs.define
class Flaky(Teller):
    """Fails the first two times with each tick."""

    tries: Counter[int] = attrs.field(factory=Counter)

    def __call__(self, tick: tt.Tick) -> None:
        self.record("try", tick)
        self.tries[number_of(tick)] += 1
        if self.tries[number_of(tick)] < 3:
            raise ConnectionError("again")


def nothing(tick: tt.Tick) -> None:
    """Do nothing."""


def raises_strangely(tick: tt.Tick) -> None:
    """Raise what cannot leave the process."""
    raise StrangeError("odd", "end")


def exits(tick: tt.Tick) -> None:
    """Raise an exception that is no Exception."""
    raise SystemExit("enough")


@attrs.define
class Hangs(Teller):
    """Tells of a tick, and never comes back."""

    how: str

    def __call__(self, tick: tt.Tick) -> None:
        self.record(self.how, tick)
        if self.how == "sleeps":
            time.sleep(3600)
        elif self.how == "holds the interpreter":
            re.match(r"(a|aa)+$", "a" * 200 + "b")
        while True:
            pass


@attrs.define
class TellArrivals(Teller):
    """Records when each item arrived, in microseconds since 1970."""

    def __call__(self, item: tt.Tick | tt.Gap) -> None:
        self.record(str(_microseconds()), item)
        if isinstance(item, tt.Tick) and item.bid < 0:
            raise ArithmeticError(f"bid {item.bid}")


@attrs.define
class TellArrivalsAsync(Teller):
    """As :class:`TellArrivals`, in a loop; asks behind a wait."""

    async def __call__(self, item: tt.Tick) -> None:
        await trio.lowlevel.checkpoint()
        self.record(str(_microseconds()), item)
        if item.bid < 0:
            raise ArithmeticError(f"bid {item.bid}")


@attrs.define
class TellArrivalsOfBatches(Teller):
    """Records for each item of a batch when the first one arrived."""

    @tt.batch_handler(max_size=8)
    def __call__(self, ticks: Sequence[tt.Tick]) -> None:
        for item in ticks:
            self.record(str(_microseconds()), item)


def _microseconds() -> int:
    return round(tt.arrival().timestamp() * 1e6)


variable: ContextVar[str] = ContextVar("variable", default="default")
"""A context variable that the next handlers look at, and leave behind."""


@attrs.define
class LeaveVariable(Teller):
    """Records the value of a context variable, and sets it."""

    def __call__(self, tick: tt.Tick) -> None:
        self.record(variable.get(), tick)
        variable.set("left behind")


@attrs.define
class LeaveVariableAsync(Teller):
    """The same in a trio loop."""

    async def __call__(self, tick: tt.Tick) -> None:
        self.record(variable.get(), tick)
        variable.set("left behind")
        await trio.lowlevel.checkpoint()


@attrs.define
class LeaveVariableBatch(Teller):
    """The same for a batch."""

    @tt.batch_handler(max_size=4)
    def __call__(self, ticks: Sequence[tt.Tick]) -> None:
        self.record(variable.get(), ticks[0])
        variable.set("left behind")
