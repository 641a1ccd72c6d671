"""The steps of a plan: measure, simulate a table of settings, choose, look around.

Rules: whatever is simulated goes through one sweep at a time, on all cores. A handler
is measured with as many workers as the load suggests; if the advice is another number,
it is measured with that number too, and the advice is made anew from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, Final, final

import attrs
import trio

from ..control.cores import usable_cores
from ..feeds.recording_files import Where
from ..handlers.kinds import Place
from ..handlers.replays import begin_replaying
from ..overflow import Conflate, DropNewest, DropOldest, OverflowStrategy
from ..simulation.jobs import Job, Summary
from ..simulation.loads import Services
from .choosing import (
    best,
    hot_symbol,
    knee_of,
    lowest,
    patience_s,
    room_for,
    sizes_around,
    workers_around,
)
from .filling import busiest_arrivals
from .growing import simulate_growth
from .hush import hushed
from .measuring import Measured, measure
from .notes import notes_of
from .past import Past
from .places import other_places
from .plan import Plan
from .plans import Advice, Elsewhere, Row, Target, Verified, strategy_text
from .predicting import predict
from .simulating import UNBOUNDED, Progress, Simulator, Wishes
from .verifying import first_items, play

__all__ = ["Planner"]

_SYMBOLS: Final = 50
_COMPARE_S: Final = 2.0
"""Places that are only compared are measured so long at most, in seconds."""


@final
class Planner:
    """Makes one plan.

    Args:
        recording: how the plan calls it.
        past: what was read of it.
        handler: the user's.
        place: where it runs.
        wishes: what is asked for.
        tell: is told of the progress.
    """

    def __init__(
        self,
        recording: str,
        past: Past,
        handler: Any,
        place: Place,
        wishes: Wishes,
        tell: Progress,
    ) -> None:
        self._recording = recording
        self._past = past
        self._load = past.load
        self._handler = handler
        self._place: Place = place
        self._wishes = wishes
        self._target = wishes.target
        load = past.load.faster(wishes.target.factor)
        self._arrivals = busiest_arrivals(load, wishes.measure_s)
        self._tell = tell
        self._services: dict[str, Services] = {}
        self._simulator = Simulator(
            tell,
            ordering=wishes.ordering,
            factor=wishes.target.factor,
            processes=wishes.processes,
        )
        self._job = self._simulator.job
        self._patience_s = patience_s(wishes.target.p99_lag_s)

    # Measuring

    def _measured(self, place: Place, workers: int, limit_s: float) -> Measured:
        """Measure the handler; it is told that this is a replay."""

        async def main() -> Measured:
            begin_replaying()
            return await measure(
                self._handler,
                self._past.sample,
                self._past.sample_symbols,
                executor=place,
                workers=workers,
                limit_s=limit_s,
                arrivals=self._arrivals,
                ordering=self._wishes.ordering,
            )

        self._tell(f"measuring the handler with {workers} workers", 0.0, limit_s)
        with hushed():
            measured = trio.run(main)
        self._tell(f"measuring the handler with {workers} workers", limit_s, limit_s)
        return measured

    def _first_measured(self) -> Measured:
        """Measure with as many workers as the average rate keeps busy."""
        wishes, load = self._wishes, self._load
        workers = wishes.workers[0] if wishes.workers else 4
        measured = self._measured(self._place, workers, min(1.0, wishes.measure_s))
        rate = min(load.rate, load.busiest(1.0)[0]) * self._target.factor
        wanted = math.ceil(rate * (measured.mean_s + measured.turnaround_s) / 0.7)
        wanted = max(1, min(wanted, wishes.most_workers))
        if measured.computes:
            wanted = min(wanted, workers)
        if wishes.workers:
            wanted = min(wishes.workers, key=lambda number: abs(number - wanted))
        return self._measured(self._place, wanted, wishes.measure_s)

    # Simulating

    def _simulated(
        self, what: str, jobs: Sequence[Job], services: Mapping[str, Services] | None = None
    ) -> list[tuple[Row, Summary]]:
        return self._simulator.run(what, jobs, self._load, services or self._services)

    def _use(self, measured: Measured) -> None:
        """Let the next simulations rest on *measured*."""
        self._services = {"": measured.services(self._load, Random(self._wishes.seed))}

    # Choosing

    def run(self, *, compare: bool) -> Plan:
        """Return the plan.

        Args:
            compare: whether to measure the handler in other places too.

        Raises:
            ConfigError: the handler cannot be measured.
            TickError: a process that simulates has ended.
        """
        first = self._first_measured()
        measured = [first]
        rows, chosen = self._table(first)
        if not first.computes and not first.workers / 2 < chosen.workers < first.workers * 2:
            again = self._measured(self._place, chosen.workers, self._wishes.measure_s)
            if again.computes:
                # So many workers keep the core busy that a waiting handler leaves idle.
                measured = [first.limited(again.rate), again]
            else:
                measured.insert(0, again)
            rows, chosen = self._table(measured[0])
        if compare:
            measured += self._others(measured[0], chosen.workers)
        return self._assembled(tuple(measured), rows, chosen)

    def _others(self, basis: Measured, workers: int) -> Iterable[Measured]:
        """Measure the handler in the other places where it can run."""
        cores = math.ceil(usable_cores())
        for place, why_not in other_places(self._handler, self._place):
            if why_not is None:
                number = workers
                if place == "process":
                    number = cores if basis.computes else min(workers, cores)
                yield self._measured(place, number, min(_COMPARE_S, self._wishes.measure_s))

    def _table(self, measured: Measured) -> tuple[list[Row], Row]:
        """Simulate workers by sizes of the queue; return all rows, and the chosen."""
        self._use(measured)
        wishes, target, mean_s = self._wishes, self._target, self._services[""].mean_s()
        numbers = wishes.workers or (
            (1, 2, 4)
            if measured.computes
            else workers_around(self._load, mean_s, target.factor, wishes.most_workers)
        )
        free = DropNewest(self._patience_s)
        unbounded = self._simulated(
            "simulating unbounded queues", [self._job(each, UNBOUNDED, free) for each in numbers]
        )
        fitting = lowest((row for row, _ in unbounded), target)
        middle = fitting or best([row for row, _ in unbounded], target)
        held = max(1, int(target.p99_lag_s * middle.workers / max(mean_s, 1e-9)))
        sizes = wishes.maxsizes or sizes_around(middle.peak, held)
        jobs = [self._job(number, size, free) for number in numbers for size in sizes]
        rows = [row for row, _ in self._simulated("simulating settings", jobs)]
        found = lowest(rows, target) or best(rows, target)
        if wishes.maxsizes is None and fitting is not None and not target.max_drop_rate:
            # Shorter queues may lose nothing either, as long as the feed's patience
            # lasts: that is for what the recording does not have.
            job = self._job(fitting.workers, room_for(fitting.peak), free)
            ((found, _),) = self._simulated("simulating the advice", [job])
        return rows, found

    def _assembled(self, measured: tuple[Measured, ...], rows: list[Row], chosen: Row) -> Plan:
        """Look around what was chosen, and return the plan."""
        load, target = self._load, self._target
        strategies, unordered = self._strategies(chosen)
        overflow = self._strategy(chosen, strategies)
        places = self._places(measured, chosen)
        better = next((each for each in places if each.row.meets(target)), None)
        if better is not None and not self._is_met(chosen, strategies, overflow):
            # Where the handler runs now no setting does: so it is to run elsewhere.
            there = next(each for each in measured if each.executor == better.executor)
            measured = (there, *(each for each in measured if each is not there))
            chosen, overflow = better.row, DropNewest(self._patience_s)
            self._use(there)
        basis = measured[0]
        wishes, simulator = self._wishes, self._simulator
        size = chosen.workers, chosen.maxsize
        expected = predict(basis, load, *size, overflow, simulator, wishes.seed)
        chosen = expected.row
        growth, losers, losers_factor = simulate_growth(
            load, basis, chosen, overflow, wishes, simulator
        )
        plan = Plan(
            **self._of_recording(),
            **self._of_load(basis, chosen, overflow),
            target=target,
            measured=measured,
            predicted=chosen,
            drop_interval=expected.drops,
            lag_interval=expected.lags,
            windows=tuple(
                (each.begins_s, each.drop_rate, each.p99_lag_s)
                for each in expected.summary.stretches
            ),
            table=tuple(rows),
            strategies=tuple(strategies),
            places=places,
            unordered=unordered,
            growth=tuple(growth),
            knee_workers=_knee_workers(rows, target),
            knee_maxsize=_knee_maxsize(rows, chosen.workers),
            losers=losers,
            losers_factor=losers_factor,
            notes=(),
        )
        return attrs.evolve(plan, notes=notes_of(plan))

    def _of_recording(self) -> dict[str, Any]:
        """Return what a plan says of the recording."""
        load, counts = self._load, self._load.counts()
        return {
            "recording": self._recording,
            "began": self._past.began,
            "bars": self._past.bars,
            "ticks": len(load),
            "span_s": load.span_s,
            "rate": load.rate,
            "busiest": {window: load.busiest(window)[0] for window in (0.01, 0.1, 1.0, 10.0)},
            "symbols": dict(list(counts.items())[:_SYMBOLS]),
            "symbol_count": len(counts),
        }

    def _of_load(self, basis: Measured, chosen: Row, overflow: OverflowStrategy) -> dict[str, Any]:
        """Return the advice, and how it compares with what the load asks for."""
        load, target, services = self._load, self._target, self._services[""]
        mean_s = services.mean_s()
        one_s = services.mean_busy_s() if basis.computes else mean_s / chosen.workers
        workers = 1 if basis.computes else chosen.workers
        rate = load.rate * target.factor
        ordered = self._wishes.ordering == "symbol"
        return {
            "advice": Advice(
                workers=chosen.workers,
                maxsize=chosen.maxsize,
                write_timeout=self._patience_s,
                lag_threshold=self._warn_at(chosen, one_s),
                executor=basis.executor,
                overflow=overflow,
                ordering=self._wishes.ordering,
                met=chosen.meets(target),
            ),
            "load": rate * one_s,
            "budget_s": workers / rate,
            "busy_budget_s": workers / (load.busiest(target.factor)[0] * target.factor),
            "classic_maxsize": max(1, math.ceil(10 * rate)) if rate < math.inf else len(load),
            "alone": hot_symbol(load, mean_s, target.factor) if ordered else None,
        }

    def _strategies(self, chosen: Row) -> tuple[list[Row], Row | None]:
        """Simulate the chosen workers and queue under each strategy.

        Returns:
            A row for each, and what the first one does without order, if there is one.
        """
        free = DropNewest(self._patience_s)
        overflows = (free, DropNewest(0.0), DropOldest(), Conflate())
        jobs = [self._job(chosen.workers, chosen.maxsize, each) for each in overflows]
        if self._wishes.ordering == "symbol":
            jobs.append(self._job(chosen.workers, chosen.maxsize, free, ordering="none"))
        rows = [row for row, _ in self._simulated("simulating strategies", jobs)]
        return rows[:4], rows[4] if len(rows) > 4 else None

    def _strategy(self, chosen: Row, strategies: Sequence[Row]) -> OverflowStrategy:
        """Return the strategy to advise.

        The default where nothing is lost. Where the load is too much, ticks that are
        handled should be fresh: the oldest are dropped, if that keeps the lag.
        """
        if chosen.meets(self._target):
            return DropNewest(self._patience_s)
        # A quote says all that an older one did; a trade or a book update does not.
        only_quotes = self._load.kinds is None
        others: tuple[OverflowStrategy, ...] = (DropOldest(), Conflate())
        for row, each in zip(strategies[2:], others, strict=True):
            if row.meets(self._target) and (only_quotes or not isinstance(each, Conflate)):
                return each
        return (
            DropOldest()
            if strategies[2].p99_lag_s < chosen.p99_lag_s
            else DropNewest(self._patience_s)
        )

    def _is_met(self, chosen: Row, strategies: Sequence[Row], overflow: OverflowStrategy) -> bool:
        """Tell whether the target is met with *overflow*, as far as was simulated."""
        found = [row for row in strategies if row.overflow == strategy_text(overflow)]
        return any(row.meets(self._target) for row in (found or [chosen]))

    def _places(self, measured: Sequence[Measured], chosen: Row) -> tuple[Elsewhere, ...]:
        """Simulate the handler in the other places where it was measured."""
        found = []
        for each in measured[1:]:
            if each.executor != measured[0].executor:
                services = {"": each.services(self._load, Random(self._wishes.seed))}
                job = self._job(each.workers, chosen.maxsize, DropNewest(self._patience_s))
                ((row, _),) = self._simulated("simulating other places", [job], services)
                found.append(Elsewhere(each.executor, row))
        return tuple(found)

    def _warn_at(self, chosen: Row, one_s: float) -> int:
        """Return the queue's length from which on ticks come later than is allowed."""
        late = self._target.p99_lag_s / one_s if one_s > 0 else math.inf
        return max(1, int(min(chosen.maxsize / 2, late)))

    # Real runs

    def verify(
        self,
        recording: Where,
        advice: Advice,
        runs: int,
        limit_s: float,
        **language: Any,
    ) -> tuple[tuple[Verified, ...], Row]:
        """Play the recording's beginning through the real pipeline, as it is advised.

        Args:
            recording: again, since its ticks were not kept.
            advice: the settings.
            runs: how many times.
            limit_s: how much of the recording, in seconds.
            **language: how to read it.

        Returns:
            What each run did, and what is predicted for the same ticks.
        """
        items = first_items(recording, self._load, limit_s, self._target.factor, **language)
        count = len(items)
        part = self._load.part(0, count)
        faster = part.faster(self._target.factor)
        services = {"": attrs.evolve(self._services[""], places=self._services[""].places[:count])}
        job = self._job(advice.workers, advice.maxsize, advice.overflow)
        ((predicted, _summary),) = self._simulator.run("simulating", [job], part, services)
        verified = []
        for number in range(runs):
            self._tell("playing the recording", number, runs)

            async def main() -> Verified:
                begin_replaying()
                return await play(faster, items, self._handler, **advice.settings())

            with hushed():
                verified.append(trio.run(main))
        self._tell("playing the recording", runs, runs)
        return tuple(verified), predicted


def _knee_workers(rows: Sequence[Row], target: Target) -> int | None:
    """Return the number of workers behind which the p99 lag hardly gets shorter."""
    lags: dict[int, float] = {}
    for row in rows:
        # The longest queue that was tried: a short one keeps lags short by dropping.
        lags[row.workers] = math.inf if math.isnan(row.p99_lag_s) else row.p99_lag_s
    return knee_of(list(lags.items()), target.p99_lag_s / 50)


def _knee_maxsize(rows: Sequence[Row], workers: int) -> int | None:
    """Return the size of the queue behind which hardly fewer ticks are lost."""
    drops = [(row.maxsize, row.drop_rate) for row in rows if row.workers == workers]
    return knee_of(drops, 1e-6)
