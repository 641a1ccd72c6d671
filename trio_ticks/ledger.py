"""The ledger: the counters of one pipeline or channel, and the law that they obey.

The law holds at every checkpoint. It has two halves, of the channel and of the pool; in
each, both sides are measured apart. ``queued`` is the length of the real buffers and
of what waits for room in them, ``in_flight`` the number of ticks that workers really
hold.

Rules: counters are plain ints, each owned by one object. None is computed as "the
rest", or the law would hold always and show no mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import attrs

from .errors import LedgerError

__all__ = ["INTENTIONAL", "REASONS", "DropCounts", "DropReason", "Ledger", "LedgerSnapshot"]

DropReason = Literal["overflow", "evicted", "conflated", "stale", "held", "shutdown"]
REASONS: tuple[DropReason, ...] = get_args(DropReason)
INTENTIONAL: frozenset[DropReason] = frozenset({"conflated", "stale", "held"})
"""Reasons for which a tick is dropped because the user asked for it: no losses."""


@attrs.define(slots=True)
class DropCounts:
    """How many ticks one owner dropped, by reason."""

    overflow: int = 0
    evicted: int = 0
    conflated: int = 0
    stale: int = 0
    held: int = 0
    shutdown: int = 0

    def add(self, reason: DropReason, count: int) -> None:
        """Count *count* more ticks that were dropped for *reason*.

        Raises:
            LedgerError: there is no such reason, or *count* is negative: nothing is
                counted.
        """
        if reason not in REASONS or count < 0:
            raise LedgerError(f"{count!r} ticks cannot be dropped for the reason {reason!r}")
        setattr(self, reason, getattr(self, reason) + count)

    @property
    def total(self) -> int:
        return (
            self.overflow + self.evicted + self.conflated + self.stale + self.held + self.shutdown
        )


@attrs.frozen(slots=True)
class LedgerSnapshot:
    """The ledger at one moment."""

    produced: int
    delivered: int
    consumed: int
    failed: int
    dropped: int
    queued: int
    in_flight: int
    dropped_by_reason: Mapping[str, int]
    given_back: int = 0
    unaccounted: int = attrs.field()
    """How many ticks have no outcome: 0 unless the law is broken, in either half.

    Unless given it is ``produced`` less every outcome.
    """

    @unaccounted.default
    def _without_outcome(self) -> int:
        return self.produced - (
            self.consumed
            + self.failed
            + self.dropped
            + self.queued
            + self.in_flight
            + self.given_back
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {**attrs.asdict(self), "dropped_by_reason": dict(self.dropped_by_reason)}


def _nothing() -> int:
    return 0


class Ledger:
    """Counts every tick from the moment it was decoded until its outcome.

    ``produced == consumed + failed + dropped + queued + in_flight``, where ``dropped``
    is the sum of ``dropped_by_reason``. A channel that is used without a pipeline obeys
    the first half alone: ``produced == delivered + dropped + queued``.
    """

    __slots__ = (
        "_consumed",
        "_failed",
        "_in_flight",
        "_queued",
        "delivered",
        "given_back",
        "has_pool",
        "in_channel",
        "in_pool",
        "produced",
    )

    def __init__(self, queued: Callable[[], int] = _nothing) -> None:
        self.produced = 0
        """Ticks that were handed to the channel."""
        self.delivered = 0
        """Ticks that left the channel towards a receiver."""
        self.given_back = 0
        """Ticks that went back to a broker unhandled.

        It is 0 without a buffer between processes.
        """
        self.in_channel = DropCounts()
        """What the channel dropped."""
        self.in_pool = DropCounts()
        """What the worker pool dropped after the channel had delivered it."""
        self.has_pool = False
        self._queued = queued
        self._consumed: Callable[[], int] = _nothing
        self._failed: Callable[[], int] = _nothing
        self._in_flight: Callable[[], int] = _nothing

    def attach_pool(
        self,
        *,
        consumed: Callable[[], int],
        failed: Callable[[], int],
        in_flight: Callable[[], int],
    ) -> None:
        """Join the pool's half to the channel's.

        Each callable measures what it counts; none subtracts the others from a total.
        """
        self._consumed, self._failed, self._in_flight = consumed, failed, in_flight
        self.has_pool = True

    @property
    def consumed(self) -> int:
        """Ticks whose handler returned."""
        return self._consumed()

    @property
    def failed(self) -> int:
        """Ticks whose handler raised."""
        return self._failed()

    @property
    def queued(self) -> int:
        """Ticks in the channel's buffers and lanes, or waiting for room (measured)."""
        return self._queued()

    @property
    def in_flight(self) -> int:
        """Ticks that workers hold now (measured)."""
        return self._in_flight()

    @property
    def dropped(self) -> int:
        """Ticks that were dropped, for whatever reason."""
        return self.in_channel.total + self.in_pool.total

    @property
    def dropped_by_reason(self) -> dict[str, int]:
        """Dropped ticks by reason.

        Every reason is a key, so that a reader need not know which of them can be
        missing.
        """
        return {
            reason: getattr(self.in_channel, reason) + getattr(self.in_pool, reason)
            for reason in REASONS
        }

    def snapshot(self) -> LedgerSnapshot:
        """Return all the counters as they are at this checkpoint."""
        return LedgerSnapshot(
            produced=self.produced,
            delivered=self.delivered,
            consumed=self.consumed,
            failed=self.failed,
            dropped=self.dropped,
            queued=self.queued,
            in_flight=self.in_flight,
            dropped_by_reason=self.dropped_by_reason,
            given_back=self.given_back,
            unaccounted=self.unaccounted,
        )

    @property
    def unaccounted(self) -> int:
        """How many ticks have no outcome; negative: one too many.

        It is 0 unless there is a bug: 0 exactly while :meth:`check` has nothing to say.
        """
        left = self.delivered + self.in_channel.total + self.given_back
        channel = self.produced - (left + self.queued)
        if not self.has_pool:
            return channel
        pool = self.delivered - (self.consumed + self.failed + self.in_flight + self.in_pool.total)
        # Where what one half misses is what the other has too many of, the sum is 0
        # though both halves are broken.
        return channel + pool or channel

    def check(self) -> None:
        """Raise where a half of the law is broken.

        Raises:
            LedgerError: the sums disagree; the message shows both sides.
        """
        queued, dropped, given_back = self.queued, self.in_channel.total, self.given_back
        if self.produced != self.delivered + dropped + queued + given_back:
            raise LedgerError(
                f"channel: produced {self.produced} != delivered {self.delivered} "
                f"+ dropped {dropped} + queued {queued} + given back {given_back}"
            )
        if not self.has_pool:
            return
        consumed, failed, in_flight, dropped = (
            self.consumed,
            self.failed,
            self.in_flight,
            self.in_pool.total,
        )
        if self.delivered != consumed + failed + in_flight + dropped:
            raise LedgerError(
                f"pool: delivered {self.delivered} != consumed {consumed} + failed {failed} "
                f"+ in flight {in_flight} + dropped {dropped}"
            )

    def __repr__(self) -> str:
        now = self.snapshot()
        drops = {reason: count for reason, count in now.dropped_by_reason.items() if count}
        return (
            f"<Ledger produced={now.produced} delivered={now.delivered} "
            f"consumed={now.consumed} failed={now.failed} dropped={now.dropped} {drops} "
            f"queued={now.queued} in_flight={now.in_flight}>"
        )
