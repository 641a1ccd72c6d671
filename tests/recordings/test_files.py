"""Recordings as files: their lines and times, and what is left of damaged ones."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.recordings import (
    COINBASE,
    KRAKEN,
    REAL,
    T0,
    book,
    needs_real,
    read_all,
    write,
)
from trio_ticks import ConfigError
from trio_ticks.recordings.files import LineReader, split_line


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording"


def read_lines(path: Path) -> tuple[list[bytes], LineReader]:
    with LineReader(path) as reader:
        return list(iter(reader.read, None)), reader


@pytest.mark.parametrize("compressed", [False, True])
def test_lines_come_in_order_without_the_space_around_them(path: Path, compressed: bool) -> None:
    write(path, "one", "", " two\r", "three", compressed=compressed)
    lines, reader = read_lines(path)
    assert lines == [b"one", b"", b"two", b"three"]
    assert reader.lines == 4
    assert not reader.truncated


def test_the_last_line_needs_no_end(path: Path) -> None:
    path.write_bytes(b"one\ntwo")
    assert read_lines(path)[0] == [b"one", b"two"]


@pytest.mark.parametrize("compressed", [False, True])
def test_rewinding_begins_anew_and_goes_on_counting(path: Path, compressed: bool) -> None:
    write(path, "one", "two", compressed=compressed)
    with LineReader(path) as reader:
        assert list(iter(reader.read, None)) == [b"one", b"two"]
        reader.rewind()
        assert reader.read() == b"one"
        assert reader.lines == 3


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"", (None, b"")),
        (b"message", (None, b"message")),
        (b"7 message", (7, b"message")),
        (b"%d a message" % T0, (T0, b"a message")),
        (b"7", (7, b"")),
        (b"1618677817.0208309: {}", (1_618_677_817_020_830_900, b"{}")),
        (b"1618677817.06: a: b", (1_618_677_817_060_000_000, b"a: b")),
        (b"1618677817: {}", (1_618_677_817_000_000_000, b"{}")),
        (b"1.1234567890123: {}", (1_123_456_789, b"{}")),
        (b'{"recv_ts_ns": 7, "payload": "{\\"a\\": 1}"}', (7, b'{"a": 1}')),
        (b'{"payload":"","recv_ts_ns":0}', (0, b"")),
        (b'{"recv_ts_ns": 7, "channel": "book"}', (7, b'{"recv_ts_ns": 7, "channel": "book"}')),
        (b'{"channel": "book"}', (None, b'{"channel": "book"}')),
        (b"wss://venue.test <-> 1618677816.8434298", (None, None)),
        (b'wss://venue.test/a?b <- 1618677817.02: {"type": "subscribe"}', (None, None)),
        (b"https://venue.test/book -> 1618677817.02: {}", (None, None)),
        (b"configuration: BTC-USD", (None, None)),
        (b"wss://venue.test <-> soon", (None, b"wss://venue.test <-> soon")),
    ],
)
def test_a_line_is_a_time_and_a_message(
    line: bytes, expected: tuple[int | None, bytes | None]
) -> None:
    assert split_line(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"7{}",
        b"7a message",
        b"7_0 message",
        b"1" * 20 + b" {}",
        b"1" * 5000,
        b"1" * 11 + b": {}",
        b"1.: {}",
        b"1.5 {}",
        b"1.5e3: {}",
        b'{"recv_ts_ns": -1, "payload": "{}"}',
        b'{"recv_ts_ns": %d, "payload": "{}"}' % 10**19,
    ],
)
def test_what_looks_like_a_time_and_is_none(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"time|invalid"):
        split_line(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"recv_ts_ns": "7", "payload": "{}"}',
        b'{"recv_ts_ns": 1e9, "payload": "{}"}',
        b'{"recv_ts_ns": true, "payload": "{}"}',
        b'{"recv_ts_ns": 7, "payload": {}}',
        b'{"recv_ts_ns": 7, "payload": "{}"',
        b'{"recv_ts_ns": 7, "payload": "\\ud800"}',
        b'{"a": {"recv_ts_ns": 7}}',
        b'{"recv_ts_ns": ' + b"[" * 100_000,
    ],
)
def test_an_envelope_that_makes_no_sense(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # of msgspec, or of the codec for UTF-8
        split_line(line)


HEADS = [b"", b"7 ", b"7.5: ", b'{"recv_ts_ns": 7, "payload": "', b"wss://a <- ", b"wss://a <-> 1"]


@given(st.sampled_from(HEADS), st.binary(max_size=60))
def test_any_line_has_a_message_or_is_an_error(head: bytes, rest: bytes) -> None:
    try:
        received, message = split_line(head + rest)
    except ValueError:
        return
    assert received is None or 0 <= received < 10**19
    if message is not None and b"payload" not in head:
        assert (head + rest).endswith(message)


@needs_real
@pytest.mark.parametrize(
    ("path", "received", "notes"), [(REAL, 41_249, 0), (COINBASE, 9_946, 4), (KRAKEN, 50, 0)]
)
def test_the_lines_of_real_recordings(path: Path, received: int, notes: int) -> None:
    lines, _ = read_lines(path)
    split = [split_line(line) for line in lines if line]
    assert len([message for _, message in split if message is None]) == notes
    times = [ns for ns, _ in split if ns is not None]
    assert len(times) == received == len(split) - notes
    assert all(before <= after for before, after in pairwise(times))
    assert times[-1] - times[0] < 3600 * 10**9
    assert all(message.startswith(b"{") for _, message in split if message is not None)


def test_lines_without_an_end_do_not_fill_the_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_ticks.recordings.files.MAX_LINE", 1000)
    path.write_bytes(b"x" * 10_500 + b"\n" + book(1).encode())
    quotes, reader = read_all(path)
    assert len(quotes) == 1
    assert reader.malformed == 11


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_archive_is_read_as_far_as_it_goes(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, *(book(n) for n in range(20_000)), compressed=True)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 : len(data) // 2 + 200] = os.urandom(200)
    path.write_bytes(data)
    quotes, reader = read_all(path)
    assert 100 < len(quotes) <= 20_000
    assert reader.truncated
    assert [record.message.partition(" ")[0] for record in caplog.records] == ["capture.truncated"]


def test_what_is_no_regular_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a regular file"):
        LineReader(tmp_path)
    with pytest.raises(ConfigError, match="nowhere"):
        LineReader(tmp_path / "nowhere")
