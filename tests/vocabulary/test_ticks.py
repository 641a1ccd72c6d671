"""Ticks and the other items: what constructors normalise and refuse.

Also what the decoders let through, and the derived properties.
"""

from __future__ import annotations

import copy
import math
import pickle
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.helpers import EPOCH, make_book, make_tick, make_trade
from trio_ticks.ticks import Bar, BookUpdate, MarketData, Tick, Trade, is_quantity, to_utc

finite = st.floats(allow_nan=False, allow_infinity=False)
sizes = st.floats(min_value=0, allow_nan=False, allow_infinity=False)


def tick(**changes: Any) -> Tick:
    values: dict[str, Any] = {
        "symbol": "A",
        "timestamp": EPOCH,
        "bid": 1,
        "ask": 2,
        "bid_size": 3,
        "ask_size": 4,
        "volume": 5,
    }
    return Tick(**(values | changes))


def bar(**changes: Any) -> Bar:
    values: dict[str, Any] = {
        "symbol": "A",
        "timestamp": EPOCH,
        "interval_s": 60,
        "open": 1,
        "high": 2,
        "low": 0.5,
        "close": 1.5,
    }
    return Bar(**(values | changes))


# Timestamps


def test_a_naive_timestamp_is_taken_to_be_utc() -> None:
    assert tick(timestamp=datetime(2024, 8, 8, 12)).timestamp == EPOCH
    assert tick(timestamp=datetime(2024, 8, 8, 12)).timestamp.tzinfo is UTC


@pytest.mark.parametrize(
    "zone",
    [
        timezone(timedelta(hours=2)),
        timezone(timedelta(hours=-7, minutes=-30)),
        ZoneInfo("UTC"),
        UTC,
    ],
)
def test_a_timestamp_in_another_zone_is_converted(zone: Any) -> None:
    converted = tick(timestamp=EPOCH.astimezone(zone)).timestamp
    assert converted == EPOCH
    assert converted.tzinfo is UTC
    assert converted.hour == EPOCH.hour


@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)),
    st.integers(-1439, 1439),
)
def test_conversion_keeps_the_moment(moment: datetime, minutes: int) -> None:
    zoned = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert to_utc(zoned) == zoned
    assert to_utc(zoned).tzinfo is UTC


def test_a_timestamp_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(ValueError, match="outside the calendar") as info:
        tick(timestamp=datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))))
    assert isinstance(info.value.__cause__, OverflowError)


@pytest.mark.parametrize("value", [None, 0, 1.7e9, "2024-08-08T12:00:00Z", date(2024, 8, 8)])
def test_what_is_no_datetime_is_refused(value: object) -> None:
    for make in (tick, bar):
        with pytest.raises(TypeError, match="timestamp must be a datetime"):
            make(timestamp=value)


# Numbers


PRICES = ["bid", "ask"]
QUANTITIES = ["bid_size", "ask_size", "volume"]


@pytest.mark.parametrize("field", PRICES)
@pytest.mark.parametrize("value", [math.nan, Decimal("NaN")])
def test_a_price_that_is_no_number_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} must be finite"):
        tick(**{field: value})


@pytest.mark.parametrize("field", PRICES + QUANTITIES)
@pytest.mark.parametrize(
    "value",
    [
        math.inf,
        -math.inf,
        10**400,
        Decimal("Infinity"),
        Decimal("1e400"),
        Fraction(10**400),
    ],
)
def test_what_is_not_finite_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} must be finite"):
        tick(**{field: value})


@pytest.mark.parametrize("field", PRICES + QUANTITIES)
@pytest.mark.parametrize("value", [True, False, "1.5", b"1.5", None, [1.0], 1j])
def test_what_is_no_number_is_refused(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{field} must be a number"):
        tick(**{field: value})


@pytest.mark.parametrize("field", QUANTITIES)
@pytest.mark.parametrize("value", [-1, -5e-324, Decimal("-0.1")])
def test_a_negative_quantity_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} must not be negative"):
        tick(**{field: value})


@pytest.mark.parametrize("field", QUANTITIES)
@pytest.mark.parametrize("value", [math.nan, -math.nan, Decimal("NaN")])
def test_an_absent_quantity_is_nan(field: str, value: object) -> None:
    made = tick(**{field: value})
    assert type(getattr(made, field)) is float
    assert math.isnan(getattr(made, field))


