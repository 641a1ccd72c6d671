"""The controller behind :class:`~trio_ticks.Throttle`: from looks at the queue to the rate that the source should keep to.

Rules: sans-I/O and without a clock of its own: whoever runs it brings numbers, and gets a number. The rate never leaves ``floor`` and
``ceiling``, and without load it goes back to no limit, whatever came before.
"""

from __future__ import annotations

import math
from typing import Final, final

from .overflow import Throttle

__all__ = ["RateController"]

_SERVICE_MEMORY_S: Final = 1.0
"""The measured rate of the workers forgets over so many seconds."""
_PATIENCE_S: Final = 1.0
"""How long a cut may take to show: what is in the sockets comes all the same. Cutting again before would overshoot."""
_IN_USE: Final = 0.7
"""A limit of which less than this share comes in is not what limits."""
_IDLE: Final = 0.1
"""Below this share of its target the queue is about to starve the workers."""
_NOISE: Final = 0.97
"""A cut that is smaller is none."""
_DEEPEST: Final = 3.0
"""A cut is as deep as the queue is over its target, up to so many times."""
_RELEASE_S: Final = 2.0
"""How long a limit must have been unused to be lifted."""
_RELEASE_MAX_S: Final = 60.0
_RELAPSE_S: Final = 10.0
"""A limit that is needed again so soon should not have been lifted: the next one stays twice as long."""


@final
class RateController:
    """Additive increase, multiplicative decrease, anchored at what the workers are measured to take.

    The anchor makes it settle. A controller that only knows "too much" and "too little" finds the workers' rate by swinging around it;
    this one reads it off the workers whenever they have had enough to do, cuts to a share of it, and climbs to a little above it, so that
    the queue moves slowly around its target, neither empty nor full.
    """

    def __init__(self, settings: Throttle) -> None:
        self._settings = settings
        self.rate: float | None = settings.ceiling
        """What the source should keep to, in ticks a second; ``None``: no limit."""
        self.service_rate = 0.0
        """What the workers can take, in ticks a second, as far as it has shown."""
        self.level = 0.0
        """How much is queued: 1 is the target."""
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
        """Tell whether a source without a limit needs one before the next regular look."""
        return self.rate == self._settings.ceiling and queued >= self._settings.target_fill * capacity

    def update(self, now: float, queued: int, capacity: int, lag_s: float, consumed: int) -> float | None:
        """Look at the queue, and return the rate to ask for.

        Args:
            now: seconds, on any clock that only goes forward.
            queued: ticks that wait.
            capacity: ticks that may wait.
            lag_s: how long the oldest of them has waited, in seconds.
            consumed: ticks that the workers have finished so far.
        """
        if self._seen is None:
            self._seen = (now, queued, consumed)
            return self.rate
        then, queued_then, consumed_then = self._seen
        passed = now - then
        # Shorter than this, the numbers say little; a crossing is looked at again soon enough.
        if passed < self._settings.interval / 4:
            return self.rate
        self._seen = (now, queued, consumed)
        taken = (consumed - consumed_then) / passed
        came = taken + (queued - queued_then) / passed
        self._measure(taken, passed, saturated=min(queued, queued_then) > 0)
        before = self.level
        self.level = max(queued / (self._settings.target_fill * capacity), self._wait(queued, lag_s) / self._settings.target_wait)
        if self.level >= 1:
            self._unused_s = 0.0
            self._starved_s = 0.0
            self._cut(now, falling=self.level < before and came < taken)
        elif self.rate is not None:
            self._climb(now, passed, came, saturated=min(queued, queued_then) > 0)
        return self.rate

    def _wait(self, queued: int, lag_s: float) -> float:
        """Return how long what comes now will wait. The oldest tick tells of the queue when it came: late news while that drains."""
        return min(lag_s, queued / self.service_rate) if self.service_rate else lag_s if queued else 0.0

    def _measure(self, taken: float, passed: float, *, saturated: bool) -> None:
        """Learn what the workers can take: all that they took while there was more; otherwise it is a lower bound."""
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
            # It has been told, and it does not help: more comes than was asked for.
            wanted = self.rate * settings.decrease
        if self.rate is None or self.rate == settings.ceiling:
            relapse = now - self._released_at < _RELAPSE_S
            self._release_after = min(2 * self._release_after, _RELEASE_MAX_S) if relapse else _RELEASE_S
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
        # Workers that starve under a limit show that they are faster than we know: the longer, the bolder.
        self._starved_s = self._starved_s + passed if in_use and self.level < _IDLE else 0.0
        step = settings.increase * max(self.service_rate, settings.floor) * passed * (1 + self._starved_s / settings.interval)
        wanted = self.rate + step
        if saturated:
            # As far above the workers' rate as the cut goes below: the queue rises no faster than it falls.
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
