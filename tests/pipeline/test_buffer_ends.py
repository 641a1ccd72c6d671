"""How a pipeline with a buffer ends: both halves in one program, and by errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.memory_buffer import MemoryBuffer
from trio_ticks.brokers.zeromq import ZeroMQ
from trio_ticks.buffer import BufferStatistics, Outcomes, Send, Sink, Source, Stretch

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def ticks(count: int) -> list[tt.Tick]:
    return [
        tt.Tick("ABCDE"[number % 5], NOON, 1.5, 1.6, 1.0, 2.0, float(number))
        for number in range(count)
    ]


class Endless:
    """A feed that brings ticks, and then none."""

    def __init__(self, count: int) -> None:
        self._ticks = ticks(count)

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        await send.send_many(self._ticks)
        await trio.sleep_forever()


async def handle(item: tt.Tick) -> None: ...


async def test_leaving_the_block_waits_for_the_ingest_too(autojump_clock: MockClock) -> None:
    buffer = MemoryBuffer(away=True)
    async with trio.open_nursery() as nursery:

        async def come_back() -> None:
            await trio.sleep(1.5)
            buffer.away = False

        async with tt.open_pipeline(Endless(100), handle, buffer=buffer) as pipeline:
            assert pipeline.ingest is not None
            while pipeline.ingest.ledger.produced < 100:  # noqa: ASYNC110
                await trio.sleep(0.001)
            nursery.start_soon(come_back)
    assert pipeline.ingest is not None
    ingest = pipeline.ingest.report
    assert (ingest.produced, ingest.consumed, ingest.dropped) == (100, 100, 0)
    work = pipeline.report.ledger
    assert buffer.acknowledged == work.consumed


async def test_an_ingest_that_cannot_end_leaves_the_workers_half_of_the_time(
    autojump_clock: MockClock,
) -> None:
    buffer, began = MemoryBuffer(away=True), 0.0
    async with tt.open_pipeline(
        Endless(100), handle, buffer=buffer, shutdown_timeout=4.0
    ) as pipeline:
        assert pipeline.ingest is not None
        while pipeline.ingest.ledger.produced < 100:  # noqa: ASYNC110
            await trio.sleep(0.001)
        began = trio.current_time()
        pipeline.shutdown()
        while pipeline.phase == "running":  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert trio.current_time() - began == pytest.approx(2.0, abs=0.1)
        assert pipeline.ingest.phase == "draining"
    assert trio.current_time() - began == pytest.approx(4.0, abs=0.1)
    assert pipeline.ingest.report.dropped_by_reason["shutdown"] == 100


async def test_zeromq_in_one_program_leaves_nothing_in_doubt() -> None:
    seen: list[tt.Tick] = []

    async def slow(item: tt.Tick) -> None:
        await trio.sleep(0.001)
        seen.append(item)

    buffer = ZeroMQ(bind="tcp://127.0.0.1:0")
    sink = buffer.sink()

    class Pair:
        """The two ends at a port that the system chooses."""

        def sink(self) -> Sink:
            return sink

        def source(self) -> Source:
            return Later()

    class Later:
        def __init__(self) -> None:
            self._source: Source | None = None

        async def run(self, send: Send, outcomes: Outcomes) -> None:
            while sink.address is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
            self._source = ZeroMQ(sink.address, prefetch=10).source()
            await self._source.run(send, outcomes)

        def drain(self) -> None:
            assert self._source is not None
            self._source.drain()

        def statistics(self) -> BufferStatistics:
            return BufferStatistics() if self._source is None else self._source.statistics()

    with trio.fail_after(60):
        async with tt.open_pipeline(
            Endless(400), slow, buffer=Pair(), shutdown_timeout=40.0
        ) as pipeline:
            assert pipeline.ingest is not None
            while not seen:  # noqa: ASYNC110
                await trio.sleep(0.001)
    assert pipeline.ingest is not None
    ingest = pipeline.ingest.report.ledger
    assert (ingest.consumed, ingest.in_flight, ingest.dropped) == (400, 0, 0)
    assert len(seen) == 400


async def test_a_zeromq_source_that_was_cancelled_may_be_drained() -> None:
    sink = ZeroMQ(bind="tcp://127.0.0.1:0").sink()
    with trio.fail_after(60):
        async with tt.open_pipeline(
            Endless(20), None, buffer=_Only(sink=sink), shutdown_timeout=0.0
        ) as ingest:
            while sink.address is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
            source = ZeroMQ(sink.address).source()
            quiet = _Only(source=_Undrained(source))
            async with tt.open_pipeline(None, handle, buffer=quiet) as pipeline:
                while not ingest.ledger.consumed:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                pipeline.cancel()
            source.drain()
            assert source.statistics().acknowledged


class _Undrained:
    """A source that is not told when the pipeline is cancelled."""

    def __init__(self, source: Source) -> None:
        self.run = source.run
        self.statistics = source.statistics

    def drain(self) -> None: ...


class _Only:
    """A buffer with one end."""

    def __init__(self, source: Source | None = None, sink: Sink | None = None) -> None:
        self._source = source
        self._sink = sink

    def sink(self) -> Sink:
        assert self._sink is not None
        return self._sink

    def source(self) -> Source:
        assert self._source is not None
        return self._source


class _InNurseries:
    """A source that works in a task of a task, as a real one may."""

    async def run(self, send: Send, outcomes: Outcomes) -> None:
        async def deliver() -> None:
            async with trio.open_nursery() as inner:  # noqa: ASYNC112
                inner.start_soon(send.deliver, 0, Stretch(ticks(1), [0.0]))

        async with trio.open_nursery() as nursery:  # noqa: ASYNC112
            nursery.start_soon(deliver)

    def drain(self) -> None: ...

    def statistics(self) -> BufferStatistics:
        return BufferStatistics()


@pytest.mark.parametrize(
    "error", [ValueError("no state"), KeyboardInterrupt("now"), ExceptionGroup("own", [OSError()])]
)
async def test_what_gained_raises_comes_out_as_itself_whatever_tasks_the_source_has(
    error: BaseException,
) -> None:
    class Strategy:
        async def gained(self, symbols: frozenset[str]) -> None:
            raise error

        async def __call__(self, item: tt.Tick) -> None: ...

    with pytest.raises(type(error)) as found:
        async with tt.open_pipeline(None, Strategy(), buffer=_Only(_InNurseries())) as pipeline:
            await pipeline.wait()
    assert found.value is error
    pipeline.ledger.check()


def _exits(item: tt.Tick, error: Exception) -> None:
    raise SystemExit(3)


async def _stops(item: tt.Tick, error: Exception) -> None:
    raise KeyError("of the hook")


@pytest.mark.parametrize(("on_error", "kind"), [(_exits, SystemExit), (_stops, KeyError)])
async def test_what_on_error_raises_for_a_buried_tick_comes_out_as_itself(
    on_error: Callable[[tt.Tick, Exception], Awaitable[None] | None], kind: type[BaseException]
) -> None:
    class Buries(_InNurseries):
        async def run(self, send: Send, outcomes: Outcomes) -> None:
            send.bury(ticks(1)[0], tt.TickError("it kills"))
            await trio.sleep_forever()

    with pytest.raises(kind):
        async with tt.open_pipeline(
            None, handle, buffer=_Only(Buries()), on_error=on_error
        ) as pipeline:
            await pipeline.wait()
    assert pipeline.report.failed == 1


class _TwoShards:
    """A source that delivers ticks of two shards at once, and their ends."""

    def __init__(self) -> None:
        self._draining = trio.Event()

    async def run(self, send: Send, outcomes: Outcomes) -> None:
        items = ticks(5)
        gap = tt.Gap("D", NOON, "sequence", 3, NOON)
        first = Stretch(items[:2], [10.0, 11.0], [], [(0, "7", 0)])
        second = Stretch(items[2:], [12.0, 12.0, 13.0], [(1, gap)], [(0, "9", 4)])
        await send.deliver_all([(3, first), (5, second)])
        await self._draining.wait()
        while outcomes.busy:  # noqa: ASYNC110
            await trio.sleep(0.01)
        await send.give_up(5)

    def drain(self) -> None:
        self._draining.set()

    def statistics(self) -> BufferStatistics:
        return BufferStatistics(received=5)


class _Keeper:
    """A handler that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def gained(self, symbols: frozenset[str]) -> None:
        self.told.append(("gained", sorted(symbols)))

    def lost(self, symbols: frozenset[str]) -> None:
        self.told.append(("lost", sorted(symbols)))

    async def __call__(self, item: tt.Tick) -> str:
        self.told.append(item.symbol)
        return item.symbol


async def test_ticks_of_several_shards_come_at_once_as_if_one_by_one() -> None:
    keeper, places = _Keeper(), list[object]()

    async def write(result: tt.Result) -> None:
        assert result.place is not None
        place = result.place
        places.append((result.value, place.shard, place.position, place.index))

    async def on_gap(gap: tt.Gap) -> None:
        keeper.told.append((gap.symbol, gap.count))

    with trio.fail_after(30):
        async with tt.open_pipeline(
            None,
            keeper,
            buffer=_Only(source=_TwoShards()),
            results=write,
            on_gap=on_gap,
            workers=1,
        ) as pipeline:
            while len(places) < 5:  # noqa: ASYNC110
                await trio.sleep(0.001)
    assert pipeline.report.produced == pipeline.report.consumed == 5
    told = [("gained", ["A", "B"]), ("gained", ["C", "D", "E"]), "A", "B", "C", ("D", 3), "D", "E"]
    assert keeper.told == [*told, ("lost", ["C", "D", "E"]), ("lost", ["A", "B"])]
    assert places == [
        ("A", 3, "7", 0),
        ("B", 3, "7", 1),
        ("C", 5, "9", 4),
        ("D", 5, "9", 5),
        ("E", 5, "9", 6),
    ]
