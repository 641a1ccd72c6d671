"""What goes over the wire: the server's half of RFC 6455, and ticks already encoded.

The load generator must never be the bottleneck, so it formats nothing while it sends: a
whole session is one buffer of complete frames, and the offset where each frame ends.
``volume`` carries the message's number, which shows a loss, a double or a swap.
"""

from __future__ import annotations

import base64
import hashlib
import random
import struct
from array import array
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import attrs

__all__ = [
    "SUBSCRIBE",
    "FrameReader",
    "Session",
    "accept_key",
    "encode_session",
    "server_frame",
    "symbol_names",
]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_EPOCH = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
_PRICES = 4096
TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA

SUBSCRIBE = '{"method":"subscribe","params":{"symbols":["SYM00000"]},"id":1}'
"""What the hand-written contenders subscribe with.

The generator starts on the first message, whatever it says.
"""


def accept_key(key: bytes) -> bytes:
    """Return the ``Sec-WebSocket-Accept`` for *key* (RFC 6455, section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def server_frame(opcode: int, payload: bytes) -> bytes:
    """Return one final, unmasked frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, 126, size) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, size) + payload


class FrameReader:
    """Reads a client's masked frames from bytes as they come.

    Clients here send only small unfragmented frames.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield ``(opcode, payload)`` for each frame that *data* completes."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 2:
            size, start = buffer[1] & 0x7F, 2
            if size == 126:
                start = 4
            elif size == 127:
                start = 10
            if len(buffer) < start + 4:
                return
            if start > 2:
                size = int.from_bytes(buffer[2:start], "big")
            end = start + 4 + size
            if len(buffer) < end:
                return
            mask, masked, opcode = (
                buffer[start : start + 4],
                buffer[start + 4 : end],
                buffer[0] & 0x0F,
            )
            del buffer[:end]
            yield opcode, bytes(byte ^ mask[index & 3] for index, byte in enumerate(masked))


@attrs.frozen
class Session:
    """Encoded frames, one behind the other, and where each ends."""

    data: bytes
    ends: array[int]

    @property
    def frame_bytes(self) -> float:
        """Mean size of a frame, header included."""
        return len(self.data) / len(self.ends)

    def payloads(self) -> list[bytes]:
        """Return each frame's payload by itself."""
        result, start = [], 0
        for end in self.ends:
            header = {126: 4, 127: 10}.get(self.data[start + 1], 2)
            result.append(self.data[start + header : end])
            start = end
        return result


def symbol_names(count: int) -> list[str]:
    """Return *count* distinct symbols."""
    return [f"SYM{index:05}" for index in range(count)]


def encode_session(ticks: int, *, symbols: int = 5, size: int | None = None) -> Session:
    """Encode *ticks* flat JSON messages as text frames.

    The same arguments always give the same messages.

    Args:
        ticks: How many; number *i* has ``"volume": i``.
        symbols: How many symbols they are about; drawn at random, so that a symbol also
            comes twice in a row.
        size: Bytes a frame, header included. ``None`` leaves them as they are: about
            157. Smaller frames get shorter numbers and names (107 is about the least),
            larger ones a text that the codec has to skip.
    """
    rng = random.Random(f"{symbols}")
    short = size is not None and size < 140
    names = [f"{index:X}" for index in range(symbols)] if short else symbol_names(symbols)
    quotes = list(_quotes(rng, short=short))
    chosen = rng.choices(names, k=ticks)
    parts: list[bytes] = []
    ends: array[int] = array("Q")
    position = 0
    second, stamp = -1, ""
    for index in range(ticks):
        now, micro = divmod(index * 20, 1_000_000)
        if now != second:
            second, stamp = now, (_EPOCH + timedelta(seconds=now)).strftime("%Y-%m-%dT%H:%M:%S")
        clock = f"{stamp}Z" if short else f"{stamp}.{micro:06}+00:00"
        payload = (
            f'{{"symbol":"{chosen[index]}","timestamp":"{clock}",'
            f'{quotes[index % _PRICES]},"volume":{index}'
        )
        if size is not None and not short:
            payload += f',"note":"{"." * max(0, size - len(payload) - 15)}"'
        frame = server_frame(TEXT, f"{payload}}}".encode("ascii"))
        parts.append(frame)
        position += len(frame)
        ends.append(position)
    return Session(b"".join(parts), ends)


def _quotes(rng: random.Random, *, short: bool) -> Iterator[str]:
    price = 5_723_100
    for _ in range(_PRICES):
        price += rng.randint(-40, 40)
        bid_size, ask_size = rng.randint(1_000, 99_999), rng.randint(1_000, 99_999)
        if short:
            yield (
                f'"bid":{price % 9},"ask":{price % 9 + 1},'
                f'"bid_size":{bid_size % 10},"ask_size":{ask_size % 10}'
            )
        else:
            ask = price + rng.randint(1, 9)
            yield (
                f'"bid":{price / 100:.3f},"ask":{ask / 100:.3f},'
                f'"bid_size":{bid_size / 10:.2f},"ask_size":{ask_size / 10:.2f}'
            )
