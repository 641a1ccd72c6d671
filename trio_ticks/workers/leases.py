"""Which ticks a worker takes at a time, and which of them go back: the sync steps.

Plan: a worker leases a batch, and it and its symbols are its own until the batch is
settled. A batch is sized so that it holds a few milliseconds of work, by how long the
ticks of the last batch took. What a batch has not begun may go back to the lanes.

Rules: nothing here waits, runs a handler or reports; ``batch_work.py`` does that. The
simulation calls the same steps, so a change here changes what is predicted too. Sync;
times are arguments.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Generic, TypeVar

from ..channel.lanes import Lanes
from ..channel.state import ChannelState
from ..gaps import Gap
from ..ticks import MarketData
from .batch import Batch

__all__ = ["LATE_S", "Leases", "ProcessLeases", "Take"]

T = TypeVar("T", bound=MarketData)

Take = Callable[[dict[str, None], str | None], tuple[str | None, Any, float] | None]
"""Takes the next tick for a worker; see :meth:`Taking.next_tick` for what is given and
returned."""

LATE_S = 0.01
"""Ticks behind one that takes longer than this are called back, in seconds."""
_BATCH_S = 0.005
"""How much work a thread is given at once, in seconds of handler time."""
_DEEP = 4
"""A deep batch holds this many times as many ticks: see :meth:`Leases.size`."""
_MAX_BATCH = 256
"""No batch holds more ticks than this, except a batch handler's."""
_PROCESS_BATCH_S = (0.01, 0.02)
"""The least and the most work that a process's batch holds, in seconds of handler time.

It holds less if fewer ticks wait."""
_HAND_OVERS = 25
"""Within ``_PROCESS_BATCH_S``, a batch holds 25 times as much work as handing it over
takes."""


