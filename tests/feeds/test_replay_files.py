"""Replays of several files, of folders, of a part of them; and what is read when."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_ticks as tt
from tests.worlds.recordings import T0, book, combined, flat, trade, write
from trio_ticks import ConfigError, Tick
from trio_ticks.clock import Clock
from trio_ticks.feeds import timeline
from trio_ticks.feeds.decoding import LineDecoder
from trio_ticks.feeds.recording_files import find_recordings
from trio_ticks.feeds.timeline import Piece, Timeline, Track
from trio_ticks.recordings.files import LineReader


class Sent:
    """Stands for a channel: takes all, and records it, with the gaps."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.gaps: list[tuple[int, str, int]] = []
        self.clock = Clock()

    async def send_many(self, items: list[Any]) -> None:
        self.items += items
        await trio.lowlevel.checkpoint()

    def mark_gap(self, gap: tt.Gap, *, book: bool = False) -> None:
        self.gaps.append((len(self.items), gap.symbol, gap.count))

    @property
    def bids(self) -> list[float]:
        return [tick.bid for tick in self.items]


async def sent(where: Any, speed: float = math.inf, **options: Any) -> Sent:
    send = Sent()
    await tt.ReplayFeed(where, speed, **options).run(send)
    return send


def hours(folder: Path, count: int = 3, each: int = 5) -> list[Path]:
    """Write *count* files that follow each other, with *each* quotes in them."""
    return [
        write(folder / f"binance-{hour:02}.gz", *(book(hour * each + n) for n in range(each)))
        for hour in range(count)
    ]


# Several files


async def test_files_that_follow_each_other(tmp_path: Path) -> None:
    files = hours(tmp_path)
    everything = [float(n) for n in range(15)]
    assert (await sent(files)).bids == everything
    assert (await sent(list(reversed(files)))).bids == everything
    assert (await sent(tmp_path)).bids == everything
    assert (await sent(str(tmp_path))).bids == everything


async def test_files_of_the_same_time_are_merged(tmp_path: Path) -> None:
    write(tmp_path / "btc", *(book(n) for n in range(0, 20, 2)))
    write(tmp_path / "eth", *(book(n, symbol="ETHUSDT") for n in range(1, 20, 2)))
    send = await sent(tmp_path)
    assert send.bids == [float(n) for n in range(20)]
    assert {tick.symbol for tick in send.items} == {"BTCUSDT", "ETHUSDT"}
    assert (await sent(tmp_path, symbols=["ETHUSDT"])).bids == [float(n) for n in range(1, 20, 2)]


async def test_files_that_overlap_are_played_side_by_side(tmp_path: Path) -> None:
    """Their names say that one goes on where the other ends, and it does not."""
    write(tmp_path / "part-1", *(book(n) for n in range(10)))
    write(tmp_path / "part-2", *(book(n) for n in range(5, 15)))
    assert (await sent(tmp_path)).bids == sorted([float(n) for n in [*range(10), *range(5, 15)]])


async def test_files_of_several_venues(tmp_path: Path) -> None:
    write(tmp_path / "binance", book(0), book(2))
    write(tmp_path / "flat", f"{T0 + 1_000_000} {flat('SPY', 1.0)}")
    feed, send = tt.ReplayFeed(tmp_path, math.inf), Sent()
    await feed.run(send)
    assert [tick.symbol for tick in send.items] == ["BTCUSDT", "SPY", "BTCUSDT"]
    assert feed.venue == "binance, flat"
    assert feed.stats.messages == 3
    with pytest.raises(ConfigError, match="books=True is for the recordings of one venue"):
        await sent(tmp_path, books=True)


async def test_a_codec_goes_on_in_the_next_file_of_its_recorder(tmp_path: Path) -> None:
    """Else the volume would begin anew, and a gap at midnight would be missed."""
    write(tmp_path / "day-1", trade(0, "1"), book(1))
    write(tmp_path / "day-2", trade(5, "2"), book(6))
    write(tmp_path / "other", book(3, symbol="ETHUSDT"))
    send = await sent(tmp_path, channels="all")
    ticks = [item for item in send.items if type(item) is Tick]
    assert [(tick.symbol, tick.volume) for tick in ticks[::2]] == [
        ("BTCUSDT", 1.0),
        ("BTCUSDT", 3.0),
    ]
    assert math.isnan(ticks[1].volume)
    assert send.gaps == [(3, "BTCUSDT", 4)]


