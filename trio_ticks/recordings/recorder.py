"""The recorder of a pipeline: taps in the event loop, and a thread that writes.

Plan: a feed hands what it receives to its tap, which keeps it in a buffer. Twice a
second the thread takes all of it, and appends a frame to the feed's file. So what a
crash can cost is what came since: less than a second, the writing included.

Rules: the pipeline never waits for the disk, except at its end, for ``_END_S``. No
error of the disk ends it.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from pathlib import Path
from typing import Final, final

from ..checks import check_count, check_flag, check_seconds, check_word
from ..clock import Clock, monotonic
from ..errors import ConfigError
from ..logs import LogLimit, log_event
from ..metrics.snapshots import RecorderMetrics
from .feed_files import Counts, FeedFiles, FileSettings
from .growing import Compression, compressor_of
from .taps import About, FeedTap, Room
from .timeline import Timeline

__all__ = ["Recorder"]

logger = logging.getLogger("trio_ticks.recordings")

FRAME_S: Final = 0.5
"""From one frame to the next, in seconds. With a busy machine's time to compress and to
write it, no message is in memory alone for as long as a second. A whole second a frame
would make files 7 % smaller."""
_EARLY: Final = 4 * 2**20
"""So many bytes are written without waiting for that."""
_GATHER_S: Final = 0.05
"""What has come is made into lines after so many seconds.

Python's garbage collector would look at all that waits, over and over."""
_END_S: Final = 5.0
"""How long the end of a pipeline waits for the disk, in seconds."""
_LOG_S: Final = 10.0
"""From one log line about a disk that fails to the next, in seconds."""


