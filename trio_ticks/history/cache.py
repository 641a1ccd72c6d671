"""Bars on disk: a file a chunk of time, for chunks that are over.

A chunk has room for 1,000 bars and begins at a multiple of its length since 1970. Its
file says what it is about, and has a checksum, since disks and programs fail.

Rules: a file is complete or not there: it is written beside its place and then moved. A
file that cannot be read is as good as none, and the log says so. Files are for their
owner only (0600). Reading and writing happen in threads.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, final
from urllib.parse import quote
from zlib import crc32

import attrs
import msgspec
import trio

from ..errors import ConfigError
from ..logs import log_event
from .intervals import Interval
from .paging import Row

__all__ = ["Cache", "Series", "open_cache"]

logger = logging.getLogger("trio_ticks.history")

_BARS: Final = 1000
_VERSION: Final = 1
_LONGEST_NAME: Final = 200
"""In bytes; file systems allow 255."""
_TIDY: Final = b"\n"


@final
@attrs.frozen(kw_only=True)
class Series:
    """What the bars of a cache are about."""

    venue: str
    address: str
    """Where they come from: the host, so that a local exchange has files of its own."""
    symbol: str
    type: str
    interval: str


class _Chunk(msgspec.Struct):
    version: int
    about: list[str]
    first_ms: int
    last_ms: int
    bars: list[Row]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Chunk).decode


def open_cache(folder: str | os.PathLike[str], series: Series, interval: Interval) -> Cache:
    """Return the cache in *folder*, which is made if it is not there.

    Raises:
        ConfigError: the folder cannot be made or written to.
    """
    # quote() leaves no = in a name, so that no symbol is taken for one with a type.
    name = "=".join(filter(None, (quote(series.symbol, safe=""), quote(series.type, safe=""))))
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{crc32(name.encode()):08x}"
    place = Path(folder, f"{series.venue}-{quote(series.address, safe='.')}", name, series.interval)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cache: {folder} cannot be used: {error.strerror}") from None
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"cache: {folder} cannot be written to")
    return Cache(place, series, interval)


@final
class Cache:
    """The chunks of one series."""

    def __init__(self, folder: Path, series: Series, interval: Interval) -> None:
        self.folder = folder
        self.chunk_ms = _BARS * interval.usual_ms
        self._about = list(attrs.astuple(series))
        self._broken = False

    def chunk_of(self, moment_ms: int) -> tuple[int, int]:
        """Return begin and end of the chunk in which a moment lies."""
        begin = moment_ms - moment_ms % self.chunk_ms
        return begin, begin + self.chunk_ms

    async def next_kept(self, begin_ms: int, end_ms: int, over_ms: int) -> int:
        """Return where the chunks end that are to be fetched: at the next with a file.

        Args:
            begin_ms: of the first chunk to look at.
            end_ms: chunks that begin here or later are not wanted.
            over_ms: chunks that end later are not over.

        Cancellation: harmless.
        """
        return await trio.to_thread.run_sync(self._next_kept, begin_ms, end_ms, over_ms)

    async def load(self, begin_ms: int) -> list[Row] | None:
        """Return the bars of the chunk that begins at *begin_ms*.

        ``None``: there is no file, or it cannot be used; that is logged.

        Cancellation: harmless.
        """
        return await trio.to_thread.run_sync(self._load, begin_ms)

    async def store(self, begin_ms: int, bars: Sequence[Row]) -> None:
        """Write the file of a chunk that is over. If that fails, the log says so.

        Cancellation: the file is complete, or not there.
        """
        await trio.to_thread.run_sync(self._store, begin_ms, bars)

    def _path(self, begin_ms: int) -> Path:
        return self.folder / f"{begin_ms}.bars"

    def _next_kept(self, begin_ms: int, end_ms: int, over_ms: int) -> int:
        while (
            begin_ms < end_ms
            and begin_ms + self.chunk_ms <= over_ms
            and not self._path(begin_ms).exists()
        ):
            begin_ms += self.chunk_ms
        return begin_ms

    def _load(self, begin_ms: int) -> list[Row] | None:
        path = self._path(begin_ms)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report(path, str(error.strerror))
            return None
        digits, separator, packed = data.partition(_TIDY)
        if not separator or digits != b"%08x" % crc32(packed):
            self._report(path, "its checksum is wrong")
            return None
        try:
            chunk = _decode(packed)
        except (msgspec.DecodeError, RecursionError):
            self._report(path, "it cannot be read")
            return None
        end_ms = begin_ms + self.chunk_ms
        span = (chunk.version, chunk.about, chunk.first_ms, chunk.last_ms)
        if span != (_VERSION, self._about, begin_ms, end_ms) or not all(
            begin_ms <= bar.open_ms < end_ms for bar in chunk.bars
        ):
            self._report(path, "it is about other bars")
            return None
        return chunk.bars

    def _report(self, path: Path, why: str) -> None:
        text = "%s: %s; its bars are fetched again"
        log_event(logger, logging.WARNING, "history.cache_damaged", text, path, why, path=str(path))

    def _store(self, begin_ms: int, bars: Sequence[Row]) -> None:
        end_ms = begin_ms + self.chunk_ms
        packed = _encode(_Chunk(_VERSION, self._about, begin_ms, end_ms, list(bars)))
        path = self._path(begin_ms)
        beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(file, "wb") as out:
                    out.write(b"%08x" % crc32(packed) + _TIDY + packed)
                beside.replace(path)
            except BaseException:
                with suppress(OSError):
                    beside.unlink()
                raise
        except OSError as error:
            # The bars are good all the same; the next run fetches them again.
            if not self._broken:
                self._broken = True
                log_event(
                    logger,
                    logging.WARNING,
                    "history.cache_failed",
                    "%s cannot be written: %s",
                    path,
                    error.strerror,
                    path=str(path),
                )
