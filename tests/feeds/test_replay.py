"""The replay feed: everything, in order, at its pace, on a virtual clock."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.recordings import REAL, T0, book, busy_day, needs_real, read_all, trade, write
from trio_ticks import ConfigError, Tick
from trio_ticks.clock import Clock
from trio_ticks.feeds.captures import utc_from_ns
from trio_ticks.feeds.playback import Playback
from trio_ticks.feeds.replay import ReplayFeed
from trio_ticks.overflow import Overflow


class Recorder:
    """Stands for a channel: takes all, *pause* seconds a batch, and records when."""

    def __init__(self, pause: float = 0.0) -> None:
        self.seen: list[tuple[float, Tick]] = []
        self.batches: list[int] = []
        self._pause = pause

    async def send_many(self, ticks: list[Tick]) -> None:
        self.batches.append(len(ticks))
        self.seen += [(trio.current_time(), tick) for tick in ticks]
        await trio.sleep(self._pause)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two thousand quotes in two seconds."""
    return write(tmp_path / "recording", *(book(n) for n in range(2000)), compressed=True)


@pytest.mark.parametrize("speed", [1.0, 0.01, 100.0])
async def test_every_quote_comes_at_its_time(
    recording: Path, speed: float, autojump_clock: MockClock
) -> None:
    send, start = Recorder(), trio.current_time()
    await ReplayFeed(recording, speed).run(send)
    assert [tick.bid for _, tick in send.seen] == [float(n) for n in range(2000)]
    for n, (when, _) in enumerate(send.seen):
        assert when - start == pytest.approx(n / 1000 / speed, abs=1e-6)


async def test_what_is_late_is_caught_up_with_and_never_added_up(
    recording: Path, autojump_clock: MockClock
) -> None:
    send, start = Recorder(pause=0.0107), trio.current_time()
    await ReplayFeed(recording).run(send)
    assert len(send.seen) == 2000
    for n, (when, _) in enumerate(send.seen):
        assert n / 1000 - 1e-6 <= when - start < n / 1000 + 0.011
    assert max(send.batches) > 1


async def test_as_fast_as_it_is_taken_and_in_batches(
    recording: Path, autojump_clock: MockClock
) -> None:
    send, start = Recorder(), trio.current_time()
    await ReplayFeed(recording, math.inf).run(send)
    assert len(send.seen) == 2000
    assert trio.current_time() == start
    assert max(send.batches) == 512


async def test_a_recording_longer_than_what_is_read_ahead(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Playback, "ahead", 100)
    send = Recorder()
    feed = ReplayFeed(recording, math.inf)
    await feed.run(send)
    assert [tick.bid for _, tick in send.seen] == [float(n) for n in range(2000)]
    assert feed.stats.messages == 2000


async def test_ticks_say_what_was_recorded(tmp_path: Path) -> None:
    send = Recorder()
    path = write(tmp_path / "recording", trade(0, "0.5"), book(7))
    await ReplayFeed(path, math.inf).run(send)
    assert [tick for _, tick in send.seen] == [
        Tick("BTCUSDT", utc_from_ns(T0 + 7_000_000), 7.0, 8.0, 3.5, 0.0, 0.5)
    ]


async def test_or_that_they_are_live(recording: Path) -> None:
    send = Recorder()
    await ReplayFeed(recording, math.inf, timestamps="now").run(send)
    now = datetime.now(UTC)
    assert all(timedelta(0) <= now - tick.timestamp < timedelta(hours=1) for _, tick in send.seen)


async def test_the_lines_are_counted_and_only_the_symbols_asked_for_come(tmp_path: Path) -> None:
    path = write(
        tmp_path / "recording", trade(0, "1"), book(1), "junk", book(2, symbol="ETHUSDT"), book(3)
    )
    feed, send = ReplayFeed(path, math.inf, symbols=["BTCUSDT"]), Recorder()
    await feed.run(send)
    assert [tick.bid for _, tick in send.seen] == [1.0, 3.0]
    assert (feed.stats.messages, feed.stats.malformed, feed.stats.ignored) == (5, 1, 2)
    await feed.run(send)
    assert len(send.seen) == 4
    assert (feed.stats.messages, feed.stats.malformed, feed.stats.ignored) == (10, 2, 4)
    assert not feed.stats.connected


async def test_cancelling_stops_it_and_it_can_run_again(recording: Path) -> None:
    class Leaver(Recorder):
        async def send_many(self, ticks: list[Tick]) -> None:
            assert feed.stats.connected
            scope.cancel()
            await super().send_many(ticks)

    feed = ReplayFeed(recording, math.inf)
    leaver, send = Leaver(), Recorder()
    with trio.CancelScope() as scope:
        await feed.run(leaver)
    assert scope.cancelled_caught
    assert leaver.batches == [512]
    assert not feed.stats.connected
    await feed.run(send)
    assert len(send.seen) == 2000


@pytest.mark.parametrize("speed", [0, -1, math.nan, "fast", True])
def test_a_speed_that_makes_no_sense(recording: Path, speed: Any) -> None:
    with pytest.raises(ConfigError, match="speed"):
        ReplayFeed(recording, speed)


