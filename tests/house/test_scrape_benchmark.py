"""The benchmark of scraping runs from end to end, scrapes, and can miss its limits.

No timing is asserted here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import scrape


def test_it_measures_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    code = scrape.main(
        ["--pairs=2", "--seconds=0.05", "--scrapes=2", "--symbols=300", f"--json={path}"]
    )
    results = json.loads(path.read_text())
    assert [effect["rate"] for effect in results["effect"]] == [100_000, None]
    for effect in results["effect"]:
        assert effect["scrape_ms"] > 0
        assert len(effect["per_s"]["ratios"]) == len(effect["per_cpu_s"]["ratios"]) == 2
        assert effect["per_s"]["without"] > 0
    lines = {(entry["labels"], entry["workers"]): entry["lines"] for entry in results["scrapes"]}
    # Three series a symbol that has a label, of which there are no more than symbols.
    assert 3 * 100 <= lines[100, 4] - lines[0, 4] <= 3 * 101 + 10
    assert 3 * 300 <= lines[1000, 4] - lines[0, 4] <= 3 * 300 + 10
    assert all(entry["queued"] > 0 for entry in results["scrapes"])
    out = capsys.readouterr().out
    assert "scraped once a second" in out
    assert code == ("MISSED" in out)


def results(*, per_s: float = 1.0, per_cpu_s: float = 1.0, ms: float = 1.0) -> dict[str, Any]:
    figures = {"per_s": {"ratio": per_s}, "per_cpu_s": {"ratio": per_cpu_s}}
    return {
        "effect": [{"rate": 100_000.0, **figures}, {"rate": None, **figures}],
        "scrapes": [{"ms": {"median": ms}}],
    }


def test_limits_can_be_missed() -> None:
    assert scrape.misses(results()) == []
    assert len(scrape.misses(results(per_s=0.97))) == 1
    assert len(scrape.misses(results(per_cpu_s=0.97))) == 1
    assert scrape.misses(results(ms=51)) == ["a scrape takes more than 50 ms"]
