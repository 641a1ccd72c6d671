"""The past in columns: when each tick of a recording came, and a sample of the ticks.

Rules: memory per tick is a few bytes, since a day has millions. Of the ticks
themselves only a sample is kept, in stretches, so that a strategy that remembers what
came before sees what follows each other. Which stretches is drawn with a seed.
"""

from __future__ import annotations

import csv
import math
import os
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final, final

import attrs

from ..errors import ConfigError
from ..feeds.captures import Lost
from ..feeds.columns import pieces
from ..feeds.recording_files import Where, check_paths, find_recordings
from ..feeds.replay import ns_of
from ..feeds.timeline import Timeline
from ..feeds.venues import Codec
from ..history.tables import COLUMNS
from ..simulation.loads import KINDS, Load
from ..ticks import Bar

__all__ = ["Past", "read_past"]

_STRETCH: Final = 500
_STRETCHES: Final = 16
"""The sample has so many stretches at most: 8,000 ticks."""
_MOST_SYMBOLS: Final = 1 << 20
_NS: Final = 1e9
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Progress = Callable[[float], None]
"""Called now and then with the share that was read, from 0 to 1."""


@final
@attrs.frozen(slots=True, kw_only=True)
class Past:
    """What was read."""

    load: Load
    sample: tuple[Any, ...] = attrs.field(repr=False)
    """Ticks of the recording, in order: at most 8,000, in stretches of 500."""
    sample_symbols: array[int] = attrs.field(repr=False)
    """The place of each one's symbol in ``load.names``."""
    began: datetime
    """When the first tick came, in UTC."""
    bars: bool
    """Whether it is a file of bars, and no recording of ticks."""
    venue: str | None
    """Whose messages they are; ``None``: bars."""
    unreadable: int
    """Lines that are no message or no bar."""


