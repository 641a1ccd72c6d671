"""Handlers that take a list of ticks: how large a batch is, and when it goes.

Also what became of each tick of it, order, and the law.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks, number, numbers
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted, listed, sleepy_feed
from trio_ticks import open_pipeline, run_pipeline

Ticks = Sequence[tt.Tick]


@attrs.define
class Batches:
    """Keeps each batch and the time it came; takes *seconds* for each."""

    seconds: float = 0.0
    given: list[list[int]] = attrs.field(factory=list)
    at: list[float] = attrs.field(factory=list)

    def handler(self, **options: Any) -> Callable[[Ticks], Awaitable[None]]:
        @tt.batch_handler(**options)
        async def handle(ticks: Ticks) -> None:
            self.given.append(numbers(ticks))
            self.at.append(trio.current_time())
            await trio.sleep(self.seconds)

        return handle


@pytest.mark.parametrize(
    "options",
    [
        {"max_size": 0},
        {"max_size": True},
        {"max_size": 2.0},
        {"max_wait": -1},
        {"max_wait": float("inf")},
        {"max_wait": None},
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(tt.ConfigError, match=next(iter(options))):
        tt.batch_handler(**options)


# How large, and when


async def test_a_batch_is_what_is_there_up_to_its_size(autojump_clock: MockClock) -> None:
    batches = Batches()
    report = await run_pipeline(
        listed(make_ticks(100, "ABC")), batches.handler(max_size=32), workers=1
    )
    assert batches.given == [
        list(range(32)),
        list(range(32, 64)),
        list(range(64, 96)),
        list(range(96, 100)),
    ]
    assert_accounted(report, consumed=100)


async def test_what_came_meanwhile_is_the_next_batch(autojump_clock: MockClock) -> None:
    batches = Batches(seconds=1.05)

    async def script(send: Send) -> None:
        for tick in make_ticks(40):
            await send.send(tick)
            await trio.sleep(0.125)

    report = await run_pipeline(ScriptFeed(script), batches.handler(), workers=1)
    assert batches.given == [
        [0],
        list(range(1, 9)),
        list(range(9, 17)),
        list(range(17, 26)),
        list(range(26, 34)),
        list(range(34, 40)),
    ]
    assert_accounted(report, consumed=40)


async def test_a_batch_waits_to_be_filled_no_longer_than_it_may(autojump_clock: MockClock) -> None:
    """It waits from the arrival of its first tick.

    A full batch goes at once, and at the end of the feed whatever is left goes.
    """
    batches = Batches()

    async def script(send: Send) -> None:
        await trio.sleep(5)
        for tick in make_ticks(3):  # at 5.0, 5.4, 5.8 s: it is not full at 6.0 s
            await send.send(tick)
            await trio.sleep(0.4)
        await trio.sleep(3.8)
        for tick in make_ticks(12, first=3):  # from 10.0 s on: full at 10.36 s
            await send.send(tick)
            await trio.sleep(0.04)
        await trio.sleep(0.02)

    start = trio.current_time()
    report = await run_pipeline(
        ScriptFeed(script), batches.handler(max_size=10, max_wait=1.0), workers=1
    )
    assert batches.given == [[0, 1, 2], list(range(3, 13)), [13, 14]]
    assert [round(at - start, 6) for at in batches.at] == [6.0, 10.36, 10.5]
    assert_accounted(report, consumed=15)


async def test_a_full_queue_is_not_waited_for(autojump_clock: MockClock) -> None:
    """If ``maxsize`` is less than ``max_size``, no further tick can come."""
    batches = Batches()
    start = trio.current_time()
    handler = batches.handler(max_size=10, max_wait=1.0)
    report = await run_pipeline(
        listed(make_ticks(8)), handler, workers=1, maxsize=4, overflow=tt.Block(), max_age=0.5
    )
    assert batches.given == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [at - start for at in batches.at] == [0.0, 0.0]
    assert_accounted(report, consumed=8)


async def test_a_tick_that_waited_behind_a_batch_does_not_wait_once_more(
    autojump_clock: MockClock,
) -> None:
    batches = Batches(seconds=3.0)

    async def script(send: Send) -> None:
        await send.send_many(make_ticks(2))
        await trio.sleep(1)
        await send.send(make_tick("A", 2))
        await trio.sleep(2.5)
        await send.send(make_tick("A", 3))
        await trio.sleep(60)

    start = trio.current_time()
    await run_pipeline(ScriptFeed(script), batches.handler(max_size=2, max_wait=2.8), workers=1)
    # The second batch begins to fill at 1 s, and the first one ends at 3 s.
    assert batches.given == [[0, 1], [2, 3]]
    assert [round(at - start, 6) for at in batches.at] == [0.0, 3.5]


@pytest.mark.parametrize("workers", [1, 4])
async def test_ticks_of_a_busy_symbol_wait_their_turn_and_fill_the_next_batch(
    workers: int, autojump_clock: MockClock
) -> None:
    batches = Batches(seconds=1.0)

    async def script(send: Send) -> None:
        for n in range(25):
            await send.send(make_tick("A", n))
            await trio.sleep(0.1)

    report = await run_pipeline(
        ScriptFeed(script), batches.handler(max_size=5, max_wait=0.35), workers=workers
    )
    assert batches.given == [
        [0, 1, 2, 3],
        [4, 5, 6, 7, 8],
        [9, 10, 11, 12, 13],
        [14, 15, 16, 17, 18],
        [19, 20, 21, 22, 23],
        [24],
    ]
    assert_accounted(report, consumed=25)


async def test_symbols_of_different_batches_run_side_by_side(autojump_clock: MockClock) -> None:
    batches = Batches(seconds=1.0)
    report = await run_pipeline(
        listed(make_ticks(8, "ABCD")), batches.handler(max_size=2), workers=4
    )
    # [A0 B1], [C2 D3]; what is behind them belongs to the same symbols, and follows.
    assert batches.given[:2] == [[0, 1], [2, 3]]
    # Both end at once, and which of their symbols is free first is not defined.
    assert sorted(map(sorted, batches.given[2:])) == [[4, 5], [6, 7]]
    assert report.duration_s == 2.0


async def test_without_order_one_symbol_keeps_all_workers_busy(autojump_clock: MockClock) -> None:
    batches = Batches(seconds=1.0)
    report = await run_pipeline(
        listed(make_ticks(40)), batches.handler(max_size=10), workers=4, ordering="none"
    )
    assert batches.given == [list(range(first, first + 10)) for first in (0, 10, 20, 30)]
    assert report.duration_s == 1.0


async def test_a_handler_that_never_waits_lets_others_run() -> None:
    seen = 0

    @tt.batch_handler(max_size=1)
    async def handler(ticks: Ticks) -> None:
        nonlocal seen
        seen += len(ticks)

    async with open_pipeline(sleepy_feed(make_ticks(1000)), handler) as pipeline:
        while not seen:
            await trio.lowlevel.checkpoint()
        assert seen < 100
        pipeline.shutdown()
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=1000)


# The outcome of each tick


@pytest.fixture(params=["loop", "thread"])
def either(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Make a batch handler of a plain function: one in the loop, and one in threads."""

    def make(function: Callable[[Ticks], None], **options: Any) -> Any:
        if request.param == "thread":
            return tt.batch_handler(**options)(function)

        @tt.batch_handler(**options)
        async def handler(ticks: Ticks) -> None:
            function(ticks)

        return handler

    return make


