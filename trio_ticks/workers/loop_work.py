"""How a worker in the event loop takes its ticks: one at a time.

So the ticks that wait behind a slow one stay in the queue, for other workers.

Plan: with a quick handler, reading the clock, checking for gaps and waking others cost
a large part of a tick's time. A worker therefore handles one tick with all of that
(:meth:`LoopWork._handle_one`), and then a random number of quick ticks without it
(:meth:`LoopWork._sprint`): none of it can become due while no other task runs.

Rules:

- Whoever changes something that a sprint must not miss sets the flag ``attention`` of
  the channel's losses, or takes a tick, which clears ``_sprinter``. The sprint checks
  both after each handler; it checks nothing else.
- A tick leaves ``current`` in the same step in which it is counted.
- What waits for room enters before a handler's wait is over: a sprint does not look
  for it, so it has it let in as soon as another task runs (:meth:`_others_run`).
- A line more in :meth:`LoopWork._sprint` costs every tick. Measure before you add one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Generic, TypeVar

import trio

from ..channel.ends import TickReceiveChannel
from ..failures import is_request_to_end
from ..gaps import Gap
from ..handlers.contexts import call_apart, renew
from ..ticks import MarketData
from ..uninterrupted import uninterrupted
from .crew import Crew
from .worker import Worker

__all__ = ["LoopWork"]

T = TypeVar("T", bound=MarketData)

_BURST_S = 0.001
"""A worker lets other tasks run after handling ticks for this many seconds.

It reads the clock between sprints only, so a burst may last a sprint longer."""
_SAMPLE_S = 800e-6
"""Under a dense load, time one tick per this many seconds of handling, on average."""
_MAX_UNTIMED = 255
"""Time at least one of 256 ticks on average, however quick they are.

The number of untimed ticks is random: a fixed one could fall into step with a rhythm in
the feed, and always time the same symbol."""
_WARY_AT_FIRST = 128
"""Time this many ticks one by one after a slow sprint: slow ticks may have been among
them. Or another program had the processor meanwhile; then these ticks are quick."""
_WARY = 2 * _MAX_UNTIMED
"""Time this many ticks one by one if one of those was slow."""
_DENSE_S = 0.001
"""The load is dense if a tick begins sooner than this after the last timed one, in
seconds. Only under a dense load do ticks go untimed."""
_SLOW_S = 0.001
"""A sprint that took longer than this was slow, and so was a tick, in seconds."""
_CREDIT_S = 0.005
"""Time the next tick if none was timed for this many seconds.

