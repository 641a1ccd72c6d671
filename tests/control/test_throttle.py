"""Throttling: the controller on plain numbers, the task on a virtual clock.

Also what the feed asks of a venue, and all of it over real sockets.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

import trio_ticks as tt
from tests.benchmarks import throttle as bench
from tests.benchmarks.throttle_simulation import CASES, STEP_S, Case, simulate
from tests.worlds.feed_venues import Collector, memory_feed, quote, running, tick, websocket
from tests.worlds.helpers import make_tick, make_ticks
from tests.worlds.pipeline_world import (
    Recorder,
    ScriptFeed,
    Send,
    assert_accounted,
    raises_as_itself,
    sleepy_feed,
)
from trio_ticks.control.throttle import RateController
from trio_ticks.exchange.pacing import Pacer
from trio_ticks.exchange.wire import answer
from trio_ticks.feeds.venues.flat import FlatCodec
from trio_ticks.feeds.websocket.throttling import SourceThrottle
from trio_ticks.testing import CodecProbe

PATIENCE_S = 30
"""Nothing waits for it; it keeps a broken test from hanging."""


# Settings


@pytest.mark.parametrize(
    "settings",
    [
        {"floor": 0.0},
        {"floor": -1},
        {"floor": math.inf},
        {"floor": math.nan},
        {"floor": True},
        {"floor": 10.0, "ceiling": 9.0},
        {"ceiling": 0},
        {"target_fill": 0.0},
        {"target_fill": 1.0},
        {"target_wait": 0},
        {"increase": 0},
        {"increase": "fast"},
        {"decrease": 1.0},
        {"decrease": 0.0},
        {"interval": 0},
        {"priorities": ["SPY"]},
        {"priorities": {"SPY": "high"}},
        {"priorities": {1: 1}},
        {"priorities": {"SPY": math.nan}},
        {"fallback": None},
        {"fallback": "drop"},
        {"fallback": tt.Throttle()},
        {"fallback": {}},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(tt.ConfigError):
        tt.Throttle(**settings)


def small_channel(
    overflow: tt.Throttle,
) -> tuple[tt.TickSendChannel[tt.Tick], tt.TickReceiveChannel[tt.Tick]]:
    return tt.open_tick_channel(2, overflow=overflow)


async def test_a_channel_alone_runs_with_the_fallback() -> None:
    send, receive = small_channel(tt.Throttle(tt.DropOldest()))
    async with send, receive:
        await send.send_many(make_ticks(5))
        assert [t.volume for t in await receive.receive_many()] == [3, 4]
        assert send.ledger.dropped_by_reason["evicted"] == 3


async def test_the_fallback_may_be_a_policy_for_each_kind() -> None:
    send, receive = small_channel(tt.Throttle({tt.Tick: tt.Conflate()}))
    async with send, receive:
        await send.send_many(make_ticks(5))
        assert [t.volume for t in await receive.receive_many()] == [4]


# The controller


def in_overload(case: Case, points: list[Any], *, since: float) -> list[Any]:
    return [
        point for point in points if point.at_s >= since and point.load > case.service(point.at_s)
    ]


@pytest.mark.parametrize("name", CASES)
def test_it_settles_without_a_drop_and_keeps_the_workers_busy(name: str) -> None:
    case = CASES[name]
    points = simulate(case, tt.Throttle())
    assert sum(point.dropped for point in points) == 0
    assert sum(point.dropped for point in simulate(case, None)) > 0  # or the case proves nothing
    late = in_overload(case, points, since=10)
    assert late
    assert sum(point.handled / case.service(point.at_s) for point in late) / len(late) > 0.95


@pytest.mark.parametrize("name", ["step", "ramp"])
def test_once_settled_it_stays_near_the_workers_rate(name: str) -> None:
    case = CASES[name]
    late = [
        point
        for point in in_overload(case, simulate(case, tt.Throttle()), since=12)
        if point.asked is not None
    ]
    assert len(late) > 1000
    assert all(0.75 * 900 <= point.asked <= 1.15 * 900 for point in late)
    assert all(0 < point.queued < 1000 for point in late)


@pytest.mark.parametrize(("first", "then"), [(900.0, 200.0), (300.0, 2000.0)])
def test_it_follows_workers_that_become_slower_or_faster(first: float, then: float) -> None:
    case = Case("", lambda _now: 6000.0, lambda now: first if now < 15 else then, seconds=60.0)
    late = simulate(case, tt.Throttle())[round(30 / STEP_S) :]
    assert sum(point.dropped for point in late) == 0
    assert sum(point.handled for point in late) / len(late) > 0.9 * then


def test_without_load_the_limit_is_lifted() -> None:
    points = simulate(CASES["step"], tt.Throttle())
    assert any(point.asked is not None for point in points)
    assert points[-1].asked is None


def test_a_ceiling_holds_from_the_beginning_and_comes_back() -> None:
    points = simulate(CASES["step"], tt.Throttle(ceiling=2000.0))
    assert points[0].asked == points[-1].asked == 2000.0
    assert min(point.asked or 0 for point in points) < 900
    assert max(point.asked or 0 for point in points) == 2000.0


def test_a_source_that_does_not_listen_is_asked_for_ever_less_down_to_the_floor() -> None:
    controller = RateController(tt.Throttle(floor=50.0))
    rates = [controller.update(0.25 * n, 1000, 1000, 1.0, 200 * n) for n in range(400)]
    known = [rate for rate in rates if rate is not None]
    assert all(later <= earlier for earlier, later in pairwise(known))
    assert known[-1] == 50.0


def test_long_waits_count_as_a_full_queue_does() -> None:
    controller = RateController(tt.Throttle(target_wait=0.5))
    for n in range(8):
        controller.update(0.25 * n, 20, 1000, 0.6, 10 * n)
    assert controller.rate is not None
    assert controller.rate < 40


def test_an_old_tick_at_the_head_of_a_short_queue_is_no_reason_to_slow_down() -> None:
    """Its age shows the queue that was, not the queue that is.

    A controller that went by it would starve the workers.
    """
    controller = RateController(tt.Throttle(target_wait=0.5))
    for n in range(8):
        controller.update(0.25 * n, 5, 1000, 3.0, 25 * n)
    assert controller.rate is None


def test_a_limit_that_is_needed_again_at_once_stays_longer_the_next_time() -> None:
    points = simulate(CASES["burst"], tt.Throttle())
    stretches, began = [], None
    for before, after in pairwise(points):
        if before.asked is None and after.asked is not None:
            began = after.at_s
        elif before.asked is not None and after.asked is None and began is not None:
            stretches.append(after.at_s - began)
    assert len(stretches) < sum(1 for a, b in pairwise(points) if b.load > a.load)


def test_steps_are_counted() -> None:
    controller = RateController(tt.Throttle())
    rates = [
        controller.update(0.25 * n, 900 if 4 <= n < 8 else 0, 1000, 0.0, 200 * n) for n in range(60)
    ]
    changes = [(a, b) for a, b in pairwise(rates) if a != b]
    down = sum(1 for a, b in changes if a is None or (b is not None and b < a))
    assert (controller.steps_down, controller.steps_up) == (down, len(changes) - down)
    assert controller.steps_down > 0
    assert controller.steps_up > 0


Look = tuple[float, int, float, int]
LOOKS = st.lists(
    st.tuples(
        st.floats(0.0, 5.0),
        st.integers(0, 1000),
        st.floats(0.0, 100.0),
        st.one_of(st.just(0), st.integers(0, 100_000)),
    ),
    max_size=60,
)


@given(LOOKS, st.floats(0.1, 1e3), st.one_of(st.none(), st.floats(1e3, 1e6)))
def test_the_rate_keeps_its_bounds_and_is_never_stuck(
    looks: list[Look], floor: float, ceiling: float | None
) -> None:
    settings = tt.Throttle(floor=floor, ceiling=ceiling)
    controller = RateController(settings)
    now, consumed = 0.0, 0
    for passed, queued, lag, handled in looks:
        now, consumed = now + passed, consumed + handled
        rate = controller.update(now, queued, 1000, lag, consumed)
        if rate is not None:
            assert math.isfinite(rate)
            assert rate >= floor
            assert ceiling is None or rate <= ceiling
    # Whatever came before: without load there is no limit before long.
    for _ in range(round(65 / settings.interval)):
        now += settings.interval
        rate = controller.update(now, 0, 1000, 0.0, consumed)
    assert rate == ceiling


@given(LOOKS, st.floats(1.0, 5000.0))
def test_a_load_that_the_workers_can_take_is_not_limited_for_ever(
    looks: list[Look], load: float
) -> None:
    controller = RateController(tt.Throttle())
    now, consumed = 0.0, 0.0
    for passed, queued, lag, handled in looks:
        now, consumed = now + passed, consumed + handled
        controller.update(now, queued, 1000, lag, int(consumed))
    for _ in range(600):
        now += 1.0
        consumed += min(load, controller.rate or math.inf)
        controller.update(now, 0, 1000, 0.0, int(consumed))
    assert controller.rate is None or controller.rate >= load


# The task


@attrs.define
class ThrottledFeed:
    """A feed on the virtual clock: *load* ticks a second, or a lower rate asked for."""

    load: Callable[[float], float]
    seconds: float
    deaf: bool = False
    told: list[tuple[float, float | None]] = attrs.field(factory=list)
    stats: tt.FeedStats = attrs.field(factory=lambda: tt.FeedStats(connected=True))

    def throttle(self, max_rate: float | None) -> None:
        self.told.append((trio.current_time(), max_rate))

    async def run(self, send: Any) -> None:
        began = trio.current_time()
        number, owed = 0, 0.0
        while (now := trio.current_time()) < began + self.seconds:
            limit = self.told[-1][1] if self.told and not self.deaf else None
            owed += 0.05 * min(self.load(now - began), math.inf if limit is None else limit)
            count = int(owed)
            owed -= count
            await send.send_many(
                [make_tick(f"S{n % 20}", n) for n in range(number, number + count)]
            )
            number += count
            await trio.sleep(0.05)


async def test_the_pipeline_slows_its_feed_down_and_lets_it_go(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_ticks.throttle")
    feed = ThrottledFeed(lambda now: 1000.0 if 2 <= now < 20 else 20.0, 30.0)
    async with tt.open_pipeline(
        feed, Recorder(0.02), overflow=tt.Throttle(), maxsize=300, workers=4
    ) as pipeline:
        assert pipeline.throttle is not None
        await trio.sleep(10)
        rate = pipeline.metrics().throttle_rate
        assert rate is not None
        assert 0.75 * 200 <= rate <= 1.15 * 200
        assert pipeline.metrics().to_dict()["throttle_rate"] == rate == pipeline.throttle.rate
        assert 0.9 * 200 <= pipeline.throttle.service_rate <= 1.1 * 200
        before = (
            sum(worker.busy_ratio for worker in pipeline.metrics().workers)
            * pipeline.metrics().uptime_s
        )
        await trio.sleep(9)
        after = (
            sum(worker.busy_ratio for worker in pipeline.metrics().workers)
            * pipeline.metrics().uptime_s
        )
        assert (after - before) / 4 / 9 > 0.9
        await pipeline.wait()
        assert pipeline.throttle.rate is None
        assert pipeline.throttle.steps_down > 0
        assert pipeline.throttle.steps_up > 0
    assert_accounted(pipeline.report, dropped=0)
    assert feed.told[-1][1] is None
    lines = [
        record.getMessage() for record in caplog.records if record.name == "trio_ticks.throttle"
    ]
    assert any(line.startswith("throttle.rate") for line in lines)
    assert lines[-1].startswith("throttle.lifted")
    assert len(lines) < 30  # once a second at most, for 28 seconds


async def test_the_feed_is_told_again_what_it_may_have_missed(autojump_clock: MockClock) -> None:
    """A lost edge cannot leave the feed slow for ever.

    The feed is told what holds at least once a second, whether it has changed or not.
    """
    feed = ThrottledFeed(lambda now: 1000.0 if now < 3 else 10.0, 40.0)
    async with tt.open_pipeline(
        feed, Recorder(0.02), overflow=tt.Throttle(), maxsize=300
    ) as pipeline:
        await trio.sleep(3)
        assert feed.told[-1][1] is not None
        await trio.sleep(36)
        since_lifted = [moment for moment, rate in feed.told if moment > 35]
        assert pipeline.throttle is not None
        assert pipeline.throttle.rate is None
        assert len(since_lifted) >= 3
        feed.told[-1] = (feed.told[-1][0], 5.0)  # as if it had got lost
        await trio.sleep(1.5)
        assert feed.told[-1][1] is None


async def test_a_deaf_feed_is_left_to_the_fallback(autojump_clock: MockClock) -> None:
    feed = ThrottledFeed(lambda _now: 1000.0, 10.0, deaf=True)
    report = await tt.run_pipeline(
        feed, Recorder(0.02), overflow=tt.Throttle(tt.DropOldest()), maxsize=100
    )
    assert_accounted(report)
    assert report.dropped_by_reason["evicted"] > 0


async def test_a_feed_without_the_method_is_left_alone_and_the_log_says_so(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with tt.open_pipeline(
        sleepy_feed(make_ticks(100)), Recorder(0.1), overflow=tt.Throttle(), maxsize=10
    ) as pipeline:
        await trio.sleep(20)
        assert pipeline.metrics().throttle_rate is None
    assert "throttle.unable: ScriptFeed" in caplog.text
    assert_accounted(pipeline.report)


async def test_without_a_throttle_there_is_none() -> None:
    async with tt.open_pipeline(sleepy_feed(), Recorder()) as pipeline:
        assert pipeline.throttle is None
        assert pipeline.metrics().throttle_rate is None


class AsyncFeed(ScriptFeed):
    """Its ``throttle`` is async, and takes priorities."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(self._wait)
        self.told: list[tuple[float | None, Any]] = []
        self._error = error

    async def _wait(self, _send: Any) -> None:
        await trio.sleep_forever()

    async def throttle(self, max_rate: float | None, *, priorities: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append((max_rate, priorities))
        if self._error is not None:
            raise self._error


async def test_an_async_throttle_gets_ceiling_and_priorities(autojump_clock: MockClock) -> None:
    feed = AsyncFeed()
    async with tt.open_pipeline(
        feed, Recorder(), overflow=tt.Throttle(ceiling=500.0, priorities={"A": 2.0})
    ):
        await wait_all_tasks_blocked()
        assert feed.told == [(500.0, {"A": 2.0})]


async def test_an_error_of_the_feeds_throttle_comes_out_as_itself() -> None:
    error = LookupError("no")
    with raises_as_itself(error):
        async with tt.open_pipeline(
            AsyncFeed(error), Recorder(), overflow=tt.Throttle(priorities={})
        ) as pipeline:
            await pipeline.wait()


# What the feed asks of a venue


class Codec:
    """A venue's language, spelled out."""

    def subscribe(self, symbols: Any) -> list[str | bytes]:
        return [f"+{','.join(symbols)}"]

    def unsubscribe(self, symbols: Any) -> list[str | bytes]:
        return [f"-{','.join(symbols)}"]


class RateCodec(Codec):
    def throttle(self, max_rate: float | None) -> list[str | bytes]:
        return [f"={max_rate}"]


WHEN = datetime(2026, 3, 2, tzinfo=UTC)


def read(
    throttle: SourceThrottle, now: float, *symbols: str, late_s: float = 0.0, took_s: float = 0.0
) -> float:
    """Deliver a tick of each of *symbols*, made *late_s* before the time *now*."""
    stamp = WHEN + timedelta(seconds=now - late_s)
    items = [tt.Tick(symbol, stamp, 1, 2, 3, 4, 5) for symbol in symbols]
    return throttle.delivered(now, WHEN.timestamp() + now, items, took_s)


def count(throttle: SourceThrottle, began: float, **per_second: int) -> None:
    """Deliver ticks for half a second; *per_second* has each symbol's rate."""
    symbols = [symbol for symbol, rate in per_second.items() for _ in range(rate // 50)]
    for n in range(25):
        read(throttle, began + 0.02 * (n + 1), *symbols)


def test_a_request_is_sent_once_answered_and_then_changed() -> None:
    throttle = SourceThrottle(RateCodec(), "AB")
    assert throttle.opening(0.0) == ["+A,B"]
    assert throttle.due(0.0) == []
    throttle.limit(900.0)
    assert throttle.due(1.0) == ["=900.0"]
    throttle.limit(800.0)
    throttle.limit(700.0)
    assert throttle.due(1.1) == []  # one at a time: only the last of what came meanwhile matters
    throttle.answered("throttle", True)
    assert throttle.due(1.2) == ["=700.0"]
    throttle.answered("throttle", True)
    assert throttle.due(1.3) == []
    throttle.limit(None)
    assert throttle.due(1.4) == ["=None"]
    assert throttle.next_due_at(1.4) == 6.4


def test_a_new_connection_begins_with_the_limit() -> None:
    throttle = SourceThrottle(RateCodec(), "AB")
    throttle.opening(0.0)
    throttle.limit(900.0)
    throttle.due(1.0)
    assert throttle.opening(2.0) == ["=900.0", "+A,B"]


def test_a_venue_that_refuses_is_never_asked_again() -> None:
    throttle = SourceThrottle(RateCodec(), "AB")
    throttle.opening(0.0)
    throttle.limit(900.0)
    throttle.due(1.0)
    throttle.answered("throttle", False)
    assert throttle.way == "pause"
    assert throttle.due(1.1) == ["=None"]  # in case that it did take it
    assert throttle.opening(2.0) == ["+A,B"]


def test_a_venue_that_does_not_answer_is_given_up_in_time() -> None:
    throttle = SourceThrottle(RateCodec(), "A")
    throttle.opening(0.0)
    throttle.limit(900.0)
    throttle.due(1.0)
    assert throttle.due(5.9) == []
    assert throttle.due(throttle.next_due_at(5.9)) == ["=None"]
    assert throttle.way == "read"


@pytest.mark.parametrize("refused", [True, False])
def test_a_venue_that_has_taken_a_limit_is_told_until_it_knows_that_it_is_lifted(
    refused: bool,
) -> None:
    """Or a lost answer would leave it holding back for ever."""
    throttle = SourceThrottle(RateCodec(), "AB")
    throttle.opening(0.0)
    throttle.limit(900.0)
    throttle.due(1.0)
    throttle.answered("throttle", True)
    throttle.limit(None)
    assert throttle.due(2.0) == ["=None"]
    if refused:
        throttle.answered("throttle", False)
    assert throttle.due(6.9) == []
    assert throttle.due(7.0) == ["=None"]
    throttle.answered("throttle", True)
    assert throttle.due(20.0) == []


def test_symbols_are_paused_from_the_last_and_resumed_one_after_the_other() -> None:
    throttle = SourceThrottle(Codec(), "ABCD")
    assert throttle.way == "pause"
    throttle.opening(0.0)
    throttle.limit(900.0)
    assert throttle.due(2.0) == []  # it begins to count
    count(throttle, 2.0, A=400, B=400, C=400, D=400)
    assert throttle.due(2.5) == ["-D,C"]
    assert set(throttle.paused) == {"C", "D"}
    assert throttle.opening(3.0) == ["+A,B"]  # a new connection keeps to it
    throttle.limit(None)
    assert throttle.due(4.0) == ["+C,D"]
    assert throttle.resumed == [("C", 2.5), ("D", 2.5)]
    assert not throttle.paused


def test_symbols_come_back_by_doubling() -> None:
    throttle = SourceThrottle(Codec(), "ABCDEFGH")
    throttle.opening(0.0)
    throttle.limit(100.0)
    throttle.due(2.0)
    count(throttle, 2.0, **dict.fromkeys("ABCDEFGH", 500))
    assert throttle.due(2.5) == ["-H,G,F,E,D,C,B"]
    throttle.limit(None)
    moments = [4.0 + n for n in range(8)]
    assert [request for now in moments for request in throttle.due(now)] == [
        "+B",
        "+C,D",
        "+E,F,G,H",
    ]


def test_priorities_rule_over_the_order() -> None:
    throttle = SourceThrottle(Codec(), "ABC")
    throttle.opening(0.0)
    throttle.limit(500.0, {"C": 5, "A": -1})
    throttle.due(2.0)
    count(throttle, 2.0, A=400, B=400, C=400)
    assert throttle.due(2.5) == ["-A,B"]


def test_one_symbol_is_never_paused_and_a_hot_one_is_read_later() -> None:
    throttle = SourceThrottle(Codec(), "AB")
    throttle.opening(0.0)
    throttle.limit(10.0)
    throttle.due(2.0)
    count(throttle, 2.0, A=400, B=400)
    assert throttle.due(2.5) == ["-B"]
    assert read(throttle, 3.0, *"A" * 100) == 0.25


def test_a_paused_symbol_gets_its_turn_under_the_same_limit() -> None:
    """Its ticks from before the pause must not count against it for ever."""
    throttle = SourceThrottle(Codec(), "AB")
    throttle.opening(0.0)
    throttle.limit(500.0)
    throttle.due(2.0)
    count(throttle, 2.0, A=400, B=800)
    assert throttle.due(2.5) == ["-B"]
    requests = []
    for n in range(300):
        count(throttle, 3.5 + 0.5 * n, A=100)
        requests += throttle.due(4.0 + 0.5 * n)
    assert requests == ["+B"]


def test_rates_go_by_the_venues_clock() -> None:
    """Ticks that a full queue has held up come at once: that is no high rate."""
    throttle = SourceThrottle(Codec(), "AB")
    throttle.opening(0.0)
    throttle.limit(900.0)
    throttle.due(2.0)
    for n in range(100):
        read(throttle, 2.4, "A", "B", late_s=1.0 - n / 100)
    assert throttle.due(2.5) == []  # 200 in a second, though they came in no time


def test_a_venue_that_refuses_to_unsubscribe_gets_all_back_and_is_read_later() -> None:
    throttle = SourceThrottle(Codec(), "AB")
    throttle.opening(0.0)
    throttle.limit(500.0)
    throttle.due(2.0)
    count(throttle, 2.0, A=400, B=400)
    throttle.due(2.5)
    throttle.answered("unsubscribe", False)
    assert throttle.way == "read"
    assert throttle.due(2.6) == ["+B"]


def test_reading_is_put_off_by_the_rate_and_within_bounds() -> None:
    throttle = SourceThrottle(Codec(), "A")
    throttle.limit(1000.0)
    assert throttle.way == "read"
    assert read(throttle, 0.0, *"A" * 50) == pytest.approx(0.05)
    assert read(throttle, 1.0, *"A" * 5000) == 0.25  # never longer at once
    late = [read(throttle, 2.0 + n, *"A" * 5000, late_s=3.0) for n in range(10)]
    assert sum(late) <= 0.5  # and never so that the delays add up while reading is behind
    assert read(throttle, 20.0, *"A" * 5000) == 0.25  # on time again
    assert (
        read(throttle, 21.0, *"A" * 5000, took_s=1.0) == 0.0
    )  # the channel has kept us long enough
    throttle.limit(None)
    assert read(throttle, 30.0, *"A" * 5000) == 0.0


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 2.0), st.integers(1, 5), st.booleans(), st.sampled_from([0.0, 0.3, 2.0])
        ),
        max_size=50,
    )
)
def test_however_it_is_read_waits_are_bounded(reads: list[tuple[float, int, bool, float]]) -> None:
    throttle = SourceThrottle(Codec(), "A")
    throttle.limit(1.0)
    now, behind = 0.0, read(throttle, 0.0, "A")
    for passed, number, late, took in reads:
        now += passed
        behind = took + (behind if late else 0.0)
        wait = read(throttle, now, *"A" * number, late_s=3.0 if late else 0.0, took_s=took)
        assert 0 <= wait <= 0.25
        assert wait == 0 or behind + wait <= 0.5 + 1e-9
        behind += wait


