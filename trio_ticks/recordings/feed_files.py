"""Writes what one feed's tap holds: in frames of a second, into one file after another.

Plan: what waits is gathered as lines, some times a second, and written as frames, of a
megabyte at most. A new file begins with the first thing that came in a new period (an
hour), or when the file is large enough. A frame that the disk does not take is kept and
tried again; meanwhile what comes waits in the tap, up to the bound of the buffer.

Rules: called by the recorder's thread only. Times do not go back. No error of the disk
is raised: it is counted, logged, and told in the file once that can be written again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

import attrs

from ..logs import LogLimit, log_event
from ..version import __version__
from .batches import Batch, Lines, lines_of
from .events import event_line
from .growing import Compression, OutFile, new_path
from .taps import FeedTap, Room
from .timeline import Timeline

__all__ = ["Counts", "FeedFiles", "FileSettings"]

logger = logging.getLogger("trio_ticks.recordings")

_FRAME: Final = 2**20
"""Bytes in a frame at most, and one batch more.

Joining the lines of a larger one would keep the event loop waiting for some time."""
_STRIDE: Final = 32
"""After so many batches the event loop may go on."""
_NAMES_TRIED: Final = 1000
_VERSION: Final = 1


@attrs.define
class Counts:
    """What the thread counts, over all feeds of a recorder. Others only read it."""

    messages: int = 0
    """Messages in the files."""
    bytes: int = 0
    """Their lines, before they were compressed."""
    written_bytes: int = 0
    """The same, compressed."""
    lost: int = 0
    """Messages that could not be written."""
    files: int = 0
    errors: int = 0
    """Times that the disk failed."""
    last_error: str | None = None
    failing: bool = False
    """Whether the disk failed last."""
    file: str | None = None
    """The file that was begun last."""


@attrs.frozen(kw_only=True)
class FileSettings:
    """Where files are, and when one is full."""

    folder: Path
    compression: Compression
    compress: Callable[[bytes], bytes]
    period_ns: int
    most_bytes: int
    sync: bool
    run: str
    """Tells the files of this run of the recorder from those of others."""


@attrs.define
class _Frame:
    """Lines that are to be written together."""

    lines: list[bytes] = attrs.field(factory=list)
    data: bytes = b""
    """All of them, compressed, once the frame is complete."""
    messages: int = 0
    length: int = 0
    """Before it was compressed."""
    size: int = 0
    """Its share of the buffer."""
    first_ns: int | None = None
    """When its first line came; ``None``: it has none yet."""
    connection: int = 1
    """By which connection the line before it came."""


@final
class FeedFiles:
    """The files of one feed, while a recorder runs.

    Args:
        tap: what to write.
        settings: of the recorder.
        room: of the recorder.
        timeline: of the recorder.
        counts: of the recorder.
        log_limit: of the recorder.
    """

    def __init__(
        self,
        tap: FeedTap,
        settings: FileSettings,
        room: Room,
        timeline: Timeline,
        counts: Counts,
        log_limit: LogLimit,
    ) -> None:
        self._tap = tap
        self._settings = settings
        self._room = room
        self._timeline = timeline
        self._counts = counts
        self._log_limit = log_limit
        self._file: OutFile | None = None
        self._part = 0
        self._period = -1
        self._in_file = 0
        """Messages in the file."""
        self._connection = 1
        """That the last line came by."""
        self._last_ns = 0
        self._symbols = None if tap.about.symbols is None else dict(tap.about.symbols)
        self._gathered = _Frame()
        """All of it belongs into the present file."""
        self._frame: _Frame | None = None
        """It is complete, and could not be written yet."""
        self._steps: list[dict[str, Any]] = []
        """Steps of the wall clock that the file does not tell of yet."""

    def note_step(self, facts: dict[str, Any]) -> None:
        """Have the file say that the wall clock has made a step."""
        if self._file is not None:
            self._steps.append(facts)

    def gather(self) -> None:
        """Make lines of what waits, as far as it belongs into the present file."""
        if self._frame is None and (self._gathered.lines or self._has_room()):
            self._gather()

    def write(self) -> bool:
        """Write all that waits; return False if the disk does not take it."""
        self._leave_file_if_deleted()
        while self._frame is not None or self._gathered.lines or self._tap.pending:
            try:
                self._begin_file_if_due()
            except OSError as error:
                return self._failed(error)
            if self._frame is None:
                self._gather()
                self._frame = self._complete_frame()
            if not self._put(self._frame):
                return False
            self._frame = None
        return True

    def close(self) -> None:
        """Write what is left, once more, and end the file in good order.

        What cannot be written is counted as lost.
        """
        lost = 0
        if not self.write():
            for frame in (self._frame, self._gathered):
                if frame is not None:
                    lost += frame.messages
                    self._room.freed += frame.size
            self._frame, self._gathered = None, _Frame()
            while self._tap.pending:
                batch = self._tap.take()
                lost += len(batch.messages) + len(batch.items)
                self._room.freed += batch.size
            self._counts.lost += lost
        self._end_file(lost)

    # Files

    def _begin_file_if_due(self) -> None:
        """Begin another file if there is none yet, or this one is full or over.

        Raises:
            OSError: it cannot be made.
        """
        frame = self._gathered if self._frame is None else self._frame
        if frame.first_ns is not None:
            # It belongs into the present file, or into the next if that was deleted.
            if self._file is None:
                self._begin_file(frame.first_ns, frame.connection)
            return
        ns = self._ns_of(self._tap.pending[0][0])
        if self._has_room() and ns // self._settings.period_ns == self._period:
            return
        self._end_file()
        self._begin_file(ns)
        self._connection = 1

    def _begin_file(self, ns: int, connection: int = 1) -> None:
        """Begin a file whose first line came at *ns*, by *connection*.

        Raises:
            OSError: it cannot be made.
        """
        file = self._new_file(ns)
        try:
            file.append_event(ns, "recording", self._head())
            if connection != 1:
                file.append_event(ns, "connection", {"connection": connection})
        except OSError:
            file.close()
            file.path.unlink(missing_ok=True)
            raise
        self._file, self._in_file = file, 0
        self._period = ns // self._settings.period_ns
        self._part += 1
        self._steps.clear()
        self._counts.files += 1
        self._counts.written_bytes += file.size
        self._counts.file = str(file.path)
        log_event(
            logger,
            logging.INFO,
            "recorder.file",
            path=str(file.path),
            feed=self._tap.about.feed,
        )

    def _leave_file_if_deleted(self) -> None:
        """Close the file if somebody has deleted it: what is written there is lost."""
        file = self._file
        if file is None or not file.is_deleted():
            return
        file.close()
        self._file = None
        if times := self._log_limit.due("deleted"):
            log_event(
                logger,
                logging.WARNING,
                "recorder.deleted",
                "the file %s was deleted while it was written; another begins",
                file.path,
                path=str(file.path),
                feed=self._tap.about.feed,
                times=times,
            )

    def _has_room(self) -> bool:
        """Tell whether there is a file, which is not full."""
        return self._file is not None and self._file.size < self._settings.most_bytes

    def _new_file(self, ns: int) -> OutFile:
        settings = self._settings
        for number in range(_NAMES_TRIED):
            # Another feed, or another program, may have a file of this microsecond.
            at = ns + number * 1000
            path = new_path(settings.folder, self._tap.about.feed, at, settings.compression)
            try:
                return OutFile(path, settings.compress, sync=settings.sync)
            except FileExistsError:
                continue
        raise FileExistsError(f"{path} is there already, and {_NAMES_TRIED} others")

    def _head(self) -> dict[str, Any]:
        about = self._tap.about
        facts: dict[str, Any] = {
            "version": _VERSION,
            "feed": about.feed,
            "venue": about.venue,
            "channels": list(about.channels),
            "symbols": self._symbols,
            "run": self._settings.run,
            "part": self._part + 1,
            "by": f"trio_ticks {__version__}",
        }
        if about.url is not None:
            url = about.url if about.redactor is None else about.redactor.text(about.url)
            facts["url"] = url
        return facts

    def _end_file(self, lost: int = 0) -> None:
        """Close the file, if there is one; say in it that this is its end, if possible.

        Args:
            lost: messages that could not be written at the end.
        """
        if self._file is None:
            return
        try:
            if lost:
                facts = {"messages": lost, "reason": self._counts.last_error}
                self._file.append_event(self._last_ns, "dropped", facts)
            self._file.append_event(self._last_ns, "closed", {"messages": self._in_file})
        except OSError as error:
            self._failed(error)
        self._file.close()
        self._file = None

    # Frames

    def _ns_of(self, moment: float) -> int:
        return max(self._last_ns, self._timeline.ns(moment))

    def _gather(self) -> None:
        """Take the next batches out of the tap, of one period."""
        tap, frame, taken = self._tap, self._gathered, 0
        while tap.pending and frame.length < _FRAME:
            taken += 1
            if not taken % _STRIDE:
                # Python lets a thread run for 5 ms before another may, and the event
                # loop would be late by that each time.
                time.sleep(0)
            ns = self._ns_of(tap.pending[0][0])
            if ns // self._settings.period_ns != self._period:
                break
            if frame.first_ns is None:
                frame.first_ns, frame.connection = ns, self._connection
            batch = tap.take()
            frame.size += batch.size
            self._last_ns = ns
            frame.lines += self._lines_before(batch, ns)
            made = self._lines_of(batch, ns)
            frame.lines.append(made.data)
            if made.left_out:
                self._counts.lost += made.left_out
                facts = {"messages": made.left_out, "reason": "cannot be written"}
                frame.lines.append(event_line(ns, "dropped", facts) + b"\n")
            frame.length += len(made.data)
            frame.messages += made.messages

    def _complete_frame(self) -> _Frame:
        frame, self._gathered = self._gathered, _Frame()
        try:
            data = b"".join(frame.lines)
            frame.data = self._settings.compress(data) if data else b""
        except Exception:
            self._counts.lost += frame.messages
            self._room.freed += frame.size
            raise
        frame.lines.clear()
        return frame

    def _lines_of(self, batch: Batch, ns: int) -> Lines:
        about = self._tap.about
        try:
            return lines_of(batch, ns, about.redactor, about.encode)
        except Exception as error:
            # A mistake of ours costs the batch, and not what comes after it.
            if times := self._log_limit.due("crashed"):
                name = about.feed
                log_event(
                    logger,
                    logging.ERROR,
                    "recorder.crashed",
                    feed=name,
                    times=times,
                    exc_info=error,
                )
            return Lines(b"", 0, len(batch.messages) + len(batch.items))

    def _lines_before(self, batch: Batch, ns: int) -> list[bytes]:
        """Return what the file has to say before the lines of *batch*."""
        events = [("clock", facts) for facts in self._steps]
        self._steps.clear()
        if batch.connection not in (0, self._connection):
            self._connection = batch.connection
            events.append(("connection", {"connection": batch.connection}))
        if self._symbols is not None and batch.facts is not None:
            if batch.word == "subscribed":
                self._symbols.update(batch.facts["symbols"])
            elif batch.word == "unsubscribed":
                for symbol in batch.facts["symbols"]:
                    self._symbols.pop(symbol, None)
        return [event_line(ns, word, facts) + b"\n" for word, facts in events]

    def _put(self, frame: _Frame) -> bool:
        """Write *frame*; return False if the disk does not take it."""
        counts = self._counts
        if self._file is not None and frame.data:
            try:
                self._file.append(frame.data)
            except OSError as error:
                return self._failed(error)
        self._in_file += frame.messages
        counts.messages += frame.messages
        counts.bytes += frame.length
        counts.written_bytes += len(frame.data)
        self._room.freed += frame.size
        if counts.failing:
            counts.failing = False
            path = counts.file
            log_event(logger, logging.WARNING, "recorder.well", path=path, errors=counts.errors)
        return True

    def _failed(self, error: OSError) -> bool:
        counts = self._counts
        counts.errors += 1
        counts.failing = True
        counts.last_error = error.strerror or str(error)
        if times := self._log_limit.due("failed"):
            log_event(
                logger,
                logging.ERROR,
                "recorder.failed",
                "the recording of %s cannot be written: %s",
                self._tap.about.feed,
                counts.last_error,
                feed=self._tap.about.feed,
                reason=counts.last_error,
                path=str(self._settings.folder),
                times=times,
            )
        return False
