"""The Binance codec: quotes, trades, and what it makes of everything else."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.worlds.recordings import REAL, combined, needs_real
from trio_ticks.feeds.venues.binance import BinanceCodec
from trio_ticks.testing import CodecProbe, check_codec
from trio_ticks.ticks import Tick, Trade

ARRIVED = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
TRADED = datetime(2024, 8, 8, 23, 54, 15, 342000, UTC)
BOOK: dict[str, Any] = {
    "u": 50093239212,
    "s": "BTCUSDT",
    "b": "61837.63000000",
    "B": "3.78826000",
    "a": "61837.64000000",
    "A": "1.54698000",
}
TRADE: dict[str, Any] = {
    "e": "trade",
    "E": 1723161255343,
    "s": "BTCUSDT",
    "t": 3735683259,
    "p": "61837.63000000",
    "q": "0.02000000",
    "T": 1723161255342,
    "m": True,
    "M": True,
}
DEPTH: dict[str, Any] = {
    "e": "depthUpdate",
    "E": 1723161255208,
    "s": "BTCUSDT",
    "U": 50093239189,
    "u": 50093239202,
    "b": [["61737.63000000", "0.00000000"]],
    "a": [],
}
TICK = Tick("BTCUSDT", ARRIVED, 61837.63, 61837.64, 3.78826, 1.54698, math.nan)
BOTH = ("bookTicker", "trade")


def book(**changes: Any) -> bytes:
    return combined("btcusdt@bookTicker", **{**BOOK, **changes}).encode()


def trade(**changes: Any) -> bytes:
    return combined("btcusdt@trade", **{**TRADE, **changes}).encode()


def raw(fields: dict[str, Any], *, without: str = "", **changes: Any) -> bytes:
    return json.dumps({k: v for k, v in {**fields, **changes}.items() if k != without}).encode()


def decode(
    *payloads: bytes, channels: tuple[str, ...] = BOTH, symbols: tuple[str, ...] = ("BTCUSDT",)
) -> tuple[list[Any], CodecProbe]:
    """Decode *payloads* as one batch, after the subscription."""
    probe = CodecProbe(channels, ARRIVED)
    codec = BinanceCodec(probe)
    codec.subscribe(symbols)
    return codec.decode(payloads), probe


# Quotes


@pytest.mark.parametrize(
    "payload",
    [
        book(),
        raw(BOOK),
        b" \n" + raw(BOOK),
        combined("", **BOOK).encode(),
        raw(BOOK, e="bookTicker"),
        book(e="bookTicker"),
        book(b=61837.63, B=3.78826),
        book(unknown={"b": [1]}),
    ],
    ids=[
        "combined",
        "raw",
        "raw with a space",
        "combined without a name",
        "raw with its kind",
        "combined with its kind",
        "numbers",
        "unknown key",
    ],
)
def test_a_quote(payload: bytes) -> None:
    items, probe = decode(payload)
    assert items == [TICK]
    assert probe.outcomes == CodecProbe().outcomes


def test_a_quote_with_a_time_of_its_own() -> None:
    for payload in (book(T=1723161255342), raw(BOOK, T=1723161255342)):
        (item,) = decode(payload)[0]
        assert item.timestamp == TRADED


@pytest.mark.parametrize("size", ["0.00000000", "0"])
def test_a_side_may_be_empty(size: str) -> None:
    (item,) = decode(book(A=size, a="0.00000000"))[0]
    assert isinstance(item, Tick)
    assert (item.ask, item.ask_size) == (0.0, 0.0)


# Trades


@pytest.mark.parametrize("payload", [trade(), raw(TRADE)], ids=["combined", "raw"])
def test_a_trade(payload: bytes) -> None:
    items, probe = decode(payload)
    assert items == [Trade("BTCUSDT", TRADED, 61837.63, 0.02, "sell", "3735683259")]
    assert probe.outcomes == CodecProbe().outcomes


def test_the_buyers_side() -> None:
    (item,) = decode(trade(m=False))[0]
    assert isinstance(item, Trade)
    assert item.side == "buy"


def test_the_ids_of_orders_make_no_quote_of_a_trade() -> None:
    (item,) = decode(trade(b=88, a=50))[0]
    assert isinstance(item, Trade)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (1723161255342, TRADED),
        (1723161255342_000, TRADED),
        (1723161255342_617, TRADED.replace(microsecond=342617)),
    ],
    ids=["ms", "us", "odd us"],
)
def test_times_in_milliseconds_and_microseconds(time: int, expected: datetime) -> None:
    (item,) = decode(trade(T=time))[0]
    assert item.timestamp == expected
    assert item.timestamp.tzinfo is UTC


def test_quotes_carry_the_volume_of_the_trades_before() -> None:
    items, _ = decode(
        book(),
        trade(q="0.5"),
        book(),
        trade(q="0.25", t=3735683260),
        trade(q="nan"),
        trade(q="100", T=10**18),
        book(),
    )
    first, *volumes = [item.volume for item in items if isinstance(item, Tick)]
    assert math.isnan(first)
    assert volumes == [0.5, 0.75]


def test_a_channel_that_was_not_asked_for_makes_nothing() -> None:
    items, probe = decode(book(), trade(q="0.5"), raw(BOOK), channels=("trade",))
    assert [type(item) for item in items] == [Trade]
    assert probe.ignored_count == 2
    items, probe = decode(trade(q="0.5"), book(), channels=("bookTicker",))
    assert [getattr(item, "volume", None) for item in items] == [0.5]
    assert probe.ignored_count == 1


# Sequences


def test_a_hole_in_the_trades_is_a_gap() -> None:
    items, probe = decode(*(trade(t=n) for n in (7, 8, 8, 12, 13, 9)))
    assert len(items) == 6
    assert probe.events == [("gap", "BTCUSDT", 3)]


def test_each_symbol_has_its_own_sequence() -> None:
    payloads = [trade(t=n, s=s) for n, s in ((7, "BTCUSDT"), (90, "ETHUSDT"), (8, "BTCUSDT"))]
    _, probe = decode(*payloads, symbols=("BTCUSDT", "ETHUSDT"))
    assert probe.events == []


def test_no_gap_of_what_nobody_asked_for() -> None:
    _, probe = decode(trade(t=7), trade(t=9), symbols=("ETHUSDT",))
    assert probe.events == []


def test_symbols_of_one_letter_have_sequences_too() -> None:
    _, probe = decode(trade(s="A", t=7), trade(s="A", t=9), symbols=("A",))
    assert probe.events == [("gap", "A", 1)]


def test_a_subscription_begins_the_sequence_anew() -> None:
    probe = CodecProbe(BOTH)
    codec = BinanceCodec(probe)
    codec.subscribe(["BTCUSDT"])
    codec.decode([trade(t=7)])
    codec.unsubscribe(["BTCUSDT"])
    codec.subscribe(["BTCUSDT"])
    codec.decode([trade(t=70)])
    assert probe.events == []


# Spelling


@pytest.mark.parametrize("asked", ["btcusdt", "BTCUSDT", "BtcUsdt"])
def test_the_spelling_is_the_one_that_was_asked_in(asked: str) -> None:
    items, probe = decode(
        book(), trade(t=1), raw(BOOK), trade(t=3), book(b="nan"), symbols=(asked,)
    )
    assert [item.symbol for item in items] == [asked] * 4
    assert probe.events == [("gap", asked, 1)]
    assert [symbol for _, _, symbol in probe.malformed_messages] == [asked]


def test_symbols_that_were_not_asked_for_keep_the_venues_spelling() -> None:
    items, _ = decode(book(), trade(), symbols=("ethusdt",))
    assert [item.symbol for item in items] == ["BTCUSDT"] * 2


# Requests


def test_requests() -> None:
    codec = BinanceCodec(CodecProbe(("bookTicker",)))
    (subscribe,) = codec.subscribe(["BTCUSDT", "ethusdt"])
    assert isinstance(subscribe, str)
    assert json.loads(subscribe) == {
        "method": "SUBSCRIBE",
        "params": ["btcusdt@bookTicker", "ethusdt@bookTicker"],
        "id": 1,
    }
    (unsubscribe,) = codec.unsubscribe(["BTCUSDT"])
    assert json.loads(unsubscribe) == {
        "method": "UNSUBSCRIBE",
        "params": ["btcusdt@bookTicker"],
        "id": 2,
    }
    assert codec.subscribe([]) == []


def test_many_streams_need_several_requests() -> None:
    codec = BinanceCodec(CodecProbe(BOTH))
    requests = codec.subscribe([f"S{n}" for n in range(250)])
    parts = [json.loads(request)["params"] for request in requests]
    assert [len(part) for part in parts] == [200, 200, 100]
    streams = [stream for part in parts for stream in part]
    assert len(set(streams)) == 500
    assert streams[:2] == ["s0@bookTicker", "s0@trade"]


# Other messages


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (b'{"result":null,"id":1}', None),
        (b'{"result":null,"id":2}', ("answered", "unsubscribe", True)),
        (b'{"error":{"code":2,"msg":"no"},"id":2}', ("answered", "unsubscribe", False)),
        (b'{"error":{"code":2,"msg":"no"},"id":1}', ("refused", None, "no", False)),
        (b'{"code":2,"msg":"Invalid request","id":1}', ("refused", None, "Invalid request", False)),
        (b'{"code":0,"msg":"Unknown property"}', ("refused", None, "Unknown property", False)),
        (b'{"error":"bad","id":null}', ("refused", None, "bad", False)),
        (b'{"error":{"code":2},"id":1}', ("refused", None, "{'code': 2}", False)),
        (
            combined("", e="serverShutdown", E=1).encode(),
            ("replace", "the venue announces its shutdown"),
        ),
        (
            b'{"e":"serverShutdown","E":1770123456789}',
            ("replace", "the venue announces its shutdown"),
        ),
        (combined("btcusdt@depth@100ms", **DEPTH).encode(), None),
        (raw(DEPTH), None),
        (combined("btcusdt@ticker", **BOOK, e="24hrTicker", E=1).encode(), None),
        (raw(BOOK, e="24hrTicker", E=1), None),
        (raw({"e": "aggTrade", "s": "BTCUSDT", "p": "1", "q": "2", "T": 3}), None),
        (b"{}", None),
        (b'{"stream":"btcusdt@kline_1m","data":{}}', None),
    ],
)
def test_ignored(payload: bytes, event: tuple[Any, ...] | None) -> None:
    items, probe = decode(payload)
    assert items == []
    assert probe.malformed_messages == []
    assert probe.ignored_count == 1
    assert probe.events == ([] if event is None else [event])


BAD_PRICES: list[Any] = ["nan", "NaN", "inf", "-Infinity", "1e999", "", "x", None, [], True]
BAD_NUMBERS: list[Any] = ["nan", "inf", "-inf", "", "x", None, []]

MALFORMED = [
    *(
        pytest.param(book(**{key: text}), "BTCUSDT", id=f"quote, {key} {text!r}")
        for key in "bBaA"
        for text in BAD_PRICES
    ),
    *(
        pytest.param(trade(**{key: text}), "BTCUSDT", id=f"trade, {key} {text!r}")
        for key in "pqT"
        for text in BAD_NUMBERS
    ),
    *(pytest.param(book(**{key: "-1"}), "BTCUSDT", id=f"quote, {key} negative") for key in "BA"),
    pytest.param(trade(q="-1"), "BTCUSDT", id="trade, q negative"),
    *(
        pytest.param(raw(BOOK, without=key), "BTCUSDT", id=f"raw quote without {key}")
        for key in "bBaA"
    ),
    *(
        pytest.param(raw(TRADE, without=key), "BTCUSDT", id=f"raw trade without {key}")
        for key in "pqT"
    ),
    pytest.param(book(b=math.inf), None, id="a number that JSON does not have"),
    pytest.param(trade(T=0), "BTCUSDT", id="trade at 0"),
    pytest.param(trade(T=-5), "BTCUSDT", id="trade before 1970"),
    pytest.param(trade(T=2**62), "BTCUSDT", id="trade beyond the calendar"),
    pytest.param(trade(T=2**70), "BTCUSDT", id="trade far beyond the calendar"),
    pytest.param(book(T=2**62), "BTCUSDT", id="quote beyond the calendar"),
    pytest.param(book(s=""), None, id="quote without a symbol"),
    pytest.param(trade(s=""), None, id="trade without a symbol"),
    pytest.param(book(s=7), None, id="quote, symbol a number"),
    pytest.param(trade(s=None), None, id="trade, symbol null"),
    pytest.param(combined("btcusdt@bookTicker").encode(), None, id="empty quote"),
    pytest.param(combined("btcusdt@trade").encode(), None, id="empty trade"),
    pytest.param(b'{"stream":"btcusdt@trade","data":[]}', None, id="trade, a list"),
    pytest.param(b'{"stream":7,"data":{}}', None, id="stream a number"),
    pytest.param(b'{"stream":"btcusdt@bookTicker"}', None, id="no data"),
    pytest.param(book()[:-1], None, id="cut off"),
    pytest.param(book() + book(), None, id="two in one"),
    pytest.param(book().replace(b"BTC", b"\xff\xfe\xff"), None, id="invalid UTF-8"),
    pytest.param(b"", None, id="empty"),
    pytest.param(b"null", None, id="null"),
    pytest.param(b"[" * 100_000, None, id="deep nesting"),
    pytest.param(b'{"data":' * 100_000, None, id="deep nesting of objects"),
]


@pytest.mark.parametrize(("payload", "symbol"), MALFORMED)
def test_malformed(payload: bytes, symbol: str | None) -> None:
    items, probe = decode(book(), payload, book())
    assert items == [TICK, TICK]
    assert probe.ignored_count == 0
    assert probe.events == []
    ((told, reason, about),) = probe.malformed_messages
    assert (told, about) == (payload, symbol)
    assert reason


def test_check_codec_finds_no_fault() -> None:
    messages: list[bytes | str] = [
        book(),
        trade(t=1),
        raw(BOOK, s="ETHUSDT"),
        trade(t=3),
        raw(TRADE, t=4, T=1723161255342617),
        combined("btcusdt@depth", **DEPTH),
        b'{"result":null,"id":1}',
        b'{"error":{"code":2,"msg":"no"},"id":1}',
        b'{"e":"serverShutdown","E":1770123456789}',
        book(b="nan"),
        book(),
    ]
    for channels in (None, "all", "trade"):
        check_codec("binance", messages, ["btcusdt", "ETHUSDT"], channels=channels)


def real_messages() -> list[bytes]:
    with gzip.open(REAL) as lines:
        messages = [line.split(b" ", 1)[1].strip() for line in lines]
    return [message for message in messages if message.startswith(b'{"stream"')]


@needs_real
def test_the_real_recording() -> None:
    messages = real_messages()
    probe = CodecProbe(BOTH)
    codec = BinanceCodec(probe)
    codec.subscribe(["btcusdt"])
    items: list[Any] = []
    for first in range(0, len(messages), 50):
        items += codec.decode(messages[first : first + 50])
    assert Counter(map(type, items)) == {Tick: 28_040, Trade: 9_757}
    assert {item.symbol for item in items} == {"btcusdt"}
    assert probe.malformed_messages == []
    assert probe.events == []
    assert probe.ignored_count == len(messages) - len(items)
    assert all(item.ask > item.bid > 0 for item in items if isinstance(item, Tick))


@needs_real
def test_check_codec_finds_no_fault_with_real_messages() -> None:
    check_codec("binance", real_messages()[:2000], ["BTCUSDT"], channels="all")
