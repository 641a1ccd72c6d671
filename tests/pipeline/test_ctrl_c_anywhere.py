"""Ctrl-C comes between the steps of a pipeline, wherever it finds the code."""

from __future__ import annotations

import functools
import re
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_ticks as tt
import trio_ticks.brokers
from tests.worlds.ctrl_c import Interrupt, raising, stand
from tests.worlds.feed_venues import leave, memory_feed, quote, says, websocket
from tests.worlds.memory_buffer import MemoryBuffer
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
    with raising():
        yield


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


def raised_by(main: Callable[..., Any], *args: Any) -> BaseException | None:
    """Run *main* in trio; return what it raised."""
    try:
        trio.run(main, *args)
    except BaseException as error:
        return error
    return None


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
        made = settings()
        with Interrupt(at, is_meant) as interrupt:
            raised = raised_by(play, handler, 2, seen, made)
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


def test_the_laws_of_both_halves_hold_in_a_buffer_of_a_users_own() -> None:
    def settings() -> Mapping[str, Any]:
        return {"buffer": MemoryBuffer(maxsize=20)}

    # What a user has written between two steps of ours is one of them.
    is_meant = re.compile("trio_ticks/pipeline/(sink_end|source_feed)[.]py|/memory_buffer")
    assert interrupted(range(40, 1500, 29), is_meant, in_loop, settings) > 15


def hang(*_what: object) -> None:
    stand()


async def hang_in_loop(*what: object) -> None:
    hang(*what)


async def hang_behind(*_what: object) -> None:
    stand()


async def hang_for(_name: str, *what: object) -> None:
    hang(*what)


class Hanging:
    async def __call__(self, tick: tt.Tick) -> None:
        hang(tick)


class InThePast:
    """Its method to call is a partial one."""

    async def _handle(self, _when: str, tick: tt.Tick) -> None:
        hang(tick)

    __call__ = functools.partialmethod(_handle, "then")


class Decorates:
    """It says that it wraps another function, and never returns itself."""

    def __init__(self) -> None:
        functools.update_wrapper(self, in_loop)

    async def __call__(self, _tick: tt.Tick) -> None:
        stand()


class Lived:
    """A handler that never returns from one step of its life."""

    def __init_subclass__(cls) -> None:
        LIVES.append(cls)

    async def __call__(self, _tick: tt.Tick) -> None: ...


LIVES: list[type] = []


class IsMade(Lived):
    def __init__(self) -> None:
        stand()


class IsEntered(Lived):
    def __enter__(self) -> None:
        stand()

    def __exit__(self, *_reason: object) -> None: ...


class IsLeft(Lived):
    def __enter__(self) -> None: ...

    def __exit__(self, *_reason: object) -> None:
        stand()


class IsEnteredInTheLoop(Lived):
    async def __aenter__(self) -> None:
        stand()

    async def __aexit__(self, *_reason: object) -> None: ...


class IsLeftInTheLoop(Lived):
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_reason: object) -> None:
        stand()


class EntersAnother(Lived):
    def __enter__(self) -> Any:
        return hang_in_loop

    def __exit__(self, *_reason: object) -> None: ...


@pytest.mark.parametrize(
    "handler",
    [
        hang_in_loop,
        functools.partial(hang_for, "mine"),
        Hanging(),
        Hanging,
        InThePast(),
        InThePast,
        Decorates(),
        lambda tick: hang_behind(tick),
        lambda tick: hang(tick),
        *LIVES,
    ],
)
def test_a_handler_that_never_returns_is_interrupted(handler: Any) -> None:
    assert causes(raised_by(play, handler, 1, [], {"executor": "loop"})) == {KeyboardInterrupt}


@pytest.mark.parametrize("hook", ["on_error", "on_gap", "on_feed", "results"])
@pytest.mark.parametrize(
    "users",
    [hang, hang_in_loop, lambda *it: hang_behind(*it), functools.cache(lambda *_it: stand())],
)
def test_a_hook_that_never_returns_is_interrupted(hook: str, users: Any) -> None:
    async def handler(tick: tt.Tick) -> float:
        if hook == "on_error":
            raise ValueError
        return tick.volume

    async def main() -> None:
        venue = websocket(says(quote(), "{", quote(), then=leave))
        async with (
            memory_feed(venue) as (feed, _),
            tt.open_pipeline(feed, handler, workers=1, **{hook: users}),
        ):
            await trio.sleep_forever()

    assert causes(raised_by(main)) == {KeyboardInterrupt}


