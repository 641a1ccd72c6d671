"""How a worker with a process takes its ticks: of the symbols that are at home there, in batches, run there, settled like any other.

Rules: with order, a symbol's ticks go to one process and its successors, and one task puts them into the lanes as they come. What a
process that ended had handled counts as handled, what it was in is charged to its end, what it had not begun stays with the worker, for
the successor; progress.py knows which is which.
"""

from __future__ import annotations

import itertools
import logging
import math
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from .channel import TickReceiveChannel
from .errors import HandlerTimeoutError, WorkerCrashedError
from .executors import Batch
from .failures import log_second, split
from .freshness import AgeMeter
from .gaps import Gap
from .handling import BatchOptions, is_async
from .homes import Home, HomedLanes
from .processes import Overdue, WorkerProcess, packed, rebuilt
from .ticks import MarketData
from .wire import ItemEncoder, Reply
from .work_batches import BatchWork
from .worker import Worker

if TYPE_CHECKING:
    from .workers import WorkerPool

__all__ = ["ProcessRunner", "ProcessWork"]

logger = logging.getLogger("trio_ticks.workers")

T = TypeVar("T", bound=MarketData)

_BATCH_S = (0.01, 0.02)
"""How much work a process is given at once, in seconds of handler time, where so much waits: at least, and at most."""
_HAND_OVERS = 25
"""Between these bounds it is so many times what handing it over takes."""
_SHARE = 8
"""A handling is found to take too long at most one in so many of ``handler_timeout`` late,"""
_LOOK_S = 0.01
"""but nobody looks more often than this, in seconds."""
_ASYNC_GRACE_S = 0.5
"""How much later than its own limit an async handler's process is killed: it blocks its loop, or will not be cancelled."""


