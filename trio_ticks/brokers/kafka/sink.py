"""The ingest's end: takes from the channel, appends to the topic, waits if it is full.

At most ``window`` ticks are taken and not confirmed; while the broker is away they wait
in librdkafka, and nothing more is taken.

Rules: a record that fails for a reason that may pass (the topic is gone and made again)
is sent again, after all others on their way have been reported, so that the order of
each partition stays. Counters are the event loop's alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, final

import trio

from ...buffer import BufferStatistics, Receive, Stretch
from ...clock import Clock
from ...logs import LogLimit, log_event
from ...uninterrupted import uninterrupted
from ..packing import Packer
from .backlog import Backlog
from .health import Health
from .library import confluent
from .producing import Producing, Report, Sending, split
from .sampling import Sampling
from .settings import KafkaSettings
from .topics import Admin, prepare

__all__ = ["KafkaSink"]

_logger = logging.getLogger("trio_ticks.brokers")
_LISTEN_S: Final = 0.1
_AGAIN_S: Final = 0.1
"""Seconds before what failed is sent again; twice as many each time it fails."""
_LONGEST_AGAIN_S: Final = 2.0
_MANY: Final = 3
"""After so many failures in a row the broker counts as away."""
_WORN: Final = (
    "PRODUCER_FENCED",
    "INVALID_PRODUCER_EPOCH",
    "INVALID_PRODUCER_ID_MAPPING",
    "UNKNOWN_PRODUCER_ID",
    "OUT_OF_ORDER_SEQUENCE_NUMBER",
)
"""Errors after which a broker takes nothing more of the same client."""
_FULL_S: Final = 0.05
"""Seconds from one look to the next while the topic is full."""
_GONE: Final = ("_NOENT", "UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION")
_HOPELESS: Final = ("MSG_SIZE_TOO_LARGE", "INVALID_MSG", "INVALID_RECORD", "INVALID_TIMESTAMP")
"""Errors that are the record's own: it counts as failed."""


