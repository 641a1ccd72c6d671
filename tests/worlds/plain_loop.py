"""A plain loop over the real channel: discrete events in place of trio's scheduler.

The channel decides what gets in, what is dropped and which tick is next: all of that is
sync, with the time given in. What tasks do otherwise is left to the loop: a sender
brings what is due and waits for room; workers take a tick, are busy for a while, and
release its symbol.

Rules: no trio runs here, and nothing awaits. Every event has a moment of its own: which
of two at one moment comes first trio would decide by chance, so the loop refuses them.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import attrs

from trio_ticks.channel.deliveries import Delivery
from trio_ticks.channel.ends import TickReceiveChannel, TickSendChannel, open_tick_channel
from trio_ticks.clock import Clock
from trio_ticks.ledger import DropReason, Ledger
from trio_ticks.overflow import Overflow
from trio_ticks.ticks import Tick, Trade

__all__ = ["Arrivals", "Item", "PlainLoop", "Seen"]

Item = Tick | Trade
Arrivals = Sequence[tuple[float, Sequence[Item]]]
"""What is due at once, and when, in order."""


@attrs.define
class Seen:
    """What became of each item, and when. Items are named by their numbers."""

    number: Callable[[Item], int] = attrs.field(eq=False)
    came: list[tuple[float, int]] = attrs.field(factory=list)
    dropped: list[tuple[float, DropReason, int]] = attrs.field(factory=list)
    """For ``conflated`` the number is that of the item that came in the place."""
    begun: list[tuple[float, int]] = attrs.field(factory=list)
    ended: list[tuple[float, int]] = attrs.field(factory=list)

    def hear(self, now: float, items: Iterable[Item], reason: DropReason | None) -> None:
        """Record *items*, which came, or were dropped for *reason*."""
        if reason is None:
            self.came += ((now, self.number(item)) for item in items)
        else:
            self.dropped += ((now, reason, self.number(item)) for item in items)


class PlainLoop:
    """Plays items through a channel of its own to workers whose services are made up.

    Args:
        seen: records what becomes of each item.
        service: how long the handling of an item takes, in seconds; more than 0.
        workers: how many items are handled at once.
        maxsize: as for a pipeline.
        overflow: as for a pipeline.
        max_age: as for a pipeline.
        ordering: as for a pipeline.
    """

    def __init__(
        self,
        seen: Seen,
        service: Callable[[Item], float],
        *,
        workers: int,
        maxsize: int,
        overflow: Overflow,
        ordering: str,
        max_age: float | None = None,
    ) -> None:
        self.now = 0.0
        self.consumed = 0
        self._seen = seen
        self._service = service
        self._free = workers
        self._ordered = ordering == "symbol"
        clock = Clock(lambda: self.now, wall_s=0.0)
        ends: tuple[TickSendChannel[Item], TickReceiveChannel[Item]]
        ends = open_tick_channel(maxsize, overflow, max_age, clock=clock)
        self._send, receive = ends
        self._state = receive.state
        self._state.drops.item_listeners = (lambda items, why: seen.hear(self.now, items, why),)
        self._arrivals: deque[tuple[float, Sequence[Item]]] = deque()
        self._delivery: Delivery[Item] | None = None
        """What the sender waits for."""
        self._events: list[tuple[float, Callable[[], None]]] = []
        """A heap of what will happen and when; the end of the patience is apart."""

    @property
    def ledger(self) -> Ledger:
        """The channel's half of the ledger."""
        return self._state.ledger

    def run(self, arrivals: Arrivals) -> None:
        """Play *arrivals* until the last item is handled.

        While the sender waits for room it brings nothing.
        """
        self._arrivals.extend(arrivals)
        self._at(self._arrivals[0][0], self._bring)
        while (step := self._next_step()) is not None:
            step()
            self._take_all()
            while self._delivery is not None and not self._delivery.waits:
                # A worker made room: its own step ends first, then the sender goes on.
                self._bring()
                self._take_all()
        self._state.close_receiver()

    def _next_step(self) -> Callable[[], None] | None:
        """Let time pass until something happens; return it, or ``None`` at the end."""
        until = math.inf if self._delivery is None else self._delivery.until
        moment = self._events[0][0] if self._events else math.inf
        if until == moment == math.inf:
            return None
        assert self.now < moment != until > self.now, "two events at one moment"
        self.now = min(moment, until)
        return self._expire if until < moment else heapq.heappop(self._events)[1]

    def _at(self, moment: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, step))

    # The sender

    def _bring(self) -> None:
        """Bring what is due; then wait for room, or for what is due next."""
        self._delivery = None
        while self._delivery is None and self._arrivals and self._arrivals[0][0] <= self.now:
            due = self._arrivals.popleft()[1]
            self._delivery = self._state.offer(due, self._send, kept=True)
        if self._delivery is None and self._arrivals:
            self._at(self._arrivals[0][0], self._bring)

    def _expire(self) -> None:
        """Pass the verdict on what waits; the sender goes on if nothing is left."""
        assert self._delivery is not None
        self._state.deliveries.expire(self._delivery, self.now)
        if not self._delivery.waits:
            self._bring()

    # The workers

    def _take_all(self) -> None:
        """Let each free worker begin with the next item that may be handled."""
        state, taking = self._state, self._state.taking
        while self._free:
            found = taking.next_tick(set(), None, ordered=self._ordered)
            taking.move_up()
            if found is None and not state.buffer:
                return
            if found is None:
                continue  # all that there was is parked, and something has moved up
            _lane, item, arrived = found
            if taking.drop_if_stale(item, arrived):
                self._release(item.symbol)
                continue
            state.ledger.delivered += 1
            self._free -= 1
            self._seen.begun.append((self.now, self._seen.number(item)))
            self._at(self.now + self._service(item), partial(self._end, item))

    def _end(self, item: Item) -> None:
        self._free += 1
        self.consumed += 1
        self._seen.ended.append((self.now, self._seen.number(item)))
        self._release(item.symbol)

    def _release(self, symbol: str) -> None:
        if self._ordered:
            self._state.losses.release(symbol)
