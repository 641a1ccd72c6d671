"""One run of a polling feed.

Plan: one task asks at the moments of :class:`Slots`, one call at a time, and delivers;
one watches for new market data, one for silent symbols. What a call brings goes
through :func:`read_answer` and the :class:`Sieve`; whether and when to ask again after
a failure says :class:`Comeback`.

Rules: a feed is connected from its first good answer until a request fails or nothing
new has come for too long. What was lost meanwhile is told before the next item of each
symbol.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from inspect import isawaitable
from typing import Any, Final, final

import trio

from ...clock import Clock
from ...errors import ConfigError, FeedAuthError, FeedBrokenError
from ...logs import LogLimit, log_event
from ..base import clock_of, random_of, send_capabilities_of
from ..comeback import Comeback, GiveUp
from ..sieve import Sieve
from ..symbol_task import SymbolTask
from ..telling import Telling
from .answers import Answer, Fault, read_answer
from .core import Fetch, PollingCore
from .failures import PollFailure, RequestEnded, failure_of
from .slots import Slots

__all__ = ["PollReports", "PollRun"]

_MOST_SEEN: Final = 100_000
"""Symbols that are told of a gap after an outage, where the feed was given none."""


@final
class PollRun:
    """The state of one call of ``run``; each call makes its own.

    Args:
        core: what belongs to the feed.
        send: where the items go.
    """

    def __init__(self, core: PollingCore, send: Any) -> None:
        self.core = core
        self.clock: Clock = clock_of(send)
        self.log_limit = LogLimit(trio.current_time)
        self.stats = core.stats
        self._to = send_capabilities_of(send)
        self.telling = Telling(core, self._to, self.clock)
        self._symbols = SymbolTask(core, self.telling, self.clock, self.log_limit, self._excused)
        self._sieve = Sieve(core, self._symbols.arrived, self.clock.utc)
        now = trio.current_time()
        self._comeback = Comeback(
            core.options.backoff,
            random_of(send).random,
            give_up_after=core.options.give_up_after,
            final_close_codes=frozenset(),
            now=now,
        )
        self._had_answer = False
        self._is_silent = False
        """Answers come, but nothing new in them: only new data ends that."""
        self._last_data = self._last_answer = now
        self._lost_at: float | None = None
        """Since when items may be missing; ``None``: the feed was not lost."""
        self._waits_since = math.inf
        """Since when a full channel keeps it from asking."""
        self._seen: dict[str, None] = {}
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Ask and deliver, until no retry can help.

        Raises:
            FeedBrokenError: nobody answers, and a retry will not help.
            Exception: from the channel, as it is.

        Cancellation: the call in progress is cancelled; all items of earlier ones were
        handed over.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._symbols.run)
            if self.core.options.stale_after is not None:
                nursery.start_soon(self._watch_data, self.core.options.stale_after)
            try:
                async with self.core.open_fetch(PollReports(self)) as fetch:
                    await self._poll(fetch)
            except Exception as error:
                # Outside of the nursery, which would wrap it in a group.
                self._error = error
            except (trio.Cancelled, BaseExceptionGroup):
                raise
            except BaseException as error:
                # What ends programs, such as SystemExit of the user's function.
                self._error = error
            nursery.cancel_scope.cancel()
        if self._error is not None:
            raise self._error

    async def _poll(self, fetch: Fetch) -> None:
        rests = self.core.rests
        slots = Slots(trio.current_time(), self.core.interval)
        skipped_before = self.stats.skipped_polls
        asked_at = not_before = -math.inf
        was_cut_off = False
        while True:
            if rests.is_on or was_cut_off:
                await self._rest()
                was_cut_off = False
                skipped_before = self.stats.skipped_polls
                # Many short rests must not make the pace faster.
                began = max(trio.current_time(), asked_at + self.core.interval)
                slots = Slots(began, self.core.interval)
            moment = slots.take(trio.current_time(), not_before)
            self.stats.skipped_polls = skipped_before + slots.skipped
            answer: Answer | PollFailure | None = None
            with rests.interrupting():
                await trio.sleep_until(moment)
                asked_at, not_before = trio.current_time(), -math.inf
                answer = await self._ask(fetch)
            if answer is None or rests.is_on:
                was_cut_off = True  # also by a rest that is over by now
                # A call in a thread ends as it does, whoever cancels it.
                if isinstance(answer, PollFailure) and answer.retry_after_s is not None:
                    most_s = self.core.options.backoff.max_retry_after_s
                    not_before = trio.current_time() + min(answer.retry_after_s, most_s)
                continue
            if isinstance(answer, PollFailure):
                not_before = self._failed(answer)
                continue
            await self._take(answer)
            if answer.error is not None:
                not_before = self._failed(self._failure(answer.error))

    async def _rest(self) -> None:
        """Wait until the feed is to ask again; then each symbol has a gap.

        Cancellation: the rest goes on.
        """
        since = trio.current_time()
        await self.core.rests.wait()
        now = self._last_data = trio.current_time()
        self._comeback.rested(now - since)
        self._symbols.restart(now)
        # Of a feed that was lost before, what was missed is told when it is back.
        if self.stats.connected:
            self._last_answer = now
            gone = [(name, since) for name in self._known()]
            self.telling.mark_gaps(gone, "unsubscribed")

    async def _ask(self, fetch: Fetch) -> Answer | PollFailure:
        """Return what one call brings, or why it brings nothing."""
        limit = self.core.options.timeout
        found: object = None
        try:
            with trio.move_on_after(limit) as scope:
                waits = fetch()
                if not isawaitable(waits):
                    raise ConfigError("fetch must be an async function")
                found = await waits
        except Exception as error:
            return self._failure(error)
        if scope.cancelled_caught:
            return PollFailure(reason=f"{self.core.asked} took longer than {limit:g} s")
        renames = any(symbol != name for symbol, name in self.core.names.items())
        return read_answer(found, self.core.options.max_items, renames=renames)

    def _failure(self, error: Exception) -> PollFailure:
        core = self.core
        return failure_of(error, core.asked, self.clock.utc(), core.redactor)

    # Good answers

    async def _take(self, answer: Answer) -> None:
        """Deliver what is good in *answer*, and count the rest."""
        now = trio.current_time()
        stats = self.stats
        stats.messages += answer.error is None or bool(answer.items)
        for fault in answer.faults:
            self._count_fault(fault)
        items = self._sieve.sift(answer.items, now)
        if answer.error is None:
            self._had_answer = True
            self._last_answer = now
            self._comeback.answered(now)
            stats.ignored += not answer.items and not answer.faults
            if items or not self._is_silent:
                self._is_silent = False
                self._found(now)
        if not items:
            return
        if self.core.takes_all:
            for item in items:
                if len(self._seen) < _MOST_SEEN:
                    self._seen[item.symbol] = None
        rest = self._to.deliver(items)
        if rest is not None:
            self._waits_since = now
            try:
                await rest
            finally:
                self._waits_since = math.inf
        self._last_data = trio.current_time()

    def _found(self, now: float) -> None:
        """Notice that the feed is, or is again, connected."""
        stats = self.stats
        if stats.connected:
            return
        stats.connected = True
        since = self._lost_at
        if since is not None:
            stats.reconnects += 1
            self.telling.mark_gaps([(name, since) for name in self._known()], "reconnect")
            self.telling.report("back", None, "answered again")
            self._lost_at = None
        self._last_data = now
        self._log(logging.INFO, "feed.connected", reconnects=stats.reconnects)

    def _count_fault(self, fault: Fault) -> None:
        self.stats.malformed += 1
        self.core.bad.record(fault.shown.encode("utf-8", "backslashreplace"), fault.reason)
        if fault.symbol is not None:
            self.telling.mark_gap(fault.symbol, "malformed", 1)

    def _known(self) -> Iterable[str]:
        return self._seen if self.core.takes_all else self.core.names.values()

    # Failures and silence

    def _failed(self, failure: PollFailure) -> float:
        """Return the earliest moment of the next request.

        Raises:
            FeedBrokenError: there is to be none.
        """
        now = trio.current_time()
        self.stats.connect_failures += 1
        self._lose(failure.reason, self._last_answer)
        decided = self._comeback.after(
            RequestEnded(failure),
            now=now,
            lived_s=0.0,
            had_data=self._had_answer,
            retry_after=failure.retry_after_s,
        )
        if isinstance(decided, GiveUp):
            raise self._broken(failure, decided)
        self._log(
            logging.WARNING,
            "feed.request_failed",
            reason=failure.reason,
            retry_in_s=round(decided, 3),
        )
        return now + decided

    def _broken(self, failure: PollFailure, given_up: GiveUp) -> Exception:
        if failure.auth_error is not None:
            return failure.auth_error
        times = f" (tried {given_up.attempts} times)" if given_up.attempts > 1 else ""
        return (FeedAuthError if given_up.auth else FeedBrokenError)(
            f"{self.core.name}: {given_up.reason}{times}",
            url=self.core.url,
            status=failure.status,
            attempts=given_up.attempts,
        )

    def _lose(self, reason: str, since: float) -> None:
        if not self.stats.connected:
            return
        self.stats.connected = False
        self._lost_at = since
        self.telling.report("lost", None, reason)

    async def _watch_data(self, stale_after: float) -> None:
        """Call the feed lost when nothing new has come for *stale_after* seconds."""
        while True:
            await trio.sleep_until(self._last_data + stale_after)
            now = trio.current_time()
            if now < self._last_data + stale_after:
                continue
            expected = self._symbols.expects_data() and not self.core.rests.is_on
            if expected and self.stats.connected and not self._is_held_up:
                reason = f"no new market data for {stale_after:g} s"
                self.stats.watchdog_trips += 1
                self._is_silent = True
                self._lose(reason, self._last_data)
                self._log(logging.WARNING, "feed.disconnected", reason=reason)
            self._last_data = now

    @property
    def _is_held_up(self) -> bool:
        """Whether a full channel keeps it from asking in its pace."""
        return trio.current_time() - self._waits_since >= self.core.interval

    def _excused(self) -> Iterable[str]:
        """Return the names of the symbols of which nothing can come at the moment."""
        comes = self.stats.connected or self._is_silent
        is_fine = comes and not (self._is_held_up or self.core.rests.is_on)
        return () if is_fine else self.core.names.values()

    def _log(self, level: int, event: str, **facts: object) -> None:
        if times := self.log_limit.due(event):
            if times > 1:
                facts["times"] = times
            log_event(self.core.logger, level, event, feed=self.core.name, **facts)


@final
class PollReports:
    """What a venue's codec reports in a run; see :class:`~..codec_context.Reports`.

    Args:
        run: the run.
    """

    def __init__(self, run: PollRun) -> None:
        core = run.core
        self.clock = run.clock
        self.stats = core.stats
        self.bad = core.bad
        self.redactor = core.redactor
        self.logger = core.logger
        self.log_limit = run.log_limit
        self.channels = core.channels
        self.telling = run.telling
        self._names = core.names

    def symbol_refused(self, symbol: str | None, reason: str, final: bool) -> None:
        """Tell the strategy that the venue refuses *symbol*, or does not say which."""
        if symbol is None or symbol in self._names:
            self.telling.symbol_refused(symbol, reason)

    def reply(self, message: str | bytes) -> None:
        """Send nothing: there is no connection to send it on."""

    def pong_arrived(self) -> None:
        """Do nothing: no ping is sent."""

    def wish(self, reason: str) -> None:
        """Do nothing: each request is a new one."""

    def replace(self, reason: str) -> None:
        """Do nothing: each request is a new one."""

    def answered(self, request: str, accepted: bool) -> None:
        """Do nothing: a codec makes no requests here."""
