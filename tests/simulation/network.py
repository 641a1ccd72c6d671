"""A network in memory, with faults at any byte.

Plan: a connection has two ways, down (to the client) and up. Each is a queue of bytes
that are due at some time. Faults are drawn before, by the number of the connection, and
happen at a byte or at a write.

Rules: as TCP does it. What was sent before an orderly end arrives before that; a reset
destroys what is under way; a muted way takes bytes until its buffer is full, and then
lets nobody go on, and nobody is told.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal, final

import attrs
import trio

__all__ = ["Connection", "End", "Network", "Way", "WireFault"]

Side = Literal["down", "up"]


@attrs.frozen(kw_only=True)
class WireFault:
    """What happens to one way of one connection."""

    kind: Literal["reset", "eof", "mute", "corrupt", "insert", "slow"]
    connection: int
    """Its number: the first is 0."""
    side: Side = "down"
    at: int = 0
    """At which byte, or for ``insert`` before which write, it happens."""
    data: bytes = b""
    """What is inserted."""
    bit: int = 0
    """Which bit of the byte is wrong."""
    delay_s: float = 0.0
    """How long bytes take on a slow way, in seconds."""
    piece: int = 1 << 16
    """The most bytes that a slow way hands over at once."""
    room: int = 1 << 16
    """How many bytes may be under way on a slow way."""


@final
class Way:
    """One direction of a connection."""

    def __init__(self, faults: Sequence[WireFault]) -> None:
        self._faults = sorted(
            (each for each in faults if each.kind not in ("slow", "insert")), key=lambda f: f.at
        )
        self._inserts = {each.at: each.data for each in faults if each.kind == "insert"}
        slow = next((each for each in faults if each.kind == "slow"), None)
        self._delay_s = 0.0 if slow is None else slow.delay_s
        self.piece: Final = 1 << 16 if slow is None else slow.piece
        self._room: Final = 1 << 16 if slow is None else slow.room
        self._queue: deque[tuple[float, bytes]] = deque()
        self._sent = self._writes = 0
        self.under_way = 0
        self._bell = trio.Event()
        self.is_muted = self.is_ended = self.is_reset = self.is_left = False
        """Of the last three: the sender has ended it; it is torn; nobody reads it any
        more."""

    def ring(self) -> None:
        """Have both ends look again."""
        bell, self._bell = self._bell, trio.Event()
        bell.set()

    def put(self, data: bytes, now: float) -> None:
        """Send *data*, with what the faults make of it."""
        data = self._inserts.pop(self._writes, b"") + data
        self._writes += 1
        while self._faults and self._faults[0].at < self._sent + len(data):
            fault = self._faults.pop(0)
            at = max(0, fault.at - self._sent)
            match fault.kind:
                case "corrupt":
                    wrong = bytes((data[at] ^ (1 << fault.bit),))
                    data = data[:at] + wrong + data[at + 1 :]
                case "mute":
                    self._push(data[:at], now)
                    self.is_muted = True
                    data = b""
                    break
                case _:
                    self._push(data[:at], now)
                    self.end(reset=fault.kind == "reset")
                    return
        self._push(data, now)

    def _push(self, data: bytes, now: float) -> None:
        self._sent += len(data)
        if data and not self.is_muted:
            self._queue.append((now + self._delay_s, data))
            self.under_way += len(data)
            self.ring()

    def end(self, *, reset: bool = False) -> None:
        """Send no more; with *reset* what is under way is lost."""
        if reset:
            self.is_reset = True
            self._queue.clear()
            self.under_way = 0
        self.is_ended = True
        self.ring()

    def leave(self) -> None:
        """Read no more."""
        self.is_left = True
        self._queue.clear()
        self.under_way = 0
        self.ring()

    @property
    def is_unread(self) -> bool:
        """Whether there is something to be read now."""
        return bool(self._queue) and self._queue[0][0] < trio.current_time()

    @property
    def is_torn(self) -> bool:
        """Whether who sends gets an error."""
        return self.is_reset or self.is_left or self.is_ended

    async def wait_for_room(self) -> None:
        """Wait until not too much is under way.

        Cancellation: nothing is taken back.
        """
        while not self.is_torn and (self.under_way > self._room or self.is_muted):
            if self.is_muted and self._sent < self._room:
                return
            await self._bell.wait()

    async def take(self, most: int) -> bytes | None:
        """Return the bytes that are due; ``b""`` at the end, ``None`` if it is torn.

        Cancellation: nothing is taken.
        """
        while True:
            if self.is_reset:
                return None
            due = self._queue[0][0] if self._queue else math.inf
            if due <= trio.current_time():
                break
            if self.is_ended and not self._queue and not self.is_muted:
                return b""
            with trio.move_on_at(due):
                await self._bell.wait()
        # What came by several writes is one piece for the reader.
        now, most, data = trio.current_time(), min(most, self.piece), b""
        while self._queue and self._queue[0][0] <= now and len(data) < most:
            data += self._queue.popleft()[1]
        if len(data) > most:
            self._queue.appendleft((due, data[most:]))
        data = data[:most]
        self.under_way -= len(data)
        self.ring()
        return data


@final
class End(trio.abc.HalfCloseableStream):
    """One end of a connection."""

    def __init__(self, sends: Way, receives: Way) -> None:
        self._sends = sends
        self._receives = receives
        self._is_closed = False
        self._is_sending = self._is_receiving = False
        self.read = bytearray()
        """All that was read at this end."""
        self.saw_end = False
        """Whether the other end, or the network, ended what is read here."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_sending:
            raise trio.BusyResourceError("two tasks send at once")
        self._is_sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_open()
            if self._sends.is_torn:
                raise trio.BrokenResourceError("torn")
            self._sends.put(bytes(data), trio.current_time())
            await self._sends.wait_for_room()
            self._check_open()
            if self._sends.is_reset or self._sends.is_left:
                raise trio.BrokenResourceError("torn")
        finally:
            self._is_sending = False

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check_open()
        await self._sends.wait_for_room()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check_open()
        self._sends.end()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._is_receiving:
            raise trio.BusyResourceError("two tasks read at once")
        self._is_receiving = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_open()
            data = await self._receives.take(1 << 16 if max_bytes is None else max_bytes)
            self._check_open()
        finally:
            self._is_receiving = False
        self.saw_end = self.saw_end or not data
        if data is None:
            raise trio.BrokenResourceError("reset")
        self.read += data
        return data

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._sends.end()
            self._receives.leave()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("closed")


