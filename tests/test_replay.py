"""The replay feed: everything, in order, at its pace, on a virtual clock."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.test_capture import REAL, T0, book, needs_real, trade, write
from trio_ticks import ConfigError, Tick
from trio_ticks.feeds.captures import Playback, utc_from_ns
from trio_ticks.feeds.replay import ReplayFeed


class Recorder:
    """Stands for a channel: takes everything, and remembers when; each batch takes *pause* seconds."""

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
async def test_every_quote_comes_at_its_time(recording: Path, speed: float, autojump_clock: MockClock) -> None:
    send, start = Recorder(), trio.current_time()
    await ReplayFeed(recording, speed).run(send)
    assert [tick.bid for _, tick in send.seen] == [float(n) for n in range(2000)]
    for n, (when, _) in enumerate(send.seen):
        assert when - start == pytest.approx(n / 1000 / speed, abs=1e-6)


async def test_what_is_late_is_caught_up_with_and_never_added_up(recording: Path, autojump_clock: MockClock) -> None:
    send, start = Recorder(pause=0.0107), trio.current_time()
    await ReplayFeed(recording).run(send)
    assert len(send.seen) == 2000
    for n, (when, _) in enumerate(send.seen):
        assert n / 1000 - 1e-6 <= when - start < n / 1000 + 0.011
    assert max(send.batches) > 1


async def test_as_fast_as_it_is_taken_and_in_batches(recording: Path, autojump_clock: MockClock) -> None:
    send, start = Recorder(), trio.current_time()
    await ReplayFeed(recording, math.inf).run(send)
    assert len(send.seen) == 2000
    assert trio.current_time() == start
    assert max(send.batches) == 512


async def test_a_recording_longer_than_what_is_read_ahead(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert [tick for _, tick in send.seen] == [Tick("BTCUSDT", utc_from_ns(T0 + 7_000_000), 7.0, 8.0, 3.5, 0.0, 0.5)]


async def test_or_that_they_are_live(recording: Path) -> None:
    send = Recorder()
    await ReplayFeed(recording, math.inf, timestamps="now").run(send)
    now = datetime.now(UTC)
    assert all(timedelta(0) <= now - tick.timestamp < timedelta(hours=1) for _, tick in send.seen)


async def test_the_lines_are_counted_and_only_the_symbols_asked_for_come(tmp_path: Path) -> None:
    path = write(tmp_path / "recording", trade(0, "1"), book(1), "junk", book(2, symbol="ETHUSDT"), book(3))
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
        ReplayFeed(recording.parent)


async def test_a_file_that_is_no_recording_is_an_error_of_the_feed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("hello\n")
    with pytest.raises(ConfigError, match="not a recording"):
        await ReplayFeed(tmp_path / "other").run(Recorder())


async def test_through_a_pipeline_nothing_is_lost(recording: Path) -> None:
    seen: list[float] = []

    async def handler(tick: Tick) -> None:
        seen.append(tick.bid)

    report = await tt.run_pipeline(ReplayFeed(recording, math.inf), handler, workers=3, maxsize=100, overflow=tt.Block())
    assert seen == [float(n) for n in range(2000)]
    assert (report.produced, report.consumed, report.dropped) == (2000, 2000, 0)


@needs_real
async def test_the_real_recording_through_a_pipeline() -> None:
    seen: list[Tick] = []

    async def handler(tick: Tick) -> None:
        seen.append(tick)

    feed = ReplayFeed(REAL, math.inf)
    report = await tt.run_pipeline(feed, handler, workers=2, overflow=tt.Block())
    assert report.produced == report.consumed == len(seen) == 28_040
    assert all(before.timestamp <= after.timestamp for before, after in pairwise(seen))
    assert (feed.stats.messages, feed.stats.malformed, feed.stats.ignored) == (41_249, 0, 13_209)
