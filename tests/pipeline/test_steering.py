"""A pipeline is paused, resumed and resized while it runs, in the loop and threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds import process_handlers as handlers
from tests.worlds.helpers import make_tick, make_ticks, number
from tests.worlds.memory_buffer import MemoryBuffer
from tests.worlds.pipeline_world import Recorder, ScriptFeed, Send, listed, sleepy_feed
from tests.worlds.process_world import PATIENCE_S, path, quick_main, until
from trio_ticks.cli.report import progress_line
from trio_ticks.observability.health import Health
from trio_ticks.observability.prometheus import export_metrics
from trio_ticks.observability.terminal.panels import Pen, header

__all__ = ["path", "quick_main"]


def ticks(count: int, first: int = 0) -> list[tt.Tick]:
    return [make_tick("ABCDE"[n % 5], n) for n in range(first, first + count)]


# Pause


async def test_a_paused_pipeline_handles_nothing_and_drains_at_a_shutdown(
    autojump_clock: MockClock,
) -> None:
    handler = Recorder()
    async with tt.open_pipeline(sleepy_feed(ticks(20)), handler) as pipeline:
        pipeline.pause()
        pipeline.pause()
        assert pipeline.paused == "queue"
        await trio.sleep(60)
        assert handler.ticks == []
        metrics = pipeline.metrics()
        assert (metrics.state, metrics.paused, metrics.items_consumed) == ("paused", "queue", 0)
        assert metrics.producer_connected
        assert [row.state for row in metrics.workers] == ["idle"] * 4
        pipeline.ledger.check()
    assert len(handler.ticks) == pipeline.report.consumed == 20
    assert pipeline.paused is None
    pipeline.pause()
    pipeline.resume()
    pipeline.resize(workers=2)
    assert (pipeline.paused, pipeline.phase) == (None, "stopped")


async def test_it_goes_on_where_it_was(autojump_clock: MockClock) -> None:
    handler = Recorder(seconds=1)
    async with tt.open_pipeline(sleepy_feed(ticks(20)), handler, workers=1) as pipeline:
        await trio.sleep(4.5)
        pipeline.pause()
        await trio.sleep(60)
        # The tick in hand was finished.
        assert [number(tick) for tick in handler.ticks] == [0, 1, 2, 3, 4]
        assert pipeline.metrics().items_consumed == 5
        pipeline.resume()
        pipeline.resume()
        assert (pipeline.paused, pipeline.phase) == (None, "running")
        await trio.sleep(3.5)
        assert [number(tick) for tick in handler.ticks] == list(range(9))
        assert pipeline.metrics().items_consumed == 8


@pytest.mark.parametrize("at", [1, 2, 50, 51, 120])
async def test_a_handler_may_pause(autojump_clock: MockClock, at: int) -> None:
    """No tick begins behind the one that pauses: not in a sprint either."""
    handled: list[tt.Tick] = []

    async def handler(tick: tt.Tick) -> None:
        handled.append(tick)
        if len(handled) == at:
            pipeline.pause()

    async with tt.open_pipeline(sleepy_feed(ticks(200)), handler, workers=2) as pipeline:
        await trio.sleep(1)
        assert len(handled) == at
        pipeline.resume()
        await trio.sleep(1)
        assert len(handled) == 200


async def test_the_overflow_strategy_decides_meanwhile(autojump_clock: MockClock) -> None:
    handler = Recorder()

    async def script(send: Send) -> None:
        for tick in ticks(50):
            await send.send(tick)
            await trio.sleep(1)

    async with tt.open_pipeline(
        ScriptFeed(script), handler, maxsize=10, overflow=tt.DropOldest()
    ) as pipeline:
        await trio.sleep(4.5)
        pipeline.pause()
        await trio.sleep(40)
        metrics = pipeline.metrics()
        assert (metrics.queue_size, metrics.dropped_by_reason["evicted"]) == (10, 30)
        pipeline.ledger.check()
        pipeline.resume()
        await pipeline.wait()
    assert [number(tick) for tick in handler.ticks] == [*range(5), *range(35, 50)]


async def test_an_empty_queue_holds_nothing_up(autojump_clock: MockClock) -> None:
    ended = trio.Event()
    async with tt.open_pipeline(listed(ticks(3), then=ended.wait), Recorder()) as pipeline:
        await trio.sleep(1)
        pipeline.pause()
        await trio.sleep(1)
        ended.set()
        with trio.fail_after(1):
            await pipeline.wait()
    assert pipeline.report.consumed == 3


async def test_what_is_queued_keeps_it_up(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(listed(ticks(3)), Recorder()) as pipeline:
        pipeline.pause()
        with trio.move_on_after(60) as scope:
            await pipeline.wait()
        assert scope.cancelled_caught
        assert pipeline.phase == "draining"
        pipeline.resume()
        await pipeline.wait()
    assert pipeline.report.consumed == 3


async def test_ticks_of_a_threads_batch_are_called_back() -> None:
    entered, go = threading.Event(), threading.Event()
    handled: list[int] = []

    def handler(tick: tt.Tick) -> None:
        handled.append(number(tick))
        if number(tick) == 500:
            entered.set()
            go.wait(PATIENCE_S)

    with trio.fail_after(PATIENCE_S):
        async with tt.open_pipeline(
            sleepy_feed(ticks(1000)), handler, workers=1, executor="thread"
        ) as pipeline:
            await trio.to_thread.run_sync(entered.wait, PATIENCE_S)
            pipeline.pause()
            # On a busy machine ticks of other symbols may have been called back before.
            assert pipeline.metrics().queue_size == 1000 - len(handled)
            assert len(handled) < 900
            go.set()
            await until(lambda: not pipeline.metrics().in_flight)
            await wait_all_tasks_blocked(0.05)
            assert handled[-1] == 500
            pipeline.ledger.check()
            pipeline.resume()
            await until(lambda: len(handled) == 1000)
    assert sorted(handled) == list(range(1000))


async def test_the_rest_of_a_processes_batch_goes_back_when_a_failure_ends_it(path: Path) -> None:
    """``on_error`` pauses: what the worker holds besides is queued again."""

    def on_error(_tick: tt.Tick, _error: Exception) -> None:
        pipeline.pause()

    bad = [tt.Tick("A", tick.timestamp, -1.0, 1, 1, 1, number(tick)) for tick in ticks(30)]
    with trio.fail_after(PATIENCE_S):
        async with tt.open_pipeline(
            sleepy_feed(bad), handlers.Tell(str(path)), workers=1, executor="process",
            on_error=on_error,
        ) as pipeline:  # fmt: skip
            for count in range(1, 31):
                await until(lambda count=count: pipeline.ledger.failed == count)  # type: ignore[misc]
                await until(lambda: not pipeline.metrics().in_flight)
                await wait_all_tasks_blocked(0.01)
                assert pipeline.ledger.failed == count
                assert pipeline.metrics().queue_size == 30 - count
                pipeline.ledger.check()
                pipeline.resume()
    assert [line.number for line in handlers.read(path)] == list(range(30))


async def test_a_batch_handler_gets_no_batch(autojump_clock: MockClock) -> None:
    sizes: list[int] = []

    @tt.batch_handler(max_size=10, max_wait=2)
    async def handler(batch: list[tt.Tick]) -> None:
        sizes.append(len(batch))

    async with tt.open_pipeline(sleepy_feed(ticks(5)), handler, workers=1) as pipeline:
        await trio.sleep(1)
        pipeline.pause()  # while it gathers
        await trio.sleep(60)
        assert sizes == []
        pipeline.resume()
        await trio.sleep(1)
        assert sizes == [5]


async def test_from_any_thread() -> None:
    handled: list[int] = []

    def handler(tick: tt.Tick) -> None:
        handled.append(number(tick))
        if number(tick) == 5:
            pipeline.pause()
            pipeline.resize(workers=1)

    with trio.fail_after(PATIENCE_S):
        async with tt.open_pipeline(
            sleepy_feed(ticks(10)), handler, workers=3, ordering="none"
        ) as pipeline:
            await until(lambda: pipeline.phase == "paused")
            await until(lambda: len(pipeline.metrics().workers) == 1)
            pipeline.ledger.check()
            await trio.to_thread.run_sync(pipeline.resume)
            await until(lambda: len(handled) == 10)
            assert pipeline.phase == "running"


async def test_it_is_not_ready_and_says_why(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(sleepy_feed(ticks(1)), Recorder()) as pipeline:
        health = Health(pipeline)
        await trio.sleep(1)
        assert health.ready(trio.current_time()).ok
        assert "paused" not in health.ready(trio.current_time()).facts
        pipeline.pause()
        report = health.ready(trio.current_time())
        assert not report.ok
        assert (report.facts["paused"], report.facts["running"]) == ("queue", False)
        assert report.facts["connected"]
        alive = health.alive()
        assert alive.ok
        assert alive.facts["state"] == "paused"


async def test_terminal_and_metrics_say_it(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(sleepy_feed(ticks(1)), Recorder()) as pipeline:
        await trio.sleep(1)
        pipeline.pause()
        metrics = pipeline.metrics()
        line = header(metrics, Pen(), 80, title="t", subtitle="", duration_s=None).plain
        assert "● connected  PAUSED" in line
        assert "connected, PAUSED  in 1/s" in progress_line(metrics)
        registry = CollectorRegistry()
        with export_metrics(pipeline, registry=registry):
            states = {
                state: registry.get_sample_value(
                    "trio_ticks_pipeline_state", {"pipeline": "main", "state": state}
                )
                for state in ("running", "paused", "draining", "stopped")
            }
        assert states == {"running": 0, "paused": 1, "draining": 0, "stopped": 0}


async def test_it_says_so_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trio_ticks.pipeline")
    async with tt.open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        for call in (pipeline.pause, pipeline.pause, pipeline.resume, pipeline.resume):
            call()
    said = [line.split(":")[0] for line in caplog.messages if "stopping" not in line]
    assert [line.split()[0] for line in said] == ["pipeline.paused", "pipeline.resumed"]


async def _sleep(_send: Send) -> None:
    await trio.sleep_forever()


class Silent(ScriptFeed):
    """A feed that can be suspended; it notes it."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__(_sleep)
        self.calls = calls

    def suspend(self) -> None:
        self.calls.append("suspend")

    def resume(self) -> None:
        self.calls.append("resume")


