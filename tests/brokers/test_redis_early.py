"""Lone ticks that are delivered while they are fetched: once, and in their turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import attrs
import pytest
import trio

from tests.worlds.redis_world import (
    Book,
    Ingest,
    Workers,
    drain,
    proxied,
    sums,
    tick,
    ticks,
    until,
    until_distinct,
)
from tests.worlds.servers import Server
from trio_ticks.brokers.packing import Packer, Unpacker
from trio_ticks.brokers.redis_streams import RedisStreams
from trio_ticks.brokers.redis_streams.connection import Command, Connection, LostError
from trio_ticks.brokers.redis_streams.holdings import Holdings
from trio_ticks.brokers.redis_streams.leases import Leases
from trio_ticks.brokers.redis_streams.link import Link
from trio_ticks.brokers.redis_streams.scripts import ACKNOWLEDGE, FETCH, PENDING
from trio_ticks.brokers.redis_streams.shards import Shard
from trio_ticks.brokers.redis_streams.trials import Trials
from trio_ticks.brokers.redis_streams.turn import Planner
from trio_ticks.brokers.redis_streams.watching import Found
from trio_ticks.brokers.redis_streams.worker import Counts, Worker
from trio_ticks.buffer import Stretch


class Early:
    """Notices the fetches during which a tick is delivered, and can spoil them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.during = 0
        self.lose = ""
        """``"question"`` or ``"answer"``: what is lost of the next such fetch."""
        self.before: Any = None
        """Is called before the next such fetch is sent."""
        self.after: Any = None
        """Is called when the next such tick was delivered."""
        real = Link.call_all

        async def call_all(
            link: Link,
            commands: list[Command],
            patience_s: float = 0.0,
            meanwhile: Any = None,
        ) -> Any:
            fetches = any(command[1:2] == (FETCH.sha,) for command in commands)
            if not fetches or meanwhile is None:
                return await real(link, commands, patience_s, meanwhile)
            self.during += 1
            if self.before is not None:
                self.before()
            lose, self.lose, self.before = self.lose, "", None

            async def and_more() -> None:
                await meanwhile()
                if self.after is not None:
                    self.after()
                    self.after = None

            if lose == "question":
                await and_more()
            else:
                replies = await real(link, commands, patience_s, and_more)
            if lose:
                await link.aclose()
                raise LostError("for the test")
            return replies

        monkeypatch.setattr(Link, "call_all", call_all)


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> Early:
    return Early(monkeypatch)


@attrs.define
class Scene:
    """An ingest and workers that wait for ticks."""

    ingest: Ingest
    source: Any
    book: Book
    early: Early
    sent: int = 0

    async def bring_one(self) -> None:
        """Bring a tick, and wait until it is handled and acknowledged."""
        self.sent += 1
        self.ingest.put([tick("A", self.sent)])
        await until_distinct(self.book, self.sent)
        await until(lambda: self.source.statistics().unacknowledged == 0)

    async def bring_early(self) -> None:
        """Bring ticks until one is delivered while it is fetched."""
        before = self.early.during
        while self.early.during == before:
            assert self.sent < 1000
            await self.bring_one()


@asynccontextmanager
async def connected(buffer: RedisStreams) -> AsyncIterator[Connection]:
    connection = Connection(await trio.open_tcp_stream(*buffer.target.addresses[0]), 5)
    try:
        yield connection
    finally:
        await connection.aclose()


async def run_scene(buffer: RedisStreams, early: Early, play: Any) -> Scene:
    """Have *play* called with a scene; check at the end that nothing is left."""
    book, ingest, sink = Book(), Ingest(ends=False), buffer.sink()
    workers, source = Workers(book), buffer.source()
    scene = Scene(ingest, source, book, early)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        nursery.start_soon(sink.run, ingest)
        await until(lambda: source.statistics().shards == 64)
        await play(scene)
        ingest.end()
        source.drain()
    workers.check(source)
    assert book.lines == {"A": list(range(1, scene.sent + 1))}
    seen = source.statistics()
    assert (seen.received, seen.acknowledged) == (scene.sent, scene.sent)
    left = await sums(buffer)
    left.check()
    assert left.entries == 0
    # No note on an entry that was acknowledged stays behind.
    async with connected(buffer) as connection:
        assert await connection.call("HLEN", buffer.keys.progress(buffer.group)) == 0
    return scene


async def test_a_lone_tick_is_handled_before_the_fetch_is_answered(
    buffer: RedisStreams, monkeypatch: pytest.MonkeyPatch, early: Early
) -> None:
    handled = []
    real = Link.call_all

    async def call_all(
        link: Link, commands: list[Command], patience_s: float = 0.0, meanwhile: Any = None
    ) -> Any:
        async def and_handled() -> None:
            before = scenes[0].book.handled
            await meanwhile()
            with trio.move_on_after(5):
                await until(lambda: scenes[0].book.handled > before)
            handled.append(scenes[0].book.handled - before)

        return await real(link, commands, patience_s, meanwhile and and_handled)

    monkeypatch.setattr(Link, "call_all", call_all)
    scenes: list[Scene] = []

    async def play(scene: Scene) -> None:
        scenes.append(scene)
        await scene.bring_early()

    await run_scene(buffer, early, play)
    assert handled == [1]


