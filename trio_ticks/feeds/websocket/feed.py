"""The feed over a WebSocket: it connects, subscribes, decodes, and reconnects.

Rules: a failure that no retry can mend ends ``run`` with one typed error; every other
failure is retried, with growing waits until a connection has lived. No log line, error
or repr shows the API key or a query string.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from os import PathLike
from typing import Any, Final, Unpack, final

import trio

from ...book import Book
from ...checks import check_number
from ...errors import ConfigError
from ...failures import log_second
from ...logs import Redactor, log_event
from ..base import FeedStats
from ..reports import BadMessages
from ..symbols import check_name, check_symbols
from ..venues import Codec, Language, find_language
from .addresses import Access, Addresses
from .book_stage import books_of, new_stage, rest_client_maker
from .connect import Target
from .core import WebSocketCore, record_to
from .endpoint import EndpointFunction
from .options import WebSocketKeywords, WebSocketOptions
from .running import FeedRun
from .session import SessionSettings
from .switchboard import RateSwitchboard, Switchboard
from .throttling import SourceThrottle
from .wishes import SymbolWishes

__all__ = ["WebSocketFeed"]

logger = logging.getLogger("trio_ticks.feeds.websocket")

_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def _all_symbols(language: Language) -> dict[str, str]:
    """Return what stands for all symbols of the venue, for a user who names none."""
    if language.wildcard is None:
        raise ConfigError("symbols must be a list of at least one symbol")
    return {language.wildcard: language.wildcard}


def _target(
    url: object, endpoint: object, language: Language, api_key: str | None
) -> Target | None:
    """Return where to connect to; ``None`` if *endpoint* is to say it."""
    if endpoint is not None:
        if url is not None:
            raise ConfigError("give either url or endpoint")
        return None
    if url is None and language.url is None:
        raise ConfigError(
            f"the venue {language.name!r} has no address of its own: give a url or an endpoint"
        )
    target = Target.parse(language.url if url is None else url)
    if language.key_parameter is None or api_key is None:
        return target
    return target.with_parameter(language.key_parameter, api_key)


def _check_age(max_connection_age: float | None, language: Language) -> None:
    if max_connection_age is not None and not language.hands_over:
        raise ConfigError(
            f"max_connection_age is not for the venue {language.name!r}: its messages have no"
            " numbers by which those of two connections could be compared"
        )


def _check(options: WebSocketOptions, language: Language, api_key: object) -> None:
    _check_age(options.max_connection_age, language)
    _check_key(api_key)


def _check_key(api_key: object) -> None:
    # The message must not show the value: it may be the real key with a typing error.
    if api_key is not None and not (isinstance(api_key, str) and _HEADER_VALUE.fullmatch(api_key)):
        raise ConfigError(
            "api_key must be a str of printable ASCII without spaces around it, or None"
        )


def _check_thread(run: FeedRun | None, method: str) -> None:
    """Raise unless *method* of a feed is called in the event loop of its *run*.

    Raises:
        RuntimeError: it is not.
    """
    if run is None:
        return
    if not trio.lowlevel.in_trio_run() or trio.lowlevel.current_trio_token() is not run.token:
        raise RuntimeError(
            f"call feed.{method} in the event loop that the feed runs in; from a thread:"
            f" trio.from_thread.run_sync(feed.{method}, ...)"
        )


def _new_switches(
    language: Language, names: Mapping[str, str]
) -> tuple[Switchboard, SourceThrottle]:
    """Return what passes requests on to the connections, and what throttles there.

    Args:
        language: of the venue.
        names: the user's, by the venue's.
    """
    board = RateSwitchboard() if language.asks_for_rate else Switchboard()
    board.spelling = {name: symbol for symbol, name in names.items()}
    return board, SourceThrottle(board, list(names.values()), pauses=language.unsubscribes)


def _new_wishes(
    language: Language, names: Mapping[str, str], act: Callable[[], None]
) -> tuple[SymbolWishes, Callable[[], None] | None, Callable[[], None]]:
    """Return who knows what is wanted, and what makes the feed silent, and ends that.

    The second is ``None`` where the venue has no request for it, or all its symbols are
    subscribed to.
    """
    wishes = SymbolWishes(names, act)
    takes_all = language.wildcard is not None and language.wildcard in names
    can = language.unsubscribes and not takes_all
    return wishes, wishes.suspend if can else None, wishes.resume


def _snapshot_request(board: Switchboard, language: Language) -> Callable[[str], None] | None:
    return board.request_snapshot if language.has_snapshots else None


@final
class WebSocketFeed:
    """Ticks from a venue's WebSocket.

    The feed retries after a lost or refused connection, a time-out, and the HTTP
    statuses 408, 425, 429 and 5xx, for ever or for ``give_up_after`` seconds. It waits
    a random part of 1 s, 2 s, 4 s ... 60 s, or as long as ``Retry-After`` asks for;
    after a connection that has lived for 60 s, the waits start at 1 s again. Until
    market data has come, a failure that a retry cannot mend ends :meth:`run`: any other
    HTTP status, a certificate that does not verify, a host that does not exist.
    Afterwards these are retried too, but credentials refused for 60 s end it. With
    ``reconnect=False`` :meth:`run` returns when the venue closes with code 1000 or
    1001.

    Args:
        url: ``ws://`` or ``wss://``. ``wss://`` verifies the server's certificate and
            host name. By default the venue's own address.
        symbols: the symbols to subscribe to: a list, or a mapping from the venue's
            names to yours. A venue with a wildcard needs none: then it sends all.
        api_key: sent in the header ``X-API-Key``, or where the venue wants it (TickDB:
            in the URL's query string).
        venue: the venue's language: a name that is known (``"tickdb"``, ``"binance"``),
            or a :class:`Codec` class of your own.
        channels: the venue's channels to subscribe to; ``"all"``, or its usual ones
            unless given.
        name: by which the feed is told apart in its events; its venue's name
            unless given, with a number where several feeds need one.
        endpoint: in place of *url*, an async function without arguments that is asked
            for an :class:`Endpoint` before each connection. What it raises counts as a
            failed attempt to connect; a :class:`FeedAuthError` ends the feed. It may
            take ``endpoint_timeout`` seconds.
        headers: sent with the handshake. Without a ``User-Agent`` among them the feed
            sends ``trio-ticks/<version>``.
        proxy: ``http://[user:password@]host:port``: an HTTP proxy that connects to the
            venue (``CONNECT``). With ``https://`` the feed speaks TLS with the proxy
            itself, too.
        trust_env: take the proxy from the environment: ``HTTPS_PROXY`` for ``wss://``,
            ``http_proxy`` for ``ws://``, ``ALL_PROXY`` for both, none for the hosts in
            ``NO_PROXY``.
        ca: a PEM file of the certificate authorities to trust in place of the system's.
        ssl_context: in place of *ca*, the whole TLS configuration.
        options: the fields of :class:`WebSocketOptions`.

    Raises:
        ConfigError: an argument makes no sense; the message never repeats the URL's
            query string, the key, a header's value or the proxy's password.
    """

    def __init__(
        self,
        url: str | None = None,
        symbols: Iterable[str] | Mapping[str, str] = (),
        api_key: str | None = None,
        venue: str | type[Codec] = "flat",
        *,
        channels: Iterable[str] | str | None = None,
        name: str | None = None,
        endpoint: EndpointFunction | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        ca: str | PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **options: Unpack[WebSocketKeywords],
    ) -> None:
        language = find_language(venue, channels)
        names = check_symbols(symbols) or _all_symbols(language)
        self.venue: Final = language.name
        self.options: Final = WebSocketOptions(**options)
        _check(self.options, language, api_key)
        access = Access(
            target=_target(url, endpoint, language, api_key),
            endpoint=endpoint,
            api_key=api_key,
            key_parameter=language.key_parameter,
            headers=headers,
            proxy=proxy,
            trust_env=trust_env,
            ca=ca,
            ssl_context=ssl_context,
        )
        redactor, stats = Redactor(access.secrets), FeedStats()
        self._addresses = Addresses(access, self.options, language, redactor)
        stage = new_stage(language, stats, keeps=self.options.books)
        self.books: Final[Mapping[str, Book]] = books_of(stage)
        """The books that the feed keeps, by your names; none without ``books=True``."""
        self._core = WebSocketCore(
            name=language.name if name is None else check_name(name),
            url=self._addresses.shown,
            language=language,
            options=self.options,
            names=names,
            stats=stats,
            books=stage,
            new_rest_client=rest_client_maker(access, self.options, language, proxy=proxy),
            bad=BadMessages(logger, redactor, trio.current_time),
            redactor=redactor,
            auth_advice=access.auth_advice,
            new_settings=self._new_settings,
        )
        self.is_named: Final = name is not None
        """Whether the user has given the name."""
        self.record_to: Final = partial(record_to, self._core)
        self._board, self._throttle = _new_switches(language, names)
        self.request_snapshot: Final = _snapshot_request(self._board, language)
        """Asks for a book's snapshot, by your name; ``None``: there is no request."""
        self._run: FeedRun | None = None
        self._wishes, self.suspend, self.resume = _new_wishes(language, names, self._fulfil)

    async def _new_settings(self) -> SessionSettings:
        """Return the settings of the next connection."""
        try:
            return await self._addresses.next_settings(connections=len(self._board.links))
        finally:
            self._core.url = self._addresses.shown

    @property
    def name(self) -> str:
        """The name that the feed's events carry."""
        return self._core.name

    def use_name(self, name: str) -> None:
        """Take *name* for a feed that was given none, where it has to be unique."""
        self._core.name = name

    @property
    def stats(self) -> FeedStats:
        """The counts of this feed, over all its runs."""
        return self._core.stats

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols subscribed to, by your names; see :meth:`subscribe`."""
        return tuple(self._wishes.names.values())

    def subscribe(self, symbols: Iterable[str] | Mapping[str, str]) -> None:
        """Subscribe to more *symbols*, without a reconnect. Returns at once.

        While there is no connection it is kept for the next one. Safe in any thread.

        Symbols that are subscribed to already are left as they are. The strategy is
        told of a gap of a symbol that was unsubscribed from before. Before :meth:`run`
        it adds to the symbols to begin with.

        Args:
            symbols: as for the feed: a list, or a mapping from the venue's names to
                yours.

        Raises:
            ConfigError: they are no symbols, or a name is taken by another symbol.
        """
        self._wishes.add(symbols)

    def unsubscribe(self, symbols: Iterable[str]) -> None:
        """Unsubscribe from *symbols*, without a reconnect. Returns at once.

        Items of them that are queued already are still handled; what the venue sends
        later is dropped and counted as ``unasked``. While there is no connection it is
        kept for the next one. Safe in any thread.

        Args:
            symbols: by your names; those not subscribed to are left out.

        Raises:
            ConfigError: they are no symbols.
        """
        self._wishes.remove(symbols)

    def _fulfil(self) -> None:
        """Subscribe to what is wanted, and unsubscribe from what is not."""
        names, wanted = self._core.names, self._wishes.now
        gone = {symbol: name for symbol, name in names.items() if symbol not in wanted}
        new = {symbol: name for symbol, name in wanted.items() if symbol not in names}
        if self._run is not None and gone:
            self._run.unsubscribe(gone)
        for symbol in gone:
            del names[symbol]
        names.update(new)
        if self._core.tap is not None:
            if gone:
                self._core.tap.event("unsubscribed", symbols=list(gone))
            if new:
                self._core.tap.event("subscribed", symbols=new)
        if gone or new:
            self._board.spelling = {name: symbol for symbol, name in names.items()}
            self._throttle.replace_symbols(list(names.values()))
        if self._run is not None and new:
            self._run.subscribe(new)

    @property
    def url(self) -> str:
        """The URL without its query string; of an endpoint, only the host."""
        return self._core.url

    @property
    def host(self) -> str:
        """The host name of the address; of an endpoint, none before it was asked."""
        return self._addresses.host

    @property
    def connected(self) -> bool:
        """Whether the WebSocket is open now."""
        return self.stats.connected

    @property
    def reconnects(self) -> int:
        """Connections made after the first one."""
        return self.stats.reconnects

    @property
    def malformed(self) -> int:
        """Messages that made no tick because they were bad."""
        return self.stats.malformed

    @property
    def ignored(self) -> int:
        """Messages that are no market data, such as acknowledgements and heartbeats."""
        return self.stats.ignored

    def __repr__(self) -> str:
        return (
            f"<WebSocketFeed {self.url} venue={self.venue!r} symbols={len(self._core.names)}"
            f" connected={self.connected}>"
        )

    @property
    def throttle_way(self) -> str:
        """How a limit is applied: ``"request"``, ``"pause"`` or ``"read"``.

        :meth:`throttle` describes the three ways.
        """
        return self._throttle.way

    @property
    def paused_symbols(self) -> tuple[str, ...]:
        """Symbols that are unsubscribed from at the moment because of a limit."""
        return tuple(self._throttle.paused)

    def throttle(
        self, max_rate: float | None, *, priorities: Mapping[str, float] | None = None
    ) -> None:
        """Limit the feed to *max_rate* ticks a second. Returns at once.

        The feed takes the first of these ways that the venue supports:

        1. ``"request"``: ask the venue for a lower rate.
        2. ``"pause"``: unsubscribe from symbols, the least important first, and
           subscribe again as soon as the rate allows it. Each resumed symbol is
           reported as a :class:`Gap`. The most important symbol is never paused, even
           if it alone exceeds the limit.
        3. ``"read"``: delay the next read by at most 0.25 s, and never let reading fall
           more than 0.5 s behind the wire by such delays, so that the venue's pings are
           answered in time however low the limit is.

        The limit also holds on every later connection, until it is changed. Call it in
        the event loop.

        Args:
            max_rate: ticks a second; ``None`` lifts the limit.
            priorities: by symbol; the symbol with the lowest is paused first, and a
                symbol that is not listed has 0. By default the last of ``symbols`` is
                paused first.

        Raises:
            ConfigError: *max_rate* is neither a positive number nor ``None``.
            RuntimeError: called in another thread than the loop that the feed runs in.
        """
        _check_thread(self._run, "throttle")
        check_number("max_rate", max_rate, above=0.0, or_none=True)
        self._throttle.limit(max_rate, priorities)
        if self._run is not None:
            self._run.throttle_changed()

    async def run(self, send: Any, /) -> None:
        """Push ticks into *send* until cancelled or until no retry can help.

        With ``reconnect=False`` it also returns when the venue closes in good order.

        Raises:
            FeedAuthError: the venue refused the credentials (HTTP 401 or 403).
            FeedBrokenError: the venue cannot be reached, and trying again will not
                help.
            QueueFullError, trio.BrokenResourceError: from *send*, as they are.
            trio.BusyResourceError: this feed is running already.

        Cancellation: closes the connection, in a second at most. Ticks that were
        decoded have been handed to *send*, which accounts for them; bytes that lay
        unread in the socket count nowhere.
        """
        if self._run is not None:
            raise trio.BusyResourceError("this feed is running already")
        # Times of an earlier run may be those of another clock.
        self._core.bad.restart()
        self._throttle.restart(trio.current_time())
        for notice in self._core.language.notices:
            log_event(logger, logging.WARNING, "feed.notice", "%s", notice, url=self.url)

        def fail(error: Exception) -> None:
            # Of a wish for which nobody waits.
            log_second(error) if self._run is None else self._run.fail(error)

        self._wishes.begin(fail)
        self._run = FeedRun(self._core, self._board, self._throttle, send)
        try:
            await self._run.run()
        finally:
            self._run = None
            self._wishes.end()
            self._board.links = []
            self._board.restart_book = None
            self.stats.connected = False
            self.stats.silent_symbols, self.stats.silent_names = 0, ()
            self._core.bad.flush()
