"""An ingest's queue and the broker's behind it, as one queue for pressure and throttle.

A broker that fills up slows nothing down by itself: the ingest's own queue stays empty
until there is no room in the broker any more, and then it is too late. So the fuller of
the two counts.

Rules: no I/O. The broker's numbers are those of its last answer, and are read when
somebody asks for them, not for each batch. Where the broker does not tell how full it
is, only our own queue counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, final

from ..buffer import BufferStatistics
from ..channel.statistics import ChannelStatistics

__all__ = ["SharedQueue"]


class _Channel(Protocol):
    """The channel's numbers that are read here."""

    maxsize: int

    @property
    def senders(self) -> Collection[object]: ...
    @property
    def used(self) -> int: ...

    def statistics(self) -> ChannelStatistics: ...


@final
class SharedQueue:
    """What waits in *channel* and in the buffer behind it.

    Args:
        channel: the ingest's.
        buffer: returns what the ingest knows of the buffer.
    """

    def __init__(self, channel: _Channel, buffer: Callable[[], BufferStatistics]) -> None:
        self._channel = channel
        self._buffer = buffer
        self._used = 0
        self._room: int | None = None
        self._left = 0

    def refresh(self) -> None:
        """Read the buffer's numbers anew."""
        now = self._buffer()
        if now.used is None or not now.maxsize:
            self._used, self._room, self._left = 0, None, max(self._left, now.appended)
            return
        self._used, self._room = now.used, now.maxsize
        # What was taken out of the buffer. Where other producers fill it, that is what
        # they leave to us. It must not fall, since it stands for a count of ticks.
        self._left = max(self._left, now.appended - now.used)

    @property
    def fill(self) -> float:
        """How full the fuller of the two is: 1 is full."""
        own = self._channel.used / self._channel.maxsize
        return own if self._room is None else max(own, self._used / self._room)

    @property
    def pressing(self) -> int:
        """How many ticks in the channel are as bad as what waits, in ticks.

        As many as are there, unless the buffer is fuller: then the same share.
        """
        if self._room is None:
            return self._channel.used
        return max(self._channel.used, self._used * self._channel.maxsize // self._room)

    @property
    def behind(self) -> tuple[int, int] | None:
        """How many ticks wait in the buffer, and may; ``None``: our queue is fuller."""
        if self._room is None or self.pressing == self._channel.used:
            return None
        return self._used, self._room

    # What the throttle asks of a channel

    @property
    def senders(self) -> Collection[object]:
        """The channel's."""
        return self._channel.senders

    @property
    def used(self) -> int:
        """How many ticks wait in both."""
        return self._channel.used + self._used

    @property
    def maxsize(self) -> int:
        """How many may wait in both, in the proportion in which they wait now.

        So ``used / maxsize`` is how full the fuller one is, while ``used`` still counts
        ticks, from which rates are measured.
        """
        fill = self.fill
        return max(1, round(self.used / fill)) if fill else self._channel.maxsize

    def statistics(self) -> ChannelStatistics:
        """Return the channel's numbers, after reading those of the buffer anew."""
        self.refresh()
        return self._channel.statistics()

    def finished(self) -> int:
        """Return how many ticks have left both, as far as we know."""
        return self._left
