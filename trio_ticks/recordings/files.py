"""Recordings as files: their lines, and when each was received.

A line is one message of a venue, with one of these heads or without one:

- ``<ns> <message>``: received so many nanoseconds after 1970.
- ``<s>: <message>``: so many seconds after 1970, with decimals (cryptofeed). Its lines
  ``<url> <-> <s>``, ``<url> <- <s>: <message>``, ``<url> -> <s>: <message>`` and
  ``configuration: ...`` are the recorder's own, and hold no message that was received.
- ``{"recv_ts_ns": <ns>, "payload": "<message>"}``; without a payload the line itself is
  the message.
- ``<ns> #<word> {...}``: an event of our own recorder, see :mod:`.events`.

Rules: only bytes and times: nothing here parses a message. Everything blocks on the
disk. Memory is bounded, whatever the file holds. Of a damaged file everything is read
that can be.
"""

from __future__ import annotations

import logging
import re
import stat
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Final, final

import msgspec

from ..errors import ConfigError
from ..logs import log_event
from .events import event_line, read_event, unpack_message
from .frames import Blocks, open_blocks

__all__ = ["MAX_LINE", "LineReader", "is_own", "split_line"]

# The name is older than this module; docs and alerts refer to it, so it stays.
logger = logging.getLogger("trio_ticks.feeds.captures")

MAX_LINE: Final = 1 << 23
"""The longest line, in bytes; a longer line is cut, and its pieces are malformed.

A file without line ends must not fill the memory. Snapshots of 5 MB occur.
"""
MAX_NS_DIGITS: Final = 19
_DIGITS: Final = frozenset(b"0123456789")
_BRACE: Final = ord("{")
_HASH: Final = b"#"
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

    A place that is damaged is skipped, up to the next frame of the compressed data:
    in a recording of the recorder's that is a second. In its place comes a line of the
    event ``#damaged`` (see :mod:`.events`), which is no line of the file.

    Args:
        path: the recording, compressed by zstd or gzip or not at all; its name does not
            matter.

    Raises:
        ConfigError: the file cannot be opened, or needs zstd, which is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Final = Path(path)
        self.lines = 0
        """Lines read so far."""
        self.truncated = False
        """Whether the file ends in the middle, or its end is damaged.

        The lines before that place have been read.
        """
        self.damages = 0
        """Damaged places so far that were skipped."""
        self.lost_bytes = 0
        """Bytes of the file so far that could not be read."""
        self._blocks = self._open()
        self._lines: deque[bytes] = deque()
        self._carry = b""
        """The beginning of a line whose end is in the next piece."""
        self._is_first = True

    @property
    def position(self) -> int:
        """How many bytes of the file were read, for showing the progress."""
        return self._blocks.position

    def close(self) -> None:
        """Close the file."""
        self._blocks.close()

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
        """Start again at the first line; the counts of lines and damages are kept."""
        self._blocks.close()
        self._blocks = self._open()
        self._lines.clear()
        self._carry = b""
        self._is_first = True

    def read(self) -> bytes | None:
        """Return the next line without the white space around it; ``None`` at the end.

        Raises:
            ConfigError: the disk fails.
        """
        while not self._lines:
            block = self.read_lines()
            if block is None:
                return None
            self._lines.extend(block)
            self.lines -= len(block)  # they are counted as they are taken
        self.lines += 1
        return self._lines.popleft().strip()

    def read_lines(self) -> list[bytes] | None:
        """Return some of the next lines, as they are in the file; ``None`` at the end.

        It is the quicker way for whoever wants them all: from one frame, or a piece of
        bounded size, at a time. It may return none. Do not mix it with :meth:`read`.

        Raises:
            ConfigError: the disk fails.
        """
        try:
            block = self._blocks.read()
        except OSError as error:
            raise ConfigError(
                f"cannot read the recording {str(self.path)!r}: {error.strerror or error}"
            ) from error
        if block is None:
            return self._read_last()
        found: list[bytes] = []
        if self._is_first:
            self._is_first = False
            self._blocks.strict = is_own(block)
        if self._blocks.skipped:
            # What stood before the damage has no end any more.
            self._carry = b""
            found.append(self._report_damaged(self._blocks.skipped))
        found += (self._carry + block).split(b"\n")
        self._carry = found.pop()
        most = MAX_LINE
        if len(self._carry) > most or (len(block) > most and max(map(len, found)) > most):
            found += self._cut_carry()
            found = [
                line[at : at + most] for line in found for at in range(0, max(1, len(line)), most)
            ]
        self.lines += len(found)
        return found

    def _cut_carry(self) -> list[bytes]:
        """Take the pieces off of a line that is too long already."""
        whole = len(self._carry) // MAX_LINE * MAX_LINE
        pieces, self._carry = self._carry[:whole], self._carry[whole:]
        return [pieces] if pieces else []

    def _read_last(self) -> list[bytes] | None:
        if self._blocks.truncated:
            self._report_truncated()
        last, self._carry = self._carry, b""
        if not last:
            return None
        self.lines += 1
        return [last]

    def _open(self) -> Blocks:
        try:
            # Only regular files: to open a pipe would wait for its writer, and the
            # lines read from it to find the symbols could not be read again.
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise ConfigError(f"cannot play {str(self.path)!r}: it is not a regular file")
            self._file = self.path.open("rb")
            return open_blocks(self._file, str(self.path))
        except OSError as error:
            raise ConfigError(
                f"cannot open the recording {str(self.path)!r}: {error.strerror or error}"
            ) from error

    def _report_damaged(self, count: int) -> bytes:
        self.damages += 1
        self.lost_bytes += count
        if self.damages == 1:
            log_event(
                logger,
                logging.WARNING,
                "capture.damaged",
                path=str(self.path),
                lines=self.lines,
                bytes=count,
            )
        return event_line(None, "damaged", {"bytes": count})

    def _report_truncated(self) -> None:
        if not self.truncated:
            self.truncated = True
            self.lost_bytes = self._blocks.lost_bytes
            log_event(
                logger,
                logging.WARNING,
                "capture.truncated",
                path=str(self.path),
                lines=self.lines,
            )


def is_own(block: bytes) -> bool:
    """Return whether a file that begins with *block* was written by the recorder."""
    event = read_event(block.partition(b"\n")[0])
    return event is not None and event[0] == "recording"


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
            if message[:1] == _HASH:
                return int(head), None if read_event(message) else unpack_message(message)
            return int(head), message
        return _seconds(head), message
    if first == _BRACE:
        return _unwrap(line) if _RECEIVED_KEY in line else (None, line)
    return None, None if _OF_THE_RECORDER.match(line) or read_event(line) else line


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
