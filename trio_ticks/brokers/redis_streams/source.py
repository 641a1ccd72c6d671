"""The workers' end: fetches, delivers into the channel, and acknowledges.

Four tasks: the turns (one round trip acknowledges, releases and fetches for all
shards), the beats that keep the leases, a watch on the streams that wakes the turns
when a tick comes, and one for each shard whose handler is told that it goes.

Rules: nothing is delivered of a shard that is not held at this moment. What was fetched
and not delivered is bounded by the room in the channel.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, final

import trio

from ...buffer import BufferStatistics, Outcomes, Send, Stretch
from .clocks import ServerClock
from .connection import Command, LostError
from .holdings import Holdings, Lost
from .leases import Leases
from .link import Link
from .options import Options
from .shards import Shard, merged
from .trials import Trials
from .turn import Planner
from .worker import Counts, Reply, Worker

__all__ = ["RedisSource"]

_WAITS_S: Final = (0.001, 0.02)
"""The first and the longest wait between two turns that move nothing, in seconds."""
_IDLE_S: Final = 0.25
"""The wait if nothing is outstanding, in seconds: the watch wakes us."""
_FEW: Final = 64
"""After a turn that moved fewer ticks, the next one waits a little, so that each
costs its round trip for more."""
_MANY: Final = 1024
"""So many ticks make a turn large. After a smaller one the next waits a little, too."""
_BLOCK_MS: Final = 250


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
        self._rung: frozenset[int] = frozenset()
        self._worker: Worker
        self._trials: Trials
        self._wake = trio.Event()
        self._armed = trio.Event()
        self._watched: list[Shard] = []
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
        planner = Planner(worker, trials)
        try:
            with self._starting:
                await main.connect()
            if self._starting.cancelled_caught:
                return
            async with trio.open_nursery() as self._nursery:
                self._start(leases.run)
                self._start(self._watch, link(told=False))
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
        wait_s, longest_s = _WAITS_S
        most = max(send.room, 1)
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
            room = send.room
            fetchable = room - sum(
                len(entry.stretch.items)
                for shard in holdings.shards.values()
                for entry in shard.queue
            )
            # Nothing is fetched for a little room: each fetch has its price.
            if fetchable < most // 4:
                fetchable = 0
            rung, self._rung = self._rung, frozenset()
            steps = planner.plan(unfinished, room, fetchable, rung=rung, draining=self._draining)
            if steps and not await self._do(link, steps):
                continue
            await self._deliver()
            if self._worker.moved >= _FEW:
                wait_s = _WAITS_S[0]
                # Not until the watch rings, which costs a round trip of its own.
                await trio.sleep(0 if self._worker.moved >= _MANY else wait_s)
                continue
            wait_s = _WAITS_S[0] if self._worker.moved else min(2 * wait_s, longest_s)
            # The watch has rung for a tick that does not come: then not at once again.
            fruitless = bool(rung) and not self._worker.moved
            if not fruitless:
                self._arm(planner)
            idle = not holdings.outstanding.ticks and not holdings.lost and not fruitless
            idle = (
                idle
                and not self._draining
                and not any(
                    shard.queue or shard.pending or shard.leaving
                    for shard in holdings.shards.values()
                )
            )
            with trio.move_on_after(_IDLE_S if idle else wait_s):
                await self._wake.wait()
            self._disarm()

    async def _do(self, link: Link, steps: list[tuple[Command, Reply]]) -> bool:
        """Send the commands of a turn, and have their replies taken."""
        try:
            replies = await link.call_all([command for command, _ in steps])
        except LostError:
            await link.connect()
            if self._holdings is not None:
                for shard in self._holdings.shards.values():
                    # What was fetched, and whose answer was lost, is pending now.
                    shard.pending = True
            return False
        for (_, take), reply in zip(steps, replies, strict=True):
            take(reply)
        return True

    async def _deliver(self) -> None:
        send, holdings = self._send, self._holdings
        assert send is not None
        assert holdings is not None
        for shard, entry in self._trials.trying:
            if holdings.shards.get(shard.number) is not shard:
                continue
            part = entry.part([entry.at])
            part.delivery = 1 + entry.deaths
            entry.current = part.items[0]
            entry.tried += 1
            self._counts.received += 1
            self._counts.redelivered += 1
            await send.deliver(shard.number, self._ours(part))
        if self._trials.alone:
            return
        for shard in list(holdings.shards.values()):
            held = holdings.shards.get(shard.number) is shard
            if not held or not shard.queue or self._draining or shard.leaving:
                continue
            stretches = []
            for entry in shard.fast():
                rest = entry.rest()
                holdings.outstanding.add(shard.number, entry, rest.items)
                stretches.append(rest)
            if stretches:
                stretch = merged(stretches)
                self._counts.received += len(stretch.items)
                if stretch.items:
                    await send.deliver(shard.number, self._ours(stretch))

    def _ours(self, stretch: Stretch) -> Stretch:
        """Return *stretch* with its times of arrival by our clock."""
        difference = self._times.difference_s or 0.0
        assert self._send is not None
        now = self._send.clock.wall()
        arrived = [time + difference for time in stretch.arrived]
        if max(arrived, default=now) > now:
            arrived = [min(time, now) for time in arrived]
        return Stretch(stretch.items, arrived, stretch.gaps, stretch.origins, stretch.delivery)

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
                and not shard.farewell
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
        self._watched = [
            shard
            for shard in holdings.shards.values()
            if not shard.pending and not shard.queue and shard.number not in holdings.lost
        ]
        if self._watched:
            self._armed.set()

    def _disarm(self) -> None:
        # Never replaced while the watch may wait for it.
        if self._armed.is_set():
            self._armed = trio.Event()

    async def _watch(self, link: Link) -> None:
        """Wait for ticks that are not delivered yet, whenever the turns wait."""
        streams = self._buffer.keys.streams
        try:
            while True:
                await self._armed.wait()
                shards = self._watched
                ids = [shard.last or b"0-0" for shard in shards]
                keys = [streams[shard.number] for shard in shards]
                command: Command = ("XREAD", "COUNT", 1, "BLOCK", _BLOCK_MS, "STREAMS", *keys, *ids)
                try:
                    found = await link.call_all([command], patience_s=_BLOCK_MS / 1000)
                except LostError:
                    await link.connect()
                    continue
                if found[0]:
                    self._disarm()
                    rung = {bytes(stream) for stream, _ in found[0]}
                    self._rung = frozenset(
                        shard.number for shard, key in zip(shards, keys, strict=True) if key in rung
                    )
                    self._wake_up()
        finally:
            await link.aclose()

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
            round_trip_s=link.round_trip_s,
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
