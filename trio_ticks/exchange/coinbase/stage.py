"""What plays at a local Coinbase: a made-up market or a recording, for its clients.

Rules: a made-up market waits for nobody: a client for which too much waits is
disconnected. A recording waits for its slowest client. Both stand still while nobody
has subscribed to market data. Messages to a client go through one buffer, so that they
come in the order in which they were made.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Final, final

import trio

from ...clock import Clock
from ..client import Client
from ..market import MEMORY_S, Arrivals
from ..recorded_messages import RecordedMessages
from ..wire import text_frame
from .config import CoinbaseConfig
from .market import ProductMarket
from .session import Ended, RecordedMessage, Session

__all__ = ["BIG_LEVELS", "Stage"]

BIG_LEVELS: Final = {"coinbase": 110_000, "coinbase-advanced": 24_000}
"""Levels of a side with which the snapshot is larger than 5 MB."""
_SLOT_S: Final = 0.005
_BATCH: Final = 64
"""Messages of a recording that are sent between two checkpoints."""
_CALM_S: Final = 0.1
"""A recording begins when no request has come for so long: then all have come."""
_AHEAD_BY: Final = timedelta(seconds=1.27)


@final
class Stage:
    """Plays for the clients that others add and remove.

    Args:
        config: the rate, the speed, the faults.
        recorded: the recording; ``None``: a made-up market.
    """

    def __init__(
        self, config: CoinbaseConfig, recorded: RecordedMessages[RecordedMessage] | None
    ) -> None:
        self.clients: dict[Client, Session] = {}
        self.played = 0
        """Changes of the market, or messages of the recording, so far."""
        self.over = False
        """Whether the end has come."""
        self.finished = trio.Event()
        """Set after the end, when the clients have got everything."""
        self._config = config
        self._recorded = recorded
        names = config.symbols if recorded is None else recorded.symbols
        levels = BIG_LEVELS[config.venue] if "big-snapshot" in config.faults else config.levels
        self.market: Final = ProductMarket(
            names, seed=config.seed, levels=levels if recorded is None else 2
        )
        self._clock = Clock()
        self._changed = trio.Event()
        self._room = trio.Event()
        self._asked_at = -math.inf
        self._paused = False

    def pause(self, yes: bool) -> None:
        """Stand still, or go on."""
        self._paused = yes
        self.wake()

    def asked(self) -> None:
        """Notice that a client has sent a request."""
        self._asked_at = trio.current_time()
        self.wake()

    def wake(self) -> None:
        """Notice that a client has come, gone or subscribed."""
        self._changed.set()
        self._changed = trio.Event()
        self.make_room()

    def make_room(self) -> None:
        """Notice that a client has room again."""
        self._room.set()
        self._room = trio.Event()

    def now(self) -> datetime:
        """Return the venue's time."""
        now = self._clock.utc()
        return now + _AHEAD_BY if "clock-ahead" in self._config.faults else now

    async def run(self) -> None:
        """Play until the end, and say goodbye to the clients.

        Cancellation: harmless.
        """
        if self._recorded is None:
            await self._run_made_up()
        else:
            await self._run_recorded(self._recorded)
        self.over = True
        async with trio.open_nursery() as nursery:
            for client in list(self.clients):
                nursery.start_soon(
                    partial(client.say_goodbye, "finished", code=1000, text="the end")
                )
        self.finished.set()

    async def _audience(self) -> None:
        while self._paused or not any(session.has_data for session in self.clients.values()):
            await self._changed.wait()

    async def _run_made_up(self) -> None:
        config = self._config
        draws = random.Random(f"{config.seed}/arrivals")
        arrivals = Arrivals(config.rate, config.burst, MEMORY_S, draws)
        most = math.inf if config.limit is None else config.limit
        now = 0.0
        while self.played < most:
            await self._audience()
            began = trio.current_time()
            await trio.sleep(_SLOT_S)
            # The time that a delay takes is lost to the market, at most a second of it.
            now += min(1.0, trio.current_time() - began)
            for _ in range(arrivals.take(now, 512)):
                if self.played < most and not self._paused:
                    self.played += 1
                    self._offer_step()

    def _offer_step(self) -> None:
        now = self.now()
        for event in self.market.step(now):
            for client, session in list(self.clients.items()):
                try:
                    self.put(client, session.offer(event, now))
                except Ended as ended:
                    client.kick(str(ended))

    def put(self, client: Client, payloads: Iterable[bytes]) -> None:
        """Queue messages for *client*; disconnect it if too much waits."""
        for payload in payloads:
            client.inject(text_frame(payload))
        if client.waiting_bytes > self._config.limits.buffer_bytes and self._recorded is None:
            client.kick("slow_consumer")  # The venue calls it ErrSlowConsume.

    async def _run_recorded(self, recorded: RecordedMessages[RecordedMessage]) -> None:
        await self._audience()
        while (calm := self._asked_at + _CALM_S) > trio.current_time():  # noqa: ASYNC110 - each request moves the moment
            await trio.sleep_until(calm)
        start = trio.current_time()
        while (due := await recorded.next()) is not None:
            at, message = due
            # A checkpoint for each message would take longer than to send it.
            if start + at > trio.current_time() or self.played % _BATCH == 0:
                await trio.sleep_until(start + at)
            while self._paused or not self.clients or not self._have_room():
                event = self._room if self.clients and not self._paused else self._changed
                await event.wait()
            self.played += 1
            for client, session in list(self.clients.items()):
                self.put(client, session.replay(message))

    def _have_room(self) -> bool:
        return all(client.has_room for client in self.clients)

    def close(self) -> None:
        """Close the recording."""
        self.finished.set()
        if self._recorded is not None:
            self._recorded.close()
