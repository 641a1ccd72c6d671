"""Ticks go through a real broker: all of them, in order, acknowledged when finished."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import msgspec
import pytest
import trio
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

import trio_ticks as tt
from tests.worlds.helpers import EPOCH, make_tick, number
from tests.worlds.kafka_world import (
    Broker,
    Queue,
    appended,
    broker,
    make,
    numbered,
    until,
    working,
)
from trio_ticks.brokers import Kafka
from trio_ticks.brokers.kafka import look
from trio_ticks.brokers.kafka.producing import Producing, Report
from trio_ticks.brokers.packing import shard_of

__all__ = ["broker"]


def whole(total: int, symbols: int = 20) -> dict[str, list[int]]:
    return {f"S{symbol}": list(range(total // symbols)) for symbol in range(symbols)}


def read(kafka: Kafka, topic: str, partitions: int, most: int) -> list[Any]:
    """Return the records of *topic*, read by a plain client."""
    client = Consumer({"bootstrap.servers": kafka.servers, "group.id": "plain"})
    try:
        client.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        found: list[Any] = []
        for _ in range(200):
            message = client.poll(0.05)
            if message is not None:
                assert message.error() is None
                found.append(message)
            if len(found) >= most:
                break
        return found
    finally:
        client.close()


def write(kafka: Kafka, partition: int, body: bytes) -> None:
    """Append *body* by a plain client."""
    client = Producer({"bootstrap.servers": kafka.servers})
    client.produce(kafka.topic, body, b"odd", partition=partition)
    assert client.flush(10) == 0


async def test_all_ticks_come_in_the_order_of_each_symbol(broker: Broker) -> None:
    kafka = make(broker.address)
    sent = await appended(kafka, numbered(5000))
    assert (sent.appended, sent.in_doubt, sent.failed) == (5000, 0, 0)
    async with working(kafka) as (world, source):
        await until(lambda: len(world.handled) == 5000)
    assert world.numbers() == whole(5000)
    statistics = source.statistics()
    assert (statistics.received, statistics.acknowledged) == (5000, 5000)
    assert (statistics.unacknowledged, statistics.given_back) == (0, 0)
    assert sorted(world.given_up) == [0, 1, 2, 3]
    assert (await look(kafka)).lag == 0


async def test_three_producers_lose_nothing_of_each_other(broker: Broker) -> None:
    kafka = make(broker.address, pack=16)

    async def produce(name: str) -> None:
        ticks = [make_tick(f"{name}{n % 7}", n // 7, now=EPOCH) for n in range(1400)]
        assert (await appended(kafka, ticks)).appended == 1400

    async with working(kafka) as (world, _source):
        async with trio.open_nursery() as nursery:
            for name in "ABC":
                nursery.start_soon(produce, name)
        await until(lambda: len(world.handled) == 4200)
    expected = {f"{name}{n}": list(range(200)) for name in "ABC" for n in range(7)}
    assert world.numbers() == expected


async def test_one_tick_a_record_is_read_by_a_plain_client(broker: Broker) -> None:
    kafka = make(broker.address, pack=1)
    ticks = numbered(40, symbols=5)
    await appended(kafka, ticks)
    records = await trio.to_thread.run_sync(read, kafka, kafka.topic, 4, 40)
    found: dict[str, list[int]] = {}
    for record in records:
        version, kind, count, arrivals, items, gaps = msgspec.msgpack.decode(record.value())
        ((name, (tick,)),) = items[0]
        assert (version, kind, count, gaps) == (1, "ticks", 1, [])
        assert (name, arrivals[0][0]) == ("trio_ticks.ticks:Tick", 1)
        assert record.key().decode() == tick["symbol"]
        assert record.partition() == shard_of(tick["symbol"], 4)
        found.setdefault(tick["symbol"], []).append(int(tick["volume"]))
        assert tick["timestamp"] == EPOCH
    assert found == whole(40, 5)
    async with working(kafka) as (world, _source):
        await until(lambda: len(world.handled) == 40)
    assert world.numbers() == whole(40, 5)


async def test_packed_records_hold_no_more_ticks_than_they_may(broker: Broker) -> None:
    kafka = make(broker.address, pack=32)
    await appended(kafka, numbered(1000))
    sizes = Counter(shard_of(f"S{n % 20}", 4) for n in range(1000))
    most = sum(-(-size // 32) for size in sizes.values())
    records = await trio.to_thread.run_sync(read, kafka, kafka.topic, 4, most)
    counts = [msgspec.msgpack.decode(record.value())[2] for record in records]
    assert sum(counts) == 1000
    assert max(counts) == 32
    assert {record.key() for record in records} <= {b"0", b"1", b"2", b"3"}


async def test_gaps_travel_in_their_place(broker: Broker) -> None:
    kafka = make(broker.address)
    queue = Queue(numbered(10, symbols=1))
    queue.gaps[4] = tt.Gap("S0", EPOCH, "sequence", 7, EPOCH)
    await kafka.sink().run(queue)
    async with working(kafka) as (world, _source):
        await until(lambda: len(world.handled) == 10)
    assert [(gap.symbol, gap.count) for gap in world.gaps] == [("S0", 7)]


async def test_the_time_of_arrival_travels_with_the_tick(broker: Broker) -> None:
    kafka = make(broker.address)
    queue = Queue(numbered(3, symbols=1))
    queue.clock = type(queue.clock)(trio.current_time, 0.0)
    began = queue.clock.wall()
    await kafka.sink().run(queue)
    async with working(kafka) as (world, source):
        await until(lambda: len(world.handled) == 3)
        assert source.statistics().clock_difference_s is None
    # That clock began in 1970, so the ticks lay in the broker for decades.
    assert all(began <= time < began + 60 for time in world.arrived)


async def test_a_stamp_from_the_future_says_how_far_our_clock_is_behind(broker: Broker) -> None:
    kafka = make(broker.address)
    queue = Queue(numbered(3, symbols=1))
    ahead = queue.clock.wall() + 120.0
    queue.clock = type(queue.clock)(trio.current_time, ahead)
    await kafka.sink().run(queue)
    async with working(kafka) as (world, source):
        await until(lambda: len(world.handled) == 3)
        now = world.clock.wall()
        difference_s = source.statistics().clock_difference_s
    assert -120.0 < difference_s < -60.0
    assert all(now - 60.0 < time <= now for time in world.arrived)


async def test_records_that_cannot_be_read_are_dead_lettered(broker: Broker) -> None:
    kafka = make(broker.address)
    await appended(kafka, numbered(100))
    write(kafka, 2, b"no entry of ours")
    write(kafka, 1, msgspec.msgpack.encode([9, "ticks", 5, [], [[]], []]))
    await appended(kafka, numbered(100, first=5))
    async with working(kafka) as (world, source):
        await until(lambda: len(world.handled) == 200)
    assert world.numbers() == whole(200)
    assert source.statistics().junk == 2
    letters = await trio.to_thread.run_sync(read, kafka, kafka.dead_topic, 1, 2)
    assert {letter.value()[:9] for letter in letters} >= {b"no entry "}
    headers = [dict(letter.headers()) for letter in letters]
    assert {head["partition"] for head in headers} == {b"1", b"2"}
    assert all(
        head["reason"] == b"junk" and head["topic"] == kafka.topic.encode() for head in headers
    )
    seen = await look(kafka)
    assert (seen.lag, seen.dead_letters) == (0, 2)


async def test_an_item_that_cannot_be_written_counts_as_failed(broker: Broker) -> None:
    kafka = make(broker.address)

    class Odd:
        symbol = "S0"
        timestamp = EPOCH

    sent = await appended(kafka, [*numbered(5, symbols=1), Odd(), *numbered(5, 1, first=5)])
    assert (sent.appended, sent.failed, sent.in_doubt) == (10, 1, 0)


async def test_a_record_that_is_too_large_is_sent_in_parts(broker: Broker) -> None:
    kafka = make(broker.address, pack=128, producer_settings={"message.max.bytes": 4000})
    sent = await appended(kafka, numbered(600, symbols=3))
    assert (sent.appended, sent.failed) == (600, 0)
    async with working(kafka) as (world, _source):
        await until(lambda: len(world.handled) == 600)
    assert world.numbers() == whole(600, 3)


async def test_a_tick_that_is_too_large_for_a_record_costs_itself_alone(broker: Broker) -> None:
    kafka = make(broker.address, pack=8, producer_settings={"message.max.bytes": 4000})
    large = make_tick("S" * 5000, 0)
    sent = await appended(kafka, [*numbered(4, 1), large, *numbered(4, 1, first=4)])
    assert (sent.appended, sent.failed, sent.in_doubt) == (8, 1, 0)


async def test_nothing_is_taken_while_the_topic_is_full(broker: Broker) -> None:
    kafka = make(broker.address, maxsize=500, pack=10)
    queue = Queue(numbered(2000))
    sink = kafka.sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, queue)
        await until(lambda: sink.statistics().appended == 500)
        await until(lambda: sink.statistics().full_s > 0.2)
        statistics = sink.statistics()
        assert (statistics.used, statistics.in_doubt, statistics.appended) == (500, 0, 500)
        assert (queue.taken, len(queue.items)) == (500, 1500)
        peak = 0
        async with working(kafka) as (world, _source):
            while len(world.handled) < 2000:
                peak = max(peak, sink.statistics().used or 0)
                await trio.sleep(0.002)
    assert world.numbers() == whole(2000)
    # One ingest knows its own ticks exactly.
    assert peak <= 500


APART = {"batch.num.messages": 1}
"""Records are sent alone: this broker names the last batch's beginning as the end."""


