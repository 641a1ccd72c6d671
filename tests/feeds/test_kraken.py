"""The Kraken codec: quotes, books, trades, candles, and all that is none of them."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

import trio_ticks as tt
from tests.worlds.recordings import KRAKEN, needs_real
from trio_ticks.exchange.kraken import KrakenVenue
from trio_ticks.exchange.market import Market
from trio_ticks.feeds.venues.kraken import KrakenCodec
from trio_ticks.feeds.venues.kraken_checksum import KrakenChecksum
from trio_ticks.testing import CodecProbe, check_codec

ARRIVED = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
ALL = KrakenCodec.channels

# Samples of the vendor's documentation, digit for digit.
STATUS = (
    '{"channel":"status","type":"update","data":[{"version":"2.0.10","system":"online",'
    '"api_version":"v2","connection_id":17408390984690501469}]}'
)
TICKER = (
    '{"channel":"ticker","type":"snapshot","data":[{"symbol":"BTC/USD","bid":78500.6,'
    '"bid_qty":0.03755097,"ask":78500.7,"ask_qty":0.05733533,"last":78500.7,"volume":812.45,'
    '"vwap":78390.1,"low":77601.0,"high":80529.9,"change":250.0,"change_pct":0.32,'
    '"timestamp":"2026-08-26T11:55:56.663054Z"}]}'
)
BOOK = (
    '{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[],'
    '"asks":[{"price":78503.1,"qty":1.15329850}],"checksum":400418376,'
    '"timestamp":"2026-08-26T11:55:56.960852Z"}]}'
)
TRADE = (
    '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"buy",'
    '"price":78500.7,"qty":0.00027625,"ord_type":"limit","trade_id":10218208,'
    '"timestamp":"2026-08-26T11:55:57.440295Z"}]}'
)
OHLC = (
    '{"channel":"ohlc","type":"update","data":[{"symbol":"BTC/USD","interval":1,'
    '"interval_begin":"2026-08-26T11:55:00.000000000Z","open":78490.0,"high":78503.1,'
    '"low":78480.0,"close":78500.7,"volume":3.1,"vwap":78495.2,"trades":12}]}'
)
INSTRUMENT = (
    '{"channel":"instrument","type":"snapshot","data":{"assets":[],"pairs":[{"symbol":"BTC/USD",'
    '"status":"online","qty_precision":8,"qty_increment":1e-08,"price_precision":1}]}}'
)
HEARTBEAT = '{"channel":"heartbeat"}'
ACK = (
    '{"method":"subscribe","result":{"channel":"ticker","event_trigger":"bbo","snapshot":true,'
    '"symbol":"BTC/USD"},"success":true,"time_in":"2026-08-26T11:55:56.381072Z",'
    '"time_out":"2026-08-26T11:55:56.381094Z","req_id":1}'
)
REFUSAL = (
    '{"error":"Currency pair not supported XBT/USD","method":"subscribe","req_id":1,'
    '"success":false,"symbol":"XBT/USD","time_in":"2026-08-26T11:55:56.381008Z",'
    '"time_out":"2026-08-26T11:55:56.381042Z"}'
)
PONG = (
    '{"method":"pong","req_id":101,"time_in":"2026-08-26T11:56:00.123456Z",'
    '"time_out":"2026-08-26T11:56:00.123500Z"}'
)
WHEN = datetime(2026, 8, 26, 11, 55, 56, 663054, UTC)
TICK = tt.Tick("BTC/USD", WHEN, 78500.6, 78500.7, 0.03755097, 0.05733533, 812.45)


def changed(message: str, **changes: Any) -> str:
    """Return *message* with other fields in its first entry; ``...`` removes one."""
    fields = json.loads(message)
    entry = fields["data"][0]
    entry.update(changes)
    for name in [name for name, value in changes.items() if value is ...]:
        del entry[name]
    return json.dumps(fields)


def decode(
    *messages: str, channels: tuple[str, ...] = ALL, symbols: tuple[str, ...] = ("BTC/USD",)
) -> tuple[list[Any], CodecProbe]:
    """Decode *messages* as one batch, after the subscription."""
    probe = CodecProbe(channels, ARRIVED)
    codec = KrakenCodec(probe)
    codec.subscribe(symbols)
    return codec.decode([message.encode() for message in messages]), probe


# Quotes


def test_a_ticker_is_a_tick() -> None:
    items, probe = decode(TICKER)
    assert items == [TICK]
    assert items[0].timestamp.tzinfo is UTC
    assert probe.outcomes == (0, [], [])


def test_several_tickers_in_a_message() -> None:
    fields = json.loads(TICKER)
    fields["data"].append({**fields["data"][0], "symbol": "ETH/USD"})
    items, _ = decode(json.dumps(fields))
    assert [item.symbol for item in items] == ["BTC/USD", "ETH/USD"]


@pytest.mark.parametrize("name", ["bid_qty", "ask_qty", "volume"])
def test_what_the_venue_does_not_say_is_nan(name: str) -> None:
    ((tick,), _) = decode(changed(TICKER, **{name: ...}))
    field = {"bid_qty": "bid_size", "ask_qty": "ask_size"}.get(name, name)
    assert math.isnan(getattr(tick, field))


def test_a_ticker_without_a_time_has_the_time_of_its_arrival() -> None:
    ((tick,), _) = decode(changed(TICKER, timestamp=...))
    assert tick.timestamp == ARRIVED


def test_a_time_in_another_zone_is_converted() -> None:
    ((tick,), _) = decode(changed(TICKER, timestamp="2026-08-26T13:55:56.663054+02:00"))
    assert tick == TICK
    assert tick.timestamp.tzinfo is UTC


@pytest.mark.parametrize("name", ["bid", "ask"])
def test_a_withdrawn_quote_is_a_gap(name: str) -> None:
    items, probe = decode(changed(TICKER, **{name: None}))
    assert items == []
    assert probe.outcomes == (1, [], [("gap", "BTC/USD", 0)])


@pytest.mark.parametrize(
    "message",
    [
        changed(TICKER, bid=...),
        changed(TICKER, bid="78500.6"),
        changed(TICKER, ask_qty=-1),
        changed(TICKER, symbol=""),
        changed(TICKER, timestamp="today"),
        changed(BOOK, symbol=...),
        changed(BOOK, asks=[{"price": 1}, {"qty": 1}]),
        changed(BOOK, bids=[[1, 2]]),
        changed(TRADE, price=...),
        changed(TRADE, side="up"),
        changed(TRADE, timestamp=...),
        changed(OHLC, high=...),
        changed(OHLC, interval_begin=...),
        '{"channel":"book","data":{}}',
        '{"channel":"book","type":"snapshot"}',
        '{"channel":"trade","type":"update"}',
        "{}",
        "[]",
        "junk",
    ],
)
def test_what_makes_no_sense_is_malformed(message: str) -> None:
    items, probe = decode(message)
    assert items == []
    assert probe.ignored_count == 0
    (malformed,) = probe.malformed_messages
    assert malformed[2] == ("BTC/USD" if '"BTC/USD"' in message else None)


# Books


@pytest.mark.parametrize("channel", ["ticker", "book", "trade", "ohlc"])
def test_a_message_about_nothing_is_counted(channel: str) -> None:
    items, probe = decode(f'{{"channel":"{channel}","type":"update","data":[]}}')
    assert items == []
    assert probe.ignored_count + len(probe.malformed_messages) == 1


def test_a_book_update_keeps_its_message_for_the_digits() -> None:
    items, _ = decode(BOOK, channels=("book-25",))
    when = datetime(2026, 8, 26, 11, 55, 56, 960852, UTC)
    assert items == [
        tt.BookUpdate("BTC/USD", when, (), ((78503.1, 1.1532985),), depth=25, checksum=400418376)
    ]
    assert items[0].message == BOOK.encode()
    assert items[0].timestamp.tzinfo is UTC


def test_the_depth_is_the_one_that_was_acknowledged() -> None:
    ack = (
        '{"method":"subscribe","result":{"channel":"book","depth":100,"snapshot":true,'
        '"symbol":"BTC/USD"},"success":true}'
    )
    items, _ = decode(BOOK, ack, BOOK, channels=("book",))
    assert [item.depth for item in items] == [10, 100]


def test_a_snapshot_deeper_than_the_depth_tells_the_depth() -> None:
    levels = [{"price": n, "qty": 1} for n in range(1, 18)]
    snapshot = changed(BOOK, bids=levels, asks=[]).replace('"update"', '"snapshot"')
    ((item,), _) = decode(snapshot, channels=("book",))
    assert (item.snapshot, item.depth, len(item.bids)) == (True, 25, 17)


# Known answer of the vendor's guide.
ASKS = """45285.2@0.00100000 45286.4@1.54571953 45286.6@1.54571109 45289.6@1.54560911
45290.2@0.15890660 45291.8@1.54553491 45294.7@0.04454749 45296.1@0.35380000
45297.5@0.09945542 45299.5@0.18772827"""
BIDS = """45283.5@0.10000000 45283.4@1.54582015 45282.1@0.10000000 45281.0@0.10000000
45280.3@1.54592586 45279.0@0.07990000 45277.6@0.03310103 45277.5@0.30000000
45277.3@1.54602737 45276.6@0.15445238"""


def guide(checksum: int = 3310070434, *, exponent: bool = False) -> str:
    def levels(text: str) -> str:
        pairs = [level.split("@") for level in text.split()]
        return ",".join(f'{{"price":{price},"qty":{size}}}' for price, size in pairs)

    asks = ASKS.replace("0.00100000", "1.00000e-03") if exponent else ASKS
    return (
        f'{{"channel":"book","type":"snapshot","data":[{{"symbol":"BTC/USD","bids":'
        f'[{levels(BIDS)}],"asks":[{levels(asks)}],"checksum":{checksum}}}]}}'
    )


@pytest.mark.parametrize("number", ["1e-9999999999", "0e-9999999999"])
@pytest.mark.parametrize("name", ["price", "qty"])
def test_an_exponent_is_not_written_out_whatever_it_is(name: str, number: str) -> None:
    """Each of these would be digits by the gigabyte."""
    level = {"price": 1.0, "qty": 1.0, name: "number"}
    shown = changed(BOOK, bids=[level], asks=[], checksum=5).replace('"number"', number)
    ((update,), _) = decode(shown, channels=("book",))
    book = tt.Book("BTC/USD", checksum=KrakenChecksum())
    book.apply(tt.BookUpdate("BTC/USD", WHEN, snapshot=True, depth=10))
    assert book.apply(update) == "wrong"


def test_a_checksum_has_32_bits() -> None:
    _, probe = decode(changed(BOOK, checksum=2**70), changed(BOOK, checksum=-1))
    assert [symbol for _, _, symbol in probe.outcomes[1]] == ["BTC/USD"] * 2


@pytest.mark.parametrize("exponent", [False, True])
def test_the_checksum_of_the_vendors_guide(exponent: bool) -> None:
    ((snapshot,), _) = decode(guide(exponent=exponent), channels=("book",))
    book = tt.Book("BTC/USD", checksum=KrakenChecksum())
    assert book.apply(snapshot) == "applied"
    assert book.ask == (45285.2, 0.001)
    ((snapshot,), _) = decode(guide(3310070435, exponent=exponent), channels=("book",))
    assert book.apply(snapshot) == "wrong"


def test_several_books_in_a_message_are_checked_each_for_itself() -> None:
    entry = guide()[guide().index('{"symbol"') : -2]
    both = guide()[:-2] + "," + entry.replace("BTC/USD", "ETH/USD") + "]}"
    items, _ = decode(both, channels=("book",), symbols=("BTC/USD", "ETH/USD"))
    assert [item.symbol for item in items] == ["BTC/USD", "ETH/USD"]
    for item in items:
        assert tt.Book(item.symbol, checksum=KrakenChecksum()).apply(item) == "applied"


def test_a_book_without_digits_is_not_checked() -> None:
    book = tt.Book("BTC/USD", checksum=KrakenChecksum())
    whole = tt.BookUpdate("BTC/USD", WHEN, ((1, 1),), ((2, 1),), snapshot=True, checksum=5)
    assert book.apply(whole) == "applied"
    ((change,), _) = decode(changed(BOOK, checksum=7), channels=("book",))
    assert book.apply(change) == "applied"
    assert tt.Book("A", checksum=KrakenChecksum()).apply(
        tt.BookUpdate("A", WHEN, snapshot=True, checksum=5, message=b"junk")
    ) == ("wrong")


def made(count: int, depth: int = 10) -> list[str]:
    """Make a recording of the local Kraken's: a snapshot, and all updates."""
    venue = KrakenVenue(["BTC/USD"], seed=7)
    session = venue.new_session()
    market = Market(["BTC/USD"], rate=math.inf, seed=7)
    first, *rest = market.take(math.inf, count, "")
    venue.take(first, ARRIVED)
    messages = session.greet(ARRIVED)
    for channel in ("book", "ticker", "trade", "ohlc", "instrument"):
        params: dict[str, Any] = {
            "channel": channel,
            "symbol": ["BTC/USD"],
            "snapshot": channel != "trade",
        }
        if channel == "book":
            params["depth"] = depth
        request = json.dumps({"method": "subscribe", "params": params})
        messages += session.receive(request, ARRIVED, 0.0)
    for tick in rest:
        messages += session.offer(venue.take(tick, ARRIVED))
    messages += session.beat(ARRIVED)
    return [message.decode() for message in messages]


