"""A test that hangs ends the run, and is named: the project's settings see to it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

HANGS = """
import trio

def test_that_ends():
    pass

async def test_that_hangs():
    await trio.sleep_forever()

def test_that_would_come_next():
    pass
"""
NAME = "tests/test_hanging.py::test_that_hangs"


def settings() -> dict[str, Any]:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found: dict[str, Any] = options["tool"]["pytest"]["ini_options"]
    return found


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest over a file that hangs, with our settings and a short limit."""
    tests = folder / "tests"
    tests.mkdir()
    (tests / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (tests / "test_hanging.py").write_text(HANGS)
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    command = [sys.executable, "-m", "pytest", "-o", "faulthandler_timeout=5", *arguments]
    # The environment of this run may hold more options for pytest.
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", "tests"],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_every_test_has_a_limit() -> None:
    assert 60 <= settings()["faulthandler_timeout"] <= 600
    assert settings()["faulthandler_exit_on_timeout"] is True


def test_a_hang_ends_the_run_with_the_name_of_the_test(tmp_path: Path) -> None:
    """An async test is on no thread's stack, and yet it is named."""
    ended = run(tmp_path)
    assert ended.returncode != 0
    assert "Timeout (0:00:05)!" in ended.stderr
    assert f" in {NAME}\n" in ended.stderr
    assert "passed" not in ended.stdout


def test_a_hang_in_one_of_several_processes_fails_the_test_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    ended = run(tmp_path, "-n", "1")
    assert ended.returncode == 1
    assert f"crashed while running '{NAME}'" in ended.stdout
    assert "1 failed, 2 passed" in ended.stdout
