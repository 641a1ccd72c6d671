"""Takes a server's WebSocket frames apart: bytes in; whole messages, and the control frames for whoever owns the protocol, out.

Rules: no I/O and no trio here; no object per frame but the payload's slice; nothing a peer sends raises, or takes more than linear time.
The section numbers are RFC 6455's.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, NoReturn, final

__all__ = ["CloseReason", "FrameParser", "close_frame"]

PROTOCOL_ERROR: Final = 1002
NO_CODE: Final = 1005
BAD_DATA: Final = 1007
TOO_BIG: Final = 1009

_FIN: Final = 0x80
_RESERVED: Final = 0x70
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

# The codes that section 7.4.1 and its registry let a peer send; 3000 to 4999 are free for libraries and applications (section 7.4.2).
# 1014 (bad gateway) is registered too, but wsproto refuses it, and nothing would then answer the Close frame: so it is refused here.
_CLOSE_CODES: Final = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013))

_header_at = Struct(">BBH").unpack_from


class CloseReason(NamedTuple):
    """Why a connection ends, as a Close frame says it."""

    code: int
    """Section 7.4.1. For a violation: 1002 protocol error, 1007 inconsistent data, or 1009 message too big."""
    reason: str


class _Failed(Exception):
    """The peer broke a rule; never leaves this module."""

    def __init__(self, reason: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.violation = CloseReason(code, reason)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return an unmasked Close frame, as a server would send it (section 5.5.1); *reason* is cut to what a control frame holds."""
    text = reason.encode()[: _MAX_CONTROL - 2].decode(errors="ignore").encode()
    return bytes((_FIN | _CLOSE, 2 + len(text))) + code.to_bytes(2, "big") + text


