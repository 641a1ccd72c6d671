"""What the WebSocket feed's tests share: scripted venues, and a channel's stand-in.

The venues are in memory.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import trio
from trio.testing import memory_stream_pair
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from trio_ticks.events import FeedEvent
from trio_ticks.feeds.websocket.backoff import BackoffPolicy
from trio_ticks.feeds.websocket.feed import WebSocketFeed
from trio_ticks.gaps import Gap
from trio_ticks.ticks import Tick

WHEN = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)

Script = Callable[[trio.abc.Stream], Awaitable[None]]
Handler = Callable[[WebSocketConnection], Awaitable[None]]

NO_JITTER = BackoffPolicy(uniform=lambda: 1.0)


def quote(symbol: str = "SPY", volume: int = 0) -> str:
    return json.dumps(
        {
            "symbol": symbol,
            "timestamp": "2026-03-02T14:30:00Z",
            "bid": 1,
            "ask": 2,
            "bid_size": 3,
            "ask_size": 4,
            "volume": volume,
        }
    )


def tick(symbol: str = "SPY", volume: int = 0) -> Tick:
    return Tick(symbol, WHEN, 1, 2, 3, 4, volume)


class Collector:
    """Stands for a send channel, and writes down what a feed reports."""

    def __init__(self, behave: Callable[[int], Awaitable[None]] | None = None) -> None:
        self.ticks: list[Tick] = []
        self.gaps: list[Gap] = []
        self.events: list[FeedEvent] = []
        self._behave = behave
        self._arrived = trio.Event()

    async def send_many(self, ticks: Sequence[Tick]) -> None:
        self.ticks += ticks
        self._arrived.set()
        if self._behave is not None:
            await self._behave(len(self.ticks))
        await trio.lowlevel.checkpoint()

    def mark_gap(self, gap: Gap, *, book: bool = False) -> None:
        self.gaps.append(gap)

    def report_event(self, event: FeedEvent) -> None:
        self.events.append(event)

    async def wait_for(self, number: int) -> None:
        while len(self.ticks) < number:
            self._arrived = trio.Event()
            await self._arrived.wait()


class MemoryVenue:
    """A venue without a network: the next script plays each connection.

    The last script plays all further connections. A script gets the server's end of the
    stream; if an exception stands in its place, connecting raises it.
    """

    def __init__(self, nursery: trio.Nursery, *scripts: Script | Exception) -> None:
        self._nursery = nursery
        self._scripts = scripts
        self.dialled_at: list[float] = []
        self.streams: list[trio.abc.Stream] = []

    @property
    def gaps(self) -> list[float]:
        """How long it took from one connection to the next."""
        return [round(b - a, 6) for a, b in zip(self.dialled_at, self.dialled_at[1:], strict=False)]

    async def open_stream(self, _host: str, _port: int) -> trio.abc.Stream:
        script = self._scripts[min(len(self.dialled_at), len(self._scripts) - 1)]
        self.dialled_at.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if isinstance(script, Exception):
            raise script
        client, server = memory_stream_pair()
        self.streams.append(client)
        self._nursery.start_soon(script, server)
        return client


class Log:
    """What a WebSocket script has seen."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.keys: list[bytes | None] = []
        self.requests: list[Any] = []
        self.close_codes: list[int] = []


def websocket(
    handler: Handler,
    log: Log | None = None,
    *,
    cut: bool = False,
    reads_first: bool = True,
) -> Script:
    """Make a script that accepts the WebSocket, runs *handler*, and closes.

    It reads the subscription before it runs *handler*, if *reads_first*.
    """
    log = log or Log()

    async def script(stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            log.paths.append(request.path)
            log.keys.append(dict(request.headers).get(b"x-api-key"))
            ws = await request.accept()
            try:
                if reads_first:
                    log.requests.append(json.loads(await ws.get_message()))
                await handler(ws)
            except Exception as error:
                if type(error).__name__ != "ConnectionClosed":
                    raise
            if ws.closed is not None:
                log.close_codes.append(ws.closed.code)
            if not cut:
                with trio.move_on_after(5):
                    await ws.aclose()
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)

    return script


async def until_closed(talk: Handler, ws: WebSocketConnection) -> None:
    """Let *talk* run on *ws*, until the connection is closed by either side."""
    with suppress(ConnectionClosed):
        await talk(ws)


async def stay(ws: WebSocketConnection) -> None:
    """Say nothing, but answer pings."""
    while True:
        await ws.get_message()


def says(*messages: str | bytes, then: Handler = stay) -> Handler:
    async def handler(ws: WebSocketConnection) -> None:
        for message in messages:
            await ws.send_message(message)
        await then(ws)

    return handler


async def leave(_ws: WebSocketConnection) -> None:
    """Close at once."""


def answers(text: str | bytes, *, stays: bool = False) -> Script:
    """Make a script that answers the request with these bytes, and closes.

    With *stays* it does not close, and sends nothing more.
    """

    async def script(stream: trio.abc.Stream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            data = await stream.receive_some(4096)
            if not data:
                return
            request += bytes(data)
        try:
            await stream.send_all(text.encode() if isinstance(text, str) else text)
            while stays and await stream.receive_some(4096):
                pass
        except trio.BrokenResourceError:
            pass
        await stream.aclose()

    return script


@asynccontextmanager
async def running(feed: WebSocketFeed, send: Collector) -> AsyncIterator[trio.CancelScope]:
    """Run *feed* during the block, and cancel it at the end."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run, send)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def memory_feed(
    *scripts: Script | Exception, **options: Any
) -> AsyncIterator[tuple[WebSocketFeed, MemoryVenue]]:
    """Make a feed, not running yet, of a venue that plays *scripts*.

    The test gets at most two virtual days.
    """
    with trio.fail_after(2 * 24 * 3600):
        async with trio.open_nursery() as nursery:
            venue = MemoryVenue(nursery, *scripts)
            options = {
                "url": "ws://venue.test/feed",
                "symbols": ["SPY", "QQQ"],
                "backoff": NO_JITTER,
                **options,
            }
            yield WebSocketFeed(open_stream=venue.open_stream, **options), venue
            nursery.cancel_scope.cancel()
