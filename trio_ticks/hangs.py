"""Handlings in threads that take too long: told once, with the stack of the thread. A thread cannot be stopped.

Rules: the tick stays in flight, and its symbol leased, until the handler returns: order forbids to begin the next one. Nothing here
costs the threads anything: what they write down anyway is looked at now and then.
"""

from __future__ import annotations

import logging
import math
import sys
import traceback
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs
import trio

from .log_limit import LogLimit
from .ticks import MarketData
from .worker import Worker

if TYPE_CHECKING:
    from .workers import WorkerPool

__all__ = ["HangWatch"]

logger = logging.getLogger("trio_ticks.workers")

T = TypeVar("T", bound=MarketData)

_SHARE = 8
"""A handling is found to hang at most one in so many of ``handler_timeout`` late,"""
_LOOK_S = (0.01, 1.0)
"""but the watch looks neither more often nor more seldom than this, in seconds."""
_TELL_EVERY_S = 1.0
"""Where all workers hang at once, as they do where a service does that all wait for, their stacks are told one after the other."""

_RUN = ("_run_batch", "_run_whole")
"""The functions of executors.py that call a handler: what lies above them in a stack is ours."""


@attrs.define
class _Seen:
    handling: tuple[object, ...]
    """Which one it is: another where anything has moved on."""
    since: float
    is_counted: bool = False
    """Whether it was found to hang."""
    symbol: str = ""
    """Of which, once it is told."""


class HangWatch(Generic[T]):
    """Finds handlings in threads that take longer than *timeout_s*, counts and logs them."""

    def __init__(self, pool: WorkerPool[T], timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._seen: dict[str, _Seen] = {}
        self._tell_at = -math.inf
        self._log_limit = LogLimit(trio.current_time)
        self._scope = trio.CancelScope()

    def stop(self) -> None:
        """Say that no worker is left."""
        self._scope.cancel()

    async def run(self) -> None:
        """Look at all workers again and again.

        Cancellation: nothing is told any more.
        """
        with self._scope:
            while True:
                await trio.sleep(min(max(self._timeout_s / _SHARE, _LOOK_S[0]), _LOOK_S[1]))
                self.look(trio.current_time())

    def look(self, now: float) -> None:
        """Tell of each handling that has gone on for too long at *now*, and was not told of."""
        for name in self._seen.keys() - {worker.name for worker in self._pool.workers}:
            del self._seen[name]
        for worker in self._pool.workers:
            handling = _handling(worker)
            seen = self._seen.get(worker.name)
            if seen is None or seen.handling != handling:
                if seen is not None and seen.symbol and (times := self._log_limit.due("returned")):
                    facts = {"symbol": seen.symbol, "times": times}
                    logger.info("handler.returned: %s, after %.1f s or so", seen.symbol, now - seen.since, extra=facts)
                self._seen[worker.name] = _Seen(handling, now)
            elif handling and not seen.symbol and now - seen.since >= self._timeout_s:
                self._note(worker, seen, now)

    def _note(self, worker: Worker[T], seen: _Seen, now: float) -> None:
        """Count a handling that hangs, and tell of it: of the next one a second later, if it hangs still."""
        if seen.is_counted and now < self._tell_at:
            return
        batch = worker.batch
        frame = None if batch is None or batch.thread is None else sys._current_frames().get(batch.thread)
        if batch is None or frame is None or _handling(worker) != seen.handling:
            return  # It has just returned.
        if not seen.is_counted:
            seen.is_counted = True
            self._pool.timeouts += 1
        if now < self._tell_at:
            return
        self._tell_at = now + _TELL_EVERY_S
        stack = traceback.extract_stack(frame)
        above = [index for index, line in enumerate(stack) if line.name in _RUN and line.filename.endswith("executors.py")]
        seen.symbol = batch.items[min(batch.done, len(batch.items) - 1)].symbol
        logger.warning(
            "handler.hangs: %s, for more than %g s; a thread cannot be stopped, so it is waited for. It is here:\n%s",
            seen.symbol,
            self._timeout_s,
            "".join(traceback.format_list(stack[above[-1] + 1 if above else 0 :])),
            extra={"symbol": seen.symbol, "worker": worker.name, "timeout_s": self._timeout_s},
        )


def _handling(worker: Worker[T]) -> tuple[object, ...]:
    """Return what tells the handling that *worker*'s thread is in from every other; empty where it is in none, or waits between tries."""
    batch = worker.batch
    if batch is None or batch.thread is None or worker.pausing:
        return ()
    return batch, batch.sent_at, batch.done, worker.retries
