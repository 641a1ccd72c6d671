"""A recording as a market: its quotes, due at the recording's pace, as ticks of the flat protocol."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import trio

from ..feeds.captures import CaptureReader, Playback, capture_symbols, utc_from_ns
from .wire import FlatTick, iso_utc

__all__ = ["RecordedMarket", "open_recording"]


class RecordedMarket:
    """Plays a recording; :func:`open_recording` makes one.

    Its symbols are those found at the recording's beginning, and others as they appear.
    """

    def __init__(self, playback: Playback, reader: CaptureReader, symbols: tuple[str, ...], *, original_time: bool) -> None:
        self._playback = playback
        self._reader = reader
        self._symbols = dict.fromkeys(symbols)
        self._original_time = original_time

    @property
    def symbols(self) -> tuple[str, ...]:
        """What can be subscribed to."""
        return tuple(self._symbols)

    @property
    def ended(self) -> bool:
        """Everything has been taken."""
        return self._playback.ended

    @property
    def next_at(self) -> float:
        """When the next tick is due, in seconds since the market opened."""
        return self._playback.next_at

    @property
    def wants_more(self) -> bool:
        """It is time for :meth:`read_ahead`."""
        return self._playback.wants_more

    async def read_ahead(self) -> None:
        """Read another piece of the recording, in a thread.

        Cancellation: waits for the thread, for milliseconds.
        """
        await self._playback.read_ahead()

    def take(self, until: float, limit: int, stamp: str) -> list[FlatTick]:
        """Return the ticks due up to the time *until*, at most *limit*, with the timestamp *stamp* unless the original ones are wanted."""
        quotes = self._playback.take(until, limit)
        for quote in quotes:
            self._symbols.setdefault(quote.symbol)
        if self._original_time:
            return [FlatTick(quote.symbol, iso_utc(utc_from_ns(quote.received_ns)), *quote[2:]) for quote in quotes]
        return [FlatTick(quote.symbol, stamp, *quote[2:]) for quote in quotes]

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


async def open_recording(path: Path, *, symbols: tuple[str, ...] | None, speed: float, loop: bool, original_time: bool) -> RecordedMarket:
    """Open the recording at *path* as a market.

    Raises:
        ConfigError: it cannot be read, or is no recording.

    Cancellation: waits for the thread that reads; the file is closed.
    """
    found = await trio.to_thread.run_sync(capture_symbols, path)
    reader = await trio.to_thread.run_sync(partial(CaptureReader, path, None if symbols is None else frozenset(symbols)))
    return RecordedMarket(Playback(reader, speed=speed, loop=loop), reader, symbols or found, original_time=original_time)
