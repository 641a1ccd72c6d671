"""OpenTelemetry sees what Prometheus sees: the ledger's numbers of one moment.

While the pipeline is there, and no longer.
"""

from __future__ import annotations

import builtins
import gc
import importlib
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

pytest.importorskip("opentelemetry.sdk.metrics", reason="the SDK of OpenTelemetry is not installed")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import Gate, Recorder, sleepy_feed
from trio_ticks import open_pipeline
from trio_ticks.ledger import INTENTIONAL
from trio_ticks.observability.otel import export_otel
from trio_ticks.observability.readings import Readings

Points = dict[tuple[str, frozenset[tuple[str, Any]]], float]


class World:
    """A provider with a reader that is asked by hand."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.meter = self.provider.get_meter("tests")

    def metrics(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        return (
            {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
            if data is not None
            else {}
        )

    def points(self) -> Points:
        return {
            (name.removeprefix("trio_ticks."), frozenset(point.attributes.items())): point.value
            for name, metric in self.metrics().items()
            for point in metric.data.data_points
        }


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.provider.shutdown()


def value(points: Points, name: str, pipeline: str = "main", **labels: str) -> float:
    return points[name, frozenset({"pipeline": pipeline, **labels}.items())]


async def test_it_sees_the_ledger(world: World, autojump_clock: MockClock) -> None:
    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(1.0)
        if tick.volume % 2:
            raise ValueError

    async with open_pipeline(
        sleepy_feed(make_ticks(20)),
        handler,
        workers=1,
        maxsize=10,
        write_timeout=0,
        shutdown_timeout=0,
    ) as pipeline:
        with export_otel(pipeline, world.meter, symbols=1):
            await trio.sleep(3.5)
            points, ledger = world.points(), pipeline.ledger.snapshot()
    assert value(points, "ticks_received") == ledger.produced == 20
    assert value(points, "ticks_handled", result="success") == ledger.consumed == 2
    assert value(points, "ticks_handled", result="failure") == ledger.failed == 1
    for reason, count in ledger.dropped_by_reason.items():
        intentional = "true" if reason in INTENTIONAL else "false"
        assert value(points, "ticks_discarded", reason=reason, intentional=intentional) == count
    assert value(points, "queue_items") == ledger.queued
    assert value(points, "handler_samples") == value(points, "handler_sum") == 3
    assert value(points, "handler_recent", statistic="p99") == pytest.approx(1)
    assert value(points, "symbol_ticks_received", symbol="A") == 20
    assert value(points, "pipeline_unaccounted_items") == 0


async def test_kinds_and_units(world: World) -> None:
    async with open_pipeline(sleepy_feed(make_ticks(1)), Recorder()) as pipeline:
        with export_otel(pipeline, world.meter):
            metrics = world.metrics()
    received, wait = metrics["trio_ticks.ticks_received"], metrics["trio_ticks.queue_wait_sum"]
    assert (received.unit, received.data.is_monotonic) == ("1", True)
    assert (wait.unit, wait.data.is_monotonic) == ("s", True)
    assert not hasattr(metrics["trio_ticks.queue_items"].data, "is_monotonic")
    assert all(metric.description for metric in metrics.values())
    assert not [name for name in metrics if name.endswith(("_seconds", "_total"))]


async def test_a_collection_is_one_reading(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read, times = Readings.read_into, 0

    def counted(self: Readings, sink: Any) -> bool:
        nonlocal times
        times += 1
        return read(self, sink)

    async with open_pipeline(sleepy_feed(make_ticks(1)), Recorder()) as pipeline:
        with export_otel(pipeline, world.meter):
            monkeypatch.setattr(Readings, "read_into", counted)
            for expected in (1, 2, 3):
                assert len(world.points()) > 50
                assert times == expected


async def test_pipelines_come_and_go_on_one_meter(world: World) -> None:
    async with (
        open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as one,
        open_pipeline(sleepy_feed(make_ticks(5)), Recorder()) as two,
    ):
        await wait_all_tasks_blocked()
        with export_otel(one, world.meter, name="one"):
            with export_otel(two, world.meter, name="two"):
                points = world.points()
                assert (
                    value(points, "ticks_received", "one"),
                    value(points, "ticks_received", "two"),
                ) == (3, 5)
                for name in ("two", "", None):
                    with (
                        pytest.raises(tt.ConfigError, match="name"),
                        export_otel(one, world.meter, name=name),  # type: ignore[arg-type]
                    ):
                        pass
            assert {
                labels for _, labels in world.points() if ("pipeline", "two") in labels
            } == set()
        assert world.points() == {}
        # The instruments cannot be taken back; they are used again.
        with export_otel(two, world.meter, name="one"):
            assert value(world.points(), "ticks_received", "one") == 5


async def test_a_pipeline_that_has_gone_is_kept_by_nobody(world: World) -> None:
    async def run() -> weakref.ref[object]:
        async with open_pipeline(sleepy_feed(), Recorder()) as pipeline:
            with export_otel(pipeline, world.meter):
                assert world.points()
            return weakref.ref(pipeline)

    gone = await run()
    await wait_all_tasks_blocked()
    gc.collect()
    assert gone() is None


async def test_an_exporters_thread_reads_in_the_event_loop(world: World) -> None:
    async with open_pipeline(sleepy_feed(make_ticks(3)), Recorder()) as pipeline:
        with export_otel(pipeline, world.meter):
            await wait_all_tasks_blocked()
            points = await trio.to_thread.run_sync(world.points)
    assert value(points, "ticks_received") == 3
    assert value(points, "event_loop_tasks") > 0


async def test_an_event_loop_that_waits_for_the_exporter_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_ticks.loop.PATIENCE_S", 0.05)
    async with open_pipeline(sleepy_feed(make_ticks(3)), Gate(), shutdown_timeout=0) as pipeline:
        with export_otel(pipeline, world.meter):
            seen: list[Points] = []
            thread = threading.Thread(target=lambda: seen.append(world.points()))
            thread.start()
            thread.join()  # The event loop is blocked: that is the test.
            assert seen == [{}]
            # An answer that comes too late is discarded.
            await wait_all_tasks_blocked()
            assert value(world.points(), "ticks_received") == 3


def test_without_the_api_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "trio_ticks.observability.otel")
    imported = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return imported(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(tt.ConfigError, match=r"pip install 'trio-ticks\[otel\]'"):
        importlib.import_module("trio_ticks.observability.otel")
