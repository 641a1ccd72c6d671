"""The exchange itself: lets clients in, answers them, owns everything that runs, and ends it.

Rules: one nursery a connection, and a connection that fails takes nothing else with it. Whoever has come in is in ``_clients`` until
it has gone, and leaves through :meth:`Exchange._registered`, where it is counted.
"""

from __future__ import annotations

import hmac
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Unpack

import attrs
import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream

from ..log_limit import LogLimit
from .broadcast import Broadcast
from .client import Client, FrameStream
from .config import DEFAULT_SYMBOLS, ExchangeConfig, Settings
from .market import Market
from .recorded import RecordedMarket, open_recording
from .wire import answer, binary_frame, text_frame

__all__ = ["Exchange", "open_exchange", "serve_exchange"]

logger = logging.getLogger(__name__)

Listeners = list[trio.SocketListener] | list[trio.SSLListener[trio.SocketStream]]

HOST = "127.0.0.1"
MAX_REQUEST = 1 << 16
"""A larger message from a client closes its connection."""


class Exchange:
    """A local exchange, as :func:`open_exchange` and :func:`serve_exchange` hand it out; do not make one yourself.

    The counters are plain attributes to read at any time. Of the ticks that clients subscribed to, ``sent_by_symbol`` were put into their
    buffers, ``skipped`` found no room there, and ``throttled`` were left out at a client's wish; ``messages_sent`` went on to the system.
    """

    def __init__(self, config: ExchangeConfig, source: Market | RecordedMarket, port: int) -> None:
        self.config = config
        self.port = port
        self.finished = trio.Event()
        """Set when the recording, or the ``limit``, has come to its end and the clients have been told; or when the exchange closes."""
        self.connections = 0
        """Clients that were let in so far."""
        self.rejected: Counter[int] = Counter()
        """Clients that were not let in, by HTTP status."""
        self.disconnects: Counter[str] = Counter()
        """Clients that have gone, by reason. ``client`` and ``network`` are their own doing, ``ping_timeout`` and ``slow_consumer`` ours,
        for cause, ``dropped`` by :meth:`drop_clients`; ``finished`` and ``shutdown`` come at the end."""
        self.errors = 0
        """Connections that ended by an unexpected exception; it has been logged."""
        self.bad_requests = 0
        self._source = source
        self._log_limit = LogLimit(trio.current_time)
        self._clients: set[Client] = set()
        self._former_sent = self._former_skipped = 0
        self._former_queued: Counter[str] = Counter()
        self._broadcast = Broadcast(config, source, self._clients)
        self._broadcast_scope = trio.CancelScope()
        self._over = False
        self._refusal: tuple[int, tuple[tuple[str, str], ...]] | None = None
        self._answer_pings = True
        self._throttles = True
        self._former_throttled = 0

    @property
    def url(self) -> str:
        """Where to connect to."""
        return f"{'wss' if self.config.ssl_context else 'ws'}://{HOST}:{self.port}"

    @property
    def symbols(self) -> tuple[str, ...]:
        """What can be subscribed to."""
        return self._source.symbols

    @property
    def clients(self) -> int:
        """Clients that are connected now."""
        return len(self._clients)

    @property
    def messages_sent(self) -> int:
        """Messages handed to the system, acknowledgements not counted."""
        return self._former_sent + sum(client.messages_sent for client in self._clients)

    @property
    def skipped(self) -> int:
        """Ticks that found no room in a client's buffer."""
        return self._former_skipped + sum(client.skipped for client in self._clients)

    @property
    def throttled(self) -> int:
        """Ticks that were left out since a client had asked for no more."""
        return self._former_throttled + sum(client.throttled for client in self._clients)

    @property
    def max_rates(self) -> list[float]:
        """What the clients that are connected now have asked to be throttled to, in ticks a second."""
        return [client.max_rate for client in self._clients if client.max_rate is not None]

    @property
    def sent_by_symbol(self) -> dict[str, int]:
        """Ticks that were put into clients' buffers; all of them arrive while the connection lives, in order."""
        return dict(sum((client.queued for client in self._clients), self._former_queued))

    @property
    def generated(self) -> int:
        """Ticks made so far, subscribed to or not."""
        return self._broadcast.generated

    @property
    def behind(self) -> float:
        """Seconds by which the market has been put back since this machine could not keep up with it."""
        return self._broadcast.behind

    @property
    def waited(self) -> float:
        """Seconds for which a recording has stood still since a client had no room for more."""
        return self._broadcast.waited

    # What follows is for trying out how a feed takes it.

    def pause(self) -> None:
        """Fall silent with the sockets open. Pings are still sent and answered."""
        self._broadcast.pause()

    def resume(self) -> None:
        """Go on where :meth:`pause` stopped."""
        self._broadcast.resume()

    def answer_pings(self, yes: bool) -> None:
        """Answer the pings of clients, present and future, or leave them without an answer."""
        self._answer_pings = yes
        for client in self._clients:
            client.stream.answer_pings = yes

    def take_throttle_requests(self, yes: bool) -> None:
        """Let clients ask for a lower rate, or answer, as most venues would, that there is no such request."""
        self._throttles = yes

    def refuse(self, status: int | None, **headers: str) -> None:
        """Answer new clients with the HTTP *status*, until told otherwise by ``refuse(None)``.

        Args:
            status: from 300 to 599.
            headers: of the answer, ``retry_after="2"`` for ``Retry-After: 2``.
        """
        pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        self._refusal = None if status is None else (status, pairs)

    async def drop_clients(self) -> None:
        """End all connections without a farewell, and wait until they have gone.

        Cancellation: they end all the same.
        """
        clients = list(self._clients)
        for client in clients:
            client.kick("dropped")
        for client in clients:
            await client.gone.wait()

    async def inject(self, message: bytes | str) -> None:
        """Send *message* to all who subscribed to something, after what waits for them: text as a text message, bytes as a binary one.

        Cancellation: nothing has been sent.
        """
        await trio.lowlevel.checkpoint()
        frame = text_frame(message.encode()) if isinstance(message, str) else binary_frame(message)
        for client in self._clients:
            if client.subscription:
                client.inject(frame)

    async def wait_subscribed(self) -> None:
        """Wait until at least one client has subscribed to something.

        Cancellation: harmless.
        """
        while not any(client.subscription for client in self._clients):
            await self._broadcast.audience_changed.wait()

    # Connections

    async def _serve_client(self, transport: trio.abc.Stream) -> None:
        self._limit_socket(transport)
        stream = FrameStream(transport)
        try:
            async with trio.open_nursery() as nursery:
                await self._handshake(nursery, stream)
                nursery.cancel_scope.cancel()
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # It went away before it was a client.
        except* Exception:
            # The boundary between connections: whatever a client does, or trio-websocket makes of it, the others go on.
            self.errors += 1
            if times := self._log_limit.due("connection_failed"):
                logger.warning("exchange.connection_failed: %d times", times, exc_info=True, extra={"times": times})
        finally:
            await trio.aclose_forcefully(transport)

    def _limit_socket(self, transport: trio.abc.Stream) -> None:
        size = self.config.limits.socket_buffer_bytes
        raw = transport.transport_stream if isinstance(transport, trio.SSLStream) else transport
        if size is not None and isinstance(raw, trio.SocketStream):
            raw.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, size)

    async def _handshake(self, nursery: trio.Nursery, stream: FrameStream) -> None:
        limits = self.config.limits
        with trio.move_on_after(limits.handshake_timeout_s) as patience:
            stream.on_lost = patience.cancel
            request = await wrap_server_stream(nursery, stream, max_message_size=MAX_REQUEST)
            refusal = self._refuses(request)
            if refusal:
                await self._reject(request, *refusal)
                return
            connection = await request.accept()
        if not patience.cancelled_caught:
            stream.answer_pings = self._answer_pings
            client = Client(connection, stream, limits, scope=nursery.cancel_scope, on_room=self._broadcast.note_room)
            with self._registered(client):
                if self._over:  # The end came while it was being let in.
                    client.kick("finished")
                nursery.start_soon(client.write)
                if self.config.ping_interval is not None:
                    nursery.start_soon(client.ping, self.config.ping_interval, self.config.ping_timeout)
                await self._serve_requests(client, connection)

    async def _serve_requests(self, client: Client, connection: WebSocketConnection) -> None:
        while True:
            try:
                message = await connection.get_message()
                reply = answer(
                    message,
                    listed=frozenset(self.symbols),
                    subscription=client.subscription,
                    max_rate=client.max_rate,
                    throttles=self._throttles,
                )
                self.bad_requests += reply.bad
                # Not through the buffer: who asks without reading waits for his own answers. And before the data that it is about.
                await connection.send_message(reply.payload.decode())
            except ConnectionClosed:
                return
            client.follow(reply.subscription, reply.max_rate)
            self._broadcast.note_audience()

    @contextmanager
    def _registered(self, client: Client) -> Iterator[None]:
        self._clients.add(client)
        self.connections += 1
        try:
            yield
        finally:
            self._clients.discard(client)
            self.disconnects[client.close_reason()] += 1
            self._former_sent += client.messages_sent
            self._former_skipped += client.skipped
            if client.skipped and (times := self._log_limit.due("skipped")):
                facts = {"ticks": client.skipped, "reason": client.close_reason(), "times": times}
                text = "exchange.skipped ticks=%d reason=%s: a client had no room for them"
                logger.warning(text, client.skipped, client.close_reason(), extra=facts)
            self._former_throttled += client.throttled
            self._former_queued += client.queued
            client.gone.set()
            self._broadcast.note_audience()

    def _refuses(self, request: WebSocketRequest) -> tuple[int, str, tuple[tuple[str, str], ...]] | None:
        if self._refusal:
            status, headers = self._refusal
            return status, "REFUSED", headers
        if self._over:
            return 503, "ENDED", ()
        if self.config.api_key is not None:
            given = [value for name, value in request.headers if name.lower() == b"x-api-key"]
            if not given:
                return 401, "UNAUTHORIZED", ()
            if len(given) > 1 or not hmac.compare_digest(given[0], self.config.api_key.encode()):
                return 401, "INVALID_TOKEN", ()
        return None

    async def _reject(self, request: WebSocketRequest, status: int, code: str, headers: Sequence[tuple[str, str]]) -> None:
        self.rejected[status] += 1
        pairs = [(b"Content-Type", b"application/json"), *((name.encode(), value.encode()) for name, value in headers)]
        body = msgspec.json.encode({"code": code, "message": "this exchange does not let you in", "data": None})
        await request.reject(status, extra_headers=pairs, body=body)

    # The market, and the end

    async def _run_market(self) -> None:
        with self._broadcast_scope:
            await self._broadcast.run()
            await self._end("finished", code=1000, text="the end")

    async def _end(self, reason: str, *, code: int, text: str) -> None:
        self._over = True
        async with trio.open_nursery() as nursery:
            for client in self._clients:
                nursery.start_soon(partial(client.say_goodbye, reason, code=code, text=text))
        self.finished.set()

    async def _close(self) -> None:
        self._broadcast_scope.cancel()
        with trio.move_on_after(self.config.limits.close_timeout_s):
            await self._end("shutdown", code=1001, text="the exchange is closing")

    async def _run(self, listeners: Listeners, *, task_status: trio.TaskStatus[Exchange] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_market)
                await nursery.start(trio.serve_listeners, self._serve_client, listeners)
                task_status.started(self)
        finally:
            self._source.close()
            self.finished.set()


