"""A limit on how often something may happen, for messages sent and connections opened.

Sans-I/O: the caller brings the time, and does the waiting.
"""

from __future__ import annotations

from collections import deque
from typing import final

__all__ = ["Pace"]


@final
class Pace:
    """At most *count* moments in any *span_s* seconds.

    Args:
        count: how many; ``None``: no limit.
        span_s: the length of the window, in seconds.
    """

    __slots__ = ("_count", "_moments", "_span_s")

    def __init__(self, count: int | None, span_s: float) -> None:
        self._count = count
        self._span_s = span_s
        self._moments: deque[float] = deque(maxlen=count)

    def reserve(self, now: float) -> float:
        """Take the next moment that the limit allows, not before *now*, and return it.

        Each call takes one, so that several tasks can wait for theirs side by side.
        """
        if self._count is None:
            return now
        moment = now
        if len(self._moments) == self._count:
            moment = max(now, self._moments[0] + self._span_s)
        self._moments.append(moment)
        return moment
