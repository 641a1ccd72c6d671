"""The reads of a socket, by its reader or by an idle worker in its place.

Goals: one system call and one checkpoint for each read; and where ticks arrive one by
one, no task switch between the read of a tick and its handling.

Plan: the reader waits in ``read``. While ``free`` is true, an idle worker may call
``stand_in``: it takes over the wait, and the reader sleeps. When the socket is readable
the worker calls ``pump``, which reads and processes the data; then it handles the tick
itself. The reader waits for the socket again as soon as the worker has left
``stand_in``.

What TLS wants to send, and its end, is the reader's to see to: a stand-in leaves it.

Rules: at most one task waits for the socket, and one always does while the reader is in
``read``. A stand-in waits for nothing else, and leaves unfinished work to the reader.
Each read is a checkpoint, and a cancelled one has read nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Protocol, final

import trio

from trio_ticks.feeds.websocket.tls_stream import TlsStream
from trio_ticks.uninterrupted import uninterrupted

__all__ = ["SocketWatch", "readable"]

_FEW: Final = 4096
"""A stand-in is welcome only after a read of fewer bytes than this.

For larger reads the task switches saved are a small part of the work, and to change
places costs more than they do.
"""


class Readable(Protocol):
    """What is read from a socket: its bytes, or what TLS makes of them."""

    @property
    def unsettled(self) -> bool:
        """Whether :meth:`settle` is to be called before the socket is waited for."""

    def read_now(self, number: int, size: int, /) -> bytes:
        """Read the socket *number* once; see :meth:`.TlsStream.read_now`."""

    async def settle(self) -> bytes | None:
        """Do what is left to do; see :meth:`.TlsStream.settle`."""


class _Plain:
    """A socket without TLS."""

    unsettled: Final = False
    read_now = staticmethod(os.read)

    async def settle(self) -> bytes | None:
        """Do nothing: nothing is ever left."""


def readable(stream: trio.abc.Stream) -> tuple[trio.SocketStream, Readable] | None:
    """Return the socket under *stream* and how to read it, if both can be watched.

    A socket under TLS can be; a stream of a user's, or TLS on top of TLS, cannot. On
    Windows nothing can: a socket is not a file there.
    """
    if os.name != "posix":
        return None
    if type(stream) is trio.SocketStream:
        return stream, _Plain()
    if type(stream) is TlsStream and type(stream.transport) is trio.SocketStream:
        return stream.transport, stream
    return None


@uninterrupted
@final
class SocketWatch:
    """Waits for a socket, then reads it: one system call and one checkpoint a read.

    trio's own ``receive_some`` reads first. If there is nothing, that call fails, and
    it waits and reads again; if there is something, it lets other tasks run before it
    returns the data. To wait first takes a third of the time where ticks arrive one by
    one, and no more time where many arrive at once.

    A reader that hands its ticks to a sleeping worker delays them by two turns of the
    event loop. Where ticks arrive one by one, an idle worker may therefore wait in the
    reader's place. The pattern is known as leader and followers (Schmidt et al.,
    *Pattern-Oriented Software Architecture*, volume 2).

    Args:
        stream: the socket.
        source: how to read it, as :func:`readable` says.
        deal: called with the bytes that a stand-in has read; returns whether they are
            fully processed. If not, the reader goes on with them.
        receive_size: the most bytes to read at once.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        source: Readable,
        deal: Callable[[bytes], bool],
        *,
        receive_size: int,
    ) -> None:
        self._socket = stream.socket
        self._source = source
        self._deal = deal
        self._receive_size = receive_size
        # Whether the reader is in read().
        self._reading = False
        # Whether the last read was small, and left nothing for the reader to do.
        self._few = False
        # The reader's task, while a stand-in waits in its place.
        self._resting: trio.lowlevel.Task | None = None
        # The scope of the reader's own wait for the socket, while it waits.
        self._reader_wait: trio.CancelScope | None = None
        # The scope of the stand-in, while there is one.
        self._stand_in: trio.CancelScope | None = None
        # Whether the last stand-in was called off.
        self._called_off = False
        # Whether a stand-in left work to the reader.
        self._left = False
        # The error of a stand-in's read, for the reader to raise.
        self._error: OSError | None = None

    @property
    def free(self) -> bool:
        """Whether a stand-in is welcome now."""
        # After the socket was closed on this side, _reading stays true until the reader
        # has run: so ask for the file descriptor too.
        return self._few and self._reading and self._stand_in is None and self._socket.fileno() >= 0

    async def read(self) -> bytes | None:
        """Return the next bytes of the socket; ``b""`` at its end.

        ``None`` means that a stand-in has read bytes and left the rest of the work.

        Raises:
            trio.ClosedResourceError: the socket was closed on this side.
            trio.BrokenResourceError: the connection is lost.

        Cancellation: nothing was read. Always a checkpoint.
        """
        socket, source = self._socket, self._source
        self._reading = True
        self._left = False
        try:
            while True:
                # Check these first: a stand-in may have begun and finished between the
                # cancel of our wait and this task's next turn.
                if self._error is not None:
                    raise trio.BrokenResourceError(
                        f"socket connection broken: {self._error}"
                    ) from self._error
                if self._left:
                    return None
                if source.unsettled:
                    # No stand-in meanwhile: it might leave work, and this be the end.
                    self._few = False
                    data = await source.settle()
                    if data is not None:
                        return data
                    continue
                number = socket.fileno()
                if number < 0:
                    raise trio.ClosedResourceError("this socket was already closed")
                if self._stand_in is not None:
                    await self._rest()
                    continue
                with trio.CancelScope() as scope:
                    self._reader_wait = scope
                    try:
                        await trio.lowlevel.wait_readable(number)
                    finally:
                        self._reader_wait = None
                if scope.cancelled_caught:
                    continue
                if socket.fileno() != number:
                    # The socket was closed after it had become readable. Its number may
                    # belong to another file by now, so do not read it.
                    raise trio.ClosedResourceError("this socket was closed while it was read")
                try:
                    data = source.read_now(number, self._receive_size)
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise trio.BrokenResourceError(f"socket connection broken: {error}") from error
                self._few = 0 < len(data) < _FEW
                return data
        finally:
            self._reading = False
            self.call_off()

    async def stand_in(self, scope: trio.CancelScope) -> bool:
        """Wait in the reader's place; return False if the socket was closed.

        Call it while :attr:`free` is true, inside *scope*. Only :meth:`call_off`
        cancels *scope*. One scope may serve many waits, which is worthwhile since to
        enter and leave a scope takes as long as a wait.

        Cancellation: the reader takes its place back, and nothing was read. Always a
        checkpoint.
        """
        readable = False
        # Where ticks come one by one the reader does not wait: it has not run since the
        # last stand-in left.
        if self._reader_wait is not None:
            self._reader_wait.cancel()
        self._stand_in = scope
        self._called_off = False
        try:
            await trio.lowlevel.wait_readable(self._socket)
            readable = True
        except trio.ClosedResourceError:
            self._leave()
        finally:
            self._stand_in = None
            if self._resting is not None:
                trio.lowlevel.reschedule(self._resting)
                self._resting = None
        # Not scope.cancel_called, which reads the clock each time.
        if self._called_off:
            # Called off in the same turn in which the socket became readable. End here:
            # the caller's next checkpoint would be in a cancelled scope.
            await trio.lowlevel.checkpoint_if_cancelled()
        return readable

    def call_off(self) -> None:
        """Cancel the stand-in's scope, if there is one."""
        if self._stand_in is not None:
            self._called_off = True
            self._stand_in.cancel()

    def pump(self) -> None:
        """Read the socket once and have the bytes processed.

        A stand-in calls it right after :meth:`stand_in`, before any checkpoint.
        """
        number = self._socket.fileno()
        if number < 0 or not self._reading:
            self._leave()
            return
        source = self._source
        try:
            data = source.read_now(number, self._receive_size)
        except BlockingIOError:
            if source.unsettled:
                self._leave()
            return
        except OSError as error:
            self._error = error
            self._leave()
            return
        self._few = 0 < len(data) < _FEW
        # At the end of the stream, leave it to the reader: it can read the end again.
        if not data or not self._deal(data) or source.unsettled:
            self._leave()

    async def _rest(self) -> None:
        """Sleep until the stand-in has ended its wait."""
        self._resting = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._resting = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _leave(self) -> None:
        """Let the next :meth:`read` return to the reader, which then does the rest."""
        self._few = False
        self._left = True