# The codec and the exchange


def new_flat() -> tuple[FlatCodec, CodecProbe]:
    probe = CodecProbe()
    return FlatCodec(probe), probe


@pytest.mark.parametrize("max_rate", [900.5, None])
def test_codec_and_exchange_understand_each_other(max_rate: float | None) -> None:
    codec, probe = new_flat()
    (request,) = codec.throttle(max_rate)
    assert json.loads(request) == {"method": "throttle", "params": {"max_rate": max_rate}, "id": 3}
    reply = answer(request, listed=frozenset("A"), subscription=frozenset("A"), max_rate=7.0)
    assert (reply.max_rate, reply.bad, reply.subscription) == (max_rate, False, frozenset("A"))
    assert codec.decode([reply.payload, quote("A").encode()]) == [tick("A")]
    assert probe.events == [("answered", "throttle", True)]
    refusal = answer(
        request, listed=frozenset("A"), subscription=frozenset("A"), max_rate=7.0, throttles=False
    )
    assert (refusal.max_rate, refusal.bad) == (7.0, True)
    codec.throttle(max_rate)
    assert codec.decode([refusal.payload]) == []
    assert probe.events == [("answered", "throttle", True), ("answered", "throttle", False)]


def test_a_venue_that_does_not_find_the_id_has_refused() -> None:
    codec, probe = new_flat()
    error = b'{"id":null,"error":{"code":"BAD_REQUEST"}}'
    codec.decode([error])
    assert probe.events == [("refused", None, '{"code":"BAD_REQUEST"}', False)]  # nothing asked
    codec.throttle(5.0)
    codec.decode(
        [
            error,
            b'{"id":2,"error":{"code":"NO"}}',
            b'{"id":1,"result":{}}',
            b'{"id":"3","result":{}}',
            b'{"id":3}',
        ]
    )
    assert probe.events[1:] == [
        ("answered", "throttle", False),
        ("answered", "unsubscribe", False),
    ]


