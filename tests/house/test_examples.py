"""Each example runs by itself and ends well: with a report, and no hidden error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOK = ROOT / "examples" / "strategy_on_a_recording.ipynb"


def run_python(*arguments: str, cwd: Path) -> str:
    """Run Python with warnings as errors; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Only here an error in a destructor, or of a thread at the end, shows. Log lines
    # may be there too.
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_every_tick_has_an_outcome(path: Path, tmp_path: Path) -> None:
    assert "handled" in run_python(str(path), cwd=tmp_path)


def test_each_example_is_on_the_page_with_its_picture() -> None:
    page = (ROOT / "docs" / "examples.md").read_text()
    for path in (*EXAMPLES, NOTEBOOK):
        assert f"<../examples/{path.name}>" in page, path.name
        (picture,) = (ROOT / "docs" / "_static").glob(f"example-{path.stem}.*")
        assert f"_static/{picture.name}" in page


def test_the_notebook_has_been_run_and_shows_no_machine() -> None:
    """CI runs it, in the session ``examples``."""
    text = NOTEBOOK.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not re.search(r"/(home|tmp|root|Users|work)/", text)


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        "quickstart",
        "mean_reversion",
        "blocking_strategy",
        "custom_feed",
    }


def test_quickstart_is_quick() -> None:
    lines = next(path for path in EXAMPLES if path.stem == "quickstart").read_text().splitlines()
    assert len(lines) <= 30
