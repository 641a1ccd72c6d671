"""Timestamps from the future, and clocks that differ or jump, make no fresh tick stale.

Ticks go through a channel with ``max_age`` by timestamp, one at a time, on a virtual
clock. A tick is fresh if its timestamp is right by its own venue's clock.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.helpers import make_tick
from trio_ticks.channel.freshness import AgeMeter, MaxAge
from trio_ticks.channel.statistics import ChannelStatistics
from trio_ticks.clock import Clock
from trio_ticks.offsets import ClockOffset, ClockOffsets

START = datetime(2024, 8, 8, 12, tzinfo=UTC)
YEAR_9999 = (datetime(9999, 12, 31, tzinfo=UTC) - START).total_seconds()
AHEAD_S = pytest.mark.parametrize("ahead_s", [5.0, 3600.0, YEAR_9999], ids=["5 s", "1 h", "9999"])

Ends = tuple[tt.TickSendChannel[tt.Tick], tt.TickReceiveChannel[tt.Tick]]
Stream = Iterable[tuple[str, float]]
"""Symbols, and how far each timestamp is ahead of our clock, in seconds."""


class World:
    """A channel whose ticks are taken out *wait_s* after they came."""

    def __init__(self, max_age_s: float = 1.0, every_s: float = 0.01) -> None:
        self.now = 100.0
        self.every_s = every_s
        self.clock = Clock(lambda: self.now, wall_s=START.timestamp())
        self.ages = AgeMeter(MaxAge(max_age_s, since="timestamp"), self.clock)
        self.stale: list[int] = []
        self.count = 0

    def tick(self, symbol: str = "A", ahead_s: float = 0.0) -> bool:
        """Bring a tick and take it out; return whether it was stale."""
        self.now += self.every_s
        tick = make_tick(symbol, now=self.clock.utc() + timedelta(seconds=ahead_s))
        self.ages.observe([tick], self.now)
        stale = self.ages.is_stale(tick, self.now, self.now)
        if stale:
            self.stale.append(self.count)
        self.count += 1
        return stale

    def run(self, stream: Stream) -> list[int]:
        """Return the numbers of the stale ones in *stream*."""
        self.stale, self.count = [], 0
        for symbol, ahead_s in stream:
            self.tick(symbol, ahead_s)
        return self.stale


def same(count: int, ahead_s: float = 0.0, symbols: str = "A") -> list[tuple[str, float]]:
    return [(symbols[n % len(symbols)], ahead_s) for n in range(count)]


def jumps(world: World) -> int:
    assert world.ages.jumps is not None
    return world.ages.jumps


# Timestamps from the future


@AHEAD_S
@pytest.mark.parametrize("position", [0, 1, 2, 3, 5, 100, 299])
@pytest.mark.parametrize("symbols", ["A", "AB"])
def test_one_timestamp_from_the_future_makes_nothing_stale(
    ahead_s: float, position: int, symbols: str
) -> None:
    world = World()
    stream = same(300, symbols=symbols)
    stream[position] = (symbols[0], ahead_s)
    assert world.run(stream) == []
    assert world.run(same(100, symbols=symbols)) == []
    assert world.ages.offset_s == pytest.approx(0.0, abs=1e-3)
    assert jumps(world) == 0


@AHEAD_S
@pytest.mark.parametrize("every", [10, 100])
def test_repeated_timestamps_from_the_future_make_nothing_stale(ahead_s: float, every: int) -> None:
    world = World()
    stream = same(2000)
    stream[::every] = [("A", ahead_s)] * len(stream[::every])
    assert world.run(stream) == []
    assert world.ages.offset_s == pytest.approx(0.0, abs=1e-3)
    assert jumps(world) == 0


def test_another_symbol_that_lives_in_the_future_makes_nothing_stale() -> None:
    world = World()
    assert world.run(same(1000, symbols="AB") + [("GLITCH", 5.0), ("A", 0.0)] * 500) == []


def test_a_long_burst_from_the_future_costs_a_bounded_number_of_ticks() -> None:
    world = World()
    world.run([*same(100), *same(64, 3600.0)])
    stale = world.run(same(1000))
    assert len(stale) <= 8
    assert jumps(world) == 2


def test_a_timestamp_from_the_future_does_not_keep_its_own_tick_fresh_for_ever() -> None:
    world = World()
    world.run(same(100))
    tick = make_tick(now=world.clock.utc() + timedelta(hours=1))
    world.ages.observe([tick], world.now)
    assert not world.ages.is_stale(tick, world.now, world.now + 0.9)
    assert world.ages.is_stale(tick, world.now, world.now + 1.1)


# What is old stays stale


def test_old_ticks_are_stale_also_after_a_timestamp_from_the_future() -> None:
    world = World()
    world.run([*same(50), ("A", 3600.0), *same(50)])
    assert world.run([("A", -30.0), *same(10), ("A", -1.5)]) == [0, 11]


@pytest.mark.parametrize("stall_s", [2.0, 30.0])
def test_ticks_that_a_stall_has_delayed_are_stale(stall_s: float) -> None:
    """They come in their order, so that a delay is no jump of a clock."""
    world = World()
    world.run(same(500))
    world.now += stall_s
    # The backlog comes at ten times the pace.
    backlog = [
        ("A", -(stall_s - n * (world.every_s * 10 - world.every_s)))
        for n in range(int(stall_s / world.every_s / 10))
    ]
    stale = world.run(backlog)
    assert stale == [n for n, (_, ahead_s) in enumerate(backlog) if ahead_s < -1.0]
    assert jumps(world) == 0
    assert world.run(same(100)) == []


@pytest.mark.parametrize("pace", [1.5, 3, 10, 100])
@pytest.mark.parametrize("backlog_s", [5.0, 60.0, 3600.0])
def test_a_backlog_that_drains_at_the_beginning_is_no_jump(pace: float, backlog_s: float) -> None:
    world = World()
    count = int(backlog_s / world.every_s / (pace - 1))
    first = max(0, count - 2000)
    stale = world.run(
        ("A", -(backlog_s - n * world.every_s * (pace - 1))) for n in range(first, count)
    )
    assert stale == []
    assert world.run(same(200)) == []
    assert jumps(world) == 0
    assert world.run([("A", -1.5)]) == [0]


def test_a_delay_that_grows_slowly_and_stays_is_no_jump() -> None:
    world = World()
    world.run(same(500))
    growing = [("A", -n * world.every_s / 2) for n in range(1000)]
    stale = world.run([*growing, *same(1000, -5.0)])
    assert stale == list(range(201, 2000))
    assert jumps(world) == 0


# Clocks that differ


def test_a_venue_whose_clock_is_always_ahead_is_judged_by_its_own_clock() -> None:
    """The recording of Binance is 1.27 s ahead of the clock that received it."""
    world = World(max_age_s=0.5)
    assert world.run(same(500, 1.27)) == []
    assert world.ages.offset_s == pytest.approx(-1.27, abs=1e-3)
    assert world.run([("A", 1.27 - 0.6), ("A", 1.27 - 0.4)]) == [0]


@pytest.mark.parametrize("share", [1, 2, 10, 50])
def test_two_feeds_may_have_different_clocks(share: int) -> None:
    world = World(max_age_s=0.5)
    stream = [("B", 1.27), *same(share)] * (2000 // (share + 1))
    assert len(world.run(stream)) <= 8
    assert world.run(stream) == []
    assert world.tick("A", -0.6)
    assert world.tick("B", 1.27 - 0.6)
    assert jumps(world) == 0


def test_a_feed_that_stops_is_no_jump_of_the_others_clock() -> None:
    world = World(max_age_s=0.5)
    world.run([("A", 0.0), ("B", -5.0)] * 200)
    assert world.run(same(1000, -5.0, "B")) == []
    assert jumps(world) == 0


@pytest.mark.parametrize("every_s", [0.001, 0.01, 0.13, 0.37, 1.0, 1.1])
def test_timestamps_of_whole_seconds(every_s: float) -> None:
    """Rounded down, as TickDB's are: the lag jitters by a second."""
    world = World(max_age_s=1.5, every_s=every_s)
    count = max(1000, int(70 / every_s)) if every_s > 0.001 else 5000

    def stream() -> Iterable[tuple[str, float]]:
        for _ in range(count):
            yield "A", -math.fmod(world.now + every_s + world.clock.offset_s, 1.0)

    assert world.run(stream()) == []
    assert jumps(world) == 0
    assert world.tick("A", -3.0)


