"""The feed that asks again and again, at a steady pace.

Rules: what the user's function raises is no reason to end, unless it says so or nothing
has ever come. No log line or error shows a query string or the API key.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Unpack, final

import trio

from ...checks import check_callable, check_seconds, check_word
from ...errors import ConfigError
from ...logs import Redactor
from ..base import FeedStats
from ..codec_context import Reports
from ..reports import BadMessages
from ..symbols import check_name, check_symbols
from .core import Fetch, PollingCore, Source
from .options import PollingKeywords, PollingOptions
from .running import PollRun
from .tickdb import tickdb_source

__all__ = ["PollingFeed"]

logger = logging.getLogger("trio_ticks.feeds.polling")


@final
class PollingFeed:
    """Market data from an async function that is asked again and again.

    The function is called at fixed moments: the beginning plus n times *interval*. A
    slow answer moves no later call. Two calls never overlap: a moment that comes while
    a call lasts, or while a full channel keeps the feed waiting, is left out and
    counted (``stats.skipped_polls``).

    What it returns is an item (:class:`Tick`, :class:`Trade`, :class:`BookUpdate`,
    :class:`Bar`, or any object with a ``symbol`` and an aware ``timestamp``), an
    iterable of items, or ``None``. Anything else in an answer is counted as malformed
    and costs nothing that is good. Unless ``newer_only=False``, what an earlier answer
    has said already is left out.

    A call that raises, or takes longer than ``timeout``, has failed. Then the strategy
    is told that the feed is lost (``on_feed``), and the feed waits a random part of
    1 s, 2 s, 4 s ... 60 s before it asks again. If what was raised has an attribute
    ``retry_after_s``, as :class:`RestError` has, or a ``response`` with that header, as
    the errors of httpx have, it waits so long at least. With the next good answer the
    feed is back, and each symbol has a gap before its next item.

    A failure ends the feed if it is a :class:`FeedAuthError`; if credentials were
    refused for 60 s; after ``give_up_after`` seconds without a good answer; and, as
    long as no answer was ever good, if a retry cannot mend it: an HTTP status such as
    404 (an attribute ``status`` or ``response.status_code``), or an attribute
    ``permanent`` that is true.

    With ``venue="tickdb"`` in place of *fetch* the feed asks TickDB for ``quote``,
    ``ticker`` or ``depth``, which become what the same channels of a
    :class:`WebSocketFeed` become. Tickers come for 50 symbols in one request, order
    books in one request each. A symbol that the venue does not know is told as refused
    and not asked for again. Needs the extra ``rest``.

    Args:
        fetch: an async function without arguments. It is called in the event loop, and
            cancelled when its time is up.
        interval: seconds from one call to the next.
        symbols: the symbols that are wanted: a list, or a mapping from the names in the
            answers to yours. Items of other symbols are left out, and counted as
            ``unasked``. Without it items of all symbols are sent; a venue needs them.
        venue: ``"tickdb"``, in place of *fetch*.
        api_key: of the venue; sent in a header.
        channels: of the venue: ``"quote"`` unless given.
        url: the address of the venue's REST interface, in place of its own.
        requests_per_minute: how many requests the venue takes in any 60 s, by your
            plan; ``None``: not known, and no request is held back.
        name: by which the feed is told apart in its events; that of *fetch* unless
            given.
        options: the fields of :class:`PollingOptions`.

    Raises:
        ConfigError: an argument makes no sense, more requests would be made than the
            venue takes, or the extra is missing.
    """

    def __init__(
        self,
        fetch: Fetch | None = None,
        interval: float = 1.0,
        *,
        symbols: Iterable[str] | Mapping[str, str] = (),
        venue: str | None = None,
        api_key: str | None = None,
        channels: Iterable[str] | str | None = None,
        url: str | None = None,
        requests_per_minute: int | None = None,
        name: str | None = None,
        **options: Unpack[PollingKeywords],
    ) -> None:
        check_seconds("interval", interval, positive=True)
        names = check_symbols(symbols)
        for_venue = {
            "api_key": api_key,
            "channels": channels,
            "url": url,
            "requests_per_minute": requests_per_minute,
        }
        if venue is None:
            source = _source_of(fetch, for_venue)
        elif fetch is not None:
            raise ConfigError("give either fetch or venue")
        else:
            check_word("venue", venue, ("tickdb",))
            source = tickdb_source(names, interval, **for_venue)
        redactor = Redactor(() if api_key is None else (api_key,))
        usual = venue or source.asked
        self.is_named: Final = name is not None
        """Whether the user has given the name."""
        self._core = PollingCore(
            name=usual if name is None else check_name(name),
            asked=source.asked,
            interval=float(interval),
            open_fetch=source.open_fetch,
            options=PollingOptions(**options),
            names=names,
            channels=source.channels,
            url=source.url,
            stats=FeedStats(),
            bad=BadMessages(logger, redactor, trio.current_time),
            redactor=redactor,
            logger=logger,
        )
        self._is_running = False

    @property
    def name(self) -> str:
        """The name that the feed's events carry."""
        return self._core.name

    def use_name(self, name: str) -> None:
        """Take *name* for a feed that was given none, where it has to be unique."""
        self._core.name = name

    @property
    def interval(self) -> float:
        """Seconds from one call to the next."""
        return self._core.interval

    @property
    def options(self) -> PollingOptions:
        """The settings that most users leave alone."""
        return self._core.options

    @property
    def stats(self) -> FeedStats:
        """The counts of this feed, over all its runs.

        ``messages`` are answers, ``connect_failures`` requests that failed,
        ``reconnects`` how often the feed was back after that.
        """
        return self._core.stats

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that are wanted, by your names; none: all are."""
        return tuple(self._core.names.values())

    @property
    def connected(self) -> bool:
        """Whether the last request was answered, and new data comes."""
        return self.stats.connected

    def suspend(self) -> None:
        """Ask nothing, and expect nothing, until :meth:`resume`.

        A call in progress is cancelled. Called in the event loop, by
        ``pipeline.pause(feed="unsubscribe")``. Idempotent.
        """
        self._core.rests.begin()

    def resume(self) -> None:
        """Ask again, at once and then in the old pace. Each symbol has a gap.

        It asks no sooner than *interval* after the call before the rest. Idempotent.
        """
        self._core.rests.end()

    def __repr__(self) -> str:
        core = self._core
        return (
            f"<PollingFeed {core.asked} every {core.interval:g} s"
            f" symbols={len(core.names) or 'all'} connected={self.connected}>"
        )

    async def run(self, send: Any, /) -> None:
        """Push market data into *send* until cancelled or until no retry can help.

        Raises:
            FeedAuthError: the credentials are refused.
            FeedBrokenError: nobody answers, and trying again will not help.
            QueueFullError, trio.BrokenResourceError: from *send*, as they are.
            trio.BusyResourceError: this feed is running already.

        Cancellation: cancels the call in progress. Items of earlier calls have been
        handed to *send*, which accounts for them.
        """
        if self._is_running:
            raise trio.BusyResourceError("this feed is running already")
        self._is_running = True
        try:
            await PollRun(self._core, send).run()
        finally:
            self._is_running = False
            stats = self.stats
            stats.connected = False
            stats.silent_symbols, stats.silent_names = 0, ()
            self._core.bad.flush()


def _source_of(fetch: Any, for_venue: Mapping[str, object]) -> Source:
    """Return the user's function as a source.

    Args:
        fetch: the function.
        for_venue: the settings that make sense only without one.
    """
    check_callable("fetch", fetch, shown="an async function without arguments")
    given = [name for name, value in for_venue.items() if value is not None]
    if given:
        raise ConfigError(f"{given[0]} is for a venue: give venue= instead of fetch")

    @asynccontextmanager
    async def open_fetch(_reports: Reports) -> AsyncIterator[Fetch]:
        yield fetch

    return Source(asked=_name_of(fetch), open_fetch=open_fetch)


def _name_of(fetch: object) -> str:
    """Return a name of *fetch* for people, of at most 64 printable characters."""
    while isinstance(fetch, functools.partial):
        fetch = fetch.func
    name = getattr(fetch, "__name__", None) or type(fetch).__name__
    return name[:64] if name.isprintable() else "fetch"