async def one_by_one(kafka: Kafka, total: int) -> None:
    """Append ticks as a slow feed brings them: each comes alone, and so in a record."""
    single = attrs.evolve(kafka, pack=1, producer_settings=APART)
    assert (await appended(single, numbered(total))).appended == total


async def test_small_records_of_others_leave_a_new_ingest_its_room(broker: Broker) -> None:
    kafka = make(broker.address)
    # As full records these would be 256,000 ticks, more than there is room for.
    await one_by_one(kafka, 1000)
    sink, queue = kafka.sink(), Queue(numbered(2000, first=50), ended=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, queue)
        await until(lambda: sink.statistics().appended == 2000)
        # They are all there, and nobody handles any.
        assert sink.statistics().used == pytest.approx(3000, abs=100)
        assert sink.statistics().full_s == 0
        async with working(kafka) as (world, _source):
            await until(lambda: len(world.handled) == 3000)
            await until(lambda: sink.statistics().used == 0)
        queue.end()
    assert world.numbers() == whole(3000)


async def test_large_records_of_others_fill_the_topic_for_a_new_ingest(broker: Broker) -> None:
    kafka = make(broker.address, maxsize=2000, pack=64, producer_settings=APART)
    await appended(attrs.evolve(kafka, maxsize=3000), numbered(2000))
    sink, queue = kafka.sink(), Queue(numbered(1000, first=100))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, queue)
        await until(lambda: sink.statistics().full_s > 0.2)
        # The last record of each partition may be missing in what this broker says.
        assert sink.statistics().used == pytest.approx(2000, rel=0.15)
        assert sink.statistics().appended < 500
        async with working(kafka) as (world, _source):
            await until(lambda: len(world.handled) == 3000)
    assert world.numbers() == whole(3000)


