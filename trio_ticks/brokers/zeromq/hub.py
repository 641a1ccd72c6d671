"""The ingest's side of the protocol: its workers, how they come and how they go.

Plan: a message comes in by :meth:`Hub.receive`, records by :meth:`Dispatch.append`, and
time by :meth:`Hub.advance`; what is to be sent stands in :attr:`Dispatch.outbox`
afterwards. A worker is known by its connection, and over a lost connection by the name
that it gave itself: if it comes back before its lease is over, it keeps its shards, and
is sent again what it has not acknowledged.

Rules: sans-I/O. Nothing that a peer sends raises, and nothing that it sends is kept
unless it said hello.
"""

from __future__ import annotations

import logging
from typing import Final, final

from ...logs import LogLimit, log_event
from .dispatch import Dispatch, Member, Terms
from .protocol import (
    MAGIC,
    VERSION,
    Acked,
    Bye,
    Ended,
    GivenUp,
    Hello,
    JunkMessageError,
    Leaving,
    Left,
    OtherPeerError,
    Ping,
    Reader,
    Refused,
    Stranger,
    Welcome,
)

__all__ = ["Hub"]

_MOST_WORKERS: Final = 1000
"""Workers of one ingest: a stranger that says hello again and again ends there."""
_LONGEST: Final = 500
"""The longest name of a worker, in characters."""

_logger = logging.getLogger("trio_ticks.brokers")


@final
class Hub:
    """The workers of one ingest.

    Args:
        terms: the ingest's settings.
        dispatch: the shards; it has the workers and the outbox too.
        limit: how often the log shows what strangers do.

    Attributes:
        joined: how many workers came, those that came back included.
        junk: how many messages could not be read.
    """

    def __init__(self, terms: Terms, dispatch: Dispatch, limit: LogLimit) -> None:
        self._terms = terms
        self._dispatch = dispatch
        self._limit = limit
        self._reader = Reader("work")
        self.joined = 0
        self.junk = 0

    def receive(self, peer: bytes, body: bytes, now: float, wall: float) -> None:
        """Take one message of the connection *peer*.

        Args:
            peer: the connection.
            body: the message.
            now: by trio's clock.
            wall: seconds since 1970.
        """
        try:
            message = self._reader.read(body)
        except OtherPeerError as error:
            self._refuse(peer, str(error))
            return
        except JunkMessageError as error:
            self.count_junk(error)
            return
        if type(message) is Hello:
            self._greet(peer, message, now, wall)
            return
        dispatch = self._dispatch
        member = dispatch.members.get(peer)
        if member is None:
            dispatch.post(peer, Stranger())
            return
        member.heard = now
        match message:
            case Acked(shards):
                dispatch.acknowledge(member, shards)
            case Ping(at):
                dispatch.post(peer, dispatch.pong(member, at, wall))
            case GivenUp(shards):
                dispatch.give_up(member, shards)
            case Leaving():
                member.leaving = True
                dispatch.share()
            case Left():
                self._remove(member, crashed=False)
                dispatch.post(peer, Bye())

    def advance(self, now: float, *, asleep_s: float = 0.0) -> None:
        """Find the workers that were silent for the lease.

        Args:
            now: by trio's clock.
            asleep_s: how long this program itself did not listen: nobody could be heard
                then.
        """
        for member in list(self._dispatch.members.values()):
            member.heard += asleep_s
            if now - member.heard > self._terms.lease_s:
                self._remove(member, crashed=True)

    def end(self) -> None:
        """Tell all workers that the ingest ends."""
        for peer in self._dispatch.members:
            self._dispatch.post(peer, Ended(self._dispatch.used))

    def count_junk(self, why: object) -> None:
        """Count a message that cannot be read."""
        self.junk += 1
        if count := self._limit.due("junk"):
            log_event(_logger, logging.WARNING, "broker.junk", count=count, last=why)

    def _greet(self, peer: bytes, hello: Hello, now: float, wall: float) -> None:
        terms, members = self._terms, self._dispatch.members
        if len(hello.worker) > _LONGEST or len(hello.name) > _LONGEST:
            # They are kept, and logged again and again.
            self._refuse(peer, f"its name has more than {_LONGEST} characters")
            return
        if hello.shards != terms.shards:
            self._refuse(
                peer,
                f"it has {hello.shards} shards and the ingest {terms.shards}: give both "
                "programs the same shards=",
            )
            return
        here = members.get(peer)
        if here is not None and here.worker != hello.worker:
            # Whoever is behind this connection says that it is another worker now.
            self._remove(here, crashed=False)
        old = next((each for each in members.values() if each.worker == hello.worker), None)
        if old is not None and old.session != hello.session:
            # It has begun anew, and let go of what it had.
            self._remove(old, crashed=False)
            old = None
        if old is None and len(members) >= _MOST_WORKERS:
            self._refuse(peer, f"the ingest has {_MOST_WORKERS} workers already")
            return
        welcome = Welcome(
            *(MAGIC, VERSION, "ingest", hello.session, terms.ingest, terms.shards, terms.window),
            *(terms.heartbeat_s, terms.lease_s, hello.at, wall, wall),
        )
        self._dispatch.post(peer, welcome)
        if old is not None and old.peer == peer:
            old.heard = now
            return
        self.joined += 1
        if old is None:
            log_event(_logger, logging.INFO, "broker.worker_joined", worker=hello.name)
            credit = max(1, hello.credit)
            members[peer] = Member(peer, hello.worker, hello.session, hello.name, credit, now)
        else:
            log_event(_logger, logging.INFO, "broker.worker_back", worker=hello.name)
            members[peer] = members.pop(old.peer)
            old.peer, old.heard = peer, now
            self._dispatch.resume(old, hello.holds if hello.ingest == terms.ingest else [])
        self._dispatch.share()

    def _remove(self, member: Member, *, crashed: bool) -> None:
        sent_again = member.out
        shards = self._dispatch.remove(member, crashed=crashed)
        log_event(
            _logger,
            logging.WARNING if crashed else logging.INFO,
            "broker.worker_lost" if crashed else "broker.worker_left",
            worker=member.name,
            shards=shards,
            sent_again=sent_again,
        )
        self._dispatch.share()

    def _refuse(self, peer: bytes, reason: str) -> None:
        self._dispatch.post(peer, Refused(MAGIC, VERSION, "ingest", reason))
        if count := self._limit.due("refused"):
            log_event(_logger, logging.WARNING, "broker.peer_refused", count=count, reason=reason)