def test_a_paced_client_gets_the_newest_of_every_symbol_in_its_turn() -> None:
    pacer = Pacer(2.0, 0.0)
    assert pacer.pass_on("AAAB", [b"a1", b"a2", b"a3", b"b1"], 0.5) == (["A"], [b"a3"])
    assert pacer.pass_on("AB", [b"a4", b"b2"], 1.0) == (["B"], [b"b2"])
    assert pacer.pass_on("AC", [b"a5", b"c1"], 1.1) == ([], [])
    pacer.forget(frozenset("CX"))
    assert pacer.flush() == (["A"], [b"a5"])
    assert (pacer.replaced, len(pacer)) == (5, 0)


@given(
    st.lists(st.tuples(st.floats(0.0, 0.5), st.text("ABCDE", max_size=20)), max_size=40),
    st.floats(0.5, 100.0),
)
def test_a_paced_client_gets_no_more_and_nothing_is_lost_from_the_books(
    batches: list[tuple[float, str]], rate: float
) -> None:
    pacer = Pacer(rate, 0.0)
    now, offered, sent = 0.0, 0, 0
    for passed, symbols in batches:
        now += passed
        got, frames = pacer.pass_on(
            symbols, [f"{offered + n}".encode() for n in range(len(symbols))], now
        )
        assert len(got) == len(set(got)) == len(frames)
        offered, sent = offered + len(symbols), sent + len(got)
        assert len(pacer) <= 5
    assert sent <= now * rate + 1
    assert offered == sent + pacer.replaced + len(pacer)


