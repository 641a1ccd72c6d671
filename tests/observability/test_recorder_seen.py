"""What a recorder does can be seen: in Prometheus, the terminal, and on the page."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

import trio_ticks as tt
from tests.worlds.exchange_client import until
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import sleepy_feed
from trio_ticks.cli.report import progress_line, report_text
from trio_ticks.clock import Clock
from trio_ticks.metrics.snapshots import PipelineMetrics, RecorderMetrics
from trio_ticks.observability.dashboard.board import Board
from trio_ticks.observability.prometheus import export_metrics
from trio_ticks.observability.remote import RemotePipeline, Samples, parse_metrics
from trio_ticks.observability.terminal.history import History
from trio_ticks.observability.terminal.render import Scene, render

SICK = RecorderMetrics(
    messages=12_345,
    bytes=3_000_000,
    written_bytes=400_000,
    dropped=7,
    waiting_bytes=60_000_000,
    files=2,
    file="recordings/x\x1b[31m",
    errors=3,
    last_error="No space left on device\x1b[31m",
    failing=True,
)


async def handler(_tick: tt.Tick) -> None: ...


@asynccontextmanager
async def recording(folder: Path) -> AsyncIterator[tt.Pipeline[Any]]:
    async with tt.open_pipeline(
        sleepy_feed(make_ticks(7)), handler, record=tt.Recorder(folder), shutdown_timeout=0
    ) as pipeline:
        with trio.fail_after(20):
            await until(lambda: pipeline.metrics().recorder.messages == 7)  # type: ignore[union-attr]
        yield pipeline


def samples_of(pipeline: tt.Pipeline[Any]) -> Samples:
    registry = CollectorRegistry()
    with export_metrics(pipeline, registry):
        (samples,) = parse_metrics(generate_latest(registry).decode()).values()
    return samples


def draw(metrics: PipelineMetrics, width: int = 120, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    history = History()
    history.begin(metrics)
    console.print(
        render(metrics, history=history, width=width, height=height, scene=Scene(title="t"))
    )
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


async def test_a_snapshot_elsewhere_is_as_here(tmp_path: Path) -> None:
    async with recording(tmp_path) as pipeline:
        here = pipeline.metrics().recorder
        there = RemotePipeline(samples_of(pipeline), Clock()).metrics.recorder
        assert here is not None
        # Names of files and errors are no labels.
        assert attrs.evolve(here, file=None) == there
        assert here.messages == 7
        assert json.loads(Board(pipeline, "t").snapshot())["recorder"] == {
            "recorded": 7,
            "lost": 0,
            "mb": round(here.written_bytes / 1e6, 3),
            "files": 1,
            "errors": 0,
            "fault": "",
        }


async def test_a_disk_that_fails_is_shown_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with recording(tmp_path) as pipeline:
        monkeypatch.setattr(pipeline, "recording", lambda: SICK)
        metrics = pipeline.metrics()
        samples = samples_of(pipeline)
        assert samples.count("recorder_failing") == 1
        assert samples.count("recorder_dropped_messages_total") == 7
        (row,) = [line for line in draw(metrics).splitlines() if "recorder" in line]
        assert "THE DISK FAILS" in row
        assert "7 lost" in row
        for width in (1, 24, 80):
            lines = draw(metrics, width, 24).splitlines()
            assert max(map(len, lines)) <= width
            assert len(lines) <= 24
        line = progress_line(metrics)
        assert r"7 LOST, DISK FAILS: No space left on device\x1b[31m" in line
        text = report_text(attrs.evolve(pipeline.report, recorder=SICK))
        assert "12,345 messages, 3.0 MB in 400.0 kB, 2 files" in text
        assert "7 messages COULD NOT BE RECORDED" in text
        assert "the disk failed 3 times" in text
        assert "\x1b" not in text + line
        told = json.loads(Board(pipeline, "t").snapshot())["recorder"]
        assert (told["lost"], told["fault"]) == (7, r"No space left on device\x1b[31m")


async def test_without_a_recorder_there_is_nothing_of_it() -> None:
    async with tt.open_pipeline(
        sleepy_feed(make_ticks(3)), handler, shutdown_timeout=0
    ) as pipeline:
        samples = samples_of(pipeline)
        assert not samples.has("recorder_messages_total")
        assert pipeline.metrics().recorder is None
        assert RemotePipeline(samples, Clock()).metrics.recorder is None
        assert "recorder" not in draw(pipeline.metrics())
        assert "recorded" not in report_text(pipeline.report)
        assert json.loads(Board(pipeline, "t").snapshot())["recorder"] is None