def keep_book(messages: list[str]) -> tuple[int, int, tt.Book]:
    """Keep a checked book of *messages*.

    Returns:
        How many updates had the right checksum; how many had another one when a digit
        of one of their levels was left out; the book.
    """
    items, probe = decode(*messages, channels=("book",))
    assert probe.malformed_messages == []
    updates = [item for item in items if isinstance(item, tt.BookUpdate)]
    book = tt.Book("BTC/USD", checksum=KrakenChecksum())
    for update in updates:
        assert book.apply(update) == "applied", book.reason
    spoilt = 0
    for wanted in range(1, 11):
        # The same book again, but for one digit of its level number *wanted*.
        other = tt.Book("BTC/USD", checksum=KrakenChecksum())
        whole = json.loads(messages_of(updates[0]))
        whole["data"][0]["bids"][wanted - 1]["qty"] = 987654.0
        ((first,), _) = decode(json.dumps(whole), channels=("book",))
        spoilt += other.apply(first) == "wrong"
    return book.applied, spoilt, book


def messages_of(update: tt.BookUpdate) -> bytes:
    assert update.message is not None
    return update.message


@needs_real
def test_all_checksums_of_the_real_recording_are_right() -> None:
    messages = [json.loads(line)["payload"] for line in KRAKEN.read_text().splitlines()]
    right, spoilt, book = keep_book(messages)
    assert (right, spoilt) == (43, 10)
    assert book.depth == 25
    assert len(book.bids()) == len(book.asks()) == 25


