"""A pool that sizes itself: between which bounds, and the controller that finds the size from what it is told of the pool.

Rules: sans-I/O and without a clock of its own: whoever runs it brings readings, and gets a number. It grows at once, and shrinks only by
what was not needed for a whole cool-down. More than the bounds allow, or than can help, it never asks for.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Literal, final

import attrs

from .errors import ConfigError
from .scaling_gain import Gain

__all__ = ["AutoWorkers", "Limit", "Reading", "SizeController"]

Limit = Literal["maximum", "loop", "gil", "cores", "gain", "order"]
"""What keeps a pool from growing: its bound; the one core of the event loop, or of the threads that share a GIL; the usable cores; that
more workers did not get more done; or that what waits belongs to symbols that are being handled."""

_SHORTEST_S: Final = 0.5
_LONGEST_S: Final = 5.0
_ENOUGH: Final = 20
"""A measurement spans half a second, or longer until so many ticks were handled in it, but five seconds at most."""
_AHEAD_S: Final = 1.0
"""In how long a backlog is to be worked off, and how far ahead workers are hired."""
_SATURATED: Final = 0.9
"""Workers that were idle for less than the rest of their time, while ticks waited, are too few."""
_JAMMED: Final = 0.5
"""Workers that were idle for less of their time, while more ticks came to wait than they handled, are too few since just now."""
_SPARE: Final = 0.8
"""A pool shrinks to this share of its size, or less; for less than that it is not worth it."""
_WORTH: Final = 1.25
"""Up to a limit that is measured a pool grows by such steps, or larger ones."""
_HOLD_MOST: Final = 8.0
"""Where the load comes and goes, the cool-down grows to so many times what was asked for."""
_FULL: Final = 0.85
"""A core that is busy for so much of the time has nothing to give."""
_ROUNDING: Final = 0.2
_BEYOND_GIL: Final = 1.25
"""Who keeps so many cores busy in threads does it in code that releases the GIL."""
_GIL_MEMORY_S: Final = 60.0
_TELLING: Final = 0.01
_GETS_LEAST: Final = 0.05


def _check_count(_instance: object, field: attrs.Attribute[int], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{field.name} must be a whole number of workers, 1 or more, got {value!r}")


def _check_share(_instance: object, field: attrs.Attribute[float], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"{field.name} must be more than 0 and less than 1, got {value!r}")


def _check_seconds(_instance: object, field: attrs.Attribute[float], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{field.name} must be a number of seconds, more than 0, got {value!r}")


@attrs.frozen(slots=True)
class AutoWorkers:
    """Have the pool size itself between two bounds. ``workers="auto"`` means this with the defaults.

    Raises:
        ConfigError: a setting is out of range, or the bounds are the wrong way round.
    """

    minimum: int = attrs.field(default=1, validator=_check_count)
    """Workers that are always there; the pool begins with them."""
    maximum: int = attrs.field(default=64, validator=_check_count)
    """Workers at most."""
    target_utilization: float = attrs.field(default=0.7, validator=_check_share, kw_only=True)
    """Which share of their time the workers should be busy: the rest is for bursts."""
    target_wait: float = attrs.field(default=0.1, validator=_check_seconds, kw_only=True)
    """How long ticks may wait in the queue, in seconds; what waits longer asks for more workers."""
    cool_down: float = attrs.field(default=15.0, validator=_check_seconds, kw_only=True)
    """For how long workers must not have been needed before they go, in seconds. Where they are needed again soon after, it grows."""

    def __attrs_post_init__(self) -> None:
        if self.minimum > self.maximum:
            raise ConfigError(f"minimum ({self.minimum}) must not exceed maximum ({self.maximum})")


@attrs.frozen(slots=True)
class Reading:
    """A pool's counters at one moment; those down to the cores' time only ever rise."""

    now: float
    """Seconds, on any clock that only goes forward."""
    busy_s: float
    """For how long its workers, those that left included, did not wait for ticks."""
    life_s: float
    """For how long they have been there."""
    came: int
    """Ticks that came and were to be handled."""
    handled: int
    loop_busy_s: float
    """For how long the event loop did not wait for anything to happen."""
    loop_cpu_s: float
    """For how long it really ran meanwhile: for the rest others had the core, or the GIL."""
    cpu_s: float
    """For how long all threads together kept a core busy."""
    size: int
    """How many workers there are."""
    in_flight: int
    """Ticks that they hold."""
    waiting: int
    """Ticks that a free worker could begin at once."""
    queued: int
    """Ticks that wait, those behind a symbol that is being handled included."""
    wait_s: float = 0.0
    """How long the oldest of all queued ticks has waited."""


@final
class SizeController:
    """Finds how many workers are needed, by Little's law: arrivals a second x mean handling time / target utilisation.

    While the workers keep up, that product is how many of them are busy, whatever the handling takes. While they do not, what comes and
    what waits is taken times the handling time measured. That time grows where the handlers are in each other's way, and a controller
    that trusts it grows for ever; so there is a limit from the cores that they share, and a look whether growing has helped.

    Args:
        settings: the bounds and targets.
        place: where the handlers run.
        cores: how many cores are usable.
        gil: whether threads share a GIL.
    """

    def __init__(self, settings: AutoWorkers, place: Literal["loop", "thread", "process"], cores: float, *, gil: bool = True) -> None:
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
        """What the load asks for, whatever the bounds; limits and bounds aside."""
        self.limit: Limit | None = None
        """What keeps the pool from what is wanted."""
        self._busy = self._cpu = self._handled_rate = 0.0
        self._readings: deque[Reading] = deque()
        self._peaks: deque[tuple[float, int]] = deque()
        self._gain = Gain()
        self._hold_s = settings.cool_down
        self._changed_at = -math.inf
        self._shrunk_at = -math.inf
        self._beyond_gil_at = -math.inf

    def update(self, reading: Reading) -> int:
        """Return how many workers there should be, by a new *reading*."""
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
            # They were idle until it began, between two looks: a whole look more, and the queue may be full.
            saturated = True
        self._gain.look(reading.now, reading.size, reading.handled, self.handling_s, saturated=saturated)
        return self._decide(reading, self._load(reading, saturated=saturated), saturated=saturated)

    def _measure(self, reading: Reading) -> None:
        """Look back as far as it takes to say something."""
        since = self._readings[0]
        for earlier in reversed(self._readings):
            if reading.now - earlier.now >= _SHORTEST_S and reading.handled - earlier.handled >= _ENOUGH:
                since = earlier
                break
        passed, busy_s = reading.now - since.now, reading.busy_s - since.busy_s
        handled = reading.handled - since.handled
        self.arrival_rate = (reading.came - since.came) / passed
        self._handled_rate = handled / passed
        # What was begun before or is not ended yet counts by half.
        counted = handled + (reading.in_flight - since.in_flight) / 2
        if handled and counted > 0:
            self.handling_s = busy_s / counted
        self.utilization = busy_s / max(reading.life_s - since.life_s, 1e-9)
        self._busy = busy_s / passed
        self._measure_cores(reading, since)

    def _measure_cores(self, reading: Reading, since: Reading) -> None:
        """Find out how many cores the handlers would use, on a machine where they get what they ask for."""
        passed = reading.now - since.now
        loop_busy = (reading.loop_busy_s - since.loop_busy_s) / passed
        if self._place == "loop":
            self._cpu = loop_busy
            return
        cpu = (reading.cpu_s - since.cpu_s) / passed
        if cpu >= _BEYOND_GIL:
            self._beyond_gil_at = reading.now
        # As the loop's thread fares, which wants a core or the GIL now and then, so do the others.
        gets = (reading.loop_cpu_s - since.loop_cpu_s) / passed / loop_busy if loop_busy > _TELLING else 1.0
        self._cpu = cpu / min(1.0, max(gets, _GETS_LEAST))

    def _load(self, reading: Reading, *, saturated: bool) -> float:
        """Return how many workers would be busy if there were enough."""
        if not saturated:
            return self._busy
        if reading.handled == self._readings[0].handled:
            # No tick has taken so little that we know how long one takes: each that waits needs a worker for itself.
            return self._busy + reading.waiting
        backlog = 0.0
        if reading.wait_s > self._settings.target_wait:
            backlog = max(0.0, reading.waiting - self.arrival_rate * self._settings.target_wait)
        arrivals = self.arrival_rate + backlog / _AHEAD_S
        if self._gain.handling_s:
            # Until it has shown that the last growth helped, what a tick took before counts: they may be in each other's way.
            return arrivals * self._gain.handling_s
        # Where ticks take long, not all that will be busy in the end has to be there now.
        soon = self._busy + reading.waiting + self.arrival_rate * _AHEAD_S
        return max(self._busy, min(arrivals * self.handling_s, soon))

    def _limit(self, reading: Reading) -> tuple[float, Limit]:
        """Return how many workers can help, as far as cores go."""
        if self._place == "process":
            return math.ceil(self._cores), "cores"
        if self._busy <= 0 or self._cpu <= 0:
            return math.inf, "cores"
        name: Limit = "cores"
        cores, least = self._cores, 1.0
        if self._place == "loop":
            cores, name = min(cores, 1.0), "loop"
        elif self._gil and reading.now - self._beyond_gil_at > _GIL_MEMORY_S:
            # The second thread is there to find out whether they release the GIL, which shows in the cores that two keep busy.
            cores, name, least = min(cores, 1.0), "gil", min(self._cores, 2.0)
        # A worker that computes for a share of its time leaves room for others in the rest.
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
            # By Little's law again: so many wait for so long, on average.
            waits = reading.queued > max(size, settings.target_wait * max(self.arrival_rate, self._handled_rate))
            self.limit = "order" if waits and not saturated and self.utilization < _SATURATED else None
        aim = max(settings.minimum, min(self.wanted, int(most))) if most < math.inf else max(settings.minimum, self.wanted)
        while self._peaks and self._peaks[-1][1] <= aim:
            self._peaks.pop()
        self._peaks.append((now, aim))
        while self._peaks[0][0] < now - _HOLD_MOST * settings.cool_down:
            self._peaks.popleft()
        if aim > size:
            # Between the target and halfway from it to all of their time, neither growing nor shrinking is worth it.
            noise = aim < self.wanted and self.limit in ("loop", "gil") and aim < size * _WORTH
            if (load > size * (1 + settings.target_utilization) / 2 and not noise) or size < settings.minimum:
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
            # They should not have gone. Who waits for the next wave costs less than coming and going with each.
            self._hold_s = min(2 * self._hold_s, _HOLD_MOST * cool_down)
        elif now - self._shrunk_at > 2 * _HOLD_MOST * cool_down:
            self._hold_s = cool_down
        self._changed_at = now
        if saturated:
            self._gain.grown(now, size, self._handled_rate, self.handling_s)
