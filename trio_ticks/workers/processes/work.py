"""How a worker with a process takes its ticks: in batches, of symbols at home there.

Plan: with order, a handler may keep state for each symbol, so all ticks of a symbol go
to one process and its successors. One task alone (:meth:`ProcessWork._dispatch`)
receives from the channel and puts each tick into the lane of its symbol, from where the
worker that is the symbol's home takes it. Without order, workers take batches from the
channel as threads do.

Rules: if a process ends, ``progress.py`` tells three kinds of items apart.

- Items that it had handled count as handled.
- The item that it was in fails by :class:`WorkerCrashedError`, or is tried once more
  (``on_crash="retry"``).
- Items that it had not begun stay with the worker, for the next process.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, TypeVar

import trio

from ...channel.ends import TickReceiveChannel
from ...channel.freshness import AgeMeter
from ...channel.homes import Home, HomedLanes
from ...control.cores import usable_cores
from ...errors import HandlerTimeoutError, WorkerCrashedError
from ...failures import log_second, split
from ...gaps import Gap
from ...handlers.batches import BatchOptions
from ...handlers.kinds import is_async
from ...ticks import MarketData
from ...uninterrupted import uninterrupted
from ...wire import ItemDecoder
from ..batch import Batch
from ..batch_work import BatchWork
from ..crew import Crew
from ..leases import ProcessLeases, Take
from ..outlet import KeepingRunner
from ..runners import Runner
from ..worker import Worker
from .jobs import JobEncoder, Reply
from .parent import Overdue, WorkerProcess, packed, rebuilt

__all__ = ["ProcessRunner", "ProcessWork"]


T = TypeVar("T", bound=MarketData)

_SHARE = 8
"""Poll eight times per ``handler_timeout``: a late try is found an eighth late."""
_CHECK_S = 0.01
"""The shortest time between two polls, in seconds."""
_FEWEST_STARTS = 2
"""At least this many processes may be started at once, and one for each core.

To start one keeps a core busy for about a second. More of them at once would be ready
no sooner, and take the cores from the processes that handle ticks."""
_ASYNC_GRACE_S = 0.5
"""An async handler's process is killed this much after its limit, in seconds.

