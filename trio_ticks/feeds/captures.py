"""The market data of a recording: read line by line, by the codec of its venue.

One codec decodes the whole file, as it would decode the messages of one connection. The
venue is given, or found from the first lines. ``trio_ticks.recordings.files`` describes
the lines.

Rules: everything here blocks on the disk, and takes the same memory however long the
file is. No line raises: what makes no market data is counted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, final

import attrs

from ..errors import ConfigError
from ..gaps import Gap, GapReason
from ..recordings.files import LineReader, split_line
from ..ticks import to_utc
from .venues import VENUES, Codec, Language, find_language

__all__ = [
    "CaptureReader",
    "Lost",
    "capture_symbols",
    "recognise",
    "utc_from_ns",
]

HEAD_LINES = 10_000
"""A file without market data in this many first lines is not taken for a recording."""
_ENOUGH: Final = 100
"""Messages with market data after which no more lines are read to find the venue."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_UNKNOWN: Final = _EPOCH
"""When a message arrived, for a codec, where the line does not say it."""
_LATEST: Final = 10**19
"""Nanoseconds since 1970 at which no message can have been received: the year 2286."""


def utc_from_ns(ns: int) -> datetime:
    """Return the moment *ns* nanoseconds after 1970, to the microsecond."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


@final
@attrs.frozen
class Lost:
    """Stands among the items of a recording where the codec has found a gap."""

    symbol: str
    reason: GapReason
    count: int
    book: bool
    """Whether the symbol's book updates are worthless until its next snapshot."""
    ns: int
    """When the message that shows it was received."""

    def as_gap(self, when: datetime) -> Gap:
        """Return the gap to tell the strategy of, found at the time *when*."""
        return Gap(self.symbol, when, self.reason, self.count, when)


@final
class _CaptureContext:
    """The :class:`~trio_ticks.CodecContext` of the codec that decodes a recording.

    Answers to the venue, and wishes for another connection, have no effect: what
    happened is recorded.
    """

    __slots__ = ("_decoder", "channels", "ns")

    def __init__(self, decoder: LineDecoder, channels: tuple[str, ...]) -> None:
        self._decoder = decoder
        self.channels = channels
        self.ns: int | None = None
        """When the message being decoded was received; ``None``: it is not known."""

    @property
    def arrived(self) -> datetime:
        """When the message being decoded was received, in UTC."""
        return _UNKNOWN if self.ns is None else utc_from_ns(self.ns)

    def ignored(self, count: int = 1) -> None:
        """Count messages that are no market data."""
        self._decoder.ignored += count

    def malformed(self, payload: bytes, reason: str, symbol: str | None = None) -> None:
        """Count *payload* as malformed, and note the symbol's gap."""
        self._decoder.malformed += 1
        if symbol is not None:
            self._decoder.lost.append((symbol, "malformed", 1, False))

    def refused(self, symbol: str | None, reason: str, *, final: bool = False) -> None:
        """Count a subscription that the venue has refused."""
        self._decoder.refused += 1

    def reply(self, message: str | bytes) -> None:
        """Do nothing."""

    def pong(self) -> None:
        """Do nothing."""

    def gap(self, symbol: str, missed: int = 0) -> None:
        """Note a gap in the venue's sequence."""
        self._decoder.lost.append((symbol, "sequence", missed, False))

    def need_snapshot(self, symbol: str) -> None:
        """Note that the symbol's book is wrong until its next snapshot."""
        self._decoder.lost.append((symbol, "sequence", 0, True))

    def reconnect(self, reason: str) -> None:
        """Do nothing."""

    def replace(self, reason: str) -> None:
        """Do nothing."""

    def answered(self, request: Literal["throttle", "unsubscribe"], accepted: bool) -> None:
        """Do nothing."""


