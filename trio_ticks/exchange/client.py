"""One client of the exchange: its subscription, its buffer, and its stream.

Rules: each write to the stream is made of whole frames and holds the stream's lock, so
that trio-websocket's control frames and our batches never mix within a frame. Offering
a batch never waits and never takes more memory than the limit; only the client's own
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

from ..feeds.websocket.frames import close_frame
from .dialect import Dialect
from .limits import ClientLimits
from .pacing import Pacer
from .venues import Session
from .wire import CLOSE

__all__ = ["Batch", "Client", "FrameStream"]

PONG = 0x8A
"""First byte of a pong."""

MAX_WRITE = 1 << 16
"""About how many bytes go into one write; a control frame waits for at most one."""


class FrameStream(trio.abc.Stream):
    """The transport as trio-websocket sees it: each ``send_all`` is whole.

    trio-websocket serialises one event into one ``send_all``, so what it writes is
    always whole frames (or the handshake). Our batches are whole frames too. The lock
    makes each write one piece, however many tasks send.

    Our own Close bypasses trio-websocket, which fails if a ping arrives after its
    Close, and would then reset the connection while ticks are still under way. So
    trio-websocket learns of the closing from the client's answer, and this class
    swallows all that it sends after our Close.

    Args:
        transport: the TCP or TLS stream.
    """

    def __init__(self, transport: trio.abc.Stream) -> None:
        self._transport = transport
        self._lock = trio.StrictFIFOLock()
        self.on_lost: Callable[[], None] = lambda: None
        """Called when the peer has closed its side, or we have closed ours."""
        self.closing = False
        """Whether a Close has been sent, or is being sent."""
        self.answer_pings = True
        """False swallows the pongs, as a venue does that has stopped answering."""
        self.handshake: bytearray | None = bytearray()
        """What the client sends; ``None`` once the handshake is over."""
        self._unread = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send whole frames, unless a Close has been sent.

        Cancellation: part of a frame may have been sent, so the connection is of no use
            any more.
        """
        async with self._lock:
            if self.closing or not data or (data[0] == PONG and not self.answer_pings):
                return
            self.closing = data[0] == CLOSE
            await self._transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport can take data.

        Cancellation: harmless.
        """
        await self._transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive what is there; the stream's end is reported to ``on_lost`` too.

        Cancellation: ends the use of the stream: ``on_lost`` is called.
        """
        if self._unread:
            again, self._unread = self._unread, b""
            await trio.lowlevel.checkpoint()
            return again
        data: bytes | bytearray = b""
        try:
            data = await self._transport.receive_some(max_bytes)
            if self.handshake is not None:
                self.handshake += data
        finally:
            if not data:
                self.on_lost()
        return data

    def unread(self, data: bytes) -> None:
        """Have *data* received again, before what comes next."""
        self._unread = data

    async def aclose(self) -> None:
        """Close the transport at once; a write that is under way fails."""
        self.on_lost()
        await self._transport.aclose()


@attrs.define(slots=True)
class Batch:
    """Messages as frames, encoded once for all clients, with the key of each.

    In the flat protocol a key is a symbol.
    """

    symbols: Sequence[str]
    frames: Sequence[bytes]
    listed: frozenset[str]
    """All keys that there are; a subscriber to all of them gets the batch uncut."""
    _cut: dict[frozenset[str], tuple[Sequence[str], Sequence[bytes], bytes]] = attrs.field(
        factory=dict, init=False
    )

    def cut(self, subscription: frozenset[str]) -> tuple[Sequence[str], Sequence[bytes], bytes]:
        """Return the symbols, the frames and the joined frames of a subscription.

        The result is kept, since many clients may have the same subscription.
        """
        found = self._cut.get(subscription)
        if found is None:
            if subscription >= self.listed:
                symbols, frames = self.symbols, self.frames
            else:
                pairs = [
                    pair
                    for pair in zip(self.symbols, self.frames, strict=True)
                    if pair[0] in subscription
                ]
                symbols, frames = [symbol for symbol, _ in pairs], [frame for _, frame in pairs]
            found = self._cut[subscription] = (symbols, frames, b"".join(frames))
        return found


