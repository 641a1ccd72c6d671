"""What happens to a worker's ticks when partitions come and go.

When partitions are revoked, their ticks go on for half of ``hand_over_s``; what is
still queued then is withdrawn, what has been begun is waited for until the end of it,
and what is done is committed before the partitions go. Where the broker keeps no
metadata of commits, what is done behind a tick that is withdrawn comes again: there
they go on for nine tenths.

Rules: called in the event loop, from inside a turn of the client's thread. A tick that
is withdrawn is no longer in the channel, and yet not handled: what was withdrawn is
found in the same step in which it is withdrawn, and stays unfinished until its
partition is given up.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, final

import trio

from ...buffer import Outcomes, Send
from ...logs import log_event
from ..acknowledging import identities
from .committing import Mark
from .consuming import session_s
from .dead_letters import DeadLetters
from .delivering import Delivering
from .holding import Holding
from .settings import KafkaSettings

__all__ = ["Parting"]

_logger = logging.getLogger("trio_ticks.brokers")

_STEP_S: Final = 0.002
_FIRST: Final = 0.5
"""The part of ``hand_over_s`` in which what is queued may still be begun."""
_WITHOUT_METADATA: Final = 0.9
"""The same at a broker that keeps no metadata."""


@final
class Parting:
    """Takes partitions and gives them up, for one source."""

    def __init__(
        self,
        kafka: KafkaSettings,
        send: Send,
        outcomes: Outcomes,
        holding: Holding,
        delivering: Delivering,
        letters: DeadLetters,
    ) -> None:
        self._kafka = kafka
        self._send = send
        self._outcomes = outcomes
        self._holding = holding
        self._delivering = delivering
        self._letters = letters
        self.fenced = 0
        """Partitions that were lost."""
        self._gone: frozenset[int] = frozenset()
        """The identities of ticks that were withdrawn and whose partition is not given
        up yet: whoever asks must not take them for handled."""
        self.seeks: dict[int, int] = {}
        """From where partitions are to be fetched once more."""
        self.last: dict[int, Mark] = {}
        """The last commits of a worker that leaves, until they are taken."""
        self._session_s = session_s(kafka)
        self.awake_at = send.clock.now()
        """When the event loop ran last, or was asked something that takes long."""

    def unfinished(self) -> frozenset[int]:
        """Return the identities of all ticks without an outcome."""
        waiting = [*self._outcomes.unfinished(), *self._letters.tokens]
        return self._holding.unfinished(waiting) | self._gone

    def gained(self, found: Mapping[int, tuple[int | None, str | None]], /) -> None:
        """Take partitions."""
        for shard, (offset, metadata) in sorted(found.items()):
            self._holding.gain(shard, offset, metadata)
        self._tell("broker.gained", found)
        self.awake_at = self._send.clock.now()

    async def hand_over(self, shards: Collection[int], /) -> dict[int, Mark]:
        """Give partitions up, and return what is to be committed.

        Cancellation: they are not given up.
        """
        try:
            return await self._hand_over(shards)
        finally:
            self._gone = frozenset()

    async def _hand_over(self, shards: Collection[int]) -> dict[int, Mark]:
        holding = self._holding
        # Of those that were given up already, what is not committed yet.
        marks = {shard: self.last.pop(shard) for shard in shards if shard in self.last}
        shards = [shard for shard in shards if shard in holding.shards]
        holding.recall(shards)
        whole_s = self._kafka.hand_over_s
        first_s = whole_s * (_FIRST if holding.keeps_metadata is not False else _WITHOUT_METADATA)
        await self._wait_for(shards, first_s)
        self._gone = await self._withdraw(shards)
        await self._wait_for(shards, whole_s - first_s)
        begun = identities(self._outcomes.unfinished())
        undone = self.unfinished()
        for shard in shards:
            mark = holding.leave(shard, undone, begun)
            if mark is not None:
                marks[shard] = mark
        for shard in shards:
            await self._send.give_up(shard)
        self._tell("broker.handed_over", shards)
        return marks

    def handed_over(self, marks: Mapping[int, Mark], committed: bool, /) -> None:
        """Note whether what was given up is committed."""
        ticks = sum(mark.ticks for mark in marks.values())
        self.awake_at = self._send.clock.now()
        if committed:
            self._holding.acknowledged += ticks
        else:
            self._holding.given_back += ticks
            if marks:
                self._tell("broker.uncommitted", marks, logging.WARNING)

    async def lost(self, shards: Collection[int], /) -> None:
        """Give up partitions that may be another's already; commit nothing.

        Cancellation: they are given up, and the handler may not have been told.
        """
        holding = self._holding
        gone = {shard: self.last.pop(shard) for shard in shards if shard in self.last}
        if gone:
            self.handed_over(gone, False)
        shards = [shard for shard in shards if shard in holding.shards]
        self.fenced += len(shards)
        holding.recall(shards)
        await self._withdraw(shards)
        begun = identities(self._outcomes.unfinished())
        for shard in shards:
            holding.leave(shard, frozenset(), begun, lost=True)
        self._tell("broker.shard_lost", shards, logging.WARNING)
        for shard in shards:
            await self._send.give_up(shard)
        self.awake_at = self._send.clock.now()

    def give_back(self) -> int:
        """Withdraw what is queued, of all partitions, and have none of it committed."""
        holding = self._holding
        shards = list(holding.shards)
        holding.recall(shards)
        before = holding.given_back
        self.seeks |= self._return(shards)
        return holding.given_back - before

    def return_all(self) -> Collection[int]:
        """Withdraw all and fetch it again: another may have our partitions by now.

        This process has not run for longer than the group waits for a worker. Returns
        which partitions are fetched again.
        """
        shards = [shard for shard in self._holding.shards if shard in self._holding.outstanding]
        if shards:
            self._tell("broker.stalled", shards, logging.WARNING)
            self.seeks |= self._return(shards)
        return shards

    def _return(self, shards: Collection[int]) -> dict[int, int]:
        """Withdraw what is queued of *shards*; return where each has to begin again."""
        self._delivering.cancel(shards)
        gone = self._take_out(shards)
        begun = identities(self._outcomes.unfinished())
        undone = self.unfinished() | gone
        return {shard: self._holding.return_to(shard, undone, begun) for shard in shards}

    async def _withdraw(self, shards: Collection[int]) -> frozenset[int]:
        """Take what is queued of *shards* out of the channel; return what that was."""
        await self._delivering.end(shards)
        return self._take_out(shards)

    def _items(self, shards: Collection[int]) -> Iterator[Any]:
        """Iterate over the ticks of *shards* that are not acknowledged."""
        for shard in shards:
            for held in self._holding.outstanding.of(shard):
                # The token of a record that cannot be read is among them.
                yield from held.items

    def _take_out(self, shards: Collection[int]) -> frozenset[int]:
        symbols = {item.symbol for item in self._items(shards) if hasattr(item, "symbol")}
        if not symbols:
            return frozenset()
        before = identities(self._outcomes.unfinished())
        self._outcomes.withdraw(symbols)
        return before - identities(self._outcomes.unfinished())

    async def _wait_for(self, shards: Collection[int], timeout_s: float) -> None:
        """Wait, at most *timeout_s*, until no tick of *shards* is being handled."""
        with trio.move_on_after(timeout_s):
            # Nobody says when a tick has its outcome: asking costs less.
            while self._is_busy(shards):
                await trio.sleep(_STEP_S)
                self._stay_awake()

    def _stay_awake(self) -> None:
        """Note that the event loop runs while it is waited; a longer gap stays seen."""
        now = self._send.clock.now()
        if now - self.awake_at <= self._session_s:
            self.awake_at = now

    def _is_busy(self, shards: Collection[int]) -> bool:
        """Tell whether ticks of *shards* are queued, begun or being delivered."""
        if self._delivering.is_at(shards):
            return True
        unfinished = identities(self._outcomes.unfinished())
        return any(id(item) in unfinished for item in self._items(shards))

    @staticmethod
    def _tell(event: str, shards: Collection[int], level: int = logging.INFO) -> None:
        shown = ",".join(map(str, sorted(shards)))
        log_event(_logger, level, event, partitions=shown)
