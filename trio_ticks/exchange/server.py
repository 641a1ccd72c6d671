"""The exchange as its user holds it: its counters, its faults, and its end.

Rules: it owns everything that runs; clients come and go through their service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Unpack

import attrs
import trio

from ..clock import Clock, new_random
from .broadcast import Broadcast, Source
from .clients import Clients
from .config import DEFAULT_SYMBOLS, ExchangeConfig, Settings
from .desk import Stock
from .market import Market
from .recorded import Damage, RecordedMarket, open_recording
from .recorded_words import open_recorded_words
from .registry import SPOKEN
from .service import Service
from .venues import Venue
from .wire import FlatTick, binary_frame, iso_utc, text_frame

__all__ = ["Exchange", "open_exchange", "serve_exchange"]

Listeners = Sequence[trio.abc.Listener[Any]]

HOST = "127.0.0.1"


class Counters:
    """What can be read of an exchange: the base of :class:`Exchange`."""

    config: ExchangeConfig
    port: int
    _source: Source
    _broadcast: Broadcast
    _clients: Clients
    _service: Service

    @property
    def connections(self) -> int:
        """Clients that were let in so far."""
        return self._clients.let_in

    @property
    def rejected(self) -> Counter[int]:
        """Clients that were not let in, by HTTP status."""
        return self._service.rejected

    @property
    def disconnects(self) -> Counter[str]:
        """Clients that have gone, by reason.

        ``client`` and ``network`` are their own doing, ``ping_timeout`` and
        ``slow_consumer`` the exchange's, for cause, ``dropped`` by
        :meth:`drop_clients`; ``finished`` and ``shutdown`` come at the end.
        """
        return self._clients.disconnects

    @property
    def errors(self) -> int:
        """Connections that ended by an unexpected exception; it has been logged."""
        return self._service.errors

    @property
    def bad_requests(self) -> int:
        """Requests that made no sense."""
        return self._service.bad_requests

    @property
    def url(self) -> str:
        """Where to connect to."""
        scheme = "wss" if self.config.ssl_context else "ws"
        return f"{scheme}://{HOST}:{self.port}{self._service.path}"

    @property
    def rest_url(self) -> str:
        """Where REST is asked, at venues that have it here."""
        scheme = "https" if self.config.ssl_context else "http"
        return f"{scheme}://{HOST}:{self.port}"

    @property
    def calls(self) -> int:
        """Requests over REST so far, refused ones included."""
        return self._service.calls

    @property
    def symbols(self) -> tuple[str, ...]:
        """What can be subscribed to."""
        return self._source.symbols

    @property
    def clients(self) -> int:
        """Clients that are connected now."""
        return len(self._clients.connected)

    @property
    def messages_sent(self) -> int:
        """Messages handed to the system, acknowledgements not counted."""
        return self._clients.messages_sent

    @property
    def skipped(self) -> int:
        """Ticks that found no room in a client's buffer."""
        return self._clients.skipped

    @property
    def throttled(self) -> int:
        """Ticks that were left out since a client had asked for no more."""
        return self._clients.throttled

    @property
    def max_rates(self) -> list[float]:
        """What the connected clients asked to be throttled to, in ticks a second."""
        return self._clients.max_rates

    @property
    def sent_by_symbol(self) -> dict[str, int]:
        """Ticks that were put into clients' buffers, by symbol.

        All of them arrive while the connection lives, in order. In another protocol
        than the flat one they are messages, by channel and symbol.
        """
        return self._clients.sent_by_symbol

    @property
    def generated(self) -> int:
        """Ticks made so far, subscribed to or not."""
        return self._broadcast.generated

    @property
    def left_out(self) -> int:
        """Trades, books and the like in a recording so far, which are not played."""
        return self._source.left_out

    @property
    def damage(self) -> Damage:
        """What of a recording could not be read so far; nothing without a recording."""
        source = self._source
        return source.damage if isinstance(source, RecordedMarket) else Damage()

    @property
    def behind(self) -> float:
        """Seconds by which the market was put back, to let this machine keep up."""
        return self._broadcast.behind

    @property
    def waited(self) -> float:
        """Seconds for which a recording stood still for clients without room."""
        return self._broadcast.waited


