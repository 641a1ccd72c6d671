"""``handler_timeout``: in the loop it cuts a handling off.

In a thread the handling is reported with its stack, counted, and waited for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks, number
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted, listed, sleepy_feed
from trio_ticks import open_pipeline, run_pipeline

PATIENCE_S = 30.0


@pytest.mark.parametrize("value", [0, -1, True, float("nan"), float("inf"), "1"])
async def test_a_limit_that_cannot_work_is_refused(value: float) -> None:
    with pytest.raises(tt.ConfigError, match="handler_timeout"):
        await run_pipeline(listed([]), print, handler_timeout=value)


# In the loop


async def hang(tick: tt.Tick) -> None:
    await trio.sleep_forever()


async def test_a_handling_that_takes_too_long_is_cut_off_and_has_failed(
    autojump_clock: MockClock,
) -> None:
    told: list[tuple[int, Exception]] = []
    ended: list[int] = []

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(5.0 if number(tick) % 3 == 0 else 0.5)
        ended.append(number(tick))

    report = await run_pipeline(
        listed(make_ticks(9)),
        handler,
        handler_timeout=2.0,
        on_error=lambda tick, error: told.append((number(tick), error)),
    )
    assert ended == [1, 2, 4, 5, 7, 8]
    assert [n for n, _error in told] == [0, 3, 6]
    assert {type(error) for _n, error in told} == {tt.HandlerTimeoutError}
    error = told[0][1]
    assert isinstance(error, TimeoutError)
    assert isinstance(error, tt.HandlerTimeoutError)
    assert error.timeout_s == 2.0
    assert_accounted(report, consumed=6, failed=3)
    assert report.handler_timeouts == 3
    assert report.duration_s == 3 * 2.0 + 6 * 0.5


async def test_it_is_in_the_metrics_while_it_runs(autojump_clock: MockClock) -> None:
    async with open_pipeline(sleepy_feed(make_ticks(2)), hang, handler_timeout=1.0) as pipeline:
        await trio.sleep(1.5)
        assert pipeline.metrics().handler_timeouts == 1
        assert pipeline.metrics().to_dict()["handler_timeouts"] == 1
        await trio.sleep(1.0)
        assert pipeline.metrics().handler_timeouts == 2


@pytest.mark.parametrize("way", ["swallows", "shielded", "no checkpoint"])
async def test_one_that_ends_by_itself_too_late_has_done_what_it_did(
    way: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(tick: tt.Tick) -> None:
        if way == "swallows":
            # No handler should do this, but some do.
            with suppress(trio.Cancelled):
                await trio.sleep(5.0)
        elif way == "shielded":
            with trio.CancelScope(shield=True):
                await trio.sleep(5.0)
        else:
            autojump_clock.jump(5.0)

    report = await run_pipeline(listed(make_ticks(3)), handler, handler_timeout=2.0)
    assert_accounted(report, consumed=3, failed=0)
    # Counted and logged too; and a cancellation that was swallowed does not reach the
    # next tick.
    assert report.handler_timeouts == 3
    assert "handler.overran" in caplog.text


async def test_an_error_of_its_own_while_it_is_cut_off_is_what_is_told(
    autojump_clock: MockClock,
) -> None:
    told: list[Exception] = []

    async def handler(tick: tt.Tick) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ArithmeticError

    report = await run_pipeline(
        listed(make_ticks(2)),
        handler,
        handler_timeout=2.0,
        on_error=lambda _tick, error: told.append(error),
    )
    assert [type(error) for error in told] == [ArithmeticError] * 2
    assert_accounted(report, failed=2)


@pytest.mark.parametrize("way", ["cancel", "from outside", "shutdown"])
async def test_a_cancellation_from_outside_is_not_taken_for_it(
    way: str, autojump_clock: MockClock
) -> None:
    told: list[Exception] = []
    with trio.CancelScope() as scope:
        async with open_pipeline(
            sleepy_feed(make_ticks(3)),
            hang,
            handler_timeout=10.0,
            shutdown_timeout=1.0,
            on_error=lambda _tick, error: told.append(error),
        ) as pipeline:
            await trio.sleep(1.0)
            if way == "cancel":
                pipeline.cancel()
            elif way == "from outside":
                scope.cancel()
            await trio.lowlevel.checkpoint()
    assert told == []
    assert_accounted(pipeline.report, failed=0, shutdown=3)
    assert pipeline.report.handler_timeouts == 0


async def test_a_timeout_of_the_handlers_own_is_its_own(autojump_clock: MockClock) -> None:
    told: list[Exception] = []

    async def handler(tick: tt.Tick) -> None:
        with trio.fail_after(1.0):
            await trio.sleep_forever()

    report = await run_pipeline(
        listed(make_ticks(2)),
        handler,
        handler_timeout=2.0,
        on_error=lambda _tick, error: told.append(error),
    )
    assert [type(error) for error in told] == [trio.TooSlowError] * 2
    assert report.handler_timeouts == 0


async def test_each_try_has_a_limit_of_its_own(autojump_clock: MockClock) -> None:
    tries: list[int] = []

    async def handler(tick: tt.Tick) -> None:
        tries.append(number(tick))
        await trio.sleep(5.0 if len(tries) < 3 else 1.5)

    report = await run_pipeline(
        listed(make_ticks(1)),
        handler,
        handler_timeout=2.0,
        retry=tt.Retry(tt.HandlerTimeoutError, initial_s=0, maximum_s=0),
    )
    assert tries == [0, 0, 0]
    assert_accounted(report, consumed=1, failed=0)
    assert (report.handler_timeouts, report.handler_retries) == (2, 2)


async def test_the_limit_of_one_symbol_is_no_matter_of_another(autojump_clock: MockClock) -> None:
    ended: list[str] = []

    async def handler(tick: tt.Tick) -> None:
        if tick.symbol == "SLOW":
            await trio.sleep_forever()
        await trio.sleep(0.1)
        ended.append(tick.symbol)

    report = await run_pipeline(
        listed(make_ticks(20, ["SLOW", "A"])), handler, workers=2, handler_timeout=0.5
    )
    assert ended == ["A"] * 10
    assert_accounted(report, consumed=10, failed=10)


# In threads


class Hanging:
    """A plain handler that hangs at ticks of certain numbers until it is let go."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.go_on = threading.Event()

    def __call__(self, tick: tt.Tick) -> None:
        self.begun.append(number(tick))
        if number(tick) in self._numbers:
            self.hang()
        self.ended.append(number(tick))

    def hang(self) -> None:
        assert self.go_on.wait(PATIENCE_S)