async def test_two_ingests_with_full_records_keep_to_the_bound(broker: Broker) -> None:
    kafka = make(broker.address, maxsize=4000, pack=64, producer_settings=APART)
    one, two = kafka.sink(), kafka.sink()
    mine, yours = Queue(numbered(2000), ended=False), Queue(numbered(9000), ended=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run, mine)
        await until(lambda: one.statistics().appended == 2000)
        nursery.start_soon(two.run, yours)
        await until(lambda: two.statistics().full_s > 0.2 and not two.statistics().in_doubt)
        assert two.statistics().appended == pytest.approx(2000, rel=0.25)
        # The first ingest hears of the second one's by a look, and takes no more.
        await until(lambda: (one.statistics().used or 0) > 3400)
        mine.put(numbered(9000, first=100))
        await until(lambda: one.statistics().full_s > 0.2 and not one.statistics().in_doubt)
        total = one.statistics().appended + two.statistics().appended
        assert total == pytest.approx(4000, rel=0.25)
        nursery.cancel_scope.cancel()


async def test_a_reading_ingest_leaves_no_trace_in_the_group(broker: Broker) -> None:
    kafka = make(broker.address)
    await one_by_one(kafka, 500)
    async with working(kafka) as (world, source):
        await until(lambda: len(world.handled) == 500)
        gained = source.statistics().takeovers, source.statistics().shards
        await appended(kafka, numbered(500, first=25))
        await until(lambda: len(world.handled) == 1000)
        assert (source.statistics().takeovers, source.statistics().shards) == gained
    assert world.numbers() == whole(1000)
    assert source.statistics().redelivered == 0


async def test_a_full_topic_is_looked_at_before_the_next_look_is_due(broker: Broker) -> None:
    kafka = make(broker.address, maxsize=500, pack=10, poll_s=3600.0)
    queue = Queue(numbered(2000))
    sink = kafka.sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, queue)
        await until(lambda: sink.statistics().appended == 500)
        async with working(kafka) as (world, _source):
            await until(lambda: len(world.handled) == 2000)
    assert world.numbers() == whole(2000)


