"""The items of one or several recordings in the order of their times.

Plan: a thread only reads lines, a piece at a time and ahead of need; decompressing does
not hold the interpreter. The lines are decoded in the event loop, one line before it is
due, by the venue's codec: the same work in the same place as on a live connection. So a
replay takes from the handlers what the live feed takes from them, and no more.

Rules: one file is read by one thread at a time. A file is opened when its first item is
next; it goes on with the codec of a file that has ended if the same recorder wrote
both. What is read ahead is bounded, in lines and in bytes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Final, final

import attrs
import trio

from ..errors import ConfigError
from ..recordings.files import LineReader
from .captures import LineDecoder
from .recording_files import RecordingFile

__all__ = ["Counts", "Piece", "ReadAhead", "Timeline", "Track"]

LINES: Final = 2048
"""A piece has as many lines at least; another is read when fewer are left."""
BYTES: Final = 1 << 20
"""A piece with so many bytes is large enough: a line may have 8 MB."""

Timed = tuple[int, Any]
"""An item with the time to play it at, in ns since 1970."""
Counts = tuple[int, int, int, int]
"""Lines read, and those that were malformed, ignored, refused."""


@final
@attrs.frozen
class Piece:
    """Lines of a file that were read together."""

    lines: list[bytes]
    position: int
    """How many bytes of the file were read to get here."""
    last: bool
    """Whether nothing more can be read."""
    error: ConfigError | None = None
    """Why nothing more can be read, where that is not the file's end."""


@final
class Track:
    """One file: the lines that were read, and the items of the next of them.

    Args:
        file: to read; it is opened by the first :meth:`read`.
    """

    def __init__(self, file: RecordingFile) -> None:
        self.file: Final = file
        self.items: deque[Timed] = deque()
        """What was decoded and not taken."""
        self.decoder: LineDecoder | None = None
        """What decodes its lines; ``None`` until its turn has come."""
        self.used = 0
        """Lines decoded so far."""
        self.position = 0
        """Bytes of the file read so far."""
        self._lines: deque[bytes] = deque()
        self._reader: LineReader | None = None
        self._read_all = False
        self._error: ConfigError | None = None
        self._last_ns = 0

    @property
    def next_ns(self) -> int:
        """The time of its next item, as far as that is known without decoding."""
        return self.items[0][0] if self.items else self.file.first_ns

    @property
    def wants_lines(self) -> bool:
        """Whether a piece should be read now."""
        return not self._read_all and len(self._lines) < LINES

    @property
    def ended(self) -> bool:
        """Whether all has been read and taken."""
        return self._read_all and not self._lines and not self.items and self._error is None

    def read(self) -> Piece:
        """Read the next piece of the file, for :meth:`add`. Blocks on the disk.

        It changes nothing that the event loop looks at, since it runs in a thread.
        """
        lines: list[bytes] = []
        size = 0
        try:
            if self._reader is None:
                self._reader = LineReader(self.file.path)
            while len(lines) < LINES and size < BYTES:
                block = self._reader.read_lines()
                if block is None:
                    return Piece(lines, self._at(), last=True)
                lines += map(bytes.strip, block)
                size += sum(map(len, block))
        except ConfigError as error:
            return Piece(lines, self._at(), last=True, error=error)
        return Piece(lines, self._at(), last=False)

    def _at(self) -> int:
        return 0 if self._reader is None else self._reader.position

    @property
    def bytes_used(self) -> float:
        """How many bytes of the file the lines decoded so far took, about.

        A piece may be the whole file, long before it was played.
        """
        lines = self.used + len(self._lines)
        return self.position * self.used / lines if lines else 0.0

    def add(self, piece: Piece) -> None:
        """Take what :meth:`read` has returned."""
        self._lines += piece.lines
        self.position = piece.position
        self._read_all, self._error = piece.last, piece.error

    def decode(self) -> bool:
        """Decode lines until there is an item; False if none is left to decode.

        Raises:
            ConfigError: the file could not be read on.
        """
        lines, items, decoder = self._lines, self.items, self.decoder
        assert decoder is not None
        while lines and not items:
            self.used += 1
            for ns, item in decoder.decode(lines.popleft()):
                self._last_ns = max(ns, self._last_ns)
                items.append((self._last_ns, item))
        if not items and not lines and self._error is not None:
            raise self._error
        return bool(items)

    def decode_into(self, due: list[Timed], until_ns: float, limit: int) -> None:
        """Decode lines while their items are due up to *until_ns*, and append these.

        To *due*, up to about *limit* in all. The first item that is not due yet is
        kept. It must have no items left.
        """
        lines, items, last = self._lines, self.items, self._last_ns
        assert self.decoder is not None
        decode, used = self.decoder.decode, len(lines)
        try:
            while lines and not items and len(due) < limit:
                for ns, item in decode(lines.popleft()):
                    if ns > last:
                        last = ns
                    if last > until_ns or items:
                        items.append((last, item))
                    else:
                        due.append((last, item))
        except ConfigError as error:
            # The codec is wrong. It is raised when what was decoded before is taken.
            used -= len(lines)
            lines.clear()
            self._read_all, self._error = True, error
        else:
            used -= len(lines)
        self.used += used
        self._last_ns = last

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()


