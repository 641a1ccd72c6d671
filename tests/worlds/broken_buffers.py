"""The buffer in memory, broken in one way each; and one that several sources share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import trio

from tests.worlds.memory_buffer import MemoryBuffer, MemorySink, MemorySource
from trio_ticks.brokers.acknowledging import identities
from trio_ticks.brokers.packing import Packer, Record
from trio_ticks.buffer import BufferStatistics, Outcomes, Receive, Send, Sink, Source, Stretch

__all__ = ["BROKEN", "SharedBuffer"]


class _Send:
    """Passes everything on; what is delivered may be spoiled first."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._send, name)

    async def deliver(self, shard: int, stretch: Stretch) -> None:
        await self._send.deliver(shard, stretch)

    async def deliver_all(self, parts: Sequence[tuple[int, Stretch]]) -> None:
        for shard, stretch in parts:
            await self.deliver(shard, stretch)


class _SpoilingSource(MemorySource):
    send: type[_Send] = _Send

    async def run(self, send: Send, outcomes: Outcomes) -> None:
        await super().run(self.send(send), outcomes)


class EarlySource(MemorySource):
    """Acknowledges what was delivered, whether it is finished or not."""

    def _settle(self, shard: int, unfinished: frozenset[int]) -> None:
        super()._settle(shard, frozenset())


class _ReorderingSend(_Send):
    async def deliver(self, shard: int, stretch: Stretch) -> None:
        if len(stretch.items) > 2 and not stretch.gaps:
            stretch.items.reverse()
        await super().deliver(shard, stretch)


class ReorderingSource(_SpoilingSource):
    """Delivers some entries from their end."""

    send = _ReorderingSend


class _GaplessSend(_Send):
    async def deliver(self, shard: int, stretch: Stretch) -> None:
        stretch.gaps = []
        await super().deliver(shard, stretch)


class GaplessSource(_SpoilingSource):
    """Forgets the gaps."""

    send = _GaplessSend


class _WanderingSend(_Send):
    count = 0

    async def deliver(self, shard: int, stretch: Stretch) -> None:
        self.count += 1
        await super().deliver(self.count, stretch)


class WanderingSource(_SpoilingSource):
    """Says of each entry that it is of another shard."""

    send = _WanderingSend


class _FutureSend(_Send):
    async def deliver(self, shard: int, stretch: Stretch) -> None:
        stretch.arrived = [time + 3600.0 for time in stretch.arrived]
        await super().deliver(shard, stretch)


class FutureSource(_SpoilingSource):
    """Has its times of arrival wrong by an hour."""

    send = _FutureSend


class _TimelessSend(_Send):
    async def deliver(self, shard: int, stretch: Stretch) -> None:
        stretch.arrived = [trio.current_time() for _ in stretch.items]
        await super().deliver(shard, stretch)


class TimelessSource(_SpoilingSource):
    """Takes the event loop's time for times of arrival."""

    send = _TimelessSend


class HastySource(MemorySource):
    """Ends at once when it is drained, whatever is being handled."""

    async def run(self, send: Send, outcomes: Outcomes) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run, send, outcomes)
            while not self._draining:  # noqa: ASYNC110
                await trio.sleep(self._buffer.turn_s)
            nursery.cancel_scope.cancel()


class LosingSource(MemorySource):
    """Throws away at its end what was delivered and has no outcome."""

    async def run(self, send: Send, outcomes: Outcomes) -> None:
        await super().run(send, outcomes)
        for shard in range(self._buffer.shards):
            self._settle(shard, frozenset())


class ForgetfulSource(MemorySource):
    """Acknowledges nothing at its end."""

    def _settle(self, shard: int, unfinished: frozenset[int]) -> None:
        if not self._draining:
            return


class StubbornSource(MemorySource):
    """Does not end when it is drained."""

    def drain(self) -> None: ...


class _DoublingPacker:
    """Returns each record twice; the second one counts for no ticks."""

    def __init__(self, packer: Packer) -> None:
        self._packer = packer

    def pack(self, stretch: Stretch) -> tuple[list[Record], list[Any]]:
        records, refused = self._packer.pack(stretch)
        return [
            each for record in records for each in (record, attrs.evolve(record, ticks=0))
        ], refused


class DoublingSink(MemorySink):
    """Appends each entry twice."""

    def __init__(self, buffer: MemoryBuffer) -> None:
        super().__init__(buffer)
        self._packer: Any = _DoublingPacker(Packer(buffer.shards, buffer.pack))


