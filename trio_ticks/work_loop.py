"""How a worker in the event loop takes its ticks: one at a time, so that what waits behind a slow one is free for other workers.

Rules: one tick with a look around and at the clock, then a sprint of quick ones without; what changes only while others run is told by
one flag, ``attention``. A tick leaves ``current`` in the step in which it is counted.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from .channel import TickReceiveChannel
from .ticks import MarketData
from .worker import Worker

if TYPE_CHECKING:
    from .workers import WorkerPool

__all__ = ["LoopWork"]

T = TypeVar("T", bound=MarketData)

_BURST_S = 0.001
"""Seconds for which a worker handles ticks at most without letting other tasks run, as far as the samples tell."""
_SAMPLE_S = 200e-6
"""A worker whose handlings follow each other densely times one tick in so many seconds of handling,"""
_MAX_UNTIMED = 63
"""but no fewer than one in so many and one, on average: the gaps are random, or they could fall into step with a rhythm in the feed."""
_WARY = 64
"""Ticks that it times one by one after a stretch of untimed ones that took too long: there were slow ones among them."""
_DENSE_S = 0.001


class LoopWork(Generic[T]):
    """Takes ticks for the workers of a pool and awaits their handlers."""

    def __init__(self, pool: WorkerPool[T]) -> None:
        self._pool = pool
        self._state = pool.state
        self._ordered = pool.ordered
        self._now = trio.lowlevel.current_clock().current_time

    async def work(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        """Handle ticks until no more can come, or *worker* is to leave."""
        state = self._state
        while not worker.leaving:
            try:
                symbol, item, arrived = self._take_one(worker)
            except IndexError:
                if not await self._pool.next_ticks(worker, receive):
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
        state, handler, ordered = self._state, worker.handler, self._ordered
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
                await self._pool.report(worker, item, error)
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
        self._pool.keep_one_free(worker)
        state.look()
        return symbol, item, arrived

    async def _handle_one(self, worker: Worker[T], symbol: str, item: T, arrived: float) -> int:
        """Handle a tick with all that may be due: staleness, gaps, the clock. Return how many may follow without."""
        state = self._state
        untimed = 0
        if state.is_stale(item, arrived):
            state.drop_queued((item,), "stale")
        elif (plain := await self._pool.told(worker, item)) is not None:
            state.ledger.delivered += 1
            worker.current = plain
            try:
                untimed = await self._handle_timed(worker, plain, arrived)
            except Exception as error:
                worker.failed += 1
                worker.current = None
                await self._pool.report(worker, plain, error)
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
        self._pool.meters.taken(item, arrived, began)
        try:
            await worker.handler(item)
        finally:
            ended = self._now()
            self._pool.meters.handler.record(ended - began, ended)
        dense = began - worker.timed_at < _DENSE_S
        worker.timed_at = ended
        if worker.wary:
            worker.wary -= 1
            return 0
        return random.randrange(2 * min(_MAX_UNTIMED, int(_SAMPLE_S / max(ended - began, 1e-9))) + 1) if dense else 0
