"""Random schedules on a channel, in virtual time, and the checks made during them.

For ``test_channel_laws.py``. A schedule is plain data, so that hypothesis can shrink
it; :func:`play` runs it. The watch checks after every single step of every task,
through a trio instrument, so that it sees whatever is wrong at any checkpoint. It reads
only public attributes. All randomness is in the schedule, or in trio's scheduler, which
hypothesis seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Generic, TypeVar

import attrs
import trio
import trio.testing

from tests.worlds.helpers import EPOCH, make_tick, make_trade
from trio_ticks.channel.ends import TickReceiveChannel, TickSendChannel, open_tick_channel
from trio_ticks.errors import LedgerError, QueueFullError
from trio_ticks.overflow import Conflate, DropNewest, Policy
from trio_ticks.ticks import Tick, Trade

__all__ = ["Item", "Op", "Outcome", "Party", "Schedule", "play"]

_TOO_LONG_S = 1000.0
_EPSILON_S = 1e-6
_NAMES = 1_000_000
Item = Tick | Trade
Handle = TypeVar("Handle", TickSendChannel[Item], TickReceiveChannel[Item])


@attrs.frozen
class Op:
    """A sleep, then a call under a deadline (``inf``: none)."""

    sleep_s: float
    count: int | None
    """How many ticks to send; how many to receive at most (``None``: all)."""
    single: bool = False
    """Call ``send`` or ``receive`` instead of ``send_many`` or ``receive_many``."""
    cancel_after_s: float = math.inf


@attrs.frozen
class Party:
    """A task with a handle of its own."""

    ops: tuple[Op, ...]
    reclones: bool = False
    """After each op, go on with a clone of the handle and close it."""
    closed_after_s: float = math.inf
    """When another task closes the handle, whatever its owner is doing."""
    symbols: tuple[str, ...] = ("A",)
    """What a sender sends, in turn."""
    trades: bool = False
    """Whether every third of them is a trade."""
    drains: bool = False
    """Whether a receiver goes on to the end after its ops."""


@attrs.frozen
class Schedule:
    maxsize: int
    overflow: Policy
    max_age: float | None
    senders: tuple[Party, ...]
    receivers: tuple[Party, ...]
    check_every_s: float = 0.25


@attrs.define
class Outcome:
    """What the watch saw from outside."""

    handed: list[int] = attrs.Factory(list)
    """Numbers of all ticks given to a send, except those a closed handle refused."""
    delivered: list[Item] = attrs.Factory(list)
    """In the order in which the tasks that received them ran."""
    lines: list[list[Item]] = attrs.Factory(list)
    """The same by receiver: trio shuffles the tasks, but not what each one gets."""
    dropped: dict[str, int] = attrs.Factory(dict)
    peak: int = 0
    blocked_s: float = 0.0
    """As the channel says."""
    waited_s: float = 0.0
    """How long at least one task was in a send, as the watch measured it."""
    failures: int = 0
    """How many sends raised QueueFullError."""
    wrongs: list[str] = attrs.Factory(list)
    """The faults that the watch saw."""

    def wrong(self, what: str) -> None:
        self.wrongs.append(what)


class _Slot(Generic[Handle]):
    """A task's handle, and whether it was closed."""

    def __init__(self, handle: Handle) -> None:
        self.handle: Handle = handle
        self.closed = False

    def close(self) -> None:
        self.handle.close()
        self.closed = True

    def reclone(self) -> None:
        if not self.closed:
            old: Handle = self.handle
            self.handle = old.clone()
            old.close()


