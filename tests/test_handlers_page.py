"""The programs of the page on handlers print what the page says that they print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "handlers.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_every_program_shows_what_it_prints() -> None:
    assert len(PROGRAMS) == PAGE.count("```python") == 3


@pytest.mark.parametrize(("program", "shown"), PROGRAMS, ids=["life", "batches", "failures"])
def test_program_prints_what_is_shown(program: str, shown: str, tmp_path: Path) -> None:
    if "numpy" in program:
        pytest.importorskip("numpy")
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    # On standard error are the log's lines, with tracebacks between them, of which the page shows the beginning and the end.
    printed = done.stdout.splitlines()
    assert [line for line in shown.splitlines() if line not in done.stderr.splitlines()] == printed
