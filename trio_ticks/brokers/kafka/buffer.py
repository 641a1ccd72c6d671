"""The buffer itself: its settings, and its two ends.

Rules: nothing runs here.
"""

from __future__ import annotations

import attrs

from .settings import KafkaSettings
from .sink import KafkaSink
from .source import KafkaSource

__all__ = ["Kafka"]


@attrs.frozen
class Kafka(KafkaSettings):
    """A buffer in a topic of Kafka, for ingests and workers in any number of processes.

    Delivery is at least once, in the order of each symbol. How the ticks are written,
    and what is promised, is told in ``trio_ticks.brokers.kafka``.

    Args:
        servers: ``"host:port"``, or several with commas between them.
        topic: the topic. Its dead letters are in ``<topic>.dead``.
        group: the consumer group of the workers, ``<topic>-workers`` unless given. Each
            group gets all ticks. Use one for one topic only: Kafka's groups are the
            cluster's, and workers of another topic in it would stop these whenever they
            come or go.
        partitions: how many partitions the topic has: at most so many workers share
            the load. All programs must say the same, since a symbol's partition is
            computed from it.
        maxsize: how many ticks that *group* has not acknowledged the topic holds before
            the ingests take no more. It is approximate: an ingest knows its own ticks
            exactly, and asks for the others' every *poll_s*, so several ingests may
            exceed it by what the others append meanwhile (their rate x *poll_s*).
            Others' records, also those that it has itself appended before it was
            started anew, are counted with the mean of 32 of them, which are read
            anew each second: so the bound may be missed either way by the error of
            that mean. An ingest that may not read the topic takes them to be as large
            as its own are, and as one tick each before it has sent any: then it errs
            towards too many.
        pack: how many ticks are in a record at most. With 1 each record is one tick
            with its symbol as key, for others who read the topic.
        prefetch: how many ticks without an outcome a worker process holds; records are
            fetched whole, so it may be exceeded by a few records. After a crash at most
            twice as many are repeated.
        settings: librdkafka's own settings for all clients, such as
            ``{"security.protocol": "SASL_SSL", "sasl.username": …}``.
        producer_settings: the same for the ingest's client alone.
        consumer_settings: the same for the workers' client alone.
        create: whether to make a topic that is missing.
        replication: of topics that are made here; -1: what the broker says.
        max_deliveries: how often a process may die at a tick before the tick goes to
            the dead letters, 2 or more. From the second time on it is handled while
            nothing else is, so that no other tick is blamed.
        window: how many ticks an ingest sends before the first of them is confirmed.
        hand_over_s: how long a worker may go on with the ticks of a partition that
            it has to hand over, in seconds. The other workers wait meanwhile.
        poll_s: seconds from one look at the group's offsets to the next.

    Raises:
        ConfigError: a setting is wrong, or confluent-kafka is missing.
    """

    def sink(self) -> KafkaSink:
        """Return a new end for an ingest."""
        return KafkaSink(self)

    def source(self) -> KafkaSource:
        """Return a new end for workers."""
        return KafkaSource(self)
