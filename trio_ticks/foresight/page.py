"""A plan as one HTML file that stands alone: tables, and plots as inline SVG. Sans-I/O.

Rules: no script, no font, no picture from elsewhere: it opens from a mail, years later.
Whatever comes from outside (names of symbols and files, what a handler raised) is
escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from ..logs import one_line
from ..version import __version__
from .plans import Findings, Row
from .plots import Line, chart
from .words import counted, duration, setting_lines, share, symbol_name

__all__ = ["page"]

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #5c6670; --ground: #fff;
  --card: #f5f7f9; --edge: #d8dee4; --c0: #00529b; --c1: #b35900; --c2: #1b7a3d;
  --c3: #8a2a8a; --c4: #a11d2f; --c5: #4a5560; --good: #1b7a3d; --bad: #a11d2f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3adb8;
  --ground: #14181d; --card: #1d232a; --edge: #36404a; --c0: #6cb2f5; --c1: #f0a35c;
  --c2: #6fcf8f; --c3: #d79be0; --c4: #f08a95; --c5: #b4bec8; --good: #6fcf8f;
  --bad: #f08a95; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 24px 16px 64px; color: var(--ink);
  background: var(--ground); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 40px 0 8px; }
p { margin: 4px 0 12px; }
.soft { color: var(--soft); fill: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr));
  gap: 12px; margin: 20px 0; }
.card { background: var(--card); border: 1px solid var(--edge); border-radius: 8px;
  padding: 12px 14px; }
.card b { display: block; font-size: 1.5rem; font-weight: 600; }
.card span { display: block; color: var(--soft); font-size: .85rem; }
.good b { color: var(--good); } .bad b { color: var(--bad); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr));
  gap: 20px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--edge);
  border-radius: 8px; padding: 12px; }
figcaption { font-weight: 600; margin-bottom: 6px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--ink); } svg text.soft { fill: var(--soft); }
.grid { stroke: var(--edge); stroke-width: 1; }
.limit { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 2; }
.line.c0 { stroke: var(--c0); } .dot.c0 { fill: var(--c0); } svg text.c0 { fill: var(--c0); }
.line.c1 { stroke: var(--c1); } .dot.c1 { fill: var(--c1); } svg text.c1 { fill: var(--c1); }
.line.c2 { stroke: var(--c2); } .dot.c2 { fill: var(--c2); } svg text.c2 { fill: var(--c2); }
.line.c3 { stroke: var(--c3); } .dot.c3 { fill: var(--c3); } svg text.c3 { fill: var(--c3); }
.line.c4 { stroke: var(--c4); } .dot.c4 { fill: var(--c4); } svg text.c4 { fill: var(--c4); }
.line.c5 { stroke: var(--c5); } .ring.c5 { fill: none; stroke: var(--c5); stroke-width: 2; }
svg text.c5 { fill: var(--c5); }
pre { background: var(--card); border: 1px solid var(--edge); border-radius: 8px;
  padding: 12px 14px; overflow-x: auto; font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--edge);
  white-space: nowrap; }
th { font-weight: 600; color: var(--soft); } th:first-child, td:first-child { text-align: left; }
td.fits { color: var(--good); font-weight: 600; } tr.chosen td { background: var(--card); }
li { margin-bottom: 6px; }
footer { margin-top: 48px; color: var(--soft); font-size: .85rem; }
"""


def page(plan: Findings) -> str:
    """Return *plan* as a page."""
    title = f"Plan for {one_line(plan.recording)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(_body(plan, title))
        + "</body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(one_line(str(value)))


def _body(plan: Findings, title: str) -> Iterator[str]:
    yield f"<header><h1>{_text(title)}</h1>{_of_recording(plan)}</header>"
    yield from _answer(plan)
    if plan.notes:
        items = "".join(f"<li>{_text(note)}</li>" for note in plan.notes)
        yield f"<h2>Mind</h2><ul>{items}</ul>"
    yield "<h2>Workers and queue</h2>"
    yield '<div class="two">' + "".join(_plots(plan)) + "</div>"
    yield "<h2>Every setting that was tried</h2>"
    yield '<div class="two">'
    under = plan.table[0].overflow
    yield _grid(plan, f"Lost under {under}, by workers (down) and maxsize (across)", "drop_rate")
    yield _grid(plan, f"p99 lag under {under}, by workers (down) and maxsize (across)", "p99_lag_s")
    yield "</div>"
    yield "<h2>Strategies</h2>"
    yield _strategies(plan)
    yield "<h2>If the ticks come faster</h2>"
    yield _growth(plan)
    yield from _losers(plan)
    yield from _verified(plan)
    yield "<h2>What it rests on</h2>"
    yield _measured(plan)
    yield (
        f"<footer>trio_ticks {_text(__version__)}. The handler was measured in the real pipeline "
        "with all workers busy; each setting was simulated over the recorded arrivals with the "
        "pipeline's own channel.</footer>"
    )


