"""A mistaken handler, ``on_error`` or ``on_gap`` is refused before anything runs.

The error says what to do instead.
"""

from __future__ import annotations

import functools
import gc
import pickle
import types
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

import trio_ticks as tt
from tests.worlds.helpers import make_ticks, number
from tests.worlds.pipeline_world import assert_accounted, listed
from trio_ticks import open_pipeline, run_pipeline, systems
from trio_ticks.settings import Settings

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
    for handler in (
        functools.partial(Threshold),
        functools.partial(functools.partial(Threshold, limit=1.0)),
    ):
        await refused(r"handler=Threshold, .* subclass .* Threshold\(\.\.\.\)", handler)


async def awaited(tick: tt.Tick) -> None: ...


@pytest.mark.filterwarnings("error")
async def test_a_coroutine_in_the_place_of_a_handler_is_refused_without_a_warning() -> None:
    await refused(
        r"the coroutine that awaited\(\.\.\.\) returned: leave out the parentheses",
        awaited(make_ticks(1)[0]),
    )
    gc.collect()  # a coroutine that was never awaited would warn


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
    await refused(
        rf"called with {'a list of ticks' if kind == 'batch' else 'one tick'}, .*(argument)",
        WRONG[kind],
    )


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
    "on_error",
    [
        lambda: None,
        lambda tick: None,
        lambda tick, error, more: None,
        functools.partial(lambda tick, error: None, 1),
    ],
)
async def test_an_on_error_that_cannot_take_both_is_refused(on_error: Any) -> None:
    await refused(r"on_error is called with a tick and an exception, .*argument", on_error=on_error)


@pytest.mark.parametrize("on_gap", [lambda: None, lambda gap, more: None])
async def test_an_on_gap_that_cannot_take_a_gap_is_refused(on_gap: Any) -> None:
    await refused(r"on_gap is called with a Gap, .*argument", on_gap=on_gap)


async def test_a_class_in_the_place_of_an_object_is_refused() -> None:
    await refused(r"on_error=DeadLetterFile\(\.\.\.\)", on_error=tt.DeadLetterFile)
    await refused(r"on_gap=Threshold\(\.\.\.\)", on_gap=Threshold)
    await refused(
        "on_error must be a callable that takes a tick and an exception, got 3", on_error=3
    )


# Retry


def test_retry_takes_a_class_or_any_iterable_of_them() -> None:
    assert tt.Retry(TimeoutError).on == (TimeoutError,)
    assert (
        tt.Retry([TimeoutError, OSError]).on
        == tt.Retry(kind for kind in (TimeoutError, OSError)).on
        == (TimeoutError, OSError)
    )
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


# Batches