@pytest.mark.parametrize("merged", [False, True])
async def test_the_feed_is_told(autojump_clock: MockClock, merged: bool) -> None:
    calls: list[str] = []
    feed: Any = [Silent(calls), Silent(calls)] if merged else Silent(calls)
    each = 2 if merged else 1
    async with tt.open_pipeline(feed, Recorder()) as pipeline:
        pipeline.pause()
        assert calls == []
        pipeline.pause(feed="unsubscribe")
        pipeline.pause(feed="unsubscribe")
        assert (calls, pipeline.paused) == (["suspend"] * each, "unsubscribe")
        pipeline.pause(feed="queue")
        assert calls == ["suspend"] * each + ["resume"] * each
        pipeline.pause(feed="unsubscribe")
        pipeline.resume()
        assert calls == (["suspend"] * each + ["resume"] * each) * 2


@pytest.mark.parametrize("end", ["shutdown", "cancel"])
async def test_a_pause_ends_with_its_pipeline(autojump_clock: MockClock, end: str) -> None:
    calls: list[str] = []
    async with tt.open_pipeline(Silent(calls), Recorder()) as pipeline:
        await trio.sleep(1)
        pipeline.pause(feed="unsubscribe")
        getattr(pipeline, end)()
    assert calls == ["suspend", "resume"]


