"""A feed that plays a recording, at a multiple of its own pace or as fast as possible.

Rules: each item has its time on the clock, counted from the beginning, so that delays
of single items never add up. On a virtual clock nothing runs in a thread, since such a
clock does not wait for threads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, final

import attrs
import trio

from ..book import Book
from ..checks import check_flag, check_number, check_word
from ..clock import Clock
from ..errors import ConfigError
from ..ticks import Tick, Trade, unchecked_tick, unchecked_trade
from .base import FeedStats, SendCapabilities, clock_of, send_capabilities_of
from .books import KeptBooks
from .captures import CaptureReader, Lost, capture_symbols, recognise, utc_from_ns
from .playback import Playback, call
from .venues import Codec, find_language

__all__ = ["ReplayFeed"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SUBSCRIBED_ITEMS: Final = 1000
"""The codec is made to subscribe to the symbols of so many first items.

It finds gaps in the numbers of these symbols only.
"""


@final
class ReplayFeed:
    """Plays a recording of a venue's messages, then ends. It can be run again.

    The codec of the venue decodes the messages, the same as in a
    :class:`~trio_ticks.WebSocketFeed`, so that the same items come out of a recording
    as came from the venue; gaps in the venue's sequence are told to the strategy. A
    line of the file is a message, with when it was received before it or around it:

    - ``<nanoseconds> <message>``
    - ``<seconds>: <message>``, as cryptofeed records; what the recorder sent, and its
      notes on connections, are ignored
    - ``{"recv_ts_ns": <nanoseconds>, "payload": "<message>"}``
    - ``<message>``: then the items' own timestamps give the times. If they have none,
      as Binance's quotes, the file cannot be played.

    The file is read ahead in a thread. On a virtual clock it is read in the event loop,
    since such a clock does not wait for threads; the pipeline's wall time then begins
    with the recording, so that replays are exact.

    ``stats.messages`` counts the lines read, ``malformed`` those that are no valid
    message or have no time, ``ignored`` those without market data that is asked for,
    ``refused`` the subscriptions that the venue had refused.

    Args:
        path: the recording, gzipped or not.
        speed: the factor on the recording's own pace; ``math.inf`` is as fast as the
            pipeline takes the items: unless the pipeline is given an overflow strategy,
            its channel blocks, and no item is dropped for want of room.
        timestamps: ``"original"`` keeps the timestamps that items had live: the
            venue's, or where it gives none (as for Binance's quotes) the time at which
            the recorder received them. For back-tests: lags are then exact on a virtual
            clock at speed 1; on the system's clock they are as large as the recording
            is old. ``"now"`` stamps each item with the time at which it is due, as if
            it were live, so that items held back by a full channel grow old. With
            ``speed=math.inf`` that is the time at which the item is sent.
        symbols: only items of these are sent; ``None``: of all.
        venue: whose messages they are: a name, or a codec class; ``None``: it is found
            from the first lines.
        channels: the channels to play; ``None``: the venue's default ones (of Binance
            the quotes), ``"all"``: all that the codec knows.
        books: keep the order books in the feed: book updates stay in it (counted as
            ``booked``), and a tick is sent when the best bid or ask has changed. The
            books are in the attribute ``books``, by symbol.

    Raises:
        ConfigError: *speed* is not a positive number, *timestamps*, *venue* or
            *channels* is unknown, or there is no such file.
    """

    batch = 512
    """The most items sent to the channel in one call."""

    def __init__(
        self,
        path: str | Path,
        speed: float = 1.0,
        *,
        timestamps: Literal["original", "now"] = "original",
        symbols: frozenset[str] | set[str] | list[str] | tuple[str, ...] | None = None,
        venue: str | type[Codec] | None = None,
        channels: Iterable[str] | str | None = None,
        books: bool = False,
    ) -> None:
        check_number("speed", speed, above=0.0, infinite=True, also=", or math.inf")
        check_word("timestamps", timestamps, ("original", "now"))
        self.path = Path(path)
        if self.path.is_dir():
            raise ConfigError(
                f"{str(self.path)!r} is a folder: give the path of one recording in it"
            )
        if not self.path.is_file():
            raise ConfigError(f"there is no recording {str(self.path)!r}")
        self.speed = speed
        self.timestamps = timestamps
        self.symbols = None if symbols is None else frozenset(symbols)
        self._channels: Final = (
            channels if channels is None or isinstance(channels, str) else tuple(channels)
        )
        self._venue: Final = venue
        self.venue = None if venue is None else find_language(venue, self._channels).name
        """The name of the venue; if it is not given, ``None`` until it is found."""
        self.stats = FeedStats()
        check_flag("books", books)
        self._keeps_books: Final = books
        self._kept: KeptBooks | None = None

    @property
    def books(self) -> Mapping[str, Book]:
        """The books that the feed keeps, by symbol; none without ``books=True``."""
        return {} if self._kept is None else self._kept.books

    def __repr__(self) -> str:
        return f"ReplayFeed({str(self.path)!r}, speed={self.speed!r})"

    @property
    def waits_for_room(self) -> bool:
        """Whether the pipeline's channel blocks by default: with ``speed=math.inf``."""
        return self.speed == math.inf

    async def run(self, send: Any, /) -> None:
        """Send the items of the recording into *send*, until its end.

        Raises:
            ConfigError: the file cannot be read, or is not a recording that can be
                played; or *channels* names one that its venue does not have.

        Cancellation: ends the replay. *send* accounts for the items that it has taken;
        the rest of the recording has not been sent.
        """
        clock = clock_of(send)
        reader = await call(self._open, in_thread=not clock.is_virtual)
        with reader:
            self.stats.connected = True
            try:
                await self._play(send, clock, reader)
            finally:
                self.stats.connected = False

    def _open(self) -> CaptureReader:
        language = recognise(self.path, self._venue, self._channels)
        self.venue = language.name
        if self._keeps_books:
            self._kept = KeptBooks(self.stats, language.new_book_checksum)
        found = capture_symbols(self.path, language, most=_SUBSCRIBED_ITEMS)
        return CaptureReader(self.path, language, self.symbols, subscribed=found)

    async def _play(self, send: Any, clock: Clock, reader: CaptureReader) -> None:
        playback = Playback(reader, speed=self.speed, in_thread=not clock.is_virtual)
        to = send_capabilities_of(send)
        while playback.first_ns is None and playback.wants_more:
            await self._read_ahead(playback, reader)
        if playback.first_ns is not None:
            clock.begin_at(playback.first_ns / 1e9)
        start = clock.now()
        while not playback.ended:
            if playback.wants_more:
                await self._read_ahead(playback, reader)
            now, next_at = clock.now(), playback.next_at
            # When the next item is due, now - start may be smaller than next_at by a
            # rounding error. Without max() no item would be taken and no time would
            # pass: on a virtual clock the loop would never end.
            until = max(now - start, next_at) if start + next_at <= now else now - start
            due = playback.take(until, self.batch)
            if due:
                await self._send(send, to, due, clock, start)
            elif playback.next_at < math.inf:
                await trio.sleep_until(start + playback.next_at)

    async def _read_ahead(self, playback: Playback, reader: CaptureReader) -> None:
        counts, stats = reader.counts, self.stats
        before = reader.lines, counts.malformed, counts.ignored, counts.refused
        await playback.read_ahead()
        stats.messages += reader.lines - before[0]
        stats.malformed += counts.malformed - before[1]
        stats.ignored += counts.ignored - before[2]
        stats.refused += counts.refused - before[3]

    async def _send(
        self,
        send: Any,
        to: SendCapabilities,
        due: list[tuple[float, Any]],
        clock: Clock,
        start: float,
    ) -> None:
        """Send the items in *due*, and tell of each gap before what came after it."""
        keeps = self.timestamps == "original"
        now = clock.utc() if self.speed == math.inf else None
        items: list[Any] = []
        for at, item in due:
            lost, found = self._take_in(item)
            if lost and items:
                await send.send_many(items)
                items = []
            for gap in lost:
                book = gap.book and self._kept is None
                _tell(to, gap, utc_from_ns(gap.ns) if keeps else clock.utc(), book=book)
            if keeps:
                items += found
            else:
                items += [_stamped(each, now or clock.utc_at(start + at)) for each in found]
        if items:
            await send.send_many(items)

    def _take_in(self, item: Any) -> tuple[Sequence[Lost], Sequence[Any]]:
        """Return the gaps to tell of because of *item*, and the items to send then."""
        books = self._kept
        if type(item) is Lost:
            if books is not None:
                books.gap(item.symbol, item.reason, book=item.book)
            return (item,), ()
        if books is None:
            return (), (item,)
        found = books.keep((item,))
        if not books.faults:
            return (), found
        ns = (item.timestamp - _EPOCH) // timedelta(microseconds=1) * 1000
        lost = [Lost(fault.symbol, "sequence", 0, True, ns) for fault in books.take_faults()]
        return lost, found


def _tell(to: SendCapabilities, lost: Lost, when: datetime, *, book: bool) -> None:
    if to.mark_gap is None:
        return
    mark_gap: Any = to.mark_gap
    # A channel's stand-in, such as a wrapper that counts, may not know of books.
    if book:
        mark_gap(lost.as_gap(when), book=True)
    else:
        mark_gap(lost.as_gap(when))


def _stamped(item: Any, when: datetime) -> Any:
    """Return *item* with the timestamp *when*."""
    kind = type(item)
    if kind is Tick:
        return unchecked_tick(
            item.symbol, when, item.bid, item.ask, item.bid_size, item.ask_size, item.volume
        )
    if kind is Trade:
        return unchecked_trade(item.symbol, when, item.price, item.size, item.side, item.trade_id)
    if attrs.has(kind):
        return attrs.evolve(item, timestamp=when)
    if dataclasses.is_dataclass(kind):
        return dataclasses.replace(item, timestamp=when)
    raise ConfigError(f"timestamps='now' needs items of attrs or dataclasses, not {kind.__name__}")