async def test_a_worker_whose_leases_may_have_run_out_fetches_first(
    buffer: RedisStreams, monkeypatch: pytest.MonkeyPatch, early: Early
) -> None:
    monkeypatch.setattr(Leases, "are_valid", False)

    async def play(scene: Scene) -> None:
        for _ in range(30):
            await scene.bring_one()

    await run_scene(buffer, early, play)
    assert not early.during


@pytest.mark.parametrize("lost", ["question", "answer"])
async def test_a_fetch_that_is_lost_repeats_nothing(
    buffer: RedisStreams, early: Early, lost: str
) -> None:
    async def play(scene: Scene) -> None:
        early.lose = lost
        await scene.bring_early()
        assert not early.lose
        await scene.bring_one()
        await scene.bring_early()

    scene = await run_scene(buffer, early, play)
    assert scene.source.statistics().reconnects == 1
    # It was never in anybody's hands but ours.
    assert scene.source.statistics().redelivered == 0


@pytest.mark.parametrize("lost", ["question", "answer"])
async def test_a_worker_that_leaves_fetches_first_what_it_has_delivered(
    buffer: RedisStreams, early: Early, lost: str
) -> None:
    async def play(scene: Scene) -> None:
        early.lose, early.after = lost, scene.source.drain
        await scene.bring_early()

    scene = await run_scene(buffer, early, play)
    heir = await drain(buffer, scene.book, 0, empty=True)
    assert heir.statistics().received == 0


async def test_an_entry_that_is_deleted_before_it_is_fetched_holds_nobody_up(
    buffer: RedisStreams, server: Server, early: Early
) -> None:
    shard = Packer(64, 1).shard("A")

    def delete() -> None:
        server.ask("XTRIM", f"{{ticks}}:s:{shard}", "MAXLEN", "0")

    book, ingest, sink = Book(), Ingest(ends=False), buffer.sink()
    workers, source = Workers(book), buffer.source()
    scene = Scene(ingest, source, book, early)
    early.before = delete
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        nursery.start_soon(sink.run, ingest)
        await until(lambda: source.statistics().shards == 64)
        await scene.bring_early()
        await scene.bring_one()
        ingest.end()
        source.drain()
    workers.check(source)
    assert early.before is None
    assert book.lines == {"A": list(range(1, scene.sent + 1))}


@pytest.mark.parametrize("seed", range(2))
async def test_lone_ticks_on_connections_that_are_cut_at_random_come_once(
    buffer: RedisStreams, server: Server, seed: int
) -> None:
    chance, sent, book = Random(seed), ticks(400, symbols=12, seed=seed), Book()
    async with proxied(server.port) as proxy:
        through = attrs.evolve(
            buffer, url=f"redis://127.0.0.1:{proxy.port}/0", lease=30.0, shards=8
        )
        ingest, sink = Ingest(ends=False), through.sink()

        async def serve() -> None:
            while book.distinct < len(sent):
                workers, source = Workers(book), through.source()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(workers.run, source)
                    with trio.move_on_after(chance.uniform(0.1, 0.5)):
                        await until_distinct(book, len(sent))
                    source.drain()
                workers.check(source)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run, ingest)
            nursery.start_soon(serve)
            for each in sent:
                ingest.put([each])
                await trio.sleep(chance.choice([0.001, 0.003, 0.006]))
                if chance.random() < 0.03:
                    proxy.cut()
            ingest.end()
    ingest.check(sink)
    book.check(sent)
    assert book.repeats == 0
    assert proxy.cuts


# In its turn


class Outcomes:
    """What was delivered is unfinished as long as it stands here."""

    busy = False

    def __init__(self) -> None:
        self.items: list[Any] = []

    def unfinished(self) -> list[Any]:
        return list(self.items)

    def withdraw(self, symbols: object) -> int:
        return 0


class Turns:
    """A worker of two shards, and what it plans."""

    def __init__(self) -> None:
        workers, self.outcomes = Workers(Book()), Outcomes()
        self.holdings = Holdings(self.outcomes)
        buffer = RedisStreams("redis://localhost", shards=2)
        worker = Worker(buffer, "me", self.holdings, Counts())
        self.planner = Planner(
            worker, Trials(worker, workers, lambda ours: ours), Unpacker().unpack
        )
        self.hold("7")

    def hold(self, token: str) -> None:
        self.holdings.hold({0: token, 1: token}, 2)
        for shard in self.holdings.shards.values():
            shard.pending = False

    @property
    def shard(self) -> Shard:
        return self.holdings.shards[0]

    def plan(
        self, *found: Found, room: int = 100, quiet: frozenset[int] = frozenset(), **more: Any
    ) -> list[Any]:
        unfinished = self.holdings.unfinished()
        return self.planner.plan(
            unfinished, room, room, found=found, quiet=quiet, **{"draining": False, **more}
        )

    def find(self, number: int = 5) -> Found:
        return Found(self.shard, self.shard.last, written(number))

    def deliver(self) -> None:
        (entry,) = self.shard.fast(Unpacker().unpack, 100)
        self.holdings.outstanding.add(0, entry, entry.stretch.items)


