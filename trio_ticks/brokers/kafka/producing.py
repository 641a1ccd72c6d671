"""What an ingest's client does in its threads: put records into librdkafka, and listen.

librdkafka keeps records until the broker has them, in the order of each partition; its
delivery reports say which those are. A report is kept until the event loop takes it.

Rules: a method is called in a thread unless it says otherwise. Two threads may use a
producer at once: one that puts, one that listens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, final

import attrs

from ...buffer import Stretch
from ..packing import Packer, Record, Unpacker
from .health import Health
from .library import confluent
from .settings import KafkaSettings

__all__ = ["Producing", "Report", "Sending", "split"]

_DEFAULTS: Final = {
    "linger.ms": 5,
    # Costs the ingest 0.05 µs a tick, and saves a broker on the same machine 0.4
    # (measured with tansu).
    "compression.type": "lz4",
    "queue.buffering.max.messages": 100_000,
    "reconnect.backoff.max.ms": 1000,
}


@attrs.define(slots=True)
class Sending:
    """A record on its way."""

    number: int
    """Counts up; the order of sending."""
    record: Record
    key: str


@attrs.frozen(slots=True)
class Report:
    """What became of a record."""

    sending: Sending
    error: Any
    """A ``KafkaError``; ``None``: the broker has it for good."""
    offset: int = -1


@final
class Producing:
    """An idempotent producer.

    Args:
        kafka: the buffer.
        health: what is told of the broker.
        topic: where the records go.

    Raises:
        ConfigError: librdkafka does not take the settings.
    """

    def __init__(self, kafka: KafkaSettings, health: Health, topic: str) -> None:
        self._topic = topic
        settings = {
            **_DEFAULTS,
            **kafka.settings,
            **kafka.producer_settings,
            "bootstrap.servers": kafka.servers,
            "enable.idempotence": True,
            "acks": "all",
            # Never give a record up because the broker is away.
            "message.timeout.ms": 0,
        }
        self._client: Any = health.client(confluent().Producer, settings)
        self._reports: list[Report] = []

    def put(
        self, sendings: Sequence[Sending], headers: list[tuple[str, bytes]] | None = None
    ) -> tuple[int, Any]:
        """Put *sendings* in, in order, until one cannot be.

        Returns:
            How many are in, and why the next one cannot be: a ``KafkaError``; ``None``
            if librdkafka's queue is full, or all are in.
        """
        produce, topic = self._client.produce, self._topic
        for count, sending in enumerate(sendings):
            record = sending.record

            def report(error: Any, message: Any, sending: Sending = sending) -> None:
                offset = -1 if error is not None else message.offset()
                self._reports.append(Report(sending, error, offset))

            try:
                produce(
                    topic,
                    record.body,
                    sending.key,
                    partition=record.shard,
                    on_delivery=report,
                    headers=headers,
                )
            except BufferError:
                return count, None
            except confluent().KafkaException as error:
                return count, error.args[0]
        return len(sendings), None

    def listen(self, timeout_s: float) -> list[Report]:
        """Wait for reports, at most *timeout_s* for the first; return them."""
        if not self._reports:
            self._client.poll(timeout_s)
        self._client.poll(0)
        reports, self._reports = self._reports, []
        return reports

    def close(self) -> list[Report]:
        """Give up what is on its way, and end the client; return the last reports."""
        self._client.purge(blocking=False)
        reports = [each for each in self.listen(0) if each.error is None]
        self._client = None
        return reports


def split(record: Record) -> list[Record]:
    """Return *record*, which is too large, as two."""
    stretch: Stretch = Unpacker().unpack(record.body)
    records, _refused = Packer(1, -(-record.ticks // 2)).pack(stretch)
    return [attrs.evolve(each, shard=record.shard) for each in records]