def test_other_settings_that_make_no_sense(recording: Path) -> None:
    with pytest.raises(ConfigError, match="timestamps"):
        ReplayFeed(recording, timestamps="then")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no recording"):
        ReplayFeed(recording.with_name("missing"))


async def test_a_file_that_is_no_recording_is_an_error_of_the_feed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("hello\n")
    with pytest.raises(ConfigError, match="not a recording"):
        await ReplayFeed(tmp_path / "other").run(Recorder())
    (tmp_path / "other").write_text("")
    with pytest.raises(ConfigError, match=r"it is empty$"):
        await ReplayFeed(tmp_path / "other").run(Recorder())
    (tmp_path / "other").write_bytes(b"\x1f\x8b\x08 and no more of it")
    with pytest.raises(ConfigError, match=r"not a line of it can be read$"):
        await ReplayFeed(tmp_path / "other").run(Recorder())


async def test_a_speed_beyond_all_measure(recording: Path, autojump_clock: MockClock) -> None:
    send = Recorder(1.0)
    await ReplayFeed(recording, 1e308).run(send)
    assert len(send.seen) == 2000


async def test_through_a_pipeline_nothing_is_lost(recording: Path) -> None:
    seen: list[float] = []

    async def handler(tick: Tick) -> None:
        seen.append(tick.bid)

    report = await tt.run_pipeline(
        ReplayFeed(recording, math.inf), handler, workers=3, maxsize=100, overflow=tt.Block()
    )
    assert seen == [float(n) for n in range(2000)]
    assert (report.produced, report.consumed, report.dropped) == (2000, 2000, 0)


async def test_nothing_is_dropped_as_fast_as_it_is_taken_unless_asked_for(
    recording: Path, autojump_clock: MockClock
) -> None:
    """Half a second a tick: the default's patience would be spent at the third."""

    async def handler(_tick: Tick) -> None:
        await trio.sleep(0.5)

    async def dropped(speed: float, **settings: Any) -> int:
        feed = ReplayFeed(recording, speed)
        report = await tt.run_pipeline(feed, handler, workers=1, maxsize=10, **settings)
        assert report.produced == 2000
        return report.dropped

    assert await dropped(math.inf) == 0
    assert await dropped(math.inf, overflow={tt.Trade: tt.DropOldest()}) == 0
    assert await dropped(math.inf, overflow=tt.DropNewest()) > 1900
    assert await dropped(1e6) > 1900


async def test_quotes_and_trades_through_a_pipeline(tmp_path: Path) -> None:
    lines = busy_day(4000)
    trades = sum("@trade" in line for line in lines)
    path = write(tmp_path / "recording.gz", *lines, compressed=True)
    await replay_whole(path, lines=4000, quotes=4000 - trades)


@needs_real
async def test_the_real_recording_through_a_pipeline() -> None:
    await replay_whole(REAL, lines=41_249, quotes=28_040)


async def replay_whole(path: Path, *, lines: int, quotes: int) -> None:
    seen: list[Tick] = []

    async def handler(tick: Tick) -> None:
        seen.append(tick)

    feed = ReplayFeed(path, math.inf)
    report = await tt.run_pipeline(feed, handler, workers=2, overflow=tt.Block())
    assert report.produced == report.consumed == len(seen) == quotes
    assert all(before.timestamp <= after.timestamp for before, after in pairwise(seen))
    assert feed.stats.messages == lines
    assert (feed.stats.malformed, feed.stats.ignored) == (0, lines - quotes)


# On a virtual clock


class MemoryFeed:
    """Plays quotes from memory: what a replay is to be the same as."""

    def __init__(self, quotes: Sequence[tuple[int, Any]], speed: float = 1.0) -> None:
        self._quotes = quotes
        self._speed = speed

    async def run(self, send: Any) -> None:
        first, start, at = self._quotes[0][0], trio.current_time(), 0.0
        for moment, group in groupby(self._quotes, key=lambda quote: quote[0]):
            at = max(at, (moment - first) / 1e9 / self._speed)
            await trio.sleep_until(start + at)
            await send.send_many([tick for _, tick in group])


async def slow(_tick: Tick) -> None:
    await trio.sleep(0.005)


@pytest.mark.parametrize("overflow", [tt.Block(), tt.DropNewest(0.05), tt.DropOldest()], ids=str)
async def test_a_replay_is_the_same_as_quotes_from_memory(
    tmp_path: Path, overflow: Overflow, autojump_clock: MockClock
) -> None:
    random = Random(11)
    at = sorted(random.sample(range(1, 5_000_000), 5000))
    path = write(
        tmp_path / "recording",
        *(f"{T0 + 1000 * us} {book(n).partition(' ')[2]}" for n, us in enumerate(at)),
    )
    quotes, _ = read_all(path)
    reports = [
        await tt.run_pipeline(
            feed, slow, workers=4, maxsize=100, ordering="none", overflow=overflow
        )
        for feed in (ReplayFeed(path), MemoryFeed(quotes))
    ]
    assert reports[0].ledger == reports[1].ledger
    assert reports[0].produced == 5000
    assert reports[0].duration_s == pytest.approx(reports[1].duration_s)


