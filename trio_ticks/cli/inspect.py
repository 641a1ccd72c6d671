"""``trio-ticks inspect``: what is in recordings, and what is missing from them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, final

import click

from ..errors import ConfigError
from ..feeds.recording_files import check_paths, files_at
from ..history.surveys import Survey, survey
from .loading import load_venue
from .options import Number, log_options, option, set_up_logging
from .report import json_line
from .survey_text import folder_text, survey_text

__all__ = ["ReadingBar", "inspect", "recording_files", "venue_option"]

INCOMPLETE: Final = 3
"""The exit code where something is missing from a recording."""
_CELLS: Final = 24


def recording_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files at *paths*, and those in the folders among them.

    Raises:
        ConfigError: there is nothing at a path, or a folder has too many files.
    """
    found = list(files_at(check_paths(list(paths))))
    if not found:
        raise ConfigError(f"there is no file in {', '.join(str(path) for path in paths)}")
    return found


def venue_option() -> Callable[[Any], Any]:
    """Return the option that says whose messages recordings hold."""
    return option(
        "--venue",
        help="Whose messages they are: a name, or a codec class of yours like mine:MyCodec.  "
        "[default: the first lines tell]",
    )


@final
class ReadingBar:
    """A bar on standard error that shows how much of some files was read.

    Args:
        files: all of them.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._all = max(1, sum(path.stat().st_size for path in files))
        self._before = 0
        self._shown = -1
        self._is_on = sys.stderr.isatty()

    def __call__(self, done: int, _size: int) -> None:
        """Show that *done* bytes of the current file were read."""
        percent = min(100, 100 * (self._before + done) // self._all)
        if self._is_on and percent != self._shown:
            self._shown = percent
            cells = percent * _CELLS // 100
            click.echo(
                f"\r[{'#' * cells}{'.' * (_CELLS - cells)}] {percent:3} %", nl=False, err=True
            )

    def next(self, size: int) -> None:
        """Go on with another file, after one of *size* bytes."""
        self._before += size

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_on and self._shown >= 0:
            click.echo(f"\r{'':{_CELLS + 8}}\r", nl=False, err=True)


@click.command(short_help="Show what is in recordings, and what is missing.")
@click.argument(
    "paths",
    metavar="FILE|FOLDER...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
)
@venue_option()
@option(
    "--top",
    type=Number("n", whole=True),
    default=10,
    help="How many symbols to list, those with the most items.",
)
@option("--json", is_flag=True, help="Write one JSON object for each file, a line each.")
@log_options
def inspect(
    *, paths: tuple[Path, ...], venue: str | None, top: float, json: bool, **parameters: Any
) -> int:
    """Show what is in recordings: span, symbols, rates over time, gaps, reconnects, and
    every place that is damaged or missing.

    A file is read whole, about 10 MB of it a second, whatever program wrote it.

    \b
    Examples:
      trio-ticks inspect recordings
      trio-ticks inspect recordings/binance-20261129T110000.000000Z.zst --top 50
      trio-ticks inspect recordings --json | jq .symbols

    \b
    Exit codes:
      0  the recordings are whole
      2  a file is no recording
      3  something is missing: damage, a crash, messages that were not recorded
    """  # noqa: D301 - click needs the very character
    set_up_logging(parameters)
    codec = None if venue is None else load_venue(venue)
    files = recording_files(paths)
    bar = ReadingBar(files)
    found: list[Survey] = []
    failed: list[ConfigError] = []
    for path in files:
        try:
            found.append(survey(path, codec, bar))
        except ConfigError as error:
            failed.append(error)
        bar.next(path.stat().st_size)
    bar.clear()
    if not found:
        raise failed[0]
    if json:
        for each in found:
            click.echo(json_line(each.to_dict()))
    elif len(files) == 1:
        click.echo(survey_text(found[0], top=int(top), plain=_is_plain()))
    else:
        click.echo(folder_text(found, plain=_is_plain()))
    for reason in failed:
        click.echo(f"left out: {' '.join(str(reason).split())}", err=True)
    return 0 if all(each.is_whole for each in found) else INCOMPLETE


def _is_plain() -> bool:
    """Tell whether the output can show ASCII only."""
    return "utf" not in (sys.stdout.encoding or "").lower()