@pytest.mark.parametrize("feeds", [hang, hang_in_loop])
@pytest.mark.parametrize("merged", [False, True])
def test_a_feed_that_never_returns_is_interrupted(feeds: Any, merged: bool) -> None:
    class Asked:
        async def run(self, send: tt.TickSendChannel[Any]) -> None:
            now = TICKS[0].timestamp
            send.mark_gap(tt.Gap("S0", now, "sequence", 1, now), book=True)
            await trio.sleep_forever()

        request_snapshot = staticmethod(feeds)

    class Runs:
        async def run(self, send: tt.TickSendChannel[Any]) -> None:
            stand()

    async def main(feed: Any) -> None:
        feed = [feed, tt.IterableFeed(source())] if merged else feed
        async with tt.open_pipeline(feed, in_loop):
            await trio.sleep_forever()

    for feed in (Asked(), Runs()):
        assert causes(raised_by(main, feed)) == {KeyboardInterrupt}


def test_a_keeper_of_state_that_never_returns_is_interrupted() -> None:
    class Keeps:
        async def __call__(self, _tick: tt.Tick) -> None: ...

        async def gained(self, _symbols: frozenset[str]) -> None:
            stand()

    settings = {"buffer": MemoryBuffer(maxsize=20)}
    assert causes(raised_by(play, Keeps(), 1, [], settings)) == {KeyboardInterrupt}


def test_a_feed_that_does_not_return_from_its_last_resume_is_interrupted() -> None:
    class Resumed:
        async def run(self, _send: tt.TickSendChannel[Any]) -> None:
            await trio.sleep_forever()

        def suspend(self) -> None: ...

        def resume(self) -> None:
            stand()

    async def main() -> None:
        async with tt.open_pipeline(Resumed(), in_loop) as pipeline:
            pipeline.pause(feed="unsubscribe")

    assert causes(raised_by(main)) == {KeyboardInterrupt}


def test_no_thread_is_left_that_watches_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    # Thread.start returns when the thread has begun: until then Ctrl-C waits in there.
    start = threading.Thread.start

    def started(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "trio-ticks-loop":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(threading.Thread, "start", started)
    assert causes(raised_by(play, in_loop, 2, [], {})) == {KeyboardInterrupt}
    assert "trio-ticks-loop" not in {thread.name for thread in threading.enumerate()}


def test_the_report_is_final_wherever_it_comes() -> None:
    async def main(seen: list[tt.Pipeline[Any]]) -> None:
        async with tt.open_pipeline(tt.IterableFeed(source()), in_loop) as pipeline:
            seen.append(pipeline)

    is_meant = re.compile("trio_ticks/(pipeline/opening|metrics/reporting)[.]py")
    count = 0
    for at in range(60, 400, 7):
        seen: list[tt.Pipeline[Any]] = []
        with Interrupt(at, is_meant) as interrupt:
            raised = raised_by(main, seen)
        if not interrupt.where:
            break
        assert causes(raised) == {KeyboardInterrupt}, interrupt.where
        for pipeline in seen:
            count += 1
            assert pipeline.report is pipeline.report, interrupt.where
    assert count > 5


def test_a_recorder_ends_wherever_it_comes(tmp_path: Path) -> None:
    async def main(recorder: tt.Recorder) -> None:
        async with tt.open_pipeline(tt.IterableFeed(source()), in_loop, record=recorder):
            await trio.sleep(0.001)

    is_meant = re.compile("trio_ticks/pipeline/recorded[.]py")
    assert raised_by(main, tt.Recorder(tmp_path)) is None  # its modules are loaded late
    for at in range(1, 100):
        with Interrupt(at, is_meant) as interrupt:
            raised = raised_by(main, tt.Recorder(tmp_path))
        assert causes(raised) == ({KeyboardInterrupt} if interrupt.where else set())
        names = {thread.name for thread in threading.enumerate()}
        assert "trio-ticks-recorder" not in names, interrupt.where
        if not interrupt.where:
            break
    assert at > 15


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


async def test_a_function_of_trios_stays_as_it_is() -> None:
    trios = Of("trio.some.room")
    trio.lowlevel.enable_ki_protection(trios.call)
    # Such as a handler that is the send of a memory channel.
    interruptible(trios.call)
    assert trios.call()


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