async def test_an_exception_fails_all_of_its_batch_and_no_other(either: Callable[..., Any]) -> None:
    told: list[tuple[int, str]] = []

    def handler(ticks: Ticks) -> None:
        if number(ticks[0]) == 10:
            raise ArithmeticError("the second")

    report = await run_pipeline(
        listed(make_ticks(30, "ABC")),
        either(handler, max_size=10),
        workers=1,
        on_error=lambda tick, error: told.append((number(tick), str(error))),
    )
    assert told == [(n, "the second") for n in range(10, 20)]
    assert_accounted(report, consumed=20, failed=10)


async def test_a_batch_error_says_which(either: Callable[..., Any]) -> None:
    told: list[tuple[int, str]] = []

    def handler(ticks: Ticks) -> None:
        failures: dict[int, Exception] = {
            index: ValueError(number(tick))
            for index, tick in enumerate(ticks)
            if number(tick) % 7 == 3
        }
        if failures:
            raise tt.BatchError(failures)

    report = await run_pipeline(
        listed(make_ticks(50, "ABC")),
        either(handler, max_size=10),
        workers=1,
        on_error=lambda tick, error: told.append((number(tick), str(error))),
    )
    assert told == [(n, str(n)) for n in range(3, 50, 7)]
    assert_accounted(report, consumed=43, failed=7)


