"""Two channels that take the same steps in one trio run, compared after each.

Rules: every step is decided by the list of steps and by the reference's state, never by
the scheduler: trio runs the tasks of one tick in random order, so no two tasks begin in
one tick. Steps without ``settle`` are done in the same tick as the next one, before any
task that they woke has run. Results, errors, statistics and the set of waiting tasks
are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import trio
import trio.testing

from ..ticks import Tick

__all__ = ["AWAITED", "PATIENCE_S", "SYNC", "Open", "Step", "make_item", "play", "told"]

Open = Callable[[int], tuple[Any, Any]]
"""Opens a channel of a given size, and returns its sender and its receiver."""

SYNC = (
    "send_nowait",
    "receive_nowait",
    "clone sender",
    "clone receiver",
    "close sender",
    "close receiver",
    "cancel",
)
AWAITED = (
    "send",
    "receive",
    "aclose sender",
    "aclose receiver",
    "cancelled send",
    "cancelled receive",
    "cancelled aclose sender",
    "cancelled aclose receiver",
)
PATIENCE_S = 30.0
"""A channel whose tasks do not come to rest for so long is taken to spin or to hang."""

FIELDS = (
    "current_buffer_used",
    "max_buffer_size",
    "open_send_channels",
    "open_receive_channels",
    "tasks_waiting_send",
    "tasks_waiting_receive",
    "peak_buffer_used",
)
_ERRORS = (
    trio.WouldBlock,
    trio.ClosedResourceError,
    trio.BrokenResourceError,
    trio.EndOfChannel,
)


class Step(NamedTuple):
    """One thing that is done to both channels."""

    what: str
    """One of :data:`SYNC` or :data:`AWAITED`."""
    at: int = 0
    """Which handle (for ``cancel``: which waiting task), modulo how many there are."""
    settle: bool = True
    """Whether all tasks come to rest before the next step; always so after AWAITED."""
    symbol: str = "A"


def make_item(number: int, symbol: str = "A") -> Tick:
    """Return a tick that carries its *number* as its prices."""
    return Tick(
        symbol=symbol,
        timestamp=datetime(2024, 1, 1, tzinfo=UTC),
        bid=number,
        ask=number,
        bid_size=1,
        ask_size=1,
        volume=0,
    )


def told(error: Exception) -> str:
    """Return the name of the trio error that *error* is; of any other, all of it."""
    for kind in _ERRORS:
        if isinstance(error, kind):
            return kind.__name__
    return repr(error)


class Side:
    """One of the two channels, with its handles and with the tasks that use them."""

    def __init__(self, ends: tuple[Any, Any], nursery: trio.Nursery) -> None:
        self.senders = [ends[0]]
        self.receivers = [ends[1]]
        self.outcomes: dict[int, str] = {}
        """The result of each task, or "waits", by the step that began it."""
        self._scopes: dict[int, trio.CancelScope] = {}
        self._nursery = nursery

    def statistics(self) -> dict[str, Any]:
        """Return the fields of trio's statistics that this channel has."""
        found = self.senders[0].statistics()
        return {field: getattr(found, field) for field in FIELDS if hasattr(found, field)}

    @property
    def waiting(self) -> list[int]:
        """The tasks that have not ended, the first begun first."""
        return [number for number, outcome in self.outcomes.items() if outcome == "waits"]

    def act(self, step: Step, at: int, item: Tick) -> str:
        """Do a step that is not awaited; return what came of it."""
        try:
            match step.what:
                case "send_nowait":
                    return _done(self.senders[at].send_nowait(item))
                case "receive_nowait":
                    return _item(self.receivers[at].receive_nowait())
                case "clone sender":
                    self.senders.append(self.senders[at].clone())
                case "clone receiver":
                    self.receivers.append(self.receivers[at].clone())
                case "close sender":
                    self.senders[at].close()
                case "close receiver":
                    self.receivers[at].close()
                case "cancel":
                    self._scopes[at].cancel()
        except Exception as error:
            return told(error)
        return "done"

    async def act_and_wait(self, step: Step, at: int, item: Tick, number: int) -> str:
        """Do a step that is awaited; return its result, or "begun" for a task."""
        scope = trio.CancelScope()
        if step.what in ("send", "receive"):
            self.outcomes[number] = "waits"
            self._scopes[number] = scope
            self._nursery.start_soon(self._task, step, at, item, number)
            return "begun"
        if step.what.startswith("cancelled"):
            scope.cancel()
        what = step.what.removeprefix("cancelled ")
        with trio.move_on_after(PATIENCE_S) as patience, scope:
            return await self._await(what, at, item)
        return "hangs" if patience.cancelled_caught else "cancelled"

    async def _task(self, step: Step, at: int, item: Tick, number: int) -> None:
        with self._scopes[number] as scope:
            self.outcomes[number] = await self._await(step.what, at, item)
        if scope.cancelled_caught:
            self.outcomes[number] = "cancelled"

    async def _await(self, what: str, at: int, item: Tick) -> str:
        try:
            match what:
                case "send":
                    return _done(await self.senders[at].send(item))
                case "receive":
                    return _item(await self.receivers[at].receive())
                case "aclose sender":
                    return _done(await self.senders[at].aclose())
                case _:
                    return _done(await self.receivers[at].aclose())
        except Exception as error:
            return told(error)


