"""The files of one feed's recording: one at a time, frame by frame.

Rules: everything blocks on the disk. A file is made anew, never written over, for its
owner only (0600), and locked while it grows, so that others can tell whether it is
closed. It holds whole frames: what a full disk has cut short is taken away again.
"""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, final

from ..clock import system_utc
from .events import event_line
from .zstd import find_zstd, load_zstd

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Compression", "OutFile", "compressor_of", "is_growing", "new_path"]

Compression = Literal["zstd", "gzip"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SUFFIXES: Final[dict[str, str]] = {"zstd": ".zst", "gzip": ".gz"}
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST_NAME: Final = 80
_LEVEL: Final = 1
_BINARY: Final = getattr(os, "O_BINARY", 0)
"""On Windows alone: without it the system writes each line feed as two characters."""
_AT_REST_S: Final = 10.0
"""A file that was not changed for so long does not grow, where there are no locks."""


def compressor_of(compression: Compression | None) -> tuple[Compression, Callable[[bytes], bytes]]:
    """Return how frames are compressed, and what compresses one.

    Args:
        compression: ``None``: zstd where it is installed, else gzip.

    Raises:
        ConfigError: zstd is wanted, and not installed.
    """
    if compression == "gzip" or (compression is None and find_zstd() is None):
        return "gzip", _gzip
    zstd = load_zstd("compression='zstd'")
    parameter = zstd.CompressionParameter
    options = {parameter.compression_level: _LEVEL, parameter.checksum_flag: 1}
    one = zstd.ZstdCompressor(options=options)

    def compress(data: bytes) -> bytes:
        frame: bytes = one.compress(data, zstd.ZstdCompressor.FLUSH_FRAME)
        return frame

    return "zstd", compress


def _gzip(data: bytes) -> bytes:
    """Return *data* as a member of a gzip file, which has a checksum, too."""
    one = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    return one.compress(data) + one.flush()


def new_path(folder: Path, feed: str, ns: int, compression: Compression) -> Path:
    """Return a name for a file that begins at *ns*: names sort by time.

    Args:
        folder: where the file is to be.
        feed: the feed's name; what no file name should have in it is left out.
        ns: nanoseconds since 1970.
        compression: of its frames.
    """
    safe = _UNSAFE.sub("_", feed).lstrip(".")[:_LONGEST_NAME] or "feed"
    moment = _EPOCH + timedelta(microseconds=ns // 1000)
    return folder / f"{safe}-{moment:%Y%m%dT%H%M%S.%f}Z{_SUFFIXES[compression]}"


@final
class OutFile:
    """A file of a recording that grows.

    Args:
        path: it must not exist.
        compress: makes a frame.
        sync: have the disk keep each frame before the next one is made.

    Raises:
        FileExistsError: there is such a file.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, compress: Callable[[bytes], bytes], *, sync: bool) -> None:
        self.path: Final = path
        self.size = 0
        """Bytes in the file."""
        self._compress = compress
        self._sync = sync
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | _BINARY
        self._file: Final = os.open(path, flags, 0o600)
        if fcntl is not None:
            with contextlib.suppress(OSError):  # some network disks have no locks
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def append(self, frame: bytes) -> None:
        """Write a whole *frame*, or nothing.

        Raises:
            OSError: the disk does not take it.
        """
        view = memoryview(frame)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            if self._sync:
                os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise
        self.size += len(frame)

    def is_deleted(self) -> bool:
        """Return whether the file has no name any more, so that nobody can read it."""
        try:
            return os.fstat(self._file).st_nlink == 0 and not self.path.exists()
        except OSError:
            return False

    def append_event(self, ns: int, word: str, facts: dict[str, Any]) -> None:
        """Write a frame with one event.

        Raises:
            OSError: the disk does not take it.
        """
        self.append(self._compress(event_line(ns, word, facts) + b"\n"))

    def close(self) -> None:
        """Close the file. Errors are left to whoever reads it: it may lack its end."""
        with contextlib.suppress(OSError):
            os.close(self._file)


def is_growing(path: Path) -> bool:
    """Return whether a recorder writes to the file at *path* now.

    On a system without locks: whether it was changed in the last seconds.

    Raises:
        OSError: it cannot be opened.
    """
    if fcntl is None:
        return system_utc().timestamp() - path.stat().st_mtime < _AT_REST_S
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False
