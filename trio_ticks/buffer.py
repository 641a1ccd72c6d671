"""The seam for buffers between processes: what a broker and a pipeline give each other.

A broker is two adapters around the channel, which stays the only buffer that feed and
workers know. A *sink* stands where the worker pool stands: it takes stretches from the
channel and appends them. A *source* stands where the feed stands: it fetches, delivers
into a channel of prefetch size, and acknowledges what has an outcome. Nothing here
runs: protocols and plain values only.

Rules: a tick that a source delivered is acknowledged when it is no longer in
:meth:`Outcomes.unfinished`; until then it may come again, never get lost. The ticks of
a symbol are always in the same shard, in order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import Any, Protocol, runtime_checkable

import attrs

from .clock import Clock
from .gaps import Gap

__all__ = [
    "Buffer",
    "BufferStatistics",
    "Outcomes",
    "Receive",
    "Send",
    "Sink",
    "Source",
    "Stretch",
]


@attrs.define(slots=True)
class Stretch:
    """Ticks in order, with the gaps between them and the times of their arrival."""

    items: list[Any] = attrs.field(factory=list)
    """Market data."""
    arrived: list[float] = attrs.field(factory=list)
    """When each of the items arrived at the ingest: seconds since 1970, by the ingest's
    clock at the sink, by the worker's clock at the source."""
    gaps: list[tuple[int, Gap]] = attrs.field(factory=list)
    """Gaps by place, in order: one at the place ``n`` lies before ``items[n]``, which
    is of its symbol."""
    origins: list[tuple[int, str, int]] = attrs.field(factory=list)
    """At the source: where the items lie in the broker's stream of their shard, if the
    source says it. ``(n, position, index)``: ``items[n]`` is the tick *index* of the
    entry at *position* (an id, an offset), and those behind it follow it there. It is
    the same whenever they come again, so that a reader of results can recognise a
    repeat."""
    delivery: int = 1
    """Which delivery of the items this is, as far as the broker knows."""

    def extend(self, other: Stretch) -> None:
        """Append the items of *other*, with their arrivals and gaps.

        What is said of places in the broker's stream is not taken over.
        """
        begin = len(self.items)
        self.items += other.items
        self.arrived += other.arrived
        self.gaps += [(begin + place, gap) for place, gap in other.gaps]


@attrs.frozen(slots=True, kw_only=True)
class BufferStatistics:
    """A buffer at one moment, as one process sees it. Counters only grow.

    What is not known is ``None``: before the first answer, or because this broker
    cannot tell.
    """

    connected: bool = False
    """Whether the broker answers now."""
    reconnects: int = 0
    """Connections made after the first one."""
    round_trip_s: float | None = None
    """How long the broker took for its last answer, in seconds."""
    maxsize: int | None = None
    """How many ticks the buffer holds at most, over all producers."""
    used: int | None = None
    """How many ticks are in it, as the broker said last: appended by anybody, and not
    acknowledged."""

    # At the ingest.
    appended: int = 0
    """Ticks that the broker has taken from this process for good."""
    in_doubt: int = 0
    """Ticks that were taken from the channel and are not confirmed yet."""
    duplicates: int = 0
    """Ticks that were sent again after a lost answer, and recognised by the broker."""
    full_s: float = 0.0
    """How long the broker was full, in seconds."""
    failed: int = 0
    """Ticks that could not be written."""

    # At the workers.
    received: int = 0
    """Ticks that came from the broker, those that came again included."""
    redelivered: int = 0
    """Of these, ticks that may have been handled before: after a crash, for example."""
    acknowledged: int = 0
    """Ticks that the broker need not keep any more for this process."""
    given_back: int = 0
    """Ticks that went back to the broker unhandled."""
    unacknowledged: int = 0
    """Ticks that were received and neither acknowledged nor given back."""
    fenced: int = 0
    """Times at which the broker refused us a shard that had become another's."""
    dead: int = 0
    """Ticks that went to the dead letters, since their process died again and again."""
    junk: int = 0
    """Entries that could not be read, and went to the dead letters."""
    lag: int | None = None
    """Ticks in the broker that nobody has acknowledged, as far as it is known."""
    lag_s: float | None = None
    """How long the oldest of them has been there, in seconds."""
    shards: int = 0
    """Shards that this process holds."""
    takeovers: int = 0
    """Shards that it got from others, or first."""
    clock_difference_s: float | None = None
    """Our clock less the ingest's (or the broker's, by which both are compared)."""
    clock_error_s: float | None = None
    """How wrong that may be, in seconds."""


