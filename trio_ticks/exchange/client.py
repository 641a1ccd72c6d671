"""One client of the exchange: its subscription, its bounded buffer, and the one stream that two writers share.

Rules: whoever writes to the stream writes whole frames and holds its lock, so that trio-websocket's control frames and our
batches never mix within a frame. Offering a batch never waits and never takes more memory than the limit; only the client's own
writer waits for the client.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from .config import ClientLimits
from .pacing import Pacer
from .wire import CLOSE, close_frame

__all__ = ["Batch", "Client", "FrameStream"]

PONG = 0x8A
"""First byte of a pong."""

MAX_WRITE = 1 << 16
"""About how many bytes go into one write: control frames wait for no more than one of them."""


class FrameStream(trio.abc.Stream):
    """The transport as trio-websocket sees it: each ``send_all`` is whole, however many tasks send, and nothing follows a Close.

    trio-websocket serialises one event into one ``send_all``, so that what it writes always is whole frames (or the handshake); our
    batches are whole frames too. The lock makes each of them one piece.

    Our own Close goes past trio-websocket, too: it fails where a ping comes in after its Close, and would reset the connection with ticks
    still under way. So it learns of the closing from the client's answer, and what it says after our Close is swallowed.

    Args:
        transport: the TCP or TLS stream.
    """

    def __init__(self, transport: trio.abc.Stream) -> None:
        self._transport = transport
        self._lock = trio.StrictFIFOLock()
        self.on_lost: Callable[[], None] = lambda: None
        """Called when the peer has closed its side, or we have closed ours."""
        self.closing = False
        """A Close has been sent, or is being sent."""
        self.answer_pings = True
        """False swallows the pongs, as a venue that has stopped answering does."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send whole frames, unless a Close has been sent.

        Cancellation: a frame may have been sent in part; the connection is of no use any more.
        """
        async with self._lock:
            if self.closing or not data or (data[0] == PONG and not self.answer_pings):
                return
            self.closing = data[0] == CLOSE
            await self._transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport can take something."""
        await self._transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive what is there; the end of the stream is reported to ``on_lost`` as well."""
        data: bytes | bytearray = b""
        try:
            data = await self._transport.receive_some(max_bytes)
        finally:
            if not data:
                self.on_lost()
        return data

    async def aclose(self) -> None:
        """Close the transport at once; a write that is under way fails."""
        self.on_lost()
        await self._transport.aclose()


@attrs.define(slots=True)
class Batch:
    """Ticks as frames, encoded once for all clients, with the symbol of each."""

    symbols: Sequence[str]
    frames: Sequence[bytes]
    listed: frozenset[str]
    """All symbols that there are; a client that has them all gets the batch as a whole."""
    _cut: dict[frozenset[str], tuple[Sequence[str], Sequence[bytes], bytes]] = attrs.field(factory=dict, init=False)

    def cut(self, subscription: frozenset[str]) -> tuple[Sequence[str], Sequence[bytes], bytes]:
        """Return symbols, frames and the frames' bytes in a row of what is subscribed to."""
        found = self._cut.get(subscription)
        if found is None:
            if subscription >= self.listed:
                symbols, frames = self.symbols, self.frames
            else:
                pairs = [pair for pair in zip(self.symbols, self.frames, strict=True) if pair[0] in subscription]
                symbols, frames = [symbol for symbol, _ in pairs], [frame for _, frame in pairs]
            found = self._cut[subscription] = (symbols, frames, b"".join(frames))
        return found


