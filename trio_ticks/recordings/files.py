"""Recordings as files: their lines, and when each was received.

A line is one message of a venue, with one of these heads or without one:

- ``<ns> <message>``: received so many nanoseconds after 1970.
- ``<s>: <message>``: so many seconds after 1970, with decimals (cryptofeed). Its lines
  ``<url> <-> <s>``, ``<url> <- <s>: <message>``, ``<url> -> <s>: <message>`` and
  ``configuration: ...`` are the recorder's own, and hold no message that was received.
- ``{"recv_ts_ns": <ns>, "payload": "<message>"}``; without a payload the line itself is
  the message.

Rules: only bytes and times: nothing here parses a message. Everything blocks on the
disk. Memory is bounded, whatever the file holds. A damaged file is read up to the
damage.
"""

from __future__ import annotations

import gzip
import logging
import re
import stat
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO, Final, cast, final

import msgspec

from ..errors import ConfigError
from ..logs import log_event

__all__ = ["MAX_LINE", "LineReader", "split_line"]

# The name is older than this module; docs and alerts refer to it, so it stays.
logger = logging.getLogger("trio_ticks.feeds.captures")

MAX_LINE: Final = 1 << 23
"""The longest line, in bytes; a longer line is cut, and its pieces are malformed.

A file without line ends must not fill the memory. Snapshots of 5 MB occur.
"""
MAX_NS_DIGITS: Final = 19
_DIGITS: Final = frozenset(b"0123456789")
_BRACE: Final = ord("{")
_SECONDS: Final = re.compile(rb"(\d{1,10})(?:\.(\d{1,9})\d*)?:")
_OF_THE_RECORDER: Final = re.compile(rb"\w+://\S+ (?:<->|<-|->) \d|configuration: ")
_RECEIVED_KEY: Final = b'"recv_ts_ns"'


class _Envelope(msgspec.Struct):
    recv_ts_ns: int
    payload: str | msgspec.UnsetType = msgspec.UNSET


_envelope: Final = msgspec.json.Decoder(_Envelope).decode


@final
class LineReader:
    """Reads the lines of a recording, in their order.

    Args:
        path: the recording, gzipped or not; its name does not matter.

    Raises:
        ConfigError: the file cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Final = Path(path)
        self.lines = 0
        """Lines read so far."""
        self.truncated = False
        """Whether the compressed data is cut off or damaged.

        The lines before that place have been read.
        """
        self._file = self._open()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> LineReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def rewind(self) -> None:
        """Start again at the first line; the count of lines is kept."""
        self._file.close()
        self._file = self._open()

    def read(self) -> bytes | None:
        """Return the next line without the white space around it; ``None`` at the end.

        Raises:
            ConfigError: the disk fails.
        """
        try:
            line = self._file.readline(MAX_LINE)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self._report_truncated()
            return None
        except OSError as error:
            raise ConfigError(
                f"cannot read the recording {str(self.path)!r}: {error.strerror or error}"
            ) from error
        if not line:
            return None
        self.lines += 1
        return line.strip()

    def _open(self) -> IO[bytes]:
        try:
            # Only regular files: to open a pipe would wait for its writer, and the
            # lines read from it to find the symbols could not be read again.
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise ConfigError(f"cannot play {str(self.path)!r}: it is not a regular file")
            file = self.path.open("rb")
        except OSError as error:
            raise ConfigError(
                f"cannot open the recording {str(self.path)!r}: {error.strerror or error}"
            ) from error
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        return cast("IO[bytes]", _Gunzip(file)) if compressed else file

    def _report_truncated(self) -> None:
        if not self.truncated:
            self.truncated = True
            log_event(
                logger,
                logging.WARNING,
                "capture.truncated",
                path=str(self.path),
                lines=self.lines,
            )


class _Gunzip(gzip.GzipFile):
    """A GzipFile that also closes the file that it reads."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._under = file

    def close(self) -> None:
        super().close()
        self._under.close()


def split_line(line: bytes) -> tuple[int | None, bytes | None]:
    """Return when a line was received, in nanoseconds since 1970, and its message.

    The time is ``None`` for a line without a head, which is a message as it stands. The
    message is ``None`` for a line of the recorder's own, which holds no message that
    was received.

    Raises:
        ValueError: it begins with digits that are no time, or is JSON with a receive
            time that makes no sense.
    """
    if not line:
        return None, line
    first = line[0]
    if first in _DIGITS:
        head, _, message = line.partition(b" ")
        if len(head) <= MAX_NS_DIGITS and head.isdigit():
            return int(head), message
        return _seconds(head), message
    if first == _BRACE:
        return _unwrap(line) if _RECEIVED_KEY in line else (None, line)
    return None, None if _OF_THE_RECORDER.match(line) else line


def _seconds(head: bytes) -> int:
    match = _SECONDS.fullmatch(head)
    if match is None:
        raise ValueError("not a time")
    whole, fraction = match.groups(b"")
    return int(whole) * 1_000_000_000 + int(fraction.ljust(9, b"0"))


def _unwrap(line: bytes) -> tuple[int, bytes]:
    try:
        envelope = _envelope(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    received, payload = envelope.recv_ts_ns, envelope.payload
    if not 0 <= received < 10**MAX_NS_DIGITS:
        raise ValueError("not a time")
    return received, payload.encode() if isinstance(payload, str) else line
