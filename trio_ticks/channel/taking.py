"""How ticks leave the channel: the sync steps of receivers and workers.

Rules: with order, a symbol is in ``lanes.lines`` from the moment one of its ticks is
taken until the taker releases it; ticks that come meanwhile are parked behind it, in
order. Whoever has taken a tick calls :meth:`Taking.move_up`, so that what waits for
room enters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..gaps import Gap
from ..ledger import Ledger
from ..ticks import MarketData
from .deliveries import Deliveries
from .drops import Drops
from .fifo import FifoBuffer
from .freshness import AgeMeter
from .keyed import KeyedBuffer
from .losses import Losses

__all__ = ["Taking"]

T = TypeVar("T", bound=MarketData)


class Taking(Generic[T]):
    """Takes ticks out of one channel."""

    __slots__ = ("_ages", "_buffer", "_deliveries", "_drops", "_ledger", "_losses", "_now")

    def __init__(
        self,
        buffer: FifoBuffer[T] | KeyedBuffer[T],
        losses: Losses,
        drops: Drops,
        deliveries: Deliveries[T],
        ledger: Ledger,
        ages: AgeMeter | None,
        now: Callable[[], float],
    ) -> None:
        self._buffer = buffer
        self._losses = losses
        self._drops = drops
        self._deliveries = deliveries
        self._ledger = ledger
        self._ages = ages
        self._now = now

    def take(self, limit: int) -> list[T]:
        """Remove and return up to *limit* fresh ticks, in order.

        What waits for room moves up. Ticks that are too old, and what a book or the
        breaker holds back, are dropped.
        """
        batch = self._take(limit)
        self.move_up()
        while not batch and self._buffer:
            # All before what moved up was too old, or held back.
            batch = self._take(limit)
            self.move_up()
        return batch

    def take_one(self) -> list[T]:
        """As :meth:`take` for one tick, but nothing moves up.

        For callers that let ticks in themselves.
        """
        return self._take(1)

    def move_up(self) -> None:
        """Let in what waits for room."""
        if self._deliveries.pending:
            self._deliveries.advance(self._now())

    def _take(self, limit: int) -> list[T]:
        if self.is_plain:
            batch = self._buffer.take_many(limit)
        else:
            batch = []
            while self._buffer and len(batch) < limit:
                item: Any = self._buffer.take()
                if self.drop_if_stale(item, self._buffer.arrival()):
                    continue
                if (kept := self.inspect(item)[0]) is not None:
                    batch.append(kept)
        self._ledger.delivered += len(batch)
        return batch

    def take_fresh(self) -> T:
        """Remove and return the oldest tick of the buffer.

        The hot path of loop workers.

        Raises:
            IndexError: there is none, or it was too old and is dropped. What follows it
                may then have a gap to be told, so a worker has to look around first.
        """
        item = self._buffer.take()
        if self.drop_if_stale(item, self._buffer.arrival()):
            raise IndexError("too old")
        return item

    def from_buffer(self) -> Any:
        """Remove and return the oldest tick of the buffer.

        It carries the gap that its lane ends with.

        Raises:
            IndexError: there is none.
        """
        item = self._buffer.take()
        losses = self._losses
        return losses.leave_buffer(item) if losses.gaps.lanes else item

    def next_tick(
        self, held: dict[str, None], lane: str | None, *, ordered: bool
    ) -> tuple[str | None, Any, float] | None:
        """Take the next tick that its taker may handle, and lease its symbol.

        Ticks before it are parked.

        Args:
            held: the symbols that the taker has leased, in their order; a symbol leased
                here is added.
            lane: the lane that the last tick came out of, to go on with it.
            ordered: whether a symbol's ticks are handled one at a time; else nothing is
                leased.

        Returns:
            The lane that the tick came out of, if it did; the tick; and when it
            arrived. ``None`` where there is no such tick.
        """
        lanes, buffer = self._losses.lanes, self._buffer
        if lane is not None and (parked := lanes.take_next(lane)) is not None:
            return lane, *parked
        if lanes.ready and lanes.is_ready():
            found = lanes.take()
            held[found[0]] = None
            return found
        gaps, lines = self._losses.gaps, lanes.lines
        while buffer:
            # As from_buffer does it, in the hot path of threads.
            item: Any = buffer.take()
            if gaps.lanes:
                item = self._losses.leave_buffer(item)
            symbol, arrived = item.symbol, buffer.arrival()
            if not ordered:
                return None, item, arrived
            if symbol not in lines:
                lines[symbol] = None
                held[symbol] = None
                return None, item, arrived
            if symbol in held and not lanes.lines[symbol]:
                return None, item, arrived
            lanes.park(symbol, item, arrived)
        return None

    @property
    def is_plain(self) -> bool:
        """Whether ticks need not be looked at: none is too old, none has a gap."""
        return self._ages is None and not self._losses.unannounced

    def is_stale(self, item: T, arrived: float) -> bool:
        """Tell whether *item*, which came at the time *arrived*, is too old now."""
        return self._ages is not None and self._ages.is_stale(item, arrived, self._now())

    def drop_if_stale(self, item: T, arrived: float) -> bool:
        """Drop *item*, just taken, if it is too old now; tell whether it was."""
        if self._ages is None or not self._ages.is_stale(item, arrived, self._now()):
            return False
        self._drops.drop((item,), "stale")
        return True

    def inspect(self, item: Any) -> tuple[T | None, Gap | None]:
        """Look at *item*, just taken: return it, and the gap to tell before it.

        ``None`` where a book or the breaker holds it back: then it was dropped.
        """
        kept, gap, held = self._losses.inspect(item, self._now())
        if held is None:
            return kept, gap
        self._drops.drop((kept,), "held", by_breaker=held == "breaker")
        return None, None
