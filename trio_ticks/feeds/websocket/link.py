"""One connection of a feed, made again and again.

Plan: :meth:`Link.run` makes a :class:`Session` with a codec of its own, waits for its
end, and asks :class:`Comeback` when to make the next one. A feed has one link, or
several where the venue limits the subscriptions of a connection.

Rules: a link knows the venue's spelling of its symbols only. What concerns the whole
feed (delivery, throttling, gaps, events) is done by the feed's run, which it is given.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, final

import trio

from ...clock import Clock
from ...errors import FeedAuthError, FeedBrokenError
from ...logs import LogLimit, log_event
from ..venues import Codec
from ..venues.base import Packing
from .backoff import parse_retry_after
from .book_task import BookTask
from .comeback import Comeback, GiveUp
from .connect import ConnectFailed
from .context import LinkContext
from .core import FeedCore
from .inflate import GZIP_MAGIC, BadPayload, unpack_payload
from .outbox import Outbox
from .session import Ended, Session
from .sieve import Sieve
from .socket_watch import SocketWatch
from .telling import Telling
from .throttling import SourceThrottle

__all__ = ["Link", "Run"]

logger = logging.getLogger("trio_ticks.feeds.websocket")

_ORDERLY: Final = (1000, 1001)
_TOO_BIG: Final = 1009


class Run(Protocol):
    """What a link needs of the run of the feed that it belongs to."""

    core: FeedCore
    clock: Clock
    log_limit: LogLimit
    sieve: Sieve
    telling: Telling
    throttle: SourceThrottle
    books: BookTask | None
    had_data: bool
    hand_over: Callable[[Sequence[Any]], Awaitable[None] | None]

    @property
    def watches(self) -> list[SocketWatch] | None: ...
    def new_comeback(self) -> Comeback: ...
    async def may_connect(self) -> None: ...
    def expects_data(self) -> bool: ...
    async def deliver_throttled(self, items: Sequence[Any]) -> None: ...
    def opening(self, link: Link) -> Sequence[str | bytes]: ...
    def answered(self, request: str, accepted: bool) -> None: ...
    def link_opened(self, link: Link) -> None: ...
    def link_lost(self, link: Link, reason: str) -> None: ...


@final
class Link:
    """One connection slot of a feed.

    Args:
        run: the run of the feed.
        symbols: the symbols of this connection, in the venue's spelling.
    """

    def __init__(self, run: Run, symbols: Sequence[str]) -> None:
        self._run = run
        self.symbols: Final = dict.fromkeys(symbols)
        """The symbols of this connection; the feed changes them while it runs."""
        self.refused: Final[set[str]] = set()
        """Symbols that the venue has refused for good."""
        self.codec: Codec | None = None
        """The codec of the connection that is open now."""
        self.is_open = False
        self.opened_before = False
        self.lost_at = -math.inf
        """When the last open connection ended, on trio's clock."""
        self._opened_at = math.nan
        self._outbox = Outbox()
        self._session: Session | None = None
        self._core: Final = run.core
        self._packing: Final = run.core.language.packing
        self._max_message_size: Final = run.core.language.max_message_size(
            run.core.options.max_message_size
        )
        self.clock = run.clock
        self.telling = run.telling
        self.answered = run.answered
        self.stats = run.core.stats
        self.bad = run.core.bad
        self.redactor = run.core.redactor
        self.log_limit = run.log_limit
        self.channels = run.core.language.channels
        self._context: Final = LinkContext(self)
        self._now: Final = trio.lowlevel.current_clock().current_time

    # What the codec reports, through its context

    def reply(self, message: str | bytes) -> None:
        """Send *message* to the venue."""
        self._outbox.put((message,))

    def pong_arrived(self) -> None:
        """Notice the answer to the keep-alive message."""
        if self._session is not None:
            self._session.pong_arrived()

    def wish(self, reason: str) -> None:
        """Have another connection made at once."""
        if self._session is not None:
            self._session.give_up(Ended(reason=reason, wished=True))

    def symbol_refused(self, symbol: str | None, reason: str, final: bool) -> None:
        """Tell the strategy that the venue refuses *symbol*, or does not say which."""
        if symbol is None or symbol in self.symbols:
            if symbol is not None and final:
                self.refused.add(symbol)
            self.telling.symbol_refused(symbol, reason)

    # What the feed asks for

    @property
    def wanted(self) -> list[str]:
        """The symbols to subscribe to on a new connection."""
        return [symbol for symbol in self.symbols if symbol not in self.refused]

    @property
    def is_reading(self) -> bool:
        """Whether what the venue sends now is read at once."""
        return self.is_open and self._session is not None and not self._session.is_busy

    def post(self, messages: Sequence[str | bytes]) -> None:
        """Send *messages* if the connection is open; it subscribes anew otherwise."""
        if self.codec is not None:
            self._outbox.put(messages)

    async def run(self) -> None:
        """Connect and reconnect until no retry can help.

        Returns where the venue closed in good order and the feed is not to reconnect.

        Raises:
            FeedBrokenError: the venue cannot be reached, and a retry will not help.

        Cancellation: closes the connection, in a second at most.
        """
        run, core = self._run, self._core
        comeback = run.new_comeback()
        while True:
            ended = await self._connect()
            now = trio.current_time()
            lived_s = now - self._opened_at if ended.failure is None else 0.0
            self._count(ended)
            if ended.code in _ORDERLY and not ended.wished and not core.options.reconnect:
                core.bad.flush()
                reason = self._shown(ended)
                log_event(
                    logger, logging.INFO, "feed.ended", url=core.url, reason=reason, code=ended.code
                )
                return
            decided = comeback.after(
                ended,
                now=now,
                lived_s=lived_s,
                had_data=run.had_data,
                retry_after=self._retry_after_s(ended.failure),
            )
            if isinstance(decided, GiveUp):
                raise self._broken(decided, ended)
            self._log_end(ended, decided)
            await trio.sleep(decided)

    async def _connect(self) -> Ended:
        """Make one connection, and return how it ended."""
        run = self._run
        await run.may_connect()
        try:
            settings = await self._core.new_settings()
        except ConnectFailed as error:
            return Ended(reason=str(error), failure=error)
        self._outbox = Outbox()
        codec = self._core.language.new_codec(self._context)
        self._session = Session(
            settings,
            self._deliver,
            self._on_open,
            self._outbox,
            run.watches,
            lambda: bool(self.wanted) and run.expects_data(),
        )
        self._opened_at = math.nan
        self.codec = codec
        try:
            ended = await self._session.run(run.opening(self))
        finally:
            self.codec = self._session = None
            if self.is_open:
                self.is_open = False
                self.lost_at = trio.current_time()
        if not math.isnan(self._opened_at):
            run.link_lost(self, self._shown(ended))
        return ended

    def _on_open(self) -> None:
        self._opened_at = trio.current_time()
        self.is_open = True
        self._run.link_opened(self)
        self.opened_before = True

    def _deliver(self, messages: list[bytes]) -> Awaitable[None] | None:
        run = self._run
        self.stats.messages += len(messages)
        assert self.codec is not None
        assert self._session is not None
        if self._packing is not None:
            messages = self._unpacked(messages, self._packing)
        now = self._now()
        items = run.sieve.sift(self.codec.decode(messages), now)
        if not items:
            return None
        self._session.data_arrived(now)
        run.had_data = True
        if run.books is not None:
            items = run.books.keep(items)
            if not items:
                return None
        return run.deliver_throttled(items) if run.throttle.armed else run.hand_over(items)

    def _unpacked(self, messages: list[bytes], packing: Packing) -> list[bytes]:
        """Return *messages* as they were before the venue packed them."""
        limit = self._max_message_size
        found = []
        for message in messages:
            if packing == "gzip" and not message.startswith(GZIP_MAGIC):
                # Some venues pack the data and not their answers.
                found.append(message)
                continue
            try:
                found.append(unpack_payload(packing, message, limit))
            except BadPayload as error:
                self._context.malformed(message, str(error))
        return found

    # How a connection ended

    def _count(self, ended: Ended) -> None:
        stats = self.stats
        stats.connect_failures += ended.failure is not None
        stats.watchdog_trips += ended.stale
        stats.malformed += ended.violation and ended.code == _TOO_BIG

    def _retry_after_s(self, failure: ConnectFailed | None) -> float | None:
        if failure is None or failure.retry_after is None:
            return None
        return parse_retry_after(failure.retry_after, self.clock.utc())

    def _broken(self, given_up: GiveUp, ended: Ended) -> FeedBrokenError:
        core, failure = self._core, given_up.failure
        if failure is not None and isinstance(failure.__cause__, FeedAuthError):
            return failure.__cause__
        reason = core.redactor.excerpt(given_up.reason) + self._remedy(ended)
        if given_up.auth:
            reason += f"; {core.auth_advice}"
        times = f" (tried {given_up.attempts} times)" if given_up.attempts > 1 else ""
        error = (FeedAuthError if given_up.auth else FeedBrokenError)(
            f"{core.url}: {reason}{times}",
            url=core.url,
            status=failure.status if failure is not None else None,
            attempts=given_up.attempts,
        )
        error.__cause__ = failure.__cause__ if failure is not None else None
        return error

    def _shown(self, ended: Ended) -> str:
        return self.redactor.excerpt(ended.reason) + self._remedy(ended)

    def _remedy(self, ended: Ended) -> str:
        """Return the setting that would help, as the end of a sentence."""
        # Where the venue closed with 1009, a message of ours was too big.
        if ended.code != _TOO_BIG or not ended.violation:
            return ""
        return f" (max_message_size is {self._max_message_size:,} bytes)"

    def _log_end(self, ended: Ended, delay: float) -> None:
        self.bad.flush()
        event = "feed.connect_failed" if ended.failure is not None else "feed.disconnected"
        facts: dict[str, object] = {"reason": self._shown(ended), "retry_in_s": round(delay, 3)}
        if ended.code is not None:
            facts["code"] = ended.code
        self.log(logging.WARNING, event, **facts)

    def log(self, level: int, event: str, **facts: object) -> None:
        """Log *event*, at most once a second.

        The limit is needed because the first retries may follow each other within
        milliseconds.
        """
        if times := self.log_limit.due(event):
            if times > 1:
                facts["times"] = times
            log_event(logger, level, event, url=self._core.url, **facts)
