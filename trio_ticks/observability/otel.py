"""The pipelines' counters for OpenTelemetry: observable instruments that read plain numbers when they are collected.

Rules: names are those of Prometheus with ``trio_ticks.`` for its prefix and no unit at their end, the unit being the instrument's own. One
collection is one reading, so that its sums agree. OpenTelemetry has no observable histogram: of each there are the samples and their
sum, and the last minute's percentiles. Needs ``pip install 'trio-ticks[otel]'``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..errors import ConfigError
from .health import Health
from .readings import Readings
from .symbols import counted_symbols

try:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation
except ImportError as error:
    raise ConfigError("export to OpenTelemetry needs its API: pip install 'trio-ticks[otel]'") from error

if TYPE_CHECKING:
    from ..pipeline import Pipeline

__all__ = ["export_otel"]


class _Observations:
    """A sink: every name that there is, with what kind it is, and what was told of it."""

    def __init__(self) -> None:
        self.kinds: dict[str, tuple[str, str]] = {}
        self.told: dict[str, list[Observation]] = {}
        self.pipeline = ""

    def gauge(self, name: str, help: str, value: float | None, **labels: str) -> None:
        self._add("gauge", name, help, value, labels)

    def counter(self, name: str, help: str, value: float | None, **labels: str) -> None:
        self._add("counter", name, help, value, labels)

    def histogram(self, name: str, help: str, counts: list[int], total: float) -> None:
        self._add("counter", name.removesuffix("_seconds") + "_samples", f"How many samples there were: {help}", counts[-1], {})
        self._add("counter", name.removesuffix("_seconds") + "_sum_seconds", f"The sum of all samples: {help}", total, {})

    def _add(self, kind: str, name: str, help: str, value: float | None, labels: dict[str, str]) -> None:
        self.kinds.setdefault(name, (kind, help))
        told = self.told.setdefault(name, [])
        if value is not None:
            told.append(Observation(value, {"pipeline": self.pipeline, **labels}))


class _Bridge:
    """The instruments of one meter: they cannot be taken back, so they are made once, for all pipelines that come and go."""

    def __init__(self) -> None:
        self.pipelines: dict[str, Readings] = {}
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[str, str]] = {}
        self._told: dict[str, list[Observation]] = {}

    def create_instruments(self, meter: Meter) -> None:
        self._kinds = self._read().kinds
        for name, (kind, help) in self._kinds.items():
            create = meter.create_observable_counter if kind == "counter" else meter.create_observable_gauge
            unit = "s" if name.endswith("_seconds") else "1"
            create(f"trio_ticks.{name.removesuffix('_seconds')}", [partial(self._observe, name)], unit, help)

    def _read(self) -> _Observations:
        sink = _Observations()
        for sink.pipeline, readings in list(self.pipelines.items()):
            readings.read_into(sink)
        return sink

    def _observe(self, name: str, _options: CallbackOptions) -> Iterable[Observation]:
        """Hand out what was read for *name*; whoever has had that already begins another collection."""
        with self._lock:
            if name not in self._told:
                # Each name is told, if only nothing: what cannot be read now is not tried again for the next one.
                self._told = {**{key: [] for key in self._kinds}, **self._read().told}
            return self._told.pop(name, ())


_bridges: WeakKeyDictionary[Meter, _Bridge] = WeakKeyDictionary()


@contextmanager
def export_otel(pipeline: Pipeline[Any], meter: Meter, *, name: str = "main", symbols: int | Sequence[str] = 0) -> Iterator[None]:
    """Let *meter* observe *pipeline* for as long as the block lasts; several pipelines may share a meter.

    Args:
        pipeline: whose numbers.
        meter: from ``opentelemetry.metrics.get_meter(...)``.
        name: the value of the attribute ``pipeline``, unique in the meter.
        symbols: as for :func:`~trio_ticks.observability.prometheus.export_metrics`.

    Raises:
        ConfigError: the name is empty or taken, or there cannot be so many *symbols*.
    """
    bridge = _bridges.get(meter)
    if not isinstance(name, str) or not name or (bridge is not None and name in bridge.pipelines):
        raise ConfigError(f"name must be a text that is not empty and that no other pipeline of the meter has, got {name!r}")
    with counted_symbols(pipeline._state, symbols) as counts:
        readings = Readings(pipeline, Health(pipeline), counts)
        if bridge is None:
            bridge = _bridges[meter] = _Bridge()
            bridge.pipelines[name] = readings
            bridge.create_instruments(meter)
        bridge.pipelines[name] = readings
        try:
            yield
        finally:
            del bridge.pipelines[name]
