"""``python -m tests.benchmarks.dashboard``: what a viewer of the live page costs.

Rules: stretches with a viewer and stretches without alternate within one run, so that a
slow moment of the machine is slow for both, and each pair gives one ratio. The viewer
is another process that reads the stream as a browser does; the browser's own drawing is
not counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio

import trio_ticks as tt

from .scrape import Feed, handle
from .stats import median, quantile

__all__ = ["main", "measure_page"]

MOST_EFFECT = 0.05
SETTLE_S = 1.5
"""From a viewer's start or end until measuring begins: a starting process disturbs."""


@contextmanager
def viewing(url: str) -> Iterator[None]:
    """Read the page's stream in another process for as long as the block lasts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.dashboard", "--viewer", url]
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def view(url: str) -> None:
    """Ask for the history as the page does, then read the stream for ever."""
    urllib.request.urlopen(f"{url}api/history", timeout=30).read()
    with urllib.request.urlopen(f"{url}api/stream", timeout=30) as stream:
        while stream.readline():
            pass


async def measure_page(
    *, rate: float | None, symbols: int, workers: int, seconds: float, pairs: int, seed: int = 0
) -> dict[str, Any]:
    """Return ticks handled a second, with a viewer and without, pair by pair.

    A second of the clock, and a second of CPU time.

    Args:
        rate: ticks a second; ``None``: as fast as they are handled.
        symbols: how many there are.
        workers: how many there are.
        seconds: how long a stretch is.
        pairs: how many stretches of each kind.
        seed: for the random choice of which comes first in each pair.
    """
    dice = random.Random(seed)
    stretches: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    async with tt.open_pipeline(
        Feed(symbols, rate),
        handle,
        workers=workers,
        maxsize=10_000,
        overflow=tt.Block(),
        shutdown_timeout=0,
    ) as pipeline:
        url = await pipeline.serve_dashboard(0)

        async def stretch() -> dict[str, float]:
            await trio.sleep(SETTLE_S)
            began, cpu, handled = time.perf_counter(), time.process_time(), pipeline.ledger.consumed
            await trio.sleep(seconds)
            count = pipeline.ledger.consumed - handled
            return {
                "per_s": count / (time.perf_counter() - began),
                "per_cpu_s": count / (time.process_time() - cpu),
            }

        for _ in range(pairs):
            for watched in dice.sample([True, False], 2):
                if watched:
                    with viewing(url):
                        while not pipeline.item_listeners:  # noqa: ASYNC110 - there is no event for it
                            await trio.sleep(0.01)
                        stretches[True].append(await stretch())
                else:
                    while pipeline.item_listeners:  # noqa: ASYNC110 - there is no event for it
                        await trio.sleep(0.01)
                    stretches[False].append(await stretch())
    if pipeline.report.ledger.unaccounted:
        raise AssertionError(f"{pipeline.report.ledger.unaccounted} ticks unaccounted for")
    result: dict[str, Any] = {"rate": rate, "symbols": symbols, "workers": workers}
    for unit in ("per_s", "per_cpu_s"):
        with_, without = ([each[unit] for each in stretches[watched]] for watched in (True, False))
        ratios = sorted(one / other for one, other in zip(with_, without, strict=True))
        low, high = quantile(ratios, 0.25), quantile(ratios, 0.75)
        error = 1.253 * (high - low) / 1.349 / math.sqrt(pairs)
        result[unit] = {
            "without": median(without),
            "ratio": median(ratios),
            "standard_error": error,
            "ratios": ratios,
        }
    return result


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, or 1 if a viewer costs more than the limit."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.dashboard", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--pairs", type=int, default=20, help="stretches with a viewer, and as many without"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a stretch")
    parser.add_argument("--json", action="store_true", help="write the results as JSON")
    parser.add_argument("--viewer", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.viewer:
        view(options.viewer)
        return 0
    results = []
    for rate, symbols, workers in (
        (100_000.0, 10, 4),
        (100_000.0, 10_000, 64),
        (None, 10, 4),
        (None, 10_000, 64),
    ):
        measure = partial(
            measure_page,
            rate=rate,
            symbols=symbols,
            workers=workers,
            seconds=options.seconds,
            pairs=options.pairs,
        )
        results.append(trio.run(measure))
    if options.json:
        print(json.dumps(results, indent=1))
    missed = False
    for result in results:
        # At full speed CPU time says more than the clock: the clock also counts the
        # time that other processes on the machine take.
        unit = "per_s" if result["rate"] else "per_cpu_s"
        missed = missed or result[unit]["ratio"] < 1 - MOST_EFFECT
        name = f"{result['rate']:,.0f} ticks/s" if result["rate"] else "as fast as it goes"
        for each, what in (("per_s", "a second"), ("per_cpu_s", "a CPU second")):
            figures = result[each]
            title = (
                f"{name}, {result['symbols']:,} symbols, "
                f"{result['workers']} workers, handled {what}"
            )
            print(
                f"{title:76}{figures['without']:>11,.0f}{figures['ratio']:>8.3f}"
                f" ± {figures['standard_error']:.3f}",
                file=sys.stderr,
            )
    return int(missed)


if __name__ == "__main__":
    logging.getLogger("trio_ticks").setLevel(logging.ERROR)  # The queue is meant to be full.
    sys.exit(main())