class DoubtfulSink(MemorySink):
    """Never confirms the last tick."""

    def statistics(self) -> BufferStatistics:
        now = super().statistics()
        one = int(now.appended > 0)
        return attrs.evolve(now, appended=now.appended - one, in_doubt=now.in_doubt + one)


class GreedySink(MemorySink):
    """Knows no bound."""

    async def run(self, receive: Receive) -> None:
        size, self._buffer.maxsize = self._buffer.maxsize, 100_000
        try:
            await super().run(receive)
        finally:
            self._buffer.maxsize = size


@attrs.define
class BrokenBuffer(MemoryBuffer):
    """With other ends."""

    sink_of: type[MemorySink] = MemorySink
    source_of: type[MemorySource] = MemorySource

    def sink(self) -> Sink:
        return self.sink_of(self)

    def source(self) -> Source:
        return self.source_of(self)


class SharingSource(MemorySource):
    """Holds all shards if it began last; before that one begins, the holder leaves."""

    _buffer: SharedBuffer

    async def run(self, send: Send, outcomes: Outcomes) -> None:
        buffer = self._buffer
        buffer.running.append(self)
        try:
            while not self._draining:
                if buffer.holder is None and buffer.running[-1] is self:
                    buffer.holder = self
                if buffer.holder is self and buffer.running[-1] is not self:
                    await self._leave(send, outcomes)
                    buffer.holder = None
                if buffer.holder is self:
                    for shard in range(buffer.shards):
                        self._settle(shard, identities(outcomes.unfinished()))
                        await self._fetch(shard, send)
                await trio.sleep(buffer.turn_s)
            while outcomes.busy:  # noqa: ASYNC110
                await trio.sleep(buffer.turn_s)
            for shard in range(buffer.shards):
                self._settle(shard, identities(outcomes.unfinished()))
        finally:
            buffer.running.remove(self)
            if buffer.holder is self:
                buffer.holder = None

    async def _leave(self, send: Send, outcomes: Outcomes) -> None:
        shards = range(self._buffer.shards)
        mine = {
            id(item): item
            for shard in shards
            for held in self._held.of(shard)
            for item in held.items
        }
        before = identities(outcomes.unfinished())
        for shard in shards:
            outcomes.withdraw(self._held.symbols(shard))
        # What was withdrawn is unfinished for good, though nobody here has it any more.
        withdrawn = (before - identities(outcomes.unfinished())) & mine.keys()
        while outcomes.busy:  # noqa: ASYNC110
            await trio.sleep(self._buffer.turn_s)
        for shard in shards:
            self._settle(shard, self._kept(withdrawn))
            self._held.drop(shard)
            await send.give_up(shard)
        self._fetched.clear()

    def _kept(self, withdrawn: frozenset[int]) -> frozenset[int]:
        return withdrawn


class SkippingSource(SharingSource):
    """Acknowledges what it has withdrawn."""

    def _kept(self, withdrawn: frozenset[int]) -> frozenset[int]:
        return frozenset()


@attrs.define
class SharedBuffer(BrokenBuffer):
    """Its newest source holds all shards."""

    source_of: type[MemorySource] = SharingSource
    running: list[SharingSource] = attrs.field(factory=list)
    holder: SharingSource | None = None


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "acknowledges too early": ({"source_of": EarlySource}, "acknowledged too early"),
    "reorders": ({"source_of": ReorderingSource}, "order: tick"),
    "loses at drain": ({"source_of": LosingSource}, "acknowledged too early, or lost"),
    "forgets gaps": ({"source_of": GaplessSource}, "gaps: 17 went in, and 0 came"),
    "doubles": ({"sink_of": DoublingSink}, "repeated: tick 0"),
    "acknowledges nothing": ({"source_of": ForgetfulSource}, "repeated: tick 0"),
    "wanders": ({"source_of": WanderingSource}, "came in shard"),
    "lives in the future": ({"source_of": FutureSource}, "lies in the future"),
    "has no times": ({"source_of": TimelessSource}, "lies before the ingest began"),
    "ends too early": ({"source_of": HastySource}, "repeated: .* wait while outcomes.busy"),
    "does not end": ({"source_of": StubbornSource}, "does not return after drain"),
    "leaves ticks in doubt": ({"sink_of": DoubtfulSink}, "in doubt"),
}
"""How to break it, and what the check has to say."""
