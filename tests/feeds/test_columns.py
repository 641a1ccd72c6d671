"""Recordings as columns: what a replay would send, as numbers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import trio_ticks as tt
from tests.worlds.recordings import (
    COINBASE,
    KRAKEN,
    REAL,
    T0,
    book,
    busy_day,
    flat,
    needs_real,
    read_all,
    trade,
    write,
)
from trio_ticks import ConfigError
from trio_ticks.feeds.captures import Lost, capture_symbols, utc_from_ns
from trio_ticks.feeds.columns import Columns, read_columns
from trio_ticks.feeds.venues import find_language


def rows(columns: Columns) -> list[tuple[int, int, str, type]]:
    return [
        (arrival, event, columns.symbols[symbol], columns.kinds[kind])
        for arrival, event, symbol, kind in zip(
            columns.arrival_ns, columns.event_ns, columns.symbol, columns.kind, strict=True
        )
    ]


def expected(path: Path, **options: Any) -> list[tuple[int, int, str, type]]:
    """Return what the reader of recordings makes, item by item."""
    found, last = [], 0
    for ns, item in read_all(path, **options)[0]:
        if type(item) is not Lost:
            last = max(last, ns)
            us = (item.timestamp - utc_from_ns(0)) // timedelta(microseconds=1)
            found.append((last, us * 1000, item.symbol, type(item)))
    return found


def test_quotes_and_trades(tmp_path: Path) -> None:
    path = write(tmp_path / "r.gz", *busy_day(5000), compressed=True)
    columns = read_columns(path, channels="all")
    assert rows(columns) == expected(path, channels="all")
    assert len(columns) == 5000
    assert set(columns.kinds) == {tt.Tick, tt.Trade}
    assert columns.symbols == ("BTCUSDT",)
    assert (columns.venues, columns.lines, columns.malformed) == (("binance",), 5000, 0)
    assert columns.span_s == (columns.arrival_ns[-1] - columns.arrival_ns[0]) / 1e9


def test_several_files_bad_lines_and_gaps(tmp_path: Path) -> None:
    write(tmp_path / "a", trade(0, "1"), "junk", book(1), trade(7, "1"), book(9))
    write(tmp_path / "b", *(f"{T0 + n * 1_000_000} {flat('SPY', 1.0 + n)}" for n in (2, 3)))
    columns = read_columns(tmp_path, channels=None)
    assert columns.symbols == ("BTCUSDT", "SPY")
    assert list(columns.symbol) == [0, 1, 1, 0]
    assert columns.venues == ("binance", "flat")
    assert (columns.lines, columns.malformed) == (7, 1)
    assert read_columns(tmp_path / "a", channels="all").gaps == 1


def test_a_part(tmp_path: Path) -> None:
    path = write(tmp_path / "r", *(book(n, symbol="AB"[n % 2]) for n in range(100)))
    whole = rows(read_columns(path))
    start, end = utc_from_ns(T0 + 10_000_000), utc_from_ns(T0 + 20_000_000)
    assert rows(read_columns(path, start=start, end=end)) == whole[10:20]
    assert rows(read_columns(path, symbols=["B"], end=end)) == whole[1:20:2]
    assert rows(read_columns(path, most=7)) == whole[:7]
    empty = read_columns(path, start=end + timedelta(days=1))
    assert (len(empty), empty.span_s) == (0, 0.0)


def test_progress(tmp_path: Path) -> None:
    path = write(tmp_path / "r", *(book(n) for n in range(20_000)))
    told: list[tuple[float, int]] = []
    read_columns(path, on_progress=lambda share, items: told.append((share, items)))
    assert len(told) > 3
    assert told == sorted(told)
    assert told[-1] == (1.0, 20_000)


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="there is no recording"):
        read_columns(tmp_path / "missing")
    path = write(tmp_path / "r", *(book(n, symbol=f"S{n}") for n in range(100)))
    monkeypatch.setattr("trio_ticks.feeds.columns._MOST_SYMBOLS", 50)
    with pytest.raises(ConfigError, match="more than 50 symbols"):
        read_columns(path)


@needs_real
@pytest.mark.parametrize(
    ("path", "venue"), [(REAL, "binance"), (COINBASE, "coinbase"), (KRAKEN, "kraken")]
)
def test_real_recordings(path: Path, venue: str) -> None:
    columns = read_columns(path, channels="all")
    assert columns.venues == (venue,)
    asked = capture_symbols(path, find_language(venue, "all"), most=1000)
    assert rows(columns) == expected(path, venue=venue, channels="all", subscribed=asked)
    assert len(columns) > 40
