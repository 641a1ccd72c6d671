"""The worker pool: workers on cloned receive channels, their handlers' lives, failures and gaps told, and how many workers there are.

Rules: a tick that a worker holds is in ``current`` or ``held``, and leaves it in the same step in which it is counted. With
``ordering="symbol"`` a symbol is leased in the channel's lanes from before its handler starts until its outcome is settled.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Generic, Protocol, TypeVar

import trio

from .breaker import BreakerState
from .channel import TickReceiveChannel
from .channel_state import ChannelState
from .cores import usable_cores
from .dead_letters import DeadLetterFile
from .errors import HandlerTimeoutError
from .executors import Handler, LoopRunner, ThreadRunner, resolve_executor, takes_gaps
from .failures import split
from .gaps import Gap
from .handling import Hooks, batch_options, prepared
from .hangs import HangWatch
from .lives import Lives, open_handler
from .log_limit import LogLimit
from .scaling import AutoWorkers
from .scaling_task import ScalingTask
from .settings import OnError, OnGap, Ordering, Settings
from .ticks import MarketData
from .work_batches import BatchWork
from .work_loop import LoopWork
from .worker import Meters, Worker

__all__ = ["Meters", "OnError", "OnGap", "Ordering", "Worker", "WorkerPool"]

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=MarketData)


class _Work(Protocol[T]):
    async def work(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None: ...


class WorkerPool(Generic[T]):
    """Runs a handler over what a channel delivers."""

    def __init__(self, receive: TickReceiveChannel[T], handler: Handler[T], settings: Settings) -> None:
        self._receive = receive
        self.state: ChannelState[T] = receive.state
        self.settings = settings
        self.ordered = settings.ordering == "symbol"
        self.place = resolve_executor(settings.executor, handler)
        self._handler = handler
        self._takes_gaps = takes_gaps(handler)
        self.state.tells_gaps = settings.on_gap is not None or self._takes_gaps
        self.breaker = self.state.breaker = None if settings.breaker is None else BreakerState(settings.breaker)
        """Which symbols are set aside; false while none has failed of late."""
        self._log_limit = LogLimit(self.state.now)
        size = settings.pool_size
        if self.place == "process" and self.ordered and isinstance(size, AutoWorkers):
            # A symbol stays with its process: to hire later would help nobody who is there already.
            size = max(size.minimum, min(size.maximum, math.ceil(usable_cores())))
            text = "pool.size: %d processes, since symbols stay with theirs: as many as cores may be used"
            logger.info(text, size, extra={"workers": size})
        self.scaling = ScalingTask(size, self) if isinstance(size, AutoWorkers) else None
        """What sizes the pool, where it sizes itself."""
        self.meters = Meters()
        self.timeouts = 0
        """Handlings that took longer than ``handler_timeout``."""
        self.restarts = 0
        """Workers that were replaced since their process had ended."""
        self._gone_consumed = self._gone_failed = self._gone_retries = 0
        self._gone_busy_s = self._gone_life_s = 0.0
        self._given_back = trio.Event()
        """Set when a batch has ended, or part of it was called back: for workers that would go home."""
        self.resting = 0
        """Workers that wait for ticks."""
        self._nursery: trio.Nursery | None = None
        self._shared: Any = None
        """The handler that all workers share, ready for later hires too."""
        self._lives = None if self.place == "process" else Lives(handler, in_thread=self.place == "thread")
        self._threads: ThreadRunner[T] | None = None
        self._hangs: HangWatch[T] | None = None
        self._tell_remotely: Callable[[Worker[T], Gap], Awaitable[None]] | None = None
        """How a handler in another process is told of a gap."""
        self._work = self._make_work()
        self.workers: list[Worker[T]] = []
        for _ in range(size.minimum if isinstance(size, AutoWorkers) else size):
            self._hire()
        if not isinstance(self._work, LoopWork):  # which takes one at a time
            self.state.reserved = lambda: sum(worker.out_of_queue for worker in self.workers)
        self.state.anyone_free = self._anyone_free
        self.state.ledger.attach_pool(
            consumed=lambda: self._gone_consumed + sum(worker.consumed for worker in self.workers),
            failed=lambda: self._gone_failed + sum(worker.failed for worker in self.workers),
            in_flight=lambda: sum(worker.in_flight for worker in self.workers),
        )

    def _make_work(self) -> _Work[T]:
        options = batch_options(self._handler)
        if self.place == "loop":
            return LoopWork(self) if options is None else BatchWork(self, LoopRunner[T](), options)
        if self.place == "process":
            from .work_processes import ProcessWork  # needs an extra

            work = ProcessWork(self, self._handler, options)
            self._tell_remotely = work.tell
            return work
        size = self.settings.pool_size
        limit = size.maximum if isinstance(size, AutoWorkers) else size
        self._threads = ThreadRunner(limit, self.state.is_stale if self.state.ages else None, whole=options is not None)
        if self.settings.handler_timeout is not None:
            self._hangs = HangWatch(self, self.settings.handler_timeout)
        return BatchWork(self, self._threads, options)

    async def run(self) -> None:
        """Run the workers until the channel has ended and is drained. Owns and closes the receive channel.

        Raises:
            BaseExceptionGroup: of what ``on_error`` raised, what a handler raised that is no ``Exception``, or what kept it from being
                made.

        Cancellation: ticks in flight and ticks still queued are counted as dropped at shutdown.
        """
        ours: BaseExceptionGroup[BaseException] | None = None
        # Not "async with": its checkpoint would put a Cancelled in the place of what a worker raised.
        with self._receive:
            try:
                async with AsyncExitStack() as stack:
                    if isinstance(self.settings.on_error, DeadLetterFile):
                        await stack.enter_async_context(open_handler(self.settings.on_error, in_thread=True))
                    if self._lives is not None and not self._lives.per_worker:
                        self._shared = await stack.enter_async_context(self._lives.open())
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
                    # What a nursery gives back is a copy, if it is a group and others were cancelled.
                    error = self._lives.error
                # What a handler raised on its way in or out: in a group, as what workers raise, whatever it is itself.
                raise BaseExceptionGroup("the handler's life", [error]) from None

    async def _run_workers(self) -> None:
        async with trio.open_nursery() as self._nursery:
            if isinstance(self._work, BatchWork):
                self._nursery.start_soon(self._work.attend, self._receive)
            if self._hangs is not None:
                self._nursery.start_soon(self._hangs.run)
            if self.scaling is not None:
                self._nursery.start_soon(self.scaling.run)
            for worker in self.workers:
                self._start(worker)

    # How many there are

    @property
    def size(self) -> int:
        """How many workers there are; those that are to leave are not counted."""
        return sum(not (worker.leaving or worker.ended) for worker in self.workers)

    def grow(self, count: int) -> None:
        """Hire *count* more workers. Does nothing where all have ended, or none has begun."""
        if self._nursery is not None and self.size:
            for _ in range(count):
                self._start(self._hire())

    def shrink(self, count: int) -> None:
        """Let *count* workers go, but for the last one: each ends as soon as it has done what it holds. Idle ones go first."""
        staying = [worker for worker in self.workers if not (worker.leaving or worker.ended)]
        # Of the idle the youngest: those that stay keep their names, and what they have warmed up.
        staying.sort(key=lambda worker: worker.idle)
        for worker in staying[max(1, len(staying) - count) :]:
            worker.leaving = True
        # A wake-up is nobody's in particular. All of them look around then, which is cheaper than to know who sleeps where.
        self.state.wake_receivers(self.state.sleeping_receivers)
        self.give_back()

    def busy_s(self, now: float) -> float:
        """How long all workers that ever were did not wait for ticks, up to *now*, in seconds."""
        return self._gone_busy_s + sum(worker.busy_s(now) for worker in self.workers)

    def life_s(self, now: float) -> float:
        """How long all workers that ever were have been there, up to *now*, in seconds."""
        return self._gone_life_s + sum(worker.life_s(now) for worker in self.workers)

    def _hire(self) -> Worker[T]:
        taken = {worker.name for worker in self.workers}
        # The lowest free number: where the pool shrinks and grows, whoever keeps a row by name would never be done.
        name = next(name for name in (f"{self.place}-{number}" for number in itertools.count(1)) if name not in taken)
        worker: Worker[T] = Worker(name)
        # It is no help until its handler, or its process, is ready.
        worker.rest()
        self.workers.append(worker)
        return worker

    def _start(self, worker: Worker[T]) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._run_worker, worker, self._receive.clone(), name=f"trio_ticks {worker.name}")

    async def _run_worker(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        shared = self._shared
        with receive:
            try:
                async with AsyncExitStack() as stack:
                    if self._lives is not None and self._lives.per_worker:
                        shared = await stack.enter_async_context(self._lives.open())
                    if shared is not None:
                        worker.handler = prepared(shared, self.settings, in_loop=self.place == "loop", hooks=self._hooks(worker))
                    worker.resume()
                    await self._work.work(worker, receive)
            except BaseExceptionGroup as group:
                # A handler's own nursery, cancelled by us, where one of its tasks failed to clean up: no reason to end by an error.
                cancelled, errors = group.split(trio.Cancelled)
                if cancelled is None or not isinstance(errors, Exception):
                    raise
                symbol = "?" if worker.current is None else worker.current.symbol
                self.state.log_error("handler.failed", symbol, errors)
                raise cancelled from None
            finally:
                self._end(worker)

    def _end(self, worker: Worker[T]) -> None:
        worker.end()
        if all(worker.ended for worker in self.workers):
            if isinstance(self._work, BatchWork):
                self._work.stop_watching()
            if self._hangs is not None:
                self._hangs.stop()
            if self.scaling is not None:
                self.scaling.stop()
        lost = worker.in_flight
        worker.current, worker.held = None, []
        if lost:
            self.state.ledger.in_pool.shutdown += lost
            self.state.log_drop(lost, "shutdown")
        if worker.leaving:
            self.workers.remove(worker)
            self._gone_consumed += worker.consumed
            self._gone_failed += worker.failed
            self._gone_retries += worker.retries
            self._gone_busy_s += worker.busy_s(math.inf)
            self._gone_life_s += worker.life_s(math.inf)
            self.keep_one_free(worker)

    # For the workers

    @property
    def retries(self) -> int:
        """Further tries of handlers that raised."""
        return self._gone_retries + sum(worker.retries for worker in self.workers)

    def _hooks(self, worker: Worker[T]) -> Hooks:
        if self._threads is None:
            return Hooks(on_timeout=self._timed_out, on_retry=worker.retried)
        return Hooks(on_retry=worker.retried, pause=functools.partial(self._threads.pause, worker))

    def _timed_out(self, held: T | list[T], cut_off: bool) -> None:
        """Count a handling in the loop that took too long."""
        self.timeouts += 1
        if not cut_off:
            first = held[0] if isinstance(held, list) else held
            limit = self.settings.handler_timeout or 0.0
            error = HandlerTimeoutError("the handler took too long, and could not be cut off", timeout_s=limit)
            self.state.log_error("handler.overran", first.symbol, error)

    async def next_ticks(self, worker: Worker[T], receive: TickReceiveChannel[T], scope: trio.CancelScope | None = None) -> bool:
        """Wait for ticks; False when no more can come, or *worker* is to leave.

        *scope* is for workers that begin with a tick as soon as they have it: they may read a socket, and be called off by it.
        """
        if worker.leaving:
            return False
        worker.rest()
        self.resting += 1
        try:
            await (receive.wait() if scope is None else receive.wait_or_read(scope))
        except trio.EndOfChannel:
            # Another worker may have been woken for the last ticks and have ended before it took them; or hold more than it gets to.
            while not (self.state.buffer or self.state.lanes.ready):
                if worker.leaving or not any(other.batch is not None for other in self.workers):
                    return False
                await self._given_back.wait()
        finally:
            self.resting -= 1
            worker.resume()
        return True

    def _anyone_free(self) -> bool:
        # The first look is for when ticks come one by one, and a pool of many is asked each time.
        return self.resting < len(self.workers) and any(worker.free for worker in self.workers)

    def give_back(self) -> None:
        """Say that a batch has ended, or part of it was called back."""
        given_back, self._given_back = self._given_back, trio.Event()
        given_back.set()

    def keep_one_free(self, worker: Worker[T]) -> None:
        """See to it that somebody comes for what is left, should the handler of *worker* wait: each that is called calls the next."""
        state = self.state
        if state.sleeping_receivers and not state.coming and (len(state.buffer) or state.lanes.ready):
            for other in self.workers:
                if other is not worker and other.free:
                    return
            state.wake_receivers(1)

    async def report(self, worker: Worker[T], item: MarketData, error: Exception) -> None:
        """Note that *worker* failed with *item*, and tell of it."""
        if self.breaker is not None:
            self.note(item.symbol, failed=True)
        await self.tell_error(worker, item, error)

    async def tell_error(self, worker: Worker[T], item: MarketData, error: Exception) -> None:
        """Tell ``on_error``; without one, log at most once a second."""
        if self.settings.on_error is None:
            self.state.log_error("handler.failed", item.symbol, error)
            return
        worker.away = True
        try:
            result = self.settings.on_error(item, error)
            if inspect.isawaitable(result):
                await result
        finally:
            worker.away = False

    @property
    def symbols_set_aside(self) -> int:
        """How many symbols the breaker has set aside, or are to be tried again."""
        return 0 if self.breaker is None else len(self.breaker.set_aside)

    def note(self, symbol: str, *, failed: bool) -> None:
        """Tell the breaker what came of a handling of *symbol*. Where all are well, successes need not be told."""
        assert self.breaker is not None
        now = self.state.now()
        if failed and self.breaker.failed(symbol, now):
            if times := self._log_limit.due("set_aside"):
                text, facts = "breaker.set_aside: %d times, the last %s, after failures in a row: %r", {"symbol": symbol, "times": times}
                logger.warning(text, times, symbol, self.settings.breaker, extra=facts)
        elif not failed and self.breaker.succeeded(symbol) and (times := self._log_limit.due("well")):
            logger.info("breaker.well: %d times, the last %s", times, symbol, extra={"symbol": symbol, "times": times})
        self.breaker.forget(now)
        self.state.look()

    async def told(self, worker: Worker[T], item: T) -> T | None:
        """Tell the gap before *item*, which the worker holds meanwhile; return the item, or ``None`` where it is held back."""
        plain, gap = self.state.inspect(item)
        if plain is not None and gap is not None:
            worker.current = plain
            self.state.ledger.delivered += 1
            await self.tell(worker, gap)
            self.state.ledger.delivered -= 1
            worker.current = None
        return plain

    async def tell(self, worker: Worker[T], gap: Gap) -> None:
        """Tell the strategy of *gap*: through ``on_gap``, or in-band where its handler takes gaps."""
        if self.settings.on_gap is not None:
            result = self.settings.on_gap(gap)
            if inspect.isawaitable(result):
                await result
        elif self._takes_gaps:
            try:
                # A batch handler gets it as a batch of its own.
                told = gap if batch_options(self._handler) is None else [gap]
                if self.place == "loop":
                    await worker.handler(told)
                elif self._tell_remotely is not None:
                    await self._tell_remotely(worker, gap)
                else:
                    await trio.to_thread.run_sync(worker.handler, told, abandon_on_cancel=True)
            except Exception as error:
                await self.tell_error(worker, gap, error)
