"""The command line, run as a user runs it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import trio_ticks

__all__ = ["PATIENCE_S", "command", "environment", "run_cli"]

PATIENCE_S = 60.0
"""Longer than anything here takes; only a hang does."""


def environment(**more: str) -> dict[str, str]:
    # COLUMNS and LINES would override the terminal's own size, also when it is resized;
    # pytest-xdist sets them.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TRIO_TICKS_") and name not in ("COLUMNS", "LINES")
    }
    return {
        **kept,
        "TERM": "xterm-256color",
        "PYTHONPATH": str(Path(trio_ticks.__file__).parents[1]),
        **more,
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "trio_ticks", *arguments]


def run_cli(
    *arguments: str, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**env),
        timeout=PATIENCE_S,
        check=False,
    )
