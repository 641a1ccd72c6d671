"""A pool that sizes itself: its bounds, and the controller that finds its size.

The controller grows the pool at once. It shrinks it only by workers that were not
needed during a whole cool-down. It never asks for more workers than the bounds allow,
or than can help.

Rules: no I/O, and no clock of its own: the caller brings readings and gets a number.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Literal, final

import attrs

from ..checks import check_count, check_fraction, check_seconds, checked
from ..errors import ConfigError
from .scaling_gain import Gain

__all__ = ["AutoWorkers", "Limit", "Reading", "SizeController"]

Limit = Literal["maximum", "loop", "gil", "cores", "gain", "order"]
"""What keeps a pool from growing.

``maximum``: its upper bound. ``loop``: the event loop's one core. ``gil``: the one core
of threads that share a GIL. ``cores``: the usable cores. ``gain``: more workers did not
get more done. ``order``: the ticks that wait belong to symbols that are being handled.
"""

_SHORTEST_S: Final = 0.5
_LONGEST_S: Final = 5.0
_ENOUGH: Final = 20
"""A measurement spans half a second, or longer until this many ticks were handled.

It spans five seconds at most.
"""
_AHEAD_S: Final = 1.0
"""How many seconds a backlog may take, and how far ahead to hire workers."""
_SATURATED: Final = 0.9
"""Workers busy for more than this share of their time are too few if ticks wait."""
_JAMMED: Final = 0.5
"""An idle share below this counts as saturation at once if the backlog grows.

It grows if more ticks wait than were handled since the last reading.
"""
_SPARE: Final = 0.8
"""A pool shrinks to this share of its size or less: a smaller step is not worth it."""
_WORTH: Final = 1.25
"""Under a measured limit (``loop``, ``gil``) a pool grows by this factor or more."""
_HOLD_MOST: Final = 8.0
"""If the load comes and goes, the cool-down grows up to this many times the setting."""
_FULL: Final = 0.85
"""A core that is busy for this share of the time counts as full."""
_ROUNDING: Final = 0.2
"""A limit on the workers that exceeds a whole number by less is rounded down."""
_BEYOND_GIL: Final = 1.25
"""Threads that keep this many cores busy run code that releases the GIL."""
_GIL_MEMORY_S: Final = 60.0
"""For how long that is remembered, in seconds."""
_TELLING: Final = 0.01
"""How busy the loop must be (a share) for its share of a core to be measured."""
_GETS_LEAST: Final = 0.05
"""The least share of a core that the loop's thread is assumed to get."""


@attrs.frozen(slots=True)
class AutoWorkers:
    """Have the pool size itself between two bounds.

    ``workers="auto"`` means this with the defaults.

    Raises:
        ConfigError: a setting is out of range, or the bounds are the wrong way round.
    """

    minimum: int = attrs.field(default=1, validator=checked(check_count, of="workers"))
    """How many workers are always there; the pool begins with them."""
    maximum: int = attrs.field(default=64, validator=checked(check_count, of="workers"))
    """How many workers there are at most."""
    target_utilization: float = attrs.field(
        default=0.7, validator=checked(check_fraction), kw_only=True
    )
    """The share of their time that workers should be busy; the rest is for bursts."""
    target_wait: float = attrs.field(
        default=0.1, validator=checked(check_seconds, positive=True), kw_only=True
    )
    """How long ticks may wait in the queue, in seconds.

    If ticks wait longer, more workers are hired to work off the backlog.
    """
    cool_down: float = attrs.field(
        default=15.0, validator=checked(check_seconds, positive=True), kw_only=True
    )
    """How long workers must not have been needed before they go, in seconds.

    If they are needed again soon after, the controller makes the cool-down longer.
    """

    def __attrs_post_init__(self) -> None:
        if self.minimum > self.maximum:
            raise ConfigError(f"minimum ({self.minimum}) must not exceed maximum ({self.maximum})")


@attrs.frozen(slots=True)
class Reading:
    """A pool's counters at one moment; ``busy_s`` to ``cpu_s`` never fall."""

    now: float
    """Seconds, on any clock that only goes forward."""
    busy_s: float
    """How long workers did not wait for ticks, summed over all there ever were."""
    life_s: float
    """How long they have existed, summed in the same way."""
    came: int
    """Ticks that came and that a worker was to handle."""
    handled: int
    loop_busy_s: float
    """How long the event loop did not wait for anything to happen."""
    loop_cpu_s: float
    """How long it had a core in this time; else others had it, or the GIL."""
    cpu_s: float
    """How long threads had a core, summed over all threads."""
    size: int
    """How many workers there are."""
    in_flight: int
    """Ticks that workers hold."""
    waiting: int
    """Ticks that a free worker could begin at once."""
    queued: int
    """Ticks that wait, also those behind a symbol that is being handled."""
    wait_s: float = 0.0
    """How long the oldest of all queued ticks has waited."""


