"""The TickDB codec: every message kind of its documentation, in both versions."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ticks import ConfigError, ReplayFeed, WebSocketFeed
from trio_ticks.feeds.captures import CaptureReader, recognise
from trio_ticks.feeds.venues import find_language
from trio_ticks.feeds.venues.tickdb import (
    TickDBCodec,
    TickDBFlatCodec,
    TickDBMarketCodec,
    TickDBOldCodec,
)
from trio_ticks.testing import CodecProbe, check_codec
from trio_ticks.ticks import BookUpdate, Tick, Trade, is_quantity

NAN = math.nan
SYMBOLS = ["SPX", "EURUSD", "NVDA.US", "600519.SH", "BTCUSDT", "BU2609", "700.HK", "AAPL.US"]
ALL = ("quote", "ticker", "depth", "trade")


def at(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)


# The venue's own samples, with what they become where all channels are chosen.

SPX = (
    '{"cmd":"ticker","data":{"symbol":"SPX","type":"indices","last_price":"7342.86",'
    '"timestamp":1779204386000}}'
)
EURUSD = (
    '{"cmd":"ticker","data":{"symbol":"EURUSD","type":"forex","last_price":"1.15200",'
    '"ask_price":"1.15202","bid_price":"1.15199","spread":"0.00003","timestamp":1773334426000}}'
)
NVDA = (
    '{"cmd":"ticker","data":{"symbol":"NVDA.US","type":"stock","last_price":"221.25",'
    '"volume_24h":"462724","high_24h":"223.44","low_24h":"220.04","trade_session":"overnight",'
    '"timestamp":1779171600000}}'
)
BU = (
    '{"cmd":"ticker","data":{"symbol":"BU2609","type":"futures","last_price":"4309",'
    '"bid_price":"4308","ask_price":"4310","volume_24h":"37263","high_24h":"4336",'
    '"low_24h":"4278","timestamp":1784012398000}}'
)
DEPTH = (
    '{"cmd":"depth","data":{"symbol":"BTCUSDT","bids":[["43250.50","0.125"],["43250.00","0.250"]],'
    '"asks":[["43251.00","0.180"],["43251.50","0.320"]],"timestamp":1703123456789}}'
)
ARRAY_TRADE = (
    '{"cmd":"trade","data":{"symbol":"700.HK","type":"stock","trades":[{"id":"20950",'
    '"price":"553.000","quantity":"100","side":"buy","timestamp":1773371154000}]}}'
)
FLAT_TRADE = (
    '{"cmd":"trade","data":{"symbol":"600519.SH","type":"stock","price":"1252.48","quantity":"7",'
    '"side":"sell","timestamp":1789958062000}}'
)
FUTURES_TRADE = (
    '{"cmd":"trade","data":{"symbol":"BU2609","type":"futures","price":"4309","quantity":"1",'
    '"side":"sell","timestamp":1784012398000,"open_interest_change":0,'
    '"position_effect":"short_transfer"}}'
)
PUSHES: list[tuple[str, list[Any]]] = [
    (SPX, [Trade("SPX", at(1779204386000), 7342.86, NAN)]),
    (EURUSD, [Tick("EURUSD", at(1773334426000), 1.15199, 1.15202, NAN, NAN, NAN)]),
    (NVDA, [Trade("NVDA.US", at(1779171600000), 221.25, NAN)]),
    (BU, [Tick("BU2609", at(1784012398000), 4308, 4310, NAN, NAN, 37263)]),
    (
        DEPTH,
        [
            BookUpdate(
                "BTCUSDT",
                at(1703123456789),
                ((43250.5, 0.125), (43250.0, 0.25)),
                ((43251.0, 0.18), (43251.5, 0.32)),
                snapshot=True,
            ),
            Tick("BTCUSDT", at(1703123456789), 43250.5, 43251.0, 0.125, 0.18, NAN),
        ],
    ),
    (ARRAY_TRADE, [Trade("700.HK", at(1773371154000), 553.0, 100.0, "buy", "20950")]),
    (FLAT_TRADE, [Trade("600519.SH", at(1789958062000), 1252.48, 7.0, "sell")]),
    (FUTURES_TRADE, [Trade("BU2609", at(1784012398000), 4309.0, 1.0, "sell")]),
]
ACK = (
    '{"cmd":"subscribe","code":0,"message":"success","data":{"channel":"ticker",'
    '"symbols":["AAPL.US"]}}'
)
UNIVERSE_ACK = (
    '{"cmd":"subscribe","code":0,"message":"universe subscription successful",'
    '"data":{"universes":["US_Stock"],"channels":["ticker"]}}'
)
PARTIAL = (
    '{"cmd":"subscribe","code":5004,"message":"realtime data temporarily unavailable",'
    '"data":{"channel":"depth","symbols":["700.HK"],"failed_symbols":["AAPL.US","BTCUSDT"],'
    '"retryable_symbols":["AAPL.US"],"retryable":true}}'
)
PONG = '{"cmd":"pong","code":0,"message":"pong","data":{"timestamp":1768976158541}}'
ERROR = '{"cmd":"error","code":2001,"message":"Invalid message format","data":null}'
CONTROL = [
    ACK,
    UNIVERSE_ACK,
    PARTIAL,
    PONG,
    ERROR,
    '{"data":{"timestamp":1768976158541}}',
    '{"code":0,"message":"connected","data":null}',
    '{"cmd":"notice","data":{"x":1}}',
    '{"cmd":"unsubscribe","code":"0","message":"success","data":{"channel":"ticker"}}',
]


def new_codec(
    channels: tuple[str, ...] = ALL, symbols: list[str] | None = None
) -> tuple[TickDBCodec, CodecProbe]:
    probe = CodecProbe(channels)
    codec = TickDBCodec(probe)
    codec.subscribe(SYMBOLS if symbols is None else symbols)
    return codec, probe


def push(cmd: str, **fields: Any) -> bytes:
    data = {"symbol": "EURUSD", "timestamp": 1773334426000, **fields}
    return json.dumps({"cmd": cmd, "data": data}).encode()


def quote(**fields: Any) -> bytes:
    return push("ticker", **{"last_price": "1", "bid_price": "1.5", "ask_price": "1.75", **fields})


def level_push(**fields: Any) -> bytes:
    sides = {"bids": [["1.5", "3"]], "asks": [["1.75", "4"]]}
    return push("depth", **{"symbol": "BTCUSDT", **sides, **fields})


# Pushes


@pytest.mark.parametrize(("message", "expected"), PUSHES)
def test_each_push_of_the_documentation(message: str, expected: list[Any]) -> None:
    codec, probe = new_codec()
    assert codec.decode([message.encode()]) == expected
    assert probe.outcomes == CodecProbe().outcomes


@pytest.mark.parametrize("channels", [None, "all", "ticker", "depth", "trade"])
@pytest.mark.parametrize("venue", ["tickdb", "tickdb-old"])
def test_the_codec_keeps_the_rules(venue: str, channels: str | None) -> None:
    array = f"[{EURUSD},{BU},{NVDA}]"
    messages = [*(message for message, _ in PUSHES), *CONTROL, array]
    check_codec(venue, messages, SYMBOLS, channels=channels)


def test_the_other_variants_keep_them_too() -> None:
    check_codec("tickdb-market", [f"[{NVDA},{EURUSD}]", UNIVERSE_ACK, PONG], ["US_Stock"])
    flat = (
        '{"symbol":"SPY","timestamp":"2026-03-02T14:30:00.123Z","bid":572.31,"ask":"572.32",'
        '"bid_size":400,"volume":1201345}'
    )
    check_codec("tickdb-flat", [flat, '{"id":1,"result":{}}'], ["SPY"])


@pytest.mark.parametrize(
    ("channels", "kinds"),
    [
        (("quote",), [Tick, Tick, Tick]),
        (("ticker",), [Trade, Tick, Trade, Tick]),
        (("depth",), [BookUpdate]),
        (("trade",), [Trade, Trade, Trade]),
    ],
)
def test_a_channel_brings_its_kind_only(channels: tuple[str, ...], kinds: list[type]) -> None:
    codec, probe = new_codec(channels)
    items = codec.decode([message.encode() for message, _ in PUSHES])
    assert [type(item) for item in items] == kinds
    assert probe.ignored_count == len(PUSHES) - len(items)


def test_the_default_channel_asks_for_depth_and_of_forex_and_metals_for_the_ticker() -> None:
    codec = TickDBCodec(CodecProbe(find_language("tickdb").channels))
    requests = codec.subscribe(["EURUSD", "AAPL.US", "XAUUSD", "ETHBTC", "BU2609"])
    assert [json.loads(request) for request in requests] == [
        {"cmd": "subscribe", "data": {"channel": "ticker", "symbols": ["EURUSD", "XAUUSD"]}},
        {
            "cmd": "subscribe",
            "data": {"channel": "depth", "symbols": ["AAPL.US", "ETHBTC", "BU2609"]},
        },
    ]
    (request,) = codec.unsubscribe(["XAUUSD"])
    assert json.loads(request) == {
        "cmd": "unsubscribe",
        "data": {"channel": "ticker", "symbols": ["XAUUSD"]},
    }


def test_many_symbols_go_in_several_requests() -> None:
    codec = TickDBCodec(CodecProbe(("trade",)))
    symbols = [f"S{n}.US" for n in range(120)]
    requests = [json.loads(request)["data"]["symbols"] for request in codec.subscribe(symbols)]
    assert [len(part) for part in requests] == [50, 50, 20]
    assert [symbol for part in requests for symbol in part] == symbols


def test_a_quote_of_zero_or_null_is_absent() -> None:
    old_index = quote(symbol="SPX", ask_price="0.00", bid_price="0.00", type="index")
    for payload in (old_index, quote(symbol="SPX", bid_price=None, ask_price=None)):
        codec, probe = new_codec(("ticker",))
        assert codec.decode([payload]) == [Trade("SPX", at(1773334426000), 1.0, NAN)]
        assert probe.events == []


@pytest.mark.parametrize(
    "withdrawn", [{"bid_price": None}, {"bid_price": "0"}, {"ask_price": "0.00"}]
)
def test_a_withdrawn_ticker_quote_is_told_once_as_a_gap(withdrawn: dict[str, Any]) -> None:
    codec, probe = new_codec(("quote",))
    gone = quote(**withdrawn)
    assert codec.decode([gone]) == []
    assert probe.events == []  # There was no quote before.
    assert len(codec.decode([quote(), gone, gone, quote()])) == 2
    assert probe.events == [("gap", "EURUSD", 0)]
    assert probe.malformed_messages == []


@pytest.mark.parametrize(
    "side", [{"bids": []}, {"asks": []}, {"bids": None}, {"asks": [["0", "0"]]}]
)
def test_depth_with_one_side_withdraws_the_quote_and_is_still_a_book(side: Any) -> None:
    codec, probe = new_codec(("quote", "depth"))
    items = codec.decode([level_push(), level_push(**side), level_push(**side)])
    assert [type(item) for item in items] == [BookUpdate, Tick, BookUpdate, BookUpdate]
    assert probe.events == [("gap", "BTCUSDT", 0)]


def test_a_ticker_without_a_quote_takes_nothing_from_depth() -> None:
    codec, probe = new_codec(("quote", "ticker"))
    codec.decode([level_push(), push("ticker", symbol="BTCUSDT", last_price="1")])
    assert probe.events == []


@given(
    st.decimals(min_value=Decimal("-1e6"), max_value=Decimal("1e6"), places=8).filter(bool),
    st.decimals(min_value=Decimal("1e-8"), max_value=Decimal("1e9"), places=8),
    st.decimals(min_value=0, max_value=Decimal("1e12"), places=5),
    st.sampled_from([str, "{:f}".format, "{:e}".format, float]),
    st.integers(1, 4_000_000_000_000),
)
def test_numbers_in_any_spelling(
    bid: Decimal, ask: Decimal, volume: Decimal, spell: Any, milliseconds: int
) -> None:
    codec, _ = new_codec()
    payload = quote(
        bid_price=spell(bid), ask_price=spell(ask), volume_24h=spell(volume), timestamp=milliseconds
    )
    expected = Tick("EURUSD", at(milliseconds), bid, ask, NAN, NAN, volume)
    assert codec.decode([payload]) == [expected]
    size, price = (spell(volume), spell(ask))
    (book,) = TickDBCodec(CodecProbe(("depth",))).decode([level_push(bids=[[price, size]])])
    assert book.bids == ((float(ask), float(volume)),)
    (trade,) = codec.decode([push("trade", price=price, quantity=size)])
    assert (trade.price, trade.size) == (float(ask), float(volume))
    assert is_quantity(trade.size)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "", "x", True, [], {}])
def test_what_is_no_number_is_malformed(text: Any) -> None:
    trade = {"price": "1", "quantity": "1"}
    payloads = [
        quote(bid_price=text),
        quote(volume_24h=text),
        quote(last_price=text),
        level_push(symbol="EURUSD", bids=[["1", text]]),
        level_push(symbol="EURUSD", asks=[[text, "1"]]),
        push("trade", **{**trade, "price": text}),
        push("trade", **{**trade, "quantity": text}),
        push("trade", trades=[trade, {**trade, "quantity": text}]),
    ]
    for payload in payloads:
        codec, probe = new_codec()
        assert codec.decode([payload]) == []
        ((_, reason, symbol),) = probe.malformed_messages
        assert symbol == "EURUSD"
        assert reason


@pytest.mark.parametrize(
    ("payload", "symbol"),
    [
        (quote(volume_24h="-1"), "EURUSD"),
        (quote(timestamp=-5), "EURUSD"),
        (quote(timestamp=2**62), "EURUSD"),
        (quote(timestamp="soon"), "EURUSD"),
        (push("trade", price="1", quantity="-1"), "EURUSD"),
        (push("trade", price="1"), "EURUSD"),
        (push("trade", price="1", quantity="1", side="up"), "EURUSD"),
        (push("trade", trades=[{"price": "1", "quantity": "1", "timestamp": -5}]), "EURUSD"),
        (push("depth"), "EURUSD"),
        (push("ticker"), "EURUSD"),
        (quote(symbol=""), None),
        (quote(symbol=None), None),
        (quote(symbol=7), None),
        (quote(symbol="NVDA", bid_price="x"), "NVDA.US"),
        (b'{"cmd":"ticker"}', None),
        (b'{"cmd":"ticker","data":null}', None),
        (b'{"cmd":"ticker","data":[]}', None),
        (b'{"foo":1}', None),
        (b"[1]", None),
        (b"{", None),
        (b"[" * 100_000, None),
    ],
)
def test_malformed(payload: bytes, symbol: str | None) -> None:
    codec, probe = new_codec()
    good = EURUSD.encode()
    assert len(codec.decode([good, payload, good])) == 2
    assert [(bad, told) for bad, _, told in probe.malformed_messages] == [(payload, symbol)]


def test_a_push_without_a_time_has_that_of_its_arrival() -> None:
    codec, probe = new_codec()
    (tick,) = codec.decode([b'{"cmd":"ticker","data":{"symbol":"X","bid_price":1,"ask_price":2}}'])
    assert tick.timestamp == probe.arrived


def test_trades_take_the_time_of_their_message_where_they_have_none() -> None:
    codec, _ = new_codec(("trade",))
    deals = [{"id": 7, "price": 1, "quantity": 2}, {"price": 3, "quantity": 4, "timestamp": 1000}]
    first, second = codec.decode([push("trade", trades=deals)])
    assert (first.trade_id, first.timestamp) == ("7", at(1773334426000))
    assert (second.trade_id, second.timestamp) == (None, at(1000))


# Symbols


@pytest.mark.parametrize(
    ("asked", "sent", "become"),
    [
        ("NVDA.US", "NVDA.US", "NVDA.US"),
        ("NVDA.US", "NVDA", "NVDA.US"),
        ("NVDA", "NVDA.US", "NVDA"),
        ("NVDA", "NVDA", "NVDA"),
        ("BRK.B.US", "BRK.B", "BRK.B.US"),
        ("NVDA.US", "NVDA.HK", "NVDA.HK"),
    ],
)
def test_symbols_are_mapped_back_whatever_suffix_comes(asked: str, sent: str, become: str) -> None:
    codec, probe = new_codec(symbols=[asked])
    payloads = [quote(symbol=sent), level_push(symbol=sent), quote(symbol=sent, bid_price="x")]
    items = codec.decode(payloads)
    assert {item.symbol for item in items} == {become}
    assert probe.malformed_messages[0][2] == become


def test_a_suffix_that_could_be_two_is_not_guessed() -> None:
    codec, _ = new_codec(symbols=["700.HK", "700.SZ"])
    found = codec.decode([quote(symbol=symbol) for symbol in ("700", "700.HK", "700.SZ")])
    assert [item.symbol for item in found] == ["700", "700.HK", "700.SZ"]


def test_a_symbol_that_was_asked_for_as_it_is_keeps_its_name() -> None:
    for symbols in (["700", "700.HK"], ["700.HK", "700"]):
        codec, _ = new_codec(symbols=symbols)
        found = codec.decode([quote(symbol="700"), quote(symbol="700.HK")])
        assert [item.symbol for item in found] == ["700", "700.HK"]


# Arrays


def test_an_array_of_500_tickers() -> None:
    codec, probe = new_codec()
    one = [json.loads(quote(symbol=f"S{n}")) for n in range(500)]
    items = codec.decode([json.dumps(one).encode(), EURUSD.encode()])
    assert [item.symbol for item in items] == [*(f"S{n}" for n in range(500)), "EURUSD"]
    assert probe.outcomes == CodecProbe().outcomes


def test_a_bad_member_of_an_array_costs_itself_alone() -> None:
    codec, probe = new_codec()
    bad = quote(symbol="NVDA", bid_price="x").decode()
    assert codec.decode([f"[{EURUSD},{bad},{BU}]".encode()]) == [PUSHES[1][1][0], PUSHES[3][1][0]]
    assert probe.events == [("gap", "NVDA.US", 1)]
    assert probe.malformed_messages == []


@pytest.mark.parametrize("members", ["{bad}", "{bad},{bad}", "{good},7", '{good},{{"cmd":7}}'])
def test_an_array_of_which_nothing_can_be_saved_is_malformed(members: str) -> None:
    codec, probe = new_codec()
    payload = f"[{members.format(bad=quote(bid_price='x').decode(), good=EURUSD)}]".encode()
    assert codec.decode([payload]) == []
    assert [message for message, *_ in probe.malformed_messages] == [payload]


# Answers


def answer(code: object, *, cmd: str = "subscribe", **data: Any) -> bytes:
    return json.dumps({"cmd": cmd, "code": code, "message": "no", "data": data or None}).encode()


def test_answers_are_ignored_and_reported() -> None:
    codec, probe = new_codec(("depth",))
    assert codec.decode([message.encode() for message in CONTROL]) == []
    assert probe.ignored_count == len(CONTROL)
    assert probe.malformed_messages == []
    assert probe.events == [
        ("refused", "AAPL.US", "realtime data temporarily unavailable (code 5004)", False),
        ("refused", "BTCUSDT", "realtime data temporarily unavailable (code 5004)", True),
        ("pong",),
        ("refused", None, "Invalid message format (code 2001)", False),
        ("pong",),
        ("answered", "unsubscribe", True),
    ]


def test_the_refusal_of_a_symbols_last_channel_is_final() -> None:
    codec, probe = new_codec(("depth", "trade"), ["AAPL.US", "BTCUSDT"])
    for channel in ("depth", "trade"):
        failed: dict[str, Any] = {"failed_symbols": ["BTCUSDT"], "retryable_symbols": []}
        codec.decode([answer("5004", channel=channel, symbols=["AAPL.US"], **failed)])
    assert [(event[1], event[3]) for event in probe.events] == [
        ("BTCUSDT", False),
        ("BTCUSDT", True),
    ]


@pytest.mark.parametrize(
    ("code", "symbols", "final"),
    [
        (2002, ["AAPL.US"], True),
        ("2002", ["AAPL"], True),
        (2002, ["AAPL.US", "X.US"], False),
        ("4005", ["AAPL.US", "X.US"], True),
        (3010, ["AAPL.US"], True),
        (3001, ["AAPL.US"], False),
        (1005, ["AAPL.US"], False),
    ],
)
@pytest.mark.parametrize("cmd", ["subscribe", "error"])
def test_a_refused_request_names_its_symbols(
    code: object, symbols: list[str], final: bool, cmd: str
) -> None:
    codec, probe = new_codec(("depth",), symbols)
    codec.decode([answer(code, cmd=cmd)])
    assert probe.events == [("refused", name, f"no (code {code})", final) for name in symbols]


def test_an_error_is_of_no_request_where_it_could_be_of_two() -> None:
    codec, probe = new_codec(("depth", "trade"), ["AAPL.US"])
    codec.decode([answer(2002, cmd="error")])
    assert probe.events == [("refused", None, "no (code 2002)", False)]
    codec.decode([answer(0, channel="trade", symbols=["AAPL"]), answer(2002, cmd="error")])
    assert probe.events[1:] == [("refused", "AAPL.US", "no (code 2002)", False)]


def test_what_may_succeed_later_is_asked_for_again_at_the_venues_pace() -> None:
    codec, probe = new_codec(("depth",), ["AAPL.US", "BTCUSDT", "700.HK"])
    failed: dict[str, Any] = {"failed_symbols": ["AAPL", "BTCUSDT"], "retryable_symbols": ["AAPL"]}
    partial = answer(5004, channel="depth", symbols=["700.HK"], **failed)
    waits = []
    for _ in range(9):
        codec.decode([partial])
        asked = probe.arrived
        while not (replies := [event for event in probe.events if event[0] == "reply"]):
            probe.arrived += timedelta(seconds=1)
            codec.decode([PONG.encode()])
        assert [json.loads(reply) for _, reply in replies] == [
            {"cmd": "subscribe", "data": {"channel": "depth", "symbols": ["AAPL.US"]}}
        ]
        waits.append((probe.arrived - asked).total_seconds())
        probe.events.clear()
    assert waits == [1, 1, 1, 5, 5, 5, 30, 30, 30]
    codec.decode([answer(0, channel="depth", symbols=["AAPL.US"]), PONG.encode()])
    probe.arrived += timedelta(hours=1)
    codec.decode([PONG.encode()])
    assert not [event for event in probe.events if event[0] == "reply"]
    # Success begins anew with the short waits.
    codec.decode([partial])
    probe.arrived += timedelta(seconds=1)
    codec.decode([PONG.encode()])
    assert [event for event in probe.events if event[0] == "reply"]


def test_a_symbol_that_was_unsubscribed_from_is_not_asked_for_again() -> None:
    codec, probe = new_codec(("depth",), ["AAPL.US"])
    codec.decode([answer("3001")])
    codec.unsubscribe(["AAPL.US"])
    probe.arrived += timedelta(hours=1)
    codec.decode([PONG.encode()])
    assert [event[0] for event in probe.events] == ["refused", "pong"]


def test_the_venue_cannot_make_the_codec_grow() -> None:
    codec, probe = new_codec(("depth",), ["AAPL.US"])
    for n in range(2000):
        names = [f"X{n}"]
        codec.decode(
            [answer(5004, failed_symbols=names, retryable_symbols=names), quote(symbol=f"Y{n}")]
        )
    probe.events.clear()
    probe.arrived += timedelta(hours=1)
    codec.decode([PONG.encode()])
    assert probe.events == [("pong",)]  # Nothing of it is asked for.


# What is declared


def test_what_the_variants_declare() -> None:
    documented, old = find_language("tickdb"), find_language("tickdb-old")
    assert documented.url == "wss://api.tickdb.ai/v1/realtime"
    assert documented.key_parameter == "api_key"
    assert (documented.keep_alive.every_s, documented.keep_alive.within_s) == (60, 20)  # type: ignore[union-attr]  # it has one
    assert old.keep_alive.every_s == 1  # type: ignore[union-attr]  # it has one
    assert documented.compression is None
    market = find_language("tickdb-market")
    assert (market.compression, market.wildcard) == ("permessage-deflate", "US_Stock")
    flat = find_language("tickdb-flat")
    assert (flat.url, flat.key_parameter) == ("wss://stream.tickdb.ai/v1/market/ws", None)
    assert issubclass(TickDBOldCodec, TickDBCodec)
    assert issubclass(TickDBMarketCodec, TickDBCodec)
    assert not issubclass(TickDBFlatCodec, TickDBCodec)


def test_the_key_is_in_the_query_and_shown_nowhere() -> None:
    feed = WebSocketFeed(symbols=["AAPL.US"], api_key="s3cr3t/key", venue="tickdb")
    assert feed.url == "wss://api.tickdb.ai/v1/realtime"
    assert "s3cr3t" not in repr(feed)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"url": "wss://x.test/v1/realtime?api_key=OTHER-KEY"},
            "either as api_key or as api_key in the url",
        ),
        ({"endpoint": lambda: None}, "in the url that endpoint returns"),
    ],
)
def test_a_key_in_two_places_is_refused(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        WebSocketFeed(symbols=["A"], api_key="s3cr3t-key", venue="tickdb", **arguments)
    assert "s3cr3t" not in str(caught.value)
    assert "OTHER" not in str(caught.value)


# Recordings


def test_a_recording_of_it_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    lines = [*(message for message, _ in PUSHES), *CONTROL, f"[{NVDA},{EURUSD}]"]
    path.write_text("".join(f"{1773334426000000000 + n} {line}\n" for n, line in enumerate(lines)))
    language = recognise(path, None, "all")
    assert language.name == "tickdb"
    with CaptureReader(path, language) as reader:
        items = [item for _, item in reader.read(1000)]
    assert [item for item in items if isinstance(item, Tick | Trade | BookUpdate)] == [
        *(item for _, expected in PUSHES for item in expected),
        PUSHES[2][1][0],
        PUSHES[1][1][0],
    ]
    assert reader.malformed == 0
    assert ReplayFeed(path, venue="tickdb").venue == "tickdb"