async def _open(config: ExchangeConfig) -> tuple[Exchange, Listeners]:
    source: Market | RecordedMarket
    if config.capture is None:
        symbols = config.symbols or DEFAULT_SYMBOLS
        source = Market(symbols, rate=config.rate, burst=config.burst, seed=config.seed, skew=config.skew)
    else:
        original_time = config.timestamps == "original"
        source = await open_recording(
            config.capture, symbols=config.symbols, speed=config.speed, loop=config.loop, original_time=original_time
        )
    listeners: Listeners
    try:
        if config.ssl_context is None:
            listeners = await trio.open_tcp_listeners(config.port, host=HOST)
        else:
            listeners = await trio.open_ssl_over_tcp_listeners(config.port, config.ssl_context, host=HOST, https_compatible=True)
    except BaseException:
        source.close()
        raise
    return Exchange(config, source, _port(listeners[0])), listeners


def _port(listener: trio.SocketListener | trio.SSLListener[trio.SocketStream]) -> int:
    socket = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
    assert isinstance(socket, trio.SocketListener)
    return int(socket.socket.getsockname()[1])


async def serve_exchange(config: ExchangeConfig, *, task_status: trio.TaskStatus[Exchange] = trio.TASK_STATUS_IGNORED) -> None:
    """Run a local exchange until cancelled; ``await nursery.start(serve_exchange, config)`` returns the :class:`Exchange` once it listens.

    After the end of a recording it goes on refusing clients (503); ``exchange.finished`` tells.

    Raises:
        ConfigError: the capture cannot be played.
        OSError: the port is taken.

    Cancellation: the connections just end, the port is free again.
    """
    exchange, listeners = await _open(config)
    await exchange._run(listeners, task_status=task_status)


