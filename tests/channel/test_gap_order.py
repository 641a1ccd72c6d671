"""A gap is told in its place: behind the ticks before it, before the one after it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_tick, make_ticks, number
from tests.worlds.pipeline_world import ScriptFeed, Send

Merge = Callable[[Any, Any], Any]


@pytest.mark.parametrize("merge", [None, lambda old, new: new], ids=["newest", "merged"])
async def test_a_gap_before_a_tick_survives_its_conflation(
    merge: Merge | None, autojump_clock: MockClock
) -> None:
    log: list[Any] = []

    async def handler(tick: tt.Tick) -> None:
        log.append((tick.symbol, number(tick)))
        await trio.sleep(1)

    async def script(send: Send) -> None:
        await send.send(make_tick("B", 0))
        await trio.sleep(0.1)
        now = datetime.now(UTC)
        send.mark_gap(tt.Gap("A", now, "reconnect", 0, now))
        await send.send(make_tick("A", 1))
        await send.send(make_tick("A", 2))

    await tt.run_pipeline(
        ScriptFeed(script),
        handler,
        workers=1,
        overflow=tt.Conflate(merge=merge),
        on_gap=lambda gap: log.append(gap.reason),
    )
    assert log == [("B", 0), "reconnect", ("A", 2)]


async def test_a_gap_behind_a_tick_survives_the_conflation_of_the_two(
    autojump_clock: MockClock,
) -> None:
    log: list[Any] = []

    async def handler(tick: tt.Tick) -> None:
        log.append((tick.symbol, number(tick)))
        await trio.sleep(1)

    async def script(send: Send) -> None:
        await send.send(make_tick("B", 0))
        await trio.sleep(0.1)
        await send.send(make_tick("A", 1))
        now = datetime.now(UTC)
        send.mark_gap(tt.Gap("A", now, "sequence", 3, now))
        await send.send(make_tick("A", 2))

    await tt.run_pipeline(
        ScriptFeed(script),
        handler,
        workers=1,
        overflow=tt.Conflate(),
        on_gap=lambda gap: log.append((gap.reason, gap.count)),
    )
    assert log == [("B", 0), ("sequence", 3), ("A", 2)]


@pytest.mark.parametrize("slow", range(60, 200, 7))
async def test_an_eviction_in_the_middle_of_a_sprint_is_told_in_its_place(
    slow: int, autojump_clock: MockClock
) -> None:
    """How many quick ticks go untimed is random: so is where the slow one falls."""
    log: list[Any] = []

    async def handler(tick: tt.Tick) -> None:
        log.append(number(tick))
        if number(tick) == slow:
            await trio.sleep(1)

    async def script(send: Send) -> None:
        await send.send_many(make_ticks(250))
        await trio.sleep(0.5)
        await send.send_many(make_ticks(230, first=250))

    await tt.run_pipeline(
        ScriptFeed(script),
        handler,
        workers=1,
        maxsize=250,
        overflow=tt.DropOldest(),
        on_gap=lambda gap: log.append((gap.reason, gap.count)),
    )
    lost = 229 - slow
    first = slow + 1 + lost
    assert log == [*range(slow + 1), ("evicted", lost), *range(first, 480)]
