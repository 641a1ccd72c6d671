"""``kill -9`` of a worker process every second, under load.

``python -m tests.soak_kill [--seconds 30]`` takes its time, so it is no test. It exits
with 1 if something hangs; if a tick is not accounted for, handled twice, or out of its
order; or if a killed worker handles nothing again within a second.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import attrs
import trio

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.process_handlers import TellsLittle, read
from tests.worlds.process_world import workers_now

SYMBOLS = [f"S{number}" for number in range(12)]
WORKERS = 2
WARM_UP_S = 3.0
RETURN_S = 1.0
"""How long a killed worker may take to handle ticks again."""


@attrs.define
class Seen:
    """What was seen on the way."""

    returns_s: list[float] = attrs.field(factory=list)
    """How long each killed worker took to handle ticks again."""
    rates: list[float] = attrs.field(factory=list)
    """Ticks handled in each second, per second, kills and all."""
    undisturbed_per_s: float = 0.0
    failed: int = 0
    laws: int = 0


class Flood:
    """A feed that always has more."""

    async def run(self, send: tt.TickSendChannel[Any]) -> None:
        first = 0
        while True:
            await send.send_many(make_ticks(200, SYMBOLS, first))
            first += 200


def handled_by(pipeline: tt.Pipeline[Any]) -> dict[str, int]:
    """Return how many ticks each worker has handled."""
    return {row.metrics.name: row.metrics.consumed for row in pipeline.worker_statistics().rows}


async def kill_and_watch(pipeline: tt.Pipeline[Any], seconds: float, seen: Seen) -> None:
    """Kill a process every second; wait for its worker to handle something again."""
    rng = random.Random(1)
    before, began = pipeline.ledger.consumed, trio.current_time()
    await trio.sleep(WARM_UP_S)
    seen.undisturbed_per_s = (pipeline.ledger.consumed - before) / (trio.current_time() - began)
    for second in range(round(seconds)):
        before, began = pipeline.ledger.consumed, trio.current_time()
        restarts = pipeline.worker_statistics().restarts
        os.kill(rng.choice(sorted(workers_now())), signal.SIGKILL)
        while pipeline.worker_statistics().restarts == restarts:  # noqa: ASYNC110 - a counter sets no event
            await trio.sleep(0.002)
        # Each worker, killed or not, has to handle something again.
        handled = handled_by(pipeline)
        while any(handled_by(pipeline)[name] == count for name, count in handled.items()):  # noqa: ASYNC110
            await trio.sleep(0.002)
        seen.returns_s.append(trio.current_time() - began)
        pipeline.ledger.check()
        seen.laws += 1
        await trio.sleep_until(began + 1)
        seen.rates.append((pipeline.ledger.consumed - before) / (trio.current_time() - began))
        print(
            f"{second + 1:3} s  back after {seen.returns_s[-1]:.2f} s  "
            f"{seen.rates[-1]:6,.0f}/s  failed {pipeline.ledger.failed}",
            flush=True,
        )


def twice_or_astray(path: Path) -> tuple[int, int]:
    """Return how many ticks were recorded, and how many twice or out of order."""
    by_symbol: dict[str, list[int]] = defaultdict(list)
    for line in read(path):
        by_symbol[line.symbol].append(line.number)
    wrong = sum(
        one >= other for numbers in by_symbol.values() for one, other in itertools.pairwise(numbers)
    )
    return sum(map(len, by_symbol.values())), wrong


def verdicts(
    report: tt.PipelineReport, seen: Seen, told: int, wrong: int, kills: int
) -> dict[str, bool]:
    """Return what there is to say, and whether it is as it should be."""
    ledger = report.ledger
    slowest = max(seen.returns_s, default=0.0)
    mean = sum(seen.rates) / len(seen.rates) if seen.rates else 0.0
    return {
        f"{kills} kills, {report.worker_restarts} processes replaced": report.worker_restarts
        == kills
        == len(seen.returns_s),
        f"a killed worker handled ticks again after {slowest:.2f} s at most ({RETURN_S:g})": slowest
        <= RETURN_S,
        f"every tick accounted for, {ledger.unaccounted} not": not ledger.unaccounted
        and ledger.produced == ledger.consumed + ledger.failed + ledger.dropped,
        f"each kill cost one tick at most: {ledger.failed} failed, all told": ledger.failed
        == seen.failed
        <= kills,
        f"{told:,} told, {ledger.consumed:,} counted as handled": 0
        <= told - ledger.consumed
        <= ledger.failed + WORKERS,
        f"{wrong} handled twice, or out of order": not wrong,
        f"{mean:,.0f}/s with a kill a second, {seen.undisturbed_per_s:,.0f}/s without": mean > 0,
    }


async def soak(seconds: float, path: Path) -> bool:
    """Run, print what was seen, and return whether every bound held."""
    seen = Seen()

    def on_error(_item: Any, error: Exception) -> None:
        assert isinstance(error, tt.WorkerCrashedError)
        seen.failed += 1

    with trio.fail_after(seconds + 60):
        async with tt.open_pipeline(
            Flood(),
            TellsLittle(str(path)),
            executor="process",
            workers=WORKERS,
            overflow=tt.Block(),
            on_error=on_error,
        ) as pipeline:
            while not pipeline.ledger.consumed:  # noqa: ASYNC110 - a counter sets no event
                await trio.sleep(0.01)
            await kill_and_watch(pipeline, seconds, seen)
    told, wrong = twice_or_astray(path)
    print(pipeline.report)
    results = verdicts(pipeline.report, seen, told, wrong, round(seconds))
    for text, held in results.items():
        print("held  " if held else "MISSED", text)
    return all(results.values())


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak_kill", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    logging.disable()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        held = trio.run(soak, options.seconds, Path(folder) / "told")
    print(f"{time.monotonic() - began:.0f} s")
    return not held


if __name__ == "__main__":
    sys.exit(main())
