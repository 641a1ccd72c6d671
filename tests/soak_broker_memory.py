"""Memory of an ingest and of a worker is flat, without the broker and with a full one.

``python -m tests.soak_broker_memory [--minutes 10] [--kind redis]``. Each phase takes
its minutes, by default ten at Redis and two elsewhere. What was measured is written
down every few seconds, and a phase that is through is not run again, unless it was
shorter than it is to be. It exits with 1 if memory grew, or a law was broken: each
process checks its own twenty times a second.

``away``: the server was killed; ZeroMQ has none, so its ingest has no worker, and its
worker no ingest. ``full``: the workers take a hundred and sixty ticks a second, the
ingest brings 8,000, and drops the oldest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from tests.soak_brokers.stage import RATE, Program
from tests.soak_brokers.stations import KAFKA, ZEROMQ, Station
from tests.worlds.kafka_world import Broker, open_broker
from tests.worlds.servers import Server, free_port, running

RECORDS = Path(__file__).parents[1] / "docs" / "_static" / "brokers-memory.jsonl"
KINDS = ("valkey", "redis", KAFKA, ZEROMQ)
PHASES = ("away", "full")
MINUTES = {"valkey": 10.0, "redis": 10.0, KAFKA: 2.0, ZEROMQ: 2.0}
WARM = 0.3
"""The part of a phase after which everything has its size."""
GROWTH_MB = 4.0
"""How much a process may grow from then on: allocators round up."""
SAMPLE_S = 2.0
SIZE = 20_000
"""Ticks that the broker takes."""
PAUSE_S = 0.05


@attrs.define
class Phase:
    """What was seen of one phase."""

    kind: str
    phase: str
    minutes: float
    samples: list[dict[str, float]] = attrs.Factory(list)

    def record(self, *, whole: bool) -> dict[str, Any]:
        """Return what is written down; *whole*: the phase is through."""
        warm = [each for each in self.samples if each["s"] >= WARM * 60 * self.minutes]
        growth = {
            half: round(max(each[half] for each in warm) - warm[0][half], 2) if warm else 0.0
            for half in ("ingest_mb", "work_mb")
        }
        last = self.samples[-1]
        return {
            "kind": self.kind,
            "phase": self.phase,
            "minutes": self.minutes,
            "whole": whole,
            **last,
            "most_ingest_mb": max(each["ingest_mb"] for each in self.samples),
            "most_work_mb": max(each["work_mb"] for each in self.samples),
            "ingest_growth_mb": growth["ingest_mb"],
            "work_growth_mb": growth["work_mb"],
            "held": not whole or max(growth.values()) <= GROWTH_MB,
        }


def resident_mb(pid: int) -> float:
    """Return the memory that the process *pid* has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 2)


@contextmanager
def opened(kind: str) -> Iterator[tuple[Station, Server | Broker | None]]:
    """Start a broker of *kind*, and what can be killed of it."""
    if kind == ZEROMQ:
        yield Station(kind, 64, 2.0, ports=(free_port(), free_port())), None
    elif kind == KAFKA:
        with open_broker() as broker:
            yield Station(kind, 8, 2.0, broker.address), broker
    else:
        with running(kind) as server:
            yield Station(kind, 64, 2.0, server.url, server), server


