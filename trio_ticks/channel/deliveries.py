"""What was brought to the channel and waits for room there.

It belongs to the channel from the moment it was brought.

Rules: deliveries wait in the order in which they came, and enter in that order as room
comes; nothing is lost where the task that brought them is gone. A delivery has exactly
one end: all of it got in, its patience was spent, it was withdrawn with its sender, or
nobody receives any more. Decisions are sync, with the time given in; only the wait is
async.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Generic, TypeVar, final

import trio

from ..patience import Episode
from ..ticks import MarketData
from .admission import Admission, Verdict

__all__ = ["Deliveries", "Delivery"]

T = TypeVar("T", bound=MarketData)

_WHOLE = 1 << 62


@final
class Delivery(Generic[T]):
    """The rest of what a sender brought at once, while it waits for room."""

    __slots__ = (
        "_symbols",
        "arrived",
        "at",
        "brought",
        "error",
        "items",
        "kept",
        "sender",
        "since",
        "until",
        "waiters",
        "waits",
    )

    def __init__(
        self,
        items: list[Any],
        sender: object,
        since: float,
        *,
        kept: bool,
        arrived: Sequence[float] | None = None,
    ) -> None:
        self.items = items
        self.arrived = arrived
        """When each of the items arrived, if not when it was brought."""
        self._symbols: Counter[str] | None = None
        """How many of the rest there are of each symbol, once it was asked."""
        self.at = 0
        """How many of the items have left: the rest are ``items[at:]``."""
        self.sender = sender
        """The handle by which it came."""
        self.brought = since
        """When it was brought."""
        self.since = since
        """When the tick that is its first now became its first."""
        self.until = math.inf
        """When to call :meth:`Deliveries.expire`, if it still waits then."""
        self.kept = kept
        """Whether it stays though a task that waits for it is cancelled.

        If it does not, one task waits for it at most: the task that brought it."""
        self.waits = True
        self.error: Exception | None = None
        """What to raise in the tasks that wait for it."""
        self.waiters: dict[trio.lowlevel.Task, trio.CancelScope] = {}
        """The tasks that wait for it, each with the scope in which it waits until the
        verdict is due.

        A task leaves in the step in which it is woken, or its wait is cancelled."""

    def rest(self, limit: int = _WHOLE) -> list[Any]:
        """Return what still waits, at most *limit* ticks."""
        return self.items[self.at : self.at + limit]

    def leave(self, count: int, left: Sequence[Any] = ()) -> None:
        """Say that of the next *count* ticks only *left* still wait, maybe marked
        now.
        """
        items, start = self.items, self.at
        end = start + count
        self.at = end - len(left)
        if self._symbols is not None:
            # What was dropped may have stood between what is left.
            self._symbols.subtract(item.symbol for item in items[start:end])
            self._symbols.update(item.symbol for item in left)
        if left:
            items[self.at : end] = left

    def holds_any(self, symbols: Collection[str]) -> bool:
        """Tell whether a tick of one of *symbols* still waits."""
        if self._symbols is None:
            # Counted once, and only if somebody asks: a lone sender never does.
            self._symbols = Counter(item.symbol for item in self.rest())
        counts = self._symbols
        return any(counts[symbol] for symbol in symbols)

    def wake_all(self) -> None:
        """Let all tasks that wait for it go on, in the order in which they came."""
        waiters, self.waiters = self.waiters, {}
        for task in waiters:
            trio.lowlevel.reschedule(task)

    def __len__(self) -> int:
        return len(self.items) - self.at


@final
class Deliveries(Generic[T]):
    """The deliveries that wait for room, first come, first served.

    Args:
        admission: the strategy: how long a tick may wait, and what becomes of it then.
        admit: puts into the buffer what has room, and returns what has not.
        refuse: acts on a verdict; returns what to raise at the sender, if anything.
        room: how many more ticks fit in.
        used: how many ticks are queued.
        drop: drops ticks at a shutdown.
        emptied: called when nothing waits any more.
        low: the queue length at which an episode of pressure ends.
    """

    __slots__ = (
        "_admission",
        "_admit",
        "_drop",
        "_emptied",
        "_refuse",
        "_room",
        "_used",
        "draining",
        "episode",
        "pending",
    )

    def __init__(
        self,
        admission: Admission[T],
        *,
        admit: Callable[[Sequence[Any], int, float, Sequence[float] | None], Sequence[Any]],
        refuse: Callable[[Verdict[T]], Exception | None],
        room: Callable[[], int],
        used: Callable[[], int],
        drop: Callable[[Sequence[Any]], None],
        emptied: Callable[[], None],
        low: int,
    ) -> None:
        self._admission = admission
        self._admit = admit
        self._refuse = refuse
        self._room = room
        self._used = used
        self._drop = drop
        self._emptied = emptied
        self.pending: Final[deque[Delivery[T]]] = deque()
        """What waits, first come first. For others to read: hot paths ask it whether
        anything waits."""
        self.draining = False
        """Whether a graceful shutdown has begun.

        What waits then enters as room comes, and its patience is not spent any more.
        """
        self.episode = Episode(low)

    def __bool__(self) -> bool:
        return bool(self.pending)

    def __len__(self) -> int:
        """Count the ticks that wait for room."""
        return sum(map(len, self.pending))

    @property
    def tasks_waiting(self) -> int:
        """How many tasks wait until their delivery is in."""
        return sum(len(delivery.waiters) for delivery in self.pending)

    def add(
        self,
        rest: list[Any],
        sender: object,
        now: float,
        *,
        kept: bool,
        arrived: Sequence[float] | None = None,
    ) -> Delivery[T] | None:
        """Keep *rest*, which found no room; apply the strategy's verdict if due.

        Returns:
            What waits now; ``None`` if nothing of it does.

        Raises:
            QueueFullError: it was refused, and its sender is to be told.
        """
        if not self.draining:
            self.episode.wait_begins(now)
            if not self.pending and len(rest) == 1:
                # Under overload most ticks come alone, and find patience spent: such a
                # tick needs no delivery that is judged and ended in this step.
                in_episode_s = self.episode.waited_s(now)
                if self._admission.patience_left(rest, in_episode_s, 0.0) <= 0:
                    error = self._refuse(Verdict(refused=rest))
                    self.episode.wait_ends(now)
                    if error is not None:
                        raise error
                    return None
        kept = kept or self.draining
        delivery: Delivery[T] = Delivery(rest, sender, now, kept=kept, arrived=arrived)
        self.pending.append(delivery)
        self._judge(delivery, now)
        if delivery.error is not None and not delivery.waits:
            raise delivery.error
        return delivery if delivery.waits else None

    def advance(self, now: float) -> None:
        """Let in what waits, as far as there is room; end the waits that are over."""
        self.episode.observe(self._used(), now)
        while self.pending:
            first = self.pending[0]
            at = first.at
            self._let_in(first, now)
            if first.at >= len(first.items):
                self._remove(first, now)
            elif now >= first.until:
                first.until = math.inf
                self._judge(first, now)
            elif first.at > at and (self._admission.by_item or not first.waiters):
                # Otherwise the verdict is due when it was before.
                self._judge(first, now)
            if first.waits:
                return

    def patience_left(self, delivery: Delivery[T], now: float) -> float:
        """Return how long *delivery* may wait until a verdict is due, in seconds."""
        if self.draining and delivery.kept:
            return math.inf
        in_episode_s, for_this_s = self.episode.waited_s(now), now - delivery.since
        return self._admission.patience_left(delivery.rest(1), in_episode_s, for_this_s)

    def expire(self, delivery: Delivery[T], now: float) -> None:
        """Apply the verdict on *delivery*, if its patience is spent.

        It need not be the first in the line. Its first tick may have begun to wait
        since: then :attr:`Delivery.until` is later now.
        """
        delivery.until = math.inf
        self.advance(now)
        if delivery.waits:
            self._judge(delivery, now)

    def refuse(self, delivery: Delivery[T], now: float) -> Exception | None:
        """Drop all of *delivery*, for a sender that does not wait; return its error."""
        error = self._refuse(Verdict(refused=delivery.rest()))
        self._remove(delivery, now)
        return error

    def withdraw(self, delivery: Delivery[T], now: float) -> None:
        """Take *delivery* back, since its sender gave up.

        Its ticks are dropped at shutdown. One that is kept stays, for other tasks that
        wait for it too.
        """
        if delivery.waits and not delivery.kept:
            self._drop(delivery.rest())
            self._remove(delivery, now)

    def close(self, sender: object, now: float) -> None:
        """Have the tasks that wait on the handle *sender* raise: it was closed."""
        for delivery in tuple(self.pending):
            if delivery.sender is sender and delivery.waiters:
                delivery.error = trio.ClosedResourceError("this handle was closed")
                delivery.wake_all()
                self.withdraw(delivery, now)

    def extract(self, wanted: Callable[[Any], bool], now: float) -> list[Any]:
        """Remove and return the waiting ticks that are *wanted*."""
        removed: list[Any] = []
        for delivery in tuple(self.pending):
            rest = delivery.rest()
            removed += [item for item in rest if wanted(item)]
            delivery.leave(len(rest), [item for item in rest if not wanted(item)])
            # What is its first now may be of a kind with less patience.
            delivery.until = -math.inf
            if not delivery:
                self._remove(delivery, now)
        return removed

    def holds_any(self, symbols: Collection[str]) -> bool:
        """Tell whether a tick of one of *symbols* waits for room."""
        return any(delivery.holds_any(symbols) for delivery in self.pending)

    def oldest_arrival(self) -> float | None:
        """Return when the first of what waits was brought; ``None`` if nothing
        waits.
        """
        return self.pending[0].brought if self.pending else None

    def waiting(self) -> list[Any]:
        """Return the ticks that wait for room, in order."""
        return [item for delivery in self.pending for item in delivery.rest()]

    def begin_draining(self, now: float) -> None:
        """Begin a graceful shutdown: what waits is queued work, whoever sent it."""
        if not self.draining:
            self.draining = True
            self.episode.wait_ends(now)
            for delivery in self.pending:
                delivery.kept = True

    def abandon(self, now: float) -> None:
        """Drop all that waits: nobody receives any more, and the senders are told."""
        while self.pending:
            first = self.pending[0]
            self._drop(first.rest())
            first.error = trio.BrokenResourceError("all receivers of this channel are closed")
            self._remove(first, now)

    def _let_in(self, delivery: Delivery[T], now: float) -> None:
        """Offer again what waits.

        Never more than there is room for: that bounds the cost.
        """
        items = delivery.items
        while (at := delivery.at) < len(items):
            room = self._room()
            if room <= 0 and not self._admission.needs_no_room:
                return
            chunk = items[at : at + room] if room > 0 else items[at : at + 1]
            times = delivery.arrived
            if times is not None:
                times = times[at : at + len(chunk)]
            left = self._admit(chunk, room, now, times)
            delivery.leave(len(chunk), left)
            if len(left) < len(chunk):
                delivery.since = now
            if left:
                return

    def _judge(self, delivery: Delivery[T], now: float) -> None:
        """Refuse what the patience of *delivery* was for, as long as it is spent."""
        left = math.inf
        while delivery.at < len(delivery.items) and (
            (left := self.patience_left(delivery, now)) <= 0
        ):
            count = self._admission.count_spent(delivery.items, delivery.at)
            refused = delivery.rest(count)
            delivery.leave(count)
            delivery.since = now
            delivery.error = self._refuse(Verdict(refused=refused)) or delivery.error
            if delivery is self.pending[0]:
                self._let_in(delivery, now)
        if delivery.at >= len(delivery.items):
            self._remove(delivery, now)
        elif now + left < delivery.until:
            delivery.until = now + left
            # What is first now may be of a kind with less patience than what was
            # before.
            for patience in delivery.waiters.values():
                patience.deadline = trio.current_time() + left

    def _remove(self, delivery: Delivery[T], now: float) -> None:
        """End the wait of *delivery*, and let the tasks that wait for it go on."""
        self.pending.remove(delivery)
        delivery.waits = False
        delivery.items, delivery.at = [], 0
        if delivery.waiters:
            delivery.wake_all()
        if not self.pending:
            self.episode.wait_ends(now)
            self._emptied()
