"""``trio-ticks history``: bars of the past, as CSV or Parquet.

Rules: a file is complete or not there. Standard output has the table and nothing else;
the progress bar is on standard error, and only at a terminal.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, final

import click
import trio

from ..history import Progress, klines
from ..history.tables import CsvTable, Table, open_table
from ..history.venues import HISTORIES
from .interrupts import ended_by_signals
from .options import Number, ParamType, log_options, option, set_up_logging

__all__ = ["Moment", "history"]

_CELLS: Final = 24


@final
class Moment(ParamType):
    """A date, or a date and a time; in UTC unless it says otherwise."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time like 2026-03-02 or 2026-03-02T14:30Z.", param, ctx)


@click.command(short_help="Fetch bars of the past, as CSV or Parquet.")
@click.argument("symbol")
@option("--interval", default="1m", metavar="LENGTH", help="The length of a bar: 1m, 1h, 1d, ...")
@option("--from", type=Moment(), required=True, help="The earliest open, like 2026-03-02.")
@option("--to", type=Moment(), help="Opens are before this.  [default: now]")
@option(
    "--venue", type=click.Choice(list(HISTORIES)), default="tickdb", help="Where the bars are from."
)
@option("--url", help="Another address of the venue, like http://127.0.0.1:8000.")
@option(
    "--api-key",
    env=("TICKDB_API_KEY",),
    help="The key for the venue. Set it in the environment: other users can see command lines.",
)
@option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to FILE.csv or FILE.parquet.  [default: CSV to standard output]",
)
@option(
    "--cache",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Keep bars that will not change here, and fetch them once.",
)
@option(
    "--requests-per-minute",
    type=Number("n", whole=True, positive=True),
    default=30,
    help="How many requests may be sent in 60 s. TickDB's free plan has 30.",
)
@option("--type", metavar="KIND", help="TickDB: stock, crypto, ..., if a symbol is ambiguous.")
@option("--adjust", metavar="WAY", help="TickDB: forward or backward, for splits and dividends.")
@option("--forming", is_flag=True, help="Write the bar, too, that is not over yet.")
@option(
    "--timeout",
    type=Number("seconds", positive=True),
    default=10,
    help="How long an answer may take, in seconds.",
)
@option("--proxy", metavar="URL", help="An HTTP proxy: http://[user:password@]host:port.")
@log_options
def history(*, symbol: str, **parameters: Any) -> int:
    """Fetch the bars of SYMBOL that open from --from until before --to.

    Pages are fetched at the pace that the venue allows. What is kept in --cache is not
    fetched again, so a run that was interrupted goes on where it was.

    \b
    Examples:
      trio-ticks history BTCUSDT --interval 1h --from 2026-01-01 --venue binance
      trio-ticks history AAPL.US --from 2026-03-02 --to 2026-03-07 --out aapl.csv
      trio-ticks history BTCUSDT --from 2026-01-01 --venue binance --cache bars
      TICKDB_API_KEY=... trio-ticks history 700.HK --interval 1d --from 2020-01-01

    \b
    Exit codes:
      0  all bars are written
      1  the venue refused, or could not be reached
      2  a bad setting
      130, 143  Ctrl-C or SIGTERM has ended it: no file is written
    """  # noqa: D301 - click needs the very character
    key = parameters["api_key"]
    set_up_logging(parameters, secrets=() if key is None else (key,))
    out: Path | None = parameters.pop("out")
    start, end = parameters.pop("from"), parameters.pop("to")
    # Where the table itself goes to the terminal, a bar would run into its rows.
    free = out is not None or not sys.stdout.isatty()
    show = _Bar() if free and sys.stderr.isatty() else None
    bars = klines(symbol, parameters.pop("interval"), start, end, progress=show, **parameters)

    async def fetch(table: Table) -> int:
        count = 0
        async with bars:
            async for bar in bars:
                table.write(bar)
                count += 1
        return count

    target: AbstractContextManager[Table]
    target = nullcontext(CsvTable(sys.stdout)) if out is None else open_table(out)
    try:
        with ended_by_signals(), target as table:
            count = trio.run(fetch, table)
    finally:
        if show is not None:
            show.clear()
    if out is not None:
        click.echo(f"{out}: {count:,} bars", err=True)
    return 0


@final
class _Bar:
    """A progress bar on standard error, drawn anew after each page."""

    def __init__(self) -> None:
        self._width = 0

    def __call__(self, progress: Progress) -> None:
        done = round(progress.fraction * _CELLS)
        line = (
            f"[{'#' * done}{'.' * (_CELLS - done)}] {progress.fraction:4.0%}"
            f"  {progress.bars:,} bars, until {progress.until:%Y-%m-%d %H:%M}"
        )
        click.echo(f"\r{line:<{self._width}}", nl=False, err=True)
        self._width = len(line)

    def clear(self) -> None:
        """Take the bar away."""
        click.echo(f"\r{'':<{self._width}}\r", nl=False, err=True)
