"""The halves of a pipeline with a buffer between processes: who runs what, checked.

The *ingest* brings the feed's ticks into the buffer; the *work* handles what comes out
of it. Both may run in one program. Without a buffer there is one pipeline, and neither.

Rules: a setting of a half that is not there is an error, since it would do nothing.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from ..buffer import Buffer
from ..checks import check_count
from ..errors import ConfigError
from ..feeds.base import Feed
from ..handlers.kinds import Handler, takes_events
from ..overflow import Block
from ..settings import Settings
from .running import Pipeline
from .sink_end import SinkOf
from .source_feed import SourceFeed

__all__ = ["check_halves", "make_pipeline"]

_PREFETCH: Final = 2000
"""Ticks that the workers' channel holds, if neither the user nor the buffer says it."""
_OF_INGEST: Final = ("overflow", "write_timeout", "on_feed", "on_feed_timeout")
_OF_WORK: Final = (
    "workers",
    "ordering",
    "executor",
    "handler_timeout",
    "retry",
    "breaker",
    "on_crash",
    "on_error",
    "on_gap",
    "results",
)


def check_halves(
    feed: object, handler: object, buffer: object, settings: Settings, *, shared_symbols: bool
) -> None:
    """Check that what is given belongs together.

    Raises:
        ConfigError: it does not; the message says what to change.
    """
    if buffer is None:
        if feed is None or handler is None:
            missing = "feed" if feed is None else "handler"
            raise ConfigError(
                f"{missing} is None: without a buffer between processes a pipeline needs both, a "
                "feed and a handler; give buffer=, for example tt.brokers.RedisStreams(url)"
            )
        return
    if not isinstance(buffer, Buffer):
        raise ConfigError(
            "buffer must have the methods sink() and source(): RedisStreams, Kafka or ZeroMQ of "
            f"trio_ticks.brokers, or one of your own; got {buffer!r}"
        )
    if feed is None and handler is None:
        raise ConfigError("give a feed, or a handler, or both: with neither there is nothing to do")
    if feed is None:
        given = _given(settings, _OF_INGEST) + ["shared_symbols"] * shared_symbols
        _refuse(given, "feed", "which brings the ticks into the buffer")
    if handler is None:
        _refuse(_given(settings, _OF_WORK), "handler", "which takes the ticks out of the buffer")


def _given(settings: Settings, names: tuple[str, ...]) -> list[str]:
    """Return those of *names* whose setting is not the default."""
    defaults = {field.name: field.default for field in attrs.fields(Settings)}
    return [name for name in names if getattr(settings, name) != defaults[name]]


def _refuse(given: list[str], what: str, which: str) -> None:
    if given:
        raise ConfigError(
            f"{', '.join(given)}: this is of no use without a {what}, {which}; give it to the "
            f"program that has the {what}"
        )


def make_pipeline(
    feed: Feed | None, handler: Handler[Any] | None, buffer: Buffer | None, settings: Settings
) -> Pipeline[Any]:
    """Return the pipeline, with its other half as ``ingest`` if both run here.

    What is given was checked by :func:`check_halves`.
    """
    if buffer is None:
        assert feed is not None
        assert handler is not None
        return Pipeline(feed, handler, settings)
    ingest: Pipeline[Any] | None = None
    if feed is not None:
        in_line = handler is not None and takes_events(handler)
        ingest = Pipeline(feed, SinkOf(buffer.sink(), takes_events=in_line), settings)
        if handler is None:
            return ingest
    assert handler is not None
    source = SourceFeed(buffer.source(), buffer.source)
    clock = None if ingest is None else ingest.clock
    work = _of_work(settings, buffer, alone=ingest is None)
    return Pipeline(source, handler, work, clock=clock, ingest=ingest)


def _of_work(settings: Settings, buffer: Buffer, *, alone: bool) -> Settings:
    """Return the settings of the half of the workers."""
    default = attrs.fields(Settings).maxsize.default
    prefetch = getattr(buffer, "prefetch", _PREFETCH)
    check_count("prefetch", prefetch, of="ticks")
    if alone and settings.maxsize != default:
        prefetch = settings.maxsize
    return attrs.evolve(
        settings,
        maxsize=prefetch,
        overflow=Block(),
        on_feed=None,
        lag_threshold=min(settings.lag_threshold, prefetch),
    )
