"""Draw the panels of the terminal view, each by a pure function from a snapshot.

Rules: colour never carries a meaning alone, and no panel is wider than its *width*.
Needs rich: ``pip install 'trio-ticks[cli]'``.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from rich import box
from rich.console import Group, JustifyMethod, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ...ledger import INTENTIONAL, REASONS
from ...metrics.latency import LatencyStats
from ...metrics.snapshots import PipelineMetrics, WorkerMetrics
from .history import ASCII_BLOCKS, BLOCKS, History, bar, sparkline

__all__ = [
    "Pen",
    "count",
    "drops",
    "duration",
    "feeds",
    "header",
    "latency",
    "ledger",
    "level",
    "outcomes",
    "queue",
    "rates",
    "workers",
]


@attrs.frozen(slots=True)
class Pen:
    """The differences between a UTF-8 terminal and one that has only ASCII."""

    plain: bool = False

    def glyph(self, glyph: str, ascii: str) -> str:
        return ascii if self.plain else glyph

    @property
    def blocks(self) -> str:
        return ASCII_BLOCKS if self.plain else BLOCKS

    def panel(
        self, body: RenderableType, title: str, subtitle: str | Text = "", *, height: int
    ) -> Panel:
        return Panel(
            body,
            title=f"[bold]{title}[/]",
            title_align="left",
            subtitle=subtitle or None,
            subtitle_align="left",
            box=box.ASCII if self.plain else box.ROUNDED,
            border_style="bright_black",
            padding=(0, 1),
            height=height,
        )


def count(number: float) -> str:
    """Return *number* in at most 11 characters."""
    return f"{number:,.0f}" if abs(number) < 1e9 else f"{number / 1e9:,.2f} G"


def duration(milliseconds: float, *, plain: bool = False) -> str:
    """Return a duration in the unit that fits it, in at most 9 characters."""
    size = abs(milliseconds)
    if size < 0.9995:
        return f"{milliseconds * 1e3:.0f} {'us' if plain else 'µs'}"
    if size < 9.995:
        return f"{milliseconds:.2f} ms"
    if size < 99.95:
        return f"{milliseconds:.1f} ms"
    if size < 999.5:
        return f"{milliseconds:.0f} ms"
    if size < 99_950:
        return f"{milliseconds / 1e3:.2f} s"
    return f"{milliseconds / 1e3:,.0f} s" if size < 9_999_500 else f"{milliseconds / 3.6e6:,.1f} h"


def clock(seconds: float) -> str:
    """Return ``m:ss``, or ``h:mm:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _grid(*justify: JustifyMethod, stretch: int | None = None) -> Table:
    table = Table.grid(expand=True, padding=(0, 1, 0, 0))
    for index, how in enumerate(justify):
        ratio = 1 if index == stretch else None
        table.add_column(justify=how, no_wrap=True, overflow="crop", ratio=ratio)
    return table


def _share(part: int, whole: int) -> Text:
    return Text(f"{part / whole:6.1%}" if whole else "", "bright_black")