async def test_what_is_no_recording_is_left_out_of_several_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hours(tmp_path)
    (tmp_path / "notes.md").write_text("of no interest")
    (tmp_path / ".hidden").write_text("of no interest")
    write(tmp_path / "junk", "hello")
    caplog.set_level(logging.WARNING)
    assert len((await sent(tmp_path)).items) == 15
    assert caplog.text.count("replay.left_out") == 1
    assert "junk" in caplog.text
    with pytest.raises(ConfigError, match="not a recording"):
        await sent(tmp_path / "junk")
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(ConfigError, match="there is no file in"):
        await sent(folder)


@pytest.mark.parametrize("where", [[], None, 3, [None]], ids=str)
def test_what_is_no_path(where: Any) -> None:
    with pytest.raises(ConfigError, match=r"a recording is given by its path|list .* is empty"):
        tt.ReplayFeed(where)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_ticks.feeds.recording_files.MOST_FILES", 2)
    hours(tmp_path)
    with pytest.raises(ConfigError, match="more than 2 files"):
        find_recordings([tmp_path])


def test_one_feed_for_its_repr(tmp_path: Path) -> None:
    one, two = hours(tmp_path, 2)
    assert repr(tt.ReplayFeed(one)) == f"ReplayFeed({str(one)!r}, speed=1.0)"
    assert repr(tt.ReplayFeed([one, two], 2)) == f"ReplayFeed({[str(one), str(two)]!r}, speed=2)"


# A part of it


def at(ms: int) -> str:
    return f"2024-08-08T23:54:14.{ms:03}Z"


async def test_from_a_time_to_another(tmp_path: Path, autojump_clock: MockClock) -> None:
    hours(tmp_path)
    began = trio.current_time()
    send = await sent(tmp_path, 1.0, start=at(4), end=at(11))
    assert send.bids == [float(n) for n in range(4, 11)]
    assert trio.current_time() - began == pytest.approx(0.006)
    assert (await sent(tmp_path, start=at(20))).bids == []
    assert (await sent(tmp_path, end=at(0))).bids == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"start": at(20)}, "no item from 2024-08-08 23:54:14"),
        ({"end": at(0)}, "no item before 2024-08-08 23:54:14"),
        ({"symbols": ["OTHER"]}, "no item of OTHER"),
        ({"symbols": ["BTCUSDT"]}, None),
    ],
    ids=str,
)
async def test_where_nothing_is_played_the_log_says_what_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: dict[str, Any], words: str | None
) -> None:
    hours(tmp_path)
    caplog.set_level(logging.WARNING)
    assert bool((await sent(tmp_path, **asked)).items) is (words is None)
    assert caplog.text.count("replay.nothing") == (words is not None)
    assert (words or "") in caplog.text
    assert ("BTCUSDT" in caplog.text) is (words is not None)


async def test_what_lies_before_is_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "r", trade(0, "1"), book(1), trade(2, "2"), book(3))
    send = await sent(path, start=at(3))
    assert [tick.volume for tick in send.items] == [3.0]


