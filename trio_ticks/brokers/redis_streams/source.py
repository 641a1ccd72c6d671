"""The workers' end: fetches, delivers into the channel, and acknowledges.

Four tasks: the turns (one round trip acknowledges, releases and fetches for all
shards), the beats that keep the leases, a watch on the streams that wakes the turns
when a tick comes, and one for each shard whose handler is told that it goes.

Under load a turn fetches half of what there is room for, and the half that came before
is read and delivered while the server works.

A lone tick is delivered while it is fetched: the watch has read it already. It is
acknowledged once the fetch has said that it is ours. If the answer is lost, that is
asked again, before anything else is done with its shard.

Rules: nothing is delivered of a shard that is not held at this moment. What was fetched
and not delivered is bounded by the room in the channel.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, final

import trio

from ...buffer import BufferStatistics, Outcomes, Send, Stretch
from ...uninterrupted import uninterrupted
from ..packing import Unpacker
from .clocks import ServerClock
from .connection import Command, LostError
from .holdings import Holdings, Lost
from .leases import Leases
from .link import Link
from .options import Options
from .shards import Shard
from .trials import Trials
from .turn import Planner
from .watching import Watch
from .worker import Counts, Reply, Worker

__all__ = ["RedisSource"]

_WAITS_S: Final = (0.003, 0.02)
"""The first and the longest wait between two turns that move nothing, in seconds. Where
ticks come more often, what was handled is acknowledged as the next are fetched."""
_IDLE_S: Final = 0.25
"""The wait if nothing is outstanding, in seconds: the watch wakes us."""
_FEW: Final = 64
"""After a turn that moved fewer ticks, the next one waits a little, so that each
costs its round trip for more."""
_MANY: Final = 1024
"""So many ticks make a turn large. After a smaller one the next waits a little, too.
Those of a large one are delivered while the next one is under way."""
_PACE_S: Final = 0.001
"""The least time between two fetches of few ticks, in seconds: so that ticks that come
one by one, and often, are fetched together. Also the first wait for room."""
_PART: Final = 256
"""Ticks that are read and delivered at once, about."""


@uninterrupted
@final
class RedisSource:
    """The broker's end at the workers. Made by :meth:`RedisStreams.source`."""

    def __init__(self, buffer: Options) -> None:
        self._buffer = buffer
        host = "".join(each if each.isalnum() else "-" for each in socket.gethostname())
        self._me = f"{host[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._times = ServerClock()
        self._counts = Counts()
        self._draining = False
        self._nursery: trio.Nursery
        self._starting = trio.CancelScope()
        self._failures: list[Exception] = []
        self._worker: Worker
        self._trials: Trials
        self._wake = trio.Event()
        self._watch = Watch(buffer.keys, self._wake_up)
        self._unpacker = Unpacker()
        self._holdings: Holdings | None = None
        self._leases: Leases | None = None
        self._link: Link | None = None
        self._send: Send | None = None

    async def run(self, send: Send, outcomes: Outcomes, /) -> None:
        """Fetch and deliver into *send*, and acknowledge what has an outcome.

        Returns once :meth:`drain` was called and all that was delivered is acknowledged
        or given back.

        Raises:
            BrokerError: the server refuses us.

        Cancellation: what was delivered and not acknowledged comes again, to whoever
        holds its shard next.
        """
        buffer = self._buffer

        def link(told: bool) -> Link:
            group = buffer.group
            return Link(buffer, send.clock, send.random, self._times, group=group, told=told)

        main = self._link = link(told=True)
        holdings = self._holdings = Holdings(outcomes)
        leases = self._leases = Leases(buffer, self._me, link(told=False), holdings, self._wake_up)
        leases.leaving = self._draining
        self._send = send
        worker = self._worker = Worker(buffer, self._me, holdings, self._counts)
        trials = self._trials = Trials(worker, send, self._times.server_time)
        planner = Planner(worker, trials, self._read)
        try:
            with self._starting:
                await main.connect()
            if self._starting.cancelled_caught:
                return
            async with trio.open_nursery() as self._nursery:
                self._start(leases.run)
                self._start(self._watch.run, link(told=False))
                self._start(self._turns, main, planner)
        finally:
            await main.aclose()
        if self._failures:
            # What the other tasks met at the same moment has the same cause.
            raise self._failures[0]

    def _start(self, work: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Start a task whose error ends the run, as its own: not in a group."""

        async def guarded() -> None:
            try:
                await work(*args)
            except Exception as error:
                self._failures.append(error)
                self._nursery.cancel_scope.cancel()

        self._nursery.start_soon(guarded)

    async def _turns(self, link: Link, planner: Planner) -> None:
        send, holdings, leases = self._send, self._holdings, self._leases
        assert send is not None
        assert holdings is not None
        assert leases is not None
        watch = self._watch
        first_s, longest_s = _WAITS_S
        wait_s, most, overdue, fetched_at = first_s, max(send.room, 1), False, -math.inf
        while True:
            if self._draining:
                holdings.give_back_left()
            unfinished = holdings.unfinished()
            self._say_goodbye(unfinished)
            if self._draining and not holdings.shards and not holdings.lost and leases.left:
                self._nursery.cancel_scope.cancel()
                return
            self._wake = trio.Event()
            most = max(most, send.room)
            found, quiet = watch.take_found(), watch.quiet()
            if found:
                fetched_at = trio.current_time()
            steps = planner.plan(
                unfinished,
                send.room,
                self._fetchable(most),
                quiet=frozenset() if overdue else quiet,
                # Not on if we were stopped since: another worker may have them.
                found=found if leases.are_valid else (),
                draining=self._draining,
            )
            overdue = False
            if not await self._do(link, steps):
                continue
            moved = self._worker.moved
            if moved >= _FEW:
                # Not until the watch rings, which costs a round trip of its own.
                await trio.sleep(0 if moved >= _MANY else _PACE_S)
                continue
            if moved:
                wait_s = _PACE_S if planner.starved else first_s
            else:
                wait_s = min(2 * wait_s, longest_s)
            # The watch has rung for a tick that does not come: then not at once again.
            fruitless = bool(found) and not moved
            if not fruitless:
                self._arm(planner)
            idle = not fruitless and self._is_idle()
            with trio.move_on_after(_IDLE_S if idle else wait_s) as waiting:
                await self._wake.wait()
            watch.disarm()
            # Now and then all shards are asked, whatever the watch says.
            overdue = idle and waiting.cancelled_caught
            early_s = fetched_at + _PACE_S - trio.current_time()
            if early_s > 0 and not waiting.cancelled_caught:
                await trio.sleep(early_s)

    def _fetchable(self, most: int) -> int:
        """Return how many ticks may be fetched now.

        Args:
            most: the room of the channel when it is empty.
        """
        assert self._send is not None
        assert self._holdings is not None
        fetchable = min(self._send.room - self._holdings.queued, (most + 1) // 2)
        # Nothing is fetched for a little room: each fetch has its price.
        return fetchable if fetchable >= most // 4 else 0

    def _is_idle(self) -> bool:
        """Tell whether nothing is to be done before a tick comes."""
        holdings = self._holdings
        assert holdings is not None
        return not (
            self._draining
            or holdings.outstanding.ticks
            or holdings.lost
            or any(
                shard.queue or shard.pending or shard.leaving for shard in holdings.shards.values()
            )
        )

    async def _do(self, link: Link, steps: list[tuple[Command, Reply]]) -> bool:
        """Send the commands of a turn, have their replies taken, and deliver.

        What is queued already is delivered while the server works; what comes now at
        once, unless it is much: then the next turn is sent first.

        Returns:
            Whether the server has answered.
        """
        holdings = self._holdings
        assert holdings is not None
        if steps:
            meanwhile = self._deliver if holdings.queued else None
            try:
                replies = await link.call_all([command for command, _ in steps], 0.0, meanwhile)
            except LostError:
                await self._deliver()
                await link.connect()
                for shard in holdings.shards.values():
                    # What was fetched, and whose answer was lost, is pending now.
                    shard.pending = True
                return False
            for (_, take), reply in zip(steps, replies, strict=True):
                take(reply)
            await self._deliver_trials()
        if not steps or self._worker.moved < _MANY:
            await self._deliver()
        return True

    async def _deliver_trials(self) -> None:
        """Deliver the ticks that were marked in this turn."""
        assert self._send is not None
        assert self._holdings is not None
        for shard, entry in self._trials.trying:
            if self._holdings.shards.get(shard.number) is not shard:
                continue
            part = entry.part([entry.at])
            part.delivery = 1 + entry.deaths
            entry.current = part.items[0]
            entry.tried += 1
            self._counts.received += 1
            self._counts.redelivered += 1
            await self._send.deliver(shard.number, part)

    async def _deliver(self) -> None:
        """Deliver what is queued and not suspect, ticks of several shards at a time."""
        send, holdings = self._send, self._holdings
        assert send is not None
        assert holdings is not None
        parts: list[tuple[int, Stretch]] = []
        count = 0
        for shard in list(holdings.shards.values()):
            # All of this may change while others are delivered.
            while (
                shard.queue
                and not self._trials.alone
                and holdings.shards.get(shard.number) is shard
                and not (self._draining or shard.leaving)
                and (entries := shard.fast(self._read, _PART - count))
            ):
                for entry in entries:
                    rest = entry.rest()
                    holdings.outstanding.add(shard.number, entry, rest.items)
                    if rest.items:
                        parts.append((shard.number, rest))
                        count += len(rest.items)
                if count >= _PART:
                    self._counts.received += count
                    some, parts, count = parts, [], 0
                    await send.deliver_all(some)
        if parts:
            self._counts.received += count
            await send.deliver_all(parts)

    def _read(self, body: bytes) -> Stretch:
        """Return the ticks of an entry, with their times of arrival by our clock."""
        assert self._send is not None
        difference_s = self._times.difference_s or 0.0
        return self._unpacker.unpack(body, difference_s, self._send.clock.wall())

    # Shards that go

    def _say_goodbye(self, unfinished: frozenset[int]) -> None:
        holdings = self._holdings
        assert holdings is not None
        for lost in holdings.clear(unfinished):
            self._start(self._tell_lost, lost)
        if not self._draining and not any(shard.leaving for shard in holdings.shards.values()):
            return
        blocking = holdings.blocking(unfinished)
        acknowledging = {shard.number for shard, _ in holdings.finished(blocking)}
        for shard in holdings.shards.values():
            if (
                (self._draining or shard.leaving)
                and not (shard.farewell or shard.unfetched)
                and shard.number not in acknowledging
                and not holdings.is_busy(shard, unfinished)
            ):
                shard.farewell = "begun"
                self._start(self._tell_leaving, shard)

    async def _tell_lost(self, lost: Lost) -> None:
        assert self._send is not None
        assert self._holdings is not None
        await self._send.give_up(lost.number)
        del self._holdings.lost[lost.number]
        self._wake_up()

    async def _tell_leaving(self, shard: Shard) -> None:
        assert self._send is not None
        await self._send.give_up(shard.number)
        shard.farewell = "told"
        self._wake_up()

    # Wake-ups

    def _wake_up(self) -> None:
        self._wake.set()

    def _arm(self, planner: Planner) -> None:
        """Have the watch wake us when a shard that we may fetch from has a tick."""
        holdings = self._holdings
        assert holdings is not None
        if self._draining or planner.starved or self._trials.alone:
            return
        self._watch.arm(
            [
                shard
                for shard in holdings.shards.values()
                if not shard.pending and not shard.queue and shard.number not in holdings.lost
            ]
        )

    # From outside

    def drain(self) -> None:
        """Fetch no more; have :meth:`run` end when nothing is unfinished."""
        self._draining = True
        # Before the first connection there is nothing to give up.
        self._starting.cancel()
        if self._leases is not None:
            self._leases.leave()
        self._wake_up()

    def give_back(self) -> int:
        """Withdraw what no worker has begun, and acknowledge none of it.

        A drain does it by itself once nothing is busy any more.

        Returns:
            How many ticks were withdrawn.
        """
        count = 0 if self._holdings is None else self._holdings.give_back()
        self._wake_up()
        return count

    def statistics(self) -> BufferStatistics:
        """Return the counters of this end."""
        link, leases, holdings = self._link, self._leases, self._holdings
        if link is None or leases is None or holdings is None or self._send is None:
            return BufferStatistics(maxsize=self._buffer.maxsize)
        counts = self._counts
        tried = sum(entry.tried for shard in holdings.shards.values() for entry in shard.queue)
        return BufferStatistics(
            connected=link.connected,
            reconnects=max(0, link.connections - 1),
            round_trip_s=leases.round_trip_s or link.round_trip_s,
            maxsize=self._buffer.maxsize,
            used=leases.used,
            received=counts.received,
            redelivered=counts.redelivered,
            acknowledged=counts.acknowledged,
            given_back=holdings.given_back,
            unacknowledged=holdings.outstanding.ticks + tried,
            fenced=counts.fenced,
            dead=counts.dead,
            junk=counts.junk,
            lag=leases.lag,
            lag_s=leases.lag_s,
            shards=len(holdings.shards),
            takeovers=holdings.takeovers,
            clock_difference_s=self._times.difference_s,
            clock_error_s=self._times.error_s(self._send.clock.wall()),
        )