def header(
    metrics: PipelineMetrics,
    pen: Pen,
    width: int,
    *,
    title: str,
    subtitle: str,
    duration_s: float | None,
    alarm: str = "",
) -> Text:
    """Return the first line: the connection (or *alarm*), the state, the time.

    *subtitle* stands on the right if there is room for it.
    """
    text = Text(f"{title}  ", "bold cyan", no_wrap=True, overflow="crop")
    broker = metrics.half == "work"
    if alarm:
        text.append(f" {pen.glyph('✗', '!!')} {alarm} ", "bold white on red")
    elif metrics.state not in ("running", "paused"):
        what = "broker left" if broker else "feed stopped"
        text.append(f"{pen.glyph('■', '#')} {what}", "not bold cyan")
    elif broker:
        text.append(
            *(f"{pen.glyph('●', '*')} broker connected", "not bold green")
            if metrics.producer_connected
            # A paused work has given its shards back.
            else (f"{pen.glyph('■', '#')} broker left", "not bold cyan")
            if metrics.state == "paused"
            else (f"{pen.glyph('○', 'o')} BROKER AWAY", "red")
        )
    elif metrics.producer_connected:
        text.append(f"{pen.glyph('●', '*')} connected", "not bold green")
    else:
        text.append(f"{pen.glyph('○', 'o')} NOT CONNECTED", "red")
    if metrics.reconnects:
        text.append(
            f", {metrics.reconnects:,} reconnect{'s' * (metrics.reconnects != 1)}",
            "not bold default",
        )
    if not metrics.market_open:
        text.append(", market closed", "not bold default")
    if metrics.silent_symbols:
        silent = metrics.silent_symbols
        named = ", ".join(metrics.silent_names[:2])
        more = "" if silent <= 2 else f" and {silent - 2:,} more"
        text.append(f", silent: {named}{more}", "not bold yellow")
    text.append(
        f"  {metrics.state.upper()} ",
        {"running": "default", "paused": "yellow", "draining": "yellow"}.get(metrics.state, "cyan"),
    )
    text.append(
        clock(metrics.uptime_s)
        + (
            f" of {clock(duration_s)}"
            if duration_s is not None and metrics.uptime_s <= duration_s
            else ""
        ),
        "not bold default",
    )
    if (gap := width - text.cell_len - len(subtitle)) >= 2:
        text.append(" " * gap + subtitle, "not bold bright_black")
    return text


def queue(metrics: PipelineMetrics, pen: Pen, width: int) -> Panel:
    """Return the buffer's filling against its capacity, and the pressure."""
    fraction, word, style = level(metrics.queue_size, metrics.queue_capacity)
    if metrics.half == "work" and word != "ok":
        # A queue of fetched ticks is meant to be full.
        word, style = word.lower(), "green"
    numbers = (
        f"{metrics.queue_size:,} of {metrics.queue_capacity:,}"
        f"  {metrics.queue_utilization_pct:5.1f} %  {word:4}"
    )
    body = Text(no_wrap=True, overflow="crop")
    body.append(
        bar(fraction, max(4, width - 6 - len(numbers)), plain=pen.plain), f"{style} on grey23"
    )
    body.append(f"  {numbers}", style)
    pressure = {
        "ok": (pen.glyph("●", "*") + " ok", "green"),
        "warn": (pen.glyph("▲", "!") + " WARN", "yellow"),
        "shed": (pen.glyph("■", "#") + " SHED", "bold red"),
        "full": (pen.glyph("■", "#") + " FULL, the feed waits", "bold yellow"),
    }.get(metrics.pressure_word, (metrics.pressure, ""))
    waited = duration(metrics.blocked_s * 1e3, plain=pen.plain)
    return pen.panel(
        body,
        "queue" if metrics.half != "work" else "fetched from the buffer",
        # Of a queue of fetched ticks the pressure says nothing.
        Text.assemble(
            *(() if metrics.half == "work" else ("pressure ", pressure, ", ")),
            f"peak {metrics.queue_peak:,}, senders waited {waited}",
        ),
        height=3,
    )