Under a light load that makes 200 samples a second, which is enough for percentiles."""
_SPRINT = 63
"""How many ticks are handled at most between two readings of the clock."""


@uninterrupted
class LoopWork(Generic[T]):
    """Takes ticks for the workers of a pool and awaits their handlers."""

    def __init__(self, crew: Crew[T]) -> None:
        self._crew = crew
        self._state = crew.state
        self._losses = crew.state.losses
        self._taking = crew.state.taking
        self._ordered = crew.ordered
        self._now = crew.state.now
        self._sprinter: Worker[T] | None = None
        """The worker whose current tick is leased implicitly (not in ``lanes.lines``).

        A worker that takes a tick first makes that lease explicit (:meth:`_claim`) and
        sets this to None. If a worker comes back from its handler and is not the
        sprinter any more, others have run, and its lease is in ``lanes.lines``."""
        self._run_soon = trio.lowlevel.current_trio_token().run_sync_soon
        self._letting_in = False
        """Whether :meth:`_others_run` is going to run."""

    async def attend(self, receive: TickReceiveChannel[T]) -> None:
        """Do nothing: nothing has to be done beside the workers."""

    def stop(self) -> None:
        """Do nothing: there is no task to end."""

    def reserved(self) -> int:
        """Return 0: a worker begins each tick that it takes, so it gives none back."""
        return 0

    def room_wanted(self) -> None:
        """End the sprint of a worker that waits in its handler.

        It began before anything waited, so its next tick would leave room that nobody
        is told of.
        """
        self._claim()

    def take_all_back(self) -> None:
        """Do nothing: a worker begins each tick that it takes."""

    def interrupt(self) -> None:
        """End the sprint of a worker that waits in its handler."""
        self._claim()

    def arrival(self, worker: Worker[T]) -> float | None:
        """Return when the tick that *worker* handles or reports arrived, if it has one.

        That of a tick in a sprint is not written down. It was taken last, unless others
        have taken ticks since; they see to it (:meth:`_claim`).
        """
        if worker.current is None and not worker.reporting:
            return None
        if worker.current is not None and self._sprinter is worker:
            return self._state.buffer.arrival()
        return worker.arrived

    async def announce_gap(self, worker: Worker[T], gap: Gap | list[Gap]) -> None:
        """Await the handler of *worker* with *gap*."""
        await call_apart(worker.handler, gap)

    async def work(self, worker: Worker[T], receive: TickReceiveChannel[T]) -> None:
        """Handle ticks until no more can come, or *worker* is to leave."""
        while True:
            # The scope is cancelled only to call the worker off while it reads a socket
            # in its reader's place. One scope serves many waits: where ticks come one
            # by one, entering and leaving a scope for each took an eighth of a tick's
            # time.
            with trio.CancelScope() as scope:
                await self._work(worker, receive, scope)
                return
            worker.untimed = 0  # it was called off after a sleep: time its next tick

    async def _work(
        self, worker: Worker[T], receive: TickReceiveChannel[T], scope: trio.CancelScope
    ) -> None:
        state, buffer, gate = self._state, self._state.buffer, self._crew.gate
        while not worker.leaving:
            if gate.closed:
                await gate.passed(worker)
                if worker.leaving:
                    return
            if not buffer and state.deliveries.pending:
                self._taking.move_up()
            if buffer or state.lanes.ready:
                if not worker.untimed:
                    taken = self._take_one(worker)
                    if taken is None:
                        continue  # all that was queued is parked behind busy symbols now
                    await self._handle_one(worker, *taken)
                    now = self._now()
                    if worker.untimed:
                        now = await self._run_on(worker, now)
                else:
                    # The worker has slept and may still leave ticks untimed. It does
                    # not come through _take_one, so wake another worker here for the
                    # ticks behind its first one.
                    if state.sleepers.sleeping and len(buffer) > 1:
                        self._crew.keep_one_free(worker)
                    now = await self._run_on(worker, worker.burst_began)
                if now - worker.burst_began > _BURST_S:
                    await self._let_others_run(worker)
            elif not await self._crew.wait_for_ticks(worker, receive, scope):
                return
            elif worker.untimed and worker.burst_began - worker.timed_at > _CREDIT_S:
                worker.untimed = 0

    async def _run_on(self, worker: Worker[T], began: float) -> float:
        """Handle ticks that may go untimed, in sprints; read the clock after each.

        Args:
            worker: has some untimed ticks left.
            began: when the clock was read last.

        Returns:
            When the clock was read last.
        """
        state, buffer = self._state, self._state.buffer
        losses, gate = self._losses, self._crew.gate
        while worker.untimed:
            if losses.attention or gate.closed or worker.leaving:
                worker.untimed = 0
                break
            before = worker.consumed + worker.failed
            if state.deliveries.pending and not self._letting_in:
                self._letting_in = True
                self._run_soon(self._others_run)
            undisturbed = await self._sprint(worker, min(worker.untimed, _SPRINT, len(buffer)))
            worker.untimed -= worker.consumed + worker.failed - before
            if not undisturbed:
                worker.untimed = 0
            if state.deliveries.pending:
                self._taking.move_up()
            now = self._now()
            if now - began > _SLOW_S:
                worker.wary = max(worker.wary, _WARY_AT_FIRST)
                worker.untimed = 0
            began = now
            if not buffer or now - worker.burst_began > _BURST_S:
                break
        return began

    async def _sprint(self, worker: Worker[T], count: int) -> bool:
        """Handle up to *count* ticks, or all there are. The hot path: see the rules.

        The lease of the current tick is not written down. Most handlers never wait; if
        one does, the worker that takes a tick meanwhile writes it down
        (:meth:`_claim`).

        Returns:
            False if another worker took a tick meanwhile, or ``attention`` is set. Then
            the next tick needs :meth:`_handle_one`.
        """
        state, handler = self._state, worker.handler
        buffer, lanes, ledger = state.buffer, state.lanes, state.ledger
        take = buffer.take if state.ages is None else self._taking.take_fresh
        losses, lines = self._losses, lanes.lines
        clean, is_left, crew = worker.clean.variables, worker.clean.is_left, self._crew
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
                self._sprinter = worker
                await worker.clean.tidy()
                await crew.report_failure(worker, item, error)
                self._release(item.symbol)
                # If nothing has changed meanwhile, go on: where each tick fails, a new
                # sprint for each would cost as much as all the rest.
                if self._sprinter is not worker or losses.attention or _is_held(crew, worker):
                    return False
                continue
            except BaseException as error:
                claim = self._claim
                await _break(crew, worker, item, error, claim)  # noqa: ASYNC102  # bounded
                raise
            worker.consumed += 1
            # Written out, since a call of our own would cost more than the comparison.
            try:
                left = copy_context() != clean
            except Exception:
                left = is_left()
            if left:
                await renew()
            if self._sprinter is not worker:
                worker.current = None
                self._release(item.symbol)
                return False
            if losses.attention:
                break
        else:
            worker.current = None
            return True
        worker.current = None
        return False

    def _others_run(self) -> None:
        """Let in what waits for room, and end the sprint: other tasks run now.

        Letting it in tick by tick, during the sprint, would cost more than the ticks.
        """
        self._letting_in = False
        self._claim()
        self._taking.move_up()

    def _claim(self) -> None:
        """Write down lease and arrival of a worker that waits in mid-sprint, if any."""
        sprinter, self._sprinter = self._sprinter, None
        if sprinter is not None and sprinter.current is not None:
            # From now on others take ticks, and the buffer does not know any more.
            sprinter.arrived = self._state.buffer.arrival()
            if self._ordered:
                self._state.lanes.lines[sprinter.current.symbol] = None

    def _release(self, symbol: str) -> None:
        if self._ordered:
            self._losses.release(symbol)

    def _take_one(self, worker: Worker[T]) -> tuple[str, T, float] | None:
        """Take the next tick whose symbol no worker handles, and lease the symbol.

        Ticks before it, of symbols that are being handled, are parked in their lanes.

        Returns:
            What to release afterwards (its symbol, or the lane's name), the tick, and
            when it arrived; ``None`` if all ticks are parked now.
        """
        state = self._state
        self._claim()
        found = self._taking.next_tick({}, None, ordered=self._ordered)
        if state.deliveries.pending:
            self._taking.move_up()
        if found is None:
            return None
        lane, item, arrived = found
        if state.sleepers.sleeping:
            self._crew.keep_one_free(worker)
        self._losses.refresh_attention()
        return item.symbol if lane is None else lane, item, arrived

    async def _handle_one(self, worker: Worker[T], symbol: str, item: T, arrived: float) -> None:
        """Handle a tick with all that may be due before and after it, and time it.

        That is: drop it if it is stale or held back, announce the gap before it, record
        its latency and its outcome. Then choose how many ticks may follow untimed.
        """
        state, crew = self._state, self._crew
        worker.arrived = arrived
        stale = state.ages is not None and self._taking.drop_if_stale(item, arrived)
        if (
            not stale
            and (
                plain := await crew.announce_gap_before(worker, item)
                if self._losses.unannounced
                else item
            )
            is not None
        ):
            state.ledger.delivered += 1
            worker.current = plain
            began = self._now()
            try:
                await worker.handler(plain)
            except Exception as error:
                worker.failed += 1
                worker.current = None
                self._measure(worker, plain, arrived, began)
                await worker.clean.tidy()
                await crew.report_failure(worker, plain, error)
            except BaseException as error:
                await _break(crew, worker, plain, error, self._claim)  # noqa: ASYNC102  # bounded
                raise
            else:
                worker.consumed += 1
                worker.current = None
                self._measure(worker, plain, arrived, began)
                if crew.breaker:
                    crew.record_outcome(plain.symbol, failed=False)
                await worker.clean.tidy()
        self._release(symbol)
        self._losses.refresh_attention()

    def _measure(self, worker: Worker[T], item: T, arrived: float, began: float) -> None:
        """Record the latency of *item*; choose how many ticks may go untimed now."""
        ended = self._now()
        self._crew.meters.handled(item, arrived, began, ended)
        dense = began - worker.timed_at < _DENSE_S
        worker.timed_at = ended
        if worker.wary:
            worker.wary = _WARY if ended - began > _SLOW_S else worker.wary - 1
        elif dense:
            worker.untimed = self._crew.random.randrange(
                2 * min(_MAX_UNTIMED, int(_SAMPLE_S / max(ended - began, 1e-9))) + 1
            )

    async def _let_others_run(self, worker: Worker[T]) -> None:
        self._state.drops.queue_changed()
        await trio.lowlevel.checkpoint()
        worker.burst_began = self._now()


@uninterrupted
def _is_held(crew: Crew[Any], worker: Worker[Any]) -> bool:
    """Tell whether a look at the pool is due before the next tick of *worker*."""
    return crew.breaker is not None or crew.gate.closed or worker.leaving


@uninterrupted
async def _break(
    crew: Crew[T], worker: Worker[T], item: T, error: BaseException, claim: Callable[[], None]
) -> None:
    """Report that *item* failed by *error*, which is about to end the pipeline.

    If *error* is only a request to end, *item* stays with *worker*. *claim* writes the
    lease of *item* down.
    """
    if is_request_to_end(error):
        return
    worker.failed += 1
    claim()
    worker.current = None
    await crew.report_failure(worker, item, error)
