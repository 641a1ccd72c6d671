"""An exchange that plays a recording: whole, in order, at its slowest client's pace."""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from tests.worlds.exchange_client import ask, deaf_client, subscribed, ticks, until
from tests.worlds.recordings import REAL, T0, book, busy_day, needs_real, read_all, write
from trio_ticks import ConfigError
from trio_ticks.exchange import ClientLimits, open_exchange
from trio_ticks.feeds.captures import utc_from_ns


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording"


async def test_the_exchange_plays_a_recording(path: Path) -> None:
    write(path, *(book(n, symbol="AB"[n % 2]) for n in range(1000)))
    async with open_exchange(capture=path, speed=50) as exchange:
        assert exchange.symbols == ("A", "B")
        async with subscribed(exchange) as ws:
            seen = await ticks(ws)
        await exchange.finished.wait()
    assert [tick["bid"] for tick in seen] == [float(n) for n in range(1000)]
    assert [tick["symbol"] for tick in seen] == ["AB"[n % 2] for n in range(1000)]
    assert not any("volume" in tick for tick in seen)  # Binance's quotes say none.
    age = datetime.now(UTC) - datetime.fromisoformat(seen[0]["timestamp"])
    assert 0 <= age.total_seconds() < 3600
    assert exchange.sent_by_symbol == {"A": 500, "B": 500}
    assert exchange.disconnects == {"finished": 1}
    assert exchange.waited == 0


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
        await until(lambda: exchange.clients == 2 and exchange.waited > 0)
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


async def test_a_recording_does_not_wait_for_ever_for_who_takes_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, *(book(n) for n in range(4000)))
    limits = ClientLimits(buffer_bytes=4096, socket_buffer_bytes=4096, slow_timeout_s=1.1)
    async with (
        open_exchange(capture=path, speed=math.inf, limits=limits) as exchange,
        await deaf_client(exchange, *exchange.symbols),
    ):
        await exchange.wait_subscribed()
        await until(lambda: exchange.disconnects)
        assert exchange.disconnects == {"slow_consumer": 1}
        assert exchange.skipped == 0
        assert exchange.generated < 4000
        # Without a client the recording stands still. The next client gets the rest.
        before = exchange.generated
        async with subscribed(exchange) as ws:
            assert len(await ticks(ws)) == 4000 - before
    assert "exchange.waiting: for " in caplog.text


async def test_original_timestamps_and_chosen_symbols(path: Path) -> None:
    write(path, *(book(n, symbol="AB"[n % 2]) for n in range(10)))
    async with (
        open_exchange(
            capture=path, speed=math.inf, timestamps="original", symbols=["B"]
        ) as exchange,
        subscribed(exchange) as ws,
    ):
        seen = await ticks(ws)
    assert [tick["symbol"] for tick in seen] == ["B"] * 5
    assert [datetime.fromisoformat(tick["timestamp"]) for tick in seen] == [
        utc_from_ns(T0 + n * 1_000_000) for n in range(1, 10, 2)
    ]


async def test_a_recording_can_be_played_for_ever(path: Path) -> None:
    write(path, *(book(n) for n in range(10)))
    async with (
        open_exchange(capture=path, speed=math.inf, loop=True, limit=1005) as exchange,
        subscribed(exchange) as ws,
    ):
        seen = await ticks(ws)
    assert [tick["bid"] for tick in seen] == [float(n % 10) for n in range(1005)]


async def test_symbols_that_appear_later_can_be_subscribed_to_then(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_ticks.feeds.captures.HEAD_LINES", 5)
    write(path, *(book(n) for n in range(10)), book(10, symbol="LATE"))
    async with open_exchange(capture=path, speed=math.inf, loop=True) as exchange:
        assert exchange.symbols == ("BTCUSDT",)
        async with subscribed(exchange) as ws:
            assert len(await ticks(ws, 11)) == 11
            assert "LATE" in exchange.symbols
            answer = await ask(ws, "subscribe", "LATE")
        assert answer == {"id": 1, "result": {"method": "subscribe", "symbols": ["LATE"]}}


async def test_a_missing_recording_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        async with open_exchange(capture=tmp_path / "nowhere"):
            pytest.fail("opened")


async def test_the_exchange_plays_a_recording_whole_and_in_order(path: Path) -> None:
    await play_whole(write(path, *busy_day(4000), compressed=True))


@needs_real
async def test_the_exchange_plays_the_real_recording_whole_and_in_order() -> None:
    await play_whole(REAL)


async def play_whole(path: Path) -> None:
    quotes, _ = await trio.to_thread.run_sync(read_all, path)
    async with open_exchange(capture=path, speed=math.inf) as exchange, subscribed(exchange) as ws:
        seen = await ticks(ws)
    fields = ("symbol", "bid", "ask", "bid_size", "ask_size", "volume")
    assert [tuple(tick.get(name) for name in fields) for tick in seen] == [
        tuple(None if value != value else value for value in map(quote.__getattribute__, fields))
        for _, quote in quotes
    ]
    assert exchange.skipped == 0
