"""The turns of a worker: what they overlap with, and what they leave out."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from tests.worlds.redis_world import (
    Book,
    Ingest,
    Workers,
    drain,
    fill,
    sums,
    tick,
    ticks,
    until,
    until_distinct,
)
from trio_ticks.brokers.packing import Packer, Unpacker
from trio_ticks.brokers.redis_streams import RedisStreams
from trio_ticks.brokers.redis_streams.connection import Command, Connection, LostError
from trio_ticks.brokers.redis_streams.holdings import Holdings
from trio_ticks.brokers.redis_streams.link import Link
from trio_ticks.brokers.redis_streams.scripts import ACKNOWLEDGE, FETCH
from trio_ticks.brokers.redis_streams.shards import Shard, new_entry
from trio_ticks.brokers.redis_streams.trials import Trials
from trio_ticks.brokers.redis_streams.turn import Planner
from trio_ticks.brokers.redis_streams.worker import Counts, Worker
from trio_ticks.buffer import Stretch


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[Command]]:
    """All that is sent to the server, an entry for each round trip."""
    found: list[list[Command]] = []
    real = Link.call_all

    async def call_all(self: Link, commands: list[Command], *args: Any, **more: Any) -> Any:
        found.append(list(commands))
        return await real(self, commands, *args, **more)

    monkeypatch.setattr(Link, "call_all", call_all)
    return found


def asked(calls: list[list[Command]]) -> list[int]:
    """Return of how many shards each fetch was."""
    return [
        int(command[2]) - 1 for each in calls for command in each if command[1:2] == (FETCH.sha,)
    ]


# While the server works


async def test_what_came_is_delivered_while_the_server_does_the_next_turn(
    buffer: RedisStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, book = ticks(12_000), Book()
    await fill(buffer, sent)
    workers, source = Workers(book, room=4096), buffer.source()
    delivered = []
    real = Link.call_all

    async def call_all(self: Link, commands: list[Command], *args: Any, **more: Any) -> Any:
        before = workers.received
        replies = await real(self, commands, *args, **more)
        if asked([commands]):
            delivered.append(workers.received - before)
        return replies

    monkeypatch.setattr(Link, "call_all", call_all)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        await until_distinct(book, 12_000)
        source.drain()
    workers.check(source)
    book.check(sent)
    assert book.repeats == 0
    assert max(delivered) > 1000


async def test_what_is_fetched_and_not_delivered_at_a_drain_comes_again_to_the_next(
    buffer: RedisStreams,
) -> None:
    sent, book = ticks(6000), Book()
    await fill(buffer, sent)
    workers, source = Workers(book, room=4096), buffer.source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        await until(lambda: workers.received > 0)
        source.drain()
    workers.check(source)
    left = await sums(buffer)
    assert left.kept == 6000 - source.statistics().acknowledged > 0
    heir = await drain(buffer, book, 6000)
    book.check(sent)
    # It was given back in good order, so that nothing is tried tick by tick.
    assert (book.repeats, heir.statistics().redelivered) == (0, 0)


async def test_something_else_is_done_between_the_commands_and_their_replies() -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, 5.0)
    seen: list[bytes] = []

    async def meanwhile() -> None:
        seen.append(bytes(await theirs.receive_some(100)))
        await theirs.send_all(b"+PONG\r\n")

    assert await connection.call_all([("PING",)], 0.0, meanwhile) == [b"PONG"]
    assert seen == [b"*1\r\n$4\r\nPING\r\n"]
    assert connection.usable


async def test_an_error_meanwhile_is_passed_on_and_ends_the_connection() -> None:
    ours, _theirs = memory_stream_pair()
    connection = Connection(ours, 5.0)

    async def meanwhile() -> None:
        raise trio.BrokenResourceError("nobody receives")

    # It is none of the connection's.
    with pytest.raises(trio.BrokenResourceError, match="nobody receives"):
        await connection.call_all([("PING",)], 0.0, meanwhile)
    assert not connection.usable
    with pytest.raises(LostError):
        await connection.call_all([("PING",)])


async def test_the_time_that_it_takes_is_not_the_servers_silence(
    autojump_clock: MockClock,
) -> None:
    ours, theirs = memory_stream_pair()
    connection = Connection(ours, 5.0)

    async def meanwhile() -> None:
        await trio.sleep(60)
        await theirs.send_all(b"+PONG\r\n")

    assert await connection.call_all([("PING",)], 0.0, meanwhile) == [b"PONG"]
    silent = trio.lowlevel.checkpoint
    with pytest.raises(LostError, match="no answer within 5 s"):
        await connection.call_all([("PING",)], 0.0, silent)


# Few ticks


async def test_lone_ticks_are_fetched_from_their_shards_alone(
    buffer: RedisStreams, calls: list[list[Command]]
) -> None:
    book, ingest, sink = Book(), Ingest(ends=False), buffer.sink()
    workers, source = Workers(book), buffer.source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        nursery.start_soon(sink.run, ingest)
        await until(lambda: 64 in asked(calls))
        for number in range(1, 31):
            calls.clear()
            ingest.put([tick("A", number)])
            await until(lambda number=number: source.statistics().acknowledged == number)  # type: ignore[misc]
            fetches = asked(calls)
            # Of all shards only where it has been idle for long, or the watch is late.
            if fetches == [1]:
                break
        ingest.end()
        source.drain()
    assert fetches == [1]
    acknowledged = [
        command for each in calls for command in each if command[1:2] == (ACKNOWLEDGE.sha,)
    ]
    assert acknowledged


# A shard that comes back


class Outcomes:
    """Nothing is unfinished."""

    busy = False

    def unfinished(self) -> list[Any]:
        return []

    def withdraw(self, symbols: object) -> int:
        return 0


def test_a_reply_for_a_shard_that_was_lost_and_came_back_is_dropped() -> None:
    workers = Workers(Book())
    holdings = Holdings(Outcomes())
    worker = Worker(RedisStreams("redis://localhost", shards=1), "me", holdings, Counts())
    trials = Trials(worker, workers, lambda ours: ours)
    planner = Planner(worker, trials, Unpacker().unpack)
    holdings.hold({0: "7"}, 1)
    holdings.shards[0].pending = False
    ((command, take),) = planner.plan(frozenset(), 100, 100, draining=False)
    assert command[1] == FETCH.sha
    # Its lease runs out, and we are the next who gets it, before the answer comes.
    holdings.hold({}, 1)
    holdings.hold({0: "8"}, 1)
    (record,), _ = Packer(1, 9).pack(Stretch([tick("A", 1)], [1.0]))
    take([[b"0", [[b"5-0", [b"n", b"1", b"t", record.body]]]]])
    shard = holdings.shards[0]
    # What it brought is pending, behind what may be pending before it.
    assert not shard.queue
    assert (shard.pending, shard.last) == (True, b"")


def test_a_fetch_leaves_out_the_shards_that_the_watch_answers_for() -> None:
    workers, holdings = Workers(Book()), Holdings(Outcomes())
    worker = Worker(RedisStreams("redis://localhost", shards=4), "me", holdings, Counts())
    planner = Planner(worker, Trials(worker, workers, lambda ours: ours), Unpacker().unpack)
    holdings.hold(dict.fromkeys(range(4), "7"), 4)
    for shard in holdings.shards.values():
        shard.pending = False
    ((command, _),) = planner.plan(
        frozenset(), 100, 100, quiet=frozenset({0, 1, 3}), draining=False
    )
    assert command[2:5] == (2, worker.leases, worker.keys.streams[2])
    assert not planner.plan(frozenset(), 100, 100, quiet=frozenset(range(4)), draining=False)


@pytest.mark.parametrize("seed", range(3))
def test_entries_are_read_when_they_are_taken_and_junk_stops_there(seed: int) -> None:
    chance = Random(seed)
    (record,), _ = Packer(1, 9).pack(Stretch([tick("A", n) for n in range(1, 4)], [1.0] * 3))
    junk = chance.randrange(1, 4)
    shard = Shard(0, "7", pending=False)
    for number in range(5):
        body = b"junk" if number == junk else record.body
        shard.queue.append(new_entry([b"%d-0" % number, [b"n", b"3", b"t", body]]))
    reads: list[bytes] = []

    def read(body: bytes) -> Stretch:
        reads.append(body)
        return Unpacker().unpack(body)

    assert shard.is_fast
    assert not reads
    assert len(shard.fast(read, 1)) == len(reads) == 1
    taken = shard.fast(read, 100)
    assert len(taken) == junk - 1
    assert reads[-1] == b"junk"
    assert len(reads) == junk + 1
    assert shard.blocked
    assert not shard.is_fast
    assert shard.queue[0].body == b"junk"
    assert shard.fast(read, 100) == []