class Receive(Protocol):
    """What a sink uses of the ingest's channel."""

    @property
    def clock(self) -> Clock:
        """The pipeline's time."""
        ...

    @property
    def random(self) -> Random:
        """The pipeline's source of chance."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether nothing is queued and nothing more can come."""
        ...

    async def take(self, most: int, /) -> Stretch:
        """Return what is queued, at least one item and at most *most*, with the gaps.

        Raises:
            trio.EndOfChannel: nothing more can come.

        Cancellation: nothing was taken. Always a checkpoint.
        """
        ...


class Send(Protocol):
    """What a source uses of the workers' channel."""

    @property
    def clock(self) -> Clock:
        """The pipeline's time."""
        ...

    @property
    def random(self) -> Random:
        """The pipeline's source of chance."""
        ...

    @property
    def room(self) -> int:
        """How many more ticks fit into the channel now."""
        ...

    async def deliver(self, shard: int, stretch: Stretch, /) -> None:
        """Hand over what came of *shard*, in order; waits while there is no room.

        A handler that wants to know is told of symbols that are new here before their
        first tick.

        Cancellation: each tick is in the channel, or counted as given back.
        """
        ...

    async def deliver_all(self, parts: Sequence[tuple[int, Stretch]], /) -> None:
        """Hand over what came of several shards, in this order, in one step.

        It is as :meth:`deliver` for each part, and costs less: *parts* are pairs of a
        shard and what came of it.

        Cancellation: each tick is in the channel, or counted as given back.
        """
        ...

    async def give_up(self, shard: int, /) -> None:
        """Say that *shard* is another worker's from now on, or soon will be.

        Its ticks must have been finished or withdrawn. A handler that wants to know is
        told that its symbols are gone; that is bounded in time.
        """
        ...

    def bury(self, item: Any, error: Exception, /) -> None:
        """Count *item*, which was not delivered, as received and failed.

        For a tick at which the process died again and again. ``on_error`` is called
        with it soon after; not for ``None``, which stands for a tick that could not be
        read, and is kept nowhere else.
        """
        ...


class Outcomes(Protocol):
    """What channel and workers tell a source.

    Both calls are sync, and are made in the event loop.
    """

    def unfinished(self) -> list[Any]:
        """Return the ticks that have no outcome yet.

        They are queued, wait for room, are held by a worker, or have failed and are
        being told to ``on_error``. At the end of a shutdown there may be others that
        will never have one, since the time was up: they stay unfinished until they are
        withdrawn. Each is the very object that was delivered.
        """
        ...

    @property
    def busy(self) -> bool:
        """Whether any tick may still get an outcome: a source that drains waits so
        long.
        """
        ...

    def withdraw(self, symbols: Collection[str]) -> int:
        """Take what is queued of *symbols* out of the channel, in one step.

        For a lease that is lost: the ticks are another worker's now. They are counted
        as ``given_back``. What a worker has begun goes on. Returns how many were
        withdrawn.
        """
        ...


@runtime_checkable
class Sink(Protocol):
    """The broker's end at the ingest: it stands where the worker pool stands."""

    async def run(self, receive: Receive, /) -> None:
        """Append what comes out of *receive*, until its end.

        While the broker is full or away nothing is taken, so that the channel's
        overflow strategy decides. At the end nothing is in doubt.

        Raises:
            BrokerError: the broker refuses us, in a way that waiting does not mend.

        Cancellation: what was taken and not confirmed stays ``in_doubt``.
        """

    def statistics(self) -> BufferStatistics:
        """Return the counters of this end."""
        ...


@runtime_checkable
class Source(Protocol):
    """The broker's end at the workers: it stands where the feed stands."""

    async def run(self, send: Send, outcomes: Outcomes, /) -> None:
        """Fetch and deliver into *send*, and acknowledge what has an outcome.

        Returns once :meth:`drain` was called and all that was delivered is acknowledged
        or given back.

        Raises:
            BrokerError: the broker refuses us, in a way that waiting does not mend.

        Cancellation: what was delivered and not acknowledged comes again, to whoever
        holds its shard next.
        """

    def drain(self) -> None:
        """Have :meth:`run` fetch no more, and end when nothing is busy any more.

        Then it acknowledges what has an outcome, and gives its shards up. What is
        unfinished then comes again, to whoever holds its shard next. Sync, and may be
        called twice.
        """

    def statistics(self) -> BufferStatistics:
        """Return the counters of this end."""
        ...


@runtime_checkable
class Buffer(Protocol):
    """A buffer between processes. A pipeline without one has its channel alone.

    It may also have ``prefetch``, how many ticks the workers' channel holds (unless
    ``maxsize`` says it).
    """

    def sink(self) -> Sink:
        """Return a new end for an ingest."""
        ...

    def source(self) -> Source:
        """Return a new end for workers."""
        ...