async def test_what_a_feed_raises_at_the_end_of_its_pause_is_raised(
    autojump_clock: MockClock,
) -> None:
    class Stubborn(Silent):
        def resume(self) -> None:
            raise OSError("not now")

    async def pause_at_the_end() -> None:
        async with tt.open_pipeline(Stubborn([]), Recorder()) as pipeline:
            await trio.sleep(1)
            pipeline.pause(feed="unsubscribe")

    with pytest.raises(OSError, match="not now"):
        await pause_at_the_end()


@pytest.mark.parametrize("feed", [sleepy_feed(), [Silent([]), sleepy_feed()]])
async def test_a_feed_that_cannot(autojump_clock: MockClock, feed: Any) -> None:
    async with tt.open_pipeline(feed, Recorder()) as pipeline:
        with pytest.raises(tt.ConfigError, match=r"cannot be unsubscribed from.*feed=\"queue\""):
            pipeline.pause(feed="unsubscribe")
        with pytest.raises(tt.ConfigError, match=r'feed must be "queue" or "unsubscribe", got'):
            pipeline.pause(feed="stop")
        assert (pipeline.paused, pipeline.phase) == (None, "running")


# Resize


@pytest.mark.parametrize("executor", ["loop", "thread"])
async def test_so_many_ticks_are_handled_at_once(executor: str) -> None:
    inside, most, go = 0, 0, threading.Event()
    lock = threading.Lock()

    def enter(step: int) -> None:
        nonlocal inside, most
        with lock:
            inside += step
            most = max(most, inside)

    def in_thread(_tick: tt.Tick) -> None:
        enter(1)
        go.wait(PATIENCE_S)
        enter(-1)

    async def in_loop(_tick: tt.Tick) -> None:
        enter(1)
        await until(go.is_set)
        enter(-1)

    handler: Callable[[Any], Any] = in_loop if executor == "loop" else in_thread
    with trio.fail_after(PATIENCE_S):
        async with tt.open_pipeline(
            sleepy_feed(ticks(200)), handler, workers=1, ordering="none", executor=executor
        ) as pipeline:
            await until(lambda: inside == 1)
            pipeline.resize(workers=8)
            await until(lambda: inside == 8)
            assert len(pipeline.metrics().workers) == 8
            pipeline.resize(workers=3)
            go.set()
            await until(lambda: len(pipeline.metrics().workers) == 3)
            await until(lambda: pipeline.metrics().items_consumed == 200)
            pipeline.ledger.check()
    assert most == 8
    assert pipeline.report.consumed == 200


