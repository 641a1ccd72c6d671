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
_SAMPLE_S = 800e-6
"""A worker whose handlings follow each other densely times one tick in so many seconds of handling,"""
_MAX_UNTIMED = 255
"""but no fewer than one in so many and one, on average: the gaps are random, or they could fall into step with a rhythm in the feed."""
_WARY = 2 * _MAX_UNTIMED
"""Ticks that it times one by one after a stretch of untimed ones that took too long: there were slow ones among them."""
_DENSE_S = 0.001
_CREDIT_S = 0.005
"""A worker that has timed none for so long times the next, whatever it may leave out: two hundred a second tell enough of a light load."""
_SPRINT = 63
"""Ticks that are handled without a look at the clock, at most."""


class LoopWork(Generic[T]):
    """Takes ticks for the workers of a pool and awaits their handlers."""

    def __init__(self, pool: WorkerPool[T]) -> None:
        self._pool = pool
        self._state = pool.state
        self._ordered = pool.ordered
        self._now = trio.lowlevel.current_clock().current_time
        self._sprinter: Worker[T] | None = None
        """Who was the last to begin a sprint; nobody, if a tick was taken otherwise since. Where a worker comes back from a handler and
        is not the sprinter any more, others have run, and the lease of its tick is written down."""

    async def work(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        """Handle ticks until no more can come, or *worker* is to leave."""
        while True:
            # Only cancelled while the worker waits in a reader's place, to call it off. One for all waits: where ticks come one by one, to
            # enter and leave it took an eighth of a tick's time.
            with trio.CancelScope() as scope:
                await self._work(worker, receive, scope)
                return
            worker.untimed = 0  # it has slept

    async def _work(self, worker: Worker[T], receive: TickReceiveChannel[T], scope: trio.CancelScope) -> None:
        state, buffer = self._state, self._state.buffer
        while not worker.leaving:
            if buffer or state.lanes.ready:
                if not worker.untimed:
                    try:
                        symbol, item, arrived = self._take_one(worker)
                    except IndexError:
                        continue  # all of it is parked now
                    await self._handle_one(worker, symbol, item, arrived)
                    now = self._now()
                    if worker.untimed:
                        now = await self._run_on(worker, now)
                else:
                    # It has slept since it timed one.
                    if state.sleeping_receivers and len(buffer) > 1:
                        self._pool.keep_one_free(worker)
                    now = await self._run_on(worker, worker.burst_began)
                if now - worker.burst_began > _BURST_S:
                    await self._let_others_run(worker)
            elif not await self._pool.next_ticks(worker, receive, scope):
                return
            elif worker.untimed and worker.burst_began - worker.timed_at > _CREDIT_S:
                worker.untimed = 0

    async def _run_on(self, worker: Worker[T], began: float) -> float:
        """Handle ticks that may go untimed in sprints, with a look at the clock after each. The last look was when it *began*.

        Returns when it looked last.
        """
        state, buffer = self._state, self._state.buffer
        while worker.untimed:
            if state.attention:
                worker.untimed = 0
                break
            before = worker.consumed
            undisturbed = await self._sprint(worker, min(worker.untimed, _SPRINT, len(buffer)))
            worker.untimed = worker.untimed - (worker.consumed - before) if undisturbed else 0
            now = self._now()
            if now - began > _DENSE_S:
                worker.wary = _WARY
                worker.untimed = 0
            began = now
            if not buffer or now - worker.burst_began > _BURST_S:
                break
        return began

    async def _sprint(self, worker: Worker[T], count: int) -> bool:
        """Handle up to *count* ticks, or all there are; False where something came between. The hot path.

        What only changes while others run is told by one flag, ``attention``. The lease of the tick in hand is not written down: that
        is done by whoever takes a tick while we wait in a handler (:meth:`_claim`), which most handlers never do.
        """
        state, handler = self._state, worker.handler
        buffer, lanes, ledger = state.buffer, state.lanes, state.ledger
        take, lines = buffer.take if state.ages is None else state.take_fresh, lanes.lines
        if self._sprinter is not None:
            self._claim()
        self._sprinter = worker
        for _ in range(count):
            try:
                item = take()
            except IndexError:
                worker.current = None
                return True
            if lines and item.symbol in lines:
                lanes.park(item.symbol, item, buffer.arrival())
                continue
            ledger.delivered += 1
            worker.current = item
            try:
                await handler(item)
            except Exception as error:
                worker.failed += 1
                self._claim()
                worker.current = None
                await self._pool.report(worker, item, error)
                self._release(item.symbol)
                return False
            worker.consumed += 1
            if self._sprinter is not worker:
                worker.current = None
                self._release(item.symbol)
                return False
            if state.attention:
                break
        else:
            worker.current = None
            return True
        worker.current = None
        return False

    def _claim(self) -> None:
        """Write down the lease of the worker that waits in the middle of a sprint, if there is one."""
        sprinter, self._sprinter = self._sprinter, None
        if sprinter is not None and sprinter.current is not None and self._ordered:
            self._state.lanes.lines[sprinter.current.symbol] = None

    def _release(self, symbol: str) -> None:
        if self._ordered:
            self._state.release(symbol)

    def _take_one(self, worker: Worker[T]) -> tuple[str, T, float]:
        """Take the next tick whose symbol nobody handles, and lease it; park the ticks before it. IndexError where there is none."""
        state = self._state
        buffer, lanes = state.buffer, state.lanes
        self._claim()
        if lanes.is_ready():
            symbol, item, arrived = lanes.take()
        else:
            while True:
                item = buffer.take()
                if state.gaps.lanes:
                    item = state.leave_buffer(item)
                symbol, arrived = item.symbol, buffer.arrival()
                if not self._ordered:
                    break
                if symbol not in lanes.lines:
                    lanes.lines[symbol] = None
                    break
                lanes.park(symbol, item, arrived)
        if state.sleeping_senders:
            state.wake_sender()
        if state.sleeping_receivers:
            self._pool.keep_one_free(worker)
        state.look()
        return symbol, item, arrived

    async def _handle_one(self, worker: Worker[T], symbol: str, item: T, arrived: float) -> None:
        """Handle a tick with all that may be due: staleness, gaps, the clock; and see how many may follow without."""
        state = self._state
        if state.ages is not None and state.is_stale(item, arrived):
            state.drop_queued((item,), "stale")
        elif (plain := await self._pool.told(worker, item) if state.untold else item) is not None:
            state.ledger.delivered += 1
            worker.current = plain
            began = self._now()
            try:
                await worker.handler(plain)
            except Exception as error:
                worker.failed += 1
                worker.current = None
                self._measure(worker, plain, arrived, began)
                await self._pool.report(worker, plain, error)
            else:
                worker.consumed += 1
                worker.current = None
                self._measure(worker, plain, arrived, began)
                if self._pool.breaker:
                    self._pool.note(plain.symbol, failed=False)
        self._release(symbol)
        state.look()

    def _measure(self, worker: Worker[T], item: T, arrived: float, began: float) -> None:
        """Record how the handling of *item* went, and see how many ticks may go untimed now."""
        ended = self._now()
        self._pool.meters.handled(item, arrived, began, ended)
        dense = began - worker.timed_at < _DENSE_S
        worker.timed_at = ended
        if worker.wary:
            worker.wary -= 1
        elif dense:
            worker.untimed = random.randrange(2 * min(_MAX_UNTIMED, int(_SAMPLE_S / max(ended - began, 1e-9))) + 1)

    async def _let_others_run(self, worker: Worker[T]) -> None:
        if self._state.on_change is not None:
            self._state.on_change()
        await trio.lowlevel.checkpoint()
        worker.burst_began = self._now()
