"""A pipeline's clock: wall time goes with trio's, and may begin with a recording."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
import trio
from trio.testing import MockClock

from trio_ticks.clock import Clock, monotonic, new_random, system_utc

THEN = datetime(2024, 8, 8, 23, 54, 14, tzinfo=UTC)


def test_wall_time_is_time_plus_an_offset() -> None:
    clock = Clock(lambda: 5.0, wall_s=THEN.timestamp())
    assert clock.now() == 5.0
    assert clock.wall() == THEN.timestamp()
    assert clock.offset_s == THEN.timestamp() - 5.0
    assert clock.utc() == THEN
    assert clock.utc_at(7.5) == THEN + timedelta(seconds=2.5)


async def test_a_virtual_clock_rules_wall_time_too(autojump_clock: MockClock) -> None:
    before = datetime.now(UTC)
    clock = Clock()
    began = clock.utc()
    assert before <= began + timedelta(microseconds=1)
    assert began <= datetime.now(UTC) + timedelta(microseconds=1)
    await trio.sleep(3600)
    assert clock.utc() - began == timedelta(hours=1)


async def test_virtual_wall_time_may_begin_where_a_recording_does(
    autojump_clock: MockClock,
) -> None:
    await trio.sleep(7)
    clock = Clock()
    assert clock.is_virtual
    clock.begin_at(THEN.timestamp())
    assert clock.utc() == THEN
    await trio.sleep(0.25)
    assert clock.utc() == THEN + timedelta(seconds=0.25)


async def test_the_systems_wall_time_begins_nowhere_else() -> None:
    clock = Clock()
    assert not clock.is_virtual
    offset_s = clock.offset_s
    clock.begin_at(THEN.timestamp())
    assert clock.offset_s == offset_s


async def test_it_can_be_read_in_any_thread(autojump_clock: MockClock) -> None:
    clock, seen = Clock(), list[datetime]()
    thread = threading.Thread(target=lambda: seen.append(clock.utc()))
    thread.start()
    thread.join()
    assert seen == [clock.utc()]


def test_made_before_trio_runs_it_begins_inside() -> None:
    clock = Clock()

    async def main() -> None:
        await trio.sleep(10)
        assert clock.is_virtual
        clock.begin_at(1.0)
        await trio.sleep(10)
        assert clock.wall() == 11.0
        assert clock.now() == trio.current_time()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_what_has_no_pipeline_reads_the_systems() -> None:
    assert system_utc() <= datetime.now(UTC)
    assert monotonic() <= monotonic()


def test_chance_differs_from_source_to_source() -> None:
    assert new_random().random() != new_random().random()


@pytest.mark.parametrize("wall_s", [0.0, 1.0])
def test_a_wall_time_given_is_that_of_the_beginning(wall_s: float) -> None:
    now = 100.0
    clock = Clock(lambda: now, wall_s)
    now = 103.0
    assert clock.wall() == wall_s + 3.0
