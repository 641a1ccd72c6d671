"""A buffer between processes: who runs what, the two laws, shutdown, gaps, times."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.memory_buffer import MemoryBuffer
from trio_ticks.buffer import BufferStatistics, Outcomes, Receive, Send, Sink, Source, Stretch

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def tick(symbol: str, number: int) -> tt.Tick:
    return tt.Tick(symbol, NOON + timedelta(microseconds=number), 1.5, 1.6, 1.0, 2.0, float(number))


def ticks(count: int) -> list[tt.Tick]:
    return [tick("ABCDE"[number % 5], number) for number in range(count)]


def numbers(items: Iterable[tt.Tick]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for item in items:
        found.setdefault(item.symbol, []).append(int(item.volume))
    return found


async def test_both_halves_in_one_program_handle_all_and_end_with_the_feed() -> None:
    buffer, seen = MemoryBuffer(), []

    async def handler(item: tt.Tick) -> None:
        seen.append(item)

    feed = tt.IterableFeed(ticks(500))
    async with tt.open_pipeline(feed, handler, buffer=buffer, overflow=tt.Block()) as pipeline:
        assert pipeline.half == "work"
        assert pipeline.ingest is not None
        assert pipeline.ingest.half == "ingest"
        while pipeline.phase == "running":
            pipeline.ledger.check()
            pipeline.ingest.ledger.check()
            await trio.lowlevel.checkpoint()
        await pipeline.wait()
    assert numbers(seen) == numbers(ticks(500))
    ingest, work = pipeline.ingest.report, pipeline.report
    assert (ingest.produced, ingest.consumed, ingest.in_flight) == (500, 500, 0)
    assert (work.produced, work.consumed) == (500, 500)
    assert (ingest.half, work.half) == ("ingest", "work")
    assert (buffer.appended, buffer.acknowledged, buffer.used) == (500, 500, 0)


async def test_two_programs_share_the_work_one_after_the_other() -> None:
    buffer = MemoryBuffer()
    seen: list[tt.Tick] = []

    async def handler(item: tt.Tick) -> None:
        await trio.sleep(0.0005)
        seen.append(item)

    feed = tt.IterableFeed(ticks(300))
    report = await tt.run_pipeline(feed, None, buffer=buffer, overflow=tt.Block())
    assert (report.produced, report.consumed) == (300, 300)
    assert buffer.used == 300
    for _program in range(3):
        before = len(seen)
        async with tt.open_pipeline(None, handler, buffer=buffer) as pipeline:
            while len(seen) < before + 50:  # noqa: ASYNC110
                await trio.sleep(0.001)
        pipeline.ledger.check()
        assert not pipeline.report.dropped
        assert buffer.used + buffer.acknowledged == 300
    async with tt.open_pipeline(None, handler, buffer=buffer) as pipeline:
        while buffer.used:  # noqa: ASYNC110
            await trio.sleep(0.001)
    # A clean end repeats nothing and loses nothing.
    assert numbers(seen) == numbers(ticks(300))


async def test_a_shutdown_gives_back_what_no_worker_has_begun(autojump_clock: MockClock) -> None:
    buffer = MemoryBuffer()
    await tt.run_pipeline(tt.IterableFeed(ticks(60)), None, buffer=buffer, overflow=tt.Block())

    async def slow(item: tt.Tick) -> None:
        await trio.sleep(10)

    async with tt.open_pipeline(
        None, slow, buffer=buffer, workers=2, shutdown_timeout=25
    ) as pipeline:
        await trio.sleep(5)
    pipeline.ledger.check()
    ledger = pipeline.report.ledger
    assert ledger.dropped == 0
    assert ledger.consumed
    assert ledger.given_back == ledger.produced - ledger.consumed
    # What is acknowledged is handled; an entry of which a part is handled comes again.
    assert buffer.acknowledged <= ledger.consumed
    assert buffer.acknowledged + buffer.used == 60


async def test_cancelling_the_work_loses_nothing() -> None:
    buffer = MemoryBuffer()
    await tt.run_pipeline(tt.IterableFeed(ticks(60)), None, buffer=buffer, overflow=tt.Block())
    with trio.move_on_after(0.05):
        async with tt.open_pipeline(None, _forever, buffer=buffer) as pipeline:
            await trio.sleep_forever()
    pipeline.ledger.check()
    assert pipeline.report.ledger.given_back == pipeline.report.produced > 0
    assert buffer.used == 60


async def _forever(item: tt.Tick) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("strategy", [tt.DropNewest(timeout=0), tt.DropOldest(), tt.Conflate()])
async def test_the_ingests_strategy_decides_while_the_broker_is_away(
    strategy: tt.OverflowStrategy, autojump_clock: MockClock
) -> None:
    buffer = MemoryBuffer(away=True)

    async def late(send: tt.TickSendChannel[tt.Tick]) -> None:
        await send.send_many(ticks(500))
        await trio.sleep(1)
        buffer.away = False

    class Feed:
        run = staticmethod(late)

    report = await tt.run_pipeline(Feed(), None, buffer=buffer, overflow=strategy, maxsize=100)
    assert report.dropped > 0
    assert report.produced == 500 == report.consumed + report.dropped
    assert buffer.used == report.consumed


async def test_gaps_travel_in_their_place() -> None:
    buffer, seen = MemoryBuffer(), []

    class Feed:
        async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
            await send.send_many([tick("A", 1), tick("B", 1)])
            send.mark_gap(tt.Gap("A", NOON, "sequence", 3, NOON))
            await send.send_many([tick("A", 5), tick("A", 6), tick("B", 2)])

    async def handler(item: tt.Tick | tt.Gap) -> None:
        seen.append(item)

    await tt.run_pipeline(Feed(), handler, buffer=buffer)
    assert [item for item in seen if item.symbol == "A"] == [
        tick("A", 1),
        tt.Gap("A", NOON, "sequence", 3, NOON),
        tick("A", 5),
        tick("A", 6),
    ]


async def test_a_tick_that_lay_in_the_broker_is_as_old_as_that(autojump_clock: MockClock) -> None:
    buffer = MemoryBuffer(holds=True, turn_s=0.5)
    async with tt.open_pipeline(
        tt.IterableFeed(ticks(10)), _at_once, buffer=buffer, max_age=700.0
    ) as pipeline:
        await trio.sleep(600)
        buffer.holds = False
        await pipeline.wait()
    assert pipeline.report.consumed == 10
    assert pipeline.report.queue_wait_ms.max == pytest.approx(600e3, rel=1e-3)
    buffer = MemoryBuffer(holds=True, turn_s=0.5)
    async with tt.open_pipeline(
        tt.IterableFeed(ticks(10)), _at_once, buffer=buffer, max_age=60.0
    ) as pipeline:
        await trio.sleep(600)
        buffer.holds = False
        await pipeline.wait()
    assert pipeline.report.dropped_by_reason["stale"] == 10


async def _at_once(item: tt.Tick) -> None: ...


async def test_a_handler_is_told_of_its_symbols_before_and_after() -> None:
    buffer = MemoryBuffer()
    told: list[Any] = []

    class Strategy:
        async def gained(self, symbols: frozenset[str]) -> None:
            await trio.lowlevel.checkpoint()
            told.append(("gained", symbols))

        async def lost(self, symbols: frozenset[str]) -> None:
            told.append(("lost", symbols))

        async def __call__(self, item: tt.Tick) -> None:
            told.append(item.symbol)

    await tt.run_pipeline(tt.IterableFeed(ticks(50)), Strategy(), buffer=buffer)
    owned: set[str] = set()
    for what in told:
        if isinstance(what, str):
            assert what in owned
        elif what[0] == "gained":
            owned |= what[1]
        else:
            owned -= what[1]
    assert not owned
    assert sum(isinstance(what, str) for what in told) == 50


async def test_a_class_that_keeps_state_makes_one_handler_for_all_workers() -> None:
    made: list[object] = []

    class Strategy:
        def __init__(self) -> None:
            made.append(self)

        def gained(self, symbols: frozenset[str]) -> None: ...

        async def __call__(self, item: tt.Tick) -> None: ...

    await tt.run_pipeline(tt.IterableFeed(ticks(50)), Strategy, buffer=MemoryBuffer(), workers=3)
    assert len(made) == 1


async def test_without_a_buffer_a_class_makes_one_handler_for_each_worker() -> None:
    made: list[object] = []

    class Strategy:
        def __init__(self) -> None:
            made.append(self)

        def lost(self, symbols: frozenset[str]) -> None: ...

        async def __call__(self, item: tt.Tick) -> None: ...

    await tt.run_pipeline(tt.IterableFeed(ticks(50)), Strategy, workers=3)
    assert len(made) == 3


async def test_what_gained_raises_ends_the_pipeline() -> None:
    class Strategy:
        def gained(self, symbols: frozenset[str]) -> None:
            raise RuntimeError("no state")

        async def __call__(self, item: tt.Tick) -> None: ...

    buffer = MemoryBuffer()
    with pytest.raises(RuntimeError, match="no state"):
        await tt.run_pipeline(tt.IterableFeed(ticks(50)), Strategy(), buffer=buffer)
    assert not buffer.acknowledged


@pytest.mark.parametrize("executor", ["loop", "thread"])
async def test_failed_ticks_are_acknowledged_when_their_letter_is_written(executor: str) -> None:
    buffer, letters = MemoryBuffer(), []

    async def on_error(item: tt.Tick, error: Exception) -> None:
        await trio.sleep(0.01)
        letters.append((item, buffer.acknowledged))

    def plain(item: tt.Tick) -> None:
        if item.volume == 3:
            raise ValueError("three")

    async def handler(item: tt.Tick) -> None:
        plain(item)

    report = await tt.run_pipeline(
        tt.IterableFeed([tick("A", number) for number in range(8)]),
        handler if executor == "loop" else plain,
        buffer=buffer,
        executor=executor,
        on_error=on_error,
    )
    assert report.failed == 1
    assert [(item.volume, acknowledged) for item, acknowledged in letters] == [(3.0, 0)]
    assert buffer.acknowledged == 8


async def test_an_error_of_either_half_ends_both_and_comes_out_as_itself() -> None:
    class Broken:
        async def run(self, send: object) -> None:
            raise LookupError("of the feed")

    async def handler(item: tt.Tick) -> None: ...

    with pytest.raises(LookupError, match="of the feed"):
        await tt.run_pipeline(Broken(), handler, buffer=MemoryBuffer())

    async def fails(item: tt.Tick, error: Exception) -> None:
        raise KeyError("of the hook")

    async def raises(item: tt.Tick) -> None:
        raise ValueError

    with pytest.raises(KeyError, match="of the hook"):
        await tt.run_pipeline(
            tt.IterableFeed(ticks(5)), raises, buffer=MemoryBuffer(), on_error=fails, workers=1
        )


async def test_what_cannot_be_written_has_failed_at_the_ingest() -> None:
    class Odd:
        symbol, timestamp = "A", NOON

    buffer = MemoryBuffer()
    items: list[Any] = [tick("A", 1), Odd(), tick("A", 2)]
    report = await tt.run_pipeline(tt.IterableFeed(items), None, buffer=buffer)
    assert (report.consumed, report.failed) == (2, 1)


FEED, HANDLER = tt.IterableFeed(()), _forever


@pytest.mark.parametrize(
    ("feed", "handler", "settings", "says"),
    [
        (None, HANDLER, {}, "feed is None"),
        (FEED, None, {}, "handler is None"),
        (None, None, {"buffer": MemoryBuffer()}, "nothing to do"),
        (FEED, HANDLER, {"buffer": "redis://"}, "buffer must have"),
        (None, HANDLER, {"buffer": MemoryBuffer(), "overflow": tt.Block()}, "overflow"),
        (None, HANDLER, {"buffer": MemoryBuffer(), "on_feed": print}, "on_feed"),
        (None, HANDLER, {"buffer": MemoryBuffer(), "shared_symbols": True}, "shared_symbols"),
        (FEED, None, {"buffer": MemoryBuffer(), "workers": 2}, "workers"),
        (FEED, None, {"buffer": MemoryBuffer(), "on_error": print}, "on_error"),
    ],
)
async def test_what_belongs_to_a_half_that_is_not_there_is_refused(
    feed: Any, handler: Any, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(tt.ConfigError, match=says):
        async with tt.open_pipeline(feed, handler, **settings):
            raise AssertionError("it was opened")


class _Checks:
    """A source that looks at what is unfinished while a stretch is on its way in."""

    prefetch = 4

    def __init__(self, withdraws: bool) -> None:
        self.withdraws = withdraws
        self.delivered = ticks(20)
        self.ended = trio.Event()
        self.handled = 0

    def sink(self) -> Sink:
        raise NotImplementedError

    def source(self) -> Source:
        return self

    def drain(self) -> None:
        self.ended.set()

    def statistics(self) -> BufferStatistics:
        return BufferStatistics(connected=True)

    async def run(self, send: Send, outcomes: Outcomes) -> None:
        gap = tt.Gap("C", NOON, "sequence", 1, NOON)
        stretch = Stretch(list(self.delivered), [0.0] * 20, [(12, gap)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send.deliver, 7, stretch)
            for _ in range(5):
                await trio.sleep(1)
                left = {id(item) for item in outcomes.unfinished()}
                assert left == {id(item) for item in self.delivered[self.handled :]}
                assert outcomes.busy
            if self.withdraws:
                assert outcomes.withdraw(set("ABCDE")) == 20 - self.handled - 1
                assert len(outcomes.unfinished()) == 1
        await self.ended.wait()


@pytest.mark.parametrize("withdraws", [False, True])
async def test_what_is_on_its_way_in_is_unfinished(
    withdraws: bool, autojump_clock: MockClock
) -> None:
    buffer = _Checks(withdraws)

    async def handler(item: tt.Tick) -> None:
        await trio.sleep(1.3)
        buffer.handled += 1

    async with tt.open_pipeline(None, handler, buffer=buffer, workers=1) as pipeline:
        await trio.sleep(60)
    pipeline.ledger.check()
    assert pipeline.report.consumed == (4 if withdraws else 20)


async def test_a_channel_that_a_source_keeps_full_is_no_pressure(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = MemoryBuffer(prefetch=20, turn_s=0.1)
    await tt.run_pipeline(tt.IterableFeed(ticks(200)), None, buffer=buffer, overflow=tt.Block())
    caplog.clear()

    async def slow(item: tt.Tick) -> None:
        await trio.sleep(1)

    async with tt.open_pipeline(None, slow, buffer=buffer, shutdown_timeout=60) as pipeline:
        await trio.sleep(10)
        assert pipeline.statistics().current_buffer_used > 10
        assert pipeline.pressure.state == "ok"
    assert not [line for line in caplog.messages if "pressure" in line]


class _TwoAtOnce(_Checks):
    """A source that hands over two stretches at once, and buries two ticks."""

    async def run(self, send: Send, outcomes: Outcomes) -> None:
        async with trio.open_nursery() as nursery:
            for shard, items in enumerate((self.delivered[:10], self.delivered[10:])):
                nursery.start_soon(send.deliver, shard, Stretch(items, [0.0] * 10))
            await trio.sleep(0.5)
            assert len(outcomes.unfinished()) == 20
        send.bury(tick("Z", 99), RuntimeError("died"))
        await self.ended.wait()
        send.bury(tick("Z", 100), RuntimeError("died"))


async def test_what_waits_for_its_turn_is_unfinished_and_all_burials_are_told(
    autojump_clock: MockClock,
) -> None:
    told: list[float] = []

    async def on_error(item: tt.Tick, error: Exception) -> None:
        await trio.sleep(0.5)
        told.append(item.volume)

    async def handler(item: tt.Tick) -> None:
        await trio.sleep(1)

    async with tt.open_pipeline(
        None, handler, buffer=_TwoAtOnce(False), workers=1, on_error=on_error
    ) as pipeline:
        await trio.sleep(60)
    pipeline.ledger.check()
    assert (pipeline.report.consumed, pipeline.report.failed) == (20, 2)
    assert told == [99, 100]


async def test_events_of_symbols_go_through_the_buffer_in_their_line() -> None:
    seen: list[Any] = []
    event = tt.FeedEvent("feed", "symbol-silent", "A", "quiet", NOON)

    class Feed:
        async def run(self, send: tt.TickSendChannel[Any]) -> None:
            assert send.takes_events
            await send.send_many([tick("A", 1), event, tick("A", 2)])

    async def handler(item: tt.Tick | tt.FeedEvent) -> None:
        seen.append(item)

    await tt.run_pipeline(Feed(), handler, buffer=MemoryBuffer())
    assert seen == [tick("A", 1), event, tick("A", 2)]


class SizesSink:
    """Notes how many ticks it got at once."""

    def __init__(self, most: int) -> None:
        self.sizes: list[int] = []
        self._most = most

    async def run(self, receive: Receive, /) -> None:
        try:
            while True:
                stretch = await receive.take(self._most)
                self.sizes.append(len(stretch.items))
        except trio.EndOfChannel:
            pass

    def statistics(self) -> BufferStatistics:
        return BufferStatistics(appended=sum(self.sizes))


class SizesBuffer(MemoryBuffer):
    """A buffer whose only sink is a :class:`SizesSink`."""

    def sink(self) -> Sink:
        return self.told["sink"]  # type: ignore[no-any-return]  # it is put there below


class BatchesFeed:
    """Brings batches, one after the other."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = sizes

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        for size in self._sizes:
            await send.send_many(ticks(size))