@contextmanager
def hanging(*numbers: int) -> Generator[Hanging]:
    handler = Hanging(numbers)
    try:
        yield handler
    finally:
        handler.go_on.set()


async def until(condition: Callable[[], bool], clock: MockClock, step_s: float = 0.0) -> None:
    """Let threads run until *condition* holds, with *step_s* of virtual time a poll."""
    # On a clock that stands still there is no timeout: the loop counts its turns
    # instead, most of which wait for a thread.
    for _ in range(100_000):
        if condition():
            return
        await trio.to_thread.run_sync(threading.Event().wait, 0.0002)
        clock.jump(step_s)
    raise AssertionError("it never came")


def hangs(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.message.startswith("handler.hangs")]


async def test_a_thread_that_hangs_is_told_once_with_its_stack(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    told: list[Exception] = []
    with hanging(2) as handler:
        async with open_pipeline(
            sleepy_feed(make_ticks(5)),
            handler,
            workers=2,
            handler_timeout=10.0,
            on_error=lambda _tick, error: told.append(error),
        ) as pipeline:
            await until(lambda: 2 in handler.begun, mock_clock)
            assert hangs(caplog) == []
            await until(lambda: bool(hangs(caplog)), mock_clock, 1.0)
            for _ in range(50):
                mock_clock.jump(10.0)
                for _ in range(5):
                    await trio.lowlevel.checkpoint()
            # The tick is in flight still, and its symbol's next one has not begun.
            assert handler.begun == [0, 1, 2]
            assert pipeline.ledger.in_flight >= 1
            assert pipeline.metrics().handler_timeouts == 1
            handler.go_on.set()
            await until(lambda: pipeline.ledger.consumed == 5, mock_clock, 1.0)
            await until(lambda: "handler.returned" in caplog.text, mock_clock, 1.0)
    (record,) = hangs(caplog)
    assert "A, for more than 10 s" in record.message
    assert "in hang" in record.message
    assert "self.go_on.wait" in record.message
    # The stack begins with the handler.
    assert record.message.split("\n")[1].endswith("in __call__")
    assert record.symbol == "A"  # type: ignore[attr-defined]  # an extra
    # It counts by how it ended.
    assert told == []
    assert_accounted(pipeline.report, consumed=5, failed=0)
    assert pipeline.report.handler_timeouts == 1


async def test_each_hang_is_told(mock_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    with hanging(0, 3) as handler:
        async with open_pipeline(
            sleepy_feed([make_tick("A", 0), make_tick("B", 3), make_tick("C", 5)]),
            handler,
            workers=3,
            handler_timeout=10.0,
        ) as pipeline:
            await until(lambda: len(hangs(caplog)) == 2, mock_clock, 1.0)
            # The handler of the other symbol goes on.
            await until(lambda: handler.ended == [5], mock_clock)
            assert pipeline.metrics().handler_timeouts == 2
            handler.go_on.set()
            pipeline.shutdown()
            await until(lambda: pipeline.ledger.consumed == 3, mock_clock)
    assert {record.symbol for record in hangs(caplog)} == {"A", "B"}  # type: ignore[attr-defined]  # an extra
    assert_accounted(pipeline.report, consumed=3)


async def test_a_shutdown_does_not_wait_for_it_beyond_its_bound(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with hanging(0) as handler:
        async with open_pipeline(
            sleepy_feed(make_ticks(3)),
            handler,
            workers=1,
            handler_timeout=1.0,
            shutdown_timeout=5.0,
        ) as pipeline:
            await until(lambda: bool(hangs(caplog)), mock_clock, 0.2)
            pipeline.shutdown()
            await until(lambda: pipeline.metrics().state == "stopped", mock_clock, 0.5)
        assert handler.ended == []
        assert_accounted(pipeline.report, consumed=0, shutdown=3)


async def test_many_short_handlings_are_no_hang(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """However long a batch of them takes: each is looked at by itself."""

    def handler(tick: tt.Tick) -> None:
        trio.from_thread.run_sync(mock_clock.jump, 0.5)

    report = await run_pipeline(listed(make_ticks(100)), handler, workers=1, handler_timeout=10.0)
    assert report.duration_s >= 50.0
    assert hangs(caplog) == []
    assert report.handler_timeouts == 0


async def test_a_wait_between_two_tries_is_no_hang(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, go_on = threading.Event(), threading.Event()

    def pause(self: object, worker: tt.WorkerMetrics, seconds: float) -> bool:
        worker.pausing = True  # type: ignore[attr-defined]  # it is the pool's own worker
        waits.set()
        assert go_on.wait(PATIENCE_S)
        worker.pausing = False  # type: ignore[attr-defined]
        return True

    monkeypatch.setattr("trio_ticks.workers.runners.ThreadRunner.pause", pause)
    tries: list[int] = []

    def handler(tick: tt.Tick) -> None:
        tries.append(number(tick))
        if len(tries) == 1:
            raise TimeoutError

    try:
        async with open_pipeline(
            sleepy_feed(make_ticks(1)),
            handler,
            workers=1,
            handler_timeout=1.0,
            retry=tt.Retry(TimeoutError),
        ) as pipeline:
            await until(waits.is_set, mock_clock)
            for _ in range(50):
                mock_clock.jump(10.0)
                await trio.lowlevel.checkpoint()
            go_on.set()
            await until(lambda: pipeline.ledger.consumed == 1, mock_clock)
    finally:
        go_on.set()
    assert hangs(caplog) == []


async def test_a_batch_handler_that_hangs_is_told_too(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    @tt.batch_handler(max_size=3)
    def handler(ticks: Sequence[tt.Tick]) -> None:
        if number(ticks[0]) == 3:
            assert go_on.wait(PATIENCE_S)

    try:
        async with open_pipeline(
            sleepy_feed(make_ticks(9, "ABC")), handler, workers=1, handler_timeout=10.0
        ) as pipeline:
            await until(lambda: bool(hangs(caplog)), mock_clock, 1.0)
            go_on.set()
            await until(lambda: pipeline.ledger.consumed == 9, mock_clock, 1.0)
    finally:
        go_on.set()
    assert len(hangs(caplog)) == 1
    assert pipeline.report.handler_timeouts == 1


async def test_what_waits_behind_a_hang_in_its_batch_goes_to_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a real clock: the call-back of late batches does not wait for the timeout."""
    with hanging(100) as handler:

        async def script(send: Send) -> None:
            # Enough quick ticks to make batches large.
            await send.send_many(make_ticks(100, ["WARM-UP"]))
            await send.send_many(
                [make_tick("HANGS", 100), *(make_tick(f"S{n % 5}", n) for n in range(101, 200))]
            )
            await trio.sleep_forever()

        with trio.fail_after(PATIENCE_S):
            async with open_pipeline(
                ScriptFeed(script), handler, workers=2, handler_timeout=3600.0
            ) as pipeline:
                while len(handler.ended) < 199:  # noqa: ASYNC110 - threads set no trio.Event
                    await trio.sleep(0.001)
                handler.go_on.set()
    assert_accounted(pipeline.report, consumed=200)
