"""Pressure: the three states, their hysteresis, the log, and waiting for a state."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

import trio_ticks as tt
from trio_ticks.control.pressure import Pressure, PressureState
from trio_ticks.errors import ConfigError
from trio_ticks.overflow import sheds


def states(pressure: Pressure, *levels: int) -> list[PressureState]:
    result: list[PressureState] = []
    for level in levels:
        pressure.update(level)
        result.append(pressure.state)
    return result


async def test_warn_begins_at_the_threshold_and_ends_at_half_of_it() -> None:
    pressure = Pressure(lag_threshold=50, maxsize=100)
    assert pressure.state == "ok"
    assert states(pressure, 49, 50, 49, 26, 25, 49, 50) == [
        "ok",
        "warn",
        "warn",
        "warn",
        "ok",
        "ok",
        "warn",
    ]
    assert pressure.changes == 3


async def test_shed_begins_where_it_is_full_and_ends_at_three_quarters() -> None:
    pressure = Pressure(lag_threshold=50, maxsize=100)
    assert states(pressure, 99, 100, 99, 76, 75, 99, 100) == [
        "warn",
        "shed",
        "shed",
        "shed",
        "warn",
        "warn",
        "shed",
    ]
    assert states(pressure, 0) == ["ok"]
    assert states(pressure, 100) == ["shed"]


async def test_a_threshold_beyond_the_size_warns_only_on_the_way_back() -> None:
    pressure = Pressure(lag_threshold=500, maxsize=100)
    assert states(pressure, 99, 100, 80, 75, 51, 50) == ["ok", "shed", "shed", "warn", "warn", "ok"]


@pytest.mark.parametrize("maxsize", [1, 2, 3])
async def test_small_channels_get_through_all_that_they_can(maxsize: int) -> None:
    pressure = Pressure(lag_threshold=1, maxsize=maxsize)
    assert states(pressure, maxsize) == ["shed"]
    assert states(pressure, 0) == ["ok"]


@given(
    maxsize=st.integers(1, 30),
    threshold=st.integers(1, 40),
    levels=st.lists(st.integers(0, 30), max_size=60),
)
def test_the_state_follows_the_marks_and_no_other_level_changes_it(
    maxsize: int, threshold: int, levels: list[int]
) -> None:
    async def follow() -> None:
        pressure = Pressure(threshold, maxsize)
        warn_at, changes = min(threshold, maxsize), 0
        for level in (min(level, maxsize) for level in levels):
            before = pressure.state
            pressure.update(level)
            after = pressure.state
            changes += before != after
            if level == maxsize:
                assert after == "shed"
            elif level <= warn_at // 2:
                assert after == "ok"
            if after == "shed" and before != "shed":
                assert level == maxsize
            if before == "shed" and after != "shed":
                assert level <= maxsize * 3 // 4
            if before == "ok" and after == "warn":
                assert level >= warn_at
            if after == "ok":
                assert level < warn_at
            assert pressure.changes == changes
            pressure.update(level)
            assert pressure.state == after, "the same level again changed the state"

    trio.run(follow)


# Logs


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.message.partition(":")[0]) for record in caplog.records]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "trio_ticks")
    return caplog


async def test_a_crossing_is_logged_once_and_so_is_the_recovery(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    pressure = Pressure(lag_threshold=50, maxsize=100)
    for level in (*range(0, 100, 7), 60, 70, 60, 70):
        pressure.update(level)
        await trio.sleep(10)
    assert lines(log) == [("WARNING", "pressure.warn")]
    for level in range(70, 0, -5):
        pressure.update(level)
        await trio.sleep(10)
    assert lines(log) == [("WARNING", "pressure.warn"), ("INFO", "pressure.ok")]
    record: Any = log.records[0]
    assert (record.pressure, record.was, record.queued, record.maxsize) == ("warn", "ok", 56, 100)


async def test_the_way_up_is_logged_state_by_state_and_the_way_down_at_its_end(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    pressure = Pressure(lag_threshold=50, maxsize=100)
    for level in (60, 100, 70, 10):
        pressure.update(level)
        await trio.sleep(10)
    assert [name for _, name in lines(log)] == ["pressure.warn", "pressure.shed", "pressure.ok"]


async def test_a_queue_that_swings_fast_is_logged_once_a_second(
    log: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    pressure = Pressure(lag_threshold=50, maxsize=100)
    for _ in range(30):
        pressure.update(60)
        pressure.update(0)
        await trio.sleep(0.1)
    assert pressure.changes == 60
    warnings = [name for level, name in lines(log) if level == "WARNING"]
    # Three seconds: a line as it begins, and one each second after.
    assert 3 <= len(warnings) <= 4
    assert len(lines(log)) == 2 * len(warnings), (
        "a crossing was logged without its recovery, or the other way round"
    )


# Waiting


async def test_waiting_for_the_present_state_returns_and_is_a_checkpoint() -> None:
    pressure = Pressure(lag_threshold=5, maxsize=10)
    with assert_checkpoints():
        await pressure.wait_for("ok")


@pytest.mark.parametrize("state", ["", "full", "OK", None, 1])
async def test_waiting_for_what_is_no_state_says_so(state: Any) -> None:
    pressure = Pressure(lag_threshold=5, maxsize=10)
    with pytest.raises(ConfigError, match="pressure is"):
        await pressure.wait_for(state)


async def test_a_state_that_came_and_went_is_not_missed() -> None:
    pressure = Pressure(lag_threshold=5, maxsize=10)
    seen: list[str] = []

    async def watch(state: PressureState) -> None:
        await pressure.wait_for(state)
        seen.append(state)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, "shed")
        nursery.start_soon(watch, "warn")
        await wait_all_tasks_blocked()
        # All in one step: the waiting tasks cannot see the state in between.
        pressure.update(10)
        pressure.update(0)
        await wait_all_tasks_blocked()
        assert seen == ["shed"]
        pressure.update(6)
        pressure.update(0)
    assert seen == ["shed", "warn"]


async def test_a_cancelled_wait_can_be_repeated(autojump_clock: MockClock) -> None:
    pressure = Pressure(lag_threshold=5, maxsize=10)
    with trio.move_on_after(1) as scope:
        await pressure.wait_for("warn")
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pressure.wait_for, "warn")
        await wait_all_tasks_blocked()
        pressure.update(6)


async def test_a_wait_begun_later_does_not_see_what_was_before(autojump_clock: MockClock) -> None:
    pressure = Pressure(lag_threshold=5, maxsize=10)
    pressure.update(10)
    pressure.update(0)
    with trio.move_on_after(1) as scope:
        await pressure.wait_for("shed")
    assert scope.cancelled_caught


# What is said of a full queue that discards nothing


async def test_where_nothing_is_shed_the_log_says_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    pressure = Pressure(lag_threshold=50, maxsize=100, sheds=False)
    # The state is the one that programs wait for, whatever people are told.
    assert states(pressure, 50, 100, 0) == ["warn", "shed", "ok"]
    assert caplog.messages == [
        "pressure.warn: 50 of 100 ticks queued (was ok)",
        "pressure.full: 100 of 100 ticks queued (was warn); the feed waits for room",
        "pressure.ok: 0 of 100 ticks queued (was shed)",
    ]
    assert [vars(record)["pressure"] for record in caplog.records] == ["warn", "shed", "ok"]


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [
        (None, True),
        (tt.Block(), False),
        (tt.Fail(), False),
        (tt.Block(timeout=1), True),
        (tt.DropOldest(), True),
        (tt.Conflate(), True),
        (tt.Throttle(fallback=tt.Block()), False),
        (tt.Throttle(), True),
        ({tt.Tick: tt.Block(), tt.Trade: tt.Fail()}, True),  # books have the default
    ],
)
def test_which_strategies_shed(overflow: Any, expected: bool) -> None:
    assert sheds(overflow, tt.DropNewest(1.0)) is expected
    assert sheds(overflow, tt.Block()) is (
        expected and overflow is not None and not (isinstance(overflow, dict))
    )
