"""Export the pipelines' counters to OpenTelemetry by observable instruments.

Rules: an instrument reads plain numbers when it is collected, and adds nothing to the
hot path. Names are those of Prometheus with the prefix ``trio_ticks.`` and without a
unit at their end: the unit is a property of the instrument. One collection is one
reading, so that its sums agree.

OpenTelemetry has no observable histogram. Each histogram becomes two counters, the
number of samples and their sum; the last minute's percentiles are gauges. Needs ``pip
install 'trio-ticks[otel]'``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

from ..checks import check_text
from ..errors import ConfigError
from ..metrics.observed import Observed
from .health import Health
from .readings import Readings
from .symbols import counted_halves

try:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation
except ImportError as error:
    raise ConfigError(
        "export to OpenTelemetry needs its API: pip install 'trio-ticks[otel]'"
    ) from error

__all__ = ["export_otel"]


class _Observations:
    """A sink that keeps the kind and the observations of every name."""

    def __init__(self) -> None:
        self.kinds: dict[str, tuple[str, str]] = {}
        self.observed: dict[str, list[Observation]] = {}
        self.pipeline = ""

    def gauge(self, name: str, help: str, value: float | None, **labels: str) -> None:
        self._add("gauge", name, help, value, labels)

    def counter(self, name: str, help: str, value: float | None, **labels: str) -> None:
        self._add("counter", name, help, value, labels)

    def histogram(
        self, name: str, help: str, counts: list[int], total: float, **labels: str
    ) -> None:
        self._add(
            "counter",
            name.removesuffix("_seconds") + "_samples",
            f"How many samples there were: {help}",
            counts[-1],
            labels,
        )
        self._add(
            "counter",
            name.removesuffix("_seconds") + "_sum_seconds",
            f"The sum of all samples: {help}",
            total,
            labels,
        )

    def _add(
        self, kind: str, name: str, help: str, value: float | None, labels: dict[str, str]
    ) -> None:
        self.kinds.setdefault(name, (kind, help))
        observed = self.observed.setdefault(name, [])
        if value is not None:
            observed.append(Observation(value, {"pipeline": self.pipeline, **labels}))


class _Bridge:
    """The instruments of one meter, shared by all pipelines that come and go.

    They are created once, since OpenTelemetry cannot remove an instrument.
    """

    def __init__(self) -> None:
        self.pipelines: dict[str, Readings] = {}
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[str, str]] = {}
        self._pending: dict[str, list[Observation]] = {}
        """Observations of the current collection that are not fetched yet, by name."""

    def create_instruments(self, meter: Meter) -> None:
        self._kinds = self._read().kinds
        for name, (kind, help) in self._kinds.items():
            create = (
                meter.create_observable_counter
                if kind == "counter"
                else meter.create_observable_gauge
            )
            unit = "s" if name.endswith("_seconds") else "1"
            create(
                f"trio_ticks.{name.removesuffix('_seconds')}",
                [partial(self._observe, name)],
                unit,
                help,
            )

    def _read(self) -> _Observations:
        sink = _Observations()
        for sink.pipeline, readings in list(self.pipelines.items()):
            readings.read_into(sink)
        return sink

    def _observe(self, name: str, _options: CallbackOptions) -> Iterable[Observation]:
        """Return what was read for *name* in the current collection.

        A collection asks for each name once. So a name that has been handed out already
        begins the next collection, and all names are read again.
        """
        with self._lock:
            if name not in self._pending:
                # Every name gets an entry, if only an empty one: when a reading fails,
                # the other names of this collection do not try it again.
                empty: dict[str, list[Observation]] = {key: [] for key in self._kinds}
                self._pending = {**empty, **self._read().observed}
            return self._pending.pop(name, ())


_bridges: WeakKeyDictionary[Meter, _Bridge] = WeakKeyDictionary()


@contextmanager
def export_otel(
    pipeline: Observed, meter: Meter, *, name: str = "main", symbols: int | Sequence[str] = 0
) -> Iterator[None]:
    """Let *meter* observe *pipeline* for as long as the block lasts.

    Several pipelines may share a meter.

    Args:
        pipeline: the pipeline to export; with it the ingest that runs beside it, if it
            has a ``buffer``. The attribute ``half`` tells them apart.
        meter: from ``opentelemetry.metrics.get_meter(...)``.
        name: the value of the attribute ``pipeline``, unique in the meter.
        symbols: as for :func:`~trio_ticks.observability.prometheus.export_metrics`.

    Raises:
        ConfigError: the name is empty or taken, or *symbols* is out of range.
    """
    bridge = _bridges.get(meter)
    check_text("name", name)
    if bridge is not None and name in bridge.pipelines:
        raise ConfigError(
            f"the meter has a pipeline named {name!r} already; give this one another name"
        )
    with counted_halves(pipeline, symbols) as counts:
        readings = Readings(pipeline, Health(pipeline), *counts)
        if bridge is None:
            bridge = _bridges[meter] = _Bridge()
            bridge.pipelines[name] = readings
            bridge.create_instruments(meter)
        bridge.pipelines[name] = readings
        try:
            yield
        finally:
            del bridge.pipelines[name]