@final
class Recorder:
    """Records what the feeds of a pipeline receive, in files to play again.

    Give it to a pipeline: ``record=Recorder("recordings")``. A feed over a WebSocket is
    recorded as it is: each raw message with the time at which it arrived, and when
    connections were opened and lost. Of any other feed its items are recorded.
    :class:`ReplayFeed` plays the files.

    Each feed has its own files, a new one every hour, at each start, and whenever one
    is large enough; no file is ever written over. They are for their owner only, and no
    key, header or query string is in them. A crash costs what was recorded in the last
    second; a damaged place in a file costs the second that it is in.

    It never slows the pipeline down: a thread writes, and what its buffer cannot hold
    is not recorded. That is counted as ``dropped`` in :meth:`statistics` and in the
    metrics, and the file says where. The pipeline waits for the disk at its end only,
    for 5 seconds at most.

    A recorder serves one pipeline at a time. Its counts go on from one to the next.

    Args:
        folder: where the files go; it is made if it is not there.
        rotate_s: a new file begins at each multiple of so many seconds since 1970.
        max_bytes: a file that has grown to so many bytes is full.
        buffer_bytes: how many bytes may wait for the disk.
        compression: ``"zstd"``, which takes the extra ``record`` before Python 3.14, or
            ``"gzip"``, which takes three times the CPU time; unless given, zstd where
            it is installed.
        sync: have the disk keep each second before the next one: then a power cut costs
            no more than a crash.

    Raises:
        ConfigError: a setting cannot work, or zstd is wanted and not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        rotate_s: float = 3600.0,
        max_bytes: int = 2**30,
        buffer_bytes: int = 64 * 2**20,
        compression: Compression | None = None,
        sync: bool = False,
    ) -> None:
        check_seconds("rotate_s", rotate_s, positive=True)
        check_count("max_bytes", max_bytes, least=4096)
        check_count("buffer_bytes", buffer_bytes, least=2**20)
        if compression is not None:
            check_word("compression", compression, ("zstd", "gzip"))
        check_flag("sync", sync)
        self.folder: Final = Path(folder)
        self._rotate_ns = max(1, round(rotate_s * 1e9))
        self._most_bytes = max_bytes
        self._sync = sync
        self.compression: Compression
        """How the files are compressed."""
        self.compression, self._compress = compressor_of(compression)
        self._wake = threading.Event()
        self._room = Room(buffer_bytes, min(_EARLY, buffer_bytes // 2), self._wake)
        self._counts = Counts()
        self._refused = 0
        """Messages that found no room, in earlier pipelines."""
        self._taps: tuple[FeedTap, ...] = ()
        self._clock: Clock | None = None
        self._thread: threading.Thread | None = None
        self._settings: FileSettings | None = None
        self._left: threading.Thread | None = None
        """A thread of an earlier pipeline's for which the disk was too slow."""
        self._ending = False

    def __repr__(self) -> str:
        return f"<Recorder into {str(self.folder)!r}>"

    def statistics(self) -> RecorderMetrics:
        """Return what was recorded so far. Safe in any thread."""
        counts = self._counts
        refused = self._refused + sum(tap.refused for tap in self._taps)
        return RecorderMetrics(
            messages=counts.messages,
            bytes=counts.bytes,
            written_bytes=counts.written_bytes,
            dropped=counts.lost + refused,
            waiting_bytes=max(0, self._room.taken - self._room.freed),
            files=counts.files,
            file=counts.file,
            errors=counts.errors,
            last_error=counts.last_error,
            failing=counts.failing,
        )

    # For the pipeline

    def begin(self, clock: Clock) -> None:
        """Begin to record, for a pipeline of the time *clock*.

        Raises:
            ConfigError: another pipeline uses this recorder, or the folder cannot be
                written to.
        """
        if self._clock is not None or (self._left is not None and self._left.is_alive()):
            raise ConfigError("this Recorder is recording another pipeline: make one for each")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the folder {str(self.folder)!r} cannot be made: {error.strerror or error}"
            ) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise ConfigError(f"the folder {str(self.folder)!r} cannot be written to")
        self._clock = clock
        self._settings = FileSettings(
            folder=self.folder,
            compression=self.compression,
            compress=self._compress,
            period_ns=self._rotate_ns,
            most_bytes=self._most_bytes,
            sync=self._sync,
            run=secrets.token_hex(8),
        )
        self._ending = False
        self._wake.clear()
        self._thread = threading.Thread(
            target=self._write,
            args=(clock, self._settings),
            name="trio-ticks-recorder",
            daemon=True,
        )
        self._thread.start()

    def tap(self, about: About) -> FeedTap:
        """Return the tap of a feed; call it between :meth:`begin` and :meth:`end`."""
        assert self._clock is not None
        tap = FeedTap(about, self._clock.now, self._room)
        self._taps += (tap,)
        return tap

    def end(self) -> None:
        """Write what is left, and close the files; wait for that for 5 s at most.

        Blocks on the disk.
        """
        thread = self._thread
        if thread is None:
            return
        for tap in self._taps:
            tap.finish()
        self._ending = True
        self._wake.set()
        thread.join(_END_S)
        if thread.is_alive():
            self._left = thread
            log_event(
                logger,
                logging.ERROR,
                "recorder.left",
                "the disk takes too long; what waits for it may be missing from %s",
                self.folder,
                path=str(self.folder),
            )
        self._refused += sum(tap.refused for tap in self._taps)
        self._taps = ()
        self._clock = self._thread = None

    # In the thread

    def _write(self, clock: Clock, settings: FileSettings) -> None:
        timeline = Timeline(clock)
        limit = LogLimit(monotonic, _LOG_S)
        files: dict[FeedTap, FeedFiles] = {}
        ending = False
        gathered_s = 0.0
        while not ending:
            hurried = self._wake.wait(min(_GATHER_S, FRAME_S))
            self._wake.clear()
            ending = self._ending
            gathered_s += _GATHER_S
            is_due = hurried or ending or gathered_s >= FRAME_S
            if is_due:
                gathered_s = 0.0
            step = timeline.look()
            for tap in self._taps:
                if tap not in files:
                    files[tap] = FeedFiles(tap, settings, self._room, timeline, self._counts, limit)
            for each in files.values():
                if step is not None:
                    each.note_step(step)
                try:
                    if ending:
                        each.close()
                    elif is_due:
                        each.write()
                    else:
                        each.gather()
                except Exception as error:
                    # A mistake of ours, or no memory: the pipeline goes on without.
                    self._counts.last_error = type(error).__name__
                    self._counts.failing = True
                    if times := limit.due("crashed"):
                        log_event(
                            logger, logging.ERROR, "recorder.crashed", times=times, exc_info=error
                        )
