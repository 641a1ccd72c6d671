"""A shard that is held, its entries, and how far each has been handled.

What is redelivered after a crash is *suspect*: one of its ticks may have killed the
process. It is tried one tick at a time, and the server knows which. A tick whose
process has died while it was tried is tried again *alone*: nothing else is in the
process then, so that the next death can only be its own.

A *record* is what the server keeps of an entry that is not just new: its first letter
(``c`` given back in good order, ``f`` that, and fetched again, ``t`` being tried, ``j``
junk whose dead letter is written), the places of the ticks that are done as the bits of
a hexadecimal number, the place that is tried, and how often the process has died there.
An entry without a record was fetched, and its holder did not come back.

Rules: sans-I/O.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, final

import attrs

from ...buffer import Stretch
from ..packing import JunkEntryError

__all__ = ["Entry", "Memo", "Read", "Shard", "later", "new_entry", "pending_entry"]

_RECORD: Final = re.compile(rb"^([cft])([0-9a-f]{1,300})\|(-?\d{1,9})\|(\d{1,9})$")
JUNK: Final = b"j"
Read = Callable[[bytes], Stretch]
"""Reads the body of an entry. Raises JunkEntryError if that is not possible."""


@attrs.frozen(slots=True)
class Memo:
    """How far an entry has been handled."""

    done: int = 0
    """The places of ticks that need not be handled again, as bits."""
    suspect: bool = False
    at: int = -1
    """The place at which the process has died."""
    deaths: int = 1
    """How often it has."""


@final
@attrs.define(slots=True, eq=False)
class Entry:
    """One entry that was fetched."""

    id: bytes
    ticks: int
    """How many ticks it counts for at the server."""
    stretch: Stretch
    done: int = 0
    suspect: bool = False
    at: int = -1
    deaths: int = 1
    tried: int = 0
    """How many of its ticks were tried here."""
    current: Any = None
    """The tick that is being tried."""
    unnoted: bool = False
    """Whether a tick is through that was tried, and the server does not know yet."""
    junk: JunkEntryError | None = None
    buried: bool = False
    """Whether the dead letter of the junk is written."""
    body: bytes = b""
    """What it holds, as long as it was not read, and if it is junk."""
    unread: bool = False
    """Whether its ticks are still to be read from its body."""

    @property
    def waiting(self) -> int:
        """How many of its ticks are still to be delivered, at most."""
        return 0 if self.junk is not None else self.ticks

    def read(self, read: Read) -> None:
        """Read its ticks; if that is not possible it is junk."""
        self.unread = False
        try:
            self.stretch = read(self.body)
            self.stretch.origins = [(0, self.id.decode(), 0)]
            if len(self.stretch.items) != self.ticks:
                raise JunkEntryError(
                    f"an entry of {len(self.body)} bytes is junk: its counts disagree"
                )
        except JunkEntryError as error:
            self.junk, self.stretch = error, Stretch()
        else:
            self.body = b""

    def learn(self, memo: Memo) -> None:
        """Take over how far it has been handled."""
        self.done, self.suspect, self.at, self.deaths = (
            memo.done,
            memo.suspect,
            memo.at,
            memo.deaths,
        )

    def places(self) -> list[int]:
        """Return the places of the ticks that are to be handled."""
        count = len(self.stretch.items)
        if not self.done:
            return list(range(count))
        return [place for place in range(count) if not self.done >> place & 1]

    def rest(self) -> Stretch:
        """Return the ticks that are to be handled, with their gaps."""
        return self.stretch if not self.done else self.part(self.places())

    def part(self, places: Iterable[int]) -> Stretch:
        """Return the ticks at *places*, with the gaps before them."""
        whole, part = self.stretch, Stretch()
        gaps = dict(whole.gaps)
        for place in places:
            if place in gaps:
                part.gaps.append((len(part.items), gaps[place]))
            part.origins.append((len(part.items), self.id.decode(), place))
            part.items.append(whole.items[place])
            part.arrived.append(whole.arrived[place])
        return part

    def finish(self, unhandled: frozenset[int]) -> None:
        """Note as done what was delivered, except for the identities *unhandled*."""
        for place in self.places():
            if id(self.stretch.items[place]) not in unhandled:
                self.done |= 1 << place

    def memo(self) -> Memo:
        """Return how far it has been handled, for when it is fetched again."""
        return Memo(self.done, self.suspect, self.at, self.deaths)

    def record(self) -> bytes:
        """Return what the server is to keep of it."""
        if self.buried:
            return JUNK
        kind = "t" if self.suspect else "c"
        return f"{kind}{self.done:x}|{self.at}|{self.deaths}".encode()


def _memo(record: bytes, *, mine: bool) -> Memo:
    """Return what *record* says of an entry that was pending.

    Args:
        record: what the server keeps of it; empty if nothing.
        mine: whether it was fetched by this very process, and never came here.
    """
    found = _RECORD.match(record)
    if found is None:
        return Memo(suspect=not mine)
    kind, done, at, deaths = found[1], int(found[2], 16), int(found[3]), int(found[4])
    if kind != b"t":
        return Memo(done, suspect=kind == b"f" and not mine)
    # We are alive: what we noted before the trial has not happened.
    return Memo(done, suspect=True, at=at, deaths=max(1, deaths - mine))


def new_entry(written: list[Any]) -> Entry:
    """Return an entry as the server gives it: its id and its fields. It is unread."""
    entry_id, fields = written[0], written[1]
    # The server's scripts count the same way.
    count = fields[1] if fields[0] == b"n" else b""
    ticks = int(count) if count.isdigit() and len(count) < 10 else 0
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    body = found.get(b"t") or b" ".join(each for pair in found.items() for each in pair)
    return Entry(entry_id, ticks, Stretch(), body=body, unread=True)


def pending_entry(read: Read, written: list[Any], memo: Memo | None) -> Entry:
    """Return an entry that had been fetched before, read.

    Args:
        read: of its ticks.
        written: its id and its fields, its record, and whether it was fetched by this
            very process.
        memo: how far it has been handled, if that is known here.
    """
    entry = new_entry(written)
    if written[2] == JUNK:
        entry.unread, entry.buried, entry.junk = False, True, JunkEntryError("junk")
        return entry
    entry.read(read)
    if entry.junk is None:
        mine = bool(written[3])
        entry.learn(memo if mine and memo is not None else _memo(written[2], mine=mine))
    return entry


def later(one: bytes, other: bytes) -> bytes:
    """Return the later one of two ids; an empty one is before all."""
    return max(one, other, key=_order)


def _order(entry_id: bytes) -> tuple[int, int]:
    first, _, second = entry_id.partition(b"-")
    return int(first or b"-1"), int(second or b"0")


@final
@attrs.define(slots=True, eq=False)
class Shard:
    """A shard for which we have a lease."""

    number: int
    token: str
    pending: bool = True
    """Whether earlier holders, or lost answers, may have left entries pending."""
    last: bytes = b""
    """The id of the last entry that came, and of the last one that cannot come."""
    queue: deque[Entry] = attrs.field(factory=deque)
    """What was fetched and is not delivered; at its head may be a suspect entry."""
    unfetched: set[bytes] = attrs.field(factory=set)
    """Ids of entries that are here, and that the server has not said are ours yet. None
    of them may be acknowledged, and when they are fetched they do not come again."""
    leaving: bool = False
    """Whether it is given up as soon as its ticks are finished."""
    farewell: str = ""
    """``"begun"``: the handler is being told that it goes; ``"told"``: it was."""

    @property
    def trial(self) -> Entry | None:
        """The suspect entry whose turn it is."""
        head = self.queue[0] if self.queue else None
        return head if head is not None and head.suspect else None

    @property
    def is_fast(self) -> bool:
        """Whether nothing in the queue is suspect or junk, as far as it was read."""
        return not any(entry.suspect or entry.junk is not None for entry in self.queue)

    @property
    def blocked(self) -> bool:
        """Whether the next entry is none that may be delivered whole."""
        head = self.queue[0] if self.queue else None
        return head is not None and (head.suspect or head.junk is not None)

    def fast(self, read: Read, most: int) -> list[Entry]:
        """Take entries that may be delivered whole out of the queue, and read them.

        Args:
            read: of their ticks.
            most: after so many ticks no other entry is taken.
        """
        found: list[Entry] = []
        while most > 0 and self.queue and not self.blocked:
            if self.queue[0].unread:
                # It may be found to be junk.
                self.queue[0].read(read)
                continue
            found.append(self.queue.popleft())
            most -= found[-1].ticks
        return found
