"""A look at a buffer from outside, by a program that is neither ingest nor worker.

Rules: nothing is changed, joined or made.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from ...clock import Clock
from ...errors import BrokerError
from .backlog import Backlog
from .health import Health
from .library import confluent
from .sampling import learn
from .settings import KafkaSettings
from .topics import Admin

__all__ = ["Look", "PartitionLook", "look"]

_PAUSE_S: Final = 0.1


@attrs.frozen
class PartitionLook:
    """One partition of a buffer. Offsets count records of up to ``pack`` ticks."""

    partition: int
    end: int
    """The offset that the next record gets."""
    committed: int
    """The first record that the group has not acknowledged."""

    @property
    def lag(self) -> int:
        """How many records the group has not acknowledged."""
        return max(0, self.end - self.committed)


@attrs.frozen
class Look:
    """A buffer at one moment."""

    partitions: tuple[PartitionLook, ...]
    dead_letters: int
    """Records in the topic of the dead letters."""
    round_trip_s: float
    """How long the broker took to say it, in seconds."""
    ticks: int
    """How many ticks are in the records that the group has not acknowledged, about:
    some of them were read. Where none could be, each is counted as one tick."""

    @property
    def lag(self) -> int:
        """How many records the group has not acknowledged, in all partitions."""
        return sum(each.lag for each in self.partitions)


async def look(buffer: KafkaSettings, timeout_s: float = 10.0) -> Look:
    """Return what the broker says of *buffer*.

    Args:
        buffer: what to look at.
        timeout_s: how long the broker may take, in seconds.

    Raises:
        BrokerError: the broker refuses us or does not answer in time, there is no such
            topic, or it has another number of partitions.

    Cancellation: nothing is changed.
    """
    health = Health(buffer, Clock().now)
    admin = Admin(buffer, health)
    why = "no answer"
    try:
        with trio.move_on_after(timeout_s):
            while True:
                try:
                    return await _ask(buffer, admin)
                except confluent().KafkaException as error:
                    if health.is_refusal(error.args[0]):
                        health.error(error.args[0])
                    health.check()
                    why = error.args[0].str()
                    await trio.sleep(_PAUSE_S)
        raise BrokerError(
            f"{buffer.shown}: no answer in {timeout_s:g} s ({why}). Is the broker there?",
            buffer=buffer.shown,
        )
    finally:
        await admin.aclose()


async def _ask(buffer: KafkaSettings, admin: Admin) -> Look:
    count = await admin.partitions(buffer.topic)
    if count != buffer.partitions:
        has = "does not exist" if count is None else f"has {count} partitions"
        raise BrokerError(
            f"{buffer.shown}: the topic {has}; the buffer is to have {buffer.partitions}",
            buffer=buffer.shown,
        )
    found = await admin.offsets()
    dead = 0
    count = await admin.partitions(buffer.dead_topic)
    if count is not None:
        ends = await admin.ends(buffer.dead_topic, count)
        dead = sum(end - first for first, end in ends.values())
    partitions = tuple(
        PartitionLook(number, found.ends.get(number, 0), found.committed.get(number, 0))
        for number in range(buffer.partitions)
    )
    backlog = Backlog(buffer.partitions)
    backlog.update(found.ends, found.committed)
    await learn(backlog, admin)
    return Look(partitions, dead, found.round_trip_s, backlog.ticks)