async def test_under_load_a_sink_gets_more_at_once_than_the_channel_holds() -> None:
    sink = SizesSink(1500)
    buffer = SizesBuffer(told={"sink": sink})
    feed = BatchesFeed(*[200] * 30)
    async with tt.open_pipeline(
        feed, None, buffer=buffer, overflow=tt.Block(), maxsize=400
    ) as pipeline:
        while pipeline.phase == "running":
            # Also while ticks are gathered they are in one of its terms.
            pipeline.ledger.check()
            await trio.lowlevel.checkpoint()
        await pipeline.wait()
    assert sum(sink.sizes) == 6000
    # Once in a while it gets what is there before the feed has brought more.
    assert sink.sizes.count(1500) >= 2


async def test_no_more_is_gathered_than_a_few_times_the_size_of_the_channel() -> None:
    sink = SizesSink(100_000)
    buffer = SizesBuffer(told={"sink": sink})
    async with tt.open_pipeline(
        BatchesFeed(*[150] * 40), None, buffer=buffer, overflow=tt.Block(), maxsize=150
    ) as pipeline:
        await pipeline.wait()
    assert sum(sink.sizes) == 6000
    assert 150 < max(sink.sizes) <= 8 * 150


async def test_few_ticks_go_to_the_sink_at_once() -> None:
    sink = SizesSink(1500)
    buffer = SizesBuffer(told={"sink": sink})
    async with tt.open_pipeline(
        BatchesFeed(*[20] * 10), None, buffer=buffer, overflow=tt.Block()
    ) as pipeline:
        await pipeline.wait()
    assert sum(sink.sizes) == 200
    assert max(sink.sizes) < 128


