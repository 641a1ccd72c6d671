"""How late a tick is handled, counted from when it was *due* to be sent, at a set pace.

No coordinated omission: the generator keeps its timetable whatever the contender does.
If the contender stops reading, the ticks that could then only be sent late count as
late from the moment they were due. Both processes read CLOCK_MONOTONIC, one clock for
the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .contenders import CONTENDERS
from .runner import open_generator, run_job
from .stats import median, quantile
from .throughput import Say, verify

__all__ = ["LONE", "LONE_RATE", "RATES", "latencies_us", "measure_latency"]

RATES = (1_000, 10_000, 50_000)
LONE = {"latency-tls": "over TLS", "latency-threads": "with handlers in threads"}
"""Further sections, at :data:`LONE_RATE` alone."""
LONE_RATE = 10_000
_WARM_UP_S = 0.5
_BEHIND_US = 100_000


def latencies_us(
    handled_ns: Sequence[int], base_ns: int, rate: float, *, skip: int = 0
) -> list[float]:
    """Return each tick's lateness in microseconds, by number, from *skip* on."""
    gap_ns = 1e9 / rate
    return [
        (moment - base_ns - int(number * gap_ns)) / 1e3
        for number, moment in enumerate(handled_ns)
        if number >= skip
    ]


def _one(
    generator: Any, letter: str, rate: int, seconds: float, settings: dict[str, Any]
) -> dict[str, float]:
    total = max(20, int(rate * (seconds + _WARM_UP_S)))
    account, handled_ns = run_job(
        generator, letter, total, rate=float(rate), stall_s=10.0, **settings
    )
    served = generator.served()
    verify(letter, account, served["sent"])
    late = latencies_us(
        handled_ns, served["base_ns"], rate, skip=min(int(rate * _WARM_UP_S), total // 2)
    )
    last = late[-1]
    late.sort()
    return {
        "p50_us": quantile(late, 0.50),
        "p99_us": quantile(late, 0.99),
        "p999_us": quantile(late, 0.999),
        "max_us": late[-1],
        "last_us": last,
        "cpu_share": account.cpu_s / account.wall_s if account.wall_s else 0.0,
        "generator_late_p99_us": served["late_us_p99"],
    }


def measure_latency(
    letters: Sequence[str],
    *,
    seconds: float,
    rounds: int,
    say: Say,
    rates: Sequence[int] = RATES,
    tls: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Run each contender at each pace in each round; return each percentile's median.

    Args:
        letters: Which contenders.
        seconds: Length of a run.
        rounds: How many.
        say: Called with each line of progress.
        rates: The paces, in ticks a second.
        tls: Over ``wss``.
        settings: Further settings for every :class:`Job`.

    Raises:
        LossError: the account of a contender does not agree.
    """
    result: dict[str, Any] = {}
    for rate in rates:
        runs: dict[str, list[dict[str, float]]] = {letter: [] for letter in letters}
        with open_generator(max(20, int(rate * (seconds + _WARM_UP_S))), tls=tls) as generator:
            for number in range(rounds):
                for letter in letters:
                    figures = _one(generator, letter, rate, seconds, settings)
                    runs[letter].append(figures)
                    say(
                        f"  round {number + 1}  {rate:>6}/s  ({letter})  "
                        f"p50 {figures['p50_us']:9.0f}  p99 {figures['p99_us']:9.0f} µs"
                    )
        result[str(rate)] = {
            letter: {
                "name": CONTENDERS[letter].name,
                **{name: median(figures[name] for figures in rows) for name in rows[0]},
                "kept_up": median(figures["last_us"] for figures in rows) < _BEHIND_US,
                "rounds": rows,
            }
            for letter, rows in runs.items()
        }
    return result
