"""A broker's source in the place of a feed: it fills the channel of the workers.

Rules: what the source has handed over is unfinished at once, also while it waits for
room. Ticks that are withdrawn are counted as given back, once.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from random import Random
from typing import Any, Final, final

import trio

from ..buffer import BufferStatistics, Source, Stretch
from ..channel.ends import TickSendChannel
from ..channel.stretches import Bringing
from ..clock import Clock
from ..failures import raise_first, split
from ..feeds.base import FeedStats
from ..handlers.contexts import call_apart
from ..handlers.keeping import Keeper
from ..results import Place
from ..settings import OnError
from ..uninterrupted import uninterrupted
from ..workers.outcomes import PoolOutcomes
from .places import Places
from .sources import Sources

__all__ = ["SourceFeed", "SourceLinks"]

_MOST_KNOWN: Final = 100_000
"""Symbols whose shard is remembered, so that a handler can be told that it lost them;
beyond that the oldest are forgotten, and lost, first."""
_MANY: Final = 256
"""After so many ticks the workers get a turn, while these are in the CPU's cache."""
_MOST_BURIED: Final = 1000
"""Buried ticks that wait to be told to ``on_error``; all are counted."""


@final
class SourceLinks:
    """What a source's feed uses of the workers.

    Args:
        outcomes: of the pool.
        room: returns how many more ticks fit into the channel.
        left: keeps ticks that will have no outcome.
        left_again: forgets these, since they come again.
        keeper: tells the handler of its symbols; ``None``: it does not want to know.
        on_error: the user's hook for failed ticks.
    """

    def __init__(
        self,
        outcomes: PoolOutcomes[Any],
        room: Callable[[], int],
        left: Callable[[list[Any]], None],
        left_again: Callable[[], None],
        keeper: Keeper | None,
        on_error: OnError | None,
    ) -> None:
        self.outcomes = outcomes
        self.room = room
        self.left = left
        self.left_again = left_again
        self.keeper = keeper
        self.on_error = on_error


def _joined(parts: Sequence[tuple[int, Stretch]]) -> Stretch:
    """Return all of *parts* as one stretch."""
    if len(parts) == 1:
        return parts[0][1]
    found = Stretch()
    for _shard, stretch in parts:
        found.extend(stretch)
    return found


