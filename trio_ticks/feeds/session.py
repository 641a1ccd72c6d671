"""One WebSocket connection, from dialling to closing: what is asked of a live one, and how it came to its end.

Rules: all its tasks live inside :meth:`Session.run`; however a connection ends, that is a value (:class:`Ended`), and only what is not
about the connection is raised: what the receiver of the messages raised, a cancellation, a bug.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, cast, final

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream
from wsproto.utilities import ProtocolError

from trio_ticks.socket_watch import SocketWatch

from .connect import ConnectFailed, HandshakeGate, OpenStream, Target, dial
from .frame_tap import FrameTap, fail_connection

__all__ = ["Ended", "Session", "SessionSettings"]

_CLOSE_TIMEOUT_S: Final = 1.0
_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_PROTOCOL_ERROR: Final = 1002


@attrs.frozen(kw_only=True)
class SessionSettings:
    """What a session needs to know besides whom to call."""

    target: Target
    headers: Sequence[tuple[bytes, bytes]] = attrs.field(repr=False)
    ssl_context: ssl.SSLContext | None
    open_stream: OpenStream
    max_message_size: int
    ping_interval: float | None
    pong_timeout: float
    stale_after: float | None
    connect_timeout: float


@attrs.frozen(kw_only=True)
class Ended:
    """How a connection came to its end."""

    reason: str
    """For people; may hold text from the server."""
    failure: ConnectFailed | None = None
    """Why it never came about; ``None`` where it did."""
    code: int | None = None
    """The WebSocket close code, if there was one."""
    violation: bool = False
    """The server broke the WebSocket protocol or the size limit; *code* is what it was told."""
    stale: bool = False
    """The watchdog ended it."""


@final
class Session:
    """One connection. Use it once.

    A connection is dead when a ping has gone unanswered for ``pong_timeout`` seconds *of listening*: time in which *deliver* holds the
    messages is not charged, since the pong may lie unread behind them. Other traffic is no answer: a pong that is so long behind
    the data it follows says that the data is just as late. And it is stale when no message has come for ``stale_after`` seconds; a
    pong is no message, or the silence of a venue that has forgotten our subscription would last for ever.

    Args:
        settings: whom to call, and what to ask of the connection.
        deliver: gets the messages, a batch a time; where it returns something to await, nothing is read until that is done.
        on_open: called once the WebSocket is open, before the requests are sent.
        next_requests: waits for more requests to send while the connection lives, and returns them.
        watches: where whoever may stand in for the reader finds the socket while the connection lives.
    """

    def __init__(
        self,
        settings: SessionSettings,
        deliver: Callable[[list[bytes]], Awaitable[None] | None],
        on_open: Callable[[], object],
        next_requests: Callable[[], Awaitable[Sequence[str | bytes]]] | None = None,
        watches: list[SocketWatch] | None = None,
    ) -> None:
        self._settings = settings
        self._deliver_to = deliver
        self._on_open = on_open
        self._next_requests = next_requests
        self._watches: Final = [] if watches is None else watches
        self._opened = False
        self._given_up: Ended | None = None
        self._now = trio.lowlevel.current_clock().current_time
        self._last_message = 0.0
        self._busy_since: float | None = None
        self._busy_s = 0.0

    async def run(self, requests: Sequence[str | bytes]) -> Ended:
        """Connect, send *requests*, and stay until the connection ends or proves to be dead.

        Raises:
            Exception: what ``deliver`` raised.

        Cancellation: the connection is closed, with a Close frame where that takes no longer than a second.
        """
        settings = self._settings
        deadline = trio.current_time() + settings.connect_timeout
        stream: trio.abc.Stream | None = None
        try:
            with trio.move_on_at(deadline):
                stream = await dial(settings.target, settings.ssl_context, settings.open_stream)
        except ConnectFailed as error:
            return Ended(reason=str(error), failure=error)
        if stream is None:
            return _never_opened(ConnectFailed(self._no_answer))
        tap = FrameTap(stream, self._deliver, max_message_size=settings.max_message_size, linger=_CLOSE_TIMEOUT_S)
        try:
            ended = await self._run_on(tap, requests, deadline)
        finally:
            await trio.aclose_forcefully(stream)
        if tap.error is not None:
            raise tap.error
        return ended

    @property
    def _no_answer(self) -> str:
        return f"no answer within {self._settings.connect_timeout:g} s"

    async def _run_on(self, tap: FrameTap, requests: Sequence[str | bytes], deadline: float) -> Ended:
        """Run the connection, and make an :class:`Ended` of a crash of trio-websocket's reader where that is the server's doing."""
        try:
            # What is expected ends _live() with a value: an exception out of this block is a cancellation, or about the reader.
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
            # Whatever it was, it came of parsing the server's answer, and may quote it: only its kind is shown.
            return _never_opened(ConnectFailed(f"the answer is no valid WebSocket handshake ({type(crash).__name__})"))
        if crashes.split(ProtocolError)[1] is None:
            return Ended(reason="a frame came when none was allowed", code=_PROTOCOL_ERROR)
        raise crash

    async def _live(self, nursery: trio.Nursery, tap: FrameTap, requests: Sequence[str | bytes], deadline: float) -> Ended:
        """Shake hands, subscribe, watch, close. trio-websocket's reader runs in *nursery*."""
        settings = self._settings
        gate = HandshakeGate(tap)
        ws: WebSocketConnection | None = None
        try:
            with trio.CancelScope(deadline=deadline) as opening:
                gate.on_failure = opening.cancel
                ws = await wrap_client_stream(
                    nursery, cast(Any, gate), settings.target.host_header, settings.target.resource, extra_headers=list(settings.headers)
                )
                self._opened = True
                self._last_message = trio.current_time()
                self._on_open()
                if tap.watch is not None:
                    self._watches.append(tap.watch)
                for request in requests:
                    await ws.send_message(request)
            if ws is None:
                return _never_opened(gate.verdict(self._no_answer))
            if opening.cancelled_caught:
                return Ended(reason="the server does not take our requests")
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
        return Ended(reason=why.reason or "closed by the server", code=why.code, violation=tap.violation is not None)

    async def _close(self, ws: WebSocketConnection, tap: FrameTap) -> None:
        with trio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
            if tap.close_reason is None and tap.error is None:
                await fail_connection(ws, tap, _NORMAL if self._given_up is None else _GOING_AWAY)
            else:
                await tap.aclose()

    def _deliver(self, messages: list[bytes]) -> Awaitable[None] | None:
        waits = self._deliver_to(messages)
        self._last_message = self._now()
        return None if waits is None else self._wait(waits)

    async def _wait(self, delivered: Awaitable[None]) -> None:
        self._busy_since = self._last_message
        await delivered
        self._last_message = self._now()
        self._busy_s += self._last_message - self._busy_since
        self._busy_since = None

    def _listened(self) -> float:
        """Return the time that was not spent in delivering, on a clock of its own, in seconds."""
        now = trio.current_time() if self._busy_since is None else self._busy_since
        return now - self._busy_s

    async def _watch(self, ws: WebSocketConnection) -> None:
        """Return when the connection has ended, or has been given up."""
        async with trio.open_nursery() as nursery:
            if self._settings.ping_interval is not None:
                nursery.start_soon(self._ping_forever, ws, self._settings.ping_interval, nursery.cancel_scope)
            if self._settings.stale_after is not None:
                nursery.start_soon(self._watch_messages, self._settings.stale_after, nursery.cancel_scope)
            if self._next_requests is not None:
                nursery.start_soon(self._send_requests, ws, self._next_requests)
            await _wait_closed(ws)
            nursery.cancel_scope.cancel()

    async def _send_requests(self, ws: WebSocketConnection, next_requests: Callable[[], Awaitable[Sequence[str | bytes]]]) -> None:
        with suppress(ConnectionClosed):
            while True:
                for request in await next_requests():
                    await ws.send_message(request)

    async def _watch_messages(self, stale_after: float, connection: trio.CancelScope) -> None:
        while True:
            now = trio.current_time()
            due = (now if self._busy_since is not None else self._last_message) + stale_after
            if due <= now:
                self._given_up = Ended(reason=f"no message for {stale_after:g} s", stale=True)
                connection.cancel()
                return
            await trio.sleep_until(due)

    async def _ping_forever(self, ws: WebSocketConnection, interval: float, connection: trio.CancelScope) -> None:
        while True:
            await trio.sleep(interval)
            if not await self._ping(ws):
                self._given_up = Ended(reason=f"no pong within {self._settings.pong_timeout:g} s")
                connection.cancel()
                return

    async def _ping(self, ws: WebSocketConnection) -> bool:
        """Return whether a ping was answered in time, or need not be since the connection has ended."""
        answered = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._limit_listening, self._settings.pong_timeout, nursery.cancel_scope)
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
            # While delivering, the time left stands still: a small rest of it must not become a busy loop.
            await trio.sleep(max(left, limit / 20))
        scope.cancel()


async def _wait_closed(ws: WebSocketConnection) -> None:
    """Wait until trio-websocket's reader has seen the end."""
    try:
        while True:
            await ws.get_message()  # there are none: the tap keeps them
    except ConnectionClosed:
        pass


def _never_opened(failure: ConnectFailed) -> Ended:
    return Ended(reason=str(failure), failure=failure)


def _innermost(error: BaseException) -> BaseException:
    """Return what a group holds if that is one exception, however deep."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
