"""The ingest's end of a ZeroMQ buffer: it listens to workers, and sends them ticks.

Two tasks: one takes stretches from the channel while the window has room and there is a
worker; the other reads what workers say. Both hand what happens to the hub and the
dispatch, which decide, and send what these want to be sent.

Rules: nothing is decided here. Taking stops while there is no worker, so that the
channel's overflow strategy decides.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Final, final

import trio

from ...buffer import BufferStatistics, Receive, Stretch
from ...logs import LogLimit, log_event
from ...uninterrupted import uninterrupted
from ..packing import Packer, Record
from .dispatch import DeadTick, Dispatch, Terms
from .filling import Filling
from .hub import Hub
from .protocol import MOST_FROM_INGEST
from .settings import ZeroMQSettings
from .socket import LONGEST_SLEEP_S, Wire, bound
from .telling import TellingOfWorkers

__all__ = ["ZeroMQSink"]

_MOST_AT_ONCE: Final = 8192
"""Ticks that are taken and packed without a checkpoint between."""
_MOST_MESSAGES: Final = 256
"""Messages that are read without a checkpoint between."""
_OVERHEAD: Final = 1024
"""Bytes of a message around one record, at most."""

_logger = logging.getLogger("trio_ticks.brokers")


@uninterrupted
@final
class ZeroMQSink:
    """The end of a :class:`ZeroMQ` buffer at an ingest.

    A tick counts as ``appended`` once a worker has acknowledged it: until then this
    process keeps it, and it is ``in_doubt``.
    """

    def __init__(self, settings: ZeroMQSettings) -> None:
        self._settings = settings
        self._terms = Terms(
            secrets.token_bytes(16),
            settings.shards,
            settings.window,
            settings.heartbeat,
            settings.lease,
            settings.max_deliveries,
            settings.dead_letters,
        )
        self._packer = Packer(settings.shards, settings.pack)
        self._dispatch = Dispatch(self._terms, self._packer)
        self._wire: Wire | None = None
        self._address: str | None = None
        self._changed = trio.Event()
        """Set when the room is there that the taking task waits for, or there is no
        worker."""
        self._wanted = 0
        """How much room in the window that task waits for."""
        self._taking: trio.CancelScope | None = None
        self._joined = 0
        self._junk = 0
        self._failed = 0
        self._limit: LogLimit | None = None
        self._full_s = 0.0
        self._wall: Callable[[], float] | None = None

    @property
    def address(self) -> str | None:
        """Return where the sink listens, with the real port; ``None`` before that."""
        return self._address

    @property
    def dead_letters(self) -> list[DeadTick]:
        """Return the ticks that were given up last: workers died at them."""
        return list(self._dispatch.dead_letters)

    def statistics(self) -> BufferStatistics:
        """Return the counters of this end."""
        dispatch = self._dispatch
        return BufferStatistics(
            connected=bool(dispatch.workers),
            reconnects=max(0, self._joined - 1),
            maxsize=self._settings.window,
            used=dispatch.used,
            appended=dispatch.appended,
            in_doubt=dispatch.used,
            full_s=self._full_s,
            failed=self._failed,
            redelivered=dispatch.redelivered,
            fenced=dispatch.fenced,
            dead=dispatch.dead,
            junk=self._junk,
            lag=dispatch.used,
            lag_s=self._oldest_s(),
        )

    def _oldest_s(self) -> float | None:
        oldest = self._dispatch.oldest()
        if self._wall is None:
            return None
        return 0.0 if oldest is None else max(0.0, self._wall() - oldest)

    async def run(self, receive: Receive, /) -> None:
        """Send what comes out of *receive* to the workers, until its end.

        Returns once all of it is acknowledged: without a worker it waits for one.

        Raises:
            BrokerError: the address is in use, or not one of this machine.

        Cancellation: what is not acknowledged is lost with this process, and stays
        ``in_doubt``; the workers are told how much.
        """
        clock = receive.clock
        self._wall = clock.wall
        self._wire = wire = bound(self._settings)
        self._address = wire.address
        self._limit = LogLimit(clock.now)
        hub = Hub(self._terms, self._dispatch, LogLimit(clock.now))
        log_event(_logger, logging.INFO, "broker.listening", address=self._address)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, receive, hub)
                await self._take(receive)
                nursery.cancel_scope.cancel()
            hub.end()
            self._flush()
            await wire.close()
        except BaseException:
            in_doubt = self._dispatch.used
            if in_doubt:
                log_event(_logger, logging.WARNING, "broker.ended_in_doubt", ticks=in_doubt)
            hub.end()
            self._flush()
            wire.abandon(linger_s=0.1)
            raise
        finally:
            self._wire = None

    # Workers

    async def _listen(self, receive: Receive, hub: Hub) -> None:
        clock = receive.clock
        awake = clock.now()
        telling = TellingOfWorkers(self._address or "")
        while True:
            wire = self._wire
            if wire is None:
                return
            found = wire.receive(_MOST_MESSAGES)
            now = clock.now()
            for parts in found:
                if len(parts) == 2:
                    hub.receive(parts[0], parts[1], now, clock.wall())
                else:
                    hub.count_junk(f"a message of {len(parts) - 1} parts")
            # After a sleep that was longer than it should be, this process stood still.
            late = now - awake - 2 * LONGEST_SLEEP_S
            hub.advance(now, asleep_s=max(0.0, late))
            awake = now
            self._joined, self._junk = hub.joined, hub.junk
            telling.look(now, self._dispatch.workers)
            self._flush()
            self._announce()
            await wire.sleep(LONGEST_SLEEP_S)

    def _flush(self) -> None:
        """Send what hub and dispatch want to be sent."""
        outbox, wire = self._dispatch.outbox, self._wire
        if not outbox or wire is None:
            outbox.clear()
            return
        for peer, body in outbox:
            # A worker whose connection is gone comes back, or is silent for its lease.
            wire.send([peer, body])
        outbox.clear()
        wire.rouse()

    def _announce(self) -> None:
        workers = self._dispatch.workers
        if not workers and self._taking is not None:
            self._taking.cancel()
        # An acknowledgement makes a little room, which nobody waits for.
        if self._room >= self._wanted or not workers:
            self._changed.set()

    # Ticks

    async def _take(self, receive: Receive) -> None:
        dispatch = self._dispatch
        try:
            while True:
                await self._wait_for_room(receive)
                stretch: Stretch | None = None
                most = max(1, min(self._room, _MOST_AT_ONCE))
                with trio.CancelScope() as self._taking:
                    stretch = await receive.take(most)
                self._taking = None
                if stretch is not None:
                    self._append(stretch)
        except trio.EndOfChannel:
            pass
        finally:
            self._taking = None
        while dispatch.used:
            await self._change(LONGEST_SLEEP_S, self._settings.window)

    @property
    def _room(self) -> int:
        return self._settings.window - self._dispatch.used

    async def _wait_for_room(self, receive: Receive) -> None:
        """Return when there is a worker, and room in the window; or at the end."""
        now = receive.clock.now
        filling = Filling(self._settings.window, self._room, now())
        while not receive.is_over:
            if not self._dispatch.workers:
                await self._change(LONGEST_SLEEP_S, 0)
                continue
            room, since = self._room, now()
            if not room:
                await self._change(LONGEST_SLEEP_S, 1)
                filling.full(now())
                self._full_s += now() - since
            elif wait_s := filling.wait_s(room, since):
                await self._change(wait_s, filling.enough)
            else:
                return

    async def _change(self, at_most_s: float, wanted: int) -> None:
        """Wait until there is *wanted* room, or no worker; *at_most_s* seconds."""
        self._changed = trio.Event()
        self._wanted = wanted
        with trio.move_on_after(at_most_s):
            await self._changed.wait()

    def _append(self, stretch: Stretch) -> None:
        records, refused = self._packer.pack(stretch)
        for item, error in refused:
            self._refuse(item, error)
        good: list[tuple[Record, float]] = []
        arrived = stretch.arrived[0] if stretch.arrived else 0.0
        for record in records:
            if len(record.body) + _OVERHEAD > MOST_FROM_INGEST:
                # The packer has left it alone: it is one tick.
                why = f"it has {len(record.body)} bytes, and a message holds {MOST_FROM_INGEST}"
                self._refuse("a tick", why, record.ticks)
            else:
                good.append((record, arrived))
        self._dispatch.append(good)
        self._flush()

    def _refuse(self, item: object, why: object, ticks: int = 1) -> None:
        self._failed += ticks
        due = self._limit.due("refused", ticks) if self._limit is not None else ticks
        if due:
            text = "%d ticks cannot be sent to workers: %.200s: %s"
            log_event(_logger, logging.ERROR, "broker.not_written", text, due, item, why, ticks=due)
