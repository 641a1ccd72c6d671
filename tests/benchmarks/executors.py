"""What each executor reaches with a handler: ``python -m tests.benchmarks.executors``.

The handlers compute, wait, or do next to nothing. Within a group all variants take
turns, each in a fresh pipeline, and are compared within their round, so that other load
on the machine affects them alike. Counting begins when every worker is ready and has
handled something.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

import trio_ticks as tt
from tests.worlds.helpers import make_ticks

from .stats import median

__all__ = ["GROUPS", "Variant", "main", "measure"]

_SYMBOLS = [f"S{number}" for number in range(128)]
_ROUNDS = "TRIO_TICKS_BURN_ROUNDS"
"""Tells worker processes how many rounds 200 microseconds are, so all do equal work."""


def burn(tick: tt.Tick) -> float:
    """Compute for about 200 microseconds, in pure Python."""
    total = tick.mid_price
    for number in range(int(os.environ[_ROUNDS])):
        total += number * 0.5
    return total


async def burn_in_loop(tick: tt.Tick) -> None:
    burn(tick)


def wait(tick: tt.Tick) -> None:
    """Wait for 5 ms, as on a database."""
    time.sleep(0.005)


def trifle(tick: tt.Tick) -> float:
    """Do next to nothing."""
    return tick.bid


async def trifle_in_loop(tick: tt.Tick) -> float:
    return tick.bid


def calibrate() -> int:
    """Return how many rounds of :func:`burn` take 200 microseconds at the fastest."""
    os.environ[_ROUNDS] = str(rounds := 20_000)
    tick = make_ticks(1)[0]
    best = min(_timed(burn, tick) for _ in range(30))
    return max(1, round(rounds * 200e-6 / best))


def _timed(function: Callable[[Any], Any], argument: Any) -> float:
    began = time.perf_counter()
    function(argument)
    return time.perf_counter() - began


@attrs.frozen
class Variant:
    """One way to run a handler.

    The executor ``"bare"`` is a plain loop in each process: the most the machine can
    do.
    """

    label: str
    handler: Callable[[tt.Tick], Any]
    executor: str
    workers: int


GROUPS: dict[str, tuple[Variant, ...]] = {
    # The first of each group is what the others are compared with.
    "200 µs of pure Python": (
        Variant("1 process", burn, "process", 1),
        Variant("2 processes", burn, "process", 2),
        Variant("1 bare", burn, "bare", 1),
        Variant("2 bare", burn, "bare", 2),
        Variant("loop", burn_in_loop, "loop", 4),
        Variant("2 threads", burn, "thread", 2),
    ),
    "5 ms of waiting": (
        Variant("1 thread", wait, "thread", 1),
        Variant("8 threads", wait, "thread", 8),
        Variant("32 threads", wait, "thread", 32),
        Variant("8 processes", wait, "process", 8),
    ),
    "next to nothing": (
        Variant("loop", trifle_in_loop, "loop", 4),
        Variant("1 thread", trifle, "thread", 1),
        Variant("4 threads", trifle, "thread", 4),
        Variant("1 process", trifle, "process", 1),
    ),
}


@attrs.frozen
class Figures:
    """The figures of one run."""

    per_s: float
    """Ticks handled a second."""
    parent_us: float
    """Processor time of this process a tick, in microseconds."""
    hand_over_ms: float
    """The mean time that a batch took besides its handling."""


def _run_bare(handler: Callable[[Any], Any], seconds: float, ready: Any, counts: Any) -> None:
    (tick,) = make_ticks(1)
    handler(tick)
    ready.wait()
    count, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        handler(tick)
        count += 1
    counts.put(count)


def _measure_bare(variant: Variant, seconds: float) -> Figures:
    context = multiprocessing.get_context("spawn")
    ready, counts = context.Barrier(variant.workers), context.SimpleQueue()
    arguments = (variant.handler, seconds, ready, counts)
    processes = [
        context.Process(target=_run_bare, args=arguments, daemon=True)
        for _ in range(variant.workers)
    ]
    for process in processes:
        process.start()
    total: int = sum(counts.get() for _ in processes)
    for process in processes:
        process.join()
    return Figures(total / seconds, 0.0, 0.0)


def measure(variant: Variant, seconds: float) -> Figures:
    """Run *variant* for about *seconds*."""
    return (
        _measure_bare(variant, seconds)
        if variant.executor == "bare"
        else trio.run(_measure, variant, seconds)
    )


async def _measure(variant: Variant, seconds: float) -> Figures:
    figures: list[Figures] = []

    async def script(send: Any) -> None:
        async def handled(ticks: list[tt.Tick]) -> float:
            began, before = time.perf_counter(), send.ledger.consumed
            await send.send_many(ticks)
            while send.ledger.consumed < before + len(ticks):  # noqa: ASYNC110 - a public counter, which sets no event
                await trio.sleep(0.002)
            return (time.perf_counter() - began) / len(ticks)

        size = 64
        for _ in range(2):  # until all are ready and have found their pace, and until that is known
            while (each_s := await handled(make_ticks(size, _SYMBOLS))) * size < 0.2:
                size *= 2
        ticks = make_ticks(max(size, int(seconds / each_s)), _SYMBOLS)
        cpu_s = time.process_time()
        each_s = await handled(ticks)
        cpu_s = time.process_time() - cpu_s
        figures.append(
            Figures(1 / each_s, cpu_s / len(ticks) * 1e6, pipeline.metrics().hand_over_ms.mean)
        )

    settings: dict[str, Any] = {
        "executor": variant.executor,
        "workers": variant.workers,
        "maxsize": 2_000,
        "overflow": tt.Block(),
    }
    async with tt.open_pipeline(_Feed(script), variant.handler, **settings) as pipeline:
        await pipeline.wait()
    assert pipeline.report.produced == pipeline.report.consumed
    return figures[0]


@attrs.frozen
class _Feed:
    script: Callable[[Any], Awaitable[None]]

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        await self.script(send)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print one table for each group.

    With ``--check`` return 1 if processes scale worse than they must.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.executors", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a run")
    parser.add_argument("--only", choices=list(GROUPS), help="one group")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    os.environ[_ROUNDS] = str(calibrate())
    logging.disable(logging.CRITICAL)
    missed = []
    for group in [options.only] if options.only else GROUPS:
        variants = GROUPS[group]
        runs: dict[str, list[Figures]] = {variant.label: [] for variant in variants}
        for number in range(options.rounds):
            for variant in variants if number % 2 == 0 else variants[::-1]:
                runs[variant.label].append(measure(variant, options.seconds))
            print(
                f"  {group}, round {number + 1} of {options.rounds}, load {os.getloadavg()[0]:.1f}",
                file=sys.stderr,
                flush=True,
            )
        print(
            f"\n{group}\n{'':14}{'ticks/s':>10}{'against':>10}{'parent µs':>11}{'hand-over ms':>14}"
        )
        base = runs[variants[0].label]
        against = {}
        for label, rows in runs.items():
            against[label] = median(
                mine.per_s / theirs.per_s for mine, theirs in zip(rows, base, strict=True)
            )
            rate, cpu_us, hand_over_ms = (
                median(getattr(row, name) for row in rows)
                for name in ("per_s", "parent_us", "hand_over_ms")
            )
            print(
                f"{label:14}{rate:10,.0f}{against[label]:10.2f}{cpu_us:11.1f}{hand_over_ms:14.2f}"
            )
        if group == "200 µs of pure Python":
            two = runs["2 processes"]
            limit = median(
                mine.per_s / theirs.per_s
                for mine, theirs in zip(runs["2 bare"], runs["1 bare"], strict=True)
            )
            over_loop = median(
                mine.per_s / theirs.per_s for mine, theirs in zip(two, runs["loop"], strict=True)
            )
            print(
                f"2 processes over one: {against['2 processes']:.2f}, "
                f"over the loop: {over_loop:.2f}; "
                f"bare, 2 over 1: {limit:.2f}"
            )
            missed += ["1.8 x one process"] * (against["2 processes"] < 1.8) + [
                "1.7 x the loop"
            ] * (over_loop < 1.7)
        if group == "5 ms of waiting":
            missed += ["28.8 x one thread"] * (against["32 threads"] < 0.9 * 32)
    for text in missed:
        print(f"missed: {text}", file=sys.stderr)
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
