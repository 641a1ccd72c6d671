"""This checkout against another one, in alternating pairs: is a change slower or
faster?

Machines are noisy, and their speed drifts, so neither figure means much alone. Each
pair runs one after the other against the same load generator; given is the median of
the pairs' ratios (this one's time over the other's) with its 95 % interval, from the
order statistics. A limit of a few per cent is broken when the whole interval lies
beyond it.

    python -m tests.benchmarks.pairs ../other-checkout --pairs 20
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from .latency import latencies_us
from .runner import ROOT, Generator, open_generator, run_job
from .stats import median, quantile
from .throughput import verify

__all__ = ["interval", "main"]

_WARM_UP_S = 0.5


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median of *values*.

    It is computed by order statistics.
    """
    ordered, count = sorted(values), len(values)
    reach = 1.96 * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - reach))
    high = min(count - 1, math.ceil(count / 2 + reach))
    return ordered[low], ordered[high]


def _throughput(generator: Generator, root: Path, ticks: int) -> dict[str, float]:
    account, _ = run_job(generator, "e", ticks, root=root)
    verify("e", account, generator.served()["sent"])
    return {"wall": account.us_per_tick, "cpu": account.cpu_us_per_tick}


def _latency(generator: Generator, root: Path, ticks: int, rate: int) -> dict[str, float]:
    account, handled_ns = run_job(generator, "e", ticks, root=root, rate=float(rate), stall_s=10.0)
    served = generator.served()
    verify("e", account, served["sent"])
    late = sorted(latencies_us(handled_ns, served["base_ns"], rate, skip=int(rate * _WARM_UP_S)))
    return {
        "p50": quantile(late, 0.50),
        "p99": quantile(late, 0.99),
        "cpu": account.cpu_us_per_tick,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pairs and print their ratios; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--ticks", type=int, default=500_000, help="of each run")
    parser.add_argument("--rate", type=int, default=0, help="ticks a second; 0: at full speed")
    options = parser.parse_args(arguments)
    other = options.other.resolve()
    if not (other / "tests" / "benchmarks" / "child.py").is_file():
        parser.error(f"{other} is no checkout with benchmarks")
    ratios: dict[str, list[float]] = {}
    values: dict[str, tuple[list[float], list[float]]] = {}
    with open_generator(options.ticks) as generator:
        for number in range(options.pairs):
            found: dict[Path, dict[str, float]] = {}
            # The order changes from pair to pair: the second of two runs may be
            # favoured.
            for root in (ROOT, other) if number % 2 else (other, ROOT):
                found[root] = (
                    _latency(generator, root, options.ticks, options.rate)
                    if options.rate
                    else _throughput(generator, root, options.ticks)
                )
            for name, mine in found[ROOT].items():
                theirs = found[other][name]
                ratios.setdefault(name, []).append(mine / theirs)
                ours, others = values.setdefault(name, ([], []))
                ours.append(mine)
                others.append(theirs)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for name, each in ratios.items():
        low, high = interval(each)
        ours, others = values[name]
        print(
            f"{name:5} this {median(ours):8.3f} us  other {median(others):8.3f} us  "
            f"ratio {median(each):.3f} (95 %: {low:.3f} to {high:.3f}, {len(each)} pairs)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
