"""The recorder: what is in its files, and what becomes of what it cannot write."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.recorded import (
    about,
    all_lines,
    events_of,
    messages_of,
    recorder_clock,
    the_files,
    wait_for,
)
from tests.worlds.recordings import T0
from trio_ticks import ConfigError, Recorder
from trio_ticks.clock import Clock
from trio_ticks.logs import Redactor
from trio_ticks.recordings import feed_files, growing
from trio_ticks.recordings.batches import Batch, lines_of
from trio_ticks.recordings.files import MAX_LINE, split_line
from trio_ticks.recordings.growing import is_growing
from trio_ticks.recordings.taps import FeedTap

NO_SPACE = OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a frame every 20 ms, so that no test waits for a second."""
    monkeypatch.setattr("trio_ticks.recordings.recorder.FRAME_S", 0.02)


@contextmanager
def recording(recorder: Recorder, clock: Clock, **fields: Any) -> Iterator[FeedTap]:
    recorder.begin(clock)
    try:
        yield recorder.tap(about(**fields))
    finally:
        recorder.end()


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_messages_are_in_a_file_with_their_times(tmp_path: Path, compression: Any) -> None:
    clock, move = recorder_clock()
    recorder = Recorder(tmp_path / "new" / "folder", compression=compression)
    with recording(recorder, clock) as tap:
        tap.messages(1, [b'{"n":1}', b'{"n":2}'])
        move(0.25)
        tap.messages(1, [b'{"n":3}'])
    (path,) = the_files(tmp_path / "new" / "folder")
    suffix = {"zstd": ".zst", "gzip": ".gz"}[compression]
    assert path.name == f"binance-20240808T235414.000000Z{suffix}"
    assert messages_of(path) == [
        (T0, b'{"n":1}'),
        (T0, b'{"n":2}'),
        (T0 + 250_000_000, b'{"n":3}'),
    ]
    assert events_of(path)[-1] == ("closed", {"messages": 3})
    assert not is_growing(path)
    numbers = recorder.statistics()
    assert (numbers.messages, numbers.files, numbers.dropped, numbers.errors) == (3, 1, 0, 0)
    assert numbers.written_bytes > 0
    assert numbers.waiting_bytes == 0
    assert numbers.file == str(path)


def test_files_and_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with recording(Recorder(tmp_path / "new"), recorder_clock()[0]) as tap:
            tap.messages(1, [b"{}"])
    finally:
        os.umask(before)
    (path,) = the_files(tmp_path / "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_first_line_says_what_it_is(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "feed": "my feed/../2",
        "url": "wss://venue.test/s3cret-path",
        "channels": ("trade",),
        "symbols": {"BTCUSDT": "btc"},
        "redactor": Redactor(["s3cret"]),
    }
    with recording(Recorder(tmp_path), recorder_clock()[0], **fields) as tap:
        tap.event("opened", connection=1)
    (path,) = the_files(tmp_path)
    assert path.name.startswith("my_feed_.._2-2024")
    word, facts = events_of(path)[0]
    assert word == "recording"
    assert facts.pop("run")
    assert facts.pop("by").startswith("trio_ticks ")
    assert facts == {
        "version": 1,
        "feed": "my feed/../2",
        "venue": "binance",
        "url": "wss://venue.test/***-path",
        "channels": ["trade"],
        "symbols": {"BTCUSDT": "btc"},
        "part": 1,
    }


def test_a_new_hour_begins_a_new_file(tmp_path: Path) -> None:
    clock, move = recorder_clock()
    recorder = Recorder(tmp_path)
    with recording(recorder, clock, symbols={"A": "A"}) as tap:
        for n in range(4):
            tap.messages(2, [b'{"n":%d}' % n])
            if n == 1:
                tap.event("subscribed", symbols={"B": "b"})
            move(180)
    first, second = the_files(tmp_path)
    assert [message for _, message in messages_of(first)] == [b'{"n":0}', b'{"n":1}']
    assert [message for _, message in messages_of(second)] == [b'{"n":2}', b'{"n":3}']
    assert [word for word, _ in events_of(first)] == [
        "recording",
        "connection",
        "subscribed",
        "closed",
    ]
    assert [word for word, _ in events_of(second)] == ["recording", "connection", "closed"]
    heads = [events_of(path)[0][1] for path in (first, second)]
    assert heads[0]["run"] == heads[1]["run"]
    assert [head["part"] for head in heads] == [1, 2]
    assert [head["symbols"] for head in heads] == [{"A": "A"}, {"A": "A", "B": "b"}]
    assert recorder.statistics().files == 2


