"""Advice to a running pipeline: from counters that are made up, and in a real one."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import attrs
import pytest

import trio_ticks as tt
from trio_ticks.handlers.kinds import Place
from trio_ticks.metrics.advice import NOW, advice_text
from trio_ticks.metrics.latency import LatencyWindow
from trio_ticks.simulation.events import Setting
from trio_ticks.simulation.live import Present, advise
from trio_ticks.simulation.loads import Load, Services
from trio_ticks.simulation.playing import simulate
from trio_ticks.simulation.recent import EVERY_S, Look, Recent, services


class Past:
    """A minute of a pipeline, of which the counters were looked at.

    Args:
        rate: ticks a second; every fifth second has *burst* times as many.
        burst: see *rate*.
        service_s: of each tick.
        lost: the share that was lost in the seconds with bursts.
    """

    def __init__(
        self, rate: float, burst: float, service_s: float, lost: float, symbols: str = "ABCD"
    ) -> None:
        self.recent = Recent()
        window = LatencyWindow()
        produced = dropped = 0.0
        for number in range(3000):
            at = number * EVERY_S
            bursts = int(at) % 5 == 4
            here = rate * EVERY_S * (burst if bursts else 1.0)
            produced += here
            dropped += here * lost if bursts else 0.0
            handled = int(produced) - int(dropped)
            look = Look(
                at=at,
                produced=int(produced),
                lost=int(dropped),
                handled=handled,
                busy_s=handled * service_s,
                thread_s=at * 0.1,
            )
            self.recent.note(look, symbols[number % len(symbols)])
        for _ in range(1000):
            window.record(service_s, 1.0)
        self.counts = window.counts()

    def advice(self, present: Present) -> Mapping[str, float]:
        pieces = list(advise(present, self.recent, self.counts, Random(1), 50))
        assert all(piece is None for piece in pieces[:-1])
        assert pieces[-1] is not None
        return pieces[-1]


def present(peak: int = 1, *, sizes_itself: bool = False, **settings: object) -> Present:
    return Present(
        setting=Setting(**settings),  # type: ignore[arg-type]
        executor="loop",
        per_batch=1.0,
        peak=peak,
        sizes_itself=sizes_itself,
    )


def test_more_workers_or_a_longer_queue_would_have_avoided_losses() -> None:
    # 2,000 a second for a second, and 4 workers take 1,000.
    past = Past(400, 5, 0.004, lost=0.45)
    now = present(workers=4, maxsize=100, overflow=tt.DropNewest(0), ordering="none")
    shares = past.advice(now)
    assert shares[NOW] == pytest.approx(0.4, abs=0.15)
    # What users see beside their drops is what was counted, and not its simulation.
    first, *_, last = past.recent.stretch()
    counted = (last.lost - first.lost) / (last.produced - first.produced)
    assert shares[NOW] == pytest.approx(counted)
    changes = [change for change in shares if change != NOW]
    assert any(change.startswith("workers=") for change in changes)
    assert any(change.startswith("maxsize=") for change in changes)
    for change in changes:
        assert shares[change] < shares[NOW] / 2
    text = advice_text(shares)
    assert text is not None
    assert text.startswith("lost with ")
    assert "instead of" in text


def test_a_pool_that_sizes_itself_is_not_told_how_many_workers_to_have() -> None:
    past = Past(400, 5, 0.004, lost=0.45)
    now = present(
        workers=4, maxsize=100, overflow=tt.DropNewest(0), ordering="none", sizes_itself=True
    )
    assert not any(change.startswith("workers") for change in past.advice(now))


def test_a_load_that_the_simulation_does_not_know_gets_no_advice() -> None:
    # So much was lost, though the workers have time: something else is wrong.
    past = Past(400, 5, 0.000_1, lost=0.45)
    assert past.advice(present(workers=4, maxsize=1000)) == {}


def test_settings_that_are_too_generous_are_told_smaller_ones() -> None:
    past = Past(400, 1.2, 0.004, lost=0)
    shares = past.advice(present(peak=20, workers=16, maxsize=1000, ordering="none"))
    assert shares == {NOW: 0.0, "maxsize=30": 0.0, "workers=4": 0.0}
    assert advice_text(shares) == "maxsize=30 or workers=4 would do as well"
    # What is needed is not called generous.
    assert past.advice(present(peak=800, workers=2, maxsize=1000, ordering="none")) == {}


@pytest.mark.parametrize(("executor", "hand_over_s"), [("loop", 0.0), ("thread", 0.003)])
def test_what_a_batch_costs_is_known_of_threads(executor: Place, hand_over_s: float) -> None:
    """A worker is busy for a millisecond more than its handler, in batches of three."""
    past = Past(400, 1, 0.004, lost=0)
    stretch = [attrs.evolve(look, busy_s=look.handled * 0.005) for look in past.recent.stretch()]
    load = past.recent.load(stretch, Random(1))
    found = services(stretch, past.counts, load, executor, 3.0, Random(1))
    assert found is not None
    assert found.executor == executor
    assert found.hand_over_s == pytest.approx(hand_over_s, rel=0.2)
    assert found.mean_s() == pytest.approx(0.005, rel=1e-3)


def test_nothing_is_advised_of_nothing() -> None:
    assert list(advise(present(), Recent(), [], Random(1), 50)) == [{}]
    assert advice_text({}) is None
    assert advice_text({NOW: 0.2}) is None


def test_what_is_kept_is_bounded() -> None:
    recent = Recent()
    for number in range(10_000):
        recent.note(Look(number * EVERY_S, number * 100, 0, 0, 0.0, 0.0), f"S{number}")
    stretch = recent.stretch()
    load = recent.load(stretch, Random(1))
    assert 5_900 <= len(load) <= 6_000
    assert len(load.names) == 1000


def test_the_words_of_small_shares() -> None:
    text = advice_text({NOW: 0.031, "maxsize=4000": 0.0004, "workers=6": 0.0})
    assert text == "lost with maxsize=4000: 0.04% instead of 3.1%; with workers=6: nothing"


def test_a_simulation_in_pieces_is_the_same() -> None:
    from array import array

    from trio_ticks.simulation.events import EventLoop

    dice = Random(3)
    times = array("d", sorted(dice.random() for _ in range(500)))
    load = Load(times, array("I", (dice.randrange(3) for _ in times)), ("A", "B", "C"))
    drawn = Services.each([dice.expovariate(300) for _ in times])
    setting = Setting(workers=1, maxsize=10, overflow=tt.DropOldest())
    loop = EventLoop(load, drawn, setting)
    while loop.advance(7):
        pass
    assert loop.outcome() == simulate(load, drawn, setting)