class ProcessRunner(Generic[T]):
    """Runs batches in the processes of the workers that bring them."""

    calls_back = False

    def __init__(self, pool: WorkerPool[T], set_up: bytes, *, whole: bool, in_loop: bool) -> None:
        self._pool = pool
        self._set_up = set_up
        self._whole = whole
        self._in_loop = in_loop
        self._now = trio.lowlevel.current_clock().current_time
        self._encoder = ItemEncoder()
        self._numbers = itertools.count(1)
        self._processes: dict[Worker[Any], WorkerProcess] = {}
        self._tried: dict[Worker[Any], Any] = {}
        """What a worker's process was in when it crashed; it may be tried again once."""
        self._failed = False
        self.cpu_s = 0.0
        """Processor time that the batches took in their processes, in seconds."""

    @asynccontextmanager
    async def process_for(self, worker: Worker[T]) -> AsyncIterator[None]:
        """Have a process for *worker* for as long as the block lasts; see :meth:`WorkerProcess.opened`."""
        process = WorkerProcess(worker.name, self._set_up, self._count_restart, self._log_crash)
        body: BaseException | None = None
        try:
            async with process.opened():
                self._processes[worker] = process
                try:
                    yield
                except BaseException as error:
                    body = error
                    raise
                finally:
                    del self._processes[worker]
                    self._tried.pop(worker, None)
        except Exception as error:
            if error is not body and split(error)[0] is None:
                # What keeps one process from being made ready keeps all of them: the first is raised, the rest are logged.
                if self._failed:
                    log_second(error)
                    await trio.sleep_forever()  # noqa: ASYNC120  # until the first one cancels us, at once
                self._failed = True
            raise

    def _count_restart(self) -> None:
        self._pool.restarts += 1

    def _log_crash(self, name: str, crash: Exception) -> None:
        self._pool.state.log_error("process.crashed", name, crash)

    async def ready(self, worker: Worker[Any]) -> None:
        """Have *worker*'s process replaced, should it have ended."""
        await self._processes[worker].ready()

    def pid_of(self, worker: Worker[Any]) -> int | None:
        """Return the number of *worker*'s process; of the last one, while it is being replaced."""
        return self._processes[worker].pid

    async def run(self, worker: Worker[Any], batch: Batch[T]) -> None:
        """Run *batch* in *worker*'s process, until its end, its first failure, or the end of the process.

        Cancellation: the process is killed. *batch* holds what was done until then.
        """
        await self._run(worker, batch, self._pool.state.ages)

    async def tell(self, worker: Worker[Any], gap: Gap) -> None:
        """Hand *gap* to the handler in *worker*'s process, and report what it raises."""
        batch: Batch[Any] = Batch([gap], [self._now()], set())
        while batch.items:
            await self._run(worker, batch, None)
            for _index, error in batch.failures:
                await self._pool.tell_error(worker, gap, error)
            batch.settle()

    async def _run(self, worker: Worker[Any], batch: Batch[T], ages: AgeMeter | None) -> None:
        batch.todo.clear()
        process = self._processes[worker]
        await process.ready()
        batch.sent_at = sent_at = self._now()
        lives_s: list[float] = []
        if ages is not None and not self._whole:
            lives_s = [ages.life_s(item, arrived, sent_at) for item, arrived in zip(batch.items, batch.arrivals, strict=True)]
            if lives_s[0] < 0:
                batch.stale = list(itertools.takewhile(lambda index: lives_s[index] < 0, range(len(lives_s))))
                batch.done = len(batch.stale)
                return
        number = next(self._numbers)
        payload, count, wrong = self._encoder.encode(number, batch.items, lives_s)
        if count:
            try:
                self._take_reply(worker, batch, await process.handle(payload), process.pid)
            except (WorkerCrashedError, Overdue) as end:
                self._charge(worker, batch, process, number, end)
                return
            except BaseException:
                batch.done = process.progress.of(number)[0]
                raise
        if wrong is not None and batch.done == count and not batch.failures:
            batch.failures = [(count, wrong)]
            batch.done += 1

    def _take_reply(self, worker: Worker[Any], batch: Batch[T], reply: Reply, pid: int | None) -> None:
        began = array("d")
        began.frombytes(reply.began)
        # Nobody says that the two clocks show the same, so the way back is taken to be as long as the way there.
        offset = batch.sent_at + (self._now() - batch.sent_at - reply.total_s) / 2
        batch.began_at = [offset + moment for moment in began]
        batch.failures = [(failure.index, rebuilt(failure, pid)) for failure in reply.failures]
        batch.done = reply.done
        worker.retries += reply.retries
        self._pool.timeouts += reply.timeouts
        self.cpu_s += reply.cpu_s

    def _charge(self, worker: Worker[Any], batch: Batch[T], process: WorkerProcess, number: int, end: Exception) -> None:
        """Say what came of the items of a batch whose process has ended. What it had not begun stays, for its successor."""
        done, begun = process.progress.of(number)
        batch.done = done
        if done:
            process.was_of_use()
        if begun <= done:
            return
        settings, error = self._pool.settings, end
        if isinstance(end, Overdue):
            limit = settings.handler_timeout or 0.0
            error = HandlerTimeoutError(f"the handler took longer than {limit:g} s; its process was replaced", timeout_s=limit)
            self._pool.timeouts += 1
        elif settings.on_crash == "retry" and self._tried.get(worker) is not batch.items[done]:
            self._tried[worker] = batch.items[done]
            return
        batch.failures = [(index, error) for index in range(done, begun)]
        batch.done = begun

    async def kill_late_ones(self, timeout_s: float) -> None:
        """Kill processes in which a try takes longer than *timeout_s*."""
        limit_s = timeout_s + (_ASYNC_GRACE_S if self._in_loop else 0.0)
        while True:
            await trio.sleep(max(_LOOK_S, timeout_s / _SHARE))
            for process in self._processes.values():
                process.kill_if_late(self._now(), limit_s)


