"""The latencies that a pool's workers share.

A timestamp from the future tells nothing of a latency: a single one of the year 9999
would move the mean of a run by thousands of years. So it is counted, and not recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..clock import Clock
from ..offsets import ClockOffset
from ..ticks import MarketData
from .latency import LatencyWindow

__all__ = ["Meters"]

_AHEAD_S: Final = 3.0
"""A timestamp that is farther ahead of its venue's clock, in seconds, is from the
future.

Venues in one pipeline may differ by less, and timestamps of whole seconds do too.
"""
_FIRST_AHEAD_S: Final = 86_400.0
"""As above, but ahead of our clock, before the venue's clock is known.

A clock set to the local time of another zone is less than a day off.
"""
_SAMPLE_EVERY_S: Final = 0.005
"""How often the venue's clock is looked at, at most, in seconds.

Which items are looked at must not depend on their timestamps, or the odd ones would
weigh more. To look each time would cost a third more than the measurements do.
"""


class Meters:
    """The latencies of a pool.

    Every tick is timed, unless quick ticks follow each other densely: then one in 256
    is timed, on average, and at least two hundred a second.

    Args:
        clock: the pipeline's, for the wall time that a tick's timestamp is compared
            with.
    """

    def __init__(self, clock: Clock) -> None:
        self.lag = LatencyWindow()
        self.wait = LatencyWindow()
        self.handler = LatencyWindow()
        self.hand_over = LatencyWindow()
        """What a batch costs beside its handler.

        The time until a thread or a process has begun the batch, and from its end until
        its outcome is known here.
        """
        self.end_to_end = LatencyWindow()
        """From a tick's own timestamp to the end of its handling."""
        self.from_future = 0
        """Timed ticks whose timestamp was from the future: ``lag`` and ``end_to_end``
        do not hold them."""
        self.advice: Mapping[str, float] = {}
        """Which share of the ticks other settings would have lost, by what is changed;
        empty while there is nothing to advise. See ``pipeline/advising.py``."""
        self._clock = clock
        self._offset = ClockOffset()
        self._sample_at = -math.inf

    def report_to(self, listener: Callable[[Any, float, float, float], None]) -> None:
        """Have *listener* called as :meth:`handled` is, after it, from now on."""
        record = self.handled

        def handled(item: MarketData, arrived: float, began: float, ended: float) -> None:
            record(item, arrived, began, ended)
            listener(item, arrived, began, ended)

        # Not a list of listeners: without one, a handling costs nothing more.
        self.handled = handled  # type: ignore[method-assign]

    def taken(self, item: MarketData, arrived: float, now: float) -> None:
        """Record how old *item* is and how long it waited, at the moment *now*."""
        self.wait.record(now - arrived, now)
        happened = self._clock.happened(item.timestamp.timestamp())
        if self._is_plausible(happened, arrived, now):
            self.lag.record(now - happened, now)

    def handled(self, item: MarketData, arrived: float, began: float, ended: float) -> None:
        """Record one handling, after its end: the handler need not wait for that."""
        self.wait.record(began - arrived, ended)
        self.handler.record(ended - began, ended)
        # A feed that plays a recording may have moved the wall time since the last
        # item.
        happened = self._clock.happened(item.timestamp.timestamp())
        if self._is_plausible(happened, arrived, ended):
            self.lag.record(began - happened, ended)
            self.end_to_end.record(ended - happened, ended)

    def _is_plausible(self, happened: float, arrived: float, now: float) -> bool:
        """Tell whether an item that arrived at *arrived* can have happened at
        *happened*.

        If not, count it. A venue whose clock stays ahead is believed after some items.
        """
        offset = self._offset
        way_s = arrived - happened
        if way_s != way_s:
            return False  # of a recording that is played without a pace: it has no lag
        if now >= self._sample_at:
            self._sample_at = now + _SAMPLE_EVERY_S
            offset.observe(way_s, now)
        least_s = offset.offset_s - _AHEAD_S if offset.offset_s < math.inf else -_FIRST_AHEAD_S
        if way_s >= least_s:
            return True
        self.from_future += 1
        return False
