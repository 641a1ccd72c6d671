"""One run of a WebSocket feed: its connections, and what they have in common.

Plan: the symbols are dealt out to links, as many as the venue's limit asks for. Each
:class:`Link` decodes; a :class:`Sieve` sifts and renames what was decoded, and
:class:`FeedRun` delivers it and does what concerns the whole feed.

Rules: the links are told apart only here and in the switchboard. Names outside of them
are the user's; a link's are the venue's.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, final

import trio

from ...clock import Clock
from ...logs import LogLimit
from ..base import clock_of, random_of, send_capabilities_of
from ..comeback import Comeback
from ..sieve import Sieve
from ..symbol_task import SymbolTask
from ..telling import Telling
from ..venues import RestSnapshots
from .book_task import BookTask
from .core import WebSocketCore
from .link import Link, expect_from_now
from .pacing import Pace
from .snapshot_task import SnapshotTask
from .socket_watch import SocketWatch
from .succession import Successions
from .switchboard import Request, Switchboard
from .throttling import SourceThrottle

__all__ = ["FeedRun"]

_MOST_LEFT: Final = 10_000
"""Symbols that were unsubscribed from and may come back with a gap; older ones are
forgotten."""
_CANCELLATION: Final = (trio.Cancelled, BaseExceptionGroup, GeneratorExit)
"""What a cancelled task raises; a group of plain exceptions is none."""


@final
class FeedRun:
    """The state of one call of ``run``; each call makes its own.

    Args:
        core: what belongs to the feed.
        board: finds the connection of a symbol; gets the links of this run.
        throttle: the limit on the rate, which outlives the run.
        send: where the items go.
    """

    def __init__(
        self, core: WebSocketCore, board: Switchboard, throttle: SourceThrottle, send: Any
    ) -> None:
        self.core = core
        self.clock: Clock = clock_of(send)
        self.log_limit = LogLimit(trio.current_time)
        self.had_data = False
        self.links_made = 0
        """Links so far, each of which has a number."""
        self._board = board
        self.throttle = throttle
        self._to = send_capabilities_of(send)
        self.hand_over = self._to.deliver
        """Hands items to *send*, without a checkpoint where that has room.

        Other tasks still get their turn: every read of the socket is a checkpoint.
        """
        self.random = random_of(send)
        self._connects = Pace(core.language.limits.connects_per_min, 60.0)
        self._changed = trio.Event()
        self._left: OrderedDict[str, float] = OrderedDict()
        """When symbols were unsubscribed from, on trio's clock, by their names."""
        self.telling = Telling(core, self._to, self.clock)
        self._symbols = SymbolTask(
            core, self.telling, self.clock, self.log_limit, partial(_excused, self, board)
        )
        self.expects_data = self._symbols.expects_data
        self.books: BookTask | None = None
        """Keeps the books, or puts their updates behind the snapshots, where needed."""
        if core.books is not None:
            self.books = BookTask(core.books, self.telling, self.log_limit, self.ask_for_snapshot)
        self._snapshots: SnapshotTask | None = None
        self.sieve = Sieve(core, self._symbols.arrived, self.clock.utc, core.language)
        if self.books is not None and core.language.rest_snapshots is not None:
            board.restart_book = self.books.restart
            self._snapshots = _new_snapshot_task(self, core.language.rest_snapshots)
        self.token: Final = trio.lowlevel.current_trio_token()
        """Of the event loop that it runs in."""
        self._nursery: trio.Nursery | None = None
        """Runs the links; ``None`` before the first of them and after the last."""
        self._attendants: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._error: BaseException | None = None
        board.links = [Link(self, part) for part in _dealt(core)]
        self._successions = Successions(
            core, board, self.random.random, partial(_new_successor, self), self._start
        )

    async def run(self) -> None:
        """Keep all connections up, until they have ended or one of them gives up.

        Raises:
            FeedBrokenError: a connection cannot be had; the others are closed.
            Exception: from the channel, the codec or ``expect_data``, as it is.

        Cancellation: closes the connections, in a second at most.
        """
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            nursery.start_soon(self._run_guarded, self._steer)
            nursery.start_soon(self._run_guarded, self._symbols.run)
            if self.books is not None:
                nursery.start_soon(self._run_guarded, self.books.run)
                if self._snapshots is not None:
                    ask = partial(self._snapshots.run, self.books, self.sieve, self.hand_over)
                    nursery.start_soon(self._run_guarded, ask)
            self._attendants = nursery
            async with trio.open_nursery() as links:
                self._nursery = links
                for link in self._board.links:
                    self._start(link)
            nursery.cancel_scope.cancel()
        if self._error is not None:
            raise self._error

    def _start(self, link: Link) -> None:
        """Run *link*, and have it replaced when it is due."""
        assert self._nursery is not None
        assert self._attendants is not None

        async def run() -> None:
            try:
                await self._run_guarded(link.run)
            finally:
                link.has_ended = True
                if all(each.has_ended for each in self._board.links):
                    # From here on the nursery is closed to new tasks.
                    self._nursery = None

        self._nursery.start_soon(run)
        self._attendants.start_soon(self._run_guarded, partial(self._successions.attend, link))

    async def _run_guarded(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run *run*; an error ends all else, and :meth:`run` raises it."""
        try:
            await run()
        except BaseException as error:
            if not isinstance(error, Exception) and isinstance(error, _CANCELLATION):
                raise
            self.fail(error)
        finally:
            self._refresh_connected()

    def fail(self, error: BaseException) -> None:
        """End the run; :meth:`run` raises *error*, if it is the first one."""
        if self._error is None:
            self._error = error
        self._scope.cancel()

    async def deliver_throttled(self, items: Sequence[Any]) -> None:
        """Hand *items* over, then sleep for as long as the limit on the rate asks."""
        began = trio.current_time()
        rest = self.hand_over(items)
        if rest is not None:
            await rest
        now = trio.current_time()
        wait = self.throttle.delivered(now, self.clock.wall(), items, now - began)
        if wait:
            await trio.sleep(wait)

    # Requests to the venue

    def opening(self, link: Link) -> list[str | bytes]:
        """Return the first requests of a new connection of *link*."""
        board = self._board
        board.only = link
        try:
            requests = self.throttle.opening(trio.current_time())
        finally:
            board.only = None
        return [message for _link, message in requests]

    def answered(self, request: str, accepted: bool) -> None:
        """Tell the throttle of the venue's answer to a request."""
        self.throttle.answered(request, accepted)
        self.throttle_changed()

    def throttle_changed(self) -> None:
        """Have the throttle asked for its requests now."""
        self._changed.set()

    async def _steer(self) -> None:
        """Send the throttle's requests as they become due."""
        throttle = self.throttle
        while True:
            requests: list[Request] = throttle.due(trio.current_time())
            resumed, throttle.resumed = throttle.resumed, []
            self.telling.mark_gaps(resumed, "throttle")
            if self.books is not None:
                self.books.interrupt(throttle.paused, "throttle")
                self.books.expect(name for name, _ in resumed)
            for link, message in requests:
                link.post((message,))
                self._successions.disturb()
            self._changed = trio.Event()
            with trio.move_on_at(throttle.next_due_at(trio.current_time())):
                await self._changed.wait()

    async def may_connect(self) -> None:
        """Wait until the venue's limit allows another connection.

        Cancellation: one connection less may be made in this minute.
        """
        moment = self._connects.reserve(trio.current_time())
        if moment > trio.current_time():
            await trio.sleep_until(moment)

    def new_comeback(self) -> Comeback:
        """Return what decides for one connection when to come back."""
        options = self.core.options
        return Comeback(
            options.backoff,
            self.random.random,
            give_up_after=options.give_up_after,
            final_close_codes=options.final_close_codes | self.core.language.final_close_codes,
            now=trio.current_time(),
        )

    @property
    def watches(self) -> list[SocketWatch] | None:
        """The sockets that an idle worker may wait for in a reader's place."""
        return self._to.watches

    # Symbols that come and go

    def subscribe(self, names: Mapping[str, str]) -> None:
        """Subscribe to *names*: by the venue's spelling, the user's name."""
        now = trio.current_time()
        self.sieve.names_changed()
        self._successions.disturb()
        most = self.core.language.max_symbols or math.inf
        # Links fill up in their order, so those passed once have no room for the rest.
        links = iter(self._board.links)
        link = next(links, None)
        for symbol in names:
            while link is not None and len(link.symbols) >= most:
                link = next(links, None)
            if link is None:
                if self._nursery is None:
                    break  # The feed has just ended; the next run subscribes.
                link = Link(self, ())
                self._board.links.append(link)
                self._start(link)
            if not link.wanted:
                expect_from_now(link)
            link.symbols[symbol] = None
            link.refused.discard(symbol)
        back = [(name, self._left.pop(name)) for name in names.values() if name in self._left]
        past = [(name, since) for name, since in back if since <= now]
        self.telling.mark_gaps(past, "unsubscribed")
        for link, message in self._board.subscribe(list(names.values())):
            link.post((message,))
        if self.books is not None:
            self.books.expect(names.values())
        self._refresh_connected()

    def unsubscribe(self, names: Mapping[str, str]) -> None:
        """Unsubscribe from *names*; they are as for :meth:`subscribe`."""
        now = trio.current_time()
        self._successions.disturb()
        active = [name for name in names.values() if name not in self.throttle.paused]
        for link, message in self._board.unsubscribe(active):
            link.post((message,))
        for link in self._board.links:
            for symbol in names.keys() & link.symbols.keys():
                del link.symbols[symbol]
        self._symbols.forget(names.values())
        if self.books is not None:
            self.books.forget(names.values())
        self.telling.refused.difference_update(names.values())
        for name in names.values():
            self._left[name] = self.throttle.paused.get(name, now)
            if len(self._left) > _MOST_LEFT:
                self._left.popitem(last=False)

    def link_opened(self, link: Link) -> None:
        """Notice that a connection of *link* is open."""
        stats = self.core.stats
        if link.opened_before:
            stats.reconnects += 1
            missed = [(name, link.lost_at) for name in _names_of(self.core, link)]
            self.telling.mark_gaps(missed, "reconnect")
        if self.books is not None:
            self.books.expect(_books_of(self.core, link))
        self._refresh_connected()
        if link.opened_before:
            self.telling.report("back", None, f"connected again{self._which(link)}")
        link.log(logging.INFO, "feed.connected", reconnects=stats.reconnects)

    def link_lost(self, link: Link, reason: str) -> None:
        """Notice that an open connection of *link* has ended."""
        self._refresh_connected()
        if self.books is not None:
            self.books.interrupt(_books_of(self.core, link), "reconnect")
        self.telling.report("lost", None, reason + self._which(link))

    def ask_for_snapshot(self, name: str) -> None:
        """Ask the venue for the snapshot of the book of *name*.

        Where the venue has no such request, its connection is made anew. A symbol that
        is paused gets its snapshot when it is resumed.
        """
        if name in self.throttle.paused:
            return
        if self._snapshots is not None:
            self._snapshots.ask(name)
            return
        if self.core.language.asks_for_snapshots and name in self._board.spelling:
            self._board.request_snapshot(name)
            return
        for link in self._board.links:
            if name in _books_of(self.core, link):
                link.wish(f"the book of {name} is wrong, and the venue sends one only at the start")

    def _which(self, link: Link) -> str:
        links = self._board.links
        if len(links) == 1:
            return ""
        return f" (connection {links.index(link) + 1} of {len(links)})"

    def _refresh_connected(self) -> None:
        # A feed of which only a part comes is not connected.
        self.core.stats.connected = all(link.is_open for link in self._board.links)


def _new_successor(run: FeedRun, link: Link) -> Link:
    """Return a link for the same symbols as *link*, now and later."""
    new = Link(run, ())
    new.symbols, new.refused = link.symbols, link.refused
    return new


def _new_snapshot_task(run: FeedRun, how: RestSnapshots) -> SnapshotTask:
    """Return what gets the snapshots of books over REST."""
    core, random = run.core, run.random
    assert core.new_rest_client is not None
    client = partial(core.new_rest_client, clock=run.clock, random=random)
    return SnapshotTask(core, how, client, run.clock, run.log_limit, random.random)


def _excused(run: FeedRun, board: Switchboard) -> Iterator[str]:
    """Yield the names of the symbols of which nothing can come at the moment."""
    yield from run.throttle.paused
    for link in board.links:
        if not link.is_reading:
            yield from _names_of(run.core, link)


def _names_of(core: WebSocketCore, link: Link) -> list[str]:
    """Return the user's names of the symbols of *link*."""
    names = core.names
    return [names[symbol] for symbol in link.symbols if symbol in names]


def _books_of(core: WebSocketCore, link: Link) -> list[str]:
    """Return the names of the books whose updates come by *link*."""
    if core.takes_all and core.books is not None:
        return core.books.names()
    return _names_of(core, link)


def _dealt(core: WebSocketCore) -> list[list[str]]:
    """Deal the symbols out to as many connections as the venue's limit asks for."""
    symbols = list(core.names)
    most = core.language.max_symbols or max(1, len(symbols))
    parts = [symbols[first : first + most] for first in range(0, len(symbols), most)]
    # Without symbols too the feed waits, connected, for some to be added.
    return parts or [[]]
