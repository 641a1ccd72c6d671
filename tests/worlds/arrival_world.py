"""A feed that notes when it has sent each tick, for tests of arrivals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import attrs
import trio

import trio_ticks as tt
from tests.worlds.helpers import make_tick
from trio_ticks.feeds.base import clock_of

__all__ = ["CLOSE", "TimedFeed"]

SYMBOLS = "ABCDE"
CLOSE = timedelta(microseconds=2)
"""A datetime has whole microseconds."""


class TimedFeed:
    """Sends ticks with the numbers 0, 1, ... and notes when it did so.

    Args:
        sizes: of the batches.
        pause_s: from each to the next.
        fails: whether the bid of a number is negative.
    """

    def __init__(
        self, sizes: Sequence[int], pause_s: float, fails: Callable[[int], bool] = lambda _n: False
    ) -> None:
        self._sizes = sizes
        self._pause_s = pause_s
        self._fails = fails
        self.sent: dict[int, tuple[datetime, datetime]] = {}
        """By number, when it was about to be sent, and when it had been."""

    async def run(self, send: tt.TickSendChannel[tt.Tick]) -> None:
        clock, number = clock_of(send), 0
        for size in self._sizes:
            batch = [
                attrs.evolve(make_tick(SYMBOLS[n % 5], n), bid=-1.0 if self._fails(n) else 1.0)
                for n in range(number, number + size)
            ]
            before = clock.utc()
            await send.send_many(batch)
            self.sent.update(dict.fromkeys(range(number, number + size), (before, clock.utc())))
            number += size
            await trio.sleep(self._pause_s)

    def check(self, told: dict[int, datetime]) -> None:
        """Check what handlers were told, by number."""
        assert told
        for number, arrived in told.items():
            before, after = self.sent[number]
            assert arrived.tzinfo is UTC
            assert before - CLOSE <= arrived <= after + CLOSE, number