@pytest.mark.parametrize("depth", [10, 25, 100, 500, 1000])
def test_all_checksums_of_a_made_recording_are_right(depth: int) -> None:
    right, spoilt, book = keep_book(made(150, depth))
    assert 50 < right <= 150
    assert spoilt == 10
    assert len(book.bids()) == len(book.asks()) == book.depth == depth


# Trades and candles


def test_a_trade() -> None:
    items, _ = decode(TRADE)
    when = datetime(2026, 8, 26, 11, 55, 57, 440295, UTC)
    assert items == [tt.Trade("BTC/USD", when, 78500.7, 0.00027625, "buy", "10218208")]
    ((trade,), _) = decode(changed(TRADE, trade_id=..., side="sell"))
    assert (trade.side, trade.trade_id) == ("sell", None)


@pytest.mark.parametrize("message", [TRADE, OHLC])
def test_history_makes_no_items(message: str) -> None:
    items, probe = decode(message.replace('"update"', '"snapshot"'))
    assert (items, probe.ignored_count) == ([], 1)


def test_a_candle_is_open_until_the_next_one_begins() -> None:
    later = changed(OHLC, interval_begin="2026-08-26T11:56:00.000000000Z", open=1, volume=0.5)
    items, _ = decode(OHLC, changed(OHLC, close=78499.9, volume=4), later)
    opened = datetime(2026, 8, 26, 11, 55, tzinfo=UTC)
    first = tt.Bar("BTC/USD", opened, 60, 78490, 78503.1, 78480, 78500.7, 3.1, closed=False)
    second = tt.Bar("BTC/USD", opened, 60, 78490, 78503.1, 78480, 78499.9, 4, closed=False)
    done = tt.Bar("BTC/USD", opened, 60, 78490, 78503.1, 78480, 78499.9, 4, closed=True)
    assert items[:3] == [first, second, done]
    assert (items[3].open, items[3].closed) == (1, False)
    assert len(items) == 4


