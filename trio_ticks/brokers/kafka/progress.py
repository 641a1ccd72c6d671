"""How far a worker is in a partition, beyond its committed offset: the commit metadata.

Kafka commits offsets, and a record may hold many ticks. What it cannot say is written
into the text that Kafka keeps beside a committed offset (at most 4,096 characters,
Kafka's ``offset.metadata.max.bytes``): which ticks of the next records have been
handled, and whether a worker that may have begun them still holds the partition.

Rules: sync, no I/O. A text that is not ours means that nothing is known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

__all__ = ["Progress", "read", "write"]

VERSION: Final = 1
_MOST_CHARS: Final = 3500
_LONGEST: Final = 1 << 16
"""Ticks of a record that are marked as handled."""


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known beside a committed offset."""

    v: int = VERSION
    holder: str = ""
    """Who holds the partition, and may have begun what comes after the offset. Empty if
    it was given back in good order."""
    window: int = 0
    """How many ticks after the offset the holder may have begun."""
    begun: int = 0
    """How often the first tick that was not handled has been begun alone."""
    done: tuple[tuple[int, str], ...] = ()
    """The ticks that were handled: how many records after the offset, and a bit for
    each tick of that record, as a hexadecimal number."""

    def handled(self, offset: int) -> dict[int, frozenset[int]]:
        """Return the handled ticks' places by record, if *offset* is committed."""
        found: dict[int, frozenset[int]] = {}
        for after, bits in self.done:
            mask = int(bits, 16)
            found[offset + after] = frozenset(
                place for place in range(mask.bit_length()) if mask >> place & 1
            )
        return found


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Progress).decode


def write(
    offset: int,
    *,
    holder: str = "",
    window: int = 0,
    begun: int = 0,
    handled: Mapping[int, Collection[int]] | None = None,
) -> str:
    """Return the metadata for a commit of *offset*.

    What does not fit is left out from the end, so that those ticks are repeated.

    Args:
        offset: the first record of which not all ticks are handled.
        holder: who may have begun more.
        window: how many ticks that may be.
        begun: how often the first tick that is not handled was begun alone.
        handled: the places of the handled ticks by record.
    """
    done: list[tuple[int, str]] = []
    chars = 100 + len(holder)
    for record, places in sorted((handled or {}).items()):
        if not places or record < offset:
            continue
        bits = f"{sum(1 << place for place in places if place < _LONGEST):x}"
        chars += len(bits) + 16
        if chars > _MOST_CHARS:
            break
        done.append((record - offset, bits))
    return _encode(Progress(holder=holder, window=window, begun=begun, done=tuple(done))).decode()


def read(metadata: str | None) -> Progress | None:
    """Return what *metadata* says; ``None`` if it is empty or not ours."""
    if not metadata:
        return None
    try:
        found = _decode(metadata)
        found.handled(0)
    except (msgspec.MsgspecError, ValueError):
        return None
    return found if found.v == VERSION else None
