"""The settings of a pipeline, checked before anything runs.

They are plain values; :func:`open_pipeline` documents what each of them means.

Rules: every error says what to change; nothing here knows trio.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import attrs

from .channel.freshness import MaxAge
from .checks import check_count, check_instance, check_seconds, check_word
from .control.scaling import AutoWorkers
from .events import FeedEvent
from .gaps import Gap
from .handlers.breaker import Breaker
from .handlers.prepared import Around
from .handlers.retry import Retry
from .handlers.signatures import check_callback
from .logs import log_event
from .overflow import Overflow
from .results import Results
from .systems import warn_of_limits

__all__ = ["OnCrash", "OnError", "OnFeed", "OnGap", "Ordering", "Settings"]

logger = logging.getLogger(__name__)

Ordering = Literal["symbol", "none"]
OnCrash = Literal["fail", "retry"]
OnError = Callable[[Any, Exception], Any]
OnGap = Callable[[Gap], Any]
OnFeed = Callable[[FeedEvent], Any]


@attrs.frozen(slots=True, kw_only=True)
class Settings:
    """The settings of a pipeline, or of a worker pool alone."""

    workers: int | Literal["auto"] | AutoWorkers = 4
    maxsize: int = 1000
    write_timeout: float = 1.0
    lag_threshold: int = 500
    overflow: Overflow | None = None
    ordering: Ordering = "symbol"
    executor: str = "auto"
    max_age: MaxAge | float | None = None
    shutdown_timeout: float = 5.0
    handler_timeout: float | None = None
    retry: Retry | None = None
    breaker: Breaker | None = None
    on_crash: OnCrash = "fail"
    on_error: OnError | None = None
    on_gap: OnGap | None = None
    on_feed: OnFeed | None = None
    on_feed_timeout: float = 5.0
    results: Results | None = None
    around: Around | None = None
    """Put around each handler, inside its time limit and its tries; ``None``: nothing.

    For replays that model how long a handling takes; not of the public API."""

    def __attrs_post_init__(self) -> None:
        for name in ("maxsize", "lag_threshold"):
            check_count(name, getattr(self, name))
        if not isinstance(self.workers, AutoWorkers) and self.workers != "auto":
            check_count("workers", self.workers, also=', or "auto"')
        for name in ("write_timeout", "shutdown_timeout", "on_feed_timeout"):
            check_seconds(name, getattr(self, name), infinite=True)
        check_seconds("handler_timeout", self.handler_timeout, positive=True, or_none=True)
        check_instance("retry", self.retry, Retry, "a trio_ticks.Retry(...)", or_none=True)
        check_instance("breaker", self.breaker, Breaker, "a trio_ticks.Breaker(...)", or_none=True)
        check_word("ordering", self.ordering, ("symbol", "none"))
        check_word("on_crash", self.on_crash, ("fail", "retry"))
        if self.on_crash == "retry" and self.executor != "process":
            log_event(
                logger,
                logging.WARNING,
                "settings.ignored",
                'on_crash="retry" is for executor="process"; '
                "with executor=%r no handler can crash alone",
                self.executor,
                setting="on_crash",
                executor=self.executor,
            )
        warn_of_limits(self.executor)
        if self.on_error is not None:
            check_callback("on_error", self.on_error, ("a tick", "an exception"))
        if self.on_gap is not None:
            check_callback("on_gap", self.on_gap, ("a Gap",))
        if self.on_feed is not None:
            check_callback("on_feed", self.on_feed, ("a FeedEvent",))
        if self.results is not None:
            check_callback("results", self.results, ("a Result",))

    @property
    def pool_size(self) -> AutoWorkers | int:
        """The number of workers, or the bounds between which the pool sizes itself."""
        return AutoWorkers() if self.workers == "auto" else self.workers
