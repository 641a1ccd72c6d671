"""The processes of one run, and the order of its events."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from tests.soak_brokers.judge import Judge
from tests.soak_brokers.market import counts
from tests.soak_brokers.stations import ZEROMQ, Station

__all__ = ["RATE", "Program", "RunError", "Stage"]

RATE = 8000
"""Ticks a second, of all ingests together."""


class RunError(Exception):
    """A run did not get to its end, or a process was not as it should be."""


class Program:
    """A process of :mod:`tests.soak_brokers.child`."""

    def __init__(self, half: str, spec: dict[str, Any]) -> None:
        self.half = half
        command = [sys.executable, "-m", "tests.soak_brokers.child", half, json.dumps(spec)]
        with Path(spec["errors"]).open("ab") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        self.told: dict[str, Any] = {"shards": 0, "appended": 0}
        """What it said last."""
        self.killed = False
        assert self.process.stdout is not None
        self._stream = trio.lowlevel.FdStream(os.dup(self.process.stdout.fileno()))

    async def read(self) -> None:
        """Take note of what it says, until its end."""
        rest = b""
        async with self._stream:
            async for data in self._stream:
                *lines, rest = (rest + data).split(b"\n")
                if lines:
                    self.told = json.loads(lines[-1])

    def says(self, what: str) -> bool:
        """Tell whether *what* is true, or not 0, by what it said last."""
        return bool(self.told.get(what))

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def begin(self) -> None:
        """Have an ingest begin to send, or a worker that waits begin."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.killed = self.killed or number == signal.SIGKILL
        self.process.send_signal(number)

    async def ended(self) -> dict[str, Any]:
        """Wait for its end in good order, and return what it said last.

        Raises:
            RunError: it ended with an error, or without a ledger.
        """
        code = await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)
        # The last words may still be on their way through the pipe.
        with trio.move_on_after(5):
            while "ledger" not in self.told:  # noqa: ASYNC110  # another task reads
                await trio.sleep(0.01)
        if code or "ledger" not in self.told:
            raise RunError(f"{self.half} ended with {code}; it said {self.told}")
        return self.told

    def close(self) -> None:
        """End it if it has not ended."""
        self.process.kill()
        self.process.wait()
        for end in (self.process.stdin, self.process.stdout):
            if end is not None:
                end.close()


