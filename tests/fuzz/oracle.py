"""What has to hold for any bytes at all.

An independent parser (wsproto's) checks it, and so does cutting the input up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from trio_ticks.feeds.websocket.frames import CloseReason, FrameParser
from trio_ticks.feeds.websocket.inflate import DeflateParameters

UNLIMITED = 2**64
"""Beyond the longest frame, which may come after other fragments of its message."""


class Parsed(NamedTuple):
    messages: list[bytes]
    controls: list[bytes]
    violation: CloseReason | None
    closed: CloseReason | None
    idle: bool


def parse(
    pieces: Iterable[bytes],
    max_message_size: int = UNLIMITED,
    deflate: DeflateParameters | None = None,
) -> Parsed:
    parser = FrameParser(max_message_size=max_message_size, deflate=deflate)
    messages: list[bytes] = []
    controls: list[bytes] = []
    for piece in pieces:
        over = parser.closed or parser.violation
        more_messages, more_controls = parser.feed(piece)
        assert not over or not (more_messages or more_controls), "something came out after the end"
        messages += more_messages
        controls += more_controls
    return Parsed(messages, controls, parser.violation, parser.closed, parser.idle)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Return *data* in pieces; *places* may be any numbers."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def check_splits(
    data: bytes,
    places: Sequence[int],
    max_message_size: int = UNLIMITED,
    deflate: DeflateParameters | None = None,
) -> Parsed:
    """Check that how *data* is cut makes no difference; returns what is in it."""
    whole = parse([data], max_message_size, deflate)
    assert parse(cut(data, places), max_message_size, deflate) == whole
    assert all(len(message) <= max_message_size for message in whole.messages)
    assert not (whole.closed and whole.violation)
    return whole


def check_against_wsproto(data: bytes) -> None:
    """Check that wsproto finds the same in *data*.

    It also checks that text is UTF-8, so what follows bad text is not compared.
    """
    ours = parse([data])
    pings_and_pongs = [_payload(control) for control in ours.controls if control[0] != 0x88]

    theirs = Connection(ConnectionType.CLIENT)
    # wsproto reads a whole header before it checks the first byte. If our parser
    # decided on less, wsproto gets the rest of a header.
    theirs.receive_data(data + bytes(8) if ours.violation else data)
    messages: list[bytes] = []
    controls: list[bytes] = []
    message = b""
    failed: int | None = None
    closed: int | None = None
    for event in theirs.events():
        match event:
            case TextMessage() | BytesMessage():
                message += event.data.encode() if isinstance(event, TextMessage) else event.data
                if event.message_finished:
                    messages.append(message)
                    message = b""
            case Ping() | Pong():
                controls.append(bytes(event.payload))
            case CloseConnection() if theirs.state is ConnectionState.REMOTE_CLOSING:
                closed = event.code
            case CloseConnection():
                failed = event.code
                if failed == 1007 and "CLOSE reason" not in (event.reason or ""):
                    assert ours.messages[: len(messages)] == messages
                    assert pings_and_pongs[: len(controls)] == controls
                    return
    assert ours.messages == messages
    assert pings_and_pongs == controls
    assert (ours.violation and ours.violation.code) == failed
    assert (ours.closed and ours.closed.code) == closed


def _payload(control: bytes) -> bytes:
    assert control[1] == len(control) - 2 <= 125
    return control[2:]
