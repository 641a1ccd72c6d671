"""The workers' end at work: joins the group, delivers, and commits what has an outcome.

One task takes turns with the client's thread and settles between them, one delivers
into the channel, one writes dead letters. So librdkafka is polled while the channel has
no room, and a worker with slow handlers is never evicted from its group.

Rules: decisions are taken between two turns, in the event loop. What happens when
partitions come and go is in :mod:`.parting`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Final, final

import trio

from ...buffer import BufferStatistics, Outcomes, Send
from ...errors import KilledProcessError
from ...logs import log_event
from ...uninterrupted import uninterrupted
from ..packing import Packer
from .careful import Single
from .committing import Mark
from .consuming import Consuming, Order, Turn, session_s
from .dead_letters import DeadLetters, Letter
from .delivering import Delivering
from .health import Health
from .holding import Holding
from .leaving import leave
from .library import confluent
from .parting import Parting
from .reading import PART, Reading
from .settings import KafkaSettings
from .topics import Admin, prepare

__all__ = ["Working"]

_logger = logging.getLogger("trio_ticks.brokers")

_COMMIT_S: Final = 0.05
_IDLE_S: Final = 0.1
_TURN_S: Final = 0.01
_CAREFUL_S: Final = 0.001
_POLL_S: Final = 1.0
"""Seconds without room after which the client is polled, which may bring a record."""
_PAUSE_S: Final = 8.0
"""Seconds without room after which fetching is paused. To go on takes up to 1 s."""
_MEASURE_S: Final = 0.5
_STEP_S: Final = 0.002
_TOPIC_S: Final = 2.0
_LEAVE_S: Final = 3.0
"""Seconds that the last commit may take where the broker does not answer. Where it
does, the group may be rebalancing, which takes up to a session."""
_LEAVE_GROUP_S: Final = 5.0
"""How long the broker may take to let a worker go that has given all up, in seconds."""
_CLOSE_S: Final = 2.0
"""Seconds that the client may take to end when all is cancelled."""
_AWAY_S: Final = 0.2
"""The same, for both, while the broker is away: nobody there could let us go."""
_MOST_RECORDS: Final = 1000


@uninterrupted
@final
class Working:
    """One run of a source."""

    def __init__(
        self,
        kafka: KafkaSettings,
        health: Health,
        send: Send,
        outcomes: Outcomes,
        draining: trio.Event,
    ) -> None:
        self._kafka = kafka
        self._health = health
        self._send = send
        self._draining = draining
        self._outcomes = outcomes
        self._holding = Holding(kafka, f"{send.random.getrandbits(64):016x}")
        self._letters = DeadLetters(kafka, health)
        self._reading = Reading(kafka, send, self._holding, self._letters)
        self._delivering = Delivering(self._holding, send, self._reading.read, self._settle_soon)
        self._parting = Parting(
            kafka, send, outcomes, self._holding, self._delivering, self._letters
        )
        self._packer = Packer(kafka.partitions, 1)
        self._session_s = session_s(kafka)
        self._full_since: float | None = None
        self._commit_at = self._measure_at = self._sent_at = self._poll_at = 0.0
        self._topic_at = self._parting.awake_at + _TOPIC_S
        self._behind: int | None = None
        self._open = 0
        self._capacity = 0
        """The most room that was seen in the channel."""
        self._dead = 0

    def statistics(self) -> BufferStatistics:
        """Return the counters."""
        health, holding = self._health, self._holding
        # Without a partition nothing is known of what is in them.
        behind = self._behind if holding.shards else None
        unread = self._reading.waiting
        lag = None if behind is None else round(behind * self._reading.mean) + unread
        times = [state.arrived[0][1] for state in holding.shards.values() if state.arrived]
        oldest = min(times, default=None)
        if oldest is None:
            lag_s = 0.0 if lag == 0 else None
        else:
            lag_s = max(0.0, self._send.clock.wall() - oldest)
        return BufferStatistics(
            connected=health.connected,
            reconnects=health.reconnects,
            round_trip_s=health.round_trip_s,
            maxsize=self._kafka.maxsize,
            received=holding.received,
            redelivered=holding.redelivered,
            acknowledged=holding.acknowledged,
            given_back=holding.given_back,
            unacknowledged=holding.unacknowledged,
            fenced=self._parting.fenced,
            dead=self._dead,
            junk=self._reading.junk,
            lag=None if lag is None else lag + holding.unacknowledged,
            lag_s=lag_s,
            shards=len(holding.shards),
            takeovers=holding.takeovers,
            clock_difference_s=self._reading.difference_s or None,
        )

    def give_back(self) -> int:
        """Withdraw what is queued, and have none of it committed; return how much."""
        return self._parting.give_back()

    async def run(self, admin: Admin) -> None:
        """Work until the end of a drain.

        Raises:
            BrokerError: the broker refuses us, or the topic is not as it must be.
            ConfigError: librdkafka does not take the settings.

        Cancellation: what was delivered and not committed comes again.
        """
        limiter = trio.CapacityLimiter(1)
        consuming = await trio.to_thread.run_sync(
            Consuming, self._kafka, self._health, self._parting
        )
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._letters.run)
                nursery.start_soon(self._delivering.run)
                try:
                    await self._turns(consuming, admin, limiter)
                    timeout_s = max(_LEAVE_S, self._session_s if self._health.connected else 0)
                    poll = partial(self._poll, consuming, limiter)
                    await leave(self._holding, self._parting, poll, timeout_s, self._is_away)
                    # All is given up and committed by now. librdkafka may wait for ever
                    # here if the broker has lost the group.
                    with trio.move_on_after(self._at_most(_LEAVE_GROUP_S)):
                        await trio.to_thread.run_sync(
                            consuming.close, limiter=limiter, abandon_on_cancel=True
                        )
                except Exception as error:
                    # Raised outside of the nursery, which would make a group of it.
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            consuming.aborting = True
            await self._abort(consuming, limiter)  # noqa: ASYNC102  # bounded in there
        if failure is not None:
            raise failure

    async def _abort(self, consuming: Consuming, limiter: trio.CapacityLimiter) -> None:
        """End the client; do not wait until a group that is changing has an answer.

        librdkafka does, for as long as the slowest of the other workers takes. Its
        thread goes on by itself then.
        """
        with trio.move_on_after(self._at_most(_CLOSE_S), shield=True) as patience:
            await trio.to_thread.run_sync(consuming.close, limiter=limiter, abandon_on_cancel=True)
        if patience.cancelled_caught:
            self._health.let_go()
            text = "%s does not let us leave its group, which notices that we are gone"
            facts = {"broker": self._kafka.shown}
            log_event(_logger, logging.WARNING, "broker.not_left", text, self._kafka.shown, **facts)

    def _is_away(self) -> bool:
        return not self._health.connected

    def _at_most(self, seconds: float) -> float:
        """Return how long the broker may take to answer, if it is there."""
        return _AWAY_S if self._is_away() else seconds

    # Turns

    async def _turns(
        self, consuming: Consuming, admin: Admin, limiter: trio.CapacityLimiter
    ) -> None:
        clock, holding = self._send.clock, self._holding
        self._parting.awake_at = clock.now()
        while True:
            self._health.check()
            if clock.now() - self._parting.awake_at > self._session_s:
                self._parting.return_all()
            self._parting.awake_at = clock.now()
            unfinished = self._parting.unfinished()
            self._open = len(unfinished)
            holding.settle(unfinished)
            for shard, single in holding.step(unfinished):
                self._bury(shard, single)
            self._delivering.look()
            self._capacity = max(self._capacity, self._send.room)
            if self._draining.is_set():
                holding.unread.clear()
            if self._draining.is_set() and not self._letters.tokens:
                if unfinished and not self._outcomes.busy:
                    # The rest will never have an outcome.
                    self.give_back()
                if not holding.outstanding.ticks:
                    return
            order = self._order()
            if order is None:
                await trio.sleep(_STEP_S)
                continue
            turn = await trio.to_thread.run_sync(consuming.turn, order, limiter=limiter)
            if clock.now() - self._parting.awake_at > self._session_s:
                returned = self._parting.return_all()
                turn.entries = [each for each in turn.entries if each.shard not in returned]
            self._take(turn)
            if turn.topic_is_gone or not holding.shards:
                await self._check_topic(admin)

    def _settle_soon(self) -> None:
        """Free what is finished, if that is nearly all, before more is read.

        Else it is left to the next turn: to ask what is unfinished costs something for
        each tick that is.
        """
        out = self._holding.outstanding.ticks
        if out >= PART // 2 and 4 * (self._capacity - self._send.room) <= out:
            self._holding.settle(self._parting.unfinished())

    @staticmethod
    async def _poll(
        consuming: Consuming, limiter: trio.CapacityLimiter, commits: Mapping[int, Mark]
    ) -> Turn:
        order = Order(commits, 0, _TURN_S, paused=True)
        return await trio.to_thread.run_sync(consuming.turn, order, limiter=limiter)

    async def _check_topic(self, admin: Admin) -> None:
        """Make the topic if it is missing: without it nobody gets a partition."""
        now = self._send.clock.now()
        if now >= self._topic_at and self._health.connected:
            self._topic_at = now + _TOPIC_S
            try:
                missing = await admin.partitions(self._kafka.topic) is None
            except confluent().KafkaException:
                return
            if missing:
                await prepare(admin, self._kafka, self._health, seen=True)
            self._parting.awake_at = self._send.clock.now()

    def _order(self) -> Order | None:
        """Return what the next turn is to do; ``None``: nothing now."""
        now, holding, book = self._send.clock.now(), self._holding, self._holding.book
        room = min(
            self._kafka.prefetch - self._open,
            # One slow tick holds up the commits of its partition, not all fetching.
            2 * self._kafka.prefetch - holding.outstanding.ticks,
        )
        room -= self._reading.waiting
        if room > 0:
            self._full_since = None
        elif self._full_since is None:
            self._full_since, self._poll_at = now, now + _POLL_S
        draining = self._draining.is_set()
        full_s = 0.0 if self._full_since is None else now - self._full_since
        # Ticks that wait for the answer to a commit need a client that is polled.
        paused = draining or full_s > _PAUSE_S or (room <= 0 and holding.is_urgent)
        due = room <= 0 and now >= self._poll_at
        if due:
            self._poll_at = now + _POLL_S
        commits: dict[int, Mark] = {}
        waiting = holding.unacknowledged - holding.outstanding.ticks
        urgent = holding.is_urgent or waiting > holding.window // 4
        if book.pending and (now >= self._commit_at or urgent):
            commits = book.take()
            if commits:
                self._commit_at = now + _COMMIT_S
                self._sent_at = now
        if room <= 0 and not (commits or paused or due):
            return None
        records = 1 if due and not paused else 0
        if room > 0 and not draining:
            # Beyond the window one at a time: answers to commits come with records.
            most = room / self._reading.mean if holding.unacknowledged < holding.window else 1
            records = max(1, min(_MOST_RECORDS, int(most)))
        measure = now >= self._measure_at
        if measure:
            self._measure_at = now + _MEASURE_S
        wait_s = _TURN_S if holding.outstanding.ticks or book.is_sent else _IDLE_S
        seeks, self._parting.seeks = self._parting.seeks, {}
        return Order(
            commits,
            records,
            _CAREFUL_S if urgent else wait_s,
            paused,
            seeks,
            holding.to_verify(),
            measure,
            measure and not self._health.connected,
        )

    def _take(self, turn: Turn) -> None:
        holding = self._holding
        if turn.behind is not None:
            self._behind = turn.behind
        if turn.verified is not None:
            self._verified(turn.verified)
        if turn.refused is not None:
            holding.confirm(turn.refused)
            if not turn.refused:
                self._health.heard(self._sent_at)
        if turn.entries and not self._draining.is_set():
            # What is of no partition of ours is not committed, and so it comes to the
            # next holder.
            holding.unread += [each for each in turn.entries if each.shard in holding.shards]
            self._delivering.look()

    def _verified(self, kept: bool) -> None:
        if self._holding.keeps_metadata is None and not kept:
            text = (
                "%s does not keep the metadata of commits: a tick that kills its process again "
                "and again is not recognised, and has to be skipped by hand"
            )
            log_event(
                _logger,
                logging.WARNING,
                "broker.no_metadata",
                text,
                self._kafka.shown,
                buffer=self._kafka.shown,
            )
        self._holding.verified(kept)

    # Dead letters

    def _bury(self, shard: int, single: Single) -> None:
        """Have a tick dead-lettered that has killed its process again and again."""
        times = self._kafka.max_deliveries
        error = KilledProcessError(
            f"the process died {times} times when this tick was handled", deaths=times
        )
        text = "a tick of %r in partition %d goes to %s: %s"
        shown = (single.item.symbol, shard, self._kafka.dead_topic, error)
        log_event(_logger, logging.ERROR, "broker.dead", text, *shown, symbol=single.item.symbol)
        self._dead += 1
        self._send.bury(single.item, error)
        self._holding.delivered(single.stretch())
        records, _refused = self._packer.pack(single.stretch())
        body = records[0].body if records else b""
        why = str(error)
        self._letters.put(
            Letter(body, str(shard), "deliveries", why, shard, single.offset, single.item)
        )
