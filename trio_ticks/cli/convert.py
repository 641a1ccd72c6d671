"""``trio-ticks convert``: recordings as Parquet.

Rules: the tables of a recording are complete or not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from ..history.converting import Converted, Converter
from ..observability.shown import shown
from .inspect import ReadingBar, recording_files, venue_option
from .interrupts import ended_by_signals
from .loading import load_venue
from .options import log_options, option, set_up_logging

__all__ = ["convert"]


@click.command(short_help="Make Parquet files of recordings.")
@click.argument(
    "paths",
    metavar="FILE|FOLDER...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
)
@option(
    "--out",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    default="parquet",
    help="Where the tables go; it is made if it is not there.",
)
@venue_option()
@option("--again", is_flag=True, help="Convert also what was converted before.")
@log_options
def convert(
    *, paths: tuple[Path, ...], out: Path, venue: str | None, again: bool, **parameters: Any
) -> int:
    """Make Parquet files of recordings that are closed: ticks, trades, books, bars and
    gaps, with typed columns, the time of arrival and the venue's.

    Each recording gets a folder of its own. Files that a recorder still writes to are
    left out, and so are those that were converted before, so that it can run every
    hour. It needs the extra parquet.

    \b
    Examples:
      trio-ticks convert recordings --out parquet
      trio-ticks convert recordings/binance-20261129T110000.000000Z.zst --again

    \b
    And then:
      polars.scan_parquet("parquet/*/ticks.parquet")
      duckdb: SELECT symbol, avg(ask - bid) FROM 'parquet/*/ticks.parquet' GROUP BY 1

    \b
    Exit codes:
      0  all that is closed is converted
      1  a table cannot be written
      2  a bad setting, or no file is a recording
      130, 143  Ctrl-C or SIGTERM has ended it: what was converted stays
    """  # noqa: D301 - click needs the very character
    set_up_logging(parameters)
    converter = Converter(out, None if venue is None else load_venue(venue), again=again)
    files = recording_files(paths)
    bar = ReadingBar(files)
    failed: list[ConfigError] = []
    with ended_by_signals():
        for path in files:
            try:
                done = converter.convert(path, bar)
            except ConfigError as error:
                failed.append(error)
            else:
                bar.clear()
                click.echo(_line(done))
            bar.next(path.stat().st_size)
    bar.clear()
    if len(failed) == len(files):
        raise failed[0]
    for reason in failed:
        click.echo(f"left out: {' '.join(str(reason).split())}", err=True)
    return 0


def _line(done: Converted) -> str:
    name = shown(str(done.path))
    if done.left_out is not None:
        return f"{name}: left out, {done.left_out}"
    rows = ", ".join(f"{count:,} rows of {table}" for table, count in done.rows.items())
    more = ""
    if done.other:
        more += f", {done.other:,} items of other kinds left out"
    if done.malformed:
        more += f", {done.malformed:,} malformed lines"
    if done.damages or done.truncated:
        more += ", DAMAGED: trio-ticks inspect says where"
    return f"{name} -> {shown(str(done.folder))}: {rows or 'no rows'}{more}"
