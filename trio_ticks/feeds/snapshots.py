"""Decides when to ask a feed for a fresh snapshot of which book. Sync, without a clock.

Rules: until a symbol's snapshot has come, it is asked for again, but only after a
while. The memory is bounded by the symbols asked for within that while.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final, final

__all__ = ["SnapshotRequests"]

_AGAIN_AFTER_S: Final = 5.0
"""How long after a request the same symbol may be asked for again, in seconds."""


@final
class SnapshotRequests:
    """Remembers when each symbol was asked for last.

    Args:
        again_after_s: how long after a request the same symbol may be asked for again,
            in seconds.
    """

    def __init__(self, again_after_s: float = _AGAIN_AFTER_S) -> None:
        self._again_after_s = again_after_s
        self._asked: dict[str, float] = {}

    def __len__(self) -> int:
        """Return how many symbols are kept."""
        return len(self._asked)

    def take_due(self, wanted: Collection[str], now: float) -> list[str]:
        """Return the symbols of *wanted* to ask for now, as asked for at *now*."""
        again = self._again_after_s
        # The same sum as in next_at: if it were rounded in another way, a wait until
        # next_at could end before a symbol is due, and begin again without end.
        self._asked = {symbol: at for symbol, at in self._asked.items() if at + again > now}
        due = sorted(symbol for symbol in wanted if symbol not in self._asked)
        self._asked.update(dict.fromkeys(due, now))
        return due

    def next_at(self, wanted: Collection[str]) -> float:
        """Return when the next symbol of *wanted* may be asked for.

        ``-math.inf`` if one was never asked for, ``math.inf`` if none is wanted.
        """
        return min(
            (self._asked.get(symbol, -math.inf) + self._again_after_s for symbol in wanted),
            default=math.inf,
        )