@final
class _Sample:
    """Draws stretches of what goes by, each with the same chance."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._seen = 0
        self._open: list[Any] = []
        self._kept: list[tuple[int, list[Any]]] = []

    def add(self, items: list[Any]) -> None:
        self._open += items
        while len(self._open) >= _STRETCH:
            rest = self._open[_STRETCH:]
            del self._open[_STRETCH:]
            self._close()
            self._open = rest

    def _close(self) -> None:
        stretch, self._open = self._open, []
        if not stretch:
            return
        number = self._seen
        self._seen += 1
        if len(self._kept) < _STRETCHES:
            self._kept.append((number, stretch))
        elif (place := self._random.randrange(self._seen)) < _STRETCHES:
            self._kept[place] = (number, stretch)

    def items(self) -> tuple[Any, ...]:
        if not self._kept or len(self._kept) < _STRETCHES:
            self._close()
        self._kept.sort(key=lambda pair: pair[0])
        return tuple(item for _number, stretch in self._kept for item in stretch)


@final
class _Columns:
    """Collects the columns of a load."""

    def __init__(self, random: Random) -> None:
        self._times = array("d")
        self._symbols = array("I")
        self._kinds = bytearray()
        self._names: dict[str, int] = {}
        self._of_kind: dict[type, int] = {}
        self._sample = _Sample(random)
        self._first_ns: int | None = None

    def add(self, pairs: Sequence[tuple[int, Any]]) -> None:
        """Add items, each with when it came, in nanoseconds since 1970.

        They come in order: a step of the wall clock back is none any more.
        """
        if not pairs:
            return
        if self._first_ns is None:
            self._first_ns = pairs[0][0]
        first_ns = self._first_ns
        items = [item for _ns, item in pairs]
        # A column at a time, which takes a third as long as an item at a time.
        try:
            symbols = [self._names[item.symbol] for item in items]
            kinds = [self._of_kind[type(item)] for item in items]
        except KeyError:
            symbols = [self._name(item.symbol) for item in items]
            kinds = [self._kind(type(item)) for item in items]
        self._times.extend([(ns - first_ns) / _NS for ns, _item in pairs])
        self._symbols.extend(symbols)
        self._kinds.extend(kinds)
        self._sample.add(items)

    def add_bars(self, path: Path, wanted: Collection[str] | None) -> int:
        """Add the bars of a table, when each closes; return how many rows are none."""
        bars, unreadable = _bars(path)
        found = sorted(
            (bar for bar in bars if wanted is None or bar.symbol in wanted),
            key=lambda bar: bar.timestamp.timestamp() + bar.interval_s,
        )
        self.add(
            [
                (round(((bar.timestamp - _EPOCH).total_seconds() + bar.interval_s) * _NS), bar)
                for bar in found
            ]
        )
        return unreadable

    def _name(self, symbol: str) -> int:
        place = self._names.setdefault(symbol, len(self._names))
        if place >= _MOST_SYMBOLS:
            raise ConfigError(f"a plan is for {_MOST_SYMBOLS:,} symbols at most")
        return place

    def _kind(self, cls: type) -> int:
        kind = self._of_kind.get(cls)
        if kind is None:
            kind = next(place for place, base in enumerate(KINDS) if issubclass(cls, base))
            self._of_kind[cls] = kind
        return kind

    def past(self, *, bars: bool, venue: str | None, unreadable: int) -> Past:
        assert self._first_ns is not None
        kinds = bytes(self._kinds)
        sample = self._sample.items()
        return Past(
            load=Load(
                self._times,
                self._symbols,
                tuple(self._names),
                kinds if any(kinds) else None,
            ),
            sample=sample,
            sample_symbols=array("I", (self._names[item.symbol] for item in sample)),
            began=_EPOCH + timedelta(microseconds=self._first_ns // 1000),
            bars=bars,
            venue=venue,
            unreadable=unreadable,
        )

    def __len__(self) -> int:
        return len(self._times)


def read_past(
    recording: Where,
    *,
    venue: str | type[Codec] | None = None,
    channels: Iterable[str] | str | None = None,
    symbols: Iterable[str] | None = None,
    start: datetime | str | None = None,
    end: datetime | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Past:
    """Read a recording, or a file of bars, into columns. Blocks on the disk.

    Args:
        recording: as :class:`~trio_ticks.ReplayFeed` plays it, or a file of
            ``trio-ticks history``, whose name ends in ``.csv`` or ``.parquet``.
        venue: whose messages they are; ``None``: it is found.
        channels: which to read; ``None``: the venue's usual ones.
        symbols: which to read; ``None``: all.
        start: from when on to read a recording; ``None``: from its beginning.
        end: up to when; ``None``: to its end.
        seed: of the sample.
        progress: is told which share was read.

    Raises:
        ConfigError: it cannot be read, or has fewer than two ticks.
    """
    wanted = None if symbols is None else frozenset(symbols)
    columns = _Columns(Random(seed))
    name: str | None = None
    if isinstance(recording, str | os.PathLike) and _is_table(Path(recording)):
        unreadable = columns.add_bars(Path(recording), wanted)
    else:
        files = find_recordings(check_paths(recording), venue, channels)
        start_ns, end_ns = ns_of("start", start), ns_of("end", end)
        with Timeline(files, wanted) as timeline:
            if start_ns is not None:
                for _ in pieces(timeline, start_ns - 1):
                    pass
            for piece in pieces(timeline, math.inf if end_ns is None else end_ns - 1):
                columns.add([pair for pair in piece if type(pair[1]) is not Lost])
                if progress is not None:
                    progress(timeline.share)
            unreadable = timeline.counts[1]
        name = ", ".join(sorted({file.language.name for file in files}))
    if len(columns) < 2:
        raise ConfigError(_too_few(recording, len(columns), wanted, start, end))
    return columns.past(bars=name is None, venue=name, unreadable=unreadable)


def _too_few(
    recording: object,
    count: int,
    wanted: frozenset[str] | None,
    start: object,
    end: object,
) -> str:
    """Return what is said of a recording with fewer ticks than a plan takes."""
    asked = [] if wanted is None else [f"of {', '.join(sorted(wanted))}"]
    asked += [f"{word} {time}" for word, time in (("from", start), ("to", end)) if time is not None]
    what = f" {' '.join(asked)}" if asked else ""
    return (
        f"{str(recording)!r} has {count} ticks{what}: too few for a plan; trio-ticks inspect "
        "shows its symbols and times"
    )


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".parquet")


def _bars(path: Path) -> tuple[list[Bar], int]:
    """Return the bars of a file of ``trio-ticks history``, and how many rows are none.

    Raises:
        ConfigError: it is no such file.
    """
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _parquet_rows(path)
    bars: list[Bar] = []
    wrong = 0
    for row in rows:
        try:
            bars.append(_bar(row))
        except (ValueError, TypeError, KeyError, AttributeError):
            wrong += 1
    return bars, wrong


def _bar(row: dict[str, Any]) -> Bar:
    moment = row["timestamp"]
    volume = row["volume"]
    return Bar(
        row["symbol"],
        datetime.fromisoformat(moment) if isinstance(moment, str) else moment,
        float(row["interval_s"]),
        float(row["open"]),
        float(row["high"]),
        float(row["low"]),
        float(row["close"]),
        float("nan") if volume in ("", None) else float(volume),
        closed=row["closed"] in (True, "true"),
    )


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise ConfigError(
                    f"{str(path)!r} is no file of trio-ticks history: its first line is not "
                    + ",".join(COLUMNS)
                )
            yield from rows
    except OSError as error:
        raise ConfigError(f"cannot open {str(path)!r}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{str(path)!r} is no file of trio-ticks history: {error}") from error


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("Parquet needs pyarrow: pip install 'trio-ticks[parquet]'") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ConfigError(f"{str(path)!r} cannot be read as Parquet: {error}") from error
    with file:
        if tuple(file.schema_arrow.names) != COLUMNS:
            raise ConfigError(
                f"{str(path)!r} is no file of trio-ticks history: it has other columns than "
                + ", ".join(COLUMNS)
            )
        for group in file.iter_batches():
            yield from group.to_pylist()
