"""The programs of the page on handlers print what the page says that they print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def programs(page: str) -> list[tuple[str, str]]:
    """Return the programs of *page* that are followed by what they print, with that."""
    return re.findall(
        r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE
    )


PAGE = (DOCS / "handlers.md").read_text()
PROGRAMS = programs(PAGE)


def test_every_program_shows_what_it_prints() -> None:
    assert len(PROGRAMS) == PAGE.count("```python") == 6


@pytest.mark.parametrize(
    ("program", "shown"),
    PROGRAMS,
    ids=["life", "batches", "arrival", "failures", "ending", "pause"],
)
def test_program_prints_what_is_shown(program: str, shown: str, tmp_path: Path) -> None:
    if "numpy" in program:
        pytest.importorskip("numpy")
    assert_prints(program, shown, tmp_path)


def assert_prints(program: str, shown: str, tmp_path: Path) -> None:
    """Run *program* and assert that it prints what the page shows."""
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Standard error has the log's lines, with tracebacks between them; the page shows
    # their beginning and end.
    printed = done.stdout.splitlines()
    assert [line for line in shown.splitlines() if line not in done.stderr.splitlines()] == printed
