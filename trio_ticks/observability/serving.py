"""Serve a pipeline's ``/metrics``, and ``/healthz`` and ``/readyz`` for orchestrators.

Rules: the server runs inside the pipeline's block and never ends the pipeline. A scrape
reads counters and blocks the event loop for a few milliseconds; however many are asked
for, they take a bounded share of it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final, final

import trio
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from ..hosts import Hosts, is_loopback
from ..logs import log_event
from ..metrics.observed import Observed
from .health import Health, HealthReport
from .loop_share import LoopShare
from .prometheus import export_metrics
from .readings import Readings
from .web import Response, listen, serve_routes, url_of

__all__ = ["Scrapes", "serve_pipeline"]

logger = logging.getLogger(__name__)

_SAMPLE_EVERY_S: Final = 1.0
SCRAPES_SHARE, SCRAPES_BURST_S = 0.03, 0.1
"""The share of the event loop for scrapes; see :class:`LoopShare`."""


async def serve_pipeline(
    pipeline: Observed,
    port: int,
    host: str,
    name: str,
    registry: CollectorRegistry | None,
    fresh_s: float,
    symbols: int | Sequence[str],
    allow_hosts: Iterable[str] = (),
    max_failure_rate: float | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *pipeline*'s metrics and health until cancelled.

    It reports the URL of the metrics once it listens. For *allow_hosts* see
    :class:`~trio_ticks.hosts.Hosts`, for *fresh_s* and *max_failure_rate*
    :class:`Health`.

    Raises:
        ConfigError: a setting cannot work, or the port cannot be listened on.

    Cancellation: stops listening, closes every connection and removes the pipeline from
        the registry.
    """
    health = Health(pipeline, fresh_s, max_failure_rate)
    allow_hosts = tuple(allow_hosts) if not isinstance(allow_hosts, str) else allow_hosts
    Hosts(allow_hosts)  # What is wrong with them is said before anything is listened on.
    if registry is None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
    with export_metrics(pipeline, registry, name=name, health=health, symbols=symbols) as readings:
        listeners = await listen(port, host)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_sample, readings)
                routes = {
                    "/metrics": Scrapes(registry).answer,
                    "/healthz": lambda _headers: _health(health.alive()),
                    "/readyz": lambda _headers: _health(health.ready(trio.current_time())),
                }
                hosts = Hosts(allow_hosts, local=is_loopback(listeners[0].socket.getsockname()[0]))
                probes = ("/healthz", "/readyz")
                nursery.start_soon(
                    partial(serve_routes, listeners, routes, hosts=hosts, probes=probes)
                )
                task_status.started(url_of(listeners[0], host, "/metrics"))
        except* Exception:
            # A failed port must not stop the pipeline. The scraper notices that it is
            # gone.
            log_event(logger, logging.ERROR, "metrics.server_failed", exc_info=True)


async def _sample(readings: Readings) -> None:
    """Sample once a second how fresh the feed is."""
    while True:
        await trio.sleep(_SAMPLE_EVERY_S)
        readings.health.refresh(trio.current_time())


@final
class Scrapes:
    """Answers scrapes: each by a reading of its own, or with the last one, if too many.

    Reading all numbers takes milliseconds of the event loop, and any number of clients
    may ask for it at once. Once their share of the loop is used up, they get the last
    answer until there is credit for another: with readings of 5 ms that is six times
    a second.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._share = LoopShare(SCRAPES_SHARE, SCRAPES_BURST_S)
        self._last: dict[str, Response] = {}
        """The last answer in each of the formats, of which there are two or three."""

    def answer(self, headers: Mapping[str, str]) -> Response:
        encode, content_type = choose_encoder(headers.get("accept", ""))
        last = self._last.get(content_type)
        if last is not None and not self._share.has_credit:
            return last
        began = trio.current_time()
        response = self._last[content_type] = Response(
            encode(self._registry), content_type, paid=True
        )
        self._share.spend(trio.current_time() - began)
        return response


def _health(report: HealthReport) -> Response:
    body = {"status": "ok" if report.ok else "unavailable", **report.facts}
    return Response(
        json.dumps(body).encode() + b"\n", "application/json", 200 if report.ok else 503
    )