@final
class Connection:
    """Two ends, with the faults of their ways."""

    def __init__(self, number: int, faults: Sequence[WireFault]) -> None:
        mine = [each for each in faults if each.connection == number]
        down, up = (Way([f for f in mine if f.side == side]) for side in ("down", "up"))
        self.client: Final = End(up, down)
        self.server: Final = End(down, up)
        self.ways: Final = (down, up)


@final
class Network(trio.abc.Listener[trio.abc.Stream]):
    """Connects a feed with an exchange, which listens here.

    Args:
        faults: of the connections.
    """

    def __init__(self, faults: Sequence[WireFault]) -> None:
        self._faults = faults
        self._arrivals_in, self._arrivals = trio.open_memory_channel[End](math.inf)
        self.connections: list[Connection] = []
        self.refuses = False
        """Whether nobody can be reached."""

    async def connect(self, _host: str, _port: int) -> trio.abc.Stream:
        """Take the place of :func:`trio.open_tcp_stream`.

        Cancellation: there is no connection.
        """
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise ConnectionRefusedError(111, "Connection refused")
        connection = Connection(len(self.connections), self._faults)
        self.connections.append(connection)
        self._arrivals_in.send_nowait(connection.server)
        return connection.client

    async def accept(self) -> trio.abc.Stream:
        """Return the server's end of the next connection.

        Cancellation: nothing is taken.
        """
        return await self._arrivals.receive()

    async def aclose(self) -> None:
        """Do nothing: the network outlives whoever listens.

        Cancellation: nothing happens.
        """
        await trio.lowlevel.checkpoint()