async def test_what_waits_for_its_turn_is_sent_when_the_limit_is_lifted() -> None:
    """And every tick that was subscribed to was sent or counted."""
    with trio.fail_after(PATIENCE_S):
        async with tt.exchange.open_exchange(
            symbols=["A", "B"], rate=2000.0, limit=1000
        ) as exchange:
            feed = tt.WebSocketFeed(exchange.url, ["A", "B"])
            feed.throttle(100.0)
            send = Collector()
            async with running(feed, send):
                await exchange.finished.wait()
                await send.wait_for(sum(exchange.sent_by_symbol.values()))
    assert len(send.ticks) < 500
    assert len(send.ticks) + exchange.throttled == 1000
    assert exchange.skipped == 0
    assert {tick.symbol for tick in send.ticks[-2:]} == {"A", "B"}


@pytest.mark.parametrize(
    "params", [{}, {"max_rate": 0}, {"max_rate": -1}, {"max_rate": "fast"}, {"symbols": ["A"]}]
)
def test_the_exchange_refuses_a_rate_that_is_none(params: dict[str, Any]) -> None:
    request = json.dumps({"method": "throttle", "params": params, "id": 9})
    reply = answer(request, listed=frozenset("A"), subscription=frozenset("A"), max_rate=7.0)
    assert reply.bad
    assert reply.max_rate == 7.0
    assert json.loads(reply.payload)["error"]["code"] == "BAD_REQUEST"


