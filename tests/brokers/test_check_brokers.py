"""check_buffer passes the three brokers, over real servers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

import trio_ticks as tt
import trio_ticks.brokers
from tests.worlds.kafka_world import Broker, broker
from tests.worlds.servers import Server, free_port, running
from trio_ticks.testing import check_buffer

__all__ = ["broker"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("valkey") as server:
        yield server


async def test_redis_streams(server: Server) -> None:
    names = itertools.count()

    def make() -> tt.brokers.RedisStreams:
        name = f"check{next(names)}"
        return tt.brokers.RedisStreams(server.url, name, maxsize=400, shards=8, lease=1.0)

    await check_buffer(make, sharing=True, bound=400)


async def test_kafka(broker: Broker) -> None:
    names = itertools.count()

    def make() -> tt.brokers.Kafka:
        return tt.brokers.Kafka(
            broker.address,
            f"check{next(names)}",
            partitions=4,
            consumer_settings={"session.timeout.ms": 2000, "heartbeat.interval.ms": 500},
        )

    await check_buffer(make, sharing=True)


async def test_zeromq() -> None:
    def make() -> tt.brokers.ZeroMQ:
        return tt.brokers.ZeroMQ(
            f"tcp://127.0.0.1:{free_port()}", shards=8, window=400, heartbeat=0.2, lease=1.0
        )

    await check_buffer(make, sharing=True, bound=400)
