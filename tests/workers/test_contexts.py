"""Context variables: no tick sees what was set for another one, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar, Token, copy_context
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds import process_handlers as handlers
from tests.worlds.helpers import EPOCH, make_tick
from tests.worlds.pipeline_world import ScriptFeed, Send, listed
from tests.worlds.pool_world import open_with_pool
from tests.worlds.process_world import path, quick_main
from trio_ticks.handlers.contexts import CleanContext, call_apart

__all__ = ["path", "quick_main"]

before: ContextVar[str] = ContextVar("before")
left: ContextVar[Any] = ContextVar("left")


@pytest.fixture(autouse=True)
def set_before() -> Iterator[None]:
    token = before.set("set before")
    yield
    before.reset(token)


class Seen:
    """A strategy that leaves something behind, and notes what it finds."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self.calls = 0
        self.left: ContextVar[Any] = ContextVar("left")

    def look(self, item: Any) -> None:
        self.calls += 1
        self.found.append((before.get(None), self.left.get(None)))
        self.left.set(item)

    def check(self, calls: int) -> None:
        assert self.calls == calls
        assert set(self.found) == {("set before", None)}


def ticks(count: int) -> list[tt.Tick]:
    return [make_tick("ABCDE"[n % 5], n) for n in range(count)]


async def run(handler: Any, count: int = 400, **settings: Any) -> tt.PipelineReport:
    return await tt.run_pipeline(
        listed(ticks(count)), handler, maxsize=10_000, signals=False, **settings
    )


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("waits", [0, 1, 3])
async def test_in_the_loop(autojump_clock: MockClock, workers: int, waits: int) -> None:
    seen = Seen()

    async def handler(tick: tt.Tick) -> None:
        seen.look(tick)
        if waits and int(tick.volume) % waits == 0:
            await trio.sleep(0.001)
        assert seen.left.get() is tick

    assert (await run(handler, workers=workers)).consumed == 400
    seen.check(400)


async def test_in_the_loop_only_some_ticks_set_any(autojump_clock: MockClock) -> None:
    seen = Seen()

    async def handler(tick: tt.Tick) -> None:
        seen.found.append((before.get(None), left.get(None)))
        seen.calls += 1
        if int(tick.volume) % 7 == 0:
            left.set(tick)
            left.set(None)
            left.set(tick)

    await run(handler)
    seen.check(400)


async def test_values_that_cannot_be_compared(autojump_clock: MockClock) -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

        __hash__ = None  # type: ignore[assignment]

    seen, odd = Seen(), Odd()
    token = left.set(odd)

    async def handler(tick: tt.Tick) -> None:
        assert left.get() is odd
        seen.calls += 1
        left.set(Odd())

    report = await run(handler)
    left.reset(token)
    assert (report.consumed, seen.calls) == (400, 400)


async def test_a_token_is_reset_where_it_was_set(autojump_clock: MockClock) -> None:
    """What a handler's life sets is seen by its ticks, and can be undone at its end."""
    ended: list[object] = []

    class Strategy:
        token: Token[Any]

        async def __aenter__(self) -> None:
            self.token = left.set("life")

        async def __call__(self, tick: tt.Tick) -> None:
            assert left.get() == "life"
            left.set(tick)

        async def __aexit__(self, *_reason: object) -> None:
            assert left.get() == "life"
            left.reset(self.token)
            ended.append(left.get(None))

    assert (await run(Strategy, workers=2)).consumed == 400
    assert ended == [None, None]


