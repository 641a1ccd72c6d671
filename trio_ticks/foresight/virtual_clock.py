"""A clock for trio that jumps: no time passes but what tasks wait for, or are given.

Rules: it jumps only when no task can run, and not while a thread works for one. Only
trio's run loop calls :meth:`VirtualClock.deadline_to_sleep_time`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final, final

import trio

from ..clock import monotonic
from ..logs import log_event

__all__ = ["VirtualClock"]

logger = logging.getLogger("trio_ticks.foresight")

_FOR_EVER: Final = 86_400.0
_HELD_S: Final = 0.05
"""How long the loop waits for a thread before it looks again, in real seconds."""
_HELD_LONG_S: Final = 10.0
"""A thread that works for so long is reported once, in real seconds."""
_STUCK_S: Final = 2.0
"""If nothing happens for so long, and no task waits for a time, that is reported."""
_REPORT_S: Final = 0.2
"""How often progress is reported, in real seconds."""
_JUMPS: Final = 64
"""The real clock is read once in so many jumps."""


@final
class VirtualClock(trio.abc.Clock):
    """A clock that stands still while tasks run, and jumps to what they wait for.

    Args:
        on_progress: called now and then, in the event loop, with the time.
    """

    def __init__(self, on_progress: Callable[[float], object] | None = None) -> None:
        self._now = 0.0
        self._step_began: float | None = None
        self._on_progress = on_progress
        self._reported_at = monotonic()
        self._jumps = 0
        self._limiter: trio.CapacityLimiter | None = None
        self._held_since = math.inf
        self._is_reported = False
        self._stuck_at = math.inf
        """When the loop last began to wait for what no time brings, in real seconds."""
        self._stuck_is_reported = False

    def start_clock(self) -> None:
        """Do nothing; called by trio."""

    def current_time(self) -> float:
        """Return the time in seconds; safe in any thread."""
        began = self._step_began
        return self._now if began is None else self._now + (monotonic() - began)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Jump to *deadline*; called by trio when no task can run."""
        if deadline <= self._now:
            return 0.0
        if self._is_held():
            return _HELD_S
        if deadline == math.inf:
            return self._wait_for_others()
        self._stuck_at = math.inf
        self._now = deadline
        self._jumps += 1
        if self._on_progress is not None and self._jumps % _JUMPS == 0:
            now = monotonic()
            if now - self._reported_at >= _REPORT_S:
                self._reported_at = now
                self._on_progress(self._now)
        return 0.0

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass at once, in which no other task has run.

        That is how long a handler has computed.
        """
        self._now += seconds

    def begin_step(self) -> None:
        """Let time pass as it really does, until :meth:`end_step`.

        What is computed before a sleep must not be swallowed by that: its deadline is
        counted from when it begins.
        """
        self._step_began = monotonic()

    def end_step(self) -> float:
        """Stand still again; return how long the step took, in seconds."""
        assert self._step_began is not None
        took_s = monotonic() - self._step_began
        self._step_began = None
        self._now += took_s
        return took_s

    def _wait_for_others(self) -> float:
        """Return how long to wait, really, for what no time brings, such as a socket.

        Trio asks anew whenever anything has happened, and when that wait is over.
        """
        if self._stuck_is_reported:
            return _FOR_EVER
        now = monotonic()
        # An event may have come early; a wait that is over may seem a little short.
        if now - self._stuck_at < 0.99 * _STUCK_S:
            self._stuck_at = now
            return _STUCK_S
        self._stuck_is_reported = True
        log_event(
            logger,
            logging.WARNING,
            "clock.stuck",
            "nothing has happened for %g s, and no task waits for a time: a handler waits for "
            "what only a real connection can bring, or for what never comes, such as an event "
            "that nobody sets. The replay does not end before it",
            _STUCK_S,
            seconds=_STUCK_S,
        )
        return _FOR_EVER

    def _is_held(self) -> bool:
        """Whether a thread of trio's works now: its end is to come at this time."""
        if self._limiter is None:
            self._limiter = trio.to_thread.current_default_thread_limiter()
        if not self._limiter.borrowed_tokens:
            self._held_since, self._is_reported = math.inf, False
            return False
        now = monotonic()
        if self._held_since == math.inf:
            self._held_since = now
        elif now - self._held_since > _HELD_LONG_S and not self._is_reported:
            self._is_reported = True
            log_event(
                logger,
                logging.WARNING,
                "clock.held",
                "a thread has worked for %g s, and the virtual clock waits for it: no time "
                "passes meanwhile. A thread that never ends stops a virtual replay",
                _HELD_LONG_S,
                seconds=_HELD_LONG_S,
            )
        return True