class _Watch(trio.abc.Instrument):
    """Checks after every step of every task.

    It records what is wrong: trio only logs what an instrument raises.
    """

    def __init__(self, schedule: Schedule, receive: TickReceiveChannel[Item]) -> None:
        self.outcome = Outcome()
        self.receive = receive
        self.sending = self.receiving = 0
        self.offered = self.settled = 0
        self._maxsize = schedule.maxsize
        overflow = schedule.overflow
        self._timeout = overflow.timeout if isinstance(overflow, DropNewest) else None
        self._cap: int | None = getattr(overflow, "max_per_symbol", None)
        self._conflates = isinstance(overflow, Conflate)
        self._looked_at = self._episode_s = 0.0
        self._somebody_sent = False
        self._overflow = self._queued = self._taken = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        ledger, queued, outcome = self.receive.ledger, len(self.receive), self.outcome
        try:
            ledger.check()
        except LedgerError as error:
            outcome.wrong(f"law: {error}")
        waiting = self.receive.statistics().waiting_for_room
        if queued > self._maxsize or queued + waiting != ledger.queued:
            outcome.wrong(f"bound: {queued} by len, {waiting} wait, {ledger.queued} measured")
        # A task that receives owns its ticks from the moment they are handed over,
        # which is before it runs.
        under_way = ledger.delivered - len(outcome.delivered)
        if not 0 <= under_way <= self.receiving * self._maxsize:
            outcome.wrong(
                f"delivery: {ledger.delivered} counted, {len(outcome.delivered)} received"
            )
        if self._cap is not None or self._conflates:
            self._watch_lines(self._cap)
        if not self.settled <= ledger.produced <= self.offered:
            outcome.wrong(
                f"production: {ledger.produced} counted, {self.settled} settled, "
                f"{self.offered} offered"
            )
        self._watch_patience(queued, ledger.in_channel.overflow)

    def _watch_lines(self, cap: int | None) -> None:
        lines: dict[str, list[bool]] = defaultdict(list)
        for item in self.receive.state.buffer:
            lines[item.symbol].append(isinstance(item, Trade))
        for symbol, kinds in lines.items():
            if cap is not None and len(kinds) > cap:
                self.outcome.wrong(f"cap: {len(kinds)} of {symbol}")
            if self._conflates and any(a == b for a, b in pairwise(kinds)):
                self.outcome.wrong(f"conflation: two of a kind wait for {symbol}")

    def _watch_patience(self, queued: int, overflow: int) -> None:
        """Check that a sender waits for as long as the strategy says, and no longer.

        Virtual time passes only while all tasks are blocked. So if time has passed
        while a task was in a send, that task waited for room.
        """
        now = trio.current_time()
        if self._somebody_sent:
            self._episode_s += now - self._looked_at
            self.outcome.waited_s += now - self._looked_at
        self._looked_at, self._somebody_sent = now, self.sending > 0
        if self._timeout is not None:
            if self._episode_s > self._timeout + _EPSILON_S:
                self.outcome.wrong(f"patience: waited {self._episode_s} s of {self._timeout} s")
            # (A cap drops at once.)
            if (
                overflow > self._overflow
                and self._cap is None
                and self._episode_s < self._timeout - _EPSILON_S
            ):
                self.outcome.wrong(
                    f"patience: gave up after {self._episode_s} s of {self._timeout} s"
                )
        self._overflow = overflow
        # What was taken made room that what waits for it has filled in the same step.
        ledger = self.receive.ledger
        taken = ledger.delivered + ledger.in_channel.stale
        if min(queued, self._queued - (taken - self._taken)) <= self._maxsize // 2:
            self._episode_s = 0.0
        self._queued, self._taken = queued, taken

    async def check_when_idle(self, every_s: float) -> None:
        """Check, when every task is blocked, that none waits for what is there."""
        while True:
            await trio.testing.wait_all_tasks_blocked()
            queued = len(self.receive)
            if self.receiving and queued:
                self.outcome.wrong(
                    f"lost wake-up: {self.receiving} wait to receive, {queued} queued"
                )
            if self.sending and queued < self._maxsize:
                self.outcome.wrong(
                    f"lost wake-up: {self.sending} wait to send, {queued} of {self._maxsize} queued"
                )
            await trio.sleep(every_s)

    @contextmanager
    def send(self, numbers: list[int], *, closed: bool) -> Iterator[None]:
        """Check one call that sends *numbers* on a handle that is *closed* or not."""
        if not closed:
            self.offered += len(numbers)
            self.outcome.handed += numbers
        self.sending += 1
        try:
            yield
        except trio.ClosedResourceError:
            pass
        except QueueFullError:
            self.outcome.failures += 1
        finally:
            self.sending -= 1
            if not closed:
                self.settled += len(numbers)


