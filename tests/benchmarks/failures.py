"""``python -m tests.benchmarks.failures``: what telling of failures costs a pipeline.

Each pair of runs has handlers that do the same work for each tick and raise the same
exception. In the one run the handler catches it itself, so that nothing is told; in the
other it leaves it to the pipeline, which counts, logs and writes as it does by default.
Rules: the runs of a pair follow each other at once, in both orders, so that a slow
moment of the machine is slow for both; the ledger counts what was handled.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

import trio_ticks as tt

from .stats import median

__all__ = ["main", "measure"]

TICKS = 4_000


class BenchError(Exception):
    """What the handlers raise."""


DEAD = BenchError("the broker is gone")


def fresh() -> None:
    """Raise a new error, as a bug in a strategy does."""
    raise BenchError("no bid")


def same() -> None:
    """Raise one object again and again, as a dead connection does."""
    raise DEAD


KINDS: dict[str, Callable[[], None]] = {"a new error": fresh, "the same error": same}


def work(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def caught(kind: Callable[[], None], seconds: float) -> Any:
    async def handler(_tick: tt.Tick) -> None:
        work(seconds)
        try:
            kind()
        except BenchError as error:
            error.__traceback__ = None

    return handler


def told(kind: Callable[[], None], seconds: float) -> Any:
    async def handler(_tick: tt.Tick) -> None:
        work(seconds)
        kind()

    return handler


def rate(handler: Any, ticks: Sequence[tt.Tick], **settings: Any) -> float:
    """Return how many ticks a second a pipeline gets through."""

    async def main() -> float:
        async with tt.open_pipeline(
            tt.IterableFeed(ticks), handler, overflow=tt.Block(), **settings
        ) as pipeline:
            began = time.perf_counter()
            await pipeline.wait()
            seconds = time.perf_counter() - began
        pipeline.ledger.check()
        assert pipeline.ledger.consumed + pipeline.ledger.failed == len(ticks)
        return len(ticks) / seconds

    return trio.run(main)


def measure(
    kind: Callable[[], None], seconds: float, pairs: int, ticks: int, **settings: Any
) -> tuple[float, float]:
    """Return the rate where nothing is told, and the share of it that telling takes."""
    now = datetime.now(UTC)
    made = [tt.Tick("A", now, 1.0, 1.5, 1.0, 1.0, n) for n in range(ticks)]
    rates, ratios = [], []
    for number in range(pairs):
        sides = [caught(kind, seconds), told(kind, seconds)]
        found = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            found[side] = rate(sides[side], made, **(settings if side else {}))
        rates.append(found[0])
        ratios.append(found[1] / found[0])
    return median(rates), 1 - median(ratios)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each kind of error, work and way of telling."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--ticks", type=int, default=TICKS)
    parser.add_argument("--work-us", type=float, nargs="*", default=[0.0, 100.0, 1000.0])
    options = parser.parse_args(arguments)
    logging.basicConfig(filename="/dev/null", level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            for micros in options.work_us:
                for way, settings in (
                    ("log", {}),
                    ("letters", {"on_error": tt.DeadLetterFile(Path(folder) / "x.jsonl")}),
                ):
                    base, cost = measure(
                        kind, micros / 1e6, options.pairs, options.ticks, **settings
                    )
                    print(
                        f"{name:15} {micros:6.0f} us of work  {way:8} "
                        f"untold {base:10,.0f}/s  telling takes {cost:6.1%}"
                    )


if __name__ == "__main__":
    main()
