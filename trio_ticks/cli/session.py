"""One run of a pipeline under a terminal: signals, what is shown meanwhile, and the report at the end.

Rules: the first SIGINT or SIGTERM begins the graceful shutdown, the second cancels at once, and both end in a report. A terminal or a pipe
that takes no output costs what would have been shown, never a tick.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from typing import Any, Literal

import attrs
import click
import trio

from ..executors import Handler
from ..feeds.base import Feed
from ..metrics import PipelineReport
from ..observability.logs import LogTail
from ..pipeline import Pipeline, open_pipeline
from .report import progress_line, report_text

__all__ = ["Display", "run_session"]

View = Literal["live", "lines", "none"]


@attrs.frozen(slots=True, kw_only=True)
class Display:
    """What a run shows."""

    view: View
    json: bool
    subtitle: str = ""
    """What runs, in a few words."""
    duration_s: float | None = None
    """When it will end by itself."""
    line_every_s: float = 1.0
    metrics_port: int | None = None
    """Where Prometheus may scrape; its URL is written to standard error."""
    metrics_symbols: int = 0
    dashboard_port: int | None = None
    """Where a browser finds the live page; its URL is written to standard error."""

    def choose(self) -> View:
        """Return the view that is possible here; where only rich is missing, say how to get the better one."""
        if self.view != "live":
            return self.view
        if self.json or not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
            return "lines"
        try:
            import rich as _rich  # noqa: F401
        except ImportError:
            click.echo("for a live view: pip install 'trio-ticks[cli]'", err=True)
            return "lines"
        return "live"

    def write(self, report: PipelineReport) -> None:
        """Write the report to standard output."""
        click.echo(json.dumps(report.to_dict()) if self.json else report_text(report))


@attrs.define(slots=True)
class _Stop:
    """Why the run stops: ``reason`` once it does, ``code`` where that was made an abrupt end."""

    reason: str | None = None
    code: int = 0


async def run_session(feed: Feed, handler: Handler[Any], settings: dict[str, Any], display: Display) -> int:
    """Run a pipeline until the feed ends, ``display.duration_s`` is over, or a signal comes; show it, and write its report.

    Returns:
        The exit code: 0, or 128 and the signal's number where a second signal cut the shutdown short.

    Raises:
        ConfigError: a setting cannot work; nothing has run.
        Exception: what the feed raised, after the report has been written.

    Cancellation: cancels the pipeline at once; no report is written.
    """
    view, stop = display.choose(), _Stop()
    pipeline: Pipeline[Any] | None = None
    failure: Exception | None = None
    with ExitStack() as stack:
        if display.json:  # what a strategy prints would spoil the JSON
            stack.enter_context(redirect_stdout(sys.stderr))
        signals = stack.enter_context(trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM))
        try:
            async with open_pipeline(feed, handler, **settings) as pipeline, trio.open_nursery() as nursery:
                nursery.start_soon(_obey, signals, pipeline, stop)
                if display.metrics_port is not None:
                    url = await pipeline.serve_metrics(display.metrics_port, symbols=display.metrics_symbols)
                    click.echo(f"metrics: {url}", err=True)
                if display.dashboard_port is not None:
                    title = display.subtitle or "pipeline"
                    click.echo(f"dashboard: {await pipeline.serve_dashboard(display.dashboard_port, title=title)}", err=True)
                nursery.start_soon(_show, pipeline, view, display, stop)
                if display.duration_s is not None:
                    nursery.start_soon(_end_after, display.duration_s, pipeline, stop)
                await pipeline.wait()
                nursery.cancel_scope.cancel()
        except Exception as error:
            failure = error
    if pipeline is not None:
        display.write(pipeline.report)
    if failure is not None:
        raise failure
    return stop.code


async def _obey(signals: AsyncIterator[int], pipeline: Pipeline[Any], stop: _Stop) -> None:
    async for number in signals:
        if stop.reason is None:
            stop.reason = signal.Signals(number).name
            pipeline.shutdown()
        else:
            stop.code = 128 + number
            pipeline.cancel()


async def _end_after(seconds: float, pipeline: Pipeline[Any], stop: _Stop) -> None:
    await trio.sleep(seconds)
    stop.reason = stop.reason or "time is up"
    pipeline.shutdown()


async def _show(pipeline: Pipeline[Any], view: View, display: Display, stop: _Stop) -> None:
    try:
        if view == "live":
            await _show_live(pipeline, display, stop)
        elif view == "lines":
            await _show_lines(pipeline, display)
    except OSError:
        # Nobody reads any more. The pipeline has better to do than to end for that.
        logging.getLogger(__name__).info("cli.display_lost")


async def _show_lines(pipeline: Pipeline[Any], display: Display) -> None:
    while True:
        await trio.sleep(display.line_every_s)
        line = progress_line(pipeline.metrics())
        await trio.to_thread.run_sync(partial(click.echo, line, err=True), abandon_on_cancel=True)


async def _show_live(pipeline: Pipeline[Any], display: Display, stop: _Stop) -> None:
    from ..observability.terminal import Scene, show_live

    with _log_lines() as tail:

        def scene() -> Scene:
            hint = f"{stop.reason}: draining the queue; Ctrl-C ends at once" if stop.reason else "Ctrl-C ends gracefully, twice at once"
            return Scene(subtitle=display.subtitle, duration_s=display.duration_s, messages=tuple(tail.lines), hint=hint)

        await show_live(pipeline.metrics, get_scene=scene)


@contextmanager
def _log_lines() -> Iterator[LogTail]:
    """Keep log records off the terminal while the view owns it; the last of them are written when it has gone."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    tail = LogTail()
    torn = sys.stderr.isatty()
    root.handlers[:] = [tail] if torn else [*handlers, tail]
    try:
        yield tail
    finally:
        root.handlers[:] = handlers
        if torn:
            for line in tail.lines:
                click.echo(line, err=True)
