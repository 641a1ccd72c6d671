"""Runs a pool's :class:`~trio_ticks.scaling.SizeController`: reads the pool's counters a few times a second, and hires or dismisses.

Rules: nothing here runs per tick. Each change is one line in the log, with what it was decided by; so is a limit that keeps the pool from
growing, when it has lasted for a moment.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Final, Protocol, final

import trio

from .channel_state import ChannelState
from .cores import gil_enabled, usable_cores
from .executors import Place
from .scaling import AutoWorkers, Limit, Reading, SizeController
from .scaling_cpu import CpuMeter

__all__ = ["ScalingTask"]

logger = logging.getLogger("trio_ticks.scaling")

_LOOK_EVERY_S: Final = 0.25
_LASTING_S: Final = 1.0
"""How long a limit must have held to be logged."""
_LOG_LIMIT_EVERY_S: Final = 60.0
_LOG_CHANGE_EVERY_S: Final = 1.0
_LIMITS: Final[dict[Limit, str]] = {
    "maximum": "the maximum",
    "loop": "the event loop's one core is busy with them: threads or processes may do more",
    "gil": "threads share the core that runs Python code: processes may do more",
    "cores": "the usable cores are busy",
    "gain": "with more of them no more was handled: what is short is somewhere else",
    "order": "what waits belongs to symbols that are being handled, one tick at a time",
}


class _Pool(Protocol):
    @property
    def state(self) -> ChannelState[Any]: ...
    @property
    def place(self) -> Place: ...
    @property
    def size(self) -> int: ...
    def busy_s(self, now: float) -> float: ...
    def life_s(self, now: float) -> float: ...
    def grow(self, count: int) -> None: ...
    def shrink(self, count: int) -> None: ...


@final
class ScalingTask:
    """The sizing of one pool.

    Args:
        settings: the bounds and targets.
        pool: whose workers.
        cores: how many cores are usable; looked up unless given.
    """

    def __init__(self, settings: AutoWorkers, pool: _Pool, *, cores: float | None = None) -> None:
        self._pool = pool
        self._state = pool.state
        self._meter = CpuMeter()
        self._controller = SizeController(settings, pool.place, usable_cores() if cores is None else cores, gil=gil_enabled())
        self._scope = trio.CancelScope()
        self._wait_s = 0.0
        self._limit: Limit | None = None
        self._limit_since = -math.inf
        self._logged: dict[Limit, float] = {}
        self._told: int | None = None
        self._tell_at = -math.inf

    @property
    def wanted(self) -> int:
        """How many workers the load asks for; the bounds, and what limits them, aside."""
        return self._controller.wanted

    @property
    def limit(self) -> Limit | None:
        """What keeps the pool from growing to that."""
        return self._controller.limit

    def stop(self) -> None:
        """Say that no worker is left."""
        self._scope.cancel()

    async def run(self) -> None:
        """Size the pool until it is stopped, or the feed has ended: what is left then needs nobody new.

        Cancellation: the pool stays as it is.
        """
        with self._scope, self._meter:
            while self._state.open_senders:
                self.look()
                await trio.sleep(_LOOK_EVERY_S)

    def look(self) -> None:
        """Read the pool's counters, and hire or dismiss."""
        pool, now = self._pool, trio.current_time()
        size = pool.size
        wanted = self._controller.update(self._read(now, size))
        if wanted > size:
            pool.grow(wanted - size)
        elif wanted < size:
            pool.shrink(size - wanted)
        self._look_at_size(now, size, wanted)
        self._look_at_limit(now, wanted)

    def _read(self, now: float, size: int) -> Reading:
        state, pool = self._state, self._pool
        ledger, drops = state.ledger, state.ledger.in_channel
        arrivals = [state.buffer.oldest_arrival()] if state.buffer else []
        parked = state.lanes.oldest_arrival()
        if parked is not None:
            arrivals.append(parked)
        self._wait_s = now - min(arrivals, default=now)
        loop_busy_s, loop_cpu_s, cpu_s = self._meter.read()
        return Reading(
            now=now,
            busy_s=pool.busy_s(now),
            life_s=pool.life_s(now),
            # What a newer tick replaced, or a book that is lost holds back, no worker was meant to see.
            came=ledger.produced - drops.conflated - drops.held,
            handled=ledger.consumed + ledger.failed,
            loop_busy_s=loop_busy_s,
            loop_cpu_s=loop_cpu_s,
            cpu_s=cpu_s,
            size=size,
            in_flight=ledger.in_flight,
            # Of a lane that is ready one tick can be begun; what waits behind a symbol that is being handled cannot.
            waiting=len(state.buffer) + len(state.lanes.ready),
            queued=state.queued,
            wait_s=self._wait_s,
        )

    def _facts(self) -> dict[str, Any]:
        controller = self._controller
        return {
            "wanted": controller.wanted,
            "arrival_rate": controller.arrival_rate,
            "handling_ms": controller.handling_s * 1e3,
            "utilization": controller.utilization,
            "queue_wait_s": self._wait_s,
            "limit": controller.limit,
        }

    def _look_at_size(self, now: float, before: int, after: int) -> None:
        """Log how the size has changed, at most once a second: a pool that grows does so in some steps."""
        if self._told is None:
            self._told = before
        if after != self._told and now >= self._tell_at:
            self._log_change(self._told, after)
            self._told, self._tell_at = after, now + _LOG_CHANGE_EVERY_S

    def _log_change(self, before: int, after: int) -> None:
        controller, limit = self._controller, self._controller.limit
        capped = "" if limit is None or controller.wanted <= after else f"; {controller.wanted} wanted, but {_LIMITS[limit]}"
        logger.info(
            "workers.%s: %d -> %d (%s%s)",
            "grown" if after > before else "shrunk",
            before,
            after,
            self._text(),
            capped,
            extra={"workers": after, "was": before, **self._facts()},
        )

    def _look_at_limit(self, now: float, size: int) -> None:
        limit = self._controller.limit
        if limit != self._limit:
            self._limit, self._limit_since = limit, now
        if limit is None or now - self._limit_since < _LASTING_S or now - self._logged.get(limit, -math.inf) < _LOG_LIMIT_EVERY_S:
            return
        self._logged[limit] = now
        wanted = "more would not help" if limit == "order" else f"{self._controller.wanted} wanted"
        logger.info(
            "workers.limited: %d, %s: %s (%s)", size, wanted, _LIMITS[limit], self._text(), extra={"workers": size, **self._facts()}
        )

    def _text(self) -> str:
        controller = self._controller
        return (
            f"{controller.arrival_rate:.4g} ticks/s, {controller.handling_s * 1e3:.3g} ms each, {controller.utilization:.0%} busy, "
            f"{self._wait_s:.3g} s in the queue"
        )
