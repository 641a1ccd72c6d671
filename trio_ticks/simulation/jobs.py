"""A simulation to run, and what is kept of it: plain values that travel to processes.

Rules: a job names its services, which a process is given once; strategies travel by
name and settings. Functions do not travel: a ``Conflate(merge)`` is simulated without
its function, which changes no count. Sans-I/O.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any, Final, final

import attrs
import msgspec

from ..errors import ConfigError
from ..overflow import (
    Block,
    Conflate,
    DropNewest,
    DropOldest,
    OverflowStrategy,
    Policy,
    check_policy,
)
from .events import Setting
from .loads import KINDS, Load, Services
from .outcomes import NEVER, Outcome, quantile
from .playing import simulate

__all__ = ["Job", "Stretch", "Summary", "check_services", "packed", "run", "summarised", "unpacked"]

_STRATEGIES: Final[dict[str, type[Any]]] = {
    strategy.__name__: strategy for strategy in (Block, Conflate, DropNewest, DropOldest)
}
_LOSERS: Final = 20
"""Symbols whose losses are kept."""
_COLUMNS: Final = {"busy": "d", "waits": "d", "places": "I"}
"""The columns of services, and the codes of their arrays."""


@final
@attrs.frozen(slots=True, kw_only=True)
class Job:
    """One simulation."""

    setting: Setting
    services: str
    """The name of its services."""
    factor: float = 1.0
    """How many times as fast as they were recorded the ticks come."""
    scale: float = 1.0
    """How many times as long as they were measured services take."""
    windows: int = 10
    """Into how many stretches of equal time the outcome is cut."""


@final
@attrs.frozen(slots=True, kw_only=True)
class Stretch:
    """What came of one stretch of the load."""

    begins_s: float
    """In seconds from the beginning of the load."""
    ticks: int
    drop_rate: float
    p99_lag_s: float


@final
@attrs.frozen(slots=True, kw_only=True)
class Summary:
    """What is kept of a simulation's outcome."""

    produced: int
    handled: int
    dropped_by_reason: Mapping[str, int]
    p50_lag_s: float
    p99_lag_s: float
    max_lag_s: float
    peak: int
    """Most ticks that were ever queued at once."""
    blocked_s: float
    """How long the feed waited for room, in seconds."""
    utilisation: float
    """The share of the time in which the average worker was occupied, from 0 to 1."""
    stretches: tuple[Stretch, ...]
    lost_by_symbol: Mapping[str, int]
    """The symbols that lost most, at most 20."""

    @property
    def drop_rate(self) -> float:
        """The share of the ticks that were never handled, from 0 to 1."""
        return (self.produced - self.handled) / self.produced if self.produced else 0.0

    @property
    def unwanted_drop_rate(self) -> float:
        """The share of the ticks that were lost without being asked for, from 0 to 1.

        A conflated quote did its duty.
        """
        wanted = sum(self.dropped_by_reason.get(name, 0) for name in ("conflated", "stale"))
        return (self.produced - self.handled - wanted) / self.produced if self.produced else 0.0


def summarised(outcome: Outcome, setting: Setting, windows: int) -> Summary:
    """Return what is kept of *outcome*."""
    load, lags = outcome.load, outcome.lags
    stretches: list[Stretch] = []
    everything: list[float] = []
    for begin, end in load.windows(windows):
        part = lags[begin:end]
        handled = sorted(lag for lag in part if lag >= 0)
        stretches.append(
            Stretch(
                begins_s=load.times[begin] - load.times[0],
                ticks=end - begin,
                drop_rate=part.count(NEVER) / len(part),
                p99_lag_s=quantile(handled, 0.99),
            )
        )
        everything += handled
    # Each stretch is in order already, which makes this nearly a merge.
    everything.sort()
    span_s = max(outcome.ended_s - (load.times[0] if load.times else 0.0), 1e-9)
    lost = outcome.lost_by_symbol() if outcome.dropped else {}
    return Summary(
        produced=outcome.produced,
        handled=outcome.handled,
        dropped_by_reason=outcome.dropped_by_reason,
        p50_lag_s=quantile(everything, 0.5),
        p99_lag_s=quantile(everything, 0.99),
        max_lag_s=everything[-1] if everything else math.nan,
        peak=outcome.peak,
        blocked_s=outcome.blocked_s,
        utilisation=outcome.busy_s / span_s / setting.workers,
        stretches=tuple(stretches),
        lost_by_symbol=dict(list(lost.items())[:_LOSERS]),
    )