class Exchange(Counters):
    """A local exchange; :func:`open_exchange` and :func:`serve_exchange` hand it out.

    The counters are plain values to read at any time. Of the ticks that clients
    subscribed to, ``sent_by_symbol`` were put into their buffers, ``skipped`` found no
    room there, and ``throttled`` were left out at a client's wish; ``messages_sent``
    went on to the system.
    """

    def __init__(
        self,
        config: ExchangeConfig,
        source: Source,
        port: int,
        clock: Clock,
        venue: Venue | None = None,
        stock: Stock | None = None,
    ) -> None:
        self.config = config
        self.port = port
        self.finished = trio.Event()
        """Set at the end of the recording, or of the ``limit``, or of the exchange.

        In the first two cases the clients have been told.
        """
        self._source = source
        self._clients = Clients()
        self._broadcast = Broadcast(config, source, self._clients.connected, clock, venue)
        self._broadcast_scope = trio.CancelScope()
        new_desk = SPOKEN[config.protocol].new_desk
        desk = None if new_desk is None or stock is None else new_desk(stock)
        if desk is not None and stock is not None:
            self._broadcast.observe = stock.observe
        self._service = Service(config, source, self._clients, self._broadcast, clock, venue, desk)
        # Of other venues it is the ping in their own words that is not answered.
        self._service.answer_pings = venue is None or "no-pong" not in config.faults

    def pause(self) -> None:
        """Fall silent with the sockets open. Pings are still sent and answered."""
        self._broadcast.pause()

    def resume(self) -> None:
        """Go on where :meth:`pause` stopped."""
        self._broadcast.resume()

    def answer_pings(self, yes: bool) -> None:
        """Answer the pings of clients, present and future, or leave them unanswered."""
        self._service.answer_pings = yes
        for client in self._clients.connected:
            client.stream.answer_pings = yes

    def take_throttle_requests(self, yes: bool) -> None:
        """Let clients ask for a lower rate, or answer that there is no such request.

        Most venues have none.
        """
        self._service.take_throttle_requests(yes)

    def refuse(self, status: int | None, **headers: str) -> None:
        """Answer new clients with the HTTP *status*, until ``refuse(None)``.

        Args:
            status: from 300 to 599.
            headers: of the answer, ``retry_after="2"`` for ``Retry-After: 2``.
        """
        pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        self._service.refusal = None if status is None else (status, pairs)

    async def drop_clients(self) -> None:
        """End all connections without a farewell, and wait until they have gone.

        Cancellation: they end all the same.
        """
        clients = list(self._clients.connected)
        for client in clients:
            client.kick("dropped")
        for client in clients:
            await client.gone.wait()

    async def inject(self, message: bytes | str) -> None:
        """Send *message* to all who subscribed to something, after what waits for them.

        Text is sent as a text message, bytes as a binary one.

        Cancellation: nothing has been sent.
        """
        await trio.lowlevel.checkpoint()
        frame = text_frame(message.encode()) if isinstance(message, str) else binary_frame(message)
        for client in self._clients.connected:
            if client.subscription:
                client.inject(frame)

    async def wait_subscribed(self) -> None:
        """Wait until at least one client has subscribed to something.

        Cancellation: harmless.
        """
        while not any(client.subscription for client in self._clients.connected):
            await self._broadcast.audience_changed.wait()

    # The market, and the end

    async def _run_market(self) -> None:
        with self._broadcast_scope:
            await self._broadcast.run()
            await self._end("finished", code=1000, text="the end")

    async def _end(self, reason: str, *, code: int, text: str) -> None:
        self._service.over = True
        async with trio.open_nursery() as nursery:
            for client in self._clients.connected:
                nursery.start_soon(partial(client.say_goodbye, reason, code=code, text=text))
        self.finished.set()

    async def _close(self) -> None:
        self._broadcast_scope.cancel()
        with trio.move_on_after(self.config.limits.close_timeout_s):
            await self._end("shutdown", code=1001, text="the exchange is closing")

    async def _run(
        self,
        listeners: Listeners,
        *,
        task_status: trio.TaskStatus[Exchange] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_market)
                await nursery.start(
                    trio.serve_listeners, self._service.serve_client, list(listeners)
                )
                task_status.started(self)
        finally:
            self._source.close()
            self.finished.set()