def rates(metrics: PipelineMetrics, history: History, pen: Pen, width: int) -> Panel:
    """Return ticks a second in, out and dropped, now and recently, to one scale.

    Where ticks fail, a row of theirs takes the place of the messages without a tick.
    The numbers are of one time, so that they can be compared.
    """
    numbers = [
        # What came in before the feed's end is no rate of now.
        f"{count(metrics.produced_per_s)}/s" if metrics.state in ("running", "paused") else "ended",
        f"{count(metrics.consumed_per_s)}/s",
        f"{count(metrics.dropped_per_s)}/s",
        f"{count(metrics.failed_per_s)}/s",
    ]
    room = max(0, width - 4 - 7 - max(map(len, numbers)))
    seen = history.rates[-room:] if room else ()
    top = max(
        (max(step.produced, step.handled, step.dropped, step.failed) for step in seen), default=0.0
    )
    failing = bool(metrics.failed_per_s) or any(step.failed for step in seen)
    grid = _grid("left", "right", "left", stretch=2)
    lines = (
        [step.produced for step in seen],
        [step.handled for step in seen],
        [step.dropped for step in seen],
        [step.failed for step in seen],
    )
    names = (("in", "cyan"), ("out", "green"), ("drop", "magenta"), ("fail", "bold red"))
    rows = list(zip(names, numbers, lines, strict=True))
    for (name, style), number, line in rows if failing else rows[:3]:
        grid.add_row(
            Text(name, style), number, Text(sparkline(line, room, top, blocks=pen.blocks), style)
        )
    bad = Text(
        f"malformed {count(metrics.malformed)}, ignored {count(metrics.ignored)} messages",
        "red" if metrics.malformed else "bright_black",
    )
    times = f"of 5 s, lines of {room * history.step_s:.0f} s"
    if not failing:
        return pen.panel(Group(grid, bad), "rates", times, height=6)
    if metrics.malformed:
        times += f", {count(metrics.malformed)} malformed"
    return pen.panel(grid, "rates", times, height=6)


def latency(metrics: PipelineMetrics, pen: Pen, width: int) -> Panel:
    """Return the wait in the queue, the handler's time, and the lag to the ticks."""
    names = ("mean", "p50", "p99", "max") if width >= 46 else ("p50", "p99", "max")
    numbers: list[JustifyMethod] = ["right"] * len(names)
    grid = _grid("left", *numbers, stretch=0)
    grid.add_row("", *(Text(name, "bright_black") for name in names))
    rows: tuple[tuple[str, LatencyStats], ...] = (
        ("wait", metrics.queue_wait_ms),
        ("handler", metrics.handler_latency_ms),
        ("lag", metrics.processing_lag_ms),
    )
    for name, stats in rows:
        grid.add_row(
            name,
            *(
                duration(getattr(stats, each), plain=pen.plain) if stats.count else "-"
                for each in names
            ),
        )
    blocks = metrics.loop_blocks
    times = Text("of a minute")
    if blocks:
        times.append(f", loop blocked {blocks:,}x", "yellow")
    return pen.panel(grid, "latency", times, height=6)


def ledger(metrics: PipelineMetrics, pen: Pen) -> Panel:
    """Return the ledger as a sum, from top to bottom, and whether it holds."""
    grid = _grid("left", "right", "right", stretch=1)
    whole = metrics.items_produced
    grid.add_row(Text("  produced", "bold"), Text(count(whole), "bold"), "")
    ingest, back = metrics.half == "ingest", metrics.items_given_back
    for sign, name, number in (
        ("=", "appended" if ingest else "consumed", metrics.items_consumed),
        ("+", "failed", metrics.items_failed),
        ("+", "dropped", metrics.items_dropped),
        ("+", "queued", metrics.queue_size + metrics.waiting_for_room),
        ("+", "in doubt" if ingest else "in flight", metrics.in_flight),
        *([("+", "given back", back)] if back else []),
    ):
        style = "red" if name == "failed" and number else ""
        grid.add_row(
            Text(f"{sign} {name}", style), Text(count(number), style), _share(number, whole)
        )
    verdict = (
        Text(f"{pen.glyph('✓', 'ok:')} the sums agree", "green")
        if not metrics.unaccounted
        else Text(f"{pen.glyph('✗', '!!')} {metrics.unaccounted:,} UNACCOUNTED", "bold red")
    )
    return pen.panel(grid, "ledger", verdict, height=9 if back else 8)


def level(used: int, most: int) -> tuple[float, str, str]:
    """Return a share, the word for it and its style."""
    fraction = used / most if most else 0.0
    word, style = (
        ("FULL", "red")
        if fraction >= 1
        else ("high", "yellow")
        if fraction >= 0.8
        else ("ok", "green")
    )
    return fraction, word, style


