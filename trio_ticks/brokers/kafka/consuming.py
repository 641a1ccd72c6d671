"""What a worker's client does in its thread: fetch, commit, and speak of partitions.

A turn commits what is due and fetches what there is room for. librdkafka calls back
from inside it, in the same thread, when partitions come and go; the event loop is asked
then, and the thread waits for its answer.

Rules: one thread at a time. A turn takes at most 0.1 s, unless partitions are handed
over. Fetching is not paused for ordinary backpressure, since a pause throws away what
librdkafka has fetched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol, final

import attrs
import trio

from .committing import Mark
from .health import Health
from .library import confluent
from .settings import KafkaSettings

__all__ = ["Consuming", "Entry", "Order", "Partitions", "Turn", "session_s"]

_DEFAULTS: Final = {
    "auto.offset.reset": "earliest",
    "session.timeout.ms": 10_000,
    "heartbeat.interval.ms": 1000,
    "partition.assignment.strategy": "cooperative-sticky",
    "queued.max.messages.kbytes": 4096,
    # By default a queue that was full is filled again after a second.
    "fetch.queue.backoff.ms": 5,
    "reconnect.backoff.max.ms": 1000,
    # A group that was formed without the topic gets its partitions after this.
    "topic.metadata.refresh.interval.ms": 10_000,
}
_OLD_PROTOCOL: Final = (
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "partition.assignment.strategy",
)
"""What ``group.protocol=consumer`` does not allow."""
_ANSWER_S: Final = 2.0
_GONE: Final = ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION")


class Partitions(Protocol):
    """Whoever holds the partitions. Called in the event loop."""

    def gained(self, found: Mapping[int, tuple[int | None, str | None]], /) -> None:
        """Take partitions, each with its committed offset and metadata."""

    def hand_over(self, shards: Collection[int], /) -> Awaitable[dict[int, Mark]]:
        """Give partitions up; return what is to be committed."""
        ...

    def handed_over(self, marks: Mapping[int, Mark], committed: bool, /) -> None:
        """Note whether that was committed."""

    def lost(self, shards: Collection[int], /) -> Awaitable[None]:
        """Give up partitions that another may have already."""
        ...


@attrs.frozen
class Order:
    """What one turn is to do."""

    commits: Mapping[int, Mark]
    records: int
    """How many records to fetch at most."""
    wait_s: float
    paused: bool = False
    """Whether to wait for other news than records."""
    seeks: Mapping[int, int] = attrs.field(factory=dict)
    verify: int | None = None
    """A partition whose committed metadata is read back."""
    measure: bool = False
    """Whether to look how many records wait."""
    ask: bool = False
    """Whether to ask if the broker is there."""


@attrs.frozen(slots=True)
class Entry:
    """A record, as it came."""

    shard: int
    offset: int
    body: bytes


@attrs.frozen(slots=True)
class _Commit:
    marks: Mapping[int, Mark]
    handed: bool
    """Whether it is the last commit of partitions that are handed over."""


@attrs.define
class Turn:
    """What came of one turn."""

    entries: list[Entry] = attrs.field(factory=list)
    refused: Collection[int] | None = None
    """The partitions whose commit failed, if a commit was answered."""
    verified: bool | None = None
    behind: int | None = None
    """How many records there are beyond those that came."""
    topic_is_gone: bool = False


@final
class Consuming:
    """A consumer of the group.

    Args:
        kafka: the buffer.
        health: what is told of the broker.
        partitions: is asked in the event loop when partitions come and go.

    Raises:
        ConfigError: librdkafka does not take the settings.
    """

    def __init__(self, kafka: KafkaSettings, health: Health, partitions: Partitions) -> None:
        self._kafka = kafka
        self._health = health
        self._partitions = partitions
        self._answer: Collection[int] | None = None
        self._under_way: deque[_Commit] = deque()
        self._held: set[int] = set()
        self._paused = False
        self.aborting = False
        """Whether partitions are to be let go without a word."""
        self._resets = settings_of(kafka)["auto.offset.reset"]
        self._client: Any = health.client(
            confluent().Consumer, {**settings_of(kafka), "on_commit": self._on_commit}
        )
        self._client.subscribe(
            [kafka.topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def turn(self, order: Order) -> Turn:
        """Do what *order* says.

        Raises:
            trio.Cancelled: the event loop was cancelled while it was asked.
        """
        turn = Turn()
        if order.commits and not self._commit(order.commits):
            self._answer = tuple(order.commits)
        for shard, offset in order.seeks.items():
            self._try(self._client.seek, self._at(shard, offset))
        self._pause(order.paused)
        for message in self._fetch(order):
            error = message.error()
            if error is None:
                body = message.value() or b""
                turn.entries.append(Entry(message.partition(), message.offset(), body))
            elif error.name() in _GONE:
                turn.topic_is_gone = True
            else:
                self._health.error(error)
        turn.refused, self._answer = self._answer, None
        if turn.entries or turn.refused == ():
            self._health.heard()
        if order.verify is not None:
            turn.verified = self._verify(order.verify)
        if order.measure:
            turn.behind = self._behind()
        if order.ask and self._try(self._client.list_topics, self._kafka.topic, 0.1):
            self._health.heard()
        return turn

    def close(self) -> None:
        """Leave the group, handing over all partitions unless ``aborting``."""
        if self._client is not None:
            try:
                # It calls back for the partitions that are held.
                self._client.close()
            finally:
                self._client = None

    # Fetching

    def _fetch(self, order: Order) -> Sequence[Any]:
        client = self._client
        if not order.records and not order.paused:
            return ()
        if not order.records:
            message = client.poll(order.wait_s)
            return () if message is None else (message,)
        # consume() with a timeout would wait for all records that it is asked for.
        messages: list[Any] = client.consume(order.records, 0)
        if not messages and (message := client.poll(order.wait_s)) is not None:
            messages = [message]
            if order.records > 1:
                messages += client.consume(order.records - 1, 0)
        return messages

    def _pause(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            act = self._client.pause if paused else self._client.resume
            self._try(act, [self._at(shard) for shard in self._held])

    def _behind(self) -> int | None:
        behind = 0
        for shard in self._held:
            (position,) = self._client.position([self._at(shard)])
            marks = self._client.get_watermark_offsets(self._at(shard), cached=True)
            if marks is None or marks[1] < 0:
                return None
            behind += max(0, marks[1] - max(position.offset, marks[0], 0))
        return behind

    # Commits

    def _commit(self, marks: Mapping[int, Mark], *, handed: bool = False) -> bool:
        """Ask for a commit; return whether it is under way.

        Never a synchronous one: it would wait for a broker that is away, for minutes.
        The broker takes our requests in order, so what is committed here is committed
        before anybody else gets the partitions.
        """
        if not marks:
            return False
        # librdkafka answers commits in their order.
        self._under_way.append(_Commit(marks, handed))
        if self._try(self._client.commit, offsets=self._offsets(marks), asynchronous=True):
            return True
        self._under_way.pop()
        return False

    def _offsets(self, marks: Mapping[int, Mark]) -> list[Any]:
        new, topic = confluent().TopicPartition, self._kafka.topic
        return [
            new(topic, shard, mark.offset, metadata=mark.metadata) for shard, mark in marks.items()
        ]

    def _on_commit(self, error: Any, partitions: Sequence[Any]) -> None:
        if not self._under_way:
            return
        commit = self._under_way.popleft()
        refused = tuple(each.partition for each in partitions if each.error is not None)
        if error is not None:
            self._health.error(error)
            refused = tuple(commit.marks)
        if not commit.handed:
            self._answer = refused
        elif not self.aborting:
            done = not refused
            trio.from_thread.run_sync(self._partitions.handed_over, commit.marks, done)

    def _verify(self, shard: int) -> bool | None:
        try:
            (found,) = self._client.committed([self._at(shard)], timeout=_ANSWER_S)
        except confluent().KafkaException:
            return None
        return bool(found.metadata)

    # Partitions come and go. librdkafka gives and takes them when these return.

    def _on_assign(self, client: Any, partitions: Sequence[Any]) -> None:
        if self.aborting or not partitions:
            return
        shards = [each.partition for each in partitions]
        found: dict[int, tuple[int | None, str | None]] = dict.fromkeys(shards, (None, None))
        try:
            asked = [self._at(shard) for shard in shards]
            for each in client.committed(asked, timeout=_ANSWER_S):
                if each.error is None and each.offset >= 0:
                    found[each.partition] = (each.offset, each.metadata)
                elif each.error is None:
                    found[each.partition] = (self._beginning(client, each.partition), None)
        except confluent().KafkaException as error:
            self._health.error(error.args[0])
        self._held.update(shards)
        # Pausing is by partition, and a new one is not paused.
        self._paused = False
        trio.from_thread.run_sync(self._partitions.gained, found)

    def _beginning(self, client: Any, shard: int) -> int | None:
        low, high = client.get_watermark_offsets(self._at(shard), timeout=_ANSWER_S)
        if self._resets in ("earliest", "smallest", "beginning"):
            return int(low)
        return int(high) if self._resets in ("latest", "largest", "end") else None

    def _on_revoke(self, client: Any, partitions: Sequence[Any]) -> None:
        shards = [each.partition for each in partitions]
        self._held.difference_update(shards)
        if self.aborting or not shards:
            return
        marks = trio.from_thread.run(self._partitions.hand_over, shards)
        if not self._commit(marks, handed=True):
            trio.from_thread.run_sync(self._partitions.handed_over, marks, not marks)

    def _on_lost(self, client: Any, partitions: Sequence[Any]) -> None:
        shards = [each.partition for each in partitions]
        self._held.difference_update(shards)
        if not self.aborting and shards:
            trio.from_thread.run(self._partitions.lost, shards)

    # Help

    def _at(self, shard: int, offset: int = -1001) -> Any:
        return confluent().TopicPartition(self._kafka.topic, shard, offset)

    def _try(self, function: Any, *args: Any, **more: Any) -> bool:
        try:
            function(*args, **more)
        except confluent().KafkaException as error:
            self._health.error(error.args[0])
            return False
        return True


def settings_of(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the settings of a consumer of *kafka*."""
    given = {**kafka.settings, **kafka.consumer_settings}
    defaults: dict[str, Any] = dict(_DEFAULTS)
    if given.get("group.protocol") == "consumer":
        for name in _OLD_PROTOCOL:
            del defaults[name]
    return {
        **defaults,
        **given,
        "bootstrap.servers": kafka.servers,
        "group.id": kafka.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
    }


def session_s(kafka: KafkaSettings) -> float:
    """Return after how many seconds of silence the group takes a worker for dead."""
    try:
        return float(settings_of(kafka).get("session.timeout.ms", 45_000)) / 1000
    except (TypeError, ValueError):
        return 45.0
