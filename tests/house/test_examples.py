"""Each example runs by itself and ends well: with a report, and no hidden error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


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
