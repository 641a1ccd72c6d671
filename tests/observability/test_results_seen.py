"""What became of results can be seen: in Prometheus, the terminal, and on the page."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_ticks, number
from tests.worlds.pipeline_world import sleepy_feed
from trio_ticks.clock import Clock
from trio_ticks.metrics.snapshots import PipelineMetrics
from trio_ticks.observability.dashboard.board import Board
from trio_ticks.observability.prometheus import export_metrics
from trio_ticks.observability.remote import RemotePipeline, Samples, parse_metrics
from trio_ticks.observability.terminal.history import History
from trio_ticks.observability.terminal.render import Scene, render


async def handler(tick: tt.Tick) -> int:
    return number(tick)


async def write(result: tt.Result) -> None:
    """Write three, refuse the fourth, and be away from then on."""
    if result.value == 3:
        raise ValueError("refused")
    if result.value > 3:
        raise ConnectionRefusedError("nobody there")


@asynccontextmanager
async def waiting() -> AsyncIterator[tt.Pipeline[Any]]:
    """Seven ticks of seven symbols, two workers that wait for the store in the end."""
    async with tt.open_pipeline(
        sleepy_feed(make_ticks(7, symbols="ABCDEFG")),
        handler,
        workers=2,
        results=write,
        shutdown_timeout=0,
    ) as running:
        await trio.sleep(10)
        yield running
        running.cancel()


def samples_of(pipeline: tt.Pipeline[Any]) -> Samples:
    registry = CollectorRegistry()
    with export_metrics(pipeline, registry):
        (samples,) = parse_metrics(generate_latest(registry).decode()).values()
    return samples


def draw(metrics: PipelineMetrics, width: int = 100, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    history = History()
    history.begin(metrics)
    console.print(
        render(metrics, history=history, width=width, height=height, scene=Scene(title="t"))
    )
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


async def test_the_metrics_tell_what_is_written_failed_and_waiting(
    autojump_clock: MockClock,
) -> None:
    async with waiting() as pipeline:
        samples = samples_of(pipeline)
        assert samples.count("results_written_total") == 3
        assert samples.count("results_failed_total") == 1
        assert samples.count("results_waiting") == 2
        assert samples.number("results_waiting_seconds_total") == pytest.approx(20, rel=0.02)


async def test_a_snapshot_elsewhere_is_as_here(autojump_clock: MockClock) -> None:
    async with waiting() as pipeline:
        here, there = pipeline.metrics(), RemotePipeline(samples_of(pipeline), Clock()).metrics
        for name in ("results_written", "results_failed", "results_waiting"):
            assert getattr(here, name) == getattr(there, name), name
        assert there.results_waiting_s == pytest.approx(here.results_waiting_s, rel=0.02)
        assert here.results_waiting == 2


async def test_top_has_a_row(autojump_clock: MockClock) -> None:
    async with waiting() as pipeline:
        metrics = attrs.evolve(pipeline.metrics(), results_waiting_s=20.0)
        (row,) = [line for line in draw(metrics).splitlines() if "results" in line]
        assert " ".join(row.split()) == (
            "results 3 written 2 waiting 1 failed workers waited 20.00 s for them"
        )
        many = attrs.evolve(pipeline.metrics(), results_written=10**9, results_waiting=10**6)
        for width in (1, 24, 80):
            lines = draw(many, width, 24).splitlines()
            assert max(map(len, lines)) <= width
            assert len(lines) <= 24


async def test_the_page_gets_them(autojump_clock: MockClock) -> None:
    async with waiting() as pipeline:
        told = json.loads(Board(pipeline, "t").snapshot())["results"]
        assert told.pop("waiting_s") == pytest.approx(20, rel=0.02)
        assert told == {"written": 3, "failed": 1, "waiting": 2}


async def test_without_a_store_there_is_nothing_of_it(autojump_clock: MockClock) -> None:
    async with tt.open_pipeline(
        sleepy_feed(make_ticks(3)), handler, shutdown_timeout=0
    ) as pipeline:
        samples = samples_of(pipeline)
        assert not any(samples.has(f"results_{name}") for name in ("written_total", "waiting"))
        assert pipeline.metrics().results_waiting is None
        assert RemotePipeline(samples, Clock()).metrics.results_waiting is None
        assert "results" not in draw(pipeline.metrics())
        assert json.loads(Board(pipeline, "t").snapshot())["results"] is None
