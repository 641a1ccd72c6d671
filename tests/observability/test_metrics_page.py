"""The page of all metrics lists what is exported, no more and no less."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from tests.observability.test_alerts import QUERIES, RULES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "operations" / "metrics.md").read_text()


def test_the_table_is_what_the_collector_tells() -> None:
    spec = importlib.util.spec_from_file_location(
        "make_metrics_table", DOCS / "make_metrics_table.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.written(PAGE) == PAGE, "run python docs/make_metrics_table.py"


def test_every_metric_says_what_it_is_in_prometheus_units() -> None:
    rows = re.findall(r"^\| `(trio_ticks_\w+)` \| (\w+) \| (.*) \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(rows) > 50
    for name, kind, _labels, text in rows:
        assert (kind == "counter") == name.endswith("_total")
        assert not re.search(r"_(ms|us|milliseconds|percent|pct)(_|$)", name)
        assert text.endswith(".")


def test_what_the_page_the_rules_and_the_dashboard_name_is_on_the_list() -> None:
    listed = set(re.findall(r"^\| `(trio_ticks_\w+)`", PAGE, re.MULTILINE))
    text = "\n".join([PAGE, *(path.read_text() for path in RULES), *QUERIES])
    named = set(re.findall(r"(?<![:\w.])trio_ticks_\w+", text)) - {
        "trio_ticks_alerts",
        "trio_ticks_recording",
    }
    assert {re.sub("_bucket$|_sum$|_count$", "", name) for name in named} <= listed
