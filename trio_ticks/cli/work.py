"""``trio-ticks work``: handle what comes out of a buffer between processes."""

from __future__ import annotations

from typing import Any

import click

from .buffer_options import BufferAt, buffer_option, warn_of_password
from .config_file import config_options
from .dry_run import dry_run
from .loading import load_strategy
from .options import SECONDS, GroupedCommand, Number, option, output_options, set_up_logging
from .pipeline_options import PipelineOptions, pipeline_options
from .session import Display, run_to_the_end

__all__ = ["work"]


@click.command(
    cls=GroupedCommand, short_help="Run a strategy of yours on a buffer between processes."
)
@config_options
@buffer_option(required=True)
@option(
    "--handler",
    metavar="MODULE:NAME",
    required=True,
    help="Your strategy: a function, a class, an object. The current directory is searched too.",
)
@option(
    "--duration",
    type=SECONDS,
    help="End after so many seconds.  [default: on Ctrl-C]",
)
@option(
    "--prefetch",
    type=Number("ticks", least=1, whole=True),
    help="Ticks that are fetched ahead; after a crash up to that many come again.  "
    "[default: the buffer's]",
)
@pipeline_options("work")
@output_options("lines")
def work(*, buffer: BufferAt, handler: str, prefetch: int | None, **parameters: Any) -> int:
    """Run a strategy of yours on what trio-ticks ingest brings into a buffer, until
    Ctrl-C or --duration is over.

    Start as many of these as you like, on any machines: they share the symbols out
    among themselves, and each symbol's ticks are handled in order. One that ends
    handles what it has fetched, and gives back what it does not get to; what one that
    was killed had fetched comes again, to the others.

    \b
    Examples:
      trio-ticks work --buffer 'redis://localhost?name=ticks' --handler mine:on_tick
      trio-ticks work --buffer kafka://localhost/ticks --handler mine:on_tick
      TRIO_TICKS_BUFFER=rediss://user:password@host/0 trio-ticks work ...
      trio-ticks work ... --workers 8 --metrics-port 9464 --view live

    \b
    Exit codes:
      0         the end, also by Ctrl-C or SIGTERM: what was fetched is handled,
                for --shutdown-timeout at most, and the rest is given back
      130, 143  a second Ctrl-C or SIGTERM ended that at once
      1         the broker refuses us
      2         a bad setting
      3         more ticks failed than --max-failure-rate allows
    """  # noqa: D301 - click needs the very character
    set_up_logging(parameters, buffer.secrets)
    warn_of_password(buffer)
    only_check = parameters.pop("dry_run")
    display = Display.take(parameters, subtitle=buffer.shown, line_every_s=5.0)
    settings = PipelineOptions.take(parameters).settings(as_json=display.json)
    settings["buffer"] = buffer.buffer
    if prefetch is not None:
        settings["maxsize"] = prefetch
    strategy = load_strategy(handler, settings["executor"], as_json=display.json)
    if only_check:
        return dry_run(
            None,
            strategy,
            settings,
            buffer.secrets,
            subtitle=display.subtitle,
            as_json=display.json,
        )
    return run_to_the_end(None, strategy, settings, display, buffer.secrets)