class Stage:
    """One run: its broker, its processes, and what they have handled.

    Args:
        nursery: for what the processes say.
        station: the broker.
        folder: for the logs.
        seed: of the ticks and of the moments.
        count: how many ticks are sent over all.
        ingests: how many processes send them.
        groups: of workers, each of which gets every tick.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        station: Station,
        folder: Path,
        seed: int,
        *,
        count: int,
        ingests: int = 1,
        groups: tuple[str, ...] = ("workers",),
    ) -> None:
        self.station = station
        self.chance = random.Random(seed)
        self.count = count
        self.folder = folder
        self.ingests: list[Program] = []
        self.workers: dict[str, list[Program]] = {group: [] for group in groups}
        self.gone: list[Program] = []
        """Workers that left in good order."""
        self.spare: list[Program] = []
        """Workers that wait for their turn: a process takes seconds to start."""
        self._nursery = nursery
        self._parts = [(seed * 100 + number, f"I{number}-") for number in range(ingests)]
        self._each = count // ingests
        sent: Counter[str] = Counter()
        for number, prefix in self._parts:
            sent += counts(number, self._each, prefix)
        self.judges = {group: Judge(folder / group, sent) for group in groups}

    # Processes

    def _start(self, half: str, spec: dict[str, Any]) -> Program:
        program = Program(half, {**spec, "errors": str(self.folder / "errors")})
        self._nursery.start_soon(program.read)
        return program

    def start_ingests(self) -> None:
        """Start them; they do not send yet."""
        for number, (seed, prefix) in enumerate(self._parts):
            spec = {
                "buffer": self.station.buffer(ingest=number),
                "seed": seed,
                "count": self._each,
                "prefix": prefix,
                "rate": RATE / len(self._parts),
            }
            self.ingests.append(self._start("ingest", spec))

    def start_worker(self, group: str = "workers", *, waits: bool = False) -> Program:
        """Start one more worker; one that *waits* is not at work yet."""
        spec = {
            "buffer": self.station.buffer(group=group),
            "log": str(self.judges[group].log),
            "waits": waits,
        }
        worker = self._start("work", spec)
        (self.spare if waits else self.workers[group]).append(worker)
        return worker

    def begin_spare(self) -> Program:
        """Have a worker that waits begin."""
        worker = self.spare.pop()
        self.workers["workers"].append(worker)
        worker.begin()
        return worker

    def close(self) -> None:
        """End all processes."""
        for program in [*self.ingests, *self.everyone(), *self.gone, *self.spare]:
            program.close()

    # Events

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds, or a process has ended that should not have.

        Raises:
            RunError: one has.
        """
        while not condition():
            self.check_processes()
            await trio.sleep(0.02)

    def check_processes(self) -> None:
        """Raise if a process has ended by itself with an error.

        Raises:
            RunError: one has.
        """
        for program in [*self.ingests, *self.everyone()]:
            code = program.process.poll()
            if code and not program.killed:
                raise RunError(f"{program.half} ended with {code}: {self.errors()}")

    def errors(self) -> str:
        """Return the end of what the processes wrote as errors."""
        path = self.folder / "errors"
        return path.read_text(errors="replace")[-1500:] if path.exists() else ""

    def everyone(self) -> list[Program]:
        """Return the workers of all groups, but for those that left."""
        return [worker for group in self.workers.values() for worker in group]

    def living(self, group: str = "workers") -> list[Program]:
        """Return the workers of *group* that were not killed."""
        return [each for each in self.workers[group] if not each.killed]

    def all_held(self) -> bool:
        """Tell whether each worker has shards, and each shard one worker."""
        every = self.station.shards * (len(self._parts) if self.station.kind == ZEROMQ else 1)
        for group in self.workers:
            shards = [each.told["shards"] for each in self.living(group)]
            if not all(shards) or sum(shards) != every:
                return False
        return True

    async def begin(self, *, workers: int, spare: int = 0) -> None:
        """Start the ingests, and in each group *workers*; have the ingests send."""
        for _ in range(spare):
            self.start_worker(waits=True)
        self.start_ingests()
        for group in self.workers:
            for _ in range(workers):
                self.start_worker(group)
        await self.until(self.all_held)
        for ingest in self.ingests:
            ingest.begin()

    async def until_says(self, worker: Program, what: str) -> None:
        """Wait until *worker* says *what*.

        Raises:
            RunError: the ingests came to their end first. A worker that finds none of
                them would wait for ever.
        """

        def is_over() -> bool:
            return all(each.process.poll() is not None for each in self.ingests)

        await self.until(lambda: worker.says(what) or is_over())
        if not worker.says(what):
            raise RunError(
                f"all ticks were sent before a worker had {what}: the machine is too slow for this"
            )

    async def until_part(self, part: float) -> None:
        """Wait until *part* of the ticks was handled in each group."""

        def reached() -> bool:
            for judge in self.judges.values():
                judge.read()
            return all(judge.handled >= part * self.count for judge in self.judges.values())

        await self.until(reached)

    async def complete(self) -> None:
        """Wait until each group has handled all."""

        def complete() -> bool:
            for judge in self.judges.values():
                judge.read()
            return all(judge.is_complete for judge in self.judges.values())

        await self.until(complete)

    async def finish(self) -> dict[str, Any]:
        """Have all processes end, and return the sums of what they counted.

        Raises:
            RunError: a law is broken, or a process ended with an error.
        """
        last = [await ingest.ended() for ingest in self.ingests]
        everyone = [each for group in self.workers for each in self.living(group)]
        for worker in everyone:
            worker.signal(signal.SIGTERM)
        words = [await worker.ended() for worker in [*everyone, *self.gone]]
        for judge in self.judges.values():
            judge.read()
        appended = sum(each["ledger"]["consumed"] for each in last)
        lost = [each["ledger"] for each in [*last, *words] if each["ledger"]["dropped"]]
        if appended != self.count or lost:
            raise RunError(f"appended {appended} of {self.count}; dropped in {lost}")
        names = ("redelivered", "given_back", "fenced", "takeovers", "reconnects")
        sums = {name: sum(each[name] for each in words) for name in names}
        sums["duplicates"] = sum(each["duplicates"] for each in last)
        return sums