def check_services(job: Job, load: Load, services: Mapping[str, Services]) -> Services:
    """Return the services that *job* names.

    Raises:
        ConfigError: there are none, or they are not of as many ticks as *load* has.
    """
    found = services.get(job.services)
    if found is None:
        raise ConfigError(f"there are no services {job.services!r}")
    if len(found.places) != len(load):
        raise ConfigError(
            f"there are {len(load):,} ticks in the load, and services of {len(found.places):,}"
        )
    return found


def run(job: Job, load: Load, services: Mapping[str, Services]) -> Summary:
    """Return what comes of *job*.

    Args:
        job: what to simulate.
        load: what comes, as it was recorded.
        services: by their names.

    Raises:
        ConfigError: the services are unknown, or do not fit to the load.
    """
    found = check_services(job, load, services)
    if job.scale != 1:
        found = found.scaled(job.scale)
    outcome = simulate(load.faster(job.factor), found, job.setting)
    return summarised(outcome, job.setting, job.windows)


# To bytes and back


def _strategy(strategy: OverflowStrategy) -> dict[str, Any]:
    fields = attrs.asdict(strategy, filter=lambda field, _value: field.name != "merge")
    return {"": type(strategy).__name__, **fields}


def _policy(overflow: Any) -> dict[str, Any]:
    policy = check_policy(overflow)
    if not isinstance(policy, Mapping):
        return _strategy(policy)
    kinds = {}
    for place, kind in enumerate(KINDS):
        base = next((base for base in kind.__mro__ if base in policy), None)
        if base is not None:
            kinds[str(place)] = _strategy(policy[base])
    return {"": "", "kinds": kinds}


def _policy_of(plain: dict[str, Any]) -> Policy:
    name = plain.pop("")
    if not name:
        kinds: dict[str, Any] = plain["kinds"]
        return {KINDS[int(place)]: _policy_of(each) for place, each in kinds.items()}  # type: ignore[misc]  # strategies only
    strategy: OverflowStrategy = _STRATEGIES[name](**plain)
    return strategy


def _column(values: Any, code: str) -> bytes:
    return (values if isinstance(values, array) else array(code, values)).tobytes()


def _array(code: str, content: bytes) -> array[Any]:
    found = array(code)
    found.frombytes(content)
    return found


def packed(value: Any) -> bytes:
    """Return a job, a summary, a load or services as bytes."""
    if isinstance(value, Job):
        plain = attrs.asdict(value, recurse=False)
        plain["setting"] = attrs.asdict(value.setting, recurse=False)
        plain["setting"]["overflow"] = _policy(value.setting.overflow)
    elif isinstance(value, Load):
        plain = {
            "times": value.times.tobytes(),
            "symbols": _column(value.symbols, "I"),
            "code": value.symbols.typecode,
            "names": value.names,
            "kinds": value.kinds,
        }
    elif isinstance(value, Services):
        plain = attrs.asdict(value, recurse=False)
        plain |= {name: _column(plain[name], code) for name, code in _COLUMNS.items()}
    else:
        plain = attrs.asdict(value)
    return msgspec.msgpack.encode((type(value).__name__, plain))


def unpacked(content: bytes) -> Any:
    """Return what was packed by :func:`packed`."""
    kind, plain = msgspec.msgpack.decode(content)
    if kind == "Job":
        setting = plain.pop("setting")
        setting["overflow"] = _policy_of(setting["overflow"])
        return Job(setting=Setting(**setting), **plain)
    if kind == "Load":
        symbols = _array(plain["code"], plain["symbols"])
        return Load(_array("d", plain["times"]), symbols, tuple(plain["names"]), plain["kinds"])
    if kind == "Services":
        plain |= {name: _array(code, plain[name]) for name, code in _COLUMNS.items()}
        return Services(**plain)
    plain["stretches"] = tuple(Stretch(**each) for each in plain["stretches"])
    return Summary(**plain)
