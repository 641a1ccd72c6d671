"""``trio-ticks replay``: recordings as a user plays them, in real processes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.worlds.command_line import PATIENCE_S, command, environment, run_cli
from tests.worlds.recordings import book, write
from trio_ticks.cli import main
from trio_ticks.cli.market_bar import MarketBar
from trio_ticks.feeds.replay import ReplayFeed

STRATEGY = """
import random, trio
import trio_ticks as tt

async def on_tick(tick):
    print("a print of the strategy")
    await trio.sleep(random.choice([0.001, 0.004]))

async def failing(tick):
    raise ValueError("no")

def told(tick):
    assert tt.replaying()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(STRATEGY)
    (tmp_path / "recorded").mkdir()
    for part in range(2):
        lines = (book(part * 300 + n, symbol="AB"[n % 2]) for n in range(300))
        write(tmp_path / "recorded" / f"part-{part}.gz", *lines, compressed=True)
    return tmp_path


def test_in_real_time(folder: Path) -> None:
    run = run_cli(
        "replay", "recorded", "--handler", "mine:told", "--speed", "max", "--json", cwd=folder
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert (report["consumed"], report["failed"], report["dropped"]) == (600, 0, 0)
    assert report["fingerprint"] is None


def test_at_full_speed_nothing_is_dropped_unless_told(folder: Path) -> None:
    arguments = ("replay", "recorded", "--handler", "mine:on_tick", "--speed", "max", "--json")
    small = ("--maxsize", "5", "--write-timeout", "0")
    report = json.loads(run_cli(*arguments, *small, cwd=folder).stdout)
    assert (report["consumed"], report["dropped"]) == (600, 0)
    told = run_cli(*arguments, *small, "--overflow", "drop-newest", cwd=folder)
    assert json.loads(told.stdout)["dropped"] > 0


def test_on_a_virtual_clock_the_same_again(folder: Path) -> None:
    arguments = ["replay", "recorded/part-0.gz", "recorded/part-1.gz", "--handler"]
    arguments += ["mine:on_tick", "--virtual", "--maxsize", "20", "--write-timeout", "0.01"]
    runs = [
        run_cli(*arguments, "--seed", seed, "--json", cwd=folder, PYTHONHASHSEED=seed)
        for seed in ("1", "1", "2")
    ]
    assert [run.returncode for run in runs] == [0, 0, 0]
    one, same, other = (json.loads(run.stdout) for run in runs)
    assert one == same
    assert one["fingerprint"] != other["fingerprint"]
    assert one["dropped"] > 0
    text = run_cli(*arguments, cwd=folder).stdout
    assert "every tick is accounted for" in text
    assert re.search(r"on a virtual clock: 0\.\d s in .* ticks/s", text)
    assert re.search(r"fingerprint [0-9a-f]{32}, seed 0", text)


def test_a_part_and_what_the_code_takes(folder: Path) -> None:
    arguments = ["replay", "recorded", "--handler", "mine:told", "--virtual", "--json"]
    arguments += ["--start", "2024-08-08T23:54:14.1", "--end", "2024-08-08T23:54:14.2Z"]
    arguments += ["--symbols", "A", "--service", "0.01", "--workers", "1", "--overflow", "block"]
    report = json.loads(run_cli(*arguments, cwd=folder).stdout)
    assert report["consumed"] == 50
    assert report["duration_s"] == pytest.approx(0.5)


def test_failures_make_the_exit_code(folder: Path) -> None:
    arguments = ["replay", "recorded", "--handler", "mine:failing", "--max-failure-rate", "0.5"]
    for more in (["--virtual"], ["--speed", "max"]):
        run = run_cli(*arguments, *more, cwd=folder)
        assert run.returncode == 3
        assert "more than --max-failure-rate 0.5" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing", "--handler", "mine:told"], "'missing' does not exist"),
        (["recorded", "--handler", "mine:nothing"], "module 'mine' has no 'nothing'"),
        (["recorded"], "Missing option '--handler'"),
        (["--handler", "mine:told"], "Missing argument 'RECORDING...'"),
        (["mine.py", "--handler", "mine:told"], "is not a recording that can be played"),
        (["recorded", "--handler", "mine:told", "--speed", "0"], "more than 0"),
        (["recorded", "--handler", "mine:told", "--speed", "fast"], "'fast' is not a number"),
        (["recorded", "--handler", "mine:told", "--seed", "1"], "--seed is for --virtual"),
        (["recorded", "--handler", "mine:told", "--service", "1"], "--service is for --virtual"),
        (
            ["recorded", "--handler", "mine:told", "--virtual", "--duration", "3"],
            "--duration is not for --virtual: hours pass in seconds there; end it by --end",
        ),
        (
            ["recorded", "--handler", "mine:told", "--virtual", "--view", "live"],
            "--view bar or none",
        ),
        (["recorded", "--handler", "mine:told", "--venue", "nasdaq"], "unknown venue 'nasdaq'"),
        (["recorded", "--handler", "mine:told", "--start", "noon"], "start must be a datetime"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_one_line(
    folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert main(["replay", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_the_venues_are_listed(folder: Path) -> None:
    run = run_cli("replay", "recorded", "--handler", "mine:told", "--venue", "list", cwd=folder)
    assert run.returncode == 0
    assert "kraken" in run.stdout


def test_a_signal_ends_it_with_a_report(folder: Path) -> None:
    arguments = command("replay", "recorded", "--handler", "mine:told", "--speed", "0.001")
    with subprocess.Popen(
        arguments,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert "messages/s" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "every tick is accounted for" in out


def test_the_bar_on_a_terminal(folder: Path) -> None:
    main, child = pty.openpty()
    arguments = command("replay", "recorded", "--handler", "mine:told", "--speed", "0.5")
    with subprocess.Popen(
        arguments, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=child
    ) as process:
        os.close(child)
        shown = b""
        try:
            while chunk := os.read(main, 4096):
                shown += chunk
        except OSError:
            pass  # the other end is closed
        finally:
            process.kill()
            os.close(main)
    assert process.returncode == 0
    text = shown.decode()
    assert re.search(r"\r\[#+\.+\] +\d+%  2024-08-08 23:54:1\d  [\d,]+ messages/s", text)
    assert text.endswith("\r\x1b[K")


def test_a_bar_before_during_and_after(folder: Path) -> None:
    feed = ReplayFeed(folder / "recorded")
    bar = MarketBar(feed)
    assert bar.text(time.monotonic()) == f"[{'.' * 24}]   0%  reading ...  0 messages/s"
