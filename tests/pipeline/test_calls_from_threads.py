"""``shutdown``, ``cancel``, ``metrics``, ``report`` from any thread, in every phase."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.pipeline_world import (
    Gate,
    Recorder,
    ScriptFeed,
    Send,
    assert_accounted,
    listed,
    sleepy_feed,
)
from trio_ticks import loop

PATIENCE_S = 30.0

Call = Callable[[tt.Pipeline[Any]], object]

CALLS: dict[str, Call] = {
    "shutdown": lambda pipeline: pipeline.shutdown(),
    "cancel": lambda pipeline: pipeline.cancel(),
    "metrics": lambda pipeline: pipeline.metrics(),
    "report": lambda pipeline: pipeline.report,
}


@pytest.fixture(params=CALLS, ids=str)
def call(request: pytest.FixtureRequest) -> Call:
    return CALLS[request.param]


async def in_thread(function: Callable[[], object]) -> None:
    """Call *function* in a new thread while the loop goes on; raise what it raised."""
    errors: list[BaseException] = []
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)
        token.run_sync_soon(done.set)

    thread = threading.Thread(target=run)
    thread.start()
    with trio.fail_after(PATIENCE_S):
        await done.wait()
    await trio.to_thread.run_sync(thread.join)
    if errors:
        raise errors[0]


def endless() -> ScriptFeed:
    async def script(send: Send) -> None:
        number = 0
        while True:
            await send.send(make_tick("A", number))
            number += 1

    return ScriptFeed(script)


# From a handler in a worker thread


@pytest.mark.parametrize("how", ["shutdown", "cancel"])
async def test_a_plain_handler_stops_the_pipeline(how: str) -> None:
    def handler(tick: tt.Tick) -> None:
        if tick.volume == 50:
            CALLS[how](pipeline)
            assert pipeline.stopping

    with trio.fail_after(PATIENCE_S):
        async with tt.open_pipeline(endless(), handler, workers=1) as pipeline:
            assert not pipeline.stopping
            await pipeline.wait()
            assert pipeline.phase == "stopped"
    assert_accounted(pipeline.report)
    assert pipeline.report.failed == 0
    assert pipeline.report.consumed >= (51 if how == "shutdown" else 50)


async def test_what_a_plain_handler_reads_agrees() -> None:
    unaccounted: list[int] = []
    reports: list[int] = []

    def handler(tick: tt.Tick) -> None:
        unaccounted.append(pipeline.metrics().unaccounted)
        reports.append(pipeline.report.ledger.unaccounted)

    with trio.fail_after(PATIENCE_S):
        async with tt.open_pipeline(
            listed(make_ticks(200, "ABCDEF")), handler, workers=4
        ) as pipeline:
            await pipeline.wait()
    assert_accounted(pipeline.report, consumed=200)
    assert set(unaccounted) == set(reports) == {0}


# From a thread that trio knows nothing of


async def test_before_anything_has_begun(call: Call) -> None:
    # Nothing has run yet: the block's first checkpoint is the thread's.
    async with tt.open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as pipeline:
        await in_thread(lambda: call(pipeline))
    assert_accounted(pipeline.report)


async def test_while_it_runs(call: Call) -> None:
    async with tt.open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as pipeline:
        await wait_all_tasks_blocked()
        await in_thread(lambda: call(pipeline))
    assert_accounted(pipeline.report, consumed=3)


async def test_while_the_feed_is_slow_to_stop(call: Call) -> None:
    cleaning, cleaned = trio.Event(), trio.Event()

    async def script(send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                cleaning.set()
                await cleaned.wait()

    async with tt.open_pipeline(ScriptFeed(script), Recorder()) as pipeline:
        await wait_all_tasks_blocked()
        pipeline.shutdown()
        await cleaning.wait()
        assert pipeline.phase == "running"
        await in_thread(lambda: call(pipeline))
        cleaned.set()
        await pipeline.wait()
    assert_accounted(pipeline.report)


async def test_while_it_drains(call: Call) -> None:
    gate = Gate()
    async with tt.open_pipeline(sleepy_feed(make_ticks(3)), gate, workers=1) as pipeline:
        await wait_all_tasks_blocked()
        pipeline.shutdown()
        await wait_all_tasks_blocked()
        assert pipeline.phase == "draining"
        await in_thread(lambda: call(pipeline))
        gate.opened.set()
        await pipeline.wait()
    assert_accounted(pipeline.report)


async def test_when_it_has_stopped(call: Call) -> None:
    async with tt.open_pipeline(listed(make_ticks(3)), Recorder()) as pipeline:
        await pipeline.wait()
        await in_thread(lambda: call(pipeline))
    await in_thread(lambda: call(pipeline))
    call(pipeline)
    assert_accounted(pipeline.report, consumed=3)


def test_when_the_loop_has_ended(call: Call) -> None:
    pipelines: list[tt.Pipeline[Any]] = []

    async def main() -> None:
        async with tt.open_pipeline(listed(make_ticks(3)), Recorder()) as pipeline:
            pipelines.append(pipeline)
            await pipeline.wait()

    trio.run(main)
    (pipeline,) = pipelines
    call(pipeline)
    assert pipeline.metrics().items_consumed == 3
    assert_accounted(pipeline.report, consumed=3)


async def test_from_another_event_loop(call: Call) -> None:
    async def main(pipeline: tt.Pipeline[Any]) -> None:
        call(pipeline)

    async with tt.open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as pipeline:
        await wait_all_tasks_blocked()
        await in_thread(lambda: trio.run(main, pipeline))
    assert_accounted(pipeline.report, consumed=3)


# Again and again, and mixed


async def test_repeated_and_mixed_calls_are_one_shutdown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "trio_ticks.pipeline")
    gate = Gate()
    async with tt.open_pipeline(sleepy_feed(make_ticks(3)), gate, workers=1) as pipeline:
        await wait_all_tasks_blocked()
        pipeline.shutdown()

        def several() -> None:
            for _ in range(100):
                pipeline.shutdown()

        await in_thread(several)
        pipeline.shutdown()
        await wait_all_tasks_blocked()
        assert pipeline.phase == "draining"
        gate.opened.set()
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=3)
    lines = [line for line in caplog.messages if line.startswith("pipeline.stopping")]
    assert len(lines) == 1


async def test_a_cancellation_after_a_shutdown_cuts_it_short() -> None:
    gate = Gate()
    async with tt.open_pipeline(
        sleepy_feed(make_ticks(3)), gate, workers=1, shutdown_timeout=1e6
    ) as pipeline:
        await wait_all_tasks_blocked()

        def both() -> None:
            pipeline.shutdown()
            pipeline.cancel()

        with trio.fail_after(PATIENCE_S):
            await in_thread(both)
            await pipeline.wait()
    assert_accounted(pipeline.report, shutdown=3)


async def test_a_call_from_the_loop_acts_at_once(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        pipeline.shutdown()
        assert pipeline.stopping
        began = trio.current_time()
        await pipeline.wait()
        assert trio.current_time() == began


async def test_a_thread_that_hammers_it_disturbs_nothing() -> None:
    ended = threading.Event()
    unaccounted: set[int] = set()

    async with tt.open_pipeline(
        endless(), Recorder(), maxsize=50, overflow=tt.DropOldest()
    ) as pipeline:

        def hammer() -> None:
            for _ in range(300):
                unaccounted.add(pipeline.metrics().unaccounted)
                assert pipeline.report.ledger.unaccounted == 0
            ended.set()

        await in_thread(hammer)
        assert ended.is_set()
        pipeline.cancel()
    assert unaccounted == {0}
    assert_accounted(pipeline.report)


@pytest.mark.parametrize("in_a_thread", [False, True])
async def test_a_feed_that_cannot_rest_fails_the_pipeline(in_a_thread: bool) -> None:
    class Restless(ScriptFeed):
        def suspend(self) -> None:
            raise ArithmeticError

        def resume(self) -> None: ...

    async def script(_send: Send) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        async with tt.open_pipeline(Restless(script), Recorder()) as pipeline:
            await wait_all_tasks_blocked()
            if in_a_thread:
                await in_thread(lambda: pipeline.pause(feed="unsubscribe"))
            else:
                pipeline.pause(feed="unsubscribe")
            with trio.fail_after(PATIENCE_S):
                await pipeline.wait()

    with pytest.raises(ArithmeticError):
        await main()


@pytest.mark.parametrize("count", [1, 2])
async def test_a_feed_that_pauses_has_nothing_handled_that_it_sends_then(count: int) -> None:
    async def script(send: Send) -> None:
        await wait_all_tasks_blocked()
        pipeline.pause()
        for tick in make_ticks(5):
            send.send_nowait(tick)
        sent.set()

    async def idle(_send: Send) -> None:
        await sent.wait()

    sent, handler = trio.Event(), Recorder()
    feeds = [ScriptFeed(script), ScriptFeed(idle)][:count]
    async with tt.open_pipeline(feeds if count > 1 else feeds[0], handler) as pipeline:
        with trio.fail_after(PATIENCE_S):
            await sent.wait()
        await wait_all_tasks_blocked()
        assert handler.ticks == []
        assert pipeline.ledger.queued == 5


# A loop that does not answer


@contextmanager
def impatient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "PATIENCE_S", 0.01)
        yield


async def test_a_loop_that_waits_for_the_thread_is_not_waited_for_long() -> None:
    """If the loop blocks until the thread is done, the thread does not wait for it.

    It reads the counters directly: the loop stands still, so they agree all the same.
    """
    seen: list[int] = []
    async with tt.open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as pipeline:
        await wait_all_tasks_blocked()
        with impatient():
            thread = threading.Thread(target=lambda: seen.append(pipeline.metrics().items_consumed))
            thread.start()
            thread.join()
    assert seen == [3]


async def test_a_reading_that_the_loop_disturbs_is_made_again() -> None:
    tries: list[int] = []
    handle: list[loop.LoopHandle] = [loop.LoopHandle()]

    def disturbed() -> str:
        tries.append(1)
        if len(tries) < 4:
            raise RuntimeError("dictionary changed size during iteration")
        return "read"

    async def main() -> str:
        return handle[0].read(disturbed)

    results: list[str] = []
    await in_thread(lambda: results.append(trio.run(main)))
    assert results == ["read"]
    assert len(tries) == 4


async def test_what_a_question_raises_is_the_threads() -> None:
    handle = loop.LoopHandle()

    def wrong() -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        await in_thread(lambda: handle.ask(wrong))


async def test_a_question_that_was_given_up_is_not_answered() -> None:
    handle, answered = loop.LoopHandle(), []

    def ask() -> None:
        with pytest.raises(trio.TooSlowError):
            handle.ask(lambda: answered.append(1))

    with impatient():
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    await wait_all_tasks_blocked()
    assert answered == []


def test_a_handle_needs_a_loop() -> None:
    with pytest.raises(RuntimeError):
        loop.LoopHandle()


# Time


async def test_a_snapshot_has_the_time_of_the_pipelines_clock(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        first = pipeline.metrics()
        await trio.sleep(3600)
        pipeline.clock.begin_at(1_700_000_000.0)
        then = pipeline.metrics()
        await trio.sleep(60)
        later = pipeline.metrics()
    assert then.uptime_s - first.uptime_s == 3600
    assert then.timestamp.timestamp() == pytest.approx(1_700_000_000.0)
    assert (later.timestamp - then.timestamp).total_seconds() == pytest.approx(60)


# From a signal handler, which may interrupt anything


async def test_a_call_within_another_waits_for_its_end() -> None:
    handle, done = loop.LoopHandle(), list[str]()

    def inner() -> None:
        done.append("inner")

    def outer() -> None:
        handle.call(inner)
        done.append("outer")

    handle.call(outer)
    assert done == ["outer"]
    await wait_all_tasks_blocked()
    assert done == ["outer", "inner"]


@pytest.mark.parametrize(
    ("module", "at_once"),
    [
        ("trio_ticks.feeds.websocket.link", False),
        ("trio_ticks.feeds.websocket", False),
        ("trio_ticks.feeds.websockets", True),
        ("trio_ticks.feeds.merged", True),
        ("trio_ticks.observability.web", True),
        ("strategies", True),
    ],
)
async def test_a_call_within_a_feed_of_ours_waits_for_its_next_checkpoint(
    module: str, at_once: bool
) -> None:
    handle, done = loop.LoopHandle(), list[str]()
    space: dict[str, Any] = {"__name__": module}
    exec("async def run(function):\n    function()", space)
    await space["run"](lambda: handle.call(lambda: done.append("called")))
    assert done == (["called"] if at_once else [])
    await wait_all_tasks_blocked()
    assert done == ["called"]


async def test_a_call_within_a_step_waits_for_its_next_checkpoint() -> None:
    handle, done = loop.LoopHandle(), list[str]()

    @trio.lowlevel.enable_ki_protection
    def step() -> None:
        handle.call(lambda: done.append("called"))
        assert not done

    step()
    await wait_all_tasks_blocked()
    assert done == ["called"]


async def test_a_call_between_two_tasks_waits_for_one() -> None:
    handle, within = loop.LoopHandle(), list[bool]()

    def note() -> None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            within.append(False)
        else:
            within.append(True)

    class Interrupts(trio.abc.Instrument):
        def before_io_wait(self, _timeout: float) -> None:
            handle.call(note)

    instrument = Interrupts()
    trio.lowlevel.add_instrument(instrument)
    try:
        with trio.fail_after(PATIENCE_S):
            while not within:  # noqa: ASYNC110 - the instrument sets no event
                await trio.sleep(0.001)
    finally:
        trio.lowlevel.remove_instrument(instrument)
    assert all(within)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals")
async def test_a_signal_handler_may_resize_and_pause() -> None:
    async def handler(tick: tt.Tick) -> None:
        await trio.lowlevel.checkpoint()

    async with tt.open_pipeline(
        listed(make_ticks(3000, symbols=[*"ABC"])), handler, overflow=tt.Block(), workers=3
    ) as pipeline:

        def steer(_number: int, _frame: object) -> None:
            pipeline.resize(workers=2)
            pipeline.pause()
            pipeline.resume()
            pipeline.resize(workers=4)
            # Not at fixed times: on a slow machine nothing else would run.
            signal.setitimer(signal.ITIMER_REAL, 0.0005)

        before = signal.signal(signal.SIGALRM, steer)
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        try:
            with trio.fail_after(PATIENCE_S):
                await pipeline.wait()
        finally:
            # A signal in between would set the timer again.
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert pipeline.report.consumed == 3000