@pytest.mark.parametrize("max_rate", [0, -1.0, math.inf, math.nan, "fast", True])
def test_the_feed_refuses_a_rate_that_is_none(max_rate: Any) -> None:
    with pytest.raises(tt.ConfigError):
        tt.WebSocketFeed("ws://127.0.0.1:1", ["A"]).throttle(max_rate)


# The feed, in memory


async def test_the_feed_resends_the_limit_on_each_connection(autojump_clock: MockClock) -> None:
    requests: list[list[Any]] = []

    async def venue(ws: Any) -> None:
        mine: list[Any] = []
        requests.append(mine)
        await ws.send_message(quote())
        for _ in range(2 if len(requests) == 1 else 1):
            request = json.loads(await ws.get_message())
            mine.append(request)
            if request["method"] == "throttle":
                await ws.send_message(json.dumps({"id": 3, "result": {}}))
        if len(requests) > 2:
            await trio.sleep_forever()

    send = Collector()
    async with memory_feed(websocket(venue)) as (feed, _), running(feed, send):
        await send.wait_for(1)
        feed.throttle(100.0)
        await trio.sleep(0.1)
        feed.throttle(50.0)
        await trio.sleep(30)
        assert feed.throttle_way == "request"
    rates = [
        request["params"].get("max_rate")
        for mine in requests
        for request in mine
        if request["method"] == "throttle"
    ]
    assert rates[:2] == [100.0, 50.0]
    assert len(requests) >= 2


