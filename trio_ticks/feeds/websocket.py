"""The feed over a WebSocket: connects, subscribes, decodes, and comes back after every failure that coming back can mend.

Rules: what cannot succeed ends ``run`` with one typed error; everything else is retried, more and more slowly until data flows. No log
line, error or repr shows the API key or a query string.
"""

from __future__ import annotations

import logging
import math
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from os import PathLike
from typing import Any, Final, Unpack, final

import trio

from ..errors import ConfigError, FeedAuthError, FeedBrokenError
from ..gaps import Gap, GapReason
from ..log_limit import LogLimit
from .backoff import Backoff
from .base import FeedStats
from .connect import ConnectFailed, Target, make_ssl_context
from .options import WebSocketKeywords, WebSocketOptions
from .reports import BadMessages, Redactor, log_event
from .session import Ended, Session, SessionSettings
from .throttling import SourceThrottle
from .venues import CodecContext, find_codec

__all__ = ["WebSocketFeed"]

logger = logging.getLogger(__name__)

_ORDERLY: Final = (1000, 1001)
_TOO_BIG: Final = 1009
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def _check_symbols(symbols: object) -> tuple[str, ...]:
    if isinstance(symbols, str | bytes) or not isinstance(symbols, Iterable):
        raise ConfigError(f"symbols must be a list of symbols, not {type(symbols).__name__}")
    result = tuple(dict.fromkeys(symbols))
    if not result or not all(isinstance(symbol, str) and symbol for symbol in result):
        raise ConfigError("symbols must be a list of at least one symbol, each a str that is not empty")
    return result


def _check_key(api_key: object) -> None:
    # The message must not show what it is about.
    if api_key is not None and not (isinstance(api_key, str) and _HEADER_VALUE.fullmatch(api_key)):
        raise ConfigError("api_key must be a str of printable ASCII without spaces around it, or None")


