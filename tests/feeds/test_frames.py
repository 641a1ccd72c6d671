"""The frame parser: whatever is sent, in whatever pieces it comes."""

from __future__ import annotations

import ast
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection

from tests.fuzz.oracle import check_against_wsproto, check_splits, parse
from tests.worlds.frame_wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    LIMIT,
    PING,
    PONG,
    TEXT,
    VIOLATIONS,
    close_of,
    frame,
)
from trio_ticks.feeds.websocket import frames
from trio_ticks.feeds.websocket.frames import CloseReason, FrameParser, close_frame


def stretched(size: int, pattern: bytes) -> bytes:
    return (pattern * (size // len(pattern) + 1))[:size]


# The sizes at which the header changes, and their neighbours. Big ones only for
# messages of a single fragment: more fragments make no new cases.
small = st.builds(
    stretched,
    st.sampled_from([0, 1, 2, 3, 4, 124, 125, 126, 127, 200]),
    st.binary(min_size=1, max_size=9),
)
large = st.builds(
    stretched, st.sampled_from([65534, 65535, 65536, 65537]), st.binary(min_size=1, max_size=9)
)
controls = st.builds(frame, st.sampled_from([PING, PONG]), st.binary(max_size=125))
codes = st.sampled_from(
    [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013]
) | st.integers(3000, 4999)
closes = st.just(frame(CLOSE)) | st.builds(close_of, codes, st.text(max_size=30))
places = st.lists(st.integers(0, 2**32), max_size=12)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes], list[bytes]]:
    """What a server may send; the messages in it; the control frames in it."""
    wire: list[bytes] = []
    messages: list[bytes] = []
    all_controls: list[bytes] = []

    def some_controls() -> None:
        found = draw(st.lists(controls, max_size=2))
        wire.extend(found)
        all_controls.extend(found)

    for _ in range(draw(st.integers(0, 6))):
        some_controls()
        fragments = draw(
            st.lists(small, min_size=1, max_size=4) | st.lists(large, min_size=1, max_size=1)
        )
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        for fragment in fragments[:-1]:
            wire.append(frame(opcode, fragment, final=False))
            some_controls()
            opcode = CONTINUATION
        wire.append(frame(opcode, fragments[-1]))
        messages.append(b"".join(fragments))
    some_controls()
    if draw(st.booleans()):
        close = draw(closes)
        all_controls.append(close)
        wire += [close, draw(st.binary(max_size=20))]  # what follows a Close frame is not looked at
    return b"".join(wire), messages, all_controls


@given(streams(), places)
def test_any_split_of_any_valid_stream(
    stream: tuple[bytes, list[bytes], list[bytes]], cuts: list[int]
) -> None:
    wire, messages, control_frames = stream
    parsed = check_splits(wire, cuts, LIMIT)
    assert parsed.messages == messages
    assert parsed.controls == control_frames
    assert parsed.violation is None
    assert parsed.idle


@given(streams())
def test_byte_by_byte(stream: tuple[bytes, list[bytes], list[bytes]]) -> None:
    wire, messages, control_frames = stream
    parsed = parse([wire[n : n + 1] for n in range(len(wire))])
    assert (parsed.messages, parsed.controls) == (messages, control_frames)


# Bytes that make sense at the beginning of a frame come more often than by chance.
likely = st.sampled_from(
    [
        b"\x81",
        b"\x82",
        b"\x01",
        b"\x80",
        b"\x00",
        b"\x88",
        b"\x89",
        b"\x8a",
        b"\x00",
        b"\x7d",
        b"\x7e\x00",
        b"\x7e\x01\x00",
        b"\x7f" + bytes(5),
    ]
)
noise = st.binary(max_size=400) | st.builds(
    b"".join, st.lists(likely | st.binary(max_size=4), max_size=60)
)


@given(noise, places, st.sampled_from([1, 5, 125, 126, 300, LIMIT]))
@example(b"\x81\x00\x81", [], 1)
def test_any_bytes_in_any_pieces(data: bytes, cuts: list[int], limit: int) -> None:
    check_splits(data, cuts, limit)
    check_against_wsproto(data)


@given(
    streams(), st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 255)), max_size=3), places
)
def test_damaged_streams(
    stream: tuple[bytes, list[bytes], list[bytes]], damage: list[tuple[int, int]], cuts: list[int]
) -> None:
    data = bytearray(stream[0])
    for place, value in damage:
        if data:
            data[place % len(data)] = value
    check_splits(bytes(data), cuts, LIMIT)
    check_against_wsproto(bytes(data))


