"""Losses are announced in the symbol's order; books are held until a snapshot.

Ages are measured as the user chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_ticks as tt


def quote(symbol: str, number: int, at: float = 0.0) -> tt.Tick:
    return tt.Tick(
        symbol, datetime.now(UTC) + timedelta(seconds=at), 1.0, 1.1, 1.0, 1.0, float(number)
    )


def book(symbol: str, number: int, *, snapshot: bool = False) -> tt.BookUpdate:
    return tt.BookUpdate(symbol, datetime.now(UTC), snapshot=snapshot, last_sequence=number)


@attrs.define
class Script:
    """A feed that sends batches, with pauses between; one can ask it for snapshots."""

    steps: Sequence[Any]
    asked: list[tuple[str, float]] = attrs.field(factory=list)
    send: Any = None

    async def run(self, send: tt.TickSendChannel[Any]) -> None:
        self.send = send
        for step in self.steps:
            if isinstance(step, int | float):
                await trio.sleep(step)
            elif isinstance(step, tt.Gap):
                send.mark_gap(step, book=step.reason == "sequence")
            else:
                await send.send_many(step)


@attrs.define
class Asked(Script):
    async def request_snapshot(self, symbol: str) -> None:
        self.asked.append((symbol, trio.current_time()))
        await self.send.send(book(symbol, 100 + len(self.asked), snapshot=len(self.asked) > 1))


async def told(
    feed: Any, *, service_s: float = 0.01, **options: Any
) -> tuple[list[Any], tt.PipelineReport]:
    """Run *feed*; return handled items and announced gaps, in their common order."""
    log: list[Any] = []

    async def handler(item: Any) -> None:
        log.append(item)
        await trio.sleep(service_s)

    with trio.fail_after(10_000):
        async with tt.open_pipeline(feed, handler, on_gap=log.append, **options) as pipeline:
            await pipeline.wait()
            pipeline.ledger.check()
    return log, pipeline.report


def shown(log: list[Any]) -> list[Any]:
    return [
        (item.reason, item.count)
        if isinstance(item, tt.Gap)
        else int(item.volume if isinstance(item, tt.Tick) else item.last_sequence or 0)
        for item in log
    ]


async def test_an_overflow_is_told_between_its_neighbours(autojump_clock: MockClock) -> None:
    ticks = [quote("A", n) for n in range(10)]
    # One is handled, two are queued, three find no room; then there is room again.
    feed = Script([ticks[:1], 0.001, ticks[1:6], 1.0, ticks[6:8]])
    log, report = await told(feed, workers=1, maxsize=2, overflow=tt.DropNewest(timeout=0))
    assert shown(log) == [0, 1, 2, ("overflow", 3), 6, 7]
    assert report.dropped_by_reason["overflow"] == 3
    gap = log[3]
    assert (gap.symbol, gap.first_timestamp, gap.timestamp) == (
        "A",
        ticks[3].timestamp,
        ticks[5].timestamp,
    )


@pytest.mark.parametrize(
    "overflow",
    [tt.DropNewest(timeout=0), {tt.Tick: tt.DropNewest(timeout=0)}],
    ids=["fifo", "keyed"],
)
async def test_the_newest_of_a_hot_symbols_lane_makes_room_and_is_told_in_its_place(
    overflow: Any, autojump_clock: MockClock
) -> None:
    a = [quote("A", n) for n in range(8)]
    b = quote("B", 100)
    # The second worker is free: A's lane must not keep B from it. A3 is dropped for B,
    # since there was no room; A5 finds room again.
    feed = Script([a[:1], 0.001, a[1:4], 0.001, [a[4], b], 1.0, a[5:]])
    log, report = await told(feed, service_s=0.1, workers=2, maxsize=3, overflow=overflow)
    assert shown([item for item in log if item.symbol == "B"]) == [100]
    assert log.index(b) == 1
    assert shown([item for item in log if item.symbol == "A"]) == [
        0,
        1,
        2,
        ("overflow", 2),
        5,
        6,
        7,
    ]
    assert report.dropped_by_reason["overflow"] == 2


async def test_an_eviction_is_told_before_what_was_behind_it(autojump_clock: MockClock) -> None:
    ticks = [quote("A", n) for n in range(6)]
    log, _ = await told(
        Script([ticks[:1], 0.001, ticks[1:]]), workers=1, maxsize=2, overflow=tt.DropOldest()
    )
    assert shown(log) == [0, ("evicted", 3), 4, 5]


async def test_stale_ticks_are_told_as_a_gap(autojump_clock: MockClock) -> None:
    ticks = [quote("A", n) for n in range(5)]
    log, report = await told(
        Script([ticks[:3], 1.05, ticks[3:]]), workers=1, service_s=1.0, max_age=0.5
    )
    assert shown(log) == [0, ("stale", 2), 3]
    assert report.dropped_by_reason["stale"] == 3


@pytest.mark.parametrize("since", ["arrival", "timestamp"])
@pytest.mark.parametrize("run", range(10))
async def test_a_tick_too_old_is_never_handled_also_where_nobody_looks_at_the_clock(
    run: int, since: Any, autojump_clock: MockClock
) -> None:
    """Quick ticks go untimed, a random number of them at once.

    Their age is checked all the same, and the gap is announced in its place.
    """
    log: list[Any] = []
    slow = 40 + 7 * run

    async def handler(item: tt.Tick | tt.Gap) -> None:
        log.append(item)
        if shown([item]) == [slow]:
            await trio.sleep(1.0)

    symbols = ["A", "B"]
    now = datetime.now(UTC)
    ticks = [attrs.evolve(quote(symbols[n % 2], n), timestamp=now) for n in range(200)]
    late = [
        attrs.evolve(quote(symbols[n % 2], n), timestamp=now + timedelta(seconds=0.6))
        for n in range(200, 210)
    ]
    feed = Script([ticks, 0.6, late])
    async with tt.open_pipeline(
        feed, handler, workers=1, max_age=tt.MaxAge(0.5, since)
    ) as pipeline:
        await pipeline.wait()
    assert pipeline.report.dropped_by_reason["stale"] == 199 - slow
    for first, symbol in enumerate(symbols):
        seen = shown([item for item in log if item.symbol == symbol])
        before, after = list(range(first, slow + 1, 2)), list(range(200 + first, 210, 2))
        assert seen == [*before, ("stale", len(range(first, 200, 2)) - len(before)), *after]


async def test_conflated_ticks_are_no_gap(autojump_clock: MockClock) -> None:
    log, report = await told(
        Script([[quote("A", n) for n in range(9)]]), workers=1, overflow=tt.Conflate()
    )
    assert not [item for item in log if isinstance(item, tt.Gap)]
    assert report.dropped_by_reason["conflated"] == 8


async def test_a_feed_can_tell_of_its_own_losses(autojump_clock: MockClock) -> None:
    now = datetime.now(UTC)
    lost = tt.Gap("B", now, "reconnect", 0, now)
    log, _ = await told(
        Script([[quote("A", 1), quote("B", 2)], lost, [quote("A", 3), quote("B", 4)]]), workers=1
    )
    assert shown(log) == [1, 2, 3, ("reconnect", 0), 4]


async def test_gaps_come_in_band_where_the_handler_takes_them(autojump_clock: MockClock) -> None:
    log: list[Any] = []

    async def handler(item: tt.Tick | tt.Gap) -> None:
        log.append(item)
        await trio.sleep(0.01)

    ticks = [quote("A", n) for n in range(6)]
    feed = Script([ticks[:1], 0.001, ticks[1:5], 1.0, ticks[5:]])
    async with tt.open_pipeline(
        feed, handler, workers=1, maxsize=2, overflow=tt.DropNewest(timeout=0)
    ) as pipeline:
        await pipeline.wait()
    assert shown(log) == [0, 1, 2, ("overflow", 2), 5]
    assert pipeline.report.consumed == 4


async def test_an_error_out_of_on_gap_comes_out_as_itself(autojump_clock: MockClock) -> None:
    def on_gap(gap: tt.Gap) -> None:
        raise LookupError(gap.symbol)

    async def handler(tick: tt.Tick) -> None:
        await trio.sleep(1)

    ticks = [quote("A", n) for n in range(6)]
    with pytest.raises(LookupError, match="A"):
        async with tt.open_pipeline(
            Script([ticks]), handler, workers=1, maxsize=2, overflow=tt.DropOldest(), on_gap=on_gap
        ) as pipeline:
            await pipeline.wait()
    pipeline.ledger.check()


async def test_book_updates_are_held_until_a_snapshot(autojump_clock: MockClock) -> None:
    updates = [book("A", n, snapshot=n == 7) for n in range(10)]
    feed = Script(
        [
            updates[:1],
            0.001,
            updates[1:5],
            0.5,
            [*updates[5:7], book("B", 50)],
            0.5,
            updates[7:9],
            0.5,
            updates[9:],
        ]
    )
    log, report = await told(
        feed,
        workers=1,
        maxsize=2,
        overflow={tt.BookUpdate: tt.DropNewest(timeout=0)},
        service_s=0.001,
    )
    # 3 found no room; 4, 5 and 6 would be applied to a wrong book.
    assert [entry for entry in shown(log) if entry != 50] == [0, 1, 2, ("overflow", 4), 7, 8, 9]
    assert report.dropped_by_reason["overflow"] == 1
    assert report.dropped_by_reason["held"] == 3
    assert 50 in shown(log)


async def test_updates_queued_behind_an_evicted_one_are_held_too(autojump_clock: MockClock) -> None:
    updates = [book("A", n, snapshot=n == 5) for n in range(7)]
    log, report = await told(
        Script([updates[:1], 0.001, updates[1:]]), workers=1, maxsize=4, overflow=tt.DropOldest()
    )
    assert [n for n in shown(log) if isinstance(n, int)] == [0, 5, 6]
    assert report.dropped_by_reason["held"] == 2
    assert report.dropped_by_reason["evicted"] == 2


async def test_the_feed_is_asked_for_a_snapshot_now_and_then(autojump_clock: MockClock) -> None:
    updates = [book("A", n) for n in range(6)]
    feed = Asked([updates[:1], 0.001, updates[1:], 30.0])
    log, _ = await told(feed, workers=1, maxsize=2, overflow=tt.DropNewest(timeout=0))
    assert [symbol for symbol, _ in feed.asked] == ["A", "A"]
    # The first answer was no snapshot: the next request comes, but not at once.
    assert feed.asked[1][1] - feed.asked[0][1] >= 5.0
    assert shown(log)[-1] == 102


async def test_a_sequence_gap_holds_the_book(autojump_clock: MockClock) -> None:
    now = datetime.now(UTC)
    gap = tt.Gap("A", now, "sequence", 2, now)
    feed = Script([[book("A", 1)], gap, [book("A", 4), book("A", 5, snapshot=True)]])
    log, report = await told(feed, workers=1)
    assert shown(log) == [1, ("sequence", 3), 5]
    assert report.dropped_by_reason["held"] == 1


def test_the_tracker_finds_gaps_and_duplicates() -> None:
    tracker = tt.SequenceTracker()
    assert [tracker.check("A", n) for n in (5, 6, 7, 10, 9, 11)] == [0, 0, 0, 2, -1, 0]
    assert tracker.check("B", 1, 4) == 0
    assert tracker.check("B", 3, 6) == 0  # overlaps, and brings something new
    assert tracker.check("B", 2, 6) == -1
    assert (tracker.missed, tracker.duplicates) == (2, 2)
    tracker.reset("A")
    assert tracker.check("A", 1) == 0
    tracker.reset()
    assert tracker.check("B", 1) == 0
    with pytest.raises(ValueError, match="cannot cover"):
        tracker.check("B", 9, 8)


async def test_age_by_timestamp_allows_for_the_venues_clock(autojump_clock: MockClock) -> None:
    # The venue's clock runs a minute ahead; the third tick was a second longer on its
    # way than the others.
    ticks = [quote("A", 1, at=60), quote("B", 2, at=60), quote("C", 3, at=59), quote("D", 4, at=60)]
    log, report = await told(Script([ticks]), workers=4, max_age=tt.MaxAge(0.5, since="timestamp"))
    assert sorted(n for n in shown(log) if isinstance(n, int)) == [1, 2, 4]
    assert report.dropped_by_reason["stale"] == 1


OVERFLOWS = [
    tt.DropNewest(timeout=0),
    tt.DropNewest(timeout=0.02),
    tt.DropNewest(timeout=0.02, max_per_symbol=2),
    tt.DropOldest(),
    tt.DropOldest(max_per_symbol=2),
    tt.DropOldest(longest_line=True),
    tt.Conflate(),
    {tt.Tick: tt.Conflate(), tt.Trade: tt.Block()},
    {tt.Tick: tt.DropOldest(), tt.Trade: tt.Block(timeout=0.005)},
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from("AAB"), st.booleans()), min_size=1, max_size=8),
        max_size=25,
    ),
    pauses=st.lists(st.sampled_from([0.0, 0.0, 0.004, 0.02]), min_size=25, max_size=25),
    overflow=st.sampled_from(OVERFLOWS),
    workers=st.integers(1, 4),
    maxsize=st.integers(1, 6),
    max_age=st.sampled_from([None, None, 0.03]),
)
async def test_gaps_and_items_of_a_symbol_add_up_in_order(
    autojump_clock: MockClock,
    batches: list[list[tuple[str, bool]]],
    pauses: list[float],
    overflow: Any,
    workers: int,
    maxsize: int,
    max_age: float | None,
) -> None:
    """Between consecutive items, missing numbers are announced or conflated.

    A conflated item says how many it stands for.
    """
    count = 0
    steps: list[Any] = []
    for batch, pause in zip(batches, pauses, strict=False):
        items: list[Any] = []
        for symbol, is_trade in batch:
            count += 1
            items.append(
                tt.Trade(symbol, datetime.now(UTC), 1.0, float(count))
                if is_trade
                else quote(symbol, count)
            )
        steps += [items, pause]
    log, report = await told(
        Script(steps), workers=workers, maxsize=maxsize, overflow=overflow, max_age=max_age
    )
    sent: dict[str, list[int]] = {"A": [], "B": []}
    for step in steps:
        if isinstance(step, list):
            for item in step:
                sent[item.symbol].append(
                    int(item.size if isinstance(item, tt.Trade) else item.volume)
                )
    for symbol in "AB":
        place = 0
        gone = stood_for = 0
        for item in (item for item in log if item.symbol == symbol):
            if isinstance(item, tt.Gap):
                gone += item.count
                continue
            at = sent[symbol].index(int(item.size if isinstance(item, tt.Trade) else item.volume))
            evidence = tt.conflation_of(item)
            stood_for += evidence.count - 1 if evidence else 0
            assert at >= place + gone
            place, gone, missing = at + 1, 0, at - place - gone
            assert missing <= stood_for + report.dropped_by_reason["conflated"]
            if not report.dropped_by_reason["conflated"]:
                assert missing == 0
    assert report.produced == count
    assert report.ledger.unaccounted == 0
