"""Recordings: which lines make quotes, what happens to the others, and the exchange that plays them."""

from __future__ import annotations

import gzip
import json
import math
import os
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.exchange_client import deaf_client, subscribed, ticks, until
from trio_ticks import ConfigError
from trio_ticks.exchange import ClientLimits, open_exchange
from trio_ticks.feeds.captures import CaptureReader, Playback, Quote, capture_symbols, utc_from_ns

REAL = Path(__file__).resolve().parents[2] / "shared/data/binance/binance_spot_btcusdt_20240808.gz"
needs_real = pytest.mark.skipif(not REAL.exists(), reason=f"the real recording is not beside the checkout: {REAL}")

T0 = 1_723_161_254_000_000_000


def combined(stream: str, **data: Any) -> str:
    return json.dumps({"stream": stream, "data": data})


def book(n: int, *, symbol: str = "BTCUSDT", at_ms: int | None = None) -> str:
    """Make the line of a bookTicker: quotes one a millisecond, bid n, ask n + 1."""
    data = combined(f"{symbol.lower()}@bookTicker", u=n, s=symbol, b=f"{n}.00000000", B="3.50000000", a=f"{n + 1}.00000000", A="0.00000000")
    return f"{T0 + (n if at_ms is None else at_ms) * 1_000_000} {data}"


def trade(n: int, size: str, symbol: str = "BTCUSDT") -> str:
    return f"{T0 + n * 1_000_000} {combined(f'{symbol.lower()}@trade', e='trade', s=symbol, p='1.0', q=size)}"


DEPTH = f"{T0} " + combined("btcusdt@depth@100ms", e="depthUpdate", s="BTCUSDT", b=[["1.0", "0.0"]], a=[])
SNAPSHOT = f'{T0} {{"lastUpdateId": 7, "bids": [["1.0", "2.0"]], "asks": []}}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording"


def write(path: Path, *lines: str | bytes, compressed: bool = False) -> Path:
    data = b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data) if compressed else data)
    return path


def read_all(path: Path, **options: Any) -> tuple[list[Quote], CaptureReader]:
    with CaptureReader(path, **options) as reader:
        return reader.read(10**9), reader


@pytest.mark.parametrize("compressed", [False, True])
def test_binances_frames_make_quotes_whose_volume_is_the_trades_so_far(path: Path, compressed: bool) -> None:
    write(path, DEPTH, book(1), trade(2, "0.5"), SNAPSHOT, trade(2, "0.25"), trade(2, "9", "ETHUSDT"), book(3), compressed=compressed)
    quotes, reader = read_all(path)
    assert quotes == [
        Quote(T0 + 1_000_000, "BTCUSDT", 1.0, 2.0, 3.5, 0.0, 0.0),
        Quote(T0 + 3_000_000, "BTCUSDT", 3.0, 4.0, 3.5, 0.0, 0.75),
    ]
    assert (reader.lines, reader.quotes, reader.ignored, reader.malformed) == (7, 2, 5, 0)


