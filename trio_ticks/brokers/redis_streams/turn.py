"""One turn of a worker: what is acknowledged, released and fetched, at once.

Plan: all commands of a turn go out together and cost one round trip. Each comes with
the function that takes its reply. A reply of -1 says that a lease is gone.

Rules: no I/O here, and no waiting: the source sends the commands, and delivers what is
in the queues of the shards then. A reply for a shard that was lost meanwhile is
dropped: what it brought is pending at the server.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, final

from ..acknowledging import Held
from ..packing import Unpacker
from .connection import Command
from .scripts import ACKNOWLEDGE, FETCH, PENDING, RELEASE
from .shards import Entry, Shard, later, read_entry
from .trials import Trials
from .worker import Reply, Worker

__all__ = ["Planner"]

_LOGGER: Final = logging.getLogger("trio_ticks.brokers")
_PAGE: Final = 16
"""Entries that are claimed at once of one shard, at most."""


@final
class Planner:
    """Plans the turns of one worker.

    Args:
        worker: what it holds.
        trials: what is suspect of that.
    """

    def __init__(self, worker: Worker, trials: Trials) -> None:
        self._worker = worker
        self._trials = trials
        self._unpacker = Unpacker()
        self._size = worker.buffer.pack
        self._first = 0
        self.starved = False
        """Whether there were shards to fetch from, and no room for what they have."""

    def plan(
        self,
        unfinished: frozenset[int],
        room: int,
        fetchable: int,
        *,
        rung: frozenset[int] = frozenset(),
        draining: bool,
    ) -> list[tuple[Command, Reply]]:
        """Return the commands of a turn, each with what takes its reply.

        Args:
            unfinished: identities of the ticks that have no outcome yet.
            room: for how many ticks there is room in the channel.
            fetchable: how many ticks may be fetched.
            rung: the shards that have a new tick, if the watch has just told: nothing
                is fetched of the others, since each shard has its price.
            draining: whether nothing more is to be fetched.
        """
        self._worker.moved = 0
        holdings = self._worker.holdings
        self._worker.moved += holdings.settle_trials(unfinished)
        steps: list[tuple[Command, Reply]] = []
        if ready := holdings.finished(holdings.blocking(unfinished)):
            steps.append(self._acknowledge(ready))
        staying = []
        for shard in self._rotated():
            if draining or shard.leaving:
                if shard.farewell == "told":
                    steps.append(self._release(shard))
            elif shard.number not in holdings.lost:
                staying.append(shard)
        steps += self._trials.plan(staying, unfinished, room)
        if not self._trials.alone:
            steps += self._fetches(staying, fetchable, rung)
        return steps

    def _rotated(self) -> list[Shard]:
        shards = list(self._worker.holdings.shards.values())
        if shards:
            self._first = (self._first + 1) % len(shards)
        return shards[self._first :] + shards[: self._first]

    # Acknowledge and release

    def _acknowledge(
        self, ready: Sequence[tuple[Shard, list[Held[Entry]]]]
    ) -> tuple[Command, Reply]:
        keys, group = self._worker.keys, self._worker.buffer.group
        args: list[bytes | str | int] = []
        for shard, entries in ready:
            args += [shard.number, shard.token, len(entries)]
            for held in entries:
                args += [held.position.id, held.position.ticks]

        def done(answers: list[int]) -> None:
            for (shard, entries), answer in zip(ready, answers, strict=True):
                if not self._worker.has(shard):
                    continue
                if answer < 0:
                    self._worker.fence(shard)
                    continue
                ticks = self._worker.holdings.outstanding.remove(shard.number, len(entries))
                self._worker.counts.acknowledged += ticks
                self._worker.moved += ticks

        own = [keys.state, self._worker.leases, keys.done, self._worker.progress, keys.groups]
        streams = [keys.streams[shard.number] for shard, _ in ready]
        return ACKNOWLEDGE.call([*own, *streams], group, self._worker.me, *args), done

    def _release(self, shard: Shard) -> tuple[Command, Reply]:
        left = [part for each in self._worker.holdings.left_over(shard) for part in each]

        def done(_: int) -> None:
            # -1: an earlier answer was lost, or the lease has run out; gone is gone.
            self._worker.holdings.release(shard)

        command = RELEASE.call(
            [self._worker.leases, self._worker.progress],
            self._worker.me,
            shard.number,
            shard.token,
            *left,
        )
        return command, done

    # Fetch

    def _fetches(
        self, staying: list[Shard], room: int, rung: frozenset[int]
    ) -> list[tuple[Command, Reply]]:
        steps: list[tuple[Command, Reply]] = []
        empty = [shard for shard in staying if not shard.queue]
        pending = [shard for shard in empty if shard.pending]
        fresh = [shard for shard in empty if not shard.pending]
        self.starved = bool(empty) and room <= 0
        if room <= 0:
            return steps
        keys, group = self._worker.keys, self._worker.buffer.group
        if pending:
            args = [part for shard in pending for part in (shard.number, shard.token, shard.last)]
            command = PENDING.call(
                [
                    *(self._worker.leases, self._worker.progress, keys.done),
                    *(keys.streams[shard.number] for shard in pending),
                ],
                *(group, self._worker.me, _PAGE, room, *args),
            )
            steps.append((command, self._take_pending))
        elif fresh := [shard for shard in fresh if not rung or shard.number in rung]:
            tokens = [part for shard in fresh for part in (shard.number, shard.token)]
            command = FETCH.call(
                [self._worker.leases, *(keys.streams[shard.number] for shard in fresh)],
                *(group, self._worker.me, room, self._size, *tokens),
            )
            steps.append((command, self._take_new))
        return steps

    def _shard(self, number: bytes) -> Shard | None:
        return self._worker.holdings.shards.get(int(number))

    def _take_pending(self, found: list[list[Any]]) -> None:
        for number, waiting, *more in found:
            shard = self._shard(number)
            if shard is None:
                continue
            if waiting < 0:
                self._worker.fence(shard)
                continue
            position, entries = more
            for written in entries:
                memo = self._worker.holdings.memo(shard.number, written[0])
                shard.queue.append(read_entry(self._unpacker, written, memo=memo, pending=True))
                shard.last = later(shard.last, written[0])
            self._worker.moved += 1
            if not waiting:
                shard.pending = False
                shard.last = later(shard.last, position)
                self._worker.holdings.forget_memos(shard.number)

    def _take_new(self, found: list[list[Any]]) -> None:
        largest = 0
        for number, entries in found:
            shard = self._shard(number)
            if shard is None:
                continue
            if entries == -1:
                self._worker.fence(shard)
                continue
            for written in entries:
                entry = read_entry(self._unpacker, written)
                shard.queue.append(entry)
                largest = max(largest, entry.ticks)
                self._worker.moved += entry.ticks
            shard.last = entries[-1][0]
        if largest:
            # Slowly down, since the next entries may be as large as some before.
            self._size = max(largest, self._size * 7 // 8)
