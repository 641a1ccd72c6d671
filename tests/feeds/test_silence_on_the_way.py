"""Which symbols count as silent, and from when on."""

from __future__ import annotations

from trio_ticks.feeds.silence import SymbolWatch


class World:
    """A watch of two symbols that come every two seconds, and what it reports."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, bool, float]] = []
        self.watch = SymbolWatch(lambda *report: self.reports.append(report))
        self.watch.watch("AB", 0.0)

    def come(self, symbols: str, first: float, last: float) -> None:
        now = first
        while now <= last:
            self.watch.arrived(symbols, now)
            now += 2


def test_silence_counts_from_the_last_arrival() -> None:
    world = World()
    world.come("AB", 0.0, 98.0)
    # It is checked just before the last arrival, and not again for a while.
    world.watch.check(99.9)
    world.watch.arrived("AB", 100.0)
    assert world.watch.check(109.9) == 140.0
    assert world.watch.check(139.9) == 140.0
    world.watch.check(140.0)
    assert world.reports == [("A", True, 40.0), ("B", True, 40.0)]


def test_what_another_symbol_does_is_no_arrival() -> None:
    world = World()
    world.come("AB", 0.0, 100.0)
    world.watch.check(100.1)
    world.watch.arrived("A", 100.2)
    world.watch.arrived("B", 130.0)
    assert world.watch.check(130.0) == 140.2


def test_a_symbol_that_is_back_is_reported_at_once() -> None:
    world = World()
    world.come("AB", 0.0, 100.0)
    world.come("A", 102.0, 160.0)
    world.watch.check(160.0)
    world.watch.arrived("B", 161.0)
    assert world.reports == [("B", True, 60.0), ("B", False, 61.0)]