def test_flat_ticks_are_read_with_and_without_a_receive_time(path: Path) -> None:
    flat = {
        "symbol": "SPY",
        "timestamp": "2026-03-02T14:30:00.123456Z",
        "bid": 1.5,
        "ask": "1.75",
        "bid_size": 4,
        "ask_size": 3,
        "volume": 9,
    }
    offset = flat | {"timestamp": "2026-03-02T15:30:00.123456+01:00"}
    write(path, json.dumps(flat), f"{T0} {json.dumps(flat)}", json.dumps(offset))
    quotes, _ = read_all(path)
    assert [quote.symbol for quote in quotes] == ["SPY"] * 3
    assert quotes[1].received_ns == T0
    assert utc_from_ns(quotes[0].received_ns) == datetime(2026, 3, 2, 14, 30, 0, 123456, UTC) == utc_from_ns(quotes[2].received_ns)
    assert quotes[0][2:] == (1.5, 1.75, 4.0, 3.0, 9.0)


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
    combined("btcusdt@bookTicker", u=1, s="BTCUSDT", b="1", B="1", a="2", A="1"),  # without its receive time
    f"{T0} " + combined("btcusdt@bookTicker", u=1, s="BTCUSDT", b="one", B="1", a="2", A="1"),
    f"{T0} " + combined("btcusdt@bookTicker", u=1, s="BTCUSDT", b="nan", B="1", a="2", A="1"),
    f"{T0} " + combined("btcusdt@bookTicker", u=1, s="BTCUSDT", b="inf", B="1", a="2", A="1"),
    f"{T0} " + combined("btcusdt@bookTicker", u=1, s="BTCUSDT", b="1", B="-1", a="2", A="1"),
    f"{T0} " + combined("btcusdt@bookTicker", u=1, s="", b="1", B="1", a="2", A="1"),
    f"{T0} " + combined("btcusdt@bookTicker"),
    f"{T0} " + combined("btcusdt@trade", s="BTCUSDT", q="inf"),
    '{"symbol": "SPY", "bid": 1, "ask": 2}',
    '{"symbol": "SPY", "timestamp": "yesterday", "bid": 1, "ask": 2}',
    '{"symbol": "SPY", "timestamp": "2026-03-02T14:30:00Z", "bid": 1}',
    '{"symbol": "SPY", "timestamp": "0001-01-01T00:00:00+14:00", "bid": 1, "ask": 2}',
]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_is_counted_and_passed_over(path: Path, junk: str | bytes) -> None:
    write(path, book(1), junk, book(2))
    quotes, reader = read_all(path)
    assert [quote.bid for quote in quotes] == [1.0, 2.0]
    assert reader.malformed == 1


@given(st.lists(st.binary(max_size=40)))
def test_any_bytes_are_counted(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "recording", *lines)
    quotes, reader = read_all(path)
    assert len(quotes) + reader.malformed + reader.ignored == reader.lines


def test_lines_without_an_end_do_not_fill_the_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_ticks.feeds.captures.MAX_LINE", 1000)
    path.write_bytes(b"x" * 10_500 + b"\n" + book(1).encode())
    quotes, reader = read_all(path)
    assert len(quotes) == 1
    assert reader.malformed == 11


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_archive_is_read_as_far_as_it_goes(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    write(path, *(book(n) for n in range(20_000)), compressed=True)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 : len(data) // 2 + 200] = os.urandom(200)
    path.write_bytes(data)
    quotes, reader = read_all(path)
    assert 100 < len(quotes) <= 20_000
    assert reader.truncated
    assert [record.message.partition(" ")[0] for record in caplog.records] == ["capture.truncated"]


def test_only_the_symbols_asked_for(path: Path) -> None:
    write(path, book(1), book(2, symbol="ETHUSDT"), book(3))
    quotes, reader = read_all(path, symbols={"ETHUSDT"})
    assert [quote.symbol for quote in quotes] == ["ETHUSDT"]
    assert reader.ignored == 2


def test_rewinding_goes_on_with_the_volume(path: Path) -> None:
    write(path, trade(0, "2"), book(1))
    with CaptureReader(path) as reader:
        assert [quote.volume for quote in reader.read(9)] == [2.0]
        assert reader.at_end
        reader.rewind()
        assert not reader.at_end
        assert [quote.volume for quote in reader.read(9)] == [4.0]


def test_the_symbols_of_a_recording(path: Path) -> None:
    assert capture_symbols(write(path, book(1, symbol="B"), book(2, symbol="A"), book(3, symbol="B"))) == ("B", "A")


def test_what_is_no_recording_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.*No such file"):
        capture_symbols(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="not a regular file"):
            capture_symbols(path)
    for content in ("", "hello\n" * 20, DEPTH + "\n"):
        (tmp_path / "other").write_text(content)
        with pytest.raises(ConfigError, match="not a recording that can be played"):
            capture_symbols(tmp_path / "other")


# Playback


async def test_playback_says_what_is_due_at_a_multiple_of_the_pace(path: Path) -> None:
    write(path, *(book(n) for n in range(100)))
    with CaptureReader(path) as reader:
        playback = Playback(reader, speed=2.0)
        assert playback.wants_more
        await playback.read_ahead()
        assert not playback.wants_more
        assert playback.next_at == 0.0
        assert [quote.bid for quote in playback.take(0.0049, 100)] == [float(n) for n in range(10)]
        assert playback.next_at == pytest.approx(0.005)
        assert len(playback.take(1.0, 20)) == 20
        assert not playback.ended
        assert len(playback.take(1.0, 1000)) == 70
        assert playback.ended
        assert playback.next_at == math.inf


async def test_times_that_run_backwards_count_as_at_once(path: Path) -> None:
    write(path, book(0, at_ms=1000), book(1, at_ms=500), book(2, at_ms=1001))
    with CaptureReader(path) as reader:
        playback = Playback(reader)
        await playback.read_ahead()
        assert [quote.bid for quote in playback.take(0.0, 9)] == [0.0, 1.0]
        assert playback.next_at == pytest.approx(0.001)


async def test_reading_ahead_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Playback, "ahead", 10)
    write(path, *(book(n) for n in range(100)))
    with CaptureReader(path) as reader:
        playback = Playback(reader, speed=math.inf)
        seen = []
        while not playback.ended:
            if playback.wants_more:
                await playback.read_ahead()
            assert len(playback._quotes) < 15
            seen += playback.take(0.0, 3)
        assert [quote.bid for quote in seen] == [float(n) for n in range(100)]


