"""Play a recording as a market: its quotes become ticks of the flat protocol.

Trades and books are left out, since the flat protocol has no words for them.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import attrs
import msgspec

from ..feeds.captures import CaptureReader, capture_symbols, recognise
from ..feeds.playback import Playback, call
from ..feeds.venues import Codec
from ..ticks import Tick
from .wire import FlatTick, iso_utc

__all__ = ["Damage", "RecordedMarket", "open_recording"]


@attrs.frozen(slots=True)
class Damage:
    """How much of a recording is no message; counted as by ``ReplayFeed``."""

    lines: int = 0
    """Lines read so far."""
    malformed: int = 0
    """Those that are no valid message, or have no time."""
    truncated: bool = False
    """Whether the compressed data is cut off or damaged after them."""


class RecordedMarket:
    """Plays a recording; :func:`open_recording` makes one.

    Its symbols are those found at the recording's beginning; others are added as they
    appear.
    """

    def __init__(
        self,
        playback: Playback,
        reader: CaptureReader,
        symbols: tuple[str, ...],
        *,
        original_time: bool,
    ) -> None:
        self._playback = playback
        self._reader = reader
        self._symbols = dict.fromkeys(symbols)
        self._original_time = original_time

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that can be subscribed to."""
        return tuple(self._symbols)

    @property
    def left_out(self) -> int:
        """Items read so far that are no quotes."""
        return self._reader.counts.left_out

    @property
    def damage(self) -> Damage:
        """What of the recording could not be read so far."""
        reader = self._reader
        return Damage(reader.lines, reader.counts.malformed, reader.truncated)

    @property
    def ended(self) -> bool:
        """Whether everything has been taken."""
        return self._playback.ended

    @property
    def next_at(self) -> float:
        """When the next tick is due, in seconds since the market opened."""
        return self._playback.next_at

    @property
    def wants_more(self) -> bool:
        """Whether it is time for :meth:`read_ahead`."""
        return self._playback.wants_more

    async def read_ahead(self) -> None:
        """Read another piece of the recording.

        Cancellation: waits for the thread, for milliseconds.
        """
        await self._playback.read_ahead()

    def take(self, until: float, limit: int, stamp: str) -> list[FlatTick]:
        """Return the ticks due up to the time *until*, at most *limit*.

        They have the timestamp *stamp*, unless the original ones are wanted.
        """
        keeps = self._original_time
        ticks = []
        for _, tick in self._playback.take(until, limit):
            self._symbols.setdefault(tick.symbol)
            ticks.append(
                FlatTick(
                    tick.symbol,
                    iso_utc(tick.timestamp) if keeps else stamp,
                    tick.bid,
                    tick.ask,
                    _said(tick.bid_size),
                    _said(tick.ask_size),
                    _said(tick.volume),
                )
            )
        return ticks

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def _said(quantity: float) -> float | msgspec.UnsetType:
    return msgspec.UNSET if math.isnan(quantity) else quantity


async def open_recording(
    path: Path,
    *,
    venue: str | type[Codec] | None = None,
    symbols: tuple[str, ...] | None,
    speed: float,
    loop: bool,
    original_time: bool,
    in_thread: bool = True,
) -> RecordedMarket:
    """Open the recording at *path* as a market.

    Args:
        path: the recording.
        venue: whose messages it holds; ``None``: to be found.
        symbols: the symbols to play; ``None``: all.
        speed: a factor on the recording's own pace.
        loop: whether to begin anew at the end, for ever.
        original_time: whether ticks keep their timestamps.
        in_thread: whether to read in a thread; False on a virtual clock.

    Raises:
        ConfigError: it cannot be read, or is no recording of quotes.

    Cancellation: waits for the thread that reads; the file is closed.
    """
    language = await call(partial(recognise, path, venue), in_thread=in_thread)
    found = await call(partial(capture_symbols, path, language, only=Tick), in_thread=in_thread)
    wanted = None if symbols is None else frozenset(symbols)
    reader = await call(
        partial(CaptureReader, path, language, wanted, subscribed=found, only=Tick),
        in_thread=in_thread,
    )
    return RecordedMarket(
        Playback(reader, speed=speed, loop=loop, in_thread=in_thread),
        reader,
        symbols or found,
        original_time=original_time,
    )
