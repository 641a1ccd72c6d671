"""The pipeline as a whole: what it handles, which errors it raises or refuses.

Whose errors come out and how, and which settings are refused. Time is virtual where it
matters. How a pipeline stops is in test_shutdown.py, what it measures in
test_pipeline_metrics.py.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks, numbers
from tests.worlds.pipeline_world import (
    BodyError,
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

# What is handled


@pytest.mark.parametrize("ordering", ["symbol", "none"])
@pytest.mark.parametrize("workers", [1, 4])
async def test_every_tick_is_handled_once(
    ordering: Any, workers: int, autojump_clock: MockClock
) -> None:
    handler = Recorder(seconds=0.01)
    async with open_pipeline(
        listed(make_ticks(200, "ABCDE")), handler, workers=workers, ordering=ordering
    ) as pipeline:
        await pipeline.wait()
    assert sorted(numbers(handler.ticks)) == list(range(200))
    assert_accounted(pipeline.report, produced=200, consumed=200, failed=0, dropped=0)


async def test_other_kinds_of_market_data(autojump_clock: MockClock) -> None:
    trade = tt.Trade("A", make_tick().timestamp, 1.0, 2.0)
    bar = tt.Bar("A", make_tick().timestamp, 60, 1, 2, 0, 1)
    handled: list[Any] = []

    async def handler(item: Any) -> None:
        handled.append(item)

    report = await run_pipeline(listed([trade, bar, make_tick()]), handler)
    assert [type(item) for item in handled] == [tt.Trade, tt.Bar, tt.Tick]
    assert_accounted(report, consumed=3)


async def test_run_pipeline_ends_with_the_feed(autojump_clock: MockClock) -> None:
    handler = Recorder(seconds=1.0)
    report = await run_pipeline(listed(make_ticks(10)), handler, workers=1)
    assert numbers(handler.ticks) == list(range(10))
    assert_accounted(report, produced=10, consumed=10)
    assert report.duration_s == 10.0


async def test_a_feed_without_ticks(autojump_clock: MockClock) -> None:
    report = await run_pipeline(listed([]), Recorder())
    assert_accounted(report, produced=0, consumed=0)
    assert report.duration_s == 0.0
    assert report.produced_per_s == report.consumed_per_s == 0.0


async def test_the_feed_goes_on_while_the_block_lasts(autojump_clock: MockClock) -> None:
    async def script(send: Send) -> None:
        for tick in make_ticks(100):
            await send.send(tick)
            await trio.sleep(1.0)

    handler = Recorder()
    async with open_pipeline(ScriptFeed(script), handler) as pipeline:
        await trio.sleep(9.5)
    assert numbers(handler.ticks) == list(range(10))
    assert_accounted(pipeline.report, produced=10, consumed=10)


async def test_a_feed_may_use_clones_of_its_channel(autojump_clock: MockClock) -> None:
    async def connection(send: Send, symbol: str) -> None:
        async with send:
            await send.send_many(make_ticks(5, [symbol]))

    async def script(send: Send) -> None:
        async with trio.open_nursery() as nursery:
            for symbol in "AB":
                nursery.start_soon(connection, send.clone(), symbol)

    handler = Recorder()
    report = await run_pipeline(ScriptFeed(script), handler)
    assert_accounted(report, produced=10, consumed=10)


async def test_two_pipelines_at_once_share_nothing(autojump_clock: MockClock) -> None:
    quick, slow = Recorder(), Recorder(seconds=1.0)
    async with (
        open_pipeline(listed(make_ticks(10)), quick) as one,
        open_pipeline(listed(make_ticks(20)), slow, workers=1, maxsize=5, write_timeout=0) as two,
    ):
        await one.wait()
        await two.wait()
    assert_accounted(one.report, produced=10, consumed=10)
    assert_accounted(two.report, produced=20, consumed=5, overflow=15)


async def test_a_pipeline_in_the_handler_of_another(autojump_clock: MockClock) -> None:
    inner = Recorder()

    async def handler(tick: tt.Tick) -> None:
        await run_pipeline(listed([tick] * 3), inner)

    report = await run_pipeline(listed(make_ticks(4)), handler)
    assert len(inner.ticks) == 12
    assert_accounted(report, consumed=4)


# Kinds of handlers


class _Strategy:
    def __init__(self) -> None:
        self.handled: list[tt.Tick] = []

    async def method(self, tick: tt.Tick) -> None:
        await trio.lowlevel.checkpoint()
        self.handled.append(tick)

    async def __call__(self, tick: tt.Tick) -> None:
        await self.method(tick)

    def plain(self, tick: tt.Tick) -> None:
        self.handled.append(tick)

    async def with_settings(self, factor: int, tick: tt.Tick, *, name: str) -> None:
        assert (factor, name) == (2, "x")
        await self.method(tick)


_KINDS: dict[str, Callable[[_Strategy], Callable[[tt.Tick], Any]]] = {
    "async method": lambda strategy: strategy.method,
    "object with async __call__": lambda strategy: strategy,
    "partial of async": lambda strategy: functools.partial(strategy.with_settings, 2, name="x"),
    "partial of a partial": lambda strategy: functools.partial(
        functools.partial(strategy.with_settings, 2), name="x"
    ),
    "partial of an object": lambda strategy: functools.partial(strategy),
}


@pytest.mark.parametrize("executor", ["auto", "loop"])
@pytest.mark.parametrize("kind", list(_KINDS))
async def test_kinds_of_async_handlers_run_in_the_loop(
    kind: str, executor: str, autojump_clock: MockClock
) -> None:
    strategy = _Strategy()
    async with open_pipeline(
        listed(make_ticks(3)), _KINDS[kind](strategy), executor=executor
    ) as pipeline:
        await pipeline.wait()
        assert {worker.name.split("-")[0] for worker in pipeline.metrics().workers} == {"loop"}
    assert numbers(strategy.handled) == [0, 1, 2]
    assert_accounted(pipeline.report, consumed=3)


@pytest.mark.parametrize("kind", list(_KINDS))
def test_async_handlers_cannot_run_in_threads(kind: str) -> None:
    async def main() -> None:
        async with open_pipeline(listed([]), _KINDS[kind](_Strategy()), executor="thread"):
            raise AssertionError("the block must not begin")

    with pytest.raises(tt.ConfigError, match=r"event loop, or .*process.* in processes"):
        trio.run(main)


async def test_a_plain_handler_in_the_loop(autojump_clock: MockClock) -> None:
    strategy = _Strategy()
    report = await run_pipeline(listed(make_ticks(3)), strategy.plain, executor="loop")
    assert numbers(strategy.handled) == [0, 1, 2]
    assert_accounted(report, consumed=3)


async def test_a_plain_handler_in_the_loop_may_return_a_coroutine(
    autojump_clock: MockClock,
) -> None:
    strategy = _Strategy()
    report = await run_pipeline(
        listed(make_ticks(3)), lambda tick: strategy.method(tick), executor="loop"
    )
    assert numbers(strategy.handled) == [0, 1, 2]
    assert_accounted(report, consumed=3)


async def test_a_builtin_in_the_loop(autojump_clock: MockClock) -> None:
    handled: list[tt.Tick] = []
    report = await run_pipeline(listed(make_ticks(3)), handled.append, executor="loop")
    assert numbers(handled) == [0, 1, 2]
    assert_accounted(report, consumed=3)


# Handlers that raise


_ORDINARY: list[BaseException] = [
    ValueError("x"),
    ExceptionGroup("several", [ValueError("x"), OSError("y")]),
    StopAsyncIteration(),
    trio.TooSlowError(),
    trio.ClosedResourceError("the handler's own"),
    trio.EndOfChannel(),
    AssertionError("x"),
    IndexError("not to be taken for an empty buffer"),
    RecursionError(),
    tt.QueueFullError("x", maxsize=1),
]


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
@pytest.mark.parametrize("error", _ORDINARY, ids=lambda error: type(error).__name__)
async def test_a_handler_that_raises_fails_its_tick_alone(
    error: Exception, plain: bool, autojump_clock: MockClock
) -> None:
    told: list[tuple[int, Exception]] = []
    handled: list[int] = []

    def handler(tick: tt.Tick) -> None:
        if tick.volume == 2:
            raise error
        handled.extend(numbers([tick]))

    async def async_handler(tick: tt.Tick) -> None:
        handler(tick)

    def on_error(tick: tt.Tick, raised: Exception) -> None:
        told.append((int(tick.volume), raised))

    report = await run_pipeline(
        listed(make_ticks(5)),
        handler if plain else async_handler,
        workers=1,
        executor="loop",
        on_error=on_error,
    )
    assert handled == [0, 1, 3, 4]
    assert told == [(2, error)]
    assert told[0][1] is error
    assert_accounted(report, consumed=4, failed=1, dropped=0)


@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_stop_iteration_of_a_handler_is_an_error_like_others(
    plain: bool, autojump_clock: MockClock
) -> None:
    # Python itself turns it into a RuntimeError at the edge of a coroutine.
    told: list[Exception] = []

    def handler(tick: tt.Tick) -> None:
        next(iter([]))

    async def async_handler(tick: tt.Tick) -> None:
        handler(tick)

    report = await run_pipeline(
        listed(make_ticks(2)),
        handler if plain else async_handler,
        executor="loop",
        on_error=lambda _tick, error: told.append(error),
    )
    assert [type(error) for error in told] == [RuntimeError, RuntimeError]
    assert all(isinstance(error.__cause__, StopIteration) for error in told)
    assert_accounted(report, failed=2)


async def test_a_handlers_own_timeout_is_a_failure_and_no_cancellation(
    autojump_clock: MockClock,
) -> None:
    async def handler(tick: tt.Tick) -> None:
        with trio.fail_after(1.0):
            await trio.sleep_forever()

    report = await run_pipeline(listed(make_ticks(3)), handler, workers=1)
    assert_accounted(report, failed=3, dropped=0)
    assert report.duration_s == 3.0


async def test_a_handler_that_cancels_itself_has_returned(autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep_forever()

    assert_accounted(await run_pipeline(listed(make_ticks(3)), handler), consumed=3)


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(3), BaseException("no Exception")],
    ids=lambda error: type(error).__name__,
)
async def test_what_is_no_exception_ends_the_pipeline_as_itself(
    error: BaseException, autojump_clock: MockClock
) -> None:
    async def handler(tick: tt.Tick) -> None:
        if tick.volume == 1:
            raise error

    with raises_as_itself(error):
        async with open_pipeline(sleepy_feed(make_ticks(5)), handler, workers=1) as pipeline:
            await trio.sleep_forever()
    # A tick that was stopped from outside has no outcome of its own: it is lost, too.
    failed = int(type(error) is BaseException)
    assert_accounted(pipeline.report, consumed=1, failed=failed, shutdown=4 - failed)


# on_error


def _always_fails(tick: tt.Tick) -> None:
    raise ValueError(int(tick.volume))


async def _fails_later(tick: tt.Tick) -> None:
    await trio.sleep(0.01)
    _always_fails(tick)


async def test_on_error_may_be_async_and_comes_before_the_symbols_next_tick(
    autojump_clock: MockClock,
) -> None:
    events: list[str] = []

    async def handler(tick: tt.Tick) -> None:
        events.append(f"handle {int(tick.volume)}")
        raise ValueError

    async def on_error(tick: tt.Tick, error: Exception) -> None:
        await trio.sleep(1.0)
        events.append(f"told {int(tick.volume)}")

    report = await run_pipeline(listed(make_ticks(3)), handler, on_error=on_error)
    assert events == ["handle 0", "told 0", "handle 1", "told 1", "handle 2", "told 2"]
    assert_accounted(report, failed=3)


async def test_on_error_may_be_a_plain_function_that_returns_an_awaitable(
    autojump_clock: MockClock,
) -> None:
    told: list[int] = []

    async def later(tick: tt.Tick) -> None:
        await trio.sleep(1.0)
        told.extend(numbers([tick]))

    await run_pipeline(
        listed(make_ticks(3)), _fails_later, on_error=lambda tick, _error: later(tick)
    )
    assert told == [0, 1, 2]


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
@pytest.mark.parametrize(
    "error",
    [OSError("on_error's own"), KeyboardInterrupt("on_error's own")],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_of_on_error_comes_out_as_itself(
    error: BaseException, is_async: bool, autojump_clock: MockClock
) -> None:
    def on_error(tick: tt.Tick, _error: Exception) -> None:
        raise error

    async def async_on_error(tick: tt.Tick, _error: Exception) -> None:
        await trio.sleep(1.0)
        raise error

    with raises_as_itself(error):
        async with open_pipeline(
            sleepy_feed(make_ticks(5)),
            _fails_later,
            workers=1,
            on_error=async_on_error if is_async else on_error,
        ) as pipeline:
            await trio.sleep_forever()
    assert_accounted(pipeline.report, produced=5, failed=1, shutdown=4)


async def test_a_group_of_on_errors_own_is_not_unwrapped(autojump_clock: MockClock) -> None:
    def on_error(tick: tt.Tick, _error: Exception) -> None:
        raise ExceptionGroup("mine", [OSError("x")])

    with pytest.raises(ExceptionGroup, match="mine") as caught:
        await run_pipeline(listed(make_ticks(5)), _fails_later, workers=1, on_error=on_error)
    assert [repr(error) for error in caught.value.exceptions] == ["OSError('x')"]


async def test_two_errors_of_on_error_at_once_come_out_together(autojump_clock: MockClock) -> None:
    async def on_error(tick: tt.Tick, _error: Exception) -> None:
        # In the same instant, and shielded: neither can be cancelled by the other.
        with trio.CancelScope(shield=True):
            await trio.sleep(1.0)
        raise OSError(tick.symbol)

    with pytest.raises(ExceptionGroup) as caught:
        await run_pipeline(listed(make_ticks(2, "AB")), _fails_later, workers=2, on_error=on_error)
    assert sorted(repr(error) for error in caught.value.exceptions) == [
        "OSError('A')",
        "OSError('B')",
    ]


async def test_failures_are_logged_once_a_second_where_nobody_listens(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="trio_ticks"):
        report = await run_pipeline(listed(make_ticks(350)), _fails_later, workers=1)
    assert_accounted(report, failed=350)
    assert report.duration_s == pytest.approx(3.5)
    lines = [record for record in caplog.records if "failed" in record.getMessage()]
    assert len(lines) == 4
    assert all(record.exc_info is not None and record.exc_info[0] is ValueError for record in lines)


async def test_failures_are_not_logged_where_on_error_listens(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="trio_ticks"):
        await run_pipeline(listed(make_ticks(5)), _fails_later, on_error=lambda _tick, _error: None)
    assert not caplog.records


# A feed that raises


def _broken_feed(
    error: BaseException, ticks: list[tt.Tick] | None = None, *, after: float | None = None
) -> ScriptFeed:
    async def script(send: Send) -> None:
        if ticks:
            await send.send_many(ticks)
        if after is not None:
            await trio.sleep(after)
        raise error

    return ScriptFeed(script)


@pytest.mark.parametrize(
    "error",
    [OSError("feed"), ExceptionGroup("feed", [OSError("x")]), KeyboardInterrupt("feed")],
    ids=repr,
)
@pytest.mark.parametrize("after", [None, 0.0, 1.0])
async def test_an_error_of_the_feed_comes_out_as_itself(
    error: BaseException, after: float | None, autojump_clock: MockClock
) -> None:
    with raises_as_itself(error):
        async with open_pipeline(_broken_feed(error, after=after), Recorder()) as pipeline:
            await trio.sleep_forever()
    assert_accounted(pipeline.report, produced=0)


async def test_an_error_of_the_feed_in_the_middle_drops_what_is_queued(
    autojump_clock: MockClock,
) -> None:
    error = OSError("feed")
    handler = Recorder(seconds=1.0)
    with raises_as_itself(error):
        await run_pipeline(_broken_feed(error, make_ticks(10), after=2.5), handler, workers=1)
    assert numbers(handler.ticks) == [0, 1, 2]


async def test_the_report_of_a_broken_feed_is_final(autojump_clock: MockClock) -> None:
    with pytest.raises(OSError, match="feed"):
        async with open_pipeline(
            _broken_feed(OSError("feed"), make_ticks(10), after=2.5),
            Recorder(seconds=1.0),
            workers=1,
        ) as pipeline:
            await pipeline.wait()
    assert_accounted(pipeline.report, produced=10, consumed=2, shutdown=8)
    assert pipeline.report.duration_s == 2.5


async def test_errors_keep_their_cause_and_context(autojump_clock: MockClock) -> None:
    def make_error() -> OSError:
        try:
            try:
                raise KeyError("context")
            except KeyError:
                raise OSError("feed") from ZeroDivisionError("cause")
        except OSError as error:
            return error

    for feed, body in (
        (_broken_feed(make_error(), after=1.0), trio.sleep_forever),
        (sleepy_feed(), functools.partial(_raise, make_error())),
    ):
        with pytest.raises(OSError, match="feed") as caught:
            async with open_pipeline(feed, Recorder()):
                await body()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert isinstance(caught.value.__context__, KeyError)


async def _raise(error: BaseException) -> None:
    raise error


async def test_an_error_of_the_feed_after_the_shutdown_comes_out_too(
    autojump_clock: MockClock,
) -> None:
    error = OSError("could not say goodbye")

    async def script(send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise error

    with raises_as_itself(error):
        async with open_pipeline(ScriptFeed(script), Recorder()) as pipeline:
            await trio.sleep(1.0)
    assert_accounted(pipeline.report)


async def test_what_is_no_market_data_ends_the_run_with_a_clear_error(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises((AttributeError, TypeError), match="symbol"):
        await run_pipeline(listed([object()]), Recorder())


# The block


async def test_an_error_of_the_block_comes_out_as_itself(autojump_clock: MockClock) -> None:
    error = BodyError("x")
    with raises_as_itself(error):
        async with open_pipeline(
            sleepy_feed(make_ticks(10)), Recorder(seconds=1.0), workers=1
        ) as pipeline:
            await trio.sleep(2.5)
            raise error
    assert_accounted(pipeline.report, produced=10, consumed=2, shutdown=8)
    assert pipeline.report.duration_s == 2.5


@pytest.mark.parametrize(
    "error",
    [
        ExceptionGroup("mine", [ValueError("x")]),
        BaseExceptionGroup("mine", [KeyboardInterrupt()]),
        StopIteration(),
        StopAsyncIteration(),
        KeyboardInterrupt(),
        SystemExit(1),
        trio.EndOfChannel(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_any_error_of_the_block_at_once(
    error: BaseException, autojump_clock: MockClock
) -> None:
    # At once: neither the feed nor a worker has had a first step then.
    with raises_as_itself(error):
        async with open_pipeline(sleepy_feed(make_ticks(10)), Recorder()) as pipeline:
            raise error
    assert_accounted(pipeline.report)
    assert pipeline.metrics().state == "stopped"


async def test_a_block_that_is_cancelled_from_outside(autojump_clock: MockClock) -> None:
    gate = Gate()
    with trio.move_on_after(2.0) as scope:
        async with open_pipeline(sleepy_feed(make_ticks(10, "ABCD")), gate, workers=3) as pipeline:
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() == 2.0
    assert len(gate.entered) == 3
    assert_accounted(pipeline.report, produced=10, shutdown=10)


async def test_a_block_that_is_cancelled_while_it_shuts_down(autojump_clock: MockClock) -> None:
    with trio.move_on_after(2.0) as scope:
        async with open_pipeline(
            sleepy_feed(make_ticks(10, "ABCD")), Gate(), shutdown_timeout=100
        ) as pipeline:
            await trio.sleep(1.0)
    assert scope.cancelled_caught
    assert trio.current_time() == 2.0
    assert_accounted(pipeline.report, produced=10, shutdown=10)


@pytest.mark.parametrize("error", [BodyError("block"), KeyboardInterrupt(), SystemExit(3)])
async def test_a_deadline_while_it_winds_down_takes_no_error_along(
    error: BaseException, autojump_clock: MockClock
) -> None:
    with raises_as_itself(error), trio.move_on_after(2.0):
        async with open_pipeline(sleepy_feed(make_ticks(9)), _slow_to_end) as pipeline:
            await trio.sleep(1.0)
            raise error
    assert trio.current_time() == 3.0
    assert_accounted(pipeline.report, produced=9)


async def test_a_deadline_takes_no_error_of_the_feed_along(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    feeds = OSError("feed")
    with raises_as_itself(feeds), trio.move_on_after(2.0):
        async with open_pipeline(_broken_feed(feeds, after=1.0), _slow_to_end):
            with trio.CancelScope(shield=True):
                await trio.sleep(2.5)
            await trio.sleep_forever()

    cleanup = BodyError("cleanup")
    with caplog.at_level(logging.ERROR, logger="trio_ticks"), raises_as_itself(feeds):
        with trio.move_on_after(2.0):
            async with open_pipeline(_broken_feed(feeds, after=1.0), _slow_to_end):
                try:
                    await trio.sleep_forever()
                finally:
                    raise cleanup
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [cleanup]


@pytest.mark.parametrize("fails", [False, True])
async def test_an_error_of_what_ends_with_the_block_is_told(
    fails: bool,
    tmp_path: Path,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_block, of_recorder = BodyError("block"), OSError("recorder")
    recorder = tt.Recorder(tmp_path)
    end = recorder.end

    def end_and_fail() -> None:
        end()
        raise of_recorder

    monkeypatch.setattr(recorder, "end", end_and_fail)
    with raises_as_itself(of_block if fails else of_recorder), trio.move_on_after(2.0):
        async with open_pipeline(sleepy_feed(make_ticks(9)), _slow_to_end, record=recorder):
            await trio.sleep(1.0)
            if fails:
                raise of_block
            await trio.sleep_forever()
    told = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert told == ([of_recorder] if fails else [])


async def test_a_group_of_the_block_with_a_cancellation_in_it_comes_out(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    feeds, cleanup = OSError("feed"), BodyError("cleanup")

    async def script(send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise feeds

    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise cleanup

    caplog.set_level(logging.ERROR, logger="trio_ticks")
    with pytest.RaisesGroup(BodyError, flatten_subgroups=True), trio.move_on_after(2.0) as scope:
        async with open_pipeline(ScriptFeed(script), Recorder()), trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [feeds]


async def _slow_to_end(_tick: tt.Tick) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(2.0)


async def test_the_block_of_a_broken_feed_is_cancelled(autojump_clock: MockClock) -> None:
    ended: list[float] = []

    async def block() -> None:
        async with open_pipeline(_broken_feed(OSError("feed"), after=1.0), Recorder()):
            try:
                await trio.sleep_forever()
            finally:
                ended.append(trio.current_effective_deadline())

    with pytest.raises(OSError, match="feed"):
        await block()
    assert ended == [-math.inf]


async def test_the_first_of_two_errors_comes_out_and_the_second_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    feeds, cleanup = OSError("feed"), BodyError("cleanup")
    with caplog.at_level(logging.ERROR, logger="trio_ticks"), raises_as_itself(feeds):
        async with open_pipeline(_broken_feed(feeds, after=1.0), Recorder()):
            try:
                await trio.sleep_forever()
            finally:
                raise cleanup
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [cleanup]

    async def script(send: Send) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise feeds

    caplog.clear()
    with caplog.at_level(logging.ERROR, logger="trio_ticks"), raises_as_itself(cleanup):
        async with open_pipeline(ScriptFeed(script), Recorder()):
            await trio.sleep(1.0)
            raise cleanup
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [feeds]


async def test_an_error_of_the_feeds_clean_up_does_not_hide_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Second(Exception):
        """Raised while the feed is cancelled."""

    first = ValueError("first")

    async def script(send: Send) -> None:
        try:
            await send.send(make_tick("A", 1))
            await trio.sleep_forever()
        finally:
            raise Second

    async def handler(_tick: tt.Tick) -> None:
        raise KeyError

    async def on_error(_tick: tt.Tick, _error: Exception) -> None:
        raise first

    with raises_as_itself(first):
        async with tt.open_pipeline(ScriptFeed(script), handler, on_error=on_error) as pipeline:
            await pipeline.wait()
    assert "Second" in caplog.text


async def test_no_task_outlives_the_block(autojump_clock: MockClock) -> None:
    root = trio.lowlevel.current_root_task()
    assert root is not None

    def count_tasks(task: trio.lowlevel.Task) -> int:
        return 1 + sum(
            count_tasks(child) for nursery in task.child_nurseries for child in nursery.child_tasks
        )

    before = count_tasks(root)
    async with open_pipeline(sleepy_feed(make_ticks(10)), Gate(), shutdown_timeout=1.0):
        await wait_all_tasks_blocked()
        assert count_tasks(root) > before
    assert count_tasks(root) == before


# Settings


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("workers", 0),
        ("workers", -1),
        ("workers", 1.5),
        ("workers", True),
        ("workers", None),
        ("maxsize", 0),
        ("maxsize", math.inf),
        ("maxsize", "1000"),
        ("lag_threshold", 0),
        ("lag_threshold", 0.5),
        ("write_timeout", -0.1),
        ("write_timeout", math.nan),
        ("write_timeout", "1"),
        ("write_timeout", True),
        ("shutdown_timeout", -1),
        ("shutdown_timeout", math.nan),
        ("shutdown_timeout", None),
        ("ordering", "Symbol"),
        ("ordering", None),
        ("executor", "threads"),
        ("executor", None),
        ("max_age", 0),
        ("max_age", -1.0),
        ("max_age", math.nan),
        ("max_age", "1"),
        ("overflow", "drop"),
        ("overflow", tt.DropNewest),
        ("buffer", 1000),
        ("on_error", "log"),
    ],
)
async def test_settings_that_cannot_work_are_refused_before_anything_runs(
    setting: str, value: Any
) -> None:
    ran: list[str] = []

    async def script(send: Send) -> None:
        ran.append("feed")

    settings: dict[str, Any] = {setting: value}
    with pytest.raises(tt.ConfigError) as caught:
        async with open_pipeline(ScriptFeed(script), Recorder(), **settings):
            ran.append("block")
    assert ran == []
    # One clear line that names the setting and the value that it got.
    message = str(caught.value)
    assert "\n" not in message
    assert setting in message or type(value).__name__ in message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "feed",
    [None, [1, 2], object(), "wss://feed", type("Odd", (), {"run": 3})()],
    ids=["none", "list", "object", "text", "run"],
)
async def test_what_is_no_feed_is_refused(feed: Any) -> None:
    with pytest.raises(tt.ConfigError, match="feed"):
        async with open_pipeline(feed, Recorder()):
            raise AssertionError("the block must not begin")


class PlainRun:
    def run(self, send: Send) -> None: ...


class NoArgument:
    async def run(self) -> None: ...


class WithYield:
    async def run(self, send: Send) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("feed", "match"),
    [
        (PlainRun(), "it is a plain def"),
        (NoArgument(), "too many positional arguments"),
        (WithYield(), r"it has a yield: call send\.send\(tick\) instead"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_feed_whose_run_cannot_be_awaited_with_a_channel_is_refused(
    feed: Any, match: str
) -> None:
    wanted = "feed.run must be an async function that takes the send channel"
    with pytest.raises(tt.ConfigError, match=rf"{wanted}, .*{match}"):
        async with open_pipeline(feed, Recorder()):
            raise AssertionError("the block must not begin")


async def test_the_class_of_a_feed_is_refused() -> None:
    feed: Any = tt.IterableFeed
    with pytest.raises(tt.ConfigError, match=r"is a class: write IterableFeed\(\.\.\.\)"):
        await run_pipeline(feed, Recorder())


async def test_a_run_behind_a_decorator_or_a_partial_is_taken() -> None:
    async def run(send: Send) -> None:
        await send.send_many(make_ticks(1))

    @functools.wraps(run)
    def decorated(_self: object, send: Send) -> Any:
        return run(send)

    for member in (staticmethod(functools.partial(run)), decorated):
        feed = type("Wrapped", (), {"run": member})()
        assert_accounted(await run_pipeline(feed, Recorder()), consumed=1)


@pytest.mark.parametrize("handler", [None, "module:function", 3, ("a",)], ids=repr)
@pytest.mark.parametrize("executor", ["auto", "loop", "thread"])
async def test_what_is_no_handler_is_refused(handler: Any, executor: str) -> None:
    with pytest.raises(tt.ConfigError, match="handler"):
        async with open_pipeline(listed([]), handler, executor=executor):
            raise AssertionError("the block must not begin")


async def test_run_pipeline_refuses_too() -> None:
    with pytest.raises(tt.ConfigError, match="workers"):
        await run_pipeline(listed([]), Recorder(), workers=0)
    with pytest.raises(TypeError, match="worker"):
        await run_pipeline(listed([]), Recorder(), worker=1)


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [
        (None, {"consumed": 5, "overflow": 15}),
        (tt.DropNewest(timeout=0), {"consumed": 5, "overflow": 15}),
        (tt.DropOldest(), {"consumed": 5, "evicted": 15}),
        (tt.Block(), {"consumed": 20, "dropped": 0}),
    ],
    ids=repr,
)
async def test_the_overflow_strategy_decides(
    overflow: Any, expected: dict[str, int], autojump_clock: MockClock
) -> None:
    report = await run_pipeline(
        listed(make_ticks(20)),
        Recorder(seconds=1.0),
        workers=1,
        maxsize=5,
        overflow=overflow,
        write_timeout=0,
    )
    assert_accounted(report, produced=20, **expected)


async def test_fail_ends_the_run_with_the_channels_error(autojump_clock: MockClock) -> None:
    with pytest.raises(tt.QueueFullError) as caught:
        async with open_pipeline(
            listed(make_ticks(20)), Recorder(seconds=1.0), maxsize=5, overflow=tt.Fail()
        ) as pipeline:
            await pipeline.wait()
    assert caught.value.maxsize == 5
    assert_accounted(pipeline.report, produced=20, overflow=15, shutdown=5)


async def test_write_timeout_is_the_patience_of_the_default_strategy(
    autojump_clock: MockClock,
) -> None:
    # Full from the start; a slot comes free every second, and the timeout is two
    # seconds.
    report = await run_pipeline(
        listed(make_ticks(20)), Recorder(seconds=1.0), workers=1, maxsize=5, write_timeout=2.5
    )
    assert_accounted(report, produced=20, consumed=8, overflow=12)
    assert report.blocked_s == 2.5


async def test_max_age_counts_what_waited_too_long_as_stale(autojump_clock: MockClock) -> None:
    handler = Recorder(seconds=1.0)
    report = await run_pipeline(listed(make_ticks(10)), handler, workers=1, max_age=3.5)
    assert numbers(handler.ticks) == [0, 1, 2, 3]
    assert_accounted(report, consumed=4, stale=6)


async def test_max_age_counts_the_time_in_a_lane_too(autojump_clock: MockClock) -> None:
    # The second worker moves the symbol's ticks to its lane at once: their age keeps
    # growing there.
    handler = Recorder(seconds=1.0)
    report = await run_pipeline(listed(make_ticks(10)), handler, workers=2, max_age=3.5)
    assert numbers(handler.ticks) == [0, 1, 2, 3]
    assert_accounted(report, consumed=4, stale=6)


_Handler = Callable[[tt.Tick], Awaitable[None]]


async def test_the_law_holds_at_every_instant(autojump_clock: MockClock) -> None:
    # Not only at the end: also while ticks are sent, parked, handled, failed, dropped
    # and cancelled.
    async def script(send: Send) -> None:
        for first in range(0, 3000, 7):
            await send.send_many(make_ticks(7, "ABC", first))
            await trio.sleep(0.01)

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(0.003 * (tick.volume % 5))
        if tick.volume % 11 == 0:
            raise ValueError

    checks = 0
    async with open_pipeline(
        ScriptFeed(script),
        handler,
        maxsize=50,
        write_timeout=0.05,
        on_error=lambda _tick, _error: None,
        shutdown_timeout=0.02,
    ) as pipeline:
        while trio.current_time() < 2.0:
            pipeline.ledger.check()
            assert pipeline.ledger.unaccounted == 0
            assert pipeline.statistics().current_buffer_used <= 50
            assert pipeline.ledger.queued <= 50 + 7  # and one delivery that waits for room
            checks += 1
            await trio.sleep(0.001)
    assert checks >= 1900
    report = pipeline.report
    assert_accounted(report)
    assert report.failed > 0
    assert report.dropped_by_reason["overflow"] > 0
    assert report.dropped_by_reason["shutdown"] > 0