async def test_looping_goes_on_without_a_jump_in_time(path: Path) -> None:
    write(path, book(0), trade(1, "1"), book(10))
    with CaptureReader(path) as reader:
        playback = Playback(reader, loop=True)
        for _ in range(3):
            await playback.read_ahead()
        assert not playback.ended
        assert [quote.volume for quote in playback.take(0.0301, 99)] == [0.0, 1.0, 1.0, 2.0, 2.0, 3.0]


async def test_a_new_round_begins_when_the_old_one_is_over(path: Path) -> None:
    write(path, book(0), book(10), book(1, at_ms=5))
    with CaptureReader(path) as reader:
        playback = Playback(reader, loop=True)
        await playback.read_ahead()
        await playback.read_ahead()
        assert [quote.bid for quote in playback.take(0.0199, 99)] == [0.0, 10.0, 1.0, 0.0]
        assert playback.next_at == pytest.approx(0.02)


# The exchange that plays it


async def test_the_exchange_plays_a_recording(path: Path) -> None:
    write(path, *(book(n, symbol="AB"[n % 2]) for n in range(1000)))
    async with open_exchange(capture=path, speed=50) as exchange:
        assert exchange.symbols == ("A", "B")
        async with subscribed(exchange) as ws:
            seen = await ticks(ws)
        await exchange.finished.wait()
    assert [tick["bid"] for tick in seen] == [float(n) for n in range(1000)]
    assert [tick["symbol"] for tick in seen] == ["AB"[n % 2] for n in range(1000)]
    age = datetime.now(UTC) - datetime.fromisoformat(seen[0]["timestamp"])
    assert 0 <= age.total_seconds() < 3600
    assert exchange.sent_by_symbol == {"A": 500, "B": 500}
    assert exchange.disconnects == {"finished": 1}


@pytest.mark.parametrize("speed", [math.inf, 1e6])
async def test_a_recording_waits_for_its_slowest_client(path: Path, speed: float) -> None:
    write(path, *(book(n) for n in range(4000)))
    limits = ClientLimits(buffer_bytes=4096, socket_buffer_bytes=4096)
    async with (
        open_exchange(capture=path, speed=speed, limits=limits) as exchange,
        await deaf_client(exchange, *exchange.symbols) as slow,
        subscribed(exchange) as ws,
        trio.open_nursery() as nursery,
    ):
        # Neither has got it all, and one of them does not read.
        await until(lambda: exchange.clients == 2 and not all(client.has_room for client in exchange._clients))
        assert exchange.generated < 4000

        async def read_on() -> None:
            with suppress(trio.BrokenResourceError):
                while await slow.receive_some(1 << 20):
                    pass

        nursery.start_soon(read_on)
        seen = await ticks(ws)
        nursery.cancel_scope.cancel()
    assert [tick["bid"] for tick in seen] == [float(n) for n in range(4000 - len(seen), 4000)]
    assert exchange.generated == 4000
    assert exchange.skipped == 0
    assert exchange.waited > 0


