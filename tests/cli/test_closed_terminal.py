"""The terminal is closed while a command runs: it ends in order, and without a word.

So it does with an output that has no room any more, or was closed before the start.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.worlds.command_line import PATIENCE_S, command, environment
from tests.worlds.recordings import T0, flat, write

STRATEGY = """
import sys, time, trio

def note(word):
    with open("noted", "a") as file:
        file.write(word + "\\n")

async def slow(tick):
    note("begun")
    await trio.sleep(0.3)
    note("done")

async def prints(tick):
    note("begun")
    await trio.sleep(0.3)
    print("a tick")
    note("done")

async def blocks(tick):
    note("begun")
    time.sleep(1000)
"""

PROGRAM = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also under nohup
from trio_ticks.cli import main
sys.exit(main())
"""


@contextmanager
def at_terminal(
    folder: Path, *arguments: str, errors: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command at a terminal of its own, *errors* in a file if wanted."""
    (folder / "mine.py").write_text(STRATEGY)
    master, slave = pty.openpty()
    with (folder / "errors").open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=file if errors else slave,
            start_new_session=True,
            cwd=folder,
            env=environment(TERM="xterm-256color"),
        )
    os.close(slave)
    try:
        yield process, master
    finally:
        process.kill()
        process.wait()


def wait_for(file: Path, text: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not (file.exists() and text in file.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)


def running(exchange: str, handler: str, *more: str) -> list[str]:
    strategy = ["--handler", f"mine:{handler}", "--workers", "1"]
    return ["run", "--url", exchange, "--symbols", "SPY", *strategy, *more]


@pytest.mark.parametrize(
    ("view", "strategy"),
    [("live", "slow"), ("lines", "slow"), ("none", "slow"), ("none", "prints")],
)
def test_a_run_finishes_its_ticks_and_logs_the_report_that_nobody_reads(
    exchange: str, tmp_path: Path, view: str, strategy: str
) -> None:
    arguments = running(exchange, strategy, "--view", view, "--shutdown-timeout", "1")
    with at_terminal(tmp_path, *arguments, errors=True) as (process, master):
        wait_for(tmp_path / "noted", "begun")
        os.close(master)
        assert process.wait(PATIENCE_S) == 0
    errors = (tmp_path / "errors").read_text()
    assert "Traceback" not in errors
    done = (tmp_path / "noted").read_text().split().count("done")
    assert done >= 1
    lost = "cli.report_lost: the terminal is closed; "
    assert re.search(rf"{lost}produced \d+, consumed {done}, failed 0, dropped \d+", errors)


def test_a_run_whose_loop_stands_still_is_ended(exchange: str, tmp_path: Path) -> None:
    arguments = running(exchange, "blocks", "--shutdown-timeout", "0.5")
    with at_terminal(tmp_path, *arguments) as (process, master):
        wait_for(tmp_path / "noted", "begun")
        os.close(master)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGHUP


@pytest.mark.parametrize("first", [signal.SIGINT, None], ids=["Ctrl-C", "time"])
def test_a_shutdown_that_has_begun_is_not_cut_short(
    exchange: str, tmp_path: Path, first: signal.Signals | None
) -> None:
    full = ["--maxsize", "5", "--overflow", "drop-newest", "--write-timeout", "0"]
    more = ["--duration", "2"] if first is None else []
    time_left = ["--shutdown-timeout", str(PATIENCE_S)]
    arguments = running(exchange, "slow", "--view", "lines", *time_left, *full, *more)
    with at_terminal(tmp_path, *arguments, errors=True) as (process, master):
        wait_for(tmp_path / "errors", "ticks.dropped")
        if first is not None:
            process.send_signal(first)
        wait_for(tmp_path / "errors", "draining the queue")
        before = (tmp_path / "noted").read_text().count("done")
        os.close(master)
        assert process.wait(PATIENCE_S) == 0
    noted = (tmp_path / "noted").read_text()
    assert noted.count("done") == noted.count("begun") > before + 1


def test_the_live_view_of_another_pipeline_ends_without_a_word(
    exchange: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(STRATEGY)
    arguments = running(exchange, "slow", "--metrics-port", "0", "--view", "none")
    with subprocess.Popen(
        command(*arguments),
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(PYTHONUNBUFFERED="1"),
    ) as served:
        try:
            assert served.stderr is not None
            url = next(line for line in served.stderr if "http" in line).split()[-1]
            with at_terminal(tmp_path, "top", url, errors=True) as (process, master):
                assert os.read(master, 1)  # the first picture
                os.close(master)
                assert process.wait(PATIENCE_S) == 0
        finally:
            served.kill()
    assert "Traceback" not in (tmp_path / "errors").read_text()


def test_a_plan_is_given_up(tmp_path: Path) -> None:
    lines = [f"{T0 + n * 4_000_000} {flat('A', volume=n)}" for n in range(500)]
    write(tmp_path / "recording.log", *lines)
    arguments = ["recording.log", "--handler", "mine:slow", "--executor", "loop"]
    more = ["--busy-host", "--measure", "100s"]
    with at_terminal(tmp_path, "plan", *arguments, *more, errors=True) as (process, master):
        wait_for(tmp_path / "noted", "done")
        os.close(master)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGHUP
    assert "Traceback" not in (tmp_path / "errors").read_text()


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has it")
@pytest.mark.parametrize(("option", "code"), [("--version", 1), ("--unknown", 2)])
def test_a_full_output_has_the_exit_code_of_the_command(option: str, code: int) -> None:
    # Python itself ends with 120 if it cannot write what an output still holds.
    program = "import sys; from trio_ticks.cli import main; print('left'); sys.exit(main())"
    variables = {**environment(), "PYTHONUNBUFFERED": ""}
    with FULL.open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program, option],
            stdout=full,
            stderr=full if code == 2 else subprocess.PIPE,
            env=variables,
            timeout=PATIENCE_S,
            check=False,
        )
    assert ended.returncode == code
    if code == 1:
        assert ended.stderr.decode() == "trio-ticks: error: [Errno 28] No space left on device\n"


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has it")
def test_a_report_that_a_full_disk_does_not_take_is_logged(exchange: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRATEGY)
    with FULL.open("wb") as full:
        ended = subprocess.run(
            command(*running(exchange, "slow", "--duration", "0.5", "--view", "none")),
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment(),
            timeout=PATIENCE_S,
            check=False,
        )
    assert ended.returncode == 1
    errors = ended.stderr.decode()
    assert "cli.report_lost: [Errno 28] No space left on device; produced" in errors
    assert errors.splitlines()[-1] == "trio-ticks run: error: [Errno 28] No space left on device"


@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]])
def test_what_was_closed_before_the_start_leads_nowhere(closed: list[int]) -> None:
    """As with ``>&-`` in a shell, or under a supervisor that gives no files."""
    program = f"""
import os, sys
for number in {closed}:
    os.close(number)
os.execv(sys.executable, [sys.executable, "-m", "trio_ticks", *sys.argv[1:]])
"""
    for arguments, code in ((["--help"], 0), (["top", "http://h:99999/"], 2)):
        ended = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            env=environment(),
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.returncode == code
        assert b"Traceback" not in ended.stdout + ended.stderr
        assert bool(ended.stdout) is (code == 0 and 1 not in closed)
        assert bool(ended.stderr) is (code == 2 and 2 not in closed)
