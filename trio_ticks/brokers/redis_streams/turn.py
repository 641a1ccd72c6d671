"""One turn of a worker: what is acknowledged, released and fetched, at once.

Plan: all commands of a turn go out together and cost one round trip. Each comes with
the function that takes its reply. A reply of -1 says that a lease is gone. New entries
are not read here: each is when it is delivered, and the workers get its ticks while the
processor has them at hand.

Rules: no I/O here, and no waiting: the source sends the commands, and delivers what is
in the queues of the shards then. A reply for a shard that was lost meanwhile is
dropped: what it brought is pending at the server.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, final

from ..acknowledging import Held
from .connection import Command
from .scripts import ACKNOWLEDGE, FETCH, PENDING, RELEASE
from .shards import Entry, Read, Shard, later, new_entry, pending_entry
from .trials import Trials
from .watching import Found
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
        read: of the ticks of an entry.
    """

    def __init__(self, worker: Worker, trials: Trials, read: Read) -> None:
        self._worker = worker
        self._trials = trials
        self._read = read
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
        quiet: frozenset[int] = frozenset(),
        found: Sequence[Found] = (),
        draining: bool,
    ) -> list[tuple[Command, Reply]]:
        """Return the commands of a turn, each with what takes its reply.

        Args:
            unfinished: identities of the ticks that have no outcome yet.
            room: for how many ticks there is room in the channel.
            fetchable: how many ticks may be fetched.
            quiet: shards that have no new tick: nothing is fetched of them, since
                each shard has its price.
            found: entries that may be delivered while they are fetched.
            draining: whether nothing more is to be fetched.
        """
        self._worker.moved = 0
        holdings = self._worker.holdings
        self._worker.moved += holdings.settle_trials(unfinished)
        steps: list[tuple[Command, Reply]] = []
        if ready := holdings.finished(holdings.blocking(unfinished)):
            steps.append(self._acknowledge(ready))
        staying, going, lost = [], [], holdings.lost
        # A turn looks at all shards, mostly for a tick or two: a call for each of them
        # would take longer than the rest.
        for shard in self._rotated():
            if draining or shard.leaving:
                if shard.unfetched:
                    # Else its next holder would handle again what was handled here.
                    going.append(shard)
                elif shard.farewell == "told":
                    steps.append(self._release(shard))
            elif shard.number not in lost:
                staying.append(shard)
        # Most turns find no shard with a queue, and there are many shards.
        queued = [shard for shard in staying if shard.queue]
        steps += self._trials.plan(queued, unfinished, room)
        if not self._trials.alone:
            if not draining and not any(shard.pending for shard in staying):
                self._queue_found(found, fetchable)
            steps += self._fetches(going + staying, max(len(going), fetchable), quiet)
        return steps

    def _rotated(self) -> list[Shard]:
        """Return all shards, beginning behind those that gave something last."""
        shards = list(self._worker.holdings.shards.values())
        if shards:
            self._first %= len(shards)
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

    def _queue_found(self, found: Sequence[Found], room: int) -> None:
        """Queue what the watch has found, as far as it is what comes next."""
        for each in found:
            shard = each.shard
            if (
                self._worker.may_fetch(shard)
                # Else something else comes before it, or it is here already.
                and not (shard.queue or shard.unfetched)
                and shard.last == each.after
            ):
                entry = new_entry(each.written)
                room -= max(1, entry.ticks)
                if room < 0:
                    return
                shard.queue.append(entry)
                shard.unfetched.add(entry.id)

    def _fetches(
        self, staying: list[Shard], room: int, quiet: frozenset[int]
    ) -> list[tuple[Command, Reply]]:
        steps: list[tuple[Command, Reply]] = []
        self.starved = room <= 0 and any(shard.is_fast for shard in staying)
        if room <= 0:
            return steps
        pending: list[Shard] = []
        fresh: list[Shard] = []
        for shard in staying:
            if shard.number in quiet and not (shard.pending or shard.unfetched):
                continue
            if not shard.queue or shard.unfetched or shard.is_fast:
                (pending if shard.pending else fresh).append(shard)
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
            steps.append((command, partial(self._take_pending, pending)))
        elif fresh:
            tokens = [part for shard in fresh for part in (shard.number, shard.token)]
            command = FETCH.call(
                [self._worker.leases, *(keys.streams[shard.number] for shard in fresh)],
                *(group, self._worker.me, room, self._size, *tokens),
            )
            steps.append((command, partial(self._take_new, fresh, room)))
        return steps

    def _take_pending(self, asked: list[Shard], found: list[list[Any]]) -> None:
        shards = {shard.number: shard for shard in asked}
        for number, waiting, *more in found:
            shard = shards[int(number)]
            if not self._worker.has(shard):
                continue
            if waiting < 0:
                self._worker.fence(shard)
                continue
            position, entries = more
            for written in entries:
                shard.last = later(shard.last, written[0])
                if not _was_here(shard, written):
                    memo = self._worker.holdings.memos.take(shard.number, written[0])
                    shard.queue.append(pending_entry(self._read, written, memo))
            self._worker.moved += 1
            if not waiting:
                shard.pending = False
                shard.last = later(shard.last, position)
                self._worker.holdings.memos.forget(shard.number)

    def _take_new(self, asked: list[Shard], room: int, found: list[list[Any]]) -> None:
        largest = 0
        shards = {shard.number: shard for shard in asked}
        for number, entries in found:
            shard = shards[int(number)]
            # It may have been lost and come back meanwhile: then this is pending.
            if not self._worker.has(shard):
                continue
            if entries == -1:
                self._worker.fence(shard)
                continue
            memos = self._worker.holdings.memos.take_unfetched(shard.number)
            for written in entries:
                entry = new_entry(written)
                if written[0] in memos:
                    entry.learn(memos[written[0]])
                if not _was_here(shard, written):
                    shard.queue.append(entry)
                largest = max(largest, entry.ticks)
                self._worker.moved += entry.ticks
                room -= max(1, entry.ticks)
            shard.last = entries[-1][0]
            # It would have been the first of these.
            shard.unfetched.clear()
        if room > 0:
            # All of them were read, so that what did not come is not there any more.
            for shard in asked:
                shard.unfetched.clear()
        self._first += len(found)
        if largest:
            # Slowly down, since the next entries may be as large as some before.
            self._size = max(largest, self._size * 7 // 8)


def _was_here(shard: Shard, written: list[Any]) -> bool:
    """Tell whether an entry that the server gives is here already; it is ours now."""
    if written[0] not in shard.unfetched:
        return False
    shard.unfetched.remove(written[0])
    return True
