"""``trio-ticks ingest``: bring a real feed into a buffer between processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..recordings.recorder import Recorder
from .buffer_options import BufferAt, buffer_option, warn_of_password
from .config_file import config_options
from .dry_run import dry_run
from .feed_options import feed_options, feed_secrets, make_feed
from .options import SECONDS, GroupedCommand, option, output_options, set_up_logging
from .pipeline_options import PipelineOptions, pipeline_options
from .record import record_option
from .session import Display, run_to_the_end

__all__ = ["ingest"]


@click.command(cls=GroupedCommand, short_help="Bring a feed into a buffer between processes.")
@config_options
@feed_options
@buffer_option(required=True)
@option(
    "--duration",
    type=SECONDS,
    help="End after so many seconds.  [default: when the feed ends, or on Ctrl-C]",
)
@pipeline_options("ingest")
@record_option()
@output_options("lines", failures=False)
def ingest(*, buffer: BufferAt, record: Path | None, **parameters: Any) -> int:
    """Bring a real feed into a buffer between processes, from which trio-ticks work
    takes the ticks, here or on other machines.

    While the buffer is full or its broker is away, ticks wait here, up to --maxsize;
    then --overflow decides. What the report calls appended is safe in the broker.

    \b
    Examples:
      trio-ticks ingest --url wss://... --symbols AAPL --buffer redis://localhost
      trio-ticks ingest --venue binance --symbols BTCUSDT --buffer kafka://host/ticks
      TRIO_TICKS_BUFFER=rediss://user:password@host/0 trio-ticks ingest ...
      trio-ticks ingest ... --overflow conflate --metrics-port 9464

    \b
    Exit codes:
      0         the end, also by Ctrl-C or SIGTERM: what was taken is appended,
                for --shutdown-timeout at most
      130, 143  a second Ctrl-C or SIGTERM ended that at once
      1         the feed failed for good, or the broker refuses us
      2         a bad setting
    """  # noqa: D301 - click needs the very character
    secrets = (*feed_secrets(parameters), *buffer.secrets)
    set_up_logging(parameters, secrets)
    warn_of_password(buffer)
    only_check = parameters.pop("dry_run")
    feed = make_feed(parameters)
    display = Display.take(parameters, subtitle=f"{feed.host} to {buffer.shown}", line_every_s=5.0)
    settings = PipelineOptions.take(parameters).settings(as_json=display.json)
    settings["buffer"] = buffer.buffer
    if record is not None:
        settings["record"] = Recorder(record)
    if only_check:
        return dry_run(
            feed, None, settings, secrets, subtitle=display.subtitle, as_json=display.json
        )
    return run_to_the_end(feed, None, settings, display, secrets)
