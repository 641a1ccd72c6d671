"""A feed that plays a recording, at a multiple of its own pace or as fast as possible.

Rules: each item has its time on the clock, counted from the beginning, so that delays
of single items never add up. On a virtual clock nothing runs in a thread, since such a
clock does not wait for threads. ``timeline.py`` says how the files are read.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, final

import attrs
import trio

from ..book import Book
from ..checks import check_flag, check_number, check_word
from ..clock import Clock
from ..errors import ConfigError
from ..logs import log_event
from ..ticks import Tick, Trade, to_utc, unchecked_tick, unchecked_trade
from .base import FeedStats, SendCapabilities, clock_of, send_capabilities_of
from .books import KeptBooks
from .captures import Lost, utc_from_ns
from .decoding import LATEST_NS
from .playback import call
from .recording_files import RecordingFile, Where, check_paths, find_recordings
from .timeline import Counts, ReadAhead, Timeline
from .venues import Codec, find_language

__all__ = ["ReplayFeed", "ns_of"]

logger = logging.getLogger("trio_ticks.feeds.replay")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SYMBOLS_SHOWN: Final = 8


@final
class _Pace:
    """When the items of a recording are due.

    Args:
        start: the moment on trio's clock at which the first of them is.
        first_ns: that one's time.
        speed: the factor on the recording's own pace.
    """

    def __init__(self, start: float, first_ns: int, speed: float) -> None:
        self._start, self._first_ns, self._speed = start, first_ns, speed

    def at(self, ns: int) -> float:
        """Return the moment at which an item of the time *ns* is due."""
        return self._start + (ns - self._first_ns) / 1e9 / self._speed

    def until(self, now: float, next_ns: int) -> float:
        """Return the time up to which items are due *now*; the one at *next_ns* is.

        Computed from *now* alone it may be less than that by a rounding error. Then no
        item would be taken, no time would pass, and on a virtual clock the loop would
        never end.
        """
        if self._speed == math.inf:
            return math.inf
        ns = (now - self._start) * self._speed * 1e9
        # A float beyond that may be infinite, which is no integer.
        return math.inf if ns >= LATEST_NS else max(self._first_ns + int(ns), next_ns)


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

    Several files are merged by these times, also of different venues. A file whose name
    differs from that of an earlier one in its digits only goes on where that has ended,
    with the same codec.

    The lag that the pipeline measures is on the recording's own clock: an item is as
    old as the market is ahead of it, in seconds of this run, whatever holds it back.
    With ``speed=math.inf`` the market has no pace, so no lag is measured.

    The files are read ahead in a thread, which only reads; they are decoded in the
    event loop when their time has come, as on a live connection. On a virtual clock
    they are read in the event loop too, since such a clock does not wait for threads;
    the pipeline's wall time then begins with the recording, so that replays are exact.

    :func:`~trio_ticks.replaying` is true in the handlers.

    ``stats.messages`` counts the lines read, ``malformed`` those that are no valid
    message or have no time, ``ignored`` those without market data that is asked for,
    ``refused`` the subscriptions that the venue had refused.

    Args:
        path: the recording, compressed or not; a list of recordings; or a folder, whose
            files are played, at any depth. Of several files, one that is no recording
            is left out and logged.
        speed: the factor on the recording's own pace; ``math.inf`` is as fast as the
            pipeline takes the items: unless the pipeline is given an overflow strategy,
            its channel blocks, and no item is dropped for want of room.
        timestamps: ``"original"`` keeps the timestamps that items had live: the
            venue's, or where it gives none (as for Binance's quotes) the time at which
            the recorder received them. ``"now"`` stamps each item with the time at
            which it is due, as if it were live, so that items held back by a full
            channel grow old: for workers of a broker, which know nothing of the
            recording's clock. With ``speed=math.inf`` that is the time at which the
            item is sent.
        symbols: only items of these are sent; ``None``: of all.
        venue: whose messages they are: a name, or a codec class; ``None``: it is found
            from the first lines of each file.
        channels: the channels to play; ``None``: the venue's default ones (of Binance
            the quotes), ``"all"``: all that the codec knows.
        books: keep the order books in the feed: book updates stay in it (counted as
            ``booked``), and a tick is sent when the best bid or ask has changed. The
            books are in the attribute ``books``, by symbol. For recordings of one
            venue.
        start: play from the first item at this time on: a datetime (a naive one is in
            UTC), or text of ISO 8601. What lies before is decoded, so that books and
            volumes are right, but not sent.
        end: play up to this time, and nothing that is not before it.

    Raises:
        ConfigError: *speed* is not a positive number, *timestamps*, *venue* or
            *channels* is unknown, *start* or *end* is no time or *end* is not after
            *start*, or there is no such file.
    """

    batch = 512
    """The most items sent to the channel in one call."""

    replays = True
    """What it sends is of the past: :func:`~trio_ticks.replaying` says so."""

    def __init__(
        self,
        path: Where,
        speed: float = 1.0,
        *,
        timestamps: Literal["original", "now"] = "original",
        symbols: Collection[str] | None = None,
        venue: str | type[Codec] | None = None,
        channels: Iterable[str] | str | None = None,
        books: bool = False,
        start: datetime | str | None = None,
        end: datetime | str | None = None,
    ) -> None:
        check_number("speed", speed, above=0.0, infinite=True, also=", or math.inf")
        check_word("timestamps", timestamps, ("original", "now"))
        check_flag("books", books)
        if isinstance(symbols, str):
            raise ConfigError(f"symbols must be a list of symbols: write [{symbols!r}]")
        self.paths: Final[tuple[Path, ...]] = check_paths(path)
        self.speed: Final = speed
        self.timestamps: Final = timestamps
        self.symbols: Final = None if symbols is None else frozenset(symbols)
        self._channels: Final = (
            channels if channels is None or isinstance(channels, str) else tuple(channels)
        )
        self._venue: Final = venue
        self.venue = None if venue is None else find_language(venue, self._channels).name
        """The venue's name (of several, with commas); ``None`` until it is found."""
        self._start_ns: Final = ns_of("start", start)
        self._end_ns: Final = ns_of("end", end)
        if None not in (start, end) and self._last_ns < (self._start_ns or 0):
            raise ConfigError(f"end must be after start, got {start} to {end}")
        self.stats = FeedStats()
        self._keeps_books: Final = books
        self._kept: KeptBooks | None = None
        self._now_ns: int | None = None
        self._first_ns = 0
        self._timeline: Timeline | None = None

    @property
    def books(self) -> Mapping[str, Book]:
        """The books that the feed keeps, by symbol; none without ``books=True``."""
        return {} if self._kept is None else self._kept.books

    @property
    def market_time(self) -> datetime | None:
        """The recording's time of the item sent last; ``None``: none was sent."""
        return None if self._now_ns is None else utc_from_ns(self._now_ns)

    @property
    def share(self) -> float:
        """How much of the recording was played, from 0 to 1: by bytes, or by time.

        By time if an *end* was given.
        """
        if self._timeline is None:
            return 0.0
        if self._end_ns is None or self._timeline.ended:
            return self._timeline.share
        span_ns = max(1, self._end_ns - self._first_ns)
        return min(1.0, ((self._now_ns or self._first_ns) - self._first_ns) / span_ns)

    def __repr__(self) -> str:
        shown = [str(path) for path in self.paths]
        return f"ReplayFeed({shown if len(shown) > 1 else shown[0]!r}, speed={self.speed!r})"

    @property
    def waits_for_room(self) -> bool:
        """Whether the pipeline's channel blocks by default: with ``speed=math.inf``."""
        return self.speed == math.inf

    async def run(self, send: Any, /) -> None:
        """Send the items of the recording into *send*, until its end.

        Raises:
            ConfigError: a file cannot be read, or is not a recording that can be
                played; or *channels* names one that its venue does not have; or *books*
                are to be kept of several venues.

        Cancellation: ends the replay. *send* accounts for the items that it has taken;
        the rest of the recording has not been sent.
        """
        clock = clock_of(send)
        in_thread = not clock.is_virtual
        files = await call(self._find, in_thread=in_thread)
        raised: Exception | None = None
        with Timeline(files, self.symbols) as timeline:
            self._timeline = timeline
            ahead = ReadAhead(timeline, in_thread=in_thread)
            self.stats.connected = True
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ahead.run)
                    try:
                        await self._play(send, clock, timeline, ahead)
                    except Exception as error:
                        # The nursery would put it into a group.
                        raised = error
                    nursery.cancel_scope.cancel()
            finally:
                self.stats.connected = False
        if raised is not None:
            raise raised
        if self._now_ns is None:
            _say_nothing_came(files, self.symbols, self._start_ns, self._end_ns)

    def _find(self) -> list[RecordingFile]:
        files = find_recordings(self.paths, self._venue, self._channels)
        languages = {file.language.name: file.language for file in files}
        self.venue = ", ".join(sorted(languages))
        if self._keeps_books:
            if len(languages) > 1:
                raise ConfigError(
                    f"books=True is for the recordings of one venue, and these are of {self.venue}:"
                    " play them by a feed each, or say venue="
                )
            (language,) = languages.values()
            self._kept = KeptBooks(self.stats, language.new_book_checksum)
        return files

    async def _play(self, send: Any, clock: Clock, timeline: Timeline, ahead: ReadAhead) -> None:
        to = send_capabilities_of(send)
        counted = await self._skip(timeline, ahead)
        first_ns = await self._next(timeline, ahead)
        if first_ns is None:
            self._count(timeline, counted)
            return
        self._first_ns = first_ns
        clock.begin_at(first_ns / 1e9)
        clock.play(first_ns / 1e9 if self.timestamps == "original" else None, self.speed)
        pace = _Pace(clock.now(), first_ns, self.speed)
        while (next_ns := await self._next(timeline, ahead)) is not None:
            now, due_at = clock.now(), pace.at(next_ns)
            if due_at > now:
                await trio.sleep_until(due_at)
                continue
            due = timeline.take(min(pace.until(now, next_ns), self._last_ns), self.batch)
            counted = self._count(timeline, counted)
            ahead.stir()
            self._now_ns = due[-1][0]
            await self._send(send, to, due, clock, pace)
        self._count(timeline, counted)

    @property
    def _last_ns(self) -> float:
        return math.inf if self._end_ns is None else self._end_ns - 1

    async def _skip(self, timeline: Timeline, ahead: ReadAhead) -> Counts:
        """Take in what lies before the start, without sending it; count its lines."""
        counted: Counts = (0, 0, 0, 0)
        if self._start_ns is None:
            return counted
        while (next_ns := await self._next(timeline, ahead)) is not None:
            if next_ns >= self._start_ns:
                break
            for _, item in timeline.take(self._start_ns - 1, self.batch):
                self._take_in(item)
            counted = self._count(timeline, counted)
            ahead.stir()
            await trio.lowlevel.checkpoint()
        return counted

    async def _next(self, timeline: Timeline, ahead: ReadAhead) -> int | None:
        """Return the time of the next item, once it was read; ``None``: no more."""
        while True:
            next_ns = timeline.next_ns()
            if next_ns is not None:
                return next_ns if next_ns <= self._last_ns else None
            if timeline.ended:
                return None
            await ahead.fill()

    def _count(self, timeline: Timeline, before: Counts) -> Counts:
        """Count what has become of lines since *before*; return how it is now."""
        counts, stats = timeline.counts, self.stats
        stats.messages += counts[0] - before[0]
        stats.malformed += counts[1] - before[1]
        stats.ignored += counts[2] - before[2]
        stats.refused += counts[3] - before[3]
        return counts

    async def _send(
        self,
        send: Any,
        to: SendCapabilities,
        due: Sequence[tuple[int, Any]],
        clock: Clock,
        pace: _Pace,
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
                items += [_stamped(each, now or clock.utc_at(pace.at(at))) for each in found]
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


def _say_nothing_came(
    files: Sequence[RecordingFile],
    symbols: Collection[str] | None,
    start_ns: int | None,
    end_ns: int | None,
) -> None:
    """Log why no item came: a mistake in what is asked for looks like quiet."""
    asked = [f"of {_listed(symbols)}"] if symbols is not None else []
    for word, ns in (("from", start_ns), ("before", end_ns)):
        if ns is not None:
            asked.append(f"{word} {utc_from_ns(ns):%Y-%m-%d %H:%M:%S}")
    begin = utc_from_ns(files[0].first_ns)
    there = _listed({symbol for file in files for symbol in file.symbols})
    log_event(
        logger,
        logging.WARNING,
        "replay.nothing",
        "nothing was played: there is no item %s; the recording begins at %s UTC, with %s",
        " ".join(asked) or "in it",
        begin.strftime("%Y-%m-%d %H:%M:%S"),
        there,
        begin=begin.isoformat(),
        symbols=there,
    )


def _listed(symbols: Collection[str]) -> str:
    """Return some of *symbols* as text."""
    shown = ", ".join(sorted(symbols)[:_SYMBOLS_SHOWN])
    return f"{shown} and others" if len(symbols) > _SYMBOLS_SHOWN else shown or "no symbol"


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


def ns_of(name: str, moment: datetime | str | None) -> int | None:
    """Return *moment* in nanoseconds since 1970; ``None`` for ``None``.

    Args:
        name: of the setting, for the error.
        moment: a datetime (a naive one is in UTC), or text of ISO 8601.

    Raises:
        ConfigError: it is neither.
    """
    if moment is None:
        return None
    try:
        when = to_utc(datetime.fromisoformat(moment) if isinstance(moment, str) else moment)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} must be a datetime or text such as 2026-03-02T14:30:00Z, got {moment!r}"
        ) from error
    return (when - _EPOCH) // timedelta(microseconds=1) * 1000
