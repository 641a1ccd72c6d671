"""How long a handler takes, measured in the real pipeline with all workers busy.

Plan: a feed plays the sample of the recording again and again into a pipeline that
blocks, so that no worker waits for ticks, and wakes the event loop as often as the
feed of the pipeline that is planned. What the pipeline's own meters measure of
each handling is written down with the tick's place in the sample. A trio instrument
adds up when the worker's task really ran: the part of a handling in which the event
loop could do nothing else.

Rules: the first part of a run only warms up. What it costs a worker to get from one
tick to the next is measured too (the turnaround), since in the pipeline it is part of
what a tick occupies its worker for.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, Final, final

import attrs
import trio

from ..errors import ConfigError
from ..handlers.kinds import Place
from ..metrics.snapshots import Overdue
from ..overflow import Block
from ..pipeline.opening import open_pipeline
from ..pipeline.running import Pipeline
from ..simulation.loads import Load, Services
from ..simulation.outcomes import quantile
from .filling import FillingFeed
from .host import OthersLoad
from .samples import Handling, Spread, time_within, whole_passes
from .steps import Steps

__all__ = ["Measured", "measure"]

_WARM_S: Final = 0.3
"""How long a pipeline warms up at least, in seconds.

It does until as many ticks were handled as there are workers."""
_PATIENCE_S: Final = 60.0
"""After so many seconds without a single handled tick, measuring is given up."""
_POLL_S: Final = 0.02
_ENOUGH: Final = 5000
"""So many timed handlings are enough, if their mean is known by then."""
_KNOWN: Final = 0.01
"""The standard error of a mean that is known, as a share of it.

Where a few ticks take most of the time, 5000 leave 4 %, and at a load of 1.2 that is a
fifth of the ticks that are dropped."""
_LEAST_S: Final = 0.5
"""Measure no shorter than this, in seconds: shorter runs hang on single events."""
_DRAIN_S: Final = 0.5
"""The queue holds at most what the workers handle in this time, in seconds."""
_COMPUTES: Final = 0.5
"""A handler computes if more than this share of the shared core is in use."""


@final
@attrs.frozen(slots=True, kw_only=True)
class Measured:
    """What handling costs at one number of workers, in one kind of place."""

    executor: Place
    workers: int
    """How many workers were kept busy."""
    handled: int
    """Ticks that were handled while it was measured."""
    failed: int
    """Ticks among them whose handler raised."""
    failure: str | None
    """What it raised last, if anything."""
    timed: int
    """Handlings that were timed one by one."""
    seconds: float
    """How long it was measured."""
    rate: float
    """Ticks a second that the workers took, all busy: the capacity."""
    mean_s: float
    """Of the timed handlings, in seconds."""
    p50_s: float
    p99_s: float
    max_s: float
    error: float
    """The standard error of the mean, as a share of it."""
    turnaround_s: float
    """What a worker needs from one tick to the next, in seconds."""
    core: float | None
    """The share of the event loop's time, or for threads of all cores' time, that was
    used; ``None``: not known."""
    computes: bool
    """Whether the handler computes rather than awaits: more workers help little."""
    others_cores: float | None
    """How many cores other programs used meanwhile; ``None``: not known."""
    busy: array[float] = attrs.field(repr=False)
    """Of each timed handling: see :class:`~trio_ticks.simulation.loads.Services`."""
    waits: array[float] = attrs.field(repr=False)
    symbols: array[int] = attrs.field(repr=False)
    per_batch: float = 1.0
    """How many ticks a worker took at a time, on average."""
    batch_s: float = 0.0
    """What a batch costs beside the handling of its ticks, in seconds, where that is
    not in ``busy`` and ``waits``."""

    def limited(self, rate: float) -> Measured:
        """Return the same, but no more than *rate* ticks a second in all.

        For a handler that waits, measured with so many more workers that these kept the
        shared core busy: then that is the limit, and not what a tick waits for.
        """
        share_s = 1 / rate
        whole = [busy + wait for busy, wait in zip(self.busy, self.waits, strict=True)]
        return attrs.evolve(
            self,
            busy=array("d", [share_s]) * len(whole),
            waits=array("d", (max(0.0, each - share_s) for each in whole)),
        )

    def services(self, load: Load, random: Any) -> Services:
        """Return services for each tick of *load*, drawn from these."""
        return Services.drawn(
            load,
            self.busy,
            self.waits,
            self.symbols,
            random=random,
            executor=self.executor,
            hand_over_s=self.batch_s,
            per_batch=self.per_batch,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the single handlings."""
        left_out = ("busy", "waits", "symbols")
        return attrs.asdict(self, filter=lambda field, _value: field.name not in left_out)


