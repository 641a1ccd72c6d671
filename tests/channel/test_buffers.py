"""The containers behind a channel, as state machines against the simplest models."""

from __future__ import annotations

import gc
from types import ModuleType

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.worlds.helpers import make_trade, number
from trio_ticks.channel.fifo import FifoBuffer
from trio_ticks.channel.keyed import KeyedBuffer
from trio_ticks.channel.lanes import Lanes
from trio_ticks.ticks import Trade

SYMBOLS = st.sampled_from("ABCD")


class FifoMachine(RuleBasedStateMachine):
    """A FIFO and a list of (tick, arrival)."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer: FifoBuffer[int] = FifoBuffer()
        self.model: list[tuple[int, float]] = []
        self.made = 0
        self.now = 0.0
        self.last: float | None = None
        """When the tick arrived that was taken by ``take`` last."""

    @rule(count=st.integers(0, 5), later=st.sampled_from([0.0, 1.0]))
    def extend(self, count: int, later: float) -> None:
        self.now += later
        items = list(range(self.made, self.made + count))
        self.made += count
        self.buffer.push_many(items, self.now)
        self.model += [(item, self.now) for item in items]

    @precondition(lambda self: self.model)
    @rule(looks=st.booleans())
    def take(self, looks: bool) -> None:
        item, self.last = self.model.pop(0)
        assert self.buffer.take() == item
        if looks:
            assert self.buffer.arrival() == self.last

    @precondition(lambda self: not self.model)
    @rule()
    def take_from_an_empty_one(self) -> None:
        with pytest.raises(IndexError):
            self.buffer.take()
        with pytest.raises(IndexError):
            self.buffer.take_run(1)
        with pytest.raises(IndexError):
            self.buffer.oldest_arrival()

    @rule(limit=st.integers(0, 8))
    def take_many(self, limit: int) -> None:
        taken, self.model = self.model[:limit], self.model[limit:]
        assert self.buffer.take_many(limit) == [item for item, _ in taken]
        if self.last is not None:
            assert self.buffer.arrival() == self.last

    @rule(looks=st.booleans(), modulus=st.integers(1, 4))
    def extract(self, looks: bool, modulus: int) -> None:
        removed = [item for item, _ in self.model if item % modulus == 0]
        self.model = [pair for pair in self.model if pair[0] % modulus]
        assert self.buffer.extract(lambda item: item % modulus == 0) == removed
        if looks and self.last is not None:
            # That of the tick that was taken last, whatever has left since.
            assert self.buffer.arrival() == self.last

    @precondition(lambda self: self.model)
    @rule(limit=st.integers(1, 8))
    def take_run(self, limit: int) -> None:
        items, arrived = self.buffer.take_run(limit)
        taken, self.model = self.model[: len(items)], self.model[len(items) :]
        assert 1 <= len(items) <= limit
        assert [(item, arrived) for item in items] == taken

    @invariant()
    def agree(self) -> None:
        assert len(self.buffer) == self.buffer.measure() == len(self.model)
        assert list(self.buffer) == [item for item, _ in self.model]
        if self.model:
            assert self.buffer.oldest_arrival() == self.model[0][1]


class LanesMachine(RuleBasedStateMachine):
    """Workers lease symbols, park ticks behind them, and release them; a feed evicts.

    The model of a lane is a list; ``open`` keeps the symbols in the order in which
    their lanes were opened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[int] = Lanes()
        self.open: dict[str, list[tuple[int, float]]] = {}
        self.handled: set[str] = set()
        self.ready: list[str] = []
        self.parked: set[int] = set()
        self.left: set[int] = set()
        self.made = 0

    def leave(self, item: int) -> None:
        assert item not in self.left, "given out twice"
        self.left.add(item)

    @rule(symbol=SYMBOLS)
    def arrive(self, symbol: str) -> None:
        """A tick leaves the buffer: it leases its symbol if that is free, or parks."""
        if symbol not in self.open:
            assert symbol not in self.lanes.lines
            self.lanes.lines[symbol] = None
            self.open[symbol] = []
            self.handled.add(symbol)
            return
        self.lanes.park(symbol, self.made, float(self.made))
        self.open[symbol].append((self.made, float(self.made)))
        self.parked.add(self.made)
        self.made += 1

    @precondition(lambda self: self.handled)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        symbol = data.draw(st.sampled_from(sorted(self.handled)))
        self.lanes.release(symbol)
        self.handled.discard(symbol)
        if self.open[symbol]:
            self.ready.append(symbol)
        else:
            del self.open[symbol]

    def forget_emptied(self) -> None:
        while self.ready and not self.open[self.ready[0]]:
            del self.open[self.ready.pop(0)]

    @rule(asks_first=st.booleans())
    def take(self, asks_first: bool) -> None:
        self.forget_emptied()
        if asks_first:
            assert self.lanes.is_ready() == bool(self.ready)
        if not self.ready:
            with pytest.raises(IndexError):
                self.lanes.take()
            return
        symbol = self.ready.pop(0)
        item, arrived = self.open[symbol].pop(0)
        assert self.lanes.take() == (symbol, item, arrived)
        self.handled.add(symbol)
        self.leave(item)

    @precondition(lambda self: self.handled)
    @rule(data=st.data(), puts_back=st.booleans())
    def take_next(self, data: st.DataObject, puts_back: bool) -> None:
        symbol = data.draw(st.sampled_from(sorted(self.handled)))
        expected = self.open[symbol].pop(0) if self.open[symbol] else None
        assert self.lanes.take_next(symbol) == expected
        if expected is None:
            return
        if puts_back:
            self.lanes.park_first(symbol, *expected)
            self.open[symbol].insert(0, expected)
        else:
            self.leave(expected[0])

    @rule(limit=st.integers(0, 6))
    def evict(self, limit: int) -> None:
        expected: list[int] = []
        for lane in self.open.values():
            while lane and len(expected) < limit:
                expected.append(lane.pop(0)[0])
        assert self.lanes.evict(limit) == expected
        for item in expected:
            self.leave(item)

    @rule(symbol=st.one_of(st.none(), SYMBOLS), divisor=st.integers(1, 3))
    def evict_first(self, symbol: str | None, divisor: int) -> None:
        """Evict the first tick whose number the divisor divides.

        Such a tick may stand in the middle of its lane.
        """
        lanes = self.open.values() if symbol is None else [self.open.get(symbol, [])]
        expected = next(
            (entry for lane in lanes for entry in lane if entry[0] % divisor == 0), None
        )
        got = self.lanes.evict_first(lambda item: item % divisor == 0, symbol)
        assert got == (None if expected is None else expected[0])
        if expected is not None:
            next(lane for lane in self.open.values() if expected in lane).remove(expected)
            self.leave(expected[0])

    @invariant()
    def nothing_is_lost(self) -> None:
        waiting = {item for lane in self.open.values() for item, _ in lane}
        assert len(self.lanes) == self.lanes.parked == len(waiting)
        assert self.parked == self.left | waiting
        assert not self.left & waiting
        oldest = min((lane[0][1] for lane in self.open.values() if lane), default=None)
        assert self.lanes.oldest_arrival() == oldest

    @invariant()
    def order_is_kept(self) -> None:
        assert {symbol: list(lane or ()) for symbol, lane in self.lanes.lines.items()} == self.open

    def teardown(self) -> None:
        """When all workers are done, all that waits comes out, and no lease stays."""
        for symbol in sorted(self.handled):
            self.lanes.release(symbol)
        while self.lanes.is_ready():
            symbol, item, _arrived = self.lanes.take()
            self.leave(item)
            self.lanes.release(symbol)
        assert self.left == self.parked
        assert not self.lanes.lines
        assert self.lanes.parked == len(self.lanes) == 0


