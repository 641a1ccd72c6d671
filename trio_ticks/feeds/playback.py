"""Which items of a recording are due, at its own pace times a factor.

Rules: reading blocks on the disk, so it is done in a thread; but not on a virtual
clock, which would jump to the next deadline while the thread reads.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, final

import trio

from .captures import CaptureReader

__all__ = ["Playback", "call"]

T = TypeVar("T")

_LINES_AHEAD = 10_000
"""The most lines read for a piece, however few items they make."""


async def call(read: Callable[[], T], *, in_thread: bool) -> T:
    """Call *read*, which blocks on the disk, in a thread or in the event loop.

    In the event loop only on a virtual clock, which does not wait for threads.

    Cancellation: waits for the thread. Always a checkpoint.
    """
    if in_thread:
        return await trio.to_thread.run_sync(read)
    await trio.lowlevel.checkpoint()
    return read()


@final
class Playback:
    """Computes which items of a recording are due, at its own pace times *speed*.

    It reads ahead in pieces of bounded size. Times are in seconds since the playback
    began. An item whose time is earlier than that of the item before it is due
    together with that.

    Args:
        reader: the source of the items; the caller closes it.
        speed: the factor on the recording's own pace; with ``math.inf`` all items are
            due at once.
        loop: start again at the end, for ever; the next round begins when the last
            item of the previous one is due.
        in_thread: whether to read in a thread; False on a virtual clock.
    """

    ahead = 2048
    """Items in a piece; a new piece is read when less than half of one is left."""

    def __init__(
        self,
        reader: CaptureReader,
        *,
        speed: float = 1.0,
        loop: bool = False,
        in_thread: bool = True,
    ) -> None:
        self.first_ns: int | None = None
        """The time of the first item; ``None``: none has been read yet."""
        self._reader = reader
        self._speed = speed
        self._loop = loop
        self._in_thread = in_thread
        self._items: deque[tuple[float, Any]] = deque()
        self._exhausted = False
        # A round is one pass through the recording; more than one only with *loop*.
        self._round_first_ns: int | None = None
        self._round_began = 0.0
        self._last_at = 0.0

    @property
    def wants_more(self) -> bool:
        """Whether to call :meth:`read_ahead` now."""
        return not self._exhausted and len(self._items) < self.ahead // 2

    @property
    def buffered(self) -> int:
        """How many items were read ahead and not taken yet."""
        return len(self._items)

    @property
    def ended(self) -> bool:
        """Whether all items have been taken, and no more will follow."""
        return self._exhausted and not self._items

    @property
    def next_at(self) -> float:
        """The time at which the next item is due; ``math.inf`` if there is none."""
        return self._items[0][0] if self._items else math.inf

    async def read_ahead(self) -> None:
        """Read another piece.

        Cancellation: waits for the thread, for milliseconds; nothing is lost.
        """
        fresh = await call(
            partial(self._reader.read, self.ahead, max_lines=_LINES_AHEAD),
            in_thread=self._in_thread,
        )
        for ns, item in fresh:
            if self._round_first_ns is None:
                self._round_first_ns = ns
                if self.first_ns is None:
                    self.first_ns = ns
            since_s = (ns - self._round_first_ns) / 1e9
            self._last_at = max(self._last_at, self._round_began + since_s / self._speed)
            self._items.append((self._last_at, item))
        if self._reader.at_end:
            if self._loop and self._reader.items:
                await call(self._reader.rewind, in_thread=self._in_thread)
                self._round_first_ns, self._round_began = None, self._last_at
            else:
                self._exhausted = True

    def take(self, until: float, limit: int) -> list[tuple[float, Any]]:
        """Return the items due until the time *until*, each with its time.

        At most *limit*; the others stay due.
        """
        items = self._items
        due: list[tuple[float, Any]] = []
        while items and len(due) < limit and items[0][0] <= until:
            due.append(items.popleft())
        return due
