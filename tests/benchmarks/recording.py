"""``python -m tests.benchmarks.recording``: what a recorder costs the pipeline.

Runs with and without ``record=`` alternate against the same load generator, at 100,000
messages a second and as fast as they are taken. Given is the median of the pairs'
ratios with its 95 % interval. The limit is on the CPU time of the event loop's thread:
it is what the pipeline has less of. The recorder's own thread compresses and writes
beside it, mostly without Python's lock; what both take together is given, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .latency import latencies_us
from .machine import facts
from .pairs import interval
from .runner import Generator, open_generator, run_job
from .stats import median, quantile
from .throughput import verify

__all__ = ["main", "measure"]

RATE = 100_000
MOST_EFFECT = 0.05
"""By how much the CPU time of the event loop may grow."""
_WARM_UP_S = 0.5


def _run(generator: Generator, ticks: int, rate: int, *, record: bool) -> dict[str, float]:
    account, handled_ns = run_job(
        generator, "e", ticks, core=None, record=record, rate=float(rate), stall_s=10.0
    )
    served = generator.served()
    if account.detail["reconnects"]:
        # The generator hangs up after its last tick. On a machine that is too busy the
        # feed may be back before the run has ended, and is served from the beginning.
        generator.served()
        return _run(generator, ticks, rate, record=record)
    verify("e", account, served["sent"])
    recorded = account.detail["recorded"]
    if record and (recorded["messages"] < ticks or recorded["dropped"]):
        raise RuntimeError(f"not everything was recorded: {recorded}")
    found = {
        "loop_cpu": account.detail["loop_cpu_s"] / ticks * 1e6,
        "all_cpu": account.cpu_us_per_tick,
        "wall": account.us_per_tick,
    }
    if rate:
        late = latencies_us(handled_ns, served["base_ns"], rate, skip=int(rate * _WARM_UP_S))
        found["p50"], found["p99"] = quantile(sorted(late), 0.5), quantile(sorted(late), 0.99)
    return found


def measure(pairs: int, ticks: int, rate: int) -> dict[str, Any]:
    """Return what recording costs at *rate* messages a second; 0: at full speed."""
    values: dict[str, tuple[list[float], list[float]]] = {}
    with open_generator(ticks) as generator:
        for number in range(pairs):
            # The order changes from pair to pair: the second of two runs may be
            # favoured.
            found = {
                record: _run(generator, ticks, rate, record=record)
                for record in (bool(number % 2), not number % 2)
            }
            for name, value in found[True].items():
                ours, others = values.setdefault(name, ([], []))
                ours.append(value)
                others.append(found[False][name])
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        name: {
            "with": median(ours),
            "without": median(others),
            "ratio": median([one / other for one, other in zip(ours, others, strict=True)]),
            "interval": interval([one / other for one, other in zip(ours, others, strict=True)]),
        }
        for name, (ours, others) in values.items()
    }


def text(results: dict[str, Any]) -> str:
    """Return the results, and whether they are within the limit."""
    lines = []
    for rate, figures in results.items():
        lines.append(f"{int(rate):,} messages/s" if int(rate) else "as fast as they are taken")
        for name, each in figures.items():
            low, high = each["interval"]
            lines.append(
                f"  {name:8} without {each['without']:9.3f} us  with {each['with']:9.3f} us  "
                f"ratio {each['ratio']:.3f} (95 %: {low:.3f} to {high:.3f})"
            )
    effect = results[str(RATE)]["loop_cpu"]["ratio"] - 1
    word = "ok" if effect <= MOST_EFFECT else "MISSED"
    lines.append(f"{word}: the event loop's CPU time, {effect:+.1%} (at most {MOST_EFFECT:.0%})")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--ticks", type=int, default=500_000, help="of each run")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    results = {str(rate): measure(options.pairs, options.ticks, rate) for rate in (RATE, 0)}
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": facts(), **results}, indent=1))
    print(text(results))
    return int("MISSED" in text(results))


if __name__ == "__main__":
    sys.exit(main())