class Whole:
    """A whole number, as NumPy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_a_batch_error_takes_whole_numbers_of_any_kind() -> None:
    error = ValueError()
    failures = tt.BatchError({Whole(3): error}).failures  # type: ignore[dict-item]  # for a type checker it is none
    assert failures == {3: error}
    assert type(next(iter(failures))) is int


@pytest.mark.parametrize(
    ("failures", "match"),
    [
        ([0], r"got \[0\]"),
        (None, "got None"),
        ({"a": ValueError()}, "index 'a' is no whole number"),
        ({True: ValueError()}, "index True is no whole number"),
        ({0.0: ValueError()}, r"index 0\.0 is no whole number"),
        ({0: "text"}, "for the index 0 it got 'text', which is no exception"),
        ({0: ValueError}, "for the index 0 it got <class 'ValueError'>"),
        ({0: KeyboardInterrupt()}, r"KeyboardInterrupt\(\)"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_batch_error_of_something_else_fails_its_batch_and_says_why(
    failures: Any, match: str, asynchronous: bool
) -> None:
    with pytest.raises(TypeError, match=match):
        tt.BatchError(failures)

    def plain(ticks: Ticks) -> None:
        if number(ticks[0]) == 0:
            raise tt.BatchError(failures)

    async def awaited(ticks: Ticks) -> None:
        plain(ticks)

    told: list[Exception] = []
    handler = tt.batch_handler(max_size=2)(awaited if asynchronous else plain)
    report = await run_pipeline(
        listed(make_ticks(4)), handler, workers=1, on_error=lambda _tick, error: told.append(error)
    )
    assert {type(error) for error in told} == {TypeError}
    assert 1 <= len(told) <= 2
    assert_accounted(report, failed=len(told), consumed=4 - len(told))


class Unchecked(tt.BatchError):
    def __init__(self, failures: Any) -> None:
        Exception.__init__(self)
        if failures is not None:
            self.failures = failures


@pytest.mark.parametrize("failures", [{"a": ValueError()}, [0], None], ids=repr)
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_batch_error_that_was_never_checked_ends_no_pipeline(
    failures: Any, asynchronous: bool
) -> None:
    def plain(ticks: Ticks) -> None:
        raise Unchecked(failures)

    async def awaited(ticks: Ticks) -> None:
        plain(ticks)

    told: list[Exception] = []
    handler = tt.batch_handler(max_size=2)(awaited if asynchronous else plain)
    report = await run_pipeline(
        listed(make_ticks(4)), handler, workers=1, on_error=lambda _tick, error: told.append(error)
    )
    assert len(told) == 4
    assert not any(isinstance(error, tt.BatchError) for error in told)
    assert_accounted(report, failed=4)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_index_that_the_batch_does_not_have_is_named_in_the_log(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(ticks: Ticks) -> None:
        raise tt.BatchError({0: ValueError(), 7: ValueError(), -1: ValueError()})

    async def awaited(ticks: Ticks) -> None:
        plain(ticks)

    handler = tt.batch_handler(max_size=3)(awaited if asynchronous else plain)
    assert_accounted(await run_pipeline(listed(make_ticks(6)), handler, workers=1), failed=6)
    line = next(
        record for record in caplog.records if record.getMessage().startswith("handler.failed")
    )
    assert line.exc_info is not None
    assert "names [-1, 7], but the batch has the indexes 0 to 2" in str(line.exc_info[1])


class Sums:
    """Its methods are decorated in all the ways."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def plain(self, ticks: Ticks) -> None:
        self.sizes.append(len(ticks))

    async def asynchronous(self, ticks: Ticks) -> None:
        self.sizes.append(len(ticks))

    @tt.batch_handler
    def marked(self, ticks: Ticks) -> None:
        self.sizes.append(len(ticks))

    @tt.batch_handler
    def __call__(self, ticks: Ticks) -> None:
        self.sizes.append(len(ticks))


@pytest.mark.parametrize(
    "kind",
    [
        "bare",
        "bare method",
        "bare call",
        "method",
        "async method",
        "partial",
        "partial of a marked one",
    ],
)
async def test_what_a_batch_handler_may_decorate(kind: str) -> None:
    sums = Sums()

    @tt.batch_handler
    async def bare(ticks: Ticks) -> None:
        await sums.asynchronous(ticks)

    handlers: dict[str, Any] = {
        "bare": bare,
        "bare method": sums.marked,
        "bare call": sums,
        "method": tt.batch_handler(max_size=4)(sums.plain),
        "async method": tt.batch_handler(sums.asynchronous, max_size=4),
        "partial": tt.batch_handler(max_size=4)(functools.partial(Sums.plain, sums)),
        "partial of a marked one": functools.partial(tt.batch_handler(max_size=4)(sums.plain)),
    }
    assert_accounted(
        await run_pipeline(listed(make_ticks(10)), handlers[kind], workers=1), consumed=10
    )
    assert sum(sums.sizes) == 10


async def test_a_builtin_may_be_a_batch_handler() -> None:
    batches: list[Ticks] = []
    await run_pipeline(
        listed(make_ticks(3)), tt.batch_handler(max_size=2)(batches.append), workers=1
    )
    assert [number(tick) for batch in batches for tick in batch] == [0, 1, 2]


class Slotted:
    __slots__ = ()

    def __call__(self, ticks: Ticks) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ((None,), "got None"),
        ((256,), "by name, .*got 256"),
        ((print, 3), "one handler"),
        ((Slotted(),), "__call__ of its class"),
    ],
)
def test_what_cannot_be_a_batch_handler_is_refused(wrong: tuple[Any, ...], match: str) -> None:
    with pytest.raises(tt.ConfigError, match=match):
        tt.batch_handler(*wrong)
    if len(wrong) == 1:
        with pytest.raises(tt.ConfigError, match=match):
            tt.batch_handler()(*wrong)