def specs(station: Station, folder: Path, phase: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the ingest and the worker are told."""
    bound = {"window": 4096} if station.kind == ZEROMQ else {"maxsize": SIZE}
    ingest, worker = station.buffer(ingest=0), station.buffer()
    if station.kind == ZEROMQ:
        # The second address is nobody's.
        worker["addresses"] = worker["addresses"][1:] if phase == "away" else ingest["bind"]
    common = {"errors": str(folder / "errors")}
    return (
        {
            **common,
            "buffer": {**ingest, **bound},
            "seed": 1,
            "count": 10**9,
            "prefix": "S",
            "rate": RATE,
            "drop": True,
        },
        {
            **common,
            "buffer": worker if station.kind == ZEROMQ else {**worker, **bound},
            "log": os.devnull,
            "pause_s": PAUSE_S,
        },
    )


def check(programs: tuple[Program, ...], errors: Path) -> None:
    """Raise if a process has ended."""
    for program in programs:
        if program.process.poll() is not None:
            raise RuntimeError(f"{program.half} ended: {errors.read_text()[-2000:]}")


async def until(condition: Any, programs: tuple[Program, ...], errors: Path) -> None:
    """Wait until *condition* holds; raise if a process has ended."""
    with trio.fail_after(120):
        while not condition():
            check(programs, errors)
            await trio.sleep(0.05)


async def play(seen: Phase, path: Path) -> None:
    """Play one phase, and write down what is seen of it."""
    with tempfile.TemporaryDirectory() as name, opened(seen.kind) as (station, broker):
        folder = Path(name)
        to_ingest, to_worker = specs(station, folder, seen.phase)
        ingest, worker = Program("ingest", to_ingest), Program("work", to_worker)
        programs = ingest, worker
        try:
            async with trio.open_nursery() as nursery:
                for program in programs:
                    nursery.start_soon(program.read)
                # Of an ingest without a worker, and a worker without an ingest, no more
                # can be said than that they run.
                alone = seen.kind == ZEROMQ and seen.phase == "away"
                await until(lambda: alone or worker.told["shards"], programs, folder / "errors")
                ingest.begin()
                if seen.phase == "away" and broker is not None:
                    await until(lambda: ingest.told["appended"], programs, folder / "errors")
                    broker.kill()
                # Its own queue is full as well.
                await until(lambda: ingest.told.get("dropped"), programs, folder / "errors")
                await sample(seen, programs, path, folder / "errors")
                nursery.cancel_scope.cancel()
        finally:
            for program in programs:
                program.signal(signal.SIGKILL)
                program.close()


async def sample(seen: Phase, programs: tuple[Program, Program], path: Path, errors: Path) -> None:
    """Measure until the phase is over."""
    ingest, worker = programs
    began, written = time.monotonic(), 0.0
    while (now := time.monotonic() - began) < seen.minutes * 60:
        check(programs, errors)
        seen.samples.append(
            {
                "s": round(now, 1),
                "ingest_mb": resident_mb(ingest.pid),
                "work_mb": resident_mb(worker.pid),
                "produced": ingest.told["produced"],
                "dropped": ingest.told["dropped"],
                "handled": worker.told["acknowledged"],
            }
        )
        if now - written > 10:
            written = now
            append(path, seen.record(whole=False))
        await trio.sleep(SAMPLE_S)
    append(path, seen.record(whole=True))


def append(path: Path, record: dict[str, Any]) -> None:
    """Write one line down."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def through(path: Path) -> dict[tuple[str, str], float]:
    """Return which phases are through, and how many minutes each took."""
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [each for each in map(json.loads, lines) if each["whole"]]
    found: dict[tuple[str, str], float] = {}
    for each in whole:
        phase = each["kind"], each["phase"]
        found[phase] = max(each["minutes"], found.get(phase, 0.0))
    return found


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak_broker_memory")
    parser.add_argument("--minutes", type=float, help="of each phase")
    parser.add_argument("--kind", action="append", choices=KINDS, default=[])
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--anew", action="store_true", help="forget what is there")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.anew:
        options.records.unlink(missing_ok=True)
    done, all_held = through(options.records), True
    for kind in options.kind or KINDS:
        for phase in PHASES:
            minutes = options.minutes or MINUTES[kind]
            if done.get((kind, phase), 0.0) >= minutes:
                continue
            seen = Phase(kind, phase, minutes)
            trio.run(play, seen, options.records)
            record = seen.record(whole=True)
            all_held = all_held and record["held"]
            print("held  " if record["held"] else "MISSED", json.dumps(record), flush=True)
    return not all_held


if __name__ == "__main__":
    sys.exit(main())
