"""A small HTTP/1.1 server for an operator's ports: a few routes, GET and HEAD.

An answer is sent as a whole, or as a stream for as long as its client listens.

Rules: all that a client can make us keep or do is bounded: connections, size and time
of a request, time of an answer, and the share of the event loop that answers take. A
connection that waits for its client gives way to a new one; probes have places and a
share of the loop of their own, so that whoever fills the others cannot hide that the
program lives. No client can make the server end. Requests with a body are answered and
their connection closed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import attrs
import h11
import trio

from ..checks import check_count
from ..errors import ConfigError
from ..hosts import Hosts
from ..logs import LogLimit, log_event, one_line
from .loop_share import LoopShare

__all__ = ["Response", "Route", "Stream", "listen", "serve_routes", "url_of"]

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 32
"""How many requests are answered at once, probes not counted."""
SPARE: Final = 8
"""Further places: for connections whose request has not come yet, and for probes."""
STAY_S: Final = 0.1
"""How long a connection may wait for its client before it can have to give way.

Clients that come again as soon as they had to go must not make us busy with that.
"""
SLOT_S: Final = 5.0
"""How long a request waits while too many are being answered."""
SHARE, BURST_S = 0.02, 0.1
"""The share of the event loop for all requests but probes; see :class:`LoopShare`."""
PROBES_SHARE, PROBES_BURST_S = 0.01, 0.05
PIECE_S: Final = 2e-4
"""What receiving and sending take besides what is measured, in seconds.

They are measured badly, since other tasks run in between.
"""
MAX_HEAD_BYTES: Final = 16 * 1024
IDLE_S: Final = 120.0
"""How long a connection may be silent: longer than the usual scrape interval."""
HEAD_S: Final = 10.0
"""How long the head of a request may take, from its first byte on."""
ANSWER_S: Final = 10.0
"""How long a client may take to receive an answer, or one piece of a stream."""
_CHUNK: Final = 16 * 1024
_PLAIN: Final = "text/plain; charset=utf-8"
_STRANGE_HOST: Final = (
    b"this port answers to localhost and to loopback addresses only, and to what --allow-host "
    b"or allow_hosts= names\n"
)


Stream = Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]]
"""Sends an answer in pieces by its argument, and ends it by returning.

It is cancelled with the server, and ends when the client has gone.
"""


@attrs.frozen(slots=True)
class Response:
    """The answer of a route."""

    body: bytes
    content_type: str = _PLAIN
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    stream: Stream | None = None
    """Sends the body instead, in pieces; the connection is closed after it."""
    paid: bool = False
    """Whether the time of making it is bounded by its route itself."""


Route = Callable[[Mapping[str, str]], Response]
"""Takes the headers of the request, their names in lower case.

