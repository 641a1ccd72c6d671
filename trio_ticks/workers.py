"""The worker pool: workers on cloned receive channels, order per symbol, failures, and what each worker holds.

Rules: a tick that a worker holds is in ``current`` or ``held``, and leaves it in the same step in which it is counted. With
``ordering="symbol"`` a symbol is leased in the channel's lanes from before its handler starts until its outcome is settled.
"""

from __future__ import annotations

import inspect
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Literal, TypeVar

import trio

from .channel import TickReceiveChannel
from .channel_state import ChannelState
from .executors import BatchOutcome, Handler, ThreadRunner, returns_awaitable, takes_gaps
from .gaps import Gap
from .metrics import LatencyWindow, WorkerMetrics
from .ticks import MarketData

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


class Meters:
    """The latencies of a pool. Every tick is timed, but where quick ones follow each other densely: then one in 64, on average."""

    def __init__(self) -> None:
        self.lag = LatencyWindow()
        self.wait = LatencyWindow()
        self.handler = LatencyWindow()
        self._wall_offset = time.time() - trio.current_time()

    def taken(self, item: MarketData, arrived: float, now: float) -> None:
        """Record how old *item* is and how long it waited. The wall clock is read once a run, so that a virtual clock rules here too."""
        self.wait.record(now - arrived, now)
        self.lag.record(now + self._wall_offset - item.timestamp.timestamp(), now)


class Worker(Generic[T]):
    """One worker's counters, and what it holds now."""

    __slots__ = (
        "_born",
        "_clock",
        "_ended_at",
        "_idle_s",
        "_idle_since",
        "away",
        "burst_began",
        "consumed",
        "current",
        "ended",
        "failed",
        "held",
        "name",
        "timed_at",
        "wary",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.away = False
        """Whether it waits for ``on_error`` or ``on_gap``."""
        self.current: T | None = None
        self.held: list[T] = []
        self.consumed = 0
        self.failed = 0
        self.ended = False
        self._clock = trio.lowlevel.current_clock().current_time
        self._born = self.burst_began = self._clock()
        self.timed_at = self._born
        self.wary = 0
        self._idle_s = 0.0
        self._idle_since: float | None = None
        self._ended_at = math.inf

    @property
    def in_flight(self) -> int:
        return (self.current is not None) + len(self.held)

    @property
    def free(self) -> bool:
        """Whether it is awake and will come for ticks by itself."""
        return not (self.current is not None or self._idle_since is not None or self.held or self.away or self.ended)

    def rest(self) -> None:
        self._idle_since = self._clock()

    def resume(self) -> None:
        now = self.burst_began = self._clock()
        if self._idle_since is not None:
            self._idle_s += now - self._idle_since
            self._idle_since = None

    def end(self) -> None:
        self.ended = True
        self._ended_at = self._clock()

    def metrics(self, now: float) -> WorkerMetrics:
        now = min(now, self._ended_at)
        idle = self._idle_s + (now - self._idle_since if self._idle_since is not None else 0.0)
        life = now - self._born
        holds = self.current if self.current is not None else (self.held[0] if self.held else None)
        return WorkerMetrics(
            name=self.name,
            state="ended" if self.ended else ("idle" if self._idle_since is not None else "busy"),
            consumed=self.consumed,
            failed=self.failed,
            in_flight=self.in_flight,
            busy_ratio=max(0.0, 1 - idle / life) if life > 0 else 0.0,
            symbol=None if holds is None else holds.symbol,
        )


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
        self._runner = ThreadRunner(handler, workers) if executor == "thread" else None
        self._now = trio.lowlevel.current_clock().current_time
        self._batch_limit = 1
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
            # Another worker may have been woken for the last ticks and have ended before it took them.
            return len(self._state.buffer) > 0 or bool(self._state.lanes.ready)
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
            batch, symbols, gaps = self._lease()
            if not batch:
                if not await self._next_ticks(worker, receive):
                    return
                continue
            if self._state.on_change is not None:
                self._state.on_change()
            worker.held = batch
            self._keep_one_free(worker)
            for gap in gaps:
                await self._tell(worker, gap)
            outcome = BatchOutcome(batch)
            try:
                await self._runner.run(outcome)
            finally:
                failures = self._settle(worker, outcome)
            for index, error in failures:
                await self._report(worker, batch[index], error)
            for symbol in symbols:
                self._state.release(symbol)

    def _settle(self, worker: Worker[T], outcome: BatchOutcome[T]) -> list[tuple[int, Exception]]:
        """Count what has an outcome. What was not begun, or not ended, stays in ``held`` for :meth:`_run_worker` to count."""
        done = outcome.done
        failures = [failure for failure in outcome.failures if failure[0] < done]
        worker.held = list(outcome.items[done:])
        worker.failed += len(failures)
        worker.consumed += done - len(failures)
        now = self._now()
        durations = outcome.durations_s[:done]
        for duration in durations[:: max(1, len(durations) // 16)]:
            self.meters.handler.record(duration, now)
        if durations:
            mean = sum(durations) / len(durations)
            self._batch_limit = max(1, min(_MAX_BATCH, int(_BATCH_S / mean) if mean > 0 else _MAX_BATCH, self._batch_limit * 2))
        return failures

    def _lease(self) -> tuple[list[T], set[str], list[Gap]]:
        """Take the ticks of a batch, and (with order) lease their symbols; what belongs to others' symbols is parked.

        Returns:
            The batch, the symbols to release after it, and the gaps to tell before it. A tick with a gap before it begins a batch of its
            own, but where no order is asked for.
        """
        state, ordered = self._state, self._ordered
        lanes, limit = state.lanes, self._batch_limit
        batch: list[T] = []
        symbols: set[str] = set()
        gaps: list[Gap] = []
        arrived = now = self._now()
        while len(batch) < limit and (found := self._next_free(symbols)) is not None:
            item, arrived = found
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
        state.ledger.delivered += len(batch)
        if batch:
            self.meters.taken(batch[-1], arrived, now)
        else:
            for symbol in symbols:
                state.release(symbol)
        if state.sleeping_senders:
            state.wake_sender()
        return batch, symbols, gaps

    def _next_free(self, symbols: set[str]) -> tuple[T, float] | None:
        """Take the next tick that may be handled by the holder of *symbols*, leasing its symbol; ``None`` where there is none."""
        lanes, buffer = self._state.lanes, self._state.buffer
        if lanes.ready:
            try:
                symbol, item, arrived = lanes.take()
            except IndexError:
                pass
            else:
                symbols.add(symbol)
                return item, arrived
        while buffer:
            item, arrived = buffer.take(), buffer.arrival()
            if not self._ordered:
                return item, arrived
            symbol = item.symbol
            if symbol in symbols and not lanes.lines[symbol]:
                return item, arrived
            if symbol not in lanes.lines:
                lanes.lines[symbol] = None
                symbols.add(symbol)
                return item, arrived
            lanes.park(symbol, item, arrived)
        return None


def _as_async(handler: Callable[[T], Any]) -> Callable[[T], Awaitable[Any]]:
    async def call(item: T) -> Any:
        result = handler(item)
        return await result if inspect.isawaitable(result) else result

    return call
