"""A plan as a text for a terminal. Sans-I/O.

Rules: the answer comes first, then how sure it is, then what it rests on. Names of
symbols come from outside, and are escaped.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from ..logs import one_line
from .plans import Findings, Row, strategy_text

__all__ = ["counted", "duration", "report", "setting_lines", "share", "symbol_name"]

_WIDTH = 88
_NAME = 24


def duration(seconds: float) -> str:
    """Return a duration with a unit that suits it."""
    if math.isnan(seconds):
        return "-"
    if math.isinf(seconds):
        return "for ever"
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    if seconds >= 0.001:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} µs"


def share(part: float) -> str:
    """Return a share in per cent; what is not 0 is not shown as 0."""
    if part == 0:
        return "0 %"
    return "<0.01 %" if part < 0.0001 else f"{part * 100:.2f} %"


def counted(symbols: int) -> str:
    """Return how many symbols there are, in words."""
    return f"{symbols:,} symbol{'s' * (symbols != 1)}"


def symbol_name(name: str) -> str:
    """Return a symbol's name as it may be shown: on one line, and not long."""
    return one_line(name, _NAME)


def setting_lines(plan: Findings) -> list[str]:
    """Return the advised settings as a call of ``open_pipeline``."""
    advice = plan.advice
    return [
        "trio_ticks.open_pipeline(",
        "    feed,",
        "    handler,",
        f"    workers={advice.workers},",
        f"    maxsize={advice.maxsize},",
        f"    write_timeout={advice.write_timeout:g},",
        f"    lag_threshold={advice.lag_threshold},",
        f'    executor="{advice.executor}",',
        f"    overflow=trio_ticks.{strategy_text(advice.overflow)},",
        f'    ordering="{advice.ordering}",',
        ")",
    ]


def report(plan: Findings) -> str:
    """Return *plan* as a text."""
    return "\n".join(_lines(plan))


def _lines(plan: Findings) -> Iterator[str]:
    parts = (
        _head(plan),
        _answer(plan),
        _measured(plan),
        _tables(plan),
        _strategies(plan),
        _growth(plan),
        _losers(plan),
        _verified(plan),
        _notes(plan),
    )
    first = True
    for part in parts:
        for number, line in enumerate(part):
            if not number and not first:
                yield ""
            first = False
            yield line


def _head(plan: Findings) -> Iterator[str]:
    target = plan.target
    yield f"Plan for {one_line(plan.recording)}"
    yield (
        f"  {plan.ticks:,} {'bars' if plan.bars else 'ticks'} of {counted(plan.symbol_count)} in "
        f"{duration(plan.span_s)}, {plan.rate:,.0f}/s; busiest second {plan.busiest[1.0]:,.0f}/s, "
        f"busiest 10 ms {plan.busiest[0.01]:,.0f}/s"
    )
    faster = "" if target.factor == 1 else f", {target.factor:g} times as fast"
    yield (
        f"  asked for: at most {share(target.max_drop_rate)} lost, p99 lag at most "
        f"{duration(target.p99_lag_s)}{faster}"
    )


def _answer(plan: Findings) -> Iterator[str]:
    row = plan.predicted
    yield "Use" if plan.advice.met else "The target is not met. The best of what was tried"
    yield from (f"  {line}" for line in setting_lines(plan))
    yield ""
    yield "Expected"
    yield (
        f"  lost      {share(row.drop_rate)}  (between {share(plan.drop_interval.low)} and "
        f"{share(plan.drop_interval.high)})"
    )
    yield (
        f"  p99 lag   {duration(row.p99_lag_s)}  (between {duration(plan.lag_interval.low)} and "
        f"{duration(plan.lag_interval.high)}); p50 {duration(row.p50_lag_s)}"
    )
    yield f"  queue     {row.peak:,} ticks at most; workers busy {row.utilisation:.0%} of the time"
    yield (
        f"  a tick may take {duration(plan.budget_s)} on average, "
        f"{duration(plan.busy_budget_s)} in the busiest second"
    )
    yield f"  the rule of thumb, 5 s of burst x rate x 2, says maxsize={plan.classic_maxsize:,}"
    yield from _of_windows(plan)


def _tables(plan: Findings) -> Iterator[str]:
    under = plan.table[0].overflow
    yield f"Lost under {under}, by workers (down) and maxsize (across)"
    yield from _grid(plan.table, lambda row: share(row.drop_rate))
    yield ""
    yield f"p99 lag under {under}, by workers (down) and maxsize (across)"
    yield from _grid(plan.table, lambda row: duration(row.p99_lag_s))
    yield from _knees(plan)


