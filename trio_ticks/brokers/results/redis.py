"""Results in a stream of Redis or Valkey, for any number of workers and readers.

An entry has the fields ``symbol``, ``place`` (``shard:position:index``; empty without a
buffer), ``attempt`` and ``value`` (MessagePack, unless *encode* says otherwise). A
result whose reply was lost is written again: then there are two entries with the same
place and attempt.

Rules: one connection, made when it is first needed and anew whenever it is lost. While
the server is away, ``ConnectionError`` is raised, so that the workers wait and come
again.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Sequence
from typing import Final, Self, final

from ...checks import check_count, check_seconds, check_text
from ...errors import BrokerError
from ...logs import Redactor
from ...results import Result
from ..redis_streams.addresses import parse_url
from ..redis_streams.connection import (
    Caller,
    Command,
    LostError,
    NotRespError,
    ReplyError,
    require_hiredis,
)
from ..redis_streams.refusals import MovedError, judge
from ..redis_streams.topology import Topology, log_in
from .together import Encode, Together, pack_value, place_of

__all__ = ["RedisResults"]


@final
class RedisResults:
    """Writes results to a stream of Redis, as ``results=`` of a pipeline.

    Args:
        url: of the server, as for ``RedisStreams``: ``redis://host:6379/0``.
        stream: the key of the stream. A server whose ``maxmemory-policy`` evicts keys
            may remove it, with all results in it; results that are to be kept need
            ``noeviction``.
        maxlen: about how many results it keeps; the oldest are removed. ``None``: all,
            so that whoever reads has to remove them.
        encode: turns a value into bytes; MessagePack unless given
            (``msgspec.json.encode`` for JSON). What it raises fails the tick.
        timeout: how many seconds the server may take for an answer.
        ssl_context: for ``rediss://``; the system's trusted certificates unless given.

    Raises:
        ConfigError: a setting is wrong, or hiredis is missing.
    """

    def __init__(
        self,
        url: str,
        stream: str = "results",
        *,
        maxlen: int | None = None,
        encode: Encode = pack_value,
        timeout: float = 5.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        check_text("stream", stream)
        check_count("maxlen", maxlen, or_none=True)
        check_seconds("timeout", timeout, positive=True)
        require_hiredis()
        self._target: Final = parse_url(url)
        self._stream, self._encode = stream, encode
        self._head: Command = ("XADD", stream)
        if maxlen is not None:
            self._head += ("MAXLEN", "~", maxlen)
        self.shown: Final = f"{self._target.shown} {stream}"
        """Where the results go, without a password."""
        self._redactor = Redactor(self._target.secrets)
        self._topology = Topology(self._target, ssl_context, timeout, self.shown)
        self._connection: Caller | None = None
        self._together = Together(self._write)

    def __repr__(self) -> str:
        return f"RedisResults({self._target.shown!r}, {self._stream!r})"

    async def __aenter__(self) -> Self:
        """Connect; a server that is away now is waited for with the first result.

        Raises:
            BrokerError: the server refuses us.

        Cancellation: nothing is left open.
        """
        with contextlib.suppress(ConnectionError):
            await self._call([("XLEN", self._stream)])
        return self

    async def __aexit__(self, *_reason: object) -> None:
        """Close the connection."""
        await self._close()  # noqa: ASYNC102  # by force, which does not wait

    async def __call__(self, result: Result, /) -> None:
        """Write *result*; see :meth:`write_many`.

        Cancellation: it may have been written.
        """
        await self.write_many([result])

    async def write_many(self, results: Sequence[Result], /) -> None:
        """Write *results* in order, with those of other workers that come meanwhile.

        Raises:
            ConnectionError: the server is away or full.
            BrokerError: it refuses us.
            Exception: a value cannot be encoded.

        Cancellation: they may have been written.
        """
        for result in results:
            self._encode(result.value)  # before others' results are among them
        await self._together.put(results)

    async def _write(self, results: list[Result]) -> None:
        await self._call(
            [
                (
                    *(*self._head, "*", "symbol", result.symbol, "place", place_of(result)),
                    *("attempt", result.attempt, "value", self._encode(result.value)),
                )
                for result in results
            ]
        )

    async def _call(self, commands: list[Command]) -> None:
        try:
            if self._connection is None or not self._connection.usable:
                await self._close()
                self._connection = await self._topology.open()
                await log_in(self._connection, self._target)
            for reply in await self._connection.call_all(commands):
                if isinstance(reply, ReplyError):
                    raise reply
        except ReplyError as error:
            other_type = (
                f"the key {self._stream!r:.100} holds something else than a stream; give another "
                "stream=, or delete the key"
            )
            text = self._redactor.text(str(error))
            judged = judge(text, self.shown, other_type=other_type)
            await self._close()  # noqa: ASYNC120  # by force
            if isinstance(judged, BrokerError):
                raise judged from None
            if isinstance(judged, MovedError):
                self._topology.moved(judged.address)
            raise ConnectionError(f"{self.shown}: {judged}") from None
        except (LostError, NotRespError) as error:
            await self._close()  # noqa: ASYNC120  # by force
            raise ConnectionError(f"{self.shown}: {self._redactor.excerpt(str(error))}") from error

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()
