"""The parts of a pipeline: its channel, its workers, the pressure and the throttle.

Rules: only this module reads and writes members of the channel's state and of the pool.
The rest of the room and all observers of a pipeline ask here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import Any, Final, Generic, TypeVar, final

import trio

from ..channel.drops import Drops
from ..channel.ends import TickReceiveChannel, TickSendChannel, open_tick_channel
from ..channel.state import ChannelState
from ..channel.statistics import ChannelStatistics
from ..clock import Clock
from ..control.pressure import Pressure
from ..control.throttle_task import ThrottleTask
from ..errors import ConfigError
from ..feeds.base import Feed, capabilities_of, waits_for_room
from ..handlers.keeping import Keeper, keeps_state
from ..handlers.kinds import Handler, resolve_executor, takes_events
from ..ledger import Ledger
from ..metrics.meters import Meters
from ..metrics.observed import GapCounts, ItemListener, WorkerRow, WorkerStatistics
from ..overflow import Block, DropNewest, Throttle, sheds
from ..settings import OnError, Settings
from ..ticks import MarketData
from ..uninterrupted import uninterrupted
from ..workers.overdue import OverdueWatch
from ..workers.pool import WorkerPool
from .advising import AdviceTask
from .feed_events import FeedEvents
from .shared_queue import SharedQueue
from .sink_end import SinkEnd, SinkOf
from .source_feed import SourceFeed, SourceLinks

__all__ = ["Listeners", "Parts"]

T = TypeVar("T", bound=MarketData)

_LOOK_S: Final = 0.1
"""How often an ingest looks how full the buffer is, in seconds."""


class Parts(Generic[T]):
    """The parts of one pipeline, connected with each other.

    Args:
        feed: asked only for what it can do: wait for room, the throttle, snapshots of
            books.
        handler: of the user's, or the sink of a broker in its place.
        settings: of the pipeline.
        on_book_lost: called when a book needs a fresh snapshot.
        clock: the pipeline's.
        random: the pipeline's source of chance; a new one unless given.
    """

    def __init__(
        self,
        feed: Feed,
        handler: Handler[T] | SinkOf,
        settings: Settings,
        on_book_lost: Callable[[], None],
        clock: Clock,
        random: Random | None = None,
    ) -> None:
        default = Block() if waits_for_room(feed) else DropNewest(settings.write_timeout)
        self.send: TickSendChannel[T]
        self.receive: TickReceiveChannel[T]
        self.send, self.receive = open_tick_channel(
            settings.maxsize,
            settings.overflow,
            settings.max_age,
            default=default,
            clock=clock,
            random=random,
        )
        self._is_fetched = isinstance(feed, SourceFeed)
        self.pressure = Pressure(
            settings.lag_threshold, settings.maxsize, sheds=sheds(settings.overflow, default)
        )
        self._state: ChannelState[T] = self.receive.state
        self._state.drops.listeners = (self,)
        self.book_lost = on_book_lost
        self.events = FeedEvents(settings.on_feed, settings.on_feed_timeout)
        self._state.on_event = self.events.put
        self.ledger: Ledger = self._state.ledger
        self._end: _PoolEnd[T] | SinkEnd[T]
        self._shared: SharedQueue | None = None
        self.advice: AdviceTask | None = None
        """Says what would have avoided losses; ``None`` if a broker has a part here."""
        if isinstance(handler, SinkOf):
            self._state.takes_events = handler.takes_events
            self._end = SinkEnd(self.receive, handler.sink)
            self._shared = SharedQueue(self._state, handler.sink.statistics)
        else:
            self._state.takes_events = takes_events(handler)
            keeper = _keeper_of(handler, settings) if self._is_fetched else None
            pool: WorkerPool[T] = WorkerPool(self.receive, handler, settings, keeper)
            self._end = _PoolEnd(self._state, pool)
            if isinstance(feed, SourceFeed):
                self._end.connect(feed, settings.on_error, keeper)
            else:
                self.advice = AdviceTask(self._state, pool, settings, default)
        self.meters: Meters = self._end.meters
        self.poll: Callable[[], None] = self._end.poll
        """Looks for ticks whose handler does not return; called again and again."""
        self.gap_counts: GapCounts = self._state.losses.gaps
        self.listeners = Listeners(self._state.drops)
        self.feed_can = capabilities_of(feed)
        self.throttle = self._make_throttle(settings, type(feed).__name__)

    def _make_throttle(self, settings: Settings, feed_name: str) -> ThrottleTask | None:
        if not isinstance(settings.overflow, Throttle):
            return None
        return ThrottleTask(
            settings.overflow,
            self.feed_can.throttle,
            self._shared or self._state,
            self._shared.finished if self._shared else self._count_finished,
            feed_name=feed_name,
        )

    def close(self) -> None:
        """Close both ends of the channel; queued ticks count as dropped at shutdown."""
        self.close_senders()
        self.receive.close()

    def close_senders(self) -> int:
        """Close all that ticks can be sent by.

        Returns:
            How many clones of the feed's handle were open.
        """
        self.send.close()
        clones = tuple(self._state.senders)
        for clone in clones:
            clone.close()
        self._end.stir()
        return len(clones)

    async def run_workers(self) -> None:
        """Run the workers until the channel has ended and is drained.

        Raises:
            BaseExceptionGroup: what handlers' lives, ``on_error`` and ``on_gap``
                raised.

        Cancellation: what is queued or in flight is counted as dropped at shutdown.
        """
        await self._end.run()

    def hold(self, closed: bool) -> None:
        """Have no more ticks taken out of the channel, or have them taken again."""
        self._end.hold(closed)
        self.queue_changed()

    def resize(self, count: int) -> None:
        """Hire or dismiss until *count* workers take ticks."""
        if isinstance(self._end, _PoolEnd):
            self._end.resize(count)

    @property
    def wanted_books(self) -> Collection[str]:
        """Symbols whose book waits for a fresh snapshot."""
        return self._state.losses.books.wanted

    def begin_draining(self) -> None:
        """Queue all that the feed has brought, and still brings, for the workers."""
        self._state.deliveries.begin_draining(self._state.now())

    def queue_changed(self) -> None:
        """Compare the queue's length with the marks of pressure and throttle."""
        # A source fetches as much as fits in: a channel that it has filled is as it
        # should be, and the ticks behind are in the broker.
        if not self._is_fetched:
            shared = self._shared
            if shared is None:
                self.pressure.update(self._state.used)
            else:
                self.pressure.update(shared.pressing, shared.behind)
        if self.throttle is not None:
            self.throttle.check()

    @uninterrupted
    async def watch_buffer(self) -> None:
        """Look again and again how full the buffer behind an ingest is.

        It fills and empties while nothing happens in the channel. Returns at once
        without such a buffer.

        Cancellation: the pressure stays as it is.
        """
        while self._shared is not None:
            self._shared.refresh()
            self.queue_changed()
            await trio.sleep(_LOOK_S)

    def statistics(self) -> ChannelStatistics:
        """Return the channel's numbers as they are now."""
        return self._state.statistics()

    def worker_statistics(self) -> WorkerStatistics:
        """Return the workers' numbers as they are now."""
        return self._end.worker_statistics()

    def _count_finished(self) -> int:
        return self.ledger.consumed + self.ledger.failed


