"""Plays ticks through the real pipeline when they are due, and sees what comes of it.

Rules: the feed is in memory, so that neither reading nor decoding takes a share. A lag
counts from when a tick was due, also if the feed was held up.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, final

import trio

from ..feeds.captures import CaptureReader, Lost, capture_symbols, recognise
from ..ledger import INTENTIONAL
from ..pipeline.opening import open_pipeline
from ..simulation.loads import Load
from ..simulation.outcomes import quantile
from .host import OthersLoad
from .plans import Verified

__all__ = ["first_items", "play"]

_PIECE: Final = 2048
_BATCH: Final = 512
"""The most items that are sent in one call."""


def first_items(
    recording: str | Path,
    load: Load,
    limit_s: float,
    factor: float,
    *,
    venue: Any = None,
    channels: Any = None,
) -> tuple[list[Any], int]:
    """Return the first items of *recording*, and how many they are. Blocks on the disk.

    Args:
        recording: that *load* was read from.
        load: at the recorded rate.
        limit_s: how long playing them takes, in seconds.
        factor: at how many times the recorded rate they are played.
        venue: whose messages they are.
        channels: which.
    """
    names, count = frozenset(load.names), 0
    while count < len(load) and load.times[count] <= limit_s * factor:
        count += 1
    language = recognise(recording, venue, channels)
    subscribed = capture_symbols(recording, language, most=1000)
    items: list[Any] = []
    with CaptureReader(recording, language, names, subscribed=subscribed) as reader:
        while not reader.at_end and len(items) < count:
            items += (item for _ns, item in reader.read(_PIECE) if type(item) is not Lost)
    return items[:count], count


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
