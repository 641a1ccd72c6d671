"""Twenty hostile strings, in every place where a text from outside is shown.

The places, and which test feeds each of them, stand in
``docs/operations/outside_text.md``; log lines are tested in ``test_logs.py``.
"""

from __future__ import annotations

import importlib
import io
import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import wait_all_tasks_blocked

pytest.importorskip("rich")

from rich.cells import cell_len
from rich.console import Console

import trio_ticks as tt
from tests.observability.test_terminal import make_metrics, make_worker
from tests.worlds.dashboard_client import ask
from tests.worlds.helpers import make_tick
from tests.worlds.hostile import HOSTILE, MARK, is_clean
from tests.worlds.pipeline_world import Gate, ScriptFeed, Send, sleepy_feed
from trio_ticks import open_pipeline
from trio_ticks.brokers import BufferView, GroupView
from trio_ticks.cli import main
from trio_ticks.cli.lag import lag_table
from trio_ticks.cli.report import json_line, progress_line
from trio_ticks.clock import Clock
from trio_ticks.metrics.snapshots import FeedMetrics, LastFailure, Overdue, PipelineMetrics
from trio_ticks.observability.fetch import FetchError
from trio_ticks.observability.prometheus import export_metrics
from trio_ticks.observability.remote import MOST_PIPELINES, RemotePipeline, read_answer
from trio_ticks.observability.terminal.history import History
from trio_ticks.observability.terminal.render import Scene, render

PATIENCE_S = 60
ROOT = Path(__file__).parents[2]
EACH = pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))


def test_there_are_twenty_and_none_is_clean_but_those_that_format() -> None:
    assert len(set(HOSTILE)) == 20
    assert all(MARK in text for text in HOSTILE)
    assert sum(is_clean(text, lines=False) for text in HOSTILE) == 2


def test_every_place_has_a_test_that_exists() -> None:
    table = (ROOT / "docs" / "operations" / "outside_text.md").read_text(encoding="utf-8")
    tests = re.findall(r"`(tests/[\w/]+)\.py::(\w+)`", table)
    assert len(tests) >= 12
    for path, name in tests:
        assert hasattr(importlib.import_module(path.replace("/", ".")), name), name


# The terminal


def draw(metrics: PipelineMetrics, scene: Scene, *, width: int, height: int) -> str:
    """Return what a terminal gets, without the colours that are ours."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        console.print(render(metrics, history=History(), width=width, height=height, scene=scene))
    return capture.get()


@EACH
@pytest.mark.parametrize(("plain", "width", "height"), [(False, 160, 50), (True, 80, 24)])
def test_the_view_in_the_terminal(text: str, plain: bool, width: int, height: int) -> None:
    worker = make_worker(0, symbol=text, failed=0)
    feeds = tuple(FeedMetrics(name=name, connected=True) for name in (text, f"{text}2"))
    metrics = make_metrics(
        silent_symbols=1, silent_names=(text,), feeds=feeds, pressure=text, state=text
    )
    metrics = attrs.evolve(
        metrics,
        workers=(worker, make_worker(1, name=text), make_worker(2, state=text)),
        failed_per_s=1.0,
        last_failure=LastFailure(error=text, symbol=text, at=metrics.timestamp),
        overdue=Overdue(workers=2, for_s=3.0, symbol=text),
    )
    scene = Scene(title=text, subtitle=text, messages=(text,), hint=text, alarm=text, plain=plain)
    shown = draw(metrics, scene, width=width, height=height)
    assert is_clean(shown)
    assert MARK in shown
    assert shown.isascii() or not plain
    lines = shown.removesuffix("\n").split("\n")
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width


# Another process


def escaped(text: str) -> str:
    """Return *text* as Prometheus writes the value of a label."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def answer_with(text: str) -> str:
    """Return what a hostile program may serve, with *text* wherever it has a say."""
    label, samples = escaped(text), []
    for name, labels in (
        ("queue_items", ""),
        ("pressure", f',state="{label}"'),
        ("pipeline_state", f',state="{label}"'),
        ("worker_busy_ratio", f',worker="{label}"'),
        ("worker_state", f',worker="{label}",state="{label}"'),
        ("feed_connected", f',feed="{label}"'),
        ("feed_silent_symbols", f',feed="{label}"'),
        ("feed_silent_symbol", f',symbol="{label}"'),
        ("workers_limit", f',limit="{label}"'),
    ):
        samples.append(f'trio_ticks_{name}{{pipeline="{label}"{labels}}} 1\n')
    return "".join(samples)


@EACH
def test_what_another_process_serves(text: str) -> None:
    # A byte that is no UTF-8 is replaced when the answer is decoded.
    served = answer_with(text).encode("utf-8", "replace").decode()
    ((name, samples),) = read_answer(served).pipelines.items()
    metrics = RemotePipeline(samples, Clock(lambda: 0.0)).metrics
    assert is_clean(name, lines=False)
    assert len(name) <= 120
    for line in (progress_line(metrics), json_line({name: metrics.to_dict()})):
        assert is_clean(line, lines=False)
    shown = draw(metrics, Scene(title=name), width=120, height=40)
    assert is_clean(shown)
    assert MARK in shown
    # Chosen by the name that is shown.
    assert list(read_answer(served + answer_with("other"), only=name).pipelines) == [name]


@EACH
def test_a_reason_why_there_are_no_metrics(text: str) -> None:
    with pytest.raises(FetchError) as caught:
        read_answer(f'trio_ticks_queue_items{{pipeline="a"}} {text!r}\n')
    assert is_clean(str(caught.value), lines=False)
    assert is_clean(str(FetchError(text)), lines=False)


