"""When a sink takes more ticks, while its window is nearly full."""

from __future__ import annotations

import pytest

from trio_ticks.brokers.zeromq.filling import Filling

WINDOW = 16_384


def played(filling: Filling, begin: int, rate: float, *, until_s: float = 1.0) -> tuple[float, int]:
    """Return when ticks are taken, and how many, if *rate* find room in a second."""
    now, room = 0.0, begin
    while now < until_s and (wait_s := filling.wait_s(room, now)):
        # Whoever waits is woken when there is enough.
        now += min(wait_s, (filling.enough - room) / rate if rate else wait_s)
        room = min(WINDOW, begin + round(rate * now))
    return now, room


def test_with_half_of_the_window_nothing_is_waited_for() -> None:
    assert Filling(WINDOW, WINDOW, 0.0).wait_s(WINDOW // 2, 0.0) == 0.0
    assert Filling(1, 0, 0.0).wait_s(1, 0.0) == 0.0


@pytest.mark.parametrize("rate", [0.0, 100.0, 45_000.0])
def test_a_slow_handler_keeps_the_room_from_others_for_a_moment_only(rate: float) -> None:
    when, room = played(Filling(WINDOW, 10, 0.0), 10, rate)
    assert when == pytest.approx(0.02)
    assert 0 < room < 1024


def test_a_window_that_drains_quickly_is_left_to_drain_to_the_half() -> None:
    when, room = played(Filling(WINDOW, 10, 0.0), 10, 120_000.0)
    assert room >= WINDOW // 2
    assert when < 0.1


def test_that_is_bounded_too() -> None:
    when, room = played(Filling(WINDOW, 10, 0.0), 10, 60_000.0)
    assert when == pytest.approx(0.1)
    assert 5000 < room < WINDOW // 2


def test_a_small_window_gains_nothing_and_does_not_wait() -> None:
    filling = Filling(8, 1, 0.0)
    assert filling.wait_s(1, 0.0) == pytest.approx(0.02)
    assert filling.wait_s(3, 0.02) == 0.0


def test_room_that_comes_late_is_waited_for_from_when_it_came() -> None:
    filling = Filling(WINDOW, 0, 0.0)
    filling.full(5.0)
    # A worker has told of a fourth of what it takes ahead at once: the rest follows.
    assert filling.wait_s(2048, 5.0) == pytest.approx(0.02)
    assert filling.wait_s(4096, 5.02) == pytest.approx(0.02)
    assert filling.wait_s(4100, 5.04) == 0.0
    late = Filling(WINDOW, 0, 0.0)
    late.full(5.0)
    # What a slow handler has let go of goes on at once.
    assert late.wait_s(1, 5.0) == 0.0
