"""Signals end the commands that compute as Ctrl-C does: nothing is left half done."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import pytest

from tests.worlds.command_line import PATIENCE_S, command, environment
from tests.worlds.recordings import T0, flat, write
from trio_ticks.cli.interrupts import ended_by_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

MINE = """
import time
import trio
from pathlib import Path
from trio_ticks.feeds.venues.flat import FlatCodec

def on_tick(tick):
    Path("begun").touch()
    time.sleep(0.001)

class Slow(FlatCodec):
    def decode(self, payloads):
        Path("begun").touch()
        time.sleep(1000)
"""

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a handler, a slow codec, and a recording."""
    (tmp_path / "mine.py").write_text(MINE)
    lines = [f"{T0 + n * 4_000_000} {flat('AB'[n % 2], volume=n)}" for n in range(500)]
    write(tmp_path / "recording.log", *lines)
    return tmp_path


def ended(
    folder: Path,
    arguments: Sequence[str],
    number: signal.Signals,
    has_begun: Callable[[], object],
    ignored: signal.Signals | None = None,
    before: signal.Signals | None = None,
) -> str:
    """Send a signal to a command that has begun; return what it wrote of errors.

    Args:
        folder: it runs there.
        arguments: of the command line.
        number: of the signal.
        has_begun: tells whether it may be sent.
        ignored: a signal that the command finds ignored, as it does after ``nohup``.
        before: a signal that is sent before.
    """

    def prepare() -> None:
        for each in (signal.SIGINT, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN if each is ignored else signal.SIG_DFL)

    with subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(TICKDB_API_KEY="sesame"),
        preexec_fn=prepare,
    ) as process:
        try:
            end = time.monotonic() + PATIENCE_S
            while not has_begun():
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.02)
            if before is not None:
                process.send_signal(before)
                time.sleep(0.2)
            process.send_signal(number)
            _out, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert "interrupted" in errors
    return errors


@SIGNALS
@pytest.mark.parametrize("place", ["thread", "process"])
def test_a_plan_that_measures(folder: Path, number: signal.Signals, place: str) -> None:
    arguments = ["recording.log", "--handler", "mine:on_tick", "--executor", place]
    more = ["--busy-host", "--measure", "100s"]
    errors = ended(folder, ["plan", *arguments, *more], number, (folder / "begun").exists)
    assert "leaked" not in errors  # memory that it shared with its processes


@SIGNALS
def test_a_conversion_leaves_no_half_a_folder(folder: Path, number: signal.Signals) -> None:
    arguments = ["convert", "recording.log", "--venue", "mine:Slow"]
    ended(folder, arguments, number, (folder / "begun").exists)
    assert list((folder / "parquet").iterdir()) == []


@pytest.fixture
def url() -> Iterator[str]:
    """The address of a venue whose answers never come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def history(folder: Path, url: str, number: signal.Signals, **more: signal.Signals) -> None:
    arguments = ["BTCUSDT", "--from", "2024-03-04", "--url", url, "--out", "bars.csv"]
    ended(folder, ["history", *arguments], number, lambda: [*folder.glob(".bars*")], **more)
    assert not [*folder.glob("*bars*"), *folder.glob(".bars*")]


@SIGNALS
def test_history_leaves_no_half_a_file(folder: Path, url: str, number: signal.Signals) -> None:
    history(folder, url, number)


def interrupted_in_a_nursery(number: signal.Signals) -> None:
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt as error:
        raise BaseExceptionGroup("of a nursery", [error]) from None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_a_nursery_has_put_into_a_group(number: signal.Signals) -> None:
    with pytest.raises(click.ClickException) as raised, ended_by_signals():
        interrupted_in_a_nursery(number)
    assert raised.value.exit_code == 128 + number


def test_other_errors_come_out_as_they_are() -> None:
    errors = BaseExceptionGroup("of a nursery", [ValueError()])
    with pytest.raises(ExceptionGroup) as raised, ended_by_signals():
        raise errors
    assert raised.value is errors


def test_in_the_background_of_a_script(folder: Path, url: str) -> None:
    """SIGINT is ignored there, so that its loop would not hear of an interrupt."""
    history(folder, url, signal.SIGTERM, ignored=signal.SIGINT)


def test_a_hangup_that_is_ignored_is_not_heard(folder: Path, url: str) -> None:
    """As after ``nohup``: SIGTERM ends it, and not the hangup before."""
    history(folder, url, signal.SIGTERM, ignored=signal.SIGHUP, before=signal.SIGHUP)
