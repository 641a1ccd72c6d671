"""Unpacking what is compressed: whole messages, or a refusal within the limit."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.deflating import Deflater, bomb
from trio_ticks.feeds.websocket.inflate import (
    BadPayload,
    DeflateParameters,
    Inflater,
    PayloadTooBig,
    unpack_payload,
)

LIMIT = 2**20
Kind = Literal["gzip", "deflate"]

parameters = st.builds(
    DeflateParameters, st.booleans(), st.integers(8, 15), st.booleans(), st.integers(8, 15)
)
# Messages that resemble each other, so that they refer to earlier ones.
texts = st.lists(st.sampled_from([b'{"symbol":"SPY"', b',"bid":1.25}', b"\xff\x00"])).map(b"".join)
contents = texts | st.binary(max_size=300) | texts.map(lambda text: text * 2000)


def raw(data: bytes) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


PACKERS: dict[str, tuple[Kind, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "zlib": ("deflate", zlib.compress),
    "raw": ("deflate", raw),
}
packers = pytest.mark.parametrize(("kind", "pack"), PACKERS.values(), ids=PACKERS)


# --- permessage-deflate


@given(parameters, st.lists(contents, max_size=8), st.integers(0, 9))
def test_messages_come_out_as_they_went_in(
    agreed: DeflateParameters, messages: list[bytes], level: int
) -> None:
    deflater, inflater = Deflater(agreed, level=level), Inflater(agreed, LIMIT)
    assert [inflater.unpack(deflater.pack(message)) for message in messages] == messages


def test_the_examples_of_the_rfc() -> None:
    # Section 7.2.3: one block; a shared window; no compression; a final block; two.
    inflater = Inflater(DeflateParameters(), LIMIT)
    for wire in (
        "f2 48 cd c9 c9 07 00",
        "f2 00 11 00 00",
        "00 05 00 fa ff 48 65 6c 6c 6f 00",
        "f3 48 cd c9 c9 07 00 00",
        "f2 48 05 00 00 00 ff ff ca c9 c9 07 00",
    ):
        assert inflater.unpack(bytes.fromhex(wire)) == b"Hello"


def test_a_message_of_nothing() -> None:
    inflater = Inflater(DeflateParameters(), LIMIT)
    assert [inflater.unpack(b"\x00"), inflater.unpack(b"\x00")] == [b"", b""]


def test_final_blocks_without_the_empty_block_behind_them() -> None:
    inflater = Inflater(DeflateParameters(), LIMIT)
    for n in range(3):
        assert inflater.unpack(raw(b"message %d" % n)) == b"message %d" % n


@pytest.mark.parametrize("size", [1, 2, 1000, LIMIT])
@pytest.mark.parametrize("final", [False, True])
def test_the_limit_of_a_message(size: int, final: bool) -> None:
    for excess in (0, 1):
        message = b"x" * (size + excess)
        packed = raw(message) + b"\x00" if final else Deflater().pack(message)
        inflater = Inflater(DeflateParameters(), size)
        if excess:
            with pytest.raises(PayloadTooBig, match="max_message_size when unpacked"):
                inflater.unpack(packed)
        else:
            assert inflater.unpack(packed) == message


def test_the_limit_holds_for_both_sides_of_a_final_block() -> None:
    packed = raw(b"x" * 60) + Deflater().pack(b"y" * 60)
    assert Inflater(DeflateParameters(), 120).unpack(packed) == b"x" * 60 + b"y" * 60
    with pytest.raises(PayloadTooBig):
        Inflater(DeflateParameters(), 119).unpack(packed)


def test_a_second_final_block_is_refused() -> None:
    with pytest.raises(BadPayload, match="more than one final block"):
        Inflater(DeflateParameters(), LIMIT).unpack(raw(b"a") + raw(b"b"))


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes_unpack_or_are_bad(payloads: list[bytes]) -> None:
    inflater = Inflater(DeflateParameters(), 1000)
    for payload in payloads:
        try:
            assert len(inflater.unpack(payload)) <= 1000
        except BadPayload:
            break


# --- payloads of venues


@packers
@given(data=contents)
def test_payloads_come_out_as_they_went_in(
    kind: Kind, pack: Callable[[bytes], bytes], data: bytes
) -> None:
    assert unpack_payload(kind, pack(data), LIMIT) == data


@given(st.lists(contents, min_size=1, max_size=5))
def test_gzip_of_several_members(parts: list[bytes]) -> None:
    assert unpack_payload("gzip", b"".join(map(gzip.compress, parts)), LIMIT) == b"".join(parts)


@packers
@given(data=st.binary(min_size=1, max_size=9000), cut=st.integers(1, 2**32))
def test_payloads_that_are_cut_off(
    kind: Kind, pack: Callable[[bytes], bytes], data: bytes, cut: int
) -> None:
    packed = pack(data)
    with pytest.raises(BadPayload, match=r"cut off|not deflate"):
        unpack_payload(kind, packed[: cut % len(packed)], LIMIT)


@packers
@pytest.mark.parametrize("junk", [b"\x00", b"junk", b"\x1f\x8b", bytes(5000)])
def test_payloads_with_something_behind_them(
    kind: Kind, pack: Callable[[bytes], bytes], junk: bytes
) -> None:
    for size in (10, 20_000):
        with pytest.raises(BadPayload):
            unpack_payload(kind, pack(bytes(size)) + junk, LIMIT)


@packers
@pytest.mark.parametrize("size", [1, 1000, 70_000])
def test_the_limit_of_a_payload(kind: Kind, pack: Callable[[bytes], bytes], size: int) -> None:
    assert len(unpack_payload(kind, pack(bytes(size)), size)) == size
    with pytest.raises(PayloadTooBig):
        unpack_payload(kind, pack(bytes(size + 1)), size)


def test_the_limit_holds_for_all_members_together() -> None:
    members = gzip.compress(bytes(100)) * 3
    assert unpack_payload("gzip", members, 300) == bytes(300)
    with pytest.raises(PayloadTooBig):
        unpack_payload("gzip", members, 299)


@packers
def test_a_wrong_checksum(kind: Kind, pack: Callable[[bytes], bytes]) -> None:
    packed = bytearray(pack(b"some data"))
    if pack is raw:
        packed[0] ^= 0x06  # no checksum: the kind of the block instead
    else:
        packed[-5 if kind == "gzip" else -1] ^= 1
    with pytest.raises(BadPayload):
        unpack_payload(kind, bytes(packed), LIMIT)


@given(st.sampled_from(["gzip", "deflate"]), st.binary(max_size=200))
def test_any_payload_unpacks_or_is_bad(kind: Kind, payload: bytes) -> None:
    with suppress(BadPayload):
        assert len(unpack_payload(kind, payload, 1000)) <= 1000


# --- bombs


def peak_of(work: Callable[[], object]) -> int:
    """Return the most memory that *work* held at a time, which must find a bomb."""
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooBig):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("limit", [2**16, LIMIT])
@pytest.mark.parametrize(
    ("kind", "wrapped"), [("gzip", True), ("deflate", True), ("deflate", False)]
)
def test_a_gibibyte_of_zeros_as_a_payload(kind: Kind, wrapped: bool, limit: int) -> None:
    payload = bomb(kind, wrapped=wrapped)
    assert peak_of(lambda: unpack_payload(kind, payload, limit)) < 3 * limit + 100_000


@pytest.mark.parametrize("limit", [2**16, LIMIT])
def test_a_gibibyte_of_zeros_as_a_message(limit: int) -> None:
    # The parser refuses a frame that is much longer than the limit; this one is not.
    payload = bomb("deflate", wrapped=False)[: limit + 1]
    inflater = Inflater(DeflateParameters(), limit)
    assert peak_of(lambda: inflater.unpack(payload)) < 4 * limit + 100_000


def test_limits_beyond_those_of_zlib() -> None:
    assert Inflater(DeflateParameters(), 2**70).unpack(Deflater().pack(b"m")) == b"m"
    assert unpack_payload("gzip", gzip.compress(b"m"), 2**70) == b"m"


def test_many_empty_members_take_linear_time() -> None:
    member = gzip.compress(b"")

    def seconds(count: int) -> float:
        begin = time.process_time()
        assert unpack_payload("gzip", member * count, LIMIT) == b""
        return time.process_time() - begin

    few = min(seconds(5000) for _ in range(3))
    # Linear would be 10 times as long, quadratic 100 times.
    assert min(seconds(50_000) for _ in range(2)) < 40 * few
