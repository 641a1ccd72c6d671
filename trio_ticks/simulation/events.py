"""Discrete events over the real channel, in place of trio's scheduler.

The channel decides what gets in, what is dropped and which tick is next: all of that is
sync, with the time given in, and the tasks of a pipeline call the same steps. What is
left to this loop is what those tasks do otherwise: a sender brings what is due and
waits for room; workers take a tick, are occupied for a while, and release its symbol.

Rules: no trio runs here, and nothing awaits. Of events at one moment, the end of a
handling comes first, then what arrives, then the end of a sender's patience; in a
pipeline trio would decide by chance. Nothing is logged, and nobody is told of gaps.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from heapq import heappop, heappush
from itertools import repeat
from typing import Any, Final, Literal, NamedTuple, final

import attrs

from ..channel.deliveries import Delivery
from ..channel.ends import TickReceiveChannel, TickSendChannel, open_tick_channel
from ..checks import check_count, check_seconds, check_word
from ..clock import Clock
from ..errors import ConfigError
from ..overflow import (
    DropNewest,
    Fail,
    Overflow,
    OverflowStrategy,
    Policy,
    check_policy,
)
from .loads import KINDS, Load, Services
from .outcomes import NEVER, Outcome

__all__ = ["Begins", "EventLoop", "Item", "Setting"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MANY: Final = 1 << 20
Begins = Callable[[int, float, float], None]
"""Called with a tick's number, when its handling begins, and when that ends."""


class Item(NamedTuple):
    """A tick, as far as the channel looks at it.

    It is a tuple, since making one runs no Python code: millions are made.
    """

    symbol: str
    number: int
    timestamp = _EPOCH  # type: ignore[misc]  # of the class: mypy takes it for a field


_STAND_INS: Final[tuple[type[Item], ...]] = tuple(
    type(f"_{kind.__name__}", (Item,), {"__slots__": ()}) for kind in KINDS
)
"""A class for each of ``KINDS``: a strategy may be given for a kind."""


def _items(load: Load) -> Iterator[Item]:
    """Make the ticks of *load*, in order."""
    kinds = repeat(Item) if load.kinds is None else map(_STAND_INS.__getitem__, load.kinds)
    pairs = zip(map(load.names.__getitem__, load.symbols), itertools.count(), strict=False)
    return map(tuple.__new__, kinds, pairs)


@final
@attrs.frozen(slots=True, kw_only=True)
class Setting:
    """The settings of a pipeline that decide what is dropped, and when.

    They mean what they mean to :func:`~trio_ticks.open_pipeline`.

    Raises:
        ConfigError: a setting cannot work, or cannot be simulated: a strategy of
            ``Fail``, or an age by timestamp.
    """

    workers: int = 4
    maxsize: int = 1000
    overflow: Overflow = attrs.field(factory=DropNewest)
    ordering: Literal["symbol", "none"] = "symbol"
    max_age: float | None = None

    def __attrs_post_init__(self) -> None:
        check_count("workers", self.workers)
        check_count("maxsize", self.maxsize)
        check_word("ordering", self.ordering, ("symbol", "none"))
        check_seconds("max_age", self.max_age, positive=True, or_none=True)
        policy = check_policy(self.overflow)
        each = policy.values() if isinstance(policy, Mapping) else (policy,)
        if any(isinstance(one, Fail) for one in each):
            raise ConfigError("Fail() ends a run at the first tick without room: nothing to plan")

    def policy(self) -> Policy:
        """Return the strategies, by the stand-ins of their kinds."""
        policy = check_policy(self.overflow)
        if not isinstance(policy, Mapping):
            return policy
        found: dict[type, OverflowStrategy] = {}
        for kind, stand_in in zip(KINDS, _STAND_INS, strict=True):
            base = next((base for base in kind.__mro__ if base in policy), None)
            if base is not None:
                found[stand_in] = policy[base]
        return found or DropNewest()


