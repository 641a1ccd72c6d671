"""A signal ends a program whose event loop stands still, and says where it stood."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.worlds.command_line import PATIENCE_S, command, environment

STRATEGY = """
import sys, time

async def sleeps(tick):
    print("it blocks", file=sys.stderr, flush=True)
    time.sleep(1000)

async def computes(tick):
    print("it blocks", file=sys.stderr, flush=True)
    while True:
        pass

first = True

async def blocks_for_a_moment(tick):
    global first
    if first:
        first = False
        print("it blocks", file=sys.stderr, flush=True)
        time.sleep(1.5)

async def blocks_once_told_to_end(tick):
    print("it blocks", file=sys.stderr, flush=True)
    import trio
    try:
        await trio.sleep_forever()
    finally:
        time.sleep(1000)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is final on Windows")


def run(
    exchange: str, folder: Path, handler: str, *more: str, number: signal.Signals = signal.SIGTERM
) -> tuple[int, str, str]:
    """Run *handler*, send a signal while it blocks, and wait for the end."""
    (folder / "mine.py").write_text(STRATEGY)
    arguments = ["run", "--url", exchange, "--symbols", "SPY", "--handler", f"mine:{handler}"]
    arguments += ["--shutdown-timeout", "0.5", "--view", "none", *more]
    errors: list[str] = []
    blocks = threading.Event()
    with subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        stderr = process.stderr

        def read() -> None:
            for line in stderr:
                errors.append(line)
                if "it blocks" in line:
                    blocks.set()
            blocks.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert blocks.wait(PATIENCE_S)
            process.send_signal(number)
            out = process.stdout.read()
            code = process.wait(PATIENCE_S)
        finally:
            process.kill()
            reader.join()
    return code, out, "".join(errors)


@pytest.mark.parametrize("handler", ["sleeps", "computes"])
def test_a_loop_that_stands_still_is_ended(handler: str, exchange: str, tmp_path: Path) -> None:
    code, out, errors = run(exchange, tmp_path, handler)
    assert code == 143
    assert re.search(r"SIGTERM came .* s ago, and the event loop has stood still", errors)
    assert f"in {handler}" in errors
    assert re.search(r"in flight +1 ", out)
    assert "every tick is accounted for" in out


def test_the_report_in_json_goes_to_standard_output(exchange: str, tmp_path: Path) -> None:
    code, out, errors = run(exchange, tmp_path, "sleeps", "--json", number=signal.SIGINT)
    assert code == 130
    report = json.loads(out)
    assert (report["in_flight"], report["consumed"]) == (1, 0)
    assert "SIGINT came" in errors


def test_a_shutdown_that_begins_well_and_then_blocks_is_ended_too(
    exchange: str, tmp_path: Path
) -> None:
    code, out, errors = run(exchange, tmp_path, "blocks_once_told_to_end")
    assert code == 143
    assert "in blocks_once_told_to_end" in errors
    assert "every tick is accounted for" in out


def test_a_loop_that_moves_on_in_time_shuts_down(exchange: str, tmp_path: Path) -> None:
    code, out, errors = run(exchange, tmp_path, "blocks_for_a_moment", "--shutdown-timeout", "600")
    assert code == 0, errors
    assert "ended without a shutdown" not in errors
    assert "every tick is accounted for" in out