class Client:
    """What the exchange knows about one connection.

    Args:
        connection: the accepted WebSocket.
        stream: the stream under it.
        limits: what it may cost.
        scope: cancelling it ends the connection without a farewell.
        on_room: called when half the buffer has become free.
    """

    def __init__(
        self,
        connection: WebSocketConnection,
        stream: FrameStream,
        limits: ClientLimits,
        *,
        scope: trio.CancelScope,
        on_room: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.stream = stream
        self.subscription: frozenset[str] = frozenset()
        self.messages_sent = 0
        """Messages handed to the system."""
        self.skipped = 0
        """Ticks that found no room in the buffer."""
        self.queued: Counter[str] = Counter()
        """Ticks that were put into the buffer, by symbol."""
        self.end_reason: str | None = None
        self.gone = trio.Event()
        self._limits = limits
        self._scope = scope
        self._on_room = on_room
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._waiting_bytes = 0
        self._wake = trio.Event()
        self._empty = trio.Event()
        self._empty.set()
        self._slow_since = math.inf
        self._pacer: Pacer | None = None
        self._throttled = 0

    @property
    def throttled(self) -> int:
        """Ticks that were left out since the client asked for no more."""
        return self._throttled + (0 if self._pacer is None else self._pacer.replaced)

    @property
    def max_rate(self) -> float | None:
        """How many ticks a second it wants at most; ``None``: all it subscribed to."""
        return None if self._pacer is None else self._pacer.max_rate

    def follow(self, subscription: frozenset[str], max_rate: float | None) -> None:
        """Give the client what it wants from now on."""
        gone, self.subscription = self.subscription - subscription, subscription
        if self._pacer is not None:
            self._pacer.forget(gone)
        if max_rate is None:
            self._lift_limit()
        elif self._pacer is None:
            self._pacer = Pacer(max_rate, trio.current_time())
        else:
            self._pacer.max_rate = max_rate

    def _lift_limit(self) -> None:
        """Queue what had to wait for its turn."""
        if self._pacer is not None:
            symbols, frames = self._pacer.flush()
            self._throttled += self._pacer.replaced
            self._pacer = None
            self._put(symbols, frames, b"".join(frames))

    @property
    def has_room(self) -> bool:
        """Half the buffer is free."""
        return 2 * self._waiting_bytes <= self._limits.buffer_bytes

    def wants_more_at(self, now: float) -> float:
        """Return when more ticks would be of use: *now*, when its turn comes if it asked for less, or never as long as it has no room."""
        if not self.has_room:
            return math.inf
        return now if self._pacer is None else self._pacer.next_turn

    @property
    def appetite(self) -> float:
        """How many ticks at once are of use; a few for each that it asked for, since not all are of its symbols, or of different ones."""
        return math.inf if self._pacer is None else 4 * self._pacer.turn

    def offer(self, batch: Batch) -> None:
        """Queue what the client subscribed to, as much as there is room for; skip and count the rest."""
        symbols, frames, blob = batch.cut(self.subscription)
        if not frames:
            return
        if self._pacer is not None:
            symbols, frames = self._pacer.pass_on(symbols, frames, trio.current_time())
            blob = b"".join(frames)
        self._put(symbols, frames, blob)

    def _put(self, symbols: Sequence[str], frames: Sequence[bytes], blob: bytes) -> None:
        """Queue what there is room for; skip and count the rest."""
        if not frames:
            return
        room = self._limits.buffer_bytes - self._waiting_bytes
        if len(blob) > room:
            fitting = 0
            for frame in frames:
                if len(frame) > room:
                    break
                room -= len(frame)
                fitting += 1
            self._skip(len(frames) - fitting)
            symbols, blob = symbols[:fitting], b"".join(frames[:fitting])
            if not fitting:
                return
        self.queued.update(symbols)
        self._queue(blob, len(symbols))

    def inject(self, frame: bytes) -> None:
        """Queue one frame whatever it is, even where there is no room."""
        self._queue(frame, 1)

    def kick(self, reason: str) -> None:
        """End the connection without a farewell, as a network failure does."""
        self.end_reason = self.end_reason or reason
        self._scope.cancel()

    async def say_goodbye(self, reason: str, *, code: int, text: str) -> None:
        """Write what waits for as long as the client goes on taking it, then close the WebSocket, and wait until it is gone.

        Cancellation: the connection is closed without a farewell.
        """
        self.end_reason = self.end_reason or reason
        self._lift_limit()
        try:
            await self._drain()
            with trio.move_on_after(self._limits.close_timeout_s):
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self.stream.send_all(close_frame(code, text))
                await self.gone.wait()
        finally:
            self._scope.cancel()
        await self.gone.wait()

    async def write(self) -> None:
        """Write the buffer to the client, for as long as the connection lives.

        Cancellation: ends it; the connection is of no use any more.
        """
        while True:
            while not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            parts, count, size = [], 0, 0
            while self._waiting and size < MAX_WRITE:
                blob, messages = self._waiting.popleft()
                parts.append(blob)
                count += messages
                size += len(blob)
            try:
                await self.stream.send_all(b"".join(parts))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # trio-websocket's reader finds out too, and ends the connection.
            if self.stream.closing:
                return
            self.messages_sent += count
            self._waiting_bytes -= size
            if not self._waiting_bytes:
                self._slow_since = math.inf
                self._empty.set()
            if self.has_room:
                self._on_room()

    async def ping(self, interval: float, patience: float) -> None:
        """Ping every *interval* seconds, and end the connection when a ping is not answered within *patience* seconds.

        Cancellation: ends it.
        """
        while True:
            await trio.sleep(interval)
            with trio.move_on_after(patience) as scope:
                try:
                    await self.connection.ping()
                except ConnectionClosed:
                    return
            if scope.cancelled_caught and not self.stream.closing:
                self.kick("ping_timeout")

    def close_reason(self) -> str:
        """Say why the connection ended: our reason, or ``client`` (it said goodbye), or ``network`` (it did not)."""
        if self.end_reason:
            return self.end_reason
        closed = self.connection.closed
        return "network" if closed is None or closed.code == 1006 else "client"

    async def _drain(self) -> None:
        patience = math.inf if self._limits.slow_timeout_s is None else self._limits.slow_timeout_s
        before = math.inf
        while 0 < self._waiting_bytes < before:
            before = self._waiting_bytes
            with trio.move_on_after(patience):
                await self._empty.wait()

    def _queue(self, blob: bytes, messages: int) -> None:
        self._waiting.append((blob, messages))
        self._waiting_bytes += len(blob)
        self._empty = trio.Event() if self._empty.is_set() else self._empty
        self._wake.set()

    def _skip(self, count: int) -> None:
        self.skipped += count
        now = trio.current_time()
        self._slow_since = min(self._slow_since, now)
        if self._limits.slow_timeout_s is not None and now - self._slow_since >= self._limits.slow_timeout_s:
            self.kick("slow_consumer")