async def test_a_recording_does_not_wait_for_ever_for_who_takes_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path, *(book(n) for n in range(4000)))
    limits = ClientLimits(buffer_bytes=4096, socket_buffer_bytes=4096, slow_timeout_s=1.1)
    async with open_exchange(capture=path, speed=math.inf, limits=limits) as exchange, await deaf_client(exchange, *exchange.symbols):
        await exchange.wait_subscribed()
        await until(lambda: exchange.disconnects)
        assert exchange.disconnects == {"slow_consumer": 1}
        assert exchange.skipped == 0
        assert exchange.generated < 4000
        # Nobody is there: it stands still. Whoever comes gets the rest.
        before = exchange.generated
        async with subscribed(exchange) as ws:
            assert len(await ticks(ws)) == 4000 - before
    assert "exchange.waiting waited_s=" in caplog.text


async def test_original_timestamps_and_chosen_symbols(path: Path) -> None:
    write(path, *(book(n, symbol="AB"[n % 2]) for n in range(10)))
    async with open_exchange(capture=path, speed=math.inf, timestamps="original", symbols=["B"]) as exchange, subscribed(exchange) as ws:
        seen = await ticks(ws)
    assert [tick["symbol"] for tick in seen] == ["B"] * 5
    assert [datetime.fromisoformat(tick["timestamp"]) for tick in seen] == [utc_from_ns(T0 + n * 1_000_000) for n in range(1, 10, 2)]


async def test_a_recording_can_be_played_for_ever(path: Path) -> None:
    write(path, *(book(n) for n in range(10)))
    async with open_exchange(capture=path, speed=math.inf, loop=True, limit=1005) as exchange, subscribed(exchange) as ws:
        seen = await ticks(ws)
    assert [tick["bid"] for tick in seen] == [float(n % 10) for n in range(1005)]


async def test_symbols_that_appear_later_can_be_subscribed_to_then(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_ticks.feeds.captures.HEAD_LINES", 5)
    write(path, *(book(n) for n in range(10)), book(10, symbol="LATE"))
    async with open_exchange(capture=path, speed=math.inf) as exchange:
        assert exchange.symbols == ("BTCUSDT",)
        async with subscribed(exchange) as ws:
            assert len(await ticks(ws)) == 10
        assert "LATE" in exchange.symbols


async def test_a_missing_recording_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        async with open_exchange(capture=tmp_path / "nowhere"):
            pytest.fail("opened")


@needs_real
def test_the_real_recording_holds_what_is_known_of_it() -> None:
    quotes, reader = read_all(REAL)
    assert (reader.lines, reader.quotes, reader.malformed, reader.ignored) == (41_249, 28_040, 0, 13_209)
    assert {quote.symbol for quote in quotes} == {"BTCUSDT"}
    assert all(quote.bid < quote.ask for quote in quotes)
    assert all(before.received_ns <= after.received_ns for before, after in pairwise(quotes))
    assert all(before.volume <= after.volume for before, after in pairwise(quotes))
    assert quotes[-1].volume > 100
    assert (quotes[-1].bid, quotes[-1].ask) == (61685.99, 61686.0)


@needs_real
async def test_the_exchange_plays_the_real_recording_whole_and_in_order() -> None:
    quotes, _ = await trio.to_thread.run_sync(read_all, REAL)
    async with open_exchange(capture=REAL, speed=math.inf) as exchange, subscribed(exchange) as ws:
        seen = await ticks(ws)
    assert [tuple(tick[name] for name in Quote._fields[1:]) for tick in seen] == [quote[1:] for quote in quotes]
    assert exchange.skipped == 0
