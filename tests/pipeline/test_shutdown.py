"""How a pipeline stops: in bounded phases, and with an outcome for every tick.

Whatever the feed and the handlers do meanwhile. On a virtual clock, so that the bounds
are exact; only the signals are sent to a real process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks, numbers
from tests.worlds.pipeline_world import (
    Gate,
    Recorder,
    ScriptFeed,
    Send,
    assert_accounted,
    listed,
    raises_as_itself,
    sleepy_feed,
)
from trio_ticks import open_pipeline, run_pipeline

FEED_STOP_S = 1.0
"""How long a feed may take to stop before the shutdown goes on without it."""


# The phases: stop the feed, close the send side, drain, cancel what is left


async def test_an_idle_pipeline_stops_at_once(autojump_clock: MockClock) -> None:
    async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        await trio.sleep(3600)
    assert trio.current_time() == 3600
    assert_accounted(pipeline.report, produced=0)


async def test_what_is_queued_is_drained(autojump_clock: MockClock) -> None:
    handler = Recorder(seconds=1.0)
    async with open_pipeline(
        sleepy_feed(make_ticks(6)), handler, workers=1, shutdown_timeout=10
    ) as pipeline:
        await trio.sleep(1.5)
    # Five were left, and half a second of the first; the pipeline does not wait for the
    # rest of the ten seconds.
    assert trio.current_time() == 6.0
    assert numbers(handler.ticks) == [0, 1, 2, 3, 4, 5]
    assert_accounted(pipeline.report, consumed=6, dropped=0)


async def test_draining_is_bounded_and_the_rest_is_counted(autojump_clock: MockClock) -> None:
    handler = Recorder(seconds=1.0)
    async with open_pipeline(
        sleepy_feed(make_ticks(100)), handler, workers=1, shutdown_timeout=3
    ) as pipeline:
        await trio.sleep(1.5)
    assert trio.current_time() == 4.5
    assert_accounted(pipeline.report, produced=100, consumed=4, shutdown=96)


async def test_a_grace_period_of_nothing(autojump_clock: MockClock) -> None:
    async with open_pipeline(
        sleepy_feed(make_ticks(10)), Recorder(seconds=1.0), workers=1, shutdown_timeout=0
    ) as pipeline:
        await trio.sleep(1.5)
    assert trio.current_time() == 1.5
    assert_accounted(pipeline.report, consumed=1, shutdown=9)


async def test_an_endless_grace_period(autojump_clock: MockClock) -> None:
    async with open_pipeline(
        sleepy_feed(make_ticks(10)), Recorder(seconds=1e6), workers=1, shutdown_timeout=float("inf")
    ) as pipeline:
        await trio.sleep(1)
    assert_accounted(pipeline.report, consumed=10)
    assert trio.current_time() == 1e7


async def test_handlers_that_never_return_are_cancelled(autojump_clock: MockClock) -> None:
    gate = Gate()
    async with open_pipeline(
        sleepy_feed(make_ticks(10, "ABCD")), gate, workers=3, shutdown_timeout=2
    ) as pipeline:
        await trio.sleep(1)
        assert pipeline.ledger.in_flight == 3
    assert trio.current_time() == 3
    assert_accounted(pipeline.report, consumed=0, shutdown=10)


async def test_a_handler_may_clean_up_when_it_is_cancelled(autojump_clock: MockClock) -> None:
    cleaned: list[int] = []

    async def handler(tick: tt.Tick) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
            cleaned.extend(numbers([tick]))

    async with open_pipeline(
        sleepy_feed(make_ticks(2, "AB")), handler, shutdown_timeout=2
    ) as pipeline:
        await trio.sleep(1)
    assert trio.current_time() == 3.5
    assert sorted(cleaned) == [0, 1]
    assert_accounted(pipeline.report, shutdown=2)


async def test_a_handler_that_fails_while_it_is_cancelled_is_no_reason_to_raise(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def clean_up_badly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleanup")

    async def handler(tick: tt.Tick) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean_up_badly)
            nursery.start_soon(trio.sleep_forever)

    async with open_pipeline(sleepy_feed([make_tick()]), handler, shutdown_timeout=2) as pipeline:
        await trio.sleep(1)
    assert_accounted(pipeline.report, produced=1, shutdown=1)
    assert any(
        "failed" in record.getMessage() and "cleanup" in caplog.text for record in caplog.records
    )


@pytest.mark.parametrize("call", ["shutdown", "cancel"])
async def test_a_keyboard_interrupt_is_not_swallowed_by_a_cancellation(
    call: str, autojump_clock: MockClock
) -> None:
    error = KeyboardInterrupt("in the middle of it")

    async def handler(tick: tt.Tick) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    with raises_as_itself(error):
        async with open_pipeline(
            sleepy_feed([make_tick()]), handler, shutdown_timeout=2
        ) as pipeline:
            await trio.sleep(1)
            getattr(pipeline, call)()
            await pipeline.wait()
    assert_accounted(pipeline.report, shutdown=1)


async def test_a_handler_that_ends_its_cancellation_by_an_error_has_failed(
    autojump_clock: MockClock,
) -> None:
    # It did come to an outcome, and that is what counts.
    async def handler(tick: tt.Tick) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("cleanup")

    told: list[Exception] = []
    async with open_pipeline(
        sleepy_feed([make_tick()]),
        handler,
        shutdown_timeout=2,
        on_error=lambda _tick, error: told.append(error),
    ) as pipeline:
        await trio.sleep(1)
    assert_accounted(pipeline.report, failed=1, shutdown=0)
    assert [str(error) for error in told] == ["cleanup"]


async def test_on_error_that_hangs_is_bounded_too(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        raise ValueError

    async def on_error(tick: tt.Tick, error: Exception) -> None:
        await trio.sleep_forever()

    async with open_pipeline(
        sleepy_feed(make_ticks(3)), handler, shutdown_timeout=2, on_error=on_error
    ) as pipeline:
        await trio.sleep(1)
    assert trio.current_time() == 3
    assert_accounted(pipeline.report, failed=1, shutdown=2)


# The feed at the end


async def test_a_feed_that_takes_its_time_to_stop(autojump_clock: MockClock) -> None:
    said_goodbye = False

    async def script(send: Send) -> None:
        nonlocal said_goodbye
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
                # Ticks that the socket still held are accepted.
                await send.send_many(make_ticks(3))
            said_goodbye = True

    handler = Recorder()
    async with open_pipeline(ScriptFeed(script), handler) as pipeline:
        await trio.sleep(1)
    assert said_goodbye
    assert trio.current_time() == 1.5
    assert numbers(handler.ticks) == [0, 1, 2]
    assert_accounted(pipeline.report, consumed=3)


@pytest.mark.parametrize("in_nursery", [False, True], ids=["directly", "in a nursery"])
async def test_a_feed_that_ignores_its_cancellation_finds_the_channel_closed(
    in_nursery: bool, autojump_clock: MockClock
) -> None:
    drained: list[float] = []
    ended: list[float] = []

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(0.5)
        drained.append(trio.current_time())

    async def stubborn(send: Send) -> None:
        await send.send_many(make_ticks(4))
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
            try:
                await send.send(make_tick())
            finally:
                ended.append(trio.current_time())

    async def script(send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stubborn, send)
            nursery.start_soon(trio.sleep_forever)

    async with open_pipeline(
        ScriptFeed(script if in_nursery else stubborn), handler, workers=1
    ) as pipeline:
        await trio.sleep(0.25)
    # The drain did not wait for it. The block had to, since no task outlives it. The
    # tick stayed with the feed, which is no error.
    assert drained == [0.5, 1.0, 1.5, 2.0]
    assert ended == [10]
    assert_accounted(pipeline.report, produced=4, consumed=4)


async def test_what_waits_for_room_at_a_shutdown_is_handled_while_there_is_grace(
    autojump_clock: MockClock,
) -> None:
    feed, handler = listed(make_ticks(20)), Recorder(seconds=1.0)
    async with open_pipeline(
        feed, handler, workers=1, maxsize=5, overflow=tt.DropNewest(3.0), shutdown_timeout=100
    ) as pipeline:
        await trio.sleep(2.5)
        # The patience that was not spent when the shutdown began is not spent by it.
    assert trio.current_time() == 20
    assert numbers(handler.ticks) == [*range(20)]
    assert_accounted(pipeline.report, produced=20, consumed=20, shutdown=0, overflow=0)


async def test_a_feed_blocked_in_a_full_channel_is_cancelled_and_its_ticks_counted(
    autojump_clock: MockClock,
) -> None:
    async with open_pipeline(
        listed(make_ticks(20)),
        Recorder(seconds=1.0),
        workers=1,
        maxsize=5,
        overflow=tt.Block(),
        shutdown_timeout=2,
    ) as pipeline:
        await trio.sleep(3.5)
        # Five in the channel, one in flight, three done: eleven wait for room.
        assert (pipeline.ledger.produced, pipeline.ledger.queued) == (20, 16)
        assert pipeline.metrics().queue_size == 5
        assert pipeline.metrics().waiting_for_room == 11
    assert trio.current_time() == 5.5
    assert_accounted(pipeline.report, produced=20, consumed=5, shutdown=15)


async def test_a_shielded_feed_blocked_in_a_full_channel_is_let_go_when_the_send_side_closes(
    autojump_clock: MockClock,
) -> None:
    async def script(send: Send) -> None:
        with trio.CancelScope(shield=True):
            await send.send_many(make_ticks(20))

    async with open_pipeline(
        ScriptFeed(script), Gate(), workers=1, maxsize=5, overflow=tt.Block(), shutdown_timeout=2
    ) as pipeline:
        await trio.sleep(3)
    assert trio.current_time() == 3 + FEED_STOP_S + 2
    assert_accounted(pipeline.report, produced=20, shutdown=20)


async def test_a_patient_sender_at_the_end(autojump_clock: MockClock) -> None:
    # The default strategy: its patience has not run out yet when the feed is stopped.
    async with open_pipeline(
        listed(make_ticks(20)), Gate(), workers=1, maxsize=5, write_timeout=100, shutdown_timeout=2
    ) as pipeline:
        await trio.sleep(3)
    assert trio.current_time() == 5
    assert_accounted(pipeline.report, produced=20, overflow=0, shutdown=20)


async def test_a_feed_that_left_a_clone_open_does_not_stop_the_shutdown(
    autojump_clock: MockClock,
) -> None:
    clones: list[Send] = []

    async def script(send: Send) -> None:
        clones.append(send.clone())
        await clones[0].send_many(make_ticks(3))

    async with open_pipeline(ScriptFeed(script), Recorder(), shutdown_timeout=2) as pipeline:
        await trio.sleep(1)
    assert trio.current_time() <= 3
    assert_accounted(pipeline.report, consumed=3)
    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
        await clones[0].send(make_tick())
    clones[0].close()


async def test_ticks_sent_after_the_shutdown_began_are_accounted_for(
    autojump_clock: MockClock,
) -> None:
    async def script(send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            # The task is cancelled, so the send is too: at its checkpoint, after it has
            # taken the ticks in.
            await send.send_many(make_ticks(5))

    handler = Recorder()
    async with open_pipeline(ScriptFeed(script), handler) as pipeline:
        await trio.sleep(1)
    assert_accounted(pipeline.report, produced=5, consumed=5)


# Calls


async def test_shutdown_from_the_block_and_wait(autojump_clock: MockClock) -> None:
    handler = Recorder(seconds=1.0)
    async with open_pipeline(sleepy_feed(make_ticks(3)), handler, workers=1) as pipeline:
        await trio.sleep(0.5)
        pipeline.shutdown()
        await pipeline.wait()
        assert trio.current_time() == 3.0
        assert pipeline.metrics().state == "stopped"
        assert pipeline.ledger.consumed == 3
        await trio.sleep(10)
    assert pipeline.report.duration_s == pytest.approx(13.0)


async def test_shutdown_twice_changes_nothing(autojump_clock: MockClock) -> None:
    async with open_pipeline(
        sleepy_feed(make_ticks(100)), Recorder(seconds=1.0), workers=1, shutdown_timeout=3
    ) as pipeline:
        await trio.sleep(0.5)
        pipeline.shutdown()
        await trio.sleep(2)
        pipeline.shutdown()
        await pipeline.wait()
        pipeline.shutdown()
    # The second call does not begin the grace period again.
    assert trio.current_time() == 3.5
    assert_accounted(pipeline.report, consumed=3, shutdown=97)


async def test_cancel_ends_at_once(autojump_clock: MockClock) -> None:
    async with open_pipeline(
        sleepy_feed(make_ticks(100)), Recorder(seconds=1.0), workers=1, shutdown_timeout=30
    ) as pipeline:
        await trio.sleep(2.5)
        pipeline.cancel()
        pipeline.cancel()
        await pipeline.wait()
        assert trio.current_time() == 2.5
        pipeline.ledger.check()
    assert_accounted(pipeline.report, consumed=2, shutdown=98)


async def test_cancel_during_a_graceful_shutdown(autojump_clock: MockClock) -> None:
    async with open_pipeline(
        sleepy_feed(make_ticks(100)), Recorder(seconds=1.0), workers=1, shutdown_timeout=30
    ) as pipeline:
        pipeline.shutdown()
        await trio.sleep(2.5)
        pipeline.cancel()
    assert trio.current_time() == 2.5
    assert_accounted(pipeline.report, consumed=2, shutdown=98)


async def test_cancel_and_a_feed_that_ignores_it(autojump_clock: MockClock) -> None:
    async def script(send: Send) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
            await send.send(make_tick())

    async with open_pipeline(ScriptFeed(script), Recorder()) as pipeline:
        await trio.sleep(1)
        pipeline.cancel()
    assert trio.current_time() == 10
    assert_accounted(pipeline.report)


@pytest.mark.parametrize("call", ["shutdown", "cancel"])
async def test_a_handler_may_end_the_pipeline(call: str, autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(1)
        if tick.volume == 2:
            getattr(pipeline, call)()

    async with open_pipeline(
        sleepy_feed(make_ticks(10)), handler, workers=1, shutdown_timeout=3.5
    ) as pipeline:
        await pipeline.wait()
    if call == "shutdown":
        assert trio.current_time() == 6.5
        assert_accounted(pipeline.report, consumed=6, shutdown=4)
    else:
        # The handler that called it has no checkpoint left, and returns.
        assert trio.current_time() == 3
        assert_accounted(pipeline.report, consumed=3, shutdown=7)


async def test_a_feed_may_end_the_pipeline(autojump_clock: MockClock) -> None:
    async def script(send: Send) -> None:
        await send.send_many(make_ticks(10))
        await trio.sleep(1)
        pipeline.shutdown()
        await trio.sleep_forever()

    async with open_pipeline(ScriptFeed(script), Recorder()) as pipeline:
        await pipeline.wait()
    assert trio.current_time() == 1
    assert_accounted(pipeline.report, consumed=10)


async def test_wait_can_be_cancelled_and_the_pipeline_goes_on(autojump_clock: MockClock) -> None:
    handler = Recorder(seconds=1.0)
    async with open_pipeline(listed(make_ticks(5)), handler, workers=1) as pipeline:
        with trio.move_on_after(1.5):
            await pipeline.wait()
        assert trio.current_time() == 1.5
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=5)


async def test_several_tasks_may_wait(autojump_clock: MockClock) -> None:
    ended: list[float] = []

    async def wait(pipeline: tt.Pipeline[tt.Tick]) -> None:
        await pipeline.wait()
        ended.append(trio.current_time())

    async with (
        open_pipeline(listed(make_ticks(5)), Recorder(seconds=1.0), workers=1) as pipeline,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(wait, pipeline)
    assert ended == [5.0] * 3


async def test_the_states_in_their_order(autojump_clock: MockClock) -> None:
    async with open_pipeline(
        sleepy_feed(make_ticks(3)), Recorder(seconds=1.0), workers=1
    ) as pipeline:
        await trio.sleep(0.5)
        assert pipeline.metrics().state == "running"
        pipeline.shutdown()
        await trio.sleep(0.1)
        assert pipeline.metrics().state == "draining"
        await pipeline.wait()
        assert pipeline.metrics().state == "stopped"


@pytest.mark.parametrize("seconds", [0.0, 1.0])
async def test_the_report_is_final_once_the_block_is_left(
    seconds: float, autojump_clock: MockClock
) -> None:
    async with open_pipeline(
        sleepy_feed(make_ticks(3)), Recorder(seconds=1.0), workers=1
    ) as pipeline:
        before = pipeline.report
        await trio.sleep(seconds)
    final = pipeline.report
    assert before.produced == 0
    await trio.sleep(10)
    assert pipeline.report is final
    assert pipeline.report.duration_s == 3.0


async def test_leaving_at_once_does_not_hang(autojump_clock: MockClock) -> None:
    for _ in range(20):
        # trio chooses at random which task has its first step first.
        async with open_pipeline(sleepy_feed(make_ticks(3)), Recorder(), workers=2) as pipeline:
            pass
        assert_accounted(pipeline.report)
    assert trio.current_time() == 0


async def test_shutdown_at_every_moment(autojump_clock: MockClock) -> None:
    """At each step of a busy pipeline, stop it in each way: it ends in time.

    Its books are in order then.
    """

    async def script(send: Send) -> None:
        for first in range(0, 60, 3):
            await send.send_many(make_ticks(3, "AB", first))
            await trio.sleep(0.1)

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(0.07)
        if tick.volume % 5 == 0:
            raise ValueError

    async def on_error(tick: tt.Tick, error: Exception) -> None:
        await trio.sleep(0.01)

    for way in ("leave", "shutdown", "cancel", "scope"):
        for tenths in range(12):
            began = trio.current_time()
            with trio.CancelScope() as scope:
                async with open_pipeline(
                    ScriptFeed(script),
                    handler,
                    workers=2,
                    maxsize=6,
                    write_timeout=0.3,
                    shutdown_timeout=0.2,
                    on_error=on_error,
                ) as pipeline:
                    await trio.sleep(tenths * 0.1 + 0.005)
                    match way:
                        case "shutdown":
                            pipeline.shutdown()
                            await pipeline.wait()
                        case "cancel":
                            pipeline.cancel()
                        case "scope":
                            scope.cancel()
                    pipeline.ledger.check()
            assert_accounted(pipeline.report)
            assert trio.current_time() - began <= tenths * 0.1 + 0.005 + 0.2 + 1e-9


# Signals


_PROGRAM = """
import json, logging, signal, sys, threading
from datetime import UTC, datetime
import trio
import trio_ticks as tt

