"""What stands around a Redis buffer in tests: producers, workers, a proxy, a book.

The workers are a small pool: ticks of one symbol one at a time and in order, symbols in
parallel. The book sees every handling, of all workers, and counts by tick.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import attrs
import trio

import trio_ticks as tt
from trio_ticks.brokers.redis_streams import RedisStreams
from trio_ticks.brokers.redis_streams.connection import Connection
from trio_ticks.brokers.redis_streams.sink import RedisSink
from trio_ticks.brokers.redis_streams.source import RedisSource
from trio_ticks.buffer import Stretch
from trio_ticks.clock import Clock
from trio_ticks.gaps import Gap

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def tick(symbol: str, number: int) -> tt.Tick:
    return tt.Tick(symbol, NOON + timedelta(microseconds=number), 1.5, 1.6, 1.0, 2.0, float(number))


def ticks(count: int, symbols: int = 40, seed: int = 1, prefix: str = "S") -> list[tt.Tick]:
    """Return *count* ticks; each symbol's are numbered from 1 in their volume."""
    chance, numbers, made = random.Random(seed), Counter[str](), []
    for _ in range(count):
        symbol = f"{prefix}{chance.randrange(symbols)}"
        numbers[symbol] += 1
        made.append(tick(symbol, numbers[symbol]))
    return made


class Ingest:
    """What a sink takes from: ticks, all there or coming one after another."""

    def __init__(
        self, items: Collection[Any] = (), *, ends: bool = True, batch: int = 2048
    ) -> None:
        self.clock = Clock()
        self.random = random.Random(7)
        self.items = deque(items)
        self.gaps: dict[int, Gap] = {}
        """Gaps before items, by the identity of those."""
        self.taken = 0
        self.produced = len(self.items)
        self._ends = ends
        self._batch = batch
        self._more = trio.Event()

    def put(self, items: Collection[Any]) -> None:
        self.items.extend(items)
        self.produced += len(items)
        self._more.set()

    def end(self) -> None:
        self._ends = True
        self._more.set()

    @property
    def is_over(self) -> bool:
        return self._ends and not self.items

    async def take(self, most: int, /) -> Stretch:
        await trio.lowlevel.checkpoint()
        while not self.items:
            if self._ends:
                raise trio.EndOfChannel
            self._more = trio.Event()
            await self._more.wait()
        stretch = Stretch()
        now = self.clock.wall()
        while self.items and len(stretch.items) < min(most, self._batch):
            item = self.items.popleft()
            if id(item) in self.gaps:
                stretch.gaps.append((len(stretch.items), self.gaps.pop(id(item))))
            stretch.items.append(item)
            stretch.arrived.append(now)
        self.taken += len(stretch.items)
        return stretch

    def check(self, sink: RedisSink) -> None:
        """The ingest's law."""
        seen = sink.statistics()
        queued = len(self.items)
        assert self.produced == seen.appended + seen.failed + queued + seen.in_doubt


@attrs.define
class Book:
    """Every handling, in its order, by symbol."""

    lines: dict[str, list[int]] = attrs.Factory(dict)
    gaps: list[Gap] = attrs.Factory(list)
    ages: list[float] = attrs.Factory(list)

    def write(self, item: Any) -> None:
        self.lines.setdefault(item.symbol, []).append(int(item.volume))

    @property
    def handled(self) -> int:
        return sum(map(len, self.lines.values()))

    @property
    def distinct(self) -> int:
        return sum(len(set(line)) for line in self.lines.values())

    @property
    def repeats(self) -> int:
        return self.handled - self.distinct

    def check(
        self, sent: Collection[tt.Tick], *, without: Collection[tuple[str, int]] = ()
    ) -> None:
        """Each tick was handled, and none before an earlier one of its symbol was."""
        missing = {(each.symbol, int(each.volume)) for each in sent} - set(without)
        for symbol, line in self.lines.items():
            highest = 0
            for number in line:
                skipped = [
                    between
                    for between in range(highest + 1, number)
                    if (symbol, between) not in without
                ]
                assert not skipped, f"{symbol}: {number} was handled before {skipped}"
                highest = max(highest, number)
            missing -= {(symbol, number) for number in line}
        assert not missing, f"{len(missing)} ticks were never handled: {sorted(missing)[:5]}"

    def most_back(self) -> int:
        """Return how often the symbol went back that did so most often."""
        return max(
            (
                sum(later <= before for before, later in pairwise(line))
                for line in self.lines.values()
            ),
            default=0,
        )