@pytest.mark.parametrize("field", QUANTITIES)
@pytest.mark.parametrize("value", [math.inf, -math.inf, -1])
def test_it_can_be_told_from_what_is_no_quantity(field: str, value: float) -> None:
    assert is_quantity(math.nan)
    assert is_quantity(getattr(tick(), field))
    assert not is_quantity(value)


def test_ticks_without_a_quantity_are_equal_where_both_lack_it() -> None:
    for field in QUANTITIES:
        made, again = tick(**{field: math.nan}), tick(**{field: float("nan")})
        assert made == again
        assert hash(made) == hash(again)
        assert made != tick(**{field: 0})
        assert made != tick()
    assert bar() == bar(volume=math.nan) != bar(volume=0)


def test_prices_may_be_negative_and_crossed() -> None:
    oil = tick(bid=-37.63, ask=-38.0)
    assert oil.spread == pytest.approx(-0.37)
    assert oil.mid_price == pytest.approx(-37.815)


@pytest.mark.parametrize("value", [1, Decimal("1"), Fraction(1)])
def test_numbers_of_other_kinds_become_floats(value: object) -> None:
    made = tick(bid=value, bid_size=value)
    assert (made.bid, made.bid_size) == (1.0, 1.0)
    assert type(made.bid) is type(made.bid_size) is float


@pytest.mark.parametrize(
    ("symbol", "error"), [("", ValueError), (None, TypeError), (b"A", TypeError), (1, TypeError)]
)
def test_a_symbol_is_text_and_not_empty(symbol: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="symbol"):
        tick(symbol=symbol)


# Derived properties


@given(finite, finite, sizes, sizes)
def test_derived_properties(bid: float, ask: float, bid_size: float, ask_size: float) -> None:
    made = tick(bid=bid, ask=ask, bid_size=bid_size, ask_size=ask_size)
    assert made.spread == ask - bid
    assert made.mid_price == (bid + ask) / 2
    assert made.pressure_ratio == (math.inf if ask_size == 0 else bid_size / ask_size)


@pytest.mark.parametrize("bid_size", [0, 1])
@pytest.mark.parametrize("ask_size", [0, 0.0, -0.0])
def test_the_pressure_ratio_is_infinite_where_nobody_sells(
    bid_size: float, ask_size: float
) -> None:
    assert tick(bid_size=bid_size, ask_size=ask_size).pressure_ratio == math.inf


@pytest.mark.parametrize(
    ("bid_size", "ask_size"), [(math.nan, 1), (1, math.nan), (math.nan, 0), (math.nan, math.nan)]
)
def test_the_pressure_ratio_is_absent_where_a_size_is(bid_size: float, ask_size: float) -> None:
    ratio = tick(bid_size=bid_size, ask_size=ask_size).pressure_ratio
    assert math.isnan(ratio)
    assert not ratio > 10


# Values


def test_ticks_are_frozen_slotted_values() -> None:
    made = tick()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.bid = 2.0  # type: ignore[misc]  # that is the point
    assert not hasattr(made, "__dict__")
    assert made == tick()
    assert hash(made) == hash(tick())
    assert made != tick(volume=6)


@pytest.mark.parametrize(
    "item",
    [make_tick(now=EPOCH), make_trade(), make_book(), bar()],
    ids=lambda item: type(item).__name__,
)
def test_every_kind_is_market_data_and_can_be_copied(item: Any) -> None:
    assert pickle.loads(pickle.dumps(item)) == item
    assert copy.deepcopy(item) == item
    assert attrs.evolve(item, symbol="B").symbol == "B"
    assert isinstance(item, MarketData)


def test_evolve_checks_again() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        attrs.evolve(tick(), volume=-1)


def test_trades() -> None:
    trade = Trade("A", EPOCH, 2, Decimal("1.5"), "sell", "12345678901234567890")
    assert trade.notional == 3.0
    assert Trade("A", EPOCH, 2, 1).side == "neutral"
    with pytest.raises(ValueError, match="side"):
        Trade("A", EPOCH, 2, 1, "up")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="size must not be negative"):
        Trade("A", EPOCH, 2, -1)