@attrs.define(slots=True)
class _Window:
    """What a running pipeline has done up to a moment."""

    at: float
    handled: int
    failed: int
    workers_busy_s: float
    tasks_s: float
    cpu_s: float
    handed: float
    """What handing batches over has cost so far, in seconds."""
    batches: int
    """How many were handed over so far."""

    @classmethod
    def of(cls, pipeline: Pipeline[Any], steps: Steps) -> _Window:
        ledger, handed = pipeline.ledger.snapshot(), pipeline.meters.hand_over.total()
        return cls(
            at=pipeline.clock.now(),
            handled=ledger.consumed + ledger.failed,
            failed=ledger.failed,
            workers_busy_s=pipeline.worker_statistics().busy_s,
            tasks_s=steps.total_s,
            cpu_s=time.process_time(),
            handed=handed.mean * handed.count / 1e3,
            batches=handed.count,
        )


@final
@attrs.frozen(slots=True)
class _Span:
    """What a running pipeline has done between two moments."""

    begin: _Window
    end: _Window
    handlings: list[Handling]
    """Those that were timed, and ended within it."""
    later: list[Handling]
    """Those that ended after it."""

    @property
    def seconds(self) -> float:
        return self.end.at - self.begin.at

    @property
    def handled(self) -> int:
        return self.end.handled - self.begin.handled

    @property
    def failed(self) -> int:
        return self.end.failed - self.begin.failed

    @property
    def busy_s(self) -> float:
        """How long workers were busy in it."""
        return self.end.workers_busy_s - self.begin.workers_busy_s

    @property
    def handled_for_s(self) -> float:
        """How long workers were busy with what was handled, whenever that began.

        What was in hand at the beginning counts, what was at the end does not. Where a
        few ticks take most of the time, that makes a difference of 0.2 %.
        """
        begin, end = self.begin.at, self.end.at
        before_s = time_within(self.handlings, -math.inf, begin)
        return self.busy_s + before_s - time_within(self.later, begin, end)


