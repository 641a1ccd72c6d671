"""A buffer in the memory of this process, for tests of what stands around a buffer.

It keeps the laws of a real one: order per symbol, acknowledgement of a contiguous
prefix, redelivery of what was not acknowledged, a bound.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs
import trio
import trio.lowlevel

from trio_ticks.brokers.acknowledging import Outstanding, identities
from trio_ticks.brokers.packing import Packer, Unpacker
from trio_ticks.buffer import BufferStatistics, Outcomes, Receive, Send, Sink, Source


@attrs.define
class MemoryBuffer:
    """Entries by shard; each source that begins holds all shards."""

    maxsize: int = 1000
    shards: int = 4
    prefetch: int = 64
    pack: int = 8
    away: bool = False
    """Whether the broker is away: nothing is appended, nothing fetched."""
    holds: bool = False
    """Whether nothing is fetched."""
    turn_s: float = 0.001
    """How long a source sleeps after each turn, in seconds."""
    entries: dict[int, deque[tuple[int, int, bytes]]] = attrs.field(factory=dict)
    """By shard: number, ticks, body."""
    appended: int = 0
    acknowledged: int = 0
    number: int = 0
    told: dict[str, Any] = attrs.field(factory=dict)
    """What both ends tell beside their own numbers, or in their place."""

    @property
    def used(self) -> int:
        return sum(ticks for entries in self.entries.values() for _n, ticks, _b in entries)

    def sink(self) -> Sink:
        return MemorySink(self)

    def source(self) -> Source:
        return MemorySource(self)


class MemorySink:
    """Appends what fits in, whole entries only."""

    def __init__(self, buffer: MemoryBuffer) -> None:
        self._buffer = buffer
        self._packer = Packer(buffer.shards, buffer.pack)
        self._appended = self._in_doubt = self._failed = 0

    async def run(self, receive: Receive) -> None:
        buffer = self._buffer
        while True:
            while buffer.away or buffer.used >= buffer.maxsize:  # noqa: ASYNC110
                await trio.sleep(0.01)
            try:
                stretch = await receive.take(buffer.maxsize - buffer.used)
            except trio.EndOfChannel:
                return
            records, refused = self._packer.pack(stretch)
            self._failed += len(refused)
            self._in_doubt += sum(record.ticks for record in records)
            for record in records:
                while buffer.away:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                await trio.lowlevel.checkpoint()
                buffer.number += 1
                entry = (buffer.number, record.ticks, record.body)
                buffer.entries.setdefault(record.shard, deque()).append(entry)
                buffer.appended += record.ticks
                self._appended += record.ticks
                self._in_doubt -= record.ticks

    def statistics(self) -> BufferStatistics:
        now = BufferStatistics(
            connected=not self._buffer.away,
            appended=self._appended,
            in_doubt=self._in_doubt,
            failed=self._failed,
            used=self._buffer.used,
            maxsize=self._buffer.maxsize,
        )
        return attrs.evolve(now, **self._buffer.told)


class MemorySource:
    """Fetches from all shards, in order; acknowledges once a turn."""

    def __init__(self, buffer: MemoryBuffer) -> None:
        self._buffer = buffer
        self._unpacker = Unpacker()
        self._held: Outstanding[int] = Outstanding()
        self._fetched: dict[int, int] = {}
        self._draining = False
        self._received = self._acknowledged = 0

    def drain(self) -> None:
        self._draining = True

    async def run(self, send: Send, outcomes: Outcomes) -> None:
        while True:
            busy = outcomes.busy
            unfinished = identities(outcomes.unfinished())
            for shard in range(self._buffer.shards):
                self._settle(shard, unfinished)
                if not (self._draining or self._buffer.away or self._buffer.holds):
                    await self._fetch(shard, send)
            if self._draining and not busy:
                return
            await trio.sleep(self._buffer.turn_s)

    def _settle(self, shard: int, unfinished: frozenset[int]) -> None:
        done = self._held.finished(shard, unfinished)
        entries = self._buffer.entries.get(shard, deque())
        for held in done:
            number, ticks, _body = entries.popleft()
            assert number == held.position
            self._acknowledged += ticks
            self._buffer.acknowledged += ticks
        self._held.remove(shard, len(done))

    async def _fetch(self, shard: int, send: Send) -> None:
        last = self._fetched.get(shard, 0)
        for number, ticks, body in tuple(self._buffer.entries.get(shard, ())):
            if number <= last:
                continue
            if send.room < ticks:
                return
            stretch = self._unpacker.unpack(body)
            stretch.origins = [(0, str(number), 0)]
            self._held.add(shard, number, stretch.items)
            self._fetched[shard] = number
            self._received += ticks
            await send.deliver(shard, stretch)

    def statistics(self) -> BufferStatistics:
        now = BufferStatistics(
            connected=not self._buffer.away,
            received=self._received,
            acknowledged=self._acknowledged,
            unacknowledged=self._held.ticks,
            lag=self._buffer.used,
            used=self._buffer.used,
            maxsize=self._buffer.maxsize,
            shards=self._buffer.shards,
        )
        return attrs.evolve(now, **self._buffer.told)
