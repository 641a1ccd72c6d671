"""The local Binance: its words and refusals, its REST, its limits, its faults."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed

import trio_ticks as tt
from tests.worlds.exchange_client import PATIENCE, until, websocket
from trio_ticks.exchange import Exchange, open_exchange
from trio_ticks.exchange.binance import FAULTS, BinanceVenue, new_futures_venue
from trio_ticks.exchange.binance_market import INTERVALS, begin_of, end_of
from trio_ticks.exchange.market import Market
from trio_ticks.exchange.registry import SPOKEN
from trio_ticks.exchange.venues import Ended
from trio_ticks.rest import RestClient

NOW = datetime(2026, 3, 4, 14, 30, 7, 250_000, UTC)
SYMBOL = "BTCUSDT"
STREAMS = "btcusdt@bookTicker/btcusdt@trade/btcusdt@aggTrade/btcusdt@depth@100ms/btcusdt@depth5"


def new_venue(*faults: str, every: int = 3, futures: bool = False) -> BinanceVenue:
    make = new_futures_venue if futures else BinanceVenue
    return make([SYMBOL], 1, frozenset(faults), every)


def ticks(count: int) -> list[Any]:
    return Market([SYMBOL], rate=math.inf, seed=1).take(math.inf, count, "")


def told(venue: BinanceVenue, count: int, target: str) -> list[dict[str, Any]]:
    """Return the messages of so many steps to a client of *target*."""
    session = venue.new_session(target)
    found = []
    for number, tick in enumerate(ticks(count)):
        event = venue.take(tick, NOW + timedelta(milliseconds=number))
        found += session.offer(event)
    return [json.loads(message) for message in found]


# The words


def test_combined_frames_name_their_stream_and_raw_events_come_alone() -> None:
    combined = told(new_venue(), 1, f"/stream?streams={STREAMS}")
    assert [message["stream"] for message in combined] == STREAMS.split("/")
    raw = told(new_venue(), 1, f"/ws/{STREAMS}")
    assert raw == [message["data"] for message in combined]
    assert told(new_venue(), 1, "/ws/btcusdt@trade")[0]["e"] == "trade"


def test_spot_quotes_have_no_kind_and_no_time_and_those_of_futures_have_both() -> None:
    (spot,) = told(new_venue(), 1, "/ws/btcusdt@bookTicker")
    (futures,) = told(new_venue(futures=True), 1, "/ws/btcusdt@bookTicker")
    assert spot.keys() == {"u", "s", "b", "B", "a", "A"}
    assert futures.keys() == spot.keys() | {"e", "E", "T"}
    assert len(spot["b"].partition(".")[2]) == len(spot["B"].partition(".")[2]) == 8


def test_numbers_of_changes_follow_each_other() -> None:
    events = told(new_venue(), 50, "/ws/btcusdt@depth")
    for before, after in pairwise(events):
        assert after["U"] == before["u"] + 1
        assert after["u"] >= after["U"]
    futures = told(new_venue(futures=True), 50, "/ws/btcusdt@depth")
    for before, after in pairwise(futures):
        assert after["pu"] == before["u"]
        assert after["U"] > before["u"] + 1


@pytest.mark.parametrize("futures", [False, True])
def test_a_client_that_applies_the_changes_sees_the_whole_book(futures: bool) -> None:
    venue = new_venue(futures=futures)
    session = venue.new_session("/ws/btcusdt@depth")
    path = "/fapi/v1/depth" if futures else "/api/v3/depth"
    first, *rest = ticks(400)
    session.offer(venue.take(first, NOW))

    def whole() -> tuple[int, dict[str, str], dict[str, str]]:
        answer = venue.answer(path, {"symbol": SYMBOL, "limit": "5000"}, NOW)
        assert answer is not None
        fields = json.loads(answer.body)
        return fields["lastUpdateId"], dict(fields["bids"]), dict(fields["asks"])

    number, bids, asks = whole()
    for count, tick in enumerate(rest):
        (event,) = map(json.loads, session.offer(venue.take(tick, NOW)))
        number = event["u"]
        for side, changes in ((bids, event["b"]), (asks, event["a"])):
            for price, quantity in changes:
                side[price] = quantity
                if not float(quantity):
                    del side[price]
        if count % 40 == 0:
            assert (number, bids, asks) == whole()


def test_a_candle_is_closed_once_and_only_when_it_has_ended() -> None:
    venue = new_venue()
    session = venue.new_session("/ws/btcusdt@kline_1s")
    found = []
    for number, tick in enumerate(ticks(9)):
        event = venue.take(tick, NOW + timedelta(milliseconds=400 * number))
        found += [json.loads(message)["k"] for message in session.offer(event)]
    closed = [candle for candle in found if candle["x"]]
    assert [candle["t"] % 1000 for candle in found] == [0] * len(found)
    assert {after["t"] - before["t"] for before, after in pairwise(closed)} == {1000}
    assert len(closed) == 3
    assert all(candle["T"] - candle["t"] == 999 for candle in found)


@pytest.mark.parametrize("interval", INTERVALS)
def test_intervals_begin_and_end_where_the_calendar_says(interval: str) -> None:
    begin = begin_of(interval, NOW)
    end = end_of(interval, begin)
    assert begin <= NOW < end
    if interval == "1w":
        assert begin == datetime(2026, 3, 2, tzinfo=UTC)
    elif interval == "1M":
        assert (begin.day, end) == (1, datetime(2026, 4, 1, tzinfo=UTC))
    else:
        assert (end - begin).total_seconds() == INTERVALS[interval]


def test_every_fault_is_known_to_the_registry() -> None:
    for venue in ("binance", "binance-usdm", "binance-usdm-market"):
        assert FAULTS.keys() <= SPOKEN[venue].faults.keys()


# Requests


def ask(method: str, *params: str, number: Any = 7) -> str:
    return json.dumps({"method": method, "params": params, "id": number})


def test_requests_and_their_answers() -> None:
    session = new_venue().new_session("/stream")
    talk = [
        (ask("SUBSCRIBE", "btcusdt@trade", "nothing@trade"), {"result": None, "id": 7}),
        (
            ask("LIST_SUBSCRIPTIONS", number="a"),
            {"result": ["btcusdt@trade", "nothing@trade"], "id": "a"},
        ),
        (ask("UNSUBSCRIBE", "nothing@trade"), {"result": None, "id": 7}),
        ('{"method":"SET_PROPERTY","params":["combined",false],"id":8}', {"result": None, "id": 8}),
    ]
    for number, (request, answer) in enumerate(talk):
        (found,) = session.receive(request, NOW, float(number))
        assert json.loads(found) == answer
    assert session.symbols == {SYMBOL}
    assert session.refusals == 0


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ("junk", 3),
        ("[]", 3),
        ("{}", 2),
        (ask("JUMP"), 2),
        ('{"method":"SUBSCRIBE","params":"x","id":1}', 2),
        ('{"method":"SUBSCRIBE","params":[1],"id":1}', 2),
        (ask("SUBSCRIBE", *(f"s{n}@trade" for n in range(1025))), 2),
    ],
)
def test_refusals(request_: str, code: int) -> None:
    session = new_venue().new_session("/stream")
    (found,) = session.receive(request_, NOW, 0.0)
    assert json.loads(found)["error"]["code"] == code
    assert session.refusals == 1
    assert session.symbols == frozenset()


def test_more_than_five_messages_in_a_second_end_the_connection() -> None:
    session = new_venue().new_session("/stream")
    for number in range(6):
        session.receive(ask("LIST_SUBSCRIPTIONS"), NOW, 0.25 * number)
    for number in range(4):
        session.receive(ask("LIST_SUBSCRIPTIONS"), NOW, 2.0 + number / 10)
    with pytest.raises(Ended):
        session.receive(ask("LIST_SUBSCRIPTIONS"), NOW, 2.2), session.receive("", NOW, 2.3)


# Faults


def test_the_faults_of_a_book() -> None:
    for fault, count in (("missed-update", 6), ("repeated-update", 12), ("broken-update", 9)):
        events = told(new_venue(fault), 9, "/ws/btcusdt@depth")
        assert len(events) == count
    assert sum(event["b"] == [["x", "1"]] for event in events) == 3


def test_a_shutdown_is_announced_and_comes_three_seconds_later() -> None:
    venue = new_venue("server-shutdown", every=2)
    session = venue.new_session("/stream?streams=btcusdt@trade")
    first, second, third, fourth = ticks(4)
    assert len(session.offer(venue.take(first, NOW))) == 1
    found = [json.loads(each) for each in session.offer(venue.take(second, NOW))]
    assert found[1]["data"]["e"] == "serverShutdown"
    assert len(session.offer(venue.take(third, NOW + timedelta(seconds=2)))) == 1
    with pytest.raises(Ended):
        session.offer(venue.take(fourth, NOW + timedelta(seconds=3)))


def test_other_faults() -> None:
    session = new_venue("data-before-ack").new_session("/stream")
    assert session.receive(ask("SUBSCRIBE", "btcusdt@trade"), NOW, 0.0) == []
    venue = new_venue("data-before-ack")
    session = venue.new_session("/stream")
    session.receive(ask("SUBSCRIBE", "btcusdt@trade"), NOW, 0.0)
    found = [json.loads(each) for each in session.offer(venue.take(ticks(1)[0], NOW))]
    assert [sorted(each) for each in found] == [["data", "stream"], ["id", "result"]]
    assert len(told(new_venue("silence"), 9, "/ws/btcusdt@trade")) == 2
    assert len(told(new_venue("unknown-message"), 9, "/ws/btcusdt@trade")) == 12
    (trade,) = told(new_venue("clock-ahead"), 1, "/ws/btcusdt@trade")
    assert trade["T"] == round(NOW.timestamp() * 1000) + 1270
    with pytest.raises(Ended):
        told(new_venue("cut"), 9, "/ws/btcusdt@trade")


# On sockets


@asynccontextmanager
async def exchange_of(*faults: str, **settings: Any) -> AsyncIterator[Exchange]:
    options: dict[str, Any] = {"venue": "binance", "symbols": [SYMBOL], "rate": 200, **settings}
    async with open_exchange(faults=faults, **options) as exchange:
        with trio.fail_after(PATIENCE):
            yield exchange


def rest(exchange: Exchange) -> RestClient:
    return RestClient(f"http://127.0.0.1:{exchange.port}", tries=1)


async def test_streams_in_the_address_need_no_request() -> None:
    async with exchange_of() as exchange:
        assert exchange.url.endswith("/stream")
        async with websocket(exchange, path="/stream?streams=btcusdt@trade") as ws:
            assert json.loads(await ws.get_message())["stream"] == "btcusdt@trade"
        async with websocket(exchange, path="/ws/btcusdt@trade") as ws:
            assert json.loads(await ws.get_message())["e"] == "trade"


async def test_snapshots_over_rest_on_the_same_port() -> None:
    async with exchange_of() as exchange, rest(exchange) as client:
        async with websocket(exchange, path="/stream?streams=btcusdt@depth") as ws:
            await ws.get_message()
            await until(lambda: exchange.messages_sent > 30)
            exchange.pause()
            wanted: dict[str, str | int | float | None] = {"symbol": SYMBOL, "limit": 20}
            found = [await client.get("/api/v3/depth", wanted) for _ in range(3)]
            assert found[0] == found[1] == found[2]
            assert found[0]["lastUpdateId"] > 1000
            assert len(found[0]["bids"]) == len(found[0]["asks"]) == 20
        assert exchange.errors == 0
        assert exchange.connections == 1


@pytest.mark.parametrize(
    ("path", "parameters", "status"),
    [
        ("/api/v3/depth", {"symbol": "XXX"}, 400),
        ("/api/v3/depth", {}, 400),
        ("/api/v3/depth", {"symbol": SYMBOL, "limit": 5001}, 400),
        ("/api/v3/depth", {"symbol": SYMBOL, "limit": "x"}, 400),
        ("/fapi/v1/depth", {"symbol": SYMBOL}, 404),
        ("/", {}, 404),
    ],
)
async def test_refusals_over_rest(path: str, parameters: Any, status: int) -> None:
    async with exchange_of() as exchange, rest(exchange) as client:
        with pytest.raises(tt.RestError) as caught:
            await client.get(path, parameters)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /api/v3/depth HTTP/1.1\r\n\r\n",
        b"POST /api/v3/depth HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET " + b"x" * 200_000,
        b"\x00" * 100,
        b"",
    ],
)
async def test_a_request_that_makes_no_sense_ends_its_own_connection(request_: bytes) -> None:
    async with exchange_of() as exchange:
        stream = await trio.open_tcp_stream("127.0.0.1", exchange.port)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(request_)
            await stream.send_eof()
            while await stream.receive_some(4096):
                pass
        await trio.aclose_forcefully(stream)
        async with websocket(exchange, path="/ws/btcusdt@trade") as ws:
            await ws.get_message()
        assert exchange.errors == 0


async def test_a_connection_is_closed_when_it_is_too_old() -> None:
    async with exchange_of(max_age=0.2) as exchange:
        async with websocket(exchange, path="/ws/btcusdt@trade") as ws:
            with suppress(ConnectionClosed):
                while True:
                    await ws.get_message()
            assert ws.closed is not None
            assert ws.closed.code == 1000
        await until(lambda: exchange.disconnects["max_age"] == 1)


async def test_a_client_that_asks_too_often_is_thrown_out() -> None:
    async with exchange_of() as exchange, websocket(exchange, path="/ws") as ws:
        with suppress(ConnectionClosed):
            while True:
                await ws.send_message(ask("LIST_SUBSCRIPTIONS"))
                await ws.get_message()
        await until(lambda: exchange.disconnects["message_rate"] == 1)


async def test_a_feed_with_many_symbols_keeps_the_limits_of_the_venue() -> None:
    symbols = [f"S{number}USDT" for number in range(600)]
    async with exchange_of(symbols=symbols, rate=500) as exchange:
        feed = tt.WebSocketFeed(
            exchange.url, symbols, venue="binance", channels=("bookTicker", "trade")
        )
        seen: set[str] = set()

        async def handle(item: Any) -> None:
            seen.add(item.symbol)

        async with tt.open_pipeline(feed, handle):
            # 1,200 streams need two connections, and each of them several requests.
            await until(lambda: exchange.clients == 2 and len(seen) > 50)
        assert exchange.bad_requests == 0
        assert not exchange.disconnects["message_rate"]
