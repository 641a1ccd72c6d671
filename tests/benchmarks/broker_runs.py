"""One run of the section ``brokers``: a server, who brings ticks, and who handles them.

Rules: each is a process of its own, started anew for each run, on 127.0.0.1. A run in
which a tick is lost or comes twice is no result but a failure.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

import attrs

from tests.worlds.kafka_world import open_broker
from tests.worlds.servers import free_port, running

from .broker_child import Task, make_ticks
from .runner import ROOT, ContenderError

__all__ = ["KAFKA", "Outcome", "Program", "outcome_of", "run"]

_TIMEOUT_S: Final = 120.0
KAFKA: Final[dict[str, Any]] = {
    "partitions": 8,
    # The server lets a group wait for half of that when a worker joins.
    "consumer_settings": {"session.timeout.ms": 2000, "heartbeat.interval.ms": 200},
}
"""Settings of all Kafka clients here; whatever else there is stays at its default."""


@attrs.frozen(kw_only=True)
class Program:
    """What is run against what."""

    broker: str
    name: str
    """How the table shows it."""
    produce: str
    consume: str
    options: dict[str, Any] = attrs.field(factory=dict)
    """Further settings of the tasks."""
    ours: bool = True


@attrs.frozen
class Outcome:
    """What one run took."""

    ticks: int
    wall_s: float
    """From the word to begin to the last tick handled."""
    cpu_s: tuple[float, float, float]
    """CPU time: of who brings, of who handles, and of the server."""
    late_us: list[float]
    """When each tick was handled after it was brought; of timed runs."""

    @property
    def per_s(self) -> float:
        """Ticks a second."""
        return self.ticks / self.wall_s

    @property
    def cpu_us(self) -> tuple[float, ...]:
        """CPU time a tick, in microseconds."""
        return tuple(each / self.ticks * 1e6 for each in self.cpu_s)


class _Process:
    """One end, in a process of its own; its lines come from a thread."""

    def __init__(self, task: Task) -> None:
        told = attrs.asdict(task, filter=lambda field, value: value != field.default)
        command = [sys.executable, "-m", "tests.benchmarks.broker_process", json.dumps(told)]
        pipe = subprocess.PIPE
        self._role = task.role
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._errors = ""
        self._threads = [threading.Thread(target=each) for each in (self._read, self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors = self._process.stderr.read()

    def hear(self) -> dict[str, Any]:
        """Return the next line of it."""
        try:
            line = self._lines.get(timeout=_TIMEOUT_S)
        except queue.Empty:
            line = ""
        if not line:
            self.end()
            raise ContenderError(f"{self._role} said nothing:\n{self._errors[-4000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def go(self) -> None:
        """Give the word to begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


@contextlib.contextmanager
def _server(program: Program) -> Iterator[tuple[str, int | None]]:
    """Run the broker; give the place of it, and its process."""
    if program.broker == "redis":
        with running("valkey") as server:
            assert server.process is not None
            where = f"127.0.0.1:{server.port}"
            yield (f"redis://{where}/0" if program.ours else where), server.process.pid
    elif program.broker == "kafka":
        with open_broker() as broker:
            where = broker.address
            yield (f"kafka://{where}/ticks" if program.ours else where), broker.process.pid
    else:
        where = f"tcp://127.0.0.1:{free_port()}"
        yield (f"zmq+{where}" if program.ours else where), None


def _cpu_s(process: int | None) -> float:
    """Return the CPU time of a process that is not ours, as far as the system says."""
    if process is None:
        return 0.0
    try:
        with open(f"/proc/{process}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(program: Program, ticks: int, *, workers: int = 1, **settings: Any) -> Outcome:
    """Run *program* once, with *workers* processes that handle.

    Raises:
        ContenderError: a process failed, or a tick was lost or came twice.
    """
    processes: list[_Process] = []
    with _server(program) as (place, server):
        more: dict[str, Any] = {**program.options, **settings}
        if program.broker == "kafka":
            more["options"] = KAFKA
        task = Task(role=program.produce, place=place, ticks=ticks, workers=workers, **more)
        try:
            works = []
            for _ in range(workers):
                works.append(_Process(attrs.evolve(task, role=program.consume)))
                processes.append(works[-1])
            if program.broker == "zeromq":
                # A worker is ready when the ingest has given it its shards.
                ingest = _Process(task)
                processes.append(ingest)
                for each in works:
                    each.hear()
            else:
                for each in works:
                    each.hear()
                ingest = _Process(task)
                processes.append(ingest)
            ingest.hear()
            before_s = _cpu_s(server)
            ingest.go()
            accounts = [each.hear() for each in works]
            brought = ingest.hear()
            server_s = _cpu_s(server) - before_s
        finally:
            for each in processes:
                each.end()
    return outcome_of(program, ticks, brought, accounts, server_s)


def outcome_of(
    program: Program,
    ticks: int,
    brought: dict[str, Any],
    accounts: list[dict[str, Any]],
    server_s: float,
) -> Outcome:
    """Return what a run took, by the accounts of its processes.

    Raises:
        ContenderError: a tick was lost or came twice.
    """
    handled = sum(each["handled"] for each in accounts)
    total = sum(each["total"] for each in accounts)
    if handled != ticks or total != sum(tick.volume for tick in make_ticks(ticks, 1)):
        raise ContenderError(
            f"{program.broker}, {program.name}: {ticks} ticks were brought, {handled} handled"
        )
    sent = dict(brought["times"])
    late = [(ns - sent[number]) / 1e3 for each in accounts for number, ns in each["times"]]
    end_ns = max(each["last_ns"] for each in accounts)
    handling_s = sum(each["cpu_s"] for each in accounts)
    return Outcome(
        ticks,
        (end_ns - brought["begun_ns"]) / 1e9,
        (brought["cpu_s"], handling_s, server_s),
        late,
    )