@final
class Timeline:
    """Merges the items of several files by their times.

    Args:
        files: the earliest first.
        symbols: only items of these are returned; ``None``: of all.
        only: only items of this class are returned; ``None``: all, and gaps.
    """

    def __init__(
        self,
        files: Sequence[RecordingFile],
        symbols: Collection[str] | None = None,
        *,
        only: type[Any] | None = None,
    ) -> None:
        self._symbols = symbols
        self._only = only
        self._waiting = deque(Track(file) for file in files)
        self._tracks: list[Track] = []
        self._decoders: dict[object, LineDecoder] = {}
        """Those of files that have ended, for the next file of the same recorder."""
        self._all_decoders: list[LineDecoder] = []
        self._lines_done = 0
        self._sizes: Final = {file.path: max(1, file.path.stat().st_size) for file in files}
        self._bytes_done = 0
        self.starved: Track | None = None
        """What has to be read before the next item is known."""

    def __enter__(self) -> Timeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for track in (*self._tracks, *self._waiting):
            track.close()

    @property
    def counts(self) -> Counts:
        """What became of the lines that were decoded so far."""
        every = self._all_decoders
        return (
            self._lines_done + sum(track.used for track in self._tracks),
            sum(decoder.malformed for decoder in every),
            sum(decoder.ignored for decoder in every),
            sum(decoder.refused for decoder in every),
        )

    @property
    def share(self) -> float:
        """The share of the files' bytes that was decoded so far, from 0 to 1."""
        done = self._bytes_done + sum(track.bytes_used for track in self._tracks)
        return min(1.0, done / sum(self._sizes.values()))

    @property
    def ended(self) -> bool:
        """Whether all items have been taken, and no more will follow."""
        return not self._tracks and not self._waiting

    def wants_lines(self) -> Track | None:
        """Return the file of which a piece should be read ahead now, if any."""
        for track in self._tracks:
            if track.wants_lines:
                return track
        # The file that is next, so that nobody waits for it when its turn comes.
        if self._waiting and self._waiting[0].wants_lines:
            return self._waiting[0]
        return None

    def next_ns(self) -> int | None:
        """Return the time of the next item.

        ``None`` if there is none, or none is known: then :attr:`starved` is set.

        Raises:
            ConfigError: a file could not be read on.
        """
        track = self._earliest()
        return None if track is None else track.items[0][0]

    def take(self, until_ns: float, limit: int) -> list[Timed]:
        """Return the items due until the time *until_ns*, about *limit* at most.

        Fewer if lines have to be read first: then :attr:`starved` is set.

        Raises:
            ConfigError: a file could not be read on; raised before anything is taken.
        """
        due: list[Timed] = []
        while len(due) < limit:
            try:
                track = self._earliest()
            except ConfigError:
                if due:
                    break
                raise
            if track is None or track.items[0][0] > until_ns:
                break
            self._take_from(track, min(until_ns, self._others_at(track)), limit, due)
        return due

    def _take_from(self, track: Track, until_ns: float, limit: int, due: list[Timed]) -> None:
        items = track.items
        while items and items[0][0] <= until_ns and len(due) < limit:
            due.append(items.popleft())
        if not items:
            track.decode_into(due, until_ns, limit)

    def _others_at(self, track: Track) -> float:
        """Return when another file than *track* has the next item."""
        times = [other.next_ns for other in self._tracks if other is not track]
        if self._waiting:
            # It is opened one step before its first item, whose codec may be track's.
            times.append(self._waiting[0].file.first_ns)
        return min(times, default=math.inf)

    def _earliest(self) -> Track | None:
        """Return the file with the next item, which is decoded."""
        self.starved = None
        while True:
            best: Track | None = None
            for track in tuple(self._tracks):
                if not track.items and not track.decode():
                    if not track.ended:
                        self.starved = track
                        return None
                    self._end(track)
                    continue
                if best is None or track.items[0][0] < best.items[0][0]:
                    best = track
            if not self._waiting or (
                best is not None and best.items[0][0] <= self._waiting[0].file.first_ns
            ):
                return best
            self._begin(self._waiting.popleft())

    def _begin(self, track: Track) -> None:
        file = track.file
        decoder = self._decoders.pop(file.line, None)
        if decoder is None:
            decoder = LineDecoder(
                file.language,
                self._symbols,
                subscribed=file.symbols if self._symbols is None else sorted(self._symbols),
                only=self._only,
            )
            self._all_decoders.append(decoder)
        track.decoder = decoder
        self._tracks.append(track)

    def _end(self, track: Track) -> None:
        assert track.decoder is not None
        self._decoders[track.file.line] = track.decoder
        self._lines_done += track.used
        self._bytes_done += self._sizes[track.file.path]
        self._tracks.remove(track)
        track.close()


@final
class ReadAhead:
    """Reads the lines of *timeline* before they are needed.

    Args:
        timeline: whose lines are read.
        in_thread: read in a thread, by :meth:`run`, which runs beside the replay; False
            on a virtual clock, which does not wait for threads: :meth:`fill` reads.
    """

    def __init__(self, timeline: Timeline, *, in_thread: bool) -> None:
        self._timeline = timeline
        self._in_thread = in_thread
        self._used, self._came = trio.Event(), trio.Event()

    async def run(self) -> None:
        """Read ahead until all is read.

        Cancellation: waits for the thread, for milliseconds.
        """
        while self._in_thread and not self._timeline.ended:
            track = self._timeline.wants_lines()
            if track is None:
                self._used = trio.Event()
                await self._used.wait()
                continue
            track.add(await trio.to_thread.run_sync(track.read))
            self._came.set()

    def stir(self) -> None:
        """Have the thread read on, if enough was taken."""
        if not self._used.is_set() and self._timeline.wants_lines() is not None:
            self._used.set()

    async def fill(self) -> None:
        """Wait until the file that the timeline is starved of has been read on.

        Cancellation: nothing is lost. Always a checkpoint.
        """
        track = self._timeline.starved
        if not self._in_thread:
            if track is not None:
                track.add(track.read())
            await trio.lowlevel.checkpoint()
            return
        self._came = trio.Event()
        self._used.set()
        await self._came.wait()
