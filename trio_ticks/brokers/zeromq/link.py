"""The worker's side of the protocol towards one ingest.

Plan: a message comes in by :meth:`Link.receive`, time by :meth:`Link.advance`; what is
to be sent stands in :attr:`Link.outbox` afterwards, and what came in :attr:`Link.inbox`
until it is delivered. The state says how things are:

- ``away``: says hello again and again; what it holds it keeps until its lease is over;
- ``joined``: the ingest knows us;
- ``fenced``: the lease is over: the source has withdrawn what it had, gives its shards
  up, and calls :meth:`Link.begin_anew`;
- ``left``: the worker leaves, and the ingest has said goodbye.

The lease runs from when a ping was *sent* that was answered, and ends before the ingest
can take us for dead: the ingest counts from when it received the ping, and gives a
quarter more.

Rules: sans-I/O. A sequence that was received before is left out. Ticks of a run of the
ingest that is over are nobody's but ours, so they stay.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final, Literal, final

import attrs

from ...buffer import Stretch
from ...errors import BrokerError
from .clocks import ClockDifference
from .protocol import (
    DEAD,
    FRESH,
    MAGIC,
    VERSION,
    Acked,
    Bye,
    Ended,
    Entry,
    GivenUp,
    Grant,
    Hello,
    JunkMessageError,
    Leaving,
    Left,
    OtherPeerError,
    Parcel,
    Ping,
    Pong,
    Reader,
    Refused,
    Revoke,
    Stranger,
    Welcome,
    encode,
)

__all__ = ["Arrival", "Hold", "Link", "LinkState"]

LinkState = Literal["away", "joined", "fenced", "left"]

_HELLO_S: Final = 0.5
"""Seconds from one hello to the next while nobody answers."""
_OURS: Final = 0.8
"""The part of the ingest's lease after which we take it to be over."""


@attrs.define(slots=True, eq=False)
class Hold:
    """A shard that this worker holds."""

    epoch: int
    run: int
    """The run of the ingest that it is of, counted by us."""
    received: int
    """The last sequence that came."""
    finished: int
    """The last sequence that is finished."""
    here: int = 0
    """Entries that were received and are not delivered yet, or being delivered."""
    revoked: bool = False
    giving_up: bool = False
    """Whether the handler is being told that it is gone."""


@attrs.define(slots=True, eq=False)
class Arrival:
    """One entry that was received."""

    hold: Hold
    shard: int
    last: int
    """The sequence of its last tick."""
    ticks: int
    again: bool
    """Whether its ticks may have been handled before."""
    dead: bool
    body: bytes
    stretch: Stretch | None = None
    """Its ticks, if they were read before."""