class KeyedMachine(RuleBasedStateMachine):
    """The buffer by symbol, and a list of (tick, arrival, may be evicted)."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer: KeyedBuffer[Trade] = KeyedBuffer()
        self.model: list[tuple[Trade, float, bool]] = []
        self.made = 0

    def remove(self, got: Trade | None, entry: tuple[Trade, float, bool] | None) -> None:
        if entry is None:
            assert got is None
        else:
            assert got is entry[0]
            self.model.remove(entry)

    @rule(symbol=SYMBOLS, evictable=st.booleans())
    def push(self, symbol: str, evictable: bool) -> None:
        item = make_trade(symbol, self.made)
        self.buffer.push(item, float(self.made), evictable=evictable)
        self.model.append((item, float(self.made), evictable))
        self.made += 1

    @rule()
    def take(self) -> None:
        if not self.model:
            with pytest.raises(IndexError):
                self.buffer.take()
            return
        entry = self.model[0]
        self.remove(self.buffer.take(), entry)
        assert self.buffer.arrival() == entry[1]

    @rule(limit=st.integers(0, 5))
    def take_many(self, limit: int) -> None:
        taken, self.model = self.model[:limit], self.model[limit:]
        assert self.buffer.take_many(limit) == [item for item, _, _ in taken]

    @precondition(lambda self: self.model)
    @rule(limit=st.integers(1, 5))
    def take_run(self, limit: int) -> None:
        entry = self.model[0]
        (item,), arrived = self.buffer.take_run(limit)
        self.remove(item, entry)
        assert arrived == entry[1]

    @rule()
    def evict_oldest(self) -> None:
        self.remove(
            self.buffer.evict_oldest(), next((entry for entry in self.model if entry[2]), None)
        )

    @rule(symbol=SYMBOLS)
    def evict_from(self, symbol: str) -> None:
        expected = next(
            (entry for entry in self.model if entry[2] and entry[0].symbol == symbol), None
        )
        self.remove(self.buffer.evict_from(symbol), expected)

    @invariant()
    def agree(self) -> None:
        assert len(self.buffer) == self.buffer.measure() == len(self.model)
        assert list(self.buffer) == [item for item, _, _ in self.model]
        lines = {
            symbol: [number(item) for item, _, _ in self.model if item.symbol == symbol]
            for symbol in "ABCD"
        }
        for symbol, line in lines.items():
            assert [number(entry.item) for entry in self.buffer.line(symbol) or ()] == line
        longest = self.buffer.longest_line()
        if longest is None:
            assert not self.model
        else:
            assert longest[1] == max(map(len, lines.values())) == len(lines[longest[0]])
            assert self.buffer.oldest_arrival() == self.model[0][1]


TestFifoBuffer = FifoMachine.TestCase
TestLanes = LanesMachine.TestCase
TestKeyedBuffer = KeyedMachine.TestCase


def objects_in(container: object) -> int:
    """Return how many objects *container* keeps alive, directly or by others."""
    found = {id(container): container}
    unread = [container]
    while unread:
        for each in gc.get_referents(unread.pop()):
            if id(each) not in found and not isinstance(each, (type, ModuleType)):
                found[id(each)] = each
                unread.append(each)
    return len(found)


def test_a_fifo_forgets_the_batches_that_have_left() -> None:
    buffer: FifoBuffer[int] = FifoBuffer()
    for moment in range(10_000):
        buffer.push_many([1, 2, 3], float(moment))
        buffer.take_many(3)
    assert objects_in(buffer) < 20


def test_a_keyed_buffer_sweeps_what_was_evicted() -> None:
    buffer: KeyedBuffer[Trade] = KeyedBuffer()
    buffer.push(make_trade("A", 0), 0.0, evictable=False)
    for n in range(1, 10_000):
        buffer.push(make_trade(f"S{n % 7}", n), float(n), evictable=True)
        assert buffer.evict_oldest() is not None
    assert len(buffer) == 1
    assert objects_in(buffer) < 2000


def test_a_keyed_buffer_sweeps_what_was_taken() -> None:
    buffer: KeyedBuffer[Trade] = KeyedBuffer()
    for n in range(10_000):
        buffer.push(make_trade(f"S{n % 7}", n), float(n), evictable=True)
        buffer.take()
    assert objects_in(buffer) < 2000
