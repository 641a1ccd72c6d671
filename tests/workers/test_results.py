"""``results=``: what handlers return goes to one place before their tick has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.memory_buffer import MemoryBuffer
from tests.worlds.result_handlers import (
    Found,
    of_batch,
    of_batch_async,
    of_gap_too,
    of_tick,
    of_tick_async,
    short_batch,
    strange,
)

EXECUTORS = ["loop", "thread", "process"]
SINGLE = {"loop": of_tick_async, "thread": of_tick, "process": of_tick}
BATCHED = {"loop": of_batch_async, "thread": of_batch, "process": of_batch}


def found(results: Sequence[tt.Result]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for result in results:
        values.setdefault(result.symbol, []).append(result.value)
    return values


def expected(ticks: Sequence[tt.Tick]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for tick in ticks:
        if tick.volume % 3:
            values.setdefault(tick.symbol, []).append(Found(tick.symbol, tick.volume))
    return values


class Store:
    """A store that takes many at once, and is entered and left."""

    def __init__(self) -> None:
        self.results: list[tt.Result] = []
        self.life: list[str] = []

    async def __aenter__(self) -> Store:
        self.life.append("entered")
        return self

    async def __aexit__(self, *_reason: object) -> None:
        self.life.append("left")

    async def __call__(self, result: tt.Result) -> None:
        await self.write_many([result])

    async def write_many(self, results: Sequence[tt.Result]) -> None:
        await trio.lowlevel.checkpoint()
        assert self.life == ["entered"]
        self.results += results


@pytest.mark.parametrize(
    ("executor", "handler", "kind"),
    [
        *(
            (executor, handlers[executor], kind)
            for executor in ("loop", "thread")
            for handlers in (SINGLE, BATCHED)
            for kind in ("callable", "store")
        ),
        ("process", of_tick, "callable"),
        ("process", of_batch, "store"),
    ],
)
async def test_what_handlers_return_is_written_in_order(
    handler: Callable[..., Any], executor: str, kind: str
) -> None:
    ticks = make_ticks(300, symbols=["A", "B", "C"])
    store = Store()
    written: list[tt.Result] = []

    async def write(result: tt.Result) -> None:
        await trio.lowlevel.checkpoint()
        written.append(result)

    async with tt.open_pipeline(
        tt.IterableFeed(ticks),
        handler,
        executor=executor,
        overflow=tt.Block(),
        workers=1 if executor == "process" else 2,
        results=write if kind == "callable" else store,
    ) as pipeline:
        await pipeline.wait()
    results = written if kind == "callable" else store.results
    assert found(results) == expected(ticks)
    assert {id(result.item) for result in results} <= {id(tick) for tick in ticks}
    assert {(result.place, result.attempt) for result in results} == {(None, 1)}
    assert store.life == (["entered", "left"] if kind == "store" else [])
    report = pipeline.report
    assert (report.consumed, report.failed) == (300, 0)
    assert (report.results_written, report.results_failed) == (len(results), 0)
    assert pipeline.metrics().results_written == len(results)


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_a_tick_is_in_flight_and_unacknowledged_until_its_result_is_written(
    executor: str,
) -> None:
    buffer, open_up = MemoryBuffer(), trio.Event()
    ticks = make_ticks(40, symbols=["A"])
    looked: list[tuple[int, int]] = []
    places: list[tt.Place | None] = []

    async def write(result: tt.Result) -> None:
        places.append(result.place)
        if result.value.volume == 5:
            await open_up.wait()

    async def let_in(pipeline: tt.Pipeline[Any]) -> None:
        while len(places) < sum(bool(tick.volume % 3) for tick in ticks[:6]):  # noqa: ASYNC110
            await trio.sleep(0.001)
        await trio.sleep(0.05)  # the source has had many turns
        pipeline.ledger.check()
        looked.append((buffer.acknowledged, pipeline.ledger.consumed))
        assert pipeline.ledger.in_flight >= 1
        open_up.set()

    async with (
        tt.open_pipeline(
            tt.IterableFeed(ticks),
            SINGLE[executor],
            executor=executor,
            buffer=buffer,
            results=write,
            workers=1,
        ) as pipeline,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(let_in, pipeline)
        await pipeline.wait()
    assert looked[0][0] == 0  # the first entry holds the ticks 0 to 7
    assert looked[0][1] <= 5
    assert buffer.acknowledged == 40
    assert places == sorted(set(places), key=places.index)
    assert {type(place) for place in places} == {tt.Place}


async def test_places_say_where_a_tick_lies_and_repeat_when_it_comes_again() -> None:
    buffer = MemoryBuffer()
    ticks = make_ticks(30, symbols=["A", "B"])
    await tt.run_pipeline(tt.IterableFeed(ticks), None, buffer=buffer)
    first: dict[tuple[str, float], tt.Place | None] = {}

    begun = trio.Event()

    async def never(result: tt.Result) -> None:
        first[result.symbol, result.value.volume] = result.place
        begun.set()
        await trio.sleep_forever()

    async with tt.open_pipeline(None, of_tick_async, buffer=buffer, results=never) as pipeline:
        await begun.wait()
        pipeline.cancel()
    assert pipeline.report.consumed <= 2  # those without a result
    second: dict[tuple[str, float], tt.Place | None] = {}

    async def write(result: tt.Result) -> None:
        second[result.symbol, result.value.volume] = result.place

    async with tt.open_pipeline(None, of_tick_async, buffer=buffer, results=write):
        while buffer.used:  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert first
    assert first.items() <= second.items()
    assert len(set(second.values())) == len(second) == sum(map(len, expected(ticks).values()))


@pytest.mark.parametrize(
    ("executor", "handler"),
    [*SINGLE.items(), ("loop", of_batch_async), ("thread", of_batch)],
)
async def test_a_result_that_cannot_be_written_fails_its_tick_alone(
    executor: str, handler: Callable[..., Any]
) -> None:
    ticks = make_ticks(60, symbols=["A", "B"])
    failed: list[tuple[float, str]] = []
    kept: list[tt.Result] = []

    def write(result: tt.Result) -> None:
        if result.value.volume in (4, 7):
            raise ValueError("refused")
        kept.append(result)

    report = await tt.run_pipeline(
        tt.IterableFeed(ticks),
        handler,
        executor=executor,
        overflow=tt.Block(),
        workers=1,
        results=write,
        on_error=lambda tick, error: failed.append((tick.volume, str(error))),
    )
    assert sorted(failed) == [(4.0, "refused"), (7.0, "refused")]
    assert (report.consumed, report.failed, report.results_failed) == (58, 2, 2)
    assert report.results_written == len(kept) == sum(map(len, expected(ticks).values())) - 2


async def test_a_store_that_is_away_holds_the_workers_up_and_says_so_once_a_second(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    back_at = trio.current_time() + 10.2
    written: list[tt.Result] = []

    async def write(result: tt.Result) -> None:
        if trio.current_time() < back_at:
            raise ConnectionRefusedError("nobody there")
        written.append(result)

    async with tt.open_pipeline(
        tt.IterableFeed(make_ticks(12, symbols="ABCD")),
        of_tick_async,
        workers=3,
        results=write,
        overflow=tt.Block(),
    ) as pipeline:
        await trio.sleep(5)
        pipeline.ledger.check()
        assert pipeline.ledger.in_flight == 3
        assert pipeline.metrics().results_waiting_s == pytest.approx(15, rel=0.01)
        await pipeline.wait()
    assert len(written) == 8
    assert pipeline.report.consumed == 12
    lines = [r for r in caplog.records if getattr(r, "event", "") == "results.waiting"]
    assert 8 <= len(lines) <= 12
    assert "nobody there" in lines[0].getMessage()
    assert lines[0].levelno == logging.WARNING


async def test_a_store_that_never_answers_is_told_in_the_log_too(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Store:
        shown = "kafka://nobody:9092/found"

        async def __call__(self, result: tt.Result) -> None:
            await trio.sleep_forever()

    async with tt.open_pipeline(
        tt.IterableFeed(make_ticks(3, symbols="ABC")), of_tick_async, results=Store()
    ) as pipeline:
        await trio.sleep(3.5)
        pipeline.cancel()
    pipeline.ledger.check()
    assert pipeline.report.dropped_by_reason["shutdown"] == 2
    lines = [r for r in caplog.records if getattr(r, "event", "") == "results.waiting"]
    assert len(lines) == 3
    # It has given no reason yet.
    assert "wait to be written to kafka://nobody:9092/found, the oldest" in lines[0].getMessage()


async def test_cancelled_results_leave_their_ticks_without_an_outcome() -> None:
    """A thread's batch was handled, but only some of its results were written."""
    buffer = MemoryBuffer(pack=1)
    ticks = make_ticks(30, symbols=["A"])
    await tt.run_pipeline(tt.IterableFeed(ticks), None, buffer=buffer)
    written: list[float] = []
    stuck = trio.Event()

    async def write(result: tt.Result) -> None:
        if len(written) == 6:
            stuck.set()
            await trio.sleep_forever()
        written.append(result.value.volume)

    async with tt.open_pipeline(
        None, of_tick, buffer=buffer, results=write, workers=1, shutdown_timeout=0.05
    ) as pipeline:
        await stuck.wait()
    pipeline.ledger.check()
    ledger = pipeline.report.ledger
    assert ledger.given_back == ledger.produced - ledger.consumed > 0
    again: list[float] = []
    async with tt.open_pipeline(
        None, of_tick, buffer=buffer, results=lambda result: again.append(result.value.volume)
    ):
        while buffer.used:  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert set(written) | set(again) == {tick.volume for tick in ticks if tick.volume % 3}
    assert again == sorted(again)


