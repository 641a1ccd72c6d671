"""What one shard of an ingest has in the window: sent, or waiting to be sent.

Plan: a line is two queues, of the entries that its holder was sent and of those that
wait. An acknowledgement removes from the front of what was sent. When the holder is
lost, what it was sent goes back to the front of what waits, in order.

If the holder crashed, one of the ticks that it was sent may have been the reason. They
are cut into entries of one tick, which are sent *singly*: each only when the one before
it is acknowledged. Each counts the deaths of workers that had it. A tick with two
deaths is a *suspect*, which is sent *alone*: while no other single tick is out at its
worker. So a tick is given up only for a death at which it was the only one that was
sent again, and its neighbours never share its fate.

Rules: sans-I/O. Sequences count ticks, from 1. Nothing leaves a line unless it is
acknowledged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final, final

import attrs

from ...buffer import Stretch
from ..packing import JunkEntryError, Packer, Record, Unpacker

__all__ = ["SUSPECT", "Line", "Sent", "Splitter"]

SUSPECT: Final = 2
"""After this many deaths of workers that had it a tick is sent alone."""


@attrs.define(slots=True, eq=False)
class Sent:
    """One entry, which a worker may have been sent."""

    first: int
    """The sequence of its first tick."""
    ticks: int
    body: bytes
    arrived: float
    """When its first tick arrived at the ingest."""
    done: int = 0
    """How many of its first ticks are acknowledged."""
    again: bool = False
    """Whether a worker was sent it before its holder of now."""
    single: bool = False
    alone: bool = False
    """Whether it was sent while no other single tick was out."""
    deaths: int = 0
    dead: bool = False
    """Whether it is given up: its holder only counts it."""

    @property
    def last(self) -> int:
        """Return the sequence of its last tick."""
        return self.first + self.ticks - 1

    @property
    def left(self) -> int:
        """Return how many of its ticks are not acknowledged."""
        return self.ticks - self.done

    @property
    def is_suspect(self) -> bool:
        """Tell whether it has to be sent alone."""
        return self.single and not self.dead and self.deaths >= SUSPECT


@final
class Splitter:
    """Cuts entries: into single ticks, or at a tick."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._unpacker = Unpacker()

    def item(self, sent: Sent) -> Any:
        """Return the first tick of *sent*; ``None`` if it cannot be read."""
        try:
            return self._unpacker.unpack(sent.body).items[0]
        except (JunkEntryError, IndexError):
            return None

    def rest(self, sent: Sent) -> Sent:
        """Return what is left of an entry that is acknowledged in part."""
        return self._cut(sent, sent.left)[0] if sent.done else sent

    def singles(self, sent: Sent) -> list[Sent]:
        """Return the ticks of *sent* that are not acknowledged, an entry each."""
        return self._cut(sent, 1)

    def _cut(self, sent: Sent, size: int) -> list[Sent]:
        found: list[Sent] = []
        try:
            stretch = self._unpacker.unpack(sent.body)
        except JunkEntryError:
            # A kind of item that this program cannot read back: it stays whole.
            return [sent]
        for start in range(sent.done, sent.ticks, size):
            part = Stretch(
                stretch.items[start : start + size],
                stretch.arrived[start : start + size],
                [(at - start, gap) for at, gap in stretch.gaps if start <= at < start + size],
            )
            records, _refused = self._packer.pack(part)
            if len(records) != 1:
                return [sent]
            first = sent.first + start
            found.append(Sent(first, records[0].ticks, records[0].body, part.arrived[0]))
        return found


@final
class Line:
    """The entries of one shard.

    Attributes:
        ticks: how many ticks of it are not acknowledged.
    """

    __slots__ = ("_next", "out", "ticks", "waiting")

    def __init__(self) -> None:
        self.out: deque[Sent] = deque()
        """Sent to the holder, oldest first."""
        self.waiting: deque[Sent] = deque()
        """Not sent to it yet, oldest first."""
        self.ticks = 0
        self._next = 1

    @property
    def next_sequence(self) -> int:
        """Return the sequence of the first tick that is not acknowledged."""
        for sent in self:
            return sent.first + sent.done
        return self._next

    @property
    def waiting_ticks(self) -> int:
        """Return how many ticks wait to be sent."""
        return sum(sent.left for sent in self.waiting)

    def __iter__(self) -> Iterator[Sent]:
        yield from self.out
        yield from self.waiting

    def oldest(self) -> float | None:
        """Return when the oldest tick of the line arrived."""
        return next((sent.arrived for sent in self), None)

    def append(self, record: Record, arrived: float) -> None:
        """Add a record at the end."""
        self.waiting.append(Sent(self._next, record.ticks, record.body, arrived))
        self._next += record.ticks
        self.ticks += record.ticks

    def following(self) -> Sent | None:
        """Return the entry that may be sent next; ``None`` if none may be."""
        if not self.waiting:
            return None
        sent = self.waiting[0]
        if self.out and (sent.single or self.out[-1].single):
            return None
        return sent

    def send(self) -> Sent:
        """Take the entry that is sent now out of those that wait."""
        sent = self.waiting.popleft()
        self.out.append(sent)
        return sent

    def acknowledge(self, sequence: int) -> tuple[int, list[Sent]]:
        """Take out what is finished, up to *sequence*; what was not sent stays.

        Returns:
            How many ticks that were, and the entries that are finished as a whole.
        """
        count = 0
        finished: list[Sent] = []
        out = self.out
        while out:
            sent = out[0]
            if sent.last <= sequence:
                count += sent.left
                finished.append(out.popleft())
                continue
            if sent.first + sent.done <= sequence:
                done = sequence - sent.first + 1
                count += done - sent.done
                sent.done = done
            break
        self.ticks -= count
        return count, finished

    def take_back(self, splitter: Splitter, *, crashed: bool) -> list[Sent]:
        """Have everything wait again that the lost holder was sent.

        Args:
            splitter: cuts what is acknowledged in part, and what is sent singly.
            crashed: whether one of the ticks may have been the reason of the loss.

        Returns:
            The single entries that were out when the holder crashed.
        """
        were_out = list(self.out)
        self.out.clear()
        singles: list[Sent] = []
        back: list[Sent] = []
        for sent in were_out:
            if not crashed:
                back.append(splitter.rest(sent))
            elif sent.single:
                back.append(sent)
                singles.append(sent)
            else:
                back += splitter.singles(sent)
        for sent in back:
            sent.again = True
            if crashed and not sent.dead:
                sent.single = True
                sent.deaths += 1
        self.waiting.extendleft(reversed(back))
        return singles
