"""Items on their way to another process: every kind arrives as it was sent.

An item that cannot be sent costs only itself.
"""

from __future__ import annotations

import dataclasses
import math
from datetime import datetime
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_ticks as tt
from tests.worlds.helpers import EPOCH, make_book, make_tick, make_ticks
from trio_ticks.conflation import Conflation, conflation_of, replace_pending
from trio_ticks.ticks import unchecked_tick
from trio_ticks.wire import ItemDecoder, ItemEncoder, Items


@attrs.frozen
class Priced:
    symbol: str
    timestamp: datetime
    price: Decimal
    tags: frozenset[str] = frozenset()


@dataclasses.dataclass
class Plain:
    symbol: str
    timestamp: datetime
    nested: Priced | None = None


class Packed(msgspec.Struct, array_like=True, tag=True):
    symbol: str
    timestamp: datetime


class Handmade:
    """Msgspec knows nothing of it."""

    def __init__(self) -> None:
        self.symbol, self.timestamp = "A", EPOCH


@attrs.frozen
class Vague:
    """Its annotation does not say enough to read it again."""

    symbol: str
    timestamp: datetime
    price: Any


PRICES = st.floats(allow_nan=False, allow_infinity=False)
SIZES = st.floats(min_value=0, allow_infinity=False)
MAYBE = SIZES | st.just(math.nan)
SYMBOLS = st.text(min_size=1, max_size=9).filter(
    lambda text: not any("\ud800" <= char <= "\udfff" for char in text)
)
TIMES = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1))
LEVELS = st.lists(st.tuples(PRICES, SIZES), max_size=3).map(tuple)
NUMBERS = st.none() | st.integers(0, 2**63)
ITEMS = st.one_of(
    st.builds(tt.Tick, SYMBOLS, TIMES, PRICES, PRICES, MAYBE, MAYBE, MAYBE),
    st.builds(
        tt.Trade,
        SYMBOLS,
        TIMES,
        PRICES,
        SIZES,
        st.sampled_from(["buy", "sell", "neutral"]),
        st.none() | st.text("0123456789"),
    ),
    st.builds(tt.BookUpdate, SYMBOLS, TIMES, LEVELS, LEVELS, st.booleans(), NUMBERS, NUMBERS),
    st.builds(tt.Bar, SYMBOLS, TIMES, SIZES, PRICES, PRICES, PRICES, PRICES, MAYBE, st.booleans()),
    st.builds(
        lambda symbol, n: tt.Gap(symbol, EPOCH, "overflow", n, EPOCH),
        SYMBOLS,
        st.integers(0, 2**40),
    ),
    st.builds(
        Priced,
        SYMBOLS,
        st.just(EPOCH),
        st.decimals(allow_nan=False, allow_infinity=False),
        st.frozensets(st.text("ab")),
    ),
    st.builds(
        Plain,
        SYMBOLS,
        st.just(EPOCH),
        st.none() | st.builds(Priced, SYMBOLS, st.just(EPOCH), st.just(Decimal("1.10"))),
    ),
    st.builds(Packed, SYMBOLS, st.just(EPOCH)),
)
CONFLATED = st.builds(lambda old, new, at: replace_pending(old, new, at, None), ITEMS, ITEMS, SIZES)


def over_the_wire(written: Items) -> Items:
    """Return *written* as the other side gets it, inside a larger message."""
    read: Items = msgspec.msgpack.decode(msgspec.msgpack.encode(written), type=Items)
    return read


def sent(items: list[Any]) -> tuple[list[Any], Exception | None, Exception | None]:
    """Return what arrives of *items*, and the errors of writing and of reading."""
    written, count, unwritable = ItemEncoder().encode(items)
    read, unreadable = ItemDecoder().decode(over_the_wire(written))
    assert len(read) <= count
    return read, unwritable, unreadable


@given(st.lists(ITEMS | CONFLATED, min_size=1, max_size=12))
def test_all_kinds_come_out_as_they_went_in(items: list[Any]) -> None:
    read, *wrong = sent(items)
    assert wrong == [None, None]
    assert [type(item).__qualname__ for item in read] == [type(item).__qualname__ for item in items]
    assert [tt.conflation_of(item) for item in read] == [tt.conflation_of(item) for item in items]
    for arrived, item in zip(read, items, strict=True):
        for name in (
            [field.name for field in attrs.fields(type(item))]
            if attrs.has(type(item))
            else ["symbol", "timestamp"]
        ):
            value = getattr(item, name)
            assert getattr(arrived, name) == value or value != value
        if isinstance(item, tt.Tick | tt.Bar) and tt.conflation_of(item) is None:
            assert arrived == item


def test_a_batch_of_one_kind_is_one_run() -> None:
    written, count, _wrong = ItemEncoder().encode(make_ticks(100, "AB"))
    assert count == 100
    assert len(written.runs) == 1


class Local:
    @attrs.frozen
    class Inner:
        symbol: str
        timestamp: datetime


def test_nested_classes_are_found() -> None:
    items = [Local.Inner("A", EPOCH)]
    assert sent(items) == (items, None, None)