@final
class WebSocketFeed:
    """Ticks from a venue's WebSocket.

    Lost connections, refused ones, time-outs, and the HTTP statuses 408, 425, 429 and 5xx are retried for ever, after a random part of
    1 s, 2 s, 4 s ... 60 s, or what ``Retry-After`` asks for; the waits begin anew once ticks have come. What cannot get better ends
    :meth:`run`: any other HTTP status, a certificate that does not verify, a host that is unknown after ``max_unknown_host_tries``. With
    ``reconnect=False`` it returns when the venue closes in good order.

    Args:
        url: ``ws://`` or ``wss://``. ``wss://`` verifies the server's certificate and host name.
        symbols: what to subscribe to.
        api_key: sent in the header ``X-API-Key``.
        venue: whose language is spoken, by name.
        ca: a PEM file of the certificate authorities to trust in place of the system's.
        ssl_context: in place of *ca*, the whole TLS configuration.
        options: the fields of :class:`WebSocketOptions`.

    Raises:
        ConfigError: an argument makes no sense; the message never repeats the URL's query string or the key.
    """

    def __init__(
        self,
        url: str,
        symbols: Iterable[str],
        api_key: str | None = None,
        venue: str = "flat",
        *,
        ca: str | PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **options: Unpack[WebSocketKeywords],
    ) -> None:
        self.symbols: Final = _check_symbols(symbols)
        self.venue: Final = venue
        self.options: Final = WebSocketOptions(**options)
        self.stats: Final = FeedStats()
        """What this feed has counted, over all its runs."""
        _check_key(api_key)
        new_codec = find_codec(venue)
        self._target = Target.parse(url)
        if not self._target.secure and not (ca is None and ssl_context is None):
            raise ConfigError("ca and ssl_context are for wss:// URLs; this one is ws://")
        if ssl_context is None:
            ssl_context = make_ssl_context(ca) if self._target.secure else None
        elif ca is not None or not isinstance(ssl_context, ssl.SSLContext):
            raise ConfigError("give either ca or ssl_context, and that as an ssl.SSLContext")
        self._settings = SessionSettings(
            target=self._target,
            headers=() if api_key is None else ((b"X-API-Key", api_key.encode()),),
            ssl_context=ssl_context,
            open_stream=self.options.open_stream,
            max_message_size=self.options.max_message_size,
            ping_interval=self.options.ping_interval,
            pong_timeout=self.options.pong_timeout,
            stale_after=self.options.stale_after,
            connect_timeout=self.options.connect_timeout,
        )
        self._redactor = Redactor((*self._target.secrets, *(() if api_key is None else (api_key,))))
        self._bad = BadMessages(logger, self._redactor, trio.current_time)
        self._codec = new_codec(CodecContext(stats=self.stats, bad=self._bad, redactor=self._redactor, on_answer=self._on_answer))
        self._throttle = SourceThrottle(self._codec, self.symbols)
        self._throttle_changed = trio.Event()
        self._running = False

    @property
    def url(self) -> str:
        """Where it connects to, without the query string."""
        return str(self._target)

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
        """Messages that made no tick since they were bad."""
        return self.stats.malformed

    @property
    def ignored(self) -> int:
        """Messages that made no tick and need not."""
        return self.stats.ignored

    def __repr__(self) -> str:
        return f"<WebSocketFeed {self.url} venue={self.venue!r} symbols={len(self.symbols)} connected={self.connected}>"

    @property
    def throttle_way(self) -> str:
        """How a limit reaches the venue: ``"request"``, ``"pause"`` or ``"read"``; see :meth:`throttle`."""
        return self._throttle.way

    @property
    def paused_symbols(self) -> tuple[str, ...]:
        """Symbols that are not subscribed to at the moment, for a limit's sake."""
        return tuple(self._throttle.paused)

    def throttle(self, max_rate: float | None, *, priorities: Mapping[str, float] | None = None) -> None:
        """See to it that at most *max_rate* ticks a second come, in the best way that the venue knows. Returns at once.

        The ways are a request to the venue; else to unsubscribe from symbols, the least important first, and to subscribe again as soon
        as there is room (a :class:`Gap` is told for each); else to put off reading, for a quarter of a second at a time and a second
        altogether, so that the exchange's pings are answered in time whatever is asked for. A new connection keeps to what was said last.

        Args:
            max_rate: ticks a second; ``None``: all there are.
            priorities: of symbols, the least is paused first; those not listed have 0. By default the last of ``symbols`` goes first.

        Raises:
            ConfigError: *max_rate* is neither a positive number nor ``None``.
        """
        if max_rate is not None and (isinstance(max_rate, bool) or not isinstance(max_rate, int | float) or not 0 < max_rate < math.inf):
            raise ConfigError(f"max_rate must be a positive number of ticks a second, or None, got {max_rate!r}")
        self._throttle.limit(max_rate, priorities)
        self._throttle_changed.set()

    def _on_answer(self, method: str, accepted: bool) -> None:
        self._throttle.answered(method, accepted)
        self._throttle_changed.set()

    async def run(self, send: Any, /) -> None:
        """Push ticks into *send* until cancelled, until something makes going on useless, or (``reconnect=False``) until the venue's end.

        Raises:
            FeedAuthError: the venue refused the credentials (HTTP 401 or 403).
            FeedBrokenError: the venue cannot be reached, and trying again will not help.
            QueueFullError, trio.BrokenResourceError: from *send*, as they are.
            trio.BusyResourceError: this feed is running already.

        Cancellation: closes the connection, in a second at most. Ticks that were decoded have been handed to *send*, and are accounted
        for by it; what lay unread in the socket has not been produced.
        """
        if self._running:
            raise trio.BusyResourceError("this feed is running already")
        self._running = True
        try:
            await _Run(self, send).run()
        finally:
            self._running = False
            self.stats.connected = False
            self._bad.flush()


