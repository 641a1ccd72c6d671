"""Run a market by the clock: take the ticks that are due, and offer them to clients.

Rules: one task makes ticks, and only this task offers them. Offering never waits for a
client. The market stands still while nobody is subscribed. Otherwise it keeps to the
clock and catches up after a delay; if this machine cannot keep up, it logs that and
gives up the lost time instead of catching up for ever.

A recording waits for its slowest client, so that none of its ticks is skipped: it is
there to be seen as a whole. A synthetic market waits for nobody.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import trio

from ..clock import Clock
from ..logs import log_event
from .client import Batch, Client
from .config import ExchangeConfig
from .dialect import Dialect
from .venues import Ended, Venue
from .wire import FlatTick, iso_utc, text_frame

__all__ = ["Broadcast", "Source"]

logger = logging.getLogger(__name__)

SLOT_S = 0.005
"""At high rates, the interval at which the ticks that are due are sent."""
MAX_BATCH = 512
"""Ticks made in one go, between two checkpoints: half a millisecond's work."""
CALM_S = 0.1
"""A recording in its own words begins when no request has come for so long: then all
have come, and nobody misses the first snapshots."""
MAX_LAG_S = 1.0
"""If the market lags behind the clock by more than this, the lag is given up."""


class Source(Protocol):
    """Where ticks come from: a synthetic market or a recording.

    Time is seconds since it opened.
    """

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that can be subscribed to."""
        ...

    @property
    def left_out(self) -> int:
        """Items of a recording so far that are no quotes."""
        ...

    @property
    def ended(self) -> bool:
        """Whether there will be no more ticks."""
        ...

    @property
    def next_at(self) -> float:
        """When the next tick is due."""
        ...

    @property
    def wants_more(self) -> bool:
        """Whether it is time for :meth:`read_ahead`."""
        ...

    async def read_ahead(self) -> None:
        """Get the data that :meth:`take` will need."""
        ...

    def take(self, until: float, limit: int, stamp: str, /) -> list[Any]:
        """Return the ticks due up to the time *until*, with the timestamp *stamp*.

        There are at most *limit* of them. Of a recording in its own words they are
        messages, with their own times.
        """
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


class Broadcast:
    """Runs a source by the clock for a set of clients that others change.

    Args:
        config: the rate or the speed, and the limits.
        source: the market.
        clients: the clients that are connected now.
        clock: the clock of the ticks' timestamps.
        venue: what the exchange is; ``None``: one that speaks the flat protocol.
    """

    def __init__(
        self,
        config: ExchangeConfig,
        source: Source,
        clients: Collection[Client],
        clock: Clock,
        venue: Venue | None = None,
    ) -> None:
        self.generated = 0
        self.behind = 0.0
        self.audience_changed = trio.Event()
        """Set, and replaced, whenever a client comes, goes or subscribes."""
        self._limit = math.inf if config.limit is None else config.limit
        self._flood = not math.isfinite(config.rate if config.capture is None else config.speed)
        self._recorded = config.capture is not None
        self._awaits_calm = config.plays_words
        # Small enough for the half of the buffer that is free after _wait_for_room, so
        # that no client misses a tick of a recording.
        self._fitting_batch = max(1, min(MAX_BATCH, config.limits.buffer_bytes // 1024))
        self._patience = (
            math.inf if config.limits.slow_timeout_s is None else config.limits.slow_timeout_s
        )
        self._source = source
        self._clients = clients
        self._clock = clock
        self._venue = venue
        self._room_made = trio.Event()
        self._waited = 0.0
        self._waits_since: float | None = None
        self.observe: Callable[[Sequence[FlatTick]], None] | None = None
        """Called with each batch of ticks, if somebody wants to know them."""
        self._paused = False
        self._market_time = 0.0

    @property
    def waited(self) -> float:
        """Seconds of waiting for clients without room, the present wait included."""
        if self._waits_since is None:
            return self._waited
        return self._waited + trio.current_time() - self._waits_since

    def pause(self) -> None:
        """Let the market stand still."""
        self._paused = True

    def resume(self) -> None:
        """Let the market go on."""
        self._paused = False
        self.recheck_audience()

    def recheck_audience(self) -> None:
        """Make :meth:`run` check again which clients are subscribed."""
        self.audience_changed.set()
        self.audience_changed = trio.Event()
        self.recheck_room()  # A newcomer has room even if all the others are full.

    def recheck_room(self) -> None:
        """Make :meth:`run` check again whether a client has room."""
        self._room_made.set()
        self._room_made = trio.Event()

    async def run(self) -> None:
        """Send until the end of the source, or until the limit.

        Cancellation: harmless; a batch is offered to all clients or to none.
        """
        while not self._at_end():
            if not self._has_audience():
                await self.audience_changed.wait()
            elif self._awaits_calm:
                self._awaits_calm = not await self._is_calm()
            elif self._flood:
                await self._send_as_fast_as_possible()
            else:
                await self._send_in_time()

    async def _is_calm(self) -> bool:
        """Return whether no client comes, goes or asks for a while."""
        with trio.move_on_after(CALM_S):
            await self.audience_changed.wait()
            return False
        return True

    def _has_audience(self) -> bool:
        return not self._paused and any(client.subscription for client in self._clients)

    def _at_end(self) -> bool:
        return self._source.ended or self.generated >= self._limit

    async def _send_in_time(self) -> None:
        """Send by the clock, until there is no subscriber or the market ends."""
        source = self._source
        # The time at which the market would have opened, on trio's clock. It moves
        # later by each wait and by each lag that is given up.
        start = trio.current_time() - self._market_time
        most = self._fitting_batch if self._recorded else MAX_BATCH
        while self._has_audience() and not self._at_end():
            if self._recorded:
                start += await self._wait_for_room()
            if source.wants_more:
                await source.read_ahead()
            now = trio.current_time() - start
            lag = now - source.next_at
            if lag > MAX_LAG_S:
                self._report_lag(lag)
                start, now = start + lag, now - lag
            self._market_time = now
            if self._send(now, most) == most:
                await trio.lowlevel.checkpoint()
            elif not source.wants_more and not self._at_end():
                await trio.sleep_until(start + max(source.next_at, now + SLOT_S))

    async def _send_as_fast_as_possible(self) -> None:
        """Send as long as a client has room.

        The fastest client sets the pace, and the others skip ticks. With a recording,
        the slowest one sets the pace.
        """
        while self._has_audience() and not self._at_end():
            if self._recorded:
                await self._wait_for_room()
            if self._source.wants_more:
                await self._source.read_ahead()
            now = trio.current_time()
            wanting = {
                client: client.wants_more_at(now) for client in self._clients if client.subscription
            }
            ready = [client.appetite for client, wanted_at in wanting.items() if wanted_at <= now]
            if ready:
                self._send(math.inf, min(self._fitting_batch, max(ready)))
                await trio.lowlevel.checkpoint()
            else:
                with trio.move_on_at(min(wanting.values(), default=math.inf)):
                    await self._room_made.wait()

    def _full(self) -> list[Client]:
        return [client for client in self._clients if client.subscription and not client.has_room]

    async def _wait_for_room(self) -> float:
        """Wait until all clients have room, and return for how long.

        A client that takes nothing at all for ``slow_timeout_s`` is disconnected.
        """
        if not self._full():
            return 0.0
        began = self._waits_since = trio.current_time()
        try:
            await self._wait_while_full()
        finally:
            waited = trio.current_time() - began
            self._waits_since = None
            self._waited += waited
        if waited > MAX_LAG_S and self._waited - waited <= MAX_LAG_S:
            log_event(
                logger,
                logging.WARNING,
                "exchange.waiting",
                "for %.3f s a client had no room, and a recording stands still meanwhile",
                waited,
                waited_s=waited,
            )
        return waited

    async def _wait_while_full(self) -> None:
        # For each full client, how much it has taken, and since when no more than that.
        seen: dict[Client, tuple[int, float]] = {}
        while full := self._full():
            now = trio.current_time()
            for client in full:
                if client not in seen or seen[client][0] != client.messages_sent:
                    seen[client] = client.messages_sent, now
                elif now >= seen[client][1] + self._patience:
                    client.kick("slow_consumer")
                    await client.gone.wait()
            with trio.move_on_at(min(seen[client][1] for client in full) + self._patience):
                await self._room_made.wait()

    def _send(self, until: float, count: float) -> int:
        """Offer the ticks that are due to all clients, and return how many there were.

        There are at most *count* of them.
        """
        most = int(min(count, self._limit - self.generated))
        ticks = self._source.take(until, most, iso_utc(self._clock.utc()))
        self.generated += len(ticks)
        if self.observe is not None:
            self.observe(ticks)
        if self._venue is not None:
            self._offer_steps(self._venue, ticks)
        elif ticks:
            self._offer_batches(ticks)
        return len(ticks)

    def _offer_batches(self, ticks: Sequence[FlatTick]) -> None:
        """Offer *ticks* in the dialect of each client, encoded once for each."""
        batches: dict[Dialect, Batch] = {}
        for client in self._clients:
            dialect = client.dialect
            if dialect is None:
                continue
            if dialect not in batches:
                keys, frames = dialect.frames(ticks)
                batches[dialect] = Batch(keys, frames, dialect.keys(self._source.symbols))
            client.offer(batches[dialect])

    def _offer_steps(self, venue: Venue, ticks: Sequence[FlatTick]) -> None:
        """Offer what happens at *venue* with *ticks*, in the words of each session."""
        now = self._clock.utc()
        for tick in ticks:
            step = venue.take(tick, now)
            for client in self._clients:
                if client.session is None:
                    continue
                try:
                    payloads = client.session.offer(step)
                except Ended as ended:
                    client.kick(str(ended))
                    continue
                client.give(tick.symbol, [text_frame(payload) for payload in payloads])

    def _report_lag(self, lag: float) -> None:
        if not self.behind:
            log_event(
                logger,
                logging.WARNING,
                "exchange.behind",
                "%.3f s late: this machine cannot make ticks at the rate asked for",
                lag,
                lag_s=lag,
            )
        self.behind += lag
