"""What is redelivered after a crash: tried one tick at a time; and what is junk.

Which tick is tried is noted at the server before it is delivered, and that it is
through before the next one is. A tick whose process has died while it was tried is
tried alone in its process. See :mod:`.shards` for the records.

Rules: no I/O here, and no waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, final

from ...buffer import Send, Stretch
from ...errors import KilledProcessError
from ...logs import LogLimit, log_event
from ..packing import Packer
from .connection import Command
from .scripts import BURY, MARK
from .shards import Entry, Shard
from .worker import Reply, Worker

__all__ = ["Trials"]

_LOGGER: Final = logging.getLogger("trio_ticks.brokers")
_MOST_LETTERS: Final = 10_000
"""Dead letters that are kept; the sum of all stays in the buffer's state."""


@final
class Trials:
    """The suspect entries of one worker.

    Args:
        worker: what it holds.
        send: the workers' channel.
        server_time: makes a time of arrival the server's again.
    """

    def __init__(self, worker: Worker, send: Send, server_time: Callable[[float], float]) -> None:
        self._worker = worker
        self._send = send
        self._server_time = server_time
        self._packer = Packer(worker.buffer.shards, 1)
        self._limit = LogLimit(send.clock.now)
        self._alone: Shard | None = None
        self.trying: list[tuple[Shard, Entry]] = []
        """Entries of which a tick was marked, and is to be delivered now."""

    @property
    def alone(self) -> bool:
        """Whether a tick is to be alone here, so that nothing else is delivered."""
        return self._alone is not None

    def plan(
        self, staying: list[Shard], unfinished: frozenset[int], room: int
    ) -> list[tuple[Command, Reply]]:
        """Return the commands that bury, note and begin; each with its reply's taker.

        Args:
            staying: the shards that are not given up, and have something queued.
            unfinished: identities of the ticks that have no outcome yet.
            room: for how many ticks there is room in the channel.
        """
        self.trying = []
        self._choose_alone(staying)
        steps: list[tuple[Command, Reply]] = []
        for shard in staying:
            steps += self._junk(shard)
        return steps + self._tries(staying, unfinished, room)

    def _junk(self, shard: Shard) -> list[tuple[Command, Reply]]:
        entry = shard.queue[0] if shard.queue else None
        if entry is None or entry.junk is None:
            return []
        if entry.buried:
            shard.queue.popleft()
            self._worker.holdings.outstanding.add(shard.number, entry, [], 0)
            self._worker.moved += 1
            return []
        reason = str(entry.junk)

        def done(answer: int) -> None:
            if answer < 0:
                self._worker.fence(shard)
                return
            if not self._worker.has(shard):
                return
            entry.buried = True
            self._worker.counts.junk += 1
            self._worker.moved += 1
            if count := self._limit.due("junk"):
                text = "%d entries cannot be read and are dead letters now: %s"
                log_event(_LOGGER, logging.WARNING, "broker.junk", text, count, reason, count=count)

        return [(self._bury(shard, entry, b"j", "junk", reason, entry.body, entry.ticks), done)]

    def _bury(
        self, shard: Shard, entry: Entry, record: bytes, why: str, error: str, body: bytes, n: int
    ) -> Command:
        keys = self._worker.keys
        return BURY.call(
            [self._worker.leases, self._worker.progress, keys.state, keys.dead],
            *(self._worker.me, shard.number, shard.token, entry.id, record, _MOST_LETTERS),
            *("why", why, "error", error, "group", self._worker.buffer.group),
            *("shard", shard.number, "entry", entry.id, "n", n, "t", body),
        )

    def _choose_alone(self, staying: list[Shard]) -> None:
        """Choose a shard whose next tick is to be tried alone, if there is one."""
        chosen = self._alone
        if chosen is not None and chosen in staying and self._is_alone(chosen):
            return
        self._alone = next((shard for shard in staying if self._is_alone(shard)), None)

    def _is_alone(self, shard: Shard) -> bool:
        entry = shard.trial
        if entry is None:
            return False
        deaths = self._deaths(entry, entry.at)
        if entry.current is None:
            places = entry.places()
            if not places:
                return False
            deaths = self._deaths(entry, places[0])
            return 2 <= deaths < self._most or deaths + 1 == self._most
        return deaths >= min(3, self._most)

    @property
    def _most(self) -> int:
        return self._worker.buffer.max_deliveries

    def _deaths(self, entry: Entry, place: int) -> int:
        return entry.deaths if place == entry.at else 1

    def _tries(
        self, staying: list[Shard], unfinished: frozenset[int], room: int
    ) -> list[tuple[Command, Reply]]:
        steps: list[tuple[Command, Reply]] = []
        begins: list[tuple[Shard, Entry]] = []
        notes: list[tuple[Shard, Entry]] = []
        for shard in staying:
            entry = shard.trial
            if entry is None or entry.current is not None:
                continue
            places = entry.places()
            begin = False
            if not places:
                shard.queue.popleft()
                self._worker.holdings.outstanding.add(shard.number, entry, [], entry.tried)
                self._worker.moved += 1
            elif self._deaths(entry, places[0]) >= self._most:
                steps.append(self._bury_tick(shard, entry, places[0]))
            elif self._alone is None:
                begin = len(begins) < room
            else:
                begin = shard is self._alone and not unfinished
            if begin:
                begins.append((shard, entry))
            elif entry.unnoted:
                notes.append((shard, entry))
        if begins or notes:
            steps.append(self._mark(begins, notes))
        return steps

    def _mark(
        self, begins: list[tuple[Shard, Entry]], notes: list[tuple[Shard, Entry]]
    ) -> tuple[Command, Reply]:
        """Note what is through, and what is tried next, in one step.

        A tick that is through must not be counted as tried when the process dies of
        another one.
        """
        args: list[bytes | str | int] = []
        tries = []
        for shard, entry in begins:
            place = entry.places()[0]
            deaths = self._deaths(entry, place) + 1
            tries.append((shard, entry, place, deaths))
            record = f"t{entry.done:x}|{place}|{deaths}"
            args += [shard.number, shard.token, entry.id, record]
        for shard, entry in notes:
            tries.append((shard, entry, -1, 1))
            args += [shard.number, shard.token, entry.id, f"t{entry.done:x}|-1|1"]

        def done(answers: list[int]) -> None:
            for (shard, entry, place, deaths), answer in zip(tries, answers, strict=True):
                if answer < 0:
                    self._worker.fence(shard)
                    continue
                entry.unnoted = False
                if place >= 0 and self._worker.has(shard):
                    entry.at, entry.deaths = place, deaths
                    self.trying.append((shard, entry))

        return MARK.call([self._worker.leases, self._worker.progress], self._worker.me, *args), done

    def _bury_tick(self, shard: Shard, entry: Entry, place: int) -> tuple[Command, Reply]:
        part = entry.part([place])
        item, deaths = part.items[0], self._most
        error = KilledProcessError(
            f"the process died {deaths} times when this tick was handled", deaths=deaths
        )
        written = Stretch(part.items, [self._server_time(part.arrived[0])], part.gaps)
        records, _ = self._packer.pack(written)
        body = records[0].body if records else b""
        done_after = entry.done | 1 << place

        def done(answer: int) -> None:
            if answer < 0:
                self._worker.fence(shard)
                return
            if not self._worker.has(shard):
                return
            entry.done = done_after
            entry.tried += 1
            self._worker.counts.received += 1
            self._worker.counts.redelivered += 1
            self._worker.counts.dead += 1
            self._worker.moved += 1
            self._send.bury(item, error)
            log_event(
                _LOGGER,
                logging.ERROR,
                "broker.dead",
                "the process has died %d times at a tick of %s, which is a dead letter now",
                deaths,
                item.symbol,
                symbol=item.symbol,
                deaths=deaths,
            )

        record = f"t{done_after:x}|{place}|1".encode()
        return self._bury(shard, entry, record, "deaths", str(error), body, 1), done
