"""``trio-ticks record``: write down what a real feed sends, to play it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from ..recordings.recorder import Recorder
from .config_file import config_options
from .dry_run import dry_run
from .feed_options import feed_options, feed_secrets, make_feed
from .options import SECONDS, GroupedCommand, Number, option, output_options, set_up_logging
from .session import Display, run_to_the_end

__all__ = ["record", "record_option"]

INCOMPLETE: Final = 3
"""The exit code of a run in which messages could not be recorded."""


def record_option() -> Callable[[Any], Any]:
    """Return the option by which another command records its feed, too."""
    return option(
        "--record",
        metavar="FOLDER",
        type=click.Path(file_okay=False, path_type=Path),
        help="Record in this folder what the feed sends; trio-ticks record --help says how.",
    )


async def _nothing(_item: Any) -> None:
    """Take a tick: it is recorded already."""


@click.command(cls=GroupedCommand, short_help="Record a feed, to play it again.")
@config_options
@feed_options
@option(
    "--out",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    default="recordings",
    help="Where the files go; it is made if it is not there.",
)
@option(
    "--rotate",
    type=Number("seconds", positive=True),
    default=3600,
    help="Begin a new file at each multiple of so many seconds.",
)
@option(
    "--max-file-size",
    type=Number("MB", positive=True),
    default=1024,
    help="Begin a new file when one is as large as this.",
)
@option(
    "--compression",
    type=click.Choice(["zstd", "gzip"]),
    help="zstd needs the extra record before Python 3.14.  [default: zstd where it is there]",
)
@option(
    "--sync",
    is_flag=True,
    help="Have the disk keep each second before the next, in case of a power cut.",
)
@option(
    "--duration",
    type=SECONDS,
    help="End after so many seconds.  [default: when the feed ends, or on Ctrl-C]",
)
@output_options("lines", failures=False)
def record(*, out: Path, **parameters: Any) -> int:
    """Record what a feed sends: each raw message with the time at which it arrived.

    A new file begins every hour and at each start; none is ever written over. A crash
    costs the last second, a full disk only what does not fit into 64 MB of memory. No
    key, header or query string is in a file, and each is for its owner only.

    \b
    Examples:
      trio-ticks record --venue binance --symbols BTCUSDT,ETHUSDT
      trio-ticks record --url wss://... --symbols AAPL --out /data --duration 3600
      TICKDB_API_KEY=... trio-ticks record --venue tickdb --symbols AAPL.US

    \b
    And then:
      trio-ticks inspect recordings                what is in it
      trio-ticks exchange --capture FILE           play it over a WebSocket
      trio-ticks convert recordings --out parquet  read it with Polars, DuckDB, pandas
      trio-ticks replay recordings --handler m:f   run your strategy on it
      trio-ticks plan recordings --handler m:f     how many workers, how long a queue

    \b
    Exit codes:
      0         the end, also by Ctrl-C or SIGTERM: all is recorded
      130, 143  a second Ctrl-C or SIGTERM ended it at once
      1         the feed failed for good; what it sent is recorded
      2         a bad setting
      3         some messages could not be recorded: the report says how many
    """  # noqa: D301 - click needs the very character
    secrets = feed_secrets(parameters)
    set_up_logging(parameters, secrets)
    only_check = parameters.pop("dry_run")
    recorder = Recorder(
        out,
        rotate_s=parameters.pop("rotate"),
        max_bytes=max(4096, round(parameters.pop("max_file_size") * 2**20)),
        compression=parameters.pop("compression"),
        sync=parameters.pop("sync"),
    )
    feed = make_feed(parameters)
    display = Display.take(parameters, subtitle=f"{feed.host} to {out}", line_every_s=5.0)
    settings = {"workers": 1, "executor": "loop", "record": recorder}
    if only_check:
        return dry_run(
            feed, _nothing, settings, secrets, subtitle=display.subtitle, as_json=display.json
        )
    code = run_to_the_end(feed, _nothing, settings, display, secrets)
    return code or (INCOMPLETE if recorder.statistics().dropped else 0)
