"""What one worker holds: shards, ticks that are not acknowledged, shards that it lost.

A lease that is lost takes all ticks of its shard out of the channel in one step; else a
tick could be handled after an earlier one of its symbol had gone to another worker. A
shard that comes back is not fetched from before the ticks of its last time here have
left the workers.

Rules: sync; no I/O, no clock. ``withdraw`` of the outcomes is called here alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any, final

import attrs

from ...buffer import Outcomes
from ..acknowledging import Held, Outstanding, identities
from .memos import Memos
from .shards import Entry, Shard

__all__ = ["Holdings", "Lost"]


@attrs.define(slots=True, eq=False)
class Lost:
    """A shard that was lost, while workers may still have some of its ticks."""

    number: int
    items: list[Any]
    told: bool = False
    """Whether the handler is being told that the shard is gone."""


def _fetched(shard: Shard, entries: list[Held[Entry]]) -> list[Held[Entry]]:
    """Return *entries* up to the first that the server may not count as ours yet."""
    if not shard.unfetched:
        return entries
    return list(takewhile(lambda held: held.position.id not in shard.unfetched, entries))


@final
class Holdings:
    """The shards of one worker.

    Args:
        outcomes: says which ticks have no outcome yet.
    """

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes
        self.shards: dict[int, Shard] = {}
        """Those for which we have a lease, by number."""
        self.outstanding: Outstanding[Entry] = Outstanding()
        self.lost: dict[int, Lost] = {}
        self.memos = Memos()
        self._withdrawn: dict[int, Any] = {}
        """Ticks that :meth:`give_back` took out, by identity; they are held here until
        their shard is released, so that no other tick gets their identity."""
        self.takeovers = 0
        self.given_back = 0

    @property
    def queued(self) -> int:
        """How many ticks were fetched and are not delivered yet, at most."""
        return sum(entry.waiting for shard in self.shards.values() for entry in shard.queue)

    def unfinished(self) -> frozenset[int]:
        """Return the identities of the ticks that have no outcome yet."""
        return identities(self._outcomes.unfinished())

    def blocking(self, unfinished: frozenset[int]) -> frozenset[int]:
        """Return the identities of ticks that must not be acknowledged."""
        return unfinished | self._withdrawn.keys() if self._withdrawn else unfinished

    def hold(self, leases: Mapping[int, str], fair: int) -> None:
        """Take note of the *leases* that we have now, shard by token.

        Args:
            leases: all of them.
            fair: how many are our fair share; more are given up in good order.
        """
        self.lose(
            shard for number, shard in self.shards.items() if leases.get(number) != shard.token
        )
        for number, token in leases.items():
            if number not in self.shards:
                self.shards[number] = Shard(number, token)
                self.takeovers += 1
        staying = [shard for shard in self.shards.values() if not shard.leaving]
        for shard in staying[fair:]:
            shard.leaving = True
        if len(staying) < fair:
            returning = (shard for shard in self.shards.values() if shard.leaving)
            for shard, _ in zip(returning, range(fair - len(staying)), strict=False):
                # Once the handler has said goodbye there is no way back.
                shard.leaving = bool(shard.farewell)

    def lose(self, shards: Iterable[Shard]) -> int:
        """Give up *shards*, whose leases are lost; return how many these were."""
        gone = list(shards)
        for shard in gone:
            del self.shards[shard.number]
        unhandled = self._withdraw(gone)
        for shard in gone:
            items = []
            for held in self.outstanding.drop(shard.number):
                items += held.items
                if held.items:
                    held.position.finish(unhandled)
                self.memos.keep(shard, held.position)
            for entry in shard.queue:
                if entry.current is not None:
                    items.append(entry.current)
                    self._settle_trial(entry, unhandled)
                self.memos.keep(shard, entry)
            self._forget(items)
            # If it was lost before, and has been blocked since, nothing has come.
            self.lost.setdefault(shard.number, Lost(shard.number, items))
        return len(gone)

    def give_back(self) -> int:
        """Withdraw all that is queued, of all shards; return how many ticks these were.

        The shards stay ours until what workers have begun is finished.
        """
        shards = list(self.shards.values())
        held = {
            id(item): item
            for shard in shards
            for each in self.outstanding.of(shard.number)
            for item in each.items
        }
        held |= {
            id(entry.current): entry.current
            for shard in shards
            for entry in shard.queue
            if entry.current is not None
        }
        before = self.given_back
        for identity in self._withdraw(shards):
            if identity in held:
                self._withdrawn[identity] = held[identity]
        return self.given_back - before

    def give_back_left(self) -> None:
        """Withdraw what is unfinished, once it will never have an outcome."""
        if not self._outcomes.busy and self.unfinished():
            self.give_back()

    def _withdraw(self, shards: list[Shard]) -> frozenset[int]:
        """Withdraw the ticks of *shards*; return the identities of those that were."""
        symbols: set[str] = set()
        for shard in shards:
            symbols |= self.outstanding.symbols(shard.number)
            symbols |= {entry.current.symbol for entry in shard.queue if entry.current is not None}
        taken = frozenset(self._withdrawn)
        if not symbols:
            return taken
        # One step: no other task runs between these lines.
        before = self.unfinished()
        self.given_back += self._outcomes.withdraw(symbols)
        return taken | (before - self.unfinished())

    def _settle_trial(self, entry: Entry, unhandled: frozenset[int]) -> None:
        """Note how the tick that is being tried ended, which did not kill us."""
        if id(entry.current) in unhandled:
            entry.deaths = max(1, entry.deaths - 1)
        else:
            entry.done |= 1 << entry.at
            entry.unnoted = True
        entry.current = None

    def settle_trials(self, unfinished: frozenset[int]) -> int:
        """Note which ticks that were tried are through; return how many."""
        count = 0
        for shard in [shard for shard in self.shards.values() if shard.queue]:
            entry = shard.trial
            if entry is None or entry.current is None or id(entry.current) in unfinished:
                continue
            self._settle_trial(entry, frozenset(self._withdrawn))
            count += 1
        return count

    def trials(self) -> Iterator[Shard]:
        """Iterate over the shards of which a tick is being tried."""
        for shard in self.shards.values():
            if shard.trial is not None and shard.trial.current is not None:
                yield shard

    def clear(self, unfinished: frozenset[int]) -> list[Lost]:
        """Return the lost shards whose ticks have left the workers since."""
        found = []
        for lost in self.lost.values():
            if not lost.told and unfinished.isdisjoint(map(id, lost.items)):
                lost.told = True
                found.append(lost)
        return found

    def finished(self, blocking: frozenset[int]) -> list[tuple[Shard, list[Held[Entry]]]]:
        """Return what may be acknowledged: for each shard, its first entries."""
        finished = self.outstanding.finished
        return [
            (shard, found)
            for number in self.outstanding.shards()
            if (found := _fetched(shard := self.shards[number], finished(number, blocking)))
        ]

    def is_busy(self, shard: Shard, unfinished: frozenset[int]) -> bool:
        """Tell whether workers have ticks of *shard*, or it has some to acknowledge."""
        if any(entry.current is not None for entry in shard.queue):
            return True
        held = self.outstanding.of(shard.number)
        return any(not unfinished.isdisjoint(map(id, each.items)) for each in held)

    def left_over(self, shard: Shard) -> list[tuple[bytes, bytes]]:
        """Return ids and records of what *shard* has that is not acknowledged."""
        withdrawn = frozenset(self._withdrawn)
        found = []
        for held in self.outstanding.of(shard.number):
            if held.items:
                held.position.finish(withdrawn)
            found.append((held.position.id, held.position.record()))
        return found + [(entry.id, entry.record()) for entry in shard.queue]

    def release(self, shard: Shard) -> None:
        """Forget *shard*, which was given up in good order."""
        for held in self.outstanding.drop(shard.number):
            self._forget(held.items)
        self.memos.forget(shard.number)
        if self.shards.get(shard.number) is shard:
            del self.shards[shard.number]

    def _forget(self, items: list[Any]) -> None:
        for item in items:
            self._withdrawn.pop(id(item), None)