class Client:
    """The state of one connection, and the buffer of what it is still to get.

    Args:
        connection: the accepted WebSocket.
        stream: the stream under it.
        limits: how much memory and time the client may take.
        dialect: what is spoken with the client; ``None``: it gets nothing of the
            market's but what is injected.
        scope: cancelling it ends the connection without a Close.
        on_room: called when half the buffer has become free.
    """

    def __init__(
        self,
        connection: WebSocketConnection,
        stream: FrameStream,
        limits: ClientLimits,
        dialect: Dialect | None = None,
        *,
        scope: trio.CancelScope,
        on_room: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.stream = stream
        self.dialect = dialect
        self.subscription: frozenset[str] = frozenset()
        """The keys of the messages that it gets."""
        self.messages_sent = 0
        """Messages handed to the operating system."""
        self.skipped = 0
        """Ticks that found no room in the buffer."""
        self.queued: Counter[str] = Counter()
        """Ticks that were put into the buffer, by symbol."""
        self.session: Session | None = None
        """What it gets, where the exchange is a venue with words of its own."""
        self.given = 0
        """How often its session had something for it."""
        self.end_reason: str | None = None
        self.gone = trio.Event()
        self._limits = limits
        self._scope = scope
        self._on_room = on_room
        self.waiting: deque[tuple[bytes, int]] = deque()
        self.waiting_bytes = 0
        self._wake = trio.Event()
        self._empty = trio.Event()
        self._empty.set()
        self._slow_since = math.inf
        self._pacer: Pacer | None = None
        self._throttled = 0

    @property
    def throttled(self) -> int:
        """Ticks that were left out because of the rate that the client asked for."""
        return self._throttled + (0 if self._pacer is None else self._pacer.replaced)

    @property
    def max_rate(self) -> float | None:
        """The most ticks a second that it wants; ``None``: all it subscribed to."""
        return None if self._pacer is None else self._pacer.max_rate

    def follow(self, subscription: frozenset[str], max_rate: float | None) -> None:
        """Serve *subscription*, with at most *max_rate* ticks a second, from now on."""
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
        """Remove the limit of the rate, and queue the ticks that it had delayed."""
        if self._pacer is not None:
            symbols, frames = self._pacer.flush()
            self._throttled += self._pacer.replaced
            self._pacer = None
            self._put(symbols, frames, b"".join(frames))

    @property
    def has_room(self) -> bool:
        """Whether half the buffer is free."""
        return 2 * self.waiting_bytes <= self._limits.buffer_bytes

    def wants_more_at(self, now: float) -> float:
        """Return when more ticks would be of use.

        That is *now*, or the time of its next turn if it asked for fewer ticks, or
        never while it has no room.
        """
        if not self.has_room:
            return math.inf
        return now if self._pacer is None else self._pacer.next_turn

    @property
    def appetite(self) -> float:
        """How many ticks at once are of use.

        With a limited rate, these are four for each tick of its turn: not all ticks are
        of its symbols, and several may be of the same one.
        """
        return math.inf if self._pacer is None else 4 * self._pacer.turn

    def offer(self, batch: Batch) -> None:
        """Queue what it subscribed to, as far as there is room; count the rest."""
        symbols, frames, blob = batch.cut(self.subscription)
        if not frames:
            return
        if self._pacer is not None:
            symbols, frames = self._pacer.pass_on(symbols, frames, trio.current_time())
            blob = b"".join(frames)
        self._put(symbols, frames, blob)

    def _put(self, symbols: Sequence[str], frames: Sequence[bytes], blob: bytes) -> None:
        """Queue the frames that there is room for; skip and count the rest."""
        if not frames:
            return
        room = self._limits.buffer_bytes - self.waiting_bytes
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

    def give(self, symbol: str, frames: Sequence[bytes]) -> None:
        """Queue the frames of its session, as far as there is room; skip the rest."""
        if frames:
            self.given += 1
            self._put([symbol] * len(frames), frames, b"".join(frames))

    def inject(self, frame: bytes) -> None:
        """Queue one frame, even if there is no room."""
        self._queue(frame, 1)

    def kick(self, reason: str) -> None:
        """End the connection without a Close, as a network failure does."""
        self.end_reason = self.end_reason or reason
        self._scope.cancel()

    async def say_goodbye(self, reason: str, *, code: int, text: str) -> None:
        """Close the WebSocket in order, and wait until the client is gone.

        The buffer is written before, as long as the client goes on taking it.

        Cancellation: closes the connection without a Close.
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

        Cancellation: the connection is of no use any more.
        """
        while True:
            while not self.waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            parts, count, size = [], 0, 0
            while self.waiting and size < MAX_WRITE:
                blob, messages = self.waiting.popleft()
                parts.append(blob)
                count += messages
                size += len(blob)
            try:
                await self.stream.send_all(b"".join(parts))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # trio-websocket's reader notices it too, and ends the connection.
            if self.stream.closing:
                return
            self.messages_sent += count
            self.waiting_bytes -= size
            if not self.waiting_bytes:
                self._slow_since = math.inf
                self._empty.set()
            if self.has_room:
                self._on_room()

    async def ping(self, interval: float, patience: float) -> None:
        """Ping every *interval* seconds.

        If a ping is not answered within *patience* seconds, it ends the connection.

        Cancellation: stops the pings.
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
        """Return why the connection ended.

        It is our reason, or ``client`` (the client sent a Close), or ``network`` (it
        did not).
        """
        if self.end_reason:
            return self.end_reason
        closed = self.connection.closed
        return "network" if closed is None or closed.code == 1006 else "client"

    async def _drain(self) -> None:
        """Wait until the buffer is empty, or the client takes nothing for too long."""
        patience = math.inf if self._limits.slow_timeout_s is None else self._limits.slow_timeout_s
        before = math.inf
        while 0 < self.waiting_bytes < before:
            before = self.waiting_bytes
            with trio.move_on_after(patience):
                await self._empty.wait()

    def _queue(self, blob: bytes, messages: int) -> None:
        self.waiting.append((blob, messages))
        self.waiting_bytes += len(blob)
        self._empty = trio.Event() if self._empty.is_set() else self._empty
        self._wake.set()

    def _skip(self, count: int) -> None:
        """Count skipped ticks; disconnect if the buffer was not empty for too long."""
        self.skipped += count
        now = trio.current_time()
        self._slow_since = min(self._slow_since, now)
        if (
            self._limits.slow_timeout_s is not None
            and now - self._slow_since >= self._limits.slow_timeout_s
        ):
            self.kick("slow_consumer")
