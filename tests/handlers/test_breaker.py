"""The breaker: a symbol that fails again and again is set aside for a while.

A gap announces that; later the symbol is tried again. Other symbols are not affected.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_book, make_tick, number
from tests.worlds.pipeline_world import ScriptFeed, Send, assert_accounted
from tests.worlds.pool_world import open_with_pool
from trio_ticks.handlers.breaker import BreakerState


def state(failures: int = 3, pause_s: float = 10.0) -> BreakerState:
    return BreakerState(tt.Breaker(failures, pause_s))


# By itself


@pytest.mark.parametrize(
    "settings",
    [
        {"failures": 0},
        {"failures": True},
        {"failures": 1.5},
        {"pause_s": 0},
        {"pause_s": float("nan")},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(tt.ConfigError, match=next(iter(settings))):
        tt.Breaker(**settings)


def test_a_symbol_is_set_aside_at_the_failure_that_is_one_too_many() -> None:
    breaker = state()
    assert [breaker.failed("A", now) for now in (0.0, 1.0, 2.0)] == [False, False, True]
    assert breaker.set_aside == ("A",)
    assert [breaker.holds("A", now) for now in (2.0, 11.9, 12.0)] == [True, True, False]
    assert not breaker.holds("B", 2.0)


def test_a_success_in_between_begins_a_new_row() -> None:
    breaker = state()
    breaker.failed("A", 0.0)
    breaker.failed("A", 0.0)
    assert not breaker.succeeded("A")
    assert not breaker
    assert [breaker.failed("A", 0.0) for _ in range(3)] == [False, False, True]


def test_a_trial_that_fails_sets_it_aside_again_and_one_that_does_not_ends_it() -> None:
    breaker = state()
    for _ in range(3):
        breaker.failed("A", 0.0)
    # Not told as new, since it was not well in between.
    assert not breaker.failed("A", 10.0)
    assert breaker.holds("A", 19.9)
    assert not breaker.holds("A", 20.0)
    assert breaker.succeeded("A")
    assert not breaker
    assert not breaker.set_aside


def test_what_is_long_past_is_forgotten() -> None:
    breaker = state()
    breaker.failed("A", 0.0)
    for _ in range(3):
        breaker.failed("B", 1.0)
    breaker.forget(9.9)
    assert breaker
    breaker.forget(10.0)
    assert [breaker.failed("A", 10.0) for _ in range(2)] == [False, False]
    # B is remembered for a pause beyond its own, so that its trial is one.
    breaker.forget(20.9)
    assert breaker.set_aside == ("B",)
    breaker.forget(21.0)
    assert not breaker
    assert not breaker.set_aside


@given(st.lists(st.tuples(st.sampled_from("AB"), st.booleans(), st.floats(0, 4)), max_size=60))
def test_it_agrees_with_a_plain_account(steps: list[tuple[str, bool, float]]) -> None:
    """Against a model that keeps every outcome.

    Only ticks that may be handled are handled, as in a pool.
    """
    breaker, now = state(failures=3, pause_s=5.0), 0.0
    rows: dict[str, list[float]] = {"A": [], "B": []}
    for symbol, fails, wait in steps:
        now += wait
        breaker.forget(now)
        for row in rows.values():
            if row and now >= row[-1] + (10.0 if len(row) >= 3 else 5.0):
                row.clear()
        row = rows[symbol]
        held = len(row) >= 3 and now < row[-1] + 5.0
        assert breaker.holds(symbol, now) == held
        if held:
            continue
        if fails:
            assert breaker.failed(symbol, now) == (len(row) == 2)
            row.append(now)
        else:
            assert breaker.succeeded(symbol) == (len(row) >= 3)
            row.clear()
        assert set(breaker.set_aside) == {name for name, line in rows.items() if len(line) >= 3}
        assert bool(breaker) == any(rows.values())


# In a pipeline


class Market:
    """Ticks of a sick symbol and a well one, one of each a second.

    The handler fails for the sick one up to a certain number.
    """

    def __init__(self, count: int, well_from: int = 10**9, per_second: int = 1) -> None:
        self.count = count
        self.well_from = well_from
        self.per_second = per_second
        self.tried: list[int] = []
        self.others = 0
        self.events: list[str] = []

    async def _play(self, send: Send) -> None:
        for n in range(self.count):
            await send.send_many([make_tick("SICK", n), make_tick("WELL", n)])
            if (n + 1) % self.per_second == 0:
                await trio.sleep(1)

    @property
    def feed(self) -> ScriptFeed:
        return ScriptFeed(self._play)

    def see(self, tick: tt.Tick) -> None:
        if tick.symbol == "WELL":
            self.others += 1
            return
        self.tried.append(number(tick))
        self.events.append(f"tick {number(tick)}")
        if number(tick) < self.well_from:
            raise ArithmeticError(number(tick))

    async def handler(self, tick: tt.Tick) -> None:
        self.see(tick)

    def on_gap(self, gap: tt.Gap) -> None:
        assert gap.symbol == "SICK"
        self.events.append(f"{gap.reason} {gap.count}")


BREAKER = tt.Breaker(failures=3, pause_s=10.0)


@pytest.mark.parametrize("ordering", ["symbol", "none"])
@pytest.mark.parametrize("workers", [1, 4])
async def test_it_is_set_aside_tried_and_well_again(
    workers: int, ordering: Any, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    market, told = Market(count=40, well_from=20), list[int]()
    async with tt.open_pipeline(
        market.feed,
        market.handler,
        workers=workers,
        ordering=ordering,
        breaker=BREAKER,
        on_gap=market.on_gap,
        on_error=lambda tick, _error: told.append(number(tick)),
    ) as pipeline:
        await trio.sleep(5.5)
        assert pipeline.metrics().symbols_set_aside == 1
        await pipeline.wait()
        assert pipeline.metrics().symbols_set_aside == 0
    # Ticks 0, 1, 2 fail at 0, 1, 2 s; the trial at 12 s fails too, the trial at 22 s
    # does not.
    assert market.tried == [0, 1, 2, 12, *range(22, 40)]
    assert told == [0, 1, 2, 12]
    assert market.events[:6] == ["tick 0", "tick 1", "tick 2", "breaker 9", "tick 12", "breaker 9"]
    assert market.others == 40
    assert_accounted(pipeline.report, consumed=58, failed=4, held=18)
    lines = [
        record.message.split(":")[0]
        for record in caplog.records
        if record.message.startswith("breaker.")
    ]
    assert lines == ["breaker.set_aside", "breaker.well"]


async def test_ticks_that_are_queued_behind_the_failures_are_held_too(
    autojump_clock: MockClock,
) -> None:
    market = Market(count=20, per_second=20)
    report = await tt.run_pipeline(market.feed, market.handler, breaker=BREAKER)
    assert market.tried == [0, 1, 2]
    assert_accounted(report, consumed=20, failed=3, held=17)


async def test_a_handler_that_takes_gaps_is_told_in_band(autojump_clock: MockClock) -> None:
    market = Market(count=13, well_from=3)

    async def handler(item: tt.Tick | tt.Gap) -> None:
        market.on_gap(item) if isinstance(item, tt.Gap) else market.see(item)

    await tt.run_pipeline(market.feed, handler, breaker=BREAKER)
    assert market.events == ["tick 0", "tick 1", "tick 2", "breaker 9", "tick 12"]


async def test_a_try_that_another_one_cures_is_no_failure(autojump_clock: MockClock) -> None:
    tries: dict[int, int] = {}

    async def handler(tick: tt.Tick) -> None:
        tries[number(tick)] = tries.get(number(tick), 0) + 1
        if tries[number(tick)] < 3:
            raise TimeoutError

    market = Market(count=20)
    report = await tt.run_pipeline(
        market.feed, handler, ordering="none", breaker=tt.Breaker(1), retry=tt.Retry(TimeoutError)
    )
    assert_accounted(report, failed=0, held=0)


async def test_a_book_that_was_set_aside_waits_for_a_snapshot(autojump_clock: MockClock) -> None:
    seen: list[int] = []

    async def handler(update: tt.BookUpdate) -> None:
        seen.append(number(update))
        if number(update) < 2:
            raise ArithmeticError

    async def script(send: Send) -> None:
        for n in range(20):
            await send.send(make_book("A", n, snapshot=n in (0, 15)))
            await trio.sleep(1)

    gaps: list[tt.Gap] = []
    report = await tt.run_pipeline(
        ScriptFeed(script),
        handler,
        overflow=tt.DropNewest(),
        breaker=tt.Breaker(2, 5.0),
        on_gap=gaps.append,
    )
    # Set aside at 1 s, for 2 to 5 s; the next updates build on lost ones, until the
    # snapshot.
    assert seen == [0, 1, *range(15, 20)]
    assert [(gap.reason, gap.count) for gap in gaps] == [("breaker", 13)]
    assert_accounted(report, consumed=5, failed=2, held=13)


async def test_where_all_are_well_again_the_hot_path_is_taken_again(
    autojump_clock: MockClock,
) -> None:
    """One failure must not cost the pipeline its sprints for the rest of the day.

    Whether or not the symbol ever comes again.
    """
    fails = {"GONE", "BACK"}

    async def handler(tick: tt.Tick) -> None:
        if tick.symbol in fails:
            raise ArithmeticError

    async def script(send: Send) -> None:
        await send.send_many([make_tick("GONE", 0), make_tick("BACK", 1), make_tick("WELL", 2)])
        await trio.sleep(1)
        assert pool.crew.state.losses.attention
        fails.clear()
        await send.send(make_tick("BACK", 3))
        await trio.sleep(1)
        assert pool.crew.state.losses.attention
        await trio.sleep(10)
        await send.send(make_tick("WELL", 4))
        await trio.sleep(1)
        assert not pool.crew.state.losses.attention

    async with open_with_pool(ScriptFeed(script), handler, breaker=BREAKER) as (pipeline, pool):
        await pipeline.wait()
    assert_accounted(pipeline.report, consumed=3, failed=2)


# In threads and in batches


@pytest.mark.parametrize("workers", [1, 3])
async def test_threads_hold_back_what_a_batch_has_left(workers: int) -> None:
    market = Market(count=500, per_second=500)

    async def feed(send: Send) -> None:
        # Enough quick ticks to bring batches to their largest size.
        await send.send_many([make_tick("WELL", n) for n in range(2000)])
        await send.send_many(
            [tick for n in range(500) for tick in (make_tick("SICK", n), make_tick("WELL", n))]
        )

    report = await tt.run_pipeline(
        ScriptFeed(feed),
        market.see,
        workers=workers,
        maxsize=5000,
        breaker=tt.Breaker(3, 3600.0),
        on_gap=market.on_gap,
    )
    assert market.tried == [0, 1, 2]
    assert_accounted(report, consumed=2500, failed=3, held=497)


async def test_threads_try_again_after_the_pause(mock_clock: MockClock) -> None:
    tried: list[int] = []
    gaps: list[tt.Gap] = []

    def handler(tick: tt.Tick) -> None:
        tried.append(number(tick))
        if number(tick) < 13:
            raise ArithmeticError

    async def script(send: Send) -> None:
        for n in range(40):
            await send.send(make_tick("SICK", n))
            while pipeline.ledger.queued or pipeline.ledger.in_flight:
                await trio.lowlevel.checkpoint()
            mock_clock.jump(1.0)

    async with tt.open_pipeline(
        ScriptFeed(script), handler, breaker=BREAKER, on_gap=gaps.append
    ) as pipeline:
        await pipeline.wait()
    assert tried == [0, 1, 2, 12, *range(22, 40)]
    assert [(gap.reason, gap.count) for gap in gaps] == [("breaker", 9), ("breaker", 9)]
    assert_accounted(pipeline.report, consumed=18, failed=4, held=18)


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_batch_is_one_handling(kind: str) -> None:
    """However many ticks of a symbol it fails with, it counts as one handling.

    The last tick decides if a BatchError says that some are well.
    """
    calls: list[list[int]] = []

    def see(ticks: list[tt.Tick]) -> None:
        calls.append([number(tick) for tick in ticks])
        if len(calls) < 4:
            raise ArithmeticError
        raise tt.BatchError({index: ArithmeticError() for index, tick in enumerate(ticks[:-1])})

    @tt.batch_handler(max_size=10)
    async def see_in_loop(ticks: list[tt.Tick]) -> None:
        see(ticks)

    handler: Any = see_in_loop if kind == "loop" else tt.batch_handler(max_size=10)(see)

    async def script(send: Send) -> None:
        await send.send_many([make_tick("A", n) for n in range(100)])

    report = await tt.run_pipeline(
        ScriptFeed(script), handler, workers=1, breaker=tt.Breaker(4, 3600.0)
    )
    # Three batches fail whole, the others have a last tick that is well.
    assert [n for call in calls for n in call] == list(range(100))
    whole, others = calls[:3], calls[3:]
    assert_accounted(
        report,
        failed=sum(map(len, whole)) + sum(len(call) - 1 for call in others),
        consumed=len(others),
        held=0,
    )


async def test_a_batch_handler_that_fails_whole_is_set_aside() -> None:
    @tt.batch_handler(max_size=10)
    def handler(ticks: list[tt.Tick]) -> None:
        raise ArithmeticError

    async def script(send: Send) -> None:
        await send.send_many([make_tick("A", n) for n in range(100)])

    report = await tt.run_pipeline(
        ScriptFeed(script), handler, workers=1, breaker=tt.Breaker(3, 3600.0)
    )
    assert report.consumed == 0
    assert report.failed + report.dropped_by_reason["held"] == 100
    assert 3 <= report.failed <= 30
    assert_accounted(report, produced=100)
