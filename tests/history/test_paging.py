"""Pages by time: every bar once, in order, whatever a venue does with a range."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_ticks as tt
from trio_ticks.history.intervals import Interval, find_interval, to_ms
from trio_ticks.history.paging import Pages, Row, StrangeRangeError

MINUTE = Interval("1m", 60_000, 60_000)
BEGIN = 1_700_000_040_000 // 60_000 * 60_000


def row(slot: int) -> Row:
    return Row(BEGIN + slot * 60_000, 1.0, 1.0, 1.0, 1.0, float(slot))


def bar_at(open_ms: int) -> Row:
    return Row(open_ms, 1.0, 1.0, 1.0, 1.0, 1.0)


@attrs.define
class Server:
    """Has bars at *slots*, and ways of its own."""

    slots: Sequence[int]
    cap: int
    newest: bool = False
    first_open: bool = False
    last_open: bool = False
    asked: int = 0

    def get(self, first: int, last: int) -> list[Row]:
        self.asked += 1
        assert self.asked < 5000
        begin, end = ((moment - BEGIN) / 60_000 for moment in (first, last))
        left = (bisect_right if self.first_open else bisect_left)(self.slots, begin)
        right = (bisect_left if self.last_open else bisect_right)(self.slots, end)
        if right - left > self.cap:
            left, right = (right - self.cap, right) if self.newest else (left, left + self.cap)
        return [row(slot) for slot in self.slots[left:right]]


def read(server: Server, start: int, end: int, limit: int) -> list[int]:
    pages = Pages(BEGIN + start * 60_000, BEGIN + end * 60_000, MINUTE, limit)
    found: list[Row] = []
    complete = pages.complete_ms
    while (window := pages.window()) is not None:
        new = pages.take(server.get(*window))
        assert all(complete <= each.open_ms for each in new[:1])
        assert all(each.open_ms < pages.complete_ms for each in new[-1:])
        assert pages.complete_ms >= complete
        complete = pages.complete_ms
        found += new
    assert complete == BEGIN + end * 60_000
    return [round(each.volume) for each in found]


@given(
    gaps=st.lists(st.one_of(st.just(1), st.integers(1, 3), st.integers(1, 300)), max_size=60),
    limit=st.integers(4, 12),
    cap=st.integers(4, 12),
    newest=st.booleans(),
    first_open=st.booleans(),
    last_open=st.booleans(),
    start=st.integers(0, 40),
    length=st.integers(1, 2000),
)
def test_every_bar_comes_once_and_in_order(
    gaps: list[int],
    limit: int,
    cap: int,
    newest: bool,
    first_open: bool,
    last_open: bool,
    start: int,
    length: int,
) -> None:
    slots, at = [], 0
    for gap in gaps:
        at += gap
        slots.append(at)
    server = Server(slots, min(cap, limit), newest, first_open, last_open)
    wanted = [slot for slot in slots if start <= slot < start + length]
    assert read(server, start, start + length, limit) == wanted


@pytest.mark.parametrize("newest", [False, True])
def test_a_series_without_gaps_costs_a_request_a_page(newest: bool) -> None:
    server = Server(range(20_000), 1000, newest=newest)
    assert read(server, 0, 20_000, 1000) == list(range(20_000))
    assert server.asked <= 22


@pytest.mark.parametrize("newest", [False, True])
def test_long_gaps_are_crossed_in_few_requests(newest: bool) -> None:
    slots = [*range(100), *range(500_000, 500_100)]
    server = Server(slots, 1000, newest=newest)
    assert read(server, 0, 600_000, 1000) == slots
    assert server.asked <= 30


def test_sessions_fill_pages_in_the_end() -> None:
    day = 1440
    slots = [each * day + minute for each in range(250) for minute in range(390)]
    server = Server(slots, 1000)
    assert read(server, 0, 250 * day, 1000) == slots
    assert server.asked <= 140


def test_an_empty_range_ends() -> None:
    server = Server([], 1000)
    assert read(server, 0, 100_000, 1000) == []
    assert server.asked <= 10


def test_a_venue_that_ignores_the_range_is_noticed() -> None:
    pages = Pages(BEGIN, BEGIN + 60_000_000, MINUTE, 10)
    with pytest.raises(StrangeRangeError):
        pages.take([row(5000), row(5001)])


@pytest.mark.parametrize("at_once", [False, True])
def test_a_venue_with_a_bar_a_millisecond_is_not_asked_without_end(at_once: bool) -> None:
    pages = Pages(BEGIN, BEGIN + 60_000_000, MINUTE, 10)
    near = [bar_at(BEGIN + ms) for ms in range(3)]
    if not at_once:
        pages.take(near[:1])
    with pytest.raises(StrangeRangeError, match="too close"):
        pages.take(near if at_once else near[:2])


def test_a_bar_that_a_session_cuts_short_is_none_too_close() -> None:
    """A session from 09:45 on has a bar of 15 minutes before that of 10:00."""
    half_hour = Interval("30m", 1_800_000, 1_800_000)
    pages = Pages(BEGIN, BEGIN + 3_600_000, half_hour, 10)
    bars = [bar_at(BEGIN + minute * 60_000) for minute in (0, 15, 45)]
    assert pages.take(bars) == bars


def test_a_month_ends_where_the_next_begins() -> None:
    month = find_interval("1M", ("1M",), "x")
    for year, number, after in [(2024, 1, (2024, 2)), (2024, 2, (2024, 3)), (2023, 12, (2024, 1))]:
        begin = to_ms(datetime(year, number, 1, tzinfo=UTC))
        assert month.end_ms(begin) == to_ms(datetime(*after, 1, tzinfo=UTC))
    day = find_interval("1d", ("1d",), "x")
    assert day.end_ms(BEGIN) == BEGIN + 86_400_000


def test_an_unknown_interval_lists_those_that_there_are() -> None:
    with pytest.raises(tt.ConfigError, match="one of tickdb's: 1m, 1h; got '7m'"):
        find_interval("7m", ("1m", "1h"), "tickdb")