class Workers:
    """A channel of *room* ticks and workers behind it; it counts as a pipeline does."""

    def __init__(
        self,
        book: Book,
        handler: Callable[[Any], Awaitable[object]] | None = None,
        *,
        workers: int = 4,
        room: int = 500,
    ) -> None:
        self.clock = Clock()
        self.random = random.Random(8)
        self.book = book
        self.capacity = room
        self.queue: deque[Any] = deque()
        self.handling: dict[str, Any] = {}
        self.received = self.handled = self.failed = self.given_back = 0
        self.buried: list[Any] = []
        self.given_up: list[int] = []
        self.largest = 0
        self._handler = handler
        self._workers = workers
        self._changed = trio.Event()
        self._waiting: deque[Any] = deque()

    # Send

    @property
    def room(self) -> int:
        return self.capacity - len(self.queue) - len(self._waiting)

    async def deliver(self, shard: int, stretch: Stretch, /) -> None:
        await self.deliver_all([(shard, stretch)])

    async def deliver_all(self, parts: Sequence[tuple[int, Stretch]], /) -> None:
        now = self.clock.wall()
        # All of it is unfinished from here on, and can be withdrawn.
        for _shard, stretch in parts:
            gaps = dict(stretch.gaps)
            for place, item in enumerate(stretch.items):
                assert gaps.get(place) is None or gaps[place].symbol == item.symbol
            self.book.gaps += gaps.values()
            self.book.ages += [now - arrived for arrived in stretch.arrived]
            self.received += len(stretch.items)
            self._waiting.extend(stretch.items)
        while True:
            while self._waiting and len(self.queue) < self.capacity:
                self.queue.append(self._waiting.popleft())
            self._notify()
            self.largest = max(self.largest, len(self.queue))
            if not self._waiting:
                break
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    async def give_up(self, shard: int, /) -> None:
        await trio.lowlevel.checkpoint()
        self.given_up.append(shard)

    def bury(self, item: Any, error: Exception, /) -> None:
        self.received += 1
        self.failed += 1
        self.buried.append(item)

    # Outcomes

    def unfinished(self) -> list[Any]:
        return [*self.queue, *self._waiting, *self.handling.values()]

    @property
    def busy(self) -> bool:
        return bool(self.queue or self._waiting or self.handling)

    def withdraw(self, symbols: Collection[str]) -> int:
        before = len(self.queue) + len(self._waiting)
        self.queue = deque(item for item in self.queue if item.symbol not in symbols)
        self._waiting = deque(item for item in self._waiting if item.symbol not in symbols)
        count = before - len(self.queue) - len(self._waiting)
        self.given_back += count
        self._notify()
        return count

    # Workers

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _work(self) -> None:
        while True:
            item = next((each for each in self.queue if each.symbol not in self.handling), None)
            if item is None:
                await self._changed.wait()
                continue
            self.queue.remove(item)
            self.handling[item.symbol] = item
            self._notify()
            if self._handler is not None:
                await self._handler(item)
            else:
                await trio.lowlevel.checkpoint()
            self.book.write(item)
            del self.handling[item.symbol]
            self.handled += 1
            self._notify()

    async def run(self, source: RedisSource) -> None:
        """Run workers for *source*, until that has ended."""
        async with trio.open_nursery() as nursery:
            for _ in range(self._workers):
                nursery.start_soon(self._work)
            await source.run(self, self)
            nursery.cancel_scope.cancel()

    def check(self, source: RedisSource) -> None:
        """The worker's law."""
        seen = source.statistics()
        held = len(self.queue) + len(self._waiting) + len(self.handling)
        assert self.received == self.handled + self.failed + self.given_back + held
        assert seen.received == self.received
        assert seen.given_back == self.given_back


async def fill(buffer: RedisStreams, items: Collection[Any]) -> RedisSink:
    """Append *items*, all at once."""
    ingest, sink = Ingest(items), buffer.sink()
    await sink.run(ingest)
    ingest.check(sink)
    assert sink.statistics().in_doubt == 0
    return sink


