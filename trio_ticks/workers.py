"""The worker pool: workers on cloned receive channels, order per symbol, failures, and what each worker holds.

Rules: a tick that a worker holds is in ``current`` or ``held``, and leaves it in the same step in which it is counted. With
``ordering="symbol"`` a symbol is leased in the channel's lanes from before its handler starts until its outcome is settled.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Literal, TypeVar

import trio

from .channel import TickReceiveChannel
from .channel_state import ChannelState
from .executors import Batch, Handler, ThreadRunner, returns_awaitable, takes_gaps
from .gaps import Gap
from .ticks import MarketData
from .worker import Meters, Worker

__all__ = ["Meters", "OnError", "OnGap", "Ordering", "Worker", "WorkerPool"]

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=MarketData)
Ordering = Literal["symbol", "none"]
OnError = Callable[[Any, Exception], Any]
OnGap = Callable[[Gap], Any]

_BURST_S = 0.001
"""Seconds for which a worker handles ticks at most without letting other tasks run, as far as the samples tell."""
_SAMPLE_S = 200e-6
"""A worker whose handlings follow each other densely times one tick in so many seconds of handling,"""
_MAX_UNTIMED = 63
"""but no fewer than one in so many and one, on average: the gaps are random, or they could fall into step with a rhythm in the feed."""
_WARY = 64
"""Ticks that it times one by one after a stretch of untimed ones that took too long: there were slow ones among them."""
_DENSE_S = 0.001
_BATCH_S = 0.005
"""How much work a thread is given at once, in seconds of handler time."""
_MAX_BATCH = 256
_LATE_S = 0.01
"""How long a tick of a batch may take before those behind it are given to other workers, in seconds."""
_REPORT_S = 0.5
"""How long ``on_error`` may take for the failure of a batch that is being cancelled, in seconds."""


class WorkerPool(Generic[T]):
    """Runs a handler over what a channel delivers, with a fixed number of workers."""

    def __init__(
        self,
        receive: TickReceiveChannel[T],
        handler: Handler[T],
        *,
        workers: int,
        ordering: Ordering,
        executor: Literal["loop", "thread"],
        on_error: OnError | None,
        on_gap: OnGap | None = None,
    ) -> None:
        self._receive = receive
        self._state: ChannelState[T] = receive.state
        self._handler: Callable[[T], Awaitable[Any]] = handler if returns_awaitable(handler) or executor == "thread" else _as_async(handler)
        self._ordered = ordering == "symbol"
        self._on_error = on_error
        self._on_gap = on_gap
        self._takes_gaps = takes_gaps(handler)
        self._state.tells_gaps = on_gap is not None or self._takes_gaps
        self._runner = ThreadRunner(handler, workers, self._state.is_stale if self._state.ages else None) if executor == "thread" else None
        self._now = trio.lowlevel.current_clock().current_time
        self._batch_limit = 1
        self._lane_numbers = itertools.count()
        self._given_back = trio.Event()
        """Set when a batch has ended, or part of it was called back: for workers that would go home."""
        self._batch_begun = trio.Event()
        self._watching = trio.CancelScope()
        self._state.reserved = lambda: sum(worker.out_of_queue for worker in self.workers)
        self.meters = Meters()
        self.workers: list[Worker[T]] = [Worker(f"{executor}-{number}") for number in range(1, workers + 1)]
        self._state.anyone_free = lambda: any(worker.free for worker in self.workers)
        self._state.ledger.attach_pool(
            consumed=lambda: sum(worker.consumed for worker in self.workers),
            failed=lambda: sum(worker.failed for worker in self.workers),
            in_flight=lambda: sum(worker.in_flight for worker in self.workers),
        )

    async def run(self) -> None:
        """Run all workers until the channel has ended and is drained. Owns and closes the receive channel.

        Raises:
            BaseExceptionGroup: of what ``on_error`` raised, and what a handler raised that is no ``Exception``.

        Cancellation: ticks in flight and ticks still queued are counted as dropped at shutdown.
        """
        work = self._work_in_loop if self._runner is None else self._work_in_batches
        # Not "async with": its checkpoint would put a Cancelled in the place of what a worker raised.
        with self._receive:
            async with trio.open_nursery() as nursery:
                if self._runner is not None:
                    nursery.start_soon(self._call_back_late_batches)
                for worker in self.workers:
                    nursery.start_soon(self._run_worker, worker, work, self._receive.clone(), name=f"trio_ticks {worker.name}")

    async def _run_worker(
        self,
        worker: Worker[T],
        work: Callable[[Worker[T], TickReceiveChannel[T]], Awaitable[None]],
        receive: TickReceiveChannel[T],
    ) -> None:
        with receive:
            try:
                await work(worker, receive)
            except BaseExceptionGroup as group:
                # A handler's own nursery, cancelled by us, where one of its tasks failed to clean up: no reason to end by an error.
                cancelled, errors = group.split(trio.Cancelled)
                if cancelled is None or not isinstance(errors, Exception):
                    raise
                symbol = "?" if worker.current is None else worker.current.symbol
                self._state.log_error("handler.failed", symbol, errors)
                raise cancelled from None
            finally:
                worker.end()
                if all(worker.ended for worker in self.workers):
                    self._watching.cancel()
                lost = worker.in_flight
                worker.current, worker.held = None, []
                if lost:
                    self._state.ledger.in_pool.shutdown += lost
                    self._state.log_drop(lost, "shutdown")

    async def _next_ticks(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> bool:
        """Wait for ticks; False when no more can come."""
        worker.rest()
        try:
            await receive.wait()
        except trio.EndOfChannel:
            # Another worker may have been woken for the last ticks and have ended before it took them; or hold more than it gets to.
            while not (self._state.buffer or self._state.lanes.ready):
                if not any(other.batch is not None for other in self.workers):
                    return False
                await self._given_back.wait()
        finally:
            worker.resume()
        return True

    async def _work_in_loop(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        """Take one tick at a time and await its handler: one with a look around and at the clock, then a sprint without."""
        state = self._state
        while True:
            try:
                symbol, item, arrived = self._take_one(worker)
            except IndexError:
                if not await self._next_ticks(worker, receive):
                    return
                continue
            untimed = await self._handle_one(worker, symbol, item, arrived)
            if untimed and not state.attention:
                await self._sprint(worker, untimed)
                if self._now() - worker.timed_at > _DENSE_S:
                    worker.wary = _WARY
            if self._now() - worker.burst_began > _BURST_S:
                await self._let_others_run(worker)

    async def _sprint(self, worker: Worker[T], count: int) -> None:
        """Handle up to *count* ticks. The hot path: what only changes while others run is told by one flag, ``attention``."""
        state, handler, ordered = self._state, self._handler, self._ordered
        buffer, lanes, ledger = state.buffer, state.lanes, state.ledger
        take, lines = buffer.take, lanes.lines
        for _ in range(count):
            try:
                item = take()
            except IndexError:
                return
            if ordered:
                symbol = item.symbol
                if symbol in lines:
                    lanes.park(symbol, item, buffer.arrival())
                    continue
                lines[symbol] = None
            ledger.delivered += 1
            worker.current = item
            try:
                await handler(item)
            except Exception as error:
                worker.failed += 1
                worker.current = None
                await self._report(worker, item, error)
            else:
                worker.consumed += 1
                worker.current = None
            if ordered:
                if lines[symbol]:
                    state.release(symbol)
                else:
                    del lines[symbol]
            if state.attention:
                return

    def _take_one(self, worker: Worker[T]) -> tuple[str, T, float]:
        """Take the next tick whose symbol nobody handles, and lease it; park the ticks before it. IndexError where there is none."""
        state = self._state
        buffer, lanes = state.buffer, state.lanes
        if lanes.is_ready():
            symbol, item, arrived = lanes.take()
        else:
            while True:
                item = buffer.take()
                symbol, arrived = item.symbol, buffer.arrival()
                if not self._ordered:
                    break
                if symbol not in lanes.lines:
                    lanes.lines[symbol] = None
                    break
                lanes.park(symbol, item, arrived)
        if state.sleeping_senders:
            state.wake_sender()
        self._keep_one_free(worker)
        state.look()
        return symbol, item, arrived

    def _keep_one_free(self, worker: Worker[T]) -> None:
        """See to it that somebody comes for what is left, should the handler of *worker* wait: each that is called calls the next."""
        state = self._state
        if state.sleeping_receivers and (len(state.buffer) or state.lanes.ready):
            for other in self.workers:
                if other is not worker and other.free:
                    return
            state.wake_receivers(1)

    async def _handle_one(self, worker: Worker[T], symbol: str, item: T, arrived: float) -> int:
        """Handle a tick with all that may be due: staleness, gaps, the clock. Return how many may follow without."""
        state = self._state
        untimed = 0
        if state.is_stale(item, arrived):
            state.drop_queued((item,), "stale")
        elif (plain := await self._told(worker, item)) is not None:
            state.ledger.delivered += 1
            worker.current = plain
            try:
                untimed = await self._handle_timed(worker, plain, arrived)
            except Exception as error:
                worker.failed += 1
                worker.current = None
                await self._report(worker, plain, error)
            else:
                worker.consumed += 1
                worker.current = None
        if self._ordered:
            state.release(symbol)
        state.look()
        return untimed

    async def _let_others_run(self, worker: Worker[T]) -> None:
        if self._state.on_change is not None:
            self._state.on_change()
        await trio.lowlevel.checkpoint()
        worker.burst_began = self._now()

    async def _handle_timed(self, worker: Worker[T], item: T, arrived: float) -> int:
        """Await the handler between two looks at the clock; return how many ticks may go untimed now."""
        began = self._now()
        self.meters.taken(item, arrived, began)
        try:
            await self._handler(item)
        finally:
            ended = self._now()
            self.meters.handler.record(ended - began, ended)
        dense = began - worker.timed_at < _DENSE_S
        worker.timed_at = ended
        if worker.wary:
            worker.wary -= 1
            return 0
        return random.randrange(2 * min(_MAX_UNTIMED, int(_SAMPLE_S / max(ended - began, 1e-9))) + 1) if dense else 0

    async def _report(self, worker: Worker[T], item: MarketData, error: Exception) -> None:
        """Tell ``on_error``; without one, log at most once a second."""
        if self._on_error is None:
            self._state.log_error("handler.failed", item.symbol, error)
            return
        worker.away = True
        try:
            result = self._on_error(item, error)
            if inspect.isawaitable(result):
                await result
        finally:
            worker.away = False

    async def _told(self, worker: Worker[T], item: T) -> T | None:
        """Tell the gap before *item*, which the worker holds meanwhile; return the item, or ``None`` where it is held back."""
        plain, gap = self._state.inspect(item)
        if plain is not None and gap is not None:
            worker.current = plain
            self._state.ledger.delivered += 1
            await self._tell(worker, gap)
            self._state.ledger.delivered -= 1
            worker.current = None
        return plain

    async def _tell(self, worker: Worker[T], gap: Gap) -> None:
        if self._on_gap is not None:
            result = self._on_gap(gap)
            if inspect.isawaitable(result):
                await result
        elif self._takes_gaps:
            try:
                if self._runner is None:
                    await self._handler(gap)  # type: ignore[arg-type]  # its annotation says that it takes gaps
                else:
                    await trio.to_thread.run_sync(self._handler, gap, abandon_on_cancel=True)  # type: ignore[arg-type]
            except Exception as error:
                await self._report(worker, gap, error)

    # Threads

    async def _work_in_batches(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        """Lease a batch, have it run elsewhere, settle it."""
        assert self._runner is not None
        while True:
            batch, gaps = self._lease()
            if not batch.items:
                if not await self._next_ticks(worker, receive):
                    return
                continue
            if self._state.on_change is not None:
                self._state.on_change()
            worker.held, worker.batch = batch.items, batch
            self._keep_one_free(worker)
            if len(batch.items) > 1:
                self._batch_begun.set()
            batch.telling = {gap.symbol for gap in gaps}
            for gap in gaps:
                await self._tell(worker, gap)
            batch.telling = set()
            while batch.items:
                try:
                    await self._runner.run(batch)
                except trio.Cancelled:
                    if (failure := self._settle(worker, batch)) is not None:
                        # Shielded, since the failure is counted: whoever counts must be able to say what it was.
                        with trio.CancelScope(shield=True, deadline=trio.current_time() + _REPORT_S):
                            await self._report(worker, *failure)
                    raise
                except BaseException:
                    self._settle(worker, batch)
                    raise
                if (failure := self._settle(worker, batch)) is not None:
                    batch.telling = {failure[0].symbol}
                    await self._report(worker, *failure)
                    batch.telling = set()
            worker.batch = None
            for symbol in batch.symbols:
                self._state.release(symbol)
            self._give_back()

    def _settle(self, worker: Worker[T], batch: Batch[T]) -> tuple[T, Exception] | None:
        """Count what has an outcome, and return the failure that ended the batch. What was not ended stays in ``held``."""
        # Read once: an abandoned thread may still end its tick, which then is counted as lost.
        done, failed = batch.done, batch.failure
        stale = [batch.items[index] for index in batch.stale if index < done]
        failure = None if failed is None or failed[0] >= done else (batch.items[failed[0]], failed[1])
        worker.failed += failure is not None
        worker.consumed += done - (failure is not None) - len(stale)
        if stale:
            # As if it had been found in the channel: with its gap, and with a book that waits for a snapshot.
            self._state.ledger.delivered -= len(stale)
            self._state.drop_queued(stale, "stale")
        else:
            self._measure(batch, done)
        batch.done = done
        batch.settle()
        worker.held = batch.items
        return failure

    def _measure(self, batch: Batch[T], done: int) -> None:
        """Record the latencies of some of a batch's first *done* ticks, and choose the size of the next one."""
        turns = batch.began_at
        count = min(done, len(turns) - 1)
        if count < 1:
            return
        now = self._now()
        for index in range(0, count, max(1, count // 16)):
            self.meters.handler.record(turns[index + 1] - turns[index], now)
            self.meters.taken(batch.items[index], batch.arrivals[index], turns[index])
        mean = (turns[count] - turns[0]) / count
        self._batch_limit = max(1, min(_MAX_BATCH, int(_BATCH_S / mean) if mean > 0 else _MAX_BATCH, self._batch_limit * 2))

    async def _call_back_late_batches(self) -> None:
        """Take back what waits behind a slow tick of its batch, for workers that are free. Sleeps while there is no batch to watch."""
        with self._watching:
            while True:
                await self._batch_begun.wait()
                await trio.sleep(_LATE_S)
                self._batch_begun = trio.Event()
                for worker in self.workers:
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
            kept = ({item.symbol for item in batch.items[batch.done :]} | batch.telling) & batch.symbols
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
        self._keep_one_free(worker)
        self._give_back()

    def _give_back(self) -> None:
        given_back, self._given_back = self._given_back, trio.Event()
        given_back.set()

    def _lease(self) -> tuple[Batch[T], list[Gap]]:
        """Take the ticks of a batch, and (with order) lease their symbols; what belongs to others' symbols is parked.

        Returns:
            The batch, and the gaps to tell before it. A tick with a gap before it begins a batch of its
            own, but where no order is asked for.
        """
        state, ordered = self._state, self._ordered
        lanes, limit = state.lanes, self._batch_limit
        batch: list[T] = []
        arrivals: list[float] = []
        symbols: set[str] = set()
        gaps: list[Gap] = []
        lane: str | None = None
        while len(batch) < limit and (found := self._next_free(symbols, lane)) is not None:
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

    def _next_free(self, symbols: set[str], lane: str | None) -> tuple[T, float, str | None] | None:
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


def _as_async(handler: Callable[[T], Any]) -> Callable[[T], Awaitable[Any]]:
    async def call(item: T) -> Any:
        result = handler(item)
        return await result if inspect.isawaitable(result) else result

    return call
