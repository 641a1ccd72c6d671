"""What was received from a broker and is not acknowledged yet, by shard.

An entry may be acknowledged when all its ticks have an outcome, and so have all entries
of its shard before it: then what comes again after a crash is one stretch without
holes. Which ticks have no outcome yet is asked once a turn, and compared by identity.

Rules: sync; no I/O, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar, final

import attrs

__all__ = ["Held", "Outstanding", "identities"]

P = TypeVar("P")


def identities(unfinished: Iterable[Any]) -> frozenset[int]:
    """Return the identities of the *unfinished* ticks, for :class:`Outstanding`."""
    return frozenset(map(id, unfinished))


@attrs.define(slots=True)
class Held(Generic[P]):
    """One entry that was received."""

    position: P
    """Its place in the broker's stream: an id, an offset."""
    items: list[Any]
    """Its ticks that were delivered here; these objects must be kept, or another tick
    could get the identity of one of them."""
    ticks: int
    """How many ticks it counts for at the broker."""

    def is_finished(self, unfinished: frozenset[int]) -> bool:
        """Tell whether all its ticks have an outcome."""
        return not unfinished or unfinished.isdisjoint(map(id, self.items))


@final
class Outstanding(Generic[P]):
    """The entries of all shards that are held, each shard's in order."""

    def __init__(self) -> None:
        self._shards: dict[int, deque[Held[P]]] = {}
        self.ticks = 0
        """How many ticks are in them."""

    def __contains__(self, shard: int) -> bool:
        return bool(self._shards.get(shard))

    def shards(self) -> Iterator[int]:
        """Iterate over the shards of which something is kept."""
        return iter(self._shards)

    def of(self, shard: int) -> Iterator[Held[P]]:
        """Iterate over the entries of *shard*, oldest first."""
        return iter(self._shards.get(shard, ()))

    def add(self, shard: int, position: P, items: list[Any], ticks: int | None = None) -> None:
        """Keep an entry that was received; *ticks* if not all of it is delivered."""
        count = len(items) if ticks is None else ticks
        self._shards.setdefault(shard, deque()).append(Held(position, items, count))
        self.ticks += count

    def finished(self, shard: int, unfinished: frozenset[int], most: int = 500) -> list[Held[P]]:
        """Return the first entries of *shard* all of whose ticks have an outcome."""
        found: list[Held[P]] = []
        for held in self._shards.get(shard, ()):
            if len(found) == most or not held.is_finished(unfinished):
                break
            found.append(held)
        return found

    def settle(self, shard: int, unfinished: frozenset[int]) -> tuple[int, P | None]:
        """Forget the first entries of *shard* all of whose ticks have an outcome.

        Returns:
            Their number of ticks, and the position of the last of them; ``None``: there
            is none.
        """
        entries = self._shards.get(shard, deque())
        ticks, position = 0, None
        while entries:
            held = entries[0]
            if not held.is_finished(unfinished):
                break
            entries.popleft()
            ticks += held.ticks
            position = held.position
        if not entries:
            self._shards.pop(shard, None)
        self.ticks -= ticks
        return ticks, position

    def begun(self, shard: int, unfinished: frozenset[int]) -> int:
        """Return how many ticks at the beginning of the first entry have an outcome."""
        for held in self._shards.get(shard, ()):
            for count, item in enumerate(held.items):
                if id(item) in unfinished:
                    return count
        return 0

    def remove(self, shard: int, count: int) -> int:
        """Forget the first *count* entries of *shard*; return their number of ticks."""
        entries = self._shards.get(shard, deque())
        ticks = sum(entries.popleft().ticks for _ in range(min(count, len(entries))))
        if not entries:
            self._shards.pop(shard, None)
        self.ticks -= ticks
        return ticks

    def drop(self, shard: int) -> list[Held[P]]:
        """Forget all entries of *shard*, and return them."""
        entries = list(self._shards.pop(shard, ()))
        self.ticks -= sum(held.ticks for held in entries)
        return entries

    def symbols(self, shard: int) -> set[str]:
        """Return the symbols of the ticks of *shard* that are not acknowledged."""
        return {item.symbol for held in self._shards.get(shard, ()) for item in held.items}
