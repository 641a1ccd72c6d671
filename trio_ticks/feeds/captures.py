"""The market data of a recording: read line by line, by the codec of its venue.

The venue is given, or found from the first lines. ``trio_ticks.recordings.files``
describes the lines, ``decoding.py`` what becomes of them.

Rules: everything here blocks on the disk, and takes the same memory however long the
file is. No line raises: what makes no market data is counted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, final

import attrs

from ..errors import ConfigError
from ..recordings.events import facts_of, read_event
from ..recordings.files import LineReader
from .decoding import LineDecoder, Lost, utc_from_ns
from .venues import VENUES, Codec, Language, find_language

__all__ = [
    "CaptureReader",
    "Head",
    "LineDecoder",
    "Lost",
    "capture_symbols",
    "read_head",
    "recognise",
    "recording_head",
    "utc_from_ns",
]

HEAD_LINES = 10_000
"""A file without market data in this many first lines is not taken for a recording."""
_ENOUGH: Final = 100
"""Messages with market data after which no more lines are read to find the venue."""


@final
class CaptureReader:
    """Reads the items of a recording, in the order of the file, in constant memory.

    Blocks on the disk.

    Args:
        path: the recording, gzipped or not; its name does not matter.
        language: of the venue; see :func:`recognise`.
        symbols: only items of these are returned; ``None``: of all.
        subscribed: the symbols to make the codec subscribe to; it is *symbols* where
            those are given.
        only: only items of this class are returned; ``None``: all, and gaps.

    Raises:
        ConfigError: the file cannot be opened.
    """

    def __init__(
        self,
        path: str | Path,
        language: Language,
        symbols: Collection[str] | None = None,
        *,
        subscribed: Iterable[str] = (),
        only: type[Any] | None = None,
    ) -> None:
        self.items = 0
        """Items returned so far."""
        self.at_end = False
        self.counts: Final = LineDecoder(
            language,
            symbols,
            subscribed=subscribed if symbols is None else sorted(symbols),
            only=only,
        )
        """What became of the lines."""
        self._file = LineReader(path)

    @property
    def lines(self) -> int:
        """Lines read so far."""
        return self._file.lines

    @property
    def malformed(self) -> int:
        """Lines that are no valid message, or have no time."""
        return self.counts.malformed

    @property
    def ignored(self) -> int:
        """Other lines without market data that is wanted."""
        return self.counts.ignored

    @property
    def truncated(self) -> bool:
        """Whether the compressed data is cut off or damaged.

        The lines before that place have been read.
        """
        return self._file.truncated

    def __enter__(self) -> CaptureReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def rewind(self) -> None:
        """Start again at the first line; counts, volumes and the like are kept."""
        self._file.rewind()
        self.at_end = False

    def read(self, count: float, *, max_lines: float = math.inf) -> list[tuple[int, Any]]:
        """Return the next items, each with the time to play it at, in ns since 1970.

        That is when it was received, or its own time where the line does not say that.
        A gap in the venue's sequence is a :class:`Lost` among the items.

        Args:
            count: return after so many items; a line that has more of them than are
                left is returned as a whole. There are fewer at the end of the file.
            max_lines: return after so many lines.
        """
        found: list[tuple[int, Any]] = []
        file, decode = self._file, self.counts.decode
        last = file.lines + max_lines
        while len(found) < count and file.lines < last:
            line = file.read()
            if line is None:
                self.at_end = True
                break
            found += decode(line)
        self.items += len(found)
        return found


def recognise(
    path: str | Path,
    venue: str | type[Codec] | None = None,
    channels: Iterable[str] | str | None = None,
) -> Language:
    """Return the language of the recording at *path*.

    The first line of a recording of our own says it. Otherwise each known codec decodes
    the first lines; the one with the most messages that make market data, less those
    that are malformed, wins; of equal ones the first in ``VENUES``. Blocks on the disk.

    Args:
        path: the recording.
        venue: a name or a codec class; ``None``: to be found.
        channels: as for :class:`~trio_ticks.WebSocketFeed`; ``None``: those that were
            recorded, where the first line says it, else the venue's default ones.

    Raises:
        ConfigError: the file cannot be opened, or no codec makes market data out of its
            first 10,000 lines; there is no such venue or channel.
    """
    head = recording_head(path)
    if head:
        return _recorded_language(path, head, venue, channels)
    if venue is not None:
        return find_language(venue, channels)
    tried = {name: LineDecoder(find_language(name, "all")) for name in VENUES}
    with LineReader(path) as reader:
        while reader.lines < HEAD_LINES and max(map(_made, tried.values())) < _ENOUGH:
            line = reader.read()
            if line is None:
                break
            for decoder in tried.values():
                decoder.decode(line)
        lines = reader.lines
        if not lines:
            reason = "not a line of it can be read" if reader.position else "it is empty"
            raise ConfigError(f"{str(path)!r} is not a recording that can be played: {reason}")
    fitting = {name: _made(one) - one.malformed for name, one in tried.items() if _made(one)}
    if not fitting:
        junk = min(decoder.malformed for decoder in tried.values())
        raise ConfigError(
            f"{str(path)!r} is not a recording that can be played: tried as {', '.join(tried)},"
            f" its first {lines:,} lines make no market data, and {junk:,} of them are junk in"
            " each; say venue=, --venue if it is of another venue. A line is '<receive time, ns>"
            " <message>', or one of the other kinds that trio_ticks.recordings.files describes"
        )
    return find_language(max(fitting, key=fitting.__getitem__), channels)


def _recorded_language(
    path: str | Path,
    head: dict[str, Any],
    venue: str | type[Codec] | None,
    channels: Iterable[str] | str | None,
) -> Language:
    """Return the language of a recording of our own, whose first line says *head*."""
    recorded = str(head.get("venue"))
    if venue is None and recorded not in VENUES:
        raise ConfigError(
            f"{str(path)!r} is a recording of the venue {recorded!r}, which is none of ours: give"
            " its codec class as venue="
        )
    language = find_language(recorded if venue is None else venue, channels)
    if channels is not None or language.name != recorded:
        return language
    # What was recorded is played, also of channels that are not the usual ones.
    known = [name for name in head.get("channels", ()) if name in language.all_channels]
    return find_language(recorded if venue is None else venue, known or None)


def recording_head(path: str | Path) -> dict[str, Any]:
    """Return what the first line of a recording of our own says; else nothing.

    Raises:
        ConfigError: the file cannot be opened.
    """
    with LineReader(path) as reader:
        line = reader.read()
    event = read_event(line) if line else None
    return facts_of(event[1]) if event is not None and event[0] == "recording" else {}


def _made(decoder: LineDecoder) -> int:
    return decoder.made + decoder.untimed


@final
@attrs.frozen
class Head:
    """What the beginning of a recording shows."""

    symbols: tuple[str, ...]
    """The symbols with an item, in their order."""
    first_ns: int
    """The time of the first item, in ns since 1970."""


def capture_symbols(
    path: str | Path,
    language: Language,
    *,
    only: type[Any] | None = None,
    most: float = math.inf,
) -> tuple[str, ...]:
    """Return the symbols of :func:`read_head`.

    Blocks on the disk.

    Raises:
        ConfigError: as there.
    """
    return read_head(path, language, only=only, most=most).symbols


def read_head(
    path: str | Path,
    language: Language,
    *,
    only: type[Any] | None = None,
    most: float = math.inf,
) -> Head:
    """Return what the first 10,000 lines show.

    Blocks on the disk.

    Args:
        path: the recording.
        language: of the venue.
        only: look for items of this class; ``None``: for all.
        most: look at no more items than this.

    Raises:
        ConfigError: the file cannot be opened, or has no such item in those lines and
            so is no recording that can be played.
    """
    with CaptureReader(path, language, only=only) as reader:
        found = [
            (ns, item.symbol)
            for ns, item in reader.read(most, max_lines=HEAD_LINES)
            if type(item) is not Lost
        ]
        counts = reader.counts
        if counts.untimed and not counts.headed:
            raise ConfigError(
                f"{str(path)!r} is not a recording that can be played: neither do its lines say"
                f" when they were received, nor do all messages of {language.name} say when they"
                " were sent"
            )
        if not found:
            raise ConfigError(_nothing(path, language, reader, only))
        return Head(tuple(dict.fromkeys(symbol for _, symbol in found)), found[0][0])


def _nothing(
    path: str | Path, language: Language, reader: CaptureReader, only: type[Any] | None
) -> str:
    """Say that there is nothing to play, and what there is."""
    what = "market data" if only is None else f"{only.__name__.lower()}s"
    of = f" of the channels {', '.join(language.channels)}" if language.channels else ""
    return (
        f"{str(path)!r} is not a recording that can be played: as messages of {language.name},"
        f" its first {reader.lines:,} lines make no {what}{of}; {reader.malformed:,} of them are"
        " junk"
    )
