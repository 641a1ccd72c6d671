"""The task that looks for silent symbols, and says when the market is closed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, final

import trio

from ..clock import Clock
from ..events import FeedEventKind
from ..logs import LogLimit, log_event
from .base import MOST_NAMED
from .core import FeedCore
from .silence import SymbolWatch
from .telling import Telling

__all__ = ["SymbolTask"]

_WATCH_S: Final = 10.0
"""Silent symbols are looked for at least this often, in seconds."""
_LEAST_WATCH_S: Final = 0.5


@final
class SymbolTask:
    """Watches the symbols of one run of a feed.

    Args:
        core: of the feed.
        telling: tells the strategy.
        clock: of the pipeline.
        log_limit: of the run's log lines.
        excused: returns symbols, by the user's names, that cannot come at the moment
            and are not silent for that.
    """

    def __init__(
        self,
        core: FeedCore,
        telling: Telling,
        clock: Clock,
        log_limit: LogLimit,
        excused: Callable[[], Iterable[str]],
    ) -> None:
        self._core = core
        self._telling = telling
        self._clock = clock
        self._log_limit = log_limit
        self._excused = excused
        self._watch = SymbolWatch(
            self._report_silence,
            after_s=core.options.symbol_stale_after,
            never_after_s=core.options.stale_after or math.inf,
        )
        self.arrived = self._watch.arrived
        """Notices that something of each of the given symbols arrived at a time."""

    def forget(self, names: Iterable[str]) -> None:
        """Watch *names* no more."""
        self._watch.forget(names)
        self._count_silent()

    def restart(self, now: float) -> None:
        """Let the silence of all symbols begin at *now*: nothing could come before."""
        self._watch.restart(now)

    def expects_data(self) -> bool:
        """Return whether market data is to be expected now."""
        expected = self._core.options.expect_data
        return expected is None or bool(expected(self._clock.utc()))

    async def run(self) -> None:
        """Report symbols that are silent for longer than they usually are.

        Cancellation: none is reported any more.
        """
        core, watch = self._core, self._watch
        while True:
            now = trio.current_time()
            core.stats.expects_data = self.expects_data()
            core.bad.poll()
            if not core.takes_all:
                watch.watch(core.names.values(), now)
            if not core.stats.expects_data:
                watch.restart(now)
            watch.restart(now, self._excused())
            next_at = watch.check(now)
            await trio.sleep_until(min(max(next_at, now + _LEAST_WATCH_S), now + _WATCH_S))

    def _report_silence(self, symbol: str, is_silent: bool, for_s: float) -> None:
        self._count_silent()
        kind: FeedEventKind = "symbol-silent" if is_silent else "symbol-back"
        reason = f"no data for {for_s:.3g} s"
        if is_silent and symbol in self._telling.refused:
            return
        self._telling.refused.discard(symbol)
        self._telling.report(kind, symbol, reason)
        if times := self._log_limit.due(kind):
            level = logging.WARNING if is_silent else logging.INFO
            event = "feed.symbol_silent" if is_silent else "feed.symbol_back"
            facts: dict[str, object] = {"symbol": symbol, "for_s": round(for_s, 3)}
            if times > 1:
                facts["times"] = times
            log_event(self._core.logger, level, event, feed=self._core.name, **facts)

    def _count_silent(self) -> None:
        silent, stats = self._watch.silent, self._core.stats
        stats.silent_symbols = len(silent)
        stats.silent_names = tuple(islice(reversed(silent), MOST_NAMED))
