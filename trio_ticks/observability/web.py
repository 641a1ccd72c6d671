"""A small HTTP/1.1 server for an operator's ports: a few routes, GET and HEAD.

An answer is sent as a whole, or as a stream for as long as its client listens.

Rules: all that a client can make us keep is bounded: connections, size and time of a
request, time of an answer. No client can make the server end. Requests with a body are
answered and their connection closed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import attrs
import h11
import trio

from ..checks import check_count
from ..errors import ConfigError
from ..logs import LogLimit, log_event

__all__ = ["Response", "Route", "Stream", "listen", "serve_routes", "url_of"]

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 32
MAX_HEAD_BYTES: Final = 16 * 1024
IDLE_S: Final = 120.0
"""How long a connection may be silent: longer than the usual scrape interval."""
HEAD_S: Final = 10.0
"""How long the head of a request may take, from its first byte on."""
ANSWER_S: Final = 10.0
"""How long a client may take to receive an answer, or one piece of a stream."""
_CHUNK: Final = 16 * 1024
_PLAIN: Final = "text/plain; charset=utf-8"


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
    listeners: Sequence[trio.SocketListener], routes: Mapping[str, Route]
) -> None:
    """Answer requests on *listeners* until cancelled; owns and closes them.

    Raises:
        OSError: a listener is broken.

    Cancellation: closes the listeners and every connection at once.
    """
    connections: set[trio.SocketStream] = set()
    try:
        serve = partial(
            _serve_connection,
            routes=routes,
            connections=connections,
            limit=LogLimit(trio.current_time),
        )
        await trio.serve_listeners(serve, list(listeners))
    finally:
        for listener in listeners:
            listener.socket.close()


async def _serve_connection(
    stream: trio.SocketStream,
    *,
    routes: Mapping[str, Route],
    connections: set[trio.SocketStream],
    limit: LogLimit,
) -> None:
    if len(connections) >= MAX_CONNECTIONS:
        stream.socket.close()
        return
    connections.add(stream)
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    try:
        while await _serve_request(stream, connection, routes, limit):
            connection.start_next_cycle()
    except (OSError, trio.BrokenResourceError, trio.TooSlowError):
        pass  # The client has gone.
    finally:
        connections.discard(stream)
        stream.socket.close()


async def _serve_request(
    stream: trio.SocketStream,
    connection: h11.Connection,
    routes: Mapping[str, Route],
    limit: LogLimit,
) -> bool:
    """Answer one request; return whether the connection is good for another one."""
    try:
        request = await _next_request(stream, connection)
        if request is None:
            return False
        response, more = _answer(request, routes, limit)
        without_body = connection.next_event().__class__ is h11.EndOfMessage
    except h11.RemoteProtocolError as error:
        response, more, without_body = _refusal(error.error_status_hint), [], False
        request = None
    close = not without_body or response.stream is not None
    headers = [
        ("Content-Type", response.content_type),
        # Without a length, h11 sends chunks.
        *([] if response.stream is not None else [("Content-Length", str(len(response.body)))]),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *response.headers,
        *more,
        *([("Connection", "close")] if close else []),
    ]
    events: list[h11.Event] = [h11.Response(status_code=response.status, headers=headers)]
    if response.stream is not None and request is not None and request.method != b"HEAD":
        await _send(stream, connection, events)
        await _serve_stream(stream, connection, response.stream, limit)
        return False
    if request is None or request.method != b"HEAD":
        events.append(h11.Data(data=response.body))
    await _send(stream, connection, [*events, h11.EndOfMessage()])
    return connection.our_state is h11.DONE and connection.their_state is h11.DONE


async def _send(
    stream: trio.SocketStream, connection: h11.Connection, events: Sequence[h11.Event]
) -> None:
    data = b"".join(connection.send(event) or b"" for event in events)
    with trio.fail_after(ANSWER_S):
        await stream.send_all(data)


async def _serve_stream(
    stream: trio.SocketStream, connection: h11.Connection, produce: Stream, limit: LogLimit
) -> None:
    async def send(piece: bytes) -> None:
        await _send(stream, connection, [h11.Data(data=piece)])

    try:
        await produce(send)
    except (OSError, trio.BrokenResourceError, trio.TooSlowError):
        raise
    except Exception:
        _log_failure(limit, "web.stream_failed", "")
        return  # A body without its end tells the client that something is missing.
    await _send(stream, connection, [h11.EndOfMessage()])


async def _next_request(
    stream: trio.SocketStream, connection: h11.Connection
) -> h11.Request | None:
    """Return the next request, or ``None`` if the client closed or took too long."""
    with trio.move_on_after(IDLE_S) as scope:
        begun = False
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None
            # From the first byte of a request on, the shorter time for its head
            # applies. Bytes that the client sent ahead of time count too.
            if not begun and connection.trailing_data[0]:
                begun, scope.deadline = True, trio.current_time() + HEAD_S
            connection.receive_data(await stream.receive_some(_CHUNK))
    return None


def _answer(
    request: h11.Request, routes: Mapping[str, Route], limit: LogLimit
) -> tuple[Response, list[tuple[str, str]]]:
    """Return the response to *request*, and the headers that it alone needs."""
    # The query may hold a secret, and the path is logged when the route fails.
    path = request.target.split(b"?", 1)[0].decode("ascii", "backslashreplace")
    route = routes.get(path)
    if route is None:
        return Response(f"not found; there is: {' '.join(routes)}\n".encode(), status=404), []
    if request.method not in (b"GET", b"HEAD"):
        return Response(b"method not allowed\n", status=405), [("Allow", "GET, HEAD")]
    try:
        return route(
            {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        ), []
    except Exception:
        _log_failure(limit, "web.route_failed", path)
        return Response(b"internal error\n", status=500), []


def _log_failure(limit: LogLimit, event: str, path: str) -> None:
    """Log the current exception, at most once a second.

    Without a limit, clients could fill the log by asking often.
    """
    if times := limit.due(event):
        shown = (path or "a stream") + (f" ({times} times)" if times > 1 else "")
        log_event(logger, logging.ERROR, event, "%s", shown, exc_info=True, path=path, times=times)


def _refusal(status: int) -> Response:
    return Response(b"bad request\n", status=status)
