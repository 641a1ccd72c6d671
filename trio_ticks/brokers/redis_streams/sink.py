"""The ingest's end: takes stretches from the channel and appends them.

Plan: one round trip appends all that was taken, a record for each shard and up to
``pack`` ticks; if they are large, several do. Records are numbered, and the server
keeps the last number that it took: what was sent and not confirmed is sent again, and
recognised.

Rules: nothing is taken from the channel while the server is away, and one tick at most
while it is full, so that the channel's overflow strategy decides. What was taken is
``in_doubt`` until it is confirmed. Times of arrival are written in the server's time.
"""

from __future__ import annotations

import logging
import secrets
from typing import Final, final

import trio

from ...buffer import BufferStatistics, Receive, Stretch
from ...logs import LogLimit, log_event
from ...uninterrupted import uninterrupted
from ..packing import Packer, Record
from .clocks import ServerClock
from .connection import LostError
from .link import Link
from .options import Options
from .scripts import APPEND

__all__ = ["RedisSink"]

_LOGGER: Final = logging.getLogger("trio_ticks.brokers")
_MOST: Final = 8192
"""Ticks that are taken at once, at most."""
_MOST_BYTES: Final = 4_000_000
"""Bytes that one round trip appends, about: what takes longer than the link's patience
would be sent again for ever."""
_REMEMBER_MS: Final = 86_400_000
"""How long the server remembers a producer: what is in doubt for longer may be appended
twice."""
_IDLE_S: Final = 1.0
"""After so long without a tick the server is asked how full it is."""
_FULL_WAITS_S: Final = (0.002, 0.05)
"""The first and the longest wait for room, in seconds."""
_MORE_ROOM_S: Final = (0.002, 0.02, 0.05)
"""How long a nearly full server is left to drain before ticks are taken for the little
room that there is: until the first look, the longest time between two looks, and all of
it, in seconds. The workers have the rest of the buffer to do meanwhile."""


@uninterrupted
@final
class RedisSink:
    """The broker's end at an ingest. Made by :meth:`RedisStreams.sink`."""

    def __init__(self, buffer: Options) -> None:
        self._buffer = buffer
        # Never of the pipeline's source of chance: two ingests with one seed would take
        # each other's records for their own.
        self._keys = [
            buffer.keys.state,
            buffer.keys.producer(secrets.token_hex(8)),
        ]
        self._streams = buffer.keys.streams
        self._times = ServerClock()
        self._packer = Packer(buffer.shards, buffer.pack)
        self._link: Link | None = None
        self._receive: Receive | None = None
        self._sequence = 0
        self._room = 0
        self._asked = False
        self._appended = self._in_doubt = self._duplicates = self._failed = 0
        self._full_s = 0.0

    async def run(self, receive: Receive, /) -> None:
        """Append what comes out of *receive*, until its end.

        Raises:
            BrokerError: the server refuses us.

        Cancellation: what was taken and not confirmed stays ``in_doubt``.
        """
        link = Link(self._buffer, receive.clock, receive.random, self._times, told=True)
        self._link, self._receive = link, receive
        limit = LogLimit(receive.clock.now)
        try:
            await link.connect()
            await self._append([])
            while True:
                await self._wait_for_room(receive)
                stretch = None
                with trio.move_on_after(_IDLE_S):
                    # One where there is no room: else the end would not be seen.
                    stretch = await receive.take(max(1, min(_MOST, self._room)))
                if stretch is None:
                    await self._append([])
                    continue
                self._in_doubt = len(stretch.items)
                await self._append(self._records(stretch, limit))
        except trio.EndOfChannel:
            return
        finally:
            await link.aclose()

    async def _wait_for_room(self, receive: Receive) -> None:
        """Wait a little where there is room for few ticks.

        Each entry has its price, and few ticks make small entries.
        """
        shortest_s, longest_s, patience_s = _MORE_ROOM_S
        look_s = shortest_s
        enough = min(_MOST, self._buffer.maxsize // 4)
        until = receive.clock.now() + patience_s
        while self._room < enough and not receive.is_over:
            before = self._room
            await trio.sleep(look_s)
            await self._append([])
            # Until the workers have made room for the rest, at the pace since then.
            gained, missing = self._room - before, enough - self._room
            look_s = look_s * missing / gained if gained > 0 else longest_s
            look_s = min(max(look_s, shortest_s), longest_s)
            if receive.clock.now() >= until:
                return

    def _records(self, stretch: Stretch, limit: LogLimit) -> list[tuple[int, Record]]:
        difference = self._times.difference_s or 0.0
        arrived = [time - difference for time in stretch.arrived]
        records, refused = self._packer.pack(Stretch(stretch.items, arrived, stretch.gaps))
        if refused:
            self._failed += len(refused)
            self._in_doubt -= len(refused)
            if count := limit.due("refused", len(refused)):
                log_event(
                    _LOGGER,
                    logging.ERROR,
                    "broker.not_written",
                    "%d ticks cannot be written: %s",
                    count,
                    refused[0][1],
                    count=count,
                )
        first = self._sequence + 1
        self._sequence += len(records)
        return list(enumerate(records, first))

    async def _append(self, records: list[tuple[int, Record]]) -> None:
        """Append *records*; wait for the server, and until it has room for them."""
        link, receive = self._link, self._receive
        assert link is not None
        assert receive is not None
        wait_s, longest_s = _FULL_WAITS_S
        while True:
            some = _first(records)
            # A server reads each key of a call, so it is given those that are needed.
            places: dict[int, int] = {}
            flat: list[bytes | str | int] = []
            for number, record in some:
                place = places.setdefault(record.shard, 3 + len(places))
                flat += (number, place, record.ticks, record.body)
            keys = [*self._keys, *map(self._streams.__getitem__, places)]
            try:
                taken, again, room, *_ = await link.call_timed(
                    APPEND.call(keys, self._buffer.maxsize, _REMEMBER_MS, *flat), 3
                )
            except LostError:
                await link.connect()
                continue
            ticks = sum(record.ticks for _, record in records[:taken])
            self._appended += ticks
            self._in_doubt -= ticks
            self._duplicates += again
            self._room, self._asked = max(0, room), True
            records = records[taken:]
            if not records:
                return
            if taken == len(some):
                continue
            began = receive.clock.now()
            try:
                await trio.sleep(wait_s)
            finally:
                self._full_s += receive.clock.now() - began
            wait_s = min(2 * wait_s, longest_s)

    def statistics(self) -> BufferStatistics:
        """Return the counters of this end."""
        link, maxsize = self._link, self._buffer.maxsize
        receive = self._receive
        return BufferStatistics(
            connected=link is not None and link.connected,
            reconnects=0 if link is None else max(0, link.connections - 1),
            round_trip_s=None if link is None else link.round_trip_s,
            maxsize=maxsize,
            used=maxsize - self._room if self._asked else None,
            appended=self._appended,
            in_doubt=self._in_doubt,
            duplicates=self._duplicates,
            full_s=self._full_s,
            failed=self._failed,
            clock_difference_s=self._times.difference_s,
            clock_error_s=(None if receive is None else self._times.error_s(receive.clock.wall())),
        )


def _first(records: list[tuple[int, Record]]) -> list[tuple[int, Record]]:
    """Return as many of *records* as are sent at once: one at least, if any."""
    size = 0
    for count, (_, record) in enumerate(records):
        size += len(record.body)
        if count and size > _MOST_BYTES:
            return records[:count]
    return records
