"""Who gets which of an ingest's shards: the fair share, with as few moves as possible.

Plan: each member may hold the whole part of shards / members, and the members with the
most one more until all shards have a place. Who holds more than that gives the surplus
up; what is free goes to those who have the least. A shard that is being given up is
neither free nor kept, so that two members never hold it.

Rules: sans-I/O; the result depends on the arguments alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

__all__ = ["Moves", "moves"]


@attrs.frozen
class Moves:
    """What has to change, as pairs of a member and a shard."""

    grants: list[tuple[bytes, int]]
    revokes: list[tuple[bytes, int]]


def moves(kept: Mapping[bytes, Sequence[int]], free: Iterable[int], total: int) -> Moves:
    """Return what brings each member its fair share.

    Args:
        kept: the shards of each member without those that it is giving up. Its last
            ones are the first to be taken away.
        free: the shards that nobody holds.
        total: how many shards there are.
    """
    if not kept:
        return Moves([], [])
    members = sorted(kept, key=lambda member: (-len(kept[member]), member))
    least, places = divmod(total, len(members))
    share = {member: least + (place < places) for place, member in enumerate(members)}
    revokes = [(member, shard) for member in members for shard in kept[member][share[member] :]]
    grants: list[tuple[bytes, int]] = []
    missing = {member: share[member] - len(kept[member]) for member in reversed(members)}
    for shard in free:
        # One at a time to the member that lacks the most: all begin to work at once.
        member = max(missing, key=lambda each: missing[each])
        if missing[member] <= 0:
            break
        missing[member] -= 1
        grants.append((member, shard))
    return Moves(grants, revokes)
