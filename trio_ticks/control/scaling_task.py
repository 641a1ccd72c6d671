"""Runs a pool's :class:`~trio_ticks.control.scaling.SizeController`.

It samples the pool's counters four times a second, and hires or dismisses workers.

Rules: nothing here runs per tick. Each change of size is one line in the log, with the
numbers that it was decided by. So is a limit that keeps the pool from growing, when it
has lasted for a second.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol, final

import trio

from ..ledger import Ledger
from ..logs import LogLimit, log_event
from .cores import gil_enabled, usable_cores
from .scaling import AutoWorkers, Limit, Reading, SizeController
from .scaling_cpu import CpuMeter

__all__ = ["ScalingTask"]

logger = logging.getLogger("trio_ticks.scaling")

_SAMPLE_EVERY_S: Final = 0.25
_LASTING_S: Final = 1.0
"""How long a limit must have held to be logged."""
_LOG_LIMIT_EVERY_S: Final = 60.0
_LIMITS: Final[dict[Limit, str]] = {
    "maximum": "the maximum",
    "loop": "the event loop's one core is busy with them: threads or processes may do more",
    "gil": "threads share the core that runs Python code: processes may do more",
    "cores": "the usable cores are busy",
    "gain": "with more of them no more was handled: what is short is somewhere else",
    "order": "what waits belongs to symbols that are being handled, one tick at a time",
}


class _Statistics(Protocol):
    """The channel's numbers that are read here."""

    @property
    def open_send_channels(self) -> int: ...
    @property
    def current_buffer_used(self) -> int: ...
    @property
    def ready(self) -> int: ...
    @property
    def oldest_age_s(self) -> float: ...


class _Pool(Protocol):
    @property
    def ledger(self) -> Ledger: ...
    @property
    def statistics(self) -> Callable[[], _Statistics]: ...
    @property
    def place(self) -> Literal["loop", "thread", "process"]: ...
    @property
    def size(self) -> int: ...
    @property
    def is_held(self) -> bool: ...
    def busy_s(self, now: float) -> float: ...
    def life_s(self, now: float) -> float: ...
    def grow(self, count: int) -> None: ...
    def shrink(self, count: int) -> None: ...


@final
class ScalingTask:
    """The sizing of one pool.

    Args:
        settings: the bounds and targets.
        pool: the pool whose workers are hired and dismissed.
        now: the pipeline's time, in which the pool measures too.
        cores: how many cores are usable; found out unless given.
    """

    def __init__(
        self,
        settings: AutoWorkers,
        pool: _Pool,
        *,
        now: Callable[[], float],
        cores: float | None = None,
    ) -> None:
        self._pool = pool
        self._now = now
        self._meter = CpuMeter()
        self._controller = SizeController(
            settings, pool.place, usable_cores() if cores is None else cores, gil=gil_enabled()
        )
        self._scope = trio.CancelScope()
        self._wait_s = 0.0
        self._limit: Limit | None = None
        self._limit_since = -math.inf
        self._limits = LogLimit(now, _LOG_LIMIT_EVERY_S)
        self._changes = LogLimit(now)
        self._logged_size: int | None = None

    @property
    def wanted(self) -> int:
        """How many workers the load asks for, bounds and limits aside."""
        return self._controller.wanted

    @property
    def limit(self) -> Limit | None:
        """What keeps the pool from growing to ``wanted``."""
        return self._controller.limit

    def stop(self) -> None:
        """End :meth:`run`, since no worker is left."""
        self._scope.cancel()

    async def run(self) -> None:
        """Size the pool until it is stopped or the feed has ended.

        Ticks that are left when the feed has ended need no new workers.

        Cancellation: the pool stays as it is.
        """
        with self._scope, self._meter:
            while self._pool.statistics().open_send_channels:
                if not self._pool.is_held:  # A paused pool stays as large as it is.
                    self.sample()
                await trio.sleep(_SAMPLE_EVERY_S)

    def sample(self) -> None:
        """Read the pool's counters, and hire or dismiss."""
        pool, now = self._pool, self._now()
        size = pool.size
        wanted = self._controller.update(self._read(now, size))
        if wanted > size:
            pool.grow(wanted - size)
        elif wanted < size:
            pool.shrink(size - wanted)
        self._report_size(size, wanted)
        self._report_limit(now, wanted)

    def _read(self, now: float, size: int) -> Reading:
        pool, channel = self._pool, self._pool.statistics()
        ledger, drops = pool.ledger, pool.ledger.in_channel
        self._wait_s = channel.oldest_age_s
        loop_busy_s, loop_cpu_s, cpu_s = self._meter.read()
        return Reading(
            now=now,
            busy_s=pool.busy_s(now),
            life_s=pool.life_s(now),
            # No worker was meant to see ticks that a newer one replaced, or that were
            # held back because their book is lost.
            came=ledger.produced - drops.conflated - drops.held,
            handled=ledger.consumed + ledger.failed,
            loop_busy_s=loop_busy_s,
            loop_cpu_s=loop_cpu_s,
            cpu_s=cpu_s,
            size=size,
            in_flight=ledger.in_flight,
            # Only the first tick of a symbol's line can be begun; the ticks behind it
            # wait for it, however many workers are free.
            waiting=channel.ready,
            queued=channel.current_buffer_used,
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

    def _report_size(self, before: int, after: int) -> None:
        """Log how the size changed, at most once a second: a pool grows in steps."""
        if self._logged_size is None:
            self._logged_size = before
        if after != self._logged_size and self._changes.due("size"):
            self._log_change(self._logged_size, after)
            self._logged_size = after

    def _log_change(self, before: int, after: int) -> None:
        controller, limit = self._controller, self._controller.limit
        capped = (
            ""
            if limit is None or controller.wanted <= after
            else f"; {controller.wanted} wanted, but {_LIMITS[limit]}"
        )
        log_event(
            logger,
            logging.INFO,
            "workers.grown" if after > before else "workers.shrunk",
            "%d -> %d (%s%s)",
            before,
            after,
            self._text(),
            capped,
            workers=after,
            was=before,
            **self._facts(),
        )

    def _report_limit(self, now: float, size: int) -> None:
        limit = self._controller.limit
        if limit != self._limit:
            self._limit, self._limit_since = limit, now
        if limit is None or now - self._limit_since < _LASTING_S or not self._limits.due(limit):
            return
        wanted = "more would not help" if limit == "order" else f"{self._controller.wanted} wanted"
        log_event(
            logger,
            logging.INFO,
            "workers.limited",
            "%d, %s: %s (%s)",
            size,
            wanted,
            _LIMITS[limit],
            self._text(),
            workers=size,
            **self._facts(),
        )

    def _text(self) -> str:
        controller = self._controller
        return (
            f"{controller.arrival_rate:.4g} ticks/s, {controller.handling_s * 1e3:.3g} ms each, "
            f"{controller.utilization:.0%} busy, "
            f"{self._wait_s:.3g} s in the queue"
        )