mode, shutdown_timeout = sys.argv[1], float(sys.argv[2])
ticks = [tt.Tick("ABCD"[n % 4], datetime.now(UTC), 1, 2, 3, 4, n) for n in range(100)]

class Feed:
    async def run(self, send):
        await send.send_many(ticks)
        print("ready", flush=True)
        await trio.sleep_forever()

async def quick(tick):
    pass

async def slow(tick):
    await trio.sleep_forever()

def blocking(tick):
    threading.Event().wait()

def signal_handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

async def main():
    before = signal_handlers()
    report = await tt.run_pipeline(
        Feed(), globals()[mode], workers=2, shutdown_timeout=shutdown_timeout
    )
    facts = report.to_dict()
    facts |= {"unaccounted": report.ledger.unaccounted, "restored": signal_handlers() == before}
    print(json.dumps(facts), flush=True)

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="log %(message)s")
trio.run(main)
"""


@contextmanager
def _program(mode: str, shutdown_timeout: float) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _PROGRAM, mode, str(shutdown_timeout)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(tt.__file__).parent.parent)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    assert process.stderr is not None
    raise AssertionError(f"{words!r} never came: {process.stderr.read()}")


def _report(process: subprocess.Popen[str]) -> dict[str, object]:
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, output + errors
    assert errors == ""
    report = json.loads(output.splitlines()[-1])
    assert isinstance(report, dict)
    assert report["unaccounted"] == 0
    assert report["queued"] == report["in_flight"] == 0
    assert report["restored"]
    return report


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_first_signal_begins_a_graceful_shutdown(number: signal.Signals) -> None:
    with _program("quick", 30) as process:
        _read_until(process, "ready")
        process.send_signal(number)
        report = _report(process)
    assert report["consumed"] == 100
    assert report["dropped"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("mode", ["slow", "blocking"])
def test_the_shutdown_after_a_signal_is_bounded(mode: str) -> None:
    with _program(mode, 0.1) as process:
        _read_until(process, "ready")
        process.send_signal(signal.SIGTERM)
        report = _report(process)
    assert report["consumed"] == 0
    assert report["dropped"] == 100


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
    ],
    ids=lambda number: number.name,
)
@pytest.mark.parametrize("mode", ["slow", "blocking"])
def test_the_second_signal_cancels_at_once(
    first: signal.Signals, second: signal.Signals, mode: str
) -> None:
    # With a grace period of an hour, only a cancellation can end it before the test
    # gives up.
    with _program(mode, 3600) as process:
        _read_until(process, "ready")
        process.send_signal(first)
        _read_until(process, "pipeline.stopping")
        process.send_signal(second)
        report = _report(process)
    assert report["dropped"] == 100


async def test_signals_are_left_alone_by_open_pipeline() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with open_pipeline(sleepy_feed(), Recorder()):
        await wait_all_tasks_blocked()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_signals_are_handled_while_run_pipeline_runs_and_restored_even_by_an_error() -> None:
    numbers_ = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers_]
    seen: list[bool] = []

    async def script(send: Send) -> None:
        await wait_all_tasks_blocked()
        seen.extend(
            signal.getsignal(number) != old for number, old in zip(numbers_, before, strict=True)
        )
        raise OSError("feed")

    with pytest.raises(OSError, match="feed"):
        await run_pipeline(ScriptFeed(script), Recorder())
    assert seen == [True, True]
    assert [signal.getsignal(number) for number in numbers_] == before


async def test_run_pipeline_in_another_thread_leaves_signals_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    handler = Recorder()
    report = await trio.to_thread.run_sync(
        lambda: trio.run(run_pipeline, listed(make_ticks(3)), handler)
    )
    assert_accounted(report, consumed=3)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
