"""The weekly hours of a market, in its own time zone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import trio_ticks as tt

NEW_YORK = tt.MarketHours("America/New_York", "mon-fri 09:30-16:00")


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-03-02T14:29", False),  # a Monday, in winter time
        ("2026-03-02T14:30", True),
        ("2026-03-02T20:59", True),
        ("2026-03-02T21:00", False),
        ("2026-03-09T13:30", True),  # a Monday, in summer time
        ("2026-03-09T13:29", False),
        ("2026-03-07T15:00", False),  # a Saturday
    ],
)
def test_a_stock_exchange(moment: str, is_open: bool) -> None:
    assert NEW_YORK(datetime.fromisoformat(moment).replace(tzinfo=UTC)) is is_open


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-03-01T21:59", False),  # a Sunday
        ("2026-03-01T22:00", True),
        ("2026-03-02T03:00", True),  # the night that began on Sunday
        ("2026-03-02T20:59", True),
        ("2026-03-02T21:30", False),
        ("2026-03-06T20:00", True),  # a Friday
        ("2026-03-06T23:00", False),
    ],
)
def test_hours_over_midnight_and_over_the_end_of_the_week(moment: str, is_open: bool) -> None:
    hours = tt.MarketHours("UTC", ["sun-thu 22:00-21:00"])
    assert hours(datetime.fromisoformat(moment).replace(tzinfo=UTC)) is is_open


def test_several_hours_and_a_whole_day() -> None:
    hours = tt.MarketHours("UTC", ["sat 00:00-24:00", "mon 09:00-12:00", "mon 13:00-15:00"])
    found = [
        hour
        for hour in range(24)
        if hours(datetime(2026, 3, 2, hour, 30, tzinfo=UTC))  # a Monday
    ]
    assert found == [9, 10, 11, 13, 14]
    assert all(hours(datetime(2026, 3, 7, hour, tzinfo=UTC)) for hour in range(24))


@pytest.mark.parametrize(
    ("zone", "hours", "match"),
    [
        ("Mars/Olympus", "mon 09:00-12:00", "zone must be a time zone"),
        (3, "mon 09:00-12:00", "zone"),
        ("UTC", "monday 09:00-12:00", "mon-fri 09:30-16:00"),
        ("UTC", "mon 9-12", "mon-fri 09:30-16:00"),
        ("UTC", "mon 09:00-25:00", "mon-fri 09:30-16:00"),
        ("UTC", "xxx 09:00-12:00", "mon-fri 09:30-16:00"),
        ("UTC", [], "at least one"),
        ("UTC", [3], "mon-fri 09:30-16:00"),
    ],
)
def test_wrong_hours(zone: Any, hours: Any, match: str) -> None:
    with pytest.raises(tt.ConfigError, match=match):
        tt.MarketHours(zone, hours)
