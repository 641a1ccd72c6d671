"""Bars in files: CSV, and Parquet with pyarrow.

Rules: a file is complete or not there: it is written beside its place, and moved when
all bars are in it. Memory holds one group of rows.
"""

from __future__ import annotations

import csv
import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Protocol, final

import attrs

from ..errors import ConfigError
from ..ticks import Bar

__all__ = ["COLUMNS", "CsvTable", "Table", "arrow_modules", "open_table"]

COLUMNS: Final = tuple(field.name for field in attrs.fields(Bar))
"""The columns: the fields of a :class:`~trio_ticks.Bar`."""
_GROUP: Final = 10_000
"""Rows of a group in a Parquet file."""


class Table(Protocol):
    """Where bars are written to."""

    def write(self, bar: Bar) -> None:
        """Add a row."""
        ...

    def finish(self) -> None:
        """Write what is still in memory."""
        ...


@final
class CsvTable:
    """Rows of text.

    Times are ISO 8601 in UTC; a volume that the venue does not say is empty.

    Args:
        out: where they go.
    """

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._writer = csv.writer(out, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def write(self, bar: Bar) -> None:
        """Add a row."""
        self._writer.writerow(
            (
                bar.symbol,
                bar.timestamp.replace(tzinfo=None).isoformat() + "Z",
                f"{bar.interval_s:g}",
                bar.open,
                bar.high,
                bar.low,
                bar.close,
                "" if math.isnan(bar.volume) else bar.volume,
                str(bar.closed).lower(),
            )
        )

    def finish(self) -> None:
        """Write what is still in memory."""
        self._out.flush()


def arrow_modules() -> tuple[Any, Any]:
    """Return pyarrow, and its module for Parquet.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ConfigError("Parquet needs pyarrow: pip install 'trio-ticks[parquet]'") from None
    return arrow, parquet


@final
class ParquetTable:
    """Columns: texts, UTC times in microseconds, floats.

    A volume that the venue does not say is null.

    Args:
        path: of the file.

    Raises:
        ConfigError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._arrow, parquet = arrow_modules()
        arrow = self._arrow
        kinds = {"symbol": arrow.string(), "timestamp": arrow.timestamp("us", tz="UTC")}
        kinds["closed"] = arrow.bool_()
        self._schema = arrow.schema(
            [
                arrow.field(name, kinds.get(name, arrow.float64()), nullable=name == "volume")
                for name in COLUMNS
            ]
        )
        self._rows: list[Bar] = []
        self._writer = parquet.ParquetWriter(path, self._schema)

    def write(self, bar: Bar) -> None:
        """Add a row."""
        self._rows.append(bar)
        if len(self._rows) >= _GROUP:
            self._write_group()

    def finish(self) -> None:
        """Write what is still in memory."""
        if self._rows:
            self._write_group()
        self._writer.close()

    def abandon(self) -> None:
        """Close the file, which is incomplete."""
        self._writer.close()

    def _write_group(self) -> None:
        columns: dict[str, list[Any]] = {
            name: [getattr(bar, name) for bar in self._rows] for name in COLUMNS
        }
        columns["volume"] = [None if math.isnan(each) else each for each in columns["volume"]]
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))
        self._rows.clear()


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """Write a table to *path*, which is there when the block has ended well.

    Raises:
        ConfigError: the name ends neither in ``.csv`` nor in ``.parquet``, pyarrow is
            missing, or the folder cannot be written to.
        OSError: writing failed.
    """
    openers: dict[str, Callable[[Path], Any]] = {".csv": _csv_file, ".parquet": _parquet_file}
    opener = openers.get(path.suffix.lower())
    if opener is None:
        raise ConfigError(f"the file must end in .csv or .parquet, got {path.name!r}")
    if opener is _parquet_file:
        arrow_modules()
    if path.is_dir():
        raise ConfigError(f"{path} is a folder")
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        beside.touch(exist_ok=False)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    try:
        with opener(beside) as table:
            yield table
        beside.replace(path)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()


@contextmanager
def _csv_file(path: Path) -> Iterator[Table]:
    with path.open("w", encoding="utf-8", newline="") as out:
        table = CsvTable(out)
        yield table
        table.finish()


@contextmanager
def _parquet_file(path: Path) -> Iterator[Table]:
    table = ParquetTable(path)
    try:
        yield table
    except BaseException:
        table.abandon()
        raise
    table.finish()
