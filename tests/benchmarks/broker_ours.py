"""The ends of our buffers, each in a process of its own: whole, or the bare link.

Whole is what a user runs: ``open_pipeline`` with its channel, pool and ledger, at its
defaults. Bare is a buffer's sink and source with nothing around them: the handler is
called for each tick that is delivered.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from random import Random
from typing import Any

import trio

import trio_ticks as tt
from trio_ticks.buffer import BufferStatistics, Stretch
from trio_ticks.clock import Clock

from . import broker_client
from .broker_child import Tally, Task, account, await_go, make_ticks, ready

__all__ = ["OURS"]

_BATCH = 512
"""Ticks that the feed brings at once, as a socket read does."""
_LOOK_S = 0.005
_QUIET_S = 1.5
"""So long after the last tick of a worker its others are done, too."""
_WHOLE_ROOM = 2000


def buffer_of(task: Task) -> Any:
    """Return the buffer of *task*."""
    if task.client == "redis-py":
        broker_client.use_redis_py()
    if task.place.startswith("kafka://"):
        buffer = tt.brokers.Kafka.from_url(task.place)
        return tt.brokers.Kafka(buffer.servers, buffer.topic, **task.options)
    return tt.brokers.from_url(task.place)


class NumberedFeed:
    """Brings the ticks of a task when the word is given, at its pace.

    At a pace ticks come one by one, and each is due at its time, whatever the one
    before it took.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._ticks = make_ticks(task.ticks, task.symbols)
        self.begun_ns = 0
        self.begun_cpu_s = 0.0
        self.times: list[tuple[int, int]] = []

    async def run(self, send: Any) -> None:
        """Bring them."""
        ready()
        await trio.to_thread.run_sync(await_go, abandon_on_cancel=True)
        self.begun_ns, self.begun_cpu_s = time.monotonic_ns(), time.process_time()
        ticks, rate = self._ticks, self._task.rate
        if not rate:
            for at in range(0, len(ticks), _BATCH):
                await send.send_many(ticks[at : at + _BATCH])
            return
        begin = trio.current_time()
        for number, tick in enumerate(ticks):
            await trio.sleep_until(begin + number / rate)
            self.times.append((number, time.monotonic_ns()))
            await send.send(tick)


def ingest(task: Task) -> None:
    """Bring ticks into a buffer, by a pipeline."""
    feed = NumberedFeed(task)

    async def main() -> None:
        async with tt.open_pipeline(
            feed, None, buffer=buffer_of(task), overflow=tt.Block()
        ) as pipeline:
            await pipeline.wait()
        pipeline.ledger.check()
        account(
            appended=pipeline.ledger.consumed,
            begun_ns=feed.begun_ns,
            cpu_s=time.process_time() - feed.begun_cpu_s,
            times=feed.times,
        )

    trio.run(main)


def _whole_share(task: Task, buffer: Any) -> int:
    shards: int = getattr(buffer, "shards", 0) or buffer.partitions
    return shards // task.workers


async def _has_ended(task: Task, tally: Tally, done: trio.Event) -> None:
    """Return when all ticks are handled; with several workers, when none comes."""
    if task.workers == 1:
        await done.wait()
        return
    count, quiet_s = 0, 0.0
    while not count or quiet_s < _QUIET_S:
        await trio.sleep(0.01)
        quiet_s = 0.0 if tally.count > count else quiet_s + 0.01
        count = tally.count


def work(task: Task) -> None:
    """Handle the ticks of a buffer, by a pipeline."""

    async def main() -> None:
        done = trio.Event()
        tally = Tally(task.ticks, timed=task.timed, sleep_us=task.sleep_us)
        tally.on_done = done.set
        handler = tally.handle_async

        async def marking(tick: tt.Tick) -> None:
            await handler(tick)
            tally.mark()

        buffer = buffer_of(task)
        async with tt.open_pipeline(
            None, marking if task.workers > 1 else handler, buffer=buffer
        ) as pipeline:
            share = _whole_share(task, buffer)
            # What a source holds has no event.
            while (seen := pipeline.metrics().buffer) is None or seen.shards != share:  # noqa: ASYNC110
                await trio.sleep(_LOOK_S)
            ready(tally)
            await _has_ended(task, tally, done)
            pipeline.shutdown()
        pipeline.ledger.check()
        account(**tally.account())

    trio.run(main)


class BareReceive:
    """What a bare sink takes from: all of the ticks, there from the beginning."""

    def __init__(self, task: Task) -> None:
        self.clock = Clock()
        self.random = Random(1)
        self.is_over = False
        self._ticks = make_ticks(task.ticks, task.symbols)
        self._at = 0
        self.begun_ns = 0
        self.begun_cpu_s = 0.0

    async def take(self, most: int, /) -> Stretch:
        """Return the next ticks."""
        if not self.begun_ns:
            ready()
            await trio.to_thread.run_sync(await_go, abandon_on_cancel=True)
            self.begun_ns, self.begun_cpu_s = time.monotonic_ns(), time.process_time()
        await trio.lowlevel.checkpoint()
        items = self._ticks[self._at : self._at + most]
        self._at += len(items)
        self.is_over = self._at == len(self._ticks)
        if not items:
            raise trio.EndOfChannel
        return Stretch(items, [self.clock.wall()] * len(items))


class BareSend:
    """What a bare source delivers to: it handles each tick at once."""

    room = _WHOLE_ROOM
    busy = False

    def __init__(self, tally: Tally) -> None:
        self.clock = Clock()
        self.random = Random(1)
        self._handle = tally.handle
        self._handled = 0

    async def deliver(self, shard: int, stretch: Stretch, /) -> None:
        """Handle what came."""
        for item in stretch.items:
            self._handle(item)
        self._handled += len(stretch.items)
        if self._handled >= _BATCH:
            self._handled = 0
            await trio.lowlevel.checkpoint()

    async def deliver_all(self, parts: Sequence[tuple[int, Stretch]], /) -> None:
        """Handle what came of several shards."""
        for shard, stretch in parts:
            await self.deliver(shard, stretch)

    async def give_up(self, shard: int, /) -> None:
        """Nothing is kept of a shard."""

    def bury(self, item: Any, error: Exception, /) -> None:
        """No tick kills anybody here."""
        raise error

    def unfinished(self) -> list[Any]:
        """All that was delivered is finished."""
        return []

    def withdraw(self, symbols: Collection[str]) -> int:
        """Nothing is queued."""
        return 0


def bare_ingest(task: Task) -> None:
    """Bring ticks into a buffer by its sink alone."""

    async def main() -> None:
        receive, sink = BareReceive(task), buffer_of(task).sink()
        await sink.run(receive)
        seen: BufferStatistics = sink.statistics()
        account(
            appended=seen.appended,
            begun_ns=receive.begun_ns,
            cpu_s=time.process_time() - receive.begun_cpu_s,
            times=[],
        )

    trio.run(main)


def bare_work(task: Task) -> None:
    """Handle the ticks of a buffer by its source alone."""

    async def main() -> None:
        buffer = buffer_of(task)
        tally, source, done = Tally(task.ticks), buffer.source(), trio.Event()
        tally.on_done = done.set
        send = BareSend(tally)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.run, send, send)
            while source.statistics().shards != _whole_share(task, buffer):  # noqa: ASYNC110
                await trio.sleep(_LOOK_S)
            ready(tally)
            await done.wait()
            source.drain()
        account(**tally.account())

    trio.run(main)


OURS = {"ingest": ingest, "work": work, "bare-ingest": bare_ingest, "bare-work": bare_work}
"""The roles of our side."""
