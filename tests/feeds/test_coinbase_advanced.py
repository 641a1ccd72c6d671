"""The codec of Coinbase Advanced Trade: each kind of message, and its one sequence."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ticks.feeds.venues import find_language
from trio_ticks.feeds.venues.coinbase_advanced import CoinbaseAdvancedCodec
from trio_ticks.testing import CodecProbe, check_codec
from trio_ticks.ticks import BookUpdate, Tick, Trade

ARRIVED = datetime(2026, 8, 26, 7, 45, 27, tzinfo=UTC)
SENT = datetime(2026, 8, 26, 7, 45, 26, 794316, UTC)
CHANGED = datetime(2026, 8, 26, 7, 45, 26, 518330, UTC)
ALL = ("ticker", "level2", "market_trades", "heartbeats")
REQUESTED = {"ticker": "ticker", "l2_data": "level2", "market_trades": "market_trades"}

ROW: dict[str, Any] = {
    "type": "ticker",
    "product_id": "BTC-USD",
    "price": "68900.50",
    "volume_24_h": "15328.12",
    "low_24_h": "67500.00",
    "high_52_w": "73800.00",
    "price_percent_chg_24_h": "1.85",
    "best_bid": "68900.00",
    "best_bid_quantity": "1.5",
    "best_ask": "68901.00",
    "best_ask_quantity": "0.5",
}
LEVELS: list[dict[str, Any]] = [
    {
        "side": side,
        "event_time": "2026-08-26T07:45:26.51833Z",
        "price_level": price,
        "new_quantity": size,
    }
    for side, price, size in (
        ("bid", "78971.23", "0.09070492"),
        ("offer", "80496.03", "0.00583"),
        ("offer", "80496.32", "0"),
    )
]
TRADE: dict[str, Any] = {
    "trade_id": "995098700",
    "product_id": "BTC-USD",
    "price": "68900.50",
    "size": "0.0015",
    "side": "BUY",
    "time": "2026-08-26T07:45:26.51833Z",
}


def say(channel: str, number: int | None, *events: Any, **changes: Any) -> bytes:
    fields = {
        "channel": channel,
        "client_id": "",
        "timestamp": "2026-08-26T07:45:26.79431594Z",
        "sequence_num": number,
        "events": list(events),
        **changes,
    }
    if number is None:
        del fields["sequence_num"]
    return json.dumps(fields).encode()


def ticker(number: int | None = 0, *, kind: str = "update", **changes: Any) -> bytes:
    return say("ticker", number, {"type": kind, "tickers": [{**ROW, **changes}]})


def levels(number: int | None = 0, kind: str = "update", rows: Any = None, **more: Any) -> bytes:
    rows = LEVELS if rows is None else rows
    return say("l2_data", number, {"type": kind, "product_id": "BTC-USD", "updates": rows, **more})


def trades(number: int | None = 0, kind: str = "update", *rows: Any) -> bytes:
    return say("market_trades", number, {"type": kind, "trades": list(rows or (TRADE,))})


def ack(number: int = 0, *products: str) -> bytes:
    subscribed = {"level2": list(products or ("BTC-USD",)), "heartbeats": ["heartbeats"]}
    return say("subscriptions", number, {"subscriptions": subscribed})


def heartbeat(number: int = 0, counter: Any = 42) -> bytes:
    now = "2026-04-07 14:30:10.000000000 +0000 UTC m=+1.0"
    return say("heartbeats", number, {"current_time": now, "heartbeat_counter": counter})


def decode(
    *payloads: bytes, channels: tuple[str, ...] = ALL, symbols: tuple[str, ...] = ("BTC-USD",)
) -> tuple[list[Any], CodecProbe]:
    """Decode *payloads* as one batch, after the subscription."""
    probe = CodecProbe(channels, ARRIVED)
    codec = CoinbaseAdvancedCodec(probe)
    codec.subscribe(symbols)
    return list(codec.decode(payloads)), probe


def test_what_it_declares() -> None:
    language = find_language("coinbase-advanced")
    assert language.url == "wss://advanced-trade-ws.coinbase.com"
    assert language.channels == ("ticker",)
    assert language.all_channels == ALL
    assert language.limits.subscribe_within_s == 5
    assert language.limits.messages_per_s == 6
    assert language.max_message_size(1 << 20) == 1 << 24


def test_it_keeps_what_a_codec_promises() -> None:
    samples = [
        ack(0),
        levels(1, "snapshot"),
        ticker(2, kind="snapshot"),
        trades(3, "snapshot"),
        levels(4),
        ticker(5),
        trades(6),
        heartbeat(7),
        ticker(9),
        ticker(9),
        b'{"type":"error","message":"authentication failure"}',
    ]
    check_codec(CoinbaseAdvancedCodec, samples, ["BTC-USD"], channels="all")
    check_codec(CoinbaseAdvancedCodec, samples, ["BTC-USD"])


# Quotes


@pytest.mark.parametrize("kind", ["update", "snapshot"])
def test_a_ticker_is_a_quote(kind: str) -> None:
    items, probe = decode(ticker(kind=kind))
    assert items == [Tick("BTC-USD", SENT, 68900, 68901, 1.5, 0.5, 15328.12)]
    assert probe.outcomes == CodecProbe().outcomes


def test_a_ticker_without_sizes_says_nothing_of_them() -> None:
    absent: dict[str, Any] = {
        "best_bid_quantity": "",
        "best_ask_quantity": None,
        "volume_24_h": None,
    }
    shorter = {key: value for key, value in ROW.items() if key not in absent}
    for payload in (ticker(**absent), say("ticker", 0, {"tickers": [shorter]})):
        (item,), probe = decode(payload)
        assert (item.bid, item.ask, item.timestamp) == (68900, 68901, SENT)
        assert all(map(math.isnan, (item.bid_size, item.ask_size, item.volume)))
        assert not probe.malformed_messages


@pytest.mark.parametrize("side", ["best_bid", "best_ask"])
@pytest.mark.parametrize("nothing", [None, "", "0", "0.00", 0])
def test_a_quote_that_is_withdrawn_is_a_gap(side: str, nothing: Any) -> None:
    items, probe = decode(ticker(**{side: nothing}))
    assert items == []
    assert probe.outcomes == (1, [], [("gap", "BTC-USD", 0)])


def test_several_tickers_in_a_message() -> None:
    rows = [ROW, {**ROW, "product_id": "ETH-USD"}, {**ROW, "best_bid": None}]
    items, probe = decode(say("ticker", 0, {"tickers": rows}), symbols=("BTC-USD", "ETH-USD"))
    assert [item.symbol for item in items] == ["BTC-USD", "ETH-USD"]
    assert probe.outcomes == (0, [], [("gap", "BTC-USD", 0)])


# Books


def test_an_update_of_a_book() -> None:
    items, probe = decode(levels())
    bids, asks = ((78971.23, 0.09070492),), ((80496.03, 0.00583), (80496.32, 0.0))
    assert items == [BookUpdate("BTC-USD", CHANGED, bids, asks)]
    assert probe.outcomes == CodecProbe().outcomes


def test_a_snapshot_has_the_time_of_its_message() -> None:
    rows = [{**row, "event_time": "1970-01-01T00:00:00Z"} for row in LEVELS]
    (item,), _ = decode(levels(0, "snapshot", rows))
    assert (item.snapshot, item.timestamp) == (True, SENT)
    assert (len(item.bids), len(item.asks)) == (1, 2)


def test_an_update_without_a_time_of_its_own() -> None:
    rows = [{key: value for key, value in row.items() if key != "event_time"} for row in LEVELS]
    (item,), _ = decode(levels(0, rows=rows))
    assert item.timestamp == SENT
    (item,), _ = decode(say("l2_data", 0, {"product_id": "A", "updates": []}, timestamp=None))
    assert item.timestamp == ARRIVED


@given(st.integers(0, 12), st.booleans())
def test_zero_removes_a_level_however_it_is_spelt(digits: int, number: bool) -> None:
    text = "0" + ("." + "0" * digits if digits else "")
    rows = [{**LEVELS[0], "new_quantity": json.loads(text) if number else text}]
    (update,), probe = decode(levels(0, rows=rows))
    assert update.bids == ((78971.23, 0.0),)
    assert not probe.malformed_messages


@given(st.decimals(0, 10**9, places=8), st.decimals(0, 10**9, places=8))
def test_all_digits_of_a_number_count(price: Any, size: Any) -> None:
    rows = [{**LEVELS[0], "price_level": f"{price:f}", "new_quantity": f"{size:f}"}]
    (update,), _ = decode(levels(0, rows=rows))
    assert update.bids == ((float(price), float(size)),)


def test_updates_before_the_snapshot_are_of_a_book_that_nobody_has() -> None:
    items, probe = decode(ack(0), levels(1), levels(2), levels(3, "snapshot"), levels(4), ack(5))
    assert [item.snapshot for item in items] == [False, False, True, False]
    assert probe.events == [("gap", "BTC-USD", 0)]


def test_a_recording_from_the_middle_of_a_session_is_taken_as_it_is() -> None:
    items, probe = decode(levels(77), levels(78))
    assert len(items) == 2
    assert probe.events == []


def test_a_bad_update_makes_its_book_wrong_until_the_next_snapshot() -> None:
    bad = [{**LEVELS[0], "price_level": "nan"}]
    _, probe = decode(levels(0, "snapshot"), levels(1, rows=bad), levels(2, rows=bad), levels(3))
    assert [m[2] for m in probe.malformed_messages] == ["BTC-USD"] * 2
    assert probe.events == [("need_snapshot", "BTC-USD")]


def test_a_snapshot_comes_with_another_subscription() -> None:
    codec = CoinbaseAdvancedCodec(CodecProbe(ALL))
    assert [json.loads(message) for message in codec.request_snapshot("btc-usd")] == [
        {"type": kind, "channel": "level2", "product_ids": ["BTC-USD"]}
        for kind in ("unsubscribe", "subscribe")
    ]
    assert CoinbaseAdvancedCodec(CodecProbe(("ticker",))).request_snapshot("BTC-USD") == []


# Trades


@pytest.mark.parametrize(("maker", "taker"), [("BUY", "sell"), ("SELL", "buy")])
def test_a_trade_has_the_side_of_the_taker(maker: str, taker: str) -> None:
    items, probe = decode(trades(0, "update", {**TRADE, "side": maker}))
    assert items == [Trade("BTC-USD", CHANGED, 68900.5, 0.0015, taker, "995098700")]  # type: ignore[arg-type]
    assert probe.outcomes == CodecProbe().outcomes


def test_the_trades_of_a_snapshot_are_history() -> None:
    items, probe = decode(trades(0, "snapshot"))
    assert items == []
    assert probe.outcomes == (1, [], [])


def test_trades_of_one_message_come_in_their_order() -> None:
    later = {**TRADE, "time": "2026-08-26T07:45:26.6Z"}
    rows = [{**later, "trade_id": "100"}, {**later, "trade_id": "99"}, {**TRADE, "trade_id": "98"}]
    items, _ = decode(trades(0, "update", *rows))
    assert [item.trade_id for item in items] == ["98", "99", "100"]


# The sequence of the connection


def test_messages_of_all_channels_have_one_sequence() -> None:
    items, probe = decode(ack(0), levels(1, "snapshot"), heartbeat(2), ticker(3), trades(4))
    assert len(items) == 3
    assert probe.events == []
    assert probe.ignored_count == 2


@pytest.mark.parametrize("payload", [levels(9), ticker(9), trades(9), heartbeat(9), ack(9)])
def test_a_missing_message_makes_every_book_wrong(payload: bytes) -> None:
    symbols = ("BTC-USD", "ETH-USD")
    _, probe = decode(levels(6, "snapshot"), payload, levels(10), symbols=symbols)
    told = [("need_snapshot", symbol) for symbol in symbols]
    assert probe.events == [*told, ("reconnect", "sequence_num: 2 messages are missing")]


def test_without_books_a_missing_message_is_a_gap_of_each_symbol() -> None:
    _, probe = decode(ticker(6), ticker(8), channels=("ticker",), symbols=("BTC-USD", "eth-usd"))
    told = [("gap", "BTC-USD", 0), ("gap", "eth-usd", 0)]
    assert probe.events == [*told, ("reconnect", "sequence_num: 1 messages are missing")]


def test_a_message_that_comes_again_is_ignored() -> None:
    order = (5, 6, 6, 7, 7, 5, 8, 6, 9)
    items, probe = decode(*(ticker(number, best_bid=str(number + 1)) for number in order))
    assert [item.bid for item in items] == [6, 7, 8, 9, 10]
    assert (probe.ignored_count, probe.events) == (4, [])


@pytest.mark.parametrize("numbers", [(0, 1), (3, 4, 5)])
def test_a_sequence_that_begins_anew(numbers: tuple[int, ...]) -> None:
    """As in a recording of two connections."""
    items, probe = decode(*(ticker(number) for number in (8, 9, *numbers)), channels=("ticker",))
    assert len(items) == 4
    assert probe.events == [
        ("gap", "BTC-USD", 0),
        ("reconnect", "sequence_num: the venue counts anew"),
    ]


def test_a_repeated_first_message_is_no_new_beginning() -> None:
    items, probe = decode(ticker(0), ticker(0), ticker(1))
    assert (len(items), probe.ignored_count, probe.events) == (2, 1, [])


def test_a_malformed_message_has_its_place_in_the_sequence() -> None:
    items, probe = decode(ticker(3), ticker(4, best_bid="x"), ticker(5), ticker(6, best_bid="x"))
    assert len(items) == 2
    assert len(probe.malformed_messages) == 2
    assert probe.events == []
    _, probe = decode(ticker(3), ticker(6, best_bid="x"), ticker(7), channels=("ticker",))
    assert [event[0] for event in probe.events] == ["gap", "reconnect"]


def test_messages_without_a_number_have_no_sequence() -> None:
    items, probe = decode(ticker(3), ticker(None), ticker(None), ticker(4))
    assert (len(items), probe.events) == (4, [])


# Requests and names


def test_requests() -> None:
    codec = CoinbaseAdvancedCodec(CodecProbe(("ticker", "level2")))
    assert [json.loads(message) for message in codec.subscribe(["btc-usd", "ETH-USD"])] == [
        {"type": "subscribe", "channel": "heartbeats"},
        {"type": "subscribe", "channel": "ticker", "product_ids": ["BTC-USD", "ETH-USD"]},
        {"type": "subscribe", "channel": "level2", "product_ids": ["BTC-USD", "ETH-USD"]},
    ]
    assert [json.loads(message) for message in codec.subscribe(["SOL-USD"])] == [
        {"type": "subscribe", "channel": channel, "product_ids": ["SOL-USD"]}
        for channel in ("ticker", "level2")
    ]
    assert [json.loads(message) for message in codec.unsubscribe(["btc-usd"])] == [
        {"type": "unsubscribe", "channel": channel, "product_ids": ["BTC-USD"]}
        for channel in ("ticker", "level2")
    ]
    assert list(codec.subscribe([])) == list(codec.unsubscribe([])) == []
    only = CoinbaseAdvancedCodec(CodecProbe(("heartbeats",)))
    assert len(only.subscribe(["BTC-USD"])) == 1


@pytest.mark.parametrize("asked", ["btc-usd", "BTC-USDC", "Btc-Usdc"])
def test_items_carry_the_name_that_was_asked_for(asked: str) -> None:
    bad = trades(4, "update", {**TRADE, "price": "x"})
    payloads = (ticker(0), levels(1), trades(2), ticker(3, best_bid=None), bad)
    items, probe = decode(*payloads, symbols=(asked,))
    assert [item.symbol for item in items] == [asked] * 3
    assert probe.events == [("gap", asked, 0)]
    assert probe.malformed_messages[0][2] == asked


@pytest.mark.parametrize("symbols", [("BTC-USD", "BTC-USDC"), ("BTC-USDC", "BTC-USD")])
def test_who_asks_for_both_gets_the_one_in_dollars(symbols: tuple[str, ...]) -> None:
    (item,), _ = decode(ticker(), symbols=symbols)
    assert item.symbol == "BTC-USD"


def test_a_channel_that_was_not_asked_for_makes_nothing() -> None:
    payloads = [ticker(0), levels(1), trades(2), heartbeat(3)]
    for channel, kinds in (
        ("ticker", [Tick]),
        ("level2", [BookUpdate]),
        ("market_trades", [Trade]),
        ("heartbeats", []),
    ):
        items, probe = decode(*payloads, channels=(channel,))
        assert [type(item) for item in items] == kinds
        assert probe.ignored_count == 4 - len(kinds)


# Refusals, and all the rest


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ("authentication failure", ("refused", None, "authentication failure", False)),
        (
            "no product GIBBERISH-USD",
            ("refused", "gibberish-usd", "no product GIBBERISH-USD", False),
        ),
        ("", ("refused", None, "an error", False)),
        ("cannot unsubscribe", ("answered", "unsubscribe", False)),
    ],
)
def test_errors(message: str, event: tuple[Any, ...]) -> None:
    payload = json.dumps({"type": "error", "message": message}).encode()
    _, probe = decode(payload, symbols=("gibberish-usd",))
    assert probe.outcomes == (1, [], [event])


def test_after_a_refusal_the_others_are_asked_for_again() -> None:
    error = b'{"type":"error","message":"GIBBERISH-USD is not a valid product"}'
    _, probe = decode(
        ack(0, "ETH-USD"),
        error,
        error,
        channels=("ticker",),
        symbols=("BTC-USD", "ETH-USD", "gibberish-usd"),
    )
    refused, reply, again = probe.events
    assert refused[:2] == again[:2] == ("refused", "gibberish-usd")
    request = {"type": "subscribe", "channel": "ticker", "product_ids": ["BTC-USD"]}
    assert json.loads(reply[1]) == request


@pytest.mark.parametrize(
    "payload",
    [
        ack(),
        heartbeat(),
        heartbeat(0, "42"),
        say("candles", 0, {"type": "update", "candles": [{"product_id": "BTC-USD"}]}),
        say("status", 0, {"type": 5, "products": []}),
        say("ticker_batch", 0, {"tickers": [{"product_id": "BTC-USD"}]}),
        say("ticker", 0),
    ],
)
def test_ignored(payload: bytes) -> None:
    items, probe = decode(payload)
    assert items == []
    assert probe.outcomes == (1, [], [])


BAD = ["nan", "inf", "1e999", "x", [], {}, True]


@pytest.mark.parametrize(
    "payload",
    [
        *(
            say("ticker", 0, {"tickers": [{**ROW, key: bad}]})
            for key in ("best_bid", "best_ask_quantity")
            for bad in BAD
        ),
        *(levels(rows=[{**LEVELS[0], "new_quantity": bad}]) for bad in [*BAD, None, "", "-1"]),
        *(levels(rows=[{**LEVELS[0], "price_level": bad}]) for bad in [*BAD, None, ""]),
        *(trades(0, "update", {**TRADE, "price": bad}) for bad in [*BAD, None, ""]),
        levels(rows=[{**LEVELS[0], "side": "ask"}]),
        levels(rows=[{**LEVELS[0], "event_time": "now"}]),
        trades(0, "update", {**TRADE, "side": "UNKNOWN"}),
        trades(0, "update", {**TRADE, "time": "2026-08-26T07:45:26"}),
        trades(0, "update", {**TRADE, "time": "9999-12-31T23:59:59-14:00"}),
        say("ticker", 0, {"tickers": [ROW]}, timestamp="soon"),
        say("ticker", 0, {"tickers": [ROW]}, timestamp="9999-12-31T23:59:59-14:00"),
    ],
)
def test_malformed_and_of_which_symbol(payload: bytes) -> None:
    items, probe = decode(payload)
    assert items == []
    assert [m[2] for m in probe.malformed_messages] == ["BTC-USD"]
    assert probe.ignored_count == 0


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"channel":""}',
        b'{"type":"ticker"}',
        b'{"type":"error","message":5}',
        say("ticker", 0, {"tickers": 5}),
        say("l2_data", 0, {"updates": LEVELS}),
        say("l2_data", 0, {"product_id": 5, "updates": LEVELS}),
        say("market_trades", 0, 5),
        say("subscriptions", 0, {"subscriptions": 5}),
        say("ticker", 2**70, {"tickers": [{**ROW, "product_id": ""}]}),
    ],
)
def test_malformed(payload: bytes) -> None:
    items, probe = decode(payload)
    assert items == []
    assert [m[2] for m in probe.malformed_messages] == [None]
    assert probe.ignored_count == 0


@pytest.mark.parametrize("digits", range(10))
def test_a_fraction_has_any_number_of_digits(digits: int) -> None:
    fraction = "." + "123456789"[:digits] if digits else ""
    (item,), _ = decode(ticker_at(f"2026-08-26T07:45:26{fraction}Z"))
    assert item.timestamp == SENT.replace(microsecond=round(float("0" + fraction) * 1e6))


def ticker_at(time: str) -> bytes:
    return say("ticker", 0, {"tickers": [ROW]}, timestamp=time)
