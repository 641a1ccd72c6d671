"""A feed that plays a recording through the pipeline, at its true pace, a multiple of it, or as fast as the pipeline takes it.

Pace is kept against the clock, not from tick to tick: what is late is caught up with, never added up.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import trio

from ..errors import ConfigError
from ..ticks import Tick
from .base import FeedStats
from .captures import CaptureReader, Playback, Quote, capture_symbols, utc_from_ns

__all__ = ["ReplayFeed"]


class ReplayFeed:
    """Plays a recording (:mod:`trio_ticks.feeds.captures` says which ones) as ticks, then ends. It can be run again.

    The file is read ahead in a thread. A virtual clock that jumps when all tasks wait does not wait for threads: with other deadlines
    about, it may jump to them meanwhile.

    ``stats.messages`` counts the lines read, ``malformed`` those that make no sense, ``ignored`` those that are no quotes.

    Args:
        path: the recording, gzipped or not.
        speed: the recording's own pace times this; ``math.inf`` is as fast as the pipeline takes it.
        timestamps: ``"original"`` keeps the time at which the recorder received the quote, for back-tests; lags are then as large as the
            recording is old, and ``max_age`` drops everything. ``"now"`` stamps each tick when it is due, as if it were live.
        symbols: only these; ``None``: all.

    Raises:
        ConfigError: *speed* is not a positive number, *timestamps* is unknown, or there is no such file.
    """

    batch = 512
    """Ticks that go to the channel in one call, at most."""

    def __init__(
        self,
        path: str | Path,
        speed: float = 1.0,
        *,
        timestamps: Literal["original", "now"] = "original",
        symbols: frozenset[str] | set[str] | list[str] | tuple[str, ...] | None = None,
    ) -> None:
        if isinstance(speed, bool) or not isinstance(speed, int | float) or math.isnan(speed) or speed <= 0:
            raise ConfigError(f"speed must be more than 0, or math.inf, got {speed!r}")
        if timestamps not in ("original", "now"):
            raise ConfigError(f'timestamps must be "original" or "now", got {timestamps!r}')
        self.path = Path(path)
        if not self.path.is_file():
            raise ConfigError(f"there is no recording {str(self.path)!r}")
        self.speed = speed
        self.timestamps = timestamps
        self.symbols = None if symbols is None else frozenset(symbols)
        self.stats = FeedStats()

    def __repr__(self) -> str:
        return f"ReplayFeed({str(self.path)!r}, speed={self.speed!r})"

    async def run(self, send: Any, /) -> None:
        """Send the recording's quotes as ticks into *send* until its end.

        Raises:
            ConfigError: the file cannot be read, or is not a recording.

        Cancellation: ends the replay; what ``send`` has taken has gone its way, the rest of the recording has not been sent.
        """
        await trio.to_thread.run_sync(capture_symbols, self.path)
        reader = await trio.to_thread.run_sync(partial(CaptureReader, self.path, self.symbols))
        with reader:
            self.stats.connected = True
            try:
                await self._play(send, reader)
            finally:
                self.stats.connected = False

    async def _play(self, send: Any, reader: CaptureReader) -> None:
        playback = Playback(reader, speed=self.speed)
        start = trio.current_time()
        while not playback.ended:
            if playback.wants_more:
                await self._read_ahead(playback, reader)
            due = playback.take(trio.current_time() - start, self.batch)
            if due:
                await send.send_many(self._ticks(due))
            elif playback.next_at < math.inf:
                await trio.sleep_until(start + playback.next_at)

    async def _read_ahead(self, playback: Playback, reader: CaptureReader) -> None:
        lines, malformed, ignored = reader.lines, reader.malformed, reader.ignored
        await playback.read_ahead()
        self.stats.messages += reader.lines - lines
        self.stats.malformed += reader.malformed - malformed
        self.stats.ignored += reader.ignored - ignored

    def _ticks(self, quotes: list[Quote]) -> list[Tick]:
        if self.timestamps == "now":
            now = datetime.now(UTC)
            return [Tick(quote.symbol, now, *quote[2:]) for quote in quotes]
        return [Tick(quote.symbol, utc_from_ns(quote.received_ns), *quote[2:]) for quote in quotes]
