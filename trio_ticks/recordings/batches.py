"""What a feed has brought, as lines: a batch of messages in a few steps of C.

Rules: sans-I/O. Whatever a message holds, it becomes one line, from which the same
message can be read; one that is too long for a line is left out, and counted. A secret
in it is masked: a venue may repeat the key that it refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from ..logs import Redactor
from .events import event_line, pack_message
from .files import MAX_LINE

__all__ = ["Batch", "Lines", "lines_of"]

_ROOM: Final = 64
"""Bytes of a line that are for its time and a word."""
_LONGEST_PLAIN: Final = MAX_LINE - _ROOM
_LONGEST_PACKED: Final = (MAX_LINE - _ROOM) // 4 * 3


class Batch(NamedTuple):
    """What came at one moment."""

    at: float
    """On the pipeline's clock."""
    size: int
    """Its share of the buffer, in bytes."""
    connection: int = 0
    """Which connection of the feed brought the messages."""
    messages: Sequence[bytes] = ()
    items: Sequence[Any] = ()
    """Items of a feed that has no messages."""
    word: str = ""
    """Of an event; then there is nothing else."""
    facts: dict[str, Any] | None = None


class Lines(NamedTuple):
    """The lines of a batch."""

    data: bytes
    """With their ends."""
    messages: int
    """How many messages, or items, they hold."""
    left_out: int
    """How many could not be written."""


def lines_of(
    batch: Batch,
    ns: int,
    redactor: Redactor | None,
    encode: Callable[[Sequence[Any]], tuple[list[bytes], int]],
) -> Lines:
    """Return the lines of *batch*, which came at *ns* nanoseconds since 1970.

    Args:
        batch: what came.
        ns: when.
        redactor: knows the feed's secrets.
        encode: makes messages of items, and says how many items it cannot write.
    """
    if batch.word:
        return Lines(event_line(ns, batch.word, batch.facts or {}) + b"\n", 0, 0)
    prefix = b"%d " % ns
    if batch.items:
        messages, left_out = encode(batch.items)
        return Lines(_joined(prefix, messages), len(messages), left_out)
    data = _joined(prefix, batch.messages)
    if redactor is not None and redactor.may_be_in(data):
        data = _joined(prefix, [redactor.payload(message) for message in batch.messages])
    count = len(batch.messages)
    # A line end inside a message, or a message that looks like an event, are rare: look
    # for them in all of the batch at once. Two lines may be long together only.
    if data.count(b"\n") == count and b" #" not in data and len(data) <= _LONGEST_PLAIN:
        return Lines(data, count, 0)
    return _one_by_one(batch, prefix, redactor)


def _joined(prefix: bytes, messages: Sequence[bytes]) -> bytes:
    return prefix + (b"\n" + prefix).join(messages) + b"\n" if messages else b""


def _one_by_one(batch: Batch, prefix: bytes, redactor: Redactor | None) -> Lines:
    lines: list[bytes] = []
    for message in batch.messages:
        if redactor is not None:
            message = redactor.payload(message)
        if b"\n" in message or message[:1] == b"#":
            if len(message) > _LONGEST_PACKED:
                continue
            message = pack_message(message)
        elif len(message) > _LONGEST_PLAIN:
            continue
        lines.append(message)
    return Lines(_joined(prefix, lines), len(lines), len(batch.messages) - len(lines))