def _make(party: Party, n: int) -> Item:
    symbol = party.symbols[n % len(party.symbols)]
    return make_trade(symbol, n) if party.trades and n % 3 == 0 else make_tick(symbol, n, now=EPOCH)


async def _play_sender(
    watch: _Watch, name: int, party: Party, slot: _Slot[TickSendChannel[Item]]
) -> None:
    made = 0
    for op in party.ops:
        await trio.sleep(op.sleep_s)
        count = 1 if op.single else op.count or 0
        numbers = range(name * _NAMES + made, name * _NAMES + made + count)
        batch = [_make(party, n) for n in numbers]
        made += count
        try:
            with (
                watch.send(list(numbers), closed=(closed := slot.closed)),
                trio.move_on_after(op.cancel_after_s),
            ):
                await (slot.handle.send(batch[0]) if op.single else slot.handle.send_many(batch))
                if closed:
                    watch.outcome.wrong("closing: a closed handle let a send pass")
        except trio.BrokenResourceError:
            break
        if party.reclones:
            slot.reclone()
    slot.close()


async def _play_receiver(
    watch: _Watch, party: Party, slot: _Slot[TickReceiveChannel[Item]]
) -> None:
    outcome = watch.outcome
    line: list[Item] = []
    outcome.lines.append(line)

    def take(items: list[Item]) -> None:
        outcome.delivered.extend(items)
        line.extend(items)

    try:
        for op in party.ops:
            await trio.sleep(op.sleep_s)
            watch.receiving += 1
            try:
                with trio.move_on_after(op.cancel_after_s):
                    if op.single:
                        take([await slot.handle.receive()])
                        continue
                    batch = await slot.handle.receive_many(op.count)
                    take(batch)
                    if not 1 <= len(batch) <= (op.count or math.inf):
                        outcome.wrong(f"batch: {len(batch)} ticks, asked for {op.count}")
            finally:
                watch.receiving -= 1
                if party.reclones:
                    slot.reclone()
        watch.receiving += 1
        try:
            if party.drains:
                async for tick in slot.handle:
                    take([tick])
                outcome.wrongs += ["end: ticks were left"] if len(slot.handle) else []
        finally:
            watch.receiving -= 1
    except trio.EndOfChannel:
        outcome.wrongs += ["end: ticks were left"] if len(slot.handle) else []
    except trio.ClosedResourceError:
        outcome.wrongs += [] if slot.closed else ["closing: an open handle refused to receive"]
    slot.close()


async def _close_later(
    slot: _Slot[TickSendChannel[Item]] | _Slot[TickReceiveChannel[Item]], delay_s: float
) -> None:
    if math.isfinite(delay_s):
        await trio.sleep(delay_s)
        slot.close()


async def _play(schedule: Schedule) -> Outcome:
    send: TickSendChannel[Item]
    send, receive = open_tick_channel(schedule.maxsize, schedule.overflow, schedule.max_age)
    watch = _Watch(schedule, receive)
    trio.lowlevel.add_instrument(watch)
    with trio.fail_after(_TOO_LONG_S):
        async with trio.open_nursery() as outer:
            outer.start_soon(watch.check_when_idle, schedule.check_every_s)
            async with trio.open_nursery() as nursery:
                for name, party in enumerate(schedule.senders):
                    sender = _Slot(send.clone())
                    nursery.start_soon(_play_sender, watch, name, party, sender)
                    nursery.start_soon(_close_later, sender, party.closed_after_s)
                for party in schedule.receivers:
                    receiver = _Slot(receive.clone())
                    nursery.start_soon(_play_receiver, watch, party, receiver)
                    nursery.start_soon(_close_later, receiver, party.closed_after_s)
                send.close()
                receive.close()
            outer.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(watch)
    outcome = watch.outcome
    receive.ledger.check()
    outcome.dropped = receive.ledger.dropped_by_reason
    outcome.peak, outcome.blocked_s = receive.state.peak, receive.statistics().blocked_s
    return outcome


def play(schedule: Schedule) -> Outcome:
    """Run *schedule* on a virtual clock, which jumps whenever all tasks are blocked.

    A deadlock ends as ``trio.TooSlowError``.
    """
    return trio.run(_play, schedule, clock=trio.testing.MockClock(autojump_threshold=0))
