"""Ctrl-C comes between the steps of a pipeline, wherever it finds the code."""

from __future__ import annotations

import functools
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio

import trio_ticks as tt
import trio_ticks.brokers
from tests.worlds.servers import free_port
from trio_ticks.uninterrupted import interruptible, uninterrupted

TICKS = [
    tt.Tick(f"S{place % 3}", datetime(2026, 3, 2, 12, tzinfo=UTC), 1.0, 2.0, 1.0, 1.0, float(place))
    for place in range(60)
]
LINES, STEP = 5000, 211
"""How many lines are tried, and every how many-th: a prime, so that it does not meet
the same few lines of a loop again and again."""


@pytest.fixture(autouse=True)
def ours() -> Iterator[None]:
    """Have Ctrl-C raise, as in a program of its own, whoever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupt:
    """Sends SIGINT at the *at*-th line that runs of files whose path *is_meant*."""

    def __init__(self, at: int, is_meant: re.Pattern[str]) -> None:
        self._left = at
        self._is_meant = is_meant
        self.where = ""

    def __enter__(self) -> Interrupt:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_reason: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, _event: str, _arg: object) -> Any:
        return (
            self._line if self._is_meant.search(Path(frame.f_code.co_filename).as_posix()) else None
        )

    def _line(self, frame: FrameType, event: str, _arg: object) -> Any:
        if event == "line" and not self.where:
            self._left -= 1
            if not self._left:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self._line


async def in_loop(tick: tt.Tick) -> None:
    if tick.volume % 5 == 0:
        await trio.lowlevel.checkpoint()


def in_thread(_tick: tt.Tick) -> None: ...


async def source() -> AsyncIterator[tt.Tick]:
    for tick in TICKS:
        yield tick
    await trio.sleep_forever()


async def play(
    handler: Callable[[tt.Tick], Any],
    workers: int,
    seen: list[tt.Pipeline[Any]],
    settings: Mapping[str, Any],
) -> None:
    with trio.fail_after(60):
        async with tt.open_pipeline(
            tt.IterableFeed(source()), handler, workers=workers, **settings
        ) as pipeline:
            seen.append(pipeline)
            while pipeline.report.consumed < len(TICKS):  # noqa: ASYNC110 - it is tried
                await trio.sleep(0.001)


def causes(raised: BaseException | None) -> set[type]:
    """Return the kinds of what was *raised*, also in groups."""
    if isinstance(raised, BaseExceptionGroup):
        return {kind for each in raised.exceptions for kind in causes(each)}
    return set() if raised is None else {type(raised)}


def interrupted(
    places: Iterable[int],
    is_meant: re.Pattern[str],
    handler: Callable[[tt.Tick], Any],
    settings: Callable[[], Mapping[str, Any]],
) -> int:
    """Interrupt a run at each of *places*; return how many of them there were."""
    count = 0
    for at in places:
        seen: list[tt.Pipeline[Any]] = []
        raised: BaseException | None = None
        with Interrupt(at, is_meant) as interrupt:
            try:
                trio.run(play, handler, 2, seen, settings())
            except BaseException as error:
                raised = error
        assert causes(raised) == ({KeyboardInterrupt} if interrupt.where else set()), (
            interrupt.where,
            raised,
        )
        if not interrupt.where:
            break
        count += 1
        for pipeline in seen:
            pipeline.ledger.check()
            ledger = pipeline.report.ledger
            assert (ledger.queued, ledger.in_flight) == (0, 0), interrupt.where
            if pipeline.ingest is not None:
                pipeline.ingest.ledger.check()
                assert pipeline.ingest.report.ledger.queued == 0, interrupt.where
    return count


@pytest.mark.parametrize("handler", [in_loop, in_thread])
@pytest.mark.parametrize("first", range(1, 5))
def test_the_law_holds_wherever_it_comes(handler: Any, first: int) -> None:
    places = range(first * STEP // 4, LINES, STEP)
    is_meant = re.compile("trio_ticks/(channel|workers)/")
    settings = {"maxsize": 8, "overflow": tt.Block()}
    assert interrupted(places, is_meant, handler, lambda: settings) > 15


def test_the_laws_of_both_halves_hold_where_a_broker_is_between() -> None:
    def settings() -> Mapping[str, Any]:
        return {"buffer": tt.brokers.ZeroMQ(f"tcp://127.0.0.1:{free_port()}")}

    # What a sink does between taking ticks and having them in its window.
    is_meant = re.compile("trio_ticks/brokers/(packing|zeromq/(sink|dispatch|lines))[.]py")
    assert interrupted(range(40, LINES, 173), is_meant, in_loop, settings) > 15


class Called:
    def __call__(self, tick: tt.Tick) -> None:
        hang(tick)


def hang(_tick: tt.Tick) -> None:
    main = threading.main_thread().ident
    assert main is not None
    threading.Thread(target=signal.pthread_kill, args=(main, signal.SIGINT)).start()
    while True:
        pass


async def hang_in_loop(tick: tt.Tick) -> None:
    hang(tick)


async def hang_for(_name: str, tick: tt.Tick) -> None:
    hang(tick)


class Hanging:
    async def __call__(self, tick: tt.Tick) -> None:
        hang(tick)


@pytest.mark.parametrize(
    "handler", [hang_in_loop, functools.partial(hang_for, "mine"), Hanging(), Hanging]
)
def test_a_handler_that_never_returns_is_interrupted(handler: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        trio.run(play, handler, 1, [], {})


is_safe = trio.lowlevel.currently_ki_protected


class Of:
    """A function in a module with the given name."""

    def __init__(self, module: str) -> None:
        space: dict[str, Any] = {
            "__name__": module,
            "is_safe": trio.lowlevel.currently_ki_protected,
        }
        exec("def call(): return is_safe()\nasync def wait(call): return call()", space)
        self.call, self.wait = space["call"], space["wait"]


async def test_a_function_of_ours_stays_a_step_whoever_is_given_it() -> None:
    ours, users = Of("trio_ticks.some.room"), Of("trio_ticks_of_somebody_else")
    uninterrupted(ours.wait)
    uninterrupted(users.wait)
    for each in (ours.call, ours.wait, users.call):
        interruptible(each)
    assert await ours.wait(ours.call)
    assert not await ours.wait(users.call)
    assert not await users.wait(ours.call)


async def test_what_a_decorator_makes_is_not_marked_for_all_that_it_decorates() -> None:
    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper() -> Any:
            return function(), is_safe()

        return wrapper

    ours = Of("trio_ticks.some.room").call

    @uninterrupted
    class Steps:
        step = staticmethod(decorated(ours))

    assert Steps.step() == (True, False)
    assert decorated(Of("mine").call)() == (False, False)


@pytest.mark.parametrize("function", [None, print, 3, functools.partial(print), object(), type])
def test_what_has_no_code_of_its_own_is_left_alone(function: object) -> None:
    interruptible(function)