def _of_recording(plan: Findings) -> str:
    kind = "bars" if plan.bars else "ticks"
    target = plan.target
    faster = "" if target.factor == 1 else f", at {target.factor:g} times the recorded rate"
    return (
        f'<p class="soft">{plan.ticks:,} {kind} of {counted(plan.symbol_count)}, '
        f"{duration(plan.span_s)} from {_text(f'{plan.began:%Y-%m-%d %H:%M:%S}')} UTC; "
        f"{plan.rate:,.0f}/s on average, {plan.busiest[1.0]:,.0f}/s in the busiest second. "
        f"Asked for: at most {share(target.max_drop_rate)} lost, a p99 lag of at most "
        f"{duration(target.p99_lag_s)}{faster}.</p>"
    )


def _answer(plan: Findings) -> Iterator[str]:
    advice, row = plan.advice, plan.predicted
    lost_ok = row.drop_rate <= plan.target.max_drop_rate
    lag_ok = row.p99_lag_s <= plan.target.p99_lag_s
    cards = [
        ("", f"{advice.workers}", f"workers, executor {advice.executor}"),
        ("", f"{advice.maxsize:,}", f"maxsize (rule of thumb: {plan.classic_maxsize:,})"),
        (_tone(lost_ok), share(row.drop_rate), f"lost ({_between(plan.drop_interval, share)})"),
        (
            _tone(lag_ok),
            duration(row.p99_lag_s),
            f"p99 lag ({_between(plan.lag_interval, duration)})",
        ),
        (
            "",
            duration(plan.budget_s),
            f"a tick may take; {duration(plan.busy_budget_s)} at the peak",
        ),
    ]
    yield (
        '<div class="cards">'
        + "".join(
            f'<div class="card {tone}"><b>{_text(big)}</b><span>{_text(small)}</span></div>'
            for tone, big, small in cards
        )
        + "</div>"
    )
    if not advice.met:
        yield "<p><b>The target is not met.</b> This is the best of what was tried.</p>"
    yield "<pre>" + html.escape("\n".join(setting_lines(plan))) + "</pre>"


def _tone(good: bool) -> str:
    return "good" if good else "bad"


