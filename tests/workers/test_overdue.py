"""A handler that does not return is noticed, with its symbol and where it waits."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from trio_ticks.cli.report import report_text
from trio_ticks.observability.health import Health


async def until(held: Callable[[], Any]) -> None:
    while not held():  # noqa: ASYNC110 - what is waited for has no event
        await trio.sleep(0.01)


async def waits_for_a_lock() -> None:
    await trio.sleep_forever()


async def test_it_is_told_everywhere_with_the_place(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(tick: tt.Tick) -> None:
        if tick.volume == 3:
            await waits_for_a_lock()

    ticks = [*make_ticks(6, symbols=("A",)), *make_ticks(6, symbols=("B",))]
    async with tt.open_pipeline(
        tt.IterableFeed(ticks), handler, workers=2, shutdown_timeout=0
    ) as pipeline:
        await trio.sleep(0.1)
        assert pipeline.ledger.in_flight == 2
        assert pipeline.metrics().overdue is None
        await trio.sleep(2)
        with caplog.at_level(logging.WARNING):
            late = pipeline.metrics().overdue
        assert late is not None
        assert late.workers >= 1
        assert late.symbol in ("A", "B")
        assert late.for_s >= 1.9
        facts = Health(pipeline).ready(trio.current_time()).facts
        assert facts["overdue"]["symbol"] == late.symbol
        json.dumps(facts)
    line = next(each.getMessage() for each in caplog.records if "overdue" in each.getMessage())
    assert "in waits_for_a_lock" in line
    assert "in handler" in line
    assert "loop_work" not in line


async def test_the_report_tells_it_after_the_end(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        if tick.volume == 3:
            await waits_for_a_lock()

    ticks = make_ticks(6, symbols=("A", "B"))
    async with tt.open_pipeline(
        tt.IterableFeed(ticks), handler, workers=3, shutdown_timeout=0
    ) as pipeline:
        await trio.sleep(0.5)
        assert pipeline.metrics().overdue is None
        await trio.sleep(4)
        assert pipeline.metrics().overdue is not None
    await trio.sleep(1)
    assert pipeline.report.overdue is not None
    assert pipeline.report.overdue.workers == 1
    assert "NO RETURN from a handler for 4.0 s, of B: the log says where" in report_text(
        pipeline.report
    )


async def test_what_has_returned_is_not_in_the_report(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        if tick.volume == 3:
            await trio.sleep(5)

    feed = tt.IterableFeed(make_ticks(6, symbols=("A", "B")))
    async with tt.open_pipeline(feed, handler, workers=3) as pipeline:
        await trio.sleep(0.5)
        assert pipeline.metrics().overdue is None
        await trio.sleep(4)
        assert pipeline.metrics().overdue is not None
    assert pipeline.report.overdue is None
    assert "NO RETURN" not in report_text(pipeline.report)


async def test_a_strategy_that_is_usually_slow_is_not_overdue(autojump_clock: MockClock) -> None:
    async def handler(_tick: tt.Tick) -> None:
        await trio.sleep(1.5)

    async with tt.open_pipeline(
        tt.IterableFeed(make_ticks(20, symbols=("A",))), handler, workers=1, overflow=tt.Block()
    ) as pipeline:
        await until(lambda: pipeline.ledger.consumed > 0)
        for _ in range(40):
            await trio.sleep(0.2)
            assert pipeline.metrics().overdue is None
        await pipeline.wait()


async def test_the_wait_between_two_tries_is_not_overdue(autojump_clock: MockClock) -> None:
    tries = 0

    async def handler(_tick: tt.Tick) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ConnectionError

    retry = tt.Retry(on=(ConnectionError,), initial_s=20, maximum_s=20)
    async with tt.open_pipeline(tt.IterableFeed(make_ticks(1)), handler, retry=retry) as pipeline:
        while not pipeline.ledger.consumed:
            await trio.sleep(0.2)
            assert pipeline.metrics().overdue is None
    assert tries == 2


async def test_it_ends_when_the_handler_returns(autojump_clock: MockClock) -> None:
    go_on = trio.Event()

    async def handler(_tick: tt.Tick) -> None:
        await go_on.wait()

    async with tt.open_pipeline(tt.IterableFeed(make_ticks(1)), handler) as pipeline:
        await until(lambda: pipeline.ledger.in_flight)
        pipeline.metrics()
        await trio.sleep(5)
        assert pipeline.metrics().overdue is not None
        go_on.set()
        await pipeline.wait()
        assert pipeline.metrics().overdue is None


async def test_idle_workers_are_not_overdue(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(tt.IterableFeed([]), lambda _tick: None) as pipeline:
        for _ in range(5):
            await trio.sleep(10)
            assert pipeline.metrics().overdue is None


@tt.batch_handler(max_size=4)
async def hangs_with_a_batch(_ticks: list[tt.Tick]) -> None:
    await waits_for_a_lock()


async def test_where_a_batch_handler_waits_is_told(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with tt.open_pipeline(
        tt.IterableFeed(make_ticks(6)), hangs_with_a_batch, shutdown_timeout=0
    ) as pipeline:
        await until(lambda: pipeline.ledger.in_flight)
        pipeline.metrics()
        await trio.sleep(2)
        assert pipeline.metrics().overdue is not None
        pipeline.shutdown()
    line = next(each.getMessage() for each in caplog.records if "overdue" in each.getMessage())
    assert "in hangs_with_a_batch" in line
    assert "in waits_for_a_lock" in line
    assert "contexts.py" not in line


def fails(tick: tt.Tick) -> None:
    if tick.volume == 3:
        raise ValueError


async def fails_in_the_loop(tick: tt.Tick) -> None:
    fails(tick)


@tt.batch_handler(max_size=4)
async def fails_in_a_batch(ticks: list[tt.Tick]) -> None:
    for tick in ticks:
        fails(tick)


HANGS_IN_ON_ERROR = [fails_in_the_loop, fails_in_a_batch, fails]


@pytest.mark.parametrize("handler", HANGS_IN_ON_ERROR)
async def test_an_on_error_that_does_not_return_is_told_as_well(
    handler: Any, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async def on_error(_tick: tt.Tick, _error: Exception) -> None:
        await waits_for_a_lock()

    async with tt.open_pipeline(
        tt.IterableFeed(make_ticks(6)), handler, on_error=on_error, workers=1, shutdown_timeout=0
    ) as pipeline:
        await until(lambda: pipeline.ledger.failed)
        pipeline.metrics()
        await trio.sleep(3)
        assert pipeline.metrics().overdue is None
        await trio.sleep(3)
        late = pipeline.metrics().overdue
        assert late is not None
        assert (late.workers, late.symbol) == (1, "A")
        pipeline.shutdown()
    assert pipeline.report.overdue is not None
    line = next(each.getMessage() for each in caplog.records if "overdue" in each.getMessage())
    assert "on_error with A" in line
    assert "in waits_for_a_lock" in line


async def test_an_on_error_that_returned_is_not_in_the_report(autojump_clock: MockClock) -> None:
    async def on_error(_tick: tt.Tick, _error: Exception) -> None:
        await trio.sleep(8)

    ticks = make_ticks(4)  # the last one fails
    async with tt.open_pipeline(
        tt.IterableFeed(ticks), fails_in_the_loop, on_error=on_error, workers=1
    ) as pipeline:
        await until(lambda: pipeline.ledger.failed)
        pipeline.metrics()
        await trio.sleep(6)
        assert pipeline.metrics().overdue is not None
    assert pipeline.report.overdue is None


async def test_on_a_real_clock_nobody_has_to_ask(caplog: pytest.LogCaptureFixture) -> None:
    returns = threading.Event()

    def handler(_tick: tt.Tick) -> None:
        returns.wait(60)

    try:
        with caplog.at_level(logging.WARNING, "trio_ticks.workers"):
            async with tt.open_pipeline(tt.IterableFeed(make_ticks(1)), handler) as pipeline:
                await until(lambda: "handler.overdue" in caplog.text)
                returns.set()
                await pipeline.wait()
        # The thread's own stack: what the loop does meanwhile says nothing.
        (line,) = (each for each in caplog.messages if "overdue" in each)
        assert "returns.wait(60)" in line
        assert "_traps.py" not in line
    finally:
        returns.set()
