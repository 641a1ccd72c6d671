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

import math
from array import array
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from heapq import heappop, heappush
from typing import Any, Final, Literal, final

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

__all__ = ["EventLoop", "Setting", "simulate"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MANY: Final = 1 << 20
Begins = Callable[[int, float, float], None]
"""Called with a tick's number, when its handling begins, and when that ends."""


class _Item:
    """A tick, as far as the channel looks at it."""

    __slots__ = ("number", "symbol")
    timestamp: Final = _EPOCH

    def __init__(self, symbol: str, number: int) -> None:
        self.symbol = symbol
        self.number = number


_STAND_INS: Final[tuple[type[_Item], ...]] = tuple(
    type(f"_{kind.__name__}", (_Item,), {"__slots__": ()}) for kind in KINDS
)
"""A class for each of ``KINDS``: a strategy may be given for a kind."""


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


@final
class EventLoop:
    """Plays a load through a channel of its own to workers with given services.

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
        self._taking = self.state.taking
        self._pending = self.state.deliveries.pending
        self._ordered = setting.ordering == "symbol"
        self._free = setting.workers
        self._ends: list[tuple[float, int]] = []
        """A heap: when each handling ends, and the number of its tick."""
        self._next = 0
        """The number of the tick that is brought next."""
        self._delivery: Delivery[Any] | None = None
        """What the sender waits for."""
        self._in_loop = services.shares == "loop" and any(services.busy)
        self._in_lock = services.shares == "lock" and any(services.busy)
        self._busy_until = -math.inf
        """Until when a handler computes, where handlers share what they compute in."""
        self._wakes_at = math.inf
        """When a worker takes a tick that it could not take while another computed."""
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
        for _ in range(steps):
            if not self._step():
                return False
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

    def _step(self) -> bool:
        """Let time pass until something happens, and let it; False at the end."""
        delivery, ends, times = self._delivery, self._ends, self._times
        due = until = math.inf
        if delivery is not None:
            until = delivery.until
        elif self._next < len(times):
            due = times[self._next]
        end = ends[0][0] if ends else math.inf
        moment = min(end, due, until, self._wakes_at)
        if moment == math.inf:
            return False
        # While a handler computes in the loop, whatever is due waits for its end.
        now = max(moment, self._busy_until) if self._in_loop else moment
        if now > self._clock[0]:
            self._clock[0] = now
        if moment == end:
            number = heappop(ends)[1]
            self._free += 1
            self._handled += 1
            if self._ordered:
                self._release(number)
        elif moment == due:
            self._bring()
        elif moment == until:
            self._expire()
        else:
            self._wakes_at = math.inf
        return True

    # The sender

    def _bring(self) -> None:
        """Bring what is due: what came at one moment comes together."""
        self._delivery = None
        load, times, now = self._load, self._times, self._clock[0]
        names, symbols, kinds, count = load.names, load.symbols, load.kinds, len(times)
        offer, number = self.state.offer, self._next
        while number < count and (moment := times[number]) <= now:
            begin = number
            while number < count and times[number] == moment:
                number += 1
            items: list[_Item]
            if kinds is None:
                items = [_Item(names[symbols[each]], each) for each in range(begin, number)]
            else:
                items = [
                    _STAND_INS[kinds[each]](names[symbols[each]], each)
                    for each in range(begin, number)
                ]
            self._delivery = offer(items, self._send, kept=True)
            if self._delivery is not None:
                break
        self._next = number

    def _expire(self) -> None:
        """Pass the verdict on what waits; the sender goes on if nothing is left."""
        assert self._delivery is not None
        self.state.deliveries.expire(self._delivery, self._clock[0])
        if not self._delivery.waits:
            self._bring()

    # The workers

    def _take_all(self) -> None:
        """Let each free worker begin with the next tick that may be handled."""
        state, taking, now = self.state, self._taking, self._clock[0]
        buffer, lanes, ordered, ledger = state.buffer, state.lanes, self._ordered, state.ledger
        while self._free and (buffer or lanes.ready or self._pending):
            if self._in_loop and not self._may_take(now):
                return
            found = taking.next_tick(set(), None, ordered=ordered)
            if self._pending:
                taking.move_up()
            if found is None:
                if not buffer:
                    return
                continue  # all that there was is parked, and something has moved up
            _lane, item, arrived = found
            if state.ages is not None and taking.drop_if_stale(item, arrived):
                if ordered:
                    state.losses.release(item.symbol)
                continue
            ledger.delivered += 1
            self._free -= 1
            self._begin(item.number, now)

    def _may_take(self, now: float) -> bool:
        """Tell whether the loop is free for a worker; if not, it comes back later.

        Whatever became due while a handler computed comes before it.
        """
        if now >= self._busy_until and not self._is_due(now):
            return True
        self._wakes_at = max(now, self._busy_until)
        return False

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
        elif self._in_lock:
            begin = self._busy_until if self._busy_until > now else now
            self._busy_until = begin + services.busy[place]
            end += self._busy_until - now
        self._busy_s += end - now
        self._lags[number] = now - self._times[number]
        heappush(self._ends, (end, number))
        if self._begins is not None:
            self._begins(number, now, end)

    def _release(self, number: int) -> None:
        load = self._load
        self.state.losses.release(load.names[load.symbols[number]])


def simulate(load: Load, services: Services, setting: Setting) -> Outcome:
    """Return what becomes of *load* in a pipeline with *setting*.

    The handling of each tick takes what *services* say, and there is one for each tick.
    All decisions are those of the real channel; see the module.
    """
    return EventLoop(load, services, setting).run()
