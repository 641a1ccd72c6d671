"""The topic of a buffer: made if it is missing, measured, looked at from outside.

Rules: a call that only puts a question into librdkafka's queue is made in the event
loop; one that blocks is made in a thread, and is short. A topic is never changed or
deleted once it is there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar, final

import attrs
import trio

from ...clock import monotonic
from ...errors import BrokerError
from ...logs import log_event
from ..packing import Unpacker
from .health import Health
from .library import admin, confluent
from .settings import KafkaSettings

__all__ = ["Admin", "Offsets", "prepare"]

T = TypeVar("T")

_logger = logging.getLogger("trio_ticks.brokers")
_ANSWER_S: Final = 5.0
"""Seconds that an answer of the broker may take."""
_SHORT_S: Final = 0.1
_READ_S: Final = 1.0
"""Seconds that it may take to read some records."""
_READ_AT_ONCE: Final = 100
_SMALL: Final = {
    # Of each place a single record is wanted; a broker sends one that is larger, too.
    "fetch.message.max.bytes": 16_384,
    "queued.min.messages": 1,
    # By default a place that is asked for now and then waits for a second.
    "fetch.queue.backoff.ms": 5,
}
_AWAY_S: Final = 0.8
_SLOWEST_S: Final = 2.0
"""Seconds between two attempts, at most."""


@attrs.frozen
class Offsets:
    """Where a topic ends, and how far its group is, by partition."""

    ends: Mapping[int, int]
    """The offset that the next record gets."""
    committed: Mapping[int, int]
    """The first offset that the group has not acknowledged. Without a commit it is the
    oldest offset that there is."""
    round_trip_s: float


@final
class Admin:
    """Questions to the broker about topics and offsets. Close it by :meth:`aclose`.

    Raises:
        ConfigError: librdkafka does not take the settings.
    """

    def __init__(self, kafka: KafkaSettings, health: Health) -> None:
        self._kafka = kafka
        self._health = health
        settings = {**kafka.settings, "bootstrap.servers": kafka.servers}
        self._client: Any = health.client(admin().AdminClient, settings)
        self._group: Any = None
        self._limiter = trio.CapacityLimiter(1)
        self._patience_s = _SHORT_S
        self._lows: dict[int, int] = {}
        self._unpacker = Unpacker()
        self._closing = False

    async def aclose(self) -> None:
        """End the client. Waits, even if cancelled, for librdkafka's own threads.

        And for a question that was given up: it may make the group's client only now.
        If the broker is away, that takes longer than anything is worth that could come
        of it: then its thread goes on alone for at most 0.8 s, and ends the clients.
        """
        self._closing = True
        longest_s = math.inf if self._health.connected else _SHORT_S
        with trio.move_on_after(longest_s, shield=True) as patience:
            await trio.to_thread.run_sync(self._end, abandon_on_cancel=True, limiter=self._limiter)
        if patience.cancelled_caught:
            self._health.let_go()

    def _end(self) -> None:
        """Let the clients go, which waits for their threads; called in a thread."""
        self._client = self._group = None

    async def partitions(self, topic: str) -> int | None:
        """Return how many partitions *topic* has; ``None``: it does not exist.

        Raises:
            confluent_kafka.KafkaException: the broker did not say.

        Cancellation: nothing is changed.
        """
        found = await self._in_thread(self._topics)
        return found.get(topic)

    def _topics(self) -> dict[str, int]:
        """Return all topics with their partitions; called in a thread."""
        # A question about one topic would make it, with the broker's own settings.
        found = self._client.list_topics(timeout=self._patience_s).topics
        return {name: len(topic.partitions) for name, topic in found.items()}

    async def _in_thread(self, ask: Callable[[], T]) -> T:
        """Return the answer to a question that blocks a thread, in bounds.

        Cancellation: the thread goes on for at most 0.8 s if the broker is away.
        """
        client = self._client
        try:
            return await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._limiter)
        except confluent().KafkaException:
            longest_s = _ANSWER_S if self._health.connected else _AWAY_S
            self._patience_s = min(2 * self._patience_s, longest_s)
            # Errors and log lines wait for somebody to poll; this does not block.
            client.poll(0)
            self._health.check()
            raise

    async def create(self, topic: str, partitions: int) -> None:
        """Make *topic*; another program may do it at the same time.

        Raises:
            confluent_kafka.KafkaException: the broker does not.

        Cancellation: the topic may have been made.
        """
        new = admin().NewTopic(topic, partitions, self._kafka.replication)
        asked = self._client.create_topics([new], request_timeout=_ANSWER_S)
        try:
            await self._answer(asked[topic])
        except confluent().KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise
        else:
            log_event(_logger, logging.INFO, "broker.created", topic=topic, partitions=partitions)

    async def offsets(self) -> Offsets:
        """Return where the topic ends and how far the group is.

        Raises:
            confluent_kafka.KafkaException: the broker did not say.

        Cancellation: nothing is changed.
        """
        began = trio.current_time()
        committed = await self._in_thread(self._committed)
        round_trip_s = trio.current_time() - began
        whole = self._whole()
        # Committed first, then the ends: so that an end is never before a commit.
        ends = await self._listed(whole, admin().OffsetSpec.latest())
        missing = [each for each in whole if each.partition not in {*committed, *self._lows}]
        if missing:
            self._lows |= await self._listed(missing, admin().OffsetSpec.earliest())
        return Offsets(ends, {**self._lows, **committed}, round_trip_s)

    def _whole(self) -> list[Any]:
        new, topic = confluent().TopicPartition, self._kafka.topic
        return [new(topic, number) for number in range(self._kafka.partitions)]

    def _committed(self) -> dict[int, int]:
        """Return the group's offsets; called in a thread."""
        # The admin client's list_consumer_group_offsets() aborts the process if the
        # broker goes away meanwhile (librdkafka 2.16.0: "eonce->refcnt > 0").
        found = self._consumer().committed(self._whole(), timeout=self._patience_s)
        return {each.partition: each.offset for each in found if each.offset >= 0}

    def _consumer(self) -> Any:
        """Return a client that knows of the group, and does not join it."""
        if self._group is None:
            self._group = self._new_consumer()
        return self._group

    def _new_consumer(self) -> Any:
        settings = {
            **self._kafka.settings,
            **self._kafka.consumer_settings,
            **_SMALL,
            "bootstrap.servers": self._kafka.servers,
            "group.id": self._kafka.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
        }
        return self._health.client(confluent().Consumer, settings)

    async def ticks_at(self, places: Mapping[int, Sequence[int]]) -> list[int]:
        """Return how many ticks the records hold that lie at *places*.

        Only those are among them that can be read within a second.

        Args:
            places: offsets, by partition.

        Cancellation: the thread goes on for at most 0.1 s.
        """
        read = partial(self._ticks_at, places)
        return await trio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=self._limiter)

    def _ticks_at(self, places: Mapping[int, Sequence[int]]) -> list[int]:
        """Read the records at *places*; called in a thread."""
        topic, new = self._kafka.topic, confluent().TopicPartition
        found: list[int] = []
        try:
            # To fetch from a topic that was deleted kills the process, also if a client
            # knew one of that name before: librdkafka 2.16.0 segfaults, with tansu.
            if self._topics().get(topic) != self._kafka.partitions:
                return found
        except confluent().KafkaException:
            return found
        client = self._new_consumer()
        left = {partition: _mixed(offsets) for partition, offsets in places.items()}
        end = monotonic() + _READ_S
        try:
            while left:
                # To be given partitions by hand is to join no group. One place of each
                # partition is asked for at a time; others close behind it come along.
                asked = {number: wanted[0] for number, wanted in left.items()}
                client.assign([new(topic, number, offset) for number, offset in asked.items()])
                while asked:
                    if self._closing or monotonic() > end:
                        return found
                    for message in self._fetched(client):
                        if message.error() is not None:
                            return found
                        number, offset = message.partition(), message.offset()
                        wanted = left.get(number, [])
                        if offset in wanted:
                            found.append(self._unpacker.count(message.value() or b""))
                            wanted.remove(offset)
                        # If the record is gone by now, a later one comes.
                        place = asked.pop(number, None)
                        if place in wanted:
                            wanted.remove(place)
                left = {number: wanted for number, wanted in left.items() if wanted}
        except confluent().KafkaException:
            # The next question to the broker tells what is wrong.
            return found
        finally:
            client.unassign()
            client.close()
        return found

    @staticmethod
    def _fetched(client: Any) -> list[Any]:
        # consume() with a timeout would wait for all records that it is asked for.
        first = client.poll(_SHORT_S / 2)
        return [] if first is None else [first, *client.consume(_READ_AT_ONCE, 0)]

    async def ends(self, topic: str, partitions: int) -> dict[int, tuple[int, int]]:
        """Return the first and the next offset of each partition of *topic*.

        Raises:
            confluent_kafka.KafkaException: the broker did not say.

        Cancellation: nothing is changed.
        """
        whole = [confluent().TopicPartition(topic, number) for number in range(partitions)]
        first = await self._listed(whole, admin().OffsetSpec.earliest())
        last = await self._listed(whole, admin().OffsetSpec.latest())
        return {number: (first[number], last[number]) for number in first}

    async def _answer(self, future: Future[Any]) -> Any:
        """Await *future*, which a thread of librdkafka's resolves."""
        answered = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def wake(_future: object) -> None:
            # The run may have ended when an answer comes that nobody waits for.
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(answered.set)

        future.add_done_callback(wake)
        while not answered.is_set():
            # Errors and log lines wait for somebody to poll; this does not block.
            self._client.poll(0)
            self._health.check()
            with trio.move_on_after(_SHORT_S):
                await answered.wait()
        return future.result()

    async def _listed(self, partitions: Iterable[Any], spec: Any) -> dict[int, int]:
        asked = self._client.list_offsets(
            dict.fromkeys(partitions, spec), request_timeout=_ANSWER_S
        )
        return {
            each.partition: (await self._answer(future)).offset for each, future in asked.items()
        }


