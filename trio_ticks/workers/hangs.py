"""Finds handlings in threads that take too long, and logs each with its stack.

A thread cannot be stopped, so a line in the log is all that can be done about it.

Rules:

- The tick stays in flight, and its symbol leased, until the handler returns: the next
  tick of the symbol must not begin before that.
- Nothing here costs the threads anything: the watch polls what they write down anyway.
- Each handling that hangs is counted at once, but logged when the log limit allows it.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Generic, TypeVar

import attrs
import trio

from ..logs import Lines, LogLimit, log_event
from ..ticks import MarketData
from .crew import Crew
from .worker import Worker

__all__ = ["HangWatch", "is_in_thread", "place_in_thread"]

logger = logging.getLogger("trio_ticks.workers")

T = TypeVar("T", bound=MarketData)

_SHARE = 8
"""Poll eight times per ``handler_timeout``: a hang is found an eighth late at most."""
_CHECK_S = (0.01, 1.0)
"""The shortest and the longest time between two polls, in seconds."""

_RUN = ("_run_batch", "_run_whole")
"""The functions of runners.py that call a handler, to find its frames in a stack."""


@attrs.define
class _Seen:
    """A handling that was under way when the watch polled its worker."""

    handling: tuple[object, ...]
    """Identifies the handling: see :func:`_handling`."""
    since: float
    """When the watch first saw it."""
    is_counted: bool = False
    """Whether it was counted as hanging."""
    symbol: str = ""
    """The symbol of its tick, once it was logged; else empty."""


class HangWatch(Generic[T]):
    """Counts and logs handlings in threads that take longer than *timeout_s*."""

    def __init__(self, crew: Crew[T], timeout_s: float) -> None:
        self._crew = crew
        self._timeout_s = timeout_s
        self._seen: dict[str, _Seen] = {}
        self._log_limit = LogLimit(trio.current_time)
        self._scope = trio.CancelScope()

    def stop(self) -> None:
        """End the watch: no worker is left."""
        self._scope.cancel()

    async def run(self) -> None:
        """Poll all workers until :meth:`stop`.

        Cancellation: nothing is logged any more.
        """
        with self._scope:
            while True:
                await trio.sleep(min(max(self._timeout_s / _SHARE, _CHECK_S[0]), _CHECK_S[1]))
                self.check(trio.current_time())

    def check(self, now: float) -> None:
        """Report each handling that has gone on for too long at *now*, once."""
        for name in self._seen.keys() - {worker.name for worker in self._crew.workers}:
            del self._seen[name]
        for worker in self._crew.workers:
            handling = _handling(worker)
            seen = self._seen.get(worker.name)
            if seen is None or seen.handling != handling:
                if seen is not None and seen.symbol:
                    self._report_return(seen, now)
                self._seen[worker.name] = _Seen(handling, now)
            elif handling and not seen.symbol and now - seen.since >= self._timeout_s:
                self._report_hang(worker, seen)

    def _report_return(self, seen: _Seen, now: float) -> None:
        if times := self._log_limit.due("returned"):
            took_s = now - seen.since
            text = "%s, after %.1f s or so"
            facts = {"symbol": seen.symbol, "times": times}
            log_event(logger, logging.INFO, "handler.returned", text, seen.symbol, took_s, **facts)

    def _report_hang(self, worker: Worker[T], seen: _Seen) -> None:
        """Count the handling *seen*, which hangs, and log it if a line is due.

        If all workers hang at once, because they wait for the same service, their
        stacks are logged one after the other. A hang without a line gets one at a later
        poll, if it still hangs then.
        """
        if _handling(worker) != seen.handling:
            return  # It has just returned.
        if not seen.is_counted:
            seen.is_counted = True
            self._crew.timeouts += 1
        if not self._log_limit.due("hangs"):
            return
        batch, where = worker.batch, place_in_thread(worker)
        # Compare once more, after the frame was taken: it may be of the next handling.
        if batch is None or not where or _handling(worker) != seen.handling:
            return
        seen.symbol = batch.items[min(batch.done, len(batch.items) - 1)].symbol
        log_event(
            logger,
            logging.WARNING,
            "handler.hangs",
            "%s, for more than %g s; a thread cannot be stopped, so it is waited for. "
            "It is here:\n%s",
            seen.symbol,
            self._timeout_s,
            Lines(where),
            symbol=seen.symbol,
            worker=worker.name,
            timeout_s=self._timeout_s,
        )


def is_in_thread(worker: Worker[T]) -> bool:
    """Tell whether a thread has ticks of *worker* in hand."""
    return worker.batch is not None and worker.batch.thread is not None


def place_in_thread(worker: Worker[T]) -> str:
    """Return where the handler of *worker* is in its thread, as lines of a traceback.

    Empty if the thread runs no handler, or waits between two tries.
    """
    batch = worker.batch
    thread = None if batch is None or worker.pausing else batch.thread
    frame = None if thread is None else sys._current_frames().get(thread)
    if frame is None:
        return ""
    return "".join(traceback.format_list(_handlers_frames(traceback.extract_stack(frame))))


def _handlers_frames(stack: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """Return the frames of *stack* that belong to the handler, outermost first."""
    ours = [
        index
        for index, line in enumerate(stack)
        if line.name in _RUN and line.filename.endswith("runners.py")
    ]
    return stack[ours[-1] + 1 if ours else 0 :]


def _handling(worker: Worker[T]) -> tuple[object, ...]:
    """Return a value that is different for each handling in *worker*'s thread.

    Empty if the thread runs no handler, or waits between two tries.
    """
    batch = worker.batch
    if batch is None or batch.thread is None or worker.pausing:
        return ()
    return batch, batch.sent_at, batch.done, worker.retries
