"""Who gets into the channel: overflow strategies as sync decisions on buffer and lanes.

Rules: nothing here waits, counts, logs or wakes anybody. :meth:`Admission.offer` moves
items into the buffer as far as the strategy allows, and its :class:`Verdict` says what
became of the others; the caller does what follows from that. Every item that was
offered is in the buffer, or in exactly one list of the verdict, in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar, final

from ..conflation import replace_pending
from ..overflow import Block, Conflate, DropNewest, DropOldest, Fail, OverflowStrategy, Policy
from ..patience import patience_left
from ..ticks import MarketData
from .fifo import FifoBuffer
from .keyed import KeyedBuffer
from .lanes import Lanes
from .marked import Marked, plain

__all__ = [
    "ALL_IN",
    "Admission",
    "FifoAdmission",
    "KeyedAdmission",
    "Verdict",
    "is_plain",
    "wants_ranks",
]

T = TypeVar("T", bound=MarketData)

# A tuple, since a union that is written where it is asked for is made anew each time.
_EVICTING: Final = (Conflate, DropOldest)
"""Strategies whose ticks make room for newer ones."""


def is_plain(policy: Policy) -> bool:
    """Tell whether *policy* treats all symbols and kinds alike.

    Then a FIFO buffer serves.
    """
    match policy:
        case (
            Block()
            | Fail()
            | DropNewest(max_per_symbol=None)
            | DropOldest(max_per_symbol=None, longest_line=False)
        ):
            return True
    return False


def wants_ranks(policy: Policy, default: OverflowStrategy) -> bool:
    """Tell whether a strategy of *policy* asks which symbol has the longest line."""
    each = (policy,) if isinstance(policy, OverflowStrategy) else (*policy.values(), default)
    return any(isinstance(one, DropOldest) and one.longest_line for one in each)


class Verdict(Generic[T]):
    """What became of the items that were offered and did not simply get in.

    Items may be :class:`Marked`. What is in none of the lists is in the buffer.
    """

    __slots__ = (
        "again",
        "displaced",
        "evicted",
        "failed_merges",
        "joined_gaps",
        "refused",
        "replaced",
        "rest",
    )

    def __init__(self, rest: Sequence[T] = (), refused: Sequence[T] = ()) -> None:
        self.rest = rest
        """Items that found no room and may wait for it, in order."""
        self.refused = refused
        """Items that were offered and are dropped at once: ``overflow``."""
        self.evicted: list[T] = []
        """Items that were pushed out by newer ones: ``evicted``."""
        self.replaced: list[T] = []
        """Items whose place in the buffer was taken by a newer one: ``conflated``."""
        self.displaced: list[T] = []
        """Parked items, each the last of its lane, that gave way: ``overflow``."""
        self.failed_merges: list[tuple[T, Exception]] = []
        """Items for which the user's merge function raised, and what it raised.

        Also items for which it returned what is no item of their kind and symbol."""
        self.joined_gaps = 0
        """How many marked items became one with another marked item."""
        self.again = False
        """Whether *rest* is to be offered again after this verdict was acted on.

        A refusal makes a gap that lies before the next item of its symbol, which may be
        in the rest and has to be marked with it before it gets in.
        """


ALL_IN: Verdict[Any] = Verdict()
"""The verdict if all that was offered is in the buffer and nothing else happened.