At the limit the handler is cancelled in its loop. Kill only if that does not help: it
blocks its loop, or suppresses its cancellation."""


@uninterrupted
class ProcessRunner(Generic[T]):
    """Runs batches in the processes of the workers that bring them."""

    calls_back = False

    def __init__(self, crew: Crew[T], set_up: bytes, *, whole: bool, in_loop: bool) -> None:
        self._crew = crew
        self._set_up = set_up
        self._whole = whole
        self._in_loop = in_loop
        self._now = crew.state.now
        self._encoder = JobEncoder()
        self._decoder = ItemDecoder()
        self._numbers = itertools.count(1)
        self._processes: dict[Worker[Any], WorkerProcess] = {}
        self._starts = trio.CapacityLimiter(max(_FEWEST_STARTS, math.ceil(usable_cores())))
        self._tried: dict[Worker[Any], Any] = {}
        """The item that a worker's process was in when it crashed, tried once."""
        self._failed = False
        """Whether a process could not be made ready: only the first error is raised."""
        self.cpu_s = 0.0
        """Processor time that the batches took in their processes, in seconds."""

    @asynccontextmanager
    async def process_for(self, worker: Worker[T]) -> AsyncIterator[None]:
        """Keep a process for *worker* while the block lasts.

        There is none if *worker* was dismissed before its process was started.

        Raises:
            Exception: as :meth:`WorkerProcess.opened`.

        Cancellation: as :meth:`WorkerProcess.opened`.
        """
        process = self._processes[worker] = self._process(worker)
        body: BaseException | None = None
        try:
            async with process.opened():
                try:
                    yield
                except BaseException as error:
                    body = error
                    raise
        except Exception as error:
            if error is not body and split(error)[0] is None:
                # The same error may keep every process from being made ready. Raise the
                # first and log the rest, or the user would get a group of equal errors.
                if self._failed:
                    log_second(error)
                    # Until the first error cancels this task, which is at once.
                    await trio.sleep_forever()  # noqa: ASYNC120
                self._failed = True
            raise
        finally:
            del self._processes[worker]
            self._tried.pop(worker, None)

    def _process(self, worker: Worker[T]) -> WorkerProcess:
        return WorkerProcess(
            worker.name,
            self._set_up,
            self._starts,
            # Whoever holds ticks finishes them, in another process if need be.
            is_wanted=lambda: not worker.leaving or worker.batch is not None,
            on_restart=self._count_restart,
            on_crash=self._log_crash,
        )

    def call_off_starts(self) -> None:
        """Have workers that are to leave wait no longer for their process."""
        for process in self._processes.values():
            process.call_off_start()

    def _count_restart(self) -> None:
        self._crew.restarts += 1

    def _log_crash(self, name: str, crash: Exception) -> None:
        self._crew.log_error("process.crashed", name, crash)

    async def ready(self, worker: Worker[Any]) -> None:
        """Wait until *worker*'s process is ready; replace it if it has ended.

        A worker that is to leave, and holds no ticks, is given none.

        Raises:
            Exception: as :meth:`WorkerProcess.ready`.

        Cancellation: as :meth:`WorkerProcess.ready`.
        """
        await self._processes[worker].ready()

    async def run(self, worker: Worker[Any], batch: Batch[T]) -> None:
        """Run *batch* in *worker*'s process.

        It runs until its end, its first failure or stale item, or the end of the
        process.

        Cancellation: the process is killed. *batch* holds what was done until then.
        """
        await self._run(worker, batch, self._crew.state.ages)

    async def announce_gap(self, worker: Worker[Any], gap: Gap | list[Gap]) -> None:
        """Hand *gap* to the handler in *worker*'s process, and raise what it raises.

        Cancellation: the process is killed.
        """
        # For a batch handler the child makes a batch of it.
        gap = gap[0] if isinstance(gap, list) else gap
        behind = None if worker.batch is None else worker.batch.arrivals
        arrived = behind[0] if behind else self._now()
        batch: Batch[Any] = Batch([gap], [arrived], {}, calls_back=False)
        while batch.items:
            await self._run(worker, batch, None)
            failures = batch.failures
            batch.settle()
            for _index, error in failures:
                raise error

    async def _run(self, worker: Worker[Any], batch: Batch[T], ages: AgeMeter | None) -> None:
        process = self._processes[worker]
        await process.ready()
        batch.sent_at = sent_at = self._now()
        lives_s: list[float] = []
        if ages is not None and not self._whole:
            lives_s = [
                ages.life_s(item, arrived, sent_at)
                for item, arrived in zip(batch.items, batch.arrivals, strict=True)
            ]
            if lives_s[0] < 0:
                batch.stale = list(
                    itertools.takewhile(lambda index: lives_s[index] < 0, range(len(lives_s)))
                )
                batch.done = len(batch.stale)
                return
        number = next(self._numbers)
        payload, count, wrong = self._encoder.encode(
            number, batch.items, lives_s, batch.arrivals, self._crew.state.clock.offset_s
        )
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

    def _take_reply(
        self, worker: Worker[Any], batch: Batch[T], reply: Reply, pid: int | None
    ) -> None:
        began = array("d")
        began.frombytes(reply.began)
        # The clocks of two processes need not agree. Assume that the way back took as
        # long as the way there, and shift the child's times accordingly.
        offset = batch.sent_at + (self._now() - batch.sent_at - reply.total_s) / 2
        batch.began_at = [offset + moment for moment in began]
        if reply.broken:
            # One error for all of them: it is told of once, and raised once.
            batch.broken = rebuilt(reply.failures[0], pid)
            batch.failures = [(failure.index, batch.broken) for failure in reply.failures]
        else:
            batch.failures = [(failure.index, rebuilt(failure, pid)) for failure in reply.failures]
        batch.done = reply.done
        for index, written in reply.values:
            values, wrong = self._decoder.decode(written)
            if wrong is None:
                batch.values.append((batch.items[index], values[0]))
            else:
                batch.failures = sorted([*batch.failures, (index, wrong)], key=lambda each: each[0])
        worker.retries += reply.retries
        self._crew.timeouts += reply.timeouts
        self.cpu_s += reply.cpu_s

    def _charge(
        self,
        worker: Worker[Any],
        batch: Batch[T],
        process: WorkerProcess,
        number: int,
        end: Exception,
    ) -> None:
        """Record the outcomes of a batch whose process has ended by *end*.

        Items that were not begun stay in the batch, for the next process.
        """
        done, begun = process.progress.of(number)
        batch.done = done
        if done:
            process.was_of_use()
        if self._crew.outlet is not None:
            lost = WorkerCrashedError(
                f"{worker.name} had handled it, and ended before its result was here",
                exitcode=getattr(end, "exitcode", None),
            )
            batch.failures = [(index, lost) for index in range(done)]
        if begun <= done:
            return
        settings, error = self._crew.settings, end
        if isinstance(end, Overdue):
            limit = settings.handler_timeout or 0.0
            error = HandlerTimeoutError(
                f"the handler took longer than {limit:g} s; its process was replaced",
                timeout_s=limit,
            )
            self._crew.timeouts += 1
        elif settings.on_crash == "retry" and self._tried.get(worker) is not batch.items[done]:
            self._tried[worker] = batch.items[done]
            return
        batch.failures += [(index, error) for index in range(done, begun)]
        batch.done = begun

    def owes(self, worker: Worker[Any], batch: Batch[T]) -> bool:
        """Tell whether *batch* begins with an item that *worker* is to try again."""
        return self._tried.get(worker) is batch.items[0]

    async def kill_late_ones(self, timeout_s: float) -> None:
        """Kill each process in which a try takes longer than *timeout_s*.

        Never returns.

        Cancellation: no more processes are killed.
        """
        limit_s = timeout_s + (_ASYNC_GRACE_S if self._in_loop else 0.0)
        while True:
            await trio.sleep(max(_CHECK_S, timeout_s / _SHARE))
            for process in self._processes.values():
                process.kill_if_late(self._now(), limit_s)


