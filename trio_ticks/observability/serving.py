"""Serve a pipeline's ``/metrics``, and ``/healthz`` and ``/readyz`` for orchestrators.

Rules: the server runs inside the pipeline's block and never ends the pipeline. A scrape
reads counters and blocks the event loop for a few milliseconds at most.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Final

import trio
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from ..logs import log_event
from ..metrics.observed import Observed
from .health import Health, HealthReport
from .prometheus import export_metrics
from .readings import Readings
from .web import Response, listen, serve_routes, url_of

__all__ = ["serve_pipeline"]

logger = logging.getLogger(__name__)

_SAMPLE_EVERY_S: Final = 1.0


async def serve_pipeline(
    pipeline: Observed,
    port: int,
    host: str,
    name: str,
    registry: CollectorRegistry | None,
    fresh_s: float,
    symbols: int | Sequence[str],
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *pipeline*'s metrics and health until cancelled.

    It reports the URL of the metrics once it listens.

    Raises:
        ConfigError: a setting cannot work, or the port cannot be listened on.

    Cancellation: stops listening, closes every connection and removes the pipeline from
        the registry.
    """
    health = Health(pipeline, fresh_s)
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
                    "/metrics": lambda headers: _metrics(registry, headers),
                    "/healthz": lambda _headers: _health(health.alive()),
                    "/readyz": lambda _headers: _health(health.ready(trio.current_time())),
                }
                nursery.start_soon(serve_routes, listeners, routes)
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


def _metrics(registry: CollectorRegistry, headers: Mapping[str, str]) -> Response:
    encode, content_type = choose_encoder(headers.get("accept", ""))
    return Response(encode(registry), content_type)


def _health(report: HealthReport) -> Response:
    body = {"status": "ok" if report.ok else "unavailable", **report.facts}
    return Response(
        json.dumps(body).encode() + b"\n", "application/json", 200 if report.ok else 503
    )
