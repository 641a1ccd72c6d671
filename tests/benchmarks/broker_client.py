"""Our Redis buffer with redis-py in threads for a client, to compare it in the whole.

redis-py is a synchronous client, so that each exchange with the server goes to a thread
and back. Everything else, the scripts, the packing and the leases, stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
import trio

from trio_ticks.brokers.redis_streams import topology
from trio_ticks.brokers.redis_streams.connection import (
    Caller,
    Command,
    LostError,
    Meanwhile,
    ReplyError,
)

# Its methods have no types.
_Connection: Any = redis.Connection

__all__ = ["ThreadedConnection", "use_redis_py"]


class ThreadedConnection(Caller):
    """A connection by redis-py.

    Args:
        stream: whose peer is connected to anew, by redis-py.
        timeout_s: as of our own connection.
    """

    def __init__(self, stream: trio.SocketStream, timeout_s: float) -> None:
        host, port = stream.socket.getpeername()
        stream.socket.close()
        self._connection: Any = _Connection(
            host=host, port=port, protocol=2, socket_timeout=timeout_s, lib_name=None
        )
        self._limiter = trio.CapacityLimiter(1)
        self.usable = True

    async def call_all(
        self,
        commands: Sequence[Command],
        patience_s: float = 0.0,
        meanwhile: Meanwhile | None = None,
    ) -> list[Any]:
        """Send *commands* at once and return their replies."""
        if not self.usable:
            raise LostError("the connection was given up")
        # A thread cannot be cancelled: a call that is leaves its answer behind.
        self.usable = False
        replies: list[Any] = []
        try:
            if meanwhile is None:
                replies = await self._in_thread(commands)
            else:

                async def exchange() -> None:
                    replies.extend(await self._in_thread(commands))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(exchange)
                    await meanwhile()
        except redis.ConnectionError as error:
            raise LostError(str(error)) from error
        self.usable = True
        return replies

    async def _in_thread(self, commands: Sequence[Command]) -> list[Any]:
        return await trio.to_thread.run_sync(
            self._exchange, commands, abandon_on_cancel=True, limiter=self._limiter
        )

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connection
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(connection.read_response())
            except redis.ResponseError as error:
                replies.append(ReplyError(str(error)))
        return replies

    async def call(self, *command: bytes | str | int) -> Any:
        """Send one command and return its reply."""
        (reply,) = await self.call_all([command])
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    async def aclose(self) -> None:
        """Close the connection."""
        self.usable = False
        self._connection.disconnect()
        await trio.lowlevel.checkpoint()


def use_redis_py() -> None:
    """Have all buffers of this process use redis-py."""
    vars(topology)["Connection"] = ThreadedConnection
