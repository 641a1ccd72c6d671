"""Who holds which shard of an ingest, and what each worker is sent of the window.

Rules: sans-I/O. The window is exact: a tick counts from :meth:`Dispatch.append` until
it is acknowledged. A shard has one holder, and goes to another only when it was given
up or its holder is lost. An acknowledgement counts only from the holder, in its epoch.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, final

import attrs

from ...logs import log_event
from ..packing import Packer, Record
from .lines import Line, Sent, Splitter
from .protocol import AGAIN, DEAD, FRESH, Entry, Grant, Parcel, Pong, Revoke, encode
from .sharing import moves

__all__ = ["DeadTick", "Dispatch", "Member", "Terms"]

_PARCEL_BYTES: Final = 2**18
"""A parcel is sent when it has at least so many bytes, or nothing more may be sent."""

_logger = logging.getLogger("trio_ticks.brokers")


@attrs.frozen(slots=True)
class Terms:
    """What an ingest has agreed with nobody: its own settings."""

    ingest: bytes
    shards: int
    window: int
    heartbeat_s: float
    lease_s: float
    max_deliveries: int
    dead_letters: int


@attrs.frozen(slots=True)
class DeadTick:
    """A tick that was given up: workers died at it again and again."""

    item: Any
    """The tick; ``None`` if this program cannot read it back."""
    arrived: float
    """When it arrived at the ingest, in seconds since 1970."""
    deaths: int
    """How many workers died that had it."""


@attrs.define(slots=True, eq=False)
class Member:
    """A worker, as its ingest knows it."""

    peer: bytes
    worker: bytes
    session: int
    name: str
    credit: int
    heard: float
    out: int = 0
    """Ticks that it was sent and has not acknowledged."""
    singles: int = 0
    """Single entries among them."""
    alone: bool = False
    """Whether one of these must remain the only one."""
    leaving: bool = False
    ready: dict[int, None] = attrs.Factory(dict)
    """Its shards in which something waits, in the order in which they are looked at."""


@attrs.define(slots=True, eq=False)
class _Shard:
    number: int
    line: Line = attrs.Factory(Line)
    holder: Member | None = None
    epoch: int = 0
    revoked: bool = False
    """Whether the holder was told to give it up."""


@final
class Dispatch:
    """The shards of one ingest.

    Attributes:
        outbox: connections and messages to be sent to them, in order.
        members: the workers that are there, by their connections.
        used: how many ticks are in the window.
        appended: how many ticks were acknowledged.
        redelivered: how many ticks were sent again after their holder was lost.
        dead_letters: the ticks that were given up last.
        dead: how many ticks were given up.
        fenced: what came from workers about shards that had become another's.
    """

    def __init__(self, terms: Terms, packer: Packer) -> None:
        self._terms = terms
        self._splitter = Splitter(packer)
        self._shards = [_Shard(number) for number in range(terms.shards)]
        self._epoch = 0
        self.members: dict[bytes, Member] = {}
        self.outbox: list[tuple[bytes, bytes]] = []
        self.used = 0
        self.appended = 0
        self.redelivered = 0
        self.dead_letters: deque[DeadTick] = deque(maxlen=terms.dead_letters)
        self.dead = 0
        self.fenced = 0

    @property
    def workers(self) -> int:
        """Return how many workers there are that take ticks."""
        return sum(not member.leaving for member in self.members.values())

    def oldest(self) -> float | None:
        """Return when the oldest tick in the window arrived."""
        times = (shard.line.oldest() for shard in self._shards)
        return min((time for time in times if time is not None), default=None)

    def append(self, records: Iterable[tuple[Record, float]]) -> None:
        """Take *records*, each with the time of arrival of its first tick."""
        members: dict[int, Member] = {}
        for record, arrived in records:
            shard = self._shards[record.shard]
            shard.line.append(record, arrived)
            self.used += record.ticks
            if shard.holder is not None and not shard.revoked:
                shard.holder.ready[record.shard] = None
                members[id(shard.holder)] = shard.holder
        for member in members.values():
            self._send(member)

    def _held(
        self, member: Member, shards: list[tuple[int, int, int]]
    ) -> Iterable[tuple[_Shard, int]]:
        """Yield those of *shards* that *member* really holds, with the sequences."""
        for number, epoch, sequence in shards:
            shard = self._shards[number] if 0 <= number < len(self._shards) else None
            if shard is None or shard.holder is not member or shard.epoch != epoch:
                self.fenced += 1
            else:
                yield shard, sequence

    def acknowledge(self, member: Member, shards: list[tuple[int, int, int]]) -> None:
        """Take out of the window what *member* has finished, and send it more."""
        for shard, sequence in self._held(member, shards):
            self._settle(member, shard, sequence)
        self._send(member)

    def _settle(self, member: Member, shard: _Shard, sequence: int) -> None:
        line = shard.line
        count, finished = line.acknowledge(sequence)
        self.used -= count
        self.appended += count
        member.out -= count
        for sent in finished:
            self._forget(member, sent, 0)
        if line.waiting and not shard.revoked:
            member.ready[shard.number] = None

    def _forget(self, member: Member, sent: Sent, ticks: int) -> None:
        """Count *sent* as no longer out at *member*."""
        member.out -= ticks
        if sent.single:
            member.singles -= 1
            member.alone = member.alone and not sent.alone

    def _may_send(self, member: Member, sent: Sent) -> bool:
        """Tell whether *sent* may go to *member* now, whatever its credit is."""
        if sent.single and not sent.dead:
            if member.alone:
                return False
            if sent.is_suspect:
                return not member.singles
            if any(self._is_suspected(number) for number in member.ready):
                return False
        return True

    def _is_suspected(self, number: int) -> bool:
        following = self._shards[number].line.following()
        return following is not None and following.is_suspect

    def _send(self, member: Member) -> None:
        """Send *member* what waits for it, as far as its credit goes."""
        if member.out >= max(1, member.credit):
            return
        shipped: list[tuple[_Shard, Sent]] = []
        ready, full = member.ready, False
        for number in list(ready):
            shard = self._shards[number]
            while (sent := shard.line.following()) is not None:
                full = bool(member.out) and member.out + sent.left > member.credit
                if full or not self._may_send(member, sent):
                    break
                shard.line.send()
                member.out += sent.left
                if sent.single:
                    member.singles += 1
                    sent.alone = sent.is_suspect
                    member.alone = member.alone or sent.alone
                shipped.append((shard, sent))
            if full:
                # This shard is the first one when there is room again.
                break
            del ready[number]
            if shard.line.waiting:
                ready[number] = None
        if shipped:
            self._ship(member, shipped)

    def _ship(self, member: Member, shipped: list[tuple[_Shard, Sent]]) -> None:
        entries: list[Entry] = []
        size = 0
        for shard, sent in shipped:
            kind = DEAD if sent.dead else AGAIN if sent.again else FRESH
            entries.append(
                Entry(shard.number, shard.epoch, sent.first, sent.ticks, kind, sent.body)
            )
            size += len(sent.body)
            if size >= _PARCEL_BYTES:
                self.post(member.peer, Parcel(entries))
                entries, size = [], 0
        if entries:
            self.post(member.peer, Parcel(entries))

    def resume(self, member: Member, holds: list[tuple[int, int, int]]) -> None:
        """Bring what a worker holds, which came back, and what we know to agreement."""
        held = {(shard, epoch): sequence for shard, epoch, sequence in holds}
        for shard in self._shards:
            if shard.holder is not member:
                continue
            sequence = held.pop((shard.number, shard.epoch), None)
            if sequence is None:
                # It does not have it: its grant was lost, or it gave it up.
                self._free(shard)
                continue
            self._settle(member, shard, sequence)
            # What was under way when the connection was lost: the worker leaves out
            # what it has.
            out = list(shard.line.out)
            if out:
                self._ship(member, [(shard, sent) for sent in out])
            if shard.revoked:
                self.post(member.peer, Revoke([(shard.number, shard.epoch)]))
        if held:
            # Another has them, or will.
            self.fenced += len(held)
            self.post(member.peer, Revoke(list(held)))
        # What it had finished has made room.
        self._send(member)

    def remove(self, member: Member, *, crashed: bool) -> int:
        """Take out *member*, and all its shards from it; return how many these are."""
        self.members.pop(member.peer, None)
        held = [shard for shard in self._shards if shard.holder is member]
        for shard in held:
            self._free(shard, crashed=crashed)
        return len(held)

    def pong(self, member: Member, at: float, wall: float) -> Pong:
        """Return the answer to the ping that *member* sent at *at*."""
        yours = sum(self._shards[number].line.waiting_ticks for number in member.ready)
        return Pong(at, wall, wall, self.used, self.oldest(), yours)

    def share(self) -> None:
        """Give the shards to the workers that are there."""
        kept: dict[bytes, list[int]] = {
            member.worker: [] for member in self.members.values() if not member.leaving
        }
        free: list[int] = []
        leaving: list[tuple[bytes, int]] = []
        for shard in self._shards:
            if shard.holder is None:
                free.append(shard.number)
            elif shard.revoked:
                continue
            elif shard.holder.leaving:
                leaving.append((shard.holder.worker, shard.number))
            else:
                kept[shard.holder.worker].append(shard.number)
        changes = moves(kept, free, len(self._shards))
        members = {member.worker: member for member in self.members.values()}
        grants: dict[bytes, list[tuple[int, int, int]]] = {}
        revokes: dict[bytes, list[tuple[int, int]]] = {}
        for worker, number in changes.grants:
            shard = self._shards[number]
            self._epoch += 1
            shard.holder, shard.epoch = members[worker], self._epoch
            terms = (number, shard.epoch, shard.line.next_sequence)
            grants.setdefault(worker, []).append(terms)
            if shard.line.waiting:
                members[worker].ready[number] = None
        for worker, number in [*changes.revokes, *leaving]:
            shard = self._shards[number]
            shard.revoked = True
            members[worker].ready.pop(number, None)
            revokes.setdefault(worker, []).append((number, shard.epoch))
        for worker, given in grants.items():
            self.post(members[worker].peer, Grant(given))
            self._send(members[worker])
        for worker, taken in revokes.items():
            self.post(members[worker].peer, Revoke(taken))

    def _free(self, shard: _Shard, *, crashed: bool = False) -> None:
        """Take *shard* from its holder, with what that did not acknowledge."""
        member = shard.holder
        line = shard.line
        if member is not None:
            member.ready.pop(shard.number, None)
            for sent in line.out:
                self._forget(member, sent, sent.left)
        self.redelivered += sum(sent.left for sent in line.out)
        for sent in line.take_back(self._splitter, crashed=crashed):
            if sent.alone and sent.deaths >= self._terms.max_deliveries and not sent.dead:
                self._bury(sent)
        for sent in line.waiting:
            sent.alone = False
        shard.holder, shard.revoked = None, False

    def _bury(self, sent: Sent) -> None:
        sent.dead = True
        item = self._splitter.item(sent)
        self.dead += 1
        self.dead_letters.append(DeadTick(item, sent.arrived, sent.deaths))
        log_event(
            _logger,
            logging.ERROR,
            "broker.dead",
            "workers died %d times at %.200s; it counts as failed",
            sent.deaths,
            repr(item),
            deaths=sent.deaths,
        )

    def give_up(self, member: Member, shards: list[tuple[int, int, int]]) -> None:
        """Take *shards* from *member*, which has no tick of them any more."""
        given: list[_Shard] = []
        for shard, sequence in self._held(member, shards):
            self._settle(member, shard, sequence)
            given.append(shard)
        for shard in given:
            self._free(shard)
        self.share()
        self._send(member)

    def post(self, peer: bytes, message: Any) -> None:
        """Put *message* into the outbox."""
        self.outbox.append((peer, encode(message)))
