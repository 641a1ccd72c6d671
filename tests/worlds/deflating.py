"""What a server that compresses sends: permessage-deflate, made by zlib."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial
from typing import Literal

from tests.worlds.frame_wire import CONTINUATION, frame
from trio_ticks.feeds.websocket.inflate import DeflateParameters

PACKED = 0x40
"""The first reserved bit, for :func:`frame`'s opcode."""

BOMB_BYTES = 2**30


class Deflater:
    """Compresses one server's messages, in their order (RFC 7692, section 7.2.1)."""

    def __init__(self, parameters: DeflateParameters | None = None, *, level: int = 6) -> None:
        self._parameters = parameters or DeflateParameters()
        bits = max(9, self._parameters.server_max_window_bits)
        self._new_stream = partial(zlib.compressobj, level, zlib.DEFLATED, -bits)
        self._stream = self._new_stream()

    def pack(self, message: bytes) -> bytes:
        """Return the payload of the frames of *message*."""
        packed = self._stream.compress(message) + self._stream.flush(zlib.Z_SYNC_FLUSH)
        if self._parameters.server_no_context_takeover:
            self._stream = self._new_stream()
        assert packed.endswith(b"\x00\x00\xff\xff")
        return packed[:-4]

    def frames(self, opcode: int, message: bytes, places: Sequence[int] = ()) -> list[bytes]:
        """Return the frames of *message*, cut at *places*, which may be any numbers."""
        return packed_frames(opcode, self.pack(message), places)


def packed_frames(opcode: int, payload: bytes, places: Sequence[int] = ()) -> list[bytes]:
    edges = [0, *sorted(place % (len(payload) + 1) for place in places), len(payload)]
    return [
        frame(
            CONTINUATION if n else opcode | PACKED,
            payload[edges[n] : edges[n + 1]],
            final=n + 2 == len(edges),
        )
        for n in range(len(edges) - 1)
    ]


def bomb(kind: Literal["gzip", "deflate"], *, wrapped: bool) -> bytes:
    """Return a GiB of zeros in about a MiB, with or without the header of *kind*.

    The checksum at the end is missing.
    """
    piece = bytes(2**24)
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    # After a full flush nothing refers back, so that the output can be repeated.
    packed = stream.compress(piece) + stream.flush(zlib.Z_FULL_FLUSH)
    header = {"gzip": b"\x1f\x8b\x08" + bytes(7), "deflate": b"\x78\x9c"}[kind]
    return (header if wrapped else b"") + packed * (BOMB_BYTES // len(piece))