class EventLoop:
    """Plays a load through a channel of its own to workers with given services.

    The workers take one tick at a time, as they do in an event loop.

    Args:
        load: what comes, and when.
        services: how long the handling of each tick takes.
        setting: of the pipeline.
        begins: is told when the handling of each tick begins; ``None``: nobody is.
    """

    def __init__(
        self, load: Load, services: Services, setting: Setting, begins: Begins | None = None
    ) -> None:
        self._load = load
        self._times = load.times
        self._items = _items(load)
        """The ticks that were not brought yet, in order."""
        self._services = services
        self._begins = begins
        self._clock = [0.0]
        now = partial(self._clock.__getitem__, 0)
        ends: tuple[TickSendChannel[Any], TickReceiveChannel[Any]] = open_tick_channel(
            setting.maxsize, setting.policy(), setting.max_age, clock=Clock(now, wall_s=0.0)
        )
        self._send, receive = ends
        self.state: Final[Any] = receive.state
        """The channel's state: for whoever wants to hear what comes and is dropped."""
        self.state.drops.is_silent = True
        self._offer = self.state.offer
        self._taking = self.state.taking
        self._release = self.state.losses.release
        self._ages = self.state.ages
        self._ledger = self.state.ledger
        self._ready = self.state.lanes.ready
        self._unparked = self.state.unparked
        self._deliveries = self.state.deliveries
        self._pending = self._deliveries.pending
        self._ordered = setting.ordering == "symbol"
        self._free = setting.workers
        self._ends: list[tuple[float, int]] = []
        """A heap: when each handling ends, and the number of its tick or worker."""
        self._next = 0
        """The number of the tick that is brought next."""
        self._delivery: Delivery[Any] | None = None
        """What the sender waits for."""
        self._in_loop = services.executor == "loop" and any(services.busy)
        self._busy_until = -math.inf
        """Until when a handler computes, where others cannot meanwhile."""
        self._wakes_at = math.inf
        """When workers look again, at what none could take while one computed."""
        self._busy_s = 0.0
        self._handled = 0
        self._lags = array("f", [NEVER]) * len(load)

    def run(self) -> Outcome:
        """Play the load until the last tick is handled; return what came of it."""
        while self.advance(_MANY):
            pass
        return self.outcome()

    def advance(self, steps: int) -> bool:
        """Play on for so many events at most; return False at the end."""
        ends, times, clock, in_loop = self._ends, self._times, self._clock, self._in_loop
        count, never = len(times), math.inf
        for _ in range(steps):
            # Let time pass until something happens, and let it.
            moment = end = ends[0][0] if ends else never
            delivery, due = self._delivery, never
            if delivery is not None:
                if delivery.until < moment:
                    moment = delivery.until
            elif self._next < count:
                due = times[self._next]
                if due < moment:
                    moment = due
            if self._wakes_at < moment:
                moment = self._wakes_at
            if moment == never:
                return False
            # While a handler computes in the loop, whatever is due waits for its end.
            now = self._busy_until if in_loop and self._busy_until > moment else moment
            if now > clock[0]:
                clock[0] = now
            if moment == end:
                if not self._end(heappop(ends)[1], now):
                    continue
            elif moment == due:
                self._bring()
            elif delivery is not None and moment == delivery.until:
                self._expire(delivery)
            else:
                self._wake(now)
            self._take_all()
            while self._delivery is not None and not self._delivery.waits:
                # A worker made room: its own step ends first, then the sender goes on.
                self._bring()
                self._take_all()
        return True

    def outcome(self) -> Outcome:
        """Return what came of the load, once it was played to its end."""
        state, now = self.state, self._clock[0]
        blocked_s = state.deliveries.episode.total_s(now)
        state.close_receiver()
        ledger = state.ledger
        return Outcome(
            load=self._load,
            produced=ledger.produced,
            handled=self._handled,
            dropped_by_reason=dict(ledger.dropped_by_reason),
            lags=self._lags,
            peak=state.peak,
            blocked_s=blocked_s,
            ended_s=now,
            busy_s=self._busy_s,
        )

    # The sender

    def _bring(self) -> None:
        """Bring what is due: what came at one moment comes together."""
        self._delivery = None
        times, now, number, items = self._times, self._clock[0], self._next, self._items
        count = len(times)
        while number < count and (moment := times[number]) <= now:
            together = [next(items)]
            number += 1
            while number < count and times[number] == moment:
                together.append(next(items))
                number += 1
            self._delivery = self._offer(together, self._send, kept=True)
            if self._delivery is not None:
                break
        self._next = number

    def _expire(self, delivery: Delivery[Any]) -> None:
        """Pass the verdict on what waits; the sender goes on if nothing is left."""
        self.state.deliveries.expire(delivery, self._clock[0])
        if not delivery.waits:
            self._bring()

    # The workers

    def _take_all(self) -> None:
        """Let each free worker begin with the next tick that may be handled."""
        now = self._clock[0]
        while self._free and (self._unparked or self._ready or self._pending):
            if self._in_loop and (now < self._busy_until or self._is_due(now)):
                # Whatever became due while a handler computed comes before a worker.
                self._wakes_at = max(now, self._busy_until)
                return
            found = self._taking.next_tick({}, None, ordered=self._ordered)
            if self._pending:
                self._deliveries.advance(now)
            if found is None:
                if not self._unparked:
                    return
                continue  # all that there was is parked, and something has moved up
            _lane, item, arrived = found
            if self._ages is not None and self._taking.drop_if_stale(item, arrived):
                if self._ordered:
                    self._release(item.symbol)
                continue
            self._ledger.delivered += 1
            self._free -= 1
            self._begin(item.number, now)

    def _is_due(self, now: float) -> bool:
        if self._ends and self._ends[0][0] <= now:
            return True
        if self._delivery is not None:
            return self._delivery.until <= now
        return self._next < len(self._times) and self._times[self._next] <= now

    def _begin(self, number: int, now: float) -> None:
        services = self._services
        place = services.places[number]
        end = now + services.waits[place]
        if self._in_loop:
            seconds = services.busy[place]
            self._busy_until = now + seconds
            end += seconds
        self._busy_s += end - now
        self._lags[number] = now - self._times[number]
        heappush(self._ends, (end, number))
        if self._begins is not None:
            self._begins(number, now, end)

    def _end(self, number: int, _now: float) -> bool:
        """Count the tick *number* as handled, and free its worker and its symbol.

        Returns:
            Whether workers may find something to take now that they did not before.
        """
        self._free += 1
        self._handled += 1
        if self._ordered:
            load = self._load
            self._release(load.names[load.symbols[number]])
        return True

    def _wake(self, _now: float) -> None:
        """Let a worker look again that could not take a tick; see ``_may_take``."""
        self._wakes_at = math.inf
