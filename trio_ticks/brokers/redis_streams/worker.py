"""One worker as the server knows it: what its turns and its trials share.

Rules: sync; no I/O, no clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, final

import attrs

from ...logs import log_event
from .holdings import Holdings
from .options import Options
from .shards import Shard

__all__ = ["Counts", "Reply", "Worker"]

_LOGGER: Final = logging.getLogger("trio_ticks.brokers")

Reply = Callable[[Any], None]
"""Takes the reply to a command."""


@attrs.define(slots=True)
class Counts:
    """What has happened to the ticks of one worker."""

    received: int = 0
    redelivered: int = 0
    acknowledged: int = 0
    fenced: int = 0
    dead: int = 0
    junk: int = 0


@final
class Worker:
    """One worker of a group.

    Args:
        buffer: its settings.
        me: its name at the server.
        holdings: what it holds.
        counts: what is counted.
    """

    def __init__(self, buffer: Options, me: str, holdings: Holdings, counts: Counts) -> None:
        self.buffer: Final = buffer
        self.keys: Final = buffer.keys
        self.me: Final = me
        self.holdings: Final = holdings
        self.counts: Final = counts
        self.leases: Final = self.keys.leases(buffer.group)
        self.progress: Final = self.keys.progress(buffer.group)
        self.moved = 0
        """Ticks that were fetched, acknowledged or tried in this turn."""

    def has(self, shard: Shard) -> bool:
        """Tell whether *shard* is still the one that we hold."""
        return self.holdings.shards.get(shard.number) is shard

    def may_fetch(self, shard: Shard) -> bool:
        """Tell whether *shard* is ours and stays, and its earlier ticks are out."""
        if shard.leaving or shard.number in self.holdings.lost:
            return False
        return self.has(shard)

    def fence(self, shard: Shard) -> None:
        """Note that *shard* is another worker's."""
        if self.has(shard):
            self.counts.fenced += 1
            self.holdings.lose([shard])
            log_event(_LOGGER, logging.WARNING, "broker.shard_lost", shard=shard.number)
