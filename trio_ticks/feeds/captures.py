"""Recordings of market data: reading their quotes, and saying which are due.

A recording is text, gzipped or not, one message a line: ``<receive time, ns> <message>``, or the message alone if it has a timestamp of
its own. A message is a combined frame of Binance spot (``bookTicker`` makes quotes, ``trade`` adds to the volume, the rest is ignored) or a
flat tick. What is neither is counted and passed over. Reading blocks on the disk: do it in a thread; :class:`Playback` does.
"""

from __future__ import annotations

import gzip
import logging
import math
import stat
import zlib
from collections import deque
from collections.abc import Container
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, NamedTuple, cast

import msgspec
import trio

from ..errors import ConfigError
from ..ticks import to_utc

__all__ = ["CaptureReader", "Playback", "Quote", "capture_symbols", "utc_from_ns"]

logger = logging.getLogger(__name__)

HEAD_LINES = 10_000
"""A file without a quote in its first lines is not taken for a recording."""
MAX_LINE = 1 << 23
"""Longer lines are cut, and their pieces are junk: a file without line ends must not fill the memory. (Snapshots of 5 MB are real.)"""
MAX_NS_DIGITS = 19
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS = frozenset(b"0123456789")


class Quote(NamedTuple):
    """The best quote of a symbol, as recorded."""

    received_ns: int
    """When the recorder received it, in nanoseconds since 1970; the recorder's clock, not the venue's."""
    symbol: str
    bid: float
    ask: float
    bid_size: float
    ask_size: float
    volume: float
    """As recorded; or, for Binance, the sum of the trades seen in the recording so far."""


def utc_from_ns(ns: int) -> datetime:
    """Return the moment *ns* nanoseconds after 1970, to the microsecond."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


NonNegative = Annotated[float, msgspec.Meta(ge=0)]


class _Message(msgspec.Struct):
    """A combined frame has ``stream`` and ``data``; a flat tick has all the others."""

    stream: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    symbol: str | None = None
    timestamp: str | None = None
    bid: float = math.nan
    ask: float = math.nan
    bid_size: NonNegative = 0.0
    ask_size: NonNegative = 0.0
    volume: NonNegative = 0.0


class _BookTicker(msgspec.Struct):
    s: str
    b: float
    a: float
    B: NonNegative
    A: NonNegative


class _Trade(msgspec.Struct):
    s: str
    q: NonNegative


# Not strict: Binance sends numbers as text.
_message = msgspec.json.Decoder(_Message, strict=False).decode
_book_ticker = msgspec.json.Decoder(_BookTicker, strict=False).decode
_trade = msgspec.json.Decoder(_Trade, strict=False).decode


class CaptureReader:
    """Reads the quotes of a recording, in the order of the file, in constant memory. Blocks on the disk.

    Args:
        path: the recording, gzipped or not, whatever it is called.
        symbols: only quotes of these; ``None``: all.

    Raises:
        ConfigError: the file cannot be opened.
    """

    def __init__(self, path: str | Path, symbols: Container[str] | None = None) -> None:
        self.path = Path(path)
        self.lines = 0
        self.quotes = 0
        self.malformed = 0
        """Lines that make no sense."""
        self.ignored = 0
        """Lines that make sense but are no quotes, or of other symbols."""
        self.truncated = False
        """The compressed data ended too early, or is damaged: what came before was read."""
        self.at_end = False
        self._symbols = symbols
        self._volume: dict[str, float] = {}
        self._file = self._open()

    def __enter__(self) -> CaptureReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def rewind(self) -> None:
        """Begin anew; counts and volumes go on."""
        self._file.close()
        self._file = self._open()
        self.at_end = False

    def read(self, count: int, *, max_lines: float = math.inf) -> list[Quote]:
        """Return the next *count* quotes; fewer at the end of the file or after *max_lines* lines."""
        found: list[Quote] = []
        before = self.lines
        while len(found) < count and self.lines - before < max_lines:
            line = self._read_line()
            if not line:
                self.at_end = True
                break
            self.lines += 1
            try:
                quote = self._parse(line.strip())
            except (ValueError, OverflowError, RecursionError):  # msgspec's errors are ValueErrors
                self.malformed += 1
                continue
            if quote is None or (self._symbols is not None and quote.symbol not in self._symbols):
                self.ignored += 1
                continue
            found.append(quote)
        self.quotes += len(found)
        return found

    def _open(self) -> IO[bytes]:
        try:
            # Opening a pipe would wait for its writer, and what is read to find the symbols could not be read again.
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise ConfigError(f"cannot play {str(self.path)!r}: it is not a regular file")
            file = self.path.open("rb")
        except OSError as error:
            raise ConfigError(f"cannot open the recording {str(self.path)!r}: {error.strerror or error}") from error
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return cast("IO[bytes]", _Gunzip(file)) if compressed else file

    def _read_line(self) -> bytes:
        try:
            return self._file.readline(MAX_LINE)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            if not self.truncated:
                self.truncated = True
                facts = {"path": str(self.path), "lines": self.lines}
                logger.warning("capture.truncated path=%s lines=%d", self.path, self.lines, extra=facts)
            return b""
        except OSError as error:
            raise ConfigError(f"cannot read the recording {str(self.path)!r}: {error.strerror or error}") from error

    def _parse(self, line: bytes) -> Quote | None:
        received: int | None = None
        if line[:1] and line[0] in _DIGITS:
            prefix, _, line = line.partition(b" ")
            if len(prefix) > MAX_NS_DIGITS:
                raise ValueError("not a time")
            received = int(prefix)
        message = _message(line)
        if message.stream is not None:
            if received is None:
                raise ValueError("a combined frame needs its receive time: a bookTicker has none of its own")
            return self._parse_combined(received, message.stream, message.data)
        if message.symbol is None:
            return None
        if received is None:
            if message.timestamp is None:
                raise ValueError("neither a receive time nor a timestamp")
            received = (to_utc(datetime.fromisoformat(message.timestamp)) - _EPOCH) // timedelta(microseconds=1) * 1000
        return _checked(Quote(received, message.symbol, message.bid, message.ask, message.bid_size, message.ask_size, message.volume))

    def _parse_combined(self, received: int, stream: str, data: msgspec.Raw) -> Quote | None:
        if stream.endswith("@bookTicker"):
            book = _book_ticker(data)
            return _checked(Quote(received, book.s, book.b, book.a, book.B, book.A, self._volume.get(book.s, 0.0)))
        if stream.endswith("@trade"):
            trade = _trade(data)
            if not math.isfinite(trade.q):
                raise ValueError("not a size")
            self._volume[trade.s] = self._volume.get(trade.s, 0.0) + trade.q
        return None


class _Gunzip(gzip.GzipFile):
    """A GzipFile that also closes the file under it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._under = file

    def close(self) -> None:
        super().close()
        self._under.close()


