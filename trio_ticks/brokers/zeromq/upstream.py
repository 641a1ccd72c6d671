"""One ingest, as a source sees it: its socket, what it sent, and what is unfinished.

Plan: :meth:`Upstream.listen` reads, :meth:`Upstream.deliver` delivers, and the source
calls :meth:`Upstream.settle` once a turn. The link decides what all of it means.

When the lease of the shards is over they may be another worker's, so that their ticks
are withdrawn in one step, and the shards are given up; only then does the link begin
anew. What was withdrawn is kept until the ingest answers: another run of it knows
nothing of these ticks, which are delivered again then; the same run sends them anew.

Rules: what is acknowledged had an outcome in this process. The ticks of a shard are
delivered only when nobody is being told that the shard is gone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, final

import trio

from ...buffer import Stretch
from ...logs import log_event
from ...uninterrupted import uninterrupted
from ..acknowledging import Outstanding, identities
from .hand import Hand, Mark, Workers
from .link import Arrival, Link
from .protocol import Hello
from .settings import ZeroMQSettings
from .socket import connected
from .telling import Telling

__all__ = ["Upstream"]

_MOST_MESSAGES: Final = 64
"""Messages that are read without a checkpoint between."""
_MOST_HELLOS: Final = 10
"""Unanswered hellos after which the socket is made anew."""

_logger = logging.getLogger("trio_ticks.brokers")


@uninterrupted
@final
class Upstream:
    """One of the ingests.

    Args:
        settings: of the buffer.
        index: of the ingest among all addresses.
        hello: what this worker says of itself.
        workers: the channel and what belongs to it.

    Attributes:
        link: the protocol.
        acknowledged, given_back, fenced: counters, as in
            :class:`~trio_ticks.buffer.BufferStatistics`; the hand has others.
    """

    def __init__(
        self, settings: ZeroMQSettings, index: int, hello: Hello, workers: Workers
    ) -> None:
        self._workers = workers
        self._first_shard = index * settings.shards
        """What the first of its shards is called in the channel."""
        address = settings.addresses[index]
        self.link = Link(address, hello)
        self._telling = Telling(self.link, address, workers.limit)
        self._settings = settings
        self._wire = connected(settings, address)
        self._outstanding: Outstanding[Mark] = Outstanding()
        self._busy: set[int] = set()
        """The shards that have something outstanding."""
        self.hand = Hand(self.link, address, index, settings.shards, workers)
        """What is being delivered."""
        self._told: set[int] = set()
        """The shards of which something was delivered, until they are given up."""
        self._going: dict[int, trio.Event] = {}
        """The shards of which the handler is being told that they are gone."""
        self._begun: list[object] = []
        """Ticks of shards that were lost while workers had begun them."""
        self._kept: deque[Arrival] = deque()
        """What was withdrawn, or not delivered, when the lease was over."""
        self._joins = 0
        self._arrived = trio.Event()
        self._parted = trio.Event()
        """Set when a worker that leaves is not joined any more."""
        self.acknowledged = 0
        self.given_back = 0
        self.fenced = 0

    @property
    def unacknowledged(self) -> int:
        """Return how many ticks were received and are not finished."""
        return self._outstanding.ticks + self.hand.ticks

    @property
    def is_done(self) -> bool:
        """Tell whether nothing of this ingest is here any more."""
        link = self.link
        return not (
            link.holds
            or link.inbox
            or self.hand.held
            or self._going
            or self._told
            or self._begun
            or self._outstanding.ticks
        )

    def lag_s(self) -> float | None:
        """Return how long the oldest tick has been in the ingest's window."""
        link = self.link
        if link.used is None:
            return None
        if link.oldest is None:
            return 0.0
        now = self._workers.send.clock.wall()
        return max(0.0, now - link.oldest - link.clock.shift_s)

    # The socket

    async def listen(self, wake: Callable[[], None]) -> None:
        """Read what the ingest sends, for ever; call *wake* if it wants shards back.

        Raises:
            BrokerError: the ingest cannot be used.

        Cancellation: nothing is lost.
        """
        clock, link = self._workers.send.clock, self.link
        while True:
            wire = self._wire
            for parts in wire.receive(_MOST_MESSAGES):
                if len(parts) == 1:
                    link.receive(parts[0], clock.now(), clock.wall())
                else:
                    link.junk += 1
            now = clock.now()
            link.advance(now, clock.wall())
            self.flush()
            if link.joins != self._joins:
                self._joins = link.joins
                # What a run of the ingest sent that is over is nobody else's.
                orphans = [arrival for arrival in self._kept if arrival.hold.run < link.run]
                self._kept.clear()
                for arrival in orphans:
                    arrival.hold.here = 1
                link.inbox.extendleft(reversed(orphans))
            self._telling.look(now)
            if link.inbox:
                self._arrived.set()
            if link.asks:
                link.asks = False
                wake()
            if link.leaving and link.state != "joined":
                self._parted.set()
            if link.unanswered >= _MOST_HELLOS:
                # What was said meanwhile waits in the socket: throw it away.
                link.unanswered = 0
                wire.abandon()
                self._wire = connected(self._settings, self._telling.address)
                continue
            await wire.sleep(link.wait_s(now))

    def flush(self) -> None:
        """Send what the link wants to be sent."""
        link, wire = self.link, self._wire
        if not link.outbox:
            return
        for body in link.outbox:
            wire.send([body])
        link.outbox.clear()
        wire.rouse()

    def close(self) -> None:
        """Close the socket; what was sent has a moment to leave."""
        self.flush()
        # Where nobody is there nothing leaves, and the event loop would stand still.
        is_there = self.link.state in ("joined", "left")
        self._wire.abandon(linger_s=0.2 if is_there else 0.0)

    # Arrivals

    async def deliver(self, settle: Callable[[Upstream], None]) -> None:
        """Deliver what arrives, for ever; call *settle* after each part of it.

        Cancellation: what was delivered and not acknowledged comes again.
        """
        link = self.link
        while True:
            while not link.inbox:
                self._arrived = trio.Event()
                await self._arrived.wait()
            await self._until_told(link.inbox[0])
            parts = self.hand.take(self._going)
            self._told.update(arrival.shard for arrival, _ in self.hand.held)
            if parts:
                await self._workers.send.deliver_all(parts)
            parts = []  # so that what is finished is freed before more is read
            self._deliver_end()
            settle(self)

    async def _until_told(self, arrival: Arrival) -> None:
        """Wait while the handler is told that the shard of *arrival* is gone."""
        while arrival.shard in self._going and self.hand.is_ours(arrival.hold, arrival.shard):
            await self._going[arrival.shard].wait()

    def _deliver_end(self) -> None:
        """Keep what was delivered until it is finished, as far as it is still ours."""
        lost: set[str] = set()
        for arrival, mark in self.hand.held:
            arrival.hold.here -= 1
            items = mark.stretch.items
            if self.hand.is_ours(arrival.hold, arrival.shard):
                self._outstanding.add(arrival.shard, mark, items, arrival.ticks)
                self._busy.add(arrival.shard)
            else:
                lost.update(item.symbol for item in items)
        self.hand.held.clear()
        if lost:
            # The lease ended meanwhile.
            self.given_back += self._workers.outcomes.withdraw(lost)

    # Turns

    def settle(self, unfinished: frozenset[int], *, last: bool = False) -> int:
        """Forget what is finished; return how many ticks that is.

        The ingest is told by :meth:`acknowledge`.

        Args:
            unfinished: the identities of the ticks without an outcome.
            last: whether these will never have one. Then they are given back: what is
                not acknowledged when its shard is given up is sent again, to another.
        """
        link, outstanding = self.link, self._outstanding
        found = 0
        for shard in list(self._busy):
            ticks, mark = outstanding.settle(shard, unfinished)
            if mark is None:
                continue
            found += ticks
            if link.holds.get(shard) is mark.hold:
                link.finish(shard, mark.last, ticks)
            if shard not in outstanding:
                self._busy.discard(shard)
        self.acknowledged += found
        if self._begun:
            self._begun = [item for item in self._begun if id(item) in unfinished]
        if last:
            for shard in self._busy:
                for held in outstanding.drop(shard):
                    self.given_back += sum(id(item) in unfinished for item in held.items)
            self._busy.clear()
            self._begun = []
        return found

    def acknowledge(self) -> None:
        """Tell the ingest what is finished."""
        if self.link.untold:
            self.link.acknowledge()
            self.flush()

    @property
    def has_unfinished(self) -> bool:
        """Tell whether a turn has to ask what is unfinished, or to acknowledge."""
        return bool(self._outstanding.ticks or self._begun or self.link.untold)

    def shards_to_give_up(self) -> list[int]:
        """Return the shards that are to be given up now, and mark them."""
        link = self.link
        found: list[int] = []
        holds = link.holds
        if link.state == "joined" and self._told <= holds.keys():
            revoked = any(hold.revoked for hold in holds.values())
            if not revoked:
                return found
        for shard in self._told | link.holds.keys():
            hold = link.holds.get(shard)
            if hold is not None and (hold.here or not hold.revoked):
                continue
            if shard in self._going or shard in self._outstanding or self._begun:
                continue
            if hold is None and any(each.shard == shard for each in self._waiting()):
                continue
            self._going[shard] = trio.Event()
            found.append(shard)
        if link.state == "fenced" and not (self._begun or self._told or self._going):
            link.begin_anew(sum(arrival.ticks for arrival in self._kept))
        return found

    def _waiting(self) -> list[Arrival]:
        return [*self.link.inbox, *(arrival for arrival, _ in self.hand.held)]

    async def give_up(self, shard: int) -> None:
        """Tell the handler that *shard* is gone, then the ingest.

        Cancellation: the ingest is not told.
        """
        hold = self.link.holds.get(shard)
        if shard in self._told:
            await self._workers.send.give_up(self._first_shard + shard)
            self._told.discard(shard)
        if hold is not None and self.link.holds.get(shard) is hold:
            self.link.give_up([shard])
            self.flush()
        self._going.pop(shard).set()

    def leave(self) -> None:
        """Take nothing more, and give everything up that is finished."""
        self.link.leave()
        self.flush()
        if self.link.state != "joined":
            self._parted.set()

    async def say_goodbye(self) -> None:
        """Tell the ingest that this worker goes, and wait until it has heard that.

        Cancellation: it may not have heard it.
        """
        self.link.say_left()
        self.flush()
        await self._parted.wait()

    # The lease

    def check_lease(self) -> None:
        """Withdraw what is another worker's, if the lease is over."""
        link = self.link
        if not link.is_over(self._workers.send.clock.now()):
            return
        shards = len(link.holds)
        outcomes = self._workers.outcomes
        waiting = list(link.inbox)
        link.fence()
        before = identities(outcomes.unfinished())
        symbols = self._symbols() - self._workers.symbols.twice
        withdrawn = outcomes.withdraw(symbols)
        after = identities(outcomes.unfinished())
        marks = [
            (shard, held.position)
            for shard in list(self._busy)
            for held in self._outstanding.drop(shard)
        ]
        self._busy.clear()
        marks += [(arrival.shard, mark) for arrival, mark in self.hand.held]
        for shard, mark in marks:
            self._begun += [item for item in mark.stretch.items if id(item) in after]
            self._kept.extend(_part(shard, mark, before - after))
        self._kept.extend(waiting)
        self.fenced += shards
        self.given_back += withdrawn
        log_event(
            _logger,
            logging.WARNING,
            "broker.lease_over",
            "%s did not answer in time, so its %d shards may be another worker's: %d ticks "
            "are given back",
            self._telling.address,
            shards,
            withdrawn,
            ticks=withdrawn,
        )

    def _symbols(self) -> set[str]:
        found: set[str] = set()
        for shard in self._busy:
            found |= self._outstanding.symbols(shard)
        for _, mark in self.hand.held:
            found.update(item.symbol for item in mark.stretch.items)
        return found


def _part(shard: int, mark: Mark, withdrawn: frozenset[int]) -> Iterator[Arrival]:
    """Yield those items of an entry that were withdrawn, as one entry."""
    stretch = mark.stretch
    places = [at for at, item in enumerate(stretch.items) if id(item) in withdrawn]
    if places:
        new = {place: at for at, place in enumerate(places)}
        rest = Stretch(
            [stretch.items[place] for place in places],
            [stretch.arrived[place] for place in places],
            [(new[place], gap) for place, gap in stretch.gaps if place in new],
        )
        yield Arrival(mark.hold, shard, mark.last, len(places), True, False, b"", rest)
