"""What a feed hands to the recorder, in the event loop: kept in a bounded buffer.

Rules: every call is sync and returns at once; nothing here waits, compresses or touches
the disk. What finds no room is counted, and the file says so where it is missing. One
side only counts up what was put in, the other what was taken out, so that they need no
lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, Final, Protocol, final

import attrs

from ..logs import Redactor
from .batches import Batch

__all__ = ["About", "FeedTap", "Room", "Tap"]

_FOR_EVENTS: Final = 1 << 20
"""Bytes beyond the buffer that are for events: the file must say what was lost."""
_EVENT_SIZE: Final = 256
_ITEM_SIZE: Final = 200
"""About the length of an item's line. A book has one for each of its levels, which
take less."""


class Tap(Protocol):
    """What a feed needs of a :class:`FeedTap`."""

    def messages(self, connection: int, messages: Sequence[bytes], /) -> None:
        """Record *messages*, which have just come by *connection* (from 1 on)."""

    def items(self, items: Sequence[Any], /) -> None:
        """Record *items*, under the user's names, that came without a message."""

    def event(self, word: str, /, **facts: Any) -> None:
        """Record an event; see :mod:`.events`."""


@attrs.frozen(kw_only=True)
class About:
    """What the first line of a file says of the feed, and who knows its secrets."""

    feed: str
    """The feed's name."""
    venue: str
    """The language of the messages."""
    url: str | None = None
    channels: Sequence[str] = ()
    symbols: dict[str, str] | None = None
    """By the venue's spelling, the user's names; ``None``: whatever comes."""
    redactor: Redactor | None = None
    encode: Callable[[Sequence[Any]], tuple[list[bytes], int]]
    """Makes messages of items, and says how many items it cannot write."""


@final
class Room:
    """The buffer of a recorder, for all of its feeds.

    Args:
        most: how many bytes may wait to be written.
        early: so many bytes are written without waiting for the end of the second.
        wake: wakes the thread that writes.
    """

    def __init__(self, most: int, early: int, wake: Event) -> None:
        self.most: Final = most
        self.early: Final = early
        self._wake = wake
        self.taken = 0
        """Bytes that were put in; the event loop counts them."""
        self.freed = 0
        """Bytes that are out again; the writing thread counts them."""

    def take(self, size: int, more: int = 0) -> bool:
        """Take room for *size* bytes; return False if there is not so much."""
        used = self.taken - self.freed + size
        if used > self.most + more:
            return False
        self.taken += size
        if used > self.early:
            self.hurry()
        return True

    def hurry(self) -> None:
        """Have written what waits, now."""
        if not self._wake.is_set():
            self._wake.set()


@final
class FeedTap:
    """Takes what one feed receives; a :class:`Tap`.

    Args:
        about: the feed.
        now: the time of the pipeline.
        room: of the recorder.
    """

    def __init__(self, about: About, now: Callable[[], float], room: Room) -> None:
        self.about: Final = about
        self.pending: Final[deque[tuple[Any, ...]]] = deque()
        """What waits to be written, in order, each the fields of a :class:`Batch` or
        the first of them: the loop appends, the thread takes."""
        self._append = self.pending.append
        self.refused = 0
        """Messages that found no room."""
        self._now = now
        self._room = room
        self._lost = 0
        """Messages that found no room since the file was told."""

    def messages(self, connection: int, messages: Sequence[bytes], /) -> None:
        """Record *messages*, which have just come by *connection* (from 1 on)."""
        # This runs for every read of a socket: Room.take() and Batch() would double it.
        size, room = sum(map(len, messages)), self._room
        used = room.taken - room.freed + size
        if used > room.most:
            self._lose(len(messages))
            return
        room.taken += size
        if used > room.early:
            room.hurry()
        now = self._now()
        if self._lost:
            self._tell_lost(now)
        self._append((now, size, connection, messages))

    def take(self) -> Batch:
        """Take the next of what waits; called by the thread, if anything does."""
        return Batch(*self.pending.popleft())

    def items(self, items: Sequence[Any], /) -> None:
        """Record *items*, under the user's names, that came without a message."""
        size = _ITEM_SIZE * sum(map(_weight, items))
        now = self._now()
        if self._room.take(size):
            if self._lost:
                self._tell_lost(now)
            self.pending.append(Batch(now, size, items=tuple(items)))
        else:
            self._lose(len(items))

    def event(self, word: str, /, **facts: Any) -> None:
        """Record an event."""
        now = self._now()
        if self._room.take(_EVENT_SIZE, _FOR_EVENTS):
            if self._lost:
                self._tell_lost(now)
            self.pending.append(Batch(now, _EVENT_SIZE, word=word, facts=facts))
        else:
            self._lose(0)

    def finish(self) -> None:
        """Say what was lost last: nothing more comes."""
        if self._lost:
            self._tell_lost(self._now())

    def _lose(self, count: int) -> None:
        self.refused += count
        self._lost += count

    def _tell_lost(self, now: float) -> None:
        if self._room.take(_EVENT_SIZE, _FOR_EVENTS):
            facts = {"messages": self._lost, "reason": "buffer"}
            self.pending.append(Batch(now, _EVENT_SIZE, word="dropped", facts=facts))
            self._lost = 0


def _weight(item: Any) -> int:
    levels = getattr(item, "bids", None)
    return 1 if levels is None else 1 + (len(levels) + len(item.asks)) // 4