def _between(interval: Any, show: Any) -> str:
    return f"between {show(interval.low)} and {show(interval.high)}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _plots(plan: Findings) -> Iterator[str]:
    sizes = sorted({row.maxsize for row in plan.table})
    numbers = sorted({row.workers for row in plan.table})
    by_size = [
        Line(
            f"{number} worker{'s' * (number != 1)}",
            [(row.maxsize, row.drop_rate * 100) for row in plan.table if row.workers == number],
        )
        for number in numbers
    ]
    yield _figure(
        f"Lost against the size of the queue, under {plan.table[0].overflow}",
        chart(
            "Share of ticks lost by size of the queue",
            by_size,
            x_label="maxsize",
            y_label="% lost",
            x_text=_count,
            y_text=lambda value: f"{value:.3g}",
            mark=(plan.advice.maxsize, "advised") if _inside(plan.advice.maxsize, sizes) else None,
        ),
    )
    shown = sizes if len(sizes) <= 3 else [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    by_workers = [
        Line(
            f"maxsize {size:,}",
            [(row.workers, row.p99_lag_s) for row in plan.table if row.maxsize == size],
        )
        for size in shown
    ]
    yield _figure(
        f"p99 lag against workers, under {plan.table[0].overflow}",
        chart(
            "99th percentile of the lag by number of workers",
            by_workers,
            x_label="workers",
            y_label="p99 lag",
            x_text=_count,
            y_text=duration,
            y_log=True,
            limit=plan.target.p99_lag_s,
            limit_label="asked for",
        ),
    )
    yield _figure("The recording", _over_time(plan))
    yield _figure("If the ticks come faster", _of_growth(plan))


def _inside(value: float, values: Sequence[float]) -> bool:
    return bool(values) and values[0] <= value <= values[-1]


def _over_time(plan: Findings) -> str:
    return chart(
        "99th percentile of the lag in each stretch of the recording",
        [Line("advised", [(begins, lag) for begins, _drop, lag in plan.windows])],
        x_label="seconds from its beginning",
        x_log=False,
        y_label="p99 lag",
        x_text=_count,
        y_text=duration,
        y_log=True,
        limit=plan.target.p99_lag_s,
        limit_label="asked for",
    )


def _of_growth(plan: Findings) -> str:
    lines = [
        Line("lost", [(each.factor, each.unchanged.drop_rate * 100) for each in plan.growth]),
    ]
    return chart(
        "Share of ticks lost by how much faster they come, with the advised settings",
        lines,
        x_label="times the rate",
        y_label="% lost",
        x_text=lambda value: f"{value:g}",
        y_text=lambda value: f"{value:.3g}",
    )


def _figure(caption: str, content: str) -> str:
    return f"<figure><figcaption>{_text(caption)}</figcaption>{content}</figure>" if content else ""


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table; cells are escaped."""
    head = "".join(f"<th>{_text(each)}</th>" for each in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _grid(plan: Findings, caption: str, field: str) -> str:
    sizes = sorted({row.maxsize for row in plan.table})
    show = share if field == "drop_rate" else duration
    head = "<th></th>" + "".join(f"<th>{size:,}</th>" for size in sizes)
    body = ""
    for workers in sorted({row.workers for row in plan.table}):
        cells = {row.maxsize: row for row in plan.table if row.workers == workers}
        chosen = ' class="chosen"' if workers == plan.advice.workers else ""
        body += f"<tr{chosen}><td>{workers}</td>"
        for size in sizes:
            row: Row | None = cells.get(size)
            if row is None:
                body += "<td></td>"
                continue
            fits = ' class="fits"' if row.meets(plan.target) else ""
            body += f"<td{fits}>{_text(show(getattr(row, field)))}</td>"
        body += "</tr>"
    table = f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
    return f"<div><p>{_text(caption)}; what meets the target is bold.</p>{table}</div>"


def _strategies(plan: Findings) -> str:
    rows = [
        (row.overflow, share(row.drop_rate), share(row.conflated_rate), duration(row.p99_lag_s))
        for row in plan.strategies
    ]
    for elsewhere in plan.places:
        name = f'the first, executor="{elsewhere.executor}", {elsewhere.row.workers} workers'
        row = elsewhere.row
        rows.append((name, share(row.drop_rate), "", duration(row.p99_lag_s)))
    if plan.unordered is not None:
        row = plan.unordered
        rows.append(("the first without order", share(row.drop_rate), "", duration(row.p99_lag_s)))
    return _table(("overflow", "lost", "conflated", "p99 lag"), rows)


def _growth(plan: Findings) -> str:
    rows = (
        (
            f"{each.factor:g}",
            share(each.unchanged.drop_rate),
            duration(each.unchanged.p99_lag_s),
            "more than was tried" if each.workers is None else f"{each.workers}",
            "" if each.maxsize is None else f"{each.maxsize:,}",
        )
        for each in plan.growth
    )
    return _table(
        ("times the rate", "lost, unchanged", "p99 lag, unchanged", "workers it takes", "maxsize"),
        rows,
    )


def _losers(plan: Findings) -> Iterator[str]:
    if plan.losers:
        yield f"<h2>Which symbols lose, at {plan.losers_factor:g} times the rate</h2>"
        yield _table(
            ("symbol", "lost"),
            ((symbol_name(name), share(part)) for name, part in plan.losers.items()),
        )


def _verified(plan: Findings) -> Iterator[str]:
    predicted = plan.verified_prediction
    if predicted is None:
        return
    yield f"<h2>Verified by {len(plan.verified)} real runs</h2>"
    rows = [("predicted", share(predicted.drop_rate), duration(predicted.p99_lag_s))]
    rows += [
        (f"run {number}", share(run.drop_rate), duration(run.p99_lag_s))
        for number, run in enumerate(plan.verified, 1)
    ]
    yield _table(("", "lost", "p99 lag"), rows)


def _measured(plan: Findings) -> str:
    rows = (
        (
            each.executor,
            f"{each.workers}",
            f"{each.rate:,.0f}",
            duration(each.mean_s),
            duration(each.p50_s),
            duration(each.p99_s),
            duration(each.max_s),
            duration(each.turnaround_s),
            f"{each.timed:,}",
            "-" if each.others_cores is None else f"{each.others_cores:.2f}",
        )
        for each in plan.measured
    )
    heads = ("executor", "workers", "ticks/s", "mean", "p50", "p99", "max", "turnaround", "timed")
    return _table((*heads, "cores used by others"), rows)
