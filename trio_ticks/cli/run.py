"""``trio-ticks run``: run a strategy of yours on a real feed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..recordings.recorder import Recorder
from .buffer_options import BufferAt, buffer_option, warn_of_password
from .config_file import config_options
from .dry_run import dry_run
from .feed_options import feed_options, feed_secrets, make_feed
from .loading import load_strategy
from .options import SECONDS, GroupedCommand, option, output_options, set_up_logging
from .pipeline_options import PipelineOptions, pipeline_options
from .record import record_option
from .session import Display, run_to_the_end

__all__ = ["run"]


@click.command(cls=GroupedCommand, short_help="Run a strategy of yours on a real feed.")
@config_options
@feed_options
@option(
    "--handler",
    metavar="MODULE:NAME",
    required=True,
    help="Your strategy: a function, a class, an object. The current directory is searched too.",
)
@option(
    "--duration",
    type=SECONDS,
    help="End after so many seconds.  [default: when the feed ends, or on Ctrl-C]",
)
@pipeline_options()
@buffer_option(required=False)
@record_option()
@output_options("lines")
def run(*, handler: str, buffer: BufferAt | None, record: Path | None, **parameters: Any) -> int:
    """Run a strategy of yours on a real feed until the feed ends, --duration is over,
    or Ctrl-C.

    The strategy takes one tick: async def runs in the event loop, a plain def in worker
    threads. A class makes one per worker. With --buffer the ticks take the way through
    a broker, where they outlive this program; trio-ticks ingest and trio-ticks work are
    the two halves as programs of their own.

    \b
    Examples:
      trio-ticks run --url wss://... --symbols AAPL --handler mine:on_tick
      trio-ticks run --venue binance --symbols BTCUSDT,ETHUSDT --handler mine:on_tick
      trio-ticks run --venue list
      trio-ticks run ... --workers 8 --view live
      trio-ticks run ... --duration 60 --json > report.json
      TICKDB_API_KEY=... trio-ticks run ...
      trio-ticks run --config ticks.toml --dry-run
      trio-ticks run ... --buffer 'redis://localhost?name=ticks'
      trio-ticks run ... --record recordings

    \b
    Exit codes:
      0         the end, also by Ctrl-C or SIGTERM: the queue is drained,
                for --shutdown-timeout at most
      130, 143  a second Ctrl-C or SIGTERM ended the draining at once
      1         the feed failed for good
      2         a bad setting
      3         more ticks failed than --max-failure-rate allows
    """  # noqa: D301 - click needs the very character
    secrets = (*feed_secrets(parameters), *(() if buffer is None else buffer.secrets))
    set_up_logging(parameters, secrets)
    only_check = parameters.pop("dry_run")
    feed = make_feed(parameters)
    count = len(feed.symbols)
    display = Display.take(
        parameters,
        subtitle=f"{feed.host}, {count} symbol{'s' * (count != 1)}",
        line_every_s=5.0,
    )
    settings = PipelineOptions.take(parameters).settings(as_json=display.json)
    if buffer is not None:
        warn_of_password(buffer)
        settings["buffer"] = buffer.buffer
    if record is not None:
        settings["record"] = Recorder(record)
    strategy = load_strategy(handler, settings["executor"], as_json=display.json)
    if only_check:
        return dry_run(
            feed, strategy, settings, secrets, subtitle=display.subtitle, as_json=display.json
        )
    return run_to_the_end(feed, strategy, settings, display, secrets)