@pytest.mark.parametrize("executor", ["loop", "thread"])
async def test_a_batch_handler_returns_a_result_for_each_tick(executor: str) -> None:
    errors: list[Exception] = []
    report = await tt.run_pipeline(
        tt.IterableFeed(make_ticks(10, symbols=["A"])),
        short_batch if executor != "loop" else _short_async,
        executor=executor,
        results=lambda result: None,
        on_error=lambda tick, error: errors.append(error),
    )
    assert report.failed == 10
    assert report.results_written == 0
    assert "a list with a result for each of its" in str(errors[0])


@tt.batch_handler
async def _short_async(ticks: list[tt.Tick]) -> str:
    return "one value"


async def test_what_cannot_leave_a_process_fails_its_tick_with_a_clear_error() -> None:
    errors: list[Exception] = []
    report = await tt.run_pipeline(
        tt.IterableFeed(make_ticks(3, symbols=["A"])),
        strange,
        executor="process",
        workers=1,
        results=lambda result: None,
        on_error=lambda tick, error: errors.append(error),
    )
    assert report.failed == 3
    assert isinstance(errors[0], tt.ConfigError)
    assert "cannot go to another process" in str(errors[0])


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_what_is_returned_for_a_gap_is_no_result(executor: str) -> None:
    class Feed:
        async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
            (one, two) = make_ticks(2, symbols=["A"])
            await send.send(one)
            send.mark_gap(tt.Gap("A", datetime.now(UTC), "sequence", 3, datetime.now(UTC)))
            await send.send(two)

    results: list[tt.Result] = []
    report = await tt.run_pipeline(
        Feed(),
        _of_gap_async if executor == "loop" else of_gap_too,
        executor=executor,
        workers=1,
        results=results.append,
    )
    assert report.consumed == 2
    assert [result.value for result in results] == ["Tick", "Tick"]


async def _of_gap_async(item: tt.Tick | tt.Gap) -> str:
    return of_gap_too(item)


async def test_values_pass_through_retry_and_time_limit() -> None:
    tries: list[float] = []
    results: list[tt.Result] = []

    async def handler(tick: tt.Tick) -> float:
        tries.append(tick.volume)
        if len(tries) == 1:
            raise KeyError
        return tick.volume

    report = await tt.run_pipeline(
        tt.IterableFeed(make_ticks(2, symbols=["A"])),
        handler,
        retry=tt.Retry(on=KeyError, attempts=2),
        handler_timeout=5.0,
        results=results.append,
    )
    assert report.consumed == 2
    assert [result.value for result in results] == [0.0, 1.0]


@pytest.mark.parametrize("wrong", [3, lambda: None, list])
async def test_what_cannot_take_results_is_refused(wrong: Any) -> None:
    with pytest.raises(tt.ConfigError, match="results"):
        await tt.run_pipeline(tt.IterableFeed([]), of_tick_async, results=wrong)


async def test_an_ingest_has_no_results() -> None:
    with pytest.raises(tt.ConfigError, match="results"):
        await tt.run_pipeline(
            tt.IterableFeed([]), None, buffer=MemoryBuffer(), results=lambda result: None
        )