@pytest.mark.parametrize("index", [-1, 3, 100])
async def test_a_batch_error_that_names_a_tick_that_is_not_there_fails_all(
    index: int, either: Callable[..., Any]
) -> None:
    told: list[Exception] = []

    def handler(ticks: Ticks) -> None:
        raise tt.BatchError({0: ValueError(), index: ValueError()})

    report = await run_pipeline(
        listed(make_ticks(3)),
        either(handler, max_size=3),
        workers=1,
        on_error=lambda _tick, error: told.append(error),
    )
    assert [type(error) for error in told] == [tt.BatchError] * 3
    assert_accounted(report, failed=3)


async def test_a_failure_is_told_before_the_symbols_next_batch(either: Callable[..., Any]) -> None:
    events: list[str] = []

    def handler(ticks: Ticks) -> None:
        events.append(f"handle {numbers(ticks)}")
        raise ValueError

    async def on_error(tick: tt.Tick, error: Exception) -> None:
        await trio.lowlevel.checkpoint()
        events.append(f"told {number(tick)}")

    await run_pipeline(listed(make_ticks(4)), either(handler, max_size=2), on_error=on_error)
    assert events == ["handle [0, 1]", "told 0", "told 1", "handle [2, 3]", "told 2", "told 3"]


async def test_all_failures_of_a_batch_are_told_though_all_is_cancelled_meanwhile(
    either: Callable[..., Any], autojump_clock: MockClock
) -> None:
    """They are counted as failed, so all of them must be reported to ``on_error``."""
    told: list[int] = []

    def handler(ticks: Ticks) -> None:
        raise ValueError

    async def on_error(tick: tt.Tick, error: Exception) -> None:
        told.append(number(tick))
        pipeline.cancel()
        await trio.sleep_forever()

    async with open_pipeline(
        sleepy_feed(make_ticks(6)), either(handler, max_size=3), workers=1, on_error=on_error
    ) as pipeline:
        await pipeline.wait()
    assert told == [0, 1, 2]
    assert_accounted(pipeline.report, failed=3, shutdown=3)


async def test_a_plain_handler_that_returns_a_coroutine_is_told_so() -> None:
    async def inner(ticks: Ticks) -> None:
        raise AssertionError("nobody awaits it")

    told: list[Exception] = []
    handler = tt.batch_handler()(lambda ticks: inner(ticks))
    report = await run_pipeline(
        listed(make_ticks(3)), handler, on_error=lambda _tick, error: told.append(error)
    )
    assert {type(error) for error in told} == {TypeError}
    assert_accounted(report, failed=3)


async def test_the_handlers_list_is_its_own() -> None:
    @tt.batch_handler(max_size=4)
    async def handler(ticks: list[tt.Tick]) -> None:
        ticks.clear()

    assert_accounted(await run_pipeline(listed(make_ticks(10)), handler), consumed=10)


async def test_a_plain_batch_handler_would_stop_the_loop() -> None:
    with pytest.raises(tt.ConfigError, match="batch handler"):
        await run_pipeline(listed([]), tt.batch_handler()(lambda ticks: None), executor="loop")