async def test_what_is_not_confirmed_stays_in_doubt_when_cancelled(broker: Broker) -> None:
    # The records wait for an hour before they are sent.
    kafka = make(broker.address, producer_settings={"linger.ms": 900_000})
    sink = kafka.sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, Queue(numbered(100)))
        await until(lambda: sink.statistics().in_doubt == 100)
        nursery.cancel_scope.cancel()
    assert (sink.statistics().in_doubt, sink.statistics().appended) == (100, 0)


async def test_what_is_cancelled_comes_again_and_nothing_else(broker: Broker) -> None:
    kafka = make(broker.address, pack=1, partitions=1, group="again")
    await appended(kafka, numbered(300, symbols=1))

    async def handler(tick: tt.Tick) -> None:
        if number(tick) >= 120:
            await trio.sleep_forever()

    async with working(kafka, handler, drain=False) as (first, source):
        await until(lambda: source.statistics().acknowledged == 120)
    async with working(kafka) as (second, _source):
        await until(lambda: len(second.handled) == 180)
    assert first.numbers()["S0"] == list(range(121))
    assert second.numbers()["S0"] == list(range(120, 300))


async def test_two_groups_get_all_ticks_each(broker: Broker) -> None:
    one = make(broker.address, group="one")
    two = make(broker.address, topic=one.topic, group="two")
    await appended(one, numbered(500))
    async with working(one) as (first, _), working(two) as (second, _):
        await until(lambda: len(first.handled) == len(second.handled) == 500)
    assert first.numbers() == second.numbers() == whole(500)


async def test_the_look_from_outside(broker: Broker) -> None:
    kafka = make(broker.address, pack=1)
    await appended(kafka, numbered(50))
    seen = await look(kafka)
    assert len(seen.partitions) == 4
    assert seen.dead_letters == 0
    by_partition = Counter(shard_of(f"S{n % 20}", 4) for n in range(50))
    # This broker may name the beginning of the last batch as the end.
    assert all(each.lag <= by_partition[each.partition] for each in seen.partitions)
    assert 0 < seen.lag <= 50


@pytest.mark.parametrize("pack", [1, 64])
async def test_the_look_from_outside_reads_how_large_the_records_are(
    broker: Broker, pack: int
) -> None:
    kafka = make(broker.address, pack=pack, producer_settings=APART)
    await appended(kafka, numbered(2000))
    # What the buffer says of pack does not matter.
    seen = await look(attrs.evolve(kafka, pack=256))
    assert seen.ticks == pytest.approx(2000, rel=0.15)
    assert seen.lag == pytest.approx(2000 / pack, rel=0.2)


@pytest.mark.parametrize("pack", [1, 64])
async def test_lag_is_counted_in_ticks_and_seconds(broker: Broker, pack: int) -> None:
    kafka = make(broker.address, pack=pack, partitions=1, prefetch=64)
    await appended(kafka, numbered(640, symbols=1))
    gate = trio.Event()

    async def handler(_tick: tt.Tick) -> None:
        await gate.wait()

    async with working(kafka, handler) as (world, source):
        await until(lambda: source.statistics().lag == 640)
        assert source.statistics().lag_s > 0
        assert source.statistics().unacknowledged < 640
        gate.set()
        await until(lambda: source.statistics().lag == 0)
        assert source.statistics().lag_s == 0
    assert len(world.handled) == 640


@pytest.mark.parametrize(
    ("code", "clients"), [(KafkaError.UNKNOWN_PRODUCER_ID, 2), (KafkaError.NOT_ENOUGH_REPLICAS, 1)]
)
async def test_what_failed_is_sent_again_and_no_tick_has_to_come_for_it(
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    clients: int,
) -> None:
    """By a new client where the broker takes nothing more of the old one."""
    made, listen = [], Producing.listen
    refused: list[int] = []

    def refusing(producing: Producing, timeout_s: float) -> list[Report]:
        if producing not in made:
            made.append(producing)
        reports = listen(producing, timeout_s)
        if len(refused) >= 3:
            return reports
        refused.extend(1 for _ in reports)
        return [attrs.evolve(each, error=KafkaError(code), offset=-1) for each in reports]

    monkeypatch.setattr(Producing, "listen", refusing)
    kafka, queue = make(broker.address, pack=10), Queue(numbered(200), ended=False)
    sink = kafka.sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, queue)
        # The market is quiet meanwhile.
        await until(lambda: sink.statistics().appended == 200)
        assert (sink.statistics().connected, sink.statistics().in_doubt) == (True, 0)
        queue.end()
    assert len(made) == clients
    assert "broker.sent_again" in caplog.text
