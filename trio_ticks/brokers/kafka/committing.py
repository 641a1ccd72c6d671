"""Which offsets are to be committed, are under way, and are confirmed.

Kafka takes an older offset after a newer one, and then everything between comes again.
So there is one commit under way at a time, and an offset is never lower than one that
was committed before, for as long as the partition is held.

Rules: sync, no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import final

import attrs

__all__ = ["CommitBook", "Mark"]


@attrs.frozen
class Mark:
    """A commit of one partition."""

    offset: int
    """The first record that is not acknowledged."""
    metadata: str = ""
    ticks: int = 0
    """How many ticks are acknowledged by it that were not before."""


@final
class CommitBook:
    """The commits of all partitions that are held."""

    def __init__(self) -> None:
        self._pending: dict[int, Mark] = {}
        self._sent: dict[int, Mark] | None = None
        self._highest: dict[int, int] = {}

    def add(self, shard: int, mark: Mark) -> None:
        """Have *mark* committed, in place of what is pending for *shard*.

        One that is older than what was there before is not committed.
        """
        before = self._pending.get(shard)
        ticks = mark.ticks + (before.ticks if before is not None else 0)
        if mark.offset < self._highest.get(shard, 0):
            if before is not None:
                self._pending[shard] = attrs.evolve(before, ticks=ticks)
            return
        self._highest[shard] = mark.offset
        self._pending[shard] = attrs.evolve(mark, ticks=ticks)

    @property
    def pending(self) -> bool:
        """Whether there is something to commit."""
        return bool(self._pending)

    @property
    def is_sent(self) -> bool:
        """Whether a commit is under way."""
        return self._sent is not None

    def unconfirmed(self, shard: int) -> bool:
        """Tell whether a commit of *shard* is pending or under way."""
        return shard in self._pending or shard in (self._sent or ())

    def take(self) -> dict[int, Mark]:
        """Return what is to be committed now; nothing while a commit is under way."""
        if self._sent is not None or not self._pending:
            return {}
        self._sent, self._pending = self._pending, {}
        return dict(self._sent)

    def confirm(self, refused: Collection[int] = ()) -> int:
        """Note the answer to what was taken.

        Args:
            refused: the partitions whose commit failed; they are pending again, unless
                there is something newer.

        Returns:
            How many ticks were acknowledged by it.
        """
        sent, self._sent = self._sent or {}, None
        ticks = 0
        for shard, mark in sent.items():
            if shard not in refused:
                ticks += mark.ticks
                continue
            newer = self._pending.get(shard, attrs.evolve(mark, ticks=0))
            self._pending[shard] = attrs.evolve(newer, ticks=newer.ticks + mark.ticks)
        return ticks

    def leave(self, shard: int) -> Mark | None:
        """Forget *shard*; return what of it is not confirmed, under way or not."""
        self._highest.pop(shard, None)
        sent = (self._sent or {}).pop(shard, None)
        pending = self._pending.pop(shard, None)
        if sent is None or pending is None:
            return sent if pending is None else pending
        return attrs.evolve(pending, ticks=pending.ticks + sent.ticks)
