"""What a failure drags along is bounded, however often one object is raised.

A broker's client that keeps its error, and raises it for every tick, is usual.
"""

from __future__ import annotations

import itertools
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import assert_accounted
from trio_ticks.tracebacks import FRAMES, StackTexts, bound

LONGEST = 3 * FRAMES


class DeadConnectionError(Exception):
    pass


def frames(error: BaseException) -> int:
    return len(list(traceback.walk_tb(error.__traceback__)))


def chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def deep(levels: int, error: BaseException) -> None:
    if not levels:
        raise error
    deep(levels - 1, error)


def raised(levels: int) -> Exception:
    error = DeadConnectionError("dead")
    try:
        deep(levels - 2, error)
    except DeadConnectionError:
        assert frames(error) == levels
    return error


# Cutting


@given(st.integers(2, 150))
def test_the_first_and_the_last_frames_stay(levels: int) -> None:
    error = raised(levels)
    before = list(traceback.walk_tb(error.__traceback__))
    bound(error)
    after = list(traceback.walk_tb(error.__traceback__))
    if levels <= LONGEST:
        assert after == before
    else:
        assert after == before[:FRAMES] + before[-FRAMES:]
    bound(error)
    assert list(traceback.walk_tb(error.__traceback__)) == after


@given(st.integers(2, 12), st.integers(3, 40))
def test_what_is_raised_again_keeps_the_first_and_the_last_raise(levels: int, times: int) -> None:
    error = DeadConnectionError("dead")
    places: list[tuple[str, int]] = []
    for number in range(times):
        try:
            # Another place at the first and at the last time.
            deep(levels + (number == 0) + (number == times - 1), error)
        except DeadConnectionError:
            bound(error)
        places = [
            (frame.f_code.co_name, line) for frame, line in traceback.walk_tb(error.__traceback__)
        ]
        assert len(places) <= max(8, 3 * (levels + 3))
    caught = [place for place in places if place[0].startswith("test_")]
    assert 2 <= len(caught) <= 4
    assert len(places) in (2 * (levels + 3), 8)


def test_catchers_that_take_turns_do_not_add_up() -> None:
    """A worker calls a handler from two places of its file."""
    names: dict[str, Any] = {}
    exec(compile("def fails(error):\n    raise error\n", "strategy.py", "exec"), names)
    error = DeadConnectionError("dead")
    for number in range(40):
        try:
            if number % 2:
                names["fails"](error)
            else:
                names["fails"](error)
        except DeadConnectionError:
            bound(error)
        places = [frame.f_code.co_name for frame, _line in traceback.walk_tb(error.__traceback__)]
        assert len(places) <= 8
    assert places[:2] == places[-2:] == ["test_catchers_that_take_turns_do_not_add_up", "fails"]


def test_a_handler_that_goes_out_and_back_keeps_its_frames() -> None:
    """One raise, through a library that calls back."""
    names: dict[str, Any] = {}
    exec(compile("def calls(back):\n    return back()\n", "library.py", "exec"), names)
    calls = names["calls"]

    def third() -> None:
        raise DeadConnectionError("dead")

    def second() -> None:
        calls(third)

    with pytest.raises(DeadConnectionError) as caught:
        calls(second)
    before = list(traceback.walk_tb(caught.value.__traceback__))
    bound(caught.value)
    assert list(traceback.walk_tb(caught.value.__traceback__)) == before
    assert len(before) == 5


def test_a_chain_that_grows_is_cut() -> None:
    last = DeadConnectionError("0")
    for number in range(1, 500):
        try:
            try:
                raise last
            except DeadConnectionError as old:
                last = DeadConnectionError(str(number))
                # Causes and contexts alike.
                raise last from (old if number % 2 else None)
        except DeadConnectionError:
            bound(last)
        assert len(list(chain(last))) <= 17
    assert str(last) == "499"
    assert [str(each) for each in chain(last)][:3] == ["499", "498", "497"]


def test_a_cut_chain_shows_what_it_showed() -> None:
    errors = [DeadConnectionError(str(number)) for number in range(30)]
    for one, next_ in itertools.pairwise(errors):
        one.__context__ = next_
    bound(errors[0])
    assert len(list(chain(errors[0]))) == 16
    assert not any(each.__suppress_context__ for each in errors)


