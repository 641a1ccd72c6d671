"""How far the entries of shards that were lost have been handled here.

If such a shard comes back before anybody else has had it, these entries come again, and
what was handled of them is not handled twice.

Rules: sync; no I/O, no clock. What is kept of a shard is bounded by what it held.
"""

from __future__ import annotations

from typing import final

from .shards import Entry, Memo, Shard

__all__ = ["Memos"]


@final
class Memos:
    """The memos of all shards, by the ids of their entries."""

    def __init__(self) -> None:
        self._fetched: dict[int, dict[bytes, Memo]] = {}
        self._unfetched: dict[int, dict[bytes, Memo]] = {}
        """Of entries that the server may give as new ones, or as pending ones."""

    def keep(self, shard: Shard, entry: Entry) -> None:
        """Keep how far *entry* of *shard*, which is lost, has been handled."""
        memo = entry.memo()
        self._fetched.setdefault(shard.number, {})[entry.id] = memo
        if entry.id in shard.unfetched:
            self._unfetched[shard.number] = {entry.id: memo}

    def take(self, number: int, entry_id: bytes) -> Memo | None:
        """Return and forget the memo of a pending entry of shard *number*."""
        return self._fetched.get(number, {}).pop(entry_id, None)

    def take_unfetched(self, number: int) -> dict[bytes, Memo]:
        """Return and forget those of entries that may come as new ones."""
        return self._unfetched.pop(number, {})

    def forget(self, number: int) -> None:
        """Forget the memos of pending entries: none is pending any more."""
        self._fetched.pop(number, None)
