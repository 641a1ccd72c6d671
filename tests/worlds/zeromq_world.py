"""Small real ends for a buffer: a queue that a sink takes from, and a strategy.

Rules: nothing is mocked. The strategy queues at most ``most`` ticks, handles those of a
symbol in order, and counts each: ``received == handled + failed + given_back + queued +
in_flight``, which :meth:`Strategy.check` asserts.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import trio

import trio_ticks as tt
from trio_ticks.brokers.zeromq import ZeroMQ, ZeroMQSink, ZeroMQSource
from trio_ticks.buffer import Stretch
from trio_ticks.clock import Clock

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def tick(symbol: str, number: int) -> tt.Tick:
    return tt.Tick(symbol, NOON + timedelta(microseconds=number), 1.5, 1.6, 1.0, 2.0, float(number))


def ticks(count: int, symbols: int = 20, first: int = 0) -> list[tt.Tick]:
    """Return ticks whose volumes count them, over *symbols* symbols in turn."""
    return [tick(f"S{number % symbols:03d}", number) for number in range(first, first + count)]


class Queue:
    """What a sink uses of the ingest's channel."""

    def __init__(self, items: Iterable[Any] = (), *, ended: bool = False) -> None:
        self.clock = Clock()
        self.random = Random(1)
        self.items = deque(items)
        self.ended = ended
        self.taken = 0
        self.gaps: dict[int, tt.Gap] = {}
        """Gaps by how many items come before theirs."""
        self._news = trio.Event()

    def put(self, items: Iterable[Any]) -> None:
        self.items.extend(items)
        self._news.set()

    def end(self) -> None:
        self.ended = True
        self._news.set()

    @property
    def is_over(self) -> bool:
        return self.ended and not self.items

    async def take(self, most: int, /) -> Stretch:
        await trio.lowlevel.checkpoint()
        while not self.items:
            if self.ended:
                raise trio.EndOfChannel
            self._news = trio.Event()
            await self._news.wait()
        count = min(most, len(self.items))
        gaps = [
            (place, self.gaps[self.taken + place])
            for place in range(count)
            if self.taken + place in self.gaps
        ]
        self.taken += count
        found = [self.items.popleft() for _ in range(count)]
        return Stretch(found, [self.clock.wall()] * count, gaps)


Handler = Callable[[Any], Awaitable[object]]


async def nothing(_item: Any) -> None:
    await trio.lowlevel.checkpoint()


class Strategy:
    """What a source uses of the workers' channel, with tasks that handle the ticks."""

    def __init__(self, handler: Handler = nothing, *, most: int = 500, workers: int = 4) -> None:
        self.clock = Clock()
        self.random = Random(2)
        self.handler = handler
        self.handled: list[Any] = []
        self.failed: list[Any] = []
        self.gaps: list[tt.Gap] = []
        self.arrived: dict[int, float] = {}
        self.events: list[tuple[str, int]] = []
        """Shards that were delivered for the first time, and given up, in order."""
        self.received = 0
        self.given_back = 0
        self._held_shards: set[int] = set()
        self._most = most
        self._queues: list[deque[Any]] = [deque() for _ in range(workers)]
        self._in_flight: list[Any] = [None] * workers
        self._waiting: deque[Any] = deque()
        self._changed = trio.Event()

    # Send

    @property
    def room(self) -> int:
        return self._most - sum(map(len, self._queues))

    async def deliver(self, shard: int, stretch: Stretch, /) -> None:
        if shard not in self._held_shards:
            self._held_shards.add(shard)
            self.events.append(("gained", shard))
        self.gaps += [gap for _, gap in stretch.gaps]
        for item, arrived in zip(stretch.items, stretch.arrived, strict=True):
            self.arrived[int(item.volume)] = arrived
        self.received += len(stretch.items)
        mine = deque(stretch.items)
        self._waiting.extend(stretch.items)
        await trio.lowlevel.checkpoint_if_cancelled()
        while mine:
            while self._waiting and self.room > 0:
                item = self._waiting.popleft()
                self._queues[self._home(item)].append(item)
            self._tell()
            waiting = set(map(id, self._waiting))
            mine = deque(item for item in mine if id(item) in waiting)
            if mine:
                await self._changed.wait()
        await trio.lowlevel.checkpoint()

    async def deliver_all(self, parts: Sequence[tuple[int, Stretch]], /) -> None:
        for shard, stretch in parts:
            await self.deliver(shard, stretch)

    async def give_up(self, shard: int, /) -> None:
        self._held_shards.discard(shard)
        self.events.append(("lost", shard))
        await trio.lowlevel.checkpoint()

    def bury(self, item: Any, error: Exception, /) -> None:
        self.received += 1
        self.failed.append(item)

    # Outcomes

    def unfinished(self) -> list[Any]:
        found = list(self._waiting)
        for queue in self._queues:
            found += queue
        return found + [item for item in self._in_flight if item is not None]

    @property
    def busy(self) -> bool:
        return bool(self.unfinished())

    def withdraw(self, symbols: Collection[str]) -> int:
        before = len(self._waiting) + sum(map(len, self._queues))
        for queue in [*self._queues, self._waiting]:
            kept = [item for item in queue if item.symbol not in symbols]
            queue.clear()
            queue.extend(kept)
        count = before - len(self._waiting) - sum(map(len, self._queues))
        self.given_back += count
        self._tell()
        return count

    # Workers

    def _home(self, item: Any) -> int:
        return zlib.crc32(item.symbol.encode()) % len(self._queues)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def work(self, number: int) -> None:
        queue = self._queues[number]
        while True:
            while not queue:
                await self._changed.wait()
            item = self._in_flight[number] = queue.popleft()
            self._tell()
            await self.handler(item)
            self.handled.append(item)
            self._in_flight[number] = None

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(len(self._queues)):
                nursery.start_soon(self.work, number)

    def check(self) -> None:
        rest = len(self.unfinished())
        assert self.received == len(self.handled) + len(self.failed) + self.given_back + rest

    @property
    def numbers(self) -> list[int]:
        return [int(item.volume) for item in self.handled]


