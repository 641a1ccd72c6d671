"""A look at a buffer from outside, for an operator: nothing is changed by it.

Rules: reads only. The buffer's own settings count, not those of the value.
"""

from __future__ import annotations

from functools import partial

import attrs

from .connection import Caller
from .keys import Keys
from .options import Options
from .scripts import LAG
from .visiting import ask, kept_settings, visit

__all__ = ["BufferLook", "GroupLook", "look"]


@attrs.frozen(slots=True, kw_only=True)
class GroupLook:
    """One group of workers, as the server sees it."""

    name: str
    lag: int
    """Ticks in the buffer that the group has not acknowledged."""
    lag_s: float
    """How long the oldest of them has been there, in seconds; 0: there is none."""
    pending: int
    """Entries that were fetched and are not acknowledged."""
    members: tuple[str, ...]
    """Workers that are there."""
    holders: dict[str, int]
    """How many shards each worker holds; what has run out is not counted."""


@attrs.frozen(slots=True, kw_only=True)
class BufferLook:
    """A buffer at one moment."""

    buffer: str
    """Its address and name, without a password."""
    maxsize: int
    shards: int
    used: int
    """Ticks in it."""
    appended: int
    """Ticks that were ever appended (``in``)."""
    deleted: int
    """Ticks that every group has acknowledged (``out``)."""
    entries: dict[int, int]
    """How many entries each stream has, by shard, if any."""
    groups: tuple[GroupLook, ...]
    dead: int
    """Dead letters that were ever written."""
    dead_kept: int
    """Dead letters that are there to be read."""


async def look(buffer: Options) -> BufferLook:
    """Return how *buffer* is doing.

    Raises:
        BrokerError: the server is away or refuses us, or there is no such buffer.

    Cancellation: nothing is left open.
    """
    return await visit(buffer, partial(_look, buffer=buffer))


async def _look(connection: Caller, buffer: Options) -> BufferLook:
    maxsize, keys = await kept_settings(connection, buffer)
    state, groups, dead_kept, clock, *lengths = await ask(
        connection,
        ("HMGET", keys.state, "in", "out", "dead"),
        ("SMEMBERS", keys.groups),
        ("XLEN", keys.dead),
        ("TIME",),
        *(("XLEN", key) for key in keys.streams),
    )
    came, out, dead = (int(each or 0) for each in state)
    now = int(clock[0]) + int(clock[1]) / 1e6
    return BufferLook(
        buffer=buffer.shown,
        maxsize=maxsize,
        shards=len(keys.streams),
        used=came - out,
        appended=came,
        deleted=out,
        entries={shard: length for shard, length in enumerate(lengths) if length},
        groups=tuple([await _group(connection, keys, each.decode(), now) for each in groups]),
        dead=dead,
        dead_kept=dead_kept,
    )


async def _group(connection: Caller, keys: Keys, name: str, now: float) -> GroupLook:
    lag, members, leases, *pending = await ask(
        connection,
        ("EVAL", LAG.body, 2 + len(keys.streams), keys.state, keys.done, *keys.streams, name),
        ("ZRANGE", keys.members(name), 0, -1, "WITHSCORES"),
        ("HGETALL", keys.leases(name)),
        *(("XPENDING", key, name) for key in keys.streams),
    )
    came, _, acked, _, oldest, *_ = lag
    holders: dict[str, int] = {}
    for lease in leases[1::2]:
        owner, _, until = lease.decode().split("|")
        if int(until) >= now * 1000:
            holders[owner] = holders.get(owner, 0) + 1
    return GroupLook(
        name=name,
        lag=max(0, came - acked),
        lag_s=0.0 if oldest < 0 else max(0.0, now - oldest / 1000),
        pending=sum(each[0] for each in pending),
        members=tuple(
            member.decode()
            for member, until in zip(members[::2], members[1::2], strict=True)
            if float(until) >= now * 1000
        ),
        holders=holders,
    )