async def until(condition: Callable[[], bool], seconds: float = 20, every_s: float = 0.003) -> None:
    """Wait until *condition* holds."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # conditions at servers have no event
            await trio.sleep(every_s)


async def until_distinct(book: Book, count: int) -> None:
    """Wait until *book* has *count* distinct ticks."""
    await until(lambda: book.distinct >= count)


async def until_held(source: RedisSource) -> None:
    """Wait until *source* holds a shard."""
    await until(lambda: source.statistics().shards > 0)


async def until_no_lag(source: RedisSource) -> None:
    """Wait until the group of *source* has acknowledged all."""
    await until(lambda: source.statistics().lag == 0)


async def drain(
    buffer: RedisStreams, book: Book, count: int, *, empty: bool = False, **settings: Any
) -> RedisSource:
    """Handle until the book has *count* distinct ticks, and leave in good order.

    With *empty*, not before all is acknowledged that is in the buffer.
    """
    workers, source = Workers(book, **settings), buffer.source()
    with trio.fail_after(25):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, source)
            await until(lambda: book.distinct >= count and source.statistics().takeovers > 0)
            if empty:
                await until_no_lag(source)
            source.drain()
    workers.check(source)
    return source


@attrs.define
class Sums:
    """The buffer's own counts."""

    came: int
    out: int
    kept: int
    """Ticks in the streams, by their entries."""
    entries: int

    def check(self) -> None:
        """The broker's law."""
        assert self.came - self.out == self.kept, self


async def sums(buffer: RedisStreams) -> Sums:
    """Count what is at the server."""
    address = buffer.target.addresses[0]
    connection = Connection(await trio.open_tcp_stream(*address), 5)
    try:
        if buffer.target.password:
            await connection.call("AUTH", buffer.target.password)
        came, out = await connection.call("HMGET", buffer.keys.state, "in", "out")
        kept = entries = 0
        for key in buffer.keys.streams:
            for _, fields in await connection.call("XRANGE", key, "-", "+"):
                entries += 1
                kept += int(fields[1]) if fields[0] == b"n" else 0
    finally:
        await connection.aclose()
    return Sums(int(came or 0), int(out or 0), kept, entries)


class Proxy:
    """Stands between a client and a server, and can lose what the server answers."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self.lose_every = 0
        """Cut instead of passing on every so manieth answer; 0: never."""
        self.cut_every = 0
        """Cut all connections after so many pieces that passed either way; 0: never."""
        self.cuts = 0
        self._pieces = 0
        self.passing = trio.Event()
        """Replace it by one that is not set, and nothing passes until that is set."""
        self.passing.set()
        self._answers = 0
        self._scopes: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Cut all connections."""
        for scope in list(self._scopes):
            self.cuts += 1
            scope.cancel()

    async def serve(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._to)
        except OSError:
            await trio.aclose_forcefully(client)
            return
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass, client, server, scope, False)
                    nursery.start_soon(self._pass, server, client, scope, True)
            finally:
                self._scopes.discard(scope)
                try:
                    await trio.aclose_forcefully(client)
                finally:
                    await trio.aclose_forcefully(server)

    async def _pass(
        self, one: trio.SocketStream, other: trio.SocketStream, scope: trio.CancelScope, back: bool
    ) -> None:
        try:
            async for data in one:
                if back and self.lose_every:
                    self._answers += 1
                    if self._answers % self.lose_every == 0:
                        self.cuts += 1
                        break
                await self.passing.wait()
                await other.send_all(data)
                self._pieces += 1
                if self.cut_every and self._pieces % self.cut_every == 0:
                    self.cut()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


async def listening(
    nursery: trio.Nursery, serve: Callable[[trio.SocketStream], Awaitable[object]]
) -> int:
    """Have *serve* answer connections; return the port."""
    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    return int(listeners[0].socket.getsockname()[1])


@asynccontextmanager
async def proxied(port: int) -> AsyncIterator[Proxy]:
    """Run a proxy to *port* for the time of the block."""
    proxy = Proxy(port)
    async with trio.open_nursery() as nursery:
        proxy.port = await listening(nursery, proxy.serve)
        yield proxy
        nursery.cancel_scope.cancel()
