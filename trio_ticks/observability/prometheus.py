"""Export the pipelines' counters to Prometheus by a collector.

Rules: the collector reads plain numbers when it is scraped, and adds nothing to the hot
path. Names follow Prometheus (``trio_ticks_``, base units, ``_total``);
:class:`Readings` decides which numbers there are. All pipelines of a registry are in
one collector, which forgets a pipeline when its block is left.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..checks import check_text
from ..errors import ConfigError
from ..metrics.observed import Observed
from .health import Health
from .readings import BUCKETS_S, Readings
from .symbols import counted_halves

__all__ = ["export_metrics"]

_PREFIX: Final = "trio_ticks_"
_BOUNDS: Final = [*(str(bound) for bound in BUCKETS_S), "+Inf"]


class _Scrape:
    """The metric families of one scrape, filled pipeline by pipeline."""

    def __init__(self) -> None:
        self.families: dict[str, Metric] = {}
        self.pipeline = ""

    def gauge(self, name: str, help: str, value: float | None, **labels: str) -> None:
        if value is not None:
            family = self._family(GaugeMetricFamily, name, help)
            family.add_sample(family.name, {"pipeline": self.pipeline, **labels}, value)

    def counter(self, name: str, help: str, value: float | None, **labels: str) -> None:
        if value is not None:
            family = self._family(CounterMetricFamily, name, help)
            family.add_sample(f"{family.name}_total", {"pipeline": self.pipeline, **labels}, value)

    def histogram(
        self, name: str, help: str, counts: list[int], total: float, **labels: str
    ) -> None:
        family = self._family(HistogramMetricFamily, name, help)
        own = {"pipeline": self.pipeline, **labels}
        for bound, count in zip(_BOUNDS, counts, strict=True):
            family.add_sample(f"{family.name}_bucket", {**own, "le": bound}, count)
        family.add_sample(f"{family.name}_count", own, counts[-1])
        family.add_sample(f"{family.name}_sum", own, total)

    def _family(self, kind: type[Any], name: str, help: str) -> Metric:
        # A family's samples need not have the same labels: only some pipelines have
        # halves, or several feeds.
        family = self.families.get(name)
        if family is None:
            family = self.families[name] = kind(_PREFIX + name, help)
        return family


class _PipelinesCollector(Collector):
    """All pipelines of one registry.

    They share one collector, since two would write each family twice, which no scraper
    accepts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipelines: dict[str, Readings] = {}

    def add(self, name: str, readings: Readings) -> None:
        with self._lock:
            if name in self._pipelines:
                raise ConfigError(
                    f"the registry has a pipeline named {name!r} already; "
                    "give this one another name"
                )
            self._pipelines[name] = readings

    def remove(self, name: str) -> bool:
        """Forget *name*; return whether no pipeline is left."""
        with self._lock:
            del self._pipelines[name]
            return not self._pipelines

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            pipelines = list(self._pipelines.items())
        scrape = _Scrape()
        for scrape.pipeline, readings in pipelines:
            readings.read_into(scrape)
        yield _build_info()
        yield from scrape.families.values()

    def describe(self) -> Iterator[Metric]:
        """Return a constant family, so that registering scrapes nothing."""
        yield _build_info()


def _build_info() -> Metric:
    from ..version import __version__

    info = GaugeMetricFamily(
        _PREFIX + "build_info", "What runs: always 1.", labels=["version", "python", "trio"]
    )
    info.add_metric([__version__, platform.python_version(), trio.__version__], 1)
    return info


_collectors: WeakKeyDictionary[CollectorRegistry, _PipelinesCollector] = WeakKeyDictionary()
"""The collector of each registry: a registry cannot be asked for it."""
_collectors_lock = threading.Lock()


@contextmanager
def export_metrics(
    pipeline: Observed,
    registry: CollectorRegistry,
    *,
    name: str = "main",
    health: Health | None = None,
    symbols: int | Sequence[str] = 0,
) -> Iterator[Readings]:
    """Export *pipeline* in *registry* for as long as the block lasts.

    Several pipelines may share a registry.

    Args:
        pipeline: the pipeline to export; with it the ingest that runs beside it, if it
            has a ``buffer``. The label ``half`` tells them apart.
        registry: the registry to add it to; ``prometheus_client.REGISTRY`` is the
            default one of the process.
        name: the value of the label ``pipeline``, unique in the registry.
        health: the pipeline's health, if the caller keeps one that knows how fresh the
            feed is.
        symbols: the symbols that have series of their own, or how many, the first to
            come; all others are counted as ``other``. None unless given. Each costs
            three series, and the queue one call a batch.

    Raises:
        ConfigError: the name is empty or taken, or *symbols* is out of range.
    """
    check_text("name", name)
    with counted_halves(pipeline, symbols) as counts:
        readings = Readings(pipeline, health or Health(pipeline), *counts)
        with _collectors_lock:
            collector = _collectors.get(registry)
            if collector is None:
                collector = _PipelinesCollector()
                registry.register(collector)
                _collectors[registry] = collector
            collector.add(name, readings)
        try:
            yield readings
        finally:
            with _collectors_lock:
                if collector.remove(name):
                    registry.unregister(collector)
                    del _collectors[registry]
