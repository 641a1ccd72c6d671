"""What it costs to keep ticks waiting for room: operations counted, never times.

A long delivery may be refused tick by tick, and others may bring ticks while it waits.
Neither may cost the whole delivery each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, SupportsIndex

import attrs
import pytest

import trio_ticks as tt
from tests.worlds.channel_helpers import Ends, dropped
from tests.worlds.helpers import make_tick, make_ticks, numbers

MANY = 400


class Copied(list[Any]):
    """A list that counts the items that slices of it, and of these, have copied."""

    def __init__(self, items: Iterable[Any], copied: Counter[str]) -> None:
        super().__init__(items)
        self._copied = copied

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        if not isinstance(index, slice):
            return found
        self._copied["items"] += len(found)
        return Copied(found, self._copied)


@attrs.frozen
class Asked(tt.Tick):
    """A tick that counts how often anybody asks for its symbol."""

    asked: Counter[str] = attrs.field(kw_only=True)

    def __getattribute__(self, name: str) -> Any:
        if name == "symbol":
            object.__getattribute__(self, "asked")["symbol"] += 1
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    "overflow",
    [tt.Block(timeout=0), {tt.Tick: tt.DropNewest(timeout=0)}],
    ids=["fifo", "keyed"],
)
async def test_a_delivery_that_is_refused_tick_by_tick_is_not_copied_each_time(
    overflow: Any,
) -> None:
    ends: Ends = tt.open_tick_channel(2, overflow)
    send, receive = ends
    send.deliver(make_ticks(2))
    state, copied = receive.state, Counter[str]()
    items = Copied(make_ticks(MANY, first=2), copied)
    state.ledger.produced += len(items)
    assert state.deliveries.add(items, send, state.now(), kept=True) is None
    assert dropped(send) == {"overflow": MANY}
    # Each is looked at a few times: for its patience, its refusal, and its last chance.
    assert copied["items"] <= 4 * MANY


@pytest.mark.parametrize(
    "overflow",
    [
        tt.DropNewest(timeout=0, max_per_symbol=3),
        {tt.Tick: tt.DropNewest(timeout=60, max_per_symbol=3)},
    ],
    ids=["alone", "in a mapping"],
)
async def test_a_refusal_in_a_long_batch_does_not_copy_all_that_is_behind_it(
    overflow: Any,
) -> None:
    ends: Ends = tt.open_tick_channel(100, overflow)
    send, receive = ends
    batch = Copied(make_ticks(10 * MANY, ["A", "B"]), copied := Counter[str]())
    send.deliver(batch)
    assert dropped(send) == {"overflow": len(batch) - 6}
    assert copied["items"] <= 256 * len(batch)  # half of the batch for each refusal: 2000
    assert numbers(await receive.receive_many()) == list(range(6))


@pytest.mark.parametrize("overflow", [tt.DropNewest(timeout=60), tt.Block()], ids=["drop", "block"])
async def test_those_who_bring_ticks_while_many_wait_do_not_look_at_all_of_them(
    overflow: Any,
) -> None:
    ends: Ends = tt.open_tick_channel(2, overflow)
    send, receive = ends
    asked: Counter[str] = Counter()
    fields = attrs.asdict(make_tick())
    assert send.deliver([Asked(**fields, asked=asked) for _ in range(MANY)]) is not None
    asked.clear()
    waits = [send.clone().deliver([make_tick("B", n)]) for n in range(50)]
    assert None not in waits
    assert receive.statistics().waiting_for_room == MANY - 2 + 50
    assert asked["symbol"] <= 2 * MANY


async def test_a_symbol_is_known_to_wait_exactly_as_long_as_one_of_its_ticks_does() -> None:
    ends: Ends = tt.open_tick_channel(2, tt.Block())
    send, receive = ends
    deliveries = receive.state.deliveries
    send.deliver(make_ticks(6, ["A", "B", "A", "B", "C", "B"]))
    assert [deliveries.holds_any([symbol]) for symbol in "ABC"] == [True, True, True]
    left = []
    for _ in range(3):
        await receive.receive()
        left.append("".join(symbol for symbol in "ABC" if deliveries.holds_any([symbol])))
    assert left == ["BC", "BC", "B"]  # A; then B, of which another waits; then C
    receive.state.give_back({"B"})
    assert not deliveries.holds_any("ABC")
    receive.ledger.check()