def test_a_large_file_is_followed_by_another(tmp_path: Path) -> None:
    clock, move = recorder_clock()
    recorder = Recorder(tmp_path, max_bytes=4096)
    sent = []
    with recording(recorder, clock) as tap:
        for _ in range(6):
            sent.append(os.urandom(3000).hex().encode())
            tap.messages(1, sent[-1:])
            written = len(sent)
            wait_for(lambda written=written: recorder.statistics().messages == written)
            move(0.01)
    files = the_files(tmp_path)
    assert len(files) == 3
    assert [message for path in files for _, message in messages_of(path)] == sent


def test_a_restart_in_the_same_moment_leaves_the_old_file_alone(tmp_path: Path) -> None:
    for n in range(3):
        with recording(Recorder(tmp_path), recorder_clock()[0]) as tap:
            tap.messages(1, [b'{"n":%d}' % n])
    files = the_files(tmp_path)
    assert len(files) == 3
    assert [messages_of(path) for path in files] == [[(T0, b'{"n":%d}' % n)] for n in range(3)]


def test_each_feed_has_its_own_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.begin(recorder_clock()[0])
    taps = [recorder.tap(about(name)) for name in ("a", "b")]
    for tap in taps:
        tap.messages(1, [tap.about.feed.encode()])
    recorder.end()
    assert [messages_of(path) for path in the_files(tmp_path)] == [[(T0, b"a")], [(T0, b"b")]]


def test_nothing_came_so_there_is_no_file(tmp_path: Path) -> None:
    with recording(Recorder(tmp_path), recorder_clock()[0]):
        pass
    assert the_files(tmp_path) == []


def test_a_growing_file_can_be_told_and_read(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    with recording(recorder, recorder_clock()[0]) as tap:
        tap.messages(1, [b"{}"])
        wait_for(lambda: recorder.statistics().messages)
        (path,) = the_files(tmp_path)
        assert is_growing(path)
        assert messages_of(path) == [(T0, b"{}")]
        assert not all_lines(path)[1].truncated
    assert not is_growing(path)


# What a message may hold


MESSAGES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"#", b"#opened {}", b"#b64 eA==", b"a\nb", b"\n", b"", b"x #y", b"\r\n"]),
    ),
    min_size=1,
    max_size=5,
)


@given(MESSAGES)
def test_any_message_comes_back(messages: list[bytes]) -> None:
    made = lines_of(Batch(0.0, 0, 1, messages), T0, None, lambda _: ([], 0))
    assert (made.messages, made.left_out) == (len(messages), 0)
    lines = made.data.split(b"\n")
    assert lines.pop() == b""
    # White space at the end of a message that is a line of its own is not kept.
    found = [split_line(line.strip()) for line in lines]
    assert [ns for ns, _ in found] == [T0] * len(messages)
    for (_, message), sent in zip(found, messages, strict=True):
        assert message in (sent, sent.rstrip())


