"""The entries of a broker: what goes in comes out, and junk costs itself alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trio_ticks as tt
from trio_ticks.brokers.packing import JunkEntryError, Packer, Unpacker, shard_of
from trio_ticks.buffer import Stretch
from trio_ticks.conflation import replace_pending
from trio_ticks.wire import ItemDecoder, Items

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
SYMBOLS = st.sampled_from(["A", "B", "EURUSD", "ÄÖ", "BTC-USD.binance"])


def tick(symbol: str, number: int) -> tt.Tick:
    return tt.Tick(symbol, NOON + timedelta(microseconds=number), 1.5, 1.6, 1.0, 2.0, float(number))


def sparse(symbol: str, number: int) -> tt.Tick:
    """Make a tick without sizes; each second one has a volume."""
    absent = float("nan")
    volume = absent if number % 2 else float(number)
    return attrs.evolve(tick(symbol, number), bid_size=absent, ask_size=absent, volume=volume)


def trade(symbol: str, number: int) -> tt.Trade:
    return tt.Trade(symbol, NOON, 1.5, float(number))


def gap(symbol: str, count: int) -> tt.Gap:
    return tt.Gap(symbol, NOON, "sequence", count, NOON)


@st.composite
def stretches(draw: st.DrawFn) -> Stretch:
    symbols = draw(st.lists(SYMBOLS, max_size=40))
    make = draw(st.sampled_from([tick, sparse, trade]))
    items = [make(symbol, number) for number, symbol in enumerate(symbols)]
    places = draw(st.sets(st.integers(0, max(0, len(items) - 1)), max_size=5)) if items else ()
    arrived = [float(draw(st.integers(0, 3))) for _ in items]
    return Stretch(items, arrived, [(at, gap(symbols[at], at)) for at in sorted(places)])


def by_symbol(stretch: Stretch) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    gaps = dict(stretch.gaps)
    for place, item in enumerate(stretch.items):
        line = found.setdefault(item.symbol, [])
        if place in gaps:
            line.append(gaps[place])
        line.append((item, stretch.arrived[place]))
    return found


@given(stretches(), st.integers(1, 9), st.integers(1, 7))
def test_what_is_packed_comes_out_in_each_symbols_order(
    stretch: Stretch, shards: int, pack: int
) -> None:
    records, refused = Packer(shards, pack).pack(stretch)
    assert not refused
    assert sum(record.ticks for record in records) == len(stretch.items)
    found: dict[str, list[object]] = {}
    unpacker = Unpacker()
    for record in records:
        assert 0 < record.ticks <= pack
        back = unpacker.unpack(record.body)
        for symbol, line in by_symbol(back).items():
            assert shard_of(symbol, shards) == record.shard
            found.setdefault(symbol, []).extend(line)
    assert found == by_symbol(stretch)


def test_large_ticks_are_packed_by_fewer() -> None:
    small = [tick("small", number) for number in range(300)]
    large = [tick("large" * 60_000, number) for number in range(10)]
    items = [*small, *large, tick("huge" * 600_000, 1), *small]
    gaps = [(303, gap(large[0].symbol, 2)), (308, gap(large[0].symbol, 3))]
    records, refused = Packer(1, 128).pack(Stretch(items, [float(at) for at in range(611)], gaps))
    assert not refused
    bodies = [len(record.body) for record in records if record.ticks > 1]
    assert max(bodies) < 1_000_000
    # Small ones before and after the large ones are packed as ever.
    assert records[0].ticks == records[1].ticks == 128
    assert max(record.ticks for record in records[-4:]) == 128
    read = [Unpacker().unpack(record.body) for record in records]
    assert [item for each in read for item in each.items] == items
    assert [time for each in read for time in each.arrived] == [float(at) for at in range(611)]
    assert [found.count for each in read for _place, found in each.gaps] == [2, 3]


def test_a_shard_is_the_same_in_every_process() -> None:
    assert [shard_of(symbol, 64) for symbol in ("BTCUSDT", "EURUSD", "ÄÖ")] == [3, 43, 20]


@attrs.frozen
class Odd:
    symbol: str
    timestamp: datetime
    thing: object


def test_an_item_that_cannot_be_written_costs_itself_alone() -> None:
    items = [tick("A", 0), Odd("A", NOON, object()), tick("A", 2)]
    stretch = Stretch(items, [1.0, 2.0, 3.0], [(1, gap("A", 7))])
    records, refused = Packer(1, 128).pack(stretch)
    assert [item for item, _error in refused] == [items[1]]
    assert "cannot go to another process" in str(refused[0][1])
    back = [Unpacker().unpack(record.body) for record in records]
    assert [item for each in back for item in each.items] == [items[0], items[2]]
    # The gap before it is not lost with it.
    assert [each.gaps for each in back] == [[], [(0, gap("A", 7))]]


def _read_twice(unpacker: Unpacker, body: bytes) -> list[object]:
    """Read *body* two times; return what comes, and what is said of junk."""
    found: list[object] = []
    for _ in range(2):
        try:
            back = unpacker.unpack(body, 5.0, 7.5)
        except JunkEntryError as error:
            found.append((str(error), error.ticks))
        else:
            found.append((back.items, back.arrived, back.gaps))
    return found


@given(stretches(), st.sampled_from([tick, trade, sparse]), st.data())
def test_what_was_read_before_makes_no_difference(
    stretch: Stretch, kind: Callable[[str, int], Any], data: st.DataObject
) -> None:
    """An entry of the kind that came last is read in one step, all others in two."""
    before = Unpacker()
    (record,), _ = Packer(1, 128).pack(Stretch([kind("A", 1)], [1.0]))
    before.unpack(record.body)
    if data.draw(st.booleans()):
        stretch.items.append(trade("A", 99))
        stretch.arrived.append(4.0)
    for record in Packer(1, 128).pack(stretch)[0]:
        body = bytearray(record.body)
        if data.draw(st.booleans()):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        assert _read_twice(before, bytes(body)) == _read_twice(Unpacker(), bytes(body))


@attrs.frozen
class LikeATrade:
    symbol: str
    timestamp: datetime
    price: float
    size: float
    side: str = "neutral"


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.__setitem__(0, 2),
        lambda entry: entry.__setitem__(1, "tocks"),
        lambda entry: entry[4][0][0].__setitem__(0, f"{__name__}:LikeATrade"),
    ],
)
def test_what_is_like_the_last_entry_and_is_not_one_is_not_read_as_one(
    change: Callable[[list[Any]], None],
) -> None:
    (record,), _ = Packer(1, 128).pack(Stretch([trade("A", 1)], [1.0]))
    entry: list[Any] = msgspec.msgpack.decode(record.body)
    change(entry)
    other = msgspec.msgpack.encode(entry)
    unpacker = Unpacker()
    unpacker.unpack(record.body)
    found = _read_twice(unpacker, other)
    assert found == _read_twice(Unpacker(), other)
    assert found != _read_twice(Unpacker(), record.body)


def test_kinds_that_take_turns_have_one_decoder_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = [], msgspec.msgpack.Decoder

    def counted(*args: Any, **more: Any) -> Any:
        made.append(args)
        return real(*args, **more)

    packer, unpacker = Packer(1, 128), Unpacker()
    monkeypatch.setattr(msgspec.msgpack, "Decoder", counted)
    (ticks,), _ = packer.pack(Stretch([tick("A", 1)], [1.0]))
    (trades,), _ = packer.pack(Stretch([trade("A", 1)], [1.0]))
    for body in (ticks.body, trades.body) * 100:
        unpacker.unpack(body)
    assert len(made) <= 3 * 2  # a list of items, in two places, and an entry


def test_conflated_ticks_keep_their_evidence_whatever_was_read_before() -> None:
    unpacker, packer = Unpacker(), Packer(1, 128)
    (record,), _ = packer.pack(Stretch([tick("A", 1)], [1.0]))
    conflated = replace_pending(tick("A", 2), tick("A", 3), 1.0, None)
    assert tt.conflation_of(conflated) is not None
    (other,), _ = packer.pack(Stretch([conflated], [1.0]))
    for body in (record.body, other.body, record.body, other.body):
        (item,) = unpacker.unpack(body).items
        assert (tt.conflation_of(item) is not None) == (body is other.body)


def test_absent_sizes_do_not_end_the_reading_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacker, packer = Unpacker(), Packer(1, 128)
    (whole,), _ = packer.pack(Stretch([tick("A", 1)], [1.0]))
    (absent,), _ = packer.pack(Stretch([sparse("A", 1)], [1.0]))
    steps: list[object] = []
    decode = ItemDecoder.decode

    def counted(self: ItemDecoder, written: Items) -> Any:
        steps.append(written)
        return decode(self, written)

    monkeypatch.setattr(ItemDecoder, "decode", counted)
    for body in (whole.body, whole.body, absent.body):
        unpacker.unpack(body)
    assert len(steps) == 2
    for _ in range(200):
        unpacker.unpack(whole.body)
    assert len(steps) < 2 + 100


@given(st.binary(max_size=200))
def test_junk_is_junk(body: bytes) -> None:
    with pytest.raises(JunkEntryError):
        Unpacker().unpack(body)


@given(st.data())
def test_a_damaged_entry_is_junk_or_whole(data: st.DataObject) -> None:
    (record,), _ = Packer(1, 128).pack(Stretch([tick("A", n) for n in range(3)], [1.0] * 3))
    place = data.draw(st.integers(0, len(record.body) - 1))
    body = bytearray(record.body)
    body[place] = data.draw(st.integers(0, 255))
    try:
        back = Unpacker().unpack(bytes(body))
    except JunkEntryError:
        return
    assert len(back.items) == len(back.arrived) == 3


def test_a_later_version_is_counted_and_not_read() -> None:
    (record,), _ = Packer(1, 128).pack(Stretch([tick("A", n) for n in range(3)], [1.0] * 3))
    entry = msgspec.msgpack.decode(record.body)
    entry[0] = 2
    with pytest.raises(JunkEntryError, match="version 2") as caught:
        Unpacker().unpack(msgspec.msgpack.encode(entry))
    assert caught.value.ticks == 3


@pytest.mark.parametrize("claimed", [-27, 0, 10**15])
def test_an_entry_costs_no_more_ticks_than_it_can_hold(claimed: int) -> None:
    # The ledger counts them as failed.
    body = spoilt(lambda entry: entry.__setitem__(2, claimed))
    with pytest.raises(JunkEntryError) as caught:
        Unpacker().unpack(body)
    assert caught.value.ticks == 1


def test_a_member_that_a_later_release_adds_is_ignored() -> None:
    (record,), _ = Packer(1, 128).pack(Stretch([tick("A", 1)], [1.0]))
    entry = [*msgspec.msgpack.decode(record.body), {"new": True}]
    assert Unpacker().unpack(msgspec.msgpack.encode(entry)).items == [tick("A", 1)]


def test_times_of_arrival_are_read_by_another_clock_and_lie_in_its_past() -> None:
    stretch = Stretch([tick("A", n) for n in range(3)], [10.0, 10.0, 12.0])
    (record,), _ = Packer(1, 128).pack(stretch)
    assert Unpacker().unpack(record.body, 5.0).arrived == [15.0, 15.0, 17.0]
    assert Unpacker().unpack(record.body, 5.0, 16.0).arrived == [15.0, 15.0, 16.0]


def test_an_entry_cannot_have_a_module_imported() -> None:
    (record,), _ = Packer(1, 128).pack(Stretch([tick("A", 1)], [1.0]))
    entry = msgspec.msgpack.decode(record.body)
    entry[4][0][0][0] = "antigravity:Tick"
    with pytest.raises(JunkEntryError, match="not imported here"):
        Unpacker().unpack(msgspec.msgpack.encode(entry))
    assert "antigravity" not in sys.modules


def spoilt(change: Callable[[list[Any]], None]) -> bytes:
    """Return an entry of three ticks with a gap, after *change*."""
    ticks = [tick("A", number) for number in range(3)]
    (record,), _ = Packer(1, 128).pack(Stretch(ticks, [1.0] * 3, [(1, gap("A", 2))]))
    entry: list[Any] = msgspec.msgpack.decode(record.body)
    change(entry)
    return msgspec.msgpack.encode(entry)


@attrs.frozen
class NoMarketData:
    name: str


def _no_market_data(entry: list[Any]) -> None:
    entry[4][0] = [[f"{__name__}:NoMarketData", [{"name": "x"}] * 3]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_no_market_data, "no market data"),
        (lambda entry: entry.__setitem__(3, [[3, float("nan")]]), "time of arrival"),
        (lambda entry: entry.__setitem__(3, [[10**15, 1.0], [3 - 10**15, 1.0]]), "counts"),
        (lambda entry: entry.__setitem__(3, [[10**15, 1.0]]), "counts"),
        (lambda entry: entry[5][0].__setitem__(0, 7), "out of place"),
        (lambda entry: entry[5][0].__setitem__(1, {**entry[5][0][1], "symbol": "B"}), "place"),
        (lambda entry: entry[5].append(entry[5][0]), "out of place"),
    ],
)
def test_what_would_confuse_the_workers_is_junk(
    change: Callable[[list[Any]], None], says: str
) -> None:
    with pytest.raises(JunkEntryError, match=says) as caught:
        Unpacker().unpack(spoilt(change))
    assert caught.value.ticks == 3


def test_what_was_found_to_be_market_data_says_nothing_of_what_comes_then() -> None:
    """That it is not looked at again spares a step for each tick."""
    unpacker = Unpacker()
    for _ in range(2):
        assert len(unpacker.unpack(spoilt(lambda _entry: None)).items) == 3
        with pytest.raises(JunkEntryError, match="no market data"):
            unpacker.unpack(spoilt(_no_market_data))
    mixed = Stretch([tick("A", 1), trade("A", 2), tick("A", 3)], [1.0] * 3)
    (record,), _ = Packer(1, 128).pack(mixed)
    assert unpacker.unpack(record.body).items == mixed.items


@pytest.mark.parametrize("place", [0, 1])
def test_a_time_of_arrival_that_is_none_is_junk_wherever_it_stands(place: int) -> None:
    def change(entry: list[Any]) -> None:
        entry[3] = [[1, 5.0], [2, 6.0]]
        entry[3][place][1] = float("nan")

    with pytest.raises(JunkEntryError, match="a time of arrival is none"):
        Unpacker().unpack(spoilt(change), 0.0, 10.0)


@pytest.mark.parametrize("symbol", [7, None, ("A",), ["A"]])
def test_a_symbol_that_is_no_text_costs_its_item_alone(symbol: Any) -> None:
    odd = Nameless(symbol, NOON)
    items = [tick("A", 1), odd, tick("A", 2), tick("B", 3)]
    gaps = [(1, gap(symbol, 1)), (2, gap("A", 1))]
    records, refused = Packer(1, 9).pack(Stretch(items, [1.0, 2.0, 3.0, 4.0], gaps))
    ((item, error),) = refused
    assert item is odd
    assert "its symbol is no text" in str(error)
    (record,) = records
    stretch = Unpacker().unpack(record.body)
    assert (stretch.items, stretch.arrived) == ([items[0], items[2], items[3]], [1.0, 3.0, 4.0])
    assert stretch.gaps == [(1, gaps[1][1])]


@attrs.frozen
class Nameless:
    symbol: Any
    timestamp: datetime
