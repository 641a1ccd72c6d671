"""What a venue's quote costs from the wire to the handler, against a flat tick.

Each pair runs one after the other, in fresh processes; given is the median of the
pairs' ratios with its 95 % interval. The limit of Binance is 1.5.

    python -m tests.benchmarks.venues --pairs 20
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .pairs import interval
from .runner import Generator, open_generator, run_job
from .stats import median

__all__ = ["main"]


def _cost(generator: Generator, venue: str, ticks: int) -> tuple[float, float]:
    account, _ = run_job(generator, "e", ticks, venue=venue)
    generator.served()
    if account.handled != ticks:
        raise SystemExit(f"{venue}: {account.handled:,} of {ticks:,} ticks were handled")
    return account.us_per_tick, account.cpu_us_per_tick


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pairs and print their ratios; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--venue", default="binance", choices=("binance",))
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--ticks", type=int, default=300_000, help="of each run")
    options = parser.parse_args(arguments)
    found: dict[str, list[tuple[float, float]]] = {"flat": [], options.venue: []}
    with (
        open_generator(options.ticks) as flat,
        open_generator(options.ticks, venue=options.venue) as other,
    ):
        for number in range(options.pairs):
            runs = [("flat", flat), (options.venue, other)]
            # The order changes from pair to pair: the second of two runs may be
            # favoured.
            for venue, generator in runs if number % 2 else reversed(runs):
                found[venue].append(_cost(generator, venue, options.ticks))
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for index, name in enumerate(("wall", "cpu")):
        mine = [each[index] for each in found[options.venue]]
        flats = [each[index] for each in found["flat"]]
        ratios = [one / other for one, other in zip(mine, flats, strict=True)]
        low, high = interval(ratios)
        print(
            f"{name:5} {options.venue} {median(mine):.3f} us  flat {median(flats):.3f} us  ratio"
            f" {median(ratios):.3f} (95 %: {low:.3f} to {high:.3f}, {len(ratios)} pairs)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
