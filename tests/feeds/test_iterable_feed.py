"""Feeds made of iterables: everything arrives in order, and they are always closed."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_ticks.errors import ConfigError
from trio_ticks.feeds.base import Feed, stats_of
from trio_ticks.feeds.iterable import IterableFeed
from trio_ticks.ticks import Tick

START = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def make_ticks(number: int) -> list[Tick]:
    return [Tick("SPY", START + timedelta(seconds=n), n, n + 1, 1, 1, n) for n in range(number)]


class Collector:
    """Stands for a send channel: keeps the batches; tests can make it wait or raise."""

    def __init__(self, *, raise_after: int | None = None, wait_after: int | None = None) -> None:
        self.batches: list[list[Tick]] = []
        self._raise_after = raise_after
        self._wait_after = wait_after

    @property
    def ticks(self) -> list[Tick]:
        return [tick for batch in self.batches for tick in batch]

    async def send_many(self, ticks: Sequence[Tick]) -> None:
        self.batches.append(list(ticks))
        if len(self.batches) == self._raise_after:
            raise trio.BrokenResourceError("nobody listens")
        if len(self.batches) == self._wait_after:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("number", [0, 1, 255, 256, 257, 1000])
@pytest.mark.parametrize(
    "kind",
    [list, tuple, iter, lambda ticks: (tick for tick in ticks)],
    ids=["list", "tuple", "iterator", "generator"],
)
async def test_everything_arrives_in_order(kind: type, number: int) -> None:
    ticks = make_ticks(number)
    send = Collector()
    feed = IterableFeed(kind(ticks))
    await feed.run(send)
    assert send.ticks == ticks
    assert max(map(len, send.batches), default=0) <= 256
    assert feed.stats.messages == number


async def test_is_a_feed_with_statistics() -> None:
    feed = IterableFeed([])
    assert isinstance(feed, Feed)
    assert stats_of(feed) is feed.stats
    assert repr(feed) == "<IterableFeed of list>"


async def test_connected_while_it_runs(autojump_clock: MockClock) -> None:
    feed = IterableFeed(make_ticks(3))
    assert not feed.stats.connected
    with trio.move_on_after(1):
        await feed.run(Collector(wait_after=1))
    assert not feed.stats.connected
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run, Collector(wait_after=1))
        await trio.testing.wait_all_tasks_blocked()
        assert feed.stats.connected
        nursery.cancel_scope.cancel()


async def test_a_list_can_be_run_again() -> None:
    feed = IterableFeed(make_ticks(3))
    first, second = Collector(), Collector()
    await feed.run(first)
    await feed.run(second)
    assert first.ticks == second.ticks == make_ticks(3)
    assert feed.stats.messages == 6


class SlowClock(trio.abc.Clock):
    """A clock that the iterable moves: a generator that blocks before each tick."""

    now = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0


def test_a_slow_generator_is_not_waited_for() -> None:
    clock = SlowClock()

    def slow() -> Iterator[Tick]:
        for tick in make_ticks(12):
            clock.now += 0.004
            yield tick

    send = Collector()
    trio.run(IterableFeed(slow()).run, send, clock=clock)
    assert [len(batch) for batch in send.batches] == [3, 3, 3, 3]
    assert send.ticks == make_ticks(12)


async def test_an_error_of_the_iterable_comes_after_its_ticks() -> None:
    def failing() -> Iterator[Tick]:
        yield from make_ticks(300)
        raise LookupError("no more")

    send = Collector()
    with pytest.raises(LookupError, match="no more"):
        await IterableFeed(failing()).run(send)
    assert send.ticks == make_ticks(300)


class NoTime:
    symbol = "SPY"


@pytest.mark.parametrize("kind", ["list", "generator", "async"])
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"symbol": "SPY"}, "item 300 of the iterable is a dict without symbol and timestamp"),
        (NoTime(), r"item 300 .* NoTime without timestamp: yield ticks \(trio_ticks\.Tick\)"),
    ],
    ids=["dict", "no time"],
)
async def test_an_item_that_is_no_tick_is_named_after_the_ticks_before_it(
    kind: str, wrong: object, match: str
) -> None:
    items = [*make_ticks(300), wrong, *make_ticks(3)]

    async def source() -> AsyncIterator[object]:
        for item in items:
            yield item

    send = Collector()
    sources: dict[str, Any] = {"list": items, "generator": iter(items), "async": source()}
    feed = IterableFeed(sources[kind])
    with pytest.raises(TypeError, match=match):
        await feed.run(send)
    assert send.ticks == make_ticks(300)
    assert feed.stats.messages == 300


@pytest.mark.parametrize("number", [0, 1, 300])
async def test_async_iterables_go_one_by_one(number: int) -> None:
    async def source() -> AsyncIterator[Tick]:
        for tick in make_ticks(number):
            yield tick

    send = Collector()
    feed = IterableFeed(source())
    await feed.run(send)
    assert send.batches == [[tick] for tick in make_ticks(number)]
    assert feed.stats.messages == number


async def test_an_async_tick_does_not_wait_for_the_next(autojump_clock: MockClock) -> None:
    async def source() -> AsyncIterator[Tick]:
        for tick in make_ticks(3):
            yield tick
            await trio.sleep(3600)

    send = Collector()
    with trio.move_on_after(3601):
        await IterableFeed(source()).run(send)
    assert send.ticks == make_ticks(2)


async def test_a_receive_channel() -> None:
    give, take = trio.open_memory_channel[Tick](10)
    for tick in make_ticks(5):
        give.send_nowait(tick)
    give.close()
    send = Collector()
    await IterableFeed(take).run(send)
    assert send.ticks == make_ticks(5)
    with pytest.raises(trio.ClosedResourceError):
        take.receive_nowait()


class Closing:
    closed = False

    def forever(self) -> Iterator[Tick]:
        try:
            while True:
                yield from make_ticks(1)
        finally:
            self.closed = True

    async def forever_async(self) -> AsyncIterator[Tick]:
        try:
            while True:
                yield make_ticks(1)[0]
        finally:
            # Real clean-up awaits; in the garbage collector this would be an error.
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            self.closed = True


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_generators_are_closed_on_cancellation(
    asynchronous: bool, autojump_clock: MockClock
) -> None:
    closing = Closing()
    feed = IterableFeed(closing.forever_async() if asynchronous else closing.forever())
    send = Collector(wait_after=3)
    with trio.move_on_after(5) as scope:
        await feed.run(send)
    assert scope.cancelled_caught
    assert closing.closed
    assert len(send.ticks) == feed.stats.messages > 0


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_an_error_of_the_channel_comes_out_and_closes(
    asynchronous: bool, autojump_clock: MockClock
) -> None:
    closing = Closing()
    feed = IterableFeed(closing.forever_async() if asynchronous else closing.forever())
    with pytest.raises(trio.BrokenResourceError, match="nobody listens"):
        await feed.run(Collector(raise_after=2))
    assert closing.closed


async def nothing() -> AsyncIterator[Tick]:
    return
    yield


async def test_is_always_a_checkpoint() -> None:
    sources: list[Iterable[Tick] | AsyncIterable[Tick]] = [[], iter(()), nothing()]
    for source in sources:
        with trio.CancelScope() as scope:
            scope.cancel()
            await IterableFeed(source).run(Collector())
        assert scope.cancelled_caught


@pytest.mark.parametrize("bad", [None, 5, object()])
def test_not_iterable(bad: object) -> None:
    with pytest.raises(ConfigError, match="must be an iterable"):
        IterableFeed(bad)  # type: ignore[arg-type]
