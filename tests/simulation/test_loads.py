"""Loads and services in columns: what is cut, counted, drawn, and refused."""

from __future__ import annotations

import math
from array import array
from random import Random

import pytest

import trio_ticks as tt
from trio_ticks.handlers.kinds import Place
from trio_ticks.simulation.events import Setting
from trio_ticks.simulation.loads import Load, Services
from trio_ticks.simulation.playing import simulate


def load_of(times: list[float], symbols: str | None = None) -> Load:
    of = symbols or "A" * len(times)
    names = tuple(sorted(set(of)))
    return Load(array("d", times), array("H", (names.index(each) for each in of)), names)


def test_a_rate_is_of_the_intervals_between_ticks() -> None:
    load = load_of([0.0, 0.5, 1.0, 2.0])
    assert load.rate == 1.5
    assert load.span_s == 2.0
    assert load.faster(4).rate == 6.0
    assert load_of([1.0, 1.0]).rate == math.inf
    assert load_of([1.0]).rate == 0.0


def test_the_busiest_window_is_found_wherever_it_lies() -> None:
    load = load_of([0.0, 1.0, 1.1, 1.15, 1.19, 3.0])
    assert load.busiest(0.2) == (20.0, 1)
    assert load.busiest(10.0) == (0.6, 0)


def test_a_part_begins_at_its_first_tick() -> None:
    part = load_of([0.0, 1.0, 1.5, 3.0], "ABAB").part(1, 3)
    assert list(part.times) == [0.0, 0.5]
    assert part.counts() == {"A": 1, "B": 1}


def test_windows_are_of_equal_time_and_hold_every_tick_once() -> None:
    load = load_of([0.0, 0.1, 0.2, 8.0, 10.0])
    assert load.windows(10) == [(0, 3), (3, 4), (4, 5)]
    assert load_of([]).windows(10) == []


@pytest.mark.parametrize(
    ("times", "symbols"), [([0.0, 1.0], [0]), ([1.0, 0.5], [0, 0])], ids=["length", "back"]
)
def test_columns_that_make_no_load_are_refused(times: list[float], symbols: list[int]) -> None:
    with pytest.raises(tt.ConfigError):
        Load(array("d", times), array("H", symbols), ("A",))


def test_a_tick_draws_from_what_was_measured_of_its_symbol() -> None:
    load = load_of([float(n) for n in range(200)], "AB" * 100)
    measured = [0.001] * 60 + [0.005] * 60 + [0.009]
    symbols = [0] * 60 + [1] * 60 + [1]
    services = Services.drawn(load, [0.0] * 121, measured, symbols, random=Random(1))
    taken = [services.waits[place] for place in services.places]
    assert set(taken[::2]) == {0.001}
    assert set(taken[1::2]) <= {0.005, 0.009}
    again = Services.drawn(load, [0.0] * 121, measured, symbols, random=Random(1))
    assert list(again.places) == list(services.places)


def test_each_measured_tick_is_drawn_once_before_any_is_drawn_again() -> None:
    load = load_of([float(n) for n in range(1000)], "AB" * 500)
    measured = [float(n) for n in range(200)]
    symbols = [n % 2 for n in range(200)]
    services = Services.drawn(load, [0.0] * 200, measured, symbols, random=Random(3))
    for first in range(0, 1000, 200):
        assert sorted(services.places[first : first + 200]) == list(range(200))
    assert list(services.places[:200]) != list(services.places[200:400])


def test_what_a_symbol_had_by_chance_is_not_its_own() -> None:
    """Two of 400 ticks take a second, both of the same symbol."""
    load = load_of([float(n) for n in range(8000)], "ABCD" * 2000)
    measured = [1.0 if n in (0, 4) else 0.002 for n in range(400)]
    symbols = [n % 4 for n in range(400)]
    services = Services.drawn(load, [0.0] * 400, measured, symbols, random=Random(4))
    slow = [n % 4 for n, place in enumerate(services.places) if measured[place] == 1.0]
    assert len(slow) == 40
    assert set(slow) == {0, 1, 2, 3}


