"""The worker pool: hires workers, runs them on cloned channels, and dismisses them.

Rules: with ``ordering="symbol"`` a symbol is leased in the channel's lanes from before
its handler starts until its outcome is settled. What workers share is the
:class:`Crew`; how they take ticks is a :class:`Work`.
"""

from __future__ import annotations

import logging
import math
from contextlib import AsyncExitStack
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar

import trio

from ..channel.ends import TickReceiveChannel
from ..control.cores import usable_cores
from ..control.scaling import AutoWorkers
from ..control.scaling_task import ScalingTask
from ..failures import split
from ..handlers.arrivals import answer_by
from ..handlers.batches import batch_options
from ..handlers.contexts import CleanContext
from ..handlers.dead_letters import DeadLetterFile
from ..handlers.keeping import Keeper
from ..handlers.kinds import Handler
from ..handlers.lives import Lives, open_handler
from ..handlers.prepared import prepared
from ..logs import log_event
from ..settings import Settings
from ..ticks import MarketData
from ..uninterrupted import uninterrupted
from .batch_work import BatchWork
from .crew import Crew, Work
from .hangs import HangWatch
from .loop_work import LoopWork
from .outcomes import PoolOutcomes
from .outlet import KeepingRunner
from .runners import LoopRunner, ThreadRunner
from .worker import Worker

__all__ = ["WorkerPool"]

logger = logging.getLogger("trio_ticks.workers")

T = TypeVar("T", bound=MarketData)


