"""The beats of one worker: it says that it is there, and learns which shards are its.

A lease is counted from before the beat was sent, so that it ends here before it ends at
the server. Whoever has not heard from the server for so long holds nothing any more.

Rules: on a connection of its own, so that a beat never waits for a fetch or for room.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final, final

import trio

from ...logs import log_event
from ...uninterrupted import uninterrupted
from .connection import LostError
from .holdings import Holdings
from .link import Link
from .options import Options
from .scripts import BEAT, LAG

__all__ = ["Leases"]

_LOGGER: Final = logging.getLogger("trio_ticks.brokers")
_BEATS: Final = 4
"""Beats in the time of a lease, at least."""
_LONGEST_S: Final = 1.0
"""The longest time between two beats, in seconds."""


@uninterrupted
@final
class Leases:
    """Keeps the leases of one worker.

    Args:
        buffer: its settings.
        me: the name of this worker at the server.
        link: a connection for the beats.
        holdings: learns what is held.
        changed: is called after each beat, and when something was lost.
    """

    def __init__(
        self,
        buffer: Options,
        me: str,
        link: Link,
        holdings: Holdings,
        changed: Callable[[], None],
    ) -> None:
        self._buffer = buffer
        self._me = me
        self._link = link
        self._holdings = holdings
        self._changed = changed
        self._valid_until = -math.inf
        self._nudge = trio.Event()
        self.leaving = False
        """Whether no more shards are taken, and others shall share ours."""
        self.left = False
        """Whether the server knows that we leave: it gives us no more shards."""
        self.used: int | None = None
        self.lag: int | None = None
        self.lag_s: float | None = None

    @property
    def round_trip_s(self) -> float | None:
        """How long the server took for the last beat, in seconds."""
        return self._link.round_trip_s

    @property
    def are_valid(self) -> bool:
        """Whether the server cannot have given our shards away yet."""
        return trio.current_time() < self._valid_until

    def leave(self) -> None:
        """Take no more shards; tell the others at once."""
        self.leaving = True
        self._nudge.set()

    def nudge(self) -> None:
        """Beat soon, since something has changed."""
        self._nudge.set()

    async def run(self) -> None:
        """Beat until cancelled.

        Raises:
            BrokerError: the server refuses us.

        Cancellation: the leases run out.
        """
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                try:
                    await self._beat()
                except Exception as error:
                    # Raised outside of the nursery, which would make a group of it.
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            await self._link.aclose()
        if failure is not None:
            raise failure

    async def _beat(self) -> None:
        buffer, keys = self._buffer, self._buffer.keys
        group = buffer.group
        own = [keys.state, keys.leases(group), keys.members(group)]
        look = LAG.call([keys.state, keys.done, *keys.streams], group)
        every_s = min(buffer.lease / _BEATS, _LONGEST_S)
        while True:
            self._nudge = trio.Event()
            sent, leaving = trio.current_time(), self.leaving
            beat = BEAT.call(own, self._me, round(buffer.lease * 1000), buffer.shards, int(leaving))
            try:
                (
                    (_, fair, *_, mine),
                    (came, out, acked, _, oldest, *now),
                ) = await self._link.call_all([beat, look])
            except LostError:
                await self._link.connect()
                continue
            self._valid_until = sent + buffer.lease
            self.used = came - out
            self.lag = max(0, came - acked)
            seconds = int(now[0]) + int(now[1]) / 1e6
            self.lag_s = 0.0 if oldest < 0 else max(0.0, seconds - oldest / 1000)
            leases = {
                int(shard): token.decode()
                for shard, token in zip(mine[::2], mine[1::2], strict=True)
            }
            self._holdings.hold(leases, buffer.shards if leaving else fair)
            self.left = leaving
            self._changed()
            with trio.move_on_after(every_s):
                await self._nudge.wait()

    async def _watch(self) -> None:
        """Let go of all shards when the leases have run out here."""
        while True:
            now = trio.current_time()
            if now < self._valid_until:
                await trio.sleep_until(self._valid_until)
                continue
            held = list(self._holdings.shards.values())
            if held:
                count = self._holdings.lose(held)
                log_event(
                    _LOGGER,
                    logging.WARNING,
                    "broker.lease_over",
                    buffer=self._buffer.shown,
                    shards=count,
                )
                self._changed()
            await trio.sleep(self._buffer.lease / _BEATS)