async def _open(
    config: ExchangeConfig, listeners: Listeners | None = None
) -> tuple[Exchange, Listeners]:
    source: Source
    clock = Clock()
    venue: Venue | None = None
    seed = new_random().getrandbits(64) if config.seed is None else config.seed
    spoken = SPOKEN[config.protocol]
    if config.capture is not None and config.plays_words:
        words = source = await open_recorded_words(
            config.capture,
            config.protocol,
            symbols=config.symbols,
            speed=config.speed,
            loop=config.loop,
            in_thread=not clock.is_virtual,
        )
        if spoken.new_recorded_venue is not None:
            venue = spoken.new_recorded_venue(words.symbols, words.upcoming)
    elif config.capture is None:
        symbols = config.symbols or spoken.symbols or DEFAULT_SYMBOLS
        rate, skew = config.rate, config.skew
        source = Market(symbols, rate=rate, burst=config.burst, seed=seed, skew=skew)
        if spoken.new_venue is not None:
            faults = frozenset(config.faults)
            venue = spoken.new_venue(symbols, seed, faults, config.fault_every)
    else:
        original_time = config.timestamps == "original"
        source = await open_recording(
            config.capture,
            venue=config.venue,
            symbols=config.symbols,
            speed=config.speed,
            loop=config.loop,
            original_time=original_time,
            in_thread=not clock.is_virtual,
        )
    if listeners is None:
        try:
            listeners = await _listen(config)
        except BaseException:
            source.close()
            raise
    stock = _new_stock(config, source, seed, clock, venue)
    return Exchange(config, source, _port(listeners[0]), clock, venue, stock), listeners


async def _listen(config: ExchangeConfig) -> Listeners:
    if config.ssl_context is None:
        return await trio.open_tcp_listeners(config.port, host=HOST)
    return await trio.open_ssl_over_tcp_listeners(
        config.port, config.ssl_context, host=HOST, https_compatible=True
    )


def _new_stock(
    config: ExchangeConfig, source: Source, seed: object, clock: Clock, venue: Venue | None
) -> Stock:
    """Return what there is to know over REST."""

    def quotes() -> Sequence[FlatTick]:
        return source.quotes(iso_utc(clock.utc())) if isinstance(source, Market) else ()

    return Stock(
        symbols=source.symbols,
        seed=seed,
        faults=frozenset(config.faults),
        api_key=config.api_key,
        opened=clock.utc(),
        quotes=quotes,
        venue=venue,
    )


def _port(listener: trio.abc.Listener[Any]) -> int:
    """Return the port of *listener*; 0 if it is none of a network."""
    socket = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
    return int(socket.socket.getsockname()[1]) if isinstance(socket, trio.SocketListener) else 0


async def serve_exchange(
    config: ExchangeConfig,
    *,
    listeners: Listeners | None = None,
    task_status: trio.TaskStatus[Exchange] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a local exchange until cancelled.

    ``await nursery.start(serve_exchange, config)`` returns the :class:`Exchange` once
    it listens. After the end of a recording it goes on refusing clients (503);
    ``exchange.finished`` tells.

    Args:
        config: all settings.
        listeners: where clients come from, in place of the configuration's port: for
            tests without a network. The exchange's ``port`` is 0 then, if they are none
            of TCP.
        task_status: given by ``nursery.start``.

    Raises:
        ConfigError: the capture cannot be played.
        OSError: the port is taken.

    Cancellation: the connections just end, the port is free again.
    """
    exchange, listeners = await _open(config, listeners)
    await exchange._run(listeners, task_status=task_status)


def _config(config: ExchangeConfig | None, settings: Settings) -> ExchangeConfig:
    return ExchangeConfig(**settings) if config is None else attrs.evolve(config, **settings)


@asynccontextmanager
async def open_exchange(
    config: ExchangeConfig | None = None, /, **settings: Unpack[Settings]
) -> AsyncIterator[Exchange]:
    """Open a local exchange on 127.0.0.1; leaving the block closes it.

    Example::

        async with open_exchange(symbols=["SPY"], rate=5000, burst=0.7) as exchange:
            feed = tt.WebSocketFeed(exchange.url, symbols=exchange.symbols)

    Args:
        config: everything in one value.
        settings: the fields of :class:`ExchangeConfig`, by name, instead of *config* or
            on top of it.

    Raises:
        ConfigError: a setting makes no sense, or the capture cannot be played.
        OSError: the port is taken.

    Cancellation: leaving the block in peace tells the clients (code 1001) and may take
    up to ``limits.close_timeout_s``; when cancelled, the connections just end.
    """
    exchange, listeners = await _open(_config(config, settings))
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(exchange._run, listeners))
        try:
            yield exchange
        except (Exception, KeyboardInterrupt, SystemExit) as caught:
            # Raised below, outside the nursery: it is the user's own, and a group
            # around it would bury it.
            error = caught
        else:
            await exchange._close()
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
