"""Who gets into a full channel: the strategies at work. Sync; what has to wait is handed back to the sender, who waits.

Rules: every item given to :meth:`offer` is admitted, dropped (and counted), or handed back, in order. ``give_up`` is the verdict on what
was handed back, once the patience that ``patience`` tells has been spent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from .conflation import replace_pending
from .errors import QueueFullError
from .gaps import Marked
from .keyed import KeyedBuffer
from .overflow import Block, Conflate, DropNewest, DropOldest, Fail, OverflowStrategy, Policy
from .ticks import MarketData

if TYPE_CHECKING:
    from .buffers import FifoBuffer
    from .channel_state import ChannelState

__all__ = ["Admission", "FifoAdmission", "KeyedAdmission", "is_plain"]

logger = logging.getLogger(__name__)

_SHORTEST_WAIT_S = 1e-9

T = TypeVar("T", bound=MarketData)


def is_plain(policy: Policy) -> bool:
    """Tell whether *policy* treats all symbols and kinds alike, so that a plain FIFO buffer serves."""
    match policy:
        case Block() | Fail() | DropNewest(max_per_symbol=None) | DropOldest(max_per_symbol=None, longest_line=False):
            return True
    return False


class Admission(Protocol[T]):
    """A strategy at work."""

    def offer(self, items: Sequence[T], room: int) -> Sequence[T]:
        """Take in what can be taken in without waiting; return the rest. *room* is 0 for newcomers behind senders that wait."""
        ...

    def patience(self, rest: Sequence[T], waited_s: float) -> float:
        """Return how long the sender may still wait for the first of *rest*, having waited *waited_s* seconds for it."""
        ...

    def give_up(self, rest: Sequence[T]) -> Sequence[T]:
        """Drop what the patience was for; return what is to be offered again. Raises QueueFullError under Fail."""
        ...


def _patience(state: ChannelState[Any], strategy: OverflowStrategy, waited_s: float) -> float:
    match strategy:
        case DropNewest(timeout=timeout):
            left = timeout - state.waited_in_episode
        case Block(timeout=None):
            return math.inf
        case Block(timeout=float() | int() as timeout):
            left = timeout - waited_s
        case _:
            return 0.0
    # What rounding left may be too short to move the clock: on a virtual one the sender would wait for it for ever.
    return left if left > _SHORTEST_WAIT_S else 0.0


def _refuse(state: ChannelState[T], strategy: OverflowStrategy, lost: Sequence[T]) -> None:
    state.drop_new(lost, "overflow")
    if isinstance(strategy, Fail):
        raise QueueFullError(
            f"the channel is full ({state.maxsize} ticks) and its strategy is Fail(); {len(lost)} found no room", maxsize=state.maxsize
        )


class FifoAdmission(Generic[T]):
    """One strategy for all, without regard to symbols: whole batches at once."""

    def __init__(self, state: ChannelState[T], strategy: OverflowStrategy, buffer: FifoBuffer[T]) -> None:
        self._state = state
        self._strategy = strategy
        self._buffer = buffer
        self._evicts = isinstance(strategy, DropOldest)
        self._yields = isinstance(strategy, DropNewest)

    def offer(self, items: Sequence[T], room: int) -> Sequence[T]:
        if len(items) <= room:
            self._admit(items)
            return ()
        if self._evicts:
            maxsize = self._state.maxsize
            self._make_room(len(items) - room)
            self._state.drop_new(items[:-maxsize], "evicted", at_head=True)
            self._admit(items[-maxsize:])
            return ()
        if self._yields and self._state.lanes.parked > self._state.maxsize // 2:
            return self._offer_fairly(items, room)
        if room > 0:
            self._admit(items[:room])
            return items[room:]
        return items

    def _offer_fairly(self, items: Sequence[T], room: int) -> Sequence[T]:
        """Take in what there is room for, or what has more right to it than the newest of a long lane."""
        for index, item in enumerate(items):
            if room > 0:
                room -= 1
            elif not self._state.displace_for(item):
                return items[index:]
            self._admit((item,))
        return ()

    def _admit(self, items: Sequence[T]) -> None:
        if items:
            now = self._state.now()
            self._buffer.push_many(self._state.mark(items), now)
            self._state.admitted(items, now)

    def _make_room(self, wanted: int) -> None:
        """Evict the *wanted* oldest ticks, or all there are. Parked ticks came before those in the buffer."""
        evicted = self._state.lanes.evict(wanted)
        evicted += self._buffer.take_many(wanted - len(evicted))
        self._state.drop_queued(evicted, "evicted")

    def patience(self, rest: Sequence[T], waited_s: float) -> float:
        return _patience(self._state, self._strategy, waited_s)

    def give_up(self, rest: Sequence[T]) -> Sequence[T]:
        if isinstance(self._strategy, Block):
            _refuse(self._state, self._strategy, rest[:1])
            return rest[1:]
        if self._yields and self._state.lanes.parked > self._state.maxsize // 2:
            # Behind the first, there may be some with more right to room than a long lane has.
            hogs = self._state.lanes.lines
            count = next((index for index, item in enumerate(rest) if index and not hogs.get(item.symbol)), len(rest))
            _refuse(self._state, self._strategy, rest[:count])
            return rest[count:]
        _refuse(self._state, self._strategy, rest)
        return ()


class KeyedAdmission(Generic[T]):
    """A strategy per kind, or with regard to symbols: item by item."""

    def __init__(self, state: ChannelState[T], policy: Policy, default: OverflowStrategy, buffer: KeyedBuffer[T]) -> None:
        self._state = state
        self._policy = policy
        self._default = default
        self._buffer = buffer
        self._strategies: dict[type, OverflowStrategy] = {}
        # Beside a kind that blocks, the queue may be full of what cannot be evicted; and a quote is not pushed out for a trade.
        strategies = policy.values() if not isinstance(policy, OverflowStrategy) else ()
        self._conflate_waits = any(isinstance(strategy, Block) and strategy.timeout is None for strategy in strategies)

    def _strategy(self, item: object) -> OverflowStrategy:
        kind = type(item)
        known = self._strategies.get(kind)
        if known is None:
            policy = self._policy
            if isinstance(policy, OverflowStrategy):
                known = policy
            else:
                known = next((policy[base] for base in kind.__mro__ if base in policy), self._default)
            self._strategies[kind] = known
        return known

    def offer(self, items: Sequence[T], room: int) -> Sequence[T]:
        now = self._state.now()
        for index, item in enumerate(items):
            strategy = self._strategy(item)
            if self._over_cap(item.symbol, strategy):
                self._at_cap(item, strategy, now)
                continue
            if isinstance(strategy, Conflate) and self._conflate(item, strategy, now):
                continue
            if room <= 0:
                if isinstance(strategy, DropNewest) and self._state.displace_for(item, self._displaceable):
                    self._push(item, strategy, now)
                    continue
                if not isinstance(strategy, Conflate | DropOldest) or self._waits(strategy):
                    return items[index:]
                # Senders that wait have a claim on room that comes free, not on the place of what is evicted.
                if not self._evict_one(strategy):
                    self._state.drop_new((item,), "overflow")
                    continue
            else:
                room -= 1
            self._push(item, strategy, now)
        return ()

    def _push(self, item: T, strategy: OverflowStrategy, now: float) -> None:
        (marked,) = self._state.mark((item,))
        self._buffer.push(marked, now, evictable=isinstance(strategy, Conflate | DropOldest))
        self._state.admitted((item,), now)

    # Conflation

    def _conflate(self, item: T, strategy: Conflate, now: float) -> bool:
        """Put *item* in the place of its symbol's pending one, if that is the last of its symbol and of the same kind."""
        line = self._buffer.line(item.symbol)
        if line:
            entry = line[-1]
            merged = self._merged(entry.item, item, entry.arrived, strategy.merge)
            if merged is None:
                return False
            entry.item, entry.arrived = merged, now
        else:
            lane = self._state.lanes.lines.get(item.symbol)
            if not lane:
                return False
            pending, arrived = lane[-1]
            merged = self._merged(pending, item, arrived, strategy.merge)
            if merged is None:
                return False
            lane[-1] = (merged, now)
        self._state.replaced(item)
        return True

    def _merged(self, pending: Any, item: T, arrived: float, merge: Callable[[Any, Any], Any] | None) -> Any:
        """Return what stands for both, or ``None`` where they are of different kinds."""
        old = pending.item if isinstance(pending, Marked) else pending
        if not isinstance(old, type(item)):
            return None
        try:
            merged = replace_pending(old, item, arrived, merge)
        except Exception:
            # A user's merge function must not break the feed: the newer item is the better of the two.
            self._state.log_error("merge.failed", item.symbol)
            merged = replace_pending(old, item, arrived, None)
        return Marked(merged, pending.gap) if isinstance(pending, Marked) else merged

    # Caps and evictions

    def _queued_of(self, symbol: str) -> int:
        line = self._buffer.line(symbol)
        lane = self._state.lanes.lines.get(symbol)
        return (len(line) if line else 0) + (len(lane) if lane else 0)

    def _over_cap(self, symbol: str, strategy: OverflowStrategy) -> bool:
        cap = getattr(strategy, "max_per_symbol", None)
        return cap is not None and self._queued_of(symbol) >= cap

    def _at_cap(self, item: T, strategy: OverflowStrategy, now: float) -> None:
        if isinstance(strategy, DropOldest) and self._evict_from(item.symbol):
            self._push(item, strategy, now)
        else:
            self._state.drop_new((item,), "overflow")

    def _evictable(self, item: Any) -> bool:
        return isinstance(self._strategy(item.item if isinstance(item, Marked) else item), Conflate | DropOldest)

    def _displaceable(self, item: Any) -> bool:
        return isinstance(self._strategy(item), DropNewest)

    def _evict_one(self, strategy: OverflowStrategy) -> bool:
        if isinstance(strategy, DropOldest) and strategy.longest_line:
            return self._evict_longest()
        evicted = self._state.lanes.evict_first(self._evictable)
        if evicted is None:
            evicted = self._buffer.evict_oldest()
        return self._count_evicted(evicted)

    def _evict_longest(self) -> bool:
        symbols = [symbol for symbol, lane in self._state.lanes.lines.items() if lane]
        in_buffer = self._buffer.longest_line()
        if in_buffer is not None:
            symbols.append(in_buffer[0])
        for symbol in sorted(symbols, key=self._queued_of, reverse=True):
            if self._evict_from(symbol):
                return True
        return self._count_evicted(self._buffer.evict_oldest())

    def _evict_from(self, symbol: str) -> bool:
        evicted = self._state.lanes.evict_first(self._evictable, symbol)
        if evicted is None:
            evicted = self._buffer.evict_from(symbol)
        return self._count_evicted(evicted)

    def _count_evicted(self, evicted: T | None) -> bool:
        if evicted is None:
            return False
        self._state.drop_queued([evicted], "evicted")
        return True

    # Waiting

    def patience(self, rest: Sequence[T], waited_s: float) -> float:
        strategy = self._strategy(rest[0])
        return math.inf if self._waits(strategy) else _patience(self._state, strategy, waited_s)

    def _waits(self, strategy: OverflowStrategy) -> bool:
        return self._conflate_waits and isinstance(strategy, Conflate)

    def give_up(self, rest: Sequence[T]) -> Sequence[T]:
        strategy = self._strategy(rest[0])
        _refuse(self._state, strategy, rest if isinstance(strategy, Fail) else rest[:1])
        return rest[1:]
