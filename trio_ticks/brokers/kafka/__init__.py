"""A buffer in a topic of Kafka: how its records are written, and what is promised.

**Records.** The value of a record is MessagePack, in the form that
:mod:`trio_ticks.brokers.packing` describes: ``[1, "ticks", count, arrivals, items,
gaps]``. With ``pack=1`` a record is one tick and its key is the symbol; any MessagePack
reads it::

    version, kind, ticks, arrivals, items, gaps = msgspec.msgpack.decode(record.value())
    ((name, (tick,)),) = items[0]     # "trio_ticks.ticks:Tick", {"symbol": "EURUSD", …}
    arrived = arrivals[0][1]          # seconds since 1970

A packed record holds up to ``pack`` ticks of one partition, in order; its key is the
partition's number. The partition of a symbol is ``crc32(symbol) % partitions``, which
is what librdkafka's partitioner ``consistent`` computes from the key. Timestamps are
MessagePack's timestamps. Members may be added at the end of each list. librdkafka
compresses records by lz4, unless ``settings`` or ``producer_settings`` have another
``compression.type``.

**Promises.** At least once. The producer is idempotent, so its own retries append
nothing twice. The ticks of a symbol are in order: what is repeated after a crash is a
stretch from the oldest tick that was not committed on. A tick is committed when it has
an outcome and so have all before it in its partition. Workers that join or leave in
good order repeat nothing, as long as their handlers end within ``hand_over_s``.

**Crashes.** A broker that keeps the metadata of commits (Apache Kafka does) is told
there who holds a partition. A worker that takes over from one that died handles what
that one may have begun one tick at a time, each announced by a commit. A tick at which
the process died ``max_deliveries`` times goes to ``<topic>.dead``. A broker that keeps
no metadata is recognised, and a log line says so; there a tick that kills its process
has to be skipped by the operator: stop the workers, and set the group's offset behind
it (``kafka-consumer-groups --reset-offsets --shift-by 1 --topic …:<partition>``).

**Clocks.** The time of a tick's arrival at the ingest travels with it. The difference
between two machines' clocks cannot be measured through Kafka. If a stamp lies in the
future, our clock is behind by at least that much (up to an hour is believed): it is
then shown as ``clock_difference_s``, and all times of arrival are shifted by it.

**Limits.** ``maxsize`` is approximate: see :class:`Kafka`. Kafka removes nothing that
is acknowledged: the topic's ``retention.ms`` does, and it must be longer than the
longest outage of the workers, since it also removes what is not acknowledged.
"""

from __future__ import annotations

from .buffer import Kafka
from .looking import Look, PartitionLook, look

__all__ = ["Kafka", "Look", "PartitionLook", "look"]
