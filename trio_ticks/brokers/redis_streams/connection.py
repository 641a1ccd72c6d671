"""One connection to Redis: hiredis' parser and packer on a trio stream.

Replies come in the order of the commands. A call that is cancelled leaves replies on
the wire, which the next call would take for its own; so it makes the connection
unusable, and whoever uses it next has to open another.

Rules: RESP 2. Nothing here knows what the commands mean.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, final

import trio

from ...errors import ConfigError

__all__ = ["Command", "Connection", "LostError", "NotRespError", "ReplyError", "require_hiredis"]

Command = tuple[bytes | str | int, ...]

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


@final
class Connection:
    """A connection that was opened.

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

    async def call_all(self, commands: Sequence[Command], patience_s: float = 0.0) -> list[Any]:
        """Send *commands* at once and return their replies.

        Args:
            commands: each with its arguments.
            patience_s: by how much longer the answer may take, for a command that
                waits.

        Returns:
            A reply for each; an error reply is a :class:`ReplyError` among them.

        Raises:
            LostError: the connection broke, or the server was silent for too long.
            NotRespError: the answer is not Redis' protocol.

        Cancellation: the connection is unusable then.
        """
        if not self.usable or self._busy:
            raise LostError("the connection was given up")
        # Until all replies are here. A call that ends early leaves this as it is.
        self.usable = False
        self._busy = True
        replies: list[Any] = []
        pack = self._pack
        try:
            with trio.move_on_after(self._timeout_s + patience_s) as silence:
                await self._stream.send_all(b"".join([pack(each) for each in commands]))
                await self._receive(replies, len(commands), silence)
        except trio.BrokenResourceError as error:
            raise LostError(_why(error)) from error
        except trio.ClosedResourceError as error:
            raise LostError("the connection was closed") from error
        finally:
            self._busy = False
        if len(replies) < len(commands):
            raise LostError(f"no answer within {self._timeout_s + patience_s:g} s")
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
        """Send one command and return its reply.

        Raises:
            LostError: as :meth:`call_all`.
            NotRespError: as :meth:`call_all`.
            ReplyError: the server answered with an error.

        Cancellation: the connection is unusable then.
        """
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


def _why(error: BaseException) -> str:
    """Return what broke a connection: trio hides it in the cause."""
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLError | OSError):
        return f"{type(cause).__name__}: {cause}"
    return "the connection broke"
