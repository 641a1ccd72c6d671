"""Stands between a TCP or TLS stream and trio-websocket, and takes the data messages out on the way, a socket read at a time.

Rules: trio-websocket owns the handshake, ping, pong and close, and never sees a data frame or a broken one; whoever closes, nothing here
waits for the peer beyond ``linger``; a violation is answered by a Close frame that the peer really gets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from typing import Final, cast, final

import trio
from trio_websocket import WebSocketConnection

from trio_ticks.errors import VenueProtocolError
from trio_ticks.feeds.frames import CloseReason, FrameParser, close_frame
from trio_ticks.socket_watch import SocketWatch, watchable

__all__ = ["FrameTap", "fail_connection"]

# As h11 finds it, which reads the same bytes after us: lines may end in a bare LF (RFC 9112, section 2.2).
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_SWITCHING: Final = re.compile(rb"HTTP/1\.\d 101\b")
_CLOSE_BYTE: Final = b"\x88"
_GOING_AWAY: Final = 1001
_ABNORMAL: Final = 1006


@final
class FrameTap(trio.abc.Stream):
    """A stream for :func:`trio_websocket.wrap_client_stream` that keeps the data messages for *deliver*.

    How a connection is failed: left to itself, trio-websocket does not answer a broken frame. wsproto reports the violation as if it were
    a Close frame, but stays open; trio-websocket answers only where wsproto is closing, marks itself closed, and its ``aclose()``
    then returns at once, with the socket open and input unread. Whoever closes that socket makes the kernel send a reset, and throw away
    what was still to be sent (RFC 1122, section 4.2.2.13). For a message too big it does send a Close frame, but stops reading: the same
    reset. So on a violation this stream gives trio-websocket, instead of the broken frame, a Close frame with the code that is due, as
    if the peer had sent it; and trio-websocket answers it with the same code, which is just what the peer has to be told (RFC 6455, section
    7.1.7). Then :meth:`aclose` throws input away until the peer has closed, for at most ``linger`` seconds (section 7.1.1).

    Args:
        stream: the connected TCP or TLS stream; the tap owns it from now on.
        deliver: is called with each batch of payloads, in trio-websocket's reader task; where it returns something to await, the socket
            is not read until that is done. What either raises ends the connection and is kept in :attr:`error`; trio-websocket would
            take some of it for a lost connection (``trio.BrokenResourceError``).
        max_message_size: in bytes; a larger message fails the connection with 1009.
        receive_size: how much to read from the socket at once, in bytes. Twice as much as by default, and the C library asks the kernel for
            memory at each read; half as much, and there are twice as many switches of tasks.
        linger: how long to wait for the peer, in seconds, once the connection is being closed.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        deliver: Callable[[list[bytes]], Awaitable[None] | None],
        *,
        max_message_size: int,
        receive_size: int = 98_304,
        linger: float = 1.0,
    ) -> None:
        self.stream: Final = stream
        self.error: Exception | None = None
        """What *deliver* raised."""
        self.messages = 0
        """Data messages given to *deliver*."""
        self.discarded = 0
        """Data messages that came while the connection was already being closed by us."""
        self.bytes_received = 0

        self._deliver = deliver
        self._parser = FrameParser(max_message_size=max_message_size)
        self.watch: Final = (
            SocketWatch(cast(trio.SocketStream, stream), self._deal, receive_size=receive_size) if watchable(stream) else None
        )
        """For whoever may stand in for the reader, once the WebSocket is open."""
        self._receive_size = receive_size
        self._linger = linger
        self._head: bytearray | None = bytearray()  # of the response to the handshake; None once it is complete
        self._framed = False  # the handshake succeeded: what follows are frames
        self._batch: list[bytes] = []  # complete, but not delivered
        self._waits: Awaitable[None] | None = None  # what *deliver* returned, but not awaited
        self._control = b""  # for trio-websocket
        self._reading = False  # somebody reads the socket: trio-websocket's reader, or whoever closes
        self._read_ended: trio.Event | None = None  # for the other; trio.Lock would be a quarter of the cost of a read
        self._eof = False
        self._closing = False
        self._ours = False  # it was not the peer that ended the connection
        self._deadline = math.inf  # for closing
        self._close_sent = trio.Event()  # our Close frame is out, or cannot be sent any more

    @property
    def violation(self) -> CloseReason | None:
        """How the peer broke the protocol, or ``None``."""
        return self._parser.violation

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the connection ended, as seen from this side of it; ``None`` while it lives, or when we closed it ourselves."""
        if self._ours:
            return None
        parser = self._parser
        if parser.violation or parser.closed or not self._eof:
            return parser.violation or parser.closed
        # RFC 6455, section 7.1.5: no Close frame was received, so the code is 1006.
        return CloseReason(_ABNORMAL, "connection lost" if parser.idle else "connection lost in the middle of a message")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Deliver messages until there is something for trio-websocket, and return that: handshake, control frames, or the end.

        Pings come out before the messages they arrived with are delivered, so that a full channel does not delay the answer; a Close frame
        comes out after them. *max_bytes* is ignored: what is here is here.

        Cancellation: a batch in *deliver*'s hands is its own affair; a batch not yet handed to it is delivered by the next call.
        """
        if not self._framed:
            return await self._receive_head()
        while True:
            if self._control and not self._over:
                return self._take_control()
            if self._batch:
                self._hand_over()
            if self._waits is not None:
                await self._await_delivery()
            if self._over:
                self.start_closing()
                return self._take_control()  # and then the end, for trio-websocket; aclose() sees to the rest
            try:
                data = await self._receive()
            except BaseException:
                if self._waits is not None:
                    await self._await_delivery()  # noqa: ASYNC102,ASYNC120  # cancelled like any other, it counts what it has
                raise
            if data is None:
                continue  # somebody stood in, and left the rest to us
            if not data:
                return self._take_control()  # whoever closes may have read the peer's Close frame meanwhile
            self._feed(data)  # before any checkpoint: whoever reads next, the parser gets everything, in order

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send; once the connection is being closed, for at most as long as that may take.

        Raises:
            trio.BrokenResourceError: the peer did not take a Close frame in time.
        """
        if bytes(data[:1]) != _CLOSE_BYTE or not self._framed:
            await self.stream.send_all(data)
            return
        self.start_closing()
        try:
            with trio.fail_at(self._deadline):
                await self.stream.send_all(data)
        except trio.TooSlowError:
            raise trio.BrokenResourceError("the peer takes no close frame") from None
        finally:
            self._close_sent.set()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until :meth:`send_all` might not block."""
        await self.stream.wait_send_all_might_not_block()

    def start_closing(self) -> None:
        """From now on take no more messages, answer no more pings, and give the peer ``linger`` seconds to finish. Idempotent."""
        if not self._closing:
            self._closing = True
            self._ours = self.close_reason is None
            self._deadline = trio.current_time() + self._linger

    async def aclose(self) -> None:
        """Close the stream; if the connection was being closed with a Close frame, first see to it that the peer gets that.

        Cancellation: closes at once.
        """
        end = self._deadline if self._closing else trio.current_time() + self._linger
        try:
            if self._framed and self._closing and not self._eof:
                with trio.move_on_at(self._deadline):
                    await self._close_sent.wait()
                    await self._send_eof()
                    await self._drain()
        finally:
            with trio.move_on_at(end):  # TLS would still like to say goodbye
                await self.stream.aclose()

    @property
    def _over(self) -> bool:
        """Whether nothing that the peer still sends is of interest."""
        return self._parser.violation is not None or self._parser.closed is not None or self.error is not None

    def _take_control(self) -> bytes:
        control, self._control = self._control, b""
        return control

    def _feed(self, data: bytes) -> None:
        """Parse *data* into what is to be delivered and what trio-websocket has to see."""
        parser = self._parser
        batch, controls = parser.feed(data)
        closing = self._closing
        if batch:
            if closing:
                self.discarded += len(batch)
            else:
                self._batch = batch
        if closing:
            # trio-websocket would answer a ping even when its own Close frame is out, and wsproto raises at that: trio-websocket issue 184.
            del controls[: -1 if parser.closed else None]
        if parser.violation:
            controls.append(close_frame(*parser.violation))
        if controls:
            self._control += b"".join(controls)

    def _deal(self, data: bytes) -> bool:
        """Take what somebody has read who stands in for trio-websocket's reader; return whether that has nothing to do now."""
        self.bytes_received += len(data)
        self._feed(data)
        if self._batch and not self._control:
            self._hand_over()
        return not (self._control or self._batch or self._waits is not None or self._over)

    def _hand_over(self) -> None:
        batch, self._batch = self._batch, []
        self.messages += len(batch)
        try:
            self._waits = self._deliver(batch)
        except Exception as error:
            self._end_by(error)

    async def _await_delivery(self) -> None:
        waits, self._waits = self._waits, None
        assert waits is not None
        try:
            await waits
        except Exception as error:
            self._end_by(error)

    def _end_by(self, error: Exception) -> None:
        """Keep what *deliver* raised, and have the connection closed."""
        self.error = error
        if isinstance(error, VenueProtocolError):
            self._control = close_frame(error.code, str(error))
        else:
            self._control = close_frame(_GOING_AWAY)

    async def _receive_head(self) -> bytes:
        """Pass the response to the handshake through, up to the blank line; or all there is, if it is not a 101."""
        data = await self._receive()
        assert data is not None  # nobody stands in before the WebSocket is open
        head = self._head
        if head is None:
            return data
        searched = max(0, len(head) - 2)
        head += data
        blank = _BLANK_LINE.search(head, searched)
        if blank is None:
            return data
        self._head = None
        if not _SWITCHING.match(head):
            return data
        self._framed = True
        behind = len(head) - blank.end()  # frames may come in the same segment
        if not behind:
            return data
        self._feed(data[-behind:])
        return data[:-behind]

    async def _receive(self) -> bytes | None:
        """Read the socket once; ``b""`` at its end, ``None`` where somebody has stood in."""
        while self._reading:
            if self._read_ended is None:
                self._read_ended = trio.Event()
            await self._read_ended.wait()
            if self._eof:
                return b""
        self._reading = True
        try:
            data = await (self.stream.receive_some(self._receive_size) if self.watch is None else self.watch.read())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._eof = True
            raise
        finally:
            self._reading = False
            if self._read_ended is not None:
                self._read_ended.set()
                self._read_ended = None
        if data is None:
            return None
        if data:
            self.bytes_received += len(data)
        else:
            self._eof = True
        return data if type(data) is bytes else bytes(data)  # a trio stream may give either; a payload must not be mutable

    async def _drain(self) -> None:
        """Read until the peer has closed, and keep nothing but its Close frame, for trio-websocket's reader, if that still lives.

        What is thrown away is parsed all the same: that reader may get what follows.
        """
        try:
            while not self._eof:
                self._feed(await self._receive() or b"")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _send_eof(self) -> None:
        """Say that nothing will follow, where the transport can: RFC 6455, section 7.1.1, recommends it for a clean closure."""
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            try:
                await self.stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._eof = True


async def fail_connection(ws: WebSocketConnection, tap: FrameTap, code: int, reason: str = "") -> None:
    """Close *ws*, whatever state it is in, telling the peer *code* and *reason*; use it for every end that is not the peer's.

    Unlike ``ws.aclose()`` alone this takes no longer than the tap's ``linger``, needs neither a peer that answers nor a reader task that
    lives, and copes with a ping that comes after our Close frame.

    Cancellation: closes at once. Shield it if the Close frame matters.
    """
    tap.start_closing()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ws.aclose, code, reason)
        await tap.aclose()
        nursery.cancel_scope.cancel()
