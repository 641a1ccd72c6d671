"""The recorder's own lines in a recording: ``<ns> #<word> <JSON>``.

They stand between the messages, at the time at which something happened:

- ``#recording``: the first line of each file: of which feed and venue it is, and which
  part of which run of the recorder.
- ``#opened``, ``#lost``: a connection of the feed. ``#connection``: what follows came
  by another one than before. Without such a line it is connection 1.
- ``#subscribed``, ``#unsubscribed``: symbols that were added or taken away.
- ``#dropped``: messages that could not be recorded. ``#damaged``: no file holds it; the
  reader makes it where a part of the file cannot be read.
- ``#clock``: the system's wall clock has made a step.
- ``#closed``: the last line of a file that was ended in good order.
- ``#trade``, ``#book``, ``#bar``, ``#gap``: an item, or a loss, of a feed that has no
  messages, or that got it by another way, such as the snapshot of a book over REST.
- ``#b64``: a message that is no line of its own, in base64.

Rules: bytes and times only. A line that is not one of these is a message.
"""

from __future__ import annotations

import binascii
import re
from typing import Any, Final

import msgspec

__all__ = [
    "ITEM_WORDS",
    "event_line",
    "facts_of",
    "pack_message",
    "read_event",
    "unpack_message",
]

ITEM_WORDS: Final = frozenset({"trade", "book", "bar", "gap"})
_WORDS: Final = ITEM_WORDS | {
    "recording",
    "opened",
    "lost",
    "connection",
    "subscribed",
    "unsubscribed",
    "dropped",
    "damaged",
    "clock",
    "closed",
}
_EVENT: Final = re.compile(rb"(?:\d{1,19} )?#([a-z]{3,12}) (\{.*\})", re.DOTALL)
_PACKED: Final = b"#b64 "
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def event_line(ns: int | None, word: str, facts: dict[str, Any]) -> bytes:
    """Return the line of an event, without its end.

    Args:
        ns: when it happened, in nanoseconds since 1970; ``None``: it is not known.
        word: what happened.
        facts: more about it, as JSON can write it.
    """
    head = b"" if ns is None else b"%d " % ns
    return head + b"#" + word.encode() + b" " + _encode(facts)


def read_event(line: bytes) -> tuple[str, bytes] | None:
    """Return the word of an event, and its facts as JSON.

    Args:
        line: with or without its time.

    Returns:
        ``None`` if it is none of the recorder's own lines.
    """
    match = _EVENT.fullmatch(line)
    if match is None:
        return None
    word = match[1].decode("ascii")
    return (word, match[2]) if word in _WORDS else None


def facts_of(body: bytes) -> dict[str, Any]:
    """Return the facts of an event; none if they make no sense."""
    try:
        return _decode(body)
    except (ValueError, RecursionError):
        return {}


def unpack_message(message: bytes) -> bytes:
    """Return the message in a line that begins with ``#``.

    A message of which the recorder had to make base64 comes out as it was received; any
    other is returned as it is.
    """
    if message.startswith(_PACKED):
        try:
            return binascii.a2b_base64(message[len(_PACKED) :], strict_mode=True)
        except binascii.Error:
            pass
    return message


def pack_message(message: bytes) -> bytes:
    """Return *message* so that it is a line of its own."""
    return _PACKED + binascii.b2a_base64(message, newline=False)
