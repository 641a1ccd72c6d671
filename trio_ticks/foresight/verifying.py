"""Plays ticks through the real pipeline when they are due, and sees what comes of it.

Rules: the feed is in memory, so that neither reading nor decoding takes a share. A lag
counts from when a tick was due, also if the feed was held up. The pipeline is one that
has been running for a while: a process takes a second to start, in which a queue fills
that a prediction knows nothing of. So a few ticks are handled before the others come,
and they count for nothing.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, final

import trio

from ..feeds.captures import Lost
from ..feeds.columns import pieces
from ..feeds.recording_files import Where, check_paths, find_recordings
from ..feeds.replay import ns_of
from ..feeds.timeline import Timeline
from ..ledger import INTENTIONAL
from ..pipeline.opening import open_pipeline
from ..pipeline.running import Pipeline
from ..simulation.loads import Load
from ..simulation.outcomes import quantile
from .bell import Bell
from .host import OthersLoad
from .plans import Verified

__all__ = ["first_items", "play"]

_BATCH: Final = 512
"""The most items that are sent in one call."""
_POLL_S: Final = 0.01
_MOST_FIRST: Final = 10
"""One in so many ticks is handled before the others come, at most."""


def first_items(
    recording: Where,
    load: Load,
    limit_s: float,
    factor: float,
    *,
    start: datetime | str | None = None,
    **language: Any,
) -> list[Any]:
    """Return the first items of *recording*. Blocks on the disk.

    Args:
        recording: that *load* was read from.
        load: at the recorded rate.
        limit_s: how long playing them takes, in seconds.
        factor: at how many times the recorded rate they are played.
        start: from when on the load was read.
        **language: whose messages they are: ``venue`` and ``channels``.
    """
    count = bisect_right(load.times, load.times[0] + limit_s * factor)
    files = find_recordings(check_paths(recording), **language)
    items: list[Any] = []
    start_ns = ns_of("start", start)
    with Timeline(files, frozenset(load.names)) as timeline:
        if start_ns is not None:
            for _ in pieces(timeline, start_ns - 1):
                pass
        for piece in pieces(timeline, math.inf):
            items += (item for _ns, item in piece if type(item) is not Lost)
            if len(items) >= count:
                break
    return items[:count]


@final
class _DueFeed:
    """Sends the first items at once, and each other when it is due.

    Or as soon as those before it were taken.
    """

    def __init__(self, times: Sequence[float], items: Sequence[Any], first: Sequence[Any]) -> None:
        self._times = times
        self._items = items
        self._first = first
        self._ready = trio.Event()
        self._moments: list[float] = []
        """When each call of the channel began."""
        self._ends: list[int] = []
        """How many items had been sent after each call."""
        self.began = 0.0

    def begin(self) -> None:
        """Begin with the items that are due: the first ones were handled."""
        self._ready.set()

    def due(self, symbol: str, arrived: float) -> float:
        """Return when the last item of *symbol* was due that came at *arrived*."""
        call = bisect_right(self._moments, arrived) - 1
        first = self._ends[call - 1] if call > 0 else 0
        sent = range(self._ends[call] - 1, first - 1, -1)
        last = next((place for place in sent if self._items[place].symbol == symbol), first)
        return self._times[last]

    async def run(self, send: Any) -> None:
        """Send all items.

        Cancellation: what was not sent is not.
        """
        await send.send_many(self._first)
        await self._ready.wait()
        self.began = began = send.clock.now()
        bell = Bell(began + each for each in self._times)
        with bell.ringing():
            await self._send_when_due(send, bell)

    async def _send_when_due(self, send: Any, bell: Bell) -> None:
        times, items, now_of, began = self._times, self._items, send.clock.now, self.began
        place, count = 0, len(items)
        while place < count:
            now, end = now_of(), place
            limit = min(count, place + _BATCH)
            while end < limit and began + times[end] <= now:
                end += 1
            if end > place:
                self._moments.append(now)
                self._ends.append(end)
                await send.send_many(items[place:end])
                place = end
            else:
                await bell.wait(began + times[place])


def _first_of_symbols(load: Load, count: int) -> list[int]:
    """Return the numbers of the first ticks of *count* symbols, or of all."""
    found: dict[int, int] = {}
    for number, symbol in enumerate(load.symbols):
        if len(found) >= min(count, len(load.names)):
            break
        found.setdefault(symbol, number)
    return list(found.values())


async def play(
    load: Load,
    items: Sequence[Any],
    handler: Any,
    *,
    watch: Callable[[Pipeline[Any]], object] | None = None,
    **settings: Any,
) -> Verified:
    """Return what comes of *items* in a real pipeline.

    Args:
        load: when each of them is due.
        items: as many as *load* has ticks.
        handler: the user's.
        watch: is given the pipeline before the first item that counts.
        **settings: of the pipeline.

    Raises:
        ConfigError: a setting cannot work.

    Cancellation: ends the run.
    """
    # Of different symbols: with order, each is handled in a process of its own.
    firsts = _first_of_symbols(load, min(settings["workers"], len(items) // _MOST_FIRST))
    rest = sorted(set(range(len(items))) - set(firsts))
    times, later = [load.times[each] for each in rest], [items[each] for each in rest]
    feed = _DueFeed(times, later, [items[each] for each in firsts])
    due = {id(item): moment for item, moment in zip(later, times, strict=True)}
    lags = array("d")

    def handled(item: Any, arrived: float, began: float, _ended: float) -> None:
        moment = due.get(id(item))
        if moment is None:
            # It stands for several, and is another object than the last of them.
            moment = feed.due(item.symbol, arrived)
        lags.append(began - feed.began - moment)

    async with open_pipeline(
        feed, handler, shutdown_timeout=60.0, on_error=lambda _item, _error: None, **settings
    ) as pipeline:
        while True:
            before = pipeline.ledger.snapshot()
            if before.produced == len(firsts) and not (before.queued or before.in_flight):
                break
            await trio.sleep(_POLL_S)
        pipeline.meters.report_to(handled)
        if watch is not None:
            watch(pipeline)
        others = OthersLoad(trio.current_time())
        feed.begin()
        await pipeline.wait()
        cores = others.cores(trio.current_time())
    ledger = pipeline.report.ledger
    dropped = {
        reason: count - before.dropped_by_reason[reason]
        for reason, count in ledger.dropped_by_reason.items()
    }
    meant = sum(dropped[reason] for reason in INTENTIONAL)
    ticks = ledger.produced - before.produced
    return Verified(
        drop_rate=(sum(dropped.values()) - meant) / max(1, ticks),
        conflated_rate=meant / max(1, ticks),
        p99_lag_s=quantile(sorted(lags), 0.99),
        ticks=ticks,
        others_cores=cores,
    )