@final
class _Run:
    """One run of a pipeline with all workers busy."""

    def __init__(
        self,
        handler: Any,
        items: Sequence[Any],
        symbols: Sequence[int],
        executor: Place,
        workers: int,
        arrivals: Sequence[float],
        settings: dict[str, Any],
    ) -> None:
        self._handler = handler
        self._items = items
        self._symbols = symbols
        self._executor = executor
        self._workers = workers
        # A handler in a thread waits for no timer of the loop, and the feed that fills
        # the queue wakes the loop whenever workers have made room. A bell beside that
        # would take the interpreter from the handlers, which made them 1 % longer.
        self._arrivals = arrivals if executor != "thread" else ()
        self._settings = settings
        self._places = {id(item): place for place, item in enumerate(items)}
        self._handlings: list[Handling] = []
        self._failure: str | None = None

    async def mean_s(self) -> float:
        """Return how long a worker needs for a tick, from a short run.

        Cancellation: ends the run.
        """
        measured = await self.measure(maxsize=self._workers, limit_s=_LEAST_S)
        return self._workers / measured.rate

    async def measure(self, maxsize: int, limit_s: float) -> Measured:
        """Run until enough was timed, for *limit_s* at most after it is warm.

        Raises:
            ConfigError: no tick was handled, or all failed.

        Cancellation: ends the run.
        """
        self._handlings.clear()
        feed = FillingFeed(self._items, self._arrivals)
        others = OthersLoad(trio.current_time())
        async with open_pipeline(
            feed,
            self._handler,
            workers=self._workers,
            maxsize=maxsize,
            lag_threshold=maxsize,
            overflow=Block(),
            executor=self._executor,
            shutdown_timeout=_PATIENCE_S,
            on_error=self._failed,
            **self._settings,
        ) as pipeline:
            steps = Steps(pipeline.clock.now)
            trio.lowlevel.add_instrument(steps)
            try:
                pipeline.meters.report_to(self._listener(pipeline, steps))
                begin = await self._warm_up(pipeline, steps)
                self._handlings.clear()
                await self._until_known(pipeline, limit_s)
                end = _Window.of(pipeline, steps)
                handlings = list(self._handlings)
                cores = others.cores(trio.current_time())
            finally:
                trio.lowlevel.remove_instrument(steps)
                feed.stopped = True
        if pipeline.report.ledger.dropped_by_reason.get("shutdown"):
            raise _never_returns(pipeline.report.overdue)
        span = _Span(begin, end, handlings, self._handlings[len(handlings) :])
        if span.failed >= span.handled:
            raise ConfigError(
                "the handler has raised for each tick that it was measured with, the last time "
                f"{self._failure}: what it takes when it works is not known"
            )
        return self._judged(span, cores)

    async def _until_known(self, pipeline: Pipeline[Any], limit_s: float) -> None:
        """Wait until enough was timed: for *limit_s* at most, if anything was by then.

        Raises:
            ConfigError: there was none for a long time.

        Cancellation: nothing is measured.
        """
        begin = pipeline.clock.now()
        spread = Spread()
        while True:
            await trio.sleep(_POLL_S)
            taken_s = pipeline.clock.now() - begin
            spread.add(self._handlings)
            enough = spread.count >= _ENOUGH and spread.error <= _KNOWN
            if ((enough and taken_s >= _LEAST_S) or taken_s >= limit_s) and spread.count:
                return
            if not spread.count and taken_s >= _PATIENCE_S:
                overdue = pipeline.metrics().overdue
                pipeline.cancel()
                raise _never_returns(overdue)

    def _failed(self, _item: Any, error: Exception) -> None:
        self._failure = f"{type(error).__name__}: {error}"

    def _listener(
        self, pipeline: Pipeline[Any], steps: Steps
    ) -> Callable[[Any, float, float, float], None]:
        places, keep, in_loop = self._places, self._handlings.append, self._executor == "loop"

        def handled(item: Any, _arrived: float, began: float, ended: float) -> None:
            place = places.get(id(item))
            if place is not None:
                ran = steps.ran_s(began, ended) if in_loop else 0.0
                keep(Handling(place, began, ended - began, ran))

        return handled

    async def _warm_up(self, pipeline: Pipeline[Any], steps: Steps) -> _Window:
        """Wait until each worker has handled a tick, and a while longer.

        Raises:
            ConfigError: nothing was handled for a long time.

        Cancellation: nothing is measured.
        """
        begin = pipeline.clock.now()
        while True:
            await trio.sleep(_POLL_S)
            window = _Window.of(pipeline, steps)
            taken_s = window.at - begin
            if window.handled >= self._workers and taken_s >= _WARM_S:
                return window
            if taken_s >= _PATIENCE_S:
                if window.handled:
                    return window
                pipeline.cancel()
                raise ConfigError(f"the handler has not handled a single tick in {_PATIENCE_S:g} s")

    def _judged(self, span: _Span, cores: float | None) -> Measured:
        begin, end, span_s, handled = span.begin, span.end, span.seconds, span.handled
        handlings = span.handlings
        rate = handled / span_s * span.busy_s / span.handled_for_s
        mean_of_all_s = fmean(each.elapsed_s for each in handlings)
        handlings = whole_passes(handlings, len(self._items))
        elapsed = sorted(each.elapsed_s for each in handlings)
        mean_s = fmean(elapsed)
        # What a busy worker does between two ticks; with threads also the hand-over.
        turnaround_s = max(0.0, span.handled_for_s / handled - mean_of_all_s)
        # Of the ticks that count.
        rate *= (mean_of_all_s + turnaround_s) / (mean_s + turnaround_s)
        if self._executor == "loop":
            core: float | None = (end.tasks_s - begin.tasks_s) / span_s
        elif self._executor == "thread":
            core = (end.cpu_s - begin.cpu_s) / span_s
        else:
            core = None
            turnaround_s = max(turnaround_s, (end.handed - begin.handed) / handled)
        computes = core is not None and core > _COMPUTES
        per_batch, batch_s = 1.0, 0.0
        if self._executor == "loop" or computes:
            busy, waits = _parts(handlings, self._executor, rate, core or 0.0, turnaround_s)
        else:
            # What a batch costs is the same for one of a single tick.
            per_batch = max(1.0, handled / max(1, end.batches - begin.batches))
            batch_s = turnaround_s * per_batch
            busy, waits = _parts(handlings, self._executor, rate, core or 0.0, 0.0)
        if computes and self._executor == "loop":
            # Not the wait for the loop, in which other workers compute.
            ran_s = sum(each.ran_s for each in handlings) / len(handlings)
            turnaround_s = max(0.0, 1 / rate - ran_s)
        spread = Spread()
        spread.add(handlings)
        return Measured(
            executor=self._executor,
            workers=self._workers,
            handled=handled,
            failed=span.failed,
            failure=self._failure,
            timed=len(elapsed),
            seconds=span_s,
            rate=rate,
            mean_s=mean_s,
            p50_s=quantile(elapsed, 0.5),
            p99_s=quantile(elapsed, 0.99),
            max_s=elapsed[-1],
            error=spread.error,
            turnaround_s=turnaround_s,
            core=core,
            computes=computes,
            others_cores=cores,
            busy=busy,
            waits=waits,
            symbols=array("I", (self._symbols[each.place] for each in handlings)),
            per_batch=per_batch,
            batch_s=batch_s,
        )


