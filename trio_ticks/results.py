"""What a strategy has found out about a tick, on its way to one place for all workers.

Each worker of a pipeline with ``results=`` hands over what its handler returns. Several
processes write to one place, so a result says where it comes from.

Rules: plain values and protocols only. A tick has an outcome once its result was
written, never before; so after a crash a result may be there twice, with the same
place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import attrs

__all__ = ["Place", "Result", "ResultStore", "Results"]


@attrs.frozen(slots=True)
class Place:
    """Where a tick lies in a buffer between processes: the same whenever it comes."""

    shard: int
    """The part of the buffer that its symbol belongs to: a stream, a partition."""
    position: str | None = None
    """The entry in that shard, as the broker names it: an id, an offset. ``None``: the
    buffer's source does not say, and ticks of a shard share their place."""
    index: int = 0
    """Which tick of that entry it is, from 0."""


@attrs.frozen(slots=True, kw_only=True)
class Result:
    """What a handler returned for one tick, and for which.

    Two results with the same ``symbol`` and ``place`` are of the same tick.
    """

    value: Any
    """What the handler returned; never ``None``, which is no result."""
    symbol: str
    """The tick's symbol."""
    place: Place | None = None
    """Where the tick lies in the buffer; ``None`` in memory, where no tick comes
    again."""
    attempt: int = 1
    """The number of this delivery of the tick, as far as the buffer knows it. Above 1
    there may be a result of the same place already. A result whose writing was
    repeated, since its confirmation was lost, keeps its attempt."""
    item: Any = attrs.field(default=None, eq=False, repr=False)
    """The tick itself. It is not written to a broker."""


@runtime_checkable
class ResultStore(Protocol):
    """A place for results that takes several of them in one step.

    Such as a table, or a stream of a broker. What it raises for good fails the ticks;
    see :func:`~trio_ticks.open_pipeline`. If it is an async context manager, it is
    entered before the first tick and left after the last.
    """

    async def __call__(self, result: Result, /) -> None:
        """Write one result; return when it is safe.

        Cancellation: it may have been written.
        """

    async def write_many(self, results: Sequence[Result], /) -> None:
        """Write *results*, all of them in order; return when they are safe.

        Cancellation: some of them may have been written.
        """


Results = Callable[[Result], Awaitable[Any] | Any] | ResultStore
"""What ``results=`` takes: a function, awaited if need be, or a store."""
