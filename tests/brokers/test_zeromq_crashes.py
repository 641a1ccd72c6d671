"""ZeroMQ workers as real processes: killed, and stopped beyond their lease."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import trio

from tests.worlds.zeromq_world import (
    Ingest,
    Queue,
    Strategy,
    in_order,
    open_world,
    repeats,
    supply,
    ticks,
    until,
)
from trio_ticks.brokers.zeromq import ZeroMQ


@contextmanager
def worker(
    address: str, path: Path, seconds: float = 0.0, poison: int = -1
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.worlds.zeromq_worker", address, str(path)]
    process = subprocess.Popen([*command, str(seconds), str(poison)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def numbers(path: Path, of: int | None = None) -> list[int]:
    """Return the ticks that were handled, in order; those *of* one process."""
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = [line.split() for line in lines]
    return [int(number) for number, process in pairs if of in (None, int(process))]


def is_over(process: subprocess.Popen[bytes], ingest: Ingest) -> bool:
    return process.poll() is not None or ingest.done.is_set()


async def test_a_killed_worker_loses_nothing_and_skips_nothing(tmp_path: Path) -> None:
    path = tmp_path / "handled"
    async with open_world() as world, trio.open_nursery() as nursery:
        queue, enough = Queue(), trio.Event()
        buffer = ZeroMQ(bind="tcp://127.0.0.1:0", window=400, heartbeat=0.1, lease=1.0)
        ingest = await world.ingest(buffer, queue)
        with worker(ingest.address, path) as first, worker(ingest.address, path) as second:
            await until(lambda: ingest.sink.statistics().reconnects)
            nursery.start_soon(supply, queue, enough)
            await until(lambda: all(len(numbers(path, each.pid)) > 200 for each in (first, second)))
            first.kill()
            await until(lambda: ingest.sink.statistics().redelivered)
            enough.set()
            await ingest.done.wait()
            second.send_signal(signal.SIGTERM)
            await until(lambda: second.poll() is not None)
            assert second.returncode == 0
    handled = numbers(path)
    assert set(handled) == set(range(queue.taken))
    assert in_order(handled)
    assert repeats(handled) <= 400


async def test_a_stopped_worker_hands_over_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "handled"
    async with open_world() as world, trio.open_nursery() as nursery:
        queue, enough = Queue(), trio.Event()
        buffer = ZeroMQ(bind="tcp://127.0.0.1:0", window=400, heartbeat=0.1, lease=1.0)
        ingest = await world.ingest(buffer, queue)
        with (
            worker(ingest.address, path, 0.001) as first,
            worker(ingest.address, path, 0.001) as second,
        ):
            await until(lambda: ingest.sink.statistics().reconnects)
            nursery.start_soon(supply, queue, enough)
            await until(lambda: all(len(numbers(path, each.pid)) > 200 for each in (first, second)))
            os.kill(first.pid, signal.SIGSTOP)
            await until(lambda: ingest.sink.statistics().redelivered)
            back = ingest.sink.statistics().reconnects
            os.kill(first.pid, signal.SIGCONT)
            await until(lambda: ingest.sink.statistics().reconnects > back)
            enough.set()
            await ingest.done.wait()
    handled = numbers(path)
    assert set(handled) == set(range(queue.taken))
    assert in_order(handled)
    assert repeats(handled) <= 400


async def test_a_tick_that_kills_its_process_is_one_dead_letter(tmp_path: Path) -> None:
    path = tmp_path / "handled"
    async with open_world() as world:
        queue = Queue(ticks(500), ended=True)
        buffer = ZeroMQ(bind="tcp://127.0.0.1:0", window=100, heartbeat=0.1, lease=1.0)
        ingest = await world.ingest(buffer, queue)
        deaths = 0
        while not ingest.done.is_set():
            with worker(ingest.address, path, poison=300) as process:
                await until(partial(is_over, process, ingest))
                deaths += process.poll() is not None
        (dead,) = ingest.sink.dead_letters
        assert (dead.item.volume, dead.deaths, deaths) == (300.0, 3, 3)
    assert set(numbers(path)) == set(range(500)) - {300}


@contextmanager
def ingest_process(port: int, first: int, count: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.worlds.zeromq_ingest"]
    process = subprocess.Popen([*command, str(port), str(first), str(count)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_killed_ingest_costs_nothing_that_was_received() -> None:
    """The lease ends, all is withdrawn; another run of the ingest does not know it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    go = trio.Event()

    async def handle(_item: object) -> None:
        await go.wait()

    async with open_world() as world:
        work = world.work(ZeroMQ(f"tcp://127.0.0.1:{port}"), Strategy(handle, most=50))
        strategy = work.strategy
        with ingest_process(port, 0, 80) as process:
            await until(lambda: len(strategy.unfinished()) >= 54)
            process.kill()
            await until(lambda: strategy.given_back)
        # What workers had begun is theirs; the rest was taken from them.
        assert len(strategy.unfinished()) <= 4
        assert work.source.statistics().fenced == 64
        go.set()
        with ingest_process(port, 80, 20):
            await until(lambda: len(strategy.handled) == 100)
        assert sorted(strategy.numbers) == list(range(100))
        assert in_order(strategy.numbers)
        assert {gap.symbol for gap in strategy.gaps} == {f"S{each:03d}" for each in range(20)}
        strategy.check()
