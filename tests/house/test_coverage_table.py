"""What the tests do not reach is named: each line, and each branch not taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from docs.make_coverage_table import BEGIN, END, unreached, written

SOURCE = """\
def sign(number):
    if number < 0:
        return -1
    if number > 0:
        number = 1
    return number


def never():
    first = 1
    return first
"""
PROGRAM = "from trio_made_up.room.part import sign\nsign(1)\n"


def measured(folder: Path) -> dict[str, object]:
    """Return coverage's report of a package, of which a program runs a part."""
    (folder / "trio_made_up" / "room").mkdir(parents=True)
    (folder / "trio_made_up" / "room" / "part.py").write_text(SOURCE)
    (folder / "program.py").write_text(PROGRAM)
    for command in ("run --branch --source=trio_made_up program.py", "json -q"):
        subprocess.run(
            [sys.executable, "-m", "coverage", *command.split()],
            cwd=folder,
            check=True,
            timeout=60,
        )
    report: dict[str, object] = json.loads((folder / "coverage.json").read_text())
    return report


def test_lines_and_branches_that_no_test_reaches(tmp_path: Path) -> None:
    report = measured(tmp_path)
    files = report["files"]
    assert isinstance(files, dict)
    # Line 3 was not reached; of the others, the way from 4 to 6 was not taken.
    assert unreached(files) == "trio_made_up/room/part.py: 3, 10-11, 4->6\n"


def test_a_row_for_each_room(tmp_path: Path) -> None:
    page = written(f"before\n{BEGIN}old\n{END}after\n", measured(tmp_path))
    assert "| room | 9 | 66.7% | 4 | 50.0% |" in page
    assert "| **all** | 9 | 66.7% | 4 | 50.0% |" in page
    assert page.startswith("before")
    assert page.endswith("after\n")
    assert "old" not in page
