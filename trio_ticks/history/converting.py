"""Recordings as tables: Parquet files with typed columns, one for each kind of item.

Of each recording a folder is made, with ``ticks.parquet``, ``trades.parquet``,
``books.parquet``, ``bars.parquet`` and ``gaps.parquet``, as far as there is anything
for them. Each row has two times: ``received``, to the nanosecond, and ``timestamp``,
the venue's. A row of ``books`` is one level; the rows of one update have its number.

Rules: a folder is complete or not there: it is written beside its place, and then
moved. Memory holds one group of rows of each kind. Files that grow are left alone. A
quantity that the venue does not say is null.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

import attrs

from ..errors import ConfigError
from ..feeds.captures import recognise, recording_head
from ..feeds.decoding import LineDecoder, Lost
from ..feeds.venues import Codec, Language
from ..recordings.files import LineReader
from ..recordings.growing import is_growing
from ..ticks import Bar, BookUpdate, Tick, Trade
from .surveys import Progress
from .tables import arrow_modules

__all__ = ["Converted", "Converter"]

GROUP: Final = 50_000
"""Rows of a group."""
_COLUMNS: Final[dict[str, dict[str, str]]] = {
    "ticks": {
        "bid": "float",
        "ask": "float",
        "bid_size": "float",
        "ask_size": "float",
        "volume": "float",
    },
    "trades": {"price": "float", "size": "float", "side": "text", "trade_id": "text"},
    "books": {
        "update": "whole",
        "snapshot": "bool",
        "side": "text",
        "price": "float",
        "size": "float",
        "first_sequence": "whole",
        "last_sequence": "whole",
    },
    "bars": {
        "interval_s": "float",
        "open": "float",
        "high": "float",
        "low": "float",
        "close": "float",
        "volume": "float",
        "closed": "bool",
    },
    "gaps": {"reason": "text", "count": "whole", "book": "bool"},
}
"""By table, its columns after ``received``, ``timestamp`` and ``symbol``."""
_TABLE_OF: Final[dict[type, str]] = {Tick: "ticks", Trade: "trades", Bar: "bars"}


@attrs.define(kw_only=True)
class Converted:
    """What became of one recording."""

    path: Path
    """Of the recording."""
    folder: Path
    """Where its tables are."""
    rows: dict[str, int] = attrs.field(factory=dict)
    """By table."""
    left_out: str | None = None
    """Why it was not converted; ``None``: it was."""
    other: int = 0
    """Items of kinds that no table holds."""
    malformed: int = 0
    damages: int = 0
    truncated: bool = False


@final
class Converter:
    """Converts recordings, one after another.

    A part of a recorder's run that follows the part before it is decoded by the same
    codec, so that books and volumes go on.

    Args:
        out: the folder for the tables; it is made if it is not there.
        venue: whose messages the recordings hold; ``None``: their first lines tell.
        again: convert also what was converted before.

    Raises:
        ConfigError: pyarrow is missing, or the folder cannot be made.
    """

    def __init__(
        self, out: Path, venue: str | type[Codec] | None = None, *, again: bool = False
    ) -> None:
        self._arrow, self._parquet = arrow_modules()
        self._out = out
        self._venue = venue
        self._again = again
        self._last: tuple[object, LineDecoder] | None = None
        """The run and the decoder of the recording before."""
        self._made: dict[Path, Path] = {}
        """By the folder of tables, the recording, of those converted so far."""
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{str(out)!r} cannot be made: {error.strerror or error}") from error

    def convert(self, path: Path, progress: Progress | None = None) -> Converted:
        """Convert the recording at *path*, unless it grows or was converted before.

        Args:
            path: of one file.
            progress: called after each piece of the file.

        Raises:
            ConfigError: it cannot be read, or is no recording.
            OSError: the tables cannot be written.
        """
        done = Converted(path=path, folder=self._out / path.name.removesuffix(path.suffix))
        if done.folder in self._made:
            done.left_out = f"it would have the same folder as {self._made[done.folder]}"
        elif done.folder.exists() and not self._again:
            done.left_out = "it was converted before"
        elif is_growing(path):
            done.left_out = "it is being recorded still"
        if done.left_out is not None:
            self._last = None
            return done
        head = recording_head(path)
        language = recognise(path, self._venue, None if head else "all")
        decoder = self._decoder_for(head.get("run"), language)
        beside = done.folder.with_name(f".{done.folder.name}.{secrets.token_hex(4)}")
        beside.mkdir()
        try:
            with LineReader(path) as reader:
                self._write(reader, decoder, beside, done, progress)
            if self._again:
                shutil.rmtree(done.folder, ignore_errors=True)
            os.replace(beside, done.folder)
        finally:
            with suppress(FileNotFoundError):
                shutil.rmtree(beside)
        return done

    def _decoder_for(self, run: object, language: Language) -> LineDecoder:
        if self._last is None or run is None or self._last[0] != run:
            self._last = run, LineDecoder(language)
        return self._last[1]

    def _write(
        self,
        reader: LineReader,
        decoder: LineDecoder,
        folder: Path,
        done: Converted,
        progress: Progress | None,
    ) -> None:
        malformed, size = decoder.malformed, reader.path.stat().st_size
        tables = _Tables(self._arrow, self._parquet, folder)
        try:
            while (lines := reader.read_lines()) is not None:
                for line in lines:
                    for ns, item in decoder.decode(line.strip()):
                        tables.add(ns, item)
                if progress is not None:
                    progress(reader.position, size)
        finally:
            tables.close()
        done.rows = tables.counts()
        done.other = tables.other
        done.malformed = decoder.malformed - malformed
        self._made[done.folder] = done.path
        done.damages, done.truncated = reader.damages, reader.truncated


class _Tables:
    """The tables of one recording, each made when the first row for it comes."""

    def __init__(self, arrow: Any, parquet: Any, folder: Path) -> None:
        self.other = 0
        self._arrow = arrow
        self._parquet = parquet
        self._folder = folder
        self._tables: dict[str, _Table] = {}
        self._updates = 0

    def counts(self) -> dict[str, int]:
        """Return the rows by table."""
        return {name: table.count for name, table in self._tables.items()}

    def add(self, ns: int, item: Any) -> None:
        """Add the rows of *item*, which was received at *ns*."""
        kind = type(item)
        name = _TABLE_OF.get(kind)
        if name is not None:
            table = self._table(name)
            fields = [getattr(item, field) for field in _COLUMNS[name]]
            table.add((ns, item.timestamp, item.symbol, *fields))
        elif kind is BookUpdate:
            self._updates += 1
            table = self._table("books")
            for row in _book_rows(ns, item, self._updates):
                table.add(row)
        elif kind is Lost:
            self._table("gaps").add((ns, None, item.symbol, item.reason, item.count, item.book))
        else:
            self.other += 1

    def close(self) -> None:
        """Write what is in memory still, and close the files."""
        for table in self._tables.values():
            table.close()

    def _table(self, name: str) -> _Table:
        table = self._tables.get(name)
        if table is None:
            path = self._folder / f"{name}.parquet"
            table = self._tables[name] = _Table(
                self._arrow, self._parquet, path, _schema(self._arrow, _COLUMNS[name])
            )
        return table


def _book_rows(ns: int, item: BookUpdate, number: int) -> Iterator[Sequence[Any]]:
    """Return a row for each level; one without a side for an update that has none."""
    head = (ns, item.timestamp, item.symbol, number, item.snapshot)
    tail = (item.first_sequence, item.last_sequence)
    if not (item.bids or item.asks):
        yield (*head, None, None, None, *tail)
    for side, levels in (("bid", item.bids), ("ask", item.asks)):
        for price, size in levels:
            yield (*head, side, price, size, *tail)


class _Table:
    """One Parquet file, written in groups of rows."""

    def __init__(self, arrow: Any, parquet: Any, path: Path, schema: Any) -> None:
        self.count = 0
        self._arrow = arrow
        self._schema = schema
        self._rows: list[Sequence[Any]] = []
        self._writer = parquet.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: Sequence[Any]) -> None:
        """Add a row: a value for each column."""
        self._rows.append(row)
        self.count += 1
        if len(self._rows) >= GROUP:
            self._write()

    def close(self) -> None:
        """Write what is in memory still, and close the file."""
        if self._rows:
            self._write()
        self._writer.close()

    def _write(self) -> None:
        columns = [
            self._arrow.array(map(_known, column), type=field.type)
            for field, column in zip(self._schema, zip(*self._rows, strict=True), strict=True)
        ]
        self._writer.write_table(self._arrow.table(columns, schema=self._schema))
        self._rows.clear()


def _known(value: Any) -> Any:
    """Return *value*, or ``None`` for NaN, which stands for what nobody has said."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _schema(arrow: Any, columns: dict[str, str]) -> Any:
    kinds: dict[str, Callable[[], Any]] = {
        "float": arrow.float64,
        "text": arrow.string,
        "whole": arrow.int64,
        "bool": arrow.bool_,
    }
    fields: Iterable[tuple[str, Any]] = (
        ("received", arrow.timestamp("ns", tz="UTC")),
        ("timestamp", arrow.timestamp("us", tz="UTC")),
        ("symbol", arrow.string()),
        *((name, kinds[kind]()) for name, kind in columns.items()),
    )
    return arrow.schema(fields)