class Leases(Generic[T]):
    """Forms the batches of a pool's workers.

    Args:
        state: of the channel.
        ordered: whether a symbol's ticks are handled one at a time.
        calls_back: whether ticks that a batch has not begun can go back.
        fixed: how many ticks a batch holds at most; ``None``: that is found out.
    """

    def __init__(
        self,
        state: ChannelState[T],
        *,
        ordered: bool,
        calls_back: bool,
        fixed: int | None = None,
    ) -> None:
        self.take: Take = partial(state.taking.next_tick, ordered=ordered)
        """Takes the next tick that any worker may handle."""
        self._state = state
        self._ordered = ordered
        self._calls_back = calls_back
        self._fixed = fixed is not None
        self._limit = 1 if fixed is None else fixed
        self._batch_s = _BATCH_S
        self._lane_numbers = itertools.count()

    def size(self, workers: int, *, all_busy: bool) -> int:
        """Return how many ticks to take for the next batch of one of *workers*.

        Take deep batches only if every worker is busy and the queue holds two deep
        batches each; otherwise an idle worker would starve. Deep batches are worth it
        because each way to a thread and back costs as much as handling several ticks.
        """
        limit = self._limit
        if not (self._calls_back and all_busy):
            return limit
        more = min(limit * _DEEP, _MAX_BATCH)
        return more if self._state.used > 2 * more * workers else limit

    def learn(self, batch: Batch[T], done: int, handed_s: float) -> None:
        """Size the next batches by how long the first *done* ticks of *batch* took.

        Not for a batch handler's, whose ticks have no times of their own.

        Args:
            batch: has run, and at least one of its ticks has an outcome.
            done: how many.
            handed_s: how long it took to hand it over and to get it back, in seconds.
        """
        turns = batch.began_at
        count = min(done, len(turns) - 1)
        mean_s = (turns[count] - turns[0]) / count
        fitting = int(self._batch_s / mean_s) if mean_s > 0 else _MAX_BATCH
        self._limit = max(1, min(_MAX_BATCH, fitting, self._limit * 2))

    def lease(self, take: Take, limit: int) -> tuple[Batch[T] | None, list[Gap]]:
        """Take the ticks of a batch and, with order, lease their symbols.

        Ticks of symbols that other workers have leased are parked.

        Args:
            take: takes the next tick that the worker may handle.
            limit: how many ticks to take at most.

        Returns:
            The batch, ``None`` if there is no such tick; and the gaps to announce
            before it. With order, a tick with a gap before it begins a new batch.
        """
        state, taking, losses = self._state, self._state.taking, self._state.losses
        lanes: Lanes[Any] = state.lanes  # a lane also holds marked ticks
        symbols: dict[str, None] = {}
        gaps: list[Gap] = []
        found = take(symbols, None)
        if found is None:
            return None, gaps
        items: list[T] = []
        arrivals: list[float] = []
        while found is not None:
            lane, item, arrived = found
            gap = None
            if state.ages is not None and taking.drop_if_stale(item, arrived):
                item = None
            elif losses.attention and losses.unannounced:
                item, gap = taking.inspect(item)
            if gap is not None:
                if items and self._ordered:
                    lanes.park_first(item.symbol, losses.marked_again(item, gap), arrived)
                    break
                gaps.append(gap)
            if item is not None:
                items.append(item)
                arrivals.append(arrived)
            found = take(symbols, lane) if len(items) < limit else None
        state.ledger.delivered += len(items)
        if not items:
            for symbol in symbols:
                losses.release(symbol)
            return None, gaps
        return Batch(items, arrivals, symbols, calls_back=self._calls_back), gaps

    def release(self, batch: Batch[T]) -> None:
        """End the leases of *batch*, of which all ticks are settled."""
        for symbol in batch.symbols:
            self._state.losses.release(symbol)

    # What goes back

    def may_be_late(self, batch: Batch[T]) -> bool:
        """Tell whether ticks or symbols of *batch* wait behind the one in hand."""
        return bool(batch.todo) or len(batch.symbols) > 1

    def is_late(self, batch: Batch[T], now: float) -> bool:
        """Tell whether its tick takes so long that those are to be called back."""
        return not batch.began_at or now - batch.began_at[-1] >= LATE_S

    def take_back(self, batch: Batch[T]) -> None:
        """Put the ticks that *batch* has not begun back, for other workers."""
        rest = batch.call_back()
        under_way = {item.symbol for item in batch.items[batch.settled :]}
        # A thread appends a failure before it counts the tick as done: reading them in
        # the reverse order misses none. The symbol's next tick must not begin before
        # the failure is reported.
        failed = {batch.items[index].symbol for index, _error in tuple(batch.failures)}
        self.put_back(batch, rest, under_way | failed | batch.reporting)

    def put_back(self, batch: Batch[T], rest: list[tuple[T, float]], busy: Collection[str]) -> None:
        """Put *rest*, the end of *batch*, before all queued ticks of the same symbols.

        Symbols in *busy* stay leased for the batch.
        """
        state, lanes = self._state, self._state.lanes
        state.ledger.delivered -= len(rest)
        if self._ordered:
            for symbol in dict.fromkeys(item.symbol for item, _arrived in rest):
                # A gap at the head was found behind the batch, so announce it behind
                # the ticks that come back now.
                state.losses.defer_gap(symbol)
            for item, arrived in reversed(rest):
                lanes.park_first(item.symbol, item, arrived)
            for symbol in batch.symbols:
                if symbol not in busy:
                    state.losses.release(symbol)
            batch.symbols = {symbol: None for symbol in batch.symbols if symbol in busy}
        else:
            # Without order nothing is leased. Each tick gets a lane with a name of its
            # own, so that any worker may take it at once.
            for item, arrived in rest:
                name = f"{item.symbol} {next(self._lane_numbers)}"
                lanes.lines[name] = None
                lanes.park(name, item, arrived)
                state.losses.release(name)
        if (over := state.used - state.maxsize) > 0:
            # A strategy that evicts has let in others meanwhile. What was put back is
            # the oldest, so evict that.
            state.drops.drop(lanes.evict(over), "evicted")

    def drop_stale(self, batch: Batch[T], stale: list[T], failed: Collection[str]) -> None:
        """Drop *stale*, ticks of *batch* that were too old when their turn came.

        They are treated as if they had been found in the channel: each leaves a gap,
        and its book may need a snapshot. So the ticks behind them go back to the queue,
        to be inspected again when they are taken.

        Args:
            batch: has run.
            stale: ticks of it.
            failed: symbols whose failure is still to be reported; they stay leased.
        """
        batch.settle()
        self.put_back(batch, batch.call_back_all(), failed)
        self._state.ledger.delivered -= len(stale)
        self._state.drops.drop(stale, "stale")


class ProcessLeases(Leases[T]):
    """Forms the batches of workers with a process each.

    A process's batch cannot be called back, and holds more the longer it takes to hand
    one over.

    Args:
        state: of the channel.
        ordered: whether a symbol's ticks are handled one at a time.
        fixed: how many ticks a batch holds at most; ``None``: that is found out.
    """

    def __init__(self, state: ChannelState[T], *, ordered: bool, fixed: int | None = None) -> None:
        super().__init__(state, ordered=ordered, calls_back=False, fixed=fixed)
        self._batch_s = _PROCESS_BATCH_S[0]
        self._hand_over_s = 0.0

    def size(self, workers: int, *, all_busy: bool) -> int:
        """Return how many ticks to take for the next batch of one of *workers*.

        Without order, no worker takes more than its share of the queue: another one
        could begin the rest at once. With order, no other one may.
        """
        if self._ordered or self._fixed:
            return self._limit
        share = -(-self._state.used // max(1, workers))
        return max(1, min(self._limit, share))

    def learn(self, batch: Batch[T], done: int, handed_s: float) -> None:
        """Size the next batches, also by how long handing them over takes lately."""
        self._hand_over_s += 0.1 * (handed_s - self._hand_over_s)
        least_s, most_s = _PROCESS_BATCH_S
        self._batch_s = min(most_s, max(least_s, _HAND_OVERS * self._hand_over_s))
        super().learn(batch, done, handed_s)
