"""A parser for a server's WebSocket frames: bytes in, messages and control frames out.

Goals: the payloads of whole messages at the cost of one slice each, and the control
frames untouched, for the library that owns the protocol (trio-websocket).

Plan: almost all frames of a market feed are unfragmented messages of up to 64 KiB that
lie whole in one read. ``_feed_small`` takes these in one tight loop and stops at the
first frame that is anything else. ``_feed_any`` then takes that one frame, with every
check, and the loop goes on behind it. A frame that is not complete yet leaves its
header in ``_tail`` or its payload in ``_buffer``. A compressed message is not for the
tight loop either; it is unpacked when its last frame is complete.

Rules: no I/O and no trio here; no object per frame except the payload's slice. Nothing
that a peer sends raises, or takes more than linear time. Section numbers are those of
RFC 6455.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, NoReturn, final

from .inflate import BadPayload, DeflateParameters, Inflater, PayloadTooBig

__all__ = ["CloseReason", "FrameParser", "close_frame"]

PROTOCOL_ERROR: Final = 1002
NO_CODE: Final = 1005
BAD_DATA: Final = 1007
TOO_BIG: Final = 1009

_FIN: Final = 0x80
_RESERVED: Final = 0x70
# The first reserved bit: permessage-deflate's mark of a compressed message.
_PACKED: Final = 0x40
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_CONTINUATION: Final = 0x0
_TEXT: Final = 0x1
_BINARY: Final = 0x2
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA
_WHOLE_TEXT: Final = _FIN | _TEXT
_WHOLE_BINARY: Final = _FIN | _BINARY
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127
_MAX_CONTROL: Final = 125
_CONTROLS: Final = frozenset((_FIN | _CLOSE, _FIN | _PING, _FIN | _PONG))

# The codes that section 7.4.1 and its registry let a peer send; 3000 to 4999 are free
# for libraries and applications (section 7.4.2). 1014 (bad gateway) is registered too,
# but wsproto refuses it, and nothing would then answer the Close frame: so it is
# refused here.
_CLOSE_CODES: Final = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013))

_header_at = Struct(">BBH").unpack_from


class CloseReason(NamedTuple):
    """Why a connection ends, in the terms of a Close frame."""

    code: int
    """See section 7.4.1.

    For a violation: 1002 protocol error, 1007 inconsistent data, or 1009 message too
    big.
    """
    reason: str


class _Failed(Exception):
    """The peer broke a rule. It is caught in :meth:`FrameParser.feed`."""

    def __init__(self, reason: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.violation = CloseReason(code, reason)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return an unmasked Close frame, as a server would send it (section 5.5.1).

    *reason* is cut to the 123 bytes that a control frame has room for.
    """
    text = reason.encode()[: _MAX_CONTROL - 2].decode(errors="ignore").encode()
    return bytes((_FIN | _CLOSE, 2 + len(text))) + code.to_bytes(2, "big") + text