class GapCollector(Collector):
    """Keeps the gaps that are announced to it."""

    def __init__(self) -> None:
        super().__init__()
        self.gaps: list[tt.Gap] = []

    def mark_gap(self, gap: tt.Gap, *, book: bool = False) -> None:
        self.gaps.append(gap)


async def test_the_gap_of_a_paused_symbol_is_told_when_it_comes_back(
    autojump_clock: MockClock,
) -> None:
    requests: list[Any] = []
    stamp = datetime.now(UTC)

    async def venue(ws: Any) -> None:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                with suppress(ConnectionClosed):
                    while True:
                        requests.append(json.loads(await ws.get_message()))
                        if requests[-1]["method"] == "throttle":
                            await ws.send_message('{"id":3,"error":{"code":"UNKNOWN_METHOD"}}')
                nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            while True:
                for symbol in ("SPY", "QQQ"):
                    message = json.loads(quote(symbol)) | {
                        "timestamp": (stamp + timedelta(seconds=trio.current_time())).isoformat()
                    }
                    await ws.send_message(json.dumps(message))
                await trio.sleep(0.01)

    send = GapCollector()
    async with memory_feed(websocket(venue)) as (feed, _), running(feed, send):
        await send.wait_for(10)
        feed.throttle(150.0)
        await trio.sleep(10)
        assert feed.throttle_way == "pause"
        assert list(feed.paused_symbols) == ["QQQ"]
        assert send.gaps == []
        feed.throttle(None)
        await trio.sleep(5)
        assert list(feed.paused_symbols) == []
    assert [(gap.symbol, gap.reason, gap.count) for gap in send.gaps] == [("QQQ", "throttle", 0)]
    assert send.gaps[0].timestamp - send.gaps[0].first_timestamp > timedelta(seconds=5)
    assert [(request["method"], request["params"].get("symbols")) for request in requests] == [
        ("throttle", None),
        ("throttle", None),  # lifted, in case that it did take it
        ("unsubscribe", ["QQQ"]),
        ("subscribe", ["QQQ"]),
    ]


