"""A recorder that is killed, and what is left of its file."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

import trio_ticks as tt
from tests.worlds.command_line import PATIENCE_S, environment
from tests.worlds.recorded import all_lines, events_of, messages_of, the_files, wait_for
from trio_ticks.history.surveys import survey
from trio_ticks.recordings.growing import is_growing


@contextmanager
def recorder(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    arguments = [sys.executable, "-m", "tests.worlds.recorder_child", str(folder), "5000"]
    with subprocess.Popen(arguments, env=environment()) as process:
        try:
            yield process
        finally:
            process.kill()
            process.wait(PATIENCE_S)


def numbers_in(path: Path) -> list[int]:
    return [int(msgspec.json.decode(message)["volume"]) for _, message in messages_of(path)]


def has_messages(folder: Path, count: int) -> bool:
    with suppress(FileNotFoundError, ValueError, tt.ConfigError):
        return any(len(messages_of(path)) >= count for path in the_files(folder)[-1:])
    return False


def has_another(folder: Path, old: int) -> bool:
    return len(the_files(folder)) > old and has_messages(folder, 1000)


def test_what_was_written_before_kill_9_is_there_without_a_hole(tmp_path: Path) -> None:
    with recorder(tmp_path) as process:
        wait_for(lambda: has_messages(tmp_path, 10_000), PATIENCE_S)
        (path,) = the_files(tmp_path)
        assert is_growing(path)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
    assert not is_growing(path)
    numbers = numbers_in(path)
    assert len(numbers) >= 10_000
    assert numbers == list(range(len(numbers)))
    assert [word for word, _ in events_of(path)] == ["recording"]
    assert not survey(path).is_whole


def test_a_restart_in_the_same_hour_leaves_the_first_file_as_it_is(tmp_path: Path) -> None:
    contents: dict[Path, bytes] = {}
    for _ in range(2):
        with recorder(tmp_path):
            old = len(contents)
            wait_for(lambda old=old: has_another(tmp_path, old), PATIENCE_S)
        for path, content in contents.items():
            assert path.read_bytes() == content
        contents = {path: path.read_bytes() for path in the_files(tmp_path)}
    assert len(contents) == 2


async def test_the_file_of_a_killed_recorder_plays(tmp_path: Path) -> None:
    with recorder(tmp_path):
        wait_for(lambda: has_messages(tmp_path, 2000), PATIENCE_S)
    (path,) = the_files(tmp_path)
    found: list[int] = []

    async def handle(tick: tt.Tick) -> None:
        found.append(int(tick.volume))

    replay = tt.ReplayFeed(tmp_path, float("inf"))
    report = await tt.run_pipeline(replay, handle, workers=1, signals=False)
    assert found == numbers_in(path)
    assert report.malformed == 0


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_file_that_is_torn_too_loses_no_more_than_its_last_second(
    tmp_path: Path, cut: int
) -> None:
    with recorder(tmp_path):
        wait_for(lambda: has_messages(tmp_path, 10_000), PATIENCE_S)
    (path,) = the_files(tmp_path)
    times = [ns for ns, _ in messages_of(path)]
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    left = messages_of(path)
    assert all_lines(path)[1].truncated
    assert numbers_in(path) == list(range(len(left)))
    assert 0 < times[-1] - left[-1][0] < 2 * 10**9
