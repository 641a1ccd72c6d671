"""The commands for recordings: record, inspect, convert, and run --record."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worlds.command_line import PATIENCE_S, command, environment, run_cli
from tests.worlds.recorded import HEAD, frames_of, messages_of, the_files, write_frames
from tests.worlds.recordings import book, write


@pytest.fixture(scope="module")
def exchange() -> Iterator[str]:
    """The address of an exchange that runs in another process."""
    with subprocess.Popen(
        command("exchange", "--rate", "500", "--symbols", "2", "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield next(word for word in line.split() if word.startswith("ws://"))
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
        process.stdout.read()


def test_record_then_inspect_then_convert(exchange: str, tmp_path: Path) -> None:
    recorded = run_cli(
        *("record", "--url", exchange, "--symbols", "SPY,QQQ", "--duration", "1.5", "--json"),
        cwd=tmp_path,
    )
    assert recorded.returncode == 0, recorded.stderr
    report = json.loads(recorded.stdout)
    count = report["recorder"]["messages"]
    assert count > 300
    assert report["recorder"]["dropped"] == 0
    (path,) = the_files(tmp_path / "recordings")
    assert len(messages_of(path)) == count
    inspected = run_cli("inspect", str(path))
    assert inspected.returncode == 0, inspected.stderr
    assert "nothing is damaged or missing" in inspected.stdout
    assert re.search(r"SPY +[\d,]+ +\d+\.\d%", inspected.stdout)
    assert "█" in inspected.stdout
    found = json.loads(run_cli("inspect", "recordings", "--json", cwd=tmp_path).stdout)
    assert found["items"] == {"Tick": report["produced"]}
    converted = run_cli("convert", "recordings", cwd=tmp_path)
    assert converted.returncode == 0, converted.stderr
    assert f"{report['produced']:,} rows of ticks" in converted.stdout
    assert the_files(tmp_path / "parquet" / path.stem)
    again = run_cli("convert", "recordings", cwd=tmp_path)
    assert "converted before" in again.stdout


def test_run_and_demo_report_what_they_record(exchange: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("async def on_tick(tick): pass\n")
    result = run_cli(
        *("run", "--url", exchange, "--symbols", "SPY", "--handler", "mine:on_tick"),
        *("--duration", "1", "--record", "kept"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r"recorded [\d,]+ messages, .* 1 file, the last is kept/flat-", result.stdout)
    assert len(the_files(tmp_path / "kept")) == 1


def test_a_full_disk_is_shown_counted_and_an_exit_code(exchange: str, tmp_path: Path) -> None:
    limited = "import resource, sys; from trio_ticks.cli import main; " + (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000)); sys.exit(main(sys.argv[1:]))"
    )
    program = [*command()[:1], "-c", limited]
    result = subprocess.run(
        [
            *program,
            *("record", "--url", exchange, "--symbols", "SPY,QQQ", "--duration", "4"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        timeout=PATIENCE_S,
        check=False,
    )
    assert result.returncode == 3, result.stderr
    assert "COULD NOT BE RECORDED" in result.stdout
    assert "the disk failed" in result.stdout
    assert "recorder.failed" in result.stderr
    assert "accounted for" in result.stdout
    (path,) = the_files(tmp_path / "recordings")
    assert 0 < path.stat().st_size <= 12000
    assert len(messages_of(path)) > 0
    inspected = run_cli("inspect", str(path))
    assert inspected.returncode == 3
    assert "CUT OFF" not in inspected.stdout


def test_inspect_tells_damage_by_its_exit_code(tmp_path: Path) -> None:
    seconds = [b"".join(book(n + 1000 * s).encode() + b"\n" for n in range(50)) for s in range(3)]
    frames = frames_of([HEAD, *seconds])
    frames[2] = frames[2][:40] + b"damaged" + frames[2][47:]
    write_frames(tmp_path / "rec.zst", *frames)
    result = run_cli("inspect", "rec.zst", cwd=tmp_path)
    assert result.returncode == 3
    assert "DAMAGED in 1 place" in result.stdout


def test_what_is_no_recording(tmp_path: Path) -> None:
    write(tmp_path / "no", "no messages")
    write(tmp_path / "yes", book(1))
    for name in ("inspect", "convert"):
        result = run_cli(name, "no", cwd=tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert "not a recording" in result.stderr
        assert run_cli(name, "nowhere", cwd=tmp_path).returncode == 2
        both = run_cli(name, ".", cwd=tmp_path)
        assert both.returncode == 0, both.stderr
        assert "left out" in both.stderr
    (tmp_path / "empty").mkdir()
    assert "no file" in run_cli("inspect", "empty", cwd=tmp_path).stderr


def test_a_folder_that_cannot_be_written_is_a_bad_setting(exchange: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run_cli(
        *("record", "--url", exchange, "--symbols", "SPY", "--out", "file/in"), cwd=tmp_path
    )
    assert result.returncode == 2
    assert "cannot be made" in result.stderr
    assert os.listdir(tmp_path) == ["file"]
