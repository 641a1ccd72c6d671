"""A throttle measures the wait of the oldest tick wherever it is: in the buffer, in a
lane, or before both, waiting for room.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.channel_helpers import Ends
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.pipeline_world import Gate, ScriptFeed, Send
from tests.worlds.process_handlers import Hangs, read
from tests.worlds.process_world import path, quick_main, until
from trio_ticks.channel.lanes import Lanes
from trio_ticks.control.throttle import RateController
from trio_ticks.control.throttle_task import ThrottleTask
from trio_ticks.handlers.breaker import BreakerState

__all__ = ["path", "quick_main"]


class Slowed(ScriptFeed):
    """A feed that remembers what it was asked to keep to."""

    rates: list[float | None]

    def throttle(self, rate: float | None) -> None:
        self.rates = [*getattr(self, "rates", []), rate]


@pytest.mark.parametrize("target_wait", [1.0, 1000.0])
async def test_parked_ticks_that_wait_too_long_slow_the_feed_down(
    target_wait: float, autojump_clock: MockClock
) -> None:
    gate = Gate()

    async def script(send: Send) -> None:
        await send.send_many(make_ticks(300))  # one busy symbol: all but one are parked
        while True:
            await trio.sleep(0.1)
            await send.send(make_tick("B"))

    feed = Slowed(script)
    overflow = tt.Throttle(target_wait=target_wait, target_fill=0.9)
    async with tt.open_pipeline(
        feed, gate, workers=4, maxsize=1000, overflow=overflow, shutdown_timeout=0
    ) as pipeline:
        await trio.sleep(0.95)
        assert pipeline.statistics().parked >= 299
        assert pipeline.statistics().oldest_age_s == pytest.approx(0.95)
        assert set(feed.rates) == {None}
        await trio.sleep(4.05)
        assert pipeline.statistics().oldest_age_s == pytest.approx(5.0)
        slowed = feed.rates[-1] is not None
    assert slowed is (target_wait == 1.0)


async def test_ticks_behind_one_slow_symbol_keep_about_to_the_target_beside_a_quick_pool(
    autojump_clock: MockClock,
) -> None:
    """The pool's rate says nothing of a lane, which one worker drains."""

    async def handle(tick: tt.Tick) -> None:
        await trio.sleep(0.05 if tick.symbol == "HOT" else 0.0001)

    async def script(send: Send) -> None:
        for turn in itertools.count():  # 1,000 ticks/s, 50 of them HOT; it takes 20
            rate = getattr(feed, "rates", [None])[-1] or 1000
            await send.send_many(make_ticks(19, "ABCDEFGHIJ", first=20 * turn))
            await send.send(make_tick("HOT", 20 * turn + 19))
            await trio.sleep(20 / min(rate, 1000))

    feed = Slowed(script)
    overflow, ages = tt.Throttle(target_wait=1.0), list[float]()
    async with tt.open_pipeline(
        feed, handle, workers=4, maxsize=2000, overflow=overflow, shutdown_timeout=10
    ) as pipeline:
        for _ in range(60):
            await trio.sleep(1)
            ages.append(pipeline.statistics().oldest_age_s)
            assert pipeline.statistics().oldest_unparked_age_s < 0.1
        consumed = pipeline.ledger.consumed
    assert max(ages[:15]) < 6
    assert max(ages[15:]) < 2.5
    # HOT takes a twentieth of 400 ticks/s: the feed is not held far below that.
    assert consumed > 60 * 300
    assert pipeline.report.ledger.dropped == 0


def test_only_the_wait_outside_the_lanes_is_capped_by_the_rate_of_the_pool() -> None:
    levels: list[float] = []
    for parked_s in (0.0, 3.0, 8.0):
        controller = RateController(tt.Throttle(target_wait=1.0))
        for step in range(5):  # 1,000 ticks/s, 500 queued: half a second's
            controller.update(step, 500, 10_000, 8.0, 1000 * step, parked_s=parked_s)
        levels.append(controller.level)
    assert levels == pytest.approx([0.5, 3.5, 8.0])


class Reserves:
    """A receiver that may give back as many ticks as the channel holds."""

    breaker: BreakerState | None = None
    tells_gaps = False

    def __init__(self, lanes: Lanes[Any]) -> None:
        self.lanes = lanes
        self.room = 0

    def reserved(self) -> int:
        return 10 - self.room

    def anyone_free(self) -> bool:
        return True

    def room_wanted(self) -> None:
        pass


@pytest.mark.parametrize("target_wait", [1.0, 1000.0])
async def test_ticks_that_wait_for_reserved_room_slow_the_feed_down(
    target_wait: float, autojump_clock: MockClock
) -> None:
    """The queue is empty all the time, and yet nothing gets in."""
    ends: Ends = tt.open_tick_channel(10, tt.Block())
    send, receive = ends
    receive.state.attach(Reserves(receive.state.lanes))
    send.deliver(make_ticks(5))
    rates: list[float | None] = []
    settings = tt.Throttle(target_wait=target_wait, target_fill=0.9)
    throttle = ThrottleTask(settings, rates.append, receive.state, lambda: 0, feed_name="feed")
    with trio.move_on_after(5):
        await throttle.run()
    assert receive.statistics().current_buffer_used == 0
    assert (rates[-1] is not None) is (target_wait == 1.0)


async def test_the_age_of_the_oldest_is_counted_from_when_it_was_brought(
    autojump_clock: MockClock,
) -> None:
    ends: Ends = tt.open_tick_channel(10, tt.Block())
    send, receive = ends
    receive.state.attach(receiver := Reserves(receive.state.lanes))
    assert receive.statistics().oldest_age_s == 0
    send.deliver(make_ticks(5))
    await trio.sleep(2)
    send.clone().deliver(make_ticks(5, first=5))
    assert receive.statistics().oldest_age_s == pytest.approx(2)
    receiver.room = 3  # three of the first delivery enter, and two wait on
    receive.state.taking.move_up()
    await trio.sleep(1)
    assert receive.statistics().waiting_for_room == 7
    assert receive.statistics().oldest_age_s == pytest.approx(3)
    receiver.room = 5
    receive.state.taking.move_up()
    await trio.sleep(1)
    assert receive.statistics().oldest_age_s == pytest.approx(2)  # the second delivery's


async def test_ticks_parked_for_a_process_that_is_busy_slow_the_feed_down(path: Path) -> None:
    async def script(send: Send) -> None:
        await send.send_many(make_ticks(50))
        await trio.sleep_forever()

    feed = Slowed(script)
    overflow = tt.Throttle(target_wait=0.05, target_fill=0.9, interval=0.05)
    with trio.fail_after(60):
        async with tt.open_pipeline(
            feed,
            Hangs(str(path), "sleeps"),
            workers=1,
            executor="process",
            overflow=overflow,
            shutdown_timeout=0,
        ) as pipeline:
            await until(lambda: bool(read(path)))
            await until(lambda: feed.rates[-1] is not None)
            assert pipeline.statistics().parked > 0
