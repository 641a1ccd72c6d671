"""How a worker with threads, processes or a batch handler takes its ticks: several at a time, leased, run elsewhere, settled.

Rules: with order, a symbol is leased from before its tick may begin until its outcome is settled; a failure is reported before the
symbol's next tick begins; what waits behind a slow tick can be called back, and goes to workers that are free.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from .breaker import BreakerState
from .channel import TickReceiveChannel
from .executors import Batch, Runner
from .failures import split
from .gaps import Gap
from .hand_over import HandOver
from .handling import BatchOptions
from .ticks import MarketData
from .worker import Worker

if TYPE_CHECKING:
    from .workers import WorkerPool

__all__ = ["BatchWork"]

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=MarketData)

_BATCH_S = 0.005
"""How much work a thread is given at once, in seconds of handler time."""
_DEEP = 4
"""So many times that much, where the queue is so deep that nobody waits for it."""
_MAX_BATCH = 256
_LATE_S = 0.01
"""How long a tick of a batch may take before those behind it are given to other workers, in seconds."""
_REPORT_S = 0.5
"""How long ``on_error`` may take for the failures of a batch that is being cancelled, in seconds."""


class BatchWork(Generic[T]):
    """Leases batches for the workers of a pool, and settles what came of them."""

    def __init__(self, pool: WorkerPool[T], runner: Runner[T], options: BatchOptions | None, batch_s: float = _BATCH_S) -> None:
        self._pool = pool
        self._state = pool.state
        self._ordered = pool.ordered
        self._runner = runner
        self._options = options
        self._batch_s = batch_s
        self._limit = 1 if options is None else options.max_size
        self._now = trio.lowlevel.current_clock().current_time
        self._lane_numbers = itertools.count()
        self._hand_over = HandOver(pool.place)
        self._batch_begun = trio.Event()
        self._watching = trio.CancelScope()

    def stop_watching(self) -> None:
        """Say that no worker is left."""
        self._watching.cancel()

    async def work(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        """Lease a batch, have it run, settle it; until no more can come, or *worker* is to leave."""
        pool, options = self._pool, self._options
        while not worker.leaving:
            if options is not None and options.max_wait:
                await self._gather(worker, receive, options)
            batch, gaps = self._lease(worker)
            if not batch.items:
                if not await self._wait(worker, receive):
                    return
                continue
            if self._state.on_change is not None:
                self._state.on_change()
            worker.held, worker.batch = batch.items, batch
            pool.keep_one_free(worker)
            if len(batch.items) > 1 and self._runner.calls_back:
                self._batch_begun.set()
            batch.telling = {gap.symbol for gap in gaps}
            for gap in gaps:
                await pool.tell(worker, gap)
            batch.telling = set()
            while batch.items:
                await self._run(worker, batch)
            worker.batch = None
            for symbol in batch.symbols:
                self._state.release(symbol)
            if self._state.sleeping_senders:
                # A sender that was woken for the room of the batch, before that had begun, may have found it reserved.
                self._state.wake_sender()
            pool.give_back()

    async def _wait(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> bool:
        """Wait for ticks; False when no more can come, or *worker* is to leave."""
        return await self._pool.next_ticks(worker, receive)

    async def _gather(self, worker: Worker[T], receive: TickReceiveChannel[T], options: BatchOptions) -> None:
        """Give a batch some time to be filled, from the arrival of its first tick on.

        Its ticks stay in the queue meanwhile: they are bounded, replaced and dropped as ever. A full queue is not waited for.
        """
        if not self._waiting()[0] and not await self._wait(worker, receive):
            return
        with trio.CancelScope(deadline=self._waiting()[1] + options.max_wait):
            while 0 < self._waiting()[0] < options.max_size and self._state.room > 0 and not worker.leaving:
                worker.rest()
                try:
                    await receive.wait()
                except trio.EndOfChannel:
                    return
                finally:
                    worker.resume()

    def _waiting(self) -> tuple[int, float]:
        """Return how many ticks wait for anybody, and when the oldest of them arrived."""
        buffer, lanes = self._state.buffer, self._state.lanes
        ready = [lane for symbol in lanes.ready if (lane := lanes.lines[symbol])]
        arrivals = [lane[0][1] for lane in ready]
        if buffer:
            arrivals.append(buffer.oldest_arrival())
        return len(buffer) + sum(map(len, ready)), min(arrivals, default=math.inf)

    async def _run(self, worker: Worker[T], batch: Batch[T]) -> None:
        """Have *batch* run until its end or its first failure, count what came of it, and report the failures."""
        batch.sent_at = self._now()
        try:
            await self._runner.run(worker, batch)
        except trio.Cancelled:
            await self._tell_quickly(worker, self._settle(worker, batch))  # noqa: ASYNC102  # shielded and bounded in there
            raise
        except BaseException:
            self._settle(worker, batch)
            raise
        failures = self._settle(worker, batch)
        batch.telling = {item.symbol for item, _error in failures}
        rest = iter(failures)
        try:
            for item, error in rest:
                await self._pool.tell_error(worker, item, error)
        except BaseException as raised:
            if split(raised)[1] is None:
                await self._tell_quickly(worker, rest)  # noqa: ASYNC102  # as above
            raise
        batch.telling = set()
        if failures and self._pool.breaker is not None:
            self._hold_back(batch, self._pool.breaker)

    async def _tell_quickly(self, worker: Worker[T], failures: Iterable[tuple[T, Exception]]) -> None:
        """Tell of *failures* though all is being cancelled: they are counted, and whoever counts must be able to say what they were."""
        deadline = trio.current_time() + _REPORT_S
        for item, error in failures:
            # One that comes after the deadline is told up to its first checkpoint.
            with trio.CancelScope(shield=True, deadline=deadline):
                await self._pool.tell_error(worker, item, error)

    def _hold_back(self, batch: Batch[T], breaker: BreakerState) -> None:
        """Take out of *batch*, which does not run now, what belongs to symbols that have just been set aside."""
        now = self._now()
        held = [item for item in batch.items if breaker.holds(item.symbol, now)]
        if held:
            rest = [pair for pair in zip(batch.items, batch.arrivals, strict=True) if not breaker.holds(pair[0].symbol, now)]
            batch.items[:] = [item for item, _arrived in rest]
            batch.arrivals[:] = [arrived for _item, arrived in rest]
            if batch.todo:
                batch.todo = deque(rest)
            self._state.ledger.delivered -= len(held)
            self._state.set_aside(held)

    def _settle(self, worker: Worker[T], batch: Batch[T]) -> list[tuple[T, Exception]]:
        """Count what has an outcome, and return what failed. What was not ended stays in ``held``."""
        # Read once: an abandoned thread may still end its tick, which then is counted as lost.
        done = batch.done
        failed = dict(batch.failures)
        stale = set(batch.stale)
        outcomes = batch.items[:done]
        failures = [(item, failed[index]) for index, item in enumerate(outcomes) if index in failed]
        old = [item for index, item in enumerate(outcomes) if index in stale]
        worker.failed += len(failures)
        worker.consumed += done - len(failures) - len(old)
        if self._pool.breaker is not None and (failed or self._pool.breaker):
            # Of each symbol its last word: a batch is one handling.
            for symbol, bad in {item.symbol: index in failed for index, item in enumerate(outcomes) if index not in stale}.items():
                self._pool.note(symbol, failed=bad)
        if old:
            # As if it had been found in the channel: with its gap, and with a book that waits for a snapshot.
            self._state.ledger.delivered -= len(old)
            self._state.drop_queued(old, "stale")
        else:
            self._measure(batch, done)
        batch.done = done
        batch.settle()
        worker.held = batch.items
        return failures

    def _measure(self, batch: Batch[T], done: int) -> None:
        """Record the latencies of some of a batch's first *done* ticks, and choose the size of the next one."""
        turns, meters = batch.began_at, self._pool.meters
        if not done or len(turns) < 2:
            return
        now = self._now()
        taken_s = turns[-1] - turns[0]
        handed_s = max(0.0, now - batch.sent_at - taken_s)
        meters.hand_over.record(handed_s, now)
        self._hand_over.note(handed_s, taken_s, now)
        if self._options is not None:
            meters.handled(batch.items[0], batch.arrivals[0], turns[0], turns[-1])
            return
        count = min(done, len(turns) - 1)
        for index in range(0, count, -(-count // 16)):
            meters.handled(batch.items[index], batch.arrivals[index], turns[index], turns[index + 1])
        mean = (turns[count] - turns[0]) / count
        self._limit = max(1, min(_MAX_BATCH, int(self._batch_s / mean) if mean > 0 else _MAX_BATCH, self._limit * 2))

    async def attend(self, _receive: TickReceiveChannel[T]) -> None:
        """Do what has to be done beside the workers, until the last of them has ended."""
        await self.call_back_late_batches()

    async def call_back_late_batches(self) -> None:
        """Take back what waits behind a slow tick of its batch, for workers that are free. Sleeps while there is no batch to watch."""
        with self._watching:
            while True:
                await self._batch_begun.wait()
                await trio.sleep(_LATE_S)
                self._batch_begun = trio.Event()
                for worker in self._pool.workers:
                    batch = worker.batch
                    if batch is None or not (batch.todo or len(batch.symbols) > 1):
                        continue
                    if batch.began_at and self._now() - batch.began_at[-1] < _LATE_S:
                        self._batch_begun.set()
                        continue
                    self._take_back(worker, batch)

    def _take_back(self, worker: Worker[T], batch: Batch[T]) -> None:
        """Put what *batch* has not begun back to the heads of its symbols' lanes: it is queued again."""
        state = self._state
        rest = batch.call_back()
        state.ledger.delivered -= len(rest)
        if self._ordered:
            for item, arrived in rest:
                state.lanes.park_first(item.symbol, item, arrived)
            under_way = {item.symbol for item in batch.items[batch.done :]}
            # A thread notes a failure before it counts the tick as done: looked at in this order, none is missed. They are told later.
            failed = {batch.items[index].symbol for index, _error in tuple(batch.failures)}
            kept = (under_way | failed | batch.telling) & batch.symbols
            for symbol in batch.symbols - kept:
                state.release(symbol)
            batch.symbols = kept
        else:
            # Without order nothing is leased by its symbol: each of them is a lane of its own, under a name of its own.
            for item, arrived in reversed(rest):
                name = f"{item.symbol} {next(self._lane_numbers)}"
                state.lanes.lines[name] = None
                state.lanes.park(name, item, arrived)
                state.release(name)
        if (over := state.queued - state.maxsize) > 0:
            # A strategy that evicts has taken in others meanwhile, and what was taken back is the oldest now.
            state.drop_queued(state.lanes.evict(over), "evicted")
        self._pool.keep_one_free(worker)
        self._pool.give_back()

    def _lease(self, worker: Worker[T]) -> tuple[Batch[T], list[Gap]]:
        """Take the ticks of a batch, and (with order) lease their symbols; what belongs to others' symbols is parked.

        Returns:
            The batch, and the gaps to tell before it. A tick with a gap before it begins a batch of its
            own, but where no order is asked for.
        """
        state, ordered = self._state, self._ordered
        lanes, limit = state.lanes, self._lease_limit()
        batch: list[T] = []
        arrivals: list[float] = []
        symbols: set[str] = set()
        gaps: list[Gap] = []
        lane: str | None = None
        while len(batch) < limit and (found := self._next_free(worker, symbols, lane)) is not None:
            item, arrived, lane = found
            if state.is_stale(item, arrived):
                state.drop_queued((item,), "stale")
                continue
            if state.attention:
                plain, gap = state.inspect(item)
                if plain is None:
                    continue
                if gap is not None:
                    if batch and ordered:
                        state.gaps.add(gap, at_head=True)
                        state.look()
                        lanes.park_first(plain.symbol, plain, arrived)
                        break
                    gaps.append(gap)
                item = plain
            batch.append(item)
            arrivals.append(arrived)
        state.ledger.delivered += len(batch)
        if not batch:
            for symbol in symbols:
                state.release(symbol)
        if state.sleeping_senders:
            state.wake_sender()
        return Batch(batch, arrivals, symbols), gaps

    def _lease_limit(self) -> int:
        """Return how many ticks to take: more where many wait and every worker is busy, for a way to a thread and back costs a lot.

        Where somebody rests, or soon will, a tick more here would be one less for him.
        """
        limit = self._limit
        if not self._runner.calls_back or self._pool.resting:
            return limit
        more = min(limit * _DEEP, _MAX_BATCH)
        return more if self._state.queued > 2 * more * len(self._pool.workers) else limit

    def _next_free(self, worker: Worker[T], symbols: set[str], lane: str | None) -> tuple[T, float, str | None] | None:
        """Take the next tick that may be handled by the holder of *symbols*, leasing its symbol; ``None`` where there is none.

        Returns:
            The tick, when it arrived, and the symbol whose lane it came out of: give that back as *lane*, to go on with it.
        """
        lanes, buffer = self._state.lanes, self._state.buffer
        if lane is not None and (parked := lanes.take_next(lane)) is not None:
            return *parked, lane
        if lanes.ready:
            try:
                symbol, item, arrived = lanes.take()
            except IndexError:
                pass
            else:
                symbols.add(symbol)
                return item, arrived, symbol
        while buffer:
            item, arrived = buffer.take(), buffer.arrival()
            if self._state.gaps.lanes:
                item = self._state.leave_buffer(item)
            if not self._ordered:
                return item, arrived, None
            symbol = item.symbol
            if symbol in symbols and not lanes.lines[symbol]:
                return item, arrived, None
            if symbol not in lanes.lines:
                lanes.lines[symbol] = None
                symbols.add(symbol)
                return item, arrived, None
            lanes.park(symbol, item, arrived)
        return None
