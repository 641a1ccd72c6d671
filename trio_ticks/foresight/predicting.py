"""What a setting is expected to do, and between what and what. Blocks."""

from __future__ import annotations

from random import Random
from typing import Final, final

import attrs

from ..overflow import OverflowStrategy
from ..simulation.jobs import Summary
from ..simulation.loads import Load, Services
from .measuring import Measured
from .plans import Interval, Row
from .simulating import Simulator

__all__ = ["Prediction", "predict"]

_LEAST_DOUBT: Final = 0.025
"""A mean service is believed to this share of itself, however many were measured."""
_INEXACT: Final = 0.05
"""No lag is predicted more exactly than to this share of itself.

A simulation leaves out what else the event loop has to do."""
_DRAWN: Final = 4
"""So many times services are drawn anew.

Where a few ticks take most of the time, it matters which ones follow each other: the
same services in another order lose 3 % more or less."""


@final
@attrs.frozen(slots=True)
class Prediction:
    """What a setting is expected to do."""

    row: Row
    summary: Summary
    drops: Interval
    """Of the drop rate."""
    lags: Interval
    """Of the p99 lag, in seconds."""


def predict(
    measured: Measured,
    load: Load,
    workers: int,
    maxsize: int,
    overflow: OverflowStrategy,
    simulator: Simulator,
    seed: int,
) -> Prediction:
    """Simulate a setting, also with services a little shorter and longer, and others.

    What is expected is the middle one of those with the services as they were measured,
    each time in another order.

    Args:
        measured: what handling costs.
        load: as it was recorded.
        workers: of the setting.
        maxsize: of the setting.
        overflow: of the setting.
        simulator: runs the simulations.
        seed: of the services that are drawn.

    Raises:
        TickError: a process that simulates has ended.
    """
    doubt = max(_LEAST_DOUBT, 2 * measured.error)
    services: dict[str, Services] = {
        str(number or ""): measured.services(load, Random(seed + number))
        for number in range(_DRAWN + 1)
    }
    jobs = [
        *(simulator.job(workers, maxsize, overflow, services=name) for name in services),
        simulator.job(workers, maxsize, overflow, scale=1 - doubt),
        simulator.job(workers, maxsize, overflow, scale=1 + doubt),
    ]
    found = simulator.run("simulating doubts", jobs, load, services)
    rows = [row for row, _ in found]
    middle = sorted(found[: len(services)], key=_by_loss)[len(services) // 2]
    return Prediction(
        *middle,
        Interval.of([row.drop_rate for row in rows]),
        Interval.of(
            [row.p99_lag_s * (1 + each) for row in rows for each in (-_INEXACT, 0.0, _INEXACT)]
        ),
    )


def _by_loss(found: tuple[Row, Summary]) -> tuple[float, float]:
    row = found[0]
    return row.drop_rate + row.conflated_rate, row.p99_lag_s
