"""The synthetic market and the wire format.

The market is deterministic and has the statistics it claims; the frames are valid.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UnsetType
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage

from trio_ticks.exchange.market import Arrivals, Market, zipf_weights
from trio_ticks.exchange.wire import (
    FlatTick,
    answer,
    binary_frame,
    encode_frames,
    iso_utc,
    text_frame,
)

STAMP = "2026-03-02T14:30:00.123456Z"
SYMBOLS = ("SPY", "QQQ", "AAPL", "MSFT")


def counts(rate: float, burst: float, window_s: float, windows: int) -> list[int]:
    arrivals = Arrivals(rate, burst, 0.1, random.Random("counts"))
    return [arrivals.take((i + 1) * window_s, 10**9) for i in range(windows)]


@pytest.mark.parametrize("burst", [0.0, 0.3, 0.6, 0.8])
def test_the_mean_rate_is_the_rate_whatever_the_burst(burst: float) -> None:
    rate, seconds = 500.0, 400
    total = sum(counts(rate, burst, 1.0, seconds))
    deviation = math.sqrt(rate * seconds) / (1 - burst)
    assert abs(total - rate * seconds) < 4 * deviation


def test_without_burst_the_counts_are_poissons() -> None:
    seen = counts(200.0, 0.0, 1.0, 1000)
    ratio = statistics.variance(seen) / statistics.mean(seen)
    assert 0.8 < ratio < 1.2  # its standard deviation is sqrt(2 / 1000) = 0.045


@pytest.mark.parametrize(("burst", "least", "most"), [(0.5, 3.2, 4.4), (0.8, 17.0, 28.0)])
def test_bursts_make_the_counts_overdispersed_as_theory_says(
    burst: float, least: float, most: float
) -> None:
    # Windows of 4 s, and a memory of 0.1 s: nearly the limit 1 / (1 - burst)**2, here 4
    # and 25.
    seen = counts(200.0, burst, 4.0, 1000)
    ratio = statistics.variance(seen) / statistics.mean(seen)
    assert least < ratio < most


def test_arrivals_do_not_depend_on_how_they_are_asked_for() -> None:
    one = Arrivals(1000.0, 0.7, 0.1, random.Random(1))
    other = Arrivals(1000.0, 0.7, 0.1, random.Random(1))
    total = one.take(2.0, 10**9)
    taken = 0
    for i in range(2000):
        while got := other.take((i + 1) / 1000, 3):
            taken += got
    assert taken == total
    assert other.next_at == one.next_at


def test_a_seed_makes_the_same_ticks_however_they_are_batched() -> None:
    whole = Market(SYMBOLS, rate=1000, burst=0.5, seed=7).take(1.0, 10**6, STAMP)
    market = Market(SYMBOLS, rate=1000, burst=0.5, seed=7)
    pieces: list[FlatTick] = []
    for i in range(200):
        while got := market.take((i + 1) / 200, 2, STAMP):
            pieces += got
    assert pieces == whole
    assert len(whole) > 500
    assert whole != Market(SYMBOLS, rate=1000, burst=0.5, seed=8).take(1.0, 10**6, STAMP)


def test_quotes_are_sound() -> None:
    last: dict[str, float] = {}
    spreads: set[int] = set()
    prices: set[float] = set()
    for tick in Market(SYMBOLS, rate=math.inf, seed=3).take(0.0, 50_000, STAMP):
        steps = round((tick.ask - tick.bid) * 100)
        spreads.add(steps)
        prices.add(tick.bid)
        assert 1 <= steps <= 20
        assert tick.bid > 0
        assert round(tick.bid, 2) == tick.bid
        assert round(tick.ask, 2) == tick.ask
        assert not isinstance(tick.bid_size, UnsetType)
        assert not isinstance(tick.ask_size, UnsetType)
        assert not isinstance(tick.volume, UnsetType)
        assert tick.bid_size > 0
        assert tick.ask_size > 0
        assert tick.volume > last.get(tick.symbol, 0.0)
        last[tick.symbol] = tick.volume
    assert set(last) == set(SYMBOLS)
    assert len(spreads) > 5
    assert len(prices) > 100


def test_a_price_at_the_bottom_stays_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    # With a price step of 100 all prices begin one or two steps above zero.
    monkeypatch.setattr("trio_ticks.exchange.market.PRICE_GRID", 0.01)
    ticks = Market(["PENNY"], rate=math.inf, seed=1).take(0.0, 20_000, STAMP)
    assert min(tick.bid for tick in ticks) == 100


def test_hot_symbols_tick_more_often() -> None:
    ticks = Market(SYMBOLS, rate=math.inf, seed=1, skew=1.0).take(0.0, 50_000, STAMP)
    for symbol, share in zip(SYMBOLS, zipf_weights(4, 1.0), strict=True):
        assert sum(tick.symbol == symbol for tick in ticks) / 50_000 == pytest.approx(
            share, abs=0.01
        )
    assert zipf_weights(4, 1.0)[0] == pytest.approx(2 * zipf_weights(4, 1.0)[1])
    assert zipf_weights(4, 0.0) == [0.25] * 4


def events(data: bytes) -> list[Any]:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(data)
    return list(client.events())


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 1023, 1024, 65535, 65536, 70000])
def test_frames_are_what_a_websocket_client_reads(size: int) -> None:
    (text,) = events(text_frame(b"x" * size))
    assert isinstance(text, TextMessage)
    assert text.data == "x" * size
    assert text.message_finished
    (binary,) = events(binary_frame(b"\xff" * size))
    assert isinstance(binary, BytesMessage)
    assert bytes(binary.data) == b"\xff" * size


@pytest.mark.parametrize("symbol", ["A", "BRK.B", 'quo"te', "Ω", "x" * 2000])
def test_ticks_become_frames_in_order(symbol: str) -> None:
    ticks = [FlatTick(symbol, STAMP, 1.25, 1.5, 100, 200.5, n) for n in range(3)]
    messages = events(b"".join(encode_frames(ticks)))
    assert [json.loads(message.data) for message in messages] == [
        {
            "symbol": symbol,
            "timestamp": STAMP,
            "bid": 1.25,
            "ask": 1.5,
            "bid_size": 100,
            "ask_size": 200.5,
            "volume": n,
        }
        for n in range(3)
    ]


def test_the_stamp_is_utc_with_microseconds_and_a_z() -> None:
    assert iso_utc(datetime(2026, 3, 2, 14, 30, tzinfo=UTC)) == "2026-03-02T14:30:00.000000Z"


LISTED = frozenset(SYMBOLS)


def ask(
    message: object, subscription: frozenset[str] = frozenset()
) -> tuple[Any, frozenset[str], bool]:
    reply = answer(json.dumps(message), listed=LISTED, subscription=subscription)
    return json.loads(reply.payload), reply.subscription, reply.bad


def test_subscribe_and_unsubscribe_are_acknowledged_with_their_id() -> None:
    reply, subscription, bad = ask(
        {"method": "subscribe", "params": {"symbols": ["SPY", "QQQ", "SPY"]}, "id": 1}
    )
    assert reply == {"id": 1, "result": {"method": "subscribe", "symbols": ["SPY", "QQQ"]}}
    assert subscription == {"SPY", "QQQ"}
    assert not bad
    reply, subscription, bad = ask(
        {"method": "unsubscribe", "params": {"symbols": ["SPY"]}, "id": "two"}, subscription
    )
    assert reply == {"id": "two", "result": {"method": "unsubscribe", "symbols": ["SPY"]}}
    assert subscription == {"QQQ"}
    assert not bad


def test_unlisted_symbols_are_refused_and_the_others_taken() -> None:
    reply, subscription, bad = ask(
        {"method": "subscribe", "params": {"symbols": ["NOPE", "SPY"]}, "id": 3}, frozenset({"QQQ"})
    )
    assert reply["result"]["symbols"] == ["SPY"]
    assert reply["error"]["code"] == "UNKNOWN_SYMBOL"
    assert reply["error"]["symbols"] == ["NOPE"]
    assert subscription == {"SPY", "QQQ"}
    assert bad


def test_an_answer_does_not_echo_much() -> None:
    reply = answer(
        json.dumps(
            {
                "method": "subscribe",
                "params": {"symbols": [f"{n}" * 1000 for n in range(50)]},
                "id": 3,
            }
        ),
        listed=LISTED,
        subscription=frozenset(),
    )
    assert len(reply.payload) < 2000


@pytest.mark.parametrize(
    ("message", "code", "number"),
    [
        ("{", "BAD_REQUEST", None),
        ("[]", "BAD_REQUEST", None),
        ('{"method": "subscribe", "id": 4}', "BAD_REQUEST", None),
        ('{"method": "subscribe", "params": {"symbols": "SPY"}, "id": 4}', "BAD_REQUEST", None),
        ("[" * 60_000, "BAD_REQUEST", None),
        (b"\x00", "BAD_REQUEST", None),
        ('{"method": "trade", "params": {"symbols": []}, "id": 5}', "UNKNOWN_METHOD", 5),
    ],
)
def test_what_is_no_request_gets_an_error(
    message: str | bytes, code: str, number: int | None
) -> None:
    reply = answer(message, listed=LISTED, subscription=frozenset({"SPY"}))
    answered = json.loads(reply.payload)
    assert answered["error"]["code"] == code
    assert answered["id"] == number
    assert reply.subscription == {"SPY"}
    assert reply.bad


JSON = st.recursive(
    st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.text() | st.binary() | JSON.map(json.dumps))
def test_anything_gets_an_answer(message: str | bytes) -> None:
    reply = answer(message, listed=LISTED, subscription=frozenset())
    assert reply.bad
    assert "error" in json.loads(reply.payload)
