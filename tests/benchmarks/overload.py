"""Every answer to a full queue under the same overload, side by side.

Shows what was handled, what was dropped and why, and how old it was. Runs on a virtual
clock unless told otherwise: the figures are then exact, and the same on every machine.
Ticks are stamped with the time at which they were *due*, so that a feed that
backpressure holds up does not hide the delay.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import trio
import trio.testing

import trio_ticks as tt

__all__ = ["STRATEGIES", "Load", "Result", "main", "run_one"]

STRATEGIES: dict[str, Any] = {
    "Block()": tt.Block(),
    "DropNewest(timeout=1.0)": tt.DropNewest(timeout=1.0),
    "DropNewest(max_per_symbol=10)": tt.DropNewest(timeout=0.0, max_per_symbol=10),
    "DropOldest()": tt.DropOldest(),
    "DropOldest(longest_line=True)": tt.DropOldest(longest_line=True),
    "Conflate()": tt.Conflate(),
}


@attrs.frozen
class Load:
    """The rate of the ticks, and the time that it takes to handle them."""

    symbols: int = 100
    workers: int = 4
    service_s: float = 0.005
    overload: float = 10.0
    seconds: float = 30.0
    maxsize: int = 1000

    @property
    def capacity(self) -> float:
        """Ticks a second that the workers can take."""
        return self.workers / self.service_s

    @property
    def conflate_bound_s(self) -> float:
        """Twice the time of one round over all symbols."""
        return 2 * self.symbols * self.service_s / self.workers


@attrs.frozen
class Result:
    """How many ticks of the load were handled or dropped, and how old they were."""

    strategy: str
    produced: int
    handled: int
    dropped: dict[str, int]
    age_p50_s: float
    age_p99_s: float
    age_max_s: float
    blocked_s: float
    symbols_current: int
    """Symbols of which the last tick produced was also handled."""


class _Feed:
    """Ticks in bursts at a mean rate; its schedule does not wait for the channel."""

    def __init__(self, load: Load, seed: int) -> None:
        self._load = load
        self._random = random.Random(seed)
        self.last: dict[str, float] = {}

    def _batches(self) -> Iterator[tuple[float, int]]:
        """Give each batch's due time and size: Poisson arrivals of geometric bursts."""
        mean_burst, now = 8.0, 0.0
        rate = self._load.capacity * self._load.overload / mean_burst
        while (now := now + self._random.expovariate(rate)) < self._load.seconds:
            yield now, 1 + int(self._random.expovariate(1 / (mean_burst - 0.5)))

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        began, wall, number = trio.current_time(), datetime.now(UTC), 0
        for due, size in self._batches():
            if trio.current_time() - began > self._load.seconds:
                return
            await trio.sleep_until(began + due)
            stamp = wall + timedelta(seconds=due)
            batch = []
            for _ in range(size):
                number += 1
                symbol = f"S{self._random.randrange(self._load.symbols):03d}"
                self.last[symbol] = float(number)
                batch.append(tt.Tick(symbol, stamp, 1.0, 1.1, 1.0, 1.0, float(number)))
            await send.send_many(batch)


async def _measure(name: str, strategy: Any, load: Load, seed: int) -> Result:
    feed = _Feed(load, seed)
    handled: dict[str, float] = {}

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(load.service_s)
        handled[tick.symbol] = tick.volume

    async with tt.open_pipeline(
        feed,
        handler,
        workers=load.workers,
        maxsize=load.maxsize,
        overflow=strategy,
        shutdown_timeout=3600,
    ) as pipeline:
        await pipeline.wait()
    pipeline.ledger.check()
    report = pipeline.report
    return Result(
        strategy=name,
        produced=report.produced,
        handled=report.consumed,
        dropped={reason: count for reason, count in report.dropped_by_reason.items() if count},
        age_p50_s=report.processing_lag_ms.p50 / 1e3,
        age_p99_s=report.processing_lag_ms.p99 / 1e3,
        age_max_s=report.processing_lag_ms.max / 1e3,
        blocked_s=report.blocked_s,
        symbols_current=sum(handled.get(symbol) == last for symbol, last in feed.last.items()),
    )


def run_one(name: str, strategy: Any, load: Load, *, seed: int = 1, real: bool = False) -> Result:
    """Run one strategy under *load* and return what became of it."""
    clock = None if real else trio.testing.MockClock(autojump_threshold=0)
    return trio.run(_measure, name, strategy, load, seed, clock=clock)


def table(results: list[Result], load: Load) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| strategy | produced | handled | dropped | age p50 | age p99 | blocked "
        "| symbols up to date at the end |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for result in results:
        dropped = (
            ", ".join(f"{count:,} {reason}" for reason, count in result.dropped.items()) or "none"
        )
        lines.append(
            f"| `{result.strategy}` | {result.produced:,} | {result.handled:,} | {dropped} "
            f"| {result.age_p50_s:.2f} s | {result.age_p99_s:.2f} s | {result.blocked_s:.1f} s "
            f"| {result.symbols_current} of {load.symbols} |"
        )
    return "\n".join(lines)


def plot(results: list[Result], load: Load, path: Path) -> None:
    """Draw handled against age, a bar a strategy."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "trio_ticks"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(10, 3.4), sharey=True, layout="constrained"
    )
    names = [result.strategy for result in results][::-1]
    left.barh(
        names,
        [result.age_p99_s for result in results][::-1],
        color="#b8c4d6",
        edgecolor="#333",
        hatch="//",
        label="p99",
    )
    left.barh(
        names,
        [result.age_p50_s for result in results][::-1],
        color="#1f5fa8",
        edgecolor="#333",
        height=0.45,
        label="p50",
    )
    left.set_xscale("log")
    left.axvline(load.conflate_bound_s, color="#333", linestyle="--", linewidth=1)
    left.set_xlabel("age when handled, s (log scale)")
    left.legend(loc="lower right")
    right.barh(
        names,
        [100 * result.symbols_current / load.symbols for result in results][::-1],
        color="#d98c21",
        edgecolor="#333",
    )
    right.set_xlabel("symbols up to date at the end, %")
    right.set_xlim(0, 100)
    figure.savefig(path, metadata={"Date": None})


def main(arguments: list[str] | None = None) -> None:
    """Run all strategies and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.overload", description=__doc__
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--symbols", type=int, default=100)
    parser.add_argument(
        "--overload", type=float, default=10.0, help="times what the workers can take"
    )
    parser.add_argument("--real", action="store_true", help="in real time, not on a virtual clock")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    options = parser.parse_args(arguments)
    logging.getLogger("trio_ticks").setLevel(logging.ERROR)
    load = Load(seconds=options.seconds, symbols=options.symbols, overload=options.overload)
    results = [
        run_one(name, strategy, load, real=options.real) for name, strategy in STRATEGIES.items()
    ]
    print(table(results, load))
    print(
        "\nbound for Conflate: p99 age below 2 x symbols x service time / workers "
        f"= {load.conflate_bound_s:.2f} s"
    )
    if options.json:
        options.json.write_text(json.dumps([attrs.asdict(result) for result in results], indent=1))
    if options.plot:
        plot(results, load, options.plot)


if __name__ == "__main__":
    main()
