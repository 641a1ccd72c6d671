"""Unpack compressed messages, never to more bytes than a limit.

Goals: a message that a server or a venue has compressed comes out whole, or is refused;
and a few bytes that would unpack to gigabytes cost no more memory than an honest
message.

Plan: zlib is told how many bytes it may return before it begins, and gets the limit
plus one. If it returns that many, the message is too large, and the rest of it is never
unpacked. There are two kinds of compression. :class:`Inflater` undoes that of the
WebSocket extension permessage-deflate, in which a message may refer to earlier ones of
its connection. :func:`unpack_payload` undoes that of venues which compress each payload
by itself.

Rules: sans-I/O. Whatever the input, it takes linear time, and nothing is raised but
:class:`BadPayload`. Section numbers are those of RFC 7692.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal, NamedTuple, final

__all__ = [
    "GZIP_MAGIC",
    "BadPayload",
    "DeflateParameters",
    "Inflater",
    "PayloadTooBig",
    "unpack_all",
    "unpack_payload",
]

GZIP_MAGIC: Final = b"\x1f\x8b"
"""The first bytes of gzipped data (RFC 1952, section 2.3.1)."""

# The sender removes these bytes from the end of each message (section 7.2.1).
_TAIL: Final = b"\x00\x00\xff\xff"
_MAX_BITS: Final = 15
# zlib cannot deflate with 8 bits. Senders that agree to 8 are known to use 9.
_MIN_BITS: Final = 9
_GZIP: Final = 16 + zlib.MAX_WBITS
# How much of a payload zlib gets at once. At the end of each gzip member zlib copies
# all input behind it. With the whole payload at once, a payload of many empty members
# would take quadratic time.
_STEP: Final = 4096
# zlib takes no larger number.
_UNLIMITED: Final = sys.maxsize - 1


class BadPayload(Exception):
    """A payload cannot be unpacked; the text says why and quotes nothing of it."""


@final
class PayloadTooBig(BadPayload):
    """A payload would be larger than the limit when unpacked."""

    def __init__(self) -> None:
        super().__init__("larger than max_message_size when unpacked")


class DeflateParameters(NamedTuple):
    """What a server accepted of permessage-deflate (section 7.1).

    Our own messages are never compressed, which the extension allows (section 6.1). So
    the two parameters of the client bind us to nothing.
    """

    server_no_context_takeover: bool = False
    """No message of the server refers to an earlier one."""
    server_max_window_bits: int = _MAX_BITS
    """The server refers back by at most two to the power of this many bytes."""
    client_no_context_takeover: bool = False
    client_max_window_bits: int = _MAX_BITS


@final
class Inflater:
    """Unpacks the compressed messages of one connection, in their order.

    After :class:`BadPayload` it is of no more use: later messages may refer to the one
    that could not be unpacked.

    A message that was cut off is not recognised by itself, since deflated data has no
    checksum and zlib just waits for the rest. As a rule the next message then fails.

    Args:
        parameters: what the server accepted.
        limit: the largest message, in bytes when unpacked.
    """

    __slots__ = ("_keeps_context", "_limit", "_new_stream", "_stream")

    def __init__(self, parameters: DeflateParameters, limit: int) -> None:
        bits = max(_MIN_BITS, parameters.server_max_window_bits)
        self._keeps_context = not parameters.server_no_context_takeover
        self._limit = min(limit, _UNLIMITED)
        # Negative bits: deflated data without a header.
        self._new_stream = partial(zlib.decompressobj, -bits)
        self._stream = self._new_stream()

    def unpack(self, payload: bytes) -> bytes:
        """Return the message whose frames had *payload* (section 7.2.2).

        Raises:
            PayloadTooBig: it is larger than the limit.
            BadPayload: *payload* is no deflated data.
        """
        stream = self._stream
        try:
            message = stream.decompress(payload + _TAIL, self._limit + 1)
            if len(message) > self._limit:
                raise PayloadTooBig
            if stream.eof:
                message += self._behind_final_block(stream.unused_data, len(message))
        except zlib.error:
            raise BadPayload("not deflated data") from None
        if stream.eof or not self._keeps_context:
            self._stream = self._new_stream()
        return message

    def _behind_final_block(self, rest: bytes, size: int) -> bytes:
        """Unpack the *rest* of a message behind a block that is marked as the last.

        A sender whose library cannot flush ends each message by such a block, and an
        empty block behind it (section 7.2.3.4). Its library then begins anew, with
        nothing to refer back to.
        """
        stream = self._new_stream()
        more = stream.decompress(rest, self._limit + 1 - size)
        if size + len(more) > self._limit:
            raise PayloadTooBig
        if stream.eof:
            # Each final block makes zlib copy the rest of the message, so that a
            # message of many such blocks would take quadratic time.
            raise BadPayload("more than one final block")
        return more


def unpack_payload(kind: Literal["gzip", "deflate"], payload: bytes, limit: int) -> bytes:
    """Return the message that a venue has compressed into *payload*.

    Args:
        kind: how it is compressed. ``"gzip"`` (RFC 1952) may have several members.
            ``"deflate"`` is deflated data with the header of zlib (RFC 1950) or without
            one (RFC 1951), since venues say "deflate" for both.
        payload: all of it.
        limit: the largest message, in bytes when unpacked.

    Raises:
        PayloadTooBig: it is larger than *limit*.
        BadPayload: *payload* is damaged or cut off, or something else follows it.
    """
    if kind == "gzip":
        bits = _GZIP
    else:
        bits = zlib.MAX_WBITS if _has_zlib_header(payload) else -zlib.MAX_WBITS
    limit = min(limit, _UNLIMITED)
    view = memoryview(payload)
    position = size = 0
    pieces: list[bytes] = []
    try:
        while position < len(payload) or not pieces:
            if pieces and kind != "gzip":
                raise BadPayload(f"something follows the {kind} data")
            stream = zlib.decompressobj(bits)
            while not stream.eof:
                step = view[position : position + _STEP]
                if not step:
                    raise BadPayload(f"the {kind} data is cut off")
                pieces.append(stream.decompress(step, limit + 1 - size))
                size += len(pieces[-1])
                if size > limit:
                    raise PayloadTooBig
                position += len(step) - len(stream.unused_data)
    except zlib.error:
        raise BadPayload(f"not {kind} data") from None
    return b"".join(pieces)


def _has_zlib_header(payload: bytes) -> bool:
    """Return whether *payload* begins with the two bytes of RFC 1950, section 2.2.

    Deflated data without that header never does in practice: 8 in the low half of the
    first byte would be a block without compression whose padding bits are not zero.
    """
    head = payload[:2]
    return len(head) == 2 and head[0] & 0x0F == 8 and int.from_bytes(head, "big") % 31 == 0


def unpack_all(
    packing: Literal["gzip", "deflate"],
    messages: Sequence[bytes],
    limit: int,
    on_bad: Callable[[bytes, str], object],
) -> list[bytes]:
    """Return *messages* as they were before the venue packed them.

    Args:
        packing: how.
        messages: as they came.
        limit: the size of the largest one, unpacked, in bytes.
        on_bad: called with each one that cannot be unpacked, and why.
    """
    found = []
    for message in messages:
        if packing == "gzip" and not message.startswith(GZIP_MAGIC):
            # Some venues pack the data and not their answers.
            found.append(message)
            continue
        try:
            found.append(unpack_payload(packing, message, limit))
        except BadPayload as error:
            on_bad(message, str(error))
    return found
