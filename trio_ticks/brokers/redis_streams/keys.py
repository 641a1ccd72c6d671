"""The keys of one buffer.

Rules: all share the hash tag ``{name}``, so that they are in one slot of a cluster, and
one script may touch them together.
"""

from __future__ import annotations

from typing import final

__all__ = ["Keys"]


@final
class Keys:
    """The keys of the buffer *name*, with *shards* shards."""

    __slots__ = (
        "_prefix",
        "dead",
        "done",
        "groups",
        "settings",
        "state",
        "streams",
    )

    def __init__(self, name: str, shards: int) -> None:
        self._prefix = f"{{{name}}}:"
        self.settings = self._key("settings")
        """A hash: what all programs must agree on."""
        self.state = self._key("state")
        """A hash: the sums of ticks, ``in`` and ``out``; ``acked:group``; the last
        fencing token."""
        self.groups = self._key("groups")
        """A set: the groups for which entries are kept."""
        self.done = self._key("done")
        """A hash: ``shard:group`` and the last entry that it acknowledged."""
        self.dead = self._key("dead")
        """A stream: the dead letters."""
        self.streams = [self._key(f"s:{shard}") for shard in range(shards)]
        """A stream for each shard; an entry has the fields ``n`` (how many ticks) and
        ``t`` (the ticks)."""

    def _key(self, what: str) -> bytes:
        return (self._prefix + what).encode()

    def leases(self, group: str) -> bytes:
        """A hash: shard and ``owner|token|until``, in ms of the server's time."""
        return self._key(f"leases:{group}")

    def members(self, group: str) -> bytes:
        """A sorted set: who is there, and until when."""
        return self._key(f"members:{group}")

    def progress(self, group: str) -> bytes:
        """A hash: ``shard:entry`` and how far it has been handled."""
        return self._key(f"progress:{group}")

    def producer(self, producer: str) -> bytes:
        """A number: the last sequence number that was appended."""
        return self._key(f"p:{producer}")
