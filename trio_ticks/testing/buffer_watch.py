"""A buffer that watches another one: what its ends hand over, and what they count.

Rules: everything is passed on unchanged. What breaks a law is written down when it
happens, and raised by :meth:`WatchedBuffer.check`, since a buffer may swallow errors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from random import Random
from typing import Any, Final, final

import trio

from ..buffer import Buffer, BufferStatistics, Outcomes, Receive, Send, Sink, Source, Stretch
from ..clock import Clock

__all__ = ["WatchedBuffer"]

_CLOCKS_S: Final = 1.0
"""How wrong a time of arrival may be: clocks differ, in seconds."""
_GROWING: Final = ("appended", "failed", "received", "acknowledged", "given_back", "redelivered")


@final
class WatchedBuffer:
    """Gives the ends of *buffer*, watched."""

    def __init__(self, buffer: Buffer, scene: str) -> None:
        self._buffer = buffer
        self._scene = scene
        self._faults: list[str] = []
        self.homes: dict[str, int] = {}
        """The shard of each symbol."""
        self.turns = 0
        """How often a source has asked which ticks are unfinished."""
        self.clock: Clock | None = None
        """The ingest's: times of arrival are by it."""
        self.began_at = math.inf
        """When the first ingest began, by its clock: seconds since 1970."""
        self.cancelling = False
        """Whether workers are being cancelled, so that their source may be, too."""
        self.prefetch: int = getattr(buffer, "prefetch", 2000)

    def sink(self) -> Sink:
        """Return a watched sink."""
        return _WatchedSink(self._buffer.sink(), self)

    def source(self) -> Source:
        """Return a watched source."""
        return _WatchedSource(self._buffer.source(), self)

    def fault(self, text: str) -> None:
        """Write down that a law was broken."""
        self._faults.append(text)

    def check(self) -> None:
        """Raise if a law was broken.

        Raises:
            AssertionError: it was; with the first breach.
        """
        if self._faults:
            raise AssertionError(f"{self._scene}: {self._faults[0]}")

    def compare(self, before: BufferStatistics, now: BufferStatistics) -> BufferStatistics:
        """Check that counters only grow; return *now*."""
        for name in _GROWING:
            was, is_ = getattr(before, name), getattr(now, name)
            if is_ < was:
                self.fault(f"the counter {name} fell from {was} to {is_}")
        if now.in_doubt < 0 or now.unacknowledged < 0:
            self.fault(f"in_doubt or unacknowledged is negative: {now}")
        return now


@final
class _WatchedSink:
    def __init__(self, sink: Sink, watch: WatchedBuffer) -> None:
        self._sink = sink
        self._watch = watch
        self._last = BufferStatistics()

    async def run(self, receive: Receive, /) -> None:
        self._watch.clock = receive.clock
        self._watch.began_at = min(self._watch.began_at, receive.clock.wall())
        await self._sink.run(receive)
        now = self.statistics()
        if now.in_doubt:
            self._watch.fault(f"the sink has ended with {now.in_doubt} ticks in doubt")

    def statistics(self) -> BufferStatistics:
        self._last = self._watch.compare(self._last, self._sink.statistics())
        return self._last


@final
class _WatchedSource:
    def __init__(self, source: Source, watch: WatchedBuffer) -> None:
        self._source = source
        self._watch = watch
        self._last = BufferStatistics()
        self._drained = False

    async def run(self, send: Send, outcomes: Outcomes, /) -> None:
        watched = _WatchedSend(send, self._watch)
        try:
            await self._source.run(watched, _WatchedOutcomes(outcomes, self._watch))
            if not self._drained:
                self._watch.fault("the source's run() has returned, and nobody had called drain()")
        except trio.Cancelled:
            if self._drained and not (outcomes.busy or self._watch.cancelling):
                self._watch.fault("the source's run() does not return after drain()")
            raise
        finally:
            watched.ended = True

    def drain(self) -> None:
        self._drained = True
        self._source.drain()

    def statistics(self) -> BufferStatistics:
        self._last = self._watch.compare(self._last, self._source.statistics())
        return self._last


@final
class _WatchedSend:
    """What the source sees of the workers' channel."""

    def __init__(self, send: Send, watch: WatchedBuffer) -> None:
        self._send = send
        self._watch = watch
        self.ended = False

    @property
    def clock(self) -> Clock:
        return self._send.clock

    @property
    def random(self) -> Random:
        return self._send.random

    @property
    def room(self) -> int:
        return self._send.room

    async def deliver(self, shard: int, stretch: Stretch, /) -> None:
        self._look_at(shard, stretch)
        await self._send.deliver(shard, stretch)

    async def deliver_all(self, parts: Sequence[tuple[int, Stretch]], /) -> None:
        for shard, stretch in parts:
            self._look_at(shard, stretch)
        await self._send.deliver_all(parts)

    def give_up(self, shard: int, /) -> Any:
        return self._send.give_up(shard)

    def bury(self, item: Any, error: Exception, /) -> Any:
        return self._send.bury(item, error)

    def _look_at(self, shard: int, stretch: Stretch) -> None:
        fault, homes = self._watch.fault, self._watch.homes
        if self.ended:
            fault("the source has delivered after the end of its run()")
        if len(stretch.items) != len(stretch.arrived):
            fault(f"{len(stretch.items)} items came with {len(stretch.arrived)} times of arrival")
        for item in stretch.items:
            home = homes.setdefault(item.symbol, shard)
            if home != shard:
                fault(
                    f"the symbol {item.symbol!r} came in shard {home} and in shard {shard}: its "
                    "order is lost as soon as two workers hold them"
                )
        ours, ingests = self.clock, self._watch.clock or self.clock
        latest = max(ours.wall(), ingests.wall()) + _CLOCKS_S
        if any(arrived > latest for arrived in stretch.arrived):
            fault("a time of arrival lies in the future: seconds since 1970 are wanted")
        if any(arrived < self._watch.began_at - _CLOCKS_S for arrived in stretch.arrived):
            fault("a time of arrival lies before the ingest began: it is to travel with its tick")
        for place, gap in stretch.gaps:
            if not 0 <= place < len(stretch.items) or stretch.items[place].symbol != gap.symbol:
                fault(f"the gap of {gap.symbol!r} is not before a tick of that symbol")


@final
class _WatchedOutcomes:
    """What the source is told of the workers' ticks."""

    def __init__(self, outcomes: Outcomes, watch: WatchedBuffer) -> None:
        self._outcomes = outcomes
        self._watch = watch

    def unfinished(self) -> list[Any]:
        self._watch.turns += 1
        return self._outcomes.unfinished()

    @property
    def busy(self) -> bool:
        return self._outcomes.busy

    def withdraw(self, symbols: Collection[str]) -> int:
        return self._outcomes.withdraw(symbols)
