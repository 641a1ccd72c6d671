"""What a plan rests on and does not say, in sentences. Sans-I/O."""

from __future__ import annotations

from collections.abc import Iterator

from .host import BUSY_CORES, describe_load
from .plans import Findings
from .words import symbol_name

__all__ = ["KNEE", "notes_of"]

KNEE = (0.85, 1.1)
"""Between these loads a lag cannot be foretold: a little more service may double it."""
_FEW = 1000
"""Fewer timed handlings than this are few."""
_SHORT_S = 60.0
_MORE = "; one worker more is worth more than a better prediction"


def notes_of(plan: Findings) -> tuple[str, ...]:
    """Return what a reader of *plan* has to know."""
    return tuple(_notes(plan))


def _notes(plan: Findings) -> Iterator[str]:
    basis, advice = plan.measured[0], plan.advice
    if plan.bars:
        yield (
            "These are bars, and bars have no bursts: one comes a symbol and interval, whatever "
            "happens within it. The plan is for a strategy on bars. For one on ticks, record "
            "some with trio-ticks record."
        )
    if not advice.met:
        yield (
            f"The target is not met: {plan.predicted.drop_rate:.2%} lost and a p99 lag of "
            f"{plan.predicted.p99_lag_s * 1e3:,.1f} ms is the best of what was tried."
        )
    if plan.alone is not None:
        name = symbol_name(plan.alone)
        yield (
            f"The ticks of {name} alone keep more than one worker busy, and in order by "
            'symbol no other can help: make the handler quicker, give ordering="none" if its '
            "order does not matter, or Conflate() if only the newest quote does."
        )
    if basis.computes:
        where = "the event loop" if basis.executor == "loop" else "Python's lock"
        yield (
            f"The handler computes: {where} was in use {basis.core or 0:.0%} of the time, so more "
            "workers do not help. Processes may, or less computing a tick."
        )
    if KNEE[0] <= plan.load <= KNEE[1]:
        # Where one symbol alone is too much, the note before this says what helps.
        more = "" if plan.alone is not None or basis.computes else _MORE
        yield (
            f"The workers have hardly any time to spare (load {plan.load:.2f}): there 3 % longer "
            f"services may double the lag. Believe the interval, not the number{more}."
        )
    if basis.timed < _FEW:
        yield (
            f"Only {basis.timed:,} handlings were timed (mean known to {basis.error:.1%}): measure "
            "for longer if some of them are rare and slow."
        )
    if basis.failed:
        yield (
            f"The handler raised for {basis.failed:,} of {basis.handled:,} ticks while it was "
            f"measured, the last time {basis.failure}: a failure may be quicker than success."
        )
    if plan.span_s < _SHORT_S:
        yield (
            f"The recording lasts {plan.span_s:,.1f} s: it has the bursts of that time, and not "
            "those of a busy day."
        )
    if basis.others_cores is None or basis.others_cores >= BUSY_CORES:
        yield (
            f"While the handler was measured, {describe_load(basis.others_cores)}: what it takes "
            "may be less on a quiet machine."
        )
    yield from _of_places(plan)


def _of_places(plan: Findings) -> Iterator[str]:
    """Compare the places that were measured."""
    basis = plan.measured[0]
    for other in plan.measured[1:]:
        if other.executor == basis.executor:
            continue
        more = "more" if other.rate > basis.rate else "fewer"
        yield (
            f'With executor="{other.executor}" {_workers(other.workers)} took {other.rate:,.0f} '
            f"ticks/s, {more} than the {basis.rate:,.0f} of {basis.workers} with "
            f'"{basis.executor}"; from one tick to the next '
            f"a worker needed {other.turnaround_s * 1e6:,.0f} µs there, and "
            f"{basis.turnaround_s * 1e6:,.0f} µs here."
        )


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number:,} workers"
