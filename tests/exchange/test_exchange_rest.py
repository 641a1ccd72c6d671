"""The local exchange over REST: its answers, errors, limits and faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

import trio_ticks as tt
from trio_ticks.exchange import Exchange, open_exchange
from trio_ticks.exchange.binance_desk import BINANCE_REST_FAULTS
from trio_ticks.exchange.desk import Stock
from trio_ticks.exchange.http import Call
from trio_ticks.exchange.registry import fault_list
from trio_ticks.exchange.tickdb_desk import TICKDB_REST_FAULTS, TickDBDesk

SYMBOLS = ("BTCUSDT", "EURUSD", "700.HK")
MONDAY_MS = 1_709_510_400_000
"""2024-03-04."""


@asynccontextmanager
async def serving(venue: str, **settings: Any) -> AsyncIterator[tuple[Exchange, httpx.AsyncClient]]:
    settings = {"symbols": SYMBOLS, **settings}
    async with (
        open_exchange(venue=venue, **settings) as exchange,
        httpx.AsyncClient(base_url=exchange.rest_url, trust_env=False, timeout=None) as client,
    ):
        yield exchange, client


async def get(client: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def stream(exchange: Exchange, count: int) -> list[Any]:
    """Take the first *count* items of the market over its WebSocket."""
    seen: list[Any] = []
    enough = trio.Event()

    async def keep(item: tt.MarketData) -> None:
        seen.append(item)
        if len(seen) >= count:
            enough.set()

    venue = str(exchange.config.venue)
    feed = tt.WebSocketFeed(exchange.url, symbols=["BTCUSDT"], venue=venue, channels=["trade"])
    async with tt.open_pipeline(feed, keep) as pipeline:
        await enough.wait()
        pipeline.shutdown()
    return seen


# TickDB


async def test_tickdb_says_over_rest_what_it_streams() -> None:
    async with serving("tickdb", rate=500) as (exchange, client):
        seen = await stream(exchange, 20)
        told = await get(client, "/v1/market/trades", symbol="BTCUSDT", limit=1000)
        known = {trade["id"]: float(trade["price"]) for trade in told["data"]["trades"]}
        assert {trade.trade_id: trade.price for trade in seen}.items() <= known.items()
        (ticker,) = (await get(client, "/v1/market/ticker", symbols="BTCUSDT"))["data"]
        depth = (await get(client, "/v1/market/depth", symbol="BTCUSDT", limit=3))["data"]
    assert depth["bids"][0][0] == ticker["last_price"]
    assert len(depth["bids"]) == len(depth["asks"]) == 3
    bids, asks = ([float(price) for price, _ in depth[side]] for side in ("bids", "asks"))
    assert asks[-1] > asks[0] > bids[0] > bids[-1]


async def test_tickdb_quotes_before_anything_is_streamed() -> None:
    async with serving("tickdb") as (_, client):
        tickers = (await get(client, "/v1/market/ticker", symbols="BTCUSDT,EURUSD"))["data"]
        available = (await get(client, "/v1/symbols/available", limit=2))["data"]["symbols"]
        latest = await get(client, "/v1/market/kline/latest", symbols="BTCUSDT", interval="1m")
    assert [(each["symbol"], each["type"]) for each in tickers] == [
        ("BTCUSDT", "crypto"),
        ("EURUSD", "forex"),
    ]
    assert float(tickers[1]["ask_price"]) > float(tickers[1]["bid_price"]) > 0
    assert [each["symbol"] for each in available] == ["BTCUSDT", "EURUSD"]
    (bar,) = latest["data"]["klines"]
    assert bar["time"] + 60_000 > datetime.now(UTC).timestamp() * 1000 - 60_000
    # The past leads to the market's first quote, which has hardly changed since.
    assert float(bar["close"]) == pytest.approx(float(tickers[0]["last_price"]), rel=0.02)


@pytest.mark.parametrize(
    ("params", "count"),
    [({}, 100), ({"limit": 0}, 100), ({"limit": 5}, 5), ({"limit": 4000}, 1000)],
)
async def test_tickdb_limits_a_page(params: dict[str, Any], count: int) -> None:
    async with serving("tickdb") as (_, client):
        data = await get(client, "/v1/market/kline", symbol="BTCUSDT", interval="1m", **params)
    times = [bar["time"] for bar in data["data"]["klines"]]
    assert len(times) == count
    assert times == sorted(times)
    assert times[-1] + 60_000 > datetime.now(UTC).timestamp() * 1000 - 90_000


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ((), [0, 1, 2]),
        (("exclusive-bounds",), [1, 2, 3]),
        (("keeps-newest",), [8, 9, 10]),
        (("keeps-newest", "exclusive-bounds"), [7, 8, 9]),
    ],
)
@pytest.mark.parametrize("venue", ["tickdb", "binance"])
async def test_ranges_of_bars(venue: str, faults: tuple[str, ...], expected: list[int]) -> None:
    last = MONDAY_MS + 10 * 60_000
    async with serving(venue, faults=faults) as (_, client):
        common: dict[str, Any] = {"symbol": "BTCUSDT", "interval": "1m", "limit": 3}
        if venue == "tickdb":
            common |= {"start_time": MONDAY_MS, "end_time": last}
            data = (await get(client, "/v1/market/kline", **common))["data"]
            times = [bar["time"] for bar in data["klines"]]
        else:
            common |= {"startTime": MONDAY_MS, "endTime": last}
            rows = await get(client, "/api/v3/klines", **common)
            times = [row[0] for row in rows]
            assert all(row[6] == row[0] + 59_999 and len(row) == 12 for row in rows)
    assert [(time - MONDAY_MS) // 60_000 for time in times] == expected


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("/v1/market/kline", {"interval": "1m"}, 400, "2001"),
        ("/v1/market/kline", {"symbol": "NOPE", "interval": "1m"}, 400, "2002"),
        ("/v1/market/kline", {"symbol": "BTCUSDT", "interval": "7m"}, 400, "2001"),
        ("/v1/market/kline", {"symbol": "BTCUSDT", "interval": "1m", "limit": "x"}, 400, "2001"),
        (
            "/v1/market/kline",
            {"symbol": "BTCUSDT", "interval": "1m", "start_time": 9, "end_time": 8},
            400,
            "2003",
        ),
        ("/v1/market/ticker", {"symbols": ",".join("a" * 51)}, 400, "2004"),
        ("/v1/market/depth", {"symbol": "EURUSD"}, 400, "2001"),
        ("/v1/nothing", {}, 404, "2001"),
    ],
)
async def test_tickdb_errors(path: str, params: dict[str, Any], status: int, code: str) -> None:
    async with serving("tickdb") as (_, client):
        answer = await client.get(path, params=params)
    assert answer.status_code == status
    assert (answer.json()["code"], answer.json()["error"]) == (code, code)


async def test_tickdb_wants_the_key_in_a_header() -> None:
    async with serving("tickdb", api_key="right") as (_, client):
        path, params = "/v1/market/ticker", {"symbols": "BTCUSDT"}
        answers = [
            await client.get(path, params=params, headers=headers)
            for headers in ({}, {"X-API-Key": "wrong"}, {"X-API-Key": "right"})
        ]
    assert [answer.status_code for answer in answers] == [401, 401, 200]
    assert [answer.json()["code"] for answer in answers] == ["UNAUTHORIZED", "INVALID_TOKEN", 0]


# Binance


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"symbol": "NOPE", "interval": "1m"}, -1121),
        ({"interval": "1m"}, -1102),
        ({"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ({"symbol": "BTCUSDT", "interval": "1m", "limit": "x"}, -1100),
    ],
)
async def test_binance_errors(params: dict[str, Any], code: int) -> None:
    async with serving("binance") as (_, client):
        answer = await client.get("/api/v3/klines", params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


async def test_binance_counts_weights_and_bans_who_goes_on() -> None:
    async with serving("binance") as (_, client):
        params = {"symbol": "BTCUSDT"}
        answers = [await client.get("/api/v3/trades", params=params) for _ in range(252)]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200] * 240 + [429] * 10 + [418] * 2
    assert answers[239].headers["X-MBX-USED-WEIGHT-1M"] == "6000"
    assert 0 < int(answers[240].headers["Retry-After"]) <= 61
    assert int(answers[-1].headers["Retry-After"]) > 61
    assert answers[-1].json()["code"] == -1003


async def test_binance_says_over_rest_what_it_streams() -> None:
    async with serving("binance", rate=500, symbols=["BTCUSDT"]) as (exchange, client):
        seen = await stream(exchange, 20)
        told = await get(client, "/api/v3/trades", symbol="BTCUSDT", limit=1000)
        depth = await get(client, "/api/v3/depth", symbol="BTCUSDT", limit=5)
        rows = await get(client, "/api/v3/klines", symbol="BTCUSDT", interval="1m", limit=1)
    known = {str(trade["id"]): (float(trade["price"]), float(trade["qty"])) for trade in told}
    streamed = {trade.trade_id: (trade.price, trade.size) for trade in seen}
    first = min(streamed, key=int)
    assert {**streamed, first: None}.items() <= {**known, first: None}.items()
    assert float(depth["bids"][0][0]) == pytest.approx(float(rows[0][4]), rel=0.02)


# Faults, and HTTP itself


@pytest.mark.parametrize("venue", ["tickdb", "binance"])
@pytest.mark.parametrize(("fault", "status"), [("rest-429", 429), ("rest-500", 500)])
async def test_every_third_request_fails(venue: str, fault: str, status: int) -> None:
    path = "/v1/symbols/available" if venue == "tickdb" else "/api/v3/time"
    async with serving(venue, faults=[fault]) as (exchange, client):
        answers = [await client.get(path) for _ in range(6)]
        assert exchange.calls == 6
    assert [answer.status_code for answer in answers] == [200, 200, status] * 2
    assert ("Retry-After" in answers[2].headers) == (status == 429)


def test_thirty_requests_a_minute() -> None:
    now = datetime(2024, 3, 4, tzinfo=UTC)
    limited = frozenset({"rest-limit"})
    desk = TickDBDesk(Stock((), 0, limited, None, opened=now, quotes=lambda: ()))

    def ask(clock: float) -> tuple[int, tuple[tuple[str, str], ...]]:
        answer = desk.answer(Call("/v1/symbols/available", {}), now, clock)
        return answer.status, answer.headers

    assert [ask(float(second))[0] for second in range(30)] == [200] * 30
    assert ask(31.5) == (429, (("Retry-After", "29"),))
    assert [ask(at)[0] for at in (59.9, 60.0, 60.5, 61.0)] == [429, 200, 429, 200]


@pytest.mark.parametrize("venue", ["tickdb", "binance"])
def test_every_fault_of_rest_is_tested_and_listed(venue: str) -> None:
    here = Path(__file__).parent
    files = [Path(__file__), *(here.parent / "history").glob("test_*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    listed = [line.split()[:2] for line in fault_list().splitlines()]
    faults = TICKDB_REST_FAULTS if venue == "tickdb" else BINANCE_REST_FAULTS
    for name in faults:
        assert f'"{name}"' in text
        assert [venue, name] in listed


async def test_rest_418() -> None:
    async with serving("binance", faults=["rest-418"]) as (_, client):
        answers = [await client.get("/api/v3/ping") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 418]
    assert answers[2].headers["Retry-After"] == "2"


async def test_refused_clients_are_refused_over_rest_too() -> None:
    async with serving("tickdb") as (exchange, client):
        exchange.refuse(503, retry_after="2")
        answer = await client.get("/v1/symbols/available")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        exchange.refuse(None)
        assert (await client.get("/v1/symbols/available")).status_code == 200


async def test_one_connection_serves_many_requests_and_websockets_go_on() -> None:
    async with serving("tickdb", rate=500) as (exchange, client):
        for _ in range(3):
            await get(client, "/v1/symbols/available")
        assert len(await stream(exchange, 3)) >= 3
        assert exchange.connections == 1
        assert exchange.errors == 0


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # without Host
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x",
        b"GET //[x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"
        b"HEAD /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"",
    ],
)
async def test_what_is_no_request_ends_its_connection_only(request_bytes: bytes) -> None:
    async with serving("tickdb") as (exchange, client):
        stream = await trio.open_tcp_stream("127.0.0.1", exchange.port)
        async with stream:
            await stream.send_all(request_bytes)
            await stream.send_eof()
            answer = b""
            with trio.fail_after(60):
                while data := await stream.receive_some():
                    answer += data
        assert b" 200 " not in answer.split(b"\r\n")[0]
        await get(client, "/v1/symbols/available")
        assert exchange.errors == 0


async def test_a_request_may_come_in_pieces() -> None:
    request = b"GET /v1/symbols/available HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with serving("tickdb") as (exchange, _):
        stream = await trio.open_tcp_stream("127.0.0.1", exchange.port)
        async with stream:
            for at in range(0, len(request), 9):
                await stream.send_all(request[at : at + 9])
                await trio.sleep(0.001)
            answer = b"".join([bytes(data) async for data in stream])
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"code":0' in answer