async def test_books_are_whole_where_a_part_begins(tmp_path: Path) -> None:
    def depth(n: int, u: int, bid: str) -> str:
        data = {"e": "depthUpdate", "E": T0 // 10**6 + n, "s": "BTCUSDT", "U": u, "u": u}
        data |= {"b": [[bid, "1"]], "a": [["9", "1"]]}
        return f"{T0 + n * 1_000_000} {combined('btcusdt@depth', **data)}"

    snapshot = {"lastUpdateId": 1, "bids": [["1", "1"]], "asks": [["9", "1"]]}
    line = f"{T0} {json.dumps(snapshot)}"
    path = write(tmp_path / "r", depth(0, 1, "1"), line, depth(1, 2, "2"), depth(5, 3, "3"))
    send = await sent(path, channels=["depth"], books=True, venue="binance", start=at(5))
    assert send.bids == [3.0]


# What is read when


def read_in_pieces(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Have files read *count* lines at a time: blocks hold all of such small ones."""
    read, rest = LineReader.read_lines, dict[LineReader, list[bytes]]()

    def read_lines(reader: LineReader) -> list[bytes] | None:
        lines = rest.setdefault(reader, [])
        while len(lines) < count and (block := read(reader)) is not None:
            lines += block
        rest[reader] = lines[count:]
        return lines[:count] or None

    monkeypatch.setattr(LineReader, "read_lines", read_lines)
    monkeypatch.setattr(timeline, "LINES", count)


async def test_lines_are_decoded_in_the_event_loop_and_read_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[int]] = {"read": set(), "decode": set()}
    read, decode = LineReader.read_lines, LineDecoder.decode

    def reading(reader: LineReader) -> list[bytes] | None:
        threads["read"].add(threading.get_ident())
        return read(reader)

    def decoding(decoder: LineDecoder, line: bytes) -> list[tuple[int, Any]]:
        threads["decode"].add(threading.get_ident())
        return decode(decoder, line)

    files = [write(tmp_path / "r", *(book(n) for n in range(100)))]
    feed, send = tt.ReplayFeed(files, math.inf), Sent()
    found = find_recordings(files)
    monkeypatch.setattr("trio_ticks.feeds.replay.find_recordings", lambda *_: found)
    monkeypatch.setattr(LineReader, "read_lines", reading)
    monkeypatch.setattr(LineDecoder, "decode", decoding)
    await feed.run(send)
    assert len(send.items) == 100
    assert threads["decode"] == {threading.get_ident()}
    assert threading.get_ident() not in threads["read"]


async def test_the_feed_does_not_wait_for_a_slow_disk_while_it_has_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It once awaited each piece, and the load was another one than live."""
    read_in_pieces(monkeypatch, 10)
    path = write(tmp_path / "r", *(book(n) for n in range(25)))
    blocked, go_on = threading.Event(), threading.Event()
    read = Track.read

    def reading(track: Track) -> Piece:
        if track.used >= 1:
            blocked.set()
            go_on.wait(30)
        return read(track)

    monkeypatch.setattr(Track, "read", reading)
    send = Sent()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tt.ReplayFeed(path, math.inf).run, send)
        with trio.fail_after(30):
            while not blocked.is_set() or len(send.items) < 9:  # noqa: ASYNC110  # a thread's
                await trio.sleep(0.001)  # a thread sets the event
        assert 9 <= len(send.items) < 25
        go_on.set()
    assert len(send.items) == 25


async def test_what_is_read_ahead_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_in_pieces(monkeypatch, 1)
    monkeypatch.setattr(timeline, "LINES", 10**6)
    monkeypatch.setattr(timeline, "BYTES", 1000)
    path = write(tmp_path / "r", *(book(n) for n in range(3000)))
    (file,) = find_recordings([path])
    track = Track(file)
    piece = track.read()
    assert 1000 <= sum(map(len, piece.lines)) < 1300
    assert not piece.last
    track.close()
    assert (await sent(path)).bids == [float(n) for n in range(3000)]


async def test_a_disk_that_fails_ends_the_replay_after_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "r", *(book(n) for n in range(50)))
    found = find_recordings([path])
    read_in_pieces(monkeypatch, 10)
    read, calls = LineReader.read_lines, list[int]()

    def failing(reader: LineReader) -> list[bytes] | None:
        calls.append(1)
        if len(calls) == 3:
            raise ConfigError("cannot read the recording")
        return read(reader)

    monkeypatch.setattr("trio_ticks.feeds.replay.find_recordings", lambda *_: found)
    monkeypatch.setattr(LineReader, "read_lines", failing)
    send = Sent()
    with pytest.raises(ConfigError, match="cannot read the recording"):
        await tt.ReplayFeed(path, math.inf).run(send)
    assert len(send.items) == 20