def test_what_is_too_long_for_a_line_is_left_out_and_told(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    with recording(recorder, recorder_clock()[0]) as tap:
        tap.messages(1, [b"before"])
        tap.messages(1, [b"x" * MAX_LINE, b"\n" * (MAX_LINE * 3 // 4), b"between"])
        tap.messages(1, [b"after"])
    (path,) = the_files(tmp_path)
    assert [message for _, message in messages_of(path)] == [b"before", b"between", b"after"]
    assert ("dropped", {"messages": 2, "reason": "cannot be written"}) in events_of(path)
    assert recorder.statistics().dropped == 2


@pytest.mark.parametrize(
    "spelt", [b"k3y-of/mine", b"k3y-of\\/mine", b"\\u006b3y-of/mine", b"%6b3y-of/mine"]
)
def test_a_secret_that_the_venue_repeats_is_masked(tmp_path: Path, spelt: bytes) -> None:
    messages = [b'{"ok":1}', b'{"error":"bad key ' + spelt + b'"}', b"\xff\n" + spelt]
    with recording(
        Recorder(tmp_path), recorder_clock()[0], redactor=Redactor(["k3y-of/mine"])
    ) as tap:
        tap.messages(1, messages)
    (path,) = the_files(tmp_path)
    assert [message for _, message in messages_of(path)] == [
        b'{"ok":1}',
        b'{"error":"bad key ***"}',
        b"\xff\n***",
    ]


# Times


def test_times_never_go_back_and_steps_are_told(tmp_path: Path) -> None:
    now, steps = [0.0], [0.0]

    class Stepping(Clock):  # type: ignore[misc]
        def step_s(self) -> float:
            return steps[0]

    recorder = Recorder(tmp_path)
    clock = Stepping(lambda: now[0], T0 / 1e9)
    with recording(recorder, clock) as tap:
        for step in (0.0, 5.0, -20.0, 7.0, 7.01):
            steps[0] = step
            time.sleep(0.2)  # the thread looks meanwhile
            now[0] += 1.0
            tap.messages(1, [b"{}"])
            written = recorder.statistics().messages
            wait_for(lambda written=written: recorder.statistics().messages > written)
    (path,) = the_files(tmp_path)
    times = [ns for ns, _ in messages_of(path)]
    assert [ns - T0 for ns in times] == [n * 10**9 for n in (1, 7, 8, 11, 12)]
    clocks = [facts for word, facts in events_of(path) if word == "clock"]
    assert clocks == [
        {"step_s": 5.0, "followed": True},
        {"step_s": -25.0, "followed": False},
        {"step_s": 27.0, "followed": True},
    ]
    every = [split_line(line)[0] or 0 for line in all_lines(path)[0]]
    assert all(before <= after for before, after in pairwise(every))


# A disk that is slow, full or gone


class Gate:
    """Holds up what is written to files, or lets it fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        self.error: OSError | None = None
        self.waiting = threading.Event()
        write = os.write

        def gated(file: int, data: Any) -> int:
            self.waiting.set()
            assert self.open.wait(20)
            if self.error is not None:
                # A full disk takes a part first.
                if len(data) > 10 and self.error.errno == 28:
                    return write(file, bytes(data[:10]))
                raise self.error
            return write(file, data)

        monkeypatch.setattr("os.write", gated)


def test_a_slow_disk_costs_what_the_buffer_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    recorder = Recorder(tmp_path, buffer_bytes=2**20)
    with recording(recorder, recorder_clock()[0]) as tap:
        gate.open.clear()
        tap.messages(1, [b"first"])
        assert gate.waiting.wait(5)
        for n in range(40):
            tap.messages(1, [b"%02d" % n + bytes(49_998)])
        assert recorder.statistics().dropped == 20
        assert recorder.statistics().waiting_bytes <= 2**20
        tap.event("lost", connection=1, reason="an event has room still")
        gate.open.set()
        wait_for(lambda: recorder.statistics().messages == 21)
        tap.messages(1, [b"last"])
    (path,) = the_files(tmp_path)
    found = [message[:5].rstrip(b"\0") for _, message in messages_of(path)]
    assert found == [b"first", *(b"%02d" % n for n in range(20)), b"last"]
    words = [word for word, _ in events_of(path)]
    assert words == ["recording", "dropped", "lost", "closed"]
    assert events_of(path)[1][1] == {"messages": 20, "reason": "buffer"}


@pytest.mark.parametrize("code", [28, 5])
def test_a_full_disk_costs_nothing_that_the_buffer_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(monkeypatch)
    recorder = Recorder(tmp_path)
    with recording(recorder, recorder_clock()[0]) as tap:
        tap.messages(1, [b"before"])
        wait_for(lambda: recorder.statistics().messages == 1)
        (path,) = the_files(tmp_path)
        size = path.stat().st_size
        gate.error = OSError(code, os.strerror(code))
        tap.messages(1, [b"while it is full"])
        wait_for(lambda: recorder.statistics().failing)
        tap.messages(1, [b"and a little later"])
        numbers = recorder.statistics()
        assert (numbers.errors > 0, numbers.messages, numbers.dropped) == (True, 1, 0)
        assert numbers.last_error == os.strerror(code)
        assert path.stat().st_size == size
        gate.error = None
        wait_for(lambda: recorder.statistics().messages == 3)
        assert not recorder.statistics().failing
    assert [message for _, message in messages_of(path)] == [
        b"before",
        b"while it is full",
        b"and a little later",
    ]
    assert not all_lines(path)[1].truncated
    names = [each.event for each in caplog.records]  # type: ignore[attr-defined]
    assert names == ["recorder.failed", "recorder.well"]


def test_a_disk_that_stays_full_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    recorder = Recorder(tmp_path)
    with recording(recorder, recorder_clock()[0]) as tap:
        tap.messages(1, [b"before"])
        wait_for(lambda: recorder.statistics().messages == 1)
        gate.error = NO_SPACE
        tap.messages(1, [b"lost", b"lost too"])
    assert recorder.statistics().dropped == 2
    assert recorder.statistics().waiting_bytes == 0
    (path,) = the_files(tmp_path)
    assert [message for _, message in messages_of(path)] == [b"before"]
    assert [word for word, _ in events_of(path)] == ["recording"]
    assert not is_growing(path)


def test_what_the_end_of_a_full_disk_costs_is_told_in_the_file_if_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(tmp_path)
    append = growing.OutFile.append

    def almost_full(file: growing.OutFile, frame: bytes) -> None:
        if len(frame) > 1000:
            raise NO_SPACE
        append(file, frame)

    monkeypatch.setattr(growing.OutFile, "append", almost_full)
    with recording(recorder, recorder_clock()[0]) as tap:
        tap.messages(1, [os.urandom(1000).hex().encode(), b"{}"])
    (path,) = the_files(tmp_path)
    assert events_of(path)[1:] == [
        ("dropped", {"messages": 2, "reason": "No space left on device"}),
        ("closed", {"messages": 0}),
    ]


def test_a_folder_that_goes_away_is_an_error_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, _ = recorder_clock()
    folder = tmp_path / "folder"
    recorder = Recorder(folder, rotate_s=1)
    with recording(recorder, clock) as tap:
        folder.rmdir()
        tap.messages(1, [b"kept"])
        wait_for(lambda: recorder.statistics().failing)
        folder.mkdir()
        wait_for(lambda: recorder.statistics().messages == 1)
    (path,) = the_files(folder)
    assert messages_of(path) == [(T0, b"kept")]


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no file that is open")
@pytest.mark.parametrize("with_folder", [False, True])
def test_what_comes_after_a_file_was_deleted_is_in_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, with_folder: bool
) -> None:
    clock, move = recorder_clock()
    folder = tmp_path / "folder"
    recorder = Recorder(folder)
    with recording(recorder, clock) as tap:
        tap.messages(2, [b"deleted"])
        wait_for(lambda: recorder.statistics().messages == 1)
        (path,) = the_files(folder)
        move(1)
        path.unlink()
        if with_folder:
            folder.rmdir()
        tap.messages(2, [b"kept"])
        if with_folder:
            wait_for(lambda: recorder.statistics().failing)
            tap.messages(3, [b"kept, too"])
            folder.mkdir()
        wait_for(lambda: recorder.statistics().messages == 2 + with_folder)
        assert not recorder.statistics().failing
    (path,) = the_files(folder)
    kept = [b"kept", b"kept, too"][: 1 + with_folder]
    assert messages_of(path) == [(T0 + 10**9, message) for message in kept]
    events = events_of(path)
    assert events[0][1]["part"] == 2
    connections = [facts["connection"] for word, facts in events if word == "connection"]
    assert connections == [2, 3][: 1 + with_folder]
    assert recorder.statistics().dropped == 0
    assert recorder.statistics().waiting_bytes == 0
    names = [each.event for each in caplog.records]  # type: ignore[attr-defined]
    assert names.count("recorder.deleted") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no file that is open")
def test_what_a_folder_that_stays_away_costs_is_counted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "folder")
    with recording(recorder, recorder_clock()[0]) as tap:
        tap.messages(1, [b"deleted"])
        wait_for(lambda: recorder.statistics().messages == 1)
        shutil.rmtree(tmp_path / "folder")
        tap.messages(1, [b"lost", b"lost too"])
        wait_for(lambda: recorder.statistics().failing)
        tap.messages(1, [b"and this"])
    assert recorder.statistics().dropped == 3
    assert recorder.statistics().waiting_bytes == 0


def test_a_mistake_in_the_thread_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def crash(*_arguments: object) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        return lines_of(*_arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(feed_files, "lines_of", crash)
    recorder = Recorder(tmp_path)
    with recording(recorder, recorder_clock()[0]) as tap:
        tap.messages(1, [b"lost"])
        wait_for(lambda: calls)
        tap.messages(1, [b"kept"])
    (path,) = the_files(tmp_path)
    assert messages_of(path) == [(T0, b"kept")]
    assert "recorder.crashed" in [each.event for each in caplog.records]  # type: ignore[attr-defined]
    assert recorder.statistics().dropped == 1


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotate_s": 0}, "rotate_s"),
        ({"max_bytes": 10}, "max_bytes"),
        ({"buffer_bytes": 10}, "buffer_bytes"),
        ({"compression": "lz4"}, "compression"),
        ({"sync": 1}, "sync"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recorder(tmp_path, **settings)


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        Recorder(tmp_path / "file" / "in it").begin(recorder_clock()[0])


def test_it_serves_one_pipeline_at_a_time(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, sync=True)
    for n in range(2):
        with recording(recorder, recorder_clock()[0]) as tap:
            tap.messages(1, [b"{}"])
            with pytest.raises(ConfigError, match="another pipeline"):
                recorder.begin(recorder_clock()[0])
        assert recorder.statistics().messages == n + 1
    assert "Recorder" in repr(recorder)


def test_without_zstd_it_is_gzip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("growing", "zstd"):
        monkeypatch.setattr(f"trio_ticks.recordings.{module}.find_zstd", lambda: None)
    assert Recorder(tmp_path).compression == "gzip"
    with pytest.raises(ConfigError, match=r"trio-ticks\[record\]"):
        Recorder(tmp_path, compression="zstd")


def test_what_is_written_is_json_for_others(tmp_path: Path) -> None:
    with recording(Recorder(tmp_path), recorder_clock()[0]) as tap:
        tap.messages(1, [b'{"n":1}'])
    (path,) = the_files(tmp_path)
    (line,) = (line for line in all_lines(path)[0] if b" #" not in line)
    ns, _, message = line.partition(b" ")
    assert int(ns) == T0
    assert json.loads(message) == {"n": 1}
