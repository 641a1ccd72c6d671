"""A local Coinbase on 127.0.0.1: Exchange or Advanced Trade, with limits and faults.

It plays a made-up market (:mod:`.market`), or a recording in its own words.

Rules: one nursery owns everything. A client that breaks a limit of the venue is sent
away as the venue does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Unpack, final

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, wrap_server_stream

from ..client import Client, FrameStream
from ..door import Door
from .config import CoinbaseConfig, CoinbaseSettings
from .market import ProductMarket
from .recorded import open_recorded_messages
from .session import Ended, Session
from .stage import Stage
from .words import AdvancedTongue, ExchangeTongue, Tongue

__all__ = ["CoinbaseExchange", "open_coinbase_exchange"]

_HOST: Final = "127.0.0.1"
_MAX_REQUEST: Final = 1 << 16
_CONNECTS_PER_S: Final = 8
_CONNECTS_AT_ONCE: Final = 20


@final
class CoinbaseExchange:
    """A local Coinbase; :func:`open_coinbase_exchange` hands it out.

    The counters are plain values to read at any time.
    """

    def __init__(self, config: CoinbaseConfig, tongue: Tongue, stage: Stage) -> None:
        self.config = config
        self.port = 0
        self.connections = 0
        """Clients that were let in so far."""
        self.rejected: Counter[int] = Counter()
        """Clients that were not let in, by HTTP status."""
        self.disconnects: Counter[str] = Counter()
        """Clients that have gone, by reason."""
        self.bad_requests = 0
        """Requests that made no sense, or were refused."""
        self._door = Door(config.limits.clients)
        self._tongue = tongue
        self._stage = stage
        self._connects_left: float = _CONNECTS_AT_ONCE
        """Connections that are allowed at once; more are with time."""
        self._connects_at = trio.current_time()

    @property
    def url(self) -> str:
        """Where to connect to."""
        return f"{'wss' if self.config.ssl_context else 'ws'}://{_HOST}:{self.port}"

    @property
    def market(self) -> ProductMarket:
        """The made-up market, whose books a test can compare with its own."""
        return self._stage.market

    @property
    def symbols(self) -> tuple[str, ...]:
        """The products that can be subscribed to."""
        return tuple(self.market.products)

    @property
    def clients(self) -> int:
        """Clients that are connected now."""
        return len(self._stage.clients)

    @property
    def played(self) -> int:
        """Changes of the market, or messages of the recording, so far."""
        return self._stage.played

    @property
    def finished(self) -> trio.Event:
        """Set after the end, when the clients have got everything.

        It comes with the end of the recording, with the limit, or with the block's end.
        """
        return self._stage.finished

    def pause(self) -> None:
        """Let the market stand still; heartbeats go on."""
        self._stage.pause(True)

    def resume(self) -> None:
        """Go on where :meth:`pause` stopped."""
        self._stage.pause(False)

    def drop_clients(self) -> None:
        """End all connections without a farewell."""
        for client in self._stage.clients:
            client.kick("dropped")

    async def serve_client(self, transport: trio.abc.Stream) -> None:
        """Serve one connection.

        Cancellation: ends it without a Close.
        """
        stream = FrameStream(transport)
        stream.answer_pings = "no-pong" not in self.config.faults
        try:
            with self._door.connection() as room:
                if not room:
                    self.rejected[503] += 1
                    return
                async with trio.open_nursery() as nursery:
                    await self._handshake(nursery, stream)
                    nursery.cancel_scope.cancel()
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # It went away.
        finally:
            await trio.aclose_forcefully(transport)

    def _refusal(self) -> int | None:
        """Return the HTTP status by which a new client is refused, if it is."""
        now = trio.current_time()
        saved = self._connects_left + (now - self._connects_at) * _CONNECTS_PER_S
        self._connects_left, self._connects_at = min(saved, _CONNECTS_AT_ONCE), now
        if self._connects_left < 1:
            return 429
        self._connects_left -= 1
        return 503 if self._stage.over else None

    async def _handshake(self, nursery: trio.Nursery, stream: FrameStream) -> None:
        limits = self.config.limits
        request: WebSocketRequest | None = None
        with trio.move_on_after(limits.handshake_timeout_s) as patience:
            stream.on_lost = patience.cancel
            request = await wrap_server_stream(nursery, stream, max_message_size=_MAX_REQUEST)
            shut = self._door.refuses(bytes(stream.handshake or b""), self.clients)
            stream.handshake = None
            status = self._refusal() if shut is None else shut[0]
            if status is not None:
                self.rejected[status] += 1
                await request.reject(status)
                return
            connection = await request.accept()
        if patience.cancelled_caught or request is None:
            return
        client = Client(
            connection, stream, limits, scope=nursery.cancel_scope, on_room=self._stage.make_room
        )
        session = Session(
            self._tongue,
            self.market.products,
            faults=self.config.faults,
            every=self.config.fault_every,
            recorded=self.config.capture is not None,
        )
        self.connections += 1
        self._stage.clients[client] = session
        try:
            nursery.start_soon(client.write)
            nursery.start_soon(self._beat, client, session)
            nursery.start_soon(self._watch_age, client, session)
            await self._serve_requests(client, session)
        finally:
            del self._stage.clients[client]
            self.disconnects[client.close_reason()] += 1
            self.bad_requests += session.refusals
            client.gone.set()
            self._stage.wake()

    async def _serve_requests(self, client: Client, session: Session) -> None:
        while True:
            try:
                message = await client.connection.get_message()
            except ConnectionClosed:
                return
            text = message if isinstance(message, str) else ""
            try:
                answers = session.receive(text, self._stage.now(), trio.current_time())
            except Ended as ended:  # The venue calls it ErrSlowRead.
                client.kick(str(ended))
                return
            self._stage.put(client, answers)
            self._stage.asked()

    async def _beat(self, client: Client, session: Session) -> None:
        while True:
            await trio.sleep(self.config.heartbeat_interval)
            self._stage.put(client, session.beat(self._stage.now()))

    async def _watch_age(self, client: Client, session: Session) -> None:
        config = self.config
        began = trio.current_time()
        await trio.sleep(config.subscribe_within)
        if not session.subscriptions:
            await client.say_goodbye("no_subscription", code=1000, text="no subscription")
        if config.max_age is not None:
            await trio.sleep_until(began + config.max_age)
            await client.say_goodbye("max_age", code=1000, text="the connection is too old")


def _tongue(venue: str) -> Tongue:
    return ExchangeTongue() if venue == "coinbase" else AdvancedTongue()


@asynccontextmanager
async def open_coinbase_exchange(
    config: CoinbaseConfig | None = None, /, **settings: Unpack[CoinbaseSettings]
) -> AsyncIterator[CoinbaseExchange]:
    """Open a local Coinbase on 127.0.0.1; leaving the block ends all connections.

    Example::

        async with open_coinbase_exchange(symbols=["BTC-USD"]) as exchange:
            feed = tt.WebSocketFeed(exchange.url, exchange.symbols, venue="coinbase")

    Args:
        config: everything in one value.
        settings: the fields of :class:`CoinbaseConfig`, by name, instead of *config* or
            on top of it.

    Raises:
        ConfigError: a setting makes no sense, or the capture cannot be played.
        OSError: the port is taken.

    Cancellation: the connections just end.
    """
    given: dict[str, Any] = dict(settings)
    config = CoinbaseConfig(**given) if config is None else attrs.evolve(config, **given)
    tongue = _tongue(config.venue)
    recorded = None
    if config.capture is not None:
        recorded = await open_recorded_messages(config.capture, tongue, config.venue, config.speed)
    stage = Stage(config, recorded)
    exchange = CoinbaseExchange(config, tongue, stage)
    try:
        listeners: Any
        if config.ssl_context is None:
            listeners = await trio.open_tcp_listeners(config.port, host=_HOST)
            socket = listeners[0].socket
        else:
            listeners = await trio.open_ssl_over_tcp_listeners(
                config.port, config.ssl_context, host=_HOST, https_compatible=True
            )
            socket = listeners[0].transport_listener.socket
        exchange.port = int(socket.getsockname()[1])
        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, exchange.serve_client, listeners)
            nursery.start_soon(stage.run)
            try:
                yield exchange
            except (Exception, KeyboardInterrupt, SystemExit) as caught:
                # Raised below, outside the nursery: a group around it would bury it.
                error = caught
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error
    finally:
        stage.close()