@pytest.mark.parametrize("lines", [1, 3, 1000])
async def test_pieces_of_any_size(
    tmp_path: Path, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_in_pieces(monkeypatch, lines)
    write(tmp_path / "a", *(book(n) for n in range(0, 100, 3)))
    write(tmp_path / "b", *(book(n) for n in range(1, 100, 3)), "junk", "")
    write(tmp_path / "c", *(book(n) for n in range(2, 100, 3)))
    feed, send = tt.ReplayFeed(tmp_path, math.inf), Sent()
    await feed.run(send)
    assert send.bids == [float(n) for n in range(100)]
    assert (feed.stats.messages, feed.stats.malformed, feed.stats.ignored) == (102, 1, 1)
    await feed.run(send)
    assert len(send.items) == 200


def test_a_timeline_without_trio(tmp_path: Path) -> None:
    with Timeline(find_recordings(hours(tmp_path))) as line:
        seen = []
        while not line.ended:
            next_ns = line.next_ns()
            if next_ns is None:
                if line.starved is not None:
                    line.starved.add(line.starved.read())
                continue
            seen += [item.bid for _, item in line.take(next_ns, 10)]
    assert seen == [float(n) for n in range(15)]


class Wrong(tt.Codec):
    """A codec that is wrong from the eighth message on."""

    def subscribe(self, symbols: Any, /) -> list[str | bytes]:
        self.seen = 0
        return []

    def decode(self, payloads: Any, /) -> Any:
        self.seen += 1
        return [Tick("A", T_ZERO, self.seen, 2, 0, 0, 0)] if self.seen < 8 else "no items"


async def test_a_codec_that_is_wrong_ends_it_after_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "r", *(f"{T0 + n} {{}}" for n in range(20)))
    monkeypatch.setattr("trio_ticks.feeds.captures.HEAD_LINES", 3)
    send = Sent()
    with pytest.raises(ConfigError, match="decode must return a list of items"):
        await tt.ReplayFeed(path, math.inf, venue=Wrong).run(send)
    assert send.bids == [1, 2, 3, 4, 5, 6, 7]


async def test_a_folder_of_the_recorder(tmp_path: Path) -> None:
    """Files of one run, one after another: their codec goes on in each."""
    ticks = [
        Tick("AB"[n % 2], datetime.fromtimestamp(1e9 + n / 1000, UTC), n, n + 1, 1, 1, 1)
        for n in range(3000)
    ]
    seen: list[Tick] = []

    async def handler(tick: Tick) -> None:
        seen.append(tick)

    async def paced() -> AsyncIterator[Tick]:
        for n, tick in enumerate(ticks):
            if n % 1000 == 0:
                await trio.sleep(0.06)
            yield tick

    recorder = tt.Recorder(tmp_path / "recorded", rotate_s=0.05)
    await tt.run_pipeline(
        tt.IterableFeed(paced()), handler, overflow=tt.Block(), ordering="none", record=recorder
    )
    assert sorted(seen, key=lambda tick: tick.bid) == ticks
    assert len(list((tmp_path / "recorded").rglob("*.*"))) > 1
    assert (await sent(tmp_path / "recorded")).items == ticks


# Lag on the recording's own clock


async def handle_nothing(_tick: Tick) -> None:
    return


async def test_lag_is_on_the_recordings_clock(tmp_path: Path) -> None:
    """It once was the age of the recording: 7e10 ms."""
    path = write(tmp_path / "r", *(book(n) for n in range(500)))
    report = await tt.run_pipeline(tt.ReplayFeed(path), handle_nothing)
    lag = report.processing_lag_ms
    assert lag.count > 0
    assert lag.max < 60_000
    assert lag.mean >= 0


