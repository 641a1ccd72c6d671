"""A pipeline whose feeds are recorded while its block lasts.

Rules: a feed that has raw messages shows them to the recorder itself; of any other feed
the items are recorded, as they are brought. With a buffer between processes the half
that has the feed is recorded, or the workers' half if it is alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from ..checks import check_instance
from ..feeds.base import Feed, records_messages
from ..feeds.merged import MergedFeed
from ..feeds.recorded_items import encode_items
from ..recordings.recorder import Recorder
from ..recordings.taps import About, FeedTap
from ..uninterrupted import uninterrupted
from .running import Pipeline

__all__ = ["recorded"]

_FLAT = "flat"
"""The language in which items are recorded."""


@asynccontextmanager
@uninterrupted
async def recorded(pipeline: Pipeline[Any], recorder: Recorder | None) -> AsyncIterator[None]:
    """Record *pipeline* by *recorder*, if there is one, while the block lasts.

    Raises:
        ConfigError: it is no recorder, or cannot be used.

    Cancellation: what was recorded is written, for 5 s at most.
    """
    check_instance("record", recorder, Recorder, "a trio_ticks.Recorder(folder)", or_none=True)
    if recorder is None:
        yield
        return
    half = pipeline if pipeline.ingest is None else pipeline.ingest
    recorder.begin(half.clock)
    detach: list[Callable[[None], object]] = []
    try:
        half.recording = recorder.statistics
        half._phases.tap = _attach(half._feed, recorder, detach)
        yield
    finally:
        half._phases.tap = None
        for each in detach:
            each(None)
        await _end(recorder, is_virtual=half.clock.is_virtual)  # noqa: ASYNC102  # bounded


def _attach(
    feed: Feed, recorder: Recorder, detach: list[Callable[[None], object]]
) -> FeedTap | None:
    """Have *feed* recorded; return the tap for its items, if it has no messages."""
    if not isinstance(feed, MergedFeed):
        return _attach_one(_name_of(feed), feed, recorder, detach)
    for name, each in zip(feed.names, feed.feeds, strict=True):
        tap = _attach_one(name, each, recorder, detach)
        if tap is not None:
            feed.taps[name] = tap
    detach.append(lambda _none: feed.taps.clear())
    return None


def _attach_one(
    name: str, feed: Feed, recorder: Recorder, detach: list[Callable[[None], object]]
) -> FeedTap | None:
    record_to = records_messages(feed)
    if record_to is None:
        return recorder.tap(About(feed=name, venue=_FLAT, encode=encode_items))
    detach.append(record_to)
    record_to(recorder.tap)
    return None


def _name_of(feed: Feed) -> str:
    name = getattr(feed, "name", None)
    return name if isinstance(name, str) and name else type(feed).__name__


async def _end(recorder: Recorder, *, is_virtual: bool) -> None:
    """Have all written that is recorded.

    Cancellation: is held back until that is done, for 5 s at most.
    """
    if is_virtual:
        # Such a clock does not wait for threads.
        recorder.end()
    else:
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(recorder.end)
        finally:
            # Ctrl-C may have come out instead, before the thread began. Otherwise it
            # has ended, and this does nothing.
            recorder.end()
