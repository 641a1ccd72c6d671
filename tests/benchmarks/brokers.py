"""Our buffers between processes beside the loops that the clients' documents show.

All run on one machine and take turns, round by round. Given are medians; a ratio is the
median of the rounds' ratios, since what ran one after the other had the same machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from .broker_runs import Program, run
from .stats import median, quantile, ratios
from .tables import table

__all__ = ["BROKERS", "PARTS", "PROGRAMS", "brokers_report", "measure_brokers"]

BROKERS: Final = ("redis", "kafka", "zeromq")
PARTS: Final = ("throughput", "latency", "scaling")

Say = Callable[[str], object]


def _program(broker: str, name: str, role: str, *, ours: bool = False, **options: Any) -> Program:
    produce, consume = f"{role}-produce", f"{role}-consume"
    if ours:
        produce, consume = f"{role}ingest", f"{role}work"
    return Program(
        broker=broker, name=name, produce=produce, consume=consume, ours=ours, options=options
    )


PROGRAMS: Final[dict[str, dict[str, Program]]] = {
    "redis": {
        "loop": _program("redis", "redis-py, one by one", "redis-loop"),
        "batch": _program("redis", "redis-py, pipelines of 256", "redis-batch"),
        "thread": _program(
            "redis", "ours over redis-py in threads", "", ours=True, client="redis-py"
        ),
        "ours": _program("redis", "ours", "", ours=True),
    },
    "kafka": {
        "loop": _program("kafka", "confluent-kafka, commit a tick", "kafka-loop"),
        "auto": _program("kafka", "confluent-kafka, auto-commit", "kafka-auto"),
        "ours": _program("kafka", "ours", "", ours=True),
    },
    "zeromq": {
        "loop": _program("zeromq", "pyzmq, PUSH/PULL", "zeromq-loop"),
        "bare": _program("zeromq", "ours, the bare link", "bare-", ours=True),
        "ours": _program("zeromq", "ours", "", ours=True),
    },
}
"""What takes part, by broker."""

_SHARES: Final = {"redis loop": 0.01, "redis batch": 0.25, "kafka loop": 0.006, "kafka auto": 0.4}
"""The part of the ticks that the slower ones get, so that each takes some seconds."""
_RATES: Final = (500, 10)
_WAIT_US: Final = 200.0
_SYMBOLS_OF_SCALING: Final = 1000


def measure_brokers(
    brokers: Sequence[str],
    *,
    ticks: int,
    rounds: int,
    seconds: float,
    say: Say,
    parts: Sequence[str] = PARTS,
) -> dict[str, Any]:
    """Measure all of it; return what ``results["brokers"]`` holds.

    Args:
        brokers: of ``BROKERS``.
        ticks: of a run of the fastest.
        rounds: of each.
        seconds: length of a latency run at 500 ticks a second.
        say: is told each figure as it comes.
        parts: which of the three to measure.

    Raises:
        ContenderError: a process failed, or a tick was lost or came twice.
    """
    results: dict[str, Any] = {}
    for broker in brokers:
        found = results[broker] = dict[str, Any]()
        if "throughput" in parts:
            found["throughput"] = _throughput(broker, ticks, rounds, say)
        if "latency" in parts:
            found["latency"] = _latency(broker, seconds, rounds, say)
        if "scaling" in parts:
            found["scaling"] = _scaling(broker, max(200, ticks // 80), rounds, say)
    return results


def _throughput(broker: str, ticks: int, rounds: int, say: Say) -> dict[str, Any]:
    rows: dict[str, list[dict[str, Any]]] = {key: [] for key in PROGRAMS[broker]}
    for number in range(rounds):
        for key, program in PROGRAMS[broker].items():
            count = max(200, int(ticks * _SHARES.get(f"{broker} {key}", 1.0)))
            outcome = run(program, count)
            rows[key].append({"ticks_per_s": outcome.per_s, "cpu_us": outcome.cpu_us})
            cpu = " ".join(f"{each:.2f}" for each in outcome.cpu_us)
            say(f"  {broker} {program.name}, {number + 1}: {outcome.per_s:,.0f}/s, CPU µs {cpu}")
    found: dict[str, Any] = {
        key: {
            "name": PROGRAMS[broker][key].name,
            "ticks_per_s": median(each["ticks_per_s"] for each in rounds_of),
            "cpu_us": [
                median(part) for part in zip(*(each["cpu_us"] for each in rounds_of), strict=True)
            ],
            "rounds": rounds_of,
        }
        for key, rounds_of in rows.items()
    }
    for key, rounds_of in rows.items():
        found[key]["against"] = {
            other: median(
                ratios(
                    [each["ticks_per_s"] for each in rounds_of],
                    [each["ticks_per_s"] for each in rows[other]],
                )
            )
            for other in rows
            if other != key
        }
    return found


def _latency(broker: str, seconds: float, rounds: int, say: Say) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for rate in _RATES:
        ticks = int(rate * seconds)
        late: dict[str, list[list[float]]] = {}
        for _ in range(rounds):
            for key, program in PROGRAMS[broker].items():
                if not program.ours or key == "bare":
                    continue
                outcome = run(program, ticks, rate=float(rate), timed=True)
                late.setdefault(key, []).append(sorted(outcome.late_us))
        found[str(rate)] = {
            key: {
                "name": PROGRAMS[broker][key].name,
                "p50_us": median(quantile(each, 0.50) for each in rounds_of),
                "p99_us": median(quantile(each, 0.99) for each in rounds_of),
                "rounds": [quantile(each, 0.50) for each in rounds_of],
            }
            for key, rounds_of in late.items()
        }
        for row in found[str(rate)].values():
            say(f"  {broker} {row['name']} at {rate}/s: p50 {row['p50_us']:.0f} µs")
    return found


def _scaling(broker: str, ticks: int, rounds: int, say: Say) -> dict[str, Any]:
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, each in rates.items():
            outcome = run(
                PROGRAMS[broker]["ours"],
                ticks * workers,
                workers=workers,
                sleep_us=_WAIT_US,
                symbols=_SYMBOLS_OF_SCALING,
            )
            each.append(outcome.per_s)
    ratio = median(ratios(rates[2], rates[1]))
    say(f"  {broker}: two processes against one: {ratio:.2f}")
    return {
        "one": median(rates[1]),
        "two": median(rates[2]),
        "ratio": ratio,
        "rounds": [rates[1], rates[2]],
    }


def brokers_report(section: dict[str, Any]) -> str:
    """Return the section as tables."""
    throughput: list[tuple[str, ...]] = []
    latency: list[tuple[str, ...]] = []
    scaling: list[tuple[str, ...]] = []
    for broker, found in section.items():
        for row in found.get("throughput", {}).values():
            per_s = [each["ticks_per_s"] / 1000 for each in row["rounds"]]
            throughput.append(
                (
                    broker,
                    row["name"],
                    f"{row['ticks_per_s'] / 1000:,.1f}",
                    f"{min(per_s):,.1f}-{max(per_s):,.1f}",
                    *(f"{each:.2f}" for each in row["cpu_us"]),
                )
            )
        for rate, rows in found.get("latency", {}).items():
            latency += [
                (broker, row["name"], rate, f"{row['p50_us']:,.0f}", f"{row['p99_us']:,.0f}")
                for row in rows.values()
            ]
        if "scaling" in found:
            row = found["scaling"]
            scaling.append(
                (broker, f"{row['one']:,.0f}", f"{row['two']:,.0f}", f"{row['ratio']:.2f}")
            )
    parts = []
    if throughput:
        header = ["", "", "k ticks/s", "range", "ingest", "work", "server"]
        parts.append(
            "Brokers: throughput, from one process to another; the last columns are CPU µs a "
            f"tick of each\n\n{table(header, throughput, left=2)}"
        )
    if latency:
        header = ["", "", "ticks/s", "p50", "p99"]
        parts.append(
            "Brokers: a lone tick, from the ingest's feed to the handler, in µs\n\n"
            f"{table(header, latency, left=2)}"
        )
    if scaling:
        header = ["", "one", "two", "ratio"]
        parts.append(
            "Brokers: ticks a second of one and of two processes, whose handler waits "
            f"{_WAIT_US:.0f} µs\n\n{table(header, scaling)}"
        )
    return "\n\n\n".join(parts)
