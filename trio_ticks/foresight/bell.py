"""Wakes a trio loop at given moments as punctually as a message from a venue does.

A trio loop sets its timers in whole milliseconds, rounded up: one that only timers
wake finds each deadline half a millisecond late on average. A message that comes wakes
it at once, and then it finds deadlines of others, too, earlier than it would have. A
handler that waits for 6 ms takes 3 to 4 % longer without messages than among a thousand
a second. So whoever measures or plays a handler has to wake the loop as messages do.

Plan: a thread sleeps until each moment, which the system times to some 0.1 ms, and
wakes the loop through its own wake-up, a socket.

Rules: moments that have passed, and those that are close together, are one, so that the
thread and the loop get no more to do than they can.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, final

import trio

__all__ = ["APART_S", "Bell"]

APART_S: Final = 0.00025
"""It rings no more often than this, in seconds.

A ring costs about 40 microseconds of a core, in the thread and in the loop."""


@final
class Bell:
    """Rings in the trio loop that it was made in.

    Args:
        moments: when to ring, by the loop's clock; ascending. It is read in a thread.
    """

    def __init__(self, moments: Iterable[float]) -> None:
        self._moments = moments
        self._now: Callable[[], float] = trio.lowlevel.current_clock().current_time
        self._token = trio.lowlevel.current_trio_token()
        self._waiting = trio.lowlevel.ParkingLot()
        self._ended = threading.Event()

    @contextmanager
    def ringing(self) -> Iterator[None]:
        """Ring at the moments while the block lasts."""
        thread = threading.Thread(target=self._run, name="trio_ticks bell", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    async def wait(self, until: float) -> None:
        """Wait until it rings, or until the time is *until* at the latest.

        Cancellation: nothing is lost.
        """
        with trio.move_on_at(until):
            await self._waiting.park()

    def _run(self) -> None:
        rung_at = -math.inf
        for moment in self._moments:
            if moment <= rung_at:
                continue
            pause_s = max(moment, rung_at + APART_S) - self._now()
            if self._ended.wait(max(0.0, pause_s)):
                return
            rung_at = self._now()
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._waiting.unpark_all, idempotent=True)