# Over real sockets, against the local exchange


SERVICE_S = 0.004
CAPACITY = 4 / SERVICE_S


async def until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await trio.sleep(0.02)


@pytest.mark.parametrize("way", ["request", "pause"])
async def test_the_drops_end(way: str) -> None:
    """Five times too much: after a while a second passes without drops, with ticks."""
    names = [f"S{n}" for n in range(20)]
    with trio.fail_after(PATIENCE_S):
        async with tt.exchange.open_exchange(
            symbols=names, rate=5 * CAPACITY, skew=0.0
        ) as exchange:
            exchange.take_throttle_requests(way == "request")
            feed = tt.WebSocketFeed(exchange.url, names)
            overflow = tt.Throttle(tt.DropNewest(timeout=0.1))
            async with tt.open_pipeline(
                feed, Recorder(SERVICE_S), overflow=overflow, maxsize=500, ordering="none"
            ) as pipeline:
                await until(
                    lambda: pipeline.throttle is not None and pipeline.throttle.rate is not None
                )
                calm, drops, handled = 0, -1, -1
                while calm < 4:
                    await trio.sleep(0.25)
                    ledger = pipeline.ledger
                    calm = calm + 1 if ledger.dropped == drops and ledger.consumed > handled else 0
                    drops, handled = ledger.dropped, ledger.consumed
                assert feed.throttle_way == way
                if way == "request":
                    assert exchange.throttled > 0
                    assert exchange.max_rates
                else:
                    assert exchange.throttled == 0
                    assert feed.paused_symbols
                pipeline.cancel()
    assert_accounted(pipeline.report)


