"""The moments that venues' times in milliseconds stand for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ticks.feeds.venues.moments import moment_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_MS = -62_135_596_800_000
LAST_MS = 253_402_300_799_999


@given(st.integers(FIRST_MS, LAST_MS))
def test_it_is_exact_over_all_of_the_calendar(milliseconds: int) -> None:
    moment = moment_of(milliseconds)
    assert moment == EPOCH + timedelta(milliseconds=milliseconds)
    assert moment.tzinfo is UTC


def test_the_moments_of_neighbouring_seconds_are_their_own() -> None:
    # More seconds than are kept, each of them again and again.
    times = [1_723_161_255_999 + step * second for second in range(200) for step in (1, 1000, 3)]
    assert [moment_of(time) for time in times] == [
        EPOCH + timedelta(milliseconds=time) for time in times
    ]


@pytest.mark.parametrize("milliseconds", [FIRST_MS - 1, LAST_MS + 1, -(10**30), 10**30])
def test_outside_the_calendar(milliseconds: int) -> None:
    with pytest.raises(ValueError, match="calendar"):
        moment_of(milliseconds)
