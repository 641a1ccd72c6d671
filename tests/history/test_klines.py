"""Bars over REST from the local exchange, on real sockets."""

from __future__ import annotations

import logging
import math
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.http_server import Answer, http_server
from trio_ticks.exchange import Exchange, open_exchange
from trio_ticks.exchange.past import Past, Range
from trio_ticks.history import Bars, Progress, klines

DAY = datetime(2024, 3, 4, tzinfo=UTC)
"""A Monday."""
MINUTE = timedelta(minutes=1)
QUICK = tt.BackoffPolicy(initial_s=0.001, maximum_s=0.002)


@asynccontextmanager
async def tickdb(*faults: str, **settings: Any) -> AsyncIterator[Exchange]:
    symbols = ("BTCUSDT", "SPY")
    async with open_exchange(
        venue="tickdb", symbols=symbols, faults=faults, **settings
    ) as exchange:
        yield exchange


def bars_of(
    exchange: Exchange,
    start: datetime = DAY,
    end: datetime | None = None,
    symbol: str = "BTCUSDT",
    interval: str = "1m",
    **more: Any,
) -> Bars:
    more = {"requests_per_minute": None, "backoff": QUICK, "venue": "tickdb", **more}
    return klines(symbol, interval, start, end, url=exchange.rest_url, **more)


async def read(bars: Bars) -> list[tt.Bar]:
    async with bars:
        return [bar async for bar in bars]


