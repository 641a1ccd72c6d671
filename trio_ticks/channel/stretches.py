"""Ticks leave and enter a channel in stretches: for a buffer between processes.

A stretch keeps what a plain batch loses: the gaps, each in its place, and when each
tick arrived.

Rules: a gap is handed over once, in its symbol's order. Times in a stretch are wall
times, those in the channel trio's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, final, overload

import trio

from ..buffer import Stretch
from ..gaps import Gap
from ..uninterrupted import uninterrupted
from .sending import TickSendChannel
from .state import ChannelState

__all__ = ["Bringing", "leave_all", "take_stretch"]


def take_stretch(state: ChannelState[Any], most: int, stretch: Stretch | None = None) -> Stretch:
    """Remove and return up to *most* fresh ticks, with the gaps between them.

    What waits for room moves up. Ticks that are too old, and what a book holds back,
    are dropped. A *stretch* that is given is continued, up to *most* ticks in all.
    Sync.
    """
    buffer, taking = state.buffer, state.taking
    offset_s = state.clock.offset_s
    stretch = Stretch() if stretch is None else stretch
    items, arrived = stretch.items, stretch.arrived
    begin = len(items)
    while buffer and len(items) < most:
        if taking.is_plain:
            run, at = buffer.take_run(most - len(items))
            items += run
            arrived += [at + offset_s] * len(run)
            continue
        item: Any = buffer.take()
        at = buffer.arrival()
        if taking.drop_if_stale(item, at):
            continue
        if state.losses.unannounced:
            item, gap = taking.inspect(item)
            if item is None:
                continue
            if gap is not None:
                stretch.gaps.append((len(items), gap))
        items.append(item)
        arrived.append(at + offset_s)
    state.ledger.delivered += len(items) - begin
    taking.move_up()
    return stretch


def leave_all(state: ChannelState[Any]) -> None:
    """Take out whatever is queued or waits for room, at the end of a shutdown. Sync."""
    left = state.lanes.evict(state.lanes.parked)
    left += state.buffer.take_many(len(state.buffer))
    left += state.deliveries.extract(lambda _item: True, state.now())
    state.drops.drop(left, "shutdown")


@final
class _Shifted(Sequence[float]):
    """*times* less *by_s*, computed where one is asked for.

    Few are: a channel asks for the arrival of the ticks that are timed, and of the
    oldest. To compute all would cost a tick more than to queue it.
    """

    __slots__ = ("_by_s", "_times")

    def __init__(self, times: Sequence[float], by_s: float) -> None:
        self._times = times
        self._by_s = by_s

    def __len__(self) -> int:
        return len(self._times)

    @overload
    def __getitem__(self, at: int) -> float: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[float]: ...

    def __getitem__(self, at: int | slice) -> float | Sequence[float]:
        if isinstance(at, slice):
            return _Shifted(self._times[at], self._by_s)
        return self._times[at] - self._by_s

    def __iter__(self) -> Iterator[float]:
        return iter([time - self._by_s for time in self._times])


@uninterrupted
@final
class Bringing:
    """One stretch on its way into the channel of *send*.

    What was not brought yet can still be withdrawn.
    """

    def __init__(self, send: TickSendChannel[Any], stretch: Stretch) -> None:
        self._send = send
        self._items, self._arrived = stretch.items, stretch.arrived
        self._gaps: dict[int, Gap] = dict(stretch.gaps)
        self._begin = 0
        """The place of the first tick that was not brought yet."""

    def __len__(self) -> int:
        return len(self._items) - self._begin

    def rest(self) -> list[Any]:
        """Return the ticks that were not brought yet."""
        return self._items[self._begin :]

    def withdraw(self, symbols: Collection[str]) -> int:
        """Leave out what was not brought of *symbols*; return how many ticks it was."""
        places = range(self._begin, len(self._items))
        kept = [place for place in places if self._items[place].symbol not in symbols]
        withdrawn = len(places) - len(kept)
        if withdrawn:
            gaps = self._gaps
            self._gaps = {new: gaps[old] for new, old in enumerate(kept) if old in gaps}
            self._items = [self._items[place] for place in kept]
            self._arrived = [self._arrived[place] for place in kept]
            self._begin = 0
            self._give_back(withdrawn)
        return withdrawn

    async def run(self) -> None:
        """Bring all of it; wait while there is no room.

        Raises:
            trio.ClosedResourceError: the handle is closed.
            trio.BrokenResourceError: nobody receives any more.

        In both cases what was not brought is counted as given back.

        Cancellation: what was brought stays in the channel; the rest is given back.
        """
        offset_s = self._send.clock.offset_s
        try:
            while self._begin < len(self._items):
                wait = self._bring_part(offset_s)
                if wait is not None:
                    await wait
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Give back what was not brought: nobody will bring it."""
        self._give_back(len(self._items) - self._begin)
        self._begin = len(self._items)

    def _bring_part(self, offset_s: float) -> Any:
        """Bring the ticks up to the next gap.

        All before a gap has to be in before it is marked.
        """
        begin = self._begin
        if begin in self._gaps:
            self._send.mark_gap(self._gaps[begin])
        end = min((place for place in self._gaps if place > begin), default=len(self._items))
        part = self._items[begin:end]
        arrived = _Shifted(self._arrived[begin:end], offset_s)
        self._begin = end
        try:
            return self._send.deliver(part, arrived=arrived)
        except trio.ClosedResourceError:
            self._begin = begin
            raise

    def _give_back(self, count: int) -> None:
        self._send.ledger.produced += count
        self._send.ledger.given_back += count