@pytest.mark.parametrize("name", VIOLATIONS)
@pytest.mark.parametrize("step", [1, 7, 10**9])
def test_violations(name: str, step: int) -> None:
    wire, code = VIOLATIONS[name]
    data = (
        frame(TEXT, b"one")
        + frame(PING, b"?")
        + frame(BINARY, b"two")
        + wire
        + frame(TEXT, b"never")
    )
    parsed = parse([data[n : n + step] for n in range(0, len(data), step)], LIMIT)
    assert parsed.violation is not None
    assert parsed.violation.code == code
    assert parsed.messages == [b"one", b"two"]
    assert parsed.controls == [frame(PING, b"?")]
    assert len(parsed.violation.reason.encode()) <= 123


@pytest.mark.parametrize(
    "name", [name for name, (_wire, code) in VIOLATIONS.items() if code != 1009]
)
def test_wsproto_agrees_on_violations(name: str) -> None:
    check_against_wsproto(frame(TEXT, b"one") + VIOLATIONS[name][0])


@given(codes, st.text(max_size=40))
def test_wsproto_takes_every_close_frame_that_is_passed_on(code: int, reason: str) -> None:
    # It would not answer one it refuses.
    for wire in (frame(CLOSE), close_of(code, reason)):
        parser = FrameParser(max_message_size=1)
        assert parser.feed(wire) == ([], [wire])
        assert parser.closed == (
            CloseReason(code, reason) if len(wire) > 2 else CloseReason(1005, "")
        )
        theirs = Connection(ConnectionType.CLIENT)
        theirs.receive_data(wire)
        (event,) = theirs.events()
        assert isinstance(event, CloseConnection)
        assert theirs.state is ConnectionState.REMOTE_CLOSING


@given(st.text(max_size=200))
def test_close_frames_of_our_own(reason: str) -> None:
    parser = FrameParser(max_message_size=1)
    parser.feed(close_frame(1009, reason))
    assert parser.closed is not None
    assert parser.closed.code == 1009
    assert reason.startswith(parser.closed.reason)
    assert (
        len(reason.encode()) - len(parser.closed.reason.encode()) < 4
        or len(parser.closed.reason.encode()) > 119
    )


def test_wsproto_waits_for_the_longest_last_fragment_too() -> None:
    wire = (
        frame(BINARY, b"begun", final=False)
        + b"\x80\x7f"
        + (2**63 - 1).to_bytes(8, "big")
        + b"and so on"
    )
    check_against_wsproto(wire)
    assert check_splits(wire, [3, 12]).violation is None


@pytest.mark.parametrize("limit", [1, 3, 125, 126, 127, 200, 65535, 65536, 70000])
def test_size_limit(limit: int) -> None:
    fits, too_big = bytes(limit), bytes(limit + 1)
    assert parse([frame(TEXT, fits) * 2], limit).messages == [fits, fits]
    for wire in (
        frame(TEXT, too_big),
        frame(BINARY, too_big)[:10],  # the header is enough
        frame(TEXT, b"x", final=False) + frame(CONTINUATION, fits),
        frame(TEXT, fits, final=False)
        + frame(PING)
        + frame(CONTINUATION, b"", final=False)
        + frame(CONTINUATION, b"x", final=False),
    ):
        parsed = parse([frame(TEXT, b"1") + wire], limit)
        assert parsed.violation == CloseReason(1009, f"message exceeds {limit} bytes")
        assert parsed.messages == [b"1"]
    # Control frames do not count.
    assert parse([frame(PING, bytes(125)) + frame(TEXT, fits)], limit).violation is None


def test_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FrameParser(max_message_size=0)


@pytest.mark.parametrize(
    ("wire", "idle"),
    [
        (b"", True),
        (frame(TEXT, b"whole"), True),
        (frame(PING), True),
        (b"\x81", False),
        (b"\x81\x05", False),
        (b"\x81\x05abcd", False),
        (b"\x81\x7e\x01", False),
        (b"\x89\x04abc", False),
        (frame(TEXT, b"", final=False), False),
        (frame(TEXT, b"a", final=False) + frame(CONTINUATION, b"b"), True),
    ],
)
def test_idle(wire: bytes, idle: bool) -> None:
    assert parse([wire]).idle is idle


def test_messages_are_independent_bytes() -> None:
    # A user may keep a payload for long: it must not change, nor keep the read it came
    # in alive.
    parsed = parse(
        [frame(TEXT, b"abc") + frame(TEXT, b"d", final=False), frame(CONTINUATION, b"ef")]
    )
    assert [type(message) for message in parsed.messages] == [bytes, bytes]


def test_memory_follows_what_came_not_what_was_announced() -> None:
    parser = FrameParser(max_message_size=2**40)
    size = 300_000
    tracemalloc.start()
    try:
        parser.feed(b"\x82\x7f" + (2**39).to_bytes(8, "big"))
        for _ in range(size):
            parser.feed(b"x")
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * size
    assert peak < 3 * size
    assert not parser.idle


def test_parser_does_no_io() -> None:
    source = frames.__file__
    assert source is not None
    tree = ast.parse(Path(source).read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    imported |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "inflate", "struct", "typing"}
