"""What the workers of a pool share: channel, settings, meters, reports to the user.

Rules: the crew hires nobody and runs nothing; the pool does. A tick that a worker holds
is in ``current`` or ``held``, and leaves it in the same step in which it is counted.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

import trio

from ..channel.ends import TickReceiveChannel
from ..channel.homes import HomedLanes
from ..channel.lanes import Lanes
from ..channel.state import ChannelState
from ..errors import HandlerTimeoutError
from ..gaps import Gap
from ..handlers.batches import batch_options
from ..handlers.breaker import BreakerState
from ..handlers.contexts import call_apart
from ..handlers.kinds import Handler, resolve_executor, takes_gaps
from ..handlers.prepared import Hooks
from ..logs import LogLimit, log_event
from ..metrics.meters import Meters
from ..settings import Settings
from ..ticks import MarketData
from ..tracebacks import bound
from ..uninterrupted import uninterrupted
from .failings import Failings
from .gate import Gate
from .last_words import report_last
from .outlet import Outlet
from .roster import Roster
from .worker import Worker

__all__ = ["Crew", "Work"]

logger = logging.getLogger("trio_ticks.workers")
# Failures of handlers are logged under the channel's name: alerts of users rely on it.
channel_logger = logging.getLogger("trio_ticks.channel")

T = TypeVar("T", bound=MarketData)


class Work(Protocol[T]):
    """A way in which workers take ticks and have them handled."""

    async def work(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        """Handle ticks until no more can come, or *worker* is to leave.

        Cancellation: the worker keeps its ticks; the pool counts them as dropped.
        """

    async def attend(self, receive: TickReceiveChannel[T]) -> None:
        """Do what has to be done beside the workers, until :meth:`stop`.

        Cancellation: nothing more is done.
        """

    def stop(self) -> None:
        """End :meth:`attend`: no worker is left."""

    def reserved(self) -> int:
        """Return how many ticks workers may still give back to the queue."""
        ...

    def room_wanted(self) -> None:
        """Record that ticks begin to wait for room: see :meth:`Crew.move_up`."""

    def take_all_back(self) -> None:
        """Put the ticks that workers hold and have not begun back into the queue."""

    def interrupt(self) -> None:
        """Have each worker come to the gate before its next tick.

        That is, as soon as the place in which its ticks are handled allows it.
        """

    def arrival(self, worker: Worker[T]) -> float | None:
        """Return when the tick arrived that *worker* handles or tells ``on_error`` of.

        On the pipeline's clock; ``None``: there is none. Called where the tick is
        handled, maybe in a thread.
        """

    async def announce_gap(self, worker: Worker[T], gap: Gap | list[Gap]) -> None:
        """Hand *gap* to the handler of *worker*, and raise what the handler raises.

        Cancellation: passed on to the handler; a thread is abandoned, a process killed.
        """


@uninterrupted
class Crew(Generic[T]):
    """What the workers of one pool share. For the channel it is the receiver."""

    def __init__(
        self,
        state: ChannelState[T],
        handler: Handler[T],
        settings: Settings,
    ) -> None:
        self.state = state
        self.settings = settings
        self.handler = handler
        self.random = state.random
        """The only random generator of this pipeline, so that a seed repeats a run."""
        self.ordered = settings.ordering == "symbol"
        self.place = resolve_executor(settings.executor, handler)
        self.lanes: Lanes[T] = state.lanes
        self.breaker = None if settings.breaker is None else BreakerState(settings.breaker)
        """Which symbols are set aside; false if no symbol has failed recently."""
        self.outlet = None if settings.results is None else Outlet(settings.results, state)
        """Where results go; ``None``: what handlers return is not wanted."""
        self._takes_gaps = takes_gaps(handler)
        self.batched = batch_options(handler) is not None
        """Whether the handler takes a batch at once."""
        self.tells_gaps = settings.on_gap is not None or self._takes_gaps
        self.meters = Meters(state.clock)
        self.roster: Roster[T] = Roster(self.place, state.now)
        self.workers = self.roster.workers
        self.resting = 0
        """How many workers wait for ticks."""
        self.failings = Failings(state.clock)
        """What the handler raised last."""
        self.timeouts = 0
        """Handlings that took longer than ``handler_timeout``."""
        self.restarts = 0
        """How many processes were started in the place of one that had ended."""
        self.work: Work[T]
        """How the workers take ticks; set by the pool."""
        self.pause: Callable[[Worker[T], float], bool] | None = None
        """How a worker's thread waits between two tries, where workers have threads."""
        self.anyone_free: Callable[[], bool] = self._has_free_worker
        """Tells whether a worker is awake and will take ticks without being woken."""
        ended = lambda: state.sleepers.ended and not state.ledger.queued  # noqa: E731
        self.gate = Gate(ended)
        """Where workers wait while the pool is paused."""
        self._released = trio.Event()
        self._log_limit = LogLimit(state.now)

    # What the channel asks

    @property
    def reserved(self) -> Callable[[], int]:
        """Returns how many ticks workers may still give back; these keep their room."""
        return self.work.reserved

    def room_wanted(self) -> None:
        """Record that ticks begin to wait for room."""
        self.work.room_wanted()

    @property
    def symbols_set_aside(self) -> int:
        """How many symbols the breaker has set aside, or is about to try again."""
        return 0 if self.breaker is None else len(self.breaker.set_aside)

    @property
    def symbols_forgotten(self) -> int:
        """How many symbols lost their home or their failures, because others came."""
        lanes = self.state.lanes
        homes = lanes.forgotten if isinstance(lanes, HomedLanes) else 0
        return homes + (0 if self.breaker is None else self.breaker.forgotten)

    def _has_free_worker(self) -> bool:
        # The first comparison is enough when ticks come one by one.
        if self.resting < len(self.workers):
            for worker in self.workers:
                if worker.free:
                    return True
        return False

    # Taking turns

    async def wait_for_ticks(
        self,
        worker: Worker[T],
        receive: TickReceiveChannel[T],
        scope: trio.CancelScope | None = None,
    ) -> bool:
        """Wait for ticks.

        Args:
            worker: the worker that waits; it counts as idle meanwhile.
            receive: its clone of the receive channel.
            scope: given by a worker that begins with a tick as soon as it has one. It
                may then read a socket in its reader's place, and cancelling this scope
                calls it off.

        Returns:
            False if no more ticks can come, or *worker* is to leave.

        Cancellation: no tick is taken. Always a checkpoint, unless *worker* is to
        leave.
        """
        if worker.leaving:
            return False
        worker.rest()
        self.resting += 1
        try:
            await (receive.wait() if scope is None else receive.wait_or_read(scope))
        except trio.EndOfChannel:
            # The channel has ended, but ticks of a batch that other workers have not
            # begun may still go back to the queue.
            while not (self.state.buffer or self.lanes.ready):
                if worker.leaving or not any(other.batch is not None for other in self.workers):
                    return False
                await self._released.wait()
        finally:
            self.resting -= 1
            worker.resume()
        return True

    def announce_release(self) -> None:
        """Wake the workers that wait at the channel's end for ticks of other batches.

        A batch has ended, or part of it was called back.
        """
        released, self._released = self._released, trio.Event()
        released.set()

    def interrupt(self) -> None:
        """Have each worker see before its next tick whether it may take that.

        A wake-up reaches an arbitrary sleeper, so all are woken. Keeping track of who
        sleeps would cost more.
        """
        self.work.interrupt()
        sleepers = self.state.sleepers
        while sleepers.recall():
            pass
        sleepers.wake(sleepers.sleeping)
        self.announce_release()
        self.gate.stir()

    def keep_one_free(self, worker: Worker[T]) -> None:
        """Wake another worker if ticks are left and no other worker is awake and free.

        Each worker that takes ticks calls this, since its handler may wait. So wake-ups
        form a chain: one per worker, not one per tick.
        """
        sleepers = self.state.sleepers
        if sleepers.sleeping and not sleepers.coming and (self.state.buffer or self.lanes.ready):
            for other in self.workers:
                if other is not worker and other.free:
                    return
            sleepers.wake(1)

    def move_up(self) -> None:
        """Let in ticks that wait for room, after others were taken."""
        if self.state.deliveries:
            self.state.taking.move_up()

    def arrival(self, worker: Worker[T]) -> datetime | None:
        """Return when the tick that *worker* handles arrived; ``None``: it has none."""
        arrived = self.work.arrival(worker)
        return None if arrived is None else self.state.clock.utc_at(arrived)

    # Failures

    def hooks(self, worker: Worker[T]) -> Hooks:
        """Return the hooks that the prepared handler of *worker* calls."""
        retried, random = worker.retried, self.random
        if self.pause is None:
            return Hooks(on_timeout=self._count_timeout, on_retry=retried, random=random)
        pause = functools.partial(self.pause, worker)
        return Hooks(on_retry=retried, pause=pause, random=random)

    def _count_timeout(self, held: T | list[T], cut_off: bool) -> None:
        """Count a handling in the loop that took too long, and log it if it went on.

        Args:
            held: its tick or ticks.
            cut_off: whether cancelling the handler ended it.
        """
        self.timeouts += 1
        if not cut_off:
            first = held[0] if isinstance(held, list) else held
            limit = self.settings.handler_timeout or 0.0
            error = HandlerTimeoutError(
                "the handler took too long, and could not be cut off", timeout_s=limit
            )
            self.log_error("handler.overran", first.symbol, error)

    async def report_failure(
        self, worker: Worker[T], item: MarketData, error: BaseException
    ) -> None:
        """Record the failure of *item* with the breaker, and report it to ``on_error``.

        Cancellation: as for :meth:`call_on_error`.
        """
        if self.breaker is not None:
            self.record_outcome(item.symbol, failed=True)
        await self.call_on_error(worker, item, error)

    async def call_on_error(
        self, worker: Worker[T], item: MarketData, error: BaseException
    ) -> None:
        """Call ``on_error`` with *item* and *error*; without one, log them.

        Until it has returned, *item* is unfinished: see :attr:`Worker.reporting`. Of an
        error that is no ``Exception`` see :mod:`.last_words`.

        Raises:
            Exception: what ``on_error`` raised; it ends the pipeline.

        Cancellation: passed on to ``on_error``; *item* stays counted as failed.
        """
        bound(error)
        self.failings.note(item, error)
        broken = None if worker.batch is None else worker.batch.broken
        if error is broken or not isinstance(error, Exception):
            await report_last(self.settings.on_error, worker, item, error)
            return
        if self.settings.on_error is None:
            self.log_error("handler.failed", item.symbol, error)
            return
        worker.reporting.append(item)
        try:
            await call_apart(self.settings.on_error, item, error)
            worker.reports += 1
        finally:
            worker.reported(item)

    def log_error(self, event: str, symbol: str, error: BaseException) -> None:
        """Log an exception of the user's, at most once a second per *event*.

        The line counts the exceptions that had none.
        """
        if times := self._log_limit.due(event):
            log_event(
                channel_logger,
                logging.ERROR,
                event,
                "%d times, the last with %s",
                times,
                symbol,
                exc_info=error,
                failed=times,
                symbol=symbol,
            )

    def record_outcome(self, symbol: str, *, failed: bool) -> None:
        """Record with the breaker whether a handling of *symbol* failed.

        Successes need not be recorded while ``breaker`` is false: no symbol has failed.
        """
        assert self.breaker is not None
        now = self.state.now()
        if failed and self.breaker.failed(symbol, now):
            if times := self._log_limit.due("set_aside"):
                text = "%d times, the last %s, after failures in a row: %r"
                arguments = (times, symbol, self.settings.breaker)
                facts = {"symbol": symbol, "times": times}
                log_event(logger, logging.WARNING, "breaker.set_aside", text, *arguments, **facts)
        elif (
            not failed and self.breaker.succeeded(symbol) and (times := self._log_limit.due("well"))
        ):
            text, facts = "%d times, the last %s", {"symbol": symbol, "times": times}
            log_event(logger, logging.INFO, "breaker.well", text, times, symbol, **facts)
        self.breaker.forget(now)
        self.state.losses.refresh_attention()

    # Gaps

    async def announce_gap_before(self, worker: Worker[T], item: Any) -> T | None:
        """Announce the gap before *item*, which *worker* has just taken.

        The item counts as delivered to *worker* meanwhile, so that the ledger balances.

        Returns:
            *item* without its mark; ``None`` if it was held back, and so dropped.

        Cancellation: *worker* still holds the item.
        """
        unmarked, gap = self.state.taking.inspect(item)
        if unmarked is not None and gap is not None:
            worker.current = unmarked
            self.state.ledger.delivered += 1
            await self.announce_gap(worker, gap)
            self.state.ledger.delivered -= 1
            worker.current = None
        return unmarked

    async def announce_gap(self, worker: Worker[T], gap: Gap) -> None:
        """Announce *gap* by ``on_gap``, or in-band if the handler takes gaps.

        Raises:
            Exception: what ``on_gap`` raised; it ends the pipeline.

        Cancellation: passed on to ``on_gap`` or the handler.
        """
        if self.settings.on_gap is not None:
            await call_apart(self.settings.on_gap, gap)
        elif self._takes_gaps:
            try:
                # A batch handler gets the gap as a batch of its own.
                await self.work.announce_gap(worker, [gap] if self.batched else gap)
            except Exception as error:
                await self.call_on_error(worker, gap, error)
