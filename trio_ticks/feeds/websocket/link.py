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
from ...logs import LogLimit, log_event
from ...recordings.taps import Tap
from ..codec_context import LinkContext
from ..comeback import Comeback, GiveUp
from ..sieve import Sieve
from ..telling import Telling
from ..venues import Codec
from .book_task import BookTask
from .connect import ConnectFailed
from .core import WebSocketCore
from .endings import Endings
from .inflate import unpack_all
from .outbox import Outbox
from .overlap import Overlap
from .role import Role
from .session import Ended, Session
from .socket_watch import SocketWatch
from .throttling import SourceThrottle

__all__ = ["Link", "Run", "expect_from_now"]

logger = logging.getLogger("trio_ticks.feeds.websocket")

_ORDERLY: Final = (1000, 1001)


class Run(Protocol):
    """What a link needs of the run of the feed that it belongs to."""

    core: WebSocketCore
    clock: Clock
    log_limit: LogLimit
    sieve: Sieve
    telling: Telling
    throttle: SourceThrottle
    books: BookTask | None
    had_data: bool
    links_made: int
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
        run.links_made += 1
        self.number: Final = run.links_made
        """By which a recording tells it from the other links of the run."""
        self.symbols = dict.fromkeys(symbols)
        """The symbols of this connection; the feed changes them while it runs."""
        self.refused: set[str] = set()
        """Symbols that the venue has refused for good."""
        self.role: Final = Role()
        """Its part in replacements of connections."""
        self.codec: Codec | None = None
        """The codec of the connection that is open now."""
        self.last_codec: Codec | None = None
        """The codec of the last connection, open or not."""
        self._decode: Callable[[Sequence[bytes]], Sequence[Any]]
        """Of the codec; it records the messages, too, if the feed is recorded."""
        self.is_open = False
        self.has_ended = False
        """Whether :meth:`run` is over."""
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
        self._endings: Final = Endings(run.core, self._max_message_size)
        self.clock = run.clock
        self.telling = run.telling
        self.answered = run.answered
        self.stats = run.core.stats
        self.bad = run.core.bad
        self.redactor = run.core.redactor
        self.logger = run.core.logger
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

    def replace(self, reason: str) -> None:
        """Have another connection made, which takes over from this one."""
        if self._core.language.hands_over:
            self.role.wish(reason)
        else:
            self.wish(reason)

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

    @property
    def has_asked(self) -> bool:
        """Whether all requests of the open connection have been sent."""
        return self.is_open and self._outbox.is_idle

    def take_over(self, old: Link, overlap: Overlap) -> Awaitable[None] | None:
        """Take the place of *old*, which is retired; return what delivering waits for.

        Where it is not ``None``, await it.
        """
        assert self.codec is not None
        self.role.take_over()
        self.opened_before = True
        self.stats.reconnects += 1
        if old.last_codec is not None:
            self.codec.succeed(old.last_codec)
        now = self._now()
        newer = overlap.change(now)
        old.retire("another connection has taken over")
        if self._core.tap is not None:
            _record_opened(self._core.tap, self, after=old.number)
        return self._pass_on(self._decode(newer), now)

    def retire(self, reason: str) -> None:
        """Close the connection, and end :meth:`run`; nobody is told."""
        self.role.is_retired = True
        if self._session is not None:
            self._session.give_up(Ended(reason=reason, wished=True))

    async def run(self) -> None:
        """Connect and reconnect until no retry can help.

        Returns where the venue closed in good order and the feed is not to reconnect.

        Raises:
            FeedBrokenError: the venue cannot be reached, and a retry will not help.

        Cancellation: closes the connection, in a second at most.
        """
        try:
            await self._run_connections()
        finally:
            self.role.ended()

    async def _run_connections(self) -> None:
        run, core = self._run, self._core
        comeback = run.new_comeback()
        while True:
            ended = await self._connect()
            now = trio.current_time()
            lived_s = now - self._opened_at if ended.failure is None else 0.0
            if self.role.is_retired or self.role.stands_by:
                return
            self._endings.count(ended)
            if ended.code in _ORDERLY and not ended.wished and not core.options.reconnect:
                core.bad.flush()
                reason = self._endings.shown(ended)
                log_event(
                    logger, logging.INFO, "feed.ended", url=core.url, reason=reason, code=ended.code
                )
                return
            decided = comeback.after(
                ended,
                now=now,
                lived_s=lived_s,
                had_data=run.had_data,
                retry_after=self._endings.retry_after_s(ended, self.clock.utc()),
            )
            if isinstance(decided, GiveUp):
                raise self._endings.broken(decided, ended)
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
        codec = self._core.language.codec_for(self._context)
        self._session = Session(
            settings,
            self._deliver,
            self._on_open,
            self._outbox,
            run.watches,
            lambda: bool(self.wanted) and run.expects_data(),
        )
        self._opened_at = math.nan
        self.codec = self.last_codec = codec
        tap = self._core.tap
        self._decode = codec.decode if tap is None else _recording(tap, self.number, codec)
        if self.role.is_retired:
            self.codec = self._session = None
            return Ended(reason="it is not needed any more", wished=True)
        try:
            ended = await self._session.run(run.opening(self))
        finally:
            self.codec = self._session = None
            if self.is_open:
                self.is_open = False
                self.lost_at = trio.current_time()
            self.role.closed()
        await self.role.rescue()
        is_heard = not (self.role.is_retired or self.role.stands_by)
        if not math.isnan(self._opened_at) and is_heard:
            run.link_lost(self, self._endings.shown(ended))
            if tap is not None:
                tap.event("lost", connection=self.number, reason=self._endings.shown(ended))
        return ended

    def _on_open(self) -> None:
        self._opened_at = trio.current_time()
        self.is_open = True
        self.role.opened(self._opened_at)
        if not self.role.stands_by:
            if self._core.tap is not None:
                _record_opened(self._core.tap, self, again=self.opened_before)
            self._run.link_opened(self)
            self.opened_before = True

    def _deliver(self, messages: list[bytes]) -> Awaitable[None] | None:
        self.stats.messages += len(messages)
        assert self.codec is not None
        assert self._session is not None
        if self._packing is not None:
            messages = unpack_all(
                self._packing, messages, self._max_message_size, self._context.malformed
            )
        now = self._now()
        if self.role.compares:
            count = len(messages)
            messages = self.role.compare(self.codec, messages, now)
            if len(messages) < count:
                self._session.data_arrived(now)
        return self._pass_on(self._decode(messages), now)

    def _pass_on(self, items: Sequence[Any], now: float) -> Awaitable[None] | None:
        """Deliver *items*, which were decoded at *now*."""
        run = self._run
        items = run.sieve.sift(items, now)
        if not items:
            return None
        if self._session is not None:
            self._session.data_arrived(now)
        run.had_data = True
        if run.books is not None:
            items = run.books.keep(items)
            if not items:
                return None
        return run.deliver_throttled(items) if run.throttle.armed else run.hand_over(items)

    def _log_end(self, ended: Ended, delay: float) -> None:
        self.bad.flush()
        event = "feed.connect_failed" if ended.failure is not None else "feed.disconnected"
        facts: dict[str, object] = {
            "reason": self._endings.shown(ended),
            "retry_in_s": round(delay, 3),
        }
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


def _record_opened(tap: Tap, link: Link, **facts: object) -> None:
    """Record that the connection of *link* is open, and which symbols it has."""
    if len(link.symbols) < len(link._core.names):
        facts["symbols"] = list(link.symbols)
    tap.event("opened", connection=link.number, **facts)


def _recording(tap: Tap, number: int, codec: Codec) -> Callable[[Sequence[bytes]], Sequence[Any]]:
    """Return what records messages by *tap*, and has *codec* decode them."""
    decode, record = codec.decode, tap.messages

    def record_and_decode(messages: Sequence[bytes]) -> Sequence[Any]:
        record(number, messages)
        return decode(messages)

    return record_and_decode


def expect_from_now(link: Link) -> None:
    """Count the silence of *link* from now on: it had no symbols until now."""
    if link._session is not None:
        link._session.data_arrived(trio.current_time())
