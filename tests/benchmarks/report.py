"""Results as plain text: tables to read in a terminal or paste into an issue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .brokers import brokers_report
from .latency import LONE
from .limits import Limit
from .tables import table

__all__ = ["limits_table", "report", "table"]


def _throughput(title: str, section: dict[str, Any]) -> str:
    rows = []
    for letter, row in section["contenders"].items():
        ratio = section["ratios"].get(letter)
        per_round = [entry["us_per_tick"] for entry in row["rounds"]]
        rows.append(
            (
                letter,
                row["name"],
                f"{row['us_per_tick']:.2f}",
                f"{min(per_round):.2f}-{max(per_round):.2f}",
                f"{row['cpu_us_per_tick']:.2f}",
                f"{row['ticks_per_s']:,.0f}",
                f"{row['dropped_share']:.1%}" if row["dropped_share"] else "0",
                f"{row['peak_rss_mb']:.0f}",
                f"{ratio['median']:.2f}" if ratio else "",
                f"{ratio['fastest']:.2f}" if ratio else "",
            )
        )
    rounds = len(next(iter(section["contenders"].values()))["rounds"])
    head = f"{title}: {section['frame_bytes']:.0f} bytes a message; medians of {rounds} rounds"
    columns = (
        "",
        "contender",
        "µs/tick",
        "range",
        "CPU µs",
        "ticks/s",
        "dropped",
        "peak MB",
        "against (e)",
        "fastest",
    )
    return f"{head}\n\n{table(columns, rows, left=2)}"


def _latency(title: str, section: dict[str, Any]) -> str:
    rows = [
        (
            f"{int(rate):,}",
            letter,
            row["name"],
            *(f"{row[key]:,.0f}" for key in ("p50_us", "p99_us", "p999_us", "max_us")),
            f"{row['cpu_share']:.0%}",
            "yes" if row["kept_up"] else "NO",
            f"{row['generator_late_p99_us']:.0f}",
        )
        for rate, contenders in section.items()
        for letter, row in contenders.items()
    ]
    columns = (
        "ticks/s",
        "",
        "contender",
        "p50",
        "p99",
        "p99.9",
        "max",
        "CPU",
        "kept up",
        "generator p99",
    )
    rounds = len(
        next(row["rounds"] for contenders in section.values() for row in contenders.values())
    )
    head = (
        f"{title}, wire to handler, in µs after the moment it was due to be sent; "
        f"medians of {rounds} rounds"
    )
    return f"{head}\n\n{table(columns, rows, left=3)}"


def _scaling(section: dict[str, Any]) -> str:
    rows = [
        (
            group,
            label,
            f"{row['us_per_tick']:.2f}",
            f"{row['ticks_per_s']:,.0f}",
            f"{row['ticks_per_s'] * row['frame_bytes'] / 1e6:,.0f}",
            f"{row['of_first']:.0%}",
            f"{row['peak_rss_mb']:.0f}",
        )
        for group, variants in section.items()
        for label, row in variants.items()
    ]
    columns = ("what grows", "", "µs/tick", "ticks/s", "MB/s", "of the first", "peak MB")
    return f"Scaling of (e): throughput against the group's first\n\n{table(columns, rows, left=1)}"


def limits_table(limits: Iterable[Limit]) -> str:
    """Return each figure beside its limit."""
    rows = [
        (
            "ok" if limit.met else "MISSED",
            limit.name,
            f"{limit.figure:.2f} {limit.unit}",
            f"{'>=' if limit.at_least else '<='} {limit.bound:.2f}",
            f"{limit.aim:.2f}" if limit.aim is not None else "",
        )
        for limit in limits
    ]
    return table(("", "limit", "figure", "bound", "aim"), rows, left=2)


def report(results: dict[str, Any]) -> str:
    """Return all that *results* hold, as text."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    parts = [f"Python {machine['python']}, {machine['cpus']} x {machine['cpu']}\n{versions}"]
    if "throughput" in results:
        parts.append(_throughput("Throughput", results["throughput"]))
    if "tls" in results:
        parts.append(_throughput("Throughput over TLS", results["tls"]))
    if "latency" in results:
        parts.append(_latency("Latency", results["latency"]))
    for name, title in LONE.items():
        if name in results:
            parts.append(_latency(f"Latency {title}", results[name]))
    if "scaling" in results:
        parts.append(_scaling(results["scaling"]))
    if "memory" in results:
        rows = [(queue, f"{size:.0f}") for queue, size in results["memory"].items()]
        parts.append(f"Memory of one queued tick\n\n{table(('queue', 'bytes'), rows)}")
    if "brokers" in results:
        parts.append(brokers_report(results["brokers"]))
    return "\n\n\n".join(parts)
