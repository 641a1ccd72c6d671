"""The pipelines' counters for Prometheus: a collector that reads plain numbers when it is scraped, and adds nothing to the hot path.

Rules: names as Prometheus has them (``trio_ticks_``, base units, ``_total``); what there is to tell is told by :class:`Readings`, not here.
All pipelines of a registry are in one collector, and none is kept once its block has been left.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ..errors import ConfigError
from .health import Health
from .readings import BUCKETS_S, Readings
from .symbols import counted_symbols

if TYPE_CHECKING:
    from ..pipeline import Pipeline

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
            family = self._family(GaugeMetricFamily, name, help, labels)
            family.add_metric([self.pipeline, *labels.values()], value)

    def counter(self, name: str, help: str, value: float | None, **labels: str) -> None:
        if value is not None:
            family = self._family(CounterMetricFamily, name, help, labels)
            family.add_metric([self.pipeline, *labels.values()], value)

    def histogram(self, name: str, help: str, counts: list[int], total: float) -> None:
        family = self._family(HistogramMetricFamily, name, help, {})
        family.add_metric([self.pipeline], list(zip(_BOUNDS, counts, strict=True)), total)

    def _family(self, kind: type[Any], name: str, help: str, labels: dict[str, str]) -> Any:
        family = self.families.get(name)
        if family is None:
            family = self.families[name] = kind(_PREFIX + name, help, labels=["pipeline", *labels])
        return family


class _PipelinesCollector(Collector):
    """All pipelines of one registry: two collectors would write each family twice, which no scraper accepts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipelines: dict[str, Readings] = {}

    def add(self, name: str, readings: Readings) -> None:
        with self._lock:
            if name in self._pipelines:
                raise ConfigError(f"the registry has a pipeline named {name!r} already; give this one another name")
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
        """Nothing is scraped in order to register."""
        yield _build_info()


def _build_info() -> Metric:
    from .. import __version__

    info = GaugeMetricFamily(_PREFIX + "build_info", "What runs: always 1.", labels=["version", "python", "trio"])
    info.add_metric([__version__, platform.python_version(), trio.__version__], 1)
    return info


_collectors: WeakKeyDictionary[CollectorRegistry, _PipelinesCollector] = WeakKeyDictionary()
"""Which registry has a collector of ours: registries do not tell."""
_collectors_lock = threading.Lock()


@contextmanager
def export_metrics(
    pipeline: Pipeline[Any],
    registry: CollectorRegistry,
    *,
    name: str = "main",
    health: Health | None = None,
    symbols: int | Sequence[str] = 0,
) -> Iterator[Readings]:
    """Export *pipeline* in *registry* for as long as the block lasts; several pipelines may share a registry.

    Args:
        pipeline: whose numbers.
        registry: where; ``prometheus_client.REGISTRY`` is the default one of the process.
        name: the value of the label ``pipeline``, unique in the registry.
        health: what knows how fresh the feed is, where somebody has it.
        symbols: which symbols have series of their own, or how many, the first to come; all others are counted as ``other``.
            None unless given; each costs three series, and the queue one call a batch.

    Raises:
        ConfigError: the name is empty or taken, or there cannot be so many *symbols*.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"name must be a text, and not empty, got {name!r}")
    with counted_symbols(pipeline._state, symbols) as counts:
        readings = Readings(pipeline, health or Health(pipeline), counts)
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