@final
class FrameParser:
    """A client's half of the WebSocket framing, with permessage-deflate if need be.

    Call :meth:`feed` with the bytes of each read. When it returns, :attr:`violation`
    says whether the peer broke the protocol, and :attr:`closed` whether it sent a Close
    frame; after either, all further input is ignored (sections 1.4 and 7.1.7). Messages
    that were complete before are returned all the same.

    Text is not checked for being UTF-8 (section 8.1). The codec reads each byte anyway
    and refuses invalid UTF-8 in every field that it uses, so a second pass here would
    slow down every good message to recognise one kind of bad message. The codec counts
    such a message as malformed, and the connection with all its subscriptions stays up.

    Args:
        max_message_size: the largest message taken, in bytes, whether in one frame or
            in fragments. A larger one is a violation (1009). It is found by its header,
            so its payload is never buffered. A compressed one is found while it is
            unpacked, after at most this many bytes. The limit is for each message by
            itself: deflate packs up to a thousand bytes into one, so the messages of
            one read may be a thousand times as long as the read.
        deflate: what the server accepted of permessage-deflate; ``None`` if it accepted
            nothing, so that a compressed message is a violation (1002).
    """

    __slots__ = (
        "_buffer",
        "_final",
        "_fragmented",
        "_inflater",
        "_max_7",
        "_max_16",
        "_max_packed",
        "_missing",
        "_packed",
        "_tail",
        "closed",
        "max_message_size",
        "violation",
    )

    def __init__(self, *, max_message_size: int, deflate: DeflateParameters | None = None) -> None:
        if max_message_size < 1:
            raise ValueError("max_message_size must be at least 1 byte")
        self.max_message_size: Final = max_message_size
        self.violation: CloseReason | None = None
        """The fault of the peer, as our Close frame has to name it (section 7.1.7)."""
        self.closed: CloseReason | None = None
        """The peer's Close frame; code 1005 if it had no code (section 7.1.5)."""

        # The size limit costs the fast loop nothing: the loop compares lengths anyway
        # to distinguish the three encodings of a length, and these bounds include the
        # limit.
        self._max_7 = min(max_message_size, _LENGTH_16 - 1)
        self._max_16 = min(max_message_size, 0xFFFF)

        # An incomplete header, or an incomplete control frame: at most 126 bytes.
        self._tail = b""
        # The payload so far of a message that did not arrive in one piece.
        self._buffer = bytearray()
        # Payload bytes of the current data frame that have not arrived yet.
        self._missing = 0
        # Whether the current data frame ends its message.
        self._final = False
        # Whether a frame without FIN began a message that has not ended yet.
        self._fragmented = False
        # Whether the current message is compressed.
        self._packed = False
        self._inflater = None if deflate is None else Inflater(deflate, max_message_size)
        # Data that cannot be compressed becomes larger by it, with zlib at its worst
        # settings by an eighth. So a message that is not too large may have this size.
        self._max_packed = max_message_size + max_message_size // 4 + 64

    @property
    def idle(self) -> bool:
        """Whether the input so far ends between two messages.

        If the stream ends while this is false, it was cut off inside a message.
        """
        return not (self._tail or self._missing or self._fragmented)

    def feed(self, data: bytes) -> tuple[list[bytes], list[bytes]]:
        """Take the next bytes from the wire.

        Returns:
            The payloads of the messages that are complete now, text and binary alike;
            and the control frames, each whole and untouched. A Close frame is always
            the last.
        """
        messages: list[bytes] = []
        controls: list[bytes] = []
        if self.closed is not None or self.violation is not None:
            return messages, controls
        pos = 0
        try:
            if self._missing:
                pos = self._fill(data, messages)
            elif self._tail:
                data = self._tail + data
                self._tail = b""
            end = len(data)
            while pos < end and self.closed is None:
                if not self._fragmented:
                    pos = self._feed_small(data, pos, messages)
                if pos < end:
                    pos = self._feed_any(data, pos, messages, controls)
        except _Failed as failed:
            self.violation = failed.violation
        return messages, controls

    def _feed_small(self, data: bytes, pos: int, messages: list[bytes]) -> int:
        """Take whole, unfragmented messages of up to 64 KiB; return where it stopped.

        This is the hot path. It takes only frames that are certainly valid, and leaves
        every other frame, invalid or rare, to :meth:`_feed_any`.
        """
        append = messages.append
        header_at = _header_at
        max_7 = self._max_7
        max_16 = self._max_16
        end = len(data)
        last = end - 4
        while pos <= last:
            # One call is cheaper than two to four accesses by index.
            first, size, size_16 = header_at(data, pos)
            # Two comparisons instead of "in" with a tuple, which takes twice as long.
            if first != _WHOLE_TEXT and first != _WHOLE_BINARY:
                break
            if size <= max_7:
                begin = pos + 2
            elif size == _LENGTH_16:
                size = size_16
                if not _LENGTH_16 <= size <= max_16:
                    break
                begin = pos + 4
            else:
                break
            stop = begin + size
            if stop > end:
                break
            append(data[begin:stop])
            pos = stop
        return pos

    def _feed_any(self, data: bytes, pos: int, messages: list[bytes], controls: list[bytes]) -> int:
        """Take the one frame that begins at *pos*; return where the next one begins.

        Where the frame is incomplete, its beginning is kept for the next :meth:`feed`.
        """
        end = len(data)
        if end - pos < 2:
            self._tail = data[pos:]
            return end
        first, size = data[pos], data[pos + 1]
        self._check(first, size)
        begin = pos + 2
        if size >= _LENGTH_16:
            begin += 2 if size == _LENGTH_16 else 8
            if begin > end:
                self._tail = data[pos:]
                return end
            size = _long_size(data[pos + 2 : begin])
        stop = begin + size
        if first in _CONTROLS:
            if stop > end:
                self._tail = data[pos:]
                return end
            if first == _FIN | _CLOSE:
                self._check_close(data[begin:stop])
            controls.append(data[pos:stop])
            return stop
        if first & _OPCODE != _CONTINUATION:
            self._packed = first & _PACKED != 0
        limit = self._max_packed if self._packed else self.max_message_size
        if len(self._buffer) + size > limit:
            # Section 10.4 lets an endpoint limit frames and reassembled messages;
            # section 7.4.1 gives the code for it, 1009.
            raise _Failed(f"message exceeds {self.max_message_size} bytes", TOO_BIG)
        self._final = first >= _FIN
        self._fragmented = not self._final
        self._missing = size
        return begin + self._fill(data[begin:stop], messages)

    def _fill(self, data: bytes, messages: list[bytes]) -> int:
        """Add *data* to the current data frame; return how many bytes it took.

        If that completes a message, append its payload to *messages*.
        """
        missing = self._missing
        buffer = self._buffer
        if len(data) < missing:
            # A growing buffer takes linear time however small the reads are, and is
            # never larger than the bytes received: allocating the length that the
            # header claims would let a peer use our memory for nothing. A list of the
            # pieces would take fifty times the payload's memory when each piece is one
            # byte.
            buffer += data
            self._missing = missing - len(data)
            return len(data)
        self._missing = 0
        if not self._final or buffer:
            buffer += memoryview(data)[:missing]
            if not self._final:
                return missing
            payload = bytes(buffer)
            buffer.clear()
        else:
            payload = data[:missing]
        messages.append(self._unpack(payload) if self._packed else payload)
        return missing

    def _unpack(self, payload: bytes) -> bytes:
        """Return the compressed message with this *payload*."""
        assert self._inflater is not None
        try:
            return self._inflater.unpack(payload)
        except PayloadTooBig:
            reason = f"message exceeds {self.max_message_size} bytes when unpacked"
            raise _Failed(reason, TOO_BIG) from None
        except BadPayload as error:
            # RFC 7692 names no code for it. Section 7.4.1: 1007 is for data that is not
            # consistent with the type of the message.
            raise _Failed(f"compressed message: {error}", BAD_DATA) from None

    def _check(self, first: int, second: int) -> None:
        """Apply the rules of section 5 to the first two bytes of a frame."""
        opcode = first & _OPCODE
        reserved = first & _RESERVED
        if reserved and (reserved != _PACKED or self._inflater is None):
            # Section 5.2: RSV1 to RSV3 MUST be 0, unless an extension gives them a
            # meaning.
            _fail("reserved bit set without an extension")
        if reserved and opcode != _TEXT and opcode != _BINARY:
            # RFC 7692, section 6.1: only the first frame of a message may have RSV1.
            _fail("compression bit on a frame that begins no message")
        if second & _MASKED:
            # Section 5.1: a client MUST close a connection if it detects a masked
            # frame.
            _fail("masked frame from a server")
        if opcode >= _CLOSE:
            # Section 5.2: an unknown opcode MUST fail the connection.
            if opcode > _PONG:
                _fail(f"unknown opcode {opcode:#x}")
            # Section 5.5: a control frame MUST NOT be fragmented, and MUST have a
            # payload of 125 bytes or less.
            if not first & _FIN:
                _fail("fragmented control frame")
            if second > _MAX_CONTROL:
                _fail("control frame longer than 125 bytes")
        elif opcode > _BINARY:
            _fail(f"unknown opcode {opcode:#x}")
        elif self._fragmented != (opcode == _CONTINUATION):
            # Section 5.4: the fragments of one message MUST NOT be interleaved with
            # those of another, and a continuation frame needs a message to continue.
            _fail(
                "message begun inside another one"
                if self._fragmented
                else "continuation of nothing"
            )

    def _check_close(self, payload: bytes) -> None:
        """Apply sections 5.5.1 and 7.4 to a Close frame, and set :attr:`closed`."""
        closed = CloseReason(NO_CODE, "")
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1:
                # Section 5.5.1: the first two bytes MUST be the code.
                _fail("close frame of one byte")
            if code not in _CLOSE_CODES and not 3000 <= code <= 4999:
                _fail(f"close code {code} is not allowed")
            try:
                closed = CloseReason(code, payload[2:].decode())
            except UnicodeDecodeError:
                # Section 8.1: text that is not UTF-8 MUST fail the connection.
                raise _Failed("close reason is not UTF-8", BAD_DATA) from None
        self.closed = closed


def _fail(reason: str) -> NoReturn:
    raise _Failed(reason)


def _long_size(field: bytes) -> int:
    """Read an extended payload length.

    Section 5.2: "the minimal number of bytes MUST be used", and "the most significant
    bit MUST be 0" in the form of 8 bytes.
    """
    size = int.from_bytes(field, "big")
    if len(field) == 2:
        if size < _LENGTH_16:
            _fail("length in 2 bytes that fits in 7 bits")
    elif size >> 63:
        _fail("length with its most significant bit set")
    elif size <= 0xFFFF:
        _fail("length in 8 bytes that fits in 2")
    return size
