"""Binance: books, candles, aggregated trades, and what USD-M does otherwise."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.worlds.recordings import combined
from trio_ticks.feeds.venues import find_language
from trio_ticks.feeds.venues.binance_messages import book_depth, chosen_book
from trio_ticks.testing import CodecProbe, check_codec
from trio_ticks.ticks import Bar, BookUpdate, Tick, Trade

ARRIVED = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
AT = datetime(2024, 8, 8, 23, 54, 15, 208000, UTC)
MS = 1723161255208

LEVELS: dict[str, Any] = {
    "b": [["61737.63000000", "0.00000000"], ["61730.5", "1.25"]],
    "a": [["61837.64000000", "1.54698000"]],
}
DEPTH = {"e": "depthUpdate", "E": MS, "s": "BTCUSDT", "U": 189, "u": 202, **LEVELS}
PARTIAL = {
    "lastUpdateId": 160,
    "bids": [["0.0024", "10"], ["0.0022", "5"]],
    "asks": [["0.0026", "100"]],
}
TOTAL = {
    "e": "aggTrade",
    "E": MS + 1,
    "s": "BTCUSDT",
    "a": 3095812001,
    "p": "61685.99000000",
    "q": "0.00500000",
    "f": 3735693016,
    "l": 3735693018,
    "T": MS,
    "m": True,
    "M": True,
}
CANDLE = {
    "t": 1723161600000,
    "T": 1723161659999,
    "s": "BTCUSDT",
    "i": "1m",
    "f": 3735693010,
    "L": 3735693030,
    "o": "61686.00",
    "c": "61685.99",
    "h": "61686.50",
    "l": "61685.98",
    "v": "1.20",
    "n": 21,
    "x": False,
    "q": "74023.2",
    "V": "0.50",
    "Q": "30843.0",
    "B": "0",
}
KLINE = {"e": "kline", "E": 1723161602001, "s": "BTCUSDT", "k": CANDLE}
UPDATE = BookUpdate(
    "BTCUSDT",
    AT,
    [(61737.63, 0), (61730.5, 1.25)],
    [(61837.64, 1.54698)],
    first_sequence=189,
    last_sequence=202,
)


def whole(moment: datetime, depth: int | None = None, symbol: str = "BTCUSDT") -> BookUpdate:
    return BookUpdate(
        symbol,
        moment,
        [(0.0024, 10), (0.0022, 5)],
        [(0.0026, 100)],
        snapshot=True,
        last_sequence=160,
        depth=depth,
    )


def text(stream: str | None, fields: dict[str, Any]) -> bytes:
    """Return a combined frame, or a raw one where *stream* is ``None``."""
    return (json.dumps(fields) if stream is None else combined(stream, **fields)).encode()


def decode(
    *payloads: bytes,
    channels: str | tuple[str, ...],
    venue: str = "binance",
    symbols: tuple[str, ...] = ("BTCUSDT",),
) -> tuple[list[Any], CodecProbe]:
    """Decode *payloads* as one batch, after the subscription."""
    language = find_language(venue, channels)
    probe = CodecProbe(language.channels, ARRIVED)
    codec = language.new_codec(probe)
    codec.subscribe(list(symbols))
    return list(codec.decode(payloads)), probe


def streams(venue: str, channels: str | tuple[str, ...]) -> list[str]:
    """Return the streams that are subscribed to, without the symbol."""
    language = find_language(venue, channels)
    (request,) = language.new_codec(CodecProbe(language.channels)).subscribe(["BTCUSDT"])
    return [name.removeprefix("btcusdt@") for name in json.loads(request)["params"]]


# Order books


@pytest.mark.parametrize("stream", ["btcusdt@depth", "btcusdt@depth@100ms", None])
def test_the_changes_of_a_book(stream: str | None) -> None:
    items, probe = decode(text(stream, DEPTH), channels="depth")
    assert items == [UPDATE]
    assert probe.outcomes == CodecProbe().outcomes


@pytest.mark.parametrize("stream", ["btcusdt@depth20", "btcusdt@depth20@100ms"])
def test_the_best_levels_replace_the_book_and_came_now(stream: str) -> None:
    items, probe = decode(text(stream, PARTIAL), channels="depth20")
    assert items == [whole(ARRIVED, 20)]
    assert probe.outcomes == CodecProbe().outcomes


def test_best_levels_without_a_stream_are_the_only_symbols() -> None:
    assert decode(text(None, PARTIAL), channels="depth5")[0] == [whole(ARRIVED, 5)]
    items, probe = decode(text(None, PARTIAL), channels="depth5", symbols=("A", "B"))
    assert (items, probe.ignored_count) == ([], 1)


def test_a_recorded_answer_over_rest_is_the_snapshot() -> None:
    assert decode(text(None, PARTIAL), channels="depth")[0] == [whole(ARRIVED)]
    assert decode(text("ethusdt@depth", PARTIAL), channels="depth")[0] == [
        whole(ARRIVED, symbol="ETHUSDT")
    ]


def test_of_the_whole_book_no_best_levels_are_made() -> None:
    many = {**PARTIAL, "asks": [["1", "1"]] * 6}
    items, probe = decode(text(None, many), channels="depth5")
    assert (items, probe.ignored_count, probe.malformed_messages) == ([], 1, [])


@pytest.mark.parametrize(
    ("channels", "stream"),
    [("depth", "btcusdt@depth20"), ("depth20", "btcusdt@depth5"), ("trade", "btcusdt@depth5")],
)
def test_another_book_than_the_one_asked_for_is_ignored(channels: str, stream: str) -> None:
    items, probe = decode(text(stream, PARTIAL), channels=channels)
    assert (items, probe.ignored_count, probe.malformed_messages) == ([], 1, [])
    items, probe = decode(text("btcusdt@depth", DEPTH), channels="depth5")
    assert (items, probe.ignored_count, probe.malformed_messages) == ([], 1, [])


@pytest.mark.parametrize("book", ["depth", "depth20"])
def test_where_only_books_are_wanted_all_else_is_ignored(book: str) -> None:
    other = [
        text("btcusdt@aggTrade", TOTAL),
        text("btcusdt@kline_1m", KLINE),
        text("btcusdt@bookTicker", {"s": "BTCUSDT", "b": "1", "B": "2", "a": "3", "A": "4"}),
        # What a stream is called decides, and not what its messages look like.
        text("btcusdt@kline_1m", DEPTH | KLINE),
        text("btcusdt@rollingWindow", DEPTH),
        text(None, {"result": None, "id": 1}),
    ]
    items, probe = decode(*other, text("btcusdt@depth", DEPTH), channels=book)
    assert items == ([UPDATE] if book == "depth" else [])
    ignored = len(other) + (book != "depth")
    assert (probe.ignored_count, probe.malformed_messages) == (ignored, [])


@pytest.mark.parametrize("second", ["trade", "bookTicker", "kline_1m"])
def test_books_beside_other_channels(second: str) -> None:
    items, probe = decode(text("btcusdt@depth", DEPTH), channels=("depth", second))
    assert items == [UPDATE]
    assert probe.outcomes == CodecProbe().outcomes


@pytest.mark.parametrize(
    ("channels", "chosen"),
    [
        (("depth5", "depth20"), "depth20"),
        (("depth20", "depth"), "depth"),
        (("depth", "depth@100ms"), "depth@100ms"),
        (("depth10@100ms", "depth10"), "depth10@100ms"),
        (("bookTicker",), None),
    ],
)
def test_one_book_is_taken(channels: tuple[str, ...], chosen: str | None) -> None:
    assert chosen_book(channels) == chosen
    assert chosen_book(channels[::-1]) == chosen


def test_the_depth_in_a_name() -> None:
    names = ("depth", "depth@100ms", "depth5", "depth20@100ms", "depthx", "trade", None)
    assert [book_depth(name) for name in names] == [0, 0, 5, 20, None, None, None]


BAD_LEVELS = [[["x", "1"]], [["nan", "1"]], [["1", "-1"]], [["1", "inf"]], [["1"]], "x", [None]]


@pytest.mark.parametrize("side", ["b", "a"])
@pytest.mark.parametrize("levels", BAD_LEVELS)
def test_a_bad_level_is_malformed_and_names_its_symbol(side: str, levels: Any) -> None:
    payload = text("btcusdt@depth", {**DEPTH, side: levels})
    items, probe = decode(payload, text("btcusdt@depth", DEPTH), channels="depth")
    assert items == [UPDATE]
    ((told, _, symbol),) = probe.malformed_messages
    assert (told, symbol) == (payload, "BTCUSDT")


@pytest.mark.parametrize("side", ["bids", "asks"])
@pytest.mark.parametrize("levels", BAD_LEVELS)
def test_a_bad_one_of_the_best_levels_names_its_symbol(side: str, levels: Any) -> None:
    payload = text("btcusdt@depth5", {**PARTIAL, side: levels})
    items, probe = decode(payload, channels="depth5", symbols=("btcusdt",))
    assert items == []
    assert [symbol for _, _, symbol in probe.malformed_messages] == ["btcusdt"]


@pytest.mark.parametrize(
    "change", [{"u": 0}, {"U": 0}, {"U": 203}, {"u": None}, {"U": "x"}, {"E": 2**62}, {"u": -5}]
)
def test_a_book_needs_its_numbers_and_its_time(change: dict[str, Any]) -> None:
    items, probe = decode(text("btcusdt@depth", {**DEPTH, **change}), channels="depth")
    assert items == []
    assert [symbol for _, _, symbol in probe.malformed_messages] == ["BTCUSDT"]


# Trades


@pytest.mark.parametrize("stream", ["btcusdt@aggTrade", None])
def test_an_aggregated_trade(stream: str | None) -> None:
    items, probe = decode(text(stream, TOTAL), channels="aggTrade")
    assert items == [Trade("BTCUSDT", AT, 61685.99, 0.005, "sell", "3095812001")]
    assert probe.outcomes == CodecProbe().outcomes


def test_a_hole_in_the_aggregated_trades_is_a_gap() -> None:
    payloads = [text("btcusdt@aggTrade", {**TOTAL, "a": n}) for n in (7, 8, 11)]
    items, probe = decode(*payloads, channels="aggTrade")
    assert len(items) == 3
    assert probe.events == [("gap", "BTCUSDT", 2)]


@pytest.mark.parametrize("number", ["x", None, "nan", 1.5])
def test_an_aggregated_trade_needs_its_number(number: object) -> None:
    items, probe = decode(text(None, {**TOTAL, "a": number}), channels="aggTrade")
    assert (items, len(probe.malformed_messages)) == ([], 1)


def test_each_trade_comes_once_and_is_counted_once() -> None:
    quote = {"u": 1, "s": "BTCUSDT", "b": "1", "B": "1", "a": "2", "A": "1"}
    trade = {"e": "trade", "s": "BTCUSDT", "t": 7, "p": "1", "q": "0.5", "T": MS, "m": False}
    payloads = [
        text("btcusdt@aggTrade", TOTAL),
        text("btcusdt@trade", trade),
        text("btcusdt@bookTicker", quote),
    ]
    for kinds, volume in ((("trade", "aggTrade"), 0.5), (("aggTrade",), 0.005)):
        items, _ = decode(*payloads, channels=("bookTicker", *kinds))
        (made,) = [item for item in items if isinstance(item, Trade)]
        assert made.size == volume
        assert [item.volume for item in items if isinstance(item, Tick)] == [volume]


# Candles


@pytest.mark.parametrize("stream", ["btcusdt@kline_1m", None])
@pytest.mark.parametrize("closed", [False, True])
def test_a_candle_is_closed_where_the_venue_says_so(stream: str | None, closed: bool) -> None:
    payload = text(stream, {**KLINE, "k": {**CANDLE, "x": closed}})
    items, probe = decode(payload, channels="kline_1m")
    begin = datetime(2024, 8, 9, tzinfo=UTC)
    assert items == [
        Bar("BTCUSDT", begin, 60, 61686, 61686.5, 61685.98, 61685.99, 1.2, closed=closed)
    ]
    assert probe.outcomes == CodecProbe().outcomes


def test_the_length_of_a_month_is_its_own() -> None:
    february = {**CANDLE, "i": "1M", "t": 1706745600000, "T": 1709251199999}
    (bar,), _ = decode(text(None, {**KLINE, "k": february}), channels="kline_1M")
    assert bar.interval_s == 29 * 86_400


def test_times_in_microseconds() -> None:
    fine = {**CANDLE, "t": 1723161600000000, "T": 1723161659999999}
    (bar,), _ = decode(text(None, {**KLINE, "k": fine}), channels="kline_1m")
    assert (bar.timestamp, bar.interval_s) == (datetime(2024, 8, 9, tzinfo=UTC), 60)


def test_other_intervals_are_ignored() -> None:
    items, probe = decode(text("btcusdt@kline_1m", KLINE), channels="kline_5m")
    assert (items, probe.ignored_count, probe.malformed_messages) == ([], 1, [])


@pytest.mark.parametrize(
    "change", [{"o": "nan"}, {"h": None}, {"v": "-1"}, {"x": "x"}, {"t": 0}, {"T": 5}, {"i": 1}]
)
def test_a_broken_candle(change: dict[str, Any]) -> None:
    payload = text("btcusdt@kline_1m", {**KLINE, "k": {**CANDLE, **change}})
    items, probe = decode(payload, channels="kline_1m")
    assert items == []
    assert [symbol for _, _, symbol in probe.malformed_messages] == ["BTCUSDT"]


# USD-M futures


def test_the_futures_quote_has_its_time() -> None:
    quote = {"e": "bookTicker", "u": 1, "s": "BTCUSDT", "b": "1", "B": "2", "a": "3", "A": "4"}
    for stream in ("btcusdt@bookTicker", None):
        payload = text(stream, {**quote, "T": MS, "E": MS + 5})
        items, probe = decode(payload, channels="bookTicker", venue="binance-usdm")
        assert items == [Tick("BTCUSDT", AT, 1, 3, 2, 4, math.nan)]
        assert probe.outcomes == CodecProbe().outcomes


def test_the_futures_update_begins_after_the_one_before_it() -> None:
    fields = {**DEPTH, "T": MS, "E": MS + 3, "U": 170, "pu": 150}
    items, _ = decode(text("btcusdt@depth", fields), channels="depth", venue="binance-usdm")
    assert [(item.first_sequence, item.last_sequence) for item in items] == [(151, 202)]
    assert items[0].timestamp == AT
    payload = text("btcusdt@depth", DEPTH)
    items, probe = decode(payload, channels="depth", venue="binance-usdm")
    assert (items, len(probe.malformed_messages)) == ([], 1)


def test_the_futures_best_levels_look_like_changes() -> None:
    fields = {**DEPTH, "T": MS, "pu": 150}
    payload = text("btcusdt@depth5@500ms", fields)
    (item,), _ = decode(payload, channels="depth5@500ms", venue="binance-usdm")
    assert (item.snapshot, item.depth, item.last_sequence) == (True, 5, 202)


def test_the_futures_have_two_addresses() -> None:
    public, market = find_language("binance-usdm"), find_language("binance-usdm-market")
    assert (public.url, market.url) == (
        "wss://fstream.binance.com/public/stream",
        "wss://fstream.binance.com/market/stream",
    )
    assert streams("binance-usdm", ("bookTicker", "depth5@500ms")) == ["bookTicker", "depth5@500ms"]
    assert streams("binance-usdm-market", "all")[:2] == ["aggTrade", "kline_1m"]
    assert not set(public.all_channels) & set(market.all_channels)


# What all have in common


def test_all_channels_are_those_that_make_sense_together() -> None:
    found = streams("binance", "all")
    assert found[:3] == ["bookTicker", "trade", "depth@100ms"]
    assert all(name.startswith("kline_") for name in found[3:])
    assert len(found) == 3 + 16


@pytest.mark.parametrize(
    ("payload", "place"),
    [
        (text("a@bookTicker", {"u": 5, "s": "A", "b": "1"}), ("a@bookTicker", 5)),
        (text("a@trade", {"e": "trade", "t": 7, "u": 1}), ("a@trade", 1)),
        (text("a@aggTrade", {"e": "aggTrade", "a": 9, "l": 3}), ("a@aggTrade", 9)),
        (text("a@depth20", {"lastUpdateId": 4}), ("a@depth20", 4)),
        (text("a@kline_1m", KLINE), ("a@kline_1m", 1723161602001)),
        (text(None, DEPTH), ("BTCUSDT@depth", 202)),
        (text(None, TOTAL), ("BTCUSDT@aggTrade", 3095812001)),
        (b'{"result":null,"id":1}', None),
        (b'{"e":"serverShutdown","E":1}', None),
        (text("a@trade", {"e": "trade", "t": True}), None),
        (text("a@trade", {"e": "trade", "t": "7"}), None),
        (b"junk", None),
        (b"[1]", None),
        (b"", None),
    ],
)
def test_the_place_of_a_message_in_its_stream(
    payload: bytes, place: tuple[str, int] | None
) -> None:
    codec = find_language("binance").new_codec(CodecProbe(("bookTicker",)))
    assert codec.place_of(payload) == place


def test_a_successor_goes_on_with_volumes_and_numbers() -> None:
    trade = {"e": "trade", "s": "BTCUSDT", "t": 7, "p": "1", "q": "0.5", "T": MS, "m": False}
    quote = {"u": 1, "s": "BTCUSDT", "b": "1", "B": "1", "a": "2", "A": "1"}
    language = find_language("binance", ("bookTicker", "trade"))
    first = language.new_codec(CodecProbe(language.channels))
    probe = CodecProbe(language.channels)
    second = language.new_codec(probe)
    for codec in (first, second):
        codec.subscribe(["BTCUSDT"])
    first.decode([text("btcusdt@trade", trade)])
    second.succeed(first)
    items = second.decode(
        [text("btcusdt@trade", {**trade, "t": 10}), text("btcusdt@bookTicker", quote)]
    )
    assert items[1].volume == 1.0
    assert probe.events == [("gap", "BTCUSDT", 2)]


@pytest.mark.parametrize("venue", ["binance", "binance-usdm", "binance-usdm-market"])
def test_check_codec_finds_no_fault(venue: str) -> None:
    messages = [
        text("btcusdt@depth@100ms", {**DEPTH, "pu": 188}),
        text("btcusdt@depth20", PARTIAL),
        text(None, PARTIAL),
        text("btcusdt@aggTrade", TOTAL),
        text("btcusdt@aggTrade", {**TOTAL, "a": 3095812005}),
        text("btcusdt@kline_1m", KLINE),
        text(None, KLINE),
        text("btcusdt@depth@100ms", {**DEPTH, "pu": 188, "b": [["x", "1"]]}),
        text("btcusdt@bookTicker", {"u": 1, "s": "BTCUSDT", "b": 1, "B": 1, "a": 2, "A": 1}),
        b'{"result":null,"id":1}',
    ]
    for channels in (None, "all"):
        check_codec(venue, messages, ["btcusdt"], channels=channels)
    if venue != "binance-usdm-market":
        check_codec(venue, messages, ["BTCUSDT", "ETHUSDT"], channels=("depth20", "bookTicker"))
