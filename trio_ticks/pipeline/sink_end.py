"""The receiving end of an ingest: a broker's sink, in the place of a worker pool.

A broker's price is by the entry, and a stretch has an entry for each shard, so that
large stretches cost less a tick. Under load the sink gets what came in several steps of
the event loop at once.

Rules: what the sink has taken and the broker has not confirmed counts as in flight,
what the broker has confirmed as consumed. The channel tells the sink of gaps, since
they travel with the ticks.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final, Generic, TypeVar, final

import attrs
import trio

from ..buffer import Sink, Stretch
from ..channel.ends import TickReceiveChannel
from ..channel.lanes import Lanes
from ..channel.stretches import take_stretch
from ..clock import Clock
from ..handlers.breaker import BreakerState
from ..ledger import Ledger
from ..metrics.meters import Meters
from ..metrics.observed import WorkerStatistics
from ..ticks import MarketData
from ..uninterrupted import uninterrupted

__all__ = ["SinkEnd", "SinkOf"]

_BURST: Final = 128
"""So many ticks at once are load: then more are waited for, for a step of the event
loop. Fewer go to the sink at once."""
_TIMES: Final = 8
"""How many times the channel's size is gathered at most: whoever makes the channel
small, since ticks are large, has few of them in memory."""
_IDLE_STEPS: Final = 2
"""After so many steps with fewer ticks nothing more is waited for. One is not enough:
trio may resume the sink before the task that brings ticks."""

T = TypeVar("T", bound=MarketData)


@attrs.frozen
class SinkOf:
    """A sink in the place of a handler.

    Whether an object is a sink cannot be seen: a mock has every method.
    """

    sink: Sink
    takes_events: bool = False
    """Whether the handler at the other end takes events of symbols, in their line."""


@final
@uninterrupted
class SinkEnd(Generic[T]):
    """Runs *sink* on what the channel of *receive* holds.

    For the channel it is the receiver, for the sink the
    :class:`~trio_ticks.buffer.Receive`.
    """

    def __init__(self, receive: TickReceiveChannel[T], sink: Sink) -> None:
        self._receive = receive
        self._sink = sink
        self._state = receive.state
        self.clock: Clock = receive.clock
        self.random: Random = receive.random
        self.lanes: Lanes[Any] = self._state.lanes
        self.breaker: BreakerState | None = None
        self.tells_gaps = True
        self.meters = Meters(self.clock)
        self._state.attach(self)
        self._born = self._state.now()
        self._gathered = Stretch()
        """What was taken, and the sink does not have yet."""
        self._held = False
        self._stirred = trio.Event()
        ledger: Ledger = self._state.ledger
        ledger.attach_pool(
            consumed=lambda: sink.statistics().appended,
            failed=lambda: sink.statistics().failed,
            in_flight=lambda: sink.statistics().in_doubt + len(self._gathered.items),
        )

    async def run(self) -> None:
        """Run the sink until the channel has ended and all of it is appended.

        Raises:
            Exception: what the sink raises, in a group, as a worker pool does.

        Cancellation: what is queued is dropped at shutdown; what was sent and not
        confirmed stays in doubt.
        """
        with self._receive:
            # For the group: a pool's errors come in one.
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112
                nursery.start_soon(self._run_sink)

    async def _run_sink(self) -> None:
        # A step of ours calls it: what a sink holds is counted, also that of a user.
        await self._sink.run(self)

    # What the sink asks

    @property
    def is_over(self) -> bool:
        """Whether nothing is queued and nothing more can come."""
        return self._state.sleepers.ended and not self._state.buffer

    async def take(self, most: int, /) -> Stretch:
        """Return what is queued, at least one item and at most *most*, with the gaps.

        Raises:
            trio.EndOfChannel: nothing more can come.

        Cancellation: nothing was taken. Always a checkpoint.
        """
        await trio.lowlevel.checkpoint()
        while True:
            while self._held and not (self._state.sleepers.ended and not self._state.ledger.queued):
                await self._stirred.wait()
            # From here to the return nothing can be cancelled, and the sink counts the
            # ticks as in doubt in the step in which this returns them.
            stretch = take_stretch(self._state, most)
            if stretch.items:
                self._state.drops.queue_changed()
                self._measure(stretch)
                most = min(most, _TIMES * self._state.maxsize)
                if _BURST <= len(stretch.items) < most:
                    await self._gather(stretch, most)
                return stretch
            try:
                await self._receive.wait()
            except trio.EndOfChannel:
                if not self._state.buffer:
                    raise

    async def _gather(self, stretch: Stretch, most: int) -> None:
        """Add to *stretch* what comes in the next steps of the event loop."""
        self._gathered = stretch
        idle = 0
        while idle < _IDLE_STEPS and len(stretch.items) < most and not self._held:
            await trio.lowlevel.cancel_shielded_checkpoint()
            before = len(stretch.items)
            take_stretch(self._state, most, stretch)
            if len(stretch.items) > before:
                self._state.drops.queue_changed()
            # Also few ticks are an end: else one that comes now and then, again and
            # again, would hold up the others.
            idle = 0 if len(stretch.items) >= before + _BURST else idle + 1
        self._gathered = Stretch()

    def hold(self, closed: bool) -> None:
        """Give the sink no more ticks, or give it ticks again."""
        self._held = closed
        self.stir()

    def stir(self) -> None:
        """Have the sink see whether there is anything to hold back."""
        stirred, self._stirred = self._stirred, trio.Event()
        stirred.set()

    def _measure(self, stretch: Stretch) -> None:
        now = self._state.now()
        arrived = stretch.arrived[0] - self.clock.offset_s
        self.meters.taken(stretch.items[0], arrived, now)

    # What the channel asks

    @property
    def reserved(self) -> Callable[[], int]:
        """Returns 0: what the sink takes does not come back."""
        return int

    def anyone_free(self) -> bool:
        """Return False: the sink has to be woken."""
        return False

    def room_wanted(self) -> None:
        """Do nothing: whenever the sink takes ticks, what waits moves up."""

    # What is observed

    def poll(self) -> None:
        """Do nothing: there is no handler that may not return."""

    def worker_statistics(self) -> WorkerStatistics:
        """Return the numbers of no workers: the broker's client is none."""
        now = self._state.now()
        return WorkerStatistics(
            rows=(),
            busy_s=0.0,
            life_s=now - self._born,
            timeouts=0,
            retries=0,
            restarts=0,
            symbols_forgotten=self._state.losses.forgotten,
            symbols_set_aside=0,
            sizes_itself=False,
            wanted=None,
            limit=None,
        )
