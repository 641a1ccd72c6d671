"""A pipeline's port for machines: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for orchestrators.

Rules: it lives inside the pipeline's own block and never ends the pipeline; a scrape reads counters and blocks the event loop for a few
milliseconds at most.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from .health import Health, HealthReport
from .prometheus import export_metrics
from .readings import Readings
from .web import Response, listen, serve_routes, url_of

if TYPE_CHECKING:
    from ..pipeline import Pipeline

__all__ = ["serve_pipeline"]

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 1.0


async def serve_pipeline(
    pipeline: Pipeline[Any],
    port: int,
    host: str,
    name: str,
    registry: CollectorRegistry | None,
    fresh_s: float,
    symbols: int | Sequence[str],
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *pipeline*'s metrics and health until cancelled; reports the URL of the metrics once it listens.

    Raises:
        ConfigError: a setting cannot work, or the port cannot be listened on.

    Cancellation: stops listening, closes every connection and takes the pipeline out of the registry.
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
                nursery.start_soon(_look, readings)
                routes = {
                    "/metrics": lambda headers: _metrics(registry, headers),
                    "/healthz": lambda _headers: _health(health.alive()),
                    "/readyz": lambda _headers: _health(health.ready(trio.current_time())),
                }
                nursery.start_soon(serve_routes, listeners, routes)
                task_status.started(url_of(listeners[0], host, "/metrics"))
        except* Exception:
            # A port that fails is no reason to stop the pipeline; that nobody can scrape it any more is noticed by whoever scrapes.
            logger.exception("metrics.server_failed")


async def _look(readings: Readings) -> None:
    """Look once a second how fresh the feed is, and how late the event loop."""
    while True:
        due = trio.current_time() + _LOOK_EVERY_S
        await trio.sleep_until(due)
        now = trio.current_time()
        readings.loop_delay.record(now - due, now)
        readings.health.look(now)


def _metrics(registry: CollectorRegistry, headers: Mapping[str, str]) -> Response:
    encode, content_type = choose_encoder(headers.get("accept", ""))
    return Response(encode(registry), content_type)


def _health(report: HealthReport) -> Response:
    body = {"status": "ok" if report.ok else "unavailable", **report.facts}
    return Response(json.dumps(body).encode() + b"\n", "application/json", 200 if report.ok else 503)
