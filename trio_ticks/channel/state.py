"""What the ends of a channel share.

That is the buffer, the lanes, the ledger, and what waits for room.

Rules: ticks live in our buffer, since trio's own cannot evict, conflate or keep lanes.
Every tick belongs to the channel from the moment it is brought: it is counted as
produced then, and between two checkpoints it is in the buffer, in a lane, waiting for
room, delivered or dropped. All methods are sync, so that an event loop of another kind
can drive a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence, Sized
from itertools import chain
from random import Random
from typing import Any, Generic, Protocol, TypeVar

import trio

from ..clock import Clock, new_random
from ..errors import QueueFullError
from ..events import FeedEvent
from ..handlers.breaker import BreakerState
from ..ledger import Ledger
from ..overflow import Block, Fail, OverflowStrategy, Policy
from ..ticks import MarketData
from .admission import (
    ALL_IN,
    Admission,
    FifoAdmission,
    KeyedAdmission,
    Verdict,
    is_plain,
    wants_ranks,
)
from .deliveries import Deliveries, Delivery
from .drops import Drops
from .fifo import FifoBuffer
from .freshness import AgeMeter, MaxAge
from .keyed import KeyedBuffer
from .lanes import Lanes
from .losses import Losses
from .marked import plain
from .sleepers import Sleepers
from .statistics import ChannelStatistics
from .taking import Taking

__all__ = ["ChannelState", "Receiver", "Sender"]

T = TypeVar("T", bound=MarketData)

_PART = 256
"""A strategy that goes item by item is offered this many ticks at a time.