def _config(config: ExchangeConfig | None, settings: Settings) -> ExchangeConfig:
    return ExchangeConfig(**settings) if config is None else attrs.evolve(config, **settings)


@asynccontextmanager
async def open_exchange(config: ExchangeConfig | None = None, /, **settings: Unpack[Settings]) -> AsyncIterator[Exchange]:
    """Open a local exchange on 127.0.0.1; leaving the block closes it.

    Example::

        async with open_exchange(symbols=["SPY", "QQQ"], rate=5000, burst=0.7) as exchange:
            feed = tt.WebSocketFeed(exchange.url, symbols=exchange.symbols)

    Args:
        config: everything in one value; or
        settings: the fields of :class:`ExchangeConfig`, by name (on top of *config*, if both are given).

    Raises:
        ConfigError: a setting makes no sense, or the capture cannot be played.
        OSError: the port is taken.

    Cancellation: leaving the block in peace tells the clients (code 1001) and may take up to ``limits.close_timeout_s``; when
    cancelled, the connections just end.
    """
    exchange, listeners = await _open(_config(config, settings))
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(exchange._run, listeners))
        try:
            yield exchange
        except (Exception, KeyboardInterrupt, SystemExit) as caught:
            # Raised below, outside the nursery: it is the user's own, and a group around it would bury it.
            error = caught
        else:
            await exchange._close()
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
