"""``trio-ticks replay``: run a strategy of yours on a recording."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..clock import monotonic
from ..feeds.replay import ReplayFeed
from ..foresight.virtual import replay_virtual
from ..metrics.snapshots import PipelineReport
from .config_file import config_options
from .dry_run import dry_run
from .loading import load_strategy, load_venue, venue_list
from .market_bar import MarketBar
from .options import (
    SECONDS,
    GroupedCommand,
    Names,
    Number,
    ParamType,
    option,
    output_options,
    set_up_logging,
)
from .pipeline_options import PipelineOptions, pipeline_options
from .report import json_line, report_text
from .session import Display, run_to_the_end

__all__ = ["replay"]


class Speed(ParamType):
    """A factor on the recording's pace, or ``max``."""

    name = "factor|max"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if value == "max":
            return math.inf
        return Number("factor", positive=True, infinite=True).convert(value, param, ctx)


class ServiceTime(ParamType):
    """Seconds, or ``measured``."""

    name = "seconds|measured"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        return value if value == "measured" else Number("seconds").convert(value, param, ctx)


class Venue(ParamType):
    """A venue's name, or a codec class; ``list`` shows the names and ends."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "list" and ctx is not None:
            click.echo(venue_list())
            ctx.exit()
        try:
            return load_venue(value)
        except click.BadParameter as error:
            self.fail(error.message, param, ctx)


class _Recording(click.Option):
    group = "Recording"


class _Virtual(click.Option):
    group = "Virtual clock"


@click.command(cls=GroupedCommand, short_help="Run a strategy of yours on a recording.")
@config_options
@click.argument(
    "recordings",
    metavar="RECORDING...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
)
@option(
    "--handler",
    metavar="MODULE:NAME",
    required=True,
    help="Your strategy: a function, a class, an object. The current directory is searched too.",
)
@option(
    "--speed",
    cls=_Recording,
    type=Speed(),
    default="1",
    help="The recording's own pace times this; max: as fast as the strategy takes the ticks.",
)
@option(
    "--start", cls=_Recording, metavar="TIME", help="From this time on, such as 2026-03-02T14:30."
)
@option("--end", cls=_Recording, metavar="TIME", help="Up to this time; both are in UTC.")
@option("--symbols", cls=_Recording, type=Names(), help="Play these only.  [default: all]")
@option(
    "--venue",
    cls=_Recording,
    type=Venue(),
    help="Whose messages they are: a name, or a codec class of yours like mine:MyCodec; "
    "list shows the names.  [default: the files tell]",
)
@option(
    "--channels",
    cls=_Recording,
    type=Names(),
    help="Channels to play, or all.  [default: the venue's usual ones]",
)
@option(
    "--books",
    cls=_Recording,
    is_flag=True,
    help="Keep the order books in the feed: ticks come when the best level changes.",
)
@option(
    "--virtual",
    cls=_Virtual,
    is_flag=True,
    help="On a clock that jumps: hours in seconds, the same again for the same seed.",
)
@option("--seed", cls=_Virtual, type=int, default=0, help="Decides what is left to chance.")
@option(
    "--service",
    cls=_Virtual,
    type=ServiceTime(),
    help="How long the strategy's code takes a tick, besides what it awaits.  [default: no time]",
)
@option(
    "--duration",
    type=SECONDS,
    help="End after so many seconds.  [default: at the recording's end, or on Ctrl-C]",
)
@pipeline_options()
@output_options("bar", more=(("bar", "the market's time as a bar"),))
@click.pass_context
def replay(
    context: click.Context, /, *, recordings: tuple[Path, ...], handler: str, **parameters: Any
) -> int:
    """Run a strategy of yours on a recording: files, or a folder of them.

    In real time it runs as on a live feed, at the recording's own pace or faster. With
    --virtual no time passes but what the strategy awaits, so that an hour takes as long
    as its code, and every run with the same seed is the same, tick by tick.

    tt.replaying() is true in the strategy: ask it before you send an order.

    \b
    Examples:
      trio-ticks replay quotes.gz --handler mine:on_tick
      trio-ticks replay recordings/ --handler mine:on_tick --speed 10 --view live
      trio-ticks replay recordings/ --handler mine:on_tick --speed max
      trio-ticks replay recordings/ --handler mine:on_tick --virtual --maxsize 200
      trio-ticks replay recordings/ --handler mine:on_tick --virtual --service 0.002
      trio-ticks replay day.zst ... --start 2026-03-02T14:30 --end 2026-03-02T15:00

    \b
    Exit codes:
      0         the recording's end, --duration, Ctrl-C or SIGTERM
      130, 143  a second Ctrl-C or SIGTERM ended the draining at once
      1         the run failed
      2         a bad setting, or no recording
      3         more ticks failed than --max-failure-rate allows
    """  # noqa: D301 - click needs the very character
    set_up_logging(parameters)
    take = parameters.pop
    only_check = take("dry_run")
    channels = take("channels")
    feed = ReplayFeed(
        recordings,
        take("speed"),
        symbols=take("symbols"),
        venue=take("venue"),
        channels="all" if channels == ("all",) else channels,
        books=take("books"),
        start=take("start"),
        end=take("end"),
    )
    virtual, seed, service = take("virtual"), take("seed"), take("service")
    _refuse_idle_options(context, virtual=virtual)
    settings = PipelineOptions.take(parameters).settings(as_json=parameters["json"])
    bar = MarketBar(feed)
    if parameters["view"] == "bar":
        parameters["view"] = "none"
        beside = bar.run
    else:
        beside = None
    display = Display.take(parameters, subtitle=_name(recordings), line_every_s=5.0, beside=beside)
    strategy = load_strategy(handler, settings["executor"], as_json=display.json)
    if only_check:
        return dry_run(
            feed, strategy, settings, (), subtitle=display.subtitle, as_json=display.json
        )
    if not virtual:
        try:
            return run_to_the_end(feed, strategy, settings, display, ())
        finally:
            bar.end()
    return _play_virtually(feed, strategy, settings, display, bar, seed=seed, service=service)


def _name(recordings: tuple[Path, ...]) -> str:
    more = f" and {len(recordings) - 1} more" if len(recordings) > 1 else ""
    return f"{recordings[0].name}{more}"


def _refuse_idle_options(context: click.Context, *, virtual: bool) -> None:
    """Refuse options that would do nothing here.

    Raises:
        click.UsageError: one was given.
    """
    idle = ("seed", "service") if not virtual else ("metrics_port", "dashboard_port", "duration")
    for name in idle:
        source = context.get_parameter_source(name)
        # What a file says for several commands may be idle in one of them.
        if source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            shown = "--" + name.replace("_", "-")
            why = (
                f"{shown} is for --virtual"
                if not virtual
                else f"{shown} is not for --virtual: hours pass in seconds there"
                + ("; end it by --end" if name == "duration" else "")
            )
            raise click.UsageError(why, context)
    if virtual and context.params["view"] in ("live", "lines"):
        raise click.UsageError("--virtual has a bar, or nothing: --view bar or none", context)


def _play_virtually(
    feed: ReplayFeed,
    strategy: Any,
    settings: dict[str, Any],
    display: Display,
    bar: MarketBar,
    *,
    seed: int,
    service: Any,
) -> int:
    shows = display.beside is not None
    began = monotonic()
    with redirect_stdout(sys.stderr) if display.json else nullcontext():
        try:
            report = replay_virtual(
                feed,
                strategy,
                seed=seed,
                service=service,
                on_progress=(lambda _pipeline: bar.draw()) if shows else None,
                **settings,
            )
        finally:
            bar.end()
    took_s = monotonic() - began
    if display.json:
        click.echo(json_line(report.to_dict()))
    else:
        click.echo(report_text(report))
        click.echo(f"\n  {_pace(report, took_s)}\n  fingerprint {report.fingerprint}, seed {seed}")
    return display.code_of_report(report)


def _pace(report: PipelineReport, took_s: float) -> str:
    rate = report.produced / took_s if took_s > 0 else 0.0
    return (
        f"on a virtual clock: {report.duration_s:,.1f} s in {took_s:,.1f} s of ours, "
        f"{rate:,.0f} ticks/s"
    )