A refusal copies the ticks behind it, so that the next of its symbol can be marked."""


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[at : at + _PART] for at in range(0, len(items), _PART))


def _check_readable(items: Sequence[Any]) -> None:
    """Read what the channel needs of *items*, before any of them is counted.

    Raises:
        Exception: what reading or hashing a symbol, or reading a timestamp, raised.
    """
    for item in items:
        hash(item.symbol)
        item.timestamp  # noqa: B018


def _tail(times: Sequence[float] | None, count: int) -> Sequence[float] | None:
    """Return the last *count* of *times*."""
    return None if times is None else times[len(times) - count :]


class Sender(Protocol):
    """An open send handle, as the channel sees it."""

    def close(self) -> None:
        """Close the handle."""


class Receiver(Protocol):
    """What a worker pool tells the channel that it receives from."""

    lanes: Lanes[Any]
    """Where ticks wait behind one of their symbol that is being handled."""
    breaker: BreakerState | None
    """Which symbols are set aside, since their handler fails."""
    tells_gaps: bool
    """Whether anybody wants to be told of gaps."""

    @property
    def reserved(self) -> Callable[[], int]:
        """Returns how many ticks workers may still give back: these keep their room."""

    def anyone_free(self) -> bool:
        """Tell whether a worker is awake and will come for ticks by itself."""
        ...

    def room_wanted(self) -> None:
        """Record that ticks begin to wait for room."""
        ...


class ChannelState(Generic[T]):
    """The sync heart of a channel; a worker pool works on it directly."""

    newest: Sequence[T] = ()
    """The last batch that was offered, whatever became of its ticks."""

    def __init__(
        self,
        maxsize: int,
        policy: Policy,
        default: OverflowStrategy,
        max_age: MaxAge | None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self.maxsize = maxsize
        self.policy = policy
        self.clock = Clock() if clock is None else clock
        self.now = self.clock.now
        self.random = new_random() if random is None else random
        """The one source of chance of this channel's pipeline."""
        self.lanes: Lanes[T] = Lanes()
        self.buffer: FifoBuffer[T] | KeyedBuffer[T]
        self.admission: Admission[T]
        self.unparked: Sized
        """Empty exactly while the buffer is; to ask it runs no Python code."""
        if is_plain(policy) and isinstance(policy, OverflowStrategy):
            self.buffer = self.unparked = fifo = FifoBuffer[T]()
            self.admission = FifoAdmission(policy, fifo, self.lanes, maxsize)
        else:
            self.buffer = keyed = KeyedBuffer[T](ranked=wants_ranks(policy, default))
            self.admission = KeyedAdmission(policy, default, keyed, self.lanes, maxsize)
            self.unparked = keyed.lines
        self.ledger = Ledger(lambda: self.buffer.measure() + len(self.lanes) + len(self.deliveries))
        self.ages = None if max_age is None else AgeMeter(max_age, self.clock)
        self.losses = Losses(self.lanes)
        self.sleepers = Sleepers()
        facts = lambda: (self.used, self.maxsize, repr(self.policy))  # noqa: E731
        self.drops = Drops(self.ledger, self.losses, self.now, facts)
        self.deliveries: Deliveries[T] = Deliveries(
            self.admission,
            admit=self._admit,
            refuse=self._act_on,
            room=lambda: self.room,
            used=lambda: len(self.buffer) + self.lanes.parked,
            drop=lambda items: self.drops.drop(items, "shutdown", at_head=False),
            emptied=self.end_if_over,
            low=maxsize // 2,
        )
        """What waits for room."""
        self.taking: Taking[T] = Taking(
            self.buffer, self.losses, self.drops, self.deliveries, self.ledger, self.ages, self.now
        )
        """How ticks are taken out."""
        self.receiver: Receiver | None = None
        """The worker pool that receives, if one does."""
        self._reserved: Callable[[], int]
        self.peak = 0
        """Most ticks that were ever in buffer and lanes at once."""
        self.on_event: Callable[[FeedEvent], object] | None = None
        """Who is told what happens to the feeds, if anybody is."""
        self.takes_events = False
        """Whether the handler takes events of symbols, in the symbol's line."""
        self.senders: dict[Sender, None] = {}
        """The open send handles, in the order in which they were made."""
        self.open_receivers = 0

    @property
    def used(self) -> int:
        """How many ticks are in the buffer and the lanes now."""
        return len(self.buffer) + self.lanes.parked

    @property
    def room(self) -> int:
        """How many more ticks fit in now."""
        free = self.maxsize - len(self.buffer) - self.lanes.parked
        return free if self.receiver is None else free - self._reserved()

    def attach(self, receiver: Receiver) -> None:
        """Let a worker pool receive, before the first tick comes."""
        self.receiver = receiver
        self._reserved = receiver.reserved
        self.lanes = self.admission.lanes = self.losses.lanes = receiver.lanes
        self.losses.breaker = receiver.breaker
        self.losses.tells_gaps = receiver.tells_gaps

    # Sending

    def offer(
        self,
        items: Sequence[T],
        sender: object = None,
        *,
        kept: bool = False,
        arrived: Sequence[float] | None = None,
    ) -> Delivery[T] | None:
        """Take *items* over, and let in what the strategy lets in without waiting.

        Args:
            items: what is brought; all of it is counted as produced.
            sender: the handle by which it comes.
            kept: whether what waits stays when the task that waits for it is cancelled.
            arrived: when each of the items arrived, for those that come from another
                process; now, unless given. Only for a channel with one strategy.

        Returns:
            What waits for room, or ``None`` where nothing does.

        Raises:
            QueueFullError: the strategy is Fail, and there was no room.
            trio.BrokenResourceError: nobody receives; all is dropped at shutdown.
            Exception: an item has no symbol or timestamp, its symbol cannot be hashed,
                or there is no clock outside trio: nothing was taken, nothing counted.
        """
        if not items:
            return None
        drops, deliveries = self.drops, self.deliveries
        # What may raise because of the items comes first: an error after they were
        # counted would leave the ledger wrong for good.
        now, waits = self.now(), bool(deliveries.pending)
        room = 0 if waits else self.room
        by_item = self.admission.by_item or drops.item_listeners
        if waits or by_item or (self.receiver is not None and self._reads_symbols(items, room)):
            _check_readable(items)
        if self.ages is not None:
            self.ages.observe(items, now, arrived)
        if drops.item_listeners:
            drops.report_items(items, None)
        self.ledger.produced += len(items)
        self.newest = items
        if not self.open_receivers:
            drops.drop(items, "shutdown", at_head=False)
            raise trio.BrokenResourceError("all receivers of this channel are closed")
        if waits:
            deliveries.advance(now)
            waits = bool(deliveries.pending)
            room = 0 if waits else self.room
        elif not deliveries.episode.is_over:
            deliveries.episode.observe(self.used, now)
        if waits and deliveries.holds_any({item.symbol for item in items}):
            # Nor may a newcomer be conflated, or displace others, before its symbol's
            # turn.
            rest: Sequence[Any] = items
        else:
            # Newcomers stay behind what waits.
            rest = self._admit(items, room, now, arrived)
        while rest and not deliveries.pending and (room := self.room) > 0:
            # Tasks that waited have taken ticks, which made room again.
            rest = self._admit(rest, room, now, _tail(arrived, len(rest)))
        if rest:
            times = _tail(arrived, len(rest))
            delivery = deliveries.add(list(rest), sender, now, kept=kept, arrived=times)
            if delivery is not None and self.receiver is not None:
                self.receiver.room_wanted()
            return delivery
        return None

    def _reads_symbols(self, items: Sequence[T], room: int) -> bool:
        """Tell whether a FIFO channel may look at *items* one by one, given *room*.

        With room it takes them as they are; to read each of them would cost its hot
        path more than all else that happens to a batch.
        """
        losses = self.losses
        return bool(losses.gaps.tail or losses.books.tail) or len(items) > room

    def offer_now(self, item: T, sender: object = None) -> None:
        """As :meth:`offer` for one tick, but the strategy applies at once.

        Nothing waits.

        Raises:
            trio.WouldBlock: the strategy is Block, and there is no room; nothing was
                taken.
            QueueFullError: as for :meth:`offer`.
            trio.BrokenResourceError: as for :meth:`offer`.
        """
        blocks = isinstance(self.admission.strategy_of(item), Block)
        if blocks and self.open_receivers:
            self.deliveries.advance(self.now())
            if self.deliveries or self.room <= 0:
                raise trio.WouldBlock
        delivery = self.offer((item,), sender)
        if delivery is not None:
            error = self.deliveries.refuse(delivery, self.now())
            if error is not None:
                raise error

    def _admit(
        self,
        items: Sequence[Any],
        room: int,
        now: float,
        arrived: Sequence[float] | None = None,
    ) -> Sequence[Any]:
        """Let in what the strategy lets in without waiting.

        Returns the rest, perhaps marked.
        """
        losses, admission = self.losses, self.admission
        behind: Iterator[Sequence[Any]] | None = None
        if admission.by_item and len(items) > _PART:
            behind = _parts(items)
            items = next(behind)
        while items:
            if losses.books.tail:
                items, held = losses.books.let_in(items)
                self.drops.drop(held, "held", at_head=False)
            if losses.gaps.tail:
                items = losses.mark(items)
            before = 0 if arrived is None else len(self.buffer)
            verdict = admission.offer(items, room, now)
            if arrived is not None:
                assert isinstance(self.buffer, FifoBuffer)
                self.buffer.backdate(arrived[: len(self.buffer) - before])
            if verdict is ALL_IN and behind is None:
                items = ()
                break
            self._act_on(verdict)
            items = verdict.rest
            if not verdict.again:
                if items or behind is None:
                    break
                items = next(behind, ())
            room = self.room if room else 0
        if behind is not None:
            items = [*items, *chain.from_iterable(behind)]
        self._wake()
        used = len(self.buffer) + self.lanes.parked
        if used > self.peak:
            self.peak = used
        return items

    def _act_on(self, verdict: Verdict[T]) -> Exception | None:
        """Count and announce what a verdict says; return the sender's error."""
        drops = self.drops
        if verdict.joined_gaps:
            self.losses.forget_marks(verdict.joined_gaps)
        for item, error in verdict.failed_merges:
            drops.merge_failed(item, error)
        if verdict.replaced:
            drops.conflate(verdict.replaced)
        if verdict.evicted:
            drops.drop(verdict.evicted, "evicted")
        if verdict.displaced:
            drops.displace(verdict.displaced)
        if not verdict.refused:
            return None
        drops.drop(verdict.refused, "overflow", at_head=False)
        if not isinstance(self.admission.strategy_of(verdict.refused[0]), Fail):
            return None
        count = len(verdict.refused)
        return QueueFullError(
            f"the channel is full ({self.maxsize} ticks) and its strategy is Fail(); "
            f"{count} found no room",
            maxsize=self.maxsize,
        )

    def _wake(self) -> None:
        """Let whoever waits for ticks have those that came."""
        sleepers, receiver = self.sleepers, self.receiver
        if receiver is None:
            if sleepers.receiving and self.buffer:
                sleepers.hand_over(self.taking.take_one)
            if sleepers.sleeping:
                sleepers.wake(len(self.buffer))
        elif sleepers.lingering and not sleepers.coming and sleepers.recall():
            return
        elif sleepers.sleeping and not sleepers.coming and not receiver.anyone_free():
            sleepers.wake(1)

    # For a buffer between processes

    def queued(self) -> list[Any]:
        """Return the ticks in buffer, in lanes and waiting for room, unmarked."""
        parked = [item for lane in self.lanes.lines.values() if lane for item, _arrived in lane]
        items = [*self.buffer, *parked, *self.deliveries.waiting()]
        return [plain(item) for item in items]

    def give_back(self, symbols: Collection[str]) -> int:
        """Take out what is queued of *symbols*, in one step.

        Returns how many ticks that was.
        """

        def wanted(item: Any) -> bool:
            return item.symbol in symbols

        given = [*self.lanes.extract(wanted), *self.buffer.extract(wanted)]
        given += self.deliveries.extract(wanted, self.now())
        for item in given:
            self.losses.unmark(item, at_head=True)
        self.losses.forget(symbols)
        self.ledger.given_back += len(given)
        self.deliveries.advance(self.now())
        return len(given)

    # Ends

    def end_if_over(self) -> None:
        """Announce the end if all senders are closed and nothing waits for room."""
        if not self.senders and not self.deliveries:
            self.sleepers.end()

    def close_receiver(self) -> None:
        """Say that one receiver fewer is open.

        With the last one all that is queued is dropped.
        """
        self.open_receivers -= 1
        if not self.open_receivers:
            left = self.lanes.evict(self.lanes.parked)
            self.drops.drop([*left, *self.buffer.take_many(len(self.buffer))], "shutdown")
            self.deliveries.abandon(self.now())
            self.drops.flush()

    def statistics(self) -> ChannelStatistics:
        """Return the channel at this moment. Nothing here runs per tick."""
        now, lanes = self.now(), self.lanes
        arrivals = (
            self.buffer.oldest_arrival() if self.buffer else None,
            self.deliveries.oldest_arrival(),
        )
        unparked = min((each for each in arrivals if each is not None), default=now)
        parked = lanes.oldest_arrival()
        return ChannelStatistics(
            current_buffer_used=self.used,
            max_buffer_size=self.maxsize,
            peak_buffer_used=self.peak,
            open_send_channels=len(self.senders),
            open_receive_channels=self.open_receivers,
            tasks_waiting_send=self.deliveries.tasks_waiting,
            tasks_waiting_receive=self.sleepers.tasks_waiting,
            parked=lanes.parked,
            waiting_for_room=len(self.deliveries),
            ready=len(self.buffer) + len(lanes.ready),
            blocked_s=self.deliveries.episode.total_s(now),
            oldest_age_s=now - (unparked if parked is None else min(unparked, parked)),
            oldest_unparked_age_s=now - unparked,
            clock_offset_s=None if self.ages is None else self.ages.offset_s,
            clock_jumps=None if self.ages is None else self.ages.jumps,
        )
