"""``klines``: the bars of a range of time, one by one, over REST.

Rules: memory holds a page or a chunk of bars, never the whole range. Between two pages
nothing is open, unless the iterator is used in ``async with``: who stops in the middle
leaves nothing behind.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import Any, Final, final
from urllib.parse import urlsplit

import attrs
import trio

from ..checks import check_callable, check_flag, check_instance, check_text, check_word
from ..clock import Clock, system_utc
from ..errors import ConfigError, RestError
from ..rest.client import RestClient
from ..rest.venues import open_venue
from ..ticks import Bar, is_quantity, to_utc
from .cache import Cache, Series, open_cache
from .intervals import Interval, find_interval, from_ms, to_ms
from .paging import Pages, Row, StrangeRangeError
from .venues import HISTORIES, History, Wanted

__all__ = ["Bars", "Progress", "klines"]

_SETTLED_MS: Final = 5_000
"""A bar counts as closed so long after its end: clocks differ, trades come late."""
_OVER_MS: Final = 60_000
"""A chunk is kept on disk so long after its end."""
_EMPTY_MS: Final = 86_400_000
"""An empty chunk is kept so long after its end: the venue may have had trouble."""
_TURN: Final = 256
"""After so many bars without a wait, other tasks have a turn."""


@final
@attrs.frozen(kw_only=True)
class Progress:
    """How far the bars of a range have come."""

    fraction: float
    """The part of the range that is complete, from 0 to 1."""
    until: datetime
    """All bars that open before this are known."""
    bars: int
    """How many were read so far."""
    cached: int
    """How many of them came from the cache."""
    requests: int
    """How many requests were sent, repeated ones included."""


def klines(
    symbol: str,
    interval: str,
    start: datetime,
    end: datetime | None = None,
    *,
    venue: str = "tickdb",
    api_key: str | None = None,
    url: str | None = None,
    requests_per_minute: int | None = 30,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[Progress], None] | None = None,
    type: str | None = None,
    adjust: str | None = None,
    forming: bool = False,
    clock: Clock | None = None,
    **settings: Any,
) -> Bars:
    """Return the bars of *symbol* that open from *start* until before *end*.

    Example::

        bars = tt.history.klines("BTCUSDT", "1m", start, end, venue="binance")
        async for bar in bars:
            ...

    They come oldest first, each once, and only those that are closed: the bar that is
    still forming is left out, unless you ask for it. Pages of up to 1,000 bars are
    fetched while they are needed. Needs the extra ``rest``.

    Args:
        symbol: as the venue writes it.
        interval: the length of a bar: ``"1m"``, ``"1h"``, ``"1d"``, ``"1M"`` (a month);
            each venue has its own.
        start: the earliest open; a naive datetime is taken to be in UTC.
        end: opens are before this; ``None``: the present.
        venue: ``"tickdb"`` or ``"binance"``.
        api_key: TickDB needs one, and for a range of time more than the free plan.
        url: another address of the venue.
        requests_per_minute: how many requests may be sent in any 60 s; TickDB's plans
            allow 30 and more. ``None``: no limit.
        cache: a folder for bars that will not change any more. Bars that are there are
            not fetched again. Prices that are adjusted (*adjust*) do change, and are
            never kept.
        progress: is called after each page with a :class:`Progress`.
        type: TickDB only: the kind of instrument, where several have the same symbol:
            ``"stock"``, ``"crypto"``, ``"forex"``, ``"futures"`` or ``"indices"``.
        adjust: TickDB only: ``"forward"`` or ``"backward"``, for splits and dividends.
        forming: whether to return the bar that is not over yet; its ``closed`` is
            False. A bar counts as closed 5 s after its end.
        clock: the time; the system's unless given.
        settings: further arguments of :class:`~trio_ticks.rest.RestClient`, such as
            ``timeout`` and ``proxy``.

    Raises:
        ConfigError: a setting is wrong (the message lists the intervals that there
            are), or httpx is not installed.
    """
    check_text("symbol", symbol)
    check_word("venue", venue, tuple(HISTORIES))
    history = HISTORIES[venue]
    length = find_interval(interval, history.intervals, venue)
    check_flag("forming", forming)
    check_callable("progress", progress, "a function of a Progress", or_none=True)
    for name, value in (("type", type), ("adjust", adjust)):
        if value is not None:
            check_text(name, value)
            if name not in history.choices:
                raise ConfigError(f"{venue} does not know {name}=")
    start_ms, end_ms = _range(start, end, clock)
    clock = clock or Clock()
    if url is not None:
        check_text("url", url)
    client = open_venue(
        venue,
        url=url,
        api_key=api_key,
        requests_per_minute=requests_per_minute,
        clock=clock,
        **settings,
    )
    kept: Cache | None = None
    if cache is not None and adjust in (None, "none"):
        check_instance("cache", cache, str | os.PathLike, "the path of a folder")
        parts = urlsplit(client.url)
        series = Series(
            venue=venue,
            address=parts.netloc + parts.path,
            symbol=symbol,
            type=type or "",
            interval=interval,
        )
        kept = open_cache(cache, series, length)
    wanted = Wanted(symbol=symbol, interval=interval, type=type, adjust=adjust)
    source = Source(client, history, wanted)
    return Bars(source, length, (start_ms, end_ms), clock, kept, progress=progress, forming=forming)


def _range(start: object, end: object, clock: Clock | None) -> tuple[int, int]:
    check_instance("start", start, datetime, "a datetime")
    check_instance("end", end, datetime, "a datetime", or_none=True)
    assert isinstance(start, datetime)
    try:
        start_ms = to_ms(to_utc(start))
        until = to_utc(end) if isinstance(end, datetime) else _present(clock)
    except ValueError as error:
        raise ConfigError(f"start and end: {error}") from None
    if start_ms < 0:
        raise ConfigError(f"start must not be before 1970, got {start}")
    if start_ms >= to_ms(until):
        raise ConfigError(f"start must be before end: {start} is not before {until}")
    return start_ms, to_ms(until)


def _present(clock: Clock | None) -> datetime:
    if clock is None and not trio.lowlevel.in_trio_run():
        return system_utc()
    return (clock or Clock()).utc()


@final
class Source:
    """Fetches the pages of one series.

    Args:
        client: of the venue.
        history: how the venue is asked.
        wanted: which bars.
    """

    def __init__(self, client: RestClient, history: History, wanted: Wanted) -> None:
        self.client = client
        self.limit = history.limit
        self.symbol = wanted.symbol
        self._history = history
        self._wanted = wanted

    async def fetch(self, first_ms: int, last_ms: int) -> list[Row]:
        """Return the bars of a window."""
        history = self._history
        params = history.params(self._wanted, first_ms, last_ms, history.limit)
        answer = await self.client.get(history.path, params, type=history.answer)
        try:
            rows = history.rows(answer)
        except (ValueError, TypeError, LookupError) as error:
            raise self.failure(f"a bar makes no sense: {error}") from None
        for row in rows:
            # Before it gets into the cache, out of which it would come each time.
            if not math.isfinite(sum(row[1:5])) or not is_quantity(row.volume):
                raise self.failure(f"a bar makes no sense: {row}")
        return rows

    def failure(self, reason: str) -> RestError:
        """Return the error for an answer that cannot be used."""
        url = self.client.url + self._history.path
        return RestError(f"{url}: {reason}", url=url, status=200)


@final
class Bars:
    """The bars of a range: an async iterator, and an async context manager.

    Inside ``async with`` the connection is kept between pages; without it, each page
    has one of its own. It ends once; then it is empty.
    """

    def __init__(
        self,
        source: Source,
        interval: Interval,
        span_ms: tuple[int, int],
        clock: Clock,
        cache: Cache | None,
        *,
        progress: Callable[[Progress], None] | None,
        forming: bool,
    ) -> None:
        self._source = source
        self._interval = interval
        self._start, self._end = span_ms
        self._clock = clock
        self._cache = cache
        self._progress = progress
        self._forming = forming
        self._ready: deque[tuple[Row, bool]] = deque()
        """Bars to return, and whether each is closed."""
        self._at = self._start
        """All bars that open before this are ready, or were returned."""
        self._pages: Pages | None = None
        self._chunk_begin: int | None = None
        """Where the chunk begins that is being fetched for the cache."""
        self._chunk: list[Row] = []
        self._stack = AsyncExitStack()
        self._entered = False
        self._closed = False
        self._turn = 0
        self._read = 0
        self._cached = 0

    async def __aenter__(self) -> Bars:
        await self._stack.enter_async_context(self._source.client)
        self._entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End; what was not returned yet is forgotten.

        Cancellation: the connection is closed at once.
        """
        self._closed = True
        self._entered = False
        self._ready.clear()
        await self._stack.aclose()

    def __aiter__(self) -> Bars:
        return self

    async def __anext__(self) -> Bar:
        """Return the next bar.

        Raises:
            FeedAuthError: the venue refuses the key, or wants one.
            UnknownSymbolError: the venue has no such symbol, or several of that name.
            RestError: another answer that cannot be used, in spite of repeats.

        Cancellation: no bar is lost; go on with the same iterator.
        """
        self._turn += 1
        if self._turn >= _TURN:
            self._turn = 0
            await trio.lowlevel.checkpoint()
        while not self._ready:
            if self._closed or (self._at >= self._end and self._pages is None):
                await trio.lowlevel.checkpoint()
                raise StopAsyncIteration
            self._turn = 0
            await self._more()
        row, closed = self._ready.popleft()
        return self._bar(row, closed=closed)

    def _bar(self, row: Row, *, closed: bool) -> Bar:
        length_s = (self._interval.end_ms(row.open_ms) - row.open_ms) / 1000
        try:
            opens = from_ms(row.open_ms)
            return Bar(self._source.symbol, opens, length_s, *row[1:], closed=closed)
        except ValueError as error:
            raise self._source.failure(f"a bar makes no sense: {error}") from None

    async def _more(self) -> None:
        """Make the next bars ready, from the cache or the venue."""
        if self._pages is None:
            self._chunk_begin = None
            if self._cache is None:
                self._pages = self._new_pages(self._at, self._end)
            elif not await self._load(self._cache):
                await self._begin_run(self._cache)
        if self._pages is not None:
            await self._fetch(self._pages)

    def _new_pages(self, start: int, end: int) -> Pages:
        return Pages(start, end, self._interval, self._source.limit)

    async def _load(self, cache: Cache) -> bool:
        """Take the next chunk from the cache; return whether it was there."""
        begin, end = cache.chunk_of(self._at)
        rows = await cache.load(begin)
        if rows is not None:
            self._cached += self._offer(rows, self._now_ms())
            self._move(end)
        return rows is not None

    async def _begin_run(self, cache: Cache) -> None:
        """Begin to fetch the chunks that the cache lacks, up to the next that it has.

        Chunks that are over are fetched as a whole, to be kept.
        """
        over = int(self._now_ms()) - _OVER_MS
        begin, end = cache.chunk_of(self._at)
        if end > over:
            self._pages = self._new_pages(self._at, self._end)
            return
        stop = await cache.next_kept(end, self._end, over)
        self._chunk_begin, self._chunk = begin, []
        self._pages = self._new_pages(begin, stop)

    async def _fetch(self, pages: Pages) -> None:
        """Fetch a page."""
        window = pages.window()
        assert window is not None
        asked_at = self._now_ms()
        rows = await self._ask(*window)
        try:
            new = pages.take(rows)
        except StrangeRangeError as error:
            raise self._source.failure(f"it answers with {error}") from None
        self._offer(new, asked_at)
        if pages.window() is None:
            self._pages = None
        self._move(pages.complete_ms)
        if self._cache is not None and self._chunk_begin is not None:
            self._chunk += new
            await self._keep(self._cache, pages.complete_ms)

    async def _keep(self, cache: Cache, complete_ms: int) -> None:
        """Write the chunks that are complete."""
        while self._chunk_begin is not None:
            begin = self._chunk_begin
            end = begin + cache.chunk_ms
            if end > complete_ms:
                return
            rows = [row for row in self._chunk if row.open_ms < end]
            self._chunk = self._chunk[len(rows) :]
            self._chunk_begin = end
            if rows or end + _EMPTY_MS <= self._now_ms():
                await cache.store(begin, rows)

    async def _ask(self, first_ms: int, last_ms: int) -> list[Row]:
        if self._entered:
            return await self._source.fetch(first_ms, last_ms)
        async with self._source.client:
            return await self._source.fetch(first_ms, last_ms)

    def _offer(self, rows: Sequence[Row], known_ms: float) -> int:
        """Make *rows* ready that are wanted; return how many.

        Args:
            rows: bars.
            known_ms: when it is known that they looked so.
        """
        count = 0
        for row in rows:
            if not self._start <= row.open_ms < self._end:
                continue
            closed = self._interval.end_ms(row.open_ms) + _SETTLED_MS <= known_ms
            if closed or self._forming:
                self._ready.append((row, closed))
                count += 1
        self._read += count
        return count

    def _move(self, until_ms: int) -> None:
        self._at = max(self._at, until_ms)
        if self._progress is not None:
            at = min(self._at, self._end)
            self._progress(
                Progress(
                    fraction=(at - self._start) / (self._end - self._start),
                    until=from_ms(at),
                    bars=self._read,
                    cached=self._cached,
                    requests=self._source.client.sent,
                )
            )

    def _now_ms(self) -> float:
        return self._clock.wall() * 1000
