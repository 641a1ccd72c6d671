"""Serve a pipeline's live page: static files, its values as JSON, a stream of events.

Rules: the server is that of the metrics. The page changes nothing. It loads nothing
from elsewhere: a policy allows only this server's own files. It answers no other site:
on a loopback address, only requests that name a loopback host are answered, since the
name of another site may resolve to this machine.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Final

import trio

from ...checks import check_text
from ...logs import log_event
from ...metrics.observed import Observed
from ..web import Response, Route, listen, serve_routes, url_of
from .board import Board

__all__ = ["serve_dashboard"]

logger = logging.getLogger("trio_ticks.observability.dashboard")

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
)
_JSON: Final = "application/json"
_REFUSED: Final = b"this page answers to localhost and to loopback addresses only\n"
_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::\d+)?")


async def serve_dashboard(
    pipeline: Observed,
    port: int,
    host: str,
    title: str,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *pipeline*'s live page until cancelled.

    It reports its URL once it listens.

    Raises:
        ConfigError: a setting cannot work, the port cannot be listened on, or the
            pipeline has a page already.

    Cancellation: stops listening, and closes every connection.
    """
    check_text("title", title)
    board = Board(pipeline, title)
    with board.watching():
        listeners = await listen(port, host)
        only_local = _is_loopback(listeners[0].socket.getsockname()[0])
        routes = {
            path: _guarded(route) if only_local else route for path, route in _routes(board).items()
        }
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(board.run)
                nursery.start_soon(serve_routes, listeners, routes)
                task_status.started(url_of(listeners[0], host, "/"))
        except* Exception:
            # A failed page must not stop the pipeline. Its viewers notice that it is
            # gone.
            log_event(logger, logging.ERROR, "dashboard.server_failed", exc_info=True)


def _routes(board: Board) -> dict[str, Route]:
    routes: dict[str, Route] = {}
    for file in (files(__package__) / "page").iterdir():
        kind = _TYPES.get("." + file.name.rpartition(".")[2])
        if kind is not None:
            routes["/" if file.name == "index.html" else f"/{file.name}"] = _static(
                file.read_bytes(), kind
            )
    routes["/api/snapshot"] = lambda _headers: Response(board.snapshot(), _JSON, headers=_HEADERS)
    routes["/api/history"] = lambda _headers: Response(board.past(), _JSON, headers=_HEADERS)
    routes["/api/stream"] = lambda _headers: Response(
        b"", "text/event-stream", headers=_HEADERS, stream=board.stream
    )
    return routes


def _static(body: bytes, kind: str) -> Callable[[Mapping[str, str]], Response]:
    response = Response(body, kind, headers=_HEADERS)
    return lambda _headers: response


def _guarded(route: Route) -> Route:
    """Let *route* answer only requests that name this machine as loopback.

    A DNS name of another site may lead to this machine, too.
    """

    def answer(headers: Mapping[str, str]) -> Response:
        found = _AUTHORITY.fullmatch(headers.get("host", ""))
        if found is not None and _is_loopback(found[1] or found[2]):
            return route(headers)
        return Response(_REFUSED, status=403, headers=_HEADERS)

    return answer


def _is_loopback(name: str) -> bool:
    if name.lower().removesuffix(".") == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