@final
class Link:
    """What a worker knows of one ingest.

    Args:
        address: of the ingest, for messages.
        hello: what the worker says of itself; the link fills in the rest.

    Attributes:
        state: see the module.
        inbox: what was received and is to be delivered, in order.
        outbox: messages to be sent, in order.
        holds: the shards that this worker holds.
        untold: how many ticks are finished, about, of which the ingest was not told.
        clock: how far the ingest's clock is from ours.
        run: how many runs of the ingest there were.
        joins: how many times the ingest has welcomed us.
        unanswered: how many times it has not answered a hello since.
        restarts: how many of these came after another one.
        window: how many ticks the ingest has out at most.
        used, oldest: of the ingest's window, as it said last; *oldest* by its clock.
        at_most_lost: how many ticks at most were lost with runs that ended; a tick that
            we had received is none.
        known_lost: of these, the ticks of which the ingest said that they were there.
        ended: whether the ingest said that it ends.
        asks: whether the ingest wants shards back, until somebody resets it.
        takeovers, junk: counters.
    """

    def __init__(self, address: str, hello: Hello) -> None:
        self._address = address
        self._hello = hello
        self._reader = Reader("ingest")
        self._ingest = b""
        self._session = 0
        self.window = 0
        self._heartbeat_s = _HELLO_S
        self._next_s = 0.0
        self._lease_s = 0.0
        self._until = 0.0
        self._asked: dict[float, float] = {}
        """When the pings and hellos that are not answered yet were sent, by trio's
        clock; by what they say."""
        self._yours = 0
        self._kept = 0
        self._untold: dict[int, None] = {}
        """The shards of which more is finished than the ingest was told."""
        self.untold = 0
        self.leaving = False
        self.state: LinkState = "away"
        self.inbox: deque[Arrival] = deque()
        self.outbox: list[bytes] = []
        self.holds: dict[int, Hold] = {}
        self.clock = ClockDifference()
        self.run = 0
        self.joins = 0
        self.unanswered = 0
        self.restarts = 0
        self.used: int | None = None
        self.oldest: float | None = None
        self.known_lost = 0
        self.at_most_lost = 0
        self.ended = False
        self.asks = False
        self.takeovers = 0
        self.junk = 0

    # Time

    def advance(self, now: float, wall: float) -> None:
        """Say hello or ping if it is time, and notice that the lease is over.

        Args:
            now: by trio's clock.
            wall: seconds since 1970.
        """
        if self.is_over(now) or self.state in ("fenced", "left") or now < self._next_s:
            # A lease that is over is the source's to notice, which withdraws first.
            return
        self._next_s = now + self._heartbeat_s
        if self.state == "joined" and now >= self._until:
            # Without a shard there is no lease to lose. What the ingest may have sent
            # meanwhile it must send again: a new session.
            self._session += 1
            self.state = "away"
        if self.state == "joined":
            self._ask(Ping(wall), wall, now)
        elif not self.leaving:
            self._say_hello(now, wall)

    def is_over(self, now: float) -> bool:
        """Tell whether the lease of what we hold is over."""
        return bool(self.holds) and not self.ended and self.state != "left" and now >= self._until

    def wait_s(self, now: float) -> float:
        """Return how long there is nothing to say, in seconds."""
        return max(0.0, self._next_s - now) if self.state in ("away", "joined") else math.inf

    def fence(self) -> None:
        """Hold nothing any more, and do not ask for more until :meth:`begin_anew`."""
        self.state = "fenced"
        self.holds.clear()
        self.inbox.clear()

    def begin_anew(self, kept: int) -> None:
        """Say hello again, now that what was held has been let go of.

        Args:
            kept: how many of its ticks are kept, in case the ingest proves to be gone.
        """
        self._kept = kept
        self._session += 1
        self.state = "away"
        self._next_s = 0.0

    def leave(self) -> None:
        """Take no more: what was received and not delivered goes back."""
        self.leaving = True
        kept: list[Arrival] = []
        for arrival in self.inbox:
            if self.ended or arrival.hold.run < self.run:
                # There is nobody to whom it could go back.
                kept.append(arrival)
            else:
                arrival.hold.here -= 1
        self.inbox = deque(kept)
        if self.state == "joined":
            self._post(Leaving())
        for hold in self.holds.values():
            hold.revoked = True

    def say_left(self) -> None:
        """Say goodbye, now that nothing is held any more."""
        if self.state == "joined":
            self._post(Left())

    # Outcomes

    def finish(self, shard: int, sequence: int, ticks: int) -> None:
        """Take note that *ticks* of *shard* are finished, up to *sequence*."""
        self.holds[shard].finished = sequence
        self._untold[shard] = None
        self.untold += ticks

    def acknowledge(self) -> None:
        """Tell the ingest what is finished and was not told yet."""
        told = [
            (shard, hold.epoch, hold.finished)
            for shard in self._untold
            if (hold := self.holds.get(shard)) is not None
        ]
        self._untold.clear()
        self.untold = 0
        if told and self.state == "joined":
            # Otherwise the next hello tells it.
            self._post(Acked(told))

    def give_up(self, shards: list[int]) -> None:
        """Tell the ingest that we are done with *shards*."""
        given = [(shard, self.holds.pop(shard)) for shard in shards]
        if self.state == "joined":
            self._post(GivenUp([(shard, hold.epoch, hold.finished) for shard, hold in given]))

    # Messages

    def receive(self, body: bytes, now: float, wall: float) -> None:
        """Take one message.

        Raises:
            BrokerError: the ingest cannot be used with these settings.
        """
        try:
            message = self._reader.read(body)
        except OtherPeerError as error:
            raise _error(self._address, str(error)) from None
        except JunkMessageError:
            self.junk += 1
            return
        if self.state != "joined" and isinstance(message, Parcel | Grant | Revoke):
            # Of a session that is over: what is still ours is sent again.
            return
        match message:
            case Parcel(entries):
                for entry in entries:
                    self._take(entry)
            case Pong():
                self._hear(message.at, message.received, message.sent, wall)
                self.used, self.oldest = message.used, message.oldest
                self._yours = message.yours
            case Grant(shards):
                self._gain(shards)
            case Revoke(revoked):
                for shard, epoch in revoked:
                    hold = self.holds.get(shard)
                    if hold is not None and hold.epoch == epoch:
                        hold.revoked = self.asks = True
            case Welcome():
                self._join(message, now, wall)
            case Stranger():
                if self.state == "joined":
                    # The connection was lost and made again.
                    self.state = "away"
                    self._next_s = now
            case Refused():
                raise _error(self._address, message.reason)
            case Bye():
                self.state = "left"
            case Ended(in_doubt):
                self.window = in_doubt
                self.ended = True
                self.state = "away"

    def _join(self, message: Welcome, now: float, wall: float) -> None:
        if self.state != "away" or message.session != self._session:
            return
        asked = self._asked.get(message.at, -math.inf)
        if now >= asked + message.lease_s * _OURS / 2 and not self.holds:
            # The hello had waited for the connection: too much of the lease is over.
            self._session += 1
            self._next_s = now
            return
        if message.ingest != self._ingest:
            self._meet(message)
        self._heartbeat_s = min(max(message.heartbeat_s, 0.01), 60.0)
        self._lease_s = message.lease_s * _OURS
        self.state = "joined"
        self.joins += 1
        self.unanswered = 0
        self.ended = False
        self._kept = 0
        self._next_s = now + self._heartbeat_s
        self._hear(message.at, message.received, message.sent, wall)

    def _meet(self, message: Welcome) -> None:
        """Take note that this run of the ingest is another one."""
        if self._ingest:
            self.restarts += 1
            # The ingest misses the outcome of these ticks, which are here.
            here = sum(hold.received - hold.finished for hold in self.holds.values())
            self.known_lost += self._yours
            self.at_most_lost += max(self._yours, self.window - here - self._kept)
        self._ingest = message.ingest
        self.window = message.window
        self._yours = self._kept = 0
        self.run += 1
        self.clock = ClockDifference()
        self.holds.clear()

    def _gain(self, shards: list[tuple[int, int, int]]) -> None:
        for shard, epoch, first in shards:
            hold = self.holds.get(shard)
            if hold is None or hold.epoch != epoch:
                self.holds[shard] = Hold(epoch, self.run, first - 1, first - 1)
                self.holds[shard].revoked = self.leaving
                self.takeovers += 1

    def _take(self, entry: Entry) -> None:
        hold = self.holds.get(entry.shard)
        last = entry.first + entry.ticks - 1
        if hold is None or hold.epoch != entry.epoch or last <= hold.received or self.leaving:
            return
        hold.received = last
        hold.here += 1
        again, dead = entry.kind != FRESH, entry.kind == DEAD
        self.inbox.append(Arrival(hold, entry.shard, last, entry.ticks, again, dead, entry.body))

    def _say_hello(self, now: float, wall: float) -> None:
        holds = [(shard, hold.epoch, hold.finished) for shard, hold in self.holds.items()]
        hello = self._hello
        message = Hello(
            *(MAGIC, VERSION, "work", hello.worker, self._session, hello.name, hello.shards),
            *(hello.credit, self._ingest, holds, wall),
        )
        self._ask(message, wall, now)
        self.unanswered += 1
        self._next_s = now + _HELLO_S

    def _ask(self, message: Any, wall: float, now: float) -> None:
        if len(self._asked) >= 100:
            self._asked.pop(next(iter(self._asked)))
        self._asked[wall] = now
        self._post(message)

    def _hear(self, at: float, received: float, sent: float, wall: float) -> None:
        """Take the answer to what we sent at *at*: a sample, and a longer lease."""
        asked = self._asked.pop(at, None)
        if asked is not None:
            self.clock.add(at, received, sent, wall)
            self._until = max(self._until, asked + self._lease_s)

    def _post(self, message: Any) -> None:
        self.outbox.append(encode(message))


def _error(address: str, reason: str) -> BrokerError:
    return BrokerError(f"the ingest at {address} cannot be used: {reason}", buffer=address)
