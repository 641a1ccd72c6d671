"""``trio-ticks history``, as a user meets it, against a local exchange."""

from __future__ import annotations

import csv
import io
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.worlds.command_line import PATIENCE_S, command, environment, run_cli
from trio_ticks.cli import main

RANGE = ("--from", "2024-03-04", "--to", "2024-03-05T06:00Z")
MINUTES = 30 * 60


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of an exchange in another process, that wants a key."""
    with subprocess.Popen(
        command("exchange", "--venue", "tickdb", "--symbols", "BTCUSDT,ETHUSDT"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(TRIO_TICKS_API_KEY="sesame"),
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = next(word for word in line.split() if word.startswith("ws://"))
        yield address.replace("ws://", "http://").partition("/v1")[0]
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
        process.stdout.read()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKDB_API_KEY", "sesame")


def test_csv_to_standard_output(url: str) -> None:
    done = run_cli("history", "BTCUSDT", *RANGE, "--url", url, TICKDB_API_KEY="sesame")
    assert done.stderr == ""
    assert done.returncode == 0
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == MINUTES
    first = rows[0]
    assert list(first) == [
        *("symbol", "timestamp", "interval_s", "open", "high", "low", "close"),
        *("volume", "closed"),
    ]
    assert (first["symbol"], first["timestamp"]) == ("BTCUSDT", "2024-03-04T00:00:00Z")
    assert (first["interval_s"], first["closed"]) == ("60", "true")
    assert float(first["low"]) <= float(first["open"]) <= float(first["high"])
    assert rows[-1]["timestamp"] == "2024-03-05T05:59:00Z"


def test_files_hold_the_same_bars(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["history", "BTCUSDT", *RANGE, "--url", url, "--cache", str(tmp_path / "cache")]
    for name in ("bars.csv", "bars.parquet"):
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        out, err = capsys.readouterr()
        assert out == ""
        assert err == f"{tmp_path / name}: {MINUTES:,} bars\n"
    with (tmp_path / "bars.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = pyarrow.parquet.read_table(tmp_path / "bars.parquet").to_pylist()
    assert len(rows) == len(table) == MINUTES
    for row, record in zip(rows, table, strict=True):
        assert record["timestamp"].isoformat() == row["timestamp"].replace("Z", "+00:00")
        assert [float(row[name]) for name in ("open", "close", "volume")] == [
            record[name] for name in ("open", "close", "volume")
        ]
    assert {path.name for path in tmp_path.iterdir()} == {"bars.csv", "bars.parquet", "cache"}


@pytest.mark.parametrize("name", ["bars.csv", "bars.parquet"])
def test_a_run_that_fails_leaves_the_old_file(
    name: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text("old")
    words = ["history", "NOPE", *RANGE, "--url", url, "--out", str(path)]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert "symbol NOPE is unknown (code 2002)" in err
    assert len(err.splitlines()) == 1
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--from", "yesterday"], "'yesterday' is no time like 2026-03-02"),
        ([*RANGE, "--interval", "7m"], "interval must be one of tickdb's: 1m, 3m"),
        (["--from", "2024-03-05", "--to", "2024-03-04"], "start must be before end"),
        ([*RANGE, "--out", "bars.xlsx"], "must end in .csv or .parquet"),
        ([*RANGE, "--out", "/nowhere/bars.csv"], "/nowhere/bars.csv cannot be written"),
        ([*RANGE, "--venue", "binance", "--adjust", "forward"], "binance does not know adjust"),
        ([*RANGE, "--url", "ws://x"], "must begin with https://"),
        ([], "Missing option '--from'"),
    ],
)
def test_bad_settings_are_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", "BTCUSDT", *words]) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert len(err.splitlines()) == 1
    assert out == ""


def test_a_wrong_key_is_one_line_without_it(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKDB_API_KEY", "open-sesame")
    assert main(["history", "BTCUSDT", *RANGE, "--url", url]) == 1
    out, err = capsys.readouterr()
    assert "check the api_key" in err
    assert "open-sesame" not in out + err
    assert len(err.splitlines()) == 1


def test_parquet_without_pyarrow_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert main(["history", "BTCUSDT", *RANGE, "--out", "bars.parquet"]) == 2
    assert "pip install 'trio-ticks[parquet]'" in capsys.readouterr().err


def test_a_terminal_shows_a_bar(url: str) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("history", "BTCUSDT", *RANGE, "--url", url, "--interval", "1h"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment(TICKDB_API_KEY="sesame"),
    ) as process:
        os.close(theirs)
        out, _ = process.communicate(timeout=PATIENCE_S)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert process.returncode == 0
    assert len(out.splitlines()) == 31
    assert "[########################] 100%  30 bars, until 2024-03-05 06:00" in shown
    assert shown.endswith("\r")


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", "--help"]) == 0
    out = capsys.readouterr().out
    assert "trio-ticks history BTCUSDT --interval 1h --from 2026-01-01" in out
    assert "TICKDB_API_KEY" in out
