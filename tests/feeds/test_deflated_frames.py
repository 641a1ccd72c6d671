"""The frame parser on a connection with permessage-deflate."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.oracle import Parsed, check_splits, parse
from tests.worlds.deflating import PACKED, Deflater, bomb, packed_frames
from tests.worlds.frame_wire import (
    BINARY,
    CONTINUATION,
    LIMIT,
    PING,
    PONG,
    TEXT,
    VIOLATIONS,
    close_of,
    frame,
)
from trio_ticks.feeds.websocket.frames import CloseReason
from trio_ticks.feeds.websocket.inflate import DeflateParameters

PLAIN = DeflateParameters()

agreements = st.builds(DeflateParameters, st.booleans(), st.integers(8, 15))
texts = st.lists(st.sampled_from([b'{"symbol":"SPY"', b',"bid":1.25}', b"\xff\x00"]), max_size=9)
contents = texts.map(b"".join) | st.binary(max_size=300) | st.just(b"0123456789" * 7000)
places = st.lists(st.integers(0, 2**32), max_size=4)


@st.composite
def streams(draw: st.DrawFn) -> tuple[DeflateParameters, list[bytes], bytes, bytes]:
    """What was agreed; messages; the wire with and without compression."""
    agreed = draw(agreements)
    deflater = Deflater(agreed, level=draw(st.integers(0, 9)))
    messages = draw(st.lists(contents, max_size=6))
    packed: list[bytes] = []
    plain: list[bytes] = []
    for message in messages:
        opcode = draw(st.sampled_from([TEXT, BINARY]))
        plain.append(frame(opcode, message))
        if draw(st.integers(0, 3)):
            pieces = deflater.frames(opcode, message, draw(places))
        else:
            pieces = [frame(opcode, message)]
        for piece in pieces:
            if draw(st.booleans()):
                control = frame(draw(st.sampled_from([PING, PONG])), b"?")
                packed.append(control)
                plain.insert(len(plain) - 1, control)
            packed.append(piece)
    return agreed, messages, b"".join(packed), b"".join(plain)


@given(streams(), places)
def test_any_split_gives_the_same_as_without_compression(
    stream: tuple[DeflateParameters, list[bytes], bytes, bytes], cuts: list[int]
) -> None:
    agreed, messages, packed, plain = stream
    parsed = check_splits(packed, cuts, LIMIT, agreed)
    assert parsed == parse([plain], LIMIT)
    assert parsed.messages == messages
    assert parsed.idle


@given(st.binary(max_size=300), agreements, places, st.sampled_from([1, 126, 300, LIMIT]))
def test_any_bytes_in_any_pieces(
    data: bytes, agreed: DeflateParameters, cuts: list[int], limit: int
) -> None:
    check_splits(data, cuts, limit, agreed)
    check_splits(b"".join(packed_frames(TEXT, data, cuts)), cuts, limit, agreed)


@given(
    streams(), st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 255)), max_size=3), places
)
def test_damaged_streams(
    stream: tuple[DeflateParameters, list[bytes], bytes, bytes],
    damage: list[tuple[int, int]],
    cuts: list[int],
) -> None:
    data = bytearray(stream[2])
    for place, value in damage:
        if data:
            data[place % len(data)] = value
    check_splits(bytes(data), cuts, LIMIT, stream[0])


def both_ways(wire: bytes, limit: int = LIMIT) -> Parsed:
    """Parse *wire* behind a good message, in one piece and in single bytes."""
    deflater = Deflater()
    before = b"".join(deflater.frames(TEXT, b"good"))
    parsed = check_splits(before + wire, range(len(before + wire)), limit, PLAIN)
    assert parsed.messages[0] == b"good"
    return parsed


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (frame(CONTINUATION | PACKED), "compression bit on a frame that begins no message"),
        (
            frame(TEXT | PACKED, b"\x00", final=False) + frame(CONTINUATION | PACKED, b""),
            "compression bit on a frame that begins no message",
        ),
        (frame(PING | PACKED), "compression bit on a frame that begins no message"),
        (frame(TEXT | PACKED | 0x20), "reserved bit set without an extension"),
        (frame(TEXT | 0x10), "reserved bit set without an extension"),
        (frame(3 | PACKED), "compression bit on a frame that begins no message"),
    ],
)
def test_reserved_bits(wire: bytes, reason: str) -> None:
    assert both_ways(wire).violation == CloseReason(1002, reason)


def test_the_bit_means_nothing_unless_it_was_agreed() -> None:
    wire = b"".join(Deflater().frames(TEXT, b"m"))
    assert parse([wire], LIMIT).violation == CloseReason(
        1002, "reserved bit set without an extension"
    )


@pytest.mark.parametrize("name", [name for name in VIOLATIONS if name != "reserved bit 1"])
def test_other_violations_stay(name: str) -> None:
    wire, code = VIOLATIONS[name]
    parsed = parse([b"".join(Deflater().frames(TEXT, b"good")) + wire], LIMIT, PLAIN)
    assert parsed.messages == [b"good"]
    assert parsed.violation is not None
    assert parsed.violation.code == code


def test_damaged_data() -> None:
    for cuts in ((), (2,)):
        wire = b"".join(packed_frames(TEXT, b"\xff\xff\xff\xff", cuts)) + close_of(1000)
        parsed = both_ways(wire)
        assert parsed.violation == CloseReason(1007, "compressed message: not deflated data")
        assert parsed.controls == []


@pytest.mark.parametrize("limit", [10, 126, 5000, 70_000])
@pytest.mark.parametrize("level", [0, 9])
@pytest.mark.parametrize("cuts", [(), (3, 60, 61)])
def test_the_limit_is_for_what_is_unpacked(limit: int, level: int, cuts: tuple[int, ...]) -> None:
    for excess in (0, 1):
        message = b"x" * (limit + excess)
        wire = b"".join(Deflater(level=level).frames(TEXT, message, cuts))
        parsed = parse([wire], limit, PLAIN)
        if excess:
            reason = f"message exceeds {limit} bytes when unpacked"
            assert parsed.violation == CloseReason(1009, reason)
        else:
            assert (parsed.messages, parsed.violation) == ([message], None)


def test_frames_far_above_the_limit_are_refused_by_their_header() -> None:
    header = frame(TEXT | PACKED, bytes(1400))[:4]
    parsed = parse([header], 1000, PLAIN)
    assert parsed.violation == CloseReason(1009, "message exceeds 1000 bytes")


def test_the_limits_of_plain_messages_stay() -> None:
    assert parse([frame(TEXT, bytes(1001))], 1000, PLAIN).violation is not None
    whole = frame(TEXT | PACKED, b"\x00") + frame(TEXT, bytes(1001))
    parsed = parse([whole], 1000, PLAIN)
    assert parsed.messages == [b""]
    assert parsed.violation == CloseReason(1009, "message exceeds 1000 bytes")


def test_a_bomb_takes_no_more_memory_than_a_message() -> None:
    # About a GiB of zeros, in a frame of the limit.
    payload = bomb("deflate", wrapped=False)[:LIMIT]
    pieces = packed_frames(BINARY, payload, range(0, LIMIT, 50_000))
    tracemalloc.start()
    try:
        parsed = parse(pieces, LIMIT, PLAIN)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert parsed.violation == CloseReason(1009, f"message exceeds {LIMIT} bytes when unpacked")
    assert peak < 6 * LIMIT