@final
class SizeController:
    """Finds how many workers are needed, by Little's law.

    The load is arrivals a second x mean handling time; divided by the target
    utilisation it is the number of workers. While the workers keep up, the load is how
    many of them are busy, however long the handling takes. While they do not, it is
    computed from the arrivals, the backlog and the measured handling time.

    That time grows if the handlers obstruct each other, and a controller that relies on
    it would then grow the pool for ever. Two limits prevent this: one computed from the
    cores that the handlers share, and a check whether growing has helped
    (:class:`Gain`).

    Args:
        settings: the bounds and targets.
        place: where the handlers run.
        cores: how many cores are usable.
        gil: whether threads share a GIL.
    """

    def __init__(
        self,
        settings: AutoWorkers,
        place: Literal["loop", "thread", "process"],
        cores: float,
        *,
        gil: bool = True,
    ) -> None:
        self._settings = settings
        self._place = place
        self._cores = cores
        self._gil = gil
        self.arrival_rate = 0.0
        """Ticks a second."""
        self.handling_s = 0.0
        """How long a worker is busy with one tick, on average, in seconds."""
        self.utilization = 0.0
        """Share of their time that the workers are busy."""
        self.wanted = settings.minimum
        """How many workers the load asks for, bounds and limits aside."""
        self.limit: Limit | None = None
        """What keeps the pool from growing to ``wanted``."""
        self._busy = self._cpu = self._handled_rate = 0.0
        self._readings: deque[Reading] = deque()
        self._peaks: deque[tuple[float, int]] = deque()
        self._gain = Gain()
        self._hold_s = settings.cool_down
        self._changed_at = -math.inf
        self._shrunk_at = -math.inf
        self._beyond_gil_at = -math.inf

    def update(self, reading: Reading) -> int:
        """Return how many workers there should be after a new *reading*."""
        readings = self._readings
        if not readings:
            self._changed_at = reading.now
            readings.append(reading)
            return reading.size
        before = readings[-1]
        if reading.now <= before.now:
            return reading.size
        readings.append(reading)
        while readings[1].now <= reading.now - _LONGEST_S:
            readings.popleft()
        self._measure(reading)
        idle = 1 - (reading.busy_s - before.busy_s) / max(reading.life_s - before.life_s, 1e-9)
        saturated = min(before.waiting, reading.waiting) > 0 and idle < 1 - _SATURATED
        if reading.waiting > reading.handled - before.handled > 0 and idle < _JAMMED:
            # The backlog began between two readings, and the workers were idle until
            # then. Do not wait for another reading: the queue may be full by then.
            saturated = True
        self._gain.judge(
            reading.now, reading.size, reading.handled, self.handling_s, saturated=saturated
        )
        return self._decide(reading, self._load(reading, saturated=saturated), saturated=saturated)

    def _measure(self, reading: Reading) -> None:
        """Measure over the shortest span that holds enough time and enough ticks."""
        since = self._readings[0]
        for earlier in reversed(self._readings):
            if (
                reading.now - earlier.now >= _SHORTEST_S
                and reading.handled - earlier.handled >= _ENOUGH
            ):
                since = earlier
                break
        passed, busy_s = reading.now - since.now, reading.busy_s - since.busy_s
        handled = reading.handled - since.handled
        self.arrival_rate = (reading.came - since.came) / passed
        self._handled_rate = handled / passed
        # A tick that was begun before the span, or is not ended at its end, counts by
        # half.
        counted = handled + (reading.in_flight - since.in_flight) / 2
        if handled and counted > 0:
            self.handling_s = busy_s / counted
        self.utilization = busy_s / max(reading.life_s - since.life_s, 1e-9)
        self._busy = busy_s / passed
        self._measure_cores(reading, since)

    def _measure_cores(self, reading: Reading, since: Reading) -> None:
        """Estimate how many cores the handlers would use on an idle machine."""
        passed = reading.now - since.now
        loop_busy = (reading.loop_busy_s - since.loop_busy_s) / passed
        if self._place == "loop":
            self._cpu = loop_busy
            return
        cpu = (reading.cpu_s - since.cpu_s) / passed
        if cpu >= _BEYOND_GIL:
            self._beyond_gil_at = reading.now
        # The loop's thread wants a core or the GIL now and then. Take the share of that
        # time for which it gets one as the share that all other threads get, too.
        gets = (
            (reading.loop_cpu_s - since.loop_cpu_s) / passed / loop_busy
            if loop_busy > _TELLING
            else 1.0
        )
        self._cpu = cpu / min(1.0, max(gets, _GETS_LEAST))

    def _load(self, reading: Reading, *, saturated: bool) -> float:
        """Return how many workers would be busy if there were enough of them."""
        if not saturated:
            return self._busy
        if reading.handled == self._readings[0].handled:
            # No tick was handled in the span, so its handling time is unknown, and
            # long: each tick that waits needs a worker of its own.
            return self._busy + reading.waiting
        backlog = 0.0
        if reading.wait_s > self._settings.target_wait:
            backlog = max(0.0, reading.waiting - self.arrival_rate * self._settings.target_wait)
        arrivals = self.arrival_rate + backlog / _AHEAD_S
        if self._gain.handling_s:
            # Until the last growth has shown that it helped, use the handling time
            # before it: the present one may be longer because the handlers obstruct
            # each other.
            return arrivals * self._gain.handling_s
        # Where ticks take long, not all the workers needed in the end are needed now.
        soon = self._busy + reading.waiting + self.arrival_rate * _AHEAD_S
        return max(self._busy, min(arrivals * self.handling_s, soon))

    def _limit(self, reading: Reading) -> tuple[float, Limit]:
        """Return how many workers can help on the cores that they share."""
        if self._place == "process":
            return math.ceil(self._cores), "cores"
        if self._busy <= 0 or self._cpu <= 0:
            return math.inf, "cores"
        name: Limit = "cores"
        cores, least = self._cores, 1.0
        if self._place == "loop":
            cores, name = min(cores, 1.0), "loop"
        elif self._gil and reading.now - self._beyond_gil_at > _GIL_MEMORY_S:
            # Allow a second thread, to find out whether the handlers release the GIL:
            # then the two keep more than one core busy.
            cores, name, least = min(cores, 1.0), "gil", min(self._cores, 2.0)
        # A worker that computes for a share of its time leaves its core to others
        # otherwise.
        share = min(1.0, self._cpu / self._busy)
        return math.ceil(max(least, cores, cores * _FULL / share - _ROUNDING)), name

    def _decide(self, reading: Reading, load: float, *, saturated: bool) -> int:
        settings, now, size = self._settings, reading.now, reading.size
        self.wanted = max(1, math.ceil(load / settings.target_utilization - 1e-9))
        most, self.limit = min(
            self._limit(reading),
            (self._gain.ceiling(now), "gain"),
            (settings.maximum, "maximum"),
            key=lambda limit: limit[0],
        )
        if self.wanted <= most:
            # By Little's law again: this many ticks wait if the mean wait is
            # target_wait.
            waits = reading.queued > max(
                size, settings.target_wait * max(self.arrival_rate, self._handled_rate)
            )
            self.limit = (
                "order" if waits and not saturated and self.utilization < _SATURATED else None
            )
        aim = (
            max(settings.minimum, min(self.wanted, int(most)))
            if most < math.inf
            else max(settings.minimum, self.wanted)
        )
        while self._peaks and self._peaks[-1][1] <= aim:
            self._peaks.pop()
        self._peaks.append((now, aim))
        while self._peaks[0][0] < now - _HOLD_MOST * settings.cool_down:
            self._peaks.popleft()
        if aim > size:
            # Grow only if the load is more than halfway from the target utilisation to
            # full use: below that, neither growing nor shrinking is worth it.
            noise = aim < self.wanted and self.limit in ("loop", "gil") and aim < size * _WORTH
            if (
                load > size * (1 + settings.target_utilization) / 2 and not noise
            ) or size < settings.minimum:
                self._grow(now, size, saturated=saturated)
                return aim
        elif aim < size and now - self._changed_at >= self._hold_s:
            peak = next(peak for at, peak in self._peaks if at >= now - self._hold_s)
            if peak <= size * _SPARE or size > settings.maximum:
                self._changed_at = self._shrunk_at = now
                return min(peak, settings.maximum)
        return size

    def _grow(self, now: float, size: int, *, saturated: bool) -> None:
        cool_down = self._settings.cool_down
        if now - self._shrunk_at < 2 * self._hold_s:
            # These workers should not have gone. Keeping idle workers until the next
            # wave costs less than to dismiss and hire with each wave.
            self._hold_s = min(2 * self._hold_s, _HOLD_MOST * cool_down)
        elif now - self._shrunk_at > 2 * _HOLD_MOST * cool_down:
            self._hold_s = cool_down
        self._changed_at = now
        if saturated:
            self._gain.grown(now, size, self._handled_rate, self.handling_s)
