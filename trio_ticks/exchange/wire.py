"""Encode the flat protocol: ticks, WebSocket frames, requests and their answers.

Rules: sans-I/O; nothing here waits, keeps time or knows a socket. A server's frames are
not masked (RFC 6455, section 5.1). So a frame is a header of 2, 4 or 10 bytes and the
payload, and many frames in one write are just their bytes in a row.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from datetime import datetime
from typing import Annotated

import attrs
import msgspec

__all__ = [
    "FlatTick",
    "Reply",
    "answer",
    "binary_frame",
    "encode_frames",
    "iso_utc",
    "packed_frame",
    "text_frame",
]

TEXT, BINARY, CLOSE = 0x81, 0x82, 0x88
"""First bytes of an unfragmented text frame, a binary frame, and a Close."""

_PACKED = 0x40
"""The bit that says that a frame's payload is compressed."""
MAX_ECHO = 32
"""How many rejected symbols an answer names, and how many characters of each.

An answer is never larger than its request.
"""


class FlatTick(msgspec.Struct, gc=False):
    """A tick in the flat protocol; the order of the fields is that on the wire.

    A quantity that is UNSET is left out.
    """

    symbol: str
    timestamp: str
    bid: float
    ask: float
    bid_size: float | msgspec.UnsetType = msgspec.UNSET
    ask_size: float | msgspec.UnsetType = msgspec.UNSET
    volume: float | msgspec.UnsetType = msgspec.UNSET


def iso_utc(when: datetime) -> str:
    """Return an aware UTC datetime as ISO 8601 with microseconds and a ``Z``."""
    return when.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _header(opcode: int, size: int) -> bytes:
    if size < 126:
        return bytes((opcode, size))
    if size < 65536:
        return bytes((opcode, 126)) + size.to_bytes(2, "big")
    return bytes((opcode, 127)) + size.to_bytes(8, "big")


def text_frame(payload: bytes) -> bytes:
    """Return one complete, unmasked text frame."""
    return _header(TEXT, len(payload)) + payload


def packed_frame(payload: bytes) -> bytes:
    """Return one text frame with a compressed *payload* (RFC 7692, section 7.2.1).

    It refers to no frame before it, so that one frame serves all clients.
    """
    stream = zlib.compressobj(wbits=-15)
    packed = stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)
    # The last four bytes are always the same, and left out.
    packed = packed[:-4]
    return _header(TEXT | _PACKED, len(packed)) + packed


def binary_frame(payload: bytes) -> bytes:
    """Return one complete, unmasked binary frame."""
    return _header(BINARY, len(payload)) + payload


_encode = msgspec.json.Encoder().encode
# Building a header costs as much as encoding the tick, so the headers of all usual
# sizes are built once.
_HEADERS = tuple(_header(TEXT, size) for size in range(1024))


def encode_frames(ticks: Collection[FlatTick]) -> list[bytes]:
    """Return a text frame for each tick."""
    encode, headers = _encode, _HEADERS
    try:
        return [headers[len(payload)] + payload for payload in map(encode, ticks)]
    except IndexError:  # A symbol of a thousand characters: allowed, but may be slow.
        return [text_frame(encode(tick)) for tick in ticks]


_Rate = Annotated[float, msgspec.Meta(gt=0)]


class _Params(msgspec.Struct):
    symbols: list[str] | msgspec.UnsetType = msgspec.UNSET
    max_rate: _Rate | msgspec.UnsetType | None = msgspec.UNSET


class _Request(msgspec.Struct):
    method: str
    params: _Params
    id: int | str | None = None


_EXPECTED = (
    'expected {"method": "subscribe" or "unsubscribe", "params": {"symbols": [...]}, "id": ...}'
)
_decode_request = msgspec.json.Decoder(_Request).decode


@attrs.frozen(slots=True)
class Reply:
    """The result of a request."""

    payload: bytes
    """The answer, as JSON."""
    subscription: frozenset[str]
    """The symbols that the client gets from now on."""
    bad: bool = False
    """Whether the request was refused, in part or as a whole."""
    max_rate: float | None = None
    """The most ticks a second that it gets; ``None``: all that it subscribed to."""


def _error(request_id: int | str | None, code: str, message: str) -> dict[str, object]:
    return {"id": request_id, "error": {"code": code, "message": message}}


def _refuse(
    request_id: int | str | None,
    code: str,
    message: str,
    subscription: frozenset[str],
    max_rate: float | None,
) -> Reply:
    return Reply(_encode(_error(request_id, code, message)), subscription, True, max_rate)


def answer(
    message: str | bytes,
    *,
    listed: frozenset[str],
    subscription: frozenset[str],
    max_rate: float | None = None,
    throttles: bool = True,
) -> Reply:
    """Answer a client's message.

    ``{"method": "subscribe", "params": {"symbols": [...]}, "id": 1}`` (or
    ``unsubscribe``) is answered by ``{"id": 1, "result": {"method": "subscribe",
    "symbols": [...]}}`` with the symbols that it took effect for. Symbols that are not
    listed are named in an ``error`` beside the ``result``; the others take effect all
    the same.

    ``{"method": "throttle", "params": {"max_rate": 900}, "id": 3}`` asks for at most
    900 ticks a second (``null``: for all), and is answered in the same way. A message
    that is not a request gets an ``error`` with the ``id`` ``null``.

    Args:
        message: the client's message; binary messages are refused.
        listed: the symbols that can be subscribed to.
        subscription: the symbols that the client gets so far.
        max_rate: the most ticks a second that it gets so far.
        throttles: False makes ``throttle`` an unknown method.
    """
    if isinstance(message, bytes):
        return _refuse(None, "BAD_REQUEST", "a request is a text message", subscription, max_rate)
    try:
        request = _decode_request(message)
    except (msgspec.DecodeError, RecursionError):
        return _refuse(None, "BAD_REQUEST", _EXPECTED, subscription, max_rate)
    if request.method == "throttle" and throttles:
        wished = request.params.max_rate
        if isinstance(wished, msgspec.UnsetType):
            return _refuse(
                request.id,
                "BAD_REQUEST",
                'throttle needs {"params": {"max_rate": a number or null}}',
                subscription,
                max_rate,
            )
        return Reply(
            _encode({"id": request.id, "result": {"method": "throttle", "max_rate": wished}}),
            subscription,
            max_rate=wished,
        )
    if request.method not in ("subscribe", "unsubscribe"):
        known = "subscribe, unsubscribe and throttle" if throttles else "subscribe and unsubscribe"
        return _refuse(request.id, "UNKNOWN_METHOD", f"there are {known}", subscription, max_rate)
    if isinstance(request.params.symbols, msgspec.UnsetType):
        return _refuse(None, "BAD_REQUEST", _EXPECTED, subscription, max_rate)
    wanted = dict.fromkeys(request.params.symbols)  # in order, each once
    accepted = [symbol for symbol in wanted if symbol in listed]
    reply: dict[str, object] = {
        "id": request.id,
        "result": {"method": request.method, "symbols": accepted},
    }
    unknown = [symbol for symbol in wanted if symbol not in listed]
    if unknown:
        reply["error"] = {
            "code": "UNKNOWN_SYMBOL",
            "message": f"{len(unknown)} of {len(wanted)} symbols are not listed here",
            "symbols": [symbol[:MAX_ECHO] for symbol in unknown[:MAX_ECHO]],
        }
    changed = (
        subscription | frozenset(accepted)
        if request.method == "subscribe"
        else subscription - frozenset(accepted)
    )
    return Reply(_encode(reply), changed, bool(unknown), max_rate)
