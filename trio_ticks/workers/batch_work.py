"""How a worker with a thread, a process or a batch handler takes its ticks: in batches.

Plan: a worker leases a batch, its runner runs the batch, and the worker settles it: it
counts the outcomes and reports the failures. Which ticks a batch holds is decided in
``leases.py``.

Rules:

- With order, a symbol is leased before its tick may begin and until the tick's outcome
  is settled.
- A failure is reported before the symbol's next tick begins. Therefore a failure ends a
  run, and the rest of the batch is run again.
- Ticks of a thread's batch that wait behind a slow one are called back after
  ``LATE_S``, for workers that are free. Until then they keep their room in the channel.
- Only :meth:`BatchWork._settle` counts what came of a batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import trio

from ..channel.ends import TickReceiveChannel
from ..channel.state import ChannelState
from ..failures import split
from ..gaps import Gap
from ..handlers.batches import BatchOptions
from ..handlers.breaker import BreakerState
from ..handlers.kinds import refuse_awaitable
from ..ticks import MarketData
from ..uninterrupted import uninterrupted
from .batch import Batch
from .crew import Crew
from .hand_over import HandOver
from .leases import LATE_S, Leases, Take
from .runners import Runner
from .worker import Worker

__all__ = ["BatchWork"]

T = TypeVar("T", bound=MarketData)

_REPORT_S = 0.5
"""How long ``on_error`` may take for a batch that is being cancelled, in seconds."""
_TIMED_TICKS = 16
"""At most this many ticks of a batch are recorded in the latencies."""
_MAX_UNTIMED = 15
"""Where ticks come one by one, record one of 16 on average.