@needs_real
async def test_the_real_recording_has_one_ledger(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A replay must not let the clock jump while it reads.

    When it did, it consumed 11,691 to 13,852 of the 28,040 ticks.
    """
    caplog.set_level(logging.ERROR)
    quotes, _ = read_all(REAL)
    for feed in (ReplayFeed(REAL, 30), MemoryFeed(quotes, 30)):
        report = await tt.run_pipeline(
            feed, slow, workers=4, maxsize=200, ordering="none", overflow=tt.DropNewest()
        )
        assert (report.consumed, report.dropped) == (9424, 18_616)


@pytest.mark.parametrize("timestamps", ["original", "now"])
@pytest.mark.parametrize("maxsize", [10, 10_000])
async def test_lag_is_what_queueing_made_of_it(
    recording: Path, timestamps: Any, maxsize: int, autojump_clock: MockClock
) -> None:
    """Quote *n* is due after *n* ms, handled after 5 *n*, whether or not it waited."""
    await trio.sleep(0.3)
    report = await tt.run_pipeline(
        ReplayFeed(recording, timestamps=timestamps),
        slow,
        workers=1,
        maxsize=maxsize,
        overflow=tt.Block(),
    )
    lag, wait = report.processing_lag_ms, report.queue_wait_ms
    assert lag.count == 2000
    assert lag.max == pytest.approx(4 * 1999, abs=0.002)
    assert lag.mean == pytest.approx(4 * 1999 / 2, abs=0.002)
    assert lag.p99 == pytest.approx(4 * 1980, rel=0.05)
    if maxsize == 10:
        assert wait.max <= 60
    else:
        assert wait.max == pytest.approx(lag.max, abs=0.002)


async def test_ages_by_timestamp_are_exact(recording: Path, autojump_clock: MockClock) -> None:
    async def consumed(max_age: tt.MaxAge) -> tuple[list[float], int]:
        seen: list[float] = []

        async def handler(tick: Tick) -> None:
            seen.append(tick.bid)
            await trio.sleep(0.005)

        report = await tt.run_pipeline(
            ReplayFeed(recording), handler, workers=1, maxsize=10_000, max_age=max_age
        )
        return seen, report.dropped_by_reason["stale"]

    by_timestamp = await consumed(tt.MaxAge(0.1005, since="timestamp"))
    assert by_timestamp == await consumed(tt.MaxAge(0.1005))
    assert by_timestamp[1] > 1000


async def test_wall_time_begins_where_the_recording_does(
    recording: Path, autojump_clock: MockClock
) -> None:
    await trio.sleep(12.5)

    class WithClock(Recorder):
        clock = Clock()

        async def send_many(self, ticks: list[Tick]) -> None:
            await super().send_many(ticks)
            for tick in ticks:
                late = self.clock.utc() - tick.timestamp
                assert abs(late) <= timedelta(microseconds=1)

    send = WithClock()
    await ReplayFeed(recording).run(send)
    await ReplayFeed(recording, 7.0, timestamps="now").run(send)
    assert len(send.seen) == 4000
    assert send.seen[2000][1].timestamp == utc_from_ns(T0)


async def test_nothing_is_read_in_a_thread(
    recording: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def jump(*_args: object, **_options: object) -> None:
        pytest.fail("the clock would jump meanwhile")

    monkeypatch.setattr("trio.to_thread.run_sync", jump)
    send = Recorder()
    await ReplayFeed(recording).run(send)
    assert len(send.seen) == 2000


async def test_rounding_does_not_stop_a_clock_that_stands_still(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It once did: rounding made the next quote both due and not due.

    So no task waited for anything, and the virtual clock did not jump.
    """
    await trio.sleep(1000.3)
    start = trio.current_time()
    at = [n / 1000 for n in range(500)]
    assert any((start + moment) - start < moment for moment in at)
    path = write(tmp_path / "recording", *(book(n) for n in range(500)))
    send = Recorder()
    await ReplayFeed(path).run(send)
    assert [when for when, _ in send.seen] == [start + moment for moment in at]


async def test_live_stamps_are_of_when_quotes_were_due_not_taken(recording: Path) -> None:
    """Ticks that a full channel keeps waiting grow old (no coordinated omission).

    On the system's clock.
    """
    send = Recorder(pause=0.001)
    await ReplayFeed(recording, 100.0, timestamps="now").run(send)
    first = send.seen[0][1].timestamp
    for n, (_, tick) in enumerate(send.seen):
        late = tick.timestamp - first - timedelta(seconds=n / 1000 / 100.0)
        assert abs(late) <= timedelta(microseconds=1)


async def test_the_share_is_of_what_was_played_not_of_what_was_read(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = write(tmp_path / "recording", *(book(n, at_ms=n * 1000) for n in range(101)))
    feed = ReplayFeed(path)
    shares: list[float] = []

    async def handler(_tick: Tick) -> None:
        shares.append(feed.share)

    await tt.run_pipeline(feed, handler, workers=1, signals=False)
    assert len(shares) == 101
    assert shares[0] < 0.1
    assert 0.4 < shares[50] < 0.6
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
