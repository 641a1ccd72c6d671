"""Run a pipeline for the command line: signals, the display, and the final report.

Rules: the first SIGINT, SIGTERM or SIGHUP begins the graceful shutdown, a second SIGINT
or SIGTERM cancels at once, and both end in a report. If a terminal or a pipe takes no
output, some of the display or the report is lost, but never a tick.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from typing import Any, Final, Literal

import attrs
import click
import trio

from ..errors import ConfigError, TickError
from ..feeds.base import Feed
from ..handlers.kinds import Handler
from ..logs import Redactor, log_event
from ..metrics.snapshots import PipelineReport
from ..observability.logs import LogTail
from ..pipeline.opening import open_pipeline
from ..pipeline.running import Pipeline
from ..pipeline.signals import hear_signals
from .closed_terminal import let_go_of_closed_terminal
from .last_resort import LastResort
from .ports import naming
from .report import json_line, progress_line, report_text

__all__ = ["Display", "run_session", "run_to_the_end"]

View = Literal["live", "lines", "none"]

_SAID_S: Final = 0.5
"""Seconds after which a run with nothing left to handle says that it is ending."""

TOO_MANY_FAILED: Final = 3
"""The exit code of a run in which more ticks failed than ``--max-failure-rate``."""


@attrs.frozen(slots=True, kw_only=True)
class Display:
    """The settings of what a run shows."""

    view: View
    json: bool
    subtitle: str = ""
    """A few words about the run, such as its host and its rate."""
    duration_s: float | None = None
    """When the run will end by itself, in seconds after its start."""
    line_every_s: float = 1.0
    metrics_port: int | None = None
    """The port that Prometheus may scrape; its URL is written to standard error."""
    metrics_symbols: int = 0
    max_failure_rate: float | None = None
    """The share of the handled ticks that may fail; ``None``: any."""
    dashboard_port: int | None = None
    """The port of the live page; its URL is written to standard error."""
    bind: str = "127.0.0.1"
    """The address that both ports listen on."""
    allow_hosts: tuple[str, ...] = ()
    """Names by which both ports may be reached, besides those of this machine."""
    beside: Callable[[], Awaitable[None]] | None = None
    """Runs beside the pipeline, and is cancelled with it."""
    before_report: Callable[[], Awaitable[None]] | None = None
    """Called when the feed has ended by itself and all its ticks have been handled."""
    secrets: tuple[str, ...] = attrs.field(default=(), repr=False)
    """What no line of the live view may show."""

    def choose(self) -> View:
        """Return the view that is possible here.

        If only rich is missing for the live view, it writes how to install that.
        """
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

    @classmethod
    def take(cls, parameters: dict[str, Any], **more: Any) -> Display:
        """Take the output options out of a command's *parameters*.

        Args:
            parameters: of the command, with its ``duration``.
            more: further settings.
        """
        duration = parameters.pop("duration")
        names = ("view", "json", "metrics_port", "metrics_symbols", "dashboard_port", "bind")
        more["allow_hosts"] = parameters.pop("allow_host")
        more["max_failure_rate"] = parameters.pop("max_failure_rate", None)
        return cls(
            duration_s=duration if duration is not None and math.isfinite(duration) else None,
            **{name: parameters.pop(name) for name in names},
            **more,
        )

    def code_of(self, pipeline: Pipeline[Any]) -> int:
        """Return the exit code for what failed in *pipeline*, and say why on stderr."""
        return self.code_of_report(pipeline.report)

    def code_of_report(self, report: PipelineReport) -> int:
        """Return the exit code for what failed by *report*, and say why on stderr."""
        share, most = report.failed_share, self.max_failure_rate
        if most is None or share <= most:
            return 0
        click.echo(
            f"{share:.1%} of the handled ticks failed, more than --max-failure-rate {most:g}",
            err=True,
        )
        return TOO_MANY_FAILED

    def write(self, pipeline: Pipeline[Any]) -> None:
        """Write the report to standard output, or both if both halves ran here."""
        report, ingest = pipeline.report, pipeline.ingest
        if self.json:
            result = report.to_dict()
            if pipeline.half is not None:
                result["half"] = pipeline.half
            if ingest is not None:
                result["ingest"] = ingest.report.to_dict()
            click.echo(json_line(result))
            return
        if ingest is not None:
            click.echo(f"ingest\n{report_text(ingest.report, ingest.half)}\n\nwork")
        click.echo(report_text(report, pipeline.half))


@attrs.define(slots=True)
class _Stop:
    """Why the run stops.

    ``reason`` is set once it does, ``code`` if a signal ended it at once, and
    ``is_unread`` if the terminal that would have shown the report was closed.
    """

    reason: str | None = None
    code: int = 0
    is_unread: bool = False
    begun: trio.Event = attrs.field(factory=trio.Event, init=False)

    def begin(self, reason: str) -> None:
        """Note why the run stops, for all who wait for that."""
        self.reason = self.reason or reason
        self.begun.set()

    def on_signal(self, resort: LastResort, number: signal.Signals) -> None:
        """Let go of a terminal that is closed; called in the signal handler."""
        resort.on_signal(number)
        if number.name == "SIGHUP" and let_go_of_closed_terminal():
            self.is_unread = True

    @property
    def hint(self) -> str:
        """What Ctrl-C does now."""
        if self.reason:
            return f"{self.reason}: draining the queue; Ctrl-C ends at once"
        return "Ctrl-C ends gracefully, twice at once"

    def obey(self, pipeline: Pipeline[Any], number: signal.Signals, again: bool) -> None:
        """Stop *pipeline* for a signal.

        It stops at once if it is stopping already, for whichever reason. A terminal
        that is closed meanwhile leaves it the time that it needs.
        """
        if self.reason is not None and number.name == "SIGHUP":
            return
        if again or self.reason is not None:
            self.code = 128 + number
            pipeline.cancel()
        else:
            self.begin(number.name)
            pipeline.shutdown()


def run_to_the_end(
    feed: Feed | None,
    handler: Handler[Any] | None,
    settings: dict[str, Any],
    display: Display,
    secrets: Sequence[str],
) -> int:
    """Run :func:`run_session`, and take *secrets* out of the error that ends it.

    Returns:
        The exit code.

    Raises:
        TickError: the run failed; a venue's answer may have repeated a key.
    """
    try:
        masking = attrs.evolve(display, secrets=tuple(secrets))
        return trio.run(run_session, feed, handler, settings, masking)
    except TickError as error:
        error.args = (Redactor(secrets).text(str(error)),)
        raise error from None


async def run_session(
    feed: Feed | None, handler: Handler[Any] | None, settings: dict[str, Any], display: Display
) -> int:
    """Run a pipeline until the feed ends, the time is over, or a signal comes.

    It shows the pipeline meanwhile, and writes its report at the end.

    Returns:
        The exit code: 0, or 128 and the signal's number if a second signal cut the
            shutdown short, or else 3 if too many ticks failed.

    Raises:
        ConfigError: a setting cannot work; nothing has run.
        OSError: the report cannot be written; its counts are logged.
        Exception: the feed's error, after the report has been written.

    Cancellation: cancels the pipeline at once; no report is written.
    """
    view, stop = display.choose(), _Stop()
    pipeline: Pipeline[Any] | None = None
    failure: Exception | None = None
    reported = True
    with ExitStack() as stack:
        if display.json:  # a strategy's prints would spoil the JSON
            stack.enter_context(redirect_stdout(sys.stderr))
        try:
            async with open_pipeline(feed, handler, **settings) as pipeline:
                # Signals are heard until the pipeline's block has been left: the
                # clean-up may take its time too.
                watch, timeout_s = pipeline.loop_watch, settings.get("shutdown_timeout", 5.0)
                resort = LastResort(watch, timeout_s, partial(_write_last, display, view, pipeline))
                stack.enter_context(resort)
                at_once = partial(stop.on_signal, resort)
                stack.enter_context(hear_signals(partial(stop.obey, pipeline), at_once=at_once))
                try:
                    # Not beside other tasks: the error is to come out as itself.
                    await _serve(pipeline, display)
                except ConfigError:
                    # A report of no run at all would hide the reason.
                    reported = False
                    raise
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_show, pipeline, view, display, stop)
                    if display.duration_s is not None:
                        nursery.start_soon(_end_after, display.duration_s, pipeline, stop)
                    if display.beside is not None:
                        nursery.start_soon(display.beside)
                    await pipeline.wait()
                    if display.before_report is not None and stop.reason is None:
                        await display.before_report()
                    nursery.cancel_scope.cancel()
        except Exception as error:
            failure = error
    if pipeline is not None and reported:
        try:
            display.write(pipeline)
            if stop.is_unread:
                _log_unread(pipeline, "the terminal is closed")
        except OSError as error:
            # A write to a closed terminal may fail before its signal is heard.
            if let_go_of_closed_terminal():
                _log_unread(pipeline, "the terminal is closed")
            else:
                _log_unread(pipeline, str(error))
                failure = failure or error
    if failure is not None:
        raise failure
    return stop.code or (display.code_of(pipeline) if pipeline is not None else 0)


def _log_unread(pipeline: Pipeline[Any], reason: str) -> None:
    """Log the counts of a report that nobody can read: the log may go elsewhere."""
    report = pipeline.report
    log_event(
        logging.getLogger(__name__),
        logging.WARNING,
        "cli.report_lost",
        "%s; produced %d, consumed %d, failed %d, dropped %d",
        reason,
        report.produced,
        report.consumed,
        report.failed,
        report.dropped,
        produced=report.produced,
        consumed=report.consumed,
        failed=report.failed,
        dropped=report.dropped,
    )


def _write_last(display: Display, view: View, pipeline: Pipeline[Any]) -> None:
    """Write the report of a pipeline whose event loop stands still."""
    if view == "live":
        click.echo("\x1b[?1049l\x1b[?25h", nl=False)  # the view has no time to leave the screen
    with redirect_stdout(sys.__stdout__ or sys.stdout):
        display.write(pipeline)


async def _serve(pipeline: Pipeline[Any], display: Display) -> None:
    """Open the ports that are asked for, and say where they are.

    Raises:
        ConfigError: one of them cannot be opened; the message names its option.
    """
    hosts = display.allow_hosts
    if display.metrics_port is not None:
        with naming("--metrics-port", display.metrics_port, display.bind):
            url = await pipeline.serve_metrics(
                display.metrics_port,
                display.bind,
                symbols=display.metrics_symbols,
                allow_hosts=hosts,
                max_failure_rate=display.max_failure_rate,
            )
        click.echo(f"metrics: {url}", err=True)
    if display.dashboard_port is not None:
        title = display.subtitle or "pipeline"
        with naming("--dashboard-port", display.dashboard_port, display.bind):
            url = await pipeline.serve_dashboard(
                display.dashboard_port, display.bind, title=title, allow_hosts=hosts
            )
        click.echo(f"dashboard: {url}", err=True)


async def _end_after(seconds: float, pipeline: Pipeline[Any], stop: _Stop) -> None:
    await trio.sleep(seconds)
    stop.begin("time is up")
    pipeline.shutdown()


async def _show(pipeline: Pipeline[Any], view: View, display: Display, stop: _Stop) -> None:
    try:
        if view == "live":
            await _show_live(pipeline, display, stop)
        elif view == "lines":
            await _show_lines(pipeline, display, stop)
    except OSError:
        # The output has no reader any more. That is no reason to end the pipeline.
        log_event(logging.getLogger(__name__), logging.INFO, "cli.display_lost")


async def _show_lines(pipeline: Pipeline[Any], display: Display, stop: _Stop) -> None:
    is_told = False
    while True:
        with trio.move_on_after(display.line_every_s):
            await (trio.sleep_forever if is_told else stop.begun.wait)()
        metrics = pipeline.metrics()
        line = progress_line(metrics)
        if not is_told and stop.begun.is_set():
            # At once: whoever has pressed Ctrl-C is to see that it was heard.
            is_told, line = True, stop.hint
            if not (metrics.queue_size or metrics.in_flight):
                await trio.sleep(_SAID_S)  # it should end in this moment
        await trio.to_thread.run_sync(partial(click.echo, line, err=True), abandon_on_cancel=True)


async def _show_live(pipeline: Pipeline[Any], display: Display, stop: _Stop) -> None:
    from ..observability.terminal.render import Scene, show_live

    with _log_lines(display.secrets) as tail:

        def scene() -> Scene:
            return Scene(
                subtitle=display.subtitle,
                duration_s=display.duration_s,
                messages=tuple(tail.lines),
                hint=stop.hint,
            )

        await show_live(pipeline.metrics, get_scene=scene)


@contextmanager
def _log_lines(secrets: Sequence[str]) -> Iterator[LogTail]:
    """Keep log records off the terminal while the view owns it.

    Without the *secrets*, as in all other log lines.

    The last of them are written when the view has gone.
    """
    root = logging.getLogger()
    handlers = root.handlers[:]
    tail = LogTail(redactor=Redactor(secrets))
    torn = sys.stderr.isatty()
    root.handlers[:] = [tail] if torn else [*handlers, tail]
    try:
        yield tail
    finally:
        root.handlers[:] = handlers
        if torn:
            for line in tail.lines:
                click.echo(line, err=True)
