"""What a worker process holds of the topic: received, delivered, finished, committed.

Each partition is a shard of the seam. A record is received, its ticks wait until they
are delivered, and have an outcome one by one; the offset after the last record whose
ticks all have one, as those of all records before it, is committed.

Rules: sync, no I/O, no clock; used in the event loop alone. Every tick received is in
exactly one of: not acknowledged, acknowledged, given back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Any, final

import attrs

from ...buffer import Stretch
from ..acknowledging import Outstanding
from .careful import Careful, Single, Suspects
from .committing import CommitBook, Mark
from .consuming import Entry
from .progress import Progress, read, write
from .ready import Ready
from .settings import KafkaSettings

__all__ = ["Holding"]


@attrs.define
class _Shard:
    next: int | None
    """The first record that is not received yet; ``None`` before the first one."""
    first: int | None
    """The first record that was not settled."""
    skip: dict[int, frozenset[int]] = attrs.field(factory=dict)
    """Ticks that were handled before, by record."""
    skipped: dict[int, tuple[frozenset[int], list[int]]] = attrs.field(factory=dict)
    """Of records with such ticks: their places, and those of the others."""
    opening: bool = False
    """Whether it is not committed yet that we hold the partition."""
    is_open: bool = False
    """Whether that is committed."""
    arrived: deque[tuple[int, float]] = attrs.field(factory=deque)
    """When the first tick of each record arrived at the ingest."""


@final
class Holding:
    """The shards of one source.

    Args:
        kafka: the buffer.
        holder: a name of this source that no other has.
    """

    def __init__(self, kafka: KafkaSettings, holder: str) -> None:
        self._kafka = kafka
        self._holder = holder
        self.window = 4 * kafka.prefetch
        """How many ticks may be received and not confirmed as committed."""
        self._suspects = max(1, 2 * kafka.prefetch // kafka.partitions)
        """After a crash, how many ticks of a shard are handled one at a time. A tick
        beyond them that kills its process costs one more death, and is found then."""
        self.shards: dict[int, _Shard] = {}
        self.outstanding: Outstanding[int] = Outstanding()
        self.book = CommitBook()
        self.keeps_metadata: bool | None = None
        """Whether the broker keeps commit metadata; ``None``: not known yet."""
        self.unread: deque[Entry] = deque()
        """Records that came and are not read yet."""
        self._ready = Ready()
        self._careful = Suspects(
            kafka.max_deliveries,
            self._mark,
            lambda shard: not self.book.unconfirmed(shard),
            self._ready.add,
        )
        self.received = self.redelivered = self.acknowledged = self.given_back = 0
        self.takeovers = 0

    @property
    def unacknowledged(self) -> int:
        """Ticks that are received and neither acknowledged nor given back."""
        return self.received - self.acknowledged - self.given_back

    @property
    def is_urgent(self) -> bool:
        """Whether ticks wait for a commit."""
        return bool(self._careful.shards) or any(state.opening for state in self.shards.values())

    def to_verify(self) -> int | None:
        """Return a shard whose metadata was committed and was never read back."""
        if self.keeps_metadata is not None:
            return None
        opened = (
            shard
            for shard, state in self.shards.items()
            if state.is_open and not self.book.unconfirmed(shard)
        )
        return next(opened, None)

    def verified(self, kept: bool) -> None:
        """Note whether the broker keeps the metadata of commits."""
        if self.keeps_metadata is None:
            self.keeps_metadata = kept

    # Shards come

    def gain(self, shard: int, offset: int | None, metadata: str | None) -> None:
        """Begin with *shard*, at the committed *offset* if it is known."""
        self.shards.pop(shard, None)
        self.unread = _of_others(self.unread, [shard])
        found = read(metadata)
        state = self.shards[shard] = _Shard(offset, offset)
        self.takeovers += 1
        if found is not None and offset is not None:
            state.skip = found.handled(offset)
            if found.holder not in ("", self._holder):
                # It died, or lost the shard while it could not speak.
                self._careful.shards[shard] = Careful(found.window, found.begun)
        if offset is None or self.keeps_metadata is False:
            return
        state.opening = True
        progress = found or Progress()
        careful = self._careful.shards.get(shard)
        text = write(
            offset,
            holder=self._holder,
            window=self._suspects if careful is None else careful.left,
            begun=progress.begun,
            handled=state.skip,
        )
        self.book.add(shard, Mark(offset, text))

    def receive(self, shard: int, offset: int, stretch: Stretch) -> None:
        """Keep a record of *shard* until its ticks have an outcome, and deliver it."""
        state = self.shards[shard]
        if state.next is not None and offset < state.next:
            # The broker has lost the topic, and begins anew.
            self.book.leave(shard)
            state.arrived.clear()
            state.first = None
        if state.first is None or offset < state.first:
            state.first = offset
        state.next = offset + 1
        stretch.origins = [(0, str(offset), 0)]
        done = state.skip.pop(offset, None)
        if done:
            stretch = _without(state, offset, stretch, done)
        self.received += len(stretch.items)
        self.outstanding.add(shard, offset, stretch.items)
        if not stretch.items:
            return
        state.arrived.append((offset, stretch.arrived[0]))
        self._ready.undelivered.update(map(id, stretch.items))
        careful = self._careful.shards.get(shard)
        if careful is None:
            self._ready.add(shard, stretch)
        else:
            self.redelivered += len(stretch.items)
            careful.add(offset, stretch)

    def junk(self, shard: int, offset: int, token: object) -> None:
        """Keep a record that cannot be read until *token* is no longer unfinished."""
        self.shards[shard].next = offset + 1
        self.outstanding.add(shard, offset, [token], 0)

    # Ticks are delivered

    def next_ready(self) -> tuple[int, Stretch] | None:
        """Return what is to be delivered next, and its shard; ``None``: nothing now.

        Ticks that a worker still handles although their shard was given up are ended
        before the shard's ticks are delivered again.
        """
        alone = self._careful.alone()
        return self._ready.next(
            lambda shard: not self.shards[shard].opening and alone in (None, shard)
        )

    def delivered(self, stretch: Stretch) -> None:
        """Note that *stretch* is in the channel, or was given back by it."""
        self._ready.delivered(stretch.items)

    # Ticks have an outcome

    def unfinished(self, items: Iterable[Any]) -> frozenset[int]:
        """Return the identities of *items* and of all that is not delivered yet."""
        return frozenset(map(id, items)) | self._ready.undelivered

    def settle(self, unfinished: frozenset[int]) -> None:
        """Have the offsets committed up to which no tick is *unfinished*."""
        self._ready.settle(unfinished)
        for shard, state in self.shards.items():
            if shard not in self.outstanding:
                continue
            done = self.outstanding.finished(shard, unfinished, 100_000)
            if not done:
                continue
            for held in done:
                state.skipped.pop(held.position, None)
            state.first = done[-1].position + 1
            while state.arrived and state.arrived[0][0] < state.first:
                state.arrived.popleft()
            ticks = self.outstanding.remove(shard, len(done))
            self.book.add(shard, Mark(state.first, self._metadata(shard), ticks))

    def _metadata(self, shard: int) -> str:
        if self.keeps_metadata is False:
            return ""
        careful = self._careful.shards.get(shard)
        window = self._suspects if careful is None else max(0, careful.left)
        return write(0, holder=self._holder, window=window)

    def confirm(self, refused: Collection[int]) -> None:
        """Note that the commit under way was answered."""
        self.acknowledged += self.book.confirm(refused)
        for shard, state in self.shards.items():
            if state.opening and not self.book.unconfirmed(shard):
                state.opening, state.is_open = False, True

    def step(self, unfinished: frozenset[int]) -> list[tuple[int, Single]]:
        """Go on with the shards that are handled one tick at a time.

        Returns:
            Ticks that are not to be handled any more, with their shards. They stay
            unfinished until they are :meth:`delivered`.
        """
        if not self._careful.shards:
            return []
        return self._careful.step(unfinished, bool(unfinished - self._ready.undelivered))

    def _mark(self, shard: int, careful: Careful, unfinished: frozenset[int]) -> None:
        """Have it committed that the next tick of *shard* is being begun."""
        offset, handled = self.progress(shard, unfinished)
        text = write(
            offset,
            holder=self._holder,
            window=careful.left,
            begun=careful.begun,
            handled=handled,
        )
        self.book.add(shard, Mark(offset, text))

    def progress(
        self, shard: int, unfinished: frozenset[int]
    ) -> tuple[int, dict[int, frozenset[int]]]:
        """Return the first record of *shard* with a tick that has no outcome.

        And the places of the ticks after that which have one, by record.
        """
        state = self.shards[shard]
        handled = dict(state.skip)
        first: int | None = None
        for held in self.outstanding.of(shard):
            skipped, kept = state.skipped.get(held.position, (frozenset[int](), None))
            places = {
                place if kept is None else kept[place]
                for place, item in enumerate(held.items)
                if id(item) not in unfinished
            }
            if first is None and len(places) < len(held.items):
                first = held.position
            if first is not None and (places or skipped):
                handled[held.position] = skipped | places
        if first is None:
            first = state.first if state.next is None else state.next
        return first or 0, handled

    # Shards go

    def recall(self, shards: Collection[int]) -> None:
        """Deliver no more of *shards*; what was not delivered stays unfinished."""
        self.unread = _of_others(self.unread, shards)
        self._ready.recall(shards)
        for shard in shards:
            self._careful.shards.pop(shard, None)

    def leave(
        self, shard: int, undone: frozenset[int], begun: frozenset[int], *, lost: bool = False
    ) -> Mark | None:
        """Give *shard* up.

        Args:
            shard: that is given up.
            undone: the identities of the ticks without an outcome.
            begun: those of them that a worker still handles.
            lost: whether another may have it already, so that nothing is committed.

        Returns:
            What is to be committed; ``None``: nothing.
        """
        state = self.shards[shard]
        offset, handled = self.progress(shard, undone)
        unconfirmed = self.book.leave(shard)
        ticks = 0 if unconfirmed is None else unconfirmed.ticks
        self.recall([shard])
        entries = self.outstanding.drop(shard)
        items = [item for held in entries for item in held.items]
        self._ready.delivered(items)
        self._ready.linger(shard, [item for item in items if id(item) in begun])
        dropped = sum(held.ticks for held in entries)
        del self.shards[shard]
        if lost:
            self.given_back += dropped + ticks
            return None
        # What is handled after the offset is handled once more if this is not kept.
        done = sum(
            sum(id(item) not in undone for item in held.items) if held.ticks else 0
            for held in entries
            if held.position < offset or self.keeps_metadata
        )
        self.given_back += dropped - done
        if state.first is None and state.next is None and unconfirmed is None:
            return None
        text = "" if self.keeps_metadata is False else write(offset, handled=handled)
        return Mark(offset, text, ticks + done)

    def return_to(self, shard: int, undone: frozenset[int], begun: frozenset[int]) -> int:
        """Forget what of *shard* has no outcome, for it to be received once more.

        Returns:
            The record to begin with. What is handled already is left out then.
        """
        offset, handled = self.progress(shard, undone)
        mark = self.leave(shard, undone, begun)
        self.shards[shard] = _Shard(None, offset, handled)
        if mark is not None:
            self.book.add(shard, Mark(offset, self._metadata(shard), mark.ticks))
        return offset


def _of_others(unread: Iterable[Entry], shards: Collection[int]) -> deque[Entry]:
    """Return what is not of *shards*: what is of them comes to their next holder."""
    return deque(entry for entry in unread if entry.shard not in shards)


def _without(state: _Shard, offset: int, stretch: Stretch, done: frozenset[int]) -> Stretch:
    kept = [place for place in range(len(stretch.items)) if place not in done]
    state.skipped[offset] = (done, kept)
    gaps = [(kept.index(place), gap) for place, gap in stretch.gaps if place not in done]
    items = [stretch.items[place] for place in kept]
    origins = [(new, str(offset), place) for new, place in enumerate(kept)]
    return Stretch(items, [stretch.arrived[place] for place in kept], gaps, origins)