def test_candles_of_several_lengths_and_of_none_that_was_asked_for() -> None:
    five = changed(OHLC, interval=5)
    items, probe = decode(OHLC, five, OHLC, channels=("ohlc-5",))
    assert [item.interval_s for item in items] == [300]
    assert probe.ignored_count == 2


def test_a_channel_that_was_not_asked_for_makes_nothing() -> None:
    for chosen, kind in (
        ("ticker", tt.Tick),
        ("ticker-trades", tt.Tick),
        ("book", tt.BookUpdate),
        ("trade", tt.Trade),
        ("ohlc", tt.Bar),
    ):
        items, probe = decode(TICKER, BOOK, TRADE, OHLC, channels=(chosen,))
        assert [type(item) for item in items] == [kind]
        assert probe.ignored_count == 3


# Requests


def requests(*channels: str, symbols: tuple[str, ...] = ("BTC/USD", "ETH/USD")) -> list[Any]:
    codec = KrakenCodec(CodecProbe(channels))
    return [json.loads(request) for request in codec.subscribe(symbols)]


def test_requests() -> None:
    both = ["BTC/USD", "ETH/USD"]
    assert requests("ticker") == [
        {
            "method": "subscribe",
            "params": {
                "channel": "ticker",
                "symbol": both,
                "event_trigger": "bbo",
                "snapshot": True,
            },
            "req_id": 1,
        }
    ]
    found = [request["params"] for request in requests(*ALL)]
    assert found[:3] == [
        {"channel": "ticker", "symbol": both, "event_trigger": "bbo", "snapshot": True},
        {"channel": "book", "symbol": both, "depth": 1000, "snapshot": True},
        {"channel": "trade", "symbol": both, "snapshot": False},
    ]
    assert [params["interval"] for params in found[3:-1]] == [
        *(1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
    ]
    assert found[-1] == {"channel": "instrument", "snapshot": True}
    assert requests("ticker-trades")[0]["params"]["event_trigger"] == "trades"


def test_many_symbols_need_several_requests() -> None:
    found = requests("trade", symbols=tuple(f"S{n}/USD" for n in range(250)))
    assert [len(request["params"]["symbol"]) for request in found] == [100, 100, 50]


def test_unsubscribing_repeats_the_depth() -> None:
    codec = KrakenCodec(CodecProbe(("book-100",)))
    codec.subscribe(["BTC/USD"])
    (request,) = codec.unsubscribe(["BTC/USD"])
    assert json.loads(request) == {
        "method": "unsubscribe",
        "params": {"channel": "book", "symbol": ["BTC/USD"], "depth": 100, "snapshot": True},
        "req_id": 2,
    }


def test_a_snapshot_is_had_by_subscribing_anew() -> None:
    codec = KrakenCodec(CodecProbe(("ticker", "book-25")))
    assert codec.request_snapshot("BTC/USD") == []
    codec.subscribe(["BTC/USD"])
    found = [json.loads(request) for request in codec.request_snapshot("BTC/USD")]
    assert [request["method"] for request in found] == ["unsubscribe", "subscribe"]
    for request in found:
        assert request["params"] == {
            "channel": "book",
            "symbol": ["BTC/USD"],
            "depth": 25,
            "snapshot": True,
        }
    codec.unsubscribe(["BTC/USD"])
    assert codec.request_snapshot("BTC/USD") == []
    quotes = KrakenCodec(CodecProbe(("ticker",)))
    quotes.subscribe(["BTC/USD"])
    assert quotes.request_snapshot("BTC/USD") == []


# Other messages


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (STATUS, None),
        (INSTRUMENT, None),
        (HEARTBEAT, None),
        (ACK, None),
        (PONG, ("pong",)),
        ('{"channel":"executions","data":[{"symbol":7}]}', None),
        ('{"channel":"balances","data":7}', None),
        (REFUSAL, ("refused", "XBT/USD", "Currency pair not supported XBT/USD", False)),
        (
            '{"error":"Exceeded msg rate","success":false}',
            ("refused", None, "Exceeded msg rate", False),
        ),
        ('{"method":"subscribe","error":7,"symbol":7}', ("refused", None, "7", False)),
        (
            '{"method":"unsubscribe","success":true,"req_id":2}',
            ("answered", "unsubscribe", True),
        ),
        (
            '{"method":"unsubscribe","success":false,"error":"no","req_id":2}',
            ("answered", "unsubscribe", False),
        ),
        ('{"method":"unsubscribe","success":true,"req_id":3}', None),
    ],
)
def test_other_messages(message: str, event: Any) -> None:
    items, probe = decode(message)
    assert items == []
    assert probe.outcomes == (1, [], [] if event is None else [event])


# All rules of codecs


def test_the_codec_keeps_to_the_protocol() -> None:
    samples = [STATUS, TICKER, BOOK, TRADE, OHLC, INSTRUMENT, HEARTBEAT, ACK, REFUSAL, PONG]
    messages = [*samples, changed(TICKER, bid=None), guide(), *made(40)]
    for channels in (None, "all", "trade", ["book", "ohlc-5"]):
        check_codec("kraken", messages, ["BTC/USD"], channels=channels)
