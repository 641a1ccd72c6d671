"""How long the event loop was busy, and how much of a core it and all threads had.

Rules: it reads the clock twice each time that the loop goes to wait, and does nothing
per tick. It is an instrument of trio only while a pool sizes itself.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import final

import trio

from ..clock import time_is_virtual

__all__ = ["CpuMeter"]


@final
class CpuMeter(trio.abc.Instrument):
    """Watches the event loop while its ``with`` block runs.

    On a virtual clock, where only sleeping takes time, it measures nothing.
    """

    def __init__(self) -> None:
        self._real = not time_is_virtual()
        self._began = self._waits_since = time.perf_counter()
        self._waited_s = 0.0

    def __enter__(self) -> CpuMeter:
        if self._real:
            trio.lowlevel.add_instrument(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._real:
            trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """Called by trio."""
        self._waits_since = time.perf_counter()

    def after_io_wait(self, timeout: float) -> None:
        """Called by trio."""
        if timeout > 0:
            self._waited_s += time.perf_counter() - self._waits_since

    def read(self) -> tuple[float, float, float]:
        """Return three durations, in seconds; call it in the loop's thread.

        Returns:
            How long the loop was busy, how long its thread had a core, and how long all
            threads together had one.
        """
        if not self._real:
            return 0.0, 0.0, 0.0
        return (
            time.perf_counter() - self._began - self._waited_s,
            time.thread_time(),
            time.process_time(),
        )