def _strategies(plan: Findings) -> Iterator[str]:
    first = plan.strategies[0]
    yield f"Strategies, with {first.workers} workers and maxsize={first.maxsize:,}"
    yield f"  {'':28}{'lost':>10}{'conflated':>11}{'p99 lag':>10}"
    for each in plan.strategies:
        yield (
            f"  {each.overflow:28}{share(each.drop_rate):>10}{share(each.conflated_rate):>11}"
            f"{duration(each.p99_lag_s):>10}"
        )
    if plan.unordered is not None:
        yield _other_row("the first without order", plan.unordered)
    for elsewhere in plan.places:
        row = elsewhere.row
        yield f"{_other_row(f'the first in {elsewhere.executor}', row)}  {row.workers} workers"


def _other_row(what: str, row: Row) -> str:
    return f"  {what:28}{share(row.drop_rate):>10}{'':11}{duration(row.p99_lag_s):>10}"


def _notes(plan: Findings) -> Iterator[str]:
    if plan.notes:
        yield "Mind"
    for note in plan.notes:
        lines = textwrap.wrap(one_line(note), _WIDTH - 4)
        yield f"  - {lines[0]}"
        yield from (f"    {line}" for line in lines[1:])


def _of_windows(plan: Findings) -> Iterator[str]:
    lags = [lag for _begins, _drop, lag in plan.windows if not math.isnan(lag)]
    drops = [drop for _begins, drop, _lag in plan.windows]
    # Of a stretch it is not known which ticks were conflated, and so not lost.
    known = not plan.predicted.conflated_rate
    lost = f", lost {share(min(drops))} to {share(max(drops))}" if known else ""
    if len(lags) > 1:
        yield (
            f"  over {len(plan.windows)} stretches of the recording: p99 lag {duration(min(lags))} "
            f"to {duration(max(lags))}{lost}"
        )


def _measured(plan: Findings) -> Iterator[str]:
    yield "Measured in the pipeline, all workers busy"
    yield (
        f"  {'executor':10}{'workers':>8}{'ticks/s':>11}{'mean':>9}{'p50':>9}{'p99':>9}{'max':>9}"
        f"{'turnaround':>12}{'timed':>8}"
    )
    for each in plan.measured:
        yield (
            f"  {each.executor:10}{each.workers:>8}{each.rate:>11,.0f}{duration(each.mean_s):>9}"
            f"{duration(each.p50_s):>9}{duration(each.p99_s):>9}{duration(each.max_s):>9}"
            f"{duration(each.turnaround_s):>12}{each.timed:>8,}"
        )


def _grid(rows: Sequence[Row], cell: object) -> Iterator[str]:
    show = cell if callable(cell) else str
    sizes = sorted({row.maxsize for row in rows})
    yield "  " + " " * 8 + "".join(f"{size:>11,}" for size in sizes)
    for workers in sorted({row.workers for row in rows}):
        cells = {row.maxsize: show(row) for row in rows if row.workers == workers}
        yield f"  {workers:>8}" + "".join(f"{cells.get(size, ''):>11}" for size in sizes)


def _knees(plan: Findings) -> Iterator[str]:
    found = []
    if plan.knee_workers is not None:
        found.append(f"more than {plan.knee_workers} workers hardly shorten the lag")
    if plan.knee_maxsize is not None:
        found.append(f"a longer queue than {plan.knee_maxsize:,} hardly loses less")
    if found:
        yield "  the knee: " + "; ".join(found)


def _growth(plan: Findings) -> Iterator[str]:
    yield "If the ticks come faster"
    yield (
        f"  {'times':>5}{'lost':>10}{'p99 lag':>10}   "
        "with the settings above; the target would take"
    )
    for each in plan.growth:
        takes = (
            "more than was tried"
            if each.workers is None or each.maxsize is None
            else f"workers={each.workers}, maxsize={each.maxsize:,}"
        )
        yield (
            f"  {each.factor:>5g}{share(each.unchanged.drop_rate):>10}"
            f"{duration(each.unchanged.p99_lag_s):>10}   {takes}"
        )


def _losers(plan: Findings) -> Iterator[str]:
    if not plan.losers:
        return
    yield f"Which symbols lose, at {plan.losers_factor:g} times the rate"
    for name, part in list(plan.losers.items())[:8]:
        yield f"  {symbol_name(name):{_NAME}} {share(part):>9}"


def _verified(plan: Findings) -> Iterator[str]:
    predicted = plan.verified_prediction
    if predicted is None:
        return
    yield f"Verified by {len(plan.verified)} real runs"
    yield f"  {'':11}{'lost':>10}{'p99 lag':>10}"
    yield f"  {'predicted':11}{share(predicted.drop_rate):>10}{duration(predicted.p99_lag_s):>10}"
    for number, run in enumerate(plan.verified, 1):
        yield f"  {f'run {number}':11}{share(run.drop_rate):>10}{duration(run.p99_lag_s):>10}"
