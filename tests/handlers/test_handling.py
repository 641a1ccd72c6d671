"""How handlers are made ready: retries in the symbol's order, and handlers' lives.

The lives of classes and instances, in the loop and in threads.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from random import Random
from types import TracebackType
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks, number, numbers
from tests.worlds.pipeline_world import (
    ScriptFeed,
    Send,
    assert_accounted,
    listed,
    raises_as_itself,
    sleepy_feed,
)
from trio_ticks import open_pipeline, run_pipeline
from trio_ticks.handlers.lives import open_handler

PATIENCE_S = 30.0


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until *condition* holds."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what it waits for may happen in threads, which set no trio.Event
            await trio.sleep(0.001)


# Retries: the settings


@pytest.mark.parametrize(
    "settings",
    [
        {"on": ()},
        {"on": "ValueError"},
        {"on": (ValueError, BaseException)},
        {"on": trio.Cancelled},
        {"on": ValueError, "attempts": 1},
        {"on": ValueError, "attempts": True},
        {"on": ValueError, "initial_s": -1},
        {"on": ValueError, "maximum_s": float("inf")},
        {"on": ValueError, "initial_s": 2.0, "maximum_s": 1.0},
    ],
    ids=str,
)
def test_retry_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(tt.ConfigError):
        tt.Retry(**settings)


@given(st.integers(2, 12), st.floats(0, 10), st.floats(0, 10))
def test_waits_double_up_to_the_maximum_with_full_jitter(
    attempts: int, one: float, other: float
) -> None:
    initial_s, maximum_s = sorted((one, other))
    waits = list(
        tt.Retry(ValueError, attempts=attempts, initial_s=initial_s, maximum_s=maximum_s).waits(
            Random(0)
        )
    )
    assert len(waits) == attempts - 1
    assert all(
        0 <= wait <= min(initial_s * 2**index, maximum_s) for index, wait in enumerate(waits)
    )


def test_waits_are_spread_over_all_of_their_bounds() -> None:
    random = Random(0)
    waits = [next(tt.Retry(ValueError, initial_s=1.0).waits(random)) for _ in range(1000)]
    assert Counter(int(wait * 4) for wait in waits).keys() == {0, 1, 2, 3}


# Retries: in a pipeline


class Flaky:
    """Fails at the first *failures* tries of each tick in *ticks*, anywhere it runs."""

    def __init__(
        self,
        failures: int,
        ticks: Callable[[int], bool] = lambda n: True,
        error: Callable[[], Exception] = TimeoutError,
    ) -> None:
        self._failures = failures
        self._wanted = ticks
        self._error = error
        self.tries: list[tuple[str, int]] = []
        self._count: Counter[int] = Counter()

    def try_it(self, tick: tt.Tick) -> None:
        n = number(tick)
        self.tries.append((tick.symbol, n))
        self._count[n] += 1
        if self._wanted(n) and self._count[n] <= self._failures:
            raise self._error()

    async def in_loop(self, tick: tt.Tick) -> None:
        self.try_it(tick)

    def handler(self, place: str) -> Any:
        return self.in_loop if place == "loop" else self.try_it

    def of(self, symbol: str) -> list[int]:
        return [n for name, n in self.tries if name == symbol]


PLACES = pytest.mark.parametrize("place", ["loop", "thread"])
QUICK: dict[str, Any] = {"initial_s": 0.0, "maximum_s": 0.0}


@PLACES
@pytest.mark.parametrize("workers", [1, 3])
async def test_a_try_that_cures_makes_a_tick_consumed_in_its_symbols_order(
    place: str, workers: int
) -> None:
    flaky = Flaky(2, lambda n: n % 10 in (3, 4))
    report = await run_pipeline(
        listed(make_ticks(100, "AB")),
        flaky.handler(place),
        workers=workers,
        retry=tt.Retry(TimeoutError, **QUICK),
    )
    assert_accounted(report, consumed=100, failed=0)
    assert report.handler_retries == 40
    for symbol, first in (("A", 0), ("B", 1)):
        assert flaky.of(symbol) == [
            n for n in range(first, 100, 2) for _ in range(3 if n % 10 in (3, 4) else 1)
        ]


@PLACES
async def test_after_the_last_try_it_has_failed_by_what_that_one_raised(place: str) -> None:
    errors = [TimeoutError(n) for n in range(9)]
    told: list[Exception] = []
    flaky, left = Flaky(9, error=lambda: left.pop(0)), list(errors)
    report = await run_pipeline(
        listed(make_ticks(3)),
        flaky.handler(place),
        workers=1,
        retry=tt.Retry(TimeoutError, **QUICK),
        on_error=lambda _tick, error: told.append(error),
    )
    assert told == [errors[2], errors[5], errors[8]]
    assert flaky.of("A") == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert_accounted(report, failed=3)
    assert report.handler_retries == 6


@PLACES
async def test_only_what_was_named_is_tried_again(place: str) -> None:
    flaky = Flaky(9, error=ArithmeticError)
    report = await run_pipeline(
        listed(make_ticks(3)), flaky.handler(place), retry=tt.Retry((TimeoutError, OSError))
    )
    assert flaky.of("A") == [0, 1, 2]
    assert_accounted(report, failed=3)
    assert report.handler_retries == 0


def _group(*errors: Exception) -> ExceptionGroup[Exception]:
    return ExceptionGroup("of a nursery", errors)


@PLACES
@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (_group(TimeoutError()), 3),
        (_group(TimeoutError(), _group(TimeoutError())), 3),
        (_group(TimeoutError(), ValueError()), 1),
    ],
    ids=["one", "nested", "mixed"],
)
async def test_a_group_is_tried_again_where_all_in_it_may_be_cured(
    place: str, error: Exception, tries: int
) -> None:
    flaky = Flaky(9, error=lambda: error)
    await run_pipeline(
        listed(make_ticks(1)), flaky.handler(place), retry=tt.Retry(TimeoutError, **QUICK)
    )
    assert len(flaky.tries) == tries


class Longest(Random):
    """Chance that makes every wait as long as it may be."""

    def random(self) -> float:
        return 1.0


def wait_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = tt.Retry.waits
    monkeypatch.setattr(tt.Retry, "waits", lambda retry, _random: waits(retry, Longest()))


async def test_waits_between_tries_hold_up_no_other_symbol(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_longest(monkeypatch)
    at: list[tuple[str, float]] = []
    flaky = Flaky(2, lambda n: n == 0)
    start = trio.current_time()

    async def handler(tick: tt.Tick) -> None:
        at.append((f"{tick.symbol}{number(tick)}", trio.current_time() - start))
        flaky.try_it(tick)

    ticks = [make_tick("A", 0), make_tick("A", 1), make_tick("B", 2), make_tick("B", 3)]
    await run_pipeline(
        listed(ticks),
        handler,
        workers=2,
        retry=tt.Retry(TimeoutError, attempts=5, initial_s=1.0, maximum_s=60.0),
    )
    assert at == [("A0", 0.0), ("B2", 0.0), ("B3", 0.0), ("A0", 1.0), ("A0", 3.0), ("A1", 3.0)]


async def test_a_pipeline_that_is_cancelled_between_two_tries_waits_for_none(
    autojump_clock: MockClock,
) -> None:
    flaky = Flaky(9)
    retry = tt.Retry(TimeoutError, initial_s=1e5, maximum_s=1e5)
    async with open_pipeline(
        sleepy_feed(make_ticks(3)), flaky.in_loop, retry=retry, shutdown_timeout=2.0
    ) as pipeline:
        await trio.sleep(1)
        pipeline.shutdown()
        start = trio.current_time()
        await pipeline.wait()
        assert trio.current_time() - start <= 2.0
    assert len(flaky.tries) == 1
    assert_accounted(pipeline.report, shutdown=3)


async def test_a_thread_that_waits_between_two_tries_ends_at_a_shutdown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its tick is lost, or has failed; the thread must not wait on, nor try again."""
    wait_longest(monkeypatch)
    threads: list[int] = []

    def handler(tick: tt.Tick) -> None:
        threads.append(threading.get_ident())
        raise TimeoutError

    def waits_in_pause() -> bool:
        frame = sys._current_frames().get(threads[0])
        return frame is not None and any(
            line.name == "pause" for line in traceback.extract_stack(frame)
        )

    retry = tt.Retry(TimeoutError, initial_s=3600.0, maximum_s=3600.0)
    async with open_pipeline(sleepy_feed(make_ticks(3)), handler, retry=retry) as pipeline:
        await until(lambda: bool(threads) and waits_in_pause())
        pipeline.cancel()
    await until(lambda: not waits_in_pause())
    assert len(threads) == 1
    # The thread may say that it has failed before its worker gives it up.
    failed = pipeline.report.failed
    assert failed in (0, 1)
    assert_accounted(pipeline.report, shutdown=3 - failed, failed=failed)