async def test_after_the_overload_the_exchange_is_asked_for_all_again() -> None:
    with trio.fail_after(PATIENCE_S):
        async with tt.exchange.open_exchange(symbols=["A"], rate=5 * CAPACITY) as exchange:
            feed = tt.WebSocketFeed(exchange.url, ["A"])
            settings: dict[str, Any] = {
                "overflow": tt.Throttle(interval=0.05),
                "maxsize": 200,
                "ordering": "none",
            }
            async with tt.open_pipeline(feed, Recorder(SERVICE_S), **settings):
                await until(lambda: bool(exchange.max_rates))
                exchange.pause()
                await until(lambda: not exchange.max_rates)


async def run_with_pings(
    overflow: Any, *, enough: Callable[[tt.exchange.Exchange, float], bool], rate: float
) -> tt.exchange.Exchange:
    """Far too much, from an exchange that cuts off slow clients.

    It does so if a ping has no answer for two seconds.
    """
    names = [f"S{n}" for n in range(20)]
    with trio.fail_after(PATIENCE_S):
        async with tt.exchange.open_exchange(
            symbols=names, rate=rate, ping_interval=0.05, ping_timeout=2.0
        ) as exchange:
            exchange.take_throttle_requests(False)
            feed = tt.WebSocketFeed(exchange.url, names)
            async with tt.open_pipeline(
                feed, Recorder(0.02), overflow=overflow, maxsize=100
            ) as pipeline:
                began = trio.current_time()
                await until(lambda: enough(exchange, trio.current_time() - began))
                pipeline.cancel()
    assert_accounted(pipeline.report)
    assert feed.reconnects == 0 or exchange.disconnects["ping_timeout"]
    return exchange


ANSWERING = [
    tt.DropNewest(timeout=0.1),
    tt.DropOldest(),
    tt.Conflate(),
    tt.Block(timeout=0.0),
    tt.Throttle(tt.DropNewest(timeout=0.1)),
]


async def test_pings_are_answered_under_overload() -> None:
    exchanges: dict[str, tt.exchange.Exchange] = {}

    async def run(overflow: Any) -> None:
        exchanges[repr(overflow)] = await run_with_pings(
            overflow, enough=lambda _exchange, passed: passed > 2.4, rate=2000.0
        )

    async with trio.open_nursery() as nursery:
        for overflow in ANSWERING:
            nursery.start_soon(run, overflow)
    assert len(exchanges) == len(ANSWERING)
    assert [
        name for name, exchange in exchanges.items() if exchange.disconnects["ping_timeout"]
    ] == []


async def test_block_alone_is_exempt() -> None:
    """Which also shows that the test above can fail."""
    exchange = await run_with_pings(
        tt.Block(),
        enough=lambda exchange, _passed: exchange.disconnects["ping_timeout"] > 0,
        rate=8000.0,
    )
    assert exchange.disconnects["ping_timeout"] > 0


# The benchmark


async def test_the_benchmark_counts_from_the_first_tick_that_was_handled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tt.WebSocketFeed.run

    async def slow_to_connect(feed: tt.WebSocketFeed, send: Send) -> None:
        await trio.sleep(1.2)  # longer than all rows
        await run(feed, send)

    monkeypatch.setattr(tt.WebSocketFeed, "run", slow_to_connect)
    with trio.fail_after(PATIENCE_S):
        rows, report = await bench.run(bench.Load(seconds=1.0, interval_s=0.5, overload=3.0))
    assert [row.at_s for row in rows] == [0.5, 1.0]
    assert all(0 < row.busy <= 1.01 for row in rows)
    # A loaded machine may leave a row of half a second without a tick, but not all.
    assert sum(row.came for row in rows) > 0 < sum(row.handled for row in rows)
    assert_accounted(report)


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"dropped": 1.0}, False),
        ({"busy": 0.84}, False),
        ({"at_s": 9.0, "dropped": 50.0}, True),
    ],
)
def test_the_benchmarks_verdict_can_fail(change: dict[str, Any], passed: bool) -> None:
    row = bench.Row(
        at_s=12.0,
        came=9.0,
        handled=9.0,
        dropped=0.0,
        left_out=1.0,
        busy=0.9,
        queued=5,
        rate=9.0,
        paused=0,
    )
    assert bench.verdict([row, attrs.evolve(row, **change)])["passed"] is passed
    assert not bench.verdict([])["passed"]
