"""The quotes of recordings: which lines make some, and which of them are due."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.recordings import (
    REAL,
    T0,
    book,
    busy_day,
    combined,
    flat,
    needs_real,
    read_all,
    trade,
    write,
)
from trio_ticks import ConfigError
from trio_ticks.feeds.captures import CaptureReader, Lost, capture_symbols, recognise, utc_from_ns
from trio_ticks.feeds.playback import Playback
from trio_ticks.feeds.venues import VENUES, find_language
from trio_ticks.ticks import Tick

DEPTH = f"{T0} " + combined(
    "btcusdt@depth@100ms", e="depthUpdate", s="BTCUSDT", b=[["1.0", "0.0"]], a=[]
)
SNAPSHOT = f'{T0} {{"lastUpdateId": 7, "bids": [["1.0", "2.0"]], "asks": []}}'


BINANCE = find_language("binance")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording"


@pytest.mark.parametrize("compressed", [False, True])
def test_binances_frames_make_quotes_whose_volume_is_the_trades_so_far(
    path: Path, compressed: bool
) -> None:
    write(
        path,
        DEPTH,
        book(1),
        trade(2, "0.5"),
        SNAPSHOT,
        trade(2, "0.25"),
        trade(2, "9", "ETHUSDT"),
        book(3),
        compressed=compressed,
    )
    quotes, reader = read_all(path)
    assert quotes == [
        (at, Tick("BTCUSDT", utc_from_ns(at), bid, bid + 1, 3.5, 0.0, volume))
        for at, bid, volume in ((T0 + 1_000_000, 1.0, math.nan), (T0 + 3_000_000, 3.0, 0.75))
    ]
    assert (reader.lines, reader.items, reader.ignored, reader.malformed) == (7, 2, 5, 0)


def test_flat_ticks_are_read_with_and_without_a_receive_time(path: Path) -> None:
    offset = flat(timestamp="2026-03-02T15:30:00.123456+01:00")
    write(path, flat(), f"{T0} {flat()}", offset)
    quotes, _ = read_all(path, "flat")
    assert [quote.symbol for _, quote in quotes] == ["SPY"] * 3
    assert quotes[1][0] == T0
    sent = datetime(2026, 3, 2, 14, 30, 0, 123456, UTC)
    assert utc_from_ns(quotes[0][0]) == sent == utc_from_ns(quotes[2][0])
    assert [tick for _, tick in quotes] == [Tick("SPY", sent, 1.5, 1.75, 4, 3, 9)] * 3


JUNK = [
    "not json",
    "{",
    str(T0),
    f"{T0} ",
    f"{T0}{{}}",
    "1" * 5000 + " {}",
    f"{T0} [1, 2]",
    f"{T0} null",
    "[" * 100_000,
    b"\xff\xfe\x00",
    combined(
        "btcusdt@bookTicker", u=1, s="BTCUSDT", b="1", B="1", a="2", A="1"
    ),  # without its receive time
    f"{T0} " + combined("btcusdt@bookTicker", u=1, s="BTCUSDT", b="one", B="1", a="2", A="1"),
    f"{T0} " + combined("btcusdt@bookTicker", u=1, s="BTCUSDT", b="nan", B="1", a="2", A="1"),
    f"{T0} " + combined("btcusdt@bookTicker", u=1, s="BTCUSDT", b="inf", B="1", a="2", A="1"),
    f"{T0} " + combined("btcusdt@bookTicker", u=1, s="BTCUSDT", b="1", B="-1", a="2", A="1"),
    f"{T0} " + combined("btcusdt@bookTicker", u=1, s="", b="1", B="1", a="2", A="1"),
    f"{T0} " + combined("btcusdt@bookTicker"),
    f"{T0} " + combined("btcusdt@trade", s="BTCUSDT", q="inf"),
]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_is_counted_and_passed_over(path: Path, junk: str | bytes) -> None:
    write(path, book(1), junk, book(2))
    quotes, reader = read_all(path)
    assert [quote.bid for _, quote in quotes if isinstance(quote, Tick)] == [1.0, 2.0]
    assert reader.malformed == 1


FLAT_JUNK = [
    '{"symbol": "SPY", "bid": 1, "ask": 2}',
    flat(timestamp="yesterday"),
    '{"symbol": "SPY", "timestamp": "2026-03-02T14:30:00Z", "bid": 1}',
    flat(timestamp="0001-01-01T00:00:00+14:00"),
    flat(timestamp="0001-01-01T00:00:00Z"),
    flat(timestamp="1970-01-01T00:00:00Z"),
    flat(timestamp="9999-12-31T23:59:59Z"),
    f'{{"recv_ts_ns": "{T0}", "payload": "{{}}"}}',
    f"{T0}: {flat()}",
]


@pytest.mark.parametrize("junk", FLAT_JUNK, ids=range(len(FLAT_JUNK)))
def test_junk_among_flat_ticks_is_counted_and_passed_over(path: Path, junk: str) -> None:
    write(path, flat(bid=1), junk, flat(bid=2))
    items, reader = read_all(path, "flat")
    assert [item.bid for _, item in items if isinstance(item, Tick)] == [1.0, 2.0]
    assert reader.malformed == 1


LINES = st.lists(
    st.binary(max_size=40)
    | st.builds(
        lambda line, where, byte: line[:where] + byte + line[where + 1 :],
        st.sampled_from([book(1), trade(2, "1"), flat(), f"{T0} {flat()}", DEPTH]).map(str.encode),
        st.integers(0, 200),
        st.binary(max_size=2),
    ),
    max_size=30,
)


@given(LINES, st.sampled_from(sorted(VENUES)))
def test_any_bytes_are_counted(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], venue: str
) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "recording", *lines)
    found, reader = read_all(path, venue, "all")
    made = [item for _, item in found if not isinstance(item, Lost)]
    assert reader.counts.made == len(made)
    assert len(made) + reader.malformed + reader.ignored == reader.lines


@given(LINES)
def test_any_bytes_are_a_recording_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "recording", *lines)
    error: ConfigError | None = None
    try:
        assert capture_symbols(path, recognise(path))
    except ConfigError as caught:
        error = caught
    assert error is None or "not a recording that can be played" in str(error)


def test_only_the_symbols_asked_for(path: Path) -> None:
    write(path, book(1), book(2, symbol="ETHUSDT"), book(3))
    quotes, reader = read_all(path, symbols={"ETHUSDT"})
    assert [quote.symbol for _, quote in quotes] == ["ETHUSDT"]
    assert reader.ignored == 2


def test_rewinding_goes_on_with_the_volume(path: Path) -> None:
    write(path, trade(0, "2"), book(1))
    with CaptureReader(path, BINANCE) as reader:
        assert [quote.volume for _, quote in reader.read(9)] == [2.0]
        assert reader.at_end
        reader.rewind()
        assert not reader.at_end
        assert [quote.volume for _, quote in reader.read(9)] == [4.0]


def test_the_symbols_of_a_recording(path: Path) -> None:
    assert capture_symbols(
        write(path, book(1, symbol="B"), book(2, symbol="A"), book(3, symbol="B")), BINANCE
    ) == ("B", "A")


def test_what_is_no_recording_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.*No such file"):
        recognise(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="not a regular file"):
            recognise(path)
    for content in ("", "hello\n" * 20, DEPTH + "\n"):
        (tmp_path / "other").write_text(content)
        with pytest.raises(ConfigError, match="not a recording that can be played"):
            recognise(tmp_path / "other")
        with pytest.raises(ConfigError, match="not a recording that can be played"):
            capture_symbols(tmp_path / "other", BINANCE)


# Playback


async def test_playback_says_what_is_due_at_a_multiple_of_the_pace(path: Path) -> None:
    write(path, *(book(n) for n in range(100)))
    with CaptureReader(path, BINANCE) as reader:
        playback = Playback(reader, speed=2.0)
        assert playback.wants_more
        await playback.read_ahead()
        assert not playback.wants_more
        assert playback.next_at == 0.0
        due = playback.take(0.0049, 100)
        assert [quote.bid for _, quote in due] == [float(n) for n in range(10)]
        assert [at for at, _ in due] == pytest.approx([n / 2000 for n in range(10)])
        assert playback.next_at == pytest.approx(0.005)
        assert len(playback.take(1.0, 20)) == 20
        assert not playback.ended
        assert len(playback.take(1.0, 1000)) == 70
        assert playback.ended
        assert playback.next_at == math.inf


async def test_times_that_run_backwards_count_as_at_once(path: Path) -> None:
    write(path, book(0, at_ms=1000), book(1, at_ms=500), book(2, at_ms=1001))
    with CaptureReader(path, BINANCE) as reader:
        playback = Playback(reader)
        await playback.read_ahead()
        assert [quote.bid for _, quote in playback.take(0.0, 9)] == [0.0, 1.0]
        assert playback.next_at == pytest.approx(0.001)


async def test_reading_ahead_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Playback, "ahead", 10)
    write(path, *(book(n) for n in range(100)))
    with CaptureReader(path, BINANCE) as reader:
        playback = Playback(reader, speed=math.inf)
        seen = []
        while not playback.ended:
            if playback.wants_more:
                await playback.read_ahead()
            assert playback.buffered < 15
            seen += playback.take(0.0, 3)
        assert [quote.bid for _, quote in seen] == [float(n) for n in range(100)]


async def test_looping_goes_on_without_a_jump_in_time(path: Path) -> None:
    write(path, book(0), trade(1, "1"), book(10))
    with CaptureReader(path, BINANCE) as reader:
        playback = Playback(reader, loop=True)
        for _ in range(3):
            await playback.read_ahead()
        assert not playback.ended
        first, *volumes = [quote.volume for _, quote in playback.take(0.0301, 99)]
        assert math.isnan(first)
        assert volumes == [1.0, 1.0, 2.0, 2.0, 3.0]


async def test_a_new_round_begins_when_the_old_one_is_over(path: Path) -> None:
    write(path, book(0), book(10), book(1, at_ms=5))
    with CaptureReader(path, BINANCE) as reader:
        playback = Playback(reader, loop=True)
        await playback.read_ahead()
        await playback.read_ahead()
        assert [quote.bid for _, quote in playback.take(0.0199, 99)] == [0.0, 10.0, 1.0, 0.0]
        assert playback.next_at == pytest.approx(0.02)


def test_a_recording_of_quotes_and_trades_is_read_whole(path: Path) -> None:
    lines = busy_day(4000)
    trades = sum("@trade" in line for line in lines)
    quotes, reader = read_all(write(path, *lines, compressed=True))
    assert (reader.lines, reader.items, reader.malformed, reader.ignored) == (
        4000,
        4000 - trades,
        0,
        trades,
    )
    assert {quote.symbol for _, quote in quotes} == {"BTCUSDT"}
    assert all(quote.bid < quote.ask for _, quote in quotes)
    assert all(before[0] < after[0] for before, after in pairwise(quotes))
    assert grows([quote.volume for _, quote in quotes])
    later = sum("@trade" in line for line in lines[lines.index(last_book(lines)) :])
    assert quotes[-1][1].volume == 0.5 * (trades - later)


def grows(volumes: list[float]) -> bool:
    """Return whether *volumes* never falls, and is absent at most at the beginning."""
    known = [volume for volume in volumes if not math.isnan(volume)]
    return known == sorted(volumes[len(volumes) - len(known) :])


def last_book(lines: list[str]) -> str:
    return [line for line in lines if "@bookTicker" in line][-1]


@needs_real
def test_the_real_recording_holds_what_is_known_of_it() -> None:
    quotes, reader = read_all(REAL)
    assert (reader.lines, reader.items, reader.malformed, reader.ignored) == (
        41_249,
        28_040,
        0,
        13_209,
    )
    assert {quote.symbol for _, quote in quotes} == {"BTCUSDT"}
    assert all(quote.bid < quote.ask for _, quote in quotes)
    assert all(before[0] <= after[0] for before, after in pairwise(quotes))
    assert grows([quote.volume for _, quote in quotes])
    assert quotes[-1][1].volume > 100
    assert (quotes[-1][1].bid, quotes[-1][1].ask) == (61685.99, 61686.0)
