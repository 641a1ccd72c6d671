"""What it takes if the ticks come faster than they were recorded."""

from __future__ import annotations

from random import Random
from typing import Final

from ..overflow import OverflowStrategy
from ..simulation.loads import Load
from .choosing import lowest, room_for, workers_around
from .measuring import Measured
from .plans import Growth, Row
from .simulating import UNBOUNDED, Simulator, Wishes

__all__ = ["simulate_growth"]

_FACTORS: Final = (1.0, 2.0, 5.0, 10.0)
_TICKS: Final = 200_000
"""It is simulated on so many ticks at most, the busiest ones: there are nearly as many
simulations as for the table."""


def simulate_growth(
    load: Load,
    measured: Measured,
    chosen: Row,
    overflow: OverflowStrategy,
    wishes: Wishes,
    simulator: Simulator,
) -> tuple[list[Growth], dict[str, float], float | None]:
    """Simulate higher rates.

    Args:
        load: as it was recorded.
        measured: what handling costs.
        chosen: the advised workers and queue.
        overflow: the advised strategy.
        wishes: what is asked for.
        simulator: runs the simulations.

    Returns:
        A growth for each rate; and the share of its ticks that each symbol loses at the
        highest rate at which any does, with that rate.
    """
    part = _busiest_part(load)
    services = {"": measured.services(part, Random(wishes.seed))}
    target, mean_s = wishes.target, services[""].mean_s()
    jobs, counts = [], []
    for factor in _FACTORS:
        whole = factor * target.factor
        numbers = wishes.workers or workers_around(part, mean_s, whole, wishes.most_workers)
        # Those that are advised may still do, where the strategy lets ticks go.
        numbers = tuple(sorted({chosen.workers, *numbers}))
        counts.append(len(numbers))
        jobs.append(simulator.job(chosen.workers, chosen.maxsize, overflow, factor=whole))
        jobs += [simulator.job(each, UNBOUNDED, overflow, factor=whole) for each in numbers]
    results = iter(simulator.run("simulating higher rates", jobs, part, services))
    growth: list[Growth] = []
    losers: dict[str, float] = {}
    losers_factor = None
    totals = part.counts()
    for factor, count in zip(_FACTORS, counts, strict=True):
        unchanged, summary = next(results)
        if unchanged.drop_rate:
            losers_factor = factor
            losers = {name: lost / totals[name] for name, lost in summary.lost_by_symbol.items()}
        fitting = lowest([next(results)[0] for _ in range(count)], target)
        if unchanged.meets(target) and (fitting is None or fitting.workers >= chosen.workers):
            needed: tuple[int | None, int | None] = (chosen.workers, chosen.maxsize)
        else:
            needed = (None, None) if fitting is None else (fitting.workers, room_for(fitting.peak))
        growth.append(
            Growth(
                factor=factor,
                unchanged=unchanged,
                workers=needed[0],
                maxsize=needed[1],
            )
        )
    return growth, losers, losers_factor


def _busiest_part(load: Load) -> Load:
    if len(load) <= _TICKS:
        return load
    begin = load.busiest(load.span_s * _TICKS / len(load))[1]
    return load.part(begin, min(begin + _TICKS, len(load)))