It runs in the event loop, so it must be quick.
"""


async def listen(port: int, host: str) -> list[trio.SocketListener]:
    """Listen on *port* (0: any free one) of *host*.

    Raises:
        ConfigError: there is no such port or host, or it cannot be listened on.

    Cancellation: leaves no socket open.
    """
    check_count("port", port, least=0, below=65536, also=" (0: any free one)")
    if not isinstance(host, str) or not host:
        raise ConfigError(
            f'host must be an address to listen on, such as "127.0.0.1", got {host!r}'
        )
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def url_of(listener: trio.SocketListener, host: str, path: str) -> str:
    """Return the address of *path* on *listener*, which listens on *host*."""
    port = listener.socket.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"


async def serve_routes(
    listeners: Sequence[trio.SocketListener],
    routes: Mapping[str, Route],
    *,
    hosts: Hosts,
    probes: Collection[str] = (),
) -> None:
    """Answer requests on *listeners* until cancelled; owns and closes them.

    Args:
        listeners: those of :func:`listen`.
        routes: by path.
        hosts: the names that requests may be sent to.
        probes: paths of routes that are answered also while there are more requests of
            the others than can be answered. They must be quick.

    Raises:
        OSError: a listener is broken.

    Cancellation: closes the listeners and every connection at once.
    """
    server = _Server(routes, hosts, probes)
    try:
        doors = [_Door(listener, server) for listener in listeners]
        await trio.serve_listeners(server.serve_connection, doors)
    finally:
        for listener in listeners:
            listener.socket.close()


class _Door(trio.abc.Listener[trio.SocketStream]):
    """A listener that accepts the next connection when there is a place for it."""

    def __init__(self, listener: trio.SocketListener, server: _Server) -> None:
        self._listener = listener
        self._server = server

    async def accept(self) -> trio.SocketStream:
        # Only when somebody is there: nobody gives way to a client that may never come.
        await trio.lowlevel.wait_readable(self._listener.socket)
        await self._server.make_place()
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


class _Server:
    """What the connections of one port share."""

    def __init__(self, routes: Mapping[str, Route], hosts: Hosts, probes: Collection[str]) -> None:
        self._routes = routes
        self._hosts = hosts
        self._probes = frozenset(probes)
        self._limit = LogLimit(trio.current_time)
        self._places = 0
        """Connections that there are."""
        self._waiting: dict[trio.CancelScope, float] = {}
        """Those that wait, and since when: the one that has waited longest first."""
        self._left = trio.lowlevel.ParkingLot()
        """Who wants a place, and is to look again."""
        self._slots = trio.CapacityLimiter(MAX_CONNECTIONS)
        """For the requests that are being answered, probes not counted."""
        self._share = LoopShare(SHARE, BURST_S)
        self._probes_share = LoopShare(PROBES_SHARE, PROBES_BURST_S)

    async def make_place(self) -> None:
        """Wait until there is a place for another connection; make one if needed.

        Cancellation: harmless.
        """
        while self._places >= MAX_CONNECTIONS + SPARE:
            patience_s = STAY_S
            if self._waiting:
                scope, since = next(iter(self._waiting.items()))
                patience_s = since + STAY_S - trio.current_time()
                if patience_s <= 0:
                    self._send_away(scope)
                    patience_s = STAY_S
            with trio.move_on_after(patience_s):
                await self._left.park()

    def _send_away(self, scope: trio.CancelScope) -> None:
        del self._waiting[scope]
        scope.cancel()
        if times := self._limit.due("web.crowded"):
            log_event(
                logger,
                logging.WARNING,
                "web.crowded",
                "%d connections that waited for their client gave way to new ones",
                times,
                times=times,
            )

    @contextmanager
    def _may_give_way(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Let the block take *seconds*, or less if its place is needed for another."""
        with trio.move_on_after(seconds) as scope:
            self._waiting[scope] = trio.current_time()
            try:
                yield scope
            finally:
                self._waiting.pop(scope, None)

    async def serve_connection(self, stream: trio.SocketStream) -> None:
        self._share.spend(PIECE_S)
        self._places += 1
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        try:
            while await self._serve_request(stream, connection):
                connection.start_next_cycle()
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            pass  # The client has gone.
        except h11.LocalProtocolError:
            # The mistake is ours, and costs one client its connection.
            _log_failure(self._limit, "web.answer_failed", "")
        finally:
            self._places -= 1
            self._left.unpark()
            stream.socket.close()

    async def _serve_request(self, stream: trio.SocketStream, connection: h11.Connection) -> bool:
        """Answer one request; return whether the connection is good for another one."""
        try:
            request = await self._next_request(stream, connection)
        except h11.RemoteProtocolError as error:
            self._share.spend(PIECE_S)
            refusal = Response(b"bad request\n", status=error.error_status_hint)
            await _send(stream, connection, _whole(refusal, close=True))
            return False
        if request is None:
            return False
        if request.path in self._probes:
            return await self._respond(stream, connection, request, self._probes_share)
        with self._may_give_way(SLOT_S) as scope:
            await self._slots.acquire_on_behalf_of(stream)
        if scope.cancelled_caught:
            busy = Response(b"too many requests at once\n", status=503)
            events = _whole(busy, close=True, head=request.method == "HEAD")
            await _send(stream, connection, events)
            return False
        try:
            return await self._respond(stream, connection, request, self._share)
        finally:
            self._slots.release_on_behalf_of(stream)

    async def _respond(
        self,
        stream: trio.SocketStream,
        connection: h11.Connection,
        request: _Request,
        share: LoopShare,
    ) -> bool:
        await share.turn(PIECE_S)
        began = trio.current_time()
        response = self._answer(request)
        if response.paid:
            began = trio.current_time()
        try:
            without_body = connection.next_event().__class__ is h11.EndOfMessage
        except h11.RemoteProtocolError:
            without_body = False
        streams = response.stream is not None and request.method != "HEAD"
        close = not without_body or response.stream is not None
        events = _whole(response, close=close, head=request.method == "HEAD")
        data = b"".join(connection.send(event) or b"" for event in events)
        share.spend(trio.current_time() - began)
        with trio.fail_after(ANSWER_S):
            await stream.send_all(data)
        if streams and response.stream is not None:
            await self._serve_stream(stream, connection, response.stream)
            return False
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _next_request(
        self, stream: trio.SocketStream, connection: h11.Connection
    ) -> _Request | None:
        """Return the next request; ``None``: the client closed, or took too long."""
        with self._may_give_way(IDLE_S) as scope:
            begun = False
            while True:
                event = connection.next_event()
                if isinstance(event, h11.Request):
                    return _Request.of(event)
                if event is not h11.NEED_DATA:
                    return None
                if begun:
                    # A head that comes in many pieces may not take the loop either.
                    await self._share.turn(PIECE_S)
                # From the first byte of a request on, the shorter time for its head
                # applies. Bytes that the client sent ahead of time count too.
                elif connection.trailing_data[0]:
                    begun, scope.deadline = True, trio.current_time() + HEAD_S
                connection.receive_data(await stream.receive_some(_CHUNK))
        return None

    def _answer(self, request: _Request) -> Response:
        if not self._hosts.admit(request.headers.get("host")):
            return Response(_STRANGE_HOST, status=403)
        route = self._routes.get(request.path)
        if route is None:
            known = " ".join(self._routes)
            return Response(f"not found; there is: {known}\n".encode(), status=404)
        if request.method not in ("GET", "HEAD"):
            allowed = (("Allow", "GET, HEAD"),)
            return Response(b"method not allowed\n", status=405, headers=allowed)
        try:
            return route(request.headers)
        except Exception:
            _log_failure(self._limit, "web.route_failed", request.path)
            return Response(b"internal error\n", status=500)

    async def _serve_stream(
        self, stream: trio.SocketStream, connection: h11.Connection, produce: Stream
    ) -> None:
        async def send(piece: bytes) -> None:
            await _send(stream, connection, [h11.Data(data=piece)])

        try:
            await produce(send)
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            raise
        except Exception:
            _log_failure(self._limit, "web.stream_failed", "")
            return  # A body without its end tells the client that something is missing.
        await _send(stream, connection, [h11.EndOfMessage()])


