"""A recording in its venue's own words: the messages as they were received.

Rules: reading blocks on the disk, so it is done in a thread. What no client can
subscribe to here, such as the answers to the recorder's own requests, is left out and
counted. A message whose time is earlier than that of the one before it is due together
with that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, final

import attrs

from ..feeds.playback import call
from ..recordings.files import LineReader, split_line

__all__ = ["RecordedMessages", "Said"]

M = TypeVar("M")

_AHEAD: Final = 512
"""Lines that are read ahead."""


@attrs.frozen(slots=True)
class Said:
    """A message of a recording."""

    symbol: str
    """The symbol that it is about, for the counts; empty: none, or several."""
    keys: frozenset[Any]
    """Those under which clients get it; each venue has its own."""
    payload: bytes
    parts: tuple[tuple[str, bytes], ...] = ()
    """Of an array, each row as a message of its own, with its key."""


@final
class RecordedMessages(Generic[M]):
    """The messages of a recording, each with the time at which it is due.

    Args:
        path: the recording.
        read: returns what a payload says to clients; ``None``: nothing.
        symbols: what can be subscribed to.
        speed: a factor on the recording's own pace.
        loop: whether to begin anew at the end, for ever.
        in_thread: whether to read in a thread; False on a virtual clock.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[bytes], M | None],
        symbols: tuple[str, ...],
        speed: float,
        *,
        loop: bool = False,
        in_thread: bool = True,
    ) -> None:
        self.symbols: Final = symbols
        self.left_out = 0
        """Lines that say nothing to any client."""
        self._read_payload = read
        self._speed = speed
        self._loop = loop
        self._in_thread = in_thread
        self._file = LineReader(path)
        self._due: deque[tuple[float, M]] = deque()
        # A round is one pass through the recording; more than one only with *loop*.
        self._first_ns: int | None = None
        self._round_began = 0.0
        self._last_at = 0.0
        self._found_any = False
        self._at_end = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    async def next(self) -> tuple[float, M] | None:
        """Return the next message and its time, in seconds; ``None`` at the end.

        Cancellation: waits for the thread that reads; nothing is lost.
        """
        while not self._due and not self._at_end:
            await self.read_ahead()
        return self._due.popleft() if self._due else None

    @property
    def upcoming(self) -> tuple[M, ...]:
        """The messages that have been read and not been taken."""
        return tuple(message for _, message in self._due)

    @property
    def ended(self) -> bool:
        """Whether everything has been taken."""
        return self._at_end and not self._due

    @property
    def next_at(self) -> float:
        """When the next message is due, in seconds since the market opened."""
        return self._due[0][0] if self._due else self._last_at

    @property
    def wants_more(self) -> bool:
        """Whether it is time for :meth:`read_ahead`."""
        return not self._at_end and len(self._due) < _AHEAD // 2

    async def read_ahead(self) -> None:
        """Read another piece of the recording.

        Cancellation: waits for the thread, for milliseconds; nothing is lost.
        """
        await call(self._read, in_thread=self._in_thread)

    def take(self, until: float, limit: int, _stamp: str = "") -> list[M]:
        """Return the messages due up to the time *until*, at most *limit*."""
        found: list[M] = []
        while self._due and len(found) < limit and self._due[0][0] <= until:
            found.append(self._due.popleft()[1])
        return found

    def _read(self) -> None:
        for _ in range(_AHEAD):
            line = self._file.read()
            if line is None:
                self._end_round()
                return
            try:
                ns, payload = split_line(line)
            except ValueError:
                self.left_out += 1
                continue
            message = None if payload is None else self._read_payload(payload)
            if message is None:
                self.left_out += 1
                continue
            self._found_any = True
            if ns is not None:
                first = self._first_ns = ns if self._first_ns is None else self._first_ns
                at = self._round_began + (ns - first) / 1e9 / self._speed
                self._last_at = max(self._last_at, at)
            self._due.append((self._last_at, message))

    def _end_round(self) -> None:
        if self._loop and self._found_any:
            self._file.rewind()
            self._first_ns, self._round_began = None, self._last_at
        else:
            self._at_end = True
