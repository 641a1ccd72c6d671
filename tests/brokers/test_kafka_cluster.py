"""A tick that kills its process, and what else takes a broker that keeps metadata.

That is librdkafka's own test cluster: a server that speaks Kafka's protocol, in C, in
this process. It also says exactly where a partition ends. A death is a source that is
cancelled while the tick is being handled.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.lowlevel
from confluent_kafka import Producer

import trio_ticks as tt
from tests.worlds.helpers import number
from tests.worlds.kafka_world import PATIENCE_S, Queue, appended, make, numbered, until, working
from trio_ticks.brokers import Kafka
from trio_ticks.brokers.kafka import look

POISON = ("S3", 20)
# The cluster does not let a group have a shorter session.
SESSION = {"session.timeout.ms": 6000}


@pytest.fixture(scope="module")
def cluster() -> Producer:
    """Run librdkafka's cluster for as long as this client lives."""
    return Producer({"bootstrap.servers": "none:1", "test.mock.num.brokers": 1, "log_level": 0})


def made(cluster: Producer, **settings: Any) -> Kafka:
    """Return a buffer in the cluster, where looking for a topic makes it."""
    brokers = cluster.list_topics(timeout=10).brokers.values()
    address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    kafka = make(address, consumer_settings=SESSION, **settings)
    for topic in (kafka.topic, kafka.dead_topic):
        cluster.list_topics(topic, timeout=10)
    return kafka


async def test_only_the_tick_that_kills_its_process_is_dead_lettered(cluster: Producer) -> None:
    kafka = made(cluster, max_deliveries=2, prefetch=100)
    await appended(kafka, numbered(400, symbols=8))
    handled: list[tuple[str, int]] = []
    lives: list[Any] = []
    buried: list[tuple[Any, Exception]] = []

    async def live() -> bool:
        """Run one process; return whether it died."""
        dead = trio.Event()

        async def handler(tick: tt.Tick) -> None:
            if (tick.symbol, number(tick)) == POISON:
                dead.set()
                await trio.sleep_forever()
            await trio.lowlevel.checkpoint()
            # A process that has died handles nothing more, and acknowledges nothing.
            if dead.is_set():
                await trio.sleep_forever()
            handled.append((tick.symbol, number(tick)))

        async with working(kafka, handler, drain=False) as (world, source):
            lives.append(source)
            await until(lambda: dead.is_set() or len({*handled}) == 399)
            if not dead.is_set():
                await until(lambda: source.statistics().unacknowledged == 0)
                # That is so as well while a partition was given back and comes again.
                with trio.fail_after(PATIENCE_S):
                    while (await look(kafka)).lag:  # noqa: ASYNC110 - the broker tells no one
                        await trio.sleep(0.05)
        buried.extend(world.buried)
        return dead.is_set()

    while await live():
        pass
    # It died when nobody knew why, perhaps again beyond the ticks that were suspected,
    # once when the tick was handled apart, and once when it was the only one.
    assert 4 <= len(lives) <= 7
    ((item, error),) = buried
    assert (item.symbol, number(item)) == POISON
    assert "died 2 times" in str(error)
    assert [life.statistics().dead for life in lives[-2:]] == [0, 1]
    assert lives[-1].statistics().redelivered > 0
    assert len({*handled}) == 399
    assert POISON not in handled
    seen = await look(kafka)
    assert (seen.lag, seen.dead_letters) == (0, 1)


async def test_a_clean_leave_repeats_nothing_of_a_record_that_is_partly_handled(
    cluster: Producer,
) -> None:
    kafka = made(cluster, hand_over_s=0.2)
    await appended(kafka, numbered(400, symbols=4))
    gate = trio.Event()

    async def handler(tick: tt.Tick) -> None:
        if tick.symbol == "S1" and number(tick) >= 30:
            await gate.wait()

    async with working(kafka, handler) as (first, source):
        await until(lambda: len(first.handled) == 331)
        source.drain()
        # The pipeline's time is over: what is queued goes back.
        assert source.give_back() == 70
    async with working(kafka) as (second, heir):
        await until(lambda: len(second.handled) == 70)
    # The tick that was being handled had no outcome when it was given back.
    assert second.numbers() == {"S1": list(range(30, 100))}
    assert first.numbers()["S1"] == list(range(31))
    assert heir.statistics().redelivered == 0
    assert (await look(kafka)).lag == 0


async def test_an_ingest_sees_what_others_have_appended(cluster: Producer) -> None:
    kafka = made(cluster, maxsize=400, pack=1)
    await appended(kafka, numbered(300))
    queue = Queue(numbered(300, first=15))
    sink = kafka.sink()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sink.run, queue)
        await until(lambda: sink.statistics().used == 400)
        statistics = sink.statistics()
        assert (statistics.appended, statistics.in_doubt, queue.taken) == (100, 0, 100)
        nursery.cancel_scope.cancel()
