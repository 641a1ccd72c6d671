"""What a handler is taken for: does it run in the loop, behind decorators or mocks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import prometheus_client
import pytest
import trio

import trio_ticks as tt
from tests.worlds.helpers import make_ticks, number, numbers
from tests.worlds.pipeline_world import assert_accounted, listed
from trio_ticks import open_pipeline, run_pipeline
from trio_ticks.handlers.kinds import is_async, resolve_executor


class Strategy:
    """Its handlers are async; each records where it ran."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def on_tick(self, tick: tt.Tick) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.append(number(tick))

    async def on_ticks(self, ticks: list[tt.Tick]) -> None:
        await trio.lowlevel.checkpoint()
        self.seen += numbers(ticks)


def plainly(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate *handler* as a programmer does who does not think of async."""

    @functools.wraps(handler)
    def call(*args: Any) -> Any:
        return handler(*args)

    return call


class Wrapped:
    """An object whose call is decorated."""

    seen: list[int]

    def __init__(self) -> None:
        self.seen = []

    @plainly
    async def __call__(self, tick: tt.Tick) -> None:
        await trio.lowlevel.checkpoint()
        self.seen.append(number(tick))


SUMMARY = prometheus_client.Summary("handling", "Time", registry=None)


def decorated(strategy: Strategy) -> dict[str, Any]:
    async def function(tick: tt.Tick) -> None:
        await strategy.on_tick(tick)

    async def of_two(_more: int, tick: tt.Tick) -> None:
        await strategy.on_tick(tick)

    return {
        "function": plainly(function),
        "method": plainly(strategy.on_tick),
        "twice": plainly(plainly(function)),
        "over a partial": plainly(functools.partial(of_two, 1)),
        "in a partial": functools.partial(plainly(of_two), 1),
        "async over it": async_over(plainly(function)),
        "Summary.time": SUMMARY.time()(function),
        "batch": tt.batch_handler(plainly(strategy.on_ticks)),
        "over a batch": plainly(tt.batch_handler(strategy.on_ticks)),
    }


def async_over(handler: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(handler)
    async def call(tick: tt.Tick) -> None:
        await handler(tick)

    return call


@pytest.mark.parametrize("kind", decorated(Strategy()))
@pytest.mark.parametrize("handler_timeout", [None, 60.0])
async def test_a_plain_wrapper_around_an_async_handler_runs_in_the_loop(
    kind: str, handler_timeout: float | None
) -> None:
    strategy = Strategy()
    handler = decorated(strategy)[kind]
    assert resolve_executor("auto", handler) == "loop"
    report = await run_pipeline(
        listed(make_ticks(3)), handler, workers=1, handler_timeout=handler_timeout
    )
    assert_accounted(report, consumed=3)
    assert strategy.seen == [0, 1, 2]


async def test_an_object_and_a_class_whose_call_is_wrapped_run_in_the_loop() -> None:
    shared = Wrapped()
    assert_accounted(await run_pipeline(listed(make_ticks(3)), shared, workers=1), consumed=3)
    assert shared.seen == [0, 1, 2]
    assert resolve_executor("auto", Wrapped) == "loop"
    assert_accounted(await run_pipeline(listed(make_ticks(3)), Wrapped), consumed=3)


async def test_a_wrapper_that_is_async_itself_decides_for_what_it_wraps() -> None:
    @functools.wraps(print)
    async def handler(tick: tt.Tick) -> None:
        await trio.lowlevel.checkpoint()

    assert resolve_executor("auto", handler) == "loop"


async def test_a_wrapper_that_waits_for_its_async_handler_may_be_sent_to_threads() -> None:
    # It does what a wrapper around an async function seldom does; only a call can show
    # that.
    strategy = Strategy()

    @functools.wraps(strategy.on_tick)
    def bridged(tick: tt.Tick) -> None:
        trio.from_thread.run(strategy.on_tick, tick)

    report = await run_pipeline(listed(make_ticks(3)), bridged, workers=1, executor="thread")
    assert_accounted(report, consumed=3)
    assert strategy.seen == [0, 1, 2]
    with pytest.raises(tt.ConfigError, match="runs in the event loop"):
        resolve_executor("thread", strategy.on_tick)


class Proxy:
    """Has whatever attribute one asks for."""

    def __getattr__(self, name: str) -> Proxy:
        return self

    def __call__(self, tick: tt.Tick) -> None: ...


def test_an_object_that_has_any_attribute_is_no_endless_loop() -> None:
    assert not is_async(Proxy())
    endless: Any = lambda tick: None  # noqa: E731
    endless.__wrapped__ = endless
    assert not is_async(endless)


@pytest.mark.skipif(not hasattr(inspect, "markcoroutinefunction"), reason="needs Python 3.12")
def test_a_function_marked_as_a_coroutine_function_is_one() -> None:
    def handler(tick: tt.Tick) -> Any: ...

    assert not is_async(handler)
    assert is_async(inspect.markcoroutinefunction(handler))  # type: ignore[attr-defined,unused-ignore]


# Mocks


async def async_function(tick: tt.Tick) -> None: ...


def plain_function(tick: tt.Tick) -> None: ...


@pytest.mark.parametrize(
    "mock",
    [
        AsyncMock(),
        AsyncMock(spec=Strategy().on_tick),
        AsyncMock(spec=Strategy.on_tick),
        AsyncMock(spec=Proxy().__call__),
        create_autospec(Strategy().on_tick),
        create_autospec(async_function),
        create_autospec(plain_function),
        MagicMock(),
        MagicMock(spec=Wrapped),
        Mock(),
        MagicMock(return_value=1),
    ],
    ids=[
        "async",
        "async of a method",
        "async of a function",
        "async of a plain method",
        "autospec of an async method",
        "autospec of an async function",
        "autospec of a plain function",
        "magic",
        "magic of a spec",
        "plain",
        "magic of a value",
    ],
)
async def test_a_mock_is_called_with_each_tick(mock: Any) -> None:
    ticks = make_ticks(5)
    report = await run_pipeline(listed(ticks), mock, workers=1)
    assert_accounted(report, consumed=5)
    assert [call.args for call in mock.call_args_list] == [(tick,) for tick in ticks]


async def test_an_async_mock_is_awaited_in_the_loop_and_may_raise() -> None:
    await awaited_in_the_loop(AsyncMock(side_effect=ValueError))


async def test_an_autospec_of_an_async_def_is_awaited_in_the_loop() -> None:
    await awaited_in_the_loop(create_autospec(async_function, side_effect=ValueError))
    assert not is_async(create_autospec(plain_function))


async def awaited_in_the_loop(mock: Any) -> None:
    """See *mock*, which raises ValueError, awaited with five ticks."""
    async with open_pipeline(listed(make_ticks(5)), mock) as pipeline:
        assert all(worker.name.startswith("loop") for worker in pipeline.metrics().workers)
        await pipeline.wait()
    assert_accounted(pipeline.report, failed=5)
    assert mock.await_count == 5