class ProcessWork(BatchWork[T]):
    """Leases batches for workers that have a process each."""

    _runner: ProcessRunner[T]

    def __init__(self, pool: WorkerPool[T], handler: Any, options: BatchOptions | None) -> None:
        whole = options is not None
        self.runner = ProcessRunner(pool, packed(handler, pool.settings, whole=whole), whole=whole, in_loop=is_async(handler))
        super().__init__(pool, self.runner, options, _BATCH_S[0])
        self._hand_over_s = 0.0
        self._homes: dict[Worker[T], Home] = {}
        self._ended = False
        """Whether no more ticks can come, and all are in the lanes."""
        self._dispatching = False
        self._homed: HomedLanes[T] = HomedLanes()
        if self._ordered:
            self._state.lanes = self._homed

    async def attend(self, receive: TickReceiveChannel[T]) -> None:
        """Do what has to be done beside the workers, until the last of them has ended."""
        with self._watching:
            async with trio.open_nursery() as nursery:
                timeout_s = self._pool.settings.handler_timeout
                if timeout_s is not None:
                    nursery.start_soon(self.runner.kill_late_ones, timeout_s)
                if self._ordered:
                    nursery.start_soon(self._dispatch, receive)
                await trio.sleep_forever()

    async def work(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        """Have a process for *worker*, and work with it."""
        worker.rest()
        home = self._home(worker)
        async with self.runner.process_for(worker):
            worker.resume()
            await super().work(worker, receive)
        self._homed.leave(home)
        del self._homes[worker]

    async def tell(self, worker: Worker[T], gap: Gap) -> None:
        """Hand *gap* to the handler in *worker*'s process."""
        await self.runner.tell(worker, gap)

    def _home(self, worker: Worker[T]) -> Home:
        home = self._homes.get(worker)
        if home is None:
            home = self._homes[worker] = Home()
            self._homed.homes.append(home)
        return home

    # Where its ticks come from, with order

    async def _dispatch(self, receive: TickReceiveChannel[T]) -> None:
        """Put what comes into the lanes: the only one who waits at the channel."""
        buffer, put = self._state.buffer, self._homed.put
        self._state.anyone_free = lambda: self._dispatching
        # Before the first symbol comes, so that it may be at home with any of them.
        for worker in self._pool.workers:
            self._home(worker)
        while True:
            self._dispatching = True
            while buffer:
                item = buffer.take()
                if self._state.gaps.lanes:
                    item = self._state.leave_buffer(item)
                put(item.symbol, item, buffer.arrival())
            self._dispatching = False
            if self._options is not None:
                self._ring()  # whoever gathers a batch counts what has come
            try:
                await receive.wait()
            except trio.EndOfChannel:
                if not buffer:
                    break
        self._ended = True
        self._ring()

    def _ring(self) -> None:
        for home in self._homed.homes:
            home.ring()

    async def _wait(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> bool:
        await self.runner.ready(worker)
        if not self._ordered:
            return await super()._wait(worker, receive)
        home = self._homes[worker]
        while not self._homed.is_ready_at(home):
            if self._ended or worker.leaving:
                return False
            worker.rest()
            try:
                await home.wait()
            finally:
                worker.resume()
        return True

    def _next_free(self, worker: Worker[T], symbols: set[str], lane: str | None) -> tuple[T, float, str | None] | None:
        if not self._ordered:
            return super()._next_free(worker, symbols, lane)
        if lane is not None and (parked := self._homed.take_next(lane)) is not None:
            return *parked, lane
        found = self._homed.take_at(self._homes[worker])
        if found is None:
            return None
        symbol, item, arrived = found
        symbols.add(symbol)
        return item, arrived, symbol

    async def _gather(self, worker: Worker[T], receive: TickReceiveChannel[T], options: BatchOptions) -> None:
        if not self._ordered:
            await super()._gather(worker, receive, options)
            return
        if not await self._wait(worker, receive):
            return
        home = self._homes[worker]
        with trio.CancelScope(deadline=self._waiting_at(home)[1] + options.max_wait):
            while 0 < self._waiting_at(home)[0] < options.max_size and not (self._ended or worker.leaving):
                worker.rest()
                try:
                    await home.wait()
                finally:
                    worker.resume()

    def _waiting_at(self, home: Home) -> tuple[int, float]:
        """Return how many ticks wait for *home*, and when the oldest of them arrived."""
        lanes = [lane for symbol in home.ready if (lane := self._homed.lines[symbol])]
        return sum(map(len, lanes)), min((lane[0][1] for lane in lanes), default=math.inf)

    # How many

    def _lease(self, worker: Worker[T]) -> tuple[Batch[T], list[Gap]]:
        if self._ordered or self._options is not None:
            return super()._lease(worker)
        # What is in a batch cannot be called back: no worker takes what another one could begin at once.
        limit, share = self._limit, -(-self._state.queued // max(1, self._pool.size))
        self._limit = max(1, min(limit, share))
        try:
            return super()._lease(worker)
        finally:
            self._limit = limit

    def _measure(self, batch: Batch[T], done: int) -> None:
        if len(batch.began_at) > 1:
            took_s = max(0.0, self._now() - batch.sent_at - (batch.began_at[-1] - batch.began_at[0]))
            self._hand_over_s += 0.1 * (took_s - self._hand_over_s)
            least, most = _BATCH_S
            self._batch_s = min(most, max(least, _HAND_OVERS * self._hand_over_s))
        super()._measure(batch, done)
