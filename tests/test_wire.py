"""Ticks on their way to another process: every kind comes out as it went in, and what cannot go costs itself alone."""

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
from tests.helpers import EPOCH, make_book, make_tick, make_ticks
from trio_ticks.conflation import replace_pending
from trio_ticks.wire import VERSION, ItemDecoder, ItemEncoder, Job, Reply, decode_job, decode_reply, encode


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
SYMBOLS = st.text(min_size=1, max_size=9).filter(lambda text: not any("\ud800" <= char <= "\udfff" for char in text))
TIMES = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1))
LEVELS = st.lists(st.tuples(PRICES, SIZES), max_size=3).map(tuple)
NUMBERS = st.none() | st.integers(0, 2**63)
ITEMS = st.one_of(
    st.builds(tt.Tick, SYMBOLS, TIMES, PRICES, PRICES, SIZES, SIZES, SIZES),
    st.builds(tt.Trade, SYMBOLS, TIMES, PRICES, SIZES, st.sampled_from(["buy", "sell", "neutral"]), st.none() | st.text("0123456789")),
    st.builds(tt.BookUpdate, SYMBOLS, TIMES, LEVELS, LEVELS, st.booleans(), NUMBERS, NUMBERS),
    st.builds(tt.Bar, SYMBOLS, TIMES, SIZES, PRICES, PRICES, PRICES, PRICES, SIZES, st.booleans()),
    st.builds(lambda symbol, n: tt.Gap(symbol, EPOCH, "overflow", n, EPOCH), SYMBOLS, st.integers(0, 2**40)),
    st.builds(Priced, SYMBOLS, st.just(EPOCH), st.decimals(allow_nan=False, allow_infinity=False), st.frozensets(st.text("ab"))),
    st.builds(Plain, SYMBOLS, st.just(EPOCH), st.none() | st.builds(Priced, SYMBOLS, st.just(EPOCH), st.just(Decimal("1.10")))),
    st.builds(Packed, SYMBOLS, st.just(EPOCH)),
)
CONFLATED = st.builds(lambda old, new, at: replace_pending(old, new, at, None), ITEMS, ITEMS, SIZES)


def sent(items: list[Any], lives_s: tuple[float, ...] = ()) -> tuple[list[Any], Exception | None, Exception | None]:
    """Return what arrives of *items*, what kept the next one from going, and what kept it from being read."""
    payload, count, unwritable = ItemEncoder().encode(7, items, lives_s)
    job = decode_job(payload)
    assert (job.version, job.number) == (VERSION, 7)
    assert len(job.lives_s) == min(count, len(lives_s))
    read, unreadable = ItemDecoder().decode(job)
    assert len(read) <= count
    return read, unwritable, unreadable


@given(st.lists(ITEMS | CONFLATED, min_size=1, max_size=12))
def test_all_kinds_come_out_as_they_went_in(items: list[Any]) -> None:
    read, *wrong = sent(items)
    assert wrong == [None, None]
    assert [type(item).__qualname__ for item in read] == [type(item).__qualname__ for item in items]
    assert [tt.conflation_of(item) for item in read] == [tt.conflation_of(item) for item in items]
    for arrived, item in zip(read, items, strict=True):
        for name in [field.name for field in attrs.fields(type(item))] if attrs.has(type(item)) else ["symbol", "timestamp"]:
            assert getattr(arrived, name) == getattr(item, name)


def test_a_batch_of_one_kind_is_one_run() -> None:
    payload, count, _wrong = ItemEncoder().encode(1, make_ticks(100, "AB"))
    assert count == 100
    assert len(decode_job(payload).runs) == 1


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
    read, unwritable, unreadable = sent([*before, item, *after], (1.0,) * 7)
    assert read == before
    assert isinstance(unwritable, tt.ConfigError)
    assert type(item).__qualname__ in str(unwritable)
    assert why in str(unwritable)
    assert unreadable is None
    assert sent([item])[0] == []


def test_what_cannot_be_read_costs_itself_alone() -> None:
    # As made by somebody who knows how: no constructor of ours takes it.
    bad = make_tick("B")
    object.__setattr__(bad, "bid", math.nan)
    items = [make_tick("A"), bad, make_tick("C")]
    encoder = ItemEncoder()
    encoder.encode(1, items[:1])
    payload, count, unwritable = encoder.encode(2, items)
    assert (count, unwritable) == (3, None)
    read, unreadable = ItemDecoder().decode(decode_job(payload))
    assert read == items[:1]
    assert isinstance(unreadable, msgspec.ValidationError)


def test_another_version_is_refused() -> None:
    with pytest.raises(RuntimeError, match="version 2"):
        decode_job(encode(Job(2, 1, ())))
    with pytest.raises(RuntimeError, match="version 2"):
        decode_reply(encode(Reply(2, 1, 0, (), b"", 0.0, 0.0)))
