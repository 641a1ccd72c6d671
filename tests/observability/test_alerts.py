"""The rules, the dashboard and the runbook name only metrics that exist.

promtool and a real Prometheus check them, if they are installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.memory_buffer import MemoryBuffer
from tests.worlds.pipeline_world import Recorder, ScriptFeed, Send, sleepy_feed
from trio_ticks import open_pipeline
from trio_ticks.observability.fetch import FetchError, fetch
from trio_ticks.observability.prometheus import export_metrics

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"
RULES = [OPERATIONS / "alerts.yml", OPERATIONS / "recording.yml"]
ALERTS = re.findall(r"- alert: (\w+)", RULES[0].read_text())
RECORDED = re.findall(r"- record: (\S+)", RULES[1].read_text())
DASHBOARD = json.loads((OPERATIONS / "dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
MAY_BE_EMPTY = ("failed:ratio", "buffer", "feed_silent_symbol{", 'intentional="false"}[1m]) > 0')
"""What no pipeline has that is well, and has no buffer between processes."""
PATIENCE_S = 30

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (Debian: apt-get install prometheus)",
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="prometheus is not installed (Debian: apt-get install prometheus)",
)


def promtool(*arguments: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(
        ["promtool", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The texts agree with each other


def test_every_alert_has_a_paragraph_and_every_paragraph_an_alert() -> None:
    text = (OPERATIONS / "runbook.md").read_text()
    paragraphs = dict(re.findall(r"^### (\w+)\n\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL))
    assert sorted(paragraphs) == sorted(ALERTS)
    for name, paragraph in paragraphs.items():
        # What the alert means, what to check, which setting to change.
        assert re.search(r"\b[Ll]ook\b", paragraph), name
        assert re.search(r"\bTurn:|\bto turn:", paragraph), name


def test_every_alert_leads_to_its_own_paragraph() -> None:
    where = r'runbook_url: "\{\{ with \$externalLabels\.runbook \}\}.*\{\{ end \}\}#(\w+)"'
    assert re.findall(where, RULES[0].read_text()) == [name.lower() for name in ALERTS]


def test_every_alert_is_tested() -> None:
    tested = re.findall(
        r"alertname: (\w+)\n +eval_time: \S+\n +exp_alerts:",
        Path(__file__).with_name("alerts_test.yml").read_text(),
    )
    assert sorted(tested) == sorted(ALERTS)


async def test_every_series_named_is_one_that_is_exported(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    buffer = MemoryBuffer(told={"lag_s": 1.0, "round_trip_s": 0.001, "clock_error_s": 0.0})
    async with open_pipeline(
        sleepy_feed(make_ticks(3)),
        Recorder(),
        buffer=buffer,
        shutdown_timeout=0,
        record=tt.Recorder(tmp_path),
    ) as pipeline:
        while not pipeline.ledger.consumed:  # noqa: ASYNC110
            await trio.sleep(0.01)
        with export_metrics(pipeline, registry):
            families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    exported = {sample.name for family in families for sample in family.samples}
    text = "\n".join(
        [*(path.read_text() for path in RULES), *QUERIES, (OPERATIONS / "runbook.md").read_text()]
    )
    named = set(re.findall(r"(?<![:\w])trio_ticks_\w+(?!\w|:)", text)) - {
        "trio_ticks_alerts",
        "trio_ticks_recording",
    }
    by_symbol = {name for name in named if re.search("_symbol$|_symbol_", name)}
    # These are there only for symbols that have a label. The page is made of the code.
    page = (OPERATIONS / "metrics.md").read_text()
    assert {name for name in by_symbol if f"| `{name}` |" not in page} == set()
    named -= by_symbol
    assert len(named) > 15
    # A histogram may be named as a whole.
    assert {
        name for name in named if name not in exported and name + "_bucket" not in exported
    } == set()
    assert set(re.findall(r"pipeline:trio_ticks\w+:\w+", text)) <= set(RECORDED)


def test_the_dashboard_is_one() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids)) > 10
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert [target["refId"] for target in panel["targets"]] == list(
            "ABCDEFG"[: len(panel["targets"])]
        )
    assert all('pipeline=~"$pipeline"' in query for query in QUERIES)


# promtool


@needs_promtool
@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_promtool_accepts_the_rules(path: Path) -> None:
    promtool("check", "rules", path)


@needs_promtool
def test_promtool_accepts_the_dashboards_queries(tmp_path: Path) -> None:
    rules = "".join(
        f"  - record: query:{number}\n    expr: {json.dumps(query)}\n"
        for number, query in enumerate(QUERIES)
    )
    (tmp_path / "queries.yml").write_text(f"groups:\n- name: queries\n  rules:\n{rules}")
    promtool("check", "rules", tmp_path / "queries.yml")


@needs_promtool
def test_each_alert_fires_and_resolves_as_promtool_computes(tmp_path: Path) -> None:
    for path in [*RULES, Path(__file__).with_name("alerts_test.yml")]:
        shutil.copy(path, tmp_path)
    promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)


# A real Prometheus


@attrs.frozen
class Prometheus:
    """The API of a running Prometheus."""

    port: int

    async def get(self, path: str) -> Any:
        return json.loads(await fetch(f"http://127.0.0.1:{self.port}/api/v1/{path}"))["data"]

    async def query(self, expression: str) -> list[Any]:
        return list(
            (await self.get("query?" + urllib.parse.urlencode({"query": expression})))["result"]
        )

    async def firing(self) -> set[str]:
        return {
            alert["labels"]["alertname"]
            for alert in (await self.get("alerts"))["alerts"]
            if alert["state"] == "firing"
        }

    async def until(self, wanted: Callable[[set[str]], bool]) -> None:
        while not wanted(await self.firing()):  # noqa: ASYNC110 - it is another process
            await trio.sleep(0.1)


def quick(rules: str) -> str:
    """Return *rules* for a test's seconds instead of an operator's minutes."""
    return re.sub(r"\[\dm\]", "[2s]", re.sub(r"for: \w+", "for: 0s", rules))


async def start_prometheus(nursery: trio.Nursery, url: str, folder: Path) -> Prometheus:
    for path in RULES:
        (folder / path.name).write_text(quick(path.read_text()))
    target = url.removeprefix("http://").removesuffix("/metrics")
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 250ms, evaluation_interval: 250ms}\n"
        "rule_files: [recording.yml, alerts.yml]\n"
        f"scrape_configs: [{{job_name: j, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log:
        await nursery.start(partial(trio.run_process, command, cwd=folder, stdout=log, stderr=log))
    while True:
        try:
            # It listens before it answers questions.
            await fetch(f"http://127.0.0.1:{port}/-/ready")
        except FetchError:
            await trio.sleep(0.1)
        else:
            return Prometheus(port)


@needs_prometheus
async def test_alerts_fire_and_resolve_in_a_real_prometheus(tmp_path: Path) -> None:
    calm = trio.Event()
    opened = trio.Event()

    async def script(send: Send) -> None:
        number = 0
        while True:
            if not calm.is_set() or number % 50 == 0:
                at = make_tick("A", number).timestamp
                send.mark_gap(tt.Gap("A", at, "sequence", 3, at))
            await send.send_many([make_tick("AB"[(number + n) % 2], number + n) for n in range(10)])
            number += 10
            await trio.sleep(0.5 if calm.is_set() else 0.01)

    async def handler(_tick: tt.Tick) -> None:
        await opened.wait()

    with trio.fail_after(2 * PATIENCE_S):
        async with (
            open_pipeline(
                ScriptFeed(script),
                handler,
                workers=2,
                maxsize=100,
                overflow=tt.DropOldest(),
                shutdown_timeout=0,
            ) as pipeline,
            trio.open_nursery() as nursery,
        ):
            prometheus = await start_prometheus(
                nursery, await pipeline.serve_metrics(0, symbols=2), tmp_path
            )
            await prometheus.until(
                lambda firing: (
                    firing
                    == {"TrioTicksQueueFilling", "TrioTicksLosing", "TrioTicksHandlerOverdue"}
                )
            )
            (up,) = await prometheus.query("up")
            assert up["value"][1] == "1"
            (capacity,) = await prometheus.query("trio_ticks_queue_capacity_items")
            assert capacity["value"][1] == "100"
            calm.set()
            opened.set()
            await prometheus.until(lambda firing: not firing)
            for query in QUERIES:
                expression = query.replace("$pipeline", ".*").replace("[1m]", "[30s]")
                found = await prometheus.query(expression)
                assert found or any(word in query for word in MAY_BE_EMPTY), query
            nursery.cancel_scope.cancel()
    assert pipeline.report.ledger.unaccounted == 0
