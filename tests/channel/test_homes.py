"""Which process is a symbol's home, and what waits for it: lanes, without processes."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.worlds.helpers import make_tick, number, numbers
from trio_ticks.channel.homes import Home, HomedLanes
from trio_ticks.ticks import Tick


def lanes_of(count: int) -> tuple[HomedLanes[Tick], list[Home]]:
    lanes: HomedLanes[Tick] = HomedLanes()
    lanes.homes += [Home() for _ in range(count)]
    return lanes, list(lanes.homes)


def put(lanes: HomedLanes[Tick], symbols: str, first: int = 0) -> None:
    """Put a tick for each letter, each arrived at its number."""
    for n, symbol in enumerate(symbols, first):
        lanes.put(symbol, make_tick(symbol, n), float(n))


def test_symbols_are_spread_and_stay() -> None:
    lanes, homes = lanes_of(3)
    put(lanes, "ABCDEFABCDEF")
    assert [lanes.home_of(symbol) for symbol in "ABCDEF"] == [*homes, *homes]
    assert [home.symbols for home in homes] == [2, 2, 2]
    assert [list(home.ready) for home in homes] == [["A", "D"], ["B", "E"], ["C", "F"]]
    assert (len(lanes), lanes.parked, list(lanes.ready)) == (12, 12, [])


def test_a_symbol_that_is_handled_is_not_given_again() -> None:
    lanes, (home,) = lanes_of(1)
    put(lanes, "AAB")
    found = lanes.take_at(home)
    assert found is not None
    assert (found[0], number(found[1]), found[2]) == ("A", 0, 0.0)
    second = lanes.take_at(home)
    assert second is not None
    assert second[0] == "B"
    assert lanes.take_at(home) is None
    put(lanes, "A", first=3)
    assert not lanes.is_ready_at(home)
    lanes.release("B")
    assert lanes.lines.keys() == {"A"}
    lanes.release("A")
    third = lanes.take_at(home)
    assert third is not None
    assert number(third[1]) == 1
    following = lanes.take_next("A")
    assert following is not None
    assert number(following[0]) == 3


async def test_the_bell_wakes_the_home_and_no_other() -> None:
    lanes, homes = lanes_of(2)
    woken: list[int] = []

    async def sleep(index: int) -> None:
        await homes[index].wait()
        woken.append(index)

    async with trio.open_nursery() as nursery:
        for index in range(2):
            nursery.start_soon(sleep, index)
        await wait_all_tasks_blocked()
        lanes.home_of("A")
        put(lanes, "BB")
        await wait_all_tasks_blocked()
        assert woken == [1]
        homes[0].ring()
        homes[0].ring()
    assert woken == [1, 0]


async def test_a_bell_that_rings_before_anybody_waits_is_heard() -> None:
    home = Home()
    home.ring()
    await home.wait()
    with trio.move_on_after(0) as scope:
        await home.wait()
    assert scope.cancelled_caught


def test_a_lane_that_was_evicted_is_forgotten() -> None:
    lanes, (home,) = lanes_of(1)
    put(lanes, "AAB")
    assert numbers(lanes.evict(2)) == [0, 1]
    assert lanes.is_ready_at(home)
    assert lanes.lines.keys() == {"B"}
    assert numbers(lanes.evict(5)) == [2]
    assert not lanes.is_ready_at(home)
    assert (lanes.lines, lanes.parked) == ({}, 0)


def test_a_lane_that_was_evicted_and_filled_again_is_ready_once() -> None:
    lanes, (home,) = lanes_of(1)
    put(lanes, "A")
    lanes.evict(1)
    put(lanes, "A", first=1)
    assert list(home.ready) == ["A"]
    assert lanes.take_at(home) is not None
    assert lanes.take_at(home) is None


@given(st.text("ABCD", max_size=30), st.integers(0, 40), st.sets(st.integers(0, 30)))
def test_what_arrived_first_is_evicted_first(symbols: str, limit: int, unwanted: set[int]) -> None:
    lanes, _homes = lanes_of(2)
    put(lanes, symbols)
    wanted = [n for n in range(len(symbols)) if n not in unwanted]
    first = lanes.evict_first(lambda tick: number(tick) not in unwanted)
    assert (None if first is None else number(first)) == (wanted[0] if wanted else None)
    rest = [n for n in range(len(symbols)) if first is None or n != number(first)]
    assert numbers(lanes.evict(limit)) == rest[:limit]
    assert lanes.parked == len(lanes) == len(rest[limit:])


def test_the_first_of_one_symbol_may_be_asked_for() -> None:
    lanes, _homes = lanes_of(2)
    put(lanes, "ABAB")
    found = lanes.evict_first(lambda tick: True, "B")
    assert found is not None
    assert number(found) == 1
    assert lanes.evict_first(lambda tick: True, "C") is None


def test_whoever_leaves_leaves_its_symbols_to_others() -> None:
    lanes, homes = lanes_of(2)
    put(lanes, "ABCD")
    lanes.leave(homes[0])
    assert lanes.homes == homes[1:]
    assert list(homes[1].ready) == ["B", "D", "A", "C"]
    assert lanes.home_of("A") is homes[1]
    # The last home stays: otherwise the next ticks would have none.
    lanes.leave(homes[1])
    assert lanes.homes == homes[1:]


@pytest.mark.parametrize("workers", [1, 2, 3])
@given(
    symbols=st.lists(st.sampled_from("ABCDEF"), max_size=60),
    steps=st.lists(st.integers(0, 3), max_size=60),
)
def test_each_symbol_has_one_home_and_its_order(
    workers: int, symbols: list[str], steps: list[int]
) -> None:
    lanes, homes = lanes_of(workers)
    handled: dict[str, list[int]] = {}
    at: dict[str, set[int]] = {}
    handling: Counter[str] = Counter()
    coming = list(enumerate(symbols))
    for step in [*steps, *range(workers)] * (len(symbols) + 1):
        if coming:
            n, symbol = coming.pop(0)
            lanes.put(symbol, make_tick(symbol, n), float(n))
        index = step % workers
        found = lanes.take_at(homes[index])
        if found is not None:
            symbol, item, _arrived = found
            handling[symbol] += 1
            assert handling[symbol] == 1
            handled.setdefault(symbol, []).append(number(item))
            at.setdefault(symbol, set()).add(index)
            handling[symbol] -= 1
            lanes.release(symbol)
    assert {symbol: sorted(ns) for symbol, ns in handled.items()} == handled
    assert sum(map(len, handled.values())) == len(symbols)
    assert all(len(indices) == 1 for indices in at.values())
    assert (lanes.lines, lanes.parked) == ({}, 0)