def files_in(folder: Path, pattern: str = "*.bars") -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def remove_folders(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()


def opens(start: datetime, count: int, step: timedelta = MINUTE) -> list[datetime]:
    return [start + n * step for n in range(count)]


# Every bar once


@pytest.mark.parametrize("venue", ["tickdb", "binance"])
@pytest.mark.parametrize(
    "faults", [(), ("exclusive-bounds",), ("keeps-newest",), ("exclusive-bounds", "keeps-newest")]
)
async def test_every_bar_comes_once(venue: str, faults: tuple[str, ...]) -> None:
    async with open_exchange(venue=venue, symbols=["BTCUSDT"], faults=faults) as exchange:
        bars = await read(bars_of(exchange, end=DAY + 2500 * MINUTE, venue=venue))
        assert exchange.calls <= 5
    assert [bar.timestamp for bar in bars] == opens(DAY, 2500)
    assert {(bar.symbol, bar.interval_s, bar.closed) for bar in bars} == {("BTCUSDT", 60, True)}
    assert all(bar.low <= min(bar.open, bar.close) for bar in bars)
    assert all(before.close == after.open for before, after in pairwise(bars))


@pytest.mark.parametrize("faults", [(), ("keeps-newest",)])
async def test_bars_of_sessions_come_once(faults: tuple[str, ...]) -> None:
    async with tickdb(*faults) as exchange:
        bars = await read(bars_of(exchange, end=DAY + timedelta(days=9), symbol="SPY"))
        assert exchange.calls <= 30
    days = [DAY + timedelta(days=n, hours=13, minutes=30) for n in (0, 1, 2, 3, 4, 7, 8)]
    assert [bar.timestamp for bar in bars] == [each for day in days for each in opens(day, 390)]


async def test_what_the_venue_sends_is_what_comes() -> None:
    async with tickdb() as exchange:
        bars = await read(bars_of(exchange, end=DAY + 5 * MINUTE))
    body = [
        {
            "time": round(bar.timestamp.timestamp() * 1000),
            **{name: str(getattr(bar, name)) for name in ("open", "high", "low", "close")},
        }
        for bar in bars
    ]
    answer = {"code": 0, "data": {"symbol": "x", "klines": [*body[::-1], body[0]]}}
    async with http_server(Answer(msgspec.json.encode(answer))) as server:
        again = await read(
            klines("BTCUSDT", "1m", DAY, DAY + 5 * MINUTE, url=server.url, type="crypto")
        )
    params = server.asked[0].params
    assert (params["symbol"], params["type"], params["limit"]) == ("BTCUSDT", "crypto", "1000")
    assert all(math.isnan(bar.volume) for bar in again)
    assert [(bar.timestamp, bar.close) for bar in again] == [
        (bar.timestamp, bar.close) for bar in bars
    ]


@pytest.mark.parametrize(
    ("interval", "count", "step"),
    [("1h", 48, timedelta(hours=1)), ("1d", 2, timedelta(days=1)), ("15m", 192, 15 * MINUTE)],
)
async def test_other_intervals(interval: str, count: int, step: timedelta) -> None:
    async with tickdb() as exchange:
        bars = await read(bars_of(exchange, end=DAY + timedelta(days=2), interval=interval))
    assert [bar.timestamp for bar in bars] == opens(DAY, count, step)
    assert {bar.interval_s for bar in bars} == {step.total_seconds()}


async def test_months_and_weeks_have_their_lengths() -> None:
    start, end = datetime(2023, 12, 15, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)
    async with tickdb() as exchange:
        months = await read(bars_of(exchange, start, end, interval="1M"))
        weeks = await read(bars_of(exchange, start, end, interval="1w"))
    assert [(bar.timestamp.month, bar.interval_s / 86_400) for bar in months] == [
        (1, 31),
        (2, 29),
        (3, 31),
    ]
    assert [bar.timestamp for bar in weeks] == opens(
        datetime(2023, 12, 18, tzinfo=UTC), 15, timedelta(weeks=1)
    )


async def test_before_the_first_bar_there_is_nothing() -> None:
    async with tickdb() as exchange:
        first = datetime(2020, 1, 1, tzinfo=UTC)
        bars = await read(bars_of(exchange, datetime(2001, 1, 1), first + 3 * MINUTE))
        assert [bar.timestamp for bar in bars] == opens(first, 3)
        assert exchange.calls < 40
        assert await read(bars_of(exchange, datetime(2001, 1, 1), datetime(2001, 1, 2))) == []


# The present


@pytest.mark.parametrize("faults", [(), ("bar-forming",)])
async def test_the_bar_that_is_forming_is_left_out(faults: tuple[str, ...]) -> None:
    async with tickdb(*faults) as exchange:
        start = datetime.now(UTC) - 30 * MINUTE
        bars = await read(bars_of(exchange, start, None))
        assert all(bar.closed for bar in bars)
        assert all(bar.timestamp + MINUTE <= datetime.now(UTC) for bar in bars)
        assert len(bars) >= 28


async def test_the_bar_that_is_forming_comes_if_asked_for() -> None:
    async with tickdb("bar-forming") as exchange:
        now = datetime.now(UTC)
        bars = await read(
            bars_of(exchange, now - timedelta(days=3), now, interval="1d", forming=True)
        )
    assert [bar.closed for bar in bars[:-1]] == [True] * (len(bars) - 1)
    assert not bars[-1].closed


# Errors


async def failing(exchange: Exchange, **more: Any) -> tt.FeedError:
    with pytest.raises(tt.FeedError) as caught:
        await read(bars_of(exchange, end=DAY + 5 * MINUTE, **more))
    return caught.value


async def test_an_unknown_symbol() -> None:
    async with tickdb() as exchange:
        error = await failing(exchange, symbol="NOPE")
        assert isinstance(error, tt.UnknownSymbolError)
        assert error.code == "2002"
    async with open_exchange(venue="binance") as exchange:
        error = await failing(exchange, symbol="NOPE", venue="binance")
        assert isinstance(error, tt.UnknownSymbolError)
        assert error.code == "-1121"


async def test_an_ambiguous_symbol_names_its_types() -> None:
    async with tickdb("ambiguous") as exchange:
        error = await failing(exchange)
        assert isinstance(error, tt.UnknownSymbolError)
        assert error.types == ("crypto", "futures")
        assert len(await read(bars_of(exchange, end=DAY + 5 * MINUTE, type="crypto"))) == 5


async def test_the_free_plan_has_no_history() -> None:
    async with tickdb("free-plan") as exchange:
        error = await failing(exchange)
    assert isinstance(error, tt.RestError)
    assert error.code == "3008"
    assert "free plan" in str(error)


async def test_the_key_is_needed() -> None:
    async with tickdb(api_key="right") as exchange:
        assert isinstance(error := await failing(exchange), tt.FeedAuthError)
        assert "no api_key was given" in str(error)
        assert isinstance(error := await failing(exchange, api_key="wrong"), tt.FeedAuthError)
        assert "wrong" not in str(error)
        assert len(await read(bars_of(exchange, end=DAY + MINUTE, api_key="right"))) == 1


@pytest.mark.parametrize("fault", ["rest-429", "rest-500"])
async def test_trouble_on_the_way_changes_nothing(fault: str) -> None:
    async with tickdb(fault) as exchange:
        bars = await read(bars_of(exchange, end=DAY + 3500 * MINUTE))
        assert exchange.calls >= 4
    assert [bar.timestamp for bar in bars] == opens(DAY, 3500)


@pytest.mark.parametrize(
    "bad",
    [
        {"time": 0, "open": "x", "high": "1", "low": "1", "close": "1"},
        {"open": "nan", "high": "1", "low": "1", "close": "1"},
        {"open": "1", "high": "1", "low": "1", "close": "1", "volume": "-5"},
        {"time": 5, "open": "1", "high": "1", "low": "1", "close": "1"},
        {"time": 10**30, "open": "1", "high": "1", "low": "1", "close": "1"},
        {"time": "soon"},
    ],
)
async def test_a_bar_that_makes_no_sense_is_an_error(bad: dict[str, Any]) -> None:
    bar = {"time": round(DAY.timestamp() * 1000), **bad}
    body = msgspec.json.encode({"code": 0, "data": {"klines": [bar]}})
    async with http_server(Answer(body)) as server:
        with pytest.raises(tt.RestError) as caught:
            await read(klines("X", "1m", DAY, DAY + MINUTE, url=server.url))
    assert server.url in str(caught.value)


async def test_a_bar_that_makes_no_sense_is_not_cached(tmp_path: Path) -> None:
    def page(price: str) -> Answer:
        prices = dict.fromkeys(("open", "high", "low", "close"), price)
        body = {"code": 0, "data": {"klines": [{"time": at, **prices}]}}
        return Answer(msgspec.json.encode(body))

    at = round(DAY.timestamp() * 1000)
    async with http_server(page("nan"), page("2")) as server:
        with pytest.raises(tt.RestError, match="makes no sense"):
            await read(klines("X", "1m", DAY, DAY + MINUTE, url=server.url, cache=tmp_path))
        assert files_in(tmp_path) == []
        again = await read(klines("X", "1m", DAY, DAY + MINUTE, url=server.url, cache=tmp_path))
    assert [bar.open for bar in again] == [2.0]


async def test_a_page_of_binance_that_makes_no_sense_is_an_error() -> None:
    async with http_server(Answer(b"[[1709510400000]]")) as server:
        with pytest.raises(tt.RestError, match="makes no sense"):
            await read(klines("X", "1m", DAY, DAY + MINUTE, url=server.url, venue="binance"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"interval": "7m"}, "1m, 3m, 5m, 15m, 30m, 1h, 2h, 4h, 1d, 1w, 1M; got '7m'"),
        ({"venue": "kraken"}, '"tickdb" or "binance"'),
        ({"symbol": ""}, "symbol"),
        ({"start": "2024"}, "start must be a datetime"),
        ({"end": DAY}, "start must be before end"),
        ({"start": datetime(1969, 1, 1, tzinfo=UTC)}, "before 1970"),
        ({"venue": "binance", "adjust": "forward"}, "binance does not know adjust"),
        ({"progress": 3}, "progress"),
        ({"forming": 1}, "forming"),
        ({"cache": 3}, "cache must be the path"),
        ({"url": "ws://x"}, "must begin with https"),
    ],
)
def test_settings_are_checked(more: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"symbol": "X", "interval": "1m", "start": DAY, **more}
    with pytest.raises(tt.ConfigError, match=message):
        klines(**settings)


