"""One WebSocket connection, from dialling to closing, and how it ended.

Plan: :meth:`Session.run` dials, puts a :class:`FrameTap` on the stream, lets
trio-websocket shake hands over it, sends the subscription, and then watches: one task
sends pings, one watches for silence, one sends the outbox, and trio-websocket's
reader runs the tap, which delivers the messages. The first of them to see an end
cancels the others.

Rules: all tasks end inside :meth:`Session.run`. Every end of a connection is a value
(:class:`Ended`). Raised is only what is no end of the connection: an exception of the
receiver of the messages, a cancellation, a bug.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast, final

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream
from wsproto.utilities import ProtocolError

from ..venues.base import KeepAlive
from .connect import ConnectFailed, OpenStream, Target
from .dial import dial
from .extensions import OFFER, Compression
from .frame_tap import FrameTap, fail_connection
from .handshake import HandshakeGate
from .outbox import Outbox
from .pacing import Pace
from .proxy import Proxy
from .socket_watch import SocketWatch

__all__ = ["Ended", "Session", "SessionSettings"]

_CLOSE_TIMEOUT_S: Final = 1.0
_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_PROTOCOL_ERROR: Final = 1002


@attrs.frozen(kw_only=True)
class SessionSettings:
    """The address, the credentials and the limits of a feed's sessions."""

    target: Target = attrs.field(repr=False)
    headers: Sequence[tuple[bytes, bytes]] = attrs.field(repr=False)
    ssl_context: ssl.SSLContext | None
    open_stream: OpenStream
    max_message_size: int
    ping_interval: float | None
    pong_timeout: float
    stale_after: float | None
    connect_timeout: float
    keep_alive: KeepAlive | None = None
    messages_per_s: int | None = None
    subscribe_within_s: float | None = None
    subprotocols: Sequence[str] = attrs.field(default=(), repr=False)
    proxy: Proxy | None = None
    proxy_ssl_context: ssl.SSLContext | None = None
    """For a proxy that speaks TLS itself."""
    compression: Compression | None = None
    """Offered to the server."""
    needs_compression: bool = False
    """The connection fails if the server does not accept *compression*."""


@attrs.frozen(kw_only=True)
class Ended:
    """How a connection ended."""

    reason: str
    """For people to read; may hold text from the server."""
    failure: ConnectFailed | None = None
    """Why the connection never opened; ``None`` if it did."""
    code: int | None = None
    """The WebSocket close code, if there was one."""
    violation: bool = False
    """The server broke the WebSocket protocol or the size limit.

    *code* is then the one that we sent.
    """
    stale: bool = False
    """The connection was given up because no data arrived for too long."""
    pings_answered: bool = False
    """The silent connection was healthy: the venue answers pings."""
    wished: bool = False
    """This side wanted another connection; nothing was wrong with this one."""


