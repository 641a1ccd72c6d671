"""Servers that are killed, cut off or full: nothing is lost, nothing doubled."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import attrs
import pytest
import trio

from tests.worlds.redis_world import (
    Book,
    Ingest,
    Workers,
    proxied,
    sums,
    ticks,
    until,
    until_distinct,
)
from tests.worlds.servers import BINARIES, Server, running
from trio_ticks.brokers.redis_streams import RedisStreams


@pytest.fixture(scope="module", params=sorted(BINARIES))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture
def buffer(server: Server) -> RedisStreams:
    server.ask("FLUSHALL")
    return RedisStreams(server.url, lease=10.0)


async def test_appends_whose_answers_are_lost_are_sent_again_and_recognised(
    buffer: RedisStreams, server: Server
) -> None:
    sent = ticks(4000)
    async with proxied(server.port) as proxy:
        proxy.lose_every = 4
        through = attrs.evolve(buffer, url=f"redis://127.0.0.1:{proxy.port}/0")
        ingest, sink = Ingest(sent, batch=200), through.sink()
        await sink.run(ingest)
        ingest.check(sink)
    seen = sink.statistics()
    assert proxy.cuts
    assert seen.duplicates > 0
    assert seen.appended == 4000
    assert seen.reconnects > 0
    there = await sums(buffer)
    there.check()
    assert there.came == 4000


async def test_connections_that_are_cut_all_the_time_lose_and_repeat_nothing(
    buffer: RedisStreams, server: Server
) -> None:
    sent, book = ticks(1500), Book()
    async with proxied(server.port) as proxy:
        # Four connections need two pieces each before they can do anything.
        proxy.cut_every = 25
        through = attrs.evolve(buffer, url=f"redis://127.0.0.1:{proxy.port}/0", lease=10.0)
        ingest, sink = Ingest(ends=False), through.sink()
        workers, source = Workers(book), through.source()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run, ingest)
            nursery.start_soon(workers.run, source)

            at = 0
            while at < 1500:
                # A few at a time, so that there is traffic, and something to cut.
                ingest.put(sent[at : at + 50])
                at += 50
                await until_distinct(book, at)
            await until(lambda: source.statistics().acknowledged == 1500)
            ingest.end()
            proxy.cut_every = 0
            source.drain()
    assert proxy.cuts > 20
    ingest.check(sink)
    workers.check(source)
    book.check(sent)
    assert book.repeats == 0
    left = await sums(buffer)
    left.check()
    assert (left.came, left.entries) == (1500, 0)


@pytest.mark.parametrize("kind", sorted(BINARIES))
async def test_a_server_killed_and_started_again_with_its_log_loses_nothing(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_ticks.brokers")
    sent, book = ticks(4000), Book()
    with running(kind, "--appendonly", "yes", "--appendfsync", "always") as server:
        buffer = RedisStreams(server.url, lease=10.0)
        ingest, sink = Ingest(ends=False), buffer.sink()
        workers, source = Workers(book), buffer.source()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run, ingest)
            nursery.start_soon(workers.run, source)
            for round in range(4):
                part = sent[1000 * round : 1000 * round + 1000]
                ingest.put(part[:500])
                if round in (1, 2):
                    await until_distinct(book, 1000 * round + 50)
                    server.kill()
                    ingest.put(part[500:])
                    await trio.sleep(0.1)
                    assert not sink.statistics().connected
                    assert not source.statistics().connected
                    await trio.to_thread.run_sync(server.start)
                else:
                    ingest.put(part[500:])
                await until_distinct(book, 1000 * round + 1000)
            assert sink.statistics().connected
            ingest.end()
            source.drain()
        ingest.check(sink)
        workers.check(source)
        book.check(sent)
        assert book.repeats == 0
        left = await sums(buffer)
        left.check()
        assert (left.came, left.entries) == (4000, 0)
    events = [record.event for record in caplog.records if hasattr(record, "event")]
    assert events.count("broker.lost") == events.count("broker.back") == 4


async def test_a_worker_whose_group_is_destroyed_makes_it_anew_and_skips_nothing(
    buffer: RedisStreams, server: Server
) -> None:
    sent, book = ticks(600), Book()
    ingest, sink = Ingest(sent[:300], ends=False), buffer.sink()
    workers, source = Workers(book), buffer.source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, ingest)
        nursery.start_soon(workers.run, source)
        await until(lambda: source.statistics().acknowledged == 300)
        for shard in range(64):
            server.ask("XGROUP", "DESTROY", f"{{ticks}}:s:{shard}", "workers")
        server.ask("SCRIPT", "FLUSH")
        ingest.put(sent[300:])
        ingest.end()
        await until(lambda: book.distinct == 600)
        source.drain()
    book.check(sent)
    assert book.repeats == 0


async def test_a_server_out_of_memory_is_away_for_producers_and_workers_go_on(
    buffer: RedisStreams, server: Server
) -> None:
    sent, book = ticks(12_000), Book()
    buffer, gate = attrs.evolve(buffer, lease=1.0), trio.Event()
    used = int(server.ask("INFO", "memory").split("used_memory:")[1].split("\r")[0])
    # More than the connections and scripts need, less than the ticks do.
    server.ask("CONFIG", "SET", "maxmemory", used + 800_000)
    try:
        ingest, sink = Ingest(sent), buffer.sink()

        async def handler(_: object) -> None:
            await gate.wait()

        workers, source = Workers(book, handler), buffer.source()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, source)
            await until(lambda: source.statistics().shards == 64)
            nursery.start_soon(sink.run, ingest)
            await until(lambda: sink.statistics().reconnects >= 2)
            assert not sink.statistics().connected
            ingest.check(sink)
            # The leases outlive it, and acknowledging makes room.
            await trio.sleep(1.1)
            assert source.statistics().shards == 64
            gate.set()
            await until(lambda: book.distinct == 12_000, 40)
            source.drain()
    finally:
        server.ask("CONFIG", "SET", "maxmemory", 0)
    book.check(sent)
    assert book.repeats == 0
    ingest.check(sink)
    left = await sums(buffer)
    left.check()
    assert left.came == 12_000


async def test_a_program_that_starts_before_its_server_waits_for_it() -> None:
    kind = sorted(BINARIES)[0]
    server = Server(kind)
    buffer = RedisStreams(server.url)
    sent, book = ticks(50), Book()
    ingest, sink = Ingest(sent), buffer.sink()
    workers, source = Workers(book), buffer.source()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run, ingest)
            nursery.start_soon(workers.run, source)
            await trio.sleep(0.1)
            # Nothing is taken while it is away.
            assert ingest.taken == 0
            await trio.to_thread.run_sync(server.start)
            await until(lambda: book.distinct == 50)
            source.drain()
    finally:
        server.remove()
    book.check(sent)


async def test_a_worker_that_never_reached_its_server_can_leave() -> None:
    server = Server(sorted(BINARIES)[0])
    source = RedisStreams(server.url).source()
    workers = Workers(Book())
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, source)
            await trio.sleep(0.05)
            source.drain()
            source.drain()
    server.remove()


async def test_a_cancelled_ingest_keeps_what_it_took_in_doubt(
    buffer: RedisStreams, server: Server
) -> None:
    async with proxied(server.port) as proxy:
        through = attrs.evolve(buffer, url=f"redis://127.0.0.1:{proxy.port}/0")
        ingest, sink = Ingest(ends=False), through.sink()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run, ingest)
            await until(lambda: sink.statistics().used is not None)
            proxy.passing = trio.Event()
            ingest.put(ticks(100))
            await until(lambda: ingest.taken == 100)
            nursery.cancel_scope.cancel()
    assert sink.statistics().in_doubt == 100
    ingest.check(sink)