@EACH
def test_the_table_of_lags(text: str) -> None:
    group = GroupView(name=text, lag=3, holders={text: 2})
    table = lag_table(BufferView(buffer=text, groups=(group,)), (group,))
    assert is_clean(table)
    assert table.count("\n") == 4
    assert table.count(MARK) == 3


@EACH
def test_an_error_of_the_command_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([text.replace("\x00", "")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert is_clean(err)
    assert MARK in err


# What cannot be


@pytest.mark.parametrize("value", ["1e308", "-1e308", "1.7976931348623157e308", "NaN", "-Inf"])
def test_numbers_beyond_all_sense(value: str) -> None:
    names = (
        *("queue_items", "queue_capacity_items", "pipeline_start_time_seconds", "workers"),
        *("ticks_received_total", "ticks_handled_total", "ticks_discarded_total"),
        *("in_flight_ticks", "queue_blocked_seconds_total", "feed_reconnects_total"),
        *("handler_recent_seconds", "handler_seconds_count", "worker_busy_ratio"),
        *("feed_throttle_ticks_per_second", "workers_wanted", "pipeline_unaccounted_items"),
    )
    labels = 'pipeline="main",statistic="p99",worker="w",result="success",reason="overflow"'
    served = "".join(f"trio_ticks_{name}{{{labels}}} {value}\n" * 5 for name in names)
    remote = RemotePipeline(read_answer(served).pipelines["main"], Clock(lambda: 0.0))
    for _ in range(3):
        remote.update(read_answer(served).pipelines["main"])
        shown = draw(remote.metrics, Scene(), width=80, height=24)
        assert max(map(cell_len, shown.split("\n"))) <= 80
        assert len(progress_line(remote.metrics)) < 400
        json.dumps(remote.metrics.to_dict(), allow_nan=False)


def test_a_hundred_thousand_pipelines() -> None:
    served = "".join(
        f'trio_ticks_queue_items{{pipeline="p{number}"}} {number}\n' for number in range(100_000)
    )
    answer = read_answer(served)
    assert len(answer.pipelines) == MOST_PIPELINES
    assert answer.more == 100_000 - MOST_PIPELINES
    assert list(answer.pipelines)[:2] == ["p0", "p1"]
    chosen = read_answer(served, only="p99999")
    assert chosen.pipelines["p99999"].count("queue_items") == 99_999
    # If there is none of that name, those that there are can be told.
    few = read_answer(served[:200], only="none")
    assert list(few.pipelines)[:2] == ["p0", "p1"]


def test_more_workers_and_feeds_than_anybody_serves() -> None:
    rows = "".join(
        f'trio_ticks_worker_busy_ratio{{pipeline="main",worker="w{number}"}} 1\n'
        f'trio_ticks_feed_connected{{pipeline="main",feed="f{number}"}} 1\n'
        f'trio_ticks_feed_silent_symbol{{pipeline="main",symbol="s{number}"}} 1\n'
        for number in range(20_000)
    )
    metrics = RemotePipeline(read_answer(rows).pipelines["main"], Clock(lambda: 0.0)).metrics
    assert len(metrics.workers) <= 64
    assert len(metrics.feeds) <= 200
    assert len(metrics.silent_names) <= 20


# A pipeline here


async def test_the_labels_of_metrics() -> None:
    registry = CollectorRegistry()
    # Two symbols that are shown alike must not make two series of one name.
    symbols = [*HOSTILE, "a\x1b", "a\\x1b", "b" * 500, "b" * 501]
    feed = sleepy_feed([make_tick(symbol, n) for n, symbol in enumerate(symbols)])
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(feed, Gate(), shutdown_timeout=0) as pipeline:
            feed.stats = tt.FeedStats(
                True, silent_symbols=len(symbols), silent_names=tuple(symbols)
            )
            with export_metrics(pipeline, registry, symbols=100):
                await wait_all_tasks_blocked()
                text = generate_latest(registry).decode()
    assert is_clean(text)
    assert "\ntrio_ticks_forged" not in text
    series = [
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert len(series) == len(set(series))
    silent = [labels for name, labels in series if name == "trio_ticks_feed_silent_symbol"]
    assert len(silent) == len(symbols) - 2
    received = [labels for name, labels in series if name.startswith("trio_ticks_symbol_ticks_rec")]
    assert len(received) == len(symbols) - 2


async def test_what_the_live_page_gets() -> None:
    looked = trio.Event()

    async def script(send: Send) -> None:
        await looked.wait()
        await send.send_many([make_tick(symbol, n) for n, symbol in enumerate(HOSTILE)])
        await trio.sleep_forever()

    feed = ScriptFeed(script)
    feed.stats = tt.FeedStats(True, silent_symbols=len(HOSTILE), silent_names=HOSTILE)
    with trio.fail_after(PATIENCE_S):
        async with open_pipeline(feed, Gate(), workers=30, shutdown_timeout=0) as pipeline:
            url = await pipeline.serve_dashboard(0, title=HOSTILE[5])
            seen: dict[str, Any] = {}
            # Symbols are counted from the first look on, and read once a second.
            while not (seen.get("symbols") or {}).get("by_rate"):
                status, _headers, body = await ask(url, "/api/snapshot")
                assert status == 200
                looked.set()
                seen = json.loads(body)
                await trio.sleep(0.05)
    texts = [text for text in strings(seen) if MARK in text]
    assert all(is_clean(text, lines=False) for text in texts)
    for part in ("title", "symbols", "workers", "connection"):
        assert any(MARK in text for text in strings(seen[part])), part


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in strings(part)]
