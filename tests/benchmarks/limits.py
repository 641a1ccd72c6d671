"""What the figures have to reach. ``--check`` fails the run where one does not."""

from __future__ import annotations

import math
from typing import Any

import attrs

from .latency import LONE, LONE_RATE

__all__ = ["Limit", "evaluate"]


@attrs.frozen
class Limit:
    """One figure, and the bound that it has to keep."""

    name: str
    figure: float
    bound: float
    at_least: bool = True
    aim: float | None = None
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the figure keeps within the bound; NaN does not."""
        if math.isnan(self.figure):
            return False
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**attrs.asdict(self), "met": self.met}


_BROKERS = (
    ("redis", "ours", "loop", 40.0),
    ("redis", "ours", "batch", 3.0),
    ("kafka", "ours", "loop", 20.0),
    ("kafka", "ours", "auto", 1.5),
    ("zeromq", "ours", "loop", 1.3),
    ("zeromq", "bare", "loop", 2.0),
)


def _ratio(section: dict[str, Any], letter: str) -> float | None:
    entry = section.get("ratios", {}).get(letter)
    return None if entry is None else float(entry["median"])


def _throughput(results: dict[str, Any]) -> list[Limit]:
    limits = []
    section = results.get("throughput", {})
    for letter, name, bound, aim in (
        ("a", "throughput against (a) classic", 20.0, 25.0),
        ("b", "throughput against (b) best asyncio", 5.0, None),
    ):
        if (figure := _ratio(section, letter)) is not None:
            limits.append(Limit(name, figure, bound, aim=aim))
    if (figure := _ratio(section, "f")) is not None:
        limits.append(
            Limit(
                "time against (f) the floor",
                1 / figure if figure else math.nan,
                1.8,
                at_least=False,
            )
        )
    if (figure := _ratio(results.get("tls", {}), "a")) is not None:
        limits.append(Limit("throughput against (a) over TLS", figure, 10.0))
    return limits


def _latency(results: dict[str, Any]) -> list[Limit]:
    limits = []
    for section, rate, where in (
        ("latency", "10000", "at 10,000 ticks/s"),
        ("latency", "50000", "at 50,000 ticks/s"),
        *((name, str(LONE_RATE), f"at 10,000 ticks/s {title}") for name, title in LONE.items()),
    ):
        at = results.get(section, {}).get(rate, {})
        # Who does not keep up has no latency to compare with.
        rivals = {letter: at[letter] for letter in "ab" if letter in at and at[letter]["kept_up"]}
        if "e" not in at or not rivals:
            continue
        for name, key in (("p50", "p50_us"), ("p99", "p99_us")):
            best = min(row[key] for row in rivals.values())
            title = f"{name} {where}, against the best asyncio"
            limits.append(Limit(title, at["e"][key], best, at_least=False, unit="µs"))
        best = min(row["cpu_share"] for row in rivals.values())
        title = f"CPU {where}, against the best asyncio"
        limits.append(
            Limit(title, 100 * at["e"]["cpu_share"], 100 * best, at_least=False, unit="%")
        )
    return limits


def _scaling(results: dict[str, Any]) -> list[Limit]:
    section = results.get("scaling", {})
    wanted = (
        ("symbols", "10,000", "10,000 symbols against 5", 0.80),
        ("workers", "64", "64 workers against 4", 0.80),
        ("ordering", "symbol", 'ordering="symbol" against "none"', 0.75),
    )
    return [
        Limit(f"throughput, {name}", float(section[group][label]["of_first"]), bound)
        for group, label, name, bound in wanted
        if label in section.get(group, {})
    ]


def _brokers(results: dict[str, Any]) -> list[Limit]:
    section = results.get("brokers", {})
    limits: list[Limit] = []
    for broker, mine, other, bound in _BROKERS:
        row = section.get(broker, {}).get("throughput", {}).get(mine)
        if row is not None and other in row["against"]:
            theirs = section[broker]["throughput"][other]["name"]
            name = f"{broker}: {row['name']} against {theirs}"
            limits.append(Limit(name, float(row["against"][other]), bound))
    for broker, found in section.items():
        if "scaling" in found:
            ratio = float(found["scaling"]["ratio"])
            limits.append(Limit(f"{broker}: two processes against one", ratio, 1.8))
        if broker == "kafka":
            continue
        for rate, rows in found.get("latency", {}).items():
            p50 = float(rows["ours"]["p50_us"])
            name = f"{broker}: p50 of a lone tick at {rate}/s"
            limits.append(Limit(name, p50, 1000.0, at_least=False, unit="µs"))
    return limits


def evaluate(results: dict[str, Any]) -> list[Limit]:
    """Return every limit for which *results* have the figures."""
    return [*_throughput(results), *_latency(results), *_scaling(results), *_brokers(results)]
