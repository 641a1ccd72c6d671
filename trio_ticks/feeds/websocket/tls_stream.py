"""TLS on the client's side, in which one read of the socket is one call.

Goals: as few steps as possible between a tick's arrival at the socket and its text; and
reads without a task switch, as a :class:`~.socket_watch.SocketWatch` makes them.
trio's SSLStream tries to decrypt before it waits, takes a lock for each read, and reads
the socket where only a task can wait for it.

Rules: what is encrypted is sent in the order in which it was encrypted. The end of the
connection is the end of the data, with and without a close notification, as in
https (RFC 9112, section 9.8): WebSocket has its own Close frame. Nothing is sent on a
connection after a send that was cut off.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from typing import Final, final

import trio

__all__ = ["TlsStream"]

_RECORD: Final = 16_384
"""The most text in a record, in bytes (RFC 8446, section 5.1)."""
_CIPHERED: Final = 98_304
"""The most that :meth:`TlsStream.receive_some` reads at once, in bytes."""


@final
class TlsStream(trio.abc.Stream):
    """The client's end of TLS on another stream. Call :meth:`do_handshake` first.

    Args:
        transport: the connected stream that carries TLS; this one owns it.
        context: whom to trust.
        host: the name that the server's certificate must have.

    Attributes:
        transport: the same.
        unsettled: whether :meth:`settle` is to be called before the socket is waited
            for: there is something to send, or data that came with others.
    """

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext, host: str) -> None:
        self.transport: Final = transport
        self.unsettled = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._sending = trio.StrictFIFOLock()
        # Whether a send was cut off, so that the server cannot read what would follow.
        self._torn = False
        # Set at the next read, for a send that TLS does not take before.
        self._fed: trio.Event | None = None
        # b"" at the end of the data; an error if they are damaged.
        self._end: bytes | ssl.SSLError | None = None

    async def do_handshake(self) -> None:
        """Shake hands with the server.

        Raises:
            trio.BrokenResourceError: it failed, for the reason that is the cause.

        Cancellation: the stream cannot be used.
        """
        failure: ssl.SSLError | None = None
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                failure = error
                break
            else:
                await self._flush()
                self.unsettled = self._has_more
                return
            await self._flush()
            self._feed(await self.transport.receive_some(_CIPHERED))
        # The server is told why, if it still listens.
        with suppress(trio.BrokenResourceError):
            await self._flush()
        raise trio.BrokenResourceError(f"the TLS handshake failed: {failure}") from failure

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data*.

        Raises:
            trio.BrokenResourceError: the connection is lost.
            trio.ClosedResourceError: this side has closed it.

        Cancellation: some of the data may have been sent, and nothing more can be.
        """
        async with self._sending:
            while data:
                try:
                    self._tls.write(data)
                except ssl.SSLWantReadError:
                    # The server shakes hands anew, as TLS 1.2 allows; whoever reads
                    # goes on with that.
                    self._fed = trio.Event()
                    await self._send_ciphered()
                    await self._fed.wait()
                except ssl.SSLError as error:
                    raise trio.BrokenResourceError(f"TLS takes no data: {error}") from error
                else:
                    break
            await self._send_ciphered()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until :meth:`send_all` might not block.

        Cancellation: as the transport's.
        """
        async with self._sending:
            await self.transport.wait_send_all_might_not_block()
            await self._send_ciphered()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next of the data, at most *max_bytes*; ``b""`` at their end.

        Raises:
            trio.BrokenResourceError: the connection is lost, or the data are damaged.
            trio.ClosedResourceError: this side has closed it.

        Cancellation: nothing was read.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                data = self._read(_RECORD if max_bytes is None else min(max_bytes, _RECORD))
            except BlockingIOError:
                if self._outgoing.pending:
                    await self._flush()
                self._feed(await self.transport.receive_some(_CIPHERED))
            except OSError as error:
                raise trio.BrokenResourceError(f"TLS failed: {error}") from error
            else:
                self.unsettled = self._has_more
                await trio.lowlevel.cancel_shielded_checkpoint()
                return data

    async def aclose(self) -> None:
        """Close the transport.

        Cancellation: as the transport's, which closes at once.
        """
        await self.transport.aclose()

    # Reads without a task switch

    def read_now(self, number: int, size: int) -> bytes:
        """Read the transport's socket once; return all text that is there.

        Args:
            number: the socket's file descriptor.
            size: the most to read, in bytes, with all that TLS adds.

        Returns:
            The text; ``b""`` at the end of the data.

        Raises:
            BlockingIOError: there is nothing to read, or no whole record.
            OSError: the connection is lost, or the data are damaged.
        """
        self._feed(os.read(number, size))
        return self._read_all()

    async def settle(self) -> bytes | None:
        """Send what TLS wants to be sent, and return what has arrived already.

        Returns:
            Text that came with the handshake, or behind what :meth:`receive_some` has
            returned; ``b""`` at the end of the data; ``None`` if there is neither.

        Raises:
            trio.BrokenResourceError: the connection is lost, or the data are damaged.

        Cancellation: as of :meth:`send_all`. Always a checkpoint.
        """
        await self._flush()
        if self._has_more:
            try:
                return self._read_all()
            except BlockingIOError:
                return None
            except ssl.SSLError:
                pass  # It is told below.
        self.unsettled = self._end is not None
        if isinstance(self._end, ssl.SSLError):
            raise trio.BrokenResourceError(f"TLS failed: {self._end}") from self._end
        return self._end

    @property
    def _has_more(self) -> bool:
        """Whether there may be text without another read of the socket."""
        return self._end is None and bool(self._incoming.pending or self._tls.pending())

    def _feed(self, data: bytes | bytearray) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        if self._fed is not None:
            self._fed.set()

    def _read_all(self) -> bytes:
        """Return all text that is there; raise as :meth:`read_now`."""
        parts = list[bytes]()
        with suppress(BlockingIOError):
            parts.append(self._read(_RECORD))
            while parts[-1] and (self._incoming.pending or self._tls.pending()):
                try:
                    parts.append(self._read(_RECORD))
                except ssl.SSLError:
                    break  # It is told at the next read.
        self.unsettled = self._end is not None or bool(self._outgoing.pending)
        if not parts:
            raise BlockingIOError
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read(self, size: int) -> bytes:
        """Return the text of a record; ``b""`` at the end of the data.

        Raises:
            BlockingIOError: no whole record is there.
            ssl.SSLError: the data are damaged.
        """
        if self._end is None:
            try:
                data = self._tls.read(size)
            except ssl.SSLWantReadError:
                raise BlockingIOError from None
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                data = b""
            except ssl.SSLError as error:
                self._end = error
                raise
            if data:
                return data
            self._end = data
        if isinstance(self._end, ssl.SSLError):
            raise self._end
        return self._end

    async def _flush(self) -> None:
        """Send what is encrypted, or leave it to the task that sends now.

        A reader must not wait for that one: the server may take nothing before its own
        data are read.
        """
        if self._sending.locked() and self._outgoing.pending <= _RECORD:
            await trio.lowlevel.checkpoint()
            return
        async with self._sending:
            await self._send_ciphered()

    async def _send_ciphered(self) -> None:
        """Send what is encrypted; the caller holds the lock."""
        if self._torn:
            raise trio.BrokenResourceError("a send on this TLS stream was cut off")
        while data := self._outgoing.read():
            self._torn = True
            try:
                await self.transport.send_all(data)
            except trio.ClosedResourceError:
                self._torn = False  # The next send is to fail for the same reason.
                raise
            self._torn = False