def test_groups_and_circles_come_to_an_end() -> None:
    inner = [raised(100) for _ in range(5)]
    group = ExceptionGroup("many", inner)
    group.__context__ = inner[0]
    inner[0].__cause__ = inner[1]
    inner[1].__context__ = group
    bound(group)
    assert all(frames(each) == 2 * FRAMES for each in inner)
    wide = ExceptionGroup("wide", [raised(2) for _ in range(1000)])
    bound(wide)
    assert len(wide.exceptions) == 1000


def test_texts_are_those_of_python() -> None:
    texts = StackTexts()
    for levels in (2, 5, 5, 40):
        error = raised(levels)
        assert texts.whole(error) == "".join(traceback.format_exception(error))
    never = ValueError("never raised")
    noted = raised(3)
    noted.add_note("of tick 5")
    caused = raised(3)
    caused.__cause__ = noted
    for error in (never, noted, caused, ExceptionGroup("x", [noted])):
        assert texts.whole(error) == "".join(traceback.format_exception(error))


# In a pipeline

DEAD = DeadConnectionError("the broker is gone")


def plain(_tick: Any) -> None:
    raise DEAD


async def in_loop(_tick: Any) -> None:
    raise DEAD


@tt.batch_handler(max_size=10)
async def whole(_ticks: list[tt.Tick]) -> None:
    raise DEAD


@tt.batch_handler(max_size=10)
def some(ticks: list[tt.Tick]) -> None:
    try:
        raise DEAD
    except DeadConnectionError as error:
        raise tt.BatchError(dict.fromkeys(range(len(ticks)), error)) from error


CASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "loop": (in_loop, {}),
    "retry": (
        in_loop,
        {"retry": tt.Retry(DeadConnectionError, attempts=5, initial_s=0, maximum_s=0)},
    ),
    "breaker": (in_loop, {"breaker": tt.Breaker(failures=10**6)}),
    "thread": (plain, {"executor": "thread"}),
    "batch": (whole, {}),
    "batch-error": (some, {"executor": "thread"}),
}


@pytest.mark.parametrize("case", CASES)
async def test_one_error_for_all_ticks_does_not_grow(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handler, settings = CASES[case]
    letters = tt.DeadLetterFile(tmp_path / "failed.jsonl")
    longest = 0

    def on_error(tick: Any, error: Exception) -> None:
        nonlocal longest
        longest = max(longest, frames(error))
        letters(tick, error)

    with letters:
        async with tt.open_pipeline(
            tt.IterableFeed(make_ticks(600)), handler, on_error=on_error, **settings
        ) as pipeline:
            await pipeline.wait()
            pipeline.ledger.check()
    assert_accounted(pipeline.report, produced=600, failed=600)
    assert 1 < longest <= LONGEST
    found = list(tt.read_dead_letters(letters.path))
    assert len(found) == 600
    assert max(len(letter.traceback) for letter in found) < 20_000
    # Where it was raised now, and where at first.
    assert found[-1].traceback.count("raise DEAD") >= 2


async def test_the_log_line_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    feed = tt.IterableFeed(make_ticks(600))
    async with tt.open_pipeline(feed, in_loop) as pipeline:
        await pipeline.wait()
    (line,) = [each for each in caplog.records if "handler.failed" in each.getMessage()][:1]
    assert line.exc_info is not None
    assert line.exc_info[1] is DEAD
    assert frames(DEAD) <= LONGEST
    text = logging.Formatter().formatException(line.exc_info)
    assert text.count("raise DEAD") <= LONGEST


async def test_a_process_does_not_let_it_grow_either() -> None:
    raises: list[int] = []

    def on_error(_tick: Any, error: Exception) -> None:
        raises.append("".join(error.__notes__).count("raise DEAD"))

    async with tt.open_pipeline(
        tt.IterableFeed(make_ticks(150)), plain, executor="process", workers=1, on_error=on_error
    ) as pipeline:
        await pipeline.wait()
        pipeline.ledger.check()
    assert len(raises) == 150
    # Without a bound the last would have 150.
    assert 2 <= max(raises) <= 3


async def test_an_error_that_is_raised_from_the_last_one_does_not_grow() -> None:
    last: Exception = DeadConnectionError("first")

    async def handler(_tick: tt.Tick) -> None:
        nonlocal last
        try:
            raise last
        except DeadConnectionError:
            last = DeadConnectionError("again")
            raise last  # noqa: B904 - so is it written everywhere

    feed = tt.IterableFeed(make_ticks(600))
    async with tt.open_pipeline(feed, handler, on_error=lambda *_: None) as pipeline:
        await pipeline.wait()
    assert len(list(chain(last))) <= 17
