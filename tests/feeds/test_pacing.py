"""A limit on how often something may happen."""

from __future__ import annotations

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from trio_ticks.feeds.websocket.pacing import Pace


def test_no_limit() -> None:
    pace = Pace(None, 1.0)
    assert [pace.reserve(5.0) for _ in range(1000)] == [5.0] * 1000


def test_as_many_at_once_as_allowed_and_the_others_later() -> None:
    pace = Pace(3, 2.0)
    assert [pace.reserve(10.0) for _ in range(8)] == [10, 10, 10, 12, 12, 12, 14, 14]


def test_the_window_slides() -> None:
    pace = Pace(2, 1.0)
    assert [pace.reserve(now) for now in (0.0, 0.75, 0.8, 1.5, 5.0, 5.0, 5.0)] == [
        0.0,
        0.75,
        1.0,
        1.75,
        5.0,
        5.0,
        6.0,
    ]


@given(
    st.integers(1, 5), st.sampled_from([0.5, 1.0, 60.0]), st.lists(st.integers(0, 40), max_size=60)
)
def test_never_more_in_any_window_and_never_needlessly_late(
    count: int, span_s: float, quarters: list[int]
) -> None:
    # Quarters of a second, so that sums are exact.
    times = list(accumulate(quarter / 4 for quarter in quarters))
    pace = Pace(count, span_s)
    moments = [pace.reserve(now) for now in times]
    assert all(moment >= now for moment, now in zip(moments, times, strict=True))
    assert all(a <= b for a, b in pairwise(moments))
    for earlier, later in zip(moments, moments[count:], strict=False):
        assert later - earlier >= span_s
    for number, moment in enumerate(moments):
        earliest = moments[number - count] + span_s if number >= count else 0.0
        assert moment == max(times[number], earliest)