def written(number: int) -> list[Any]:
    (record,), _ = Packer(1, 9).pack(Stretch([tick("A", number)], [1.0]))
    return [b"%d-0" % number, [b"n", b"1", b"t", record.body]]


def commands(steps: list[Any]) -> list[bytes]:
    return [command[1] for command, _ in steps]


def test_what_is_found_is_queued_and_fetched_and_not_acknowledged_before() -> None:
    turns = Turns()
    ((_, take),) = turns.plan(turns.find())
    assert [entry.id for entry in turns.shard.queue] == [b"5-0"]
    turns.deliver()
    # All its ticks are finished, but nobody knows yet whether it is ours.
    assert commands(turns.plan()) == [FETCH.sha]
    take([[b"0", [written(5), written(6)]]])
    assert [entry.id for entry in turns.shard.queue] == [b"6-0"]
    assert turns.shard.last == b"6-0"
    (acknowledge, _), _fetch = turns.plan()
    assert acknowledge[1] == ACKNOWLEDGE.sha
    assert acknowledge[-2:] == (b"5-0", 1)


@pytest.mark.parametrize(
    "change",
    [
        {"last": b"4-0"},
        {"pending": True},
        {"leaving": True},
        {"unfetched": {b"4-0"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_not_next_is_not_queued(change: dict[str, Any]) -> None:
    turns = Turns()
    found = turns.find()
    for name, value in change.items():
        setattr(turns.shard, name, value)
    turns.plan(found)
    assert not turns.shard.queue


def test_nothing_is_queued_beyond_the_room_or_for_a_shard_that_is_gone() -> None:
    turns = Turns()
    turns.plan(turns.find(), room=0)
    assert not turns.shard.queue
    turns.plan(turns.find(), draining=True)
    assert not turns.shard.queue
    found = turns.find()
    turns.holdings.hold({}, 2)
    turns.hold("8")
    turns.holdings.lost.clear()
    turns.plan(found)
    assert not turns.shard.queue


def test_another_entry_or_a_fetch_that_had_room_for_more_says_that_it_is_gone() -> None:
    for reply, room in (([[b"0", [written(6)]]], 1), ([], 100)):
        turns = Turns()
        ((_, take),) = turns.plan(turns.find(), room=room)
        turns.deliver()
        take(reply)
        assert ACKNOWLEDGE.sha in commands(turns.plan())
    turns = Turns()
    ((_, take),) = turns.plan(turns.find(), room=1)
    # The room was used up for another shard.
    take([[b"1", [written(7)]]])
    assert turns.shard.unfetched == {b"5-0"}


def test_what_is_pending_says_that_it_is_ours_and_is_asked_for_before_a_release() -> None:
    turns = Turns()
    turns.plan(turns.find())
    turns.deliver()
    turns.shard.pending = turns.shard.leaving = True
    turns.shard.farewell = "told"
    ((pending, take),) = turns.plan(draining=True, quiet=frozenset({0, 1}), room=0)
    assert pending[1] == PENDING.sha
    take([[b"0", 1, b"0-0", [[*written(5), b"", 1]]]])
    assert not turns.shard.queue
    # The next look goes on behind it.
    assert turns.shard.last == b"5-0"
    assert not turns.shard.unfetched


def test_what_is_not_fetched_yet_is_asked_for_whatever_its_shard_is_about_to_do() -> None:
    turns = Turns()
    found = turns.find()
    turns.plan(attrs.evolve(found, written=[b"5-0", [b"n", b"1", b"t", b"junk"]]))
    # It is found to be junk.
    assert turns.shard.fast(Unpacker().unpack, 100) == []
    turns.shard.leaving = True
    ((fetch, _),) = turns.plan(draining=True, quiet=frozenset({0, 1}), room=0)
    assert fetch[1] == FETCH.sha
    assert fetch[2] == 2


def test_what_was_handled_when_its_shard_was_lost_is_not_handled_when_it_comes_back() -> None:
    turns = Turns()
    turns.plan(turns.find())
    turns.deliver()
    turns.holdings.hold({}, 2)
    turns.hold("8")
    turns.holdings.lost.clear()
    ((_, take),) = turns.plan()
    take([[b"0", [written(5), written(6)]]])
    first, second = turns.shard.fast(Unpacker().unpack, 100)
    assert (first.rest().items, len(second.rest().items)) == ([], 1)
