"""A group that nobody uses any more is retired: nothing is kept for it from then on.

What a buffer keeps is the minimum over its groups. A group whose workers are gone for
good holds every tick, until the buffer is full and its ingests have to stop.

Rules: a group with workers is not touched. Entries are deleted a few at a time, so that
the server goes on serving others; what is cut off in between is deleted by the other
groups' next acknowledgements.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from ...errors import BrokerError
from .connection import Caller, Command
from .options import Options
from .scripts import FREE, RETIRE
from .visiting import ask, kept_settings, visit

__all__ = ["retire"]

_PAGES: Final = 10
"""How many hundreds of entries of a shard are deleted by one command."""


async def retire(buffer: Options, group: str) -> int:
    """Retire *group* of *buffer*; return how many ticks were deleted.

    Raises:
        BrokerError: it has workers, there is no such group or no such buffer, or the
            server is away or refuses us.

    Cancellation: the group is there as before, or is retired.
    """
    return await visit(buffer, partial(_retire, buffer=buffer, group=group))


async def _retire(connection: Caller, buffer: Options, group: str) -> int:
    _, keys = await kept_settings(connection, buffer)
    own = [keys.groups, keys.state, keys.done]
    rest = [keys.leases(group), keys.members(group), keys.progress(group), *keys.streams]
    count = 6 + len(keys.streams)
    (answer,) = await ask(connection, ("EVAL", RETIRE.body, count, *own, *rest, group))
    if answer < 0:
        (found,) = await ask(connection, ("SMEMBERS", keys.groups))
        known = ", ".join(sorted(each.decode() for each in found)) or "none yet"
        raise BrokerError(
            f"{buffer.shown}: there is no group {group!r}; there are: {known}",
            buffer=buffer.shown,
        )
    if answer > 0:
        raise BrokerError(
            f"{buffer.shown}: the group {group!r} has workers; end them, wait until their leases "
            f"are over ({buffer.lease:g} s if they were killed), and retire it then",
            buffer=buffer.shown,
        )
    ticks, shards = 0, list(range(len(keys.streams)))
    while shards:
        commands: list[Command] = [
            ("EVAL", FREE.body, 4, *own, keys.streams[shard], shard, _PAGES) for shard in shards
        ]
        replies = await ask(connection, *commands)
        ticks += sum(deleted for deleted, _ in replies)
        shards = [shard for shard, (_, whole) in zip(shards, replies, strict=True) if not whole]
    return ticks
