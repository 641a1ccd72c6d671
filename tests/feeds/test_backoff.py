"""The schedule of reconnecting, and what may be asked for in Retry-After."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ticks.errors import ConfigError
from trio_ticks.feeds.websocket.backoff import Backoff, BackoffPolicy, parse_retry_after

NOW = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def test_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(BackoffPolicy(), lambda: 1.0)
    assert [backoff.next_delay() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert backoff.failures == 9


def test_full_jitter() -> None:
    draws: Iterator[float] = iter([0.0, 0.5, 0.25, 0.75])
    backoff = Backoff(BackoffPolicy(), lambda: next(draws))
    assert [backoff.next_delay() for _ in range(4)] == [0, 1, 1, 6]


def test_reset_starts_over() -> None:
    backoff = Backoff(BackoffPolicy(), lambda: 1.0)
    for _ in range(5):
        backoff.next_delay()
    backoff.reset()
    assert backoff.failures == 0
    assert [backoff.next_delay() for _ in range(3)] == [1, 2, 4]


def test_retry_after_is_a_lower_bound() -> None:
    backoff = Backoff(BackoffPolicy(), lambda: 1.0)
    assert backoff.next_delay(retry_after=7.0) == 7
    assert backoff.next_delay(retry_after=0.5) == 2
    # It does not stand in for the schedule, which moves on.
    assert backoff.next_delay() == 4


@pytest.mark.parametrize("asked", [301.0, 1e9, math.inf])
def test_retry_after_is_bounded(asked: float) -> None:
    assert Backoff(BackoffPolicy(), lambda: 0.5).next_delay(retry_after=asked) == 300
    assert (
        Backoff(BackoffPolicy(max_retry_after_s=5), Random(0).random).next_delay(retry_after=asked)
        == 5
    )


@given(
    st.floats(0.001, 1e3),
    st.floats(0.001, 1e6),
    st.lists(st.floats(0, 1, exclude_max=True), max_size=50),
)
def test_bounds(initial: float, maximum: float, draws: list[float]) -> None:
    initial, maximum = sorted((initial, maximum))
    values = iter(draws)
    backoff = Backoff(BackoffPolicy(initial_s=initial, maximum_s=maximum), lambda: next(values))
    for number, draw in enumerate(draws):
        delay = backoff.next_delay()
        assert 0 <= delay <= maximum
        assert delay == pytest.approx(min(initial * 2.0**number, maximum) * draw)


def test_the_policy_may_have_a_chance_of_its_own() -> None:
    backoff = Backoff(BackoffPolicy(uniform=lambda: 0.25), lambda: 1.0)
    assert backoff.next_delay() == 0.25


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "1", None])
@pytest.mark.parametrize("field", ["initial_s", "maximum_s", "max_retry_after_s"])
def test_bad_policies(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        BackoffPolicy(**{field: value})  # type: ignore[arg-type]


def test_first_longer_than_last() -> None:
    with pytest.raises(ConfigError, match="must not exceed"):
        BackoffPolicy(initial_s=10, maximum_s=5)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("9" * 400, math.inf),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0),
        ("Mon, 02 Mar 2026 14:31:00 GMT", 60),
        ("Monday, 02-Mar-26 14:31:00 GMT", 60),
        ("Mon Mar  2 14:31:00 2026", 60),
        ("Mon, 02 Mar 2026 15:31:00 +0100", 60),
    ],
)
def test_retry_after(value: str, seconds: float) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "1.5",
        "soon",
        "1e3",
        "²",
        "Mon, 99 Mar 2026 14:31:00 GMT",
        "Fri, 31 Dec 99999 00:00:00 GMT",
    ],
)
def test_unusable_retry_after(value: str) -> None:
    assert parse_retry_after(value, NOW) is None


@given(st.text())
def test_no_retry_after_raises(value: str) -> None:
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0