class StepsSource:
    """Delivers small entries, and counts the steps that others make meanwhile."""

    def __init__(self, entries: int) -> None:
        self.steps = 0
        self._entries = entries

    async def run(self, send: Send, outcomes: Outcomes, /) -> None:
        async def step() -> None:
            while True:
                await trio.lowlevel.checkpoint()
                self.steps += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(step)
            for _ in range(self._entries):
                await send.deliver(0, Stretch(ticks(10), [NOON.timestamp()] * 10))
            nursery.cancel_scope.cancel()

    def drain(self) -> None: ...

    def statistics(self) -> BufferStatistics:
        return BufferStatistics()


class StepsBuffer(MemoryBuffer):
    """A buffer whose only source is a :class:`StepsSource`."""

    def source(self) -> Source:
        return self.told["source"]  # type: ignore[no-any-return]  # it is put there below


async def test_entries_enter_without_a_checkpoint_each_but_never_all_without_one() -> None:
    handled = []

    async def handler(item: tt.Tick) -> None:
        handled.append(item)

    source = StepsSource(100)
    buffer = StepsBuffer(prefetch=5000, told={"source": source})
    async with tt.open_pipeline(None, handler, buffer=buffer) as pipeline:
        await pipeline.wait()
    assert len(handled) == 1000
    assert 1 <= source.steps <= 20