@uninterrupted
class WorkerPool(Generic[T]):
    """Runs a handler over what a channel delivers."""

    def __init__(
        self,
        receive: TickReceiveChannel[T],
        handler: Handler[T],
        settings: Settings,
        keeper: Keeper | None = None,
    ) -> None:
        self._receive = receive
        self._settings = settings
        state = receive.state
        self.ledger = state.ledger
        self.statistics = state.statistics
        self.crew: Crew[T] = Crew(state, handler, settings)
        """What the workers share."""
        self.place = self.crew.place
        self.busy_s = self.crew.roster.busy_s
        self.life_s = self.crew.roster.life_s
        self._nursery: trio.Nursery | None = None
        self._context = copy_context()
        """In which workers begin: with what was set before the pipeline was opened."""
        self._shared: Any = None
        """The entered handler, if all workers share one."""
        self._keeper = keeper
        """Who tells that handler of its symbols, if it wants to know."""
        in_thread = self.place == "thread"
        shared = keeper is not None
        self._lives = (
            None if self.place == "process" else Lives(handler, in_thread=in_thread, shared=shared)
        )
        self._hangs: HangWatch[T] | None = None
        self._threads: ThreadRunner[T] | None = None
        """Whose threads end with their workers; ``None`` without threads."""
        self._work = self.crew.work = self._make_work(handler)
        state.attach(self.crew)
        size = settings.pool_size
        if self.place == "process" and self.crew.ordered and isinstance(size, AutoWorkers):
            # A symbol stays with its process, so a process started later would get only
            # symbols that have not come yet. Start as many as there are cores.
            size = max(size.minimum, min(size.maximum, math.ceil(usable_cores())))
            text = "%d processes, since symbols stay with theirs: as many as cores may be used"
            log_event(logger, logging.INFO, "pool.size", text, size, workers=size)
        self.scaling = (
            ScalingTask(size, self, now=state.now) if isinstance(size, AutoWorkers) else None
        )
        """Sizes the pool; ``None`` if its size is fixed."""
        for _ in range(size.minimum if isinstance(size, AutoWorkers) else size):
            self._hire()
        roster = self.crew.roster
        self.ledger.attach_pool(
            consumed=roster.consumed, failed=roster.failed, in_flight=roster.in_flight
        )

    def _make_work(self, handler: Handler[T]) -> Work[T]:
        crew, settings, options = self.crew, self._settings, batch_options(handler)
        if self.place == "loop":
            if options is None:
                return LoopWork(crew)
            return BatchWork(crew, LoopRunner[T](crew.state.now), options)
        if self.place == "process":
            from .processes.work import ProcessWork  # needs an extra

            return ProcessWork(crew, handler, options)
        threads = ThreadRunner[T](crew.state, whole=options is not None)
        crew.pause, self._threads = threads.pause, threads
        if settings.handler_timeout is not None:
            self._hangs = HangWatch(crew, settings.handler_timeout)
        if crew.outlet is not None:
            return BatchWork(crew, KeepingRunner(threads, crew.outlet, crew.state.now), options)
        return BatchWork(crew, threads, options)

    async def run(self) -> None:
        """Run the workers until the channel has ended and is drained.

        Owns and closes the receive channel.

        Raises:
            BaseExceptionGroup: of what ``on_error`` raised, what a handler raised that
                is no ``Exception``, or what kept it from being made.

        Cancellation: ticks in flight and ticks still queued are counted as dropped at
        shutdown.
        """
        self._warn_of_virtual_clock()
        ours: BaseExceptionGroup[BaseException] | None = None
        # Not "async with": its checkpoint would raise Cancelled instead of what a
        # worker raised.
        with self._receive:
            try:
                async with AsyncExitStack() as stack:
                    on_error = self._settings.on_error
                    if isinstance(on_error, DeadLetterFile):
                        on_error.use_clock(self.crew.state.clock)
                        # Not in a thread with a virtual clock: it would jump meanwhile.
                        in_thread = not self.crew.state.clock.is_virtual
                        await stack.enter_async_context(open_handler(on_error, in_thread=in_thread))
                    if self.crew.outlet is not None:
                        self.crew.outlet.results = await stack.enter_async_context(
                            open_handler(self.crew.outlet.results)
                        )
                    if self._lives is not None and not self._lives.per_worker:
                        self._shared = await stack.enter_async_context(self._lives.open())
                        if self._keeper is not None:
                            self._keeper.opened(self._shared)
                    try:
                        await self._run_workers()
                    except BaseExceptionGroup as group:
                        ours = group
                        raise
            except BaseException as error:
                if split(error)[0] is not None:
                    raise
                if ours is not None and error is ours:
                    if self._lives is None or self._lives.error is None or len(ours.exceptions) > 1:
                        raise
                    # If a worker raised a group and others were cancelled, the nursery
                    # raises a copy of it: use the original.
                    error = self._lives.error
                # The handler raised when it was entered or left. Put it into a group,
                # as the nursery does with what workers raise.
                raise BaseExceptionGroup("the handler's life", [error]) from None

    def _warn_of_virtual_clock(self) -> None:
        """Warn if handlers run where a virtual clock does not wait for them."""
        if self.place == "loop" or not self.crew.state.clock.is_virtual:
            return
        where = "threads" if self.place == "thread" else "processes"
        log_event(
            logger,
            logging.WARNING,
            "clock.virtual",
            "the handler runs in %s, and a virtual clock does not wait for those: it jumps ahead "
            "while they work, so lags, ages and drops differ from run to run. Make the handler "
            "an async def",
            where,
            where=where,
        )

    async def _run_workers(self) -> None:
        self._context = copy_context()
        async with trio.open_nursery() as self._nursery:
            if self._threads is not None:
                self._threads.nursery = self._nursery
            self._nursery.start_soon(self._work.attend, self._receive)
            if self._hangs is not None:
                self._nursery.start_soon(self._hangs.run)
            if self.crew.outlet is not None:
                self._nursery.start_soon(self.crew.outlet.run)
            if self.scaling is not None:
                self._nursery.start_soon(self.scaling.run)
            for worker in self.crew.workers:
                self._start(worker)

    @property
    def is_held(self) -> bool:
        """Whether the pool is paused."""
        return self.crew.gate.closed

    @property
    def size(self) -> int:
        """How many workers there are, without those that are to leave."""
        return self.crew.roster.size

    def grow(self, count: int) -> None:
        """Have *count* more workers, unless all have ended.

        Workers that were dismissed and have not left yet are taken back first. Were
        others hired beside them, a pool that is resized faster than its workers begin
        and end would have ever more of them.
        """
        if not self.size:
            return
        for _ in range(count - self.crew.roster.take_back(count)):
            worker = self._hire()
            if self._nursery is not None:
                self._start(worker)

    def shrink(self, count: int) -> None:
        """Let *count* workers go, idle ones first; one worker always stays.

        Each ends as soon as it has handled the ticks that it holds.
        """
        staying = [worker for worker in self.crew.workers if not (worker.leaving or worker.ended)]
        # Idle workers last, the youngest at the end. Older ones stay, so that the
        # metrics keep their names.
        staying.sort(key=lambda worker: worker.idle)
        for worker in staying[max(1, len(staying) - count) :]:
            worker.leaving = True
        self.crew.interrupt()

    def resize(self, count: int) -> None:
        """Hire or dismiss until *count* workers take ticks; at least one stays."""
        size = self.size
        if count > size:
            self.grow(count - size)
        elif count < size:
            self.shrink(size - count)

    @property
    def outcomes(self) -> PoolOutcomes[T]:
        """Lists unfinished ticks and withdraws queued ones, for a buffer's source."""
        return PoolOutcomes(self.crew)

    def _hire(self) -> Worker[T]:
        worker = self.crew.roster.add()
        # It counts as idle until its handler, or its process, is ready.
        worker.rest()
        return worker

    def _start(self, worker: Worker[T]) -> None:
        assert self._nursery is not None
        # In the pool's context, since a handler may call for more workers.
        self._context.run(
            partial(self._nursery.start_soon, name=f"trio_ticks {worker.name}"),
            self._run_worker,
            worker,
            self._receive.clone(),
        )

    async def _run_worker(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        shared = self._shared
        with receive:
            try:
                if worker.leaving and not self.crew.roster.is_last(worker):
                    return  # it was hired and dismissed before it began
                async with AsyncExitStack() as stack:
                    if self._lives is not None and self._lives.per_worker:
                        shared = await stack.enter_async_context(self._lives.open())
                    if shared is not None:
                        worker.handler = prepared(
                            shared,
                            self._settings,
                            in_loop=self.place == "loop",
                            hooks=self.crew.hooks(worker),
                        )
                        if self.crew.outlet is not None:
                            worker.handler = self.crew.outlet.around(
                                worker.handler,
                                worker,
                                in_loop=self.place == "loop",
                                whole=self.crew.batched,
                            )
                    worker.resume()
                    answer_by(partial(self.crew.arrival, worker))
                    worker.clean = CleanContext()
                    while True:
                        worker.working = self._work.work(worker, receive)
                        await worker.clean.run(worker.working)
                        worker.parting = worker.leaving
                        last = worker.leaving and self.crew.roster.is_last(worker)
                        if not (last and self.ledger.queued):
                            break
                        # At the end of the channel, the others end once they find
                        # nothing to take: what is parked behind the tick that this one
                        # had in hand is left to it.
                        worker.leaving = worker.parting = False
            except BaseExceptionGroup as group:
                # We cancelled the handler, and a task in a nursery of its own failed to
                # clean up. Log that, and end by the cancellation.
                cancelled, errors = group.split(trio.Cancelled)
                if cancelled is None or not isinstance(errors, Exception):
                    raise
                symbol = "?" if worker.current is None else worker.current.symbol
                self.crew.log_error("handler.failed", symbol, errors)
                raise cancelled from None
            finally:
                self._end(worker)

    def _end(self, worker: Worker[T]) -> None:
        worker.end()
        if self._threads is not None:
            self._threads.dismiss(worker)
        if all(worker.ended for worker in self.crew.workers):
            self._work.stop()
            if self._hangs is not None:
                self._hangs.stop()
            if self.crew.outlet is not None:
                self.crew.outlet.stop()
            if self.scaling is not None:
                self.scaling.stop()
        lost, drops = worker.in_flight, self.crew.state.drops
        if lost and drops.gives_back:
            drops.left += worker.held
            drops.left += [] if worker.current is None else [worker.current]
            self.ledger.delivered -= lost
            self.ledger.given_back += lost
        elif lost:
            self.ledger.in_pool.add("shutdown", lost)
            drops.log(lost, "shutdown")
        worker.current, worker.held = None, []
        if worker.leaving:
            self.crew.roster.remove(worker)
            self.crew.keep_one_free(worker)