def _item(value: Any) -> str:
    return f"#{value.bid:.0f}" if isinstance(value, Tick) else repr(value)


def _done(value: Any) -> str:
    return "done" if value is None else f"returned {value!r}"


class _Lockstep:
    """The reference and the channel under test, and what they have been through."""

    def __init__(self, open: Open, maxsize: int, nursery: trio.Nursery) -> None:
        self.reference = Side(trio.open_memory_channel[Tick](maxsize), nursery)
        self.channel = Side(open(maxsize), nursery)
        self.lines: list[str] = []
        self._closed: set[str] = set()

    async def take(self, step: Step) -> str | None:
        """Take one step on both sides; return what differs."""
        at = self._resolve(step)
        if at is None:
            return None
        number = len(self.lines) + 1
        item = make_item(number, step.symbol)
        awaited = step.what in AWAITED
        if "close" in step.what:
            self._closed.add(f"{step.what.split()[-1]} {at}")
        self.lines.append(self._line(step, at, number, settle=step.settle or awaited))
        if awaited:
            # Waiting takes a tick of the scheduler. The reference goes last, and
            # nothing changes for it in that tick.
            mine = await self.channel.act_and_wait(step, at, item, number)
            theirs = await self.reference.act_and_wait(step, at, item, number)
        else:
            mine = self.channel.act(step, at, item)
            theirs = self.reference.act(step, at, item)
        if mine != theirs:
            return f"the result of the step is {mine}, trio's is {theirs}"
        if step.settle or awaited:
            with trio.move_on_after(PATIENCE_S) as patience:
                await trio.testing.wait_all_tasks_blocked()
            if patience.cancelled_caught:
                return f"its tasks do not come to rest in {PATIENCE_S:.0f} s"
            if difference := self._outcomes():
                return difference
        return self._statistics()

    def _resolve(self, step: Step) -> int | None:
        if step.what == "cancel":
            waiting = self.reference.waiting
            return waiting[step.at % len(waiting)] if waiting else None
        receives = step.what.endswith(("receiver", "receive", "receive_nowait"))
        return step.at % len(self.reference.receivers if receives else self.reference.senders)

    def _line(self, step: Step, at: int, number: int, *, settle: bool) -> str:
        if step.what == "cancel":
            text = f"cancel the task of step {at}"
        elif "clone" in step.what or "close" in step.what:
            text = f"{step.what} {at}"
        elif "receive" in step.what:
            text = f"{step.what} by receiver {at}"
        else:
            text = f"{step.what} #{number} ({step.symbol}) by sender {at}"
        return text + ("" if settle else ", and in the same tick:")

    def _outcomes(self) -> str | None:
        for number, theirs in self.reference.outcomes.items():
            mine = self.channel.outcomes[number]
            if mine != theirs:
                return f"the task of step {number}: {mine}, trio's: {theirs}"
        return None

    def _statistics(self) -> str | None:
        try:
            mine = self.channel.statistics()
        except Exception as error:
            return f"statistics() raises {error!r}"
        for field, value in self.reference.statistics().items():
            if mine.get(field, "missing") != value:
                return f"statistics().{field} is {mine.get(field, 'missing')}, trio's is {value}"
        return None

    def ending(self) -> list[Step]:
        """Return the steps that receive what is left, and close what is open."""
        reference = self.reference
        left = reference.statistics()["current_buffer_used"] + len(reference.waiting)
        senders = [at for at in range(len(reference.senders)) if self._is_open(f"sender {at}")]
        receivers = [
            at for at in range(len(reference.receivers)) if self._is_open(f"receiver {at}")
        ]
        return [
            *(Step("close sender", at) for at in senders),
            *(Step("receive_nowait", at) for at in receivers[:1] for _ in range(left + 1)),
            *(Step("close receiver", at) for at in receivers),
        ]

    def _is_open(self, handle: str) -> bool:
        return handle not in self._closed


async def play(open: Open, maxsize: int, steps: Sequence[Step]) -> str | None:
    """Take *steps* with a channel and with trio's; then receive the rest and close all.

    Returns:
        What differs and the steps that led to it, or ``None``.

    Cancellation: all tasks end; the channels are left as they are.
    """
    async with trio.open_nursery() as nursery:
        lockstep = _Lockstep(open, maxsize, nursery)
        difference = lockstep._statistics()
        for step in steps:
            difference = difference or await lockstep.take(step)
        for step in lockstep.ending():
            difference = difference or await lockstep.take(step)
        nursery.cancel_scope.cancel()
    if difference is None:
        return None
    lines = [f"  {number}. {line}" for number, line in enumerate(lockstep.lines, 1)]
    return "\n".join([f"maxsize={maxsize}; steps:", *lines, f"then {difference}"])