def _never_returns(overdue: Overdue | None) -> ConfigError:
    ticks = "some ticks" if overdue is None else f"some ticks, one of them of {overdue.symbol!r}"
    return ConfigError(
        f"the handler had not returned after {_PATIENCE_S:g} s for {ticks}: what never ends "
        "cannot be planned; give what the handler waits for a timeout"
    )


def _parts(
    handlings: list[Handling], executor: Place, rate: float, core: float, turnaround_s: float
) -> tuple[array[float], array[float]]:
    """Split each handling into what it computes and what it waits.

    A handler that computes: its ticks follow each other at the measured rate, so the
    computing is scaled to that, and holds all that a tick costs the loop. One that
    waits: each tick costs the shared core the same, at the beginning.

    Returns:
        Computing and waiting, in seconds.
    """
    if core > _COMPUTES:
        ran = [each.ran_s if executor == "loop" else each.elapsed_s for each in handlings]
        scale = len(ran) / rate / sum(ran) if sum(ran) > 0 else 1.0
        rest = [
            max(0.0, each.elapsed_s - each.ran_s) if executor == "loop" else 0.0
            for each in handlings
        ]
        return array("d", (each * scale for each in ran)), array("d", rest)
    share_s = core / rate
    whole = [each.elapsed_s + turnaround_s for each in handlings]
    busy = array("d", (min(share_s, each) for each in whole))
    return busy, array("d", (each - part for each, part in zip(whole, busy, strict=True)))


async def measure(
    handler: Any,
    items: Sequence[Any],
    symbols: Sequence[int],
    *,
    executor: Place,
    workers: int,
    limit_s: float,
    arrivals: Sequence[float] = (),
    **settings: Any,
) -> Measured:
    """Return what handling *items* costs with all of *workers* busy.

    Args:
        handler: as for :func:`~trio_ticks.open_pipeline`.
        items: the sample, in order.
        symbols: the place of each item's symbol in the load's names.
        executor: where the handler runs.
        workers: how many.
        limit_s: how long to measure at most, in seconds, after it is warm.
        arrivals: when ticks come in the pipeline that is planned, in seconds; none: so
            seldom that it makes no difference. The loop is woken as they would wake it.
        **settings: further settings of the pipeline.

    Raises:
        ConfigError: a setting cannot work, or no tick could be handled.

    Cancellation: ends the run.
    """
    run = _Run(handler, items, symbols, executor, workers, arrivals, settings)
    mean_s = await run.mean_s()
    # As deep as the queue of a busy pipeline: threads take more at a time from one.
    # But no deeper than what is handled soon, when it is over.
    maxsize = int(min(4096, max(4 * workers + 16, _DRAIN_S * workers / max(mean_s, 1e-9))))
    return await run.measure(maxsize, limit_s)
