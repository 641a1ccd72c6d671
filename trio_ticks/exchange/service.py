"""How an exchange lets clients in, refuses them, and answers their requests.

Rules: one nursery a connection, and a connection that fails takes nothing else with it.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final
from urllib.parse import urlsplit

import msgspec
import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    wrap_server_stream,
)

from ..clock import Clock
from ..logs import LogLimit, log_event
from .broadcast import Broadcast, Source
from .client import Client, FrameStream
from .clients import Clients
from .config import ExchangeConfig
from .desk import Desk
from .dialect import Conversation, Dialect, Refusal
from .door import Door
from .flat_dialect import FlatDialect
from .http import Call, RestAnswer, is_plain_request, json_answer, read_head, serve_http
from .registry import SPOKEN
from .venues import Ended, Session, Venue
from .wire import text_frame

__all__ = ["MAX_REQUEST", "Service"]

logger = logging.getLogger("trio_ticks.exchange.server")

DEFLATE = b"permessage-deflate"
ACCEPTED = ((b"Sec-WebSocket-Extensions", DEFLATE + b"; server_no_context_takeover"),)
"""The header that accepts compression; the exchange then decides message by message."""
MAX_REQUEST = 1 << 16
"""A larger message from a client closes its connection."""


_HEARTBEAT_S = 1.0


async def _end_of_age(client: Client, max_age: float) -> None:
    """Close the connection when it is too old."""
    await trio.sleep(max_age)
    await client.say_goodbye("max_age", code=1000, text="the connection is too old")


def _inject(client: Client, payloads: Sequence[bytes]) -> None:
    for payload in payloads:
        client.inject(text_frame(payload))


@final
class Service:
    """Serves the connections of one exchange, with the faults that it is to have."""

    def __init__(
        self,
        config: ExchangeConfig,
        source: Source,
        clients: Clients,
        broadcast: Broadcast,
        clock: Clock,
        venue: Venue | None = None,
        desk: Desk | None = None,
    ) -> None:
        self._config = config
        self._source = source
        self._clients = clients
        self._broadcast = broadcast
        self._clock = clock
        self._venue = venue
        self._desk = desk
        self._door = Door(config.limits.clients)
        self._log_limit = LogLimit(trio.current_time)
        self.rejected: Counter[int] = Counter()
        """Clients that were not let in, by HTTP status."""
        self.errors = 0
        """Connections that ended by an unexpected exception; it has been logged."""
        self.bad_requests = 0
        self.calls = 0
        """Requests over REST."""
        """Requests that made no sense."""
        self.over = False
        """Whether the end has come: new clients are refused."""
        self.refusal: tuple[int, tuple[tuple[str, str], ...]] | None = None
        """The HTTP status and headers by which new clients are refused, if they are."""
        self.answer_pings = True
        spoken = SPOKEN[config.protocol]
        dialect = spoken.recorded if config.plays_words else spoken.dialect
        assert dialect is not None  # The configuration refuses a venue without one.
        self._dialect = dialect(config.api_key, frozenset(config.faults))

    @property
    def path(self) -> str:
        """Where clients should connect to."""
        return self._dialect.path if self._venue is None else self._venue.path

    def take_throttle_requests(self, yes: bool) -> None:
        flat = self._dialect.at("")
        if isinstance(flat, FlatDialect):
            flat.throttles = yes

    async def serve_client(self, transport: trio.abc.Stream) -> None:
        self._limit_socket(transport)
        stream = FrameStream(transport)
        try:
            with self._door.connection() as room:
                if not room:
                    self.rejected[503] += 1
                    return
                async with trio.open_nursery() as nursery:
                    await self._handshake(nursery, stream)
                    nursery.cancel_scope.cancel()
        except* (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # It went away before it was a client.
        except* Exception:
            # The boundary between connections: whatever a client does, or
            # trio-websocket makes of it, the others go on.
            self.errors += 1
            if times := self._log_limit.due("connection_failed"):
                log_event(
                    logger,
                    logging.WARNING,
                    "exchange.connection_failed",
                    "%d times",
                    times,
                    exc_info=True,
                    times=times,
                )
        finally:
            await trio.aclose_forcefully(transport)

    def _limit_socket(self, transport: trio.abc.Stream) -> None:
        size = self._config.limits.socket_buffer_bytes
        raw = transport.transport_stream if isinstance(transport, trio.SSLStream) else transport
        if size is not None and isinstance(raw, trio.SocketStream):
            raw.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, size)

    async def _handshake(self, nursery: trio.Nursery, stream: FrameStream) -> None:
        limits = self._config.limits
        with trio.move_on_after(limits.handshake_timeout_s) as patience:
            stream.on_lost = patience.cancel
            if self._venue is not None or self._desk is not None:
                head = await read_head(stream)
                if is_plain_request(head):
                    stream.on_lost = nursery.cancel_scope.cancel
                    stream.handshake = None
                    patience.deadline = math.inf
                    await serve_http(stream, head, self._answer)
                    return
                stream.unread(head)
            request = await wrap_server_stream(nursery, stream, max_message_size=MAX_REQUEST)
            dialect = self._dialect.at(urlsplit(request.path).path)
            refusal = self._refuses(request, dialect, bytes(stream.handshake or b""))
            if refusal:
                await self._reject(request, refusal)
                return
            deflates = dialect.compresses and DEFLATE in bytes(stream.handshake or b"").lower()
            stream.handshake = None
            connection = await request.accept(extra_headers=[*ACCEPTED] if deflates else None)
            conversation = dialect.converse(deflates=deflates)
        if not patience.cancelled_caught:
            stream.answer_pings = self.answer_pings
            client = Client(
                connection,
                stream,
                limits,
                dialect,
                scope=nursery.cancel_scope,
                on_room=self._broadcast.recheck_room,
            )
            with self._seated(client):
                if self.over:  # The end came while it was being let in.
                    client.kick("finished")
                nursery.start_soon(client.write)
                if self._config.ping_interval is not None:
                    nursery.start_soon(
                        client.ping, self._config.ping_interval, self._config.ping_timeout
                    )
                if self._config.max_age is not None:
                    nursery.start_soon(_end_of_age, client, self._config.max_age)
                if self._venue is None:
                    await self._serve_requests(client, connection, conversation)
                else:
                    client.session = session = self._venue.new_session(request.path)
                    nursery.start_soon(self._beat, client, session)
                    await self._serve_session(client, session)

    def _answer(self, call: Call) -> RestAnswer | None:
        """Answer a plain HTTP request."""
        self.calls += 1
        if not self._door.admit(call.headers):
            self.rejected[403] += 1
            return json_answer(403, {"code": "FORBIDDEN_HOST"})
        if self.refusal or self.over:
            status, headers = self.refusal or (503, ())
            return json_answer(status, {"code": status}, headers)
        now = self._clock.utc()
        if self._desk is not None:
            return self._desk.answer(call, now, trio.current_time())
        assert self._venue is not None
        return self._venue.answer(call.path, call.parameters, now)

    async def _serve_requests(
        self, client: Client, connection: WebSocketConnection, conversation: Conversation
    ) -> None:
        greeting: Sequence[bytes] = conversation.opening()
        while True:
            try:
                for each in greeting:
                    await connection.send_message(each.decode())
                greeting = ()
                message = await connection.get_message()
                reply = conversation.answer(
                    message,
                    symbols=self._source.symbols,
                    subscription=client.subscription,
                    max_rate=client.max_rate,
                )
                self.bad_requests += reply.bad
                # Not through the buffer: a client that asks without reading waits for
                # its own answers. And the answer comes before the data that it is
                # about.
                for each in reply.messages:
                    await connection.send_message(each.decode())
            except ConnectionClosed:
                return
            client.follow(reply.subscription, reply.max_rate)
            self._broadcast.recheck_audience()

    async def _serve_session(self, client: Client, session: Session) -> None:
        """Answer the requests of a client of a venue that has words of its own."""
        _inject(client, session.greet(self._clock.utc()))
        if session.symbols:
            client.follow(session.symbols, None)
            self._broadcast.recheck_audience()
        while True:
            try:
                message = await client.connection.get_message()
            except ConnectionClosed:
                return
            # A client that asks and does not read would fill the memory with answers.
            if client.waiting_bytes > self._config.limits.buffer_bytes:
                client.kick("slow_consumer")
                return
            before = session.refusals
            try:
                payloads = session.receive(message, self._clock.utc(), trio.current_time())
            except Ended as ended:
                client.kick(str(ended))
                return
            self.bad_requests += session.refusals - before
            _inject(client, payloads)
            client.follow(session.symbols, None)
            self._broadcast.recheck_audience()

    async def _beat(self, client: Client, session: Session) -> None:
        """Send a heartbeat after each second in which there was nothing else."""
        while True:
            given = client.given
            await trio.sleep(_HEARTBEAT_S)
            if client.given == given:
                _inject(client, session.beat(self._clock.utc()))

    @contextmanager
    def _seated(self, client: Client) -> Iterator[None]:
        try:
            with self._clients.registered(client):
                yield
        finally:
            self._broadcast.recheck_audience()

    def _refuses(
        self, request: WebSocketRequest, dialect: Dialect, handshake: bytes
    ) -> Refusal | None:
        shut = self._door.refuses(handshake, len(self._clients.connected))
        if shut is not None:
            return Refusal(*shut)
        if self.refusal:
            status, headers = self.refusal
            return Refusal(status, "REFUSED", headers)
        if self.over:
            return Refusal(503, "ENDED")
        return dialect.refuses(request.path, request.headers)

    async def _reject(self, request: WebSocketRequest, refusal: Refusal) -> None:
        self.rejected[refusal.status] += 1
        pairs = [
            (b"Content-Type", b"application/json"),
            *((name.encode(), value.encode()) for name, value in refusal.headers),
        ]
        body = msgspec.json.encode(
            {"code": refusal.code, "message": "this exchange does not let you in", "data": None}
        )
        await request.reject(refusal.status, extra_headers=pairs, body=body)
