"""Ticks through real servers: order, the exact bound, groups, times, what is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs
import pytest
import trio

import trio_ticks as tt
from tests.worlds.redis_world import (
    NOON,
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
from tests.worlds.servers import BINARIES, Server, running
from trio_ticks.brokers.redis_streams import RedisStreams, look


@pytest.fixture(scope="module", params=sorted(BINARIES))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as server:
        yield server


@pytest.fixture
def buffer(server: Server, request: pytest.FixtureRequest) -> RedisStreams:
    server.ask("FLUSHALL")
    return RedisStreams(server.url, lease=10.0)


async def test_all_ticks_come_in_order_and_the_buffer_is_empty(buffer: RedisStreams) -> None:
    sent, book = ticks(5000), Book()
    sink = await fill(buffer, sent)
    assert sink.statistics().appended == 5000
    source = await drain(buffer, book, 5000)
    book.check(sent)
    assert book.repeats == 0
    seen = source.statistics()
    assert (seen.received, seen.acknowledged, seen.unacknowledged) == (5000, 5000, 0)
    left = await sums(buffer)
    left.check()
    assert (left.came, left.out, left.entries) == (5000, 5000, 0)


async def test_a_nearly_full_server_is_asked_again_before_the_little_room_is_used(
    server: Server,
) -> None:
    server.ask("FLUSHALL")
    buffer = RedisStreams(server.url, maxsize=100, pack=10)
    await fill(buffer, ticks(90))
    server.ask("CONFIG", "RESETSTAT")
    sink = await fill(buffer, ticks(5, prefix="T"))
    assert sink.statistics().appended == 5
    scripts = re.search(r"cmdstat_evalsha:calls=(\d+)", server.ask("INFO", "commandstats"))
    assert scripts is not None
    # One agrees on the settings, one looks at first, and one appends.
    assert int(scripts[1]) > 3


async def test_three_producers_never_exceed_the_bound_together(server: Server) -> None:
    server.ask("FLUSHALL")
    buffer = RedisStreams(server.url, maxsize=300, pack=16, shards=8, lease=10.0)
    lots = [ticks(400, symbols=9, prefix=f"{name}-") for name in "ABC"]
    ingests = [Ingest(each) for each in lots]
    sinks = [buffer.sink() for _ in lots]
    book, peak = Book(), 0
    workers, source = Workers(book, room=50), buffer.source()
    async with trio.open_nursery() as nursery:
        for ingest, sink in zip(ingests, sinks, strict=True):
            nursery.start_soon(sink.run, ingest)
        # Without a worker it fills up, and no producer gets a tick more in.
        await until(lambda: all(sink.statistics().full_s > 0.2 for sink in sinks))
        full = await sums(buffer)
        full.check()
        # A record that does not fit whole waits: less than one a producer is left free.
        assert 300 - 16 < full.kept <= 300
        taken = [ingest.taken for ingest in ingests]
        await trio.sleep(0.1)
        assert [ingest.taken for ingest in ingests] == taken
        for ingest, sink in zip(ingests, sinks, strict=True):
            ingest.check(sink)
            seen = sink.statistics()
            assert (seen.used, seen.maxsize) == (full.kept, 300)
            assert seen.in_doubt
        nursery.start_soon(workers.run, source)
        while book.distinct < 1200:
            now = await sums(buffer)
            peak = max(peak, now.came - now.out)
            assert now.came - now.out <= 300
        source.drain()
    assert peak
    book.check([each for lot in lots for each in lot])
    assert sum(sink.statistics().appended for sink in sinks) == (await sums(buffer)).came == 1200


async def test_a_full_buffer_takes_one_tick_of_the_channel_at_most(server: Server) -> None:
    server.ask("FLUSHALL")
    buffer = RedisStreams(server.url, maxsize=100, pack=10)
    ingest, sink = Ingest(ticks(100), ends=False), buffer.sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, ingest)
        await until(lambda: sink.statistics().appended == 100)
        ingest.put(ticks(50))
        await until(lambda: sink.statistics().full_s > 0.1)
        assert ingest.taken == 101
        assert sink.statistics().in_doubt == 1
        nursery.cancel_scope.cancel()
    ingest.check(sink)


async def test_an_ingest_ends_though_the_buffer_is_exactly_full(server: Server) -> None:
    server.ask("FLUSHALL")
    buffer = RedisStreams(server.url, maxsize=100, pack=100)
    with trio.fail_after(10):
        sink = await fill(buffer, ticks(100))
    assert sink.statistics().used == 100


async def test_two_groups_each_get_all_and_the_slower_one_decides_what_is_kept(
    buffer: RedisStreams,
) -> None:
    other = attrs.evolve(buffer, group="risk")
    sent, first, second = ticks(2000), Book(), Book()
    # A group is there from its first worker on, and what was there before is its, too.
    await drain(other, second, 0)
    await fill(buffer, sent)
    await drain(buffer, first, 2000)
    first.check(sent)
    kept = await sums(buffer)
    kept.check()
    assert (kept.came, kept.out) == (2000, 0)
    seen = await look(buffer)
    assert {group.name: group.lag for group in seen.groups} == {"workers": 0, "risk": 2000}
    # Half of it: the streams shrink by what both have acknowledged.
    source = await drain(other, second, 1000, room=200)
    half = await sums(buffer)
    half.check()
    assert 2000 - source.statistics().acknowledged == half.kept < 1500
    await drain(other, second, 2000)
    second.check(sent)
    assert second.repeats == first.repeats == 0
    done = await sums(buffer)
    done.check()
    assert (done.out, done.entries) == (2000, 0)


async def test_two_workers_share_the_shards_and_nothing_comes_twice(buffer: RedisStreams) -> None:
    sent, book = ticks(1500), Book()
    ingest, sink = Ingest(ends=False), buffer.sink()
    ends = [(Workers(book), buffer.source()) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, ingest)
        for workers, source in ends:
            nursery.start_soon(workers.run, source)
        await until(lambda: [source.statistics().shards for _, source in ends] == [32, 32])
        for at in range(0, 1500, 100):
            ingest.put(sent[at : at + 100])
            await trio.sleep(0.002)
        await until(lambda: book.distinct == 1500)
        assert all(workers.handled > 200 for workers, _ in ends)
        ingest.end()
        for _, source in ends:
            source.drain()
    for workers, source in ends:
        workers.check(source)
    book.check(sent)
    assert book.repeats == 0


async def test_gaps_travel_in_their_place(buffer: RedisStreams) -> None:
    sent, book = ticks(300, symbols=3), Book()
    ingest, sink = Ingest(sent), buffer.sink()
    gap = tt.Gap(sent[100].symbol, NOON, "sequence", 3, NOON)
    ingest.gaps[id(sent[100])] = gap
    await sink.run(ingest)
    await drain(buffer, book, 300)
    assert book.gaps == [gap]


async def test_what_lay_in_the_buffer_is_as_old_as_it_is_for_clocks_that_disagree(
    buffer: RedisStreams,
) -> None:
    ingest, sink, book = Ingest(ticks(10)), buffer.sink(), Book()
    skewed = 3600.0
    ingest.clock = type(ingest.clock)(trio.current_time, ingest.clock.wall() + skewed)
    await sink.run(ingest)
    seen = sink.statistics()
    assert seen.clock_difference_s == pytest.approx(skewed, abs=1)
    assert seen.clock_error_s is not None
    assert 0 < seen.clock_error_s < 1
    await trio.sleep(0.3)
    workers, source = Workers(book), buffer.source()
    behind = workers.clock.wall() - 7200
    workers.clock = type(workers.clock)(trio.current_time, behind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        await until(lambda: book.distinct == 10)
        source.drain()
    assert source.statistics().clock_difference_s == pytest.approx(-7200, abs=1)
    assert min(book.ages) >= 0.29
    assert max(book.ages) < 5


async def test_a_lone_tick_wakes_an_idle_worker(buffer: RedisStreams) -> None:
    book, ingest, sink = Book(), Ingest(ends=False), buffer.sink()
    workers, source = Workers(book), buffer.source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        nursery.start_soon(sink.run, ingest)
        await until(lambda: source.statistics().shards == 64)
        for number in range(1, 30):
            ingest.put([tick("A", number)])
            await until_distinct(book, number)
        ingest.end()
        source.drain()
    assert book.lines == {"A": list(range(1, 30))}


async def test_lag_is_counted_in_ticks_and_seconds(buffer: RedisStreams) -> None:
    await fill(buffer, ticks(100))
    await trio.sleep(0.2)
    gate, book = trio.Event(), Book()

    async def handler(_: object) -> None:
        await gate.wait()

    workers, source = Workers(book, handler), buffer.source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        # The first beat tells the lag before anything is fetched.
        await until(lambda: source.statistics().lag is not None and workers.received == 100)
        seen = source.statistics()
        assert (seen.lag, seen.used, seen.connected) == (100, 100, True)
        assert seen.lag_s is not None
        assert seen.lag_s >= 0.19
        assert seen.round_trip_s is not None
        shown = await look(buffer)
        (group,) = shown.groups
        assert (group.name, group.lag) == ("workers", 100)
        assert list(group.holders.values()) == [64]
        assert group.members == tuple(group.holders)
        assert (shown.used, shown.appended, shown.deleted, shown.dead) == (100, 100, 0, 0)
        assert sum(shown.entries.values()) == len(shown.entries) == group.pending > 10
        gate.set()
        await until(lambda: source.statistics().lag == 0)
        source.drain()
    (group,) = (await look(buffer)).groups
    assert (group.lag, group.lag_s, group.pending, group.members) == (0, 0.0, 0, ())


async def test_what_cannot_be_written_is_counted(buffer: RedisStreams) -> None:
    class Odd:
        symbol = "S1"
        timestamp = NOON

    ingest, sink = Ingest([*ticks(5), Odd(), *ticks(5)]), buffer.sink()
    await sink.run(ingest)
    seen = sink.statistics()
    assert (seen.appended, seen.failed, seen.in_doubt) == (10, 1, 0)
    ingest.check(sink)


async def test_entries_of_other_versions_and_junk_are_dead_letters(
    buffer: RedisStreams, server: Server
) -> None:
    sent, book = ticks(50, symbols=5), Book()
    await fill(buffer, sent[:25])
    for number in range(5):
        server.ask("XADD", f"{{ticks}}:s:{number}", "*", "n", 0, "t", "\x95\x09junk")
    server.ask("XADD", "{ticks}:s:5", "*", "hello", "world")
    await fill(buffer, sent[25:])
    workers, source = Workers(book), buffer.source()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        await until(lambda: book.distinct == 50 and source.statistics().junk == 6)
        source.drain()
    book.check(sent)
    assert book.repeats == 0
    left = await sums(buffer)
    left.check()
    assert left.entries == 0
    shown = await look(buffer)
    assert (shown.dead, shown.dead_kept) == (6, 6)
    assert "hello" in server.ask("XRANGE", "{ticks}:dead", "-", "+")


@pytest.mark.parametrize("count", ["1.5", "-3", "1e9", "abc", "0x10", "inf", "nan", "", "9" * 20])
async def test_a_count_that_is_none_stops_nobody(
    buffer: RedisStreams, server: Server, count: str
) -> None:
    few = attrs.evolve(buffer, shards=1)
    sent, book = ticks(10, symbols=2), Book()
    await fill(few, sent[:5])
    server.ask("XADD", "{ticks}:s:0", "*", "n", count, "t", "junk")
    server.ask("XADD", "{ticks}:s:0", "*", "t", "junk", "n", count)
    await fill(few, sent[5:])
    source = await drain(few, book, 10)
    book.check(sent)
    assert source.statistics().junk == 2
    left = await sums(few)
    left.check()
    assert (left.came, left.out, left.entries) == (10, 10, 0)


async def test_slow_workers_hold_no_more_than_they_have_room_for(buffer: RedisStreams) -> None:
    await fill(buffer, ticks(3000))
    book = Book()

    async def handler(_: object) -> None:
        await trio.sleep(0.0005)

    workers, source = Workers(book, handler, room=200), buffer.source()
    most = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workers.run, source)
        while book.distinct < 600:
            most = max(most, source.statistics().unacknowledged)
            await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    workers.check(source)
    # The room, what the workers have, and the entries that are handled in part or were
    # larger than the guess. A source that asked for no room would hold all 3,000.
    assert most <= 1000
