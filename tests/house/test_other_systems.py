"""Windows and macOS, as far as they can be had on Linux.

What POSIX alone has is hidden from the whole process and from its children: see
``tests/worlds/other_system.py``. What runs then is what needs none of it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.imports import SOURCES
from tests.worlds.other_system import POSIX_MODULES, environment

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="open files are found in Linux' /proc"
)

RECORDING = """
import gzip, json
with gzip.open("quotes.gz", "wt") as file:
    for n in range(200):
        data = {"s": "AB"[n % 2], "b": f"{100 + n}", "a": f"{101 + n}", "B": "3", "A": "2"}
        message = {"stream": f"{data['s'].lower()}@bookTicker", "data": data}
        print(1_723_161_254_000_000_000 + n * 1_000_000, json.dumps(message), file=file)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python on that system; it must end well, and warn of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        encoding="cp1252",
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


def test_every_module_can_be_imported_without_posix(tmp_path: Path) -> None:
    modules = sorted(
        f"trio_ticks.{name}" for name in SOURCES if name not in ("__init__", "__main__")
    )
    assert len(modules) > 150
    program = f"""
import importlib, os, sys
assert sys.platform == "win32" and not hasattr(os, "fork")
for name in {POSIX_MODULES!r}:
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(f"{{name}} is not hidden")
for name in {modules!r}:
    importlib.import_module(name)
"""
    run(tmp_path, "-c", program)


def test_the_demo_runs(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        *("-m", "trio_ticks", "demo", "--rate", "2000", "--duration", "1", "--view", "lines"),
    )
    assert "every tick is accounted for" in done.stdout
    assert "windows.signals" in done.stderr


def test_the_demo_runs_in_threads(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        *("-m", "trio_ticks", "demo", "--rate", "2000", "--duration", "1", "--view", "none"),
        *("--executor", "thread", "--workers", "auto"),
    )
    assert "every tick is accounted for" in done.stdout


def test_a_recording_is_replayed_into_threads(tmp_path: Path) -> None:
    program = (
        RECORDING
        + """
import math, time, trio, trio_ticks as tt
def strategy(tick):
    time.sleep(0.0001)
report = trio.run(tt.run_pipeline, tt.ReplayFeed("quotes.gz", speed=math.inf), strategy)
assert report.consumed == 200, report
print(report)
"""
    )
    assert "(the law holds)" in run(tmp_path, "-c", program).stdout


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_is_recorded_is_played_again(tmp_path: Path, compression: str) -> None:
    program = f"""
import math, trio, trio_ticks as tt
from trio_ticks.exchange import open_exchange
async def strategy(tick):
    pass
async def main():
    async with open_exchange(rate=1000, symbols=["A", "B"]) as exchange:
        recorder = tt.Recorder("recordings", compression="{compression}", rotate_s=0.2)
        feed = tt.WebSocketFeed(exchange.url, ["A", "B"])
        async with tt.open_pipeline(feed, strategy, record=recorder) as pipeline:
            await trio.sleep(0.7)
    replay = tt.ReplayFeed("recordings", speed=math.inf)
    return pipeline.report, await tt.run_pipeline(replay, strategy)
live, again = trio.run(main)
assert live.produced == again.produced == again.consumed > 0, (live, again)
"""
    run(tmp_path, "-c", program)
    assert len(list((tmp_path / "recordings").rglob("*.*"))) > 1


def test_files_are_renamed_only_when_they_are_closed(tmp_path: Path) -> None:
    """Dead letters that turn their files over; a table that is complete or absent."""
    program = """
from datetime import UTC, datetime
from pathlib import Path
import trio_ticks as tt
from trio_ticks.history.tables import open_table

moment = datetime(2026, 3, 2, tzinfo=UTC)
tick = tt.Tick("A", moment, 1.0, 2.0, 3.0, 4.0, 5.0)
with tt.DeadLetterFile("failed.jsonl", max_bytes=4096, backups=2) as letters:
    for _ in range(60):
        letters(tick, ValueError("x" * 50))
assert letters.written == 60 and letters.lost == 0, letters
assert Path("failed.jsonl.2").exists()
for name in ("bars.csv", "bars.parquet"):
    for _ in range(2):
        with open_table(Path(name)) as table:
            table.write(tt.Bar("A", moment, 60.0, 1.0, 2.0, 0.5, 1.5, 9.0))
    assert Path(name).stat().st_size
assert not [path.name for path in Path().iterdir() if path.suffix in (".part", ".tmp")]
"""
    run(tmp_path, "-c", program)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["doctor"], ["exchange", "--fault", "list"]],
    ids=" ".join,
)
def test_what_is_printed_can_be_printed_in_cp1252(tmp_path: Path, arguments: list[str]) -> None:
    assert run(tmp_path, "-m", "trio_ticks", *arguments).stdout