def _keeper_of(handler: Handler[Any], settings: Settings) -> Keeper | None:
    """Return who tells *handler* of its symbols; ``None``: nobody needs to be told.

    Raises:
        ConfigError: it does, and it cannot be told where it runs.
    """
    if not keeps_state(handler):
        return None
    place = resolve_executor(settings.executor, handler)
    if place == "process":
        raise ConfigError(
            "a handler with gained() or lost() cannot run in processes, since it is "
            'told of its symbols here: use executor="thread", or "loop"'
        )
    return Keeper(in_thread=place == "thread")


@final
class _PoolEnd(Generic[T]):
    """The receiving end of a pipeline with workers."""

    def __init__(self, state: ChannelState[T], pool: WorkerPool[T]) -> None:
        self._state = state
        self._pool = pool
        self._overdue = OverdueWatch(pool.crew)
        self.poll = self._overdue.poll
        self.meters: Meters = pool.crew.meters

    async def run(self) -> None:
        """Run the workers until the channel has ended and is drained.

        Cancellation: what is queued or in flight is counted as dropped at shutdown.
        """
        await self._pool.run()

    def hold(self, closed: bool) -> None:
        """Have the workers take no more ticks, or take them again."""
        crew = self._pool.crew
        if closed != crew.gate.closed:
            crew.gate.closed = closed
            crew.interrupt()

    def stir(self) -> None:
        """Have workers that are held see whether there is anything to hold back."""
        self._pool.crew.gate.stir()

    def resize(self, count: int) -> None:
        """Hire or dismiss until *count* workers take ticks."""
        self._pool.resize(count)

    def connect(self, source: SourceFeed, on_error: OnError | None, keeper: Keeper | None) -> None:
        """Let *source* fill the channel; what is left at the end goes back to it."""
        state, pool = self._state, self._pool
        if pool.crew.outlet is not None:
            pool.crew.outlet.place_of = source.remember_places()
        state.drops.gives_back = True
        source.connect(
            SourceLinks(
                pool.outcomes,
                lambda: state.room,
                state.drops.left.extend,
                state.drops.left.clear,
                keeper,
                on_error,
            )
        )

    def worker_statistics(self) -> WorkerStatistics:
        """Return the workers' numbers as they are now."""
        crew, scaling, now = self._pool.crew, self._pool.scaling, self._state.now()
        if self._state.clock.is_virtual:
            # Nobody else polls there; elsewhere this may be another thread than theirs.
            self.poll()
        roster, outlet = crew.roster, crew.outlet
        return WorkerStatistics(
            rows=tuple(
                WorkerRow(
                    metrics=worker.metrics(now),
                    busy_s=worker.busy_s(now),
                    life_s=worker.life_s(now),
                )
                for worker in tuple(crew.workers)
            ),
            busy_s=roster.busy_s(now),
            life_s=roster.life_s(now),
            timeouts=crew.timeouts,
            retries=roster.retries(),
            restarts=crew.restarts,
            symbols_set_aside=crew.symbols_set_aside,
            symbols_forgotten=crew.symbols_forgotten + self._state.losses.forgotten,
            sizes_itself=scaling is not None,
            wanted=None if scaling is None else scaling.wanted,
            limit=None if scaling is None else scaling.limit,
            last_failure=crew.failings.last,
            overdue=self._overdue.found,
            results_written=0 if outlet is None else outlet.written,
            results_failed=0 if outlet is None else outlet.failed,
            results_waiting=None if outlet is None else outlet.waiting,
            results_waiting_s=0.0 if outlet is None else outlet.waiting_s(now),
        )


@final
class Listeners:
    """The functions that are called with the items of one channel.

    They are an immutable tuple, so that one may leave while it is being called.
    """

    def __init__(self, drops: Drops) -> None:
        self._drops = drops

    def __len__(self) -> int:
        return len(self._drops.item_listeners)

    def add(self, listener: ItemListener) -> None:
        """Call *listener* from now on, beside all others."""
        self._drops.item_listeners += (listener,)

    def remove(self, listener: ItemListener) -> None:
        """Call *listener* no more; does nothing if it is not there."""
        listeners = self._drops.item_listeners
        self._drops.item_listeners = tuple(each for each in listeners if each != listener)
