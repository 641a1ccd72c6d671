"""The sources of a buffer that one pipeline has, one after the other.

Plan: a source that is suspended is drained, so that it gives its shards up. To resume,
a new one takes its place, and their counters are added up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, final

import attrs
import trio

from ..buffer import BufferStatistics, Outcomes, Send, Source

__all__ = ["Sources"]

_COUNTERS: Final = (
    "reconnects",
    "received",
    "redelivered",
    "acknowledged",
    "given_back",
    "fenced",
    "dead",
    "junk",
    "takeovers",
    "failed",
)
"""What only grows, of a source."""


@final
class Sources:
    """Runs the first source, and another one after each time that it was suspended.

    Args:
        first: the source to begin with.
        renew: returns another one.
    """

    def __init__(self, first: Source, renew: Callable[[], Source]) -> None:
        self._source = first
        self._renew = renew
        self._past = BufferStatistics()
        """The counters of the sources before this one."""
        self._suspended = False
        self._ends_early = False
        """Whether this source was drained only to be suspended."""
        self._draining = False
        self._stirred = trio.Event()

    def statistics(self) -> BufferStatistics:
        """Return the numbers of this source, with the counters of all."""
        now, past = self._source.statistics(), self._past
        sums = {name: getattr(now, name) + getattr(past, name) for name in _COUNTERS}
        return attrs.evolve(now, **sums)

    async def run(
        self,
        send: Send,
        outcomes: Outcomes,
        ended: Callable[[], Awaitable[None]],
        forget: Callable[[], None],
    ) -> None:
        """Run one source after the other, until :meth:`drain`.

        Args:
            send: where ticks go.
            outcomes: who knows what is unfinished.
            ended: called when a source has ended.
            forget: called when the ticks that were left will come again.

        Cancellation: passed on to the source.
        """
        while True:
            await self._source.run(send, outcomes)
            await ended()
            if self._draining or not self._ends_early:
                return
            forget()
            while self._suspended and not self._draining:
                await self._stirred.wait()
            if self._draining:
                return
            self._past = self.statistics()
            self._source, self._ends_early = self._renew(), False

    def drain(self) -> None:
        """Fetch no more, and end when nothing is unfinished."""
        self._draining = True
        self._source.drain()
        self._stir()

    def suspend(self, leave_all: Callable[[], None]) -> None:
        """Give back what no worker has begun, by *leave_all*, and then the shards.

        Call it when the workers have been held. Further calls change nothing.
        """
        if not (self._suspended or self._draining):
            self._suspended = self._ends_early = True
            self._source.drain()
            leave_all()

    def resume(self) -> None:
        """Take shards again, by a new source, once the suspended one has ended."""
        self._suspended = False
        self._stir()

    def _stir(self) -> None:
        stirred, self._stirred = self._stirred, trio.Event()
        stirred.set()
