"""Plays ticks through the real pipeline when they are due, and sees what comes of it.

Rules: the feed is in memory, so that neither reading nor decoding takes a share. A lag
counts from when a tick was due, also if the feed was held up.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
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
from ..simulation.loads import Load
from ..simulation.outcomes import quantile
from .host import OthersLoad
from .plans import Verified

__all__ = ["first_items", "play"]

_BATCH: Final = 512
"""The most items that are sent in one call."""


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
    """Sends each item when it is due, or as soon as those before it were taken."""

    def __init__(self, times: Sequence[float], items: Sequence[Any]) -> None:
        self._times = times
        self._items = items
        self.began = 0.0

    async def run(self, send: Any) -> None:
        """Send all items.

        Cancellation: what was not sent is not.
        """
        times, items, now_of = self._times, self._items, send.clock.now
        self.began = began = now_of()
        place, count = 0, len(items)
        while place < count:
            now, end = now_of() - began, place
            limit = min(count, place + _BATCH)
            while end < limit and times[end] <= now:
                end += 1
            if end > place:
                await send.send_many(items[place:end])
                place = end
            else:
                await trio.sleep_until(began + times[place])


async def play(load: Load, items: Sequence[Any], handler: Any, **settings: Any) -> Verified:
    """Return what comes of *items* in a real pipeline.

    Args:
        load: when each of them is due.
        items: as many as *load* has ticks.
        handler: the user's.
        **settings: of the pipeline.

    Raises:
        ConfigError: a setting cannot work.

    Cancellation: ends the run.
    """
    feed = _DueFeed(load.times, items)
    due = {id(item): moment for item, moment in zip(items, load.times, strict=True)}
    lags = array("d")

    def handled(item: Any, _arrived: float, began: float, _ended: float) -> None:
        moment = due.get(id(item))
        if moment is not None:
            lags.append(began - feed.began - moment)

    others = OthersLoad(trio.current_time())
    async with open_pipeline(
        feed, handler, shutdown_timeout=60.0, on_error=lambda _item, _error: None, **settings
    ) as pipeline:
        pipeline.meters.report_to(handled)
        await pipeline.wait()
        cores = others.cores(trio.current_time())
    ledger = pipeline.report.ledger
    meant = sum(ledger.dropped_by_reason.get(reason, 0) for reason in INTENTIONAL)
    produced = max(1, ledger.produced)
    return Verified(
        drop_rate=(ledger.dropped - meant) / produced,
        conflated_rate=meant / produced,
        p99_lag_s=quantile(sorted(lags), 0.99),
        ticks=ledger.produced,
        others_cores=cores,
    )