def _checked(quote: Quote) -> Quote:
    if not quote.symbol or not all(map(math.isfinite, quote[2:])):
        raise ValueError("an empty symbol, or a number that is missing or not finite")
    return quote


def capture_symbols(path: str | Path) -> tuple[str, ...]:
    """Return the symbols with a quote in the first 10,000 lines of a recording, in order. Blocks on the disk.

    Raises:
        ConfigError: the file cannot be opened, or there is no quote in those lines: it is not a recording that can be played.
    """
    with CaptureReader(path) as reader:
        found = dict.fromkeys(quote.symbol for quote in reader.read(HEAD_LINES, max_lines=HEAD_LINES))
        if not found:
            raise ConfigError(
                f"{str(path)!r} is not a recording that can be played: no quote in the first {reader.lines:,} lines, {reader.malformed:,}"
                " of them junk; a line is '<receive time, ns> <message>', the message a Binance combined frame or a flat tick"
            )
        return tuple(found)


class Playback:
    """Says which quotes of a recording are due, at its own pace times *speed*. Reads ahead in a thread, a bounded piece at a time.

    Time is seconds since the playback began. Times that run backwards in the recording count as "at once".

    Args:
        reader: where the quotes come from; the caller closes it.
        speed: the recording's own pace times this; with ``math.inf`` everything is due.
        loop: begin anew at the end, for ever; the new round begins when the last quote of the old one is due.
    """

    ahead = 2048
    """Quotes in a piece; a new piece is read when less than half of one is left."""

    def __init__(self, reader: CaptureReader, *, speed: float = 1.0, loop: bool = False) -> None:
        self._reader = reader
        self._speed = speed
        self._loop = loop
        self._quotes: deque[tuple[float, Quote]] = deque()
        self._exhausted = False
        self._first_ns: int | None = None
        self._round_began = 0.0
        self._last_at = 0.0

    @property
    def wants_more(self) -> bool:
        """It is time for :meth:`read_ahead`."""
        return not self._exhausted and len(self._quotes) < self.ahead // 2

    @property
    def ended(self) -> bool:
        """All has been taken, and there will be no more."""
        return self._exhausted and not self._quotes

    @property
    def next_at(self) -> float:
        """When the next quote is due; ``math.inf`` if there is none."""
        return self._quotes[0][0] if self._quotes else math.inf

    async def read_ahead(self) -> None:
        """Read another piece, in a thread.

        Cancellation: waits for the thread, for milliseconds; nothing is lost.
        """
        fresh = await trio.to_thread.run_sync(partial(self._reader.read, self.ahead, max_lines=HEAD_LINES))
        for quote in fresh:
            if self._first_ns is None:
                self._first_ns = quote.received_ns
            at = self._round_began + (quote.received_ns - self._first_ns) / 1e9 / self._speed
            self._last_at = max(self._last_at, at)
            self._quotes.append((self._last_at, quote))
        if self._reader.at_end:
            if self._loop and self._reader.quotes:
                await trio.to_thread.run_sync(self._reader.rewind)
                self._first_ns, self._round_began = None, self._last_at
            else:
                self._exhausted = True

    def take(self, until: float, limit: int) -> list[Quote]:
        """Return the quotes due up to the time *until*, at most *limit*."""
        quotes = self._quotes
        due: list[Quote] = []
        while quotes and len(due) < limit and quotes[0][0] <= until:
            due.append(quotes.popleft()[1])
        return due