@final
class LineDecoder:
    """Makes pairs of a time and an item out of the lines of one recording.

    Args:
        language: of the venue.
        symbols: only items of these are returned; ``None``: of all.
        subscribed: the symbols to make the codec subscribe to, as on a connection.
        only: only items of this class are returned; ``None``: all, and gaps.
    """

    def __init__(
        self,
        language: Language,
        symbols: Collection[str] | None = None,
        *,
        subscribed: Iterable[str] = (),
        only: type[Any] | None = None,
    ) -> None:
        self.made = 0
        """Lines with market data in them, wanted or not."""
        self.malformed = 0
        """Lines that are no valid message, or have no time."""
        self.ignored = 0
        """Other lines without market data that is wanted: heartbeats, empty lines."""
        self.refused = 0
        """Subscriptions that the venue has refused."""
        self.left_out = 0
        """Items of another class than *only*."""
        self.headed = 0
        """Lines with a receive time."""
        self.untimed = 0
        """Malformed lines that would be market data if the time were known."""
        self.lost: list[tuple[str, GapReason, int, bool]] = []
        """The gaps found in the line being decoded: the first fields of a ``Lost``."""
        self._symbols = symbols
        self._only = only
        self._context = _CaptureContext(self, language.channels)
        codec = language.codec_for(self._context)
        codec.subscribe(list(subscribed))
        self._codec_decode = codec.decode
        self._symbols_in = language.symbols_in
        self._last_ns: int | None = None

    def decode(self, line: bytes) -> list[tuple[int, Any]]:
        """Return the items in *line*, each with the time to play it at, in ns."""
        try:
            ns, message = split_line(line)
        except ValueError:
            self.malformed += 1
            return []
        if message is None or not line:
            self.ignored += 1
            return []
        self._context.ns = ns
        items = self._codec_decode((message,))
        self._symbols_in(items)  # raises where they are no items
        if ns is not None:
            self.headed += 1
            timed = [(ns, item) for item in items]
        else:
            timed = self._by_own_times(items)
        if timed:
            self.made += 1
            self._last_ns = timed[-1][0]
            if self._symbols is not None or self._only is not None:
                timed = self._wanted(timed)
        return self._with_gaps(timed, ns) if self.lost else timed

    def _by_own_times(self, items: Iterable[Any]) -> list[tuple[int, Any]]:
        """Return *items* with their own times; none if one of them has no time."""
        try:
            timed = [
                ((to_utc(item.timestamp) - _EPOCH) // _MICROSECOND * 1000, item) for item in items
            ]
        except (ValueError, TypeError, AttributeError, OverflowError):
            self.malformed += 1
            return []
        if all(0 < ns < _LATEST for ns, _ in timed):
            return timed
        self.malformed += 1
        self.untimed += any(item.timestamp == _UNKNOWN for _, item in timed)
        return []

    def _wanted(self, timed: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
        symbols, only = self._symbols, self._only
        kept = timed
        if symbols is not None:
            kept = [pair for pair in kept if pair[1].symbol in symbols]
        if only is not None:
            of_all = len(kept)
            kept = [pair for pair in kept if isinstance(pair[1], only)]
            self.left_out += of_all - len(kept)
        if not kept:
            self.ignored += 1
        return kept

    def _with_gaps(self, timed: list[tuple[int, Any]], ns: int | None) -> list[tuple[int, Any]]:
        """Return *timed* with the gaps that the line has shown before them."""
        lost, self.lost = self.lost, []
        when = self._last_ns if ns is None else ns
        # Before the first item there is nothing to have a gap in.
        if self._only is not None or when is None:
            return timed
        symbols = self._symbols
        gaps = [
            (when, Lost(*facts, when)) for facts in lost if symbols is None or facts[0] in symbols
        ]
        return [*gaps, *timed]


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

    Each known codec decodes the first lines; the one with the most messages that make
    market data, less those that are malformed, wins; of equal ones the first in
    ``VENUES``. Blocks on the disk.

    Args:
        path: the recording.
        venue: a name or a codec class; ``None``: to be found.
        channels: as for :class:`~trio_ticks.WebSocketFeed`.

    Raises:
        ConfigError: the file cannot be opened, or no codec makes market data out of its
            first 10,000 lines; there is no such venue or channel.
    """
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
    fitting = {name: _made(one) - one.malformed for name, one in tried.items() if _made(one)}
    if not fitting:
        junk = min(decoder.malformed for decoder in tried.values())
        raise ConfigError(
            f"{str(path)!r} is not a recording that can be played: tried as {', '.join(tried)},"
            f" its first {lines:,} lines make no market data, and {junk:,} of them are junk in"
            " each; say venue= if it is of another venue. A line is '<receive time, ns>"
            " <message>', or one of the other kinds that trio_ticks.recordings.files describes"
        )
    return find_language(max(fitting, key=fitting.__getitem__), channels)


def _made(decoder: LineDecoder) -> int:
    return decoder.made + decoder.untimed


def capture_symbols(
    path: str | Path,
    language: Language,
    *,
    only: type[Any] | None = None,
    most: float = math.inf,
) -> tuple[str, ...]:
    """Return the symbols with an item in the first 10,000 lines, in their order.

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
        found = dict.fromkeys(
            item.symbol
            for _, item in reader.read(most, max_lines=HEAD_LINES)
            if type(item) is not Lost
        )
        counts = reader.counts
        if counts.untimed and not counts.headed:
            raise ConfigError(
                f"{str(path)!r} is not a recording that can be played: neither do its lines say"
                f" when they were received, nor do all messages of {language.name} say when they"
                " were sent"
            )
        if not found:
            raise ConfigError(_nothing(path, language, reader, only))
        return tuple(found)


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