# Jumps


@pytest.mark.parametrize("symbols", ["A", "ABC", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
@pytest.mark.parametrize("jump_s", [10.0, -10.0, -1.5])
def test_a_lasting_jump_is_followed_and_logged_once(
    jump_s: float, symbols: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.run(same(3000, symbols=symbols))
    many = len(symbols)
    stale = world.run(same(200 * many, jump_s, symbols))
    assert len(stale) <= 8 * many
    assert stale == sorted(stale)[: 8 * many]
    assert all(n < 8 * many for n in stale)
    assert world.run([("A", jump_s - 1.2), ("A", jump_s)]) == [0]
    assert jumps(world) == 1
    (record,) = caplog.records
    assert (record.levelno, record.event) == (logging.WARNING, "clock.jumped")  # type: ignore[attr-defined]
    assert record.seconds == pytest.approx(jump_s, abs=1e-3)  # type: ignore[attr-defined]
    stale = world.run(same(200 * many, 0.0, symbols))
    assert len(stale) <= 8 * many
    assert world.run(same(500, symbols=symbols)) == []
    assert jumps(world) == 2


def test_what_was_queued_when_a_jump_was_followed_is_not_stale() -> None:
    world = World()
    world.run(same(500))
    old = make_tick(now=world.clock.utc())
    arrived = world.now
    world.run(same(50, 10.0))
    assert world.ages.jumps == 1
    assert not world.ages.is_stale(old, arrived, world.now)
    world.now = arrived + 1.1
    assert world.ages.is_stale(old, arrived, world.now)


def test_a_few_old_timestamps_are_no_jump() -> None:
    """A venue may send old quotes of quiet symbols after a reconnect, in any order."""
    world = World()
    world.run(same(500, symbols="ABC"))
    quiet = [(f"Q{n}", -60.0 * (1 + n * 7 % 50)) for n in range(60)]
    world.run(quiet)
    assert world.run(same(500, symbols="ABC")) == []
    assert jumps(world) == 0
    assert world.run([("Q1", -30.0)]) == [0]


# Laws


odd_stamps = st.one_of(
    st.floats(-1e6, 1e6), st.sampled_from([5.0, -5.0, 10.0, 3600.0, YEAR_9999, -1.7e9])
)


@given(
    st.lists(odd_stamps, max_size=80),
    st.lists(odd_stamps, max_size=40),
    st.sampled_from([0.0, 1.27, -1.27, 30.0, -3600.0]),
    st.sampled_from([0.0, 0.05, 0.3]),
)
def test_after_any_timestamps_fresh_ticks_are_soon_handled(
    before: list[float], between: list[float], clock_s: float, jitter_s: float
) -> None:
    """After any beginning, while up to one timestamp in ten is odd."""
    world = World()
    world.run([("A", ahead_s) for ahead_s in before])
    lost = 0
    for n in range(500):
        if n % 10 == 0 and n // 10 < len(between):
            world.tick("A", between[n // 10])
        lost += world.tick("A", clock_s - (n * 7 % 10) / 9 * jitter_s)
    assert lost <= 32
    assert jumps(world) <= 4


@given(st.lists(st.tuples(st.sampled_from("ABCDEFGH"), odd_stamps), max_size=200))
def test_memory_is_bounded(stream: list[tuple[str, float]]) -> None:
    offsets = ClockOffsets(most_symbols=3)
    for n, (symbol, ahead_s) in enumerate(stream):
        offsets.observe(symbol, -ahead_s, n * 0.1)
    assert len(offsets) <= 3


def test_quiet_symbols_make_room() -> None:
    offsets = ClockOffsets(most_symbols=2)
    for n in range(40):
        offsets.observe("AB"[n % 2], 5.0, n)
    for n in range(40):
        offsets.observe("C", 7.0, 100 + n)
    assert offsets.offset_s("C", 140) == 5.0
    for n in range(10):
        offsets.observe("C", 7.0, 1000 + n)
    assert offsets.offset_s("C", 1010) == 7.0
    assert len(offsets) == 1


@given(st.lists(st.floats(0.0, 0.09), min_size=1, max_size=300))
def test_of_honest_samples_the_estimate_is_one_of_the_quickest(samples: list[float]) -> None:
    offset = ClockOffset()
    for n, sample in enumerate(samples):
        assert offset.observe(sample, n * 0.01) == 0.0
    assert offset.is_known
    assert min(samples) <= offset.offset_s <= samples[0]


# Through a channel and its statistics


async def test_a_channel_shows_the_offset_and_drops_nothing(mock_clock: MockClock) -> None:
    ends: Ends = tt.open_tick_channel(10, max_age=tt.MaxAge(1.0, since="timestamp"))
    send, receive = ends
    clock = Clock()
    for n in range(300):
        mock_clock.jump(0.01)
        ahead_s = 3600.0 if n == 150 else 0.0
        send.send_nowait(make_tick(n=n, now=clock.utc() + timedelta(seconds=ahead_s)))
        assert receive.receive_nowait().volume == n
    assert send.ledger.dropped == 0
    statistics: ChannelStatistics = send.statistics()
    # The channel's clock and ours began a moment apart.
    assert statistics.clock_offset_s == pytest.approx(0.0, abs=5.0)
    assert statistics.clock_jumps == 0


@pytest.mark.parametrize("max_age", [None, 1.0])
def test_without_ages_by_timestamp_no_offset_is_shown(max_age: float | None) -> None:
    async def main() -> ChannelStatistics:
        ends: Ends = tt.open_tick_channel(10, max_age=max_age)
        send, _receive = ends
        await send.send(make_tick())
        return send.statistics()

    statistics = trio.run(main)
    assert statistics.clock_offset_s is None
    assert statistics.clock_jumps is None


def test_symbols_in_one_order_are_all_observed() -> None:
    """Of a large batch only some ticks are looked at, but not always the same."""
    world = World(max_age_s=0.5)
    stale: Callable[[tt.Tick], bool] = lambda tick: world.ages.is_stale(  # noqa: E731
        tick, world.now, world.now
    )
    lost = 0
    for _ in range(100):
        world.now += 0.01
        ticks = [
            make_tick(symbol, now=world.clock.utc() + timedelta(seconds=ahead_s))
            for symbol, ahead_s in [("A", 0.0), ("B", 1.27)] * 8
        ]
        world.ages.observe(ticks, world.now)
        lost += sum(map(stale, ticks))
    assert lost == 0