@uninterrupted
@final
class KafkaSink:
    """Appends what comes out of a channel to the topic of *kafka*."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._packer = Packer(kafka.partitions, kafka.pack)
        self._backlog = Backlog(kafka.partitions)
        self._health: Health | None = None
        self._clock = Clock()
        self._limit: LogLimit | None = None
        self._changed = trio.Event()
        self._again: list[Sending] = []
        self._waiting: deque[Sending] = deque()
        self._number = 0
        # By identity: the parts of a record that was too large share its number.
        self._on_way: dict[int, Sending] = {}
        self._known = False
        self._lost = False
        self._worn = False
        """Whether the broker takes nothing more of this client."""
        self._failures = 0
        """How often in a row records have failed that are sent again."""
        self._why = ""
        self._taking: trio.CancelScope | None = None
        self._ends: Mapping[int, int] = {}
        self._producing: Producing | None = None
        self._using = trio.Lock()
        self._in_doubt = self._appended = self._failed = 0
        self._full_s = 0.0
        self._full_since: float | None = None
        self._filled = trio.Event()
        """Set while the topic is full."""

    def statistics(self) -> BufferStatistics:
        """Return the counters of this end."""
        health = self._health
        full_s = self._full_s
        if self._full_since is not None:
            full_s += self._clock.now() - self._full_since
        return BufferStatistics(
            # One that refuses whatever is sent is of no use, though it answers.
            connected=health is not None and health.connected and self._failures < _MANY,
            reconnects=0 if health is None else health.reconnects,
            round_trip_s=None if health is None else health.round_trip_s,
            maxsize=self._kafka.maxsize,
            used=self._backlog.ticks if self._known else None,
            appended=self._appended,
            in_doubt=self._in_doubt,
            full_s=full_s,
            failed=self._failed,
        )

    async def run(self, receive: Receive, /) -> None:
        """Append what comes out of *receive*, until its end.

        Raises:
            BrokerError: the broker refuses us, or the topic is not as it must be.
            ConfigError: librdkafka does not take the settings.

        Cancellation: what was taken and not confirmed stays in doubt. It takes at most
        0.1 s until the threads have ended.
        """
        self._clock = receive.clock
        self._limit = LogLimit(receive.clock.now)
        health = self._health = Health(self._kafka, receive.clock.now)
        admin = Admin(self._kafka, health)
        try:
            await prepare(admin, self._kafka, health)
            await self._open(health)
            try:
                await self._all(receive, admin, health)
            finally:
                await self._close(health)  # noqa: ASYNC102  # bounded in there
        finally:
            await admin.aclose()

    async def _open(self, health: Health) -> None:
        make = Producing
        self._producing = await trio.to_thread.run_sync(
            make, self._kafka, health, self._kafka.topic
        )

    async def _close(self, health: Health) -> None:
        """End the client; what is on its way stays so."""
        producing, self._producing = self._producing, None
        if producing is not None:
            with trio.CancelScope(shield=True):
                self._book(await trio.to_thread.run_sync(producing.close), health)

    async def _all(self, receive: Receive, admin: Admin, health: Health) -> None:
        failure: Exception | None = None
        sampling = Sampling(self._backlog, receive.clock.now, receive.random)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, health)
            try:
                await self._look(admin, health)
                # Before the first tick is taken: the topic may be full already.
                await sampling.refresh(admin)
                nursery.start_soon(self._watch, admin, health, sampling)
                await self._append(receive, admin, health)
            except Exception as error:
                # Raised outside of the nursery, which would make a group of it.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _append(self, receive: Receive, admin: Admin, health: Health) -> None:
        kafka = self._kafka
        most = min(kafka.window, max(256, min(kafka.partitions * kafka.pack, 4096)))
        limiter = trio.CapacityLimiter(1)
        ended = False
        while True:
            health.check()
            if self._lost or self._worn:
                await self._begin_anew(admin, health)
            if self._again:
                await self._send_again(admin, health)
            if self._lost or self._worn:
                continue
            if self._waiting:
                await self._put(limiter, health)
            if self._waiting or self._again:
                await self._change()
                continue
            if ended:
                if not self._in_doubt:
                    return
                await self._change()
                continue
            room = kafka.maxsize - self._backlog.ticks - self._in_doubt
            self._note_full(room <= 0)
            room = min(room, kafka.window - self._in_doubt, most)
            if room <= 0:
                await self._change()
                continue
            stretch: Stretch | None = None
            # What fails meanwhile is not to wait until more comes.
            with trio.CancelScope() as self._taking:
                try:
                    stretch = await receive.take(room)
                except trio.EndOfChannel:
                    ended = True
            self._taking = None
            if stretch is not None:
                self._pack(stretch)

    def _pack(self, stretch: Stretch) -> None:
        records, refused = self._packer.pack(stretch)
        self._in_doubt += sum(record.ticks for record in records)
        for item, error in refused:
            self._fail(1, f"a {type(item).__name__}: {error}")
        symbols: dict[int, list[str]] = {}
        if self._kafka.pack == 1:
            # The records of a shard are its ticks in order, without those refused.
            left_out = {id(item) for item, _error in refused}
            for item in reversed(stretch.items):
                if id(item) not in left_out:
                    symbols.setdefault(self._packer.shard(item.symbol), []).append(item.symbol)
        for record in records:
            self._number += 1
            key = symbols[record.shard].pop() if symbols else str(record.shard)
            self._waiting.append(Sending(self._number, record, key))

    async def _put(self, limiter: trio.CapacityLimiter, health: Health) -> None:
        waiting = self._waiting
        assert self._producing is not None
        put, batch = self._producing.put, list(waiting)
        # Before they are put in: a report may come before the thread has ended.
        self._on_way.update((id(sending), sending) for sending in batch)
        count, error = await trio.to_thread.run_sync(put, batch, limiter=limiter)
        for sending in batch[count:]:
            self._on_way.pop(id(sending), None)
        for _ in range(count):
            waiting.popleft()
        if error is not None:
            refused = waiting.popleft()
            if error.name() == "MSG_SIZE_TOO_LARGE" and refused.record.ticks > 1:
                # Nothing behind it is on its way, so its parts keep its place.
                parts = split(refused.record)
                again = [Sending(refused.number, part, refused.key) for part in parts]
                waiting.extendleft(reversed(again))
            else:
                self._mend(refused, error, health)
        self._notify()

    async def _send_again(self, admin: Admin, health: Health) -> None:
        """Put what failed before what waits, once nothing else is on its way."""
        while self._on_way:
            if self._lost or self._worn:
                return
            await self._change()
        if due := 0 if self._limit is None else self._limit.due("again", len(self._again)):
            text = "%d records were refused by %s, and are sent again: %s"
            shown = (due, self._kafka.shown, self._why)
            log_event(_logger, logging.WARNING, "broker.sent_again", text, *shown, records=due)
        await trio.sleep(min(_AGAIN_S * 2**self._failures, _LONGEST_AGAIN_S))
        await prepare(admin, self._kafka, health, seen=True)
        again, self._again = self._again, []
        again.sort(key=lambda sending: sending.number)
        self._waiting.extendleft(reversed(again))

    async def _begin_anew(self, admin: Admin, health: Health) -> None:
        """Send all again that is in doubt, by a new client.

        The broker takes nothing more of the one that there is: it has lost the topic,
        and what it knew of our client, or it has fenced that off.
        """
        emptied = self._lost
        if emptied:
            text = "the broker has lost the topic %s, and what was in it; %d ticks are sent again"
            shown = (self._kafka.topic, self._in_doubt)
            log_event(_logger, logging.ERROR, "broker.emptied", text, *shown, ticks=self._in_doubt)
        await prepare(admin, self._kafka, health, seen=True)
        async with self._using:
            await self._close(health)
            self._again += self._on_way.values()
            self._on_way.clear()
            if emptied:
                self._backlog.restart()
                self._ends = {}
                self._lost = False
            self._worn = False
            await self._open(health)
        await self._look(admin, health)

    async def _listen(self, health: Health) -> None:
        limiter = trio.CapacityLimiter(1)
        while True:
            while not self._on_way:
                await self._change()
            async with self._using:
                if self._producing is not None:
                    listen = self._producing.listen
                    reports = await trio.to_thread.run_sync(listen, _LISTEN_S, limiter=limiter)
                    self._book(reports, health)
            self._notify()

    def _book(self, reports: list[Report], health: Health) -> None:
        for report in reports:
            self._on_way.pop(id(report.sending), None)
            record = report.sending.record
            if report.error is None:
                health.heard()
                self._failures = 0
                self._in_doubt -= record.ticks
                self._appended += record.ticks
                self._backlog.append(record.shard, report.offset, record.ticks)
            else:
                self._mend(report.sending, report.error, health)

    def _mend(self, sending: Sending, error: Any, health: Health) -> None:
        """Count a record that failed for good; keep any other, to be sent again."""
        if error.name() in _HOPELESS:
            self._in_doubt -= sending.record.ticks
            self._fail(sending.record.ticks, error.str())
            return
        if health.is_refusal(error):
            health.error(error)
        if not self._again:
            self._failures = min(self._failures + 1, 10)
        self._why = error.str()
        self._worn = self._worn or error.fatal() or error.name() in _WORN
        self._again.append(sending)

    def _fail(self, ticks: int, why: str) -> None:
        self._failed += ticks
        due = self._limit.due("failed", ticks) if self._limit is not None else 0
        if due:
            text = "%d ticks cannot be written to %s: %s"
            log_event(
                _logger,
                logging.ERROR,
                "broker.not_written",
                text,
                due,
                self._kafka.shown,
                why,
                ticks=due,
            )

    async def _watch(self, admin: Admin, health: Health, sampling: Sampling) -> None:
        while True:
            if self._full_since is None:
                with trio.move_on_after(self._kafka.poll_s):
                    await self._filled.wait()
            # While the topic is full, ticks wait here for nothing but this look.
            await trio.sleep(min(_FULL_S, self._kafka.poll_s))
            await sampling.refresh(admin)
            await self._look(admin, health)

    async def _look(self, admin: Admin, health: Health) -> None:
        """Ask how full the topic is."""
        try:
            found = await admin.offsets()
        except confluent().KafkaException as error:
            if error.args[0].name() in _GONE:
                self._lost = True
            elif health.is_refusal(error.args[0]):
                health.error(error.args[0])
            else:
                health.away(error.args[0].str())
            self._notify()
            return
        health.heard()
        health.round_trip_s = found.round_trip_s
        self._known = True
        if any(found.ends.get(number, 0) < end for number, end in self._ends.items()):
            self._lost = True
        self._ends = found.ends
        self._backlog.update(found.ends, found.committed)
        self._notify()

    def _note_full(self, full: bool) -> None:
        now = self._clock.now()
        if full and self._full_since is None:
            self._full_since = now
            self._filled.set()
        elif not full and self._full_since is not None:
            self._full_s += now - self._full_since
            self._full_since = None
            self._filled = trio.Event()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        if self._taking is not None and (self._again or self._lost or self._worn):
            self._taking.cancel()

    async def _change(self) -> None:
        await self._changed.wait()
