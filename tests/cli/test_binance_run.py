"""Binance from the command line alone: quotes, and books with their snapshots."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.worlds.command_line import PATIENCE_S, command, environment, run_cli

STRATEGY = """
import os
import signal

seen = set()


def on_item(item):
    seen.add(type(item).__name__)
    if len(seen) == {kinds}:
        print(sorted(seen), flush=True)
        seen.add("the end")
        os.kill(os.getpid(), signal.SIGTERM)
"""


@contextmanager
def exchange(*arguments: str) -> Iterator[str]:
    """Run a local exchange in a process of its own, and give its address."""
    with subprocess.Popen(
        command("exchange", *arguments), stdout=subprocess.PIPE, env=environment(), text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ((), ["Tick"]),
        (("--channels", "depth@100ms,trade", "--books"), ["Tick", "Trade"]),
    ],
    ids=["quotes", "books"],
)
def test_run_needs_nothing_but_the_venue(
    tmp_path: Path, options: tuple[str, ...], kinds: list[str]
) -> None:
    """The strategy ends the run when an item of each kind has come."""
    (tmp_path / "mine.py").write_text(STRATEGY.format(kinds=len(kinds)))
    with exchange("--venue", "binance", "--symbols", "BTCUSDT", "--rate", "200") as url:
        done = run_cli(
            *("run", "--venue", "binance", "--symbols", "BTCUSDT", "--url", url),
            *("--handler", "mine:on_item", "--json", *options),
            cwd=tmp_path,
        )
    assert done.returncode == 0
    assert str(kinds) in done.stderr
    report = json.loads(done.stdout)
    assert report["failed"] == report["dropped"] == 0
    assert report["consumed"] >= len(kinds)
