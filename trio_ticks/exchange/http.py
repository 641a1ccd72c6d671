"""Plain HTTP on the exchange's own port: the REST interface of a venue.

Plan: the head of a request is read before anybody else reads; if it asks for no
upgrade, the request is answered here, and those that follow on the connection.

Rules: a head has at most 64 KiB, and only GET is known. Others decide the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, final
from urllib.parse import parse_qsl, urlsplit

import attrs
import h11
import msgspec
import trio

__all__ = [
    "Answering",
    "Call",
    "RestAnswer",
    "is_plain_request",
    "json_answer",
    "read_head",
    "serve_http",
]

_MOST: Final = 1 << 16
_UPGRADES: Final = re.compile(rb"\r\nupgrade[ \t]*:[ \t]*websocket[ \t]*\r\n", re.IGNORECASE)


@attrs.frozen
class RestAnswer:
    """The answer to a request."""

    body: bytes
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    """Seconds that pass before it is sent."""


def json_answer(
    status: int, content: Any, headers: Sequence[tuple[str, str]] = (), delay_s: float = 0.0
) -> RestAnswer:
    """Return an answer whose body is *content* as JSON."""
    return RestAnswer(msgspec.json.encode(content), status, tuple(headers), delay_s)


@final
@attrs.frozen
class Call:
    """A request."""

    path: str
    parameters: Mapping[str, str]
    """Of its query string."""
    headers: Sequence[tuple[bytes, bytes]] = ()
    """The names are in lower case."""


Answering = Callable[[Call], RestAnswer | None]
"""Answers a request; ``None``: there is nothing."""


async def read_head(stream: trio.abc.ReceiveStream) -> bytes:
    """Return what comes up to the end of the head of a request, and maybe more.

    Less, if the stream ends before, or the head is too large.

    Cancellation: what was read is lost.
    """
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MOST:
        data = await stream.receive_some(4096)
        if not data:
            break
        head += bytes(data)
    return head


def is_plain_request(head: bytes) -> bool:
    """Return whether a request, of which *head* is the beginning, is no WebSocket's."""
    lines, end, _ = head.partition(b"\r\n\r\n")
    return bool(end) and lines.startswith(b"GET ") and not _UPGRADES.search(lines + b"\r\n")


async def serve_http(stream: trio.abc.Stream, head: bytes, answering: Answering) -> None:
    """Answer plain requests on *stream*, until the client leaves.

    Args:
        stream: of the client.
        head: what was read of it before.
        answering: answers the requests.

    Cancellation: an answer may be cut off; the connection is of no use any more.
    """
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST)
    http.receive_data(head)
    try:
        while await _answer_one(http, stream, answering):
            http.start_next_cycle()
    except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
        pass


async def _answer_one(http: h11.Connection, stream: trio.abc.Stream, answering: Answering) -> bool:
    """Answer one request; return whether another one may follow."""
    request: h11.Request | None = None
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(4096)))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            break
        elif isinstance(event, h11.ConnectionClosed):
            return False
    assert request is not None
    call = _call(request)
    answer = None if call is None else answering(call)
    if answer is None or request.method != b"GET":
        answer = RestAnswer(b"{}", 404)
    if answer.delay_s:
        await trio.sleep(answer.delay_s)
    head = h11.Response(
        status_code=answer.status,
        headers=[
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(answer.body))),
            *answer.headers,
        ],
    )
    body = b"" if request.method == b"HEAD" else answer.body
    sent = (http.send(head), http.send(h11.Data(data=body)), http.send(h11.EndOfMessage()))
    await stream.send_all(b"".join(part or b"" for part in sent))
    return http.our_state is h11.DONE and http.their_state is h11.DONE


def _call(request: h11.Request) -> Call | None:
    """Return what *request* asks; ``None``: its target is no address."""
    try:
        parts = urlsplit(request.target.decode("ascii", "replace"))
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError:
        return None
    return Call(parts.path, parameters, [*request.headers])