@pytest.mark.parametrize("place", ["loop", "thread"])
async def test_a_batch_that_is_cancelled_has_no_outcome(place: str) -> None:
    @tt.batch_handler(max_size=10)
    async def in_loop(ticks: Ticks) -> None:
        if number(ticks[0]) == 10:
            pipeline.cancel()
            await trio.sleep_forever()

    @tt.batch_handler(max_size=10)
    def in_thread(ticks: Ticks) -> None:
        if number(ticks[0]) == 10:
            trio.from_thread.run_sync(pipeline.cancel)
            trio.from_thread.run(trio.sleep_forever)

    handler = in_loop if place == "loop" else in_thread
    async with open_pipeline(sleepy_feed(make_ticks(30)), handler, workers=1) as pipeline:
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=10, failed=0, shutdown=20)


async def test_a_batch_is_tried_again_as_a_whole(autojump_clock: MockClock) -> None:
    given: list[list[int]] = []

    @tt.batch_handler(max_size=5)
    async def handler(ticks: Ticks) -> None:
        given.append(numbers(ticks))
        if len(given) in (2, 3):
            raise TimeoutError
        if len(given) == 5:
            raise tt.BatchError({0: TimeoutError()})

    report = await run_pipeline(
        listed(make_ticks(15)), handler, workers=1, retry=tt.Retry(Exception)
    )
    # The ticks that a BatchError names have failed for good: the rest of its batch has
    # been handled.
    assert given == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [5, 6, 7, 8, 9],
        [5, 6, 7, 8, 9],
        [10, 11, 12, 13, 14],
    ]
    assert_accounted(report, consumed=14, failed=1)
    assert report.handler_retries == 2


async def test_the_time_limit_is_for_a_batch(autojump_clock: MockClock) -> None:
    @tt.batch_handler(max_size=5)
    async def handler(ticks: Ticks) -> None:
        await trio.sleep(10 if number(ticks[0]) == 5 else 1)

    told: list[Exception] = []
    report = await run_pipeline(
        listed(make_ticks(15)),
        handler,
        handler_timeout=2.0,
        on_error=lambda _tick, error: told.append(error),
    )
    assert [type(error) for error in told] == [tt.HandlerTimeoutError] * 5
    assert_accounted(report, consumed=10, failed=5)
    assert report.handler_timeouts == 1


# Kinds of handlers


class Strategy:
    def __init__(self) -> None:
        self.seen: list[int] = []

    @tt.batch_handler(max_size=4)
    def plain(self, ticks: Ticks) -> None:
        self.seen += numbers(ticks)

    @tt.batch_handler(max_size=4)
    async def asynchronous(self, ticks: Ticks) -> None:
        self.seen += numbers(ticks)

    @tt.batch_handler(max_size=4)
    def __call__(self, ticks: Ticks) -> None:
        self.seen += numbers(ticks)


@tt.batch_handler(max_size=4)
def with_settings(seen: list[int], ticks: Ticks) -> None:
    seen += numbers(ticks)


@pytest.mark.parametrize("kind", ["method", "async method", "object", "partial"])
async def test_kinds_of_batch_handlers(kind: str) -> None:
    strategy = Strategy()
    kinds: dict[str, Any] = {
        "method": strategy.plain,
        "async method": strategy.asynchronous,
        "object": strategy,
        "partial": functools.partial(with_settings, strategy.seen),
    }
    assert_accounted(
        await run_pipeline(listed(make_ticks(10)), kinds[kind], workers=1), consumed=10
    )
    assert strategy.seen == list(range(10))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("decorated", ["class", "method"])
async def test_a_class_makes_a_batch_handler_per_worker_and_gives_it_a_life(
    workers: int, decorated: str
) -> None:
    lives: list[list[str]] = []
    seen: list[int] = []

    class Averages:
        def __enter__(self) -> None:
            self.life = ["in"]
            lives.append(self.life)

        def __exit__(self, *_reason: object) -> None:
            self.life.append("out")

        @tt.batch_handler(max_size=4)
        def __call__(self, ticks: Ticks) -> None:
            self.handle(ticks)

        def handle(self, ticks: Ticks) -> None:
            # The threads decide which worker gets a batch, and whether one has entered
            # before another leaves.
            assert self.life == ["in"]
            seen.extend(numbers(ticks))

    handler: Any = Averages
    if decorated == "class":
        handler = tt.batch_handler(max_size=4)(
            type("Marked", (Averages,), {"__call__": lambda self, ticks: self.handle(ticks)})
        )
    report = await run_pipeline(listed(make_ticks(100)), handler, workers=workers)
    assert seen == list(range(100))
    assert lives == [["in", "out"]] * workers
    assert_accounted(report, consumed=100)


