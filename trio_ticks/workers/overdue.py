"""Notices ticks whose handler or ``on_error`` does not return, and says where it waits.

A handler that waits for ever, for a reply that never comes or a lock that nobody
releases, raises nothing and blocks nothing: its worker is merely busy. So the watch
compares, again and again, what each worker has in hand with what it had before.

Rules:

- Nothing here costs the workers anything: the watch reads what they write down anyway.
- What had not returned when the last worker ended stays told: a report is read then.
- A strategy that is usually slow is not overdue: the limit grows with the longest
  handling of the last minute, and with the longest wait between two tries. Of
  ``on_error`` no times are kept, so its limit is a longer one.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Coroutine
from typing import Any, Final, Generic, TypeVar, final

import attrs

from ..handlers.contexts import work_in
from ..logs import Lines, LogLimit, log_event
from ..metrics.snapshots import Overdue
from ..ticks import MarketData
from ..tracebacks import is_ours
from .crew import Crew
from .hangs import is_in_thread, place_in_thread
from .worker import Worker

__all__ = ["OverdueWatch"]

logger = logging.getLogger("trio_ticks.workers")

T = TypeVar("T", bound=MarketData)

_LEAST_S: Final = 1.0
"""A tick in hand for less is not overdue, however quick the others were."""
_TIMES: Final = 3
"""One that takes so many times as long as the slowest lately is overdue."""
_REPORT_S: Final = 5.0
"""An ``on_error`` that has taken this long is overdue."""
_LOG_EVERY_S: Final = 10.0
_FRAMES: Final = 12


@attrs.define
class _InHand:
    """What a worker had in hand when it was polled, and since when."""

    progress: tuple[object, ...]
    since: float
    logged: bool = False


@final
class OverdueWatch(Generic[T]):
    """Finds the workers of *crew* that have had the same tick in hand for too long."""

    def __init__(self, crew: Crew[T]) -> None:
        self._crew = crew
        self._in_hand: dict[str, _InHand] = {}
        self._late: list[Worker[T]] = []
        self._log_limit = LogLimit(crew.state.now, _LOG_EVERY_S)
        self.found: Overdue | None = None
        """The ticks that were overdue at the last poll while any worker ran; ``None``:
        none was."""

    def poll(self) -> None:
        """Compare what the workers have in hand with what they had before."""
        now = self._crew.state.now()
        workers = self._crew.workers
        if all(worker.ended for worker in workers):
            self._keep_unfinished()
            return
        names = {worker.name for worker in workers}
        for name in self._in_hand.keys() - names:
            del self._in_hand[name]
        late: list[tuple[float, Worker[T], _InHand]] = []
        for worker in workers:
            progress = _progress(worker)
            before = self._in_hand.get(worker.name)
            if before is None or before.progress != progress:
                self._in_hand[worker.name] = _InHand(progress, now)
            elif progress and now - before.since >= _LEAST_S:
                late.append((before.since, worker, before))
        if self._crew.outlet is not None and self._crew.outlet.waiting:
            # The handlers have returned; the store of the results is told of elsewhere.
            late = []
        if late:
            late = [each for each in late if now - each[0] >= self._limit_s(each[1], now)]
        self._late = [worker for _, worker, _ in late]
        if not late:
            self.found = None
            return
        since, oldest, _ = min(late, key=lambda each: each[0])
        self.found = Overdue(workers=len(late), for_s=now - since, symbol=_symbol(oldest))
        for began, worker, seen in late:
            if not seen.logged and self._log_limit.due("overdue"):
                seen.logged = True
                self._log(worker, now - began)

    def _keep_unfinished(self) -> None:
        """Forget those that returned after all, before their workers ended."""
        if self.found is None:
            return
        unfinished = 0
        for worker in self._late:
            before = self._in_hand[worker.name].progress
            unfinished += before[:3] == (worker.consumed, worker.failed, worker.reports)
        self.found = attrs.evolve(self.found, workers=unfinished) if unfinished else None

    def _limit_s(self, worker: Worker[T], now: float) -> float:
        if worker.reporting:
            return _REPORT_S
        slowest_s = self._crew.meters.handler.stats(now).max / 1e3
        # Of ticks that another process has in hand it is not known which is running.
        ticks = worker.in_flight if self._crew.place == "process" else 1
        retry = self._crew.settings.retry
        between_s = 0.0 if retry is None else retry.maximum_s
        return max(_LEAST_S, _TIMES * slowest_s * ticks) + between_s

    def _log(self, worker: Worker[T], for_s: float) -> None:
        symbol = _symbol(worker)
        text = "%s, for %.1f s so far; its symbol waits for it, and its worker"
        if worker.reporting:
            text = "on_error with " + text
        facts: dict[str, Any] = {"symbol": symbol, "worker": worker.name, "seconds": for_s}
        in_thread = is_in_thread(worker) and not worker.reporting
        if where := place_in_thread(worker) if in_thread else _where(worker.working):
            message = f"{text}. It waits here:\n%s"
            arguments: tuple[object, ...] = (symbol, for_s, Lines(where))
        else:
            message, arguments = text, (symbol, for_s)
        log_event(logger, logging.WARNING, "handler.overdue", message, *arguments, **facts)


def _progress(worker: Worker[Any]) -> tuple[object, ...]:
    """Return a value that changes with each outcome; empty: it has no tick in hand."""
    if worker.ended or not (worker.in_flight or worker.reporting):
        return ()
    done = 0 if worker.batch is None else worker.batch.done
    # The identity of a tick that is in hand belongs to no other.
    tick = id(_in_hand(worker))
    return worker.consumed, worker.failed, worker.reports, worker.retries, done, tick


def _in_hand(worker: Worker[Any]) -> Any:
    """Return the tick that *worker* has in hand: the first without an outcome."""
    if worker.reporting:
        return worker.reporting[0]
    if worker.current is not None:
        return worker.current
    done = 0 if worker.batch is None else worker.batch.done
    return worker.held[min(done, len(worker.held) - 1)]


def _symbol(worker: Worker[Any]) -> str:
    """Return the symbol of the tick that *worker* has in hand."""
    return str(_in_hand(worker).symbol)


def _where(waiting: Coroutine[Any, Any, Any] | None) -> str:
    """Return where *waiting* waits, as lines of a traceback; empty if it does not.

    The innermost frames, from the handler's own on.
    """
    frames: list[traceback.FrameSummary] = []
    link: Any = waiting
    while link is not None:
        frame = getattr(link, "cr_frame", None) or getattr(link, "gi_frame", None)
        if frame is not None and not is_ours(frame.f_code):
            code = frame.f_code
            place = traceback.FrameSummary(code.co_filename, frame.f_lineno, code.co_name)
            frames.append(place)
        # What a plain iterator waits for cannot be seen.
        link = (
            getattr(link, "cr_await", None) or getattr(link, "gi_yieldfrom", None) or work_in(link)
        )
    return "".join(traceback.format_list(frames[-_FRAMES:]))