@final
class _Run:
    """One call of :meth:`WebSocketFeed.run`: the state that begins anew with each."""

    def __init__(self, feed: WebSocketFeed, send: Any) -> None:
        self._feed = feed
        self._send = send
        self._hand_over: Callable[[Sequence[Any]], Awaitable[None] | None] = getattr(send, "deliver", send.send_many)
        """At once, if *send* is a channel's end with room: reading has a checkpoint each time."""
        self._backoff = Backoff(feed.options.backoff)
        self._log_limit = LogLimit(trio.current_time)
        self._connected_before = False
        self._lost_at = 0.0
        self._unknown_host_tries = 0
        self._opened = False
        self._tries = 0

    async def run(self) -> None:
        feed = self._feed
        while True:
            self._tries += 1
            self._opened = False
            session = Session(feed._settings, self._deliver, self._on_open, self._next_requests, getattr(self._send, "watches", None))
            try:
                ended = await session.run(feed._throttle.opening(trio.current_time()))
            finally:
                if feed.stats.connected:
                    self._lost_at = trio.current_time()
                feed.stats.connected = False
            self._count(ended)
            if ended.code in _ORDERLY and not feed.options.reconnect:
                feed._bad.flush()
                log_event(logger, logging.INFO, "feed.ended", url=feed.url, reason=self._shown(ended), code=ended.code)
                return
            error = self._verdict(ended)
            if error is not None:
                raise error from (ended.failure and ended.failure.__cause__)
            delay = self._backoff.next_delay(ended.failure and ended.failure.retry_after)
            self._log_end(ended, delay)
            await trio.sleep(delay)

    def _deliver(self, messages: list[bytes]) -> Awaitable[None] | None:
        feed = self._feed
        feed.stats.messages += len(messages)
        ticks = feed._codec.decode(messages)
        if not ticks:
            return None
        if self._tries:
            self._tries = 0
            self._backoff.reset()
        return self._deliver_throttled(ticks) if feed._throttle.armed else self._hand_over(ticks)

    async def _deliver_throttled(self, ticks: Sequence[Any]) -> None:
        began = trio.current_time()
        rest = self._hand_over(ticks)
        if rest is not None:
            await rest
        now = trio.current_time()
        wait = self._feed._throttle.delivered(now, time.time(), ticks, now - began)
        if wait:
            await trio.sleep(wait)

    async def _next_requests(self) -> Sequence[str | bytes]:
        """Wait until the throttling has something to ask of the venue."""
        feed = self._feed
        throttle = feed._throttle
        while True:
            requests = throttle.due(trio.current_time())
            self._tell_resumed()
            if requests:
                return requests
            feed._throttle_changed = trio.Event()
            with trio.move_on_at(throttle.look_again_at(trio.current_time())):
                await feed._throttle_changed.wait()

    def _tell_resumed(self) -> None:
        """Tell of what did not come of the symbols that were paused; how much that was, nobody knows."""
        resumed, self._feed._throttle.resumed = self._feed._throttle.resumed, []
        self._mark_gaps(resumed, "throttle")

    def _mark_gaps(self, lost: Iterable[tuple[str, float]], reason: GapReason) -> None:
        """Tell of what did not come of some symbols since a time on trio's clock; how much that was, nobody knows."""
        mark_gap = getattr(self._send, "mark_gap", None)
        if mark_gap is not None:
            now, clock = datetime.now(UTC), trio.current_time()
            for symbol, since in lost:
                mark_gap(Gap(symbol, now, reason, 0, now - timedelta(seconds=clock - since)))

    def _on_open(self) -> None:
        stats = self._feed.stats
        stats.connected = self._opened = True
        self._unknown_host_tries = 0
        if self._connected_before:
            stats.reconnects += 1
            self._mark_gaps([(symbol, self._lost_at) for symbol in self._feed.symbols], "reconnect")
        self._connected_before = True
        self._log(logging.INFO, "feed.connected", reconnects=stats.reconnects)

    def _count(self, ended: Ended) -> None:
        stats = self._feed.stats
        stats.connect_failures += ended.failure is not None
        stats.watchdog_trips += ended.stale
        stats.malformed += ended.violation and ended.code == _TOO_BIG

    def _verdict(self, ended: Ended) -> FeedBrokenError | None:
        """Return the error that ends the run, or ``None`` to try again."""
        feed, failure = self._feed, ended.failure
        if failure is not None and failure.permanent:
            return self._broken(failure, str(failure), 1)
        if failure is not None and failure.unknown_host is not None:
            # A resolver that cannot be reached means a mistake in the set-up, or just that the network is down. Who has been
            # connected before need not fear the first.
            self._unknown_host_tries += failure.unknown_host == "no such host" or not self._connected_before
            if self._unknown_host_tries >= feed.options.max_unknown_host_tries:
                return self._broken(failure, str(failure), self._unknown_host_tries)
        else:
            self._unknown_host_tries = 0
        if feed.options.max_tries is not None and self._tries >= feed.options.max_tries:
            return self._broken(failure, f"no data; at last: {self._shown(ended)}", self._tries)
        return None

    def _broken(self, failure: ConnectFailed | None, reason: str, attempts: int) -> FeedBrokenError:
        status = failure.status if failure is not None else None
        kind = FeedAuthError if status in (401, 403) else FeedBrokenError
        if kind is FeedAuthError:
            reason += "; check the api_key" if self._feed._settings.headers else "; no api_key was given"
        times = f" (tried {attempts} times)" if attempts > 1 else ""
        return kind(f"{self._feed.url}: {reason}{times}", url=self._feed.url, status=status, attempts=attempts)

    def _shown(self, ended: Ended) -> str:
        return self._feed._redactor.excerpt(ended.reason)

    def _log_end(self, ended: Ended, delay: float) -> None:
        feed = self._feed
        feed._bad.flush()
        event = "feed.connect_failed" if ended.failure is not None else "feed.disconnected"
        facts: dict[str, object] = {"reason": self._shown(ended), "retry_in_s": round(delay, 3)}
        if ended.code is not None:
            facts["code"] = ended.code
        self._log(logging.WARNING, event, **facts)

    def _log(self, level: int, event: str, **facts: object) -> None:
        """Log *event*, at most once a second: the first retries may follow each other at once."""
        if times := self._log_limit.due(event):
            if times > 1:
                facts["times"] = times
            log_event(logger, level, event, url=self._feed.url, **facts)
