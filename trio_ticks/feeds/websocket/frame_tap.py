"""A stream between the socket and trio-websocket that takes the data messages out.

Goals: deliver all messages of one socket read as one batch, without an object or a task
switch for each (trio-websocket makes both); and leave the protocol itself to
trio-websocket.

Plan: trio-websocket reads from :class:`FrameTap` as if it were the socket. The tap
parses the frames of each read, delivers the data messages, and returns only the bytes
of the handshake and of control frames.

Rules: trio-websocket owns the handshake, ping, pong and close, and never sees a data
frame or a broken frame. Whichever side closes, nothing here waits for the peer for
longer than ``linger``. A violation is answered by a Close frame that really reaches the
peer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, final

import trio
from trio_websocket import WebSocketConnection

from trio_ticks.errors import VenueProtocolError
from trio_ticks.feeds.websocket.extensions import BadAnswer, accepted_deflate
from trio_ticks.feeds.websocket.frames import CloseReason, FrameParser, close_frame
from trio_ticks.feeds.websocket.socket_watch import SocketWatch, readable

__all__ = ["FrameTap", "fail_connection"]

# The same rule as in h11, which reads these bytes after us: a line may end in a bare LF
# (RFC 9112, section 2.2).
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_SWITCHING: Final = re.compile(rb"HTTP/1\.\d 101\b")
_CLOSE_BYTE: Final = b"\x88"
_GOING_AWAY: Final = 1001
_ABNORMAL: Final = 1006


@final
class FrameTap(trio.abc.Stream):
    """A stream for :func:`trio_websocket.wrap_client_stream` without the data messages.

    How a violation is answered. trio-websocket alone would not tell the peer about a
    broken frame: wsproto reports the violation as if it were a Close frame, but stays
    open; trio-websocket answers only where wsproto is closing, and marks itself closed.
    Its ``aclose()`` then returns at once, with the socket open and input unread. To
    close such a socket makes the kernel send a reset and discard unsent output (RFC
    1122, section 4.2.2.13). For a message that is too big trio-websocket does send a
    Close frame, but stops reading, with the same reset.

    Therefore the tap replaces the broken frame by a Close frame with the code of the
    violation, as if the peer had sent it. trio-websocket answers with a Close frame of
    the same code, and that is the one that the peer has to get (RFC 6455, section
    7.1.7). Then :meth:`aclose` reads and discards input until the peer has closed, for
    at most ``linger`` seconds (section 7.1.1).

    Args:
        stream: the connected TCP or TLS stream; the tap owns it from now on.
        deliver: called with each batch of payloads, in trio-websocket's reader task. If
            it returns an awaitable, the socket is not read until that is done. An
            exception from either ends the connection and is kept in :attr:`error`,
            because trio-websocket would take some of them for a lost connection
            (``trio.BrokenResourceError``).
        max_message_size: in bytes; a larger message fails the connection with 1009.
        receive_size: the most bytes to read from the socket at once. With twice the
            default the C library asks the kernel for memory at each read; with half of
            it there are twice as many task switches.
        linger: how long to wait for the peer, in seconds, once the connection is being
            closed.
        offers_deflate: whether the request offers permessage-deflate, so that the
            server's answer may accept it. It only says how to read the frames:
            :class:`~.connect.HandshakeGate` refuses an answer that is wrong.
        answered: waits until the answers to all delivered messages are sent, for less
            than *linger*. It is awaited after a violation, before the Close frame.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        deliver: Callable[[list[bytes]], Awaitable[None] | None],
        *,
        max_message_size: int,
        receive_size: int = 98_304,
        linger: float = 1.0,
        offers_deflate: bool = False,
        answered: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.stream: Final = stream
        self.error: Exception | None = None
        """The exception that *deliver* raised, if any."""
        self.messages = 0
        """Data messages given to *deliver*."""
        self.discarded = 0
        """Data messages that were read, but not delivered: this side was closing."""
        self.bytes_received = 0

        self._deliver = deliver
        self._parser = FrameParser(max_message_size=max_message_size)
        found = readable(stream)
        self.watch: Final = (
            None if found is None else SocketWatch(*found, self.deal, receive_size=receive_size)
        )
        """Lets an idle worker wait for the socket in the reader's place.

        ``None`` for a stream that is no socket, such as one of the user's.
        """
        self._receive_size, self._linger, self._answered = receive_size, linger, answered
        self._offers_deflate = offers_deflate
        # The head of the response to the handshake so far; None once it is complete.
        self._head: bytearray | None = bytearray()
        # Whether the handshake has succeeded, so that all later bytes are frames.
        self.framed = False
        # Complete messages that *deliver* has not been called with yet.
        self._batch: list[bytes] = []
        # The awaitable that *deliver* returned, until it is awaited.
        self._waits: Awaitable[None] | None = None
        # Control frames that trio-websocket has not read yet.
        self._control = b""

        # Two tasks may read the socket: trio-websocket's reader, and the task in
        # aclose(). _reading says that one of them does; the other then waits for
        # _read_ended. A trio.Lock would be a quarter of the cost of a read.
        self._reading = False
        self._read_ended: trio.Event | None = None
        self._eof = False
        self.untold: CloseReason | None = None
        """The peer's fault, while our Close frame waits for the last answers."""
        self._closing = False
        # Whether this side ended the connection, not the peer.
        self._ours = False
        # When closing must be done, on trio's clock; the last send keeps to it, too.
        self._deadline = math.inf
        self._sending = trio.CancelScope()
        # Set when our Close frame has been sent, or cannot be sent any more.
        self._close_sent = trio.Event()

    @property
    def violation(self) -> CloseReason | None:
        """How the peer broke the protocol, or ``None``."""
        return self._parser.violation

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the peer ended the connection.

        ``None`` while the connection is open, or if this side closed it.
        """
        if self._ours:
            return None
        parser = self._parser
        if parser.violation or parser.closed or not self._eof:
            return parser.violation or parser.closed
        # RFC 6455, section 7.1.5: if the peer sent no Close frame, the code is 1006.
        return CloseReason(
            _ABNORMAL,
            "connection lost" if parser.idle else "connection lost in the middle of a message",
        )

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Deliver messages until there are bytes for trio-websocket, and return these.

        Such bytes are the handshake, control frames, or ``b""`` for the end of the
        stream. A ping is returned before the messages that arrived with it are
        delivered, so that a full channel does not delay the pong; a Close frame is
        returned after them. *max_bytes* is ignored: all bytes at hand are returned.

        Cancellation: *deliver* accounts for a batch that it has been called with; a
        batch that it has not been called with yet is delivered by the next call.
        """
        if not self.framed:
            return await self._receive_head()
        while True:
            if self._control and not self._over:
                return self._take_control()
            if self._batch:
                self._hand_over()
            if self._waits is not None:
                await self._await_delivery()
            if self._over:
                # The remaining control frames, and at the next call b"": then
                # trio-websocket ends its reader, and aclose() does the rest.
                self.start_closing()
                fault = _fault_of(self.error) or self.violation
                if fault is not None and self._control and self._answered is not None:
                    # Another task sends answers, and nothing may follow our Close
                    # frame. A peer that has sent a Close frame expects no more answers.
                    # If this task is cancelled meanwhile, the fault stays untold.
                    self.untold = fault
                    await self._answered()
                    self.untold = None
                return self._take_control()
            try:
                data = await self._receive()
            except BaseException:
                # A stand-in may have left an unfinished delivery. Even if it is
                # cancelled at once, it accounts for the ticks that it holds.
                if self._waits is not None:
                    await self._await_delivery()  # noqa: ASYNC102,ASYNC120
                raise
            if data is None:
                # A stand-in has read the socket, and left the rest to this task.
                continue
            if not data:
                # The task in aclose() may have read the peer's Close frame meanwhile.
                return self._take_control()
            # No checkpoint between the read and the parser: another task may read next,
            # and the parser must get all bytes in order.
            self._feed(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data*; a Close frame starts the closing.

        Once the connection is being closed, nothing may take longer than its deadline,
        a send that began before included: the Close frame has to wait for its end.

        Raises:
            trio.BrokenResourceError: the peer did not take *data* in time.

        Cancellation: as the stream's.
        """
        closes = self.framed and bytes(data[:1]) == _CLOSE_BYTE
        if closes:
            self.start_closing()
        try:
            with trio.CancelScope(deadline=self._deadline) as scope:
                self._sending = scope
                await self.stream.send_all(data)
        finally:
            if closes:
                self._close_sent.set()
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the peer takes no data while it is closing")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until :meth:`send_all` might not block.

        Cancellation: as the stream's.
        """
        await self.stream.wait_send_all_might_not_block()

    def start_closing(self) -> None:
        """Discard all later messages and pings, and give the peer ``linger`` seconds.

        Idempotent.
        """
        if not self._closing:
            self._closing = True
            self._ours = self.close_reason is None
            self._deadline = self._sending.deadline = trio.current_time() + self._linger

    async def aclose(self) -> None:
        """Close the stream, but let a Close frame that was sent reach the peer first.

        Cancellation: closes at once.
        """
        end = self._deadline if self._closing else trio.current_time() + self._linger
        try:
            if self.framed and self._closing and not self._eof:
                with trio.move_on_at(self._deadline):
                    await self._close_sent.wait()
                    await self._send_eof()
                    await self._drain()
        finally:
            # The reader may have been about to deliver these, behind a ping's answer.
            self.discarded += len(self._batch)
            self._batch = []
            # A stream of the user's may block, or say that the connection is lost.
            with trio.move_on_at(end), suppress(trio.BrokenResourceError):
                await self.stream.aclose()

    @property
    def _over(self) -> bool:
        """Whether all further input is to be discarded."""
        return (
            self._parser.violation is not None
            or self._parser.closed is not None
            or self.error is not None
        )

    def _take_control(self) -> bytes:
        control, self._control = self._control, b""
        return control

    def _feed(self, data: bytes) -> None:
        """Parse *data*, and keep its messages and control frames."""
        parser = self._parser
        batch, controls = parser.feed(data)
        closing = self._closing
        if batch:
            if closing:
                self.discarded += len(batch)
            else:
                self._batch = batch
        if closing:
            # Drop pings: trio-websocket would answer one even after it has sent its
            # Close frame, and wsproto raises at that (trio-websocket issue 184).
            del controls[: -1 if parser.closed else None]
        if parser.violation:
            controls.append(close_frame(*parser.violation))
        if controls:
            self._control += b"".join(controls)

    def deal(self, data: bytes) -> bool:
        """Process *data*, which a stand-in for trio-websocket's reader has read.

        Return whether that is all done; otherwise the reader has to run.
        """
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
        """Keep *error* from *deliver*, and have trio-websocket close the connection."""
        self.error = error
        self._control = close_frame(*(_fault_of(error) or (_GOING_AWAY, "")))

    async def _receive_head(self) -> bytes:
        """Return the next part of the response to the handshake.

        The bytes behind its blank line are frames, and are parsed. If the response is
        not a 101, no frames follow, and everything is passed on.
        """
        data = await self._receive()
        # No worker stands in for the reader before the WebSocket is open.
        assert data is not None
        head = self._head
        if head is None:
            return data
        # The blank line may span two reads, so search the last two old bytes again.
        searched = max(0, len(head) - 2)
        head += data
        blank = _BLANK_LINE.search(head, searched)
        if blank is None:
            return data
        self._head = None
        if not _SWITCHING.match(head):
            return data
        self.framed = True
        if self._offers_deflate:
            self._read_extensions(bytes(head[: blank.end()]))
        # The first frames may have arrived in the same read as the end of the head.
        behind = len(head) - blank.end()
        if not behind:
            return data
        self._feed(data[-behind:])
        return data[:-behind]

    def _read_extensions(self, head: bytes) -> None:
        """Have the frames parsed as the *head* of the response says."""
        with suppress(BadAnswer):
            self._parser = FrameParser(
                max_message_size=self._parser.max_message_size, deflate=accepted_deflate(head)
            )

    async def _receive(self) -> bytes | None:
        """Read the socket once; ``b""`` at its end, ``None`` after a stand-in."""
        while self._reading:
            if self._read_ended is None:
                self._read_ended = trio.Event()
            await self._read_ended.wait()
            if self._eof:
                return b""
        self._reading = True
        try:
            data = await (
                self.stream.receive_some(self._receive_size)
                if self.watch is None
                else self.watch.read()
            )
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
        # A trio stream may return a bytearray; a payload must be immutable.
        return data if type(data) is bytes else bytes(data)

    async def _drain(self) -> None:
        """Read until the peer has closed, and keep only its Close frame.

        trio-websocket's reader, if it still runs, gets that frame. The discarded data
        is parsed all the same, since that reader may make the next read and the parser
        must not miss any bytes before it.
        """
        try:
            while not self._eof:
                self._feed(await self._receive() or b"")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _send_eof(self) -> None:
        """Half-close the transport, if it can do that.

        RFC 6455, section 7.1.1, recommends it for a clean closure.
        """
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            try:
                await self.stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._eof = True


def _fault_of(error: Exception | None) -> CloseReason | None:
    """Return how the peer broke the protocol of its messages, by *error*."""
    if isinstance(error, VenueProtocolError):
        return CloseReason(error.code, str(error))
    return None


async def fail_connection(
    ws: WebSocketConnection, tap: FrameTap, code: int, reason: str = ""
) -> None:
    """Close *ws*, whatever its state, with *code* and *reason* in the Close frame.

    Use it for every end that the peer did not begin. Unlike ``ws.aclose()`` alone it
    takes no longer than the tap's ``linger``, works even if the peer does not answer or
    the reader task has ended, and tolerates a ping that arrives after our Close frame.

    Cancellation: closes at once. Shield it if the Close frame matters.
    """
    tap.start_closing()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ws.aclose, code, reason)
        await tap.aclose()
        nursery.cancel_scope.cancel()
