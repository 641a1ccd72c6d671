"""A round of fuzzing that was cut off goes on where it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = ("host-header", "retry-after")


def fuzzed(log: Path, *more: str) -> str:
    """Return what a round of a second for each of two parsers printed."""
    command = [sys.executable, "-m", "tests.fuzz.fuzz_parsers", "--random", "--seconds", "1"]
    command += ["--log", str(log), *(part for name in NAMES for part in ("--only", name)), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def test_a_round_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "log"
    fuzzed(log)
    first, second = (json.loads(line) for line in log.read_text().splitlines())
    assert (first["parser"], second["parser"]) == NAMES
    assert first["held"]
    assert first["inputs"] > 0
    log.write_text(json.dumps(first) + "\n")
    said = fuzzed(log)
    assert "held   retry-after" in said
    assert "host-header" not in said
    assert [json.loads(line)["round"] for line in log.read_text().splitlines()] == [
        first["round"],
        first["round"],
    ]


def test_a_round_that_is_through_begins_anew(tmp_path: Path) -> None:
    log = tmp_path / "log"
    outcome = {"round": "then", "seconds": 1, "inputs": 1, "held": True}
    log.write_text("".join(json.dumps({**outcome, "parser": name}) + "\n" for name in NAMES))
    said = fuzzed(log)
    assert all(f"held   {name}" in said for name in NAMES)
