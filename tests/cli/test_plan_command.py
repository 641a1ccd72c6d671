"""``trio-ticks plan``: its output, its exit codes, and what it says of bad settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.worlds.command_line import run_cli
from tests.worlds.recordings import T0, flat, write

MINE = """
import trio
import trio_ticks as tt

async def on_tick(tick):
    assert tt.replaying()
    await trio.sleep(0.001)

async def slow(tick):
    await trio.sleep(0.05)
"""

QUICKLY = ("--busy-host", "--measure", "300ms", "--processes", "1", "--executor", "loop")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a strategy, and with a recording of 500 ticks in 2 s."""
    (tmp_path / "mine.py").write_text(MINE)
    lines = [f"{T0 + n * 4_000_000} {flat('AB'[n % 2], volume=n)}" for n in range(500)]
    write(tmp_path / "recording.log", *lines)
    return tmp_path


def test_a_plan_as_text_and_as_a_page(folder: Path) -> None:
    done = run_cli(
        "plan", "recording.log", "--handler", "mine:on_tick", *QUICKLY, "--html", "plan.html",
        "--p99-lag", "200ms", cwd=folder,
    )  # fmt: skip
    assert done.stderr == "plan.html has the plots\n"
    assert done.returncode == 0
    assert "500 ticks of 2 symbols" in done.stdout
    assert "trio_ticks.open_pipeline(" in done.stdout
    assert "p99 lag at most 200 ms" in done.stdout
    assert "<svg" in (folder / "plan.html").read_text(encoding="utf-8")


def test_a_plan_as_json_whose_target_is_not_met(folder: Path) -> None:
    done = run_cli(
        "plan", "recording.log", "--handler", "mine:slow", *QUICKLY, "--json", "--workers", "1,2",
        "--max-drop-rate", "0.1%", "--p99-lag", "1ms", "--factor", "2", "--from", "2024-08-08",
        cwd=folder,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 4
    plan = json.loads(done.stdout)
    assert plan["target"] == {"max_drop_rate": 0.001, "p99_lag_s": 0.001, "factor": 2.0}
    assert {row["workers"] for row in plan["table"]} == {1, 2}
    assert not plan["advice"]["met"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.log", "--handler", "mine:on_tick"), "does not exist"),
        (("recording.log",), "Missing option '--handler'"),
        (("recording.log", "--handler", "mine:off"), "has no 'off'"),
        (("recording.log", "--handler", "mine:on_tick", "--p99-lag", "soon"), "no time like"),
        (("recording.log", "--handler", "mine:on_tick", "--max-drop-rate", "120%"), "too large"),
        (("recording.log", "--handler", "mine:on_tick", "--workers", "0"), "too small"),
        (("recording.log", "--handler", "mine:on_tick", "--to", "1999-01-01"), "too few"),
        (("recording.log", "--handler", "mine:on_tick", "--venue", "nyse"), "nyse"),
    ],
    ids=["recording", "handler", "name", "lag", "share", "workers", "range", "venue"],
)
def test_a_bad_setting_is_one_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run_cli("plan", *arguments, cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_page_that_cannot_be_written_is_said_before_anything_is_measured(folder: Path) -> None:
    (folder / "mine.py").write_text("raise SystemExit(9)")
    done = run_cli(
        "plan", "recording.log", "--handler", "mine:on_tick", "--html", "missing/plan.html",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no folder 'missing'" in done.stderr


@pytest.mark.parametrize("time", ["50parsecs", "fast", "5m", "ms", "1e"])
def test_a_time_that_is_none_is_shown_as_it_was_given(folder: Path, time: str) -> None:
    done = run_cli("plan", "recording.log", "--handler", "mine:on_tick", "--p99-lag", time,
                   cwd=folder)  # fmt: skip
    assert done.returncode == 2
    assert f"'{time}' is no time like 50ms or 2s" in done.stderr
