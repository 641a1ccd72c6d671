"""Workers in processes of their own: killed, stopped and continued, and poisoned."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.worlds.redis_world import Book, Ingest, fill, sums, tick, ticks, until
from tests.worlds.servers import BINARIES, Server, running
from trio_ticks.brokers.redis_streams import RedisStreams, look


@pytest.fixture(scope="module", params=sorted(BINARIES))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@contextmanager
def child(url: str, log: Path, poison: str = "-") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.worlds.redis_child", url, str(log), poison]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def read(log: Path) -> Book:
    book = Book()
    for line in log.read_text().splitlines() if log.exists() else ():
        symbol, number = line.split()
        book.write(tick(symbol, int(number)))
    return book


def ended(process: subprocess.Popen[str], log: Path, count: int) -> bool:
    return process.poll() is not None or read(log).distinct == count


async def test_one_of_three_is_killed_and_one_stopped_for_longer_than_its_lease(
    server: Server, tmp_path: Path
) -> None:
    server.ask("FLUSHALL")
    log, sent = tmp_path / "log", ticks(3000, symbols=100)
    url = f"{server.url}?lease=3.0&prefetch=300"
    buffer = RedisStreams.from_url(url)
    ingest, sink = Ingest(ends=False), buffer.sink()

    async def feed(upto: int) -> None:
        while ingest.produced < upto:
            ingest.put(sent[ingest.produced : ingest.produced + 40])
            await trio.sleep(0.01)

    with child(url, log) as killed, child(url, log) as stopped, child(url, log) as calm:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run, ingest)
            await feed(800)
            killed.kill()
            await feed(1500)
            stopped.send_signal(signal.SIGSTOP)
            await feed(2200)
            await trio.sleep(3.5)
            stopped.send_signal(signal.SIGCONT)
            await feed(3000)
            ingest.end()
        await until(lambda: read(log).distinct == 3000, every_s=0.1)
        for process in (stopped, calm):
            process.terminate()
            assert await trio.to_thread.run_sync(process.wait) == 0
    book = read(log)
    book.check(sent)
    # Once for each time that a shard was taken from one that was killed or stopped,
    # and once for the tick that the stopped one had begun.
    assert book.most_back() <= 3
    left = await sums(buffer)
    left.check()
    assert (left.came, left.entries) == (3000, 0)


async def test_a_tick_that_kills_its_process_among_ten_thousand_of_its_shard(
    server: Server, tmp_path: Path
) -> None:
    server.ask("FLUSHALL")
    log, sent = tmp_path / "log", ticks(10_001, symbols=300)
    bad = sent[5000]
    url = f"{server.url}?lease=0.5&shards=1&max_deliveries=2"
    buffer = RedisStreams.from_url(url)
    await fill(buffer, sent)
    deaths = 0
    while True:
        with child(url, log, f"{bad.symbol} {int(bad.volume)}") as process:
            await until(partial(ended, process, log, 10_000), 60, 0.1)
            if process.poll() is None:
                process.terminate()
                out, _ = await trio.to_thread.run_sync(process.communicate)
                break
            deaths += 1
    assert deaths == 2
    assert out == "buried 1\n"
    read(log).check(sent, without=[(bad.symbol, int(bad.volume))])
    seen = await look(buffer)
    assert (seen.dead, seen.used) == (1, 0)
