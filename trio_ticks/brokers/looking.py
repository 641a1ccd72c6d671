"""How a buffer is doing, asked of its broker: the same words for each of them.

Rules: nothing is changed, joined or made by a look. What a broker cannot say is
``None``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs
import trio

from ..buffer import Buffer
from ..errors import BrokerError, ConfigError

__all__ = ["BufferView", "GroupView", "look"]


@attrs.frozen(slots=True, kw_only=True)
class GroupView:
    """The workers that share a buffer's ticks, as its broker sees them."""

    name: str
    lag: int
    """What the group has not acknowledged."""
    unit: Literal["ticks", "entries"] = "ticks"
    """What the lag counts: Kafka knows how many records there are, and each holds up to
    ``pack`` ticks."""
    lag_s: float | None = None
    """How long the oldest of it has been in the buffer, in seconds."""
    pending: int | None = None
    """Entries that workers have fetched and not acknowledged."""
    holders: Mapping[str, int] | None = None
    """The workers that are there, and how many shards each of them holds."""


@attrs.frozen(slots=True, kw_only=True)
class BufferView:
    """A buffer at one moment, from outside."""

    buffer: str
    """Where it is, without a password."""
    maxsize: int | None = None
    """How many ticks it holds at most."""
    used: int | None = None
    """How many ticks are in it, for whichever group. Of Kafka those that its group has
    not acknowledged, about: some records are read, and give the mean for all."""
    groups: tuple[GroupView, ...] = ()
    dead: int | None = None
    """Dead letters that are there to be read."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return attrs.asdict(self)


async def look(buffer: Buffer, timeout_s: float = 10.0) -> BufferView:
    """Return how *buffer* is doing.

    Args:
        buffer: a ``RedisStreams`` or a ``Kafka``. A ``ZeroMQ`` has no
            broker to ask: its ingests' metrics say how much is under way.
        timeout_s: how long the broker may take, in seconds.

    Raises:
        BrokerError: the broker refuses us or does not answer in time, or there is no
            such buffer.
        ConfigError: nobody can be asked about this kind of buffer.

    Cancellation: nothing is left open.
    """
    module = type(buffer).__module__.rpartition("trio_ticks.brokers.")[2].partition(".")[0]
    shown = str(getattr(buffer, "shown", type(buffer).__name__))
    with trio.move_on_after(timeout_s):
        if module == "redis_streams":
            return await _look_at_redis(buffer)
        if module == "kafka":
            return await _look_at_kafka(buffer, timeout_s)
        raise ConfigError(
            f"{shown}: no broker can be asked about it; of ZeroMQ the ingests' metrics tell "
            "how many ticks are under way: trio-ticks lag … --metrics HOST:PORT"
        )
    raise BrokerError(f"{shown}: no answer in {timeout_s:g} s", buffer=shown)


async def _look_at_redis(buffer: Any) -> BufferView:
    from . import redis_streams

    seen = await redis_streams.look(buffer)
    return BufferView(
        buffer=seen.buffer,
        maxsize=seen.maxsize,
        used=seen.used,
        groups=tuple(
            GroupView(
                name=each.name,
                lag=each.lag,
                lag_s=each.lag_s,
                pending=each.pending,
                holders={name: each.holders.get(name, 0) for name in each.members},
            )
            for each in seen.groups
        ),
        dead=seen.dead_kept,
    )


async def _look_at_kafka(buffer: Any, timeout_s: float) -> BufferView:
    from . import kafka

    seen = await kafka.look(buffer, timeout_s)
    unit: Literal["ticks", "entries"] = "ticks" if buffer.pack == 1 else "entries"
    return BufferView(
        buffer=buffer.shown,
        maxsize=buffer.maxsize,
        used=seen.ticks,
        groups=(GroupView(name=buffer.group, lag=seen.lag, unit=unit),),
        dead=seen.dead_letters,
    )
