"""Shards that change hands: crashes, zombies, rolling restarts, ticks that kill."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio

from tests.worlds.redis_world import (
    Book,
    Ingest,
    Workers,
    drain,
    fill,
    proxied,
    sums,
    tick,
    ticks,
    until,
    until_held,
    until_no_lag,
)
from tests.worlds.servers import BINARIES, Server, running
from trio_ticks.brokers.redis_streams import RedisStreams, look


@pytest.fixture(scope="module", params=sorted(BINARIES))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture
def buffer(server: Server) -> RedisStreams:
    server.ask("FLUSHALL")
    return RedisStreams(server.url, lease=0.6)


async def slow(_: object) -> None:
    await trio.sleep(0.002)


async def test_the_heir_of_a_worker_that_is_gone_skips_nothing(buffer: RedisStreams) -> None:
    sent, book = ticks(1200), Book()
    await fill(buffer, sent)
    workers, source = Workers(book, slow, room=300), buffer.source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        await until(lambda: book.distinct > 200)
        # Cancelled, as a process that is killed: nothing is given up.
        nursery.cancel_scope.cancel()
    workers.check(source)
    held = source.statistics().unacknowledged
    assert held > 100
    heir = await drain(buffer, book, 1200, empty=True)
    book.check(sent)
    seen = heir.statistics()
    # What was fetched and not delivered yet comes again, too.
    assert 0 < seen.redelivered <= 1200 - source.statistics().acknowledged
    assert book.repeats <= held
    assert book.most_back() <= 1
    left = await sums(buffer)
    left.check()
    assert left.entries == 0


async def test_what_a_clock_that_was_set_back_has_left_keeps_nobody_waiting(
    buffer: RedisStreams, server: Server
) -> None:
    sent, book = ticks(200), Book()
    await fill(buffer, sent)
    # Of a worker that died before the server's clock went back by an hour.
    ahead_ms = (int(time.time()) + 3600) * 1000
    for shard in range(buffer.shards):
        server.ask("HSET", "{ticks}:leases:workers", shard, f"gone|{shard}|{ahead_ms}")
    server.ask("ZADD", "{ticks}:members:workers", ahead_ms, "gone")
    await drain(buffer, book, 200, empty=True)
    book.check(sent)
    assert book.repeats == 0


async def test_a_rolling_restart_repeats_nothing(buffer: RedisStreams) -> None:
    buffer = attrs.evolve(buffer, lease=10.0, shards=16)
    sent, book = ticks(2400), Book()
    ingest, sink = Ingest(ends=False), buffer.sink()
    old: list[tuple[Workers, Any]] = [(Workers(book, slow), buffer.source()) for _ in range(3)]
    everyone = list(old)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, ingest)
        for workers, source in old:
            nursery.start_soon(workers.run, source)

        async def feed() -> None:
            for at in range(0, 2400, 20):
                ingest.put(sent[at : at + 20])
                await trio.sleep(0.008)
            ingest.end()

        nursery.start_soon(feed)
        await until(lambda: book.distinct > 300)
        for _, leaving in old:
            workers, source = Workers(book, slow), buffer.source()
            everyone.append((workers, source))
            nursery.start_soon(workers.run, source)
            leaving.drain()
            await until_held(source)
        await until(lambda: book.distinct == 2400)
        for _, source in everyone:
            source.drain()
    for workers, source in everyone:
        workers.check(source)
        assert source.statistics().unacknowledged == 0
    book.check(sent)
    assert book.repeats == 0
    assert (await sums(buffer)).entries == 0


async def test_what_is_given_back_at_a_shutdown_comes_to_the_heir_and_only_that(
    buffer: RedisStreams,
) -> None:
    # A busy machine must not let it run out: what is lost so is fetched as a suspect.
    buffer = attrs.evolve(buffer, lease=10.0)
    sent, book = ticks(1000, symbols=12), Book()
    await fill(buffer, sent)

    async def uneven(item: Any) -> None:
        # One symbol is slow: what came after it in its entries is done before it.
        await trio.sleep(0.05 if item.symbol == sent[0].symbol else 0.0005)

    workers, source = Workers(book, uneven), buffer.source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        await until(lambda: book.distinct > 300)
        source.drain()
        await trio.sleep(0.05)
        returned = source.give_back()
        assert returned > 0
    workers.check(source)
    assert not workers.unfinished()
    assert sorted(workers.given_up) == list(range(64))
    heir = await drain(buffer, book, 1000)
    book.check(sent)
    assert book.repeats == 0
    assert heir.statistics().redelivered == 0
    left = await sums(buffer)
    left.check()
    assert left.entries == 0


async def test_a_worker_cut_off_for_longer_than_its_lease_gives_back_what_it_holds(
    buffer: RedisStreams, server: Server
) -> None:
    sent, book = ticks(1000), Book()
    await fill(buffer, sent)
    pace_s = 0.002

    async def paced(_: object) -> None:
        await trio.sleep(pace_s)

    async with proxied(server.port) as proxy:
        cut_off = attrs.evolve(buffer, url=f"redis://127.0.0.1:{proxy.port}/0", timeout=0.4)
        first, second = cut_off.source(), buffer.source()
        workers, heirs = Workers(book, paced, room=300), Workers(book, slow, room=300)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, first)
            await until(lambda: book.distinct > 200)
            proxy.passing = trio.Event()
            pace_s = 0.05
            nursery.start_soon(heirs.run, second)
            await until(lambda: first.statistics().shards == 0)
            workers.check(first)
            assert first.statistics().given_back > 50
            await until(lambda: second.statistics().shards == 64)
            proxy.passing.set()
            pace_s = 0.002
            await until(lambda: first.statistics().shards > 20)
            await until(lambda: second.statistics().lag == 0)
            first.drain()
            second.drain()
    workers.check(first)
    heirs.check(second)
    book.check(sent)
    # Once for what it had handled in the time of its lease and could not acknowledge,
    # and once if a lease of a second runs out on a busy machine.
    assert book.most_back() <= 2
    left = await sums(buffer)
    left.check()
    assert left.entries == 0


async def test_a_worker_whose_server_was_away_for_longer_than_the_lease_repeats_nothing(
    buffer: RedisStreams, server: Server
) -> None:
    sent, book = ticks(1000), Book()
    await fill(buffer, sent)
    pace_s = 0.002

    async def paced(_: object) -> None:
        await trio.sleep(pace_s)

    async with proxied(server.port) as proxy:
        cut_off = attrs.evolve(buffer, url=f"redis://127.0.0.1:{proxy.port}/0", timeout=0.3)
        workers, source = Workers(book, paced, room=300), cut_off.source()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, source)
            await until(lambda: book.distinct > 200)
            proxy.passing = trio.Event()
            pace_s = 0.05
            await until(lambda: source.statistics().shards == 0)
            proxy.passing.set()
            pace_s = 0.002
            await until(lambda: book.distinct == 1000)
            source.drain()
    workers.check(source)
    seen = source.statistics()
    assert seen.given_back > 50
    assert seen.takeovers >= 128
    book.check(sent)
    assert book.repeats == 0


class Death(Exception):
    """Stands for what ends a process."""


async def live_and_die(buffer: RedisStreams, book: Book, poison: tuple[str, int]) -> Workers:
    """Run a worker that dies at *poison*, if it meets it; else until all is handled."""

    async def handler(item: Any) -> None:
        await trio.lowlevel.checkpoint()
        if (item.symbol, int(item.volume)) == poison:
            raise Death

    workers, source = Workers(book, handler), buffer.source()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, source)
            await until_no_lag(source)
            source.drain()
    except* Death:
        pass
    else:
        workers.check(source)
    return workers


@pytest.mark.parametrize("max_deliveries", [2, 3])
async def test_a_tick_that_kills_takes_none_of_its_neighbours_along(
    buffer: RedisStreams, max_deliveries: int
) -> None:
    buffer = attrs.evolve(buffer, shards=1, lease=0.3, max_deliveries=max_deliveries)
    sent, book = ticks(700, symbols=20), Book()
    await fill(buffer, sent)
    poison = (sent[350].symbol, int(sent[350].volume))
    for _ in range(max_deliveries):
        workers = await live_and_die(buffer, book, poison)
        assert not workers.buried
    workers = await live_and_die(buffer, book, poison)
    (buried,) = workers.buried
    assert (buried.symbol, int(buried.volume)) == poison
    book.check(sent, without=[poison])
    shown = await look(buffer)
    assert (shown.dead, shown.used) == (1, 0)
    left = await sums(buffer)
    left.check()
    assert left.entries == 0


async def test_two_ticks_that_kill_are_found_among_suspects_of_all_shards(
    buffer: RedisStreams,
) -> None:
    buffer = attrs.evolve(buffer, lease=0.3)
    sent, book = ticks(600, symbols=60), Book()
    sent += [tick("P1", 1), tick("P2", 1), tick("P1", 2)]
    await fill(buffer, sent)
    deaths = 0

    async def handler(item: Any) -> None:
        await trio.lowlevel.checkpoint()
        if item.symbol in ("P1", "P2") and item.volume == 1:
            raise Death

    buried: list[Any] = []
    while True:
        workers, source = Workers(book, handler), buffer.source()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(workers.run, source)
                await until_no_lag(source)
                source.drain()
        except* Death:
            deaths += 1
            buried += workers.buried
        else:
            buried += workers.buried
            break
    # Those that were tried beside them are handled, and only those two are not.
    assert sorted(item.symbol for item in buried) == ["P1", "P2"]
    book.check(sent, without=[("P1", 1), ("P2", 1)])
    assert deaths <= 6
