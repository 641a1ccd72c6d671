"""The workers' end of a ZeroMQ buffer: it connects to all ingests.

An object of the class ``Upstream`` stands for each of them, with a task that reads and
a task that delivers. One task here goes round: it asks once a turn which ticks are
unfinished, and each upstream acknowledges by that.

Rules: a turn looks at all that is unfinished, so it is made when about a third has an
outcome, by the room in the channel; at least every fiftieth of a second. After turns
that found nothing the next ones come later and later.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from functools import partial
from typing import Final, final

import trio

from ...buffer import BufferStatistics, Outcomes, Send
from ...errors import BrokerError
from ...logs import LogLimit
from ...uninterrupted import uninterrupted
from ..acknowledging import identities
from .hand import PART, Workers
from .protocol import MAGIC, VERSION, Hello
from .settings import ZeroMQSettings
from .symbols import Symbols
from .upstream import Upstream

__all__ = ["ZeroMQSource"]

_SOON_S: Final = 0.0015
"""The wait after a turn that found something, in seconds."""
_LATE_S: Final = 0.02
"""The longest wait while something is unfinished, in seconds."""
_FEW: Final = 64
"""So few unfinished ticks are looked at whenever the wait is over."""
_SHARE: Final = 4
"""An ingest is told between turns when so large a part of *prefetch* is finished, one
in so many: each message costs both ends as much as some hundred ticks."""
_IDLE_S: Final = 0.25
"""The wait while nothing is, in seconds: an arrival ends it."""
_GOODBYE_S: Final = 1.0
"""How long an ingest may take to answer a goodbye, in seconds."""

_logger = logging.getLogger("trio_ticks.brokers")


@uninterrupted
@final
class ZeroMQSource:
    """The end of a :class:`ZeroMQ` buffer at the workers."""

    def __init__(self, settings: ZeroMQSettings) -> None:
        self._settings = settings
        self._ingests: list[Upstream] = []
        self._symbols = Symbols(len(settings.addresses))
        self._draining = False
        self._over = False
        self._capacity = 0
        """The most room that was seen in the channel."""
        self._settled = False
        """Whether something was acknowledged beside the turns since the last look."""
        self._delivered = trio.Event()
        """Set when there is something to acknowledge, or to do at once."""

    @property
    def lost(self) -> int:
        """Return how many ticks are lost with ingests that were restarted.

        These are the ticks of which an ingest had said that they wait for this worker.
        What it took after that, nobody knows.
        """
        return sum(ingest.link.known_lost for ingest in self._ingests)

    @property
    def brought_twice(self) -> int:
        """Return how many symbols came from more than one ingest."""
        return len(self._symbols.twice)

    def drain(self) -> None:
        """Take nothing more, and have :meth:`run` end when nothing is unfinished.

        Sync, and may be called twice.
        """
        if not self._draining:
            self._draining = True
            for ingest in () if self._over else self._ingests:
                ingest.leave()
            self._delivered.set()

    def statistics(self) -> BufferStatistics:
        """Return the counters of this end, over all ingests.

        ``connected`` says whether all of them answer. The difference of the clocks is
        that of the ingest whose clock is farthest from ours.
        """
        ingests = self._ingests
        links = [ingest.link for ingest in ingests]
        clocks = [link.clock for link in links if link.clock.difference_s is not None]
        worst = max(clocks, key=lambda clock: abs(clock.difference_s or 0.0), default=None)
        trips = [clock.round_trip_s for clock in clocks if clock.round_trip_s is not None]
        joined = [link for link in links if link.state == "joined"]
        known = [link.used for link in joined if link.used is not None]
        ages = [age for ingest in ingests if (age := ingest.lag_s()) is not None]
        used = sum(known) if known else None
        return BufferStatistics(
            connected=bool(links) and all(link.state == "joined" for link in links),
            reconnects=sum(max(0, link.joins - 1) for link in links),
            round_trip_s=max(trips, default=None),
            maxsize=sum(link.window for link in links) or None,
            used=used,
            lag=used,
            lag_s=max(ages, default=None),
            received=sum(ingest.hand.received for ingest in ingests),
            redelivered=sum(ingest.hand.redelivered for ingest in ingests),
            acknowledged=sum(ingest.acknowledged for ingest in ingests),
            given_back=sum(ingest.given_back for ingest in ingests),
            unacknowledged=sum(ingest.unacknowledged for ingest in ingests),
            fenced=sum(ingest.fenced for ingest in ingests),
            dead=sum(ingest.hand.dead for ingest in ingests),
            junk=sum(ingest.hand.junk for ingest in ingests),
            shards=sum(len(link.holds) for link in links),
            takeovers=sum(link.takeovers for link in links),
            clock_difference_s=None if worst is None else worst.difference_s,
            clock_error_s=None if worst is None else worst.error_s,
        )

    async def run(self, send: Send, outcomes: Outcomes, /) -> None:
        """Deliver what the ingests send into *send*, and acknowledge what is finished.

        Returns once :meth:`drain` was called, and everything is finished or given back.
        An ingest that is not there is waited for; the log tells it.

        Raises:
            BrokerError: an ingest runs with other settings or another version.

        Cancellation: what is not acknowledged comes again, to whoever holds its shard
        next.
        """
        settings = self._settings
        workers = Workers(send, outcomes, self._symbols, LogLimit(send.clock.now))
        name = f"{socket.gethostname()}:{os.getpid()}"
        hello = Hello(
            *(MAGIC, VERSION, "work", secrets.token_bytes(16), 0, name),
            *(settings.shards, settings.prefetch, b"", [], 0.0),
        )
        self._ingests = []
        error: BrokerError | None = None
        try:
            for index in range(len(settings.addresses)):
                self._ingests.append(Upstream(settings, index, hello, workers))
            if not self._draining:
                await self._work(send, outcomes)
        except* BrokerError as group:
            error = _first(group)
        finally:
            self._over = True
            for ingest in self._ingests:
                ingest.close()
        if error is not None:
            raise error

    async def _work(self, send: Send, outcomes: Outcomes) -> None:
        async with trio.open_nursery() as nursery:
            for ingest in self._ingests:
                nursery.start_soon(ingest.listen, self._wake)
                nursery.start_soon(ingest.deliver, partial(self._settle_soon, send, outcomes))
            await self._go_round(send, outcomes, nursery)
            await self._say_goodbye()
            nursery.cancel_scope.cancel()

    def _wake(self) -> None:
        self._delivered.set()

    def _settle_soon(self, send: Send, outcomes: Outcomes, ingest: Upstream) -> None:
        """Free what *ingest* has brought, if nearly all of it is finished.

        Else it is left to the next turn: to ask what is unfinished costs something for
        each tick that is.
        """
        out = ingest.unacknowledged
        if out >= PART // 2 and 4 * (self._capacity - send.room) <= out:
            ingest.settle(identities(outcomes.unfinished()))
            self._settled = True
            # An ingest whose window is full may wait for just this.
            starved = not ingest.link.inbox
            if starved or ingest.link.untold >= self._settings.prefetch // _SHARE:
                ingest.acknowledge()
        if self._draining or ingest.has_unfinished:
            self._delivered.set()

    async def _pause(self, send: Send, wait: float) -> None:
        """Wait while there is something unfinished, until a turn is worth its price."""
        now = send.clock.now
        until = now() + _LATE_S
        while True:
            self._settled = False
            await trio.sleep(wait)
            if self._settled and not self._draining and now() < until:
                # There is little left for a turn. To wake costs as much as some ticks.
                wait = min(2 * wait, max(0.0, until - now()))
                continue
            self._capacity = max(self._capacity, send.room)
            out = sum(ingest.unacknowledged for ingest in self._ingests)
            queued = self._capacity - send.room
            if self._draining or queued <= max(_FEW, 2 * out // 3) or now() >= until:
                return

    async def _go_round(self, send: Send, outcomes: Outcomes, nursery: trio.Nursery) -> None:
        ingests = self._ingests
        self._capacity = send.room
        wait = _SOON_S
        while True:
            if not any(ingest.has_unfinished for ingest in ingests):
                wait = _SOON_S
                self._delivered = trio.Event()
                with trio.move_on_after(_IDLE_S):
                    await self._delivered.wait()
            if any(ingest.has_unfinished for ingest in ingests):
                await self._pause(send, wait)
            for ingest in ingests:
                ingest.check_lease()
            held = any(ingest.has_unfinished for ingest in ingests)
            unfinished = identities(outcomes.unfinished()) if held else frozenset()
            last = self._draining and bool(unfinished) and not outcomes.busy
            found = sum(ingest.settle(unfinished, last=last) for ingest in ingests)
            for ingest in ingests:
                ingest.acknowledge()
            wait = _SOON_S if found else min(2 * wait, _LATE_S)
            for ingest in ingests:
                for shard in ingest.shards_to_give_up():
                    nursery.start_soon(ingest.give_up, shard)
            if self._draining and all(ingest.is_done for ingest in ingests):
                return

    async def _say_goodbye(self) -> None:
        with trio.move_on_after(_GOODBYE_S):
            for ingest in self._ingests:
                await ingest.say_goodbye()


def _first(group: BaseExceptionGroup[BrokerError]) -> BrokerError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, BrokerError)
    return found
