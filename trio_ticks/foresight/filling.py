"""A feed that keeps the queue full, and wakes the event loop as often as a real one.

A handler is measured with a queue that is always full, so its feed has no reason to
wake when a tick would come. In the pipeline that is planned each arrival wakes the
loop, and a handler that waits is then woken earlier, too: see ``bell.py``. What waking
up costs the core is paid in that pipeline as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, final

import trio

from ..simulation.loads import Load
from .bell import APART_S, Bell

__all__ = ["FillingFeed", "busiest_arrivals"]

_CHUNK: Final = 64


@final
class FillingFeed:
    """Brings the items of a sample in order, again and again, until it is stopped.

    Args:
        items: the sample.
        arrivals: when ticks come in the pipeline that is planned, in seconds from any
            moment: so often it wakes the loop, again and again.
    """

    def __init__(self, items: Sequence[Any], arrivals: Sequence[float]) -> None:
        self._items = items
        self._arrivals = _apart(arrivals)
        self.stopped = False

    async def run(self, send: Any) -> None:
        """Send until stopped.

        Cancellation: what was not sent is not.
        """
        async with trio.open_nursery() as nursery:
            if len(self._arrivals) > 1:
                nursery.start_soon(self._wake)
            await self._fill(send)
            nursery.cancel_scope.cancel()

    async def _fill(self, send: Any) -> None:
        while True:
            for begin in range(0, len(self._items), _CHUNK):
                if self.stopped:
                    return
                await send.send_many(self._items[begin : begin + _CHUNK])

    async def _wake(self) -> None:
        bell = Bell(self.moments(trio.current_time()))
        with bell.ringing():
            while True:
                await bell.wait(math.inf)

    def moments(self, began: float) -> Iterator[float]:
        """Yield when to wake: at all arrivals, and again and again behind the last."""
        arrivals = self._arrivals
        first, span_s = arrivals[0], arrivals[-1] - arrivals[0]
        for lap in itertools.count():
            begin = began + lap * span_s - first
            for each in arrivals:
                yield begin + each


def busiest_arrivals(load: Load, window_s: float) -> Sequence[float]:
    """Return when the ticks of *load* come in its busiest *window_s* seconds."""
    rate, first = load.busiest(window_s)
    return load.times[first : first + round(rate * window_s)]


def _apart(arrivals: Sequence[float]) -> list[float]:
    """Return those of *arrivals* that a bell tells apart."""
    kept: list[float] = []
    for each in arrivals:
        if not kept or each - kept[-1] >= APART_S:
            kept.append(each)
    return kept