@attrs.frozen(slots=True)
class _Request:
    """The head of a request."""

    method: str
    path: str
    """Without the query, which may hold a secret: the path is logged if its route
    fails."""
    headers: Mapping[str, str]

    @classmethod
    def of(cls, request: h11.Request) -> _Request:
        return cls(
            request.method.decode("ascii"),
            request.target.split(b"?", 1)[0].decode("ascii", "backslashreplace"),
            {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers},
        )


def _whole(response: Response, *, close: bool, head: bool = False) -> list[h11.Event]:
    """Return the events of *response*; of one with a stream only the first.

    Args:
        response: of a route.
        close: whether the connection is closed after it.
        head: whether it answers HEAD, and so has no body.
    """
    headers = [
        ("Content-Type", response.content_type),
        # Without a length, h11 sends chunks.
        *([] if response.stream is not None else [("Content-Length", str(len(response.body)))]),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *response.headers,
        *([("Connection", "close")] if close else []),
    ]
    events: list[h11.Event] = [h11.Response(status_code=response.status, headers=headers)]
    if response.stream is not None and not head:
        return events
    return [*events, *([] if head else [h11.Data(data=response.body)]), h11.EndOfMessage()]


async def _send(
    stream: trio.SocketStream, connection: h11.Connection, events: Sequence[h11.Event]
) -> None:
    data = b"".join(connection.send(event) or b"" for event in events)
    with trio.fail_after(ANSWER_S):
        await stream.send_all(data)


def _log_failure(limit: LogLimit, event: str, path: str) -> None:
    """Log the current exception, at most once a second.

    Without a limit, clients could fill the log by asking often.
    """
    if times := limit.due(event):
        shown = (one_line(path, 200) or "a stream") + (f" ({times} times)" if times > 1 else "")
        log_event(logger, logging.ERROR, event, "%s", shown, exc_info=True, path=path, times=times)
