"""Brokers for the runs: a real server each, and the buffers at it.

Rules: on 127.0.0.1 and free ports; whoever opens one ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import attrs
from confluent_kafka import Producer

from tests.worlds.kafka_world import QUICK, open_broker
from tests.worlds.servers import Server, free_port, running

__all__ = ["CLUSTER", "KAFKA", "REDIS", "ZEROMQ", "Station", "opened"]

REDIS = ("valkey", "redis")
KAFKA, ZEROMQ = "kafka", "zeromq"
CLUSTER = "kafka-cluster"
"""librdkafka's own test cluster, in this process. Other than tansu it keeps the
metadata of commits, as Apache Kafka does."""
_CLUSTER_S = 6.0
"""The shortest session that it allows."""
_numbers = count()


@attrs.frozen
class Station:
    """A broker, and how programs are told of it."""

    kind: str
    shards: int
    """Of a buffer; of ZeroMQ, of each ingest."""
    lease_s: float
    """A lease of Redis and ZeroMQ, a session of Kafka, in seconds."""
    address: str = ""
    server: Server | None = None
    name: str = attrs.Factory(lambda: f"proof{next(_numbers)}")
    ports: tuple[int, ...] = ()
    """ZeroMQ: where the ingests listen."""

    def buffer(self, *, ingest: int | None = None, group: str = "workers") -> dict[str, Any]:
        """Return the buffer as the processes are told it.

        Args:
            ingest: the number of the ingest; None for a worker.
            group: of the worker.
        """
        if self.kind == ZEROMQ:
            each = [f"tcp://127.0.0.1:{port}" for port in self.ports]
            beats = {"heartbeat": self.lease_s / 8, "lease": self.lease_s}
            if ingest is None:
                return {"kind": "ZeroMQ", "addresses": each, **beats}
            return {"kind": "ZeroMQ", "bind": each[ingest], **beats}
        if self.kind in (KAFKA, CLUSTER):
            return {
                "kind": "Kafka",
                "servers": self.address,
                "topic": self.name,
                "group": group,
                "partitions": self.shards,
                "consumer_settings": {**QUICK, "session.timeout.ms": int(self.lease_s * 1000)},
            }
        return {
            "kind": "RedisStreams",
            "url": self.address,
            "name": self.name,
            "group": group,
            "lease": self.lease_s,
        }


@contextmanager
def opened(
    kind: str, *, ingests: int = 1, fsync: str = "", lease_s: float = 2.0
) -> Iterator[Station]:
    """Start a broker of *kind* for the time of the block.

    Args:
        kind: one of ``REDIS``, ``KAFKA``, ``CLUSTER``, ``ZEROMQ``.
        ingests: how many there will be.
        fsync: when Redis is to sync its log; empty: it has none.
        lease_s: see :class:`Station`.
    """
    if kind == ZEROMQ:
        yield Station(kind, 64, lease_s, ports=tuple(free_port() for _ in range(ingests)))
    elif kind == KAFKA:
        with open_broker() as broker:
            yield Station(kind, 8, lease_s, broker.address)
    elif kind == CLUSTER:
        # It lives as long as this client.
        made = Producer({"bootstrap.servers": "none:1", "test.mock.num.brokers": 1, "log_level": 0})
        (broker,) = made.list_topics(timeout=10).brokers.values()
        station = Station(kind, 4, max(lease_s, _CLUSTER_S), f"{broker.host}:{broker.port}")
        # A topic is made by a look for it.
        for topic in (station.name, f"{station.name}.dead"):
            made.list_topics(topic, timeout=10)
        yield station
    else:
        log = ("--appendonly", "yes", "--appendfsync", fsync) if fsync else ()
        with running(kind, *log) as server:
            yield Station(kind, 64, lease_s, server.url, server)