def test_of_many_symbols_none_is_special_by_chance() -> None:
    """Twice, one of forty differs by more than three standard errors here."""
    count = 40
    load = Load(
        array("d", range(20 * count)), array("I", range(count)) * 20, tuple(map(str, range(count)))
    )
    for seed in range(30, 40):
        dice = Random(seed)
        measured = [0.002 * dice.paretovariate(1.5) for _ in range(100 * count)]
        symbols = [dice.randrange(count) for _ in measured]
        services = Services.drawn(load, [0.0] * len(measured), measured, symbols, random=dice)
        drawn = [symbols[place] for place in services.places]
        assert not [symbol for symbol in range(count) if {*drawn[symbol::count]} == {symbol}], seed


def test_a_symbol_that_takes_longer_keeps_its_own() -> None:
    load = load_of([float(n) for n in range(400)], "AB" * 200)
    measured = [(0.004 if n % 2 else 0.001) * (1 + n % 7) for n in range(400)]
    symbols = [n % 2 for n in range(400)]
    services = Services.drawn(load, [0.0] * 400, measured, symbols, random=Random(4))
    assert all(place % 2 == n % 2 for n, place in enumerate(services.places))


def test_a_symbol_of_which_little_was_measured_draws_from_all() -> None:
    load = load_of([float(n) for n in range(100)], "A" * 100)
    services = Services.drawn(load, [0.0] * 4, [1.0, 2.0, 3.0, 4.0], [0, 1, 1, 1], random=Random(2))
    assert set(services.places) == {0, 1, 2, 3}
    with pytest.raises(tt.ConfigError, match="no service was measured"):
        Services.drawn(load, [], [], [], random=Random(2))


def test_means_are_of_the_ticks_and_not_of_the_table() -> None:
    services = Services([0.5, 0.0], [1.0, 3.0], [1, 1, 1, 0], "loop")
    assert services.mean_s() == (3 * 3.0 + 1.5) / 4
    assert services.mean_busy_s() == 0.125
    assert services.scaled(2).mean_s() == 2 * services.mean_s()


def computing(executor: Place, workers: int) -> list[float]:
    """Return the lags of four ticks that come at once and compute for a second each."""
    load = load_of([0.0, 0.0, 0.0, 0.0], "ABCD")
    services = Services([1.0], [0.5], [0, 0, 0, 0], executor)
    outcome = simulate(load, services, Setting(workers=workers))
    assert outcome.handled == 4
    return sorted(outcome.lags)


def test_handlers_that_compute_in_the_loop_begin_one_after_the_other() -> None:
    assert computing("loop", 4) == [0.0, 1.0, 2.0, 3.0]
    assert computing("process", 4) == [0.0, 0.0, 0.0, 0.0]
    # A thread takes its tick at once, and waits for the lock.
    assert computing("thread", 4) == [0.0, 0.0, 0.0, 0.0]
    assert computing("thread", 2) == [0.0, 0.0, 1.5, 2.5]


def test_while_a_handler_computes_in_the_loop_nothing_is_brought() -> None:
    load = load_of([0.0, 0.1, 0.2, 0.3], "AAAA")
    setting = Setting(workers=2, maxsize=1, overflow=tt.DropOldest(), ordering="none")
    in_loop = simulate(load, Services([0.25], [0.0], [0] * 4, "loop"), setting)
    # The second and third come together at 0.25: one evicts the other.
    assert [lag >= 0 for lag in in_loop.lags] == [True, False, True, True]
    assert in_loop.dropped_by_reason["evicted"] == 1
    elsewhere = simulate(load, Services([0.0], [0.25], [0] * 4), setting)
    assert elsewhere.dropped == 0


def test_what_is_lost_is_known_by_symbol_and_stretch() -> None:
    load = load_of([0.0] * 4 + [1.0] * 4, "AABBABAB")
    setting = Setting(workers=1, maxsize=1, overflow=tt.DropNewest(0))
    outcome = simulate(load, Services.each([0.1] * 8), setting)
    assert outcome.lost_by_symbol() == {"B": 4, "A": 2}
    assert outcome.dropped_in(0, 4) == outcome.dropped_in(4, 8) == 0.75
    assert outcome.drop_rate == 0.75
    assert outcome.lag_s(1.0) == 0.0
    assert outcome.ended_s == pytest.approx(1.1)


@pytest.mark.parametrize(
    "settings",
    [{"workers": 0}, {"maxsize": 0}, {"overflow": tt.Fail()}, {"ordering": "price"}],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(tt.ConfigError):
        Setting(**settings)  # type: ignore[arg-type]