# Pace, and stopping


async def test_the_pace_is_kept(fast_clock: MockClock) -> None:
    async with tickdb() as exchange:
        begun = trio.current_time()
        bars = bars_of(exchange, end=DAY + 3900 * MINUTE, requests_per_minute=3, timeout=math.inf)
        assert len(await read(bars)) == 3900
        assert exchange.calls == 4
        assert trio.current_time() - begun >= 60


@pytest.fixture
def fast_clock() -> MockClock:
    """A second takes 5 ms."""
    return MockClock(rate=200)


async def test_pages_are_fetched_while_they_are_needed() -> None:
    async with tickdb() as exchange:
        seen = 0
        async for _bar in bars_of(exchange, end=DAY + 9000 * MINUTE):
            seen += 1
            if seen == 990:
                break
        # Nothing is left open: a connection that is not closed would be a warning,
        # which is an error in these tests.
        assert exchange.calls <= 2


async def test_a_cancelled_page_loses_no_bar() -> None:
    async with tickdb("rest-slow") as exchange:
        bars = bars_of(exchange, end=DAY + 5 * MINUTE)
        with trio.move_on_after(0.1) as scope:
            await anext(bars)
        assert scope.cancelled_caught
        assert len(await read(bars)) == 5


async def test_bars_feed_a_pipeline() -> None:
    seen: list[tt.Bar] = []

    async def strategy(bar: tt.Bar) -> None:
        seen.append(bar)

    async with tickdb() as exchange:
        feed = tt.IterableFeed(bars_of(exchange, end=DAY + 1500 * MINUTE))
        report = await tt.run_pipeline(feed, strategy, overflow=tt.Block())
    assert report.ledger.consumed == 1500
    assert [bar.timestamp for bar in seen] == opens(DAY, 1500)


