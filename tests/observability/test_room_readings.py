"""Ticks that wait for room are queued in every sum that an operator is shown."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_ticks as tt
from tests.worlds.helpers import make_ticks
from tests.worlds.pipeline_world import Gate, sleepy_feed
from trio_ticks.cli.report import report_text
from trio_ticks.clock import Clock
from trio_ticks.metrics.snapshots import PipelineMetrics
from trio_ticks.observability.dashboard.board import Board
from trio_ticks.observability.prometheus import export_metrics
from trio_ticks.observability.remote import RemotePipeline, parse_metrics
from trio_ticks.observability.terminal.panels import Pen, ledger


@pytest.fixture
async def pipeline(autojump_clock: MockClock) -> AsyncIterator[tt.Pipeline[Any]]:
    """One tick of nine in flight, four queued, four that wait for room."""
    gate = Gate()
    async with tt.open_pipeline(
        sleepy_feed(make_ticks(9)), gate, workers=1, maxsize=4, overflow=tt.Block()
    ) as running:
        await wait_all_tasks_blocked()
        now = running.metrics()
        assert (now.in_flight, now.queue_size, now.waiting_for_room) == (1, 4, 4)
        yield running
        gate.opened.set()


def queued_in_panel(metrics: PipelineMetrics) -> int:
    """Return what the panel says is queued; its lines add up to the first."""
    shown = io.StringIO()
    Console(file=shown, width=60).print(ledger(metrics, Pen(plain=True)))
    lines = re.findall(r"^[|=+ ]+([a-z ]+?) +(\d+) ", shown.getvalue(), re.MULTILINE)
    numbers = {name: int(number) for name, number in lines}
    produced = numbers.pop("produced")
    assert sum(numbers.values()) == produced
    return numbers["queued"]


async def test_in_the_terminal(pipeline: tt.Pipeline[Any]) -> None:
    assert queued_in_panel(pipeline.metrics()) == pipeline.ledger.queued == 8


async def test_in_the_terminal_of_a_pipeline_elsewhere(pipeline: tt.Pipeline[Any]) -> None:
    registry = CollectorRegistry()
    with export_metrics(pipeline, registry):
        samples = parse_metrics(generate_latest(registry).decode())["main"]
    assert samples.number("queue_items") == samples.number("queue_waiting_for_room_items") == 4
    seen = RemotePipeline(samples, Clock()).metrics
    assert seen.waiting_for_room == 4
    assert queued_in_panel(seen) == 8


async def test_on_the_live_page(pipeline: tt.Pipeline[Any]) -> None:
    shown = json.loads(Board(pipeline, "").snapshot())
    law = shown["ledger"]
    assert shown["queue"]["size"] == 4
    assert (law["received"], law["queued"], law["in_flight"], law["holds"]) == (9, 8, 1, True)


async def test_in_the_report(pipeline: tt.Pipeline[Any]) -> None:
    assert "9 = 0 + 0 + 0 + 8 + 1: every tick is accounted for" in report_text(pipeline.report)