def feeds(metrics: PipelineMetrics, pen: Pen, height: int) -> Panel:
    """Return a row for each feed, in at most *height* lines."""
    grid = _grid("left", "left", "right", "right", "right", stretch=0)
    rows = metrics.feeds[: max(1, height - 2)]
    for feed in rows:
        state, style = (
            (f"{pen.glyph('●', '*')} connected", "green")
            if feed.connected
            else (f"{pen.glyph('○', 'o')} market closed", "")
            if not feed.market_open
            else (f"{pen.glyph('○', 'o')} NOT CONNECTED", "red")
        )
        silent = f"{feed.silent_symbols:,} silent" if feed.silent_symbols else ""
        bad = f"{count(feed.malformed)} malformed"
        grid.add_row(
            Text(feed.name),
            Text(state, style),
            f"{count(feed.messages)} messages",
            Text(bad, "red" if feed.malformed else "bright_black"),
            Text(silent or f"{feed.reconnects:,} reconnects", "yellow" if silent else ""),
        )
    more = len(metrics.feeds) - len(rows)
    title = f"feeds ({len(metrics.feeds)})"
    return pen.panel(grid, title, f"{more} more" if more else "", height=len(rows) + 2)


def drops(metrics: PipelineMetrics, pen: Pen, width: int) -> Panel:
    """Return the drops by reason: first those that are losses, then those by design.

    Shares are shown only if they leave room for the numbers.
    """
    longest = max((len(count(number)) for number in metrics.dropped_by_reason.values()), default=0)
    shares = width - 4 >= 29 + longest
    grid = _grid("left", "left", "right", "right", stretch=2)
    for reason in sorted(REASONS, key=lambda reason: reason in INTENTIONAL):
        lost = reason not in INTENTIONAL
        number = metrics.dropped_by_reason.get(reason, 0)
        style = "bright_black" if not number else "red" if lost else "cyan"
        kind = f"{pen.glyph('▼', 'v')} lost" if lost else f"{pen.glyph('○', 'o')} by design"
        share = _share(number, metrics.items_produced) if number and shares else ""
        grid.add_row(Text(kind, style), Text(reason, style), Text(count(number), style), share)
    return pen.panel(grid, "drops", height=8)


_STATES = {
    "busy": ("●", "*", "green"),
    "idle": ("○", "o", "bright_black"),
    "ended": ("■", "x", "cyan"),
}


def _worker(worker: WorkerMetrics, pen: Pen, room: int) -> Text:
    glyph, ascii, style = _STATES.get(worker.state, ("?", "?", ""))
    text = Text(f"{worker.name:8.8} ", no_wrap=True, overflow="crop")
    text.append(f"{pen.glyph(glyph, ascii)} {worker.state:5.5} ", style)
    if not worker.failed or room >= 46:
        text.append(
            bar(worker.busy_ratio, 6 if room < 60 else 20, plain=pen.plain),
            "green" if worker.busy_ratio < 0.9 else "yellow",
        )
    text.append(f"{worker.busy_ratio:5.0%}  {worker.consumed:,}")
    if worker.failed:
        word = "failed" if room >= 46 else pen.glyph("✗", "x")
        text.append(f" {worker.failed:,} {word}", "red")
    if worker.symbol and room >= 46:
        text.append(f"  {worker.symbol}", "bright_black")
    return text


def _many_workers(rows: Sequence[WorkerMetrics], pen: Pen, each: int) -> RenderableType:
    """Return one character for every *each* workers, then the sum over all workers."""
    groups = [rows[index : index + each] for index in range(0, len(rows), each)]
    busy = [sum(worker.busy_ratio for worker in group) / len(group) for group in groups]
    states = ", ".join(
        f"{pen.glyph(glyph, ascii)} {number:,} {state}"
        for state, (glyph, ascii, _) in _STATES.items()
        if (number := sum(worker.state == state for worker in rows)) or state == "busy"
    )
    failed = sum(worker.failed for worker in rows)
    facts = (
        f"{states}; busy {sum(worker.busy_ratio for worker in rows) / len(rows):.0%} on average, "
        f"handled {sum(worker.consumed for worker in rows):,}"
        + (f", failed {failed:,}" if failed else "")
    )
    line = sparkline(busy, len(busy), 1.0, blocks=pen.blocks)
    return Group(
        Text(line, "green", no_wrap=True, overflow="crop"),
        Text(facts, no_wrap=True, overflow="crop"),
    )


