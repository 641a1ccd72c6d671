"""The examples for autoscalers ask for metrics that exist, and get the lag."""

from __future__ import annotations

import json
import re
import urllib.parse
from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry

import trio_ticks as tt
from tests.observability.test_alerts import (
    OPERATIONS,
    PATIENCE_S,
    Prometheus,
    needs_prometheus,
    needs_promtool,
    promtool,
    start_prometheus,
)
from tests.observability.test_metrics_page import PAGE
from tests.worlds.helpers import make_ticks
from tests.worlds.memory_buffer import MemoryBuffer

EXAMPLES = ("keda.yml", "hpa.yml", "prometheus-adapter.yml")
LISTED = set(re.findall(r"^\| `(trio_ticks_\w+)`", PAGE, re.MULTILINE))


def text_of(name: str) -> str:
    return (OPERATIONS / name).read_text()


def of_keda() -> str:
    (query,) = re.findall(r"^ +query: (.+)$", text_of("keda.yml"), re.MULTILINE)
    return str(query)


def of_adapter() -> str:
    """Return the query that the adapter makes of the rule for hpa.yml."""
    (template,) = re.findall(r"metricsQuery: (.+)$", text_of("prometheus-adapter.yml"), re.M)
    (series,) = re.findall(r"seriesQuery: '(\w+)", text_of("prometheus-adapter.yml"))
    (name,) = re.findall(r"name: (trio_ticks_\w+)$", text_of("hpa.yml"), re.MULTILINE)
    assert f"name: {{as: {name}}}" in text_of("prometheus-adapter.yml")
    (labels,) = re.findall(r"matchLabels: \{(.+?)\}", text_of("hpa.yml"))
    matchers = ",".join(re.sub(r"(\w+): ([\w-]+)", r'\1="\2"', labels).split(", "))
    return str(template.replace("<<.Series>>", series).replace("<<.LabelMatchers>>", matchers))


@pytest.mark.parametrize(
    "path", sorted(path for path in OPERATIONS.iterdir() if path.is_file()), ids=lambda p: p.name
)
def test_every_metric_that_a_file_names_exists(path: Path) -> None:
    named = set(re.findall(r"(?<![:\w.])trio_ticks_\w+", path.read_text())) - {
        "trio_ticks_alerts",
        "trio_ticks_recording",
    }
    assert {re.sub("_bucket$|_sum$|_count$", "", name) for name in named} <= LISTED
    assert named or path.name not in EXAMPLES


def test_the_page_shows_the_files_and_makes_up_no_metric() -> None:
    page = (OPERATIONS.parent / "brokers.md").read_text()
    for name in EXAMPLES:
        assert f"{{literalinclude}} operations/{name}" in page
    assert set(re.findall(r"trio_ticks_\w+", page)) <= LISTED
    assert not re.search(r"\bticks_lag\b", page)


@needs_promtool
def test_promtool_computes_what_an_autoscaler_gets(tmp_path: Path) -> None:
    series = "trio_ticks_buffer_lag_ticks{%s, job=%s, instance=%s}"
    lines = [
        (series % ('half="work"', '"ticks-work"', '"a"'), "12000x10 _x20"),
        (series % ('half="work"', '"ticks-work"', '"b"'), "12000x10 _x20"),
        (series % ('half="work"', '"other"', '"c"'), "99000x40"),
        ('trio_ticks_buffer_items{half="ingest", job="ticks-ingest"}', "7000x40"),
    ]
    keda, adapter = of_keda(), of_adapter()
    tests = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in lines],
                "promql_expr_test": [
                    {"expr": expr, "eval_time": when, "exp_samples": samples}
                    for expr, when, samples in (
                        (keda, "1m", [{"labels": "{}", "value": 12000}]),
                        (adapter, "1m", [{"labels": "{}", "value": 12000}]),
                        # All works are gone for longer than Prometheus remembers them.
                        (keda, "9m", [{"labels": "{}", "value": 7000}]),
                    )
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(json.dumps(tests))  # JSON is YAML
    promtool("test", "rules", "test.yml", cwd=tmp_path)


async def asked(prometheus: Prometheus, expression: str) -> list[str]:
    data = await prometheus.get("query?" + urllib.parse.urlencode({"query": expression}))
    return [each["value"][1] for each in data["result"]]


@needs_prometheus
async def test_a_real_prometheus_answers_with_the_lag_of_a_work(tmp_path: Path) -> None:
    buffer = MemoryBuffer(maxsize=300, prefetch=50)

    async def stuck(_tick: object) -> None:
        await trio.sleep_forever()

    await tt.run_pipeline(
        tt.IterableFeed(make_ticks(120)), None, buffer=buffer, overflow=tt.Block(), signals=False
    )
    with trio.fail_after(2 * PATIENCE_S):
        async with (
            tt.open_pipeline(None, stuck, buffer=buffer, shutdown_timeout=0) as work,
            trio.open_nursery() as nursery,
        ):
            url = await work.serve_metrics(0, registry=CollectorRegistry())
            prometheus = await start_prometheus(nursery, url, tmp_path)
            for query in (of_keda(), of_adapter()):
                # The tests' Prometheus calls its one job j.
                expression = query.replace("ticks-work", "j")
                while await asked(prometheus, expression) != ["120"]:  # noqa: ASYNC110
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
