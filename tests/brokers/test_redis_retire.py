"""A group that nobody reads any more is retired, and what was kept for it goes."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest
import trio

from tests.worlds.redis_world import (
    Book,
    Ingest,
    Workers,
    drain,
    fill,
    sums,
    ticks,
    until,
    until_held,
    until_no_lag,
)
from tests.worlds.servers import BINARIES, Server, running
from trio_ticks.brokers.redis_streams import RedisStreams, look
from trio_ticks.errors import BrokerError


@pytest.fixture(scope="module", params=sorted(BINARIES))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture
def buffer(server: Server) -> RedisStreams:
    server.ask("FLUSHALL")
    return RedisStreams(server.url, maxsize=3000, pack=1, shards=8, lease=10.0)


async def test_a_group_that_nobody_reads_holds_everything_until_it_is_retired(
    buffer: RedisStreams,
) -> None:
    idle = attrs.evolve(buffer, group="risk")
    sent, book = ticks(4000), Book()
    await drain(idle, Book(), 0)
    workers, source = Workers(book), buffer.source()
    ingest, sink = Ingest(sent), buffer.sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        nursery.start_soon(sink.run, ingest)
        # All that fits was handled, and is kept for the other group.
        await until(lambda: book.distinct == source.statistics().acknowledged == 3000)
        assert sink.statistics().appended == 3000
        # More than one command deletes at once.
        assert await buffer.retire("risk") == 3000
        await until(lambda: book.distinct == 4000)
        await until_no_lag(source)
        source.drain()
    book.check(sent)
    assert book.repeats == 0
    left = await sums(buffer)
    left.check()
    assert (left.came, left.entries) == (4000, 0)
    seen = await look(buffer)
    assert [group.name for group in seen.groups] == ["workers"]


async def test_nothing_of_a_retired_group_is_left_behind(
    buffer: RedisStreams, server: Server
) -> None:
    await fill(buffer, ticks(200))
    await drain(attrs.evolve(buffer, group="risk"), Book(), 200, empty=True)
    await drain(buffer, Book(), 0)
    assert await buffer.retire("risk") == 0
    keys = server.ask("KEYS", "*")
    assert "workers" in server.ask("SMEMBERS", "{ticks}:groups")
    for each in (
        keys,
        server.ask("HGETALL", "{ticks}:done"),
        server.ask("HGETALL", "{ticks}:state"),
    ):
        assert "risk" not in each
    assert "risk" not in server.ask("XINFO", "GROUPS", "{ticks}:s:0")


async def test_the_last_group_takes_nothing_along_and_may_come_back(buffer: RedisStreams) -> None:
    sent, book = ticks(300), Book()
    await fill(buffer, sent)
    await drain(buffer, book, 100, room=50)
    before = await sums(buffer)
    assert 0 < before.kept < 300
    assert await buffer.retire("workers") == 0
    assert await sums(buffer) == before
    assert (await look(buffer)).groups == ()
    source = await drain(buffer, book, 300, empty=True)
    book.check(sent)
    assert source.statistics().redelivered == book.repeats == 0
    assert (await sums(buffer)).entries == 0


async def test_a_group_with_workers_is_not_retired(buffer: RedisStreams) -> None:
    await fill(buffer, ticks(50))
    gate = trio.Event()

    async def stuck(_: object) -> None:
        await gate.wait()

    workers, source = Workers(Book(), stuck), buffer.source()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workers.run, source)
            await until_held(source)
            with pytest.raises(BrokerError, match="'workers' has workers; end them"):
                await buffer.retire("workers")
            await until(lambda: source.statistics().unacknowledged == 50)
            source.drain()
            # It is no member any more, and has its shards until it has finished.
            while (await look(buffer)).groups[0].members:  # noqa: ASYNC110  # at the server
                await trio.sleep(0.01)
            with pytest.raises(BrokerError, match="has workers"):
                await buffer.retire("workers")
            gate.set()
    workers.check(source)
    assert (await sums(buffer)).entries == 0
    assert await buffer.retire("workers") == 0


async def test_a_group_of_a_killed_worker_is_retired_when_its_lease_is_over(
    buffer: RedisStreams,
) -> None:
    buffer = attrs.evolve(buffer, lease=1.0)
    await fill(buffer, ticks(50))
    workers, source = Workers(Book()), buffer.source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        await until_held(source)
        nursery.cancel_scope.cancel()
    with pytest.raises(BrokerError, match="has workers"):
        await buffer.retire("workers")
    with trio.fail_after(20):
        while True:
            try:
                await buffer.retire("workers")
                break
            except BrokerError:
                await trio.sleep(0.05)
    assert (await look(buffer)).groups == ()


async def test_no_such_group_and_no_such_buffer_are_typed_errors(buffer: RedisStreams) -> None:
    with pytest.raises(BrokerError, match="there is no such buffer yet"):
        await buffer.retire("workers")
    await drain(buffer, Book(), 0)
    with pytest.raises(BrokerError, match="there is no group 'nobody'; there are: workers"):
        await buffer.retire("nobody")
    away = attrs.evolve(buffer, url="redis://127.0.0.1:1/0", timeout=1.0)
    with pytest.raises(BrokerError, match="no answer from the server"):
        await away.retire("workers")
