"""The market's clock: which ticks are due, and offering them to every client without waiting for any.

Rules: one task makes ticks, and only it offers them. The market stands still while nobody is subscribed, and keeps to the clock otherwise,
catching up rather than drifting; where this machine cannot keep up, it says so instead of racing on for ever. A recording waits for its
slowest client, so that none of its ticks is skipped: a synthetic market waits for nobody, a recording is there to be seen whole.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from typing import Protocol

import trio

from .client import Batch, Client
from .config import ExchangeConfig
from .wire import FlatTick, encode_frames, stamp_now

__all__ = ["Broadcast", "Source"]

logger = logging.getLogger(__name__)

SLOT_S = 0.005
"""At high rates, what is due is sent so often."""
MAX_BATCH = 512
"""Ticks that are made without looking at anything else: half a millisecond's work."""
MAX_LAG_S = 1.0
"""A market that has fallen so far behind the clock is put back."""


class Source(Protocol):
    """Where ticks come from: a synthetic market or a recording. Time is seconds since it opened."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """What can be subscribed to."""
        ...

    @property
    def ended(self) -> bool:
        """There will be no more ticks."""
        ...

    @property
    def next_at(self) -> float:
        """When the next tick is due."""
        ...

    @property
    def wants_more(self) -> bool:
        """It is time for :meth:`read_ahead`."""
        ...

    async def read_ahead(self) -> None:
        """Get what :meth:`take` will need."""
        ...

    def take(self, until: float, limit: int, stamp: str) -> list[FlatTick]:
        """Return the ticks due up to the time *until*, at most *limit*, for the moment *stamp*."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class Broadcast:
    """Runs a source against the clock for a set of clients that others change.

    Args:
        config: rate or speed, and limits.
        source: the market.
        clients: who is there now.
    """

    def __init__(self, config: ExchangeConfig, source: Source, clients: Collection[Client]) -> None:
        self.generated = 0
        self.behind = 0.0
        self.waited = 0.0
        self.audience_changed = trio.Event()
        """Set, and replaced, whenever somebody comes, goes or subscribes."""
        self._limit = math.inf if config.limit is None else config.limit
        self._flood = not math.isfinite(config.rate if config.capture is None else config.speed)
        self._recorded = config.capture is not None
        # Small enough for the half of the buffer that is free, so that whom we have waited for misses nothing.
        self._fitting_batch = max(1, min(MAX_BATCH, config.limits.buffer_bytes // 1024))
        self._patience = math.inf if config.limits.slow_timeout_s is None else config.limits.slow_timeout_s
        self._source = source
        self._clients = clients
        self._room_made = trio.Event()
        self._paused = False
        self._market_time = 0.0

    def pause(self) -> None:
        """Stand still."""
        self._paused = True

    def resume(self) -> None:
        """Go on."""
        self._paused = False
        self.note_audience()

    def note_audience(self) -> None:
        """Look again who is subscribed."""
        self.audience_changed.set()
        self.audience_changed = trio.Event()
        self.note_room()  # A newcomer has room while all the others are full.

    def note_room(self) -> None:
        """Look again whether a client has room."""
        self._room_made.set()
        self._room_made = trio.Event()

    async def run(self) -> None:
        """Send until the end of the source, or until the limit.

        Cancellation: harmless; what has been offered has been offered.
        """
        while not self._at_end():
            if not self._has_audience():
                await self.audience_changed.wait()
            elif self._flood:
                await self._send_as_fast_as_possible()
            else:
                await self._send_in_time()

    def _has_audience(self) -> bool:
        return not self._paused and any(client.subscription for client in self._clients)

    def _at_end(self) -> bool:
        return self._source.ended or self.generated >= self._limit

    async def _send_in_time(self) -> None:
        """Keep to the clock until there is nobody to send to, or nothing to send."""
        source = self._source
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
                self._note_lag(lag)
                start, now = start + lag, now - lag
            self._market_time = now
            if self._send(now, most) == most:
                await trio.lowlevel.checkpoint()
            elif not source.wants_more and not self._at_end():
                await trio.sleep_until(start + max(source.next_at, now + SLOT_S))

    async def _send_as_fast_as_possible(self) -> None:
        """Send as long as a client has room; the fastest one sets the pace, the others skip. With a recording, the slowest one does."""
        while self._has_audience() and not self._at_end():
            if self._recorded:
                await self._wait_for_room()
            if self._source.wants_more:
                await self._source.read_ahead()
            now = trio.current_time()
            wanting = {client: client.wants_more_at(now) for client in self._clients if client.subscription}
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
        """Stand still until all have room, and return for how long. Who takes nothing at all for as long as a slow one may is cut off."""
        began = trio.current_time()
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
        waited = trio.current_time() - began
        if waited > MAX_LAG_S and self.waited <= MAX_LAG_S:
            text = "exchange.waiting waited_s=%.3f: a recording stands still while a client has no room"
            logger.warning(text, waited, extra={"waited_s": waited})
        self.waited += waited
        return waited

    def _send(self, until: float, count: float) -> int:
        """Make the ticks that are due, at most *count*, offer them to all clients, and return how many there were."""
        ticks = self._source.take(until, int(min(count, self._limit - self.generated)), stamp_now())
        if ticks:
            self.generated += len(ticks)
            batch = Batch([tick.symbol for tick in ticks], encode_frames(ticks), frozenset(self._source.symbols))
            for client in self._clients:
                client.offer(batch)
        return len(ticks)

    def _note_lag(self, lag: float) -> None:
        if not self.behind:
            text = "exchange.behind lag_s=%.3f: this machine cannot make ticks at the rate asked for"
            logger.warning(text, lag, extra={"lag_s": lag})
        self.behind += lag