def test_a_method_marked_as_a_batch_handler_is_still_one_after_its_way_to_a_process() -> None:
    from trio_ticks.handlers.batches import batch_options

    marked = pickle.loads(pickle.dumps(tt.batch_handler(max_size=7)(Sums().plain)))
    options = batch_options(marked)
    assert options is not None
    assert options.max_size == 7


# What only goes with another executor


async def test_a_coroutine_out_of_a_plain_handler_is_awaited_in_the_loop_and_told_in_a_thread() -> (
    None
):
    seen: list[int] = []

    async def inner(tick: tt.Tick) -> None:
        seen.append(number(tick))

    def handler(tick: tt.Tick) -> Any:
        return inner(tick)

    told: list[str] = []
    report = await run_pipeline(
        listed(make_ticks(2)),
        handler,
        workers=1,
        on_error=lambda _tick, error: told.append(str(error)),
    )
    assert_accounted(report, failed=2)
    assert all('make it an async def, or give executor="loop"' in text for text in told)
    assert seen == []
    assert_accounted(
        await run_pipeline(listed(make_ticks(2)), handler, workers=1, executor="loop"), consumed=2
    )
    assert seen == [0, 1]


async def test_a_batch_handler_in_a_thread_is_not_sent_to_the_loop() -> None:
    async def inner(ticks: Ticks) -> None: ...

    told: list[str] = []
    handler = tt.batch_handler(lambda ticks: inner(ticks))
    await run_pipeline(
        listed(make_ticks(1)), handler, on_error=lambda _tick, error: told.append(str(error))
    )
    assert len(told) == 1
    assert told[0].endswith("make it an async def")


class Later:
    """Awaitable, and no coroutine."""

    def __await__(self) -> Any:
        yield


@types.coroutine
def old_style() -> Any:
    yield


async def new_style() -> None: ...


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [Later, old_style, new_style], ids=lambda make: make.__name__)
@pytest.mark.parametrize("kind", ["one", "batch", "retried"])
async def test_anything_to_be_awaited_out_of_a_plain_handler_fails_its_tick(
    make: Callable[[], Any], kind: str
) -> None:
    def handler(_what: object) -> Any:
        return make()

    told: list[str] = []

    def on_error(_tick: object, error: Exception) -> None:
        assert type(error) is TypeError
        told.append(str(error))

    report = await run_pipeline(
        listed(make_ticks(2)),
        tt.batch_handler(handler) if kind == "batch" else handler,
        retry=tt.Retry(KeyError) if kind == "retried" else None,
        on_error=on_error,
    )
    gc.collect()  # a coroutine that was never awaited would warn
    assert_accounted(report, failed=2)
    name = type(make()).__name__ if make is not new_style else "coroutine"
    assert all(f"a plain callable in a thread, and returned a {name}" in text for text in told)


@pytest.mark.parametrize(
    "result", [0.0, "", [], MagicMock(), (n for n in "ab")], ids=lambda x: type(x).__name__
)
async def test_what_else_a_plain_handler_returns_is_ignored(result: object) -> None:
    report = await run_pipeline(listed(make_ticks(2)), lambda _tick: result)
    assert_accounted(report, consumed=2)


@pytest.mark.parametrize(
    ("executor", "lines"), [("auto", 1), ("loop", 1), ("thread", 1), ("process", 0)]
)
def test_on_crash_is_told_where_nothing_can_crash_alone(
    executor: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    Settings(executor=executor)
    Settings(executor=executor, on_crash="retry")
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "settings.ignored"
    ] * lines
    assert all(f"executor={executor!r}" in record.getMessage() for record in caplog.records)


# What a system lacks


@pytest.mark.parametrize(
    ("platform", "executor", "events"),
    [
        ("win32", "auto", []),
        ("win32", "process", ["windows.processes"]),
        ("linux", "process", []),
        ("darwin", "process", []),
    ],
)
def test_what_windows_cannot_do_is_told_once(
    platform: str,
    executor: str,
    events: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(systems, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(systems, "reported", set())
    for _ in range(2):
        Settings(executor=executor)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == events
    assert ('executor="thread"' in caplog.text) == ("windows.processes" in events)
