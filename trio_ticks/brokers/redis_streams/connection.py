"""One connection to Redis: hiredis' parser and packer on a trio stream.

Replies come in the order of the commands. A call that is cancelled leaves replies on
the wire, which the next call would take for its own; so it makes the connection
unusable, and whoever uses it next has to open another.

Rules: RESP 2. Nothing here knows what the commands mean.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, Protocol, final

import trio

from ...errors import ConfigError

__all__ = [
    "Caller",
    "Command",
    "Connection",
    "LostError",
    "Meanwhile",
    "NotRespError",
    "ReplyError",
    "require_hiredis",
]

Command = tuple[bytes | str | int, ...]
Meanwhile = Callable[[], Awaitable[object]]
"""What is done while the server works."""

_READ: Final = 262_144
"""Bytes that are read at once, at most."""
_NOT_YET: Final = object()


class LostError(Exception):
    """The connection is gone, or was never there; what was sent may have been done."""


class NotRespError(Exception):
    """What answers is no Redis server."""


class ReplyError(Exception):
    """An error that the server answered with."""


def require_hiredis() -> None:
    """Raise if hiredis is missing.

    Raises:
        ConfigError: it is; the message says how to install it.
    """
    try:
        import hiredis  # noqa: F401
    except ImportError:
        raise ConfigError("RedisStreams needs hiredis: pip install 'trio-ticks[redis]'") from None


class Caller(Protocol):
    """Who takes commands to a server: a :class:`Connection`, or what stands for one."""

    usable: bool
    """Whether another call may be made."""

    async def call_all(
        self,
        commands: Sequence[Command],
        patience_s: float = 0.0,
        meanwhile: Meanwhile | None = None,
    ) -> list[Any]:
        """Send *commands* at once and return their replies.

        Args:
            commands: each with its arguments.
            patience_s: by how much longer the answer may take, in seconds, for a
                command that waits.
            meanwhile: is awaited between the sending and the reading of the replies,
                while the server works. The time that it takes is not the server's
                silence.

        Returns:
            A reply for each; an error reply is a :class:`ReplyError` among them.

        Raises:
            LostError: the connection broke, or the server was silent for too long.
            NotRespError: the answer is not Redis' protocol.
            Exception: what *meanwhile* raises; no other call may be made then.

        Cancellation: no other call may be made then.
        """
        ...

    async def call(self, *command: bytes | str | int) -> Any:
        """Send one command and return its reply.

        Raises:
            LostError: as :meth:`call_all`.
            NotRespError: as :meth:`call_all`.
            ReplyError: the server answered with an error.

        Cancellation: as :meth:`call_all`.
        """
        ...

    async def aclose(self) -> None:
        """Close the connection, without a word to the server.

        Cancellation: it is closed all the same.
        """
        ...


@final
class Connection:
    """A connection that was opened: a :class:`Caller`.

    Args:
        stream: the bytes to and from the server.
        timeout_s: how long the server may be silent before its answers are here, in
            seconds. A large answer may take longer, as long as more of it comes.
    """

    def __init__(self, stream: trio.abc.Stream, timeout_s: float) -> None:
        import hiredis

        self._stream = stream
        self._timeout_s = timeout_s
        self._pack: Callable[[Any], bytes] = hiredis.pack_command
        self._reader: Any = hiredis.Reader(
            protocolError=NotRespError, replyError=ReplyError, notEnoughData=_NOT_YET
        )
        self._busy = False
        self.usable = True
        """Whether another call may be made."""

    async def call_all(
        self,
        commands: Sequence[Command],
        patience_s: float = 0.0,
        meanwhile: Meanwhile | None = None,
    ) -> list[Any]:
        """Send *commands* at once and return their replies.

        Args, errors and cancellation: as :meth:`Caller.call_all`.
        """
        if not self.usable or self._busy:
            raise LostError("the connection was given up")
        # Until all replies are here. A call that ends early leaves this as it is.
        self.usable = False
        self._busy = True
        replies: list[Any] = []
        pack = self._pack
        patience_s += self._timeout_s
        data = b"".join([pack(each) for each in commands])
        try:
            with _own_errors(), trio.move_on_after(patience_s) as silence:
                await self._stream.send_all(data)
                if meanwhile is None:
                    await self._receive(replies, len(commands), silence)
            if meanwhile is not None and not silence.cancelled_caught:
                await meanwhile()
                with _own_errors(), trio.move_on_after(patience_s) as silence:
                    await self._receive(replies, len(commands), silence)
        finally:
            self._busy = False
        if len(replies) < len(commands):
            raise LostError(f"no answer within {patience_s:g} s")
        self.usable = True
        return replies

    async def _receive(self, replies: list[Any], count: int, silence: trio.CancelScope) -> None:
        reader = self._reader
        while True:
            while len(replies) < count:
                reply = reader.gets()
                if reply is _NOT_YET:
                    break
                replies.append(reply)
            if len(replies) == count:
                return
            data = await self._stream.receive_some(_READ)
            if not data:
                raise LostError("the server closed the connection")
            reader.feed(data)
            silence.deadline = max(silence.deadline, trio.current_time() + self._timeout_s)

    async def call(self, *command: bytes | str | int) -> Any:
        """Send one command and return its reply, as :meth:`Caller.call`."""
        (reply,) = await self.call_all([command])
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    async def aclose(self) -> None:
        """Close the connection, without a word to the server.

        Cancellation: it is closed all the same.
        """
        self.usable = False
        await trio.aclose_forcefully(self._stream)


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """Raise what breaks a connection as :class:`LostError`."""
    try:
        yield
    except trio.BrokenResourceError as error:
        raise LostError(_why(error)) from error
    except trio.ClosedResourceError as error:
        raise LostError("the connection was closed") from error


def _why(error: BaseException) -> str:
    """Return what broke a connection: trio hides it in the cause."""
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLError | OSError):
        return f"{type(cause).__name__}: {cause}"
    return "the connection broke"