def test_book_levels_are_checked_and_made_tuples() -> None:
    book = BookUpdate("A", EPOCH, bids=[[1, 2], (Decimal("0.5"), 0)], asks=iter([(2, 3)]))
    assert book.bids == ((1.0, 2.0), (0.5, 0.0))
    assert book.asks == ((2.0, 3.0),)
    assert hash(book) == hash(attrs.evolve(book))


@pytest.mark.parametrize(
    ("levels", "error"),
    [
        ([(1, -1)], ValueError),
        ([(math.nan, 1)], ValueError),
        ([(1, 2, 3)], ValueError),
        ([("1", "2")], TypeError),
        (5, TypeError),
        ("ab", ValueError),
    ],
)
def test_bad_book_levels_are_refused(levels: Any, error: type[Exception]) -> None:
    for side in ("bids", "asks"):
        with pytest.raises(error):
            BookUpdate("A", EPOCH, **{side: levels})


# Off the wire: msgspec's decoders build the same classes without the constructors


def wire(**changes: Any) -> dict[str, Any]:
    fields = {
        "symbol": "A",
        "timestamp": "2024-08-08T12:00:00Z",
        "bid": 1,
        "ask": 2.5,
        "bid_size": 3,
        "ask_size": 4,
        "volume": 5,
    }
    return fields | changes


def test_json_becomes_the_same_tick_as_the_constructor_makes() -> None:
    decoded = msgspec.json.decode(msgspec.json.encode(wire()), type=Tick)
    assert decoded == tick(ask=2.5)
    assert type(decoded.bid) is float
    assert decoded.timestamp.tzinfo is UTC
    assert msgspec.json.decode(msgspec.json.encode(decoded), type=Tick) == decoded


def test_a_decoder_leaves_the_zone_to_the_codec() -> None:
    naive = msgspec.json.decode(
        msgspec.json.encode(wire(timestamp="2024-08-08T12:00:00")), type=Tick
    )
    assert naive.timestamp.tzinfo is None


@pytest.mark.parametrize(
    "changes",
    [
        {"symbol": ""},
        {"symbol": None},
        {"bid": "1"},
        {"bid": None},
        {"bid": True},
        {"bid_size": -1},
        {"ask_size": -0.5},
        {"volume": -1},
        {"timestamp": "yesterday"},
        {"timestamp": 5},
    ],
    ids=str,
)
def test_json_that_makes_no_tick_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(wire(**changes)), type=Tick)


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"Infinity"])
def test_json_numbers_beyond_floats_are_refused(number: bytes) -> None:
    raw = msgspec.json.encode(wire()).replace(b'"bid":1', b'"bid":' + number)
    assert number in raw
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(raw, type=Tick)


@pytest.mark.parametrize("field", PRICES + QUANTITIES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_messagepack_can_say_what_json_cannot_and_is_refused(field: str, value: float) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(wire(**{field: value})), type=Tick)


@given(finite, finite, sizes, sizes, sizes)
def test_ticks_survive_both_encodings(
    bid: float, ask: float, bid_size: float, ask_size: float, volume: float
) -> None:
    made = Tick("A", EPOCH, bid, ask, bid_size, ask_size, volume)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Tick) == made
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Tick) == made


def test_trades_and_books_off_the_wire() -> None:
    head = b'{"symbol":"A","timestamp":"2024-08-08T12:00:00Z",'
    trade = msgspec.json.decode(
        head + b'"price":1,"size":2,"side":"buy","trade_id":"7"}', type=Trade
    )
    assert trade == Trade("A", EPOCH, 1, 2, "buy", "7")
    book = msgspec.json.decode(
        head + b'"bids":[[1,2]],"asks":[],"snapshot":true,"first_sequence":3,"last_sequence":4}',
        type=BookUpdate,
    )
    assert book == BookUpdate("A", EPOCH, ((1, 2),), (), True, 3, 4)
    for raw, kind in [
        (b'"price":1,"size":-2}', Trade),
        (b'"price":1,"size":2,"side":"up"}', Trade),
        (b'"bids":[[1,-2]]}', BookUpdate),
        (b'"bids":[[1]]}', BookUpdate),
        (b'"bids":[["1","2"]]}', BookUpdate),
    ]:
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(head + raw, type=kind)