def _mixed(offsets: Sequence[int]) -> list[int]:
    """Return *offsets* in an order of which each beginning is spread over all of them.

    What was read when the time is over is then no worse than fewer places.
    """
    step = max(1, round(0.6 * len(offsets)))
    while math.gcd(step, len(offsets)) > 1:
        step += 1
    return [offsets[step * place % len(offsets)] for place in range(len(offsets))]


async def prepare(
    admin_client: Admin, kafka: KafkaSettings, health: Health, *, seen: bool = False
) -> None:
    """See to it that the topic is there and has the right number of partitions.

    Waits for a broker that is away.

    Args:
        admin_client: asks the broker.
        kafka: the buffer.
        health: of the end that needs the topic.
        seen: whether the topic was there before; then a topic that is missing means
            that the broker has lost it, and is told.

    Raises:
        BrokerError: the topic is missing and must not be made, has another number of
            partitions, or the broker refuses us.

    Cancellation: the topic may have been made.
    """
    pause = 0.05
    while True:
        health.check()
        try:
            count = await admin_client.partitions(kafka.topic)
            health.heard()
            if count is None:
                if seen:
                    text = "the broker has no topic %s any more"
                    log_event(
                        _logger,
                        logging.ERROR,
                        "broker.emptied",
                        text,
                        kafka.topic,
                        topic=kafka.topic,
                    )
                _check_may_create(kafka)
                await admin_client.create(kafka.topic, kafka.partitions)
                continue
            _check_count(kafka, count)
        except confluent().KafkaException as error:
            health.check()
            if health.is_refusal(error.args[0]):
                health.error(error.args[0])
                health.check()
            health.away(error.args[0].str())
        else:
            return
        await trio.sleep(pause)
        pause = min(2 * pause, _SLOWEST_S)


def _check_may_create(kafka: KafkaSettings) -> None:
    if not kafka.create:
        raise BrokerError(
            f"{kafka.shown}: there is no topic {kafka.topic!r}, or this user may not see it. Make "
            f"it with {kafka.partitions} partitions, or let the buffer do it: create=True",
            buffer=kafka.shown,
        )


def _check_count(kafka: KafkaSettings, count: int) -> None:
    if count != kafka.partitions:
        raise BrokerError(
            f"{kafka.shown}: the topic has {count} partitions, and the buffer is to have "
            f"{kafka.partitions}. All programs must agree, since the partition of a symbol depends "
            f"on it: say partitions={count}, or use another topic",
            buffer=kafka.shown,
        )