To record each takes a tenth of all the work. How many go unrecorded is random: a fixed
number could fall into step with a rhythm in the feed, and always record the same
symbol."""
_DENSE_S = 0.001
"""Only ticks behind a batch that ended within this many seconds after the one before go
unrecorded."""


def _arrival(worker: Worker[Any]) -> float | None:
    """Return when the tick that *worker* handles or reports arrived, if it has one.

    Of a batch handler's ticks it is the first.
    """
    if worker.arrived is not None:
        return worker.arrived
    batch = worker.batch
    if batch is None:
        return None
    try:
        return batch.arrivals[batch.done]
    except IndexError:
        # An abandoned thread asks, or a task that has outlived its handler.
        return None


@uninterrupted
class BatchWork(Generic[T]):
    """Leases batches for the workers of a pool, and settles what came of them."""

    arrival = staticmethod(_arrival)

    def __init__(
        self,
        crew: Crew[T],
        runner: Runner[T],
        options: BatchOptions | None,
        leases: Leases[T] | None = None,
    ) -> None:
        self._crew = crew
        self._state = crew.state
        self._ordered = crew.ordered
        self._runner = runner
        self._options = options
        self._leases = leases or Leases(
            crew.state,
            ordered=crew.ordered,
            calls_back=runner.calls_back,
            fixed=None if options is None else options.max_size,
        )
        self._now = crew.state.now
        self._hand_over = HandOver(crew.place)
        self.interrupt = self.take_all_back
        self._owes: Callable[[Worker[T], Batch[T]], bool] = lambda _worker, _batch: False
        """Tells whether a worker itself has to go on with a batch: see processes."""
        self._batch_begun = trio.Event()
        self._watching = trio.CancelScope()

    def stop(self) -> None:
        """Say that no worker is left."""
        self._watching.cancel()

    def room_wanted(self) -> None:
        """Watch for ticks that batches begin: each of them makes room."""
        if self._runner.calls_back:
            self._batch_begun.set()

    def reserved(self) -> int:
        """Return how many ticks of batches may still be called back into the queue."""
        return sum(worker.out_of_queue for worker in self._crew.workers)

    async def announce_gap(self, worker: Worker[T], gap: Gap | list[Gap]) -> None:
        """Hand *gap* to the handler of *worker*, in the loop or in a thread."""
        if self._crew.place == "loop":
            await worker.handler(gap)
        else:
            result = await trio.to_thread.run_sync(worker.handler, gap, abandon_on_cancel=True)
            refuse_awaitable(result, "a thread")

    async def work(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        """Lease, run and settle batches until no more come, or *worker* is to leave."""
        crew, options, leases = self._crew, self._options, self._leases
        sleepers = self._state.sleepers
        while not worker.leaving:
            if crew.gate.closed:
                await crew.gate.passed(worker)
            if options is not None and options.max_wait:
                await self._gather(worker, receive, options)
                await crew.gate.passed(worker)
            if worker.leaving:
                return
            size = leases.size(len(crew.workers), all_busy=not crew.resting)
            batch, gaps = leases.lease(self._take_for(worker), size)
            if sleepers.lingering and self._state.lanes.parked:
                # A tick may have been parked behind the last one of a thread that
                # lingers.
                while sleepers.recall():
                    pass
            if batch is None:
                crew.move_up()
                if not await self._wait(worker, receive):
                    return
                continue
            self._state.drops.queue_changed()
            worker.held, worker.batch = batch.items, batch
            # Only once the worker holds the batch: ticks that may be called back keep
            # their room, and the channel finds them by the worker.
            crew.move_up()
            crew.keep_one_free(worker)
            if len(batch.items) > 1 and self._runner.calls_back:
                self._batch_begun.set()
            batch.reporting = {gap.symbol for gap in gaps}
            for gap in gaps:
                await crew.announce_gap(worker, gap)
            batch.reporting = set()
            while batch.items:
                await self._run(worker, batch)
                if batch.items and crew.gate.closed and not self._owes(worker, batch):
                    leases.put_back(batch, batch.call_back_all(), ())
            worker.batch = None
            leases.release(batch)
            # The ticks of the batch kept their room until they had begun.
            crew.move_up()
            crew.announce_release()

    async def _wait(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> bool:
        """Wait for ticks; False when no more can come, or *worker* is to leave."""
        if self._state.buffer or self._state.lanes.is_ready():
            return True  # ticks have moved up since the last lease
        return await self._crew.wait_for_ticks(worker, receive)

    async def _gather(
        self, worker: Worker[T], receive: TickReceiveChannel[T], options: BatchOptions
    ) -> None:
        """Wait until a batch is full, or ``max_wait`` after its first tick arrived.

        Its ticks stay in the queue meanwhile, where they count against ``maxsize`` and
        the overflow strategy may replace or drop them. If the queue is full, it does
        not wait.
        """
        if not _takable(self._state)[0] and not await self._wait(worker, receive):
            return
        with trio.CancelScope(deadline=_takable(self._state)[1] + options.max_wait):
            while (
                0 < _takable(self._state)[0] < options.max_size
                and self._state.room > 0
                and not (worker.leaving or self._crew.gate.closed)
            ):
                worker.rest()
                try:
                    await receive.wait()
                except trio.EndOfChannel:
                    return
                finally:
                    worker.resume()

    async def _run(self, worker: Worker[T], batch: Batch[T]) -> None:
        """Run *batch* to its end or first failure, settle it, report the failures."""
        batch.begin()
        self._crew.move_up()
        batch.sent_at = self._now()
        try:
            await self._runner.run(worker, batch)
        except trio.Cancelled:
            await self._report_quickly(worker, self._settle(worker, batch))  # noqa: ASYNC102  # shielded and bounded in there
            raise
        except BaseException:
            self._settle(worker, batch)
            raise
        failures = self._settle(worker, batch)
        batch.reporting = {item.symbol for item, _error, _arrived in failures}
        worker.reporting = [item for item, _error, _arrived in failures]
        rest = iter(failures)
        try:
            for item, error, arrived in rest:
                worker.arrived = arrived
                await self._crew.call_on_error(worker, item, error)
                worker.reported(item)
        except BaseException as raised:
            if split(raised)[1] is None:
                await self._report_quickly(worker, rest)  # noqa: ASYNC102  # as above
            raise
        finally:
            worker.reporting = []
            worker.arrived = None
        batch.reporting = set()
        if batch.broken is not None:
            raise batch.broken
        if failures and self._crew.breaker is not None:
            self._hold_back(batch, self._crew.breaker)

    async def _report_quickly(
        self, worker: Worker[T], failures: Iterable[tuple[T, BaseException, float]]
    ) -> None:
        """Report *failures* although the pool is being cancelled.

        They are counted as failed, so ``on_error`` has to learn of each of them. The
        shield around it lasts ``_REPORT_S`` at most.
        """
        deadline = trio.current_time() + _REPORT_S
        for item, error, arrived in failures:
            worker.arrived = arrived
            # After the deadline, on_error still runs up to its first checkpoint.
            with trio.CancelScope(shield=True, deadline=deadline):
                await self._crew.call_on_error(worker, item, error)

    def _hold_back(self, batch: Batch[T], breaker: BreakerState) -> None:
        """Drop the ticks of *batch* whose symbols the breaker has just set aside.

        The batch must not be running.
        """
        now = self._now()
        held = [item for item in batch.items if breaker.holds(item.symbol, now)]
        if held:
            rest = [
                pair
                for pair in zip(batch.items, batch.arrivals, strict=True)
                if not breaker.holds(pair[0].symbol, now)
            ]
            batch.items[:] = [item for item, _arrived in rest]
            batch.arrivals[:] = [arrived for _item, arrived in rest]
            if batch.todo:
                batch.todo = deque(rest)
            self._state.ledger.delivered -= len(held)
            self._state.drops.drop(held, "held", by_breaker=True)

    def _settle(self, worker: Worker[T], batch: Batch[T]) -> list[tuple[T, BaseException, float]]:
        """Count the ticks that have an outcome, and return those that failed.

        They come with what was raised, and with their arrivals.

        Ticks without an outcome stay in ``worker.held``.
        """
        # Read done only once: an abandoned thread may still end its tick and raise it.
        # That tick is then counted as lost.
        done = batch.settled
        failed = dict(batch.failures)
        stale = set(batch.stale)
        outcomes = batch.items[:done]
        failures = [
            (item, failed[index], batch.arrivals[index])
            for index, item in enumerate(outcomes)
            if index in failed
        ]
        old = [item for index, item in enumerate(outcomes) if index in stale]
        worker.failed += len(failures)
        worker.consumed += done - len(failures) - len(old)
        if self._crew.breaker is not None and (failed or self._crew.breaker):
            # Only the last outcome of each symbol: for the breaker, a batch is one
            # handling.
            for symbol, bad in {
                item.symbol: index in failed
                for index, item in enumerate(outcomes)
                if index not in stale
            }.items():
                self._crew.record_outcome(symbol, failed=bad)
        batch.done = done
        if not old:
            self._measure(worker, batch, done)
            batch.settle()
        else:
            self._leases.drop_stale(batch, old, {item.symbol for item, _, _ in failures})
        worker.held = batch.items
        return failures

    def _measure(self, worker: Worker[T], batch: Batch[T], done: int) -> None:
        """Record latencies of some of the first *done* ticks; size the next batch."""
        turns, meters = batch.began_at, self._crew.meters
        if not done or len(turns) < 2:
            return
        began, ended = turns[0], turns[-1]
        taken_s = ended - began
        handed_s = max(0.0, self._now() - batch.sent_at - taken_s)
        if done == 1 and worker.untimed:
            worker.untimed -= 1
        else:
            meters.hand_over.record(handed_s, ended)
            self._hand_over.record(handed_s, taken_s, ended)
            if self._options is not None:
                meters.handled(batch.items[0], batch.arrivals[0], began, ended)
                return
            count = min(done, len(turns) - 1)
            for index in range(0, count, -(-count // _TIMED_TICKS)):
                meters.handled(
                    batch.items[index], batch.arrivals[index], turns[index], turns[index + 1]
                )
            worker.untimed = self._crew.random.randrange(2 * _MAX_UNTIMED + 1)
        # This counts from the next batch on: if slow ones were always recorded, they
        # would seem more frequent than they are.
        if ended - worker.batch_ended >= _DENSE_S:
            worker.untimed = 0
        worker.batch_ended = ended
        self._leases.learn(batch, done, handed_s)

    async def attend(self, _receive: TickReceiveChannel[T]) -> None:
        """Put ticks that wait behind a slow one of their batch back, for other workers.

        Also let in what waits for room: each tick that a thread begins makes some.
        Sleeps while there is no batch to watch; ends with :meth:`stop`.
        """
        with self._watching:
            while True:
                await self._batch_begun.wait()
                await trio.sleep(LATE_S)
                self._batch_begun = trio.Event()
                for worker in self._crew.workers:
                    batch = worker.batch
                    if batch is None or not self._leases.may_be_late(batch):
                        continue
                    if self._leases.is_late(batch, self._now()):
                        self._take_back(worker, batch)
                    else:
                        self._batch_begun.set()
                self._crew.move_up()
                if self._state.deliveries and self.reserved():
                    self._batch_begun.set()

    def _take_back(self, worker: Worker[T], batch: Batch[T]) -> None:
        """Put the ticks that *batch* has not begun back, for other workers."""
        self._leases.take_back(batch)
        self._crew.keep_one_free(worker)
        self._crew.announce_release()

    def take_all_back(self) -> None:
        """Put all ticks that batches have not begun back into the queue."""
        if self._runner.calls_back:
            for worker in self._crew.workers:
                if worker.batch is not None and worker.batch.todo:
                    self._take_back(worker, worker.batch)

    def _take_for(self, _worker: Worker[T]) -> Take:
        """Return what takes the next tick for a worker; see :meth:`Leases.lease`."""
        return self._leases.take


def _takable(state: ChannelState[Any]) -> tuple[int, float]:
    """Return how many ticks any worker could take, and when the oldest arrived."""
    buffer, lanes = state.buffer, state.lanes
    ready = [lane for symbol in lanes.ready if (lane := lanes.lines[symbol])]
    arrivals = [lane[0][1] for lane in ready]
    if buffer:
        arrivals.append(buffer.oldest_arrival())
    return len(buffer) + sum(map(len, ready)), min(arrivals, default=math.inf)
