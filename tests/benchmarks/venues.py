"""What a venue's quote costs from the wire to the handler, against a flat tick.

Each pair runs one after the other, in fresh processes; given is the median of the
pairs' ratios with its 95 % interval. A limit is missed when the whole interval of the
wall times lies beyond it; the exit status is then 1.

    python -m tests.benchmarks.venues --venue binance,kraken --pairs 20
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .pairs import interval
from .runner import Generator, open_generator, run_job
from .stats import median
from .venue_words import LIMITS, VENUES

__all__ = ["main"]


def _cost(generator: Generator, venue: str, ticks: int) -> tuple[float, float]:
    account, _ = run_job(generator, "e", ticks, venue=venue)
    generator.served()
    if account.handled != ticks:
        raise SystemExit(f"{venue}: {account.handled:,} of {ticks:,} ticks were handled")
    return account.us_per_tick, account.cpu_us_per_tick


def _measure(venue: str, pairs: int, ticks: int) -> bool:
    """Run the pairs of one venue and print them; return whether its limit is kept."""
    found: dict[str, list[tuple[float, float]]] = {"flat": [], venue: []}
    with open_generator(ticks) as flat, open_generator(ticks, venue=venue) as other:
        for number in range(pairs):
            runs = [("flat", flat), (venue, other)]
            # The order changes from pair to pair: the second of two runs may be
            # favoured.
            for name, generator in runs if number % 2 else reversed(runs):
                found[name].append(_cost(generator, name, ticks))
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    kept = True
    for index, name in enumerate(("wall", "cpu")):
        mine = [each[index] for each in found[venue]]
        flats = [each[index] for each in found["flat"]]
        ratios = [one / other for one, other in zip(mine, flats, strict=True)]
        low, high = interval(ratios)
        more = ""
        if name == "wall":
            limit = LIMITS.get(venue)
            kept = limit is None or low <= limit
            more = f", {other.frame_bytes / median(mine):.0f} MB/s"
            more += "" if limit is None else f", limit {limit:g}{'' if kept else ' MISSED'}"
        print(
            f"{name:5} {venue} {median(mine):.3f} us  flat {median(flats):.3f} us  ratio"
            f" {median(ratios):.3f} (95 %: {low:.3f} to {high:.3f}, {len(ratios)} pairs){more}"
        )
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pairs and print their ratios; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--venue", default=",".join(VENUES), help=f"of {', '.join(VENUES)}")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--ticks", type=int, default=300_000, help="of each run")
    options = parser.parse_args(arguments)
    venues = options.venue.split(",")
    if unknown := set(venues) - set(VENUES):
        parser.error(f"no venue {', '.join(sorted(unknown))}: of {', '.join(VENUES)}")
    kept = [_measure(venue, options.pairs, options.ticks) for venue in venues]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
