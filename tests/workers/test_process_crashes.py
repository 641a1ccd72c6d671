"""Worker processes that end, hang, or are killed: they are replaced.

Every tick is accounted for, by what really became of it. The clock is real, and the
processes are: nothing is asserted about time.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_ticks as tt
from tests.worlds import process_handlers as handlers
from tests.worlds.helpers import make_ticks, number
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted, listed, sleepy_feed
from tests.worlds.process_handlers import Tell, read
from tests.worlds.process_world import (
    by_symbol,
    guarded,
    numbers_of,
    path,
    quick_main,
    tick,
    until,
    workers_now,
)
from trio_ticks import open_pipeline

__all__ = ["guarded", "path", "quick_main"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")

Told = list[tuple[int, Exception]]


def telling(errors: Told) -> dict[str, Any]:
    """Return settings of one process; its errors go to *errors*, with tick numbers."""
    return {
        "executor": "process",
        "workers": 1,
        "on_error": lambda item, error: errors.append((number(item), error)),
    }


def timeouts_and_restarts(pipeline: tt.Pipeline[Any]) -> tuple[int, int]:
    workers = pipeline.worker_statistics()
    return workers.timeouts, workers.restarts


async def until_consumed(pipeline: tt.Pipeline[Any], count: int) -> None:
    await until(lambda: pipeline.ledger.consumed >= count)


async def test_the_tick_that_ends_its_process_has_failed_and_no_other(path: Path) -> None:
    errors: Told = []
    ticks = [tick("A", n, bid=13.0 if n in (3, 4, 9) else 100.0) for n in range(12)]
    async with open_pipeline(listed(ticks), Tell(str(path)), **telling(errors)) as pipeline:
        await pipeline.wait()
        assert pipeline.worker_statistics().restarts == 3
        assert pipeline.metrics().worker_restarts == 3
    assert_accounted(pipeline.report, consumed=9, failed=3)
    assert [(n, type(error)) for n, error in errors] == [
        (n, tt.WorkerCrashedError) for n in (3, 4, 9)
    ]
    assert [getattr(error, "exitcode", None) for _n, error in errors] == [-signal.SIGKILL] * 3
    # Each of them once: no handled tick was handled again, and no waiting one was lost.
    assert numbers_of(path) == {"A": list(range(12))}
    assert len({line.pid for line in read(path)}) == 4


async def test_a_tick_that_ends_its_process_is_tried_once_more_where_that_is_wanted(
    path: Path,
) -> None:
    errors: Told = []
    ticks = [tick("A", n, bid=13.0 if n in (1, 3) else 100.0) for n in range(5)]
    async with open_pipeline(
        listed(ticks), Tell(str(path)), on_crash="retry", **telling(errors)
    ) as pipeline:
        await pipeline.wait()
        assert pipeline.worker_statistics().restarts == 4
    assert_accounted(pipeline.report, consumed=3, failed=2)
    assert [n for n, _error in errors] == [1, 3]
    assert numbers_of(path) == {"A": [0, 1, 1, 2, 3, 3, 4]}


async def test_a_batch_that_ends_its_process_has_failed_whole(path: Path) -> None:
    async with open_pipeline(
        sleepy_feed(make_ticks(4, "A")),
        handlers.DiesWithBatches(str(path)),
        executor="process",
        workers=1,
        on_error=lambda *_: None,
    ) as pipeline:
        await until(lambda: pipeline.ledger.consumed + pipeline.ledger.failed == 4)
        assert pipeline.ledger.failed >= 1
    pipeline.ledger.check()


async def test_an_idle_process_that_was_killed_costs_nothing(path: Path) -> None:
    async def script(send: Send) -> None:
        for n in range(3):
            await send.send_many(make_ticks(5, "AB", first=5 * n))
            await until_consumed(pipeline, 5 * n + 5)
            for pid in workers_now():
                os.kill(pid, signal.SIGKILL)
            await until(lambda: not workers_now())

    async with open_pipeline(
        ScriptFeed(script), Tell(str(path)), executor="process", workers=2
    ) as pipeline:
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=15)
    assert numbers_of(path) == {"A": list(range(0, 15, 2)), "B": list(range(1, 15, 2))}


async def test_a_handler_that_takes_too_long_costs_its_process_and_that_tick_alone(
    path: Path,
) -> None:
    errors: Told = []
    ticks = [tick("A", n, bid=14.0 if n in (2, 5) else 100.0) for n in range(8)]
    async with open_pipeline(
        listed(ticks), Tell(str(path)), handler_timeout=0.3, **telling(errors)
    ) as pipeline:
        await pipeline.wait()
        assert timeouts_and_restarts(pipeline) == (2, 2)
    assert_accounted(pipeline.report, consumed=6, failed=2)
    assert [(n, type(error)) for n, error in errors] == [
        (n, tt.HandlerTimeoutError) for n in (2, 5)
    ]
    assert numbers_of(path) == {"A": list(range(8))}


async def test_the_limit_is_for_each_try_not_for_all_of_them_or_for_a_batch(path: Path) -> None:
    ticks = [tick("A", n, bid=15.0, seconds=0.2) for n in range(5)]
    async with open_pipeline(
        listed(ticks),
        handlers.SlowFlaky(str(path)),
        executor="process",
        workers=1,
        handler_timeout=0.5,
        retry=tt.Retry(ConnectionError),
    ) as pipeline:
        await pipeline.wait()
        assert timeouts_and_restarts(pipeline) == (0, 0)
    assert_accounted(pipeline.report, consumed=5)


async def test_an_async_handler_that_blocks_its_loop_is_ended_too(path: Path) -> None:
    errors: Told = []
    ticks = [tick("A", 0), tick("A", 1, bid=15), tick("A", 2)]
    async with open_pipeline(
        listed(ticks), handlers.TellAsync(str(path)), handler_timeout=0.1, **telling(errors)
    ) as pipeline:
        await pipeline.wait()
        assert pipeline.worker_statistics().restarts == 1
    assert_accounted(pipeline.report, consumed=2, failed=1)
    assert [(n, type(error)) for n, error in errors] == [(1, tt.HandlerTimeoutError)]


async def test_a_cancelled_pipeline_counts_what_was_handled_and_kills_what_is_busy(
    path: Path,
) -> None:
    ticks = [*make_ticks(4, "A"), tick("A", 4, bid=14), *make_ticks(5, "A", first=5)]
    async with open_pipeline(
        sleepy_feed(ticks), Tell(str(path)), executor="process", workers=1
    ) as pipeline:
        await until(lambda: len(read(path)) == 5)
        pipeline.cancel()
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=4, shutdown=6)


async def test_a_graceful_shutdown_is_bounded(path: Path) -> None:
    async with open_pipeline(
        sleepy_feed([tick("A", 0, bid=14), *make_ticks(3, "A", first=1)]),
        Tell(str(path)),
        executor="process",
        shutdown_timeout=0.1,
    ) as pipeline:
        await until(lambda: read(path))
    assert_accounted(pipeline.report, shutdown=4)


async def test_a_state_lives_as_long_as_its_process(path: Path) -> None:
    ticks = [tick("A", n, bid=13.0 if n == 5 else 100.0) for n in range(9)]
    async with open_pipeline(
        listed(ticks), Tell(str(path)), executor="process", workers=2, on_error=lambda *_: None
    ) as pipeline:
        await pipeline.wait()
    assert [line.event for line in by_symbol(read(path))["A"]] == [*"123456", *"123"]
    assert_accounted(pipeline.report, consumed=8, failed=1)


async def test_three_seconds_of_kills_under_load(path: Path) -> None:
    """The short form of ``python -m tests.soak_kill``."""
    rng = random.Random(5)
    failed: list[int] = []
    sent = 0

    async def script(send: Send) -> None:
        nonlocal sent
        while True:
            await send.send_many(make_ticks(50, "ABCDEFGH", first=sent))
            sent += 50

    async with open_pipeline(
        ScriptFeed(script),
        handlers.TellsLittle(str(path)),
        executor="process",
        workers=2,
        maxsize=500,
        overflow=tt.Block(),
        on_error=lambda item, error: failed.append(number(item)),
    ) as pipeline:
        for _ in range(3):
            await until_consumed(pipeline, pipeline.ledger.consumed + 500)
            await until(lambda: len(workers_now()) == 2)
            os.kill(rng.choice(sorted(workers_now())), signal.SIGKILL)
            await trio.sleep(0.5)
        await until_consumed(pipeline, pipeline.ledger.consumed + 500)
        assert 1 <= pipeline.worker_statistics().restarts <= 3
    report = pipeline.report
    assert report.ledger.unaccounted == 0
    assert report.produced == report.consumed + report.failed + report.dropped
    assert report.failed == len(failed) <= 3
    told = numbers_of(path)
    for numbers in told.values():
        assert numbers == sorted(set(numbers))
    # Handled and told, or ended in between the two.
    assert report.consumed <= sum(map(len, told.values())) + 3
