"""The last commits of a worker that leaves: sent until they are taken, in bounds.

A group that is rebalancing refuses commits, and answers late: a worker that leaves just
then would have all that it handled since repeated. So its last commits are sent again,
for as long as the partitions are still its own.

Rules: called in the event loop. A partition that is revoked meanwhile takes its last
commit along, see :class:`~.parting.Parting`; it is not sent after that, since another
may have committed more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final

import trio

from .committing import Mark
from .consuming import Turn
from .holding import Holding
from .parting import Parting

__all__ = ["Poll", "leave"]

_AGAIN_S: Final = 0.05

Poll = Callable[[Mapping[int, Mark]], Awaitable[Turn]]
"""Commits the marks, polls the client for a moment, and returns what came of it."""


async def leave(
    holding: Holding,
    parting: Parting,
    poll: Poll,
    timeout_s: float,
    is_away: Callable[[], bool] = bool,
) -> None:
    """Give all partitions up, and wait until that is committed.

    While the broker is away, it is waited for only if that acknowledges a tick.

    Args:
        holding: what is held.
        parting: gives up, and keeps the last commits.
        poll: the client's turn.
        timeout_s: how long the commits may take; then what they acknowledge is counted
            as given back, and comes again.
        is_away: tells whether the broker does not answer.

    Cancellation: what is not committed comes again.
    """
    last = parting.last
    last |= await parting.hand_over(list(holding.shards))
    # Without the others the next holder is only more careful than it has to be.
    matters = any(mark.ticks for mark in last.values()) or not is_away()
    with trio.move_on_after(timeout_s):
        while matters and (last or holding.book.is_sent):
            if holding.book.is_sent:
                # The answer to the last usual commit comes first.
                turn = await poll({})
                if turn.refused is not None:
                    holding.confirm(turn.refused)
                continue
            sent = dict(last)
            refused = await _answered(poll, sent)
            done = [shard for shard in sent if shard not in refused and shard in last]
            parting.handed_over({shard: last.pop(shard) for shard in done}, True)
            if refused:
                await trio.sleep(_AGAIN_S)
    parting.handed_over(last, not last)
    last.clear()


async def _answered(poll: Poll, commits: Mapping[int, Mark]) -> Collection[int]:
    """Send *commits* once, and return which partitions were refused."""
    turn = await poll(commits)
    while turn.refused is None:
        turn = await poll({})
    return turn.refused
