"""The benchmark of recording runs from end to end, and can miss its limit.

No timing is asserted here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import recording


def test_it_measures_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    code = recording.main(["--pairs=1", "--ticks=60000", f"--json={path}"])
    results = json.loads(path.read_text())
    for rate in ("100000", "0"):
        assert results[rate]["loop_cpu"]["with"] > 0
        assert results[rate]["loop_cpu"]["without"] > 0
    out = capsys.readouterr().out
    assert "100,000 messages/s" in out
    assert code == ("MISSED" in out)


@pytest.mark.parametrize(("ratio", "word"), [(1.04, "ok"), (1.06, "MISSED")])
def test_the_limit_can_be_missed(ratio: float, word: str) -> None:
    figures: dict[str, Any] = {"with": 1.0, "without": 1.0, "ratio": ratio, "interval": (1.0, 1.1)}
    assert recording.text({"100000": {"loop_cpu": figures}}).splitlines()[-1].startswith(word)
