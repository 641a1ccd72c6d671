"""What the tests of the recorder share: files made of frames, and what is in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.worlds.recordings import T0
from trio_ticks.clock import Clock
from trio_ticks.feeds.recorded_items import encode_items
from trio_ticks.recordings.events import facts_of, read_event
from trio_ticks.recordings.files import LineReader, split_line
from trio_ticks.recordings.growing import Compression, compressor_of
from trio_ticks.recordings.taps import About

__all__ = [
    "HEAD",
    "about",
    "all_lines",
    "events_of",
    "frames_of",
    "messages_of",
    "recorder_clock",
    "the_files",
    "wait_for",
    "write_frames",
]

HEAD = b'%d #recording {"version":1,"venue":"binance","run":"a","part":1,"symbols":null}\n' % T0


def about(feed: str = "binance", **fields: Any) -> About:
    return About(**{"feed": feed, "venue": "binance", "encode": encode_items, **fields})


def frames_of(pieces: Iterable[bytes], compression: Compression = "zstd") -> list[bytes]:
    """Compress each of *pieces* to a frame of its own."""
    _, compress = compressor_of(compression)
    return [compress(piece) for piece in pieces]


def write_frames(path: Path, *frames: bytes) -> Path:
    path.write_bytes(b"".join(frames))
    return path


def all_lines(path: Path) -> tuple[list[bytes], LineReader]:
    with LineReader(path) as reader:
        return list(iter(reader.read, None)), reader


def events_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    events = (read_event(line) for line in all_lines(path)[0])
    return [(event[0], facts_of(event[1])) for event in events if event is not None]


def messages_of(path: Path) -> list[tuple[int, bytes]]:
    """Return the messages in the file at *path*, each with its time."""
    found = []
    for line in all_lines(path)[0]:
        ns, message = split_line(line)
        if message is not None:
            assert ns is not None
            found.append((ns, message))
    return found


def the_files(folder: Path) -> list[Path]:
    """Return the files in *folder*, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.is_file())


def recorder_clock(wall_s: float = T0 / 1e9) -> tuple[Clock, Callable[[float], None]]:
    """Return a clock that stands still, and what moves it by so many seconds."""
    now = [0.0]

    def move(seconds: float) -> None:
        now[0] += seconds

    return Clock(lambda: now[0], wall_s), move


def wait_for(condition: Callable[..., object], within_s: float = 10.0) -> None:
    """Wait in a thread's way until *condition* holds."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
