"""A loop that stands still is noticed, by a thread that says where it stands."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import sleepy_feed
from trio_ticks.clock import Clock
from trio_ticks.metrics import loop_watch
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
        # The loop turns within this time, so that the next block is one of its own.
        await trio.sleep(0.3)

    with caplog.at_level(logging.INFO, "trio_ticks.pipeline"):
        async with tt.open_pipeline(sleepy_feed(make_ticks(8)), my_strategy) as pipeline:
            with trio.fail_after(60):
                while pipeline.metrics().loop_blocks < 3:  # noqa: ASYNC110
                    await trio.sleep(0.05)
    events = [getattr(record, "event", "") for record in caplog.records]
    assert events.count("loop.blocked") == 1


async def test_a_loop_that_stands_still_soon_after_another_block_is_told_of_as_well(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_watch, "LOG_EVERY_S", 1.0)
    monkeypatch.setattr(loop_watch, "AGAIN", 2)
    went_on = threading.Event()
    ticks = iter(range(10))

    def said(name: str) -> bool:
        return any(name in message for message in caplog.messages)

    def first_block() -> None:
        while not said("in first_block"):
            time.sleep(0.01)

    def second_block() -> None:
        # Within the time in which no other line is due.
        while not said("in second_block") and not went_on.wait(0.01):
            pass
        third_place()

    def third_place() -> None:
        while not said("in third_place") and not went_on.wait(0.01):
            pass

    async def my_strategy(_tick: tt.Tick) -> None:
        (first_block, second_block)[next(ticks)]()
        await trio.sleep(0.3)

    timer = threading.Timer(60.0, went_on.set)
    timer.start()
    try:
        with caplog.at_level(logging.WARNING, "trio_ticks.pipeline"):
            async with tt.open_pipeline(sleepy_feed(make_ticks(2)), my_strategy) as pipeline:
                with trio.fail_after(100):
                    while pipeline.report.consumed < 2:  # noqa: ASYNC110
                        await trio.sleep(0.05)
    finally:
        timer.cancel()
    assert said("in second_block")
    assert said("in third_place")
    assert pipeline.loop_watch is not None
    assert pipeline.loop_watch.blocks == 2


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


async def test_a_watch_that_was_stopped_does_not_turn() -> None:
    """It would find that the loop stands: the loop waits for its thread then."""
    called = 0

    def beat() -> None:
        nonlocal called
        called += 1

    watch = LoopWatch(threading.get_ident())
    watch.beats = (beat,)
    watch.start()
    with trio.fail_after(60):
        while not called:  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.01)
    watch.stop()
    assert watching() == 0
    before = called
    await trio.sleep(0.3)
    assert called == before


class SlowToWake(threading.Event):
    """A thread that waits for it comes half a second late.

    As one does that waits for the interpreter beside a loop which computes: that lets
    go of it for an instant only, in each of its turns.
    """

    waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        return super().wait((timeout or 0.0) + 0.5)


async def _compute_until(enough: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not enough():
            until = time.process_time() + 0.002
            while time.process_time() < until:
                pass
            await trio.lowlevel.checkpoint()


async def test_a_thread_that_gets_no_turn_beside_a_loop_that_computes_raises_no_alarm(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SlowToWake] = []

    def event() -> SlowToWake:
        made.append(SlowToWake())
        return made[-1]

    slow = SimpleNamespace(Event=event, Thread=threading.Thread)
    monkeypatch.setattr("trio_ticks.metrics.loop_watch.threading", slow)
    watch = LoopWatch(threading.get_ident())
    watch.start()
    try:
        await _compute_until(lambda: sum(each.waits for each in made) > 3)
    finally:
        watch.stop()
    assert watch.blocks == 0
    assert "loop." not in caplog.text


async def test_c_code_that_keeps_the_interpreter_is_counted() -> None:
    """The watch's thread could not run meanwhile, so it cannot say where that was."""
    count = 10**6
    while True:
        began = time.process_time()
        sum(range(count))
        if (used := time.process_time() - began) > 0.05:
            break
        count *= 2
    with watch_loop(Clock(), lambda: None) as watch, trio.fail_after(60):
        while not watch.blocks:
            sum(range(int(count * 0.6 / used)))
            await trio.sleep(0.2)
        assert watch.delay_s() > 0.2


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


async def test_it_goes_on_after_what_a_signal_handler_has_raised_in_it() -> None:
    errors: list[BaseException] = []
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        if beats == 1:
            raise SystemExit(3)  # as a signal handler may, in the midst of anything

    with watch_loop(Clock(), beat, errors.append), trio.fail_after(60):
        while beats < 3:  # noqa: ASYNC110 - the watch sets no event
            await trio.sleep(0.05)
    assert [type(error) for error in errors] == [SystemExit]
