"""The codec of Coinbase Exchange: each kind of message, and bad ones."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ticks.feeds.venues import find_language
from trio_ticks.feeds.venues.coinbase import CoinbaseCodec
from trio_ticks.testing import CodecProbe, check_codec
from trio_ticks.ticks import BookUpdate, Tick, Trade

AT = datetime(2026, 3, 2, 14, 30, 0, 464459, UTC)
TIME = "2026-03-02T14:30:00.464459Z"
ARRIVED = datetime(2026, 3, 2, 14, 30, 1, tzinfo=UTC)
ALL = ("ticker", "matches", "level2_batch", "heartbeat")

TICKER: dict[str, Any] = {
    "type": "ticker",
    "sequence": 137212619516,
    "product_id": "BTC-USD",
    "price": "84737.58",
    "open_24h": "84430.55",
    "volume_24h": "1836.96781750",
    "low_24h": "84400",
    "high_24h": "85021.57",
    "volume_30d": "175984.53012145",
    "best_bid": "84737.58",
    "best_bid_size": "0.19921154",
    "best_ask": "84737.59",
    "best_ask_size": "0.05223077",
    "side": "sell",
    "time": TIME,
    "trade_id": 1102042811,
    "last_size": "0.00000025",
}
MATCH: dict[str, Any] = {
    "type": "match",
    "trade_id": 280232,
    "maker_order_id": "2a0da34e-61f7-4c36-88e5-c9dd15927b16",
    "taker_order_id": "3c82abaa-c01e-4608-be59-6a1e69742891",
    "side": "sell",
    "size": "985",
    "price": "0.00001305",
    "product_id": "BTC-USD",
    "sequence": 177100030,
    "time": TIME,
}
SNAPSHOT: dict[str, Any] = {
    "type": "snapshot",
    "product_id": "BTC-USD",
    "bids": [["84737.58", "0.19921154"], ["84737.57", "1"]],
    "asks": [["84737.59", "0.05223077"]],
}
UPDATE: dict[str, Any] = {
    "type": "l2update",
    "product_id": "BTC-USD",
    "changes": [["buy", "84737.58", "0.00000000"], ["sell", "84737.60", "2.5"]],
    "time": TIME,
}
HEARTBEAT: dict[str, Any] = {
    "type": "heartbeat",
    "sequence": 90,
    "last_trade_id": 20,
    "product_id": "BTC-USD",
    "time": TIME,
}
ACK: dict[str, Any] = {
    "type": "subscriptions",
    "channels": [
        {"name": "ticker", "product_ids": ["BTC-USD"], "account_ids": None},
        {"name": "level2_50", "product_ids": ["BTC-USD"], "account_ids": None},
    ],
}
ERROR: dict[str, Any] = {
    "type": "error",
    "message": "Failed to subscribe",
    "reason": "GIBBERISH-USD is not a valid product",
}
SAMPLES = [ACK, SNAPSHOT, TICKER, MATCH, UPDATE, HEARTBEAT, {**MATCH, "type": "last_match"}, ERROR]


def say(fields: dict[str, Any], *, without: str = "", **changes: Any) -> bytes:
    return json.dumps({k: v for k, v in {**fields, **changes}.items() if k != without}).encode()


def decode(
    *payloads: bytes, channels: tuple[str, ...] = ALL, symbols: tuple[str, ...] = ("BTC-USD",)
) -> tuple[list[Any], CodecProbe]:
    """Decode *payloads* as one batch, after the subscription."""
    probe = CodecProbe(channels, ARRIVED)
    codec = CoinbaseCodec(probe)
    codec.subscribe(symbols)
    return list(codec.decode(payloads)), probe


def test_what_it_declares() -> None:
    language = find_language("coinbase")
    assert language.url == "wss://ws-feed.exchange.coinbase.com"
    assert language.channels == ("ticker",)
    assert language.all_channels == ALL
    assert language.limits.subscribe_within_s == 5
    assert language.max_message_size(1 << 20) == 1 << 24
    assert language.max_message_size(1 << 25) == 1 << 25


def test_it_keeps_what_a_codec_promises() -> None:
    samples = [say(fields) for fields in SAMPLES]
    check_codec(CoinbaseCodec, samples, ["BTC-USD"], channels="all")
    check_codec(CoinbaseCodec, samples, ["BTC-USD"])


# Quotes


def test_a_ticker_is_a_quote() -> None:
    items, probe = decode(say(TICKER))
    assert items == [Tick("BTC-USD", AT, 84737.58, 84737.59, 0.19921154, 0.05223077, 1836.96781750)]
    assert probe.outcomes == CodecProbe().outcomes


def test_a_ticker_without_sizes_says_nothing_of_them() -> None:
    """Those of 2021 have none, and 0 would be a fact."""
    for absent in (
        {k: v for k, v in TICKER.items() if not k.endswith("_size") and k != "volume_24h"},
        {**TICKER, "best_bid_size": "", "best_ask_size": None, "volume_24h": None},
    ):
        (item,), probe = decode(say(absent))
        assert (item.bid, item.ask) == (84737.58, 84737.59)
        assert all(map(math.isnan, (item.bid_size, item.ask_size, item.volume)))
        assert not probe.malformed_messages


@pytest.mark.parametrize("side", ["best_bid", "best_ask"])
@pytest.mark.parametrize("nothing", [None, "", "0", "0.00000000", 0])
def test_a_quote_that_is_withdrawn_is_a_gap(side: str, nothing: Any) -> None:
    items, probe = decode(say(TICKER, **{side: nothing}))
    assert items == []
    assert probe.events == [("gap", "BTC-USD", 0)]
    assert probe.ignored_count == 1


def test_an_older_ticker_is_no_news_and_a_hole_in_its_sequence_no_gap() -> None:
    numbers = (10, 11, 400, 12, 400, 401)
    items, probe = decode(*(say(TICKER, sequence=n, price="1", best_bid=str(n)) for n in numbers))
    assert [item.bid for item in items] == [10, 11, 400, 401]
    assert probe.ignored_count == 2
    assert probe.events == []


def test_a_smaller_number_with_a_later_time_is_a_newer_quote() -> None:
    """One number that is far too large must not end the quotes of its product."""
    times = ("00:00:01Z", "00:00:02Z", "00:00:03Z", "00:00:02.5Z")
    told = zip((5, 2**62, 6, 4), times, strict=True)
    items, _ = decode(
        *(say(TICKER, sequence=n, best_bid=str(n), time=f"2021-01-01T{at}") for n, at in told)
    )
    assert [item.bid for item in items] == [5, 2**62, 6]


def test_a_subscription_begins_the_sequence_anew() -> None:
    probe = CodecProbe(ALL, ARRIVED)
    codec = CoinbaseCodec(probe)
    codec.subscribe(["BTC-USD"])
    assert len(codec.decode([say(TICKER, sequence=10)])) == 1
    codec.unsubscribe(["BTC-USD"])
    codec.subscribe(["BTC-USD"])
    assert len(codec.decode([say(TICKER, sequence=10)])) == 1


def test_without_its_time_a_ticker_has_that_of_its_arrival() -> None:
    (item,), _ = decode(say(TICKER, without="time"))
    assert item.timestamp == ARRIVED


# Trades


@pytest.mark.parametrize(("maker", "taker"), [("sell", "buy"), ("buy", "sell")])
def test_a_match_is_a_trade_with_the_side_of_the_taker(maker: str, taker: str) -> None:
    items, probe = decode(say(MATCH, side=maker))
    assert items == [Trade("BTC-USD", AT, 0.00001305, 985, taker, "280232")]  # type: ignore[arg-type]
    assert probe.outcomes == CodecProbe().outcomes


def test_the_last_match_before_the_subscription_is_history() -> None:
    items, probe = decode(say(MATCH, type="last_match", trade_id=5), say(MATCH, trade_id=6))
    assert [item.trade_id for item in items] == ["6"]
    assert (probe.ignored_count, probe.events) == (1, [])


def test_a_hole_in_the_trades_is_a_gap() -> None:
    numbers = (7, 8, 8, 12, 13, 9)
    items, probe = decode(*(say(MATCH, trade_id=n) for n in numbers))
    assert [item.trade_id for item in items] == [str(n) for n in numbers]
    assert probe.events == [("gap", "BTC-USD", 3)]


def test_the_trades_since_the_last_match_have_no_hole_either() -> None:
    _, probe = decode(say(MATCH, type="last_match", trade_id=5), say(MATCH, trade_id=8))
    assert probe.events == [("gap", "BTC-USD", 2)]


def test_two_heartbeats_show_that_a_trade_is_missing() -> None:
    beats = [say(HEARTBEAT, last_trade_id=n) for n in (20, 23)]
    _, probe = decode(*beats, say(MATCH, trade_id=21))
    assert probe.events == []  # 22 and 23 may still be under way.
    _, probe = decode(*beats, say(MATCH, trade_id=21), beats[1])
    assert probe.events == [("gap", "BTC-USD", 2)]
    _, probe = decode(*beats, *(say(MATCH, trade_id=n) for n in (21, 22, 23)), beats[1])
    assert probe.events == []
    _, probe = decode(*beats, beats[1], beats[1], channels=("ticker", "heartbeat"))
    assert probe.events == []


# Books


def test_a_snapshot_and_an_update() -> None:
    items, probe = decode(say(SNAPSHOT), say(UPDATE))
    assert items == [
        BookUpdate(
            "BTC-USD",
            ARRIVED,
            bids=((84737.58, 0.19921154), (84737.57, 1)),
            asks=((84737.59, 0.05223077),),
            snapshot=True,
        ),
        BookUpdate("BTC-USD", AT, bids=((84737.58, 0),), asks=((84737.60, 2.5),)),
    ]
    assert probe.outcomes == CodecProbe().outcomes


@given(st.integers(0, 12), st.booleans(), st.booleans())
def test_zero_removes_a_level_however_it_is_spelt(digits: int, number: bool, minus: bool) -> None:
    text = "-" * minus + "0" + ("." + "0" * digits if digits else "")
    size = json.loads(text) if number else text
    (update,), probe = decode(say(UPDATE, changes=[["buy", "84737.58", size]]))
    assert update.bids == ((84737.58, 0.0),)
    assert math.copysign(1, update.bids[0][1]) in (1.0, -1.0)
    assert not probe.malformed_messages


@given(st.decimals(0, 10**9, places=8), st.decimals(0, 10**9, places=8))
def test_all_digits_of_a_number_count(price: Any, size: Any) -> None:
    changes = [["sell", f"{price:f}", f"{size:f}"], ["buy", float(price), float(size)]]
    (update,), _ = decode(say(UPDATE, changes=changes))
    assert update.asks == ((float(price), float(size)),) == update.bids


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from(SAMPLES),
    st.data(),
)
def test_no_value_of_a_field_raises(
    value: Any, sample: dict[str, Any], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(sample)))
    items, probe = decode(say({**sample, key: value}))
    assert len(items) + probe.ignored_count + len(probe.malformed_messages) == 1


def test_updates_before_the_snapshot_are_of_a_book_that_nobody_has() -> None:
    items, probe = decode(say(ACK), say(UPDATE), say(UPDATE), say(SNAPSHOT), say(UPDATE), say(ACK))
    assert [item.snapshot for item in items] == [False, False, True, False]
    assert probe.events == [("gap", "BTC-USD", 0)]


def test_a_recording_from_the_middle_of_a_session_is_taken_as_it_is() -> None:
    items, probe = decode(say(UPDATE), say(UPDATE))
    assert len(items) == 2
    assert probe.events == []


def test_a_bad_update_makes_its_book_wrong_until_the_next_snapshot() -> None:
    bad = say(UPDATE, changes=[["buy", "nan", "1"]])
    items, probe = decode(say(SNAPSHOT), bad, bad, say(UPDATE))
    assert len(items) == 2
    assert [m[2] for m in probe.malformed_messages] == ["BTC-USD"] * 2
    assert probe.events == [("need_snapshot", "BTC-USD")]
    _, probe = decode(say(SNAPSHOT), bad, say(SNAPSHOT), bad, say(SNAPSHOT, bids=[["1", "x"]]))
    assert probe.events == [("need_snapshot", "BTC-USD")] * 2


def test_a_snapshot_comes_with_another_subscription() -> None:
    codec = CoinbaseCodec(CodecProbe(ALL))
    fields = {"product_ids": ["BTC-USD"], "channels": ["level2_batch"]}
    assert [json.loads(message) for message in codec.request_snapshot("btc-usd")] == [
        {"type": "unsubscribe", **fields},
        {"type": "subscribe", **fields},
    ]
    assert CoinbaseCodec(CodecProbe(("ticker",))).request_snapshot("BTC-USD") == []


def test_a_bad_update_of_a_symbol_that_nobody_asked_for_asks_for_nothing() -> None:
    _, probe = decode(say(UPDATE, product_id="DOGE-USD", changes=[["buy", "nan", "1"]]))
    assert [m[2] for m in probe.malformed_messages] == ["DOGE-USD"]
    assert probe.events == []


# Channels and names


def test_a_channel_that_was_not_asked_for_makes_nothing() -> None:
    payloads = [say(fields) for fields in (TICKER, MATCH, SNAPSHOT, UPDATE, HEARTBEAT)]
    for channel, kinds in (
        ("ticker", [Tick]),
        ("matches", [Trade]),
        ("level2_batch", [BookUpdate, BookUpdate]),
        ("heartbeat", []),
    ):
        items, probe = decode(*payloads, channels=(channel,))
        assert [type(item) for item in items] == kinds
        assert probe.ignored_count == 5 - len(kinds)


@pytest.mark.parametrize("asked", ["btc-usd", "BTC-USD", "Btc-Usd"])
def test_the_spelling_is_the_one_that_was_asked_in(asked: str) -> None:
    bad = say(UPDATE, changes=None)
    items, probe = decode(
        say(SNAPSHOT),
        say(TICKER),
        say(UPDATE),
        say(MATCH, trade_id=1),
        say(MATCH, trade_id=3),
        bad,
        symbols=(asked,),
    )
    assert {item.symbol for item in items} == {asked}
    assert probe.events == [("gap", asked, 1), ("need_snapshot", asked)]
    assert [m[2] for m in probe.malformed_messages] == [asked]


def test_requests() -> None:
    codec = CoinbaseCodec(CodecProbe(("ticker", "heartbeat")))
    (subscribe,) = codec.subscribe(["btc-usd", "ETH-USD"])
    assert json.loads(subscribe) == {
        "type": "subscribe",
        "product_ids": ["BTC-USD", "ETH-USD"],
        "channels": ["ticker", "heartbeat"],
    }
    (unsubscribe,) = codec.unsubscribe(["btc-usd"])
    assert json.loads(unsubscribe) == {
        "type": "unsubscribe",
        "product_ids": ["BTC-USD"],
        "channels": ["ticker", "heartbeat"],
    }
    assert codec.subscribe([]) == codec.unsubscribe([]) == []


# Refusals, and all the rest


def test_a_refusal_names_its_symbol_and_the_others_are_asked_for_again() -> None:
    symbols = ("BTC-USD", "gibberish-usd", "ETH-USD")
    items, probe = decode(say(ERROR), symbols=symbols, channels=("ticker",))
    assert items == []
    refused, reply = probe.events
    words = "Failed to subscribe: GIBBERISH-USD is not a valid product"
    assert refused == ("refused", "gibberish-usd", words, False)
    assert json.loads(reply[1])["product_ids"] == ["BTC-USD", "ETH-USD"]
    assert probe.ignored_count == 1


def test_what_was_acknowledged_or_given_up_is_not_asked_for_again() -> None:
    probe = CodecProbe(("ticker",))
    codec = CoinbaseCodec(probe)
    codec.subscribe(["BTC-USD", "GIBBERISH-USD", "ETH-USD", "SOL-USD"])
    codec.unsubscribe(["SOL-USD"])
    codec.decode([say(ACK), say(ERROR)])
    assert json.loads(probe.events[1][1])["product_ids"] == ["ETH-USD"]
    codec.decode([say(ERROR, reason="ETH-USD is not a valid product")])
    assert len(probe.events) == 3
    assert probe.events[2][:2] == ("refused", "ETH-USD")


@pytest.mark.parametrize(
    ("fields", "event"),
    [
        ({"message": "ErrSlowConsume"}, ("refused", None, "ErrSlowConsume", False)),
        ({}, ("refused", None, "an error", False)),
        ({"message": "Failed to unsubscribe", "reason": "x"}, ("answered", "unsubscribe", False)),
    ],
)
def test_other_errors(fields: dict[str, str], event: tuple[Any, ...]) -> None:
    _, probe = decode(say({"type": "error", **fields}))
    assert probe.events == [event]
    assert probe.ignored_count == 1


@pytest.mark.parametrize(
    "payload",
    [
        say(ACK),
        say(HEARTBEAT),
        say({"type": "status", "products": []}),
        say({"type": "auction", "product_id": "BTC-USD", "sequence": []}),
        say({"type": "subscriptions", "channels": []}),
        say({"type": "subscriptions", "channels": [{"name": "status"}]}),
    ],
)
def test_ignored(payload: bytes) -> None:
    items, probe = decode(payload)
    assert items == []
    assert probe.outcomes == (1, [], [])


BAD = ["nan", "inf", "-inf", "1e999", "x", "1 ", [], {}, True]


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {**TICKER, key: bad}
            for key in ("best_bid", "best_ask_size", "volume_24h")
            for bad in BAD
        ),
        *({**MATCH, key: bad} for key in ("price", "size") for bad in [*BAD, None, ""]),
        *({**UPDATE, "changes": [["buy", "1", bad]]} for bad in [*BAD, None, "", "-1"]),
        *({**SNAPSHOT, "asks": [[bad, "1"]]} for bad in [*BAD, None, ""]),
        *(
            {**fields, "product_id": bad}
            for fields in (TICKER, MATCH, UPDATE)
            for bad in ("", 7, None)
        ),
        *({**fields, "time": "2026-03-02T14:30:00"} for fields in (TICKER, MATCH, UPDATE)),
        *({**fields, "time": "9999-12-31T23:59:59-14:00"} for fields in (TICKER, MATCH, UPDATE)),
        {**TICKER, "best_bid_size": "-1"},
        {**TICKER, "sequence": "x"},
        {**MATCH, "side": "left"},
        {**MATCH, "trade_id": -1},
        {**UPDATE, "changes": [["left", "1", "1"]]},
        {**UPDATE, "changes": [["buy", "1"]]},
        {**SNAPSHOT, "bids": None},
        {**ACK, "channels": 5},
        {**HEARTBEAT, "last_trade_id": "x"},
        {"type": "error", "message": 5},
        {"type": ""},
        {"type": None},
        {"type": 5},
        {"product_id": "BTC-USD"},
        {},
    ],
    ids=repr,
)
def test_malformed(fields: dict[str, Any]) -> None:
    items, probe = decode(say(fields))
    assert items == []
    assert len(probe.malformed_messages) == 1
    assert probe.ignored_count == 0
    product = fields.get("product_id")
    named = product if isinstance(product, str) and product else None
    assert probe.malformed_messages[0][2] == named


def test_a_time_with_an_offset_is_converted() -> None:
    (item,), _ = decode(say(MATCH, time="2026-03-02T16:30:00.464459+02:00"))
    assert item.timestamp == AT
    assert item.timestamp.utcoffset() == timedelta()


@pytest.mark.parametrize("digits", range(10))
def test_a_fraction_has_any_number_of_digits(digits: int) -> None:
    fraction = "." + "123456789"[:digits] if digits else ""
    (item,), _ = decode(say(MATCH, time=f"2026-03-02T14:30:00{fraction}Z"))
    expected = AT.replace(microsecond=round(float("0" + fraction) * 1e6))
    assert item.timestamp == expected