def workers(metrics: PipelineMetrics, pen: Pen, width: int, height: int) -> Panel:
    """Return one row for each worker, in at most *height* lines.

    If the workers are too many for that, each of them is one character.
    """
    shown, most, inside = metrics.workers, height - 2, width - 4
    title = f"workers ({len(shown)})"
    if len(shown) > most * max(1, inside // 38):
        each = -(-len(shown) // inside)
        key = f"a character {'a worker' if each == 1 else f'for {each} workers'}: how busy"
        return pen.panel(_many_workers(shown, pen, each), title, key, height=4)
    columns = max(1, -(-len(shown) // most))
    deep = -(-len(shown) // columns)
    justify: list[JustifyMethod] = ["left"] * columns
    grid = _grid(*justify)
    for row in range(deep):
        grid.add_row(*(_worker(worker, pen, inside // columns) for worker in shown[row::deep]))
    return pen.panel(grid, title, height=max(deep, 1) + 2)


def results(metrics: PipelineMetrics, pen: Pen) -> Text:
    """Return a line on what handlers return: what is written, and what is not yet."""
    waiting, failed = metrics.results_waiting or 0, metrics.results_failed
    line = Text("  results  ", "bright_black", no_wrap=True, overflow="crop")
    line.append(f"{count(metrics.results_written)} written", "bold")
    line.append(f"  {count(waiting)} waiting", "yellow" if waiting else "bright_black")
    line.append(f"  {count(failed)} failed", "red" if failed else "bright_black")
    waited = duration(metrics.results_waiting_s * 1e3, plain=pen.plain)
    line.append(f"  workers waited {waited} for them", "bright_black")
    return line


def outcomes(history: History, pen: Pen, width: int, height: int) -> Panel:
    """Return columns of the ticks of the last seconds.

    Below those that were handled, then those that failed, above those that were
    dropped.
    """
    inside, lines = width - 4, height - 2
    steps = history.rates[-inside:]
    top = max(
        (max(step.handled + step.failed + step.dropped, step.produced) for step in steps),
        default=0.0,
    )
    picture = Text(no_wrap=True, overflow="crop")
    # A cell that holds both gets a background as dark as the shading around it.
    for line in range(lines - 1, -1, -1):
        picture.append(" " * (inside - len(steps)))
        for step in steps:
            tried = step.handled + step.failed
            handled, ended, both = (
                value / top * lines - line if top else 0.0
                for value in (step.handled, tried, tried + step.dropped)
            )
            if handled > 0.05:
                dark = "#5a1e28" if ended >= 1 > handled else "#453248"
                above = f" on {dark}" if both >= 1 and not pen.plain else ""
                picture.append(
                    sparkline([min(handled, 1.0)], 1, 1.0, blocks=pen.blocks), f"green{above}"
                )
            elif ended >= 0.5 or (ended > 0.05 and line == 0):
                picture.append(pen.glyph("▒", "x"), "red")
            else:
                picture.append(pen.glyph("░", "-") if both >= 0.5 else " ", "magenta")
        picture.append("\n" if line else "")
    key = Text.assemble(
        (f"{pen.glyph('█', '@')} handled", "green"),
        "  ",
        *(
            ((f"{pen.glyph('▒', 'x')} failed", "red"), "  ")
            if any(step.failed for step in steps)
            else ()
        ),
        (f"{pen.glyph('░', '-')} dropped", "magenta"),
    )
    key.append(f"  full height {count(top)}/s, last {inside * history.step_s:.0f} s")
    return pen.panel(picture, "outcomes", key, height=height)
