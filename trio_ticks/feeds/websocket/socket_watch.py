"""The reads of a plain socket, by its reader or by an idle worker in its place.

Goals: one system call and one checkpoint for each read; and where ticks arrive one by
one, no task switch between the read of a tick and its handling.

Plan: the reader waits in ``read``. While ``free`` is true, an idle worker may call
``stand_in``: it takes over the wait, and the reader sleeps. When the socket is readable
the worker calls ``pump``, which reads and processes the data; then it handles the tick
itself. The reader waits for the socket again as soon as the worker has left
``stand_in``.

Rules: at most one task waits for the socket, and one always does while the reader is in
``read``. A stand-in waits for nothing else, and leaves unfinished work to the reader.
Each read is a checkpoint, and a cancelled one has read nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, final

import trio

__all__ = ["SocketWatch", "watchable"]

_FEW: Final = 4096
"""A stand-in is welcome only after a read of fewer bytes than this.

For larger reads the task switches saved are a small part of the work, and to change
places costs more than they do.
"""


def watchable(stream: trio.abc.Stream) -> bool:
    """Return whether *stream* is a plain socket that can be read as a file.

    On Windows a socket is not a file.
    """
    return type(stream) is trio.SocketStream and os.name == "posix"


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
        stream: a stream for which :func:`watchable` is true.
        deal: called with the bytes that a stand-in has read; returns whether they are
            fully processed. If not, the reader goes on with them.
        receive_size: the most bytes to read at once.
    """

    def __init__(
        self, stream: trio.SocketStream, deal: Callable[[bytes], bool], *, receive_size: int
    ) -> None:
        self._socket = stream.socket
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
        socket = self._socket
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
        try:
            data = os.read(number, self._receive_size)
        except BlockingIOError:
            return
        except OSError as error:
            self._error = error
            self._leave()
            return
        self._few = 0 < len(data) < _FEW
        # At the end of the stream, leave it to the reader: it can read the end again.
        if not data or not self._deal(data):
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
