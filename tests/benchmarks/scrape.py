"""``python -m tests.benchmarks.scrape``: what a scrape every second costs a pipeline.

Also how long one scrape takes. Rules: short stretches with one scrape and stretches
without alternate within one run, so that a slow moment of the machine is slow for both,
and each pair gives one ratio; the share that a scrape takes of its stretch is then the
share that it takes of a second. Another process scrapes, as Prometheus does. The ledger
counts what was handled, and its law is checked at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import trio
from prometheus_client import CollectorRegistry, generate_latest

import trio_ticks as tt
from trio_ticks.observability.prometheus import export_metrics

from .machine import facts
from .stats import median, quantile

__all__ = ["main", "measure_effect", "measure_scrapes"]

BATCH = 200
PAUSE_S = 0.005
MOST_EFFECT = 0.02
MOST_SCRAPE_MS = 50.0


def make_ticks(symbols: int) -> list[tt.Tick]:
    """Return some ticks of *symbols* symbols; each symbol at least once."""
    now = datetime.now(UTC)
    return [
        tt.Tick(f"SYM{n % symbols:05}", now, 100.0, 100.5, 2.0, 1.0, n)
        for n in range(max(10_000, symbols))
    ]


class Feed:
    """Sends batches at *rate* ticks a second, or flat out, until cancelled."""

    def __init__(self, symbols: int, rate: float | None) -> None:
        ticks = make_ticks(symbols)
        self._batches = [ticks[at : at + BATCH] for at in range(0, len(ticks), BATCH)]
        self._rate = rate

    async def run(self, send: Any) -> None:
        """Send for ever. Ticks that fell behind schedule are made up for."""
        sent, began = 0, trio.current_time()
        for batch in itertools.cycle(self._batches):
            await send.send_many(batch)
            sent += len(batch)
            if self._rate is not None and began + sent / self._rate > trio.current_time():
                await trio.sleep(PAUSE_S)


async def handle(tick: tt.Tick) -> float:
    """Do next to nothing, so that the pipeline itself is measured."""
    return tick.bid + tick.ask


@contextmanager
def scraper(url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that scrapes once for each line on its standard input.

    It answers each line with the time that the scrape took.
    """
    command = [sys.executable, "-m", "tests.benchmarks.scrape", "--scraper", url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def scrape_for(url: str) -> None:
    """Scrape *url* once for each line of standard input."""
    for _line in sys.stdin:
        began = time.perf_counter()
        with urllib.request.urlopen(url, timeout=30) as response:
            size = len(response.read())
        print(json.dumps({"ms": (time.perf_counter() - began) * 1e3, "bytes": size}), flush=True)


async def measure_effect(
    *, rate: float | None, seconds: float, pairs: int, symbols: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Return ticks handled a second, with a scrape in each stretch and without.

    Pair by pair, a second of the clock and a second of CPU time.

    Args:
        rate: ticks a second; ``None``: as fast as they are handled.
        seconds: how long a stretch is.
        pairs: how many stretches of each kind.
        symbols: how many there are.
        seed: for the random choice of which comes first in each pair.
    """
    dice = random.Random(seed)
    stretches: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    answers: list[dict[str, float]] = []
    async with tt.open_pipeline(
        Feed(symbols, rate), handle, maxsize=10_000, overflow=tt.Block(), shutdown_timeout=0
    ) as pipeline:
        with scraper(await pipeline.serve_metrics(0)) as process:
            asked, answered = process.stdin, process.stdout
            assert asked is not None
            assert answered is not None

            async def scrape() -> None:
                asked.write(b"\n")
                asked.flush()
                answers.append(json.loads(await trio.to_thread.run_sync(answered.readline)))

            await scrape()
            answers.clear()
            for _ in range(pairs):
                for scraping in dice.sample([True, False], 2):
                    began, cpu, handled = (
                        time.perf_counter(),
                        time.process_time(),
                        pipeline.ledger.consumed,
                    )
                    if scraping:
                        await scrape()
                    await trio.sleep(max(0.0, began + seconds - time.perf_counter()))
                    count = pipeline.ledger.consumed - handled
                    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
                    stretches[scraping].append(
                        {"per_s": count / wall_s, "per_cpu_s": count / cpu_s}
                    )
    unaccounted = pipeline.report.ledger.unaccounted
    if unaccounted:
        raise AssertionError(f"{unaccounted} ticks unaccounted for")
    result: dict[str, Any] = {
        "rate": rate,
        "symbols": symbols,
        "scrape_ms": median(answer["ms"] for answer in answers),
    }
    for unit in ("per_s", "per_cpu_s"):
        with_, without = (
            [stretch[unit] for stretch in stretches[scraping]] for scraping in (True, False)
        )
        # A scrape takes its part of a stretch; once a second it takes that of a second.
        ordered = sorted(
            1 - (1 - one / other) * seconds for one, other in zip(with_, without, strict=True)
        )
        low, high = quantile(ordered, 0.25), quantile(ordered, 0.75)
        result[unit] = {
            "without": median(without),
            "ratio": median(ordered),
            "standard_error": 1.253 * (high - low) / 1.349 / math.sqrt(pairs),
            "ratios": ordered,
        }
    return result


async def measure_scrapes(
    *, symbols: int, labels: int, workers: int, scrapes: int
) -> dict[str, Any]:
    """Return how long one scrape blocks the event loop.

    The queue holds *symbols* symbols; *labels* of them have series of their own.
    """
    registry = CollectorRegistry()

    async def slow(_tick: tt.Tick) -> None:
        await trio.sleep(0.005)

    took_ms: list[float] = []
    text = b""
    async with tt.open_pipeline(
        Feed(symbols, 100_000),
        slow,
        workers=workers,
        maxsize=symbols,
        overflow=tt.Conflate(),
        shutdown_timeout=0,
    ) as pipeline:
        with export_metrics(pipeline, registry, symbols=labels):
            await trio.sleep(0.5)
            for _ in range(scrapes):
                began = time.perf_counter()
                text = generate_latest(registry)
                took_ms.append((time.perf_counter() - began) * 1e3)
                await trio.sleep(0.02)
            queued = pipeline.ledger.queued
        pipeline.cancel()
    return {
        "symbols": symbols,
        "labels": labels,
        "workers": workers,
        "queued": queued,
        "lines": text.count(b"\n"),
        "ms": {"least": min(took_ms), "median": median(took_ms), "most": max(took_ms)},
    }


def report(results: dict[str, Any]) -> str:
    """Return the figures as text."""
    lines = [f"{'scraped once a second':44}{'unscraped':>12}{'ratio':>9}"]
    for effect in results["effect"]:
        name = f"{effect['rate']:,.0f} ticks/s" if effect["rate"] else "as fast as it goes"
        for unit, what in (("per_s", "handled a second"), ("per_cpu_s", "handled a CPU second")):
            figures = effect[unit]
            lines.append(
                f"{f'{name}, {what}':44}{figures['without']:>12,.0f}"
                f"{figures['ratio']:>9.4f} ± {figures['standard_error']:.4f}"
            )
    lines += ["", f"{'one scrape':44}{'lines':>6}{'least':>10}{'median':>10}{'most':>10}"]
    for scrape in results["scrapes"]:
        title = (
            f"{scrape['symbols']:,} symbols, {scrape['labels']:,} labelled, "
            f"{scrape['workers']} workers"
        )
        ms = scrape["ms"]
        lines.append(
            f"{title:44}{scrape['lines']:>6,}{ms['least']:>8.1f} ms"
            f"{ms['median']:>7.1f} ms{ms['most']:>7.1f} ms"
        )
    return "\n".join(lines)


def misses(results: dict[str, Any]) -> Sequence[str]:
    """Return which limits are missed.

    At full speed CPU time says more than the clock, which also counts the time that
    other processes on the machine take.
    """
    missed = [
        f"scraping takes more than {MOST_EFFECT:.0%} of the throughput"
        for effect in results["effect"]
        if effect["per_s" if effect["rate"] else "per_cpu_s"]["ratio"] < 1 - MOST_EFFECT
    ]
    return missed + [
        f"a scrape takes more than {MOST_SCRAPE_MS:.0f} ms"
        for s in results["scrapes"]
        if s["ms"]["median"] > MOST_SCRAPE_MS
    ]


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0, or 1 if a limit is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.scrape", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--pairs", type=int, default=150, help="stretches with a scrape, and as many without"
    )
    parser.add_argument("--seconds", type=float, default=0.25, help="length of a stretch")
    parser.add_argument("--scrapes", type=int, default=50, help="how many single scrapes are timed")
    parser.add_argument(
        "--symbols", type=int, default=10_000, help="symbols while single scrapes are timed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--scraper", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.scraper:
        scrape_for(options.scraper)
        return 0
    results: dict[str, Any] = {"machine": facts(), "effect": [], "scrapes": []}
    for rate in (100_000.0, None):
        print(
            f"measuring {'at 100,000 ticks/s' if rate else 'at full speed'} ...",
            file=sys.stderr,
            flush=True,
        )
        results["effect"].append(
            trio.run(
                partial(measure_effect, rate=rate, seconds=options.seconds, pairs=options.pairs)
            )
        )
    for labels, workers in ((0, 4), (100, 4), (1000, 4), (0, 64)):
        measure = partial(
            measure_scrapes,
            symbols=options.symbols,
            labels=labels,
            workers=workers,
            scrapes=options.scrapes,
        )
        results["scrapes"].append(trio.run(measure))
    print(report(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    missed = misses(results)
    for line in missed:
        print(f"MISSED: {line}")
    return int(bool(missed))


if __name__ == "__main__":
    logging.getLogger("trio_ticks").setLevel(logging.ERROR)  # The queue is meant to be full.
    sys.exit(main())
