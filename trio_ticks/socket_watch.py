"""How a plain socket is read, and whose turn it is to wait for it: its reader's, or an idle worker's, who then handles what it has read.

Rules: at most one task waits for the socket, and somebody does whenever the reader would; a stand-in never waits for anything else, and
leaves to the reader what it cannot finish; each read is a checkpoint, and a cancelled one has read nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, final

import trio

__all__ = ["SocketWatch", "watchable"]

_FEW: Final = 4096
"""Bytes in one read up to which a stand-in pays: where more come at once, a turn of the loop matters little, and changing places does."""


def watchable(stream: trio.abc.Stream) -> bool:
    """Whether *stream* is a plain socket that can be waited for, and read as a file. On Windows a socket is not a file."""
    return type(stream) is trio.SocketStream and os.name == "posix"


@final
class SocketWatch:
    """Waits for a socket, then reads it: one system call and one checkpoint a read.

    trio's own way tries to read, fails, waits, and tries again; or has read, and then lets others run, when what it read has reached
    nobody. To wait first costs a third of that where ticks come one by one, and no more where they come in heaps.

    A task that hands what it reads to a sleeping one is two turns of the event loop away from its handling. Where ticks come one by one, an
    idle worker may therefore wait in the reader's place, as in the pattern known as leader and followers (Schmidt et al., *Pattern-Oriented
    Software Architecture*, volume 2). The reader is back as soon as that worker does anything else.

    Args:
        stream: for which :func:`watchable` is true.
        deal: is called with what a stand-in has read, and tells whether that is all done; else it is the reader's to go on.
        receive_size: how much to read at once, in bytes.
    """

    def __init__(self, stream: trio.SocketStream, deal: Callable[[bytes], bool], *, receive_size: int) -> None:
        self._socket = stream.socket
        self._deal = deal
        self._receive_size = receive_size
        self._reading = False  # the reader is in read()
        self._few = False  # the last read brought little, and left nothing for the reader to do
        self._resting: trio.lowlevel.Task | None = None  # the reader, while somebody stands in for it
        self._reader_wait = trio.CancelScope()
        self._stand_in: trio.CancelScope | None = None
        self._left = False  # a stand-in left something to the reader
        self._error: OSError | None = None  # what a stand-in's read came to

    @property
    def free(self) -> bool:
        """Whether a stand-in is welcome now."""
        # A socket that was closed here is not waited for by its reader any more, though that has not run since to say so.
        return self._few and self._reading and self._stand_in is None and self._socket.fileno() >= 0

    async def read(self) -> bytes | None:
        """Return what the socket has; ``b""`` at its end; ``None`` where a stand-in has read something and left the rest to the reader.

        Raises:
            trio.ClosedResourceError: the socket was closed here.
            trio.BrokenResourceError: the connection is lost.

        Cancellation: nothing was read. Always a checkpoint.
        """
        socket = self._socket
        self._reading = True
        self._left = False
        try:
            while True:
                # Before anything else: a stand-in may have come and gone while we were only about to rest.
                if self._error is not None:
                    raise trio.BrokenResourceError(f"socket connection broken: {self._error}") from self._error
                if self._left:
                    return None
                number = socket.fileno()
                if number < 0:
                    raise trio.ClosedResourceError("this socket was already closed")
                if self._stand_in is not None:
                    await self._rest()
                    continue
                with trio.CancelScope() as self._reader_wait:
                    await trio.lowlevel.wait_readable(number)
                if self._reader_wait.cancelled_caught:
                    continue
                if socket.fileno() != number:
                    # Closed after it had become readable: by now the number may be another file's.
                    raise trio.ClosedResourceError("this socket was closed while it was read")
                try:
                    data = os.read(number, self._receive_size)
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
        """Wait in the reader's place; False where the socket was closed. To be called while :attr:`free`, in *scope*.

        *scope* is cancelled by :meth:`call_off`, and by nothing else here; it may be that of many waits, since to enter and leave one takes
        as long as a wait does.

        Cancellation: the reader takes its place back, and nothing was read. Always a checkpoint.
        """
        readable = False
        self._reader_wait.cancel()
        self._stand_in = scope
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
        if scope.cancel_called:
            # Called off when it was to run anyway: whatever it did now would be done in a cancelled scope.
            await trio.lowlevel.checkpoint_if_cancelled()
        return readable

    def call_off(self) -> None:
        """Cancel the stand-in's scope, if there is one."""
        if self._stand_in is not None:
            self._stand_in.cancel()

    def pump(self) -> None:
        """Read what is there, and have it dealt with; for a stand-in that has waited, before anything else."""
        number = self._socket.fileno()
        if number < 0 or not self._reading:
            self._leave()
            return
        try:
            data = os.read(number, self._receive_size)
        except BlockingIOError:
            return
        except OSError as error:
            self._error = error
            self._leave()
            return
        self._few = 0 < len(data) < _FEW
        if not data or not self._deal(data):  # the end can be read again
            self._leave()

    async def _rest(self) -> None:
        self._resting = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._resting = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _leave(self) -> None:
        self._few = False
        self._left = True
