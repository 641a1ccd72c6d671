"""Conflation, caps, evictions and a strategy per kind: what is kept, and counted.

And in which order.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt

START = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)


def quote(symbol: str, number: int) -> tt.Tick:
    return tt.Tick(
        symbol, START + timedelta(milliseconds=number), 1.0, 1.1, 1.0, 1.0, float(number)
    )


def trade(symbol: str, number: int) -> tt.Trade:
    return tt.Trade(symbol, START + timedelta(milliseconds=number), 1.0, float(number))


def numbers(items: list[Any]) -> list[tuple[str, int]]:
    return [
        (item.symbol, int(item.size if isinstance(item, tt.Trade) else item.volume))
        for item in items
    ]


def opened(
    maxsize: int, overflow: Any
) -> tuple[tt.TickSendChannel[Any], tt.TickReceiveChannel[Any]]:
    return tt.open_tick_channel(maxsize, overflow)


async def pushed(overflow: Any, maxsize: int, *items: Any) -> tuple[list[Any], tt.Ledger]:
    """Send *items* to a channel without a reader, then read all of it."""
    send, receive = opened(maxsize, overflow)
    async with send, receive:
        with trio.fail_after(5):
            await send.send_many(items)
        send.ledger.check()
        got = await receive.receive_many() if len(receive) else []
        send.ledger.check()
    return got, send.ledger


async def test_the_newest_wins_in_the_place_of_the_first() -> None:
    got, ledger = await pushed(
        tt.Conflate(), 10, quote("A", 1), quote("B", 2), quote("A", 3), quote("A", 4), quote("C", 5)
    )
    assert numbers(got) == [("A", 4), ("B", 2), ("C", 5)]
    assert ledger.dropped_by_reason["conflated"] == 2
    assert ledger.dropped == 2


async def test_a_conflated_tick_says_what_it_stands_for() -> None:
    got, _ = await pushed(
        tt.Conflate(), 10, quote("A", 1), quote("A", 2), quote("A", 3), quote("B", 4)
    )
    evidence = tt.conflation_of(got[0])
    assert evidence is not None
    assert evidence.count == 3
    assert evidence.first_timestamp == quote("A", 1).timestamp
    assert tt.conflation_of(got[1]) is None
    assert isinstance(got[0], tt.Tick)
    assert (got[0].mid_price, got[0].timestamp) == (
        quote("A", 3).mid_price,
        quote("A", 3).timestamp,
    )


async def test_merge_combines() -> None:
    def merge(old: tt.Tick, new: tt.Tick) -> tt.Tick:
        return attrs.evolve(new, volume=old.volume + new.volume)

    plain = [tt.Tick("A", START, 1.0, 1.1, 1.0, 1.0, float(n)) for n in (1, 10, 100)]
    got, ledger = await pushed(tt.Conflate(merge=merge), 10, *plain)
    assert got[0].volume == 111
    assert ledger.dropped_by_reason["conflated"] == 2


async def test_a_merge_that_raises_keeps_the_newer_and_the_feed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def merge(old: tt.Tick, new: tt.Tick) -> tt.Tick:
        raise RuntimeError("no")

    with caplog.at_level(logging.ERROR, "trio_ticks"):
        got, _ = await pushed(
            tt.Conflate(merge=merge), 10, quote("A", 1), quote("A", 2), quote("A", 3)
        )
    assert numbers(got) == [("A", 3)]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["merge.failed"]


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (None, "TypeError: merge must make a Tick of two items of 'A', got None"),
        ("A", "TypeError: merge must make a Tick of two items of 'A', got 'A'"),
        (trade("A", 9), "TypeError: merge must make a Tick of two items of 'A', got Trade"),
        (quote("Z", 9), "ValueError: merge must make an item of the same symbol .* of 'Z'"),
    ],
    ids=["None", "text", "kind", "symbol"],
)
async def test_a_merge_that_returns_the_wrong_thing_keeps_the_newer_and_the_feed(
    result: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "trio_ticks"):
        got, ledger = await pushed(
            tt.Conflate(merge=lambda old, new: result),
            10,
            *[quote("A", 1), quote("B", 2), quote("A", 3), quote("A", 4)],
        )
    assert numbers(got) == [("A", 4), ("B", 2)]
    assert (ledger.dropped, ledger.dropped_by_reason["conflated"]) == (2, 2)
    evidence = tt.conflation_of(got[0])
    assert evidence is not None
    assert evidence.count == 3
    (record,) = caplog.records
    assert record.getMessage().startswith("merge.failed")
    assert record.exc_info is not None
    assert re.match(says, f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}")


async def test_a_merge_may_return_the_older_item_or_one_of_a_subclass() -> None:
    class Special(tt.Tick):
        pass

    older = [quote("A", 1), quote("A", 2), quote("A", 3)]
    got, _ = await pushed(tt.Conflate(merge=lambda old, new: old), 10, *older)
    assert numbers(got) == [("A", 1)]
    special = Special("A", START, 1.0, 1.1, 1.0, 1.0, 9.0)
    got, _ = await pushed(tt.Conflate(merge=lambda old, new: special), 10, *older)
    assert isinstance(got[0], Special)


async def test_more_symbols_than_places_push_out_the_one_that_waited_longest() -> None:
    got, ledger = await pushed(
        tt.Conflate(), 2, quote("A", 1), quote("B", 2), quote("C", 3), quote("B", 4)
    )
    assert numbers(got) == [("B", 4), ("C", 3)]
    assert ledger.dropped_by_reason["evicted"] == 1
    assert ledger.dropped_by_reason["conflated"] == 1


async def test_a_quote_is_not_replaced_across_a_trade() -> None:
    policy = {tt.Tick: tt.Conflate(), tt.Trade: tt.Block()}
    got, _ = await pushed(
        policy,
        10,
        quote("A", 1),
        trade("A", 2),
        quote("A", 3),
        quote("A", 4),
        quote("B", 5),
        quote("B", 6),
    )
    assert numbers(got) == [("A", 1), ("A", 2), ("A", 4), ("B", 6)]


async def test_a_kind_follows_its_base_class_or_the_default() -> None:
    @attrs.frozen(slots=True)
    class MyTick(tt.Tick):
        pass

    mine = [MyTick("A", START, 1.0, 1.1, 1.0, 1.0, float(n)) for n in range(3)]
    got, ledger = await pushed({tt.Tick: tt.Conflate()}, 10, *mine, trade("A", 7))
    assert numbers(got) == [("A", 2), ("A", 7)]
    assert ledger.dropped_by_reason["conflated"] == 2


async def test_trades_wait_for_room_and_none_is_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    send, receive = opened(3, {tt.Tick: tt.Conflate(), tt.Trade: tt.Block()})
    got: list[Any] = []

    async def read() -> None:
        async with receive:
            async for item in receive:
                got.append(item)
                await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async with send:
            for n in range(0, 60, 3):
                await send.send_many([quote("A", n), trade("A", n + 1), quote("B", n + 2)])
                assert len(send) <= 3
                send.ledger.check()
    assert [
        n for symbol, n in numbers([item for item in got if isinstance(item, tt.Trade)])
    ] == list(range(1, 60, 3))
    for symbol in "AB":
        assert sorted(found := [n for name, n in numbers(got) if name == symbol]) == found
    assert send.ledger.delivered == len(got)
    assert send.ledger.produced == 60


async def test_a_quote_does_not_overtake_a_trade_of_its_symbol_that_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    send, receive = opened(1, {tt.Tick: tt.Conflate(), tt.Trade: tt.Block()})
    async with trio.open_nursery() as nursery:
        await send.send(quote("A", 1))
        nursery.start_soon(send.send, trade("A", 2))
        await trio.sleep(1)
        # It must not take the place of the quote that is queued: that came before 2.
        nursery.start_soon(send.send, quote("A", 3))
        await trio.sleep(1)
        got = [await receive.receive() for _ in range(3)]
    assert numbers(got) == [("A", 1), ("A", 2), ("A", 3)]


async def test_a_large_batch_that_has_to_wait_stays_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    send, receive = opened(3, {tt.Tick: tt.Block()})

    async def bring() -> None:
        async with send:
            await send.send_many([quote("A", n) for n in range(1000)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bring)
        async with receive:
            got = [item async for item in receive]
    assert numbers(got) == [("A", n) for n in range(1000)]


async def test_block_with_a_timeout_gives_up_on_one_tick_at_a_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    send, receive = opened(1, tt.Block(timeout=0.5))
    async with send, receive:
        began = trio.current_time()
        await send.send_many([quote("A", n) for n in range(4)])
        assert trio.current_time() - began == pytest.approx(1.5)
        assert numbers(await receive.receive_many()) == [("A", 0)]
    assert send.ledger.dropped_by_reason["overflow"] == 3


async def test_a_cap_a_symbol_leaves_room_for_the_rest() -> None:
    hot = [quote("HOT", n) for n in range(10)]
    got, ledger = await pushed(
        tt.DropNewest(timeout=0, max_per_symbol=3), 100, *hot, quote("B", 10)
    )
    assert numbers(got) == [("HOT", 0), ("HOT", 1), ("HOT", 2), ("B", 10)]
    assert ledger.dropped_by_reason["overflow"] == 7
    got, ledger = await pushed(tt.DropOldest(max_per_symbol=3), 100, quote("B", 10), *hot)
    assert numbers(got) == [("B", 10), ("HOT", 7), ("HOT", 8), ("HOT", 9)]
    assert ledger.dropped_by_reason["evicted"] == 7


async def test_the_longest_line_pays() -> None:
    items = [quote("B", 0), *(quote("HOT", n) for n in range(1, 5)), quote("C", 5), quote("D", 6)]
    got, ledger = await pushed(tt.DropOldest(longest_line=True), 5, *items)
    assert numbers(got) == [("B", 0), ("HOT", 3), ("HOT", 4), ("C", 5), ("D", 6)]
    got, _ = await pushed(tt.DropOldest(), 5, *items)
    assert numbers(got)[0] == ("HOT", 2)
    assert ledger.dropped_by_reason["evicted"] == 2


async def test_a_batch_evicts_though_its_first_part_fills_the_channel_exactly() -> None:
    send, receive = opened(256, tt.DropOldest(max_per_symbol=1000))
    send.deliver([quote("A", n) for n in range(300)])
    assert send.ledger.dropped_by_reason["evicted"] == 44
    assert send.ledger.dropped == 44
    assert [number for _symbol, number in numbers([*receive.state.buffer])] == [*range(44, 300)]
    send.ledger.check()


async def test_a_tick_that_is_refused_at_once_does_not_begin_a_wait(
    autojump_clock: MockClock,
) -> None:
    send, receive = opened(1, tt.DropNewest(timeout=0))
    for n in range(3):
        assert send.deliver([quote("A", n)]) is None
        await trio.sleep(1)
    assert send.ledger.dropped_by_reason["overflow"] == 2
    statistics = receive.statistics()
    assert (statistics.blocked_s, statistics.waiting_for_room) == (0, 0)
    send.ledger.check()


async def test_the_sender_of_a_lone_tick_is_told_that_the_channel_is_full() -> None:
    send, _receive = opened(1, tt.Fail())
    assert send.deliver([quote("A", 0)]) is None
    with pytest.raises(tt.QueueFullError, match="1 found no room"):
        send.deliver([quote("A", 1)])
    assert send.ledger.dropped_by_reason["overflow"] == 1
    send.ledger.check()


async def test_a_block_kind_is_never_evicted_for_another() -> None:
    policy = {tt.Tick: tt.DropOldest(), tt.Trade: tt.Block()}
    got, ledger = await pushed(
        policy, 3, trade("A", 1), trade("B", 2), trade("C", 3), quote("D", 4)
    )
    assert numbers(got) == [("A", 1), ("B", 2), ("C", 3)]
    assert ledger.dropped_by_reason["overflow"] == 1


async def test_conflation_reaches_into_the_lane_of_a_symbol_that_is_being_handled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    handled: list[Any] = []
    release = trio.Event()

    async def handler(tick: tt.Tick) -> None:
        handled.append(tick)
        await release.wait()

    class Feed:
        async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
            for n in range(20):
                await send.send(quote("A", n))
                await trio.sleep(0.1)
                assert len(send) <= 1
            release.set()

    async with tt.open_pipeline(Feed(), handler, workers=3, overflow=tt.Conflate()) as pipeline:
        await pipeline.wait()
    assert numbers(handled) == [("A", 0), ("A", 19)]
    assert pipeline.report.dropped_by_reason["conflated"] == 18


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {tt.Tick: "conflate"},
        {"Tick": tt.Conflate()},
        "conflate",
        3,
    ],
)
def test_a_policy_that_cannot_work_says_so(bad: Any) -> None:
    with pytest.raises(tt.ConfigError, match="overflow"):
        tt.open_tick_channel(10, bad)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tt.DropNewest(timeout=-1),
        lambda: tt.DropNewest(timeout=float("nan")),
        lambda: tt.DropNewest(max_per_symbol=0),
        lambda: tt.DropOldest(max_per_symbol=True),
        lambda: tt.Block(timeout=-0.1),
        lambda: tt.Conflate(merge="last"),  # type: ignore[arg-type]
        lambda: tt.MaxAge(0),
        lambda: tt.MaxAge(1, since="birth"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_say_so(make: Any) -> None:
    with pytest.raises(tt.ConfigError):
        make()


@pytest.mark.parametrize("patience", [tt.DropNewest(0.1), tt.Block(timeout=0.1)])
async def test_what_waits_behind_another_kind_waits_for_its_own_patience(
    autojump_clock: MockClock, patience: tt.OverflowStrategy
) -> None:
    send, receive = opened(1, {tt.Trade: tt.Block(), tt.Tick: patience})
    gone_on: list[float] = []

    async def bring() -> None:
        await send.send_many([trade("A", 1), trade("B", 2), quote("C", 3)])
        gone_on.append(trio.current_time())

    async with send, receive:
        with trio.move_on_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bring)
                await trio.sleep(0.05)
                # The second trade has waited for ever, had it come to that; the quote
                # does not.
                assert numbers([await receive.receive()]) == [("A", 1)]
        assert gone_on == [pytest.approx(0.15)]
        assert numbers(await receive.receive_many()) == [("B", 2)]
        assert send.ledger.dropped_by_reason["overflow"] == 1
        send.ledger.check()
