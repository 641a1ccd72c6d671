"""When the tick in hand arrived: wherever a handler runs, and whenever it asks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.arrival_world import TimedFeed
from tests.worlds.helpers import make_tick
from tests.worlds.memory_buffer import MemoryBuffer
from trio_ticks.channel.fifo import FifoBuffer
from trio_ticks.channel.keyed import KeyedBuffer
from trio_ticks.feeds.base import clock_of

STRATEGIES: dict[str, Any] = {
    "oldest": tt.DropOldest(),
    "longest": tt.DropOldest(longest_line=True),
    "newest": tt.DropNewest(timeout=0.01),
    "conflate": tt.Conflate(),
}


@pytest.mark.parametrize("ordering", ["symbol", "none"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(2))
async def test_in_the_loop_before_and_after_others_had_their_turn(
    autojump_clock: MockClock, seed: int, strategy: str, ordering: Any
) -> None:
    random = Random(seed)
    first: dict[int, datetime] = {}
    last: dict[int, datetime] = {}

    async def handler(tick: tt.Tick) -> None:
        number = int(tick.volume)
        late = number % 3 == 0
        if not late:
            first[number] = tt.arrival()
        if random.random() < 0.5:
            await trio.sleep(random.choice([0, 0.001, 0.05]))
            last[number] = tt.arrival()
        elif late:
            last[number] = tt.arrival()

    feed = TimedFeed([random.randrange(1, 30) for _ in range(60)], 0.01)
    async with tt.open_pipeline(
        feed,
        handler,
        workers=random.choice([1, 3]),
        maxsize=20,
        overflow=STRATEGIES[strategy],
        ordering=ordering,
        shutdown_timeout=100,
    ) as pipeline:
        await pipeline.wait()
    pipeline.ledger.check()
    assert pipeline.ledger.dropped > 0
    # What waits for room for a while may have arrived at any time in it.
    feed.check(first)
    feed.check(last)
    assert all(first[number] == last[number] for number in first.keys() & last.keys())


async def test_in_a_sprint_through_a_full_channel(autojump_clock: MockClock) -> None:
    told: dict[int, datetime] = {}

    async def handler(tick: tt.Tick) -> None:
        told[int(tick.volume)] = tt.arrival()

    feed = TimedFeed([1000, 1000, 1000], 0)
    report = await tt.run_pipeline(feed, handler, maxsize=10_000, signals=False)
    assert report.consumed == len(told) == 3000
    feed.check(told)


async def test_a_strategy_is_told_of_the_way_here(autojump_clock: MockClock) -> None:
    ages: list[timedelta] = []

    async def handler(tick: tt.Tick) -> None:
        ages.append(tt.arrival() - tick.timestamp)

    class Feed:
        async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
            stamp = clock_of(send).utc()
            await trio.sleep(0.25)
            await send.send(tt.Tick("A", stamp, 1, 2, 3, 4, 5))

    await tt.run_pipeline(Feed(), handler, signals=False)
    assert ages == [timedelta(seconds=0.25)]


@pytest.mark.parametrize("retry", [None, tt.Retry(on=OSError, attempts=2, initial_s=0.01)])
async def test_with_a_time_limit_and_a_further_try(
    autojump_clock: MockClock, retry: tt.Retry | None
) -> None:
    told: dict[int, datetime] = {}

    def handler(tick: tt.Tick) -> None:
        told[int(tick.volume)] = tt.arrival()

    feed = TimedFeed([40], 0)
    settings: Any = {"executor": "loop", "handler_timeout": 1.0, "retry": retry}
    await tt.run_pipeline(feed, handler, signals=False, **settings)
    assert len(told) == 40
    feed.check(told)


async def test_nurseries_and_threads_of_the_handler_may_ask() -> None:
    told: dict[int, datetime] = {}

    async def handler(tick: tt.Tick) -> None:
        async def child() -> None:
            told[int(tick.volume)] = tt.arrival()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
        assert await trio.to_thread.run_sync(tt.arrival) == told[int(tick.volume)]

    feed = TimedFeed([10], 0)
    await tt.run_pipeline(feed, handler, workers=2, signals=False)
    assert len(told) == 10
    feed.check(told)


async def test_in_threads() -> None:
    told: dict[int, datetime] = {}

    def handler(tick: tt.Tick) -> None:
        told[int(tick.volume)] = tt.arrival()

    feed = TimedFeed([100, 1, 50, 200], 0.01)
    await tt.run_pipeline(feed, handler, workers=3, signals=False)
    assert len(told) == 351
    feed.check(told)


@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_a_batch_handler_is_told_of_the_first(where: str) -> None:
    told: dict[int, datetime] = {}
    sizes: list[int] = []

    def note(ticks: Sequence[tt.Tick]) -> None:
        sizes.append(len(ticks))
        told[int(ticks[0].volume)] = tt.arrival()

    @tt.batch_handler(max_size=10, max_wait=10)
    async def in_loop(ticks: Sequence[tt.Tick]) -> None:
        note(ticks)

    @tt.batch_handler(max_size=10, max_wait=10)
    def in_thread(ticks: Sequence[tt.Tick]) -> None:
        note(ticks)

    feed = TimedFeed([3, 3, 3, 3], 0.02)
    handler: Any = in_loop if where == "loop" else in_thread
    await tt.run_pipeline(feed, handler, workers=1, signals=False)
    assert sum(sizes) == 12
    assert max(sizes) == 10
    feed.check(told)


@pytest.mark.parametrize("kind", ["loop", "thread", "batches"])
async def test_on_error_is_told_of_the_tick_that_failed(kind: str) -> None:
    told: dict[int, datetime] = {}

    def on_error(tick: tt.Tick, _error: Exception) -> None:
        told[int(tick.volume)] = tt.arrival()

    async def in_loop(tick: tt.Tick) -> None:
        if tick.bid < 0:
            raise ValueError("bad")

    def in_thread(tick: tt.Tick) -> None:
        if tick.bid < 0:
            raise ValueError("bad")

    @tt.batch_handler(max_size=20)
    def in_batches(ticks: Sequence[tt.Tick]) -> None:
        bad = {i: ValueError("bad") for i, tick in enumerate(ticks) if tick.bid < 0}
        if bad:
            raise tt.BatchError(bad)

    handler: Any = {"loop": in_loop, "thread": in_thread, "batches": in_batches}[kind]
    feed = TimedFeed([7] * 20, 0.001, lambda n: n % 4 == 0)
    await tt.run_pipeline(feed, handler, workers=2, on_error=on_error, signals=False)
    assert sorted(told) == list(range(0, 140, 4))
    feed.check(told)


async def test_behind_a_broker_it_is_the_arrival_at_the_ingest(
    autojump_clock: MockClock,
) -> None:
    buffer, feed = MemoryBuffer(), TimedFeed([50], 0)
    async with tt.open_pipeline(feed, None, buffer=buffer, overflow=tt.Block()) as ingest:
        await ingest.wait()
    await trio.sleep(3600)
    told: dict[int, datetime] = {}

    async def handler(tick: tt.Tick) -> None:
        told[int(tick.volume)] = tt.arrival()
        if len(told) == 50:
            pipeline.shutdown()

    async with tt.open_pipeline(None, handler, buffer=buffer) as pipeline:
        await pipeline.wait()
    assert len(told) == 50
    feed.check(told)


async def test_a_handler_of_gaps_is_told_of_the_tick_behind(autojump_clock: MockClock) -> None:
    seen: list[tuple[str, datetime]] = []

    async def handler(item: tt.Tick | tt.Gap) -> None:
        seen.append((type(item).__name__, tt.arrival()))

    class Feed:
        async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
            now = clock_of(send).utc()
            send.mark_gap(tt.Gap("A", now, "reconnect", 0, now))
            await trio.sleep(1)
            await send.send(make_tick("A", 1))

    await tt.run_pipeline(Feed(), handler, signals=False)
    assert [kind for kind, _ in seen] == ["Gap", "Tick"]
    assert seen[0][1] == seen[1][1]


# Where there is no tick


def test_outside_of_everything() -> None:
    with pytest.raises(tt.ConfigError, match="call it in a handler or in on_error"):
        tt.arrival()


async def test_in_the_life_of_a_handler_around_its_ticks(autojump_clock: MockClock) -> None:
    asked: list[str] = []

    class Handler:
        async def __aenter__(self) -> Handler:
            self.ask("before")
            return self

        async def __aexit__(self, *_reason: object) -> None:
            self.ask("after")

        def ask(self, when: str) -> None:
            with pytest.raises(tt.ConfigError, match="tick in hand"):
                tt.arrival()
            asked.append(when)

        async def __call__(self, _tick: tt.Tick) -> None:
            tt.arrival()

    await tt.run_pipeline(TimedFeed([5], 0), Handler, workers=1, signals=False)
    assert asked == ["before", "after"]


# The buffers


def test_a_fifo_remembers_the_tick_taken_last_though_others_leave() -> None:
    buffer: FifoBuffer[int] = FifoBuffer()
    for now in range(10):
        buffer.push_many([now * 10, now * 10 + 1, now * 10 + 2], float(now))
    assert [buffer.take() for _ in range(4)] == [0, 1, 2, 10]
    assert buffer.arrival() == 1.0
    assert buffer.take_many(5) == [11, 12, 20, 21, 22]
    assert buffer.arrival() == 1.0
    assert buffer.oldest_arrival() == 3.0
    assert buffer.extract(lambda number: number % 10 == 0) == [30, 40, 50, 60, 70, 80, 90]
    assert buffer.arrival() == 1.0
    buffer.push_many([100], 10.0)
    buffer.backdate([9.5])
    assert buffer.arrival() == 1.0
    assert (buffer.take(), buffer.arrival()) == (31, 3.0)
    assert len(buffer.take_many(1000)) == 14
    assert buffer.arrival() == 3.0
    buffer.push_many([110], 11.0)
    assert buffer.arrival() == 3.0
    assert buffer.oldest_arrival() == 11.0
    assert (buffer.take(), buffer.arrival()) == (110, 11.0)


def test_a_keyed_buffer_does_so_too() -> None:
    buffer: KeyedBuffer[Any] = KeyedBuffer()
    for number in range(6):
        buffer.push(make_tick("A", number), float(number), evictable=True)
    assert buffer.take().volume == 0
    assert [tick.volume for tick in buffer.take_many(2)] == [1, 2]
    assert buffer.evict_oldest() is not None
    assert buffer.arrival() == 0.0