# Gaps


@pytest.mark.parametrize("place", ["loop", "thread"])
@pytest.mark.parametrize("in_band", [False, True], ids=["on_gap", "in-band"])
async def test_a_gap_comes_before_the_batch_that_it_lies_before(place: str, in_band: bool) -> None:
    events: list[str] = []

    def see(items: Sequence[tt.Tick | tt.Gap]) -> None:
        events.extend(
            f"gap {item.symbol}" if isinstance(item, tt.Gap) else f"{item.symbol}{number(item)}"
            for item in items
        )
        events.append("|")

    @tt.batch_handler()
    async def in_loop(ticks: Ticks) -> None:
        see(ticks)

    @tt.batch_handler()
    def in_thread(ticks: Ticks) -> None:
        see(ticks)

    @tt.batch_handler()
    async def in_band_in_loop(items: Sequence[tt.Tick | tt.Gap]) -> None:
        see(items)

    @tt.batch_handler()
    def in_band_in_thread(items: list[tt.Tick | tt.Gap]) -> None:
        see(items)

    async def script(send: Send) -> None:
        ticks = [make_tick("A", 0), make_tick("B", 1)]
        await send.send_many(ticks)
        now = ticks[0].timestamp
        send.mark_gap(tt.Gap("A", now, "sequence", 3, now))
        await send.send_many(
            [make_tick("B", 2), make_tick("A", 3), make_tick("B", 4), make_tick("A", 5)]
        )

    handlers: dict[tuple[str, bool], Any] = {
        ("loop", False): in_loop,
        ("thread", False): in_thread,
        ("loop", True): in_band_in_loop,
        ("thread", True): in_band_in_thread,
    }
    on_gap = None if in_band else lambda gap: events.append(f"gap {gap.symbol}")
    report = await run_pipeline(
        ScriptFeed(script), handlers[place, in_band], workers=1, on_gap=on_gap
    )
    told = ["gap A", "|"] if in_band else ["gap A"]
    first = events.index("gap A")
    assert [event for event in events[:first] if event != "|"] == ["A0", "B1", "B2"]
    assert events[first - 1 :] == ["|", *told, "A3", "B4", "A5", "|"]
    assert_accounted(report, consumed=6)


async def test_a_sender_that_waits_for_the_room_of_a_batch_gets_it_in_the_end(
    autojump_clock: MockClock,
) -> None:
    """It is woken when the batch is taken; its room is reserved during ``on_gap``."""
    handled: list[int] = []

    @tt.batch_handler(max_size=2, max_wait=0.5)
    async def handler(ticks: Ticks) -> None:
        handled.extend(numbers(ticks))

    async def on_gap(gap: tt.Gap) -> None:
        await trio.sleep(1)

    async def script(send: Send) -> None:
        now = make_tick().timestamp
        send.mark_gap(tt.Gap("A", now, "sequence", 3, now))
        await send.send_many(make_ticks(6))

    with trio.fail_after(60):
        await run_pipeline(
            ScriptFeed(script), handler, workers=1, maxsize=2, overflow=tt.Block(), on_gap=on_gap
        )
    assert handled == [0, 1, 2, 3, 4, 5]


async def test_a_class_may_take_gaps_in_band() -> None:
    events: list[object] = []

    class Handler:
        async def __call__(self, item: tt.Tick | tt.Gap) -> None:
            events.append(item)

    async def script(send: Send) -> None:
        tick = make_tick("A", 0)
        send.mark_gap(tt.Gap("A", tick.timestamp, "sequence", 3, tick.timestamp))
        await send.send(tick)

    await run_pipeline(ScriptFeed(script), Handler)
    assert [type(event) for event in events] == [tt.Gap, tt.Tick]