async def test_progress_is_told() -> None:
    told: list[Progress] = []
    async with tickdb() as exchange:
        await read(bars_of(exchange, end=DAY + 2500 * MINUTE, progress=told.append))
        assert told[-1].requests == exchange.calls
    fractions = [each.fraction for each in told]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 1
    last = told[-1]
    assert (last.fraction, last.bars, last.cached) == (1.0, 2500, 0)
    assert last.until == DAY + 2500 * MINUTE


# The cache


async def test_bars_in_the_cache_are_not_fetched_again(tmp_path: Path) -> None:
    async with tickdb() as exchange:
        end = DAY + 3000 * MINUTE
        first = await read(bars_of(exchange, end=end, cache=tmp_path))
        calls = exchange.calls
        told: list[Progress] = []
        again = await read(bars_of(exchange, end=end, cache=tmp_path, progress=told.append))
        assert again == first
        assert exchange.calls == calls
        assert told[-1].cached == 3000
        # A part, and more than is there.
        part = await read(bars_of(exchange, DAY + 500 * MINUTE, end, cache=tmp_path))
        assert part == first[500:]
        more = await read(bars_of(exchange, DAY, end + 2000 * MINUTE, cache=tmp_path))
        assert [bar.timestamp for bar in more] == opens(DAY, 5000)
        assert 0 < exchange.calls - calls <= 4
    files = files_in(tmp_path, "*")
    assert files
    assert {path.suffix for path in files} == {".bars"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize("damage", ["cut", "bit", "swapped", "empty"])
async def test_a_damaged_file_is_fetched_again_and_said(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with tickdb() as exchange:
        end = DAY + 3000 * MINUTE
        first = await read(bars_of(exchange, end=end, cache=tmp_path))
        files = files_in(tmp_path)
        data = files[1].read_bytes()
        spoiled = {
            "cut": data[:-7],
            "bit": data[:-7] + bytes([data[-7] ^ 1]) + data[-6:],
            "swapped": files[0].read_bytes(),
            "empty": b"",
        }
        files[1].write_bytes(spoiled[damage])
        calls = exchange.calls
        with caplog.at_level(logging.WARNING, "trio_ticks.history"):
            assert await read(bars_of(exchange, end=end, cache=tmp_path)) == first
        assert 0 < exchange.calls - calls <= 3
        assert files[1].read_bytes() == data
    ours = [each for each in caplog.records if each.name == "trio_ticks.history"]
    assert [each.event for each in ours] == ["history.cache_damaged"]  # type: ignore[attr-defined]
    assert str(files[1]) in caplog.text


async def test_the_present_is_not_kept(tmp_path: Path) -> None:
    async with tickdb("bar-forming") as exchange:
        start = datetime.now(UTC) - 10 * MINUTE
        for _ in range(2):
            await read(bars_of(exchange, start, cache=tmp_path, forming=True))
        assert exchange.calls == 2
    for path in files_in(tmp_path):
        begin = int(path.stem)
        assert begin + 1000 * 60_000 < datetime.now(UTC).timestamp() * 1000


async def test_no_bars_lately_are_not_kept(tmp_path: Path) -> None:
    empty = Answer(b'{"code":0,"data":{"klines":[]}}')
    now = datetime.now(UTC)
    async with http_server(empty) as server:
        for start in (now - timedelta(days=1), now - timedelta(days=4)):
            bars = klines("X", "1m", start, url=server.url, cache=tmp_path, backoff=QUICK)
            assert await read(bars) == []
    chunk = timedelta(minutes=1000)
    begins = [datetime.fromtimestamp(int(path.stem) / 1000, UTC) for path in files_in(tmp_path)]
    assert begins
    assert all(begin + chunk + timedelta(days=1) <= datetime.now(UTC) for begin in begins)
    assert now - timedelta(days=4) - chunk < min(begins)


@pytest.mark.parametrize("type", [None, "stock"])
async def test_each_type_has_files_of_its_own(type: str | None, tmp_path: Path) -> None:
    async with open_exchange(venue="tickdb", symbols=["A", "A_stock"]) as exchange:
        end = DAY + timedelta(days=2)
        first = await read(bars_of(exchange, end=end, symbol="A_stock", cache=tmp_path))
        second = await read(bars_of(exchange, end=end, symbol="A", type=type, cache=tmp_path))
    assert {bar.symbol for bar in first} == {"A_stock"}
    assert {bar.symbol for bar in second} == {"A"}
    assert len({path.parent.parent for path in files_in(tmp_path)}) == 2


async def test_adjusted_prices_are_not_kept(tmp_path: Path) -> None:
    async with tickdb() as exchange:
        for _ in range(2):
            await read(
                bars_of(
                    exchange, end=DAY + 9 * MINUTE, symbol="SPY", cache=tmp_path, adjust="forward"
                )
            )
        assert exchange.calls == 2
    assert files_in(tmp_path) == []


async def test_a_reader_that_stops_leaves_whole_chunks(tmp_path: Path) -> None:
    async with tickdb() as exchange:
        bars = bars_of(exchange, end=DAY + 6000 * MINUTE, cache=tmp_path)
        for _ in range(2500):
            await anext(bars)
        again = await read(bars_of(exchange, end=DAY + 6000 * MINUTE, cache=tmp_path))
        assert [bar.timestamp for bar in again] == opens(DAY, 6000)


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(tt.ConfigError, match=r"cache: .*file cannot be used"):
        klines("X", "1m", DAY, DAY + MINUTE, cache=tmp_path / "file")


async def test_bars_survive_a_cache_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with tickdb() as exchange:
        bars = bars_of(exchange, end=DAY + 3000 * MINUTE, cache=tmp_path)
        remove_folders(tmp_path)
        assert len(await read(bars)) == 3000
    events = [record.event for record in caplog.records]  # type: ignore[attr-defined]
    assert events == ["history.cache_failed"]


# The past that the exchange shows


def test_bars_of_all_lengths_agree() -> None:
    past = Past("X", 0, 100.0, 1_700_000_000_000, sessions=False)

    def bars(interval: str, hours: int) -> list[Any]:
        begin = 1_700_000_000_000 // 3_600_000 * 3_600_000
        wanted = Range(
            interval=interval,
            first_ms=begin,
            last_ms=begin + hours * 3_600_000 - 1,
            limit=1000,
            newest=False,
            now_ms=1_800_000_000_000,
            forming=False,
        )
        return past.bars(wanted)

    minutes, hours = bars("1m", 3), bars("1h", 3)
    assert len(minutes) == 180
    assert [hour.open for hour in hours] == [minute.open for minute in minutes[::60]]
    assert [hour.close for hour in hours] == [minute.close for minute in minutes[59::60]]
    assert past.price(1_700_000_000_000) == pytest.approx(100.0)
