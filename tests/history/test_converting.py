"""Recordings as Parquet."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

import trio_ticks as tt
from tests.worlds.recorded import HEAD, about, frames_of, recorder_clock, the_files, write_frames
from tests.worlds.recordings import REAL, T0, book, needs_real, trade, write
from trio_ticks.history import converting
from trio_ticks.history.converting import Converter

T = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def rows_of(path: Path) -> list[dict[str, Any]]:
    table = parquet.read_table(path)
    plain = {name: table[name].to_pylist() for name in table.column_names if name != "received"}
    plain["received"] = [value.value for value in table["received"]]
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]


def test_each_kind_has_a_table_with_both_times(tmp_path: Path) -> None:
    clock, move = recorder_clock()
    recorder = tt.Recorder(tmp_path / "rec")
    recorder.begin(clock)
    tap = recorder.tap(about(venue="flat"))
    tap.items([tt.Tick("A", T, 1.0, 2.0, 3.0, 4.0, math.nan)])
    move(1)
    tap.items(
        [
            tt.Trade("A", T, 1.5, 2.0, "buy", "x7"),
            tt.BookUpdate("A", T, [(1.0, 2.0)], [(3.0, 4.0)], True, 5, 6),
            tt.BookUpdate("A", T),
            tt.Bar("A", T, 60.0, 1.0, 2.0, 0.5, 1.5, 9.0, True),
        ]
    )
    tap.event("gap", symbol="A", reason="sequence", count=3, timestamp=T, first_timestamp=T)
    recorder.end()
    (path,) = the_files(tmp_path / "rec")
    done = Converter(tmp_path / "out").convert(path)
    assert done.rows == {"ticks": 1, "trades": 1, "books": 3, "bars": 1, "gaps": 1}
    assert done.folder == tmp_path / "out" / path.stem
    (tick,) = rows_of(done.folder / "ticks.parquet")
    assert tick == {
        "received": T0,
        "timestamp": T,
        "symbol": "A",
        "bid": 1.0,
        "ask": 2.0,
        "bid_size": 3.0,
        "ask_size": 4.0,
        "volume": None,
    }
    (trade_row,) = rows_of(done.folder / "trades.parquet")
    assert trade_row["received"] == T0 + 10**9
    assert (trade_row["side"], trade_row["trade_id"]) == ("buy", "x7")
    books = rows_of(done.folder / "books.parquet")
    assert [(row["update"], row["side"], row["price"], row["size"]) for row in books] == [
        (1, "bid", 1.0, 2.0),
        (1, "ask", 3.0, 4.0),
        (2, None, None, None),
    ]
    assert [row["snapshot"] for row in books] == [True, True, False]
    assert books[0]["first_sequence"] == 5
    assert rows_of(done.folder / "bars.parquet")[0]["close"] == 1.5
    (gap,) = rows_of(done.folder / "gaps.parquet")
    assert (gap["reason"], gap["count"], gap["timestamp"]) == ("sequence", 3, None)


def test_groups_are_written_as_they_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "GROUP", 10)
    path = write(tmp_path / "recording", *(book(n) for n in range(25)))
    done = Converter(tmp_path / "out").convert(path)
    file = parquet.ParquetFile(done.folder / "ticks.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(3)] == [10, 10, 5]
    assert file.read()["bid"].to_pylist() == list(range(25))


def test_what_was_converted_is_left_alone_unless_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "recording.gz", book(1), compressed=True)
    first = Converter(tmp_path / "out").convert(path)
    assert first.left_out is None
    assert first.folder.name == "recording"
    write(path, book(1), book(2), compressed=True)
    assert Converter(tmp_path / "out").convert(path).left_out == "it was converted before"
    again = Converter(tmp_path / "out", again=True)
    assert again.convert(path).rows == {"ticks": 2}
    same_name = write(tmp_path / "recording.zst", book(1))
    assert "the same folder" in str(again.convert(same_name).left_out)
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["recording"]


def test_a_file_that_grows_is_left_alone(tmp_path: Path) -> None:
    recorder = tt.Recorder(tmp_path / "rec")
    recorder.begin(recorder_clock()[0])
    tap = recorder.tap(about())
    tap.messages(1, [book(1).partition(" ")[2].encode()])
    from tests.worlds.recorded import wait_for

    wait_for(lambda: recorder.statistics().messages)
    (path,) = the_files(tmp_path / "rec")
    converter = Converter(tmp_path / "out")
    assert converter.convert(path).left_out == "it is being recorded still"
    recorder.end()
    assert converter.convert(path).rows == {"ticks": 1}


def test_damage_is_told_and_the_rest_is_there(tmp_path: Path) -> None:
    seconds = [b"".join(book(n + 1000 * s).encode() + b"\n" for n in range(50)) for s in range(3)]
    frames = frames_of([HEAD, *seconds])
    frames[2] = frames[2][:40] + b"damaged" + frames[2][47:]
    done = Converter(tmp_path / "out").convert(write_frames(tmp_path / "rec.zst", *frames))
    assert done.rows == {"ticks": 100, "gaps": 1}
    assert done.damages == 1


def test_the_parts_of_a_run_go_on_with_the_same_codec(tmp_path: Path) -> None:
    clock, move = recorder_clock()
    recorder = tt.Recorder(tmp_path / "rec", rotate_s=10)
    recorder.begin(clock)
    tap = recorder.tap(about(symbols={"BTCUSDT": "BTCUSDT"}, channels=("trade", "bookTicker")))
    for n in range(3):
        lines = (trade(2 * n, "1.0"), book(2 * n + 1))
        tap.messages(1, [line.partition(" ")[2].encode() for line in lines])
        move(10)
    recorder.end()
    converter = Converter(tmp_path / "out")
    volumes = []
    for path in the_files(tmp_path / "rec"):
        (row,) = rows_of(converter.convert(path).folder / "ticks.parquet")
        volumes.append(row["volume"])
    assert volumes == [1.0, 2.0, 3.0]


def test_what_is_no_recording_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(tt.ConfigError, match="not a recording"):
        Converter(tmp_path / "out").convert(write(tmp_path / "x", "no"))
    assert list((tmp_path / "out").iterdir()) == []


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(tt.ConfigError, match=r"trio-ticks\[parquet\]"):
        Converter(tmp_path)


@needs_real
def test_a_real_recording(tmp_path: Path) -> None:
    done = Converter(tmp_path).convert(REAL)
    assert done.rows == {"ticks": 28_040, "trades": 9_757, "books": 124_090}
    assert done.malformed == 0
    ticks = parquet.read_table(done.folder / "ticks.parquet")
    span = ticks["timestamp"][-1].as_py() - ticks["timestamp"][0].as_py()
    assert timedelta(minutes=5) < span < timedelta(minutes=6)
