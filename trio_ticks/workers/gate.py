"""The gate at which the workers of a paused pool wait.

Rules: a worker comes to the gate before each tick, or batch, that it takes. What it has
begun it finishes. At the end of the channel nothing is kept behind the gate, so a
worker passes if nothing is queued then: it has nothing to do but to end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import trio

from .worker import Worker

__all__ = ["Gate"]


@final
class Gate:
    """Open at first; while it is closed, workers wait before their next tick.

    Args:
        is_over: tells whether nothing is queued, and nothing more can come.
    """

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over
        self.closed = False
        """Whether the pool is paused. Whoever sets it interrupts the crew."""
        self._stirred = trio.Event()

    def stir(self) -> None:
        """Have those who wait see whether they may pass now."""
        stirred, self._stirred = self._stirred, trio.Event()
        stirred.set()

    async def passed(self, worker: Worker[Any]) -> None:
        """Wait until *worker* may take its next tick, or is to leave.

        It counts as idle meanwhile.

        Cancellation: *worker* holds no tick here. A checkpoint only if it waits.
        """
        while self.closed and not worker.leaving and not self._is_over():
            worker.rest()
            try:
                await self._stirred.wait()
            finally:
                worker.resume()