# The life of a handler: classes and instances


class Life:
    """Records what the handlers of one test went through; makes classes of handlers."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.handled: list[int] = []
        self.threads: dict[str, int] = {}
        self.reasons: list[type[BaseException] | None] = []
        self.fails_at: str | None = None
        self.error: BaseException = OSError("the handler's own")

    def record(self, event: str) -> None:
        self.events.append(event)
        self.threads[event] = threading.get_ident()
        if self.fails_at == event:
            raise self.error

    def of(self, kind: str) -> Any:
        """Return a class: its life is sync or async, and so is its call."""
        life, call = kind.split("/")
        bases = (
            _SyncLife if life == "sync" else _AsyncLife,
            _SyncCall if call == "sync" else _AsyncCall,
        )
        return type(kind, bases, {"life": self})


class _Base:
    life: Life

    def __init__(self) -> None:
        self.life.record("made")

    def handle(self, tick: tt.Tick) -> None:
        self.life.handled.append(number(tick))
        if "first" not in self.life.events:
            self.life.record("first")


class _SyncLife(_Base):
    def __enter__(self) -> None:
        self.life.record("in")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.life.reasons.append(kind)
        self.life.record("out")
        return True


class _AsyncLife(_Base):
    async def __aenter__(self) -> None:
        await trio.lowlevel.checkpoint()
        self.life.record("in")

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.life.reasons.append(kind)
        self.life.record("out")
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()


class _SyncCall(_Base):
    def __call__(self, tick: tt.Tick) -> None:
        self.handle(tick)


class _AsyncCall(_Base):
    async def __call__(self, tick: tt.Tick) -> None:
        await trio.lowlevel.checkpoint()
        self.handle(tick)


KINDS = pytest.mark.parametrize("kind", ["sync/sync", "sync/async", "async/sync", "async/async"])


@KINDS
@pytest.mark.parametrize("workers", [1, 3])
async def test_a_class_makes_one_per_worker_and_each_has_its_life(kind: str, workers: int) -> None:
    life = Life()
    report = await run_pipeline(listed(make_ticks(20, "ABC")), life.of(kind), workers=workers)
    assert_accounted(report, consumed=20)
    assert Counter(life.events) == {"made": workers, "in": workers, "first": 1, "out": workers}
    assert life.events[0] == "made"
    assert life.reasons == [None] * workers
    assert sorted(life.handled) == list(range(20))


@KINDS
async def test_an_instance_is_shared_and_entered_once(kind: str) -> None:
    life = Life()
    report = await run_pipeline(listed(make_ticks(20, "ABC")), life.of(kind)(), workers=3)
    assert_accounted(report, consumed=20)
    assert life.events == ["made", "in", "first", "out"]


async def test_what_is_not_async_has_its_life_in_threads() -> None:
    here = threading.get_ident()
    plain, asynchronous, in_loop = Life(), Life(), Life()
    await run_pipeline(listed(make_ticks(1)), plain.of("sync/sync"), workers=1)
    assert here not in plain.threads.values()
    await run_pipeline(listed(make_ticks(1)), asynchronous.of("async/sync"), workers=1)
    assert [name for name, thread in asynchronous.threads.items() if thread == here] == [
        "in",
        "out",
    ]
    await run_pipeline(listed(make_ticks(1)), in_loop.of("sync/async"), workers=1)
    assert set(in_loop.threads.values()) == {here}


async def test_a_slow_set_up_in_a_thread_leaves_the_loop_free() -> None:
    entered = threading.Event()

    class Slow:
        def __enter__(self) -> None:
            assert entered.wait(PATIENCE_S)

        def __exit__(self, *_reason: object) -> None: ...

        def __call__(self, tick: tt.Tick) -> None: ...

    async with open_pipeline(listed(make_ticks(5)), Slow, workers=2) as pipeline:
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert pipeline.ledger.consumed == 0
        entered.set()
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=5)


async def test_what_entering_returns_is_the_handler_if_it_can_be_called() -> None:
    handled: list[int] = []

    class Factory:
        def __enter__(self) -> Callable[[tt.Tick], None]:
            return lambda tick: handled.append(number(tick))

        def __exit__(self, *_reason: object) -> None: ...

        def __call__(self, tick: tt.Tick) -> None:
            raise AssertionError("not this one")

    assert_accounted(await run_pipeline(listed(make_ticks(3)), Factory, workers=1), consumed=3)
    assert handled == [0, 1, 2]


@KINDS
@pytest.mark.parametrize(
    "way",
    ["shutdown", "cancel", "cancelled from outside", "error of on_error", "error of the block"],
)
async def test_who_was_entered_is_left_whatever_happens(kind: str, way: str) -> None:
    life, error = Life(), ValueError("not the handler's")
    life.fails_at = "first" if way == "error of on_error" else None

    def on_error(_tick: tt.Tick, _error: Exception) -> None:
        raise error

    caught: BaseException | None = None
    with trio.CancelScope() as scope:
        try:
            async with open_pipeline(
                sleepy_feed(make_ticks(5, "ABC")), life.of(kind), workers=2, on_error=on_error
            ) as pipeline:
                await until(lambda: bool(life.handled))
                if way == "shutdown":
                    pipeline.shutdown()
                elif way == "cancel":
                    pipeline.cancel()
                elif way == "cancelled from outside":
                    scope.cancel()
                elif way == "error of the block":
                    raise error
                await pipeline.wait()
        except ValueError as raised:
            caught = raised
    # A handler's __exit__ that returns True hides no error from elsewhere.
    assert (caught is error) == way.startswith("error")
    assert life.events.count("out") == life.events.count("in") >= 1
    assert_accounted(pipeline.report, produced=5)


@KINDS
@pytest.mark.parametrize("event", ["made", "in", "out"])
@pytest.mark.parametrize("shared", [False, True], ids=["class", "instance"])
async def test_an_error_of_its_life_ends_the_pipeline_as_itself(
    kind: str, event: str, shared: bool
) -> None:
    life = Life()
    handler: Any = life.of(kind)
    handler = handler() if shared and event != "made" else handler
    life.fails_at = event
    with raises_as_itself(life.error):
        async with open_pipeline(listed(make_ticks(5, "ABC")), handler, workers=3) as pipeline:
            await pipeline.wait()
            await trio.sleep_forever()
    if event == "out":
        assert life.handled
    assert_accounted(pipeline.report, produced=5)


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), ExceptionGroup("its own", [OSError()])],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("shared", [False, True], ids=["class", "instance"])
async def test_an_error_of_any_kind_in_its_life_comes_out_as_itself(
    error: BaseException, shared: bool
) -> None:
    life = Life()
    handler: Any = life.of("sync/async")
    handler = handler() if shared else handler
    life.fails_at, life.error = "in", error
    with raises_as_itself(error):
        async with open_pipeline(sleepy_feed(make_ticks(5)), handler, workers=3):
            await trio.sleep_forever()


async def test_of_several_errors_the_others_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    life = Life()
    life.fails_at = "in"
    with raises_as_itself(life.error):
        await run_pipeline(sleepy_feed(), life.of("sync/async"), workers=3)
    assert [
        record.message.split(":")[0] for record in caplog.records if record.levelno >= logging.ERROR
    ] == ["pipeline.second_error"] * 2


async def test_an_error_of_the_exit_while_the_pipeline_is_cancelled_is_raised() -> None:
    life = Life()
    life.fails_at = "out"
    with raises_as_itself(life.error):
        async with open_pipeline(
            sleepy_feed(make_ticks(3)), life.of("async/async"), workers=2
        ) as pipeline:
            await until(lambda: bool(life.handled))
            pipeline.cancel()
            await pipeline.wait()
            await trio.sleep_forever()


async def test_a_handler_may_have_a_nursery_for_its_life(autojump_clock: MockClock) -> None:
    sums: list[int] = []

    class Background:
        async def __aenter__(self) -> None:
            self._send, receive = trio.open_memory_channel[int](10)
            self._nursery = trio.open_nursery()
            nursery = await self._nursery.__aenter__()
            nursery.start_soon(self._work, receive)

        async def _work(self, receive: trio.MemoryReceiveChannel[int]) -> None:
            sums.extend([n async for n in receive])

        async def __aexit__(self, *reason: Any) -> bool | None:
            self._send.close()
            return await self._nursery.__aexit__(*reason)

        async def __call__(self, tick: tt.Tick) -> None:
            await self._send.send(number(tick))

    assert_accounted(await run_pipeline(listed(make_ticks(10)), Background, workers=2), consumed=10)
    assert sums == list(range(10))


async def test_a_class_whose_init_needs_arguments_is_refused_with_what_to_do() -> None:
    class NeedsMore:
        def __init__(self, size: int) -> None:
            self.size = size

        def __call__(self, tick: tt.Tick) -> None: ...

    class CannotBeCalled:
        pass

    with pytest.raises(tt.ConfigError, match=r"without arguments.*'size'"):
        await run_pipeline(listed([]), NeedsMore)
    handler: Any = CannotBeCalled
    with pytest.raises(tt.ConfigError, match="__call__"):
        await run_pipeline(listed([]), handler)


@pytest.mark.parametrize("kind", ["method", "partial", "lambda"])
async def test_a_method_or_a_function_is_not_entered(kind: str) -> None:
    """The pipeline enters only the object that it was given, not the object behind it.

    A user who passes a method enters and leaves its instance.
    """
    life = Life()
    instance = life.of("sync/sync")()
    handlers: dict[str, Any] = {
        "method": instance.__call__,
        "partial": functools.partial(instance),
        "lambda": lambda tick: instance(tick),
    }
    assert_accounted(await run_pipeline(listed(make_ticks(3)), handlers[kind]), consumed=3)
    assert life.events == ["made", "first"]


# Threads that are slow to enter or to leave


async def test_a_set_up_that_is_abandoned_is_left_again() -> None:
    """A cancellation does not wait for a set-up in a thread.

    If the set-up succeeds later, only that thread can leave it.
    """
    entering, go_on, left = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        def __enter__(self) -> None:
            entering.set()
            assert go_on.wait(PATIENCE_S)

        def __exit__(self, *_reason: object) -> None:
            left.set()

        def __call__(self, tick: tt.Tick) -> None: ...

    async with open_pipeline(sleepy_feed(make_ticks(3)), Slow(), workers=1) as pipeline:
        assert await trio.to_thread.run_sync(entering.wait, PATIENCE_S)
        pipeline.cancel()
    assert not left.is_set()
    assert_accounted(pipeline.report, produced=3, shutdown=3)
    go_on.set()
    assert await trio.to_thread.run_sync(left.wait, PATIENCE_S)


async def test_an_exit_that_hangs_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trio_ticks.handlers.lives._LEAVE_S", 0.05)
    go_on = threading.Event()

    class Hangs:
        def __enter__(self) -> None: ...

        def __exit__(self, *_reason: object) -> None:
            go_on.wait(PATIENCE_S)

        def __call__(self, tick: tt.Tick) -> None: ...

    try:
        assert_accounted(await run_pipeline(listed(make_ticks(3)), Hangs, workers=1), consumed=3)
    finally:
        go_on.set()
    assert "handler.exit_hangs" in caplog.text


@pytest.mark.parametrize("in_thread", [False, True])
async def test_errors_and_cancellations_pass_through_an_open_handler(in_thread: bool) -> None:
    life = Life()
    error = ValueError()
    with raises_as_itself(error):
        async with open_handler(life.of("sync/sync"), in_thread=in_thread):
            raise error
    with trio.CancelScope() as scope:
        async with open_handler(life.of("sync/sync"), in_thread=in_thread):
            scope.cancel()
            await trio.lowlevel.checkpoint()
        raise AssertionError("the cancellation was swallowed")
    assert life.reasons == [ValueError, trio.Cancelled]


# With both at once


@PLACES
async def test_per_worker_state_with_retries_keeps_order(place: str) -> None:
    """Classes, retries and random pauses together.

    Each symbol's ticks are in order, and each is handled well once.
    """
    handled: dict[str, list[int]] = {symbol: [] for symbol in "ABCDE"}
    tries: Counter[int] = Counter()

    class Base:
        def work(self, tick: tt.Tick) -> None:
            tries[number(tick)] += 1
            if number(tick) % 7 == 0 and tries[number(tick)] < 3:
                raise TimeoutError
            handled[tick.symbol].append(number(tick))

    class InLoop(Base):
        async def __call__(self, tick: tt.Tick) -> None:
            await trio.sleep(0.0001 * (number(tick) % 3))
            self.work(tick)

    class InThread(Base):
        def __call__(self, tick: tt.Tick) -> None:
            time.sleep(0.0001 * (number(tick) % 3))
            self.work(tick)

    async def script(send: Send) -> None:
        for tick in make_ticks(300, "ABCDE"):
            await send.send(tick)

    handler: Any = InLoop if place == "loop" else InThread
    report = await run_pipeline(
        ScriptFeed(script),
        handler,
        workers=3,
        overflow=tt.Block(),
        retry=tt.Retry(TimeoutError, initial_s=0.001, maximum_s=0.001),
    )
    assert_accounted(report, consumed=300)
    assert handled == {
        symbol: numbers(make_ticks(300, "ABCDE"))["ABCDE".index(symbol) :: 5] for symbol in "ABCDE"
    }
    assert report.handler_retries == 2 * len(range(0, 300, 7))