# Order and law, over random loads


@attrs.frozen
class Load:
    workers: int
    ordering: Any
    max_size: int
    max_wait: float
    sends: tuple[tuple[float, str], ...]
    takes_s: tuple[float, ...]
    """Of each batch in turn; negative: it fails."""
    named: bool
    """Whether failing batches name the ticks that did."""
    cancelled_after_s: float


_TIMES = st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.5])
_LOADS = st.builds(
    Load,
    st.integers(1, 4),
    st.sampled_from(["symbol", "none"]),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.lists(st.tuples(_TIMES, st.text("ABC", max_size=8)), max_size=12).map(tuple),
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 1.0, -1.0]), min_size=1, max_size=5).map(tuple),
    st.booleans(),
    st.sampled_from([1e9, 1e9, 0.7, 2.1]),
)


async def _run(load: Load) -> None:
    handling: dict[str, int] = defaultdict(int)
    begun: list[tt.Tick] = []
    calls = failed = 0

    @tt.batch_handler(max_size=load.max_size, max_wait=load.max_wait)
    async def handler(ticks: Ticks) -> None:
        nonlocal calls, failed
        assert 1 <= len(ticks) <= load.max_size
        takes_s = load.takes_s[calls % len(load.takes_s)]
        calls += 1
        begun.extend(ticks)
        symbols = {tick.symbol for tick in ticks}
        for symbol in symbols:
            handling[symbol] += 1
            assert load.ordering == "none" or handling[symbol] == 1, (
                "two batches hold a symbol at once"
            )
        try:
            await trio.sleep(max(0.0, takes_s))
        finally:
            for symbol in symbols:
                handling[symbol] -= 1
        if takes_s < 0:
            bad = range(0, len(ticks), 2) if load.named else range(len(ticks))
            failed += len(bad)
            raise (
                tt.BatchError({index: ArithmeticError() for index in bad})
                if load.named
                else ArithmeticError
            )

    async def script(send: Send) -> None:
        n = 0
        for wait_s, symbols in load.sends:
            await trio.sleep(wait_s)
            await send.send_many(
                [make_tick(symbol, n + index) for index, symbol in enumerate(symbols)]
            )
            n += len(symbols)

    told: list[Exception] = []
    with trio.move_on_after(load.cancelled_after_s):
        async with open_pipeline(
            ScriptFeed(script),
            handler,
            workers=load.workers,
            ordering=load.ordering,
            shutdown_timeout=1e6,
            on_error=lambda _tick, error: told.append(error),
        ) as pipeline:
            await pipeline.wait()
    assert_accounted(pipeline.report, failed=failed)
    assert {type(error) for error in told} <= {ArithmeticError}
    assert len(told) == failed
    handled = numbers(begun)
    assert len(set(handled)) == len(handled)
    if load.cancelled_after_s > 1e6:
        assert len(handled) == sum(len(symbols) for _, symbols in load.sends)
        assert pipeline.report.dropped == 0
    if load.ordering == "symbol":
        for symbol in "ABC":
            line = [number(tick) for tick in begun if tick.symbol == symbol]
            assert line == sorted(line)


@given(_LOADS)
def test_order_and_law_over_random_loads(load: Load) -> None:
    trio.run(_run, load, clock=MockClock(autojump_threshold=0))


async def test_a_batch_whose_thread_is_slow_to_begin_stays_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Waiting ticks behind a slow tick can be called back, except a batch handler's.

    Otherwise the batch handler would get what is left of them: nothing.
    """
    run_sync = trio.to_thread.run_sync
    calls: list[int] = []

    async def slow(function: Any, *args: Any, **options: Any) -> Any:
        await trio.sleep(0.05)
        return await run_sync(function, *args, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", slow)

    @tt.batch_handler(max_size=10)
    def handler(ticks: list[tt.Tick]) -> None:
        calls.append(len(ticks))

    report = await tt.run_pipeline(
        tt.IterableFeed([make_tick("A", n) for n in range(5)]), handler, workers=2
    )
    assert calls
    assert 0 not in calls
    assert sum(calls) == report.consumed == 5