class Ingest:
    """A sink that runs, with its queue."""

    def __init__(self, sink: ZeroMQSink, queue: Queue, scope: trio.CancelScope) -> None:
        self.sink = sink
        self.queue = queue
        self.scope = scope
        self.done = trio.Event()

    @property
    def address(self) -> str:
        assert self.sink.address is not None
        return self.sink.address


class Work:
    """A source that runs, with its strategy."""

    def __init__(self, source: ZeroMQSource, strategy: Strategy, scope: trio.CancelScope) -> None:
        self.source = source
        self.strategy = strategy
        self.scope = scope
        self.done = trio.Event()

    def crash(self) -> None:
        """End at once, without a word to the ingest: the handlers stop, too."""
        self.scope.cancel()


class World:
    """Ingests and workers on loopback."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def ingest(self, buffer: ZeroMQ, queue: Queue) -> Ingest:
        ingest = Ingest(buffer.sink(), queue, trio.CancelScope())

        async def run() -> None:
            with ingest.scope:
                await ingest.sink.run(ingest.queue)
            ingest.done.set()

        self._nursery.start_soon(run)
        await until(lambda: ingest.sink.address is not None)
        return ingest

    def work(self, buffer: ZeroMQ, strategy: Strategy) -> Work:
        work = Work(buffer.source(), strategy, trio.CancelScope())

        async def run() -> None:
            with work.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(work.strategy.run)
                    await work.source.run(work.strategy, work.strategy)
                    nursery.cancel_scope.cancel()
            work.done.set()

        self._nursery.start_soon(run)
        return work


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            yield World(nursery)
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    """Return when *condition* is true; the world's limit ends a wait for ever."""
    while not condition():  # noqa: ASYNC110 -- what it waits for tells nobody
        await trio.sleep(0.005)


async def supply(queue: Queue, enough: trio.Event) -> None:
    """Have something in *queue* until *enough* is set, then end it."""
    number = 0
    while not enough.is_set():
        if len(queue.items) < 100:
            queue.put(ticks(100, first=number))
            number += 100
        with trio.move_on_after(0.005):
            await enough.wait()
    queue.end()


def in_order(numbers: Iterable[int], symbols: int = 20) -> bool:
    """Tell whether no tick came before an earlier one of its symbol ever had."""
    highest: dict[int, int] = {}
    for number in numbers:
        symbol = number % symbols
        if number > highest.get(symbol, symbol - symbols) + symbols:
            return False
        highest[symbol] = max(number, highest.get(symbol, number))
    return True


def repeats(numbers: Iterable[int]) -> int:
    return sum(count - 1 for count in Counter(numbers).values())