@uninterrupted
class ProcessWork(BatchWork[T]):
    """Leases batches for workers that have a process each."""

    def __init__(self, crew: Crew[T], handler: Any, options: BatchOptions | None) -> None:
        whole = options is not None
        self.runner = ProcessRunner(
            crew,
            packed(handler, crew.settings, whole=whole),
            whole=whole,
            in_loop=is_async(handler),
        )
        runner: Runner[T] = self.runner
        if crew.outlet is not None:
            runner = KeepingRunner(runner, crew.outlet, crew.state.now)
        leases = ProcessLeases[T](
            crew.state,
            ordered=crew.ordered,
            fixed=None if options is None else options.max_size,
        )
        super().__init__(crew, runner, options, leases)
        self.interrupt = self._interrupt
        self._owes = self.runner.owes
        self._homes: dict[Worker[T], Home] = {}
        self._ended = False
        """Whether no more ticks can come, and all are in the lanes."""
        self._dispatching = False
        """Whether :meth:`_dispatch` is moving ticks, so that it need not be woken."""
        self._homed: HomedLanes[T] = HomedLanes()
        if self._ordered:
            crew.lanes = self._homed
            # Only the dispatching task waits at the channel, whatever the workers do.
            crew.anyone_free = lambda: self._dispatching

    async def attend(self, receive: TickReceiveChannel[T]) -> None:
        """Watch for late tries and dispatch ticks, until the last worker has ended.

        Cancellation: no more ticks are dispatched; they stay in the channel.
        """
        with self._watching:
            async with trio.open_nursery() as nursery:
                timeout_s = self._crew.settings.handler_timeout
                if timeout_s is not None:
                    nursery.start_soon(self.runner.kill_late_ones, timeout_s)
                if self._ordered:
                    nursery.start_soon(self._dispatch, receive)
                await trio.sleep_forever()

    async def work(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        """Keep a process for *worker*, and handle ticks in it.

        Raises:
            Exception: as :meth:`WorkerProcess.opened`.

        Cancellation: as :meth:`WorkerProcess.opened`.
        """
        worker.rest()
        home = self._home(worker)
        async with self.runner.process_for(worker):
            worker.resume()
            await super().work(worker, receive)
            while self._must_stay(worker, home):
                await super().work(worker, receive)
            # To end its process takes a while, in which it cannot be taken back.
            worker.parting = worker.leaving
            if not worker.leaving:
                # No more ticks come: whoever is leaving now must not leave any here.
                self._homed.leave(home)
        if worker.parting:
            if self._must_stay(worker, home):
                # The others ended while its process did.
                await self.work(worker, receive)
                return
            self._homed.leave(home)
        del self._homes[worker]

    def _must_stay(self, worker: Worker[T], home: Home) -> bool:
        """Let *worker* stay if it is to leave, but ticks are left to it alone.

        At the end of the channel, the others end once nothing waits at their homes.
        """
        if not (worker.leaving and self._homed.is_only(home) and self._homed.is_ready_at(home)):
            return False
        worker.leaving = worker.parting = False
        return True

    async def announce_gap(self, worker: Worker[T], gap: Gap | list[Gap]) -> None:
        """Hand *gap* to the handler in *worker*'s process, and raise what it raises.

        Cancellation: the process is killed.
        """
        await self.runner.announce_gap(worker, gap)

    def _home(self, worker: Worker[T]) -> Home:
        home = self._homes.get(worker)
        if home is None:
            home = self._homes[worker] = Home()
            self._homed.homes.append(home)
        return home

    # Where a worker's ticks come from, with order

    async def _dispatch(self, receive: TickReceiveChannel[T]) -> None:
        """Put each tick into its lane; no other task waits at the channel."""
        buffer, taking = self._state.buffer, self._state.taking
        # Before the first tick: every worker must be there to be chosen as a home.
        for worker in self._crew.workers:
            self._home(worker)
        while True:
            self._dispatching = True
            self._homed.take_in(buffer, taking)
            self._dispatching = False
            if self._options is not None:
                self._ring()  # workers that gather a batch count the ticks at their home
            try:
                await receive.wait()
            except trio.EndOfChannel:
                if not buffer:
                    break
        self._ended = True
        self._ring()

    def _interrupt(self) -> None:
        """Wake the workers that wait for ticks of their symbols, or to be started.

        A process finishes the batch that it was given.
        """
        self.runner.call_off_starts()
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

    def _take_for(self, worker: Worker[T]) -> Take:
        if not self._ordered:
            return super()._take_for(worker)
        return partial(self._homed.next_tick, self._homes[worker])

    async def _gather(
        self, worker: Worker[T], receive: TickReceiveChannel[T], options: BatchOptions
    ) -> None:
        if not self._ordered:
            await super()._gather(worker, receive, options)
            return
        if not await self._wait(worker, receive):
            return
        home = self._homes[worker]
        with trio.CancelScope(deadline=self._waiting_at(home)[1] + options.max_wait):
            while 0 < self._waiting_at(home)[0] < options.max_size and not (
                self._ended or worker.leaving or self._crew.gate.closed
            ):
                worker.rest()
                try:
                    await home.wait()
                finally:
                    worker.resume()

    def _waiting_at(self, home: Home) -> tuple[int, float]:
        """Return how many ticks wait at *home*, and when the oldest of them arrived."""
        lanes = [lane for symbol in home.ready if (lane := self._homed.lines[symbol])]
        return sum(map(len, lanes)), min((lane[0][1] for lane in lanes), default=math.inf)
