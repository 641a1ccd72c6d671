"""Show a pipeline in the terminal: draw one picture of it, or one after another.

Rules: ``render`` is pure: the same snapshot and size give the same picture. What comes
from outside reaches the terminal only through :mod:`trio_ticks.observability.shown`. A
slow or stopped terminal may cost frames, never ticks: a thread writes the frames, and
the pipeline never waits for it. Needs rich: ``pip install 'trio-ticks[cli]'``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NoReturn

import attrs
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ...logs import one_line
from ...metrics.snapshots import PipelineMetrics
from ..shown import shown, shown_metrics
from . import alerts, panels
from .buffer_panel import buffer
from .history import History
from .recorder_line import recorder_line

__all__ = ["Scene", "render", "show_live"]

TWO_COLUMNS = 72
"""Narrower than this, panels stand one above the other."""
_MOST_FEEDS: Final = 6
"""Feeds that have a row; how many there are beyond is told."""


@attrs.frozen(slots=True, kw_only=True)
class Scene:
    """The texts around the snapshot, and how to draw."""

    title: str = "trio-ticks"
    subtitle: str = ""
    duration_s: float | None = None
    """When the run will end by itself, in seconds after its start."""
    messages: Sequence[str] = ()
    """The latest log lines, newest last."""
    hint: str = "Ctrl-C ends gracefully"
    alarm: str = ""
    """Why the snapshot is out of date; shown in the place of the connection."""
    plain: bool = False
    """Draw with ASCII alone, for a terminal that is not UTF-8."""

    def shown(self) -> Scene:
        """Return the scene without what a terminal must not get."""
        clean = partial(shown, plain=self.plain)
        return attrs.evolve(
            self,
            title=clean(self.title),
            subtitle=clean(self.subtitle),
            hint=clean(self.hint),
            alarm=clean(self.alarm),
            # These may be longer: they are cut at the terminal's width.
            messages=tuple(one_line(each, 1000) for each in self.messages)
            if not self.plain
            else tuple(map(clean, self.messages)),
        )


def _beside(left: Panel, right: Panel, width: int) -> Table:
    table = Table.grid(expand=True)
    table.add_column(width=width // 2)
    table.add_column(width=width - width // 2)
    table.add_row(left, right)
    return table


def _header(metrics: PipelineMetrics, pen: panels.Pen, width: int, scene: Scene) -> Text:
    return panels.header(
        metrics,
        pen,
        width,
        title=scene.title,
        subtitle=scene.subtitle,
        duration_s=scene.duration_s,
        alarm=scene.alarm,
    )


def render(
    metrics: PipelineMetrics,
    *,
    history: History,
    width: int = 80,
    height: int = 24,
    scene: Scene | None = None,
) -> RenderableType:
    """Return a picture of *metrics*, at most *width* columns and *height* lines large.

    If the panels need more room than that, the least important ones are left out.
    """
    scene = (scene or Scene()).shown()
    metrics = shown_metrics(metrics, plain=scene.plain)
    pen = panels.Pen(scene.plain)
    half = width // 2 if (wide := width >= TWO_COLUMNS) else width
    rates, latency = panels.rates(metrics, history, pen, half), panels.latency(metrics, pen, half)
    ledger, drops = panels.ledger(metrics, pen), panels.drops(metrics, pen, half)
    left, shown = height, list[tuple[int, RenderableType]]()

    def show(place: int, lines: int, part: RenderableType) -> None:
        nonlocal left
        if lines <= left:
            shown.append((place, part))
            left -= lines

    # In order of importance; the first number is the place on the screen, from the top.
    show(0, 1, _header(metrics, pen, width, scene))
    alert = alerts.alert(metrics, pen)
    if alert is not None:
        show(1, 1, alert)
    show(1, 3, panels.queue(metrics, pen, width))
    if metrics.buffer is not None:
        show(1, 5, buffer(metrics, pen, width))
    if wide:
        show(4, ledger.height or 8, _beside(ledger, drops, width))
        show(2, 6, _beside(rates, latency, width))
    else:
        show(4, ledger.height or 8, ledger)
        show(2, 6, rates)
        show(3, 6, latency)
        show(5, 8, drops)
    if metrics.results_waiting is not None:
        show(5, 1, panels.results(metrics, pen))
    if metrics.recorder is not None:
        show(5, 1, recorder_line(metrics.recorder, pen))
    if len(metrics.feeds) > 1 and left >= 4:
        feeds = panels.feeds(metrics, pen, min(left - 1, 2 + _MOST_FEEDS))
        show(6, feeds.height or left, feeds)
    spare = left - (2 if alert is None else 1)  # the hint, and a message if none is above
    if spare >= 4 and metrics.half != "ingest":
        workers = panels.workers(metrics, pen, width, spare)
        show(7, workers.height or spare, workers)
    show(10, 1, Text(scene.hint, "bright_black", no_wrap=True, overflow="crop"))
    if left >= 8:
        lines = min(left - 3, 12)
        show(8, lines, panels.outcomes(history, pen, width, lines))
    if metrics.advice is not None and left:
        show(9, 1, Text(f"advice: {metrics.advice}", "cyan", no_wrap=True, overflow="crop"))
    for message in scene.messages[-left:] if left else ():
        show(9, 1, Text(message, "yellow", no_wrap=True, overflow="crop"))
    return Group(*(part for _, part in sorted(shown, key=lambda pair: pair[0])))


async def show_live(
    get_metrics: Callable[[], PipelineMetrics],
    *,
    console: Console | None = None,
    interval_s: float = 0.25,
    get_scene: Callable[[], Scene] = Scene,
    get_history: Callable[[], History] | None = None,
) -> NoReturn:
    """Draw ``get_metrics()`` every *interval_s* seconds, until cancelled.

    It uses the terminal's alternate screen.

    The history of the rates is kept here, from the first frame on, unless *get_history*
    gives one.

    Cancellation: restores the terminal's screen and cursor, within half a second even
        if the terminal takes no output any more.
    """
    console = console or Console()
    plain = not console.encoding.lower().startswith("utf")
    own = History()
    live = Live(
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    lock, closed, lost = threading.Lock(), False, False

    def draw(frame: RenderableType) -> None:
        nonlocal lost
        with lock:
            if not closed:
                try:
                    live.start()  # does nothing if it has been started already
                    live.update(frame, refresh=True)
                except OSError:
                    lost = True
                    raise

    try:
        while True:
            metrics = get_metrics()
            if get_history is None:
                own.add(metrics)
            history = own if get_history is None else get_history()
            scene = attrs.evolve(get_scene(), plain=plain)
            frame = render(
                metrics, history=history, width=console.width, height=console.height, scene=scene
            )
            await trio.to_thread.run_sync(partial(draw, frame), abandon_on_cancel=True)
            await trio.sleep(interval_s)
    finally:
        # A frame that is being written now may still finish. If the terminal is stuck,
        # it is left as it is, since waiting for it could take for ever.
        closed = True
        if lock.acquire(timeout=0.5):
            try:
                # rich cannot undo a start that the terminal cut short: it raises
                # another error there, which would hide the terminal's own.
                with suppress(*((OSError, IndexError) if lost else ())):
                    live.stop()
            finally:
                lock.release()
