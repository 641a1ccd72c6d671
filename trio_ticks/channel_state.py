"""What the two ends of a channel share: the buffer, the lanes, the counters, and who sleeps.

Rules: ticks live in our buffer, since trio's own cannot evict, conflate or keep lanes; two trio memory channels of capacity 0 carry
only wake-ups, one for receivers ("there are ticks") and one for senders ("there is room"), and with them trio's semantics of closing,
cloning and cancelling. Between two checkpoints every change is whole: a tick is with the sender, in the buffer, or counted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

import trio

from .admission import Admission, FifoAdmission, KeyedAdmission, is_plain
from .breaker import BreakerState
from .buffers import FifoBuffer, Lanes
from .freshness import AgeMeter, MaxAge
from .gaps import BookHold, Gap, GapBook, GapReason, Marked
from .keyed import KeyedBuffer
from .ledger import DropReason, Ledger
from .overflow import OverflowStrategy, Policy
from .socket_watch import SocketWatch
from .ticks import MarketData

__all__ = ["ChannelState"]

logger = logging.getLogger("trio_ticks.channel")

T = TypeVar("T", bound=MarketData)

_TOLD: frozenset[DropReason] = frozenset({"overflow", "evicted", "stale", "held"})


class ChannelState(Generic[T]):
    """The sync heart of a channel, but for one wait; the worker pool works on it directly."""

    def __init__(self, maxsize: int, policy: Policy, default: OverflowStrategy, max_age: MaxAge | None) -> None:
        self.maxsize = maxsize
        self.policy = policy
        self.buffer: FifoBuffer[T] | KeyedBuffer[T]
        self.admission: Admission[T]
        if is_plain(policy) and isinstance(policy, OverflowStrategy):
            self.buffer = fifo = FifoBuffer[T]()
            self.admission = FifoAdmission(self, policy, fifo)
        else:
            self.buffer = keyed = KeyedBuffer[T]()
            self.admission = KeyedAdmission(self, policy, default, keyed)
        self.lanes: Lanes[T] = Lanes()
        self.ledger = Ledger(lambda: self.buffer.measure() + len(self.lanes))
        self.now = trio.lowlevel.current_clock().current_time if _in_trio() else trio.current_time
        self.ages = None if max_age is None else AgeMeter(max_age)
        self.gaps = GapBook()
        self.books = BookHold()
        self.tells_gaps = False
        """Whether anybody listens for gaps."""
        self.breaker: BreakerState | None = None
        """Where a pool receives: which symbols are set aside, since their handler fails."""
        self.attention = False
        """Whether a worker has to look around before the next tick: senders that sleep, lanes that are ready, gaps, held books.
        One flag for all, so that the hot path looks at one thing; true too often does no harm."""
        self.peak = 0
        """Most ticks that were ever queued at once."""
        self.open_senders = 0
        self.open_receivers = 0
        self.sleeping_senders = 0
        self.sleeping_receivers = 0
        self.coming = 0
        """Receivers that were woken and have not run since."""
        self.on_change: Callable[[], None] | None = None
        """Called when the number of queued ticks may have crossed a mark: after a send, and when a worker rests."""
        self.anyone_free: Callable[[], bool] | None = None
        """Where a pool receives: whether one of its workers is awake and will come by itself. Quick handlers leave most asleep."""
        self.reserved: Callable[[], int] | None = None
        """Where a pool receives: how many ticks its workers may still give back, which keep their room until they are begun."""
        self.on_book_lost: Callable[[], None] | None = None
        """Called when a book needs a fresh snapshot; which is in ``books.wanted``."""
        self.on_items: Callable[[Sequence[T], DropReason | None], None] | None = None
        """Called once a batch, where somebody counts by symbol: with what a sender brought (no reason), and with what is dropped."""
        self.watches: list[SocketWatch] = []
        """Sockets of sources whose readers a receiver may stand in for while it waits."""
        self.standing_in: list[SocketWatch] = []
        """Those that a sleeping receiver waits for."""
        self._wake_receivers, self.items_gate = trio.open_memory_channel[None](0)
        self.room_gate, self._wake_senders = trio.open_memory_channel[None](0)
        self._marked = 0
        self._low = maxsize // 2
        self._waited_in_episode = 0.0
        self._waited_before = 0.0
        self._waiting_since = 0.0
        self._waiting = 0
        self._next_log: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    @property
    def queued(self) -> int:
        """How many ticks wait now."""
        return len(self.buffer) + self.lanes.parked

    @property
    def room(self) -> int:
        """How many more ticks fit in now."""
        return self.maxsize - self.queued - (0 if self.reserved is None else self.reserved())

    @property
    def waited_in_episode(self) -> float:
        """How long at least one sender has waited in this episode of pressure, in seconds."""
        return self._waited_in_episode + self._waited_now()

    @property
    def blocked_s(self) -> float:
        """How long at least one sender has waited for room, in seconds."""
        return self._waited_before + self.waited_in_episode

    def _waited_now(self) -> float:
        return self.now() - self._waiting_since if self._waiting else 0.0

    # Sending

    def offer(self, items: Sequence[T], *, first_in_line: bool = False) -> Sequence[T]:
        """Take in what the strategy takes without waiting, and return the rest. Newcomers stay behind senders that wait."""
        if (self._waiting or self._waited_in_episode) and self.queued <= self._low:
            # The episode is over. Senders that wait still are charged from now on.
            self._waited_before += self.waited_in_episode
            self._waited_in_episode = 0.0
            self._waiting_since = self.now()
        if self.on_items is not None and not first_in_line:
            self.on_items(items, None)
        if self.books.tail:
            items, held = self.books.let_in(items)
            self.drop_new(held, "held")
        room = 0 if self._waiting and not first_in_line else self.room
        return self.admission.offer(items, room)

    def mark(self, items: Sequence[T]) -> Sequence[Any]:
        """Return *items* with the gaps that lie before them."""
        if not self.gaps.tail:
            return items
        marked, count = self.gaps.mark(items)
        self._marked += count
        self.look()
        return marked

    def admitted(self, items: Sequence[T], now: float) -> None:
        """Count *items*, which have just been put into the buffer, and wake receivers for them."""
        count = len(items)
        self.ledger.produced += count
        queued = len(self.buffer) + self.lanes.parked
        if queued > self.peak:
            self.peak = queued
        if self.ages is not None:
            self.ages.arrived(items[-1], now)
        if self.sleeping_receivers:
            if self.anyone_free is None:
                self.wake_receivers(count)
            elif not self.coming and not self.anyone_free():
                self.wake_receivers(1)

    def replaced(self, item: T) -> None:
        """Count *item*, which took the place of one that was queued."""
        self.ledger.produced += 1
        self.ledger.in_channel.conflated += 1
        if self.on_items is not None:
            self.on_items((item,), "conflated")
        if self.ages is not None:
            self.ages.arrived(item, self.now())

    async def wait_for_room(self, gate: trio.MemorySendChannel[None], rest: Sequence[T], waited_s: float) -> None:
        """Wait until a receiver has made room, or the patience is spent (trio.TooSlowError)."""
        with trio.fail_after(max(0.0, self.admission.patience(rest, waited_s))):
            if not self._waiting:
                self._waiting_since = self.now()
            self._waiting += 1
            self.sleeping_senders += 1
            self.attention = True
            woken = False
            try:
                await gate.send(None)
                woken = True
            finally:
                if not woken:
                    self.sleeping_senders -= 1
                self._waiting -= 1
                if not self._waiting:
                    self._waited_in_episode += self.now() - self._waiting_since

    def wake_sender(self) -> None:
        """Let the sender that has waited longest look for room again."""
        if self.sleeping_senders and self.open_receivers and self.room > 0:
            try:
                self._wake_senders.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return  # It was cancelled, or its handle closed, and it has not run since to say so.
            self.sleeping_senders -= 1

    # Dropping

    def drop_new(self, items: Sequence[T], reason: DropReason, *, at_head: bool = False) -> None:
        """Count *items*, which never got in, as produced and dropped."""
        if items:
            self.ledger.produced += len(items)
            self._drop(items, reason, at_head=at_head)

    def drop_queued(self, items: Iterable[T | Marked[T]], reason: DropReason) -> None:
        """Count *items*, which have just been taken out of the buffer or a lane, as dropped."""
        plain = [self._unmark(item) for item in items]
        if plain:
            self._drop(plain, reason, at_head=True)

    def set_aside(self, items: Sequence[T]) -> None:
        """Count *items*, which have just been taken out, as held: the breaker has set their symbols aside."""
        self._drop(items, "held", at_head=True, told_as="breaker")

    def _drop(self, items: Sequence[T], reason: DropReason, *, at_head: bool, told_as: GapReason | None = None) -> None:
        drops = self.ledger.in_channel
        setattr(drops, reason, getattr(drops, reason) + len(items))
        if self.on_items is not None:
            self.on_items(items, reason)
        if reason in _TOLD:
            if self.tells_gaps:
                self.gaps.lost(items, told_as or reason, at_head=at_head)  # type: ignore[arg-type]  # _TOLD holds gap reasons only
            if (reason != "held" or told_as) and self.books.lost(items, at_head=at_head) and self.on_book_lost is not None:
                self.on_book_lost()
            self.look()
        self.log_drop(len(items), reason)

    def displace_for(self, item: T, wanted: Callable[[Any], bool] = lambda _item: True) -> bool:
        """Make room for *item* where lanes hold more than half of all room, and its symbol has none: the longest of them gives its newest.

        Else a hot symbol's line could take all the room, and workers would be idle while what they might handle finds none.
        """
        lanes = self.lanes
        if lanes.parked <= self.maxsize // 2 or lanes.lines.get(item.symbol):
            return False
        victim: Any = lanes.take_newest(lambda parked: wanted(parked.item if isinstance(parked, Marked) else parked))
        if victim is None:
            return False
        gap = None
        if isinstance(victim, Marked):
            self._marked -= 1
            victim, gap = victim.item, victim.gap
        self.ledger.in_channel.overflow += 1
        if self.tells_gaps:
            self.gaps.lost_in_lane(victim, gap)
        if self.books.lost((victim,), at_head=True) and self.on_book_lost is not None:
            self.on_book_lost()
        self.look()
        if self.on_items is not None:
            self.on_items((victim,), "overflow")
        self.log_drop(1, "overflow")
        return True

    def leave_buffer(self, item: T) -> T:
        """Return *item*, just taken out of the buffer, with the gap that its symbol's lane ends with. Needed only where there are such."""
        marked, more = self.gaps.leave_buffer(item)
        self._marked += more
        return cast(T, marked)

    def _unmark(self, item: T | Marked[T]) -> T:
        if not isinstance(item, Marked):
            return item
        self._marked -= 1
        self.gaps.add(item.gap, at_head=True)
        return item.item

    @property
    def untold(self) -> bool:
        """Whether any gap is still to be told, a book held back, or a symbol failing."""
        return bool(self._marked or self.gaps.head or self.gaps.lanes or self.books.head or self.breaker)

    def look(self) -> None:
        self.attention = bool(self.sleeping_senders or self.lanes.ready or self.untold)

    def release(self, symbol: str) -> None:
        """Say that *symbol* is no longer being handled; what waits behind it becomes ready for any worker."""
        self.lanes.release(symbol)
        if self.lanes.ready:
            self.attention = True

    def tell_gap(self, gap: Gap, *, book: bool) -> None:
        """Note a loss that happened before the channel; *book*: its symbol's book updates need a snapshot."""
        self.gaps.note(gap)
        if self.tells_gaps:
            self.gaps.add(gap, at_head=False)
        if book:
            self.books.tail.add(gap.symbol)
            self.books.wanted.add(gap.symbol)
            if self.on_book_lost is not None:
                self.on_book_lost()

    def log_drop(self, count: int, reason: DropReason) -> None:
        """Log at most once a second per reason, with the count since the last line."""
        total = self._due(reason, count)
        if total:
            logger.warning(
                "ticks.dropped: %d %s (%d of %d queued, %s)",
                total,
                reason,
                self.queued,
                self.maxsize,
                self.policy,
                extra={"reason": reason, "dropped": total, "queued": self.queued, "maxsize": self.maxsize, "strategy": repr(self.policy)},
            )

    def log_error(self, event: str, symbol: str, error: BaseException | None = None) -> None:
        """Log an exception of the user's (the current one unless given), at most once a second per *event*, with the count."""
        total = self._due(event, 1)
        if total:
            logger.error(
                "%s: %d times, the last with %s", event, total, symbol, exc_info=error or True, extra={"failed": total, "symbol": symbol}
            )

    def _due(self, key: str, count: int) -> int:
        """Return how many have come since the last line, or 0 where it is too soon for another."""
        now = self.now()
        self._unlogged[key] = self._unlogged.get(key, 0) + count
        if now < self._next_log.get(key, -math.inf):
            return 0
        self._next_log[key] = now + 1.0
        return self._unlogged.pop(key)

    # Receiving

    def wake_receivers(self, count: int) -> None:
        """Let up to *count* sleeping receivers look for ticks again. The end of the last sender has woken them all."""
        if not self.open_senders:
            return
        for _ in range(min(count, self.sleeping_receivers)):
            try:
                self._wake_receivers.send_nowait(None)
            except trio.WouldBlock:
                if not self.standing_in:
                    return  # The rest were cancelled or closed, and have not run since to say so.
                self.standing_in.pop().call_off()
            self.sleeping_receivers -= 1
            self.coming += 1

    def is_stale(self, item: T, arrived: float) -> bool:
        return self.ages is not None and self.ages.is_stale(item, arrived, self.now())

    def take_fresh(self) -> T:
        """Remove and return the oldest tick of the buffer. IndexError: there is none, or it was too old, and is counted.

        What follows it may have a gap to be told now, and is for somebody who looks.
        """
        item = self.buffer.take()
        if self.is_stale(item, self.buffer.arrival()):
            self.drop_queued((item,), "stale")
            raise IndexError("too old")
        return item

    def inspect(self, item: T | Marked[T]) -> tuple[T | None, Gap | None]:
        """Look at an item just taken: return it (``None`` where it is held back, and counted) and the gap to tell before it."""
        if not self.untold:
            return cast(T, item), None
        plain = self._unmark(item)
        if self.books.holds(plain):
            self.drop_queued((plain,), "held")
            return None, None
        if self.breaker and self.breaker.holds(plain.symbol, self.now()):
            self.set_aside((plain,))
            return None, None
        gap = self.gaps.head.pop(plain.symbol, None)
        self.look()
        return plain, gap

    def take(self, limit: int) -> list[T]:
        """Remove and return up to *limit* fresh ticks, in order; those that are too old are counted as stale on the way."""
        if self.ages is None and not self.untold:
            batch = self.buffer.take_many(limit)
        else:
            batch = []
            while self.buffer and len(batch) < limit:
                item = self.buffer.take()
                if self.is_stale(item, self.buffer.arrival()):
                    self.drop_queued((item,), "stale")
                    continue
                plain, _gap = self.inspect(item)
                if plain is not None:
                    batch.append(plain)
        self.ledger.delivered += len(batch)
        if self.sleeping_senders:
            self.wake_sender()
        return batch

    def abandon(self) -> None:
        """Count all that is queued as shutdown: nobody is left to receive it."""
        left = self.lanes.evict(self.lanes.parked)
        self.drop_queued([*left, *self.buffer.take_many(len(self.buffer))], "shutdown")

    def close_senders(self) -> None:
        """Say that one sender fewer is open; the last one's end wakes all receivers."""
        self.open_senders -= 1
        if not self.open_senders:
            self._wake_receivers.close()
            while self.standing_in:
                self.standing_in.pop().call_off()
                self.sleeping_receivers -= 1
                self.coming += 1

    def close_receivers(self) -> None:
        """Say that one receiver fewer is open; the last one's end breaks all senders."""
        self.open_receivers -= 1
        if not self.open_receivers:
            self._wake_senders.close()
            self.abandon()


def _in_trio() -> bool:
    try:
        trio.lowlevel.current_clock()
    except RuntimeError:
        return False
    return True
