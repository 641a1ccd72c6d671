"""What came from one ingest and is being delivered.

Plan: :meth:`Hand.take` takes as much as is delivered at once out of the link's inbox,
and reads it. It stays in the hand until all of it is delivered.

Rules: sync. What is in the hand is in none of the channel, the inbox and the entries
that are outstanding; only parts of it may be in the channel already.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final, final

import attrs

from ...buffer import Outcomes, Send, Stretch
from ...errors import KilledProcessError
from ...logs import LogLimit, log_event
from ..packing import JunkEntryError, Unpacker
from .link import Arrival, Hold, Link
from .symbols import Symbols

__all__ = ["PART", "Hand", "Mark", "Workers"]

PART: Final = 512
"""About so many ticks are delivered, and acknowledged, at once if workers keep up.

What is freed then is still in the processor's cache, where the next ticks take its
place; and Python's garbage collector never counts enough new objects to look at them.
"""

_logger = logging.getLogger("trio_ticks.brokers")


@attrs.frozen
class Workers:
    """What all ingests of a source share."""

    send: Send
    outcomes: Outcomes
    symbols: Symbols
    limit: LogLimit


@attrs.frozen(slots=True, eq=False)
class Mark:
    """The place of an entry, and all of it, in case it is withdrawn."""

    hold: Hold
    last: int
    stretch: Stretch


@final
class Hand:
    """What of one ingest is being delivered.

    Args:
        link: of the ingest.
        address: of it, for messages.
        index: of it among all ingests.
        shards: how many shards each of them has.
        workers: the channel and what belongs to it.

    Attributes:
        held: the entries, each with its place.
        received, redelivered, dead, junk: counters, as in
            :class:`~trio_ticks.buffer.BufferStatistics`.
    """

    def __init__(self, link: Link, address: str, index: int, shards: int, workers: Workers) -> None:
        self._link = link
        self._address = address
        self._index = index
        self._first_shard = index * shards
        self._workers = workers
        self._unpacker = Unpacker()
        self.held: list[tuple[Arrival, Mark]] = []
        self.received = 0
        self.redelivered = 0
        self.dead = 0
        self.junk = 0

    @property
    def ticks(self) -> int:
        """Return how many ticks are being delivered."""
        return sum(len(mark.stretch.items) for _, mark in self.held)

    def is_ours(self, hold: Hold, shard: int) -> bool:
        """Tell whether an entry of *hold* may be handled here.

        What a run of the ingest sent that is over is nobody else's.
        """
        return hold.run < self._link.run or self._link.holds.get(shard) is hold

    def take(self, going: Collection[int]) -> list[tuple[int, Stretch]]:
        """Take what is to be delivered next; return that of it which has ticks.

        Args:
            going: the shards of which nothing is to be delivered now.
        """
        inbox, parts = self._link.inbox, list[tuple[int, Stretch]]()
        # More than one entry only if all of it finds room: what waits for room could
        # not be left to another worker any more.
        ticks, most = 0, min(PART, self._workers.send.room)
        while inbox and (not ticks or ticks + inbox[0].ticks <= most):
            arrival = inbox[0]
            if not self.is_ours(arrival.hold, arrival.shard):
                inbox.popleft().hold.here -= 1
                continue
            if arrival.shard in going:
                break
            inbox.popleft()
            ticks += arrival.ticks
            stretch = self._read(arrival)
            self.held.append((arrival, Mark(arrival.hold, arrival.last, stretch)))
            if stretch.items:
                parts.append((self._first_shard + arrival.shard, stretch))
        return parts

    def _read(self, arrival: Arrival) -> Stretch:
        """Count what *arrival* brings, and return what of it is to be delivered."""
        stretch = arrival.stretch or self._unpack(arrival)
        self.received += arrival.ticks
        self.redelivered += arrival.again * arrival.ticks
        if arrival.dead:
            error = KilledProcessError(
                "processes died again and again when this tick was handled", deaths=None
            )
            for item in stretch.items:
                self._workers.send.bury(item, error)
            self.dead += arrival.ticks
            return Stretch()
        if stretch.items:
            twice = self._workers.symbols.note(self._index, arrival.hold.run, stretch)
            if twice:
                _tell_twice(twice, self._address, self._workers.limit)
        return stretch

    def _unpack(self, arrival: Arrival) -> Stretch:
        try:
            return self._unpacker.unpack(arrival.body, self._link.clock.shift_s)
        except JunkEntryError as error:
            self.junk += 1
            # No broker keeps dead letters here: they would be in no count of ticks.
            for _ in range(arrival.ticks):
                self._workers.send.bury(None, error)
            if count := self._workers.limit.due("junk", arrival.ticks):
                text = "%d ticks cannot be read, and count as failed: %s"
                log_event(_logger, logging.ERROR, "broker.junk", text, count, error, ticks=count)
            return Stretch()


def _tell_twice(symbols: list[str], address: str, limit: LogLimit) -> None:
    if count := limit.due("twice", len(symbols)):
        log_event(
            _logger,
            logging.WARNING,
            "broker.symbol_twice",
            "%d symbols come from more than one ingest, such as %.100r from %s too: their "
            "order holds for each ingest alone",
            count,
            symbols[0],
            address,
            symbols=count,
        )