@final
class FrameParser:
    """A client's half of the WebSocket framing, for connections without extensions.

    Call :meth:`feed` with whatever the socket gave. When it returns, :attr:`violation` says whether the peer broke the protocol, and
    :attr:`closed` whether it sent a Close frame; after either, all further input is ignored (sections 1.4 and 7.1.7). Messages that were
    complete before are returned all the same.

    Text is not checked for being UTF-8 (section 8.1). The codec looks at each byte anyway and refuses what is not UTF-8 in anything it
    uses, so a second pass here would cost every good message in order to tell apart one kind of bad one. Such a message is the codec's to
    count as malformed, like any other that it cannot read: one garbled message is then no reason to lose all subscriptions.

    Args:
        max_message_size: the largest message taken, in bytes, whole or put together from fragments. A larger one is a violation, 1009,
            and is found by its header: its payload is never buffered.
    """

    __slots__ = (
        "_buffer",
        "_final",
        "_fragmented",
        "_max_7",
        "_max_16",
        "_missing",
        "_tail",
        "closed",
        "max_message_size",
        "violation",
    )

    def __init__(self, *, max_message_size: int) -> None:
        if max_message_size < 1:
            raise ValueError("max_message_size must be at least 1 byte")
        self.max_message_size: Final = max_message_size
        self.violation: CloseReason | None = None
        """What the peer did wrong, as we have to tell it when we fail the connection (section 7.1.7)."""
        self.closed: CloseReason | None = None
        """What the peer's Close frame said; 1005 for one without a code (section 7.1.5)."""

        # The size limit costs the fast loop nothing: it is part of the comparisons that tell the three kinds of length apart.
        self._max_7 = min(max_message_size, _LENGTH_16 - 1)
        self._max_16 = min(max_message_size, 0xFFFF)
        self._tail = b""  # the beginning of a header, or of a control frame: at most 126 bytes
        self._buffer = bytearray()  # the message under way, when it did not come in one piece
        self._missing = 0  # payload bytes of the current data frame that are still to come
        self._final = False  # the current data frame ends its message
        self._fragmented = False  # a message was begun by a frame without FIN, and not ended yet

    @property
    def idle(self) -> bool:
        """Whether the input so far ends between two messages: at the end of the stream, anything else is a truncated one."""
        return not (self._tail or self._missing or self._fragmented)

    def feed(self, data: bytes) -> tuple[list[bytes], list[bytes]]:
        """Take the next bytes from the wire.

        Returns:
            The payloads of the messages that are complete now, text and binary alike; and the control frames, each whole and untouched. A
            Close frame is the last of them.
        """
        messages: list[bytes] = []
        controls: list[bytes] = []
        if self.closed is not None or self.violation is not None:
            return messages, controls
        pos = 0
        if self._missing:
            pos = self._fill(data, messages)
        elif self._tail:
            data = self._tail + data
            self._tail = b""
        end = len(data)
        try:
            while pos < end and self.closed is None:
                if not self._fragmented:
                    pos = self._feed_small(data, pos, messages)
                if pos < end:
                    pos = self._feed_any(data, pos, messages, controls)
        except _Failed as failed:
            self.violation = failed.violation
        return messages, controls

    def _feed_small(self, data: bytes, pos: int, messages: list[bytes]) -> int:
        """Take unfragmented messages of up to 64 KiB for as long as they come whole: the hot path. Returns where it stopped.

        It only recognises what is beyond doubt, and leaves everything else, wrong or rare, to :meth:`_feed_any`.
        """
        append = messages.append
        header_at = _header_at
        max_7 = self._max_7
        max_16 = self._max_16
        end = len(data)
        last = end - 4
        while pos <= last:
            first, size, size_16 = header_at(data, pos)  # one call is cheaper than indexing two to four times
            if first != _WHOLE_TEXT and first != _WHOLE_BINARY:  # not "in": twice as slow
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
        """Take the one frame that begins at *pos*, whatever it is, or keep its beginning. Returns where the next one begins."""
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
        if len(self._buffer) + size > self.max_message_size:
            # Section 10.4: limits on frames and on reassembled messages are ours to set; 7.4.1: 1009 says so.
            raise _Failed(f"message exceeds {self.max_message_size} bytes", TOO_BIG)
        self._final = first >= _FIN
        self._fragmented = not self._final
        self._missing = size
        return begin + self._fill(data[begin:stop], messages)

    def _fill(self, data: bytes, messages: list[bytes]) -> int:
        """Add to the data frame under way, and to *messages* if that completes one. Returns how many bytes it took."""
        missing = self._missing
        buffer = self._buffer
        if len(data) < missing:
            # A growing buffer is linear however small the reads are, and never larger than what really came: the length in the header
            # is a claim. A list of the pieces would cost fifty times the payload when each holds one byte.
            buffer += data
            self._missing = missing - len(data)
            return len(data)
        self._missing = 0
        if not self._final or buffer:
            buffer += memoryview(data)[:missing]
            if self._final:
                messages.append(bytes(buffer))
                buffer.clear()
        else:
            messages.append(data[:missing])
        return missing

    def _check(self, first: int, second: int) -> None:
        """Apply what section 5 asks of the first two bytes of a frame."""
        opcode = first & _OPCODE
        if first & _RESERVED:
            _fail("reserved bit set without an extension")  # section 5.2, RSV1 to RSV3: MUST be 0, else _Fail_
        if second & _MASKED:
            _fail("masked frame from a server")  # section 5.1: a client MUST close a connection if it detects a masked frame
        if opcode >= _CLOSE:
            if opcode > _PONG:
                _fail(f"unknown opcode {opcode:#x}")  # section 5.2, opcode: unknown MUST _Fail_
            if not first & _FIN:
                _fail("fragmented control frame")  # section 5.5: MUST NOT be fragmented
            if second > _MAX_CONTROL:
                _fail("control frame longer than 125 bytes")  # section 5.5: MUST have 125 bytes or less
        elif opcode > _BINARY:
            _fail(f"unknown opcode {opcode:#x}")
        elif self._fragmented != (opcode == _CONTINUATION):
            # Section 5.4: the fragments of one message MUST NOT be interleaved with another's, and a continuation continues something.
            _fail("message begun inside another one" if self._fragmented else "continuation of nothing")

    def _check_close(self, payload: bytes) -> None:
        """Apply sections 5.5.1 and 7.4 to a Close frame's payload, and note what it says."""
        closed = CloseReason(NO_CODE, "")
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1:
                _fail("close frame of one byte")  # section 5.5.1: the first two bytes MUST be the code
            if code not in _CLOSE_CODES and not 3000 <= code <= 4999:
                _fail(f"close code {code} is not allowed")
            try:
                closed = CloseReason(code, payload[2:].decode())
            except UnicodeDecodeError:
                raise _Failed("close reason is not UTF-8", BAD_DATA) from None  # section 8.1
        self.closed = closed


def _fail(reason: str) -> NoReturn:
    raise _Failed(reason)


def _long_size(field: bytes) -> int:
    """Read an extended payload length (section 5.2)."""
    size = int.from_bytes(field, "big")
    if len(field) == 2:
        if size < _LENGTH_16:
            _fail("length in 2 bytes that fits in 7 bits")  # "the minimal number of bytes MUST be used"
    elif size >> 63:
        _fail("length with its most significant bit set")  # "the most significant bit MUST be 0"
    elif size <= 0xFFFF:
        _fail("length in 8 bytes that fits in 2")
    return size
