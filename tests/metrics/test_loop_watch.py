"""A loop that stands still is noticed, by a thread that says where it stands."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import sleepy_feed
from trio_ticks.clock import Clock
from trio_ticks.metrics.loop_watch import LoopWatch, watch_loop
from trio_ticks.observability.prometheus import export_metrics

NAME = "trio-ticks-loop"


def watching() -> int:
    return sum(thread.name == NAME for thread in threading.enumerate())


async def test_a_handler_that_blocks_is_counted_and_its_line_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def my_strategy(_tick: tt.Tick) -> None:
        time.sleep(1.5)  # noqa: ASYNC251  # that is what is tested

    with caplog.at_level(logging.INFO, "trio_ticks.pipeline"):
        async with tt.open_pipeline(sleepy_feed(make_ticks(1)), my_strategy) as pipeline:
            with trio.fail_after(60):
                while not pipeline.metrics().loop_blocks:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            metrics = pipeline.metrics()
    assert metrics.loop_blocks == 1
    assert metrics.loop_delay_ms > 1000
    lines = [record.getMessage() for record in caplog.records if "loop." in record.getMessage()]
    (blocked,) = [line for line in lines if line.startswith("loop.blocked: for ")]
    assert "in my_strategy" in blocked
    assert "time.sleep(1.5)" in blocked
    assert "trio/_core" not in blocked.replace("\\", "/")
    assert any(line.startswith("loop.moved: after ") for line in lines)


async def test_what_a_scrape_shows() -> None:
    async def handler(_tick: tt.Tick) -> None:
        time.sleep(0.6)  # noqa: ASYNC251

    registry = CollectorRegistry()
    async with tt.open_pipeline(sleepy_feed(make_ticks(1)), handler) as pipeline:
        with trio.fail_after(60):
            while not pipeline.metrics().loop_blocks:  # noqa: ASYNC110
                await trio.sleep(0.05)
        with export_metrics(pipeline, registry):
            text = generate_latest(registry).decode()
    assert 'trio_ticks_event_loop_blocks_total{pipeline="main"} 1.0\n' in text
    long = 'trio_ticks_event_loop_delay_seconds_bucket{le="0.25",pipeline="main"}'
    every = 'trio_ticks_event_loop_delay_seconds_count{pipeline="main"}'
    counts = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(counts[every]) > float(counts[long])


async def test_blocks_in_a_row_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def my_strategy(_tick: tt.Tick) -> None:
        time.sleep(0.6)  # noqa: ASYNC251
        # The next ask of the watch comes within this time, or within the next block.
        await trio.sleep(0.3)

    with caplog.at_level(logging.INFO, "trio_ticks.pipeline"):
        async with tt.open_pipeline(sleepy_feed(make_ticks(8)), my_strategy) as pipeline:
            with trio.fail_after(60):
                while pipeline.metrics().loop_blocks < 3:  # noqa: ASYNC110
                    await trio.sleep(0.05)
    events = [getattr(record, "event", "") for record in caplog.records]
    assert events.count("loop.blocked") == 1


async def test_one_thread_a_loop_that_ends_with_the_last_pipeline() -> None:
    async def handler(_tick: tt.Tick) -> None: ...

    assert watching() == 0
    async with tt.open_pipeline(sleepy_feed(make_ticks(1)), handler) as first:
        assert watching() == 1
        async with tt.open_pipeline(sleepy_feed(make_ticks(1)), handler) as second:
            assert watching() == 1
            assert first.loop_watch is second.loop_watch
        assert watching() == 1
    assert watching() == 0
    async with tt.open_pipeline(sleepy_feed(make_ticks(1)), handler):
        assert watching() == 1
    assert watching() == 0


async def test_a_watch_that_is_being_stopped_does_not_ask() -> None:
    """The loop waits for its thread then: an ask would find that the loop stands."""
    watch = LoopWatch(trio.lowlevel.current_trio_token(), threading.get_ident())
    watch.start()
    await trio.sleep(0.1)  # about when the thread is to ask for the first time
    watch.stop()
    assert watching() == 0
    assert watch.blocks == 0


async def test_what_is_called_at_each_beat_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    called = 0

    def beat() -> None:
        nonlocal called
        called += 1
        raise ValueError("a symbol that cannot be read")

    with watch_loop(Clock(), beat), trio.fail_after(60):
        while called < 3:  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.01)
    assert "loop.beat" in caplog.text
    assert caplog.text.count("loop.beat times=") == 1


async def test_a_virtual_clock_has_no_watch(autojump_clock: MockClock) -> None:
    async def handler(_tick: tt.Tick) -> None: ...

    async with tt.open_pipeline(sleepy_feed(make_ticks(1)), handler) as pipeline:
        assert watching() == 0
        await trio.sleep(10)
        assert (pipeline.metrics().loop_blocks, pipeline.metrics().loop_delay_ms) == (0, 0.0)


IDLE = """
import trio, trio_ticks as tt

async def ticks():
    print("ready", flush=True)
    await trio.to_thread.run_sync(input)
    await trio.sleep(0.5)
    return
    yield

async def main():
    async with tt.open_pipeline(tt.IterableFeed(ticks()), lambda tick: None) as pipeline:
        await pipeline.wait()
        print(pipeline.metrics().loop_blocks)

trio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP on Windows")
def test_a_process_that_was_stopped_has_not_blocked_its_loop() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            os.kill(child.pid, signal.SIGSTOP)
            time.sleep(1.0)
            os.kill(child.pid, signal.SIGCONT)
            out, _ = child.communicate("\n", timeout=60)
        finally:
            child.kill()
    assert out == "0\n"


async def test_a_log_handler_that_raises_does_not_end_the_watch() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the log is full")

    async def handler(_tick: tt.Tick) -> None:
        time.sleep(0.6)  # noqa: ASYNC251
        await trio.sleep(0.3)

    log, broken = logging.getLogger("trio_ticks.pipeline"), Broken()
    log.addHandler(broken)
    try:
        async with tt.open_pipeline(sleepy_feed(make_ticks(8)), handler) as pipeline:
            with trio.fail_after(60):
                while pipeline.metrics().loop_blocks < 1:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            assert watching() == 1
            log.removeHandler(broken)
    finally:
        log.removeHandler(broken)