@pytest.mark.parametrize("speed", [0.5, 1.0, 10.0])
async def test_what_a_blocked_feed_holds_back_has_an_age(
    tmp_path: Path, speed: float, autojump_clock: MockClock
) -> None:
    """Whatever the speed, lag is in seconds of this run."""
    path = write(tmp_path / "r", *(book(n * 10) for n in range(100)))

    async def slow(_tick: Tick) -> None:
        await trio.sleep(0.1)

    report = await tt.run_pipeline(
        tt.ReplayFeed(path, speed), slow, workers=1, maxsize=2, overflow=tt.Block()
    )
    lag = report.processing_lag_ms
    assert lag.count == 100
    assert lag.max == pytest.approx(99 * (100 - 10 / speed), rel=1e-6)


async def test_without_a_pace_there_is_no_lag(tmp_path: Path) -> None:
    path = write(tmp_path / "r", *(book(n) for n in range(100)))
    max_age = tt.MaxAge(1000, since="timestamp")
    report = await tt.run_pipeline(tt.ReplayFeed(path, math.inf), handle_nothing, max_age=max_age)
    assert report.consumed == 100
    assert report.processing_lag_ms.count == 0
    assert report.queue_wait_ms.count > 0


async def test_lag_of_live_stamps_is_on_the_wall_clock(tmp_path: Path) -> None:
    path = write(tmp_path / "r", *(book(n) for n in range(100)))
    feed = tt.ReplayFeed(path, 10, timestamps="now")
    report = await tt.run_pipeline(feed, handle_nothing)
    assert report.processing_lag_ms.count > 0
    assert abs(report.processing_lag_ms.max) < 60_000


async def test_ages_by_timestamp_go_by_the_recordings_clock(tmp_path: Path) -> None:
    path = write(tmp_path / "r", *(book(n) for n in range(300)))
    max_age = tt.MaxAge(30, since="timestamp")
    report = await tt.run_pipeline(tt.ReplayFeed(path, 3), handle_nothing, max_age=max_age)
    assert (report.consumed, report.dropped) == (300, 0)


# Told as of the past


async def test_handlers_know_that_they_are_replayed(tmp_path: Path) -> None:
    path = write(tmp_path / "r", *(book(n) for n in range(20)))
    told: list[bool] = []

    async def in_loop(_tick: Tick) -> None:
        told.append(tt.replaying())

    def in_thread(_tick: Tick) -> None:
        told.append(tt.replaying())

    for handler in (in_loop, in_thread):
        told.clear()
        async with tt.open_pipeline(tt.ReplayFeed(path, math.inf), handler) as pipeline:
            assert not tt.replaying()
            await pipeline.wait()
        assert told == [True] * 20
    told.clear()
    live = tt.IterableFeed([Tick("A", T_ZERO, 1, 2, 0, 0, 0)])
    await tt.run_pipeline(live, in_loop)
    assert told == [False]
    told.clear()
    other = tt.IterableFeed([Tick("A", T_ZERO, 1, 2, 0, 0, 0)])
    await tt.run_pipeline([other, tt.ReplayFeed(path, math.inf)], in_loop)
    assert told == [True] * 21


T_ZERO = datetime(1970, 1, 1, tzinfo=UTC)


async def test_worker_processes_know_it_too(tmp_path: Path) -> None:
    path = write(tmp_path / "r", *(book(n) for n in range(20)))
    results: list[Any] = []
    await tt.run_pipeline(
        tt.ReplayFeed(path, math.inf),
        is_replayed,
        executor="process",
        workers=1,
        results=lambda result: results.append(result.value),
    )
    assert results == [tt.Tick("Y", T_ZERO, 1, 2, 0, 0, 0)] * 20
    results.clear()
    await tt.run_pipeline(
        tt.IterableFeed([Tick("A", T_ZERO, 1, 2, 0, 0, 0)]),
        is_replayed,
        executor="process",
        workers=1,
        results=lambda result: results.append(result.value),
    )
    assert results == [tt.Tick("N", T_ZERO, 1, 2, 0, 0, 0)]


def is_replayed(_tick: Tick) -> Tick:
    return Tick("Y" if tt.replaying() else "N", T_ZERO, 1, 2, 0, 0, 0)
