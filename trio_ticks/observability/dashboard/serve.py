"""Serve a pipeline's live page: static files, its values as JSON, a stream of events.

Rules: the server is that of the metrics. The page changes nothing. It loads nothing
from elsewhere: a policy allows only this server's own files. It answers no other site:
see :mod:`trio_ticks.hosts`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.resources import files
from typing import Final

import trio

from ...checks import check_text
from ...hosts import Hosts, is_loopback
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


async def serve_dashboard(
    pipeline: Observed,
    port: int,
    host: str,
    title: str,
    allow_hosts: Iterable[str] = (),
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *pipeline*'s live page until cancelled.

    It reports its URL once it listens. For *allow_hosts* see
    :class:`~trio_ticks.hosts.Hosts`.

    Raises:
        ConfigError: a setting cannot work, the port cannot be listened on, or the
            pipeline has a page already.

    Cancellation: stops listening, and closes every connection.
    """
    check_text("title", title)
    allow_hosts = tuple(allow_hosts) if not isinstance(allow_hosts, str) else allow_hosts
    Hosts(allow_hosts)  # What is wrong with them is said before anything is listened on.
    board = Board(pipeline, title)
    with board.watching():
        listeners = await listen(port, host)
        hosts = Hosts(allow_hosts, local=is_loopback(listeners[0].socket.getsockname()[0]))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(board.run)
                nursery.start_soon(partial(serve_routes, listeners, _routes(board), hosts=hosts))
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
