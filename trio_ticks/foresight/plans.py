"""A plan: what was measured, what was simulated, and what is advised. Plain values.

Rules: nothing is computed here but shares and sums. Times are in seconds, as their
names say; a lag counts from when a tick came to when its handling began.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, final

import attrs

from ..overflow import OverflowStrategy
from ..simulation.jobs import Summary
from .measuring import Measured

__all__ = [
    "Advice",
    "Elsewhere",
    "Findings",
    "Growth",
    "Interval",
    "Row",
    "Target",
    "Verified",
    "strategy_text",
]


def strategy_text(strategy: OverflowStrategy) -> str:
    """Return a strategy as one would write it, without what it has by default."""
    given = (
        f"{field.name}={getattr(strategy, field.name)!r}"
        for field in attrs.fields(type(strategy))
        if getattr(strategy, field.name) != field.default
    )
    return f"{type(strategy).__name__}({', '.join(given)})"


@final
@attrs.frozen(slots=True, kw_only=True)
class Target:
    """What is asked for."""

    max_drop_rate: float
    """The share of the ticks that may be lost, from 0 to 1."""
    p99_lag_s: float
    """How late the handling of all but one in a hundred ticks may begin, in seconds."""
    factor: float
    """How many times as fast as in the recording the ticks come."""


@final
@attrs.frozen(slots=True, kw_only=True)
class Row:
    """What one setting was simulated to do."""

    workers: int
    maxsize: int
    overflow: str
    factor: float
    drop_rate: float
    """The share of the ticks that are lost; conflated and stale ones are not."""
    conflated_rate: float
    """The share that is replaced by a newer tick of its symbol, or too old."""
    p50_lag_s: float
    p99_lag_s: float
    max_lag_s: float
    peak: int
    """Most ticks that were ever queued."""
    utilisation: float
    """The share of the time in which the average worker was occupied, from 0 to 1."""

    @classmethod
    def of(
        cls,
        summary: Summary,
        *,
        workers: int,
        maxsize: int,
        overflow: OverflowStrategy,
        factor: float,
    ) -> Row:
        """Return the row of a simulation's outcome."""
        lost, missed = summary.unwanted_drop_rate, summary.drop_rate
        return cls(
            workers=workers,
            maxsize=maxsize,
            overflow=strategy_text(overflow),
            factor=factor,
            drop_rate=lost,
            conflated_rate=missed - lost,
            p50_lag_s=summary.p50_lag_s,
            p99_lag_s=summary.p99_lag_s,
            max_lag_s=summary.max_lag_s,
            peak=summary.peak,
            utilisation=summary.utilisation,
        )

    def meets(self, target: Target) -> bool:
        """Tell whether it does what is asked for."""
        return self.drop_rate <= target.max_drop_rate and self.p99_lag_s <= target.p99_lag_s


@final
@attrs.frozen(slots=True)
class Interval:
    """Between what and what a figure is expected."""

    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Interval:
        """Return the interval that *values* span; of NaN if there are none."""
        known = [value for value in values if not math.isnan(value)]
        return cls(min(known), max(known)) if known else cls(math.nan, math.nan)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@final
@attrs.frozen(slots=True, kw_only=True)
class Growth:
    """What it takes if the ticks come faster."""

    factor: float
    unchanged: Row
    """What the advised setting does then."""
    workers: int | None
    """How many workers the target takes then; ``None``: none of those tried will do."""
    maxsize: int | None
    """How many ticks the queue has to hold then; ``None``: as for ``workers``."""


@final
@attrs.frozen(slots=True)
class Elsewhere:
    """What was simulated with the handler in another place."""

    executor: str
    row: Row


@final
@attrs.frozen(slots=True, kw_only=True)
class Advice:
    """The settings to use."""

    workers: int
    maxsize: int
    write_timeout: float
    lag_threshold: int
    executor: str
    overflow: OverflowStrategy
    ordering: str
    met: bool
    """Whether they do what is asked for, as far as is known."""

    def settings(self) -> dict[str, Any]:
        """Return them as keyword arguments of :func:`~trio_ticks.open_pipeline`."""
        fields = attrs.asdict(self, recurse=False)
        del fields["met"]
        return fields


@final
@attrs.frozen(slots=True, kw_only=True)
class Verified:
    """What one real run of the pipeline did, on the same stretch as a simulation."""

    drop_rate: float
    conflated_rate: float
    p99_lag_s: float
    ticks: int
    others_cores: float | None
    """How many cores other programs used meanwhile; ``None``: not known."""


@attrs.frozen(slots=True, kw_only=True)
class Findings:
    """What a plan says: see :class:`~trio_ticks.Plan`."""

    recording: str
    began: datetime
    """When the first tick came, in UTC."""
    bars: bool
    """Whether it rests on bars, which have no bursts."""
    ticks: int
    span_s: float
    rate: float
    """Ticks a second of the recording, on average."""
    busiest: Mapping[float, float]
    """The highest rates: the length of a window in seconds, and its ticks a second."""
    symbols: Mapping[str, int]
    """Ticks of each symbol, the most first; at most 50 symbols."""
    symbol_count: int
    target: Target
    measured: tuple[Measured, ...]
    """The one that the plan rests on comes first."""
    advice: Advice
    predicted: Row
    """What the advised settings are expected to do."""
    drop_interval: Interval
    """Between what and what the drop rate is expected."""
    lag_interval: Interval
    """Between what and what the p99 lag is expected, in seconds."""
    windows: tuple[tuple[float, float, float], ...]
    """What the advised settings do in stretches of the recording: when each begins, in
    seconds, its drop rate, and its p99 lag in seconds."""
    load: float
    """What the ticks ask for as a share of what the advised workers can do."""
    table: tuple[Row, ...]
    """Workers by sizes of the queue."""
    strategies: tuple[Row, ...]
    """The advised workers and queue under each strategy."""
    places: tuple[Elsewhere, ...]
    """The handler in other places, with as many workers as it was measured with."""
    unordered: Row | None
    """The advised workers and queue without order; ``None``: there is none anyway."""
    growth: tuple[Growth, ...]
    knee_workers: int | None
    """More workers than this make the p99 lag hardly any shorter."""
    knee_maxsize: int | None
    """A longer queue than this loses hardly any fewer ticks."""
    budget_s: float
    """How long a tick may take on average, for the advised workers to keep up."""
    busy_budget_s: float
    """The same in the busiest second."""
    classic_maxsize: int
    """The rule of thumb: 5 seconds of burst x rate x a safety factor of 2."""
    losers: Mapping[str, float]
    """Which symbols lose which share of their ticks, by the last row of ``growth`` that
    loses any; empty if none does."""
    losers_factor: float | None
    """At how many times the recorded rate ``losers`` lose; ``None``: none does."""
    alone: str | None
    """The symbol whose own ticks need more than one worker, under order by symbol."""
    notes: tuple[str, ...]
    """What the plan rests on, and what it does not say: sentences."""
    verified: tuple[Verified, ...] = ()
    verified_prediction: Row | None = None
    """What was predicted for the stretch that the real runs played."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is infinite or unknown is ``None``."""
        plain = attrs.asdict(self, filter=lambda field, _value: field.name != "measured")
        plain["measured"] = [each.to_dict() for each in self.measured]
        plain["advice"]["overflow"] = strategy_text(self.advice.overflow)
        plain["began"] = self.began.isoformat()
        plain["busiest"] = {f"{seconds:g}": rate for seconds, rate in self.busiest.items()}
        result: dict[str, Any] = _finite(plain)
        return result


def _finite(value: Any) -> Any:
    """Return *value* without infinities and NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