It is shared, so that the usual case allocates nothing.
"""


class Admission(Protocol[T]):
    """A strategy at work."""

    lanes: Lanes[T]
    needs_no_room: bool
    """Whether an item may get in though there is no room: in the place of another."""
    by_item: bool
    """Whether items that follow each other may have different patience."""

    def offer(self, items: Sequence[T], room: int, now: float) -> Verdict[T]:
        """Move into the buffer what may enter it without waiting, at the time *now*.

        *room* is how many more items fit in; 0 for newcomers behind others that wait.
        """
        ...

    def strategy_of(self, item: T) -> OverflowStrategy:
        """Return the strategy for *item*."""
        ...

    def patience_left(self, rest: Sequence[T], in_episode_s: float, for_this_s: float) -> float:
        """Return how much longer the first of *rest* may wait for room, in seconds."""
        ...

    def count_spent(self, items: Sequence[T], at: int) -> int:
        """Return how many of ``items[at:]`` to refuse, since the patience of the first
        is spent.

        It copies nothing: a long delivery may be refused item by item.
        """
        ...


class FifoAdmission(Generic[T]):
    """One strategy for all, without regard to symbols: whole batches at once."""

    def __init__(
        self, strategy: OverflowStrategy, buffer: FifoBuffer[T], lanes: Lanes[T], maxsize: int
    ) -> None:
        self.lanes = lanes
        self._strategy = strategy
        self._buffer = buffer
        self._maxsize = maxsize
        self._waits = isinstance(strategy, Block) and strategy.timeout is None
        self._evicts = isinstance(strategy, DropOldest)
        self._yields = isinstance(strategy, DropNewest)
        self.needs_no_room = self._yields or self._evicts
        self.by_item = False

    def offer(self, items: Sequence[T], room: int, now: float) -> Verdict[T]:
        if len(items) <= room:
            self._buffer.push_many(items, now)
            return ALL_IN
        if self._evicts:
            return self._evict_for(items, room, now)
        if self._yields and _hogged(self.lanes, self._maxsize):
            return self._offer_fairly(items, room, now)
        if room > 0:
            self._buffer.push_many(items[:room], now)
            return Verdict(items[room:])
        return Verdict(items)

    def _evict_for(self, items: Sequence[T], room: int, now: float) -> Verdict[T]:
        """Evict the oldest ticks, or all there are.

        Parked ticks came before those in the buffer.
        """
        wanted = len(items) - room
        verdict: Verdict[T] = Verdict()
        verdict.evicted = self.lanes.evict(wanted)
        verdict.evicted += self._buffer.take_many(wanted - len(verdict.evicted))
        verdict.evicted += items[: -self._maxsize]
        self._buffer.push_many(items[-self._maxsize :], now)
        return verdict

    def _offer_fairly(self, items: Sequence[T], room: int, now: float) -> Verdict[T]:
        """Take in what there is room for, and what a long lane gives its room to."""
        verdict: Verdict[T] = Verdict()
        for index, item in enumerate(items):
            if room > 0:
                room -= 1
            elif not _displace_for(item, self.lanes, self._maxsize, verdict):
                verdict.rest = items[index:]
                break
            self._buffer.push_many((item,), now)
        return verdict

    def strategy_of(self, item: T) -> OverflowStrategy:
        return self._strategy

    def patience_left(self, rest: Sequence[T], in_episode_s: float, for_this_s: float) -> float:
        if self._waits:
            return math.inf
        return patience_left(self._strategy, in_episode_s, for_this_s)

    def count_spent(self, items: Sequence[T], at: int) -> int:
        if isinstance(self._strategy, Block):
            return 1
        end = len(items)
        if self._yields and _hogged(self.lanes, self._maxsize):
            # Behind the first there may be ticks with more right to room than a long
            # lane has.
            lines = self.lanes.lines
            others = range(at + 1, end)
            end = next((i for i in others if not lines.get(items[i].symbol)), end)
        return end - at


@final
class _Rule:
    """A strategy, and what of it is asked for each item."""

    __slots__ = ("cap", "conflates", "displaces", "evicts", "may_evict", "strategy")

    def __init__(self, strategy: OverflowStrategy, *, waits: bool) -> None:
        self.strategy = strategy
        self.cap: int | None = None
        """How many ticks of a symbol may be queued."""
        if isinstance(strategy, DropNewest | DropOldest):
            self.cap = strategy.max_per_symbol
        self.conflates = isinstance(strategy, Conflate)
        self.displaces = isinstance(strategy, DropNewest)
        self.evicts = isinstance(strategy, _EVICTING)
        """Whether its items make room for newer ones."""
        self.may_evict = self.evicts and not waits
        """Whether a newcomer takes the place of another item if there is no room."""


class KeyedAdmission(Generic[T]):
    """A strategy per kind, or with regard to symbols: item by item."""

    def __init__(
        self,
        policy: Policy,
        default: OverflowStrategy,
        buffer: KeyedBuffer[T],
        lanes: Lanes[T],
        maxsize: int,
    ) -> None:
        self.lanes = lanes
        self._policy = policy
        self._default = default
        self._buffer = buffer
        self._maxsize = maxsize
        self.needs_no_room = self.by_item = True
        self._rules: dict[type, _Rule] = {}
        # Beside a kind that blocks, the queue may be full of what cannot be evicted;
        # and a quote is not pushed out for a trade.
        strategies = policy.values() if not isinstance(policy, OverflowStrategy) else ()
        self._conflate_waits = any(
            isinstance(strategy, Block) and strategy.timeout is None for strategy in strategies
        )

    def strategy_of(self, item: Any) -> OverflowStrategy:
        return self._rule_of(item).strategy

    def _rule_of(self, item: Any) -> _Rule:
        kind = type(plain(item))
        known = self._rules.get(kind)
        if known is None:
            policy = self._policy
            if isinstance(policy, OverflowStrategy):
                strategy = policy
            else:
                strategy = next(
                    (policy[base] for base in kind.__mro__ if base in policy), self._default
                )
            known = self._rules[kind] = _Rule(strategy, waits=self._waits(strategy))
        return known

    def offer(self, items: Sequence[T], room: int, now: float) -> Verdict[T]:
        known, buffer = self._rules, self._buffer
        lines, lanes = buffer.lines, self.lanes.lines
        verdict: Verdict[T] | None = None  # made once something is to be said
        for index, item in enumerate(items):
            # A marked item is of no kind that is known.
            rule = known.get(type(item)) or self._rule_of(item)
            if rule.cap is not None and self._queued_of(item.symbol) >= rule.cap:
                verdict = verdict or Verdict()
                if not rule.evicts or not self._evict_from(item.symbol, verdict):
                    return self._refuse(items, index, verdict)
            elif (
                rule.conflates
                and (lines.get(item.symbol) or lanes.get(item.symbol))
                and self._conflate(item, rule.strategy, now, verdict := verdict or Verdict())
            ):
                continue
            elif room > 0:
                room -= 1
            elif rule.may_evict:
                # Senders that wait have a claim on room that comes free, not on the
                # place of what is evicted.
                verdict = verdict or Verdict()
                if not self._evict_one(rule.strategy, verdict):
                    return self._refuse(items, index, verdict)
            else:
                verdict = verdict or Verdict()
                if not rule.displaces or not _displace_for(
                    item, self.lanes, self._maxsize, verdict, self._displaceable
                ):
                    verdict.rest = items[index:]
                    return verdict
            buffer.push(item, now, evictable=rule.evicts)
        return verdict or ALL_IN

    def _refuse(self, items: Sequence[T], index: int, verdict: Verdict[T]) -> Verdict[T]:
        verdict.refused = items[index : index + 1]
        verdict.rest = items[index + 1 :]
        verdict.again = bool(verdict.rest)
        return verdict

    # Conflation

    def _conflate(self, item: T, strategy: Any, now: float, verdict: Verdict[T]) -> bool:
        """Put *item* in the place of its symbol's pending one.

        Only the last of its symbol can be replaced, and only by an item of the same
        kind.
        """
        line = self._buffer.lines.get(item.symbol)
        lane = None if line else self.lanes.lines.get(item.symbol)
        if line:
            pending, arrived = line[-1].item, line[-1].arrived
        elif lane:
            pending, arrived = lane[-1]
        else:
            return False
        old, new = plain(pending), plain(item)
        if not isinstance(old, type(new)):
            return False
        try:
            merged = replace_pending(old, new, arrived, strategy.merge)
        except Exception as error:
            # The user's merge function must not break the feed: the newer item is kept.
            verdict.failed_merges.append((item, error))
            merged = replace_pending(old, new, arrived, None)
        if isinstance(pending, Marked):
            gap = pending.gap
            if isinstance(item, Marked):
                gap = gap.joined(item.gap)
                verdict.joined_gaps += 1
            merged = Marked(merged, gap)
        elif isinstance(item, Marked):
            merged = Marked(merged, item.gap)
        if line:
            line[-1].item, line[-1].arrived = merged, now
        elif lane:
            lane[-1] = (merged, now)
        verdict.replaced.append(new)
        return True

    # Caps and evictions

    def _queued_of(self, symbol: str) -> int:
        line = self._buffer.line(symbol)
        lane = self.lanes.lines.get(symbol)
        return (len(line) if line else 0) + (len(lane) if lane else 0)

    def _evictable(self, item: Any) -> bool:
        return self._rule_of(item).evicts

    def _displaceable(self, item: Any) -> bool:
        return self._rule_of(item).displaces

    def _evict_one(self, strategy: OverflowStrategy, verdict: Verdict[T]) -> bool:
        if isinstance(strategy, DropOldest) and strategy.longest_line:
            return self._evict_longest(verdict)
        evicted = self.lanes.evict_first(self._evictable) if self.lanes.parked else None
        return _record(self._buffer.evict_oldest() if evicted is None else evicted, verdict)

    def _evict_longest(self, verdict: Verdict[T]) -> bool:
        symbols = [symbol for symbol, lane in self.lanes.lines.items() if lane]
        in_buffer = self._buffer.longest_line()
        if in_buffer is not None:
            symbols.append(in_buffer[0])
        for symbol in sorted(symbols, key=self._queued_of, reverse=True):
            if self._evict_from(symbol, verdict):
                return True
        return _record(self._buffer.evict_oldest(), verdict)

    def _evict_from(self, symbol: str, verdict: Verdict[T]) -> bool:
        evicted = self.lanes.evict_first(self._evictable, symbol)
        return _record(self._buffer.evict_from(symbol) if evicted is None else evicted, verdict)

    # Waiting

    def patience_left(self, rest: Sequence[T], in_episode_s: float, for_this_s: float) -> float:
        strategy = self.strategy_of(rest[0])
        if self._waits(strategy):
            return math.inf
        return patience_left(strategy, in_episode_s, for_this_s)

    def _waits(self, strategy: OverflowStrategy) -> bool:
        return self._conflate_waits and isinstance(strategy, Conflate)

    def count_spent(self, items: Sequence[T], at: int) -> int:
        # What waits behind an item that failed is not offered any more: its sender is
        # told.
        return len(items) - at if isinstance(self.strategy_of(items[at]), Fail) else 1


def _record(evicted: T | None, verdict: Verdict[T]) -> bool:
    if evicted is None:
        return False
    verdict.evicted.append(evicted)
    return True


def _hogged(lanes: Lanes[Any], maxsize: int) -> bool:
    """Tell whether lanes hold more than half of all room."""
    return lanes.parked > maxsize // 2


def _displace_for(
    item: T,
    lanes: Lanes[T],
    maxsize: int,
    verdict: Verdict[T],
    wanted: Callable[[Any], bool] = lambda _item: True,
) -> bool:
    """Make room for *item*, whose symbol has no lane, in the longest lane.

    That lane gives its newest tick. Only where lanes hold more than half of all room. A
    hot symbol's lane could otherwise take all of it, and workers would be idle while
    ticks that they might handle find none.
    """
    if not _hogged(lanes, maxsize) or lanes.lines.get(item.symbol):
        return False
    victim = lanes.take_newest(wanted)
    if victim is None:
        return False
    verdict.displaced.append(victim)
    return True