def local_kind() -> Any:
    @attrs.frozen
    class Here:
        symbol: str
        timestamp: datetime

    return Here("A", EPOCH)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (Handmade(), "unsupported"),
        (Vague("A", EPOCH, Decimal("1.5")), "it is read as"),
        (local_kind(), "local"),
        (tt.Trade("A", EPOCH, 1.0, 1.0, "buy", "\ud800"), "surrogates"),
        (attrs.evolve(make_book(), first_sequence=2**70), "64"),
    ],
    ids=["unknown", "vague", "local", "surrogate", "huge"],
)
def test_what_cannot_go_costs_itself_alone(item: Any, why: str) -> None:
    before, after = make_ticks(3), make_ticks(3)
    read, unwritable, unreadable = sent([*before, item, *after])
    assert read == before
    assert isinstance(unwritable, tt.ConfigError)
    assert type(item).__qualname__ in str(unwritable)
    assert why in str(unwritable)
    assert unreadable is None
    assert sent([item])[0] == []


@attrs.frozen
class Numbered(tt.Tick):
    """A tick with a field more."""

    number: int


def test_absent_quantities_go_the_same_way_first_and_later() -> None:
    sparse = tt.Tick("A", EPOCH, 1.0, 2.0, math.nan, 3.0, math.nan)
    numbered = Numbered("A", EPOCH, 1.0, 2.0, math.nan, 3.0, 4.0, 7)
    bar = tt.Bar("A", EPOCH, 60.0, 1.0, 2.0, 0.5, 1.5)
    encoder, decoder = ItemEncoder(), ItemDecoder()
    items = [sparse, *make_ticks(3), sparse, numbered, bar, *make_ticks(2)]
    for _ in range(2):
        written, count, unwritable = encoder.encode(items)
        assert (count, unwritable) == (len(items), None)
        assert decoder.decode(over_the_wire(written)) == (items, None)


@pytest.mark.parametrize("size", [-1.0, math.inf, -math.inf])
@pytest.mark.parametrize("neighbour", [math.nan, 1.0])
def test_what_is_no_quantity_is_refused_beside_absent_ones(size: float, neighbour: float) -> None:
    bad = unchecked_tick("B", EPOCH, 1.0, 2.0, math.nan, size, 1.0)
    good = tt.Tick("A", EPOCH, 1.0, 2.0, neighbour, 1.0, neighbour)
    encoder = ItemEncoder()
    encoder.encode([good])
    written, count, _ = encoder.encode([good, bad, good])
    assert count == 3
    read, unreadable = ItemDecoder().decode(over_the_wire(written))
    assert read == [good]
    assert isinstance(unreadable, msgspec.ValidationError)


def test_what_cannot_be_read_costs_itself_alone() -> None:
    # No constructor of ours accepts such a price, so it is set afterwards.
    bad = make_tick("B")
    object.__setattr__(bad, "bid", math.nan)
    items = [make_tick("A"), bad, make_tick("C")]
    encoder = ItemEncoder()
    encoder.encode(items[:1])
    written, count, unwritable = encoder.encode(items)
    assert (count, unwritable) == (3, None)
    read, unreadable = ItemDecoder().decode(over_the_wire(written))
    assert read == items[:1]
    assert isinstance(unreadable, msgspec.ValidationError)


def test_a_run_that_is_no_list_is_an_error_that_is_returned() -> None:
    written, _count, _wrong = ItemEncoder().encode([tt.Tick("A", EPOCH, 1, 2, 3, 4, 5)])
    ((name, _run),) = written.runs
    broken = Items(((name, msgspec.Raw(msgspec.msgpack.encode({"no": "list"}))),))
    items, error = ItemDecoder().decode(broken)
    assert items == []
    assert isinstance(error, msgspec.ValidationError)


@pytest.mark.parametrize("index", [-1, -5, 1, 2**40])
def test_evidence_of_an_item_that_is_not_there_is_left_out(index: int) -> None:
    item = tt.Tick("A", EPOCH, 1, 2, 3, 4, 5)
    written, _count, _wrong = ItemEncoder().encode([item])
    wrong = Items(written.runs, ((index, Conflation(2, EPOCH, 1.0)),))
    items, error = ItemDecoder().decode(wrong)
    assert (error, items, conflation_of(items[0])) == (None, [item], None)


@attrs.frozen
class WithExtra:
    symbol: str
    timestamp: datetime
    extra: float


@pytest.mark.parametrize("absent", [[0, 1, 2], [0], [2]])
def test_nan_in_a_field_of_a_users_own_goes_the_same_way_first_and_later(
    absent: list[int],
) -> None:
    """An item with NaN does not equal itself, read twice."""
    items = [
        WithExtra("A", EPOCH, math.nan if number in absent else 1.5 * number) for number in range(3)
    ]
    encoder = ItemEncoder()
    for item in items:
        written, count, error = encoder.encode([item])
        assert (count, error) == (1, None)
        (read,), wrong = ItemDecoder().decode(written)
        assert wrong is None
        assert repr(read) == repr(item)


def test_a_class_has_one_name_by_which_it_is_read() -> None:
    """Others would have the reader keep a decoder for each that a writer makes up."""
    written, _, _ = ItemEncoder().encode([WithExtra("A", EPOCH, 1.0)])
    ((name, run),) = written.runs
    assert ItemDecoder().decode(Items(((name, run),)))[1] is None
    module, _, path = name.partition(":")
    for other in (f"{module}:math.pi", f"{module}:tt.Tick", f"{module}:ItemDecoder.decode"):
        items, wrong = ItemDecoder(imports=False).decode(Items(((other, run),)))
        assert (items, type(wrong)) == ([], TypeError)
    assert path == "WithExtra"
