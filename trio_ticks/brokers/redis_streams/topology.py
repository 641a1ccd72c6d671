"""Which server is asked: the one of the URL, a cluster's node, or a sentinel's master.

Sentinels are asked before each connection, since their answer changes with a failover.
A cluster's node says which other one has the buffer; that one is asked from then on,
until it does not answer.

Rules: nothing is sent here but what finds the server. Errors are those of
:mod:`.connection` and :mod:`.refusals`.
"""

from __future__ import annotations

import ssl
from typing import Final, final

import trio

from ...errors import BrokerError
from .addresses import Target
from .connection import Caller, Connection, LostError, NotRespError, ReplyError
from .refusals import judge

__all__ = ["Topology"]


async def log_in(connection: Caller, target: Target) -> None:
    """Send what opens *target* on a new connection, and choose the database.

    Raises:
        ReplyError: the server refuses.
        LostError: the connection is lost.

    Cancellation: the connection cannot be used any more.
    """
    if target.password is not None:
        name = (target.username,) if target.username else ()
        await connection.call("AUTH", *name, target.password)
    if target.database:
        await connection.call("SELECT", target.database)


@final
class Topology:
    """Opens connections to the server that has the buffer.

    Args:
        target: what the URL says.
        ssl_context: for TLS; the system's trusted certificates if ``None``.
        timeout_s: how long a server may take for an answer, in seconds.
        shown: the buffer, as it may be shown.
    """

    def __init__(
        self, target: Target, ssl_context: ssl.SSLContext | None, timeout_s: float, shown: str
    ) -> None:
        self._target: Final = target
        self._ssl_context = ssl_context
        self._timeout_s: Final = timeout_s
        self._shown: Final = shown
        self._turn = 0
        self._moved: tuple[str, int] | None = None
        self._asked = ("", 0)

    def moved(self, address: tuple[str, int]) -> None:
        """Ask the node at *address* from now on; no host means the one asked last."""
        self._moved = (address[0] or self._asked[0], address[1])

    async def open(self) -> Caller:
        """Return a connection to the server, with nobody logged in.

        Raises:
            LostError: it is not there, or no sentinel knows it.
            BrokerError: it is none that we can talk to.

        Cancellation: nothing is left open.
        """
        target = self._target
        if target.path is not None:
            return await self._connect(None)
        if target.master is not None:
            return await self._connect(await self._ask_sentinels(target.master))
        moved, self._moved = self._moved, None
        if moved is None:
            moved = target.addresses[self._turn % len(target.addresses)]
            self._turn += 1
            return await self._connect(moved)
        connection = await self._connect(moved)
        self._moved = moved
        return connection

    async def _ask_sentinels(self, master: str) -> tuple[str, int]:
        target = self._target
        why = "no sentinel answers"
        for _ in target.addresses:
            address = target.addresses[self._turn % len(target.addresses)]
            self._turn += 1
            try:
                connection = await self._connect(address)
            except LostError as error:
                why = str(error)
                continue
            try:
                if target.sentinel_password is not None:
                    name = (target.sentinel_username,) if target.sentinel_username else ()
                    await connection.call("AUTH", *name, target.sentinel_password)
                found = await connection.call("SENTINEL", "get-master-addr-by-name", master)
            except LostError as error:
                why = str(error)
                continue
            except (ReplyError, NotRespError) as error:
                raise self._refused(error, "a sentinel") from error
            finally:
                await connection.aclose()
            if found is not None:
                # The next connection asks the same sentinel first.
                self._turn -= 1
                return found[0].decode(), int(found[1])
            why = f"the sentinel knows no master {master!r}"
        raise LostError(f"{why} (asked {len(target.addresses)})")

    def _refused(self, error: Exception, what: str) -> Exception:
        if isinstance(error, ReplyError):
            return judge(f"{error}", f"{self._shown} ({what})")
        return BrokerError(f"{self._shown}: {what} answers, but is none", buffer=self._shown)

    async def _connect(self, address: tuple[str, int] | None) -> Caller:
        stream: trio.abc.Stream | None = None
        try:
            with trio.move_on_after(self._timeout_s):
                if address is None:
                    stream = await trio.open_unix_socket(self._target.path or "")
                else:
                    self._asked = address
                    stream = await trio.open_tcp_stream(*address)
                if self._target.tls and address is not None:
                    return await self._secure(stream, address[0])
                return Connection(stream, self._timeout_s)
        except OSError as error:
            raise LostError(f"{type(error).__name__}: {error}") from error
        if stream is not None:
            await trio.aclose_forcefully(stream)
        tls = " with TLS" if self._target.tls else ""
        raise LostError(f"no connection{tls} within {self._timeout_s:g} s")

    async def _secure(self, stream: trio.abc.Stream, host: str) -> Caller:
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        secured = trio.SSLStream(stream, self._ssl_context, server_hostname=host)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            cause = error.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError):
                advice = "give an ssl_context that trusts it"
            elif isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
                advice = "it speaks no TLS there; use redis:// or its TLS port"
            else:
                # Also a server that goes away in the middle.
                raise LostError(f"no TLS: {cause or error}") from error
            raise BrokerError(
                f"{self._shown}: no TLS with the server: {cause}; {advice}", buffer=self._shown
            ) from error
        return Connection(secured, self._timeout_s)
