"""Compressed recordings, frame by frame: what is read of them when they are damaged."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from tests.worlds.recorded import HEAD, all_lines, frames_of, write_frames
from tests.worlds.recordings import T0
from trio_ticks import ConfigError
from trio_ticks.recordings import zstd
from trio_ticks.recordings.files import LineReader
from trio_ticks.recordings.growing import Compression

BOTH: list[Compression] = ["zstd", "gzip"]
DAMAGED = b'#damaged {"bytes":%d}'


def second(number: int, lines: int = 50) -> bytes:
    """Make the lines of one second, which no compressor makes very small."""
    dice = random.Random(number)
    return b"".join(
        b'%d {"second":%d,"n":%d,"x":"%x"}\n'
        % (T0 + number * 10**9 + n, number, n, dice.getrandbits(200))
        for n in range(lines)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording"


def seconds_in(lines: list[bytes]) -> list[int]:
    """Return which seconds are there, each with all of its lines and in order."""
    found = [line for line in lines if b'"second"' in line]
    numbers = sorted({int(line.partition(b'"second":')[2].partition(b",")[0]) for line in found})
    assert found == [line for number in numbers for line in second(number).splitlines()]
    return numbers


@pytest.mark.parametrize("compression", BOTH)
def test_all_frames_are_read(path: Path, compression: Compression) -> None:
    write_frames(path, *frames_of([HEAD, *(second(n) for n in range(20))], compression))
    lines, reader = all_lines(path)
    assert seconds_in(lines) == list(range(20))
    assert reader.lines == 1001
    assert not reader.truncated
    assert (reader.damages, reader.lost_bytes) == (0, 0)


@pytest.mark.parametrize("compression", BOTH)
def test_a_flipped_bit_costs_its_second(path: Path, compression: Compression) -> None:
    frames = frames_of([HEAD, *(second(n) for n in range(5))], compression)
    begin = len(b"".join(frames[:3]))
    whole = b"".join(frames)
    step = max(1, len(frames[3]) // 150)
    for at in range(begin, begin + len(frames[3]), step):
        for bit in (0, 7):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            lines, reader = all_lines(path)
            found = seconds_in(lines)
            # A bit of a header that nothing depends on does no harm.
            assert found in ([0, 1, 3, 4], [0, 1, 2, 3, 4]), (at - begin, bit)
            assert not reader.truncated
            if len(found) == 4:
                assert lines[101] == DAMAGED % len(frames[3])
                assert (reader.damages, reader.lost_bytes) == (1, len(frames[3]))


@pytest.mark.parametrize("compression", BOTH)
def test_a_torn_file_is_read_up_to_its_last_whole_second(
    path: Path, compression: Compression, caplog: pytest.LogCaptureFixture
) -> None:
    frames = frames_of([HEAD, *(second(n) for n in range(3))], compression)
    whole = b"".join(frames)
    for length in range(len(whole) - len(frames[-1]) + 1, len(whole), 97):
        caplog.clear()
        path.write_bytes(whole[:length])
        lines, reader = all_lines(path)
        assert seconds_in(lines) == [0, 1]
        assert reader.truncated
        assert [each.event for each in caplog.records] == ["capture.truncated"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("compression", BOTH)
@pytest.mark.parametrize("rest", [bytes(4096), b"no frame at all" * 100])
def test_what_is_no_frame_at_the_end_costs_nothing_else(
    path: Path, compression: Compression, rest: bytes
) -> None:
    write_frames(path, *frames_of([HEAD, second(0), second(1)], compression), rest)
    lines, reader = all_lines(path)
    assert seconds_in(lines) == [0, 1]
    assert reader.truncated
    assert reader.lost_bytes == len(rest)


@pytest.mark.parametrize("compression", BOTH)
def test_a_stretch_of_junk_is_skipped_and_told_once(
    path: Path, compression: Compression, caplog: pytest.LogCaptureFixture
) -> None:
    frames = frames_of([HEAD, *(second(n) for n in range(6))], compression)
    junk = random.Random(1).randbytes(600_000)
    write_frames(path, *frames[:2], junk, *frames[2:4], junk[:1000], *frames[4:])
    lines, reader = all_lines(path)
    assert seconds_in(lines) == list(range(6))
    assert lines.count(DAMAGED % 600_000) == lines.count(DAMAGED % 1000) == 1
    assert reader.damages == 2
    assert [each.event for each in caplog.records] == ["capture.damaged"]  # type: ignore[attr-defined]


def test_a_frame_of_another_program_may_be_large(path: Path) -> None:
    data = b"".join(second(n, 1000) for n in range(250))
    assert len(data) > 2**24
    path.write_bytes(zstd.load_zstd("a test").compress(data))
    lines, reader = all_lines(path)
    assert lines == data.splitlines()
    assert not reader.truncated


def test_a_torn_frame_of_another_program_is_read_as_far_as_it_goes(path: Path) -> None:
    data = b"".join(second(n, 1000) for n in range(50))
    whole = zstd.load_zstd("a test").compress(data)
    path.write_bytes(whole[: len(whole) * 3 // 4])
    lines, reader = all_lines(path)
    assert 25_000 < len(lines) < 50_000
    assert lines[:-1] == data.splitlines()[: len(lines) - 1]
    assert reader.truncated


def test_frames_without_data_are_passed_over(path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + b"whatever"
    write_frames(path, skippable, *frames_of([HEAD, second(0)]), skippable, *frames_of([second(1)]))
    lines, reader = all_lines(path)
    assert seconds_in(lines) == [0, 1]
    assert not reader.truncated


def test_a_line_may_lie_in_two_frames(path: Path) -> None:
    data = second(0)
    write_frames(path, gzip.compress(data[:1000]), gzip.compress(data[1000:]))
    assert seconds_in(all_lines(path)[0]) == [0]


def test_without_zstd_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_frames(path, *frames_of([HEAD]))
    monkeypatch.setattr("trio_ticks.recordings.zstd.find_zstd", lambda: None)
    with pytest.raises(ConfigError, match=r"trio-ticks\[record\]"):
        LineReader(path)


def test_lines_by_the_block_are_the_same_lines(path: Path) -> None:
    write_frames(path, *frames_of([HEAD, second(0), second(1)]))
    with LineReader(path) as reader:
        blocks = list(iter(reader.read_lines, None))
    assert [line for block in blocks for line in block] == all_lines(path)[0]
    assert reader.lines == 101
