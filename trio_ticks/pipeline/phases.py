"""Runs the tasks of a pipeline, and stops them in phases.

Rules:

- Each phase of a shutdown is bounded. The feed has ``_FEED_STOP_S`` to clean up; then
  the workers drain the queue for ``shutdown_timeout``; then they are cancelled.
- If the ingest of a buffer runs here too, it ends first, within half of that time: a
  broker such as ZeroMQ is rid of nothing once its last worker has left.
- Errors are kept here, and raised when the pipeline's block is left.
- Everything here runs in the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from random import Random
from typing import Any, Final, Generic, TypeVar

import trio

from ..channel.tapped import ItemTap, TappedSendChannel
from ..clock import Clock
from ..errors import ConfigError
from ..failures import is_closed_channel, log_second, split
from ..feeds.base import Feed
from ..feeds.snapshots import SnapshotRequests
from ..handlers.kinds import Handler
from ..logs import log_event
from ..metrics.observed import Pausing, Phase
from ..settings import Settings
from ..ticks import MarketData
from ..uninterrupted import await_theirs, call_theirs, uninterrupted
from .parts import Parts
from .sink_end import SinkOf
from .source_feed import SourceFeed

__all__ = ["Phases"]

logger = logging.getLogger("trio_ticks.pipeline")

T = TypeVar("T", bound=MarketData)

_SOURCE_STOP_S: Final = 2.0
"""If a source takes longer to acknowledge what the workers did at last, it is left so:
that comes again. In seconds."""
_FEED_STOP_S: Final = 1.0
"""If the feed takes longer to clean up, the shutdown goes on without it, in seconds."""


class Phases(Generic[T]):
    """Runs one pipeline's feed and workers from the start to the end.

    Args:
        feed: brings the ticks.
        handler: of the user's, or the sink of a broker in its place.
        settings: of the pipeline.
        clock: the pipeline's.
        random: the pipeline's source of chance; a new one unless given.
        first: set when the other half, which runs here too, has ended: a shutdown
            waits for it before it drains the queue.
    """

    def __init__(
        self,
        feed: Feed,
        handler: Handler[T] | SinkOf,
        settings: Settings,
        clock: Clock,
        random: Random | None,
        first: trio.Event | None = None,
    ) -> None:
        self._phase: Phase = "running"
        self._paused: Pausing = None
        self._is_suspended = False
        """Whether the feed was suspended by us, and not resumed since."""
        self.failure: BaseException | None = None
        """The first error; it is raised when the block is left."""
        self.stopping = trio.Event()
        """Set when a shutdown or a cancellation begins."""
        self.ended = trio.Event()
        self.parts: Parts[T] = Parts(feed, handler, settings, self._on_book_lost, clock, random)
        self.tap: ItemTap | None = None
        """Records the items of the feed; ``None``: nobody does, or the feed itself."""
        self._feed = feed
        self._shutdown_timeout = settings.shutdown_timeout
        self._first = first
        self._book_lost = trio.Event()
        self._feed_ended = trio.Event()
        self._feed_scope = trio.CancelScope()
        self._work_scope = trio.CancelScope()

    @property
    def phase(self) -> Phase:
        """What the pipeline is doing."""
        return "paused" if self._phase == "running" and self._paused else self._phase

    def check_suspendable(self) -> None:
        """Raise unless the feed can be unsubscribed from.

        Raises:
            ConfigError: it cannot.
        """
        if isinstance(self._feed, SourceFeed):
            raise ConfigError(
                'pause(feed="unsubscribe") is for a program that has the feed; here it is a '
                'buffer: use pause(feed="queue")'
            )
        if self.parts.feed_can.suspend is None or self.parts.feed_can.resume is None:
            raise ConfigError(
                f"{self._feed!r} cannot be unsubscribed from: it has no methods suspend() and "
                "resume(), or its venue has no request for it, or it takes all symbols; use "
                'pause(feed="queue") and an overflow strategy that drops'
            )

    def steer(self, paused: Pausing, size: int | None) -> None:
        """Pause or go on, with *size* workers unless it is ``None``."""
        if size is not None and self._phase != "stopped":
            self.parts.resize(size)
        if self.stopping.is_set() or self._phase == "stopped" or paused == self._paused:
            return
        before, self._paused = self._paused, paused
        log_event(
            logger, logging.INFO, "pipeline.paused" if paused else "pipeline.resumed", how=paused
        )
        self.parts.hold(paused in ("queue", "unsubscribe"))
        if isinstance(self._feed, SourceFeed):
            self._feed.suspend() if paused else self._feed.resume()
            return
        can, silent = self.parts.feed_can, ("unsubscribe", "feed only")
        if can.suspend is not None and can.resume is not None:
            if paused in silent and before not in silent:
                self._is_suspended = True
                self._ask_feed(can.suspend)
            elif before in silent and paused not in silent:
                self._is_suspended = False
                self._ask_feed(can.resume)

    def shutdown(self) -> None:
        """Begin to stop gracefully."""
        self.stopping.set()
        self._paused = None
        self.parts.hold(False)

    def cancel(self) -> None:
        """Stop at once."""
        self.stopping.set()
        self._feed_scope.cancel()
        self._work_scope.cancel()

    def fail(self, error: BaseException) -> None:
        """Stop at once because of *error*: keep the first error, log each later one."""
        if self.failure is None:
            self.failure = error
        else:
            log_second(error)
        self.cancel()

    async def run(self) -> None:
        """Run the feed and the workers through all the phases.

        Cancellation: everything stops at once; each tick is accounted for.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_feed)
                nursery.start_soon(self._stop_in_phases)
                nursery.start_soon(self._ask_for_snapshots)
                nursery.start_soon(self._run_throttle)
                nursery.start_soon(self.parts.watch_buffer)
                if self.parts.advice is not None:
                    nursery.start_soon(self.parts.advice.run)
                nursery.start_soon(self._tell_events)
                await self._run_workers()
                if isinstance(self._feed, SourceFeed):
                    # It acknowledges what the workers have finished.
                    with trio.move_on_after(_SOURCE_STOP_S):
                        await self._feed_ended.wait()
                self._phase = "stopped"
                nursery.cancel_scope.cancel()
        finally:
            # Close here too: a cancellation may come before a worker or the feed has
            # begun.
            self.parts.close()
            self._phase = "stopped"
            self._resume_ended_feed()
            self.parts.queue_changed()
            self.ended.set()

    def _resume_ended_feed(self) -> None:
        """End the pause of a feed that has ended: another pipeline may run it again."""
        resume = self.parts.feed_can.resume
        if self._is_suspended and resume is not None:
            self._is_suspended = False
            self._ask_feed(resume)

    def _ask_feed(self, function: Callable[[], object]) -> None:
        """Call a feed's *function*; the pipeline fails by what it raises.

        Whoever asked for it may be in another thread, or long gone.
        """
        try:
            call_theirs(function)
        except Exception as error:
            self.fail(error)

    async def _run_feed(self) -> None:
        tap = self.tap
        send = self.parts.send if tap is None else TappedSendChannel(self.parts.send, tap)
        try:
            with self._feed_scope, ExitStack() as stack:
                if tap is not None:
                    stack.callback(send.close)
                await self._feed.run(send)
        except BaseException as raised:
            cancelled, error = split(raised)
            # If the feed is slow to stop, the shutdown closes the channel under it:
            # that is no error of the feed.
            if error is not None and not (self.stopping.is_set() and is_closed_channel(error)):
                self.fail(error)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self._feed_ended.set()
            if left := self._close_channel():
                # Without this the workers would wait for ticks that cannot come.
                name = type(self._feed).__name__
                text = "%s has ended with clones of its send handle open (%d); they are closed"
                facts = {"feed": name, "handles": left}
                log_event(logger, logging.WARNING, "feed.left_open", text, name, left, **facts)

    def _close_channel(self) -> int:
        """Let no more ticks in; return how many clones of the handle were open."""
        left = self.parts.close_senders()
        if self._phase == "running":
            self._phase = "draining"
        return left

    async def _run_workers(self) -> None:
        try:
            with self._work_scope:
                await self.parts.run_workers()
        except BaseExceptionGroup as group:
            cancelled, errors = split(group)
            if isinstance(errors, BaseExceptionGroup):
                # The pool's nursery made the group. A single exception in it is raised
                # as itself, even if that is a group of the user's.
                self.fail(errors.exceptions[0] if len(errors.exceptions) == 1 else errors)
            if cancelled is not None:
                raise cancelled from None

    @uninterrupted
    async def _stop_in_phases(self) -> None:
        await self.stopping.wait()
        queued = self.parts.ledger.queued
        log_event(
            logger, logging.INFO, "pipeline.stopping", "%d ticks queued", queued, queued=queued
        )
        if isinstance(self._feed, SourceFeed):
            await self._stop_source(self._feed)
        else:
            self.parts.begin_draining()
            self._feed_scope.cancel()
            with trio.move_on_after(_FEED_STOP_S):
                await self._feed_ended.wait()
            self._close_channel()
            await trio.sleep(self._shutdown_timeout)
        self._work_scope.cancel()

    async def _stop_source(self, source: SourceFeed) -> None:
        """Let the workers finish what was fetched; give back what they did not begin.

        The source ends as soon as nothing is unfinished, and the channel with it.
        """
        began = trio.current_time()
        if self._first is not None:
            with trio.move_on_after(self._shutdown_timeout / 2):
                await self._first.wait()
        self.parts.begin_draining()
        if not self._feed_ended.is_set():
            source.drain()
        with trio.move_on_at(began + self._shutdown_timeout):
            await self._feed_ended.wait()
            await trio.sleep_forever()  # the workers end, and with them this task
        source.leave_all()

    @uninterrupted
    async def _run_throttle(self) -> None:
        if self.parts.throttle is not None:
            try:
                await self.parts.throttle.run()
            except Exception as error:
                self.fail(error)

    @uninterrupted
    async def _tell_events(self) -> None:
        try:
            await self.parts.events.run()
        except Exception as error:
            self.fail(error)

    def _on_book_lost(self) -> None:
        self._book_lost.set()

    @uninterrupted
    async def _ask_for_snapshots(self) -> None:
        """Ask the feed for snapshots of books that lost an update, until they came."""
        request = self.parts.feed_can.request_snapshot
        if request is None:
            return
        requests = SnapshotRequests()
        while True:
            with trio.move_on_at(requests.next_at(self.parts.wanted_books)):
                await self._book_lost.wait()
            self._book_lost = trio.Event()
            for symbol in requests.take_due(self.parts.wanted_books, trio.current_time()):
                await self._ask_for_snapshot(request, symbol)

    async def _ask_for_snapshot(self, request: Any, symbol: str) -> None:
        try:
            await await_theirs(request, symbol)
        except Exception as error:
            self.fail(error)