async def test_idle_workers_leave_at_once_and_take_no_count_along(
    autojump_clock: MockClock,
) -> None:
    async with tt.open_pipeline(sleepy_feed(ticks(50)), Recorder(0.1), workers=5) as pipeline:
        await trio.sleep(10)
        pipeline.resize(workers=2)
        await wait_all_tasks_blocked()
        metrics = pipeline.metrics()
        assert (len(metrics.workers), metrics.items_consumed) == (2, 50)
        pipeline.resize(workers=2)
        assert len(pipeline.metrics().workers) == 2


async def test_before_the_workers_have_begun(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(sleepy_feed(ticks(5)), Recorder(1), workers=1) as pipeline:
        pipeline.resize(workers=5)
        await trio.sleep(1.5)
        assert pipeline.metrics().items_consumed == 5


async def test_processes_are_hired_and_dismissed(path: Path) -> None:
    script, more = trio.open_memory_channel[list[tt.Tick]](0)

    async def feed(send: Send) -> None:
        async for batch in more:
            await send.send_many(batch)

    with trio.fail_after(PATIENCE_S):
        async with tt.open_pipeline(
            ScriptFeed(feed), handlers.Tell(str(path)), workers=1, executor="process"
        ) as pipeline:
            await script.send(ticks(20))
            await until(lambda: pipeline.ledger.consumed == 20)
            pipeline.resize(workers=2)
            await until(lambda: all(row.state == "idle" for row in pipeline.metrics().workers))
            # Symbols that have not come yet go to the new one.
            await script.send([make_tick("NEW", 20)])
            await until(lambda: pipeline.ledger.consumed == 21)
            pipeline.resize(workers=1)
            await until(lambda: len(pipeline.metrics().workers) == 1)
            await script.send([*ticks(5, first=21), make_tick("NEW", 26)])
            await until(lambda: pipeline.ledger.consumed == 27)
            pipeline.ledger.check()
    lines = handlers.read(path)
    assert len({line.pid for line in lines[:20]}) == 1
    assert lines[20].pid != lines[0].pid
    assert len({line.pid for line in lines[21:]}) == 1


async def test_what_cannot_be_resized(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(sleepy_feed(), Recorder(), workers="auto") as pipeline:
        with pytest.raises(tt.ConfigError, match=r'workers="auto" sizes itself'):
            pipeline.resize(workers=2)
    async with tt.open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        for wrong in (0, -1, 1.5, "2", None, True):
            with pytest.raises(tt.ConfigError, match="workers must be"):
                pipeline.resize(workers=wrong)  # type: ignore[arg-type]
    async with tt.open_pipeline(sleepy_feed(), None, buffer=MemoryBuffer()) as pipeline:
        with pytest.raises(tt.ConfigError, match="an ingest has no workers"):
            pipeline.resize(workers=2)


# With a buffer between processes


async def test_workers_give_their_shards_up(autojump_clock: MockClock) -> None:
    buffer, handler, other = MemoryBuffer(pack=1, turn_s=0.02), Recorder(1), Recorder()
    async with tt.open_pipeline(listed(ticks(60)), None, buffer=buffer) as ingest:
        await ingest.wait()
    async with tt.open_pipeline(None, handler, buffer=buffer, workers=2) as pipeline:
        await trio.sleep(5.5)
        for _ in range(2):
            pipeline.pause()
        before = len(handler.ticks)
        await trio.sleep(60)
        assert len(handler.ticks) == before
        assert pipeline.ledger.consumed == before
        statistics = pipeline.buffer_statistics
        assert statistics is not None
        assert (buffer.used, statistics.acknowledged) == (60 - before, before)
        assert pipeline.metrics().queue_size == 0
        pipeline.ledger.check()
        # Others go on with them meanwhile.
        async with tt.open_pipeline(None, other, buffer=buffer) as second:
            await until(lambda: len(other.ticks) >= 5)
            second.pause()
            await trio.sleep(1)
            pipeline.resume()
            await trio.sleep(100)
            second.cancel()
        assert buffer.used == 0
        pipeline.ledger.check()
        statistics = pipeline.buffer_statistics
        assert statistics is not None
        assert statistics.acknowledged == pipeline.ledger.consumed == len(handler.ticks)
        assert statistics.received == statistics.acknowledged + pipeline.ledger.given_back
    numbers = sorted(number(tick) for tick in handler.ticks + other.ticks)
    assert numbers == list(range(60))


@pytest.mark.parametrize("resumes", [False, True])
async def test_a_shutdown_while_shards_are_given_up(
    autojump_clock: MockClock, resumes: bool
) -> None:
    buffer, handler = MemoryBuffer(pack=1, turn_s=0.02), Recorder(1)
    async with tt.open_pipeline(listed(ticks(20)), None, buffer=buffer) as ingest:
        await ingest.wait()
    with trio.fail_after(60):
        async with tt.open_pipeline(None, handler, buffer=buffer, workers=2) as pipeline:
            await trio.sleep(2.5)
            pipeline.pause()
            if resumes:
                pipeline.resume()
                pipeline.pause()
                pipeline.resume()
            else:
                await trio.sleep(5)
    assert pipeline.report.ledger.unaccounted == 0
    assert buffer.used == 20 - len(handler.ticks)


async def test_an_ingest_appends_nothing(autojump_clock: MockClock) -> None:
    buffer = MemoryBuffer()
    async with tt.open_pipeline(sleepy_feed(ticks(20)), None, buffer=buffer) as pipeline:
        pipeline.pause()
        await trio.sleep(5)
        assert (buffer.appended, pipeline.metrics().queue_size) == (0, 20)
        pipeline.ledger.check()
        pipeline.resume()
        await trio.sleep(1)
        assert buffer.appended == 20
        pipeline.pause()
    assert pipeline.report.consumed == 20


async def test_both_halves(autojump_clock: MockClock) -> None:
    buffer, calls = MemoryBuffer(), list[str]()
    async with tt.open_pipeline(Silent(calls), Recorder(), buffer=buffer) as pipeline:
        assert pipeline.ingest is not None
        pipeline.pause(feed="unsubscribe")
        assert (pipeline.phase, calls) == ("paused", ["suspend"])
        assert pipeline.ingest.phase == "paused"
        pipeline.pause()
        assert (pipeline.ingest.phase, calls) == ("running", ["suspend", "resume"])
        pipeline.resume()
        assert pipeline.phase == "running"
    async with tt.open_pipeline(None, Recorder(), buffer=buffer) as pipeline:
        with pytest.raises(tt.ConfigError, match="is for a program that has the feed"):
            pipeline.pause(feed="unsubscribe")


async def test_who_is_dismissed_before_it_begins_never_does(autojump_clock: MockClock) -> None:
    class Made:
        count = 0

        def __init__(self) -> None:
            Made.count += 1

        async def __call__(self, _tick: tt.Tick) -> None: ...

    async with tt.open_pipeline(sleepy_feed(make_ticks(30, "ABC")), Made, workers=1) as pipeline:
        await wait_all_tasks_blocked()
        for _ in range(8):
            pipeline.resize(workers=4)
            pipeline.resize(workers=1)
        pipeline.resize(workers=2)
        await wait_all_tasks_blocked()
        assert Made.count == 2
        assert len(pipeline.metrics().workers) == 2
        pipeline.shutdown()
        await pipeline.wait()
    assert pipeline.report.consumed == 30
