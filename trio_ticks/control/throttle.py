"""The controller behind :class:`~trio_ticks.Throttle`: finds the source's rate.

Rules: no I/O, and no clock of its own: the caller brings numbers and gets a number. The
rate always lies between ``floor`` and ``ceiling``. Without load it goes back to no
limit, whatever came before.
"""

from __future__ import annotations

import math
from typing import Final, final

from ..overflow import Throttle

__all__ = ["RateController"]

_SERVICE_MEMORY_S: Final = 1.0
"""The time constant of the workers' measured rate, in seconds."""
_PATIENCE_S: Final = 1.0
"""How long a cut may take to show, in seconds.

What is in the sockets arrives all the same, so cutting again before would overshoot.
"""
_IN_USE: Final = 0.7
"""A limit counts as unused while less than this share of it comes in."""
_IDLE: Final = 0.1
"""Below this share of its target the queue is nearly empty, and the workers starve."""
_NOISE: Final = 0.97
"""A cut must go below this share of the present rate; a smaller one is none."""
_DEEPEST: Final = 3.0
"""A cut is as deep as the queue is over its target, up to this many times."""
_RELEASE_S: Final = 2.0
"""How long a limit must have been unused before it is lifted, in seconds."""
_RELEASE_MAX_S: Final = 60.0
"""The longest that :data:`_RELEASE_S` becomes by doubling, in seconds."""
_RELAPSE_S: Final = 10.0
"""A limit needed again this soon was lifted too early: the next stays twice as long."""


@final
class RateController:
    """Additive increase and multiplicative decrease around the workers' measured rate.

    The measured rate makes it settle. A controller that only knows "too much" and "too
    little" finds the workers' rate by swinging around it. This one measures it whenever
    the workers have enough to do, cuts to a share of it and climbs to a little above
    it, so that the queue moves slowly around its target, neither empty nor full.
    """

    def __init__(self, settings: Throttle) -> None:
        self._settings = settings
        self.rate: float | None = settings.ceiling
        """What the source should keep to, in ticks a second; ``None``: no limit."""
        self.service_rate = 0.0
        """What the workers can take, in ticks a second, as far as it was measured."""
        self.level = 0.0
        """How much is queued, as a multiple of the target."""
        self.steps_up = 0
        self.steps_down = 0
        self._seen: tuple[float, int, int] | None = None
        self._busy_s = 0.0
        self._cut_at = -math.inf
        self._starved_s = 0.0
        self._unused_s = 0.0
        self._release_after = _RELEASE_S
        self._released_at = -math.inf

    def is_urgent(self, queued: int, capacity: int) -> bool:
        """Tell whether a source without a limit needs one before the next step."""
        return (
            self.rate == self._settings.ceiling and queued >= self._settings.target_fill * capacity
        )

    def update(
        self,
        now: float,
        queued: int,
        capacity: int,
        lag_s: float,
        consumed: int,
        *,
        parked_s: float = 0.0,
    ) -> float | None:
        """Return the rate to ask for, from the queue's present state.

        Args:
            now: seconds, on any clock that only goes forward.
            queued: ticks that wait.
            capacity: ticks that may wait.
            lag_s: how long the oldest queued tick has waited, in seconds.
            consumed: ticks that the workers have finished so far.
            parked_s: how much of *lag_s* it has waited behind one of its symbol, while
                ticks of others came past it, in seconds.
        """
        if self._seen is None:
            self._seen = (now, queued, consumed)
            return self.rate
        then, queued_then, consumed_then = self._seen
        passed = now - then
        # Over less time the measured rates are mostly noise; the next step is soon
        # enough.
        if passed < self._settings.interval / 4:
            return self.rate
        self._seen = (now, queued, consumed)
        taken = (consumed - consumed_then) / passed
        came = taken + (queued - queued_then) / passed
        self._measure(taken, passed, saturated=min(queued, queued_then) > 0)
        before = self.level
        self.level = max(
            queued / (self._settings.target_fill * capacity),
            self._wait(queued, lag_s, parked_s) / self._settings.target_wait,
        )
        if self.level >= 1:
            self._unused_s = 0.0
            self._starved_s = 0.0
            self._cut(now, falling=self.level < before and came < taken)
        elif self.rate is not None:
            self._climb(now, passed, came, saturated=min(queued, queued_then) > 0)
        return self.rate

    def _wait(self, queued: int, lag_s: float, parked_s: float) -> float:
        """Return how long a tick that comes now will wait for a worker, in seconds.

        The oldest tick's age reflects the queue's length when it arrived; while the
        queue drains it overstates the wait, so it is capped by length / service rate.
        What was parked meanwhile (*parked_s*) is not: it waits for one worker and not
        for all of them, so their rate tells nothing of it.
        """
        if not self.service_rate:
            return lag_s if queued else 0.0
        return min(lag_s - parked_s, queued / self.service_rate) + parked_s

    def _measure(self, taken: float, passed: float, *, saturated: bool) -> None:
        """Measure what the workers can take.

        While ticks wait it is what they took; otherwise that is a lower bound only.
        """
        if saturated:
            self._busy_s = min(self._busy_s + passed, _SERVICE_MEMORY_S)
            self.service_rate += (taken - self.service_rate) * min(1.0, passed / self._busy_s)
        else:
            self._busy_s = 0.0
            self.service_rate = max(self.service_rate, taken)

    def _cut(self, now: float, *, falling: bool) -> None:
        settings = self._settings
        wanted = self.service_rate * settings.decrease ** min(self.level, _DEEPEST)
        if self.rate is not None and wanted >= self.rate * _NOISE:
            if falling or now - self._cut_at < _PATIENCE_S:
                return
            # The source was asked, and it did not help: it sends more than it was asked
            # for.
            wanted = self.rate * settings.decrease
        if self.rate is None or self.rate == settings.ceiling:
            relapse = now - self._released_at < _RELAPSE_S
            self._release_after = (
                min(2 * self._release_after, _RELEASE_MAX_S) if relapse else _RELEASE_S
            )
        if self._set(wanted):
            self._cut_at = now

    def _climb(self, now: float, passed: float, came: float, *, saturated: bool) -> None:
        assert self.rate is not None
        settings = self._settings
        in_use = came >= _IN_USE * self.rate
        self._unused_s = 0.0 if in_use else self._unused_s + passed
        if self._unused_s >= self._release_after:
            if self.rate != settings.ceiling:
                self._released_at = now
                self.steps_up += 1
            self.rate = settings.ceiling
            self._unused_s = 0.0
            self._starved_s = 0.0
            return
        # Workers that starve under a limit are faster than was measured. The longer
        # they starve, the larger the steps.
        self._starved_s = self._starved_s + passed if in_use and self.level < _IDLE else 0.0
        step = (
            settings.increase
            * max(self.service_rate, settings.floor)
            * passed
            * (1 + self._starved_s / settings.interval)
        )
        wanted = self.rate + step
        if saturated:
            # Go as far above the workers' rate as a cut goes below it, so that the
            # queue rises no faster than it falls.
            wanted = max(self.rate, min(wanted, self.service_rate * (2 - settings.decrease)))
        self._set(wanted)

    def _set(self, wanted: float) -> bool:
        settings = self._settings
        wanted = max(wanted, settings.floor)
        if settings.ceiling is not None:
            wanted = min(wanted, settings.ceiling)
        if wanted == self.rate:
            return False
        if self.rate is None or wanted < self.rate:
            self.steps_down += 1
        else:
            self.steps_up += 1
        self.rate = wanted
        return True