@final
class Session:
    """One connection. Use it once.

    A connection is dead if a ping is unanswered after ``pong_timeout`` seconds *of
    listening*. Time in which *deliver* holds messages does not count, since the pong
    may lie unread behind them. Other traffic does not count as an answer: if the pong
    is late behind the data that it follows, the data is just as late.

    A connection is stale if no market data has arrived for ``stale_after`` seconds.
    Heartbeats, acknowledgements and pongs are no data: otherwise a venue that has lost
    our subscription would never be given up. Before it is given up, a ping tells
    whether it is only quiet.

    Args:
        settings: the address, the credentials and the limits.
        deliver: called with each batch of messages; if it returns an awaitable, nothing
            is read until that is done. It calls :meth:`data_arrived` if there was
            market data in the batch.
        on_open: called once the WebSocket is open, before the requests are sent.
        outbox: the messages to send while the connection is open; anybody may add to
            them.
        watches: while the connection is open, it holds the socket, for idle workers
            that wait for it in the reader's place.
        expects_data: tells whether market data is to be expected at all now.
    """

    def __init__(
        self,
        settings: SessionSettings,
        deliver: Callable[[list[bytes]], Awaitable[None] | None],
        on_open: Callable[[], object],
        outbox: Outbox | None = None,
        watches: list[SocketWatch] | None = None,
        expects_data: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._deliver_to = deliver
        self._on_open = on_open
        self._outbox = Outbox() if outbox is None else outbox
        self._watches: Final = [] if watches is None else watches
        self._expects_data = expects_data
        self._pace = Pace(settings.messages_per_s, 1.0)
        self._opened = False
        self._given_up: Ended | None = None
        self._connection: trio.CancelScope | None = None
        self._now = trio.lowlevel.current_clock().current_time
        self._last_data = 0.0
        self._pong = trio.Event()
        # The time spent in deliveries, and the beginning of the current one.
        self._busy_since: float | None = None
        self._busy_s = 0.0

    def data_arrived(self, now: float) -> None:
        """Notice that the batch being delivered, at *now*, has market data in it."""
        self._last_data = now

    @property
    def is_busy(self) -> bool:
        """Whether a full channel keeps it from reading now."""
        return self._busy_since is not None

    def pong_arrived(self) -> None:
        """Notice that the venue has answered the keep-alive message."""
        self._pong.set()

    def give_up(self, ended: Ended) -> None:
        """Close the connection, and have :meth:`run` return *ended*."""
        if self._given_up is None:
            self._given_up = ended
        if self._connection is not None:
            self._connection.cancel()

    async def run(self, requests: Sequence[str | bytes]) -> Ended:
        """Connect, send *requests*, and wait until the connection ends or is given up.

        Raises:
            Exception: from ``deliver``, as it is.

        Cancellation: the connection is closed, with a Close frame if that takes no
        longer than a second.
        """
        settings = self._settings
        deadline = trio.current_time() + settings.connect_timeout
        stream: trio.abc.Stream | None = None
        try:
            with trio.move_on_at(deadline):
                stream = await dial(
                    settings.target,
                    settings.ssl_context,
                    settings.open_stream,
                    settings.proxy,
                    settings.proxy_ssl_context,
                )
        except ConnectFailed as error:
            return Ended(reason=str(error), failure=error)
        if stream is None:
            return _never_opened(ConnectFailed(_no_answer(settings)))
        tap = FrameTap(
            stream,
            self._deliver,
            max_message_size=settings.max_message_size,
            linger=_CLOSE_TIMEOUT_S,
            offers_deflate=settings.compression is not None,
            # The other half of the time is for the Close frame.
            answered=partial(self._outbox.wait_sent, _CLOSE_TIMEOUT_S / 2),
        )
        try:
            ended = await self._run_on(tap, requests, deadline)
        finally:
            await trio.aclose_forcefully(stream)
        if tap.error is not None:
            raise tap.error
        return ended

    async def _run_on(
        self, tap: FrameTap, requests: Sequence[str | bytes], deadline: float
    ) -> Ended:
        """Run the connection on *tap*.

        An exception of trio-websocket's reader that the server caused becomes an
        :class:`Ended`.
        """
        try:
            # All expected ends are return values of _live(). So an exception from this
            # block is a cancellation, or comes from trio-websocket's reader.
            async with trio.open_nursery() as nursery:
                ended = await self._live(nursery, tap, requests, deadline)
                nursery.cancel_scope.cancel()
            return ended
        except BaseExceptionGroup as group:
            cancelled, crashes = group.split(trio.Cancelled)
            if crashes is None:
                raise
            crash = _innermost(crashes)
        if not isinstance(crash, Exception):
            raise crash
        if cancelled is not None:
            raise cancelled
        if not self._opened:
            # The exception came from parsing the server's answer and may quote it, with
            # the key in it: show only its type.
            return _never_opened(
                ConnectFailed(
                    f"the answer is no valid WebSocket handshake ({type(crash).__name__})"
                )
            )
        if crashes.split(ProtocolError)[1] is None:
            # After this side has given the connection up, pings that had been read
            # before make trio-websocket fail like that: it would answer them.
            if self._given_up is not None:
                return self._given_up
            return Ended(reason="a frame came when none was allowed", code=_PROTOCOL_ERROR)
        raise crash

    async def _live(
        self, nursery: trio.Nursery, tap: FrameTap, requests: Sequence[str | bytes], deadline: float
    ) -> Ended:
        """Shake hands, subscribe, watch, close.

        trio-websocket's reader runs in *nursery*.
        """
        settings = self._settings
        offer = [] if settings.compression is None else [OFFER]
        gate = HandshakeGate(
            tap,
            str(settings.target),
            offers_deflate=bool(offer),
            needs_deflate=settings.needs_compression,
        )
        ws: WebSocketConnection | None = None
        try:
            with trio.CancelScope(deadline=deadline) as opening:
                gate.on_failure = opening.cancel
                ws = await wrap_client_stream(
                    nursery,
                    cast(Any, gate),
                    settings.target.host_header,
                    settings.target.resource,
                    subprotocols=list(settings.subprotocols),
                    extra_headers=[*settings.headers, *offer],
                )
                self._opened = True
                self._last_data = trio.current_time()
                self._on_open()
                if tap.watch is not None:
                    self._watches.append(tap.watch)
                if settings.subscribe_within_s is not None:
                    opening.deadline = min(
                        opening.deadline, self._last_data + settings.subscribe_within_s
                    )
                # The first request shows whether the venue takes any. The others may
                # have to wait for their turn.
                for request in requests[:1]:
                    await self._send(ws, request)
            if ws is None:
                return _never_opened(gate.verdict(_no_answer(settings)))
            if opening.cancelled_caught:
                return Ended(reason="the server does not take our requests")
            self._outbox.put_first(requests[1:])
            await self._watch(ws)
        except ConnectionClosed:
            pass
        finally:
            if tap.watch in self._watches:
                self._watches.remove(tap.watch)
            if ws is not None:
                await self._close(ws, tap)  # noqa: ASYNC102  # bounded and shielded in there
        if self._given_up is not None:
            return self._given_up
        why = tap.close_reason
        if why is None:
            return Ended(reason="the connection was lost")
        return Ended(
            reason=why.reason or "closed by the server",
            code=why.code,
            violation=tap.violation is not None,
        )

    async def _close(self, ws: WebSocketConnection, tap: FrameTap) -> None:
        with trio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
            if tap.untold is not None:
                # Nobody sends answers any more.
                await fail_connection(ws, tap, *tap.untold)
            elif tap.close_reason is None and tap.error is None:
                await fail_connection(ws, tap, _NORMAL if self._given_up is None else _GOING_AWAY)
            else:
                await tap.aclose()

    def _deliver(self, messages: list[bytes]) -> Awaitable[None] | None:
        waits = self._deliver_to(messages)
        return None if waits is None else self._wait(waits)

    async def _wait(self, delivered: Awaitable[None]) -> None:
        busy_since = self._busy_since = self._now()
        await delivered
        now = self._now()
        if self._last_data >= busy_since:
            self._last_data = now
        self._busy_s += now - busy_since
        self._busy_since = None

    def _listened(self) -> float:
        """Return a clock, in seconds, that stands still while a delivery lasts."""
        now = trio.current_time() if self._busy_since is None else self._busy_since
        return now - self._busy_s

    async def _watch(self, ws: WebSocketConnection) -> None:
        """Wait until the connection has ended or is given up."""
        settings = self._settings
        async with trio.open_nursery() as nursery:
            self._connection = nursery.cancel_scope
            if self._given_up is not None:
                nursery.cancel_scope.cancel()
            if settings.ping_interval is not None:
                nursery.start_soon(self._ping_forever, ws, settings.ping_interval)
            if settings.stale_after is not None:
                nursery.start_soon(self._watch_data, ws, settings.stale_after)
            if settings.keep_alive is not None:
                nursery.start_soon(self._keep_alive, ws, settings.keep_alive)
            nursery.start_soon(self._send_requests, ws)
            await _wait_closed(ws)
            nursery.cancel_scope.cancel()

    async def _send(self, ws: WebSocketConnection, message: str | bytes) -> None:
        """Send *message* as soon as the venue's limit allows it."""
        moment = self._pace.reserve(trio.current_time())
        if moment > trio.current_time():
            await trio.sleep_until(moment)
        await ws.send_message(message)

    async def _send_requests(self, ws: WebSocketConnection) -> None:
        with suppress(ConnectionClosed):
            while True:
                message = await self._outbox.take()
                if self._outbox.overfull:
                    self.give_up(Ended(reason="the venue takes fewer messages than it asks for"))
                await self._send(ws, message)

    async def _keep_alive(self, ws: WebSocketConnection, keep_alive: KeepAlive) -> None:
        with suppress(ConnectionClosed):
            while True:
                await trio.sleep(keep_alive.every_s)
                self._pong = trio.Event()
                await self._send(ws, keep_alive.message)
                if keep_alive.within_s is None:
                    continue
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        self._limit_listening, keep_alive.within_s, nursery.cancel_scope
                    )
                    await self._pong.wait()
                    nursery.cancel_scope.cancel()
                if not self._pong.is_set():
                    self.give_up(
                        Ended(reason=f"no answer to a keep-alive in {keep_alive.within_s:g} s")
                    )

    async def _watch_data(self, ws: WebSocketConnection, stale_after: float) -> None:
        while True:
            now = trio.current_time()
            due = (now if self._busy_since is not None else self._last_data) + stale_after
            if due <= now and not self._expects_data():
                # The time counts from the opening of the market.
                self._last_data = now
                continue
            if due <= now:
                # Only a venue that answers now is known to be quiet, and not dead.
                answered = self._settings.ping_interval is not None and await self._ping(ws)
                if self._last_data + stale_after > now:
                    continue
                reason = f"no market data for {stale_after:g} s"
                self.give_up(Ended(reason=reason, stale=True, pings_answered=answered))
                return
            await trio.sleep_until(due)

    async def _ping_forever(self, ws: WebSocketConnection, interval: float) -> None:
        while True:
            await trio.sleep(interval)
            if not await self._ping(ws):
                self.give_up(Ended(reason=f"no pong within {self._settings.pong_timeout:g} s"))
                return

    async def _ping(self, ws: WebSocketConnection) -> bool:
        """Send a ping; return False if it is not answered in time.

        If the connection ends meanwhile, the ping needs no answer, and the result is
        True.
        """
        answered = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                self._limit_listening, self._settings.pong_timeout, nursery.cancel_scope
            )
            with suppress(ConnectionClosed, ProtocolError):
                await ws.ping()
            answered = True
            nursery.cancel_scope.cancel()
        return answered

    async def _limit_listening(self, limit: float, scope: trio.CancelScope) -> None:
        """Cancel *scope* after *limit* seconds of listening."""
        end = self._listened() + limit
        while True:
            left = end - self._listened()
            if left <= 0:
                break
            # During a delivery the time left does not shrink. If little is left,
            # waiting only for that would be a busy loop.
            await trio.sleep(max(left, limit / 20))
        scope.cancel()


async def _wait_closed(ws: WebSocketConnection) -> None:
    """Wait until trio-websocket's reader has seen the end."""
    try:
        while True:
            # It never returns: the tap takes all messages.
            await ws.get_message()
    except ConnectionClosed:
        pass


def _no_answer(settings: SessionSettings) -> str:
    return f"no answer within {settings.connect_timeout:g} s"


def _never_opened(failure: ConnectFailed) -> Ended:
    return Ended(reason=str(failure), failure=failure)


def _innermost(error: BaseException) -> BaseException:
    """Return the one exception inside nested groups; a group of several as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
