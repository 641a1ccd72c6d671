"""What is given for a handler, ``on_error`` or ``on_gap`` by mistake: refused before anything runs, with what to do instead."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

import trio_ticks as tt
from tests.helpers import make_ticks
from tests.pipeline_world import assert_accounted, listed
from trio_ticks import open_pipeline, run_pipeline

Ticks = list[tt.Tick]


async def refused(match: str, handler: Any = print, **settings: Any) -> None:
    """Assert that a pipeline is not opened with *handler* and *settings*."""
    with pytest.raises(tt.ConfigError, match=match):
        async with open_pipeline(listed([]), handler, **settings):
            pass


class Threshold:
    def __init__(self, limit: float = 0.0) -> None:
        self.limit = limit

    def __call__(self, tick: tt.Tick) -> None: ...


# What cannot take what it will be given


async def test_a_partial_of_a_class_is_refused_with_what_to_give_instead() -> None:
    for handler in (functools.partial(Threshold), functools.partial(functools.partial(Threshold, limit=1.0))):
        await refused(r"handler=Threshold, .* subclass .* Threshold\(\.\.\.\)", handler)


class Nothing:
    def __call__(self) -> None: ...


class Two:
    async def __call__(self, tick: tt.Tick, more: int) -> None: ...


class Static:
    @staticmethod
    def __call__() -> None: ...


async def coroutine_of_two(tick: tt.Tick, more: int) -> None: ...


WRONG: dict[str, Any] = {
    "none": lambda: None,
    "two": lambda tick, more: None,
    "async": coroutine_of_two,
    "unbound": Threshold.__call__,
    "keyword": lambda tick, *, more: None,
    "class, none": Nothing,
    "class, two": Two,
    "class, static": Static,
    "object": Nothing(),
    "partial": functools.partial(lambda tick, more, most: None, 1),
    "batch": tt.batch_handler()(lambda: None),
}


@pytest.mark.parametrize("kind", WRONG)
async def test_a_handler_that_cannot_take_one_tick_is_refused(kind: str) -> None:
    await refused(rf"called with {'a list of ticks' if kind == 'batch' else 'one tick'}, .*(argument)", WRONG[kind])


def _counting(handler: Callable[[int, tt.Tick], None]) -> Callable[[tt.Tick], None]:
    @functools.wraps(handler)
    def call(tick: tt.Tick) -> None:
        handler(1, tick)

    return call


@_counting
def decorated(number: int, tick: tt.Tick) -> None: ...


class StaticOne:
    @staticmethod
    def __call__(tick: tt.Tick) -> None: ...


class Unreadable:
    __signature__ = "none"

    def __call__(self, tick: tt.Tick) -> None: ...


RIGHT: dict[str, Any] = {
    "decorated": decorated,
    "default": lambda tick, more=1: None,
    "any": lambda *ticks: None,
    "partial": functools.partial(decorated),
    "class": Threshold,
    "static": StaticOne,
    "builtin": [].append,
    "unreadable": Unreadable(),
}


@pytest.mark.parametrize("kind", RIGHT)
async def test_a_handler_that_can_take_one_tick_is_taken(kind: str) -> None:
    assert_accounted(await run_pipeline(listed(make_ticks(3)), RIGHT[kind]), consumed=3)


@pytest.mark.parametrize(
    "on_error", [lambda: None, lambda tick: None, lambda tick, error, more: None, functools.partial(lambda tick, error: None, 1)]
)
async def test_an_on_error_that_cannot_take_both_is_refused(on_error: Any) -> None:
    await refused(r"on_error is called with a tick and an exception, .*argument", on_error=on_error)


@pytest.mark.parametrize("on_gap", [lambda: None, lambda gap, more: None])
async def test_an_on_gap_that_cannot_take_a_gap_is_refused(on_gap: Any) -> None:
    await refused(r"on_gap is called with a Gap, .*argument", on_gap=on_gap)


async def test_a_class_in_the_place_of_an_object_is_refused() -> None:
    await refused(r"on_error=DeadLetterFile\(\.\.\.\)", on_error=tt.DeadLetterFile)
    await refused(r"on_gap=Threshold\(\.\.\.\)", on_gap=Threshold)
    await refused("on_error must be a callable that takes a tick and an exception, got 3", on_error=3)


# Retry


def test_retry_takes_a_class_or_any_iterable_of_them() -> None:
    assert tt.Retry(TimeoutError).on == (TimeoutError,)
    assert tt.Retry([TimeoutError, OSError]).on == tt.Retry(kind for kind in (TimeoutError, OSError)).on == (TimeoutError, OSError)
    assert set(tt.Retry({TimeoutError, KeyError}).on) == {TimeoutError, KeyError}


@pytest.mark.parametrize(
    ("on", "shown"),
    [
        ("TimeoutError", "got 'TimeoutError'"),
        (["TimeoutError", OSError], r"got \('TimeoutError', <class 'OSError'>\)"),
        (TimeoutError("x"), r"got TimeoutError\('x'\)"),
        ([], r"got \(\)"),
        (BaseException, "got <class 'BaseException'>"),
        (None, "got None"),
    ],
    ids=repr,
)
def test_retry_shows_what_was_given(on: Any, shown: str) -> None:
    with pytest.raises(tt.ConfigError, match=shown):
        tt.Retry(on)