@final
class _FirstError:
    """What the source, or a function of the user's, has raised first.

    It is kept as itself, while a source's own nurseries make groups of it.
    """

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        """Is cancelled when there is one."""
        self._error: BaseException | None = None

    async def during(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do *work*; if it raises, keep that, and cancel all else."""
        try:
            await work()
        except BaseException as raised:
            cancelled, error = split(raised)
            if error is not None:
                self._error = self._error or error
                self.scope.cancel()
            if cancelled is not None:
                raise cancelled from None

    async def as_itself(self, told: Awaitable[None]) -> None:
        """Await *told*, somewhere in the source; keep what it raises."""
        try:
            await told
        except BaseException as raised:
            self._error = self._error or split(raised)[1]
            raise

    def check(self) -> None:
        """Raise the error, if there is one."""
        if self._error is not None:
            raise_first([self._error])


@final
@uninterrupted
class SourceFeed:
    """Runs *source* as a feed. It is also what the source sees of the workers.

    So it is a :class:`~trio_ticks.buffer.Send` and a
    :class:`~trio_ticks.buffer.Outcomes` for the source.
    """

    waits_for_room: Final = True

    def __init__(self, source: Source, renew: Callable[[], Source]) -> None:
        self._sources = sources = Sources(source, renew)
        self.drain: Final = sources.drain
        """Has the source fetch no more, and end when nothing is unfinished."""
        self.suspend: Final = partial(sources.suspend, self.leave_all)
        """Gives back what no worker has begun, and the shards; the workers are held."""
        self.resume: Final = sources.resume
        """Takes shards again."""
        self._links: SourceLinks
        self._send: TickSendChannel[Any]
        self._bringing: list[Bringing] = []
        """The stretches that are on their way in, in their order; the first is being
        brought, the others wait for their turn."""
        self._turn = trio.Lock()
        self._first = _FirstError()
        self._brought = 0
        """Ticks that were brought since the last checkpoint."""
        self._buried: deque[tuple[Any, Exception]] = deque(maxlen=_MOST_BURIED)
        self._buried_some = trio.Event()
        self._reporting = trio.Lock()
        self._homes: OrderedDict[str, int] = OrderedDict()
        """The shards of the symbols that the handler was told of."""
        self._places: Places | None = None

    def connect(self, links: SourceLinks) -> None:
        """Say whose feed it is, before it runs."""
        self._links = links

    def remember_places(self) -> Callable[[Any], tuple[Place | None, int]]:
        """Remember from now on where ticks lie in the buffer; return who can tell."""
        self._places = Places()
        return self._places.of

    @property
    def stats(self) -> FeedStats:
        """What is known of the connection to the broker."""
        now = self.statistics()
        return FeedStats(connected=now.connected, reconnects=now.reconnects, messages=now.received)

    def statistics(self) -> BufferStatistics:
        """Return the counters of the source."""
        return self._sources.statistics()

    async def run(self, send: TickSendChannel[Any]) -> None:
        """Run the source until it was drained.

        Raises:
            BaseException: what the source, ``on_error`` or the handler's ``gained``
                raises.

        Cancellation: what was not acknowledged goes back to the broker.
        """
        self._send = send

        async def give_up_all() -> None:
            for shard in set(self._homes.values()):
                await self.give_up(shard)

        async def work() -> None:
            await self._sources.run(self, self, give_up_all, self._links.left_again)
            await self._report_all()

        try:
            async with trio.open_nursery() as nursery:
                self._first.scope = nursery.cancel_scope
                nursery.start_soon(self._first.during, self._report_buried)
                await self._first.during(work)
                nursery.cancel_scope.cancel()
        finally:
            self._first.check()

    def leave_all(self) -> None:
        """Give back whatever no worker has begun, since the time is up."""
        for bringing in self._bringing:
            rest = bringing.rest()
            bringing.withdraw({item.symbol for item in rest})
            self._links.left(rest)
        self._links.outcomes.leave_all()

    # For the source: Send

    @property
    def clock(self) -> Clock:
        """The pipeline's."""
        return self._send.clock

    @property
    def random(self) -> Random:
        """The pipeline's."""
        return self._send.random

    @property
    def room(self) -> int:
        """How many more ticks fit into the channel now."""
        return self._links.room()

    async def deliver(self, shard: int, stretch: Stretch, /) -> None:
        """Hand over what came of *shard*, as :class:`~trio_ticks.buffer.Send` says."""
        await self.deliver_all([(shard, stretch)])

    async def deliver_all(self, parts: Sequence[tuple[int, Stretch]], /) -> None:
        """Hand over *parts*, as :class:`~trio_ticks.buffer.Send` says."""
        if self._places is not None:
            for shard, stretch in parts:
                self._places.add(shard, stretch)
        # From here on the ticks are unfinished, also while others are brought.
        bringing = Bringing(self._send, _joined(parts))
        self._bringing.append(bringing)
        self._brought += len(bringing)
        try:
            # An entry of a broker has few ticks, and a checkpoint costs more than all
            # of these: there is one only to wait for others or for room, and at times.
            try:
                self._turn.acquire_nowait()
            except trio.WouldBlock:
                await self._turn.acquire()
            try:
                if self._links.keeper is not None:
                    for shard, stretch in parts:
                        await self._tell_gained(self._links.keeper, shard, stretch)
                await bringing.run()
            finally:
                self._turn.release()
        finally:
            bringing.abandon()
            self._bringing.remove(bringing)
        if self._brought >= _MANY:
            self._brought = 0
            await trio.lowlevel.checkpoint()

    async def _tell_gained(self, keeper: Keeper, shard: int, stretch: Stretch) -> None:
        homes = self._homes
        # Not by the operator for sets, which would walk over all that is known.
        new = {item.symbol for item in stretch.items if item.symbol not in homes}
        if not new:
            return
        for symbol in new:
            homes[symbol] = shard
        while len(homes) > _MOST_KNOWN:
            forgotten, _shard = homes.popitem(last=False)
            await self._first.as_itself(keeper.lost({forgotten}))
        await self._first.as_itself(keeper.gained(new))

    async def give_up(self, shard: int, /) -> None:
        """Tell the handler that it has lost the symbols of *shard*.

        Cancellation: passed on to the handler.
        """
        symbols = {symbol for symbol, home in self._homes.items() if home == shard}
        for symbol in symbols:
            del self._homes[symbol]
        if symbols and self._links.keeper is not None:
            await self._first.as_itself(self._links.keeper.lost(symbols))
        else:
            await trio.lowlevel.checkpoint()

    def bury(self, item: Any, error: Exception, /) -> None:
        """Count *item* as received and failed, and have ``on_error`` told of it."""
        self._links.outcomes.bury(1)
        if item is not None:
            self._buried.append((item, error))
            self._buried_some.set()

    async def _report_buried(self) -> None:
        """Tell ``on_error`` of buried ticks; an error of it ends :meth:`run`."""
        while True:
            await self._buried_some.wait()
            self._buried_some = trio.Event()
            await self._report_all()

    async def _report_all(self) -> None:
        on_error = self._links.on_error
        async with self._reporting:
            while self._buried:
                item, error = self._buried.popleft()
                if on_error is not None:
                    await call_apart(on_error, item, error)

    # For the source: Outcomes

    def unfinished(self) -> list[Any]:
        """Return the ticks that have no outcome yet: those on their way in, too."""
        found = self._links.outcomes.unfinished()
        for bringing in self._bringing:
            found += bringing.rest()
        if self._places is not None:
            self._places.keep(found)
        return found

    @property
    def busy(self) -> bool:
        """Whether any tick may still get an outcome."""
        return bool(self._bringing or self._links.outcomes.busy)

    def withdraw(self, symbols: Collection[str]) -> int:
        """Take what no worker has begun of *symbols* out of the channel in one step."""
        wanted = frozenset(symbols)
        withdrawn = sum(bringing.withdraw(wanted) for bringing in self._bringing)
        return withdrawn + self._links.outcomes.withdraw(wanted)
