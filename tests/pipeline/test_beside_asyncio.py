"""Pipelines in a program of asyncio's: what docs/from_asyncio.md says works, does."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime
from functools import partial
from typing import Any

import outcome
import pytest
import trio

import trio_ticks as tt

TICKS = [
    tt.Tick("ABCD"[n % 4], datetime(2026, 3, 2, tzinfo=UTC), 100.0, 100.5, 2, 1, n)
    for n in range(40)
]


async def in_loop(_tick: tt.Tick) -> None:
    await trio.lowlevel.checkpoint()


def plain(_tick: tt.Tick) -> None:
    """Can be imported, as processes want it."""


async def in_a_thread(program: Any) -> Any:
    """Run *program* in a trio loop in a thread, from asyncio.

    Cancellation: none.
    """
    return await asyncio.to_thread(trio.run, program)


async def as_a_guest(program: Any) -> Any:
    """Run *program* in a trio loop that is asyncio's guest.

    Cancellation: none.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[outcome.Outcome[Any]] = loop.create_future()
    trio.lowlevel.start_guest_run(
        program,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=ended.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    return (await ended).unwrap()


HOSTS = [in_a_thread, as_a_guest]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("executor", ["loop", "thread", "process"])
def test_every_executor_works(host: Any, executor: str) -> None:
    if executor == "process":
        pytest.importorskip("trio_parallel")
    handler = in_loop if executor == "loop" else plain
    program = partial(
        tt.run_pipeline,
        tt.IterableFeed(TICKS),
        handler,
        executor=executor,
        workers=2,
        signals=False,
        overflow=tt.Block(),
    )
    report = asyncio.run(host(program))
    assert (report.consumed, report.failed, report.dropped) == (len(TICKS), 0, 0)


@pytest.mark.parametrize("host", HOSTS)
def test_asyncio_goes_on_and_its_signal_handler_shuts_the_pipeline_down(host: Any) -> None:
    began = asyncio.Event()
    pipelines: list[tt.Pipeline[Any]] = []

    async def endless() -> Any:
        while True:
            yield TICKS[0]
            await trio.sleep(0.005)

    async def program(began_soon: Any) -> int:
        async with tt.open_pipeline(tt.IterableFeed(endless()), in_loop) as pipeline:
            pipelines.append(pipeline)
            began_soon()
            await pipeline.wait()
        return pipeline.report.consumed + pipeline.report.dropped - pipeline.report.produced

    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: pipelines[0].shutdown())
        running = asyncio.create_task(
            host(partial(program, lambda: loop.call_soon_threadsafe(began.set)))
        )
        await began.wait()
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            return int(await asyncio.wait_for(running, 30))
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    assert asyncio.run(main()) == 0
