"""Reads records shortly before they are delivered.

What is read, handled and freed before more is read stays in the processor's cache, and
Python's garbage collector never counts enough new objects to look at them.

Rules: in the event loop alone. A record that is not read yet is nobody's: when its
partition goes, it is forgotten, and comes to the next holder.
"""

from __future__ import annotations

import logging
from typing import Final, final

from ...buffer import Send, Stretch
from ...logs import LogLimit, log_event
from ..packing import JunkEntryError, Unpacker
from .consuming import Entry
from .dead_letters import DeadLetters, Letter
from .holding import Holding
from .settings import KafkaSettings

__all__ = ["PART", "Reading"]

PART: Final = 256
"""About so many ticks are read, and settled, at once if workers keep up."""
_MOST_DIFFERENCE_S: Final = 3600.0

_logger = logging.getLogger("trio_ticks.brokers")


@final
class Reading:
    """Reads the records that :class:`Holding` keeps until then.

    Args:
        kafka: the buffer.
        send: the workers' channel.
        holding: is given what is read.
        letters: are given what cannot be read.

    Attributes:
        mean: how many ticks a record has, about.
        junk: how many records could not be read.
        difference_s: our clock less the ingest's, in seconds, as far as it is known.
    """

    def __init__(
        self, kafka: KafkaSettings, send: Send, holding: Holding, letters: DeadLetters
    ) -> None:
        self._kafka = kafka
        self._send = send
        self._holding = holding
        self._letters = letters
        self._unpacker = Unpacker()
        self._limit = LogLimit(send.clock.now)
        self.mean = float(kafka.pack)
        self.junk = 0
        self.difference_s = 0.0

    @property
    def waiting(self) -> int:
        """Return how many ticks are not read yet, about."""
        return round(len(self._holding.unread) * self.mean)

    def read(self) -> bool:
        """Read the next records; return whether there were any."""
        ticks, records, unread = 0, 0, self._holding.unread
        while unread and ticks < PART:
            entry = unread.popleft()
            records += 1
            try:
                stretch = self._unpacker.unpack(entry.body)
            except JunkEntryError as error:
                self._set_aside(entry, error)
                continue
            ticks += len(stretch.items)
            self._to_our_clock(stretch)
            self._holding.receive(entry.shard, entry.offset, stretch)
        if ticks:
            self.mean = max(1.0, 0.7 * self.mean + 0.3 * ticks / records)
        return bool(records)

    def _to_our_clock(self, stretch: Stretch) -> None:
        """Take our clock to be behind if a stamp lies in the future."""
        if not stretch.arrived:
            return
        now = self._send.clock.wall()
        if stretch.arrived[-1] + self.difference_s > now:
            self.difference_s = max(now - stretch.arrived[-1], -_MOST_DIFFERENCE_S)
        if self.difference_s:
            difference_s = self.difference_s
            stretch.arrived = [min(now, time + difference_s) for time in stretch.arrived]

    def _set_aside(self, entry: Entry, error: JunkEntryError) -> None:
        self.junk += 1
        why = str(error)
        due = self._limit.due("junk")
        if due:
            text = "%d records cannot be read, and go to %s: at %d of partition %d, %s"
            shown = (due, self._kafka.dead_topic, entry.offset, entry.shard, why)
            log_event(_logger, logging.WARNING, "broker.junk", text, *shown, records=due)
        token = object()
        self._holding.junk(entry.shard, entry.offset, token)
        key = str(entry.shard)
        self._letters.put(Letter(entry.body, key, "junk", why, entry.shard, entry.offset, token))
