"""A proxy on real sockets that does to connections what networks do.

Plan: each connection to the proxy is one to the real server, and a :class:`Chaos` says
what happens to it: bytes take their time, come few at a time, are wrong, or the
connection ends in one of the ways in which connections end.

Rules: on 127.0.0.1 and a free port. A fault happens at a byte of one direction, so that
a test decides where, and not the scheduler.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Literal, final

import attrs
import trio

__all__ = ["CALM", "Chaos", "ChaosProxy", "chaos_proxy"]

_PIECE: Final = 16_384


@attrs.frozen(kw_only=True)
class Chaos:
    """What happens to one connection. Bytes are counted in each direction by itself."""

    latency_s: float = 0.0
    """How long each piece takes, each way, in seconds."""
    bytes_per_s: float | None = None
    """The bandwidth of each direction; ``None``: as much as there is."""
    piece: int = _PIECE
    """The most bytes that are handed on at once."""
    end: Literal["cut", "reset", "half", "stall"] | None = None
    """How it ends: both sides are closed; both get a reset; the direction to the client
    alone is closed; or nothing passes any more, and nobody is told."""
    end_after: int = 0
    """After how many bytes to the client."""
    corrupt_at: int | None = None
    """Which byte to the client is wrong."""


CALM: Final = Chaos()
"""Nothing happens."""


@final
class ChaosProxy:
    """Stands before the server at *port*.

    Args:
        port: of the server, on 127.0.0.1.
        plan: returns what happens to a connection, by its number from 0 on.
    """

    def __init__(self, port: int, plan: Callable[[int], Chaos]) -> None:
        self.port = 0
        """Its own."""
        self.plan = plan
        self.connections = 0
        self.ended = 0
        """Connections that were ended by their chaos."""
        self._upstream = port

    async def serve(self, client: trio.SocketStream) -> None:
        """Serve one connection until it has ended.

        Cancellation: both sides are closed.
        """
        chaos = self.plan(self.connections)
        self.connections += 1
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._upstream)
        except OSError:
            _reset(client)
            return
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump_up, client, server, chaos, nursery.cancel_scope)
            nursery.start_soon(self._pump_down, server, client, chaos, nursery.cancel_scope)

    async def _pump_up(
        self,
        client: trio.SocketStream,
        server: trio.SocketStream,
        chaos: Chaos,
        scope: trio.CancelScope,
    ) -> None:
        try:
            while data := await client.receive_some(chaos.piece):
                await _take_time(chaos, len(data))
                await server.send_all(data)
            await server.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            scope.cancel()

    async def _pump_down(
        self,
        server: trio.SocketStream,
        client: trio.SocketStream,
        chaos: Chaos,
        scope: trio.CancelScope,
    ) -> None:
        passed = 0
        try:
            while data := bytes(await server.receive_some(chaos.piece)):
                await _take_time(chaos, len(data))
                at = None if chaos.corrupt_at is None else chaos.corrupt_at - passed
                if at is not None and 0 <= at < len(data):
                    data = data[:at] + bytes((data[at] ^ 0x55,)) + data[at + 1 :]
                if chaos.end is not None and passed + len(data) > chaos.end_after:
                    await client.send_all(data[: chaos.end_after - passed])
                    await self._end(chaos, server, client, scope)
                    return
                passed += len(data)
                await client.send_all(data)
            await client.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            scope.cancel()

    async def _end(
        self,
        chaos: Chaos,
        server: trio.SocketStream,
        client: trio.SocketStream,
        scope: trio.CancelScope,
    ) -> None:
        self.ended += 1
        match chaos.end:
            case "stall":
                await trio.sleep_forever()
            case "half":
                await client.send_eof()
                # The server goes on, and nobody reads it.
                await trio.sleep_forever()
            case "reset":
                _reset(client)
                _reset(server)
                scope.cancel()
            case _:
                scope.cancel()


async def _take_time(chaos: Chaos, size: int) -> None:
    seconds = chaos.latency_s
    if chaos.bytes_per_s is not None:
        seconds += size / chaos.bytes_per_s
    if seconds:
        await trio.sleep(seconds)


def _reset(stream: trio.SocketStream) -> None:
    """Close *stream* so that the other side gets a reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@asynccontextmanager
async def chaos_proxy(
    port: int, plan: Callable[[int], Chaos] = lambda _number: CALM
) -> AsyncIterator[ChaosProxy]:
    """Run a proxy before the server at *port* for the time of the block."""
    proxy = ChaosProxy(port, plan)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, proxy.serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()