@pytest.mark.parametrize("executor", ["loop", "thread"])
@pytest.mark.parametrize("batched", [False, True])
async def test_everywhere_else_too(batched: bool, executor: str) -> None:
    """Batches, threads, retries, failures, gaps, results: each tick is alone."""
    seen, errors, gaps, results = Seen(), Seen(), Seen(), Seen()

    def handle(given: Any) -> Any:
        seen.look(given)
        if seen.calls % 5 == 0:
            raise ValueError(given)
        return [1] * len(given) if batched else 1

    async def handle_here(given: Any) -> Any:
        return handle(given)

    async def script(send: Send) -> None:
        for tick in ticks(200):
            await send.send(tick)
            if int(tick.volume) % 9 == 0:
                send.mark_gap(tt.Gap(tick.symbol, tick.timestamp, "sequence", 1, tick.timestamp))

    strategy: Any = handle_here if executor == "loop" else handle
    if batched:
        strategy = tt.batch_handler(max_size=3, max_wait=0)(strategy)
    report = await tt.run_pipeline(
        ScriptFeed(script),
        strategy,
        executor=executor,
        maxsize=10_000,
        on_error=lambda tick, _error: errors.look(tick),
        on_gap=gaps.look,
        results=results.look,
        signals=False,
    )
    assert report.failed > 0
    errors.check(report.failed)
    gaps.check(gaps.calls)
    assert gaps.calls > 5
    results.check(report.consumed)
    seen.check(seen.calls)
    assert not batched or seen.calls < 200


async def test_threads_of_one_batch() -> None:
    """Quick ticks are run many at a time in one thread."""
    seen = Seen()
    await run(seen.look, 2000, workers=2)
    seen.check(2000)


async def test_on_feed(autojump_clock: MockClock) -> None:
    seen = Seen()

    async def script(send: Send) -> None:
        for _ in range(3):
            send.report_event(tt.FeedEvent("feed", "lost", None, "a test", EPOCH))
        await trio.sleep(1)

    async def handler(_tick: tt.Tick) -> None: ...

    await tt.run_pipeline(ScriptFeed(script), handler, on_feed=seen.look, signals=False)
    seen.check(3)


async def test_a_worker_hired_by_a_handler_does_not_inherit(autojump_clock: MockClock) -> None:
    seen = Seen()

    async def handler(tick: tt.Tick) -> None:
        seen.look(tick)
        if seen.calls == 1:
            pool.grow(3)
        await trio.sleep(0.01)

    async with open_with_pool(listed(ticks(40)), handler, workers=1) as (pipeline, pool):
        await pipeline.wait()
    assert len({row.name for row in pipeline.metrics().workers}) == 4
    seen.check(40)


@pytest.mark.parametrize("kind", ["sync", "async", "batch"])
async def test_processes_begin_with_defaults(path: Path, kind: str) -> None:
    """No variable goes to another process; there too each tick is alone."""
    handler: Any = {
        "sync": handlers.LeaveVariable,
        "async": handlers.LeaveVariableAsync,
        "batch": handlers.LeaveVariableBatch,
    }[kind](str(path))
    token = handlers.variable.set("of the parent")
    report = await run(handler, 40, workers=1, executor="process")
    handlers.variable.reset(token)
    assert report.consumed == 40
    lines = handlers.read(path)
    assert len(lines) == 40 if kind != "batch" else 0 < len(lines) < 40
    assert {line.event for line in lines} == {"default"}


async def test_a_call_apart_raises_and_returns(autojump_clock: MockClock) -> None:
    async def sleeps(value: Any) -> Any:
        left.set(value)
        await trio.sleep(1)
        return left.get()

    def fails() -> None:
        left.set("failed")
        raise KeyError("here")

    assert await call_apart(sleeps, 5) == 5
    with pytest.raises(KeyError, match="here"):
        await call_apart(fails)
    with trio.move_on_after(0.5) as scope:
        await call_apart(sleeps, 6)
    assert scope.cancelled_caught
    assert left.get(None) is None


async def test_what_is_run_clean_closes_like_any_coroutine() -> None:
    closed: list[bool] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            closed.append(True)

    async def outer() -> None:
        await CleanContext().run(work())

    coroutine = outer()
    copy_context().run(coroutine.send, None)
    coroutine.close()
    assert closed == [True]
