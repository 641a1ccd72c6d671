"""Play many seeds: ``python -m tests.simulation [--seeds 10000] [--first 0]``.

Each seed is a run of exchange, network, feed, pipeline and shutdown with faults. A seed
that fails is cut down to what is needed, and printed as one line that repeats it. Exits
with 1 if one failed. With ``--seed N`` that one run is played and described.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time

from tests.simulation.plan import Plan
from tests.simulation.trying import explained, tried
from tests.simulation.world import played

__all__ = ["main"]

_EACH_S = 10.0


def _play_one(plan: Plan) -> int:
    wrongs = played(plan)
    for fault in plan.faults:
        print(fault)
    print(f"{plan.ticks} ticks, {plan.settings}, {plan.feed}, {plan.ending}")
    print("\n".join(wrongs) or "all is as it should be")
    return bool(wrongs)


def _play_all(first: int, count: int, jobs: int) -> int:
    began, failed, done = time.monotonic(), 0, 0
    told = began
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for seed, wrongs in pool.imap_unordered(tried, range(first, first + count), chunksize=10):
            done += 1
            if wrongs:
                failed += 1
                print(explained(seed, wrongs), flush=True)
            now = time.monotonic()
            if now - told >= _EACH_S:
                told = now
                left = (now - began) / done * (count - done)
                print(f"{done:,} of {count:,}, {failed} failed, {left:.0f} s to go", flush=True)
    seconds = time.monotonic() - began
    print(f"{count:,} seeds from {first:,} in {seconds:.0f} s, {failed} failed")
    return bool(failed)


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--first", type=int, default=0, help="where to begin (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="play this one alone, and describe it")
    parser.add_argument("--keep", help="with --seed: the faults to keep, such as 0,2 or none")
    parser.add_argument("--ticks", type=int, default=0, help="with --seed: how many ticks")
    options = parser.parse_args()
    logging.disable()
    if options.seed is None:
        return _play_all(options.first, options.seeds, options.jobs)
    keep = None
    if options.keep is not None:
        keep = [int(each) for each in options.keep.split(",") if each.isdigit()]
    return _play_one(Plan.drawn(options.seed, keep=keep, ticks=options.ticks))


if __name__ == "__main__":
    sys.exit(main())
